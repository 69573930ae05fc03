//! Bombs: small files that unpack to far more than fits. Each ends in an error, and none takes memory beyond the limits.
//!
//! One test in a process of its own, because it looks at that process's peak of memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use common::{LZ4_LEGACY_MAGIC, bzimage_around, lzo_header, pack};
use xen_image::{Compression, Limits, Loader, Malformed};

const MIB: u64 = 1 << 20;
const LIMITS: Limits = Limits {
    compressed_max_bytes: 64 * MIB,
    decompressed_max_bytes: 4 * MIB,
    window_max_bytes: 8 * MIB,
    memory_max_bytes: 64 * MIB,
};
/// What the handmade bombs unpack to, in mebibytes.
const BOMB_MIB: usize = 1024;
/// Twice the output (a vector that grows holds the old and the new for a moment), a window, input, and the test itself.
const PEAK_MAX_MIB: u64 = 64;

/// What a real encoder makes of zeros, for the formats whose data is one piece: smaller than the
/// others, because packing takes time.
fn zeros_packed(format: Compression) -> Vec<u8> {
    pack(format, &vec![0; 4 * LIMITS.decompressed_max_bytes as usize])
}

/// A gzip member of full-flushed deflate blocks, which can follow each other as often as one likes.
fn gzip_bomb() -> Vec<u8> {
    use flate2::{Compress, FlushCompress};
    let mut deflate = Compress::new(flate2::Compression::new(9), false);
    let mut block = Vec::with_capacity(64 << 10);
    deflate
        .compress_vec(&vec![0; MIB as usize], &mut block, FlushCompress::Full)
        .unwrap();
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    [&header[..], &block.repeat(BOMB_MIB)].concat()
}

/// An xz block of LZMA2 chunks, each of which starts anew.
fn xz_bomb() -> Vec<u8> {
    const STREAM_HEADER_BYTES: usize = 12;
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    std::io::Write::write_all(&mut writer, &vec![0; MIB as usize]).unwrap();
    let whole = writer.finish().unwrap();
    let block_header_bytes = (usize::from(whole[STREAM_HEADER_BYTES]) + 1) * 4;
    let (headers, data) = whole.split_at(STREAM_HEADER_BYTES + block_header_bytes);
    [headers, &lzma2_chunks(data).repeat(BOMB_MIB)].concat()
}

/// The chunks at the start of `data`, without the zero byte that ends them.
fn lzma2_chunks(data: &[u8]) -> &[u8] {
    const CHUNK_HEADER_BYTES: usize = 6;
    let mut len = 0;
    while data[len] != 0 {
        // Packed chunks alone: zeros are never stored as they are.
        assert!(data[len] >= 0x80);
        let properties = usize::from(data[len] >= 0xc0);
        let packed = usize::from(u16::from_be_bytes([data[len + 3], data[len + 4]])) + 1;
        len += CHUNK_HEADER_BYTES - 1 + properties + packed;
    }
    &data[..len]
}

/// A zstd frame of run-length blocks: four bytes for each 128 KiB.
fn zstd_bomb() -> Vec<u8> {
    const BLOCK_BYTES: usize = 128 << 10;
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for _ in 0..BOMB_MIB * MIB as usize / BLOCK_BYTES {
        let header = ((BLOCK_BYTES as u32) << 3) | (1 << 1);
        out.extend(&header.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}

/// One LZ4 block that unpacks to 8 MiB: a literal, and a match that goes on and on.
fn lz4_block() -> Vec<u8> {
    let mut block = vec![0x1f, 0, 1, 0];
    block.extend(vec![0xff; 8 * MIB as usize / 255 - 2]);
    block.extend([0, 0x10, 0]);
    block
}

fn lz4_legacy_bomb() -> Vec<u8> {
    let block = lz4_block();
    let mut out = LZ4_LEGACY_MAGIC.to_vec();
    for _ in 0..BOMB_MIB / 8 {
        out.extend((block.len() as u32).to_le_bytes());
        out.extend(&block);
    }
    out
}

fn lzo_bomb() -> Vec<u8> {
    const BLOCK_BYTES: usize = 256 << 10;
    let packed = lzokay::compress::compress(&vec![0; BLOCK_BYTES]).unwrap();
    let mut out = lzo_header(1);
    for _ in 0..BOMB_MIB * MIB as usize / BLOCK_BYTES {
        out.extend((BLOCK_BYTES as u32).to_be_bytes());
        out.extend((packed.len() as u32).to_be_bytes());
        out.extend([0; 4]);
        out.extend(&packed);
    }
    out
}

fn bombs() -> Vec<(Compression, Vec<u8>)> {
    vec![
        (Compression::Gzip, gzip_bomb()),
        (Compression::Bzip2, zeros_packed(Compression::Bzip2)),
        (Compression::Xz, xz_bomb()),
        (Compression::Lzma, zeros_packed(Compression::Lzma)),
        (Compression::Lzo, lzo_bomb()),
        (Compression::Lz4Legacy, lz4_legacy_bomb()),
        (Compression::Lz4Frame, zeros_packed(Compression::Lz4Frame)),
        (Compression::Zstd, zstd_bomb()),
    ]
}

#[test]
fn bombs_end_in_errors_within_bounded_memory() {
    let loader = Loader {
        limits: LIMITS,
        cache: None,
        ..Loader::default()
    };
    let bombs = bombs();
    let peak_before_mib = reset_peak_mib();
    for (format, bomb) in &bombs {
        assert!((bomb.len() as u64) < 8 * MIB, "{format}");
        let error = format.decompress(bomb, &LIMITS).unwrap_err();
        assert!(
            matches!(
                error,
                Malformed::DecompressedTooLarge {
                    max_bytes: 4_194_304,
                    ..
                }
            ),
            "{format}: {error}"
        );
        // The same inside of a bzImage, and inside of another layer.
        for wrapped in [
            bzimage_around(&[bomb, &[0; 4][..]].concat()),
            pack(Compression::Gzip, bomb),
        ] {
            let error = loader.load_bytes("bomb", wrapped).unwrap_err();
            assert!(
                matches!(error, Malformed::DecompressedTooLarge { .. }),
                "{format}: {error}"
            );
        }
    }
    let Some((before, after)) = peak_before_mib.zip(peak_mib()) else {
        return;
    };
    assert!(
        after.saturating_sub(before) < PEAK_MAX_MIB,
        "{before} MiB before, {after} MiB after"
    );
}

/// The most memory that this process has had at once; `None` where the system does not tell.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib / 1024)
}

/// Starts counting the peak anew, and gives it.
fn reset_peak_mib() -> Option<u64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_mib()
}
