//! The findings of `fsck`, and their kinds.

use std::path::PathBuf;

use uuid::Uuid;
use xen_port::DomId;

use crate::host::dom0::Program;

/// Something that a toolstack has left on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leak {
    /// An operation whose process has died, and that no process has continued.
    UnderWay(String),
    /// A loop device of a disk's backend, whose domain is gone.
    LoopDevice {
        /// Name of the device, such as `loop0`.
        device: String,
        /// The file behind it.
        file: PathBuf,
        /// The domain that had the disk.
        domid: DomId,
    },
    /// A loop device of Xyl's that no disk has, and that is open still.
    OpenLoop {
        /// Number of the device.
        number: u32,
        /// UUID of the VM that had the disk.
        uuid: Uuid,
    },
    /// Xenstore nodes of a domain that is gone.
    Nodes {
        /// Path of the topmost node.
        path: String,
        /// The domain or VM of the nodes.
        owner: NodeOwner,
    },
    /// A network interface of a domain that is gone.
    Interface {
        /// Name of the interface.
        name: String,
        /// The domain of the interface.
        domid: DomId,
    },
    /// A QEMU whose domain is gone.
    Qemu {
        /// The QEMU process.
        program: Program,
        /// The domain that QEMU served.
        domid: DomId,
    },
    /// A file of libxl for a domain that is gone.
    Userdata {
        /// The file's name.
        file: String,
        /// The domain that the file is about.
        domid: DomId,
        /// UUID of that domain.
        uuid: Uuid,
    },
    /// The configuration or journal of a VM without a domain, and whether it may be removed.
    Record(Uuid, bool),
    /// A damaged journal that was moved to `/run/xyl/damaged`.
    DamagedJournal(String),
    /// A reply that could not be read, and was moved to `/run/xyl/damaged`.
    DamagedReply(String),
    /// The doorbell of a VM without supervision.
    Doorbell(Uuid),
    /// A domain that is not complete, and whose maker has died.
    HalfMade {
        /// Number of the domain.
        domid: DomId,
        /// UUID of the domain.
        uuid: Uuid,
        /// Memory of the domain in pages. It grows while a process still makes the domain.
        tot_pages: u64,
        /// Processes that may be making the domain.
        suspects: Vec<u32>,
    },
    /// A domain that was destroyed and still exists.
    Dying {
        /// Number of the domain.
        domid: DomId,
        /// UUID of the domain.
        uuid: Uuid,
        /// Memory of the domain in pages. It shrinks while Xen still frees it.
        tot_pages: u64,
    },
}

/// The domain or VM that xenstore nodes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOwner {
    /// The nodes of a domain.
    Domain(DomId),
    /// The nodes of a VM.
    Vm(Uuid),
}

impl Leak {
    /// Name of the leak's kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Leak::UnderWay(_) => "operation",
            Leak::LoopDevice { .. } | Leak::OpenLoop { .. } => "loop-device",
            Leak::Nodes { .. } => "nodes",
            Leak::Interface { .. } => "interface",
            Leak::Qemu { .. } => "qemu",
            Leak::Userdata { .. } => "userdata",
            Leak::Record(..) => "record",
            Leak::DamagedJournal(_) => "damaged-journal",
            Leak::DamagedReply(_) => "damaged-reply",
            Leak::Doorbell(_) => "doorbell",
            Leak::HalfMade { .. } => "half-made-domain",
            Leak::Dying { .. } => "dying-domain",
        }
    }
}

/// Result of a repair for one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The object was found, and no repair was tried.
    Found,
    /// The object was removed.
    Removed,
    /// The object was not removed; the reason.
    Left(String),
}

/// One leak, with its cause and verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kind and identity of the leak.
    pub leak: Leak,
    /// Kind and name of the object.
    pub object: String,
    /// Possible reasons for the leak, one per line.
    pub cause: Vec<String>,
    /// Remedy for the leak.
    pub remedy: String,
    /// Result of the repair.
    pub verdict: Verdict,
}

impl Finding {
    /// A finding that [`super::repair`] removes.
    pub(super) fn removable(leak: Leak, object: String, cause: String) -> Finding {
        Finding {
            leak,
            object,
            cause: vec![cause],
            remedy: "`xyl fsck --repair` removes it".to_owned(),
            verdict: Verdict::Found,
        }
    }
}
