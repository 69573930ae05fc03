//! Runs the steps of an operation forward or back, and records each step in the journal.
//!
//! [`run`] starts an operation; [`resume`] continues one whose process died. [`OnDeath`] of the current step decides
//! the direction. The caller holds the VM's lock.

use std::fmt;
use std::time::{Duration, Instant};

use os_port::Clock;

use crate::journal::{Journal, JournalError};
use crate::past::Operation;
use crate::record::{Facts, Outcome, Record};
use crate::state::State;

/// One step of an operation on `S`.
pub struct Step<S: Subject> {
    /// Name in errors, progress and the journal, such as `build its memory`.
    pub name: &'static str,
    /// Time limit in milliseconds. The step gets its deadline and must keep it.
    pub deadline_ms: u64,
    /// What happens when this step or a later one does not finish.
    pub way: OnDeath,
    /// Applies the step. The runner may call it again after a partial or complete run.
    pub apply: Act<S>,
    /// Undoes the step after no, partial or complete effect. `None` if the undo of an earlier step includes it.
    pub undo: Option<Act<S>>,
}

/// The function of a step: it works on the subject until a deadline.
pub type Act<S> = fn(&mut S, Instant) -> Result<(), <S as Subject>::Error>;

/// What happens to a step that does not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeath {
    /// After a failure or a death the runner undoes this step. It also undoes the steps before, back to the last
    /// [`OnDeath::RollForward`].
    RollBack,
    /// After a failure the runner undoes the step. After a death it may have had its effect: the runner applies it
    /// again and undoes nothing more.
    RollForwardOnceStarted,
    /// The runner never undoes the step. After a death, it applies the step again. After a failure, the next process
    /// applies it again. If the first step fails, nothing has happened and the operation ends as failed.
    RollForward,
}

/// The object that the steps of an operation change.
pub trait Subject {
    /// Error type of the steps.
    type Error: fmt::Display + From<JournalError>;
    /// The error that reports a cancelled operation.
    fn cancelled() -> Self::Error;
    /// The facts from the steps so far that [`resume`] needs.
    fn made(&self) -> Facts;
}

/// Everything that a run needs besides its subject.
pub struct Control<'c> {
    /// The journal; it already has the `begin` record of the operation.
    pub journal: &'c mut Journal,
    /// Clock for deadlines and the times of records.
    pub clock: &'c dyn Clock,
    /// Called before each step; `true` cancels the operation.
    pub cancelled: &'c mut dyn FnMut() -> bool,
    /// Called with the name of each step when it starts.
    pub progress: &'c mut dyn FnMut(&'static str),
}

impl Control<'_> {
    fn note(&mut self, record: Record) {
        self.journal.note(self.clock, record);
    }

    /// Flushes the journal and ignores an error. An undo or an ended operation must go on although the journal cannot
    /// be written.
    fn try_flush(&mut self) {
        let _ = self.journal.flush();
    }

    fn end(&mut self, outcome: Outcome) {
        self.note(Record::Ended { outcome });
        self.try_flush();
    }

    fn deadline_of<S: Subject>(&self, step: &Step<S>) -> Instant {
        self.clock.now() + Duration::from_millis(step.deadline_ms)
    }
}

