//! The file of a domain's core: an ELF file of sections, as Xen's tools write and read it.
//!
//! Facts: `docs/misc/dump-core-format.txt` and `xen/include/public/elfnote.h` in Xen; the System V ABI for ELF. The
//! order of the sections, and what stands in them, is that of Xen's own tools; what they are called is what readers
//! such as crash(8) look for.

use xen_port::{PAGE_SIZE, VersionInfo};

/// Bytes of ELF's header, and of the header of a section.
const ELF_HEADER_BYTES: usize = 64;
const SECTION_HEADER_BYTES: usize = 64;
/// Bytes of a note before what it says: three numbers and the name.
const NOTE_HEADER_BYTES: usize = 16;
const NOTE_NAME: [u8; 4] = *b"Xen\0";
/// Types of the ELF notes in a core (`XEN_ELFNOTE_DUMPCORE_*`).
const NOTE_NONE: u32 = 0x200_0000;
const NOTE_HEADER: u32 = 0x200_0001;
const NOTE_XEN_VERSION: u32 = 0x200_0002;
const NOTE_FORMAT_VERSION: u32 = 0x200_0003;
/// Magic numbers of the note with the core's header: for a PV domain, and for a domain with hardware virtualisation.
const MAGIC_PV: u64 = 0xf00f_ebed;
const MAGIC_HVM: u64 = 0xf00f_ebee;
/// The format's version: 0.1.
const FORMAT_VERSION: u64 = 1;
/// An entry of the table of pages without a page.
pub(super) const NO_PAGE: Page = (u64::MAX, u64::MAX);

/// Kinds of sections.
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;

/// Values of the ELF header's machine field.
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// A page: the domain's own number of it, and the frame by which it was mapped.
pub(super) type Page = (u64, u64);

/// Contents of a core besides the pages.
pub(super) struct Core<'c> {
    /// Version of Xen, for the note.
    pub version: &'c VersionInfo,
    /// Whether the domain's own page numbers are the frame numbers that Xen maps. This is so for each guest type but
    /// PV.
    pub is_translated: bool,
    /// Whether the kernel is a bare 32-bit PV one.
    pub is_pv32: bool,
    /// Registers of each vCPU, all of one size.
    pub vcpus: &'c [Vec<u8>],
    /// The shared-info page, where there is one.
    pub shared_info: Option<&'c [u8]>,
    /// Number of pages in the file.
    pub nr_pages: u64,
}

struct Section {
    name: &'static str,
    kind: u32,
    size: u64,
    align: u64,
    entry_size: u64,
}

impl Section {
    fn new(name: &'static str, kind: u32, size: u64) -> Section {
        Section {
            name,
            kind,
            size,
            align: 0,
            entry_size: 0,
        }
    }

    fn of_entries(name: &'static str, count: u64, entry_size: u64, align: u64) -> Section {
        Section {
            name,
            kind: SHT_PROGBITS,
            size: count.saturating_mul(entry_size),
            align,
            entry_size,
        }
    }
}

