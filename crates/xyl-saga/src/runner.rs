//! Runs the steps of an operation forward or back, and records each step in the journal.
//!
//! [`run`] starts an operation; [`resume`] continues one whose process died, by the list of steps in its journal.
//! [`OnDeath`] of the current step decides the direction. The caller holds the VM's lock.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use os_port::{Clock, ProcessId};

use crate::at::{At, Stop};
use crate::journal::{Journal, JournalError};
use crate::past::{Operation, Standing, UnknownStep};
use crate::plan::{Action, OnDeath, Plan, Planned, groups};
use crate::record::{Begin, Facts, Outcome, Record};
use crate::state::{State, Status};

/// Longest wait for the members of a group between two looks whether the operation is cancelled.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// The object that the steps of an operation change.
pub trait Subject {
    /// The work of the steps.
    type Action: Action;
    /// Error type of the steps.
    type Error: fmt::Display + From<JournalError> + From<Stop>;

    /// Applies a step. The runner may call it again after a partial or complete run.
    fn apply(&mut self, action: &Self::Action, at: &mut At<'_>) -> Result<Progress, Self::Error>;

    /// Asks a step that is [`Progress::Waiting`] whether it is done. Without an own answer the step is applied again.
    fn poll(&mut self, action: &Self::Action, at: &mut At<'_>) -> Result<Progress, Self::Error> {
        self.apply(action, at)
    }

    /// Undoes a step after no, partial or complete effect. Called only for steps that have an undo.
    fn undo(&mut self, action: &Self::Action, at: &mut At<'_>) -> Result<(), Self::Error>;

    /// Asks the world whether a step has happened. Called only for steps that are [`OnDeath::Look`].
    fn look(&mut self, _action: &Self::Action, _at: &mut At<'_>) -> Result<Happened, Self::Error> {
        Ok(Happened::Unknown)
    }

    /// Asks what the failure of a step that is [`OnDeath::RollForward`] means. `true`: the operation cannot be finished, and
    /// the subject has brought it to another end. Then it ends as failed. `false` or an error: it stays open.
    ///
    /// After a death the step is applied again, fails again, and this is called again.
    fn give_up(
        &mut self,
        _action: &Self::Action,
        _cause: &Self::Error,
        _at: &mut At<'_>,
    ) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// Waits for an event that may end a step that is [`Progress::Waiting`], until the deadline.
    fn wait(&mut self, deadline: Instant) -> Result<(), Self::Error>;

    /// The facts from the steps so far that [`resume`] needs.
    fn made(&self) -> Facts;
}

/// The answer of a step that was applied without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// It has started, and the runner must ask again. A step outside of a group may wait too.
    Waiting,
}

/// Whether a step has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is done.
    Yes,
    /// It has had no effect.
    No,
    /// It is not known yet.
    Unknown,
}

/// Everything that a run needs besides its subject.
pub struct Control<'c> {
    /// The journal of the VM.
    pub journal: &'c mut Journal,
    /// Clock for deadlines and the times of records.
    pub clock: &'c dyn Clock,
    /// Called before each step, and by steps that take long; `true` cancels the operation.
    pub cancelled: &'c dyn Fn() -> bool,
    /// Called with the name of each step when it starts.
    pub progress: &'c mut dyn FnMut(&str),
}

/// The reason why an operation did not finish, and its remains.
#[derive(Debug)]
pub struct Failure<E> {
    /// The step that failed.
    pub step: String,
    /// The error of that step.
    pub cause: E,
    /// Steps whose undo failed, with the error. Their effects remain.
    pub left_behind: Vec<(String, E)>,
    /// Outcome of the operation. `None` if it is still under way: effects remain, or the next process must apply a
    /// step again.
    pub outcome: Option<Outcome>,
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)?;
        if self.outcome.is_none() && self.left_behind.is_empty() {
            write!(
                f,
                "\nwhat was begun cannot be taken back, and is not finished: the next command that changes the VM, or \
                 `xyl recover`, goes on with it"
            )?;
        }
        for (step, error) in &self.left_behind {
            write!(
                f,
                "\nundoing `{step}` failed too, something may be left (`xyl recover` tries again): {error}"
            )?;
        }
        Ok(())
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Failure<E> {}

