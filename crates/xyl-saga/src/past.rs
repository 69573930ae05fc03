//! Reads the records of a journal as a list of operations, the oldest first.
//!
//! Only the last operation can be under way. Recovery and the command that lists operations use this module.

use os_port::ProcessId;
use serde_json::Value;

use crate::codec::Contents;
use crate::plan::{Action, Planned};
use crate::record::{Begin, Entry, Facts, Outcome, Record};
use crate::state::{self, State, Status};

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
    /// Time of its begin, in milliseconds since 1970.
    pub begun_ms: u64,
    /// Time of its last record, in milliseconds since 1970.
    pub last_ms: u64,
    /// Index of its first record in the journal.
    pub first_entry: usize,
    /// Its state and those of its steps after its last record.
    pub standing: Standing,
    /// Name of the step that started last.
    pub step: Option<String>,
    /// The facts that its steps recorded when they were done.
    pub made: Facts,
    /// PID of the process that carried it out last.
    pub pid: u32,
    /// Start time of that process, in clock ticks since the start of the host.
    pub started_ticks: Option<u64>,
    /// Whether a process asked to cancel it.
    pub is_cancelled: bool,
    /// Name of the step that failed, and the cause.
    pub failure: Option<(String, String)>,
    /// Outcome of the operation; `None` while it is under way.
    pub outcome: Option<Outcome>,
}

/// The state of an operation, and of each of its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// State of the operation.
    pub state: State,
    /// Its steps, in the order of its plan. Empty for an operation of a journal of format 1.
    pub steps: Vec<StepState>,
}

/// The state of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepState {
    /// Name of the step.
    pub name: String,
    /// Its state after the last record.
    pub status: Status,
    /// Facts that it wrote down before the effects that they belong to.
    pub noted: Facts,
    /// Whether a process died while it applied the step, and no undo has ended since.
    pub was_in_doubt: bool,
}

/// The journal has a step that this build cannot run. Another version of this program wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its step `{0}`")]
pub struct UnknownStep(pub String);

impl Standing {
    /// An operation that has begun, before its first step.
    pub(crate) fn of<A>(steps: &[Planned<A>]) -> Standing {
        let pending = |step: &Planned<A>| StepState {
            name: step.name.clone(),
            status: Status::Pending,
            noted: Facts::new(),
            was_in_doubt: false,
        };
        Standing {
            state: State::Forward,
            steps: steps.iter().map(pending).collect(),
        }
    }

    /// Follows a record.
    ///
    /// # Errors
    /// The record cannot follow, or names a step that the operation does not have. Then nothing changes.
    pub(crate) fn follow(&mut self, record: &Record) -> Result<(), String> {
        let event = record.event();
        let state = state::next(self.state, event).map_err(|error| error.to_string())?;
        let next = |step: &StepState| {
            state::next_of_step(step.status, event).map_err(|error| error.to_string())
        };
        match record.step() {
            // Without a list of steps the records of format 1 are taken as they are.
            Some(_) if self.steps.is_empty() => {}
            Some(name) => {
                let step = self.steps.iter_mut().find(|step| step.name == name);
                let step = step.ok_or_else(|| format!("a step that is not listed: `{name}`"))?;
                let status = next(step)?;
                if step.status == Status::Undone {
                    step.noted = Facts::new();
                }
                step.stands(status);
                if let Record::Noted { facts, .. } = record {
                    step.noted.extend(facts.clone());
                }
            }
            None => {
                let all: Result<Vec<Status>, String> = self.steps.iter().map(next).collect();
                for (step, status) in self.steps.iter_mut().zip(all?) {
                    step.stands(status);
                }
            }
        }
        self.state = state;
        Ok(())
    }

    /// Index of a step by its name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// The state of a step by its name.
    pub fn status_of(&self, name: &str) -> Option<Status> {
        let step = self.steps.iter().find(|step| step.name == name);
        step.map(|step| step.status)
    }
}

impl StepState {
    fn stands(&mut self, status: Status) {
        self.status = status;
        match status {
            Status::InDoubt => self.was_in_doubt = true,
            Status::Undone => self.was_in_doubt = false,
            _ => {}
        }
    }
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
        operation.started_ticks = None;
        operation.failure = operation.failure.map(|(step, _)| (step, String::new()));
        Some(operation)
    };
    comparable(one) == comparable(other)
}

