//! Why an operation on a VM failed.
//!
//! Every other module may use this one; it uses none of them.

mod adopt;
mod code;
mod dump_core;
mod request;
mod shim;
mod soft_reset;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use os_port::FileError;
use xen_build::BuildError;
use xen_image::Malformed;
use xen_port::{DomId, Errno, HvError};
use xl_cfg::Location;
use xyl_audit::UnsupportedSetting;
use xyl_saga::{Failure, JournalError, Operation, UnknownStep};

pub use adopt::AdoptError;
pub use code::ErrorCode;
pub use dump_core::DumpError;
pub use request::RequestError;
pub use shim::ShimError;
pub(crate) use shim::list_paths;
pub use soft_reset::SoftResetError;

/// What a host lacks that a guest's settings ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    /// Hardware-assisted paging (EPT, NPT), asked for by `hap = 1`.
    #[error("this host has no hardware-assisted paging: leave `hap` out")]
    Hap,
    /// Shadow paging, which a guest without hardware-assisted paging has.
    #[error("this Xen has no shadow paging: leave `hap` out")]
    Shadow,
    /// Hardware-assisted paging, without which no guest has nested virtualisation.
    #[error(
        "`nestedhvm` needs hardware-assisted paging: leave it out, or leave `hap = 0` out where the host has that"
    )]
    HapForNested,
    /// Traces of processors.
    #[error(
        "this host cannot trace its processors (Intel Processor Trace): leave `vmtrace_buf_kb` out"
    )]
    Vmtrace,
}

impl Lacking {
    /// The setting that asks for it.
    pub(crate) fn keys(self) -> &'static [&'static str] {
        match self {
            Lacking::Hap | Lacking::Shadow => &["hap"],
            Lacking::HapForNested => &["nestedhvm", "hap"],
            Lacking::Vmtrace => &["vmtrace_buf_kb"],
        }
    }
}

/// An error that a setting of a VM's configuration is the reason for.
#[derive(Debug)]
pub struct SettingError {
    /// The domain's name.
    pub domain: String,
    /// Name of the setting.
    pub key: &'static str,
    /// The configuration's file.
    pub file: String,
    /// Where its value stands, in the file or on the command line; `None` if it is written nowhere.
    pub place: Option<Location>,
    /// What is wrong.
    pub source: EngineError,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, domain) = (&self.file, &self.domain);
        match &self.place {
            Some(place) => write!(f, "{place}: domain `{domain}`: {}", self.source),
            None => write!(f, "{file}: domain `{domain}`: {}", self.source),
        }
    }
}

impl std::error::Error for SettingError {}

