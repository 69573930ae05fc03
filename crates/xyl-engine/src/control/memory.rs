//! Memory of a running domain: its target, and its maximum. `supervise::requests` calls this module.
//!
//! Each change is a hypercall and a write to xenstore, under libxl's lock of the domain, which xl uses too. An
//! increase of Xen's limit comes before the write. A decrease comes after it. So if the process dies in between, the
//! guest may use more than its target, and repeating the command completes the change.
//!
//! Facts: `libxl_set_memory_target`, `libxl_domain_setmaxmem`, `libxl__fill_dom0_memory_info` (`libxl_mem.c`).

use xen_port::{DomId, DomainInfo, GuestKind, HvError, Hypervisor};
use xenstore::{Path, Tree};

use crate::error::RequestError;
use crate::vm::domains::{home, uuid_text};
use crate::vm::userdata;
use crate::{EngineError, Host};

/// Memory in KiB that libxl allows beyond the configured memory (`LIBXL_MAXMEM_CONSTANT`). It is the same here, so
/// that xl and Xyl can alternate.
const EXTRA_KIB: u64 = 1024;

/// Minimum memory of domain 0 in KiB (`LIBXL_MIN_DOM0_MEM`).
const DOM0_MIN_KIB: u64 = 128 * 1024;

/// Size of a page in KiB.
const PAGE_KIB: u64 = 4;

/// Changes domain 0's memory target by so many KiB, and leaves Xen's limit as it is, as libxl does for a new domain's memory. A decrease
/// counts from the memory that domain 0 has, if that is less than its target. Returns the change of the target in KiB.
///
/// # Errors
/// As [`set_target`].
pub fn shift_target_of_dom0(host: &mut Host, by_kib: i64) -> Result<i64, EngineError> {
    let Some(dom0) = host.hv.domain_info(DomId::ZERO)? else {
        return Err(EngineError::NoSuchDomain(DomId::ZERO.to_string()));
    };
    let _lock = userdata::lock(host, DomId::ZERO, &uuid_text(&dom0.handle))?;
    let dom0 = still_there(host, &dom0)?;
    host.store.try_transaction(|transaction| {
        fill_limits_of_dom0(transaction, &dom0)?;
        let before_kib = target_kib(transaction, &dom0)?;
        let from_kib = match by_kib < 0 {
            true => before_kib.min(dom0.tot_pages.saturating_mul(PAGE_KIB)),
            false => before_kib,
        };
        let wanted_kib = from_kib.saturating_add_signed(by_kib);
        let Target { target_kib, .. } = check_target(transaction, &dom0, wanted_kib)?;
        let path = home(DomId::ZERO, TARGET)?;
        transaction.write(&path, target_kib.to_string().as_bytes())?;
        let signed = |kib: u64| i64::try_from(kib).unwrap_or(i64::MAX);
        Ok::<_, EngineError>(signed(target_kib).saturating_sub(signed(before_kib)))
    })
}

/// Sets a domain's memory target, video memory included. Xen enforces it at once; the balloon driver frees memory
/// when it can.
///
/// # Errors
/// [`RequestError::AboveMaximum`], [`RequestError::BelowMinimum`], [`RequestError::NoMemoryLimits`]: nothing has
/// changed. [`EngineError::NoSuchDomain`] if the domain has ended; those of Xen, xenstore and libxl's lock.
pub fn set_target(host: &mut Host, info: &DomainInfo, wanted_kib: u64) -> Result<(), EngineError> {
    let _lock = userdata::lock(host, info.domid, &uuid_text(&info.handle))?;
    let info = still_there(host, info)?;
    let hv = &*host.hv;
    let (allow, grows) = host.store.try_transaction(|transaction| {
        fill_limits_of_dom0(transaction, &info)?;
        let Target {
            target_kib,
            videoram_kib,
        } = check_target(transaction, &info, wanted_kib)?;
        let allow = Allowance {
            domid: info.domid,
            max_kib: target_kib + videoram_kib + EXTRA_KIB,
            on_demand_kib: has_populate_on_demand(&info).then_some(target_kib + EXTRA_KIB),
        };
        let grows = allow.max_kib > limit_kib(&info);
        if grows {
            allow.set(hv)?;
        }
        let path = home(info.domid, TARGET)?;
        transaction.write(&path, target_kib.to_string().as_bytes())?;
        Ok::<_, EngineError>((allow, grows))
    })?;
    if !grows {
        allow.set(hv)?;
    }
    Ok(())
}

