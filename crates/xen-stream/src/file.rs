//! [`FileHeader`], the header of a file of `xl save` with the configuration. Facts: `tools/xl/xl.h`, `tools/xl/xl_saverestore.c`.

use crate::error::Cause;
use crate::fields::{Fields, length_of, within};
use crate::limits::Limits;

/// First bytes of the file.
pub(crate) const MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
/// Length of the header without the configuration.
pub(crate) const HEADER_BYTES: usize = 48;
/// Length of the number before the configuration.
const LENGTH_BYTES: u64 = 4;
const BYTE_ORDER: u32 = 0x0102_0304;
/// The configuration is JSON.
const JSON: u32 = 1 << 0;
/// A libxl stream of version 2 follows.
const STREAM_V2: u32 = 1 << 1;

/// The configuration of the guest in a file of xl, with the NUL that xl puts at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// The file has no configuration.
    None,
    /// JSON in the form of libxl.
    Json(Vec<u8>),
}

impl Config {
    /// All bytes of the configuration.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Config::None => &[],
            Config::Json(bytes) => bytes,
        }
    }

    /// The configuration without the NUL at its end.
    pub fn text(&self) -> &[u8] {
        let bytes = self.bytes();
        bytes.strip_suffix(b"\0").unwrap_or(bytes)
    }
}

/// Header of a file of `xl save`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Flags that a reader may ignore. No release of xl sets one.
    pub optional_flags: u32,
    /// The configuration of the guest.
    pub config: Config,
    /// Bytes behind the configuration. No release of xl writes any.
    pub tail: Vec<u8>,
}

/// The fields of a header, before its configuration is read.
pub(crate) struct FileHead {
    is_json: bool,
    optional_flags: u32,
    pub(crate) optional_bytes: u32,
}

impl FileHead {
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES], limits: &Limits) -> Result<FileHead, Cause> {
        let mut fields = Fields::of(bytes);
        if fields.bytes::<32>()? != MAGIC {
            return Err(Cause::Magic);
        }
        match fields.u32()? {
            BYTE_ORDER => {}
            order if order.swap_bytes() == BYTE_ORDER => return Err(Cause::ForeignByteOrder),
            _ => return Err(Cause::Magic),
        }
        let flags = fields.u32()?;
        if flags & !(JSON | STREAM_V2) != 0 {
            return Err(Cause::UnknownFlags {
                flags: flags & !(JSON | STREAM_V2),
            });
        }
        if flags & STREAM_V2 == 0 {
            return Err(Cause::LegacyStream);
        }
        let head = FileHead {
            is_json: flags & JSON != 0,
            optional_flags: fields.u32()?,
            optional_bytes: fields.u32()?,
        };
        let max_bytes = u64::from(limits.config_max_bytes);
        // xl writes the length of the configuration, even if there is none.
        within(head.optional_bytes, LENGTH_BYTES, max_bytes)?;
        Ok(head)
    }

    /// The header, once its optional data have arrived.
    pub(crate) fn with_optional(self, optional: &[u8]) -> Result<FileHeader, Cause> {
        let mut fields = Fields::of(optional);
        let config_bytes = fields.u32()?;
        let rest = fields.rest();
        let (config, tail) = rest
            .split_at_checked(config_bytes as usize)
            .ok_or(Cause::Length {
                length_bytes: u64::from(config_bytes),
                min_bytes: 0,
                max_bytes: rest.len() as u64,
            })?;
        Ok(FileHeader {
            config: self.config(config)?,
            optional_flags: self.optional_flags,
            tail: tail.to_vec(),
        })
    }

    fn config(&self, bytes: &[u8]) -> Result<Config, Cause> {
        let config = match (self.is_json, bytes) {
            (true, _) => Config::Json(bytes.to_vec()),
            (false, []) => return Ok(Config::None),
            (false, _) => return Err(Cause::NotJson),
        };
        match config.text() {
            [] => Err(Cause::Missing { what: "its JSON" }),
            // A C program would read another text up to there.
            text if text.contains(&0) => Err(Cause::Nul),
            _ => Ok(config),
        }
    }
}

impl FileHeader {
    /// The header of a configuration in JSON, as xl of 4.6 and later writes it. A NUL is added.
    pub fn with_json(json: &[u8]) -> FileHeader {
        FileHeader {
            optional_flags: 0,
            config: Config::Json([json, b"\0"].concat()),
            tail: Vec::new(),
        }
    }

    /// Reads a header with its optional data.
    pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<FileHeader, Cause> {
        let mut fields = Fields::of(bytes);
        FileHead::parse(fields.bytes()?, limits)?.with_optional(fields.rest())
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Cause> {
        let flags = match self.config {
            Config::Json(_) => JSON | STREAM_V2,
            Config::None => STREAM_V2,
        };
        let config = self.config.bytes();
        let optional = [&length_of(config)?.to_le_bytes()[..], config, &self.tail].concat();
        let optional_bytes = length_of(&optional)?;
        let numbers = [BYTE_ORDER, flags, self.optional_flags, optional_bytes];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(optional);
        Ok(bytes)
    }
}
