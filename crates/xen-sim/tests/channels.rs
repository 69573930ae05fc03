//! Channels: consoles with a name, which QEMU serves. A VM's whole life with two and a disk of QEMU, a soft reset, QEMUs that do not do
//! their work, and the death of the toolstack's process at every call of a create and a destroy.
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
use xyl_engine::operation::soft_reset::{self, Outcome};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::vm::Vm;
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const CHANNELS: &str =
    "channel = [ 'name=org.example.agent,connection=pty', 'connection=pty,name=log' ]\n";
/// The second one has a socket.
const WITH_SOCKET: &str =
    "channel = [ 'name=a,connection=pty', 'name=b,connection=socket,path=/srv/b.sock' ]\n";
/// Path of its socket.
const SOCKET: &str = "/srv/b.sock";

fn create(bench: &Bench, host: &mut Host, devices: &str) -> Result<DomId, EngineError> {
    let text = bench.config("guest1", UUID);
    bench.create_from(host, &format!("{text}{devices}"))
}

fn create_guest(bench: &Bench, host: &mut Host) -> Result<DomId, EngineError> {
    create(bench, host, CHANNELS)
}

fn node(now: &Snapshot, path: &str) -> String {
    let value = now.nodes.get(path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(value.clone()).unwrap()
}

/// The arguments of the one QEMU of the host.
fn line_of_qemu(world: &World) -> String {
    let running = world.programs.running();
    let [(_, launch)] = &running[..] else {
        panic!("{} programs", running.len());
    };
    launch.line()
}

#[test]
fn channels_are_consoles_with_a_name_and_a_terminal() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create_guest(&bench, host));
    assert_eq!(qemus(&world), [domid.to_string()]);
    let now = world.snapshot();
    for (number, name) in [(1, "org.example.agent"), (2, "log")] {
        let id = format!("libxl-channel{number}");
        let frontend = format!("/local/domain/{domid}/device/console/{number}");
        let backend = format!("/local/domain/0/backend/console/{domid}/{number}");
        let copy = format!("/libxl/{domid}/device/console/{number}");
        for (path, value) in [
            (format!("{frontend}/name"), name),
            (format!("{frontend}/type"), "ioemu"),
            (format!("{frontend}/output"), &format!("chardev:{id}")),
            (format!("{frontend}/tty"), "/dev/pts/7"),
            (format!("{backend}/state"), "2"),
            (format!("{backend}/connection"), "pty"),
            (format!("{copy}/backend"), &backend),
            (format!("{copy}/name"), name),
        ] {
            assert_eq!(node(&now, &path), value, "{path}");
        }
        assert!(line_of_qemu(&world).contains(&format!("-chardev pty,id={id}")));
    }
}

#[test]
fn one_qemu_serves_channels_and_disks_from_the_create_to_the_destroy() {
    let (bench, world) = (Bench::new(), world());
    let both = format!("{CHANNELS}disk = [ '{IMAGE},qcow2,xvda,rw' ]\n");
    let first = bench.must(&world, |host| create(&bench, host, &both));
    assert_eq!(qemus(&world), [first.to_string()]);
    let line = line_of_qemu(&world);
    assert!(
        line.contains("set=1") && line.contains("libxl-channel2"),
        "{line}"
    );
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        restart::restart(host, uuid, first, false).map(drop)
    });
    let next = DomId(first.0 + 1);
    assert_eq!(qemus(&world), [next.to_string()]);
    let name = format!("/local/domain/{next}/device/console/2/name");
    assert_eq!(node(&world.snapshot(), &name), "log");
    bench.must(&world, |host| destroy::destroy(host, next, false));
    assert!(qemus(&world).is_empty());
    let left = world.snapshot();
    for what in [
        "backend/console/",
        "backend/qdisk/",
        "device-model/",
        "device/console/",
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
            Ok(create_guest(&bench, host).unwrap_err().code())
        });
        assert_eq!(refused, ErrorCode::Backend, "{manner:?}");
        assert!(qemus(&world).is_empty(), "{manner:?}");
        assert!(world.snapshot().domains.len() <= 1, "{manner:?}");
    }
}

#[test]
fn without_qemu_nothing_is_made() {
    let (bench, world) = (Bench::new(), World::new(256));
    let refused = bench.must(&world, |host| {
        Ok(create_guest(&bench, host).unwrap_err().code())
    });
    assert_eq!(refused, ErrorCode::Backend);
    assert!(world.snapshot().domains.len() <= 1);
}

#[test]
fn a_soft_reset_gives_the_channels_a_new_qemu() {
    let (bench, world) = (Bench::new(), world());
    let domid = bench.must(&world, |host| create_guest(&bench, host));
    let first = world.programs.running()[0].0;
    world.settle();
    world.shut_down(domid, ShutdownReason::SoftReset);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let outcome = bench.must(&world, |host| soft_reset::run(host, Vm { domid, uuid }));
    assert_eq!(outcome, Outcome::Running);
    assert_eq!(qemus(&world), [domid.to_string()]);
    assert_ne!(world.programs.running()[0].0, first);
    is_whole(&world).unwrap();
}

