//! The result of a request.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Asker, Error, ParseError, RequestId, VERSION, limits};

/// The reply to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Version of the format.
    pub version: u32,
    /// Id of the request.
    pub id: RequestId,
    /// UUID of the VM.
    pub vm: Uuid,
    /// Time of the reply, in milliseconds since 1970.
    pub time_ms: u64,
    /// Process or user that has asked, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asker: Option<Asker>,
    /// Result of the request.
    pub outcome: Outcome,
}

/// Whether a request was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Done(Done),
    /// It failed, or was refused.
    Failed(Error),
}

impl From<Outcome> for Result<Done, Error> {
    fn from(outcome: Outcome) -> Result<Done, Error> {
        match outcome {
            Outcome::Done(done) => Ok(done),
            Outcome::Failed(error) => Err(error),
        }
    }
}

impl From<Result<Done, Error>> for Outcome {
    fn from(result: Result<Done, Error>) -> Outcome {
        match result {
            Ok(done) => Outcome::Done(done),
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// Result of a request that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Done {
    /// It is done, and has no other result.
    Plain,
    /// The guest was asked.
    Delivered {
        /// Way in which it was asked.
        how: PowerDelivery,
    },
    /// The core was written.
    Dumped(Dumped),
    /// The guest was saved.
    Saved(Saved),
}

/// The way in which a power request was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerDelivery {
    /// Through xenstore: the guest acknowledges it by emptying the node.
    ByXenstore,
    /// By an ACPI button. There is no acknowledgement.
    ByButton,
    /// Not at all: the domain has shut down already, as it was to.
    HasShutDown,
}

/// Result of a dump: sizes and page counts of the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumped {
    /// The file's size.
    pub size_bytes: u64,
    /// Pages in the core.
    pub nr_pages: u64,
    /// Pages that Xen counts as the domain's, and that could not be found or mapped.
    pub nr_missing: u64,
}

/// Result of a save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The file's size.
    pub size_bytes: u64,
}

impl Dumped {
    /// The result as one line of English text.
    pub fn line(&self) -> String {
        let missing = match self.nr_missing {
            0 => String::new(),
            nr => format!("; {nr} more could not be read"),
        };
        format!(
            "{} bytes, {} pages{missing}",
            self.size_bytes, self.nr_pages
        )
    }
}

impl Reply {
    /// A reply of this version.
    pub fn new(id: RequestId, vm: Uuid, time_ms: u64, outcome: impl Into<Outcome>) -> Reply {
        Reply {
            version: VERSION,
            id,
            vm,
            time_ms,
            asker: None,
            outcome: outcome.into(),
        }
    }

    /// The same for one who has asked.
    #[must_use]
    pub fn to(self, asker: Asker) -> Reply {
        Reply {
            asker: Some(asker),
            ..self
        }
    }

    /// The reply as JSON.
    ///
    /// # Errors
    /// [`ParseError::TooLong`], which no reader would take.
    pub fn to_json(&self) -> Result<Vec<u8>, ParseError> {
        crate::envelope::to_json(self, limits::REPLY_MAX_BYTES)
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// [`ParseError`] for all that this version cannot understand.
    pub fn parse(bytes: &[u8]) -> Result<Reply, ParseError> {
        crate::envelope::parse(bytes, limits::REPLY_MAX_BYTES)
    }
}
