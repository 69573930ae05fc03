//! [`StreamError`]: where a stream is damaged, and why it is refused.

use std::fmt::{self, Display};
use std::io;

use crate::headers::Guest;
use crate::hvm_context::HvmContextError;
use crate::kinds::{LibxcKind, LibxlKind};

/// The reason why a stream was refused or could not be written, with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset_bytes}, {part}: {cause}")]
pub struct StreamError {
    /// Offset of the first byte of the part.
    pub offset_bytes: u64,
    /// The part of the stream.
    pub part: Part,
    /// The cause of the refusal.
    pub cause: Cause,
}

/// A part of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Header of a file of xl.
    FileHeader,
    /// Configuration behind the header of xl's file.
    Config,
    /// Header of a libxl stream.
    LibxlHeader,
    /// Type and length of a record of a libxl stream.
    LibxlRecordHeader,
    /// A record of a libxl stream.
    LibxlRecord {
        /// Type of the record.
        code: u32,
    },
    /// Image header and domain header of a libxc stream.
    ImageHeader,
    /// Type and length of a record of a libxc stream.
    LibxcRecordHeader,
    /// A record of a libxc stream.
    LibxcRecord {
        /// Type of the record.
        code: u32,
    },
    /// After the end of the stream.
    AfterEnd,
}

impl Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::FileHeader => f.write_str("file header of xl"),
            Part::Config => f.write_str("configuration in the file header of xl"),
            Part::LibxlHeader => f.write_str("header of the libxl stream"),
            Part::LibxlRecordHeader => f.write_str("header of a libxl record"),
            Part::LibxlRecord { code } => match LibxlKind::from_code(*code) {
                Some(kind) => write!(f, "libxl record {kind}"),
                None => write!(f, "libxl record of type {code:#010x}"),
            },
            Part::ImageHeader => f.write_str("headers of the libxc stream"),
            Part::LibxcRecordHeader => f.write_str("header of a libxc record"),
            Part::LibxcRecord { code } => match LibxcKind::from_code(*code) {
                Some(kind) => write!(f, "libxc record {kind}"),
                None => write!(f, "libxc record of type {code:#010x}"),
            },
            Part::AfterEnd => f.write_str("after the end of the stream"),
        }
    }
}

