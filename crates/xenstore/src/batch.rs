//! Several requests that go out together.

use crate::path::Path;
use crate::perms::Perms;
use crate::wire::MessageKind;

/// One request, as it goes into a packet.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub kind: MessageKind,
    /// What it is about, for error texts.
    pub object: String,
    pub payload: Vec<u8>,
    /// Is it no error when the node does not exist?
    pub may_be_absent: bool,
}

impl Request {
    /// A request whose payload is what it is about, ended by a nul byte.
    pub fn on_path(kind: MessageKind, path: &Path) -> Self {
        Self {
            kind,
            object: path.to_string(),
            payload: nul_ended(path.as_str()),
            may_be_absent: false,
        }
    }

    /// A request with a payload of its own.
    pub fn new(kind: MessageKind, object: impl Into<String>, payload: Vec<u8>) -> Self {
        Self {
            kind,
            object: object.into(),
            payload,
            may_be_absent: false,
        }
    }

    /// The same with `bytes` appended to the payload.
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    pub fn may_be_absent(mut self) -> Self {
        self.may_be_absent = true;
        self
    }
}

/// The text as bytes, ended by a nul byte.
pub(crate) fn nul_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// Requests that are sent without waiting for each other's replies; run it with [`Tree::run`](crate::Tree::run).
///
/// They are carried out in the order in which they were added. Each adding method gives the index under which [`Replies`]
/// has the reply. When one fails, later ones may or may not have been carried out: use a transaction where that matters.
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

    /// Makes sure that a node exists; creates it and its parents, with empty values, as needed.
    pub fn mkdir(&mut self, path: &Path) -> usize {
        self.push(Request::on_path(MessageKind::Mkdir, path))
    }

    /// Makes sure that a node and all below it do not exist.
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

    /// Is there no request in it?
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

/// Replies to a [`Batch`], all of them successes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replies {
    /// For each request its reply; none when the node was absent and that was allowed.
    pub(crate) values: Vec<Option<Vec<u8>>>,
}

impl Replies {
    /// What the request at `index` brought: for a read the value, none if the node is absent.
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        self.values.get(index)?.as_deref()
    }

    /// The reply to a batch of one.
    pub(crate) fn into_only(self) -> Option<Vec<u8>> {
        self.values.into_iter().next().flatten()
    }
}
