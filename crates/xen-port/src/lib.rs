//! The port between the toolstack and Xen: typed requests and answers, no I/O.
//!
//! [`Hypervisor`] is the trait. `xen_sys::Xen` implements it on a Xen host; `xen-sim` implements it in memory.
//! Nothing here depends on the version of Xen's interface: each implementation encodes a request for the version that
//! it found.
//!
//! The facts come from Xen's public headers (`xen/include/public`): `domctl.h`, `sysctl.h`, `memory.h`,
//! `event_channel.h`, `hvm/params.h`, `arch-x86/*.h`.

mod cpumap;
mod error;
mod host;
mod ids;
mod memory;
mod methods;
mod requests;

pub use cpumap::CpuMap;
pub use error::{Errno, HvError, Result};
pub use host::{
    CpuPool, CpuTopology, HostCpuPolicy, HostFeatureset, NumaNode, Parameter, ParameterKind,
    PhysCaps, PhysInfo, SchedulerGlobals, SchedulerId, SchedulerParams, VersionInfo,
};
pub use ids::{DomId, EvtchnPort, Gfn, Mfn, PAGE_SHIFT, PAGE_SIZE, PciSbdf, Pfn, VcpuId};
pub use memory::{E820Entry, E820Kind, FrameKind, GuestMemory, PageTableLevel, PopulateFlags};
pub use requests::{
    CpuPolicy, CpuidLeaf, CreateDomain, DomainFlags, DomainInfo, GuestKind, HostResource,
    HvmBootCpu, HvmParam, MsrEntry, PvBootCpu, PvMode, ShutdownReason, Trigger, TscInfo, VcpuInfo,
    VcpuPart, VcpuRunState,
};

/// A hypervisor. Each call blocks until Xen answers. It is one hypercall unless its description says otherwise. An
/// [`HvError`] names the call and the domain that failed.
pub trait Hypervisor {
    // ---- the host -------------------------------------------------------------------------

