//! The hypervisor of a process that can be killed.

use std::io;
use std::time::Instant;

use xen_build::model::Model;
use xen_port::*;
use xenstore::mem::MemStore;

use crate::fate::Fate;

/// The model behind a fate. What Xen tells xenstored of a domain's end, xenstored learns.
pub(crate) struct MortalXen {
    pub inner: Model,
    pub store: MemStore,
    pub fate: Fate,
}

fn dead<T>() -> Result<T> {
    Err(HvError::Nonsense {
        op: "a call",
        what: "its process is dead".to_owned(),
    })
}

type Affinities = (Option<CpuMap>, Option<CpuMap>);

macro_rules! delegate {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        $(fn $name(&self, $($arg: $ty),*) -> Result<$ret> {
            self.fate.call(|| self.inner.$name($($arg),*), dead)
        })*
    };
}

impl Hypervisor for MortalXen {
    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inner.counters()
    }

    fn destroy_domain(&self, domid: DomId, deadline: Instant) -> Result<()> {
        let destroy = || {
            if self.fate.forgets("destroy_domain") {
                return Ok(());
            }
            self.inner.destroy_domain(domid, deadline)?;
            self.store.domain_destroyed(domid.0);
            Ok(())
        };
        self.fate.call(destroy, dead)
    }

    fn unpause_domain(&self, domid: DomId) -> Result<()> {
        let unpause = || match self.fate.forgets("unpause_domain") {
            true => Ok(()),
            false => self.inner.unpause_domain(domid),
        };
        self.fate.call(unpause, dead)
    }

    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>> {
        let map = || self.inner.map_foreign(domid, frames);
        self.mortal(self.fate.call(map, dead))
    }

    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>> {
        let map = || self.inner.map_grant_frames(domid, nr_frames);
        self.mortal(self.fate.call(map, dead))
    }

    delegate! {
        version() -> VersionInfo;
        phys_info() -> PhysInfo;
        console_ring(clear: bool) -> Vec<u8>;
        scheduler_id() -> SchedulerId;
        cpu_pools() -> Vec<CpuPool>;
        cpu_topology() -> Vec<CpuTopology>;
        numa_nodes() -> Vec<NumaNode>;
        sharing_pages() -> (u64, u64);
        scheduler_globals(pool: u32) -> SchedulerGlobals;
        set_scheduler_globals(pool: u32, globals: &SchedulerGlobals) -> ();
        domain_info(domid: DomId) -> Option<DomainInfo>;
        domain_list() -> Vec<DomainInfo>;
        create_domain(request: &CreateDomain) -> DomId;
        pause_domain(domid: DomId) -> ();
        remote_shutdown(domid: DomId, reason: ShutdownReason) -> ();
        resume_domain(domid: DomId) -> ();
        soft_reset(domid: DomId) -> ();
        send_trigger(domid: DomId, vcpu: VcpuId, trigger: Trigger) -> ();
        set_domain_handle(domid: DomId, handle: [u8; 16]) -> ();
        node_affinity(domid: DomId) -> CpuMap;
        set_max_vcpus(domid: DomId, nr_vcpus: u32) -> ();
        vcpu_info(domid: DomId, vcpu: VcpuId) -> VcpuInfo;
        vcpu_affinity(domid: DomId, vcpu: VcpuId) -> (CpuMap, CpuMap);
        set_vcpu_affinity(domid: DomId, vcpu: VcpuId, hard: Option<&CpuMap>, soft: Option<&CpuMap>, force: bool) -> Affinities;
        cpu_policy(domid: DomId) -> CpuPolicy;
        set_cpu_policy(domid: DomId, policy: &CpuPolicy) -> ();
        set_pv_boot_cpu(domid: DomId, cpu: &PvBootCpu) -> ();
        set_hvm_boot_cpu(domid: DomId, cpu: &HvmBootCpu) -> ();
        scheduler_params(domid: DomId, scheduler: SchedulerId) -> SchedulerParams;
        set_scheduler_params(domid: DomId, params: &SchedulerParams) -> ();
        set_tsc_mode(domid: DomId, mode: u32) -> ();
        set_time_offset(domid: DomId, offset_s: i64) -> ();
        set_max_mem(domid: DomId, max_kib: u64) -> ();
        set_paging_mempool(domid: DomId, size_bytes: u64) -> ();
        claim_pages(domid: DomId, nr_pages: u64) -> ();
        populate_physmap(domid: DomId, order: u32, flags: PopulateFlags, start: &[Gfn]) -> Vec<Mfn>;
        set_memory_map(domid: DomId, map: &[E820Entry]) -> ();
        pin_tables(domid: DomId, tables: &[(PageTableLevel, Mfn)]) -> ();
        clear_pages(domid: DomId, pages: &[Gfn]) -> ();
        init_hypercall_page(domid: DomId, gfn: Gfn) -> ();
        set_pod_target(domid: DomId, target_pages: u64) -> ();
        hvm_param(domid: DomId, param: HvmParam) -> u64;
        set_hvm_param(domid: DomId, param: HvmParam, value: u64) -> ();
        set_hvm_params(domid: DomId, params: &[(HvmParam, u64)]) -> ();
        alloc_unbound(domid: DomId, remote: DomId) -> EvtchnPort;
        close_event_channels(domid: DomId) -> ();
    }
}

impl MortalXen {
    fn mortal(&self, mapping: Result<Box<dyn GuestMemory>>) -> Result<Box<dyn GuestMemory>> {
        Ok(Box::new(MortalMemory {
            inner: mapping?,
            fate: self.fate.clone(),
        }))
    }
}

/// A mapping of guest memory: each access is a call. The kernel unmaps what the dead had mapped.
struct MortalMemory {
    inner: Box<dyn GuestMemory>,
    fate: Fate,
}

impl GuestMemory for MortalMemory {
    fn size_bytes(&self) -> usize {
        self.inner.size_bytes()
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let inner = &mut self.inner;
        self.fate.call(|| inner.write(offset, bytes), dead)
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.fate.call(|| self.inner.read(offset, bytes), dead)
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        let inner = &mut self.inner;
        self.fate.call(|| inner.zero(offset, len), dead)
    }

    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        let inner = &mut self.inner;
        self.fate.call(|| inner.fill_with(offset, len, fill), dead)
    }
}
