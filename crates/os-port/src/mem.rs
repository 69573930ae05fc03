//! A simulated system: files in memory, a clock that a test moves, and processes that a test can end.
//!
//! ```
//! use os_port::mem::{Life, MemFiles};
//! use os_port::Files;
//! use std::path::Path;
//!
//! # fn main() -> std::io::Result<()> {
//! let disk = MemFiles::new();
//! let life = Life::new(1);
//! let lock = disk.of(&life).lock(Path::new("/run/lock"), None)?;
//! life.end();
//! drop(lock);
//! // The end of a process frees its locks but does not remove their files.
//! assert_eq!(disk.paths(), [Path::new("/run/lock")]);
//! assert!(disk.of(&Life::new(2)).lock(Path::new("/run/lock"), None)?.is_some());
//! # Ok(())
//! # }
//! ```

mod disks;
mod doorbells;
mod links;
mod pci;
mod programs;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::open::{DeviceNumber, FileFacts, FileId, FileKind, OpenFile, Opening};
use crate::{Append, Cage, Clock, Files, Lock, Process, Readiness};

pub use disks::{LoopUser, MemDisks, ProcessDisks};
pub use doorbells::{MemDoorbells, ProcessDoorbells};
pub use links::{MemLinks, ProcessLinks};
pub use programs::{MemChild, MemKernelFiles, MemPrograms, ProcessKernelFiles};

/// Device number of the file system in memory.
const DISK_DEVICE: DeviceNumber = DeviceNumber { major: 8, minor: 1 };
/// Mode of each file in memory.
const FILE_MODE: u32 = 0o600;

/// Whether a simulated process lives.
#[derive(Clone, Debug)]
pub struct Life {
    id: u32,
    lives: Arc<AtomicBool>,
}

impl Life {
    /// A new living process with this PID.
    pub fn new(id: u32) -> Life {
        Life {
            id,
            lives: Arc::new(AtomicBool::new(true)),
        }
    }

    /// PID of the process.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Ends the process: its later calls have no effect.
    pub fn end(&self) {
        self.lives.store(false, Ordering::Relaxed);
    }

    /// Whether the process lives.
    pub fn lives(&self) -> bool {
        self.lives.load(Ordering::Relaxed)
    }

    fn refuse_the_dead(&self) -> io::Result<()> {
        match self.lives() {
            true => Ok(()),
            false => Err(ErrorKind::Interrupted.into()),
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<PathBuf, File>,
    folders: BTreeSet<PathBuf>,
    /// The part of the disk that survives a power cut.
    durable: Durable,
    /// The files that are locked, by their own numbers: a lock outlives its file's name.
    locked: BTreeSet<u64>,
    /// Nodes of block devices.
    devices: BTreeMap<PathBuf, DeviceNumber>,
    /// Block devices that another process has claimed.
    claimed: BTreeSet<DeviceNumber>,
    last_inode: u64,
    /// Number of free bytes, if a test has set it.
    free_bytes: Option<u64>,
}

/// The part of a disk that survives a power cut: synced files and folders.
#[derive(Debug, Default)]
struct Durable {
    /// Contents of the files, by their inode numbers.
    bytes: BTreeMap<u64, Vec<u8>>,
    /// The names of files.
    files: BTreeMap<PathBuf, u64>,
    /// The names of folders.
    folders: BTreeSet<PathBuf>,
}

/// A file, whatever it is called.
#[derive(Debug, Default)]
struct File {
    inode: u64,
    bytes: Vec<u8>,
}

/// A disk in memory. Clones share the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemFiles {
    disk: Arc<Mutex<Disk>>,
}

impl MemFiles {
    /// An empty disk.
    pub fn new() -> MemFiles {
        MemFiles::default()
    }

    /// The disk with the rights of one process.
    pub fn of(&self, life: &Life) -> ProcessFiles {
        ProcessFiles {
            disk: Arc::clone(&self.disk),
            life: life.clone(),
        }
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        locked(&self.disk).files.keys().cloned().collect()
    }

