//! Sends the pages of a domain: [`Sender`].

use std::io::Write;
use std::ops::ControlFlow;

use xen_port::{DomId, FrameKind, Gfn, Hypervisor, PAGE_SIZE};
use xen_stream::{PAGES_MAX, Page, PageKind, Writer};

use super::error::{During, SaveError, SaveStep};
use super::page_set::PageSet;
use super::pv::PvMemory;
use super::{SaveProgress, SaveSummary};

/// The memory of a domain, by the domain's own page numbers.
pub(super) enum Memory {
    /// PVH and HVM: the hypervisor uses the same numbers.
    SameNumbers {
        /// First number behind the largest page.
        end: u64,
    },
    /// PV: each page has a machine frame.
    Machine(PvMemory),
}

impl Memory {
    /// First number behind the largest page.
    pub(super) fn end(&self) -> u64 {
        match self {
            Memory::SameNumbers { end } => *end,
            Memory::Machine(pv) => pv.end(),
        }
    }

    fn gfn(&self, pfn: u64) -> Option<Gfn> {
        match self {
            Memory::SameNumbers { .. } => Some(Gfn(pfn)),
            Memory::Machine(pv) => pv.gfn(pfn),
        }
    }

    /// Adds the pages that are new since an earlier look at the same domain, and those that have another frame now.
    pub(super) fn add_changed(
        &self,
        earlier: &Memory,
        changed: &mut PageSet,
    ) -> Result<(), SaveError> {
        match (self, earlier) {
            (Memory::Machine(now), Memory::Machine(earlier)) => now.add_changed(earlier, changed),
            _ => {
                (earlier.end()..self.end()).for_each(|page| changed.insert(page));
                Ok(())
            }
        }
    }

    /// Replaces the frames in a page table by page numbers. Returns whether the table has only frames of the domain.
    fn normalise(&self, level: u8, table: &mut [u8]) -> bool {
        match self {
            Memory::SameNumbers { .. } => true,
            Memory::Machine(pv) => pv.normalise(level, table),
        }
    }
}

/// Sends pages, in records of at most [`PAGES_MAX`].
pub(super) struct Sender<'a, W> {
    pub(super) hv: &'a dyn Hypervisor,
    pub(super) domid: DomId,
    pub(super) memory: Memory,
    pub(super) to: &'a mut Writer<W>,
    pub(super) report: &'a mut dyn FnMut(SaveProgress) -> ControlFlow<()>,
    pub(super) progress: SaveProgress,
    pub(super) summary: SaveSummary,
    /// Contents of the pages of one record.
    pub(super) contents: Vec<u8>,
}

/// A pass over pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// The first pass. The receiver knows no page, so absent pages are left out.
    First,
    /// A later pass. The receiver may have pages that are absent now.
    Later,
}

/// The state of the guest during a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestState {
    /// The guest runs: a page that cannot be read now is sent later.
    Runs,
    /// The guest is suspended.
    Suspended,
}

