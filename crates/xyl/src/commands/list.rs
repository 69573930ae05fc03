//! `xyl list`: prints all domains, or one, as xl's table, as JSON, or as libxl's configurations (`-l`).

use os_port::SystemClock;
use serde_json::{Value, json};
use xen_port::{DomId, DomainInfo, ShutdownReason};
use xyl_engine::config::admission;
use xyl_engine::report::posture::BARE_PV32;
use xyl_engine::report::vms::{self, shutdown_reason};
use xyl_engine::supervise::states::{self, Listed};
use xyl_engine::vm::domains;
use xyl_engine::vm::spec::kind_text;
use xyl_engine::vm::state::VmState;

use crate::complete::domain_names;
use crate::context::{Context, FoundVm};
use crate::error::{Failure, Outcome};
use crate::json;
use crate::output::{left, right, seconds, uuid};
use crate::shown::{self, Shown};

const HELP: &str =
    "The state's letters: r running, b blocked, p paused, s shut down, then the reason \
(r reboot, s suspend, c crash, w watchdog, S soft reset), d dying. \
A name of (null) belongs to a domain that xenstore does not know, or to any domain \
while xenstored does not answer. Below the table, on standard error, a line for each \
bare 32-bit PV guest of any toolstack: see `xyl help audit`.

A VM that is being restarted is in the list at every moment. While it has no domain, its line has the number of its last one \
(32756 if another domain has that by now), the memory and the vCPUs of its configuration, and the state ------. With --states a \
last column has the state of each VM: building, running, paused, soft-resetting, ended, dumping, restarting, \
waiting-for-restart, dying, unfinished, given-up.

Examples:
  xyl list
  xyl list web
  xyl list -l web | jq '.[0].config.b_info.target_memkb'
  xyl list --json | jq -r '.[] | select(.state.paused) | .name'
  xyl list --json | jq -r '.[] | select(.vm_state == \"given-up\") | .given_up.why'

JSON: an array of objects with
  domid, name (or null), uuid, kind (pv, pvh, hvm), memory_kib, max_memory_kib,
  claimed_kib, vcpus_online, max_vcpus, state {running, blocked, paused, shutdown,
  dying}, shutdown_reason (or null), cpu_time_ns, cpupool_id, ssidref, bare_pv32,
  vm_state (a word, see above), restart_waits_s (or null), given_up (null, or
  {why, since_ms, configuration});
  a VM without a domain has domid null, last_domid (or null), and the members name,
  uuid, kind (or null), memory_kib, vcpus_online and those in the line above;
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
    /// Show the states of the VMs too
    #[arg(long)]
    states: bool,
    /// Only this domain
    #[arg(add = domain_names())]
    domain: Option<String>,
}

/// Runs `xyl list`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let (infos, absent) = chosen(args, context)?;
    if args.long {
        return print_configurations(context, &infos, &absent);
    }
    let columns = Columns {
        verbose: args.verbose,
        context: args.context,
        claim: false,
        cpupool: args.cpupool,
        numa: args.numa,
        states: args.states,
    };
    let names = context.names_or_warning(&infos);
    let bare_pv32 = bare_pv32_or_warning(context, &infos)?;
    if context.json() {
        let extras = extras(context, &infos, columns)?;
        let reader = context.reader()?;
        let mut rows = vms::of_domains(&reader, &infos, &names, &bare_pv32);
        for (row, extra) in rows.iter_mut().zip(&extras) {
            extra.add_to(row, columns);
        }
        rows.extend(absent.iter().map(|vm| vms::of_absent(&reader, vm)));
        if args.domain.is_none() {
            rows.extend(vms::given_up_without_domain(&reader, &infos));
        }
        return Ok(context.out.json(&Value::Array(rows))?);
    }
    print_tables(context, (&infos, &names), &absent, columns)?;
    for (info, name) in infos.iter().zip(&names) {
        if bare_pv32.contains(&info.domid) {
            let name = name.as_deref().unwrap_or(domains::NO_NAME);
            let (name, domid) = (Shown::name(name), info.domid);
            context.warning(format!("{name} ({domid}): {BARE_PV32}"));
        }
    }
    Ok(())
}

