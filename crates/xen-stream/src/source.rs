//! [`Source`], a stream of bytes with the number of bytes that were read.

use std::io::{self, Read};

use crate::error::Cause;
use crate::fields::within_stream;
use crate::limits::Limits;

/// Bytes that are allocated before their data have arrived.
const STEP_BYTES: usize = 1 << 20;

/// A stream of bytes.
#[derive(Debug)]
pub(crate) struct Source<R> {
    from: R,
    offset_bytes: u64,
    limits: Limits,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(from: R, limits: Limits) -> Source<R> {
        Source {
            from,
            offset_bytes: 0,
            limits,
        }
    }

    pub(crate) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    pub(crate) fn into_inner(self) -> R {
        self.from
    }

    /// Fills the buffer.
    pub(crate) fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Cause> {
        within_stream(self.offset_bytes, buffer.len(), &self.limits)?;
        while !buffer.is_empty() {
            let length = match self.from.read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Cause::Io(error.kind())),
            };
            self.offset_bytes = self.offset_bytes.saturating_add(length as u64);
            buffer = match buffer.get_mut(length..) {
                Some(rest) if length > 0 => rest,
                _ => {
                    return Err(Cause::Truncated {
                        stream_bytes: self.offset_bytes,
                    });
                }
            };
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Cause> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads so many bytes. The memory grows with the bytes that have arrived.
    pub(crate) fn vec(&mut self, length_bytes: u32) -> Result<Vec<u8>, Cause> {
        let wanted = length_bytes as usize;
        let mut bytes = Vec::new();
        while bytes.len() < wanted {
            let have = bytes.len();
            bytes.resize(wanted.min(have + STEP_BYTES), 0);
            self.fill(bytes.get_mut(have..).unwrap_or_default())?;
        }
        Ok(bytes)
    }

    /// Reads and drops so many bytes.
    pub(crate) fn skip(&mut self, length_bytes: u32) -> Result<(), Cause> {
        let mut left = length_bytes as usize;
        let mut buffer = [0; 4096];
        while left > 0 {
            let piece = left.min(buffer.len());
            self.fill(buffer.get_mut(..piece).unwrap_or_default())?;
            left -= piece;
        }
        Ok(())
    }
}
