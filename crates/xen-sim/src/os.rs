//! The file port of a process that a test can kill.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use os_port::mem::{MemProcess, ProcessFiles, VirtualClock};
use os_port::{Append, Arrival, Cage, Clock, Files, Lock, OpenFile, Opening, Process, Readiness};

use crate::fate::Fate;
use crate::lasting::{Access, Refusal};
use crate::world::Processes;

/// The disk behind a fate.
#[derive(Clone)]
pub(crate) struct MortalFiles {
    pub inner: ProcessFiles,
    pub fate: Fate,
}

pub(crate) fn dead<T>() -> io::Result<T> {
    Err(ErrorKind::Interrupted.into())
}

fn half(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len() / 2).unwrap_or_default()
}

/// Errors of a read, besides a missing file.
const READ_ERRORS: &[ErrorKind] = &[ErrorKind::PermissionDenied, ErrorKind::Other];
/// Errors of a change.
const WRITE_ERRORS: &[ErrorKind] = &[
    ErrorKind::StorageFull,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::Other,
];

impl MortalFiles {
    fn call<T>(
        &self,
        op: &str,
        (access, path): (Access, &Path),
        effect: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(refusal) = self.refusal(access, path, false) {
            return self.fate.call(|| Err(refusal.error()), dead);
        }
        let errors = match access {
            Access::Look => READ_ERRORS,
            Access::Change | Access::Grow => WRITE_ERRORS,
        };
        match self.fate.fault(op, errors) {
            Some(error) => self.fate.call(|| Err(error.into()), dead),
            None => self.fate.call(effect, dead),
        }
    }

    fn forgotten<T>(&self, answer: T) -> io::Result<T> {
        self.fate.call(|| Ok(answer), dead)
    }

    /// The error of this call, if a lasting fault applies.
    fn refusal(&self, access: Access, path: &Path, writes: bool) -> Option<Refusal> {
        self.fate.lasting().disk(&self.fate, access, path, writes)
    }

    /// The use of the disk by a removal. Linux checks for the folder before it checks permissions.
    fn access_of_removal(&self, path: &Path) -> Access {
        match path
            .parent()
            .is_none_or(|folder| self.inner.is_there(folder))
        {
            true => Access::Change,
            false => Access::Look,
        }
    }

    /// The use of the disk by a call that creates a file or folder.
    fn access_of_new(&self, path: &Path) -> Access {
        match self.inner.is_there(path) {
            true => Access::Change,
            false => Access::Grow,
        }
    }
}