impl Core<'_> {
    /// The bytes before the first page, filled up to a whole number of pages.
    pub fn head(&self) -> Vec<u8> {
        let notes = self.notes();
        let sections = self.sections(notes.len() as u64);
        let mut head = elf_header(self.machine(), sections.len() as u16 + 1);
        head.extend([0; SECTION_HEADER_BYTES]);
        for (section, (offset, name)) in sections.iter().zip(self.places(&sections)) {
            section_header(&mut head, section, offset, name);
        }
        head.extend(notes);
        self.vcpus.iter().for_each(|vcpu| head.extend(vcpu));
        head.extend(self.shared_info.unwrap_or_default());
        head.resize(head.len().next_multiple_of(PAGE_SIZE), 0);
        head
    }

    /// The guest's, whatever the host is; the file is a 64-bit one all the same.
    fn machine(&self) -> u16 {
        match self.is_pv32 {
            true => EM_386,
            false => EM_X86_64,
        }
    }

    /// Entries of the table that follows the last page, for some of the pages.
    pub fn entries(&self, pages: &[Page]) -> Vec<u8> {
        let mut entries = Vec::with_capacity(size_of_val(pages));
        for (number, frame) in pages {
            entries.extend(number.to_le_bytes());
            if !self.is_translated {
                entries.extend(frame.to_le_bytes());
            }
        }
        entries
    }

    /// The bytes that follow the table: the names of the sections.
    pub fn end(&self) -> Vec<u8> {
        names(&self.sections(0))
    }

    /// The file's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        let entry = match self.is_translated {
            true => size_of::<u64>(),
            false => size_of::<Page>(),
        };
        let each = (PAGE_SIZE + entry) as u64;
        let pages = self.nr_pages.saturating_mul(each);
        pages.saturating_add((self.head().len() + self.end().len()) as u64)
    }

    /// The sections but for the first, which is nothing.
    fn sections(&self, notes_bytes: u64) -> Vec<Section> {
        let word = size_of::<u64>() as u64;
        let page = PAGE_SIZE as u64;
        let vcpu_bytes = self.vcpus.first().map_or(0, Vec::len) as u64;
        let mut sections = vec![
            Section::new(".shstrtab", SHT_STRTAB, 0),
            Section::new(".note.Xen", SHT_NOTE, notes_bytes),
            Section::of_entries(".xen_prstatus", self.vcpus.len() as u64, vcpu_bytes, word),
        ];
        if let Some(shared_info) = self.shared_info {
            let size = shared_info.len() as u64;
            sections.push(Section::of_entries(".xen_shared_info", 1, size, word));
        }
        let pages = Section::of_entries(".xen_pages", self.nr_pages, page, page);
        sections.push(pages);
        sections.push(match self.is_translated {
            true => Section::of_entries(".xen_pfn", self.nr_pages, word, word),
            false => Section::of_entries(".xen_p2m", self.nr_pages, 2 * word, word),
        });
        let names_bytes = names(&sections).len() as u64;
        if let Some(strings) = sections.first_mut() {
            strings.size = names_bytes;
        }
        sections
    }

    /// Offset of each section in the file, and of its name among the names. The sections lie in their order, except
    /// that the names are last.
    fn places(&self, sections: &[Section]) -> Vec<(u64, u32)> {
        let headers = ELF_HEADER_BYTES + (sections.len() + 1) * SECTION_HEADER_BYTES;
        let (mut offset, mut name) = (headers as u64, 1);
        let mut places = Vec::new();
        for section in sections {
            if section.name == ".xen_pages" {
                offset = offset.next_multiple_of(PAGE_SIZE as u64);
            }
            places.push((offset, name));
            name += section.name.len() as u32 + 1;
            if section.kind != SHT_STRTAB {
                offset = offset.saturating_add(section.size);
            }
        }
        if let Some(strings) = places.first_mut() {
            strings.0 = offset;
        }
        places
    }

    fn notes(&self) -> Vec<u8> {
        let magic = match self.is_translated {
            true => MAGIC_HVM,
            false => MAGIC_PV,
        };
        let header = [
            magic,
            self.vcpus.len() as u64,
            self.nr_pages,
            PAGE_SIZE as u64,
        ];
        let header: Vec<u8> = header.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut notes = Vec::new();
        note(&mut notes, NOTE_NONE, &[]);
        note(&mut notes, NOTE_HEADER, &header);
        note(&mut notes, NOTE_XEN_VERSION, &self.xen_version());
        note(
            &mut notes,
            NOTE_FORMAT_VERSION,
            &FORMAT_VERSION.to_le_bytes(),
        );
        notes
    }

    /// Xen's version, in the fields of `struct xen_dumpcore_elfnote_xen_version_desc`.
    fn xen_version(&self) -> Vec<u8> {
        let version = self.version;
        let mut bytes = Vec::new();
        bytes.extend(u64::from(version.major).to_le_bytes());
        bytes.extend(u64::from(version.minor).to_le_bytes());
        for (text, length) in [
            (&version.extra, 16),
            (&version.compiler, 64),
            (&version.compile_by, 16),
            (&version.compile_domain, 32),
            (&version.compile_date, 32),
            (&version.capabilities, 1024),
            (&version.changeset, 64),
        ] {
            let end = bytes.len() + length;
            // The last byte is a NUL.
            bytes.extend(text.bytes().take(length - 1));
            bytes.resize(end, 0);
        }
        let page_size_bytes = u64::from(version.page_size_bytes).to_le_bytes();
        if self.is_pv32 {
            // An address of such a guest has four bytes, and the note is no shorter for that.
            bytes.extend((version.virt_start as u32).to_le_bytes());
            bytes.extend(page_size_bytes);
            bytes.extend([0; 4]);
        } else {
            bytes.extend(version.virt_start.to_le_bytes());
            bytes.extend(page_size_bytes);
        }
        bytes
    }
}

/// Each note's length is a multiple of 4, so none is padded.
fn note(notes: &mut Vec<u8>, kind: u32, says: &[u8]) {
    notes.reserve(NOTE_HEADER_BYTES + says.len());
    for number in [NOTE_NAME.len() as u32, says.len() as u32, kind] {
        notes.extend(number.to_le_bytes());
    }
    notes.extend(NOTE_NAME);
    notes.extend(says);
}

