//! Disks and network interfaces that a driver domain serves: processes killed at any call, driver domains that do not answer, lie, change
//! their state again and again, remove nodes, end, or whose number another domain has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::Path;
use std::time::{Duration, Instant};

use bench::Bench;
use os_port::Clock as _;
use uuid::Uuid;
use xen_port::{DomId, Hypervisor as _, ShutdownReason};
use xen_sim::{DriverManner, Ended, Moment, Snapshot, World};
use xenstore::{Perms, Tree};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::requests::{self, Done, Needs, Request};
use xyl_engine::vm::monitor_lock;
use xyl_engine::{EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const STORE_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";
/// The driver domain's VM.
const STORE: &str = "store";
/// Number of the disk `xvda`.
const NUMBER: u32 = 51712;
const DISK: &str = "vdev=xvda,format=raw,access=rw,backend=store,target=images/a,b";
const NIC: &str = "mac=00:16:3e:00:00:07,bridge=br-there,backend=store";

fn config(bench: &Bench) -> String {
    bench.config("guest", UUID) + &format!("disk = [ '{DISK}' ]\nvif = [ '{NIC}' ]\n")
}

/// A world with a driver domain.
fn world(bench: &Bench, manner: DriverManner) -> (World, DomId) {
    let world = World::new(256);
    let domid = driver_domain(bench, &world, manner);
    (world, domid)
}

fn driver_domain(bench: &Bench, world: &World, manner: DriverManner) -> DomId {
    let domid = bench.must(world, |host| bench.create(host, STORE, STORE_UUID));
    world.backends.set_driver_domain(domid.0, manner);
    world.disk.sync_all();
    domid
}

/// Ends a driver domain with all that is in xenstore of it, as its own toolstack does.
fn end(bench: &Bench, world: &World, domid: DomId) {
    world.backends.remove_driver_domain(domid.0);
    bench.must(world, |host| destroy::destroy(host, domid, false));
}

fn create(bench: &Bench, world: &World) -> Result<DomId, EngineError> {
    let text = config(bench);
    let made = bench.process(world, None, |host| bench.create_from(host, &text));
    match made.0 {
        Ended::Well(outcome) => outcome,
        Ended::Killed => panic!("killed"),
    }
}

fn ask(host: &mut Host, domid: DomId, request: &Request) -> Result<Done, EngineError> {
    let info = host.hv.domain_info(domid)?.unwrap();
    requests::ask_for(host, &info, request)
}

fn attach(kind: &str, text: &str) -> Request {
    Request::AttachDevice {
        kind: kind.to_owned(),
        device: text.to_owned(),
    }
}

fn detach(kind: &str, asked: &str, force: bool) -> Request {
    Request::DetachDevice {
        kind: kind.to_owned(),
        device: asked.to_owned(),
        force,
    }
}

fn backends(driver: DomId, guest: DomId) -> [String; 2] {
    let folder = format!("/local/domain/{driver}/backend");
    [
        format!("{folder}/vbd/{guest}/{NUMBER}"),
        format!("{folder}/vif/{guest}/0"),
    ]
}

/// Whether each device has its nodes and is served.
fn is_served(now: &Snapshot, driver: DomId, guest: DomId) -> bool {
    let text = |path: String| now.nodes.get(&path).cloned().unwrap_or_default();
    backends(driver, guest).iter().all(|backend| {
        text(format!("{backend}/state")) == b"2"
            && text(format!("{backend}/hotplug-status")) == b"connected"
    })
}

/// Whether nothing of a guest's devices is left: of its nodes, or of folders of the driver domain.
fn has_traces(now: &Snapshot, guest: DomId) -> Vec<String> {
    let parts = [
        format!("/vbd/{guest}"),
        format!("/vif/{guest}"),
        format!("/libxl/{guest}/"),
        format!("/local/domain/{guest}/"),
    ];
    let nodes = now.nodes.keys();
    let left = nodes.filter(|node| parts.iter().any(|part| node.contains(part)));
    left.cloned().collect()
}

fn took(world: &World, act: impl FnOnce()) -> Duration {
    let begun: Instant = world.clock.now();
    act();
    world.clock.now() - begun
}

#[test]
fn a_driver_domain_serves_the_devices_of_a_guest() {
    let bench = Bench::new();
    let (world, driver) = world(&bench, DriverManner::Good);
    let before = world.snapshot();
    let guest = create(&bench, &world).unwrap();
    let now = world.snapshot();
    assert!(is_served(&now, driver, guest), "{:?}", now.nodes);
    // Domain 0 opens no file, makes no loop device and changes no interface.
    assert!(now.loops.is_empty());
    assert_eq!(now.links, before.links);
    let nodes = world.store.nodes();
    let perms = |path: &str| {
        let path = xenstore::Path::new(path).unwrap();
        let (_, (_, perms)) = nodes.iter().find(|(known, _)| **known == path).unwrap();
        perms.clone()
    };
    let owned = |owner: DomId, reader: DomId| {
        Perms::owned_by(owner.0).with(reader.0, xenstore::Access::Read)
    };
    let [disk, nic] = backends(driver, guest);
    for backend in [disk.clone(), format!("{disk}/params"), nic] {
        assert_eq!(perms(&backend), owned(driver, guest), "{backend}");
    }
    let front = format!("/local/domain/{guest}/device");
    for name in ["vbd/51712", "vbd/51712/state", "vif/0", "vif/0/mac"] {
        assert_eq!(perms(&format!("{front}/{name}")), owned(guest, driver));
    }
    let mtu = perms(&format!("{front}/vif/0/mtu"));
    assert_eq!(mtu, owned(driver, guest));
    let copy = format!("/libxl/{guest}/device/vbd/{NUMBER}");
    assert_eq!(perms(&copy), Perms::owned_by(0));
    let text = |path: &str| String::from_utf8(now.nodes[path].clone()).unwrap();
    assert_eq!(text(&format!("{disk}/params")), "images/a,b");
    assert_eq!(text(&format!("{disk}/script")), "/etc/xen/scripts/block");
    assert!(!now.nodes.contains_key(&format!("{disk}/physical-device")));
    assert_eq!(text(&format!("{front}/vbd/51712/backend")), disk);
    assert_eq!(
        text(&format!("{front}/vbd/51712/backend-id")),
        driver.to_string()
    );
    // A guest does not trust a driver domain.
    assert_eq!(text(&format!("{front}/vbd/51712/trusted")), "0");
    assert_eq!(text(&format!("{copy}/xyl-backend-domain")), STORE_UUID);
    let json = format!("/var/lib/xen/userdata-d.{guest}.{UUID}.libxl-json");
    let json = String::from_utf8(now.files[Path::new(&json)].clone()).unwrap();
    let named = json.matches("\"backend_domname\"").count();
    assert_eq!(named, 2, "{json}");
    bench.must(&world, |host| destroy::destroy(host, guest, false));
    assert_eq!(has_traces(&world.snapshot(), guest), [""; 0]);
}

/// The number of a domain is another's one day, so the record has the name.
#[test]
fn a_restart_looks_for_the_driver_domain_by_its_name() {
    let bench = Bench::new();
    let (world, driver) = world(&bench, DriverManner::Good);
    let text = config(&bench).replace("backend=store", &format!("backend={driver}"));
    let guest = bench.must(&world, |host| bench.create_from(host, &text));
    let record = format!("/var/lib/xyl/vm/{UUID}/config.cfg");
    let record = String::from_utf8(world.snapshot().files[Path::new(&record)].clone()).unwrap();
    assert_eq!(record.matches("backend=store").count(), 2, "{record}");
    end(&bench, &world, driver);
    world.shut_down(guest, ShutdownReason::Reboot);
    let next_driver = driver_domain(&bench, &world, DriverManner::Good);
    assert_ne!(driver, next_driver);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(&world, |host| restart::restart(host, uuid, guest, false));
    let next = next.unwrap();
    assert!(is_served(&world.snapshot(), next_driver, next));
    assert_eq!(has_traces(&world.snapshot(), guest), [""; 0]);
}

/// Puts a disk of a driver domain, which libxl's record numbers, among those of a guest, as xl does. The toolstack's copy has it.
fn xl_attaches(world: &World, guest: DomId, driver: DomId) {
    let mut store = world.store.client(0).unwrap();
    let copy = format!("/libxl/{guest}/device/vbd/51728");
    for (name, value) in [
        ("dev", "xvdb".to_owned()),
        ("params", "images/c".to_owned()),
        (
            "backend",
            format!("/local/domain/{driver}/backend/vbd/{guest}/51728"),
        ),
        (
            "frontend",
            format!("/local/domain/{guest}/device/vbd/51728"),
        ),
    ] {
        let path = xenstore::Path::new(&format!("{copy}/{name}")).unwrap();
        store.write(&path, value.as_bytes()).unwrap();
    }
    let path = format!("/var/lib/xen/userdata-d.{guest}.{UUID}.libxl-json");
    let bytes = world.disk.contents(Path::new(&path)).unwrap();
    let mut record: serde_json::Value =
        serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap()).unwrap();
    let disk = serde_json::json!({
        "backend_domid": driver.0, "pdev_path": "images/c", "vdev": "xvdb", "backend": "phy",
        "format": "raw", "readwrite": 1
    });
    record["disks"] = serde_json::json!([disk]);
    world
        .disk
        .put(Path::new(&path), format!("{record}\0").as_bytes());
}

