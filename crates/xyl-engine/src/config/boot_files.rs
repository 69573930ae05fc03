//! Opens and checks kernel, ramdisk and shim of a guest. Create and its dry run use it.
//!
//! Each file is opened once, and the domain is built from the open file. A later change of the path has no effect.

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
    /// Image of the guest's kernel.
    pub kernel: Image,
    /// Ramdisk of the guest.
    ramdisk: Option<Module>,
    /// The shim, if the kernel runs in one.
    pub shim: Option<ShimImage>,
}

impl Images {
    /// Opens the guest's kernel. It comes first, because the kernel's kind decides about the other files.
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

    /// Opens the ramdisk, and the shim if the VM has one.
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

    /// The image that the domain starts: the shim, or else the kernel.
    pub fn first(&self) -> &Image {
        self.shim.as_ref().map_or(&self.kernel, |shim| &shim.image)
    }

    /// The modules of that image. `cmdline` is the command line of the guest's kernel.
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
