//! The one wait for all sources of events, in one process and among several that a seed interleaves and kills.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bench::Bench;
use os_port::{Child, ChildEnd, Given, Heard, Launch, ProcessSignal};
use uuid::Uuid;
use xen_sim::{Ended, Fate, Moment, Turns, World};
use xenstore::{Path, Tree};
use xyl_engine::{DOORBELL, EngineError, Event, Host};

const OUTER: &str = "outer";
const INNER: &str = "inner";
const CALL: &str = "call";
const LONG: Duration = Duration::from_secs(3600);

fn uuid() -> Uuid {
    Uuid::from_bytes([7; 16])
}

fn host(world: &World) -> (Host, Fate) {
    let fate = world.fate(None);
    (Bench::new().host(world, &fate), fate)
}

fn node(name: &str) -> Path {
    Path::new(&format!("/tool/events/{name}")).unwrap()
}

fn token(event: Option<Event>) -> Option<String> {
    event.map(|event| event.token().to_owned())
}

#[test]
fn a_wait_within_a_wait_takes_its_own_events_alone() {
    let world = World::new(16);
    let (mut host, _fate) = host(&world);
    for (name, token) in [("a", OUTER), ("b", INNER)] {
        host.store.write(&node(name), b"1").unwrap();
        host.store.watch(&node(name), token).unwrap();
    }
    host.install_doorbell(uuid()).unwrap();
    let caller = host.ring(uuid()).unwrap().unwrap();
    let inner = host.wait_for(&[INNER], LONG).unwrap();
    assert_eq!(token(inner).as_deref(), Some(INNER));
    // Nothing more of its own: the time passes.
    let before = world.clock.passed();
    assert_eq!(host.wait_for(&[INNER], LONG).unwrap(), None);
    assert!(world.clock.passed() - before >= LONG);
    let all = [DOORBELL, OUTER, INNER];
    let order: Vec<_> = std::iter::from_fn(|| token(host.wait_for(&all, LONG).unwrap())).collect();
    assert_eq!(order, [OUTER, DOORBELL]);
    assert_eq!(caller.take().unwrap(), Heard::Nothing);
    host.ring_back().unwrap();
    assert_eq!(caller.take().unwrap(), Heard::Ring);
    host.remove_doorbell();
    assert_eq!(caller.take().unwrap(), Heard::End);
    assert!(host.ring(uuid()).unwrap().is_none());
}

#[test]
fn a_timer_ends_a_wait_and_goes() {
    let world = World::new(16);
    let (mut host, _fate) = host(&world);
    let begun = world.clock.passed();
    host.sources
        .set_timer("soon", host.clock.now() + Duration::from_secs(5));
    assert_eq!(host.wait_for(&[OUTER], LONG / 60).unwrap(), None);
    assert_eq!(
        host.wait_for(&["soon"], LONG).unwrap(),
        Some(Event::Due("soon"))
    );
    host.sources
        .set_timer("later", host.clock.now() + Duration::from_secs(5));
    let later = host.wait_for(&["later", OUTER], LONG).unwrap();
    assert_eq!(later, Some(Event::Due("later")));
    let passed = world.clock.passed() - begun;
    assert!(passed < LONG, "{passed:?}");
    host.sources
        .set_timer("never", host.clock.now() + Duration::from_secs(5));
    host.sources.remove_timer("never");
    assert_eq!(host.wait_for(&["never"], LONG).unwrap(), None);
}

#[test]
fn the_end_of_a_child_wakes_its_parent() {
    let world = World::new(16);
    let (mut host, _fate) = host(&world);
    let launch = Launch::new(FilePath::new("/usr/bin/qemu")).unwrap();
    let children: Vec<_> = (0..2)
        .map(|_| host.spawn.start(&launch, &Given::default()).unwrap())
        .collect();
    let [ends, killed] = &children[..] else {
        panic!("two children");
    };
    host.sources.add("ends", Rc::clone(ends) as Rc<_>);
    host.sources.add("killed", Rc::clone(killed) as Rc<_>);
    let both = ["ends", "killed"];
    assert_eq!(host.wait_for(&both, LONG).unwrap(), None);
    assert_eq!(world.programs.running().len(), 2);
    world.programs.end(ends.id(), ChildEnd::Exit(3));
    let event = host.wait_for(&both, LONG).unwrap();
    assert_eq!(event, Some(Event::Ready("ends")));
    assert_eq!(ends.end().unwrap(), Some(ChildEnd::Exit(3)));
    // It stays so until its owner has had enough.
    assert_eq!(host.wait_for(&both, LONG).unwrap(), event);
    host.sources.remove("ends");
    killed.send(ProcessSignal::Terminate).unwrap();
    assert_eq!(world.programs.signals(killed.id()), (false, true));
    assert_eq!(host.wait_for(&both, LONG).unwrap(), None);
    killed.send(ProcessSignal::Kill).unwrap();
    let event = host.wait_for(&both, LONG).unwrap();
    assert_eq!(event, Some(Event::Ready("killed")));
    assert_eq!(killed.end().unwrap(), Some(ChildEnd::Signal));
    let living = |child: &Rc<dyn Child>| host.process.is_running(child.id());
    assert!(!children.iter().any(living));
}

#[test]
fn a_child_outlives_a_parent_that_is_killed() {
    let bench = Bench::new();
    for (moment, is_started) in [(Moment::Before, 0), (Moment::After, 1)] {
        let world = World::new(16);
        let launch = Launch::new(FilePath::new("/usr/bin/qemu")).unwrap();
        let (ended, _) = bench.process(&world, Some((1, moment)), |host| {
            host.spawn.start(&launch, &Given::default()).map_err(disk)
        });
        assert!(matches!(ended, Ended::Killed));
        assert_eq!(world.programs.running().len(), is_started);
    }
}

