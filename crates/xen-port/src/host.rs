//! The host as Xen describes it: version, CPUs, memory, schedulers, CPU pools, NUMA nodes.

use crate::CpuMap;

/// Xen's version and build (`XENVER_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VersionInfo {
    /// Major number: 4.
    pub major: u16,
    /// Minor number, such as 17.
    pub minor: u16,
    /// The rest of the version, such as `.7` or `.6-pre`.
    pub extra: String,
    /// Name and version of the compiler.
    pub compiler: String,
    /// User who compiled this Xen.
    pub compile_by: String,
    /// DNS domain of the machine that compiled this Xen.
    pub compile_domain: String,
    /// Date of the compilation, as text.
    pub compile_date: String,
    /// Guest types, such as `xen-3.0-x86_64 hvm-3.0-x86_64`. Holds `xen-3.0-x86_32p` if and only if
    /// bare 32-bit PV guests can run.
    pub capabilities: String,
    /// Version-control id of Xen's source; may be empty.
    pub changeset: String,
    /// Xen's command line.
    pub command_line: String,
    /// Build id in hexadecimal; empty where Xen has none.
    pub build_id: String,
    /// Size of a page in bytes.
    pub page_size_bytes: u32,
    /// Start of the hypervisor's area in a PV guest's address space.
    pub virt_start: u64,
}

/// Abilities of the host (`XEN_SYSCTL_PHYSCAP_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PhysCaps {
    /// Hardware virtualisation: PVH and HVM guests can run.
    pub hvm: bool,
    /// PV guests can run.
    pub pv: bool,
    /// HVM and PVH guests can have devices of the host (`XEN_SYSCTL_PHYSCAP_directio`).
    pub hvm_directio: bool,
    /// PV guests can have devices of the host.
    pub pv_directio: bool,
    /// The CPU has hardware-assisted paging (HAP).
    pub hap: bool,
    /// Xen supports shadow paging for guests.
    pub shadow: bool,
    /// IOMMU page tables can be shared with HAP.
    pub iommu_hap_pt_share: bool,
    /// The CPU can trace vCPUs (Intel Processor Trace).
    pub vmtrace: bool,
    /// Guests can have virtual performance counters.
    pub vpmu: bool,
    /// Grant tables of version 1.
    pub gnttab_v1: bool,
    /// Grant tables of version 2.
    pub gnttab_v2: bool,
}

/// CPUs, memory and capabilities of the host (`xen_sysctl_physinfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PhysInfo {
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a socket.
    pub cores_per_socket: u32,
    /// CPUs that are online.
    pub nr_cpus: u32,
    /// Highest CPU number.
    pub max_cpu_id: u32,
    /// NUMA nodes that are online.
    pub nr_nodes: u32,
    /// Highest node number.
    pub max_node_id: u32,
    /// Frequency of the CPUs, in kHz.
    pub cpu_khz: u32,
    /// Features of the host, such as HVM and HAP.
    pub caps: PhysCaps,
    /// All memory, in pages.
    pub total_pages: u64,
    /// Free memory, in pages. It includes claimed pages and pages that Xen has not yet scrubbed.
    pub free_pages: u64,
    /// Memory that Xen must scrub before use, in pages.
    pub scrub_pages: u64,
    /// Claimed memory that is not yet allocated, in pages.
    pub outstanding_pages: u64,
    /// Highest machine frame.
    pub max_mfn: u64,
    /// CPUID feature words (`hw_cap`), as `xl info` prints them.
    pub hw_caps: [u32; 8],
}

impl PhysInfo {
    /// Free memory that no domain has claimed, in pages.
    pub fn unclaimed_pages(&self) -> u64 {
        self.free_pages.saturating_sub(self.outstanding_pages)
    }
}

/// A scheduler (`XEN_SCHEDULER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SchedulerId {
    /// The credit scheduler (`credit`).
    Credit,
    /// The credit2 scheduler (`credit2`), Xen's default.
    Credit2,
    /// The ARINC 653 scheduler (`arinc653`).
    Arinc653,
    /// The real-time deferrable server (`rtds`).
    Rtds,
    /// The null scheduler: each vCPU has its own CPU.
    Null,
    /// A number that this build does not know.
    Unknown(u32),
}

