//! Who may change a VM: whoever holds its lock.
//!
//! The lock is a file of `/run/xyl/busy`, named by the VM's UUID. The kernel frees it when its holder
//! dies, and the file stays: so that folder tells at once of everything that is under way, or was when
//! its process died. Whoever takes a lock first finishes what the VM's journal says was under way.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use os_port::{Files, Lock, remove_folder_if_there, remove_if_there};
use uuid::Uuid;
use xyl_saga::{Begin, Contents, Control, Facts, Journal, Outcome, Past, Record, Resumed};

use crate::operation::status;
use crate::operation::{Draft, Kind};
use crate::recover::{self, Recovered};
use crate::supervise::{monitor_lock, requests};
use crate::vm::store;
use crate::{Cancel, Dirs, EngineError, Host};

/// How long whoever changes the VM at the moment may take until it is another's turn.
const LOCK_LIMIT: Duration = Duration::from_secs(180);
/// How long nobody is told of that wait: most changes are done by then.
const QUIET_LIMIT: Duration = Duration::from_millis(500);
/// Largest request for a cancel that is read, in bytes: an operation's name.
const CANCEL_MAX_BYTES: u64 = 256;

/// The right to change a VM.
pub struct VmGuard {
    uuid: Uuid,
    _lock: Box<dyn Lock>,
    /// What the journal held when the lock was taken; nothing is under way in it.
    contents: Contents,
    /// Whether another process had the lock, and may have changed the VM.
    pub has_waited: bool,
    /// What another process had left under way.
    pub recovered: Option<Recovered>,
}

impl VmGuard {
    /// Takes a VM's lock, waiting for whoever has it, and finishes what was left under way.
    pub fn take(host: &mut Host, uuid: Uuid) -> Result<VmGuard, EngineError> {
        let (lock, has_waited) = take_lock(host, uuid)?;
        let left = match recover::finish(host, uuid) {
            Ok(left) => left,
            Err(error) => {
                lock.leave();
                return Err(error);
            }
        };
        Ok(VmGuard {
            uuid,
            _lock: lock,
            contents: left.contents,
            has_waited,
            recovered: left.recovered,
        })
    }

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
        settle(draft.host, self.uuid, kind, draft.keeps_record, ended)?;
        Ok(outcome?)
    }
}

/// Takes the lock; whether another process had it.
fn take_lock(host: &Host, uuid: Uuid) -> Result<(Box<dyn Lock>, bool), EngineError> {
    let path = host.dirs.vm_lock(uuid);
    let failed = |source| EngineError::io("lock", &path, source);
    if let Some(lock) = host.files.lock(&path, None).map_err(failed)? {
        return Ok((lock, false));
    }
    let begun = host.clock.now();
    let quiet = Some(begun + QUIET_LIMIT);
    if let Some(lock) = host.files.lock(&path, quiet).map_err(failed)? {
        return Ok((lock, true));
    }
    (host.notice)(&format!(
        "waiting for {}",
        status::holder(host, uuid, host.clock.calendar())
    ));
    let deadline = begun + LOCK_LIMIT;
    match host.files.lock(&path, Some(deadline)).map_err(failed)? {
        Some(lock) => Ok((lock, true)),
        None => Err(EngineError::Deadline {
            what: format!(
                "the VM {uuid} is being changed by another process (`xyl ops` shows what it does)"
            ),
            limit_s: LOCK_LIMIT.as_secs(),
        }),
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
    let unknown_step = |unknown| EngineError::UnknownStep {
        uuid: operation.begin.uuid.clone(),
        kind: kind.word(),
        unknown,
    };
    resumed.map(Some).map_err(unknown_step)
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
        let progress = requests::progress_file(host, uuid);
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

/// Removes what is kept of a VM that has no domain; the lock is held by the caller.
pub(crate) fn forget(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    store::remove(&*host.files, &host.dirs, &uuid.hyphenated().to_string())?;
    monitor_lock::dismiss(&*host.files, &host.dirs, uuid)?;
    let folder = host.dirs.vm_run(uuid);
    remove_folder_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("remove", &folder, source))
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
