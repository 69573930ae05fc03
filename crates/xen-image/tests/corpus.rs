//! Replays the seeds of the fuzz targets, which are in `tests/corpus`, one folder for each target.
//!
//! A file that a fuzz target found something with belongs there too, under a name that says what it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;
mod exercise;

use std::fs;
use std::path::{Path, PathBuf};

use common::{ALL, Bits, Elf, bzimage, bzimage_around, linux, linux_notes, note, pack};
use xen_image::Compression;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn seeds(folder: &str) -> Vec<PathBuf> {
    fs::read_dir(corpus().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn seeds_do_not_panic() {
    for (folder, target) in exercise::TARGETS {
        let seeds = seeds(folder);
        assert!(!seeds.is_empty(), "{folder}");
        for seed in seeds {
            target(&fs::read(seed).unwrap());
        }
    }
}

#[test]
fn every_folder_of_seeds_has_a_target() {
    for entry in fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            exercise::TARGETS.iter().any(|(folder, _)| *folder == name),
            "{name:?}"
        );
    }
}

/// Writes the seeds that are made, not found: `cargo test -p xen-image --test corpus -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    let legacy = b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0xc0000000,PAE=yes,FEATURES=!dom0|x,HYPERCALL_PAGE=2\0";
    let small = Elf::new(Bits::B32).load(0x10_0000, 0, b"x", 0x1000);
    write("elf", "linux", &linux());
    write(
        "elf",
        "sections",
        &small.clone().section(".notes", 7, &linux_notes().0).build(),
    );
    write(
        "elf",
        "legacy",
        &small.section("__xen_guest", 1, legacy).build(),
    );
    write("notes", "linux", &linux_notes().0);
    write("notes", "others", &note(b"GNU\0", 3, b"build id"));
    write("legacy", "all", legacy);
    write("bzimage", "empty", &bzimage_around(b""));
    for format in ALL {
        let name = folder_of(format);
        write("bzimage", name, &bzimage(format, &linux()));
        write(name, "linux", &pack(format, &linux()));
        write(name, "zeros", &pack(format, &[0; 5000]));
    }
}

fn folder_of(format: Compression) -> &'static str {
    match format {
        Compression::Gzip => "gzip",
        Compression::Bzip2 => "bzip2",
        Compression::Xz => "xz",
        Compression::Lzma => "lzma",
        Compression::Lzo => "lzo",
        Compression::Lz4Legacy => "lz4-legacy",
        Compression::Lz4Frame => "lz4-frame",
        Compression::Zstd => "zstd",
    }
}

fn write(folder: &str, name: &str, bytes: &[u8]) {
    let folder = corpus().join(folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}