    /// Xen's version, capabilities and command line (several `XENVER_*` calls).
    fn version(&self) -> Result<VersionInfo>;
    /// The guest types that can run ([`VersionInfo::capabilities`]), in one call.
    fn capabilities(&self) -> Result<String>;
    /// CPUs, memory and capabilities of the host (`XEN_SYSCTL_physinfo`).
    fn phys_info(&self) -> Result<PhysInfo>;
    /// The hypervisor's log as raw bytes (`XEN_SYSCTL_readconsole`, repeated to the end). With `clear`, Xen empties
    /// the log.
    fn console_ring(&self, clear: bool) -> Result<Vec<u8>>;
    /// The scheduler of the default CPU pool (`XEN_SYSCTL_sched_id`).
    fn scheduler_id(&self) -> Result<SchedulerId>;
    /// All CPU pools (`XEN_SYSCTL_cpupool_op`, one call for each pool and one more).
    fn cpu_pools(&self) -> Result<Vec<CpuPool>>;
    /// The CPUs that are online and in no pool (`XEN_SYSCTL_CPUPOOL_OP_FREEINFO`).
    fn free_cpus(&self) -> Result<CpuMap>;
    /// Creates the CPU pool `pool`, without CPUs (`XEN_SYSCTL_CPUPOOL_OP_CREATE`). Xen answers `Errno::EEXIST` if there is such a
    /// pool, and `Errno::ENOENT` for a scheduler that it was built without.
    fn create_cpu_pool(&self, pool: u32, scheduler: SchedulerId) -> Result<()>;
    /// Destroys a pool without CPUs and domains (`XEN_SYSCTL_CPUPOOL_OP_DESTROY`). Xen answers `Errno::EBUSY` if it has some.
    fn destroy_cpu_pool(&self, pool: u32) -> Result<()>;
    /// Moves a free CPU into a pool (`XEN_SYSCTL_CPUPOOL_OP_ADDCPU`). Xen answers `Errno::ENODEV` if the CPU is not free.
    fn add_cpu_to_pool(&self, pool: u32, cpu: u32) -> Result<()>;
    /// Takes a CPU out of its pool, so that it is free (`XEN_SYSCTL_CPUPOOL_OP_RMCPU`).
    ///
    /// Xen answers `Errno::EBUSY` for the last CPU of a pool with domains, `Errno::EADDRNOTAVAIL` for a CPU that the pool does not
    /// have, and `Errno::EINVAL` for CPU 0 of pool 0, or one that is offline. `Errno::EADDRINUSE` is temporary: a vCPU is
    /// just on that CPU. The pool no longer lists the CPU then, and only the same call, or [`Hypervisor::add_cpu_to_pool`]
    /// with the same pool, goes on.
    fn remove_cpu_from_pool(&self, pool: u32, cpu: u32) -> Result<()>;
    /// Moves a domain to another pool (`XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN`). Its vCPUs get the scheduler's default share there.
    /// Xen answers `Errno::ENOENT` for a pool that does not exist or has no CPUs.
    fn move_to_pool(&self, domid: DomId, pool: u32) -> Result<()>;
    /// Socket, core and node of each CPU (`XEN_SYSCTL_cputopoinfo`); index is the CPU's number.
    fn cpu_topology(&self) -> Result<Vec<CpuTopology>>;
    /// Memory and distances of each NUMA node (`XEN_SYSCTL_numainfo`).
    fn numa_nodes(&self) -> Result<Vec<NumaNode>>;
    /// Number of pages that memory sharing has saved, and of shared pages (`XENMEM_get_sharing_*_pages`). Both are 0
    /// on a Xen without memory sharing.
    fn sharing_pages(&self) -> Result<(u64, u64)>;
    /// Has Xen act on debug keys, as if they were typed on its console (`XEN_SYSCTL_debug_keys`). Keys without a handler have no
    /// effect. The output goes to Xen's log.
    fn send_debug_keys(&self, keys: &str) -> Result<()>;
    /// Whether Flask, Xen's security module, enforces its policy (`FLASK_GETENFORCE`). Xen answers `Errno::ENOSYS` without Flask.
    fn flask_is_enforcing(&self) -> Result<bool>;
    /// Has Flask enforce its policy, or only log what it would refuse (`FLASK_SETENFORCE`). `Errno::ENOSYS` without Flask.
    fn set_flask_enforcing(&self, enforcing: bool) -> Result<()>;
    /// Replaces Flask's policy (`FLASK_LOAD`). `Errno::ENOSYS` without Flask, `Errno::EINVAL` for a policy that is none.
    fn load_flask_policy(&self, policy: &[u8]) -> Result<()>;
    /// A parameter of Xen that can be read while it runs, by its name on Xen's command line (`XEN_HYPFS_OP_read` below
    /// `/params`). `Errno::ENOENT` without such a parameter, `Errno::ENOSYS` without the tree (`CONFIG_HYPFS`).
    fn parameter(&self, name: &str) -> Result<Parameter>;
    /// Sets a parameter of Xen: the bytes of its value, as [`Parameter::kind`] says (`XEN_HYPFS_OP_write_contents`).
    fn set_parameter(&self, name: &str, value: &[u8]) -> Result<()>;
    /// A CPU policy of the host, with its MSRs (`XEN_SYSCTL_get_cpu_policy`).
    fn host_cpu_policy(&self, which: HostCpuPolicy) -> Result<CpuPolicy> {
        let _ = which;
        Err(unsupported_by_host("XEN_SYSCTL_get_cpu_policy"))
    }
    /// The words of a featureset of the host (`XEN_SYSCTL_get_cpu_featureset`), in the order of Xen's
    /// `arch-x86/cpufeatureset.h`.
    fn cpu_featureset(&self, which: HostFeatureset) -> Result<Vec<u32>> {
        let _ = which;
        Err(unsupported_by_host("XEN_SYSCTL_get_cpu_featureset"))
    }
    /// Counters of this handle: name and value, such as `hypercalls`.
    fn counters(&self) -> Vec<(&'static str, u64)>;
    /// Scheduler-wide parameters of the default CPU pool's scheduler.
    fn scheduler_globals(&self, pool: u32) -> Result<SchedulerGlobals>;
    /// Sets scheduler-wide parameters (`XEN_SYSCTL_scheduler_op`).
    fn set_scheduler_globals(&self, pool: u32, globals: &SchedulerGlobals) -> Result<()>;

    // ---- domains --------------------------------------------------------------------------

    /// One domain; `None` if no domain has this domid.
    fn domain_info(&self, domid: DomId) -> Result<Option<DomainInfo>>;
    /// All domains, in the order of their domids; batches of up to 1024 for each call
    /// (`XEN_SYSCTL_getdomaininfolist`).
    fn domain_list(&self) -> Result<Vec<DomainInfo>>;
    /// Creates a domain that is paused and has no memory and no vCPUs. Without a domid in the request, Xen picks a
    /// free one.
    fn create_domain(&self, request: &CreateDomain) -> Result<DomId>;
    /// Destroys a domain: repeats `XEN_DOMCTL_destroydomain` until Xen has finished or `deadline` has passed. Returns
    /// `Errno::ESRCH` if the domain does not exist.
    fn destroy_domain(&self, domid: DomId, deadline: std::time::Instant) -> Result<()>;
    /// Increments the domain's pause count of tools.
    fn pause_domain(&self, domid: DomId) -> Result<()>;
    /// Decrements the domain's pause count of tools.
    fn unpause_domain(&self, domid: DomId) -> Result<()>;
    /// Shuts a domain down from outside with a reason (`SCHEDOP_remote_shutdown`).
    fn remote_shutdown(&self, domid: DomId, reason: ShutdownReason) -> Result<()>;
    /// Resets a PVH or HVM domain that has shut down, and resumes it (`XEN_DOMCTL_soft_reset`). Xen closes its event
    /// channels and drops its registrations. Memory, registers, grants and HVM parameters stay.
    ///
    /// Tools must have paused the domain; otherwise, and for a PV domain, Xen answers `Errno::EINVAL`. `Errno::EBUSY`
    /// and `Errno::EAGAIN` are temporary: another reset is under way, or a new channel was opened.
    fn soft_reset(&self, domid: DomId) -> Result<()> {
        Err(unsupported("XEN_DOMCTL_soft_reset", domid))
    }
    /// Resumes a domain that has shut down (`XEN_DOMCTL_resumedomain`).
    fn resume_domain(&self, domid: DomId) -> Result<()>;
    /// Sends a trigger (NMI, power button, sleep button, S3 resume ...).
    fn send_trigger(&self, domid: DomId, vcpu: VcpuId, trigger: Trigger) -> Result<()>;
    /// Changes the domain's 16-byte handle, which holds its UUID.
    fn set_domain_handle(&self, domid: DomId, handle: [u8; 16]) -> Result<()>;

    /// The NUMA nodes of a domain's memory (`XEN_DOMCTL_getnodeaffinity`), as a set of node numbers.
    fn node_affinity(&self, domid: DomId) -> Result<CpuMap>;
    /// Address width of a PV domain's first kernel in bits: 32 or 64 (`XEN_DOMCTL_get_address_size`). For other
    /// domains Xen answers `EOPNOTSUPP`.
    fn address_size_bits(&self, domid: DomId) -> Result<u32>;
    /// Prepares a PV domain without memory for a 32-bit kernel (`XEN_DOMCTL_set_address_size`). A Xen without 32-bit
    /// PV answers `EOPNOTSUPP`. For a domain with memory it answers `EACCES`.
    fn make_pv32(&self, domid: DomId) -> Result<()>;

    // ---- vCPUs ----------------------------------------------------------------------------

    /// Allocates vCPUs 0 to `nr_vcpus - 1` (`XEN_DOMCTL_max_vcpus`).
    fn set_max_vcpus(&self, domid: DomId, nr_vcpus: u32) -> Result<()>;
    /// State, CPU and time of one vCPU (`XEN_DOMCTL_getvcpuinfo`).
    fn vcpu_info(&self, domid: DomId, vcpu: VcpuId) -> Result<VcpuInfo>;
    /// Hard and soft affinity of one vCPU (`XEN_DOMCTL_getvcpuaffinity`).
    fn vcpu_affinity(&self, domid: DomId, vcpu: VcpuId) -> Result<(CpuMap, CpuMap)>;
    /// Sets hard affinity, soft affinity or both. Returns the affinities that Xen applied. `force` overrides a
    /// temporary pinning.
    fn set_vcpu_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        force: bool,
    ) -> Result<(Option<CpuMap>, Option<CpuMap>)>;
    /// The CPUID leaves and MSRs of a domain (`XEN_DOMCTL_get_cpu_policy`).
    fn cpu_policy(&self, domid: DomId) -> Result<CpuPolicy>;
    /// Sets the CPUID leaves and MSRs (`XEN_DOMCTL_set_cpu_policy`). An error names the leaf or MSR that Xen refused.
    fn set_cpu_policy(&self, domid: DomId, policy: &CpuPolicy) -> Result<()>;
    /// Starting registers of a PV domain's vCPU 0 (`XEN_DOMCTL_setvcpucontext`).
    fn set_pv_boot_cpu(&self, domid: DomId, cpu: &PvBootCpu) -> Result<()>;
    /// Starting registers of a PVH or HVM domain's vCPU 0 (`XEN_DOMCTL_sethvmcontext`): 32-bit protected mode, flat
    /// segments, paging off. The same call turns on the MTRRs of [`HvmBootCpu::nr_vcpus`] vCPUs, with write-back as the
    /// default type. The PVH boot contract asks for that (`docs/misc/pvh.pandoc`).
    fn set_hvm_boot_cpu(&self, domid: DomId, cpu: &HvmBootCpu) -> Result<()>;
    /// Sets the registers of one vCPU (`XEN_DOMCTL_setvcpucontext`), in the form of [`Hypervisor::vcpu_context`]. Xen refuses a
    /// vCPU of a domain that runs.
    fn set_vcpu_context(&self, domid: DomId, vcpu: VcpuId, context: &[u8]) -> Result<()> {
        let _ = (vcpu, context);
        Err(unsupported("XEN_DOMCTL_setvcpucontext", domid))
    }
    /// Registers of one vCPU as Xen keeps them (`vcpu_guest_context`, 5168 bytes; `XEN_DOMCTL_getvcpucontext`). Zeros
    /// follow the shorter registers of a 32-bit PV guest. `None` if the vCPU does not exist or never started.
    fn vcpu_context(&self, domid: DomId, vcpu: VcpuId) -> Result<Option<Vec<u8>>> {
        let _ = vcpu;
        Err(unsupported("XEN_DOMCTL_getvcpucontext", domid))
    }
    /// State of all vCPUs and of Xen's own devices of a PVH or HVM domain, as a list of records (`XEN_DOMCTL_gethvmcontext`, two
    /// calls). Xen pauses the domain for it.
    fn hvm_context(&self, domid: DomId) -> Result<Vec<u8>> {
        Err(unsupported("XEN_DOMCTL_gethvmcontext", domid))
    }
    /// Loads such a list (`XEN_DOMCTL_sethvmcontext`). Xen takes all vCPUs down, and brings those up that have a record. It
    /// answers `Errno::EINVAL` for a list that it does not accept.
    fn set_hvm_context(&self, domid: DomId, records: &[u8]) -> Result<()> {
        let _ = records;
        Err(unsupported("XEN_DOMCTL_sethvmcontext", domid))
    }
    /// A part of the state of a PV domain's vCPU; empty if the vCPU has none. [`VcpuPart::Basic`] is one call
    /// (`XEN_DOMCTL_getvcpucontext`, `get_ext_vcpucontext`), the others are two (`getvcpuextstate`, `get_vcpu_msrs`).
    fn pv_vcpu_state(&self, domid: DomId, vcpu: VcpuId, part: VcpuPart) -> Result<Vec<u8>> {
        let _ = (vcpu, part);
        Err(unsupported("XEN_DOMCTL_getvcpucontext", domid))
    }
    /// Loads a part of the state of a PV domain's vCPU. Xen checks it.
    fn set_pv_vcpu_state(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        part: VcpuPart,
        state: &[u8],
    ) -> Result<()> {
        let _ = (vcpu, part, state);
        Err(unsupported("XEN_DOMCTL_setvcpucontext", domid))
    }
    /// Mode and values of the time-stamp counter (`XEN_DOMCTL_gettscinfo`).
    fn tsc_info(&self, domid: DomId) -> Result<TscInfo> {
        Err(unsupported("XEN_DOMCTL_gettscinfo", domid))
    }
    /// Sets mode and values of the time-stamp counter (`XEN_DOMCTL_settscinfo`).
    fn set_tsc_info(&self, domid: DomId, tsc: &TscInfo) -> Result<()> {
        let _ = tsc;
        Err(unsupported("XEN_DOMCTL_settscinfo", domid))
    }
    /// Scheduler parameters of a domain, for the scheduler of its pool.
    fn scheduler_params(&self, domid: DomId, scheduler: SchedulerId) -> Result<SchedulerParams>;
    /// Sets the scheduler parameters of a domain.
    fn set_scheduler_params(&self, domid: DomId, params: &SchedulerParams) -> Result<()>;
    /// Time-stamp counter mode: 0 default, 1 always emulate, 2 never emulate.
    fn set_tsc_mode(&self, domid: DomId, mode: u32) -> Result<()>;
    /// Offset of the guest's wall clock from the host's, in seconds.
    fn set_time_offset(&self, domid: DomId, offset_s: i64) -> Result<()>;