/// Sets a domain's maximum memory. Its present memory does not change.
///
/// # Errors
/// [`RequestError::BelowTarget`], [`RequestError::NoMemoryLimits`]: nothing has changed.
/// [`EngineError::NoSuchDomain`] if the domain has ended; those of Xen, xenstore and libxl's lock.
pub fn set_maximum(host: &mut Host, info: &DomainInfo, max_kib: u64) -> Result<(), EngineError> {
    let _lock = userdata::lock(host, info.domid, &uuid_text(&info.handle))?;
    let info = still_there(host, info)?;
    let hv = &*host.hv;
    let allow = Allowance {
        domid: info.domid,
        max_kib: max_kib.saturating_add(EXTRA_KIB),
        on_demand_kib: None,
    };
    let grows = allow.max_kib > limit_kib(&info);
    host.store.try_transaction(|transaction| {
        fill_limits_of_dom0(transaction, &info)?;
        check_maximum(transaction, &info, max_kib)?;
        if grows {
            allow.set(hv)?;
        }
        let path = home(info.domid, STATIC_MAX)?;
        transaction.write(&path, max_kib.to_string().as_bytes())?;
        Ok::<_, EngineError>(())
    })?;
    if !grows {
        allow.set(hv)?;
    }
    Ok(())
}

/// Limits that Xen sets for a domain.
struct Allowance {
    domid: DomId,
    max_kib: u64,
    /// Limit that includes memory to be populated on demand, for types of guests that have it.
    on_demand_kib: Option<u64>,
}

impl Allowance {
    fn set(&self, hv: &dyn Hypervisor) -> Result<(), HvError> {
        hv.set_max_mem(self.domid, self.max_kib)?;
        match self.on_demand_kib {
            Some(kib) => hv.set_pod_target(self.domid, kib / PAGE_KIB),
            None => Ok(()),
        }
    }
}

/// Reads the domain again, because it may have been destroyed during the wait for libxl's lock.
fn still_there(host: &Host, info: &DomainInfo) -> Result<DomainInfo, EngineError> {
    let now = host.hv.domain_info(info.domid)?;
    now.filter(|now| now.handle == info.handle && !now.flags.dying)
        .ok_or_else(|| EngineError::NoSuchDomain(info.domid.to_string()))
}

/// Xen's present limit in KiB. A value of all ones means no limit.
fn limit_kib(info: &DomainInfo) -> u64 {
    info.max_pages.saturating_mul(PAGE_KIB)
}

fn has_populate_on_demand(info: &DomainInfo) -> bool {
    info.domid != DomId::ZERO && info.kind() != GuestKind::Pv
}

/// Video memory in KiB. Only guests with a display have it.
fn videoram_kib(store: &mut impl Tree, info: &DomainInfo) -> Result<u64, EngineError> {
    match info.kind() {
        GuestKind::Hvm => Ok(number(store, &home(info.domid, "memory/videoram")?)?.unwrap_or(0)),
        GuestKind::Pv | GuestKind::Pvh => Ok(0),
    }
}

/// A new memory target.
pub(crate) struct Target {
    /// Target without video memory, in KiB.
    target_kib: u64,
    videoram_kib: u64,
}

/// Fails if [`set_target`] would fail. Changes nothing.
pub(crate) fn check_target(
    store: &mut impl Tree,
    info: &DomainInfo,
    wanted_kib: u64,
) -> Result<Target, EngineError> {
    let domid = info.domid;
    let videoram_kib = videoram_kib(store, info)?;
    let target_kib = wanted_kib.saturating_sub(videoram_kib);
    let max_kib = max_kib(store, info)?;
    if target_kib > max_kib {
        return Err(RequestError::AboveMaximum {
            domid,
            wanted_kib: target_kib,
            max_kib,
        }
        .into());
    }
    let min_kib = match domid {
        DomId::ZERO => DOM0_MIN_KIB,
        _ => 1,
    };
    if target_kib < min_kib {
        return Err(RequestError::BelowMinimum {
            domid,
            wanted_kib: target_kib,
            min_kib,
        }
        .into());
    }
    Ok(Target {
        target_kib,
        videoram_kib,
    })
}

