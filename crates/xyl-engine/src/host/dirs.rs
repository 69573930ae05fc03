//! Where the toolstack keeps its files. Every folder can be moved, for tests and for hosts with a
//! layout of their own.

use std::path::{Path, PathBuf};

use uuid::Uuid;

/// What the names of the locks of names begin with.
pub(crate) const NAME_LOCK: &str = "name-";

/// The folders that Xyl uses on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Configurations of VMs: `/var/lib/xyl`.
    pub lib: PathBuf,
    /// What ends with the host's run: `/run/xyl`.
    pub run: PathBuf,
    /// Decompressed kernels: `/var/cache/xyl/kernels`.
    pub kernel_cache: PathBuf,
    /// libxl's userdata: `/var/lib/xen`.
    pub xen_lib: PathBuf,
    /// libxl's run folder: `/var/run/xen`.
    pub xen_run: PathBuf,
    /// Logs: `/var/log/xen`, where administrators look.
    pub log: PathBuf,
    /// Which guests may start: `/etc/xyl/policy.toml`.
    pub policy: PathBuf,
    /// What is installed: `/usr`.
    pub usr: PathBuf,
}

impl Dirs {
    /// The folders of a real host.
    pub fn system() -> Dirs {
        Dirs::below(Path::new("/"))
    }

    /// The same folders below `root`.
    pub fn below(root: &Path) -> Dirs {
        Dirs {
            lib: root.join("var/lib/xyl"),
            run: root.join("run/xyl"),
            kernel_cache: root.join("var/cache/xyl/kernels"),
            xen_lib: root.join("var/lib/xen"),
            xen_run: root.join("run/xen"),
            log: root.join("var/log/xen"),
            policy: root.join("etc/xyl/policy.toml"),
            usr: root.join("usr"),
        }
    }

    /// Cores of domains that have ended (`XEN_DUMP_DIR`).
    pub fn dump(&self) -> PathBuf {
        self.xen_lib.join("dump")
    }

    /// What is under way, or was when its process died: a file for each lock that is held.
    pub fn busy(&self) -> PathBuf {
        self.run.join("busy")
    }

    /// The lock of whoever changes a VM.
    pub fn vm_lock(&self, uuid: Uuid) -> PathBuf {
        self.busy().join(uuid.hyphenated().to_string())
    }

    /// The lock of whoever gives a domain this name.
    pub fn name_lock(&self, name: &str) -> PathBuf {
        self.busy().join(format!("{NAME_LOCK}{name}"))
    }

    /// What is to be watched over: a file for each VM.
    pub fn watched(&self) -> PathBuf {
        self.run.join("watch")
    }

    /// The lock of whoever watches over a VM.
    pub fn watch(&self, uuid: Uuid) -> PathBuf {
        self.watched().join(uuid.hyphenated().to_string())
    }

    /// The folders of all VMs that something was done with since the host was started.
    pub fn vms_run(&self) -> PathBuf {
        self.run.join("vm")
    }

    /// Such a folder.
    pub fn vm_run(&self, uuid: Uuid) -> PathBuf {
        self.vms_run().join(uuid.hyphenated().to_string())
    }

    /// A VM's journal.
    pub fn journal(&self, uuid: Uuid) -> PathBuf {
        self.vm_run(uuid).join("journal")
    }

    /// The folder of one VM.
    pub fn vm(&self, uuid: &str) -> PathBuf {
        self.lib.join("vm").join(uuid)
    }
}
