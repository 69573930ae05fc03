//! [`Limits`], the largest numbers that a reader accepts from a stream.

/// Largest numbers that a stream may have. The receiver chooses them by its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// First page frame number that is refused. Pages without memory of an HVM or PVH guest may have larger numbers, below 2^52.
    pub pfn_end: u64,
    /// First number of a vCPU that is refused. It holds for PV guests, and for the state of HVM and PVH guests.
    pub vcpu_end: u32,
    /// Largest configuration in the header of xl's file, with what follows it there.
    pub config_max_bytes: u32,
    /// Largest state of Xen's own devices and vCPUs of an HVM or PVH guest.
    pub hvm_context_max_bytes: u32,
    /// Largest state of QEMU.
    pub emulator_max_bytes: u32,
    /// Largest number of bytes of the whole stream. libxc sends pages of a running guest again.
    pub stream_max_bytes: u64,
}

impl Default for Limits {
    /// Guests of up to 16 TiB and 4096 vCPUs.
    fn default() -> Limits {
        Limits {
            pfn_end: 1 << 32,
            vcpu_end: 4096,
            config_max_bytes: 4 << 20,
            hvm_context_max_bytes: 64 << 20,
            emulator_max_bytes: 64 << 20,
            // libxc sends a page at most 7 times: 5 times while the guest runs, once after it, once to be compared.
            stream_max_bytes: 128 << 40,
        }
    }
}
