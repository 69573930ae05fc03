//! The configuration of a CPU pool: the grammar of xl.cfg with the settings of xlcpupool.cfg(5).

use serde::{Deserialize, Serialize};

use crate::config::{Error, Rejected};
use crate::diag::{Code, Diags, Report};
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::settings::Settings;
use crate::source::{Source, Sources};
use crate::syntax::{self, NodeKind};
use crate::types::{CpuList, CpuRange, CpuStep, read_cpu_list};
use crate::xl_conf::warn_of_unknown;

keywords! {
    /// The scheduler of a CPU pool.
    PoolScheduler {
        /// The credit scheduler.
        Credit = "credit",
        /// The credit2 scheduler.
        Credit2 = "credit2",
        /// The ARINC 653 scheduler.
        Arinc653 = "arinc653",
        /// The real-time scheduler.
        Rtds = "rtds",
        /// The null scheduler: each vCPU has its own CPU.
        Null = "null",
    }
}

/// The CPUs that a new pool is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolCpus {
    /// No CPU at first.
    None,
    /// These, each of which must be free (`cpus`).
    Listed(CpuList),
    /// The free CPUs of these NUMA nodes (`nodes`).
    FreeOfNodes(Vec<u32>),
}

/// The configuration of a CPU pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Name of the pool (`name`). Without one, xl takes the name of the file.
    pub name: Option<String>,
    /// Scheduler of the pool (`sched`). Without one, it is that of pool 0.
    pub scheduler: Option<PoolScheduler>,
    /// CPUs of the pool. As in xl, `nodes` counts if both are set.
    pub cpus: PoolCpus,
}

const NAMES: [&str; 4] = ["name", "sched", "cpus", "nodes"];
/// Highest number of a CPU or NUMA node.
const MAX_ID: u32 = 0xffff;

/// Parses the configuration of a CPU pool. `overrides` are the `name=value` arguments of the command line. Unknown settings are
/// warnings.
///
/// # Errors
/// [`Error::Rejected`] with every error found, or [`Error::Source`] if the overrides are too large.
pub fn parse_pool<S: AsRef<str>>(
    source: Source,
    overrides: &[S],
) -> Result<(PoolConfig, Report), Error> {
    let sources = vec![source, Source::from_overrides(overrides)?];
    let mut diags = Diags::default();
    let mut settings = Settings::default();
    for (source, index) in sources.iter().zip(0..) {
        let statements = syntax::parse(source, index, &mut diags);
        settings.apply(statements, source, &mut diags);
    }
    let pool = PoolConfig::read(&mut Reader::new(&settings, &mut diags));
    warn_of_unknown(&settings, &NAMES, &mut diags);
    let report = diags.into_report(Sources::new(sources));
    match report.has_errors() {
        true => Err(Rejected(report).into()),
        false => Ok((pool, report)),
    }
}

impl PoolConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            name: reader.wanted(
                "name",
                "the name of a CPU pool",
                "leave it out to take the file's name",
            ),
            scheduler: reader.keyword_any_case("sched"),
            cpus: read_cpus(reader),
        }
    }
}

fn read_cpus(reader: &mut Reader<'_>) -> PoolCpus {
    if let Some(nodes) = reader.list("nodes") {
        let texts: Vec<_> = nodes
            .iter()
            .filter_map(|item| reader.item_text(item, "nodes"))
            .collect();
        let nodes = texts.into_iter().filter_map(|text| {
            let number = reader.number_in(
                text,
                "`nodes`",
                "the number of a NUMA node",
                0..=MAX_ID.into(),
            );
            number.and_then(|number| u32::try_from(number).ok())
        });
        let nodes: Vec<u32> = nodes.collect();
        if nodes.is_empty()
            && let Some(span) = reader.span("nodes")
        {
            reader.error(
                Code::BadValue,
                span,
                "`nodes` names no node",
                "write numbers, such as `[0, 1]`",
            );
        }
        return PoolCpus::FreeOfNodes(nodes);
    }
    let is_list = reader
        .setting("cpus")
        .map(|setting| matches!(setting.value.kind, NodeKind::List(_)));
    match is_list {
        None => PoolCpus::None,
        Some(true) => PoolCpus::Listed(read_numbers(reader)),
        Some(false) => {
            let list = reader
                .text("cpus")
                .and_then(|text| read_cpu_list(reader, text, "cpus"));
            list.map_or(PoolCpus::None, PoolCpus::Listed)
        }
    }
}

/// A list with a number in each item.
fn read_numbers(reader: &mut Reader<'_>) -> CpuList {
    let texts = reader.texts("cpus");
    let steps = texts.into_iter().filter_map(|text| {
        let number = reader.number_in(text, "`cpus`", "the number of a CPU", 0..=MAX_ID.into())?;
        let cpu = u32::try_from(number).ok()?;
        Some(CpuStep {
            exclude: false,
            range: CpuRange::Cpus {
                first: cpu,
                last: cpu,
            },
        })
    });
    CpuList(steps.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, overrides: &[&str]) -> Result<(PoolConfig, Report), Error> {
        parse_pool(
            Source::from_bytes("pool.cfg", text.as_bytes()).unwrap(),
            overrides,
        )
    }

    #[test]
    fn the_forms_of_xl_are_read() {
        let (pool, report) = parsed(
            "name = 'fast'\nsched = 'CREDIT'\ncpus = [1, '2']\n",
            &["sched=\"null\""],
        )
        .unwrap();
        assert!(report.iter().next().is_none());
        assert_eq!(pool.name.as_deref(), Some("fast"));
        assert_eq!(pool.scheduler, Some(PoolScheduler::Null));
        let PoolCpus::Listed(cpus) = pool.cpus else {
            panic!("no list of CPUs")
        };
        assert_eq!(cpus.to_string(), "1,2");
        let (pool, _) = parsed("cpus = '0-3,^1'\n", &[]).unwrap();
        assert!(matches!(pool.cpus, PoolCpus::Listed(list) if list.to_string() == "0-3,^1"));
        let (pool, _) = parsed("nodes = [0, 1]\ncpus = [7]\n", &[]).unwrap();
        assert_eq!(pool.cpus, PoolCpus::FreeOfNodes(vec![0, 1]));
        let (pool, report) = parsed("memory = 7\n", &[]).unwrap();
        assert_eq!((pool.name, pool.cpus), (None, PoolCpus::None));
        assert_eq!(report.iter().count(), 1);
    }

    #[test]
    fn what_xl_would_misread_is_refused() {
        for wrong in [
            "name = ''\n",
            "sched = 'fast'\n",
            "cpus = ['first']\n",
            "cpus = 'x'\n",
            "nodes = 1\n",
            "nodes = [-1]\n",
            "nodes = []\n",
            "name = \n",
        ] {
            assert!(
                matches!(parsed(wrong, &[]), Err(Error::Rejected(_))),
                "{wrong}"
            );
        }
    }
}
