//! [`Xen`] as the toolstack's port to the hypervisor. Each method is in the module of its subject.

use std::time::Instant;

use xen_abi::domctl;
use xen_port::{
    CpuMap, CpuPolicy, CpuPool, CpuTopology, CreateDomain, DomId, DomainInfo, E820Entry,
    EvtchnPort, FrameKind, Gfn, GuestKind, GuestMemory, HostCpuPolicy, HostFeatureset,
    HostResource, HvmBootCpu, HvmParam, Hypervisor, Mfn, NumaNode, PageTableLevel, Parameter,
    PciSbdf, Pfn, PhysInfo, PopulateFlags, PvBootCpu, Result, SchedulerGlobals, SchedulerId,
    SchedulerParams, ShutdownReason, Trigger, TscInfo, VcpuId, VcpuInfo, VcpuPart, VersionInfo,
};

use crate::Xen;

impl Hypervisor for Xen {
    fn capabilities(&self) -> Result<String> {
        self.read_capabilities()
    }

    fn version(&self) -> Result<VersionInfo> {
        self.read_version()
    }

    fn phys_info(&self) -> Result<PhysInfo> {
        self.read_phys_info()
    }

    fn console_ring(&self, clear: bool) -> Result<Vec<u8>> {
        self.read_console_ring(clear)
    }

    fn scheduler_id(&self) -> Result<SchedulerId> {
        self.read_scheduler_id()
    }

    fn cpu_pools(&self) -> Result<Vec<CpuPool>> {
        self.read_cpu_pools()
    }

    fn free_cpus(&self) -> Result<CpuMap> {
        self.read_free_cpus()
    }

    fn create_cpu_pool(&self, pool: u32, scheduler: SchedulerId) -> Result<()> {
        self.make_cpu_pool(pool, scheduler)
    }

    fn destroy_cpu_pool(&self, pool: u32) -> Result<()> {
        self.end_cpu_pool(pool)
    }

    fn add_cpu_to_pool(&self, pool: u32, cpu: u32) -> Result<()> {
        self.assign_cpu(pool, cpu)
    }

    fn remove_cpu_from_pool(&self, pool: u32, cpu: u32) -> Result<()> {
        self.unassign_cpu(pool, cpu)
    }

    fn move_to_pool(&self, domid: DomId, pool: u32) -> Result<()> {
        self.move_domain_to_pool(domid, pool)
    }

    fn cpu_topology(&self) -> Result<Vec<CpuTopology>> {
        self.read_cpu_topology()
    }

    fn numa_nodes(&self) -> Result<Vec<NumaNode>> {
        self.read_numa_nodes()
    }

    fn sharing_pages(&self) -> Result<(u64, u64)> {
        self.read_sharing_pages()
    }

    fn send_debug_keys(&self, keys: &str) -> Result<()> {
        self.type_debug_keys(keys)
    }

    fn flask_is_enforcing(&self) -> Result<bool> {
        self.read_flask_mode()
    }

    fn set_flask_enforcing(&self, enforcing: bool) -> Result<()> {
        self.write_flask_mode(enforcing)
    }

    fn load_flask_policy(&self, policy: &[u8]) -> Result<()> {
        self.write_flask_policy(policy)
    }

    fn parameter(&self, name: &str) -> Result<Parameter> {
        self.read_parameter(name)
    }

    fn set_parameter(&self, name: &str, value: &[u8]) -> Result<()> {
        self.write_parameter(name, value)
    }

    fn host_cpu_policy(&self, which: HostCpuPolicy) -> Result<CpuPolicy> {
        self.read_host_policy(which)
    }

    fn cpu_featureset(&self, which: HostFeatureset) -> Result<Vec<u32>> {
        self.read_featureset(which)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let stats = self.stats();
        vec![
            ("hypercalls", stats.hypercalls),
            ("multicall_entries", stats.multicall_entries),
            ("map_calls", stats.map_calls),
            ("mapped_frames", stats.mapped_frames),
        ]
    }

    fn scheduler_globals(&self, pool: u32) -> Result<SchedulerGlobals> {
        self.read_scheduler_globals(pool)
    }

    fn set_scheduler_globals(&self, pool: u32, globals: &SchedulerGlobals) -> Result<()> {
        self.write_scheduler_globals(pool, globals)
    }

    fn domain_info(&self, domid: DomId) -> Result<Option<DomainInfo>> {
        self.read_domain_info(domid)
    }

    fn domain_list(&self) -> Result<Vec<DomainInfo>> {
        self.list_domains()
    }

    fn create_domain(&self, request: &CreateDomain) -> Result<DomId> {
        self.make_domain(request)
    }