/// The domains to list, and the VMs to list that have none now.
fn chosen(args: &Args, context: &Context) -> Result<(Vec<DomainInfo>, Vec<Listed>), Failure> {
    let Some(asked) = &args.domain else {
        return Ok(states::list(
            context.hv()?,
            &context.records(),
            &SystemClock,
        )?);
    };
    Ok(match context.find_vm(asked)? {
        FoundVm::WithDomain(domain) => (vec![domain.info], Vec::new()),
        FoundVm::WithoutDomain(vm) => (Vec::new(), vec![vm]),
    })
}

/// Returns the bare 32-bit PV guests. If they cannot be found, prints a warning, so that the list still works.
fn bare_pv32_or_warning(context: &Context, infos: &[DomainInfo]) -> Result<Vec<DomId>, Failure> {
    let found = admission::bare_pv32(context.hv()?, infos);
    Ok(found.unwrap_or_else(|error| {
        context.warn(&Failure::from(error));
        Vec::new()
    }))
}

/// Columns in addition to the usual ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns {
    /// UUID, shutdown reason and security label.
    pub verbose: bool,
    /// Security label (XSM).
    pub context: bool,
    /// Claimed memory in MiB.
    pub claim: bool,
    /// Name of the CPU pool.
    pub cpupool: bool,
    /// NUMA nodes of the memory.
    pub numa: bool,
    /// State of the VM.
    pub states: bool,
}

/// Prints the table of `xl list` with these columns.
pub fn print_table(
    context: &Context,
    infos: &[DomainInfo],
    names: &[Option<String>],
    columns: Columns,
) -> Outcome {
    print_tables(context, (infos, names), &[], columns)
}

/// The same, with VMs that have no domain. The lines are in the order of the numbers.
fn print_tables(
    context: &Context,
    (infos, names): (&[DomainInfo], &[Option<String>]),
    absent: &[Listed],
    columns: Columns,
) -> Outcome {
    let extras = extras(context, infos, columns)?;
    let rows = infos.iter().zip(names).zip(&extras);
    let rows = rows.map(|((info, name), extra)| {
        let line = row(info, name.as_deref(), columns, extra);
        (info.domid.0, line)
    });
    let absent = absent.iter().map(|vm| {
        let number = shown_number(vm, infos);
        (number, absent_row(vm, number, columns))
    });
    let mut rows: Vec<(u16, String)> = rows.chain(absent).collect();
    rows.sort_by_key(|(number, _)| *number);
    context.out.line(header(columns))?;
    for (_, line) in rows {
        context.out.line(line)?;
    }
    Ok(())
}

/// Xen's number of no domain (`DOMID_INVALID`).
const NO_DOMID: u16 = 0x7ff4;

/// The number in the line of a VM without a domain: that of its last one, unless another domain has it by now. Programs that
/// read the table need a number.
fn shown_number(vm: &Listed, infos: &[DomainInfo]) -> u16 {
    let is_free = |domid: &DomId| infos.iter().all(|info| info.domid != *domid);
    let number = vm.last_domid.filter(is_free);
    number.map_or(NO_DOMID, |domid| domid.0)
}

/// The line of a VM that has no domain now.
fn absent_row(vm: &Listed, number: u16, columns: Columns) -> String {
    let mut line = format!(
        "{} {number:5} {:5} {:5}     ------  {}",
        left(&shown::cell(Some(&vm.name)), 40),
        vm.memory_kib / 1024,
        vm.nr_vcpus,
        right(&seconds(0), 8),
    );
    if columns.verbose {
        line += &format!(" {} {}", vm.uuid.hyphenated(), right("-", 8));
    }
    if columns.verbose || columns.context {
        line += &right("-", 17);
    }
    if columns.cpupool {
        line += &right("-", 16);
    }
    if columns.numa {
        line += " -";
    }
    if columns.states {
        line += &format!(" {}", vm.state.word());
    }
    line
}