/// Why an operation did not finish, and what remains of it.
#[derive(Debug)]
pub struct Failure<E> {
    /// The step that failed.
    pub step: &'static str,
    /// The error of that step.
    pub cause: E,
    /// Steps whose undo failed, with the error. Their effects remain.
    pub left_behind: Vec<(&'static str, E)>,
    /// How the operation ended. `None` if it is still under way: effects remain, or the next process must apply a
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
    Undone {
        /// The step at which its process died; `None` if that was before the first.
        at: Option<&'static str>,
    },
    /// A step or an undo failed.
    Failed(Box<Failure<E>>),
}

/// Applies all steps. After a failure or a cancel it undoes the steps that can be undone.
pub fn run<S: Subject>(
    steps: &[Step<S>],
    subject: &mut S,
    control: &mut Control<'_>,
) -> Result<(), Box<Failure<S::Error>>> {
    forward(steps, 0, subject, control, false)
}

/// The journal names a step that this operation does not have. Another version of this program wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this version knows no step `{0}`")]
pub struct UnknownStep(pub String);

/// Whether an operation stands at one of these steps, so that [`resume`] knows what to do.
///
/// # Errors
/// The step, where it is none of them.
pub fn check_known<S: Subject>(steps: &[Step<S>], past: &Operation) -> Result<(), UnknownStep> {
    position(steps, past).map(drop)
}

/// Takes over an operation whose process has died: goes on, or takes it back. With `again`, one that
/// was taken back without having failed is done from there on.
///
/// # Errors
/// The current step is not in `steps`. The operation and its journal stay unchanged.
pub fn resume<S: Subject>(
    steps: &[Step<S>],
    past: &Operation,
    again: bool,
    pid: u32,
    subject: &mut S,
    control: &mut Control<'_>,
) -> Result<Resumed<S::Error>, UnknownStep> {
    let at = position(steps, past)?;
    control.note(Record::TakenOver { pid });
    Ok(resume_at(at, steps, past, again, subject, control))
}

fn resume_at<S: Subject>(
    at: usize,
    steps: &[Step<S>],
    past: &Operation,
    again: bool,
    subject: &mut S,
    control: &mut Control<'_>,
) -> Resumed<S::Error> {
    let going_back = matches!(past.state, State::Reverting | State::Undoing);
    let Some(step) = steps.get(at) else {
        control.end(Outcome::Done);
        return Resumed::Done;
    };
    if has_failed_at_once(steps, past) {
        control.end(Outcome::Failed);
        return Resumed::Undone {
            at: Some(step.name),
        };
    }
    let was_started = matches!(past.state, State::Applying | State::InDoubt);
    let failed_here = |(name, _): &(String, String)| name == step.name;
    let is_forward = match step.way {
        OnDeath::RollForward => !going_back || past.failure.as_ref().is_some_and(failed_here),
        OnDeath::RollForwardOnceStarted => !going_back && was_started,
        OnDeath::RollBack => false,
    };
    if is_forward {
        return match forward(steps, at, subject, control, true) {
            Ok(()) => Resumed::Done,
            Err(failure) => Resumed::Failed(failure),
        };
    }
    let left_behind = back(steps, at, subject, control);
    if let Some((step, _)) = left_behind.first() {
        control.try_flush();
        return Resumed::Failed(Box::new(Failure {
            step,
            cause: S::cancelled(),
            left_behind,
            outcome: None,
        }));
    }
    if again && !has_failed(steps, past) && !past.is_cancelled {
        return match forward(steps, floor(steps, at), subject, control, false) {
            Ok(()) => Resumed::Done,
            Err(failure) => Resumed::Failed(failure),
        };
    }
    control.end(Outcome::Undone);
    Resumed::Undone {
        at: Some(step.name),
    }
}

/// Whether a step failed for good. A step that only rolls forward does not count: the next process applies it again.
fn has_failed<S: Subject>(steps: &[Step<S>], past: &Operation) -> bool {
    let goes_forward = |name: &str| {
        let found = steps.iter().find(|step| step.name == name);
        found.is_some_and(|step| step.way == OnDeath::RollForward)
    };
    let failure = past.failure.as_ref();
    failure.is_some_and(|(name, _)| !goes_forward(name))
}

/// Whether the first step failed and is never undone. Then the operation changed nothing and had ended.
fn has_failed_at_once<S: Subject>(steps: &[Step<S>], past: &Operation) -> bool {
    let failure = past.failure.as_ref();
    steps.first().is_some_and(|first| {
        first.way == OnDeath::RollForward
            && past.state == State::Reverting
            && past.step.as_deref() == Some(first.name)
            && failure.is_some_and(|(name, _)| name == first.name)
    })
}

/// Index of the step that runs next, or that was running.
fn position<S: Subject>(steps: &[Step<S>], past: &Operation) -> Result<usize, UnknownStep> {
    let Some(name) = &past.step else {
        return Ok(0);
    };
    let is_done = past.step_is_done && past.state == State::Ready;
    let index = steps.iter().position(|step| step.name == name);
    let index = index.ok_or_else(|| UnknownStep(name.clone()))?;
    Ok(index + usize::from(is_done))
}

fn forward<S: Subject>(
    steps: &[Step<S>],
    from: usize,
    subject: &mut S,
    control: &mut Control<'_>,
    was_taken_over: bool,
) -> Result<(), Box<Failure<S::Error>>> {
    let mut known = Facts::new();
    for (index, step) in steps.iter().enumerate().skip(from) {
        let may_stop = step.way != OnDeath::RollForward
            && !(was_taken_over && step.way == OnDeath::RollForwardOnceStarted);
        (control.progress)(step.name);
        if may_stop && (control.cancelled)() {
            control.note(Record::Cancel {});
            return Err(take_back(steps, index, subject, control, S::cancelled()));
        }
        control.note(Record::Step {
            name: step.name.to_owned(),
        });
        let deadline = control.deadline_of(step);
        let written = control.journal.flush().map_err(S::Error::from);
        match written.and_then(|()| (step.apply)(subject, deadline)) {
            Ok(()) => {
                let made = subject.made();
                control.note(Record::Done {
                    name: step.name.to_owned(),
                    made: changed(&known, &made),
                });
                known = made;
            }
            Err(cause) => {
                control.note(Record::Failed {
                    name: step.name.to_owned(),
                    cause: cause.to_string(),
                });
                if may_stop {
                    return Err(take_back(steps, index, subject, control, cause));
                }
                let is_begun = step.way == OnDeath::RollForward && index > 0;
                match is_begun {
                    true => control.try_flush(),
                    false => control.end(Outcome::Failed),
                }
                return Err(Box::new(Failure {
                    step: step.name,
                    cause,
                    left_behind: Vec::new(),
                    outcome: (!is_begun).then_some(Outcome::Failed),
                }));
            }
        }
    }
    control.end(Outcome::Done);
    Ok(())
}

/// The facts that are new or have changed.
fn changed(known: &Facts, made: &Facts) -> Facts {
    let is_new = |(key, value): &(&String, &serde_json::Value)| known.get(*key) != Some(*value);
    made.iter()
        .filter(is_new)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn take_back<S: Subject>(
    steps: &[Step<S>],
    from: usize,
    subject: &mut S,
    control: &mut Control<'_>,
    cause: S::Error,
) -> Box<Failure<S::Error>> {
    let left_behind = back(steps, from, subject, control);
    // While effects remain, the operation stays under way: the next process with the lock tries the undo again.
    let outcome = left_behind.is_empty().then_some(Outcome::Undone);
    match outcome {
        Some(outcome) => control.end(outcome),
        None => control.try_flush(),
    }
    Box::new(Failure {
        step: steps.get(from).map_or("", |step| step.name),
        cause,
        left_behind,
        outcome,
    })
}

/// Index of the first step that the runner may undo together with step `at`.
fn floor<S: Subject>(steps: &[Step<S>], at: usize) -> usize {
    let before = steps.get(..at).unwrap_or(steps);
    before
        .iter()
        .rposition(|step| step.way == OnDeath::RollForward)
        .map_or(0, |index| index + 1)
}

/// Undoes step `from` and those before it. It continues after a failed undo and returns those failures.
fn back<S: Subject>(
    steps: &[Step<S>],
    from: usize,
    subject: &mut S,
    control: &mut Control<'_>,
) -> Vec<(&'static str, S::Error)> {
    let mut left_behind = Vec::new();
    let range = floor(steps, from)..=from;
    for step in steps.get(range).unwrap_or_default().iter().rev() {
        let Some(undo) = step.undo else { continue };
        let name = step.name.to_owned();
        control.note(Record::Undo { name: name.clone() });
        control.try_flush();
        let deadline = control.deadline_of(step);
        match undo(subject, deadline) {
            Ok(()) => control.note(Record::Undone { name }),
            Err(error) => {
                let cause = error.to_string();
                control.note(Record::UndoFailed { name, cause });
                left_behind.push((step.name, error));
            }
        }
    }
    left_behind
}
