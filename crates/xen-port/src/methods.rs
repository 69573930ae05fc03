//! The methods of [`Hypervisor`](crate::Hypervisor) as one list, for implementations that forward all calls.

/// Calls `$callback!` with the methods that carry plain data, in the form
///
/// ```text
/// name(argument: Type, ...) (argument taken by reference: Type, ...) -> Answer;
/// ```
///
/// Not in it, for their answers or arguments are no plain data: `counters`, `destroy_domain`, `set_vcpu_affinity`,
/// `map_foreign`, `copy_pages` and `map_grant_frames`.
#[macro_export]
macro_rules! hypervisor_methods {
    ($callback:ident) => {
        $callback! {
            version() () -> $crate::VersionInfo;
            capabilities() () -> String;
            phys_info() () -> $crate::PhysInfo;
            console_ring(clear: bool) () -> Vec<u8>;
            scheduler_id() () -> $crate::SchedulerId;
            cpu_pools() () -> Vec<$crate::CpuPool>;
            free_cpus() () -> $crate::CpuMap;
            create_cpu_pool(pool: u32, scheduler: $crate::SchedulerId) () -> ();
            destroy_cpu_pool(pool: u32) () -> ();
            add_cpu_to_pool(pool: u32, cpu: u32) () -> ();
            remove_cpu_from_pool(pool: u32, cpu: u32) () -> ();
            move_to_pool(domid: $crate::DomId, pool: u32) () -> ();
            cpu_topology() () -> Vec<$crate::CpuTopology>;
            numa_nodes() () -> Vec<$crate::NumaNode>;
            sharing_pages() () -> (u64, u64);
            send_debug_keys() (keys: str) -> ();
            flask_is_enforcing() () -> bool;
            set_flask_enforcing(enforcing: bool) () -> ();
            load_flask_policy() (policy: [u8]) -> ();
            parameter() (name: str) -> $crate::Parameter;
            set_parameter() (name: str, value: [u8]) -> ();
            scheduler_globals(pool: u32) () -> $crate::SchedulerGlobals;
            set_scheduler_globals(pool: u32) (globals: $crate::SchedulerGlobals) -> ();
            domain_info(domid: $crate::DomId) () -> Option<$crate::DomainInfo>;
            domain_list() () -> Vec<$crate::DomainInfo>;
            create_domain() (request: $crate::CreateDomain) -> $crate::DomId;
            pause_domain(domid: $crate::DomId) () -> ();
            unpause_domain(domid: $crate::DomId) () -> ();
            remote_shutdown(domid: $crate::DomId, reason: $crate::ShutdownReason) () -> ();
            soft_reset(domid: $crate::DomId) () -> ();
            resume_domain(domid: $crate::DomId) () -> ();
            send_trigger(domid: $crate::DomId, vcpu: $crate::VcpuId, trigger: $crate::Trigger) () -> ();
            set_domain_handle(domid: $crate::DomId, handle: [u8; 16]) () -> ();
            node_affinity(domid: $crate::DomId) () -> $crate::CpuMap;
            address_size_bits(domid: $crate::DomId) () -> u32;
            make_pv32(domid: $crate::DomId) () -> ();
            set_max_vcpus(domid: $crate::DomId, nr_vcpus: u32) () -> ();
            vcpu_info(domid: $crate::DomId, vcpu: $crate::VcpuId) () -> $crate::VcpuInfo;
            vcpu_affinity(domid: $crate::DomId, vcpu: $crate::VcpuId) () -> ($crate::CpuMap, $crate::CpuMap);
            cpu_policy(domid: $crate::DomId) () -> $crate::CpuPolicy;
            set_cpu_policy(domid: $crate::DomId) (policy: $crate::CpuPolicy) -> ();
            set_pv_boot_cpu(domid: $crate::DomId) (cpu: $crate::PvBootCpu) -> ();
            set_hvm_boot_cpu(domid: $crate::DomId) (cpu: $crate::HvmBootCpu) -> ();
            set_vcpu_context(domid: $crate::DomId, vcpu: $crate::VcpuId) (context: [u8]) -> ();
            vcpu_context(domid: $crate::DomId, vcpu: $crate::VcpuId) () -> Option<Vec<u8>>;
            hvm_context(domid: $crate::DomId) () -> Vec<u8>;
            set_hvm_context(domid: $crate::DomId) (records: [u8]) -> ();
            pv_vcpu_state(domid: $crate::DomId, vcpu: $crate::VcpuId, part: $crate::VcpuPart) () -> Vec<u8>;
            set_pv_vcpu_state(domid: $crate::DomId, vcpu: $crate::VcpuId, part: $crate::VcpuPart) (state: [u8]) -> ();
            tsc_info(domid: $crate::DomId) () -> $crate::TscInfo;
            set_tsc_info(domid: $crate::DomId) (tsc: $crate::TscInfo) -> ();
            scheduler_params(domid: $crate::DomId, scheduler: $crate::SchedulerId) () -> $crate::SchedulerParams;
            set_scheduler_params(domid: $crate::DomId) (params: $crate::SchedulerParams) -> ();
            set_tsc_mode(domid: $crate::DomId, mode: u32) () -> ();
            set_time_offset(domid: $crate::DomId, offset_s: i64) () -> ();
            set_max_mem(domid: $crate::DomId, max_kib: u64) () -> ();
            set_paging_mempool(domid: $crate::DomId, size_bytes: u64) () -> ();
            claim_pages(domid: $crate::DomId, nr_pages: u64) () -> ();
            populate_physmap(domid: $crate::DomId, order: u32, flags: $crate::PopulateFlags)
                (start: [$crate::Gfn]) -> Vec<$crate::Mfn>;
            set_memory_map(domid: $crate::DomId) (map: [$crate::E820Entry]) -> ();
            pin_tables(domid: $crate::DomId) (tables: [($crate::PageTableLevel, $crate::Mfn)]) -> ();
            clear_pages(domid: $crate::DomId) (pages: [$crate::Gfn]) -> ();
            init_hypercall_page(domid: $crate::DomId, gfn: $crate::Gfn) () -> ();
            set_pod_target(domid: $crate::DomId, target_pages: u64) () -> ();
            pages_among(domid: $crate::DomId, kind: $crate::GuestKind, first: $crate::Gfn, count: u32)
                () -> Vec<($crate::Pfn, $crate::Gfn)>;
            maximum_gpfn(domid: $crate::DomId) () -> $crate::Gfn;
            frame_kinds(domid: $crate::DomId) (frames: [$crate::Gfn]) -> Vec<$crate::FrameKind>;
            remove_pages(domid: $crate::DomId) (pages: [$crate::Gfn]) -> ();
            track_writes(domid: $crate::DomId) () -> ();
            stop_tracking_writes(domid: $crate::DomId) () -> ();
            take_written_pages(domid: $crate::DomId, nr_pages: u64, is_last: bool) () -> Vec<u8>;
            on_demand_pages(domid: $crate::DomId) () -> (u64, u64);
            hvm_param(domid: $crate::DomId, param: $crate::HvmParam) () -> u64;
            set_hvm_param(domid: $crate::DomId, param: $crate::HvmParam, value: u64) () -> ();
            set_hvm_params(domid: $crate::DomId) (params: [($crate::HvmParam, u64)]) -> ();
            assign_pci(domid: $crate::DomId, device: $crate::PciSbdf, is_relaxed: bool) () -> ();
            deassign_pci(domid: $crate::DomId, device: $crate::PciSbdf) () -> ();
            set_permission(domid: $crate::DomId, resource: $crate::HostResource, is_allowed: bool) () -> ();
            alloc_unbound(domid: $crate::DomId, remote: $crate::DomId) () -> $crate::EvtchnPort;
            close_event_channels(domid: $crate::DomId) () -> ();
        }
    };
}
