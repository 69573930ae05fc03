//! PVH and HVM: parameters (hvm/params.h, hvm/hvm_op.h), and the save records that set up a vCPU (arch-x86/hvm/save.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// `HYPERVISOR_hvm_op`: sets a parameter.
    SET_PARAM: u32 = 0, "HVMOP_set_param";
    /// `HYPERVISOR_hvm_op`: gets a parameter.
    GET_PARAM: u32 = 1, "HVMOP_get_param";

    /// The delivery of event upcalls to the guest.
    PARAM_CALLBACK_IRQ: u32 = 0, "HVM_PARAM_CALLBACK_IRQ";
    /// Frame of the xenstore ring.
    PARAM_STORE_PFN: u32 = 1, "HVM_PARAM_STORE_PFN";
    /// Port of the xenstore ring.
    PARAM_STORE_EVTCHN: u32 = 2, "HVM_PARAM_STORE_EVTCHN";
    /// PAE, no longer used.
    PARAM_PAE_ENABLED: u32 = 4, "HVM_PARAM_PAE_ENABLED";
    /// Frame of the default I/O request server.
    PARAM_IOREQ_PFN: u32 = 5, "HVM_PARAM_IOREQ_PFN";
    /// Frame of its buffered requests.
    PARAM_BUFIOREQ_PFN: u32 = 6, "HVM_PARAM_BUFIOREQ_PFN";
    /// Viridian enlightenments.
    PARAM_VIRIDIAN: u32 = 9, "HVM_PARAM_VIRIDIAN";
    /// Mode of the virtual timers.
    PARAM_TIMER_MODE: u32 = 10, "HVM_PARAM_TIMER_MODE";
    /// Whether there is a HPET.
    PARAM_HPET_ENABLED: u32 = 11, "HVM_PARAM_HPET_ENABLED";
    /// Address of an identity page table.
    PARAM_IDENT_PT: u32 = 12, "HVM_PARAM_IDENT_PT";
    /// ACPI sleep state.
    PARAM_ACPI_S_STATE: u32 = 14, "HVM_PARAM_ACPI_S_STATE";
    /// Address of a TSS for virtual 8086 mode.
    PARAM_VM86_TSS: u32 = 15, "HVM_PARAM_VM86_TSS";
    /// Alignment of the virtual timers.
    PARAM_VPT_ALIGN: u32 = 16, "HVM_PARAM_VPT_ALIGN";
    /// Frame of the console ring.
    PARAM_CONSOLE_PFN: u32 = 17, "HVM_PARAM_CONSOLE_PFN";
    /// Port of the console ring.
    PARAM_CONSOLE_EVTCHN: u32 = 18, "HVM_PARAM_CONSOLE_EVTCHN";
    /// The address of the ACPI ports.
    PARAM_ACPI_IOPORTS_LOCATION: u32 = 19, "HVM_PARAM_ACPI_IOPORTS_LOCATION";
    /// Nested virtualisation.
    PARAM_NESTEDHVM: u32 = 24, "HVM_PARAM_NESTEDHVM";
    /// Frame of the paging ring.
    PARAM_PAGING_RING_PFN: u32 = 27, "HVM_PARAM_PAGING_RING_PFN";
    /// Frame of the monitor ring.
    PARAM_MONITOR_RING_PFN: u32 = 28, "HVM_PARAM_MONITOR_RING_PFN";
    /// Frame of the sharing ring.
    PARAM_SHARING_RING_PFN: u32 = 29, "HVM_PARAM_SHARING_RING_PFN";
    /// The shutdown reason of a triple fault.
    PARAM_TRIPLE_FAULT_REASON: u32 = 31, "HVM_PARAM_TRIPLE_FAULT_REASON";
    /// First frame set aside for I/O request servers.
    PARAM_IOREQ_SERVER_PFN: u32 = 32, "HVM_PARAM_IOREQ_SERVER_PFN";
    /// Number of frames set aside for I/O request servers.
    PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33, "HVM_PARAM_NR_IOREQ_SERVER_PAGES";
    /// Address of the generation ID.
    PARAM_VM_GENERATION_ID_ADDR: u32 = 34, "HVM_PARAM_VM_GENERATION_ID_ADDR";
    /// Alternate p2m.
    PARAM_ALTP2M: u32 = 35, "HVM_PARAM_ALTP2M";
    /// Width of the x87 instruction pointer.
    PARAM_X87_FIP_WIDTH: u32 = 36, "HVM_PARAM_X87_FIP_WIDTH";
    /// Address and size of a TSS for virtual 8086 mode.
    PARAM_VM86_TSS_SIZED: u32 = 37, "HVM_PARAM_VM86_TSS_SIZED";
    /// Machine-check abilities.
    PARAM_MCA_CAP: u32 = 38, "HVM_PARAM_MCA_CAP";

    /// First word of a save image.
    FILE_MAGIC: u32 = 0x5438_1286, "HVM_FILE_MAGIC";
    /// Its version.
    FILE_VERSION: u32 = 1, "HVM_FILE_VERSION";
    /// Record type: end.
    SAVE_END: u16 = 0, "HVM_SAVE_CODE(END)";
    /// Record type: header.
    SAVE_HEADER: u16 = 1, "HVM_SAVE_CODE(HEADER)";
    /// Record type: a vCPU's registers.
    SAVE_CPU: u16 = 2, "HVM_SAVE_CODE(CPU)";
    /// Record type: a vCPU's memory types.
    SAVE_MTRR: u16 = 14, "HVM_SAVE_CODE(MTRR)";
}