    /// The paths of all folders, sorted.
    pub fn folders(&self) -> Vec<PathBuf> {
        locked(&self.disk).folders.iter().cloned().collect()
    }

    /// Contents of a file; `None` if there is none.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = locked(&self.disk);
        disk.files.get(path).map(|file| file.bytes.clone())
    }

    /// Creates or replaces a file, as another program would.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut disk = locked(&self.disk);
        disk.make_folder(path.parent().unwrap_or(Path::new("/")));
        disk.file(path).bytes = bytes.to_vec();
    }

    /// Makes the node of a block device, or leads it to another device.
    pub fn put_device(&self, path: &Path, number: DeviceNumber) {
        let mut disk = locked(&self.disk);
        disk.make_folder(path.parent().unwrap_or(Path::new("/")));
        disk.devices.insert(path.to_owned(), number);
    }

    /// Claims a block device as another process does.
    pub fn claim_device(&self, number: DeviceNumber) {
        locked(&self.disk).claimed.insert(number);
    }

    /// Whether a file with this number has a name.
    pub(crate) fn has_inode(&self, inode: u64) -> bool {
        let disk = locked(&self.disk);
        disk.files.values().any(|file| file.inode == inode)
    }

    /// From now on this disk says that it has so many bytes free. Writes do not change the number.
    pub fn set_free_bytes(&self, bytes: u64) {
        locked(&self.disk).free_bytes = Some(bytes);
    }

    /// All that is there outlives a power cut from now on.
    pub fn sync_all(&self) {
        locked(&self.disk).sync_all();
    }

    /// Cuts the power: unsynced data is lost. A file with a synced name and unsynced contents is empty afterwards.
    /// All locks are free.
    pub fn lose_power(&self) {
        let mut disk = locked(&self.disk);
        let files = disk.durable.files.clone().into_iter();
        let bytes_of = |inode: u64| disk.durable.bytes.get(&inode).cloned();
        let files: BTreeMap<PathBuf, File> = files
            .map(|(path, inode)| {
                let bytes = bytes_of(inode).unwrap_or_default();
                (path, File { inode, bytes })
            })
            .collect();
        disk.folders = disk.durable.folders.clone();
        let folders = disk.folders.clone();
        // If a folder's name is lost, its contents are lost too.
        let is_reached = |path: &Path| {
            let mut above = path.ancestors().skip(1);
            above.all(|folder| folder == Path::new("/") || folders.contains(folder))
        };
        disk.files = files;
        disk.files.retain(|path, _| is_reached(path));
        disk.folders.retain(|path| is_reached(path));
        disk.locked.clear();
        disk.sync_all();
    }
}

/// Locks the disk for one access. Ignores a poisoned lock, so that a test shows its first panic.
fn locked(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// The file at a path; creates an empty one if there is none.
    fn file(&mut self, path: &Path) -> &mut File {
        let last = &mut self.last_inode;
        self.files.entry(path.to_owned()).or_insert_with(|| {
            *last += 1;
            File {
                inode: *last,
                bytes: Vec::new(),
            }
        })
    }

    /// Facts about what is at a path.
    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        if let Some(number) = self.devices.get(path) {
            return Ok(facts_of_kind(FileKind::Block(*number), 0, 0));
        }
        if self.folders.contains(path) {
            return Ok(facts_of_kind(FileKind::Other, 0, 0));
        }
        let file = self.files.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(facts_of_kind(
            FileKind::Regular,
            file.inode,
            file.bytes.len() as u64,
        ))
    }

    fn sync_all(&mut self) {
        let files = self.files.iter();
        self.durable = Durable {
            bytes: files
                .clone()
                .map(|(_, file)| (file.inode, file.bytes.clone()))
                .collect(),
            files: files
                .map(|(path, file)| (path.clone(), file.inode))
                .collect(),
            folders: self.folders.clone(),
        };
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        if let Some(file) = self.files.get(path) {
            self.durable.bytes.insert(file.inode, file.bytes.clone());
            return Ok(());
        }
        if path != Path::new("/") && !self.folders.contains(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let is_in_it = |name: &Path| name.parent() == Some(path);
        let durable = &mut self.durable;
        durable.files.retain(|name, _| !is_in_it(name));
        durable.folders.retain(|name| !is_in_it(name));
        let files = self.files.iter().filter(|(name, _)| is_in_it(name));
        durable
            .files
            .extend(files.map(|(name, file)| (name.clone(), file.inode)));
        let folders = self.folders.iter().filter(|name| is_in_it(name));
        durable.folders.extend(folders.cloned());
        Ok(())
    }

    fn make_folder(&mut self, path: &Path) {
        self.folders.extend(path.ancestors().map(Path::to_owned));
    }

    fn needs_folder_of(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let is_there = folder == Path::new("/") || self.folders.contains(folder);
        is_there.then_some(()).ok_or(ErrorKind::NotFound.into())
    }
}

