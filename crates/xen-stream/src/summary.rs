//! [`Summary`], the numbers of what a stream holds.

use std::collections::BTreeMap;
use std::io::Read;

use crate::emulator::EmulatorKind;
use crate::error::StreamError;
use crate::file::FileHeader;
use crate::headers::{ImageHeader, LibxlHeader};
use crate::hvm_context::HvmContext;
use crate::pages::{PageKind, Pages};
use crate::reader::{Event, Reader};
use crate::record::{Record, TscInfo, VcpuPart};

/// Contents of a stream in numbers, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Header of xl's file, with the configuration.
    pub file: Option<FileHeader>,
    /// Header of the libxl stream.
    pub libxl: Option<LibxlHeader>,
    /// Headers of the libxc stream.
    pub image: Option<ImageHeader>,
    /// Number of page entries by kind. A page that was sent again counts again.
    pub entries: BTreeMap<PageKind, u64>,
    /// Number of pages that are to be compared.
    pub verified_entries: u64,
    /// Number of pages that the guest has.
    pub guest_pages: PageCount,
    /// Number of vCPUs that have registers.
    pub nr_vcpus: u64,
    /// Mode and values of the TSC.
    pub tsc: Option<TscInfo>,
    /// Number of leaves of the CPUID policy.
    pub cpuid_leaves: u64,
    /// Number of entries of the MSR policy.
    pub msr_entries: u64,
    /// Number of HVM parameters.
    pub hvm_params: u64,
    /// The emulator whose state is there, and the state's length.
    pub emulator: Option<(EmulatorKind, u64)>,
    /// Number of nodes in xenstore of emulators.
    pub emulator_nodes: u64,
    /// Number of records that were skipped.
    pub skipped_records: u64,
    /// Whether the stream was read to its end without an error.
    pub is_whole: bool,
    /// Number of bytes that were read.
    pub length_bytes: u64,
}

impl Summary {
    /// Reads a stream to its end or to an error.
    pub fn read<R: Read>(reader: &mut Reader<R>) -> (Summary, Option<StreamError>) {
        let mut summary = Summary::default();
        let error = loop {
            match reader.next_event() {
                Ok(Some(event)) => summary.add(&event),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        summary.is_whole = error.is_none();
        summary.length_bytes = reader.offset_bytes();
        (summary, error)
    }

    /// Adds a part of a stream.
    fn add(&mut self, event: &Event<'_>) {
        match event {
            Event::File(header) => self.file = Some(header.clone()),
            Event::Libxl(header) => self.libxl = Some(*header),
            Event::Image(header) => self.image = Some(*header),
            Event::Record(record) => self.add_record(record),
            Event::Pages(pages) => self.add_pages(pages),
            Event::EmulatorXenstore(nodes) => self.emulator_nodes += nodes.nodes.len() as u64,
            Event::EmulatorContext(context) => {
                let length_bytes = context.state.len() as u64;
                self.emulator = Some((context.emulator.kind, length_bytes));
            }
            Event::Skipped { .. } => self.skipped_records += 1,
            Event::LibxcContext | Event::End => {}
        }
    }

    fn add_record(&mut self, record: &Record) {
        match record {
            Record::Vcpu(vcpu) if vcpu.part == VcpuPart::Basic && !vcpu.state.is_empty() => {
                self.nr_vcpus += 1;
            }
            Record::HvmContext(state) => {
                let context = HvmContext::parse(state);
                self.nr_vcpus = context.map_or(0, |context| context.nr_vcpus() as u64);
            }
            Record::TscInfo(tsc) => self.tsc = Some(*tsc),
            Record::CpuidPolicy(leaves) => self.cpuid_leaves = leaves.len() as u64,
            Record::MsrPolicy(entries) => self.msr_entries = entries.len() as u64,
            Record::HvmParams(params) => self.hvm_params = params.len() as u64,
            _ => {}
        }
    }

    fn add_pages(&mut self, pages: &Pages<'_>) {
        if pages.is_verified() {
            self.verified_entries += pages.entries().len() as u64;
            return;
        }
        for entry in pages.entries() {
            *self.entries.entry(entry.kind).or_default() += 1;
            match entry.kind {
                PageKind::Absent => self.guest_pages.remove(entry.pfn),
                _ => self.guest_pages.insert(entry.pfn),
            }
        }
    }
}

/// Page frame numbers in a word.
const WORD_PAGES: u64 = 64;
/// Words of a part of the set.
const PART_WORDS: u64 = 512;
/// Largest number of parts: pages of 4 TiB that are close together, in 128 MiB.
const PARTS_MAX: usize = 1 << 15;

/// Counts different page frame numbers. Its memory is limited to 128 MiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    parts: BTreeMap<u64, Box<[u64; PART_WORDS as usize]>>,
    /// Whether there was no room for a page.
    is_full: bool,
    count: u64,
}

impl PageCount {
    /// Number of different pages, or `None` if they were too many to count.
    pub fn get(&self) -> Option<u64> {
        (!self.is_full).then_some(self.count)
    }

    fn insert(&mut self, pfn: u64) {
        let has_room = self.parts.len() < PARTS_MAX;
        let part = pfn / (WORD_PAGES * PART_WORDS);
        if !has_room && !self.parts.contains_key(&part) {
            self.is_full = true;
            return;
        }
        let words = self
            .parts
            .entry(part)
            .or_insert_with(|| Box::new([0; PART_WORDS as usize]));
        if let Some((word, bit)) = word_of(words, pfn)
            && *word & bit == 0
        {
            *word |= bit;
            self.count += 1;
        }
    }

    fn remove(&mut self, pfn: u64) {
        let part = pfn / (WORD_PAGES * PART_WORDS);
        if let Some(words) = self.parts.get_mut(&part)
            && let Some((word, bit)) = word_of(words, pfn)
            && *word & bit != 0
        {
            *word &= !bit;
            self.count -= 1;
        }
    }
}

fn word_of(words: &mut [u64; PART_WORDS as usize], pfn: u64) -> Option<(&mut u64, u64)> {
    let index = (pfn / WORD_PAGES % PART_WORDS) as usize;
    let bit = 1 << (pfn % WORD_PAGES);
    words.get_mut(index).map(|word| (word, bit))
}
