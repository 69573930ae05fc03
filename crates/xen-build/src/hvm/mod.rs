//! Building an HVM domain.
//!
//! The kernel is Xen's hvmloader. It finds its firmware (SeaBIOS or OVMF) as the module [`FIRMWARE`], and its settings in
//! xenstore. Its devices come from a device model, which the caller starts.
//!
//! # Requests to the hypervisor
//!
//! For a domain of 64 MiB, where Xen has superpages:
//!
//! | request | hypercalls |
//! |---|---|
//! | `set_memory_map` | 1 |
//! | `claim_pages`, if asked for | 1 |
//! | `populate_physmap`: 31 extents of 2 MiB, then the single pages, special ones too | 2 |
//! | `map_foreign`, everything that is filled, then unmapped | 1 mapping |
//! | `set_hvm_params`: twelve of them, and the caller's | 1 multicall |
//! | `set_hvm_boot_cpu` | 1 |
//! | `map_grant_frames` | 1 mapping |
//!
//! # HVM parameters
//!
//! Those of PVH, the rings of paging and sharing, and the pages of I/O request servers. QEMU makes an I/O request server
//! of its own, whose pages are not these; they are for older device models, as with libxl.
//!
//! The caller gives those that come from the configuration: `TimerMode`, `HpetEnabled`, `VptAlign`, `Viridian`,
//! `McaCap`. Xen has 0 for each that is not given. libxl's defaults are 1 for the first three, and neither of the others.
//! hvmloader sets `Vm86TssSized`, `AcpiIoportsLocation` and `VmGenerationIdAddr`.

mod info_table;
mod layout;

use xen_image::HvmFirmware;
use xen_port::{Gfn, GuestKind, GuestMemory, HvmBootCpu, HvmParam, Hypervisor};

use self::info_table::info_table;
use self::layout::{HVM_INFO, Layout};
pub use self::layout::{HvmMachine, HvmRam, MMIO_HOLE_MAX_MIB, MMIO_HOLE_MIN_MIB};
use crate::area::Area;
use crate::container::{self, Wanted};
use crate::error::{BuildError, During, Result, Step};
use crate::place::{Placed, place_module};
use crate::request::{BuildRequest, Built};
use crate::span::PageSpan;
use crate::special::{
    BUF_IOREQ, IDENT_PT, IOREQ, IOREQ_SERVERS, PAGING_RING, SHARING_RING, identity_directory,
};
use crate::{hvm_start_info, special};

/// Command line of the module that hvmloader takes for the firmware.
pub const FIRMWARE: &str = "firmware";

/// Makes all checks that need no domain: hvmloader, the firmware, and the size of memory. Returns where RAM will be.
/// [`build_hvm`] makes the checks too.
///
/// # Errors
/// Every [`BuildError`] that does not come from the hypervisor.
pub fn check_hvm(request: &BuildRequest<'_>, machine: &HvmMachine) -> Result<HvmRam> {
    Plan::new(request, machine).map(|plan| plan.layout.answer)
}

/// The addresses of the request's modules in the domain's memory, in their order. hvmloader finds some modules by nodes in xenstore
/// (`hvmloader/acpi/address`, `hvmloader/smbios/address`); such a module has an empty command line.
///
/// # Errors
/// Those of [`check_hvm`].
pub fn hvm_module_addresses(request: &BuildRequest<'_>, machine: &HvmMachine) -> Result<Vec<u64>> {
    let layout = Plan::new(request, machine)?.layout;
    Ok(layout.modules.iter().map(|span| span.address()).collect())
}

/// Builds a new HVM domain. Afterwards it can be introduced to xenstored, and unpaused when its device model runs. Its paging
/// memory pool must be set before. `request.kernel` is hvmloader, and one of the modules is [`FIRMWARE`].
///
/// # Errors
/// [`BuildError`]. Then nothing is claimed or mapped. The domain has a part of its memory and must be destroyed.
pub fn build_hvm(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
    machine: &HvmMachine,
) -> Result<Built> {
    build_hvm_mapped(hv, request, machine).map(|(built, _)| built)
}

