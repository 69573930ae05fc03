//! Fields of the structures of a 64-bit PV domain that an image has: shared info, start info, registers and page tables.
//!
//! Source: `struct shared_info`, `struct start_info` and `struct vcpu_guest_context` in `xen/include/public/xen.h` and
//! `xen/include/public/arch-x86/xen.h`. [`save`](crate::save) replaces each machine frame in them by the domain's own page number,
//! and [`restore`](crate::restore) does the reverse.

use xen_port::PAGE_SHIFT;

/// Entries of a page table, and numbers of a page of the P2M.
pub(crate) const WORDS_PER_PAGE: u64 = 512;
/// Number without a page in the P2M.
pub(crate) const NO_FRAME: u64 = u64::MAX;
/// Frames of 2^40 or more are none: Linux marks numbers in its P2M by bits above.
const FRAME_END: u64 = 1 << 40;

/// Fields of the shared info.
pub(crate) mod shared_info {
    /// State of 32 vCPUs (`vcpu_info`).
    pub(crate) const VCPU_INFO: std::ops::Range<usize> = 0..2048;
    pub(crate) const VCPU_INFO_BYTES: usize = 64;
    /// Offset of `evtchn_pending_sel` in the state of a vCPU.
    pub(crate) const PENDING_SEL: usize = 8;
    /// Events that are pending (`evtchn_pending`).
    pub(crate) const PENDING: std::ops::Range<usize> = 2048..2560;
    /// Events that are masked (`evtchn_mask`).
    pub(crate) const MASK: std::ops::Range<usize> = 2560..3072;
    /// Fields of the architecture (`arch`).
    pub(crate) const ARCH: std::ops::Range<usize> = 3088..3136;
    /// Number of pages, in spite of its name (`arch.max_pfn`).
    pub(crate) const MAX_PFN: usize = 3088;
    /// Root of the P2M as a tree (`arch.pfn_to_mfn_frame_list_list`).
    pub(crate) const FRAME_LIST_LIST: usize = 3096;
    /// Not zero if the guest has the P2M as a list in its addresses (`arch.p2m_cr3`).
    pub(crate) const P2M_CR3: usize = 3112;
    /// Address of that list (`arch.p2m_vaddr`).
    pub(crate) const P2M_VADDR: usize = 3120;
    /// Changes with that list (`arch.p2m_generation`).
    pub(crate) const P2M_GENERATION: usize = 3128;
}

/// Fields of the start info. Flags and ports have 32 bits.
pub(crate) mod start_info {
    pub(crate) const NR_PAGES: usize = 32;
    pub(crate) const SHARED_INFO: usize = 40;
    pub(crate) const FLAGS: usize = 48;
    pub(crate) const STORE_FRAME: usize = 56;
    pub(crate) const STORE_PORT: usize = 64;
    pub(crate) const CONSOLE_FRAME: usize = 72;
    pub(crate) const CONSOLE_PORT: usize = 80;
}

/// Fields of a vCPU's registers.
pub(crate) mod registers {
    pub(crate) const FLAGS: usize = 512;
    /// The vCPU is online (`VGCF_online`).
    pub(crate) const FLAG_ONLINE: u64 = 1 << 5;
    /// `user_regs.rdx`: the frame of start_info in vCPU 0 of a suspended domain.
    pub(crate) const RDX: usize = 616;
    pub(crate) const GDT_FRAMES: usize = 4832;
    pub(crate) const GDT_ENTRIES: usize = 4960;
    /// `FIRST_RESERVED_GDT_ENTRY`: the entries from there on are Xen's.
    const GDT_ENTRIES_MAX: u64 = 14 * 512;
    /// `ctrlreg[1]`: the table of the user's addresses.
    pub(crate) const CR1: usize = 4992;
    /// In an image: CR1 is there.
    pub(crate) const CR1_VALID: u64 = 1;
    /// `ctrlreg[3]`: the table of the kernel's addresses.
    pub(crate) const CR3: usize = 5008;

    /// Number of frames that the GDT of so many entries has; `None` for more than there can be.
    pub(crate) fn gdt_frames(entries: u64) -> Option<usize> {
        let is_possible = entries <= GDT_ENTRIES_MAX;
        is_possible.then(|| entries.div_ceil(512) as usize)
    }
}

/// Entries of page tables.
pub(crate) mod entry {
    use super::PAGE_SHIFT;

    pub(crate) const PRESENT: u64 = 1;
    /// The entry maps a large page.
    pub(crate) const LARGE: u64 = 1 << 7;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    /// Level of the top table.
    pub(crate) const TOP_LEVEL: u8 = 4;
    /// Entries of a top table that are Xen's own.
    const XENS: std::ops::RangeInclusive<usize> = 256..=271;

    /// The frame or page number of an entry.
    pub(crate) fn frame(entry: u64) -> u64 {
        (entry & FRAME) >> PAGE_SHIFT
    }

    /// The entry with another frame or page number.
    pub(crate) fn with_frame(entry: u64, frame: u64) -> u64 {
        entry & !FRAME | frame << PAGE_SHIFT & FRAME
    }

    /// Whether Xen itself fills an entry.
    pub(crate) fn is_xens(level: u8, index: usize) -> bool {
        level == TOP_LEVEL && XENS.contains(&index)
    }
}

/// Whether a number can be a machine frame.
pub(crate) fn is_frame(number: u64) -> bool {
    number < FRAME_END
}

/// The word at an offset; `None` behind the end.
pub(crate) fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

/// Sets the word at an offset. Does nothing behind the end.
pub(crate) fn set_word(bytes: &mut [u8], offset: usize, value: u64) {
    set(bytes, offset, &value.to_le_bytes());
}

/// Sets bytes at an offset. Does nothing behind the end.
pub(crate) fn set(bytes: &mut [u8], offset: usize, value: &[u8]) {
    let places = bytes.iter_mut().skip(offset);
    places.zip(value).for_each(|(to, from)| *to = *from);
}

/// The words of a page or of several.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word))
}

/// Replaces the number in each present entry of a page table. `number_of` gives the new number; `None` ends with `None`.
pub(crate) fn renumber(
    table: &mut [u8],
    mut number_of: impl FnMut(u64) -> Option<u64>,
) -> Option<()> {
    for bytes in table.as_chunks_mut::<8>().0 {
        let entry = u64::from_le_bytes(*bytes);
        if entry & entry::PRESENT != 0 {
            let number = number_of(entry::frame(entry))?;
            *bytes = entry::with_frame(entry, number).to_le_bytes();
        }
    }
    Some(())
}
