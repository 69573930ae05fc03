//! Disks and network interfaces of running domains: attach and detach, killed at any call, with bad backends and guests, by two VMs at
//! once, and by a monitor without the right to the host's network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use bench::{BRIDGE, Bench, qemu};
use os_port::{Clock as _, Link};
use serde_json::Value as Json;
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::Manner;
use xen_sim::{Ended, Fault, LastingFault, Moment, Sabotage, Snapshot, Turns, World};
use xyl_api::{Asker, Envelope, RequestId};
use xyl_engine::operation::soft_reset::{self, Outcome};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::monitor;
use xyl_engine::supervise::requests::{self, Asking, Done, Request};
use xyl_engine::vm::{Vm, monitor_lock};
use xyl_engine::{Cancel, EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";
const IMAGE: &str = "/srv/extra.img";
/// Number of the disk `xvdc`.
const NUMBER: u32 = 51744;

fn disk(image: &str) -> Request {
    Request::AttachDevice {
        kind: "vbd".to_owned(),
        device: format!("vdev=xvdc,access=rw,format=raw,target={image}"),
    }
}

fn detach(force: bool) -> Request {
    Request::DetachDevice {
        kind: "vbd".to_owned(),
        device: "xvdc".to_owned(),
        force,
    }
}

/// A world with a guest and its two disks, and an image that no guest has.
fn world(bench: &Bench) -> (World, DomId) {
    let world = World::new(256);
    world.disk.put(Path::new(IMAGE), &[5; 8192]);
    qemu::install(&world);
    let domid = bench.must(&world, |host| {
        // It stays once a QEMU has been there, as with libxl.
        write_nodes(host, &[("/local/domain/0/device-model".to_owned(), "")])?;
        bench.create(host, "guest", UUID)
    });
    world.disk.sync_all();
    (world, domid)
}

/// Number of the interface that is attached: the guest has 0.
const DEVID: u32 = 1;

fn nic(words: &str) -> Request {
    Request::AttachDevice {
        kind: "vif".to_owned(),
        device: words.to_owned(),
    }
}

fn unplug(nic: &str, force: bool) -> Request {
    Request::DetachDevice {
        kind: "vif".to_owned(),
        device: nic.to_owned(),
        force,
    }
}

/// A device that tests attach and detach.
#[derive(Clone, Copy)]
struct Subject {
    attach: fn() -> Request,
    detach: fn(bool) -> Request,
    /// The places in which it is.
    places: fn(&Snapshot, DomId) -> [bool; 5],
}

const DISK: Subject = Subject {
    attach: || disk(IMAGE),
    detach,
    places,
};

const NIC: Subject = Subject {
    attach: || nic(""),
    detach: |force| unplug("1", force),
    places: nic_places,
};

const QDISK: Subject = Subject {
    attach: || Request::AttachDevice {
        kind: "vbd".to_owned(),
        device: format!("vdev=xvdc,access=rw,format=qcow2,target={}", qemu::IMAGE),
    },
    detach,
    places: qdisk_places,
};

/// All kinds of devices that tests attach and detach.
const ALL: [Subject; 3] = [DISK, NIC, QDISK];

impl Subject {
    /// Whether nothing of the device is left: nodes, files, loop devices and interfaces are those from before.
    fn is_as_before(self, now: &Snapshot, before: &Snapshot, domid: DomId) -> Result<(), String> {
        let places = (self.places)(now, domid);
        if places != NOWHERE {
            return Err(format!("the device is in {places:?}"));
        }
        let mut faults = now.leaks(before, &may_stay);
        let losses = now.losses(before).into_iter();
        faults.extend(losses.filter(|loss| !loss.ends_with("/journal")));
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults.join("; ")),
        }
    }
}

/// Whether a file may stay that an operation has made.
fn may_stay(path: &Path) -> bool {
    // The folder to which QEMU is confined is the same for all.
    path.starts_with("/run") || path.starts_with("/dev") || path == Path::new("/sys")
}

fn ask(host: &mut Host, domid: DomId, request: &Request) -> Result<Done, EngineError> {
    let info = host.hv.domain_info(domid)?.unwrap();
    requests::ask_for(host, &info, request)
}

fn code(outcome: Result<Done, EngineError>) -> ErrorCode {
    outcome.unwrap_err().code()
}

/// The VM's record, and libxl's one of its domain.
fn records(now: &Snapshot, domid: DomId) -> (String, Json) {
    let record = now.files[Path::new(&format!("/var/lib/xyl/vm/{UUID}/config.cfg"))].clone();
    let json = format!("/var/lib/xen/userdata-d.{domid}.{UUID}.libxl-json");
    let json = now.files[Path::new(&json)].clone();
    let json = serde_json::from_slice(json.strip_suffix(b"\0").unwrap()).unwrap();
    (String::from_utf8(record).unwrap(), json)
}

/// The places in which the disk is: the VM's record, libxl's record, xenstore, the backend, a loop device.
fn places(now: &Snapshot, domid: DomId) -> [bool; 5] {
    let (record, json) = records(now, domid);
    let disks = json["disks"].as_array().unwrap();
    let label = format!("{UUID}/{NUMBER}");
    let copy = format!("/libxl/{domid}/device/vbd/{NUMBER}/dev");
    let open = format!("/sys/bus/xen-backend/devices/vbd-{domid}-{NUMBER}/physical_device");
    [
        record.contains(IMAGE),
        disks.iter().any(|disk| disk["pdev_path"] == IMAGE),
        now.nodes.contains_key(&copy),
        now.files.contains_key(Path::new(&open)),
        now.loops.iter().any(|one| one.label == label),
    ]
}

/// The places in which the interface is: the VM's record, libxl's record, xenstore, the backend, a port of the bridge.
fn nic_places(now: &Snapshot, domid: DomId) -> [bool; 5] {
    let (record, json) = records(now, domid);
    let nics = json["nics"].as_array().cloned().unwrap_or_default();
    let copy = format!("/libxl/{domid}/device/vif/{DEVID}/mac");
    let end = format!("vif{domid}.{DEVID}");
    let made = format!("/sys/bus/xen-backend/devices/vif-{domid}-{DEVID}/net/{end}/ifindex");
    let bridge = now.links.iter().find(|link| link.name == BRIDGE).unwrap();
    let is_port = |link: &Link| link.name == end && link.is_up && link.master == Some(bridge.index);
    [
        record.contains(&format!("devid={DEVID},")),
        nics.iter().any(|nic| nic["devid"] == DEVID),
        now.nodes.contains_key(&copy),
        now.files.contains_key(Path::new(&made)),
        now.links.iter().any(is_port),
    ]
}

