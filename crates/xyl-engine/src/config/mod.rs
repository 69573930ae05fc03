//! From a configuration to a decision: the parts of a VM, and whether it may start.
//!
//! `plan` turns a parsed xl.cfg into a [`crate::vm::spec::VmSpec`], `plan_here` with the parts of this host. `boot_files` opens kernel and ramdisk.
//! `boot_loader` has a program find them on the guest's disk.
//! `firmware` finds the boot loaders
//! that `firmware` names, hvmloader, and the firmware of HVM guests, whose machine is in `hvm`. `admission` asks the policy, and `policy_recheck` asks it again about running guests. `shim` prepares the PV shim.
//! `locate` finds the line that an error is about. `runtime_changes` adds changes that commands made later.
//! `libxl_json` reads and writes libxl's record. `autostart` says which VMs start with the host, and in which order.

pub mod admission;
pub mod autostart;
pub(crate) mod boot_files;
pub mod boot_loader;
pub mod firmware;
mod hvm;
pub mod libxl_json;
mod locate;
pub mod plan;
pub mod plan_here;
pub mod policy_recheck;
pub(crate) mod runtime_changes;
pub mod shim;

use std::rc::Rc;

use xen_image::{CacheFolder, CacheOptions, Limits, Loader};

use crate::Dirs;
use crate::host::unpack::Confined;

/// The loader of kernels, with its limits and its cache.
pub(crate) fn loader(dirs: &Dirs) -> Loader {
    Loader {
        limits: Limits::default(),
        cache: Some(CacheFolder {
            path: dirs.kernel_cache.clone(),
            options: CacheOptions::default(),
        }),
        unpack: Rc::new(Confined::new(dirs)),
    }
}
