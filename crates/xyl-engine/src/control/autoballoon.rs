//! Memory that domain 0 gives up for a new domain (`autoballoon` of xl.conf).
//!
//! `xyl create` calls it after Xen had too little free memory for a domain. Domain 0's target is lowered, and its balloon driver frees the
//! memory. Xen's limit of domain 0 stays, as with libxl. If the memory does not suffice, or the create fails or is cancelled, domain 0 gets
//! its target back. If the create succeeds, domain 0 keeps the lower target, as with xl. A process that dies meanwhile leaves the lower
//! target. Both changes are relative to the target of that moment, so creates beside each other keep each other's.
//!
//! Facts: `freemem` and `auto_autoballoon` (`tools/xl`), `libxl_domain_need_memory`.

use std::time::Duration;

use xen_port::Hypervisor;

use crate::control::memory;
use crate::error::RequestError;
use crate::{Cancel, EngineError, Host};

/// Wait without any freed memory after which domain 0 counts as unable to free more.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for one lowering of the target.
const LIMIT: Duration = Duration::from_secs(60);
/// Number of times that the target is lowered.
const ATTEMPTS: u32 = 2;
/// Memory that Xen needs for a domain beside the domain's own, in MiB. libxl adds 1 MiB for PV and 2 MiB for PVH.
const BESIDE_MIB: u64 = 2;
/// Pause between two looks at the free memory.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Start of the word of Xen's command line that sets domain 0's memory.
const DOM0_MEMORY: &str = "dom0_mem=";
const KIB_PER_MIB: u64 = 1024;
const PAGES_PER_MIB: u64 = 256;

/// Whether domain 0 gives memory up where xl.conf says `auto`: unless Xen's command line sets its memory.
///
/// # Errors
/// Those of Xen.
pub fn is_automatic(hv: &dyn Hypervisor) -> Result<bool, EngineError> {
    let version = hv.version()?;
    let mut words = version.command_line.split_whitespace();
    Ok(!words.any(|word| word.starts_with(DOM0_MEMORY)))
}

/// Memory that domain 0 has given up for a domain, in KiB.
#[derive(Debug)]
#[must_use = "a create that fails gives it back"]
pub struct GivenUp {
    by_kib: i64,
}

impl GivenUp {
    /// Gives domain 0 its target back. If that fails, it has less memory until `xyl mem-set 0`, which the notice says.
    pub fn give_back(self, host: &mut Host) {
        if self.by_kib == 0 {
            return;
        }
        if let Err(error) = memory::shift_target_of_dom0(host, self.by_kib.saturating_neg()) {
            (host.notice)(&format!(
                "warning: domain 0 keeps a memory target that is {} MiB lower: {error}; `xyl mem-set 0` sets it",
                self.by_kib.unsigned_abs() / KIB_PER_MIB
            ));
        }
    }
}

/// Has domain 0 give memory up, until `wanted_mib` MiB are free, and what Xen needs beside them.
///
/// # Errors
/// [`EngineError::NotEnoughMemory`] if domain 0 cannot free so much; [`EngineError::Cancelled`]; those of Xen and xenstore. Domain 0 has its
/// earlier target then.
pub fn free(host: &mut Host, wanted_mib: u64, cancel: &Cancel) -> Result<GivenUp, EngineError> {
    let wanted_mib = wanted_mib.saturating_add(BESIDE_MIB);
    let mut given_up = GivenUp { by_kib: 0 };
    let mut outcome = Ok(false);
    for _ in 0..ATTEMPTS {
        outcome = lower(host, wanted_mib, &mut given_up)
            .and_then(|()| await_free(host, wanted_mib, cancel));
        if !matches!(outcome, Ok(false)) {
            break;
        }
    }
    let error = match outcome {
        Ok(true) => return Ok(given_up),
        Ok(false) => match free_mib(&*host.hv) {
            Ok(free_mib) => not_enough(wanted_mib, free_mib),
            Err(error) => error,
        },
        Err(error) => error,
    };
    given_up.give_back(host);
    Err(error)
}

/// Lowers domain 0's target by the memory that is missing.
fn lower(host: &mut Host, wanted_mib: u64, given_up: &mut GivenUp) -> Result<(), EngineError> {
    let free_mib = free_mib(&*host.hv)?;
    let missing_kib = wanted_mib
        .saturating_sub(free_mib)
        .saturating_mul(KIB_PER_MIB);
    let by_kib = i64::try_from(missing_kib).unwrap_or(i64::MAX);
    if by_kib == 0 {
        return Ok(());
    }
    match memory::shift_target_of_dom0(host, by_kib.saturating_neg()) {
        Ok(changed_kib) => {
            given_up.by_kib = given_up.by_kib.saturating_add(changed_kib);
            Ok(())
        }
        Err(EngineError::Control(RequestError::BelowMinimum { .. })) => {
            Err(not_enough(wanted_mib, free_mib))
        }
        Err(error) => Err(error),
    }
}

fn not_enough(wanted_mib: u64, free_mib: u64) -> EngineError {
    EngineError::NotEnoughMemory {
        wanted_mib,
        free_mib,
    }
}

