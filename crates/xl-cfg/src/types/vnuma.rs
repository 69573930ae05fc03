//! Virtual NUMA nodes.

use serde::{Deserialize, Serialize};

use super::cpulist::parse_range;
use super::memory::MAX_MIB;
use super::params::Param;
use super::processors::MAX_VCPUS;
use crate::diag::{Code, Diagnostic};
use crate::reader::{MIB, Reader};
use crate::syntax::{Node, NodeKind, Text};

const KEY: &str = "vnuma";
/// More nodes than Xen lets a guest have.
const MAX_NODES: usize = 64;

/// One virtual NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualNode {
    /// Number of the host's node.
    pub pnode: u32,
    /// Memory of the node in MiB.
    pub size_mib: u64,
    /// The vCPUs that belong to it.
    pub vcpus: Vec<u32>,
    /// The distance to each virtual node, itself included.
    pub distances: Vec<u32>,
}

/// Reads `vnuma`, a list of lists of texts.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<VirtualNode> {
    let items = reader.list(KEY).unwrap_or_default();
    if items.len() > MAX_NODES {
        let span = reader.span(KEY);
        let message = format!("`vnuma` has {} nodes, more than {MAX_NODES}", items.len());
        reader
            .diags
            .push(Diagnostic::error(Code::OutOfRange, span, message));
        return Vec::new();
    }
    let nodes: Vec<VirtualNode> = items
        .iter()
        .filter_map(|item| read_node(reader, item, items.len()))
        .collect();
    check_vcpus(reader, &nodes);
    nodes
}

fn read_node(reader: &mut Reader<'_>, item: &Node, nr_nodes: usize) -> Option<VirtualNode> {
    let NodeKind::List(options) = &item.kind else {
        let help = "write `vnuma = [ [ \"pnode=0\", \"size=512\", \"vcpus=0-1\", \"vdistances=10,20\" ], ... ]`";
        reader.error(
            Code::WrongType,
            item.span,
            "each item of `vnuma` is a list of its own",
            help,
        );
        return None;
    };
    let mut found = [None; 4];
    for option in options {
        let text = reader.item_text(option, KEY)?;
        let param = Param::parse(text);
        let slot = match param.name.text {
            "pnode" => found.first_mut(),
            "size" => found.get_mut(1),
            "vcpus" => found.get_mut(2),
            "vdistances" => found.get_mut(3),
            _ => {
                param.unknown(
                    reader,
                    KEY,
                    ["pnode", "size", "vcpus", "vdistances"].into_iter(),
                );
                continue;
            }
        };
        if let Some(slot) = slot {
            *slot = Some(param.wanted_value(reader)?);
        }
    }
    let [Some(pnode), Some(size), Some(vcpus), Some(distances)] = found else {
        let help = "each node needs pnode=, size=, vcpus= and vdistances=";
        reader.error(
            Code::Missing,
            item.span,
            "a virtual node is incomplete",
            help,
        );
        return None;
    };
    let pnode = reader.number_in(pnode, "`pnode`", "the number of a host node", 0..=0xffff)?;
    let size = reader.number_in(size, "`size`", MIB, 1..=MAX_MIB)?;
    Some(VirtualNode {
        pnode: u32::try_from(pnode).ok()?,
        size_mib: u64::try_from(size).ok()?,
        vcpus: read_vcpus(reader, vcpus)?,
        distances: read_distances(reader, distances, nr_nodes)?,
    })
}

fn read_vcpus(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Vec<u32>> {
    let mut is_named = vec![false; MAX_VCPUS as usize];
    for piece in text.split(',') {
        let range =
            parse_range(piece.trim().text).map(|(first, last)| first as usize..last as usize + 1);
        let Some(named) = range.and_then(|range| is_named.get_mut(range)) else {
            let message = format!("`{}` is no vCPU and no range of them", piece.text);
            reader.error(
                Code::BadValue,
                piece.span(),
                message,
                "write numbers, as in `vcpus=0-3,5`",
            );
            return None;
        };
        named.fill(true);
    }
    Some(
        (0..MAX_VCPUS)
            .zip(is_named)
            .filter(|(_, named)| *named)
            .map(|(vcpu, _)| vcpu)
            .collect(),
    )
}

fn read_distances(reader: &mut Reader<'_>, text: Text<'_>, nr_nodes: usize) -> Option<Vec<u32>> {
    let mut distances = Vec::new();
    for piece in text.split(',') {
        let distance = reader.number_in(
            piece.trim(),
            "`vdistances`",
            "distances between nodes",
            0..=0xffff,
        )?;
        distances.push(u32::try_from(distance).ok()?);
    }
    if distances.len() != nr_nodes {
        let message = format!(
            "`vdistances` has {} distances, but there are {nr_nodes} nodes",
            distances.len()
        );
        reader.error(
            Code::Conflict,
            text.span(),
            message,
            "write one distance for each virtual node",
        );
        return None;
    }
    Some(distances)
}

fn check_vcpus(reader: &mut Reader<'_>, nodes: &[VirtualNode]) {
    let mut all: Vec<u32> = nodes
        .iter()
        .flat_map(|node| node.vcpus.iter().copied())
        .collect();
    let nr_named = all.len();
    all.sort_unstable();
    all.dedup();
    let Some(span) = reader.span(KEY) else { return };
    if all.len() != nr_named {
        let help = "each vCPU belongs to one virtual node";
        reader.error(
            Code::Conflict,
            span,
            "a vCPU is in several virtual nodes",
            help,
        );
    }
}
