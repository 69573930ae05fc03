//! Changes of CPU pools.
//!
//! Xen has the pools; xenstore has their names, in the nodes of libxl (`/local/pool/ID/name` and `uuid`). A new pool's name is
//! written before Xen makes the pool, and removed after Xen has destroyed it. So a process that dies leaves no pool without a
//! name. It may leave a name without a pool, which no tool looks at, and which the next pool of that number replaces.

use std::time::Duration;

use os_port::Lock;
use uuid::Uuid;
use xen_port::{CpuMap, DomId, DomainInfo, Errno, HvError, Hypervisor, SchedulerId};
use xenstore::{Batch, Path, Tree};
use xl_cfg::types::{CpuList, CpuRange};
use xl_cfg::{PoolCpus, PoolScheduler};

use crate::control::vcpus;
use crate::error::PoolError;
use crate::host::pools::{Pool, Pools};
use crate::host::topology;
use crate::{EngineError, Host};

/// Time limit of the wait for another process that changes the pools.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// Number of pool numbers that are tried. Another toolstack may take one just before.
const NUMBERS_TRIED: u32 = 16;
/// Time limit for domain 0 to put vCPUs offline, as in xl.
const VCPUS_LIMIT: Duration = Duration::from_secs(10);
/// Interval between two looks at domain 0's vCPUs.
const VCPUS_RECHECK: Duration = Duration::from_millis(200);

/// A CPU pool to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPool {
    /// Name of the pool.
    pub name: String,
    /// Scheduler of the pool.
    pub scheduler: SchedulerId,
    /// CPUs of the pool. They must be free.
    pub cpus: CpuMap,
}

/// CPUs that could not be added to a pool or taken out of it, each with the error.
pub type Refused = Vec<(u32, HvError)>;

/// Xen's number of a scheduler in a pool's configuration.
pub fn scheduler_id(scheduler: PoolScheduler) -> SchedulerId {
    match scheduler {
        PoolScheduler::Credit => SchedulerId::Credit,
        PoolScheduler::Credit2 => SchedulerId::Credit2,
        PoolScheduler::Arinc653 => SchedulerId::Arinc653,
        PoolScheduler::Rtds => SchedulerId::Rtds,
        PoolScheduler::Null => SchedulerId::Null,
    }
}

/// The CPUs that a pool's configuration names. Each that it lists must be online and free.
///
/// # Errors
/// [`PoolError::NoSuchCpu`], [`PoolError::InPool`], [`PoolError::NoFreeCpu`]; those of Xen.
pub fn wanted_cpus(
    hv: &dyn Hypervisor,
    pools: &Pools,
    wanted: &PoolCpus,
) -> Result<CpuMap, EngineError> {
    let free = hv.free_cpus()?;
    match wanted {
        PoolCpus::None => Ok(CpuMap::new()),
        PoolCpus::FreeOfNodes(nodes) => {
            let of_nodes = free_of_nodes(&topology::of(hv)?, &free, nodes);
            match of_nodes.is_empty() {
                true => Err(PoolError::NoFreeCpu.into()),
                false => Ok(of_nodes),
            }
        }
        PoolCpus::Listed(list) => {
            let cpus = listed(hv, list)?;
            let taken = cpus.iter().find(|cpu| !free.contains(*cpu));
            match taken {
                Some(cpu) => Err(not_free(pools, cpu)),
                None => Ok(cpus),
            }
        }
    }
}

fn free_of_nodes(places: &[(u32, u32)], free: &CpuMap, nodes: &[u32]) -> CpuMap {
    let of_nodes = places.iter().filter(|(_, node)| nodes.contains(node));
    of_nodes
        .map(|(cpu, _)| *cpu)
        .filter(|cpu| free.contains(*cpu))
        .collect()
}

fn not_free(pools: &Pools, cpu: u32) -> EngineError {
    match pools.iter().find(|pool| pool.cpus.contains(cpu)) {
        Some(pool) => PoolError::InPool {
            cpu,
            pool: pool.shown(),
        },
        None => PoolError::NoSuchCpu(cpu),
    }
    .into()
}

/// The CPUs of a list. A CPU that it names by number must be online.
///
/// # Errors
/// [`PoolError::NoSuchCpu`]; those of Xen.
pub fn listed(hv: &dyn Hypervisor, list: &CpuList) -> Result<CpuMap, EngineError> {
    let places = topology::of(hv)?;
    let cpus: CpuMap = list.resolve(&places).into_iter().collect();
    let named = list.0.iter().filter(|step| !step.exclude);
    let mut numbers = named.flat_map(|step| match step.range {
        CpuRange::Cpus { first, last } => first..=last,
        #[allow(clippy::reversed_empty_ranges)]
        CpuRange::All | CpuRange::Nodes { .. } => 1..=0,
    });
    let is_there = |wanted: u32| places.iter().any(|(cpu, _)| *cpu == wanted);
    match numbers.find(|cpu| !is_there(*cpu)) {
        Some(missing) => Err(PoolError::NoSuchCpu(missing).into()),
        None => Ok(cpus),
    }
}

