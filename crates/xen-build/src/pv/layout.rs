//! The layout of a PV domain's boot structures.
//!
//! The contract is the comment "Start-of-day memory layout" in `xen/include/public/xen.h`. From the address in the
//! kernel's notes, everything is mapped contiguously, starting with page 0 of the domain: the kernel at its address,
//! the ramdisk, the table of machine frames, start_info, xenstore's page, the console's page, the page tables, the
//! stack. At least 512 KiB of padding follow, up to a multiple of 4 MiB.
//!
//! Two notes change that. With MOD_START_PFN the ramdisk is after all of this, unmapped. With INIT_P2M the table of
//! machine frames is after it too, mapped at its own address by its own page tables.

use std::ops::Range;

use xen_image::{PaeMode, PvKernel, PvWidth};
use xen_port::{PAGE_SHIFT, PAGE_SIZE, PvMode};

use super::page_tables::{Mapping, Paging, Tables};
use crate::error::{BuildError, Result};
use crate::span::{MIB, PAGE_BYTES, PAGES_PER_MIB, PageSpan, mib_for, pages_for};

/// The mapping ends at a multiple of this.
const MAPPING_ALIGN_BYTES: u64 = 4 * MIB;
/// Padding behind the last boot structure.
const PADDING_BYTES: u64 = 512 << 10;
/// Addresses that a 64-bit PV guest cannot use: the hole of four-level paging, and Xen's own range.
const NO_GUEST_VIRT: Range<u64> = 0x0000_8000_0000_0000..0xffff_8800_0000_0000;
/// A 32-bit PV guest has none from here on (`__HYPERVISOR_VIRT_START_PAE` of `arch-x86/xen-x86_32.h`).
const NO_GUEST_VIRT_32: Range<u64> = 0xf580_0000..u64::MAX;

/// The values that depend on the kernel's width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Width {
    pub(crate) mode: PvMode,
    paging: Paging,
    /// Size of a machine frame's number in bytes.
    pub(crate) word_bytes: u64,
    no_guest_virt: Range<u64>,
}

