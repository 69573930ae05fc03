//! One file for each command.

pub mod adopt;
pub mod audit;
pub mod claims;
pub mod completion;
pub mod console;
pub mod create;
pub mod destroy;
pub mod dmesg;
pub mod domid;
pub mod domname;
pub mod dump_core;
pub mod explain;
pub mod fsck;
pub mod info;
pub mod later;
pub mod list;
pub mod man;
pub mod mem;
pub mod monitor;
pub mod ops;
pub mod pause;
pub mod recover;
pub mod rename;
pub mod sched;
pub mod shutdown;
pub mod simulated_host;
pub mod sysrq;
pub mod top;
pub mod trigger;
pub mod upgrade_monitors;
pub mod uptime;
pub mod vcpu_list;
pub mod vcpu_pin;
pub mod vcpu_set;
pub mod vm_list;

use crate::cli::Command;
use crate::context::Context;
use crate::error::Outcome;

/// The commands that a user sees, in the order of the alphabet.
pub const HERE: &[&str] = &[
    "adopt",
    "audit",
    "claims",
    "console",
    "create",
    "destroy",
    "dmesg",
    "domid",
    "domname",
    "dump-core",
    "explain",
    "fsck",
    "help",
    "info",
    "list",
    "mem-max",
    "mem-set",
    "ops",
    "pause",
    "reboot",
    "recover",
    "rename",
    "sched-credit",
    "sched-credit2",
    "shutdown",
    "sysrq",
    "top",
    "trigger",
    "unpause",
    "uptime",
    "vcpu-list",
    "vcpu-pin",
    "vcpu-set",
    "vm-list",
];

/// Commands for packagers, shells and Xyl itself, and one that would keep `up` from being xl's `uptime`. No list names them.
pub const HIDDEN: &[&str] = &[
    "completion",
    "man",
    "monitor",
    "simulated-host",
    "upgrade-monitors",
];

/// Runs one command.
pub fn run(command: &Command, context: &Context) -> Outcome {
    if changes_a_vm(command) && !context.dry_run() {
        recover::before_a_change(context);
        // Nobody needs to watch over what is about to go.
        if !matches!(command, Command::Destroy(_)) {
            recover::replace_dead_monitors(context);
        }
    }
    let outcome = run_one(command, context);
    if matches!(command, Command::List(_)) && !context.dry_run() {
        recover::replace_dead_monitors(context);
    }
    outcome
}

fn run_one(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Adopt(args) => adopt::run(args, context),
        Command::Audit(args) => audit::run(args, context),
        Command::Claims(args) => claims::run(args, context),
        Command::Completion(args) => completion::run(args, context),
        Command::Console(args) => console::run(args, context),
        Command::Create(args) => create::run(args, context),
        Command::Destroy(args) => destroy::run(args, context),
        Command::Dmesg(args) => dmesg::run(args, context),
        Command::Domid(args) => domid::run(args, context),
        Command::Domname(args) => domname::run(args, context),
        Command::DumpCore(args) => dump_core::run(args, context),
        Command::Explain(args) => explain::run(args, context),
        Command::Fsck(args) => fsck::run(args, context),
        Command::Info(args) => info::run(args, context),
        Command::List(args) => list::run(args, context),
        Command::Man(args) => man::run(args, context),
        Command::MemMax(args) => mem::run_max(args, context),
        Command::MemSet(args) => mem::run_set(args, context),
        Command::Monitor(args) => monitor::run(args, context),
        Command::Ops(args) => ops::run(args, context),
        Command::Pause(args) => pause::run_pause(args, context),
        Command::Reboot(args) => shutdown::run_reboot(args, context),
        Command::Recover(args) => recover::run(args, context),
        Command::Rename(args) => rename::run(args, context),
        Command::SchedCredit(args) => sched::run_credit(args, context),
        Command::SchedCredit2(args) => sched::run_credit2(args, context),
        Command::SimulatedHost(args) => simulated_host::run(args, context),
        Command::Shutdown(args) => shutdown::run_shutdown(args, context),
        Command::Sysrq(args) => sysrq::run(args, context),
        Command::Top(args) => top::run(args, context),
        Command::Trigger(args) => trigger::run(args, context),
        Command::Unpause(args) => pause::run_unpause(args, context),
        Command::Uptime(args) => uptime::run(args, context),
        Command::VcpuList(args) => vcpu_list::run(args, context),
        Command::VcpuPin(args) => vcpu_pin::run(args, context),
        Command::VcpuSet(args) => vcpu_set::run(args, context),
        Command::UpgradeMonitors(args) => upgrade_monitors::run(args, context),
        Command::VmList(args) => vm_list::run(args, context),
    }
}

/// Whether the command changes a VM: then nobody's work on one may be left half done before.
fn changes_a_vm(command: &Command) -> bool {
    matches!(
        command,
        Command::Adopt(_)
            | Command::Create(_)
            | Command::Destroy(_)
            | Command::DumpCore(_)
            | Command::MemMax(_)
            | Command::MemSet(_)
            | Command::Pause(_)
            | Command::Reboot(_)
            | Command::Rename(_)
            | Command::Shutdown(_)
            | Command::Sysrq(_)
            | Command::Trigger(_)
            | Command::Unpause(_)
            | Command::VcpuPin(_)
            | Command::VcpuSet(_)
    )
}
