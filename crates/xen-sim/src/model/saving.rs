//! Saving and restoring of a domain in the model: pages that were written to, kinds of frames, state of vCPUs.

use std::collections::BTreeSet;

use xen_port::{
    CpuidLeaf, DomId, Errno, FrameKind, Gfn, GuestKind, Mfn, PAGE_SIZE, PageTableLevel, VcpuPart,
};

use super::{Model, ModelDomain, State};

type Outcome<T> = std::result::Result<T, Errno>;

/// Entries of a page table.
const TABLE_ENTRIES: usize = 512;
/// Bits of a page-table entry that hold the frame.
const ENTRY_FRAME: u64 = 0x000f_ffff_ffff_f000;
const ENTRY_PRESENT: u64 = 1;
/// Page tables of the deepest level that a walk begins with.
const LEVELS: u8 = 4;

/// Types of records of an HVM context.
const END: u16 = 0;
const HEADER: u16 = 1;
const CPU: u16 = 2;
const LAST_KNOWN: u16 = 20;
const HEADER_BYTES: usize = 24;
/// `struct hvm_hw_cpu`, of which the model fills two registers.
const CPU_BYTES: usize = 1032;
const RIP_OFFSET: usize = 640;
const RBX_OFFSET: usize = 520;
const MAGIC: u32 = 0x5438_1286;

/// Offset of `CR3` in a vCPU's registers (`vcpu_guest_context`).
const CR3_OFFSET: usize = 4984 + 3 * 8;
/// Bytes of the further registers (`xen_domctl_ext_vcpucontext`).
const EXTENDED_BYTES: u32 = 64;

impl ModelDomain {
    /// The state that a tool has loaded, or the state that the domain began with.
    pub(super) fn hvm_records(&self) -> Outcome<Vec<u8>> {
        match (&self.hvm_records, self.kind) {
            (_, GuestKind::Pv) => Err(Errno::EINVAL),
            (Some(records), _) => Ok(records.clone()),
            (None, _) => Ok(self.first_records()),
        }
    }

    fn first_records(&self) -> Vec<u8> {
        let mut header = [MAGIC.to_le_bytes(), 1_u32.to_le_bytes()].concat();
        header.resize(HEADER_BYTES, 0);
        let mut records = record(HEADER, 0, &header);
        for vcpu in 0..self.nr_online_vcpus {
            let mut body = vec![vcpu as u8; CPU_BYTES];
            let cpu = self.hvm_cpu.filter(|_| vcpu == 0);
            put(&mut body, RIP_OFFSET, cpu.map_or(0, |cpu| cpu.eip.into()));
            put(&mut body, RBX_OFFSET, cpu.map_or(0, |cpu| cpu.ebx.into()));
            records.extend(record(CPU, vcpu as u16, &body));
        }
        records.extend(record(END, 0, &[]));
        records
    }

    /// Like Xen, takes all vCPUs down, and brings up those with a record.
    pub(super) fn load_hvm_records(&mut self, records: &[u8]) -> Outcome<()> {
        if self.kind == GuestKind::Pv {
            return Err(Errno::EINVAL);
        }
        let list = parse(records).ok_or(Errno::EINVAL)?;
        let is_cpu = |(code, _): &&(u16, u16)| *code == CPU;
        let is_vcpu = |(_, vcpu): &(u16, u16)| u32::from(*vcpu) < self.nr_vcpus;
        let begins_right = list.first() == Some(&(HEADER, 0)) && list.last() == Some(&(END, 0));
        let known = list.iter().all(|(code, _)| *code <= LAST_KNOWN);
        let cpus: Vec<(u16, u16)> = list.iter().filter(is_cpu).copied().collect();
        if !begins_right || !known || !cpus.iter().all(is_vcpu) {
            return Err(Errno::EINVAL);
        }
        self.nr_online_vcpus = cpus.len() as u32;
        self.hvm_records = Some(records.to_vec());
        Ok(())
    }