/// The disk as one process sees it.
#[derive(Clone, Debug)]
pub struct ProcessFiles {
    disk: Arc<Mutex<Disk>>,
    life: Life,
}

impl ProcessFiles {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        self.life.refuse_the_dead()?;
        Ok(locked(&self.disk))
    }

    /// Whether a path has a file or a folder. This does not count as a call of the process.
    pub fn is_there(&self, path: &Path) -> bool {
        let disk = locked(&self.disk);
        disk.files.contains_key(path) || disk.folders.contains(path)
    }

    /// The lock of a lock file, if a process holds it.
    pub fn held(&self, path: &Path) -> Option<Held> {
        let disk = locked(&self.disk);
        let inode = disk.files.get(path)?.inode;
        disk.locked.contains(&inode).then(|| Held {
            disk: Arc::clone(&self.disk),
            inode,
        })
    }
}

/// A lock that a process holds or held.
pub struct Held {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
}

impl Held {
    /// Whether no process holds the lock now.
    pub fn is_free(&self) -> bool {
        !locked(&self.disk).locked.contains(&self.inode)
    }
}

/// The contents of a file that stands for a symbolic link begin so. Its target follows.
const LINK: &[u8] = b"symbolic link to ";

fn facts_of_kind(kind: FileKind, inode: u64, size_bytes: u64) -> FileFacts {
    FileFacts {
        kind,
        id: FileId {
            device: DISK_DEVICE,
            inode,
        },
        size_bytes,
        uid: 0,
        mode: FILE_MODE,
        modified_s: 0,
    }
}

