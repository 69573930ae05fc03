//! The memory and the CPU state of a PV domain. All of it is guest data: each number is checked before it is used.

use std::io::Write;

use xen_port::{
    DomId, DomainInfo, Gfn, Hypervisor, PAGE_SHIFT, PAGE_SIZE, VcpuId, VcpuPart, VcpuRunState,
};
use xen_stream::{self as stream, P2mFrames, PvInfo, Record, VcpuState, Writer};

use super::error::{During, SaveError, SaveStep};
use super::page_set::PageSet;
use crate::pv_state::{
    WORDS_PER_PAGE, entry, is_frame, registers, renumber, set_word, shared_info, word, words,
};

/// Numbers without pages that a guest may have below its last one: a hole of 4 GiB for devices.
const HOLE_PAGES: u64 = 1 << 20;
/// Most pages that an image can have: its last page number has 32 bits.
const PAGES_MAX: u64 = 1 << 32;
/// Pages that are copied at once.
const PAGES_AT_ONCE: usize = 1024;
/// The parts of a vCPU, in the order of libxc, with their names in a stream.
const PARTS: [(VcpuPart, stream::VcpuPart); 4] = [
    (VcpuPart::Basic, stream::VcpuPart::Basic),
    (VcpuPart::Extended, stream::VcpuPart::Extended),
    (VcpuPart::Xsave, stream::VcpuPart::Xsave),
    (VcpuPart::Msrs, stream::VcpuPart::Msrs),
];

/// The pages of a PV domain, and their frames, as the guest's P2M says.
pub(super) struct PvMemory {
    domid: DomId,
    /// The frame of each page.
    frames: Vec<u64>,
    /// Frame and page number of each page, by frame.
    numbers: Vec<(u64, u64)>,
    /// Frames of the pages that hold the P2M.
    table: Vec<Gfn>,
    /// Changes with the P2M, if the guest has it as a list.
    generation: Option<u64>,
}

impl PvMemory {
    /// Reads the P2M.
    pub(super) fn read(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<PvMemory, SaveError> {
        let domid = info.domid;
        let bits = hv.address_size_bits(domid);
        if bits.during(domid, SaveStep::ReadDomain)? != 64 {
            return Err(SaveError::Unsupported {
                domid,
                what: "a 32-bit PV guest",
            });
        }
        let guest = Guest { hv, domid };
        let page = guest.shared_info(info)?;
        let pages = field(page.as_slice(), shared_info::MAX_PFN);
        let most = info.max_pages.saturating_add(HOLE_PAGES).min(PAGES_MAX);
        if pages == 0 || pages > most {
            return Err(guest.wrong("number of pages in the shared info"));
        }
        let table = guest.table(page.as_slice(), pages)?;
        let bytes = guest.copy(&table, SaveStep::ReadP2m, "table of its pages")?;
        let frames: Vec<u64> = words(&bytes).take(pages as usize).collect();
        let numbered = frames
            .iter()
            .zip(0..)
            .filter(|(frame, _)| is_frame(**frame));
        let mut numbers: Vec<(u64, u64)> = numbered.map(|(frame, pfn)| (*frame, pfn)).collect();
        numbers.sort_unstable();
        Ok(PvMemory {
            domid,
            frames,
            numbers,
            table,
            generation: generation(page.as_slice()),
        })
    }

    /// First number behind the last page.
    pub(super) fn end(&self) -> u64 {
        self.frames.len() as u64
    }

    /// The frame of a page, if it has one. A frame belongs to the first of the pages that the guest says to have it.
    pub(super) fn gfn(&self, pfn: u64) -> Option<Gfn> {
        let frame = *self.frames.get(usize::try_from(pfn).ok()?)?;
        (self.number(frame) == Some(pfn)).then_some(Gfn(frame))
    }

    /// Adds the pages that have another frame than before. The P2M itself must be at its place, because the image names its pages
    /// already.
    pub(super) fn add_changed(
        &self,
        earlier: &PvMemory,
        changed: &mut PageSet,
    ) -> Result<(), SaveError> {
        let is_same = self.generation == earlier.generation
            && self.table == earlier.table
            && self.frames.len() == earlier.frames.len();
        if !is_same {
            return Err(self.wrong("table of its pages, which moved during the save,"));
        }
        let pairs = self.frames.iter().zip(&earlier.frames).zip(0..);
        let others = pairs.filter(|((now, before), _)| now != before);
        others.for_each(|(_, pfn)| changed.insert(pfn));
        Ok(())
    }

    /// The number of the page with a frame.
    fn number(&self, frame: u64) -> Option<u64> {
        let at = self.numbers.partition_point(|(known, _)| *known < frame);
        let (known, number) = self.numbers.get(at)?;
        (*known == frame).then_some(*number)
    }

    /// Replaces the frames in a page table by page numbers, and removes Xen's own entries. Returns false for a table with frames
    /// that are not the domain's, or with large pages. While the guest runs, such a table may be in the middle of a change.
    pub(super) fn normalise(&self, level: u8, table: &mut [u8]) -> bool {
        for (index, bytes) in table.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            if entry::is_xens(level, index) {
                *bytes = [0; 8];
            }
        }
        let is_large =
            |entry: u64| level > 1 && entry & entry::PRESENT != 0 && entry & entry::LARGE != 0;
        !words(table).any(is_large) && renumber(table, |frame| self.number(frame)).is_some()
    }

