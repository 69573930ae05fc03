//! The numbers by which Xen and the toolstack name things. Each kind of number has its own type.

use std::fmt;

/// Size of a page on x86, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Base-2 logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Number of a domain (`domid_t`). Xen reuses it after the domain's end; only a UUID is unique.
    DomId(u16)
}
number! {
    /// Number of a vCPU in its domain.
    VcpuId(u32)
}
number! {
    /// Port of an event channel in its domain.
    EvtchnPort(u32)
}
number! {
    /// A guest frame: hypercalls name a guest's page by it. For a PV domain it is a machine frame.
    Gfn(u64)
}
number! {
    /// A machine frame: a page of the host's memory.
    Mfn(u64)
}
number! {
    /// A pseudo-physical frame: the guest's own numbering of its pages, without gaps.
    Pfn(u64)
}

impl DomId {
    /// The first number that no ordinary domain can have (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: u16 = 0x7ff0;
    /// The caller's own domain (`DOMID_SELF`).
    pub const SELF: DomId = DomId(0x7ff0);
    /// The control domain (dom0).
    pub const ZERO: DomId = DomId(0);

    /// Whether the number is below the reserved ones and not 0.
    pub fn is_guest(self) -> bool {
        self.0 > 0 && self.0 < Self::FIRST_RESERVED
    }
}
