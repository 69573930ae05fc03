//! Runs an operation as a saga, under the VM's lock and with the VM's journal.
//!
//! `VmGuard::carry_out` begins an operation, `resume` goes on with one whose process has died, and `settle` removes what an
//! ended operation leaves. `ask_to_cancel` asks a running one to stop.

use std::path::PathBuf;
use std::rc::Rc;

use os_port::{Files, ProcessId, remove_if_there};
use uuid::Uuid;
use xyl_saga::{Begin, Contents, Control, Journal, Operation, Outcome, Resumed};

use crate::operation::dump_core::progress_file;
use crate::operation::{Begun, KEEPS_RECORD, Kind, Running, Steps};
use crate::vm::lock::{VmGuard, forget};
use crate::vm::{given_up, store};
use crate::{Cancel, Dirs, EngineError, Host};

/// Largest request for a cancel that is read, in bytes: an operation's name.
const CANCEL_MAX_BYTES: u64 = 256;

impl VmGuard {
    /// Carries an operation out.
    pub(crate) fn carry_out<C: Steps>(
        self,
        host: &mut Host,
        begun: Begun<'_, C::Action>,
        context: &mut C,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), EngineError> {
        self.refuse_unfinished()?;
        let path = host.dirs.journal(self.uuid);
        let clock = host.clock.clone();
        let mut journal = Journal::open(&*host.files, &path, &self.contents)?;
        let id = operation_id(self.uuid, journal.next_sequence());
        let asked = CancelFile::of(host, self.uuid, id.clone());
        let (kind, keeps_record) = (begun.kind, begun.args.contains_key(KEEPS_RECORD));
        let process = ProcessId::own(&*host.process);
        let begin = Begin {
            id,
            kind: kind.word().to_owned(),
            uuid: self.uuid.hyphenated().to_string(),
            name: begun.name.to_owned(),
            pid: process.pid,
            started_ticks: process.started_ticks,
            args: begun.args,
            ..Begin::default()
        };
        let mut control = Control {
            journal: &mut journal,
            clock: &*clock,
            cancelled: &|| cancel.is_requested() || asked.is_there(),
            progress,
        };
        let mut running = Running { host, context };
        let outcome = xyl_saga::run(begin, &begun.plan, &mut running, &mut control);
        let host = running.host;
        let ended = match &outcome {
            Ok(()) => Some(Outcome::Done),
            Err(failure) => failure.outcome,
        };
        let settled = settle(host, self.uuid, kind, keeps_record, ended);
        if let Err(error) = settled {
            // The operation has ended. The next process that takes the VM's lock removes the rest.
            (host.notice)(&format!("warning: after a {}: {error}", kind.word()));
        }
        Ok(outcome?)
    }
}

/// The name of an operation among all of the host's.
fn operation_id(uuid: Uuid, sequence: u64) -> String {
    let uuid = uuid.hyphenated().to_string();
    let start = uuid.split('-').next().unwrap_or_default();
    format!("{start}.{sequence}")
}

/// Takes over what a dead process left under way; the lock is held by the caller.
pub(crate) fn resume<C: Steps>(
    host: &mut Host,
    uuid: Uuid,
    kind: Kind,
    contents: &Contents,
    operation: &Operation,
    context: &mut C,
) -> Result<Resumed<EngineError>, EngineError> {
    let path = host.dirs.journal(uuid);
    let clock = host.clock.clone();
    let mut journal = Journal::open(&*host.files, &path, contents)?;
    let asked = CancelFile::of(host, uuid, operation.begin.id.clone());
    let mut control = Control {
        journal: &mut journal,
        clock: &*clock,
        cancelled: &|| asked.is_there(),
        progress: &mut |_| (),
    };
    let process = ProcessId::own(&*host.process);
    let again = kind.is_done_again();
    let mut running = Running { host, context };
    let resumed = xyl_saga::resume(operation, again, process, &mut running, &mut control);
    resumed.map_err(|unknown| EngineError::unknown_step(&path, kind.word(), operation, unknown))
}

/// After an operation: a VM that is to have no domain any more leaves nothing. One that was to get its
/// next domain and did not keeps its record: `monitor` tries again. Whether the VM was forgotten, its journal with it.
pub(crate) fn settle(
    host: &Host,
    uuid: Uuid,
    kind: Kind,
    keeps_record: bool,
    ended: Option<Outcome>,
) -> Result<bool, EngineError> {
    if matches!(kind, Kind::DumpCore | Kind::Save | Kind::Checkpoint) {
        let progress = progress_file(host, uuid);
        remove_if_there(&*host.files, &progress)
            .map_err(|source| EngineError::io("remove", &progress, source))?;
    }
    let is_over = match (kind, ended) {
        (Kind::Destroy | Kind::Save, Some(Outcome::Done)) => true,
        (Kind::Create | Kind::Restore, Some(Outcome::Undone)) => !keeps_record,
        // The journal tells whether a soft reset was given up, also where the record is lost.
        (Kind::SoftReset, Some(_)) => false,
        // One of xl's, of which nothing was kept here before.
        (kind, Some(_)) if kind.keeps_domain() => store::is_absent(host, uuid),
        _ => false,
    };
    if is_over {
        forget(host, uuid)?;
    }
    let makes_domain = matches!(
        kind,
        Kind::Create | Kind::Restore | Kind::Restart | Kind::RenameRestart
    );
    if makes_domain && ended == Some(Outcome::Done) {
        store::remove_kept(host, uuid)?;
        given_up::forget(host, uuid)?;
    }
    Ok(is_over)
}

/// A request of another process to cancel an operation: a file with the operation's id.
struct CancelFile {
    files: Rc<dyn Files>,
    path: PathBuf,
    id: String,
}

impl CancelFile {
    fn of(host: &Host, uuid: Uuid, id: String) -> CancelFile {
        CancelFile {
            files: host.files.clone(),
            path: host.dirs.vm_run(uuid).join("cancel"),
            id,
        }
    }

    fn is_there(&self) -> bool {
        let asked = self.files.read(&self.path, CANCEL_MAX_BYTES);
        asked.is_ok_and(|id| id == self.id.as_bytes())
    }
}

/// Asks the process that carries an operation out to cancel it.
pub fn ask_to_cancel(
    files: &dyn Files,
    dirs: &Dirs,
    uuid: Uuid,
    id: &str,
) -> Result<(), EngineError> {
    let folder = dirs.vm_run(uuid);
    let new = folder.join("cancel.new");
    store::write_whole(files, &new, &folder.join("cancel"), id.as_bytes())
}
