//! What the toolstack asks of the operating system: files, locks, clocks, its own process, other programs.
//!
//! [`Files`], [`Clock`] and [`Process`] are ports, as `xen_port::Hypervisor` is one: behind them
//! stands the real system ([`SystemFiles`], [`SystemClock`], [`SystemProcess`]), or one in memory
//! (feature `mem`) in which every call can be watched, failed, or be the last of its process. [`Spawn`] is the port for
//! programs; the real one is in `xen-sys`.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod launch;
mod system;

#[cfg(feature = "mem")]
pub mod mem;

pub use launch::{ERRORS_MAX_BYTES, Ended, Launch, SYSTEM_FOLDERS, Spawn, run_to_success};
pub use system::{SystemClock, SystemFiles, SystemProcess, lock_for_child, lock_of_stdin};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// The files that the toolstack keeps. What it makes is for root alone: files of mode 0600.
pub trait Files {
    /// A file's contents. A file of more than `max_bytes` is refused with
    /// [`io::ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>>;
    /// The same of a file that decides what is safe: one that neither a user besides root and this process's own, nor
    /// others of its group, nor everybody can change. Another one is refused with [`io::ErrorKind::PermissionDenied`]
    /// and [`Untrusted`] inside.
    fn read_trusted(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.read(path, max_bytes)
    }
    /// Makes a file with these contents, or replaces what it held. A reader may see a part of it:
    /// whoever minds writes another file and renames that.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Opens a file to add to its end; makes it if need be.
    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>>;
    /// Gives a file another name, replacing what had it; nobody sees a state between.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it; one that is there is fine.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in no order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Returns when what a file holds, or which names a folder has, is on the disk: it outlives a power cut from then on.
    ///
    /// A new name is in its folder: to keep a new file, both it and its folder are synced.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock that a file stands for, making file and folders if need be. Waits until
    /// `deadline` for whoever holds it, or not at all without one; `None` if it is held still.
    ///
    /// The file is there as long as the lock is held, and is left over by a holder that died:
    /// then the lock is free.
    fn lock(&self, path: &Path, deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>>;
    /// Whether somebody holds the lock that a file stands for. Looking leaves no trace: the file is not
    /// opened for writing, so whoever is told of files that are closed after that (inotify) hears nothing.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// Why a file does not decide what is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// It belongs to a user that is neither root nor this process's own.
    OwnedBy {
        /// The user's number.
        uid: u32,
    },
    /// Others than its owner can write to it.
    WritableByOthers {
        /// Its permissions.
        mode: u32,
    },
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnedBy { uid } => {
                write!(f, "user {uid} owns it, not root: `chown root` it")
            }
            Self::WritableByOthers { mode } => {
                let mode = mode & 0o7777;
                write!(
                    f,
                    "others can write to it (mode {mode:04o}): `chmod go-w` it"
                )
            }
        }
    }
}

impl std::error::Error for Untrusted {}

impl From<Untrusted> for io::Error {
    fn from(why: Untrusted) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, why)
    }
}

/// A file that is added to.
pub trait Append {
    /// Adds to the end, in one `write` call.
    ///
    /// One that fails may have added a part of it: [`Append::cut_to`] removes that.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Removes what stands behind the first `size_bytes` of the file.
    fn cut_to(&mut self, size_bytes: u64) -> io::Result<()>;
    /// Returns when all that was added is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// A lock that is held. Dropping it removes its file and frees it.
pub trait Lock {
    /// Frees the lock and leaves its file where it is, as the death of its holder would.
    fn leave(self: Box<Self>);
}

/// The clocks.
pub trait Clock {
    /// The clock that deadlines are set by.
    fn now(&self) -> Instant;
    /// The calendar's.
    fn calendar(&self) -> SystemTime;
    /// Seconds since the host was started (`CLOCK_MONOTONIC`), the same for all processes.
    fn since_boot_s(&self) -> u64;
    /// Returns when `deadline` has passed. For whoever waited in vain for something else until then.
    fn wait_until(&self, deadline: Instant);
}

/// The process that this program runs in.
pub trait Process {
    /// Its number.
    fn id(&self) -> u32;
    /// Whether a process of that number runs.
    fn is_running(&self, id: u32) -> bool;
    /// A new UUID, made by chance.
    fn new_uuid(&self) -> [u8; 16];
    /// This process is about to wait for long: it may give back what it can have again.
    fn rest(&self) {}
}

/// Removes a file; one that is not there is fine.
pub fn remove_if_there(files: &dyn Files, path: &Path) -> io::Result<()> {
    fine_if_absent(files.remove(path))
}

/// Removes a folder with all that is in it; one that is not there is fine.
pub fn remove_folder_if_there(files: &dyn Files, path: &Path) -> io::Result<()> {
    fine_if_absent(files.remove_folder(path))
}

/// The names in a folder; none where there is no such folder.
pub fn list_if_there(files: &dyn Files, folder: &Path) -> io::Result<Vec<String>> {
    match files.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Writes a file, whole or not at all, by way of another one in the same folder, which goes when that fails. When this
/// returns, the file is on the disk. The folder must be there.
///
/// # Errors
/// The system's, with what was tried and on which file.
pub fn write_durably(
    files: &dyn Files,
    new: &Path,
    path: &Path,
    bytes: &[u8],
) -> Result<(), FileError> {
    let written = files
        .write(new, bytes)
        .map_err(FileError::of("write", new))
        .and_then(|()| files.sync(new).map_err(FileError::of("sync", new)))
        .and_then(|()| {
            let renamed = files.rename(new, path);
            renamed.map_err(FileError::of("rename", path))
        });
    if written.is_err() {
        // That it failed is told; what stays of it, the next who writes replaces.
        let _ = remove_if_there(files, new);
    }
    written.and_then(|()| sync_folder_of(files, path))
}

/// Makes a folder and those above it. When this returns, those that are new are on the disk.
///
/// # Errors
/// The system's, with what was tried and on which folder.
pub fn create_folder_durably(files: &dyn Files, folder: &Path) -> Result<(), FileError> {
    let is_new = |folder: &&Path| {
        let listed = files.list(folder);
        listed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let new: Vec<&Path> = folder.ancestors().take_while(is_new).collect();
    files
        .create_folder(folder)
        .map_err(FileError::of("create folder", folder))?;
    new.into_iter()
        .try_for_each(|folder| sync_folder_of(files, folder))
}

/// Returns when a name is in its folder on the disk.
fn sync_folder_of(files: &dyn Files, path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    files.sync(folder).map_err(FileError::of("sync", folder))
}

/// What could not be done with a file.
#[derive(Debug)]
pub struct FileError {
    /// What was tried, such as `write`.
    pub op: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    fn of(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { op, path, source }
    }
}

fn fine_if_absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
