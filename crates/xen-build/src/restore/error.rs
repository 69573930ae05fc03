//! [`RestoreError`]: why a domain could not be restored.

use std::fmt;

use xen_port::{DomId, GuestKind, HvError};
use xen_stream::{Guest, StreamError};

use crate::error::BuildError;

/// A step of a restore, as an error message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// Asking for the domain's state.
    ReadDomain,
    /// The memory map that the guest will ask Xen for.
    SetMemoryMap,
    /// Setting the CPU policy of the image.
    SetCpuPolicy,
    /// Removing a page that the guest no longer has.
    RemovePages,
    /// Writing the contents of pages.
    WritePages,
    /// Setting the mode of the TSC.
    SetTsc,
    /// PVH and HVM: setting HVM parameters.
    SetHvmParams,
    /// PVH and HVM: loading the state of vCPUs and Xen's devices.
    SetHvmContext,
    /// Clearing the pages of the rings.
    ClearRings,
    /// PV: handing the page tables over to Xen.
    PinPageTables,
    /// PV: writing the table of machine frames.
    WriteP2m,
    /// PV: writing the start info.
    WriteStartInfo,
    /// PV: writing the shared info.
    WriteSharedInfo,
    /// PV: loading the state of a vCPU.
    SetVcpu,
}

impl fmt::Display for RestoreStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RestoreStep::ReadDomain => "reading the domain's state",
            RestoreStep::SetMemoryMap => "setting the memory map",
            RestoreStep::SetCpuPolicy => "setting the CPU policy of the image",
            RestoreStep::RemovePages => "removing pages",
            RestoreStep::WritePages => "writing the memory",
            RestoreStep::SetTsc => "setting the mode of the TSC",
            RestoreStep::SetHvmParams => "setting HVM parameters",
            RestoreStep::SetHvmContext => "loading the state of the vCPUs and of Xen's devices",
            RestoreStep::ClearRings => "clearing the rings",
            RestoreStep::PinPageTables => "pinning the page tables",
            RestoreStep::WriteP2m => "writing the table of machine frames",
            RestoreStep::WriteStartInfo => "writing the start info",
            RestoreStep::WriteSharedInfo => "writing the shared info",
            RestoreStep::SetVcpu => "loading the state of a vCPU",
        })
    }
}

/// The reasons why a domain could not be restored. The domain has a part of its memory then, and must be destroyed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The image is damaged, breaks a limit, or cannot be read.
    #[error("the image: {0}")]
    Stream(#[from] StreamError),
    /// The image ends where a part of the libxc stream must be, or has another part there.
    #[error("the image has no {wanted} where one must be")]
    Misplaced {
        /// Name of the part.
        wanted: &'static str,
    },
    /// The image holds another type of guest than the request says.
    #[error("the image holds a guest of type {found}, where {wanted:?} was to be restored")]
    OtherKind {
        /// Type in the request.
        wanted: GuestKind,
        /// Type in the image.
        found: Guest,
    },
    /// This type of image is not supported.
    #[error("restoring domain {domid}: {what} is not supported")]
    Unsupported {
        /// Number of the domain.
        domid: DomId,
        /// Name of the part that is not supported.
        what: &'static str,
    },
    /// The image has more pages than the request allows.
    #[error("the image has more than {max_pages} pages, which the guest's `maxmem` excludes")]
    TooManyPages {
        /// Largest number of pages.
        max_pages: u64,
    },
    /// The image lacks a value that a guest cannot do without.
    #[error("the image has no {what}")]
    Missing {
        /// Name of the value.
        what: &'static str,
    },
    /// A value in the image cannot be.
    #[error("the image has an impossible {what}: {value:#x}")]
    Value {
        /// Name of the value.
        what: &'static str,
        /// The value that it has.
        value: u64,
    },
    /// There is no such domain.
    #[error("there is no domain {domid} to restore into")]
    NoDomain {
        /// Number of the domain.
        domid: DomId,
    },
    /// A request to the hypervisor failed.
    #[error("restoring domain {domid}, {step}: {source}")]
    Hypervisor {
        /// Number of the domain.
        domid: DomId,
        /// The step that failed.
        step: RestoreStep,
        /// Error of the hypervisor.
        source: HvError,
    },
    /// The memory could not be allocated, or the grants of the rings could not be written.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The caller has ended the restore.
    #[error("restoring domain {domid} was cancelled")]
    Cancelled {
        /// Number of the domain.
        domid: DomId,
    },
}

/// Result of a part of a restore.
pub(super) type Result<T> = std::result::Result<T, RestoreError>;

/// Names the step in which a request failed.
pub(super) trait During<T> {
    fn during(self, domid: DomId, step: RestoreStep) -> Result<T>;
}

impl<T> During<T> for xen_port::Result<T> {
    fn during(self, domid: DomId, step: RestoreStep) -> Result<T> {
        self.map_err(|source| RestoreError::Hypervisor {
            domid,
            step,
            source,
        })
    }
}
