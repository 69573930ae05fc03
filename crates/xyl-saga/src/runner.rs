//! Carrying an operation out, taking it back, taking it over.

use std::fmt;
use std::time::{Duration, Instant};

use os_port::Clock;

use crate::journal::{Journal, JournalError};
use crate::past::Operation;
use crate::record::{Facts, Outcome, Record};
use crate::state::State;

/// One step of an operation on `S`.
pub struct Step<S: Subject> {
    /// What it is called in errors, progress and the journal, such as `build its memory`.
    pub name: &'static str,
    /// How long it may take. It is told when that is over, and sees to it.
    pub deadline_ms: u64,
    /// What becomes of it when it, or a later one, does not get done.
    pub way: OnDeath,
    /// Does it; may be called again when it was cut short, or done already.
    pub apply: Act<S>,
    /// Takes it back, whether nothing, part or all of it has happened; `None` where that goes with an
    /// earlier step's.
    pub undo: Option<Act<S>>,
}

/// What a step does to its subject, until a deadline.
pub type Act<S> = fn(&mut S, Instant) -> Result<(), <S as Subject>::Error>;

/// What becomes of a step that does not get done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeath {
    /// It is undone, and so are those before it, back to the last [`OnDeath::RollForward`]; whether it
    /// failed, or its process died.
    RollBack,
    /// It is undone when it failed. When its process died it may have had its effect: then it is
    /// applied again, and nothing is undone any more.
    RollForwardOnceStarted,
    /// It is never undone: when its process died it is applied again. When it failed it is, too, by whoever comes next,
    /// unless it is the first: then nothing has happened, and the operation has failed.
    RollForward,
}

/// What an operation works on.
pub trait Subject {
    /// Why a step fails.
    type Error: fmt::Display + From<JournalError>;
    /// The error that stands for a wish to cancel.
    fn cancelled() -> Self::Error;
    /// What the steps have made so far that whoever takes over must know.
    fn made(&self) -> Facts;
}

/// What a run has beside its subject.
pub struct Control<'c> {
    /// The journal, in which the operation has begun.
    pub journal: &'c mut Journal,
    /// The clock.
    pub clock: &'c dyn Clock,
    /// Asked before each step whether the operation is to be cancelled.
    pub cancelled: &'c mut dyn FnMut() -> bool,
    /// Told each step's name as it starts.
    pub progress: &'c mut dyn FnMut(&'static str),
}

impl Control<'_> {
    fn note(&mut self, record: Record) {
        self.journal.note(self.clock, record);
    }

    /// Writes what was noted. Where an operation is being taken back or has ended, going on is
    /// better than stopping over a journal that cannot be written.
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

/// What became of an operation that did not get done.
#[derive(Debug)]
pub struct Failure<E> {
    /// The step that failed.
    pub step: &'static str,
    /// Why.
    pub cause: E,
    /// Steps whose undo failed too, and why: what they made is left behind.
    pub left_behind: Vec<(&'static str, E)>,
    /// How the operation has ended; `None` if it has not: something is left behind, or is to be gone on with.
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

/// What became of an operation that was taken over.
#[derive(Debug)]
pub enum Resumed<E> {
    /// It is done.
    Done,
    /// It was taken back; its process had come to this step.
    Undone {
        /// The step, where there was one.
        at: Option<&'static str>,
    },
    /// It could not be done.
    Failed(Box<Failure<E>>),
}

/// Applies all steps. When one fails, or the operation is cancelled, what can be undone is.
pub fn run<S: Subject>(
    steps: &[Step<S>],
    subject: &mut S,
    control: &mut Control<'_>,
) -> Result<(), Box<Failure<S::Error>>> {
    forward(steps, 0, subject, control, false)
}

/// A step that is none of the operation's: another version of this program has begun it.
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
/// An operation that stands at a step which is none of `steps`: it is left as it is, and so is its journal.
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

/// Whether a step has failed for good; one that only goes forward has been applied again since.
fn has_failed<S: Subject>(steps: &[Step<S>], past: &Operation) -> bool {
    let goes_forward = |name: &str| {
        let found = steps.iter().find(|step| step.name == name);
        found.is_some_and(|step| step.way == OnDeath::RollForward)
    };
    let failure = past.failure.as_ref();
    failure.is_some_and(|(name, _)| !goes_forward(name))
}

/// Whether the first step, one that is never undone, has failed: then nothing has happened, and the operation was over.
fn has_failed_at_once<S: Subject>(steps: &[Step<S>], past: &Operation) -> bool {
    let failure = past.failure.as_ref();
    steps.first().is_some_and(|first| {
        first.way == OnDeath::RollForward
            && past.state == State::Reverting
            && past.step.as_deref() == Some(first.name)
            && failure.is_some_and(|(name, _)| name == first.name)
    })
}

/// The index of the step that comes next, or was under way.
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

/// The facts that are new, or not as they were.
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
    // Something left behind keeps the operation from ending: the next to have the lock tries again.
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

/// The first of the steps that can be undone together with this one.
fn floor<S: Subject>(steps: &[Step<S>], at: usize) -> usize {
    let before = steps.get(..at).unwrap_or(steps);
    before
        .iter()
        .rposition(|step| step.way == OnDeath::RollForward)
        .map_or(0, |index| index + 1)
}

/// Undoes this step and those before it, going on after a failure.
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