    pub(super) fn vcpu_part(&self, vcpu: u32, part: VcpuPart) -> Outcome<Vec<u8>> {
        if self.kind != GuestKind::Pv || vcpu >= self.nr_vcpus {
            return Err(Errno::EINVAL);
        }
        let loaded = self.vcpu_parts.get(&(vcpu, part)).cloned();
        Ok(loaded.unwrap_or_else(|| match part {
            VcpuPart::Basic => vec![vcpu as u8; super::VCPU_CONTEXT_BYTES],
            VcpuPart::Extended => {
                let mut bytes = [vcpu.to_le_bytes(), EXTENDED_BYTES.to_le_bytes()].concat();
                bytes.resize(EXTENDED_BYTES as usize, 0);
                bytes
            }
            VcpuPart::Xsave | VcpuPart::Msrs => Vec::new(),
        }))
    }

    pub(super) fn load_vcpu_part(
        &mut self,
        vcpu: u32,
        part: VcpuPart,
        state: &[u8],
    ) -> Outcome<()> {
        if self.kind != GuestKind::Pv || vcpu >= self.nr_vcpus {
            return Err(Errno::EINVAL);
        }
        if part == VcpuPart::Basic {
            let cr3 = word(state, CR3_OFFSET).ok_or(Errno::EINVAL)?;
            if !self.owns(Mfn(cr3 >> 12)) {
                return Err(Errno::EINVAL);
            }
            self.nr_online_vcpus = self.nr_online_vcpus.max(vcpu + 1);
        }
        // Xen takes the number in the further registers for that of the vCPU.
        if part == VcpuPart::Extended && !state.starts_with(&vcpu.to_le_bytes()) {
            return Err(Errno::EINVAL);
        }
        self.vcpu_parts.insert((vcpu, part), state.to_vec());
        Ok(())
    }

    /// Pages that are written to count from now on.
    pub(super) fn track(&mut self) -> Outcome<()> {
        match self.written {
            Some(_) => Err(Errno::EINVAL),
            None => {
                self.written = Some(BTreeSet::new());
                Ok(())
            }
        }
    }

    pub(super) fn take_written(&mut self, nr_pages: u64) -> Outcome<Vec<u8>> {
        let written = self.written.as_mut().ok_or(Errno::EINVAL)?;
        let mut bitmap = vec![0; (nr_pages.div_ceil(64) * 8) as usize];
        for page in std::mem::take(written) {
            if let Some(byte) = bitmap.get_mut((page / 8) as usize) {
                *byte |= 1 << (page % 8);
            }
        }
        Ok(bitmap)
    }

    /// Takes a page out of its extent, which falls apart into single pages.
    pub(super) fn remove_page(&mut self, gfn: Gfn) -> Outcome<()> {
        let is_it = |page: u64, frame: u64| match self.kind {
            GuestKind::Pv => frame == gfn.0,
            GuestKind::Pvh | GuestKind::Hvm => page == gfn.0,
        };
        let pages_of = |(first, (order, frame)): (&u64, &(u32, Mfn))| {
            (0..1_u64 << order)
                .map({
                    let (first, frame) = (*first, frame.0);
                    move |index| (first + index, frame + index)
                })
                .collect::<Vec<_>>()
        };
        let found = self.extents.iter().find_map(|(first, extent)| {
            let pages = pages_of((first, extent));
            pages
                .iter()
                .any(|(page, frame)| is_it(*page, *frame))
                .then_some((*first, pages))
        });
        let (first, mut pages) = found.ok_or(Errno::EINVAL)?;
        pages.retain(|(page, frame)| !is_it(*page, *frame));
        if let Some((_, frame)) = self.extents.remove(&first) {
            self.by_frame.remove(&frame.0);
        }
        for (page, frame) in pages {
            self.extents.insert(page, (0, Mfn(frame)));
            self.by_frame.insert(frame, 0);
        }
        self.tot_pages -= 1;
        Ok(())
    }
}

impl State {
    /// The kind of each frame. Page tables are those that lead from pinned ones.
    pub(super) fn kinds(&mut self, domid: DomId, frames: &[Gfn]) -> Outcome<Vec<FrameKind>> {
        let kind = self.domains.get(&domid.0).ok_or(Errno::ESRCH)?.kind;
        let tables = self.tables(domid);
        let kind_of = |frame: &Gfn| match self.mapped_frame(domid, *frame) {
            Err(_) => FrameKind::Absent,
            Ok(_) if kind != GuestKind::Pv => FrameKind::Data,
            Ok(mfn) => {
                let table = tables.iter().find(|(table, _)| *table == mfn);
                table.map_or(FrameKind::Data, |(_, kind)| *kind)
            }
        };
        Ok(frames.iter().map(kind_of).collect())
    }

