//! Opens and checks kernel, ramdisk and shim of a guest, and hvmloader with its firmware for an HVM guest. Create and its dry run use it.
//!
//! Each file is opened once, and the domain is built from the open file. A later change of the path has no effect.

use std::path::PathBuf;

use os_port::Files;
use xen_build::{BootModule, ModuleContent};
use xen_image::{Image, Module, Origin};

use crate::Notice;
use crate::config::boot_loader;
use crate::config::firmware;
use crate::config::loader;
use crate::config::shim::ShimImage;
use crate::vm::hvm::Hvm;
use crate::vm::spec::VmSpec;
use crate::{Cancel, Dirs, EngineError, Host};

/// Number of bytes in a KiB.
const KIB: u64 = 1024;

/// Largest firmware of an HVM guest, in bytes. OVMF has 4 MiB.
const FIRMWARE_MAX_BYTES: u64 = 16 << 20;

/// The opened kernel and ramdisk of a guest.
pub(crate) struct Images {
    /// Image of the guest's kernel; hvmloader for an HVM guest, whose own kernel QEMU loads.
    pub kernel: Image,
    /// Ramdisk of the guest.
    ramdisk: Option<Module>,
    /// Firmware of an HVM guest, which hvmloader starts.
    firmware: Option<Module>,
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
            None => Opened::named(loader(&host.dirs).load(&first_path(host, spec)?)?),
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

/// Path of the image that is opened first: the kernel, or hvmloader.
fn first_path(host: &Host, spec: &VmSpec) -> Result<PathBuf, EngineError> {
    match &spec.hvm {
        Some(hvm) => hvmloader(&*host.files, &host.dirs, release(host), hvm),
        None => Ok(spec.kernel.clone()),
    }
}

/// Major and minor version of the running Xen; `None` if it does not say.
fn release(host: &Host) -> Option<(u16, u16)> {
    let version = host.hv.version().ok()?;
    Some((version.major, version.minor))
}

/// Path of hvmloader for an HVM guest.
///
/// # Errors
/// [`EngineError::NoFirmware`].
pub(crate) fn hvmloader(
    files: &dyn Files,
    dirs: &Dirs,
    release: Option<(u16, u16)>,
    hvm: &Hvm,
) -> Result<PathBuf, EngineError> {
    match &hvm.loader_path {
        Some(path) => Ok(path.clone()),
        None => firmware::find_hvmloader(files, &dirs.usr, release),
    }
}

/// Opens the firmware of an HVM guest.
fn open_firmware(
    files: &dyn Files,
    dirs: &Dirs,
    release: Option<(u16, u16)>,
    hvm: &Hvm,
) -> Result<Module, EngineError> {
    let path = match &hvm.bios_path {
        Some(path) => path.clone(),
        None => firmware::find_bios(files, &dirs.usr, release, hvm.bios)?,
    };
    Ok(Module::open(&path, FIRMWARE_MAX_BYTES)?)
}

impl Images {
    /// Opens the firmware of an HVM guest, beside hvmloader.
    pub fn of_hvm(
        files: &dyn Files,
        dirs: &Dirs,
        release: Option<(u16, u16)>,
        hvm: &Hvm,
        loader: Image,
    ) -> Result<Images, EngineError> {
        Ok(Images {
            kernel: loader,
            ramdisk: None,
            firmware: Some(open_firmware(files, dirs, release, hvm)?),
            cmdline: String::new(),
            shim: None,
        })
    }

    /// Opens all that is not open yet.
    pub fn load(
        host: &Host,
        spec: &VmSpec,
        opened: Opened,
        shim: Option<ShimImage>,
    ) -> Result<Images, EngineError> {
        match &spec.hvm {
            Some(hvm) => {
                let (files, dirs) = (&*host.files, &host.dirs);
                Images::of_hvm(files, dirs, release(host), hvm, opened.kernel)
            }
            None => Images::load_rest(spec, opened, shim),
        }
    }

    /// Opens the ramdisk of a PV or PVH guest, if no boot loader has found it.
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
            firmware: None,
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
        let firmware = self.firmware.as_ref().map(|firmware| BootModule {
            content: ModuleContent::File(firmware),
            cmdline: xen_build::FIRMWARE,
        });
        let all = kernel.into_iter().chain(ramdisk);
        all.chain(firmware).collect()
    }
}
