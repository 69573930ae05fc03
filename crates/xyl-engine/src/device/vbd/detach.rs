//! The parts of a disk on the host beside its nodes, and how they go.

use std::path::{Path as FilePath, PathBuf};
use std::time::Instant;

use os_port::{DeviceNumber, FileId, Opening};
use xenstore::{Batch, Tree};

use super::{ATTRIBUTE_MAX_BYTES, CLOSE_PAUSE, KIND, SCRIPT_END};
use crate::device::bus::{self, Device};
use crate::device::disk_users;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// The parts of disks on the host that outlive their nodes for a moment. blkback reports a disk as closed before it closes
/// the block device.
pub(super) struct Left {
    /// Folders in sysfs, each of which is there while the driver has the disk.
    drivers: Vec<PathBuf>,
    /// Loop devices that the kernel detaches when blkback closes them.
    loops: Vec<(u32, FileId)>,
    /// The other block devices. blkback can let go of one while requests are under way (`xen_blkbk_remove` of Linux).
    blocks: Vec<DeviceNumber>,
}

impl Left {
    /// Finds them while the nodes are there. Loop devices of xl's script are detached: a later step could not find them.
    pub(super) fn of(host: &mut Host, devices: &[Device]) -> Result<Left, EngineError> {
        let loops = loops_of_xl(host, devices)?;
        loops.iter().try_for_each(|one| one.detach(host))?;
        let mut left = Left {
            drivers: devices.iter().map(|one| one.driver_folder(host)).collect(),
            loops: Vec::new(),
            blocks: Vec::new(),
        };
        for served in served(host, devices)? {
            if served != disk_users::loop_number(served.minor) {
                left.blocks.push(served);
                continue;
            }
            let found = host.devices.loops.find(served.minor);
            let found = found
                .map_err(|source| EngineError::io("read", FilePath::new("/sys/block"), source))?;
            let own = found.filter(|one| one.is_autoclear);
            left.loops.extend(own.map(|one| (one.number, one.backing)));
        }
        Ok(left)
    }

    /// Waits until the block devices are closed, and have been without requests once, but not longer than the deadline.
    pub(super) fn await_gone(
        mut self,
        host: &mut Host,
        deadline: Instant,
    ) -> Result<(), EngineError> {
        while self.is_there(host)? && host.clock.now() < deadline {
            host.wait_for(&[], CLOSE_PAUSE)?;
        }
        Ok(())
    }

    pub(super) fn is_there(&mut self, host: &Host) -> Result<bool, EngineError> {
        for folder in &self.drivers {
            let path = folder.join("physical_device");
            match host.files.read(&path, ATTRIBUTE_MAX_BYTES) {
                Ok(_) => return Ok(true),
                Err(error) if disk_users::is_gone(&error) => {}
                Err(source) => return Err(EngineError::io("read", &path, source)),
            }
        }
        for (number, backing) in &self.loops {
            if disk_users::is_attached(host, *number, *backing)? {
                return Ok(true);
            }
        }
        while let Some(device) = self.blocks.last() {
            if disk_users::has_requests(host, *device)? {
                return Ok(true);
            }
            self.blocks.pop();
        }
        Ok(false)
    }
}

/// Numbers of the block devices that blkback serves, by the backends' nodes.
fn served(host: &mut Host, devices: &[Device]) -> Result<Vec<DeviceNumber>, EngineError> {
    let mut batch = Batch::new();
    let mut reads = Vec::new();
    for device in devices {
        let path = node(&format!("{}/physical-device", device.backend()))?;
        reads.push(batch.read_opt(&path));
    }
    if reads.is_empty() {
        return Ok(Vec::new());
    }
    let replies = host.store.run(&batch)?;
    let number = |read| {
        let text = std::str::from_utf8(replies.value(read)?).ok()?;
        disk_users::parse_hex(text)
    };
    Ok(reads.into_iter().filter_map(number).collect())
}

