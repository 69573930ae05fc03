//! What is under way, and what has ended, by the VMs' journals. Reading them takes no lock.

use os_port::{Files, Process, list_if_there};
use uuid::Uuid;
use xyl_saga::{Contents, JournalError, Operation, Past};

use crate::supervise::restart_backoff::{self, Brake};
use crate::{Dirs, EngineError};

/// A VM's journal.
pub struct VmOps {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// What its journal holds, or why it cannot be read.
    pub contents: Result<Contents, JournalError>,
    /// Whether somebody has the VM's lock, or died with it.
    pub is_busy: bool,
    /// What holds its next restart up.
    pub brake: Option<Brake>,
}

/// How an operation stands, for people.
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

/// The journals of all VMs that have one, in the order of their UUIDs.
pub fn all(files: &dyn Files, dirs: &Dirs) -> Result<Vec<VmOps>, EngineError> {
    let list = |folder: &std::path::Path| {
        list_if_there(files, folder).map_err(|source| EngineError::io("list", folder, source))
    };
    let busy = list(&dirs.busy())?;
    let mut uuids: Vec<Uuid> = list(&dirs.vms_run())?
        .iter()
        .filter_map(|name| Uuid::try_parse(name).ok())
        .collect();
    uuids.sort_unstable();
    let read = |uuid: Uuid| VmOps {
        uuid,
        contents: xyl_saga::load(files, &dirs.journal(uuid)),
        is_busy: busy.contains(&uuid.hyphenated().to_string()),
        brake: restart_backoff::read(files, dirs, uuid),
    };
    Ok(uuids.into_iter().map(read).collect())
}

impl VmOps {
    /// The VM's operations, the oldest first; none where the journal cannot be read.
    pub fn past(&self) -> Past {
        self.contents.as_ref().map(Past::of).unwrap_or_default()
    }

    /// How one of them stands.
    pub fn standing(&self, operation: &Operation, process: &dyn Process) -> Status {
        match operation.outcome {
            Some(outcome) => Status::Ended(outcome),
            None if !self.is_busy => Status::Stuck,
            None if process.is_running(operation.pid) => Status::UnderWay,
            None => Status::Interrupted,
        }
    }
}
