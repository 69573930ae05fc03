//! The commands, one file for each. [`run`] is called by [`crate::run`] and dispatches to them.

pub mod adopt;
pub mod audit;
pub mod autostart;
pub mod block_attach;
pub mod block_detach;
pub mod block_list;
pub mod check_image;
pub mod claims;
pub mod completion;
pub mod console;
pub mod cpupool;
pub mod cpupool_create;
pub mod create;
pub mod debug_keys;
pub mod destroy;
pub mod devd;
pub mod device_attach;
pub mod device_list;
pub mod device_lists;
pub mod dmesg;
pub mod domid;
pub mod domname;
pub mod dump_core;
pub mod explain;
pub mod flask;
pub mod fsck;
pub mod info;
pub mod inventory;
pub mod later;
pub mod list;
pub mod man;
pub mod mem;
pub mod metrics;
pub mod monitor;
pub mod network_attach;
pub mod network_detach;
pub mod network_list;
pub mod ops;
pub mod pause;
pub mod pci;
pub mod psr;
pub mod recover;
pub mod rename;
pub mod restore;
pub mod save;
pub mod sched;
pub mod sched_rtds;
pub mod sharing;
pub mod shutdown;
pub mod simulated_host;
pub mod start;
pub mod stop;
pub mod suspend;
pub mod sysrq;
pub mod top;
pub mod trigger;
pub mod upgrade_monitors;
pub mod uptime;
pub mod vcpu_list;
pub mod vcpu_pin;
pub mod vcpu_set;
pub mod vkb_attach;
pub mod vkb_detach;
pub mod vm_list;

use crate::cli::Command;
use crate::context::Context;
use crate::error::Outcome;

/// Commands that help and completion list, in alphabetical order.
pub const HERE: &[&str] = &[
    "adopt",
    "audit",
    "autostart",
    "block-attach",
    "block-detach",
    "block-list",
    "button-press",
    "channel-list",
    "claims",
    "console",
    "cpupool-cpu-add",
    "cpupool-cpu-remove",
    "cpupool-create",
    "cpupool-destroy",
    "cpupool-list",
    "cpupool-migrate",
    "cpupool-numa-split",
    "cpupool-rename",
    "create",
    "debug-keys",
    "destroy",
    "devd",
    "dmesg",
    "domid",
    "domname",
    "dump-core",
    "explain",
    "fsck",
    "getenforce",
    "help",
    "info",
    "list",
    "loadpolicy",
    "mem-max",
    "mem-set",
    "metrics",
    "network-attach",
    "network-detach",
    "network-list",
    "ops",
    "pause",
    "pci-assignable-add",
    "pci-assignable-list",
    "pci-assignable-remove",
    "pci-attach",
    "pci-detach",
    "pci-list",
    "psr-cat-set",
    "psr-cat-show",
    "psr-cmt-attach",
    "psr-cmt-detach",
    "psr-cmt-show",
    "psr-hwinfo",
    "psr-mba-set",
    "psr-mba-show",
    "reboot",
    "recover",
    "rename",
    "restore",
    "resume",
    "save",
    "sched-credit",
    "sched-credit2",
    "sched-rtds",
    "set-parameters",
    "setenforce",
    "sharing",
    "shutdown",
    "start",
    "stop",
    "suspend",
    "sysrq",
    "top",
    "trigger",
    "unpause",
    "uptime",
    "usb-list",
    "vcpu-list",
    "vcpu-pin",
    "vcpu-set",
    "vdispl-list",
    "vkb-attach",
    "vkb-detach",
    "vkb-list",
    "vm-list",
    "vsnd-list",
    "vtpm-list",
];

/// Commands that no list shows: those for packagers, shells and Xyl itself.
///
/// `upgrade-monitors` is among them, because otherwise `up` would no longer be a unique prefix of xl's `uptime`; so are `inventory` for `info` and `check-image` for
/// `channel-list`.
pub const HIDDEN: &[&str] = &[
    "check-image",
    "completion",
    "inventory",
    "man",
    "monitor",
    "simulated-host",
    "upgrade-monitors",
];

