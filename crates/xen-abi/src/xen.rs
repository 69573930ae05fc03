//! Numbers and structures that everything shares (xen.h): hypercalls, domids, virtual interrupts, shared info, multicalls.

use crate::layout::{abi, c_constants};

c_constants! {
    /// Hypercall: page-table updates.
    HYPERVISOR_MMU_UPDATE: u64 = 1, "__HYPERVISOR_mmu_update";
    /// Hypercall: memory.
    HYPERVISOR_MEMORY_OP: u64 = 12, "__HYPERVISOR_memory_op";
    /// Hypercall: several hypercalls.
    HYPERVISOR_MULTICALL: u64 = 13, "__HYPERVISOR_multicall";
    /// Hypercall: version.
    HYPERVISOR_XEN_VERSION: u64 = 17, "__HYPERVISOR_xen_version";
    /// Hypercall: grant tables.
    HYPERVISOR_GRANT_TABLE_OP: u64 = 20, "__HYPERVISOR_grant_table_op";
    /// Hypercall: page-table pins and the like.
    HYPERVISOR_MMUEXT_OP: u64 = 26, "__HYPERVISOR_mmuext_op";
    /// Hypercall: security modules.
    HYPERVISOR_XSM_OP: u64 = 27, "__HYPERVISOR_xsm_op";
    /// Hypercall: scheduling.
    HYPERVISOR_SCHED_OP: u64 = 29, "__HYPERVISOR_sched_op";
    /// Hypercall: event channels.
    HYPERVISOR_EVENT_CHANNEL_OP: u64 = 32, "__HYPERVISOR_event_channel_op";
    /// Hypercall: interrupts of devices.
    HYPERVISOR_PHYSDEV_OP: u64 = 33, "__HYPERVISOR_physdev_op";
    /// Hypercall: PVH and HVM.
    HYPERVISOR_HVM_OP: u64 = 34, "__HYPERVISOR_hvm_op";
    /// Hypercall: host.
    HYPERVISOR_SYSCTL: u64 = 35, "__HYPERVISOR_sysctl";
    /// Hypercall: domains.
    HYPERVISOR_DOMCTL: u64 = 36, "__HYPERVISOR_domctl";
    /// Hypercall: the tree of settings.
    HYPERVISOR_HYPFS_OP: u64 = 42, "__HYPERVISOR_hypfs_op";

    /// The first domid that no domain can have.
    DOMID_FIRST_RESERVED: u16 = 0x7ff0, "DOMID_FIRST_RESERVED";
    /// The caller's own domain.
    DOMID_SELF: u16 = 0x7ff0, "DOMID_SELF";
    /// Owner of I/O memory, and of devices that no domain may use.
    DOMID_IO: u16 = 0x7ff1, "DOMID_IO";
    /// Xen's own memory.
    DOMID_XEN: u16 = 0x7ff2, "DOMID_XEN";
    /// No domain.
    DOMID_INVALID: u16 = 0x7ff4, "DOMID_INVALID";

    /// Virtual interrupt: input for the emergency console.
    VIRQ_CONSOLE: u32 = 2, "VIRQ_CONSOLE";
    /// Virtual interrupt: a domain shut down or died.
    VIRQ_DOM_EXC: u32 = 3, "VIRQ_DOM_EXC";
    /// Virtual interrupt: text in the log ring.
    VIRQ_CON_RING: u32 = 8, "VIRQ_CON_RING";
    /// Virtual interrupt: little memory left.
    VIRQ_ENOMEM: u32 = 12, "VIRQ_ENOMEM";
}

abi! {
    /// Clock of a vCPU.
    struct VcpuTimeInfo = "struct vcpu_time_info", 32 {
        /// Odd while it changes.
        0 version: u32;
        /// Padding.
        4 pad0: u32;
        /// Time-stamp counter then.
        8 tsc_timestamp: u64;
        /// Nanoseconds then.
        16 system_time: u64;
        /// Multiplier.
        24 tsc_to_system_mul: u32;
        /// Shift.
        28 tsc_shift: i8;
        /// Flags.
        29 flags: u8;
        /// Padding.
        30 pad1: [u8; 2];
    }
    /// A vCPU's part of the shared-info page.
    struct VcpuInfo = "struct vcpu_info", 64 {
        /// Events wait.
        0 evtchn_upcall_pending: u8;
        /// Events are off.
        1 evtchn_upcall_mask: u8;
        /// Padding.
        2 pad: [u8; 6] = "";
        /// Which words of events wait.
        8 evtchn_pending_sel: u64;
        /// CR2.
        16 cr2: u64 = "arch.cr2";
        /// Padding.
        24 arch_pad: u64 = "arch.pad";
        /// Clock.
        32 time: VcpuTimeInfo;
    }
    /// x86's part of the shared-info page.
    struct ArchSharedInfo = "struct arch_shared_info", 48 {
        /// Entries of the p2m.
        0 max_pfn: u64;
        /// Root of the p2m tree.
        8 pfn_to_mfn_frame_list_list: u64;
        /// The reasons of an NMI.
        16 nmi_reason: u64;
        /// Page table that maps the p2m list.
        24 p2m_cr3: u64;
        /// The p2m list's address in it.
        32 p2m_vaddr: u64;
        /// Odd while the list changes.
        40 p2m_generation: u64;
    }
    /// The shared-info page.
    struct SharedInfo = "struct shared_info", 3136 {
        /// The first vCPUs.
        0 vcpu_info: [VcpuInfo; 32];
        /// Events that wait.
        2048 evtchn_pending: [u64; 64];
        /// Events that are masked.
        2560 evtchn_mask: [u64; 64];
        /// Odd while the wall clock changes.
        3072 wc_version: u32;
        /// Wall clock: seconds.
        3076 wc_sec: u32;
        /// Wall clock: nanoseconds.
        3080 wc_nsec: u32;
        /// Wall clock: high half of the seconds.
        3084 wc_sec_hi: u32;
        /// x86's part.
        3088 arch: ArchSharedInfo;
    }
    /// One call of a multicall.
    struct MulticallEntry = "struct multicall_entry", 64 {
        /// The hypercall.
        0 op: u64;
        /// Its result.
        8 result: u64;
        /// Its arguments.
        16 args: [u64; 6];
    }
}