/// Fails if a pool cannot get this name. `own` is the number of the pool, where it is there already.
///
/// # Errors
/// [`PoolError::BadName`], [`PoolError::NameTaken`].
pub fn check_name(pools: &Pools, name: &str, own: Option<u32>) -> Result<(), EngineError> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    let has_letter = name.chars().any(char::is_alphabetic);
    if name.len() > PoolError::NAME_MAX_BYTES || !has_letter || !name.chars().all(is_plain) {
        return Err(PoolError::BadName(name.to_owned()).into());
    }
    let has_it = |pool: &&Pool| pool.name.as_deref() == Some(name) && Some(pool.id) != own;
    match pools.iter().find(has_it) {
        Some(pool) => Err(PoolError::NameTaken {
            name: name.to_owned(),
            pool: pool.id,
        }
        .into()),
        None => Ok(()),
    }
}

/// Makes a CPU pool. Returns its number. If it cannot get one of its CPUs, it is taken back.
///
/// # Errors
/// Those of [`check_name`]; [`PoolError::NoScheduler`], [`PoolError::TooManyPools`], [`PoolError::CpuRefused`]; those of Xen and
/// xenstore.
pub fn create(host: &mut Host, new: &NewPool) -> Result<u32, EngineError> {
    let lock = lock(host)?;
    let id = create_locked(host, new)?;
    drop(lock);
    Ok(id)
}

fn create_locked(host: &mut Host, new: &NewPool) -> Result<u32, EngineError> {
    let pools = Pools::read(&*host.hv, &mut host.store)?;
    check_name(&pools, &new.name, None)?;
    let first = pools.iter().map(|pool| pool.id).max();
    let id = create_named(host, new, first.map_or(1, |id| id.saturating_add(1)))?;
    for cpu in new.cpus.iter() {
        if let Err(error) = host.hv.add_cpu_to_pool(id, cpu) {
            take_back(host, id, new)?;
            return Err(PoolError::CpuRefused {
                pool: new.name.clone(),
                cpu,
                cause: error.to_string(),
            }
            .into());
        }
    }
    Ok(id)
}

/// Writes the name, then makes the pool: with the number `first`, or the next that is free.
fn create_named(host: &mut Host, new: &NewPool, first: u32) -> Result<u32, EngineError> {
    for id in (first..).take(NUMBERS_TRIED as usize) {
        if !write_name(host, id, &new.name, false)? {
            let pools = Pools::read(&*host.hv, &mut host.store)?;
            if pools.iter().any(|pool| pool.id == id) {
                continue;
            }
            // A process that has died left the name.
            write_name(host, id, &new.name, true)?;
        }
        match host.hv.create_cpu_pool(id, new.scheduler) {
            Ok(()) => return Ok(id),
            // Another toolstack has made this one meanwhile. It writes the pool's name after that.
            Err(error) if error.is(Errno::EEXIST) => {}
            Err(error) => {
                host.store.rm(&folder(id)?)?;
                return Err(match error.errno() {
                    Some(Errno::ENOENT) => PoolError::NoScheduler(new.scheduler.name()).into(),
                    Some(Errno::ENOSPC) => PoolError::TooManyPools.into(),
                    _ => error.into(),
                });
            }
        }
    }
    Err(PoolError::TooManyPools.into())
}

/// Names the next pool of this number. Returns false if the number has a name, unless that is to be replaced.
fn write_name(host: &mut Host, id: u32, name: &str, replaces: bool) -> Result<bool, EngineError> {
    let folder = folder(id)?;
    let name_node = folder.join("name").map_err(xenstore::Error::from)?;
    let mut batch = Batch::new();
    let uuid = Uuid::new_v4().hyphenated().to_string();
    batch.write(
        &folder.join("uuid").map_err(xenstore::Error::from)?,
        uuid.as_bytes(),
    );
    batch.write(&name_node, name.as_bytes());
    let written = host.store.transaction(|transaction| {
        if !replaces && transaction.read_opt(&name_node)?.is_some() {
            return Ok(false);
        }
        transaction.run(&batch).map(|_| true)
    });
    Ok(written?)
}

/// Folder of a pool in xenstore.
fn folder(id: u32) -> Result<Path, EngineError> {
    let path = Path::new(&format!("/local/pool/{id}"));
    Ok(path.map_err(xenstore::Error::from)?)
}

