//! Arguments and answers of the requests about one domain.

use crate::{DomId, Gfn, Mfn};

/// The type of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum GuestKind {
    /// Paravirtualised: no hardware virtualisation, page tables by hypercall.
    Pv,
    /// Hardware-virtualised, with the local APIC as the only emulated device.
    Pvh,
    /// Hardware-virtualised with emulated devices.
    Hvm,
}

/// Request to make an empty domain (`xen_domctl_createdomain`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CreateDomain {
    /// The domid wanted; `None` lets Xen choose.
    pub domid: Option<DomId>,
    /// PV, PVH or HVM.
    pub kind: GuestKind,
    /// The domain's handle: its UUID's 16 bytes.
    pub handle: [u8; 16],
    /// XSM label; 0 for none.
    pub ssidref: u32,
    /// Hardware-assisted paging, PVH and HVM only.
    pub hap: bool,
    /// Out-of-sync shadow page tables off, PVH and HVM only.
    pub oos_off: bool,
    /// The guest may use hardware virtualisation itself.
    pub nested_virt: bool,
    /// The guest has virtual performance counters.
    pub vpmu: bool,
    /// The domain may use the IOMMU.
    pub iommu: bool,
    /// Maximum number of vCPUs.
    pub max_vcpus: u32,
    /// Highest event-channel port that the domain may have.
    pub max_evtchn_port: u32,
    /// Maximum number of grant-table frames; `None` takes Xen's default.
    pub max_grant_frames: Option<u32>,
    /// Maximum number of maptrack frames; `None` takes Xen's default.
    pub max_maptrack_frames: Option<u32>,
    /// Highest grant-table version: 1 or 2.
    pub max_grant_version: u32,
    /// Number of the CPU pool.
    pub cpupool: u32,
    /// Unknown MSRs read as zero instead of faulting (`XEN_X86_MSR_RELAXED`).
    pub msr_relaxed: bool,
    /// Size of each vCPU's trace buffer in bytes; 0 for none.
    pub vmtrace_size_bytes: u32,
    /// HVM: interrupts over event channels (`XEN_X86_EMU_USE_PIRQ`). Xen 4.17 and 4.18 give them to each HVM domain, whatever this
    /// says. With later ones a new domain has them only if `hvm_pirq` asks, and a domain of an image that was saved without that
    /// setting must have them, because its guest may use them.
    pub hvm_pirq: bool,
}

/// The reason of a domain's shutdown (`SHUTDOWN_*` in `sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ShutdownReason {
    /// The guest powered off.
    Poweroff,
    /// The guest asks for a reboot.
    Reboot,
    /// The guest is ready to be saved.
    Suspend,
    /// The guest or Xen reports a crash.
    Crash,
    /// The guest's watchdog expired.
    Watchdog,
    /// The guest asks for a soft reset.
    SoftReset,
    /// A number that this build does not know.
    Unknown(u8),
}

impl ShutdownReason {
    /// Converts Xen's number.
    pub fn from_number(number: u8) -> ShutdownReason {
        match number {
            0 => ShutdownReason::Poweroff,
            1 => ShutdownReason::Reboot,
            2 => ShutdownReason::Suspend,
            3 => ShutdownReason::Crash,
            4 => ShutdownReason::Watchdog,
            5 => ShutdownReason::SoftReset,
            other => ShutdownReason::Unknown(other),
        }
    }

    /// Number of the reason in Xen's interface.
    pub fn number(self) -> u8 {
        match self {
            ShutdownReason::Poweroff => 0,
            ShutdownReason::Reboot => 1,
            ShutdownReason::Suspend => 2,
            ShutdownReason::Crash => 3,
            ShutdownReason::Watchdog => 4,
            ShutdownReason::SoftReset => 5,
            ShutdownReason::Unknown(other) => other,
        }
    }
}

/// States of a domain (`XEN_DOMINF_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DomainFlags {
    /// Xen is destroying the domain.
    pub dying: bool,
    /// The domain is PVH or HVM.
    pub hvm: bool,
    /// The domain has shut down; [`DomainInfo::shutdown_reason`] says why.
    pub shutdown: bool,
    /// Tools have paused the domain.
    pub paused: bool,
    /// All its vCPUs wait for an event.
    pub blocked: bool,
    /// One of its vCPUs runs now.
    pub running: bool,
    /// A debugger controls the domain.
    pub debugged: bool,
    /// The domain runs xenstored.
    pub xs_domain: bool,
    /// The domain uses hardware-assisted paging.
    pub hap: bool,
}