/// Why an operation on a VM failed. Each text says what was tried, on what, why it failed, and
/// where there is one the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A request to the hypervisor failed.
    #[error(transparent)]
    Hypervisor(#[from] HvError),
    /// A request to xenstored failed.
    #[error(transparent)]
    Store(#[from] xenstore::Error),
    /// A kernel or a ramdisk could not be used.
    #[error(transparent)]
    Image(#[from] xen_image::Error),
    /// The domain's memory could not be built.
    #[error(transparent)]
    Build(#[from] xen_build::BuildError),
    /// The configuration is wrong, or asks for what cannot be done.
    #[error(transparent)]
    Config(#[from] xl_cfg::Error),
    /// The CPUs that a vCPU is bound to are not there.
    #[error(
        "vCPU {vcpu}: this host has none of the CPUs `{wanted}`: `xyl info` shows how many it has"
    )]
    NoSuchCpus {
        /// Number of the vCPU.
        vcpu: u32,
        /// What the configuration names.
        wanted: String,
    },
    /// Another domain has the name.
    #[error(
        "the name `{name}` is taken by domain {domid}: choose another, or destroy that domain first"
    )]
    NameTaken {
        /// The name that the caller asked for.
        name: String,
        /// Who has it.
        domid: DomId,
    },
    /// Another process is giving a domain that name.
    #[error("the name `{name}` is being given to a domain by another process just now")]
    NameBusy {
        /// The name that the caller asked for.
        name: String,
    },
    /// Another domain has the UUID.
    #[error(
        "the UUID {uuid} is that of domain {domid}: leave `uuid` out of the configuration, or destroy that domain first"
    )]
    UuidTaken {
        /// The UUID in text.
        uuid: String,
        /// Who has it.
        domid: DomId,
    },
    /// No domain is known by that name or number.
    #[error("no domain `{0}`: `xyl list` shows those there are")]
    NoSuchDomain(String),
    /// No CPU pool is known by that name or number.
    #[error("no CPU pool `{0}`: `xl cpupool-list` shows those there are")]
    NoSuchPool(String),
    /// The pool's scheduler gives no shares.
    #[error(
        "`cpu_weight` and `cap` mean nothing under the scheduler {0}: leave them out, or choose another `pool`"
    )]
    NoShares(&'static str),
    /// The control domain cannot be destroyed, paused or shut down like a guest.
    #[error("domain 0 is the control domain: {0} would take the host down")]
    ControlDomain(&'static str),
    /// More memory is wanted than is free.
    #[error(
        "{wanted_mib} MiB are wanted, and {free_mib} MiB are free: lower `memory`, shut another domain down, or give the control domain less (`dom0_mem=` on Xen's command line, `xyl mem-set 0`)"
    )]
    NotEnoughMemory {
        /// What the domain needs in all.
        wanted_mib: u64,
        /// What Xen has free and unclaimed.
        free_mib: u64,
    },
    /// PVH and HVM need hardware virtualisation.
    #[error(
        "type=\"{0}\" needs hardware virtualisation, which this host does not have or has switched off in its firmware: use type=\"pv\""
    )]
    NoHardwareVirtualisation(&'static str),
    /// The host lacks what a setting asks for.
    #[error(transparent)]
    HostLacks(Lacking),
    /// A label of Xen's security modules, on a host that has them.
    #[error(
        "`seclabel` and `init_seclabel` are not supported by Xyl yet, and this Xen has security modules (XSM): use `xl create`, or take them out"
    )]
    LabelsUnsupported,
    /// PV guests are compiled out or switched off.
    #[error("type=\"pv\" cannot run here: this Xen was built without PV guests: use type=\"pvh\"")]
    NoPv,
    /// Bare 32-bit PV guests are compiled out or switched off.
    #[error(
        "a 32-bit PV kernel cannot run bare here: this Xen was built without CONFIG_PV32, was booted with `pv=no-32`, or uses CET: remove `pvshim = 0`, then it starts in the PV shim"
    )]
    NoPv32,
    /// The guest cannot run in the PV shim.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// The policy of the host does not let the guest start.
    #[error("{kernel} is {line}", kernel = kernel.display())]
    NotAdmitted {
        /// The guest's kernel.
        kernel: PathBuf,
        /// The decision in words: cause and remedy.
        line: String,
        /// The settings for which it is refused, where it is for some.
        settings: Vec<UnsupportedSetting>,
    },
    /// The policy cannot be read.
    #[error(transparent)]
    Policy(#[from] xyl_audit::PolicyError),
    /// Advisories that the policy names cannot be read.
    #[error("{0}; the policy asks for advisories, so no guest is created until this is put right")]
    Advisories(#[from] xyl_audit::advisories::AdvisoryError),
    /// All free domids were in use a moment ago.
    #[error("no domid is free that was not in use within the last minute: try again later")]
    NoFreshDomid,
    /// The domain has devices that another toolstack set up.
    #[error(
        "domain {domid} has devices that Xyl cannot take down yet ({devices}): use `xl destroy {domid}`, or `xyl destroy --force {domid}` to leave their backends to themselves"
    )]
    ForeignDevices {
        /// Number of the domain.
        domid: DomId,
        /// Kinds and numbers.
        devices: String,
    },
    /// A change to a running domain was refused.
    #[error(transparent)]
    Control(#[from] RequestError),
    /// A domain of xl's is not taken over.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// A domain cannot be soft-reset.
    #[error(transparent)]
    SoftReset(#[from] SoftResetError),
    /// A domain's core cannot be dumped.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// A file could not be used.
    #[error("{op} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file of ours does not say what it should.
    #[error("{path}: {what}", path = path.display())]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A journal could not be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal tells of an operation that this build does not know.
    #[error(
        "the journal of the VM {uuid} tells of a `{kind}`, which this xyl does not know: use the xyl that wrote it"
    )]
    UnknownOperation {
        /// UUID of the VM.
        uuid: String,
        /// Kind of the operation, as the journal names it.
        kind: String,
    },
    /// A journal of another version of this program: an operation that has another step.
    #[error(
        "the VM {uuid} has a {kind} under way that another version of xyl has begun: {unknown}. Nothing was done; let that version finish it (its `xyl recover`)"
    )]
    UnknownStep {
        /// UUID of the VM.
        uuid: String,
        /// Kind of the operation.
        kind: &'static str,
        /// The step that this version does not have.
        unknown: UnknownStep,
    },
    /// An undo found that the domain has run.
    #[error("domain {0} has run, and so is not destroyed: to end it, `xyl destroy {0}`")]
    HasRun(DomId),
    /// An earlier operation on the VM cannot be finished, and keeps others from beginning.
    #[error(
        "an earlier operation on the VM {uuid} is not finished, and nothing else was begun: {what}"
    )]
    Unfinished {
        /// UUID of the VM.
        uuid: String,
        /// The operation, and why it cannot be finished.
        what: String,
    },
    /// Somebody asked for the operation to stop.
    #[error("cancelled")]
    Cancelled,
    /// A wait ran out of time.
    #[error("{what}: not within {limit_s} s")]
    Deadline {
        /// What was waited for.
        what: String,
        /// Time limit in seconds.
        limit_s: u64,
    },
    /// The VM has got its next domain before its turn came.
    #[error(
        "domain {domid} has ended, and its VM is domain {next} now: nothing was done; repeat it for that one"
    )]
    Restarted {
        /// The domain that was meant.
        domid: DomId,
        /// The VM's domain now.
        next: DomId,
    },
    /// The VM's monitor has failed at a request.
    #[error("{message}")]
    ByMonitor {
        /// The kind of its error.
        code: ErrorCode,
        /// The step of the operation that has failed.
        step: Option<String>,
        /// The text of its error.
        message: String,
    },
    /// A setting of the VM's configuration is why.
    #[error(transparent)]
    Setting(Box<SettingError>),
    /// A step of an operation failed, and what was made before it was taken back.
    #[error(transparent)]
    Step(#[from] Box<Failure<EngineError>>),
}

