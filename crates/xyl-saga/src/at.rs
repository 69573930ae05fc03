//! The context of a running step: its deadline, a cancel, the facts that it writes down before their effect.

use std::time::Instant;

use os_port::Clock;
use serde_json::Value;

use crate::journal::{Journal, JournalError};
use crate::record::{Facts, Record};

/// The reasons why a step stops before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A process asked to cancel the operation.
    #[error("cancelled")]
    Cancelled,
    /// The step has reached its time limit.
    #[error("`{step}` has taken longer than {limit_ms} ms")]
    Deadline {
        /// Name of the step.
        step: String,
        /// Its time limit in milliseconds.
        limit_ms: u64,
    },
    /// It is not known yet whether the step has happened ([`crate::OnDeath::Look`]).
    #[error("whether `{step}` has happened cannot be known yet")]
    InDoubt {
        /// Name of the step.
        step: String,
    },
}

/// A step or an undo that is running.
pub struct At<'a> {
    pub(crate) step: &'a str,
    pub(crate) deadline: Instant,
    pub(crate) limit_ms: u64,
    pub(crate) is_repeated: bool,
    pub(crate) noted: &'a mut Facts,
    pub(crate) journal: &'a mut Journal,
    pub(crate) clock: &'a dyn Clock,
    /// `None` where it is too late to cancel.
    pub(crate) cancelled: Option<&'a dyn Fn() -> bool>,
}

impl At<'_> {
    /// Name of the step.
    pub fn step(&self) -> &str {
        self.step
    }

    /// Time by which the step must have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether another process, or an earlier try, may have had some or all of the effect already.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// Whether a process asked to cancel the operation, and this step can still be taken back.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled())
    }

    /// For steps that take long, between two parts of their work.
    ///
    /// # Errors
    /// The operation is cancelled, or the step has reached its time limit.
    pub fn check(&self) -> Result<(), Stop> {
        if self.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        if self.clock.now() < self.deadline {
            return Ok(());
        }
        Err(Stop::Deadline {
            step: self.step.to_owned(),
            limit_ms: self.limit_ms,
        })
    }

    /// Writes a fact down before the effect that it belongs to, such as the name of a device that is about to be made. When
    /// this returns, the fact is in the journal: an undo finds it with [`At::noted`], in this process or in another one.
    ///
    /// # Errors
    /// The journal cannot be written. Then the effect must not be had.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) -> Result<(), JournalError> {
        let mut facts = Facts::new();
        facts.insert(key.to_owned(), value.into());
        let name = self.step.to_owned();
        let noted = facts.clone();
        self.journal.note(self.clock, Record::Noted { name, facts });
        self.journal.flush()?;
        self.noted.extend(noted);
        Ok(())
    }

    /// A fact that this step wrote down.
    pub fn noted(&self, key: &str) -> Option<&Value> {
        self.noted.get(key)
    }
}
