//! From a configuration to a decision: what a VM is made from, and whether it may start.
//!
//! `plan` turns a parsed xl.cfg into a [`crate::vm::spec::VmSpec`], `boot_files` opens kernel and ramdisk, `admission` asks the policy,
//! `policy_recheck` asks it again for running guests, `shim` wraps a PV kernel, `locate` finds the line that an error is about, `runtime_changes` adds what commands changed later, and `libxl_json` reads and writes libxl's own record.

pub mod admission;
pub(crate) mod boot_files;
pub mod libxl_json;
mod locate;
pub mod plan;
pub mod policy_recheck;
pub(crate) mod runtime_changes;
pub mod shim;

use std::rc::Rc;

use xen_image::{CacheFolder, CacheOptions, Limits, Loader};

use crate::Dirs;
use crate::host::unpack::Confined;

/// The loader of kernels, with its limits and the cache of unpacked kernels.
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
