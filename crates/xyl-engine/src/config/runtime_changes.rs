//! Changes of a VM while it ran: name, memory, vCPUs in use, CPU share. A restart applies them to the next domain, as
//! xl does.

use xen_port::{DomainInfo, SchedulerParams};
use xenstore::{Batch, Tree};
use xl_cfg::types::{NameRule, VmName};

use crate::vm::domains::home;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// KiB of a MiB, the unit of memory in a configuration.
const KIB_PER_MIB: u64 = 1024;
/// Xen's default weight, under credit and credit2.
const DEFAULT_WEIGHT: u16 = 256;
const DEFAULT_CAP: u16 = 0;

/// Applies runtime changes to the specification of the create. Invalid values are ignored.
pub(crate) fn lay_over(
    host: &mut Host,
    info: &DomainInfo,
    spec: &mut VmSpec,
) -> Result<(), EngineError> {
    let mut batch = Batch::new();
    let name = batch.read_opt(&home(info.domid, "name")?);
    let target = batch.read_opt(&home(info.domid, "memory/target")?);
    let max = batch.read_opt(&home(info.domid, "memory/static-max")?);
    let mut vcpus = Vec::new();
    for vcpu in 0..spec.max_vcpus {
        let node = format!("cpu/{vcpu}/availability");
        vcpus.push(batch.read_opt(&home(info.domid, &node)?));
    }
    let replies = host.store.run(&batch)?;
    let text = |index| std::str::from_utf8(replies.value(index)?).ok();
    if let Some(name) = text(name).filter(|name| VmName::parse(name, NameRule::Any).is_ok()) {
        spec.name = name.to_owned();
    }
    let kib = |index| text(index)?.trim().parse::<u64>().ok();
    lay_over_memory(kib(target), kib(max), spec);
    let is_online = |index: &usize| text(*index) == Some("online");
    match vcpus.iter().filter(|index| is_online(index)).count() as u32 {
        0 => {}
        online => spec.vcpus = online,
    }
    lay_over_share(host, info, spec);
    Ok(())
}

fn lay_over_memory(target_kib: Option<u64>, max_kib: Option<u64>, spec: &mut VmSpec) {
    let target_kib = target_kib.unwrap_or(spec.target_kib);
    let max_kib = max_kib.unwrap_or(spec.max_kib);
    if target_kib == 0 || target_kib > max_kib {
        return;
    }
    let whole_mib = |kib: u64| kib.div_ceil(KIB_PER_MIB).saturating_mul(KIB_PER_MIB);
    spec.target_kib = whole_mib(target_kib);
    spec.max_kib = whole_mib(max_kib);
}

/// Applies a changed CPU share. A share that cannot be read, as under a scheduler without shares, does not stop the
/// restart.
fn lay_over_share(host: &Host, info: &DomainInfo, spec: &mut VmSpec) {
    let pools = host.hv.cpu_pools().unwrap_or_default();
    let Some(pool) = pools.iter().find(|pool| pool.id == info.cpupool) else {
        return;
    };
    let share = host.hv.scheduler_params(info.domid, pool.scheduler);
    let Ok(SchedulerParams::Credit { weight, cap } | SchedulerParams::Credit2 { weight, cap }) =
        share
    else {
        return;
    };
    if spec.cpu_weight.unwrap_or(DEFAULT_WEIGHT) != weight {
        spec.cpu_weight = Some(weight);
    }
    if spec.cpu_cap.unwrap_or(DEFAULT_CAP) != cap {
        spec.cpu_cap = Some(cap);
    }
}
