//! Building a PV domain.
//!
//! # Requests to the hypervisor
//!
//! For a domain of 64 MiB whose kernel has a hypercall page, where Xen has superpages:
//!
//! | request | hypercalls |
//! |---|---|
//! | `domain_info`: where the shared-info page is | 1 |
//! | `set_memory_map`: how far the domain may balloon | 1 |
//! | `claim_pages`, if asked for | 1 |
//! | `populate_physmap`: 32 extents of 2 MiB | 1 |
//! | `clear_pages`: the pages of the kernel's bss, where there are 16 or more | 1 |
//! | `map_foreign`, everything that is filled, then unmapped | 1 mapping |
//! | `init_hypercall_page` | 1 |
//! | `pin_tables` | 1 |
//! | `set_pv_boot_cpu` | 1 |
//! | `map_grant_frames` | 1 mapping |
//!
//! That is 8 hypercalls and 2 mappings. Memory that is no multiple of 2 MiB, and memory that Xen has no superpages for, costs one `populate_physmap` more.
//!
//! A 32-bit kernel, which [`BuildRequest::allow_bare_pv32`] has to allow, costs one more before its memory, `make_pv32`: 64 bits
//! are what a new PV domain has. One whose top-level page table cannot lie above 4 GiB costs two requests for memory more.

mod layout;
mod p2m;
mod page_tables;
mod start_info;

use xen_image::{Feature, PvKernel, Segment};
use xen_port::{
    DomainInfo, E820Entry, E820Kind, Errno, Gfn, GuestKind, Hypervisor, Mfn, PageTableLevel,
    PopulateFlags, PvBootCpu, PvMode,
};

use self::layout::{Layout, stack_top};
use self::p2m::P2m;
use self::page_tables::TableSet;
use crate::area::Area;
use crate::error::{BuildError, During, Result, Step};
use crate::place::{Placed, place_module};
use crate::populate::{Claim, ORDER_2MIB, Populate};
use crate::request::{BuildRequest, Built, ExtentCounts};
use crate::span::{PAGE_BYTES, PageSpan};
use crate::{grants, rings};

/// Features that no PV domain has. A kernel that requires one is refused.
///
/// Linux "requires" `writable_page_tables`, which Xen has not had for a decade, and runs nevertheless. So other names
/// are ignored.
const NOT_IN_PV: [(Feature, &str); 3] = [
    (Feature::Dom0, "dom0"),
    (Feature::AutoTranslatedPhysmap, "auto_translated_physmap"),
    (Feature::SupervisorModeKernel, "supervisor_mode_kernel"),
];

/// Makes all checks that need no domain: the kernel, the command line, and the size of memory. [`build_pv`] makes
/// them too.
///
/// # Errors
/// Every [`BuildError`] that does not come from the hypervisor.
pub fn check_pv(request: &BuildRequest<'_>) -> Result<()> {
    plan(request).map(|_| ())
}

/// Builds a new PV domain. Afterwards it can be introduced to xenstored and unpaused.
///
/// # Errors
/// [`BuildError`]. Then nothing is claimed or mapped. The domain has a part of its memory and must be destroyed.
pub fn build_pv(hv: &dyn Hypervisor, request: &BuildRequest<'_>) -> Result<Built> {
    let (kernel, layout) = plan(request)?;
    let domid = request.domid;
    let shared_info = domain_info(hv, request)?.shared_info_frame;
    hv.set_memory_map(domid, &[balloon_limit(request)])
        .during(domid, Step::SetMemoryMap)?;
    if layout.width.mode != PvMode::Bits64 {
        hv.make_pv32(domid).during(domid, Step::MakePv32)?;
    }
    let (p2m, extents) = populate(hv, request, &layout)?;
    let filler = Filler {
        request,
        kernel: &kernel,
        layout: &layout,
        p2m: &p2m,
        shared_info,
    };
    // Xen accepts a page table only if no process has it mapped writable. `fill` unmaps the pages when it returns,
    // and only then the tables are pinned.
    filler.fill(hv)?;
    if let Some(page) = kernel.hypercall_page.and_then(|virt| kernel.pfn_of(virt)) {
        hv.init_hypercall_page(domid, p2m.gfn(page))
            .during(domid, Step::HypercallPage)?;
    }
    let top = p2m.mfn(layout.tables.span().first);
    let level = match layout.width.mode {
        PvMode::Bits64 => PageTableLevel::L4,
        PvMode::Bits32 { .. } => PageTableLevel::L3,
    };
    hv.pin_tables(domid, &[(level, top)])
        .during(domid, Step::PinPageTables)?;
    hv.set_pv_boot_cpu(domid, &boot_cpu(&kernel, &layout, top))
        .during(domid, Step::SetBootCpu)?;
    let (store, console) = (p2m.gfn(layout.store), p2m.gfn(layout.console));
    grants::seed(hv, request, console, store)?;
    Ok(Built {
        store_gfn: store,
        console_gfn: console,
        extents,
    })
}

