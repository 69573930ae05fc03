//! Why a domain of xl is not adopted.
//!
//! `supervise::adopt` makes these errors.

use super::ErrorCode;
use xen_port::DomId;

/// Why a domain is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It has what Xyl cannot do.
    #[error("domain {domid} is not adopted: {what}, which Xyl cannot do yet; it stays xl's")]
    Unsupported {
        /// Number of the domain.
        domid: DomId,
        /// What it has, by the names of xl.cfg.
        what: String,
    },
    /// The policy of the host does not want it.
    #[error("domain {domid} is not adopted: {line}; it stays xl's")]
    Refused {
        /// Number of the domain.
        domid: DomId,
        /// The decision in words: cause and remedy.
        line: String,
    },
    /// It has ended, or is ending.
    #[error(
        "domain {0} has ended or is ending: whoever watches over it deals with that; try again after"
    )]
    Ending(DomId),
    /// Another process may act on the domain's end.
    #[error(
        "process {pid} (`{line}`) may watch over domain {domid} too, and both would act on its end: end it first, or repeat with --force if it has nothing to do with this domain"
    )]
    Watched {
        /// Number of the domain.
        domid: DomId,
        /// PID of the process.
        pid: u32,
        /// What was typed to start it.
        line: String,
    },
    /// xl's process cannot be ended.
    #[error(
        "xl's process {pid}, which watches over domain {domid}, cannot be ended: {why}; the domain stays xl's"
    )]
    Stubborn {
        /// Number of the domain.
        domid: DomId,
        /// PID of the process.
        pid: u32,
        /// What the system said.
        why: String,
    },
}

impl AdoptError {
    /// The kind of the error.
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
