//! The requests of the port to the hypervisor, carried out by the model.

use std::time::Instant;

use xen_port::{
    CpuMap, CpuPolicy, CpuPool, CpuTopology, CreateDomain, DomId, DomainFlags, DomainInfo,
    E820Entry, Errno, EvtchnPort, FrameKind, Gfn, GuestKind, GuestMemory, HostResource, HvError,
    HvmBootCpu, HvmParam, Hypervisor, Mfn, NumaNode, PAGE_SIZE, PageTableLevel, Parameter, PciSbdf,
    Pfn, PhysInfo, PopulateFlags, PvBootCpu, Result, SchedulerGlobals, SchedulerId,
    SchedulerParams, ShutdownReason, Trigger, TscInfo, VcpuId, VcpuInfo, VcpuPart, VcpuRunState,
    VersionInfo,
};

use super::{Model, ModelDomain, USUAL_CAPS, VCPU_CONTEXT_BYTES, call_error};

/// The largest mode of the time-stamp counter.
const TSC_NEVER_EMULATE: u32 = 2;

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
            nr_nodes: state.nr_nodes,
            max_node_id: state.nr_nodes - 1,
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
        Ok(self.state().all_pools())
    }

    fn free_cpus(&self) -> Result<CpuMap> {
        self.called("free_cpus", None, 1)?;
        Ok(self.state().free_cpus())
    }

    fn create_cpu_pool(&self, pool: u32, scheduler: SchedulerId) -> Result<()> {
        self.on_host("create_cpu_pool", |state| {
            state.create_pool(pool, scheduler)
        })
    }

    fn destroy_cpu_pool(&self, pool: u32) -> Result<()> {
        self.on_host("destroy_cpu_pool", |state| state.destroy_pool(pool))
    }

    fn add_cpu_to_pool(&self, pool: u32, cpu: u32) -> Result<()> {
        self.on_host("add_cpu_to_pool", |state| state.add_cpu(pool, cpu))
    }

    fn remove_cpu_from_pool(&self, pool: u32, cpu: u32) -> Result<()> {
        self.on_host("remove_cpu_from_pool", |state| state.remove_cpu(pool, cpu))
    }

    fn move_to_pool(&self, domid: DomId, pool: u32) -> Result<()> {
        let op = "move_to_pool";
        self.called(op, Some(domid), 1)?;
        let moved = self.state().move_domain(domid, pool);
        moved.map_err(|errno| call_error(op, Some(domid), errno))
    }

    fn cpu_topology(&self) -> Result<Vec<CpuTopology>> {
        self.called("cpu_topology", None, 1)?;
        let state = self.state();
        let cpus_per_node = state.nr_cpus.div_ceil(state.nr_nodes).max(1);
        let place = |core| CpuTopology {
            location: Some((core, 0, core / cpus_per_node)),
        };
        Ok((0..state.nr_cpus).map(place).collect())
    }

    fn numa_nodes(&self) -> Result<Vec<NumaNode>> {
        self.called("numa_nodes", None, 1)?;
        let state = self.state();
        let share = |pages: u64| pages * PAGE_SIZE as u64 / u64::from(state.nr_nodes);
        let node = |id| NumaNode {
            id,
            size_bytes: share(state.total_pages),
            free_bytes: share(state.free_pages),
            distances: (0..state.nr_nodes)
                .map(|other| if other == id { 10 } else { 20 })
                .collect(),
        };
        Ok((0..state.nr_nodes).map(node).collect())
    }

    fn sharing_pages(&self) -> Result<(u64, u64)> {
        Ok((0, 0))
    }

    fn send_debug_keys(&self, keys: &str) -> Result<()> {
        self.on_host("send_debug_keys", |state| {
            state.type_keys(keys);
            Ok(())
        })
    }

    fn flask_is_enforcing(&self) -> Result<bool> {
        self.on_host("flask_is_enforcing", |state| {
            state.flask().map(|mode| *mode)
        })
    }

    fn set_flask_enforcing(&self, enforcing: bool) -> Result<()> {
        self.on_host("set_flask_enforcing", |state| {
            *state.flask()? = enforcing;
            Ok(())
        })
    }

    fn load_flask_policy(&self, policy: &[u8]) -> Result<()> {
        /// The first bytes of a policy (`SELINUX_MAGIC`, 0xf97cff8c).
        const MAGIC: [u8; 4] = 0xf97c_ff8c_u32.to_le_bytes();
        self.on_host("load_flask_policy", |state| {
            state.flask()?;
            match policy.starts_with(&MAGIC) {
                true => Ok(()),
                false => Err(Errno::EINVAL),
            }
        })
    }

    fn parameter(&self, name: &str) -> Result<Parameter> {
        self.on_host("parameter", |state| state.parameter(name))
    }

    fn set_parameter(&self, name: &str, value: &[u8]) -> Result<()> {
        self.on_host("set_parameter", |state| state.set_parameter(name, value))
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
        // Like Xen, continues after the last domid.
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
        domain.hvm_pirq = request.hvm_pirq;
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
        state.release_devices(domid);
        Ok(())
    }

    fn assign_pci(&self, domid: DomId, device: PciSbdf, _is_relaxed: bool) -> Result<()> {
        let op = "assign_pci";
        self.called(op, Some(domid), 1)?;
        let assigned = self.state().assign_pci(domid, device);
        assigned.map_err(|errno| call_error(op, Some(domid), errno))
    }

    fn deassign_pci(&self, domid: DomId, device: PciSbdf) -> Result<()> {
        let op = "deassign_pci";
        self.called(op, Some(domid), 1)?;
        let deassigned = self.state().deassign_pci(domid, device);
        deassigned.map_err(|errno| call_error(op, Some(domid), errno))
    }

    fn set_permission(&self, domid: DomId, resource: HostResource, is_allowed: bool) -> Result<()> {
        let op = "set_permission";
        self.on_domain(op, domid, 1, |_| Ok(()))?;
        let permissions = &mut self.state().permissions;
        match is_allowed {
            true => permissions.insert((domid, resource)),
            false => permissions.remove(&(domid, resource)),
        };
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

    /// Like Xen, does nothing to a domain that has not shut down.
    fn resume_domain(&self, domid: DomId) -> Result<()> {
        self.on_domain("resume_domain", domid, 1, |domain| {
            domain.shutdown = None;
            Ok(())
        })
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

    /// Like Xen, restricts an affinity to existing CPUs, and refuses an empty result.
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
            if domain.kind == GuestKind::Pv {
                return Err(Errno::EINVAL);
            }
            domain.hvm_cpu = Some(*cpu);
            Ok(())
        })
    }

    fn set_vcpu_context(&self, domid: DomId, vcpu: VcpuId, context: &[u8]) -> Result<()> {
        self.on_domain("set_vcpu_context", domid, 1, |domain| {
            if vcpu.0 >= domain.nr_vcpus || context.len() != VCPU_CONTEXT_BYTES {
                return Err(Errno::EINVAL);
            }
            domain.registers.insert(vcpu.0, context.to_vec());
            Ok(())
        })
    }

    /// The registers of an existing vCPU: each byte is its number, until a tool sets them.
    fn vcpu_context(&self, domid: DomId, vcpu: VcpuId) -> Result<Option<Vec<u8>>> {
        self.on_domain("vcpu_context", domid, 1, |domain| {
            let set = domain.registers.get(&vcpu.0).cloned();
            let is_there = vcpu.0 < domain.nr_vcpus;
            Ok(is_there.then(|| set.unwrap_or_else(|| vec![vcpu.0 as u8; VCPU_CONTEXT_BYTES])))
        })
    }

    fn hvm_context(&self, domid: DomId) -> Result<Vec<u8>> {
        self.on_domain("hvm_context", domid, 1, |domain| domain.hvm_records())
    }

    fn set_hvm_context(&self, domid: DomId, records: &[u8]) -> Result<()> {
        self.on_domain("set_hvm_context", domid, records.len(), |domain| {
            domain.load_hvm_records(records)
        })
    }

    fn pv_vcpu_state(&self, domid: DomId, vcpu: VcpuId, part: VcpuPart) -> Result<Vec<u8>> {
        self.on_domain("pv_vcpu_state", domid, 1, |domain| {
            domain.vcpu_part(vcpu.0, part)
        })
    }

    fn set_pv_vcpu_state(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        part: VcpuPart,
        state: &[u8],
    ) -> Result<()> {
        self.on_domain("set_pv_vcpu_state", domid, state.len(), |domain| {
            domain.load_vcpu_part(vcpu.0, part, state)
        })
    }

    fn tsc_info(&self, domid: DomId) -> Result<TscInfo> {
        self.on_domain("tsc_info", domid, 1, |domain| {
            Ok(TscInfo {
                mode: domain.tsc_mode,
                ..domain.tsc
            })
        })
    }

    fn set_tsc_info(&self, domid: DomId, tsc: &TscInfo) -> Result<()> {
        self.on_domain("set_tsc_info", domid, 1, |domain| {
            if tsc.mode > TSC_NEVER_EMULATE {
                return Err(Errno::EINVAL);
            }
            domain.tsc_mode = tsc.mode;
            domain.tsc = *tsc;
            Ok(())
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

    fn set_tsc_mode(&self, domid: DomId, mode: u32) -> Result<()> {
        self.on_domain("set_tsc_mode", domid, 1, |domain| {
            if mode > TSC_NEVER_EMULATE {
                return Err(Errno::EINVAL);
            }
            domain.tsc_mode = mode;
            Ok(())
        })
    }

    fn set_time_offset(&self, domid: DomId, offset_s: i64) -> Result<()> {
        self.on_domain("set_time_offset", domid, 1, |domain| {
            domain.time_offset_s = offset_s;
            Ok(())
        })
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
            // As in Xen's `p2m_pod_set_mem_target`: the balloon driver frees the rest.
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

    fn maximum_gpfn(&self, domid: DomId) -> Result<Gfn> {
        self.on_domain("maximum_gpfn", domid, 1, |domain| {
            let last = domain.extents.iter().next_back();
            let last = last.map(|(first, (order, _))| first + (1 << order) - 1);
            Ok(Gfn(last.unwrap_or_default()))
        })
    }

    fn frame_kinds(&self, domid: DomId, frames: &[Gfn]) -> Result<Vec<FrameKind>> {
        let op = "frame_kinds";
        self.called(op, Some(domid), frames.len())?;
        let kinds = self.state().kinds(domid, frames);
        kinds.map_err(|errno| call_error(op, Some(domid), errno))
    }

    fn remove_pages(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        self.on_domain("remove_pages", domid, pages.len(), |domain| {
            pages.iter().try_for_each(|page| domain.remove_page(*page))
        })?;
        self.state().free_pages += pages.len() as u64;
        Ok(())
    }

    fn track_writes(&self, domid: DomId) -> Result<()> {
        self.on_domain("track_writes", domid, 1, |domain| domain.track())
    }

    fn stop_tracking_writes(&self, domid: DomId) -> Result<()> {
        self.on_domain("stop_tracking_writes", domid, 1, |domain| {
            domain.written = None;
            Ok(())
        })
    }

    fn take_written_pages(&self, domid: DomId, nr_pages: u64, _is_last: bool) -> Result<Vec<u8>> {
        self.on_domain("take_written_pages", domid, nr_pages as usize, |domain| {
            domain.take_written(nr_pages)
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
            for (param, value) in params {
                check_param(domain, *param, *value)?;
                domain.params.insert(*param as u32, *value);
            }
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

/// The checks of `hvm_allow_set_param` and `hvm_set_param` in Xen's `xen/arch/x86/hvm/hvm.c`, for a tool.
fn check_param(
    domain: &ModelDomain,
    param: HvmParam,
    value: u64,
) -> std::result::Result<(), Errno> {
    const TIMER_MODE_MAX: u64 = 3;
    const VIRIDIAN_BASE: u64 = 1;
    const VIRIDIAN_ALL: u64 = 0x1fff;
    const IOREQ_SERVER_PAGES_MAX: u64 = 64;
    const SHUTDOWN_MAX: u64 = 5;
    let old = domain.params.get(&(param as u32)).copied().unwrap_or(0);
    let once = matches!(
        param,
        HvmParam::Viridian
            | HvmParam::IoreqPfn
            | HvmParam::BufIoreqPfn
            | HvmParam::IoreqServerPfn
            | HvmParam::NrIoreqServerPages
            | HvmParam::Altp2m
            | HvmParam::McaCap
    );
    if once && old != 0 && old != value {
        return Err(Errno::EEXIST);
    }
    let is_valid = match param {
        // Gone from Xen.
        HvmParam::PaeEnabled | HvmParam::NestedHvm => false,
        HvmParam::TimerMode => value <= TIMER_MODE_MAX,
        HvmParam::Viridian => value & VIRIDIAN_BASE != 0 && value & !VIRIDIAN_ALL == 0,
        HvmParam::AcpiSState => matches!(value, 0 | 3),
        HvmParam::NrIoreqServerPages => (1..=IOREQ_SERVER_PAGES_MAX).contains(&value),
        HvmParam::TripleFaultReason => value <= SHUTDOWN_MAX,
        HvmParam::X87FipWidth => matches!(value, 0 | 4 | 8),
        _ => true,
    };
    match (domain.kind, is_valid) {
        (GuestKind::Pvh | GuestKind::Hvm, true) => Ok(()),
        _ => Err(Errno::EINVAL),
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
        emulation_flags: domain.emulation_flags(),
    }
}
