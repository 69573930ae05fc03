//! Operations that an earlier version has begun, and that this one finishes: the journals below `fixtures/journals-1` were
//! written by the first version of the format. Each is cut after each of its lines, in a world that stands as far.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;
#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "bench/checks.rs"]
mod checks;

use std::path::{Path, PathBuf};

use bench::Bench;
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Moment, Snapshot, World};
use xyl_engine::operation::dump_core::{DumpRequest, dump_core};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::vm::domains::DomainRef;
use xyl_engine::{Cancel, EngineError, Host};
use xyl_saga::{Begin, Contents, Journal, OnDeath, Planned, Record};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";

struct Operation {
    name: &'static str,
    /// Whether it is about a guest that has ended.
    has_guest: bool,
    act: fn(&Bench, &mut Host, DomId) -> Result<(), EngineError>,
}

fn uuid() -> Uuid {
    Uuid::parse_str(UUID).unwrap()
}

const OPERATIONS: [Operation; 5] = [
    Operation {
        name: "create",
        has_guest: false,
        act: |bench, host, _| bench.create(host, "guest", UUID).map(drop),
    },
    Operation {
        name: "destroy",
        has_guest: true,
        act: |_, host, old| destroy::destroy(host, old, false),
    },
    Operation {
        name: "restart",
        has_guest: true,
        act: |_, host, old| restart::restart(host, uuid(), old, false).map(drop),
    },
    Operation {
        name: "rename-restart",
        has_guest: true,
        act: |_, host, old| restart::restart(host, uuid(), old, true).map(drop),
    },
    Operation {
        name: "dump-core",
        has_guest: true,
        act: |_, host, old| dump(host, old),
    },
];

/// The file that the core is dumped to.
const CORE: &str = "/var/core";

fn dump(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let request = DumpRequest {
        domid,
        file: Path::new(CORE),
        is_live: false,
        progress: &mut |_, _| (),
    };
    dump_core(host, request, &Cancel::new()).map(drop)
}

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journals-1");
    folder.join(format!("{name}.txt"))
}

fn journal() -> PathBuf {
    Path::new("/run/xyl/vm").join(UUID).join("journal")
}

/// The end of a line counts: what follows the last one is no line.
fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// A world in which a process has died.
struct Death {
    world: World,
    bystander: DomId,
    start: Snapshot,
}

/// A process that dies after its call number `call`; `None` if it comes to its end before.
fn kill(bench: &Bench, operation: &Operation, call: u64) -> Option<Death> {
    let world = World::new(256);
    world.xen.set_version(xen_sim::version());
    let bystander = bench.must(&world, |host| bench.create(host, "bystander", OTHER_UUID));
    let start = world.snapshot();
    let mut old = DomId::ZERO;
    if operation.has_guest {
        old = bench.must(&world, |host| bench.create(host, "guest", UUID));
        world.shut_down(old, ShutdownReason::Reboot);
    }
    let doom = Some((call, Moment::After));
    let act = |host: &mut Host| (operation.act)(bench, host, old);
    match bench.process(&world, doom, act).0 {
        Ended::Killed => Some(Death {
            world,
            bystander,
            start,
        }),
        Ended::Well(_) => None,
    }
}

/// Finishes the operation by the first lines of an old journal, and looks at what has become of it.
fn finish(
    bench: &Bench,
    operation: &Operation,
    death: &Death,
    old_journal: &[u8],
    nr_lines: usize,
) {
    let Death {
        world,
        bystander,
        start,
    } = death;
    let name = operation.name;
    let text = old_journal.split_inclusive(|byte| *byte == b'\n');
    let text: Vec<u8> = text.take(nr_lines).flatten().copied().collect();
    world.disk.put(&journal(), &text);
    let told = bench.must(world, |host| recover::all(host, true));
    assert!(
        told.iter().all(|one| !one.has_failed),
        "{name}, {nr_lines} lines: {told:?}"
    );
    let mut now = world.snapshot();
    // It has this name only when it is whole.
    now.files.remove(Path::new(CORE));
    if let Err(fault) = checks::whole(world, &now, start, *bystander) {
        panic!("{name}, {nr_lines} lines: {fault}; {told:?}");
    }
    let info = checks::vm(&now, UUID, &["guest"]).unwrap();
    let is_gone = info.is_none();
    let runs = info.is_some_and(|info| !info.flags.paused && !info.flags.shutdown);
    match name {
        "create" => assert!(is_gone || runs, "{nr_lines} lines: {told:?}"),
        "destroy" => assert!(is_gone, "{nr_lines} lines: {told:?}"),
        // The domain had ended before, and stays.
        "dump-core" => assert!(!is_gone && !runs, "{nr_lines} lines: {told:?}"),
        _ => assert!(runs, "{name}, {nr_lines} lines: {told:?}"),
    }
}

#[test]
fn operations_of_the_first_version_are_finished() {
    let bench = Bench::new();
    for operation in &OPERATIONS {
        let old_journal = std::fs::read(fixture(operation.name)).unwrap();
        let mut done = begun_at(&old_journal);
        for call in 1.. {
            let Some(death) = kill(&bench, operation, call) else {
                break;
            };
            let now = world_lines(&death.world);
            for nr_lines in done + 1..=now {
                // Each needs a world of its own.
                let death = kill(&bench, operation, call).unwrap();
                finish(&bench, operation, &death, &old_journal, nr_lines);
            }
            done = done.max(now);
        }
        assert_eq!(done, lines(&old_journal), "{}", operation.name);
    }
}

