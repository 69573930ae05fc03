//! Errors of `supervise::adopt`: the reasons why a domain of xl is not adopted.

use super::ErrorCode;
use xen_port::DomId;

/// The reasons why a domain of xl is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The domain has features that Xyl does not support.
    #[error("domain {domid} is not adopted: {what}, which Xyl cannot do yet; it stays xl's")]
    Unsupported {
        /// Domid of the domain.
        domid: DomId,
        /// The features, by their names in xl.cfg.
        what: String,
    },
    /// The host's policy refuses the domain.
    #[error("domain {domid} is not adopted: {line}; it stays xl's")]
    Refused {
        /// Domid of the domain.
        domid: DomId,
        /// Text of the decision, with cause and remedy.
        line: String,
    },
    /// The domain has ended, or is ending.
    #[error(
        "domain {0} has ended or is ending: wait until it is gone, or its VM has a new domain, then repeat this"
    )]
    Ending(DomId),
    /// Another process may wait for the domain's end, and would act on it too.
    #[error(
        "process {pid} (`{line}`) may wait for the end of domain {domid}, and two such processes would conflict: end it first, or repeat with --force if it has nothing to do with this domain"
    )]
    Watched {
        /// Number of the domain.
        domid: DomId,
        /// PID of the process.
        pid: u32,
        /// Command line of the process.
        line: String,
    },
    /// xl's process could not be ended.
    #[error(
        "xl's process {pid}, which waits for the end of domain {domid}, cannot be ended: {why}; the domain stays xl's"
    )]
    Stubborn {
        /// Number of the domain.
        domid: DomId,
        /// PID of the process.
        pid: u32,
        /// Error of the system.
        why: String,
    },
}

impl AdoptError {
    /// Stable code of the error.
    pub fn code(&self) -> ErrorCode {
        match self {
            AdoptError::Unsupported { .. } => ErrorCode::AdoptUnsupported,
            AdoptError::Refused { .. } => ErrorCode::NotAdmitted,
            AdoptError::Ending(_) => ErrorCode::DomainEnding,
            AdoptError::Watched { .. } => ErrorCode::WatchedByAnother,
            AdoptError::Stubborn { .. } => ErrorCode::ProcessStays,
        }
    }
}
