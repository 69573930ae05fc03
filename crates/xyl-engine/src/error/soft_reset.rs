//! Why a domain cannot be soft-reset.
//!
//! `operation::soft_reset` makes these errors.

use xen_port::DomId;

/// Why a domain cannot be soft-reset at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoftResetError {
    /// Xen resets domains with hardware virtualisation only.
    #[error(
        "Xen cannot soft-reset a PV guest, it can only crash it: use type=\"pvh\" for a guest that is to kexec"
    )]
    Pv,
    /// The domain has a device model, which has to be stopped, saved and started again.
    #[error(
        "domain {domid}: to {step} is not supported by Xyl yet: HVM guests cannot be soft-reset"
    )]
    DeviceModel {
        /// Number of the domain.
        domid: DomId,
        /// What is missing.
        step: &'static str,
    },
    /// The domain has devices whose backends would have to be set up again.
    #[error("domain {domid} has devices that Xyl cannot set up again yet: {devices}")]
    Devices {
        /// Number of the domain.
        domid: DomId,
        /// Kinds and numbers.
        devices: String,
    },
    /// This host's xenstored ends when a domain is released that has it connected (XSA-425).
    #[error(
        "xenstored of Xen 4.17.0 can crash in a soft reset, and all VMs with it (XSA-425): update Xen's tools to 4.17.1 or later"
    )]
    FaultyXenstored,
    /// The note of a reset under way does not say what it should.
    #[error("{path}: `{text}` is no note of a soft reset: remove it, or destroy the domain")]
    Note {
        /// Where it is.
        path: String,
        /// What it says.
        text: String,
    },
    /// The table of states lacks a row: a fault of Xyl.
    #[error("{0}")]
    Table(String),
}
