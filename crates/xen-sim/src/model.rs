//! A model of the Xen hypervisor in memory, as far as the engine and `xen-build` use Xen.
//!
//! It allocates frames and keeps their bytes. It checks what Xen checks (limits, ownership, claims), counts each
//! call, and can let any call fail. New frames contain [`DIRT`], so a test finds bytes that were not written. The
//! model proves nothing about Xen; the lab does that.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use xen_port::{
    CpuMap, CpuPolicy, CpuPool, CpuTopology, CreateDomain, DomId, DomainFlags, DomainInfo,
    E820Entry, Errno, EvtchnPort, Gfn, GuestKind, GuestMemory, HvError, HvmBootCpu, HvmParam,
    Hypervisor, Mfn, NumaNode, PAGE_SIZE, PageTableLevel, Pfn, PhysCaps, PhysInfo, PopulateFlags,
    PvBootCpu, Result, SchedulerGlobals, SchedulerId, SchedulerParams, ShutdownReason, Trigger,
    VcpuId, VcpuInfo, VcpuRunState, VersionInfo,
};

/// Each byte of a frame that was not written yet.
pub const DIRT: u8 = 0xdb;
/// The first frame that is handed out.
const FIRST_MFN: u64 = 0x1_0000;
/// Frames between two allocations, so that what is a neighbour for the guest is none for the machine.
const GAP: u64 = 3;

/// Pieces that `fill_with` asks for: small and odd, so that who forgets where a piece belongs is found out.
const FILL_PIECE_BYTES: usize = 3333;

/// A vCPU's registers, in bytes (`vcpu_guest_context`).
const VCPU_CONTEXT_BYTES: usize = 5168;

