//! The errors of xenstore operations. Each names the request, its path, the cause and a remedy.

use crate::path::PathError;
use crate::wire::{ErrorName, MessageKind, WireError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Error of a xenstore operation.
///
/// `operation` is the request. `object` is its path, or a text such as `domain 5` or `a transaction` for requests
/// without a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node does not exist (for requests about a domain, such as introduce: the domain).
    #[error(
        "xenstore {operation} of {object}: it does not exist; the domain or device may be gone, `xenstore-ls` shows what is there"
    )]
    NotFound {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
    },
    /// xenstored does not permit the request to this connection.
    #[error(
        "xenstore {operation} of {object}: not permitted ({reason}); run it in the control domain, or have the node's owner permit it \
         (`xenstore-ls -p` shows permissions)"
    )]
    Permission {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Error name from xenstored: EACCES or EPERM.
        reason: ErrorName,
    },
    /// A quota of xenstored is reached.
    #[error(
        "xenstore {operation} of {object}: over a quota ({reason}): {kind}; `xenstore-control quota` shows and sets them"
    )]
    Quota {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// The kind of quota.
        kind: QuotaKind,
        /// Error name from xenstored.
        reason: ErrorName,
    },
    /// xenstored refused the request for another reason.
    #[error(
        "xenstore {operation} of {object}: xenstored answered {reason} ({})",
        meaning(reason)
    )]
    Refused {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Error name from xenstored.
        reason: ErrorName,
    },
    /// The request is too long for a packet, so the client did not send it.
    #[error(
        "xenstore {operation} of {object}: path and value take {size_bytes} bytes, a request holds {limit_bytes}; shorten the value or \
         split it over several nodes"
    )]
    TooLarge {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Size of the request's payload, in bytes.
        size_bytes: usize,
        /// Maximum size of a payload, in bytes.
        limit_bytes: usize,
    },
    /// A transaction conflicted with other writers at each try.
    #[error(
        "xenstore transaction: other changes conflicted with it {attempts} times within {elapsed_ms} ms; try again when fewer domains are \
         being created, or look for a domain that writes without pause (`xenstore-watch /`)"
    )]
    ConflictExhausted {
        /// Number of tries.
        attempts: u32,
        /// Duration of all tries, in milliseconds.
        elapsed_ms: u64,
    },
    /// The client found no xenstored.
    #[error(
        "no xenstored: {}; is this a Xen host, and is xenstored running (`systemctl status xenstored`)?",
        list(tried)
    )]
    NoDaemon {
        /// Each socket or device that the client tried, with its error.
        tried: Vec<Attempt>,
    },
    /// xenstored runs, but this process may not connect to it.
    #[error(
        "not permitted to connect to xenstored: {}; run it as root",
        list(tried)
    )]
    NotPermittedToConnect {
        /// Each socket or device that the client tried, with its error.
        tried: Vec<Attempt>,
    },
    /// xenstored did not answer before the deadline. The client closes the connection, so that it takes no late
    /// answer for another one.
    #[error(
        "xenstore {operation} of {object}: no answer within {waited_ms} ms over {transport}; see whether xenstored runs and is not stuck \
         (`systemctl status xenstored`)"
    )]
    NotAnswering {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Socket or device of the connection.
        transport: String,
        /// The deadline that passed, in milliseconds.
        waited_ms: u64,
    },
    /// xenstored closed the connection.
    #[error(
        "xenstore {operation} of {object}: xenstored closed the connection over {transport}; it was stopped or it crashed: start it again \
         and retry"
    )]
    Disconnected {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Socket or device of the connection.
        transport: String,
    },
    /// The answer breaks the protocol. The client closes the connection.
    #[error(
        "xenstore {operation} of {object}: what answers over {transport} does not speak the xenstore protocol: {violation}; check which \
         program serves that socket"
    )]
    Protocol {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Socket or device of the connection.
        transport: String,
        /// The rule that the answer broke.
        #[source]
        violation: WireError,
    },
    /// The system refused to send or receive. The client closes the connection.
    #[error("xenstore {operation} of {object}: {transport} failed: {source}")]
    Io {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
        /// Socket or device of the connection.
        transport: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The client closed the connection after an earlier error.
    #[error(
        "xenstore {operation} of {object}: the connection was closed after an earlier error; open a new one"
    )]
    Closed {
        /// The request that failed.
        operation: MessageKind,
        /// Path or domain of the request.
        object: String,
    },
    /// The form of an answer is wrong. The connection stays open.
    #[error(
        "xenstored's answer about {object} is {violation}; it may be a newer one that this program does not know"
    )]
    Malformed {
        /// Path or domain of the request.
        object: String,
        /// The rule that the answer broke.
        #[source]
        violation: WireError,
    },
    /// The value is not text.
    #[error(
        "the xenstore value of {object} is not text (UTF-8); whoever may write it wrote something else"
    )]
    NotText {
        /// Path of the value.
        object: String,
    },
    /// A path that xenstored does not accept.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A text in a request contains a nul byte. In the protocol a nul byte ends a string.
    #[error("xenstore {operation}: {text:?} holds a nul byte; leave it out")]
    NulByte {
        /// The request that failed.
        operation: MessageKind,
        /// The text with the nul byte.
        text: String,
    },
}

