//! The nodes of a disk, for each reader.

use os_port::DeviceNumber;

use super::SCRIPT;
use crate::device::bus::{Device, Tables};
use crate::device::nodes::{NodeRule, back, copy_of, own};
use crate::vm::disk::{Access, Disk};

/// The source of a disk's nodes.
pub(super) struct Nodes {
    pub device: Device,
    pub disk: Disk,
    /// The block device that blkback of domain 0 opens. A driver domain's own script writes it there.
    pub served: Option<BlockDevice>,
}

/// A block device of domain 0.
pub(super) struct BlockDevice {
    pub number: DeviceNumber,
    pub path: String,
}

/// A node that domain 0 needs not, since it does the script's work itself.
fn elsewhere(nodes: &Nodes, value: String) -> Option<String> {
    nodes.served.is_none().then_some(value)
}

type Rule = NodeRule<Nodes>;

pub(super) const TABLES: Tables<Nodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |n| {
        Some(n.device.backend_domain.domid.to_string())
    }),
    own("state", "guest and blkback", |_| Some("1".to_owned())),
    own("virtual-device", "guest: number of the disk", |n| {
        Some(n.device.number.to_string())
    }),
    own("device-type", "guest, blkback", |n| device_type(&n.disk)),
    own("trusted", "guest: whether it trusts its backend", |n| {
        Some(flag(n.disk.is_trusted()))
    }),
];

const BACKEND: &[Rule] = &[
    back("frontend", "blkback; scripts of xl", |n| {
        Some(n.device.frontend())
    }),
    back("frontend-id", "blkback", |n| {
        Some(n.device.domid.to_string())
    }),
    back("online", "blkback: whether the disk stays", |_| {
        Some(flag(true))
    }),
    back("state", "blkback, guest", |_| Some("1".to_owned())),
    back("dev", "blkback, for the names of its threads", |n| {
        Some(n.disk.vdev.name.clone())
    }),
    back("mode", "blkback; scripts of xl", mode_for_backend),
    back("device-type", "guest", |n| device_type(&n.disk)),
    back("discard-enable", "blkback", |n| {
        Some(flag(n.disk.may_discard()))
    }),
    back(
        "physical-device",
        "blkback: the block device to open",
        |n| {
            let number = n.served.as_ref()?.number;
            Some(format!("{:x}:{:x}", number.major, number.minor))
        },
    ),
    back("physical-device-path", "people", |n| {
        Some(n.served.as_ref()?.path.clone())
    }),
    back("type", "scripts of xl", |_| Some("phy".to_owned())),
    back("params", "scripts of xl", params),
    back(
        "script",
        "xl, when it removes the disk; a driver domain",
        |n| Some(script(n)),
    ),
    back("hotplug-status", "people: no script has to run", |n| {
        n.served.as_ref().map(|_| "connected".to_owned())
    }),
    back("removable", "guest of a driver domain", |n| {
        elsewhere(n, flag(n.disk.is_cdrom))
    }),
    back("bootable", "a driver domain", |n| elsewhere(n, flag(true))),
    back("direct-io-safe", "a driver domain", |n| {
        elsewhere(n, flag(true)).filter(|_| n.disk.direct_io_safe)
    }),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
    copy_of("params", params),
    copy_of("script", |n| elsewhere(n, script(n))),
    copy_of("type", |_| Some("phy".to_owned())),
    copy_of("dev", |n| Some(n.disk.vdev.name.clone())),
    copy_of("removable", |n| Some(flag(n.disk.is_cdrom))),
    copy_of("mode", |n| mode(&n.disk)),
    copy_of("device-type", |n| device_type(&n.disk)),
];

/// A driver domain learns that others may use the disk too (`w!`): its script looks for other users. libxl reads the copy, and would take
/// that word for a read-only disk.
fn mode_for_backend(nodes: &Nodes) -> Option<String> {
    let is_shared = nodes.disk.access == Access::WriteShared && nodes.disk.backend.is_some();
    match is_shared {
        true => Some("w!".to_owned()),
        false => mode(&nodes.disk),
    }
}

pub(super) fn flag(value: bool) -> String {
    u8::from(value).to_string()
}

pub(super) fn device_type(disk: &Disk) -> Option<String> {
    let word = if disk.is_cdrom { "cdrom" } else { "disk" };
    Some(word.to_owned())
}

pub(super) fn mode(disk: &Disk) -> Option<String> {
    let word = match disk.access {
        Access::Read => "r",
        Access::Write | Access::WriteShared => "w",
    };
    Some(word.to_owned())
}

fn script(nodes: &Nodes) -> String {
    let script = nodes.disk.script.as_deref();
    script.unwrap_or(SCRIPT).to_owned()
}

fn params(nodes: &Nodes) -> Option<String> {
    Some(nodes.disk.params())
}