/// Removes a pool that could not be made whole.
fn take_back(host: &mut Host, id: u32, new: &NewPool) -> Result<(), EngineError> {
    let pools = Pools::read(&*host.hv, &mut host.store)?;
    match pools.iter().find(|pool| pool.id == id) {
        Some(pool) => destroy_locked(host, pool),
        None => Err(EngineError::NoSuchPool(new.name.clone())),
    }
}

/// Destroys a pool without domains. Its CPUs are free then.
///
/// # Errors
/// [`PoolError::InUse`], [`PoolError::CpusStay`]; those of Xen and xenstore.
pub fn destroy(host: &mut Host, asked: &str) -> Result<(), EngineError> {
    let lock = lock(host)?;
    let pools = Pools::read(&*host.hv, &mut host.store)?;
    let pool = find(&pools, asked)?;
    check_destroy(pool)?;
    destroy_locked(host, pool)?;
    drop(lock);
    Ok(())
}

/// Fails if [`destroy`] would fail before Xen is asked.
///
/// # Errors
/// [`PoolError::InUse`].
pub fn check_destroy(pool: &Pool) -> Result<(), EngineError> {
    match pool.nr_domains {
        0 => Ok(()),
        nr_domains => Err(PoolError::InUse {
            pool: pool.shown(),
            nr_domains,
        }
        .into()),
    }
}

fn destroy_locked(host: &mut Host, pool: &Pool) -> Result<(), EngineError> {
    let refused = remove_cpus(&*host.hv, pool, &pool.cpus);
    if let Some((_, first)) = refused.first() {
        return Err(PoolError::CpusStay {
            pool: pool.shown(),
            left: refused.iter().map(|(cpu, _)| *cpu).collect(),
            cause: first.to_string(),
        }
        .into());
    }
    host.hv.destroy_cpu_pool(pool.id)?;
    Ok(host.store.rm(&folder(pool.id)?)?)
}

fn still_in(host: &Host, id: u32) -> Result<Option<CpuMap>, EngineError> {
    let pools = host.hv.cpu_pools()?;
    let found = pools.into_iter().find(|pool| pool.id == id);
    Ok(found.map(|pool| pool.cpus))
}

/// Finds a pool by number or name.
///
/// # Errors
/// [`EngineError::NoSuchPool`].
pub fn find<'p>(pools: &'p Pools, asked: &str) -> Result<&'p Pool, EngineError> {
    pools
        .find(asked)
        .ok_or_else(|| EngineError::NoSuchPool(asked.to_owned()))
}

/// Gives a pool another name.
///
/// # Errors
/// Those of [`check_name`], and of xenstore.
pub fn rename(host: &mut Host, asked: &str, name: &str) -> Result<(), EngineError> {
    let lock = lock(host)?;
    let pools = Pools::read(&*host.hv, &mut host.store)?;
    let id = find(&pools, asked)?.id;
    check_name(&pools, name, Some(id))?;
    rename_locked(host, id, name)?;
    drop(lock);
    Ok(())
}

fn rename_locked(host: &mut Host, id: u32, name: &str) -> Result<(), EngineError> {
    let node = folder(id)?.join("name").map_err(xenstore::Error::from)?;
    Ok(host.store.write(&node, name.as_bytes())?)
}

/// Adds free CPUs to a pool. Returns those that Xen refused; the others are in the pool.
pub fn add_cpus(hv: &dyn Hypervisor, pool: &Pool, cpus: &CpuMap) -> Refused {
    each(cpus, |cpu| hv.add_cpu_to_pool(pool.id, cpu))
}

/// Takes CPUs out of a pool. Returns those that Xen refused; the others are free.
pub fn remove_cpus(hv: &dyn Hypervisor, pool: &Pool, cpus: &CpuMap) -> Refused {
    each(cpus, |cpu| hv.remove_cpu_from_pool(pool.id, cpu))
}

fn each(cpus: &CpuMap, change: impl Fn(u32) -> Result<(), HvError>) -> Refused {
    cpus.iter()
        .filter_map(|cpu| Some((cpu, change(cpu).err()?)))
        .collect()
}

/// Moves a domain to another pool. Xen gives it the share and the affinity of a new domain there.
pub(crate) fn move_domain(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    info: &DomainInfo,
    pool: u32,
) -> Result<(), EngineError> {
    check_move(hv, store, info, pool)?;
    Ok(hv.move_to_pool(info.domid, pool)?)
}