    /// The record of the guest's width.
    pub(super) fn info() -> Record {
        Record::PvInfo(PvInfo { is_64_bit: true })
    }

    /// The record of the pages that hold the P2M.
    pub(super) fn p2m_frames(&self) -> Result<Record, SaveError> {
        let wrong = || self.wrong("table of its pages");
        let numbers = self.table.iter().map(|frame| self.number(frame.0));
        Ok(Record::P2mFrames(P2mFrames {
            last_pfn: u32::try_from(self.end() - 1).map_err(|_| wrong())?,
            frames: numbers.collect::<Option<_>>().ok_or_else(wrong)?,
        }))
    }

    /// Writes the shared info and the vCPUs.
    pub(super) fn write_state<W: Write>(
        &self,
        hv: &dyn Hypervisor,
        info: &DomainInfo,
        to: &mut Writer<W>,
    ) -> Result<(), SaveError> {
        let guest = Guest {
            hv,
            domid: self.domid,
        };
        to.record(&Record::SharedInfo(guest.shared_info(info)?))?;
        for vcpu in 0..=info.max_vcpu_id.unwrap_or_default() {
            self.write_vcpu(hv, VcpuId(vcpu), to)?;
        }
        Ok(())
    }

    /// Writes a vCPU that is online.
    fn write_vcpu<W: Write>(
        &self,
        hv: &dyn Hypervisor,
        vcpu: VcpuId,
        to: &mut Writer<W>,
    ) -> Result<(), SaveError> {
        let domid = self.domid;
        let info = hv
            .vcpu_info(domid, vcpu)
            .during(domid, SaveStep::ReadVcpu)?;
        if info.state == VcpuRunState::Offline {
            return Ok(());
        }
        for (part, name) in PARTS {
            let state = hv.pv_vcpu_state(domid, vcpu, part);
            let mut state = state.during(domid, SaveStep::ReadVcpu)?;
            if part == VcpuPart::Basic {
                let normalised = self.normalise_registers(vcpu, &mut state);
                normalised.ok_or_else(|| self.wrong("registers"))?;
            }
            if !state.is_empty() {
                to.record(&Record::Vcpu(VcpuState {
                    part: name,
                    vcpu: vcpu.0,
                    state,
                }))?;
            }
        }
        Ok(())
    }

    /// Replaces the frames in a vCPU's registers by page numbers.
    fn normalise_registers(&self, vcpu: VcpuId, state: &mut [u8]) -> Option<()> {
        if vcpu.0 == 0 {
            let start_info = self.number(word(state, registers::RDX)?)?;
            set_word(state, registers::RDX, start_info);
        }
        let gdt = registers::gdt_frames(word(state, registers::GDT_ENTRIES)?)?;
        for offset in (registers::GDT_FRAMES..).step_by(8).take(gdt) {
            set_word(state, offset, self.number(word(state, offset)?)?);
        }
        let top = self.number(word(state, registers::CR3)? >> PAGE_SHIFT)?;
        set_word(state, registers::CR3, top << PAGE_SHIFT);
        let user = word(state, registers::CR1)?;
        if user != 0 {
            let user = self.number(user >> PAGE_SHIFT)? << PAGE_SHIFT;
            set_word(state, registers::CR1, user | registers::CR1_VALID);
        }
        Some(())
    }

    fn wrong(&self, what: &'static str) -> SaveError {
        SaveError::Guest {
            domid: self.domid,
            what,
        }
    }
}

/// The number that changes with the P2M, if the guest has it as a list.
fn generation(shared_info: &[u8]) -> Option<u64> {
    let is_list = field(shared_info, shared_info::P2M_CR3) != 0;
    is_list.then(|| field(shared_info, shared_info::P2M_GENERATION))
}

/// A field of a whole page.
fn field(page: &[u8], offset: usize) -> u64 {
    word(page, offset).unwrap_or_default()
}

/// The memory of the guest, by frames.
#[derive(Clone, Copy)]
struct Guest<'a> {
    hv: &'a dyn Hypervisor,
    domid: DomId,
}