/// The places in which the disk of QEMU is: the VM's record, libxl's record, xenstore, a QEMU of the domain, the nodes of that QEMU.
fn qdisk_places(now: &Snapshot, domid: DomId) -> [bool; 5] {
    let (record, json) = records(now, domid);
    let disks = json["disks"].as_array().unwrap();
    let copy = format!("/libxl/{domid}/device/vbd/{NUMBER}/dev");
    let state = format!("/local/domain/0/backend/qdisk/{domid}/{NUMBER}/state");
    let state = now.nodes.get(&state).map(Vec::as_slice);
    let of_qemu = format!("/local/domain/0/device-model/{domid}/state");
    [
        record.contains(qemu::IMAGE),
        disks.iter().any(|disk| disk["pdev_path"] == qemu::IMAGE),
        now.nodes.contains_key(&copy),
        matches!(state, Some(b"2" | b"4")),
        now.nodes.contains_key(&of_qemu),
    ]
}

/// Whether the QEMUs of a world are those of its disks.
fn check_qemus(world: &World, domid: DomId) {
    let params = format!("/local/domain/0/backend/qdisk/{domid}/{NUMBER}/params");
    let is_there = world.snapshot().nodes.contains_key(&params);
    let wanted = vec![domid.to_string(); usize::from(is_there)];
    assert_eq!(qemu::qemus(world), wanted);
}

const NOWHERE: [bool; 5] = [false; 5];
const EVERYWHERE: [bool; 5] = [true; 5];

fn is_as_before(now: &Snapshot, before: &Snapshot, domid: DomId) -> Result<(), String> {
    DISK.is_as_before(now, before, domid)
}

#[test]
fn a_disk_is_attached_and_detached_and_leaves_nothing() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let before = world.snapshot();
    bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
    assert_eq!(places(&world.snapshot(), domid), EVERYWHERE);
    let again = bench.must(&world, |host| Ok(code(ask(host, domid, &disk(IMAGE)))));
    assert_eq!(again, ErrorCode::DeviceExists);
    bench.must(&world, |host| ask(host, domid, &detach(false)));
    is_as_before(&world.snapshot(), &before, domid).unwrap();
    let again = bench.must(&world, |host| Ok(code(ask(host, domid, &detach(false)))));
    assert_eq!(again, ErrorCode::NoSuchDevice);
    for _ in 0..2 {
        bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
        assert_eq!(places(&world.snapshot(), domid), EVERYWHERE);
        bench.must(&world, |host| ask(host, domid, &detach(true)));
        is_as_before(&world.snapshot(), &before, domid).unwrap();
    }
}

#[test]
fn a_restart_keeps_the_disk_and_a_destroy_leaves_nothing_of_it() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
    world.shut_down(domid, ShutdownReason::Reboot);
    let uuid = uuid::Uuid::parse_str(UUID).unwrap();
    let next = bench.must(&world, |host| restart::restart(host, uuid, domid, false));
    let next = next.unwrap();
    assert_eq!(places(&world.snapshot(), next), EVERYWHERE);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    let now = world.snapshot();
    assert!(now.loops.is_empty() && now.domains.is_empty());
    assert!(
        !now.nodes.keys().any(|node| node.contains("/vbd/")),
        "{:?}",
        now.nodes.keys()
    );
}

#[test]
fn a_disk_of_qemu_has_a_qemu_of_its_own_until_its_detach_and_outlives_a_restart() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let before = world.snapshot();
    let attach = (QDISK.attach)();
    for force in [false, true] {
        bench.must(&world, |host| ask(host, domid, &attach));
        assert_eq!(qdisk_places(&world.snapshot(), domid), EVERYWHERE);
        check_qemus(&world, domid);
        bench.must(&world, |host| ask(host, domid, &detach(force)));
        QDISK
            .is_as_before(&world.snapshot(), &before, domid)
            .unwrap();
        check_qemus(&world, domid);
    }
    bench.must(&world, |host| ask(host, domid, &attach));
    world.shut_down(domid, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(&world, |host| restart::restart(host, uuid, domid, false));
    let next = next.unwrap();
    assert_eq!(qdisk_places(&world.snapshot(), next), EVERYWHERE);
    check_qemus(&world, next);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    assert!(qemu::qemus(&world).is_empty());
}

/// Kills an act at every call. Afterwards the device is everywhere or nowhere, and a second recovery has nothing to do.
fn sweep(
    bench: &Bench,
    subject: Subject,
    prepare: &dyn Fn(&World, DomId),
    request: &Request,
) -> u64 {
    let mut deaths = 0;
    for call in 1.. {
        let mut was_killed = false;
        for moment in Moment::ALL {
            let (world, domid) = world(bench);
            let before = world.snapshot();
            prepare(&world, domid);
            let doom = Some((call, moment));
            let ended = bench
                .process(&world, doom, |host| ask(host, domid, request))
                .0;
            if let Ended::Well(outcome) = ended {
                outcome.unwrap();
                continue;
            }
            (was_killed, deaths) = (true, deaths + 1);
            let recovered = bench.must(&world, |host| recover::all(host, false));
            let now = world.snapshot();
            let found = (subject.places)(&now, domid);
            assert!(
                found == EVERYWHERE || found == NOWHERE,
                "killed {moment:?} call {call}: {found:?}, {recovered:?}"
            );
            if found == NOWHERE {
                subject
                    .is_as_before(&now, &before, domid)
                    .map_err(|fault| format!("killed {moment:?} call {call}: {fault}"))
                    .unwrap();
            }
            assert!(recovered.iter().all(|one| !one.has_failed), "{recovered:?}");
            check_qemus(&world, domid);
            let again = bench.must(&world, |host| recover::all(host, false));
            assert!(again.is_empty(), "{again:?}");
        }
        if !was_killed {
            break;
        }
    }
    deaths
}

#[test]
fn an_attach_can_be_killed_at_any_call() {
    let bench = Bench::with_devices();
    for subject in ALL {
        let deaths = sweep(&bench, subject, &|_, _| (), &(subject.attach)());
        assert!(deaths > 50, "{deaths}");
    }
}

#[test]
fn a_detach_can_be_killed_at_any_call() {
    let bench = Bench::with_devices();
    for (subject, force) in ALL.into_iter().flat_map(|one| [(one, false), (one, true)]) {
        let attach = |world: &World, domid| {
            bench.must(world, |host| ask(host, domid, &(subject.attach)()));
        };
        let deaths = sweep(&bench, subject, &attach, &(subject.detach)(force));
        assert!(deaths > 30, "{deaths}");
    }
}

