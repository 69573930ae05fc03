//! vCPUs of a running domain: their state, their affinity, and the number in use.

use xen_port::{CpuMap, DomId, DomainInfo, GuestKind, HvError, Hypervisor, VcpuId, VcpuInfo};
use xenstore::{Batch, Client, Tree};
use xl_cfg::types::CpuList;

use crate::EngineError;
use crate::error::RequestError;
use crate::host::topology;
use crate::vm::domains::home;

/// State and affinity of one vCPU.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// Number of the vCPU within the domain.
    pub id: VcpuId,
    /// State of the vCPU.
    pub info: VcpuInfo,
    /// Hard affinity: CPUs that it may run on.
    pub hard: CpuMap,
    /// Soft affinity: CPUs that it prefers.
    pub soft: CpuMap,
}

/// Reads the vCPUs of a domain, with two hypercalls for each.
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

/// Number of a domain's vCPUs, online or not.
pub fn nr_vcpus(info: &DomainInfo) -> u32 {
    info.max_vcpu_id.map_or(0, |id| id.saturating_add(1))
}

/// Asks a PV or PVH guest to use its first `wanted` vCPUs.
pub fn set_online(store: &mut Client, info: &DomainInfo, wanted: u32) -> Result<(), EngineError> {
    check_online(info, wanted)?;
    let mut batch = Batch::new();
    for vcpu in 0..nr_vcpus(info) {
        let state = if vcpu < wanted { "online" } else { "offline" };
        batch.write(
            &home(info.domid, &format!("cpu/{vcpu}/availability"))?,
            state.as_bytes(),
        );
    }
    Ok(store.transaction(|transaction| transaction.run(&batch).map(drop))?)
}

/// Fails if [`set_online`] would fail.
pub(crate) fn check_online(info: &DomainInfo, wanted: u32) -> Result<(), EngineError> {
    let most = nr_vcpus(info);
    if wanted == 0 || wanted > most {
        return Err(RequestError::VcpusOutOfRange {
            domid: info.domid,
            wanted,
            most,
        }
        .into());
    }
    if info.kind() == GuestKind::Hvm {
        return Err(RequestError::HvmNotYet {
            domid: info.domid,
            what: "vcpu-set",
        }
        .into());
    }
    Ok(())
}

/// Sets a vCPU's hard and soft affinity. Returns the affinity that Xen has set. `force` overrides a temporary
/// pinning.
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

/// The vCPUs that `only` names: one, or all of the domain.
pub fn chosen(info: &DomainInfo, only: Option<VcpuId>) -> Result<Vec<VcpuId>, EngineError> {
    let most = nr_vcpus(info);
    match only {
        None => Ok((0..most).map(VcpuId).collect()),
        Some(vcpu) if vcpu.0 < most => Ok(vec![vcpu]),
        Some(vcpu) => Err(RequestError::NoSuchVcpu {
            domid: info.domid,
            vcpu: vcpu.0,
            most,
        }
        .into()),
    }
}

/// Resolves a list to CPUs of this host.
pub fn resolve(hv: &dyn Hypervisor, list: &CpuList) -> Result<CpuMap, EngineError> {
    Ok(list.resolve(&topology::of(hv)?).into_iter().collect())
}

#[cfg(test)]
mod tests {

    use xenstore::mem::MemStore;

    use super::*;

    fn info(max_vcpu_id: Option<u32>) -> DomainInfo {
        DomainInfo {
            domid: DomId(5),
            nr_online_vcpus: 1,
            max_vcpu_id,
            handle: [5; 16],
            ..DomainInfo::default()
        }
    }

    #[test]
    fn the_first_vcpus_are_asked_for() {
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        set_online(&mut client, &info(Some(2)), 2).unwrap();
        for (vcpu, state) in [(0, "online"), (1, "online"), (2, "offline")] {
            let path = home(DomId(5), &format!("cpu/{vcpu}/availability")).unwrap();
            assert_eq!(client.read_text(&path).unwrap(), state, "{vcpu}");
        }
    }

    #[test]
    fn none_and_too_many_are_refused() {
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        assert!(set_online(&mut client, &info(Some(2)), 0).is_err());
        assert!(set_online(&mut client, &info(Some(2)), 4).is_err());
        assert!(set_online(&mut client, &info(None), 1).is_err());
        assert!(chosen(&info(Some(2)), Some(VcpuId(3))).is_err());
        assert_eq!(
            chosen(&info(Some(1)), None).unwrap(),
            [VcpuId(0), VcpuId(1)]
        );
    }
}
