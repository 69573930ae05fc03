//! Disks that QEMU serves (qdisk): images of other formats than raw.
//!
//! QEMU gets the open image and a command to serve it, in the configured format. It takes the disk once it has opened the image. It would
//! make the disk from the nodes of the backend, too, and before it has confined itself: so they say that the disk is not online, until
//! QEMU itself writes that it is.
//!
//! Facts: `hw/block/xen-block.c` of QEMU, `libxl_disk.c`.

use std::path::Path;
use std::time::Instant;

use os_port::{FileKind, OpenFile, Opening};
use xen_port::DomId;
use xenstore::Tree;

use super::attach::{busy, not_opened, what};
use super::image;
use super::nodes::{device_type, flag, mode};
use super::{KIND, is_of_qemu, tell_of_open};
use crate::device::bus::{self, BackendDomain, Device, QEMU_DISKS, Tables};
use crate::device::nodes::{NodeRule, back, copy_of, own};
use crate::device::qemu::Wanted;
use crate::device::{Owner, Patience};
use crate::device_model::commands::Drive;
use crate::device_model::{self, QemuId};
use crate::error::DeviceError;
use crate::vm::disk::Disk;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// The source of a disk's nodes.
pub(super) struct QemuNodes {
    device: Device,
    disk: Disk,
    /// The QEMU that serves it.
    qemu: QemuId,
}

/// Node of the toolstack's copy with the number of the QEMU that serves the disk. The domain's first one serves a disk without this node.
const QEMU_NUMBER: &str = "xyl-qemu";

/// The kinds of backends beside disks that a domain's first QEMU serves.
const KINDS_OF_QEMU: [&str; 3] = [CONSOLE, "vfb", "vkbd"];
/// The kind of consoles, and of channels.
const CONSOLE: &str = "console";

type Rule = NodeRule<QemuNodes>;

pub(super) const TABLES: Tables<QemuNodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |_| Some("0".to_owned())),
    own("state", "guest and QEMU", |_| Some("1".to_owned())),
    own("virtual-device", "guest: number of the disk", |n| {
        Some(n.device.number.to_string())
    }),
    own("device-type", "guest", |n| device_type(&n.disk)),
    own("trusted", "guest: whether it trusts its backend", |n| {
        Some(flag(n.disk.is_trusted()))
    }),
];

const BACKEND: &[Rule] = &[
    back("frontend", "QEMU", |n| Some(n.device.frontend())),
    back("frontend-id", "QEMU", |n| Some(n.device.domid.to_string())),
    back(
        "online",
        "QEMU, which sets it: whether the disk stays",
        |_| Some(flag(false)),
    ),
    back("state", "QEMU, guest", |_| Some("1".to_owned())),
    back("dev", "people", |n| Some(n.disk.vdev.name.clone())),
    back("mode", "people", |n| mode(&n.disk)),
    back("device-type", "guest", |n| device_type(&n.disk)),
    back("discard-enable", "people", |n| {
        Some(flag(n.disk.may_discard()))
    }),
    back("direct-io-safe", "people", |n| {
        n.disk.direct_io_safe.then(|| flag(true))
    }),
    back("type", "people", |n| Some(n.disk.server.word().to_owned())),
    back("removable", "guest", |n| Some(flag(n.disk.is_cdrom))),
    back("params", "people", |n| Some(n.disk.params())),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
    copy_of("params", |n| Some(n.disk.params())),
    copy_of("type", |n| Some(n.disk.server.word().to_owned())),
    copy_of("dev", |n| Some(n.disk.vdev.name.clone())),
    copy_of("removable", |n| Some(flag(n.disk.is_cdrom))),
    copy_of("mode", |n| mode(&n.disk)),
    copy_of("device-type", |n| device_type(&n.disk)),
    copy_of(QEMU_NUMBER, |n| {
        let number = n.qemu.number;
        (number != 0).then(|| number.to_string())
    }),
];

/// Refuses an image that QEMU could not serve.
pub(super) fn check(host: &Host, disk: &Disk, file: &OpenFile) -> Result<(), EngineError> {
    let device = what(disk);
    device_model::binary(host, &device)?;
    image::check(&device, disk, file)
}

