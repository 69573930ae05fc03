//! Disks that QEMU serves (qdisk): images of other formats than raw.
//!
//! QEMU gets the open image, so the nodes of its backend name that file and not the path, which only the toolstack's copy has. The backend
//! takes the disk once it has opened the image in the configured format.
//!
//! Facts: `hw/block/xen-block.c` of QEMU, `libxl_disk.c`.

use std::time::Instant;

use os_port::{FileKind, OpenFile};
use xen_port::DomId;
use xenstore::Tree;

use super::attach::{busy, not_opened, what};
use super::image;
use super::nodes::{device_type, flag, mode};
use super::{KIND, tell_of_open};
use crate::device::bus::{self, BackendDomain, Device, QEMU_DISKS, Tables};
use crate::device::nodes::{NodeRule, back, copy_of, own};
use crate::device::qemu::Wanted;
use crate::device::{Owner, Patience};
use crate::device_model;
use crate::error::DeviceError;
use crate::vm::disk::Disk;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// The source of a disk's nodes.
pub(super) struct QemuNodes {
    device: Device,
    disk: Disk,
    /// The path by which QEMU opens the image.
    path: String,
}

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
    own("device-type", "guest, QEMU", |n| device_type(&n.disk)),
    own("trusted", "guest: whether it trusts its backend", |n| {
        Some(flag(n.disk.is_trusted()))
    }),
];

const BACKEND: &[Rule] = &[
    back("frontend", "QEMU", |n| Some(n.device.frontend())),
    back("frontend-id", "QEMU", |n| Some(n.device.domid.to_string())),
    back("online", "QEMU: whether the disk stays", |_| {
        Some(flag(true))
    }),
    back("state", "QEMU, guest", |_| Some("1".to_owned())),
    back("dev", "QEMU, for the names of its drives", |n| {
        Some(n.disk.vdev.name.clone())
    }),
    back("mode", "QEMU", |n| mode(&n.disk)),
    back("device-type", "QEMU, guest", |n| device_type(&n.disk)),
    back("discard-enable", "QEMU", |n| {
        Some(flag(n.disk.may_discard()))
    }),
    back("direct-io-safe", "QEMU: no cache of domain 0", |n| {
        n.disk.direct_io_safe.then(|| flag(true))
    }),
    back("type", "people", |n| Some(n.disk.server.word().to_owned())),
    back("removable", "QEMU, guest", |n| Some(flag(n.disk.is_cdrom))),
    back("params", "QEMU: format, and the file to open", |n| {
        let format = n.disk.format.word_of_qemu();
        Some(format!("{format}:{}", n.path))
    }),
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
];

/// Refuses an image that QEMU could not serve.
pub(super) fn check(host: &Host, disk: &Disk, file: &OpenFile) -> Result<(), EngineError> {
    let device = what(disk);
    device_model::binary(host, &device)?;
    if !matches!(file.facts().kind, FileKind::Regular) {
        let what = format!(
            "{device}: QEMU serves files alone, and {} is a block device: with format=raw and without backendtype, domain 0's kernel serves it",
            disk.target.display()
        );
        return Err(DeviceError::Unsupported { what }.into());
    }
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
        qemu.begin(host, owner)?;
    }
    disks.iter().try_for_each(|(disk, file)| lock(disk, file))?;
    for (disk, file) in disks {
        patience.check(host)?;
        check(host, disk, &file)?;
        let device = device_of(owner.domid, disk);
        let nodes = QemuNodes {
            device,
            disk: disk.clone(),
            path: qemu.next_file()?,
        };
        let what = what(disk);
        bus::write(host, &device, &what, &TABLES, &nodes)?;
        qemu.add_file(device, what, file);
    }
    Ok(())
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

/// Takes disks of a domain away, and ends its QEMU. The nodes go last: a later process looks for a QEMU where they are.
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
