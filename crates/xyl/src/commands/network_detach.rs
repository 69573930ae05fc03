//! `xyl network-detach`: takes a network interface from a running domain.

use uuid::Uuid;
use xyl_engine::supervise::requests::Request;

use super::network_list::NIC;
use super::recover;
use crate::complete::{domain_names, nic_names};
use crate::context::Context;
use crate::error::Outcome;

/// Detach a network interface from a running domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest is asked to let the interface go, and has 10 s for that. If it is about to connect the interface, it has up to 5 s for that first. After them the interface is taken away, as with xl.

Examples:
  xyl network-detach web 1
  xyl network-detach web 00:16:3e:00:00:01"
)]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The interface: its number or its address
    #[arg(value_name = "DEVID|MAC", add = nic_names())]
    nic: String,
}

/// Runs `xyl network-detach`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let request = Request::DetachDevice {
        kind: NIC.to_owned(),
        device: args.nic.clone(),
        force: false,
    };
    let would = |domid| {
        format!(
            "detach network interface `{}` from domain {domid}",
            args.nic
        )
    };
    // A monitor without the right to run the interface's script ends.
    context.change_and(&args.domain, &request, would, |info| {
        recover::replace_ended_monitor(context, Uuid::from_bytes(info.handle));
    })
}
