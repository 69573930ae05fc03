//! The format of hypercalls on a socket: the lengths of two parts (32 bits each), a JSON part, then raw bytes.

use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xen_port::{DomId, Errno, Gfn, HvError};

/// Longest part of a frame in bytes. The largest there is names the pages of a big guest.
const PART_MAX: usize = 256 << 20;
const LENGTHS_BYTES: usize = 8;

/// One message: a JSON head and raw bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub head: Vec<u8>,
    pub bytes: Vec<u8>,
}

/// A call: its name, its arguments.
#[derive(Serialize, Deserialize)]
pub(crate) struct Call<A> {
    pub call: String,
    pub args: A,
}

/// The answer to a call: JSON, or an error of the hypervisor.
pub(crate) type Answer = Result<Value, Refusal>;

/// An [`HvError`] in a message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Call {
        domid: Option<DomId>,
        errno: Errno,
        detail: String,
    },
    Map {
        domid: DomId,
        gfn: Gfn,
        errno: Errno,
    },
    /// An error of the operating system, for a device.
    System {
        errno: Option<i32>,
        text: String,
    },
    Other(String),
}

impl From<HvError> for Refusal {
    fn from(error: HvError) -> Refusal {
        match error {
            HvError::Call {
                domid,
                errno: errno @ Errno::ENOSYS,
                ..
            } => Refusal::Call {
                domid,
                errno,
                detail: ": a simulated host cannot do this".to_owned(),
            },
            HvError::Call {
                domid,
                errno,
                detail,
                ..
            } => Refusal::Call {
                domid,
                errno,
                detail,
            },
            HvError::Map { domid, gfn, errno } => Refusal::Map { domid, gfn, errno },
            other => Refusal::Other(other.to_string()),
        }
    }
}

impl Refusal {
    /// The error of the call `op`.
    pub fn into_error(self, op: &'static str) -> HvError {
        match self {
            Refusal::Call {
                domid,
                errno,
                detail,
            } => HvError::Call {
                op,
                domid,
                errno,
                detail,
            },
            Refusal::Map { domid, gfn, errno } => HvError::Map { domid, gfn, errno },
            Refusal::System { text: what, .. } | Refusal::Other(what) => {
                HvError::Nonsense { op, what }
            }
        }
    }
}

/// A frame's bytes.
pub(crate) fn encode(head: &impl Serialize, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut frame = Vec::with_capacity(LENGTHS_BYTES + head.len() + bytes.len());
    for part in [head.as_slice(), bytes] {
        let length = u32::try_from(part.len()).map_err(io::Error::other)?;
        frame.extend(length.to_le_bytes());
    }
    frame.extend(head);
    frame.extend(bytes);
    Ok(frame)
}

/// The lengths of a frame's parts from its first 8 bytes.
pub(crate) fn lengths(start: &[u8]) -> io::Result<(usize, usize)> {
    let number = |at: usize| {
        let bytes: [u8; 4] = start.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize).filter(|length| *length <= PART_MAX)
    };
    number(0)
        .zip(number(4))
        .ok_or(ErrorKind::InvalidData.into())
}

/// Removes a complete frame from the received bytes, if there is one.
pub(crate) fn take(arrived: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    if arrived.len() < LENGTHS_BYTES {
        return Ok(None);
    }
    let (head, bytes) = lengths(arrived)?;
    let end = LENGTHS_BYTES + head + bytes;
    if arrived.len() < end {
        return Ok(None);
    }
    let rest = arrived.split_off(end);
    let mut frame = std::mem::replace(arrived, rest);
    let bytes = frame.split_off(LENGTHS_BYTES + head);
    let head = frame.split_off(LENGTHS_BYTES);
    Ok(Some(Frame { head, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_or_not_at_all() {
        let sent = encode(&["a"], b"xyz").unwrap();
        let mut arrived = Vec::new();
        for byte in sent.iter().chain(&sent) {
            assert!(arrived.len() < sent.len());
            assert_eq!(take(&mut arrived).unwrap(), None);
            arrived.push(*byte);
            if arrived.len() == sent.len() {
                let frame = take(&mut arrived).unwrap().unwrap();
                assert_eq!(
                    (frame.head, frame.bytes),
                    (b"[\"a\"]".to_vec(), b"xyz".to_vec())
                );
                assert!(arrived.is_empty());
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(take(&mut vec![0xff; 16]).is_err());
    }
}
