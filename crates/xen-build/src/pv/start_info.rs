//! `start_info` and the shared-info page of a PV domain.
//!
//! Source: `struct start_info` and `struct shared_info` in `xen/include/public/xen.h`. Addresses and frames have the
//! kernel's width. Fields of 64 bits are aligned to 64 bits only in a 64-bit kernel.

use xen_port::{Gfn, Mfn, PAGE_SIZE, PvMode};

use super::layout::{Layout, Ramdisk};
use crate::bytes::Writer;
use crate::request::{BuildRequest, PV_CMDLINE_BYTES};

/// Which hypervisor and which kind of guest, in the first field.
const MAGIC: &str = "xen-3.0-x86_64";
const MAGIC_32: &str = "xen-3.0-x86_32p";
const MAGIC_BYTES: usize = 32;
/// `SIF_MOD_START_PFN`: the ramdisk is named by its first page, not by an address.
const FLAG_RAMDISK_BY_PAGE: u32 = 1 << 3;

/// `XEN_LEGACY_MAX_VCPUS`: vCPUs whose state is in the shared-info page.
const VCPU_INFOS: usize = 32;
const VCPU_INFO_BYTES: usize = 64;
/// Offset of `evtchn_upcall_mask` in a vCPU's state.
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
    let magic = match layout.width.mode {
        PvMode::Bits64 => MAGIC,
        PvMode::Bits32 { .. } => MAGIC_32,
    };
    let word_bytes = layout.width.word_bytes as usize;
    Words {
        writer: Writer::new().text(magic, MAGIC_BYTES),
        word_bytes,
    }
    .words([layout.nr_pages, shared_info.0 << xen_port::PAGE_SHIFT])
    .number(flags)
    .words([frame_of(layout.store).0])
    .number(request.store.port.0)
    .words([frame_of(layout.console).0])
    .number(request.console.port.0)
    .words([
        layout.virt(layout.tables.span().first),
        layout.tables.span().count,
        layout.p2m_virt,
        ramdisk_start,
        ramdisk_len,
    ])
    .text(request.cmdline, PV_CMDLINE_BYTES)
    .words([separate_p2m.0, separate_p2m.1])
    .writer
    .finish()
}

/// Writes a structure with words of one width, each aligned to that width.
struct Words {
    writer: Writer,
    word_bytes: usize,
}

impl Words {
    /// Writes words. Those of a 32-bit domain fit, because its frames and addresses are below 2^32.
    fn words<const N: usize>(mut self, values: [u64; N]) -> Words {
        for value in values {
            let bytes = value.to_le_bytes();
            let word = bytes.get(..self.word_bytes).unwrap_or(&bytes);
            self.writer = self.writer.align(self.word_bytes).bytes(word);
        }
        self
    }

    /// A number of 32 bits in either width.
    fn number(mut self, value: u32) -> Words {
        self.writer = self.writer.u32(value);
        self
    }

    fn text(mut self, text: &str, len: usize) -> Words {
        self.writer = self.writer.text(text, len);
        self
    }
}

/// Flags, start and length of the ramdisk.
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
