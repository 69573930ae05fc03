//! A request with its id, its VM, its time and its asker.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::{Builder, Uuid};

use crate::{Request, VERSION, limits};

/// The name of a request among all others.
///
/// The asker chooses it. A second request with the same id is the same request, and gets the same reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub Uuid);

impl RequestId {
    /// A new id (UUID of version 7): later ids are greater, from one millisecond to the next.
    pub fn new(time_ms: u64, random: [u8; 16]) -> RequestId {
        let mut tail = [0; 10];
        tail.copy_from_slice(random.split_at(6).1);
        RequestId(Builder::from_unix_timestamp_millis(time_ms, &tail).into_uuid())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RequestId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<RequestId, uuid::Error> {
        Uuid::try_parse(text).map(RequestId)
    }
}

/// The asker, which decides how long the reply is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Asker {
    /// A process of this host. Its reply is removed when the process has died.
    Process {
        /// Its number (PID).
        pid: u32,
        /// Its start time, in clock ticks since the start of the host, if known. A later process may have the same PID.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started_ticks: Option<u64>,
    },
    /// A user of an API or another program, which may fetch the reply later.
    Remote {
        /// A name for logs.
        name: String,
    },
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::Process { pid, .. } => write!(f, "process {pid}"),
            Asker::Remote { name } => f.write_str(name),
        }
    }
}

/// A request with all that is known of it. `R` is a [`Value`] where the request was not looked at yet ([`Header`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope<R = Request> {
    /// Version of the format.
    pub version: u32,
    /// Id of the request.
    pub id: RequestId,
    /// UUID of the VM.
    pub vm: Uuid,
    /// The domain of the VM that is meant; none for whichever domain it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<u16>,
    /// Time of the request, in milliseconds since 1970.
    pub time_ms: u64,
    /// Process or user that has asked.
    pub asker: Asker,
    /// The request itself.
    pub request: R,
}

/// An envelope whose request may be one that this version does not know.
pub type Header = Envelope<Value>;

/// Error: JSON is no request or reply of this version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is longer than the limit.
    #[error("it has {size_bytes} bytes, more than {limit_bytes}")]
    TooLong {
        /// Length in bytes.
        size_bytes: u64,
        /// Limit in bytes.
        limit_bytes: u64,
    },
    /// It is of a later version of the format.
    #[error("it has version {0} of the format, and this xyl knows {VERSION}")]
    Version(u64),
    /// Its request has a type that is not known.
    #[error("it asks for `{0}`, which this xyl does not know")]
    UnknownRequest(String),
    /// It is no JSON, or lacks what it must have.
    #[error("it cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl<R> Envelope<R> {
    /// An envelope of this version.
    pub fn new(id: RequestId, vm: Uuid, time_ms: u64, asker: Asker, request: R) -> Envelope<R> {
        Envelope {
            version: VERSION,
            id,
            vm,
            domain: None,
            time_ms,
            asker,
            request,
        }
    }

    /// The same for one domain of the VM.
    #[must_use]
    pub fn for_domain(self, domain: u16) -> Envelope<R> {
        Envelope {
            domain: Some(domain),
            ..self
        }
    }
}

impl Envelope {
    /// The envelope as JSON.
    ///
    /// # Errors
    /// [`ParseError::TooLong`], which no reader would take.
    pub fn to_json(&self) -> Result<Vec<u8>, ParseError> {
        to_json(self, limits::REQUEST_MAX_BYTES)
    }
}

impl Header {
    /// Reads all but the request itself.
    ///
    /// # Errors
    /// [`ParseError`] for all that this version cannot understand.
    pub fn parse(bytes: &[u8]) -> Result<Header, ParseError> {
        parse(bytes, limits::REQUEST_MAX_BYTES)
    }

    /// Reads the request.
    ///
    /// # Errors
    /// [`ParseError::UnknownRequest`] for a type that is not known, [`ParseError::Malformed`] for wrong fields.
    pub fn into_typed(self) -> Result<Envelope, ParseError> {
        let word = self.request.get("type").and_then(Value::as_str);
        if let Some(word) = word.filter(|word| !Request::TYPES.contains(word)) {
            return Err(ParseError::UnknownRequest(word.to_owned()));
        }
        let request = crate::request::from_json(self.request)?;
        Ok(Envelope {
            request,
            version: self.version,
            id: self.id,
            vm: self.vm,
            domain: self.domain,
            time_ms: self.time_ms,
            asker: self.asker,
        })
    }
}

/// JSON that is not longer than its readers take.
pub(crate) fn to_json(what: &impl Serialize, limit_bytes: u64) -> Result<Vec<u8>, ParseError> {
    let bytes = serde_json::to_vec(what)?;
    check_length(&bytes, limit_bytes).map(|()| bytes)
}

/// Reads JSON of this version.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], limit_bytes: u64) -> Result<T, ParseError> {
    check_length(bytes, limit_bytes)?;
    let value: Value = serde_json::from_slice(bytes)?;
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version > u64::from(VERSION) => Err(ParseError::Version(version)),
        _ => Ok(serde_json::from_value(value)?),
    }
}

fn check_length(bytes: &[u8], limit_bytes: u64) -> Result<(), ParseError> {
    let size_bytes = bytes.len() as u64;
    match size_bytes > limit_bytes {
        true => Err(ParseError::TooLong {
            size_bytes,
            limit_bytes,
        }),
        false => Ok(()),
    }
}