impl Error {
    /// Whether the node does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the client has such a watch already.
    pub fn is_there_already(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                reason: ErrorName::Eexist,
                ..
            }
        )
    }

    /// Whether the error ended the connection, so that the caller needs a new one.
    pub fn is_connection_lost(&self) -> bool {
        matches!(
            self,
            Self::NotAnswering { .. }
                | Self::Disconnected { .. }
                | Self::Protocol { .. }
                | Self::Io { .. }
                | Self::Closed { .. }
        )
    }

    /// The error for xenstored's refusal of a request.
    pub(crate) fn refused(operation: MessageKind, object: &str, reason: ErrorName) -> Self {
        let object = object.to_owned();
        match reason {
            ErrorName::Enoent => Self::NotFound { operation, object },
            ErrorName::Eacces | ErrorName::Eperm => Self::Permission {
                operation,
                object,
                reason,
            },
            _ => match QuotaKind::of(&reason) {
                Some(kind) => Self::Quota {
                    operation,
                    object,
                    kind,
                    reason,
                },
                None => Self::Refused {
                    operation,
                    object,
                    reason,
                },
            },
        }
    }
}

/// Sort of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaKind {
    /// Number of nodes, watches, transactions, permissions of a node, or (C daemon) size of a node.
    Count,
    /// A value that is too big for one node (OCaml daemon), or an answer that is too big for a packet.
    Size,
    /// Memory of xenstored that the domain's nodes and requests take.
    Memory,
}

impl QuotaKind {
    fn of(reason: &ErrorName) -> Option<Self> {
        match reason {
            ErrorName::Enospc | ErrorName::Equota | ErrorName::Edquot => Some(Self::Count),
            ErrorName::E2big => Some(Self::Size),
            ErrorName::Enomem => Some(Self::Memory),
            _ => None,
        }
    }
}

impl fmt::Display for QuotaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => {
                "too many nodes, watches, transactions or permissions, or too big a node"
            }
            Self::Size => "too big a value, or an answer too big for a packet",
            Self::Memory => "xenstored is out of memory, or the domain takes too much of it",
        })
    }
}

/// One failed attempt to connect to xenstored.
#[derive(Debug)]
pub struct Attempt {
    /// Socket or device.
    pub path: PathBuf,
    /// Error of the attempt.
    pub source: io::Error,
}

/// The attempts in one line.
fn list(tried: &[Attempt]) -> String {
    let texts: Vec<String> = tried
        .iter()
        .map(|attempt| format!("{}: {}", attempt.path.display(), attempt.source))
        .collect();
    texts.join("; ")
}

/// The meaning of an error name that has no variant, and its remedy.
fn meaning(reason: &ErrorName) -> &'static str {
    match reason {
        ErrorName::Einval => "it takes the request for malformed; check the path and the numbers",
        ErrorName::Eexist => "there already; use another token or remove the first one",
        ErrorName::Enosys => "this xenstored does not know the request; use a newer one",
        ErrorName::Ebusy => "busy; try again",
        ErrorName::Eisconn => "the domain is connected already; release it first",
        ErrorName::Eio => "it failed inside; look into its log",
        _ => "look into the log of xenstored",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_refusal_names_step_object_cause_and_is_told_apart() {
        for reason in ErrorName::KNOWN {
            let error = Error::refused(MessageKind::Write, "/a/b", reason.clone());
            let text = error.to_string();
            assert!(text.contains("write") && text.contains("/a/b"), "{text}");
            let quota = matches!(
                reason,
                ErrorName::Enospc
                    | ErrorName::Equota
                    | ErrorName::Edquot
                    | ErrorName::E2big
                    | ErrorName::Enomem
            );
            assert_eq!(matches!(error, Error::Quota { .. }), quota, "{text}");
            assert_eq!(error.is_not_found(), *reason == ErrorName::Enoent);
            let permission = matches!(reason, ErrorName::Eacces | ErrorName::Eperm);
            assert_eq!(
                matches!(error, Error::Permission { .. }),
                permission,
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_refusals_keep_their_name() {
        let error = Error::refused(MessageKind::Read, "/a", ErrorName::Other("ESTRANGE".into()));
        assert!(error.to_string().contains("ESTRANGE"));
    }
}
