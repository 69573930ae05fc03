//! The structures of Xen's public ABI, for the interface versions of Xen 4.17 to 4.22; no I/O.
