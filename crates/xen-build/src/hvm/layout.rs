//! The layout of an HVM domain's guest-physical addresses.
//!
//! RAM reaches from 0 to the hole below 4 GiB, and continues at 4 GiB. Pages 0xa0 to 0xbf are the window of the
//! graphics card, without memory. hvmloader is at 1 MiB; the firmware module and start_info follow it. The hole has
//! the devices' memory, the special pages and the local APIC. The addresses are those of libxc and libxl.

use xen_image::HvmFirmware;
use xen_port::{E820Entry, E820Kind};

use crate::container::{Bounds, Ram, check_end, in_a_row};
use crate::error::{BuildError, Result};
use crate::request::{BuildRequest, MEMORY_MAX_KIB};
use crate::span::{MIB, PAGE_BYTES, PAGES_PER_MIB, PageSpan, pages_for};
use crate::special::{IOREQ_SERVERS, SPECIAL};

/// The window of the graphics card (`LIBXL_VGA_HOLE_SIZE` pages from 0xa0000 on).
pub(crate) const VGA_HOLE: PageSpan = PageSpan {
    first: 0xa0,
    count: 0x20,
};
/// The page of `hvm_info_table` (`HVM_INFO_PFN`).
pub(crate) const HVM_INFO: u64 = 0x9f;
/// hvmloader and all that it reads is above 1 MiB. Below are its own structures.
const FIRMWARE_FIRST: u64 = PAGES_PER_MIB;
/// Maximum size of hvmloader in memory, from its first byte to its last.
const FIRMWARE_MAX_BYTES: u64 = 64 << 20;
const FOUR_GIB_PAGES: u64 = 4096 * PAGES_PER_MIB;
/// Maximum memory: `hvm_info_table` has 32 bits for the number of the page behind it, the hole included.
const HVM_MEMORY_MAX_KIB: u64 = MEMORY_MAX_KIB - (4 << 20);

/// Smallest hole below 4 GiB, in MiB (`HVM_BELOW_4G_MMIO_LENGTH`). It is the default.
pub const MMIO_HOLE_MIN_MIB: u64 = 256;
/// Largest hole below 4 GiB, in MiB, as in xl.cfg.
pub const MMIO_HOLE_MAX_MIB: u64 = 3840;

/// The parts of an HVM domain that other domains do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmMachine {
    /// Memory of the emulated graphics card in KiB (`videoram`), 0 for none. It is a part of the domain's memory that QEMU
    /// allocates, so the builder leaves it out.
    pub video_ram_kib: u64,
    /// Size of the hole below 4 GiB in MiB, from [`MMIO_HOLE_MIN_MIB`] to [`MMIO_HOLE_MAX_MIB`] (`mmio_hole`).
    pub mmio_hole_mib: u64,
    /// hvmloader's tables describe the APICs (`apic`).
    pub apic: bool,
}

impl HvmMachine {
    /// Pages of RAM of a domain with `memory_kib` of whole pages, the video memory left out.
    fn ram_pages(&self, memory_kib: u64) -> u64 {
        (memory_kib / 4 * 4).saturating_sub(self.video_ram_kib) / 4
    }
}

impl Default for HvmMachine {
    /// No graphics card, the usual hole, APICs.
    fn default() -> Self {
        Self {
            video_ram_kib: 0,
            mmio_hole_mib: MMIO_HOLE_MIN_MIB,
            apic: true,
        }
    }
}

/// The RAM of an HVM domain, as its device model has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmRam {
    /// Size of RAM at its maximum in KiB: without the video memory, with the window of the graphics card. QEMU's `-m` is this,
    /// rounded up to MiB.
    pub size_kib: u64,
    /// End of RAM below the hole, an address in bytes.
    pub low_end: u64,
    /// End of RAM above 4 GiB, an address in bytes; 0 if there is none.
    pub high_end: u64,
    /// Start of the hole, an address in bytes (`max-ram-below-4g`).
    pub hole_start: u64,
}

impl HvmRam {
    /// The RAM of a domain with `max_kib` of memory (`maxmem`, or `memory` if that is more).
    ///
    /// # Errors
    /// [`BuildError::MmioHole`] for a hole of a size that cannot be, [`BuildError::TooMuchMemory`].
    pub fn new(machine: &HvmMachine, max_kib: u64) -> Result<HvmRam> {
        let hole_first = hole_first(machine)?;
        if max_kib > HVM_MEMORY_MAX_KIB {
            return Err(BuildError::TooMuchMemory {
                what: "the memory of an HVM domain",
                given_kib: max_kib,
                max_kib: HVM_MEMORY_MAX_KIB,
            });
        }
        let pages = machine.ram_pages(max_kib);
        let Ram { low, high } = Ram::around(hole_first, pages);
        let high_end = if high.is_empty() {
            0
        } else {
            high.end() * PAGE_BYTES
        };
        Ok(HvmRam {
            size_kib: pages * 4,
            low_end: low.end() * PAGE_BYTES,
            high_end,
            hole_start: hole_first * PAGE_BYTES,
        })
    }