/// Result of [`resume`].
#[derive(Debug)]
pub enum Resumed<E> {
    /// All its steps are done.
    Done,
    /// The runner undid the operation.
    Undone,
    /// A step or an undo failed, or it is not known whether a step has happened.
    Failed(Box<Failure<E>>),
}

/// Begins an operation: lists its steps in the journal and applies them. After a failure or a cancel it undoes the steps
/// that can be undone.
pub fn run<S: Subject>(
    mut begin: Begin,
    plan: &Plan<S::Action>,
    subject: &mut S,
    control: &mut Control<'_>,
) -> Result<(), Box<Failure<S::Error>>> {
    let path = control.journal.path().to_owned();
    let listed = plan.listed().map_err(|source| {
        Box::new(Failure {
            step: "list the steps".to_owned(),
            cause: JournalError::Steps { path, source }.into(),
            left_behind: Vec::new(),
            outcome: Some(Outcome::Failed),
        })
    })?;
    begin.steps = listed;
    control.journal.note(control.clock, Record::Begin(begin));
    let mut runner = Runner {
        standing: Standing::of(plan.steps()),
        steps: plan.steps(),
        in_doubt: 0..0,
        known: Facts::new(),
        subject,
        control,
    };
    runner.forward(0)
}

/// Resumes an operation whose process has died: continues it, or undoes it. With `again`, an operation that was
/// undone without a failure is done from there on.
///
/// # Errors
/// The journal has a step that this build cannot run. The operation and its journal stay unchanged.
pub fn resume<S: Subject>(
    operation: &Operation,
    again: bool,
    process: ProcessId,
    subject: &mut S,
    control: &mut Control<'_>,
) -> Result<Resumed<S::Error>, UnknownStep> {
    let steps = operation.plan::<S::Action>()?;
    let mut runner = Runner {
        standing: operation.standing.clone(),
        steps: &steps,
        in_doubt: 0..0,
        known: operation.made.clone(),
        subject,
        control,
    };
    runner.note(Record::TakenOver {
        pid: process.pid,
        started_ticks: process.started_ticks,
    });
    Ok(runner.resume(operation, again))
}

/// The consequence of a step's failure.
enum Judged<E> {
    /// The step has happened all the same.
    Happened,
    /// It is undone, with those before it.
    GoesBack(E),
    /// It is neither undone nor done.
    Stays(E),
    /// It is not done, and the subject has given the operation up.
    IsGivenUp(E),
}

/// A step that is never undone and has failed.
struct Stopped<E> {
    index: usize,
    cause: E,
    /// Whether the subject has given the operation up.
    is_given_up: bool,
}

impl<E> Stopped<E> {
    /// The failure leaves the operation open.
    fn open(index: usize, cause: E) -> Stopped<E> {
        Stopped {
            index,
            cause,
            is_given_up: false,
        }
    }
}

/// A member of a group that has started.
struct Waiting {
    index: usize,
    deadline: Instant,
}

struct Runner<'r, 'c, S: Subject> {
    steps: &'r [Planned<S::Action>],
    standing: Standing,
    /// The steps that the process before may have applied.
    in_doubt: Range<usize>,
    /// The facts that the journal has.
    known: Facts,
    subject: &'r mut S,
    control: &'r mut Control<'c>,
}

impl<S: Subject> Runner<'_, '_, S> {
    // ---- the journal ---------------------------------------------------------------------------------

    fn note(&mut self, record: Record) {
        let followed = self.standing.follow(&record);
        debug_assert_eq!(followed, Ok(()));
        self.control.journal.note(self.control.clock, record);
    }

    /// Flushes the journal and ignores an error. An undo or an ended operation must go on although the journal cannot
    /// be written.
    fn try_flush(&mut self) {
        let _ = self.control.journal.flush();
    }

    fn end(&mut self, outcome: Outcome) {
        self.note(Record::Ended { outcome });
        self.try_flush();
    }

