//! What a VM is to be, decided: no defaults are left open, nothing unsupported is asked for.

use std::path::PathBuf;

use uuid::Uuid;
use xen_port::{CpuMap, GuestKind, ShutdownReason};

/// The shim's command line where the configuration has none.
pub const DEFAULT_SHIM_CMDLINE: &str = "pv-shim console=xen,pv";

/// A VM, ready to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// Name of the VM.
    pub name: String,
    /// Identity; also the domain's handle.
    pub uuid: Uuid,
    /// PV or PVH.
    pub kind: GuestKind,
    /// Memory at the start, in KiB.
    pub target_kib: u64,
    /// Memory that it may have, in KiB.
    pub max_kib: u64,
    /// vCPUs online at the start.
    pub vcpus: u32,
    /// vCPUs that it may have.
    pub max_vcpus: u32,
    /// Hard affinity of each vCPU; those beyond the end may run anywhere.
    pub hard_affinity: Vec<CpuMap>,
    /// Soft affinity of each vCPU.
    pub soft_affinity: Vec<CpuMap>,
    /// Share of the CPUs, and upper limit in per cent of one; `None` leaves Xen's default.
    pub cpu_weight: Option<u16>,
    /// Upper limit in per cent of one CPU; `None` leaves Xen's default.
    pub cpu_cap: Option<u16>,
    /// CPU pool's name or number; `None` is pool 0.
    pub pool: Option<String>,
    /// Path of the kernel.
    pub kernel: PathBuf,
    /// Path of the ramdisk; `None` without one.
    pub ramdisk: Option<PathBuf>,
    /// Command line of the kernel.
    pub cmdline: Option<String>,
    /// The shim that the kernel runs in. The domain is PVH then, and the kernel PV.
    pub shim: Option<Shim>,
    /// The configuration has `pvshim = 0`: it asks for a PV kernel to run without the shim.
    pub wants_bare: bool,
    /// What to do when it ends.
    pub on: OnShutdown,
    /// Hardware-assisted paging; `None` uses it where the host has it.
    pub hap: Option<bool>,
    /// The guest may use hardware virtualisation itself.
    pub nested_virt: bool,
    /// Virtual performance counters.
    pub vpmu: bool,
    /// Time-stamp counter mode, Xen's number.
    pub tsc_mode: u32,
    /// Offset of the wall clock in seconds.
    pub time_offset_s: i64,
    /// How much of it was asked for; the rest is the local time zone's.
    pub rtc_offset_s: i32,
    /// Whether the wall clock shows local time.
    pub localtime: bool,
    /// Timer mode of a PVH guest, Xen's number.
    pub timer_mode: u64,
    /// The guest will never move: it may use the invariant time-stamp counter.
    pub nomigrate: bool,
    /// Unknown MSRs read as zero.
    pub msr_relaxed: bool,
    /// Grant-table frames; `None` leaves Xen's default.
    pub max_grant_frames: Option<u32>,
    /// Maptrack frames; `None` leaves Xen's default.
    pub max_maptrack_frames: Option<u32>,
    /// Highest grant-table version; `None` takes the highest that the host has.
    pub max_grant_version: Option<u32>,
    /// Highest event-channel port.
    pub max_event_channels: u32,
    /// Trace buffer of each vCPU in bytes.
    pub vmtrace_size_bytes: u32,
    /// The configuration has a label of Xen's security modules (`seclabel`, `init_seclabel`).
    pub has_label: bool,
    /// Memory is claimed before it is allocated.
    pub claim: bool,
}

impl VmSpec {
    /// The UUID as Xen's tools write it.
    pub fn uuid_text(&self) -> String {
        self.uuid.hyphenated().to_string()
    }

    /// `pv`, `pvh` or `hvm`, as xl and xenstore write it.
    pub fn kind_text(&self) -> &'static str {
        kind_text(self.kind)
    }
}

/// A PV shim, as the configuration describes it; `None` is the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shim {
    /// Path of the shim's image.
    pub path: Option<PathBuf>,
    /// Its command line.
    pub cmdline: Option<String>,
    /// What comes behind its command line.
    pub extra: Option<String>,
}

impl Shim {
    /// Its command line in full.
    pub fn command_line(&self) -> String {
        let cmdline = self.cmdline.as_deref().unwrap_or(DEFAULT_SHIM_CMDLINE);
        match &self.extra {
            Some(extra) => format!("{cmdline} {extra}"),
            None => cmdline.to_owned(),
        }
    }
}

/// `pv`, `pvh` or `hvm`.
pub fn kind_text(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Pv => "pv",
        GuestKind::Pvh => "pvh",
        GuestKind::Hvm => "hvm",
    }
}

/// What is done with a domain that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Destroy the domain.
    Destroy,
    /// Destroyed, and created anew from its configuration.
    Restart,
    /// Kept under another name, and created anew.
    RenameRestart,
    /// Kept as it is.
    Preserve,
    /// Given its interfaces as new, and let run on.
    SoftReset,
    /// Its core is dumped, and then it is destroyed.
    CoredumpDestroy,
    /// Its core is dumped, and then it is restarted.
    CoredumpRestart,
}

impl Action {
    /// The word in xl.cfg.
    pub fn word(self) -> &'static str {
        match self {
            Action::Destroy => "destroy",
            Action::Restart => "restart",
            Action::RenameRestart => "rename-restart",
            Action::Preserve => "preserve",
            Action::SoftReset => "soft-reset",
            Action::CoredumpDestroy => "coredump-destroy",
            Action::CoredumpRestart => "coredump-restart",
        }
    }

    /// libxl's name, in its records (`libxl_action_on_shutdown`).
    pub fn libxl_name(self) -> &'static str {
        match self {
            Action::RenameRestart => "restart_rename",
            Action::SoftReset => "soft_reset",
            Action::CoredumpDestroy => "coredump_destroy",
            Action::CoredumpRestart => "coredump_restart",
            other => other.word(),
        }
    }
}

/// The action for each way to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnShutdown {
    /// Action of `on_poweroff`.
    pub poweroff: Action,
    /// Action of `on_reboot`.
    pub reboot: Action,
    /// Action of `on_watchdog`.
    pub watchdog: Action,
    /// Action of `on_crash`.
    pub crash: Action,
    /// Action of `on_soft_reset`.
    pub soft_reset: Action,
}

impl OnShutdown {
    /// Whether a VM whose domain ends for this reason gets its next domain.
    pub fn restarts(&self, reason: ShutdownReason) -> bool {
        matches!(
            self.action(reason),
            Some(Action::Restart | Action::RenameRestart | Action::CoredumpRestart)
        )
    }

    /// What to do for a reason; `None` for a suspended guest, which waits to be resumed.
    pub fn action(&self, reason: ShutdownReason) -> Option<Action> {
        match reason {
            ShutdownReason::Poweroff => Some(self.poweroff),
            ShutdownReason::Reboot => Some(self.reboot),
            ShutdownReason::Suspend => None,
            ShutdownReason::Crash => Some(self.crash),
            ShutdownReason::Watchdog => Some(self.watchdog),
            ShutdownReason::SoftReset => Some(self.soft_reset),
            ShutdownReason::Unknown(_) => Some(Action::Destroy),
        }
    }

    /// What to do with a domain that could not be soft-reset: the same as if it had crashed.
    pub fn action_without_soft_reset(&self) -> Action {
        match self.crash {
            Action::SoftReset => Action::Preserve,
            action => action,
        }
    }
}
