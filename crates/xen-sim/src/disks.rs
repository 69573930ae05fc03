//! The ports to block devices of a process that a test can kill.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use os_port::mem::ProcessDisks;
use os_port::{
    AttachedLoop, BlockDevice, BlockDevices, DeviceNumber, FileId, HeldLoop, LoopDevice,
    LoopDevices, LoopRequest, Mount,
};

use crate::fate::Fate;
use crate::os::dead;

/// The block devices behind a fate.
#[derive(Clone, Debug)]
pub(crate) struct MortalDisks {
    pub inner: ProcessDisks,
    pub fate: Fate,
}

/// Errors of a change: no free device, no rights, no memory.
const CHANGE_ERRORS: &[ErrorKind] = &[
    ErrorKind::ResourceBusy,
    ErrorKind::PermissionDenied,
    ErrorKind::OutOfMemory,
];
/// Errors of a look.
const LOOK_ERRORS: &[ErrorKind] = &[ErrorKind::PermissionDenied, ErrorKind::Other];

impl MortalDisks {
    fn call<T>(
        &self,
        op: &str,
        errors: &[ErrorKind],
        effect: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.fate.os_call(op, errors, effect, dead)
    }
}

impl LoopDevices for MortalDisks {
    fn attach(&self, request: &LoopRequest<'_>) -> io::Result<AttachedLoop> {
        let attached = self.call("attach_loop", CHANGE_ERRORS, || self.inner.attach(request))?;
        let fate = self.fate.clone();
        Ok(attached.held_by(|inner| {
            Box::new(MortalHold {
                inner: Some(inner),
                fate,
            })
        }))
    }

    fn list(&self) -> io::Result<Vec<LoopDevice>> {
        self.call("list_loops", LOOK_ERRORS, || self.inner.list())
    }

    fn detach(&self, number: u32, backing: FileId) -> io::Result<bool> {
        if self.fate.forgets("detach_loop") {
            return self.fate.call(|| Ok(true), dead);
        }
        self.call("detach_loop", CHANGE_ERRORS, || {
            self.inner.detach(number, backing)
        })
    }
}

/// An open loop device. The kernel closes those of the dead.
#[derive(Debug)]
struct MortalHold {
    inner: Option<Box<dyn HeldLoop>>,
    fate: Fate,
}

impl HeldLoop for MortalHold {}

impl Drop for MortalHold {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let inner = std::cell::Cell::new(Some(inner));
            self.fate.call(|| drop(inner.take()), || drop(inner.take()));
        }
    }
}

impl BlockDevices for MortalDisks {
    fn device(&self, number: DeviceNumber) -> io::Result<Option<BlockDevice>> {
        self.call("block_device", LOOK_ERRORS, || self.inner.device(number))
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        self.call("mounts", LOOK_ERRORS, || self.inner.mounts())
    }

    fn swaps(&self) -> io::Result<Vec<PathBuf>> {
        self.call("swaps", LOOK_ERRORS, || self.inner.swaps())
    }
}
