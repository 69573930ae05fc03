//! Runs an operation as a saga, under the VM's lock and with the VM's journal.
//!
//! `VmGuard::carry_out` begins an operation, `resume` goes on with one whose process has died, and `settle` removes what an
//! ended operation leaves. `ask_to_cancel` asks a running one to stop.

use std::path::PathBuf;
use std::rc::Rc;

use os_port::{Files, remove_if_there};
use uuid::Uuid;
use xyl_saga::{Begin, Contents, Control, Facts, Journal, Outcome, Past, Record, Resumed};

use crate::operation::dump_core::progress_file;
use crate::operation::{Draft, Kind};
use crate::vm::lock::{VmGuard, forget};
use crate::vm::store;
use crate::{Cancel, Dirs, EngineError, Host};

/// Largest request for a cancel that is read, in bytes: an operation's name.
const CANCEL_MAX_BYTES: u64 = 256;

impl VmGuard {
    /// Carries an operation out.
    pub(crate) fn carry_out(
        self,
        kind: Kind,
        name: &str,
        args: Facts,
        draft: &mut Draft<'_>,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&'static str),
    ) -> Result<(), EngineError> {
        self.refuse_unfinished()?;
        let path = draft.host.dirs.journal(self.uuid);
        let clock = draft.host.clock.clone();
        let mut journal = Journal::open(&*draft.host.files, &path, &self.contents)?;
        let id = operation_id(self.uuid, journal.next_sequence());
        let begin = Begin {
            id: id.clone(),
            kind: kind.word().to_owned(),
            uuid: draft.uuid_text(),
            name: name.to_owned(),
            pid: draft.host.process.id(),
            args,
        };
        journal.note(&*clock, Record::Begin(begin));
        let asked = CancelFile::of(draft.host, self.uuid, id);
        let cancel = cancel.clone();
        let is_cancelled: Rc<dyn Fn() -> bool> =
            Rc::new(move || cancel.is_requested() || asked.is_there());
        draft.is_cancelled = Rc::clone(&is_cancelled);
        let mut control = Control {
            journal: &mut journal,
            clock: &*clock,
            cancelled: &mut || is_cancelled(),
            progress,
        };
        let outcome = xyl_saga::run(&kind.steps(), draft, &mut control);
        let ended = match &outcome {
            Ok(()) => Some(Outcome::Done),
            Err(failure) => failure.outcome,
        };
        let settled = settle(draft.host, self.uuid, kind, draft.keeps_record, ended);
        if let Err(error) = settled {
            // The operation has ended. The next process that takes the VM's lock removes the rest.
            (draft.host.notice)(&format!("warning: after a {}: {error}", kind.word()));
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
pub(crate) fn resume(
    draft: &mut Draft<'_>,
    kind: Kind,
    contents: &Contents,
    past: &Past,
) -> Result<Option<Resumed<EngineError>>, EngineError> {
    let Some(operation) = past.under_way() else {
        return Ok(None);
    };
    let path = draft.host.dirs.journal(draft.uuid);
    let clock = draft.host.clock.clone();
    let mut journal = Journal::open(&*draft.host.files, &path, contents)?;
    let asked = CancelFile::of(draft.host, draft.uuid, operation.begin.id.clone());
    let mut control = Control {
        journal: &mut journal,
        clock: &*clock,
        cancelled: &mut || asked.is_there(),
        progress: &mut |_| (),
    };
    let pid = draft.host.process.id();
    let resumed = xyl_saga::resume(
        &kind.steps(),
        operation,
        kind.is_done_again(),
        pid,
        draft,
        &mut control,
    );
    resumed
        .map(Some)
        .map_err(|unknown| EngineError::unknown_step(kind.word(), operation, unknown))
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
    if kind == Kind::DumpCore {
        let progress = progress_file(host, uuid);
        remove_if_there(&*host.files, &progress)
            .map_err(|source| EngineError::io("remove", &progress, source))?;
    }
    let is_over = match (kind, ended) {
        (Kind::Destroy, Some(Outcome::Done)) => true,
        (Kind::Create, Some(Outcome::Undone)) => !keeps_record,
        // One of xl's, of which nothing was kept here before.
        (Kind::DumpCore, Some(_)) => store::is_absent(host, uuid),
        _ => false,
    };
    if is_over {
        forget(host, uuid)?;
    }
    if (kind, ended) == (Kind::Create, Some(Outcome::Done)) {
        store::remove_kept(host, uuid)?;
    }
    Ok(is_over)
}

/// A wish to cancel an operation, uttered by another process: a file that names it.
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

/// Asks whoever carries an operation out to take it back.
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
