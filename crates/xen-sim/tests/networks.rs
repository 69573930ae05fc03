//! Network interfaces of guests: how the host's end is left, what a restart keeps, and bad backends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use bench::{BRIDGE, Bench};
use os_port::mem::Life;
use os_port::{Link, LinkChange, LinkName, Links};
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Manner, World};
use xenstore::Tree;
use xyl_engine::operation::{destroy, restart};
use xyl_engine::{EngineError, ErrorCode};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

/// A world with a bridge whose largest packet has 1400 bytes.
fn world(bench: &Bench) -> World {
    let world = World::new(256);
    bench.must(&world, |_| Ok(()));
    let links = world.links.of(&Life::new(0));
    let bridge = links.find(&LinkName::parse(BRIDGE).unwrap()).unwrap();
    let mtu = LinkChange::Mtu(1400);
    links.change(bridge.unwrap().index, &mtu).unwrap();
    world
}

fn config(bench: &Bench, vif: &str) -> String {
    let plain = bench.config("guest", UUID);
    format!("{plain}vif = [ '{vif}' ]\n")
}

fn create(bench: &Bench, world: &World, vif: &str) -> Result<DomId, EngineError> {
    let text = config(bench, vif);
    match bench
        .process(world, None, |host| bench.create_from(host, &text))
        .0
    {
        Ended::Well(outcome) => outcome,
        Ended::Killed => panic!("killed"),
    }
}

/// The interfaces of guests.
fn ends(world: &World) -> Vec<Link> {
    let links = world.snapshot().links.into_iter();
    links.filter(|link| link.name != BRIDGE).collect()
}

fn node(world: &World, path: &str) -> Option<String> {
    let value = world.snapshot().nodes.get(path).cloned();
    value.map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn the_hosts_end_is_a_port_of_the_bridge() {
    let bench = Bench::new();
    let world = world(&bench);
    let domid = create(&bench, &world, "rate=10Mb/s").unwrap();
    let links = world.snapshot().links;
    let [bridge, link] = &links[..] else {
        panic!("{links:?}");
    };
    assert_eq!(link.name, format!("vif{domid}.0"));
    assert_eq!(link.address, Some([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]));
    assert_eq!(link.master, Some(bridge.index));
    assert!(link.is_up && !link.makes_ipv6_address);
    assert_eq!(link.mtu_bytes, 1400);
    let backend = format!("/local/domain/0/backend/vif/{domid}/0");
    let of_backend = |name: &str| node(&world, &format!("{backend}/{name}")).unwrap();
    assert_eq!(of_backend("hotplug-status"), "connected");
    assert_eq!(of_backend("rate"), "62500,50000");
    assert_eq!(of_backend("script"), "/etc/xen/scripts/vif-bridge");
    let mtu = format!("/local/domain/{domid}/device/vif/0/mtu");
    assert_eq!(node(&world, &mtu).as_deref(), Some("1400"));
    let path = xenstore::Path::new(&mtu).unwrap();
    let mut guest = world.store.client(domid.0).unwrap();
    assert!(guest.read(&path).is_ok() && guest.write(&path, b"1").is_err());
}

#[test]
fn a_restart_keeps_the_address_and_the_name() {
    let bench = Bench::new();
    let world = world(&bench);
    let domid = create(&bench, &world, "vifname=web,mtu=1300").unwrap();
    let mac_of = |domid: DomId| {
        node(
            &world,
            &format!("/local/domain/0/backend/vif/{domid}/0/mac"),
        )
    };
    let mac = mac_of(domid).unwrap();
    assert!(mac.starts_with("00:16:3e:"));
    world.shut_down(domid, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(&world, |host| {
        restart::restart(host, uuid, domid, false).map(Option::unwrap)
    });
    assert_eq!(mac_of(next), Some(mac));
    let ends_now = ends(&world);
    assert_eq!((ends_now.len(), ends_now[0].name.as_str()), (1, "web"));
    assert_eq!(ends_now[0].mtu_bytes, 1300);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    assert_eq!(ends(&world), []);
}

#[test]
fn what_cannot_be_had_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let world = world(&bench);
    let other = LinkName::parse("eth0").unwrap();
    world.links.add(&other, Some("dummy"));
    let before = world.snapshot();
    for vif in ["bridge=none", "bridge=eth0", "vifname=eth0"] {
        let error = create(&bench, &world, vif).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Network, "{vif}");
        assert_eq!(error.step(), None, "{vif}");
        let now = world.snapshot();
        assert_eq!((&now.domains, &now.links), (&before.domains, &before.links));
    }
}

#[test]
fn a_bad_backend_fails_the_create_and_leaves_nothing() {
    for manner in [Manner::Refuses, Manner::Hangs] {
        let bench = Bench::new();
        let world = world(&bench);
        let before = world.snapshot();
        world.backends.set_manner(manner);
        let error = create(&bench, &world, "").unwrap_err();
        assert_eq!(error.code(), ErrorCode::Backend, "{manner:?}");
        let now = world.snapshot();
        assert_eq!((&now.domains, &now.links), (&before.domains, &before.links));
        let is_of_vif = |node: &&String| node.contains("vif/");
        assert_eq!(now.nodes.keys().find(is_of_vif), None, "{manner:?}");
    }
}

/// netback has the name `vifD.N` already taken by another interface: that one is left alone.
#[test]
fn an_interface_that_only_has_the_name_is_left_alone() {
    let bench = Bench::new();
    let world = world(&bench);
    for domid in 1..4 {
        let name = LinkName::parse(&format!("vif{domid}.0")).unwrap();
        world.links.add(&name, Some("tun"));
    }
    let before = world.snapshot().links;
    let error = create(&bench, &world, "").unwrap_err();
    assert_eq!(error.code(), ErrorCode::Backend);
    assert_eq!(world.snapshot().links, before);
}
