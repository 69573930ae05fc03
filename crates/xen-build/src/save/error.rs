//! [`SaveError`] and [`SaveFailure`]: why a domain's state could not be written.

use std::fmt;

use xen_port::{DomId, GuestKind, HvError};
use xen_stream::StreamError;

/// A step of a save, as an error message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveStep {
    /// Asking Xen for its version.
    ReadVersion,
    /// Asking for the domain's state.
    ReadDomain,
    /// Reading the domain's CPU policy.
    ReadCpuPolicy,
    /// Asking for the largest number of the domain's pages.
    ReadSize,
    /// Having Xen note the pages that the guest writes to.
    TrackWrites,
    /// Asking for the pages that the guest has written to.
    ReadWritten,
    /// Asking for the kinds of the domain's pages.
    ReadKinds,
    /// PV: reading the table of the guest's pages.
    ReadP2m,
    /// Copying the domain's pages.
    ReadPages,
    /// Reading the mode of the TSC.
    ReadTsc,
    /// PVH and HVM: reading the state of vCPUs and Xen's devices.
    ReadHvmContext,
    /// PVH and HVM: reading the HVM parameters.
    ReadHvmParams,
    /// PV: reading the state of a vCPU.
    ReadVcpu,
    /// PV: reading the shared-info page.
    ReadSharedInfo,
}

impl fmt::Display for SaveStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SaveStep::ReadVersion => "reading Xen's version",
            SaveStep::ReadDomain => "reading the domain's state",
            SaveStep::ReadCpuPolicy => "reading the CPU policy",
            SaveStep::ReadSize => "reading the size of the memory",
            SaveStep::TrackWrites => "tracking writes to the memory",
            SaveStep::ReadWritten => "reading which pages were written to",
            SaveStep::ReadKinds => "reading the kinds of pages",
            SaveStep::ReadP2m => "reading the guest's table of its pages",
            SaveStep::ReadPages => "reading the memory",
            SaveStep::ReadTsc => "reading the mode of the TSC",
            SaveStep::ReadHvmContext => "reading the state of the vCPUs and of Xen's devices",
            SaveStep::ReadHvmParams => "reading the HVM parameters",
            SaveStep::ReadVcpu => "reading the state of a vCPU",
            SaveStep::ReadSharedInfo => "reading the shared info",
        })
    }
}

/// The reasons why a domain's state could not be written. The caller resumes a guest that it has suspended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is no such domain.
    #[error("there is no domain {domid} to save")]
    NoDomain {
        /// Number of the domain.
        domid: DomId,
    },
    /// The domain has another type than the request says.
    #[error("domain {domid} has the type {found:?}, where {wanted:?} was to be saved")]
    OtherKind {
        /// Number of the domain.
        domid: DomId,
        /// Type in the request.
        wanted: GuestKind,
        /// Type of the domain.
        found: GuestKind,
    },
    /// The domain has not shut down with the reason `suspend`.
    #[error(
        "domain {domid} is not suspended: its memory would change while it is saved; suspend it again"
    )]
    NotSuspended {
        /// Number of the domain.
        domid: DomId,
    },
    /// This type of domain, or this way to save it, is not supported.
    #[error("saving domain {domid}: {what} is not supported")]
    Unsupported {
        /// Number of the domain.
        domid: DomId,
        /// Name of the part that is not supported.
        what: &'static str,
    },
    /// A structure that the guest keeps for tools has values that cannot be.
    #[error(
        "saving domain {domid}: the guest's {what} has impossible contents; a guest that works with xl has none"
    )]
    Guest {
        /// Number of the domain.
        domid: DomId,
        /// Name of the structure.
        what: &'static str,
    },
    /// A page of the suspended domain cannot be mapped.
    #[error(
        "saving domain {domid}: its page {pfn:#x} cannot be mapped, though the domain has it; save it again"
    )]
    Unreadable {
        /// Number of the domain.
        domid: DomId,
        /// Number of the page.
        pfn: u64,
    },
    /// A request to the hypervisor failed.
    #[error("saving domain {domid}, {step}: {source}")]
    Hypervisor {
        /// Number of the domain.
        domid: DomId,
        /// The step that failed.
        step: SaveStep,
        /// Error of the hypervisor.
        source: HvError,
    },
    /// The image could not be written.
    #[error("writing the image: {0}")]
    Stream(#[from] StreamError),
    /// The caller has ended the save.
    #[error("saving domain {domid} was cancelled")]
    Cancelled {
        /// Number of the domain.
        domid: DomId,
    },
}

/// The reason why [`save`](crate::save) has ended early: an own error, or that of the caller's `suspend`.
#[derive(Debug, thiserror::Error)]
pub enum SaveFailure<E> {
    /// The caller could not suspend the guest.
    #[error(transparent)]
    Suspend(E),
    /// The state could not be written.
    #[error(transparent)]
    Save(#[from] SaveError),
}

/// Names the step in which a request failed.
pub(super) trait During<T> {
    fn during(self, domid: DomId, step: SaveStep) -> Result<T, SaveError>;
}

impl<T> During<T> for xen_port::Result<T> {
    fn during(self, domid: DomId, step: SaveStep) -> Result<T, SaveError> {
        self.map_err(|source| SaveError::Hypervisor {
            domid,
            step,
            source,
        })
    }
}
