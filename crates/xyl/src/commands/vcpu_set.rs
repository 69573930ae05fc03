//! `xyl vcpu-set`: how many vCPUs a domain is to use.

use xyl_engine::Host;
use xyl_engine::supervise::requests::Request;

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
    let mut host = context.open_host()?;
    let info = context.find_on(&mut host, &args.domain)?.info;
    if !args.ignore_host {
        check_host(args, &host, info.nr_online_vcpus)?;
    }
    let nr_vcpus = args.nr_vcpus;
    context.change_on(&mut host, &info, &Request::Vcpus { nr_vcpus }, |domid| {
        format!("set domain {domid} to {nr_vcpus} vCPUs")
    })
}

fn check_host(args: &Args, host: &Host, nr_online: u32) -> Outcome {
    let nr_cpus = host.hv.phys_info()?.max_cpu_id.saturating_add(1);
    if args.nr_vcpus > nr_online && args.nr_vcpus > nr_cpus {
        return Err(Failure::refused(format!(
            "{} vCPUs are more than this host's {nr_cpus} CPUs: repeat with --ignore-host if that is meant",
            args.nr_vcpus
        )));
    }
    Ok(())
}