/// xl keeps the number of a driver domain, which another domain has one day.
#[test]
fn a_device_that_xl_has_attached_by_number_follows_by_name_or_is_left_out() {
    for is_gone in [false, true] {
        let bench = Bench::new();
        let (world, driver) = world(&bench, DriverManner::Good);
        let text = bench.config("guest", UUID);
        let guest = bench.must(&world, |host| bench.create_from(host, &text));
        xl_attaches(&world, guest, driver);
        if is_gone {
            end(&bench, &world, driver);
        }
        world.shut_down(guest, ShutdownReason::Reboot);
        let uuid = Uuid::parse_str(UUID).unwrap();
        let next = bench.must(&world, |host| restart::restart(host, uuid, guest, false));
        let record = format!("/var/lib/xyl/vm/{UUID}/config.cfg");
        let record = String::from_utf8(world.snapshot().files[Path::new(&record)].clone()).unwrap();
        assert_eq!(record.contains("backend=store"), !is_gone, "{record}");
        assert!(!record.contains(&format!("backend={driver}")), "{record}");
        let backend = format!(
            "/local/domain/{driver}/backend/vbd/{}/51728/state",
            next.unwrap()
        );
        assert_eq!(world.snapshot().nodes.contains_key(&backend), !is_gone);
    }
}