    fn tables(&self, domid: DomId) -> Vec<(Mfn, FrameKind)> {
        let mut tables = Vec::new();
        let pinned = self.domains.get(&domid.0).map(|domain| &domain.pinned);
        for (level, mfn) in pinned.into_iter().flatten() {
            let level = match level {
                PageTableLevel::L1 => 1,
                PageTableLevel::L2 => 2,
                PageTableLevel::L3 => 3,
                PageTableLevel::L4 => LEVELS,
            };
            self.add_tables(*mfn, level, true, &mut tables);
        }
        tables
    }

    fn add_tables(&self, mfn: Mfn, level: u8, is_pinned: bool, tables: &mut Vec<(Mfn, FrameKind)>) {
        if tables.iter().any(|(table, _)| *table == mfn) {
            return;
        }
        tables.push((mfn, FrameKind::Table { level, is_pinned }));
        let bytes = self.frames.get(&mfn.0).filter(|_| level > 1);
        let entries = bytes.into_iter().flat_map(|bytes| bytes.as_chunks::<8>().0);
        for entry in entries.take(TABLE_ENTRIES) {
            let entry = u64::from_le_bytes(*entry);
            if entry & ENTRY_PRESENT != 0 {
                let next = Mfn((entry & ENTRY_FRAME) >> 12);
                self.add_tables(next, level - 1, false, tables);
            }
        }
    }
}

impl Model {
    /// A guest writes to one of its pages, by its own number of it.
    pub fn guest_writes(&self, domid: DomId, page: u64, contents: &[u8]) {
        let Some(frame) = self.frame_of(domid, page) else {
            return;
        };
        let mut state = self.state();
        let bytes = state.frames.entry(frame.0);
        let bytes = bytes.or_insert_with(|| vec![super::DIRT; PAGE_SIZE]);
        for (to, from) in bytes.iter_mut().zip(contents) {
            *to = *from;
        }
        let domain = state.domains.get_mut(&domid.0);
        if let Some(written) = domain.and_then(|domain| domain.written.as_mut()) {
            written.insert(page);
        }
    }

    /// A PV guest exchanges the frame of one of its pages for another one (`XENMEM_exchange`). Its P2M is its own affair. Returns the
    /// new frame.
    pub fn exchange(&self, domid: DomId, page: u64) -> Option<Mfn> {
        let old = self.frame_of(domid, page)?;
        let mut state = self.state();
        let new = state.take_mfn(0);
        let contents = state.frames.get(&old.0).cloned();
        state.frames.extend(contents.map(|bytes| (new.0, bytes)));
        let domain = state.domains.get_mut(&domid.0)?;
        domain.remove_page(Gfn(old.0)).ok()?;
        domain.tot_pages += 1;
        domain.extents.insert(page, (0, new));
        domain.by_frame.insert(new.0, 0);
        domain.written.as_mut().map(|written| written.insert(page));
        Some(new)
    }

    /// Xen gives a domain these CPUID leaves at its creation.
    pub fn set_leaves(&self, domid: DomId, leaves: Vec<CpuidLeaf>) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.policy.leaves = leaves;
        }
    }

    /// Whether Xen notes the pages that a domain writes to.
    pub fn tracks_writes(&self, domid: DomId) -> bool {
        self.domain(domid)
            .is_some_and(|domain| domain.written.is_some())
    }
}

fn record(code: u16, instance: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = [code.to_le_bytes(), instance.to_le_bytes()].concat();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Type and number of each record; `None` for a list that is cut.
fn parse(mut records: &[u8]) -> Option<Vec<(u16, u16)>> {
    let mut list = Vec::new();
    while !records.is_empty() {
        let (head, rest) = records.split_first_chunk::<8>()?;
        let [a, b, c, d, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        list.push((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])));
        records = rest.get(length..)?;
    }
    Some(list)
}

fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

fn put(bytes: &mut [u8], offset: usize, value: u64) {
    let place = bytes.iter_mut().skip(offset);
    place
        .zip(value.to_le_bytes())
        .for_each(|(to, from)| *to = from);
}
