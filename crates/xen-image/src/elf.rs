//! The parts of ELF that a kernel needs: the header, program headers, and sections, if the notes are only there.
//!
//! Source: the System V ABI, chapters 4 and 5, and its processor supplements for i386 and x86-64.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::error::Malformed;
use crate::source::Source;

/// The width of the image's ELF structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// ELF structures with 32-bit addresses.
    Elf32,
    /// ELF structures with 64-bit addresses.
    Elf64,
}

/// The processor that the image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 32-bit x86 (`EM_386`).
    I386,
    /// 64-bit x86 (`EM_X86_64`).
    X86_64,
}

/// Whether the image may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfKind {
    /// Linked for one place (`ET_EXEC`).
    Exec,
    /// Position-independent (`ET_DYN`). It is nevertheless loaded at the addresses of its program headers.
    Dyn,
}

const MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];
const EHDR32_BYTES: u64 = 52;
const EHDR64_BYTES: u64 = 64;
/// Real kernels have a handful.
const PROGRAM_HEADERS_MAX: u16 = 256;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOTE: u32 = 7;
/// Maximum number of bytes read of a section name. All names that this module searches are shorter.
const SECTION_NAME_MAX_BYTES: u64 = 64;

/// Whether `image` starts like ELF.
pub(crate) fn detect(image: &[u8]) -> bool {
    image.starts_with(&MAGIC)
}

/// An ELF header whose tables are inside the image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) class: Class,
    pub(crate) machine: Machine,
    pub(crate) kind: ElfKind,
    pub(crate) entry: u64,
    program_headers: Table,
    section_headers: Table,
    section_names_index: u16,
}

#[derive(Debug, Clone, Copy)]
struct Table {
    offset: u64,
    count: u16,
}

/// One entry of the program header table, with the file's values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProgramHeader {
    kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) paddr: u64,
    pub(crate) file_size: u64,
    pub(crate) mem_size: u64,
    pub(crate) align: u64,
}

impl ProgramHeader {
    /// A segment with no permission at all is not loaded: Xen's own loader passes it over too.
    pub(crate) fn is_loadable(&self) -> bool {
        self.kind == PT_LOAD && self.flags & 0b111 != 0
    }

    /// Whether this is a note segment. Some linkers left its offset at zero; such a segment is ignored.
    pub(crate) fn is_note(&self) -> bool {
        self.kind == PT_NOTE && self.offset != 0
    }
}

/// One entry of the section header table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SectionHeader {
    name: u32,
    kind: u32,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl SectionHeader {
    pub(crate) fn is_note(&self) -> bool {
        self.kind == SHT_NOTE
    }
}

/// The sizes and field offsets that differ between 32 and 64 bits.
impl Class {
    fn header_bytes(self) -> u64 {
        match self {
            Self::Elf32 => EHDR32_BYTES,
            Self::Elf64 => EHDR64_BYTES,
        }
    }

    fn program_header_bytes(self) -> u16 {
        match self {
            Self::Elf32 => 32,
            Self::Elf64 => 56,
        }
    }

    fn section_header_bytes(self) -> u16 {
        match self {
            Self::Elf32 => 40,
            Self::Elf64 => 64,
        }
    }

    /// A field as wide as an address.
    fn word_at(self, bytes: &[u8], offset: usize) -> Option<u64> {
        match self {
            Self::Elf32 => u32_at(bytes, offset).map(u64::from),
            Self::Elf64 => u64_at(bytes, offset),
        }
    }

    fn program_header(self, bytes: &[u8]) -> Option<ProgramHeader> {
        let [flags, offset, vaddr, paddr, file_size, mem_size, align] = match self {
            Self::Elf32 => [24, 4, 8, 12, 16, 20, 28],
            Self::Elf64 => [4, 8, 16, 24, 32, 40, 48],
        };
        Some(ProgramHeader {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, flags)?,
            offset: self.word_at(bytes, offset)?,
            vaddr: self.word_at(bytes, vaddr)?,
            paddr: self.word_at(bytes, paddr)?,
            file_size: self.word_at(bytes, file_size)?,
            mem_size: self.word_at(bytes, mem_size)?,
            align: self.word_at(bytes, align)?,
        })
    }

    fn section_header(self, bytes: &[u8]) -> Option<SectionHeader> {
        let [offset, size] = match self {
            Self::Elf32 => [16, 20],
            Self::Elf64 => [24, 32],
        };
        Some(SectionHeader {
            name: u32_at(bytes, 0)?,
            kind: u32_at(bytes, 4)?,
            offset: self.word_at(bytes, offset)?,
            size: self.word_at(bytes, size)?,
        })
    }
}

impl Header {
    /// Reads and checks the header, and that both tables are inside the image.
    pub(crate) fn parse(source: &Source) -> Result<Self, Malformed> {
        let ident = source.read_vec("ELF header", 0, EHDR32_BYTES)?;
        let class = class_of(&ident)?;
        let bytes = source.read_vec("ELF header", 0, class.header_bytes())?;
        let header = Self::fields(class, &bytes)?;
        header.check_table(
            "program headers",
            header.program_headers,
            class.program_header_bytes(),
            source,
        )?;
        header.check_table(
            "section headers",
            header.section_headers,
            class.section_header_bytes(),
            source,
        )?;
        Ok(header)
    }

