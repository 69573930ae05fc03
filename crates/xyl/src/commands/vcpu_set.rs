//! `xyl vcpu-set`: sets how many vCPUs a domain uses.

use xen_port::DomainInfo;
use xyl_engine::Host;
use xyl_engine::supervise::requests::{self, Request};

use crate::complete::{domain_names, vcpu_counts};
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Set how many vCPUs a domain is to use
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest switches its vCPUs on and off itself, when it reads the number in xenstore.

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
    #[arg(value_name = "VCPUS", add = vcpu_counts())]
    nr_vcpus: u32,
}

/// Runs `xyl vcpu-set`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let info = context.find_on(&mut host, &args.domain)?.info;
    let nr_vcpus = args.nr_vcpus;
    let request = Request::Vcpus { nr_vcpus };
    if !args.ignore_host && nr_vcpus > info.nr_online_vcpus {
        refuse_more_than_host(&mut host, &info, nr_vcpus)?;
    }
    context.change_on(&mut host, &info, &request, |domid| {
        format!("set domain {domid} to {nr_vcpus} vCPUs")
    })
}

/// Refuses more vCPUs than the host has CPUs. The configuration's limit comes first: no option helps against it.
fn refuse_more_than_host(host: &mut Host, info: &DomainInfo, nr_vcpus: u32) -> Outcome {
    let nr_cpus = host.hv.phys_info()?.max_cpu_id.saturating_add(1);
    if nr_vcpus <= nr_cpus {
        return Ok(());
    }
    requests::check(host, info, &Request::Vcpus { nr_vcpus })?;
    Err(Failure::refused(format!(
        "{nr_vcpus} vCPUs are more than this host's {nr_cpus} CPUs: repeat with --ignore-host if that is meant"
    )))
}
