#![no_main]

#[path = "../../crates/xen-image/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::decompress(
    xen_image::Compression::Bzip2,
    data
));
