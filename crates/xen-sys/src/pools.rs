//! CPU pools: their CPUs, their domains, and the CPUs in none.

use xen_abi::domctl::Bitmap;
use xen_abi::sysctl::{self, CpupoolOp, Sysctl};
use xen_abi::xen::HYPERVISOR_SYSCTL;
use xen_port::{CpuMap, CpuPool, DomId, Errno, Result, SchedulerId};
use zerocopy::FromZeros;

use crate::Xen;
use crate::host::BITMAP_BYTES;
use crate::privcmd::Site;
use crate::xen::Failure;

const OP: &str = "XEN_SYSCTL_cpupool_op";

/// Maximum number of attempts to take a CPU out of a pool while a vCPU is on it. Each moves the vCPU away.
const BUSY_ATTEMPTS: u32 = 20;

impl Xen {
    pub(crate) fn read_cpu_pools(&self) -> Result<Vec<CpuPool>> {
        let mut pools = Vec::new();
        let mut next = Some(0);
        while let Some(pool) = next.map(|id| self.cpu_pool_from(id)).transpose()?.flatten() {
            next = pool.id.checked_add(1);
            pools.push(pool);
        }
        Ok(pools)
    }

    /// The pool with this number, or with the lowest one above it.
    pub(crate) fn cpu_pool_from(&self, id: u32) -> Result<Option<CpuPool>> {
        self.with_sysctl_version(Site::host(OP), |version| {
            let found = match self.pool_and_cpus(version, sysctl::CPUPOOL_OP_INFO, id) {
                Err(Failure::Xen(Errno::ENOENT)) => return Ok(None),
                outcome => outcome?,
            };
            let (answer, cpus) = found;
            Ok(Some(CpuPool {
                id: answer.cpupool_id,
                scheduler: SchedulerId::from_number(answer.sched_id),
                nr_domains: answer.n_dom,
                cpus,
            }))
        })
    }

    pub(crate) fn read_free_cpus(&self) -> Result<CpuMap> {
        self.with_sysctl_version(Site::host(OP), |version| {
            let (_, cpus) = self.pool_and_cpus(version, sysctl::CPUPOOL_OP_FREEINFO, 0)?;
            Ok(cpus)
        })
    }

    /// An operation that answers with a bitmap of CPUs.
    fn pool_and_cpus(
        &self,
        version: u32,
        op: u32,
        pool: u32,
    ) -> std::result::Result<(CpupoolOp, CpuMap), Failure> {
        let mut call = self.privcmd.call(BITMAP_BYTES)?;
        let bitmap = call.reserve::<u8>(BITMAP_BYTES)?;
        let request = CpupoolOp {
            op,
            cpupool_id: pool,
            cpumap: Bitmap {
                bitmap: bitmap.address(),
                nr_bits: BITMAP_BYTES as u32 * 8,
                pad: 0,
            },
            ..CpupoolOp::new_zeroed()
        };
        let op = call.put(&Sysctl::new(version, sysctl::CPUPOOL_OP, &request))?;
        // SAFETY: `op` is one sysctl, `bitmap` has `nr_bits` bits.
        unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
        let cpus = CpuMap::from_bytes(&call.get_slice(&bitmap, BITMAP_BYTES)?);
        Ok((call.get(&op)?.payload(), cpus))
    }

    pub(crate) fn make_cpu_pool(&self, pool: u32, scheduler: SchedulerId) -> Result<()> {
        self.change_pool(CpupoolOp {
            op: sysctl::CPUPOOL_OP_CREATE,
            cpupool_id: pool,
            sched_id: scheduler.number(),
            ..CpupoolOp::new_zeroed()
        })
    }

    pub(crate) fn end_cpu_pool(&self, pool: u32) -> Result<()> {
        self.change_pool(CpupoolOp {
            op: sysctl::CPUPOOL_OP_DESTROY,
            cpupool_id: pool,
            ..CpupoolOp::new_zeroed()
        })
    }

    pub(crate) fn assign_cpu(&self, pool: u32, cpu: u32) -> Result<()> {
        self.change_pool(CpupoolOp {
            op: sysctl::CPUPOOL_OP_ADDCPU,
            cpupool_id: pool,
            cpu,
            ..CpupoolOp::new_zeroed()
        })
    }

    pub(crate) fn unassign_cpu(&self, pool: u32, cpu: u32) -> Result<()> {
        let request = CpupoolOp {
            op: sysctl::CPUPOOL_OP_RMCPU,
            cpupool_id: pool,
            cpu,
            ..CpupoolOp::new_zeroed()
        };
        for _ in 1..BUSY_ATTEMPTS {
            match self.change_pool(request) {
                Err(error) if error.errno() == Some(Errno::EADDRINUSE) => {}
                outcome => return outcome,
            }
        }
        self.change_pool(request)
    }

    pub(crate) fn move_domain_to_pool(&self, domid: DomId, pool: u32) -> Result<()> {
        let request = CpupoolOp {
            op: sysctl::CPUPOOL_OP_MOVEDOMAIN,
            cpupool_id: pool,
            domid: domid.0.into(),
            ..CpupoolOp::new_zeroed()
        };
        self.change_pool_at(Site::domain(OP, domid), request)
    }

    fn change_pool(&self, request: CpupoolOp) -> Result<()> {
        self.change_pool_at(Site::host(OP), request)
    }

    /// An operation that answers with no bitmap: Xen does not look at its address.
    fn change_pool_at(&self, site: Site, request: CpupoolOp) -> Result<()> {
        self.with_sysctl_version(site, |version| {
            self.run_sysctl(&Sysctl::new(version, sysctl::CPUPOOL_OP, &request))
        })
        .map(drop)
    }
}