/// Every call with `XYL_SIM_FULL`, else one of three.
fn stride() -> usize {
    match std::env::var_os("XYL_SIM_FULL") {
        Some(_) => 1,
        None => 3,
    }
}

/// A call that fails once: the device is everywhere or nowhere after a recovery.
#[test]
fn any_call_can_be_refused() {
    let bench = Bench::with_devices();
    // Errors of procfs, in which QEMUs are found, are not told.
    for subject in [DISK, NIC] {
        let requests = [
            (subject.attach)(),
            (subject.detach)(false),
            (subject.detach)(true),
        ];
        for request in requests {
            refuse_any_call(&bench, subject, &request);
        }
    }
}

fn refuse_any_call(bench: &Bench, subject: Subject, request: &Request) {
    let is_attach = matches!(request, Request::AttachDevice { .. });
    let (mut faults, mut refused) = (0, 0);
    for call in (1..).step_by(stride()) {
        let mut has_call = true;
        for choice in 0.. {
            let (world, domid) = world(bench);
            let before = world.snapshot();
            if !is_attach {
                bench.must(&world, |host| ask(host, domid, &(subject.attach)()));
            }
            let fate = world.fate(None).with_fault(Some(Fault { call, choice }));
            let act = |host: &mut Host| ask(host, domid, request);
            let (ended, calls) = bench.run(&world, fate.clone(), act);
            has_call = calls >= call;
            let Some(given) = fate.given_fault() else {
                break;
            };
            let Ended::Well(outcome) = ended else {
                panic!("{given}");
            };
            (faults, refused) = (faults + 1, refused + u64::from(outcome.is_err()));
            let recovered = bench.must(&world, |host| recover::all(host, true));
            let now = world.snapshot();
            let found = (subject.places)(&now, domid);
            let what = format!("{given} at call {call} of {request:?}: {recovered:?}");
            check_qemus(&world, domid);
            assert!(found == EVERYWHERE || found == NOWHERE, "{found:?}: {what}");
            if outcome.is_ok() {
                assert_eq!(found, [is_attach; 5], "{what}");
            }
            if found == NOWHERE {
                subject
                    .is_as_before(&now, &before, domid)
                    .map_err(|fault| format!("{fault}: {what}"))
                    .unwrap();
            }
        }
        if !has_call {
            break;
        }
    }
    println!("{request:?}: {faults} faults, {refused} refused");
    assert!(refused > 10, "{refused} of {faults}");
}

/// xenstored's quota is reached at any call of an attach, and stays so until the attach has ended.
#[test]
fn a_quota_that_is_reached_in_the_middle_leaves_nothing() {
    let bench = Bench::with_devices();
    for subject in ALL {
        let mut refused = 0;
        for call in (1..).step_by(stride()) {
            let (world, domid) = world(&bench);
            let before = world.snapshot();
            let quota = LastingFault::store_quota();
            let fate = world.fate(None).failing_from(call, quota);
            let attach = (subject.attach)();
            let (ended, calls) = bench.run(&world, fate.clone(), |host| ask(host, domid, &attach));
            if calls < call {
                break;
            }
            fate.lift_faults();
            let Ended::Well(outcome) = ended else {
                panic!("call {call}: {ended:?}");
            };
            refused += u64::from(outcome.is_err());
            let recovered = bench.must(&world, |host| recover::all(host, true));
            let now = world.snapshot();
            let what = format!("call {call}: {outcome:?}, {recovered:?}");
            check_qemus(&world, domid);
            if outcome.is_ok() {
                assert_eq!((subject.places)(&now, domid), EVERYWHERE, "{what}");
            } else {
                subject
                    .is_as_before(&now, &before, domid)
                    .map_err(|fault| format!("{fault}: {what}"))
                    .unwrap();
            }
        }
        assert!(refused > 5, "{refused}");
    }
}

#[test]
fn a_soft_reset_keeps_what_was_attached() {
    let bench = Bench::with_devices();
    for subject in ALL {
        let (world, domid) = world(&bench);
        bench.must(&world, |host| ask(host, domid, &(subject.attach)()));
        world.settle();
        world.shut_down(domid, ShutdownReason::SoftReset);
        let uuid = Uuid::parse_str(UUID).unwrap();
        let outcome = bench.must(&world, |host| soft_reset::run(host, Vm { domid, uuid }));
        assert_eq!(outcome, Outcome::Running);
        assert_eq!((subject.places)(&world.snapshot(), domid), EVERYWHERE);
        check_qemus(&world, domid);
        bench.must(&world, |host| ask(host, domid, &(subject.detach)(false)));
        assert_eq!((subject.places)(&world.snapshot(), domid), NOWHERE);
    }
}

#[test]
fn a_backend_that_refuses_or_hangs_leaves_nothing() {
    let bench = Bench::with_devices();
    for (subject, manner) in [
        (DISK, Manner::Refuses),
        (DISK, Manner::Hangs),
        (NIC, Manner::Refuses),
        (NIC, Manner::Hangs),
        (QDISK, Manner::Refuses),
        (QDISK, Manner::Hangs),
    ] {
        let (world, domid) = world(&bench);
        let before = world.snapshot();
        world.backends.set_manner(manner);
        let begun = world.clock.now();
        let attach = (subject.attach)();
        let refused = bench.must(&world, |host| Ok(code(ask(host, domid, &attach))));
        assert_eq!(refused, ErrorCode::Backend, "{manner:?}");
        // QEMU has 45 s to start.
        assert!(world.clock.now() - begun <= Duration::from_secs(60));
        check_qemus(&world, domid);
        let now = world.snapshot();
        subject.is_as_before(&now, &before, domid).unwrap();
    }
}

#[test]
fn a_guest_that_keeps_a_disk_is_named_with_the_state() {
    for subject in [DISK, QDISK] {
        keep_a_disk(subject);
    }
}

fn keep_a_disk(subject: Subject) {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let before = world.snapshot();
    bench.must(&world, |host| ask(host, domid, &(subject.attach)()));
    world.backends.set_guest_keeps(true);
    let begun = world.clock.now();
    let held = bench.must(&world, |host| {
        Ok(ask(host, domid, &detach(false)).unwrap_err())
    });
    assert_eq!(held.code(), ErrorCode::DeviceHeld);
    assert!(held.to_string().contains("closing (state 5)"), "{held}");
    let waited = world.clock.now() - begun;
    // Five seconds to connect, which it never does, and ten to let it go.
    assert!(waited >= Duration::from_secs(15), "{waited:?}");
    assert!(waited < Duration::from_secs(17), "{waited:?}");
    // The guest has the disk still, and a restart would give it to the next domain.
    let now = (subject.places)(&world.snapshot(), domid);
    assert_eq!(now[..3], [true; 3]);
    bench.must(&world, |host| ask(host, domid, &detach(true)));
    subject
        .is_as_before(&world.snapshot(), &before, domid)
        .unwrap();
    check_qemus(&world, domid);
}