impl MortalFiles {
    /// Waits for the holder of a lock. Returns whether the lock was free before the deadline.
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
        self.call("read", (Access::Look, path), || {
            self.inner.read(path, max_bytes)
        })
    }

    fn open(&self, path: &Path, opening: &Opening<'_>) -> io::Result<OpenFile> {
        self.call("open", (Access::Look, path), || {
            self.inner.open(path, opening)
        })
    }

    fn keep_in_memory(&self, name: &str, bytes: &[u8]) -> io::Result<OpenFile> {
        self.call("keep_in_memory", (Access::Look, Path::new(name)), || {
            self.inner.keep_in_memory(name, bytes)
        })
    }

    fn listen(&self, path: &Path) -> io::Result<OpenFile> {
        self.call("listen", (self.access_of_new(path), path), || {
            self.inner.listen(path)
        })
    }

    fn make_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        self.call("make_link", (Access::Grow, path), || {
            self.inner.make_link(path, target)
        })
    }

    fn target_of_link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        self.call("target_of_link", (Access::Look, path), || {
            self.inner.target_of_link(path)
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let midway = || drop(self.inner.write(path, half(bytes)));
        if let Some(refusal) = self.refusal(Access::Grow, path, true) {
            if refusal.writes_a_part {
                midway();
            }
            return self.fate.call(|| Err(refusal.error()), dead);
        }
        if let Some(error) = self.fate.fault("write", WRITE_ERRORS) {
            // A full disk has taken a part.
            midway();
            return self.fate.call(|| Err(error.into()), dead);
        }
        self.fate
            .call_in_parts(Some(midway), || self.inner.write(path, bytes), dead)
    }

    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let access = self.access_of_new(path);
        let opened = self.call("append_to", (access, path), || self.inner.append_to(path))?;
        Ok(Box::new(MortalAppend {
            inner: opened,
            files: self.clone(),
            path: path.to_owned(),
            late: Vec::new(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", (Access::Change, to), || {
            self.inner.rename(from, to)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove") {
            return self.forgotten(());
        }
        let access = self.access_of_removal(path);
        self.call("remove", (access, path), || self.inner.remove(path))
    }

    /// Midway, one file of the folder is gone.
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove_folder") {
            return self.forgotten(());
        }
        let access = self.access_of_removal(path);
        if let Some(refusal) = self.refusal(access, path, false) {
            return self.fate.call(|| Err(refusal.error()), dead);
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

    fn make_cage(&self, cage: &Cage<'_>) -> io::Result<()> {
        self.call("make_cage", (Access::Grow, cage.folder), || {
            self.inner.make_cage(cage)
        })
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let access = self.access_of_new(path);
        self.call("create_folder", (access, path), || {
            self.inner.create_folder(path)
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.call("list", (Access::Look, folder), || self.inner.list(folder))
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.call("free_bytes", (Access::Look, folder), || {
            self.inner.free_bytes(folder)
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.call("sync", (Access::Change, path), || self.inner.sync(path))
    }

    fn lock(&self, path: &Path, deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>> {
        if self.fate.takes_no_lock(path) {
            return self.forgotten(Some(Box::new(NoLock) as Box<dyn Lock>));
        }
        let access = self.access_of_new(path);
        let mut lock = self.call("lock", (access, path), || self.inner.lock(path, deadline))?;
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
        self.call("is_locked", (Access::Look, path), || {
            self.inner.is_locked(path)
        })
    }
}

struct MortalAppend {
    inner: Box<dyn Append>,
    files: MortalFiles,
    path: PathBuf,
    /// Bytes that a process with [`Sabotage::WriteLate`] has not yet written.
    late: Vec<u8>,
}

impl MortalAppend {
    /// A failing call, after it has written a part.
    fn fail(&mut self, part: &[u8], error: io::Error) -> io::Result<()> {
        let inner = &mut self.inner;
        self.files.fate.call(
            || {
                inner.append(part)?;
                Err(error)
            },
            dead,
        )
    }
}

/// Most often a part that ends within a line.
fn two_thirds(bytes: &[u8]) -> &[u8] {
    let cut = bytes.len().saturating_sub(bytes.len() / 3);
    bytes.get(..cut).unwrap_or_default()
}

impl Append for MortalAppend {
    /// Appends bytes. If the process dies in the middle, or the disk is full or fails, a part is written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fate = self.files.fate.clone();
        if fate.forgets("append") {
            return fate.call(|| Ok(()), dead);
        }
        if let Some(refusal) = self.files.refusal(Access::Grow, &self.path, true) {
            let part = refusal.writes_a_part.then(|| two_thirds(bytes));
            return self.fail(part.unwrap_or_default(), refusal.error());
        }
        if let Some(error) = fate.fault("append", WRITE_ERRORS) {
            let part = (error != ErrorKind::ReadOnlyFilesystem).then(|| two_thirds(bytes));
            return self.fail(part.unwrap_or_default(), error.into());
        }
        let now = match fate.writes_late() {
            true => std::mem::replace(&mut self.late, bytes.to_vec()),
            false => bytes.to_vec(),
        };
        let bytes = now.as_slice();
        let inner = std::cell::RefCell::new(&mut self.inner);
        fate.call_in_parts(
            Some(|| drop(inner.borrow_mut().append(two_thirds(bytes)))),
            || inner.borrow_mut().append(bytes),
            dead,
        )
    }

    fn cut_to(&mut self, size_bytes: u64) -> io::Result<()> {
        let place = (Access::Change, self.path.as_path());
        let inner = &mut self.inner;
        self.files
            .call("cut_to", place, || inner.cut_to(size_bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        let place = (Access::Change, self.path.as_path());
        let inner = &mut self.inner;
        self.files.call("sync", place, || inner.sync())
    }
}

/// A lock that does not exclude other processes.
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
    /// Removes the file in one call and releases the lock in another. The kernel releases the locks of dead
    /// processes.
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

    fn wait_for(&self, awaited: Vec<Readiness<'_>>, deadline: Instant) -> io::Result<()> {
        if !self.fate.is_seated() {
            return self.inner.wait_for(awaited, deadline);
        }
        let arrivals = awaited.into_iter().filter_map(|one| match one {
            Readiness::Simulated(arrival) => Some(arrival),
            // Nothing real comes in a simulated world.
            Readiness::Descriptor(_) => None,
        });
        let arrivals: Vec<Arrival> = arrivals.collect();
        let wake = Box::new(move || arrivals.iter().any(|has_come| has_come()));
        self.fate.wait("an event", deadline, wake);
        Ok(())
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

    fn started_ticks(&self, id: u32) -> Option<u64> {
        self.is_running(id).then_some(u64::from(id))
    }

    fn new_uuid(&self) -> [u8; 16] {
        self.inner.new_uuid()
    }
}