/// A loop device that xl's script has made: the kernel does not detach it by itself.
pub(super) struct LoopOfXl {
    pub(super) number: u32,
    backing: FileId,
}

impl LoopOfXl {
    /// Detaches it, at once or as soon as blkback closes it.
    fn detach(&self, host: &Host) -> Result<(), EngineError> {
        let path = PathBuf::from(format!("/dev/loop{}", self.number));
        let detached = host.devices.loops.detach(self.number, self.backing);
        detached
            .map(drop)
            .map_err(|source| EngineError::io("detach", &path, source))
    }
}

/// The loop devices that xl's script has made for disks, and that belong to them still: the backend's nodes name the device,
/// it shows the disk's image, and no other disk names it.
pub(super) fn loops_of_xl(
    host: &mut Host,
    devices: &[Device],
) -> Result<Vec<LoopOfXl>, EngineError> {
    let mut named = Vec::new();
    for device in devices {
        if let Some(number) = loop_named(host, &device.backend())? {
            named.push((*device, number));
        }
    }
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let all = host.devices.loops.list();
    let all = all.map_err(|source| EngineError::io("list", FilePath::new("/sys/block"), source))?;
    let names = all_loops_named(host)?;
    let mut found = Vec::new();
    for (device, number) in named {
        let is_shared = names.iter().filter(|name| **name == number).count() != 1;
        let mut theirs = all.iter().filter(|one| one.number == number);
        let Some(one) = theirs.find(|one| !is_shared && !one.is_autoclear) else {
            continue;
        };
        if serves_loop(host, &device, number)? && shows_image(host, &device, one.backing)? {
            found.push(LoopOfXl {
                number,
                backing: one.backing,
            });
        }
    }
    Ok(found)
}

/// The loop device that a backend's nodes name as the work of xl's script.
fn loop_named(host: &mut Host, backend: &str) -> Result<Option<u32>, EngineError> {
    let text = host
        .store
        .read_text_opt(&node(&format!("{backend}/node"))?)?;
    let number = text
        .as_deref()
        .and_then(|text| text.strip_prefix("/dev/loop"));
    Ok(number.and_then(|number| number.parse().ok()))
}

/// The loop devices that the nodes of all backends of disks name.
fn all_loops_named(host: &mut Host) -> Result<Vec<u32>, EngineError> {
    let folder = format!("/local/domain/0/backend/{KIND}");
    let mut names = Vec::new();
    for domid in host.children(&node(&folder)?)? {
        let folder = format!("{folder}/{domid}");
        for number in host.children(&node(&folder)?)? {
            names.extend(loop_named(host, &format!("{folder}/{number}"))?);
        }
    }
    Ok(names)
}

/// Whether the node `physical-device` of a disk names this loop device.
fn serves_loop(host: &mut Host, device: &Device, number: u32) -> Result<bool, EngineError> {
    let path = node(&format!("{}/physical-device", device.backend()))?;
    let served = host.store.read_text_opt(&path)?;
    let served = served.as_deref().and_then(disk_users::parse_hex);
    Ok(served == Some(disk_users::loop_number(number)))
}

/// Whether the image of a disk, by the toolstack's own copy, is this file.
fn shows_image(host: &mut Host, device: &Device, backing: FileId) -> Result<bool, EngineError> {
    let path = node(&format!("{}/params", device.copy()))?;
    let Some(image) = host.store.read_text_opt(&path)? else {
        return Ok(false);
    };
    let opened = host
        .files
        .open(FilePath::new(&image), &Opening::disk(false));
    Ok(opened.is_ok_and(|file| file.facts().id == backing))
}

/// Whether xl has set the disk up with another script than its own one. What that has made only that script can take down. A driver domain
/// runs its scripts itself.
pub(super) fn has_own_script(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    if !device.is_here() {
        return Ok(false);
    }
    let script = bus::script(host, device)?;
    Ok(script.is_some_and(|script| !script.is_empty() && !script.ends_with(SCRIPT_END)))
}