#[test]
fn a_domain_that_is_not_there_serves_nothing() {
    let bench = Bench::new();
    let world = World::new(256);
    bench.must(&world, |_| Ok(()));
    let before = world.snapshot();
    let refused = create(&bench, &world).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Backend);
    assert!(world.snapshot().domains.is_empty());
    assert_eq!(world.snapshot().nodes, before.nodes);
    let driver = driver_domain(&bench, &world, DriverManner::Good);
    let guest = create(&bench, &world).unwrap();
    for (kind, text) in [
        ("vbd", "vdev=xvdb,format=raw,backend=none,target=x"),
        ("vif", "backend=none"),
        ("vbd", "vdev=xvdb,format=raw,backend=guest,target=x"),
    ] {
        let refused = bench.must(&world, |host| {
            Ok(ask(host, guest, &attach(kind, text)).unwrap_err().code())
        });
        let is_right = matches!(refused, ErrorCode::Backend | ErrorCode::DeviceUnsupported);
        assert!(is_right, "{text}: {refused:?}");
    }
    // It has shut down, and its number is its own still.
    world.shut_down(driver, ShutdownReason::Crash);
    let refused = bench.must(&world, |host| {
        let request = attach("vif", "backend=store");
        Ok(ask(host, guest, &request).unwrap_err().code())
    });
    assert_eq!(refused, ErrorCode::Backend);
}

