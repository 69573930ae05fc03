//! The input of a build, and its result.

use xen_image::{Image, Module};
use xen_port::{DomId, EvtchnPort, Gfn, GuestKind, HvmParam};

use crate::error::{BuildError, Result};

/// Maximum memory of a domain: 16 TiB, the limit of 32-bit grant entries.
pub const MEMORY_MAX_KIB: u64 = 16 << 30;
/// Size of the command line in a PV start_info, with the final zero byte (`MAX_GUEST_CMDLINE`).
pub(crate) const PV_CMDLINE_BYTES: usize = 1024;
/// Maximum length of a PVH command line. The contract has no limit; Linux reads 2 KiB.
const PVH_CMDLINE_MAX: usize = 64 << 10;
const PVH_MODULES_MAX: usize = 8;
/// `HVM_MAX_VCPUS`, in `xen/include/public/hvm/hvm_info_table.h`.
const PVH_VCPUS_MAX: u32 = 128;
/// `MAX_VIRT_CPUS`, in `xen/arch/x86/include/asm/config.h`.
const PV_VCPUS_MAX: u32 = 8192;

/// An event channel that was made for the domain, and who is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The port in the new domain.
    pub port: EvtchnPort,
    /// The domain at the other end: the one that runs xenstored or xenconsoled.
    pub backend: DomId,
}

/// A module that the kernel finds in its memory: its ramdisk, say.
#[derive(Clone, Copy, Debug)]
pub struct BootModule<'a> {
    /// The bytes of the module.
    pub content: ModuleContent<'a>,
    /// A command line of its own (PVH). PV has no place for one: leave it empty.
    pub cmdline: &'a str,
}

/// The source of a module's bytes.
#[derive(Clone, Copy, Debug)]
pub enum ModuleContent<'a> {
    /// A file as it is.
    File(&'a Module),
    /// A kernel, unpacked: the ELF image that was checked, for the shim to load.
    Kernel(&'a Image),
}

impl ModuleContent<'_> {
    /// Number of bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::File(module) => module.size_bytes(),
            Self::Kernel(image) => image.size_bytes(),
        }
    }
}

/// A domain to build. It has its vCPUs, its memory limit and its event channels, and no memory yet.
#[derive(Clone, Copy, Debug)]
pub struct BuildRequest<'a> {
    /// Number of the domain.
    pub domid: DomId,
    /// The kernel to load; HVM: hvmloader.
    pub kernel: &'a Image,
    /// Its command line. PV: up to 1023 bytes; PVH: up to 64 KiB. hvmloader has none.
    pub cmdline: &'a str,
    /// Modules. PV: none, or the ramdisk. PVH: up to eight, in order; the first is the kernel for the shim. HVM: the
    /// firmware, with the command line [`FIRMWARE`](crate::FIRMWARE).
    pub modules: &'a [BootModule<'a>],
    /// Memory at the start, in KiB (`memory` of xl.cfg). A part of a page at its end is left out.
    pub target_kib: u64,
    /// Memory that the domain may balloon up to, in KiB (`maxmem`); less than `target_kib` counts as that. A PVH or HVM
    /// domain with more than `target_kib` is populated on demand.
    pub max_kib: u64,
    /// vCPUs that the domain has.
    pub max_vcpus: u32,
    /// vCPUs that are there at the start, counted from vCPU 0.
    pub online_vcpus: u32,
    /// Channel to xenstored.
    pub store: Channel,
    /// Channel to xenconsoled.
    pub console: Channel,
    /// Claims the memory first. So a lack of memory shows before any is allocated, and no other domain takes it
    /// meanwhile.
    pub claim: bool,
    /// PV: whether a 32-bit kernel may run bare, in ring 1 of the hypervisor's own address space. Set it from the decision of
    /// the host's policy about this very image and from nothing else; without it such a kernel is refused.
    pub allow_bare_pv32: bool,
    /// PVH and HVM: more parameters to set along with the builder's own, such as `TimerMode`.
    pub hvm_params: &'a [(HvmParam, u64)],
}

