//! Disks that are full, or fail, for a moment or for long: no operation is lost, and none destroys what runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::Path;

use bench::Bench;
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Fate, Fault, LastingFault, World};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

type Act = fn(&mut Host, DomId) -> Result<(), EngineError>;

fn uuid() -> Uuid {
    Uuid::parse_str(UUID).unwrap()
}

/// The operations that end a domain of a VM that has ended, and whether the VM has a domain then.
const ACTS: [(&str, Act, bool); 3] = [
    (
        "destroy",
        |host, old| destroy::destroy(host, old, false),
        false,
    ),
    (
        "restart",
        |host, old| restart::restart(host, uuid(), old, false).map(drop),
        true,
    ),
    (
        "rename-restart",
        |host, old| restart::restart(host, uuid(), old, true).map(drop),
        true,
    ),
];

fn ended_guest(bench: &Bench) -> (World, DomId) {
    let world = World::new(256);
    let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
    world.shut_down(domid, ShutdownReason::Reboot);
    (world, domid)
}

/// A process of this fate begins the operation. Then all faults are lifted, and a second process recovers it. Returns whether
/// the operation or one of its calls failed.
fn begin_and_recover(
    bench: &Bench,
    (name, act, lives): &(&str, Act, bool),
    fail: impl FnOnce(Fate) -> Fate,
) -> bool {
    let (world, old) = ended_guest(bench);
    let fate = fail(world.fate(None));
    let (ended, _) = bench.run(&world, fate.clone(), |host| act(host, old));
    let Ended::Well(outcome) = ended else {
        panic!("{name}: killed");
    };
    world.lift_faults();
    let told = bench.must(&world, |host| recover::all(host, true));
    assert!(told.iter().all(|one| !one.has_failed), "{name}: {told:?}");
    let now = world.snapshot();
    let damaged = now
        .files
        .keys()
        .find(|file| file.starts_with("/run/xyl/damaged"));
    assert_eq!(damaged, None, "{name}: {outcome:?}, {told:?}");
    let mut ours = now
        .domains
        .values()
        .filter(|info| info.handle == *uuid().as_bytes());
    match ours.next() {
        // Nothing was begun: the ended domain is there as it was.
        Some(info) if info.domid == old => assert!(info.shutdown_reason.is_some(), "{name}"),
        Some(info) => assert!(*lives && !info.flags.paused, "{name}: {told:?}"),
        None => {
            let is_owed = now
                .files
                .contains_key(Path::new(&format!("/var/lib/xyl/vm/{UUID}/config.cfg")));
            assert!(!*lives || is_owed, "{name}: {outcome:?}, {told:?}");
        }
    }
    assert!(ours.next().is_none(), "{name}");
    outcome.is_err() || fate.given_fault().is_some()
}

#[test]
fn a_call_that_fails_once_loses_no_operation() {
    let bench = Bench::new();
    for act in &ACTS {
        let mut failed = 0;
        for call in 1.. {
            let mut is_given = false;
            for choice in 0..3 {
                let fault = Some(Fault { call, choice });
                let has_failed = begin_and_recover(&bench, act, |fate| fate.with_fault(fault));
                is_given |= has_failed;
                failed += u32::from(has_failed);
            }
            if !is_given && call > 60 {
                break;
            }
        }
        assert!(failed > 20, "{}: {failed}", act.0);
    }
}

#[test]
fn a_disk_that_fills_up_loses_no_operation() {
    let bench = Bench::new();
    for act in &ACTS {
        let mut failed = 0;
        for call in (1..160).step_by(2) {
            for folder in ["/run", "/var", "/"] {
                let full = LastingFault::full_disk(folder);
                let has_failed =
                    begin_and_recover(&bench, act, |fate| fate.failing_from(call, full));
                failed += u32::from(has_failed);
            }
        }
        assert!(failed > 10, "{}: {failed}", act.0);
    }
}

/// Destroys a guest while a folder takes no change: the error, and the world. The guest has ended all the same.
fn destroy_without(bench: &Bench, fault: LastingFault) -> (World, EngineError) {
    let world = World::new(256);
    let before = world.snapshot();
    let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
    world.fail_always(fault);
    let (ended, _) = bench.process(&world, None, |host| destroy::destroy(host, domid, false));
    let Ended::Well(Err(error)) = ended else {
        panic!("{ended:?}");
    };
    let now = world.snapshot();
    assert!(now.domains.is_empty(), "{error}");
    assert_eq!(now.free_pages, before.free_pages);
    let history = &now.files[Path::new("/run/xen/domid-history")];
    assert!(String::from_utf8_lossy(history).ends_with(&format!(" {domid}\n")));
    (world, error)
}

#[test]
fn a_destroy_frees_the_guests_memory_though_its_records_cannot_be_removed() {
    let bench = Bench::new();
    let faults = ["/var/lib", "/var/lib/xen", "/var/lib/xyl"].map(LastingFault::read_only_disk);
    for fault in faults {
        let (world, error) = destroy_without(&bench, fault.clone());
        assert_eq!(error.code(), ErrorCode::File, "{fault:?}");
        assert_eq!(error.step(), Some("remove its records"), "{fault:?}");
        assert!(
            matches!(&error, EngineError::Step(failure)
                if matches!(failure.cause, EngineError::RecordsLeft { .. }) && failure.outcome.is_none()),
            "{error}"
        );
        // The operation is open for the records alone, and stays so until they can be removed.
        let told = bench.must(&world, |host| recover::all(host, true));
        assert!(
            told.iter().all(|one| one.has_failed) && told.len() == 1,
            "{told:?}"
        );
        world.lift_faults();
        let told = bench.must(&world, |host| recover::all(host, true));
        assert!(
            told.iter().all(|one| !one.has_failed) && told.len() == 1,
            "{told:?}"
        );
        let now = world.snapshot();
        // The image of its disk is the user's.
        let is_of_it = |path: &&std::path::PathBuf| {
            path.to_string_lossy().contains(UUID) && !path.starts_with("/srv")
        };
        assert_eq!(now.files.keys().find(is_of_it), None);
        assert_eq!(now.folders.iter().find(is_of_it), None);
    }
}
