//! A parsed kernel: its segments and notes, and its requirements as a PV or PVH guest, or as HVM firmware.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::elf::{self, Class, ElfKind, Header, Machine, ProgramHeader};
use crate::elfnote::{NotesFrom, PaeMode, Phys32Reloc, XenNotes};
use crate::error::{Error, Malformed};
use crate::features::{Feature, Features};
use crate::limits::Limits;
use crate::load::Origin;
use crate::source::Source;

const PAGE_BYTES: u64 = 4096;
const FOUR_GIB: u64 = 1 << 32;
/// The largest alignment that a segment may ask for: a page of 1 GiB.
const ALIGN_MAX_BYTES: u64 = 1 << 30;
/// The virtual addresses that Xen keeps for itself in every 64-bit PV guest: slots 256 to 271 of the top-level table
/// (`HYPERVISOR_VIRT_START` and `_END` in `xen/include/public/arch-x86/xen-x86_64.h`).
const HYPERVISOR_VIRT: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// The virtual addresses that no processor with four-level page tables has.
const NON_CANONICAL: Range<u64> = 0x0000_8000_0000_0000..0xffff_8000_0000_0000;

/// A part of the image for the guest's memory. It was checked: its bytes are inside the image, its size in the file
/// is at most that in memory, its addresses do not overflow, and it overlaps no other segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Index in the program header table, from 0.
    pub index: usize,
    /// Physical address in its header, in bytes. PV uses it as [`PvKernel::segment_paddr`] describes.
    pub paddr: u64,
    /// The virtual address in its header. PV does not go by it; it is here for diagnostics.
    pub vaddr: u64,
    /// Size in memory in bytes, at least 1. Bytes beyond `file_size` are zero.
    pub mem_size: u64,
    /// Offset of its bytes in the image.
    pub file_offset: u64,
    /// Size in the image in bytes.
    pub file_size: u64,
    /// `PF_X` (1), `PF_W` (2), `PF_R` (4).
    pub flags: u32,
    /// The alignment it asks for, a power of two, in bytes; 1 if it asks for none.
    pub align: u64,
}

impl Segment {
    /// End of the segment in memory, by the physical address of its header. Exclusive.
    #[must_use]
    pub fn paddr_end(&self) -> u64 {
        self.paddr.saturating_add(self.mem_size)
    }

    fn parse(index: usize, header: &ProgramHeader, image_bytes: u64) -> Result<Self, Malformed> {
        let bad = |reason: String| Malformed::BadSegment { index, reason };
        let ProgramHeader {
            flags,
            offset,
            vaddr,
            paddr,
            file_size,
            mem_size,
            align,
            ..
        } = *header;
        if file_size > mem_size {
            return Err(bad(format!(
                "{file_size} bytes in the file are more than {mem_size} in memory"
            )));
        }
        if offset
            .checked_add(file_size)
            .is_none_or(|end| end > image_bytes)
        {
            return Err(Malformed::BeyondEnd {
                what: "segment",
                offset,
                len: file_size,
                image_bytes,
            });
        }
        if paddr.checked_add(mem_size).is_none() {
            return Err(bad(format!(
                "{mem_size:#x} bytes at address {paddr:#x} run over the end of memory"
            )));
        }
        let align = align.max(1);
        if !align.is_power_of_two() || align > ALIGN_MAX_BYTES {
            return Err(bad(format!(
                "an alignment of {align:#x} is not a power of two up to {ALIGN_MAX_BYTES:#x}"
            )));
        }
        Ok(Self {
            index,
            paddr,
            vaddr,
            mem_size,
            file_offset: offset,
            file_size,
            flags,
            align,
        })
    }
}

/// A type of guest that an image can be started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelKind {
    /// A 64-bit PV kernel.
    Pv64,
    /// A 32-bit PV kernel.
    Pv32 {
        /// The page tables it is for.
        pae: PaeMode,
    },
    /// A PVH kernel.
    Pvh {
        /// The physical address at which it starts.
        entry: u32,
    },
}

impl fmt::Display for KernelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pv64 => "64-bit PV",
            Self::Pv32 { pae: PaeMode::No } => "32-bit PV without PAE",
            Self::Pv32 { .. } => "32-bit PV",
            Self::Pvh { .. } => "PVH",
        })
    }
}

