//! Other users of a disk: guests of any toolstack, mounts, swap, and devices that are made from it.
//!
//! Guests are found by what domain 0's kernel serves (`/sys/bus/xen-backend`), and those that QEMU and other programs serve by
//! their backends' nodes. [`Seen`] is one look at all of them, for all disks of an operation.
//! A device and those that show the same bytes count as one: its partitions, the disk whose partition it is, and loop devices
//! with the same file. A volume's guest also clashes with a guest that has what the volume is made from. `device::vbd` asks, and holds the disk's lock meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path as FilePath, PathBuf};

use os_port::{
    DeviceNumber, FileFacts, FileId, FileKind, LoopDevice, Mount, OpenFile, Opening, list_if_there,
};
use uuid::Uuid;
use xen_port::DomId;
use xenstore::{Batch, Tree};

use crate::device::bus::Device;
use crate::vm::disk::Access;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// Largest file of sysfs that is read, in bytes.
const ATTRIBUTE_MAX_BYTES: u64 = 256;
/// The errno of a device that is gone (`ENODEV` of Linux).
const ENODEV: i32 = 19;
/// The errno of a drive without a medium (`ENOMEDIUM` of Linux).
const ENOMEDIUM: i32 = 123;
/// Backends that are programs of domain 0: QEMU, blktap (Xen 4.19 and later), and those for virtio.
const PROGRAMS: [&str; 3] = ["qdisk", "vbd3", "virtio_disk"];
/// Prefixes of a path in the nodes of these backends: the format.
const FORMATS: [&str; 5] = ["aio:", "qcow2:", "qcow:", "vhd:", "qed:"];

/// All that shows the bytes of a disk.
#[derive(Debug, Default)]
struct Aliases {
    devices: BTreeSet<DeviceNumber>,
    file: Option<FileId>,
    /// The devices below the device, such as the disks of a volume. Other devices can be made from the same.
    below: BTreeSet<DeviceNumber>,
}

/// A guest that uses a block device.
struct Use {
    /// Name of the backend in sysfs.
    name: String,
    domid: DomId,
    device: DeviceNumber,
    writes: bool,
}

/// Another guest that has got the block device of a disk.
pub struct Intruder {
    /// The guest, for messages.
    pub user: String,
    /// Domain of the guest.
    pub domid: DomId,
    /// Number of its disk.
    pub disk: Option<u32>,
}

/// A guest whose image a program of domain 0 serves.
struct Image {
    domid: DomId,
    /// The node `params` of the backend: the path, behind a format if the program needs one.
    params: String,
    writes: bool,
}

/// Guests and loop devices of the host at one moment. Under the locks of disks, no process of Xyl gives these disks to a guest
/// later.
pub struct Seen {
    uses: Vec<Use>,
    images: Vec<Image>,
    loops: Vec<LoopDevice>,
}

impl Seen {
    /// Looks at the host.
    ///
    /// # Errors
    /// Those of xenstore and sysfs.
    pub fn of(host: &mut Host) -> Result<Seen, EngineError> {
        Ok(Seen {
            uses: uses(host)?,
            images: images(host)?,
            loops: loops(host)?,
        })
    }

    /// Looks at this domain's kernel alone, for a domain other than domain 0: it serves no guest by a program.
    ///
    /// # Errors
    /// Those of sysfs.
    pub fn of_kernel(host: &Host) -> Result<Seen, EngineError> {
        Ok(Seen {
            uses: uses(host)?,
            images: Vec::new(),
            loops: loops(host)?,
        })
    }

    /// Numbers of the loop devices that blkback serves without a file. A process that has died between the nodes of a disk and blkback's open
    /// leaves one. A file that is attached there is that guest's to read.
    pub fn bare_loops(&self) -> Vec<u32> {
        let served = self.uses.iter().map(|one| one.device);
        let served = served.filter(|device| device.major == LOOP_MAJOR);
        let is_bare = |number: &u32| self.loops.iter().all(|one| one.number != *number);
        served.map(|device| device.minor).filter(is_bare).collect()
    }

