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

/// A function of a PCI device of the host, by its address: segment, bus, device and function in 16, 8, 5 and 3 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PciSbdf(pub u32);

impl PciSbdf {
    /// The function at these numbers. Bits beyond the width of a number are left out.
    pub fn new(segment: u16, bus: u8, device: u8, function: u8) -> PciSbdf {
        let devfn = (device & 0x1f) << 3 | function & 7;
        PciSbdf(u32::from(segment) << 16 | u32::from(bus) << 8 | u32::from(devfn))
    }

    /// Parses an address as sysfs writes it: `0000:03:00.0`, each number with all its digits.
    pub fn parse(text: &str) -> Option<PciSbdf> {
        let mut parts = text.split([':', '.']);
        let mut number = |digits: usize| {
            let part = parts.next()?;
            let is_hex = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(part, 16).ok())?
        };
        let (segment, bus, device, function) = (number(4)?, number(2)?, number(2)?, number(1)?);
        let sbdf = PciSbdf(segment << 16 | bus << 8 | device << 3 | function);
        (device < 32 && function < 8 && sbdf.to_string() == text.to_ascii_lowercase())
            .then_some(sbdf)
    }

    /// Its function number.
    pub fn function(self) -> u8 {
        (self.0 & 7) as u8
    }
}

impl fmt::Display for PciSbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segment, bus) = (self.0 >> 16, self.0 >> 8 & 0xff);
        let (device, function) = (self.0 >> 3 & 0x1f, self.0 & 7);
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl DomId {
    /// The first number that no ordinary domain can have (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: u16 = 0x7ff0;
    /// The caller's own domain (`DOMID_SELF`).
    pub const SELF: DomId = DomId(0x7ff0);
    /// Xen's owner of I/O memory and of PCI devices that no domain may use (`DOMID_IO`).
    pub const IO: DomId = DomId(0x7ff1);
    /// The control domain (dom0).
    pub const ZERO: DomId = DomId(0);

    /// Whether the number is below the reserved ones and not 0.
    pub fn is_guest(self) -> bool {
        self.0 > 0 && self.0 < Self::FIRST_RESERVED
    }
}