/// A guest is not asked for a disk that it is about to connect: Linux's driver does not survive that. One that is paused, or has
/// connected the disk, is asked at once.
#[test]
fn a_guest_has_time_to_connect_a_disk_before_it_is_asked_for_it() {
    let bench = Bench::with_devices();
    for (is_paused, has_connected) in [(false, false), (true, false), (false, true)] {
        let (world, domid) = world(&bench);
        bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
        if has_connected {
            let state = format!("/local/domain/{domid}/device/vbd/51744/state");
            bench.must(&world, |host| write_nodes(host, &[(state, "3")]));
        }
        if is_paused {
            bench.must(&world, |host| Ok(host.hv.pause_domain(domid)?));
        }
        let begun = world.clock.now();
        bench.must(&world, |host| ask(host, domid, &detach(false)));
        let waited = world.clock.now() - begun;
        let is_between = !is_paused && !has_connected;
        assert_eq!(waited >= Duration::from_secs(5), is_between, "{waited:?}");
        assert!(waited < Duration::from_secs(7), "{waited:?}");
        assert_eq!(places(&world.snapshot(), domid), [false; 5]);
    }
}

#[test]
fn a_backend_that_never_closes_does_not_keep_a_forced_detach() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
    world.backends.set_manner(Manner::NeverCloses);
    let begun = world.clock.now();
    bench.must(&world, |host| ask(host, domid, &detach(true)));
    assert!(world.clock.now() - begun < Duration::from_secs(12));
    assert_eq!(places(&world.snapshot(), domid)[..3], [false; 3]);
}

#[test]
fn an_attach_is_cancelled() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let before = world.snapshot();
    world.backends.set_manner(Manner::Hangs);
    let cancel = Cancel::new();
    cancel.request();
    let outcome = bench.must(&world, |host| {
        let info = host.hv.domain_info(domid)?.unwrap();
        let mut asking = Asking {
            cancel: &cancel,
            progress: &mut |_, _| (),
        };
        Ok(code(requests::ask(host, &info, &disk(IMAGE), &mut asking)))
    });
    assert_eq!(outcome, ErrorCode::Cancelled);
    is_as_before(&world.snapshot(), &before, domid).unwrap();
}

#[test]
fn a_disk_that_another_guest_has_is_refused() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let other = bench.must(&world, |host| bench.create(host, "other", OTHER_UUID));
    bench.must(&world, |host| ask(host, other, &disk(IMAGE)));
    let before = world.snapshot();
    let refused = bench.must(&world, |host| Ok(code(ask(host, domid, &disk(IMAGE)))));
    assert_eq!(refused, ErrorCode::DiskBusy);
    is_as_before(&world.snapshot(), &before, domid).unwrap();
}

#[test]
fn what_cannot_be_attached_is_refused() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    for (kind, device, wanted) in [
        ("usbctrl", "x", ErrorCode::NotThereYet),
        ("pci", "x", ErrorCode::Configuration),
        ("vbd", "vdev=vda,target=/x", ErrorCode::Configuration),
        ("vbd", "/srv/extra.img,qcow2,xvdc", ErrorCode::DiskImage),
        ("vbd", "/srv/none.img,raw,xvdc", ErrorCode::DiskImage),
    ] {
        let request = Request::AttachDevice {
            kind: kind.to_owned(),
            device: device.to_owned(),
        };
        let refused = bench.must(&world, |host| Ok(code(ask(host, domid, &request))));
        assert_eq!(refused, wanted, "{device}");
    }
}

// ---- beside each other ------------------------------------------------------------------------------

/// The act of a process.
type Act<'a> = &'a (dyn Fn(&mut Host) -> Result<(), EngineError> + Sync);

