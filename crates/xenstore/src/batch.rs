//! Several requests that the client sends together, without a wait between them.

use crate::path::Path;
use crate::perms::Perms;
use crate::wire::MessageKind;

/// One request with the contents of its packet.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub kind: MessageKind,
    /// Path or domain of the request, for error texts.
    pub object: String,
    pub payload: Vec<u8>,
    /// Whether a missing node is no error.
    pub may_be_absent: bool,
}

impl Request {
    /// A request whose payload is the path and a nul byte.
    pub fn on_path(kind: MessageKind, path: &Path) -> Self {
        Self {
            kind,
            object: path.to_string(),
            payload: nul_ended(path.as_str()),
            may_be_absent: false,
        }
    }

    /// A request with another payload.
    pub fn new(kind: MessageKind, object: impl Into<String>, payload: Vec<u8>) -> Self {
        Self {
            kind,
            object: object.into(),
            payload,
            may_be_absent: false,
        }
    }

    /// Appends bytes to the payload.
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    pub fn may_be_absent(mut self) -> Self {
        self.may_be_absent = true;
        self
    }
}

/// The text as bytes, with a nul byte at the end.
pub(crate) fn nul_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// Requests that are sent without a wait for each other's replies; [`Tree::run`](crate::Tree::run) sends them.
///
/// xenstored executes them in the order of their addition. Each method returns the index of its reply in [`Replies`].
/// After a failed request, xenstored may or may not have executed later ones: use a transaction to prevent that.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    requests: Vec<Request>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a node; creates it and its parents as needed.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> usize {
        self.push(Request::on_path(MessageKind::Write, path).with(value))
    }

    /// Creates a node with an empty value if it does not exist, and its parents.
    pub fn mkdir(&mut self, path: &Path) -> usize {
        self.push(Request::on_path(MessageKind::Mkdir, path))
    }

    /// Removes a node and its children. A missing node is no error.
    pub fn rm(&mut self, path: &Path) -> usize {
        // The C daemon refuses when the parent is missing too; the OCaml daemon does not. The node is absent either way.
        self.push(Request::on_path(MessageKind::Rm, path).may_be_absent())
    }

    /// Sets the permissions of a node.
    pub fn set_perms(&mut self, path: &Path, perms: &Perms) -> usize {
        self.push(Request::on_path(MessageKind::SetPerms, path).with(&perms.to_payload()))
    }

    /// Reads the value of a node that must exist.
    pub fn read(&mut self, path: &Path) -> usize {
        self.push(Request::on_path(MessageKind::Read, path))
    }

    /// Reads the value of a node that may be absent.
    pub fn read_opt(&mut self, path: &Path) -> usize {
        self.push(Request::on_path(MessageKind::Read, path).may_be_absent())
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether the batch has no request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn of(request: Request) -> Self {
        Self {
            requests: vec![request],
        }
    }

    pub(crate) fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn push(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.requests.len() - 1
    }
}

/// The replies to a [`Batch`]; every request succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replies {
    /// One value per request; `None` if the node was missing and may be.
    pub(crate) values: Vec<Option<Vec<u8>>>,
}

impl Replies {
    /// The reply to the request at `index`. For a read it is the value; `None` if the node is missing.
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        self.values.get(index)?.as_deref()
    }

    /// The reply to a batch of one.
    pub(crate) fn into_only(self) -> Option<Vec<u8>> {
        self.values.into_iter().next().flatten()
    }
}
