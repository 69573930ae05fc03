//! Errors of requests about a running domain.

use xen_port::{DomId, ShutdownReason};

use xl_cfg::types::BadName;

use super::ErrorCode;

/// The reasons why a request about a running domain is refused before it reaches Xen or xenstore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The name is not allowed for domains.
    #[error("{0}: {help}", help = .0.help())]
    BadName(#[from] BadName),
    /// The character is not a SysRq key.
    #[error("`{0}` is no SysRq key: give one letter or digit, such as h for help")]
    BadSysrq(char),
    /// The guest has no PV drivers, so it reads no requests from xenstore.
    #[error(
        "domain {domid} is an HVM guest without PV drivers, so it cannot be asked to {request}: repeat with -F to press its ACPI button"
    )]
    NoPvDrivers {
        /// Number of the domain.
        domid: DomId,
        /// `poweroff` or `reboot`.
        request: &'static str,
    },
    /// The domain is paused, so its guest cannot take the request now.
    #[error(
        "domain {domid} is paused, so its guest has not taken the request, which stands: the guest takes it after `xyl unpause {domid}`"
    )]
    Paused {
        /// Number of the domain.
        domid: DomId,
    },
    /// The domain has shut down, and its VM is not restarted. It cannot be rebooted.
    #[error(
        "domain {domid} has shut down already ({reason:?}), and its configuration starts its VM no more: to start it again, `xyl destroy {domid}` if it is there still, then `xyl create`"
    )]
    HasShutDown {
        /// Number of the domain.
        domid: DomId,
        /// Shutdown reason of the domain.
        reason: ShutdownReason,
    },
    /// The domain has shut down, and its VM is being restarted.
    #[error(
        "domain {domid} has shut down, and its VM is being restarted: repeat it for the next domain, or `xyl destroy {domid}` to end the VM"
    )]
    Restarting {
        /// Number of the domain.
        domid: DomId,
    },
    /// More memory was requested than the domain's maximum.
    #[error(
        "{wanted_kib} KiB are more than domain {domid} may have, which is {max_kib} KiB: raise that first with `xyl mem-max {domid}`"
    )]
    AboveMaximum {
        /// Number of the domain.
        domid: DomId,
        /// Requested memory, in KiB.
        wanted_kib: u64,
        /// Maximum memory of the domain, in KiB.
        max_kib: u64,
    },
    /// Less memory was requested than the domain's minimum.
    #[error(
        "{wanted_kib} KiB are too little for domain {domid}: it must have at least {min_kib} KiB"
    )]
    BelowMinimum {
        /// Number of the domain.
        domid: DomId,
        /// Requested memory, in KiB.
        wanted_kib: u64,
        /// Minimum memory of the domain, in KiB.
        min_kib: u64,
    },
    /// A maximum was requested that is below the domain's memory target.
    #[error(
        "{wanted_kib} KiB are less than domain {domid} is to have now, which is {target_kib} KiB: lower that first with `xyl mem-set {domid}`"
    )]
    BelowTarget {
        /// Number of the domain.
        domid: DomId,
        /// Requested maximum, in KiB.
        wanted_kib: u64,
        /// Memory target of the domain, in KiB.
        target_kib: u64,
    },
    /// Xenstore does not have the domain's memory limits.
    #[error(
        "the memory limits of domain {domid} are not in xenstore ({path}): it was not made by xl or xyl, or is on its way out"
    )]
    NoMemoryLimits {
        /// Number of the domain.
        domid: DomId,
        /// Path of the missing node.
        path: String,
    },
    /// The domain cannot use this number of vCPUs.
    #[error(
        "domain {domid} cannot use {wanted} vCPUs: choose 1 to {most}; for more, raise `maxvcpus` in its configuration and create it anew"
    )]
    VcpusOutOfRange {
        /// Number of the domain.
        domid: DomId,
        /// Requested number of vCPUs.
        wanted: u32,
        /// Maximum number of vCPUs of the domain.
        most: u32,
    },
    /// The domain has no vCPU with this number.
    #[error("domain {domid} has no vCPU {vcpu}: it has {most}, numbered from 0")]
    NoSuchVcpu {
        /// Number of the domain.
        domid: DomId,
        /// Requested number of the vCPU.
        vcpu: u32,
        /// Number of vCPUs of the domain.
        most: u32,
    },
    /// The request would need a device model, which Xyl does not support yet.
    #[error("{what} of an HVM guest (domain {domid}) is not there yet: use `xl {what}`")]
    HvmNotYet {
        /// Number of the domain.
        domid: DomId,
        /// Name of the command.
        what: &'static str,
    },
    /// The domain has another scheduler than the command is for.
    #[error(
        "domain {domid} is under the scheduler {actual}, not {wanted}: use `xyl sched-{actual}`"
    )]
    OtherScheduler {
        /// Number of the domain.
        domid: DomId,
        /// Scheduler of the command.
        wanted: &'static str,
        /// Scheduler of the domain.
        actual: &'static str,
    },
    /// The CPU pool has another scheduler than the command is for.
    #[error(
        "CPU pool {pool} is under the scheduler {actual}, not {wanted}: its parameters are those of `xyl sched-{actual} -s`"
    )]
    PoolOtherScheduler {
        /// Number of the pool.
        pool: u32,
        /// Scheduler of the command.
        wanted: &'static str,
        /// Scheduler of the pool.
        actual: &'static str,
    },
    /// The number is outside the range that Xen accepts.
    #[error("{what} {value} is out of range: {least} to {most} are allowed")]
    OutOfRange {
        /// Name of the number.
        what: &'static str,
        /// Value that the caller asked for.
        value: u32,
        /// Smallest allowed value.
        least: u32,
        /// Largest allowed value.
        most: u32,
    },
}

