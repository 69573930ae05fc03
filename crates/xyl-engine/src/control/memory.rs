//! How much memory a domain is to have, and may have.

use xen_port::{DomId, DomainInfo, GuestKind, Hypervisor};
use xenstore::{Batch, Client, Tree};

use crate::EngineError;
use crate::error::RequestError;
use crate::vm::domains::{has_vm_part, home, vm_path};

/// What libxl lets a domain have beyond its configured memory, in KiB; kept equal, so that xl and
/// Xyl may take turns (`LIBXL_MAXMEM_CONSTANT`).
const EXTRA_KIB: u64 = 1024;

/// The least that domain 0 may be set to, in KiB (`LIBXL_MIN_DOM0_MEM`).
const DOM0_MIN_KIB: u64 = 128 * 1024;

/// The limits that xenstore keeps for a domain's balloon driver, in KiB.
struct Limits {
    target_kib: u64,
    max_kib: u64,
    videoram_kib: u64,
}

/// Sets the memory that a domain is to have, video memory included. Xen lets it have no more from
/// now on; its balloon driver gives the rest back when it can.
pub fn set_target(
    hv: &dyn Hypervisor,
    store: &mut Client,
    info: &DomainInfo,
    wanted_kib: u64,
) -> Result<(), EngineError> {
    let (
        domid,
        Target {
            target_kib,
            videoram_kib,
        },
    ) = (info.domid, check_target(store, info, wanted_kib)?);
    hv.set_max_mem(domid, target_kib + videoram_kib + EXTRA_KIB)?;
    if domid != DomId::ZERO && info.kind() != GuestKind::Pv {
        hv.set_pod_target(domid, (target_kib + EXTRA_KIB) / 4)?;
    }
    write_target(store, info, target_kib)
}

/// Memory that a domain is to have and may have, in KiB.
pub(crate) struct Target {
    target_kib: u64,
    videoram_kib: u64,
}

/// Refuses what [`set_target`] refuses.
pub(crate) fn check_target(
    store: &mut Client,
    info: &DomainInfo,
    wanted_kib: u64,
) -> Result<Target, EngineError> {
    let domid = info.domid;
    let limits = limits(store, info)?;
    let target_kib = wanted_kib.saturating_sub(limits.videoram_kib);
    if target_kib > limits.max_kib {
        return Err(RequestError::AboveMaximum {
            domid,
            wanted_kib: target_kib,
            max_kib: limits.max_kib,
        }
        .into());
    }
    if target_kib == 0 || (domid == DomId::ZERO && target_kib < DOM0_MIN_KIB) {
        let min_kib = if domid == DomId::ZERO {
            DOM0_MIN_KIB
        } else {
            1
        };
        return Err(RequestError::BelowMinimum {
            domid,
            wanted_kib: target_kib,
            min_kib,
        }
        .into());
    }
    Ok(Target {
        target_kib,
        videoram_kib: limits.videoram_kib,
    })
}

fn write_target(store: &mut Client, info: &DomainInfo, target_kib: u64) -> Result<(), EngineError> {
    let mut batch = Batch::new();
    batch.write(
        &home(info.domid, "memory/target")?,
        target_kib.to_string().as_bytes(),
    );
    if has_vm_part(info) {
        batch.write(
            &vm_path(info, "memory")?,
            (target_kib / 1024).to_string().as_bytes(),
        );
    }
    Ok(store.transaction(|transaction| transaction.run(&batch).map(drop))?)
}

/// Sets the memory that a domain may have. Its present memory does not change.
pub fn set_maximum(
    hv: &dyn Hypervisor,
    store: &mut Client,
    info: &DomainInfo,
    max_kib: u64,
) -> Result<(), EngineError> {
    check_maximum(store, info, max_kib)?;
    let domid = info.domid;
    hv.set_max_mem(domid, max_kib + EXTRA_KIB)?;
    Ok(store.write(
        &home(domid, "memory/static-max")?,
        max_kib.to_string().as_bytes(),
    )?)
}

/// Refuses what [`set_maximum`] refuses.
pub(crate) fn check_maximum(
    store: &mut Client,
    info: &DomainInfo,
    max_kib: u64,
) -> Result<(), EngineError> {
    let limits = limits(store, info)?;
    if max_kib >= limits.target_kib {
        return Ok(());
    }
    Err(RequestError::BelowTarget {
        domid: info.domid,
        wanted_kib: max_kib,
        target_kib: limits.target_kib,
    }
    .into())
}