#[test]
fn a_bad_driver_domain_makes_a_create_fail_and_leaves_nothing() {
    let bench = Bench::new();
    for manner in [
        DriverManner::Hangs,
        DriverManner::Fails,
        DriverManner::Lies,
        DriverManner::Deletes,
    ] {
        let (world, driver) = world(&bench, manner);
        let before = world.snapshot();
        let begun = world.clock.now();
        let refused = create(&bench, &world).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Backend, "{manner:?}: {refused}");
        let text = refused.to_string();
        assert!(text.contains(&format!("domain {driver}")), "{text}");
        let time = world.clock.now() - begun;
        assert!(time < Duration::from_secs(35), "{manner:?}: {time:?}");
        let now = world.snapshot();
        assert_eq!(now.domains.len(), before.domains.len());
        assert_eq!(now.nodes, before.nodes, "{manner:?}");
    }
}

#[test]
fn a_slow_end_of_a_driver_domains_work_is_no_error() {
    let bench = Bench::new();
    for manner in [DriverManner::SaysNothing, DriverManner::LeavesNodes] {
        let (world, _) = world(&bench, manner);
        let guest = create(&bench, &world).unwrap();
        bench.must(&world, |host| destroy::destroy(host, guest, false));
        assert_eq!(has_traces(&world.snapshot(), guest), [""; 0], "{manner:?}");
    }
}

/// Whatever it writes, the wait ends.
#[test]
fn a_driver_domain_that_changes_its_state_for_ever_ends_no_command() {
    let bench = Bench::new();
    let (world, _) = world(&bench, DriverManner::Flips);
    let before = world.snapshot();
    let begun = world.clock.now();
    match create(&bench, &world) {
        Ok(guest) => bench.must(&world, |host| destroy::destroy(host, guest, false)),
        Err(error) => assert_eq!(error.code(), ErrorCode::Backend),
    }
    assert!(world.clock.now() - begun < Duration::from_secs(45));
    assert_eq!(world.snapshot().nodes, before.nodes);
}

#[test]
fn a_driver_domain_that_closes_nothing_loses_its_devices_all_the_same() {
    let bench = Bench::new();
    let (world, driver) = world(&bench, DriverManner::Good);
    let guest = create(&bench, &world).unwrap();
    world
        .backends
        .set_driver_domain(driver.0, DriverManner::NeverCloses);
    let refused = bench.must(&world, |host| {
        let request = detach("vbd", "xvda", false);
        Ok(ask(host, guest, &request).unwrap_err().code())
    });
    assert_eq!(refused, ErrorCode::DeviceHeld);
    bench.must(&world, |host| {
        ask(host, guest, &detach("vbd", "xvda", true))
    });
    bench.must(&world, |host| ask(host, guest, &detach("vif", "0", false)));
    let now = world.snapshot();
    let left = has_traces(&now, guest).into_iter();
    let left: Vec<String> = left.filter(|node| node.contains("/v")).collect();
    assert!(!left.iter().any(|node| node.contains("/vbd")), "{left:?}");
    assert!(!left.iter().any(|node| node.contains("/vif")), "{left:?}");
    let time = took(&world, || {
        bench.must(&world, |host| destroy::destroy(host, guest, false));
    });
    assert!(time < Duration::from_secs(5), "{time:?}");
}

