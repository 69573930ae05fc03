//! What was found.

use std::path::PathBuf;

use uuid::Uuid;
use xen_port::DomId;

use crate::host::dom0::Program;

/// Something that is left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leak {
    /// An operation whose process has died; nobody has carried on with it.
    UnderWay(String),
    /// A loop device that a backend of a domain had, which is no more.
    LoopDevice {
        /// Such as `loop0`.
        device: String,
        /// The file behind it.
        file: PathBuf,
        /// Whose it was.
        domid: DomId,
    },
    /// Xenstore nodes of a domain that is no more.
    Nodes {
        /// Path of the topmost node.
        path: String,
        /// Whose they are.
        owner: NodeOwner,
    },
    /// A network interface of a domain that is no more.
    Interface {
        /// Name of the interface.
        name: String,
        /// Whose it was.
        domid: DomId,
    },
    /// A QEMU whose domain is no more.
    Qemu {
        /// The QEMU process.
        program: Program,
        /// Whom it served.
        domid: DomId,
    },
    /// A file of libxl's for a domain that is no more.
    Userdata {
        /// The file's name.
        file: String,
        /// Whose it is.
        domid: DomId,
        /// UUID of that domain.
        uuid: Uuid,
    },
    /// A VM's configuration or journal, and the VM has no domain. Whether it may be dropped.
    Record(Uuid, bool),
    /// A journal that could not be trusted, set aside.
    DamagedJournal(String),
    /// A domain that was being made by somebody who has gone.
    HalfMade {
        /// Number of the domain.
        domid: DomId,
        /// UUID of the domain.
        uuid: Uuid,
        /// The memory it has: more a moment later, if somebody still makes it.
        tot_pages: u64,
        /// Who may be at work on it.
        suspects: Vec<u32>,
    },
    /// A domain that was destroyed and is still there.
    Dying {
        /// Number of the domain.
        domid: DomId,
        /// UUID of the domain.
        uuid: Uuid,
        /// The memory it has: less a moment later, if Xen is still at work.
        tot_pages: u64,
    },
}

/// Whose xenstore nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOwner {
    /// The nodes of a domain.
    Domain(DomId),
    /// The nodes of a VM.
    Vm(Uuid),
}

impl Leak {
    /// Its kind, in a word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Leak::UnderWay(_) => "operation",
            Leak::LoopDevice { .. } => "loop-device",
            Leak::Nodes { .. } => "nodes",
            Leak::Interface { .. } => "interface",
            Leak::Qemu { .. } => "qemu",
            Leak::Userdata { .. } => "userdata",
            Leak::Record(..) => "record",
            Leak::DamagedJournal(_) => "damaged-journal",
            Leak::HalfMade { .. } => "half-made-domain",
            Leak::Dying { .. } => "dying-domain",
        }
    }
}

/// What was made of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Found, and not removed.
    Found,
    /// It is gone.
    Removed,
    /// It is left as it is, and why.
    Left(String),
}

/// One leak, with its cause and verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kind and identity of the leak.
    pub leak: Leak,
    /// What it is, and its name.
    pub object: String,
    /// Why it is there, as far as that can be told, a line each.
    pub cause: Vec<String>,
    /// What to do.
    pub remedy: String,
    /// What was made of it.
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