fn plan(request: &BuildRequest<'_>) -> Result<(PvKernel, Layout)> {
    request.check(GuestKind::Pv)?;
    let kernel = request.kernel.pv()?;
    for (feature, name) in NOT_IN_PV {
        if kernel.features.required.contains(feature) {
            return Err(BuildError::RequiredFeature {
                feature: name,
                kind: "PV",
            });
        }
    }
    let ramdisk_len = request
        .modules
        .first()
        .map(|ramdisk| ramdisk.content.size_bytes());
    let layout = Layout::new(
        &kernel,
        request.target_pages(),
        ramdisk_len,
        request.allow_bare_pv32,
    )?;
    Ok((kernel, layout))
}

fn domain_info(hv: &dyn Hypervisor, request: &BuildRequest<'_>) -> Result<DomainInfo> {
    let domid = request.domid;
    let info = hv.domain_info(domid).during(domid, Step::ReadDomain)?;
    info.ok_or(BuildError::NoDomain {
        domid,
        step: Step::ReadDomain,
    })
}

/// A PV domain's memory map: one range up to its balloon limit.
fn balloon_limit(request: &BuildRequest<'_>) -> E820Entry {
    E820Entry {
        start: 0,
        size_bytes: request.max_pages() * PAGE_BYTES,
        kind: E820Kind::Ram,
    }
}

fn populate(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
    layout: &Layout,
) -> Result<(P2m, ExtentCounts)> {
    let nr_pages = request.target_pages();
    let how = Populate {
        hv,
        domid: request.domid,
        // Each extent's frames have to be written down one by one anyway: 1 GiB would save one hypercall in 512.
        max_order: ORDER_2MIB,
        flags: PopulateFlags::default(),
        wanted_pages: nr_pages,
    };
    let claim = Claim::stake(&how, nr_pages, request.claim)?;
    let mut p2m = P2m::default();
    let mut note = |first, order, frame| p2m.add_extent(first, order, frame);
    let low = page_below_4gib(layout);
    let mut extents = how.spans(&around(nr_pages, low), &mut note)?;
    if let Some(page) = low {
        let table = [PageSpan::new(page, 1)];
        extents.nr_4kib += how.below_4gib().spans(&table, &mut note)?.nr_4kib;
    }
    p2m.sort();
    claim.fulfilled();
    Ok((p2m, extents))
}

/// The page whose frame must be below 4 GiB: the top-level table of a 32-bit kernel without extended CR3.
fn page_below_4gib(layout: &Layout) -> Option<u64> {
    let is_bound = layout.width.mode
        == PvMode::Bits32 {
            extended_cr3: false,
        };
    is_bound.then_some(layout.tables.span().first)
}

/// All pages but that one.
fn around(nr_pages: u64, page: Option<u64>) -> Vec<PageSpan> {
    match page {
        None => vec![PageSpan::new(0, nr_pages)],
        Some(page) => vec![
            PageSpan::new(0, page),
            PageSpan::new(page + 1, nr_pages.saturating_sub(page + 1)),
        ],
    }
}

