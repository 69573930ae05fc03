//! A model of the Xen hypervisor in memory, as far as the engine and `xen-build` use Xen.
//!
//! It allocates frames and keeps their bytes. It checks what Xen checks (limits, ownership, claims), counts each
//! call, and can let any call fail. New frames contain [`DIRT`], so a test finds bytes that were not written. The
//! model proves nothing about Xen; the lab does that.

mod hypervisor;
mod mapping;
mod passthrough;
mod pools;
mod saving;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xen_port::{
    CpuMap, CpuPolicy, DomId, E820Entry, Errno, EvtchnPort, Gfn, GuestKind, GuestMemory,
    HostResource, HvError, HvmBootCpu, Mfn, PAGE_SIZE, PageTableLevel, PciSbdf, PhysCaps,
    PvBootCpu, Result, ShutdownReason, TscInfo, VcpuPart, VersionInfo,
};

use mapping::Mapping;
use pools::Pools;
use settings::Settings;

/// Each byte of a frame that was not written yet.
pub const DIRT: u8 = 0xdb;
/// The first frame that is handed out.
const FIRST_MFN: u64 = 0x1_0000;
/// Number of frames between two allocations, so that neighbours of the guest are no neighbours of the machine.
const GAP: u64 = 3;

/// A vCPU's registers, in bytes (`vcpu_guest_context`).
const VCPU_CONTEXT_BYTES: usize = 5168;

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method's name.
    pub op: &'static str,
    /// Number of its items: extents, frames, entries or bytes; 1 if it has only one.
    pub items: usize,
}

/// A domain of the model.
#[derive(Clone, Debug)]
pub struct ModelDomain {
    /// PV, PVH or HVM.
    pub kind: GuestKind,
    /// Its handle: its UUID's bytes.
    pub handle: [u8; 16],
    /// Its label of the security modules; 0 without them.
    pub ssidref: u32,
    /// Weight and cap, the scheduler's default at first.
    pub share: (u16, u16),
    /// Number of its CPU pool.
    pub cpupool: u32,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Pages that it has.
    pub tot_pages: u64,
    /// Pages claimed and not yet allocated.
    pub claimed_pages: u64,
    /// First page in the domain's numbering, order and first frame of each extent.
    pub extents: BTreeMap<u64, (u32, Mfn)>,
    /// Pages that were asked for below 4 GiB.
    pub low_pages: Vec<u64>,
    /// First page and order of each extent that is populated on demand.
    pub on_demand: BTreeMap<u64, u32>,
    /// Pages of the populate-on-demand cache.
    pub pod_pages: u64,
    /// The memory map that was set.
    pub memory_map: Vec<E820Entry>,
    /// HVM parameters by number.
    pub params: BTreeMap<u32, u64>,
    /// Tables that were pinned.
    pub pinned: Vec<(PageTableLevel, Mfn)>,
    /// The page that became the hypercall page.
    pub hypercall_page: Option<Gfn>,
    /// PV: vCPU 0.
    pub pv_cpu: Option<PvBootCpu>,
    /// PVH and HVM: vCPU 0.
    pub hvm_cpu: Option<HvmBootCpu>,
    /// Registers that tools have set, by vCPU.
    pub registers: BTreeMap<u32, Vec<u8>>,
    /// The shared-info frame.
    pub shared_info: Mfn,
    /// The first frame of the grant table.
    pub grant_table: Mfn,
    /// The CPU policy.
    pub policy: CpuPolicy,
    /// Size of the paging pool in bytes.
    pub paging_pool_bytes: u64,
    /// vCPUs that its creation asked for.
    vcpus_asked_for: u32,
    /// Whether an HVM domain may have interrupts over event channels.
    pub hvm_pirq: bool,
    /// Mode of the time-stamp counter.
    pub tsc_mode: u32,
    /// Values of the time-stamp counter. Its mode is `tsc_mode`.
    pub tsc: TscInfo,
    /// PVH and HVM: the state of vCPUs and of Xen's devices that was loaded.
    pub hvm_records: Option<Vec<u8>>,
    /// PV: the parts of the vCPUs' state that were loaded.
    pub vcpu_parts: BTreeMap<(u32, VcpuPart), Vec<u8>>,
    /// The pages that were written to, if Xen notes them.
    pub written: Option<BTreeSet<u64>>,
    /// Offset of the wall clock, in seconds.
    pub time_offset_s: i64,
    /// Number of vCPUs.
    pub nr_vcpus: u32,
    /// vCPUs that the guest has brought up.
    pub nr_online_vcpus: u32,
    /// Hard and soft affinity of each vCPU.
    pub affinity: Vec<(CpuMap, CpuMap)>,
    /// CPU time used since it first ran, in nanoseconds.
    pub cpu_time_ns: u64,
    /// First frame and order of each extent.
    by_frame: BTreeMap<u64, u32>,
    /// Event channels: the port, and the domain that may bind it.
    pub ports: BTreeMap<u32, DomId>,
    /// Number of pauses by tools.
    pub pauses: u32,
    /// Whether it was destroyed but still exists, because a process holds a page of it.
    pub dying: bool,
    /// Shutdown reason, if the domain has shut down.
    pub shutdown: Option<ShutdownReason>,
    /// Whether its vCPUs have run.
    pub has_run: bool,
    /// Number of soft resets.
    pub soft_resets: u32,
    /// 32 for a PV domain with a 32-bit kernel.
    pub address_size_bits: u32,
}