    fn note_done(&mut self, index: usize) {
        let made = self.subject.made();
        self.note(Record::Done {
            name: self.name(index),
            made: changed(&self.known, &made),
        });
        self.known = made;
    }

    // ---- what is known of a step -----------------------------------------------------------------------

    fn name(&self, index: usize) -> String {
        let step = self.steps.get(index);
        step.map(|step| step.name.clone()).unwrap_or_default()
    }

    fn on_death(&self, index: usize) -> OnDeath {
        let step = self.steps.get(index);
        step.map_or(OnDeath::RollForward, |step| step.on_death)
    }

    fn status(&self, index: usize) -> Status {
        let step = self.standing.steps.get(index);
        step.map_or(Status::Pending, |step| step.status)
    }

    /// Whether a process died in the step. Then a failure of a later try does not mean that nothing has happened.
    fn was_in_doubt(&self, index: usize) -> bool {
        let step = self.standing.steps.get(index);
        step.is_some_and(|step| step.was_in_doubt)
    }

    fn is_done(&self, index: usize) -> bool {
        self.status(index) == Status::Done
    }

    /// Whether a failure or a cancel before this step undoes the steps before it.
    fn may_stop(&self, index: usize) -> bool {
        match self.on_death(index) {
            OnDeath::RollForward => false,
            OnDeath::RollForwardOnceStarted => !self.in_doubt.contains(&index),
            OnDeath::RollBack | OnDeath::Look => true,
        }
    }

    /// Whether a cancel can still undo a step that has started and answered [`Progress::Waiting`]. The effect of a step of
    /// another rule may be there already.
    fn may_stop_started(&self, index: usize) -> bool {
        self.on_death(index) == OnDeath::RollBack
    }

    /// Index of the first step that the runner may undo together with step `at`.
    fn floor(&self, at: usize) -> usize {
        let before = (0..at).rev();
        let last = before
            .into_iter()
            .find(|index| self.on_death(*index) == OnDeath::RollForward);
        last.map_or(0, |index| index + 1)
    }

    /// Whether the step before is never undone, so that there is nothing to take back.
    fn is_first_after_forward(&self, index: usize) -> bool {
        index > 0 && self.floor(index) == index
    }

    fn deadline_of(&self, index: usize) -> Instant {
        let limit_ms = self.steps.get(index).map_or(0, |step| step.deadline_ms);
        self.control.clock.now() + Duration::from_millis(limit_ms)
    }

    // ---- one step ----------------------------------------------------------------------------------------

