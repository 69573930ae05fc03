//! [`VmSpec`]: the complete specification of a VM. `config::plan` builds it, with every default filled in and nothing
//! unsupported.

use std::path::PathBuf;

use uuid::Uuid;
use xen_port::{CpuMap, GuestKind, ShutdownReason};
use xl_cfg::types::CpuidBits;

use crate::vm::channel::Channel;
use crate::vm::disk::{Disk, Server};
use crate::vm::framebuffer::Framebuffer;
use crate::vm::hvm::Hvm;
use crate::vm::keyboard::{self, Keyboard};
use crate::vm::nic::Nic;
use crate::vm::pci::PassedPci;

/// Command line of the shim if the configuration has none.
pub const DEFAULT_SHIM_CMDLINE: &str = "pv-shim console=xen,pv";

/// The specification of a VM, ready for a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// Name of the VM.
    pub name: String,
    /// UUID of the VM; also the domain's handle.
    pub uuid: Uuid,
    /// PV, PVH or HVM.
    pub kind: GuestKind,
    /// Memory target at the start, in KiB.
    pub target_kib: u64,
    /// Maximum memory, in KiB.
    pub max_kib: u64,
    /// Number of vCPUs that are online at the start.
    pub vcpus: u32,
    /// Maximum number of vCPUs.
    pub max_vcpus: u32,
    /// Hard affinity of each vCPU. vCPUs without an entry may use all CPUs.
    pub hard_affinity: Vec<CpuMap>,
    /// Soft affinity of each vCPU. vCPUs without an entry have none.
    pub soft_affinity: Vec<CpuMap>,
    /// Scheduler weight. `None` leaves Xen's default.
    pub cpu_weight: Option<u16>,
    /// Upper limit in per cent of one CPU; `None` leaves Xen's default.
    pub cpu_cap: Option<u16>,
    /// CPU pool's name or number; `None` is pool 0.
    pub pool: Option<String>,
    /// Path of the kernel. With a boot loader it is a path on the guest's disk, and empty if the boot loader chooses. It is empty for an
    /// HVM guest that boots from its disks.
    pub kernel: PathBuf,
    /// Path of the ramdisk; `None` without one. With a boot loader it is a path on the guest's disk.
    pub ramdisk: Option<PathBuf>,
    /// Command line of the kernel. A boot loader adds it to what it finds.
    pub cmdline: Option<String>,
    /// The program of domain 0 that finds the kernel on the first disk.
    pub boot_loader: Option<BootLoader>,
    /// The shim, if the PV kernel runs in one. Then the domain is PVH.
    pub shim: Option<Shim>,
    /// Whether the configuration has `pvshim = 0`, which asks for a PV kernel without the shim.
    pub wants_bare: bool,
    /// Actions after the domain has shut down.
    pub on: OnShutdown,
    /// Hardware-assisted paging. `None` uses it if the host has it.
    pub hap: Option<bool>,
    /// Nested virtualisation: the guest may use hardware virtualisation itself.
    pub nested_virt: bool,
    /// Virtual performance counters.
    pub vpmu: bool,
    /// Time-stamp counter mode, with Xen's number.
    pub tsc_mode: u32,
    /// Offset of the wall clock, in seconds.
    pub time_offset_s: i64,
    /// The part of the offset that the configuration sets. The rest is the offset of the local time zone.
    pub rtc_offset_s: i32,
    /// Whether the wall clock shows local time.
    pub localtime: bool,
    /// Timer mode of a PVH guest, with Xen's number.
    pub timer_mode: u64,
    /// The guest cannot be migrated, so it may use the invariant time-stamp counter.
    pub nomigrate: bool,
    /// The bits of its CPU policy that differ from Xen's defaults.
    pub cpuid: Vec<CpuidBits>,
    /// Reads of unknown MSRs return zero.
    pub msr_relaxed: bool,
    /// Grant-table frames; `None` leaves Xen's default.
    pub max_grant_frames: Option<u32>,
    /// Maptrack frames; `None` leaves Xen's default.
    pub max_maptrack_frames: Option<u32>,
    /// Maximum grant-table version. `None` takes the highest version of the host.
    pub max_grant_version: Option<u32>,
    /// Highest event-channel port.
    pub max_event_channels: u32,
    /// Trace buffer of each vCPU in bytes.
    pub vmtrace_size_bytes: u32,
    /// Whether the configuration has a label of Xen's security modules (`seclabel`, `init_seclabel`).
    pub has_label: bool,
    /// Memory is claimed before it is allocated.
    pub claim: bool,
    /// Its disks, in the order of the configuration.
    pub disks: Vec<Disk>,
    /// Its network interfaces, in the order of the configuration.
    pub nics: Vec<Nic>,
    /// Its channels, in the order of the configuration.
    pub channels: Vec<Channel>,
    /// Its framebuffers: one at most.
    pub framebuffers: Vec<Framebuffer>,
    /// Its keyboards. The first ones are those of its framebuffers.
    pub keyboards: Vec<Keyboard>,
    /// The PCI devices of the host that it has, in the order of the configuration.
    pub pci: Vec<PassedPci>,
    /// Whether Xen's IOMMU serves the domain, so that it can have such devices.
    pub has_iommu: bool,
    /// The machine of an HVM guest, which its device model emulates; `None` for PV and PVH.
    pub hvm: Option<Hvm>,
}

