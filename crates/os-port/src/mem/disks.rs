//! Loop devices, block devices and mounts in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Life, MemFiles};
use crate::block::{BlockDevice, BlockDevices, Mount};
use crate::loops::{AttachedLoop, HeldLoop, LoopDevice, LoopDevices, LoopFacts, LoopRequest};
use crate::open::{DeviceNumber, FileId, FileKind};

/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// Bytes of a sector: a device is a number of whole sectors.
const SECTOR_BYTES: u64 = 512;

/// The block devices of a simulated host. Clones share the same devices.
#[derive(Clone, Debug)]
pub struct MemDisks {
    state: Arc<Mutex<State>>,
    /// The disk with the images; `None` if they are on a real one.
    files: Option<MemFiles>,
}

#[derive(Debug, Default)]
struct State {
    loops: BTreeMap<u32, MemLoop>,
    /// Number of users of loop devices without a file.
    bare: BTreeMap<u32, u32>,
    devices: BTreeMap<DeviceNumber, BlockDevice>,
    mounts: Vec<Mount>,
    swaps: Vec<PathBuf>,
    refuses_direct_io: bool,
}

#[derive(Debug)]
struct MemLoop {
    device: LoopDevice,
    size_bytes: u64,
    /// Number of processes and backends that have it open.
    users: u32,
}

impl MemDisks {
    /// A host without block devices. `files` is its disk.
    pub fn new(files: &MemFiles) -> MemDisks {
        MemDisks {
            state: Arc::default(),
            files: Some(files.clone()),
        }
    }

    /// A host without block devices whose images are on a real disk.
    pub fn of_real_files() -> MemDisks {
        MemDisks {
            state: Arc::default(),
            files: None,
        }
    }

    /// The devices with the rights of one process.
    pub fn of(&self, life: &Life) -> ProcessDisks {
        ProcessDisks {
            disks: self.clone(),
            life: life.clone(),
        }
    }

    /// Adds a device, and its node at a path of the disk in memory.
    pub fn put_device(&self, path: &Path, device: BlockDevice) {
        if let Some(files) = &self.files {
            files.put_device(path, device.number);
        }
        self.state().devices.insert(device.number, device);
    }

    /// Sets all mounts of the host.
    pub fn set_mounts(&self, mounts: Vec<Mount>) {
        self.state().mounts = mounts;
    }

    /// Sets all swap files and devices of the host.
    pub fn set_swaps(&self, swaps: Vec<PathBuf>) {
        self.state().swaps = swaps;
    }

    /// Sets whether the file system of each image has no direct I/O.
    pub fn set_refuses_direct_io(&self, refuses: bool) {
        self.state().refuses_direct_io = refuses;
    }

    /// All attached loop devices, in the order of their numbers.
    pub fn loops(&self) -> Vec<LoopDevice> {
        let state = self.state();
        let devices = state.loops.values();
        devices.map(|one| self.shown(&one.device)).collect()
    }

