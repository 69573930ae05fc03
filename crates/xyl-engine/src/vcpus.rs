//! vCPUs: where they run, where they may run, how many are to be used.

use xen_port::{CpuMap, DomId, DomainInfo, GuestKind, HvError, Hypervisor, VcpuId, VcpuInfo};
use xenstore::{Batch, Client, Tree};
use xl_cfg::types::CpuList;

use crate::control_error::ControlError;
use crate::domains::home;
use crate::{EngineError, topology};

/// One vCPU.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// Its number within the domain.
    pub id: VcpuId,
    /// What it is doing.
    pub info: VcpuInfo,
    /// CPUs that it may run on.
    pub hard: CpuMap,
    /// CPUs that it prefers.
    pub soft: CpuMap,
}

/// The vCPUs of a domain, two hypercalls for each.
pub fn list(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<Vec<Vcpu>, EngineError> {
    (0..nr_vcpus(info))
        .map(|id| one(hv, info.domid, VcpuId(id)).map_err(EngineError::from))
        .collect()
}

fn one(hv: &dyn Hypervisor, domid: DomId, id: VcpuId) -> Result<Vcpu, HvError> {
    let info = hv.vcpu_info(domid, id)?;
    let (hard, soft) = hv.vcpu_affinity(domid, id)?;
    Ok(Vcpu {
        id,
        info,
        hard,
        soft,
    })
}

/// vCPUs that a domain has, up or not.
pub fn nr_vcpus(info: &DomainInfo) -> u32 {
    info.max_vcpu_id.map_or(0, |id| id.saturating_add(1))
}

/// Tells a PV or PVH guest to use its first `wanted` vCPUs.
pub fn set_online(store: &mut Client, info: &DomainInfo, wanted: u32) -> Result<(), EngineError> {
    let most = nr_vcpus(info);
    if wanted == 0 || wanted > most {
        return Err(ControlError::VcpusOutOfRange {
            domid: info.domid,
            wanted,
            most,
        }
        .into());
    }
    if info.kind() == GuestKind::Hvm {
        return Err(ControlError::HvmNotYet {
            domid: info.domid,
            what: "vcpu-set",
        }
        .into());
    }
    let mut batch = Batch::new();
    for vcpu in 0..most {
        let state = if vcpu < wanted { "online" } else { "offline" };
        batch.write(
            &home(info.domid, &format!("cpu/{vcpu}/availability"))?,
            state.as_bytes(),
        );
    }
    Ok(store.transaction(|transaction| transaction.run(&batch).map(drop))?)
}

/// Sets the CPUs that a vCPU may run on (`hard`) and those it prefers (`soft`); returns what Xen
/// made of them. `force` overrides a temporary pinning.
pub fn pin(
    hv: &dyn Hypervisor,
    domid: DomId,
    vcpu: VcpuId,
    hard: Option<&CpuMap>,
    soft: Option<&CpuMap>,
    force: bool,
) -> Result<(Option<CpuMap>, Option<CpuMap>), EngineError> {
    Ok(hv.set_vcpu_affinity(domid, vcpu, hard, soft, force)?)
}

/// The vCPUs that `only` names: one, or all of the domain's.
pub fn chosen(info: &DomainInfo, only: Option<VcpuId>) -> Result<Vec<VcpuId>, EngineError> {
    let most = nr_vcpus(info);
    match only {
        None => Ok((0..most).map(VcpuId).collect()),
        Some(vcpu) if vcpu.0 < most => Ok(vec![vcpu]),
        Some(vcpu) => Err(ControlError::NoSuchVcpu {
            domid: info.domid,
            vcpu: vcpu.0,
            most,
        }
        .into()),
    }
}

/// The CPUs that a list means on this host.
pub fn resolve(hv: &dyn Hypervisor, list: &CpuList) -> Result<CpuMap, EngineError> {
    Ok(list.resolve(&topology::of(hv)?).into_iter().collect())
}
