//! The bytes of an image: in memory, or in an open file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::Malformed;

/// Bytes that can be read at any position.
#[derive(Debug)]
pub(crate) enum Source {
    /// The output of a decompressor.
    Memory(Vec<u8>),
    /// A part of an open file. The length was taken once; a file that has shrunk since gives a read error.
    File { file: File, start: u64, len: u64 },
}

impl Source {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Fills `buffer` with the bytes from `offset` on; all of them must be there.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .filter(|end| *end <= self.len());
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self {
            Self::Memory(bytes) => {
                let tail = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| bytes.get(offset..));
                let from = tail
                    .and_then(|tail| tail.get(..buffer.len()))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(from);
                Ok(())
            }
            Self::File { file, start, .. } => {
                file.read_exact_at(buffer, start.saturating_add(offset))
            }
        }
    }

    /// The bytes of the table or region `what` of an image, for parsing. The caller has bounded `len`.
    pub(crate) fn read_vec(
        &self,
        what: &'static str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, Malformed> {
        let image_bytes = self.len();
        let beyond = || Malformed::BeyondEnd {
            what,
            offset,
            len,
            image_bytes,
        };
        if offset.checked_add(len).is_none_or(|end| end > image_bytes) {
            return Err(beyond());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| beyond())?];
        self.read_at(offset, &mut bytes)
            .map_err(|source| Malformed::Read { what, source })?;
        Ok(bytes)
    }
}