/// The reasons why an image cannot be a guest of the requested type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The image has neither Xen notes nor a `__xen_guest` section.
    #[error(
        "it has no Xen notes, so it is not a Xen kernel (Linux has them with CONFIG_XEN_PV or CONFIG_XEN_PVH)"
    )]
    NoXenNotes,
    /// PV was wanted, and it has a PVH entry only.
    #[error("it is a PVH-only kernel; give the guest type=\"pvh\"")]
    PvhOnly,
    /// PVH was wanted, and it has no PVH entry.
    #[error(
        "it is a {kind} kernel with no PVH entry (its notes have no PHYS32_ENTRY); give the guest type=\"pv\""
    )]
    PvOnly {
        /// The kind of the image.
        kind: KernelKind,
    },
    /// PVH was wanted, it has no PVH entry, and it is no PV kernel either.
    #[error("its Xen notes have no PHYS32_ENTRY, so it is not a PVH kernel")]
    NoPvhEntry,
    /// HVM firmware was wanted, and it is a kernel with Xen notes and without a PVH entry.
    #[error(
        "it has Xen notes without a PVH entry, so it is a PV kernel and no firmware such as hvmloader; check `firmware_override`"
    )]
    NoFirmware,
    /// HVM firmware was wanted, and it is a 64-bit image.
    #[error("it is a 64-bit image, and HVM starts 32-bit firmware such as hvmloader")]
    NotBits32,
    /// The notes name neither the generic loader nor Linux, as a PV kernel must.
    #[error(
        "it is made for the loader `{loader}` and the system `{guest_os}`; PV needs the loader `generic`, or Linux"
    )]
    OtherLoader {
        /// LOADER, or nothing.
        loader: String,
        /// GUEST_OS, or nothing.
        guest_os: String,
    },
    /// The notes name an interface other than that of Xen 3.0, the only one that exists.
    #[error("it is made for the Xen interface `{version}`; only `xen-3.0` exists")]
    OtherXen {
        /// XEN_VERSION, or nothing.
        version: String,
    },
    /// The kernel must be the control domain.
    #[error("it requires the feature `dom0`: it runs as the control domain only")]
    Dom0Only,
    /// 64-bit code in 32-bit ELF or the other way round.
    #[error("its ELF is {class:?} but its processor {machine:?}")]
    MixedWidths {
        /// The ELF class of the image.
        class: Class,
        /// The processor in the ELF header.
        machine: Machine,
    },
    /// An address in its notes or program headers cannot be.
    #[error("its {what} is {address:#x}, {reason}")]
    BadAddress {
        /// Name of the note or header field.
        what: &'static str,
        /// The address, in bytes.
        address: u64,
        /// The rule that the address breaks.
        reason: String,
    },
}

/// The width of a PV kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PvWidth {
    /// A 64-bit kernel.
    Bits64,
    /// A 32-bit kernel.
    Bits32 {
        /// The page tables it is for.
        pae: PaeMode,
    },
}

/// The requirements of a kernel as a PV guest. Pseudo-physical address `p` of the guest is mapped at `virt_base + p`.
///
/// Source: the calculations and checks of Xen's `common/libelf/libelf-dominfo.c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvKernel {
    /// 64-bit or 32-bit.
    pub width: PvWidth,
    /// The virtual address of pseudo-physical address 0, a multiple of the page size.
    pub virt_base: u64,
    /// The value to subtract from physical addresses in the program headers.
    pub paddr_offset: u64,
    /// The virtual addresses from the lowest segment's start, on a page boundary, to the highest one's end.
    pub virt: Range<u64>,
    /// The range in pseudo-physical addresses.
    pub paddr: Range<u64>,
    /// Virtual address of the entry point.
    pub entry: u64,
    /// The virtual address of the page for hypercall stubs: on a page boundary, inside of the kernel.
    pub hypercall_page: Option<u64>,
    /// Virtual address of the table of machine frame numbers, if it is outside the kernel.
    pub init_p2m: Option<u64>,
    /// The lowest address at which the hypervisor's hole may start (32-bit).
    pub hv_start_low: Option<u64>,
    /// The ramdisk need not be in the initial mapping.
    pub unmapped_ramdisk: bool,
    /// The features that it supports and requires.
    pub features: Features,
}

