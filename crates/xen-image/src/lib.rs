//! Kernel images as hostile input: ELF and its Xen notes, bzImage, decompression, limits.
