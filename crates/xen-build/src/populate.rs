//! Allocates a domain's memory, in the largest extents that Xen has.

use xen_port::{DomId, Errno, Gfn, HvError, Hypervisor, Mfn, PopulateFlags};

use crate::error::{BuildError, During, Result, Step};
use crate::request::ExtentCounts;
use crate::span::{PageSpan, mib_for};

/// Orders of the extents that are tried, largest first: 1 GiB, 2 MiB, 4 KiB.
const ORDERS: [u32; 3] = [ORDER_1GIB, ORDER_2MIB, 0];
pub(crate) const ORDER_1GIB: u32 = 18;
pub(crate) const ORDER_2MIB: u32 = 9;

/// The parameters of an allocation.
#[derive(Clone, Copy)]
pub(crate) struct Populate<'a> {
    pub(crate) hv: &'a dyn Hypervisor,
    pub(crate) domid: DomId,
    /// The largest extents to try.
    pub(crate) max_order: u32,
    pub(crate) flags: PopulateFlags,
    /// All pages of the domain, for the error when Xen has too few.
    pub(crate) wanted_pages: u64,
}

impl Populate<'_> {
    /// Restricts the allocation to frames below 4 GiB.
    pub(crate) fn below_4gib(mut self) -> Self {
        self.flags.below_4gib = true;
        self
    }

    /// Allocates the pages of `spans` with one request per extent size. If Xen has no more extents of a size, the
    /// next smaller size is tried. `allocated` is called with first page, order and frame of each extent.
    pub(crate) fn spans(
        &self,
        spans: &[PageSpan],
        mut allocated: impl FnMut(u64, u32, Mfn),
    ) -> Result<ExtentCounts> {
        let mut counts = ExtentCounts::default();
        let mut left: Vec<PageSpan> = spans.to_vec();
        for order in ORDERS.into_iter().filter(|order| *order <= self.max_order) {
            let (starts, rest) = split_extents(&left, order);
            if starts.is_empty() {
                continue;
            }
            let frames = self.extents(order, &starts)?;
            for (start, frame) in starts.iter().zip(&frames) {
                allocated(start.0, order, *frame);
            }
            *count_of(&mut counts, order) += frames.len() as u64;
            left = rest;
            left.extend(
                starts
                    .iter()
                    .skip(frames.len())
                    .map(|gfn| PageSpan::new(gfn.0, 1 << order)),
            );
        }
        if left.is_empty() {
            Ok(counts)
        } else {
            Err(self.out_of_memory(Step::Populate))
        }
    }

    /// Allocates extents, or fewer if Xen has no more of that order. A short answer at order 0 is an out-of-memory
    /// error.
    fn extents(&self, order: u32, starts: &[Gfn]) -> Result<Vec<Mfn>> {
        match self
            .hv
            .populate_physmap(self.domid, order, self.flags, starts)
        {
            Ok(frames) => Ok(frames),
            Err(error) if error.is(Errno::ENOMEM) => Ok(Vec::new()),
            Err(error) => Err(error).during(self.domid, Step::Populate),
        }
    }

    fn out_of_memory(&self, step: Step) -> BuildError {
        // The host's free memory is read only here, to explain a failure.
        let free_mib = self.hv.phys_info().ok().map(|host| host.unclaimed_pages());
        BuildError::OutOfMemory {
            domid: self.domid,
            wanted_mib: mib_for(self.wanted_pages),
            free_mib: free_mib.map(|pages| pages / crate::span::PAGES_PER_MIB),
            step,
        }
    }

    /// Turns a failed memory reservation into an out-of-memory error.
    pub(crate) fn explain(&self, step: Step, error: HvError) -> BuildError {
        if error.is(Errno::ENOMEM) {
            self.out_of_memory(step)
        } else {
            BuildError::Hypervisor {
                domid: self.domid,
                step,
                source: error,
            }
        }
    }
}

fn count_of(counts: &mut ExtentCounts, order: u32) -> &mut u64 {
    match order {
        ORDER_1GIB => &mut counts.nr_1gib,
        ORDER_2MIB => &mut counts.nr_2mib,
        _ => &mut counts.nr_4kib,
    }
}

/// Splits spans into aligned extents of an order, and the rest around them.
fn split_extents(spans: &[PageSpan], order: u32) -> (Vec<Gfn>, Vec<PageSpan>) {
    let pages = 1_u64 << order;
    let mut starts = Vec::new();
    let mut rest = Vec::new();
    for span in spans {
        let first = span.first.next_multiple_of(pages);
        let end = span.end() / pages * pages;
        if first >= end {
            rest.push(*span);
            continue;
        }
        starts.extend((first..end).step_by(1 << order).map(Gfn));
        rest.push(PageSpan::new(span.first, first - span.first));
        rest.push(PageSpan::new(end, span.end() - end));
    }
    rest.retain(|span| !span.is_empty());
    (starts, rest)
}

/// A claim on free memory. It is cancelled when dropped, unless all that was claimed has been allocated.
pub(crate) struct Claim<'a> {
    hv: &'a dyn Hypervisor,
    domid: DomId,
    outstanding: bool,
}

impl<'a> Claim<'a> {
    /// Stakes a claim for `nr_pages` if `wanted`.
    pub(crate) fn stake(how: &Populate<'a>, nr_pages: u64, wanted: bool) -> Result<Claim<'a>> {
        if wanted {
            how.hv
                .claim_pages(how.domid, nr_pages)
                .map_err(|error| how.explain(Step::Claim, error))?;
        }
        Ok(Claim {
            hv: how.hv,
            domid: how.domid,
            outstanding: wanted,
        })
    }

    /// All that was claimed has been allocated. Xen takes each page that a domain gets off its claim
    /// (`domain_adjust_tot_pages`), so nothing is left of it, and there is nothing to cancel.
    pub(crate) fn fulfilled(mut self) {
        self.outstanding = false;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.outstanding {
            // The build has already failed. The destroy of the domain cancels its claim too.
            let _ = self.hv.claim_pages(self.domid, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_aligned_and_nothing_is_lost() {
        let (starts, rest) = split_extents(
            &[PageSpan::new(5, 2048), PageSpan::new(4096, 100)],
            ORDER_2MIB,
        );
        assert_eq!(starts, [Gfn(512), Gfn(1024), Gfn(1536)]);
        assert_eq!(
            rest,
            [
                PageSpan::new(5, 507),
                PageSpan::new(2048, 5),
                PageSpan::new(4096, 100)
            ]
        );
    }

    #[test]
    fn single_pages_leave_no_rest() {
        let (starts, rest) = split_extents(&[PageSpan::new(3, 2)], 0);
        assert_eq!(starts, [Gfn(3), Gfn(4)]);
        assert!(rest.is_empty());
    }
}