    /// Another guest that has got a block device of this disk since this look. blkback reads nodes in the order in which they were written.
    /// Once it has opened this disk, it has read those of a process that has died before.
    ///
    /// # Errors
    /// Those of sysfs and xenstore.
    pub fn intruder(
        &self,
        host: &mut Host,
        disk: &Device,
        device: DeviceNumber,
    ) -> Result<Option<Intruder>, EngineError> {
        let own = format!("vbd-{}-{}", disk.domid, disk.number);
        let is_known = |name: &str| name == own || self.uses.iter().any(|one| one.name == name);
        let later = uses_but(host, is_known)?;
        let Some(one) = later.iter().find(|one| one.device == device) else {
            return Ok(None);
        };
        Ok(Some(Intruder {
            user: name(host, one.domid)?,
            domid: one.domid,
            disk: one
                .name
                .rsplit('-')
                .next()
                .and_then(|text| text.parse().ok()),
        }))
    }
}

/// Another user of a disk that a guest is to use in this way; `None` where it may have it. Devices of the domain itself are
/// none.
///
/// # Errors
/// Those of xenstore, sysfs and the system's tables.
pub fn find(
    host: &mut Host,
    seen: &Seen,
    file: &OpenFile,
    access: Access,
    own: Option<DomId>,
) -> Result<Option<String>, EngineError> {
    if access == Access::WriteShared {
        return Ok(None);
    }
    let writes = access == Access::Write;
    let aliases = Aliases::of(host, &seen.loops, file.facts())?;
    let user = guest(seen, &aliases, writes, own)
        .or_else(|| guest_of_program(host, seen, &aliases, writes, own));
    match user {
        Some(domid) => Ok(Some(name(host, domid)?)),
        None => domain_0(host, &aliases, writes),
    }
}

/// A user of a block device, in words, whatever it does with it. Some users stand in no table that this process sees, such as a mount in
/// another namespace: the kernel refuses a claim of the device then. A drive without a medium has no user.
///
/// # Errors
/// Those of [`find`]; the system's error for a device that cannot be opened.
pub(super) fn any(
    host: &mut Host,
    seen: &Seen,
    path: &FilePath,
) -> Result<Option<String>, EngineError> {
    let file = match host.files.open(path, &Opening::disk(false)) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(ENOMEDIUM) => return Ok(None),
        Err(source) => return Err(EngineError::io("open", path, source)),
    };
    if let Some(user) = find(host, seen, &file, Access::Write, None)? {
        return Ok(Some(user));
    }
    let claim = Opening {
        is_exclusive: true,
        ..Opening::disk(false)
    };
    match host.files.open(path, &claim) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let user = "a process, or a mount in another namespace, which has claimed it";
            Ok(Some(user.to_owned()))
        }
        Err(source) => Err(EngineError::io("claim", path, source)),
    }
}

/// A loop device of Xyl's that shows the image of a disk and is open still, though no backend has it: requests are under way.
/// Loop devices that blkback serves as the VM's other disks count for nothing.
///
/// # Errors
/// Those of sysfs.
pub fn closing(
    host: &Host,
    file: &OpenFile,
    access: Access,
    (uuid, number): (Uuid, u32),
) -> Result<Option<String>, EngineError> {
    if access == Access::WriteShared {
        return Ok(None);
    }
    let all = loops(host)?;
    let aliases = Aliases::of(host, &all, file.facts())?;
    let writes = access == Access::Write;
    let alike = all.into_iter().filter(|one| {
        Some(one.backing) == aliases.file && one.is_autoclear && (writes || !one.is_read_only)
    });
    for one in alike {
        let Some((vm, disk)) = disk_of_label(&one.label) else {
            continue;
        };
        let is_of_another = vm != uuid || disk == number;
        if is_of_another || !is_served(host, loop_number(one.number))? {
            return Ok(Some(format!(
                "/dev/loop{}, an earlier disk of VM {vm}, which has requests under way",
                one.number
            )));
        }
    }
    Ok(None)
}

/// Whether blkback has the block device for a disk.
fn is_served(host: &Host, device: DeviceNumber) -> Result<bool, EngineError> {
    let uses = uses(host)?;
    Ok(uses.iter().any(|one| one.device == device))
}

/// The label of a loop device for a disk of a VM.
pub fn label(uuid: Uuid, number: u32) -> String {
    format!("{}/{number}", uuid.hyphenated())
}

/// The VM and the disk of such a label.
pub(super) fn disk_of_label(text: &str) -> Option<(Uuid, u32)> {
    let (uuid, number) = text.split_once('/')?;
    Some((Uuid::parse_str(uuid).ok()?, number.parse().ok()?))
}