impl PvKernel {
    /// The pseudo-physical address at which `segment`, one of the same image's, starts.
    #[must_use]
    pub fn segment_paddr(&self, segment: &Segment) -> u64 {
        segment.paddr.saturating_sub(self.paddr_offset)
    }

    /// Frames of the kernel, from the first to one after the last.
    #[must_use]
    pub fn pfns(&self) -> Range<u64> {
        frames(&self.paddr)
    }

    /// The frame that the virtual address is in, by the guest's initial mapping; `None` below its start.
    #[must_use]
    pub fn pfn_of(&self, vaddr: u64) -> Option<u64> {
        vaddr
            .checked_sub(self.virt_base)
            .map(|paddr| paddr / PAGE_BYTES)
    }
}

/// The addresses of a kernel as a PVH guest. All are physical, below 4 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvhKernel {
    /// Address of the entry point; it runs in 32-bit mode without paging.
    pub entry: u32,
    /// Range from the lowest segment's start to the highest one's end. Segments are loaded at [`Segment::paddr`].
    pub paddr: Range<u64>,
    /// Other allowed addresses, if the kernel can relocate itself.
    pub reloc: Option<Phys32Reloc>,
    /// The features that it supports and requires.
    pub features: Features,
}

impl PvhKernel {
    /// Frames of the kernel, from the first to one after the last.
    #[must_use]
    pub fn gfns(&self) -> Range<u64> {
        frames(&self.paddr)
    }
}

/// The addresses of HVM firmware such as hvmloader. All are physical, below 4 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HvmFirmware {
    /// Address of the entry point; it runs in 32-bit mode without paging.
    pub entry: u32,
    /// Range from the lowest segment's start to the highest one's end. Segments are loaded at [`Segment::paddr`].
    pub paddr: Range<u64>,
}

impl HvmFirmware {
    /// Frames of the firmware, from the first to one after the last.
    #[must_use]
    pub fn gfns(&self) -> Range<u64> {
        frames(&self.paddr)
    }
}

fn frames(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / PAGE_BYTES..bytes.end.div_ceil(PAGE_BYTES)
}

/// Number of bytes of a file that are searched at once.
const SEARCH_PIECE_BYTES: u64 = 1 << 20;

/// The place of a segment's bytes, or of a whole image's.
#[derive(Debug, Clone, Copy)]
pub enum SegmentBytes<'a> {
    /// In memory: all of them.
    Memory(&'a [u8]),
    /// In a file, from this offset on.
    File {
        /// The open file.
        file: &'a File,
        /// Offset of the first byte.
        offset: u64,
    },
}

/// A kernel image that was parsed, and whose bytes can be read.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    origin: Origin,
    source: Source,
    header: Header,
    segments: Vec<Segment>,
    paddr: Range<u64>,
    notes: Option<XenNotes>,
}

impl Image {
    /// Parses an ELF image that is in memory. `path` is for messages alone. For packed images see
    /// [`crate::Loader::load_bytes`].
    ///
    /// # Errors
    /// [`Malformed`] for everything that is not an x86 ELF image with segments and notes in order.
    pub fn parse(
        path: impl Into<PathBuf>,
        elf: Vec<u8>,
        limits: &Limits,
    ) -> Result<Self, Malformed> {
        Self::from_source(path.into(), Origin::Plain, Source::Memory(elf), limits)
    }

    pub(crate) fn from_source(
        path: PathBuf,
        origin: Origin,
        source: Source,
        limits: &Limits,
    ) -> Result<Self, Malformed> {
        let header = Header::parse(&source)?;
        let program_headers = header.program_headers(&source)?;
        let segments = loadable_segments(&program_headers, source.len())?;
        let paddr = extent(&segments, limits)?;
        let notes = XenNotes::find(&header, &program_headers, &source)?;
        Ok(Self {
            path,
            origin,
            source,
            header,
            segments,
            paddr,
            notes,
        })
    }

