//! The errors about images: the file, the fault and a remedy.

use std::io;
use std::path::{Path, PathBuf};

use crate::compression::Compression;
use crate::image::Unfit;

/// The reasons why a file could not be loaded. Every message contains the file's path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("cannot open {}: there is no such file; check the path in the configuration", path.display())]
    Missing {
        /// Path of the file.
        path: PathBuf,
    },
    /// This process may not read the file or enter one of its folders.
    #[error("cannot open {}: permission denied; make it readable for the user who runs this", path.display())]
    Denied {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file could not be opened or examined for another reason.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The path names a directory, a device, a pipe or a socket.
    #[error("cannot load {}: it is {found}, and a regular file is needed", path.display())]
    NotAFile {
        /// Path of the file.
        path: PathBuf,
        /// The type of the file, with its article.
        found: &'static str,
    },
    /// The file has no bytes.
    #[error("cannot load {}: the file is empty; was it copied whole?", path.display())]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file is larger than the limit for its kind.
    #[error("cannot load {}: the file has {size_bytes} bytes, and {max_bytes} are the most that are read of one", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Size of the file, in bytes.
        size_bytes: u64,
        /// Maximum size, in bytes.
        max_bytes: u64,
    },
    /// Reading failed half way, or the file shrank meanwhile.
    #[error("cannot read {} at byte {offset}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Offset of the read in the file, in bytes.
        offset: u64,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Others unpack kernels on this host, and this one's turn did not come.
    #[error("cannot unpack {}: {source}", path.display())]
    NoTurn {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The bytes are not a kernel, or a broken one.
    #[error("cannot use {} as a kernel: {source}", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// The fault in the image.
        source: Malformed,
    },
    /// A kernel, but not for this type of guest.
    #[error("cannot start {} as a {wanted} guest: {source}", path.display())]
    Unfit {
        /// Path of the file.
        path: PathBuf,
        /// `PV`, `PVH` or `HVM`.
        wanted: &'static str,
        /// Reason why the kernel cannot be such a guest.
        source: Unfit,
    },
}

impl Error {
    /// The file that it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::Denied { path }
            | Self::Open { path, .. }
            | Self::NotAFile { path, .. }
            | Self::Empty { path }
            | Self::TooLarge { path, .. }
            | Self::Read { path, .. }
            | Self::NoTurn { path, .. }
            | Self::Malformed { path, .. }
            | Self::Unfit { path, .. } => path,
        }
    }
}

