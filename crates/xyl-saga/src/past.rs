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

/// The records of the last operations, as few as tell the same about them: an operation that cannot go on is tried
/// again and again, and the tries that led nowhere are left out.
pub(crate) fn worth_keeping(contents: &Contents, operations: usize) -> Vec<Entry> {
    let past = Past::of(contents);
    let first = past.operations.len().saturating_sub(operations);
    let mut ends = past.operations.iter().map(|next| next.first_entry);
    ends.nth(first);
    let mut kept = Vec::new();
    for operation in past.operations.iter().skip(first) {
        let end = ends.next().unwrap_or(contents.entries.len());
        let entries = contents.entries.get(operation.first_entry..end);
        kept.extend(without_vain_tries(entries.unwrap_or_default()));
    }
    renumbered(
        kept,
        contents.entries.last().map_or(0, |last| last.sequence),
    )
}

/// A try is all that one process did with an operation. Those after which it stood as it had stood before are left out,
/// except the last.
fn without_vain_tries(entries: &[Entry]) -> Vec<Entry> {
    let tries = entries.chunk_by(|_, next| !matches!(next.record, Record::TakenOver { .. }));
    let tries: Vec<&[Entry]> = tries.collect();
    let Some((last, earlier)) = tries.split_last() else {
        return Vec::new();
    };
    let mut past = Past::default();
    let mut kept: Vec<(&[Entry], Option<Operation>)> = Vec::new();
    for one in earlier {
        one.iter().for_each(|entry| past.add(0, entry));
        let stands = past.under_way().cloned();
        let before = kept
            .iter()
            .position(|(_, stood)| stands_like(stood, &stands));
        match before {
            Some(before) => kept.truncate(before + 1),
            None => kept.push((one, stands)),
        }
    }
    let kept = kept.into_iter().map(|(one, _)| one);
    kept.chain([*last]).flatten().cloned().collect()
}

/// Whether whoever takes an operation over would do the same, be it the one or the other.
fn stands_like(one: &Option<Operation>, other: &Option<Operation>) -> bool {
    let comparable = |operation: &Option<Operation>| {
        let mut operation = operation.clone()?;
        // By whom and when, and in which words it failed, changes with each try.
        (operation.pid, operation.last_ms) = (0, 0);
        operation.failure = operation.failure.map(|(step, _)| (step, String::new()));
        Some(operation)
    };
    comparable(one) == comparable(other)
}

/// The records of a journal follow each other, and the last one keeps its number.
fn renumbered(mut entries: Vec<Entry>, last: u64) -> Vec<Entry> {
    for (entry, sequence) in entries.iter_mut().rev().zip((0..=last).rev()) {
        entry.sequence = sequence;
    }
    entries
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