#[test]
fn a_driver_domain_can_die_while_it_gets_a_device() {
    let bench = Bench::new();
    let (world, driver) = world(&bench, DriverManner::Dies);
    let (xen, store) = (world.xen.clone(), world.store.clone());
    world.backends.set_end_of_driver_domain(Box::new(move || {
        xen.destroy_domain(driver, Instant::now() + Duration::from_secs(9))
            .unwrap();
        let mut store = store.client(0).unwrap();
        let home = format!("/local/domain/{driver}");
        store.rm(&xenstore::Path::new(&home).unwrap()).unwrap();
    }));
    let refused = create(&bench, &world).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Backend, "{refused}");
    let now = world.snapshot();
    assert!(now.domains.is_empty());
    let home = format!("/local/domain/{driver}");
    let left: Vec<&String> = now
        .nodes
        .keys()
        .filter(|node| node.starts_with(&home))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Nothing waits for a driver domain that has ended, and nothing is made anew in its place.
#[test]
fn the_devices_of_a_driver_domain_that_has_ended_are_taken_away_at_once() {
    let bench = Bench::new();
    let (world, driver) = world(&bench, DriverManner::Good);
    let guest = create(&bench, &world).unwrap();
    end(&bench, &world, driver);
    let time = took(&world, || {
        bench.must(&world, |host| {
            ask(host, guest, &detach("vbd", "xvda", false))
        });
        bench.must(&world, |host| destroy::destroy(host, guest, false));
    });
    // A wait for it would take 10 s.
    assert!(time < Duration::from_secs(5), "{time:?}");
    let now = world.snapshot();
    assert!(now.domains.is_empty());
    let home = format!("/local/domain/{driver}");
    assert!(!now.nodes.keys().any(|node| node.starts_with(&home)));
}

/// The note in the toolstack's copy says whose number it was.
#[test]
fn another_domain_with_the_number_of_the_driver_domain_is_left_alone() {
    let bench = Bench::new();
    let (world, driver) = world(&bench, DriverManner::Good);
    let guest = create(&bench, &world).unwrap();
    end(&bench, &world, driver);
    // The number of a domain that has just ended is left out.
    world.clock.advance(Duration::from_secs(120));
    world.xen.set_next_domid(driver);
    let mut text = bench.config("other", "6a1d0c4e-0000-4000-8000-000000000003");
    text += "vcpus = 1\n";
    let other = bench.must(&world, |host| bench.create_from(host, &text));
    assert_eq!(other, driver);
    let mut store = world.store.client(0).unwrap();
    let own = format!("/local/domain/{other}/backend/vbd/{guest}/{NUMBER}/state");
    let own = xenstore::Path::new(&own).unwrap();
    store.write(&own, b"4").unwrap();
    let time = took(&world, || {
        bench.must(&world, |host| destroy::destroy(host, guest, false));
    });
    assert!(time < Duration::from_secs(5), "{time:?}");
    assert_eq!(store.read(&own).unwrap(), b"4");
    let now = world.snapshot();
    assert!(
        !now.nodes
            .keys()
            .any(|node| node.contains(&format!("/libxl/{guest}")))
    );
}

/// A monitor needs no right to the host's network or its programs for them.
#[test]
fn a_monitor_needs_no_rights_for_devices_of_a_driver_domain() {
    let bench = Bench::new();
    let (world, _) = world(&bench, DriverManner::Good);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let guest = bench.must(&world, |host| bench.create(host, "guest", UUID));
    bench.must(&world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
        let info = host.hv.domain_info(guest)?.unwrap();
        for text in ["backend=store", "backend=store,script=vif-route"] {
            requests::post(host, &info, &attach("vif", text))?;
            assert_eq!(requests::needs(host, uuid)?, Needs::default());
        }
        Ok(())
    });
}

