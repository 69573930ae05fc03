//! What a create would say of a VM, without a domain and without a question to Xen: whether its kernel and its ramdisk are
//! there, are what they should be and fit into its memory, and what the policy says.

use os_port::Files;
use xyl_audit::admit::{Decision, Outcome};

use crate::Notice;
use crate::config::boot_files::Images;
use crate::config::loader;
use crate::config::{admission, shim};
use crate::operation::create::{check_image, find_pool, warn_of_shim};
use crate::vm::spec::VmSpec;
use crate::{Dirs, EngineError, Host};

/// What a create would do.
pub struct Preview {
    /// What the policy says. Of a guest that it refuses no more than its kernel was looked at.
    pub decision: Decision,
    /// What would be warned of.
    pub warnings: Vec<String>,
}

/// Looks whether the host has the CPU pool that a VM's configuration names.
///
/// # Errors
/// It has none of that name or number, or Xen or xenstored do not answer.
pub fn check_pool(host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
    find_pool(host, spec).map(drop)
}

/// Looks at a VM's files as a create does. Whether this host has the memory, the CPUs, the shim or the hardware is not
/// looked at; a shim that is named by its path is.
///
/// # Errors
/// Those of a create: a file is not there, cannot be read or is no kernel of this type, or the memory does not do.
pub fn preview(files: &dyn Files, dirs: &Dirs, spec: &VmSpec) -> Result<Preview, EngineError> {
    let loader = loader(dirs);
    let kernel = loader.load(&spec.kernel)?;
    let (decision, spec) = admission::preview(files, dirs, spec, &kernel)?;
    let mut warnings = Vec::new();
    if spec.has_label {
        warnings.push("a Xen without security modules (XSM) passes over `seclabel` and `init_seclabel`; with them Xyl refuses the guest".to_owned());
    }
    if decision.outcome != Outcome::Refuse {
        let shim = shim::named(&spec, &kernel, &loader)?;
        let images = Images::load_rest(&spec, kernel, shim)?;
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
    }
    Ok(Preview { decision, warnings })
}
