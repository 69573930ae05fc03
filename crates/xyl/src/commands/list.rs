//! `xyl list`: all domains or one.

use serde_json::{Value, json};
use xen_port::{DomId, DomainInfo, GuestKind, ShutdownReason};
use xyl_engine::config::admission;
use xyl_engine::vm::domains;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::json;
use crate::output::{left, right, seconds, uuid};
use crate::shown::{self, Shown};

const HELP: &str =
    "The state's letters: r running, b blocked, p paused, s shut down, then the reason \
(r reboot, s suspend, c crash, w watchdog, S soft reset), d dying. \
A name of (null) belongs to a domain that xenstore does not know, or to any domain \
while xenstored does not answer. Below the table, on standard error, a line for each \
bare 32-bit PV guest, whoever has started it: `xyl help audit`.

Examples:
  xyl list
  xyl list web
  xyl list -l web | jq '.[0].config.b_info.target_memkb'
  xyl list --json | jq -r '.[] | select(.state.paused) | .name'

JSON: an array of objects with
  domid, name (or null), uuid, kind (pv, pvh, hvm), memory_kib, max_memory_kib,
  claimed_kib, vcpus_online, max_vcpus, state {running, blocked, paused, shutdown,
  dying}, shutdown_reason (or null), cpu_time_ns, cpupool_id, ssidref, bare_pv32;
  with -c cpupool (its name), with -n node_affinity (an array of NUMA nodes),
  with -Z or -v security_label (null: none is known)
With -l: the array that xl prints: {domid, config}, config as libxl keeps it. A domain \
of which libxl keeps none has its type, name and uuid there.";

/// List all domains, or one
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Print the whole configuration of each, as JSON
    #[arg(short, long)]
    long: bool,
    /// Show UUIDs, reasons of shutdowns and security labels too
    #[arg(short, long)]
    verbose: bool,
    /// Show security labels too
    #[arg(short = 'Z', long)]
    context: bool,
    /// Show CPU pools too
    #[arg(short, long)]
    cpupool: bool,
    /// Show NUMA nodes too
    #[arg(short, long)]
    numa: bool,
    /// Only this domain
    #[arg(add = domain_names())]
    domain: Option<String>,
}

/// Runs `xyl list`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let infos = match &args.domain {
        Some(asked) => vec![context.find(asked)?.info],
        None => domains::list(context.hv()?)?,
    };
    if args.long {
        return print_configurations(context, &infos);
    }
    let columns = Columns {
        verbose: args.verbose,
        context: args.context,
        claim: false,
        cpupool: args.cpupool,
        numa: args.numa,
    };
    let names = context.names_or_warning(&infos);
    let bare_pv32 = bare_pv32_or_warning(context, &infos)?;
    if context.json() {
        let extras = extras(context, &infos, columns)?;
        let rows = infos.iter().zip(&names).zip(&extras);
        let rows = rows.map(|((info, name), extra)| {
            let mut row = to_json(info, name.as_deref(), bare_pv32.contains(&info.domid));
            extra.add_to(&mut row, columns);
            row
        });
        return Ok(context.out.json(&Value::Array(rows.collect()))?);
    }
    print_table(context, &infos, &names, columns)?;
    for (info, name) in infos.iter().zip(&names) {
        if bare_pv32.contains(&info.domid) {
            let name = name.as_deref().unwrap_or(domains::NO_NAME);
            let (name, domid) = (Shown::name(name), info.domid);
            context.warning(format!("{name} ({domid}): {BARE_PV32}"));
        }
    }
    Ok(())
}

/// Domains can be listed where that cannot be found out.
fn bare_pv32_or_warning(context: &Context, infos: &[DomainInfo]) -> Result<Vec<DomId>, Failure> {
    let found = admission::bare_pv32(context.hv()?, infos);
    Ok(found.unwrap_or_else(|error| {
        context.warn(&Failure::from(error));
        Vec::new()
    }))
}

/// What is to be known of a bare 32-bit PV guest.
pub const BARE_PV32: &str = "is a bare 32-bit PV guest: its kernel runs in ring 1, where IBRS and its kin do not protect the \
     hypervisor; shut it down, and create it anew for the PV shim";

/// Columns beyond the usual ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns {
    /// UUID, reason and label.
    pub verbose: bool,
    /// Security label (XSM).
    pub context: bool,
    /// Claimed memory in MiB.
    pub claim: bool,
    /// Name of the CPU pool.
    pub cpupool: bool,
    /// NUMA nodes of the memory.
    pub numa: bool,
}

/// Prints the table of `xl list` with these columns.
pub fn print_table(
    context: &Context,
    infos: &[DomainInfo],
    names: &[Option<String>],
    columns: Columns,
) -> Outcome {
    let extras = extras(context, infos, columns)?;
    context.out.line(header(columns))?;
    for ((info, name), extra) in infos.iter().zip(names).zip(&extras) {
        context
            .out
            .line(row(info, name.as_deref(), columns, extra))?;
    }
    Ok(())
}

