//! Unpacked kernels, kept by content.

/// A cache directory.
#[derive(Debug)]
pub struct Cache {}