/// Locks disks of one domain for QEMU and writes their nodes, for a QEMU that is started afterwards.
pub(super) fn prepare(
    host: &mut Host,
    owner: Owner,
    disks: Vec<(&Disk, OpenFile)>,
    qemu: &mut Wanted,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    if !disks.is_empty() {
        qemu.begin(host)?;
    }
    disks.iter().try_for_each(|(disk, file)| lock(disk, file))?;
    for (disk, file) in disks {
        patience.check(host)?;
        check(host, disk, &file)?;
        let device = device_of(owner.domid, disk);
        let nodes = QemuNodes {
            device,
            disk: disk.clone(),
            qemu: qemu.qemu(),
        };
        let what = what(disk);
        bus::write(host, &device, &what, &TABLES, &nodes)?;
        let drive = drive(disk, what, &file);
        qemu.add_disk(device, drive, file);
    }
    Ok(())
}

/// The disk for QEMU's commands.
fn drive(disk: &Disk, what: String, image: &OpenFile) -> Drive {
    Drive {
        what,
        vdev: disk.vdev.name.clone(),
        format: disk.format.driver_of_qemu(),
        is_on_device: matches!(image.facts().kind, FileKind::Block(_)),
        is_writable: disk.is_writable(),
        is_cdrom: disk.is_cdrom,
        may_discard: disk.may_discard(),
        is_direct: disk.direct_io_safe,
    }
}

/// Locks an image for QEMU, which has the lock with the file for as long as it runs. The QEMU of an earlier domain may write its last
/// changes still.
fn lock(disk: &Disk, file: &OpenFile) -> Result<(), EngineError> {
    match file.lock() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let user = "a process of domain 0 that has locked it, as the QEMU of a VM does";
            Err(busy(disk, user.to_owned()))
        }
        Err(source) => Err(not_opened(disk, source).into()),
    }
}

fn device_of(domid: DomId, disk: &Disk) -> Device {
    Device {
        domid,
        kind: KIND,
        served_by: QEMU_DISKS,
        number: disk.vdev.number,
        backend_domain: BackendDomain::DOM0,
    }
}

/// The needs of a QEMU of its own, for a disk that is attached to a running domain.
pub(super) fn wanted_for_one(
    host: &mut Host,
    domid: DomId,
    disk: &Disk,
) -> Result<Wanted, EngineError> {
    let mut taken = Vec::new();
    for device in of_qemu(host, domid)? {
        taken.push(qemu_of(host, &device)?.number);
    }
    let number = device_model::free_number(&what(disk), &taken)?;
    Ok(Wanted::of(QemuId { domid, number }))
}

/// The disks of a domain that QEMU serves.
fn of_qemu(host: &mut Host, domid: DomId) -> Result<Vec<Device>, EngineError> {
    let mut devices = bus::devices(host, domid, KIND)?;
    devices.retain(is_of_qemu);
    Ok(devices)
}

/// The QEMU that serves a disk, by the toolstack's own copy.
fn qemu_of(host: &mut Host, device: &Device) -> Result<QemuId, EngineError> {
    let path = node(&format!("{}/{QEMU_NUMBER}", device.copy()))?;
    let Some(text) = host.store.read_text_opt(&path)? else {
        return Ok(QemuId::first(device.domid));
    };
    let number = text.parse().ok();
    let qemu = number.and_then(|number| QemuId::later(device.domid, number));
    qemu.ok_or_else(|| {
        let what = format!("{}: its node {path} is no number of a QEMU", device.copy());
        DeviceError::Unsupported { what }.into()
    })
}

/// Refuses a disk that xl's QEMU serves: that ends with its domain alone, and xl asks it to let the disk go.
pub(super) fn refuse_xls(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    if is_served(host, device)? || !device_model::has_others(host, device.domid) {
        return Ok(());
    }
    let what = format!(
        "disk {} of domain {} is served by a QEMU of xl: use `xl block-detach`",
        device.number, device.domid
    );
    Err(DeviceError::Unsupported { what }.into())
}