/// Fails if [`set_maximum`] would fail. Changes nothing.
pub(crate) fn check_maximum(
    store: &mut impl Tree,
    info: &DomainInfo,
    max_kib: u64,
) -> Result<(), EngineError> {
    let target_kib = target_kib(store, info)?;
    if max_kib >= target_kib {
        return Ok(());
    }
    Err(RequestError::BelowTarget {
        domid: info.domid,
        wanted_kib: max_kib,
        target_kib,
    }
    .into())
}

/// Nodes with a domain's limits, in KiB, below its home.
const TARGET: &str = "memory/target";
const STATIC_MAX: &str = "memory/static-max";

/// The domain's target in KiB. For domain 0 without the node, its present memory.
fn target_kib(store: &mut impl Tree, info: &DomainInfo) -> Result<u64, EngineError> {
    limit(store, info, TARGET, info.tot_pages)
}

/// The domain's maximum in KiB. For domain 0 without the node, Xen's present limit.
fn max_kib(store: &mut impl Tree, info: &DomainInfo) -> Result<u64, EngineError> {
    limit(store, info, STATIC_MAX, info.max_pages)
}

fn limit(
    store: &mut impl Tree,
    info: &DomainInfo,
    node: &str,
    dom0_pages: u64,
) -> Result<u64, EngineError> {
    let path = home(info.domid, node)?;
    match number(store, &path)? {
        Some(kib) => Ok(kib),
        None if info.domid == DomId::ZERO => Ok(dom0_pages.saturating_mul(PAGE_KIB)),
        None => Err(RequestError::NoMemoryLimits {
            domid: info.domid,
            path: path.to_string(),
        }
        .into()),
    }
}

/// Writes the missing nodes of domain 0, before the change lowers Xen's limit. libxl needs both nodes, and writes
/// them only if the target is missing.
fn fill_limits_of_dom0(store: &mut impl Tree, info: &DomainInfo) -> Result<(), EngineError> {
    if info.domid != DomId::ZERO {
        return Ok(());
    }
    for (node, kib) in [
        (TARGET, target_kib(store, info)?),
        (STATIC_MAX, max_kib(store, info)?),
    ] {
        store.write(&home(DomId::ZERO, node)?, kib.to_string().as_bytes())?;
    }
    Ok(())
}

