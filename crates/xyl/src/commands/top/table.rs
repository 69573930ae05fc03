//! The table of `xyl top`, with xentop's columns.

use std::cmp::Ordering;

use super::sample::{Domain, Sample};
use crate::output::right;
use crate::shown;
use xen_port::{DomainInfo, ShutdownReason};

/// Width in characters of a shortened name.
const NAME_WIDTH: usize = 10;

/// The column by which rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// By domid, lowest first.
    Domid,
    /// By name, alphabetically.
    Name,
    /// By total CPU time, highest first.
    Cpu,
    /// By CPU time since the last sample, highest first.
    CpuPercent,
    /// By memory, largest first.
    Memory,
    /// By number of vCPUs, highest first.
    Vcpus,
}

impl SortBy {
    /// The column that the next key press selects.
    pub fn next(self) -> SortBy {
        match self {
            SortBy::Domid => SortBy::Name,
            SortBy::Name => SortBy::Cpu,
            SortBy::Cpu => SortBy::CpuPercent,
            SortBy::CpuPercent => SortBy::Memory,
            SortBy::Memory => SortBy::Vcpus,
            SortBy::Vcpus => SortBy::Domid,
        }
    }

    /// Name of the column in the status line.
    pub fn name(self) -> &'static str {
        match self {
            SortBy::Domid => "domid",
            SortBy::Name => "name",
            SortBy::Cpu => "CPU(sec)",
            SortBy::CpuPercent => "CPU(%)",
            SortBy::Memory => "MEM(k)",
            SortBy::Vcpus => "VCPUS",
        }
    }
}

/// A sample as rows of text.
pub struct Table {
    name_width: usize,
    rows: Vec<String>,
}

impl Table {
    /// Lays a sample out. Names are shortened to `NAME_WIDTH` characters unless `full_name`.
    pub fn new(
        sample: &Sample,
        before: Option<&Sample>,
        sort_by: SortBy,
        full_name: bool,
    ) -> Table {
        let longest = sample
            .domains
            .iter()
            .map(|domain| name(domain).chars().count())
            .max();
        let name_width = if full_name {
            longest.unwrap_or(0).max(NAME_WIDTH)
        } else {
            NAME_WIDTH
        };
        let mut domains: Vec<(&Domain, f64)> = sample
            .domains
            .iter()
            .map(|domain| (domain, sample.cpu_percent(domain, before)))
            .collect();
        domains.sort_by(|one, other| compare(sort_by, *one, *other));
        let rows = domains
            .into_iter()
            .map(|(domain, cpu_percent)| row(sample, domain, cpu_percent, name_width))
            .collect();
        Table { name_width, rows }
    }

    /// The names of the columns.
    pub fn header(&self) -> String {
        format!(
            "{}  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS SSID",
            right("NAME", self.name_width)
        )
    }

    /// The rows of the table, without its heading.
    pub fn rows(&self) -> &[String] {
        &self.rows
    }
}

fn compare(sort_by: SortBy, one: (&Domain, f64), other: (&Domain, f64)) -> Ordering {
    let (a, b) = (&one.0.info, &other.0.info);
    match sort_by {
        SortBy::Domid => a.domid.cmp(&b.domid),
        SortBy::Name => name(one.0)
            .to_lowercase()
            .cmp(&name(other.0).to_lowercase()),
        SortBy::Cpu => b.cpu_time_ns.cmp(&a.cpu_time_ns),
        SortBy::CpuPercent => other.1.total_cmp(&one.1),
        SortBy::Memory => b.tot_pages.cmp(&a.tot_pages),
        SortBy::Vcpus => b.nr_online_vcpus.cmp(&a.nr_online_vcpus),
    }
}

fn name(domain: &Domain) -> String {
    shown::cell(domain.name.as_deref())
}

fn row(sample: &Sample, domain: &Domain, cpu_percent: f64, name_width: usize) -> String {
    let info = &domain.info;
    let name: String = name(domain).chars().take(name_width).collect();
    let (max_kib, max_percent) = match max_kib(info) {
        Some(kib) => (
            kib.to_string(),
            format!("{:.1}", sample.memory_percent(info.max_pages)),
        ),
        None => ("no limit".to_owned(), "n/a".to_owned()),
    };
    format!(
        "{} {} {:10} {cpu_percent:6.1} {:10} {:6.1} {} {} {:5} {:4}",
        right(&name, name_width),
        state(info),
        info.cpu_time_ns / 1_000_000_000,
        info.tot_pages * 4,
        sample.memory_percent(info.tot_pages),
        right(&max_kib, 10),
        right(&max_percent, 9),
        info.nr_online_vcpus,
        info.ssidref,
    )
}

