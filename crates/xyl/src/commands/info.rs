//! `xyl info`: prints facts about Xen and the host.

use rustix::system::Uname;
use serde_json::Value;
use xen_port::{CpuTopology, NumaNode};
use xyl_engine::host::info;
use xyl_engine::report::host::{self as report, Entry, KernelNames};

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
    let entries = report::entries(&info, &kernel_names(&rustix::system::uname()));
    if let (Some(key), false) = (&args.key, context.json()) {
        return print_values(context, &entries, key);
    }
    if context.json() {
        let key = args.key.as_deref().unwrap_or_default();
        let chosen: Vec<Entry> = entries
            .into_iter()
            .filter(|(name, _)| name.starts_with(key))
            .collect();
        return Ok(context
            .out
            .json(&report::to_json(&chosen, topology.as_ref()))?);
    }
    let (host_part, xen_part) = entries.split_at(nr_host_entries(&entries));
    print_entries(context, host_part)?;
    if let Some((cpus, nodes)) = &topology {
        print_topology(context, cpus, nodes)?;
    }
    print_entries(context, xen_part)
}

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

fn kernel_names(uname: &Uname) -> KernelNames<'_> {
    [
        uname.nodename().to_string_lossy(),
        uname.release().to_string_lossy(),
        uname.version().to_string_lossy(),
        uname.machine().to_string_lossy(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
