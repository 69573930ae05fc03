//! The ports through which the toolstack uses the operating system.
//!
//! - [`Files`]: files, folders and lock files.
//! - [`Clock`]: monotonic and wall clock.
//! - [`Process`]: the process of this program.
//! - [`Doorbells`]: one process rings at another one's. [`EventSource`] is what a process waits for.
//! - [`Spawn`]: other programs; [`Child`] is one that runs beside this process.
//! - [`KernelFiles`]: procfs and sysfs, and the processes that they show.
//! - [`LoopDevices`]: block devices whose contents are a file.
//! - [`BlockDevices`]: facts about block devices, mounts and swap.
//! - [`Links`]: network interfaces; [`Taps`]: those whose other end is a file.
//!
//! The real system is behind [`SystemFiles`], [`SystemClock`], [`SystemProcess`], [`SystemDoorbells`],
//! [`SystemBlockDevices`] and [`SystemLinks`]; the real [`Spawn`], [`LoopDevices`] and [`Taps`] are in `xen-sys`. The feature `mem` adds a system in memory. There a test can watch each call, let it fail, or kill the
//! process at it.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod block;
mod cage;
mod doorbell;
mod kernel;
mod launch;
mod links;
mod loops;
mod netlink;
mod open;
mod process;
mod system;
mod taps;
mod wait;
mod way;

#[cfg(feature = "mem")]
pub mod mem;

