//! Kernels made for the tests: ELF, notes, bzImage, and every compression.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::Write;

use xen_image::Compression;
use xen_image::elfnote::types;

pub const PT_LOAD: u32 = 1;
pub const PT_NOTE: u32 = 4;
pub const SHT_NOTE: u32 = 7;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    B32,
    B64,
}

#[derive(Clone)]
pub struct Phdr {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub file_size: u64,
    pub mem_size: u64,
    pub align: u64,
}

#[derive(Clone)]
pub struct Section {
    pub name: &'static str,
    pub kind: u32,
    pub content: Vec<u8>,
}

/// An ELF image in the making. Layout: header, program headers, blobs, section contents, section headers.
#[derive(Clone)]
pub struct Elf {
    pub bits: Bits,
    pub machine: u16,
    pub kind: u16,
    pub entry: u64,
    pub phdrs: Vec<Phdr>,
    pub sections: Vec<Section>,
    blobs: Vec<u8>,
}

const PHDR_ROOM: usize = 8 * 56;

impl Elf {
    pub fn new(bits: Bits) -> Self {
        let machine = if bits == Bits::B64 { 62 } else { 3 };
        Self {
            bits,
            machine,
            kind: 2,
            entry: 0,
            phdrs: Vec::new(),
            sections: Vec::new(),
            blobs: Vec::new(),
        }
    }

    fn header_bytes(&self) -> usize {
        if self.bits == Bits::B64 { 64 } else { 52 }
    }

    fn blob(&mut self, content: &[u8]) -> u64 {
        let offset = self.header_bytes() + PHDR_ROOM + self.blobs.len();
        self.blobs.extend(content);
        offset as u64
    }

    pub fn load(mut self, paddr: u64, vaddr: u64, content: &[u8], mem_size: u64) -> Self {
        let offset = self.blob(content);
        self.phdrs.push(Phdr {
            kind: PT_LOAD,
            flags: 5,
            offset,
            vaddr,
            paddr,
            file_size: content.len() as u64,
            mem_size,
            align: 4096,
        });
        self
    }

    pub fn note_segment(mut self, notes: &[u8]) -> Self {
        let offset = self.blob(notes);
        let file_size = notes.len() as u64;
        self.phdrs.push(Phdr {
            kind: PT_NOTE,
            flags: 4,
            offset,
            vaddr: 0,
            paddr: 0,
            file_size,
            mem_size: file_size,
            align: 4,
        });
        self
    }

    pub fn section(mut self, name: &'static str, kind: u32, content: &[u8]) -> Self {
        self.sections.push(Section {
            name,
            kind,
            content: content.to_vec(),
        });
        self
    }

