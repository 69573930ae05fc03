//! The steps of a build that PVH and HVM domains share. Both are what Xen calls HVM containers: hardware-virtualised, with
//! guest frames that start at 0.
//!
//! [`Ram`] says where their memory is. [`populate`] allocates it, and [`start`] makes the requests after the memory is
//! filled.

use xen_port::{Gfn, HvmBootCpu, HvmParam, Hypervisor, PopulateFlags};

use crate::error::{BuildError, During, Result, Step};
use crate::grants;
use crate::populate::{Claim, ORDER_1GIB, Populate};
use crate::request::{BuildRequest, Built, ExtentCounts};
use crate::span::{PAGES_PER_MIB, PageSpan, mib_for, pages_for};
use crate::special::{CONSOLE, STORE};

/// First page above 4 GiB.
const HIGH_FIRST: u64 = 0x10_0000;

/// RAM from page 0 to a hole that ends at 4 GiB, and from 4 GiB on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ram {
    pub(crate) low: PageSpan,
    pub(crate) high: PageSpan,
}

impl Ram {
    /// `nr_pages` of RAM around a hole whose first page is `hole_first`.
    pub(crate) fn around(hole_first: u64, nr_pages: u64) -> Ram {
        let low_pages = nr_pages.min(hole_first);
        Ram {
            low: PageSpan::new(0, low_pages),
            high: PageSpan::new(HIGH_FIRST, nr_pages - low_pages),
        }
    }
}

/// The pages of structures that lie one behind the other, from page `first` on, by their lengths in bytes.
pub(crate) fn in_a_row(first: u64, lens_bytes: impl IntoIterator<Item = u64>) -> Vec<PageSpan> {
    let spans = lens_bytes.into_iter().scan(first, |next, len| {
        let span = PageSpan::new(*next, pages_for(len));
        *next = span.end();
        Some(span)
    });
    spans.collect()
}

/// The memory that the structures of the start must fit into, in pages.
pub(crate) struct Bounds {
    /// `PVH` or `HVM`.
    pub(crate) kind: &'static str,
    /// First page of the hole below 4 GiB.
    pub(crate) hole_first: u64,
    /// Number of pages of RAM below the hole that are there at the start.
    pub(crate) available: u64,
    /// Number of pages of the domain's memory that are no RAM.
    pub(crate) besides_ram: u64,
}

/// Checks that the structures of the start, which end before page `end`, are in memory below the hole.
pub(crate) fn check_end(bounds: &Bounds, end: u64) -> Result<()> {
    let Bounds {
        kind, hole_first, ..
    } = *bounds;
    if end > hole_first {
        let (mib, hole_mib) = (mib_for(end), hole_first / PAGES_PER_MIB);
        return Err(BuildError::Layout {
            what: format!(
                "with its modules it reaches up to {mib} MiB, and this {kind} domain has {hole_mib} MiB below its hole"
            ),
        });
    }
    if end > bounds.available {
        return Err(BuildError::TooLittleMemory {
            given_mib: (bounds.available + bounds.besides_ram) / PAGES_PER_MIB,
            needed_mib: mib_for(end + bounds.besides_ram),
        });
    }
    Ok(())
}

/// Memory to allocate.
pub(crate) struct Wanted<'a> {
    /// Pages of RAM.
    pub(crate) ram: &'a [PageSpan],
    /// Pages of RAM at the start. If they are fewer than those of `ram`, these are populated on demand.
    pub(crate) target_pages: u64,
    /// Pages besides RAM.
    pub(crate) extra: &'a [PageSpan],
}

/// Allocates a domain's memory.
pub(crate) fn populate(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
    wanted: &Wanted<'_>,
) -> Result<ExtentCounts> {
    let pages_of = |spans: &[PageSpan]| -> u64 { spans.iter().map(|span| span.count).sum() };
    let how = Populate {
        hv,
        domid: request.domid,
        max_order: ORDER_1GIB,
        flags: PopulateFlags::default(),
        wanted_pages: wanted.target_pages,
    };
    let ram_pages = pages_of(wanted.ram);
    let claimed_pages = wanted.target_pages.min(ram_pages) + pages_of(wanted.extra);
    let claim = Claim::stake(&how, claimed_pages, request.claim)?;
    let counts = if wanted.target_pages < ram_pages {
        populate_on_demand(&how, wanted)?
    } else {
        how.spans(&[wanted.ram, wanted.extra].concat(), |_, _, _| ())?
    };
    claim.fulfilled();
    Ok(counts)
}

/// Gives Xen the memory of the start as a cache, from which it fills the addresses of `maxmem` as they are touched.
fn populate_on_demand(how: &Populate<'_>, wanted: &Wanted<'_>) -> Result<ExtentCounts> {
    how.hv
        .set_pod_target(how.domid, wanted.target_pages)
        .map_err(|error| how.explain(Step::SetPodTarget, error))?;
    let flags = PopulateFlags {
        on_demand: true,
        ..how.flags
    };
    let on_demand = Populate { flags, ..*how };
    on_demand.spans(wanted.ram, |_, _, _| ())?;
    how.spans(wanted.extra, |_, _, _| ())
}

/// Sets the parameters and the registers of vCPU 0, and grants the rings to their servers. `extents` is for the answer.
pub(crate) fn start(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
    params: &[(HvmParam, u64)],
    cpu: &HvmBootCpu,
    extents: ExtentCounts,
) -> Result<Built> {
    let domid = request.domid;
    hv.set_hvm_params(domid, params)
        .during(domid, Step::SetHvmParams)?;
    hv.set_hvm_boot_cpu(domid, cpu)
        .during(domid, Step::SetBootCpu)?;
    let (store, console) = (Gfn(STORE), Gfn(CONSOLE));
    grants::seed(hv, request, console, store)?;
    Ok(Built {
        store_gfn: store,
        console_gfn: console,
        extents,
    })
}
