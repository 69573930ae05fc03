//! Disks that QEMU serves: a VM's whole life with one, QEMUs that do not do their work, and the death of the toolstack's process at
//! every call of a create and a destroy.
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
use bench::qemu::{IMAGE, kill_at_each_call, nodes_of, qcow2, qemus, world};
use os_port::ProcessSignal;
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Manner, Snapshot, World};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";

fn create(bench: &Bench, host: &mut Host, uuid: &str, disk: &str) -> Result<DomId, EngineError> {
    let text = bench.config(&format!("guest{}", &uuid[35..]), uuid);
    bench.create_from(host, &format!("{text}disk = [ '{disk}' ]\n"))
}

fn create_guest(bench: &Bench, host: &mut Host) -> Result<DomId, EngineError> {
    create(bench, host, UUID, &format!("{IMAGE},qcow2,xvda,rw"))
}

fn state(now: &Snapshot, domid: DomId) -> Option<&[u8]> {
    let path = format!("/local/domain/0/backend/qdisk/{domid}/51712/state");
    now.nodes.get(&path).map(Vec::as_slice)
}

#[test]
fn a_domain_has_one_qemu_from_its_create_to_its_destroy() {
    let (bench, world) = (Bench::new(), world());
    let first = bench.must(&world, |host| create_guest(&bench, host));
    assert_eq!(qemus(&world), [first.to_string()]);
    let now = world.snapshot();
    assert_eq!(state(&now, first), Some(&b"2"[..]));
    let copy = format!("/libxl/{first}/device/vbd/51712/params");
    assert_eq!(now.nodes[&copy], format!("qcow2:{IMAGE}").as_bytes());
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        restart::restart(host, uuid, first, false).map(drop)
    });
    let next = DomId(first.0 + 1);
    assert_eq!(qemus(&world), [next.to_string()]);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    assert!(qemus(&world).is_empty());
    let left = world.snapshot();
    assert!(nodes_of(&left, "qdisk/").is_empty() && nodes_of(&left, "device-model/").is_empty());
}

#[test]
fn a_qemu_that_does_not_serve_fails_the_create_and_leaves_nothing() {
    for manner in [Manner::Refuses, Manner::Hangs] {
        let (bench, world) = (Bench::new(), world());
        world.backends.set_manner(manner);
        let refused = bench.must(&world, |host| {
            Ok(create_guest(&bench, host).unwrap_err().code())
        });
        assert_eq!(refused, ErrorCode::Backend, "{manner:?}");
        assert!(qemus(&world).is_empty(), "{manner:?}");
        assert!(world.snapshot().domains.len() <= 1, "{manner:?}");
    }
}

#[test]
fn an_image_that_qemu_cannot_open_is_told_at_once_with_its_words() {
    let (bench, world) = (Bench::new(), world());
    let mut vhd = vec![0; 4096];
    for footer in [0, 3584] {
        vhd[footer..footer + 8].copy_from_slice(b"conectix");
        vhd[footer + 63] = 3;
    }
    world.disk.put(Path::new("/srv/a.vhd"), &vhd);
    let error = bench.must(&world, |host| {
        Ok(create(&bench, host, UUID, "/srv/a.vhd,vhd,xvda,rw").unwrap_err())
    });
    assert_eq!(error.code(), ErrorCode::Backend);
    let text = error.to_string();
    assert!(
        text.contains("disk `xvda`") && text.ends_with(xen_sim::UNKNOWN_DRIVER),
        "{text}"
    );
    assert!(qemus(&world).is_empty());
}

#[test]
fn qemu_opens_a_read_only_image_and_one_on_a_block_device_as_they_are() {
    let (bench, world) = (Bench::new(), world());
    let image = IMAGE.to_owned() + ",qcow2,xvda,r";
    let first = bench.must(&world, |host| create(&bench, host, UUID, &image));
    let device = "/dev/vg/6a1d0c4e-0000-4000-8000-000000000001,raw,xvda,w,backendtype=qdisk";
    // Readers do not keep each other out; a writer is kept out.
    let second = bench.must(&world, |host| {
        let refused = create(&bench, host, OTHER_UUID, &format!("{IMAGE},qcow2,xvdb,w"));
        assert_eq!(refused.unwrap_err().code(), ErrorCode::DiskBusy);
        let disks = format!("{image}', '{}", device.replace("xvda", "xvdb"));
        create(&bench, host, OTHER_UUID, &disks)
    });
    assert_ne!(first, second);
    let told = world.programs.running().into_iter();
    let told: Vec<String> = told
        .map(|(pid, _)| String::from_utf8(world.programs.told(pid)).unwrap())
        .collect();
    let [first, second] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(first.matches("\"read-only\":true").count(), 2);
    assert!(!first.contains("host_device") && second.contains("\"driver\":\"host_device\""));
    assert_eq!(second.matches("\"read-only\":false").count(), 2);
}

