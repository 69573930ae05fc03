//! The host's CPUs and their NUMA nodes.

use xen_port::Hypervisor;

use crate::EngineError;

/// Each CPU that is online, and its node.
pub fn of(hv: &dyn Hypervisor) -> Result<Vec<(u32, u32)>, EngineError> {
    let cpus = hv.cpu_topology()?;
    Ok((0..)
        .zip(cpus)
        .filter_map(|(cpu, topology)| topology.location.map(|(_, _, node)| (cpu, node)))
        .collect())
}