impl SchedulerId {
    /// Name as `xl info` prints it.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerId::Credit => "credit",
            SchedulerId::Credit2 => "credit2",
            SchedulerId::Arinc653 => "arinc653",
            SchedulerId::Rtds => "rtds",
            SchedulerId::Null => "null",
            SchedulerId::Unknown(_) => "unknown",
        }
    }

    /// Converts Xen's number.
    pub fn from_number(number: u32) -> SchedulerId {
        match number {
            5 => SchedulerId::Credit,
            6 => SchedulerId::Credit2,
            7 => SchedulerId::Arinc653,
            8 => SchedulerId::Rtds,
            9 => SchedulerId::Null,
            other => SchedulerId::Unknown(other),
        }
    }

    /// Number of the scheduler in Xen's interface.
    pub fn number(self) -> u32 {
        match self {
            SchedulerId::Credit => 5,
            SchedulerId::Credit2 => 6,
            SchedulerId::Arinc653 => 7,
            SchedulerId::Rtds => 8,
            SchedulerId::Null => 9,
            SchedulerId::Unknown(other) => other,
        }
    }
}

/// A domain's share of the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SchedulerParams {
    /// Credit: weight 1 to 65535, cap in per cent of one CPU (0 for none).
    Credit {
        /// Weight, relative to other domains.
        weight: u16,
        /// Upper limit in per cent of one CPU; 0 for none.
        cap: u16,
    },
    /// Credit2: weight and cap, as for credit.
    Credit2 {
        /// Weight, relative to other domains.
        weight: u16,
        /// Upper limit in per cent of one CPU; 0 for none.
        cap: u16,
    },
}

/// Parameters of a CPU pool's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SchedulerGlobals {
    /// Parameters of the credit scheduler.
    Credit {
        /// Time slice in milliseconds.
        tslice_ms: u32,
        /// Minimum time that a vCPU runs, in microseconds.
        ratelimit_us: u32,
        /// Delay before a vCPU migrates to another CPU, in microseconds.
        vcpu_migr_delay_us: u32,
    },
    /// Parameters of the credit2 scheduler.
    Credit2 {
        /// Minimum time that a vCPU runs, in microseconds.
        ratelimit_us: u32,
    },
}

/// A CPU pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuPool {
    /// Number of the pool.
    pub id: u32,
    /// Scheduler of the pool.
    pub scheduler: SchedulerId,
    /// Number of domains in the pool.
    pub nr_domains: u32,
    /// CPUs of the pool.
    pub cpus: CpuMap,
}

/// The kind of a parameter's value (`XEN_HYPFS_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ParameterKind {
    /// A text that ends with a NUL byte.
    Text,
    /// A number without a sign, of [`Parameter::size_bytes`] bytes.
    Unsigned,
    /// A number with a sign, of [`Parameter::size_bytes`] bytes.
    Signed,
    /// Zero or one, in [`Parameter::size_bytes`] bytes.
    Bool,
    /// Another kind, which no text can be made of.
    Other,
}

/// A parameter of Xen (`xen_hypfs_direntry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Parameter {
    /// Kind of its value.
    pub kind: ParameterKind,
    /// Size of its value in bytes.
    pub size_bytes: u32,
    /// Largest size of a new value in bytes; 0 for a parameter that cannot be set.
    pub max_write_bytes: u32,
}

/// Place of a CPU in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuTopology {
    /// Core, socket and node; `None` for an offline CPU.
    pub location: Option<(u32, u32, u32)>,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NumaNode {
    /// Number of the node.
    pub id: u32,
    /// Size of its memory, in bytes.
    pub size_bytes: u64,
    /// Free memory, in bytes.
    pub free_bytes: u64,
    /// Distances to the nodes 0, 1, 2, ...
    pub distances: Vec<u32>,
}

/// A CPU policy of the host (`XEN_SYSCTL_cpu_policy_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCpuPolicy {
    /// The policy of the CPU itself.
    Raw,
    /// The part of it that Xen uses.
    Host,
    /// The most that PV guests can have.
    PvMax,
    /// The most that HVM and PVH guests can have.
    HvmMax,
    /// The default of PV guests.
    PvDefault,
    /// The default of HVM and PVH guests.
    HvmDefault,
}

/// A featureset of the host (`XEN_SYSCTL_cpu_featureset_*`). All versions from 4.17 to 4.22 have these four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFeatureset {
    /// The features of the CPU itself.
    Raw,
    /// The features that Xen uses.
    Host,
    /// The default of PV guests.
    Pv,
    /// The default of HVM and PVH guests.
    Hvm,
}
