//! Records of the libxl stream about QEMU: [`EmulatorXenstore`] and [`EmulatorContext`].

use std::collections::BTreeSet;

use crate::error::Cause;
use crate::fields::{Fields, within};
use crate::kinds::LibxlKind;
use crate::limits::Limits;

/// Length of what is before the data.
const HEADER_BYTES: u64 = 8;
/// Largest record with nodes of xenstore.
const XENSTORE_MAX_BYTES: u64 = 64 << 10;

/// Checks the length of a libxl record before anything is allocated by it.
pub(crate) fn check_length(
    kind: LibxlKind,
    length_bytes: u32,
    limits: &Limits,
) -> Result<(), Cause> {
    let (min_bytes, max_bytes) = match kind {
        LibxlKind::EmulatorXenstore => (HEADER_BYTES, XENSTORE_MAX_BYTES),
        LibxlKind::EmulatorContext => (HEADER_BYTES, u64::from(limits.emulator_max_bytes)),
        _ => (0, 0),
    };
    within(length_bytes, min_bytes, max_bytes)
}

/// The kinds of emulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulatorKind {
    /// Not known: a converted stream of Xen 4.5 or earlier.
    Unknown,
    /// The QEMU of Xen's own tree, of which Xen 4.17 and later have no support.
    Traditional,
    /// QEMU of the QEMU project.
    Qemu,
}

impl EmulatorKind {
    fn code(self) -> u32 {
        match self {
            EmulatorKind::Unknown => 0,
            EmulatorKind::Traditional => 1,
            EmulatorKind::Qemu => 2,
        }
    }
}

/// An emulator of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// Kind of the emulator.
    pub kind: EmulatorKind,
    /// Number of the emulator among those of the guest. libxl writes 0.
    pub index: u32,
}

impl Emulator {
    fn parse(fields: &mut Fields<'_>) -> Result<Emulator, Cause> {
        let kind = match fields.u32()? {
            0 => EmulatorKind::Unknown,
            1 => EmulatorKind::Traditional,
            2 => EmulatorKind::Qemu,
            code => {
                return Err(Cause::Value {
                    field: "emulator_id",
                    value: u64::from(code),
                });
            }
        };
        let index = fields.u32()?;
        Ok(Emulator { kind, index })
    }

    fn to_bytes(self) -> [u8; 8] {
        let both = u64::from(self.index) << 32 | u64::from(self.kind.code());
        both.to_le_bytes()
    }
}

/// Nodes in xenstore of an emulator. The sender chose them all: a receiver must check each against what it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatorXenstore {
    /// The emulator whose nodes they are.
    pub emulator: Emulator,
    /// Paths below the emulator's folder, and values.
    pub nodes: Vec<(String, Vec<u8>)>,
}

impl EmulatorXenstore {
    pub(crate) fn parse(body: &[u8]) -> Result<EmulatorXenstore, Cause> {
        let mut fields = Fields::of(body);
        let emulator = Emulator::parse(&mut fields)?;
        let nodes = parse_nodes(fields.rest())?;
        Ok(EmulatorXenstore { emulator, nodes })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.emulator.to_bytes().to_vec();
        for (path, value) in &self.nodes {
            bytes.extend([path.as_bytes(), b"\0", value, b"\0"].concat());
        }
        bytes
    }
}

fn parse_nodes(data: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Cause> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    let data = data.strip_suffix(b"\0").ok_or(Cause::Nul)?;
    let mut words = data.split(|byte| *byte == 0);
    let mut nodes = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(path) = words.next() {
        let value = words.next().ok_or(Cause::Nul)?;
        if !seen.insert(path) {
            return Err(Cause::DuplicateNode);
        }
        nodes.push((parse_path(path)?, value.to_vec()));
    }
    Ok(nodes)
}

/// Reads a path that stays below the folder it is put into.
fn parse_path(path: &[u8]) -> Result<String, Cause> {
    let is_right = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    let has_empty_names = path.split(|byte| *byte == b'/').any(<[u8]>::is_empty);
    match std::str::from_utf8(path) {
        Ok(text) if path.iter().all(is_right) && !has_empty_names => Ok(text.to_owned()),
        _ => Err(Cause::NodeName),
    }
}

/// State of an emulator, in a format that only the emulator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatorContext {
    /// The emulator whose state it is.
    pub emulator: Emulator,
    /// State of the emulator.
    pub state: Vec<u8>,
}

impl EmulatorContext {
    pub(crate) fn parse(body: &[u8]) -> Result<EmulatorContext, Cause> {
        let mut fields = Fields::of(body);
        let emulator = Emulator::parse(&mut fields)?;
        let state = fields.rest().to_vec();
        Ok(EmulatorContext { emulator, state })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.emulator.to_bytes()[..], &self.state].concat()
    }
}