/// The limits of a domain. Domain 0 may have none yet: then its present memory and Xen's limit for
/// it stand in, as in libxl.
fn limits(store: &mut Client, info: &DomainInfo) -> Result<Limits, EngineError> {
    let target_path = home(info.domid, "memory/target")?;
    let max_path = home(info.domid, "memory/static-max")?;
    let mut batch = Batch::new();
    let target = batch.read_opt(&target_path);
    let max = batch.read_opt(&max_path);
    let videoram = batch.read_opt(&home(info.domid, "memory/videoram")?);
    let replies = store.run(&batch)?;
    let number = |index: usize| -> Option<u64> {
        std::str::from_utf8(replies.value(index)?)
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let dom0_kib = |pages: u64| (info.domid == DomId::ZERO).then_some(pages.saturating_mul(4));
    let missing = |path: &xenstore::Path| RequestError::NoMemoryLimits {
        domid: info.domid,
        path: path.to_string(),
    };
    Ok(Limits {
        target_kib: number(target)
            .or_else(|| dom0_kib(info.tot_pages))
            .ok_or_else(|| missing(&target_path))?,
        max_kib: number(max)
            .or_else(|| dom0_kib(info.max_pages))
            .ok_or_else(|| missing(&max_path))?,
        videoram_kib: number(videoram).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use xen_build::model::Model;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::EngineError;
    use crate::testing::pv_request;

    /// A PV domain of 64 MiB whose limit is 128 MiB.
    fn guest() -> (Model, MemStore, DomainInfo) {
        let hv = Model::new(256);
        let domid = hv.create_domain(&pv_request([1; 16])).unwrap();
        let info = hv.domain_info(domid).unwrap().unwrap();
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        client
            .write(&home(domid, "memory/target").unwrap(), b"65536")
            .unwrap();
        client
            .write(&home(domid, "memory/static-max").unwrap(), b"131072")
            .unwrap();
        (hv, store, info)
    }

    #[test]
    fn a_target_goes_to_xen_and_to_xenstore() {
        let (hv, store, info) = guest();
        let mut client = store.client(0).unwrap();
        set_target(&hv, &mut client, &info, 98_304).unwrap();
        assert_eq!(
            client
                .read(&home(info.domid, "memory/target").unwrap())
                .unwrap(),
            b"98304"
        );
        assert_eq!(
            client.read(&vm_path(&info, "memory").unwrap()).unwrap(),
            b"96"
        );
        assert_eq!(
            hv.domain(info.domid).unwrap().max_pages,
            (98_304 + EXTRA_KIB) / 4
        );
    }

    #[test]
    fn limits_hold() {
        let (hv, store, info) = guest();
        let mut client = store.client(0).unwrap();
        let mut refused =
            |outcome: fn(&Model, &mut Client, &DomainInfo) -> Result<(), EngineError>| {
                outcome(&hv, &mut client, &info).unwrap_err().to_string()
            };
        assert!(
            refused(|hv, store, info| set_target(hv, store, info, 131_073)).contains("mem-max")
        );
        assert!(refused(|hv, store, info| set_target(hv, store, info, 0)).contains("at least"));
        assert!(
            refused(|hv, store, info| set_maximum(hv, store, info, 65_535)).contains("mem-set")
        );
        assert_eq!(
            client
                .read(&home(info.domid, "memory/target").unwrap())
                .unwrap(),
            b"65536"
        );
    }

    #[test]
    fn a_maximum_may_grow() {
        let (hv, store, info) = guest();
        let mut client = store.client(0).unwrap();
        set_maximum(&hv, &mut client, &info, 200_000).unwrap();
        assert_eq!(
            client
                .read(&home(info.domid, "memory/static-max").unwrap())
                .unwrap(),
            b"200000"
        );
    }

    #[test]
    fn a_domain_without_limits_is_named() {
        let (hv, store, info) = guest();
        let mut client = store.client(0).unwrap();
        client.rm(&home(info.domid, "memory").unwrap()).unwrap();
        let error = set_target(&hv, &mut client, &info, 1024)
            .unwrap_err()
            .to_string();
        assert!(error.contains("memory/target"), "{error}");
    }
}
