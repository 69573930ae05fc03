//! The frames of a PV domain, and its state besides its memory.
//!
//! A page that the image calls data, and that one of its page tables names as a table, may hold any frames. Xen refuses it: an entry of
//! a page table may name pages of the domain alone, whatever tool pins it, and a running guest is held to the same rule.

use std::collections::BTreeMap;
use std::ops::Range;

use xen_port::{Gfn, Mfn, PAGE_SHIFT, PAGE_SIZE, PageTableLevel, VcpuId, VcpuPart};
use xen_stream::{self as stream, PageEntry, PageKind, Record, VcpuState};

use super::error::{During, RestoreError, RestoreStep, Result};
use super::memory::Memory;
use super::{Rings, Target};
use crate::pv_state::{
    NO_FRAME, WORDS_PER_PAGE, entry, registers, renumber, set, set_word, shared_info, start_info,
    word, words,
};

/// Page tables that are pinned, and pages of the P2M that are written, with one request.
const AT_ONCE: usize = 1024;

/// The frames and the page tables of a PV domain.
#[derive(Debug, Default)]
pub(super) struct PvPages {
    /// First number behind the last page.
    end: u64,
    /// The frame of each page, in blocks.
    frames: BTreeMap<u64, Vec<u64>>,
    /// Level of each page table, and whether it is pinned.
    tables: BTreeMap<u64, (u8, bool)>,
}

impl PvPages {
    pub(super) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// The frame of a page that the domain has.
    pub(super) fn frame(&self, pfn: u64) -> Option<u64> {
        let block = self.frames.get(&(pfn / WORDS_PER_PAGE))?;
        let frame = block.get((pfn % WORDS_PER_PAGE) as usize)?;
        (*frame != NO_FRAME).then_some(*frame)
    }

    fn set_frame(&mut self, pfn: u64, frame: u64) {
        let block = self.frames.entry(pfn / WORDS_PER_PAGE);
        let block = block.or_insert_with(|| vec![NO_FRAME; WORDS_PER_PAGE as usize]);
        if let Some(place) = block.get_mut((pfn % WORDS_PER_PAGE) as usize) {
            *place = frame;
        }
    }

    /// Notes the frames of an extent.
    pub(super) fn add_extent(&mut self, first: u64, order: u32, frame: Mfn) {
        (0..1 << order).for_each(|index| self.set_frame(first + index, frame.0 + index));
    }

    pub(super) fn remove(&mut self, pfn: u64) {
        self.set_frame(pfn, NO_FRAME);
        self.tables.remove(&pfn);
    }

    /// Notes whether a page is a page table. Its last kind counts.
    pub(super) fn note_kind(&mut self, entry: PageEntry) {
        match entry.kind {
            PageKind::Table { level, is_pinned } => {
                self.tables.insert(entry.pfn, (level, is_pinned));
            }
            _ => {
                self.tables.remove(&entry.pfn);
            }
        }
    }

    /// The pages that a page table names.
    pub(super) fn named_by(&self, table: &[u8]) -> Result<Vec<u64>> {
        let present = words(table).filter(|entry| entry & entry::PRESENT != 0);
        let pfns: Vec<u64> = present.map(entry::frame).collect();
        match pfns.iter().find(|pfn| **pfn >= self.end) {
            None => Ok(pfns),
            Some(pfn) => Err(RestoreError::Value {
                what: "page number in a page table",
                value: *pfn,
            }),
        }
    }

    /// Replaces the page numbers in a page table by frames.
    pub(super) fn localise(&self, table: &mut [u8]) -> Result<()> {
        let localised = renumber(table, |pfn| self.frame(pfn));
        localised.ok_or(RestoreError::Missing {
            what: "page that a page table names",
        })
    }

    /// The frame of a page that is there, and is no page table.
    fn data_frame(&self, pfn: u64, what: &'static str) -> Result<u64> {
        let frame = self.frame(pfn).filter(|_| !self.tables.contains_key(&pfn));
        frame.ok_or(RestoreError::Value { what, value: pfn })
    }

    /// The frame of a top-level page table.
    fn top_frame(&self, pfn: u64) -> Result<u64> {
        let is_top = |(level, _): &(u8, bool)| *level == entry::TOP_LEVEL;
        let frame = self
            .frame(pfn)
            .filter(|_| self.tables.get(&pfn).is_some_and(is_top));
        frame.ok_or(RestoreError::Value {
            what: "number of a top-level page table",
            value: pfn,
        })
    }

    /// The tables that the guest has pinned.
    fn pins(&self) -> Vec<(PageTableLevel, Mfn)> {
        let pinned = self.tables.iter().filter(|(_, (_, is_pinned))| *is_pinned);
        let pin = |(pfn, (level, _)): (&u64, &(u8, bool))| {
            let level = match level {
                1 => PageTableLevel::L1,
                2 => PageTableLevel::L2,
                3 => PageTableLevel::L3,
                _ => PageTableLevel::L4,
            };
            Some((level, Mfn(self.frame(*pfn)?)))
        };
        pinned.filter_map(pin).collect()
    }

