//! LZ4's legacy framing, as `lz4 -l` writes it and Linux packs its kernel: a magic number, then chunks, each with the
//! length of its packed bytes in front. A chunk unpacks to at most 8 MiB. There is no end mark: the data's end is the end.

use super::{Compression, Output};
use crate::bytes::Cursor;
use crate::error::Malformed;

const MAGIC: u32 = 0x184c_2102;
const CHUNK_UNPACKED_MAX_BYTES: usize = 8 << 20;
/// The most that `CHUNK_UNPACKED_MAX_BYTES` incompressible bytes can grow to, by LZ4's own bound.
const CHUNK_PACKED_MAX_BYTES: usize =
    CHUNK_UNPACKED_MAX_BYTES + CHUNK_UNPACKED_MAX_BYTES / 255 + 16;
/// Maximum number of output bytes for one byte of an LZ4 block.
const RATIO_MAX: usize = 255;

pub(super) fn unpack_legacy(packed: &[u8], output: &mut Output<'_>) -> Result<(), Malformed> {
    let mut input = Cursor(packed);
    if input.u32_le() != Some(MAGIC) {
        return Err(corrupt("its magic number is missing"));
    }
    while !input.0.is_empty() {
        match input.u32_le() {
            None => return Err(corrupt("it ends inside a chunk's length")),
            // In joined files, the next one's magic number is at the place of a length.
            Some(MAGIC) => {}
            Some(len) => unpack_chunk(chunk(&mut input, len)?, output)?,
        }
    }
    Ok(())
}

fn chunk<'a>(input: &mut Cursor<'a>, len: u32) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > CHUNK_PACKED_MAX_BYTES {
        return Err(corrupt("a chunk is longer than a chunk can be"));
    }
    input
        .take(len)
        .ok_or_else(|| corrupt("it ends inside a chunk"))
}

fn unpack_chunk(chunk: &[u8], output: &mut Output<'_>) -> Result<(), Malformed> {
    // Room in proportion to the chunk, so that a million tiny chunks do not clear a million times 8 MiB.
    let room_bytes = chunk
        .len()
        .saturating_mul(RATIO_MAX)
        .min(CHUNK_UNPACKED_MAX_BYTES);
    let room = output.room(room_bytes, room_bytes)?;
    let room = room.get_mut(..room_bytes).unwrap_or_default();
    let unpacked = lz4_flex::block::decompress_into(chunk, room).map_err(corrupt)?;
    output.advance(unpacked)
}

fn corrupt(reason: impl std::fmt::Display) -> Malformed {
    Compression::Lz4Legacy.corrupt(reason)
}