/// The name of a disk's lock: equal for all that shows the same bytes.
///
/// # Errors
/// Those of sysfs.
pub fn lock_name(host: &Host, file: &OpenFile) -> Result<String, EngineError> {
    let (facts, loops) = (file.facts(), loops(host)?);
    let of_file = |id: FileId| format!("{}-{}-{}", id.device.major, id.device.minor, id.inode);
    let FileKind::Block(number) = facts.kind else {
        return Ok(of_file(facts.id));
    };
    if let Some(backing) = backing(host, &loops, number)? {
        return Ok(of_file(backing));
    }
    let device = described(host, number)?;
    let whole = device.and_then(|device| device.disk).unwrap_or(number);
    Ok(format!("{}-{}", whole.major, whole.minor))
}

impl Aliases {
    fn of(host: &Host, loops: &[LoopDevice], facts: &FileFacts) -> Result<Aliases, EngineError> {
        let mut aliases = Aliases::default();
        match facts.kind {
            FileKind::Block(number) => {
                aliases.add_with_relatives(host, number)?;
                aliases.add_below(host, number)?;
                aliases.file = backing(host, loops, number)?;
            }
            _ => aliases.file = Some(facts.id),
        }
        if let Some(file) = aliases.file {
            for device in loops {
                if device.backing == file {
                    aliases.add_with_relatives(host, loop_number(device.number))?;
                }
            }
        }
        Ok(aliases)
    }

    /// Adds a device, the disk whose partition it is, and its partitions.
    fn add_with_relatives(&mut self, host: &Host, number: DeviceNumber) -> Result<(), EngineError> {
        self.devices.insert(number);
        if let Some(device) = described(host, number)? {
            self.devices.extend(device.disk);
            self.devices.extend(device.partitions);
        }
        Ok(())
    }

    /// Adds what a device is made from, and what that is made from.
    fn add_below(&mut self, host: &Host, number: DeviceNumber) -> Result<(), EngineError> {
        let mut left = vec![number];
        let mut seen = BTreeSet::new();
        while let Some(number) = left.pop() {
            if !seen.insert(number) {
                continue;
            }
            let Some(device) = described(host, number)? else {
                continue;
            };
            self.below.extend(device.disk.filter(|_| seen.len() > 1));
            self.below.extend(&device.slaves);
            left.extend(device.slaves);
            left.extend(device.disk);
        }
        Ok(())
    }

    /// Whether an open file shows the same bytes.
    fn has(&self, facts: &FileFacts) -> bool {
        match facts.kind {
            FileKind::Block(number) => self.devices.contains(&number),
            _ => self.file == Some(facts.id),
        }
    }
}

/// The number of the block device `/dev/loopN`.
pub(super) fn loop_number(number: u32) -> DeviceNumber {
    DeviceNumber {
        major: LOOP_MAJOR,
        minor: number,
    }
}

/// All attached loop devices.
pub(super) fn loops(host: &Host) -> Result<Vec<LoopDevice>, EngineError> {
    let listed = host.devices.loops.list();
    listed.map_err(|source| EngineError::io("list", FilePath::new("/sys/block"), source))
}

/// Whether a block device that blkback has for a disk may be this disk's: no loop device without a file, or with the image of another disk.
/// Both are left by a process that has died, whose loop device went and came back as another's. Loop devices of other programs have no label.
///
/// # Errors
/// Those of sysfs and Xen.
pub(super) fn shows_its_file(
    host: &Host,
    disk: &Device,
    device: DeviceNumber,
) -> Result<bool, EngineError> {
    if device.major != LOOP_MAJOR {
        return Ok(true);
    }
    let found = host.devices.loops.find(device.minor);
    let path = FilePath::new("/sys/block");
    let found = found.map_err(|source| EngineError::io("read", path, source))?;
    let Some(found) = found else {
        return Ok(false);
    };
    match disk_of_label(&found.label) {
        None => Ok(true),
        Some((_, number)) if number != disk.number => Ok(false),
        // That of a driver domain, which does not know VMs.
        Some((uuid, _)) if uuid.is_nil() => Ok(true),
        Some((uuid, _)) => {
            let info = host.hv.domain_info(disk.domid)?;
            Ok(info.is_none_or(|info| &info.handle == uuid.as_bytes()))
        }
    }
}

/// Whether a loop device shows this file still.
pub(super) fn is_attached(host: &Host, number: u32, backing: FileId) -> Result<bool, EngineError> {
    let found = host.devices.loops.find(number);
    let path = FilePath::new("/sys/block");
    let found = found.map_err(|source| EngineError::io("read", path, source))?;
    Ok(found.is_some_and(|device| device.backing == backing))
}

