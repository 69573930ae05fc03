//! A dry run of a create: it makes no domain and sends no request to Xen. It checks that kernel and ramdisk exist, are
//! of the right kind and fit into the memory, and it asks the policy.

use os_port::Files;
use xyl_audit::admit::Decision;

use crate::Notice;
use crate::config::boot_files::{self, Images, Opened};
use crate::config::loader;
use crate::config::{admission, shim};
use crate::device;
use crate::operation::create::{check_image, find_pool, warn_of_shim};
use crate::vm::spec::VmSpec;
use crate::{Dirs, EngineError, Host};

/// The warning about a guest whose kernel is on its disk.
const WITHOUT_KERNEL: &str = "the boot loader is not run, so the kernel on the guest's disk is not checked, and the policy is not asked about it";

/// Result of a dry run.
pub struct Preview {
    /// The policy's decision. It is never a refusal, because [`preview`] returns a refusal as an error. `None` for a guest whose boot
    /// loader finds the kernel: a dry run does not read the guest's disk.
    pub decision: Option<Decision>,
    /// The warnings that a create would print.
    pub warnings: Vec<String>,
}

/// Checks that the host has the CPU pool that a VM's configuration names.
///
/// # Errors
/// The host has no such pool, or Xen or xenstored do not answer.
pub fn check_pool(host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
    find_pool(host, spec).map(drop)
}

/// Checks a VM's files as a create does. It does not check that this host has the memory, the CPUs, the shim or the
/// hardware; but it checks a shim that is named by its path.
///
/// # Errors
/// Those of a create: a file is missing, cannot be read or is no kernel of this type; the policy refuses the guest; or
/// the memory does not suffice.
pub fn preview(files: &dyn Files, dirs: &Dirs, spec: &VmSpec) -> Result<Preview, EngineError> {
    if spec.boot_loader.is_some() {
        device::preview(files, spec)?;
        return Ok(Preview {
            decision: None,
            warnings: vec![WITHOUT_KERNEL.to_owned()],
        });
    }
    let loader = loader(dirs);
    let path = match &spec.hvm {
        Some(hvm) => boot_files::hvmloader(files, dirs, None, hvm)?,
        None => spec.kernel.clone(),
    };
    let kernel = loader.load(&path)?;
    let (decision, spec) = admission::preview(files, dirs, spec, &kernel)?;
    device::preview(files, &spec)?;
    let mut warnings = Vec::new();
    if spec.has_label {
        warnings.push("a Xen without security modules (XSM) passes over `seclabel` and `init_seclabel`; with them Xyl refuses the guest".to_owned());
    }
    let shim = shim::named(&spec, &kernel, &loader)?;
    let images = match &spec.hvm {
        Some(hvm) => Images::of_hvm(files, dirs, None, hvm, kernel)?,
        None => Images::load_rest(&spec, Opened::named(kernel), shim)?,
    };
    let mut notice = |notice: Notice<'_>| {
        if let Notice::Warning(text) = notice {
            warnings.push(text.to_owned());
        }
    };
    match (&spec.shim, &images.shim) {
        // Which shim it will be, the host decides.
        (Some(_), None) => warn_of_shim(&spec, &images, &mut notice)?,
        _ => check_image(&spec, &images, &decision, &mut notice)?,
    }
    Ok(Preview {
        decision: Some(decision),
        warnings,
    })
}