    /// The file that it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The origin of the bytes, for logs, and to check that the cache works.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn set_origin(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// The unpacked image's bytes.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The size of the unpacked image in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.source.len()
    }

    /// ELF class of the image.
    #[must_use]
    pub fn class(&self) -> Class {
        self.header.class
    }

    /// The processor that it is for.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.header.machine
    }

    /// Whether its ELF header calls it position-independent.
    #[must_use]
    pub fn elf_kind(&self) -> ElfKind {
        self.header.kind
    }

    /// The entry in its ELF header, which PV falls back to.
    #[must_use]
    pub fn elf_entry(&self) -> u64 {
        self.header.entry
    }

    /// The segments to load, at least one, in the order of the program header table.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The Xen notes of the image, if it has any.
    #[must_use]
    pub fn notes(&self) -> Option<&XenNotes> {
        self.notes.as_ref()
    }

    /// Fills `buffer` with the guest's memory from byte `offset` of `segment` on: bytes of the image, then zeros.
    ///
    /// # Errors
    /// [`Error::Read`] if the buffer reaches beyond the segment's `mem_size`, if the file has become shorter, or if
    /// reading fails.
    pub fn read_segment_into(
        &self,
        segment: &Segment,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let wanted = buffer.len() as u64;
        let failed = |source| Error::Read {
            path: self.path.clone(),
            offset: segment.file_offset.saturating_add(offset),
            source,
        };
        if offset
            .checked_add(wanted)
            .is_none_or(|end| end > segment.mem_size)
        {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let in_file = segment.file_size.saturating_sub(offset).min(wanted);
        // `in_file` is at most the buffer's length.
        let (bytes, zeros) = buffer.split_at_mut(
            usize::try_from(in_file)
                .unwrap_or(usize::MAX)
                .min(buffer.len()),
        );
        zeros.fill(0);
        if bytes.is_empty() {
            return Ok(());
        }
        self.source
            .read_at(segment.file_offset.saturating_add(offset), bytes)
            .map_err(failed)
    }

    /// The place of the first `file_size` bytes of `segment`.
    ///
    /// A builder uses it to have the kernel read a file straight into the guest's memory. A file that has become
    /// shorter gives fewer bytes.
    #[must_use]
    pub fn segment_bytes(&self, segment: &Segment) -> SegmentBytes<'_> {
        match &self.source {
            Source::Memory(bytes) => {
                let start = usize::try_from(segment.file_offset).ok();
                let len = usize::try_from(segment.file_size).ok();
                let from_start = start.and_then(|start| bytes.get(start..));
                let found = from_start
                    .zip(len)
                    .and_then(|(from_start, len)| from_start.get(..len));
                SegmentBytes::Memory(found.unwrap_or_default())
            }
            Source::File { file, start, .. } => SegmentBytes::File {
                file,
                offset: start.saturating_add(segment.file_offset),
            },
        }
    }

    /// All bytes of the unpacked image ([`Self::size_bytes`] of them). For callers that pass the image on without
    /// loading it.
    #[must_use]
    pub fn bytes(&self) -> SegmentBytes<'_> {
        match &self.source {
            Source::Memory(bytes) => SegmentBytes::Memory(bytes),
            Source::File { file, start, .. } => SegmentBytes::File {
                file,
                offset: *start,
            },
        }
    }

    /// Whether these bytes are anywhere in the image, unpacked.
    ///
    /// # Errors
    /// [`Error::Read`] when the image's file cannot be read.
    pub fn contains(&self, wanted: &[u8]) -> Result<bool, Error> {
        let finder = memchr::memmem::Finder::new(wanted);
        if let Source::Memory(bytes) = &self.source {
            return Ok(finder.find(bytes).is_some());
        }
        // Each piece begins with the end of the one before, so that nothing is missed between two.
        let overlap = wanted.len().saturating_sub(1) as u64;
        let step = SEARCH_PIECE_BYTES.max(wanted.len() as u64);
        let mut offset = 0;
        while offset < self.size_bytes() {
            let len = (step + overlap).min(self.size_bytes() - offset);
            let mut piece = vec![0; usize::try_from(len).unwrap_or_default()];
            self.source
                .read_at(offset, &mut piece)
                .map_err(|source| Error::Read {
                    path: self.path.clone(),
                    offset,
                    source,
                })?;
            if finder.find(&piece).is_some() {
                return Ok(true);
            }
            offset += step;
        }
        Ok(false)
    }

    /// The guest types that it can be started as; empty if none.
    #[must_use]
    pub fn kinds(&self) -> Vec<KernelKind> {
        let pv = self.pv_kernel().ok().map(|kernel| kernel.width.into());
        let pvh = self.pvh_kernel().ok().map(|kernel| KernelKind::Pvh {
            entry: kernel.entry,
        });
        pv.into_iter().chain(pvh).collect()
    }

    /// The requirements of the kernel as a PV guest, 32-bit or 64-bit. The caller's policy decides whether a bare
    /// 32-bit kernel may run.
    ///
    /// # Errors
    /// [`Error::Unfit`] with the reason.
    pub fn pv(&self) -> Result<PvKernel, Error> {
        self.pv_kernel().map_err(|source| self.unfit("PV", source))
    }

    /// The requirements of the kernel as a PVH guest.
    ///
    /// # Errors
    /// [`Error::Unfit`] with the reason.
    pub fn pvh(&self) -> Result<PvhKernel, Error> {
        self.pvh_kernel()
            .map_err(|source| self.unfit("PVH", source))
    }

    /// The addresses of the image as firmware of an HVM guest: a 32-bit image without Xen notes, such as hvmloader. It is no
    /// kernel, so [`Self::kinds`] does not list it. A kernel with a PVH entry can be in its place, as with libxc.
    ///
    /// # Errors
    /// [`Error::Unfit`] with the reason.
    pub fn hvm_firmware(&self) -> Result<HvmFirmware, Error> {
        self.find_hvm_firmware()
            .map_err(|source| self.unfit("HVM", source))
    }

    fn unfit(&self, wanted: &'static str, source: Unfit) -> Error {
        Error::Unfit {
            path: self.path.clone(),
            wanted,
            source,
        }
    }

    fn pv_kernel(&self) -> Result<PvKernel, Unfit> {
        let notes = self.notes.as_ref().ok_or(Unfit::NoXenNotes)?;
        check_pv_notes(notes)?;
        let width = self.pv_width(notes)?;
        let (virt_base, paddr_offset) = pv_offsets(notes)?;
        let paddr = pv_paddr(&self.paddr, paddr_offset)?;
        let virt = pv_virt(&paddr, virt_base, width)?;
        let kernel = PvKernel {
            width,
            virt_base,
            paddr_offset,
            entry: notes.entry.unwrap_or(self.header.entry),
            hypercall_page: notes.hypercall_page,
            init_p2m: notes.init_p2m,
            hv_start_low: notes.hv_start_low,
            unmapped_ramdisk: notes.mod_start_pfn,
            features: notes.features,
            virt,
            paddr,
        };
        check_pv_addresses(&kernel)?;
        Ok(kernel)
    }

    fn pv_width(&self, notes: &XenNotes) -> Result<PvWidth, Unfit> {
        match (self.header.machine, self.header.class) {
            (Machine::X86_64, Class::Elf64) => Ok(PvWidth::Bits64),
            (Machine::I386, Class::Elf32) => Ok(PvWidth::Bits32 {
                pae: notes.pae_mode.unwrap_or(PaeMode::No),
            }),
            (machine, class) => Err(Unfit::MixedWidths { class, machine }),
        }
    }

    fn pvh_kernel(&self) -> Result<PvhKernel, Unfit> {
        let notes = self.notes.as_ref().ok_or(Unfit::NoXenNotes)?;
        let Some(entry) = notes.phys32_entry else {
            let pv = self.pv_kernel().ok();
            let pv_only = |kernel: PvKernel| Unfit::PvOnly {
                kind: kernel.width.into(),
            };
            return Err(pv.map_or(Unfit::NoPvhEntry, pv_only));
        };
        check_domu(notes)?;
        self.check_below_4gib()?;
        if !self.paddr.contains(&u64::from(entry)) {
            return Err(outside("PHYS32_ENTRY", entry.into(), &self.paddr));
        }
        Ok(PvhKernel {
            entry,
            paddr: self.paddr.clone(),
            reloc: notes.phys32_reloc,
            features: notes.features,
        })
    }

    fn find_hvm_firmware(&self) -> Result<HvmFirmware, Unfit> {
        if let Some(notes) = &self.notes {
            if notes.phys32_entry.is_none() {
                return Err(Unfit::NoFirmware);
            }
            let kernel = self.pvh_kernel()?;
            return Ok(HvmFirmware {
                entry: kernel.entry,
                paddr: kernel.paddr,
            });
        }
        if (self.header.machine, self.header.class) != (Machine::I386, Class::Elf32) {
            return Err(Unfit::NotBits32);
        }
        self.check_below_4gib()?;
        // The entry of a 32-bit header has 32 bits.
        match u32::try_from(self.header.entry) {
            Ok(entry) if self.paddr.contains(&u64::from(entry)) => Ok(HvmFirmware {
                entry,
                paddr: self.paddr.clone(),
            }),
            _ => Err(outside("e_entry", self.header.entry, &self.paddr)),
        }
    }

    fn check_below_4gib(&self) -> Result<(), Unfit> {
        if self.paddr.end > FOUR_GIB {
            return Err(bad_address(
                "end",
                self.paddr.end,
                "and it has to be below 4 GiB",
            ));
        }
        Ok(())
    }
}

