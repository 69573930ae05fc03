//! The files that a domain starts from, opened and checked.
//!
//! Each is opened once: what was checked is what is built, whatever happens to its path meanwhile.

use xen_build::{BootModule, ModuleContent};
use xen_image::{Image, Module, Origin};

use crate::Notice;
use crate::config::loader;
use crate::config::shim::ShimImage;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// Number of bytes in a KiB.
const KIB: u64 = 1024;

/// The opened kernel and ramdisk of a guest.
pub(crate) struct Images {
    /// The guest's kernel.
    pub kernel: Image,
    /// The guest's ramdisk.
    ramdisk: Option<Module>,
    /// What the kernel runs in, where it does.
    pub shim: Option<ShimImage>,
}

impl Images {
    /// Opens the guest's kernel: first of all, for what it is decides what else is wanted.
    pub fn load_kernel(
        host: &Host,
        spec: &VmSpec,
        notice: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Image, EngineError> {
        let kernel = loader(&host.dirs).load(&spec.kernel)?;
        if let Origin::Unpacked {
            not_cached: Some(why),
        } = kernel.origin()
        {
            notice(Notice::Warning(why));
        }
        Ok(kernel)
    }

    /// Opens what goes with the kernel, and the shim where there is one.
    pub fn load_rest(
        spec: &VmSpec,
        kernel: Image,
        shim: Option<ShimImage>,
    ) -> Result<Images, EngineError> {
        let ramdisk = match &spec.ramdisk {
            Some(path) => Some(Module::open(path, spec.max_kib.saturating_mul(KIB))?),
            None => None,
        };
        Ok(Images {
            kernel,
            ramdisk,
            shim,
        })
    }

    /// What the domain itself starts: the shim where there is one.
    pub fn first(&self) -> &Image {
        self.shim.as_ref().map_or(&self.kernel, |shim| &shim.image)
    }

    /// What it is given along; `cmdline` is the guest kernel's.
    pub fn modules<'a>(&'a self, cmdline: &'a str) -> Vec<BootModule<'a>> {
        let kernel = self.shim.as_ref().map(|_| BootModule {
            content: ModuleContent::Kernel(&self.kernel),
            cmdline,
        });
        let ramdisk = self.ramdisk.as_ref().map(|ramdisk| BootModule {
            content: ModuleContent::File(ramdisk),
            cmdline: "",
        });
        kernel.into_iter().chain(ramdisk).collect()
    }
}