impl ModelDomain {
    /// An empty domain, paused.
    fn new(state: &mut State, kind: GuestKind, handle: [u8; 16], cpupool: u32) -> ModelDomain {
        let (shared_info, grant_table) = (state.take_mfn(0), state.take_mfn(0));
        // Xen clears these two.
        state.frames.insert(shared_info.0, vec![0; PAGE_SIZE]);
        state.frames.insert(grant_table.0, vec![0; PAGE_SIZE]);
        ModelDomain {
            kind,
            handle,
            ssidref: 0,
            share: (256, 0),
            cpupool,
            max_pages: 0,
            tot_pages: 0,
            claimed_pages: 0,
            extents: BTreeMap::new(),
            low_pages: Vec::new(),
            on_demand: BTreeMap::new(),
            pod_pages: 0,
            memory_map: Vec::new(),
            params: BTreeMap::new(),
            pinned: Vec::new(),
            hypercall_page: None,
            pv_cpu: None,
            hvm_cpu: None,
            registers: BTreeMap::new(),
            shared_info,
            grant_table,
            policy: CpuPolicy::default(),
            paging_pool_bytes: 0,
            vcpus_asked_for: 0,
            hvm_pirq: false,
            tsc_mode: 0,
            tsc: TscInfo::default(),
            hvm_records: None,
            vcpu_parts: BTreeMap::new(),
            written: None,
            time_offset_s: 0,
            nr_vcpus: 0,
            nr_online_vcpus: 0,
            affinity: Vec::new(),
            cpu_time_ns: 0,
            by_frame: BTreeMap::new(),
            ports: BTreeMap::new(),
            pauses: 1,
            dying: false,
            shutdown: None,
            has_run: false,
            soft_resets: 0,
            address_size_bits: 64,
        }
    }

    fn set_vcpus(&mut self, nr_vcpus: u32, nr_cpus: u32) {
        let all = CpuMap::all(nr_cpus);
        self.nr_vcpus = nr_vcpus;
        self.nr_online_vcpus = nr_vcpus.min(1);
        self.affinity = vec![(all.clone(), all); nr_vcpus as usize];
    }

    /// The local APIC for PVH; all but vPCI for HVM, interrupts over event channels (bit 9) if it has them.
    fn emulation_flags(&self) -> u32 {
        match self.kind {
            GuestKind::Pv => 0,
            GuestKind::Pvh => 1,
            GuestKind::Hvm if self.hvm_pirq => 0x3ff,
            GuestKind::Hvm => 0x1ff,
        }
    }

