//! Lists of host CPUs: `0-3,^1`, `all`, `nodes:0-1,^node:1`, and lists of such lists, one a vCPU.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::diag::{Code, Remedy};
use crate::number::parse_digits;
use crate::reader::Reader;
use crate::syntax::{NodeKind, Text};

/// Highest number of a host CPU or NUMA node that is taken. Xen's own limit is far lower (16383 CPUs at most).
const MAX_ID: u64 = 0xffff;
/// Most steps that one list may have.
const MAX_STEPS: usize = 256;

/// Which host CPUs a step of a [`CpuList`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuRange {
    /// All CPUs of the host.
    All,
    /// The CPUs with these numbers, both ends included.
    Cpus {
        /// The first CPU number.
        first: u32,
        /// The last CPU number.
        last: u32,
    },
    /// The CPUs of the NUMA nodes with these numbers, both ends included.
    Nodes {
        /// The first node number.
        first: u32,
        /// The last node number.
        last: u32,
    },
}

/// One step of a [`CpuList`]: adds CPUs or removes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStep {
    /// True for `^`: take them out.
    pub exclude: bool,
    /// The CPUs to add or remove.
    pub range: CpuRange,
}

/// A set of host CPUs as steps to be taken in order, starting from none: nodes are known on the host only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuList(pub Vec<CpuStep>);

/// The host CPUs on which a guest's vCPUs may or should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// One set for all vCPUs.
    EveryVcpu(CpuList),
    /// One set for each vCPU from 0 on. vCPUs after the end of the list have no affinity.
    PerVcpu(Vec<CpuList>),
}

impl Affinity {
    /// The set of one vCPU; `None` if it has none.
    #[must_use]
    pub fn of_vcpu(&self, vcpu: u32) -> Option<&CpuList> {
        match self {
            Self::EveryVcpu(list) => Some(list),
            Self::PerVcpu(lists) => lists.get(vcpu as usize),
        }
    }
}

impl CpuList {
    /// The CPUs of the set, given those that are online and the node that each belongs to: `(cpu, node)`.
    #[must_use]
    pub fn resolve(&self, host: &[(u32, u32)]) -> Vec<u32> {
        let is_in = |&&(cpu, node): &&(u32, u32)| {
            self.0.iter().fold(false, |is_in, step| {
                if step.range.has(cpu, node) {
                    !step.exclude
                } else {
                    is_in
                }
            })
        };
        host.iter().filter(is_in).map(|(cpu, _)| *cpu).collect()
    }

    /// Whether the set is empty on every host. False if it depends on the host's nodes.
    fn is_surely_empty(&self) -> bool {
        if self.0.iter().all(|step| step.exclude) {
            return true;
        }
        // The lowest CPU of a set is the start of a range, or follows the end of a removed one.
        let lowest = |step: &CpuStep| match step.range {
            CpuRange::Cpus { last, .. } if step.exclude => Some(last + 1),
            CpuRange::Cpus { first, .. } => Some(first),
            CpuRange::All | CpuRange::Nodes { .. } => None,
        };
        let candidates: Option<Vec<u32>> = self.0.iter().map(lowest).collect();
        candidates.is_some_and(|cpus| cpus.iter().all(|&cpu| self.resolve(&[(cpu, 0)]).is_empty()))
    }
}

impl CpuRange {
    fn has(self, cpu: u32, node: u32) -> bool {
        match self {
            Self::All => true,
            Self::Cpus { first, last } => (first..=last).contains(&cpu),
            Self::Nodes { first, last } => (first..=last).contains(&node),
        }
    }
}

impl fmt::Display for CpuRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Cpus { first, last } if first == last => write!(f, "{first}"),
            Self::Cpus { first, last } => write!(f, "{first}-{last}"),
            Self::Nodes { first, last } if first == last => write!(f, "node:{first}"),
            Self::Nodes { first, last } => write!(f, "nodes:{first}-{last}"),
        }
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let not = if step.exclude { "^" } else { "" };
            write!(f, "{comma}{not}{}", step.range)?;
        }
        Ok(())
    }
}

/// Reads `cpus` or `cpus_soft`: a text for all vCPUs, or a list of texts.
pub(crate) fn read_affinity(reader: &mut Reader<'_>, key: &str, nr_vcpus: u32) -> Option<Affinity> {
    let setting = reader.setting(key)?;
    let NodeKind::List(items) = &setting.value.kind else {
        let text = reader.text(key)?;
        if text.text.trim().is_empty() {
            reader.warn_of_nothing(key);
            return None;
        }
        return read_list(reader, text, key).map(Affinity::EveryVcpu);
    };
    if items.len() > nr_vcpus as usize {
        let message = format!(
            "`{key}` has {} items, more than the guest has vCPUs ({nr_vcpus})",
            items.len()
        );
        reader.warn(
            Code::NoEffect,
            setting.value.span,
            message,
            "the items beyond that have no effect",
        );
    }
    let mut lists = Vec::new();
    for item in items.iter().take(nr_vcpus as usize) {
        let text = reader.item_text(item, key)?;
        lists.push(read_list(reader, text, key)?);
    }
    Some(Affinity::PerVcpu(lists))
}

