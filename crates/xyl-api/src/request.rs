//! Changes of a VM that can be asked for.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xen_port::{CpuMap, SchedulerId, Trigger, VcpuId};

use crate::{limits, wire};

/// Largest number of a CPU in a request.
pub(crate) const CPU_MAX: u32 = 1 << 16;

/// A change of a VM. In JSON, `type` says which one, and the other fields stand beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Stops its vCPUs.
    Pause,
    /// Lets it run on.
    Unpause,
    /// Has its guest suspend itself. Its memory and devices stay.
    Suspend,
    /// Has its suspended guest go on.
    Resume,
    /// Asks its guest to shut down or reboot.
    Power {
        /// Whether it is to shut down or to reboot.
        request: PowerRequest,
        /// Whether to press a button where the guest cannot be asked.
        #[serde(default)]
        fallback: bool,
    },
    /// Leaves a SysRq key for its guest.
    Sysrq {
        /// The SysRq key, such as `s`.
        key: char,
    },
    /// Sends a trigger to a vCPU.
    Trigger {
        /// Number of the vCPU.
        #[serde(with = "wire::vcpu")]
        vcpu: VcpuId,
        /// Kind of the trigger.
        #[serde(with = "wire::Trigger")]
        trigger: Trigger,
    },
    /// Gives it another name.
    Rename {
        /// The new name.
        name: String,
    },
    /// Sets the memory that it is to have.
    MemoryTarget {
        /// Memory in KiB, video memory included.
        target_kib: u64,
    },
    /// Sets the memory that it may have.
    MemoryMaximum {
        /// New maximum, in KiB.
        max_kib: u64,
    },
    /// Sets how many vCPUs it is to use.
    Vcpus {
        /// Number of vCPUs to use.
        nr_vcpus: u32,
    },
    /// Sets the CPUs that vCPUs may use, and prefer.
    Pin {
        /// Numbers of the vCPUs.
        #[serde(with = "wire::vcpus")]
        vcpus: Vec<VcpuId>,
        /// CPUs that they may use; `None` leaves them as they are.
        #[serde(default, with = "wire::cpus", skip_serializing_if = "Option::is_none")]
        hard: Option<CpuMap>,
        /// CPUs that they prefer; `None` leaves them as they are.
        #[serde(default, with = "wire::cpus", skip_serializing_if = "Option::is_none")]
        soft: Option<CpuMap>,
        /// Whether a temporary pinning is overridden.
        #[serde(default)]
        force: bool,
    },
    /// Changes its share of the CPUs.
    Share {
        /// The scheduler that it must be under.
        #[serde(with = "wire::Scheduler")]
        scheduler: SchedulerId,
        /// The parameters to change.
        change: ShareChange,
    },
    /// Moves it to another CPU pool.
    CpuPool {
        /// Number of the pool.
        pool: u32,
    },
    /// Saves its guest to a file.
    Save {
        /// The file, by its whole path.
        #[serde(with = "wire::path")]
        file: PathBuf,
        /// The configuration for the file, as JSON of libxl; `None` for the domain's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<String>,
        /// The fate of the guest once the file is complete.
        #[serde(default)]
        then: AfterSave,
    },
    /// Writes its core to a file.
    DumpCore {
        /// The file, by its whole path.
        #[serde(with = "wire::path")]
        file: PathBuf,
        /// Whether the guest runs on meanwhile.
        #[serde(default)]
        is_live: bool,
    },
    /// Attaches a device to the domain while it runs.
    AttachDevice {
        /// Kind of the device: `vbd` for a disk, `vif` for a network interface.
        kind: String,
        /// Description of the device, as in xl.cfg.
        device: String,
    },
    /// Detaches a device from the domain while it runs.
    DetachDevice {
        /// Kind of the device: `vbd` for a disk, `vif` for a network interface.
        kind: String,
        /// The device by its name, address or number, such as `xvdb`.
        device: String,
        /// Whether it is taken away without the guest's consent.
        #[serde(default)]
        force: bool,
    },
    /// Destroys the domain.
    Destroy {
        /// Whether backends that Xyl cannot take down are left to themselves.
        #[serde(default)]
        force: bool,
    },
}

