//! The layout of a PVH domain's guest-physical addresses.
//!
//! RAM reaches from 0 to the hole below 4 GiB, and continues at 4 GiB. The hole has the ACPI tables, the local APIC
//! (0xfee00000, emulated by Xen), and a few special pages. The addresses are those of libxc and libxl, so that
//! domains of both toolstacks look the same to guests and tools. PVH has no VGA hole: memory from 0 to 1 MiB is RAM.

use xen_image::PvhKernel;
use xen_port::{E820Entry, E820Kind};

use crate::error::{BuildError, Result};
use crate::span::{PAGES_PER_MIB, PageSpan, mib_for, pages_for};

/// First page of the hole, with the ACPI tables (`ACPI_INFO_PHYSICAL_ADDRESS` of libxl, 0xfc000000).
pub(crate) const HOLE_FIRST: u64 = 0xf_c000;
/// First page above 4 GiB.
const HIGH_FIRST: u64 = 0x10_0000;
/// The special pages (`X86_HVM_NR_SPECIAL_PAGES` up to `X86_HVM_END_SPECIAL_REGION`).
const SPECIAL: PageSpan = PageSpan {
    first: 0xf_eff8,
    count: 8,
};
/// The special pages that are used, by libxc's order.
const SPECIAL_MONITOR_RING: u64 = SPECIAL.first + 1;
const SPECIAL_STORE: u64 = SPECIAL.first + 4;
const SPECIAL_IDENT_PT: u64 = SPECIAL.first + 6;
const SPECIAL_CONSOLE: u64 = SPECIAL.first + 7;
/// The page at whose end a kernel that does not read start_info's `rsdp_paddr` looks for the RSDP.
const LOW_RSDP_PAGE: u64 = 0xff;

/// Frame of xenstore's ring.
pub(crate) const STORE: u64 = SPECIAL_STORE;
/// Frame of the console's ring.
pub(crate) const CONSOLE: u64 = SPECIAL_CONSOLE;
/// Frame of the identity page directory.
pub(crate) const IDENT_PT: u64 = SPECIAL_IDENT_PT;
/// Frame for the ring of an introspection tool, which populates it itself.
pub(crate) const MONITOR_RING: u64 = SPECIAL_MONITOR_RING;

/// The position of each structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) kernel: PageSpan,
    /// In the order of the request.
    pub(crate) modules: Vec<PageSpan>,
    pub(crate) start_info: PageSpan,
    pub(crate) acpi: PageSpan,
    /// The page of a second RSDP, for a kernel that needs it there.
    pub(crate) low_rsdp: Option<u64>,
    low_ram: PageSpan,
    high_ram: PageSpan,
}

/// Sizes that a layout is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes<'a> {
    /// Pages at the start.
    pub(crate) target_pages: u64,
    /// Pages in the memory map.
    pub(crate) max_pages: u64,
    pub(crate) module_lens: &'a [u64],
    pub(crate) acpi_len: u64,
    pub(crate) wants_low_rsdp: bool,
}

impl Layout {
    /// Computes the layout. `start_info_len` gets the number of entries of the memory map, and returns the size in
    /// bytes of start_info with all its parts.
    pub(crate) fn new(
        kernel: &PvhKernel,
        sizes: &Sizes<'_>,
        start_info_len: impl Fn(usize) -> u64,
    ) -> Result<Layout> {
        let gfns = kernel.gfns();
        let kernel_span = PageSpan::new(gfns.start, gfns.end - gfns.start);
        let mut next = gfns.end;
        let mut take = |len: u64| {
            let span = PageSpan::new(next, pages_for(len));
            next = span.end();
            span
        };
        let modules: Vec<PageSpan> = sizes.module_lens.iter().map(|len| take(*len)).collect();
        let low_pages = sizes.max_pages.min(HOLE_FIRST);
        let mut layout = Layout {
            kernel: kernel_span,
            modules,
            start_info: PageSpan::default(),
            acpi: PageSpan::new(HOLE_FIRST, pages_for(sizes.acpi_len)),
            low_rsdp: None,
            low_ram: PageSpan::new(0, low_pages),
            high_ram: PageSpan::new(HIGH_FIRST, sizes.max_pages - low_pages),
        };
        layout.low_rsdp = Some(LOW_RSDP_PAGE).filter(|page| {
            sizes.wants_low_rsdp && layout.low_ram.contains(*page) && !layout.is_taken(*page)
        });
        layout.start_info = take(start_info_len(layout.memory_map().len()));
        check_end(layout.start_info.end(), low_pages.min(sizes.target_pages))?;
        Ok(layout)
    }

    fn is_taken(&self, page: u64) -> bool {
        std::iter::once(&self.kernel)
            .chain(&self.modules)
            .any(|span| span.contains(page))
    }

    /// RAM that the domain may have.
    pub(crate) fn ram(&self) -> [PageSpan; 2] {
        [self.low_ram, self.high_ram]
    }

    /// Pages outside of RAM that have to be populated.
    pub(crate) fn extra(&self) -> Vec<PageSpan> {
        let pages = [STORE, IDENT_PT, CONSOLE].map(|page| PageSpan::new(page, 1));
        std::iter::once(self.acpi).chain(pages).collect()
    }

    /// The pages that the builder fills.
    pub(crate) fn filled(&self) -> Vec<PageSpan> {
        let mut spans = vec![self.kernel, self.start_info];
        spans.extend(&self.modules);
        spans.extend(self.extra());
        spans.extend(self.low_rsdp.map(|page| PageSpan::new(page, 1)));
        spans
    }

    /// The memory map, in rising order: the guest gets it in start_info, and from Xen when it asks (XENMEM_memory_map).
    ///
    /// The ACPI tables are non-volatile storage, not "ACPI": a kernel may reuse the latter, and the next one that it
    /// starts by kexec would find no tables.
    pub(crate) fn memory_map(&self) -> Vec<E820Entry> {
        let mut map = Vec::new();
        match self.low_rsdp {
            Some(page) => {
                let after = page + 1;
                map.push((PageSpan::new(0, page), E820Kind::Ram));
                map.push((PageSpan::new(page, 1), E820Kind::Nvs));
                map.push((
                    PageSpan::new(after, self.low_ram.end() - after),
                    E820Kind::Ram,
                ));
            }
            None => map.push((self.low_ram, E820Kind::Ram)),
        }
        map.push((self.acpi, E820Kind::Nvs));
        map.push((SPECIAL, E820Kind::Reserved));
        map.push((self.high_ram, E820Kind::Ram));
        map.retain(|(span, _)| !span.is_empty());
        map.into_iter()
            .map(|(span, kind)| entry(span, kind))
            .collect()
    }
}

fn entry(span: PageSpan, kind: E820Kind) -> E820Entry {
    E820Entry {
        start: span.address(),
        size_bytes: span.size_bytes(),
        kind,
    }
}

/// Checks that the start structures fit in memory below the hole. They are contiguous.
fn check_end(end: u64, available: u64) -> Result<()> {
    if end > HOLE_FIRST {
        let mib = mib_for(end);
        return Err(BuildError::Layout {
            what: format!(
                "with its modules it reaches up to {mib} MiB, and a PVH domain has 4032 MiB below its hole"
            ),
        });
    }
    if end > available {
        let given_mib = available / PAGES_PER_MIB;
        return Err(BuildError::TooLittleMemory {
            given_mib,
            needed_mib: mib_for(end),
        });
    }
    Ok(())
}
