//! Loop devices: block devices whose contents are a file. [`LoopDevices`] is the port.
//!
//! A device with `is_autoclear` exists as long as a process or the kernel has it open. So the toolstack holds it
//! ([`AttachedLoop`]) until a backend has it open, and then drops the handle. When the backend closes the device, the kernel
//! detaches it. A process that dies between leaves nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::open::{DeviceNumber, FileId, OpenFile};

/// Maximum size of a label in bytes, without the NUL that follows it.
pub const LABEL_MAX_BYTES: usize = 63;

/// The port to loop devices. `xen-sys` has the real one, and [`crate::mem`] one in memory.
pub trait LoopDevices: fmt::Debug {
    /// Attaches a file to a free loop device that is not in [`LoopRequest::but`]. Tries the next device when another process takes the free
    /// one first.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a label that is too long or contains a NUL, and for a file that cannot be
    /// attached. [`io::ErrorKind::ResourceBusy`] if other processes took every device. Otherwise the system's error.
    fn attach(&self, request: &LoopRequest<'_>) -> io::Result<AttachedLoop>;

    /// All attached loop devices, in the order of their numbers.
    ///
    /// # Errors
    /// The system's error. A device that goes while the list is made is not in the list.
    fn list(&self) -> io::Result<Vec<LoopDevice>>;

    /// The attached loop device of a number; `None` if it has no file.
    ///
    /// # Errors
    /// The system's error.
    fn find(&self, number: u32) -> io::Result<Option<LoopDevice>> {
        let mut all = self.list()?.into_iter();
        Ok(all.find(|device| device.number == number))
    }

    /// Detaches a device if it still belongs to this file. Returns whether it did. The kernel detaches a device that is
    /// open elsewhere when it is closed.
    ///
    /// # Errors
    /// The system's error. A device that is not attached is no error.
    fn detach(&self, number: u32, backing: FileId) -> io::Result<bool>;
}

/// A file to attach, and how.
#[derive(Clone, Copy, Debug)]
pub struct LoopRequest<'a> {
    /// The file. Without write access the device is read-only.
    pub file: &'a OpenFile,
    /// Whether the device refuses writes.
    pub is_read_only: bool,
    /// Whether to pass the host's page cache by. A file system without direct I/O gets buffered I/O:
    /// [`LoopFacts::uses_direct_io`] says which.
    pub wants_direct_io: bool,
    /// First byte of the file that the device shows.
    pub offset_bytes: u64,
    /// Maximum size of the device; `None` for the rest of the file.
    pub size_limit_bytes: Option<u64>,
    /// Whether the kernel detaches the device when its last user closes it.
    pub is_autoclear: bool,
    /// A text that [`LoopDevice::label`] shows, such as the VM's UUID and the disk's name. At most [`LABEL_MAX_BYTES`].
    pub label: &'a str,
    /// Devices that are not taken, though no file is attached to them.
    pub but: &'a [u32],
}

impl<'a> LoopRequest<'a> {
    /// A whole file as a device that goes with its last user. It uses direct I/O where possible.
    pub fn whole(file: &'a OpenFile, is_read_only: bool, label: &'a str) -> LoopRequest<'a> {
        LoopRequest {
            file,
            is_read_only,
            wants_direct_io: true,
            offset_bytes: 0,
            size_limit_bytes: None,
            is_autoclear: true,
            label,
            but: &[],
        }
    }

    /// The label's bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the kernel cannot keep it.
    pub fn label_bytes(&self) -> io::Result<&'a [u8]> {
        let bytes = self.label.as_bytes();
        match bytes.len() <= LABEL_MAX_BYTES && !bytes.contains(&0) {
            true => Ok(bytes),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the label `{}` of a loop device has more than {LABEL_MAX_BYTES} bytes or a NUL",
                    self.label.escape_debug()
                ),
            )),
        }
    }
}

/// An attached device that this process holds open.
#[derive(Debug)]
pub struct AttachedLoop {
    facts: LoopFacts,
    hold: Box<dyn HeldLoop>,
}

/// An open loop device. The drop closes it.
pub trait HeldLoop: fmt::Debug {}

/// The kernel's information about a device that this process has attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LoopFacts {
    /// Number of the device: N of `/dev/loopN`.
    pub number: u32,
    /// Number of the block device.
    pub device: DeviceNumber,
    /// Whether the kernel accepted direct I/O.
    pub uses_direct_io: bool,
    /// Whether the device refuses writes.
    pub is_read_only: bool,
}

impl AttachedLoop {
    /// A device with the handle that keeps it open.
    pub fn new(facts: LoopFacts, hold: Box<dyn HeldLoop>) -> AttachedLoop {
        AttachedLoop { facts, hold }
    }

    /// The device, as the kernel describes it.
    pub fn facts(&self) -> &LoopFacts {
        &self.facts
    }

    /// Path of the block device.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.facts.number))
    }

    /// Puts the handle into another one.
    #[must_use]
    pub fn held_by(
        self,
        wrap: impl FnOnce(Box<dyn HeldLoop>) -> Box<dyn HeldLoop>,
    ) -> AttachedLoop {
        AttachedLoop {
            hold: wrap(self.hold),
            ..self
        }
    }
}

/// A loop device with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LoopDevice {
    /// Number of the device: N of `/dev/loopN`.
    pub number: u32,
    /// Identity of its file.
    pub backing: FileId,
    /// Path of its file, as the kernel shows it. Not for decisions: [`LoopDevice::backing`] is the file.
    pub backing_path: PathBuf,
    /// Whether the file has lost its name.
    pub is_backing_deleted: bool,
    /// First byte of the file that the device shows.
    pub offset_bytes: u64,
    /// Maximum size of the device; `None` for the rest of the file.
    pub size_limit_bytes: Option<u64>,
    /// Whether the device refuses writes.
    pub is_read_only: bool,
    /// Whether the kernel detaches the device when its last user closes it.
    pub is_autoclear: bool,
    /// Whether the device passes the host's page cache by.
    pub uses_direct_io: bool,
    /// The label of [`LoopRequest::label`], or what another program has put there: losetup's is a path.
    pub label: String,
}
