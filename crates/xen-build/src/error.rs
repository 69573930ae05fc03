//! The errors of building a domain's memory: the step, the domain, the cause and a remedy.

use std::fmt;

use xen_port::{DomId, HvError};

use crate::cpu_policy::PolicyTarget;

/// Answer of a part of the build.
pub type Result<T> = std::result::Result<T, BuildError>;

/// A step of the build, as an error message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asking for the domain's shared-info frame.
    ReadDomain,
    /// Reading the domain's CPU policy.
    ReadCpuPolicy,
    /// Changing the domain's CPU policy.
    SetCpuPolicy,
    /// The memory map that the guest will ask Xen for.
    SetMemoryMap,
    /// PV: making the domain one for a 32-bit kernel.
    MakePv32,
    /// The claim on free memory.
    Claim,
    /// The cache of populate-on-demand.
    SetPodTarget,
    /// Allocating the domain's memory.
    Populate,
    /// PV: the empty pages of the kernel.
    ClearPages,
    /// Mapping the memory that the builder fills.
    Map,
    /// The kernel's segments.
    PlaceKernel,
    /// A ramdisk or other module.
    PlaceModule,
    /// PV: the table of machine frames.
    WriteP2m,
    /// PV: the boot page tables.
    WritePageTables,
    /// PV: start_info; PVH and HVM: hvm_start_info.
    WriteStartInfo,
    /// PV: the shared-info page.
    WriteSharedInfo,
    /// HVM: the page of `hvm_info_table`.
    WriteHvmInfo,
    /// PVH: the ACPI tables.
    WriteAcpi,
    /// The ring pages of console and xenstore.
    ClearRings,
    /// PVH and HVM: the page directory for guests without paging.
    WriteIdentPt,
    /// PV: the hypercall page.
    HypercallPage,
    /// PV: handing the page tables over to Xen.
    PinPageTables,
    /// PVH and HVM: HVM parameters.
    SetHvmParams,
    /// Registers of vCPU 0.
    SetBootCpu,
    /// Grants of the console's and xenstore's pages.
    SeedGrants,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::ReadDomain => "reading the domain's state",
            Step::ReadCpuPolicy => "reading the CPU policy",
            Step::SetCpuPolicy => "setting the CPU policy",
            Step::SetMemoryMap => "setting the memory map",
            Step::MakePv32 => "making it a 32-bit PV domain",
            Step::Claim => "claiming memory",
            Step::SetPodTarget => "reserving memory to populate on demand",
            Step::Populate => "populating memory",
            Step::ClearPages => "clearing the kernel's empty pages",
            Step::Map => "mapping the memory to fill",
            Step::PlaceKernel => "placing the kernel",
            Step::PlaceModule => "placing a module",
            Step::WriteP2m => "writing the table of machine frames",
            Step::WritePageTables => "writing the page tables",
            Step::WriteStartInfo => "writing the start info",
            Step::WriteSharedInfo => "writing the shared info",
            Step::WriteHvmInfo => "writing hvm_info_table",
            Step::WriteAcpi => "writing the ACPI tables",
            Step::ClearRings => "clearing the console's and xenstore's rings",
            Step::WriteIdentPt => "writing the identity page directory",
            Step::HypercallPage => "filling the hypercall page",
            Step::PinPageTables => "pinning the page tables",
            Step::SetHvmParams => "setting HVM parameters",
            Step::SetBootCpu => "setting the boot CPU's registers",
            Step::SeedGrants => "granting the console's and xenstore's pages",
        })
    }
}