impl Width {
    /// Checks that the ramdisk's length fits in one word of `start_info`.
    fn check_ramdisk(&self, ramdisk_len: Option<u64>) -> Result<()> {
        match ramdisk_len {
            Some(len) if self.word_bytes == 4 && u32::try_from(len).is_err() => {
                Err(BuildError::Layout {
                    what: format!(
                        "its ramdisk has {len} bytes, and a 32-bit PV kernel is told their number in 32 bits"
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// The width of the kernel. A 32-bit kernel is refused unless the request allows it to run bare.
    fn of(kernel: &PvKernel, allow_bare_pv32: bool) -> Result<Width> {
        let extended_cr3 = match kernel.width {
            PvWidth::Bits64 => {
                return Ok(Width {
                    mode: PvMode::Bits64,
                    paging: Paging::FourLevels,
                    word_bytes: 8,
                    no_guest_virt: NO_GUEST_VIRT,
                });
            }
            PvWidth::Bits32 { .. } if !allow_bare_pv32 => return Err(BuildError::Pv32),
            PvWidth::Bits32 { pae: PaeMode::No } => return Err(BuildError::NoPae),
            PvWidth::Bits32 { pae } => pae != PaeMode::Yes,
        };
        Ok(Width {
            mode: PvMode::Bits32 { extended_cr3 },
            paging: Paging::ThreeLevels,
            word_bytes: 4,
            no_guest_virt: NO_GUEST_VIRT_32,
        })
    }

    /// A mapping of `pages` at `virt`, if a guest can have one there.
    fn mapping(&self, virt: u64, pages: PageSpan) -> Result<Mapping> {
        let (paging, hole) = (self.paging, &self.no_guest_virt);
        let last = pages
            .count
            .checked_mul(PAGE_BYTES)
            .and_then(|len| virt.checked_add(len.saturating_sub(1)));
        match last {
            Some(last) if virt > last || last < hole.start || virt >= hole.end => Ok(Mapping {
                paging,
                virt,
                pages,
            }),
            _ => Err(beyond(virt, pages.count)),
        }
    }
}

/// The ramdisk's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ramdisk {
    pub(crate) span: PageSpan,
    pub(crate) len: u64,
    /// Whether the ramdisk is mapped. If not, the kernel gets its first page.
    pub(crate) mapped: bool,
}

/// Position of each structure in the domain's own (pseudo-physical) pages.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) width: Width,
    pub(crate) nr_pages: u64,
    pub(crate) virt_base: u64,
    pub(crate) kernel: PageSpan,
    pub(crate) ramdisk: Option<Ramdisk>,
    pub(crate) p2m: PageSpan,
    /// Virtual address of the table of machine frames.
    pub(crate) p2m_virt: u64,
    /// INIT_P2M: the table's own page tables, which follow it.
    pub(crate) p2m_tables: Option<Tables>,
    pub(crate) start_info: u64,
    pub(crate) store: u64,
    pub(crate) console: u64,
    pub(crate) tables: Tables,
    pub(crate) stack: u64,
    /// The page behind the last that is used or mapped.
    pub(crate) end: u64,
}

impl Layout {
    /// Lays out a domain of `nr_pages` pages with a ramdisk of `ramdisk_len` bytes. Refuses a 32-bit kernel without
    /// `allow_bare_pv32`.
    ///
    /// Errors state how much memory would suffice.
    pub(crate) fn new(
        kernel: &PvKernel,
        nr_pages: u64,
        ramdisk_len: Option<u64>,
        allow_bare_pv32: bool,
    ) -> Result<Layout> {
        let width = Width::of(kernel, allow_bare_pv32)?;
        width.check_ramdisk(ramdisk_len)?;
        let layout = Layout::unbounded(kernel, &width, nr_pages, ramdisk_len)?;
        if layout.end <= nr_pages {
            return Ok(layout);
        }
        Err(BuildError::TooLittleMemory {
            given_mib: nr_pages / PAGES_PER_MIB,
            needed_mib: needed_mib(kernel, layout, ramdisk_len)?,
        })
    }

    /// Lays out without asking whether there is enough memory.
    fn unbounded(
        kernel: &PvKernel,
        width: &Width,
        nr_pages: u64,
        ramdisk_len: Option<u64>,
    ) -> Result<Layout> {
        let pfns = kernel.pfns();
        let mut row = Row { next: pfns.end };
        let kernel_span = PageSpan::new(pfns.start, pfns.end - pfns.start);
        let ramdisk_mapped = !kernel.unmapped_ramdisk;
        let mut ramdisk = None;
        if let Some(len) = ramdisk_len.filter(|_| ramdisk_mapped) {
            ramdisk = Some(Ramdisk {
                span: row.take(pages_for(len)),
                len,
                mapped: true,
            });
        }
        let p2m_pages = pages_for(nr_pages * width.word_bytes);
        let p2m_virt = separate_p2m(kernel, width);
        let mut p2m = PageSpan::default();
        if p2m_virt.is_none() {
            p2m = row.take(p2m_pages);
        }
        let start_info = row.take(1).first;
        let store = row.take(1).first;
        let console = row.take(1).first;
        let (tables, mapped_end) = boot_tables(width, kernel.virt_base, row.next)?;
        row.take(tables.span().count);
        let stack = row.take(1).first;
        row.next = mapped_end;
        if let Some(len) = ramdisk_len.filter(|_| !ramdisk_mapped) {
            ramdisk = Some(Ramdisk {
                span: row.take(pages_for(len)),
                len,
                mapped: false,
            });
        }
        let mut p2m_tables = None;
        if let Some(virt) = p2m_virt {
            p2m = row.take(p2m_pages);
            let mapping = width.mapping(virt, p2m)?;
            let own = Tables::beside(&tables, mapping, row.next);
            row.take(own.span().count);
            p2m_tables = Some(own);
        }
        Ok(Layout {
            width: width.clone(),
            nr_pages,
            virt_base: kernel.virt_base,
            kernel: kernel_span,
            ramdisk,
            p2m,
            p2m_virt: p2m_virt.unwrap_or(kernel.virt_base.wrapping_add(p2m.address())),
            p2m_tables,
            start_info,
            store,
            console,
            tables,
            stack,
            end: row.next,
        })
    }

    /// The virtual address of a page of the mapping.
    pub(crate) fn virt(&self, page: u64) -> u64 {
        // Inside of the mapping, which `Width::mapping` has checked.
        self.virt_base.wrapping_add(page << PAGE_SHIFT)
    }

    /// The pages of all page tables, which have to be mapped read-only.
    pub(crate) fn table_spans(&self) -> Vec<PageSpan> {
        std::iter::once(&self.tables)
            .chain(&self.p2m_tables)
            .map(Tables::span)
            .collect()
    }

    /// The pages that the builder fills, but for the kernel's.
    pub(crate) fn filled_besides_kernel(&self) -> Vec<PageSpan> {
        let pages = [self.start_info, self.store, self.console].map(|page| PageSpan::new(page, 1));
        let mut spans = vec![self.p2m];
        spans.extend(pages);
        spans.extend(self.table_spans());
        spans.extend(self.ramdisk.map(|ramdisk| ramdisk.span));
        spans
    }
}

/// Pages given out in a row.
struct Row {
    next: u64,
}

impl Row {
    fn take(&mut self, count: u64) -> PageSpan {
        let span = PageSpan::new(self.next, count);
        self.next += count;
        span
    }
}

/// The address of INIT_P2M, if libxc would use it too: a 64-bit kernel, an address below it, on a page boundary.
fn separate_p2m(kernel: &PvKernel, width: &Width) -> Option<u64> {
    let fits = |virt: &u64| *virt < kernel.virt_base && virt.is_multiple_of(PAGE_BYTES);
    kernel
        .init_p2m
        .filter(|virt| width.mode == PvMode::Bits64 && fits(virt))
}

/// The page tables for pages 0 up to the mapping's end, themselves among them from page `first` on; and that end.
///
/// More tables can need a longer mapping, and a longer mapping more tables; it ends because a table maps 512 pages.
fn boot_tables(width: &Width, virt_base: u64, first: u64) -> Result<(Tables, u64)> {
    const STACK_PAGES: u64 = 1;
    let mut nr_tables = 0;
    loop {
        let least = first + nr_tables + STACK_PAGES + PADDING_BYTES / PAGE_BYTES;
        let end = mapping_end(virt_base, least)?;
        let mapping = width.mapping(virt_base, PageSpan::new(0, end))?;
        let tables = Tables::new(mapping, first);
        if tables.span().count <= nr_tables {
            return Ok((tables, end));
        }
        nr_tables = tables.span().count;
    }
}

/// The first page from `least` on whose virtual address is a multiple of 4 MiB.
fn mapping_end(virt_base: u64, least: u64) -> Result<u64> {
    let end = least
        .checked_mul(PAGE_BYTES)
        .and_then(|len| virt_base.checked_add(len))
        .and_then(|end| end.checked_next_multiple_of(MAPPING_ALIGN_BYTES));
    end.map(|end| (end - virt_base) >> PAGE_SHIFT)
        .ok_or_else(|| beyond(virt_base, least))
}

fn beyond(virt: u64, nr_pages: u64) -> BuildError {
    let mib = mib_for(nr_pages);
    BuildError::Layout {
        what: format!("{mib} MiB mapped at {virt:#x} reach where a guest has no addresses"),
    }
}

/// The least memory, in MiB, whose layout fits into it. More memory has a larger table of machine frames.
fn needed_mib(kernel: &PvKernel, mut layout: Layout, ramdisk_len: Option<u64>) -> Result<u64> {
    loop {
        let mib = mib_for(layout.end);
        layout = Layout::unbounded(kernel, &layout.width, mib * PAGES_PER_MIB, ramdisk_len)?;
        if layout.end <= mib * PAGES_PER_MIB {
            return Ok(mib);
        }
    }
}

/// The stack grows down from the end of its page.
pub(crate) fn stack_top(layout: &Layout) -> u64 {
    layout.virt(layout.stack).wrapping_add(PAGE_SIZE as u64)
}
