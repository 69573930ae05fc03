//! Why a change to a running domain, or a look at it, was refused.

use xen_port::{DomId, ShutdownReason};

use xl_cfg::types::BadName;

use super::ErrorCode;

/// Why a change to a running domain was refused before Xen or xenstore was asked for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A name that no domain may have.
    #[error("{0}: {help}", help = .0.help())]
    BadName(#[from] BadName),
    /// A key that is no SysRq.
    #[error("`{0}` is no SysRq key: give one letter or digit, such as h for help")]
    BadSysrq(char),
    /// A guest that does not listen to xenstore.
    #[error(
        "domain {domid} is an HVM guest without PV drivers, so it cannot be asked to {request}: repeat with -F to press its ACPI button"
    )]
    NoPvDrivers {
        /// Number of the domain.
        domid: DomId,
        /// `poweroff` or `reboot`.
        request: &'static str,
    },
    /// A paused guest takes no request.
    #[error(
        "domain {domid} is paused, so its guest has not taken the request, which stands: the guest takes it after `xyl unpause {domid}`"
    )]
    Paused {
        /// Number of the domain.
        domid: DomId,
    },
    /// The domain has shut down, and its VM gets no next one: it cannot be rebooted.
    #[error(
        "domain {domid} has shut down already ({reason:?}), and its configuration starts its VM no more: to start it again, `xyl destroy {domid}` if it is there still, then `xyl create`"
    )]
    HasShutDown {
        /// Number of the domain.
        domid: DomId,
        /// Why it has shut down.
        reason: ShutdownReason,
    },
    /// The domain has shut down, and its VM is about to get its next one.
    #[error(
        "domain {domid} has shut down, and its VM is being restarted: repeat it for the next domain, or `xyl destroy {domid}` to end the VM"
    )]
    Restarting {
        /// Number of the domain.
        domid: DomId,
    },
    /// More memory than the domain may have.
    #[error(
        "{wanted_kib} KiB are more than domain {domid} may have, which is {max_kib} KiB: raise that first with `xyl mem-max {domid}`"
    )]
    AboveMaximum {
        /// Number of the domain.
        domid: DomId,
        /// What was asked for.
        wanted_kib: u64,
        /// What it may have.
        max_kib: u64,
    },
    /// Less memory than the domain needs to live.
    #[error(
        "{wanted_kib} KiB are too little for domain {domid}: it must have at least {min_kib} KiB"
    )]
    BelowMinimum {
        /// Number of the domain.
        domid: DomId,
        /// What was asked for.
        wanted_kib: u64,
        /// Minimum memory of the domain, in KiB.
        min_kib: u64,
    },
    /// A maximum below what the domain is to have now.
    #[error(
        "{wanted_kib} KiB are less than domain {domid} is to have now, which is {target_kib} KiB: lower that first with `xyl mem-set {domid}`"
    )]
    BelowTarget {
        /// Number of the domain.
        domid: DomId,
        /// What was asked for.
        wanted_kib: u64,
        /// What it is to have now.
        target_kib: u64,
    },
    /// Xenstore does not have the domain's memory limits.
    #[error(
        "the memory limits of domain {domid} are not in xenstore ({path}): it was not made by xl or xyl, or is on its way out"
    )]
    NoMemoryLimits {
        /// Number of the domain.
        domid: DomId,
        /// The node that is missing.
        path: String,
    },
    /// A number of vCPUs that the domain cannot have.
    #[error(
        "domain {domid} cannot use {wanted} vCPUs: choose 1 to {most}; for more, raise `maxvcpus` in its configuration and create it anew"
    )]
    VcpusOutOfRange {
        /// Number of the domain.
        domid: DomId,
        /// What was asked for.
        wanted: u32,
        /// vCPUs that it has.
        most: u32,
    },
    /// A vCPU that the domain does not have.
    #[error("domain {domid} has no vCPU {vcpu}: it has {most}, numbered from 0")]
    NoSuchVcpu {
        /// Number of the domain.
        domid: DomId,
        /// What was asked for.
        vcpu: u32,
        /// vCPUs that it has.
        most: u32,
    },
    /// HVM guests have a device model, which has to be asked too.
    #[error("{what} of an HVM guest (domain {domid}) is not there yet: use `xl {what}`")]
    HvmNotYet {
        /// Number of the domain.
        domid: DomId,
        /// Name of the command.
        what: &'static str,
    },
    /// The domain is under another scheduler than the command is for.
    #[error(
        "domain {domid} is under the scheduler {actual}, not {wanted}: use `xyl sched-{actual}`"
    )]
    OtherScheduler {
        /// Number of the domain.
        domid: DomId,
        /// The command's scheduler.
        wanted: &'static str,
        /// Scheduler of the domain.
        actual: &'static str,
    },
    /// A CPU pool is under another scheduler than the one that the command is for.
    #[error(
        "CPU pool {pool} is under the scheduler {actual}, not {wanted}: its parameters are those of `xyl sched-{actual} -s`"
    )]
    PoolOtherScheduler {
        /// The pool's number.
        pool: u32,
        /// The command's scheduler.
        wanted: &'static str,
        /// Scheduler of the pool.
        actual: &'static str,
    },
    /// A number outside of what Xen takes.
    #[error("{what} {value} is out of range: {least} to {most} are allowed")]
    OutOfRange {
        /// What the number is.
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
    /// The kind of the error.
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