/// The causes of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Reading or writing failed.
    #[error("the system refuses to read or write: {0}")]
    Io(io::ErrorKind),
    /// The stream ends too early.
    #[error("the stream ends inside of it, at byte {stream_bytes}")]
    Truncated {
        /// Number of bytes that the stream has.
        stream_bytes: u64,
    },
    /// The first bytes are those of another format.
    #[error("it does not begin with the identification of this format")]
    Magic,
    /// A machine with another byte order wrote it.
    #[error("a machine with another byte order wrote it, and its images cannot be restored here")]
    ForeignByteOrder,
    /// The records are in big-endian byte order.
    #[error("its records are big-endian, and Xen on x86 writes little-endian alone")]
    BigEndian,
    /// Another version of the format.
    #[error("it has version {version} of the format, which is not known")]
    Version {
        /// Version that it has.
        version: u32,
    },
    /// Flags or options that this reader does not know.
    #[error("it has flags that are not known: {flags:#x}")]
    UnknownFlags {
        /// The unknown flags.
        flags: u32,
    },
    /// Xen 4.5 or earlier wrote it.
    #[error("it has the format of Xen 4.5 and earlier, which xl alone can convert")]
    LegacyStream,
    /// The configuration is text of xl.cfg, as xl of Xen 4.4 and earlier wrote it.
    #[error("it is no JSON of libxl: xl of Xen 4.5 and later writes JSON alone")]
    NotJson,
    /// The length is outside of what this part may have.
    #[error("its length is {length_bytes} bytes, where {min_bytes} to {max_bytes} are right")]
    Length {
        /// The length that it has.
        length_bytes: u64,
        /// Smallest right length.
        min_bytes: u64,
        /// Largest right length.
        max_bytes: u64,
    },
    /// The whole stream is longer than the receiver allows.
    #[error("the stream has more than {max_bytes} bytes, which the limit excludes")]
    StreamLength {
        /// Largest length that is allowed.
        max_bytes: u64,
    },
    /// The length is no multiple of the size of an entry.
    #[error("its {length_bytes} bytes are not a whole number of entries of {entry_bytes}")]
    Ragged {
        /// The length that it has.
        length_bytes: u64,
        /// Size of one entry.
        entry_bytes: u64,
    },
    /// Reserved bits, or bytes that fill up a record, are not zero.
    #[error("bits are set that must be zero")]
    NotZero,
    /// A record that a reader must know.
    #[error("this type of record is not known, and must not be skipped")]
    UnknownRecord,
    /// A record that no release of Xen has written.
    #[error("this type of record is obsolete, and Xen refuses it too")]
    Obsolete,
    /// A stream of checkpoints (Remus, COLO).
    #[error("the stream has checkpoints (Remus or COLO), which are not supported")]
    Checkpointed,
    /// The record belongs to another type of guest.
    #[error("a guest of type {guest} has no such record")]
    NotForGuest {
        /// Type of the guest.
        guest: Guest,
    },
    /// The record came with a later version of the format.
    #[error("version {version} of the format has no such record")]
    NotInVersion {
        /// Version of the stream.
        version: u32,
    },
    /// A record that may be there once is there again.
    #[error("this record was there before")]
    Repeated,
    /// Another record must be before this one.
    #[error("{needs} must be before it")]
    TooEarly {
        /// The missing record.
        needs: &'static str,
    },
    /// This record must be before another one.
    #[error("it must be before {before}")]
    TooLate {
        /// The record that was there too early.
        before: &'static str,
    },
    /// The stream ends without a record that it must have.
    #[error("the stream ends without {what}")]
    Missing {
        /// The missing record.
        what: &'static str,
    },
    /// A part of the stream was given in the wrong place.
    #[error("this part belongs to another place of the stream")]
    Misplaced,
    /// Another type of guest.
    #[error("the guest's type {code} is not known: 1 is PV, 2 is HVM or PVH")]
    GuestType {
        /// The type that it has.
        code: u32,
    },
    /// The type of a page is not one that this guest can have.
    #[error("page frame {pfn:#x} has the type {code:#x}, which this guest cannot have")]
    PageType {
        /// The page frame number.
        pfn: u64,
        /// The type that it has.
        code: u8,
    },
    /// A page frame number is too large.
    #[error("page frame {pfn:#x} is not below {pfn_end:#x}, the end of the guest's memory")]
    PageRange {
        /// The page frame number.
        pfn: u64,
        /// First number that is too large.
        pfn_end: u64,
    },
    /// The pages of a record are not in the order of their numbers.
    #[error("page frame {pfn:#x} comes after the same or a larger number in its record")]
    PageOrder {
        /// The page frame number.
        pfn: u64,
    },
    /// A page of a kind with contents has none, or the reverse.
    #[error("page frame {pfn:#x} has contents and a type without contents, or the reverse")]
    PageContents {
        /// The page frame number.
        pfn: u64,
    },
    /// Two entries of a table have the same number.
    #[error("two of its entries have the same `{field}`, {value:#x}")]
    DuplicateEntry {
        /// Name of the field that must be different in each entry.
        field: &'static str,
        /// The value that two entries have.
        value: u64,
    },
    /// A node in xenstore is there twice.
    #[error("it has two values for the same node in xenstore")]
    DuplicateNode,
    /// The records about QEMU name different emulators.
    #[error("it names another emulator than the record before it")]
    OtherEmulator,
    /// A part that is to be written would be read as another one.
    #[error("a reader would read its bytes as something else")]
    Ambiguous,
    /// A field has a value that it cannot have.
    #[error("its field `{field}` has the value {value:#x}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// The value that it has.
        value: u64,
    },
    /// A text has no NUL at its end, or one inside of it.
    #[error("a NUL is missing at its end, or is inside of it")]
    Nul,
    /// A node in xenstore has a name that no such node has.
    #[error("it names a node in xenstore with other characters than letters, digits and -/_@")]
    NodeName,
    /// The state of an HVM or PVH guest is damaged.
    #[error("{0}")]
    HvmContext(#[from] HvmContextError),
}