/// Reads what the columns need in addition to [`DomainInfo`].
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
    let states = match columns.states {
        true => states::of_domains(&context.records(), &SystemClock, infos),
        false => Vec::new(),
    };
    let mut states = states.into_iter();
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
            state: states.next(),
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
    if columns.states {
        line += " VM State";
    }
    line
}

/// Texts of a row that do not come from [`DomainInfo`].
#[derive(Debug, Default)]
struct Extra {
    pool: Option<String>,
    nodes: Option<String>,
    /// NUMA nodes of the memory, as numbers.
    node_list: Option<Vec<u32>>,
    state: Option<VmState>,
}

impl Extra {
    /// Adds what the columns show to a domain's JSON.
    fn add_to(&self, row: &mut Value, columns: Columns) {
        if columns.verbose || columns.context {
            // Without XSM, domains have no label.
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
    if let Some(state) = extra.state {
        line += &format!(" {}", state.word());
    }
    line
}

/// Converts pages of 4 KiB to whole MiB, rounded down.
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

/// Prints the configurations of domains. For a domain without libxl's record, prints what Xen and xenstore know.
fn print_configurations(context: &Context, infos: &[DomainInfo], absent: &[Listed]) -> Outcome {
    let configs = domains::configurations(
        context.hv()?,
        &mut *context.store()?,
        (&os_port::SystemFiles, &context.dirs.xen_lib),
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
    for vm in absent {
        // libxl's record went with the last domain.
        let (kind, uuid) = (vm.kind.map(kind_text), vm.uuid.hyphenated().to_string());
        let config = json!({"c_info": {"type": kind, "name": vm.name, "uuid": uuid}});
        array.push(json!({"domid": shown_number(vm, infos), "config": config}));
    }
    context.out.xl_json(&Value::Array(array))?;
    // xl prints yajl's text with `puts`, which adds a second newline.
    Ok(context.out.line("")?)
}

/// Builds a configuration in libxl's form from what Xen and xenstore know.
fn without_record(info: &DomainInfo, name: Option<String>) -> Value {
    let (kind, uuid) = (kind_text(info.kind()), uuid(&info.handle));
    // Debian's scripts need the name of each domain.
    json!({"c_info": {"type": kind, "name": name, "uuid": uuid}})
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
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

    fn without_domain(last_domid: Option<u16>) -> Listed {
        Listed {
            uuid: Uuid::from_bytes([7; 16]),
            name: "web".to_owned(),
            last_domid: last_domid.map(DomId),
            state: VmState::Restarting,
            kind: Some(xen_port::GuestKind::Pvh),
            memory_kib: 262_144,
            nr_vcpus: 2,
        }
    }

    #[test]
    fn a_vm_without_a_domain_has_the_columns_of_xl() {
        let vm = without_domain(Some(7));
        let line = absent_row(&vm, 7, Columns::default());
        assert_eq!(
            line,
            "web                                          7   256     2     ------       0.0"
        );
        let columns = Columns {
            verbose: true,
            cpupool: true,
            numa: true,
            states: true,
            ..Columns::default()
        };
        let of_domain = Extra {
            pool: Some("Pool-0".to_owned()),
            nodes: Some("all".to_owned()),
            state: Some(VmState::Running),
            ..Extra::default()
        };
        let of_domain = row(&dom0(), Some("d"), columns, &of_domain);
        let words = |line: &str| line.split_whitespace().count();
        assert_eq!(words(&absent_row(&vm, 7, columns)), words(&of_domain));
    }

    #[test]
    fn a_number_that_another_domain_has_is_not_shown() {
        let infos = [dom0()];
        assert_eq!(shown_number(&without_domain(Some(7)), &infos), 7);
        assert_eq!(shown_number(&without_domain(Some(0)), &infos), NO_DOMID);
        assert_eq!(shown_number(&without_domain(None), &infos), NO_DOMID);
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
            state: None,
        };
        assert!(row(&dom0(), Some("d"), columns, &extra).ends_with("12.3          Pool-0 all"));
        assert!(header(columns).ends_with("Time(s)         Cpupool NODE Affinity"));
    }
}
