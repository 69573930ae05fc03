//! Linux's Xen drivers as files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use xen_port::{HvError, Result};

/// A driver's device file, and its path for error texts.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    path: &'static str,
}

impl Device {
    /// Opens `path` for reading and writing; `flags` as of `open`, close-on-exec is always set.
    pub(crate) fn open(path: &'static str, flags: i32) -> Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | flags)
            .open(path);
        opened
            .map(|file| Self { file, path })
            .map_err(|source| open_error(Path::new(path), source))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// `op` on this device failed with `source`.
    pub(crate) fn error(&self, op: &'static str, source: io::Error) -> HvError {
        HvError::Driver {
            path: PathBuf::from(self.path),
            op,
            source,
        }
    }

    /// An ioctl whose argument is `argument`, tried again when a signal interrupts it. Returns what the driver returns.
    ///
    /// # Safety
    /// `T` is the structure of `request`, and every address in it is valid for what the driver does there.
    pub(crate) unsafe fn ioctl<T>(&self, request: u64, argument: &mut T) -> io::Result<i32> {
        let argument: *mut T = argument;
        // SAFETY: the caller vouches for the structure and what it points to.
        unsafe { self.ioctl_at(request, argument.cast()) }
    }

    /// Like `ioctl`, for an argument of varying size at `argument`.
    ///
    /// # Safety
    /// The memory that the driver reads and writes from `argument` on is valid for that.
    pub(crate) unsafe fn ioctl_at(
        &self,
        request: u64,
        argument: *mut libc::c_void,
    ) -> io::Result<i32> {
        loop {
            // SAFETY: the file is open; the caller vouches for the argument.
            let result =
                unsafe { libc::ioctl(self.file.as_raw_fd(), request as libc::Ioctl, argument) };
            if result >= 0 {
                return Ok(result);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

fn open_error(path: &Path, source: io::Error) -> HvError {
    let path = path.to_owned();
    match source.raw_os_error() {
        // ENODEV and ENXIO: the node is there, the driver is not.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => HvError::NotXen { path },
        Some(libc::EACCES | libc::EPERM) => HvError::Permission { path },
        _ => HvError::Driver {
            path,
            op: "open",
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_means_no_xen_and_a_refused_one_no_permission() {
        let error = |number| {
            open_error(
                Path::new("/dev/xen/privcmd"),
                io::Error::from_raw_os_error(number),
            )
        };
        assert!(matches!(error(libc::ENOENT), HvError::NotXen { .. }));
        assert!(matches!(error(libc::ENODEV), HvError::NotXen { .. }));
        assert!(matches!(error(libc::EACCES), HvError::Permission { .. }));
        assert!(matches!(
            error(libc::EMFILE),
            HvError::Driver { op: "open", .. }
        ));
        assert!(Device::open("/nonexistent/privcmd", 0).is_err());
    }
}