/// Fails if [`move_domain`] would fail before Xen is asked.
pub(crate) fn check_move(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    info: &DomainInfo,
    pool: u32,
) -> Result<(), EngineError> {
    if info.domid == DomId::ZERO {
        return Err(EngineError::ControlDomain("moving it to another CPU pool"));
    }
    let pools = Pools::read(hv, store)?;
    let pool = find(&pools, &pool.to_string())?;
    match pool.cpus.is_empty() {
        true => Err(PoolError::NoCpus(pool.shown()).into()),
        false => Ok(()),
    }
}

/// The pools of a host whose CPUs are to be split by NUMA node: the first keeps the node of CPU 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The node of pool 0, and its CPUs.
    pub first: (u32, CpuMap),
    /// Each other node, and its CPUs.
    pub others: Vec<(u32, CpuMap)>,
}

/// Plans a split of the CPUs by NUMA node.
///
/// # Errors
/// [`PoolError::SeveralPools`]; those of Xen.
pub fn plan_split(hv: &dyn Hypervisor) -> Result<Split, EngineError> {
    let nr_pools = hv.cpu_pools()?.len();
    if nr_pools > 1 {
        return Err(PoolError::SeveralPools(nr_pools).into());
    }
    let places = topology::of(hv)?;
    let mut nodes: Vec<(u32, CpuMap)> = Vec::new();
    for (cpu, node) in places {
        match nodes.iter_mut().find(|(known, _)| *known == node) {
            Some((_, cpus)) => cpus.insert(cpu),
            None => nodes.push((node, std::iter::once(cpu).collect())),
        }
    }
    let mut nodes = nodes.into_iter();
    let first = nodes.next().ok_or(PoolError::NoFreeCpu)?;
    Ok(Split {
        first,
        others: nodes.collect(),
    })
}

/// Name of the pool of a node, as xl gives it.
pub fn node_pool_name(node: u32) -> String {
    format!("Pool-node{node}")
}

/// Makes a pool of each NUMA node. Pool 0 keeps the node of CPU 0, and domain 0 no more vCPUs than that has CPUs.
///
/// # Errors
/// Those of [`plan_split`], [`create`] and [`rename`]; [`PoolError::VcpusStay`].
pub fn split_by_node(host: &mut Host) -> Result<(), EngineError> {
    let lock = lock(host)?;
    let split = plan_split(&*host.hv)?;
    let scheduler = host.hv.scheduler_id()?;
    let (node, cpus) = &split.first;
    for cpu in host
        .hv
        .free_cpus()?
        .iter()
        .filter(|cpu| cpus.contains(*cpu))
    {
        host.hv.add_cpu_to_pool(0, cpu)?;
    }
    rename_locked(host, 0, &node_pool_name(*node))?;
    limit_vcpus(host, cpus.len())?;
    for (node, cpus) in &split.others {
        let in_first = still_in(host, 0)?.unwrap_or_default();
        for cpu in cpus.iter().filter(|cpu| in_first.contains(*cpu)) {
            host.hv.remove_cpu_from_pool(0, cpu)?;
        }
        let new = NewPool {
            name: node_pool_name(*node),
            scheduler,
            cpus: cpus.clone(),
        };
        create_locked(host, &new)?;
    }
    drop(lock);
    Ok(())
}

/// Has domain 0 use no more vCPUs than its pool has CPUs, and waits until it does so.
fn limit_vcpus(host: &mut Host, wanted: u32) -> Result<(), EngineError> {
    let online = |host: &Host| -> Result<DomainInfo, EngineError> {
        let info = host.hv.domain_info(DomId::ZERO)?;
        info.ok_or_else(|| EngineError::NoSuchDomain(DomId::ZERO.to_string()))
    };
    let mut info = online(host)?;
    if info.nr_online_vcpus <= wanted {
        return Ok(());
    }
    vcpus::set_online(&mut host.store, &info, wanted)?;
    let deadline = host.clock.now() + VCPUS_LIMIT;
    while info.nr_online_vcpus > wanted {
        if host.clock.now() >= deadline {
            return Err(PoolError::VcpusStay {
                online: info.nr_online_vcpus,
                wanted,
            }
            .into());
        }
        // No event tells of a vCPU's end.
        host.wait_for(&[], VCPUS_RECHECK)?;
        info = online(host)?;
    }
    Ok(())
}

fn lock(host: &Host) -> Result<Box<dyn Lock>, EngineError> {
    let path = host.dirs.pools_lock();
    let deadline = host.clock.now() + LOCK_LIMIT;
    let lock = host
        .files
        .lock(&path, Some(deadline))
        .map_err(|source| EngineError::io("lock", &path, source))?;
    lock.ok_or_else(|| PoolError::Busy(LOCK_LIMIT.as_secs()).into())
}
