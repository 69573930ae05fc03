//! An operation as named steps, each with its undo.
//!
//! A step changes the world when it is applied, and can take that change back. Steps are applied in
//! order; when one fails, or the operation is cancelled, the ones applied before it are undone in
//! reverse order, and so is the failed one itself: a step may have done half of its work, so `undo`
//! must cope with nothing, part or all of it having happened.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::EngineError;

/// One step of an operation on `W`, the world and the operation's draft together.
pub struct Step<W> {
    /// What it is called in errors and progress, such as `memory`.
    pub name: &'static str,
    /// Does it.
    pub apply: fn(&mut W) -> Result<(), EngineError>,
    /// Takes it back; idempotent.
    pub undo: fn(&mut W) -> Result<(), EngineError>,
}

/// The undo of a step whose effects go with an earlier step's, such as all that dies with a domain.
pub fn nothing_to_undo<W>(_: &mut W) -> Result<(), EngineError> {
    Ok(())
}

/// A wish to stop, shared with whoever may utter it (a signal handler, another thread).
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that nobody has raised yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// The flag behind it, for a signal handler to set.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Asks for the operation to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What became of an operation that did not finish.
#[derive(Debug)]
pub struct Failure {
    /// The step that failed.
    pub step: &'static str,
    /// Why.
    pub cause: EngineError,
    /// Steps whose undo failed too, and why: what they made is left behind.
    pub left_behind: Vec<(&'static str, EngineError)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)?;
        for (step, error) in &self.left_behind {
            write!(
                f,
                "\nundoing `{step}` failed too, something may be left: {error}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Applies all steps, or leaves no trace of any. `progress` is told each step's name as it starts.
pub fn run<W>(
    steps: &[Step<W>],
    world: &mut W,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&'static str),
) -> Result<(), Box<Failure>> {
    for (index, step) in steps.iter().enumerate() {
        progress(step.name);
        let outcome = if cancel.is_requested() {
            Err(EngineError::Cancelled)
        } else {
            (step.apply)(world)
        };
        if let Err(cause) = outcome {
            let left_behind = undo_all(steps, index, world);
            return Err(Box::new(Failure {
                step: step.name,
                cause,
                left_behind,
            }));
        }
    }
    Ok(())
}

/// Undoes the steps up to `last`, the latest first, going on after a failure.
fn undo_all<W>(steps: &[Step<W>], last: usize, world: &mut W) -> Vec<(&'static str, EngineError)> {
    steps
        .iter()
        .take(last + 1)
        .rev()
        .filter_map(|step| (step.undo)(world).err().map(|error| (step.name, error)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log {
        lines: Vec<&'static str>,
        fail_at: Option<&'static str>,
    }

    fn act(log: &mut Log, line: &'static str) -> Result<(), EngineError> {
        log.lines.push(line);
        if log.fail_at == Some(line) {
            Err(EngineError::Cancelled)
        } else {
            Ok(())
        }
    }

    const STEPS: &[Step<Log>] = &[
        Step {
            name: "one",
            apply: |l| act(l, "+1"),
            undo: |l| act(l, "-1"),
        },
        Step {
            name: "two",
            apply: |l| act(l, "+2"),
            undo: |l| act(l, "-2"),
        },
        Step {
            name: "three",
            apply: |l| act(l, "+3"),
            undo: nothing_to_undo,
        },
    ];

    #[test]
    fn applies_in_order() {
        let mut log = Log::default();
        run(STEPS, &mut log, &Cancel::new(), &mut |_| ()).unwrap();
        assert_eq!(log.lines, ["+1", "+2", "+3"]);
    }

    #[test]
    fn undoes_the_failed_step_and_those_before_it() {
        let mut log = Log {
            fail_at: Some("+2"),
            ..Log::default()
        };
        let failure = run(STEPS, &mut log, &Cancel::new(), &mut |_| ()).unwrap_err();
        assert_eq!(failure.step, "two");
        assert_eq!(log.lines, ["+1", "+2", "-2", "-1"]);
    }

    #[test]
    fn an_undo_that_fails_does_not_stop_the_others() {
        let mut log = Log {
            fail_at: Some("-2"),
            ..Log::default()
        };
        let cancel = Cancel::new();
        let steps: Vec<Step<Log>> = vec![
            Step {
                name: "one",
                apply: |l| act(l, "+1"),
                undo: |l| act(l, "-1"),
            },
            Step {
                name: "two",
                apply: |l| act(l, "+2"),
                undo: |l| act(l, "-2"),
            },
            Step {
                name: "three",
                apply: |_| Err(EngineError::Cancelled),
                undo: nothing_to_undo,
            },
        ];
        let failure = run(&steps, &mut log, &cancel, &mut |_| ()).unwrap_err();
        assert_eq!(log.lines, ["+1", "+2", "-2", "-1"]);
        assert_eq!(failure.left_behind.len(), 1);
        assert!(failure.to_string().contains("undoing `two`"));
    }

    #[test]
    fn a_cancelled_operation_starts_no_further_step() {
        let mut log = Log::default();
        let cancel = Cancel::new();
        cancel.request();
        assert!(run(STEPS, &mut log, &cancel, &mut |_| ()).is_err());
        assert_eq!(log.lines, ["-1"]);
    }
}
