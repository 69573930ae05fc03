//! A PV vCPU's registers (arch-x86/xen.h, arch-x86/xen-x86_64.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Context flag: the FPU state counts.
    VGCF_I387_VALID: u64 = 1 << 0, "VGCF_i387_valid";
    /// Context flag: in kernel mode.
    VGCF_IN_KERNEL: u64 = 1 << 2, "VGCF_in_kernel";
    /// Context flag: events are off in the failsafe callback.
    VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3, "VGCF_failsafe_disables_events";
    /// Context flag: events are off in the system-call callback.
    VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4, "VGCF_syscall_disables_events";
    /// Context flag: the vCPU is up.
    VGCF_ONLINE: u64 = 1 << 5, "VGCF_online";
    /// Number of the assist by which the top-level page table of a 32-bit guest may lie above 4 GiB.
    VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3, "VMASST_TYPE_pae_extended_cr3";
    /// Xen's flat code segment for a 64-bit PV kernel.
    FLAT_KERNEL_CS: u16 = 0xe033, "FLAT_KERNEL_CS64";
    /// Xen's flat data segment.
    FLAT_KERNEL_DS: u16 = 0, "FLAT_KERNEL_DS64";
    /// Xen's flat stack segment.
    FLAT_KERNEL_SS: u16 = 0xe02b, "FLAT_KERNEL_SS64";
}

abi! {
    /// The general registers of a vCPU.
    struct UserRegs = "struct cpu_user_regs", 200 {
        /// R15.
        0 r15: u64;
        /// R14.
        8 r14: u64;
        /// R13.
        16 r13: u64;
        /// R12.
        24 r12: u64;
        /// RBP.
        32 rbp: u64;
        /// RBX.
        40 rbx: u64;
        /// R11.
        48 r11: u64;
        /// R10.
        56 r10: u64;
        /// R9.
        64 r9: u64;
        /// R8.
        72 r8: u64;
        /// RAX.
        80 rax: u64;
        /// RCX.
        88 rcx: u64;
        /// RDX.
        96 rdx: u64;
        /// RSI.
        104 rsi: u64;
        /// RDI.
        112 rdi: u64;
        /// Private to Xen.
        120 error_code: u32;
        /// Private to Xen.
        124 entry_vector: u32;
        /// RIP.
        128 rip: u64;
        /// CS.
        136 cs: u16;
        /// Padding.
        138 pad0: u16 = "_pad0";
        /// The event mask as it was.
        140 saved_upcall_mask: u8;
        /// Padding.
        141 pad1: [u8; 3] = "_pad1";
        /// RFLAGS.
        144 rflags: u64;
        /// RSP.
        152 rsp: u64;
        /// SS.
        160 ss: u16;
        /// Padding.
        162 pad2: [u16; 3] = "_pad2";
        /// ES.
        168 es: u16;
        /// Padding.
        170 pad3: [u16; 3] = "_pad3";
        /// DS.
        176 ds: u16;
        /// Padding.
        178 pad4: [u16; 3] = "_pad4";
        /// FS.
        184 fs: u16;
        /// Padding.
        186 pad5: [u16; 3] = "_pad5";
        /// GS.
        192 gs: u16;
        /// Padding.
        194 pad6: [u16; 3] = "_pad6";
    }
    /// A trap handler.
    struct TrapInfo = "struct trap_info", 16 {
        /// Vector.
        0 vector: u8;
        /// Privilege level, and whether events go off.
        1 flags: u8;
        /// Code segment.
        2 cs: u16;
        /// Padding.
        4 pad: u32 = "";
        /// Address.
        8 address: u64;
    }
    /// All of a vCPU's state (`vcpu_guest_context`).
    struct VcpuGuestContext = "struct vcpu_guest_context", 5168 {
        /// FXSAVE area.
        0 fpu_ctxt: [u8; 512];
        /// `VGCF_*`.
        512 flags: u64;
        /// General registers.
        520 user_regs: UserRegs;
        /// Trap handlers.
        720 trap_ctxt: [TrapInfo; 256];
        /// LDT's address.
        4816 ldt_base: u64;
        /// LDT's entries.
        4824 ldt_ents: u64;
        /// GDT's machine frames.
        4832 gdt_frames: [u64; 16];
        /// GDT's entries.
        4960 gdt_ents: u64;
        /// Stack segment of the kernel.
        4968 kernel_ss: u64;
        /// Stack of the kernel.
        4976 kernel_sp: u64;
        /// CR0 to CR7; CR1 holds the user's page table.
        4984 ctrlreg: [u64; 8];
        /// DR0 to DR7.
        5048 debugreg: [u64; 8];
        /// Handler of events.
        5112 event_callback_eip: u64;
        /// Handler of faults on return to the guest.
        5120 failsafe_callback_eip: u64;
        /// Handler of system calls.
        5128 syscall_callback_eip: u64;
        /// `VMASST_TYPE_*` bits.
        5136 vm_assist: u64;
        /// FS base.
        5144 fs_base: u64;
        /// GS base of the kernel.
        5152 gs_base_kernel: u64;
        /// GS base of user mode.
        5160 gs_base_user: u64;
    }
}