pub use block::{BlockDevice, BlockDevices, Mount, SystemBlockDevices};
pub use cage::Cage;
pub use doorbell::{CALLERS_MAX, Call, Doorbell, Doorbells, Heard, SystemDoorbells};
pub use kernel::{KernelFiles, SystemKernelFiles};
pub use launch::{
    ANSWER_INSIDE, Bounds, DISK_INSIDE, ERRORS_MAX_BYTES, EXTRACTED_FILES_MAX, Ended, Extracted,
    Extraction, FILES_MAX, FIRST_FILE, Given, Launch, OUTPUT_INSIDE, SAID_MAX_BYTES,
    SYSTEM_FOLDERS, Spawn, run_to_success,
};
pub use links::{Link, LinkChange, LinkIndex, LinkName, Links};
pub use loops::{
    AttachedLoop, HeldLoop, LABEL_MAX_BYTES, LoopDevice, LoopDevices, LoopFacts, LoopRequest,
};
pub use netlink::SystemLinks;
#[cfg(feature = "mem")]
pub use open::Lease;
pub use open::{Accepts, DeviceNumber, FileFacts, FileId, FileKind, OpenFile, Opening, WrongKind};
pub use process::{Child, ChildEnd, HeldProcess, ProcessSignal, ends_within, send_by_pidfd};
pub use system::{SystemClock, SystemFiles, SystemProcess, lock_for_child, lock_of_stdin};
pub use taps::Taps;
pub use wait::{Arrival, EventSource, Readiness};
pub use way::{UntrustedProgram, UntrustedWay};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
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
    /// Opens a file that others name, so that its descriptor can be handed on. Refuses other kinds of files with
    /// [`io::ErrorKind::InvalidInput`], which contains [`WrongKind`]. Never opens a FIFO or a character device.
    fn open(&self, path: &Path, opening: &Opening<'_>) -> io::Result<OpenFile>;
    /// A file with these contents that is in memory alone, has no path, and cannot be changed. `name` is for people.
    ///
    /// # Errors
    /// The system's error.
    fn keep_in_memory(&self, name: &str, bytes: &[u8]) -> io::Result<OpenFile> {
        let _ = (name, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes a Unix socket (`SOCK_STREAM`) at a path of the toolstack's own, in place of what is there, and listens. Only root can
    /// connect (mode 0600).
    ///
    /// # Errors
    /// The system's error.
    fn listen(&self, path: &Path) -> io::Result<OpenFile> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes a symbolic link. Only root may be able to change the way to it: any other is refused with
    /// [`io::ErrorKind::PermissionDenied`], which contains [`UntrustedWay`].
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if anything is there; the system's error.
    fn make_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        let _ = (path, target);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The target of a symbolic link; `None` for a file of another kind.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if nothing is there; the system's error.
    fn target_of_link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
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
    /// Number of bytes that this process can still write to the file system of a folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let _ = folder;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Syncs a file's contents or a folder's names. After it returns, they survive a power cut.
    ///
    /// A new name is part of its folder. To keep a new file, sync both the file and its folder.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock of a file. Creates the file and its folders if they are missing. Waits until `deadline` for the
    /// present holder, or not at all without one. `None` if the lock is still held.
    ///
    /// The file exists while the lock is held. If the holder dies, the file stays and the lock is free.
    fn lock(&self, path: &Path, deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>>;
    /// Makes the folder to which a program is confined (chroot(2)). What is there of it already stays.
    ///
    /// # Errors
    /// The system's error.
    fn make_cage(&self, cage: &Cage<'_>) -> io::Result<()> {
        let _ = cage;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether a process holds the lock of a lock file. This call does not open the file for writing, so inotify
    /// watchers of closed files see nothing.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// The ports to devices of this host that the toolstack sets up for guests.
#[derive(Clone, Debug)]
pub struct HostDevices {
    /// Port to loop devices.
    pub loops: Rc<dyn LoopDevices>,
    /// Port to facts about block devices.
    pub blocks: Rc<dyn BlockDevices>,
    /// Port to network interfaces.
    pub links: Rc<dyn Links>,
    /// Port to taps.
    pub taps: Rc<dyn Taps>,
}

/// The reasons why a file must not decide about safety.
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
    /// Sleeps until `deadline`.
    fn wait_until(&self, deadline: Instant);
    /// Waits until one of these has something, but not beyond `deadline`. May return earlier: the caller looks at its
    /// sources and the clock. A simulated clock takes no descriptors.
    ///
    /// # Errors
    /// The system's error.
    fn wait_for(&self, awaited: Vec<Readiness<'_>>, deadline: Instant) -> io::Result<()>;
}

/// The process of this program.
pub trait Process {
    /// Process ID (PID) of this process.
    fn id(&self) -> u32;
    /// Whether a process with this PID exists.
    fn is_running(&self, id: u32) -> bool;
    /// Start time of the process with this PID, in clock ticks since the start of the host. `None` if there is no such
    /// process, or this one may not know.
    fn started_ticks(&self, id: u32) -> Option<u64>;
    /// A new random UUID.
    fn new_uuid(&self) -> [u8; 16];
    /// Called before a long wait, so that the process can give memory back.
    fn rest(&self) {}
    /// Whether this process has the right to change network interfaces, as far as it has not given it up.
    fn may_change_links(&self) -> bool {
        true
    }
    /// Whether this process has the right to make taps, as far as it has not given it up.
    fn may_make_taps(&self) -> bool {
        true
    }
    /// Whether this process has the right to start QEMU as another user, as far as it has not given it up.
    fn may_start_qemu(&self) -> bool {
        true
    }
    /// Whether this process has the right to start a QEMU that shows a display, as far as it has not given it up.
    fn may_show_displays(&self) -> bool {
        true
    }
    /// Whether this process can have hot-plug scripts and boot loaders run, as far as it has not given that up.
    fn may_run_scripts(&self) -> bool {
        true
    }
}

/// A process among all that the host has had: another process may get its PID later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// Its process id (PID).
    pub pid: u32,
    /// Its start time, in clock ticks since the start of the host; `None` if that is not known.
    pub started_ticks: Option<u64>,
}

impl ProcessId {
    /// The calling process.
    pub fn own(process: &dyn Process) -> ProcessId {
        let pid = process.id();
        ProcessId {
            pid,
            started_ticks: process.started_ticks(pid),
        }
    }

    /// Whether this process runs. Where the start of one of both is not known, the PID decides.
    pub fn is_running(self, process: &dyn Process) -> bool {
        if !process.is_running(self.pid) {
            return false;
        }
        let Some(started) = self.started_ticks else {
            return true;
        };
        let now = process.started_ticks(self.pid);
        now.is_none_or(|now| now == started)
    }
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

/// Writes a file atomically and synced, through another file in the same folder. If it fails, the other file is
/// removed. The folder must exist.
///
/// # Errors
/// Error of the system, with the action and the file.
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
        // The caller gets the first error. The next write replaces the temporary file.
        let _ = remove_if_there(files, new);
    }
    written.and_then(|()| sync_folder_of(files, path))
}

/// Creates a folder and its parents. The new ones are synced when this returns.
///
/// # Errors
/// Error of the system, with the action and the folder.
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

/// A failed action on a file.
#[derive(Debug)]
pub struct FileError {
    /// The action that failed, such as `write`.
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