/// The state of a domain (`xen_domctl_getdomaininfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DomainInfo {
    /// Number of the domain.
    pub domid: DomId,
    /// Its state flags (`XEN_DOMINF_*`).
    pub flags: DomainFlags,
    /// Reason of the shutdown; `None` before it.
    pub shutdown_reason: Option<ShutdownReason>,
    /// Number of pages that it has now.
    pub tot_pages: u64,
    /// Number of pages that it may have.
    pub max_pages: u64,
    /// Number of claimed pages that are not yet allocated.
    pub outstanding_pages: u64,
    /// Number of its pages that memory sharing shares.
    pub shr_pages: u64,
    /// Number of its pages that are paged out.
    pub paged_pages: u64,
    /// Frame of its shared-info page, for mapping by a tool.
    pub shared_info_frame: Gfn,
    /// CPU time of all its vCPUs, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Number of vCPUs that are online.
    pub nr_online_vcpus: u32,
    /// Highest vCPU number; `None` if it has no vCPU.
    pub max_vcpu_id: Option<u32>,
    /// XSM label of the domain (`ssidref`).
    pub ssidref: u32,
    /// The domain's handle: its UUID's 16 bytes.
    pub handle: [u8; 16],
    /// Number of its CPU pool.
    pub cpupool: u32,
    /// Emulated devices (`XEN_X86_EMU_*`). PVH has the local APIC only.
    pub emulation_flags: u32,
}

impl DomainInfo {
    /// PV, PVH or HVM. A hardware-virtualised domain is PVH if the local APIC is its only emulated device.
    pub fn kind(&self) -> GuestKind {
        const EMU_LAPIC: u32 = 1;
        match (self.flags.hvm, self.emulation_flags & !EMU_LAPIC) {
            (false, _) => GuestKind::Pv,
            (true, 0) => GuestKind::Pvh,
            (true, _) => GuestKind::Hvm,
        }
    }
}

/// The run state of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum VcpuRunState {
    /// The guest has not brought it up.
    Offline,
    /// It waits for an event.
    Blocked,
    /// It runs on the CPU [`VcpuInfo::cpu`].
    Running,
    /// It waits for a free CPU.
    Runnable,
}

/// The state of one vCPU (`xen_domctl_getvcpuinfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VcpuInfo {
    /// Run state of the vCPU.
    pub state: VcpuRunState,
    /// Its CPU time, in nanoseconds.
    pub cpu_time_ns: u64,
    /// The CPU on which it runs or ran last.
    pub cpu: u32,
}

/// A signal to a vCPU (`XEN_DOMCTL_SENDTRIGGER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Trigger {
    /// Non-maskable interrupt (NMI).
    Nmi,
    /// Reset of the CPU.
    Reset,
    /// INIT interrupt of the CPU.
    Init,
    /// ACPI power button pressed.
    Power,
    /// ACPI sleep button pressed.
    Sleep,
}

/// One CPUID leaf (`xen_cpuid_leaf_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuidLeaf {
    /// EAX before the CPUID instruction.
    pub leaf: u32,
    /// ECX before the CPUID instruction; `0xffff_ffff` if the leaf has no subleaves.
    pub subleaf: u32,
    /// EAX of the result.
    pub a: u32,
    /// EBX of the result.
    pub b: u32,
    /// ECX of the result.
    pub c: u32,
    /// EDX of the result.
    pub d: u32,
}

/// One MSR of a policy (`xen_msr_entry_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsrEntry {
    /// Number of the MSR.
    pub index: u32,
    /// Flags; none are defined.
    pub flags: u32,
    /// Value of the MSR.
    pub value: u64,
}

/// The CPU features that a domain sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuPolicy {
    /// The CPUID leaves, in Xen's order.
    pub leaves: Vec<CpuidLeaf>,
    /// The MSRs, in Xen's order.
    pub msrs: Vec<MsrEntry>,
}

/// The address width of a PV domain's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PvMode {
    /// 64-bit: page tables of four levels.
    Bits64,
    /// 32-bit: page tables of three levels (PAE). [`make_pv32`](crate::Hypervisor::make_pv32) has prepared the
    /// domain.
    Bits32 {
        /// The kernel accepts its top-level page table above 4 GiB.
        extended_cr3: bool,
    },
}

