//! Linux's bzImage: a setup header, and the packed kernel behind it.
//!
//! Source: Linux's x86 boot protocol (`Documentation/arch/x86/boot.rst`). The header describes the payload since
//! version 2.08.

use std::ops::Range;

use crate::bytes::{array_at, u8_at, u16_at, u32_at};
use crate::error::Malformed;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The bytes of the file up to the end of the last field that is read here.
const SETUP_HEADER_BYTES: usize = PAYLOAD_LENGTH + 4;

const BOOT_FLAG_VALUE: u16 = 0xaa55;
const VERSION_MIN: u16 = 0x0208;
const SECTOR_BYTES: u64 = 512;
/// Number of setup sectors if the header says zero, as very old kernels do.
const SETUP_SECTS_DEFAULT: u8 = 4;

/// The fields of a bzImage's setup header that lead to the kernel inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetupHeader {
    /// The version of the boot protocol: `0x0208` is 2.08.
    pub version: u16,
    /// Sectors of real-mode code behind the boot sector; each has 512 bytes.
    pub setup_sectors: u8,
    /// Offset of the payload in bytes from the start of the protected-mode code.
    pub payload_offset: u32,
    /// The length of the payload in bytes.
    pub payload_length: u32,
}

impl SetupHeader {
    /// Whether `file` starts like a bzImage of any version.
    #[must_use]
    pub fn detect(file: &[u8]) -> bool {
        u16_at(file, BOOT_FLAG) == Some(BOOT_FLAG_VALUE)
            && array_at(file, HEADER_MAGIC) == Some(*b"HdrS")
    }

    /// Parses the setup header of `file`.
    ///
    /// # Errors
    /// [`Malformed::BadSetupHeader`] if it is not a bzImage or older than version 2.08, [`Malformed::BeyondEnd`] if
    /// it ends inside its header.
    pub fn parse(file: &[u8]) -> Result<Self, Malformed> {
        if !Self::detect(file) {
            return Err(Malformed::BadSetupHeader {
                reason: "its magic numbers are missing".to_owned(),
            });
        }
        let header = Self::fields(file).ok_or(Malformed::BeyondEnd {
            what: "setup header",
            offset: 0,
            len: SETUP_HEADER_BYTES as u64,
            image_bytes: file.len() as u64,
        })?;
        if header.version < VERSION_MIN {
            let (major, minor) = (header.version >> 8, header.version & 0xff);
            let reason = format!(
                "boot protocol {major}.{minor:02} is older than 2.08, so it does not say where its kernel is"
            );
            return Err(Malformed::BadSetupHeader { reason });
        }
        Ok(header)
    }

    fn fields(file: &[u8]) -> Option<Self> {
        Some(Self {
            version: u16_at(file, VERSION)?,
            setup_sectors: u8_at(file, SETUP_SECTS)?,
            payload_offset: u32_at(file, PAYLOAD_OFFSET)?,
            payload_length: u32_at(file, PAYLOAD_LENGTH)?,
        })
    }

    /// Range of the payload in a file of `file_bytes`.
    ///
    /// # Errors
    /// [`Malformed::BeyondEnd`] if it is not completely inside the file.
    pub fn payload(&self, file_bytes: usize) -> Result<Range<usize>, Malformed> {
        let sectors = if self.setup_sectors == 0 {
            SETUP_SECTS_DEFAULT
        } else {
            self.setup_sectors
        };
        // A byte's worth of sectors and two 32-bit numbers: no sum of them overflows 64 bits.
        let start = (u64::from(sectors) + 1) * SECTOR_BYTES + u64::from(self.payload_offset);
        let end = start + u64::from(self.payload_length);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        match range {
            Some((start, end)) if end <= file_bytes => Ok(start..end),
            _ => Err(Malformed::BeyondEnd {
                what: "payload",
                offset: start,
                len: u64::from(self.payload_length),
                image_bytes: file_bytes as u64,
            }),
        }
    }
}
