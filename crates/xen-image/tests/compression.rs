//! Each compression, alone and in a bzImage; and what is wrong with damaged ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use common::{
    ALL, LZ4_LEGACY_MAGIC, LZMA_WINDOW_BYTES, bzimage, bzimage_around, linux, lzo_header, pack,
    pack_lz4_legacy, padded_linux,
};
use proptest::prelude::*;
use xen_image::bzimage::SetupHeader;
use xen_image::{Compression, KernelKind, Limits, Loader, Malformed, Origin};

fn limits(decompressed_max_bytes: u64) -> Limits {
    Limits {
        decompressed_max_bytes,
        ..Limits::default()
    }
}

fn load(bytes: Vec<u8>) -> Result<xen_image::Image, Malformed> {
    Loader::default().load_bytes("kernel", bytes)
}

#[test]
fn every_format_is_detected_and_unpacked() {
    // More than one chunk, block or window of each format's smallest.
    let kernel = padded_linux(1_000_000);
    for format in ALL {
        let packed = pack(format, &kernel);
        assert_eq!(Compression::detect(&packed), Some(format));
        assert_eq!(
            format.decompress(&packed, &Limits::default()).unwrap(),
            kernel,
            "{format}"
        );
    }
}

#[test]
fn every_bzimage_loads() {
    let kernel = linux();
    for format in ALL {
        let image = load(bzimage(format, &kernel)).unwrap();
        assert_eq!(image.kinds().first(), Some(&KernelKind::Pv64), "{format}");
        assert_eq!(*image.origin(), Origin::Unpacked { not_cached: None });
        assert_eq!(image.size_bytes(), kernel.len() as u64);
    }
}

#[test]
fn a_limit_is_kept_to_the_byte() {
    let kernel = padded_linux(300_000);
    let size = kernel.len() as u64;
    for format in ALL {
        let packed = pack(format, &kernel);
        assert!(
            format.decompress(&packed, &limits(size)).is_ok(),
            "{format}"
        );
        assert!(matches!(
            format.decompress(&packed, &limits(size - 1)),
            Err(Malformed::DecompressedTooLarge { max_bytes, .. }) if max_bytes == size - 1
        ));
        let small_input = Limits {
            compressed_max_bytes: packed.len() as u64 - 1,
            ..Limits::default()
        };
        assert!(matches!(
            format.decompress(&packed, &small_input),
            Err(Malformed::CompressedTooLarge { .. })
        ));
    }
}

#[test]
fn empty_output_is_no_kernel() {
    for format in ALL {
        let error = load(pack(format, b"")).map(|image| image.size_bytes());
        assert!(error.is_err(), "{format}");
    }
}

#[test]
fn layers_are_bounded() {
    let layers =
        |count: usize| (0..count).fold(linux(), |packed, _| pack(Compression::Gzip, &packed));
    assert!(load(layers(3)).is_ok());
    assert!(matches!(
        load(layers(4)),
        Err(Malformed::TooManyLayers { max: 3 })
    ));
    // A gzip'ed bzImage.
    assert!(load(pack(Compression::Gzip, &bzimage(Compression::Xz, &linux()))).is_ok());
    // bzImages in bzImages.
    let nested = (0..4).fold(linux(), |inner, _| bzimage(Compression::Zstd, &inner));
    assert!(matches!(load(nested), Err(Malformed::TooManyLayers { .. })));
    let three_then_junk = (0..3).fold(b"junk".to_vec(), |packed, _| {
        pack(Compression::Gzip, &packed)
    });
    assert!(matches!(
        load(three_then_junk),
        Err(Malformed::UnknownContent)
    ));
    let junk = pack(Compression::Gzip, b"junk");
    assert!(matches!(load(junk), Err(Malformed::UnknownContent)));
}

#[test]
fn other_files_are_told_as_such() {
    let error = load(b"#!/bin/sh\n".to_vec()).unwrap_err();
    assert!(
        matches!(&error, Malformed::UnknownFormat { start } if start == "23 21 2f 62 69 6e 2f 73"),
        "{error}"
    );
    assert!(matches!(
        load(Vec::new()),
        Err(Malformed::UnknownFormat { .. })
    ));
    assert!(matches!(
        load(bzimage_around(b"no known compression")),
        Err(Malformed::UnknownPayload { .. })
    ));
    assert!(matches!(
        load(bzimage_around(&linux())),
        Err(Malformed::UnknownPayload { .. })
    ));
}

