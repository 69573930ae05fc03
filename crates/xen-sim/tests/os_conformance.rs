//! The checks of the operating system's devices, on the system in memory and on the one that runs this test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs
)]

#[path = "bench/os_conformance.rs"]
mod os_conformance;

use os_conformance::{Check, DOORBELL_CHECKS, LINK_CHECKS, LOOP_CHECKS, Ports, real_devices};
use os_port::{LoopRequest, Opening};
use xen_port::Errno;
use xen_sim::{Ended, LastingFault, Moment, World};

fn run(ports: &Ports<'_>, checks: &[(&str, Check)]) {
    for (what, check) in checks {
        if let Err(why) = check(ports) {
            panic!("{what}: {why}");
        }
    }
}

#[test]
fn the_system_in_memory() {
    let world = World::new(16);
    for refuses_direct_io in [false, true] {
        world.disks.set_refuses_direct_io(refuses_direct_io);
        let handles = world.handles(&world.fate(None)).unwrap();
        let ports = Ports {
            files: &*handles.files,
            clock: &*handles.clock,
            doorbells: &*handles.doorbells,
            add_link: &|name, kind| {
                world.links.add(name, Some(kind));
                Ok(())
            },
            devices: &handles.devices,
            folder: "/var/lib/images".into(),
        };
        run(&ports, LOOP_CHECKS);
        run(&ports, DOORBELL_CHECKS);
        run(&ports, LINK_CHECKS);
        assert_eq!(world.links.all(), []);
        assert_eq!(world.disks.loops(), []);
    }
}

/// Whether this process may attach files to loop devices.
fn has_loop_devices() -> bool {
    let control = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/loop-control");
    control.is_ok()
}

/// Set in a process that has a network namespace of its own.
const IN_NAMESPACE: &str = "XEN_SIM_IN_NAMESPACE";

/// Runs itself again in a new network namespace. Skipped where this user cannot make one, or the kernel has no veth links.
#[test]
fn the_network_of_the_system_that_runs_this() {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        let devices = real_devices();
        let ports = Ports::real(&devices, "/".into());
        return run(&ports, LINK_CHECKS);
    }
    let in_namespace = |command: &[&str]| {
        let output = std::process::Command::new("unshare")
            .arg("--net")
            .args(command)
            .env(IN_NAMESPACE, "1")
            .output();
        output.unwrap()
    };
    let probe = "ip link add probe type veth && ip link add bridge type bridge";
    if !in_namespace(&["sh", "-c", probe]).status.success() {
        return eprintln!(
            "skipped: bridges and veth links need root, ip(8) and the kernel's modules"
        );
    }
    let program = std::env::current_exe().unwrap();
    let output = in_namespace(&[
        program.to_str().unwrap(),
        "--exact",
        "the_network_of_the_system_that_runs_this",
    ]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_system_that_runs_this() {
    let folder = tempfile::tempdir().unwrap();
    let devices = real_devices();
    let ports = Ports::real(&devices, folder.path().to_owned());
    run(&ports, DOORBELL_CHECKS);
    match has_loop_devices() {
        true => run(&ports, LOOP_CHECKS),
        false => eprintln!("skipped: loop devices need root and /dev/loop-control"),
    }
}

const IMAGE: &str = "/var/lib/images/a.img";

/// Attaches the image, holds the device for two more calls, and drops it.
fn attach_in(world: &World, doom: Option<(u64, Moment)>, is_autoclear: bool) -> (Ended<bool>, u64) {
    let fate = world.fate(doom);
    let handles = world.handles(&fate).unwrap();
    let ended = fate.run(move || {
        let image = std::path::Path::new(IMAGE);
        let Ok(file) = handles.files.open(image, &Opening::disk(true)) else {
            return false;
        };
        let request = LoopRequest {
            is_autoclear,
            ..LoopRequest::whole(&file, false, "a")
        };
        let attached = handles.devices.loops.attach(&request);
        let listed = handles.devices.loops.list();
        attached.is_ok() && listed.is_ok()
    });
    (ended, fate.calls())
}

#[test]
fn a_process_that_dies_leaves_no_device_that_goes_with_its_user() {
    let new_world = || {
        let world = World::new(16);
        world.disk.put(std::path::Path::new(IMAGE), &[0; 8192]);
        world
    };
    let (ended, calls) = attach_in(&new_world(), None, true);
    assert!(matches!(ended, Ended::Well(true)) && calls >= 4, "{calls}");
    for call in 1..=calls {
        for moment in Moment::ALL {
            let world = new_world();
            let before = world.snapshot();
            let (ended, _) = attach_in(&world, Some((call, moment)), true);
            assert!(matches!(ended, Ended::Killed));
            assert_eq!(world.snapshot().leaks(&before, &|_| false), [""; 0]);
        }
    }
    // One without that flag stays, and the checker finds it.
    let world = new_world();
    let before = world.snapshot();
    attach_in(&world, Some((2, Moment::After)), false);
    assert_eq!(
        world.snapshot().leaks(&before, &|_| false),
        ["loop device 0"]
    );
}

#[test]
fn a_backend_keeps_a_device_that_its_maker_has_let_go() {
    let world = World::new(16);
    world.disk.put(std::path::Path::new(IMAGE), &[0; 8192]);
    let fate = world.fate(None);
    let handles = world.handles(&fate).unwrap();
    let image = std::path::Path::new(IMAGE);
    let file = handles.files.open(image, &Opening::disk(true)).unwrap();
    let request = LoopRequest::whole(&file, false, "a");
    let attached = handles.devices.loops.attach(&request).unwrap();
    let backend = world.disks.open_loop(attached.facts().number);
    drop(attached);
    fate.run(|| drop(handles));
    assert_eq!(world.disks.loops().len(), 1);
    drop(backend);
    assert_eq!(world.disks.loops(), []);
}

#[test]
fn a_fault_of_a_call_stays_until_it_is_lifted() {
    let world = World::new(16);
    world.disk.put(std::path::Path::new(IMAGE), &[0; 8192]);
    world.fail_always(LastingFault::Os {
        op: "attach_loop",
        errno: Errno::EPERM,
    });
    assert!(matches!(
        attach_in(&world, None, true).0,
        Ended::Well(false)
    ));
    world.lift_faults();
    assert!(matches!(attach_in(&world, None, true).0, Ended::Well(true)));
}