impl RequestError {
    /// Domain in the error's text.
    pub(crate) fn domain(&self) -> Option<DomId> {
        match self {
            RequestError::NoPvDrivers { domid, .. }
            | RequestError::Paused { domid }
            | RequestError::HasShutDown { domid, .. }
            | RequestError::Restarting { domid }
            | RequestError::AboveMaximum { domid, .. }
            | RequestError::BelowMinimum { domid, .. }
            | RequestError::BelowTarget { domid, .. }
            | RequestError::NoMemoryLimits { domid, .. }
            | RequestError::VcpusOutOfRange { domid, .. }
            | RequestError::NoSuchVcpu { domid, .. }
            | RequestError::HvmNotYet { domid, .. }
            | RequestError::OtherScheduler { domid, .. } => Some(*domid),
            RequestError::BadName(_)
            | RequestError::BadSysrq(_)
            | RequestError::PoolOtherScheduler { .. }
            | RequestError::OutOfRange { .. } => None,
        }
    }

    /// Whether its text ends in a remedy, after the last colon.
    pub(crate) fn has_remedy(&self) -> bool {
        matches!(
            self,
            RequestError::BadName(_)
                | RequestError::BadSysrq(_)
                | RequestError::NoPvDrivers { .. }
                | RequestError::Paused { .. }
                | RequestError::HasShutDown { .. }
                | RequestError::Restarting { .. }
                | RequestError::AboveMaximum { .. }
                | RequestError::BelowTarget { .. }
                | RequestError::VcpusOutOfRange { .. }
                | RequestError::HvmNotYet { .. }
                | RequestError::OtherScheduler { .. }
        )
    }

    /// Stable code of the error.
    pub fn code(&self) -> ErrorCode {
        match self {
            RequestError::BadName(_) => ErrorCode::BadName,
            RequestError::BadSysrq(_) => ErrorCode::BadSysrq,
            RequestError::NoPvDrivers { .. } => ErrorCode::NoPvDrivers,
            RequestError::Paused { .. } => ErrorCode::Paused,
            RequestError::HasShutDown { .. } => ErrorCode::HasShutDown,
            RequestError::Restarting { .. } => ErrorCode::Restarting,
            RequestError::AboveMaximum { .. } => ErrorCode::AboveMaximum,
            RequestError::BelowMinimum { .. } => ErrorCode::BelowMinimum,
            RequestError::BelowTarget { .. } => ErrorCode::BelowTarget,
            RequestError::NoMemoryLimits { .. } => ErrorCode::NoMemoryLimits,
            RequestError::VcpusOutOfRange { .. } => ErrorCode::VcpusOutOfRange,
            RequestError::NoSuchVcpu { .. } => ErrorCode::NoSuchVcpu,
            RequestError::HvmNotYet { .. } => ErrorCode::NotThereYet,
            RequestError::OtherScheduler { .. } | RequestError::PoolOtherScheduler { .. } => {
                ErrorCode::OtherScheduler
            }
            RequestError::OutOfRange { .. } => ErrorCode::OutOfRange,
        }
    }
}
