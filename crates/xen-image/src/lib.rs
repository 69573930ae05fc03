//! Parses kernel images as hostile input: ELF and its Xen notes, bzImage, decompression, limits.
//!
//! A kernel may come from a guest's disk, so each byte may be an attack. Sizes have limits before memory is
//! allocated, and every offset is checked against the image. Invalid input ends in an error that names the reason.
//! Nothing here panics.
//!
//! [`Loader::load`] opens the file. It unpacks bzImage and up to three layers of compression, or takes the
//! [`Cache`]'s copy. The result is an [`Image`] with loadable [`Segment`]s and [`XenNotes`]. [`Image::pv`] and
//! [`Image::pvh`] return the addresses of that kernel as a guest of the type, or the reason why it cannot be one. A
//! builder copies the bytes with [`Image::read_segment_into`].

mod bytes;
pub mod bzimage;
mod cache;
pub mod compression;
mod elf;
pub mod elfnote;
mod error;
mod features;
mod image;
mod limits;
mod load;
mod module;
mod source;
mod unpack;

pub use cache::{Cache, CacheError, CacheOptions};
pub use compression::Compression;
pub use elf::{Class, ElfKind, Machine};
pub use elfnote::{MaskValue, PaeMode, Phys32Reloc, XenNotes};
pub use error::{Error, Malformed};
pub use features::{Feature, FeatureSet, Features};
pub use image::{
    HvmFirmware, Image, KernelKind, PvKernel, PvWidth, PvhKernel, Segment, SegmentBytes, Unfit,
};
pub use limits::Limits;
pub use load::{CacheFolder, Loader, Origin};
pub use module::Module;
pub use unpack::{InProcess, Unpack, Unpacked};