/// Whether the QEMU of a disk is there.
pub(super) fn is_served(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let qemu = qemu_of(host, device)?;
    Ok(!device_model::find_one(host, qemu).is_empty())
}

/// The disks of a domain that are to stay, and whose QEMU has ended.
pub(super) fn without_qemu(host: &mut Host, domid: DomId) -> Result<Vec<Device>, EngineError> {
    let mut found = Vec::new();
    for device in of_qemu(host, domid)? {
        if bus::is_to_stay(&mut host.store, &device)? && !is_served(host, &device)? {
            found.push(device);
        }
    }
    Ok(found)
}

/// Takes one disk of a running domain away, and ends its QEMU if that serves nothing else. The nodes go last.
pub(super) fn take_away(
    host: &mut Host,
    device: &Device,
    deadline: Instant,
) -> Result<(), EngineError> {
    let state = bus::await_one_closed(host, device, deadline)?;
    if !matches!(state, bus::State::Closed | bus::State::Unknown) {
        tell_of_open(host, std::slice::from_ref(device));
    }
    let qemu = qemu_of(host, device)?;
    match serves_more(host, qemu, device)? {
        true => await_forgotten(host, qemu, device, deadline)?,
        false => {
            device_model::end_one(host, qemu)?;
            device_model::forget_ended(host, qemu.domid)?;
        }
    }
    bus::remove_one(host, device)
}

/// Whether a QEMU serves more of its domain than this disk.
fn serves_more(host: &mut Host, qemu: QemuId, device: &Device) -> Result<bool, EngineError> {
    if qemu.number != 0 {
        return Ok(false);
    }
    for other in of_qemu(host, qemu.domid)? {
        if other.number != device.number && qemu_of(host, &other)? == qemu {
            return Ok(true);
        }
    }
    serves_other_kinds(host, qemu.domid)
}

/// Whether the first QEMU of a domain serves devices of other kinds. The first console is xenconsoled's.
fn serves_other_kinds(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    for kind in KINDS_OF_QEMU {
        let folder = format!("/local/domain/0/backend/{kind}/{domid}");
        let numbers = host.children(&node(&folder)?)?;
        let mut numbers = numbers.iter();
        if numbers.any(|number| kind != CONSOLE || number != "0") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until a QEMU that runs on has removed the nodes of a disk: it would remove those of the next disk of this number. Reports an
/// image that it keeps open nevertheless: QEMU 9.1 and later keep each file that they were started with.
fn await_forgotten(
    host: &mut Host,
    qemu: QemuId,
    device: &Device,
    deadline: Instant,
) -> Result<(), EngineError> {
    if device_model::find_one(host, qemu).is_empty() {
        return Ok(());
    }
    bus::await_backend_gone(host, device, deadline)?;
    let params = node(&format!("{}/params", device.copy()))?;
    let params = host.store.read_text_opt(&params)?.unwrap_or_default();
    let path = Path::new(params.split_once(':').map_or("", |(_, path)| path));
    let opened = host.files.open(path, &Opening::disk(false));
    // An image that is gone keeps nobody out.
    if opened.is_ok_and(|file| matches!(file.lock(), Ok(false))) {
        (host.notice)(&format!(
            "warning: QEMU of domain {} serves other devices, and keeps {} open until the domain ends: no other VM can have it until then",
            device.domid,
            path.display()
        ));
    }
    Ok(())
}

/// Takes disks of a domain away, and ends its QEMUs. The nodes go last: a later process looks for a QEMU where they are.
pub(super) fn detach(
    host: &mut Host,
    domid: DomId,
    devices: &[Device],
    deadline: Instant,
) -> Result<(), EngineError> {
    if devices.is_empty() {
        return Ok(());
    }
    if !device_model::find(host, domid).is_empty() {
        let open = bus::close_all(host, devices, deadline)?;
        tell_of_open(host, &open);
        device_model::end(host, domid)?;
    }
    host.store.rm(&node(&device_model::folder(domid))?)?;
    bus::remove(host, devices)
}
