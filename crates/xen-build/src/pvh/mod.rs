//! Building a PVH domain.
//!
//! # Requests to the hypervisor
//!
//! For a domain of 64 MiB, where Xen has superpages:
//!
//! | request | hypercalls |
//! |---|---|
//! | `set_memory_map` | 1 |
//! | `claim_pages`, if asked for | 1 |
//! | `populate_physmap`: 32 extents of 2 MiB, then the pages in the hole | 2 |
//! | `map_foreign`, everything that is filled, then unmapped | 1 mapping |
//! | `set_hvm_params`: six of them, and the caller's | 1 multicall |
//! | `set_hvm_boot_cpu` | 1 |
//! | `map_grant_frames` | 1 mapping |
//!
//! That is 6 hypercalls and 2 mappings.
//! A domain of 1 GiB or more takes one `populate_physmap` more; one that is populated on demand, one more and a
//! `set_pod_target`.
//!
//! # HVM parameters
//!
//! `STORE_*` and `CONSOLE_*` tell the guest its rings. `IDENT_PT` is read by Xen on Intel processors without unrestricted
//! guest mode alone, to run a guest with paging off, and ignored elsewhere; 4.17 and 4.22 agree. `MONITOR_RING_PFN` is no
//! concern of the guest's: an introspection tool takes the frame that it names for its own, so that it must not stay 0.
//! Not set: `VM86_TSS` (for real mode on those processors, which Xen emulates without it; libxc does not set it for PVH
//! either), `PAE_ENABLED` (refused by all these versions), and the frames of I/O request servers, which have no business
//! with a domain without emulated devices.

mod acpi;
mod aml;
mod layout;

use xen_image::{Feature, Image, PvhKernel};
use xen_port::{Gfn, GuestKind, GuestMemory, HvmBootCpu, HvmParam, Hypervisor, PAGE_SHIFT};

use self::acpi::Acpi;
pub(crate) use self::layout::HOLE_FIRST;
use self::layout::{Layout, Sizes};
use crate::area::Area;
use crate::container::{self, Wanted};
use crate::error::{During, Result, Step};
use crate::place::{Placed, place_module};
use crate::request::{BuildRequest, Built};
use crate::span::{PAGE_BYTES, PageSpan};
use crate::special::{CONSOLE, IDENT_PT, STORE, identity_directory};
use crate::{hvm_start_info, rings, special};

/// Makes all checks that need no domain: the kernel, the command lines, and the size of memory. [`build_pvh`] makes
/// them too.
///
/// # Errors
/// Every [`crate::BuildError`] that does not come from the hypervisor.
pub fn check_pvh(request: &BuildRequest<'_>) -> Result<()> {
    Plan::new(request).map(|_| ())
}

/// Builds a new PVH domain. Afterwards it can be introduced to xenstored and unpaused. Its paging memory pool must be
/// set before.
///
/// # Errors
/// [`crate::BuildError`]. Then nothing is claimed or mapped. The domain has a part of its memory and must be
/// destroyed.
pub fn build_pvh(hv: &dyn Hypervisor, request: &BuildRequest<'_>) -> Result<Built> {
    build_pvh_mapped(hv, request).map(|(built, _)| built)
}

/// Like [`build_pvh`], but keeps the mapping. In a PV dom0, unmapping traps into Xen for each page, while the end of
/// a process unmaps all at once. While the process lives, Xen cannot free a destroyed domain.
///
/// # Errors
/// Those of [`build_pvh`].
pub fn build_pvh_mapped(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
) -> Result<(Built, Box<dyn GuestMemory>)> {
    let plan = Plan::new(request)?;
    let domid = request.domid;
    hv.set_memory_map(domid, &plan.layout.memory_map())
        .during(domid, Step::SetMemoryMap)?;
    let wanted = Wanted {
        ram: &plan.layout.ram(),
        target_pages: request.target_pages(),
        extra: &plan.layout.extra(),
    };
    let extents = container::populate(hv, request, &wanted)?;
    let memory = plan.fill(hv)?;
    let built = container::start(hv, request, &plan.hvm_params(), &plan.boot_cpu(), extents)?;
    Ok((built, memory))
}

