//! Reads the bytes of kernel and modules straight into the domain's memory.
//!
//! Bytes that a guest may expect to be zero are zeroed here: the kernel's bss, gaps between its segments, and the
//! rest of each module's last page. Xen's pages may contain other data. Xen scrubs memory of a dead domain, but not
//! memory that a living one gave back by ballooning (`free_domheap_pages` scrubs if `is_dying`, in a debug build, or
//! with the option `scrub-domheap`). With `bootscrub=0` it hands out unscrubbed pages, and a debug build scrubs with
//! a pattern that is not zero. This is so from 4.17 to 4.22. Memory outside the boot structures stays as Xen
//! allocated it, because no boot contract promises more.

use std::path::Path;

use xen_image::{Image, Segment, SegmentBytes};

use crate::area::Area;
use crate::error::{BuildError, Result, Step};
use crate::request::ModuleContent;
use crate::span::{PAGE_BYTES, PageSpan, pages_for};

/// A kernel at its place.
pub(crate) struct Placed<'a> {
    image: &'a Image,
    /// Pages of the kernel.
    span: PageSpan,
    /// Segments and their addresses, in ascending order. They do not overlap.
    segments: Vec<(u64, &'a Segment)>,
}

impl<'a> Placed<'a> {
    /// A kernel in `span`. `address_of` returns the address of a segment.
    pub(crate) fn new(
        image: &'a Image,
        span: PageSpan,
        address_of: impl Fn(&Segment) -> u64,
    ) -> Placed<'a> {
        let mut segments: Vec<_> = image
            .segments()
            .iter()
            .map(|s| (address_of(s), s))
            .collect();
        segments.sort_by_key(|(address, _)| *address);
        Placed {
            image,
            span,
            segments,
        }
    }

    /// The pages of `span` that hold no byte of the image: they are all zero.
    pub(crate) fn empty_pages(&self) -> Vec<PageSpan> {
        let mut empty = Vec::new();
        let mut next = self.span.first;
        let with_bytes = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.file_size > 0);
        for (address, segment) in with_bytes {
            let first = address / PAGE_BYTES;
            empty.push(PageSpan::new(next, first.saturating_sub(next)));
            next = next.max(pages_for(address + segment.file_size));
        }
        empty.push(PageSpan::new(next, self.span.end().saturating_sub(next)));
        empty.retain(|span| !span.is_empty());
        empty
    }

    /// The pages of `span` but those of `empty`, in rising order.
    pub(crate) fn pages_but(&self, empty: &[PageSpan]) -> Vec<PageSpan> {
        let mut others = Vec::new();
        let mut next = self.span.first;
        for span in empty {
            others.push(PageSpan::new(next, span.first - next));
            next = span.end();
        }
        others.push(PageSpan::new(next, self.span.end() - next));
        others.retain(|span| !span.is_empty());
        others
    }

    /// Fills the pages `filled`, which hold all bytes of the image: those bytes, and zeros around them.
    pub(crate) fn fill(&self, area: &mut Area, filled: &[PageSpan]) -> Result<()> {
        for span in filled {
            let end = span.address() + span.size_bytes();
            let mut done = span.address();
            for (address, segment) in &self.segments {
                if segment.file_size == 0 || *address < span.address() || *address >= end {
                    continue;
                }
                area.zero(Step::PlaceKernel, done, address - done)?;
                self.fill_segment(area, *address, segment)?;
                done = address + segment.file_size;
            }
            area.zero(Step::PlaceKernel, done, end - done)?;
        }
        Ok(())
    }

    /// The bytes of a segment that come from the image.
    fn fill_segment(&self, area: &mut Area, address: u64, segment: &Segment) -> Result<()> {
        match self.image.segment_bytes(segment) {
            SegmentBytes::Memory(bytes) => area.write(Step::PlaceKernel, address, bytes),
            SegmentBytes::File { file, offset } => {
                let read = area.read_file(
                    Step::PlaceKernel,
                    address,
                    segment.file_size,
                    (file, offset),
                )?;
                read.map_err(|source| read_error(self.image.path(), offset, source))
            }
        }
    }
}