impl From<PvWidth> for KernelKind {
    fn from(width: PvWidth) -> Self {
        match width {
            PvWidth::Bits64 => Self::Pv64,
            PvWidth::Bits32 { pae } => Self::Pv32 { pae },
        }
    }
}

/// Returns the loadable segments. Segments without memory are ignored.
fn loadable_segments(
    headers: &[ProgramHeader],
    image_bytes: u64,
) -> Result<Vec<Segment>, Malformed> {
    let mut segments = Vec::new();
    for (index, header) in headers
        .iter()
        .enumerate()
        .filter(|(_, header)| header.is_loadable())
    {
        let segment = Segment::parse(index, header, image_bytes)?;
        if segment.mem_size > 0 {
            segments.push(segment);
        }
    }
    check_overlaps(&segments)?;
    Ok(segments)
}

fn check_overlaps(segments: &[Segment]) -> Result<(), Malformed> {
    let mut by_paddr: Vec<&Segment> = segments.iter().collect();
    by_paddr.sort_by_key(|segment| segment.paddr);
    for pair in by_paddr.windows(2) {
        if let [first, second] = pair
            && first.paddr_end() > second.paddr
        {
            return Err(Malformed::SegmentsOverlap {
                first: first.index,
                second: second.index,
                paddr: second.paddr,
            });
        }
    }
    Ok(())
}