/// Lets processes run beside each other in the order of a seed; the results. The first one serves if `is_served`. One of
/// them may be killed.
fn beside(
    bench: &Bench,
    world: &World,
    seed: u64,
    acts: &[Act<'_>],
    is_served: bool,
    doom: Option<(usize, u64, Moment)>,
) -> Vec<Option<Result<(), EngineError>>> {
    let turns = Turns::fair(seed, &world.clock, acts.len());
    let fates: Vec<_> = (0..acts.len())
        .map(|number| {
            let seat = match is_served && number == 0 {
                true => turns.servant(number),
                false => turns.seat(number),
            };
            let doom = doom.filter(|(who, ..)| *who == number);
            world
                .fate(doom.map(|(_, call, moment)| (call, moment)))
                .seated(seat)
        })
        .collect();
    let ended = std::thread::scope(|scope| {
        let threads: Vec<_> = fates
            .into_iter()
            .zip(acts)
            .map(|(fate, act)| scope.spawn(move || bench.run(world, fate, |host| act(host)).0))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect::<Vec<_>>()
    });
    assert_eq!(turns.stuck(), None);
    let result = |ended| match ended {
        Ended::Well(result) => Some(result),
        Ended::Killed => None,
    };
    ended.into_iter().map(result).collect()
}

/// Lets two VMs attach one disk at the same time; how many have got it.
fn race(bench: &Bench, seed: u64) -> usize {
    let (world, domid) = world(bench);
    let other = bench.must(&world, |host| bench.create(host, "other", OTHER_UUID));
    let left = |host: &mut Host| ask(host, domid, &disk(IMAGE)).map(drop);
    let right = |host: &mut Host| ask(host, other, &disk(IMAGE)).map(drop);
    let results = beside(bench, &world, seed, &[&left, &right], false, None);
    results.iter().flatten().filter(|one| one.is_ok()).count()
}

#[test]
fn a_lock_of_a_disk_that_is_not_taken_is_found() {
    let mut bench = Bench::with_devices();
    bench.sabotage = Some(Sabotage::NoLock("busy/disk-"));
    assert!((0..40).any(|seed| race(&bench, seed) == 2));
}

#[test]
fn of_two_vms_that_race_for_one_disk_one_gets_it() {
    let bench = Bench::with_devices();
    for seed in 0..40 {
        let (world, domid) = world(&bench);
        let other = bench.must(&world, |host| bench.create(host, "other", OTHER_UUID));
        let left = |host: &mut Host| ask(host, domid, &disk(IMAGE)).map(drop);
        let right = |host: &mut Host| ask(host, other, &disk(IMAGE)).map(drop);
        let results = beside(&bench, &world, seed, &[&left, &right], false, None);
        let codes: Vec<_> = results
            .into_iter()
            .map(|result| result.unwrap().err().map(|error| error.code()))
            .collect();
        let nr_won = codes.iter().filter(|code| code.is_none()).count();
        assert_eq!(nr_won, 1, "seed {seed}: {codes:?}");
        assert!(
            codes.contains(&Some(ErrorCode::DiskBusy)),
            "seed {seed}: {codes:?}"
        );
        let now = world.snapshot();
        let is_left = codes[0].is_none();
        assert_eq!(places(&now, domid), [is_left; 5], "seed {seed}");
        let of_image = now
            .loops
            .iter()
            .filter(|one| one.backing_path == Path::new(IMAGE));
        assert_eq!(of_image.count(), 1, "seed {seed}");
    }
}

#[test]
fn an_attach_a_detach_and_a_destroy_meet_and_one_is_killed() {
    let bench = Bench::with_devices();
    for seed in 0..60 {
        let (world, domid) = world(&bench);
        let attach = |host: &mut Host| ask(host, domid, &disk(IMAGE)).map(drop);
        let detach = |host: &mut Host| ask(host, domid, &detach(seed % 2 == 0)).map(drop);
        let destroy = |host: &mut Host| match destroy::destroy(host, domid, false) {
            Err(EngineError::NoSuchDomain(_)) => Ok(()),
            other => other,
        };
        let acts: [&[Act<'_>]; 2] = [&[&attach, &detach], &[&attach, &detach, &destroy]];
        let acts = acts[(seed % 2) as usize];
        let doom = (seed % 3 != 0).then_some((
            (seed % acts.len() as u64) as usize,
            10 + seed * 7 % 60,
            Moment::ALL[(seed % 3) as usize],
        ));
        beside(&bench, &world, seed, acts, false, doom);
        let recovered = bench.must(&world, |host| recover::all(host, false));
        assert!(
            recovered.iter().all(|one| !one.has_failed),
            "seed {seed}: {recovered:?}"
        );
        let now = world.snapshot();
        if now.domains.contains_key(&domid) {
            let found = places(&now, domid);
            assert!(
                found == EVERYWHERE || found == NOWHERE,
                "seed {seed}: {found:?}"
            );
            bench.must(&world, |host| destroy::destroy(host, domid, false));
        }
        let now = world.snapshot();
        assert!(now.loops.is_empty(), "seed {seed}: {:?}", now.loops);
        let has_vbd = |node: &&String| node.contains("/vbd/");
        assert_eq!(now.nodes.keys().find(has_vbd), None, "seed {seed}");
    }
}

/// A guest that lets a disk go after the detach has timed out: the monitor, or the next one, finishes the detach.
#[test]
fn the_monitor_finishes_a_detach_when_the_guest_lets_go() {
    for subject in [DISK, QDISK] {
        finish_a_detach(subject);
    }
}

fn finish_a_detach(subject: Subject) {
    let bench = Bench::with_devices();
    for (seed, is_replaced) in [(1, false), (2, true)] {
        let (world, domid) = world(&bench);
        let before = world.snapshot();
        let uuid = Uuid::parse_str(UUID).unwrap();
        bench.must(&world, |host| {
            monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
            ask(host, domid, &(subject.attach)())
        });
        world.backends.set_guest_keeps(true);
        let lines = Mutex::new(Vec::new());
        let watch = |host: &mut Host| {
            monitor::watch(host, Vm { domid, uuid }, &mut |line| {
                lines.lock().unwrap().push(line.to_owned());
            })
        };
        let let_go = |host: &mut Host| {
            world.backends.set_guest_keeps(false);
            // Any change of xenstore has the backend look.
            let node = xenstore::Path::new("/tool/x").unwrap();
            xenstore::Tree::write(&mut host.store, &node, b"").unwrap();
            host.wait_for(&[], Duration::from_secs(5)).map(drop)
        };
        let detach = |host: &mut Host| {
            await_monitor(host, uuid)?;
            assert_eq!(
                code(ask(host, domid, &detach(false))),
                ErrorCode::DeviceHeld
            );
            match is_replaced {
                true => Ok(()),
                false => let_go(host),
            }
        };
        beside(&bench, &world, seed, &[&watch, &detach], true, None);
        if is_replaced {
            let now = (subject.places)(&world.snapshot(), domid);
            assert_eq!(now[..3], [true; 3]);
            beside(&bench, &world, seed, &[&watch, &let_go], true, None);
        }
        let lines = lines.into_inner().unwrap();
        assert!(
            lines
                .iter()
                .any(|line| line.contains("has let vbd 51744 of domain")),
            "{lines:?}"
        );
        let now = (subject.places)(&world.snapshot(), domid);
        assert_eq!(now, NOWHERE, "{lines:?}");
        check_qemus(&world, domid);
        assert!(world.snapshot().loops.len() == before.loops.len());
    }
}

/// A backend that goes while a monitor watches, and before the next one comes: each reports it once.
#[test]
fn a_device_whose_backend_goes_is_reported_once() {
    let bench = Bench::with_devices();
    for (seed, subject, device) in [
        (1, DISK, format!("vbd/D/{NUMBER}")),
        (2, NIC, format!("vif/D/{DEVID}")),
    ] {
        let (world, domid) = world(&bench);
        let uuid = Uuid::parse_str(UUID).unwrap();
        bench.must(&world, |host| {
            monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
            ask(host, domid, &(subject.attach)())
        });
        let backend = device.replace('D', &domid.to_string());
        let backend = format!("/local/domain/0/backend/{backend}");
        let lines = Mutex::new(Vec::new());
        let watch = |host: &mut Host| {
            monitor::watch(host, Vm { domid, uuid }, &mut |line| {
                lines.lock().unwrap().push(line.to_owned());
            })
        };
        let go = |host: &mut Host| {
            await_monitor(host, uuid)?;
            host.wait_for(&[], Duration::from_secs(2))?;
            xenstore::Tree::rm(&mut host.store, &xenstore::Path::new(&backend).unwrap())?;
            host.wait_for(&[], Duration::from_secs(5)).map(drop)
        };
        let nothing = |host: &mut Host| host.wait_for(&[], Duration::from_secs(5)).map(drop);
        let reports = || {
            let lines = lines.lock().unwrap();
            let all = lines.iter().filter(|line| line.contains("is lost"));
            all.cloned().collect::<Vec<_>>()
        };
        beside(&bench, &world, seed, &[&watch, &nothing], true, None);
        assert!(reports().is_empty(), "{:?}", reports());
        beside(&bench, &world, seed, &[&watch, &go], true, None);
        assert_eq!(reports().len(), 1, "{lines:?}");
        beside(&bench, &world, seed, &[&watch, &nothing], true, None);
        assert_eq!(reports().len(), 2, "{lines:?}");
        bench.must(&world, |host| ask(host, domid, &(subject.detach)(true)));
        let found = (subject.places)(&world.snapshot(), domid);
        assert_eq!(found[..3], [false; 3]);
    }
}

#[test]
fn a_restart_follows_what_xl_has_attached_and_detached() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
    // As xl does: libxl's record has the disk as it was asked for, and a detach leaves the record as it is.
    let path = format!("/var/lib/xyl/vm/{UUID}/config.cfg");
    let text = String::from_utf8(world.disk.contents(Path::new(&path)).unwrap()).unwrap();
    let without = text.replace(&format!("target={IMAGE}"), "target=/srv/none");
    let without = without.replace("vdev=xvdc", "vdev=xvdd");
    assert_ne!(text, without);
    world.disk.put(Path::new(&path), without.as_bytes());
    let json = format!("/var/lib/xen/userdata-d.{domid}.{UUID}.libxl-json");
    let bytes = world.disk.contents(Path::new(&json)).unwrap();
    let mut record: Json = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap()).unwrap();
    let entry = &mut record["disks"][2];
    assert_eq!(entry["vdev"], "xvdc");
    *entry =
        serde_json::json!({"pdev_path": IMAGE, "vdev": "xvdc", "format": "raw", "readwrite": 1});
    world
        .disk
        .put(Path::new(&json), format!("{record}\0").as_bytes());
    world.shut_down(domid, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(&world, |host| restart::restart(host, uuid, domid, false));
    assert_eq!(places(&world.snapshot(), next.unwrap()), EVERYWHERE);
}

/// Writes nodes as another toolstack does.
fn write_nodes(host: &mut Host, nodes: &[(String, &str)]) -> Result<(), EngineError> {
    for (path, value) in nodes {
        let path = xenstore::Path::new(path).unwrap();
        xenstore::Tree::write(&mut host.store, &path, value.as_bytes())?;
    }
    Ok(())
}

/// A process dies at each call of a detach. Before the next one, xl removes what is left of the disk and attaches another one of
/// the same number, if the detach had not ended.
#[test]
fn a_resumed_detach_leaves_the_disk_that_xl_has_attached_meanwhile() {
    let bench = Bench::with_devices();
    let mut nr_replaced = 0;
    for call in (1..).step_by(5) {
        let (world, domid) = world(&bench);
        bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
        let doom = Some((call, Moment::Before));
        let ended = bench
            .process(&world, doom, |host| ask(host, domid, &detach(true)))
            .0;
        if let Ended::Well(outcome) = ended {
            outcome.unwrap();
            break;
        }
        let copy = format!("/libxl/{domid}/device/vbd/{NUMBER}");
        let backend = format!("/local/domain/0/backend/vbd/{domid}/{NUMBER}");
        bench.must(&world, |host| {
            write_nodes(
                host,
                &[
                    (format!("{copy}/backend"), backend.as_str()),
                    (format!("{copy}/params"), "/srv/of-xl.img"),
                    (format!("{copy}/mode"), "w"),
                    (format!("{backend}/online"), "1"),
                    (format!("{backend}/state"), "4"),
                ],
            )
        });
        bench.must(&world, |host| recover::all(host, false));
        let now = world.snapshot();
        let online = now.nodes.get(&format!("{backend}/online"));
        assert_eq!(online.map(Vec::as_slice), Some(&b"1"[..]), "call {call}");
        nr_replaced += 1;
    }
    assert!(nr_replaced > 5, "{nr_replaced}");
}

/// A backend without a state is asked to close too, so that its device is removed.
#[test]
fn a_forced_detach_removes_a_disk_without_a_state() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    bench.must(&world, |host| ask(host, domid, &disk(IMAGE)));
    let state = format!("/local/domain/0/backend/vbd/{domid}/{NUMBER}/state");
    bench.must(&world, |host| {
        let path = xenstore::Path::new(&state).unwrap();
        Ok(xenstore::Tree::rm(&mut host.store, &path)?)
    });
    bench.must(&world, |host| ask(host, domid, &detach(true)));
    assert_eq!(places(&world.snapshot(), domid)[..3], [false; 3]);
}

/// Once the backend has the disk, the guest may use it. A loop device without its image is none.
#[test]
fn an_attach_whose_process_died_keeps_a_disk_that_the_backend_has() {
    let bench = Bench::with_devices();
    let mut nr_taken = 0;
    for call in 1.. {
        let (world, domid) = world(&bench);
        let doom = Some((call, Moment::After));
        let ended = bench
            .process(&world, doom, |host| ask(host, domid, &disk(IMAGE)))
            .0;
        if let Ended::Well(outcome) = ended {
            outcome.unwrap();
            break;
        }
        let [.., is_open, has_image] = places(&world.snapshot(), domid);
        bench.must(&world, |host| recover::all(host, false));
        if is_open && has_image {
            nr_taken += 1;
            assert_eq!(places(&world.snapshot(), domid), EVERYWHERE, "call {call}");
        }
    }
    assert!(nr_taken > 1, "{nr_taken}");
}

/// A process that has given up its rights to the host's network, and to start QEMU.
struct WithoutRights(Box<dyn os_port::Process>);

impl os_port::Process for WithoutRights {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn is_running(&self, id: u32) -> bool {
        self.0.is_running(id)
    }

    fn started_ticks(&self, id: u32) -> Option<u64> {
        self.0.started_ticks(id)
    }

    fn new_uuid(&self) -> [u8; 16] {
        self.0.new_uuid()
    }

    fn may_change_links(&self) -> bool {
        false
    }

    fn may_start_qemu(&self) -> bool {
        false
    }
}

/// As xl does: a network interface that was put at another bridge stays there, and one that was taken out stays out.
#[test]
fn a_restart_follows_the_interfaces_of_xl() {
    const QUARANTINE: &str = "quarantine";
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let bridge = os_port::LinkName::parse(QUARANTINE).unwrap();
    world.links.add(&bridge, Some("bridge"));
    let nic = |devid: u32| {
        let mac = format!("00:16:3e:00:00:0{devid}");
        serde_json::json!({"devid": devid, "mac": mac, "bridge": QUARANTINE, "mtu": 1500,
            "script": "/etc/xen/scripts/vif-bridge", "nictype": "vif"})
    };
    let json = format!("/var/lib/xen/userdata-d.{domid}.{UUID}.libxl-json");
    let bytes = world.disk.contents(Path::new(&json)).unwrap();
    let mut record: Json = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap()).unwrap();
    record["nics"] = Json::Array(vec![nic(0), nic(1)]);
    let bytes = format!("{record}\0").into_bytes();
    world.disk.put(Path::new(&json), &bytes);
    let copy = |domid, number, name| {
        let path = format!("/libxl/{domid}/device/vif/{number}{name}");
        xenstore::Path::new(&path).unwrap()
    };
    let mut store = world.store.client(0).unwrap();
    let backend = format!("/local/domain/0/backend/vif/{domid}/1");
    for (name, value) in [
        ("/backend", backend.as_str()),
        ("/script", "/etc/xen/scripts/vif-bridge"),
    ] {
        let node = copy(domid, 1, name);
        xenstore::Tree::write(&mut store, &node, value.as_bytes()).unwrap();
    }
    let uuid = Uuid::parse_str(UUID).unwrap();
    let restart = |domid| {
        world.shut_down(domid, ShutdownReason::Reboot);
        let next = bench.must(&world, |host| restart::restart(host, uuid, domid, false));
        next.unwrap()
    };
    // The monitor of a VM that began without an interface has given up its right: the next monitor restarts the VM.
    world.shut_down(domid, ShutdownReason::Reboot);
    let refused = bench.must(&world, |host| {
        let process = std::mem::replace(&mut host.process, Box::new(os_port::SystemProcess));
        host.process = Box::new(WithoutRights(process));
        Ok(restart::restart(host, uuid, domid, false).unwrap_err())
    });
    assert_eq!(refused.code(), ErrorCode::Network);
    assert!(world.snapshot().domains.contains_key(&domid));
    let domid = restart(domid);
    for (number, mac) in [(0, "00:16:3e:00:00:00"), (1, "00:16:3e:00:00:01")] {
        let mut read = |name| {
            let node = copy(domid, number, name);
            xenstore::Tree::read_text_opt(&mut store, &node).unwrap()
        };
        assert_eq!(read("/bridge").as_deref(), Some(QUARANTINE));
        assert_eq!(read("/mac").as_deref(), Some(mac));
    }
    // A detach of xl leaves libxl's record as it is.
    xenstore::Tree::rm(&mut store, &copy(domid, 0, "")).unwrap();
    let domid = restart(domid);
    let mut is_there = |number| {
        let node = copy(domid, number, "/mac");
        let mac = xenstore::Tree::read_text_opt(&mut store, &node).unwrap();
        mac.is_some()
    };
    assert!(!is_there(0) && is_there(1));
}

