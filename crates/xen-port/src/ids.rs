//! The numbers that Xen and the toolstack name things by, each a type of its own.

use std::fmt;

/// Size of a page on x86, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Its logarithm.
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
    /// A domain's number (`domid_t`). Reused after a domain's end: a UUID says which domain it is.
    DomId(u16)
}
number! {
    /// A vCPU's number within its domain.
    VcpuId(u32)
}
number! {
    /// An event channel's port within its domain.
    EvtchnPort(u32)
}
number! {
    /// A guest frame: what a hypercall names a page of a guest by. For a PV domain a machine frame.
    Gfn(u64)
}
number! {
    /// A machine frame.
    Mfn(u64)
}
number! {
    /// A pseudo-physical frame: a guest's own contiguous numbering.
    Pfn(u64)
}

impl DomId {
    /// The first number that no ordinary domain can have (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: u16 = 0x7ff0;
    /// The caller's own domain (`DOMID_SELF`).
    pub const SELF: DomId = DomId(0x7ff0);
    /// The control domain.
    pub const ZERO: DomId = DomId(0);

    /// Whether a domain that a toolstack makes may have this number.
    pub fn is_guest(self) -> bool {
        self.0 > 0 && self.0 < Self::FIRST_RESERVED
    }
}
