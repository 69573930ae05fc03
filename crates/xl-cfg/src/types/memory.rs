//! The size of a guest's memory, and how Xen maps it.

use serde::{Deserialize, Serialize};

use super::vnuma::VirtualNode;
use crate::diag::{Code, Diagnostic};
use crate::reader::{MIB, Reader};

/// Memory of a guest without a memory setting, in MiB.
const DEFAULT_MIB: u64 = 32;
/// 4 PiB, in MiB: x86 physical addresses have 52 bits.
pub(crate) const MAX_MIB: i64 = 1 << 32;

/// The guest's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory at the start, in MiB: `memory`, else `maxmem`, else 32.
    pub target_mib: u64,
    /// The most that it can have, in MiB: `maxmem`, else the sum of the virtual nodes, else `memory`.
    pub max_mib: u64,
    /// Memory for page tables, in MiB (`shadow_memory`).
    pub shadow_mib: Option<u64>,
    /// Whether page tables are nested in hardware (`hap`).
    pub hap: Option<bool>,
    /// Whether shadow page tables may be out of sync (`oos`).
    pub out_of_sync: Option<bool>,
    /// The virtual NUMA nodes (`vnuma`).
    pub vnuma: Vec<VirtualNode>,
}

impl Memory {
    pub(crate) fn read(reader: &mut Reader<'_>, vnuma: Vec<VirtualNode>) -> Self {
        let target_mib = read_mib(reader, "memory");
        let max_mib = read_mib(reader, "maxmem");
        check_order(reader, target_mib, max_mib);
        let nodes_mib = (!vnuma.is_empty()).then(|| vnuma.iter().map(|node| node.size_mib).sum());
        check_nodes(reader, nodes_mib, max_mib);
        let max_mib = max_mib
            .or(nodes_mib)
            .or(target_mib)
            .unwrap_or_else(|| default_mib(reader));
        Self {
            target_mib: target_mib.unwrap_or(max_mib),
            max_mib,
            shadow_mib: read_shadow_mib(reader),
            hap: reader.flag("hap"),
            out_of_sync: reader.flag("oos"),
            vnuma,
        }
    }
}

/// The default memory. Adds a warning, because few users want so little.
fn default_mib(reader: &mut Reader<'_>) -> u64 {
    if !reader.diags.has_errors() {
        let message = format!("there is no `memory`: the guest gets {DEFAULT_MIB} MiB");
        let warning = Diagnostic::warning(Code::Missing, None, message);
        reader
            .diags
            .push(warning.help("write `memory = 512` for 512 MiB"));
    }
    DEFAULT_MIB
}

/// A size in MiB, at least 1.
pub(crate) fn read_mib(reader: &mut Reader<'_>, key: &str) -> Option<u64> {
    reader
        .number(key, MIB, 1..=MAX_MIB)
        .and_then(|number| u64::try_from(number).ok())
}

/// 0 leaves it to the toolstack, as in libxl.
fn read_shadow_mib(reader: &mut Reader<'_>) -> Option<u64> {
    reader
        .number("shadow_memory", MIB, 0..=MAX_MIB)
        .and_then(|number| u64::try_from(number).ok())
        .filter(|&size| size != 0)
}

fn check_order(reader: &mut Reader<'_>, target_mib: Option<u64>, max_mib: Option<u64>) {
    let (Some(target), Some(max)) = (target_mib, max_mib) else {
        return;
    };
    let (Some(target_span), Some(max_span)) = (reader.span("memory"), reader.span("maxmem")) else {
        return;
    };
    if max < target {
        let message = format!("`maxmem` is {max} MiB, less than the {target} MiB of `memory`");
        reader.diags.push(
            Diagnostic::error(Code::Conflict, max_span, message)
                .note_at(target_span, "`memory` is set here")
                .help("`memory` is what the guest starts with, `maxmem` the most that it can have"),
        );
    }
}

fn check_nodes(reader: &mut Reader<'_>, nodes_mib: Option<u64>, max_mib: Option<u64>) {
    let (Some(nodes), Some(max), Some(span)) = (nodes_mib, max_mib, reader.span("vnuma")) else {
        return;
    };
    if nodes != max {
        let message =
            format!("the virtual nodes have {nodes} MiB together, `maxmem` says {max} MiB");
        reader.error(
            Code::Conflict,
            span,
            message,
            "make them equal, or leave `maxmem` out",
        );
    }
}