    // ---- memory ---------------------------------------------------------------------------

    /// Upper limit of the domain's memory (`XEN_DOMCTL_max_mem`), in KiB.
    fn set_max_mem(&self, domid: DomId, max_kib: u64) -> Result<()>;
    /// Size of the memory for Xen's page tables of a PVH or HVM domain (HAP or shadow), in bytes. The caller must set
    /// it before it populates such a domain.
    fn set_paging_mempool(&self, domid: DomId, size_bytes: u64) -> Result<()>;
    /// Stakes (`nr_pages > 0`) or cancels (`0`) a claim (`XENMEM_claim_pages`).
    fn claim_pages(&self, domid: DomId, nr_pages: u64) -> Result<()>;
    /// Allocates extents of `2^order` pages, one at each frame of `start`. Returns the first machine frame of each
    /// allocated extent (only PV uses them). If Xen has no more extents of that order, the list is shorter than
    /// `start`: that is no error. Lists longer than the implementation's buffer take several hypercalls.
    fn populate_physmap(
        &self,
        domid: DomId,
        order: u32,
        flags: PopulateFlags,
        start: &[Gfn],
    ) -> Result<Vec<Mfn>>;
    /// Limit of the pseudo-physical memory map of a PV domain, in KiB
    /// (`XEN_DOMCTL_set_... memmap limit` by way of `XENMEM_set_memory_map`), or the whole map of a PVH one.
    fn set_memory_map(&self, domid: DomId, map: &[E820Entry]) -> Result<()>;
    /// Pins machine frames as top-level page tables (`MMUEXT_PIN_*_TABLE`). PV only.
    fn pin_tables(&self, domid: DomId, tables: &[(PageTableLevel, Mfn)]) -> Result<()>;
    /// Zeroes whole pages of a PV domain (`MMUEXT_CLEAR_PAGE`) in one hypercall. That is much cheaper than a mapping.
    /// Xen accepts it only from a PV domain; otherwise the answer is `Errno::EOPNOTSUPP`.
    fn clear_pages(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        let _ = pages;
        Err(unsupported("MMUEXT_CLEAR_PAGE", domid))
    }
    /// Fills one page with the hypercall stubs (`XEN_DOMCTL_hypercall_init`).
    fn init_hypercall_page(&self, domid: DomId, gfn: Gfn) -> Result<()>;
    /// Memory target of a domain with populate on demand, in pages (`XENMEM_set_pod_target`).
    fn set_pod_target(&self, domid: DomId, target_pages: u64) -> Result<()>;
    /// Maps frames of a domain for reading and writing, in the given order. PV domains use machine frames, other
    /// domains guest frames. An error names the first frame that could not be mapped.
    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>>;
    /// The pages of a domain among the `count` frames from `first` on: the domain's own number of each, and the frame
    /// by which a tool maps it, in the order of the frames. Pages that Xen itself owns (shared info, grant table) are
    /// none of them. Several hypercalls, one for each 1024 frames (`XEN_DOMCTL_getpageframeinfo3`), and for PV a look into
    /// Xen's table of the guests' own numbers, which a guest can write to: they are not checked. A page to be
    /// populated on demand is populated by this.
    fn pages_among(
        &self,
        domid: DomId,
        kind: GuestKind,
        first: Gfn,
        count: u32,
    ) -> Result<Vec<(Pfn, Gfn)>> {
        let _ = (kind, first, count);
        Err(unsupported("XEN_DOMCTL_getpageframeinfo3", domid))
    }
    /// Number of pages that are not yet populated on demand, and number of pages in the cache for them, of a PVH or
    /// HVM domain (`XENMEM_get_pod_target`).
    fn on_demand_pages(&self, domid: DomId) -> Result<(u64, u64)> {
        Err(unsupported("XENMEM_get_pod_target", domid))
    }
    /// The largest frame number of a PVH or HVM domain's pages (`XENMEM_maximum_gpfn`). For a PV domain it is the number that the
    /// guest has written to its shared info.
    fn maximum_gpfn(&self, domid: DomId) -> Result<Gfn> {
        Err(unsupported("XENMEM_maximum_gpfn", domid))
    }
    /// The kinds of frames, in the given order; one hypercall for each 1024 (`XEN_DOMCTL_getpageframeinfo3`). Frames are as in
    /// [`Hypervisor::map_foreign`]. A page to be populated on demand is populated by this.
    fn frame_kinds(&self, domid: DomId, frames: &[Gfn]) -> Result<Vec<FrameKind>> {
        let _ = frames;
        Err(unsupported("XEN_DOMCTL_getpageframeinfo3", domid))
    }
    /// Removes single pages from a domain (`XENMEM_decrease_reservation`). Frames are as in [`Hypervisor::map_foreign`].
    fn remove_pages(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        let _ = pages;
        Err(unsupported("XENMEM_decrease_reservation", domid))
    }
    /// Has Xen note the pages that a domain writes to (`XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY`).
    ///
    /// Xen answers `Errno::EINVAL` if it does so already, or for a domain with a device of the host, and `Errno::ENOMEM` if the
    /// domain's paging pool is too small.
    fn track_writes(&self, domid: DomId) -> Result<()> {
        Err(unsupported("XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY", domid))
    }
    /// Ends [`Hypervisor::track_writes`] (`XEN_DOMCTL_SHADOW_OP_OFF`). It is no error if Xen does not track writes.
    fn stop_tracking_writes(&self, domid: DomId) -> Result<()> {
        Err(unsupported("XEN_DOMCTL_SHADOW_OP_OFF", domid))
    }
    /// The pages below `nr_pages`, by the domain's own numbers, that were written to since the last such call
    /// (`XEN_DOMCTL_SHADOW_OP_CLEAN`): bit n of byte m stands for page 8 m + n. `is_last` adds those that Xen itself writes to; it
    /// is for a domain that no longer runs. Xen pauses the domain for it.
    fn take_written_pages(&self, domid: DomId, nr_pages: u64, is_last: bool) -> Result<Vec<u8>> {
        let _ = (nr_pages, is_last);
        Err(unsupported("XEN_DOMCTL_SHADOW_OP_CLEAN", domid))
    }
    /// Copies whole pages of a domain to `bytes`, which must have room for all of them. Frames are as in
    /// [`Hypervisor::map_foreign`]. Returns for each page whether it could be mapped; other pages leave their bytes
    /// unchanged.
    fn copy_pages(&self, domid: DomId, frames: &[Gfn], bytes: &mut [u8]) -> Result<Vec<bool>> {
        memory::copy_pages_by_mapping(self, domid, frames, bytes)
    }
    /// Maps the domain's first grant-table frames (`XENMEM_acquire_resource`, grant table, shared).
    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>>;
    /// Reads one HVM parameter.
    fn hvm_param(&self, domid: DomId, param: HvmParam) -> Result<u64>;
    /// Sets an HVM parameter.
    fn set_hvm_param(&self, domid: DomId, param: HvmParam, value: u64) -> Result<()>;
    /// Sets several HVM parameters in order. An implementation may use one hypercall for all. After a failure, later
    /// parameters may be set or not.
    fn set_hvm_params(&self, domid: DomId, params: &[(HvmParam, u64)]) -> Result<()> {
        params
            .iter()
            .try_for_each(|(param, value)| self.set_hvm_param(domid, *param, *value))
    }