/// Reads a number from a node. `None` if the node is missing.
fn number(store: &mut impl Tree, path: &Path) -> Result<Option<u64>, EngineError> {
    let value = store.read_opt(path)?;
    let text = value.as_deref().map(std::str::from_utf8);
    Ok(match text {
        Some(Ok(text)) => text.trim().parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use xen_port::Errno;
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;

    /// A host with a PV domain whose target is 64 MiB and whose limit is 128 MiB.
    struct Bench {
        hv: Model,
        host: Host,
        info: DomainInfo,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let hv = Model::new(256);
            let domid = hv.create_domain(&pv_request([1; 16])).unwrap();
            let store = MemStore::new().client(0).unwrap();
            let dirs = Dirs::below(folder.path());
            let mut host = Host::new(Box::new(hv.clone()), store, dirs);
            hv.set_max_mem(domid, 65_536 + EXTRA_KIB).unwrap();
            for (node, kib) in [("memory/target", "65536"), ("memory/static-max", "131072")] {
                let path = home(domid, node).unwrap();
                host.store.write(&path, kib.as_bytes()).unwrap();
            }
            let info = hv.domain_info(domid).unwrap().unwrap();
            Bench {
                hv,
                host,
                info,
                _folder: folder,
            }
        }

        fn with_dom0(nr_pages: u64) -> Bench {
            let mut bench = Bench::new();
            bench.hv.add_control_domain(nr_pages);
            bench.info = bench.hv.domain_info(DomId::ZERO).unwrap().unwrap();
            bench
        }

        fn set_target(&mut self, kib: u64) -> Result<(), EngineError> {
            set_target(&mut self.host, &self.info, kib)
        }

        fn set_maximum(&mut self, kib: u64) -> Result<(), EngineError> {
            set_maximum(&mut self.host, &self.info, kib)
        }

        fn node(&mut self, node: &str) -> Option<u64> {
            number(&mut self.host.store, &home(self.info.domid, node).unwrap()).unwrap()
        }

        /// Xen's limit in KiB, without libxl's constant.
        fn limit_kib(&self) -> u64 {
            let info = self.hv.domain_info(self.info.domid).unwrap().unwrap();
            limit_kib(&info) - EXTRA_KIB
        }
    }

    fn refusal(outcome: Result<(), EngineError>) -> RequestError {
        match outcome {
            Err(EngineError::Control(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_target_goes_to_xen_and_to_xenstore() {
        let mut bench = Bench::new();
        bench.set_target(98_304).unwrap();
        assert_eq!(bench.node("memory/target"), Some(98_304));
        assert_eq!(bench.limit_kib(), 98_304);
    }

    #[test]
    fn a_target_takes_four_requests() {
        let mut bench = Bench::new();
        let before = bench.host.store.stats().requests;
        bench.set_target(32_768).unwrap();
        assert_eq!(bench.host.store.stats().requests - before, 4);
    }

    #[test]
    fn limits_hold() {
        let mut bench = Bench::new();
        let above = refusal(bench.set_target(131_073));
        assert!(matches!(above, RequestError::AboveMaximum { .. }));
        let none = refusal(bench.set_target(0));
        assert!(matches!(none, RequestError::BelowMinimum { .. }));
        let below = refusal(bench.set_maximum(65_535));
        assert!(matches!(below, RequestError::BelowTarget { .. }));
        assert_eq!(bench.node("memory/target"), Some(65_536));
        assert_eq!(bench.limit_kib(), 65_536);
    }

    #[test]
    fn a_maximum_may_grow() {
        let mut bench = Bench::new();
        bench.set_maximum(200_000).unwrap();
        assert_eq!(bench.node("memory/static-max"), Some(200_000));
        assert_eq!(bench.limit_kib(), 200_000);
    }

    #[test]
    fn a_domain_without_limits_is_named() {
        let mut bench = Bench::new();
        let domid = bench.info.domid;
        let memory = home(domid, "memory").unwrap();
        bench.host.store.rm(&memory).unwrap();
        let error = refusal(bench.set_target(1024));
        let wanted = home(domid, "memory/static-max").unwrap().to_string();
        assert!(matches!(error, RequestError::NoMemoryLimits { path, .. } if path == wanted));
    }

    #[test]
    fn half_a_change_lets_the_guest_have_more_than_it_asks_for_and_is_ended_by_a_repetition() {
        for (wanted_kib, target_kib) in [(98_304, 65_536), (32_768, 32_768)] {
            let mut bench = Bench::new();
            // The only hypercalls are `domain_info` and `set_max_mem`.
            bench.hv.fail_at(1, Errno::ENOMEM);
            assert!(bench.set_target(wanted_kib).is_err());
            assert_eq!(bench.node("memory/target"), Some(target_kib));
            assert!(bench.limit_kib() >= target_kib);
            bench.set_target(wanted_kib).unwrap();
            assert_eq!(bench.node("memory/target"), Some(wanted_kib));
            assert_eq!(bench.limit_kib(), wanted_kib);
        }
    }

    #[test]
    fn half_a_maximum_lets_the_guest_have_no_less_than_its_target() {
        for wanted_kib in [200_000, 65_536] {
            let mut bench = Bench::new();
            bench.set_maximum(100_000).unwrap();
            bench.hv.fail_at(1, Errno::ENOMEM);
            assert!(bench.set_maximum(wanted_kib).is_err());
            assert!(bench.limit_kib() >= 65_536);
            bench.set_maximum(wanted_kib).unwrap();
            assert_eq!(bench.node("memory/static-max"), Some(wanted_kib));
            assert_eq!(bench.limit_kib(), wanted_kib);
        }
    }

    #[test]
    fn domain_0_can_be_given_back_what_was_taken_from_it() {
        let mib = 1024;
        let mut bench = Bench::with_dom0(1024 * mib / PAGE_KIB);
        let before_kib = limit_kib(&bench.info);
        bench.set_target(512 * mib).unwrap();
        // The state that libxl leaves.
        assert_eq!(bench.node("memory/target"), Some(512 * mib));
        assert_eq!(bench.node("memory/static-max"), Some(before_kib));
        bench.set_target(1024 * mib).unwrap();
        assert_eq!(bench.node("memory/target"), Some(1024 * mib));
        let little = refusal(bench.set_target(127 * mib));
        assert!(matches!(little, RequestError::BelowMinimum { .. }));
    }
}
