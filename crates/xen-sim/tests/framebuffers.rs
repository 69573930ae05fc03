//! Framebuffers and keyboards: a VM's whole life with a framebuffer that QEMU shows, a soft reset, keyboards of another program that come and
//! go, and the death of the toolstack's process at every call of a create, a destroy, an attach and a detach.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use bench::Bench;
use bench::qemu::{IMAGE, kill_at_each_call, nodes_of, qemus, world};
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Manner, Snapshot, World};
use xyl_engine::device::hotplug;
use xyl_engine::operation::soft_reset::{self, Outcome};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::Vm;
use xyl_engine::vm::nic::VifDefaults;
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const BOTH: &str =
    "vfb = [ 'vncpasswd=geheim,keymap=de' ]\nvkb = [ 'backend-type=linux,unique-id=pad' ]\n";

fn create(bench: &Bench, host: &mut Host, devices: &str) -> Result<DomId, EngineError> {
    let text = bench.config("guest1", UUID);
    bench.create_from(host, &format!("{text}{devices}"))
}

fn ask(host: &mut Host, domid: DomId, request: &Request) -> Result<(), EngineError> {
    let info = host.hv.domain_info(domid)?.unwrap();
    requests::ask_for(host, &info, request).map(drop)
}

fn attach_keyboard(host: &mut Host, domid: DomId, text: &str) -> Result<(), EngineError> {
    let request = Request::AttachDevice {
        kind: "vkbd".to_owned(),
        device: hotplug::for_request("vkbd", text, &VifDefaults::default())?,
    };
    ask(host, domid, &request)
}

fn detach_keyboard(host: &mut Host, domid: DomId, number: &str) -> Result<(), EngineError> {
    let request = Request::DetachDevice {
        kind: "vkbd".to_owned(),
        device: number.to_owned(),
        force: false,
    };
    ask(host, domid, &request)
}

fn node(now: &Snapshot, path: &str) -> String {
    let value = now.nodes.get(path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(value.clone()).unwrap()
}

fn line_of_qemu(world: &World) -> String {
    let running = world.programs.running();
    let [(_, launch)] = &running[..] else {
        panic!("{} programs", running.len());
    };
    launch.line()
}

/// Whether a text is anywhere in xenstore.
fn is_in_store(now: &Snapshot, text: &str) -> bool {
    let mut values = now.nodes.values();
    values.any(|value| String::from_utf8_lossy(value).contains(text))
}

#[test]
fn a_framebuffer_is_shown_at_a_free_port_and_its_password_is_nowhere_to_be_read() {
    let (bench, world) = (Bench::new(), world());
    // Other programs listen at 5900 (0x170C) and, by IPv6, at 5901. One has a connection from 5902.
    let head = "  sl  local_address rem_address   st\n";
    let line = |port, state| format!("   0: 0100007F:{port} 00000000:0000 {state} 0\n");
    let tcp = format!("{head}{}{}", line("170C", "0A"), line("170E", "01"));
    let tcp6 = format!("{head}{}", line("170D", "0A"));
    world.kernel_files.put("/proc/net/tcp", tcp.as_bytes());
    world.kernel_files.put("/proc/net/tcp6", tcp6.as_bytes());
    let domid = bench.must(&world, |host| create(&bench, host, BOTH));
    assert_eq!(qemus(&world), [domid.to_string()]);
    let now = world.snapshot();
    let backend = |kind: &str| format!("/local/domain/0/backend/{kind}/{domid}");
    for (path, value) in [
        (format!("/local/domain/{domid}/console/vnc-port"), "5902"),
        (
            format!("/local/domain/{domid}/console/vnc-listen"),
            "127.0.0.1",
        ),
        (format!("/local/domain/{domid}/device/vfb/0/state"), "1"),
        (format!("{}/0/state", backend("vfb")), "2"),
        (format!("{}/0/vncdisplay", backend("vfb")), "0"),
        (format!("{}/0/state", backend("vkbd")), "2"),
        (format!("{}/1/state", backend("vinput")), "1"),
        (format!("{}/1/unique-id", backend("vinput")), "pad"),
        (
            format!("/libxl/{domid}/device/vkbd/1/backend"),
            &format!("{}/1", backend("vinput")),
        ),
    ] {
        assert_eq!(node(&now, &path), value, "{path}");
    }
    let line = line_of_qemu(&world);
    assert!(line.contains("-vnc 127.0.0.1:2,password-secret="), "{line}");
    assert!(line.ends_with("-k de"), "{line}");
    assert!(!line.contains("geheim") && !is_in_store(&now, "geheim"));
}

#[test]
fn without_a_free_port_nothing_is_made() {
    let (bench, world) = (Bench::new(), world());
    let tcp = "  sl\n   0: 00000000:170F 00000000:0000 0A 0\n";
    world.kernel_files.put("/proc/net/tcp", tcp.as_bytes());
    let vfb = "vfb = [ 'vncdisplay=3,vncunused=0' ]\n";
    let refused = bench.must(&world, |host| {
        Ok(create(&bench, host, vfb).unwrap_err().code())
    });
    assert_eq!(refused, ErrorCode::Backend);
    assert!(world.snapshot().domains.len() <= 1);
}

#[test]
fn the_next_domain_has_its_framebuffer_and_a_destroy_leaves_nothing() {
    let (bench, world) = (Bench::new(), world());
    let first = bench.must(&world, |host| create(&bench, host, BOTH));
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        restart::restart(host, uuid, first, false).map(drop)
    });
    let next = DomId(first.0 + 1);
    is_whole(&world).unwrap();
    assert!(line_of_qemu(&world).contains("password-secret"));
    bench.must(&world, |host| destroy::destroy(host, next, false));
    assert!(qemus(&world).is_empty());
    let left = world.snapshot();
    for what in [
        "backend/vfb/",
        "backend/vkbd/",
        "backend/vinput/",
        "device-model/",
        "device/vkbd/",
    ] {
        assert!(nodes_of(&left, what).is_empty(), "{what}");
    }
}