    fn destroy_domain(&self, domid: DomId, deadline: Instant) -> Result<()> {
        self.end_domain(domid, deadline)
    }

    fn pause_domain(&self, domid: DomId) -> Result<()> {
        self.tell_domain("XEN_DOMCTL_pausedomain", domctl::PAUSE_DOMAIN, domid)
    }

    fn unpause_domain(&self, domid: DomId) -> Result<()> {
        self.tell_domain("XEN_DOMCTL_unpausedomain", domctl::UNPAUSE_DOMAIN, domid)
    }

    fn remote_shutdown(&self, domid: DomId, reason: ShutdownReason) -> Result<()> {
        self.shut_domain_down(domid, reason)
    }

    fn soft_reset(&self, domid: DomId) -> Result<()> {
        self.tell_domain("XEN_DOMCTL_soft_reset", domctl::SOFT_RESET, domid)
    }

    fn resume_domain(&self, domid: DomId) -> Result<()> {
        self.tell_domain("XEN_DOMCTL_resumedomain", domctl::RESUME_DOMAIN, domid)
    }

    fn send_trigger(&self, domid: DomId, vcpu: VcpuId, trigger: Trigger) -> Result<()> {
        self.trigger(domid, vcpu, trigger)
    }

    fn set_domain_handle(&self, domid: DomId, handle: [u8; 16]) -> Result<()> {
        self.rename_handle(domid, handle)
    }

    fn node_affinity(&self, domid: DomId) -> Result<CpuMap> {
        self.read_node_affinity(domid)
    }

    fn address_size_bits(&self, domid: DomId) -> Result<u32> {
        self.read_address_size(domid)
    }

    fn make_pv32(&self, domid: DomId) -> Result<()> {
        self.narrow_addresses(domid)
    }

    fn set_max_vcpus(&self, domid: DomId, nr_vcpus: u32) -> Result<()> {
        self.make_vcpus(domid, nr_vcpus)
    }

    fn vcpu_info(&self, domid: DomId, vcpu: VcpuId) -> Result<VcpuInfo> {
        self.read_vcpu_info(domid, vcpu)
    }

    fn vcpu_affinity(&self, domid: DomId, vcpu: VcpuId) -> Result<(CpuMap, CpuMap)> {
        self.read_affinity(domid, vcpu)
    }