/// Runs one command.
pub fn run(command: &Command, context: &Context) -> Outcome {
    if changes_a_vm(command) && !context.dry_run() {
        recover::before_a_change(context);
        // A destroy needs no new monitor for the VM.
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
        Command::Autostart(args) => autostart::run(args, context),
        Command::BlockAttach(args) => block_attach::run(args, context),
        Command::BlockDetach(args) => block_detach::run(args, context),
        Command::BlockList(args) => block_list::run(args, context),
        Command::ButtonPress(args) => trigger::run_button(args, context),
        Command::ChannelList(args) => device_lists::run_channel(args, context),
        Command::CheckImage(args) => check_image::run(args, context),
        Command::Claims(args) => claims::run(args, context),
        Command::Completion(args) => completion::run(args, context),
        Command::Console(args) => console::run(args, context),
        Command::CpupoolCpuAdd(args) => cpupool::run_cpu_add(args, context),
        Command::CpupoolCpuRemove(args) => cpupool::run_cpu_remove(args, context),
        Command::CpupoolCreate(args) => cpupool_create::run(args, context),
        Command::CpupoolDestroy(args) => cpupool::run_destroy(args, context),
        Command::CpupoolList(args) => cpupool::run_list(args, context),
        Command::CpupoolMigrate(args) => cpupool::run_migrate(args, context),
        Command::CpupoolNumaSplit(args) => cpupool::run_numa_split(args, context),
        Command::CpupoolRename(args) => cpupool::run_rename(args, context),
        Command::Create(args) => create::run(args, context),
        Command::DebugKeys(args) => debug_keys::run_keys(args, context),
        Command::Destroy(args) => destroy::run(args, context),
        Command::Devd(args) => devd::run(args, context),
        Command::Dmesg(args) => dmesg::run(args, context),
        Command::Domid(args) => domid::run(args, context),
        Command::Domname(args) => domname::run(args, context),
        Command::DumpCore(args) => dump_core::run(args, context),
        Command::Explain(args) => explain::run(args, context),
        Command::Fsck(args) => fsck::run(args, context),
        Command::Getenforce(args) => flask::run_get(args, context),
        Command::Info(args) => info::run(args, context),
        Command::Inventory(args) => inventory::run(args, context),
        Command::List(args) => list::run(args, context),
        Command::Loadpolicy(args) => flask::run_load(args, context),
        Command::Man(args) => man::run(args, context),
        Command::MemMax(args) => mem::run_max(args, context),
        Command::MemSet(args) => mem::run_set(args, context),
        Command::Metrics(args) => metrics::run(args, context),
        Command::Monitor(args) => monitor::run(args, context),
        Command::NetworkAttach(args) => network_attach::run(args, context),
        Command::NetworkDetach(args) => network_detach::run(args, context),
        Command::NetworkList(args) => network_list::run(args, context),
        Command::Ops(args) => ops::run(args, context),
        Command::Pause(args) => pause::run_pause(args, context),
        Command::PciAssignableAdd(args) => pci::run_add(args, context),
        Command::PciAssignableList(args) => pci::run_assignable(args, context),
        Command::PciAssignableRemove(args) => pci::run_remove(args, context),
        Command::PciAttach(args) => pci::run_attach(args, context),
        Command::PciDetach(args) => pci::run_detach(args, context),
        Command::PciList(args) => pci::run_list(args, context),
        Command::PsrCatSet(args) => psr::run_cat_set(args, context),
        Command::PsrCatShow(args) => psr::run_cat_show(args, context),
        Command::PsrCmtAttach(args) => psr::run_cmt_attach(args, context),
        Command::PsrCmtDetach(args) => psr::run_cmt_detach(args, context),
        Command::PsrCmtShow(args) => psr::run_cmt_show(args, context),
        Command::PsrHwinfo(args) => psr::run_hwinfo(args, context),
        Command::PsrMbaSet(args) => psr::run_mba_set(args, context),
        Command::PsrMbaShow(args) => psr::run_mba_show(args, context),
        Command::Reboot(args) => shutdown::run_reboot(args, context),
        Command::Recover(args) => recover::run(args, context),
        Command::Rename(args) => rename::run(args, context),
        Command::Restore(args) => restore::run(args, context),
        Command::Resume(args) => suspend::run_resume(args, context),
        Command::Save(args) => save::run(args, context),
        Command::SchedCredit(args) => sched::run_credit(args, context),
        Command::SchedCredit2(args) => sched::run_credit2(args, context),
        Command::SchedRtds(args) => sched_rtds::run(args, context),
        Command::SetParameters(args) => debug_keys::run_parameters(args, context),
        Command::Setenforce(args) => flask::run_set(args, context),
        Command::Sharing(args) => sharing::run(args, context),
        Command::Shutdown(args) => shutdown::run_shutdown(args, context),
        Command::Start(args) => start::run(args, context),
        Command::Stop(args) => stop::run(args, context),
        Command::Suspend(args) => suspend::run_suspend(args, context),
        Command::SimulatedHost(args) => simulated_host::run(args, context),
        Command::Sysrq(args) => sysrq::run(args, context),
        Command::Top(args) => top::run(args, context),
        Command::Trigger(args) => trigger::run(args, context),
        Command::Unpause(args) => pause::run_unpause(args, context),
        Command::UpgradeMonitors(args) => upgrade_monitors::run(args, context),
        Command::Uptime(args) => uptime::run(args, context),
        Command::UsbList(args) => pci::run_usb(args, context),
        Command::VcpuList(args) => vcpu_list::run(args, context),
        Command::VcpuPin(args) => vcpu_pin::run(args, context),
        Command::VcpuSet(args) => vcpu_set::run(args, context),
        Command::VdisplList(args) => device_lists::run_vdispl(args, context),
        Command::VkbAttach(args) => vkb_attach::run(args, context),
        Command::VkbDetach(args) => vkb_detach::run(args, context),
        Command::VkbList(args) => device_lists::run_vkb(args, context),
        Command::VmList(args) => vm_list::run(args, context),
        Command::VsndList(args) => device_lists::run_vsnd(args, context),
        Command::VtpmList(args) => device_lists::run_vtpm(args, context),
    }
}

/// Whether the command changes a VM. Then unfinished operations of dead processes are finished first.
fn changes_a_vm(command: &Command) -> bool {
    matches!(
        command,
        Command::Adopt(_)
            | Command::BlockAttach(_)
            | Command::BlockDetach(_)
            | Command::NetworkAttach(_)
            | Command::NetworkDetach(_)
            | Command::VkbAttach(_)
            | Command::VkbDetach(_)
            | Command::PciAttach(_)
            | Command::PciDetach(_)
            | Command::ButtonPress(_)
            | Command::CpupoolMigrate(_)
            | Command::Create(_)
            | Command::Destroy(_)
            | Command::DumpCore(_)
            | Command::MemMax(_)
            | Command::MemSet(_)
            | Command::Pause(_)
            | Command::Reboot(_)
            | Command::Rename(_)
            | Command::Restore(_)
            | Command::Resume(_)
            | Command::Save(_)
            | Command::Shutdown(_)
            | Command::Start(_)
            | Command::Stop(_)
            | Command::Suspend(_)
            | Command::Sysrq(_)
            | Command::Trigger(_)
            | Command::Unpause(_)
            | Command::VcpuPin(_)
            | Command::VcpuSet(_)
    )
}