/// Reads a list from the text of a setting.
pub(crate) fn read_list(reader: &mut Reader<'_>, text: Text<'_>, key: &str) -> Option<CpuList> {
    let (at, why) = match parse_list(text.text) {
        Ok(list) => return Some(list),
        Err(Fault { at, why }) => (text.slice(at), why),
    };
    if text.text.trim().is_empty() {
        let remedy = Remedy::new("write `all`", text.replaced("all"));
        let message = format!("`{key}`: {why}");
        reader.error(Code::BadValue, text.whole(), message, remedy);
        return None;
    }
    let help = match why {
        CpuListError::NoCpus(_) | CpuListError::TooLarge(_) => {
            "write numbers such as `0-3,5`, `all`, or `nodes:0-1`, each with `^` before it to leave it out"
        }
        CpuListError::TooManySteps(_) => "write ranges, such as `0-7`",
        CpuListError::Empty => "`^` takes CPUs out of those named before it, as in `all,^7`",
    };
    reader.error(
        Code::BadValue,
        at.whole_if_all(),
        format!("`{key}`: {why}"),
        help,
    );
    None
}

/// The reasons why a text is not a list of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CpuListError {
    /// A step of it names no CPUs.
    #[error("`{0}` names no CPUs")]
    NoCpus(String),
    /// A number is higher than any host's.
    #[error("there is no CPU or node {0}: {MAX_ID} is the highest number")]
    TooLarge(String),
    /// The list has too many steps; their number.
    #[error("there are {0} steps, more than {MAX_STEPS}")]
    TooManySteps(usize),
    /// No CPU is left at its end.
    #[error("no CPU is left")]
    Empty,
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_list(text).map_err(|fault| fault.why)
    }
}

struct Fault {
    at: Range<usize>,
    why: CpuListError,
}

fn parse_list(text: &str) -> Result<CpuList, Fault> {
    let whole = 0..text.len();
    let mut steps = Vec::new();
    let mut start = 0;
    for piece in text.split(',') {
        let at = start..start + piece.len();
        start = at.end + 1;
        let step = piece.trim();
        if !step.is_empty() {
            steps.push(parse_step(step).ok_or_else(|| Fault {
                at,
                why: why_no_cpus(step),
            })?);
        }
    }
    if steps.len() > MAX_STEPS {
        return Err(Fault {
            at: whole,
            why: CpuListError::TooManySteps(steps.len()),
        });
    }
    let list = CpuList(steps);
    if list.is_surely_empty() {
        Err(Fault {
            at: whole,
            why: CpuListError::Empty,
        })
    } else {
        Ok(list)
    }
}

fn why_no_cpus(step: &str) -> CpuListError {
    let is_too_large =
        |number: &str| number.len() > 4 && parse_digits(number, 10).is_none_or(|id| id > MAX_ID);
    let mut numbers = step.split(|c: char| !c.is_ascii_digit());
    match numbers.find(|number| is_too_large(number)) {
        Some(number) => CpuListError::TooLarge(number.chars().take(40).collect()),
        None => CpuListError::NoCpus(step.to_owned()),
    }
}

fn parse_step(text: &str) -> Option<CpuStep> {
    let (exclude, text) = text
        .strip_prefix('^')
        .map_or((false, text), |rest| (true, rest));
    let nodes = text
        .strip_prefix("nodes:")
        .or_else(|| text.strip_prefix("node:"));
    let range = match (nodes.unwrap_or(text), nodes.is_some()) {
        // xl refuses to take all of them out.
        ("all", _) if exclude => return None,
        ("all", _) => CpuRange::All,
        (numbers, is_nodes) => {
            let (first, last) = parse_range(numbers)?;
            if is_nodes {
                CpuRange::Nodes { first, last }
            } else {
                CpuRange::Cpus { first, last }
            }
        }
    };
    Some(CpuStep { exclude, range })
}

/// `3` or `0-3`.
pub(crate) fn parse_range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let id = |text: &str| {
        parse_digits(text, 10)
            .filter(|&id| id <= MAX_ID)
            .and_then(|id| u32::try_from(id).ok())
    };
    let (first, last) = (id(first)?, id(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight CPUs on four nodes.
    const HOST: [(u32, u32); 8] = [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 2),
        (5, 2),
        (6, 3),
        (7, 3),
    ];

    #[test]
    fn resolves_steps_in_order() {
        for (text, expected) in [
            ("all", vec![0, 1, 2, 3, 4, 5, 6, 7]),
            ("0-3,^1", vec![0, 2, 3]),
            ("^1,0-3", vec![0, 1, 2, 3]),
            ("all,^7", vec![0, 1, 2, 3, 4, 5, 6]),
            ("nodes:0-3,^node:2", vec![0, 1, 2, 3, 6, 7]),
            ("1,node:1,^3", vec![1, 2]),
            ("nodes:all", vec![0, 1, 2, 3, 4, 5, 6, 7]),
            ("9", vec![]),
        ] {
            assert_eq!(
                text.parse::<CpuList>().unwrap().resolve(&HOST),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_range() {
        for text in [
            "",
            "a",
            "^all",
            "^nodes:all",
            "3-1",
            "1-",
            "-1",
            "1-2-3",
            "node:",
            "nodes:^1",
            "99999",
            "0x1",
        ] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
    }

    #[test]
    fn knows_sets_that_no_host_can_fill() {
        for (text, empty) in [
            ("^1", true),
            ("1,^1", true),
            ("0-3,^1-3", false),
            ("0-3,^0-4", true),
            ("node:0,^1", false),
            ("1,^2", false),
        ] {
            assert_eq!(
                text.parse::<CpuList>() == Err(CpuListError::Empty),
                empty,
                "{text}"
            );
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["all", "0-3,^1", "nodes:0-3,^node:2", "5"] {
            assert_eq!(text.parse::<CpuList>().unwrap().to_string(), text);
        }
    }
}