/// The reasons why the bytes of an image are invalid.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// None of the formats that this crate reads.
    #[error(
        "it is neither an ELF image nor a bzImage, and not compressed in a known way (it starts with {start})"
    )]
    UnknownFormat {
        /// The first bytes, in hexadecimal.
        start: String,
    },
    /// The unpacked payload has no format that this crate reads. The message does not show its bytes, because the
    /// file may be secret.
    #[error(
        "it was unpacked, and what is in it is no kernel: neither an ELF image nor packed once more in a known way"
    )]
    UnknownContent,
    /// A bzImage whose payload is none of the formats that Linux packs it with.
    #[error(
        "it is a bzImage, and its payload is {payload}, which no boot loader unpacks: use the kernel's own ELF image (vmlinux), or build it with a compression that Linux has"
    )]
    UnknownPayload {
        /// The payload's format: an ELF image that is not packed, or unknown.
        payload: &'static str,
    },
    /// Wrapped more often than any real kernel is.
    #[error("it is compressed more than {max} times over")]
    TooManyLayers {
        /// Maximum number of layers.
        max: usize,
    },
    /// The compressed bytes are too many.
    #[error("its {size_bytes} compressed bytes are more than the {max_bytes} that are allowed")]
    CompressedTooLarge {
        /// Size in bytes.
        size_bytes: u64,
        /// Maximum size, in bytes.
        max_bytes: u64,
    },
    /// More came out of the decompressor than is allowed: a bomb, or a limit that is too low.
    #[error("its {format} data unpacks to more than the {max_bytes} bytes that are allowed")]
    DecompressedTooLarge {
        /// Format of the compressed data.
        format: Compression,
        /// Maximum size, in bytes.
        max_bytes: u64,
    },
    /// The decompressor would need more memory than is allowed.
    #[error("its {format} data wants a window of more than the {max_bytes} bytes that are allowed")]
    WindowTooLarge {
        /// Format of the compressed data.
        format: Compression,
        /// Maximum memory, in bytes.
        max_bytes: u64,
    },
    /// There is not enough memory to unpack it.
    #[error("there is not enough memory to unpack its {format} data")]
    OutOfMemory {
        /// Format of the compressed data.
        format: Compression,
    },
    /// Unpacking it was not possible here, whatever its data is.
    #[error("its {format} data could not be unpacked: {source}")]
    NotUnpacked {
        /// Format of the compressed data.
        format: Compression,
        /// Error of the operating system, or how the process that unpacks ended.
        source: io::Error,
    },
    /// The compressed data is damaged or cut off.
    #[error("its {format} data is damaged or cut off: {reason}")]
    Corrupt {
        /// Format of the compressed data.
        format: Compression,
        /// Message of the decompressor.
        reason: String,
    },
    /// The size behind a bzImage's payload differs from the unpacked size.
    #[error(
        "its {format} data unpacks to {actual_bytes} bytes, but the bzImage says {stated_bytes}"
    )]
    WrongSize {
        /// Format of the compressed data.
        format: Compression,
        /// Number of unpacked bytes.
        actual_bytes: u64,
        /// Size in the last four bytes of the payload.
        stated_bytes: u32,
    },
    /// A bzImage's setup header is not usable.
    #[error("its bzImage header is not usable: {reason}")]
    BadSetupHeader {
        /// The rule that it breaks.
        reason: String,
    },
    /// An ELF header field has a value that no x86 kernel has.
    #[error(
        "its ELF header is not that of an x86 kernel: {field} is {value:#x}, expected {expected}"
    )]
    BadElfHeader {
        /// Name of the field.
        field: &'static str,
        /// Value of the field.
        value: u64,
        /// Allowed values, as text.
        expected: &'static str,
    },
    /// A part of the image is beyond its end, in whole or in part.
    #[error(
        "its {what} ({len} bytes at byte {offset}) lies beyond the image's end at byte {image_bytes}: cut off?"
    )]
    BeyondEnd {
        /// The table, segment or region.
        what: &'static str,
        /// Offset of its start in the image, in bytes.
        offset: u64,
        /// Stated length in bytes.
        len: u64,
        /// Length of the image in bytes.
        image_bytes: u64,
    },
    /// The image could not be read any more.
    #[error("its {what} cannot be read: {source}")]
    Read {
        /// The table, segment or region.
        what: &'static str,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A program header is invalid.
    #[error("its program header {index} is bad: {reason}")]
    BadSegment {
        /// Which, counted from 0.
        index: usize,
        /// The rule that it breaks.
        reason: String,
    },
    /// Two segments overlap in guest memory.
    #[error("its program headers {first} and {second} both want guest memory at {paddr:#x}")]
    SegmentsOverlap {
        /// The lower one.
        first: usize,
        /// The higher one.
        second: usize,
        /// First common address.
        paddr: u64,
    },
    /// There is nothing to load.
    #[error("it has no loadable segment")]
    NoSegments,
    /// The segments need more guest memory than is allowed.
    #[error(
        "it wants {size_bytes} bytes of guest memory, more than the {max_bytes} that are allowed"
    )]
    MemoryTooLarge {
        /// Size from the lowest segment's start to the highest one's end, in bytes.
        size_bytes: u64,
        /// Maximum size, in bytes.
        max_bytes: u64,
    },
    /// The regions that hold notes are larger than any kernel's.
    #[error("its notes take more than {max_bytes} bytes")]
    TooManyNotes {
        /// Maximum size, in bytes.
        max_bytes: u64,
    },
    /// A note is longer than the region that holds it.
    #[error("its ELF notes are bad: {part} at byte {offset} of the notes runs over their end")]
    NoteOverrun {
        /// `header`, `name` or `content`.
        part: &'static str,
        /// Offset from the start of the region.
        offset: usize,
    },
    /// A Xen note's content has the wrong length or form.
    #[error("its Xen note {note} is bad: {reason}")]
    BadNote {
        /// The note, or the key in a `__xen_guest` section.
        note: &'static str,
        /// The rule that it breaks.
        reason: String,
    },
    /// Two notes of the same type have different values.
    #[error("its Xen note {note} is there twice, with different values: {first} and {second}")]
    ContradictingNotes {
        /// Name of the note.
        note: &'static str,
        /// Value of the first note.
        first: String,
        /// Value of the other note.
        second: String,
    },
    /// The kernel requires a feature that this build does not know.
    #[error("it requires the Xen feature `{name}`, which is not known")]
    UnknownRequiredFeature {
        /// Name of the feature in the FEATURES note.
        name: String,
    },
}
