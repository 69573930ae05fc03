//! Kernel images as hostile input: ELF and its Xen notes, bzImage, decompression, limits.
//!
//! A kernel may come from a guest's own disk, so every byte of it is taken as an attack: sizes are bounded before
//! anything is allocated, every offset is checked against the bytes that are there, and whatever does not hold ends in
//! an error that says what was wrong. Nothing here panics, and nothing is believed because a header says so.
//!
//! The way of an image: [`Loader::load`] opens the file, takes it out of its wrappings (bzImage and up to three layers of
//! compression, or the [`Cache`]'s copy of an earlier time), and gives an [`Image`]: its loadable [`Segment`]s and its
//! [`XenNotes`]. [`Image::pv`] and [`Image::pvh`] then say where that kernel wants to be as a guest of that type, or why
//! it cannot be one. A builder copies the bytes with [`Image::read_segment_into`].

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
pub use image::{Image, KernelKind, PvKernel, PvWidth, PvhKernel, Segment, SegmentBytes, Unfit};
pub use limits::Limits;
pub use load::{CacheFolder, Loader, Origin};
pub use module::Module;
pub use unpack::{InProcess, Unpack, Unpacked};
