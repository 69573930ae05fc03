//! Which VMs are to be watched over, and whether somebody does.
//!
//! A VM that is to be watched over has a file in `/run/xyl/watch`, named by its UUID. Whoever watches
//! holds the file's lock, and has written its process's number into it. The kernel frees the lock when
//! its holder dies, and the file stays: so one look into the folder and one `flock` for each VM show
//! which of them have lost their process, without a question to Xen or xenstored. A VM that nobody is
//! to watch over (`xyl create -e`) has no file.

use std::io::ErrorKind;
use std::time::Duration;

use os_port::{Files, Lock, list_if_there};
use uuid::Uuid;

use crate::{Dirs, EngineError, Host};

/// How long one who is about to watch waits for the one before, or for somebody who looks.
const TAKE_LIMIT: Duration = Duration::from_secs(5);
/// Largest file that is read, in bytes: a process's number.
const FILE_MAX_BYTES: u64 = 32;

/// The right, and the duty, to watch over a VM. Dropped, it is left for an heir, as by a death.
pub struct MonitorLock {
    uuid: Uuid,
    lock: Option<Box<dyn Lock>>,
}

impl MonitorLock {
    /// Takes a VM's post, with the lock that this process was born with or a new one; `None` where another
    /// process has it.
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
        let post = MonitorLock {
            uuid,
            lock: Some(lock),
        };
        let number = format!("{}\n", host.process.id());
        // On a full disk the file holds no number: the lock counts all the same.
        let _ = host.files.write(&path, number.as_bytes());
        Ok(Some(post))
    }

    /// Whether the VM is to be left alone from now on: somebody has removed the file, or it is another monitor's. A file that
    /// cannot be read now, or that a full disk left without a number, is this monitor's as long as somebody has its lock.
    pub fn is_abolished(&self, host: &Host) -> bool {
        match watcher(&*host.files, &host.dirs, self.uuid) {
            Some(number) => number != host.process.id(),
            None => matches!(is_watched(&*host.files, &host.dirs, self.uuid), Ok(false)),
        }
    }

    /// Nobody needs to watch over the VM any more.
    pub fn abolish(mut self, host: &Host) {
        let lock = self.lock.take();
        match self.is_abolished(host) {
            // The file is not this one any more.
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

/// From now on a VM is to be watched over. Whoever says so starts the process that does, and gives it the lock.
pub fn want(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<(), EngineError> {
    let path = dirs.watch(uuid);
    let folder = dirs.watched();
    files
        .create_folder(&folder)
        .and_then(|()| files.append_to(&path))
        .map(drop)
        .map_err(|source| EngineError::io("make", &path, source))
}

/// Nobody is to watch over a VM; a process that does leaves it alone when it next wakes up.
pub fn dismiss(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<(), EngineError> {
    let path = dirs.watch(uuid);
    os_port::remove_if_there(files, &path)
        .map_err(|source| EngineError::io("remove", &path, source))
}

/// A VM that is to be watched over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Whether a process does.
    pub is_held: bool,
}

/// All VMs that are to be watched over, in the order of their UUIDs.
pub fn all(files: &dyn Files, dirs: &Dirs) -> Result<Vec<Watched>, EngineError> {
    let folder = dirs.watched();
    let names =
        list_if_there(files, &folder).map_err(|source| EngineError::io("list", &folder, source))?;
    let mut uuids: Vec<Uuid> = names
        .iter()
        .filter_map(|name| Uuid::try_parse(name).ok())
        .collect();
    uuids.sort_unstable();
    let watched = uuids.into_iter().filter_map(|uuid| {
        // One whose file has gone meanwhile is watched over no more.
        let is_held = files.is_locked(&dirs.watch(uuid)).ok()?;
        Some(Watched { uuid, is_held })
    });
    Ok(watched.collect())
}

/// Whether a process watches over a VM. Whoever does has had the lock from its first moment on.
pub fn is_watched(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Result<bool, EngineError> {
    let path = dirs.watch(uuid);
    match files.is_locked(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other.map_err(|source| EngineError::io("look at the lock", &path, source)),
    }
}

/// The VMs that have lost the process that watched over them.
pub fn lost(files: &dyn Files, dirs: &Dirs) -> Result<Vec<Uuid>, EngineError> {
    let all = all(files, dirs)?.into_iter();
    Ok(all
        .filter(|watched| !watched.is_held)
        .map(|watched| watched.uuid)
        .collect())
}

/// The process that watches over a VM, or did last.
pub fn watcher(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<u32> {
    let bytes = files.read(&dirs.watch(uuid), FILE_MAX_BYTES).ok()?;
    std::str::from_utf8(&bytes).ok()?.trim_end().parse().ok()
}
