//! Structures for a guest's start: `start_info` of PV (xen.h), `hvm_start_info` of PVH (arch-x86/hvm/start_info.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Flag: the domain is privileged.
    SIF_PRIVILEGED: u32 = 1 << 0, "SIF_PRIVILEGED";
    /// Flag: the domain is the first one.
    SIF_INITDOMAIN: u32 = 1 << 1, "SIF_INITDOMAIN";
    /// Flag: the module is a multiboot list.
    SIF_MULTIBOOT_MOD: u32 = 1 << 2, "SIF_MULTIBOOT_MOD";
    /// Flag: `mod_start` is a frame.
    SIF_MOD_START_PFN: u32 = 1 << 3, "SIF_MOD_START_PFN";
    /// Flag: the tools understand a p2m list in virtual memory.
    SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4, "SIF_VIRT_P2M_4TOOLS";
    /// Bytes of a PV guest's command line with its NUL.
    MAX_GUEST_CMDLINE: usize = 1024, "MAX_GUEST_CMDLINE";
    /// First word of [`HvmStartInfo`].
    HVM_START_MAGIC: u32 = 0x336e_c578, "XEN_HVM_START_MAGIC_VALUE";
    /// Memory map: RAM.
    MEMMAP_TYPE_RAM: u32 = 1, "XEN_HVM_MEMMAP_TYPE_RAM";
    /// Memory map: reserved.
    MEMMAP_TYPE_RESERVED: u32 = 2, "XEN_HVM_MEMMAP_TYPE_RESERVED";
    /// Memory map: ACPI tables.
    MEMMAP_TYPE_ACPI: u32 = 3, "XEN_HVM_MEMMAP_TYPE_ACPI";
}

abi! {
    /// The page that a PV guest finds in RSI.
    struct StartInfo = "struct start_info", 1168 {
        /// `xen-VERSION-PLATFORM`, NUL-padded.
        0 magic: [u8; 32];
        /// Pages of the domain.
        32 nr_pages: u64;
        /// Machine address of the shared-info page.
        40 shared_info: u64;
        /// `SIF_*`.
        48 flags: u32;
        /// Padding.
        52 pad0: u32 = "";
        /// Machine frame of the xenstore ring.
        56 store_mfn: u64;
        /// Its port.
        64 store_evtchn: u32;
        /// Padding.
        68 pad1: u32 = "";
        /// Machine frame of the console ring.
        72 console_mfn: u64 = "console.domU.mfn";
        /// Its port.
        80 console_evtchn: u32 = "console.domU.evtchn";
        /// Padding.
        84 pad2: u32 = "";
        /// Virtual address of the top-level page table.
        88 pt_base: u64;
        /// Frames of page tables.
        96 nr_pt_frames: u64;
        /// Virtual address of the p2m list.
        104 mfn_list: u64;
        /// Virtual address, or frame, of the module.
        112 mod_start: u64;
        /// Bytes of the module.
        120 mod_len: u64;
        /// Command line, NUL-terminated.
        128 cmd_line: [u8; 1024];
        /// First frame of the p2m list, where it is not in the initial mapping.
        1152 first_p2m_pfn: u64;
        /// Its frames.
        1160 nr_p2m_frames: u64;
    }
    /// Start information of a PVH guest. EBX has its address.
    struct HvmStartInfo = "struct hvm_start_info", 56 {
        /// [`HVM_START_MAGIC`].
        0 magic: u32;
        /// 1: the memory map is there.
        4 version: u32;
        /// `SIF_*`.
        8 flags: u32;
        /// Modules.
        12 nr_modules: u32;
        /// Address of [`HvmModule`]s.
        16 modlist_paddr: u64;
        /// Address of the command line.
        24 cmdline_paddr: u64;
        /// Address of ACPI's RSDP.
        32 rsdp_paddr: u64;
        /// Address of [`HvmMemmapEntry`]s.
        40 memmap_paddr: u64;
        /// Number of entries.
        48 memmap_entries: u32;
        /// Zero.
        52 reserved: u32;
    }
    /// A module of a PVH guest.
    struct HvmModule = "struct hvm_modlist_entry", 32 {
        /// Address.
        0 paddr: u64;
        /// Bytes.
        8 size: u64;
        /// Address of its command line.
        16 cmdline_paddr: u64;
        /// Zero.
        24 reserved: u64;
    }
    /// A range of a PVH guest's memory map.
    struct HvmMemmapEntry = "struct hvm_memmap_table_entry", 24 {
        /// Address.
        0 addr: u64;
        /// Bytes.
        8 size: u64;
        /// `MEMMAP_TYPE_*`.
        16 kind: u32 = "type";
        /// Zero.
        20 reserved: u32;
    }
}