// ---- network interfaces -----------------------------------------------------------------------------

fn mac_of(world: &World, domid: DomId, devid: u32) -> Option<String> {
    let path = format!("/libxl/{domid}/device/vif/{devid}/mac");
    let mac = world.snapshot().nodes.get(&path).cloned();
    mac.map(|mac| String::from_utf8(mac).unwrap())
}

#[test]
fn an_interface_is_attached_and_detached_and_leaves_nothing() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let before = world.snapshot();
    bench.must(&world, |host| ask(host, domid, &nic("bridge=xenbr0")));
    assert_eq!(nic_places(&world.snapshot(), domid), EVERYWHERE);
    let mac = mac_of(&world, domid, DEVID).unwrap();
    let backend = format!("/local/domain/0/backend/vif/{domid}/{DEVID}/hotplug-status");
    assert_eq!(world.snapshot().nodes[&backend], b"connected");
    // Its address is the one of a create with two interfaces.
    let both = bench.config("guest", UUID).replace("[ '' ]", "[ '', '' ]");
    let nics = bench.plan(&both).unwrap().spec.nics;
    assert_eq!(nics[1].mac.to_string(), mac);
    for (request, wanted) in [
        (nic("devid=1"), ErrorCode::DeviceExists),
        (unplug("2", false), ErrorCode::NoSuchDevice),
        (unplug("00:16:3e:00:00:01", false), ErrorCode::NoSuchDevice),
        (unplug("vif1", false), ErrorCode::NoSuchDevice),
    ] {
        let refused = bench.must(&world, |host| Ok(code(ask(host, domid, &request))));
        assert_eq!(refused, wanted, "{request:?}");
    }
    bench.must(&world, |host| ask(host, domid, &unplug(&mac, false)));
    NIC.is_as_before(&world.snapshot(), &before, domid).unwrap();
    for force in [false, true] {
        bench.must(&world, |host| ask(host, domid, &nic("")));
        assert_eq!(mac_of(&world, domid, DEVID).as_ref(), Some(&mac));
        bench.must(&world, |host| ask(host, domid, &unplug("1", force)));
        NIC.is_as_before(&world.snapshot(), &before, domid).unwrap();
    }
}