/// Whether a block device has requests under way, of any sender. One that does not tell has none.
pub(super) fn has_requests(host: &Host, device: DeviceNumber) -> Result<bool, EngineError> {
    let path = PathBuf::from(format!("/sys/dev/block/{device}/inflight"));
    let counts = attribute_of(host, &path)?.unwrap_or_default();
    Ok(counts.split_whitespace().any(|count| count != "0"))
}

/// A block device, as the kernel describes it.
pub(super) fn described(
    host: &Host,
    number: DeviceNumber,
) -> Result<Option<os_port::BlockDevice>, EngineError> {
    let path = PathBuf::from(format!("/sys/dev/block/{number}"));
    let device = host.devices.blocks.device(number);
    device.map_err(|source| EngineError::io("read", &path, source))
}

/// The file that a loop device, or the loop device of a partition, shows.
fn backing(
    host: &Host,
    loops: &[LoopDevice],
    number: DeviceNumber,
) -> Result<Option<FileId>, EngineError> {
    let disk = described(host, number)?.and_then(|device| device.disk);
    let number = disk.unwrap_or(number);
    if number.major != LOOP_MAJOR {
        return Ok(None);
    }
    let mut all = loops.iter();
    let found = all.find(|device| device.number == number.minor);
    Ok(found.map(|device| device.backing))
}

/// A guest whose disk domain 0's kernel serves.
fn guest(seen: &Seen, aliases: &Aliases, writes: bool, own: Option<DomId>) -> Option<DomId> {
    let mut others = seen
        .uses
        .iter()
        .filter(|one| Some(one.domid) != own && (writes || one.writes));
    let found = others
        .find(|one| aliases.devices.contains(&one.device) || aliases.below.contains(&one.device));
    found.map(|one| one.domid)
}

/// All block devices that domain 0's kernel serves to guests.
fn uses(host: &Host) -> Result<Vec<Use>, EngineError> {
    uses_but(host, |_| false)
}

/// The same, but for backends that are known by their names in sysfs.
fn uses_but(host: &Host, is_known: impl Fn(&str) -> bool) -> Result<Vec<Use>, EngineError> {
    let folder = host.dirs.backend_drivers();
    let names = list_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("list", &folder, source))?;
    let mut uses = Vec::new();
    for name in names.iter().filter(|name| !is_known(name)) {
        uses.extend(use_of(host, &folder, name)?);
    }
    Ok(uses)
}

/// One of them by its name in sysfs, `vbd-DOMID-NUMBER`. One that goes meanwhile is none.
fn use_of(host: &Host, folder: &FilePath, name: &str) -> Result<Option<Use>, EngineError> {
    let id = name.strip_prefix("vbd-").and_then(|id| id.split_once('-'));
    let Some(domid) = id.and_then(|(domid, _)| domid.parse().ok()) else {
        return Ok(None);
    };
    let attribute = |attribute: &str| attribute_of(host, &folder.join(name).join(attribute));
    let device = attribute("physical_device")?;
    let mode = attribute("mode")?;
    let device = device.and_then(|device| parse_hex(device.trim()));
    Ok(device.map(|device| Use {
        name: name.to_owned(),
        domid: DomId(domid),
        device,
        writes: mode.is_none_or(|mode| mode.contains('w')),
    }))
}

/// An attribute in sysfs; `None` if its device has gone.
fn attribute_of(host: &Host, path: &FilePath) -> Result<Option<String>, EngineError> {
    match host.files.read(path, ATTRIBUTE_MAX_BYTES) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(EngineError::io("read", path, source)),
    }
}

/// Whether an error of sysfs says that the device has gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV)
}

/// `MAJOR:MINOR` in hexadecimal, as blkback writes and reads it.
pub(super) fn parse_hex(text: &str) -> Option<DeviceNumber> {
    let (major, minor) = text.split_once(':')?;
    Some(DeviceNumber {
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
    })
}

/// All images that programs of domain 0 serve to guests. A backend without `mode` counts as one that writes.
fn images(host: &mut Host) -> Result<Vec<Image>, EngineError> {
    let mut images = Vec::new();
    for kind in PROGRAMS {
        let folder = format!("/local/domain/0/backend/{kind}");
        for domid in host.children(&node(&folder)?)? {
            let devices = format!("{folder}/{domid}");
            let Ok(domid) = domid.parse().map(DomId) else {
                continue;
            };
            for number in host.children(&node(&devices)?)? {
                images.extend(image(host, domid, &number, &format!("{devices}/{number}"))?);
            }
        }
    }
    Ok(images)
}