/// One call, as it came.
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
    /// First page (by the domain's own numbers), order, and first frame of what it has.
    pub extents: BTreeMap<u64, (u32, Mfn)>,
    /// Pages that were asked for below 4 GiB.
    pub low_pages: Vec<u64>,
    /// First page and order of what is populated on demand.
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
    /// PVH: vCPU 0.
    pub hvm_cpu: Option<HvmBootCpu>,
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
    /// Number of vCPUs.
    pub nr_vcpus: u32,
    /// vCPUs that the guest has brought up.
    pub nr_online_vcpus: u32,
    /// Hard and soft affinity of each vCPU.
    pub affinity: Vec<(CpuMap, CpuMap)>,
    /// CPU time used since it first ran, in nanoseconds.
    pub cpu_time_ns: u64,
    /// First frame and order of what it has.
    by_frame: BTreeMap<u64, u32>,
    /// Event channels: the port, and the domain that may bind it.
    pub ports: BTreeMap<u32, DomId>,
    /// How often tools have paused it.
    pub pauses: u32,
    /// Whether it was destroyed but still exists, because a process holds a page of it.
    pub dying: bool,
    /// Why it shut down, if it has.
    pub shutdown: Option<ShutdownReason>,
    /// Whether its vCPUs have run.
    pub has_run: bool,
    /// How often it was soft-reset.
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
            shared_info,
            grant_table,
            policy: CpuPolicy::default(),
            paging_pool_bytes: 0,
            vcpus_asked_for: 0,
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

    /// Pages that are to be populated on demand and are not there yet.
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
    /// CPU pools other than number 0.
    pools: Vec<(u32, SchedulerId)>,
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
    version: Option<VersionInfo>,
    caps: Option<PhysCaps>,
    console_ring: Vec<u8>,
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
            next_mfn: FIRST_MFN,
            ..State::default()
        };
        Model {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The host has so many CPUs. At first it has one.
    pub fn set_cpus(&self, nr_cpus: u32) {
        self.state().nr_cpus = nr_cpus;
    }

    /// Sets the version. Without it, [`Hypervisor::version`] is an error.
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

    /// The control domain, which has so many pages beside those that are free.
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

    /// A guest gives memory back to the host, or takes some: it has `nr_pages` then, or as near to that as its limit and
    /// the host's free memory allow. What its own page numbers are is left as it was.
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

    /// Makes a CPU pool beside number 0, which is under credit2.
    pub fn add_pool(&self, id: u32, scheduler: SchedulerId) {
        self.state().pools.push((id, scheduler));
    }

    /// The scheduler of a domain's pool; another one is refused as Xen does.
    fn check_scheduler(&self, domid: DomId, asked: SchedulerId) -> std::result::Result<(), Errno> {
        let state = self.state();
        let domain = state.domains.get(&domid.0).ok_or(Errno::ESRCH)?;
        let found = state.pools.iter().find(|(id, _)| *id == domain.cpupool);
        let scheduler = found.map_or(SchedulerId::Credit2, |(_, scheduler)| *scheduler);
        if scheduler == asked {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// From now on there are only `count` extents of `2^order` pages.
    pub fn limit_extents(&self, order: u32, count: usize) {
        self.state().extents_left.insert(order, count);
    }

    /// From now on Xen does not clear pages, as if the caller were no PV domain.
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

    /// From now on every call of the method `op` fails with `errno`.
    pub fn fail_always(&self, op: &'static str, errno: Errno) {
        self.state().fail_always = Some((op, errno));
    }

    /// Before the call number `number`, counted from 0 from here on, the caller's thread ends as if its process had been
    /// killed: it unwinds without a message. `None`: it lives on.
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

    /// Starts counting anew.
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

    /// The machine frame of a guest frame, as a tool maps it. Populates a page that is to be populated on demand.
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

/// Frames in a row, as if mapped.
struct Mapping {
    model: Model,
    domid: DomId,
    frames: Vec<Mfn>,
}

impl Mapping {
    /// Calls `act` for each piece of the range that lies in one frame: the frame's bytes, and where in the range it is.
    fn pieces(
        &self,
        op: &'static str,
        offset: usize,
        len: usize,
        mut act: impl FnMut(&mut [u8], usize),
    ) -> Result<()> {
        let beyond = || HvError::Nonsense {
            op,
            what: format!("{len} bytes at {offset} are beyond the mapping"),
        };
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.size_bytes())
        {
            return Err(beyond());
        }
        let mut state = self.model.state();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let frame = self.frames.get(at / PAGE_SIZE).ok_or_else(beyond)?;
            let bytes = state
                .frames
                .entry(frame.0)
                .or_insert_with(|| vec![DIRT; PAGE_SIZE]);
            let start = at % PAGE_SIZE;
            let end = PAGE_SIZE.min(start + (len - done));
            act(bytes.get_mut(start..end).ok_or_else(beyond)?, done);
            done += end - start;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut state = self.model.state();
        if let Some(count) = state.live_mappings.get_mut(&self.domid.0) {
            *count -= 1;
        }
    }
}

impl GuestMemory for Mapping {
    fn size_bytes(&self) -> usize {
        self.frames.len() * PAGE_SIZE
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.model.called("GuestMemory::write", None, bytes.len())?;
        self.pieces("write", offset, bytes.len(), |piece, done| {
            piece
                .iter_mut()
                .zip(bytes.iter().skip(done))
                .for_each(|(to, from)| *to = *from);
        })
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.model.called("GuestMemory::read", None, bytes.len())?;
        self.pieces("read", offset, bytes.len(), |piece, done| {
            bytes
                .iter_mut()
                .skip(done)
                .zip(piece.iter())
                .for_each(|(to, from)| *to = *from);
        })
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        self.model.called("GuestMemory::zero", None, len)?;
        self.pieces("zero", offset, len, |piece, _| piece.fill(0))
    }

    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        self.model.called("GuestMemory::fill_with", None, len)?;
        let mut buffer = vec![DIRT; FILL_PIECE_BYTES];
        for start in (0..len).step_by(FILL_PIECE_BYTES) {
            buffer.resize(FILL_PIECE_BYTES.min(len - start), DIRT);
            if let Err(error) = fill(&mut buffer) {
                return Ok(Err(error));
            }
            self.pieces("fill_with", offset + start, buffer.len(), |piece, done| {
                piece
                    .iter_mut()
                    .zip(buffer.iter().skip(done))
                    .for_each(|(to, from)| *to = *from);
            })?;
        }
        Ok(Ok(()))
    }
}

impl Hypervisor for Model {
    fn version(&self) -> Result<VersionInfo> {
        self.called("version", None, 1)?;
        let version = self.state().version.clone();
        version.map_or_else(|| self.unsupported("version"), Ok)
    }

    fn capabilities(&self) -> Result<String> {
        self.called("capabilities", None, 1)?;
        let version = self.state().version.clone();
        version.map_or_else(
            || self.unsupported("capabilities"),
            |known| Ok(known.capabilities),
        )
    }

    fn phys_info(&self) -> Result<PhysInfo> {
        self.called("phys_info", None, 1)?;
        let state = self.state();
        Ok(PhysInfo {
            threads_per_core: 1,
            cores_per_socket: state.nr_cpus,
            nr_cpus: state.nr_cpus,
            max_cpu_id: state.nr_cpus.saturating_sub(1),
            nr_nodes: 1,
            max_node_id: 0,
            cpu_khz: 1_000_000,
            caps: state.caps.unwrap_or(USUAL_CAPS),
            total_pages: state.total_pages,
            free_pages: state.free_pages,
            scrub_pages: 0,
            outstanding_pages: state
                .domains
                .values()
                .map(|domain| domain.claimed_pages)
                .sum(),
            max_mfn: state.next_mfn,
            hw_caps: [0; 8],
        })
    }

    fn console_ring(&self, clear: bool) -> Result<Vec<u8>> {
        self.called("console_ring", None, 1)?;
        let mut state = self.state();
        let bytes = state.console_ring.clone();
        if clear {
            state.console_ring.clear();
        }
        Ok(bytes)
    }

    fn scheduler_id(&self) -> Result<SchedulerId> {
        self.called("scheduler_id", None, 1)?;
        Ok(SchedulerId::Credit2)
    }

    fn cpu_pools(&self) -> Result<Vec<CpuPool>> {
        self.called("cpu_pools", None, 1)?;
        let state = self.state();
        let pool = |id: u32, scheduler: SchedulerId| CpuPool {
            id,
            scheduler,
            nr_domains: state
                .domains
                .values()
                .filter(|one| one.cpupool == id)
                .count() as u32,
            cpus: match id {
                0 => CpuMap::all(state.nr_cpus),
                _ => CpuMap::new(),
            },
        };
        let others = state
            .pools
            .iter()
            .map(|(id, scheduler)| pool(*id, *scheduler));
        Ok([pool(0, SchedulerId::Credit2)]
            .into_iter()
            .chain(others)
            .collect())
    }

    fn cpu_topology(&self) -> Result<Vec<CpuTopology>> {
        self.called("cpu_topology", None, 1)?;
        let nr_cpus = self.state().nr_cpus;
        let place = |core| CpuTopology {
            location: Some((core, 0, 0)),
        };
        Ok((0..nr_cpus).map(place).collect())
    }

    fn numa_nodes(&self) -> Result<Vec<NumaNode>> {
        self.called("numa_nodes", None, 1)?;
        let state = self.state();
        Ok(vec![NumaNode {
            id: 0,
            size_bytes: state.total_pages * PAGE_SIZE as u64,
            free_bytes: state.free_pages * PAGE_SIZE as u64,
            distances: vec![10],
        }])
    }

    fn sharing_pages(&self) -> Result<(u64, u64)> {
        Ok((0, 0))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("calls", self.state().calls.len() as u64)]
    }

    fn scheduler_globals(&self, _pool: u32) -> Result<SchedulerGlobals> {
        self.called("scheduler_globals", None, 1)?;
        Ok(SchedulerGlobals::Credit2 { ratelimit_us: 1000 })
    }

    fn set_scheduler_globals(&self, _pool: u32, _globals: &SchedulerGlobals) -> Result<()> {
        self.unsupported("set_scheduler_globals")
    }

    fn domain_info(&self, domid: DomId) -> Result<Option<DomainInfo>> {
        self.called("domain_info", Some(domid), 1)?;
        let state = self.state();
        Ok(state
            .domains
            .get(&domid.0)
            .map(|domain| info(domid, domain)))
    }

    fn domain_list(&self) -> Result<Vec<DomainInfo>> {
        self.called("domain_list", None, 1)?;
        let state = self.state();
        Ok(state
            .domains
            .iter()
            .map(|(domid, domain)| info(DomId(*domid), domain))
            .collect())
    }

    fn create_domain(&self, request: &CreateDomain) -> Result<DomId> {
        self.called("create_domain", request.domid, 1)?;
        let mut state = self.state();
        // As Xen does, it goes on from the last number that it gave.
        let after_last = (1..DomId::FIRST_RESERVED)
            .map(|step| (state.last_domid + step - 1) % (DomId::FIRST_RESERVED - 1) + 1);
        let free = after_last
            .into_iter()
            .find(|domid| !state.domains.contains_key(domid))
            .unwrap_or_default();
        let domid = request.domid.map_or(free, |domid| domid.0);
        if state.domains.contains_key(&domid) {
            return Err(call_error("create_domain", request.domid, Errno::EEXIST));
        }
        let mut domain =
            ModelDomain::new(&mut state, request.kind, request.handle, request.cpupool);
        domain.vcpus_asked_for = request.max_vcpus;
        state.domains.insert(domid, domain);
        state.last_domid = domid;
        Ok(DomId(domid))
    }

    fn destroy_domain(&self, domid: DomId, _deadline: Instant) -> Result<()> {
        self.called("destroy_domain", Some(domid), 1)?;
        let mut state = self.state();
        if state
            .domains
            .get(&domid.0)
            .is_some_and(|domain| domain.dying)
        {
            return Ok(());
        }
        let domain = state
            .domains
            .remove(&domid.0)
            .ok_or_else(|| call_error("destroy_domain", Some(domid), Errno::ESRCH))?;
        state.free_pages += domain.tot_pages;
        Ok(())
    }

    fn pause_domain(&self, domid: DomId) -> Result<()> {
        self.on_domain("pause_domain", domid, 1, |domain| {
            domain.pauses += 1;
            Ok(())
        })
    }

    fn unpause_domain(&self, domid: DomId) -> Result<()> {
        self.on_domain("unpause_domain", domid, 1, |domain| {
            domain.pauses = domain.pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
            domain.has_run |= domain.pauses == 0;
            Ok(())
        })
    }

    fn remote_shutdown(&self, domid: DomId, reason: ShutdownReason) -> Result<()> {
        self.on_domain("remote_shutdown", domid, 1, |domain| {
            domain.shutdown = domain.shutdown.or(Some(reason));
            Ok(())
        })
    }

    fn soft_reset(&self, domid: DomId) -> Result<()> {
        let refusal = match &mut self.state().refused_resets {
            Some((count, errno)) if *count > 0 => {
                *count -= 1;
                Some(*errno)
            }
            _ => None,
        };
        self.on_domain("soft_reset", domid, 1, |domain| {
            let may = domain.kind != GuestKind::Pv && domain.pauses > 0;
            match (refusal, domain.shutdown) {
                (Some(errno), _) => Err(errno),
                (None, Some(_)) if may => {
                    domain.ports.clear();
                    domain.shutdown = None;
                    domain.soft_resets += 1;
                    Ok(())
                }
                _ => Err(Errno::EINVAL),
            }
        })
    }

    fn resume_domain(&self, _domid: DomId) -> Result<()> {
        self.unsupported("resume_domain")
    }

    fn send_trigger(&self, _domid: DomId, _vcpu: VcpuId, _trigger: Trigger) -> Result<()> {
        self.unsupported("send_trigger")
    }

    fn set_domain_handle(&self, domid: DomId, handle: [u8; 16]) -> Result<()> {
        self.on_domain("set_domain_handle", domid, 1, |domain| {
            domain.handle = handle;
            Ok(())
        })
    }

    fn node_affinity(&self, domid: DomId) -> Result<CpuMap> {
        self.on_domain("node_affinity", domid, 1, |_| Ok(CpuMap::all(1)))
    }

    fn address_size_bits(&self, domid: DomId) -> Result<u32> {
        self.on_domain("address_size_bits", domid, 1, |domain| match domain.kind {
            GuestKind::Pv => Ok(domain.address_size_bits),
            GuestKind::Pvh | GuestKind::Hvm => Err(Errno::EOPNOTSUPP),
        })
    }

    fn make_pv32(&self, domid: DomId) -> Result<()> {
        let version = self.state().version.clone();
        let runs_them = version.is_some_and(|known| {
            let mut words = known.capabilities.split_ascii_whitespace();
            words.any(|word| word == "xen-3.0-x86_32p")
        });
        self.on_domain("make_pv32", domid, 1, |domain| {
            match (runs_them, domain.kind, domain.tot_pages) {
                (false, ..) => Err(Errno::EOPNOTSUPP),
                (true, GuestKind::Pv, 0) => {
                    domain.address_size_bits = 32;
                    Ok(())
                }
                _ => Err(Errno::EACCES),
            }
        })
    }

    fn set_max_vcpus(&self, domid: DomId, nr_vcpus: u32) -> Result<()> {
        let nr_cpus = self.state().nr_cpus;
        self.on_domain("set_max_vcpus", domid, 1, |domain| {
            // Xen has made room for so many when it made the domain, and takes no other number.
            if nr_vcpus != domain.vcpus_asked_for {
                return Err(Errno::EINVAL);
            }
            domain.set_vcpus(nr_vcpus, nr_cpus);
            Ok(())
        })
    }

    fn vcpu_info(&self, domid: DomId, vcpu: VcpuId) -> Result<VcpuInfo> {
        let nr_cpus = self.state().nr_cpus;
        self.on_domain("vcpu_info", domid, 1, |domain| {
            let (hard, _) = domain.affinity.get(vcpu.0 as usize).ok_or(Errno::ESRCH)?;
            let is_online = vcpu.0 < domain.nr_online_vcpus;
            let cpu = hard.iter().nth((vcpu.0 % nr_cpus.max(1)) as usize);
            Ok(VcpuInfo {
                state: match (is_online, domain.is_running()) {
                    (false, _) => VcpuRunState::Offline,
                    (true, true) => VcpuRunState::Blocked,
                    (true, false) => VcpuRunState::Runnable,
                },
                cpu_time_ns: match is_online {
                    true => domain.time_ns() / u64::from(domain.nr_online_vcpus.max(1)),
                    false => 0,
                },
                cpu: cpu.or(hard.iter().next()).unwrap_or_default(),
            })
        })
    }

    fn vcpu_affinity(&self, domid: DomId, vcpu: VcpuId) -> Result<(CpuMap, CpuMap)> {
        self.on_domain("vcpu_affinity", domid, 1, |domain| {
            let affinity = domain.affinity.get(vcpu.0 as usize);
            affinity.cloned().ok_or(Errno::ESRCH)
        })
    }

    /// As in Xen, an affinity is cut to the CPUs that there are, and must leave one.
    fn set_vcpu_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        _force: bool,
    ) -> Result<(Option<CpuMap>, Option<CpuMap>)> {
        let nr_cpus = self.state().nr_cpus;
        let there = |map: &CpuMap| {
            let kept: CpuMap = map.iter().filter(|cpu| *cpu < nr_cpus).collect();
            (!kept.is_empty()).then_some(kept).ok_or(Errno::EINVAL)
        };
        self.on_domain("set_vcpu_affinity", domid, 1, |domain| {
            let affinity = domain.affinity.get_mut(vcpu.0 as usize);
            let affinity = affinity.ok_or(Errno::ESRCH)?;
            let (hard, soft) = (hard.map(there).transpose()?, soft.map(there).transpose()?);
            if let Some(hard) = &hard {
                affinity.0 = hard.clone();
            }
            if let Some(soft) = &soft {
                affinity.1 = soft.clone();
            }
            Ok((hard, soft))
        })
    }

    fn cpu_policy(&self, domid: DomId) -> Result<CpuPolicy> {
        self.on_domain("cpu_policy", domid, 1, |domain| Ok(domain.policy.clone()))
    }

    fn set_cpu_policy(&self, domid: DomId, policy: &CpuPolicy) -> Result<()> {
        self.on_domain("set_cpu_policy", domid, policy.leaves.len(), |domain| {
            for new in &policy.leaves {
                let same = |old: &&mut xen_port::CpuidLeaf| {
                    old.leaf == new.leaf && old.subleaf == new.subleaf
                };
                *domain
                    .policy
                    .leaves
                    .iter_mut()
                    .find(same)
                    .ok_or(Errno::EINVAL)? = *new;
            }
            Ok(())
        })
    }

    fn set_pv_boot_cpu(&self, domid: DomId, cpu: &PvBootCpu) -> Result<()> {
        self.on_domain("set_pv_boot_cpu", domid, 1, |domain| {
            domain.pv_cpu = Some(*cpu);
            Ok(())
        })
    }

    fn set_hvm_boot_cpu(&self, domid: DomId, cpu: &HvmBootCpu) -> Result<()> {
        self.on_domain("set_hvm_boot_cpu", domid, 1, |domain| {
            domain.hvm_cpu = Some(*cpu);
            Ok(())
        })
    }

    /// The registers of an existing vCPU: each byte is its number.
    fn vcpu_context(&self, domid: DomId, vcpu: VcpuId) -> Result<Option<Vec<u8>>> {
        self.on_domain("vcpu_context", domid, 1, |domain| {
            let is_there = vcpu.0 < domain.nr_vcpus;
            Ok(is_there.then(|| vec![vcpu.0 as u8; VCPU_CONTEXT_BYTES]))
        })
    }

    fn scheduler_params(&self, domid: DomId, scheduler: SchedulerId) -> Result<SchedulerParams> {
        let op = "scheduler_params";
        self.check_scheduler(domid, scheduler)
            .map_err(|errno| call_error(op, Some(domid), errno))?;
        let (weight, cap) = self.on_domain(op, domid, 1, |domain| Ok(domain.share))?;
        Ok(match scheduler {
            SchedulerId::Credit => SchedulerParams::Credit { weight, cap },
            _ => SchedulerParams::Credit2 { weight, cap },
        })
    }

    fn set_scheduler_params(&self, domid: DomId, params: &SchedulerParams) -> Result<()> {
        let op = "set_scheduler_params";
        let (scheduler, share) = match *params {
            SchedulerParams::Credit { weight, cap } => (SchedulerId::Credit, (weight, cap)),
            SchedulerParams::Credit2 { weight, cap } => (SchedulerId::Credit2, (weight, cap)),
        };
        self.check_scheduler(domid, scheduler)
            .map_err(|errno| call_error(op, Some(domid), errno))?;
        self.on_domain(op, domid, 1, |domain| {
            domain.share = share;
            Ok(())
        })
    }

    fn set_tsc_mode(&self, domid: DomId, _mode: u32) -> Result<()> {
        self.on_domain("set_tsc_mode", domid, 1, |_| Ok(()))
    }

    fn set_time_offset(&self, domid: DomId, _offset_s: i64) -> Result<()> {
        self.on_domain("set_time_offset", domid, 1, |_| Ok(()))
    }

    fn set_max_mem(&self, domid: DomId, max_kib: u64) -> Result<()> {
        self.on_domain("set_max_mem", domid, 1, |domain| {
            domain.max_pages = max_kib / 4;
            Ok(())
        })
    }

    fn set_paging_mempool(&self, domid: DomId, size_bytes: u64) -> Result<()> {
        self.on_domain("set_paging_mempool", domid, 1, |domain| {
            domain.paging_pool_bytes = size_bytes;
            Ok(())
        })
    }

    fn claim_pages(&self, domid: DomId, nr_pages: u64) -> Result<()> {
        let free = self.free_pages();
        self.on_domain("claim_pages", domid, 1, |domain| {
            if nr_pages == 0 {
                domain.claimed_pages = 0;
                return Ok(());
            }
            if domain.claimed_pages > 0
                || nr_pages <= domain.tot_pages
                || nr_pages > domain.max_pages
            {
                return Err(Errno::EINVAL);
            }
            if nr_pages - domain.tot_pages > free {
                return Err(Errno::ENOMEM);
            }
            domain.claimed_pages = nr_pages - domain.tot_pages;
            Ok(())
        })
    }

    fn populate_physmap(
        &self,
        domid: DomId,
        order: u32,
        flags: PopulateFlags,
        start: &[Gfn],
    ) -> Result<Vec<Mfn>> {
        let pool = self.on_domain("populate_physmap", domid, start.len(), |domain| {
            Ok((domain.kind, domain.paging_pool_bytes))
        })?;
        if matches!(pool, (GuestKind::Pvh | GuestKind::Hvm, 0)) {
            return Err(call_error("populate_physmap", Some(domid), Errno::EINVAL));
        }
        let mut state = self.state();
        if flags.on_demand {
            let domain = state.domains.get_mut(&domid.0);
            let on_demand = domain.map(|domain| &mut domain.on_demand);
            on_demand
                .into_iter()
                .for_each(|map| map.extend(start.iter().map(|gfn| (gfn.0, order))));
            return Ok(vec![Mfn(0); start.len()]);
        }
        if let Some(domain) = state.domains.get_mut(&domid.0).filter(|_| flags.below_4gib) {
            domain.low_pages.extend(start.iter().map(|gfn| gfn.0));
        }
        Ok(start
            .iter()
            .map_while(|gfn| state.allocate(domid, order, *gfn))
            .collect())
    }

    fn set_memory_map(&self, domid: DomId, map: &[E820Entry]) -> Result<()> {
        self.on_domain("set_memory_map", domid, map.len(), |domain| {
            domain.memory_map = map.to_vec();
            Ok(())
        })
    }

    fn pin_tables(&self, domid: DomId, tables: &[(PageTableLevel, Mfn)]) -> Result<()> {
        let state = self.state();
        let mapped = state.live_mappings.get(&domid.0).copied();
        let mapped = mapped.unwrap_or_default();
        drop(state);
        self.on_domain("pin_tables", domid, tables.len(), |domain| {
            // A page with a writable mapping cannot be a page table.
            if mapped > 0 || !tables.iter().all(|(_, frame)| domain.owns(*frame)) {
                return Err(Errno::EINVAL);
            }
            domain.pinned.extend(tables);
            Ok(())
        })
    }

    fn clear_pages(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        let supported = !self.state().cannot_clear;
        self.on_domain("clear_pages", domid, pages.len(), |domain| {
            let owned = pages.iter().all(|gfn| domain.owns(Mfn(gfn.0)));
            match (supported, domain.kind) {
                (false, _) => Err(Errno::EOPNOTSUPP),
                (true, GuestKind::Pv) if owned => Ok(()),
                _ => Err(Errno::EINVAL),
            }
        })?;
        let mut state = self.state();
        state
            .frames
            .extend(pages.iter().map(|gfn| (gfn.0, vec![0; PAGE_SIZE])));
        Ok(())
    }

    fn init_hypercall_page(&self, domid: DomId, gfn: Gfn) -> Result<()> {
        self.on_domain("init_hypercall_page", domid, 1, |domain| {
            domain.hypercall_page = Some(gfn);
            Ok(())
        })
    }

    fn set_pod_target(&self, domid: DomId, target_pages: u64) -> Result<()> {
        let free = self.free_pages();
        let taken = self.on_domain("set_pod_target", domid, 1, |domain| {
            // As Xen's `p2m_pod_set_mem_target`: the rest is the balloon driver's.
            let populated = domain.tot_pages.saturating_sub(domain.pod_pages);
            if populated > 0 && domain.on_demand_entries() == 0 {
                return Ok(0);
            }
            let wanted = target_pages.saturating_sub(domain.tot_pages);
            if wanted > free || target_pages > domain.max_pages {
                return Err(Errno::ENOMEM);
            }
            domain.pod_pages = wanted;
            domain.tot_pages += wanted;
            domain.claimed_pages = domain.claimed_pages.saturating_sub(wanted);
            Ok(wanted)
        })?;
        self.state().free_pages -= taken;
        Ok(())
    }

    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>> {
        self.called("map_foreign", Some(domid), frames.len())?;
        let mut state = self.state();
        let mapped: Result<Vec<Mfn>> = frames
            .iter()
            .map(|gfn| {
                state
                    .mapped_frame(domid, *gfn)
                    .map_err(|errno| HvError::Map {
                        domid,
                        gfn: *gfn,
                        errno,
                    })
            })
            .collect();
        drop(state);
        Ok(self.map_frames(domid, mapped?))
    }

    fn pages_among(
        &self,
        domid: DomId,
        kind: GuestKind,
        first: Gfn,
        count: u32,
    ) -> Result<Vec<(Pfn, Gfn)>> {
        let asked = first.0..first.0 + u64::from(count);
        self.on_domain("pages_among", domid, count as usize, |domain| {
            let of_extent = |(page, (order, frame)): (&u64, &(u32, Mfn))| {
                let (page, frame) = (*page, frame.0);
                (0..1_u64 << order).map(move |index| match kind {
                    GuestKind::Pv => (Pfn(page + index), Gfn(frame + index)),
                    _ => (Pfn(page + index), Gfn(page + index)),
                })
            };
            let pages = domain.extents.iter().flat_map(of_extent);
            let mut found: Vec<(Pfn, Gfn)> = pages
                .filter(|(_, frame)| asked.contains(&frame.0))
                .collect();
            found.sort_unstable_by_key(|(_, frame)| *frame);
            Ok(found)
        })
    }

    fn on_demand_pages(&self, domid: DomId) -> Result<(u64, u64)> {
        self.on_domain("on_demand_pages", domid, 1, |domain| match domain.kind {
            // `XENMEM_get_pod_target` in Xen's xen/arch/x86/mm.c.
            GuestKind::Pv => Err(Errno::EINVAL),
            _ => Ok((domain.on_demand_entries(), domain.pod_pages)),
        })
    }

    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>> {
        let table = self.on_domain("map_grant_frames", domid, nr_frames as usize, |domain| {
            Ok(domain.grant_table)
        })?;
        Ok(self.map_frames(domid, vec![table]))
    }

    fn hvm_param(&self, domid: DomId, param: HvmParam) -> Result<u64> {
        self.on_domain("hvm_param", domid, 1, |domain| {
            Ok(domain
                .params
                .get(&(param as u32))
                .copied()
                .unwrap_or_default())
        })
    }

    fn set_hvm_param(&self, domid: DomId, param: HvmParam, value: u64) -> Result<()> {
        self.set_hvm_params(domid, &[(param, value)])
    }

    fn set_hvm_params(&self, domid: DomId, params: &[(HvmParam, u64)]) -> Result<()> {
        self.on_domain("set_hvm_params", domid, params.len(), |domain| {
            domain
                .params
                .extend(params.iter().map(|(param, value)| (*param as u32, *value)));
            Ok(())
        })
    }

    fn alloc_unbound(&self, domid: DomId, remote: DomId) -> Result<EvtchnPort> {
        self.on_domain("alloc_unbound", domid, 1, |domain| {
            Ok(domain.open_port(remote))
        })
    }

    fn close_event_channels(&self, domid: DomId) -> Result<()> {
        self.on_domain("close_event_channels", domid, 1, |domain| {
            if domain.pauses == 0 {
                return Err(Errno::EINVAL);
            }
            domain.ports.clear();
            Ok(())
        })
    }
}