/// The reasons why a domain could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The kernel or a module cannot be read, or is not fit for this type of domain.
    #[error(transparent)]
    Image(#[from] xen_image::Error),
    /// A 32-bit PV kernel without permission to run bare. Bare, the CPU would not protect Xen against it.
    #[error(
        "the kernel is a 32-bit PV kernel, which does not start bare unless policy and configuration both say so: start it in the PV shim, or use a 64-bit or PVH kernel"
    )]
    Pv32,
    /// A 32-bit PV kernel for page tables of two levels.
    #[error(
        "the kernel is a 32-bit PV kernel without PAE, which no supported Xen runs: use one that is built with PAE"
    )]
    NoPae,
    /// The kernel cannot run without something that no such domain gets.
    #[error("the kernel requires the feature `{feature}`, which a {kind} domain cannot have")]
    RequiredFeature {
        /// The feature's name (`XENFEAT_*`).
        feature: &'static str,
        /// `PV`, `PVH` or `HVM`.
        kind: &'static str,
    },
    /// The kernel's notes or size make a layout that cannot be.
    #[error("the kernel cannot be laid out: {what}")]
    Layout {
        /// Name of the part that does not fit.
        what: String,
    },
    /// HVM: no module has the command line that hvmloader looks for.
    #[error("no module is the firmware: give hvmloader SeaBIOS or OVMF as the module `firmware`")]
    NoFirmware,
    /// HVM: a hole below 4 GiB that cannot be.
    #[error(
        "the hole for the memory of devices has {given_mib} MiB, and can have {min_mib} to {max_mib} MiB"
    )]
    MmioHole {
        /// Requested size in MiB.
        given_mib: u64,
        /// Smallest size in MiB.
        min_mib: u64,
        /// Largest size in MiB.
        max_mib: u64,
    },
    /// `cpuid=` names a register that the domain's CPU policy does not have.
    #[error("`cpuid` sets {}, which the CPU policy of this domain does not have: take it out", register_text(*target))]
    NoCpuRegister {
        /// The register with the bits.
        target: PolicyTarget,
    },
    /// A command line that does not fit where the boot contract keeps it.
    #[error(
        "the command line of {what} has {len} bytes, and a {kind} domain has room for {max}: shorten it"
    )]
    CommandLineTooLong {
        /// The kernel, or which module.
        what: String,
        /// Length in bytes.
        len: usize,
        /// Maximum length in bytes.
        max: usize,
        /// `PV`, `PVH` or `HVM`.
        kind: &'static str,
    },
    /// A command line with a zero byte, at which the guest would stop reading.
    #[error("the command line of {what} has a zero byte at position {position}: take it out")]
    CommandLineZero {
        /// The kernel, or which module.
        what: String,
        /// Position of the zero byte, in bytes.
        position: usize,
    },
    /// More modules than this type of domain can be given.
    #[error("{given} modules were given, and a {kind} domain takes {max}")]
    TooManyModules {
        /// Number of modules.
        given: usize,
        /// Maximum number of modules.
        max: usize,
        /// `PV`, `PVH` or `HVM`.
        kind: &'static str,
    },
    /// A number of vCPUs that a domain cannot have.
    #[error("{given} vCPUs were asked for, and a {kind} domain can have 1 to {max}")]
    Vcpus {
        /// Requested number of vCPUs.
        given: u32,
        /// Maximum number of vCPUs.
        max: u32,
        /// `PV`, `PVH` or `HVM`.
        kind: &'static str,
    },
    /// More memory than can be described or than any machine has.
    #[error("{what} is {given_kib} KiB, and can be at most {max_kib} KiB")]
    TooMuchMemory {
        /// Which of the sizes.
        what: &'static str,
        /// Requested size, in KiB.
        given_kib: u64,
        /// Maximum size in KiB.
        max_kib: u64,
    },
    /// The domain's memory is too small for its start.
    #[error(
        "{given_mib} MiB of memory are too little for this kernel, its modules and boot structures: at least {needed_mib} MiB are needed"
    )]
    TooLittleMemory {
        /// Memory of the domain in MiB, rounded down.
        given_mib: u64,
        /// Memory that would suffice, in MiB.
        needed_mib: u64,
    },
    /// Xen has not got the memory.
    #[error("not enough memory for domain {domid}: {wanted_mib} MiB wanted, {} ({step})", free_text(*free_mib))]
    OutOfMemory {
        /// Number of the domain.
        domid: DomId,
        /// Requested memory of the domain, in MiB.
        wanted_mib: u64,
        /// Free memory of the host in MiB, besides the domain's; `None` if Xen does not report it.
        free_mib: Option<u64>,
        /// The step that ran out of memory.
        step: Step,
    },
    /// There is no such domain.
    #[error("{step}: there is no domain {domid}")]
    NoDomain {
        /// Number of the domain.
        domid: DomId,
        /// The step that found it.
        step: Step,
    },
    /// A request to the hypervisor failed.
    #[error("{step} of domain {domid}: {source}")]
    Hypervisor {
        /// Number of the domain.
        domid: DomId,
        /// The step that failed.
        step: Step,
        /// Error of the hypervisor.
        source: HvError,
    },
    /// A frame of the domain has a number that a structure of the boot contract has no room for.
    #[error("{step} of domain {domid}: frame {frame:#x} does not fit into 32 bits")]
    FrameTooHigh {
        /// Number of the domain.
        domid: DomId,
        /// The step that failed.
        step: Step,
        /// Number of the frame.
        frame: u64,
    },
}

fn register_text(target: PolicyTarget) -> String {
    match target {
        PolicyTarget::Leaf {
            leaf,
            subleaf: None,
            ..
        } => format!("CPUID leaf {leaf:#x}"),
        PolicyTarget::Leaf {
            leaf,
            subleaf: Some(subleaf),
            ..
        } => format!("CPUID leaf {leaf:#x}, subleaf {subleaf:#x}"),
        PolicyTarget::Msr { index } => format!("MSR {index:#x}"),
    }
}

fn free_text(free_mib: Option<u64>) -> String {
    free_mib.map_or_else(
        || "and Xen does not say how much is free".to_owned(),
        |free| {
            format!(
                "{free} MiB free: give the domain less, shut another down, or take memory from dom0 (if that is more than enough: the domain's limit, max_mem, is too low; or it is a bare 32-bit PV guest on a host with more than 166 GiB, whose memory has to lie in the lowest 128)"
            )
        },
    )
}

/// Names the step in which a request failed.
pub(crate) trait During<T> {
    fn during(self, domid: DomId, step: Step) -> Result<T>;
}

impl<T> During<T> for xen_port::Result<T> {
    fn during(self, domid: DomId, step: Step) -> Result<T> {
        self.map_err(|source| BuildError::Hypervisor {
            domid,
            step,
            source,
        })
    }
}
