//! [`EngineError`], the error of every operation on a VM.
//!
//! All other modules of the engine may use this one; it uses none of them.

mod adopt;
mod api;
mod autostart;
mod boot_loader;
mod device;
mod dump_core;
mod parameter;
mod pci;
mod pool;
mod request;
mod restore;
mod save;
mod shim;
mod soft_reset;
mod suspend;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use os_port::FileError;
use xen_build::BuildError;
use xen_image::Malformed;
use xen_port::{DomId, Errno, HvError};
use xl_cfg::Location;
use xyl_audit::UnsupportedSetting;
use xyl_saga::{Failure, JournalError, Operation, Stop, UnknownStep};

pub use adopt::AdoptError;
pub use autostart::AutostartError;
pub use boot_loader::BootLoaderError;
pub use device::DeviceError;
pub use dump_core::DumpError;
pub use parameter::ParameterError;
pub use pci::PciError;
pub use pool::PoolError;
pub use request::RequestError;
pub use restore::RestoreError;
pub use save::SaveError;
pub use shim::ShimError;
pub(crate) use shim::list_paths;
pub use soft_reset::SoftResetError;
pub use suspend::SuspendError;
pub use xyl_api::ErrorCode;

/// A feature that a setting needs and the host lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    /// Hardware-assisted paging (EPT, NPT), asked for by `hap = 1`.
    #[error("this host has no hardware-assisted paging: leave `hap` out")]
    Hap,
    /// Shadow paging, which a guest without hardware-assisted paging needs.
    #[error("this Xen has no shadow paging: leave `hap` out")]
    Shadow,
    /// Hardware-assisted paging, which nested virtualisation needs.
    #[error(
        "`nestedhvm` needs hardware-assisted paging: leave it out, or leave `hap = 0` out where the host has that"
    )]
    HapForNested,
    /// Processor tracing (Intel Processor Trace).
    #[error(
        "this host cannot trace its processors (Intel Processor Trace): leave `vmtrace_buf_kb` out"
    )]
    Vmtrace,
}

impl Lacking {
    /// The settings that need the feature.
    pub(crate) fn keys(self) -> &'static [&'static str] {
        match self {
            Lacking::Hap | Lacking::Shadow => &["hap"],
            Lacking::HapForNested => &["nestedhvm", "hap"],
            Lacking::Vmtrace => &["vmtrace_buf_kb"],
        }
    }
}

