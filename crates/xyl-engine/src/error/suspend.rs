//! Errors of `operation::suspend`: the reasons why a guest is not suspended or resumed.

use xen_port::{DomId, ShutdownReason};

/// The reasons why a guest is not suspended or resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// The domain is paused, so its guest cannot take the request.
    #[error(
        "domain {domid} is paused, so its guest cannot suspend itself: `xyl unpause {domid}` first"
    )]
    Paused {
        /// Number of the domain.
        domid: DomId,
    },
    /// The guest has ended instead.
    #[error("domain {domid} has shut down ({reason:?}), so there is nothing to suspend")]
    Ended {
        /// Number of the domain.
        domid: DomId,
        /// Shutdown reason of the domain.
        reason: ShutdownReason,
    },
    /// The guest has not taken the request in time. It was withdrawn.
    #[error(
        "domain {domid} has not taken the request to suspend within {limit_s} s, and runs on; the request is withdrawn. A hung guest, and a kernel without suspend, cannot take it"
    )]
    NotTaken {
        /// Number of the domain.
        domid: DomId,
        /// Time limit in seconds.
        limit_s: u64,
    },
    /// The guest has taken the request, and has not suspended itself in time.
    #[error(
        "domain {domid} has taken the request to suspend, and has not suspended itself within {limit_s} s: its console says why (a driver or a program that does not freeze). If it does so later, its monitor resumes it"
    )]
    NotDone {
        /// Number of the domain.
        domid: DomId,
        /// Time limit in seconds.
        limit_s: u64,
    },
    /// The domain is not suspended.
    #[error("domain {domid} is not suspended, so it cannot be resumed: `xyl list` shows its state")]
    NotSuspended {
        /// Number of the domain.
        domid: DomId,
    },
}
