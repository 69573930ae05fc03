//! `start_info` and the shared-info page of a 64-bit PV domain.
//!
//! Source: `struct start_info` and `struct shared_info` in `xen/include/public/xen.h`.

use xen_port::{Gfn, Mfn, PAGE_SIZE};

use super::layout::{Layout, Ramdisk};
use crate::bytes::Writer;
use crate::request::{BuildRequest, PV_CMDLINE_BYTES};

/// Which hypervisor and which kind of guest, in the first field.
const MAGIC: &str = "xen-3.0-x86_64";
const MAGIC_BYTES: usize = 32;
/// `SIF_MOD_START_PFN`: the ramdisk is named by its first page, not by an address.
const FLAG_RAMDISK_BY_PAGE: u32 = 1 << 3;

/// `XEN_LEGACY_MAX_VCPUS`: vCPUs whose state is in the shared-info page.
const VCPU_INFOS: usize = 32;
const VCPU_INFO_BYTES: usize = 64;
/// Where `evtchn_upcall_mask` is in a vCPU's state.
const UPCALL_MASK_OFFSET: usize = 1;

/// The bytes of start_info.
pub(crate) fn start_info(
    layout: &Layout,
    request: &BuildRequest<'_>,
    shared_info: Gfn,
    frame_of: impl Fn(u64) -> Mfn,
) -> Vec<u8> {
    let (flags, ramdisk_start, ramdisk_len) = ramdisk_fields(layout);
    // The range that holds a table outside of the boot mapping, with its page tables.
    let p2m_tables = layout.p2m_tables.as_ref().map(|tables| tables.span());
    let separate_p2m = p2m_tables.map_or((0, 0), |tables| {
        (layout.p2m.first, layout.p2m.count + tables.count)
    });
    Writer::new()
        .text(MAGIC, MAGIC_BYTES)
        .u64(layout.nr_pages)
        .u64(shared_info.0 << xen_port::PAGE_SHIFT)
        .u32(flags)
        .align(8)
        .u64(frame_of(layout.store).0)
        .u32(request.store.port.0)
        .align(8)
        .u64(frame_of(layout.console).0)
        .u32(request.console.port.0)
        .align(8)
        .u64(layout.virt(layout.tables.span().first))
        .u64(layout.tables.span().count)
        .u64(layout.p2m_virt)
        .u64(ramdisk_start)
        .u64(ramdisk_len)
        .text(request.cmdline, PV_CMDLINE_BYTES)
        .u64(separate_p2m.0)
        .u64(separate_p2m.1)
        .finish()
}

/// Flags, start and length that say where the ramdisk is.
fn ramdisk_fields(layout: &Layout) -> (u32, u64, u64) {
    match layout.ramdisk {
        None => (0, 0, 0),
        Some(Ramdisk {
            span,
            len,
            mapped: true,
        }) => (0, layout.virt(span.first), len),
        Some(Ramdisk {
            span,
            len,
            mapped: false,
        }) => (FLAG_RAMDISK_BY_PAGE, span.first, len),
    }
}

/// The shared-info page at the start: all zero, but each vCPU's event upcalls are masked until the guest is ready.
pub(crate) fn shared_info() -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    let masks = page
        .iter_mut()
        .skip(UPCALL_MASK_OFFSET)
        .step_by(VCPU_INFO_BYTES)
        .take(VCPU_INFOS);
    masks.for_each(|mask| *mask = 1);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upcalls_of_every_vcpu_are_masked() {
        let page = shared_info();
        assert_eq!(page.len(), PAGE_SIZE);
        assert_eq!(page.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 32);
        assert_eq!(page[64 * 31 + 1], 1);
    }
}
