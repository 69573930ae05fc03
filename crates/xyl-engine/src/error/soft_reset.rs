//! Errors of `operation::soft_reset`: the reasons why a domain cannot be soft-reset.

use xen_port::DomId;

/// The reasons why a domain cannot be soft-reset at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoftResetError {
    /// The domain is PV. Xen can soft-reset only domains with hardware virtualisation.
    #[error(
        "Xen cannot soft-reset a PV guest, it can only crash it: use type=\"pvh\" for a guest that is to kexec"
    )]
    Pv,
    /// The domain has a device model, which Xyl cannot stop, save and start yet.
    #[error(
        "domain {domid} has a device model, whose state Xyl cannot save yet: HVM guests cannot be soft-reset"
    )]
    DeviceModel {
        /// Number of the domain.
        domid: DomId,
    },
    /// The domain has devices that Xyl has not made, or that its VM's record does not have.
    #[error("domain {domid} has devices that Xyl cannot attach again: {devices}")]
    Devices {
        /// Number of the domain.
        domid: DomId,
        /// Kinds and numbers of the devices.
        devices: String,
    },
    /// This host's xenstored crashes when a domain with a connection is released (XSA-425).
    #[error(
        "xenstored of Xen 4.17.0 can crash in a soft reset, and all VMs with it (XSA-425): update Xen's tools to 4.17.1 or later"
    )]
    FaultyXenstored,
    /// The note that an earlier version of Xyl kept about a soft reset is invalid.
    #[error("{path}: `{text}` is no note of a soft reset: remove it, or destroy the domain")]
    Note {
        /// Path of the note in xenstore.
        path: String,
        /// Value of the note.
        text: String,
    },
    /// It was given up before.
    #[error("{0}")]
    GivenUp(String),
}