impl Files for ProcessFiles {
    fn make_cage(&self, cage: &Cage<'_>) -> io::Result<()> {
        for path in cage.devices {
            let outside = cage.folder.join(path.trim_start_matches('/'));
            self.create_folder(outside.parent().unwrap_or(cage.folder))?;
            self.write(&outside, b"")?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let disk = self.disk()?;
        let bytes = &disk.files.get(path).ok_or(ErrorKind::NotFound)?.bytes;
        if bytes.len() as u64 > max_bytes {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(bytes.clone())
    }

    fn open(&self, path: &Path, opening: &Opening<'_>) -> io::Result<OpenFile> {
        let disk = self.disk()?;
        let is_beneath = |folder: &Path| {
            let inner = path.strip_prefix(folder);
            inner.is_ok_and(|inner| !inner.iter().any(|part| part == ".."))
        };
        if opening.beneath.is_some_and(|folder| !is_beneath(folder)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let facts = disk.facts(path)?;
        opening.accepts.check(facts.kind)?;
        match facts.kind {
            FileKind::Block(number) if opening.is_exclusive && disk.claimed.contains(&number) => {
                return Err(ErrorKind::ResourceBusy.into());
            }
            _ => {}
        }
        let bytes = disk.files.get(path).map(|file| file.bytes.clone());
        let bytes = bytes.unwrap_or_default();
        Ok(OpenFile::in_memory(path, facts, opening.is_writable, bytes))
    }

    fn keep_in_memory(&self, name: &str, bytes: &[u8]) -> io::Result<OpenFile> {
        // Refuses the dead.
        drop(self.disk()?);
        let facts = facts_of_kind(FileKind::Regular, 0, bytes.len() as u64);
        let path = Path::new(name);
        Ok(OpenFile::in_memory(path, facts, false, bytes.to_vec()))
    }

    fn listen(&self, path: &Path) -> io::Result<OpenFile> {
        let mut disk = self.disk()?;
        disk.needs_folder_of(path)?;
        disk.file(path).bytes.clear();
        let facts = facts_of_kind(FileKind::Other, 0, 0);
        Ok(OpenFile::in_memory(path, facts, true, Vec::new()))
    }

    fn make_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.needs_folder_of(path)?;
        if disk.files.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let target = target.as_os_str().as_encoded_bytes();
        disk.file(path).bytes = [LINK, target].concat();
        Ok(())
    }

    fn target_of_link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let disk = self.disk()?;
        let bytes = &disk.files.get(path).ok_or(ErrorKind::NotFound)?.bytes;
        let target = bytes.strip_prefix(LINK);
        Ok(target.map(|target| String::from_utf8_lossy(target).into_owned().into()))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.needs_folder_of(path)?;
        disk.file(path).bytes = bytes.to_vec();
        Ok(())
    }

    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let mut disk = self.disk()?;
        disk.needs_folder_of(path)?;
        let inode = disk.file(path).inode;
        Ok(Box::new(MemAppend {
            files: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.needs_folder_of(to)?;
        let bytes = disk.files.remove(from).ok_or(ErrorKind::NotFound)?;
        disk.files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.disk()?.files.remove(path);
        removed.map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        if !disk.folders.contains(path) {
            return Err(ErrorKind::NotFound.into());
        }
        disk.files.retain(|file, _| !file.starts_with(path));
        disk.folders.retain(|folder| !folder.starts_with(path));
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.disk()?.make_folder(path);
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk()?;
        if !disk.folders.contains(folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = disk.files.keys().chain(&disk.folders);
        Ok(inside
            .filter(|path| path.parent() == Some(folder))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(self.disk()?.free_bytes.unwrap_or(u64::MAX))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.disk()?.sync(path)
    }

    /// Takes the lock without waiting. A simulator of several processes does the waiting ([`ProcessFiles::held`]).
    fn lock(&self, path: &Path, _deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>> {
        let mut disk = self.disk()?;
        disk.make_folder(path.parent().unwrap_or(Path::new("/")));
        let inode = disk.file(path).inode;
        if !disk.locked.insert(inode) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemLock {
            files: self.clone(),
            path: path.to_owned(),
            inode,
            is_left: false,
        })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let disk = self.disk()?;
        let file = disk.files.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(disk.locked.contains(&file.inode))
    }
}

struct MemAppend {
    files: ProcessFiles,
    inode: u64,
}

impl MemAppend {
    /// Changes the contents. A removed file still takes changes, but no path leads to it.
    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.files.disk()?;
        let mut files = disk.files.values_mut();
        if let Some(file) = files.find(|file| file.inode == self.inode) {
            change(&mut file.bytes);
        }
        Ok(())
    }
}

impl Append for MemAppend {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.change(|file| file.extend_from_slice(bytes))
    }

    fn cut_to(&mut self, size_bytes: u64) -> io::Result<()> {
        let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        self.change(|file| file.truncate(size))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.files.disk()?;
        let mut files = disk.files.values();
        let file = files.find(|file| file.inode == self.inode);
        if let Some((inode, bytes)) = file.map(|file| (file.inode, file.bytes.clone())) {
            disk.durable.bytes.insert(inode, bytes);
        }
        Ok(())
    }
}

struct MemLock {
    files: ProcessFiles,
    path: PathBuf,
    inode: u64,
    is_left: bool,
}

impl Lock for MemLock {
    fn leave(mut self: Box<Self>) {
        self.is_left = true;
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut disk = locked(&self.files.disk);
        disk.locked.remove(&self.inode);
        if self.files.life.lives() && !self.is_left {
            disk.files.remove(&self.path);
        }
    }
}

/// A clock that moves only by [`VirtualClock::advance`]. Clones share the same clock.
#[derive(Clone, Debug)]
pub struct VirtualClock {
    start: Instant,
    passed_ns: Arc<AtomicU64>,
}

/// Wall clock at the start of a virtual clock: 1 January 2026, in seconds since 1970.
const CALENDAR_START_S: u64 = 1_767_225_600;
/// Uptime of the host at the start of a virtual clock, in seconds.
const UPTIME_START_S: u64 = 1000;

impl Default for VirtualClock {
    fn default() -> Self {
        VirtualClock {
            start: Instant::now(),
            passed_ns: Arc::default(),
        }
    }
}

impl VirtualClock {
    /// A clock at its start.
    pub fn new() -> VirtualClock {
        VirtualClock::default()
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.passed_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Time since the clock's start.
    pub fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed_ns.load(Ordering::Relaxed))
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        self.start + self.passed()
    }

    fn calendar(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(CALENDAR_START_S) + self.passed()
    }

    fn since_boot_s(&self) -> u64 {
        UPTIME_START_S + self.passed().as_secs()
    }

    fn wait_until(&self, deadline: Instant) {
        self.advance(deadline.saturating_duration_since(self.now()));
    }

    /// A process that is alone: nothing comes that is not there.
    fn wait_for(&self, awaited: Vec<Readiness<'_>>, deadline: Instant) -> io::Result<()> {
        for one in &awaited {
            if one.is_now()? {
                return Ok(());
            }
        }
        self.wait_until(deadline);
        Ok(())
    }
}

/// A simulated process. Its UUIDs are the same in every run.
#[derive(Debug)]
pub struct MemProcess {
    life: Life,
    uuids: Cell<u64>,
}

impl MemProcess {
    /// The process that `life` describes.
    pub fn new(life: &Life) -> MemProcess {
        MemProcess {
            life: life.clone(),
            uuids: Cell::new(0),
        }
    }
}

impl Process for MemProcess {
    fn id(&self) -> u32 {
        self.life.id
    }

    fn is_running(&self, id: u32) -> bool {
        id == self.life.id && self.life.lives()
    }

    fn started_ticks(&self, id: u32) -> Option<u64> {
        self.is_running(id).then_some(u64::from(id))
    }

    fn new_uuid(&self) -> [u8; 16] {
        let number = self.uuids.replace(self.uuids.get() + 1);
        let unique = (u128::from(self.life.id) << 64) | u128::from(number);
        uuid::Builder::from_random_bytes(unique.to_be_bytes())
            .into_uuid()
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_loses_what_was_not_synced() {
        let disk = MemFiles::new();
        let files = disk.of(&Life::new(1));
        let at = |name: &str| Path::new("/var/lib").join(name);
        crate::create_folder_durably(&files, Path::new("/var/lib")).unwrap();
        crate::write_durably(&files, &at("kept.new"), &at("kept"), b"1").unwrap();
        files.write(&at("named"), b"2").unwrap();
        files.sync(Path::new("/var/lib")).unwrap();
        files.write(&at("new"), b"3").unwrap();
        files.sync(&at("new")).unwrap();
        files.write(&at("kept"), b"4").unwrap();
        disk.lose_power();
        assert_eq!(disk.paths(), [at("kept"), at("named")]);
        assert_eq!(disk.contents(&at("kept")).unwrap(), b"1");
        assert_eq!(disk.contents(&at("named")).unwrap(), b"");
        files.create_folder(Path::new("/var/new")).unwrap();
        files.write(Path::new("/var/new/f"), b"5").unwrap();
        files.sync(Path::new("/var/new/f")).unwrap();
        files.sync(Path::new("/var/new")).unwrap();
        disk.lose_power();
        assert_eq!(disk.paths(), [at("kept"), at("named")]);
    }
}