fn file(world: &World, path: &str) -> Option<String> {
    let now = world.snapshot();
    let bytes = now.files.get(std::path::Path::new(path))?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// The link at the path, and the socket, are those of the domain, if there is one. Nothing else is left.
fn has_its_socket(world: &World) -> Result<(), String> {
    is_whole(world)?;
    let now = world.snapshot();
    let domid = now.domains.keys().find(|domid| **domid != DomId::ZERO);
    let own = domid.map(|domid| format!("/run/xyl/channel/{domid}-2"));
    let sockets = now.files.keys().filter_map(|path| path.to_str());
    let sockets: Vec<&str> = sockets
        .filter(|path| path.starts_with("/run/xyl/channel/"))
        .collect();
    let link = own.as_ref().map(|own| format!("symbolic link to {own}"));
    match sockets == own.as_deref().into_iter().collect::<Vec<_>>() && file(world, SOCKET) == link {
        true => Ok(()),
        false => Err(format!("{sockets:?}, {:?}", file(world, SOCKET))),
    }
}

#[test]
fn a_channel_by_socket_is_found_at_its_path_and_goes_with_its_domain() {
    let (bench, world) = (Bench::new(), world());
    let first = bench.must(&world, |host| create(&bench, host, WITH_SOCKET));
    has_its_socket(&world).unwrap();
    let backend = format!("/local/domain/0/backend/console/{first}/2");
    assert_eq!(node(&world.snapshot(), &format!("{backend}/path")), SOCKET);
    let line = line_of_qemu(&world);
    assert!(
        line.contains("socket,id=libxl-channel2,fd=4,server=on"),
        "{line}"
    );
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(&world, |host| {
        restart::restart(host, uuid, first, false).map(drop)
    });
    has_its_socket(&world).unwrap();
    let next = DomId(first.0 + 1);
    bench.must(&world, |host| destroy::destroy(host, next, false));
    has_its_socket(&world).unwrap();
}

#[test]
fn a_file_that_is_not_xyls_stays_where_it_is() {
    let (bench, world) = (Bench::new(), world());
    for contents in ["data", "symbolic link to /srv/other"] {
        world
            .disk
            .put(std::path::Path::new(SOCKET), contents.as_bytes());
        let refused = bench.must(&world, |host| {
            Ok(create(&bench, host, WITH_SOCKET).unwrap_err().code())
        });
        assert_eq!(refused, ErrorCode::Backend, "{contents}");
        assert_eq!(file(&world, SOCKET).as_deref(), Some(contents));
    }
    // One that a dead process has left is.
    let left = "symbolic link to /run/xyl/channel/77-2";
    world
        .disk
        .put(std::path::Path::new(SOCKET), left.as_bytes());
    let domid = bench.must(&world, |host| create(&bench, host, WITH_SOCKET));
    has_its_socket(&world).unwrap();
    // Another VM cannot have the same path meanwhile, and an administrator's file outlives the domain.
    world.disk.put(std::path::Path::new(SOCKET), b"data");
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    assert_eq!(file(&world, SOCKET).as_deref(), Some("data"));
}

#[test]
fn a_create_or_destroy_that_is_killed_leaves_no_socket_without_its_domain() {
    kill_at_each_call(
        |_, _| None,
        |bench, host, _| create(bench, host, WITH_SOCKET).map(drop),
        has_its_socket,
    );
    kill_at_each_call(
        |bench, world| Some(bench.must(world, |host| create(bench, host, WITH_SOCKET))),
        |_, host, domid| destroy::destroy(host, domid.unwrap(), false),
        has_its_socket,
    );
}

/// After a death and a recovery there is one QEMU for the domain with its channels, or neither.
fn is_whole(world: &World) -> Result<(), String> {
    let now = world.snapshot();
    let domains = now.domains.keys().filter(|domid| **domid != DomId::ZERO);
    let wanted: Vec<String> = domains.map(DomId::to_string).collect();
    if qemus(world) != wanted {
        return Err(format!("QEMUs of {:?}, domains {wanted:?}", qemus(world)));
    }
    let nodes = nodes_of(&now, "backend/console/");
    let served = |domid: &String| {
        (1..=2).all(|number| {
            let path = format!("/local/domain/0/backend/console/{domid}/{number}/state");
            now.nodes.get(&path).is_some_and(|state| state == b"2")
        })
    };
    match wanted.is_empty() != nodes.is_empty() || !wanted.iter().all(served) {
        true => Err(format!("{nodes:?}")),
        false => Ok(()),
    }
}

#[test]
fn a_create_that_is_killed_leaves_no_channel_without_its_domain() {
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