    pub fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut names = vec![0];
        let mut section_at = Vec::new();
        let mut out = vec![0; self.header_bytes() + PHDR_ROOM];
        out.extend(&self.blobs);
        let mut sections = self.sections.clone();
        if !sections.is_empty() {
            sections.insert(
                0,
                Section {
                    name: "",
                    kind: 0,
                    content: Vec::new(),
                },
            );
            sections.push(Section {
                name: ".shstrtab",
                kind: 3,
                content: Vec::new(),
            });
        }
        let mut name_at = Vec::new();
        for section in &sections {
            name_at.push(names.len() as u32);
            names.extend(section.name.as_bytes());
            names.push(0);
        }
        if let Some(last) = sections.last_mut() {
            last.content = names;
        }
        for section in &sections {
            section_at.push(out.len() as u64);
            out.extend(&section.content);
        }
        let shoff = if sections.is_empty() {
            0
        } else {
            out.len() as u64
        };
        for (index, section) in sections.iter().enumerate() {
            self.section_header(&mut out, name_at[index], section, section_at[index]);
        }
        let header = self.elf_header(shoff, sections.len() as u16);
        out[..header.len()].copy_from_slice(&header);
        let table: Vec<u8> = self
            .phdrs
            .iter()
            .flat_map(|phdr| self.program_header(phdr))
            .collect();
        out[header.len()..header.len() + table.len()].copy_from_slice(&table);
        out
    }

    fn word(&self, value: u64) -> Vec<u8> {
        if self.bits == Bits::B64 {
            value.to_le_bytes().to_vec()
        } else {
            (value as u32).to_le_bytes().to_vec()
        }
    }

    fn elf_header(&self, shoff: u64, shnum: u16) -> Vec<u8> {
        let (class, phentsize, shentsize) = if self.bits == Bits::B64 {
            (2, 56u16, 64u16)
        } else {
            (1, 32, 40)
        };
        let mut out = vec![
            0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        out.extend(self.kind.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(self.word(self.entry));
        out.extend(self.word(self.header_bytes() as u64));
        out.extend(self.word(shoff));
        out.extend(0u32.to_le_bytes());
        let shstrndx = shnum.saturating_sub(1);
        for half in [
            self.header_bytes() as u16,
            phentsize,
            self.phdrs.len() as u16,
            shentsize,
            shnum,
            shstrndx,
        ] {
            out.extend(half.to_le_bytes());
        }
        out
    }

    fn program_header(&self, phdr: &Phdr) -> Vec<u8> {
        let mut out = phdr.kind.to_le_bytes().to_vec();
        if self.bits == Bits::B64 {
            out.extend(phdr.flags.to_le_bytes());
        }
        for value in [
            phdr.offset,
            phdr.vaddr,
            phdr.paddr,
            phdr.file_size,
            phdr.mem_size,
        ] {
            out.extend(self.word(value));
        }
        if self.bits == Bits::B32 {
            out.extend(phdr.flags.to_le_bytes());
        }
        out.extend(self.word(phdr.align));
        out
    }

    fn section_header(&self, out: &mut Vec<u8>, name: u32, section: &Section, offset: u64) {
        out.extend(name.to_le_bytes());
        out.extend(section.kind.to_le_bytes());
        out.extend(self.word(0));
        out.extend(self.word(0));
        out.extend(self.word(offset));
        out.extend(self.word(section.content.len() as u64));
        out.extend(0u32.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(self.word(1));
        out.extend(self.word(0));
    }
}

/// One note.
pub fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((name.len() as u32).to_le_bytes());
    out.extend((content.len() as u32).to_le_bytes());
    out.extend(kind.to_le_bytes());
    for part in [name, content] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// Xen notes in the making.
#[derive(Clone, Default)]
pub struct Notes(pub Vec<u8>);

impl Notes {
    pub fn raw(mut self, kind: u32, content: &[u8]) -> Self {
        self.0.extend(note(b"Xen\0", kind, content));
        self
    }

    pub fn text(self, kind: u32, text: &str) -> Self {
        self.raw(kind, format!("{text}\0").as_bytes())
    }

    pub fn quad(self, kind: u32, value: u64) -> Self {
        self.raw(kind, &value.to_le_bytes())
    }

    pub fn long(self, kind: u32, value: u32) -> Self {
        self.raw(kind, &value.to_le_bytes())
    }
}

pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
pub const PADDR: u64 = 0x100_0000;

pub fn pv_notes() -> Notes {
    Notes::default()
        .text(types::GUEST_OS, "linux")
        .text(types::GUEST_VERSION, "2.6")
        .text(types::XEN_VERSION, "xen-3.0")
        .text(types::LOADER, "generic")
}

/// What a 64-bit Linux says.
pub fn pv64_notes() -> Notes {
    pv_notes()
        .quad(types::VIRT_BASE, VIRT_BASE)
        .quad(types::ENTRY, VIRT_BASE + PADDR + 0x10)
        .quad(types::HYPERCALL_PAGE, VIRT_BASE + PADDR + 0x1000)
        .quad(types::INIT_P2M, 0x80_0000_0000)
        .text(types::FEATURES, "!writable_page_tables|pae_pgdir_above_4gb")
        .long(types::SUPPORTED_FEATURES, 0x801)
        .text(types::PAE_MODE, "yes")
        .raw(
            types::L1_MFN_VALID,
            &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        )
        .long(types::MOD_START_PFN, 1)
        .quad(types::HV_START_LOW, 0xffff_8000_0000_0000)
        .quad(types::PADDR_OFFSET, 0)
        .long(types::SUSPEND_CANCEL, 1)
}

pub fn linux_notes() -> Notes {
    pv64_notes().quad(types::PHYS32_ENTRY, PADDR + 0x20)
}

/// A kernel of two segments with these notes in a segment of their own.
pub fn kernel64(notes: &Notes) -> Elf {
    Elf::new(Bits::B64)
        .load(
            PADDR,
            VIRT_BASE + PADDR,
            b"the first segment's bytes",
            0x2000,
        )
        .load(
            PADDR + 0x2000,
            VIRT_BASE + PADDR + 0x2000,
            b"and the second's",
            0x800,
        )
        .note_segment(&notes.0)
        .change(|elf| elf.entry = VIRT_BASE + PADDR)
}

/// A small kernel that can be PV and PVH, with a section table at its end.
pub fn linux() -> Vec<u8> {
    kernel64(&linux_notes()).section(".bss", 8, b"").build()
}

/// A kernel of the bytes of [`linux`] with `padding` more in a segment: something worth packing.
pub fn padded_linux(padding: usize) -> Vec<u8> {
    let content: Vec<u8> = (0..padding)
        .map(|index| (index / 7 * 31 % 251) as u8)
        .collect();
    kernel64(&linux_notes())
        .load(0x200_0000, 0, &content, padding as u64)
        .section(".bss", 8, b"")
        .build()
}

pub const ALL: [Compression; 8] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Xz,
    Compression::Lzma,
    Compression::Lzo,
    Compression::Lz4Legacy,
    Compression::Lz4Frame,
    Compression::Zstd,
];

pub fn pack(format: Compression, bytes: &[u8]) -> Vec<u8> {
    match format {
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => pack_xz(bytes),
        Compression::Lzma => pack_lzma(bytes),
        Compression::Lzo => pack_lzo(bytes),
        Compression::Lz4Legacy => pack_lz4_legacy(bytes),
        Compression::Lz4Frame => {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
    }
}

/// The dictionary of the xz and lzma made here; small, for the encoder's tables grow with it.
pub const LZMA_WINDOW_BYTES: u32 = 512 << 10;

/// As Linux packs: with the x86 filter.
fn pack_xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = LZMA_WINDOW_BYTES;
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn pack_lzma(bytes: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::LzmaOptions::with_preset(0);
    options.dict_size = LZMA_WINDOW_BYTES;
    let mut writer =
        lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, Some(bytes.len() as u64))
            .unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// lzop's framing, as `lzop -9` fills it: one checksum of the unpacked bytes in each block.
pub fn pack_lzo(bytes: &[u8]) -> Vec<u8> {
    let mut out = lzo_header(0x0300_0001);
    for block in bytes.chunks(256 << 10) {
        let mut packed = lzokay::compress::compress(block).unwrap();
        if packed.len() >= block.len() {
            packed = block.to_vec();
        }
        out.extend((block.len() as u32).to_be_bytes());
        out.extend((packed.len() as u32).to_be_bytes());
        out.extend([0; 4]);
        out.extend(packed);
    }
    out.extend([0; 4]);
    out
}

pub fn lzo_header(flags: u32) -> Vec<u8> {
    let mut out = vec![0x89, b'L', b'Z', b'O', 0x00, 0x0d, 0x0a, 0x1a, 0x0a];
    out.extend([0x10, 0x40, 0x20, 0xa0, 0x09, 0x40, 3, 9]);
    out.extend(flags.to_be_bytes());
    out.extend([0; 12]);
    out.extend([6]);
    out.extend(b"kernel");
    out.extend([0; 4]);
    out
}

pub const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

pub fn pack_lz4_legacy(bytes: &[u8]) -> Vec<u8> {
    let mut out = LZ4_LEGACY_MAGIC.to_vec();
    for chunk in bytes.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(chunk);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out
}

/// A bzImage of boot protocol 2.15 around a payload.
pub fn bzimage_around(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: usize = 2;
    const PAYLOAD_OFFSET: usize = 0x40;
    let start = (SETUP_SECTORS + 1) * 512 + PAYLOAD_OFFSET;
    let mut out = vec![0; start];
    out[..2].copy_from_slice(b"MZ");
    out[0x1f1] = SETUP_SECTORS as u8;
    out[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    out[0x248..0x24c].copy_from_slice(&(PAYLOAD_OFFSET as u32).to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend(payload);
    out.extend(b"what follows the payload");
    out
}

/// A bzImage with its kernel packed as Linux does: with the kernel's size behind it, except after gzip.
pub fn bzimage(format: Compression, kernel: &[u8]) -> Vec<u8> {
    let mut payload = pack(format, kernel);
    if format != Compression::Gzip {
        payload.extend((kernel.len() as u32).to_le_bytes());
    }
    bzimage_around(&payload)
}