#[test]
fn a_qemu_that_does_not_serve_fails_the_create_and_leaves_nothing() {
    for manner in [Manner::Refuses, Manner::Hangs] {
        let (bench, world) = (Bench::new(), world());
        world.backends.set_manner(manner);
        let refused = bench.must(&world, |host| {
            Ok(create(&bench, host, BOTH).unwrap_err().code())
        });
        assert_eq!(refused, ErrorCode::Backend, "{manner:?}");
        assert!(qemus(&world).is_empty(), "{manner:?}");
        assert!(world.snapshot().domains.len() <= 1, "{manner:?}");
    }
}

#[test]
fn a_soft_reset_gives_the_framebuffer_a_new_qemu() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create(&bench, host, BOTH));
    let first = world.programs.running()[0].0;
    world.settle();
    world.shut_down(domid, ShutdownReason::SoftReset);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let outcome = bench.must(&world, |host| soft_reset::run(host, Vm { domid, uuid }));
    assert_eq!(outcome, Outcome::Running);
    assert_ne!(world.programs.running()[0].0, first);
    is_whole(&world).unwrap();
}

fn attach_disk(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let request = Request::AttachDevice {
        kind: "vbd".to_owned(),
        device: format!("vdev=xvdc,access=rw,format=qcow2,target={IMAGE}"),
    };
    ask(host, domid, &request)
}

fn detach_disk(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let request = Request::DetachDevice {
        kind: "vbd".to_owned(),
        device: "xvdc".to_owned(),
        force: false,
    };
    ask(host, domid, &request)
}

#[test]
fn a_disk_of_a_later_qemu_leaves_the_framebuffer_to_the_first_one() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create(&bench, host, BOTH));
    let first = world.programs.running()[0].0;
    bench.must(&world, |host| attach_disk(host, domid));
    let running = world.programs.running();
    assert_eq!(running.len(), 2);
    let lines = running.iter().map(|(pid, launch)| (*pid, launch.line()));
    let shows: Vec<u32> = lines
        .filter(|(_, line)| line.contains(" -vnc "))
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(shows, [first]);
    bench.must(&world, |host| detach_disk(host, domid));
    assert_eq!(world.programs.running()[0].0, first);
    is_whole(&world).unwrap();
}

#[test]
fn the_first_qemu_stays_for_its_framebuffer_when_its_disk_goes() {
    let (bench, world) = (Bench::new(), world());
    let disk = format!("disk = [ '{IMAGE},qcow2,xvdc,rw' ]\n{BOTH}");
    let domid = bench.must(&world, |host| create(&bench, host, &disk));
    let first = world.programs.running()[0].0;
    bench.must(&world, |host| detach_disk(host, domid));
    assert!(nodes_of(&world.snapshot(), "/vbd/").is_empty());
    assert_eq!(world.programs.running()[0].0, first);
    is_whole(&world).unwrap();
}

/// The numbers of the keyboards of another program.
fn keyboards(world: &World, domid: DomId) -> Vec<String> {
    let all = nodes_of(&world.snapshot(), &format!("backend/vinput/{domid}/"));
    let numbers = all.iter().filter_map(|path| path.strip_suffix("/online"));
    numbers
        .map(|path| path.rsplit('/').next().unwrap().to_owned())
        .collect()
}

