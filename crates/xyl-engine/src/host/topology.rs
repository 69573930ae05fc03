//! CPUs of the host and their NUMA nodes.

use xen_port::Hypervisor;

use crate::EngineError;

/// Returns each online CPU and its node. If Xen knows no CPU's node, as under an emulator, all are in node 0.
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
