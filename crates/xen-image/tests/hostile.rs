//! Kernels cut off at every byte, and kernels with bytes changed: errors, never a panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;
mod exercise;

use common::{ALL, Bits, Elf, bzimage, linux, pack};
use std::sync::LazyLock;

use proptest::prelude::*;
use xen_image::{Compression, Image, Limits, Loader};

fn legacy_kernel() -> Vec<u8> {
    let text = b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0xc0000000,PAE=yes,FEATURES=dom0\0";
    Elf::new(Bits::B32)
        .load(0xc010_0000, 0, b"code", 0x1000)
        .section("__xen_guest", 1, text)
        .build()
}

#[test]
fn a_kernel_cut_off_anywhere_is_refused() {
    for kernel in [linux(), legacy_kernel()] {
        for len in 0..kernel.len() {
            assert!(
                Image::parse("cut", kernel[..len].to_vec(), &Limits::default()).is_err(),
                "{len}"
            );
        }
        assert!(Image::parse("whole", kernel, &Limits::default()).is_ok());
    }
}

#[test]
fn a_packed_kernel_cut_off_anywhere_is_refused_or_whole() {
    /// The trailers of formats, which hold no data: a decoder may not look at all of theirs.
    const TRAILER_MAX_BYTES: usize = 16;
    let kernel = linux();
    let loader = Loader::default();
    for format in ALL {
        let packed = pack(format, &kernel);
        for len in 0..packed.len() {
            match loader.load_bytes("cut", packed[..len].to_vec()) {
                Err(_) => {}
                Ok(image) => {
                    assert!(
                        len + TRAILER_MAX_BYTES >= packed.len(),
                        "{format}: {len} of {}",
                        packed.len()
                    );
                    assert_eq!(image.size_bytes(), kernel.len() as u64);
                }
            }
        }
    }
}

#[test]
fn a_bzimage_cut_off_anywhere_is_refused_or_whole() {
    for format in ALL {
        let file = bzimage(format, &linux());
        let behind_payload = b"what follows the payload".len();
        for len in 0..file.len() {
            let loaded = Loader::default().load_bytes("cut", file[..len].to_vec());
            assert_eq!(
                loaded.is_ok(),
                len >= file.len() - behind_payload,
                "{format}: {len}"
            );
        }
    }
}

/// Where, and what is put there.
type Change = (prop::sample::Index, Vec<u8>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let interesting = prop_oneof![
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        Just(vec![0xff, 0xff, 0xff, 0x7f]),
        Just(vec![0, 0, 0, 0x80]),
        prop::collection::vec(any::<u8>(), 1..9),
        any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), interesting), 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for (index, new) in changes {
        let at = index.index(bytes.len());
        for (old, new) in bytes[at..].iter_mut().zip(new) {
            *old = *new;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn changed_kernels_do_not_panic(changes in changes(), legacy in any::<bool>()) {
        let kernel = if legacy { legacy_kernel() } else { linux() };
        exercise::elf(&changed(kernel, &changes));
    }

    #[test]
    fn changed_notes_do_not_panic(changes in changes()) {
        exercise::notes(&changed(common::linux_notes().0, &changes));
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic in 0..8usize) {
        exercise::notes(&bytes);
        exercise::legacy(&bytes);
        exercise::elf(&bytes);
        exercise::bzimage(&bytes);
        exercise::decompress(ALL[magic], &bytes);
    }
}

/// A kernel in one compression, alone and in a bzImage.
type Packed = (Compression, Vec<u8>, Vec<u8>);

static PACKED: LazyLock<Vec<Packed>> = LazyLock::new(|| {
    ALL.into_iter()
        .map(|format| (format, pack(format, &linux()), bzimage(format, &linux())))
        .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_packed_kernels_do_not_panic(changes in changes()) {
        for (format, packed, bzimage) in PACKED.iter() {
            exercise::decompress(*format, &changed(packed.clone(), &changes));
            exercise::bzimage(&changed(bzimage.clone(), &changes));
        }
    }
}