/// Steps that the first version did not have.
const NEW_STEPS: [&str; 2] = ["attach its devices", "detach its devices"];

/// The lines of a world's journal that the first version would have written.
fn world_lines(world: &World) -> usize {
    let text = world.disk.contents(&journal()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_new = |line: &str| {
        let mut steps = NEW_STEPS.iter();
        // The line that begins an operation names all its steps.
        !line.contains("{\"begin\"") && steps.any(|step| line.contains(step))
    };
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines.filter(|line| !is_new(line)).count()
}

/// The lines before the one that begins the last operation.
fn begun_at(text: &[u8]) -> usize {
    let text = String::from_utf8_lossy(text);
    let begins = text.lines().enumerate();
    let begins = begins.filter(|(_, line)| line.contains("{\"begin\""));
    begins.map(|(index, _)| index).last().unwrap()
}

// ---- journals of a later version ------------------------------------------------------------------

/// The journals that this version does not finish, by what it does not know.
#[derive(Clone, Copy, Debug)]
enum Later {
    Format,
    Operation,
    Step,
}

/// Leaves a journal of a later version under way.
fn leave_journal(host: &mut Host, later: Later) {
    let (path, files) = (host.dirs.journal(uuid()), &*host.files);
    files.create_folder(path.parent().unwrap()).unwrap();
    if let Later::Format = later {
        return files.write(&path, b"xyl-journal 99\n").unwrap();
    }
    files.write(&path, b"").unwrap();
    // An empty file is a journal that nothing was written to.
    let mut journal = Journal::open(files, &path, &Contents::default()).unwrap();
    let kind = match later {
        Later::Operation => "migrate",
        _ => "restart",
    };
    let name = "do what only a later version does".to_owned();
    let step = Planned::new(&name, "unknown_action".into(), OnDeath::RollBack, 1000);
    let begin = Begin {
        id: "6a1d0c4e.1".to_owned(),
        kind: kind.to_owned(),
        uuid: UUID.to_owned(),
        name: "guest".to_owned(),
        pid: 77_777,
        steps: vec![step],
        ..Begin::default()
    };
    journal.note(&*host.clock, Record::Begin(begin));
    journal.note(&*host.clock, Record::Step { name });
    journal.flush().unwrap();
}

#[test]
fn a_destroy_by_force_alone_ends_a_vm_with_a_journal_of_a_later_version() {
    let bench = Bench::new();
    for later in [Later::Format, Later::Operation, Later::Step] {
        let world = World::new(256);
        let bystander = bench.must(&world, |host| bench.create(host, "bystander", OTHER_UUID));
        let start = world.snapshot();
        let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
        bench.must(&world, |host| {
            leave_journal(host, later);
            let refused = destroy::destroy(host, domid, false).unwrap_err();
            assert!(refused.is_of_another_version(), "{later:?}: {refused}");
            // Each such error names the file and the remedy that this test tries.
            let (path, remedy) = (journal(), format!("`xyl destroy --force uuid={UUID}`"));
            for text in [refused.to_string(), recover::all(host, true)?[0].line()] {
                assert!(text.contains(&path.display().to_string()), "{text}");
                assert!(text.contains(&remedy), "{text}");
            }
            destroy::destroy(host, domid, true)
        });
        let now = world.snapshot();
        assert!(!now.domains.contains_key(&domid), "{later:?}");
        let aside = Path::new("/run/xyl/damaged").join(UUID);
        assert!(now.files.contains_key(&aside), "{later:?}");
        for was_reported in [false, true] {
            let told = bench.must(&world, |host| recover::all(host, true));
            assert_eq!((told.len(), told[0].was_reported), (1, was_reported));
        }
        // The administrator has read the journal, and removes it.
        bench.must(&world, |host| {
            host.files.remove(&aside).unwrap();
            recover::all(host, true)
        });
        checks::whole(&world, &world.snapshot(), &start, bystander).unwrap();
    }
}

#[test]
fn what_a_later_version_left_of_a_vm_without_a_domain_is_forgotten_by_force() {
    let bench = Bench::new();
    let name = DomainRef::Name("guest".to_owned());
    for (later, asked) in [
        (Later::Format, DomainRef::Uuid(*uuid().as_bytes())),
        (Later::Operation, name.clone()),
        (Later::Step, name),
    ] {
        let world = World::new(256);
        bench.must(&world, |host| {
            leave_journal(host, later);
            let other = DomainRef::Name("other".to_owned());
            assert_eq!(recover::forget_by_force(host, &other)?, []);
            assert_eq!(
                recover::forget_by_force(host, &asked)?.len(),
                1,
                "{later:?}"
            );
            assert_eq!(recover::forget_by_force(host, &asked)?, []);
            bench.create(host, "guest", UUID).map(drop)
        });
    }
}

/// Writes the journals of this version, for a version that will have another format.
#[test]
#[ignore = "writes into the source tree: for a new version of the format alone"]
fn write_the_journals_of_this_version() {
    let bench = Bench::new();
    for operation in &OPERATIONS {
        let deaths = (1..).map_while(|call| kill(&bench, operation, call));
        let texts = deaths.filter_map(|death| death.world.disk.contents(&journal()));
        let longest = texts.max_by_key(Vec::len).unwrap();
        let path = fixture(operation.name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, longest).unwrap();
    }
}
