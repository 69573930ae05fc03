//! The way of a disk to its backend: the image is opened and checked, and what serves it is waited for.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use os_port::{
    AttachedLoop, DeviceNumber, FileKind, Files, Lock, LoopRequest, OpenFile, Opening, UntrustedWay,
};
use uuid::Uuid;
use xen_port::DomId;

use super::nodes::{BlockDevice, Nodes, TABLES};
use super::qdisk;
use super::{ATTRIBUTE_MAX_BYTES, CLOSE_LIMIT, CLOSE_PAUSE, KIND};
use crate::device::bus::{self, AttachLimits, Attaching, BackendDomain, Device, elsewhere};
use crate::device::disk_users::{self, Intruder, Seen};
use crate::device::qemu::Wanted;
use crate::device::{Owner, Patience};
use crate::error::DeviceError;
use crate::vm::disk::{Access, Disk, Server};
use crate::{EngineError, Host};

/// Longest time in which blkback has to take a disk.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for another VM's attach of the same disk.
const LOCK_LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for that lock between two looks whether the operation is cancelled.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Smallest image, in bytes: a sector.
const SECTOR_BYTES: u64 = 512;
/// The remedy where blkback does nothing.
const REMEDY: &str = "`modprobe xen-blkback` loads its driver";

/// The disk in words.
pub(super) fn what(disk: &Disk) -> String {
    format!("disk `{}`", disk.vdev)
}

pub(super) fn open(files: &dyn Files, disk: &Disk) -> Result<OpenFile, EngineError> {
    let opened = files.open(&disk.target, &Opening::guest_disk(disk.is_writable()));
    let file = opened.map_err(|source| not_opened(disk, source))?;
    let facts = file.facts();
    match facts.kind == FileKind::Regular && facts.size_bytes < SECTOR_BYTES {
        true => Err(empty(disk)),
        false => Ok(file),
    }
}

/// Opens a disk to read it, before a guest has it.
pub(in crate::device) fn open_to_read(
    files: &dyn Files,
    disk: &Disk,
) -> Result<OpenFile, EngineError> {
    let opened = files.open(&disk.target, &Opening::guest_disk(false));
    Ok(opened.map_err(|source| not_opened(disk, source))?)
}

/// Opens a disk once more for the device model, which emulates it. The guest's PV backend has it by then, with all checks.
/// A file that has come to the path meanwhile has passed none of them, and is refused: the loop device of this disk has another one.
pub(in crate::device) fn open_emulated(
    host: &Host,
    uuid: Uuid,
    disk: &Disk,
) -> Result<OpenFile, EngineError> {
    let file = open(&*host.files, disk)?;
    if file.facts().kind != FileKind::Regular {
        return Ok(file);
    }
    let loops = host.devices.loops.list();
    let loops = loops.map_err(|source| not_opened(disk, source))?;
    let label = disk_users::label(uuid, disk.vdev.number);
    let is_it =
        |device: &os_port::LoopDevice| device.backing == file.facts().id && device.label == label;
    match loops.iter().any(is_it) {
        true => Ok(file),
        false => {
            let source = std::io::Error::other("another file has come to this path meanwhile");
            Err(not_opened(disk, source).into())
        }
    }
}

pub(super) fn not_opened(disk: &Disk, source: std::io::Error) -> DeviceError {
    let (device, path) = (what(disk), disk.target.clone());
    match source.downcast::<UntrustedWay>() {
        Ok(source) => DeviceError::Untrusted {
            device,
            path,
            source,
        },
        Err(source) => DeviceError::Image {
            device,
            path,
            source,
        },
    }
}

fn empty(disk: &Disk) -> EngineError {
    DeviceError::Empty {
        device: what(disk),
        path: disk.target.clone(),
    }
    .into()
}