fn info(domid: DomId, domain: &ModelDomain) -> DomainInfo {
    let hvm = domain.kind != GuestKind::Pv;
    DomainInfo {
        domid,
        flags: DomainFlags {
            hvm,
            hap: hvm,
            paused: domain.pauses > 0,
            // The control domain always runs: it makes the call.
            running: domid == DomId::ZERO,
            blocked: domain.is_running() && domid != DomId::ZERO,
            shutdown: domain.shutdown.is_some(),
            dying: domain.dying,
            ..DomainFlags::default()
        },
        shutdown_reason: domain.shutdown,
        tot_pages: domain.tot_pages,
        max_pages: domain.max_pages,
        outstanding_pages: domain.claimed_pages,
        shr_pages: 0,
        paged_pages: 0,
        shared_info_frame: Gfn(domain.shared_info.0),
        cpu_time_ns: domain.time_ns(),
        nr_online_vcpus: domain.nr_online_vcpus,
        max_vcpu_id: domain.nr_vcpus.checked_sub(1),
        ssidref: domain.ssidref,
        handle: domain.handle,
        cpupool: domain.cpupool,
        // The local APIC; and the HPET, which stands for all that HVM has.
        emulation_flags: match domain.kind {
            GuestKind::Pv => 0,
            GuestKind::Pvh => 1,
            GuestKind::Hvm => 3,
        },
    }
}