abi! {
    /// Argument of `HVMOP_{get,set}_param`.
    struct Param = "struct xen_hvm_param", 16 {
        /// The domain.
        0 domid: u16;
        /// Padding.
        2 pad: u16;
        /// `PARAM_*`.
        4 index: u32;
        /// Its value.
        8 value: u64;
    }
    /// The header before each save record.
    struct SaveDescriptor = "struct hvm_save_descriptor", 8 {
        /// `SAVE_*`.
        0 typecode: u16;
        /// Which of that type: a vCPU's number.
        2 instance: u16;
        /// Bytes that follow.
        4 length: u32;
    }
    /// The first record.
    struct SaveHeader = "struct hvm_save_header", 24 {
        /// [`FILE_MAGIC`].
        0 magic: u32;
        /// [`FILE_VERSION`].
        4 version: u32;
        /// Version of Xen that wrote it; not read.
        8 changeset: u64;
        /// EAX of CPUID leaf 1.
        16 cpuid: u32;
        /// Time-stamp frequency in kHz; 0 keeps the domain's.
        20 gtsc_khz: u32;
    }
    /// A vCPU's registers.
    struct Cpu = "struct hvm_hw_cpu", 1032 {
        /// FXSAVE area.
        0 fpu_regs: [u8; 512];
        /// RAX.
        512 rax: u64;
        /// RBX.
        520 rbx: u64;
        /// RCX.
        528 rcx: u64;
        /// RDX.
        536 rdx: u64;
        /// RBP.
        544 rbp: u64;
        /// RSI.
        552 rsi: u64;
        /// RDI.
        560 rdi: u64;
        /// RSP.
        568 rsp: u64;
        /// R8.
        576 r8: u64;
        /// R9.
        584 r9: u64;
        /// R10.
        592 r10: u64;
        /// R11.
        600 r11: u64;
        /// R12.
        608 r12: u64;
        /// R13.
        616 r13: u64;
        /// R14.
        624 r14: u64;
        /// R15.
        632 r15: u64;
        /// RIP.
        640 rip: u64;
        /// RFLAGS.
        648 rflags: u64;
        /// CR0.
        656 cr0: u64;
        /// CR2.
        664 cr2: u64;
        /// CR3.
        672 cr3: u64;
        /// CR4.
        680 cr4: u64;
        /// DR0.
        688 dr0: u64;
        /// DR1.
        696 dr1: u64;
        /// DR2.
        704 dr2: u64;
        /// DR3.
        712 dr3: u64;
        /// DR6.
        720 dr6: u64;
        /// DR7.
        728 dr7: u64;
        /// CS selector.
        736 cs_sel: u32;
        /// DS selector.
        740 ds_sel: u32;
        /// ES selector.
        744 es_sel: u32;
        /// FS selector.
        748 fs_sel: u32;
        /// GS selector.
        752 gs_sel: u32;
        /// SS selector.
        756 ss_sel: u32;
        /// TR selector.
        760 tr_sel: u32;
        /// LDTR selector.
        764 ldtr_sel: u32;
        /// CS limit.
        768 cs_limit: u32;
        /// DS limit.
        772 ds_limit: u32;
        /// ES limit.
        776 es_limit: u32;
        /// FS limit.
        780 fs_limit: u32;
        /// GS limit.
        784 gs_limit: u32;
        /// SS limit.
        788 ss_limit: u32;
        /// TR limit.
        792 tr_limit: u32;
        /// LDTR limit.
        796 ldtr_limit: u32;
        /// IDTR limit.
        800 idtr_limit: u32;
        /// GDTR limit.
        804 gdtr_limit: u32;
        /// CS base.
        808 cs_base: u64;
        /// DS base.
        816 ds_base: u64;
        /// ES base.
        824 es_base: u64;
        /// FS base.
        832 fs_base: u64;
        /// GS base.
        840 gs_base: u64;
        /// SS base.
        848 ss_base: u64;
        /// TR base.
        856 tr_base: u64;
        /// LDTR base.
        864 ldtr_base: u64;
        /// IDTR base.
        872 idtr_base: u64;
        /// GDTR base.
        880 gdtr_base: u64;
        /// CS attributes.
        888 cs_arbytes: u32;
        /// DS attributes.
        892 ds_arbytes: u32;
        /// ES attributes.
        896 es_arbytes: u32;
        /// FS attributes.
        900 fs_arbytes: u32;
        /// GS attributes.
        904 gs_arbytes: u32;
        /// SS attributes.
        908 ss_arbytes: u32;
        /// TR attributes.
        912 tr_arbytes: u32;
        /// LDTR attributes.
        916 ldtr_arbytes: u32;
        /// SYSENTER CS.
        920 sysenter_cs: u64;
        /// SYSENTER stack.
        928 sysenter_esp: u64;
        /// SYSENTER entry.
        936 sysenter_eip: u64;
        /// Kernel GS base.
        944 shadow_gs: u64;
        /// Not used.
        952 msr_flags: u64;
        /// LSTAR.
        960 msr_lstar: u64;
        /// STAR.
        968 msr_star: u64;
        /// CSTAR.
        976 msr_cstar: u64;
        /// SFMASK.
        984 msr_syscall_mask: u64;
        /// EFER.
        992 msr_efer: u64;
        /// TSC_AUX.
        1000 msr_tsc_aux: u64;
        /// Time-stamp counter.
        1008 tsc: u64;
        /// Event to inject.
        1016 pending_event: u32;
        /// Its error code.
        1020 error_code: u32;
        /// 1 where `fpu_regs` counts.
        1024 flags: u32;
        /// Zero.
        1028 pad0: u32;
    }
    /// A vCPU's memory types.
    struct Mtrr = "struct hvm_hw_mtrr", 240 {
        /// PAT.
        0 msr_pat_cr: u64;
        /// Base and mask of eight variable ranges.
        8 msr_mtrr_var: [u64; 16];
        /// Fixed ranges.
        136 msr_mtrr_fixed: [u64; 11];
        /// Abilities.
        224 msr_mtrr_cap: u64;
        /// Default type, and whether the rest is on.
        232 msr_mtrr_def_type: u64;
    }
}