/// Number of extents of each size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtentCounts {
    /// Extents of 1 GiB.
    pub nr_1gib: u64,
    /// Extents of 2 MiB.
    pub nr_2mib: u64,
    /// Pages of 4 KiB.
    pub nr_4kib: u64,
}

/// Facts about a built domain that the rest of the toolstack needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Frame of xenstore's ring for xenstored and the node `store/ring-ref`: machine frame for PV, guest frame for
    /// PVH and HVM.
    pub store_gfn: Gfn,
    /// Frame of the console's ring, for `console/ring-ref`.
    pub console_gfn: Gfn,
    /// Number of extents by size.
    pub extents: ExtentCounts,
}

impl BuildRequest<'_> {
    /// Pages at the start.
    pub(crate) fn target_pages(&self) -> u64 {
        self.target_kib / 4
    }

    /// Pages that the domain may balloon up to.
    pub(crate) fn max_pages(&self) -> u64 {
        self.max_kib.max(self.target_kib) / 4
    }

    /// Lengths of the modules in bytes.
    pub(crate) fn module_lens(&self) -> impl Iterator<Item = u64> {
        self.modules
            .iter()
            .map(|module| module.content.size_bytes())
    }

    /// Makes the checks that do not depend on the layout.
    pub(crate) fn check(&self, kind: GuestKind) -> Result<()> {
        let limits = Limits::of(kind);
        check_memory("memory", self.target_kib)?;
        check_memory("maxmem", self.max_kib)?;
        if !(1..=limits.vcpus).contains(&self.max_vcpus) {
            return Err(BuildError::Vcpus {
                given: self.max_vcpus,
                max: limits.vcpus,
                kind: limits.name,
            });
        }
        if self.modules.len() > limits.modules {
            let given = self.modules.len();
            return Err(BuildError::TooManyModules {
                given,
                max: limits.modules,
                kind: limits.name,
            });
        }
        limits.check_cmdline("the kernel".to_owned(), self.cmdline)?;
        for (index, module) in self.modules.iter().enumerate() {
            limits.check_module_cmdline(index, module.cmdline)?;
        }
        Ok(())
    }
}

fn check_memory(what: &'static str, given_kib: u64) -> Result<()> {
    if given_kib > MEMORY_MAX_KIB {
        return Err(BuildError::TooMuchMemory {
            what,
            given_kib,
            max_kib: MEMORY_MAX_KIB,
        });
    }
    Ok(())
}

struct Limits {
    name: &'static str,
    cmdline: usize,
    module_cmdline: usize,
    modules: usize,
    vcpus: u32,
}

impl Limits {
    fn of(kind: GuestKind) -> Limits {
        match kind {
            GuestKind::Pv => Limits {
                name: "PV",
                cmdline: PV_CMDLINE_BYTES - 1,
                module_cmdline: 0,
                modules: 1,
                vcpus: PV_VCPUS_MAX,
            },
            GuestKind::Pvh | GuestKind::Hvm => Limits {
                name: if kind == GuestKind::Pvh { "PVH" } else { "HVM" },
                cmdline: PVH_CMDLINE_MAX,
                module_cmdline: PVH_CMDLINE_MAX,
                modules: PVH_MODULES_MAX,
                vcpus: PVH_VCPUS_MAX,
            },
        }
    }

    fn check_cmdline(&self, what: String, cmdline: &str) -> Result<()> {
        check_text(what, cmdline, self.cmdline, self.name)
    }

    fn check_module_cmdline(&self, index: usize, cmdline: &str) -> Result<()> {
        check_text(
            format!("module {index}"),
            cmdline,
            self.module_cmdline,
            self.name,
        )
    }
}

fn check_text(what: String, cmdline: &str, max: usize, kind: &'static str) -> Result<()> {
    if let Some(position) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(BuildError::CommandLineZero { what, position });
    }
    if cmdline.len() > max {
        return Err(BuildError::CommandLineTooLong {
            what,
            len: cmdline.len(),
            max,
            kind,
        });
    }
    Ok(())
}
