//! Facts about Xen and the host, as `xyl info --json` and `/v1/host` show them.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use xen_port::{CpuTopology, NumaNode, PhysCaps};

use crate::host::info::HostInfo;

/// A key and its value. A number stays a number in JSON.
pub type Entry = (&'static str, Value);

/// The names of domain 0's kernel (uname(2)): host, release, version, machine.
pub type KernelNames<'u> = [Cow<'u, str>; 4];

/// All facts, in the order in which xl prints them.
pub fn entries(info: &HostInfo, names: &KernelNames<'_>) -> Vec<Entry> {
    let keys = ["host", "release", "version", "machine"];
    let values = names.iter().map(|name| Value::from(name.as_ref()));
    let mut entries: Vec<Entry> = keys.into_iter().zip(values).collect();
    entries.extend(cpu_entries(info));
    entries.extend(memory_entries(info));
    entries.extend(xen_entries(info));
    entries.push(("xend_config_format", Value::from(4)));
    entries
}

fn cpu_entries(info: &HostInfo) -> Vec<Entry> {
    let phys = &info.phys;
    let mhz = f64::from(phys.cpu_khz) / 1000.0;
    let caps: Vec<String> = phys
        .hw_caps
        .iter()
        .map(|word| format!("{word:08x}"))
        .collect();
    vec![
        ("nr_cpus", Value::from(phys.nr_cpus)),
        ("max_cpu_id", Value::from(phys.max_cpu_id)),
        ("nr_nodes", Value::from(phys.nr_nodes)),
        ("cores_per_socket", Value::from(phys.cores_per_socket)),
        ("threads_per_core", Value::from(phys.threads_per_core)),
        ("cpu_mhz", Value::from(mhz)),
        ("hw_caps", Value::from(caps.join(":"))),
        ("virt_caps", Value::from(virt_caps(phys.caps))),
    ]
}

/// The capabilities as text, with a space before each.
fn virt_caps(caps: PhysCaps) -> String {
    let words = [
        (caps.pv, "pv"),
        (caps.hvm, "hvm"),
        (caps.hvm && caps.hvm_directio, "hvm_directio"),
        (caps.pv && caps.hvm_directio, "pv_directio"),
        (caps.hap, "hap"),
        (caps.shadow, "shadow"),
        (caps.iommu_hap_pt_share, "iommu_hap_pt_share"),
        (caps.vmtrace, "vmtrace"),
        (caps.vpmu, "vpmu"),
        (caps.gnttab_v1, "gnttab-v1"),
        (caps.gnttab_v2, "gnttab-v2"),
    ];
    words
        .iter()
        .filter(|(has, _)| *has)
        .map(|(_, word)| format!(" {word}"))
        .collect()
}

fn memory_entries(info: &HostInfo) -> Vec<Entry> {
    let phys = &info.phys;
    let mib = |pages: u64| Value::from(pages / 256);
    vec![
        ("total_memory", mib(phys.total_pages)),
        (
            "free_memory",
            mib(phys.free_pages.saturating_sub(phys.outstanding_pages)),
        ),
        ("sharing_freed_memory", mib(info.sharing_freed_pages)),
        ("sharing_used_memory", mib(info.sharing_used_pages)),
        ("outstanding_claims", mib(phys.outstanding_pages)),
        ("free_cpus", Value::from(info.nr_free_cpus)),
    ]
}

fn xen_entries(info: &HostInfo) -> Vec<Entry> {
    let xen = &info.version;
    vec![
        ("xen_major", Value::from(xen.major)),
        ("xen_minor", Value::from(xen.minor)),
        ("xen_extra", Value::from(xen.extra.as_str())),
        (
            "xen_version",
            Value::from(format!("{}.{}{}", xen.major, xen.minor, xen.extra)),
        ),
        ("xen_caps", Value::from(xen.capabilities.as_str())),
        ("xen_scheduler", Value::from(info.scheduler.name())),
        ("xen_pagesize", Value::from(xen.page_size_bytes)),
        (
            "platform_params",
            Value::from(format!("virt_start={:#x}", xen.virt_start)),
        ),
        ("xen_changeset", Value::from(xen.changeset.as_str())),
        ("xen_commandline", Value::from(xen.command_line.as_str())),
        ("cc_compiler", Value::from(xen.compiler.as_str())),
        ("cc_compile_by", Value::from(xen.compile_by.as_str())),
        (
            "cc_compile_domain",
            Value::from(xen.compile_domain.as_str()),
        ),
        ("cc_compile_date", Value::from(xen.compile_date.as_str())),
        ("build_id", Value::from(xen.build_id.as_str())),
    ]
}

/// Facts as an object, with the topology if it was read.
pub fn to_json(entries: &[Entry], topology: Option<&(Vec<CpuTopology>, Vec<NumaNode>)>) -> Value {
    let mut object: Map<String, Value> = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), trimmed(value)))
        .collect();
    if let Some((cpus, nodes)) = topology {
        object.insert("cpu_topology".to_owned(), cpus_json(cpus));
        object.insert("numa_info".to_owned(), nodes_json(nodes));
    }
    Value::Object(object)
}

fn trimmed(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(text.trim_start()),
        other => other.clone(),
    }
}

fn cpus_json(cpus: &[CpuTopology]) -> Value {
    let online = cpus.iter().enumerate().filter_map(|(cpu, topology)| {
        let (core, socket, node) = topology.location?;
        Some(json!({"cpu": cpu, "core": core, "socket": socket, "node": node}))
    });
    Value::Array(online.collect())
}

fn nodes_json(nodes: &[NumaNode]) -> Value {
    let nodes = nodes.iter().map(|node| {
        json!({
            "node": node.id,
            "memory_mib": node.size_bytes >> 20,
            "free_mib": node.free_bytes >> 20,
            "distances": node.distances,
        })
    });
    Value::Array(nodes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abilities_are_named_as_xl_names_them() {
        let caps = PhysCaps {
            pv: true,
            hvm: true,
            hap: true,
            gnttab_v1: true,
            ..PhysCaps::default()
        };
        assert_eq!(virt_caps(caps), " pv hvm hap gnttab-v1");
        assert_eq!(virt_caps(PhysCaps::default()), "");
    }
}