    /// Opens a loop device as a backend of the kernel does, with a file or without. The drop of the answer closes it.
    pub fn open_loop(&self, number: u32) -> LoopUser {
        let mut state = self.state();
        match state.loops.get_mut(&number) {
            Some(one) => one.users += 1,
            None => *state.bare.entry(number).or_default() += 1,
        }
        LoopUser {
            disks: self.clone(),
            number,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device as the kernel shows it now: its file may have lost its name.
    fn shown(&self, device: &LoopDevice) -> LoopDevice {
        let inode = device.backing.inode;
        let files = self.files.as_ref();
        LoopDevice {
            is_backing_deleted: files.is_some_and(|files| !files.has_inode(inode)),
            ..device.clone()
        }
    }

    fn close(&self, number: u32) {
        let mut state = self.state();
        let Some(one) = state.loops.get_mut(&number) else {
            if let Some(users) = state.bare.get_mut(&number) {
                *users = users.saturating_sub(1);
            }
            return;
        };
        one.users = one.users.saturating_sub(1);
        if one.users == 0 && one.device.is_autoclear {
            state.loops.remove(&number);
        }
    }
}

/// A user of a loop device.
#[derive(Debug)]
pub struct LoopUser {
    disks: MemDisks,
    number: u32,
}

impl HeldLoop for LoopUser {}

impl Drop for LoopUser {
    fn drop(&mut self) {
        self.disks.close(self.number);
    }
}

/// The block devices as one process sees them.
#[derive(Clone, Debug)]
pub struct ProcessDisks {
    disks: MemDisks,
    life: Life,
}

impl ProcessDisks {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        self.life.refuse_the_dead()?;
        Ok(self.disks.state())
    }
}

impl LoopDevices for ProcessDisks {
    fn attach(&self, request: &LoopRequest<'_>) -> io::Result<AttachedLoop> {
        let label = String::from_utf8_lossy(request.label_bytes()?).into_owned();
        let facts = *request.file.facts();
        if facts.kind == FileKind::Other {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut state = self.state()?;
        let is_free =
            |number: &u32| !state.loops.contains_key(number) && !request.but.contains(number);
        let number = (0..).find(is_free);
        let number = number.ok_or(ErrorKind::ResourceBusy)?;
        let left = facts.size_bytes.saturating_sub(request.offset_bytes);
        let size = request
            .size_limit_bytes
            .map_or(left, |limit| left.min(limit));
        let device = LoopDevice {
            number,
            backing: facts.id,
            backing_path: request.file.path().to_owned(),
            is_backing_deleted: false,
            offset_bytes: request.offset_bytes,
            size_limit_bytes: request.size_limit_bytes,
            is_read_only: request.is_read_only || !request.file.is_writable(),
            is_autoclear: request.is_autoclear,
            uses_direct_io: request.wants_direct_io && !state.refuses_direct_io,
            label,
        };
        let attached = LoopFacts {
            number,
            device: device_of(number),
            uses_direct_io: device.uses_direct_io,
            is_read_only: device.is_read_only,
        };
        let users = state.bare.remove(&number).unwrap_or(0);
        let one = MemLoop {
            device,
            size_bytes: size - size % SECTOR_BYTES,
            users: users + 1,
        };
        state.loops.insert(number, one);
        let user = LoopUser {
            disks: self.disks.clone(),
            number,
        };
        Ok(AttachedLoop::new(attached, Box::new(user)))
    }

    fn list(&self) -> io::Result<Vec<LoopDevice>> {
        self.life.refuse_the_dead()?;
        Ok(self.disks.loops())
    }

    fn detach(&self, number: u32, backing: FileId) -> io::Result<bool> {
        let mut state = self.state()?;
        let Some(one) = state.loops.get_mut(&number) else {
            return Ok(false);
        };
        if one.device.backing != backing {
            return Ok(false);
        }
        match one.users {
            0 => _ = state.loops.remove(&number),
            _ => one.device.is_autoclear = true,
        }
        Ok(true)
    }
}

fn device_of(number: u32) -> DeviceNumber {
    DeviceNumber {
        major: LOOP_MAJOR,
        minor: number,
    }
}

impl BlockDevices for ProcessDisks {
    fn device(&self, number: DeviceNumber) -> io::Result<Option<BlockDevice>> {
        let state = self.state()?;
        if number.major != LOOP_MAJOR {
            return Ok(state.devices.get(&number).cloned());
        }
        let attached = state.loops.get(&number.minor);
        Ok(attached.map(|one| BlockDevice {
            number,
            name: format!("loop{}", number.minor),
            size_bytes: one.size_bytes,
            is_read_only: one.device.is_read_only,
            holders: Vec::new(),
            slaves: Vec::new(),
            partitions: Vec::new(),
            disk: None,
        }))
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        Ok(self.state()?.mounts.clone())
    }

    fn swaps(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.state()?.swaps.clone())
    }
}
