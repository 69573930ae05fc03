//! `HYPERVISOR_domctl`: what a toolstack does to domains (domctl.h). Not stable: see [`Release`].

use crate::layout::{abi, c_constants};
use crate::{GuestHandle, Release};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of the union of payloads in [`Domctl`].
pub const PAYLOAD_BYTES: usize = 128;

impl Domctl {
    /// The call `cmd` on `domid`, for interface version `interface_version`, with `payload` at the start of the union and
    /// zeros behind it.
    pub fn new<T: IntoBytes + Immutable>(
        interface_version: u32,
        cmd: u32,
        domid: u16,
        payload: &T,
    ) -> Self {
        const {
            assert!(
                size_of::<T>() <= PAYLOAD_BYTES,
                "payload larger than the union"
            )
        };
        Self {
            cmd,
            interface_version,
            domain: domid,
            pad: [0; 3],
            u: crate::payload(payload),
        }
    }

    /// The union, seen as `T`.
    pub fn payload<T: FromBytes>(&self) -> T {
        const {
            assert!(
                size_of::<T>() <= PAYLOAD_BYTES,
                "payload larger than the union"
            )
        };
        crate::from_prefix(self.u.as_bytes())
    }
}

/// An altp2m mode, and how many views the domain may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Altp2m {
    /// `XEN_DOMCTL_ALTP2M_*`: 1 mixed, 2 external, 3 limited.
    pub mode: u16,
    /// Number of views. Only 4.21 and later have this field.
    pub nr: u16,
}

/// `XEN_DOMCTL_createdomain` without regard to the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDomain {
    /// XSM label.
    pub ssidref: u32,
    /// The domain's UUID.
    pub handle: [u8; 16],
    /// `CDF_*`.
    pub flags: u32,
    /// `IOMMU_*`.
    pub iommu_opts: u32,
    /// Upper limit of vCPUs.
    pub max_vcpus: u32,
    /// Highest event-channel port.
    pub max_evtchn_port: u32,
    /// Grant-table frames; negative for Xen's default.
    pub max_grant_frames: i32,
    /// Maptrack frames; negative for Xen's default.
    pub max_maptrack_frames: i32,
    /// Highest grant-table version in the low four bits.
    pub grant_opts: u32,
    /// Alternate p2m; `None` for off.
    pub altp2m: Option<Altp2m>,
    /// Trace buffer of each vCPU in bytes; 0 for none.
    pub vmtrace_size_bytes: u32,
    /// The CPU pool's number.
    pub cpupool_id: u32,
    /// Emulated devices and more.
    pub arch: ArchDomainConfig,
}

/// A release cannot do what a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Xen {release} cannot {what}")]
pub struct Unsupported {
    /// The release.
    pub release: Release,
    /// The requested action, as "do this".
    pub what: &'static str,
}

impl CreateDomain {
    /// The call for `release`; `domid` 0 lets Xen choose.
    ///
    /// # Errors
    /// [`Unsupported`] where `release` has no field for something that is set.
    pub fn encode(&self, release: Release, domid: u16) -> Result<Domctl, Unsupported> {
        let version = release.interface().domctl;
        Ok(match release {
            Release::V4_17 | Release::V4_18 => {
                Domctl::new(version, CREATE_DOMAIN, domid, &self.encode_4_17(release)?)
            }
            Release::V4_19 | Release::V4_20 => {
                Domctl::new(version, CREATE_DOMAIN, domid, &self.encode_4_19())
            }
            Release::V4_21 | Release::V4_22 => {
                Domctl::new(version, CREATE_DOMAIN, domid, &self.encode_4_21())
            }
        })
    }

    fn encode_4_17(&self, release: Release) -> Result<CreateDomain4_17, Unsupported> {
        if self.altp2m.is_some() {
            return Err(Unsupported {
                release,
                what: "set altp2m when it creates a domain",
            });
        }
        Ok(CreateDomain4_17 {
            ssidref: self.ssidref,
            handle: self.handle,
            flags: self.flags,
            iommu_opts: self.iommu_opts,
            max_vcpus: self.max_vcpus,
            max_evtchn_port: self.max_evtchn_port,
            max_grant_frames: self.max_grant_frames,
            max_maptrack_frames: self.max_maptrack_frames,
            grant_opts: self.grant_opts,
            vmtrace_size: self.vmtrace_size_bytes,
            cpupool_id: self.cpupool_id,
            arch: self.arch,
        })
    }

    fn encode_4_19(&self) -> CreateDomain4_19 {
        CreateDomain4_19 {
            ssidref: self.ssidref,
            handle: self.handle,
            flags: self.flags,
            iommu_opts: self.iommu_opts,
            max_vcpus: self.max_vcpus,
            max_evtchn_port: self.max_evtchn_port,
            max_grant_frames: self.max_grant_frames,
            max_maptrack_frames: self.max_maptrack_frames,
            grant_opts: self.grant_opts,
            altp2m_opts: self.altp2m.map_or(0, |altp2m| u32::from(altp2m.mode)),
            vmtrace_size: self.vmtrace_size_bytes,
            cpupool_id: self.cpupool_id,
            arch: self.arch,
        }
    }

