//! The list of a domain's pages.

use xen_abi::domctl::{self, Domctl};
use xen_abi::memory;
use xen_abi::xen::{DOMID_XEN, HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP};
use xen_port::{DomId, Errno, FrameKind, Gfn, GuestKind, PAGE_SIZE, Pfn, Result};

use crate::Xen;
use crate::privcmd::Site;

/// Number of frames per call (`XEN_DOMCTL_getpageframeinfo3`).
const FRAMES_PER_CALL: u32 = 1024;
/// Entries in a page of the table of the guests' own numbers.
const NUMBERS_PER_PAGE: u64 = (PAGE_SIZE / size_of::<u64>()) as u64;
/// Pages of that table in each of its extents of 2 MiB.
const PAGES_PER_EXTENT: u64 = 512;
/// Extents of it that are asked for at most: those of 64 TiB of memory.
const EXTENTS_MAX: u64 = 64 << 10;
/// A frame without a number.
const NO_NUMBER: u64 = u64::MAX;

impl Xen {
    pub(crate) fn read_on_demand(&self, domid: DomId) -> Result<(u64, u64)> {
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&memory::PodTarget {
            target_pages: 0,
            tot_pages: 0,
            pod_cache_pages: 0,
            pod_entries: 0,
            domid: domid.0,
            pad: [0; 3],
        })?;
        // SAFETY: `argument` is the one structure that this sub-operation reads and writes.
        unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::GET_POD_TARGET.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("XENMEM_get_pod_target", domid).error(errno))?;
        let answer = call.get(&argument)?;
        Ok((answer.pod_entries, answer.pod_cache_pages))
    }

    pub(crate) fn find_pages(
        &self,
        domid: DomId,
        kind: GuestKind,
        first: Gfn,
        count: u32,
    ) -> Result<Vec<(Pfn, Gfn)>> {
        let mut frames = Vec::new();
        let end = first.0.saturating_add(count.into());
        let mut next = first.0;
        while next < end {
            let count = (end - next).min(FRAMES_PER_CALL.into());
            self.find_some(domid, next, count, &mut frames)?;
            next += count;
        }
        match kind {
            GuestKind::Pv => self.guests_numbers(&frames),
            _ => Ok(frames
                .iter()
                .map(|frame| (Pfn(*frame), Gfn(*frame)))
                .collect()),
        }
    }

    /// Adds to `found` those frames that are pages of the domain. At most as many frames as one call takes.
    fn find_some(&self, domid: DomId, first: u64, count: u64, found: &mut Vec<u64>) -> Result<()> {
        let frames: Vec<u64> = (first..first + count).collect();
        let kinds = self.read_some_kinds(domid, &frames)?;
        let pages = frames.iter().zip(kinds).filter(|(_, kind)| kind.is_page());
        found.extend(pages.map(|(frame, _)| *frame));
        Ok(())
    }

    pub(crate) fn read_frame_kinds(&self, domid: DomId, frames: &[Gfn]) -> Result<Vec<FrameKind>> {
        let numbers: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        let mut kinds = Vec::with_capacity(frames.len());
        for batch in numbers.chunks(FRAMES_PER_CALL as usize) {
            kinds.extend(self.read_some_kinds(domid, batch)?);
        }
        Ok(kinds)
    }

    /// The kinds of frames, at most as many as one call takes.
    fn read_some_kinds(&self, domid: DomId, frames: &[u64]) -> Result<Vec<FrameKind>> {
        let site = Site::domain("XEN_DOMCTL_getpageframeinfo3", domid);
        let kinds = self.with_release(site, |release| {
            let mut call = self.privcmd.call(size_of_val(frames))?;
            let list = call.put_slice(frames)?;
            let request = domctl::PageFrameInfo {
                num: frames.len() as u64,
                array: list.address(),
            };
            let version = release.interface().domctl;
            let op = call.put(&Domctl::new(
                version,
                domctl::GET_PAGE_FRAME_INFO,
                domid.0,
                &request,
            ))?;
            // SAFETY: `op` is one domctl, `list` has `num` entries.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            Ok(call.get_slice(&list, frames.len())?)
        })?;
        Ok(kinds.into_iter().map(kind_of).collect())
    }

    pub(crate) fn read_maximum_gpfn(&self, domid: DomId) -> Result<Gfn> {
        let site = Site::domain("XENMEM_maximum_gpfn", domid);
        // The answer of an ioctl has 32 bits, that of a call in a multicall 64.
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&domid.0)?;
        let operation = [memory::MAXIMUM_GPFN.into(), argument.address()];
        // SAFETY: `argument` is the domain's number, all that this sub-operation reads.
        let answers = unsafe { call.run_all(site, &[(HYPERVISOR_MEMORY_OP, operation)]) }?;
        gpfn_of(site, answers.first().copied())
    }

    /// The numbers that the guests have given to machine frames of theirs, which are in ascending order.
    fn guests_numbers(&self, frames: &[u64]) -> Result<Vec<(Pfn, Gfn)>> {
        let Some(last) = frames.last() else {
            return Ok(Vec::new());
        };
        let extents = self.table_extents(last / (NUMBERS_PER_PAGE * PAGES_PER_EXTENT) + 1)?;
        let mut table = vec![0; PAGE_SIZE];
        let mut numbered = Vec::with_capacity(frames.len());
        for of_one_page in frames.chunk_by(|one, next| table_page(*one) == table_page(*next)) {
            let Some(page) = of_one_page.first().map(|frame| table_page(*frame)) else {
                continue;
            };
            let extent = usize::try_from(page / PAGES_PER_EXTENT).unwrap_or(usize::MAX);
            let start = extents.get(extent).copied().filter(|start| *start != 0);
            let Some(start) = start else { continue };
            let at = Gfn(start + page % PAGES_PER_EXTENT);
            let is_there = self
                .privcmd
                .copy_frames(DomId(DOMID_XEN), &[at], &mut table)?;
            if is_there != [true] {
                let site = Site::domain("IOCTL_PRIVCMD_MMAPBATCH_V2", DomId(DOMID_XEN));
                return Err(site.error_with(
                    Errno::EFAULT,
                    format!(": frame {at} of the table of guests' page numbers"),
                ));
            }
            let numbers = of_one_page
                .iter()
                .map(|frame| (number_of(&table, *frame), *frame));
            let known = numbers.filter(|(number, _)| *number != NO_NUMBER);
            numbered.extend(known.map(|(number, frame)| (Pfn(number), Gfn(frame))));
        }
        Ok(numbered)
    }

    /// The first frames of that table's extents.
    fn table_extents(&self, wanted: u64) -> Result<Vec<u64>> {
        let room = wanted.min(EXTENTS_MAX);
        let mut call = self.privcmd.call(room as usize * size_of::<u64>())?;
        let list = call.reserve::<u64>(room as usize)?;
        let argument = call.put(&memory::MachphysMfnList {
            max_extents: room as u32,
            pad: 0,
            extent_start: list.address(),
            nr_extents: 0,
            pad2: 0,
        })?;
        // SAFETY: `argument` is the one structure, `list` has room for `max_extents` entries.
        unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::MACHPHYS_MFN_LIST.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::host("XENMEM_machphys_mfn_list").error(errno))?;
        let filled = u64::from(call.get(&argument)?.nr_extents).min(room);
        call.get_slice(&list, filled as usize)
    }
}