/// Like [`build_hvm`], but keeps the mapping, as [`build_pvh_mapped`](crate::build_pvh_mapped) does.
///
/// # Errors
/// Those of [`build_hvm`].
pub fn build_hvm_mapped(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
    machine: &HvmMachine,
) -> Result<(Built, Box<dyn GuestMemory>)> {
    let plan = Plan::new(request, machine)?;
    let domid = request.domid;
    hv.set_memory_map(domid, &plan.layout.answer.memory_map())
        .during(domid, Step::SetMemoryMap)?;
    let wanted = Wanted {
        ram: &plan.layout.ram(),
        target_pages: plan.layout.target_pages,
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
    machine: &'a HvmMachine,
    firmware: HvmFirmware,
    layout: Layout,
}

impl<'a> Plan<'a> {
    fn new(request: &'a BuildRequest<'a>, machine: &'a HvmMachine) -> Result<Plan<'a>> {
        request.check(GuestKind::Hvm)?;
        let firmware = request.kernel.hvm_firmware()?;
        let mut names = request.modules.iter().map(|module| module.cmdline);
        if !names.any(|name| name == FIRMWARE) {
            return Err(BuildError::NoFirmware);
        }
        let layout = Layout::new(request, machine, &firmware, |map_entries| {
            hvm_start_info::len(request, map_entries)
        })?;
        Ok(Plan {
            request,
            machine,
            firmware,
            layout,
        })
    }

    fn fill(&self, hv: &dyn Hypervisor) -> Result<Box<dyn GuestMemory>> {
        let layout = &self.layout;
        let mut area = Area::map(hv, self.request.domid, &layout.filled(), Gfn)?;
        let firmware = Placed::new(self.request.kernel, layout.firmware, |segment| {
            segment.paddr
        });
        firmware.fill(&mut area, &[layout.firmware])?;
        for (module, span) in self.request.modules.iter().zip(&layout.modules) {
            place_module(&mut area, &module.content, *span)?;
        }
        area.write_pages(Step::WriteStartInfo, layout.start_info, &self.start_info())?;
        self.write_info_table(&mut area)?;
        for span in layout.extra() {
            area.zero(Step::ClearRings, span.address(), span.size_bytes())?;
        }
        let ident_pt = PageSpan::new(IDENT_PT, 1);
        area.write_pages(Step::WriteIdentPt, ident_pt, &identity_directory())?;
        Ok(area.into_memory())
    }

    fn start_info(&self) -> Vec<u8> {
        const NO_RSDP: u64 = 0;
        let Layout {
            start_info,
            modules,
            ..
        } = &self.layout;
        let map = self.layout.answer.memory_map();
        hvm_start_info::start_info(self.request, start_info.address(), modules, &map, NO_RSDP)
    }

    fn write_info_table(&self, area: &mut Area) -> Result<()> {
        let table = info_table(self.request, self.machine, &self.layout.answer);
        let page = PageSpan::new(HVM_INFO, 1);
        area.write_pages(Step::WriteHvmInfo, page, &[])?;
        area.write(
            Step::WriteHvmInfo,
            page.address() + info_table::OFFSET,
            &table,
        )
    }

    fn hvm_params(&self) -> Vec<(HvmParam, u64)> {
        let mut params = special::params(self.request);
        params.extend([
            (HvmParam::IoreqPfn, IOREQ),
            (HvmParam::BufIoreqPfn, BUF_IOREQ),
            (HvmParam::IoreqServerPfn, IOREQ_SERVERS.first),
            (HvmParam::NrIoreqServerPages, IOREQ_SERVERS.count),
            (HvmParam::PagingRingPfn, PAGING_RING),
            (HvmParam::SharingRingPfn, SHARING_RING),
        ]);
        params.extend(self.request.hvm_params);
        params
    }

    fn boot_cpu(&self) -> HvmBootCpu {
        // The layout has start_info below the hole, so below 4 GiB. hvmloader sets the memory types itself.
        HvmBootCpu {
            eip: self.firmware.entry,
            ebx: self.layout.start_info.address() as u32,
            nr_vcpus: 0,
        }
    }
}
