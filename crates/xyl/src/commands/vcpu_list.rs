//! `xyl vcpu-list`: lists the vCPUs of domains, with their CPUs and affinities.

use serde_json::{Value, json};
use xen_port::{DomainInfo, VcpuRunState};
use xyl_engine::control::vcpus::{self, Vcpu};
use xyl_engine::vm::domains;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::{left, right, seconds};
use crate::shown;

/// List the vCPUs of all or some domains
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl vcpu-list
  xyl vcpu-list web db

JSON: an array of {domid, name, vcpu, online, cpu, state (running, blocked, runnable, \
offline), cpu_time_ns, hard_affinity, soft_affinity}; affinities are arrays of CPUs")]
pub struct Args {
    /// Only these domains
    #[arg(value_name = "DOMAIN", add = domain_names())]
    domains: Vec<String>,
}

/// Runs `xyl vcpu-list`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let infos = chosen(args, context)?;
    let names = context.names_or_warning(&infos);
    let nr_cpus = context.hv()?.phys_info()?.max_cpu_id + 1;
    if context.json() {
        return print_json(context, &infos, &names, nr_cpus);
    }
    context.out.line(format!(
        "{} {:>5} {:>5} {:>5} {:>5} {:>9} {}",
        left("Name", 32),
        "ID",
        "VCPU",
        "CPU",
        "State",
        "Time(s)",
        "Affinity (Hard / Soft)"
    ))?;
    for (info, name) in infos.iter().zip(&names) {
        for vcpu in vcpus::list(context.hv()?, info)? {
            context
                .out
                .line(row(info, name.as_deref(), &vcpu, nr_cpus))?;
        }
    }
    Ok(())
}

fn chosen(args: &Args, context: &Context) -> Result<Vec<DomainInfo>, Failure> {
    if args.domains.is_empty() {
        return Ok(domains::list(context.hv()?)?);
    }
    args.domains
        .iter()
        .map(|asked| Ok(context.find(asked)?.info))
        .collect()
}

fn row(info: &DomainInfo, name: Option<&str>, vcpu: &Vcpu, nr_cpus: u32) -> String {
    let place = match vcpu.info.state {
        VcpuRunState::Offline => "    -   --p ".to_owned(),
        state => format!("{:5}   {}- ", vcpu.info.cpu, run_letters(state)),
    };
    format!(
        "{} {:5} {:5}{place}{}  {} / {}",
        left(&shown::cell(name), 32),
        info.domid.0,
        vcpu.id.0,
        right(&seconds(vcpu.info.cpu_time_ns), 9),
        vcpu.hard.display(nr_cpus),
        vcpu.soft.display(nr_cpus),
    )
}

fn run_letters(state: VcpuRunState) -> &'static str {
    match state {
        VcpuRunState::Running => "r-",
        VcpuRunState::Blocked => "-b",
        VcpuRunState::Runnable | VcpuRunState::Offline => "--",
    }
}

fn state_name(state: VcpuRunState) -> &'static str {
    match state {
        VcpuRunState::Running => "running",
        VcpuRunState::Blocked => "blocked",
        VcpuRunState::Runnable => "runnable",
        VcpuRunState::Offline => "offline",
    }
}

fn print_json(
    context: &Context,
    infos: &[DomainInfo],
    names: &[Option<String>],
    nr_cpus: u32,
) -> Outcome {
    let mut array = Vec::new();
    for (info, name) in infos.iter().zip(names) {
        for vcpu in vcpus::list(context.hv()?, info)? {
            let state = vcpu.info.state;
            array.push(json!({
                "domid": info.domid.0,
                "name": name,
                "vcpu": vcpu.id.0,
                "online": state != VcpuRunState::Offline,
                "cpu": vcpu.info.cpu,
                "state": state_name(state),
                "cpu_time_ns": vcpu.info.cpu_time_ns,
                "hard_affinity": vcpu.hard.iter().take_while(|cpu| *cpu < nr_cpus).collect::<Vec<_>>(),
                "soft_affinity": vcpu.soft.iter().take_while(|cpu| *cpu < nr_cpus).collect::<Vec<_>>(),
            }));
        }
    }
    Ok(context.out.json(&Value::Array(array))?)
}

#[cfg(test)]
mod tests {
    use xen_port::{CpuMap, DomId, VcpuId, VcpuInfo};

    use super::*;

    fn info(domid: u16) -> DomainInfo {
        DomainInfo {
            domid: DomId(domid),
            nr_online_vcpus: 1,
            max_vcpu_id: Some(1),
            ..DomainInfo::default()
        }
    }

    fn vcpu(id: u32, state: VcpuRunState, cpu_time_ns: u64) -> Vcpu {
        Vcpu {
            id: VcpuId(id),
            info: VcpuInfo {
                state,
                cpu_time_ns,
                cpu: 0,
            },
            hard: CpuMap::all(4096),
            soft: CpuMap::all(4096),
        }
    }

    /// Compares rows with lines that `xl vcpu-list` printed on Xen 4.17.
    #[test]
    fn rows_are_those_of_xl() {
        assert_eq!(
            row(
                &info(0),
                Some("Domain-0"),
                &vcpu(0, VcpuRunState::Running, 17_500_000_000),
                1
            ),
            "Domain-0                             0     0    0   r--      17.5  all / all"
        );
        assert_eq!(
            row(
                &info(1),
                Some("quiet"),
                &vcpu(0, VcpuRunState::Runnable, 0),
                1
            ),
            "quiet                                1     0    0   ---       0.0  all / all"
        );
        assert_eq!(
            row(
                &info(2),
                Some("quiet"),
                &vcpu(1, VcpuRunState::Offline, 0),
                1
            ),
            "quiet                                2     1    -   --p       0.0  all / all"
        );
    }
}
