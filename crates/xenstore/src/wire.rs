//! The bytes on the wire: packet header, message kinds, error names.
//!
//! Facts from Xen's `xen/include/public/io/xs_wire.h` and `docs/misc/xenstore.txt`: every message in either direction is a
//! 16-byte header (four 32-bit words in the byte order of the host: type, request id, transaction id, payload length)
//! followed by at most [`PAYLOAD_MAX`] bytes. A request is answered by one packet of the same type and request id, or by one
//! of type [`MessageKind::Error`] whose payload is the name of an errno value. [`MessageKind::WatchEvent`] comes unasked.

use std::fmt;

/// Longest payload of a packet, in bytes. A longer one makes xenstored drop the connection.
pub const PAYLOAD_MAX: usize = 4096;

/// Longest payload of a reply that a client takes, in bytes.
///
/// The OCaml daemon does not keep to [`PAYLOAD_MAX`] in replies over its socket (`packet_of` in
/// `tools/ocaml/xenstored/connection.ml`), and it cannot give long lists in pieces: the children of `/local/domain` come in
/// one large reply. This has room for the names of all domains that there can be.
pub const REPLY_PAYLOAD_MAX: usize = 256 * 1024;

/// Size of the packet header, in bytes.
pub const HEADER_SIZE: usize = 16;

/// Longest text of an error reply that is kept, in bytes. The names that exist are much shorter.
const ERROR_NAME_MAX: usize = 64;

/// Defines the message kinds once: variant, number on the wire, name in error texts.
macro_rules! message_kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal, $name:literal;)*) => {
        /// The kind of a packet (`enum xsd_sockmsg_type`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum MessageKind {
            $($(#[$doc])* $kind,)*
            /// A number that this crate does not know; 20 (restrict) was taken out of Xen.
            Unknown(u32),
        }

        impl MessageKind {
            /// The kinds that have a name, in the order of their numbers.
            pub const KNOWN: &'static [MessageKind] = &[$(MessageKind::$kind,)*];

            /// The kind with this number.
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$kind,)*
                    other => Self::Unknown(other),
                }
            }

            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$kind => $number,)*
                    Self::Unknown(other) => other,
                }
            }

            /// A short name for messages to people.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                    Self::Unknown(_) => "unknown request",
                }
            }
        }
    };
}

message_kinds! {
    /// A command to xenstored itself.
    Control = 0, "control";
    /// Names of a node's children.
    Directory = 1, "directory";
    /// A node's value.
    Read = 2, "read";
    /// A node's permissions.
    GetPerms = 3, "get-perms";
    /// Ask for events about a path.
    Watch = 4, "watch";
    /// Removes a watch.
    Unwatch = 5, "unwatch";
    /// Begin a transaction.
    TransactionStart = 6, "transaction start";
    /// Commit or drop a transaction.
    TransactionEnd = 7, "transaction end";
    /// Connect a domain to xenstored.
    Introduce = 8, "introduce";
    /// Disconnect a domain.
    Release = 9, "release";
    /// A domain's home path.
    GetDomainPath = 10, "get-domain-path";
    /// Set a node's value.
    Write = 11, "write";
    /// Make sure that a node exists.
    Mkdir = 12, "mkdir";
    /// Remove a node and all below it.
    Rm = 13, "rm";
    /// Set a node's permissions.
    SetPerms = 14, "set-perms";
    /// Something under a watched path changed; only ever sent by xenstored.
    WatchEvent = 15, "watch event";
    /// The request failed; only ever sent by xenstored.
    Error = 16, "error";
    /// Is a domain connected?
    IsDomainIntroduced = 17, "is-introduced";
    /// Reports that a domain which had shut down runs again.
    Resume = 18, "resume";
    /// Give a domain another domain's rights.
    SetTarget = 19, "set-target";
    /// Forget all watches and transactions of this connection.
    ResetWatches = 21, "reset-watches";
    /// Names of a node's children, in pieces.
    DirectoryPart = 22, "directory-part";
    /// Features of xenstored, or those offered to a domain.
    GetFeature = 23, "get-feature";
    /// Choose the features offered to a domain.
    SetFeature = 24, "set-feature";
    /// Reads quota values.
    GetQuota = 25, "get-quota";
    /// Set a quota value.
    SetQuota = 26, "set-quota";
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "unknown request {number}"),
            known => f.write_str(known.name()),
        }
    }
}

