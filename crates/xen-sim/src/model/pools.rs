//! CPU pools of the model, by the rules of Xen's `common/sched/cpupool.c`.

use std::collections::BTreeMap;

use xen_port::{CpuMap, CpuPool, DomId, Errno, SchedulerId};

use super::{Model, State};

/// The scheduler of pool 0.
pub(super) const DEFAULT_SCHEDULER: SchedulerId = SchedulerId::Credit2;

/// The pools. Pool 0 has each CPU that is not free and in no other pool.
#[derive(Default)]
pub(super) struct Pools {
    /// Pools other than number 0.
    others: BTreeMap<u32, (SchedulerId, CpuMap)>,
    free: CpuMap,
}

impl Model {
    /// Adds a CPU pool without CPUs. Pool 0 exists and has the scheduler credit2.
    pub fn add_pool(&self, id: u32, scheduler: SchedulerId) {
        let pool = (scheduler, CpuMap::new());
        self.state().pools.others.insert(id, pool);
    }

    /// The scheduler of a domain's pool; another one is refused as Xen does.
    pub(super) fn check_scheduler(&self, domid: DomId, asked: SchedulerId) -> Result<(), Errno> {
        let state = self.state();
        let domain = state.domains.get(&domid.0).ok_or(Errno::ESRCH)?;
        match state.scheduler_of(domain.cpupool) == Some(asked) {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }
}

impl State {
    pub(super) fn scheduler_of(&self, pool: u32) -> Option<SchedulerId> {
        match pool {
            0 => Some(DEFAULT_SCHEDULER),
            other => Some(self.pools.others.get(&other)?.0),
        }
    }

    pub(super) fn cpus_of(&self, pool: u32) -> Option<CpuMap> {
        match pool {
            0 => {
                let others = self.pools.others.values();
                let is_elsewhere = |cpu: &u32| others.clone().any(|pool| pool.1.contains(*cpu));
                let cpus = (0..self.nr_cpus).filter(|cpu| !self.pools.free.contains(*cpu));
                Some(cpus.filter(|cpu| !is_elsewhere(cpu)).collect())
            }
            other => Some(self.pools.others.get(&other)?.1.clone()),
        }
    }

    pub(super) fn all_pools(&self) -> Vec<CpuPool> {
        let ids = std::iter::once(0).chain(self.pools.others.keys().copied());
        ids.filter_map(|id| {
            Some(CpuPool {
                id,
                scheduler: self.scheduler_of(id)?,
                nr_domains: self.domains_of(id, |_| true),
                cpus: self.cpus_of(id)?,
            })
        })
        .collect()
    }

    fn domains_of(&self, pool: u32, counts: impl Fn(&super::ModelDomain) -> bool) -> u32 {
        let members = self.domains.values().filter(|one| one.cpupool == pool);
        members.filter(|one| counts(one)).count() as u32
    }

    pub(super) fn free_cpus(&self) -> CpuMap {
        self.pools.free.clone()
    }

    pub(super) fn create_pool(&mut self, id: u32, scheduler: SchedulerId) -> Result<(), Errno> {
        // Xen looks at the number of pools first. Pool 0 counts too.
        if self.pools.others.len() as u32 + 1 >= 2 * self.nr_cpus {
            return Err(Errno::ENOSPC);
        }
        if self.scheduler_of(id).is_some() {
            return Err(Errno::EEXIST);
        }
        if let SchedulerId::Unknown(_) = scheduler {
            return Err(Errno::ENOENT);
        }
        self.pools.others.insert(id, (scheduler, CpuMap::new()));
        Ok(())
    }

    pub(super) fn destroy_pool(&mut self, id: u32) -> Result<(), Errno> {
        let cpus = self.cpus_of(id).ok_or(Errno::ENOENT)?;
        if !cpus.is_empty() || self.domains_of(id, |_| true) > 0 {
            return Err(Errno::EBUSY);
        }
        self.pools.others.remove(&id);
        Ok(())
    }

    pub(super) fn add_cpu(&mut self, id: u32, cpu: u32) -> Result<(), Errno> {
        self.cpus_of(id).ok_or(Errno::ENOENT)?;
        if cpu >= self.nr_cpus {
            return Err(Errno::EINVAL);
        }
        if !self.pools.free.contains(cpu) {
            return Err(Errno::ENODEV);
        }
        self.pools.free.remove(cpu);
        if let Some((_, cpus)) = self.pools.others.get_mut(&id) {
            cpus.insert(cpu);
        }
        Ok(())
    }

    pub(super) fn remove_cpu(&mut self, id: u32, cpu: u32) -> Result<(), Errno> {
        let cpus = self.cpus_of(id).ok_or(Errno::ENOENT)?;
        if (id, cpu) == (0, 0) || cpu >= self.nr_cpus {
            return Err(Errno::EINVAL);
        }
        if !cpus.contains(cpu) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if cpus.len() == 1 && self.domains_of(id, |domain| !domain.dying) > 0 {
            return Err(Errno::EBUSY);
        }
        if let Some((_, cpus)) = self.pools.others.get_mut(&id) {
            cpus.remove(cpu);
        }
        self.pools.free.insert(cpu);
        Ok(())
    }

    pub(super) fn move_domain(&mut self, domid: DomId, pool: u32) -> Result<(), Errno> {
        let has_cpus = self.cpus_of(pool).is_some_and(|cpus| !cpus.is_empty());
        let all = CpuMap::all(self.nr_cpus);
        // The caller's own domain.
        if domid == DomId::ZERO {
            return Err(Errno::EPERM);
        }
        let domain = self.domains.get_mut(&domid.0).ok_or(Errno::ESRCH)?;
        if domain.cpupool == pool {
            return Ok(());
        }
        if !has_cpus {
            return Err(Errno::ENOENT);
        }
        domain.cpupool = pool;
        domain.share = (256, 0);
        domain.affinity.fill((all.clone(), all));
        Ok(())
    }
}
