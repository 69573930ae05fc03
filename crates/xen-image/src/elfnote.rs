//! Xen's ELF notes: the facts that a kernel states for its domain builder.
//!
//! Source: `xen/include/public/elfnote.h`. The notes are in the PT_NOTE segments. If there is no Xen note, they are
//! in the SHT_NOTE sections. If there is none either, the older `__xen_guest` section has a `KEY=value` list.
//!
//! This parser is stricter than Xen's, which lets the last note win and reads a number of odd length as zero. Errors
//! are: two different notes of one type, a number whose length is not 1, 2, 4 or 8, and a note that exceeds its
//! region. There are two exceptions: features are joined, and a string that ends within the region is valid, whatever
//! length its note states.

mod legacy;
mod walk;

use std::fmt;

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::elf::{Header, ProgramHeader};
use crate::error::Malformed;
use crate::features::Features;
use crate::source::Source;

/// The number of each Xen note (`XEN_ELFNOTE_*`), and the name that they all carry.
#[expect(missing_docs, reason = "the names are the header's own")]
pub mod types {
    pub const INFO: u32 = 0;
    pub const ENTRY: u32 = 1;
    pub const HYPERCALL_PAGE: u32 = 2;
    pub const VIRT_BASE: u32 = 3;
    pub const PADDR_OFFSET: u32 = 4;
    pub const XEN_VERSION: u32 = 5;
    pub const GUEST_OS: u32 = 6;
    pub const GUEST_VERSION: u32 = 7;
    pub const LOADER: u32 = 8;
    pub const PAE_MODE: u32 = 9;
    pub const FEATURES: u32 = 10;
    pub const BSD_SYMTAB: u32 = 11;
    pub const HV_START_LOW: u32 = 12;
    pub const L1_MFN_VALID: u32 = 13;
    pub const SUSPEND_CANCEL: u32 = 14;
    pub const INIT_P2M: u32 = 15;
    pub const MOD_START_PFN: u32 = 16;
    pub const SUPPORTED_FEATURES: u32 = 17;
    pub const PHYS32_ENTRY: u32 = 18;
    pub const PHYS32_RELOC: u32 = 19;
    /// The name in the header of each Xen note, without the zero byte that ends it.
    pub const NAME: &[u8] = b"Xen";

    /// Whether the content of such a note is a string, and not numbers.
    pub(super) fn is_text(kind: u32) -> bool {
        matches!(
            kind,
            XEN_VERSION | GUEST_OS | GUEST_VERSION | LOADER | PAE_MODE | FEATURES | BSD_SYMTAB
        )
    }
}

/// The most bytes that all regions with notes may have together. Real kernels have less than one kilobyte.
const NOTES_MAX_BYTES: u64 = 1 << 20;
/// The longest string in a note.
const STRING_MAX_BYTES: usize = 4096;

/// The note PAE_MODE of a 32-bit PV kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaeMode {
    /// `no`, or anything else: page tables of two levels, which no supported Xen offers any more.
    No,
    /// `yes` in a `__xen_guest` section: PAE, with its top-level page table below 4 GiB.
    Yes,
    /// `yes` in a note, `yes[extended-cr3]` in a `__xen_guest` section: PAE, with the top-level page table at any
    /// address.
    ExtendedCr3,
    /// Either, as the hypervisor has it.
    Bimodal,
}

/// A pair of L1_MFN_VALID: a page-table entry `e` with `e & mask == value` carries a valid machine frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskValue {
    /// The bits to look at.
    pub mask: u64,
    /// The value that the bits must have.
    pub value: u64,
}

/// The allowed addresses of a PVH kernel that can relocate itself (PHYS32_RELOC), in physical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phys32Reloc {
    /// Alignment of its start, if the note has one. Otherwise: the largest alignment of a loadable segment if that is
    /// at least 4 KiB, else 2 MiB.
    pub align: Option<u32>,
    /// The lowest address of its first byte.
    pub min: u32,
    /// The highest address of its last byte.
    pub max: u32,
}

