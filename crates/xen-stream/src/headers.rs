//! [`LibxlHeader`] and [`ImageHeader`], the headers of the libxl stream and of the libxc stream.

use std::fmt::{self, Display};

use crate::error::Cause;
use crate::fields::{Fields, all_zero};

/// Length of the header of a libxl stream.
pub(crate) const LIBXL_BYTES: usize = 16;
const LIBXL_IDENT: &[u8; 8] = b"LibxlFmt";
const LIBXL_VERSION: u32 = 2;
const BIG_ENDIAN: u32 = 1 << 0;
const CONVERTED: u32 = 1 << 1;

/// Length of both headers of a libxc stream.
pub(crate) const IMAGE_BYTES: usize = 40;
const MARKER: &[u8; 8] = &[0xff; 8];
const IMAGE_IDENT: &[u8; 4] = b"XENF";
const PAGE_SHIFT: u16 = 12;

/// Header of a libxl stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LibxlHeader {
    /// Whether a program has converted the stream from the format of Xen 4.5 and earlier.
    pub is_converted: bool,
}

impl LibxlHeader {
    pub(crate) fn parse(bytes: &[u8; LIBXL_BYTES]) -> Result<LibxlHeader, Cause> {
        let mut fields = Fields::of(bytes);
        if fields.bytes::<8>()? != LIBXL_IDENT {
            return Err(Cause::Magic);
        }
        let version = u32::from_be_bytes(*fields.bytes()?);
        if version != LIBXL_VERSION {
            return Err(Cause::Version { version });
        }
        let options = u32::from_be_bytes(*fields.bytes()?);
        if options & BIG_ENDIAN != 0 {
            return Err(Cause::BigEndian);
        }
        match options & !CONVERTED {
            0 => Ok(LibxlHeader {
                is_converted: options & CONVERTED != 0,
            }),
            flags => Err(Cause::UnknownFlags { flags }),
        }
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let options = if self.is_converted { CONVERTED } else { 0 };
        let mut bytes = LIBXL_IDENT.to_vec();
        bytes.extend(LIBXL_VERSION.to_be_bytes());
        bytes.extend(options.to_be_bytes());
        bytes
    }
}

/// Type of the guest, as far as a libxc stream says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// A paravirtualised guest.
    Pv,
    /// HVM or PVH. Only the configuration says which of them.
    Hvm,
}

impl Guest {
    fn code(self) -> u32 {
        match self {
            Guest::Pv => 1,
            Guest::Hvm => 2,
        }
    }
}

impl Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guest::Pv => "PV",
            Guest::Hvm => "HVM or PVH",
        })
    }
}

/// Image header and domain header of a libxc stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Version of the format: 2 (Xen 4.6 to 4.13) or 3.
    pub version: u32,
    /// Type of the guest.
    pub guest: Guest,
    /// Version of the Xen that saved the guest, major and minor. Major 0 stands for a converted image of Xen 4.5 or earlier.
    pub xen: (u32, u32),
}

impl ImageHeader {
    pub(crate) fn parse(bytes: &[u8; IMAGE_BYTES]) -> Result<ImageHeader, Cause> {
        let mut fields = Fields::of(bytes);
        if fields.bytes::<8>()? != MARKER {
            return Err(Cause::Magic);
        }
        if fields.bytes::<4>()? != IMAGE_IDENT {
            return Err(Cause::Magic);
        }
        let version = u32::from_be_bytes(*fields.bytes()?);
        if !matches!(version, 2 | 3) {
            return Err(Cause::Version { version });
        }
        let options = u32::from(u16::from_be_bytes(*fields.bytes()?));
        if options & BIG_ENDIAN != 0 {
            return Err(Cause::BigEndian);
        }
        if options != 0 {
            return Err(Cause::UnknownFlags { flags: options });
        }
        fields.zero::<6>()?;
        ImageHeader::parse_domain(version, fields)
    }

    fn parse_domain(version: u32, mut fields: Fields<'_>) -> Result<ImageHeader, Cause> {
        let guest = match fields.u32()? {
            1 => Guest::Pv,
            2 => Guest::Hvm,
            code => return Err(Cause::GuestType { code }),
        };
        let shift = fields.u16()?;
        if shift != PAGE_SHIFT {
            return Err(Cause::Value {
                field: "page_shift",
                value: u64::from(shift),
            });
        }
        fields.zero::<2>()?;
        let xen = (fields.u32()?, fields.u32()?);
        all_zero(fields.rest())?;
        Ok(ImageHeader {
            version,
            guest,
            xen,
        })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = [&MARKER[..], IMAGE_IDENT].concat();
        bytes.extend(self.version.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.guest.code().to_le_bytes());
        bytes.extend(u32::from(PAGE_SHIFT).to_le_bytes());
        bytes.extend(self.xen.0.to_le_bytes());
        bytes.extend(self.xen.1.to_le_bytes());
        bytes
    }
}