    /// A domain that has run has used some time.
    fn time_ns(&self) -> u64 {
        u64::from(self.has_run) + self.cpu_time_ns
    }

    /// Whether its vCPUs may run.
    pub fn is_running(&self) -> bool {
        self.has_run && self.pauses == 0 && self.shutdown.is_none()
    }

    /// The frame of one of the domain's pages.
    pub fn frame(&self, page: u64) -> Option<Mfn> {
        let (first, (order, frame)) = self.extents.range(..=page).next_back()?;
        (page - first < 1 << order).then(|| Mfn(frame.0 + (page - first)))
    }

    /// Number of pages that are to be populated on demand and have no memory yet.
    fn on_demand_entries(&self) -> u64 {
        let reserved = self.on_demand.iter();
        let pages = reserved.flat_map(|(first, order)| *first..first + (1 << order));
        pages.filter(|page| self.frame(*page).is_none()).count() as u64
    }

    fn is_on_demand(&self, page: u64) -> bool {
        self.on_demand
            .range(..=page)
            .next_back()
            .is_some_and(|(first, order)| page - first < 1 << order)
    }

    fn open_port(&mut self, remote: DomId) -> EvtchnPort {
        let free = (1..)
            .find(|port| !self.ports.contains_key(port))
            .unwrap_or_default();
        self.ports.insert(free, remote);
        EvtchnPort(free)
    }

    fn owns(&self, frame: Mfn) -> bool {
        let extent = self.by_frame.range(..=frame.0).next_back();
        frame == self.shared_info
            || extent.is_some_and(|(first, order)| frame.0 - first < 1 << order)
    }
}

/// The host's features, unless a test sets others.
const USUAL_CAPS: PhysCaps = PhysCaps {
    hvm: true,
    pv: true,
    hvm_directio: false,
    pv_directio: false,
    hap: true,
    shadow: false,
    iommu_hap_pt_share: false,
    vmtrace: false,
    vpmu: false,
    gnttab_v1: false,
    gnttab_v2: false,
};

#[derive(Default)]
struct State {
    free_pages: u64,
    next_mfn: u64,
    last_domid: u16,
    /// Extents left of an order; no entry: as many as there is memory.
    extents_left: BTreeMap<u32, usize>,
    frames: HashMap<u64, Vec<u8>>,
    domains: BTreeMap<u16, ModelDomain>,
    pools: Pools,
    calls: Vec<Call>,
    fail_at: Option<(usize, Errno)>,
    fail_always: Option<(&'static str, Errno)>,
    die_at: Option<usize>,
    /// Mappings of each domain's memory.
    live_mappings: BTreeMap<u16, usize>,
    cannot_clear: bool,
    /// Soft resets that are still to be refused, and how.
    refused_resets: Option<(usize, Errno)>,
    total_pages: u64,
    nr_cpus: u32,
    nr_nodes: u32,
    version: Option<VersionInfo>,
    caps: Option<PhysCaps>,
    /// The domain that each PCI device is with, unless that is domain 0.
    pci_owners: BTreeMap<PciSbdf, DomId>,
    /// The resources of the host that domains may use.
    permissions: BTreeSet<(DomId, HostResource)>,
    console_ring: Vec<u8>,
    settings: Settings,
}

/// The model; clones are the same one.
#[derive(Clone)]
pub struct Model {
    state: Arc<Mutex<State>>,
}

impl Model {
    /// A host with `free_mib` MiB of free memory.
    pub fn new(free_mib: u64) -> Model {
        let state = State {
            free_pages: free_mib * 256,
            total_pages: free_mib * 256,
            nr_cpus: 1,
            nr_nodes: 1,
            next_mfn: FIRST_MFN,
            ..State::default()
        };
        Model {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The host has an IOMMU, which Xen uses. At first it has none.
    pub fn add_iommu(&self) {
        self.set_caps(PhysCaps {
            hvm_directio: true,
            pv_directio: true,
            ..USUAL_CAPS
        });
    }

    /// The domain that a PCI device is with: domain 0, [`DomId::IO`] in quarantine, or a guest.
    pub fn pci_owner(&self, device: PciSbdf) -> DomId {
        let owners = &self.state().pci_owners;
        owners.get(&device).copied().unwrap_or(DomId::ZERO)
    }

    /// The resources of the host that a domain may use.
    pub fn permissions(&self, domid: DomId) -> Vec<HostResource> {
        let state = self.state();
        let its = state
            .permissions
            .iter()
            .filter(|(owner, _)| *owner == domid);
        its.map(|(_, resource)| *resource).collect()
    }

    /// The host has so many CPUs. At first it has one.
    pub fn set_cpus(&self, nr_cpus: u32) {
        self.state().nr_cpus = nr_cpus;
    }

    /// The host has so many NUMA nodes, each with as many CPUs. At first it has one.
    pub fn set_nodes(&self, nr_nodes: u32) {
        self.state().nr_nodes = nr_nodes.max(1);
    }

    /// Sets the version. Without it, `Hypervisor::version` is an error.
    pub fn set_version(&self, version: VersionInfo) {
        self.state().version = Some(version);
    }

    /// The host can do this and nothing else.
    pub fn set_caps(&self, caps: PhysCaps) {
        self.state().caps = Some(caps);
    }

    /// The hypervisor has security modules, which give a domain this label.
    pub fn set_label(&self, domid: DomId, ssidref: u32) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.ssidref = ssidref;
        }
    }

