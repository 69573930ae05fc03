//! The VM lock: the right to change a VM.
//!
//! Each VM has a lock file in `/run/xyl/busy`, named by its UUID. The kernel releases the lock if its holder dies,
//! and the file stays. So the folder lists the operations that are under way or unfinished. The next process that
//! takes the lock first finishes the open operation of the VM's journal: `VmGuard::take` in `recover` does both.

use std::time::Duration;

use os_port::{Lock, remove_folder_if_there};
use uuid::Uuid;
use xen_port::DomId;
use xyl_saga::{Contents, Journal, Outcome, Past, Record};

use crate::vm::{given_up, journal, monitor_lock, request_queue, store};
use crate::{EngineError, Host};

/// Time limit of the wait for another process that changes the VM.
const LOCK_LIMIT: Duration = Duration::from_secs(180);
/// Time before the user gets a message about the wait. Most changes are shorter.
const QUIET_LIMIT: Duration = Duration::from_millis(500);

/// Result of finishing an operation whose process had died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Name of the VM, or empty.
    pub name: String,
    /// Domid of the VM's domain, if it has one now.
    pub domid: Option<DomId>,
    /// Text about the result.
    pub what: String,
    /// Whether the operation could not be finished. Then `what` has the reason.
    pub has_failed: bool,
    /// Whether an earlier recovery has reported the same journal. It was set aside, and its file is still there.
    pub was_reported: bool,
}

impl Recovered {
    pub(crate) fn failed(uuid: Uuid, error: &EngineError) -> Recovered {
        Recovered {
            uuid,
            name: String::new(),
            domid: None,
            what: format!("what was under way could not be finished: {error}"),
            has_failed: true,
            was_reported: false,
        }
    }

    /// The line of a report.
    pub fn line(&self) -> String {
        let name = match self.name.as_str() {
            "" => format!("the VM {}", self.uuid),
            name => format!("{name} ({})", self.uuid),
        };
        format!("{name}: {}", self.what)
    }
}

/// A journal without open operations, and the result for the operation that was open.
pub(crate) struct Left {
    pub contents: Contents,
    pub recovered: Option<Recovered>,
}

/// The right to change a VM. Dropping it releases the VM lock.
pub struct VmGuard {
    /// UUID of the VM.
    pub(crate) uuid: Uuid,
    _lock: Box<dyn Lock>,
    /// Contents of the journal when the lock was taken. No operation is open in it.
    pub(crate) contents: Contents,
    /// Whether this process waited for another one, which may have changed the VM.
    pub has_waited: bool,
    /// Result for an operation that a dead process had left open.
    pub recovered: Option<Recovered>,
}

impl VmGuard {
    /// Takes a VM's lock, and waits for the process that holds it. Then calls `finish` for the operation that a dead
    /// process left.
    pub(crate) fn take_and_finish(
        host: &mut Host,
        uuid: Uuid,
        finish: impl FnOnce(&mut Host, Uuid) -> Result<Left, EngineError>,
    ) -> Result<VmGuard, EngineError> {
        let (lock, has_waited) = take_lock(host, uuid)?;
        match finish(host, uuid) {
            Ok(left) => Ok(VmGuard {
                uuid,
                _lock: lock,
                contents: left.contents,
                has_waited,
                recovered: left.recovered,
            }),
            Err(error) => {
                lock.leave();
                Err(error)
            }
        }
    }

    /// Records an open operation as failed, so that a new one can begin.
    ///
    /// Only an operation that removes everything that the open one can leave may call this. `is_covered` returns
    /// whether that is so for the open operation's kind.
    pub(crate) fn close_unfinished(
        &mut self,
        host: &Host,
        is_covered: impl FnOnce(&str) -> bool,
    ) -> Result<(), EngineError> {
        let past = Past::of(&self.contents);
        if !past
            .under_way()
            .is_some_and(|open| is_covered(&open.begin.kind))
        {
            return Ok(());
        }
        let path = host.dirs.journal(self.uuid);
        let mut journal = Journal::open(&*host.files, &path, &self.contents)?;
        let outcome = Outcome::Failed;
        journal.note(&*host.clock, Record::Ended { outcome });
        journal.flush()?;
        self.contents = xyl_saga::load(&*host.files, &path)?;
        Ok(())
    }

    /// Reports the result for the operation that a dead process had left.
    pub(crate) fn report_recovered(&self, host: &Host) {
        if let Some(recovered) = &self.recovered {
            (host.notice)(&recovered.line());
        }
    }

    /// Refuses a new operation while an earlier one is open. It was resumed when the lock was taken, and could not be
    /// finished.
    pub(crate) fn refuse_unfinished(&self) -> Result<(), EngineError> {
        if Past::of(&self.contents).under_way().is_none() {
            return Ok(());
        }
        let what = self.recovered.as_ref().map(|one| one.what.clone());
        Err(EngineError::Unfinished {
            uuid: self.uuid.hyphenated().to_string(),
            what: what.unwrap_or_default(),
        })
    }
}

/// Takes the lock. Returns whether another process held it.
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
        journal::holder(host, uuid, host.clock.calendar())
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

/// Removes the files of a VM that has no domain. The caller holds the lock.
///
/// Each request of the VM gets one answer. The requests that wait get their replies, then the VM's supervision ends, and
/// then the requests that came meanwhile get theirs. So a request that was added before the second time has its reply. One
/// that was added later was added after the end of the supervision. `requests::submit` looks at the supervision once more
/// after it has added a request. It sees the end, takes the request back or finds it gone, and returns the error. A request
/// is marked as begun before its reply is written, so it is either taken back or replied to.
pub(crate) fn forget(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    store::remove(&*host.files, &host.dirs, &uuid.hyphenated().to_string())?;
    given_up::forget(host, uuid)?;
    let doorbell = host.dirs.doorbell(uuid);
    host.doorbells
        .remove(&doorbell)
        .map_err(|source| EngineError::io("remove", &doorbell, source))?;
    request_queue::answer_all(host, uuid);
    monitor_lock::remove_file(&*host.files, &host.dirs, uuid)?;
    request_queue::answer_all(host, uuid);
    // Replies to commands that were killed. What cannot be removed now, `recover` removes.
    let _ = request_queue::remove_old_replies(host, Some(uuid));
    let folder = host.dirs.vm_run(uuid);
    remove_folder_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("remove", &folder, source))
}