/// The place of the notes in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotesFrom {
    /// In a PT_NOTE segment.
    Segments,
    /// In a SHT_NOTE section.
    Sections,
    /// In the `__xen_guest` section.
    Legacy,
}

impl fmt::Display for NotesFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segments => "PT_NOTE segments",
            Self::Sections => "SHT_NOTE sections",
            Self::Legacy => "__xen_guest section",
        })
    }
}

/// The Xen notes of an image. A missing note is `None`. Addresses are virtual addresses of the guest, unless stated
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XenNotes {
    /// The place where the notes were found.
    pub from: NotesFrom,
    /// ENTRY: entry address of a PV kernel.
    pub entry: Option<u64>,
    /// HYPERCALL_PAGE: the page that the hypervisor fills with the hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// VIRT_BASE: the address at which pseudo-physical address 0 is mapped.
    pub virt_base: Option<u64>,
    /// PADDR_OFFSET: the value to subtract from physical addresses in the program headers.
    pub paddr_offset: Option<u64>,
    /// XEN_VERSION: the interface it was built for, `xen-3.0` in all kernels alive.
    pub xen_version: Option<String>,
    /// GUEST_OS: the system's name.
    pub guest_os: Option<String>,
    /// GUEST_VERSION: the system's version.
    pub guest_version: Option<String>,
    /// LOADER: the kind of loader it was made for, `generic` in all kernels alive.
    pub loader: Option<String>,
    /// PAE_MODE, for 32-bit PV kernels.
    pub pae_mode: Option<PaeMode>,
    /// FEATURES and SUPPORTED_FEATURES.
    pub features: Features,
    /// BSD_SYMTAB: the symbol table must be loaded behind the kernel.
    pub bsd_symtab: bool,
    /// HV_START_LOW: the lowest address that the hypervisor's hole may start at.
    pub hv_start_low: Option<u64>,
    /// L1_MFN_VALID: the mark of non-present page-table entries with machine frame numbers.
    pub l1_mfn_valid: Vec<MaskValue>,
    /// SUSPEND_CANCEL: a suspend may be cancelled.
    pub suspend_cancel: bool,
    /// INIT_P2M: virtual address of the table of machine frame numbers, if it is not behind the kernel.
    pub init_p2m: Option<u64>,
    /// MOD_START_PFN: the ramdisk may be outside the initial mapping. Then its frame number replaces its address.
    pub mod_start_pfn: bool,
    /// PHYS32_ENTRY: physical entry address of a PVH kernel, in 32-bit mode without paging.
    pub phys32_entry: Option<u32>,
    /// PHYS32_RELOC: the kernel can move itself, as PVH.
    pub phys32_reloc: Option<Phys32Reloc>,
}

impl XenNotes {
    fn empty(from: NotesFrom) -> Self {
        Self {
            from,
            entry: None,
            hypercall_page: None,
            virt_base: None,
            paddr_offset: None,
            xen_version: None,
            guest_os: None,
            guest_version: None,
            loader: None,
            pae_mode: None,
            features: Features::default(),
            bsd_symtab: false,
            hv_start_low: None,
            l1_mfn_valid: Vec::new(),
            suspend_cancel: false,
            init_p2m: None,
            mod_start_pfn: false,
            phys32_entry: None,
            phys32_reloc: None,
        }
    }

    /// The notes of one region of bytes, such as a PT_NOTE segment's: notes of other names are passed over.
    ///
    /// # Errors
    /// [`Malformed`] for notes that run over the end, have a content of the wrong form, or contradict each other.
    pub fn parse_region(region: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut notes = Collector::new(NotesFrom::Segments);
        notes.add_region(region)?;
        Ok(notes.finish())
    }

