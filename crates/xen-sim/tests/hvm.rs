//! HVM guests: a VM's whole life with a device model, device models that do not do their work or die, and the death of the toolstack's
//! process at every call of a create, a restart and a destroy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::sync::Mutex;
use std::time::Duration;

use bench::Bench;
use bench::qemu::{IMAGE, kill_at_each_call, nodes_of, qemus, world};
use os_port::{ChildEnd, Link, ProcessSignal};
use uuid::Uuid;
use xen_port::{DomId, GuestKind, ShutdownReason};
use xen_sim::{Manner, Turns, World};
use xyl_engine::device::hotplug;
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::monitor;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::nic::VifDefaults;
use xyl_engine::vm::{Vm, monitor_lock};
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

/// A 32-bit image without notes that is loaded at 1 MiB, as hvmloader is.
fn hvmloader() -> Vec<u8> {
    const AT: u32 = 0x0010_0000;
    const CODE: u32 = 84;
    let mut image = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0];
    image.resize(16, 0);
    for half in [2_u16, 3] {
        image.extend(half.to_le_bytes());
    }
    for word in [1_u32, AT, 52, 0, 0] {
        image.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 40, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    for word in [1_u32, CODE, AT, AT, 16, 64, 7, 4] {
        image.extend(word.to_le_bytes());
    }
    image.resize(CODE as usize + 16, 0xf4);
    image
}

/// The taps of a host.
fn taps(world: &World) -> Vec<Link> {
    let mut links = world.links.all();
    links.retain(|link| link.kind.as_deref() == Some("tun"));
    links
}

/// The configuration of an HVM guest with a network card, without a serial line: the simulated QEMU has no terminals.
fn config(bench: &Bench) -> String {
    let folder = bench.kernel().parent().unwrap();
    let (loader, bios) = (folder.join("hvmloader"), folder.join("bios"));
    std::fs::write(&loader, hvmloader()).unwrap();
    std::fs::write(&bios, [0x90; 4096]).unwrap();
    format!(
        "name = \"guest1\"\nuuid = \"{UUID}\"\ntype = \"hvm\"\nmemory = 24\nfirmware_override = \"{}\"\nbios_path_override = \"{}\"\nvif = [ \"\" ]\n",
        loader.display(),
        bios.display()
    )
}

fn create(bench: &Bench, host: &mut Host) -> Result<DomId, EngineError> {
    bench.create_from(host, &config(bench))
}

#[test]
fn a_domain_has_one_device_model_from_its_create_to_its_destroy() {
    let (bench, world) = (Bench::new(), world());
    let first = bench.must(&world, |host| create(&bench, host));
    assert_eq!(qemus(&world), [first.to_string()]);
    let now = world.snapshot();
    assert_eq!(now.domains[&first].kind(), GuestKind::Hvm);
    let value = |path: &str| {
        let value = now.nodes.get(&format!("/local/domain/{first}/{path}"));
        String::from_utf8(value.unwrap().clone()).unwrap()
    };
    assert_eq!(value("hvmloader/bios"), "seabios");
    assert_eq!(value("hvmloader/allow-memory-relocate"), "0");
    assert_eq!(value("platform/acpi"), "1");
    assert_eq!(value("memory/target"), (16 << 10).to_string());
    assert_eq!(value("memory/videoram"), (8 << 10).to_string());
    assert_eq!(value("console/vnc-port"), "5900");
    let pid = world.programs.running()[0].0;
    assert_eq!(value("image/device-model-pid"), pid.to_string());
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        restart::restart(host, uuid, first, false).map(drop)
    });
    let next = DomId(first.0 + 1);
    assert_eq!(qemus(&world), [next.to_string()]);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    is_whole(&world).unwrap();
}

/// The device model alone has the tap of a card: the tap goes when it unplugs the card, or ends.
#[test]
fn an_emulated_card_has_a_tap_at_the_bridge_as_long_as_its_device_model_runs() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create(&bench, host));
    let bridge = world.links.all().remove(0);
    let [tap] = &taps(&world)[..] else {
        panic!("{:?}", taps(&world));
    };
    assert_eq!(tap.name, format!("vif{domid}.0-emu"));
    assert_eq!((tap.master, tap.is_up), (Some(bridge.index), true));
    assert_eq!(tap.address, Some([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]));
    assert!(!tap.makes_ipv6_address);
    let (pid, launch) = world.programs.running().remove(0);
    let words: Vec<_> = launch
        .arguments()
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words = words.join(" ");
    assert!(
        words.contains("-netdev tap,id=net0,fd=4 -device rtl8139,"),
        "{words}"
    );
    world.programs.end(pid, ChildEnd::Signal);
    assert_eq!(taps(&world), []);
}

#[test]
fn an_interface_without_a_card_has_no_tap() {
    let (bench, world) = (Bench::new(), world());
    let config = config(&bench).replace("vif = [ \"\" ]", "vif = [ \"type=vif\" ]");
    bench.must(&world, |host| bench.create_from(host, &config).map(drop));
    assert_eq!(taps(&world), []);
}

#[test]
fn a_disk_of_another_format_has_a_qemu_of_its_own() {
    let (bench, world) = (Bench::new(), world());
    let disk = format!("disk = [ '{IMAGE},qcow2,xvdf,rw' ]\n");
    let domid = bench.must(&world, |host| {
        bench.create_from(host, &(config(&bench) + &disk))
    });
    assert_eq!(qemus(&world), [domid.to_string(), domid.to_string()]);
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    is_whole(&world).unwrap();
}