/// The image of one backend. The toolstack's copy is there longer: QEMU removes its own nodes.
fn image(
    host: &mut Host,
    domid: DomId,
    number: &str,
    backend: &str,
) -> Result<Option<Image>, EngineError> {
    let mut batch = Batch::new();
    let copy = format!("/libxl/{domid}/device/vbd/{number}/params");
    let copied = batch.read_opt(&node(&copy)?);
    let params = batch.read_opt(&node(&format!("{backend}/params"))?);
    let mode = batch.read_opt(&node(&format!("{backend}/mode"))?);
    let replies = host.store.run(&batch)?;
    let known = replies.value(copied).or(replies.value(params));
    let params = known.filter(|params| !params.is_empty());
    Ok(params.map(|params| Image {
        domid,
        params: String::from_utf8_lossy(params).into_owned(),
        writes: replies.value(mode).is_none_or(|mode| mode != b"r"),
    }))
}

/// A guest whose disk a program of domain 0 serves.
fn guest_of_program(
    host: &Host,
    seen: &Seen,
    aliases: &Aliases,
    writes: bool,
    own: Option<DomId>,
) -> Option<DomId> {
    let mut others = seen
        .images
        .iter()
        .filter(|one| Some(one.domid) != own && (writes || one.writes));
    let found = others.find(|one| is_image(host, aliases, &one.params));
    found.map(|one| one.domid)
}

/// Whether the image of a program's backend is the disk.
fn is_image(host: &Host, aliases: &Aliases, params: &str) -> bool {
    let mut formats = FORMATS.iter();
    let path = formats
        .find_map(|format| params.strip_prefix(format))
        .unwrap_or(params);
    is_same(host, aliases, FilePath::new(path))
}

/// Whether what stands at a path now is the disk.
fn is_same(host: &Host, aliases: &Aliases, path: &FilePath) -> bool {
    let opened = host.files.open(path, &Opening::disk(false));
    opened.is_ok_and(|file| aliases.has(file.facts()))
}

/// A use of the disk by domain 0 itself.
fn domain_0(host: &Host, aliases: &Aliases, writes: bool) -> Result<Option<String>, EngineError> {
    let mounts = host.devices.blocks.mounts();
    let mounts = mounts
        .map_err(|source| EngineError::io("read", FilePath::new("/proc/self/mountinfo"), source))?;
    let mut disturbed = mounts.iter().filter(|mount| writes || !mount.is_read_only);
    if let Some(mount) = disturbed.find(|mount| is_mounted(host, aliases, mount)) {
        let target = mount.target.display();
        return Ok(Some(format!("domain 0, which has it mounted on {target}")));
    }
    let swaps = host.devices.blocks.swaps();
    let swaps =
        swaps.map_err(|source| EngineError::io("read", FilePath::new("/proc/swaps"), source))?;
    if swaps.iter().any(|swap| is_same(host, aliases, swap)) {
        return Ok(Some("domain 0, which swaps to it".to_owned()));
    }
    holder(host, aliases, writes)
}

/// Whether a mounted file system is on the disk. btrfs is known by its source alone.
fn is_mounted(host: &Host, aliases: &Aliases, mount: &Mount) -> bool {
    if aliases.devices.contains(&mount.device) {
        return true;
    }
    let is_btrfs = mount.kind == "btrfs" && mount.source.starts_with("/dev");
    is_btrfs && is_same(host, aliases, &mount.source)
}

/// A device that is made from the disk, such as a volume or a RAID.
fn holder(host: &Host, aliases: &Aliases, writes: bool) -> Result<Option<String>, EngineError> {
    for number in &aliases.devices {
        let Some(device) = described(host, *number)? else {
            continue;
        };
        for holder in device.holders {
            let Some(holder) = described(host, holder)? else {
                continue;
            };
            if writes || !holder.is_read_only {
                return Ok(Some(format!("/dev/{}, which is made from it", holder.name)));
            }
        }
    }
    Ok(None)
}

/// A domain by number and name.
fn name(host: &mut Host, domid: DomId) -> Result<String, EngineError> {
    let path = node(&format!("/local/domain/{domid}/name"))?;
    let name = host.store.read_text_opt(&path).unwrap_or_default();
    Ok(match name {
        Some(name) => format!("domain {domid} ({name})"),
        None => format!("domain {domid}"),
    })
}