#[test]
fn the_end_of_xenstored_ends_every_wait() {
    let world = World::new(16);
    let (mut host, _fate) = host(&world);
    world
        .store
        .set_fault_hook(|_| Some(xenstore::mem::Fault::Disconnect));
    host.store.read(&node("a")).unwrap_err();
    let error = host.wait_for(&[DOORBELL], LONG).unwrap_err();
    assert!(error.is_connection_lost(), "{error}");
}

// ---- several processes ----------------------------------------------------------------------------

const CALLERS: usize = 3;

fn folder() -> &'static FilePath {
    FilePath::new("/run/asked")
}

fn asked(caller: usize) -> PathBuf {
    folder().join(format!("{caller}.asked"))
}

fn told(caller: usize) -> PathBuf {
    folder().join(format!("{caller}.told"))
}

fn disk(error: std::io::Error) -> EngineError {
    EngineError::Io {
        op: "use",
        path: folder().to_owned(),
        source: error,
    }
}

/// Answers all who ask, until the world ends.
fn serve(host: &mut Host) -> Result<(), EngineError> {
    host.install_doorbell(uuid())?;
    loop {
        // What was asked before the doorbell was there, or while it was rung, is looked for too.
        for caller in 0..CALLERS {
            if host.files.read(&asked(caller), 9).is_ok() {
                host.files.write(&told(caller), b"1").map_err(disk)?;
                host.files.remove(&asked(caller)).map_err(disk)?;
            }
        }
        host.ring_back()?;
        host.wait_for(&[DOORBELL], LONG)?;
    }
}

/// How a caller fared.
#[derive(Debug, PartialEq, Eq)]
enum Fared {
    Answered,
    OwnerEnded,
    NobodyThere,
    Forgotten,
}

fn ask(host: &mut Host, caller: usize) -> Result<Fared, EngineError> {
    host.files.write(&asked(caller), b"1").map_err(disk)?;
    let Some(call) = host.ring(uuid())? else {
        return Ok(Fared::NobodyThere);
    };
    host.sources.add(CALL, Rc::clone(&call) as Rc<_>);
    loop {
        let event = host.wait_for(&[CALL], Duration::from_secs(60))?;
        let heard = call.take().map_err(disk)?;
        if host.files.read(&told(caller), 9).is_ok() {
            return Ok(Fared::Answered);
        }
        match (event, heard) {
            (_, Heard::End) => return Ok(Fared::OwnerEnded),
            (None, _) => return Ok(Fared::Forgotten),
            _ => {}
        }
    }
}

/// Runs the owner of a doorbell and its callers in an order of the seed's. `doom` is about one of them by number: the owner is
/// 0. Returns how the callers fared; `None` for one that was killed.
fn run(seed: u64, doom: Option<(usize, u64, Moment)>) -> (Vec<Option<Fared>>, (u64, u64)) {
    let bench = Bench::new();
    let world = World::new(16);
    world.disk.put(&folder().join("there"), b"");
    let turns = Turns::new(seed, &world.clock, CALLERS + 1);
    let doom_of = |number: usize| {
        let doom = doom.filter(|(who, ..)| *who == number);
        doom.map(|(_, call, moment)| (call, moment))
    };
    let (world, bench) = (&world, &bench);
    let fared = std::thread::scope(|scope| {
        let owner = world.fate(doom_of(0)).seated(turns.servant(0));
        scope.spawn(move || drop(bench.run(world, owner, serve)));
        let callers = (0..CALLERS).map(|caller| {
            let number = caller + 1;
            let fate = world.fate(doom_of(number)).seated(turns.seat(number));
            scope.spawn(move || {
                // The owner has time to install its doorbell.
                let ended = bench.run(world, fate, |host| {
                    host.wait_for(&[], Duration::from_secs(5))?;
                    ask(host, caller)
                });
                match ended.0 {
                    Ended::Well(fared) => Some(fared.unwrap()),
                    Ended::Killed => None,
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    assert_eq!(turns.stuck(), None, "seed {seed}");
    (fared, turns.order())
}

#[test]
fn every_caller_is_answered_in_every_order() {
    for seed in 0..150 {
        let (fared, order) = run(seed, None);
        let answered = |one: &Option<Fared>| *one == Some(Fared::Answered);
        // One that was slow may find that the owner has ended, once all others have.
        assert!(fared.iter().all(answered), "seed {seed}: {fared:?}");
        if seed % 50 == 0 {
            assert_eq!(run(seed, None).1, order, "seed {seed}");
        }
    }
}

#[test]
fn a_caller_learns_of_the_owners_death_and_no_other_of_a_callers() {
    for seed in 0..240 {
        let who = usize::try_from(seed % 2).unwrap();
        let doom = (who, 1 + seed / 2 % 40, Moment::ALL[(seed % 3) as usize]);
        let (fared, _) = run(seed, Some(doom));
        let context = format!("seed {seed}, {doom:?}: {fared:?}");
        // Nobody waits in vain.
        assert!(!fared.contains(&Some(Fared::Forgotten)), "{context}");
        if who == 1 {
            let others = &fared[1..];
            let answered = others.iter().all(|one| *one == Some(Fared::Answered));
            assert!(answered, "{context}");
        }
    }
}
