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
        /// The topmost.
        path: String,
        /// Whose they are.
        owner: NodeOwner,
    },
    /// A network interface of a domain that is no more.
    Interface {
        /// Its name.
        name: String,
        /// Whose it was.
        domid: DomId,
    },
    /// A QEMU whose domain is no more.
    Qemu {
        /// It.
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
        /// The same.
        uuid: Uuid,
    },
    /// A VM's configuration or journal, and the VM has no domain. Whether it may be dropped.
    Record(Uuid, bool),
    /// A journal that could not be trusted, set aside.
    DamagedJournal(String),
    /// A domain that was being made by somebody who has gone.
    HalfMade {
        /// Its number.
        domid: DomId,
        /// Its UUID.
        uuid: Uuid,
        /// The memory it has: more a moment later, if somebody still makes it.
        tot_pages: u64,
        /// Who may be at work on it.
        suspects: Vec<u32>,
    },
    /// A domain that was destroyed and is still there.
    Dying {
        /// Its number.
        domid: DomId,
        /// Its UUID.
        uuid: Uuid,
        /// The memory it has: less a moment later, if Xen is still at work.
        tot_pages: u64,
    },
}

/// Whose xenstore nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOwner {
    /// A domain's.
    Domain(DomId),
    /// A VM's.
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
    /// Nothing yet.
    Found,
    /// It is gone.
    Removed,
    /// It is left as it is, and why.
    Left(String),
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
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