/// The frame in an answer of `XENMEM_maximum_gpfn`, or its error.
fn gpfn_of(site: Site, answer: Option<i64>) -> Result<Gfn> {
    let answer = answer.ok_or_else(|| site.nonsense("no answer"))?;
    match u64::try_from(answer) {
        Ok(gfn) => Ok(Gfn(gfn)),
        Err(_) => {
            let errno = i32::try_from(answer.unsigned_abs()).map_or(Errno::EIO, Errno);
            Err(site.error(errno))
        }
    }
}

/// The kind in an answer of `XEN_DOMCTL_getpageframeinfo3`.
fn kind_of(answer: u64) -> FrameKind {
    let mask = u64::from(domctl::PFINFO_LTAB_MASK);
    FrameKind::from_number(((answer & mask) >> domctl::PFINFO_LTAB_SHIFT) as u8)
}

/// The page of the table that has a frame's number.
fn table_page(frame: u64) -> u64 {
    frame / NUMBERS_PER_PAGE
}

/// A frame's number in its page of the table.
fn number_of(table: &[u8], frame: u64) -> u64 {
    let index = (frame % NUMBERS_PER_PAGE) as usize;
    let entry = table.as_chunks().0.get(index);
    entry.map_or(NO_NUMBER, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_their_page() {
        let mut table = vec![0xff; PAGE_SIZE];
        table[16..24].copy_from_slice(&77_u64.to_le_bytes());
        assert_eq!(number_of(&table, 3 * NUMBERS_PER_PAGE + 2), 77);
        assert_eq!(number_of(&table, 3), NO_NUMBER);
        assert_eq!(table_page(3 * NUMBERS_PER_PAGE + 2), 3);
    }

    #[test]
    fn the_largest_frame_has_64_bits() {
        let site = Site::host("XENMEM_maximum_gpfn");
        for gfn in [5, 0x7fff_ffff, 0x8000_0000, (1 << 36) + 5] {
            assert_eq!(gpfn_of(site, Some(gfn)).unwrap(), Gfn(gfn.cast_unsigned()));
        }
        assert!(gpfn_of(site, Some(-3)).unwrap_err().is(Errno::ESRCH));
        assert!(gpfn_of(site, None).is_err());
    }

    #[test]
    fn pages_are_told_from_what_is_none() {
        let pinned_table = FrameKind::Table {
            level: 4,
            is_pinned: true,
        };
        assert_eq!(kind_of(0xc000_0000), pinned_table);
        for (kind, page) in [
            (0, true),
            (0x9000_0000, true),
            (0xf000_0000, false),
            (0xd000_0000, false),
        ] {
            assert_eq!(kind_of(kind).is_page(), page, "{kind:#x}");
        }
    }
}