/// What the columns need besides the domains' information.
fn extras(
    context: &Context,
    infos: &[DomainInfo],
    columns: Columns,
) -> Result<Vec<Extra>, Failure> {
    let pools = match columns.cpupool {
        true => Some(context.pools()?),
        false => None,
    };
    let nr_nodes = match columns.numa {
        true => context.hv()?.phys_info()?.nr_nodes,
        false => 0,
    };
    let mut extras = Vec::with_capacity(infos.len());
    for info in infos {
        let nodes = match columns.numa {
            true => Some(context.hv()?.node_affinity(info.domid)?),
            false => None,
        };
        extras.push(Extra {
            pool: pools.as_ref().map(|pools| pools.name(info.cpupool)),
            nodes: nodes.as_ref().map(|nodes| nodes.display(nr_nodes)),
            node_list: nodes
                .map(|nodes| nodes.iter().take_while(|node| *node < nr_nodes).collect()),
        });
    }
    Ok(extras)
}

fn header(columns: Columns) -> String {
    let mut line =
        "Name                                        ID   Mem VCPUs\tState\tTime(s)".to_owned();
    if columns.verbose {
        line += "   UUID                            Reason-Code\tSecurity Label";
    } else if columns.context {
        line += "   Security Label";
    }
    if columns.claim {
        line += "  Claimed";
    }
    if columns.cpupool {
        line += "         Cpupool";
    }
    if columns.numa {
        line += " NODE Affinity";
    }
    line
}

/// Texts of a row that come from elsewhere than the domain's information.
#[derive(Debug, Default)]
struct Extra {
    pool: Option<String>,
    nodes: Option<String>,
    /// The same nodes as numbers.
    node_list: Option<Vec<u32>>,
}

impl Extra {
    /// Adds what the columns show to a domain's JSON.
    fn add_to(&self, row: &mut Value, columns: Columns) {
        if columns.verbose || columns.context {
            // Without XSM a domain has none.
            json::set(row, "security_label", Value::Null);
        }
        if let Some(pool) = &self.pool {
            json::set(row, "cpupool", pool.as_str());
        }
        if let Some(nodes) = &self.node_list {
            json::set(row, "node_affinity", nodes.as_slice());
        }
    }
}

fn row(info: &DomainInfo, name: Option<&str>, columns: Columns, extra: &Extra) -> String {
    let mut line = format!(
        "{} {:5} {:5} {:5}     {}  {}",
        left(&shown::cell(name), 40),
        info.domid.0,
        mib(info.tot_pages + info.outstanding_pages),
        info.nr_online_vcpus,
        state_letters(info),
        right(&seconds(info.cpu_time_ns), 8),
    );
    if columns.verbose {
        line += &format!(" {} {}", uuid(&info.handle), right(&reason_code(info), 8));
    }
    if columns.claim {
        line += &format!(" {:5}", mib(info.outstanding_pages));
    }
    if columns.verbose || columns.context {
        line += &right("-", 17);
    }
    if let Some(pool) = &extra.pool {
        line += &right(&Shown::cell(pool).to_string(), 16);
    }
    if let Some(nodes) = &extra.nodes {
        line += &format!(" {nodes}");
    }
    line
}

/// Pages of 4 KiB as whole MiB, rounded down.
fn mib(pages: u64) -> u64 {
    pages / 256
}

fn state_letters(info: &DomainInfo) -> String {
    let flags = &info.flags;
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    [
        flag(flags.running, 'r'),
        flag(flags.blocked, 'b'),
        flag(flags.paused, 'p'),
        flag(flags.shutdown, 's'),
        reason_letter(info),
        flag(flags.dying, 'd'),
    ]
    .iter()
    .collect()
}

fn reason_letter(info: &DomainInfo) -> char {
    match shutdown_reason(info) {
        None | Some(ShutdownReason::Poweroff) => '-',
        Some(ShutdownReason::Reboot) => 'r',
        Some(ShutdownReason::Suspend) => 's',
        Some(ShutdownReason::Crash) => 'c',
        Some(ShutdownReason::Watchdog) => 'w',
        Some(ShutdownReason::SoftReset) => 'S',
        Some(ShutdownReason::Unknown(_)) => '?',
    }
}

fn reason_code(info: &DomainInfo) -> String {
    shutdown_reason(info).map_or("-".to_owned(), |reason| format!("{:x}", reason.number()))
}

fn shutdown_reason(info: &DomainInfo) -> Option<ShutdownReason> {
    info.shutdown_reason.filter(|_| info.flags.shutdown)
}

/// A domain as `--json` prints it.
pub fn to_json(info: &DomainInfo, name: Option<&str>, is_bare_pv32: bool) -> Value {
    let flags = &info.flags;
    json!({
        "domid": info.domid.0,
        "name": name,
        "uuid": uuid(&info.handle),
        "kind": kind_name(info.kind()),
        "memory_kib": info.tot_pages * 4,
        "max_memory_kib": info.max_pages.saturating_mul(4),
        "claimed_kib": info.outstanding_pages * 4,
        "vcpus_online": info.nr_online_vcpus,
        "max_vcpus": info.max_vcpu_id.map_or(0, |id| id + 1),
        "state": {
            "running": flags.running,
            "blocked": flags.blocked,
            "paused": flags.paused,
            "shutdown": flags.shutdown,
            "dying": flags.dying,
        },
        "shutdown_reason": shutdown_reason(info).map(reason_name),
        "cpu_time_ns": info.cpu_time_ns,
        "cpupool_id": info.cpupool,
        "ssidref": info.ssidref,
        "bare_pv32": is_bare_pv32,
    })
}

