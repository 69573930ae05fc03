//! Groups, facts that are noted before their effect, steps that are in doubt, synced journals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::mem::{Life, MemFiles, VirtualClock};
use os_port::{Clock, ProcessId};
use serde::{Deserialize, Serialize};
use xyl_saga::{
    At, Begin, Contents, Control, Facts, Failure, Happened, Journal, JournalError, OnDeath,
    Outcome, Past, Plan, Planned, Progress, Resumed, Stop, Subject, load, resume, run,
};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Stop(#[from] Stop),
    #[error("broken")]
    Broken,
    #[error(transparent)]
    Journal(#[from] JournalError),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Build,
    Attach { devid: u32 },
    HandOver,
}

/// A domain with devices that answer after a while. What each of them has is kept over the death of a process.
struct Host {
    clock: VirtualClock,
    /// How often a device is asked until it is connected; it never is without an entry.
    polls: BTreeMap<u32, u32>,
    /// The device that fails; 0 stands for the hand-over, 99 for the domain.
    broken: Option<u32>,
    happened: Happened,
    /// How often the hand-over is asked until it is done.
    hand_over_polls: u32,
    /// Whether the hand-over has started.
    is_handing_over: Rc<Cell<bool>>,
    log: Vec<String>,
    /// What is on the host: its name, made by the device's number.
    made: BTreeMap<String, u32>,
}

impl Host {
    fn new() -> Host {
        Host {
            clock: VirtualClock::new(),
            polls: BTreeMap::from([(1, 3), (2, 1), (3, 2)]),
            broken: None,
            happened: Happened::Unknown,
            hand_over_polls: 0,
            is_handing_over: Rc::default(),
            log: Vec::new(),
            made: BTreeMap::new(),
        }
    }
}

impl Subject for Host {
    type Action = Action;
    type Error = Error;

    fn apply(&mut self, action: &Action, at: &mut At<'_>) -> Result<Progress, Error> {
        self.log.push(format!("+{}", at.step()));
        match action {
            Action::Attach { devid } => {
                let name = format!("loop{}", devid * 10);
                at.note("loop", name.as_str())?;
                self.made.insert(name, *devid);
                if self.broken == Some(*devid) {
                    return Err(Error::Broken);
                }
                Ok(Progress::Waiting)
            }
            Action::HandOver if self.broken == Some(0) => Err(Error::Broken),
            Action::Build if self.broken == Some(99) => Err(Error::Broken),
            Action::HandOver if self.hand_over_polls > 0 => {
                self.is_handing_over.set(true);
                Ok(Progress::Waiting)
            }
            Action::Build | Action::HandOver => Ok(Progress::Done),
        }
    }

    fn poll(&mut self, action: &Action, _: &mut At<'_>) -> Result<Progress, Error> {
        let left = match action {
            Action::Attach { devid } => self.polls.get_mut(devid),
            Action::HandOver => Some(&mut self.hand_over_polls),
            Action::Build => panic!("{action:?} does not wait"),
        };
        let Some(left) = left else {
            return Ok(Progress::Waiting);
        };
        *left = left.saturating_sub(1);
        match *left {
            0 => Ok(Progress::Done),
            _ => Ok(Progress::Waiting),
        }
    }

    fn undo(&mut self, action: &Action, at: &mut At<'_>) -> Result<(), Error> {
        self.log.push(format!("-{}", at.step()));
        if matches!(action, Action::Attach { .. }) {
            // Nothing but the note tells what it is called.
            let noted = at.noted("loop").and_then(|name| name.as_str());
            noted.and_then(|name| self.made.remove(name));
        }
        Ok(())
    }

    fn look(&mut self, _: &Action, at: &mut At<'_>) -> Result<Happened, Error> {
        at.note("looked", true)?;
        self.log.push("look".to_owned());
        Ok(self.happened)
    }

    fn wait(&mut self, deadline: Instant) -> Result<(), Error> {
        self.log.push("wait".to_owned());
        self.clock.wait_until(deadline);
        Ok(())
    }

    fn made(&self) -> Facts {
        Facts::new()
    }
}

fn attach(devid: u32, on_death: OnDeath) -> Planned<Action> {
    let name = format!("attach {devid}");
    Planned::new(&name, Action::Attach { devid }, on_death, 60_000).with_undo()
}

/// A create: a domain, three devices at once, then what hands over.
fn plan(devices: OnDeath, last: OnDeath) -> Plan<Action> {
    let build = Planned::new("build", Action::Build, devices, 1000).with_undo();
    let hand_over = Planned::new("hand over", Action::HandOver, last, 1000);
    Plan::new()
        .step(build)
        .group([1, 2, 3].map(|devid| attach(devid, devices)))
        .step(hand_over)
}

const PATH: &str = "/run/vm/u/journal";

struct Bench {
    disk: MemFiles,
    host: Host,
    plan: Plan<Action>,
}

impl Bench {
    fn new(plan: Plan<Action>) -> Bench {
        Bench {
            disk: MemFiles::new(),
            host: Host::new(),
            plan,
        }
    }

    fn contents(&self) -> Contents {
        load(&self.disk.of(&Life::new(1)), Path::new(PATH)).unwrap()
    }

    fn run(&mut self, cancelled: &dyn Fn() -> bool) -> Result<(), Box<Failure<Error>>> {
        let files = self.disk.of(&Life::new(1));
        let mut journal = Journal::open(&files, Path::new(PATH), &self.contents()).unwrap();
        let clock = self.host.clock.clone();
        let mut control = Control {
            journal: &mut journal,
            clock: &clock,
            cancelled,
            progress: &mut |_| (),
        };
        run(Begin::default(), &self.plan, &mut self.host, &mut control)
    }

    fn resume(&mut self) -> Resumed<Error> {
        let files = self.disk.of(&Life::new(2));
        let contents = self.contents();
        assert_eq!(contents.damage, None);
        let past = Past::of(&contents);
        let mut journal = Journal::open(&files, Path::new(PATH), &contents).unwrap();
        let clock = self.host.clock.clone();
        let mut control = Control {
            journal: &mut journal,
            clock: &clock,
            cancelled: &|| false,
            progress: &mut |_| (),
        };
        let process = ProcessId {
            pid: 2,
            started_ticks: None,
        };
        let open = past.under_way().unwrap();
        resume(open, false, process, &mut self.host, &mut control).unwrap()
    }

    fn outcome(&self) -> Option<Outcome> {
        Past::of(&self.contents()).operations[0].outcome
    }

    fn text(&self) -> String {
        String::from_utf8(self.disk.contents(Path::new(PATH)).unwrap()).unwrap()
    }

    /// The journal of a process that died when it had so many lines.
    fn cut_to(&mut self, whole: &str, lines: usize) {
        let kept: String = whole.split_inclusive('\n').take(lines).collect();
        self.disk.put(Path::new(PATH), kept.as_bytes());
    }

    /// The devices that the journal's records say were made.
    fn have_noted(&mut self, text: &str) {
        for devid in 1..=3 {
            let name = format!("loop{}", devid * 10);
            let is_noted = text.contains(&format!("\"loop\":\"{name}\""));
            let is_undone = text.contains(&format!("{{\"undone\":{{\"name\":\"attach {devid}\"}}"));
            if is_noted && !is_undone {
                self.host.made.insert(name, devid);
            }
        }
    }
}

use OnDeath::{Look, RollBack, RollForward, RollForwardOnceStarted};

#[test]
fn a_group_is_started_as_a_whole_and_then_waited_for() {
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    bench.run(&|| false).unwrap();
    let log = [
        "+build",
        "+attach 1",
        "+attach 2",
        "+attach 3",
        "wait",
        "wait",
        "wait",
        "+hand over",
    ];
    assert_eq!(bench.host.log, log);
    assert_eq!(bench.outcome(), Some(Outcome::Done));
}

#[test]
fn the_failure_of_a_member_undoes_all_that_have_started() {
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    bench.host.broken = Some(2);
    let failure = bench.run(&|| false).unwrap_err();
    assert_eq!(failure.step, "attach 2");
    assert!(matches!(failure.cause, Error::Broken));
    let log = [
        "+build",
        "+attach 1",
        "+attach 2",
        "-attach 2",
        "-attach 1",
        "-build",
    ];
    assert_eq!(bench.host.log, log);
    assert!(bench.host.made.is_empty());
    assert_eq!(bench.outcome(), Some(Outcome::Undone));
}

#[test]
fn a_member_that_does_not_answer_fails_at_its_deadline() {
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    bench.host.polls.remove(&3);
    let failure = bench.run(&|| false).unwrap_err();
    assert_eq!(failure.step, "attach 3");
    assert!(matches!(
        failure.cause,
        Error::Stop(Stop::Deadline {
            limit_ms: 60_000,
            ..
        })
    ));
    assert!(bench.host.made.is_empty());
}

#[test]
fn a_group_is_cancelled_while_it_is_waited_for() {
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    bench.host.polls.clear();
    let asked = std::cell::Cell::new(0);
    let failure = bench
        .run(&|| asked.replace(asked.get() + 1) > 6)
        .unwrap_err();
    assert!(matches!(failure.cause, Error::Stop(Stop::Cancelled)));
    assert!(bench.host.log.contains(&"wait".to_owned()));
    assert_eq!(bench.outcome(), Some(Outcome::Undone));
    assert!(bench.host.made.is_empty());
}

#[test]
fn members_that_are_never_undone_are_finished_though_one_fails() {
    let mut bench = Bench::new(plan(RollForward, RollForward));
    bench.host.broken = Some(2);
    let failure = bench.run(&|| false).unwrap_err();
    assert_eq!((failure.step.as_str(), failure.outcome), ("attach 2", None));
    bench.host.broken = None;
    bench.host.log.clear();
    assert!(matches!(bench.resume(), Resumed::Done));
    assert_eq!(bench.host.log, ["+attach 2", "wait", "+hand over"]);
}

/// A process that dies at each end of a record, and then one that dies right after it took over.
#[test]
fn a_death_at_any_record_of_a_group_is_answered() {
    for (devices, last) in [
        (RollBack, RollForwardOnceStarted),
        (RollForward, RollForward),
    ] {
        for broken in [None, Some(2)] {
            let mut whole = Bench::new(plan(devices, last));
            whole.host.broken = broken;
            let _ = whole.run(&|| false);
            let text = whole.text();
            for lines in 2..=text.lines().count() {
                let mut bench = Bench::new(plan(devices, last));
                bench.cut_to(&text, lines);
                if bench.outcome().is_some() {
                    continue;
                }
                let left = bench.text();
                bench.have_noted(&left);
                let has_committed = left.contains("{\"step\":{\"name\":\"hand over\"");
                let resumed = bench.resume();
                let is_done = devices == RollForward || has_committed;
                match is_done {
                    true => {
                        assert!(matches!(resumed, Resumed::Done), "{lines}: {resumed:?}");
                        assert_eq!(bench.host.made.len(), 3, "{left}");
                    }
                    false => {
                        assert!(matches!(resumed, Resumed::Undone), "{lines}: {resumed:?}");
                        assert!(bench.host.made.is_empty(), "{left}");
                    }
                }
                assert!(bench.outcome().is_some());
            }
        }
    }
}

#[test]
fn a_fact_is_in_the_journal_before_its_effect() {
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    bench.run(&|| false).unwrap();
    let whole = bench.text();
    let noted = whole.lines().position(|line| line.contains("loop20"));
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    bench.cut_to(&whole, noted.unwrap() + 1);
    let left = bench.text();
    bench.have_noted(&left);
    assert_eq!(bench.host.made.len(), 2);
    let past = Past::of(&bench.contents());
    let steps = &past.operations[0].standing.steps;
    assert_eq!(steps[2].noted["loop"], "loop20");
    assert!(matches!(bench.resume(), Resumed::Undone));
    assert!(bench.host.made.is_empty(), "another process undid it");
}

/// What becomes of an operation that died in its last step, where that one is looked at.
fn looked_at(devices: OnDeath, happened: Happened) -> (String, Option<Outcome>) {
    let mut bench = Bench::new(plan(devices, Look));
    bench.run(&|| false).unwrap();
    let text = bench.text();
    let begun = text
        .lines()
        .position(|line| line.contains("{\"step\":{\"name\":\"hand over\""));
    bench.cut_to(&text, begun.unwrap() + 1);
    bench.host.log.clear();
    bench.host.happened = happened;
    let resumed = bench.resume();
    if happened == Happened::Unknown {
        let Resumed::Failed(failure) = resumed else {
            panic!("{resumed:?}");
        };
        assert!(matches!(failure.cause, Error::Stop(Stop::InDoubt { .. })));
        assert_eq!(failure.outcome, None);
    }
    (bench.host.log.join(" "), bench.outcome())
}

#[test]
fn a_step_in_doubt_is_looked_at() {
    let is = |devices, happened, log: &str, outcome| {
        assert_eq!(looked_at(devices, happened), (log.to_owned(), outcome));
    };
    is(RollBack, Happened::Yes, "look", Some(Outcome::Done));
    is(RollBack, Happened::Unknown, "look", None);
    let undone = "look -attach 3 -attach 2 -attach 1 -build";
    is(RollBack, Happened::No, undone, Some(Outcome::Undone));
    // Nothing before it can be taken back.
    is(
        RollForward,
        Happened::No,
        "look +hand over",
        Some(Outcome::Done),
    );
}

#[test]
fn a_failed_step_is_looked_at_too() {
    for (happened, outcome) in [
        (Happened::Yes, Some(Outcome::Done)),
        (Happened::No, Some(Outcome::Undone)),
        (Happened::Unknown, None),
    ] {
        let mut bench = Bench::new(plan(RollBack, Look));
        (bench.host.broken, bench.host.happened) = (Some(0), happened);
        let ended = bench.run(&|| false);
        assert_eq!(ended.is_ok(), happened == Happened::Yes);
        assert_eq!(bench.outcome(), outcome);
        if outcome.is_none() {
            // The next process looks again.
            bench.host.happened = Happened::Yes;
            assert!(matches!(bench.resume(), Resumed::Done));
        }
    }
}

#[test]
fn a_hand_over_that_has_started_is_not_cancelled() {
    for last in [Look, RollForwardOnceStarted] {
        let mut bench = Bench::new(plan(RollBack, last));
        bench.host.hand_over_polls = 2;
        let is_handing_over = Rc::clone(&bench.host.is_handing_over);
        bench.run(&|| is_handing_over.get()).unwrap();
        assert_eq!(bench.outcome(), Some(Outcome::Done));
    }
}

#[test]
fn a_first_step_that_fails_after_a_death_stays_open() {
    let mut bench = Bench::new(plan(RollForward, RollForward));
    bench.run(&|| false).unwrap();
    let text = bench.text();
    // Format, begin, and the start of the first step: its effect may be there.
    bench.cut_to(&text, 3);
    bench.host.broken = Some(99);
    for _ in 0..2 {
        let Resumed::Failed(failure) = bench.resume() else {
            panic!("resumed in spite of the fault");
        };
        assert_eq!((failure.step.as_str(), failure.outcome), ("build", None));
    }
    bench.host.broken = None;
    assert!(matches!(bench.resume(), Resumed::Done));
}

#[test]
fn an_operation_of_format_1_without_a_list_of_steps_is_left_alone() {
    let begin = r#"1 0 {"begin":{"id":"1","kind":"new","uuid":"u","name":"n","pid":1}}"#;
    let text = format!(
        "xyl-journal 1\n{:08x} {begin}\n",
        crc32fast::hash(begin.as_bytes())
    );
    let bench = Bench::new(Plan::new());
    bench.disk.put(Path::new(PATH), text.as_bytes());
    let files = bench.disk.of(&Life::new(1));
    let contents = bench.contents().with_steps(|_| None);
    let opened = Journal::open(&files, Path::new(PATH), &contents);
    assert!(matches!(opened, Err(JournalError::Foreign { .. })));
    assert_eq!(bench.text(), text);
}

#[test]
fn a_synced_journal_survives_the_loss_of_power() {
    for sync in [false, true] {
        let bench = &mut Bench::new(plan(RollBack, RollForward));
        let files = bench.disk.of(&Life::new(1));
        let open = if sync {
            Journal::open_synced
        } else {
            Journal::open
        };
        let mut journal = open(&files, Path::new(PATH), &Contents::default()).unwrap();
        let clock = bench.host.clock.clone();
        let mut control = Control {
            journal: &mut journal,
            clock: &clock,
            cancelled: &|| false,
            progress: &mut |_| (),
        };
        let begin = Begin {
            sync,
            ..Begin::default()
        };
        run(begin, &bench.plan, &mut bench.host, &mut control).unwrap();
        bench.disk.lose_power();
        assert_eq!(bench.contents().entries.len() > 9, sync);
    }
}

#[test]
fn waiting_ends_soon_after_the_last_answer() {
    let mut bench = Bench::new(plan(RollBack, RollForwardOnceStarted));
    let begun = bench.host.clock.now();
    bench.run(&|| false).unwrap();
    assert!(bench.host.clock.now() - begun < Duration::from_secs(60));
}