#[test]
fn keyboards_of_another_program_come_and_go_and_the_next_domain_has_them() {
    let (bench, world) = (Bench::new(), world());
    let first = bench.must(&world, |host| create(&bench, host, BOTH));
    bench.must(&world, |host| {
        attach_keyboard(host, first, "backend-type=linux,width=9")
    });
    assert_eq!(keyboards(&world, first), ["1", "2"]);
    for (text, code) in [
        ("backend-type=qemu", ErrorCode::DeviceUnsupported),
        ("backend-type=linux,devid=2", ErrorCode::DeviceExists),
    ] {
        let refused = bench.must(&world, |host| {
            Ok(attach_keyboard(host, first, text).unwrap_err().code())
        });
        assert_eq!(refused, code, "{text}");
    }
    bench.must(&world, |host| detach_keyboard(host, first, "1"));
    assert_eq!(keyboards(&world, first), ["2"]);
    for (number, code) in [
        ("0", ErrorCode::DeviceUnsupported),
        ("1", ErrorCode::NoSuchDevice),
    ] {
        let refused = bench.must(&world, |host| {
            Ok(detach_keyboard(host, first, number).unwrap_err().code())
        });
        assert_eq!(refused, code, "{number}");
    }
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        restart::restart(host, uuid, first, false).map(drop)
    });
    let next = DomId(first.0 + 1);
    assert_eq!(keyboards(&world, next), ["2"]);
    let now = world.snapshot();
    let width = format!("/local/domain/0/backend/vinput/{next}/2/width");
    assert_eq!(node(&now, &width), "9");
    assert_eq!(
        nodes_of(&now, &format!("backend/vkbd/{next}/0/online")).len(),
        1
    );
}

/// After a death and a recovery there is one QEMU for the domain with its framebuffer, or neither.
fn is_whole(world: &World) -> Result<(), String> {
    let now = world.snapshot();
    let domains = now.domains.keys().filter(|domid| **domid != DomId::ZERO);
    let wanted: Vec<String> = domains.map(DomId::to_string).collect();
    if qemus(world) != wanted {
        return Err(format!("QEMUs of {:?}, domains {wanted:?}", qemus(world)));
    }
    for (kind, number, state) in [("vfb", 0, "2"), ("vkbd", 0, "2"), ("vinput", 1, "1")] {
        let nodes = nodes_of(&now, &format!("backend/{kind}/"));
        let is_served = |domid: &String| {
            let path = format!("/local/domain/0/backend/{kind}/{domid}/{number}/state");
            now.nodes
                .get(&path)
                .is_some_and(|found| found == state.as_bytes())
        };
        if wanted.is_empty() != nodes.is_empty() || !wanted.iter().all(is_served) {
            return Err(format!("{nodes:?}"));
        }
    }
    Ok(())
}

fn created(bench: &Bench, world: &World) -> Option<DomId> {
    Some(bench.must(world, |host| create(bench, host, BOTH)))
}

#[test]
fn a_create_that_is_killed_leaves_no_framebuffer_without_its_domain() {
    kill_at_each_call(
        |_, _| None,
        |bench, host, _| create(bench, host, BOTH).map(drop),
        is_whole,
    );
}

#[test]
fn a_destroy_that_is_killed_ends_the_qemu() {
    kill_at_each_call(
        created,
        |_, host, domid| destroy::destroy(host, domid.unwrap(), false),
        is_whole,
    );
}

#[test]
fn an_attach_or_a_detach_that_is_killed_is_done_or_undone() {
    let is_consistent = |world: &World| {
        is_whole_but_for_keyboards(world)?;
        let now = world.snapshot();
        let copies = nodes_of(&now, "/device/vkbd/")
            .iter()
            .filter(|path| path.starts_with("/libxl") && path.ends_with("/backend"))
            .count();
        let backends = nodes_of(&now, "backend/vinput/")
            .iter()
            .filter(|path| path.ends_with("/online"))
            .count();
        // One more is QEMU's.
        match copies == backends + 1 {
            true => Ok(()),
            false => Err(format!("{copies} copies, {backends} backends")),
        }
    };
    kill_at_each_call(
        created,
        |_, host, domid| attach_keyboard(host, domid.unwrap(), "backend-type=linux"),
        is_consistent,
    );
    kill_at_each_call(
        created,
        |_, host, domid| detach_keyboard(host, domid.unwrap(), "1"),
        is_consistent,
    );
}

fn is_whole_but_for_keyboards(world: &World) -> Result<(), String> {
    let now = world.snapshot();
    match qemus(world).len() == 1 && nodes_of(&now, "backend/vfb/").len() > 1 {
        true => Ok(()),
        false => Err(format!("QEMUs of {:?}", qemus(world))),
    }
}
