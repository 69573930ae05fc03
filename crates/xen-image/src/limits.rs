//! Size limits for kernel images.

/// Bytes of one mebibyte.
const MIB: u64 = 1 << 20;

/// The maximum sizes of an image.
///
/// The compression ratio has no limit. A kernel with a large zeroed table packs a thousand to one and is no attack.
/// The sizes alone limit a decompression bomb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest file that is read to be decompressed.
    pub compressed_max_bytes: u64,
    /// Maximum size of an ELF image in bytes, packed or not, and of each layer.
    pub decompressed_max_bytes: u64,
    /// The largest window or dictionary that a decompressor may keep. Linux packs with windows of up to 128 MiB.
    pub window_max_bytes: u64,
    /// The most guest memory that a kernel may ask for, from its lowest segment to the end of its highest.
    pub memory_max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed_max_bytes: 256 * MIB,
            decompressed_max_bytes: 512 * MIB,
            window_max_bytes: 128 * MIB,
            memory_max_bytes: 1024 * MIB,
        }
    }
}
