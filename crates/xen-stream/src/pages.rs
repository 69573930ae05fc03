//! Pages of a PAGE_DATA record: [`PageEntry`], [`Page`] and [`Pages`].

use crate::error::Cause;
use crate::fields::{Fields, entries, within};

/// Length of a page.
pub const PAGE_BYTES: usize = 4096;
/// Largest number of pages in a record. libxc writes no more.
pub const PAGES_MAX: usize = 1024;

/// Length of what is before the entries.
pub(crate) const COUNT_BYTES: usize = 8;
/// Length of one entry.
pub(crate) const ENTRY_BYTES: usize = 8;
/// Length of the largest record.
pub(crate) const RECORD_MAX_BYTES: u64 =
    (COUNT_BYTES + PAGES_MAX * (ENTRY_BYTES + PAGE_BYTES)) as u64;

const TYPE_SHIFT: u32 = 60;
const PFN_BITS: u32 = 52;
/// First page frame number that no stream can have.
pub(crate) const PFN_END: u64 = 1 << PFN_BITS;
/// Bit of the type of a page table that is pinned.
const PINNED: u8 = 8;

/// The kinds of pages (`XEN_DOMCTL_PFINFO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageKind {
    /// A page with data.
    Data,
    /// A page table of a PV guest.
    Table {
        /// Its level, 1 to 4.
        level: u8,
        /// Whether the guest has pinned it.
        is_pinned: bool,
    },
    /// A page of broken memory, without contents.
    Broken,
    /// A page that is to be allocated, and comes without contents.
    Allocate,
    /// A page that the guest does not have.
    Absent,
}

impl PageKind {
    fn from_code(code: u8) -> Option<PageKind> {
        match code {
            0x0 => Some(PageKind::Data),
            0x1..=0x4 => Some(PageKind::Table {
                level: code,
                is_pinned: false,
            }),
            0x9..=0xc => Some(PageKind::Table {
                level: code & !PINNED,
                is_pinned: true,
            }),
            0xd => Some(PageKind::Broken),
            0xe => Some(PageKind::Allocate),
            0xf => Some(PageKind::Absent),
            _ => None,
        }
    }

    /// Number of the kind in the stream.
    pub fn code(self) -> u8 {
        match self {
            PageKind::Data => 0x0,
            PageKind::Table { level, is_pinned } => level | if is_pinned { PINNED } else { 0 },
            PageKind::Broken => 0xd,
            PageKind::Allocate => 0xe,
            PageKind::Absent => 0xf,
        }
    }

    /// Whether the contents of such a page are in the stream.
    pub fn has_contents(self) -> bool {
        matches!(self, PageKind::Data | PageKind::Table { .. })
    }
}

/// Number and kind of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// Page frame number.
    pub pfn: u64,
    /// Kind of the page.
    pub kind: PageKind,
}

impl PageEntry {
    fn parse(fields: &mut Fields<'_>) -> Result<PageEntry, Cause> {
        let entry = fields.u64()?;
        let code = (entry >> TYPE_SHIFT) as u8;
        let low = entry & ((1 << TYPE_SHIFT) - 1);
        let pfn = low & ((1 << PFN_BITS) - 1);
        if low != pfn {
            return Err(Cause::NotZero);
        }
        let kind = PageKind::from_code(code).ok_or(Cause::PageType { pfn, code })?;
        Ok(PageEntry { pfn, kind })
    }

    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.kind.code()) << TYPE_SHIFT | self.pfn
    }
}

/// A page of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// Page frame number.
    pub pfn: u64,
    /// Kind of the page.
    pub kind: PageKind,
    /// Contents of the page, if its kind has contents.
    pub contents: Option<&'a [u8; PAGE_BYTES]>,
}

/// The pages of one record, at most [`PAGES_MAX`]. They are in the reader's buffer until it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages<'a> {
    entries: &'a [PageEntry],
    contents: &'a [[u8; PAGE_BYTES]],
    is_verified: bool,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(
        entries: &'a [PageEntry],
        contents: &'a [u8],
        is_verified: bool,
    ) -> Pages<'a> {
        Pages {
            entries,
            contents: contents.as_chunks().0,
            is_verified,
        }
    }

    /// Numbers and kinds of the pages, in their order.
    pub fn entries(&self) -> &'a [PageEntry] {
        self.entries
    }

    /// Contents of those pages that have some, in their order.
    pub fn contents(&self) -> &'a [[u8; PAGE_BYTES]] {
        self.contents
    }

    /// Whether the pages came before, and are to be compared (`xl migrate --debug`).
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// The pages in their order, with their contents.
    pub fn iter(&self) -> impl Iterator<Item = Page<'a>> + use<'a> {
        let mut contents = self.contents.iter();
        self.entries.iter().map(move |entry| Page {
            pfn: entry.pfn,
            kind: entry.kind,
            contents: if entry.kind.has_contents() {
                contents.next()
            } else {
                None
            },
        })
    }
}

/// Checks the length of a record, and reads the number of its entries.
pub(crate) fn count(length_bytes: u32, head: &[u8; COUNT_BYTES]) -> Result<usize, Cause> {
    let mut fields = Fields::of(head);
    let count = fields.u32()?;
    fields.zero::<4>()?;
    if !(1..=PAGES_MAX as u32).contains(&count) {
        return Err(Cause::Value {
            field: "count",
            value: u64::from(count),
        });
    }
    let min_bytes = COUNT_BYTES as u64 + u64::from(count) * ENTRY_BYTES as u64;
    let max_bytes = min_bytes + u64::from(count) * PAGE_BYTES as u64;
    within(length_bytes, min_bytes, max_bytes)?;
    Ok(count as usize)
}

/// Reads the entries.
pub(crate) fn parse_entries(bytes: &[u8]) -> Result<Vec<PageEntry>, Cause> {
    entries::<ENTRY_BYTES, _>(bytes, PageEntry::parse)
}

/// Length of a record with these entries, with the contents of their pages.
pub(crate) fn record_bytes(entries: &[PageEntry]) -> u64 {
    let contents = entries.iter().filter(|entry| entry.kind.has_contents());
    (COUNT_BYTES + entries.len() * ENTRY_BYTES + contents.count() * PAGE_BYTES) as u64
}
