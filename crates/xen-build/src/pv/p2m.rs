//! Which machine frame is behind each of a PV domain's pages.

use xen_port::{Gfn, Mfn};

use crate::area::Area;
use crate::error::{Result, Step};
use crate::span::PageSpan;

/// Frames in a row behind pages in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    pages: PageSpan,
    first_frame: u64,
}

/// The frame of each page, as the extents that Xen gave: a domain of many GiB has few of them.
#[derive(Debug, Default)]
pub(super) struct P2m {
    runs: Vec<Run>,
}

impl P2m {
    /// Takes down one extent, in whatever order they come.
    pub(super) fn add_extent(&mut self, first_page: u64, order: u32, frame: Mfn) {
        self.runs.push(Run {
            pages: PageSpan::new(first_page, 1 << order),
            first_frame: frame.0,
        });
    }

    /// Call when all extents are there, before the first question.
    pub(super) fn sort(&mut self) {
        self.runs.sort_by_key(|run| run.pages.first);
    }

    /// The frame of a page. No page is asked for that the layout does not have, and the layout fits into the memory; so
    /// that the frame beyond all frames, which Xen refuses, is not met with.
    pub(super) fn mfn(&self, page: u64) -> Mfn {
        const NO_FRAME: Mfn = Mfn(u64::MAX >> xen_port::PAGE_SHIFT);
        let behind = self.runs.partition_point(|run| run.pages.first <= page);
        let run = behind.checked_sub(1).and_then(|index| self.runs.get(index));
        run.filter(|run| run.pages.contains(page))
            .map_or(NO_FRAME, |run| {
                Mfn(run.first_frame + (page - run.pages.first))
            })
    }

    /// The frame of a page, as a hypercall's argument.
    pub(super) fn gfn(&self, page: u64) -> Gfn {
        Gfn(self.mfn(page).0)
    }

    /// Writes the list of all frames, `word_bytes` each, into the pages of `span`, and zeros behind it.
    pub(super) fn write(&self, area: &mut Area, span: PageSpan, word_bytes: u64) -> Result<()> {
        const BATCH_BYTES: usize = 64 << 10;
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        let mut address = span.address();
        let frames = self
            .runs
            .iter()
            .flat_map(|run| run.first_frame..run.first_frame + run.pages.count);
        for frame in frames {
            batch.extend(frame.to_le_bytes().iter().take(word_bytes as usize));
            if batch.len() == BATCH_BYTES {
                area.write(Step::WriteP2m, address, &batch)?;
                address += BATCH_BYTES as u64;
                batch.clear();
            }
        }
        area.write(Step::WriteP2m, address, &batch)?;
        address += batch.len() as u64;
        area.zero(
            Step::WriteP2m,
            address,
            span.address() + span.size_bytes() - address,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_found_in_whatever_order_they_came() {
        let mut p2m = P2m::default();
        p2m.add_extent(512, 9, Mfn(0x4000));
        p2m.add_extent(1024, 0, Mfn(7));
        p2m.add_extent(0, 9, Mfn(0x8000));
        p2m.sort();
        assert_eq!(
            [0, 511, 512, 1023, 1024].map(|page| p2m.mfn(page).0),
            [0x8000, 0x81ff, 0x4000, 0x41ff, 7]
        );
        assert_eq!(p2m.gfn(1025), Gfn(u64::MAX >> 12));
    }
}