/// Name of a guest's kind as a configuration's `type` has it.
pub fn kind_name(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Pv => "pv",
        GuestKind::Pvh => "pvh",
        GuestKind::Hvm => "hvm",
    }
}

/// A reason in one word.
pub fn reason_name(reason: ShutdownReason) -> String {
    match reason {
        ShutdownReason::Poweroff => "poweroff".to_owned(),
        ShutdownReason::Reboot => "reboot".to_owned(),
        ShutdownReason::Suspend => "suspend".to_owned(),
        ShutdownReason::Crash => "crash".to_owned(),
        ShutdownReason::Watchdog => "watchdog".to_owned(),
        ShutdownReason::SoftReset => "soft-reset".to_owned(),
        ShutdownReason::Unknown(number) => format!("unknown-{number}"),
    }
}

/// Prints the configurations of domains. One without libxl's record (of a toolstack that keeps none) has what is known of it.
fn print_configurations(context: &Context, infos: &[DomainInfo]) -> Outcome {
    let configs = domains::configurations(
        context.hv()?,
        &mut *context.store()?,
        &context.dirs.xen_lib,
        infos,
    )?;
    let names = match configs.iter().all(Result::is_ok) {
        true => vec![None; infos.len()],
        false => context.names_or_warning(infos),
    };
    let mut array = Vec::new();
    for ((info, name), config) in infos.iter().zip(names).zip(configs) {
        let config = config.unwrap_or_else(|error| {
            context.warning(format!(
                "domain {}: {error}; its type, name and UUID alone are shown",
                info.domid
            ));
            without_record(info, name)
        });
        array.push(json!({"domid": info.domid.0, "config": config}));
    }
    context.out.xl_json(&Value::Array(array))?;
    // xl's `puts` adds a newline to that of yajl.
    Ok(context.out.line("")?)
}

/// What Xen and xenstore tell of a domain, in libxl's form.
fn without_record(info: &DomainInfo, name: Option<String>) -> Value {
    let (kind, uuid) = (kind_name(info.kind()), uuid(&info.handle));
    // Debian's scripts ask each domain for its name.
    json!({"c_info": {"type": kind, "name": name, "uuid": uuid}})
}

#[cfg(test)]
mod tests {
    use xen_port::DomainFlags;

    use super::*;

    /// Dom0 as `xl list` showed it on Xen 4.17: 2 GiB, one vCPU, running.
    fn dom0() -> DomainInfo {
        DomainInfo {
            flags: DomainFlags {
                running: true,
                ..DomainFlags::default()
            },
            tot_pages: 524_288,
            max_pages: 524_288,
            cpu_time_ns: 12_345_678_901,
            nr_online_vcpus: 1,
            max_vcpu_id: Some(0),
            ..DomainInfo::default()
        }
    }

    #[test]
    fn the_columns_are_those_of_xl() {
        assert_eq!(
            row(
                &dom0(),
                Some("Domain-0"),
                Columns::default(),
                &Extra::default()
            ),
            "Domain-0                                     0  2048     1     r-----      12.3"
        );
    }

    #[test]
    fn a_crashed_domain_shows_its_reason() {
        let mut info = dom0();
        info.flags = DomainFlags {
            shutdown: true,
            ..DomainFlags::default()
        };
        info.shutdown_reason = Some(ShutdownReason::Crash);
        assert_eq!(state_letters(&info), "---sc-");
        let columns = Columns {
            verbose: true,
            ..Columns::default()
        };
        assert_eq!(
            row(&info, None, columns, &Extra::default()),
            "(null)                                       0  2048     1     ---sc-      12.3 \
             00000000-0000-0000-0000-000000000000        3                -"
        );
    }

    #[test]
    fn pools_and_nodes_come_last() {
        let columns = Columns {
            cpupool: true,
            numa: true,
            ..Columns::default()
        };
        let extra = Extra {
            pool: Some("Pool-0".to_owned()),
            nodes: Some("all".to_owned()),
            node_list: Some(vec![0]),
        };
        assert!(row(&dom0(), Some("d"), columns, &extra).ends_with("12.3          Pool-0 all"));
        assert!(header(columns).ends_with("Time(s)         Cpupool NODE Affinity"));
    }

    #[test]
    fn json_has_the_documented_keys() {
        let value = to_json(&dom0(), Some("Domain-0"), false);
        assert_eq!(value["memory_kib"], 2_097_152);
        assert_eq!(value["kind"], "pv");
        assert_eq!(value["shutdown_reason"], Value::Null);
    }
}
