//! `xyl vcpu-pin`: sets the CPU affinity of vCPUs.

use xen_port::{CpuMap, GuestKind, VcpuId};
use xl_cfg::types::CpuList;
use xyl_engine::control::vcpus;
use xyl_engine::supervise::requests::{self, Request};

use crate::complete::{cpu_lists, domain_names, vcpu_numbers};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use xyl_host::xl_conf;

/// Set which CPUs a vCPU may use, and which it prefers
#[derive(Debug, clap::Args)]
#[command(
    after_help = "CPUs are numbers and ranges with commas between: 0-3,^1,8; node:0 means all CPUs of a NUMA \
node, `all` all CPUs, `-` leaves an affinity as it is.

Examples:
  xyl vcpu-pin web 0 2-3       vCPU 0 may run on the CPUs 2 and 3 only
  xyl vcpu-pin web all - 4-7   all vCPUs prefer the CPUs 4 to 7"
)]
pub struct Args {
    /// Override a temporary pinning that the guest's kernel asked for
    #[arg(short, long)]
    force: bool,
    /// Do not apply the masks of xl.conf
    #[arg(short, long)]
    ignore_global_affinity_masks: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The vCPU's number, or all
    #[arg(add = vcpu_numbers(true))]
    vcpu: String,
    /// CPUs it may use
    #[arg(allow_hyphen_values = true, add = cpu_lists())]
    hard: String,
    /// CPUs it prefers
    #[arg(allow_hyphen_values = true, add = cpu_lists())]
    soft: Option<String>,
}

/// Runs `xyl vcpu-pin`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let only = parse_vcpu(&args.vcpu)?;
    if args.force && only.is_none() {
        return Err(Failure::usage(
            "--force needs the number of one vCPU, not `all`",
        ));
    }
    let hard = parse_cpus(context, &args.hard)?;
    let soft = args
        .soft
        .as_deref()
        .map_or(Ok(None), |text| parse_cpus(context, text))?;
    let domain = context.find(&args.domain)?;
    let hard = match hard {
        Some(cpus) if !args.ignore_global_affinity_masks => {
            Some(masked(context, domain.info.kind(), cpus)?)
        }
        other => other,
    };
    let mut host = context.open_host()?;
    let request = Request::Pin {
        vcpus: vcpus::chosen(&domain.info, only)?,
        hard,
        soft,
        force: args.force,
    };
    if context.dry_run() {
        requests::check(&mut host, &domain.info, &request)?;
        return print_plan(context, &request);
    }
    requests::ask_for(&mut host, &domain.info, &request)?;
    context.count(&host);
    Ok(())
}

fn parse_vcpu(text: &str) -> Result<Option<VcpuId>, Failure> {
    match text {
        "all" => Ok(None),
        number => number
            .parse()
            .map(|id| Some(VcpuId(id)))
            .map_err(|_| Failure::usage(format!("`{text}` is no vCPU: give its number, or `all`"))),
    }
}

/// Help about the syntax of CPU lists.
const CPUS_HELP: &str =
    "write numbers and ranges with commas between (0-3,^1,8), node:0, all, or - for no change";

fn parse_cpus(context: &Context, text: &str) -> Result<Option<CpuMap>, Failure> {
    if text == "-" {
        return Ok(None);
    }
    let list: CpuList = text
        .parse()
        .map_err(|error| Failure::usage(format!("{error}: {CPUS_HELP}")))?;
    let cpus = vcpus::resolve(context.hv()?, &list)?;
    if cpus.is_empty() {
        return Err(Failure::refused(format!(
            "`{text}` names no CPU that is online on this host: {CPUS_HELP}; `xyl info -n` lists the CPUs"
        )));
    }
    Ok(Some(cpus))
}

/// Restricts CPUs to the masks of xl.conf for this kind of guest.
fn masked(context: &Context, kind: GuestKind, cpus: CpuMap) -> Result<CpuMap, Failure> {
    let mut left = cpus;
    for mask in xl_conf::cpu_masks(context.xl_conf()?, kind) {
        let mask = vcpus::resolve(context.hv()?, mask)?;
        left = left.iter().filter(|cpu| mask.contains(*cpu)).collect();
    }
    if left.is_empty() {
        return Err(Failure::refused(
            "the masks of xl.conf (vm.cpumask, vm.hvm.cpumask, vm.pv.cpumask) leave no CPU: choose others, \
             or repeat with --ignore-global-affinity-masks",
        ));
    }
    Ok(left)
}

/// Prints what a dry run would set, as xl does.
fn print_plan(context: &Context, request: &Request) -> Outcome {
    let Request::Pin { hard, soft, .. } = request else {
        return Ok(());
    };
    let nr_cpus = context.hv()?.phys_info()?.max_cpu_id + 1;
    let hard = hard
        .as_ref()
        .map_or("-".to_owned(), |cpus| cpus.display(nr_cpus));
    let soft = soft
        .as_ref()
        .map_or(String::new(), |cpus| format!(" {}", cpus.display(nr_cpus)));
    Ok(context.out.line(format!("cpumap: {hard}{soft}"))?)
}
