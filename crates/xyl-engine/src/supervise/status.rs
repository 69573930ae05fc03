//! The operations of all VMs, from their journals, and the requests in their queues. Reading them takes no lock.

use std::collections::BTreeMap;

use os_port::{Files, Process, list_if_there};
use uuid::Uuid;
use xyl_api::RequestId;
use xyl_saga::{Contents, JournalError, Operation, Past};

use crate::supervise::restart_backoff::{self, RestartDelay};
use crate::vm::given_up::{self, GivenUp};
use crate::vm::request_queue::{self, Queued, RequestQueue};
use crate::{Dirs, EngineError};

/// The journal, requests and restart state of a VM.
pub struct VmOps {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Contents of its journal, or the error of reading it.
    pub contents: Result<Contents, JournalError>,
    /// Whether the file of the VM's lock exists: a process holds the lock, or died with it.
    pub is_busy: bool,
    /// The delay of its next restart.
    pub restart_delay: Option<RestartDelay>,
    /// Time and reason, if its restart was given up.
    pub given_up: Option<GivenUp>,
    /// The requests in its queue, the oldest first.
    pub requests: Vec<QueuedRequest>,
}

/// A request in a VM's queue.
pub struct QueuedRequest {
    /// Id of the request.
    pub id: RequestId,
    /// Whether it was begun.
    pub is_started: bool,
    /// The request, or why it cannot be read.
    pub envelope: request_queue::Read,
}

/// State of an operation, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A process is at work on it.
    UnderWay,
    /// Its process has died; the next command finishes it.
    Interrupted,
    /// Something that it made could not be removed, or it failed where it cannot be taken back: `xyl recover` goes on.
    Stuck,
    /// It has ended.
    Ended(xyl_saga::Outcome),
}

impl Status {
    /// The status as an English text.
    pub fn word(self) -> &'static str {
        match self {
            Status::UnderWay => "under way",
            Status::Interrupted => "interrupted",
            Status::Stuck => "stuck",
            Status::Ended(outcome) => outcome.word(),
        }
    }
}

/// The journals of all VMs that have one or whose restart was given up, in the order of their UUIDs.
pub fn all(files: &dyn Files, dirs: &Dirs) -> Result<Vec<VmOps>, EngineError> {
    let list = |folder: &std::path::Path| {
        list_if_there(files, folder).map_err(|source| EngineError::io("list", folder, source))
    };
    let busy = list(&dirs.busy())?;
    let mut uuids: Vec<Uuid> = list(&dirs.vms_run())?
        .iter()
        .filter_map(|name| Uuid::try_parse(name).ok())
        .collect();
    let mut given_up: BTreeMap<Uuid, GivenUp> = given_up::all(files, dirs).into_iter().collect();
    uuids.extend(given_up.keys());
    uuids.sort_unstable();
    uuids.dedup();
    let mut read = |uuid: Uuid| VmOps {
        uuid,
        contents: xyl_saga::load(files, &dirs.journal(uuid)),
        is_busy: busy.contains(&uuid.hyphenated().to_string()),
        restart_delay: restart_backoff::read(files, dirs, uuid),
        given_up: given_up.remove(&uuid),
        requests: requests_of(RequestQueue::new(files, dirs, uuid)),
    };
    Ok(uuids.into_iter().map(&mut read).collect())
}

/// The requests in a queue. A request that is carried out meanwhile is left out, and so is a queue that cannot be
/// read.
fn requests_of(queue: RequestQueue<'_>) -> Vec<QueuedRequest> {
    let queued = queue.list().unwrap_or_default().into_iter();
    let read = |one: Queued| {
        let envelope = queue.read(one).ok()??;
        Some(QueuedRequest {
            id: one.id,
            is_started: one.is_started,
            envelope,
        })
    };
    queued.filter_map(read).collect()
}

impl VmOps {
    /// The VM's operations, the oldest first; none where the journal cannot be read.
    pub fn past(&self) -> Past {
        self.contents.as_ref().map(Past::of).unwrap_or_default()
    }

    /// State of one of the operations.
    pub fn standing(&self, operation: &Operation, process: &dyn Process) -> Status {
        match operation.outcome {
            Some(outcome) => Status::Ended(outcome),
            None if !self.is_busy => Status::Stuck,
            None if operation.process().is_running(process) => Status::UnderWay,
            None => Status::Interrupted,
        }
    }
}