/// All that is decided before the first request.
struct Plan<'a> {
    request: &'a BuildRequest<'a>,
    kernel: PvhKernel,
    layout: Layout,
    acpi: Acpi,
}

impl<'a> Plan<'a> {
    fn new(request: &'a BuildRequest<'a>) -> Result<Plan<'a>> {
        request.check(GuestKind::Pvh)?;
        let kernel = request.kernel.pvh()?;
        let acpi = tables(request);
        let module_lens: Vec<u64> = request.module_lens().collect();
        let sizes = Sizes {
            target_pages: request.target_pages(),
            max_pages: request.max_pages(),
            module_lens: &module_lens,
            acpi_len: acpi.bytes.len() as u64,
            wants_low_rsdp: wants_low_rsdp(request.kernel, &kernel),
        };
        let layout = Layout::new(&kernel, &sizes, |map_entries| {
            hvm_start_info::len(request, map_entries)
        })?;
        Ok(Plan {
            request,
            kernel,
            layout,
            acpi,
        })
    }

    fn fill(&self, hv: &dyn Hypervisor) -> Result<Box<dyn GuestMemory>> {
        let layout = &self.layout;
        let mut area = Area::map(hv, self.request.domid, &layout.filled(), Gfn)?;
        let kernel = Placed::new(self.request.kernel, layout.kernel, |segment| segment.paddr);
        kernel.fill(&mut area, &[layout.kernel])?;
        for (module, span) in self.request.modules.iter().zip(&layout.modules) {
            place_module(&mut area, &module.content, *span)?;
        }
        area.write_pages(Step::WriteStartInfo, layout.start_info, &self.start_info())?;
        area.write_pages(Step::WriteAcpi, layout.acpi, &self.acpi.bytes)?;
        self.write_low_rsdp(&mut area)?;
        rings::clear(&mut area, STORE, CONSOLE)?;
        area.write_pages(
            Step::WriteIdentPt,
            PageSpan::new(IDENT_PT, 1),
            &identity_directory(),
        )?;
        Ok(area.into_memory())
    }

    fn start_info(&self) -> Vec<u8> {
        let Layout {
            start_info,
            modules,
            acpi,
            ..
        } = &self.layout;
        let map = self.layout.memory_map();
        hvm_start_info::start_info(
            self.request,
            start_info.address(),
            modules,
            &map,
            acpi.address(),
        )
    }

    /// Writes a second RSDP 64 bytes below 1 MiB, for kernels that search the BIOS area.
    fn write_low_rsdp(&self, area: &mut Area) -> Result<()> {
        const BYTES_BELOW_END: usize = 64;
        let Some(page) = self.layout.low_rsdp else {
            return Ok(());
        };
        let mut bytes = vec![0; PAGE_BYTES as usize - BYTES_BELOW_END];
        bytes.extend(&self.acpi.rsdp);
        area.write_pages(Step::WriteAcpi, PageSpan::new(page, 1), &bytes)
    }

    fn hvm_params(&self) -> Vec<(HvmParam, u64)> {
        let mut params = special::params(self.request);
        params.extend(self.request.hvm_params);
        params
    }

    fn boot_cpu(&self) -> HvmBootCpu {
        // The layout has it below the hole, so below 4 GiB.
        HvmBootCpu {
            eip: self.kernel.entry,
            ebx: self.layout.start_info.address() as u32,
            nr_vcpus: self.request.max_vcpus,
        }
    }
}

fn tables(request: &BuildRequest<'_>) -> Acpi {
    // At most 128 vCPUs, as `BuildRequest::check` has made sure.
    let max_vcpus = request.max_vcpus.min(u8::MAX.into()) as u8;
    let online = request.online_vcpus.clamp(1, max_vcpus.into()) as u8;
    Acpi::new((HOLE_FIRST << PAGE_SHIFT) as u32, max_vcpus, online)
}

/// Whether the kernel needs the second RSDP. Linux before 5.0 searches only the BIOS area; a note of later ones shows
/// that they do not.
fn wants_low_rsdp(image: &Image, kernel: &PvhKernel) -> bool {
    let is_linux = image.notes().and_then(|notes| notes.guest_os.as_deref()) == Some("linux");
    is_linux
        && !kernel
            .features
            .supported
            .contains(Feature::LinuxRsdpUnrestricted)
}