/// Reads a request. A member that it does not have is an error: what it asks for would not be done.
pub(crate) fn from_json(value: Value) -> Result<Request, serde_json::Error> {
    // The types without members accept any.
    let nr_members = value.as_object().map_or(0, serde_json::Map::len);
    let request: Request = serde_json::from_value(value)?;
    match request {
        Request::Pause | Request::Unpause | Request::Suspend | Request::Resume
            if nr_members > 1 =>
        {
            Err(serde_json::Error::custom(format!(
                "`{}` has no members",
                request.word()
            )))
        }
        _ => Ok(request),
    }
}

impl Request {
    /// Reads a request. A member that it does not have is an error: what it asks for would not be done.
    ///
    /// # Errors
    /// It has an unknown type, lacks a member, or has one too many.
    pub fn from_json(value: Value) -> Result<Request, serde_json::Error> {
        from_json(value)
    }

    /// The values of `type` in JSON.
    pub const TYPES: [&'static str; 19] = [
        "pause",
        "unpause",
        "suspend",
        "resume",
        "power",
        "sysrq",
        "trigger",
        "rename",
        "memory_target",
        "memory_maximum",
        "vcpus",
        "pin",
        "share",
        "cpu_pool",
        "save",
        "dump_core",
        "attach_device",
        "detach_device",
        "destroy",
    ];

    /// The command that asks for it.
    pub fn word(&self) -> &'static str {
        match self {
            Request::Pause => "pause",
            Request::Unpause => "unpause",
            Request::Suspend => "suspend",
            Request::Resume => "resume",
            Request::Power { request, .. } => request.word(),
            Request::Sysrq { .. } => "sysrq",
            Request::Trigger { .. } => "trigger",
            Request::Rename { .. } => "rename",
            Request::MemoryTarget { .. } => "mem-set",
            Request::MemoryMaximum { .. } => "mem-max",
            Request::Vcpus { .. } => "vcpu-set",
            Request::Pin { .. } => "vcpu-pin",
            Request::Share { .. } => "sched",
            Request::CpuPool { .. } => "cpupool-migrate",
            Request::Save { .. } => "save",
            Request::DumpCore { .. } => "dump-core",
            Request::AttachDevice { kind, .. } => match kind.as_str() {
                "vbd" => "block-attach",
                "vif" => "network-attach",
                _ => "attach",
            },
            Request::DetachDevice { kind, .. } => match kind.as_str() {
                "vbd" => "block-detach",
                "vif" => "network-detach",
                _ => "detach",
            },
            Request::Destroy { .. } => "destroy",
        }
    }

    /// Whether it can be carried out twice: true for each request that sets something. A guest gets a key or a
    /// trigger once at most. A second attach of a device would fail, because the domain has it; a second save, because the
    /// domain is gone.
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Request::Sysrq { .. }
                | Request::Trigger { .. }
                | Request::AttachDevice { .. }
                | Request::DetachDevice { .. }
                | Request::Save { .. }
        )
    }

    /// Time for which it may wait until it is carried out.
    pub fn limit(&self) -> Duration {
        match self {
            Request::DumpCore { .. } | Request::Save { .. } => limits::DUMP_LIMIT,
            _ => limits::REQUEST_LIMIT,
        }
    }
}

/// The fate of a guest that was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterSave {
    /// Its domain is destroyed.
    #[default]
    Destroy,
    /// It runs on.
    Run,
    /// It stays in its domain, paused.
    Pause,
}

/// A power request to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerRequest {
    /// The guest is to shut down.
    Poweroff,
    /// The guest is to reboot.
    Reboot,
}

impl PowerRequest {
    /// The word in the xenstore node `control/shutdown`.
    pub fn word(self) -> &'static str {
        match self {
            PowerRequest::Poweroff => "poweroff",
            PowerRequest::Reboot => "reboot",
        }
    }
}

/// A change of a domain's share of the CPUs; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareChange {
    /// Weight against the others, 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Most it may use, in per cent of one CPU; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u16>,
}
