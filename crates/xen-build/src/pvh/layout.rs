//! The layout of a PVH domain's guest-physical addresses.
//!
//! RAM reaches from 0 to the hole below 4 GiB, and continues at 4 GiB. The hole has the ACPI tables, the local APIC
//! (0xfee00000, emulated by Xen), and a few special pages. The addresses are those of libxc and libxl. PVH has no VGA
//! hole: memory from 0 to 1 MiB is RAM.

use xen_image::PvhKernel;
use xen_port::{E820Entry, E820Kind};

use crate::container::{Bounds, Ram, check_end, in_a_row};
use crate::error::Result;
use crate::span::{PageSpan, pages_for};
use crate::special::{CONSOLE, IDENT_PT, SPECIAL, STORE};

/// First page of the hole, with the ACPI tables (`ACPI_INFO_PHYSICAL_ADDRESS` of libxl, 0xfc000000).
pub(crate) const HOLE_FIRST: u64 = 0xf_c000;
/// The page at whose end a kernel that does not read start_info's `rsdp_paddr` looks for the RSDP.
const LOW_RSDP_PAGE: u64 = 0xff;

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
    ram: Ram,
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
        let modules = in_a_row(gfns.end, sizes.module_lens.iter().copied());
        let modules_end = modules.last().map_or(gfns.end, |span| span.end());
        let ram = Ram::around(HOLE_FIRST, sizes.max_pages);
        let mut layout = Layout {
            kernel: kernel_span,
            modules,
            start_info: PageSpan::default(),
            acpi: PageSpan::new(HOLE_FIRST, pages_for(sizes.acpi_len)),
            low_rsdp: None,
            ram,
        };
        layout.low_rsdp = Some(LOW_RSDP_PAGE).filter(|page| {
            sizes.wants_low_rsdp && ram.low.contains(*page) && !layout.is_taken(*page)
        });
        let start_info_len = start_info_len(layout.memory_map().len());
        layout.start_info = PageSpan::new(modules_end, pages_for(start_info_len));
        let bounds = Bounds {
            kind: "PVH",
            hole_first: HOLE_FIRST,
            available: ram.low.end().min(sizes.target_pages),
            besides_ram: 0,
        };
        check_end(&bounds, layout.start_info.end())?;
        Ok(layout)
    }

    fn is_taken(&self, page: u64) -> bool {
        std::iter::once(&self.kernel)
            .chain(&self.modules)
            .any(|span| span.contains(page))
    }

    /// RAM that the domain may have.
    pub(crate) fn ram(&self) -> [PageSpan; 2] {
        [self.ram.low, self.ram.high]
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
                    PageSpan::new(after, self.ram.low.end() - after),
                    E820Kind::Ram,
                ));
            }
            None => map.push((self.ram.low, E820Kind::Ram)),
        }
        map.push((self.acpi, E820Kind::Nvs));
        map.push((SPECIAL, E820Kind::Reserved));
        map.push((self.ram.high, E820Kind::Ram));
        map.retain(|(span, _)| !span.is_empty());
        map.into_iter()
            .map(|(span, kind)| span.as_e820(kind))
            .collect()
    }
}