impl VmSpec {
    /// The UUID as text, as Xen's tools write it.
    pub fn uuid_text(&self) -> String {
        self.uuid.hyphenated().to_string()
    }

    /// Whether programs are run for it with rights that its monitor has given up: the scripts of network interfaces, and a boot loader.
    pub fn runs_programs(&self) -> bool {
        let mut here = self.nics.iter().filter(|nic| nic.backend.is_none());
        self.boot_loader.is_some() || here.any(|nic| nic.script().is_some())
    }

    /// Whether one of its network interfaces has its end in domain 0.
    pub fn has_links(&self) -> bool {
        self.nics.iter().any(|nic| nic.backend.is_none())
    }

    /// Whether its device model emulates a network card.
    pub fn has_cards(&self) -> bool {
        let mut models = self.nics.iter().map(|nic| nic.card.model());
        models.any(|model| model.is_some())
    }

    /// Whether one of its devices needs QEMU.
    pub fn needs_qemu(&self) -> bool {
        let has_disk = self.disks.iter().any(|disk| disk.server == Server::Qemu);
        let is_of_qemu = |keyboard: &Keyboard| keyboard.server == keyboard::Server::Qemu;
        let has_keyboard = self.keyboards.iter().any(is_of_qemu);
        has_disk || has_keyboard || self.maps_memory() || !self.channels.is_empty()
    }

    /// Whether one of its QEMUs maps the guest's memory: one that shows a display, and a device model.
    pub fn maps_memory(&self) -> bool {
        !self.framebuffers.is_empty() || self.hvm.is_some()
    }

    /// Memory of its graphics card, which is a part of the guest's memory, in KiB.
    pub fn video_kib(&self) -> u64 {
        self.hvm.as_ref().map_or(0, |hvm| hvm.video_kib)
    }

    /// `pv`, `pvh` or `hvm`, as xl and xenstore write it.
    pub fn kind_text(&self) -> &'static str {
        kind_text(self.kind)
    }
}

/// A boot loader of domain 0, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootLoader {
    /// Its name, or its absolute path.
    pub program: String,
    /// Its arguments beside those that each boot loader gets.
    pub arguments: Vec<String>,
}

/// A PV shim, as configured. `None` in a field selects the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shim {
    /// Path of the shim's image.
    pub path: Option<PathBuf>,
    /// Command line of the shim.
    pub cmdline: Option<String>,
    /// Text that is appended to the command line.
    pub extra: Option<String>,
}

impl Shim {
    /// The complete command line of the shim.
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

/// The action after a domain has shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Destroy the domain.
    Destroy,
    /// Destroy the domain, and create the VM's next one from its configuration.
    Restart,
    /// Keep the domain under another name, and create the VM's next one.
    RenameRestart,
    /// Keep the domain as it is.
    Preserve,
    /// Reset the domain's interfaces to Xen, and let it run on.
    SoftReset,
    /// Dump the domain's core, then destroy it.
    CoredumpDestroy,
    /// Dump the domain's core, then restart it.
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

    /// Name in libxl's records (`libxl_action_on_shutdown`).
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

/// The action for each shutdown reason.
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
    /// Whether the VM gets a next domain after a shutdown for this reason.
    pub fn restarts(&self, reason: ShutdownReason) -> bool {
        matches!(
            self.action(reason),
            Some(Action::Restart | Action::RenameRestart | Action::CoredumpRestart)
        )
    }

    /// The action for a reason. `None` for a suspended guest, which waits for a resume.
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

    /// The action if a soft reset fails: that of a crash.
    pub fn action_without_soft_reset(&self) -> Action {
        match self.crash {
            Action::SoftReset => Action::Preserve,
            action => action,
        }
    }
}
