//! Facts about the host, as Xen reports them, for `xyl info`.

use xen_port::{CpuMap, Hypervisor, PhysInfo, SchedulerId, VersionInfo};

use crate::EngineError;

/// The facts that `xyl info` prints.
#[derive(Clone, Debug)]
pub struct HostInfo {
    /// Xen's version and build.
    pub version: VersionInfo,
    /// CPUs, memory and capabilities.
    pub phys: PhysInfo,
    /// Scheduler of the default CPU pool.
    pub scheduler: SchedulerId,
    /// Number of online CPUs in no CPU pool.
    pub nr_free_cpus: u32,
    /// Number of pages that memory sharing has freed.
    pub sharing_freed_pages: u64,
    /// Number of shared pages.
    pub sharing_used_pages: u64,
}

/// Reads all facts from Xen.
pub fn info(hv: &dyn Hypervisor) -> Result<HostInfo, EngineError> {
    let phys = hv.phys_info()?;
    let (sharing_freed_pages, sharing_used_pages) = hv.sharing_pages()?;
    let pooled: CpuMap = hv
        .cpu_pools()?
        .iter()
        .flat_map(|pool| pool.cpus.iter().collect::<Vec<_>>())
        .collect();
    Ok(HostInfo {
        version: hv.version()?,
        scheduler: hv.scheduler_id()?,
        nr_free_cpus: phys.nr_cpus.saturating_sub(pooled.len()),
        sharing_freed_pages,
        sharing_used_pages,
        phys,
    })
}