    // ---- devices of the host --------------------------------------------------------------

    /// Gives a PCI device to a domain: its memory accesses reach that domain's memory alone (`XEN_DOMCTL_assign_device`). To
    /// [`DomId::IO`] they reach none. With `is_relaxed`, memory that the firmware reserves for the device is no obstacle.
    ///
    /// Xen answers `Errno::EOPNOTSUPP` without an IOMMU, or for a domain that was created without the right to it,
    /// `Errno::EBUSY` for a device that another guest has, and `Errno::ENODEV` for one that it does not know.
    fn assign_pci(&self, domid: DomId, device: PciSbdf, is_relaxed: bool) -> Result<()> {
        let _ = (device, is_relaxed);
        Err(unsupported("XEN_DOMCTL_assign_device", domid))
    }
    /// Takes a PCI device from a domain: from a guest to [`DomId::IO`], from there to domain 0 (`XEN_DOMCTL_deassign_device`).
    /// Xen answers `Errno::ENODEV` if the domain does not have it.
    fn deassign_pci(&self, domid: DomId, device: PciSbdf) -> Result<()> {
        let _ = device;
        Err(unsupported("XEN_DOMCTL_deassign_device", domid))
    }
    /// Permits a domain to use a resource of the host, or forbids it. An interrupt is two hypercalls
    /// (`XEN_DOMCTL_irq_permission`, `PHYSDEVOP_map_pirq` or `PHYSDEVOP_unmap_pirq`), others are one.
    fn set_permission(&self, domid: DomId, resource: HostResource, is_allowed: bool) -> Result<()> {
        let _ = (resource, is_allowed);
        Err(unsupported("XEN_DOMCTL_iomem_permission", domid))
    }

    // ---- event channels -------------------------------------------------------------------

    /// Allocates a port in `domid` for `remote` to bind (`EVTCHNOP_alloc_unbound`).
    fn alloc_unbound(&self, domid: DomId, remote: DomId) -> Result<EvtchnPort>;
    /// Closes all event channels of a domain that tools have paused (`EVTCHNOP_reset`).
    fn close_event_channels(&self, domid: DomId) -> Result<()> {
        Err(unsupported("EVTCHNOP_reset", domid))
    }
}

/// The error for a call that an implementation does not support.
fn unsupported(op: &'static str, domid: DomId) -> HvError {
    HvError::Call {
        op,
        domid: Some(domid),
        errno: Errno::EOPNOTSUPP,
        detail: String::new(),
    }
}

/// Builds the error of an unsupported call about the host.
fn unsupported_by_host(op: &'static str) -> HvError {
    HvError::Call {
        op,
        domid: None,
        errno: Errno::EOPNOTSUPP,
        detail: String::new(),
    }
}