/// A block device without a size has nothing behind it, such as a loop device without a file.
pub(super) fn refuse_empty_device(
    host: &Host,
    disk: &Disk,
    file: &OpenFile,
) -> Result<(), EngineError> {
    let FileKind::Block(number) = file.facts().kind else {
        return Ok(());
    };
    match disk_users::described(host, number)? {
        Some(device) if device.size_bytes < SECTOR_BYTES => Err(empty(disk)),
        _ => Ok(()),
    }
}

pub(super) fn refuse_other_users(
    host: &mut Host,
    seen: &Seen,
    disk: &Disk,
    file: &OpenFile,
    own: Option<DomId>,
) -> Result<(), EngineError> {
    match disk_users::find(host, seen, file, disk.access, own)? {
        Some(user) => Err(busy(disk, user)),
        None => Ok(()),
    }
}

pub(super) fn busy(disk: &Disk, user: String) -> EngineError {
    DeviceError::Busy {
        device: what(disk),
        path: disk.target.clone(),
        user,
    }
    .into()
}

/// Waits until the loop device that an earlier domain had of the image has gone. blkback reports a disk as closed while
/// requests are under way, and the next guest must not read or write before them.
pub(super) fn await_earlier_loops(
    host: &mut Host,
    (uuid, disk): (Uuid, &Disk),
    file: &OpenFile,
    deadline: Instant,
) -> Result<(), EngineError> {
    let id = (uuid, disk.vdev.number);
    while let Some(user) = disk_users::closing(host, file, disk.access, id)? {
        if host.clock.now() >= deadline {
            return Err(busy(disk, user));
        }
        host.wait_for(&[], CLOSE_PAUSE)?;
    }
    Ok(())
}

/// Claims a block device that the guest writes to, so that nothing in domain 0 mounts it before blkback has it open. blkback
/// itself claims nothing. QEMU has the claim with the open device, for as long as it runs.
pub(super) fn claim(
    files: &dyn Files,
    disk: &Disk,
    file: OpenFile,
) -> Result<OpenFile, EngineError> {
    let is_block = matches!(file.facts().kind, FileKind::Block(_));
    if !is_block || disk.access != Access::Write {
        return Ok(file);
    }
    let failed = |source| not_opened(disk, source);
    match files.open(&disk.target, &Opening::claimed_disk()) {
        Ok(claimed) if claimed.facts().kind == file.facts().kind => Ok(claimed),
        Ok(_) => {
            let text = "the path leads to another device than a moment ago";
            Err(failed(std::io::Error::other(text)).into())
        }
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            let user = "a program or driver of domain 0 that has claimed it";
            Err(busy(disk, user.to_owned()))
        }
        Err(source) => Err(failed(source).into()),
    }
}

/// A disk whose nodes are written. The image and the loop device stay open until blkback has the disk open.
struct Written<'a> {
    device: Device,
    disk: &'a Disk,
    what: String,
    served: Served,
}

/// Attaches disks of one domain together: their nodes are written one after the other, then blkback is waited for. QEMU gets its
/// disks afterwards: each is locked and has its nodes by then, so other VMs see that it is used.
pub(super) fn attach(
    host: &mut Host,
    owner: Owner,
    disks: &[&Disk],
    qemu: &mut Wanted,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let (here, there): (Vec<&Disk>, Vec<&Disk>) =
        disks.iter().partition(|disk| disk.backend.is_none());
    let written = write_elsewhere(host, owner, &there, patience)?;
    attach_here(host, owner, &here, qemu, patience)?;
    elsewhere::await_taken(host, &written, patience)
}

/// Writes the nodes of disks that driver domains serve. Domain 0 opens no file for them.
fn write_elsewhere(
    host: &mut Host,
    owner: Owner,
    disks: &[&Disk],
    patience: &Patience<'_>,
) -> Result<Vec<(Device, String)>, EngineError> {
    let mut written = Vec::new();
    for disk in disks {
        patience.check(host)?;
        let what = what(disk);
        let backend = disk.backend.as_deref().unwrap_or_default();
        let (backend_domain, _) = elsewhere::find_for(host, owner, &what, backend)?;
        let device = Device {
            domid: owner.domid,
            kind: KIND,
            served_by: KIND,
            number: disk.vdev.number,
            backend_domain,
        };
        let nodes = Nodes {
            device,
            disk: (*disk).clone(),
            served: None,
        };
        bus::write(host, &device, &what, &TABLES, &nodes)?;
        written.push((device, what));
    }
    Ok(written)
}