    /// The hypervisor logs a line.
    pub fn log(&self, line: &str) {
        let mut state = self.state();
        state.console_ring.extend_from_slice(line.as_bytes());
        state.console_ring.push(b'\n');
    }

    /// Adds the control domain with `nr_pages`, in addition to the free pages.
    pub fn add_control_domain(&self, nr_pages: u64) {
        let mut state = self.state();
        let nr_vcpus = state.nr_cpus;
        let mut domain = ModelDomain::new(&mut state, GuestKind::Pv, [0; 16], 0);
        domain.max_pages = nr_pages;
        domain.tot_pages = nr_pages;
        domain.pauses = 0;
        domain.has_run = true;
        domain.set_vcpus(nr_vcpus, nr_vcpus);
        domain.nr_online_vcpus = nr_vcpus;
        state.total_pages += nr_pages;
        state.domains.insert(0, domain);
    }

    /// Balloons a guest to `nr_pages`, or as near as its limit and the host's free memory allow. Its page numbers do
    /// not change.
    pub fn balloon(&self, domid: DomId, nr_pages: u64) {
        let mut state = self.state();
        let free = state.free_pages;
        let Some(domain) = state.domains.get_mut(&domid.0) else {
            return;
        };
        let before = domain.tot_pages;
        let wanted = nr_pages.min(domain.max_pages.max(before));
        domain.tot_pages = wanted.min(before + free);
        state.free_pages = (free + before) - domain.tot_pages;
    }