/// Range from the lowest segment's start to the highest one's end, by the headers' physical addresses.
fn extent(segments: &[Segment], limits: &Limits) -> Result<Range<u64>, Malformed> {
    let start = segments
        .iter()
        .map(|segment| segment.paddr)
        .min()
        .ok_or(Malformed::NoSegments)?;
    let end = segments
        .iter()
        .map(Segment::paddr_end)
        .max()
        .ok_or(Malformed::NoSegments)?;
    let size_bytes = end.saturating_sub(start);
    if size_bytes > limits.memory_max_bytes {
        return Err(Malformed::MemoryTooLarge {
            size_bytes,
            max_bytes: limits.memory_max_bytes,
        });
    }
    Ok(start..end)
}

fn check_domu(notes: &XenNotes) -> Result<(), Unfit> {
    if notes.features.required.contains(Feature::Dom0) {
        Err(Unfit::Dom0Only)
    } else {
        Ok(())
    }
}

fn check_pv_notes(notes: &XenNotes) -> Result<(), Unfit> {
    // A Linux with CONFIG_XEN_PVH alone names its system and Xen's version too, but no PV entry and no place.
    if notes.phys32_entry.is_some() && notes.entry.is_none() && notes.virt_base.is_none() {
        return Err(Unfit::PvhOnly);
    }
    let loader = notes.loader.as_deref().unwrap_or_default();
    let guest_os = notes.guest_os.as_deref().unwrap_or_default();
    if !loader.starts_with("generic") && !guest_os.starts_with("linux") {
        return Err(Unfit::OtherLoader {
            loader: loader.to_owned(),
            guest_os: guest_os.to_owned(),
        });
    }
    let version = notes.xen_version.as_deref().unwrap_or_default();
    if !version.starts_with("xen-3.0") {
        return Err(Unfit::OtherXen {
            version: version.to_owned(),
        });
    }
    check_domu(notes)
}