    /// The memory map that hvmloader asks Xen for: RAM from 1 MiB on. hvmloader describes the rest itself.
    #[must_use]
    pub fn memory_map(&self) -> Vec<E820Entry> {
        let Ram { low, high } = self.spans();
        let above_bios = low.end().saturating_sub(FIRMWARE_FIRST);
        [PageSpan::new(FIRMWARE_FIRST, above_bios), high]
            .into_iter()
            .filter(|span| !span.is_empty())
            .map(|span| span.as_e820(E820Kind::Ram))
            .collect()
    }

    fn spans(&self) -> Ram {
        Ram::around(self.hole_start / PAGE_BYTES, self.size_kib / 4)
    }
}

fn hole_first(machine: &HvmMachine) -> Result<u64> {
    let mib = machine.mmio_hole_mib;
    if !(MMIO_HOLE_MIN_MIB..=MMIO_HOLE_MAX_MIB).contains(&mib) {
        return Err(BuildError::MmioHole {
            given_mib: mib,
            min_mib: MMIO_HOLE_MIN_MIB,
            max_mib: MMIO_HOLE_MAX_MIB,
        });
    }
    Ok(FOUR_GIB_PAGES - mib * PAGES_PER_MIB)
}

/// Checks the place and the size of hvmloader. Its whole span is mapped and filled.
fn check_firmware(firmware: &HvmFirmware) -> Result<()> {
    let (start, end) = (firmware.paddr.start, firmware.paddr.end);
    if start < FIRMWARE_FIRST * PAGE_BYTES {
        return Err(BuildError::Layout {
            what: format!("it starts at {start:#x}, and HVM firmware starts at {MIB:#x} or above"),
        });
    }
    if end - start > FIRMWARE_MAX_BYTES {
        return Err(BuildError::Layout {
            what: format!(
                "it takes {} bytes of memory, and HVM firmware at most {FIRMWARE_MAX_BYTES}",
                end - start
            ),
        });
    }
    Ok(())
}

/// The position of each structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) firmware: PageSpan,
    /// In the order of the request.
    pub(crate) modules: Vec<PageSpan>,
    pub(crate) start_info: PageSpan,
    /// Pages of RAM that have memory at the start.
    pub(crate) target_pages: u64,
    pub(crate) answer: HvmRam,
}

impl Layout {
    /// Computes the layout. `start_info_len` is as for PVH.
    pub(crate) fn new(
        request: &BuildRequest<'_>,
        machine: &HvmMachine,
        firmware: &HvmFirmware,
        start_info_len: impl Fn(usize) -> u64,
    ) -> Result<Layout> {
        check_firmware(firmware)?;
        let gfns = firmware.gfns();
        let answer = HvmRam::new(machine, request.max_pages() * 4)?;
        let modules = in_a_row(gfns.end, request.module_lens());
        let modules_end = modules.last().map_or(gfns.end, |span| span.end());
        let start_info_len = start_info_len(answer.memory_map().len());
        let start_info = PageSpan::new(modules_end, pages_for(start_info_len));
        let at_start = machine.ram_pages(request.target_pages() * 4);
        check_end(
            &Bounds {
                kind: "HVM",
                hole_first: answer.hole_start / PAGE_BYTES,
                available: answer.spans().low.end().min(at_start),
                besides_ram: machine.video_ram_kib.div_ceil(4),
            },
            start_info.end(),
        )?;
        Ok(Layout {
            firmware: PageSpan::new(gfns.start, gfns.end - gfns.start),
            modules,
            start_info,
            // The end of start_info is above the window.
            target_pages: at_start - VGA_HOLE.count,
            answer,
        })
    }

    /// RAM that the domain may have: all but the window of the graphics card.
    pub(crate) fn ram(&self) -> [PageSpan; 3] {
        let Ram { low, high } = self.answer.spans();
        let above_vga = low.end().saturating_sub(VGA_HOLE.end());
        [
            PageSpan::new(0, VGA_HOLE.first),
            PageSpan::new(VGA_HOLE.end(), above_vga),
            high,
        ]
    }

    /// Pages outside of RAM that have to be populated.
    pub(crate) fn extra(&self) -> [PageSpan; 2] {
        [IOREQ_SERVERS, SPECIAL]
    }

    /// The pages that the builder fills.
    pub(crate) fn filled(&self) -> Vec<PageSpan> {
        let mut spans = vec![PageSpan::new(HVM_INFO, 1), self.firmware, self.start_info];
        spans.extend(&self.modules);
        spans.extend(self.extra());
        spans
    }
}