/// Attaches disks that domain 0 serves.
fn attach_here(
    host: &mut Host,
    owner: Owner,
    disks: &[&Disk],
    qemu: &mut Wanted,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    if disks.is_empty() {
        return Ok(());
    }
    let mut files = Vec::new();
    for disk in disks {
        files.push((*disk, open(&*host.files, disk)?));
    }
    let _locks = lock_all(host, &files, patience)?;
    let seen = Seen::of(host)?;
    let (mut written, mut of_qemu) = (Vec::new(), Vec::new());
    for (disk, file) in files {
        patience.check(host)?;
        refuse_empty_device(host, disk, &file)?;
        refuse_other_users(host, &seen, disk, &file, Some(owner.domid))?;
        match disk.server {
            Server::Kernel => written.push(write(host, owner, (disk, file), &seen, patience)?),
            Server::Qemu => {
                let deadline = patience.within(host, CLOSE_LIMIT);
                await_earlier_loops(host, (owner.uuid, disk), &file, deadline)?;
                of_qemu.push((disk, claim(&*host.files, disk, file)?));
            }
        }
    }
    await_kernel(host, &written, patience)?;
    refuse_intruders(host, &seen, &written)?;
    qdisk::prepare(host, owner, of_qemu, qemu, patience)
}

/// Waits until domain 0's kernel has taken these disks.
fn await_kernel(
    host: &mut Host,
    written: &[Written<'_>],
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let is_ready: Vec<_> = written.iter().map(|one| ready(one.device)).collect();
    let all: Vec<Attaching<'_>> = written
        .iter()
        .zip(&is_ready)
        .map(|(one, is_ready)| Attaching {
            device: one.device,
            what: &one.what,
            is_ready,
        })
        .collect();
    let limits = AttachLimits {
        limit: ATTACH_LIMIT,
        remedy: REMEDY,
        patience,
    };
    bus::await_attached(host, &all, limits)
}

/// Refuses disks whose loop device another guest has got, too. That guest could read the image, so its backend is closed: it has the disk of a
/// process that has died, and the process that goes on with that operation finds it without its image.
fn refuse_intruders(
    host: &mut Host,
    seen: &Seen,
    written: &[Written<'_>],
) -> Result<(), EngineError> {
    for one in written {
        let Some(intruder) = one.served.intruder(host, seen, &one.device)? else {
            continue;
        };
        if let Some(number) = intruder.disk {
            let (domid, backend_domain) = (intruder.domid, BackendDomain::DOM0);
            let disk = Device {
                domid,
                number,
                backend_domain,
                ..one.device
            };
            bus::force_to_close(host, &disk)?;
        }
        return Err(busy(one.disk, intruder.user));
    }
    Ok(())
}

fn ready(device: Device) -> impl Fn(&Host) -> Result<bool, EngineError> {
    move |host| is_open(host, &device)
}

/// Writes the nodes of a disk, under its lock, and attaches its image to a loop device.
fn write<'a>(
    host: &mut Host,
    owner: Owner,
    (disk, file): (&'a Disk, OpenFile),
    seen: &Seen,
    patience: &Patience<'_>,
) -> Result<Written<'a>, EngineError> {
    let deadline = patience.within(host, CLOSE_LIMIT);
    await_earlier_loops(host, (owner.uuid, disk), &file, deadline)?;
    let file = claim(&*host.files, disk, file)?;
    let served = Served::new(host, owner.uuid, (disk, file), seen)?;
    let device = Device {
        domid: owner.domid,
        kind: KIND,
        served_by: KIND,
        number: disk.vdev.number,
        backend_domain: BackendDomain::DOM0,
    };
    let nodes = Nodes {
        device,
        disk: disk.clone(),
        served: Some(BlockDevice {
            number: served.number,
            path: served.path.clone(),
        }),
    };
    let what = what(disk);
    bus::write(host, &device, &what, &TABLES, &nodes)?;
    Ok(Written {
        device,
        disk,
        what,
        served,
    })
}

/// Takes the locks of disks, in the order of their names: two VMs with the same disks do not wait for each other for ever.
/// They keep other VMs from a disk until blkback has it open, from where on they can see that it is used.
fn lock_all(
    host: &Host,
    files: &[(&Disk, OpenFile)],
    patience: &Patience<'_>,
) -> Result<Vec<Box<dyn Lock>>, EngineError> {
    let mut names = BTreeMap::new();
    for (disk, file) in files {
        names.insert(disk_users::lock_name(host, file)?, *disk);
    }
    let deadline = patience.within(host, LOCK_LIMIT);
    let mut locks = Vec::new();
    for (name, disk) in names {
        locks.push(lock(host, &name, disk, deadline, patience)?);
    }
    Ok(locks)
}

fn lock(
    host: &Host,
    name: &str,
    disk: &Disk,
    deadline: Instant,
    patience: &Patience<'_>,
) -> Result<Box<dyn Lock>, EngineError> {
    let path = host.dirs.disk_lock(name);
    loop {
        patience.check(host)?;
        let until = deadline.min(host.clock.now() + LOCK_LOOK_EVERY);
        let lock = host.files.lock(&path, Some(until));
        match lock.map_err(|source| EngineError::io("lock", &path, source))? {
            Some(lock) => return Ok(lock),
            None if host.clock.now() < deadline => {}
            None => {
                let user = "another VM that is being started";
                return Err(busy(disk, user.to_owned()));
            }
        }
    }
}

/// Whether blkback has opened the block device, and that shows something. It opens the loop device of a process that has died, too, which
/// has no file any more.
pub(super) fn is_open(host: &Host, device: &Device) -> Result<bool, EngineError> {
    let path = device.driver_folder(host).join("physical_device");
    match host.files.read(&path, ATTRIBUTE_MAX_BYTES) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            match disk_users::parse_hex(text.trim()) {
                Some(number) => disk_users::shows_its_file(host, device, number),
                None => Ok(true),
            }
        }
        // A backend's state tells of a device that is going.
        Err(error) if disk_users::is_gone(&error) => Ok(false),
        Err(source) => Err(EngineError::io("read", &path, source)),
    }
}

