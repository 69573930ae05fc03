//! `xyl vcpu-set`: how many vCPUs a domain is to use.

use xyl_engine::vcpus;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Set how many vCPUs a domain is to use
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest brings vCPUs up and down itself when it sees the wish in xenstore.

Examples:
  xyl vcpu-set web 2"
)]
pub struct Args {
    /// Allow more vCPUs than the host has CPUs
    #[arg(short, long)]
    ignore_host: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// Number of vCPUs, from 1 to the configuration's maxvcpus
    #[arg(value_name = "VCPUS")]
    nr_vcpus: u32,
}

/// Runs `xyl vcpu-set`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domain = context.find(&args.domain)?;
    if !args.ignore_host {
        check_host(args, context, domain.info.nr_online_vcpus)?;
    }
    if context.would(format!(
        "set domain {} to {} vCPUs",
        domain.info.domid, args.nr_vcpus
    ))? {
        return Ok(());
    }
    Ok(vcpus::set_online(
        &mut *context.store()?,
        &domain.info,
        args.nr_vcpus,
    )?)
}

fn check_host(args: &Args, context: &Context, nr_online: u32) -> Outcome {
    let nr_cpus = context.hv()?.phys_info()?.max_cpu_id + 1;
    if args.nr_vcpus > nr_online && args.nr_vcpus > nr_cpus {
        return Err(Failure::refused(format!(
            "{} vCPUs are more than this host's {nr_cpus} CPUs: repeat with --ignore-host if that is meant",
            args.nr_vcpus
        )));
    }
    Ok(())
}
