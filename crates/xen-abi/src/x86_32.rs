//! Structures for the start of a 32-bit PV guest, as a 64-bit toolstack writes them (`xen/foreign/x86_32.h`):
//! start_info and registers.

use crate::layout::{abi, c_constants};

c_constants! {
    /// Xen's flat code segment for a 32-bit PV kernel, in ring 1.
    FLAT_KERNEL_CS: u16 = 0xe019, "FLAT_KERNEL_CS_X86_32";
    /// Xen's flat data segment for it.
    FLAT_KERNEL_DS: u16 = 0xe021, "FLAT_KERNEL_DS_X86_32";
    /// Xen's flat stack segment for it.
    FLAT_KERNEL_SS: u16 = 0xe021, "FLAT_KERNEL_SS_X86_32";
    /// Context flag: in kernel mode.
    VGCF_IN_KERNEL: u32 = 1 << 2, "VGCF_in_kernel_X86_32";
    /// Context flag: the vCPU is up.
    VGCF_ONLINE: u32 = 1 << 5, "VGCF_online_X86_32";
}

abi! {
    /// The page that the guest finds in ESI.
    struct StartInfo = "struct start_info_x86_32", 1112 {
        /// `xen-VERSION-PLATFORM`, NUL-padded.
        0 magic: [u8; 32];
        /// Pages of the domain.
        32 nr_pages: u32;
        /// Machine address of the shared-info page.
        36 shared_info: u32;
        /// `SIF_*`.
        40 flags: u32;
        /// Machine frame of the xenstore ring.
        44 store_mfn: u32;
        /// Its port.
        48 store_evtchn: u32;
        /// Machine frame of the console ring.
        52 console_mfn: u32 = "console.domU.mfn";
        /// Its port.
        56 console_evtchn: u32 = "console.domU.evtchn";
        /// Virtual address of the top-level page table.
        60 pt_base: u32;
        /// Frames of page tables.
        64 nr_pt_frames: u32;
        /// Virtual address of the p2m list.
        68 mfn_list: u32;
        /// Virtual address, or frame, of the module.
        72 mod_start: u32;
        /// Its bytes.
        76 mod_len: u32;
        /// Command line, NUL-terminated.
        80 cmd_line: [u8; 1024];
        /// First page of a p2m list outside of the boot mapping.
        1104 first_p2m_pfn: u32;
        /// Its pages.
        1108 nr_p2m_frames: u32;
    }
    /// The general registers of a vCPU.
    struct UserRegs = "struct cpu_user_regs_x86_32", 68 {
        /// EBX.
        0 ebx: u32;
        /// ECX.
        4 ecx: u32;
        /// EDX.
        8 edx: u32;
        /// ESI.
        12 esi: u32;
        /// EDI.
        16 edi: u32;
        /// EBP.
        20 ebp: u32;
        /// EAX.
        24 eax: u32;
        /// Private to Xen.
        28 error_code: u16;
        /// Private to Xen.
        30 entry_vector: u16;
        /// EIP.
        32 eip: u32;
        /// CS.
        36 cs: u16;
        /// The event mask as it was.
        38 saved_upcall_mask: u8;
        /// Padding.
        39 pad0: u8 = "_pad0";
        /// EFLAGS.
        40 eflags: u32;
        /// ESP.
        44 esp: u32;
        /// SS.
        48 ss: u16;
        /// Padding.
        50 pad1: u16 = "_pad1";
        /// ES.
        52 es: u16;
        /// Padding.
        54 pad2: u16 = "_pad2";
        /// DS.
        56 ds: u16;
        /// Padding.
        58 pad3: u16 = "_pad3";
        /// FS.
        60 fs: u16;
        /// Padding.
        62 pad4: u16 = "_pad4";
        /// GS.
        64 gs: u16;
        /// Padding.
        66 pad5: u16 = "_pad5";
    }
    /// A trap handler.
    struct TrapInfo = "struct trap_info_x86_32", 8 {
        /// Vector.
        0 vector: u8;
        /// Privilege level, and whether events go off.
        1 flags: u8;
        /// Code segment.
        2 cs: u16;
        /// Address.
        4 address: u32;
    }
    /// All of a vCPU's state (`vcpu_guest_context`).
    struct VcpuGuestContext = "struct vcpu_guest_context_x86_32", 2800 {
        /// FXSAVE area.
        0 fpu_ctxt: [u8; 512];
        /// `VGCF_*`.
        512 flags: u32;
        /// General registers.
        516 user_regs: UserRegs;
        /// Trap handlers.
        584 trap_ctxt: [TrapInfo; 256];
        /// LDT's address.
        2632 ldt_base: u32;
        /// LDT's entries.
        2636 ldt_ents: u32;
        /// GDT's machine frames.
        2640 gdt_frames: [u32; 16];
        /// GDT's entries.
        2704 gdt_ents: u32;
        /// Stack segment of the kernel.
        2708 kernel_ss: u32;
        /// Stack of the kernel.
        2712 kernel_sp: u32;
        /// CR0 to CR7. CR3 names the frame of the top-level table, see [`cr3`].
        2716 ctrlreg: [u32; 8];
        /// DR0 to DR7.
        2748 debugreg: [u32; 8];
        /// Code segment of the handler of events.
        2780 event_callback_cs: u32;
        /// Handler of events.
        2784 event_callback_eip: u32;
        /// Code segment of the handler of faults on return to the guest.
        2788 failsafe_callback_cs: u32;
        /// Handler of faults on return to the guest.
        2792 failsafe_callback_eip: u32;
        /// `VMASST_TYPE_*` bits.
        2796 vm_assist: u32;
    }
}

/// CR3 for a top-level table in a frame: the frame's number, turned by 12 bits, so that it may lie above 4 GiB
/// (`xen_pfn_to_cr3` of `arch-x86/xen-x86_32.h`). Frames that need more than 32 bits have none.
#[must_use]
pub fn cr3(frame: u64) -> Option<u32> {
    u32::try_from(frame).ok().map(|frame| frame.rotate_left(12))
}

#[cfg(test)]
mod tests {
    use super::cr3;

    #[test]
    fn cr3_holds_frames_above_4_gib_too() {
        assert_eq!(cr3(0x1234), Some(0x0123_4000));
        assert_eq!(cr3(0x0012_3456), Some(0x2345_6001));
        assert_eq!(cr3(1 << 32), None);
    }
}
