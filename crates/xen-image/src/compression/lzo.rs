//! LZO in lzop's format: a header, then blocks, then a block of length zero. Each block starts with its unpacked and
//! packed length and its checksums. Linux and Xen read the output of `lzop -9`; so does this module, by the header's
//! flags.

use super::{Compression, Output};
use crate::bytes::Cursor;
use crate::error::Malformed;

const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0x00, 0x0d, 0x0a, 0x1a, 0x0a];
/// lzop 1.0 of 1999, the first with today's header.
const VERSION_MIN: u16 = 0x0940;
/// The largest block that lzop writes.
const BLOCK_MAX_BYTES: u32 = 256 << 10;

const FLAG_ADLER32_UNPACKED: u32 = 0x001;
const FLAG_ADLER32_PACKED: u32 = 0x002;
const FLAG_EXTRA_FIELD: u32 = 0x040;
const FLAG_CRC32_UNPACKED: u32 = 0x100;
const FLAG_CRC32_PACKED: u32 = 0x200;
const FLAG_FILTER: u32 = 0x800;

pub(super) fn unpack(packed: &[u8], output: &mut Output<'_>) -> Result<(), Malformed> {
    let mut input = Cursor(packed);
    let checksums = header(&mut input)?;
    while let Some(block) = block(&mut input, checksums)? {
        unpack_block(block, output)?;
    }
    Ok(())
}

/// Number of four-byte checksums of each block. They are skipped, as in Linux and Xen. A damaged block fails to
/// unpack, and a hostile block would have correct checksums.
#[derive(Clone, Copy)]
struct Checksums {
    unpacked: usize,
    packed: usize,
}

fn header(input: &mut Cursor<'_>) -> Result<Checksums, Malformed> {
    let flags = header_fields(input)
        .ok_or_else(|| corrupt("its header is not that of lzop, or cut off"))?;
    if flags & (FLAG_FILTER | FLAG_EXTRA_FIELD) != 0 {
        return Err(corrupt(
            "it uses a filter or an extra field, which kernels do not",
        ));
    }
    let count = |flag: u32| usize::from(flags & flag != 0);
    Ok(Checksums {
        unpacked: count(FLAG_ADLER32_UNPACKED) + count(FLAG_CRC32_UNPACKED),
        packed: count(FLAG_ADLER32_PACKED) + count(FLAG_CRC32_PACKED),
    })
}

/// Passes over the header and gives its flags.
fn header_fields(input: &mut Cursor<'_>) -> Option<u32> {
    let magic = input.take(MAGIC.len())?;
    let version = input.u16_be()?;
    if magic != MAGIC || version < VERSION_MIN {
        return None;
    }
    let _library_and_needed_version = input.take(4)?;
    let _method_and_level = input.take(2)?;
    let flags = input.u32_be()?;
    let _mode_and_mtime = input.take(12)?;
    let name_len = input.u8()?;
    let _name_and_header_checksum = input.take(usize::from(name_len) + 4)?;
    Some(flags)
}

struct Block<'a> {
    unpacked_bytes: usize,
    packed: &'a [u8],
}

/// The next block, or `None` at the end mark.
fn block<'a>(input: &mut Cursor<'a>, checksums: Checksums) -> Result<Option<Block<'a>>, Malformed> {
    let cut_off = || corrupt("it ends inside a block");
    let unpacked_bytes = input.u32_be().ok_or_else(cut_off)?;
    if unpacked_bytes == 0 {
        return Ok(None);
    }
    let packed_bytes = input.u32_be().ok_or_else(cut_off)?;
    if unpacked_bytes > BLOCK_MAX_BYTES || packed_bytes == 0 || packed_bytes > unpacked_bytes {
        return Err(corrupt("a block's lengths are not possible"));
    }
    // A block that would not shrink is stored as it is, with no checksum of its packed form.
    let packed_checksums = if packed_bytes < unpacked_bytes {
        checksums.packed
    } else {
        0
    };
    input
        .take(4 * (checksums.unpacked + packed_checksums))
        .ok_or_else(cut_off)?;
    let packed = input.take(packed_bytes as usize).ok_or_else(cut_off)?;
    Ok(Some(Block {
        unpacked_bytes: unpacked_bytes as usize,
        packed,
    }))
}

fn unpack_block(block: Block<'_>, output: &mut Output<'_>) -> Result<(), Malformed> {
    let room = output.room(block.unpacked_bytes, BLOCK_MAX_BYTES as usize)?;
    let room = room.get_mut(..block.unpacked_bytes).unwrap_or_default();
    if block.packed.len() == room.len() {
        room.copy_from_slice(block.packed);
    } else if lzokay::decompress::decompress(block.packed, room).map_err(corrupt)? != room.len() {
        return Err(corrupt("a block unpacks to less than it says"));
    }
    output.advance(block.unpacked_bytes)
}

fn corrupt(reason: impl std::fmt::Display) -> Malformed {
    Compression::Lzo.corrupt(reason)
}
