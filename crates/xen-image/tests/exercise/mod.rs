//! What is done with hostile bytes, by the replay of the seeds and by the fuzz targets alike. None of it may panic.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "included from several places"
)]

use xen_image::bzimage::SetupHeader;
use xen_image::{Compression, Image, Limits, Loader, XenNotes};

/// Small, so that a bomb is found out soon.
pub fn limits() -> Limits {
    Limits {
        compressed_max_bytes: 4 << 20,
        decompressed_max_bytes: 8 << 20,
        window_max_bytes: 8 << 20,
        memory_max_bytes: 64 << 20,
    }
}

pub type Target = fn(&[u8]);

/// Each folder of seeds, with what is done with them.
pub const TARGETS: [(&str, Target); 12] = [
    ("elf", elf),
    ("bzimage", bzimage),
    ("notes", notes),
    ("legacy", legacy),
    ("gzip", |data| decompress(Compression::Gzip, data)),
    ("bzip2", |data| decompress(Compression::Bzip2, data)),
    ("xz", |data| decompress(Compression::Xz, data)),
    ("lzma", |data| decompress(Compression::Lzma, data)),
    ("lzo", |data| decompress(Compression::Lzo, data)),
    ("lz4-legacy", |data| {
        decompress(Compression::Lz4Legacy, data)
    }),
    ("lz4-frame", |data| decompress(Compression::Lz4Frame, data)),
    ("zstd", |data| decompress(Compression::Zstd, data)),
];

pub fn elf(data: &[u8]) {
    if let Ok(image) = Image::parse("seed", data.to_vec(), &limits()) {
        use_image(&image);
    }
}

pub fn bzimage(data: &[u8]) {
    if let Ok(header) = SetupHeader::parse(data)
        && let Ok(range) = header.payload(data.len())
    {
        assert!(data.get(range).is_some());
    }
    let loader = Loader {
        limits: limits(),
        cache: None,
        ..Loader::default()
    };
    if let Ok(image) = loader.load_bytes("seed", data.to_vec()) {
        use_image(&image);
    }
}

pub fn notes(data: &[u8]) {
    if let Err(error) = XenNotes::parse_region(data) {
        assert!(error.to_string().is_ascii());
    }
}

pub fn legacy(data: &[u8]) {
    if let Err(error) = XenNotes::parse_legacy(data) {
        assert!(error.to_string().len() < 16 << 10);
    }
}

pub fn decompress(format: Compression, data: &[u8]) {
    if let Ok(unpacked) = format.decompress(data, &limits()) {
        assert!(unpacked.len() as u64 <= limits().decompressed_max_bytes);
    }
}

/// What was accepted has to be usable.
pub fn use_image(image: &Image) {
    for segment in image.segments() {
        let mut buffer = vec![0xff; usize::try_from(segment.mem_size.min(64 << 10)).unwrap()];
        image.read_segment_into(segment, 0, &mut buffer).unwrap();
        image
            .read_segment_into(segment, segment.mem_size - buffer.len() as u64, &mut buffer)
            .unwrap();
        assert!(
            image
                .read_segment_into(segment, segment.mem_size, &mut [0])
                .is_err()
        );
    }
    if let Ok(kernel) = image.pv() {
        assert!(kernel.virt.contains(&kernel.entry) && kernel.virt.start >= kernel.virt_base);
        for segment in image.segments() {
            assert!(kernel.paddr.contains(&kernel.segment_paddr(segment)));
        }
        assert!(kernel.pfn_of(kernel.virt.start) == Some(kernel.pfns().start));
    }
    if let Ok(kernel) = image.pvh() {
        assert!(kernel.paddr.contains(&u64::from(kernel.entry)) && kernel.paddr.end <= 1 << 32);
    }
    if let Ok(firmware) = image.hvm_firmware() {
        assert!(firmware.paddr.contains(&u64::from(firmware.entry)));
        assert!(firmware.paddr.end <= 1 << 32);
    }
    let _ = image.kinds();
}