    /// A guest has brought up so many of its vCPUs.
    pub fn set_online_vcpus(&self, domid: DomId, nr_online: u32) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.nr_online_vcpus = nr_online.min(domain.nr_vcpus);
        }
    }

    /// A domain has used CPU time.
    pub fn use_cpu(&self, domid: DomId, time_ns: u64) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.cpu_time_ns += time_ns;
        }
    }

    /// Limits the extents of `2^order` pages to `count`.
    pub fn limit_extents(&self, order: u32, count: usize) {
        self.state().extents_left.insert(order, count);
    }

    /// Makes Xen refuse to clear pages, as for a caller that is not a PV domain.
    pub fn refuse_to_clear(&self) {
        self.state().cannot_clear = true;
    }

    /// A guest shuts itself down, as by `SCHEDOP_shutdown`.
    pub fn shut_down(&self, domid: DomId, reason: ShutdownReason) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.shutdown = domain.shutdown.or(Some(reason));
        }
    }

    /// Marks a domain as dying: it was destroyed, but a process maps a page of it, so it stays.
    pub fn linger(&self, domid: DomId) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.dying = true;
        }
    }

    /// A PV domain is one with a 32-bit kernel.
    pub fn make_32_bit(&self, domid: DomId) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.address_size_bits = 32;
        }
    }

    /// A running guest opens an event channel.
    pub fn open_port(&self, domid: DomId, remote: DomId) {
        if let Some(domain) = self.state().domains.get_mut(&domid.0) {
            domain.open_port(remote);
        }
    }

    /// The next `count` soft resets are refused with `errno`.
    pub fn refuse_resets(&self, count: usize, errno: Errno) {
        self.state().refused_resets = Some((count, errno));
    }

    /// The call number `number`, counted from 0 from here on, fails with `errno`; others do not.
    pub fn fail_at(&self, number: usize, errno: Errno) {
        let mut state = self.state();
        state.calls.clear();
        state.fail_at = Some((number, errno));
    }

    /// Makes every call of the method `op` fail with `errno`.
    pub fn fail_always(&self, op: &'static str, errno: Errno) {
        self.state().fail_always = Some((op, errno));
    }

    /// Ends the caller's thread before call number `number`, counted from 0 from now on, as if its process was
    /// killed: it unwinds without a message. `None` removes the limit.
    pub fn die_at(&self, number: Option<usize>) {
        let mut state = self.state();
        state.calls.clear();
        state.die_at = number;
    }

    /// The next domain gets this number, if it is free.
    pub fn set_next_domid(&self, domid: DomId) {
        self.state().last_domid = domid.0.saturating_sub(1);
    }

    /// The calls so far, or since [`Model::fail_at`] or [`Model::forget_calls`].
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Restarts the count of calls.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    /// The domain, if there is one.
    pub fn domain(&self, domid: DomId) -> Option<ModelDomain> {
        self.state().domains.get(&domid.0).cloned()
    }

    /// The frame of one of a domain's pages, by its own numbers.
    pub fn frame_of(&self, domid: DomId, page: u64) -> Option<Mfn> {
        self.state().domains.get(&domid.0)?.frame(page)
    }

    /// The state, for one call. Ignores a poisoned lock, so that a test shows its first panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages that the host has free.
    pub fn free_pages(&self) -> u64 {
        self.state().free_pages
    }

    /// Mappings that were made and not dropped.
    pub fn live_mappings(&self) -> usize {
        self.state().live_mappings.values().sum()
    }

    /// A frame's bytes.
    pub fn frame(&self, frame: Mfn) -> Vec<u8> {
        let state = self.state();
        state
            .frames
            .get(&frame.0)
            .cloned()
            .unwrap_or_else(|| vec![DIRT; PAGE_SIZE])
    }

    /// Whether anybody wrote to a frame.
    pub fn is_written(&self, frame: Mfn) -> bool {
        self.state().frames.contains_key(&frame.0)
    }

    /// Reads bytes of a domain's memory by its own addresses. Pages without memory read as [`DIRT`].
    pub fn read(&self, domid: DomId, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = address + bytes.len() as u64;
            let start = (at % PAGE_SIZE as u64) as usize;
            let count = (PAGE_SIZE - start).min(len - bytes.len());
            let frame = self.frame_of(domid, at / PAGE_SIZE as u64);
            let page = frame.map_or_else(|| vec![DIRT; PAGE_SIZE], |frame| self.frame(frame));
            bytes.extend(page.iter().skip(start).take(count));
        }
        bytes
    }

    /// Counts a call, and fails it if it is to fail.
    fn called(&self, op: &'static str, domid: Option<DomId>, items: usize) -> Result<()> {
        let mut state = self.state();
        let number = state.calls.len();
        if state.die_at == Some(number) {
            drop(state);
            std::panic::resume_unwind(Box::new("killed"));
        }
        state.calls.push(Call { op, items });
        match state.fail_at {
            Some((at, errno)) if at == number => return Err(call_error(op, domid, errno)),
            _ => {}
        }
        match state.fail_always {
            Some((failing, errno)) if failing == op => Err(call_error(op, domid, errno)),
            _ => Ok(()),
        }
    }

    /// Counts a call, and does something to a domain.
    fn on_domain<T>(
        &self,
        op: &'static str,
        domid: DomId,
        items: usize,
        act: impl FnOnce(&mut ModelDomain) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        self.called(op, Some(domid), items)?;
        let mut state = self.state();
        let domain = state.domains.get_mut(&domid.0).ok_or(Errno::ESRCH);
        domain
            .and_then(act)
            .map_err(|errno| call_error(op, Some(domid), errno))
    }

    /// Counts a call, and does something to the host.
    fn on_host<T>(
        &self,
        op: &'static str,
        act: impl FnOnce(&mut State) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        self.called(op, None, 1)?;
        act(&mut self.state()).map_err(|errno| call_error(op, None, errno))
    }

    fn unsupported<T>(&self, op: &'static str) -> Result<T> {
        Err(call_error(op, None, Errno::ENOSYS))
    }

    fn map_frames(&self, domid: DomId, frames: Vec<Mfn>) -> Box<dyn GuestMemory> {
        let mut state = self.state();
        *state.live_mappings.entry(domid.0).or_default() += 1;
        Box::new(Mapping {
            model: self.clone(),
            domid,
            frames,
        })
    }
}

