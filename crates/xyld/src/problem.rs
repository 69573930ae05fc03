//! Errors of the API: `application/problem+json` (RFC 9457) with a stable code.

use hyper::StatusCode;
use serde_json::{Value, json};
use xyl_engine::{EngineError, ErrorCode};
use xyl_host::SiteError;

/// The type of a problem's JSON.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The codes of the HTTP layer itself. The other codes are those of [`ErrorCode`].
pub mod code {
    /// The request is malformed.
    pub const BAD_REQUEST: &str = "bad-request";
    /// The peer's role does not allow the call.
    pub const FORBIDDEN: &str = "forbidden";
    /// No endpoint has this path.
    pub const NOT_FOUND: &str = "not-found";
    /// The endpoint does not take this method.
    pub const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
    /// The body is larger than the limit.
    pub const TOO_LARGE: &str = "too-large";
    /// The body did not come in time.
    pub const TOO_SLOW: &str = "too-slow";
    /// The body has another type than the endpoint takes.
    pub const MEDIA_TYPE: &str = "unsupported-media-type";
    /// Too many calls are under way.
    pub const BUSY: &str = "busy";
    /// No operation has this ID.
    pub const NO_SUCH_OPERATION: &str = "no-such-operation";
    /// The operation cannot be cancelled any more.
    pub const NOT_CANCELLABLE: &str = "not-cancellable";
    /// No decision was recorded for the VM.
    pub const NO_DECISION: &str = "no-decision";
    /// The page was not built into this program.
    pub const NO_PAGE: &str = "page-not-built";
    /// The daemon itself is at fault.
    pub const INTERNAL: &str = "internal";

    /// All of them, in the order of `docs/api.md`.
    pub const ALL: [&str; 13] = [
        BAD_REQUEST,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        TOO_LARGE,
        TOO_SLOW,
        MEDIA_TYPE,
        BUSY,
        NO_SUCH_OPERATION,
        NOT_CANCELLABLE,
        NO_DECISION,
        NO_PAGE,
        INTERNAL,
    ];
}

/// An error of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// HTTP status of the answer.
    pub status: StatusCode,
    /// Stable code, for programs.
    pub code: &'static str,
    /// The whole text, for people.
    pub detail: String,
    /// The step of the operation that has failed.
    pub step: Option<String>,
    /// Number of the domain that it is about.
    pub domain: Option<u16>,
    /// Texts of its causes, the nearest first.
    pub causes: Vec<String>,
    /// An action that helps.
    pub remedy: Option<String>,
}

impl Problem {
    /// A problem with a code and a text alone.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            code,
            detail: detail.into(),
            step: None,
            domain: None,
            causes: Vec::new(),
            remedy: None,
        }
    }

    /// A malformed request.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code::BAD_REQUEST, detail)
    }

    /// The same with an action that helps.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Problem {
        Problem {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// The problem as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "type": format!("urn:xyl:error:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
            "step": self.step,
            "domain": self.domain,
            "causes": self.causes,
            "remedy": self.remedy,
        })
    }
}

/// The status for an error of the engine.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::NoSuchDomain | ErrorCode::NoSuchDevice | ErrorCode::NoSuchVcpu => {
            StatusCode::NOT_FOUND
        }
        ErrorCode::Usage
        | ErrorCode::Configuration
        | ErrorCode::UnknownRequest
        | ErrorCode::BadName
        | ErrorCode::BadSysrq
        | ErrorCode::OutOfRange => StatusCode::BAD_REQUEST,
        ErrorCode::NotThereYet => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::Deadline => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::NotXen
        | ErrorCode::Xenstore
        | ErrorCode::Hypervisor
        | ErrorCode::QueueFull
        | ErrorCode::MonitorLost => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Io
        | ErrorCode::File
        | ErrorCode::BadRecord
        | ErrorCode::Journal
        | ErrorCode::Policy
        | ErrorCode::Advisories => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    }
}

impl From<xyl_api::Error> for Problem {
    fn from(error: xyl_api::Error) -> Problem {
        Problem {
            status: status_of(error.code),
            code: error.code.word(),
            detail: error.message,
            step: error.step,
            domain: error.domain,
            causes: error.causes,
            remedy: error.remedy,
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Problem {
        Problem::from(error.to_api())
    }
}

impl From<SiteError> for Problem {
    fn from(error: SiteError) -> Problem {
        match error {
            SiteError::Engine(error) => Problem::from(error),
            SiteError::Machine(error) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Refused.word(),
                error.to_string(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_engine_keeps_its_code_and_remedy() {
        let problem = Problem::from(EngineError::NoSuchDomain("web".to_owned()));
        assert_eq!(problem.status, StatusCode::NOT_FOUND);
        assert_eq!(problem.code, "no-such-domain");
        let json = problem.to_json();
        assert_eq!(json["type"], "urn:xyl:error:no-such-domain");
        assert_eq!(json["status"], 404);
    }

    #[test]
    fn no_code_of_the_http_layer_is_one_of_the_engine() {
        for word in code::ALL {
            assert_eq!(ErrorCode::parse(word), None, "{word}");
        }
    }
}
