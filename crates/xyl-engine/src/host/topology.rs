//! The host's CPUs and their NUMA nodes.

use xen_port::Hypervisor;

use crate::EngineError;

/// Each CPU that is online, and its node. A Xen that knows no CPU's place at all (as under an emulator)
/// has its CPUs in node 0.
pub fn of(hv: &dyn Hypervisor) -> Result<Vec<(u32, u32)>, EngineError> {
    let known: Vec<(u32, u32)> = (0..)
        .zip(hv.cpu_topology()?)
        .filter_map(|(cpu, topology)| topology.location.map(|(_, _, node)| (cpu, node)))
        .collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let nr_cpus = hv.phys_info()?.nr_cpus;
    Ok((0..nr_cpus).map(|cpu| (cpu, 0)).collect())
}