/// An error about one setting of a VM's configuration.
#[derive(Debug)]
pub struct SettingError {
    /// Name of the domain.
    pub domain: String,
    /// Name of the setting.
    pub key: &'static str,
    /// Path of the configuration file.
    pub file: String,
    /// Place of the setting's value, in the file or on the command line. `None` if the value is a default.
    pub place: Option<Location>,
    /// The error itself.
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

/// The reasons why an operation on a VM fails. Each text names the action, the object, the cause, and the remedy if
/// there is one.
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
    /// The boot loader that `bootloader` names has found no kernel.
    #[error(transparent)]
    BootLoader(#[from] BootLoaderError),
    /// The host does not have the boot loader that `firmware` names.
    #[error(
        "firmware=\"{firmware}\": this host has none of {}: install the package with GRUB for Xen guests (Debian: grub-xen-host; openSUSE: grub2-x86_64-xen), or give the file's path as `kernel`",
        list_paths(.looked_at)
    )]
    NoFirmware {
        /// The value of `firmware`.
        firmware: String,
        /// The paths where it was expected.
        looked_at: Vec<PathBuf>,
    },
    /// The domain's memory could not be built.
    #[error(transparent)]
    Build(#[from] xen_build::BuildError),
    /// The configuration is invalid, or needs something unsupported.
    #[error(transparent)]
    Config(#[from] xl_cfg::Error),
    /// None of the CPUs that a vCPU is bound to exists.
    #[error(
        "vCPU {vcpu}: this host has none of the CPUs `{wanted}`: `xyl info` shows how many it has"
    )]
    NoSuchCpus {
        /// Number of the vCPU.
        vcpu: u32,
        /// The CPUs that the configuration names.
        wanted: String,
    },
    /// Another domain has the name.
    #[error(
        "the name `{name}` is taken by domain {domid}: choose another, or destroy that domain first"
    )]
    NameTaken {
        /// The name that the caller asked for.
        name: String,
        /// The domain that has the name.
        domid: DomId,
    },
    /// A VM that has no domain now has the name.
    #[error(
        "the name `{name}` is that of the VM {uuid}, which has no domain now and is being restarted: choose another, or end that VM with `xyl destroy {name}`, which keeps its configuration"
    )]
    NameOfVm {
        /// The name that the caller asked for.
        name: String,
        /// UUID of the VM that has it.
        uuid: String,
    },
    /// The VM has no domain: a restart is under way.
    #[error(
        "the VM `{name}` has no domain now: its restart is under way (`xyl ops` shows how far it is); repeat the command"
    )]
    Restarting {
        /// Name of the VM.
        name: String,
        /// UUID of the VM.
        uuid: uuid::Uuid,
    },
    /// The VM has no domain: its restart waits for the next try.
    #[error(
        "the VM `{name}` has no domain now: its restart has failed, and waits for the next try (`xyl ops` shows when); `xyl destroy {name}` ends the wait, and keeps its configuration"
    )]
    WaitsForRestart {
        /// Name of the VM.
        name: String,
        /// UUID of the VM.
        uuid: uuid::Uuid,
    },
    /// The VM has no monitor that could carry a request out.
    #[error("the VM {0} has no monitor that could carry the request out")]
    NoMonitor(uuid::Uuid),
    /// Too many requests wait for the VM.
    #[error("{0} requests wait for the VM already: the request was not added")]
    QueueFull(usize),
    /// The VM has no domain: its restart was given up.
    #[error(
        "the VM `{name}` has no domain: its restart was given up ({why}); `xyl create {kept}` starts it again", kept = kept.display()
    )]
    GivenUp {
        /// Name of the VM.
        name: String,
        /// UUID of the VM.
        uuid: uuid::Uuid,
        /// Error of the last try.
        why: String,
        /// Path of its configuration.
        kept: PathBuf,
    },
    /// Another process is giving a domain that name.
    #[error(
        "the name `{name}` is in use by another process that creates or renames a domain: repeat this in a moment"
    )]
    NameBusy {
        /// The name that the caller asked for.
        name: String,
    },
    /// Another domain has the UUID.
    #[error(
        "the UUID {uuid} is that of domain {domid}: leave `uuid` out of the configuration, or destroy that domain first"
    )]
    UuidTaken {
        /// The UUID as text.
        uuid: String,
        /// The domain that has the UUID.
        domid: DomId,
    },
    /// No domain has this name or number.
    #[error("no domain `{0}`: `xyl list` shows those there are")]
    NoSuchDomain(String),
    /// No CPU pool has this name or number.
    #[error("no CPU pool `{0}`: `xyl cpupool-list` shows those there are")]
    NoSuchPool(String),
    /// The pool's scheduler has no weights and caps.
    #[error(
        "`cpu_weight` and `cap` have no effect under the scheduler {0}: leave them out, or choose another `pool`"
    )]
    NoShares(&'static str),
    /// Domain 0 cannot be destroyed, paused or shut down.
    #[error("domain 0 is the control domain, which the host needs: {0} is refused")]
    ControlDomain(&'static str),
    /// The domain needs more memory than Xen has free.
    #[error(
        "{wanted_mib} MiB are wanted, and {free_mib} MiB are free: lower `memory`, shut another domain down, or give the control domain less (`dom0_mem=` on Xen's command line, `xyl mem-set 0`)"
    )]
    NotEnoughMemory {
        /// Memory that the domain needs, in MiB.
        wanted_mib: u64,
        /// Memory that is free and unclaimed, in MiB.
        free_mib: u64,
    },
    /// PVH and HVM need hardware virtualisation.
    #[error(
        "type=\"{0}\" needs hardware virtualisation, which this host does not have or has switched off in its firmware: use type=\"pv\""
    )]
    NoHardwareVirtualisation(&'static str),
    /// The host lacks a feature that a setting needs.
    #[error(transparent)]
    HostLacks(Lacking),
    /// The configuration has a security label, and this Xen has security modules (XSM).
    #[error(
        "`seclabel` and `init_seclabel` are not supported by Xyl yet, and this Xen has security modules (XSM): use `xl create`, or take them out"
    )]
    LabelsUnsupported,
    /// This Xen runs no PV guests: they are compiled out or switched off.
    #[error("type=\"pv\" cannot run here: this Xen was built without PV guests: use type=\"pvh\"")]
    NoPv,
    /// This Xen runs no bare 32-bit PV guests: they are compiled out or switched off.
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
        /// Path of the guest's kernel.
        kernel: PathBuf,
        /// Text of the decision, with cause and remedy.
        line: String,
        /// The settings that the policy refuses, if they are the cause.
        settings: Vec<UnsupportedSetting>,
    },
    /// The policy cannot be read.
    #[error(transparent)]
    Policy(#[from] xyl_audit::PolicyError),
    /// Advisories that the policy names cannot be read.
    #[error("{0}; the policy asks for advisories, so no guest is created until this is put right")]
    Advisories(#[from] xyl_audit::advisories::AdvisoryError),
    /// Every free domid was in use within the last minute.
    #[error("no domid is free that was not in use within the last minute: try again later")]
    NoFreshDomid,
    /// Another toolstack has created devices for the domain.
    #[error(
        "domain {domid} has devices that Xyl cannot take down yet ({devices}): use `xl destroy {domid}`, or `xyl destroy --force {domid}` to leave their backends to themselves"
    )]
    ForeignDevices {
        /// Number of the domain.
        domid: DomId,
        /// Kinds and numbers of the devices.
        devices: String,
    },
    /// A device cannot be attached.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A change to a running domain was refused.
    #[error(transparent)]
    Control(#[from] RequestError),
    /// A parameter of Xen cannot be set as requested.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// A PCI device of the host cannot be made assignable, given to a domain, or taken back.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A CPU pool cannot be changed as requested.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A domain of xl could not be adopted.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// A VM cannot start with the host.
    #[error(transparent)]
    Autostart(#[from] AutostartError),
    /// The domain cannot be soft-reset.
    #[error(transparent)]
    SoftReset(#[from] SoftResetError),
    /// The guest cannot be suspended or resumed.
    #[error(transparent)]
    Suspend(#[from] SuspendError),
    /// The guest cannot be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The saved guest cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The domain's core cannot be dumped.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Reading or writing a file failed.
    #[error("{op} {path}: {source}", path = path.display())]
    Io {
        /// The action that failed.
        op: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A file of ours does not say what it should.
    #[error("{path}: {what}", path = path.display())]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// Description of the damage.
        what: String,
    },
    /// A journal could not be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal of another version of this program: a format that this one cannot read.
    #[error("the journal {path} is {what}. {remedy}", path = path.display(), remedy = remedy_of_unknown(uuid))]
    UnknownFormat {
        /// UUID of the VM.
        uuid: String,
        /// Path of the journal.
        path: PathBuf,
        /// The format of the file.
        what: String,
    },
    /// The journal has an operation that this build does not know.
    #[error(
        "the journal {path} has an operation `{kind}`, which this version of xyl does not know. {remedy}", path = path.display(), remedy = remedy_of_unknown(uuid)
    )]
    UnknownOperation {
        /// UUID of the VM.
        uuid: String,
        /// Path of the journal.
        path: PathBuf,
        /// Kind of the operation, as the journal names it.
        kind: String,
    },
    /// A journal of another version of this program: an operation that has another step.
    #[error(
        "the journal {path} has a {kind} that another version of xyl has begun: {unknown}. {remedy}", path = path.display(), remedy = remedy_of_unknown(uuid)
    )]
    UnknownStep {
        /// UUID of the VM.
        uuid: String,
        /// Path of the journal.
        path: PathBuf,
        /// Kind of the operation.
        kind: &'static str,
        /// The step that this version does not have.
        unknown: UnknownStep,
    },
    /// A domain has ended, and its records could not be removed.
    #[error(
        "domain {domid} has ended and its memory is free, but its records are still there: {cause}; make that path writable, then run `xyl recover`"
    )]
    RecordsLeft {
        /// Number of the domain.
        domid: DomId,
        /// The reason why the records could not be removed.
        cause: Box<EngineError>,
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
    /// The operation was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The process that ran a step died. It is not known yet whether the step has happened.
    #[error("whether `{step}` has happened cannot be known yet: `xyl recover` looks again")]
    InDoubt {
        /// Name of the step.
        step: String,
    },
    /// A wait reached its time limit.
    #[error("{what}: not within {limit_s} s")]
    Deadline {
        /// The event that was waited for.
        what: String,
        /// Time limit in seconds.
        limit_s: u64,
    },
    /// The domain has ended, and its VM has another one now.
    #[error(
        "domain {domid} has ended, and its VM is domain {next} now: nothing was done. Repeat it for that one"
    )]
    Restarted {
        /// The domain that the request was for.
        domid: DomId,
        /// The VM's domain now.
        next: DomId,
    },
    /// The VM's monitor reports that a request failed.
    #[error(transparent)]
    ByMonitor(Box<xyl_api::Error>),
    /// A request or a reply cannot be written or read.
    #[error("the request or its reply: {0}")]
    Request(#[from] xyl_api::ParseError),
    /// The cause is a setting of the VM's configuration.
    #[error(transparent)]
    Setting(Box<SettingError>),
    /// A step of an operation failed. The earlier steps were undone.
    #[error(transparent)]
    Step(#[from] Box<Failure<EngineError>>),
}

impl From<Stop> for EngineError {
    fn from(stop: Stop) -> EngineError {
        match stop {
            Stop::Cancelled => EngineError::Cancelled,
            Stop::Deadline { step, limit_ms } => EngineError::Deadline {
                what: format!("`{step}`"),
                limit_s: limit_ms / 1000,
            },
            Stop::InDoubt { step } => EngineError::InDoubt { step },
        }
    }
}

impl EngineError {
    /// The cause of the failed step. For an error without a step, the error itself.
    pub fn cause(&self) -> &EngineError {
        match self {
            EngineError::Step(failure) => failure.cause.cause(),
            EngineError::Setting(setting) => setting.source.cause(),
            EngineError::RecordsLeft { cause, .. } => cause.cause(),
            other => other,
        }
    }

    /// Stable code of the error, or of the failed step's cause.
    pub fn code(&self) -> ErrorCode {
        match self {
            EngineError::Hypervisor(HvError::NotXen { .. }) => ErrorCode::NotXen,
            EngineError::Hypervisor(_) => ErrorCode::Hypervisor,
            EngineError::Store(_) => ErrorCode::Xenstore,
            EngineError::Image(_) | EngineError::NoFirmware { .. } => ErrorCode::BootFile,
            EngineError::Build(_) => ErrorCode::MemoryBuild,
            EngineError::Config(_) => ErrorCode::Configuration,
            EngineError::Setting(setting) => setting.source.code(),
            EngineError::NoSuchCpus { .. } => ErrorCode::NoSuchCpus,
            EngineError::NameTaken { .. } => ErrorCode::NameTaken,
            EngineError::NameOfVm { .. } => ErrorCode::NameTaken,
            EngineError::Restarting { .. } => ErrorCode::Restarting,
            EngineError::WaitsForRestart { .. } => ErrorCode::WaitsForRestart,
            EngineError::NoMonitor(_) => ErrorCode::NoMonitor,
            EngineError::QueueFull(_) => ErrorCode::QueueFull,
            EngineError::GivenUp { .. } => ErrorCode::GivenUp,
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
            EngineError::BootLoader(_) => ErrorCode::BootLoader,
            EngineError::NotAdmitted { .. } => ErrorCode::NotAdmitted,
            EngineError::Policy(_) => ErrorCode::Policy,
            EngineError::Advisories(_) => ErrorCode::Advisories,
            EngineError::NoFreshDomid => ErrorCode::NoFreshDomid,
            EngineError::ForeignDevices { .. } => ErrorCode::ForeignDevices,
            EngineError::Device(error) => error.code(),
            EngineError::Control(error) => error.code(),
            EngineError::Pci(_) => ErrorCode::PciDevice,
            EngineError::Pool(_) => ErrorCode::CpuPool,
            EngineError::Parameter(_) => ErrorCode::XenParameter,
            EngineError::Adopt(error) => error.code(),
            EngineError::Autostart(_) => ErrorCode::Autostart,
            EngineError::SoftReset(_) => ErrorCode::SoftReset,
            EngineError::Suspend(_) => ErrorCode::Suspend,
            EngineError::Save(_) => ErrorCode::Save,
            EngineError::Restore(error) => error.code(),
            EngineError::Dump(_) => ErrorCode::DumpCore,
            EngineError::Io { .. } => ErrorCode::File,
            EngineError::Record { .. } => ErrorCode::BadRecord,
            EngineError::Journal(_) => ErrorCode::Journal,
            EngineError::UnknownFormat { .. }
            | EngineError::UnknownOperation { .. }
            | EngineError::UnknownStep { .. } => ErrorCode::UnknownOperation,
            EngineError::RecordsLeft { cause, .. } => cause.code(),
            EngineError::HasRun(_) => ErrorCode::HasRun,
            EngineError::Unfinished { .. } | EngineError::InDoubt { .. } => ErrorCode::Unfinished,
            EngineError::Cancelled => ErrorCode::Cancelled,
            EngineError::Deadline { .. } => ErrorCode::Deadline,
            EngineError::Restarted { .. } => ErrorCode::DomainReplaced,
            EngineError::ByMonitor(error) => error.code,
            EngineError::Request(_) => ErrorCode::UnknownRequest,
            EngineError::Step(failure) => failure.cause.code(),
        }
    }

    /// Name of the failed step, if the error is of a step.
    pub fn step(&self) -> Option<&str> {
        match self {
            EngineError::Step(failure) => Some(&failure.step),
            EngineError::ByMonitor(error) => error.step.as_deref(),
            _ => None,
        }
    }

    /// Whether the connection to xenstored is lost. Then this process can do nothing more on the VM.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self.cause(), EngineError::Store(error) if error.is_connection_lost())
    }

    /// Whether this process has given up the right to run the hot-plug script that was to be run.
    pub(crate) fn needs_scripts(&self) -> bool {
        let cause = self.cause();
        matches!(
            cause,
            EngineError::Device(DeviceError::NoRightToScript { .. })
        )
    }

    /// Whether this process can do nothing more on the VM, and its next monitor can.
    pub(crate) fn needs_next_monitor(&self) -> bool {
        let lacks_right = matches!(
            self.cause(),
            EngineError::Device(
                DeviceError::NoRight { .. }
                    | DeviceError::NoRightToQemu { .. }
                    | DeviceError::NoRightToScript { .. }
            ) | EngineError::BootLoader(BootLoaderError::NoRight)
        );
        lacks_right || self.is_connection_lost()
    }

    /// Whether the host is the cause and not the VM: a disk, xenstored or Xen lacks a resource that may become free.
    /// Then the action can be tried again, without a limit on the number of tries.
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
            EngineError::BootLoader(error) => error.is_of_the_host(),
            EngineError::Device(
                DeviceError::Image { source, .. }
                | DeviceError::Loop { source, .. }
                | DeviceError::Link { source, .. },
            ) => is_io_of_the_host(source),
            EngineError::Device(
                DeviceError::Silent { .. }
                | DeviceError::Held { .. }
                | DeviceError::NoRight { .. }
                | DeviceError::NoRightToQemu { .. }
                | DeviceError::NoRightToScript { .. }
                | DeviceError::NoQemu { .. }
                | DeviceError::Qemu { .. }
                | DeviceError::NoBackendDomain { .. }
                | DeviceError::BackendDomainGone { .. }
                | DeviceError::Elsewhere { .. },
            ) => true,
            EngineError::Store(_)
            | EngineError::Build(BuildError::OutOfMemory { .. })
            | EngineError::NotEnoughMemory { .. }
            | EngineError::NoFreshDomid
            | EngineError::Deadline { .. } => true,
            _ => false,
        }
    }

    /// Whether another version of this program wrote the VM's journal, so that this one cannot go on with it.
    pub fn is_of_another_version(&self) -> bool {
        self.code() == ErrorCode::UnknownOperation
    }

    /// Builds the error about an operation of another version of Xyl.
    pub(crate) fn unknown_step(
        path: &Path,
        kind: &'static str,
        operation: &Operation,
        unknown: UnknownStep,
    ) -> EngineError {
        EngineError::UnknownStep {
            uuid: operation.begin.uuid.clone(),
            path: path.to_owned(),
            kind,
            unknown,
        }
    }

    /// Builds [`EngineError::Io`] from its parts.
    pub fn io(op: &'static str, path: &Path, source: std::io::Error) -> EngineError {
        EngineError::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }
}

/// The remedy for a journal of another version.
fn remedy_of_unknown(uuid: &str) -> String {
    format!(
        "Nothing was done: let that version finish it (its `xyl recover`), or end the VM with `xyl destroy --force uuid={uuid}`, which sets the journal aside"
    )
}

/// Errors of Xen that mean a shortage on the host, or a busy host.
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

/// Whether the host is the cause of an I/O error. A missing or invalid file concerns only the VM.
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
