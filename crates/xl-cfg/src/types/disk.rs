//! Virtual disks (xl-disk-configuration(5)).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::disk_draft::parse;
use super::disk_lexer::needs_name;
use super::vdev::Vdev;
use crate::diag::{Code, Diagnostic};
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::source::Span;

const KEY: &str = "disk";

keywords! {
    /// Format of a disk's image.
    DiskFormat {
        /// The bytes of the disk.
        Raw = "raw",
        /// QEMU's first format.
        Qcow = "qcow",
        /// QEMU's second format.
        Qcow2 = "qcow2",
        /// Microsoft's virtual hard disk format.
        Vhd = "vhd",
        /// QEMU's enhanced disk.
        Qed = "qed",
        /// No image: a CD drive without a disc.
        Empty = "empty",
    }
}

keywords! {
    /// Which program serves a disk.
    DiskBackend {
        /// The kernel, from a block device.
        Phy = "phy",
        /// The blktap driver.
        Tap = "tap",
        /// QEMU as a backend.
        Qdisk = "qdisk",
        /// A program that looks at xenstore alone.
        Standalone = "standalone",
    }
}

keywords! {
    /// The protocol between guest and backend.
    DiskSpecification {
        /// Xen's block protocol.
        Xen = "xen",
        /// The virtio-blk protocol.
        Virtio = "virtio",
    }
}

/// COLO settings of a disk (unstable, as in xl).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskColo {
    /// `colo` or `no-colo`.
    pub enabled: Option<bool>,
    /// Address of the secondary host.
    pub host: Option<String>,
    /// Port of the secondary host.
    pub port: Option<u32>,
    /// Name under which the secondary host exports the disk.
    pub export: Option<String>,
    /// Disk of the secondary guest's own writes.
    pub active_disk: Option<String>,
    /// Disk that keeps what the primary guest overwrites.
    pub hidden_disk: Option<String>,
}

/// One virtual disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Path of the image or device, or the script's target. `None`: a CD drive without a disc.
    pub target: Option<String>,
    /// Format of the image.
    pub format: DiskFormat,
    /// The disk as the guest sees it.
    pub vdev: Vdev,
    /// Whether the guest may write to it.
    pub writable: bool,
    /// Whether others may use it at the same time (`w!`), such as the guests of a cluster. xl has no such access.
    pub shared: bool,
    /// Whether it is a CD drive.
    pub cdrom: bool,
    /// The domain that serves it; `None`: domain 0.
    pub backend: Option<String>,
    /// The program that serves it; `None`: whichever suits.
    pub backend_type: Option<DiskBackend>,
    /// The hotplug script.
    pub script: Option<String>,
    /// Whether the backend may use O_DIRECT without a workaround.
    pub direct_io_safe: bool,
    /// Whether the guest may discard blocks; default yes.
    pub discard: Option<bool>,
    /// Whether the guest should trust the backend; default yes.
    pub trusted: Option<bool>,
    /// The protocol; default Xen's.
    pub specification: Option<DiskSpecification>,
    /// Whether virtio uses grants.
    pub grant_usage: Option<bool>,
    /// COLO settings of the disk.
    pub colo: DiskColo,
}

/// Formats the disk as in xl-disk-configuration(5): by position if the target allows it, else by name with the target
/// last.
impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match (self.writable, self.shared) {
            (true, true) => "w!",
            (true, false) => "rw",
            (false, _) => "ro",
        };
        let target = self.target.as_deref().unwrap_or("");
        let by_position = !target.is_empty() && !needs_name(target);
        let mut parts = if by_position {
            let format = self.format.to_string();
            vec![
                target.to_owned(),
                format,
                self.vdev.to_string(),
                access.to_owned(),
            ]
        } else {
            let mut named = vec![format!("vdev={}", self.vdev), format!("access={access}")];
            named.extend((!target.is_empty()).then(|| format!("format={}", self.format)));
            named
        };
        parts.extend(self.options());
        if !by_position && !target.is_empty() {
            parts.push(format!("target={target}"));
        }
        f.write_str(&parts.join(","))
    }
}

impl Disk {
    /// The parameters that have no position.
    fn options(&self) -> Vec<String> {
        let flag = |name: &str, is_on: bool| is_on.then(|| name.to_owned());
        let either = |value: Option<bool>, on: &str, off: &str| {
            value.map(|value| if value { on.to_owned() } else { off.to_owned() })
        };
        let named =
            |name: &str, value: Option<String>| value.map(|value| format!("{name}={value}"));
        let usage = self.grant_usage.map(|usage| u8::from(usage).to_string());
        [
            flag("devtype=cdrom", self.cdrom),
            named("backend", self.backend.clone()),
            named(
                "backendtype",
                self.backend_type.map(|kind| kind.to_string()),
            ),
            named("script", self.script.clone()),
            flag("direct-io-safe", self.direct_io_safe),
            either(self.discard, "discard", "no-discard"),
            either(self.trusted, "trusted", "untrusted"),
            named(
                "specification",
                self.specification.map(|kind| kind.to_string()),
            ),
            named("grant_usage", usage),
            either(self.colo.enabled, "colo", "no-colo"),
            named("colo-host", self.colo.host.clone()),
            named("colo-port", self.colo.port.map(|port| port.to_string())),
            named("colo-export", self.colo.export.clone()),
            named("active-disk", self.colo.active_disk.clone()),
            named("hidden-disk", self.colo.hidden_disk.clone()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Reads the setting `disk`.
    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Vec<Self> {
        let mut disks = Vec::new();
        let mut places: BTreeMap<u32, Span> = BTreeMap::new();
        for text in reader.texts(KEY) {
            let Some(disk) = parse(reader, text) else {
                continue;
            };
            if let Some(span) = places.insert(disk.vdev.number, text.whole()) {
                let message = format!("two disks are `{}`", disk.vdev);
                reader.diags.push(
                    Diagnostic::error(Code::Conflict, text.whole_if_all(), message)
                        .note_at(span, "the other one is here")
                        .help("give each disk a `vdev` of its own"),
                );
            }
            disks.push(disk);
        }
        disks
    }
}