/// Kills an act at every call. Afterwards each device is served or there is nothing of it.
fn sweep(
    prepare: impl Fn(&Bench, &World) -> Option<DomId>,
    act: impl Fn(&Bench, &mut Host, Option<DomId>) -> Result<(), EngineError>,
) -> u64 {
    let bench = Bench::new();
    let mut deaths = 0;
    for call in 1.. {
        let mut was_killed = false;
        for moment in Moment::ALL {
            let (world, driver) = world(&bench, DriverManner::Good);
            let guest = prepare(&bench, &world);
            let doom = Some((call, moment));
            let ended = bench
                .process(&world, doom, |host| act(&bench, host, guest))
                .0;
            if let Ended::Well(outcome) = ended {
                outcome.unwrap();
                continue;
            }
            (was_killed, deaths) = (true, deaths + 1);
            let recovered = bench.must(&world, |host| recover::all(host, false));
            assert!(recovered.iter().all(|one| !one.has_failed), "{recovered:?}");
            let now = world.snapshot();
            let guests: Vec<DomId> = now.domains.keys().copied().collect();
            for guest in guests.iter().filter(|domid| **domid != driver) {
                check(&now, driver, *guest).unwrap_or_else(|fault| {
                    panic!("killed {moment:?} call {call}: {fault}");
                });
            }
            let gone = guest.filter(|guest| !now.domains.contains_key(guest));
            let left = gone
                .map(|guest| has_traces(&now, guest))
                .unwrap_or_default();
            assert_eq!(left, [""; 0], "killed {moment:?} call {call}");
            let again = bench.must(&world, |host| recover::all(host, false));
            assert!(again.is_empty(), "{again:?}");
        }
        if !was_killed {
            break;
        }
    }
    deaths
}

/// Each device of a guest is in all its places, or in none.
fn check(now: &Snapshot, driver: DomId, guest: DomId) -> Result<(), String> {
    let [disk, nic] = backends(driver, guest);
    for (kind, number, backend) in [("vbd", NUMBER, disk), ("vif", 0, nic)] {
        let copy = format!("/libxl/{guest}/device/{kind}/{number}/backend");
        let front = format!("/local/domain/{guest}/device/{kind}/{number}/state");
        let served = now.nodes.get(&format!("{backend}/hotplug-status"));
        let places = [
            now.nodes.contains_key(&copy),
            now.nodes.contains_key(&front),
            now.nodes.contains_key(&backend),
            served.is_some_and(|status| status == b"connected"),
        ];
        if places != [true; 4] && places != [false; 4] {
            return Err(format!("{kind} of domain {guest}: {places:?}"));
        }
    }
    Ok(())
}

#[test]
fn an_attach_can_be_killed_at_any_call() {
    for (kind, text) in [("vbd", DISK), ("vif", NIC)] {
        let deaths = sweep(
            |bench, world| Some(bench.must(world, |host| bench.create(host, "guest", UUID))),
            |_, host, guest| ask(host, guest.unwrap(), &attach(kind, text)).map(drop),
        );
        assert!(deaths > 30, "{deaths}");
    }
}

#[test]
fn a_detach_can_be_killed_at_any_call() {
    for (kind, asked, force) in [
        ("vbd", "xvda", false),
        ("vbd", "xvda", true),
        ("vif", "0", false),
    ] {
        let deaths = sweep(
            |bench, world| Some(create(bench, world).unwrap()),
            |_, host, guest| ask(host, guest.unwrap(), &detach(kind, asked, force)).map(drop),
        );
        assert!(deaths > 30, "{deaths}");
    }
}

#[test]
fn a_create_and_a_destroy_can_be_killed_at_any_call() {
    let deaths = sweep(
        |_, _| None,
        |bench, host, _| bench.create_from(host, &config(bench)).map(drop),
    );
    assert!(deaths > 100, "{deaths}");
    let deaths = sweep(
        |bench, world| Some(create(bench, world).unwrap()),
        |_, host, guest| destroy::destroy(host, guest.unwrap(), false),
    );
    assert!(deaths > 30, "{deaths}");
}
