//! The clap parser of the command line: the global options, and one [`Command`] for each file under `commands`.
//!
//! [`crate::run`] calls [`parser_for`] after [`crate::resolve`] has completed the command word.

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::stderr::Style;

const ABOUT: &str = "Create, watch and destroy virtual machines on Xen";

const LONG_ABOUT: &str = "Create, watch and destroy virtual machines on Xen.

Commands and options are those of xl, and so is the output where scripts read it. A command may be \
shortened to what is unique among xl's commands (`xyl cr` is `xyl create`). A DOMAIN is a domain's \
number, its name, or `uuid=...`; digits alone are always a number.";

const AFTER_HELP: &str = "Examples:
  xyl create web.cfg           create and start the domain that web.cfg describes
  xyl create -c web.cfg        the same, and show its console from the first byte on
  xyl list                     show all domains
  xyl list --json              the same for programs
  xyl shutdown -w web          ask it to shut down, and wait until it has
  xyl -N destroy web           say what would be done, and do nothing

Exit codes:
  0  done
  1  failed; standard error says at which step, why, and what to do
  2  wrong usage: an unknown command or option, a missing or malformed argument
  3  found what `xyl audit --fail-on` names
  4  Xyl cannot do this yet, and xl can
  5, 6, 7  results of `xyl fsck`: see its help
  129, 130, 131, 143  ended by a signal (128 and its number): a console, or `create -F`

For shells and packagers: `xyl completion bash` (or zsh, fish), `xyl man DIR`.

Environment:
  XYL_VERBOSE=N         as N times -v
  XYL_DRY_RUN=1         as -N
  XYL_JSON=1            as --json
  XYL_TIMESTAMPS=1      as -T
  XYL_XL_CONF=FILE      read FILE instead of /etc/xen/xl.conf
  XYL_STORE_TIMEOUT=S   seconds to wait for each answer of xenstored; if not set, 20,
                        and 5 for the names in a list
  XENSTORED_PATH=FILE   xenstored's socket for this command; monitors do not use it
  XYL_HOST=sim:FOLDER   use a simulated host with its files in FOLDER; needs no Xen

