//! The host as Xen describes it.

use crate::CpuMap;

/// Xen's version and build (`XENVER_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VersionInfo {
    /// Major number: 4.
    pub major: u16,
    /// Minor number, such as 17.
    pub minor: u16,
    /// What follows, such as `.7` or `.6-pre`.
    pub extra: String,
    /// Compiler's name and version.
    pub compiler: String,
    /// Who compiled it.
    pub compile_by: String,
    /// Domain of the machine that compiled it.
    pub compile_domain: String,
    /// When it was compiled.
    pub compile_date: String,
    /// Guest types, such as `xen-3.0-x86_64 hvm-3.0-x86_64`. Holds `xen-3.0-x86_32p` if and only if
    /// bare 32-bit PV guests can run.
    pub capabilities: String,
    /// Changeset.
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
    /// Devices can be assigned.
    pub hvm_directio: bool,
    /// PV guests can have devices.
    pub pv_directio: bool,
    /// Hardware-assisted paging.
    pub hap: bool,
    /// Shadow paging.
    pub shadow: bool,
    /// IOMMU page tables can be shared with HAP.
    pub iommu_hap_pt_share: bool,
    /// Traces of vCPUs.
    pub vmtrace: bool,
    /// Virtual performance counters.
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
    /// CPU frequency.
    pub cpu_khz: u32,
    /// Abilities.
    pub caps: PhysCaps,
    /// All memory, in pages.
    pub total_pages: u64,
    /// Free memory, in pages; some may wait to be scrubbed, some may be claimed.
    pub free_pages: u64,
    /// Memory that waits to be scrubbed, in pages.
    pub scrub_pages: u64,
    /// Memory that is claimed and not yet allocated, in pages.
    pub outstanding_pages: u64,
    /// Highest machine frame.
    pub max_mfn: u64,
    /// CPUID leaf 1 and its kin (`hw_cap`), as `xl info` prints it.
    pub hw_caps: [u32; 8],
}

/// A scheduler (`XEN_SCHEDULER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SchedulerId {
    /// Credit.
    Credit,
    /// Credit2, the default.
    Credit2,
    /// ARINC 653.
    Arinc653,
    /// Real-time deferrable server.
    Rtds,
    /// None: each vCPU has a CPU of its own.
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

    /// From Xen's number.
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

    /// Xen's number.
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
        /// Share against the others.
        weight: u16,
        /// Upper limit.
        cap: u16,
    },
    /// Credit2: the same.
    Credit2 {
        /// Share against the others.
        weight: u16,
        /// Upper limit.
        cap: u16,
    },
}

/// Parameters of a pool's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SchedulerGlobals {
    /// Credit.
    Credit {
        /// Time slice in milliseconds.
        tslice_ms: u32,
        /// Shortest run in microseconds.
        ratelimit_us: u32,
        /// Delay of a migration between CPUs in microseconds.
        vcpu_migr_delay_us: u32,
    },
    /// Credit2.
    Credit2 {
        /// Shortest run in microseconds.
        ratelimit_us: u32,
    },
}

/// A CPU pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuPool {
    /// Its number.
    pub id: u32,
    /// Its scheduler.
    pub scheduler: SchedulerId,
    /// Domains in it.
    pub nr_domains: u32,
    /// Its CPUs.
    pub cpus: CpuMap,
}

/// Where a CPU is; `None` for one that is offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuTopology {
    /// Core, socket and node of it.
    pub location: Option<(u32, u32, u32)>,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// All its memory, in bytes.
    pub size_bytes: u64,
    /// Free memory, in bytes.
    pub free_bytes: u64,
    /// Distances to the nodes 0, 1, 2, ...
    pub distances: Vec<u32>,
}

/// A CPU policy of the host (`XEN_SYSCTL_cpu_policy_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCpuPolicy {
    /// What the CPU says.
    Raw,
    /// What Xen uses of it.
    Host,
    /// What PV guests can have.
    PvMax,
    /// What HVM and PVH guests can have.
    HvmMax,
    /// What PV guests have by default.
    PvDefault,
    /// What HVM and PVH guests have by default.
    HvmDefault,
}

/// A featureset of the host (`XEN_SYSCTL_cpu_featureset_*`), of those that all of 4.17 to 4.22 have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFeatureset {
    /// What the CPU says.
    Raw,
    /// What Xen uses of it.
    Host,
    /// What PV guests have by default.
    Pv,
    /// What HVM and PVH guests have by default.
    Hvm,
}
