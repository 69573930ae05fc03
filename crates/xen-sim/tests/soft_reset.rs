//! Soft resets of a guest with disks, and backends that misbehave meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;
#[path = "bench/checks.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod checks;

use std::path::Path;

use bench::Bench;
use serde_json::{Value as Json, json};
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, LastingFault, Manner, World};
use xenstore::{Path as Node, Tree};
use xyl_engine::operation::dump_core::{DumpRequest, dump_core};
use xyl_engine::operation::soft_reset::{self, Outcome};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::vm::Vm;
use xyl_engine::{Cancel, EngineError, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

/// A guest with two disks that asks for a soft reset.
struct Asking {
    bench: Bench,
    world: World,
    domid: DomId,
}

impl Asking {
    fn new() -> Asking {
        let bench = Bench::with_devices();
        let world = World::new(256);
        let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
        world.settle();
        world.shut_down(domid, ShutdownReason::SoftReset);
        Asking {
            bench,
            world,
            domid,
        }
    }

    fn reset(&self) -> Outcome {
        let (domid, uuid) = (self.domid, Uuid::parse_str(UUID).unwrap());
        self.bench.must(&self.world, |host| {
            soft_reset::run(host, Vm { domid, uuid })
        })
    }

    /// The domain is kept as one that has crashed; the error has this text.
    fn assert_is_given_up(&self, text: &str) {
        let outcome = self.reset();
        assert!(
            matches!(&outcome, Outcome::GivenUp(why) if why.contains(text)),
            "{outcome:?}"
        );
        let domain = self.world.xen.domain(self.domid).unwrap();
        assert!(domain.shutdown.is_some());
        assert_eq!(domain.pauses, 0);
        // What is left of its disks goes with it.
        self.world.backends.set_manner(Manner::Good);
        self.bench.must(&self.world, |host| {
            destroy::destroy(host, self.domid, false)
        });
        let now = self.world.snapshot();
        assert!(now.loops.is_empty(), "{:?}", now.loops);
        let is_of_a_disk = |node: &String| node.contains("/vbd/");
        let left: Vec<_> = now.nodes.keys().filter(|node| is_of_a_disk(node)).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn vm(&self) -> Vm {
        let (domid, uuid) = (self.domid, Uuid::parse_str(UUID).unwrap());
        Vm { domid, uuid }
    }

    /// Gives the VM its next domain, with the disks and the interface that the last one had.
    fn restart(&self) -> DomId {
        let vm = self.vm();
        let next = self.bench.must(&self.world, |host| {
            restart::restart(host, vm.uuid, vm.domid, false)
        });
        next.unwrap()
    }

    fn dump(&self, host: &mut Host, progress: &mut dyn FnMut(u64, u64)) -> Result<(), EngineError> {
        self.world.xen.set_version(xen_sim::version());
        self.world.disk.put(Path::new("/cores/older"), b"older");
        let request = DumpRequest {
            domid: self.domid,
            file: Path::new("/cores/core"),
            is_live: false,
            progress,
        };
        dump_core(host, request, &Cancel::new()).map(drop)
    }

    /// Changes libxl's record of the domain as xl does.
    fn as_xl(&self, change: impl FnOnce(&mut Json)) {
        let json = format!("/var/lib/xen/userdata-d.{}.{UUID}.libxl-json", self.domid);
        let bytes = self.world.disk.contents(Path::new(&json)).unwrap();
        let mut record: Json = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap()).unwrap();
        change(&mut record);
        let bytes = format!("{record}\0").into_bytes();
        self.world.disk.put(Path::new(&json), &bytes);
    }

    /// A node of the toolstack's own copy of a disk.
    fn copy(&self, domid: DomId, number: u32, name: &str) -> Option<String> {
        let mut store = self.world.store.client(0).unwrap();
        let node = format!("/libxl/{domid}/device/vbd/{number}/{name}");
        store.read_text_opt(&Node::new(&node).unwrap()).unwrap()
    }

    fn write(&self, node: &str, value: &str) {
        let mut store = self.world.store.client(0).unwrap();
        let node = Node::new(node).unwrap();
        store.write(&node, value.as_bytes()).unwrap();
    }
}

#[test]
fn the_disks_are_closed_and_opened_again() {
    let asking = Asking::new();
    let before = asking.world.snapshot();
    assert_eq!(asking.reset(), Outcome::Running);
    let now = asking.world.snapshot();
    checks::served(&now, asking.domid).unwrap();
    assert_eq!((before.loops.len(), now.loops.len()), (1, 1));
    assert_eq!(
        asking.world.xen.domain(asking.domid).unwrap().soft_resets,
        1
    );
    let nodes = |snapshot: &xen_sim::Snapshot| snapshot.nodes.keys().cloned().collect::<Vec<_>>();
    assert_eq!(nodes(&now), nodes(&before));
}

#[test]
fn a_disk_that_cannot_be_attached_again_ends_the_reset_and_is_named() {
    for manner in [Manner::Refuses, Manner::Hangs] {
        let asking = Asking::new();
        asking.world.backends.set_manner(manner);
        asking.assert_is_given_up("attach its devices again: disk `xvda`");
    }
}

/// The kernel lets go of a device whose nodes were removed, however late.
#[test]
fn a_backend_that_does_not_close_in_time_has_its_nodes_removed() {
    let asking = Asking::new();
    asking.world.backends.set_manner(Manner::NeverCloses);
    assert_eq!(asking.reset(), Outcome::Running);
    checks::served(&asking.world.snapshot(), asking.domid).unwrap();
}

#[test]
fn an_image_that_is_gone_ends_the_reset_and_its_disk_is_named() {
    let asking = Asking::new();
    let image = std::path::PathBuf::from(format!("/srv/{UUID}.img"));
    let files = asking.world.disk.of(&os_port::mem::Life::new(0));
    os_port::Files::remove(&files, &image).unwrap();
    asking.assert_is_given_up("disk `xvda`");
}

#[test]
fn a_disk_that_was_taken_out_stays_out() {
    let asking = Asking::new();
    let mut store = asking.world.store.client(0).unwrap();
    for folder in [
        format!("/local/domain/{}/device/vbd/51728", asking.domid),
        format!("/local/domain/0/backend/vbd/{}/51728", asking.domid),
        format!("/libxl/{}/device/vbd/51728", asking.domid),
    ] {
        store.rm(&Node::new(&folder).unwrap()).unwrap();
    }
    asking.world.settle();
    assert_eq!(asking.reset(), Outcome::Running);
    let now = asking.world.snapshot();
    let open = |number: u32| {
        let path = format!(
            "/sys/bus/xen-backend/devices/vbd-{}-{number}/physical_device",
            asking.domid
        );
        now.files.contains_key(std::path::Path::new(&path))
    };
    assert!(open(51712) && !open(51728));
}

#[test]
fn a_disk_that_the_record_does_not_have_is_refused_before_anything_is_done() {
    let asking = Asking::new();
    let backend = format!("/local/domain/0/backend/vbd/{}/51744", asking.domid);
    let copy = format!("/libxl/{}/device/vbd/51744/backend", asking.domid);
    asking.write(&copy, &backend);
    asking.assert_is_given_up("vbd 51744");
}

#[test]
fn a_disk_that_xl_has_put_in_the_place_of_another_is_refused() {
    let asking = Asking::new();
    let image = format!("/libxl/{}/device/vbd/51712/params", asking.domid);
    asking.write(&image, "/srv/another.img");
    asking.assert_is_given_up("vbd 51712");
}

/// A given-up reset has detached the disks; whatever follows it, the next domain has them.
#[test]
fn the_domain_after_a_given_up_reset_has_all_its_disks() {
    for with_core in [false, true] {
        let asking = Asking::new();
        let image = std::path::PathBuf::from(format!("/srv/{UUID}.img"));
        let bytes = asking.world.disk.contents(&image).unwrap();
        let files = asking.world.disk.of(&os_port::mem::Life::new(0));
        os_port::Files::remove(&files, &image).unwrap();
        assert!(matches!(asking.reset(), Outcome::GivenUp(_)));
        asking.world.disk.put(&image, &bytes);
        assert_eq!(asking.copy(asking.domid, 51728, "dev"), None);
        if with_core {
            asking
                .bench
                .must(&asking.world, |host| asking.dump(host, &mut |_, _| ()));
        }
        let next = asking.restart();
        checks::served(&asking.world.snapshot(), next).unwrap();
        for number in [51712, 51728] {
            assert!(asking.copy(next, number, "dev").is_some(), "{number}");
        }
    }
}

/// The administrator has put another image in the place of a disk, which the guest may only read.
#[test]
fn a_disk_that_xl_has_replaced_is_not_given_back() {
    const OTHER: &str = "/srv/other.img";
    for with_reset in [true, false] {
        let asking = Asking::new();
        asking.world.disk.put(Path::new(OTHER), &[3; 4096]);
        asking.as_xl(|record| {
            let disk = &mut record["disks"][0];
            assert_eq!(disk["vdev"], "xvda");
            *disk = json!({"pdev_path": OTHER, "vdev": "xvda", "format": "raw"});
        });
        let params = format!("/libxl/{}/device/vbd/51712/params", asking.domid);
        asking.write(&params, OTHER);
        let domid = match with_reset {
            true => {
                assert_eq!(asking.reset(), Outcome::Running);
                asking.domid
            }
            false => asking.restart(),
        };
        let copy = |name| asking.copy(domid, 51712, name);
        assert_eq!(copy("params").as_deref(), Some(OTHER));
        assert_eq!(copy("mode").as_deref(), Some("r"));
    }
}

/// A disk that the guest was asked to let go, and has not, is the administrator's: the reset takes it away.
#[test]
fn a_disk_that_was_to_be_detached_is_not_given_back() {
    let asking = Asking::new();
    let backend = format!("/local/domain/0/backend/vbd/{}/51728", asking.domid);
    asking.write(&format!("{backend}/online"), "0");
    assert_eq!(asking.reset(), Outcome::Running);
    assert_eq!(asking.copy(asking.domid, 51728, "dev"), None);
    assert!(asking.copy(asking.domid, 51712, "dev").is_some());
    asking.world.shut_down(asking.domid, ShutdownReason::Reboot);
    let next = asking.restart();
    assert_eq!(asking.copy(next, 51728, "dev"), None);
    assert!(asking.copy(next, 51712, "dev").is_some());
}

/// The folder of the core cannot be written any more, so the dump is neither finished nor undone.
#[test]
fn a_dump_that_is_stuck_does_not_keep_a_guest_from_its_reset() {
    let asking = Asking::new();
    let (ended, _) = asking.bench.process(&asking.world, None, |host| {
        let fail = LastingFault::read_only_disk("/cores");
        asking.dump(host, &mut |_, _| asking.world.fail_always(fail.clone()))
    });
    assert!(matches!(ended, Ended::Well(Err(_))), "{ended:?}");
    assert_eq!(asking.reset(), Outcome::Running);
}