fn boot_cpu(kernel: &PvKernel, layout: &Layout, top: Mfn) -> PvBootCpu {
    PvBootCpu {
        rip: kernel.entry,
        rsp: stack_top(layout),
        rsi: layout.virt(layout.start_info),
        cr3: top,
        mode: layout.width.mode,
    }
}

/// All that is written into the domain's memory.
struct Filler<'a> {
    request: &'a BuildRequest<'a>,
    kernel: &'a PvKernel,
    layout: &'a Layout,
    p2m: &'a P2m,
    shared_info: Gfn,
}

impl Filler<'_> {
    fn fill(&self, hv: &dyn Hypervisor) -> Result<()> {
        let layout = self.layout;
        let address_of = |segment: &Segment| self.kernel.segment_paddr(segment);
        let kernel = Placed::new(self.request.kernel, layout.kernel, address_of);
        let kernel_pages = kernel.pages_but(&self.clear(hv, kernel.empty_pages())?);
        let mut area = self.map(hv, &kernel_pages)?;
        kernel.fill(&mut area, &kernel_pages)?;
        if let (Some(ramdisk), Some(module)) = (layout.ramdisk, self.request.modules.first()) {
            place_module(&mut area, &module.content, ramdisk.span)?;
        }
        self.p2m
            .write(&mut area, layout.p2m, layout.width.word_bytes)?;
        self.write_tables(&mut area)?;
        rings::clear(&mut area, layout.store, layout.console)?;
        self.write_page(
            &mut area,
            Step::WriteStartInfo,
            layout.start_info,
            &self.start_info(),
        )?;
        self.write_page(
            &mut area,
            Step::WriteSharedInfo,
            self.shared_info_page(),
            &start_info::shared_info(),
        )
    }

    /// Asks Xen to clear pages. Returns those that it did not clear: none or all. Few pages are cheaper to clear
    /// through the mapping.
    fn clear(&self, hv: &dyn Hypervisor, pages: Vec<PageSpan>) -> Result<Vec<PageSpan>> {
        const FEW: usize = 16;
        let frames: Vec<Gfn> = pages
            .iter()
            .flat_map(|span| span.pages())
            .map(|page| self.p2m.gfn(page))
            .collect();
        if frames.len() < FEW {
            return Ok(Vec::new());
        }
        match hv.clear_pages(self.request.domid, &frames) {
            Ok(()) => Ok(pages),
            Err(error) if error.is(Errno::EOPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error).during(self.request.domid, Step::ClearPages),
        }
    }

    /// Number of the shared-info page in the mapping. It belongs to the domain but has no number there, so it gets
    /// the first free one.
    fn shared_info_page(&self) -> u64 {
        self.layout.nr_pages
    }

    fn map(&self, hv: &dyn Hypervisor, kernel_pages: &[PageSpan]) -> Result<Area> {
        let mut spans = self.layout.filled_besides_kernel();
        spans.extend(kernel_pages);
        spans.push(PageSpan::new(self.shared_info_page(), 1));
        Area::map(hv, self.request.domid, &spans, |page| {
            if page == self.shared_info_page() {
                self.shared_info
            } else {
                self.p2m.gfn(page)
            }
        })
    }

    fn write_tables(&self, area: &mut Area) -> Result<()> {
        let groups = std::iter::once(&self.layout.tables)
            .chain(&self.layout.p2m_tables)
            .collect();
        let tables = TableSet { groups };
        for (page, bytes) in tables.filled(|page| self.p2m.mfn(page)) {
            area.write(Step::WritePageTables, page * PAGE_BYTES, &bytes)?;
        }
        Ok(())
    }

    fn start_info(&self) -> Vec<u8> {
        start_info::start_info(self.layout, self.request, self.shared_info, |page| {
            self.p2m.mfn(page)
        })
    }

    /// Writes a page that starts with `bytes` and is zero otherwise.
    fn write_page(&self, area: &mut Area, step: Step, page: u64, bytes: &[u8]) -> Result<()> {
        let address = page * PAGE_BYTES;
        area.write(step, address, bytes)?;
        let len = bytes.len() as u64;
        area.zero(step, address + len, PAGE_BYTES.saturating_sub(len))
    }
}
