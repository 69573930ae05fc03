//! `HYPERVISOR_sysctl`: what a toolstack asks of the host (sysctl.h). Not stable: see [`Release`](crate::Release).

use crate::GuestHandle;
use crate::domctl::Bitmap;
use crate::layout::{abi, c_constants};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of the union of payloads in [`Sysctl`].
pub const PAYLOAD_BYTES: usize = 128;

impl Sysctl {
    /// The call `cmd` for interface version `interface_version`, with `payload` at the start of the union and zeros behind it.
    pub fn new<T: IntoBytes + Immutable>(interface_version: u32, cmd: u32, payload: &T) -> Self {
        const {
            assert!(
                size_of::<T>() <= PAYLOAD_BYTES,
                "payload larger than the union"
            )
        };
        Self {
            cmd,
            interface_version,
            u: crate::payload(payload),
        }
    }

    /// The union, seen as `T`.
    pub fn payload<T: FromBytes>(&self) -> T {
        const {
            assert!(
                size_of::<T>() <= PAYLOAD_BYTES,
                "payload larger than the union"
            )
        };
        crate::from_prefix(self.u.as_bytes())
    }
}

c_constants! {
    /// Reads the log ring.
    READ_CONSOLE: u32 = 1, "XEN_SYSCTL_readconsole";
    /// Describes the host.
    PHYS_INFO: u32 = 3, "XEN_SYSCTL_physinfo";
    /// Names the scheduler.
    SCHED_ID: u32 = 4, "XEN_SYSCTL_sched_id";
    /// Lists domains.
    GET_DOMAIN_INFO_LIST: u32 = 6, "XEN_SYSCTL_getdomaininfolist";
    /// Sends debug keys.
    DEBUG_KEYS: u32 = 7, "XEN_SYSCTL_debug_keys";
    /// Idle times of the CPUs.
    GET_CPU_INFO: u32 = 8, "XEN_SYSCTL_getcpuinfo";
    /// Cores, sockets, nodes.
    CPU_TOPO_INFO: u32 = 16, "XEN_SYSCTL_cputopoinfo";
    /// Memory of the nodes.
    NUMA_INFO: u32 = 17, "XEN_SYSCTL_numainfo";
    /// CPU pools.
    CPUPOOL_OP: u32 = 18, "XEN_SYSCTL_cpupool_op";
    /// Scheduler-wide parameters.
    SCHEDULER_OP: u32 = 19, "XEN_SYSCTL_scheduler_op";
    /// CPU features.
    GET_CPU_FEATURESET: u32 = 26, "XEN_SYSCTL_get_cpu_featureset";
    /// CPU policies.
    GET_CPU_POLICY: u32 = 29, "XEN_SYSCTL_get_cpu_policy";

    /// CPU policy: what the CPU says.
    CPU_POLICY_RAW: u32 = 0, "XEN_SYSCTL_cpu_policy_raw";
    /// CPU policy: what Xen uses.
    CPU_POLICY_HOST: u32 = 1, "XEN_SYSCTL_cpu_policy_host";
    /// CPU policy: what PV guests can have.
    CPU_POLICY_PV_MAX: u32 = 2, "XEN_SYSCTL_cpu_policy_pv_max";
    /// CPU policy: what HVM guests can have.
    CPU_POLICY_HVM_MAX: u32 = 3, "XEN_SYSCTL_cpu_policy_hvm_max";
    /// CPU policy: what PV guests have by default.
    CPU_POLICY_PV_DEFAULT: u32 = 4, "XEN_SYSCTL_cpu_policy_pv_default";
    /// CPU policy: what HVM guests have by default.
    CPU_POLICY_HVM_DEFAULT: u32 = 5, "XEN_SYSCTL_cpu_policy_hvm_default";
    /// Featureset: what the CPU says.
    CPU_FEATURESET_RAW: u32 = 0, "XEN_SYSCTL_cpu_featureset_raw";
    /// Featureset: what Xen uses.
    CPU_FEATURESET_HOST: u32 = 1, "XEN_SYSCTL_cpu_featureset_host";
    /// Featureset: what PV guests have by default.
    CPU_FEATURESET_PV: u32 = 2, "XEN_SYSCTL_cpu_featureset_pv";
    /// Featureset: what HVM guests have by default.
    CPU_FEATURESET_HVM: u32 = 3, "XEN_SYSCTL_cpu_featureset_hvm";

    /// Ability: PVH and HVM guests.
    PHYSCAP_HVM: u32 = 1 << 0, "XEN_SYSCTL_PHYSCAP_hvm";
    /// Ability: PV guests.
    PHYSCAP_PV: u32 = 1 << 1, "XEN_SYSCTL_PHYSCAP_pv";
    /// Ability: device assignment through an IOMMU.
    PHYSCAP_DIRECTIO: u32 = 1 << 2, "XEN_SYSCTL_PHYSCAP_directio";
    /// Ability: hardware-assisted paging.
    PHYSCAP_HAP: u32 = 1 << 3, "XEN_SYSCTL_PHYSCAP_hap";
    /// Ability: shadow paging.
    PHYSCAP_SHADOW: u32 = 1 << 4, "XEN_SYSCTL_PHYSCAP_shadow";
    /// Ability: HAP and IOMMU share page tables.
    PHYSCAP_IOMMU_HAP_PT_SHARE: u32 = 1 << 5, "XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share";
    /// Ability: traces of vCPUs.
    PHYSCAP_VMTRACE: u32 = 1 << 6, "XEN_SYSCTL_PHYSCAP_vmtrace";
    /// Ability: virtual performance counters.
    PHYSCAP_VPMU: u32 = 1 << 7, "XEN_SYSCTL_PHYSCAP_vpmu";
    /// Ability: grant tables version 1.
    PHYSCAP_GNTTAB_V1: u32 = 1 << 8, "XEN_SYSCTL_PHYSCAP_gnttab_v1";
    /// Ability: grant tables version 2.
    PHYSCAP_GNTTAB_V2: u32 = 1 << 9, "XEN_SYSCTL_PHYSCAP_gnttab_v2";

    /// Pool operation: make a pool.
    CPUPOOL_OP_CREATE: u32 = 1, "XEN_SYSCTL_CPUPOOL_OP_CREATE";
    /// Pool operation: destroy a pool.
    CPUPOOL_OP_DESTROY: u32 = 2, "XEN_SYSCTL_CPUPOOL_OP_DESTROY";
    /// Pool operation: add a CPU.
    CPUPOOL_OP_ADDCPU: u32 = 4, "XEN_SYSCTL_CPUPOOL_OP_ADDCPU";
    /// Pool operation: remove a CPU.
    CPUPOOL_OP_RMCPU: u32 = 5, "XEN_SYSCTL_CPUPOOL_OP_RMCPU";
    /// Pool operation: move a domain to a pool.
    CPUPOOL_OP_MOVEDOMAIN: u32 = 6, "XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN";
    /// Pool operation: describe.
    CPUPOOL_OP_INFO: u32 = 3, "XEN_SYSCTL_CPUPOOL_OP_INFO";
    /// Pool operation: CPUs in no pool.
    CPUPOOL_OP_FREEINFO: u32 = 7, "XEN_SYSCTL_CPUPOOL_OP_FREEINFO";
    /// Scheduler operation: set.
    SCHEDOP_PUTINFO: u32 = 0, "XEN_SYSCTL_SCHEDOP_putinfo";
    /// Scheduler operation: get.
    SCHEDOP_GETINFO: u32 = 1, "XEN_SYSCTL_SCHEDOP_getinfo";
    /// Core or socket of a CPU that is not there.
    INVALID_CORE_ID: u32 = u32::MAX, "XEN_INVALID_CORE_ID";
    /// Node of a CPU that has none.
    INVALID_NODE_ID: u32 = u32::MAX, "XEN_INVALID_NODE_ID";
    /// Memory size of a node that is not there.
    INVALID_MEM_SZ: u64 = 0xffff_ffff, "XEN_INVALID_MEM_SZ";
    /// Distance that is not known.
    INVALID_NODE_DIST: u32 = u32::MAX, "XEN_INVALID_NODE_DIST";
}