/// The virtual base and the offset of physical addresses, with the defaults for notes that are not there.
fn pv_offsets(notes: &XenNotes) -> Result<(u64, u64), Unfit> {
    let virt_base = match (notes.virt_base, notes.paddr_offset) {
        (None, Some(offset)) => {
            return Err(bad_address(
                "PADDR_OFFSET",
                offset,
                "but VIRT_BASE is not there",
            ));
        }
        (base, _) => base.unwrap_or(0),
    };
    if !virt_base.is_multiple_of(PAGE_BYTES) {
        return Err(bad_address(
            "VIRT_BASE",
            virt_base,
            "which is not on a page boundary",
        ));
    }
    let default_offset = if notes.from == NotesFrom::Legacy {
        virt_base
    } else {
        0
    };
    Ok((virt_base, notes.paddr_offset.unwrap_or(default_offset)))
}

fn pv_paddr(headers: &Range<u64>, paddr_offset: u64) -> Result<Range<u64>, Unfit> {
    match (
        headers.start.checked_sub(paddr_offset),
        headers.end.checked_sub(paddr_offset),
    ) {
        (Some(start), Some(end)) if start.is_multiple_of(PAGE_BYTES) => Ok(start..end),
        (Some(start), Some(_)) => Err(bad_address(
            "start",
            start,
            "which is not on a page boundary",
        )),
        _ => Err(bad_address(
            "PADDR_OFFSET",
            paddr_offset,
            "which is above the start of its segments",
        )),
    }
}

fn pv_virt(paddr: &Range<u64>, virt_base: u64, width: PvWidth) -> Result<Range<u64>, Unfit> {
    let bounds = virt_base
        .checked_add(paddr.start)
        .zip(virt_base.checked_add(paddr.end));
    let Some((start, end)) = bounds else {
        return Err(bad_address(
            "VIRT_BASE",
            virt_base,
            "which puts its end beyond the last address",
        ));
    };
    let touches = |hole: Range<u64>| start < hole.end && end > hole.start;
    let forbidden = match width {
        PvWidth::Bits64 => touches(NON_CANONICAL) || touches(HYPERVISOR_VIRT),
        PvWidth::Bits32 { .. } => end > FOUR_GIB,
    };
    if forbidden {
        return Err(bad_address(
            "VIRT_BASE",
            virt_base,
            "which puts it where a guest has no memory",
        ));
    }
    Ok(start..end)
}

fn check_pv_addresses(kernel: &PvKernel) -> Result<(), Unfit> {
    if !kernel.virt.contains(&kernel.entry) {
        return Err(outside("ENTRY", kernel.entry, &kernel.virt));
    }
    if let Some(p2m) = kernel.init_p2m.filter(|p2m| kernel.virt.contains(p2m)) {
        return Err(bad_address("INIT_P2M", p2m, "which is inside the kernel"));
    }
    match kernel.hypercall_page {
        Some(page) if !page.is_multiple_of(PAGE_BYTES) => Err(bad_address(
            "HYPERCALL_PAGE",
            page,
            "which is not on a page boundary",
        )),
        Some(page) if !kernel.virt.contains(&page) => {
            Err(outside("HYPERCALL_PAGE", page, &kernel.virt))
        }
        _ => Ok(()),
    }
}

fn outside(what: &'static str, address: u64, kernel: &Range<u64>) -> Unfit {
    bad_address(
        what,
        address,
        format!(
            "outside of the kernel ({:#x} to {:#x})",
            kernel.start, kernel.end
        ),
    )
}

fn bad_address(what: &'static str, address: u64, reason: impl Into<String>) -> Unfit {
    Unfit::BadAddress {
        what,
        address,
        reason: reason.into(),
    }
}

/// Whether `bytes` start like an image that [`Image::parse`] takes.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    elf::detect(bytes)
}