#[test]
fn a_device_model_that_does_not_start_fails_the_create_and_leaves_nothing() {
    for manner in [Manner::Refuses, Manner::Hangs] {
        let (bench, world) = (Bench::new(), world());
        world.backends.set_manner(manner);
        let refused = bench.must(&world, |host| Ok(create(&bench, host).unwrap_err().code()));
        assert_eq!(refused, ErrorCode::Backend, "{manner:?}");
        assert!(qemus(&world).is_empty(), "{manner:?}");
        assert!(world.snapshot().domains.len() <= 1, "{manner:?}");
    }
}

#[test]
fn a_dead_device_model_does_not_keep_a_domain_from_its_end() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create(&bench, host));
    let (pid, _) = world.programs.running()[0];
    let held = world.programs.hold(pid).unwrap();
    os_port::HeldProcess::send(&held, ProcessSignal::Kill).unwrap();
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    is_whole(&world).unwrap();
}

/// Without its device model a guest cannot run, whether a monitor saw the death or found it.
#[test]
fn the_monitor_takes_the_death_of_a_device_model_for_a_crash() {
    for is_seen in [false, true] {
        let (bench, world) = (Bench::new(), world());
        let text = config(&bench) + "on_crash = \"destroy\"\n";
        let domid = bench.must(&world, |host| bench.create_from(host, &text));
        let vm = Vm {
            domid,
            uuid: Uuid::parse_str(UUID).unwrap(),
        };
        bench.must(&world, |host| {
            monitor_lock::create_file(&*host.files, &host.dirs, vm.uuid)
        });
        let (pid, _) = world.programs.running()[0];
        let die = || world.programs.end(pid, ChildEnd::Signal);
        if !is_seen {
            die();
        }
        let lines = Mutex::new(Vec::new());
        let turns = Turns::fair(1, &world.clock, 2);
        let (watching, killing) = (
            world.fate(None).seated(turns.servant(0)),
            world.fate(None).seated(turns.seat(1)),
        );
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let watch = |host: &mut Host| {
                    monitor::watch(host, vm, &mut |line| {
                        lines.lock().unwrap().push(line.to_owned())
                    })
                };
                bench.run(&world, watching, watch)
            });
            scope.spawn(|| {
                bench.run(&world, killing, |host| {
                    // By then the monitor waits.
                    host.wait_for(&[], Duration::from_secs(5))?;
                    die();
                    host.wait_for(&[], Duration::from_secs(60)).map(drop)
                })
            });
        });
        assert_eq!(turns.stuck(), None);
        let lines = lines.into_inner().unwrap();
        let is_told = |line: &String| line.contains("device model (QEMU) of domain");
        assert!(lines.iter().any(is_told), "{is_seen}: {lines:?}");
        is_whole(&world).unwrap();
        let domains = world.snapshot().domains;
        assert!(domains.is_empty(), "{is_seen}: {lines:?}");
    }
}

#[test]
fn devices_of_a_running_guest_are_not_changed_yet() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create(&bench, host));
    let refused = bench.must(&world, |host| {
        let info = host.hv.domain_info(domid)?.unwrap();
        let text = format!("vdev=xvdg,access=rw,format=qcow2,target={IMAGE}");
        let request = Request::AttachDevice {
            kind: "vbd".to_owned(),
            device: hotplug::for_request("vbd", &text, &VifDefaults::default())?,
        };
        Ok(requests::ask_for(host, &info, &request).unwrap_err().code())
    });
    assert_eq!(refused, ErrorCode::DeviceUnsupported);
}

/// After a death and a recovery each domain has its device model, and no device model is without its domain.
fn is_whole(world: &World) -> Result<(), String> {
    let now = world.snapshot();
    let domains = now.domains.keys().filter(|domid| **domid != DomId::ZERO);
    let wanted: Vec<String> = domains.map(DomId::to_string).collect();
    if qemus(world) != wanted {
        return Err(format!("QEMUs of {:?}, domains {wanted:?}", qemus(world)));
    }
    let taps = taps(world).len();
    if taps != wanted.len() {
        return Err(format!("{taps} taps, domains {wanted:?}"));
    }
    let left = nodes_of(&now, "device-model/");
    match wanted.is_empty() && !left.is_empty() {
        true => Err(format!("{left:?}")),
        false => Ok(()),
    }
}

#[test]
fn a_create_that_is_killed_leaves_no_device_model_without_its_domain() {
    kill_at_each_call(
        |_, _| None,
        |bench, host, _| create(bench, host).map(drop),
        is_whole,
    );
}

#[test]
fn a_restart_that_is_killed_ends_with_the_next_device_model() {
    kill_at_each_call(
        |bench, world| {
            let domid = bench.must(world, |host| create(bench, host));
            world.shut_down(domid, ShutdownReason::Reboot);
            Some(domid)
        },
        |_, host, domid| {
            let uuid = Uuid::parse_str(UUID).unwrap();
            restart::restart(host, uuid, domid.unwrap(), false).map(drop)
        },
        is_whole,
    );
}

#[test]
fn a_destroy_that_is_killed_ends_the_device_model() {
    kill_at_each_call(
        |bench, world| Some(bench.must(world, |host| create(bench, host))),
        |_, host, domid| destroy::destroy(host, domid.unwrap(), false),
        is_whole,
    );
}
