//! Decompresses all formats of packed Linux kernels, under [`Limits`].
//!
//! The output is passed on in pieces and stops at the limit. No allocation depends on a size in a header alone;
//! windows and dictionaries have limits too. Only the first stream, frame or member is unpacked. Kernels have one,
//! and the bytes after it are padding, a signature, or the size that Linux appends.

mod lz4;
mod lzo;

use std::fmt;
use std::io::{self, Read, Write};

use crate::error::Malformed;
use crate::limits::Limits;

/// A way to compress a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2 (magic `BZh`).
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

/// Each format with its first bytes. LZMA has no magic number: it is recognised by its usual parameter byte and a
/// dictionary of at least 64 KiB, as in Linux and Xen.
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
    /// As [`Self::decompress_to`].
    pub fn decompress(self, packed: &[u8], limits: &Limits) -> Result<Vec<u8>, Malformed> {
        let mut bytes = InMemory(Vec::new());
        self.decompress_to(packed, limits, &mut bytes)?;
        Ok(bytes.0)
    }

    /// Unpacks `packed` and writes the output to `sink`. Returns the number of bytes. If it fails, a part was
    /// written.
    ///
    /// # Errors
    /// [`Malformed::CompressedTooLarge`], [`Malformed::DecompressedTooLarge`] and [`Malformed::WindowTooLarge`] if a
    /// limit is exceeded, [`Malformed::OutOfMemory`] if the machine has no more memory, [`Malformed::Corrupt`] for
    /// data that is damaged or ends too early, [`Malformed::NotUnpacked`] if the sink fails.
    pub fn decompress_to(
        self,
        packed: &[u8],
        limits: &Limits,
        sink: &mut dyn Write,
    ) -> Result<u64, Malformed> {
        let size_bytes = packed.len() as u64;
        if size_bytes > limits.compressed_max_bytes {
            return Err(Malformed::CompressedTooLarge {
                size_bytes,
                max_bytes: limits.compressed_max_bytes,
            });
        }
        let mut output = Output::new(self, limits.decompressed_max_bytes, sink);
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
        output.finish()
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

fn unpack_lzma(packed: &[u8], limits: &Limits, output: &mut Output<'_>) -> Result<(), Malformed> {
    let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, window_max_kib(limits), None)
        .map_err(|error| window_too_large(output.read_error(&error), limits))?;
    output.fill_from(reader)
}

fn unpack_zstd(packed: &[u8], limits: &Limits, output: &mut Output<'_>) -> Result<(), Malformed> {
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

/// Memory of the LZMA family in addition to its dictionary, in KiB: probabilities and buffers.
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

/// Size of a decompressor's output buffer in bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// An output in memory. A write fails if there is no more memory.
struct InMemory(Vec<u8>);

impl Write for InMemory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .try_reserve(bytes.len())
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacked bytes on their way, never more than a limit.
struct Output<'a> {
    format: Compression,
    max_bytes: u64,
    sink: &'a mut dyn Write,
    /// Initialised memory. Its first `filled` bytes are output that was not yet passed on.
    bytes: Vec<u8>,
    filled: usize,
    /// Number of output bytes so far.
    total_bytes: u64,
}

impl<'a> Output<'a> {
    fn new(format: Compression, max_bytes: u64, sink: &'a mut dyn Write) -> Self {
        Self {
            format,
            max_bytes,
            sink,
            bytes: Vec::new(),
            filled: 0,
            total_bytes: 0,
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

    /// A buffer with room for at least `least` bytes; allocates `size` bytes if it is too small.
    fn room(&mut self, least: usize, size: usize) -> Result<&mut [u8], Malformed> {
        let format = self.format;
        if self.bytes.len().saturating_sub(self.filled) < least {
            self.hand_on()?;
        }
        let more = size.saturating_sub(self.bytes.len());
        if self.bytes.len().saturating_sub(self.filled) < least && more > 0 {
            self.bytes
                .try_reserve(more)
                .map_err(|_| Malformed::OutOfMemory { format })?;
            self.bytes.resize(size, 0);
        }
        Ok(self.bytes.get_mut(self.filled..).unwrap_or_default())
    }

    /// Counts the first `len` bytes of the room as output.
    fn advance(&mut self, len: usize) -> Result<(), Malformed> {
        let len = len.min(self.bytes.len().saturating_sub(self.filled));
        self.filled += len;
        self.total_bytes = self.total_bytes.saturating_add(len as u64);
        if self.total_bytes > self.max_bytes {
            return Err(Malformed::DecompressedTooLarge {
                format: self.format,
                max_bytes: self.max_bytes,
            });
        }
        Ok(())
    }

    /// Passes the output so far to the sink.
    fn hand_on(&mut self) -> Result<(), Malformed> {
        let filled = std::mem::take(&mut self.filled);
        let bytes = self.bytes.get(..filled).unwrap_or_default();
        let format = self.format;
        self.sink
            .write_all(bytes)
            .map_err(|source| match source.kind() {
                io::ErrorKind::OutOfMemory => Malformed::OutOfMemory { format },
                _ => Malformed::NotUnpacked { format, source },
            })
    }

    fn finish(mut self) -> Result<u64, Malformed> {
        self.hand_on()?;
        Ok(self.total_bytes)
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