#[test]
fn the_setup_header_is_checked() {
    let good = bzimage(Compression::Gzip, &linux());
    let header = SetupHeader::parse(&good).unwrap();
    assert_eq!((header.version, header.setup_sectors), (0x20f, 2));
    let with = |offset: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[offset..offset + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let old = SetupHeader::parse(&with(0x206, &[0x07, 0x02])).unwrap_err();
    assert!(matches!(old, Malformed::BadSetupHeader { .. }), "{old}");
    assert!(matches!(
        SetupHeader::parse(&with(0x1fe, &[0])),
        Err(Malformed::BadSetupHeader { .. })
    ));
    assert!(matches!(
        SetupHeader::parse(&good[..0x24f]),
        Err(Malformed::BeyondEnd { .. })
    ));
    for (offset, len) in [
        (u32::MAX, u32::MAX),
        (0, u32::MAX),
        (u32::MAX, 0),
        (0x40, good.len() as u32),
    ] {
        let changed = with(0x248, &[offset.to_le_bytes(), len.to_le_bytes()].concat());
        assert!(matches!(
            load(changed),
            Err(Malformed::BeyondEnd {
                what: "payload",
                ..
            })
        ));
    }
    // No setup sectors stand for four.
    let none = SetupHeader {
        setup_sectors: 0,
        payload_offset: 0,
        payload_length: 1,
        ..header
    };
    assert_eq!(none.payload(5 * 512 + 1).unwrap(), 2560..2561);
}

#[test]
fn the_size_behind_the_payload_has_to_be_right() {
    for format in ALL
        .into_iter()
        .filter(|format| *format != Compression::Gzip)
    {
        let mut payload = pack(format, &linux());
        payload.extend((linux().len() as u32 + 1).to_le_bytes());
        assert!(
            matches!(
                load(bzimage_around(&payload)),
                Err(Malformed::WrongSize { .. })
            ),
            "{format}"
        );
        // One that is missing takes four bytes off the packed data.
        assert!(
            load(bzimage_around(&pack(format, &linux()))).is_err(),
            "{format}"
        );
    }
}

#[test]
fn checksums_count() {
    let kernel = padded_linux(10_000);
    for format in [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Lz4Frame,
        Compression::Zstd,
    ] {
        let packed = pack(format, &kernel);
        let mut accepted = 0;
        for at in (0..packed.len()).step_by(7) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            // A bit in a name, a date or a reserved place changes no data.
            if format
                .decompress(&damaged, &Limits::default())
                .is_ok_and(|unpacked| unpacked != kernel)
            {
                accepted += 1;
            }
        }
        assert_eq!(accepted, 0, "{format}");
    }
}

#[test]
fn windows_are_bounded() {
    let kernel = padded_linux(10_000);
    let small = Limits {
        window_max_bytes: u64::from(LZMA_WINDOW_BYTES) / 4,
        ..Limits::default()
    };
    for format in [Compression::Xz, Compression::Lzma] {
        let packed = pack(format, &kernel);
        assert!(
            matches!(
                format.decompress(&packed, &small),
                Err(Malformed::WindowTooLarge { .. })
            ),
            "{format}"
        );
    }
    let mut lzma = pack(Compression::Lzma, &kernel);
    lzma[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(
        Compression::Lzma
            .decompress(&lzma, &Limits::default())
            .is_err()
    );
    // A zstd frame with a window of 2^41 bytes, and one block of nothing.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
    let limits = Limits::default();
    assert!(matches!(
        Compression::Zstd.decompress(&zstd, &limits),
        Err(Malformed::WindowTooLarge { .. })
    ));
    // And one that says its content has 2^60 bytes, in one segment.
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    zstd.extend((1u64 << 60).to_le_bytes());
    zstd.extend([0x01, 0x00, 0x00]);
    assert!(matches!(
        Compression::Zstd.decompress(&zstd, &limits),
        Err(Malformed::WindowTooLarge { .. })
    ));
}

#[test]
fn lzo_headers_and_blocks_are_checked() {
    let unpack = |bytes: &[u8]| Compression::Lzo.decompress(bytes, &Limits::default());
    let stored = |unpacked: u32, packed: u32, rest: &[u8]| {
        [
            &lzo_header(1)[..],
            &unpacked.to_be_bytes(),
            &packed.to_be_bytes(),
            &[0; 4],
            rest,
        ]
        .concat()
    };
    assert_eq!(unpack(&stored(4, 4, b"abcd\0\0\0\0")).unwrap(), b"abcd");
    for bad in [
        stored(4, 5, b"abcde\0\0\0\0"),
        stored(4, 0, b"\0\0\0\0"),
        stored(256 * 1024 + 1, 4, b"abcd\0\0\0\0"),
        stored(u32::MAX, u32::MAX, b"abcd"),
        stored(4, 4, b"abc"),
        stored(4, 4, b"abcd"),
        stored(9, 4, b"abcd\0\0\0\0"),
        lzo_header(0x800),
        lzo_header(0x40),
    ] {
        assert!(
            matches!(
                unpack(&bad),
                Err(Malformed::Corrupt {
                    format: Compression::Lzo,
                    ..
                })
            ),
            "{bad:x?}"
        );
    }
    // Both checksums of both forms: four in front of a packed block.
    let block = lzokay::compress::compress(&[7; 1000]).unwrap();
    let all = [
        &lzo_header(0x303)[..],
        &1000u32.to_be_bytes(),
        &(block.len() as u32).to_be_bytes(),
        &[0; 16],
        &block,
        &[0; 4],
    ]
    .concat();
    assert_eq!(unpack(&all).unwrap(), [7; 1000]);
}

#[test]
fn legacy_lz4_chunks_are_checked() {
    let unpack = |bytes: &[u8]| Compression::Lz4Legacy.decompress(bytes, &Limits::default());
    let chunk = |len: u32, rest: &[u8]| [&LZ4_LEGACY_MAGIC[..], &len.to_le_bytes(), rest].concat();
    assert_eq!(unpack(&LZ4_LEGACY_MAGIC).unwrap(), b"");
    assert_eq!(unpack(&chunk(3, b"\x20ab")).unwrap(), b"ab");
    for bad in [
        chunk(0, b""),
        chunk(4, b"\x20ab"),
        chunk(u32::MAX, b"\x20ab"),
        chunk(3, b"\xf0ab"),
        chunk(3, b"\x20ab\0"),
    ] {
        assert!(
            matches!(unpack(&bad), Err(Malformed::Corrupt { .. })),
            "{bad:x?}"
        );
    }
    // Two files in a row.
    let twice = [pack_lz4_legacy(b"one "), pack_lz4_legacy(b"two")].concat();
    assert_eq!(unpack(&twice).unwrap(), b"one two");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_packed_comes_out(bytes in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 1..20_000)) {
        for format in ALL {
            let packed = pack(format, &bytes);
            prop_assert_eq!(format.decompress(&packed, &Limits::default()).unwrap(), bytes.clone(), "{}", format);
        }
    }
}