    /// Calls the subject about a step.
    fn call<T>(
        &mut self,
        index: usize,
        deadline: Instant,
        can_cancel: bool,
        act: impl FnOnce(&mut S, &S::Action, &mut At<'_>) -> Result<T, S::Error>,
    ) -> Result<T, S::Error> {
        let is_repeated = self.in_doubt.contains(&index);
        let step = self
            .steps
            .get(index)
            .zip(self.standing.steps.get_mut(index));
        // Each index comes from a range over the steps.
        let Some((step, state)) = step else {
            return Err(Stop::InDoubt {
                step: String::new(),
            }
            .into());
        };
        let mut at = At {
            step: &step.name,
            deadline,
            limit_ms: step.deadline_ms,
            is_repeated,
            noted: &mut state.noted,
            journal: self.control.journal,
            clock: self.control.clock,
            cancelled: can_cancel.then_some(self.control.cancelled),
        };
        act(self.subject, &step.action, &mut at)
    }

    /// Starts a step. Its record is in the journal before its effect.
    fn start(&mut self, index: usize) -> Result<Progress, S::Error> {
        self.note(Record::Step {
            name: self.name(index),
        });
        self.control.journal.flush()?;
        let deadline = self.deadline_of(index);
        let can_cancel = self.may_stop(index);
        self.call(index, deadline, can_cancel, |subject, action, at| {
            subject.apply(action, at)
        })
    }

    /// Asks a step that has started; it fails when it is not done at its deadline.
    fn poll(&mut self, waiting: &Waiting) -> Result<Progress, S::Error> {
        let &Waiting { index, deadline } = waiting;
        let can_cancel = self.may_stop_started(index);
        self.call(
            index,
            deadline,
            can_cancel,
            |subject, action, at| match subject.poll(action, at)? {
                Progress::Done => Ok(Progress::Done),
                Progress::Waiting => Ok(at.check().map(|()| Progress::Waiting)?),
            },
        )
    }

    fn look(&mut self, index: usize) -> Result<Happened, S::Error> {
        let deadline = self.deadline_of(index);
        self.call(index, deadline, false, |subject, action, at| {
            subject.look(action, at)
        })
    }

    /// Records the failure of a step, and decides what follows.
    fn judge(&mut self, index: usize, cause: S::Error) -> Judged<S::Error> {
        self.note(Record::Failed {
            name: self.name(index),
            cause: cause.to_string(),
        });
        match self.on_death(index) {
            OnDeath::Look => match self.look(index) {
                Ok(Happened::Yes) => {
                    self.note_done(index);
                    Judged::Happened
                }
                Ok(Happened::No) if !self.is_first_after_forward(index) => Judged::GoesBack(cause),
                Ok(Happened::No | Happened::Unknown) | Err(_) => Judged::Stays(cause),
            },
            _ if self.may_stop(index) => Judged::GoesBack(cause),
            OnDeath::RollForward if self.is_given_up(index, &cause) => Judged::IsGivenUp(cause),
            _ => Judged::Stays(cause),
        }
    }

    /// Whether the subject gives the operation up because of this failure. Without its answer the operation stays open.
    fn is_given_up(&mut self, index: usize, cause: &S::Error) -> bool {
        let deadline = self.deadline_of(index);
        let given_up = self.call(index, deadline, false, |subject, action, at| {
            subject.give_up(action, cause, at)
        });
        given_up.unwrap_or(false)
    }

    // ---- forward -------------------------------------------------------------------------------------------

    /// Applies the steps from this one on.
    fn forward(&mut self, from: usize) -> Result<(), Box<Failure<S::Error>>> {
        let groups = groups(self.steps).into_iter();
        for group in groups.filter(|group| group.end > from) {
            self.run_group(group)?;
        }
        self.end(Outcome::Done);
        Ok(())
    }

    /// Starts the members of a group one after the other, and waits until all are done. The failure of one undoes those that
    /// have started; where they are never undone, the others are finished first.
    fn run_group(&mut self, group: Range<usize>) -> Result<(), Box<Failure<S::Error>>> {
        let is_single = group.len() == 1;
        let (mut waiting, mut failed) = (Vec::new(), None);
        for index in group {
            if self.is_done(index) {
                continue;
            }
            let name = self.name(index);
            (self.control.progress)(&name);
            self.refuse_cancelled(index)?;
            let started = self.start(index);
            let deadline = self.deadline_of(index);
            let member = Waiting { index, deadline };
            waiting.extend(self.after(member, started, &mut failed)?);
        }
        while let Some(first) = waiting.first() {
            if self.may_stop_started(first.index) {
                self.refuse_cancelled(first.index)?;
            }
            self.try_flush();
            waiting = self.wait_for(waiting, &mut failed)?;
        }
        match failed {
            Some(stopped) => Err(self.stop_at(stopped, is_single)),
            None => Ok(()),
        }
    }

    /// Waits for an event, then asks all that have started; those that are not done yet.
    fn wait_for(
        &mut self,
        waiting: Vec<Waiting>,
        failed: &mut Option<Stopped<S::Error>>,
    ) -> Result<Vec<Waiting>, Box<Failure<S::Error>>> {
        let longest = self.control.clock.now() + LONGEST_WAIT;
        let deadlines = waiting.iter().map(|member| member.deadline);
        let until = deadlines.fold(longest, Instant::min);
        let mut waited = self.subject.wait(until);
        let mut left = Vec::new();
        for member in waiting {
            // Without the wait there is no end: the first one fails, and then the next.
            let answer = std::mem::replace(&mut waited, Ok(()));
            let answer = answer.and_then(|()| self.poll(&member));
            left.extend(self.after(member, answer, failed)?);
        }
        Ok(left)
    }

    /// Handles the answer of a member. Returns the member if it is not done yet.
    fn after(
        &mut self,
        member: Waiting,
        answer: Result<Progress, S::Error>,
        failed: &mut Option<Stopped<S::Error>>,
    ) -> Result<Option<Waiting>, Box<Failure<S::Error>>> {
        let index = member.index;
        match answer {
            Ok(Progress::Waiting) => return Ok(Some(member)),
            Ok(Progress::Done) => self.note_done(index),
            Err(cause) => match self.judge(index, cause) {
                Judged::Happened => {}
                Judged::GoesBack(cause) => return Err(self.take_back(index, cause)),
                Judged::Stays(cause) => {
                    failed.get_or_insert(Stopped::open(index, cause));
                }
                Judged::IsGivenUp(cause) => {
                    failed.get_or_insert(Stopped {
                        is_given_up: true,
                        ..Stopped::open(index, cause)
                    });
                }
            },
        }
        Ok(None)
    }

    fn refuse_cancelled(&mut self, index: usize) -> Result<(), Box<Failure<S::Error>>> {
        if !self.may_stop(index) || !(self.control.cancelled)() {
            return Ok(());
        }
        self.note(Record::Cancel {});
        Err(self.take_back(index, Stop::Cancelled.into()))
    }

    /// Stops at a step that is never undone. The operation stays open, or ends if nothing has been done or the subject has
    /// given it up.
    fn stop_at(&mut self, stopped: Stopped<S::Error>, is_single: bool) -> Box<Failure<S::Error>> {
        let Stopped {
            index,
            cause,
            is_given_up,
        } = stopped;
        let is_open = match self.on_death(index) {
            _ if is_given_up => false,
            OnDeath::RollForward => index > 0 || !is_single || self.was_in_doubt(index),
            OnDeath::Look => true,
            OnDeath::RollBack | OnDeath::RollForwardOnceStarted => false,
        };
        match is_open {
            true => self.try_flush(),
            false => self.end(Outcome::Failed),
        }
        Box::new(Failure {
            step: self.name(index),
            cause,
            left_behind: Vec::new(),
            outcome: (!is_open).then_some(Outcome::Failed),
        })
    }

    // ---- back ----------------------------------------------------------------------------------------------

    fn take_back(&mut self, index: usize, cause: S::Error) -> Box<Failure<S::Error>> {
        let left_behind = self.back(index);
        // While effects remain, the operation stays under way: the next process with the lock tries the undo again.
        let outcome = left_behind.is_empty().then_some(Outcome::Undone);
        match outcome {
            Some(outcome) => self.end(outcome),
            None => self.try_flush(),
        }
        Box::new(Failure {
            step: self.name(index),
            cause,
            left_behind,
            outcome,
        })
    }

    /// Undoes all that has started, back to the floor of step `at`. It continues after a failed undo and returns those
    /// failures.
    fn back(&mut self, at: usize) -> Vec<(String, S::Error)> {
        let mut left_behind = Vec::new();
        for index in (self.floor(at)..self.steps.len()).rev() {
            if self.status(index).may_have_effect()
                && let Err(error) = self.undo(index)
            {
                left_behind.push((self.name(index), error));
            }
        }
        left_behind
    }

    fn undo(&mut self, index: usize) -> Result<(), S::Error> {
        let name = self.name(index);
        if !self.steps.get(index).is_some_and(|step| step.has_undo) {
            self.note(Record::Undone { name });
            return Ok(());
        }
        self.note(Record::Undo { name: name.clone() });
        self.try_flush();
        let deadline = self.deadline_of(index);
        let undone = self.call(index, deadline, false, |subject, action, at| {
            subject.undo(action, at)
        });
        let cause = undone.as_ref().err().map(ToString::to_string);
        self.note(match cause {
            None => Record::Undone { name },
            Some(cause) => Record::UndoFailed { name, cause },
        });
        undone
    }

    // ---- after a death ---------------------------------------------------------------------------------------

    fn resume(&mut self, past: &Operation, again: bool) -> Resumed<S::Error> {
        if self.has_failed_at_once() {
            self.end(Outcome::Failed);
            return Resumed::Undone;
        }
        let Some(group) = self.current(past) else {
            self.end(Outcome::Done);
            return Resumed::Done;
        };
        let first = group.start;
        let is_started = group
            .clone()
            .any(|index| self.status(index).may_have_effect());
        if is_started {
            self.in_doubt = group;
        }
        match self.on_death(first) {
            OnDeath::RollForward => self.go_on(first),
            OnDeath::RollForwardOnceStarted
                if is_started && self.standing.state == State::Forward =>
            {
                self.go_on(first)
            }
            OnDeath::Look if matches!(self.status(first), Status::InDoubt | Status::Failed) => {
                self.resume_by_look(first, past, again)
            }
            _ => self.go_back(first, past, again),
        }
    }

    /// The group that the dead process was at, or the next one where that one is done; `None` behind the last.
    fn current(&self, past: &Operation) -> Option<Range<usize>> {
        let step = past.step.as_deref();
        let last = step.and_then(|name| self.standing.index_of(name));
        let mut groups = groups(self.steps).into_iter();
        groups.find(|group| {
            let is_earlier = last.is_some_and(|last| group.end <= last);
            !is_earlier && !group.clone().all(|index| self.is_done(index))
        })
    }

    /// Whether the first step failed and is never undone. Then the operation changed nothing and had ended.
    fn has_failed_at_once(&self) -> bool {
        let is_single = groups(self.steps).first().is_some_and(|one| one.len() == 1);
        let has_failed =
            self.on_death(0) == OnDeath::RollForward && self.status(0) == Status::Failed;
        is_single && has_failed && !self.was_in_doubt(0)
    }

    fn resume_by_look(&mut self, index: usize, past: &Operation, again: bool) -> Resumed<S::Error> {
        let cause = match self.look(index) {
            Ok(Happened::Yes) => {
                self.note_done(index);
                return self.go_on(index + 1);
            }
            Ok(Happened::No) if self.is_first_after_forward(index) => return self.go_on(index),
            Ok(Happened::No) => return self.go_back(index, past, again),
            Ok(Happened::Unknown) => Stop::InDoubt {
                step: self.name(index),
            }
            .into(),
            Err(cause) => cause,
        };
        Resumed::Failed(self.stop_at(Stopped::open(index, cause), true))
    }

    fn go_on(&mut self, from: usize) -> Resumed<S::Error> {
        match self.forward(from) {
            Ok(()) => Resumed::Done,
            Err(failure) => Resumed::Failed(failure),
        }
    }

    fn go_back(&mut self, at: usize, past: &Operation, again: bool) -> Resumed<S::Error> {
        self.in_doubt = 0..0;
        let left_behind = self.back(at);
        if let Some((step, _)) = left_behind.first() {
            let step = step.clone();
            self.try_flush();
            return Resumed::Failed(Box::new(Failure {
                step,
                cause: Stop::Cancelled.into(),
                left_behind,
                outcome: None,
            }));
        }
        if again && !self.has_failed(past) && !past.is_cancelled {
            return self.go_on(self.floor(at));
        }
        self.end(Outcome::Undone);
        Resumed::Undone
    }

    /// Whether a step failed for good. A step that only rolls forward does not count: the next process applies it again.
    fn has_failed(&self, past: &Operation) -> bool {
        let failure = past.failure.as_ref();
        let failed = failure.and_then(|(name, _)| self.standing.index_of(name));
        failed.is_some_and(|index| self.on_death(index) != OnDeath::RollForward)
    }
}

/// The facts that are new or have changed.
fn changed(known: &Facts, made: &Facts) -> Facts {
    let is_new = |(key, value): &(&String, &serde_json::Value)| known.get(*key) != Some(*value);
    made.iter()
        .filter(is_new)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