    fn fields(class: Class, bytes: &[u8]) -> Result<Self, Malformed> {
        // Every read below is inside `bytes`, which has the header's full length.
        let half = |offset| u16_at(bytes, offset).unwrap_or_default();
        let word = |offset| class.word_at(bytes, offset).unwrap_or_default();
        let [entry, phoff, shoff] = match class {
            Class::Elf32 => [24, 28, 32],
            Class::Elf64 => [24, 32, 40],
        };
        let [phentsize, phnum, shentsize, shnum, shstrndx] = match class {
            Class::Elf32 => [42, 44, 46, 48, 50],
            Class::Elf64 => [54, 56, 58, 60, 62],
        };
        let header = Self {
            class,
            machine: machine_of(half(18))?,
            kind: kind_of(half(16))?,
            entry: word(entry),
            program_headers: Table {
                offset: word(phoff),
                count: half(phnum),
            },
            section_headers: Table {
                offset: word(shoff),
                count: half(shnum),
            },
            section_names_index: half(shstrndx),
        };
        check_entry_size(
            "e_phentsize",
            half(phentsize),
            class.program_header_bytes(),
            half(phnum),
        )?;
        check_entry_size(
            "e_shentsize",
            half(shentsize),
            class.section_header_bytes(),
            half(shnum),
        )?;
        if half(phnum) > PROGRAM_HEADERS_MAX {
            return Err(bad_header("e_phnum", half(phnum), "at most 256"));
        }
        Ok(header)
    }

    fn check_table(
        &self,
        what: &'static str,
        table: Table,
        entry: u16,
        source: &Source,
    ) -> Result<(), Malformed> {
        let len = u64::from(table.count) * u64::from(entry);
        let image_bytes = source.len();
        if len > 0
            && table
                .offset
                .checked_add(len)
                .is_none_or(|end| end > image_bytes)
        {
            return Err(Malformed::BeyondEnd {
                what,
                offset: table.offset,
                len,
                image_bytes,
            });
        }
        Ok(())
    }

    /// All program headers, in the order of the table.
    pub(crate) fn program_headers(&self, source: &Source) -> Result<Vec<ProgramHeader>, Malformed> {
        let entry = self.class.program_header_bytes();
        let len = u64::from(self.program_headers.count) * u64::from(entry);
        let table = source.read_vec("program headers", self.program_headers.offset, len)?;
        Ok(table
            .chunks_exact(usize::from(entry))
            .filter_map(|bytes| self.class.program_header(bytes))
            .collect())
    }

    /// All section headers, in the order of the table.
    pub(crate) fn section_headers(&self, source: &Source) -> Result<Vec<SectionHeader>, Malformed> {
        let entry = self.class.section_header_bytes();
        let len = u64::from(self.section_headers.count) * u64::from(entry);
        let table = source.read_vec("section headers", self.section_headers.offset, len)?;
        Ok(table
            .chunks_exact(usize::from(entry))
            .filter_map(|bytes| self.class.section_header(bytes))
            .collect())
    }

    /// The first section with this name, if the image has names and one of them is it.
    pub(crate) fn section_by_name(
        &self,
        sections: &[SectionHeader],
        name: &str,
        source: &Source,
    ) -> Result<Option<SectionHeader>, Malformed> {
        let Some(names) = sections.get(usize::from(self.section_names_index)) else {
            return Ok(None);
        };
        for section in sections {
            if section_has_name(section, name, names, source)? {
                return Ok(Some(*section));
            }
        }
        Ok(None)
    }
}

/// Whether a section has this name. A name outside its table does not match and is no error, because loading needs no
/// section names.
fn section_has_name(
    section: &SectionHeader,
    name: &str,
    names: &SectionHeader,
    source: &Source,
) -> Result<bool, Malformed> {
    let with_end = name.len() as u64 + 1;
    let inside = u64::from(section.name).saturating_add(with_end) <= names.size;
    let offset = names.offset.checked_add(u64::from(section.name));
    match offset {
        Some(offset)
            if inside
                && offset.saturating_add(with_end) <= source.len()
                && with_end <= SECTION_NAME_MAX_BYTES =>
        {
            let found = source.read_vec("section name", offset, with_end)?;
            Ok(found.strip_suffix(&[0]) == Some(name.as_bytes()))
        }
        _ => Ok(false),
    }
}

fn class_of(ident: &[u8]) -> Result<Class, Malformed> {
    let byte = |offset| u8_at(ident, offset).unwrap_or_default();
    if !detect(ident) {
        return Err(bad_header("EI_MAG", byte(0), "0x7f, then `ELF`"));
    }
    if byte(5) != 1 {
        return Err(bad_header("EI_DATA", byte(5), "1 (little endian)"));
    }
    if byte(6) != 1 {
        return Err(bad_header("EI_VERSION", byte(6), "1"));
    }
    match byte(4) {
        1 => Ok(Class::Elf32),
        2 => Ok(Class::Elf64),
        other => Err(bad_header("EI_CLASS", other, "1 (32-bit) or 2 (64-bit)")),
    }
}

fn machine_of(value: u16) -> Result<Machine, Malformed> {
    match value {
        3 => Ok(Machine::I386),
        62 => Ok(Machine::X86_64),
        other => Err(bad_header("e_machine", other, "3 (i386) or 0x3e (x86-64)")),
    }
}

fn kind_of(value: u16) -> Result<ElfKind, Malformed> {
    match value {
        2 => Ok(ElfKind::Exec),
        3 => Ok(ElfKind::Dyn),
        other => Err(bad_header(
            "e_type",
            other,
            "2 (executable) or 3 (position-independent)",
        )),
    }
}

fn check_entry_size(
    field: &'static str,
    value: u16,
    wanted: u16,
    count: u16,
) -> Result<(), Malformed> {
    if count > 0 && value != wanted {
        return Err(bad_header(
            field,
            value,
            "the size that the ELF class fixes",
        ));
    }
    Ok(())
}

fn bad_header(field: &'static str, value: impl Into<u64>, expected: &'static str) -> Malformed {
    Malformed::BadElfHeader {
        field,
        value: value.into(),
        expected,
    }
}
