//! The ports through which the toolstack uses the operating system.
//!
//! - [`Files`]: files, folders and lock files.
//! - [`Clock`]: monotonic and wall clock.
//! - [`Process`]: the process of this program.
//! - [`Spawn`]: other programs.
//!
//! The real system is behind [`SystemFiles`], [`SystemClock`] and [`SystemProcess`]; the real [`Spawn`] is in
//! `xen-sys`. The feature `mem` adds a system in memory. There a test can watch each call, let it fail, or kill the
//! process at it.

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

/// The files of the toolstack. New files have mode 0600: only root can read them.
pub trait Files {
    /// Reads a file. Refuses a file of more than `max_bytes` with [`io::ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>>;
    /// Reads a file that decides about safety. Only root and the user of this process may be able to change it.
    /// Refuses any other file with [`io::ErrorKind::PermissionDenied`], which contains [`Untrusted`].
    fn read_trusted(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.read(path, max_bytes)
    }
    /// Creates or replaces a file. A reader may see a part of it: to prevent that, write a second file and rename it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Opens a file for appending; creates it if there is none.
    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>>;
    /// Renames a file over another one. Readers see the old or the new file, never a state between.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes one file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and everything in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and its parents. An existing folder is no error.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in any order.
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
    /// Whether a process holds the lock of a lock file. This call does not open the file for writing, so inotify
    /// watchers of closed files see nothing.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// Why a file must not decide about safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// The owner is neither root nor the user of this process.
    OwnedBy {
        /// User id of the owner.
        uid: u32,
    },
    /// Users other than the owner can write to the file.
    WritableByOthers {
        /// Mode of the file.
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

/// A file that is open for appending.
pub trait Append {
    /// Appends bytes with one `write` call. A failed call may have written a part: [`Append::cut_to`] removes it.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to its first `size_bytes` bytes.
    fn cut_to(&mut self, size_bytes: u64) -> io::Result<()>;
    /// Waits until the disk has all appended bytes.
    fn sync(&mut self) -> io::Result<()>;
}

/// A held lock. Dropping it removes its file and frees the lock.
pub trait Lock {
    /// Frees the lock but keeps its file, as the death of the process would.
    fn leave(self: Box<Self>);
}

/// The clocks of the system.
pub trait Clock {
    /// The monotonic clock, for deadlines.
    fn now(&self) -> Instant;
    /// The wall clock, for dates in files and messages.
    fn calendar(&self) -> SystemTime;
    /// Seconds since the start of the host (`CLOCK_MONOTONIC`), equal in all processes.
    fn since_boot_s(&self) -> u64;
    /// Sleeps until `deadline`. Callers use it after their own wait for an event had no result.
    fn wait_until(&self, deadline: Instant);
}

/// The process of this program.
pub trait Process {
    /// Its process id (PID).
    fn id(&self) -> u32;
    /// Whether a process with this PID exists.
    fn is_running(&self, id: u32) -> bool;
    /// A new random UUID.
    fn new_uuid(&self) -> [u8; 16];
    /// Called before a long wait, so that the process can give memory back.
    fn rest(&self) {}
}

/// Removes a file; a missing file is no error.
pub fn remove_if_there(files: &dyn Files, path: &Path) -> io::Result<()> {
    fine_if_absent(files.remove(path))
}

/// Removes a folder and everything in it; a missing folder is no error.
pub fn remove_folder_if_there(files: &dyn Files, path: &Path) -> io::Result<()> {
    fine_if_absent(files.remove_folder(path))
}

/// The names in a folder; empty if the folder is missing.
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
    /// Error of the operating system.
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