    fn encode_4_21(&self) -> CreateDomain4_21 {
        let altp2m = self.altp2m.unwrap_or(Altp2m { mode: 0, nr: 0 });
        CreateDomain4_21 {
            ssidref: self.ssidref,
            handle: self.handle,
            flags: self.flags,
            iommu_opts: self.iommu_opts,
            max_vcpus: self.max_vcpus,
            max_evtchn_port: self.max_evtchn_port,
            max_grant_frames: self.max_grant_frames,
            max_maptrack_frames: self.max_maptrack_frames,
            grant_opts: self.grant_opts,
            altp2m_opts: altp2m.mode,
            altp2m_nr: altp2m.nr,
            vmtrace_size: self.vmtrace_size_bytes,
            cpupool_id: self.cpupool_id,
            arch: self.arch,
        }
    }
}

c_constants! {
    /// Makes a domain.
    CREATE_DOMAIN: u32 = 1, "XEN_DOMCTL_createdomain";
    /// Destroys a domain, a part at a time.
    DESTROY_DOMAIN: u32 = 2, "XEN_DOMCTL_destroydomain";
    /// Pauses a domain.
    PAUSE_DOMAIN: u32 = 3, "XEN_DOMCTL_pausedomain";
    /// Takes one pause away.
    UNPAUSE_DOMAIN: u32 = 4, "XEN_DOMCTL_unpausedomain";
    /// Fills [`DomainInfo`]. Up to 4.21 of the first domain with this number or a higher one.
    GET_DOMAIN_INFO: u32 = 5, "XEN_DOMCTL_getdomaininfo";
    /// Sets a vCPU's affinity.
    SET_VCPU_AFFINITY: u32 = 9, "XEN_DOMCTL_setvcpuaffinity";
    /// Shadow and log-dirty operations.
    SHADOW_OP: u32 = 10, "XEN_DOMCTL_shadow_op";
    /// Sets the limit of a domain's memory.
    MAX_MEM: u32 = 11, "XEN_DOMCTL_max_mem";
    /// Sets a vCPU's registers.
    SET_VCPU_CONTEXT: u32 = 12, "XEN_DOMCTL_setvcpucontext";
    /// Gets a vCPU's registers.
    GET_VCPU_CONTEXT: u32 = 13, "XEN_DOMCTL_getvcpucontext";
    /// Fills [`VcpuInfo`].
    GET_VCPU_INFO: u32 = 14, "XEN_DOMCTL_getvcpuinfo";
    /// Allocates vCPUs.
    MAX_VCPUS: u32 = 15, "XEN_DOMCTL_max_vcpus";
    /// Gets and sets scheduler parameters of a domain.
    SCHEDULER_OP: u32 = 16, "XEN_DOMCTL_scheduler_op";
    /// Changes a domain's handle.
    SET_DOMAIN_HANDLE: u32 = 17, "XEN_DOMCTL_setdomainhandle";
    /// Marks a domain as debugged.
    SET_DEBUGGING: u32 = 18, "XEN_DOMCTL_setdebugging";
    /// Lets a domain use an interrupt.
    IRQ_PERMISSION: u32 = 19, "XEN_DOMCTL_irq_permission";
    /// Lets a domain use I/O memory.
    IOMEM_PERMISSION: u32 = 20, "XEN_DOMCTL_iomem_permission";
    /// Lets a domain use I/O ports.
    IOPORT_PERMISSION: u32 = 21, "XEN_DOMCTL_ioport_permission";
    /// Fills a hypercall page.
    HYPERCALL_INIT: u32 = 22, "XEN_DOMCTL_hypercall_init";
    /// Sets the offset of a domain's wall clock.
    SET_TIME_OFFSET: u32 = 24, "XEN_DOMCTL_settimeoffset";
    /// Gets a vCPU's affinity.
    GET_VCPU_AFFINITY: u32 = 25, "XEN_DOMCTL_getvcpuaffinity";
    /// Lets a domain that has shut down run on.
    RESUME_DOMAIN: u32 = 27, "XEN_DOMCTL_resumedomain";
    /// Sends a trigger.
    SEND_TRIGGER: u32 = 28, "XEN_DOMCTL_sendtrigger";
    /// Sets the event channel that reports a suspend.
    SUBSCRIBE: u32 = 29, "XEN_DOMCTL_subscribe";
    /// Gets all HVM save records.
    GET_HVM_CONTEXT: u32 = 33, "XEN_DOMCTL_gethvmcontext";
    /// Loads HVM save records.
    SET_HVM_CONTEXT: u32 = 34, "XEN_DOMCTL_sethvmcontext";
    /// Makes a PV domain a 32-bit or 64-bit one.
    SET_ADDRESS_SIZE: u32 = 35, "XEN_DOMCTL_set_address_size";
    /// Says which it is.
    GET_ADDRESS_SIZE: u32 = 36, "XEN_DOMCTL_get_address_size";
    /// Sets further registers of a PV vCPU.
    SET_EXT_VCPU_CONTEXT: u32 = 42, "XEN_DOMCTL_set_ext_vcpucontext";
    /// Gets further registers of a PV vCPU.
    GET_EXT_VCPU_CONTEXT: u32 = 43, "XEN_DOMCTL_get_ext_vcpucontext";
    /// Sets the target of a stub domain.
    SET_TARGET: u32 = 46, "XEN_DOMCTL_set_target";
    /// Gives a device to a domain.
    ASSIGN_DEVICE: u32 = 37, "XEN_DOMCTL_assign_device";
    /// Takes a device from a domain.
    DEASSIGN_DEVICE: u32 = 47, "XEN_DOMCTL_deassign_device";
    /// Kind of device: PCI.
    DEVICE_PCI: u32 = 0, "XEN_DOMCTL_DEV_PCI";
    /// Assign also where memory is reserved for the device.
    DEVICE_RDM_RELAXED: u32 = 1, "XEN_DOMCTL_DEV_RDM_RELAXED";
    /// Gets one HVM save record.
    GET_HVM_CONTEXT_PARTIAL: u32 = 55, "XEN_DOMCTL_gethvmcontext_partial";
    /// Says what kind of page each of some frames is.
    GET_PAGE_FRAME_INFO: u32 = 61, "XEN_DOMCTL_getpageframeinfo3";
    /// Gets the time-stamp counter's mode.
    GET_TSC_INFO: u32 = 59, "XEN_DOMCTL_gettscinfo";
    /// Sets the time-stamp counter's mode.
    SET_TSC_INFO: u32 = 60, "XEN_DOMCTL_settscinfo";
    /// Sets the floating point and vector registers of a PV vCPU.
    SET_VCPU_EXT_STATE: u32 = 62, "XEN_DOMCTL_setvcpuextstate";
    /// Gets the floating point and vector registers of a PV vCPU.
    GET_VCPU_EXT_STATE: u32 = 63, "XEN_DOMCTL_getvcpuextstate";
    /// Sets the domain's NUMA nodes.
    SET_NODE_AFFINITY: u32 = 68, "XEN_DOMCTL_setnodeaffinity";
    /// Gets the domain's NUMA nodes.
    GET_NODE_AFFINITY: u32 = 69, "XEN_DOMCTL_getnodeaffinity";
    /// Gets the model specific registers of a PV vCPU.
    GET_VCPU_MSRS: u32 = 72, "XEN_DOMCTL_get_vcpu_msrs";
    /// Sets them.
    SET_VCPU_MSRS: u32 = 73, "XEN_DOMCTL_set_vcpu_msrs";
    /// Prepares a domain for a soft reset.
    SOFT_RESET: u32 = 79, "XEN_DOMCTL_soft_reset";
    /// Gets a domain's CPUID leaves and MSRs.
    GET_CPU_POLICY: u32 = 82, "XEN_DOMCTL_get_cpu_policy";
    /// Sets them.
    SET_CPU_POLICY: u32 = 83, "XEN_DOMCTL_set_cpu_policy";
    /// Gets the size of the pool that page tables come from.
    GET_PAGING_MEMPOOL_SIZE: u32 = 85, "XEN_DOMCTL_get_paging_mempool_size";
    /// Sets it.
    SET_PAGING_MEMPOOL_SIZE: u32 = 86, "XEN_DOMCTL_set_paging_mempool_size";
    /// State of a domain; stable: its interface version is 0.
    GET_DOMAIN_STATE: u32 = 90, "XEN_DOMCTL_get_domain_state" in V4_21..=V4_22;

    /// Creation flag: PVH or HVM.
    CDF_HVM: u32 = 1 << 0, "XEN_DOMCTL_CDF_hvm";
    /// Creation flag: hardware-assisted paging.
    CDF_HAP: u32 = 1 << 1, "XEN_DOMCTL_CDF_hap";
    /// Creation flag: no out-of-sync shadow page tables.
    CDF_OOS_OFF: u32 = 1 << 3, "XEN_DOMCTL_CDF_oos_off";
    /// Creation flag: serves xenstore.
    CDF_XS_DOMAIN: u32 = 1 << 4, "XEN_DOMCTL_CDF_xs_domain";
    /// Creation flag: may use the IOMMU.
    CDF_IOMMU: u32 = 1 << 5, "XEN_DOMCTL_CDF_iommu";
    /// Creation flag: nested virtualisation.
    CDF_NESTED_VIRT: u32 = 1 << 6, "XEN_DOMCTL_CDF_nested_virt";
    /// Creation flag: virtual performance counters.
    CDF_VPMU: u32 = 1 << 7, "XEN_DOMCTL_CDF_vpmu";
    /// IOMMU option: page tables are not shared with HAP.
    IOMMU_NO_SHAREPT: u32 = 1 << 0, "XEN_DOMCTL_IOMMU_no_sharept";
    /// Bits of the highest grant-table version.
    GRANT_VERSION_MASK: u32 = 0xf, "XEN_DOMCTL_GRANT_version_mask";

    /// Emulated: local APIC.
    EMU_LAPIC: u32 = 1 << 0, "XEN_X86_EMU_LAPIC";
    /// Emulated: HPET.
    EMU_HPET: u32 = 1 << 1, "XEN_X86_EMU_HPET";
    /// Emulated: power management.
    EMU_PM: u32 = 1 << 2, "XEN_X86_EMU_PM";
    /// Emulated: real-time clock.
    EMU_RTC: u32 = 1 << 3, "XEN_X86_EMU_RTC";
    /// Emulated: I/O APIC.
    EMU_IOAPIC: u32 = 1 << 4, "XEN_X86_EMU_IOAPIC";
    /// Emulated: interrupt controller.
    EMU_PIC: u32 = 1 << 5, "XEN_X86_EMU_PIC";
    /// Emulated: VGA.
    EMU_VGA: u32 = 1 << 6, "XEN_X86_EMU_VGA";
    /// Emulated: IOMMU.
    EMU_IOMMU: u32 = 1 << 7, "XEN_X86_EMU_IOMMU";
    /// Emulated: interval timer.
    EMU_PIT: u32 = 1 << 8, "XEN_X86_EMU_PIT";
    /// Interrupts over event channels.
    EMU_USE_PIRQ: u32 = 1 << 9, "XEN_X86_EMU_USE_PIRQ";
    /// Emulated: PCI in the hypervisor.
    EMU_VPCI: u32 = 1 << 10, "XEN_X86_EMU_VPCI";
    /// All of them.
    EMU_ALL: u32 = 0x7ff, "XEN_X86_EMU_ALL";
    /// Unknown MSRs read as zero.
    MSR_RELAXED: u32 = 1 << 0, "XEN_X86_MSR_RELAXED";

    /// Domain state: dying.
    INFO_DYING: u32 = 1 << 0, "XEN_DOMINF_dying";
    /// Domain state: PVH or HVM.
    INFO_HVM_GUEST: u32 = 1 << 1, "XEN_DOMINF_hvm_guest";
    /// Domain state: has shut down.
    INFO_SHUTDOWN: u32 = 1 << 2, "XEN_DOMINF_shutdown";
    /// Domain state: paused by tools.
    INFO_PAUSED: u32 = 1 << 3, "XEN_DOMINF_paused";
    /// Domain state: all vCPUs are blocked.
    INFO_BLOCKED: u32 = 1 << 4, "XEN_DOMINF_blocked";
    /// Domain state: a vCPU is running.
    INFO_RUNNING: u32 = 1 << 5, "XEN_DOMINF_running";
    /// Domain state: under a debugger.
    INFO_DEBUGGED: u32 = 1 << 6, "XEN_DOMINF_debugged";
    /// Domain state: serves xenstore.
    INFO_XS_DOMAIN: u32 = 1 << 7, "XEN_DOMINF_xs_domain";
    /// Domain state: has hardware-assisted paging.
    INFO_HAP: u32 = 1 << 8, "XEN_DOMINF_hap";
    /// First bit of the shutdown reason.
    INFO_SHUTDOWN_SHIFT: u32 = 16, "XEN_DOMINF_shutdownshift";
    /// Its bits once shifted.
    INFO_SHUTDOWN_MASK: u32 = 255, "XEN_DOMINF_shutdownmask";
    /// `max_vcpu_id` of a domain without vCPUs.
    INVALID_MAX_VCPU_ID: u32 = u32::MAX, "XEN_INVALID_MAX_VCPU_ID";

    /// Affinity flag: the hard map.
    VCPUAFFINITY_HARD: u32 = 1 << 0, "XEN_VCPUAFFINITY_HARD";
    /// Affinity flag: the soft map.
    VCPUAFFINITY_SOFT: u32 = 1 << 1, "XEN_VCPUAFFINITY_SOFT";
    /// Affinity flag: override a temporary pin.
    VCPUAFFINITY_FORCE: u32 = 1 << 2, "XEN_VCPUAFFINITY_FORCE";

    /// Trigger: non-maskable interrupt.
    TRIGGER_NMI: u32 = 0, "XEN_DOMCTL_SENDTRIGGER_NMI";
    /// Trigger: reset.
    TRIGGER_RESET: u32 = 1, "XEN_DOMCTL_SENDTRIGGER_RESET";
    /// Trigger: INIT.
    TRIGGER_INIT: u32 = 2, "XEN_DOMCTL_SENDTRIGGER_INIT";
    /// Trigger: power button.
    TRIGGER_POWER: u32 = 3, "XEN_DOMCTL_SENDTRIGGER_POWER";
    /// Trigger: sleep button.
    TRIGGER_SLEEP: u32 = 4, "XEN_DOMCTL_SENDTRIGGER_SLEEP";

    /// Scheduler: credit.
    SCHEDULER_CREDIT: u32 = 5, "XEN_SCHEDULER_CREDIT";
    /// Scheduler: credit2.
    SCHEDULER_CREDIT2: u32 = 6, "XEN_SCHEDULER_CREDIT2";
    /// Scheduler: ARINC 653.
    SCHEDULER_ARINC653: u32 = 7, "XEN_SCHEDULER_ARINC653";
    /// Scheduler: real-time.
    SCHEDULER_RTDS: u32 = 8, "XEN_SCHEDULER_RTDS";
    /// Scheduler: null.
    SCHEDULER_NULL: u32 = 9, "XEN_SCHEDULER_NULL";
    /// Scheduler operation: set.
    SCHEDOP_PUTINFO: u32 = 0, "XEN_DOMCTL_SCHEDOP_putinfo";
    /// Scheduler operation: get.
    SCHEDOP_GETINFO: u32 = 1, "XEN_DOMCTL_SCHEDOP_getinfo";

    /// Shadow operation: no longer note the pages that are written to.
    SHADOW_OP_OFF: u32 = 0, "XEN_DOMCTL_SHADOW_OP_OFF";
    /// Shadow operation: note them.
    SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2, "XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY";
    /// Shadow operation: give their bitmap, and begin a new one.
    SHADOW_OP_CLEAN: u32 = 11, "XEN_DOMCTL_SHADOW_OP_CLEAN";
    /// Flag of `CLEAN`: pages that Xen itself writes to count as written.
    SHADOW_LOGDIRTY_FINAL: u32 = 1 << 0, "XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL";
    /// Shadow operation: get the allocation in MiB.
    SHADOW_OP_GET_ALLOCATION: u32 = 30, "XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION";
    /// Shadow operation: set the allocation in MiB.
    SHADOW_OP_SET_ALLOCATION: u32 = 31, "XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION";

    /// A frame that is none of the domain's pages, or one that Xen itself owns.
    PFINFO_XTAB: u32 = 0xf << 28, "XEN_DOMCTL_PFINFO_XTAB";
    /// A page whose memory is broken.
    PFINFO_BROKEN: u32 = 0xd << 28, "XEN_DOMCTL_PFINFO_BROKEN";
    /// First bit of a page's type.
    PFINFO_LTAB_SHIFT: u32 = 28, "XEN_DOMCTL_PFINFO_LTAB_SHIFT";
    /// Bits of a page's type.
    PFINFO_LTAB_MASK: u32 = 0xf << 28, "XEN_DOMCTL_PFINFO_LTAB_MASK";
}

