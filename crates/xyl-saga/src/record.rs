//! What a journal's records say.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::state::Event;

/// Facts about an operation: its arguments, or what a step made (such as `{"domid": 7}`).
pub type Facts = Map<String, Value>;

/// One record, and where and when it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its number; those of a journal follow each other.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What it says.
    pub record: Record,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// An operation begins.
    Begin(Begin),
    /// A step begins.
    Step {
        /// Its name.
        name: String,
    },
    /// The step is done.
    Done {
        /// Its name.
        name: String,
        /// What it made.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        made: Facts,
    },
    /// The step failed.
    Failed {
        /// Its name.
        name: String,
        /// Why.
        cause: String,
    },
    /// The undo of a step begins.
    Undo {
        /// The step.
        name: String,
    },
    /// The undo is done.
    Undone {
        /// The step.
        name: String,
    },
    /// The undo failed.
    UndoFailed {
        /// The step.
        name: String,
        /// Why.
        cause: String,
    },
    /// Somebody asked for the operation to be cancelled.
    Cancel {},
    /// Another process goes on.
    TakenOver {
        /// Its number.
        pid: u32,
    },
    /// The operation has ended.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

impl Record {
    /// The event that it records.
    pub fn event(&self) -> Event {
        match self {
            Record::Begin(_) => Event::Begin,
            Record::Step { .. } => Event::StepStarted,
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
}

/// What is known of an operation before its first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Its name among all operations of the host.
    pub id: String,
    /// What it is, such as `create`.
    pub kind: String,
    /// The VM that it is about: its UUID in text.
    pub uuid: String,
    /// The VM's name, for people.
    pub name: String,
    /// The process that carries it out.
    pub pid: u32,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Facts,
}

/// How an operation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Done,
    /// It was taken back, and left nothing.
    Undone,
    /// A step that cannot be taken back failed: what was done before stays.
    Failed,
}

impl Outcome {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Undone => "undone",
            Outcome::Failed => "failed",
        }
    }
}