    /// The bytes of a page of the P2M: the frames of the pages from `first` on.
    fn p2m_page(&self, first: u64) -> Vec<u8> {
        let pfns = first..first + WORDS_PER_PAGE;
        let frames = pfns.map(|pfn| self.frame(pfn).unwrap_or(NO_FRAME));
        frames.flat_map(u64::to_le_bytes).collect()
    }
}

/// The records of the state, until all pages are there.
#[derive(Default)]
pub(super) struct PvState {
    /// Pages that hold the P2M.
    p2m: Vec<u64>,
    shared_info: Option<Box<[u8; PAGE_SIZE]>>,
    vcpus: BTreeMap<(u32, VcpuPart), Vec<u8>>,
}

impl PvState {
    /// Takes a record of the state.
    pub(super) fn take(&mut self, record: Record, memory: &mut Memory<'_>) {
        match record {
            Record::P2mFrames(p2m) => {
                memory.set_pv_end(u64::from(p2m.last_pfn) + 1);
                self.p2m = p2m.frames;
            }
            Record::SharedInfo(page) => self.shared_info = Some(page),
            Record::Vcpu(VcpuState { part, vcpu, state }) if !state.is_empty() => {
                self.vcpus.insert((vcpu, port_part(part)), state);
            }
            _ => {}
        }
    }

    /// Writes the structures that name frames, hands the page tables over to Xen, and loads the vCPUs.
    pub(super) fn load(mut self, target: &Target<'_>, memory: &Memory<'_>) -> Result<Rings> {
        let missing = RestoreError::Missing {
            what: "frames of a PV domain",
        };
        let pages = memory.pv().ok_or(missing)?;
        let info = target.domain_info()?;
        // Xen accepts a page table only if no process has it mapped writable. Each step unmaps what it has mapped.
        self.write_p2m(target, pages)?;
        self.write_shared_info(target, info.shared_info_frame)?;
        let rings = self.write_start_info(target, pages, info.shared_info_frame)?;
        self.localise_vcpus(pages)?;
        pages.pins().chunks(AT_ONCE).try_for_each(|pins| {
            let pinned = target.hv.pin_tables(target.domid, pins);
            pinned.during(target.domid, RestoreStep::PinPageTables)
        })?;
        for ((vcpu, part), state) in &self.vcpus {
            let set = target
                .hv
                .set_pv_vcpu_state(target.domid, VcpuId(*vcpu), *part, state);
            set.during(target.domid, RestoreStep::SetVcpu)?;
        }
        Ok(rings)
    }

    /// Writes the guest's P2M with the new frames.
    fn write_p2m(&self, target: &Target<'_>, pages: &PvPages) -> Result<()> {
        let mut first = 0;
        for numbers in self.p2m.chunks(AT_ONCE) {
            let frame = |pfn: &u64| pages.data_frame(*pfn, "page of the P2M").map(Gfn);
            let frames: Vec<Gfn> = numbers.iter().map(frame).collect::<Result<_>>()?;
            let firsts = (first..)
                .step_by(WORDS_PER_PAGE as usize)
                .take(frames.len());
            let bytes: Vec<u8> = firsts.flat_map(|first| pages.p2m_page(first)).collect();
            target.write(&frames, &bytes, RestoreStep::WriteP2m)?;
            first += frames.len() as u64 * WORDS_PER_PAGE;
        }
        Ok(())
    }

    /// Writes the shared info: the state of the vCPUs and of the architecture. All event channels are closed and masked.
    fn write_shared_info(&self, target: &Target<'_>, frame: Gfn) -> Result<()> {
        let missing = RestoreError::Missing {
            what: "shared info",
        };
        let old = self.shared_info.as_deref().ok_or(missing)?;
        let domid = target.domid;
        let step = RestoreStep::WriteSharedInfo;
        let map = target.hv.map_foreign(domid, &[frame]);
        let mut map = map.during(domid, step)?;
        // Xen itself writes the time to other parts of the page.
        for (offset, bytes) in shared_info_parts(old) {
            map.write(offset, &bytes).during(domid, step)?;
        }
        Ok(())
    }

