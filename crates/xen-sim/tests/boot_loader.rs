//! Boot loaders of domain 0 (`bootloader`): what one gets, what its answers lead to, that each start runs it again, and processes that
//! are killed at any call.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bench::Bench;
use os_port::{Extracted, Launch};
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Moment, World};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::monitor;
use xyl_engine::vm::{Vm, monitor_lock};
use xyl_engine::{EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const PROGRAM: &str = "/usr/lib/xen/bin/pygrub";
const ANSWER: &str =
    "kernel /output/boot_kernel.a\0ramdisk /output/boot_ramdisk.a\0args root=/dev/xvda1\0\0";

/// How the boot loader behaves.
#[derive(Clone, Debug)]
enum Manner {
    /// It answers this, and has left a kernel and a ramdisk.
    Answers(&'static str),
    Fails,
    /// It is killed at its time limit.
    Hangs,
    /// The kernel cannot confine it.
    NotConfined,
    /// Its kernel is none.
    WrongKernel,
}

/// A world with a boot loader, and the arguments of each run.
struct Booted {
    world: World,
    runs: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Booted {
    fn nr_runs(&self) -> usize {
        self.runs.lock().unwrap().len()
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn booted(bench: &Bench, manner: Manner) -> Booted {
    let world = World::new(256);
    bench.must(&world, |_| Ok(()));
    world.disk.put(Path::new(PROGRAM), b"#!/usr/bin/python3\n");
    world.disk.sync_all();
    let runs = Arc::new(Mutex::new(Vec::new()));
    let (seen, kernel) = (runs.clone(), std::fs::read(bench.kernel()).unwrap());
    world
        .programs
        .add_reader(Path::new(PROGRAM), move |launch, disk| {
            assert_eq!(disk.path(), Path::new(&format!("/srv/{UUID}.img")));
            assert!(!disk.is_writable());
            seen.lock().unwrap().push(words(launch));
            play(&manner, &kernel)
        });
    Booted { world, runs }
}

fn words(launch: &Launch) -> Vec<String> {
    let words = launch.arguments().iter();
    words
        .map(|word| word.to_str().unwrap().to_owned())
        .collect()
}

fn play(manner: &Manner, kernel: &[u8]) -> std::io::Result<Extracted> {
    let ended = |code, said: &str| os_port::Ended {
        code: Some(code),
        errors: said.as_bytes().to_vec(),
    };
    let found = |answer: &str, kernel: &[u8]| {
        let files = [
            ("boot_kernel.a", kernel),
            ("answer", answer.as_bytes()),
            ("boot_ramdisk.a", b"ramdisk"),
        ];
        let files = files.map(|(name, bytes)| (name.to_owned(), file(bytes)));
        Extracted {
            ended: ended(0, ""),
            files: files.into(),
        }
    };
    match manner {
        Manner::Answers(answer) => Ok(found(answer, kernel)),
        Manner::WrongKernel => Ok(found(ANSWER, b"no kernel at all")),
        Manner::Fails => Ok(Extracted {
            ended: ended(1, "Traceback:\nRuntimeError: Unable to find partition\n"),
            files: Vec::new(),
        }),
        Manner::Hangs => Err(std::io::ErrorKind::TimedOut.into()),
        Manner::NotConfined => Err(std::io::ErrorKind::PermissionDenied.into()),
    }
}

fn config(more: &str) -> String {
    format!(
        "name = \"guest\"\nuuid = \"{UUID}\"\ntype = \"pvh\"\nmemory = 8\nbootloader = \"pygrub\"\n{}{more}\n",
        bench::disks(UUID)
    )
}

fn create(bench: &Bench, world: &World, text: &str) -> Result<DomId, EngineError> {
    let ended = bench.process(world, None, |host| bench.create_from(host, text));
    match ended.0 {
        Ended::Well(outcome) => outcome,
        Ended::Killed => panic!("killed"),
    }
}

#[test]
fn a_guest_boots_what_its_boot_loader_finds_and_each_start_asks_again() {
    let bench = Bench::with_devices();
    let booted = booted(&bench, Manner::Answers(ANSWER));
    let world = &booted.world;
    let more = "kernel = \"/boot/k\"\nextra = \"quiet\"\nbootloader_args = [ \"--entry=1\" ]";
    let first = create(&bench, world, &config(more)).unwrap();
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(world, |host| {
        restart::restart(host, uuid, first, false).map(Option::unwrap)
    });
    let wanted = [
        "--kernel=/boot/k",
        "--args=quiet",
        "--quiet",
        "--output=/output/answer",
        "--output-format=simple0",
        "--output-directory=/output",
        "--entry=1",
        "/disk",
    ];
    let runs = booted.runs.lock().unwrap().clone();
    assert_eq!(runs, [wanted.to_vec(), wanted.to_vec()]);
    let record = format!("/var/lib/xyl/vm/{UUID}/config.cfg");
    let record = world.disk.contents(Path::new(&record)).unwrap();
    let record = String::from_utf8(record).unwrap();
    assert!(record.contains("bootloader = \"pygrub\""), "{record}");
    assert!(record.contains("kernel = \"/boot/k\""), "{record}");
    assert!(!record.contains("xvda1"), "{record}");
    bench.must(world, |host| destroy::destroy(host, next, false));
}

#[test]
fn a_boot_loader_that_finds_nothing_fails_the_create_and_leaves_nothing() {
    for (manner, code) in [
        (Manner::Fails, ErrorCode::BootLoader),
        (Manner::Hangs, ErrorCode::BootLoader),
        (Manner::NotConfined, ErrorCode::BootLoader),
        (Manner::Answers(""), ErrorCode::BootLoader),
        (
            Manner::Answers("kernel /etc/shadow\0"),
            ErrorCode::BootLoader,
        ),
        (
            Manner::Answers("kernel /output/other\0"),
            ErrorCode::BootLoader,
        ),
        (
            Manner::Answers("kernel /output/answer\0"),
            ErrorCode::BootLoader,
        ),
        (Manner::WrongKernel, ErrorCode::BootFile),
    ] {
        let bench = Bench::with_devices();
        let booted = booted(&bench, manner.clone());
        let before = booted.world.snapshot();
        let error = create(&bench, &booted.world, &config("")).unwrap_err();
        assert_eq!((error.code(), error.step()), (code, None), "{manner:?}");
        let now = booted.world.snapshot();
        assert_eq!(now.domains, before.domains, "{manner:?}");
        assert_eq!(now.nodes, before.nodes, "{manner:?}");
        assert_eq!(now.files.len(), before.files.len(), "{manner:?}");
    }
}

#[test]
fn what_a_boot_loader_says_last_is_told() {
    let bench = Bench::with_devices();
    let booted = booted(&bench, Manner::Fails);
    let error = create(&bench, &booted.world, &config("")).unwrap_err();
    let text = error.to_string();
    for word in ["exit code 1", "Unable to find partition", PROGRAM] {
        assert!(text.contains(word), "{text}");
    }
}

/// The disk is another guest's: no boot loader looks at it.
#[test]
fn a_disk_of_another_guest_is_not_read() {
    let bench = Bench::with_devices();
    let booted = booted(&bench, Manner::Answers(ANSWER));
    create(&bench, &booted.world, &config("")).unwrap();
    let other = config("").replacen(UUID, "6a1d0c4e-0000-4000-8000-000000000002", 1);
    let other = other.replace("\"guest\"", "\"other\"");
    let error = create(&bench, &booted.world, &other).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DiskBusy);
    assert_eq!(booted.nr_runs(), 1);
}

/// A monitor that has given up the right to have programs run.
struct WithoutPrograms(Box<dyn os_port::Process>);

impl os_port::Process for WithoutPrograms {
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

    fn may_run_scripts(&self) -> bool {
        false
    }
}

/// It ends before it changes anything. The next process restarts the guest.
#[test]
fn a_monitor_without_the_right_leaves_the_restart_to_the_next_one() {
    let bench = Bench::with_devices();
    let booted = booted(&bench, Manner::Answers(ANSWER));
    let world = &booted.world;
    let domid = create(&bench, world, &config("")).unwrap();
    let uuid = Uuid::parse_str(UUID).unwrap();
    world.shut_down(domid, ShutdownReason::Reboot);
    let ended = bench.must(world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
        let process = std::mem::replace(&mut host.process, Box::new(os_port::SystemProcess));
        host.process = Box::new(WithoutPrograms(process));
        Ok(monitor::watch(host, Vm { domid, uuid }, &mut |_| ()).unwrap_err())
    });
    assert_eq!(ended.code(), ErrorCode::BootLoader);
    assert_eq!(booted.nr_runs(), 1);
    let now = world.snapshot();
    assert!(now.domains.contains_key(&domid));
    let file = format!("/run/xyl/watch/{UUID}");
    assert!(now.files.contains_key(Path::new(&file)));
    bench.must(world, |host| restart::restart(host, uuid, domid, false));
    assert_eq!(booted.nr_runs(), 2);
}

/// An act on a domain, if it has one already.
type Act<'a> = &'a dyn Fn(&mut Host, DomId) -> Result<(), EngineError>;

/// Kills an act at every call. After a recovery the VM has a domain with its disks, or nothing of the domain is left. Returns the number
/// of deaths, and of those after a run of the boot loader.
fn sweep(bench: &Bench, prepare: &dyn Fn(&World) -> DomId, act: Act<'_>) -> (u64, u64) {
    let (mut deaths, mut after_run) = (0, 0);
    for call in 1.. {
        let mut was_killed = false;
        for moment in Moment::ALL {
            let booted = booted(bench, Manner::Answers(ANSWER));
            let world = &booted.world;
            let domid = prepare(world);
            let before = booted.nr_runs();
            let doom = Some((call, moment));
            let ended = bench.process(world, doom, |host| act(host, domid)).0;
            if let Ended::Well(outcome) = ended {
                outcome.unwrap();
                continue;
            }
            (was_killed, deaths) = (true, deaths + 1);
            after_run += u64::from(booted.nr_runs() > before);
            let recovered = bench.must(world, |host| recover::all(host, false));
            let what = format!("killed {moment:?} call {call}: {recovered:?}");
            assert!(recovered.iter().all(|one| !one.has_failed), "{what}");
            let now = world.snapshot();
            let guests = now.domains.keys().filter(|domid| **domid != DomId::ZERO);
            let guests: Vec<DomId> = guests.copied().collect();
            let is_backend = |path: &&String| path.ends_with("/51712/physical-device");
            assert_eq!(
                now.nodes.keys().filter(is_backend).count(),
                guests.len(),
                "{what}"
            );
            assert_eq!(world.disks.loops().len(), guests.len(), "{what}");
            for domid in guests {
                bench.must(world, |host| destroy::destroy(host, domid, false));
            }
            assert!(world.disks.loops().is_empty(), "{what}");
        }
        if !was_killed {
            break;
        }
    }
    (deaths, after_run)
}

#[test]
fn a_create_can_be_killed_at_any_call() {
    let bench = Bench::with_devices();
    let text = config("");
    let act = |host: &mut Host, _: DomId| bench.create_from(host, &text).map(drop);
    let (deaths, after_run) = sweep(&bench, &|_| DomId::ZERO, &act);
    assert!(deaths > 300 && after_run > 200, "{deaths} {after_run}");
}

#[test]
fn a_restart_can_be_killed_at_any_call() {
    let bench = Bench::with_devices();
    let uuid = Uuid::parse_str(UUID).unwrap();
    let text = config("");
    let prepare = |world: &World| {
        let domid = create(&bench, world, &text).unwrap();
        world.shut_down(domid, ShutdownReason::Reboot);
        domid
    };
    let act = |host: &mut Host, domid: DomId| restart::restart(host, uuid, domid, false).map(drop);
    let (deaths, after_run) = sweep(&bench, &prepare, &act);
    assert!(deaths > 300 && after_run > 200, "{deaths} {after_run}");
}
