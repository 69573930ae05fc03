//! Requests about one domain, and their answers.

use crate::{DomId, Gfn, Mfn};

/// What a new domain is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum GuestKind {
    /// Paravirtualised: no hardware virtualisation, page tables by hypercall.
    Pv,
    /// Hardware-virtualised without emulated devices but the local APIC.
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
    /// Nested virtualisation.
    pub nested_virt: bool,
    /// Virtual performance counters.
    pub vpmu: bool,
    /// The domain may use the IOMMU.
    pub iommu: bool,
    /// Upper limit of vCPUs.
    pub max_vcpus: u32,
    /// Highest event-channel port.
    pub max_evtchn_port: u32,
    /// Grant-table frames; `None` takes Xen's default.
    pub max_grant_frames: Option<u32>,
    /// Maptrack frames; `None` takes Xen's default.
    pub max_maptrack_frames: Option<u32>,
    /// Highest grant-table version: 1 or 2.
    pub max_grant_version: u32,
    /// CPU pool's number.
    pub cpupool: u32,
    /// Unknown MSRs read as zero instead of faulting (`XEN_X86_MSR_RELAXED`).
    pub msr_relaxed: bool,
    /// Trace buffer of each vCPU in bytes; 0 for none.
    pub vmtrace_size_bytes: u32,
}

/// Why a domain shut down (`SHUTDOWN_*` in `sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ShutdownReason {
    /// Clean power-off.
    Poweroff,
    /// Clean reboot.
    Reboot,
    /// Ready to be saved.
    Suspend,
    /// Crashed.
    Crash,
    /// Its watchdog ran out.
    Watchdog,
    /// Asks for a soft reset.
    SoftReset,
    /// A number that this build does not know.
    Unknown(u8),
}

impl ShutdownReason {
    /// From Xen's number.
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

    /// Xen's number.
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
    /// Being destroyed.
    pub dying: bool,
    /// PVH or HVM.
    pub hvm: bool,
    /// Has shut down; see the reason.
    pub shutdown: bool,
    /// Paused by tools.
    pub paused: bool,
    /// All its vCPUs wait for something.
    pub blocked: bool,
    /// One of its vCPUs runs now.
    pub running: bool,
    /// Under a debugger.
    pub debugged: bool,
    /// Serves xenstore.
    pub xs_domain: bool,
    /// Has hardware-assisted paging.
    pub hap: bool,
}

/// What Xen knows of a domain (`xen_domctl_getdomaininfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// Its states.
    pub flags: DomainFlags,
    /// Why it shut down, when it has.
    pub shutdown_reason: Option<ShutdownReason>,
    /// Pages it has now.
    pub tot_pages: u64,
    /// Pages it may have.
    pub max_pages: u64,
    /// Pages claimed and not yet allocated.
    pub outstanding_pages: u64,
    /// Shared pages.
    pub shr_pages: u64,
    /// Pages paged out.
    pub paged_pages: u64,
    /// Frame of its shared-info page, as a tool maps it.
    pub shared_info_frame: Gfn,
    /// CPU time used in all, in nanoseconds.
    pub cpu_time_ns: u64,
    /// vCPUs that are up.
    pub nr_online_vcpus: u32,
    /// Highest vCPU number; `None` where it has none.
    pub max_vcpu_id: Option<u32>,
    /// XSM label.
    pub ssidref: u32,
    /// Handle: its UUID's 16 bytes.
    pub handle: [u8; 16],
    /// CPU pool's number.
    pub cpupool: u32,
    /// Emulated devices (`XEN_X86_EMU_*`): tells PVH (local APIC only) from HVM.
    pub emulation_flags: u32,
}

impl DomainInfo {
    /// PV, PVH or HVM. PVH is a hardware domain with no emulated device but the local APIC.
    pub fn kind(&self) -> GuestKind {
        const EMU_LAPIC: u32 = 1;
        match (self.flags.hvm, self.emulation_flags & !EMU_LAPIC) {
            (false, _) => GuestKind::Pv,
            (true, 0) => GuestKind::Pvh,
            (true, _) => GuestKind::Hvm,
        }
    }
}

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum VcpuRunState {
    /// Not brought up by the guest.
    Offline,
    /// Waits for an event.
    Blocked,
    /// Runs, on the CPU of [`VcpuInfo::cpu`].
    Running,
    /// Could run.
    Runnable,
}

/// One vCPU (`xen_domctl_getvcpuinfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VcpuInfo {
    /// What it is doing.
    pub state: VcpuRunState,
    /// CPU time used, in nanoseconds.
    pub cpu_time_ns: u64,
    /// The CPU it runs on, or ran on last.
    pub cpu: u32,
}

/// A signal to a vCPU (`XEN_DOMCTL_SENDTRIGGER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Trigger {
    /// Non-maskable interrupt.
    Nmi,
    /// Reset of the CPU.
    Reset,
    /// INIT.
    Init,
    /// Power button.
    Power,
    /// Sleep button.
    Sleep,
}

/// One CPUID leaf (`xen_cpuid_leaf_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question; `0xffff_ffff` where it does not matter.
    pub subleaf: u32,
    /// EAX of the answer.
    pub a: u32,
    /// EBX of the answer.
    pub b: u32,
    /// ECX of the answer.
    pub c: u32,
    /// EDX of the answer.
    pub d: u32,
}

/// One MSR of a policy (`xen_msr_entry_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsrEntry {
    /// MSR's number.
    pub index: u32,
    /// Flags; none are defined.
    pub flags: u32,
    /// Value.
    pub value: u64,
}

/// What a domain sees of the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuPolicy {
    /// CPUID leaves.
    pub leaves: Vec<CpuidLeaf>,
    /// MSRs.
    pub msrs: Vec<MsrEntry>,
}

/// How wide a PV domain's kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PvMode {
    /// 64-bit: page tables of four levels.
    Bits64,
    /// 32-bit: page tables of three levels (PAE). The domain has been made one by
    /// [`make_pv32`](crate::Hypervisor::make_pv32).
    Bits32 {
        /// The kernel can have its top-level page table above 4 GiB.
        extended_cr3: bool,
    },
}

/// Starting registers of a PV domain's vCPU 0. What is not named here is zero; segments,
/// `CR3`, flags and the event masks are set as the PV boot contract asks (`arch-x86/xen.h`).
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

/// Starting registers of a PVH domain's vCPU 0 (`docs/misc/pvh.pandoc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HvmBootCpu {
    /// Entry point, a physical address below 4 GiB.
    pub eip: u32,
    /// Address of `hvm_start_info`, a physical address below 4 GiB.
    pub ebx: u32,
    /// How many vCPUs the domain has: each of them starts with memory cached (MTRRs on, write-back
    /// by default). 0 leaves that to the firmware, as HVM domains want it.
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
    MonitorRingPfn = 28,
    SharingRingPfn = 29,
    TripleFaultReason = 31,
    NrIoreqServerPages = 33,
    Altp2m = 35,
    McaCap = 38,
}