impl Guest<'_> {
    fn wrong(&self, what: &'static str) -> SaveError {
        SaveError::Guest {
            domid: self.domid,
            what,
        }
    }

    /// Copies pages. Each of them must be there.
    fn copy(
        &self,
        frames: &[Gfn],
        step: SaveStep,
        what: &'static str,
    ) -> Result<Vec<u8>, SaveError> {
        let mut bytes = vec![0; frames.len() * PAGE_SIZE];
        let parts = bytes.chunks_mut(PAGES_AT_ONCE * PAGE_SIZE);
        for (frames, bytes) in frames.chunks(PAGES_AT_ONCE).zip(parts) {
            let copied = self.hv.copy_pages(self.domid, frames, bytes);
            if copied.during(self.domid, step)?.contains(&false) {
                return Err(self.wrong(what));
            }
        }
        Ok(bytes)
    }

    fn shared_info(&self, info: &DomainInfo) -> Result<Box<[u8; PAGE_SIZE]>, SaveError> {
        let step = SaveStep::ReadSharedInfo;
        let page = self.copy(&[info.shared_info_frame], step, "shared info")?;
        let page: Result<[u8; PAGE_SIZE], _> = page.try_into();
        page.map(Box::new).map_err(|_| self.wrong("shared info"))
    }

    /// The frames of the pages that hold the P2M of so many pages.
    fn table(&self, shared_info: &[u8], pages: u64) -> Result<Vec<Gfn>, SaveError> {
        let count = pages.div_ceil(WORDS_PER_PAGE);
        match field(shared_info, shared_info::P2M_CR3) {
            0 => self.tree(field(shared_info, shared_info::FRAME_LIST_LIST), count),
            cr3 => self.list(cr3, field(shared_info, shared_info::P2M_VADDR), count),
        }
    }

    /// The P2M as a tree of three levels: a page of frames of pages of frames.
    fn tree(&self, root: u64, count: u64) -> Result<Vec<Gfn>, SaveError> {
        let lists = self.frames_in(&[self.frame(root)?], count.div_ceil(WORDS_PER_PAGE))?;
        self.frames_in(&lists, count)
    }

    /// The first `count` frames that these pages list.
    fn frames_in(&self, pages: &[Gfn], count: u64) -> Result<Vec<Gfn>, SaveError> {
        let bytes = self.copy(pages, SaveStep::ReadP2m, "table of its pages")?;
        let frames: Vec<Gfn> = words(&bytes)
            .take(count as usize)
            .map(|frame| self.frame(frame))
            .collect::<Result<_, _>>()?;
        match frames.len() as u64 == count {
            true => Ok(frames),
            false => Err(self.wrong("table of its pages")),
        }
    }

    /// The P2M as a list in the addresses of the guest, from `address` on.
    fn list(&self, cr3: u64, address: u64, count: u64) -> Result<Vec<Gfn>, SaveError> {
        let mut walk = Walk {
            guest: *self,
            top: self.frame(cr3 >> PAGE_SHIFT)?,
            tables: Default::default(),
        };
        let addresses = (0..count).map(|page| address.wrapping_add(page << PAGE_SHIFT));
        addresses.map(|address| walk.frame_at(address)).collect()
    }

    fn frame(&self, number: u64) -> Result<Gfn, SaveError> {
        match number != 0 && is_frame(number) {
            true => Ok(Gfn(number)),
            false => Err(self.wrong("table of its pages")),
        }
    }
}

/// Finds frames by addresses. It keeps the last table of each level, so that addresses in a row read each table once.
struct Walk<'a> {
    guest: Guest<'a>,
    top: Gfn,
    /// Frame and contents of the last table of each level, the top one last.
    tables: [Option<(Gfn, Vec<u8>)>; entry::TOP_LEVEL as usize],
}

impl Walk<'_> {
    fn frame_at(&mut self, address: u64) -> Result<Gfn, SaveError> {
        let mut frame = self.top;
        for level in (0..entry::TOP_LEVEL).rev() {
            let shift = PAGE_SHIFT + 9 * u32::from(level);
            let index = (address >> shift) % WORDS_PER_PAGE;
            let table = self.table(level, frame)?;
            let entry = word(table, index as usize * 8).unwrap_or_default();
            if entry & entry::PRESENT == 0 {
                return Err(self.guest.wrong("table of its pages"));
            }
            frame = self.guest.frame(entry::frame(entry))?;
        }
        Ok(frame)
    }

    fn table(&mut self, level: u8, frame: Gfn) -> Result<&[u8], SaveError> {
        let kept = self.tables.get_mut(usize::from(level));
        let kept = kept.ok_or_else(|| self.guest.wrong("table of its pages"))?;
        if kept.as_ref().is_none_or(|(known, _)| *known != frame) {
            let what = "table of its pages";
            let bytes = self.guest.copy(&[frame], SaveStep::ReadP2m, what)?;
            *kept = Some((frame, bytes));
        }
        Ok(kept.as_ref().map_or(&[], |(_, bytes)| bytes.as_slice()))
    }
}