    /// The content of a `__xen_guest` section: `KEY=value` pairs with `,` between them, up to a zero byte.
    ///
    /// # Errors
    /// [`Malformed`] for numbers that are none, unknown required features, and keys that contradict each other.
    pub fn parse_legacy(section: &[u8]) -> Result<Self, Malformed> {
        legacy::parse(section)
    }

    /// The image's notes, or `None` if it has none of Xen's.
    pub(crate) fn find(
        header: &Header,
        program_headers: &[ProgramHeader],
        source: &Source,
    ) -> Result<Option<Self>, Malformed> {
        let mut reader = RegionReader {
            source,
            left_bytes: NOTES_MAX_BYTES,
        };
        let mut in_segments = Collector::new(NotesFrom::Segments);
        for segment in program_headers.iter().filter(|header| header.is_note()) {
            in_segments.add_region(&reader.read(
                "note segment",
                segment.offset,
                segment.file_size,
            )?)?;
        }
        if let Some(notes) = in_segments.finish() {
            return Ok(Some(notes));
        }
        let sections = header.section_headers(source)?;
        let mut in_sections = Collector::new(NotesFrom::Sections);
        for section in sections.iter().filter(|section| section.is_note()) {
            in_sections.add_region(&reader.read(
                "note section",
                section.offset,
                section.size,
            )?)?;
        }
        if let Some(notes) = in_sections.finish() {
            return Ok(Some(notes));
        }
        match header.section_by_name(&sections, "__xen_guest", source)? {
            Some(section) => Self::parse_legacy(&reader.read(
                "__xen_guest section",
                section.offset,
                section.size,
            )?)
            .map(Some),
            None => Ok(None),
        }
    }
}

/// Reads regions of an image until they are too many.
struct RegionReader<'a> {
    source: &'a Source,
    left_bytes: u64,
}

impl RegionReader<'_> {
    fn read(&mut self, what: &'static str, offset: u64, len: u64) -> Result<Vec<u8>, Malformed> {
        self.left_bytes = self
            .left_bytes
            .checked_sub(len)
            .ok_or(Malformed::TooManyNotes {
                max_bytes: NOTES_MAX_BYTES,
            })?;
        self.source.read_vec(what, offset, len)
    }
}

/// Notes as they come in.
struct Collector {
    notes: XenNotes,
    found: usize,
    /// Notes with a yes-or-no content, kept apart from their defaults to see a contradiction.
    bsd_symtab: Option<bool>,
    suspend_cancel: Option<bool>,
    mod_start_pfn: Option<bool>,
    l1_mfn_valid: Option<Vec<MaskValue>>,
}

impl Collector {
    fn new(from: NotesFrom) -> Self {
        Self {
            notes: XenNotes::empty(from),
            found: 0,
            bsd_symtab: None,
            suspend_cancel: None,
            mod_start_pfn: None,
            l1_mfn_valid: None,
        }
    }

