//! Who may change a VM: whoever holds its lock.
//!
//! The lock is a file of `/run/xyl/busy`, named by the VM's UUID. The kernel frees it when its holder
//! dies, and the file stays: so that folder tells at once of everything that is under way, or was when
//! its process died. Whoever takes a lock first finishes what the VM's journal says was under way:
//! `VmGuard::take`, which is in `recover`, does both.

use std::time::Duration;

use os_port::{Lock, remove_folder_if_there};
use uuid::Uuid;
use xen_port::DomId;
use xyl_saga::{Contents, Journal, Outcome, Past, Record};

use crate::vm::{journal, monitor_lock, store};
use crate::{EngineError, Host};

/// How long whoever changes the VM at the moment may take until it is another's turn.
const LOCK_LIMIT: Duration = Duration::from_secs(180);
/// How long nobody is told of that wait: most changes are done by then.
const QUIET_LIMIT: Duration = Duration::from_millis(500);

/// What was made of an operation whose process had died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Its name, where that is known.
    pub name: String,
    /// The VM's domain, where it has one now.
    pub domid: Option<DomId>,
    /// What was made of it, in words.
    pub what: String,
    /// Whether it could not be finished: then `what` says why.
    pub has_failed: bool,
}

impl Recovered {
    pub(crate) fn failed(uuid: Uuid, error: &EngineError) -> Recovered {
        Recovered {
            uuid,
            name: String::new(),
            domid: None,
            what: format!("what was under way could not be finished: {error}"),
            has_failed: true,
        }
    }

    /// A line about it.
    pub fn line(&self) -> String {
        let name = match self.name.as_str() {
            "" => format!("the VM {}", self.uuid),
            name => format!("{name} ({})", self.uuid),
        };
        format!("{name}: {}", self.what)
    }
}

/// A journal in which nothing is under way any more, and what was made of what had been.
pub(crate) struct Left {
    pub contents: Contents,
    pub recovered: Option<Recovered>,
}

/// The right to change a VM.
pub struct VmGuard {
    /// UUID of the VM.
    pub(crate) uuid: Uuid,
    _lock: Box<dyn Lock>,
    /// What the journal held when the lock was taken; nothing is under way in it.
    pub(crate) contents: Contents,
    /// Whether another process had the lock, and may have changed the VM.
    pub has_waited: bool,
    /// What another process had left under way.
    pub recovered: Option<Recovered>,
}

impl VmGuard {
    /// Takes a VM's lock and waits for the process that holds it. Then `finish` finishes the operation that a dead process left.
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

    /// Records an open operation as failed, so that another one can begin. Only an operation that removes all that the open
    /// one could leave may do this. `is_covered` tells that of the open operation's kind.
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

    /// Tells of what another process had left under way.
    pub(crate) fn tell(&self, host: &Host) {
        if let Some(recovered) = &self.recovered {
            (host.notice)(&recovered.line());
        }
    }

    /// Refuses to begin anything while an earlier operation on the VM is open: it was taken over when the lock was
    /// taken, and could not be finished.
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

/// Removes what is kept of a VM that has no domain; the lock is held by the caller.
pub(crate) fn forget(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    store::remove(&*host.files, &host.dirs, &uuid.hyphenated().to_string())?;
    monitor_lock::dismiss(&*host.files, &host.dirs, uuid)?;
    let folder = host.dirs.vm_run(uuid);
    remove_folder_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("remove", &folder, source))
}