#[test]
fn more_files_than_a_program_gets_are_refused_before_anything_is_made() {
    let (bench, world) = (Bench::new(), world());
    let disks: Vec<String> = (0..33)
        .map(|n| format!("'/srv/{n}.qcow2,qcow2,xvd{},r'", name_of(n)))
        .collect();
    let text = bench.config("guest", UUID) + &format!("disk = [ {} ]\n", disks.join(", "));
    let refused = bench.must(&world, |host| {
        Ok(bench.create_from(host, &text).unwrap_err())
    });
    assert_eq!(refused.code(), ErrorCode::DeviceUnsupported);
    assert!(qemus(&world).is_empty());
}

/// The letters of a disk, as Xen counts them.
fn name_of(number: u8) -> String {
    let letter = |number: u8| char::from(b'a' + number);
    match number {
        0..26 => letter(number).to_string(),
        _ => format!("a{}", letter(number - 26)),
    }
}

#[test]
fn a_dead_qemu_does_not_keep_a_domain_from_its_end() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create_guest(&bench, host));
    let (pid, _) = world.programs.running()[0];
    let held = world.programs.hold(pid).unwrap();
    os_port::HeldProcess::send(&held, ProcessSignal::Kill).unwrap();
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    assert!(nodes_of(&world.snapshot(), "qdisk/").is_empty());
}

#[test]
fn what_qemu_must_not_serve_is_refused_before_anything_is_made() {
    let (bench, world) = (Bench::new(), world());
    bench.must(&world, |host| create_guest(&bench, host));
    world.disk.put(Path::new("/srv/raw.img"), &[0; 4096]);
    world.disk.put(Path::new("/srv/backed.qcow2"), &qcow2(104));
    let before = world.snapshot();
    for (disk, code) in [
        ("/srv/raw.img,qcow2,xvda,rw", ErrorCode::DiskImage),
        ("/srv/raw.img,vhd,xvda,rw", ErrorCode::DiskImage),
        (
            "/srv/backed.qcow2,qcow2,xvda,rw",
            ErrorCode::DeviceUnsupported,
        ),
        ("/srv/none.qcow2,qcow2,xvda,rw", ErrorCode::DiskImage),
        ("/srv/a.qcow2,qcow2,xvda,rw", ErrorCode::DiskBusy),
        ("/srv/a.qcow2,raw,xvda,r", ErrorCode::DiskBusy),
    ] {
        let refused = bench.must(&world, |host| {
            Ok(create(&bench, host, OTHER_UUID, disk).unwrap_err().code())
        });
        assert_eq!(refused, code, "{disk}");
    }
    assert_eq!(world.snapshot().domains, before.domains);
    assert_eq!(qemus(&world).len(), 1);
}

/// After a death and a recovery there is one QEMU for the domain with its disk, or neither.
fn is_whole(world: &World) -> Result<(), String> {
    let now = world.snapshot();
    let domains = now.domains.keys().filter(|domid| **domid != DomId::ZERO);
    let domains: Vec<DomId> = domains.copied().collect();
    let wanted: Vec<String> = domains.iter().map(DomId::to_string).collect();
    if qemus(world) != wanted {
        return Err(format!("QEMUs of {:?}, domains {wanted:?}", qemus(world)));
    }
    let of_none = domains.is_empty() && !nodes_of(&now, "qdisk/").is_empty();
    let unserved = domains.iter().any(|domid| state(&now, *domid).is_none());
    match of_none || unserved {
        true => Err(format!("{:?}", nodes_of(&now, "qdisk/"))),
        false => Ok(()),
    }
}

#[test]
fn a_create_that_is_killed_leaves_no_qemu_without_its_domain() {
    kill_at_each_call(
        |_, _| None,
        |bench, host, _| create_guest(bench, host).map(drop),
        is_whole,
    );
}

#[test]
fn a_destroy_that_is_killed_ends_the_qemu() {
    kill_at_each_call(
        |bench, world| Some(bench.must(world, |host| create_guest(bench, host))),
        |_, host, domid| destroy::destroy(host, domid.unwrap(), false),
        is_whole,
    );
}