/// Numbers the records without gaps. The last record keeps its number where that leaves one for each.
pub(crate) fn renumbered(mut entries: Vec<Entry>, last: u64) -> Vec<Entry> {
    let last = last.max(entries.len() as u64);
    for (entry, sequence) in entries.iter_mut().rev().zip((0..=last).rev()) {
        entry.sequence = sequence;
    }
    entries
}

impl Operation {
    fn new(index: usize, entry: &Entry, begin: &Begin) -> Operation {
        Operation {
            pid: begin.pid,
            started_ticks: begin.started_ticks,
            standing: Standing::of(&begin.steps),
            begin: begin.clone(),
            begun_ms: entry.time_ms,
            last_ms: entry.time_ms,
            first_entry: index,
            step: None,
            made: Facts::new(),
            is_cancelled: false,
            failure: None,
            outcome: None,
        }
    }

    fn add(&mut self, entry: &Entry) {
        self.last_ms = entry.time_ms;
        // `codec::parse` has already refused records that cannot follow.
        let _ = self.standing.follow(&entry.record);
        match &entry.record {
            Record::Step { name } => self.step = Some(name.clone()),
            Record::Done { made, .. } => self.made.extend(made.clone()),
            Record::Failed { name, cause } => self.failure = Some((name.clone(), cause.clone())),
            Record::Cancel {} => self.is_cancelled = true,
            Record::TakenOver { pid, started_ticks } => {
                (self.pid, self.started_ticks) = (*pid, *started_ticks);
            }
            Record::Ended { outcome } => self.outcome = Some(*outcome),
            Record::Begin(_)
            | Record::Noted { .. }
            | Record::Undo { .. }
            | Record::Undone { .. }
            | Record::UndoFailed { .. } => {}
        }
    }

    /// The process that carried it out last.
    pub fn process(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            started_ticks: self.started_ticks,
        }
    }

    /// Its steps, with actions that this build can run.
    ///
    /// # Errors
    /// The first step whose action this build does not know, or the current one where the journal lists no steps.
    pub fn plan<A: Action>(&self) -> Result<Vec<Planned<A>>, UnknownStep> {
        if self.begin.steps.is_empty() {
            return Err(UnknownStep(self.step.clone().unwrap_or_default()));
        }
        let known = |step: &Planned<Value>| {
            let action = serde_json::from_value(step.action.clone());
            let action = action.map_err(|_| UnknownStep(step.name.clone()))?;
            Ok(step.clone().map(|_| action))
        };
        self.begin.steps.iter().map(known).collect()
    }

    /// Whether the step that started last is one that stands in the plan at or behind a step of this name.
    pub fn has_come_to(&self, name: &str) -> bool {
        let step = self.step.as_deref();
        let now = step.and_then(|step| self.standing.index_of(step));
        let wanted = self.standing.index_of(name);
        now.zip(wanted).is_some_and(|(now, wanted)| now >= wanted)
    }

    /// The newest value of a fact: one that a step noted before its effect, one that a step made, or an argument.
    pub fn fact(&self, key: &str) -> Option<&Value> {
        let mut steps = self.standing.steps.iter().rev();
        let noted = steps.find_map(|step| step.noted.get(key));
        let made = || self.made.get(key);
        noted.or_else(made).or_else(|| self.begin.args.get(key))
    }

    /// A number among its arguments, or else among the facts of its steps.
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.made.get(key).or_else(|| self.begin.args.get(key));
        value.and_then(Value::as_u64)
    }

    /// A text among its arguments.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.begin.args.get(key).and_then(Value::as_str)
    }

    /// A text that the operation has made.
    pub fn made_text(&self, key: &str) -> Option<&str> {
        self.made.get(key).and_then(Value::as_str)
    }

    /// Whether an argument is `true`.
    pub fn is_set(&self, key: &str) -> bool {
        self.begin.args.get(key).and_then(Value::as_bool) == Some(true)
    }
}
