//! Reads the records of a journal as a list of operations, the oldest first.
//!
//! Only the last operation can be under way. Recovery and the command that lists operations use this module.

use crate::codec::Contents;
use crate::record::{Begin, Entry, Facts, Outcome, Record};
use crate::state::{self, State};

/// The operations in a journal, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// The operations. Only the last one can be under way.
    pub operations: Vec<Operation>,
}

/// One operation, built from its records.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The facts that were known before its first step.
    pub begin: Begin,
    /// When it began, in milliseconds since 1970.
    pub begun_ms: u64,
    /// When its last record was written, in milliseconds since 1970.
    pub last_ms: u64,
    /// Index of its first record in the journal.
    pub first_entry: usize,
    /// State after its last record.
    pub state: State,
    /// Name of the step that started last.
    pub step: Option<String>,
    /// Whether that step is done.
    pub step_is_done: bool,
    /// The facts that its steps recorded.
    pub made: Facts,
    /// PID of the process that carried it out last.
    pub pid: u32,
    /// Whether a process asked to cancel it.
    pub is_cancelled: bool,
    /// Name of the step that failed, and the cause.
    pub failure: Option<(String, String)>,
    /// How it ended; `None` while it is under way.
    pub outcome: Option<Outcome>,
}

impl Past {
    /// Builds the list of operations from a journal's records.
    pub fn of(contents: &Contents) -> Past {
        let mut past = Past::default();
        for (index, entry) in contents.entries.iter().enumerate() {
            past.add(index, entry);
        }
        past
    }

    /// The operation that has no end record.
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

/// The records of the last operations, without tries that changed nothing. (An operation that cannot finish is tried
/// many times.)
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

/// Removes tries that changed nothing, except the last. A try is the records of one process about an operation.
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

/// Whether [`crate::resume`] would do the same with both operations.
fn stands_like(one: &Option<Operation>, other: &Option<Operation>) -> bool {
    let comparable = |operation: &Option<Operation>| {
        let mut operation = operation.clone()?;
        // The process, the time and the text of the failure differ in each try.
        (operation.pid, operation.last_ms) = (0, 0);
        operation.failure = operation.failure.map(|(step, _)| (step, String::new()));
        Some(operation)
    };
    comparable(one) == comparable(other)
}

/// Numbers the records without gaps. The last record keeps its number.
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
        // `codec::parse` has already refused events that the state does not allow.
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

    /// A number among its arguments, or else among the facts of its steps.
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
