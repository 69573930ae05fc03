//! Opens and checks kernel, ramdisk and shim of a guest. Create and its dry run use it.
//!
//! Each file is opened once, and the domain is built from the open file. A later change of the path has no effect.

use xen_build::{BootModule, ModuleContent};
use xen_image::{Image, Module, Origin};

use crate::Notice;
use crate::config::boot_loader;
use crate::config::loader;
use crate::config::shim::ShimImage;
use crate::vm::spec::VmSpec;
use crate::{Cancel, EngineError, Host};

/// Number of bytes in a KiB.
const KIB: u64 = 1024;

/// The opened kernel and ramdisk of a guest.
pub(crate) struct Images {
    /// Image of the guest's kernel.
    pub kernel: Image,
    /// Ramdisk of the guest.
    ramdisk: Option<Module>,
    /// The command line of the guest's kernel.
    pub cmdline: String,
    /// The shim, if the kernel runs in one.
    pub shim: Option<ShimImage>,
}

/// The opened kernel of a guest, and what a boot loader has found beside it.
pub(crate) struct Opened {
    pub kernel: Image,
    found: Option<(Option<Module>, String)>,
}

impl Opened {
    /// A kernel that the configuration names.
    pub fn named(kernel: Image) -> Opened {
        Opened {
            kernel,
            found: None,
        }
    }

    /// Opens the guest's kernel, or has its boot loader find it. It comes first, because the kernel's kind decides about the other files.
    pub fn open(
        host: &Host,
        spec: &VmSpec,
        cancel: &Cancel,
        notice: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Opened, EngineError> {
        let opened = match &spec.boot_loader {
            Some(boot_loader) => {
                let found = boot_loader::run(host, spec, boot_loader, cancel)?;
                Opened {
                    kernel: found.kernel,
                    found: Some((found.ramdisk, found.cmdline)),
                }
            }
            None => Opened::named(loader(&host.dirs).load(&spec.kernel)?),
        };
        if let Origin::Unpacked {
            not_cached: Some(why),
        } = opened.kernel.origin()
        {
            notice(Notice::Warning(why));
        }
        Ok(opened)
    }
}

impl Images {
    /// Opens the ramdisk, if no boot loader has found it.
    pub fn load_rest(
        spec: &VmSpec,
        opened: Opened,
        shim: Option<ShimImage>,
    ) -> Result<Images, EngineError> {
        let (ramdisk, cmdline) = match (opened.found, &spec.ramdisk) {
            (Some(found), _) => found,
            (None, ramdisk) => {
                let max_bytes = spec.max_kib.saturating_mul(KIB);
                let ramdisk = ramdisk.as_deref().map(|path| Module::open(path, max_bytes));
                (
                    ramdisk.transpose()?,
                    spec.cmdline.clone().unwrap_or_default(),
                )
            }
        };
        Ok(Images {
            kernel: opened.kernel,
            ramdisk,
            cmdline,
            shim,
        })
    }

    /// The image that the domain starts: the shim, or else the kernel.
    pub fn first(&self) -> &Image {
        self.shim.as_ref().map_or(&self.kernel, |shim| &shim.image)
    }

    /// The modules of that image.
    pub fn modules(&self) -> Vec<BootModule<'_>> {
        let kernel = self.shim.as_ref().map(|_| BootModule {
            content: ModuleContent::Kernel(&self.kernel),
            cmdline: &self.cmdline,
        });
        let ramdisk = self.ramdisk.as_ref().map(|ramdisk| BootModule {
            content: ModuleContent::File(ramdisk),
            cmdline: "",
        });
        kernel.into_iter().chain(ramdisk).collect()
    }
}