impl EngineError {
    /// What stopped an operation, where a step of one has failed; else the error itself.
    pub fn cause(&self) -> &EngineError {
        match self {
            EngineError::Step(failure) => failure.cause.cause(),
            EngineError::Setting(setting) => setting.source.cause(),
            other => other,
        }
    }

    /// The kind of the error: that of the cause, where a step has failed.
    pub fn code(&self) -> ErrorCode {
        match self {
            EngineError::Hypervisor(HvError::NotXen { .. }) => ErrorCode::NotXen,
            EngineError::Hypervisor(_) => ErrorCode::Hypervisor,
            EngineError::Store(_) => ErrorCode::Xenstore,
            EngineError::Image(_) => ErrorCode::BootFile,
            EngineError::Build(_) => ErrorCode::MemoryBuild,
            EngineError::Config(_) => ErrorCode::Configuration,
            EngineError::Setting(setting) => setting.source.code(),
            EngineError::NoSuchCpus { .. } => ErrorCode::NoSuchCpus,
            EngineError::NameTaken { .. } => ErrorCode::NameTaken,
            EngineError::NameBusy { .. } => ErrorCode::NameBusy,
            EngineError::UuidTaken { .. } => ErrorCode::UuidTaken,
            EngineError::NoSuchDomain(_) => ErrorCode::NoSuchDomain,
            EngineError::NoSuchPool(_) => ErrorCode::NoSuchPool,
            EngineError::NoShares(_) => ErrorCode::NoShares,
            EngineError::ControlDomain(_) => ErrorCode::ControlDomain,
            EngineError::NotEnoughMemory { .. } => ErrorCode::NotEnoughMemory,
            EngineError::NoHardwareVirtualisation(_) => ErrorCode::NoHardwareVirtualisation,
            EngineError::HostLacks(_) => ErrorCode::HostLacks,
            EngineError::LabelsUnsupported => ErrorCode::LabelsUnsupported,
            EngineError::NoPv => ErrorCode::NoPv,
            EngineError::NoPv32 => ErrorCode::NoPv32,
            EngineError::Shim(_) => ErrorCode::Shim,
            EngineError::NotAdmitted { .. } => ErrorCode::NotAdmitted,
            EngineError::Policy(_) => ErrorCode::Policy,
            EngineError::Advisories(_) => ErrorCode::Advisories,
            EngineError::NoFreshDomid => ErrorCode::NoFreshDomid,
            EngineError::ForeignDevices { .. } => ErrorCode::ForeignDevices,
            EngineError::Control(error) => error.code(),
            EngineError::Adopt(error) => error.code(),
            EngineError::SoftReset(_) => ErrorCode::SoftReset,
            EngineError::Dump(_) => ErrorCode::DumpCore,
            EngineError::Io { .. } => ErrorCode::File,
            EngineError::Record { .. } => ErrorCode::BadRecord,
            EngineError::Journal(_) => ErrorCode::Journal,
            EngineError::UnknownOperation { .. } | EngineError::UnknownStep { .. } => {
                ErrorCode::UnknownOperation
            }
            EngineError::HasRun(_) => ErrorCode::HasRun,
            EngineError::Unfinished { .. } => ErrorCode::Unfinished,
            EngineError::Cancelled => ErrorCode::Cancelled,
            EngineError::Deadline { .. } => ErrorCode::Deadline,
            EngineError::Restarted { .. } => ErrorCode::DomainReplaced,
            EngineError::ByMonitor { code, .. } => *code,
            EngineError::Step(failure) => failure.cause.code(),
        }
    }

