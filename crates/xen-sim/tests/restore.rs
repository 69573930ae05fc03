//! A saved guest is restored: its memory, its devices; what is refused; and the process that restores it dies, or is refused something, at
//! every call. There is the whole guest or nothing of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bench::Bench;
use xen_port::{DomId, HvmParam, Hypervisor, PAGE_SIZE};
use xen_sim::{Ended, Fault, Moment, Snapshot, SuspendManner, World};
use xyl_engine::operation::create::{CreateRequest, SavedGuest, restore};
use xyl_engine::supervise::requests::{self, AfterSave, Asking, Request};
use xyl_engine::{Cancel, EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const FILE: &str = "/srv/guest.saved";

/// The bytes of a saved guest, and its memory when it was saved.
fn saved(bench: &Bench, world: &World) -> (Vec<u8>, Vec<Vec<u8>>) {
    world.xen.set_version(xen_sim::version());
    let domid = bench.must(world, |host| bench.create(host, "guest", UUID));
    let callback = HvmParam::CallbackIrq;
    world.xen.set_hvm_param(domid, callback, 1).unwrap();
    world.guests.set_manner(domid, SuspendManner::Good);
    let pages = pages(world, domid);
    let request = Request::Save {
        file: PathBuf::from(FILE),
        config: None,
        then: AfterSave::Destroy,
    };
    bench.must(world, |host| {
        let info = host.hv.domain_info(domid)?.unwrap();
        let mut asking = Asking {
            cancel: &Cancel::new(),
            progress: &mut |_, _| (),
        };
        requests::ask(host, &info, &request, &mut asking)
    });
    let bytes = world.disk.contents(Path::new(FILE)).unwrap();
    (bytes, pages)
}

/// The first pages of a domain: those that no interface is in.
fn pages(world: &World, domid: DomId) -> Vec<Vec<u8>> {
    let pages = (0..512).map(|page| world.xen.read(domid, page * PAGE_SIZE as u64, PAGE_SIZE));
    pages.collect()
}

fn on_disk(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn restore_from(host: &mut Host, bytes: &[u8]) -> Result<DomId, EngineError> {
    let guest = SavedGuest::read(Path::new(FILE), on_disk(bytes))?;
    let planned = guest.plan(host)?;
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: false,
        process_ends: false,
        watch: &mut |_, _| Ok(()),
        before_start: &mut |_, _| Ok(()),
        notice: &mut |_| (),
    };
    restore(host, &mut request, &guest, &Cancel::new())
}

fn error_of(bench: &Bench, world: &World, bytes: &[u8]) -> ErrorCode {
    match bench
        .process(world, None, |host| restore_from(host, bytes))
        .0
    {
        Ended::Well(Err(error)) => error.code(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_restored_guest_has_its_memory_and_devices() {
    let bench = Bench::with_devices();
    let world = World::new(256);
    let (bytes, before) = saved(&bench, &world);
    let domid = bench.must(&world, |host| restore_from(host, &bytes));
    assert!(world.xen.domain(domid).unwrap().is_running());
    assert!(pages(&world, domid) == before);
    let now = world.snapshot();
    for device in ["vbd/51712", "vbd/51728", "vif/0"] {
        let path = format!("/libxl/{domid}/device/{device}/frontend");
        assert!(now.nodes.contains_key(&path), "{path}");
    }
    assert!(bench::is_bridged(&now, domid));
    // Its VM can be restarted: it has a record.
    let record = format!("/var/lib/xyl/vm/{UUID}/config.cfg");
    assert!(world.disk.contents(Path::new(&record)).is_some());
    // No second one of it.
    assert_eq!(error_of(&bench, &world, &bytes), ErrorCode::UuidTaken);
}

#[test]
fn what_is_damaged_leaves_nothing() {
    let bench = Bench::new();
    let world = World::new(256);
    let (bytes, _) = saved(&bench, &world);
    let before = world.snapshot();
    let half = &bytes[..bytes.len() / 2];
    assert_eq!(error_of(&bench, &world, half), ErrorCode::Restore);
    assert_eq!(error_of(&bench, &world, b"no image"), ErrorCode::Restore);
    assert_eq!(left(&world, &before), [""; 0]);
}

#[test]
fn the_policy_is_asked() {
    let bench = Bench::new();
    let world = World::new(256);
    let (bytes, _) = saved(&bench, &world);
    let policy = "version = 1\n[guests]\npvh = \"refuse\"\n";
    world
        .disk
        .put(Path::new("/etc/xyl/policy.toml"), policy.as_bytes());
    let before = world.snapshot();
    assert_eq!(error_of(&bench, &world, &bytes), ErrorCode::NotAdmitted);
    assert_eq!(left(&world, &before), [""; 0]);
}

/// What is left of a restore.
fn left(world: &World, before: &Snapshot) -> Vec<String> {
    // Folders of all VMs, and the numbers of domains that were used a moment ago.
    let folders = [
        "/",
        "/run",
        "/run/xyl",
        "/run/xyl/busy",
        "/run/xyl/doorbell",
        "/run/xyl/vm",
        "/run/xen",
        "/run/xen/domid-history",
        "/var",
        "/var/lib",
        "/var/lib/xyl",
        "/var/lib/xyl/vm",
        "/var/lib/xen",
        "/sys",
        "/sys/bus",
        "/sys/bus/xen-backend",
        "/sys/bus/xen-backend/devices",
    ];
    let may_stay = |path: &Path| folders.iter().any(|folder| path == Path::new(folder));
    let mut left = world.snapshot().leaks(before, &may_stay);
    // xenstore keeps the folders of all domains.
    let folders = [
        "node /libxl",
        "node /vm",
        "node /local/domain/0/backend",
        "node /local/domain/0/error",
    ];
    let is_folder = |what: &str| {
        folders.contains(&what) || what.ends_with("/backend/vbd") || what.ends_with("/backend/vif")
    };
    left.retain(|what| !is_folder(what));
    left
}

#[test]
fn a_restore_may_die_at_every_call() {
    let bench = Bench::with_devices();
    let (bytes, count) = {
        let world = World::new(256);
        let (bytes, _) = saved(&bench, &world);
        let (ended, count) = bench.process(&world, None, |host| restore_from(host, &bytes));
        assert!(matches!(ended, Ended::Well(Ok(_))), "{ended:?}");
        (bytes, count)
    };
    let is_full = std::env::var_os("XYL_SIM_FULL").is_some();
    for call in (1..=count).filter(|call| is_full || call % 3 == 1) {
        for fault in [false, true] {
            let world = World::new(256);
            world.xen.set_version(xen_sim::version());
            bench.must(&world, |_| Ok(()));
            let before = world.snapshot();
            let moment = Moment::ALL[(call / 3 % 3) as usize];
            let fate = match fault {
                true => world.fate(None).with_fault(Some(Fault { call, choice: 0 })),
                false => world.fate(Some((call, moment))),
            };
            let (ended, _) = bench.run(&world, fate, |host| restore_from(host, &bytes));
            bench.must(&world, |host| recover::all(host, true));
            let guests = world.xen.domain_list().unwrap();
            let guest = guests.iter().find(|info| info.domid != DomId::ZERO);
            match guest {
                Some(info) => assert!(!info.flags.paused, "{call} {fault}: {ended:?}"),
                None => assert_eq!(left(&world, &before), [""; 0], "{call} {fault}: {ended:?}"),
            }
        }
    }
}