impl<W: Write> Sender<'_, W> {
    /// Sends all pages. Returns those that could not be read.
    pub(super) fn all(&mut self, state: GuestState) -> Result<PageSet, SaveError> {
        let end = self.memory.end();
        let mut left = PageSet::new(end);
        self.begin_round(end);
        let mut first = 0;
        while first < end {
            let next = end.min(first + PAGES_MAX as u64);
            let pfns: Vec<u64> = (first..next).collect();
            self.batch(&pfns, Pass::First, state, &mut left)?;
            first = next;
        }
        self.end_round(state);
        Ok(left)
    }

    /// Sends some pages. Returns those that could not be read.
    pub(super) fn some(
        &mut self,
        pages: &PageSet,
        state: GuestState,
    ) -> Result<PageSet, SaveError> {
        let mut left = PageSet::new(self.memory.end());
        self.begin_round(pages.len());
        let mut pages = pages.iter();
        loop {
            let pfns: Vec<u64> = pages.by_ref().take(PAGES_MAX).collect();
            if pfns.is_empty() {
                self.end_round(state);
                return Ok(left);
            }
            self.batch(&pfns, Pass::Later, state, &mut left)?;
        }
    }

    fn begin_round(&mut self, pages: u64) {
        self.progress.round = self.summary.rounds;
        self.progress.round_pages = pages;
        self.progress.round_pages_done = 0;
    }

    fn end_round(&mut self, state: GuestState) {
        self.summary.rounds += 1;
        let earlier = self.summary.pages_written;
        self.summary.pages_written = self.progress.pages_written;
        if state == GuestState::Suspended {
            self.summary.pages_suspended += self.summary.pages_written - earlier;
        }
    }

    /// Sends at most [`PAGES_MAX`] pages, in ascending order.
    fn batch(
        &mut self,
        pfns: &[u64],
        pass: Pass,
        state: GuestState,
        left: &mut PageSet,
    ) -> Result<(), SaveError> {
        let mut found = self.find(pfns)?;
        self.read(&mut found, state)?;
        for page in found.iter().filter(|page| page.is_deferred) {
            left.insert(page.pfn);
        }
        found.retain(|page| !page.is_deferred);
        if pass == Pass::First {
            found.retain(|page| page.kind != PageKind::Absent);
        }
        self.write(&found)?;
        self.progress.round_pages_done += pfns.len() as u64;
        match (self.report)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(SaveError::Cancelled { domid: self.domid }),
        }
    }

    /// Asks Xen for the kinds of pages.
    fn find(&self, pfns: &[u64]) -> Result<Vec<Found>, SaveError> {
        let numbered = |pfn: &u64| self.memory.gfn(*pfn).map(|gfn| (*pfn, gfn));
        let (known, frames): (Vec<u64>, Vec<Gfn>) = pfns.iter().filter_map(numbered).unzip();
        let kinds = match frames.is_empty() {
            true => Vec::new(),
            false => {
                let kinds = self.hv.frame_kinds(self.domid, &frames);
                kinds.during(self.domid, SaveStep::ReadKinds)?
            }
        };
        let mut known = known.into_iter().zip(frames).zip(kinds).peekable();
        let found = pfns.iter().map(|pfn| {
            let kind = known.next_if(|((known, _), _)| known == pfn);
            match kind {
                Some(((_, gfn), kind)) => Found::new(*pfn, Some(gfn), kind),
                None => Found::new(*pfn, None, FrameKind::Absent),
            }
        });
        Ok(found.collect())
    }

    /// Copies the contents of pages, in their order.
    fn read(&mut self, found: &mut [Found], state: GuestState) -> Result<(), SaveError> {
        let with_contents = |page: &&mut Found| page.kind.has_contents();
        let frames: Vec<Gfn> = found
            .iter()
            .filter(|page| page.kind.has_contents())
            .filter_map(|page| page.gfn)
            .collect();
        self.contents.resize(frames.len() * PAGE_SIZE, 0);
        let copied = self
            .hv
            .copy_pages(self.domid, &frames, &mut self.contents)
            .during(self.domid, SaveStep::ReadPages)?;
        let bytes = self.contents.chunks_exact_mut(PAGE_SIZE);
        let pages = found.iter_mut().filter(with_contents).enumerate();
        for (((index, page), bytes), is_copied) in pages.zip(bytes).zip(copied) {
            page.contents_index = index;
            let is_whole = is_copied && is_right(&self.memory, page.kind, bytes);
            match (is_whole, state) {
                (true, _) => {}
                (false, GuestState::Runs) => page.is_deferred = true,
                (false, GuestState::Suspended) if !is_copied => {
                    return Err(SaveError::Unreadable {
                        domid: self.domid,
                        pfn: page.pfn,
                    });
                }
                (false, GuestState::Suspended) => {
                    return Err(SaveError::Guest {
                        domid: self.domid,
                        what: "page tables",
                    });
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, found: &[Found]) -> Result<(), SaveError> {
        if found.is_empty() {
            return Ok(());
        }
        let (contents, _) = self.contents.as_chunks::<PAGE_SIZE>();
        let page = |page: &Found| Page {
            pfn: page.pfn,
            kind: page.kind,
            contents: match page.kind.has_contents() {
                true => contents.get(page.contents_index),
                false => None,
            },
        };
        let pages: Vec<Page<'_>> = found.iter().map(page).collect();
        self.to.pages(&pages)?;
        let written = pages.iter().filter(|page| page.contents.is_some());
        self.progress.pages_written += written.count() as u64;
        Ok(())
    }
}

/// A page to send.
struct Found {
    pfn: u64,
    gfn: Option<Gfn>,
    kind: PageKind,
    /// Number of its contents among those of its record.
    contents_index: usize,
    is_deferred: bool,
}

impl Found {
    fn new(pfn: u64, gfn: Option<Gfn>, kind: FrameKind) -> Found {
        Found {
            pfn,
            gfn,
            kind: match kind {
                FrameKind::Data => PageKind::Data,
                FrameKind::Table { level, is_pinned } => PageKind::Table { level, is_pinned },
                FrameKind::Broken => PageKind::Broken,
                FrameKind::Absent => PageKind::Absent,
            },
            contents_index: 0,
            is_deferred: false,
        }
    }
}

/// Whether the contents of a page can be sent; makes those of a page table ready.
fn is_right(memory: &Memory, kind: PageKind, bytes: &mut [u8]) -> bool {
    match kind {
        PageKind::Table { level, .. } => memory.normalise(level, bytes),
        _ => true,
    }
}
