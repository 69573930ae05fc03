//! `xyl block-detach`: takes a disk from a running domain.

use xyl_engine::supervise::requests::{self, Request};

use super::block_attach::DISK;
use crate::complete::{disk_names, domain_names};
use crate::context::Context;
use crate::error::Outcome;

/// Detach a disk from a running domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest is asked to let the disk go, and has 10 s for that. If it is about to connect the disk, it has up to 5 s for that first. If it needs longer, the command fails, and the VM's \
monitor detaches the disk as soon as the guest lets it go. With --force the guest is not asked: what it has not written yet is lost.

Examples:
  xyl block-detach web xvdb
  xyl block-detach web 51728
  xyl block-detach --force web xvdb"
)]
pub struct Args {
    /// Do not wait for the domain to release the disk
    #[arg(short, long)]
    force: bool,
    /// Only check whether it can be detached
    #[arg(short = 'd', long)]
    dryrun: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The disk: its name in the guest, its number, or the path of its image
    #[arg(value_name = "DEVICE", add = disk_names())]
    device: String,
}

/// Runs `xyl block-detach`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let info = context.find_on(&mut host, &args.domain)?.info;
    let what = format!("detach disk `{}` from domain {}", args.device, info.domid);
    let request = Request::DetachDevice {
        kind: DISK.to_owned(),
        device: args.device.clone(),
        force: args.force,
    };
    if args.dryrun {
        requests::check(&mut host, &info, &request)?;
        return context.would_with(what);
    }
    context.change_on(&mut host, &info, &request, |_| what)
}
