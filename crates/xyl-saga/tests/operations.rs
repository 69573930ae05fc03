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
use os_port::{Append, Files, Lock, ProcessId};
use xyl_saga::state::{State, Status};
use xyl_saga::{
    At, Begin, Control, Facts, Failure, Journal, JournalError, LINE_MAX_BYTES, OnDeath, Outcome,
    Past, Plan, Planned, Progress, Record, Resumed, Stop, Subject, UnknownStep, load, resume, run,
};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Stop(#[from] Stop),
    #[error("{0} is broken")]
    Broken(String),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Four things that are made one after the other: `old` cannot be taken back, `last` is the commit.
#[derive(Default)]
struct World {
    log: Vec<String>,
    broken: Option<&'static str>,
    gives_up: bool,
}

impl World {
    fn act(&mut self, what: String) -> Result<(), Error> {
        self.log.push(what.clone());
        match self.broken {
            Some(broken) if broken == what => Err(Error::Broken(what)),
            _ => Ok(()),
        }
    }
}

impl Subject for World {
    type Action = String;
    type Error = Error;

    fn apply(&mut self, action: &String, _: &mut At<'_>) -> Result<Progress, Error> {
        self.act(format!("+{action}")).map(|()| Progress::Done)
    }

    fn undo(&mut self, action: &String, _: &mut At<'_>) -> Result<(), Error> {
        self.act(format!("-{action}"))
    }

    fn give_up(&mut self, action: &String, _: &Error, at: &mut At<'_>) -> Result<bool, Error> {
        if self.gives_up {
            at.note("given_up", action.clone())?;
            self.act(format!("!{action}"))?;
        }
        Ok(self.gives_up)
    }

    fn wait(&mut self, _: Instant) -> Result<(), Error> {
        panic!("no step waits");
    }

    fn made(&self) -> Facts {
        let mut facts = Facts::new();
        facts.insert("acts".to_owned(), self.log.len().into());
        facts
    }
}

fn step(name: &str, on_death: OnDeath) -> Planned<String> {
    Planned::new(name, name.to_owned(), on_death, 1000)
}

fn plan() -> Plan<String> {
    use OnDeath::{RollBack, RollForward, RollForwardOnceStarted};
    Plan::new()
        .step(step("old", RollForward))
        .step(step("one", RollBack).with_undo())
        .step(step("two", RollBack).with_undo())
        .step(step("last", RollForwardOnceStarted))
}

const SECOND: ProcessId = ProcessId {
    pid: 2,
    started_ticks: Some(2000),
};

fn begin(name: &str) -> Begin {
    Begin {
        id: "u-1".to_owned(),
        kind: "test".to_owned(),
        uuid: "u".to_owned(),
        name: name.to_owned(),
        pid: 1,
        ..Begin::default()
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
        self.run_plan(&plan(), cancel_at)
    }

    fn run_plan(
        &mut self,
        plan: &Plan<String>,
        cancel_at: Option<&'static str>,
    ) -> (Result<(), Box<Failure<Error>>>, u64) {
        let mut journal = self.open();
        let now = std::cell::RefCell::new(String::new());
        let mut control = Control {
            journal: &mut journal,
            clock: &self.clock,
            cancelled: &|| cancel_at == Some(now.borrow().as_str()),
            progress: &mut |step| *now.borrow_mut() = step.to_owned(),
        };
        let outcome = run(begin("n"), plan, &mut self.world, &mut control);
        (outcome, journal.writes())
    }

    fn resume(&mut self, again: bool) -> Result<Resumed<Error>, UnknownStep> {
        let past = self.past();
        let mut journal = self.open();
        let mut control = Control {
            journal: &mut journal,
            clock: &self.clock,
            cancelled: &|| false,
            progress: &mut |_| (),
        };
        let operation = past.under_way().unwrap();
        resume(operation, again, SECOND, &mut self.world, &mut control)
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
    assert!(matches!(failure.cause, Error::Stop(Stop::Cancelled)));
    assert_eq!(bench.world.log, ["+old", "+one", "-one"]);
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
    assert!(matches!(bench.resume(true), Ok(Resumed::Undone)));
    assert_eq!(bench.world.log, ["-two"], "the other one is undone");
    assert!(bench.past().under_way().is_none());
}

/// What a process that dies after so many lines leaves, and what is made of it.
fn taken_over(lines: usize, again: bool) -> (String, &'static str) {
    let mut bench = Bench::new(None);
    bench.run(None).0.unwrap();
    bench.cut_to(lines);
    bench.world.log.clear();
    let how = match bench.resume(again).unwrap() {
        Resumed::Done => "done",
        Resumed::Undone => "undone",
        Resumed::Failed(_) => "failed",
    };
    (bench.world.log.join(" "), how)
}

#[test]
fn each_death_is_answered_as_the_step_wants_it() {
    let is = |lines, log: &str, how| {
        assert_eq!(taken_over(lines, false), (log.to_owned(), how), "{lines}");
    };
    // Begun; in the first step: it goes forward only.
    is(2, "+old +one +two +last", "done");
    is(3, "+old +one +two +last", "done");
    // The first step is done; in the second; in the third.
    is(4, "", "undone");
    is(5, "-one", "undone");
    is(7, "-two -one", "undone");
    // Before and in the commit; after it; at the very end.
    is(8, "-two -one", "undone");
    is(9, "+last", "done");
    is(10, "", "done");
}

#[test]
fn what_is_to_be_done_again_is_done_from_where_it_was_taken_back() {
    let (log, how) = taken_over(7, true);
    assert_eq!(log, "-two -one +one +two +last");
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
    fn open(
        &self,
        path: &Path,
        opening: &os_port::Opening<'_>,
    ) -> std::io::Result<os_port::OpenFile> {
        self.0.open(path, opening)
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
        let started_ticks = None;
        journal.note(&bench.clock, Record::TakenOver { pid, started_ticks });
        journal.flush().unwrap();
    }
    bench.world.log.clear();
    assert!(matches!(bench.resume(false), Ok(Resumed::Done)));
    assert_eq!(bench.world.log, ["+last"]);
}

/// Begins the same operation of a program that has one more step.
fn begun_by_another_version(bench: &Bench, action: serde_json::Value) {
    let mut newer = begin("n");
    let whole = bench.past().operations.pop().unwrap();
    newer.steps = whole.begin.steps;
    newer.steps[2].action = action;
    let mut journal = bench.open();
    journal.note(&bench.clock, Record::Begin(newer));
    let name = "old".to_owned();
    journal.note(&bench.clock, Record::Step { name });
    journal.flush().unwrap();
}

#[test]
fn a_step_of_another_version_is_neither_applied_nor_undone() {
    let mut bench = Bench::new(None);
    bench.run(None).0.unwrap();
    begun_by_another_version(&bench, serde_json::json!({"attach": 7}));
    let before = bench.disk.contents(Path::new(PATH));
    bench.world.log.clear();
    let refused = bench.resume(true);
    assert!(matches!(refused, Err(UnknownStep(name)) if name == "two"));
    assert!(bench.world.log.is_empty());
    assert_eq!(bench.disk.contents(Path::new(PATH)), before);
}

#[test]
fn an_operation_runs_by_the_list_in_its_journal() {
    let mut bench = Bench::new(None);
    bench.run(None).0.unwrap();
    begun_by_another_version(&bench, "another thing".into());
    bench.world.log.clear();
    assert!(matches!(bench.resume(false), Ok(Resumed::Done)));
    assert_eq!(bench.world.log, ["+old", "+one", "+another thing", "+last"]);
}

#[test]
fn an_operation_whose_first_step_has_failed_is_over() {
    let mut bench = Bench::new(Some("+old"));
    bench.run(None).0.unwrap_err();
    // Its process died before it could write that.
    bench.cut_to(bench.lines() - 1);
    bench.world.broken = None;
    bench.world.log.clear();
    assert!(matches!(bench.resume(true), Ok(Resumed::Undone)));
    assert!(bench.world.log.is_empty());
    assert_eq!(bench.past().operations[0].outcome, Some(Outcome::Failed));
}

/// Two steps that are never undone.
fn forward_plan() -> Plan<String> {
    Plan::new()
        .step(step("one", OnDeath::RollForward))
        .step(step("two", OnDeath::RollForward))
}

#[test]
fn an_operation_that_is_given_up_ends_as_failed_whoever_dies_meanwhile() {
    let mut bench = Bench::new(Some("+two"));
    bench.world.gives_up = true;
    let failure = bench.run_plan(&forward_plan(), None).0.unwrap_err();
    assert_eq!(failure.outcome, Some(Outcome::Failed));
    assert_eq!(bench.world.log, ["+one", "+two", "!two"]);
    let operation = bench.past().operations.pop().unwrap();
    assert_eq!(operation.outcome, Some(Outcome::Failed));
    assert_eq!(operation.fact("given_up"), Some(&"two".into()));
    // Its process died before it could write that.
    bench.cut_to(bench.lines() - 1);
    assert!(bench.past().under_way().is_some());
    let resumed = bench.resume(false).unwrap();
    assert!(
        matches!(resumed, Resumed::Failed(failure) if failure.outcome == Some(Outcome::Failed))
    );
    assert!(bench.past().under_way().is_none());
}

#[test]
fn what_stayed_open_can_be_given_up_by_the_next_process() {
    let mut bench = Bench::new(Some("+two"));
    let failure = bench.run_plan(&forward_plan(), None).0.unwrap_err();
    assert_eq!(failure.outcome, None);
    bench.world.gives_up = true;
    assert!(matches!(bench.resume(false), Ok(Resumed::Failed(_))));
    assert!(bench.past().under_way().is_none());
}

#[test]
fn a_torn_end_is_cut_off_and_old_operations_go_away() {
    let mut bench = Bench::new(None);
    for _ in 0..80 {
        bench.run(None).0.unwrap();
    }
    let size = bench.disk.contents(Path::new(PATH)).unwrap().len();
    assert!(size < 40_000, "{size}");
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
    for round in 0..1000 {
        bench.clock.advance(Duration::from_secs(60));
        assert!(matches!(bench.resume(true), Ok(Resumed::Failed(_))));
        if round % 3 == 0 {
            // This one died before it could write its last words.
            bench.cut_to(bench.lines() - 1 - round % 2);
        }
    }
    let size = bench.disk.contents(Path::new(PATH)).unwrap().len();
    assert!(size < 40_000, "{size}");
    let past = bench.past();
    let open = past.under_way().unwrap();
    assert_eq!((past.operations.len(), open.begun_ms), (1, begun_ms));
    assert!(open.is_cancelled && open.pid == 2 && open.last_ms > begun_ms + 59_000_000);
    bench.world.broken = None;
    bench.world.log.clear();
    assert!(matches!(bench.resume(true), Ok(Resumed::Undone)));
    assert_eq!(bench.world.log, ["-two"]);
}

#[test]
fn a_file_beyond_all_measure_is_damaged() {
    let bench = Bench::new(None);
    bench.disk.put(Path::new(PATH), &vec![b'x'; 2 << 20]);
    let contents = load(&bench.disk.of(&Life::new(1)), Path::new(PATH)).unwrap();
    assert!(contents.entries.is_empty());
    assert_eq!(contents.damage.unwrap().line, 1);
}

#[test]
fn a_status_of_each_step_is_kept() {
    let bench = &mut Bench::new(Some("+last"));
    bench.run(None).0.unwrap_err();
    let past = bench.past();
    let standing = &past.operations[0].standing;
    let statuses: Vec<Status> = standing.steps.iter().map(|step| step.status).collect();
    use Status::{Done, Undone};
    assert_eq!(statuses, [Done, Undone, Undone, Undone]);
    assert_eq!(standing.state, State::Idle);
}

#[test]
fn a_newer_journal_is_not_touched() {
    let bench = Bench::new(None);
    bench
        .disk
        .put(Path::new(PATH), b"xyl-journal 3\nwhatever\n");
    let error = load(&bench.disk.of(&Life::new(1)), Path::new(PATH)).unwrap_err();
    assert!(matches!(error, JournalError::Foreign { .. }), "{error}");
}