abi! {
    /// A sysctl: a head, and a union of payloads.
    struct Sysctl = "struct xen_sysctl", 136 {
        /// Which call.
        0 cmd: u32;
        /// The version that the caller speaks; Xen answers `EACCES` to any but its own.
        4 interface_version: u32;
        /// The payload.
        8 u: [u64; 16];
    }
    /// Argument of `XEN_SYSCTL_readconsole`.
    struct ReadConsole = "struct xen_sysctl_readconsole", 24 {
        /// In: non-zero empties the ring.
        0 clear: u8;
        /// In: non-zero starts at `index`.
        1 incremental: u8;
        /// Zero.
        2 pad: [u8; 2] = "";
        /// In: where to start; out: where the next read starts.
        4 index: u32;
        /// Gets the text.
        8 buffer: GuestHandle;
        /// In: bytes of the buffer; out: bytes written.
        16 count: u32;
        /// Padding.
        20 tail: u32 = "";
    }
    /// Argument of `XEN_SYSCTL_physinfo`.
    struct PhysInfo = "struct xen_sysctl_physinfo", 112 {
        /// Threads of a core.
        0 threads_per_core: u32;
        /// Cores of a socket.
        4 cores_per_socket: u32;
        /// CPUs online.
        8 nr_cpus: u32;
        /// Highest CPU number.
        12 max_cpu_id: u32;
        /// Nodes online.
        16 nr_nodes: u32;
        /// Highest node number.
        20 max_node_id: u32;
        /// Frequency in kHz.
        24 cpu_khz: u32;
        /// `PHYSCAP_*`.
        28 capabilities: u32;
        /// Abilities of the architecture.
        32 arch_capabilities: u32;
        /// Padding.
        36 pad: u32;
        /// All memory, in pages.
        40 total_pages: u64;
        /// Free memory, in pages.
        48 free_pages: u64;
        /// Memory to be scrubbed, in pages.
        56 scrub_pages: u64;
        /// Memory claimed, in pages.
        64 outstanding_pages: u64;
        /// Highest machine frame.
        72 max_mfn: u64;
        /// CPU feature words.
        80 hw_cap: [u32; 8];
    }
    /// Argument of `XEN_SYSCTL_sched_id`.
    struct SchedId = "struct xen_sysctl_sched_id", 4 {
        /// `SCHEDULER_*` of domctl.
        0 sched_id: u32;
    }
    /// Argument of `XEN_SYSCTL_getdomaininfolist`.
    struct GetDomainInfoList = "struct xen_sysctl_getdomaininfolist", 24 {
        /// In: lowest domid.
        0 first_domain: u16;
        /// Padding.
        2 pad: u16 = "";
        /// In: entries of the buffer.
        4 max_domains: u32;
        /// Gets [`DomainInfo`](crate::domctl::DomainInfo)s.
        8 buffer: GuestHandle;
        /// Out: entries written.
        16 num_domains: u32;
        /// Padding.
        20 tail: u32 = "";
    }
    /// Argument of `XEN_SYSCTL_debug_keys`.
    struct DebugKeys = "struct xen_sysctl_debug_keys", 16 {
        /// The keys.
        0 keys: GuestHandle;
        /// Number of entries.
        8 nr_keys: u32;
        /// Padding.
        12 pad: u32 = "";
    }
    /// Idle time of a CPU.
    struct CpuInfo = "struct xen_sysctl_cpuinfo", 8 {
        /// Nanoseconds.
        0 idletime: u64;
    }
    /// Argument of `XEN_SYSCTL_getcpuinfo`.
    struct GetCpuInfo = "struct xen_sysctl_getcpuinfo", 24 {
        /// In: entries of the buffer.
        0 max_cpus: u32;
        /// Padding.
        4 pad: u32 = "";
        /// Gets [`CpuInfo`]s.
        8 info: GuestHandle;
        /// Out: entries written.
        16 nr_cpus: u32;
        /// Padding.
        20 tail: u32 = "";
    }
    /// Position of a CPU in the topology.
    struct CpuTopo = "struct xen_sysctl_cputopo", 12 {
        /// Core.
        0 core: u32;
        /// Socket.
        4 socket: u32;
        /// Node.
        8 node: u32;
    }
    /// Argument of `XEN_SYSCTL_cputopoinfo`.
    struct CpuTopoInfo = "struct xen_sysctl_cputopoinfo", 16 {
        /// In: entries of the buffer; out: entries there are.
        0 num_cpus: u32;
        /// Padding.
        4 pad: u32 = "";
        /// Gets [`CpuTopo`]s, or null.
        8 cputopo: GuestHandle;
    }
    /// Memory of a node.
    struct MemInfo = "struct xen_sysctl_meminfo", 16 {
        /// All, in bytes.
        0 memsize: u64;
        /// Free, in bytes.
        8 memfree: u64;
    }
    /// Argument of `XEN_SYSCTL_numainfo`.
    struct NumaInfo = "struct xen_sysctl_numainfo", 24 {
        /// In: entries of the buffers; out: nodes there are.
        0 num_nodes: u32;
        /// Padding.
        4 pad: u32 = "";
        /// Gets [`MemInfo`]s, or null.
        8 meminfo: GuestHandle;
        /// Gets a matrix of u32 distances, or null.
        16 distance: GuestHandle;
    }
    /// Argument of `XEN_SYSCTL_cpupool_op`.
    struct CpupoolOp = "struct xen_sysctl_cpupool_op", 40 {
        /// `CPUPOOL_OP_*`.
        0 op: u32;
        /// The pool; of INFO in: the lowest number, out: the pool found.
        4 cpupool_id: u32;
        /// Its scheduler.
        8 sched_id: u32;
        /// A domain.
        12 domid: u32;
        /// A CPU.
        16 cpu: u32;
        /// Domains in it.
        20 n_dom: u32;
        /// Its CPUs.
        24 cpumap: Bitmap;
    }
    /// Parameters of the credit scheduler.
    struct CreditSchedule = "struct xen_sysctl_credit_schedule", 12 {
        /// Time slice in milliseconds.
        0 tslice_ms: u32;
        /// Shortest run in microseconds.
        4 ratelimit_us: u32;
        /// Delay of a migration in microseconds.
        8 vcpu_migr_delay_us: u32;
    }
    /// Parameters of the credit2 scheduler.
    struct Credit2Schedule = "struct xen_sysctl_credit2_schedule", 4 {
        /// Shortest run in microseconds.
        0 ratelimit_us: u32;
    }
    /// `XEN_SYSCTL_scheduler_op`, with the parameters of credit; credit2 keeps its one where credit keeps `tslice_ms`.
    struct SchedulerOp = "struct xen_sysctl_scheduler_op", 32 {
        /// The pool.
        0 cpupool_id: u32;
        /// Its scheduler.
        4 sched_id: u32;
        /// `SCHEDOP_*`.
        8 cmd: u32;
        /// Padding.
        12 pad: u32 = "";
        /// Parameters.
        16 credit: CreditSchedule = "u.sched_credit";
        /// The rest of the union.
        28 rest: u32 = "";
    }
    /// Argument of `XEN_SYSCTL_get_cpu_featureset`.
    struct CpuFeatureset = "struct xen_sysctl_cpu_featureset", 16 {
        /// Which: 0 raw, 1 host, 2 PV, 3 HVM, 4 PV maximum, 5 HVM maximum.
        0 index: u32;
        /// Words in the array.
        4 nr_features: u32;
        /// Gets u32 words, or null.
        8 features: GuestHandle;
    }
    /// Argument of `XEN_SYSCTL_get_cpu_policy`.
    struct CpuPolicy = "struct xen_sysctl_cpu_policy", 32 {
        /// Which: 0 raw, 1 host, 2 PV maximum, 3 HVM maximum, 4 PV default, 5 HVM default.
        0 index: u32;
        /// Leaves in the array.
        4 nr_leaves: u32;
        /// MSRs in the array.
        8 nr_msrs: u32;
        /// Zero.
        12 rsvd: u32 = "_rsvd";
        /// Gets [`CpuidLeaf`](crate::domctl::CpuidLeaf)s.
        16 leaves: GuestHandle;
        /// Gets [`MsrEntry`](crate::domctl::MsrEntry)s.
        24 msrs: GuestHandle;
    }
}
