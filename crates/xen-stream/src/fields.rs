//! Reads and writes little-endian fields of records.

use std::collections::BTreeSet;

use crate::error::Cause;
use crate::limits::Limits;

/// Reads fields from the beginning of bytes.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<&'a [u8; N], Cause> {
        let have_bytes = self.0.len() as u64;
        let (first, rest) = self.0.split_first_chunk().ok_or(Cause::Length {
            length_bytes: have_bytes,
            min_bytes: N as u64,
            max_bytes: u64::from(u32::MAX),
        })?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Cause> {
        self.bytes().map(|bytes| u8::from_le_bytes(*bytes))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Cause> {
        self.bytes().map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Cause> {
        self.bytes().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Cause> {
        self.bytes().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Reads reserved bytes, which must be zero.
    pub(crate) fn zero<const N: usize>(&mut self) -> Result<(), Cause> {
        all_zero(self.bytes::<N>()?)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Checks that reserved bytes are zero.
pub(crate) fn all_zero(bytes: &[u8]) -> Result<(), Cause> {
    match bytes.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(Cause::NotZero),
    }
}

/// Checks a length before anything is allocated by it.
pub(crate) fn within(length_bytes: u32, min_bytes: u64, max_bytes: u64) -> Result<(), Cause> {
    let length_bytes = u64::from(length_bytes);
    match (min_bytes..=max_bytes).contains(&length_bytes) {
        true => Ok(()),
        false => Err(Cause::Length {
            length_bytes,
            min_bytes,
            max_bytes,
        }),
    }
}

/// Checks that so many further bytes are inside of the limit of the whole stream.
pub(crate) fn within_stream(
    offset_bytes: u64,
    length_bytes: usize,
    limits: &Limits,
) -> Result<(), Cause> {
    let max_bytes = limits.stream_max_bytes;
    match offset_bytes.checked_add(length_bytes as u64) {
        Some(end_bytes) if end_bytes <= max_bytes => Ok(()),
        _ => Err(Cause::StreamLength { max_bytes }),
    }
}

/// Reads all entries of a table. `entry` reads one from its bytes.
pub(crate) fn entries<const N: usize, T>(
    bytes: &[u8],
    entry: impl Fn(&mut Fields<'_>) -> Result<T, Cause>,
) -> Result<Vec<T>, Cause> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(Cause::Ragged {
            length_bytes: bytes.len() as u64,
            entry_bytes: N as u64,
        });
    }
    chunks
        .iter()
        .map(|chunk| entry(&mut Fields::of(chunk)))
        .collect()
}

/// Checks that no two entries have the same key.
pub(crate) fn unique<T>(
    field: &'static str,
    entries: &[T],
    key: impl Fn(&T) -> u64,
) -> Result<(), Cause> {
    let mut seen = BTreeSet::new();
    let duplicate = entries.iter().map(key).find(|value| !seen.insert(*value));
    match duplicate {
        Some(value) => Err(Cause::DuplicateEntry { field, value }),
        None => Ok(()),
    }
}

/// Checks that the bytes of a part that is to be written are read as the same part.
pub(crate) fn same<T: PartialEq>(read: &T, wanted: &T) -> Result<(), Cause> {
    match read == wanted {
        true => Ok(()),
        false => Err(Cause::Ambiguous),
    }
}

/// Number of zero bytes that fill up a record of this length.
pub(crate) fn padding_bytes(length_bytes: u32) -> usize {
    (8 - (length_bytes % 8) as usize) % 8
}

/// Length of a body as a record has it.
pub(crate) fn length_of(body: &[u8]) -> Result<u32, Cause> {
    u32::try_from(body.len()).map_err(|_| Cause::Length {
        length_bytes: body.len() as u64,
        min_bytes: 0,
        max_bytes: u64::from(u32::MAX),
    })
}