    fn set_vcpu_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        force: bool,
    ) -> Result<(Option<CpuMap>, Option<CpuMap>)> {
        self.write_affinity(domid, vcpu, hard, soft, force)
    }

    fn cpu_policy(&self, domid: DomId) -> Result<CpuPolicy> {
        self.read_policy(domid)
    }

    fn set_cpu_policy(&self, domid: DomId, policy: &CpuPolicy) -> Result<()> {
        self.write_policy(domid, policy)
    }

    fn set_pv_boot_cpu(&self, domid: DomId, cpu: &PvBootCpu) -> Result<()> {
        self.start_pv_vcpu(domid, cpu)
    }

    fn set_hvm_boot_cpu(&self, domid: DomId, cpu: &HvmBootCpu) -> Result<()> {
        self.start_hvm_vcpu(domid, cpu)
    }

    fn set_vcpu_context(&self, domid: DomId, vcpu: VcpuId, context: &[u8]) -> Result<()> {
        self.write_vcpu_context(domid, vcpu, context)
    }

    fn vcpu_context(&self, domid: DomId, vcpu: VcpuId) -> Result<Option<Vec<u8>>> {
        self.read_vcpu_context(domid, vcpu)
    }

    fn hvm_context(&self, domid: DomId) -> Result<Vec<u8>> {
        self.read_hvm_context(domid)
    }

    fn set_hvm_context(&self, domid: DomId, records: &[u8]) -> Result<()> {
        self.write_hvm_context(domid, records)
    }

    fn pv_vcpu_state(&self, domid: DomId, vcpu: VcpuId, part: VcpuPart) -> Result<Vec<u8>> {
        self.read_pv_vcpu(domid, vcpu, part)
    }

    fn set_pv_vcpu_state(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        part: VcpuPart,
        state: &[u8],
    ) -> Result<()> {
        self.write_pv_vcpu(domid, vcpu, part, state)
    }

    fn tsc_info(&self, domid: DomId) -> Result<TscInfo> {
        self.read_tsc_info(domid)
    }

    fn set_tsc_info(&self, domid: DomId, tsc: &TscInfo) -> Result<()> {
        self.write_tsc_info(domid, tsc)
    }

    fn scheduler_params(&self, domid: DomId, scheduler: SchedulerId) -> Result<SchedulerParams> {
        self.read_scheduler_params(domid, scheduler)
    }

    fn set_scheduler_params(&self, domid: DomId, params: &SchedulerParams) -> Result<()> {
        self.write_scheduler_params(domid, params)
    }

    fn set_tsc_mode(&self, domid: DomId, mode: u32) -> Result<()> {
        self.write_tsc_mode(domid, mode)
    }

    fn set_time_offset(&self, domid: DomId, offset_s: i64) -> Result<()> {
        self.write_time_offset(domid, offset_s)
    }

    fn set_max_mem(&self, domid: DomId, max_kib: u64) -> Result<()> {
        self.write_max_mem(domid, max_kib)
    }

    fn set_paging_mempool(&self, domid: DomId, size_bytes: u64) -> Result<()> {
        self.write_paging_mempool(domid, size_bytes)
    }

    fn claim_pages(&self, domid: DomId, nr_pages: u64) -> Result<()> {
        self.stake_claim(domid, nr_pages)
    }

    fn populate_physmap(
        &self,
        domid: DomId,
        order: u32,
        flags: PopulateFlags,
        start: &[Gfn],
    ) -> Result<Vec<Mfn>> {
        self.populate(domid, order, flags, start)
    }

    fn set_memory_map(&self, domid: DomId, map: &[E820Entry]) -> Result<()> {
        self.write_memory_map(domid, map)
    }

    fn pin_tables(&self, domid: DomId, tables: &[(PageTableLevel, Mfn)]) -> Result<()> {
        self.pin(domid, tables)
    }

    fn clear_pages(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        self.clear(domid, pages)
    }

    fn init_hypercall_page(&self, domid: DomId, gfn: Gfn) -> Result<()> {
        self.fill_hypercall_page(domid, gfn)
    }

    fn set_pod_target(&self, domid: DomId, target_pages: u64) -> Result<()> {
        self.write_pod_target(domid, target_pages)
    }

    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>> {
        Ok(Box::new(self.foreign_memory(domid, frames)?))
    }

    fn pages_among(
        &self,
        domid: DomId,
        kind: GuestKind,
        first: Gfn,
        count: u32,
    ) -> Result<Vec<(Pfn, Gfn)>> {
        self.find_pages(domid, kind, first, count)
    }

    fn maximum_gpfn(&self, domid: DomId) -> Result<Gfn> {
        self.read_maximum_gpfn(domid)
    }

    fn frame_kinds(&self, domid: DomId, frames: &[Gfn]) -> Result<Vec<FrameKind>> {
        self.read_frame_kinds(domid, frames)
    }

    fn remove_pages(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        self.give_back(domid, pages)
    }

    fn track_writes(&self, domid: DomId) -> Result<()> {
        self.note_writes(domid)
    }

    fn stop_tracking_writes(&self, domid: DomId) -> Result<()> {
        self.stop_noting_writes(domid)
    }

    fn take_written_pages(&self, domid: DomId, nr_pages: u64, is_last: bool) -> Result<Vec<u8>> {
        self.take_written(domid, nr_pages, is_last)
    }

    fn on_demand_pages(&self, domid: DomId) -> Result<(u64, u64)> {
        self.read_on_demand(domid)
    }

    fn copy_pages(&self, domid: DomId, frames: &[Gfn], bytes: &mut [u8]) -> Result<Vec<bool>> {
        self.privcmd.copy_frames(domid, frames, bytes)
    }

    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>> {
        Ok(Box::new(self.grant_table_memory(domid, nr_frames)?))
    }

    fn hvm_param(&self, domid: DomId, param: HvmParam) -> Result<u64> {
        self.read_hvm_param(domid, param)
    }

    fn set_hvm_param(&self, domid: DomId, param: HvmParam, value: u64) -> Result<()> {
        self.write_hvm_params(domid, &[(param, value)])
    }

    fn set_hvm_params(&self, domid: DomId, params: &[(HvmParam, u64)]) -> Result<()> {
        self.write_hvm_params(domid, params)
    }

    fn assign_pci(&self, domid: DomId, device: PciSbdf, is_relaxed: bool) -> Result<()> {
        self.give_pci(domid, device, is_relaxed)
    }

    fn deassign_pci(&self, domid: DomId, device: PciSbdf) -> Result<()> {
        self.take_pci(domid, device)
    }

    fn set_permission(&self, domid: DomId, resource: HostResource, is_allowed: bool) -> Result<()> {
        self.permit(domid, resource, is_allowed)
    }

    fn alloc_unbound(&self, domid: DomId, remote: DomId) -> Result<EvtchnPort> {
        self.allocate_unbound(domid, remote)
    }

    fn close_event_channels(&self, domid: DomId) -> Result<()> {
        self.close_ports(domid)
    }
}
