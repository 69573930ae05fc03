//! What a journal tells of the operations on a VM.

use crate::codec::Contents;
use crate::record::{Begin, Entry, Facts, Outcome, Record};
use crate::state::{self, State};

/// The operations that a journal tells of, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// The operations. Only the last one can be under way.
    pub operations: Vec<Operation>,
}

/// An operation as its records tell it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What was known before its first step.
    pub begin: Begin,
    /// When it began, in milliseconds since 1970.
    pub begun_ms: u64,
    /// When its last record was written.
    pub last_ms: u64,
    /// Index of its first record in the journal.
    pub first_entry: usize,
    /// How it stands.
    pub state: State,
    /// The step that was started last.
    pub step: Option<String>,
    /// Whether that step is done.
    pub step_is_done: bool,
    /// What its steps made.
    pub made: Facts,
    /// The process that carries it out, or did.
    pub pid: u32,
    /// Whether somebody asked for it to be cancelled.
    pub is_cancelled: bool,
    /// The step that failed, and why.
    pub failure: Option<(String, String)>,
    /// How it has ended; `None` while it is under way.
    pub outcome: Option<Outcome>,
}

impl Past {
    /// Reads the past from a journal's records.
    pub fn of(contents: &Contents) -> Past {
        let mut past = Past::default();
        for (index, entry) in contents.entries.iter().enumerate() {
            past.add(index, entry);
        }
        past
    }

    /// The operation that is under way, or was when its process died.
    pub fn under_way(&self) -> Option<&Operation> {
        self.operations.last().filter(|last| last.outcome.is_none())
    }

    fn add(&mut self, index: usize, entry: &Entry) {
        if let Record::Begin(begin) = &entry.record {
            self.operations.push(Operation::new(index, entry, begin));
        } else if let Some(operation) = self.operations.last_mut() {
            operation.add(entry);
        }
    }
}

impl Operation {
    fn new(index: usize, entry: &Entry, begin: &Begin) -> Operation {
        Operation {
            pid: begin.pid,
            begin: begin.clone(),
            begun_ms: entry.time_ms,
            last_ms: entry.time_ms,
            first_entry: index,
            state: State::Ready,
            step: None,
            step_is_done: false,
            made: Facts::new(),
            is_cancelled: false,
            failure: None,
            outcome: None,
        }
    }

    fn add(&mut self, entry: &Entry) {
        self.last_ms = entry.time_ms;
        // Reading the text has refused what cannot be.
        self.state = state::next(self.state, entry.record.event()).unwrap_or(self.state);
        match &entry.record {
            Record::Step { name } => {
                self.step = Some(name.clone());
                self.step_is_done = false;
            }
            Record::Done { made, .. } => {
                self.step_is_done = true;
                self.made.extend(made.clone());
            }
            Record::Failed { name, cause } => self.failure = Some((name.clone(), cause.clone())),
            Record::Cancel {} => self.is_cancelled = true,
            Record::TakenOver { pid } => self.pid = *pid,
            Record::Ended { outcome } => self.outcome = Some(*outcome),
            Record::Begin(_)
            | Record::Undo { .. }
            | Record::Undone { .. }
            | Record::UndoFailed { .. } => {}
        }
    }

    /// A number among its arguments, or else among what its steps made.
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.made.get(key).or_else(|| self.begin.args.get(key));
        value.and_then(serde_json::Value::as_u64)
    }

    /// A text among its arguments.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.begin.args.get(key).and_then(serde_json::Value::as_str)
    }

    /// Whether an argument is `true`.
    pub fn is_set(&self, key: &str) -> bool {
        self.begin
            .args
            .get(key)
            .and_then(serde_json::Value::as_bool)
            == Some(true)
    }
}