/// The block device for blkback, held open until blkback has it.
pub(super) struct Served {
    pub number: DeviceNumber,
    pub path: String,
    held_loop: Option<AttachedLoop>,
    _file: OpenFile,
}

impl Served {
    /// Another guest that has got the loop device of this image. Block devices may be shared.
    pub fn intruder(
        &self,
        host: &mut Host,
        seen: &Seen,
        device: &Device,
    ) -> Result<Option<Intruder>, EngineError> {
        match &self.held_loop {
            Some(_) => seen.intruder(host, device, self.number),
            None => Ok(None),
        }
    }

    pub fn new(
        host: &Host,
        uuid: Uuid,
        (disk, file): (&Disk, OpenFile),
        seen: &Seen,
    ) -> Result<Served, EngineError> {
        if let FileKind::Block(number) = file.facts().kind {
            return Ok(Served {
                number,
                path: disk.target.display().to_string(),
                held_loop: None,
                _file: file,
            });
        }
        let label = disk_users::label(uuid, disk.vdev.number);
        let request = LoopRequest {
            but: &seen.bare_loops(),
            ..LoopRequest::whole(&file, !disk.is_writable(), &label)
        };
        let attached = host.devices.loops.attach(&request);
        let attached = attached.map_err(|source| DeviceError::Loop {
            device: what(disk),
            path: disk.target.clone(),
            source,
        })?;
        Ok(Served {
            number: attached.facts().device,
            path: attached.path().display().to_string(),
            held_loop: Some(attached),
            _file: file,
        })
    }
}