    /// Writes the new frames and ports to the start info, whose page vCPU 0 names.
    fn write_start_info(
        &mut self,
        target: &Target<'_>,
        pages: &PvPages,
        shared_info: Gfn,
    ) -> Result<Rings> {
        let step = RestoreStep::WriteStartInfo;
        let missing = RestoreError::Missing {
            what: "state of vCPU 0",
        };
        let registers = self.vcpus.get_mut(&(0, VcpuPart::Basic)).ok_or(missing)?;
        let pfn = word(registers, registers::RDX).unwrap_or(NO_FRAME);
        let frame = pages.data_frame(pfn, "page of the start info")?;
        set_word(registers, registers::RDX, frame);
        let map = target.hv.map_foreign(target.domid, &[Gfn(frame)]);
        let mut map = map.during(target.domid, step)?;
        let mut page = [0; PAGE_SIZE];
        map.read(0, &mut page).during(target.domid, step)?;
        let ring = |offset, what| {
            let pfn = word(&page, offset).unwrap_or(NO_FRAME);
            pages.data_frame(pfn, what).map(Gfn)
        };
        let rings = Rings {
            store: ring(start_info::STORE_FRAME, "page of xenstore's ring")?,
            console: ring(start_info::CONSOLE_FRAME, "page of the console's ring")?,
        };
        fill_start_info(&mut page, target, &rings, (pages.end, shared_info));
        map.write(0, &page).during(target.domid, step)?;
        Ok(rings)
    }

    /// Replaces the page numbers in the registers by frames, and has the vCPUs online.
    fn localise_vcpus(&mut self, pages: &PvPages) -> Result<()> {
        let basic = |((_, part), _): &(&(u32, VcpuPart), &mut Vec<u8>)| *part == VcpuPart::Basic;
        for (_, state) in self.vcpus.iter_mut().filter(basic) {
            localise_registers(state, pages)?;
        }
        Ok(())
    }
}

fn port_part(part: stream::VcpuPart) -> VcpuPart {
    match part {
        stream::VcpuPart::Basic => VcpuPart::Basic,
        stream::VcpuPart::Extended => VcpuPart::Extended,
        stream::VcpuPart::Xsave => VcpuPart::Xsave,
        stream::VcpuPart::Msrs => VcpuPart::Msrs,
    }
}

/// The parts of the shared info that are written, with their offsets.
fn shared_info_parts(old: &[u8; PAGE_SIZE]) -> [(usize, Vec<u8>); 4] {
    let part = |range: Range<usize>| old.get(range).unwrap_or_default().to_vec();
    let mut vcpus = part(shared_info::VCPU_INFO);
    for vcpu in shared_info::VCPU_INFO.step_by(shared_info::VCPU_INFO_BYTES) {
        set_word(&mut vcpus, vcpu + shared_info::PENDING_SEL, 0);
    }
    let mut arch = part(shared_info::ARCH);
    let list = shared_info::FRAME_LIST_LIST - shared_info::ARCH.start;
    set_word(&mut arch, list, 0);
    [
        (shared_info::VCPU_INFO.start, vcpus),
        (
            shared_info::PENDING.start,
            vec![0; shared_info::PENDING.len()],
        ),
        (
            shared_info::MASK.start,
            vec![u8::MAX; shared_info::MASK.len()],
        ),
        (shared_info::ARCH.start, arch),
    ]
}

fn fill_start_info(
    page: &mut [u8],
    target: &Target<'_>,
    rings: &Rings,
    (end, shared_info): (u64, Gfn),
) {
    set_word(page, start_info::NR_PAGES, end);
    set_word(page, start_info::SHARED_INFO, shared_info.0 << PAGE_SHIFT);
    set(page, start_info::FLAGS, &0_u32.to_le_bytes());
    set_word(page, start_info::STORE_FRAME, rings.store.0);
    set(
        page,
        start_info::STORE_PORT,
        &target.store.port.0.to_le_bytes(),
    );
    set_word(page, start_info::CONSOLE_FRAME, rings.console.0);
    set(
        page,
        start_info::CONSOLE_PORT,
        &target.console.port.0.to_le_bytes(),
    );
}

fn localise_registers(state: &mut [u8], pages: &PvPages) -> Result<()> {
    let field = |state: &[u8], offset| word(state, offset).unwrap_or_default();
    let flags = field(state, registers::FLAGS) | registers::FLAG_ONLINE;
    set_word(state, registers::FLAGS, flags);
    let entries = field(state, registers::GDT_ENTRIES);
    let gdt = registers::gdt_frames(entries).ok_or(RestoreError::Value {
        what: "number of entries of the GDT",
        value: entries,
    })?;
    for offset in (registers::GDT_FRAMES..).step_by(8).take(gdt) {
        let frame = pages.data_frame(field(state, offset), "page of the GDT")?;
        set_word(state, offset, frame);
    }
    let top = pages.top_frame(field(state, registers::CR3) >> PAGE_SHIFT)?;
    set_word(state, registers::CR3, top << PAGE_SHIFT);
    let user = field(state, registers::CR1);
    if user & registers::CR1_VALID != 0 {
        let user = pages.top_frame(user >> PAGE_SHIFT)?;
        set_word(state, registers::CR1, user << PAGE_SHIFT);
    }
    Ok(())
}
