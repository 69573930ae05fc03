//! The xenstore wire format: `xsd_sockmsg` and message types of public/io/xs_wire.h.

/// Size of a message header in bytes.
pub const HEADER_SIZE: usize = 16;
/// Longest payload that either side may send, in bytes.
pub const PAYLOAD_MAX: usize = 4096;

/// Message types that this client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// List the children of a node.
    Directory = 1,
    /// Read a node.
    Read = 2,
    /// Register a watch.
    Watch = 4,
    /// Begin a transaction.
    TransactionStart = 6,
    /// End a transaction.
    TransactionEnd = 7,
    /// Write a node.
    Write = 11,
    /// Remove a node and all below it.
    Rm = 13,
    /// Set a node's permissions.
    SetPerms = 14,
    /// A watch fired.
    WatchEvent = 15,
    /// A request failed; the payload is the error's name.
    Error = 16,
}

/// A message header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type, one of [`Kind`] or something unknown.
    pub kind: u32,
    /// Request id, echoed in the reply.
    pub request_id: u32,
    /// Transaction id, 0 for none.
    pub transaction: u32,
    /// Size of the payload in bytes.
    pub len: u32,
}

impl Header {
    /// The header's bytes: four little-endian 32-bit numbers.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let fields = [self.kind, self.request_id, self.transaction, self.len];
        for (chunk, field) in bytes.chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads a header. `None` when its length is more than the protocol allows.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Option<Self> {
        let mut fields = [0; 4];
        for (field, chunk) in fields.iter_mut().zip(bytes.chunks_exact(4)) {
            *field = u32::from_le_bytes(chunk.try_into().ok()?);
        }
        let [kind, request_id, transaction, len] = fields;
        (len as usize <= PAYLOAD_MAX).then_some(Self {
            kind,
            request_id,
            transaction,
            len,
        })
    }
}

/// Splits a watch event's payload into path and token.
pub fn watch_event(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = payload.split(|&byte| byte == 0);
    Some((parts.next()?, parts.next()?))
}

/// A payload of text without the zero that may end it.
pub fn without_end(payload: &[u8]) -> &[u8] {
    payload.strip_suffix(&[0]).unwrap_or(payload)
}

/// The numbers of the existing children in a directory listing (names with a zero after each) that
/// are plain numbers, such as the vCPUs under `cpu`.
pub fn numbered_children(listing: &[u8]) -> impl Iterator<Item = u32> + '_ {
    listing
        .split(|&byte| byte == 0)
        .filter_map(|name| core::str::from_utf8(name).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_layout() {
        let header = Header {
            kind: Kind::Write as u32,
            request_id: 2,
            transaction: 3,
            len: 4,
        };
        assert_eq!(
            header.encode(),
            [11, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]
        );
    }

    #[test]
    fn too_long_is_refused() {
        let header = Header {
            kind: 2,
            request_id: 0,
            transaction: 0,
            len: PAYLOAD_MAX as u32 + 1,
        };
        assert_eq!(Header::decode(&header.encode()), None);
    }

    #[test]
    fn watch_events() {
        assert_eq!(
            watch_event(b"data/command\0command\0"),
            Some((&b"data/command"[..], &b"command"[..]))
        );
        assert_eq!(watch_event(b"data/command"), None);
    }

    #[test]
    fn children() {
        let numbers: Vec<u32> = numbered_children(b"0\x001\0x\x0012\0").collect();
        assert_eq!(numbers, [0, 1, 12]);
        assert_eq!(without_end(b"OK\0"), b"OK");
        assert_eq!(without_end(b"4"), b"4");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(kind: u32, request_id: u32, transaction: u32, len in 0..=4096u32) {
            let header = Header { kind, request_id, transaction, len };
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }
    }
}