fn free_mib(hv: &dyn Hypervisor) -> Result<u64, EngineError> {
    Ok(hv.phys_info()?.unclaimed_pages() / PAGES_PER_MIB)
}

/// Waits while domain 0 frees memory. Returns whether it was enough.
fn await_free(host: &mut Host, wanted_mib: u64, cancel: &Cancel) -> Result<bool, EngineError> {
    let mut most_mib = 0;
    let last = host.clock.now() + LIMIT;
    let mut deadline = host.clock.now() + IDLE_LIMIT;
    loop {
        let now_mib = free_mib(&*host.hv)?;
        if now_mib >= wanted_mib {
            return Ok(true);
        }
        if cancel.is_requested() {
            return Err(EngineError::Cancelled);
        }
        let now = host.clock.now();
        if now_mib > most_mib {
            most_mib = now_mib;
            deadline = now + IDLE_LIMIT;
        }
        if now >= deadline.min(last) {
            return Ok(false);
        }
        host.wait_for(&[], LOOK_EVERY)?;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use xen_port::DomId;
    use xen_sim::model::Model;
    use xenstore::Tree;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;
    use crate::vm::paths::node;

    const TARGET: &str = "/local/domain/0/memory/target";

    struct Bench {
        hv: Model,
        store: MemStore,
        host: Host,
        _folder: tempfile::TempDir,
    }

    /// A host with 64 MiB free, whose domain 0 has 1024 MiB.
    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let (hv, store) = (Model::new(64), MemStore::new());
        hv.add_control_domain(1024 * PAGES_PER_MIB);
        let client = store.client(0).unwrap();
        let host = Host::new(Box::new(hv.clone()), client, Dirs::below(folder.path()));
        Bench {
            hv,
            store,
            host,
            _folder: folder,
        }
    }

    /// Domain 0's balloon driver: follows the target down to a number of MiB, until the time is up.
    fn balloon_driver(bench: &Bench, least_mib: u64) -> thread::JoinHandle<()> {
        let (hv, mut store) = (bench.hv.clone(), bench.store.client(0).unwrap());
        let path = node(TARGET).unwrap();
        thread::spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                if let Some(value) = store.read_opt(&path).unwrap() {
                    let kib: u64 = String::from_utf8(value).unwrap().parse().unwrap();
                    hv.balloon(DomId::ZERO, (kib / 4).max(least_mib * PAGES_PER_MIB));
                }
                thread::sleep(Duration::from_millis(5));
            }
        })
    }

    fn target_mib(bench: &mut Bench) -> Option<u64> {
        let value = bench.host.store.read_opt(&node(TARGET).unwrap()).unwrap()?;
        let kib: u64 = String::from_utf8(value).unwrap().parse().unwrap();
        Some(kib / KIB_PER_MIB)
    }

    fn limit_of_dom0(bench: &Bench) -> u64 {
        bench
            .hv
            .domain_info(DomId::ZERO)
            .unwrap()
            .unwrap()
            .max_pages
    }

    #[test]
    fn domain_0_frees_what_is_missing_and_no_more() {
        let mut bench = bench();
        let driver = balloon_driver(&bench, 0);
        let limit = limit_of_dom0(&bench);
        let given_up = free(&mut bench.host, 300, &Cancel::new()).unwrap();
        assert_eq!(target_mib(&mut bench), Some(1024 - (300 + BESIDE_MIB - 64)));
        assert!(free_mib(&bench.hv).unwrap() >= 300);
        // The create fails all the same, and another create has taken 8 MiB meanwhile.
        memory::shift_target_of_dom0(&mut bench.host, -8 * 1024).unwrap();
        given_up.give_back(&mut bench.host);
        assert_eq!(target_mib(&mut bench), Some(1024 - 8));
        assert_eq!(limit_of_dom0(&bench), limit);
        driver.join().unwrap();
    }

    #[test]
    fn a_create_that_is_cancelled_gives_domain_0_its_target_back() {
        let mut bench = bench();
        let cancel = Cancel::new();
        cancel.request();
        let outcome = free(&mut bench.host, 300, &cancel);
        assert!(matches!(outcome, Err(EngineError::Cancelled)));
        assert_eq!(target_mib(&mut bench), Some(1024));
    }

    #[test]
    fn domain_0_keeps_its_minimum() {
        let mut bench = bench();
        let outcome = free(&mut bench.host, 64 + 1024 - 127, &Cancel::new());
        assert!(matches!(outcome, Err(EngineError::NotEnoughMemory { .. })));
        assert_eq!(target_mib(&mut bench), None);
    }

    #[test]
    fn it_is_automatic_unless_the_command_line_sets_the_memory_of_domain_0() {
        let hv = Model::new(64);
        let mut version = xen_sim::version();
        for (line, wanted) in [
            ("placeholder dom0_mem=1024M,max:1024M", false),
            ("dom0_mem=max:512M", false),
            ("dom0_max_vcpus=2 no-dom0_mem=1", true),
            ("", true),
        ] {
            version.command_line = line.to_owned();
            hv.set_version(version.clone());
            assert_eq!(is_automatic(&hv).unwrap(), wanted, "{line}");
        }
    }
}
