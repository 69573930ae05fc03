//! Access to a guest's memory: mapped pages, allocation flags, and the memory map (E820).

use std::os::unix::fs::FileExt;

use crate::{DomId, Gfn, HvError, Hypervisor, PAGE_SIZE, Result};

/// Pages of a guest mapped into this process, contiguous in the order they were asked for.
/// Unmapped when dropped. Offsets are in bytes from the first page's start.
pub trait GuestMemory {
    /// Size in bytes: pages times 4096.
    fn size_bytes(&self) -> usize;
    /// Copies `bytes` to `offset`. An error if they do not fit.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()>;
    /// Copies from `offset`. An error if that is beyond the end. The guest may change the bytes at
    /// any time: copy first, then check.
    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()>;
    /// Sets `len` bytes at `offset` to zero.
    fn zero(&mut self, offset: usize, len: usize) -> Result<()>;
    /// Has `fill` make the bytes `offset .. offset + len`, in order, in pieces of at most 256 KiB: for
    /// decompressors and generators, without a buffer of the whole length. The outer error is a range
    /// that does not fit, the inner one is `fill`'s own; the bytes are then filled in part.
    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>>;
    /// Reads `len` bytes of `file` from `file_offset` into `offset .. offset + len`; the real
    /// hypervisor has the kernel put them there, without a copy between. A file that ends before is an
    /// `UnexpectedEof`.
    fn fill_from_file(
        &mut self,
        offset: usize,
        len: usize,
        file: &std::fs::File,
        mut file_offset: u64,
    ) -> Result<std::io::Result<()>> {
        self.fill_with(offset, len, &mut |piece| {
            file.read_exact_at(piece, file_offset)?;
            file_offset += piece.len() as u64;
            Ok(())
        })
    }
}

/// Copies pages. Maps all frames at once, and repeats without the frames that cannot be mapped.
pub(crate) fn copy_pages_by_mapping<H: Hypervisor + ?Sized>(
    hv: &H,
    domid: DomId,
    frames: &[Gfn],
    bytes: &mut [u8],
) -> Result<Vec<bool>> {
    let mut is_there = vec![true; frames.len()];
    loop {
        let wanted = frames.iter().zip(&is_there).filter(|(_, there)| **there);
        let wanted: Vec<Gfn> = wanted.map(|(frame, _)| *frame).collect();
        if wanted.is_empty() {
            return Ok(is_there);
        }
        let memory = match hv.map_foreign(domid, &wanted) {
            Ok(memory) => memory,
            Err(HvError::Map { gfn, .. }) if wanted.contains(&gfn) => {
                let outcomes = is_there.iter_mut().zip(frames);
                outcomes.for_each(|(there, frame)| *there &= *frame != gfn);
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut copied = vec![0; memory.size_bytes()];
        memory.read(0, &mut copied)?;
        let pages = bytes.chunks_exact_mut(PAGE_SIZE).zip(&is_there);
        let pages = pages.filter(|(_, there)| **there).map(|(page, _)| page);
        for (page, from) in pages.zip(copied.chunks_exact(PAGE_SIZE)) {
            page.copy_from_slice(from);
        }
        return Ok(is_there);
    }
}

/// Options of `populate_physmap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PopulateFlags {
    /// Populate on demand: reserve the addresses, not the memory (`XENMEMF_populate_on_demand`).
    pub on_demand: bool,
    /// NUMA node of the memory; `None` for any.
    pub node: Option<u32>,
    /// Allocates from that node only (`XENMEMF_exact_node`).
    pub exact_node: bool,
    /// Only frames below 4 GiB (`XENMEMF_address_bits(32)`).
    pub below_4gib: bool,
}

/// Type of a range in a guest's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum E820Kind {
    /// Memory that the guest can use.
    Ram,
    /// Addresses that the guest must not use as memory.
    Reserved,
    /// ACPI tables; the guest can use the memory after it has read them.
    Acpi,
    /// ACPI non-volatile storage.
    Nvs,
}

impl E820Kind {
    /// Number of the type in the map.
    pub fn number(self) -> u32 {
        match self {
            E820Kind::Ram => 1,
            E820Kind::Reserved => 2,
            E820Kind::Acpi => 3,
            E820Kind::Nvs => 4,
        }
    }
}

/// One range of a guest's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct E820Entry {
    /// First address in bytes.
    pub start: u64,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Type of the range.
    pub kind: E820Kind,
}

/// Level of a page table that is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PageTableLevel {
    /// A table of page-table entries.
    L1,
    /// A table of page-directory entries.
    L2,
    /// A table of page-directory-pointer entries.
    L3,
    /// The top level of a 64-bit guest.
    L4,
}

/// The kind of a domain's frame (`XEN_DOMCTL_PFINFO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FrameKind {
    /// A page with data.
    Data,
    /// A page table of a PV domain.
    Table {
        /// Its level, 1 to 4.
        level: u8,
        /// Whether the guest has pinned it.
        is_pinned: bool,
    },
    /// A page whose memory is broken.
    Broken,
    /// None of the domain's pages, or a page that Xen itself owns.
    Absent,
}

impl FrameKind {
    /// Bit of the number of a page table that is pinned.
    const PINNED: u8 = 8;

    /// Converts Xen's number of the kind.
    pub fn from_number(number: u8) -> FrameKind {
        match number {
            0 => FrameKind::Data,
            1..=4 | 9..=12 => FrameKind::Table {
                level: number & !FrameKind::PINNED,
                is_pinned: number & FrameKind::PINNED != 0,
            },
            13 => FrameKind::Broken,
            _ => FrameKind::Absent,
        }
    }

    /// Whether the frame is a page of the domain that a tool can map.
    pub fn is_page(self) -> bool {
        matches!(self, FrameKind::Data | FrameKind::Table { .. })
    }
}
