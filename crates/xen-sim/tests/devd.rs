//! The toolstack's part in a driver domain: it serves what another toolstack has written, killed at any call, and takes it down again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::collections::BTreeSet;
use std::path::Path;

use bench::{BRIDGE, Bench, is_bridged};
use xen_port::DomId;
use xen_sim::{Ended, Moment, Snapshot, World};
use xenstore::Tree;
use xyl_engine::supervise::devd;
use xyl_engine::{EngineError, Host};

/// The simulated backends are those of domain 0.
const OWN: DomId = DomId(0);
const GUEST: DomId = DomId(7);
const IMAGE: &str = "/srv/there.img";
const DISK: &str = "vbd/7/51712";
const NIC: &str = "vif/7/0";

fn put(world: &World, path: &str, value: &str) {
    let mut store = world.store.client(0).unwrap();
    let path = xenstore::Path::new(path).unwrap();
    store.write(&path, value.as_bytes()).unwrap();
}

fn node<'a>(now: &'a Snapshot, device: &str, name: &str) -> &'a str {
    let path = format!("/local/domain/0/backend/{device}/{name}");
    let value = now.nodes.get(&path).map(Vec::as_slice);
    std::str::from_utf8(value.unwrap_or_default()).unwrap()
}

/// A world in which a toolstack has written a disk and an interface, as xl does for a driver domain.
fn world(bench: &Bench) -> World {
    let world = World::new(64);
    bench.must(&world, |_| Ok(()));
    world.disk.put(Path::new(IMAGE), &[5; 8192]);
    world.disk.sync_all();
    for (device, nodes) in [
        (
            DISK,
            &[
                ("params", IMAGE),
                ("script", "/etc/xen/scripts/block"),
                ("mode", "w"),
                ("dev", "xvda"),
                ("type", "phy"),
            ][..],
        ),
        (
            NIC,
            &[
                ("script", "/etc/xen/scripts/vif-bridge"),
                ("mac", "00:16:3e:00:00:01"),
                ("bridge", BRIDGE),
                ("handle", "0"),
                ("type", "vif"),
                ("hotplug-status", ""),
            ],
        ),
    ] {
        let backend = format!("/local/domain/0/backend/{device}");
        let frontend = format!(
            "/local/domain/{GUEST}/device/{}",
            device.replace("/7/", "/")
        );
        put(&world, &format!("{frontend}/state"), "1");
        for (name, value) in nodes {
            put(&world, &format!("{backend}/{name}"), value);
        }
        put(&world, &format!("{backend}/frontend"), &frontend);
        put(&world, &format!("{backend}/frontend-id"), "7");
        put(&world, &format!("{backend}/online"), "1");
        put(&world, &format!("{backend}/state"), "1");
    }
    world.backends.set_guest_keeps(false);
    world.settle();
    world
}

/// Looks at all devices once, as at the start of the process.
fn look(host: &mut Host) -> Result<(), EngineError> {
    let all = BTreeSet::from(["/local/domain/0/backend".to_owned()]);
    devd::serve_once(host, OWN, &all, &mut |_| ())
}

fn is_served(now: &Snapshot) -> bool {
    let connected = |device| node(now, device, "hotplug-status") == "connected";
    let open = format!("/sys/bus/xen-backend/devices/vbd-{GUEST}-51712/physical_device");
    connected(DISK)
        && connected(NIC)
        && is_bridged(now, GUEST)
        && now.files.contains_key(Path::new(&open))
        && now.loops.len() == 1
}

/// The toolstack in domain 0 wants the devices back.
fn ask_back(world: &World) {
    for device in [DISK, NIC] {
        let backend = format!("/local/domain/0/backend/{device}");
        put(world, &format!("{backend}/online"), "0");
        put(world, &format!("{backend}/state"), "5");
    }
    world.backends.set_guest_keeps(false);
    world.settle();
}

#[test]
fn devices_of_another_toolstack_are_served_and_taken_down() {
    let bench = Bench::new();
    let world = world(&bench);
    bench.must(&world, look);
    let now = world.snapshot();
    assert!(is_served(&now), "{:?}", now.nodes);
    assert_eq!(node(&now, DISK, "physical-device-path"), "/dev/loop0");
    let mtu = now.nodes["/local/domain/7/device/vif/0/mtu"].clone();
    assert!(!mtu.is_empty());
    // A second look, as that of the next process, changes nothing.
    bench.must(&world, look);
    assert_eq!(world.snapshot().nodes, now.nodes);
    ask_back(&world);
    bench.must(&world, look);
    let now = world.snapshot();
    let left: Vec<&String> = now
        .nodes
        .keys()
        .filter(|node| node.contains("/7/"))
        .collect();
    let left: Vec<_> = left
        .iter()
        .filter(|node| node.contains("backend"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(now.loops.is_empty());
    assert!(!now.links.iter().any(|link| link.name.starts_with("vif")));
}

#[test]
fn a_device_that_cannot_be_served_says_why_and_the_others_are_served() {
    let bench = Bench::new();
    for (device, name, value) in [
        (DISK, "params", "/srv/none.img"),
        (DISK, "script", "/etc/xen/scripts/block-iscsi"),
        (NIC, "bridge", "none"),
    ] {
        let world = world(&bench);
        put(
            &world,
            &format!("/local/domain/0/backend/{device}/{name}"),
            value,
        );
        bench.must(&world, look);
        let now = world.snapshot();
        assert_eq!(node(&now, device, "hotplug-status"), "error");
        assert!(node(&now, device, "hotplug-error").contains(value.rsplit('/').next().unwrap()));
        let other = if device == DISK { NIC } else { DISK };
        assert_eq!(node(&now, other, "hotplug-status"), "connected");
    }
}

/// The next process goes on with what a dead one has left.
#[test]
fn it_can_be_killed_at_any_call() {
    let bench = Bench::new();
    for is_end in [false, true] {
        let mut deaths = 0;
        for call in 1.. {
            let mut was_killed = false;
            for moment in Moment::ALL {
                let world = world(&bench);
                if is_end {
                    bench.must(&world, look);
                    ask_back(&world);
                }
                let ended = bench.process(&world, Some((call, moment)), look).0;
                if let Ended::Well(outcome) = ended {
                    outcome.unwrap();
                    continue;
                }
                (was_killed, deaths) = (true, deaths + 1);
                world.settle();
                bench.must(&world, look);
                let now = world.snapshot();
                let backends = now.nodes.keys().filter(|node| node.contains("/backend/v"));
                let backends: Vec<_> = backends.filter(|node| node.ends_with("/state")).collect();
                match is_end {
                    true => assert!(backends.is_empty() && now.loops.is_empty(), "{backends:?}"),
                    // The image goes with the process that was killed before blkback had opened it: blkback says it by its state.
                    false => assert!(
                        is_served(&now)
                            || node(&now, DISK, "hotplug-status") == "error"
                            || node(&now, DISK, "state") == "5",
                        "killed {moment:?} call {call}: {:?}",
                        now.nodes
                    ),
                }
            }
            if !was_killed {
                break;
            }
        }
        assert!(deaths > 10, "{deaths}");
    }
}
