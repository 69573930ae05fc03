//! Saved images and migration streams of xl, read as hostile input and written.
//!
//! An image of `xl save` has three layers: the file header of xl with the configuration, the libxl stream (version 2), and inside
//! it the libxc stream (version 3; version 2 is read too). Facts: Xen's `docs/specs/libxl-migration-stream.pandoc` and
//! `docs/specs/libxc-migration-stream.pandoc`, `tools/libs/guest/xg_sr_stream_format.h`, `tools/xl/xl.h`.
//!
//! - [`Reader`] gives one [`Event`] after the other. It checks each length before it allocates, each field, and the order.
//! - [`Writer`] takes the same events, and pages without a copy. It refuses what the reader would refuse.
//! - [`StreamError`] has the offset, the part of the stream, and the cause.
//! - [`HvmContext`] is the list of the records in the state of an HVM or PVH guest.
//! - [`Summary`] says in numbers what a stream holds.
//!
//! The states of a stream, which reader and writer share, are in `order`. This crate has no I/O of its own, and knows no
//! hypervisor. A process without rights should run the reader, because the sender may be hostile.
//!
//! ```
//! use xen_stream::{Event, Limits, Reader, StreamKind};
//!
//! let mut reader = Reader::new(&b"no image"[..], StreamKind::XlFile, Limits::default());
//! let error = reader.next_event().unwrap_err();
//! assert_eq!(error.offset_bytes, 0);
//! ```

mod emulator;
mod error;
mod fields;
mod file;
mod headers;
mod hvm_context;
mod kinds;
mod limits;
mod order;
mod pages;
mod reader;
mod record;
mod source;
mod summary;
mod writer;

pub use emulator::{Emulator, EmulatorContext, EmulatorKind, EmulatorXenstore};
pub use error::{Cause, Part, StreamError};
pub use file::{Config, FileHeader};
pub use headers::{Guest, ImageHeader, LibxlHeader};
pub use hvm_context::{HvmContext, HvmContextError, HvmHeader, HvmRecord};
pub use kinds::{LibxcKind, LibxlKind};
pub use limits::Limits;
pub use order::StreamKind;
pub use pages::{PAGE_BYTES, PAGES_MAX, Page, PageEntry, PageKind, Pages};
pub use reader::{Event, Reader};
pub use record::{
    CpuidLeaf, HvmParam, MsrEntry, P2mFrames, PvInfo, Record, TscInfo, VcpuPart, VcpuState,
};
pub use summary::{PageCount, Summary};
pub use writer::Writer;
