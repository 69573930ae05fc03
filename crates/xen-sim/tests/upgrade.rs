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
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::{EngineError, Host};

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

const OPERATIONS: [Operation; 4] = [
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
];

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
    let now = world.snapshot();
    if let Err(fault) = checks::whole(world, &now, start, *bystander) {
        panic!("{name}, {nr_lines} lines: {fault}; {told:?}");
    }
    let info = checks::vm(&now, UUID, &["guest"]).unwrap();
    let is_gone = info.is_none();
    let runs = info.is_some_and(|info| !info.flags.paused && !info.flags.shutdown);
    match name {
        "create" => assert!(is_gone || runs, "{nr_lines} lines: {told:?}"),
        "destroy" => assert!(is_gone, "{nr_lines} lines: {told:?}"),
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

fn world_lines(world: &World) -> usize {
    lines(&world.disk.contents(&journal()).unwrap_or_default())
}

/// The lines before the one that begins the last operation.
fn begun_at(text: &[u8]) -> usize {
    let text = String::from_utf8_lossy(text);
    let begins = text.lines().enumerate();
    let begins = begins.filter(|(_, line)| line.contains("{\"begin\""));
    begins.map(|(index, _)| index).last().unwrap()
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
