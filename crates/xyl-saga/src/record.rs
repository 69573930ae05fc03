//! The records of a journal, as they are written in JSON.

use os_port::ProcessId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plan::Planned;
use crate::state::Event;

/// Facts about an operation: its arguments, or the results of a step (such as `{"domid": 7}`).
pub type Facts = Map<String, Value>;

/// One record with its number and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Number of the record; the numbers in a journal have no gaps.
    pub sequence: u64,
    /// Time of the record, in milliseconds since 1970.
    pub time_ms: u64,
    /// The content of the record.
    pub record: Record,
}

/// The content of a record: an event of the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// An operation begins.
    Begin(Begin),
    /// A step begins.
    Step {
        /// Name of the step.
        name: String,
    },
    /// A running step or undo wrote down facts before the effect that they belong to.
    Noted {
        /// Name of the step.
        name: String,
        /// The recorded facts of the step.
        facts: Facts,
    },
    /// The step is done.
    Done {
        /// Name of the step.
        name: String,
        /// Facts that are new or changed since the step before.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        made: Facts,
    },
    /// The step failed.
    Failed {
        /// Name of the step.
        name: String,
        /// The error text of the step.
        cause: String,
    },
    /// The undo of a step begins.
    Undo {
        /// Name of the step.
        name: String,
    },
    /// The undo is done, or the undo of an earlier step includes it.
    Undone {
        /// Name of the step.
        name: String,
    },
    /// The undo failed.
    UndoFailed {
        /// Name of the step.
        name: String,
        /// The error text of the undo.
        cause: String,
    },
    /// A process asked to cancel the operation.
    Cancel {},
    /// Another process continues the operation, because the first one died.
    TakenOver {
        /// PID of the process that continues.
        pid: u32,
        /// Start time of that process, in clock ticks since the start of the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started_ticks: Option<u64>,
    },
    /// The operation has ended.
    Ended {
        /// Outcome of the operation.
        outcome: Outcome,
    },
}

impl Record {
    /// The event of the state tables for this record.
    pub fn event(&self) -> Event {
        match self {
            Record::Begin(_) => Event::Begin,
            Record::Step { .. } => Event::StepStarted,
            Record::Noted { .. } => Event::Noted,
            Record::Done { .. } => Event::StepDone,
            Record::Failed { .. } => Event::StepFailed,
            Record::Undo { .. } => Event::UndoStarted,
            Record::Undone { .. } => Event::UndoDone,
            Record::UndoFailed { .. } => Event::UndoFailed,
            Record::Cancel {} => Event::CancelAsked,
            Record::TakenOver { .. } => Event::TakenOver,
            Record::Ended { .. } => Event::Ended,
        }
    }

    /// Name of the step that the record is about.
    pub fn step(&self) -> Option<&str> {
        match self {
            Record::Step { name }
            | Record::Noted { name, .. }
            | Record::Done { name, .. }
            | Record::Failed { name, .. }
            | Record::Undo { name }
            | Record::Undone { name }
            | Record::UndoFailed { name, .. } => Some(name),
            Record::Begin(_)
            | Record::Cancel {}
            | Record::TakenOver { .. }
            | Record::Ended { .. } => None,
        }
    }
}

/// The facts that are known before the first step of an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Id of the operation, unique on this host.
    pub id: String,
    /// Kind of the operation, such as `create`.
    pub kind: String,
    /// UUID of the VM, as text.
    pub uuid: String,
    /// The VM's name, for messages to users.
    pub name: String,
    /// PID of the process that carries it out.
    pub pid: u32,
    /// Start time of that process, in clock ticks since the start of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ticks: Option<u64>,
    /// Arguments of the operation; the keys depend on `kind`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Facts,
    /// Whether each write of the operation's records waits for the disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sync: bool,
    /// Its steps; [`crate::run`] writes them. Empty in a journal of format 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Planned<Value>>,
}

impl Begin {
    /// The process that began the operation.
    pub fn process(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            started_ticks: self.started_ticks,
        }
    }
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Done,
    /// All its steps were undone without an error.
    Undone,
    /// A step that is never undone failed. The steps before it stay applied.
    Failed,
}

impl Outcome {
    /// The outcome as an English word, for messages.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Undone => "undone",
            Outcome::Failed => "failed",
        }
    }
}
