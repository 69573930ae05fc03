//! The error of a request, for people and for programs.

use serde::{Deserialize, Serialize};

use crate::ErrorCode;

/// The error of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Stable code of the error.
    pub code: ErrorCode,
    /// The whole text for people.
    pub message: String,
    /// The step of the operation that has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Number of the domain that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<u16>,
    /// Texts of its causes, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// An action that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Error {
    /// An error with a code and a text alone.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
            step: None,
            domain: None,
            causes: Vec::new(),
            remedy: None,
        }
    }

    /// The same about this domain.
    #[must_use]
    pub fn about(self, domain: u16) -> Error {
        Error {
            domain: Some(domain),
            ..self
        }
    }

    /// The same with an action that helps.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Error {
        Error {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}