With --json each line on standard error is a JSON object:
  {\"error\": {\"code\": WORD, \"message\": TEXT, \"exit_code\": NUMBER, ...}}
  {\"warning\": {\"message\": TEXT, ...}}
  {\"notice\": {\"message\": TEXT}}
The code is stable: docs/errors.md lists them all.";

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(
    name = "xyl",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    max_term_width = 100,
    infer_long_args = true,
    args_override_self = true
)]
pub struct Cli {
    /// Global options, from before the command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command and its arguments.
    #[command(subcommand)]
    pub command: Command,
}

/// Global options. They stand before the command; `--json` may stand after it too.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// Print more on standard error, and the number of requests; repeat for still more
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Dry run: say what would be done, and do nothing
    #[arg(short = 'N', env = "XYL_DRY_RUN", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0)]
    pub dry_run: bool,
    /// Accepted for xl's sake, without effect; commands that can be forced have their own --force
    #[arg(short = 'f')]
    pub force: bool,
    /// Show progress in place, with carriage returns, even if standard error is no terminal
    #[arg(short = 't')]
    pub progress_in_place: bool,
    /// Begin each message with the time and the process's number
    #[arg(short = 'T', env = "XYL_TIMESTAMPS", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0)]
    pub timestamps: bool,
    /// Allow the simulated host of XYL_HOST on a machine that has Xen
    #[arg(long)]
    pub simulated: bool,
    /// Print JSON where the command prints something, and errors as JSON
    #[arg(long, global = true, env = "XYL_JSON", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0)]
    pub json: bool,
}

impl GlobalArgs {
    /// The format of messages on standard error.
    pub fn style(&self) -> Style {
        Style {
            json: self.json,
            timestamps: self.timestamps,
        }
    }
}

macro_rules! commands {
    ($($(#[$attribute:meta])* $variant:ident = $name:literal: $arguments:ty,)*) => {
        /// The commands. Each has a file of its own under `commands`.
        #[derive(Debug, Subcommand)]
        #[allow(missing_docs)]
        pub enum Command {
            $($(#[$attribute])* #[command(name = $name)] $variant($arguments),)*
        }

        /// The clap parser of one command.
        fn one_command(name: &str) -> Option<clap::Command> {
            match name {
                $($name => Some(<$arguments as Args>::augment_args(clap::Command::new($name))),)*
                _ => None,
            }
        }
    };
}

commands! {
    Adopt = "adopt": commands::adopt::Args,
    Audit = "audit": commands::audit::Args,
    Autostart = "autostart": commands::autostart::Args,
    BlockAttach = "block-attach": commands::block_attach::Args,
    BlockDetach = "block-detach": commands::block_detach::Args,
    BlockList = "block-list": commands::block_list::Args,
    ButtonPress = "button-press": commands::trigger::ButtonArgs,
    ChannelList = "channel-list": commands::device_lists::ChannelArgs,
    CheckImage = "check-image": commands::check_image::Args,
    Claims = "claims": commands::claims::Args,
    #[command(hide = true)]
    Completion = "completion": commands::completion::Args,
    Console = "console": commands::console::Args,
    CpupoolCpuAdd = "cpupool-cpu-add": commands::cpupool::CpuAddArgs,
    CpupoolCpuRemove = "cpupool-cpu-remove": commands::cpupool::CpuRemoveArgs,
    CpupoolCreate = "cpupool-create": commands::cpupool_create::Args,
    CpupoolDestroy = "cpupool-destroy": commands::cpupool::DestroyArgs,
    CpupoolList = "cpupool-list": commands::cpupool::ListArgs,
    CpupoolMigrate = "cpupool-migrate": commands::cpupool::MigrateArgs,
    CpupoolNumaSplit = "cpupool-numa-split": commands::cpupool::NumaSplitArgs,
    CpupoolRename = "cpupool-rename": commands::cpupool::RenameArgs,
    Create = "create": commands::create::Args,
    DebugKeys = "debug-keys": commands::debug_keys::KeysArgs,
    Destroy = "destroy": commands::destroy::Args,
    Devd = "devd": commands::devd::Args,
    Dmesg = "dmesg": commands::dmesg::Args,
    Domid = "domid": commands::domid::Args,
    Domname = "domname": commands::domname::Args,
    DumpCore = "dump-core": commands::dump_core::Args,
    Explain = "explain": commands::explain::Args,
    Fsck = "fsck": commands::fsck::Args,
    Getenforce = "getenforce": commands::flask::GetArgs,
    Info = "info": commands::info::Args,
    #[command(hide = true)]
    Inventory = "inventory": commands::inventory::Args,
    List = "list": commands::list::Args,
    Loadpolicy = "loadpolicy": commands::flask::LoadArgs,
    #[command(hide = true)]
    Man = "man": commands::man::Args,
    MemMax = "mem-max": commands::mem::MaxArgs,
    MemSet = "mem-set": commands::mem::SetArgs,
    Metrics = "metrics": commands::metrics::Args,
    #[command(hide = true)]
    Monitor = "monitor": commands::monitor::Args,
    NetworkAttach = "network-attach": commands::network_attach::Args,
    NetworkDetach = "network-detach": commands::network_detach::Args,
    NetworkList = "network-list": commands::network_list::Args,
    Ops = "ops": commands::ops::Args,
    Pause = "pause": commands::pause::PauseArgs,
    PciAssignableAdd = "pci-assignable-add": commands::pci::AddArgs,
    PciAssignableList = "pci-assignable-list": commands::pci::AssignableArgs,
    PciAssignableRemove = "pci-assignable-remove": commands::pci::RemoveArgs,
    PciAttach = "pci-attach": commands::pci::AttachArgs,
    PciDetach = "pci-detach": commands::pci::DetachArgs,
    PciList = "pci-list": commands::pci::ListArgs,
    PsrCatSet = "psr-cat-set": commands::psr::CatSetArgs,
    PsrCatShow = "psr-cat-show": commands::psr::CatShowArgs,
    PsrCmtAttach = "psr-cmt-attach": commands::psr::CmtAttachArgs,
    PsrCmtDetach = "psr-cmt-detach": commands::psr::CmtDetachArgs,
    PsrCmtShow = "psr-cmt-show": commands::psr::CmtShowArgs,
    PsrHwinfo = "psr-hwinfo": commands::psr::HwinfoArgs,
    PsrMbaSet = "psr-mba-set": commands::psr::MbaSetArgs,
    PsrMbaShow = "psr-mba-show": commands::psr::MbaShowArgs,
    Reboot = "reboot": commands::shutdown::RebootArgs,
    Recover = "recover": commands::recover::Args,
    Rename = "rename": commands::rename::Args,
    Restore = "restore": commands::restore::Args,
    Resume = "resume": commands::suspend::ResumeArgs,
    Save = "save": commands::save::Args,
    SchedCredit = "sched-credit": commands::sched::CreditArgs,
    SchedCredit2 = "sched-credit2": commands::sched::Credit2Args,
    SchedRtds = "sched-rtds": commands::sched_rtds::Args,
    SetParameters = "set-parameters": commands::debug_keys::ParametersArgs,
    Setenforce = "setenforce": commands::flask::SetArgs,
    Sharing = "sharing": commands::sharing::Args,
    Shutdown = "shutdown": commands::shutdown::ShutdownArgs,
    #[command(hide = true)]
    SimulatedHost = "simulated-host": commands::simulated_host::Args,
    Start = "start": commands::start::Args,
    Stop = "stop": commands::stop::Args,
    Suspend = "suspend": commands::suspend::SuspendArgs,
    Sysrq = "sysrq": commands::sysrq::Args,
    Top = "top": commands::top::Args,
    Trigger = "trigger": commands::trigger::Args,
    Unpause = "unpause": commands::pause::UnpauseArgs,
    UpgradeMonitors = "upgrade-monitors": commands::upgrade_monitors::Args,
    Uptime = "uptime": commands::uptime::Args,
    UsbList = "usb-list": commands::pci::UsbArgs,
    VcpuList = "vcpu-list": commands::vcpu_list::Args,
    VcpuPin = "vcpu-pin": commands::vcpu_pin::Args,
    VcpuSet = "vcpu-set": commands::vcpu_set::Args,
    VdisplList = "vdispl-list": commands::device_lists::VdisplArgs,
    VkbAttach = "vkb-attach": commands::vkb_attach::Args,
    VkbDetach = "vkb-detach": commands::vkb_detach::Args,
    VkbList = "vkb-list": commands::device_lists::VkbArgs,
    VmList = "vm-list": commands::vm_list::Args,
    VsndList = "vsnd-list": commands::device_lists::VsndArgs,
    VtpmList = "vtpm-list": commands::device_lists::VtpmArgs,
}

/// Returns the clap parser for the command `name` alone. `None` gives the parser for all commands.
///
/// clap needs longer to describe all commands than most commands need to run.
pub fn parser_for(name: Option<&str>) -> clap::Command {
    let parser = match name.and_then(one_command) {
        Some(command) => GlobalArgs::augment_args(clap::Command::new("xyl"))
            .max_term_width(100)
            .subcommand_required(true)
            .subcommand(command),
        None => Cli::command(),
    };
    with_width(as_getopt(parser))
}

/// Makes options behave as with xl's getopt. A repeated option counts once. A long option may be shortened while it
/// is unique.
fn as_getopt(command: clap::Command) -> clap::Command {
    command
        .infer_long_args(true)
        .args_override_self(true)
        .mut_subcommands(as_getopt)
}

/// Lays the help out for 80 columns if `COLUMNS` is too small.
fn with_width(command: clap::Command) -> clap::Command {
    let columns = std::env::var("COLUMNS").ok();
    match columns.and_then(|columns| columns.parse::<usize>().ok()) {
        Some(columns) if columns < 20 => command.term_width(80),
        _ => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects the texts that follow the help of each command.
    fn after_help(command: &clap::Command, found: &mut Vec<(String, String)>) {
        if let Some(text) = command.get_after_help() {
            found.push((command.get_name().to_owned(), text.to_string()));
        }
        for sub in command.get_subcommands() {
            after_help(sub, found);
        }
    }

    #[test]
    fn prose_of_the_help_flows() {
        let mut texts = Vec::new();
        after_help(&Cli::command(), &mut texts);
        assert!(texts.len() > 30);
        let is_prose =
            |line: &str| !line.is_empty() && !line.starts_with(' ') && !line.ends_with(':');
        for (command, text) in texts {
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.windows(2) {
                // A line break inside a paragraph would look wrong on a narrow terminal.
                assert!(
                    !pair.iter().all(|line| is_prose(line)),
                    "{command}: {pair:?}"
                );
            }
            let long = lines
                .iter()
                .find(|line| line.starts_with(' ') && line.chars().count() > 100);
            assert_eq!(long, None, "{command}: it would be wrapped");
        }
    }

    #[test]
    fn one_command_alone_says_the_same_as_among_all() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let mut alone = parser_for(Some(name));
            let mut among_all = Cli::command();
            let help = |parser: &mut clap::Command| {
                parser.build();
                parser
                    .find_subcommand_mut(name)
                    .map(|found| found.render_long_help().to_string())
            };
            assert_eq!(help(&mut alone), help(&mut among_all), "{name}");
        }
    }
}