fn call_error(op: &'static str, domid: Option<DomId>, errno: Errno) -> HvError {
    HvError::Call {
        op,
        domid,
        errno,
        detail: String::new(),
    }
}

impl State {
    fn take_mfn(&mut self, order: u32) -> Mfn {
        let first = (self.next_mfn + GAP).next_multiple_of(1 << order);
        self.next_mfn = first + (1 << order);
        Mfn(first)
    }

    /// Allocates one extent, if there is one left and the domain may have it.
    fn allocate(&mut self, domid: DomId, order: u32, start: Gfn) -> Option<Mfn> {
        let pages = 1_u64 << order;
        let claimed: u64 = self
            .domains
            .iter()
            .filter(|(id, _)| **id != domid.0)
            .map(|(_, d)| d.claimed_pages)
            .sum();
        let domain = self.domains.get(&domid.0)?;
        if domain.tot_pages + pages > domain.max_pages || pages + claimed > self.free_pages {
            return None;
        }
        if let Some(left) = self.extents_left.get_mut(&order) {
            *left = left.checked_sub(1)?;
        }
        let frame = self.take_mfn(order);
        self.free_pages -= pages;
        let domain = self.domains.get_mut(&domid.0)?;
        domain.tot_pages += pages;
        domain.claimed_pages = domain.claimed_pages.saturating_sub(pages);
        domain.extents.insert(start.0, (order, frame));
        domain.by_frame.insert(frame.0, order);
        Some(frame)
    }

    /// Machine frame of a guest frame, as a tool maps it. Populates a page that is to be populated on demand.
    fn mapped_frame(&mut self, domid: DomId, gfn: Gfn) -> std::result::Result<Mfn, Errno> {
        let domain = self.domains.get_mut(&domid.0).ok_or(Errno::ESRCH)?;
        if domain.kind == GuestKind::Pv {
            let frame = Mfn(gfn.0);
            return if domain.owns(frame) {
                Ok(frame)
            } else {
                Err(Errno::EINVAL)
            };
        }
        if let Some(frame) = domain.frame(gfn.0) {
            return Ok(frame);
        }
        if !domain.is_on_demand(gfn.0) || domain.pod_pages == 0 {
            return Err(Errno::ENOENT);
        }
        domain.pod_pages -= 1;
        let frame = self.take_mfn(0);
        let domain = self.domains.get_mut(&domid.0).ok_or(Errno::ESRCH)?;
        domain.extents.insert(gfn.0, (0, frame));
        domain.by_frame.insert(frame.0, 0);
        Ok(frame)
    }
}