/// The state letters that apply, in xentop's order.
pub fn state(info: &DomainInfo) -> String {
    let flags = &info.flags;
    let crashed = flags.shutdown && info.shutdown_reason == Some(ShutdownReason::Crash);
    let letters = [
        (flags.dying, 'd'),
        (flags.shutdown, 's'),
        (flags.blocked, 'b'),
        (crashed, 'c'),
        (flags.paused, 'p'),
        (flags.running, 'r'),
    ];
    letters
        .iter()
        .map(|(set, letter)| if *set { *letter } else { '-' })
        .collect()
}

/// Maximum memory of a domain in KiB. `None` if Xen sets no limit.
pub fn max_kib(info: &DomainInfo) -> Option<u64> {
    // Xen reports "no limit" as the largest number of 32 or of 64 bits, depending on its version.
    let limit = info.max_pages;
    (limit < u64::from(u32::MAX)).then(|| limit * 4)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use xen_port::{DomId, DomainFlags, PhysCaps, PhysInfo};

    use super::*;

    fn domain(domid: u16, name: &str, cpu_time_ns: u64, pages: u64) -> Domain {
        Domain {
            info: DomainInfo {
                domid: DomId(domid),
                flags: DomainFlags {
                    blocked: true,
                    ..DomainFlags::default()
                },
                tot_pages: pages,
                max_pages: pages,
                cpu_time_ns,
                nr_online_vcpus: 1,
                max_vcpu_id: Some(0),
                handle: [domid as u8; 16],
                ..DomainInfo::default()
            },
            name: Some(name.to_owned()),
        }
    }

    fn sample(taken: Instant, domains: Vec<Domain>) -> Sample {
        let phys = PhysInfo {
            threads_per_core: 1,
            cores_per_socket: 1,
            nr_cpus: 1,
            max_cpu_id: 0,
            nr_nodes: 1,
            max_node_id: 0,
            cpu_khz: 0,
            caps: PhysCaps::default(),
            total_pages: 1 << 20,
            free_pages: 1 << 19,
            scrub_pages: 0,
            outstanding_pages: 0,
            max_mfn: 0,
            hw_caps: [0; 8],
        };
        Sample {
            taken,
            time_s: 0,
            phys,
            domains,
            nameless: None,
        }
    }

    #[test]
    fn columns_stand_under_their_names() {
        let now = Instant::now();
        let sample = sample(now, vec![domain(0, "Domain-0", 12_900_000_000, 1 << 18)]);
        let table = Table::new(&sample, None, SortBy::Domid, false);
        assert_eq!(
            table.header(),
            "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS SSID"
        );
        assert_eq!(
            table.rows(),
            [
                "  Domain-0 --b---         12    0.0    1048576   25.0    1048576      25.0     1    0"
            ]
        );
    }

    #[test]
    fn cpu_percent_is_the_difference_of_two_samples() {
        let before = Instant::now();
        let after = before + Duration::from_secs(2);
        let old = sample(
            before,
            vec![domain(1, "a", 1_000_000_000, 1), domain(2, "b", 0, 1)],
        );
        let new = sample(
            after,
            vec![
                domain(1, "a", 1_500_000_000, 1),
                domain(2, "b", 2_000_000_000, 1),
            ],
        );
        let table = Table::new(&new, Some(&old), SortBy::CpuPercent, false);
        assert!(
            table.rows()[0].contains(" b --b---          2  100.0"),
            "{}",
            table.rows()[0]
        );
        assert!(
            table.rows()[1].contains(" a --b---          1   25.0"),
            "{}",
            table.rows()[1]
        );
    }

    #[test]
    fn another_domain_under_the_same_number_starts_from_nothing() {
        let before = Instant::now();
        let old = sample(before, vec![domain(1, "a", 9_000_000_000, 1)]);
        let mut reused = domain(1, "a", 1_000_000_000, 1);
        reused.info.handle = [99; 16];
        let new = sample(before + Duration::from_secs(1), vec![reused]);
        assert_eq!(new.cpu_percent(&new.domains[0], Some(&old)), 0.0);
    }

    #[test]
    fn long_names_are_cut_unless_asked_for() {
        let sample = sample(Instant::now(), vec![domain(1, "a-very-long-name", 0, 1)]);
        assert!(
            Table::new(&sample, None, SortBy::Domid, false).rows()[0].starts_with("a-very-lon ")
        );
        assert!(
            Table::new(&sample, None, SortBy::Domid, true).rows()[0]
                .starts_with("a-very-long-name ")
        );
    }

    #[test]
    fn no_limit_is_told() {
        let mut unlimited = domain(0, "d", 0, 1);
        unlimited.info.max_pages = u64::MAX;
        assert_eq!(max_kib(&unlimited.info), None);
        let sample = sample(Instant::now(), vec![unlimited]);
        assert!(
            Table::new(&sample, None, SortBy::Domid, false).rows()[0]
                .contains("  no limit       n/a")
        );
    }
}
