//! What can go wrong when talking to xenstored.

use crate::path::PathError;
use crate::wire::{ErrorName, MessageKind, WireError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Error of a xenstore operation.
///
/// `operation` is the request, `object` the path it was about, or for requests without a path what takes its place
/// (`domain 5`, `a transaction`).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such node (or, for introduce and its kin, no such domain).
    #[error(
        "xenstore {operation} of {object}: it does not exist; the domain or device may be gone, `xenstore-ls` shows what is there"
    )]
    NotFound {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
    },
    /// xenstored does not let this connection do it.
    #[error(
        "xenstore {operation} of {object}: not permitted ({reason}); run it in the control domain, or have the node's owner permit it \
         (`xenstore-ls -p` shows permissions)"
    )]
    Permission {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// xenstored's word: EACCES or EPERM.
        reason: ErrorName,
    },
    /// A quota of xenstored is reached.
    #[error(
        "xenstore {operation} of {object}: over a quota ({reason}): {kind}; `xenstore-control quota` shows and sets them"
    )]
    Quota {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// Which sort of quota.
        kind: QuotaKind,
        /// xenstored's word.
        reason: ErrorName,
    },
    /// xenstored refused for another reason.
    #[error(
        "xenstore {operation} of {object}: xenstored answered {reason} ({})",
        meaning(reason)
    )]
    Refused {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// xenstored's word.
        reason: ErrorName,
    },
    /// The request is too long for a packet; it was not sent.
    #[error(
        "xenstore {operation} of {object}: path and value take {size_bytes} bytes, a request holds {limit_bytes}; shorten the value or \
         split it over several nodes"
    )]
    TooLarge {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// Bytes it would take.
        size_bytes: usize,
        /// Bytes there are.
        limit_bytes: usize,
    },
    /// Other writers got in the way of a transaction each time it was tried.
    #[error(
        "xenstore transaction: other changes conflicted with it {attempts} times within {elapsed_ms} ms; try again when fewer domains are \
         being created, or look for a domain that writes without pause (`xenstore-watch /`)"
    )]
    ConflictExhausted {
        /// How often it was tried.
        attempts: u32,
        /// For how long, in milliseconds.
        elapsed_ms: u64,
    },
    /// No way to a xenstored was found.
    #[error(
        "no xenstored: {}; is this a Xen host, and is xenstored running (`systemctl status xenstored`)?",
        list(tried)
    )]
    NoDaemon {
        /// What was tried, and how it failed.
        tried: Vec<Attempt>,
    },
    /// xenstored is there, and this process may not connect to it.
    #[error(
        "not permitted to connect to xenstored: {}; run it as root",
        list(tried)
    )]
    NotPermittedToConnect {
        /// What was tried, and how it failed.
        tried: Vec<Attempt>,
    },
    /// No answer within the deadline. The connection is closed: a late answer could be taken for another one's.
    #[error(
        "xenstore {operation} of {object}: no answer within {waited_ms} ms over {transport}; see whether xenstored runs and is not stuck \
         (`systemctl status xenstored`)"
    )]
    NotAnswering {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// The way to xenstored.
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
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// The way to xenstored.
        transport: String,
    },
    /// What came back breaks the protocol. The connection is closed.
    #[error(
        "xenstore {operation} of {object}: what answers over {transport} does not speak the xenstore protocol: {violation}; check which \
         program serves that socket"
    )]
    Protocol {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// The way to xenstored.
        transport: String,
        /// The rule it broke.
        #[source]
        violation: WireError,
    },
    /// The system refused to send or receive. The connection is closed.
    #[error("xenstore {operation} of {object}: {transport} failed: {source}")]
    Io {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
        /// The way to xenstored.
        transport: String,
        /// The system's word.
        source: io::Error,
    },
    /// The connection was given up after an earlier error.
    #[error(
        "xenstore {operation} of {object}: the connection was closed after an earlier error; open a new one"
    )]
    Closed {
        /// The request.
        operation: MessageKind,
        /// What it was about.
        object: String,
    },
    /// An answer to a request is not of the form it should have. The connection is still in order.
    #[error(
        "xenstored's answer about {object} is {violation}; it may be a newer one that this program does not know"
    )]
    Malformed {
        /// What was asked about.
        object: String,
        /// What is wrong with it.
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
    /// A path that xenstored would not take.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A text in a request holds a nul byte, which ends strings in the protocol.
    #[error("xenstore {operation}: {text:?} holds a nul byte; leave it out")]
    NulByte {
        /// The request.
        operation: MessageKind,
        /// The text.
        text: String,
    },
}

impl Error {
    /// Is it the absence of the node?
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Is the connection lost with it, so that a new one is needed?
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

/// One way to xenstored that did not work.
#[derive(Debug)]
pub struct Attempt {
    /// Socket or device.
    pub path: PathBuf,
    /// How it failed.
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

/// What a refusal that has no error variant of its own means and what to do about it.
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