    fn add_region(&mut self, region: &[u8]) -> Result<(), Malformed> {
        for note in walk::Notes::new(region) {
            let note = note?;
            if note.name == types::NAME {
                self.found += 1;
                self.add(note.kind, note.content)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, kind: u32, content: &[u8]) -> Result<(), Malformed> {
        let notes = &mut self.notes;
        match kind {
            types::ENTRY => set_once("ENTRY", &mut notes.entry, number("ENTRY", content)?),
            types::HYPERCALL_PAGE => set_once(
                "HYPERCALL_PAGE",
                &mut notes.hypercall_page,
                number("HYPERCALL_PAGE", content)?,
            ),
            types::VIRT_BASE => set_once(
                "VIRT_BASE",
                &mut notes.virt_base,
                number("VIRT_BASE", content)?,
            ),
            types::PADDR_OFFSET => set_once(
                "PADDR_OFFSET",
                &mut notes.paddr_offset,
                number("PADDR_OFFSET", content)?,
            ),
            types::XEN_VERSION => set_once(
                "XEN_VERSION",
                &mut notes.xen_version,
                text("XEN_VERSION", content)?,
            ),
            types::GUEST_OS => {
                set_once("GUEST_OS", &mut notes.guest_os, text("GUEST_OS", content)?)
            }
            types::GUEST_VERSION => set_once(
                "GUEST_VERSION",
                &mut notes.guest_version,
                text("GUEST_VERSION", content)?,
            ),
            types::LOADER => set_once("LOADER", &mut notes.loader, text("LOADER", content)?),
            types::PAE_MODE => set_once(
                "PAE_MODE",
                &mut notes.pae_mode,
                pae_mode(&text("PAE_MODE", content)?),
            ),
            types::FEATURES => notes.features.add_names(&text("FEATURES", content)?),
            types::BSD_SYMTAB => set_once(
                "BSD_SYMTAB",
                &mut self.bsd_symtab,
                text("BSD_SYMTAB", content)? == "yes",
            ),
            types::HV_START_LOW => set_once(
                "HV_START_LOW",
                &mut notes.hv_start_low,
                number("HV_START_LOW", content)?,
            ),
            types::L1_MFN_VALID => set_once(
                "L1_MFN_VALID",
                &mut self.l1_mfn_valid,
                mask_values(content)?,
            ),
            types::SUSPEND_CANCEL => set_once(
                "SUSPEND_CANCEL",
                &mut self.suspend_cancel,
                number("SUSPEND_CANCEL", content)? != 0,
            ),
            types::INIT_P2M => set_once(
                "INIT_P2M",
                &mut notes.init_p2m,
                number("INIT_P2M", content)?,
            ),
            types::MOD_START_PFN => set_once(
                "MOD_START_PFN",
                &mut self.mod_start_pfn,
                number("MOD_START_PFN", content)? != 0,
            ),
            types::SUPPORTED_FEATURES => {
                notes.features.add_bits(supported_features(content)?);
                Ok(())
            }
            types::PHYS32_ENTRY => set_once(
                "PHYS32_ENTRY",
                &mut notes.phys32_entry,
                phys32_entry(content)?,
            ),
            types::PHYS32_RELOC => set_once(
                "PHYS32_RELOC",
                &mut notes.phys32_reloc,
                phys32_reloc(content)?,
            ),
            // INFO, and types that later versions of Xen define.
            _ => Ok(()),
        }
    }

    fn finish(self) -> Option<XenNotes> {
        (self.found > 0).then(|| XenNotes {
            bsd_symtab: self.bsd_symtab.unwrap_or_default(),
            suspend_cancel: self.suspend_cancel.unwrap_or_default(),
            mod_start_pfn: self.mod_start_pfn.unwrap_or_default(),
            l1_mfn_valid: self.l1_mfn_valid.unwrap_or_default(),
            ..self.notes
        })
    }
}

/// A second note with the same content changes nothing; one with another is an error.
fn set_once<T: PartialEq + fmt::Debug>(
    note: &'static str,
    slot: &mut Option<T>,
    value: T,
) -> Result<(), Malformed> {
    match slot {
        Some(first) if *first != value => Err(Malformed::ContradictingNotes {
            note,
            first: shown(first),
            second: shown(&value),
        }),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// Formats a value for an error message: numbers in hexadecimal, long strings shortened.
fn shown(value: &impl fmt::Debug) -> String {
    const SHOWN_MAX_CHARS: usize = 80;
    format!("{value:#x?}")
        .chars()
        .take(SHOWN_MAX_CHARS)
        .collect()
}

fn bad_note(note: &'static str, reason: impl Into<String>) -> Malformed {
    Malformed::BadNote {
        note,
        reason: reason.into(),
    }
}

fn number(note: &'static str, content: &[u8]) -> Result<u64, Malformed> {
    let value = match content.len() {
        1 => u8_at(content, 0).map(u64::from),
        2 => u16_at(content, 0).map(u64::from),
        4 => u32_at(content, 0).map(u64::from),
        8 => u64_at(content, 0),
        _ => None,
    };
    value.ok_or_else(|| {
        bad_note(
            note,
            format!("a number has 4 or 8 bytes, not {}", content.len()),
        )
    })
}

/// Up to the first zero byte, or to the content's end if there is none. Control characters are not let through: these
/// strings end up on terminals.
fn text(note: &'static str, content: &[u8]) -> Result<String, Malformed> {
    let len = content
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(content.len());
    let bytes = content.get(..len).unwrap_or_default();
    if len > STRING_MAX_BYTES {
        return Err(bad_note(
            note,
            format!("its string is longer than {STRING_MAX_BYTES} bytes"),
        ));
    }
    if !bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(bad_note(
            note,
            "its string has bytes that are not printable ASCII",
        ));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn pae_mode(text: &str) -> PaeMode {
    // A kernel writes `yes,bimodal` so that Xen 3.0.3 accepts it as PAE.
    if text.contains("bimodal") {
        PaeMode::Bimodal
    } else if text == "yes" {
        PaeMode::ExtendedCr3
    } else {
        PaeMode::No
    }
}

/// Pairs of numbers as wide as a machine address: 8 bytes, or 4 in a 32-bit kernel without PAE.
fn mask_values(content: &[u8]) -> Result<Vec<MaskValue>, Malformed> {
    if content.len() == 8 {
        let pair = u32_at(content, 0).zip(u32_at(content, 4));
        return Ok(pair
            .map(|(mask, value)| MaskValue {
                mask: mask.into(),
                value: value.into(),
            })
            .into_iter()
            .collect());
    }
    if content.is_empty() || !content.len().is_multiple_of(16) {
        return Err(bad_note(
            "L1_MFN_VALID",
            format!("{} bytes are no pairs of numbers", content.len()),
        ));
    }
    let pairs = content.chunks_exact(16);
    Ok(pairs
        .filter_map(|pair| {
            Some(MaskValue {
                mask: u64_at(pair, 0)?,
                value: u64_at(pair, 8)?,
            })
        })
        .collect())
}

/// An array of 32-bit maps, of which Xen has one so far.
fn supported_features(content: &[u8]) -> Result<u32, Malformed> {
    if content.is_empty() || !content.len().is_multiple_of(4) {
        return Err(bad_note(
            "SUPPORTED_FEATURES",
            format!("{} bytes are no array of 32-bit maps", content.len()),
        ));
    }
    Ok(u32_at(content, 0).unwrap_or_default())
}

fn phys32_entry(content: &[u8]) -> Result<u32, Malformed> {
    let entry = number("PHYS32_ENTRY", content)?;
    u32::try_from(entry)
        .map_err(|_| bad_note("PHYS32_ENTRY", format!("{entry:#x} is not below 4 GiB")))
}

fn phys32_reloc(content: &[u8]) -> Result<Phys32Reloc, Malformed> {
    let word = |index: usize| u32_at(content, index * 4);
    let reloc = Phys32Reloc {
        align: word(0),
        min: word(1).unwrap_or(0),
        max: word(2).unwrap_or(u32::MAX),
    };
    if content.len() > 12 || !content.len().is_multiple_of(4) {
        return Err(bad_note(
            "PHYS32_RELOC",
            format!("{} bytes are not up to three 32-bit numbers", content.len()),
        ));
    }
    if reloc.align.is_some_and(|align| !align.is_power_of_two()) {
        return Err(bad_note(
            "PHYS32_RELOC",
            format!("alignment {:#x?} is no power of two", reloc.align),
        ));
    }
    if reloc.min > reloc.max {
        return Err(bad_note(
            "PHYS32_RELOC",
            format!("{:#x} to {:#x} is no range", reloc.min, reloc.max),
        ));
    }
    Ok(reloc)
}
