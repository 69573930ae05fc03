//! The port through which [`Loader`](crate::Loader) unpacks an image.
//!
//! Decompressors are the largest part of the code that reads a hostile image. So a toolstack can run them behind
//! [`Unpack`] in a confined process.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;

use crate::compression::Compression;
use crate::error::Malformed;
use crate::limits::Limits;

/// The output of a decompressor.
#[derive(Debug)]
pub enum Unpacked {
    /// Bytes in memory.
    Memory(Vec<u8>),
    /// A file that holds only these bytes, and that no other process can write to.
    File {
        /// The file, open for reading.
        file: File,
        /// Number of bytes.
        len_bytes: u64,
    },
}

/// A way to unpack images.
pub trait Unpack: fmt::Debug {
    /// Waits until this process may unpack. Other processes wait while the returned value exists. It is called if no
    /// cache has the image; afterwards the cache is checked again.
    ///
    /// # Errors
    /// Errors of the system, and [`io::ErrorKind::TimedOut`] after the time limit.
    fn wait_for_turn(&self) -> io::Result<Box<dyn Any>>;

    /// Takes one layer of packing off.
    ///
    /// # Errors
    /// As [`Compression::decompress_to`].
    fn unpack(
        &self,
        format: Compression,
        packed: &[u8],
        limits: &Limits,
    ) -> Result<Unpacked, Malformed>;
}

/// Unpacks in this process, without a wait for other processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Unpack for InProcess {
    fn wait_for_turn(&self) -> io::Result<Box<dyn Any>> {
        Ok(Box::new(()))
    }

    fn unpack(
        &self,
        format: Compression,
        packed: &[u8],
        limits: &Limits,
    ) -> Result<Unpacked, Malformed> {
        format.decompress(packed, limits).map(Unpacked::Memory)
    }
}