/// Fills the pages of `span` with a module, then zeros.
pub(crate) fn place_module(
    area: &mut Area,
    content: &ModuleContent<'_>,
    span: PageSpan,
) -> Result<()> {
    let len = content.size_bytes();
    let (path, bytes) = match content {
        ModuleContent::File(module) => {
            let file = module.file();
            (module.path(), SegmentBytes::File { file, offset: 0 })
        }
        ModuleContent::Kernel(image) => (image.path(), image.bytes()),
    };
    match bytes {
        SegmentBytes::Memory(bytes) => area.write(Step::PlaceModule, span.address(), bytes)?,
        SegmentBytes::File { file, offset } => {
            let read = area.read_file(Step::PlaceModule, span.address(), len, (file, offset))?;
            read.map_err(|source| read_error(path, offset, source))?;
        }
    }
    let end = span.address() + span.size_bytes();
    area.zero(
        Step::PlaceModule,
        span.address() + len,
        end - span.address() - len,
    )
}

fn read_error(path: &Path, offset: u64, source: std::io::Error) -> BuildError {
    let path = path.to_owned();
    BuildError::Image(xen_image::Error::Read {
        path,
        offset,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(file_size: u64, mem_size: u64) -> Segment {
        Segment {
            index: 0,
            paddr: 0,
            vaddr: 0,
            mem_size,
            file_offset: 0,
            file_size,
            flags: 7,
            align: 1,
        }
    }

    fn with_segments<T>(segments: &[(u64, Segment)], check: impl FnOnce(&Placed<'_>) -> T) -> T {
        // A kernel that is as small as one can be: only its place matters here.
        let image = tiny_image();
        let segments = segments
            .iter()
            .map(|(address, segment)| (*address, segment))
            .collect();
        check(&Placed {
            image: &image,
            span: PageSpan::new(1, 9),
            segments,
        })
    }

    fn tiny_image() -> Image {
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        elf.extend([0_u64, 64, 0].map(u64::to_le_bytes).as_flattened());
        elf.extend(
            [0, 0, 64_u16, 56, 1, 64, 0, 0]
                .map(u16::to_le_bytes)
                .as_flattened(),
        );
        elf.extend([1_u32, 7].map(u32::to_le_bytes).as_flattened());
        elf.extend([0_u64, 0, 0, 1, 1, 1].map(u64::to_le_bytes).as_flattened());
        Image::parse("tiny", elf, &xen_image::Limits::default()).unwrap()
    }

    #[test]
    fn whole_pages_of_bss_and_of_gaps_are_empty() {
        let segments = [
            (0x1800, segment(0x900, 0x900)),
            (0x2200, segment(0, 0x100)),
            (0x5010, segment(1, 0x4000)),
        ];
        with_segments(&segments, |placed| {
            let empty = [PageSpan::new(3, 2), PageSpan::new(6, 4)];
            assert_eq!(placed.empty_pages(), empty);
            assert_eq!(
                placed.pages_but(&empty),
                [PageSpan::new(1, 2), PageSpan::new(5, 1)]
            );
            assert_eq!(placed.pages_but(&[]), [PageSpan::new(1, 9)]);
        });
    }

    #[test]
    fn segments_that_share_a_page_leave_no_hole() {
        let segments = [
            (0x1000, segment(0x1800, 0x1800)),
            (0x2800, segment(0x2000, 0x2000)),
        ];
        with_segments(&segments, |placed| {
            assert_eq!(placed.empty_pages(), [PageSpan::new(5, 5)]);
            assert_eq!(
                placed.pages_but(&placed.empty_pages()),
                [PageSpan::new(1, 4)]
            );
        });
    }
}