/// Defines the error names once: variant, name on the wire.
macro_rules! error_names {
    ($($(#[$doc:meta])* $error:ident = $name:literal;)*) => {
        /// The reasons why xenstored refuses a request.
        ///
        /// The known names are those of `xsd_errors` in `xs_wire.h`, which the C daemon uses, and `EQUOTA`, which the
        /// OCaml daemon sends for a quota. Any other name is kept as text.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorName {
            $($(#[$doc])* $error,)*
            /// A name that is not in the table.
            Other(Box<str>),
        }

        impl ErrorName {
            /// The errors that are in the table.
            pub const KNOWN: &'static [ErrorName] = &[$(ErrorName::$error,)*];

            /// The error with this name.
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$error,)*
                    other => Self::Other(other.into()),
                }
            }

            /// The name on the wire.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$error => $name,)*
                    Self::Other(name) => name,
                }
            }
        }
    };
}

error_names! {
    /// Malformed request, or a path that is not valid.
    Einval = "EINVAL";
    /// The caller has no permission for the node.
    Eacces = "EACCES";
    /// The object already exists (a second watch with the same path and token).
    Eexist = "EEXIST";
    /// The node is a directory.
    Eisdir = "EISDIR";
    /// No such node, watch, transaction or domain.
    Enoent = "ENOENT";
    /// xenstored is out of memory, or its memory quota for the domain is reached.
    Enomem = "ENOMEM";
    /// A quota of the C daemon is reached: nodes, node size, watches, transactions or permissions.
    Enospc = "ENOSPC";
    /// xenstored failed inside.
    Eio = "EIO";
    /// The directory is not empty.
    Enotempty = "ENOTEMPTY";
    /// A request that this xenstored does not know.
    Enosys = "ENOSYS";
    /// The store is read-only.
    Erofs = "EROFS";
    /// Busy: a transaction within a transaction.
    Ebusy = "EBUSY";
    /// The transaction met a conflicting change: try it again.
    Eagain = "EAGAIN";
    /// The domain is connected already.
    Eisconn = "EISCONN";
    /// The reply does not fit in a packet, or (OCaml daemon) the value is over the quota for one node.
    E2big = "E2BIG";
    /// Not permitted (an unprivileged domain changes an owner).
    Eperm = "EPERM";
    /// A quota of the OCaml daemon is reached.
    Equota = "EQUOTA";
    /// A quota is reached.
    Edquot = "EDQUOT";
}

impl ErrorName {
    /// Parses the payload of an error reply: a name, usually followed by a NUL byte.
    ///
    /// Unprintable bytes are replaced, and only the first 64 are kept, because the text appears in messages.
    pub fn from_payload(payload: &[u8]) -> Self {
        let text = payload.split(|&byte| byte == 0).next().unwrap_or_default();
        let printable: String = text
            .iter()
            .take(ERROR_NAME_MAX)
            .map(|&byte| {
                if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '?'
                }
            })
            .collect();
        Self::from_name(&printable)
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that break the protocol, from xenstored or (towards an in-memory xenstored) from a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A payload longer than the protocol allows.
    #[error("a payload of {size_bytes} bytes, {limit_bytes} are allowed")]
    PayloadTooLong {
        /// Length that the header announces.
        size_bytes: usize,
        /// Longest that is taken.
        limit_bytes: usize,
    },
    /// The connection ended within a packet.
    #[error("the connection ended in the middle of a packet, after {size_bytes} bytes of it")]
    Truncated {
        /// Bytes of the packet that did arrive.
        size_bytes: usize,
    },
    /// A reply to a request that was not asked, or was answered before.
    #[error("a reply with request id {request_id}, which no open request has")]
    UnexpectedReply {
        /// Request id of the reply.
        request_id: u32,
    },
    /// A reply of another kind than its request.
    #[error("a reply of kind {got:?} to a request of kind {asked:?}")]
    WrongKind {
        /// Kind of the request.
        asked: MessageKind,
        /// Kind of the reply.
        got: MessageKind,
    },
    /// A payload that is not of the form its kind has.
    #[error("a payload that is not {expected}")]
    BadPayload {
        /// The expected form of the payload.
        expected: &'static str,
    },
}

