//! procfs and sysfs: what the host's kernel shows of its processes and devices. [`KernelFiles`] is the port.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Uid;

use crate::open::{Accepts, Opening};
use crate::process::{HeldProcess, SystemHeld};

/// Maximum number of bytes that are read of one file. `maps` of a process can be large.
const FILE_MAX_BYTES: u64 = 16 << 20;

/// The port to procfs and sysfs, which is read but for [`KernelFiles::write`]: paths begin with `/proc` or `/sys`. `/etc/passwd` is read by it too, for the users of
/// processes.
pub trait KernelFiles: fmt::Debug {
    /// Reads a file, but not more than 16 MiB of it.
    ///
    /// # Errors
    /// The system's error.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes to a file of sysfs that is there, with one call of the kernel, which does at once what the bytes ask for.
    ///
    /// # Errors
    /// The system's error: the kernel's answer.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let _ = (path, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// The target of a symbolic link, such as `/proc/PID/fd/1`.
    ///
    /// # Errors
    /// The system's error.
    fn link(&self, path: &Path) -> io::Result<PathBuf>;

    /// Whether there is something at a path.
    fn exists(&self, path: &Path) -> bool;

    /// Whether a process of this user may be there. A look at one number, in place of all processes. A process that has ended counts
    /// until its parent has looked at it.
    fn may_have_process_of(&self, uid: u32) -> bool;

    /// The last `max_bytes` bytes of the file behind a process's descriptor. It is that file, even if its path now names
    /// another one.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] unless it is a regular file, and [`io::ErrorKind::PermissionDenied`] unless this
    /// process's user owns it; otherwise the system's error.
    fn read_end_of_own(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>>;

    /// Holds the process that has this PID now; `None` if there is none.
    ///
    /// # Errors
    /// The system's error.
    fn hold(&self, pid: u32) -> io::Result<Option<Box<dyn HeldProcess>>>;
}

/// The procfs and sysfs of the real system.
#[derive(Clone, Debug)]
pub struct SystemKernelFiles {
    root: PathBuf,
}

impl SystemKernelFiles {
    /// The folders of this host.
    pub fn system() -> SystemKernelFiles {
        SystemKernelFiles::below(Path::new("/"))
    }

    /// The same folders below `root`.
    pub fn below(root: &Path) -> SystemKernelFiles {
        SystemKernelFiles {
            root: root.to_owned(),
        }
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl KernelFiles for SystemKernelFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.place(path))?
            .take(FILE_MAX_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.place(path))?;
        match file.write(bytes)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.place(folder))?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string()));
        let names: io::Result<Vec<_>> = names.collect();
        Ok(names?.into_iter().flatten().collect())
    }

    fn link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(self.place(path))
    }

    fn exists(&self, path: &Path) -> bool {
        self.place(path).exists()
    }

    /// By the priority of the user's processes (getpriority(2)), which only a user with processes has.
    fn may_have_process_of(&self, uid: u32) -> bool {
        let is_system = self.root == Path::new("/");
        let priority = rustix::process::getpriority_user(Uid::from_raw(uid));
        !is_system || priority.err() != Some(Errno::SRCH)
    }

    fn read_end_of_own(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let opening = Opening {
            accepts: Accepts::Regular,
            is_writable: false,
            is_exclusive: false,
            beneath: None,
            is_guarded: false,
        };
        let opened = crate::open::open(&self.place(path), &opening)?;
        if opened.facts().uid != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let descriptor = opened.descriptor().ok_or(io::ErrorKind::InvalidInput)?;
        let mut file = File::from(descriptor.try_clone_to_owned()?);
        let start = opened.facts().size_bytes.saturating_sub(max_bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn hold(&self, pid: u32) -> io::Result<Option<Box<dyn HeldProcess>>> {
        let held = SystemHeld::of(pid)?;
        Ok(held.map(|held| Box::new(held) as Box<dyn HeldProcess>))
    }
}