abi! {
    /// A domctl: a head, and a union of payloads.
    struct Domctl = "struct xen_domctl", 144 {
        /// Which call.
        0 cmd: u32;
        /// The version that the caller speaks; Xen answers `EACCES` to any but its own.
        4 interface_version: u32;
        /// The domain.
        8 domain: u16;
        /// Zero.
        10 pad: [u16; 3] = "_pad";
        /// The payload.
        16 u: [u64; 16];
    }
    /// Emulated devices and more (`xen_arch_domainconfig`).
    struct ArchDomainConfig = "struct xen_arch_domainconfig", 8 {
        /// `EMU_*`.
        0 emulation_flags: u32;
        /// `MSR_RELAXED` or 0.
        4 misc_flags: u32;
    }
    /// `XEN_DOMCTL_createdomain` of 4.17 and 4.18.
    struct CreateDomain4_17 = "struct xen_domctl_createdomain", 64 in V4_17..=V4_18 {
        /// XSM label.
        0 ssidref: u32;
        /// UUID.
        4 handle: [u8; 16];
        /// `CDF_*`.
        20 flags: u32;
        /// `IOMMU_*`.
        24 iommu_opts: u32;
        /// Upper limit of vCPUs.
        28 max_vcpus: u32;
        /// Highest event-channel port.
        32 max_evtchn_port: u32;
        /// Grant-table frames; negative for the default.
        36 max_grant_frames: i32;
        /// Maptrack frames; negative for the default.
        40 max_maptrack_frames: i32;
        /// Highest grant-table version.
        44 grant_opts: u32;
        /// Trace buffer of each vCPU in bytes.
        48 vmtrace_size: u32;
        /// CPU pool.
        52 cpupool_id: u32;
        /// Emulated devices.
        56 arch: ArchDomainConfig;
    }
    /// `XEN_DOMCTL_createdomain` of 4.19 and 4.20.
    struct CreateDomain4_19 = "struct xen_domctl_createdomain", 68 in V4_19..=V4_20 {
        /// XSM label.
        0 ssidref: u32;
        /// UUID.
        4 handle: [u8; 16];
        /// `CDF_*`.
        20 flags: u32;
        /// `IOMMU_*`.
        24 iommu_opts: u32;
        /// Upper limit of vCPUs.
        28 max_vcpus: u32;
        /// Highest event-channel port.
        32 max_evtchn_port: u32;
        /// Grant-table frames; negative for the default.
        36 max_grant_frames: i32;
        /// Maptrack frames; negative for the default.
        40 max_maptrack_frames: i32;
        /// Highest grant-table version.
        44 grant_opts: u32;
        /// Alternate p2m mode.
        48 altp2m_opts: u32;
        /// Trace buffer of each vCPU in bytes.
        52 vmtrace_size: u32;
        /// CPU pool.
        56 cpupool_id: u32;
        /// Emulated devices.
        60 arch: ArchDomainConfig;
    }
    /// `XEN_DOMCTL_createdomain` of 4.21 and 4.22.
    struct CreateDomain4_21 = "struct xen_domctl_createdomain", 68 in V4_21..=V4_22 {
        /// XSM label.
        0 ssidref: u32;
        /// UUID.
        4 handle: [u8; 16];
        /// `CDF_*`.
        20 flags: u32;
        /// `IOMMU_*`.
        24 iommu_opts: u32;
        /// Upper limit of vCPUs.
        28 max_vcpus: u32;
        /// Highest event-channel port.
        32 max_evtchn_port: u32;
        /// Grant-table frames; negative for the default.
        36 max_grant_frames: i32;
        /// Maptrack frames; negative for the default.
        40 max_maptrack_frames: i32;
        /// Highest grant-table version.
        44 grant_opts: u32;
        /// Alternate p2m mode.
        48 altp2m_opts: u16 = "altp2m.opts";
        /// Number of alternate p2m views.
        50 altp2m_nr: u16 = "altp2m.nr";
        /// Trace buffer of each vCPU in bytes.
        52 vmtrace_size: u32;
        /// CPU pool.
        56 cpupool_id: u32;
        /// Emulated devices.
        60 arch: ArchDomainConfig;
    }
    /// Information about a domain (`XEN_DOMCTL_getdomaininfo`, `XEN_SYSCTL_getdomaininfolist`).
    struct DomainInfo = "struct xen_domctl_getdomaininfo", 112 {
        /// The domain's number.
        0 domain: u16;
        /// Padding.
        2 pad1: u16;
        /// `INFO_*`.
        4 flags: u32;
        /// Pages it has.
        8 tot_pages: u64;
        /// Pages it may have.
        16 max_pages: u64;
        /// Pages claimed, not yet allocated.
        24 outstanding_pages: u64;
        /// Shared pages.
        32 shr_pages: u64;
        /// Pages paged out.
        40 paged_pages: u64;
        /// Frame of the shared-info page.
        48 shared_info_frame: u64;
        /// CPU time in nanoseconds.
        56 cpu_time: u64;
        /// vCPUs that are up.
        64 nr_online_vcpus: u32;
        /// Highest vCPU number, or [`INVALID_MAX_VCPU_ID`].
        68 max_vcpu_id: u32;
        /// XSM label.
        72 ssidref: u32;
        /// UUID.
        76 handle: [u8; 16];
        /// CPU pool.
        92 cpupool: u32;
        /// Bits of a guest-physical address.
        96 gpaddr_bits: u8;
        /// Padding.
        97 pad2: [u8; 7];
        /// Emulated devices.
        104 arch: ArchDomainConfig = "arch_config";
    }
    /// A bitmap in the caller's memory (`xenctl_bitmap`).
    struct Bitmap = "struct xenctl_bitmap", 16 {
        /// Its bytes; bit n of byte n / 8.
        0 bitmap: GuestHandle;
        /// Its length in bits.
        8 nr_bits: u32;
        /// Padding.
        12 pad: u32 = "";
    }
    /// Argument of `XEN_DOMCTL_getvcpuinfo`.
    struct VcpuInfo = "struct xen_domctl_getvcpuinfo", 24 {
        /// In: the vCPU.
        0 vcpu: u32;
        /// Out: is up.
        4 online: u8;
        /// Out: waits for an event.
        5 blocked: u8;
        /// Out: runs now.
        6 running: u8;
        /// Padding.
        7 pad: u8 = "";
        /// Out: CPU time in nanoseconds.
        8 cpu_time: u64;
        /// Out: the CPU it is on.
        16 cpu: u32;
        /// Padding.
        20 pad2: u32 = "";
    }
    /// Argument of `XEN_DOMCTL_{get,set}vcpuaffinity`.
    struct VcpuAffinity = "struct xen_domctl_vcpuaffinity", 40 {
        /// The vCPU.
        0 vcpu: u32;
        /// `VCPUAFFINITY_*`.
        4 flags: u32;
        /// Hard affinity: CPUs that it may use.
        8 cpumap_hard: Bitmap;
        /// Soft affinity: CPUs that it prefers.
        24 cpumap_soft: Bitmap;
    }
    /// Argument of `XEN_DOMCTL_{get,set}nodeaffinity`.
    struct NodeAffinity = "struct xen_domctl_nodeaffinity", 16 {
        /// The nodes.
        0 nodemap: Bitmap;
    }
    /// Argument of `XEN_DOMCTL_shadow_op`.
    struct ShadowOp = "struct xen_domctl_shadow_op", 40 {
        /// `SHADOW_OP_*`.
        0 op: u32;
        /// Flags of some operations.
        4 mode: u32;
        /// Allocation in MiB.
        8 mb: u32;
        /// Padding.
        12 pad: u32 = "";
        /// Bitmap of dirty pages.
        16 dirty_bitmap: GuestHandle;
        /// Its length in bits.
        24 pages: u64;
        /// Faults counted.
        32 fault_count: u32 = "stats.fault_count";
        /// Dirty pages counted.
        36 dirty_count: u32 = "stats.dirty_count";
    }
    /// Argument of `XEN_DOMCTL_max_mem`.
    struct MaxMem = "struct xen_domctl_max_mem", 8 {
        /// The limit in KiB.
        0 max_memkb: u64;
    }
    /// Argument of `XEN_DOMCTL_{get,set}vcpucontext`.
    struct VcpuContext = "struct xen_domctl_vcpucontext", 16 {
        /// The vCPU.
        0 vcpu: u32;
        /// Padding.
        4 pad: u32 = "";
        /// A `VcpuGuestContext`.
        8 ctxt: GuestHandle;
    }
    /// Argument of `XEN_DOMCTL_{get,set}_ext_vcpucontext`.
    struct ExtVcpuContext = "struct xen_domctl_ext_vcpucontext", 64 {
        /// The vCPU.
        0 vcpu: u32;
        /// Bytes of this structure.
        4 size: u32;
        /// Entry of system calls of 32-bit code.
        8 syscall32_callback_eip: u64;
        /// Entry of SYSENTER.
        16 sysenter_callback_eip: u64;
        /// Code segment of the former.
        24 syscall32_callback_cs: u16;
        /// Code segment of the latter.
        26 sysenter_callback_cs: u16;
        /// Whether the former turns events off.
        28 syscall32_disables_events: u8;
        /// Whether the latter does.
        29 sysenter_disables_events: u8;
        /// Padding.
        30 pad: [u8; 2] = "";
        /// State of the machine check.
        32 vmce: [u64; 4];
    }
    /// Argument of `XEN_DOMCTL_{get,set}vcpuextstate`.
    struct VcpuExtState = "struct xen_domctl_vcpuextstate", 32 {
        /// The vCPU.
        0 vcpu: u32;
        /// Padding.
        4 pad: u32 = "";
        /// The features of the state.
        8 xfeature_mask: u64;
        /// Bytes of the buffer, or of the state.
        16 size: u64;
        /// The state, or null to ask for mask and size.
        24 buffer: GuestHandle;
    }
    /// Argument of `XEN_DOMCTL_{get,set}_vcpu_msrs`.
    struct VcpuMsrs = "struct xen_domctl_vcpu_msrs", 16 {
        /// The vCPU.
        0 vcpu: u32;
        /// Registers in the array, or number of those that there are.
        4 msr_count: u32;
        /// [`VcpuMsr`]s, or null to ask for the number.
        8 msrs: GuestHandle;
    }
    /// A model specific register of a vCPU.
    struct VcpuMsr = "struct xen_domctl_vcpu_msr", 16 {
        /// Its number.
        0 index: u32;
        /// Zero.
        4 reserved: u32;
        /// Its value.
        8 value: u64;
    }
    /// Argument of `XEN_DOMCTL_getpageframeinfo3`.
    struct PageFrameInfo = "struct xen_domctl_getpageframeinfo3", 16 {
        /// Number of frames, at most 1024.
        0 num: u64;
        /// u64 frames; Xen writes `PFINFO_*` in their place.
        8 array: GuestHandle;
    }
    /// Argument of `XEN_DOMCTL_max_vcpus`.
    struct MaxVcpus = "struct xen_domctl_max_vcpus", 4 {
        /// Number of frames.
        0 max: u32;
    }
    /// Credit's and credit2's parameters of a domain.
    struct SchedCredit = "struct xen_domctl_sched_credit2", 4 {
        /// Share against the others.
        0 weight: u16;
        /// Upper limit in per cent of a CPU.
        2 cap: u16;
    }
    /// Argument of `XEN_DOMCTL_scheduler_op`.
    struct SchedulerOp = "struct xen_domctl_scheduler_op", 24 {
        /// `SCHEDULER_*`.
        0 sched_id: u32;
        /// `SCHEDOP_*`.
        4 cmd: u32;
        /// Parameters of credit and credit2; other schedulers put more into this union.
        8 credit: SchedCredit = "u.credit2";
        /// The rest of the union.
        12 rest: [u32; 3] = "";
    }
    /// Argument of `XEN_DOMCTL_setdomainhandle`.
    struct SetDomainHandle = "struct xen_domctl_setdomainhandle", 16 {
        /// UUID.
        0 handle: [u8; 16];
    }
    /// Argument of `XEN_DOMCTL_hypercall_init`.
    struct HypercallInit = "struct xen_domctl_hypercall_init", 8 {
        /// The frame to fill: a machine frame of a PV domain.
        0 gmfn: u64;
    }
    /// Argument of `XEN_DOMCTL_settimeoffset`.
    struct SetTimeOffset = "struct xen_domctl_settimeoffset", 8 {
        /// Seconds.
        0 time_offset_seconds: i64;
    }
    /// Argument of `XEN_DOMCTL_{get,set}hvmcontext`.
    struct HvmContext = "struct xen_domctl_hvmcontext", 16 {
        /// Bytes of the buffer, or used of it.
        0 size: u32;
        /// Padding.
        4 pad: u32 = "";
        /// Records, or null to ask for the size.
        8 buffer: GuestHandle;
    }
    /// Argument of `XEN_DOMCTL_gethvmcontext_partial`.
    struct HvmContextPartial = "struct xen_domctl_hvmcontext_partial", 24 {
        /// The record's type.
        0 kind: u32 = "type";
        /// Its instance: a vCPU's number.
        4 instance: u32;
        /// Bytes of the buffer.
        8 bufsz: u64;
        /// Gets the record without its descriptor.
        16 buffer: GuestHandle;
    }
    /// Argument of `XEN_DOMCTL_{get,set}_address_size`.
    struct AddressSize = "struct xen_domctl_address_size", 4 {
        /// 32 or 64.
        0 size: u32;
    }
    /// Argument of `XEN_DOMCTL_assign_device` and `XEN_DOMCTL_deassign_device` for a PCI device.
    struct AssignDevice = "struct xen_domctl_assign_device", 24 {
        /// `DEVICE_*`: the kind.
        0 dev: u32;
        /// `DEVICE_RDM_RELAXED`, at an assign alone.
        4 flags: u32;
        /// The PCI device.
        8 machine_sbdf: u32 = "u.pci.machine_sbdf";
        /// Unused by PCI devices.
        12 rest: [u8; 12] = "";
    }
    /// Argument of `XEN_DOMCTL_irq_permission`.
    struct IrqPermission = "struct xen_domctl_irq_permission", 8 {
        /// The interrupt, by the number that the caller has mapped.
        0 pirq: u32;
        /// Whether the domain may use it.
        4 allow_access: u8;
        /// Zeros.
        5 pad: [u8; 3];
    }
    /// Argument of `XEN_DOMCTL_iomem_permission`.
    struct IomemPermission = "struct xen_domctl_iomem_permission", 24 {
        /// The first frame.
        0 first_mfn: u64;
        /// Number of frames.
        8 nr_mfns: u64;
        /// Whether the domain may use them.
        16 allow_access: u8;
        /// Padding.
        17 pad: [u8; 7] = "";
    }
    /// Argument of `XEN_DOMCTL_ioport_permission`.
    struct IoportPermission = "struct xen_domctl_ioport_permission", 12 {
        /// The first port.
        0 first_port: u32;
        /// Number of ports.
        4 nr_ports: u32;
        /// Whether the domain may use them.
        8 allow_access: u8;
        /// Padding.
        9 pad: [u8; 3] = "";
    }
    /// Argument of `XEN_DOMCTL_sendtrigger`.
    struct SendTrigger = "struct xen_domctl_sendtrigger", 8 {
        /// `TRIGGER_*`.
        0 trigger: u32;
        /// The vCPU.
        4 vcpu: u32;
    }
    /// Argument of `XEN_DOMCTL_{get,set}tscinfo`.
    struct TscInfo = "struct xen_domctl_tsc_info", 24 {
        /// 0 default, 1 always emulate, 2 never emulate.
        0 tsc_mode: u32;
        /// Frequency in kHz.
        4 gtsc_khz: u32;
        /// Number of times that the domain was moved.
        8 incarnation: u32;
        /// Padding.
        12 pad: u32;
        /// Nanoseconds that have passed.
        16 elapsed_nsec: u64;
    }
    /// Argument of `XEN_DOMCTL_set_target`.
    struct SetTarget = "struct xen_domctl_set_target", 2 {
        /// The target.
        0 target: u16;
    }
    /// Argument of `XEN_DOMCTL_subscribe`.
    struct Subscribe = "struct xen_domctl_subscribe", 4 {
        /// The caller's port.
        0 port: u32;
    }
    /// Argument of `XEN_DOMCTL_{get,set}_cpu_policy`.
    struct CpuPolicy = "struct xen_domctl_cpu_policy", 40 {
        /// Leaves in the array.
        0 nr_leaves: u32;
        /// MSRs in the array.
        4 nr_msrs: u32;
        /// [`CpuidLeaf`]s.
        8 leaves: GuestHandle;
        /// [`MsrEntry`]s.
        16 msrs: GuestHandle;
        /// Out, of a refused set: the leaf, or `u32::MAX`.
        24 err_leaf: u32;
        /// Out, of a refused set: the subleaf, or `u32::MAX`.
        28 err_subleaf: u32;
        /// Out, of a refused set: the MSR, or `u32::MAX`.
        32 err_msr: u32;
        /// Padding.
        36 pad: u32 = "";
    }
    /// A CPUID leaf.
    struct CpuidLeaf = "xen_cpuid_leaf_t", 24 {
        /// EAX of the question.
        0 leaf: u32;
        /// ECX of the question; `u32::MAX` where it does not matter.
        4 subleaf: u32;
        /// EAX of the answer.
        8 a: u32;
        /// EBX of the answer.
        12 b: u32;
        /// ECX of the answer.
        16 c: u32;
        /// EDX of the answer.
        20 d: u32;
    }
    /// One MSR with its value.
    struct MsrEntry = "xen_msr_entry_t", 16 {
        /// Its number.
        0 idx: u32;
        /// Zero.
        4 flags: u32;
        /// Its value.
        8 val: u64;
    }
    /// Argument of `XEN_DOMCTL_{get,set}_paging_mempool_size`.
    struct PagingMempool = "struct xen_domctl_paging_mempool", 8 {
        /// Bytes, a multiple of the page size.
        0 size: u64;
    }
    /// Argument of `XEN_DOMCTL_get_domain_state`.
    struct GetDomainState = "struct xen_domctl_get_domain_state", 16 in V4_21..=V4_22 {
        /// States.
        0 state: u16;
        /// Roles.
        2 caps: u16;
        /// Zero.
        4 pad0: u32;
        /// A number that no other domain of this boot has.
        8 unique_id: u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CreateDomain {
        CreateDomain {
            ssidref: 0x0101_0101,
            handle: [0xaa; 16],
            flags: CDF_HVM | CDF_HAP,
            iommu_opts: 0,
            max_vcpus: 2,
            max_evtchn_port: 1023,
            max_grant_frames: -1,
            max_maptrack_frames: -1,
            grant_opts: 2,
            altp2m: None,
            vmtrace_size_bytes: 0x2000,
            cpupool_id: 7,
            arch: ArchDomainConfig {
                emulation_flags: EMU_LAPIC,
                misc_flags: MSR_RELAXED,
            },
        }
    }

    fn word(call: &Domctl, offset: usize) -> u32 {
        let bytes = call.as_bytes();
        u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    /// Offsets in the whole call, taken from the headers of each release.
    #[test]
    fn createdomain_lands_where_each_release_reads_it() {
        for (release, vmtrace, pool, emulation) in [
            (Release::V4_17, 64, 68, 72),
            (Release::V4_18, 64, 68, 72),
            (Release::V4_19, 68, 72, 76),
            (Release::V4_20, 68, 72, 76),
            (Release::V4_21, 68, 72, 76),
            (Release::V4_22, 68, 72, 76),
        ] {
            let call = request().encode(release, 9).unwrap();
            assert_eq!(word(&call, 0), 1);
            assert_eq!(word(&call, 4), release.interface().domctl, "{release}");
            assert_eq!(word(&call, 8), 9);
            assert_eq!(word(&call, 16), 0x0101_0101);
            assert_eq!(word(&call, 36), 3, "flags, {release}");
            assert_eq!(word(&call, 44), 2, "max_vcpus, {release}");
            assert_eq!(word(&call, 60), 2, "grant_opts, {release}");
            assert_eq!(word(&call, vmtrace), 0x2000, "vmtrace_size, {release}");
            assert_eq!(word(&call, pool), 7, "cpupool_id, {release}");
            assert_eq!(word(&call, emulation), 1, "emulation_flags, {release}");
            assert_eq!(word(&call, emulation + 4), 1, "misc_flags, {release}");
        }
    }

    #[test]
    fn altp2m_is_refused_whole_or_split_as_the_release_wants_it() {
        let asked = CreateDomain {
            altp2m: Some(Altp2m { mode: 2, nr: 10 }),
            ..request()
        };
        let refused = asked.encode(Release::V4_18, 0).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Xen 4.18 cannot set altp2m when it creates a domain"
        );
        assert_eq!(word(&asked.encode(Release::V4_20, 0).unwrap(), 64), 2);
        assert_eq!(
            word(&asked.encode(Release::V4_21, 0).unwrap(), 64),
            10 << 16 | 2
        );
    }

    #[test]
    fn a_payload_comes_back_as_it_went_in() {
        let payload = CpuidLeaf {
            leaf: 1,
            subleaf: 2,
            a: 3,
            b: 4,
            c: 5,
            d: 6,
        };
        let call = Domctl::new(0x15, 0, 0, &payload);
        assert_eq!(call.payload::<CpuidLeaf>(), payload);
        assert!(call.as_bytes()[16 + 24..].iter().all(|byte| *byte == 0));
    }
}