/// One message: header and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Kind of the packet.
    pub kind: MessageKind,
    /// Chosen by the client, repeated in the reply.
    pub request_id: u32,
    /// Transaction that the request belongs to; 0 is none.
    pub transaction_id: u32,
    /// At most [`PAYLOAD_MAX`] bytes; in replies [`REPLY_PAYLOAD_MAX`].
    pub payload: Vec<u8>,
}

impl Packet {
    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`WireError::PayloadTooLong`]; then `out` is as it was.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        encode(
            self.kind,
            self.request_id,
            self.transaction_id,
            &self.payload,
            out,
        )
    }
}

/// Appends a packet made of these parts to `out`.
///
/// # Errors
/// [`WireError::PayloadTooLong`]; then `out` is as it was.
pub fn encode(
    kind: MessageKind,
    request_id: u32,
    transaction_id: u32,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let too_long = WireError::PayloadTooLong {
        size_bytes: payload.len(),
        limit_bytes: PAYLOAD_MAX,
    };
    if payload.len() > PAYLOAD_MAX {
        return Err(too_long);
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_long)?;
    for word in [kind.number(), request_id, transaction_id, length] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(payload);
    Ok(())
}

/// Cuts a stream of bytes into packets.
#[derive(Debug)]
pub struct Decoder {
    payload_max_bytes: usize,
    bytes: Vec<u8>,
    /// Bytes at the front that have been handed out already.
    consumed: usize,
}

impl Decoder {
    /// A decoder for requests of clients.
    pub fn of_requests() -> Self {
        Self::with_limit(PAYLOAD_MAX)
    }

    /// A decoder for replies of xenstored.
    pub fn of_replies() -> Self {
        Self::with_limit(REPLY_PAYLOAD_MAX)
    }

    fn with_limit(payload_max_bytes: usize) -> Self {
        Self {
            payload_max_bytes,
            bytes: Vec::new(),
            consumed: 0,
        }
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.discard_consumed();
        self.bytes.extend_from_slice(bytes);
    }

    /// The buffer to append arriving bytes to, for readers that fill a `Vec`.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.discard_consumed();
        &mut self.bytes
    }

    /// Takes out the next whole packet, if there is one.
    ///
    /// # Errors
    /// [`WireError::PayloadTooLong`] as soon as a header announces it. The stream has no packet borders any more then: give
    /// up the connection.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, WireError> {
        let waiting = self.bytes.get(self.consumed..).unwrap_or_default();
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_SIZE>() else {
            return Ok(None);
        };
        let [kind, request_id, transaction_id, length] = header_words(header);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.payload_max_bytes {
            return Err(WireError::PayloadTooLong {
                size_bytes: length,
                limit_bytes: self.payload_max_bytes,
            });
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let packet = Packet {
            kind: MessageKind::from_number(kind),
            request_id,
            transaction_id,
            payload: payload.to_vec(),
        };
        self.consumed += HEADER_SIZE + length;
        Ok(Some(packet))
    }

    /// Number of bytes that wait for the rest of their packet (or have not been asked for).
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.consumed
    }

    fn discard_consumed(&mut self) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
    }
}

