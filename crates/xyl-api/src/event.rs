//! Events of a VM's monitor about its requests.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Asker, Error, RequestId, VERSION};

/// One event about a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Version of the format.
    pub version: u32,
    /// Time of the event, in milliseconds since 1970.
    pub time_ms: u64,
    /// UUID of the VM.
    pub vm: Uuid,
    /// Id of the request.
    pub id: RequestId,
    /// Kind of the event.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kind of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The monitor begins to carry it out.
    Started {
        /// The request's word.
        request: String,
        /// Process or user that has asked.
        asker: Asker,
    },
    /// It was carried out.
    Done {
        /// The request's word.
        request: String,
    },
    /// The request failed.
    Failed {
        /// The request's word; none where it could not be read.
        request: Option<String>,
        /// Error of the request.
        error: Error,
    },
    /// It was too old, and its asker has died.
    Dropped,
}

impl Event {
    /// An event of this version.
    pub fn new(id: RequestId, vm: Uuid, time_ms: u64, kind: EventKind) -> Event {
        Event {
            version: VERSION,
            time_ms,
            vm,
            id,
            kind,
        }
    }
}

/// A line for a log.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            EventKind::Started { request, asker } => write!(f, "{request}, for {asker}"),
            EventKind::Done { request } => write!(f, "{request}: done"),
            EventKind::Failed {
                request: Some(request),
                error,
            } => write!(f, "{request}: {error}"),
            EventKind::Failed {
                request: None,
                error,
            } => write!(f, "the request {}: {error}", self.id),
            EventKind::Dropped => write!(
                f,
                "the request {} is too old, and its asker has died: not done",
                self.id
            ),
        }
    }
}
