//! `xyl info`: prints facts about Xen and the host.

use serde_json::{Map, Value, json};
use xen_port::{CpuTopology, NumaNode, PhysCaps};
use xyl_engine::host::info::{self, HostInfo};

use crate::complete::words;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Show facts about Xen and this host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Memory is in MiB. With a KEY only the values whose key begins so are printed.

Examples:
  xyl info
  xyl info free_memory
  xyl info -n
  xyl info --json | jq -r .xen_version

JSON: an object with xl's keys, with a KEY only those that begin so; numbers where xl prints numbers. With -n also \
cpu_topology [{cpu, core, socket, node}] and numa_info [{node, memory_mib, free_mib, distances}]"
)]
pub struct Args {
    /// Show what xenstored can do: not there yet
    #[arg(short = 'x', long)]
    xenstore: bool,
    /// Show NUMA nodes and the topology of CPUs too
    #[arg(short, long)]
    numa: bool,
    /// Print only the values whose key begins with this
    #[arg(conflicts_with = "numa", add = words(|| KEYS.map(str::to_owned).to_vec()))]
    key: Option<String>,
}

/// Names of the lines, in the order in which they are printed.
const KEYS: [&str; 34] = [
    "host",
    "release",
    "version",
    "machine",
    "nr_cpus",
    "max_cpu_id",
    "nr_nodes",
    "cores_per_socket",
    "threads_per_core",
    "cpu_mhz",
    "hw_caps",
    "virt_caps",
    "total_memory",
    "free_memory",
    "sharing_freed_memory",
    "sharing_used_memory",
    "outstanding_claims",
    "free_cpus",
    "xen_major",
    "xen_minor",
    "xen_extra",
    "xen_version",
    "xen_caps",
    "xen_scheduler",
    "xen_pagesize",
    "platform_params",
    "xen_changeset",
    "xen_commandline",
    "cc_compiler",
    "cc_compile_by",
    "cc_compile_domain",
    "cc_compile_date",
    "build_id",
    "xend_config_format",
];

/// Runs `xyl info`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if args.xenstore {
        return Err(Failure::not_there_yet(
            "`info -x` is not there yet: use `xl info -x`, which Xen 4.22 has",
        ));
    }
    let hv = context.hv()?;
    let info = info::info(hv)?;
    let topology = if args.numa {
        Some((hv.cpu_topology()?, hv.numa_nodes()?))
    } else {
        None
    };
    let entries = entries(&info, &rustix::system::uname());
    if let (Some(key), false) = (&args.key, context.json()) {
        return print_values(context, &entries, key);
    }
    if context.json() {
        let key = args.key.as_deref().unwrap_or_default();
        let chosen: Vec<Entry> = entries
            .into_iter()
            .filter(|(name, _)| name.starts_with(key))
            .collect();
        return Ok(context.out.json(&to_json(&chosen, topology.as_ref()))?);
    }
    let (host_part, xen_part) = entries.split_at(nr_host_entries(&entries));
    print_entries(context, host_part)?;
    if let Some((cpus, nodes)) = &topology {
        print_topology(context, cpus, nodes)?;
    }
    print_entries(context, xen_part)
}

/// A key and its value. A number stays a number in JSON.
type Entry = (&'static str, Value);

fn print_entries(context: &Context, entries: &[Entry]) -> Outcome {
    for (key, value) in entries {
        // The value of `virt_caps` starts with a space, because it has one before each word.
        let space = if *key == "virt_caps" { "" } else { " " };
        context
            .out
            .line(format!("{key:<23}:{space}{}", Shown::line(&text(value))))?;
    }
    Ok(())
}

/// Prints the values of the keys that begin with `key`. Like xl, it never finds `virt_caps`.
fn print_values(context: &Context, entries: &[Entry], key: &str) -> Outcome {
    for (_, value) in entries.iter().filter(|(name, _)| name.starts_with(key)) {
        context.out.line(Shown::line(text(value).trim_start()))?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // MHz, with kHz as the decimals.
        number if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or_default()),
        number => number.to_string(),
    }
}

/// Number of entries about the host. They come before the topology; those about Xen come after it.
fn nr_host_entries(entries: &[Entry]) -> usize {
    entries
        .iter()
        .position(|(key, _)| *key == "xen_major")
        .unwrap_or(entries.len())
}

fn entries(info: &HostInfo, uname: &rustix::system::Uname) -> Vec<Entry> {
    let name = |text: &std::ffi::CStr| Value::from(text.to_string_lossy());
    let mut entries = vec![
        ("host", name(uname.nodename())),
        ("release", name(uname.release())),
        ("version", name(uname.version())),
        ("machine", name(uname.machine())),
    ];
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

fn print_topology(context: &Context, cpus: &[CpuTopology], nodes: &[NumaNode]) -> Outcome {
    let out = &context.out;
    out.line("cpu_topology           :")?;
    out.line("cpu:    core    socket     node")?;
    for (cpu, topology) in cpus.iter().enumerate() {
        if let Some((core, socket, node)) = topology.location {
            out.line(format!("{cpu:3}:    {core:4}     {socket:4}     {node:4}"))?;
        }
    }
    out.line("device topology        :")?;
    out.line("device           node")?;
    out.line("No device topology data available")?;
    out.line("numa_info              :")?;
    out.line("node:    memsize    memfree    distances")?;
    for node in nodes {
        out.line(numa_row(node))?;
    }
    Ok(())
}

fn numa_row(node: &NumaNode) -> String {
    let distances: Vec<String> = node.distances.iter().map(u32::to_string).collect();
    format!(
        "{:4}:    {:6}     {:6}      {}",
        node.id,
        node.size_bytes >> 20,
        node.free_bytes >> 20,
        distances.join(",")
    )
}

fn to_json(entries: &[Entry], topology: Option<&(Vec<CpuTopology>, Vec<NumaNode>)>) -> Value {
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

    #[test]
    fn numa_rows_are_those_of_xl() {
        let node = NumaNode {
            id: 0,
            size_bytes: 6 << 30,
            free_bytes: 3 << 30,
            distances: vec![10, 21],
        };
        assert_eq!(numa_row(&node), "   0:      6144       3072      10,21");
    }
}