/// The header of a 64-bit little-endian core, whose section headers follow at once, the first but one of which is that of
/// the names.
fn elf_header(machine: u16, nr_sections: u16) -> Vec<u8> {
    const ET_CORE: u16 = 4;
    const PROGRAM_HEADER_BYTES: u16 = 56;
    let mut header = Vec::from(*b"\x7fELF");
    // 64 bits, little endian, version 1, System V and its version.
    header.extend([2, 1, 1, 0, 1]);
    header.resize(16, 0);
    header.extend(ET_CORE.to_le_bytes());
    header.extend(machine.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    for address in [0, 0, ELF_HEADER_BYTES as u64] {
        header.extend(address.to_le_bytes());
    }
    header.extend(0_u32.to_le_bytes());
    for number in [
        ELF_HEADER_BYTES as u16,
        PROGRAM_HEADER_BYTES,
        0,
        SECTION_HEADER_BYTES as u16,
        nr_sections,
        1,
    ] {
        header.extend(number.to_le_bytes());
    }
    header
}

fn section_header(head: &mut Vec<u8>, section: &Section, offset: u64, name: u32) {
    head.extend(name.to_le_bytes());
    head.extend(section.kind.to_le_bytes());
    for number in [0, 0, offset, section.size] {
        head.extend(number.to_le_bytes());
    }
    head.extend([0; 8]);
    head.extend(section.align.to_le_bytes());
    head.extend(section.entry_size.to_le_bytes());
}

/// The names of the sections, each with a NUL behind it, and one before the first.
fn names(sections: &[Section]) -> Vec<u8> {
    let mut names = vec![0];
    for section in sections {
        names.extend(section.name.bytes());
        names.push(0);
    }
    names
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A core that was read back, by section.
    pub struct ReadBack {
        pub sections: Vec<(String, u64, Vec<u8>)>,
        pub notes: Vec<(u32, Vec<u8>)>,
    }

    impl ReadBack {
        pub fn section(&self, name: &str) -> &[u8] {
            let found = self.sections.iter().find(|(known, _, _)| known == name);
            &found.unwrap_or_else(|| panic!("no {name}")).2
        }

        pub fn numbers(&self, name: &str) -> Vec<u64> {
            numbers(self.section(name))
        }
    }

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        let mut eight = [0; 8];
        eight[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(eight)
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        bytes
            .chunks_exact(8)
            .map(|word| number(word, 0, 8))
            .collect()
    }

    /// Reads a core as its specification says, by offsets written down a second time.
    pub fn read_back(file: &[u8]) -> ReadBack {
        assert_eq!(&file[..10], b"\x7fELF\x02\x01\x01\x00\x01\x00");
        assert_eq!(number(file, 16, 2), 4);
        let (start, size) = (number(file, 40, 8) as usize, number(file, 58, 2) as usize);
        let (count, of_names) = (number(file, 60, 2) as usize, number(file, 62, 2) as usize);
        assert_eq!((number(file, 56, 2), size), (0, 64));
        let header = |index: usize| &file[start + index * size..][..size];
        let contents = |index: usize| {
            let (offset, length) = (number(header(index), 24, 8), number(header(index), 32, 8));
            &file[offset as usize..][..length as usize]
        };
        assert_eq!(header(0), [0; 64]);
        let names = contents(of_names);
        let mut end = 0;
        let sections: Vec<(String, u64, Vec<u8>)> = (1..count)
            .map(|index| {
                let name = &names[number(header(index), 0, 4) as usize..];
                let name = name.split(|byte| *byte == 0).next().unwrap();
                let offset = number(header(index), 24, 8);
                let align = number(header(index), 48, 8);
                assert!(align == 0 || align == 8 || offset.is_multiple_of(align));
                end = end.max(offset as usize + contents(index).len());
                let name = String::from_utf8(name.to_vec()).unwrap();
                (name, offset, contents(index).to_vec())
            })
            .collect();
        assert_eq!(end, file.len());
        let of_notes = sections.iter().find(|(name, _, _)| name == ".note.Xen");
        let mut rest = of_notes.unwrap().2.as_slice();
        let mut notes = Vec::new();
        while !rest.is_empty() {
            assert_eq!(
                (number(rest, 0, 4), &rest[12..16]),
                (4, b"Xen\0".as_slice())
            );
            let length = number(rest, 4, 4) as usize;
            notes.push((number(rest, 8, 4) as u32, rest[16..16 + length].to_vec()));
            rest = &rest[16 + length..];
        }
        ReadBack { sections, notes }
    }

    pub fn version() -> VersionInfo {
        VersionInfo {
            major: 4,
            minor: 17,
            extra: ".7-much-longer-than-fits".to_owned(),
            compiler: "cc".to_owned(),
            compile_by: "me".to_owned(),
            compile_domain: "here".to_owned(),
            compile_date: "now".to_owned(),
            capabilities: "xen-3.0-x86_64 ".to_owned(),
            changeset: "c".to_owned(),
            command_line: String::new(),
            build_id: String::new(),
            page_size_bytes: 4096,
            virt_start: 0xffff_8000_0000_0000,
        }
    }

    fn whole(core: &Core<'_>, pages: &[Page]) -> Vec<u8> {
        let mut file = core.head();
        (0..core.nr_pages).for_each(|page| file.extend([page as u8; PAGE_SIZE]));
        file.extend(core.entries(pages));
        file.extend(core.end());
        assert_eq!(file.len() as u64, core.size_bytes());
        file
    }

    #[test]
    fn a_pv_domains_core_is_as_specified() {
        let (version, vcpus) = (version(), vec![vec![1; 5168], vec![2; 5168]]);
        let shared_info = vec![9; PAGE_SIZE];
        let core = Core {
            version: &version,
            is_translated: false,
            is_pv32: false,
            vcpus: &vcpus,
            shared_info: Some(&shared_info),
            nr_pages: 3,
        };
        let read = read_back(&whole(&core, &[(0, 70), (5, 60), NO_PAGE]));
        let names: Vec<&str> = read
            .sections
            .iter()
            .map(|(name, _, _)| name.as_str())
            .collect();
        let all = ".shstrtab .note.Xen .xen_prstatus .xen_shared_info .xen_pages .xen_p2m";
        assert_eq!(names.join(" "), all);
        assert_eq!(read.section(".xen_prstatus"), vcpus.concat());
        assert_eq!(read.section(".xen_shared_info"), shared_info);
        assert_eq!(read.section(".xen_pages")[2 * PAGE_SIZE..][..2], [2, 2]);
        assert_eq!(read.numbers(".xen_p2m"), [0, 70, 5, 60, u64::MAX, u64::MAX]);
        let kinds: Vec<u32> = read.notes.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x200_0000, 0x200_0001, 0x200_0002, 0x200_0003]);
        assert_eq!(numbers(&read.notes[1].1), [0xf00f_ebed, 2, 3, 4096]);
        assert_eq!(numbers(&read.notes[3].1), [1]);
        let says = &read.notes[2].1;
        assert_eq!((says.len(), numbers(&says[..16])), (1280, vec![4, 17]));
        assert_eq!(&says[16..32], b".7-much-longer-\0");
        assert_eq!(&says[32..35], b"cc\0");
        assert_eq!(&says[176..192], b"xen-3.0-x86_64 \0");
        assert_eq!(numbers(&says[1264..]), [0xffff_8000_0000_0000, 4096]);
    }

    /// The format's specification (`docs/misc/dump-core-format.txt`), and `elfnote_dump_xen_version` in `xg_core.c`.
    #[test]
    fn a_bare_32_bit_domains_core_is_one_of_its_machine() {
        let (version, vcpus) = (version(), vec![vec![1; 2800]]);
        let mut core = Core {
            version: &version,
            is_translated: false,
            is_pv32: true,
            vcpus: &vcpus,
            shared_info: None,
            nr_pages: 1,
        };
        let file = whole(&core, &[(0, 70)]);
        assert_eq!(number(&file, 18, 2), 3);
        let read = read_back(&file);
        let says = &read.notes[2].1;
        assert_eq!((says.len(), number(says, 1268, 8)), (1280, 4096));
        core.is_pv32 = false;
        assert_eq!(number(&whole(&core, &[(0, 70)]), 18, 2), 62);
    }

    #[test]
    fn a_translated_domains_core_has_its_own_numbers_alone() {
        let (version, vcpus) = (version(), vec![vec![1; 5168]]);
        let core = Core {
            version: &version,
            is_translated: true,
            is_pv32: false,
            vcpus: &vcpus,
            shared_info: None,
            nr_pages: 2,
        };
        let read = read_back(&whole(&core, &[(3, 3), (0xfefff, 0xfefff)]));
        assert_eq!(read.sections.len(), 5);
        assert_eq!(read.numbers(".xen_pfn"), [3, 0xfefff]);
        assert_eq!(numbers(&read.notes[1].1)[0], 0xf00f_ebee);
    }
}