#[test]
fn a_restart_keeps_the_interface_and_a_destroy_leaves_nothing_of_it() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    bench.must(&world, |host| ask(host, domid, &nic("mtu=1300")));
    let mac = mac_of(&world, domid, DEVID);
    world.shut_down(domid, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(&world, |host| restart::restart(host, uuid, domid, false));
    let next = next.unwrap();
    assert_eq!(nic_places(&world.snapshot(), next), EVERYWHERE);
    assert_eq!(mac_of(&world, next, DEVID), mac);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    let now = world.snapshot();
    assert!(now.links.iter().all(|link| link.name == BRIDGE));
    let is_of_vif = |node: &&String| node.contains("/vif/");
    assert_eq!(now.nodes.keys().find(is_of_vif), None);
}

/// As with xl: the guest has its time, and loses the interface then.
#[test]
fn a_guest_that_keeps_an_interface_loses_it_after_its_time() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let before = world.snapshot();
    bench.must(&world, |host| ask(host, domid, &nic("")));
    world.backends.set_guest_keeps(true);
    let begun = world.clock.now();
    bench.must(&world, |host| ask(host, domid, &unplug("1", false)));
    let waited = world.clock.now() - begun;
    // Five seconds to connect, which it never does, and ten to let it go.
    assert!(waited >= Duration::from_secs(15), "{waited:?}");
    assert!(waited < Duration::from_secs(17), "{waited:?}");
    NIC.is_as_before(&world.snapshot(), &before, domid).unwrap();
}