    /// The step of an operation that has failed, where the error is of one.
    pub fn step(&self) -> Option<&str> {
        match self {
            EngineError::Step(failure) => Some(failure.step),
            EngineError::ByMonitor { step, .. } => step.as_deref(),
            _ => None,
        }
    }

    /// Whether the connection to xenstored is lost, so that nothing can be done by this process any more.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self.cause(), EngineError::Store(error) if error.is_connection_lost())
    }

    /// Whether it tells of the host and not of the VM: a disk, xenstored or Xen lacks what may come back. What failed may be
    /// tried again for as long as that takes.
    pub fn is_of_the_host(&self) -> bool {
        match self.cause() {
            EngineError::Io { source, .. } => is_io_of_the_host(source),
            EngineError::Journal(JournalError::Io { source, .. }) => is_io_of_the_host(source),
            EngineError::Image(
                xen_image::Error::Open { source, .. } | xen_image::Error::Read { source, .. },
            ) => is_io_of_the_host(source),
            EngineError::Image(
                xen_image::Error::NoTurn { .. }
                | xen_image::Error::Malformed {
                    source: Malformed::OutOfMemory { .. } | Malformed::NotUnpacked { .. },
                    ..
                },
            ) => true,
            EngineError::Build(BuildError::Hypervisor { source, .. }) => is_xen_of_the_host(source),
            EngineError::Hypervisor(error) => is_xen_of_the_host(error),
            EngineError::Policy(_) | EngineError::Advisories(_) => true,
            EngineError::Store(_)
            | EngineError::Build(BuildError::OutOfMemory { .. })
            | EngineError::NotEnoughMemory { .. }
            | EngineError::NoFreshDomid
            | EngineError::Deadline { .. } => true,
            _ => false,
        }
    }

    /// An error about an operation that another version has begun.
    pub(crate) fn unknown_step(
        kind: &'static str,
        operation: &Operation,
        unknown: UnknownStep,
    ) -> EngineError {
        EngineError::UnknownStep {
            uuid: operation.begin.uuid.clone(),
            kind,
            unknown,
        }
    }

    /// An error about a file.
    pub fn io(op: &'static str, path: &Path, source: std::io::Error) -> EngineError {
        EngineError::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }
}

/// What Xen answers when the host is short of something, or busy.
const HOST_ERRNOS: [Errno; 5] = [
    Errno::ENOMEM,
    Errno::EIO,
    Errno::ENOSPC,
    Errno::EBUSY,
    Errno::EAGAIN,
];

fn is_xen_of_the_host(error: &HvError) -> bool {
    HOST_ERRNOS.iter().any(|errno| error.is(*errno))
}

/// A file that is missing, or that is not what it should be, is the VM's.
fn is_io_of_the_host(error: &std::io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::FileTooLarge
    )
}

impl From<FileError> for EngineError {
    fn from(error: FileError) -> EngineError {
        EngineError::Io {
            op: error.op,
            path: error.path,
            source: error.source,
        }
    }
}
