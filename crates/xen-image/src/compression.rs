//! Decompression of everything that Linux can pack a kernel with, under [`Limits`].
//!
//! The output grows with what really comes out of the decompressor, and stops at the limit. No size in a header is
//! trusted with an allocation; windows and dictionaries are bounded too. Only the first stream, frame or member is
//! unpacked: kernels have one, and what follows it (padding, a signature, the size that Linux appends) is not data.

mod lz4;
mod lzo;

use std::fmt;
use std::io::{self, Read};

use crate::error::Malformed;
use crate::limits::Limits;

/// A way to compress a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz, with the x86 branch filter that Linux uses.
    Xz,
    /// LZMA's own format from before xz (`.lzma`).
    Lzma,
    /// LZO1X in the framing of lzop.
    Lzo,
    /// LZ4 in its legacy framing, as Linux uses it.
    Lz4Legacy,
    /// LZ4 in its frame format, as `lz4` writes it today.
    Lz4Frame,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Each format with the bytes it starts with. LZMA alone has no magic: it is told by its most common parameter byte and
/// a dictionary of at least 64 KiB, as Linux and Xen tell it.
const MAGICS: [(Compression, &[u8]); 8] = [
    (Compression::Gzip, &[0x1f, 0x8b]),
    (Compression::Bzip2, b"BZh"),
    (Compression::Xz, &[0xfd, b'7', b'z', b'X', b'Z', 0x00]),
    (Compression::Lzma, &[0x5d, 0x00, 0x00]),
    (Compression::Lzo, &[0x89, b'L', b'Z', b'O', 0x00]),
    (Compression::Lz4Legacy, &[0x02, 0x21, 0x4c, 0x18]),
    (Compression::Lz4Frame, &[0x04, 0x22, 0x4d, 0x18]),
    (Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
];

impl Compression {
    /// The format that `bytes` start like, or `None`.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        MAGICS
            .iter()
            .find(|(_, magic)| bytes.starts_with(magic))
            .map(|(format, _)| *format)
    }

    /// Whether Linux appends the size of the unpacked kernel to the payload. Gzip has that size in its own trailer.
    pub(crate) fn has_size_appended(self) -> bool {
        self != Self::Gzip
    }

    /// Unpacks `packed`.
    ///
    /// # Errors
    /// [`Malformed::CompressedTooLarge`], [`Malformed::DecompressedTooLarge`] and [`Malformed::WindowTooLarge`] when a
    /// limit is passed, [`Malformed::OutOfMemory`] when this machine gives no more memory, [`Malformed::Corrupt`] for
    /// data that is damaged or ends too early.
    pub fn decompress(self, packed: &[u8], limits: &Limits) -> Result<Vec<u8>, Malformed> {
        let size_bytes = packed.len() as u64;
        if size_bytes > limits.compressed_max_bytes {
            return Err(Malformed::CompressedTooLarge {
                size_bytes,
                max_bytes: limits.compressed_max_bytes,
            });
        }
        let mut output = Output::new(self, limits.decompressed_max_bytes);
        match self {
            Self::Gzip => output.fill_from(flate2::bufread::GzDecoder::new(packed))?,
            Self::Bzip2 => output.fill_from(bzip2::bufread::BzDecoder::new(packed))?,
            Self::Xz => {
                let window_kib = window_max_kib(limits);
                output
                    .fill_from(lzma_rust2::XzReader::new_mem_limit(
                        packed, false, window_kib,
                    ))
                    .map_err(|error| window_too_large(error, limits))?;
            }
            Self::Lzma => unpack_lzma(packed, limits, &mut output)?,
            Self::Lzo => lzo::unpack(packed, &mut output)?,
            Self::Lz4Legacy => lz4::unpack_legacy(packed, &mut output)?,
            Self::Lz4Frame => output.fill_from(lz4_flex::frame::FrameDecoder::new(packed))?,
            Self::Zstd => unpack_zstd(packed, limits, &mut output)?,
        }
        Ok(output.into_bytes())
    }

    fn corrupt(self, reason: impl fmt::Display) -> Malformed {
        Malformed::Corrupt {
            format: self,
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Lz4Legacy | Self::Lz4Frame => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

fn unpack_lzma(packed: &[u8], limits: &Limits, output: &mut Output) -> Result<(), Malformed> {
    let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, window_max_kib(limits), None)
        .map_err(|error| window_too_large(output.read_error(&error), limits))?;
    output.fill_from(reader)
}

fn unpack_zstd(packed: &[u8], limits: &Limits, output: &mut Output) -> Result<(), Malformed> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::decoding::errors::FrameDecoderError;

    let max_bytes = limits.window_max_bytes;
    let mut decoder = StreamingDecoder::new_with_max_window_size(packed, max_bytes).map_err(
        |error| match error {
            FrameDecoderError::WindowSizeTooBig { .. } => Malformed::WindowTooLarge {
                format: output.format,
                max_bytes,
            },
            other => output.format.corrupt(other),
        },
    )?;
    output.fill_from(&mut decoder)?;
    match decoder.decoder.get_checksum_from_data() {
        Some(stated) if decoder.decoder.get_calculated_checksum() != Some(stated) => {
            Err(output.format.corrupt("its checksum does not match"))
        }
        _ => Ok(()),
    }
}

/// What the LZMA family adds to its dictionary in its reckoning of memory: probabilities and buffers.
const LZMA_OVERHEAD_KIB: u64 = 256;

fn window_max_kib(limits: &Limits) -> u32 {
    let kib = (limits.window_max_bytes / 1024).saturating_add(LZMA_OVERHEAD_KIB);
    // The largest number means "no limit" to the decoder.
    u32::try_from(kib).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

/// The LZMA family reports a dictionary over the limit as a lack of memory.
fn window_too_large(error: Malformed, limits: &Limits) -> Malformed {
    match error {
        Malformed::OutOfMemory { format } => Malformed::WindowTooLarge {
            format,
            max_bytes: limits.window_max_bytes,
        },
        other => other,
    }
}

/// How much room is made for a decompressor at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Unpacked bytes, never more than a limit.
struct Output {
    format: Compression,
    max_bytes: u64,
    /// Initialised memory; the first `filled` bytes of it are output.
    bytes: Vec<u8>,
    filled: usize,
}

impl Output {
    fn new(format: Compression, max_bytes: u64) -> Self {
        Self {
            format,
            max_bytes,
            bytes: Vec::new(),
            filled: 0,
        }
    }

    /// Takes all that `reader` gives, and stops with an error one byte after the limit.
    fn fill_from(&mut self, mut reader: impl Read) -> Result<(), Malformed> {
        loop {
            let room = self.room(CHUNK_BYTES / 4, CHUNK_BYTES)?;
            match reader.read(room) {
                Ok(0) => return Ok(()),
                Ok(got) => self.advance(got)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(&error)),
            }
        }
    }

    /// Room for at least `least` more bytes, made in steps of `step`.
    fn room(&mut self, least: usize, step: usize) -> Result<&mut [u8], Malformed> {
        let format = self.format;
        if self.bytes.len().saturating_sub(self.filled) < least {
            let grown = self.filled.saturating_add(step);
            self.bytes
                .try_reserve(grown.saturating_sub(self.bytes.len()))
                .map_err(|_| Malformed::OutOfMemory { format })?;
            self.bytes.resize(grown, 0);
        }
        Ok(self.bytes.get_mut(self.filled..).unwrap_or_default())
    }

    /// Counts the first `len` bytes of the room as output.
    fn advance(&mut self, len: usize) -> Result<(), Malformed> {
        self.filled = self.filled.saturating_add(len).min(self.bytes.len());
        if self.filled as u64 > self.max_bytes {
            return Err(Malformed::DecompressedTooLarge {
                format: self.format,
                max_bytes: self.max_bytes,
            });
        }
        Ok(())
    }

    fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.truncate(self.filled);
        self.bytes
    }

    fn read_error(&self, error: &io::Error) -> Malformed {
        match error.kind() {
            io::ErrorKind::OutOfMemory => Malformed::OutOfMemory {
                format: self.format,
            },
            _ => self.format.corrupt(error),
        }
    }
}
