//! Where the toolstack keeps its files. Every folder can be moved, for tests and for hosts with a
//! layout of their own.

use std::path::{Path, PathBuf};

/// The folders.
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
}

impl Dirs {
    /// The folders of a real host, below `XYL_ROOT` where that is set.
    pub fn system() -> Dirs {
        let root = std::env::var_os("XYL_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        Dirs::below(&root)
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
        }
    }

    /// The folder of one VM.
    pub fn vm(&self, uuid: &str) -> PathBuf {
        self.lib.join("vm").join(uuid)
    }
}
