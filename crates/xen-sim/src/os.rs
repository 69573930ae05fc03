//! Files of a process that can be killed.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Instant, SystemTime};

use os_port::mem::{MemProcess, ProcessFiles, VirtualClock};
use os_port::{Append, Clock, Files, Lock, Process};

use crate::fate::Fate;
use crate::world::Processes;

/// The disk behind a fate.
pub(crate) struct MortalFiles {
    pub inner: ProcessFiles,
    pub fate: Fate,
}

fn dead<T>() -> io::Result<T> {
    Err(ErrorKind::Interrupted.into())
}

fn half(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len() / 2).unwrap_or_default()
}

/// What reading can fail with, beside there being nothing.
const READ_ERRORS: &[ErrorKind] = &[ErrorKind::PermissionDenied, ErrorKind::Other];
/// What changing something can fail with.
const WRITE_ERRORS: &[ErrorKind] = &[
    ErrorKind::StorageFull,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::Other,
];

impl MortalFiles {
    fn call<T>(
        &self,
        op: &str,
        errors: &[ErrorKind],
        effect: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self.fate.fault(op, errors) {
            Some(error) => self.fate.call(|| Err(error.into()), dead),
            None => self.fate.call(effect, dead),
        }
    }
}

impl MortalFiles {
    /// Waits for whoever has a lock; whether that is over before the deadline.
    fn wait_for_holder(&self, path: &Path, deadline: Instant) -> bool {
        match self.inner.held(path) {
            Some(held) => {
                let what = path.display().to_string();
                self.fate
                    .wait(&what, deadline, Box::new(move || held.is_free()))
            }
            None => true,
        }
    }
}

impl Files for MortalFiles {
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.call("read", READ_ERRORS, || self.inner.read(path, max_bytes))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let midway = || drop(self.inner.write(path, half(bytes)));
        if let Some(error) = self.fate.fault("write", WRITE_ERRORS) {
            // A full disk has taken a part.
            midway();
            return self.fate.call(|| Err(error.into()), dead);
        }
        self.fate
            .call_in_parts(Some(midway), || self.inner.write(path, bytes), dead)
    }

    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let fate = self.fate.clone();
        let opened = self.call("append_to", WRITE_ERRORS, || self.inner.append_to(path))?;
        Ok(Box::new(MortalAppend {
            inner: opened,
            fate,
            late: Vec::new(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", WRITE_ERRORS, || self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove") {
            return self.call("forgotten", &[], || Ok(()));
        }
        self.call("remove", WRITE_ERRORS, || self.inner.remove(path))
    }

    /// Midway, one file of the folder is gone.
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove_folder") {
            return self.call("forgotten", &[], || Ok(()));
        }
        if let Some(error) = self.fate.fault("remove_folder", WRITE_ERRORS) {
            return self.fate.call(|| Err(error.into()), dead);
        }
        let midway = || {
            let names = self.inner.list(path).unwrap_or_default();
            if let Some(first) = names.first() {
                drop(self.inner.remove(&path.join(first)));
            }
        };
        self.fate
            .call_in_parts(Some(midway), || self.inner.remove_folder(path), dead)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call("create_folder", WRITE_ERRORS, || {
            self.inner.create_folder(path)
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.call("list", READ_ERRORS, || self.inner.list(folder))
    }

    fn lock(&self, path: &Path, deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>> {
        if self.fate.takes_no_lock(path) {
            return self.call("forgotten", &[], || {
                Ok(Some(Box::new(NoLock) as Box<dyn Lock>))
            });
        }
        let mut lock = self.call("lock", WRITE_ERRORS, || self.inner.lock(path, deadline))?;
        while let (None, Some(deadline)) = (&lock, deadline) {
            if !self.wait_for_holder(path, deadline) {
                break;
            }
            lock = self.inner.lock(path, None)?;
        }
        Ok(lock.map(|inner| {
            Box::new(MortalLock {
                inner: Some(inner),
                fate: self.fate.clone(),
            }) as Box<dyn Lock>
        }))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.call("is_locked", READ_ERRORS, || self.inner.is_locked(path))
    }
}

struct MortalAppend {
    inner: Box<dyn Append>,
    fate: Fate,
    /// What is still to be written by a process that writes late.
    late: Vec<u8>,
}

impl Append for MortalAppend {
    /// Midway, a part of it is written, and most often one that ends within a line.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.fate.forgets("append") {
            return self.fate.call(|| Ok(()), dead);
        }
        if let Some(error) = self.fate.fault("append", WRITE_ERRORS) {
            return self.fate.call(|| Err(error.into()), dead);
        }
        let now = match self.fate.writes_late() {
            true => std::mem::replace(&mut self.late, bytes.to_vec()),
            false => bytes.to_vec(),
        };
        let bytes = now.as_slice();
        let cut = bytes.len().saturating_sub(bytes.len() / 3);
        let inner = std::cell::RefCell::new(&mut self.inner);
        let part = bytes.get(..cut).unwrap_or_default();
        self.fate.call_in_parts(
            Some(|| drop(inner.borrow_mut().append(part))),
            || inner.borrow_mut().append(bytes),
            dead,
        )
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(error) = self.fate.fault("sync", WRITE_ERRORS) {
            return self.fate.call(|| Err(error.into()), dead);
        }
        let inner = &mut self.inner;
        self.fate.call(|| inner.sync(), dead)
    }
}

/// A lock that keeps nobody off.
struct NoLock;

impl Lock for NoLock {
    fn leave(self: Box<Self>) {}
}

struct MortalLock {
    inner: Option<Box<dyn Lock>>,
    fate: Fate,
}

impl Lock for MortalLock {
    fn leave(mut self: Box<Self>) {
        if let Some(inner) = self.inner.take() {
            inner.leave();
        }
    }
}

impl Drop for MortalLock {
    /// The file goes with one call, and with another one the lock; the kernel frees those of the dead.
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let inner = std::cell::Cell::new(Some(inner));
            self.fate.call(|| drop(inner.take()), || drop(inner.take()));
        }
    }
}

/// The clock, by which a process waits while others have their turns.
pub(crate) struct MortalClock {
    pub inner: VirtualClock,
    pub fate: Fate,
}

impl Clock for MortalClock {
    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn calendar(&self) -> SystemTime {
        self.inner.calendar()
    }

    fn since_boot_s(&self) -> u64 {
        self.inner.since_boot_s()
    }

    fn wait_until(&self, deadline: Instant) {
        match self.fate.is_seated() {
            true => _ = self.fate.wait("the clock", deadline, Box::new(|| false)),
            false => self.inner.wait_until(deadline),
        }
    }
}

/// The process itself, among all others of its world.
pub(crate) struct MortalProcess {
    pub inner: MemProcess,
    pub all: Processes,
    pub fate: Fate,
}

impl Process for MortalProcess {
    fn id(&self) -> u32 {
        self.inner.id()
    }

    fn is_running(&self, id: u32) -> bool {
        self.fate.turn();
        self.all.is_running(id)
    }

    fn new_uuid(&self) -> [u8; 16] {
        self.inner.new_uuid()
    }
}
