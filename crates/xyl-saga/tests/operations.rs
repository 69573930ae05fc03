//! Operations that succeed, fail, are cancelled, die and are taken over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;
use std::time::{Duration, Instant};

use os_port::mem::{Life, MemFiles, ProcessFiles, VirtualClock};
use os_port::{Append, Files, Lock};
use xyl_saga::state::State;
use xyl_saga::{
    Act, Begin, Control, Facts, Failure, Journal, JournalError, LINE_MAX_BYTES, OnDeath, Outcome,
    Past, Record, Resumed, Step, Subject, UnknownStep, load, resume, run,
};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cancelled")]
    Cancelled,
    #[error("{0} is broken")]
    Broken(&'static str),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Four things that are made one after the other: `old` cannot be taken back, `last` is the commit.
#[derive(Default)]
struct World {
    log: Vec<&'static str>,
    broken: Option<&'static str>,
}

impl World {
    fn act(&mut self, what: &'static str) -> Result<(), Error> {
        self.log.push(what);
        match self.broken {
            Some(broken) if broken == what => Err(Error::Broken(what)),
            _ => Ok(()),
        }
    }
}

impl Subject for World {
    type Error = Error;

    fn cancelled() -> Error {
        Error::Cancelled
    }

    fn made(&self) -> Facts {
        let mut facts = Facts::new();
        facts.insert("acts".to_owned(), self.log.len().into());
        facts
    }
}

fn step(
    name: &'static str,
    way: OnDeath,
    apply: Act<World>,
    undo: Option<Act<World>>,
) -> Step<World> {
    Step {
        name,
        deadline_ms: 1000,
        way,
        apply,
        undo,
    }
}

fn steps() -> Vec<Step<World>> {
    vec![
        step("old", OnDeath::RollForward, |w, _| w.act("+old"), None),
        step(
            "one",
            OnDeath::RollBack,
            |w, _| w.act("+one"),
            Some(|w, _| w.act("-one")),
        ),
        step(
            "two",
            OnDeath::RollBack,
            |w, _| w.act("+two"),
            Some(|w, _| w.act("-two")),
        ),
        step(
            "last",
            OnDeath::RollForwardOnceStarted,
            |w, _| w.act("+last"),
            None,
        ),
    ]
}

fn begin(name: &str) -> Begin {
    Begin {
        id: "u-1".to_owned(),
        kind: "test".to_owned(),
        uuid: "u".to_owned(),
        name: name.to_owned(),
        pid: 1,
        args: Facts::new(),
    }
}

struct Bench {
    disk: MemFiles,
    clock: VirtualClock,
    world: World,
}

const PATH: &str = "/run/vm/u/journal";

impl Bench {
    fn new(broken: Option<&'static str>) -> Bench {
        let world = World {
            broken,
            ..World::default()
        };
        Bench {
            disk: MemFiles::new(),
            clock: VirtualClock::new(),
            world,
        }
    }

    fn open(&self) -> Journal {
        let files = self.disk.of(&Life::new(1));
        let contents = load(&files, Path::new(PATH)).unwrap();
        Journal::open(&files, Path::new(PATH), &contents).unwrap()
    }

    fn past(&self) -> Past {
        Past::of(&load(&self.disk.of(&Life::new(1)), Path::new(PATH)).unwrap())
    }

    fn run(&mut self, cancel_at: Option<&'static str>) -> (Result<(), Box<Failure<Error>>>, u64) {
        let mut journal = self.open();
        journal.note(&self.clock, Record::Begin(begin("n")));
        let now = std::cell::Cell::new("");
        let mut control = Control {
            journal: &mut journal,
            clock: &self.clock,
            cancelled: &mut || cancel_at == Some(now.get()),
            progress: &mut |step| now.set(step),
        };
        let outcome = run(&steps(), &mut self.world, &mut control);
        (outcome, journal.writes())
    }

    fn resume(&mut self, again: bool) -> Result<Resumed<Error>, UnknownStep> {
        let past = self.past();
        let mut journal = self.open();
        let mut control = Control {
            journal: &mut journal,
            clock: &self.clock,
            cancelled: &mut || false,
            progress: &mut |_| (),
        };
        let operation = past.under_way().unwrap();
        resume(&steps(), operation, again, 2, &mut self.world, &mut control)
    }

    fn lines(&self) -> usize {
        let text = self.disk.contents(Path::new(PATH)).unwrap();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    /// A journal cut after so many of its lines, as if the process had died then.
    fn cut_to(&self, lines: usize) {
        let text = String::from_utf8(self.disk.contents(Path::new(PATH)).unwrap()).unwrap();
        let kept: String = text.lines().take(lines).map(|l| format!("{l}\n")).collect();
        self.disk.put(Path::new(PATH), kept.as_bytes());
    }
}

#[test]
fn all_steps_cost_a_write_each_and_one_more() {
    let mut bench = Bench::new(None);
    let (outcome, writes) = bench.run(None);
    outcome.unwrap();
    assert_eq!(bench.world.log, ["+old", "+one", "+two", "+last"]);
    assert_eq!(writes, 5);
    let operation = bench.past().operations.pop().unwrap();
    assert_eq!(operation.outcome, Some(Outcome::Done));
    assert_eq!(operation.number("acts"), Some(4));
}

#[test]
fn a_failure_undoes_back_to_what_cannot_be_undone() {
    let mut bench = Bench::new(Some("+last"));
    let failure = bench.run(None).0.unwrap_err();
    assert_eq!(failure.outcome, Some(Outcome::Undone));
    assert_eq!(failure.step, "last");
    assert_eq!(
        bench.world.log,
        ["+old", "+one", "+two", "+last", "-two", "-one"]
    );
    assert_eq!(bench.past().operations[0].outcome, Some(Outcome::Undone));
}

#[test]
fn a_step_that_only_goes_forward_fails_and_nothing_is_undone() {
    let mut bench = Bench::new(Some("+old"));
    let failure = bench.run(None).0.unwrap_err();
    assert_eq!(failure.outcome, Some(Outcome::Failed));
    assert_eq!(bench.world.log, ["+old"]);
}

#[test]
fn a_cancel_is_heeded_before_a_step_that_can_be_undone() {
    let mut bench = Bench::new(None);
    let failure = bench.run(Some("two")).0.unwrap_err();
    assert!(matches!(failure.cause, Error::Cancelled));
    assert_eq!(bench.world.log, ["+old", "+one", "-two", "-one"]);
    assert!(bench.past().operations[0].is_cancelled);
    let mut bench = Bench::new(None);
    bench.run(Some("old")).0.unwrap();
}

#[test]
fn an_undo_that_fails_is_tried_again_by_the_next() {
    let mut bench = Bench::new(Some("-two"));
    bench.run(Some("last")).0.unwrap_err();
    assert_eq!(bench.world.log, ["+old", "+one", "+two", "-two", "-one"]);
    assert!(bench.past().under_way().is_some());
    let again = bench.resume(true);
    assert!(matches!(again, Ok(Resumed::Failed(failure)) if failure.left_behind.len() == 1));
    bench.world.broken = None;
    bench.world.log.clear();
    assert!(matches!(bench.resume(true), Ok(Resumed::Undone { .. })));
    assert_eq!(bench.world.log, ["-two", "-one"]);
    assert!(bench.past().under_way().is_none());
}

/// What a process that dies after so many lines leaves, and what is made of it.
fn taken_over(lines: usize, again: bool) -> (Vec<&'static str>, &'static str) {
    let mut bench = Bench::new(None);
    bench.run(None).0.unwrap();
    bench.cut_to(lines);
    bench.world.log.clear();
    let how = match bench.resume(again).unwrap() {
        Resumed::Done => "done",
        Resumed::Undone { .. } => "undone",
        Resumed::Failed(_) => "failed",
    };
    (bench.world.log, how)
}

#[test]
fn each_death_is_answered_as_the_step_wants_it() {
    let all = vec!["+old", "+one", "+two", "+last"];
    // Begun; in the first step: it goes forward only.
    assert_eq!(taken_over(2, false), (all.clone(), "done"));
    assert_eq!(taken_over(3, false), (all, "done"));
    // The first step is done; in the second; in the third.
    assert_eq!(taken_over(4, false), (vec!["-one"], "undone"));
    assert_eq!(taken_over(5, false), (vec!["-one"], "undone"));
    assert_eq!(taken_over(7, false), (vec!["-two", "-one"], "undone"));
    // Before and in the commit; after it; at the very end.
    assert_eq!(taken_over(8, false), (vec!["-two", "-one"], "undone"));
    assert_eq!(taken_over(9, false), (vec!["+last"], "done"));
    assert_eq!(taken_over(10, false), (vec![], "done"));
}

#[test]
fn what_is_to_be_done_again_is_done_from_where_it_was_taken_back() {
    let (log, how) = taken_over(7, true);
    assert_eq!(log, ["-two", "-one", "+one", "+two", "+last"]);
    assert_eq!(how, "done");
}

/// A file that takes a part of its second write, and then fails once.
struct HalfWritten {
    inner: Box<dyn Append>,
    writes: u32,
}

impl Append for HalfWritten {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writes += 1;
        if self.writes == 2 {
            self.inner.append(&bytes[..bytes.len() * 2 / 3])?;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes)
    }

    fn cut_to(&mut self, size_bytes: u64) -> std::io::Result<()> {
        self.inner.cut_to(size_bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.inner.sync()
    }
}

/// A disk whose files are [`HalfWritten`].
struct SmallDisk(ProcessFiles);

impl Files for SmallDisk {
    fn read(&self, path: &Path, max_bytes: u64) -> std::io::Result<Vec<u8>> {
        self.0.read(path, max_bytes)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write(path, bytes)
    }
    fn append_to(&self, path: &Path) -> std::io::Result<Box<dyn Append>> {
        let inner = self.0.append_to(path)?;
        Ok(Box::new(HalfWritten { inner, writes: 0 }))
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove(path)
    }
    fn remove_folder(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove_folder(path)
    }
    fn create_folder(&self, path: &Path) -> std::io::Result<()> {
        self.0.create_folder(path)
    }
    fn list(&self, folder: &Path) -> std::io::Result<Vec<String>> {
        self.0.list(folder)
    }
    fn sync(&self, path: &Path) -> std::io::Result<()> {
        self.0.sync(path)
    }
    fn lock(
        &self,
        path: &Path,
        deadline: Option<Instant>,
    ) -> std::io::Result<Option<Box<dyn Lock>>> {
        self.0.lock(path, deadline)
    }
    fn is_locked(&self, path: &Path) -> std::io::Result<bool> {
        self.0.is_locked(path)
    }
}

#[test]
fn a_write_that_fails_midway_leaves_no_torn_line_between_others() {
    let bench = Bench::new(None);
    let disk = SmallDisk(bench.disk.of(&Life::new(1)));
    let mut journal = Journal::open(&disk, Path::new(PATH), &Default::default()).unwrap();
    journal.note(&bench.clock, Record::Begin(begin("n")));
    journal.flush().unwrap();
    let name = || "one".to_owned();
    journal.note(&bench.clock, Record::Step { name: name() });
    assert!(matches!(journal.flush(), Err(JournalError::Io { .. })));
    // What was written of it is gone, should this process write no more.
    assert_eq!(bench.lines(), 2);
    let cause = "no space".to_owned();
    journal.note(
        &bench.clock,
        Record::Failed {
            name: name(),
            cause,
        },
    );
    journal.flush().unwrap();
    let contents = load(&bench.disk.of(&Life::new(1)), Path::new(PATH)).unwrap();
    assert_eq!((contents.entries.len(), contents.damage), (3, None));
}

#[test]
fn a_record_too_long_for_its_reader_is_refused() {
    let bench = Bench::new(None);
    let mut journal = bench.open();
    journal.note(
        &bench.clock,
        Record::Begin(begin(&"n".repeat(LINE_MAX_BYTES))),
    );
    let refused = journal.flush();
    assert!(
        matches!(refused, Err(JournalError::RecordTooLong { .. })),
        "{refused:?}"
    );
    assert_eq!(bench.disk.contents(Path::new(PATH)).unwrap(), b"");
}

#[test]
fn a_commit_that_was_taken_over_goes_forward_though_its_next_process_dies_too() {
    let mut bench = Bench::new(None);
    bench.run(None).0.unwrap();
    // In the commit; and two others died right after they took it over.
    bench.cut_to(9);
    for pid in 3..5 {
        let mut journal = bench.open();
        journal.note(&bench.clock, Record::TakenOver { pid });
        journal.flush().unwrap();
    }
    bench.world.log.clear();
    assert!(matches!(bench.resume(false), Ok(Resumed::Done)));
    assert_eq!(bench.world.log, ["+last"]);
}

#[test]
fn a_step_of_another_version_is_neither_applied_nor_undone() {
    for lines in 3..=9 {
        let mut bench = Bench::new(None);
        bench.run(None).0.unwrap();
        bench.cut_to(lines);
        let mut journal = bench.open();
        let record = match bench.past().under_way().unwrap().state {
            State::Ready => Record::Step {
                name: "new".to_owned(),
            },
            _ => continue,
        };
        journal.note(&bench.clock, record);
        journal.flush().unwrap();
        let before = bench.disk.contents(Path::new(PATH));
        bench.world.log.clear();
        let refused = bench.resume(true);
        assert!(matches!(refused, Err(UnknownStep(name)) if name == "new"));
        assert!(bench.world.log.is_empty());
        assert_eq!(bench.disk.contents(Path::new(PATH)), before);
    }
}

#[test]
fn an_operation_whose_first_step_has_failed_is_over() {
    let mut bench = Bench::new(Some("+old"));
    bench.run(None).0.unwrap_err();
    // Its process died before it could write that.
    bench.cut_to(bench.lines() - 1);
    bench.world.broken = None;
    bench.world.log.clear();
    assert!(matches!(bench.resume(true), Ok(Resumed::Undone { .. })));
    assert!(bench.world.log.is_empty());
    assert_eq!(bench.past().operations[0].outcome, Some(Outcome::Failed));
}

#[test]
fn a_torn_end_is_cut_off_and_old_operations_go_away() {
    let mut bench = Bench::new(None);
    for _ in 0..40 {
        bench.run(None).0.unwrap();
    }
    let size = bench.disk.contents(Path::new(PATH)).unwrap().len();
    assert!(size < 20_000, "{size}");
    let past = bench.past();
    assert!(past.operations.len() >= 4);
    let mut torn = bench.disk.contents(Path::new(PATH)).unwrap();
    torn.truncate(torn.len() - 3);
    bench.disk.put(Path::new(PATH), &torn);
    assert!(matches!(bench.resume(false), Ok(Resumed::Done)));
    bench.run(None).0.unwrap();
    assert!(bench.past().under_way().is_none());
}

#[test]
fn an_operation_that_cannot_go_on_does_not_fill_its_journal() {
    let mut bench = Bench::new(Some("-two"));
    bench.run(Some("last")).0.unwrap_err();
    let begun_ms = bench.past().operations[0].begun_ms;
    for round in 0..2000 {
        bench.clock.advance(Duration::from_secs(60));
        assert!(matches!(bench.resume(true), Ok(Resumed::Failed(_))));
        if round % 3 == 0 {
            // This one died before it could write its last words.
            bench.cut_to(bench.lines() - 1 - round % 2);
        }
    }
    let size = bench.disk.contents(Path::new(PATH)).unwrap().len();
    assert!(size < 20_000, "{size}");
    let past = bench.past();
    let open = past.under_way().unwrap();
    assert_eq!((past.operations.len(), open.begun_ms), (1, begun_ms));
    assert!(open.is_cancelled && open.pid == 2 && open.last_ms > begun_ms + 119_000_000);
    bench.world.broken = None;
    bench.world.log.clear();
    assert!(matches!(bench.resume(true), Ok(Resumed::Undone { .. })));
    assert_eq!(bench.world.log, ["-two", "-one"]);
}

#[test]
fn a_file_beyond_all_measure_is_damaged() {
    let bench = Bench::new(None);
    bench.disk.put(Path::new(PATH), &vec![b'x'; 2 << 20]);
    let contents = load(&bench.disk.of(&Life::new(1)), Path::new(PATH)).unwrap();
    assert!(contents.entries.is_empty());
    assert!(contents.damage.unwrap().what.contains("larger than"));
}

#[test]
fn a_newer_journal_is_not_touched() {
    let bench = Bench::new(None);
    bench
        .disk
        .put(Path::new(PATH), b"xyl-journal 2\nwhatever\n");
    let error = load(&bench.disk.of(&Life::new(1)), Path::new(PATH)).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
}