/// The four words of a header: kind, request id, transaction id, payload length.
fn header_words(header: &[u8; HEADER_SIZE]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(header.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// The strings of a payload that consists of strings, each ended by a nul byte.
///
/// # Errors
/// [`WireError::BadPayload`] when the last one is not ended.
pub fn nul_terminated(payload: &[u8]) -> Result<Vec<&[u8]>, WireError> {
    match payload.split_last() {
        None => Ok(Vec::new()),
        Some((0, strings)) => Ok(strings.split(|&byte| byte == 0).collect()),
        Some(_) => Err(WireError::BadPayload {
            expected: "a list of strings that end with nul bytes",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_those_of_xs_wire_h() {
        let numbers: Vec<u32> = MessageKind::KNOWN
            .iter()
            .map(|kind| kind.number())
            .collect();
        let expected: Vec<u32> = (0..=19).chain(21..=26).collect();
        assert_eq!(numbers, expected);
        assert_eq!(MessageKind::from_number(20), MessageKind::Unknown(20));
    }

    #[test]
    fn kinds_survive_the_way_there_and_back() {
        for number in (0..64).chain([0xffff, u32::MAX]) {
            assert_eq!(MessageKind::from_number(number).number(), number);
        }
    }

    #[test]
    fn error_names_survive_the_way_there_and_back() {
        for error in ErrorName::KNOWN {
            let payload = [error.name().as_bytes(), b"\0"].concat();
            assert_eq!(&ErrorName::from_payload(&payload), error);
        }
        assert_eq!(
            ErrorName::from_payload(b"EWHATEVER\0"),
            ErrorName::Other("EWHATEVER".into())
        );
    }

    #[test]
    fn hostile_error_text_is_cut_and_made_printable() {
        assert_eq!(ErrorName::from_payload(b"").name(), "");
        assert_eq!(ErrorName::from_payload(b"\x1b[2J\n").name(), "?[2J?");
        assert_eq!(ErrorName::from_payload(&[b'E'; 4096]).name().len(), 64);
    }

    #[test]
    fn header_layout_is_four_words_in_host_order() {
        let mut bytes = Vec::new();
        encode(MessageKind::Write, 7, 9, b"/a\0b", &mut bytes).unwrap();
        let words: Vec<u8> = [11u32, 7, 9, 4]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(bytes, [words.as_slice(), b"/a\0b"].concat());
    }

    #[test]
    fn oversized_payload_is_refused_on_both_sides() {
        let mut bytes = vec![1];
        let error =
            encode(MessageKind::Write, 1, 0, &[0; PAYLOAD_MAX + 1], &mut bytes).unwrap_err();
        assert_eq!(
            error,
            WireError::PayloadTooLong {
                size_bytes: 4097,
                limit_bytes: 4096
            }
        );
        assert_eq!(bytes, [1]);

        let mut decoder = Decoder::of_requests();
        for word in [2u32, 1, 0, 4097] {
            decoder.push(&word.to_ne_bytes());
        }
        assert_eq!(
            decoder.next_packet(),
            Err(WireError::PayloadTooLong {
                size_bytes: 4097,
                limit_bytes: 4096
            })
        );
    }

    #[test]
    fn largest_payload_passes() {
        let mut decoder = Decoder::of_requests();
        encode(MessageKind::Read, 1, 0, &[7; PAYLOAD_MAX], decoder.buffer()).unwrap();
        assert_eq!(
            decoder.next_packet().unwrap().unwrap().payload.len(),
            PAYLOAD_MAX
        );
    }

    #[test]
    fn unended_strings_are_refused() {
        assert_eq!(nul_terminated(b"").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(nul_terminated(b"a\0\0").unwrap(), [b"a".as_slice(), b""]);
        assert!(nul_terminated(b"a\0b").is_err());
    }

    fn any_packet() -> impl Strategy<Value = Packet> {
        let payload = proptest::collection::vec(any::<u8>(), 0..=PAYLOAD_MAX);
        (any::<u32>(), any::<u32>(), any::<u32>(), payload).prop_map(
            |(kind, request_id, transaction_id, payload)| Packet {
                kind: MessageKind::from_number(kind),
                request_id,
                transaction_id,
                payload,
            },
        )
    }

    proptest! {
        #[test]
        fn packets_round_trip_however_the_stream_is_cut(
            packets in proptest::collection::vec(any_packet(), 0..5),
            piece in 1usize..600,
        ) {
            let mut stream = Vec::new();
            for packet in &packets {
                packet.encode_into(&mut stream).unwrap();
            }
            let mut decoder = Decoder::of_requests();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(packet) = decoder.next_packet().unwrap() {
                    got.push(packet);
                }
            }
            prop_assert_eq!(got, packets);
            prop_assert_eq!(decoder.waiting_bytes(), 0);
        }

        #[test]
        fn any_bytes_decode_without_panic_and_within_bounds(stream in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let mut decoder = Decoder::of_requests();
            decoder.push(&stream);
            while let Ok(Some(packet)) = decoder.next_packet() {
                prop_assert!(packet.payload.len() <= PAYLOAD_MAX);
                let _ = nul_terminated(&packet.payload);
                let _ = ErrorName::from_payload(&packet.payload);
            }
        }
    }
}
