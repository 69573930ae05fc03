//! Size limits for kernel images.

/// Bytes of one mebibyte.
const MIB: u64 = 1 << 20;

/// The sizes beyond which an image is refused.
///
/// There is no limit on the ratio of compression: a kernel with a large zeroed table packs a thousand to one and is no
/// attack, and what a bomb could take is bounded by the sizes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest file that is read to be decompressed.
    pub compressed_max_bytes: u64,
    /// The largest ELF image, whether it came out of a decompressor or lies plain in a file; each layer of several.
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
