//! [`Memory`]: allocates a domain's pages as they come, and writes their contents.

use std::borrow::Cow;

use xen_port::{Gfn, PAGE_SIZE, PopulateFlags};
use xen_stream::{PageEntry, PageKind, Pages};

use super::Target;
use super::error::{During, RestoreError, RestoreStep, Result};
use super::populated::Populated;
use super::pv::PvPages;
use crate::populate::{ORDER_2MIB, Populate};
use crate::span::PageSpan;

/// The memory of a domain, as far as it was restored.
pub(super) struct Memory<'a> {
    target: Target<'a>,
    populated: Populated,
    pv: Option<PvPages>,
    pages_written: u64,
}

impl<'a> Memory<'a> {
    pub(super) fn new(target: Target<'a>, pv: Option<PvPages>) -> Memory<'a> {
        Memory {
            target,
            populated: Populated::default(),
            pv,
            pages_written: 0,
        }
    }

    /// Number of pages that the domain has.
    pub(super) fn pages_populated(&self) -> u64 {
        self.populated.len()
    }

    /// Number of pages whose contents were written.
    pub(super) fn pages_written(&self) -> u64 {
        self.pages_written
    }

    /// PV: the frames and the page tables.
    pub(super) fn pv(&self) -> Option<&PvPages> {
        self.pv.as_ref()
    }

    /// PV: sets the end of the page numbers.
    pub(super) fn set_pv_end(&mut self, end: u64) {
        if let Some(pv) = &mut self.pv {
            pv.set_end(end);
        }
    }

    /// The hypervisor's number of a page that the domain has.
    pub(super) fn gfn(&self, pfn: u64) -> Option<Gfn> {
        match &self.pv {
            Some(pv) => pv.frame(pfn).map(Gfn),
            None => self.populated.contains(pfn).then_some(Gfn(pfn)),
        }
    }

    /// Takes the pages of one record: removes those that the guest no longer has, allocates new ones, and writes their contents.
    pub(super) fn take(&mut self, pages: &Pages<'_>) -> Result<()> {
        self.remove(pages.entries())?;
        let new = pages
            .entries()
            .iter()
            .filter(|entry| has_memory(entry.kind));
        self.populate(new.map(|entry| entry.pfn).collect())?;
        if let Some(pv) = &mut self.pv {
            pages
                .entries()
                .iter()
                .for_each(|entry| pv.note_kind(*entry));
        }
        let contents = self.localised(pages)?;
        self.write(pages.entries(), &contents)
    }

    /// Removes pages that came before, and that the guest has given back since.
    fn remove(&mut self, entries: &[PageEntry]) -> Result<()> {
        let gone = entries.iter().filter(|entry| !has_memory(entry.kind));
        let gone: Vec<(u64, Gfn)> = gone
            .filter_map(|entry| Some((entry.pfn, self.gfn(entry.pfn)?)))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let frames: Vec<Gfn> = gone.iter().map(|(_, gfn)| *gfn).collect();
        let removed = self.target.hv.remove_pages(self.target.domid, &frames);
        removed.during(self.target.domid, RestoreStep::RemovePages)?;
        for (pfn, _) in gone {
            self.populated.remove(pfn);
            if let Some(pv) = &mut self.pv {
                pv.remove(pfn);
            }
        }
        Ok(())
    }

    /// Allocates those pages that the domain does not have yet.
    fn populate(&mut self, mut pfns: Vec<u64>) -> Result<()> {
        pfns.retain(|pfn| !self.populated.contains(*pfn));
        if pfns.is_empty() {
            return Ok(());
        }
        pfns.sort_unstable();
        pfns.dedup();
        let wanted_pages = self.populated.len() + pfns.len() as u64;
        if wanted_pages > self.target.max_pages {
            return Err(RestoreError::TooManyPages {
                max_pages: self.target.max_pages,
            });
        }
        let how = Populate {
            hv: self.target.hv,
            domid: self.target.domid,
            max_order: ORDER_2MIB,
            flags: PopulateFlags::default(),
            wanted_pages,
        };
        let pv = &mut self.pv;
        how.spans(&spans(&pfns), |first, order, frame| {
            if let Some(pv) = pv {
                pv.add_extent(first, order, frame);
            }
        })?;
        pfns.into_iter().for_each(|pfn| self.populated.insert(pfn));
        Ok(())
    }

    /// The contents of pages. In page tables of a PV domain, page numbers are replaced by frames; pages that they name and that
    /// have not come yet are allocated.
    fn localised<'p>(&mut self, pages: &Pages<'p>) -> Result<Cow<'p, [u8]>> {
        let contents = pages.contents().as_flattened();
        let is_table = |entry: &PageEntry| matches!(entry.kind, PageKind::Table { .. });
        if !pages.entries().iter().any(is_table) {
            return Ok(Cow::Borrowed(contents));
        }
        let mut contents = contents.to_vec();
        let with_contents = pages
            .entries()
            .iter()
            .filter(|entry| entry.kind.has_contents());
        for (entry, table) in with_contents.zip(contents.chunks_exact_mut(PAGE_SIZE)) {
            if is_table(entry) {
                self.localise(table)?;
            }
        }
        Ok(Cow::Owned(contents))
    }

    fn localise(&mut self, table: &mut [u8]) -> Result<()> {
        if let Some(pv) = &self.pv {
            let named = pv.named_by(table)?;
            self.populate(named)?;
        }
        match &self.pv {
            Some(pv) => pv.localise(table),
            None => Ok(()),
        }
    }

    fn write(&mut self, entries: &[PageEntry], contents: &[u8]) -> Result<()> {
        let with_contents = entries.iter().filter(|entry| entry.kind.has_contents());
        let frames: Vec<Gfn> = with_contents
            .filter_map(|entry| self.gfn(entry.pfn))
            .collect();
        if frames.is_empty() {
            return Ok(());
        }
        let domid = self.target.domid;
        let mapped = self.target.hv.map_foreign(domid, &frames);
        let written = mapped.and_then(|mut memory| memory.write(0, contents));
        written.during(domid, RestoreStep::WritePages)?;
        self.pages_written += frames.len() as u64;
        Ok(())
    }
}

/// Whether a page of this kind has memory.
fn has_memory(kind: PageKind) -> bool {
    kind.has_contents() || kind == PageKind::Allocate
}

/// The same pages as runs; they are in ascending order.
fn spans(pfns: &[u64]) -> Vec<PageSpan> {
    let runs = pfns.chunk_by(|one, next| one + 1 == *next);
    runs.filter_map(|run| Some(PageSpan::new(*run.first()?, run.len() as u64)))
        .collect()
}
