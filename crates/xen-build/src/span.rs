//! Contiguous ranges of a guest's pages.

use xen_port::{E820Entry, E820Kind, PAGE_SHIFT};

/// Bytes of one mebibyte.
pub(crate) const MIB: u64 = 1 << 20;
/// Pages of one mebibyte.
pub(crate) const PAGES_PER_MIB: u64 = MIB >> PAGE_SHIFT;
/// [`xen_port::PAGE_SIZE`] as an address is wide.
pub(crate) const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Number of pages that hold `len` bytes.
pub(crate) fn pages_for(len: u64) -> u64 {
    len.div_ceil(PAGE_BYTES)
}

/// Number of whole MiB that hold `nr_pages` pages.
pub(crate) fn mib_for(nr_pages: u64) -> u64 {
    nr_pages.div_ceil(PAGES_PER_MIB)
}

/// A run of a guest's pages, by its own numbering (PV: pseudo-physical, else guest-physical).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageSpan {
    /// Number of the first page.
    pub(crate) first: u64,
    /// Number of pages.
    pub(crate) count: u64,
}

impl PageSpan {
    pub(crate) fn new(first: u64, count: u64) -> PageSpan {
        PageSpan { first, count }
    }

    /// The page after the last.
    pub(crate) fn end(self) -> u64 {
        self.first + self.count
    }

    /// Address of the first byte.
    pub(crate) fn address(self) -> u64 {
        self.first << PAGE_SHIFT
    }

    pub(crate) fn size_bytes(self) -> u64 {
        self.count << PAGE_SHIFT
    }

    /// The range of a memory map.
    pub(crate) fn as_e820(self, kind: E820Kind) -> E820Entry {
        E820Entry {
            start: self.address(),
            size_bytes: self.size_bytes(),
            kind,
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.count == 0
    }

    pub(crate) fn contains(self, page: u64) -> bool {
        (self.first..self.end()).contains(&page)
    }

    pub(crate) fn pages(self) -> std::ops::Range<u64> {
        self.first..self.end()
    }
}