#[test]
fn an_interface_that_cannot_be_had_is_refused_and_leaves_nothing() {
    let bench = Bench::with_devices();
    let (world, domid) = world(&bench);
    let other = os_port::LinkName::parse("eth0").unwrap();
    world.links.add(&other, Some("dummy"));
    bench.must(&world, |host| ask(host, domid, &nic("devid=7,vifname=web")));
    let same = format!("mac={}", mac_of(&world, domid, 0).unwrap());
    let before = world.snapshot();
    for (words, wanted) in [
        ("bridge=none", ErrorCode::Network),
        ("bridge=eth0", ErrorCode::Network),
        ("vifname=eth0", ErrorCode::Network),
        ("vifname=web", ErrorCode::DeviceUnsupported),
        (same.as_str(), ErrorCode::DeviceUnsupported),
        ("devid=0", ErrorCode::DeviceExists),
        ("devid=10000", ErrorCode::DeviceUnsupported),
        ("script=vif-none", ErrorCode::Network),
        ("vlan=10p", ErrorCode::DeviceUnsupported),
        ("brige=xenbr0", ErrorCode::Configuration),
    ] {
        let refused = bench.must(&world, |host| Ok(code(ask(host, domid, &nic(words)))));
        assert_eq!(refused, wanted, "{words}");
        NIC.is_as_before(&world.snapshot(), &before, domid).unwrap();
    }
}

/// Runs a monitor that has given up its rights.
fn watch_without_rights(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    let process = std::mem::replace(&mut host.process, Box::new(os_port::SystemProcess));
    host.process = Box::new(WithoutRights(process));
    monitor::watch(host, vm, &mut |_| ())
}

/// Waits until a monitor has its lock. It may have been killed before.
fn await_monitor(host: &mut Host, uuid: Uuid) -> Result<(), EngineError> {
    let watch = host.dirs.watch(uuid);
    for _ in 0..200 {
        if host.files.is_locked(&watch).unwrap_or(false) {
            break;
        }
        host.wait_for(&[], Duration::from_millis(10))?;
    }
    Ok(())
}

/// A VM without interfaces and QEMU, whose monitor has given up its rights.
fn world_without_interface(bench: &Bench) -> (World, Vm) {
    let world = World::new(256);
    qemu::install(&world);
    let plain = bench.config("guest", UUID).replace("vif = [ '' ]\n", "");
    let domid = bench.must(&world, |host| bench.create_from(host, &plain));
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, uuid)
    });
    world.disk.sync_all();
    (world, Vm { domid, uuid })
}

#[test]
fn the_first_interface_of_a_vm_is_attached_though_its_monitor_has_no_right() {
    let subject = Subject {
        attach: || nic("devid=1"),
        ..NIC
    };
    attach_without_right(subject, ErrorCode::Network);
}

#[test]
fn the_first_disk_of_qemu_is_attached_though_the_vms_monitor_has_no_right() {
    attach_without_right(QDISK, ErrorCode::Backend);
}

/// The monitor ends, and the command attaches the device. One of them may be killed.
fn attach_without_right(subject: Subject, end: ErrorCode) {
    let bench = Bench::with_devices();
    for seed in 0..60 {
        let (world, vm) = world_without_interface(&bench);
        let before = world.snapshot();
        let watch = |host: &mut Host| watch_without_rights(host, vm);
        let attach = |host: &mut Host| {
            await_monitor(host, vm.uuid)?;
            ask(host, vm.domid, &(subject.attach)()).map(drop)
        };
        let doom = (seed % 3 != 0).then_some((
            (seed % 2) as usize,
            4 + seed * 7 % 60,
            Moment::ALL[(seed % 3) as usize],
        ));
        let results = beside(&bench, &world, seed, &[&watch, &attach], true, doom);
        let recovered = bench.must(&world, |host| recover::all(host, false));
        let found = (subject.places)(&world.snapshot(), vm.domid);
        let what = format!("seed {seed}: {found:?}, {results:?}, {recovered:?}");
        match &results[..] {
            [Some(Err(ended)), Some(Ok(()))] => {
                assert_eq!(ended.code(), end, "{what}");
                assert_eq!(found, EVERYWHERE, "{what}");
            }
            [None, Some(Ok(()))] => assert_eq!(found, EVERYWHERE, "{what}"),
            [_, None] if found == NOWHERE => {
                // The monitor writes its number into its lock's file.
                let leaks = world.snapshot().leaks(&before, &may_stay);
                assert!(leaks.is_empty(), "{what}: {leaks:?}");
            }
            [_, None] => assert_eq!(found, EVERYWHERE, "{what}"),
            _ => panic!("{what}"),
        }
        let file = format!("/run/xyl/watch/{UUID}");
        assert!(
            world.snapshot().files.contains_key(Path::new(&file)),
            "{what}"
        );
    }
}

/// A request that no process waits for stays in the queue, and the next monitor carries it out.
#[test]
fn a_request_for_an_interface_stays_for_a_monitor_with_the_right() {
    let bench = Bench::with_devices();
    let (world, vm) = world_without_interface(&bench);
    bench.must(&world, |host| {
        assert!(!requests::needs(host, vm.uuid)?.links);
        let id = RequestId::new(1, host.process.new_uuid());
        let now_ms = host.clock.calendar();
        let now_ms = now_ms.duration_since(std::time::UNIX_EPOCH).unwrap();
        let now_ms = now_ms.as_millis() as u64;
        let asker = Asker::Remote {
            name: "test".to_owned(),
        };
        let envelope = Envelope::new(id, vm.uuid, now_ms, asker, nic("devid=1"));
        requests::submit(host, &envelope)?;
        assert!(requests::needs(host, vm.uuid)?.links);
        let ended = watch_without_rights(host, vm).unwrap_err();
        assert_eq!(ended.code(), ErrorCode::Network);
        assert!(requests::needs(host, vm.uuid)?.links);
        Ok(())
    });
    assert_eq!(nic_places(&world.snapshot(), vm.domid), NOWHERE);
    let watch = |host: &mut Host| monitor::watch(host, vm, &mut |_| ());
    let look = |host: &mut Host| {
        while requests::needs(host, vm.uuid)?.links {
            host.wait_for(&[], Duration::from_millis(10))?;
        }
        Ok(())
    };
    beside(&bench, &world, 1, &[&watch, &look], true, None);
    assert_eq!(nic_places(&world.snapshot(), vm.domid), EVERYWHERE);
}
