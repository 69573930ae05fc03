//! The kernel's and the modules' bytes, read straight into the domain's memory.
//!
//! Everything that a guest may take for zero is made zero here: the kernel's bss, the gaps between its segments, and what
//! is left of the last page of each module. The pages that Xen allocates are not: it scrubs what a dead domain had, but
//! not what a live one gave back by ballooning (`free_domheap_pages` scrubs if `is_dying`, in a debug build, or with the
//! option `scrub-domheap`), it hands out unscrubbed pages if booted with `bootscrub=0`, and the pattern of a debug build's
//! scrubbing is not zero. That holds from 4.17 to 4.22. Memory outside of the boot structures is left as it came; no boot
//! contract promises more.

use xen_image::{Image, Module, Segment};

use crate::area::Area;
use crate::error::{Result, Step};
use crate::span::PageSpan;

/// Fills the pages of `span` with the kernel; `address_of` says where a segment goes.
pub(crate) fn place_kernel(
    area: &mut Area,
    image: &Image,
    span: PageSpan,
    address_of: impl Fn(&Segment) -> u64,
) -> Result<()> {
    let mut segments: Vec<(u64, &Segment)> = image.segments().iter().map(|s| (address_of(s), s)).collect();
    segments.sort_by_key(|(address, _)| *address);
    let mut filled_to = span.address();
    for (address, segment) in segments {
        area.zero(Step::PlaceKernel, filled_to, address.saturating_sub(filled_to))?;
        area.fill(Step::PlaceKernel, address, segment.mem_size, |bytes| {
            image.read_segment_into(segment, 0, bytes)
        })?;
        filled_to = address + segment.mem_size;
    }
    let end = span.address() + span.size_bytes();
    area.zero(Step::PlaceKernel, filled_to, end.saturating_sub(filled_to))
}

/// Fills the pages of `span` with a module, then zeros.
pub(crate) fn place_module(area: &mut Area, module: &Module, span: PageSpan) -> Result<()> {
    let len = module.size_bytes();
    area.fill(Step::PlaceModule, span.address(), len, |bytes| module.read_into(0, bytes))?;
    area.zero(Step::PlaceModule, span.address() + len, span.size_bytes().saturating_sub(len))
}
