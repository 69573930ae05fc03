//! Monitor locks: the VMs that should have a monitor, and whether each has one.
//!
//! A supervised VM has a file in `/run/xyl/watch`, named by its UUID. Its monitor holds the file's lock and writes
//! its process ID into the file. The kernel releases the lock when the monitor dies, and the file stays. So one
//! `readdir`, and one `flock` for each VM, find the VMs whose monitor has died, without a request to Xen or
//! xenstored. A VM without supervision (`xyl create -e`) has no file.

use std::io::ErrorKind;
use std::time::Duration;

use os_port::{Files, Lock, list_if_there};
use uuid::Uuid;

use crate::{Dirs, EngineError, Host};

/// Time limit for a new monitor to get the lock from an old monitor, or from a process that tests it.
const TAKE_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of bytes that are read of a file: a process ID.
const FILE_MAX_BYTES: u64 = 32;

/// The exclusive monitor lock of a VM. Dropping it leaves the file, so that another process starts a new monitor.
pub struct MonitorLock {
    uuid: Uuid,
    lock: Option<Box<dyn Lock>>,
}

impl MonitorLock {
    /// Takes a VM's monitor lock, or adopts the lock that the process inherited. `None` if another process holds it.
    pub fn take(
        host: &Host,
        uuid: Uuid,
        inherited: Option<Box<dyn Lock>>,
    ) -> Result<Option<MonitorLock>, EngineError> {
        let path = host.dirs.watch(uuid);
        let deadline = host.clock.now() + TAKE_LIMIT;
        let lock = match inherited {
            Some(lock) => Some(lock),
            None => host
                .files
                .lock(&path, Some(deadline))
                .map_err(|source| EngineError::io("lock", &path, source))?,
        };
        let Some(lock) = lock else {
            return Ok(None);
        };
        let monitor_lock = MonitorLock {
            uuid,
            lock: Some(lock),
        };
        let number = format!("{}\n", host.process.id());
        // On a full disk the file has no process ID. The lock is valid nevertheless.
        let _ = host.files.write(&path, number.as_bytes());
        Ok(Some(monitor_lock))
    }

    /// UUID of the VM.
    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Whether the VM no longer belongs to this monitor: the file was removed, or another monitor owns it.
    ///
    /// If the file cannot be read, or has no process ID after a full disk, it belongs to this monitor while its lock
    /// is held.
    pub fn is_revoked(&self, host: &Host) -> bool {
        match monitor_pid(&*host.files, &host.dirs, self.uuid) {
            Some(number) => number != host.process.id(),
            None => matches!(has_monitor(&*host.files, &host.dirs, self.uuid), Ok(false)),
        }
    }

    /// Ends the supervision of the VM, and removes the file.
    pub fn end_supervision(mut self, host: &Host) {
        let lock = self.lock.take();
        match self.is_revoked(host) {
            // The file belongs to another monitor, so it stays.
            true => lock.into_iter().for_each(|lock| lock.leave()),
            false => drop(lock),
        }
    }
}

impl Drop for MonitorLock {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.leave();
        }
    }
}

/// Creates a VM's monitor-lock file. The caller then starts the monitor and gives it the lock.
pub fn create_file(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<(), EngineError> {
    let path = dirs.watch(uuid);
    let folder = dirs.watched();
    files
        .create_folder(&folder)
        .and_then(|()| files.append_to(&path))
        .map(drop)
        .map_err(|source| EngineError::io("make", &path, source))
}

/// Removes a VM's monitor-lock file. A monitor ends when it next wakes up.
pub fn remove_file(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<(), EngineError> {
    let path = dirs.watch(uuid);
    os_port::remove_if_there(files, &path)
        .map_err(|source| EngineError::io("remove", &path, source))
}

/// A supervised VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supervised {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Whether a process holds the lock.
    pub is_held: bool,
}

/// Returns all supervised VMs, ordered by UUID.
pub fn supervised(files: &dyn Files, dirs: &Dirs) -> Result<Vec<Supervised>, EngineError> {
    let folder = dirs.watched();
    let names =
        list_if_there(files, &folder).map_err(|source| EngineError::io("list", &folder, source))?;
    let mut uuids: Vec<Uuid> = names
        .iter()
        .filter_map(|name| Uuid::try_parse(name).ok())
        .collect();
    uuids.sort_unstable();
    let watched = uuids.into_iter().filter_map(|uuid| {
        // If the file was removed meanwhile, the VM is no longer supervised.
        let is_held = files.is_locked(&dirs.watch(uuid)).ok()?;
        Some(Supervised { uuid, is_held })
    });
    Ok(watched.collect())
}

/// Whether a VM has a monitor. A monitor holds the lock from its start.
pub fn has_monitor(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<bool, EngineError> {
    let path = dirs.watch(uuid);
    match files.is_locked(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other.map_err(|source| EngineError::io("look at the lock", &path, source)),
    }
}

/// Whether a VM is supervised and its monitor has died.
///
/// # Errors
/// Those of the disk.
pub fn is_lost(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<bool, EngineError> {
    Ok(is_supervised(files, dirs, uuid) && !has_monitor(files, dirs, uuid)?)
}

/// The supervised VMs whose monitor has died.
pub fn without_monitor(files: &dyn Files, dirs: &Dirs) -> Result<Vec<Uuid>, EngineError> {
    let all = supervised(files, dirs)?.into_iter();
    Ok(all
        .filter(|watched| !watched.is_held)
        .map(|watched| watched.uuid)
        .collect())
}

/// Whether a VM is supervised: it has a monitor, or is to get one.
pub(crate) fn is_supervised(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> bool {
    let locked = files.is_locked(&dirs.watch(uuid));
    !matches!(locked, Err(error) if error.kind() == ErrorKind::NotFound)
}

/// Process ID of the VM's present or last monitor.
pub fn monitor_pid(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<u32> {
    let bytes = files.read(&dirs.watch(uuid), FILE_MAX_BYTES).ok()?;
    std::str::from_utf8(&bytes).ok()?.trim_end().parse().ok()
}