/// Starting registers of a PV domain's vCPU 0. All registers not named here are zero. The implementation sets
/// segments, `CR3`, flags and event masks by the PV boot contract (`arch-x86/xen.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PvBootCpu {
    /// Entry point, a virtual address.
    pub rip: u64,
    /// Stack, a virtual address.
    pub rsp: u64,
    /// Address of start_info, a virtual address.
    pub rsi: u64,
    /// Machine frame of the top-level page table.
    pub cr3: Mfn,
    /// The kernel's width. A 32-bit one has addresses below 4 GiB.
    pub mode: PvMode,
}

/// Starting registers of a PVH or HVM domain's vCPU 0 (`docs/misc/pvh.pandoc`; hvmloader starts the same way).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HvmBootCpu {
    /// Entry point, a physical address below 4 GiB.
    pub eip: u32,
    /// Address of `hvm_start_info`, a physical address below 4 GiB.
    pub ebx: u32,
    /// Number of vCPUs. The implementation turns on caching (MTRRs, write-back) for each of them. With 0 the firmware
    /// does that, as in HVM domains.
    pub nr_vcpus: u32,
}

/// HVM parameters (`hvm/params.h`) by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u32)]
#[allow(missing_docs)]
pub enum HvmParam {
    CallbackIrq = 0,
    StorePfn = 1,
    StoreEvtchn = 2,
    PaeEnabled = 4,
    IoreqPfn = 5,
    BufIoreqPfn = 6,
    Viridian = 9,
    TimerMode = 10,
    HpetEnabled = 11,
    IdentPt = 12,
    AcpiSState = 14,
    Vm86Tss = 15,
    VptAlign = 16,
    ConsolePfn = 17,
    ConsoleEvtchn = 18,
    AcpiIoportsLocation = 19,
    NestedHvm = 24,
    PagingRingPfn = 27,
    MonitorRingPfn = 28,
    SharingRingPfn = 29,
    TripleFaultReason = 31,
    IoreqServerPfn = 32,
    NrIoreqServerPages = 33,
    VmGenerationIdAddr = 34,
    Altp2m = 35,
    X87FipWidth = 36,
    Vm86TssSized = 37,
    McaCap = 38,
}

macro_rules! numbers {
    ($($name:ident)*) => {
        impl HvmParam {
            /// The parameter of this number, if it is known.
            pub fn from_number(number: u32) -> Option<HvmParam> {
                let all = [$(HvmParam::$name),*];
                all.into_iter().find(|param| *param as u32 == number)
            }
        }
    };
}

numbers! {
    CallbackIrq StorePfn StoreEvtchn PaeEnabled IoreqPfn BufIoreqPfn Viridian TimerMode HpetEnabled IdentPt AcpiSState
    Vm86Tss VptAlign ConsolePfn ConsoleEvtchn AcpiIoportsLocation NestedHvm PagingRingPfn MonitorRingPfn SharingRingPfn
    TripleFaultReason IoreqServerPfn NrIoreqServerPages VmGenerationIdAddr Altp2m X87FipWidth Vm86TssSized McaCap
}

/// The mode of a domain's time-stamp counter, and its values (`xen_domctl_tsc_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TscInfo {
    /// Mode of the counter: 0 default, 1 always emulate, 2 never emulate.
    pub mode: u32,
    /// Frequency in kHz.
    pub khz: u32,
    /// Number of hosts that the domain has run on.
    pub incarnation: u32,
    /// Elapsed time in nanoseconds.
    pub elapsed_ns: u64,
}

/// A part of the state of a PV domain's vCPU. Xen keeps each part as bytes whose layout belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum VcpuPart {
    /// Registers of the vCPU (`vcpu_guest_context`).
    Basic,
    /// Further registers (`xen_domctl_ext_vcpucontext`).
    Extended,
    /// Floating point and vector registers.
    Xsave,
    /// Model specific registers (`xen_domctl_vcpu_msr`).
    Msrs,
}

/// A resource of the host that a domain may be permitted to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum HostResource {
    /// A range of I/O ports.
    Ports {
        /// The first port.
        first: u16,
        /// Number of ports.
        count: u32,
    },
    /// Memory of devices.
    Memory {
        /// The first frame.
        first: Mfn,
        /// Number of pages.
        nr_pages: u64,
    },
    /// An interrupt line, by the host's number of it (GSI). The domain uses the same number.
    Interrupt(u32),
}
