//! The command line as clap parses it: global options and the commands.

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::tell::Style;

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
  5, 6, 7  what `xyl fsck` has found: see its help
  129, 130, 131, 143  ended by a signal (128 and its number): a console, or `create -F`

For shells and packagers: `xyl completion bash` (or zsh, fish), `xyl man DIR`.

Environment:
  XYL_VERBOSE=N         as N times -v
  XYL_DRY_RUN=1         as -N
  XYL_JSON=1            as --json
  XYL_TIMESTAMPS=1      as -T
  XYL_XL_CONF=FILE      read FILE in place of /etc/xen/xl.conf
  XYL_STORE_TIMEOUT=S   seconds to wait for each answer of xenstored; if not set, 20,
                        and 5 for the names in a list
  XENSTORED_PATH=FILE   xenstored's socket, for this command; not for the monitors that it starts
  XYL_HOST=sim:FOLDER   a simulated host that lives in FOLDER, to try all this without Xen

With --json each line on standard error is a JSON object:
  {\"error\": {\"code\": WORD, \"message\": TEXT, \"exit_code\": NUMBER, ...}}
  {\"warning\": {\"message\": TEXT, ...}}
  {\"notice\": {\"message\": TEXT}}
The code is stable: docs/errors.md lists them all.";

/// Everything that was typed.
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
    /// Options before the command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command and its arguments.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that stand before the command; `--json` may stand after it too.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// Say more on standard error, and count the requests made; repeat for yet more
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Dry run: say what would be done, and do nothing
    #[arg(short = 'N', env = "XYL_DRY_RUN", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0)]
    pub dry_run: bool,
    /// Accepted as xl does, and without effect: what can be forced has an option of its own
    #[arg(short = 'f')]
    pub force: bool,
    /// Show progress in place, with carriage returns, even if standard error is no terminal
    #[arg(short = 't')]
    pub progress_in_place: bool,
    /// Begin each message with the time and the process's number
    #[arg(short = 'T', env = "XYL_TIMESTAMPS", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0)]
    pub timestamps: bool,
    /// Work on the simulated host of XYL_HOST though this machine has Xen
    #[arg(long)]
    pub simulated: bool,
    /// Print JSON where the command prints something, and errors as JSON
    #[arg(long, global = true, env = "XYL_JSON", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0)]
    pub json: bool,
}

impl GlobalArgs {
    /// How messages look.
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

        /// One command as clap parses it.
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
    Claims = "claims": commands::claims::Args,
    #[command(hide = true)]
    Completion = "completion": commands::completion::Args,
    Console = "console": commands::console::Args,
    Create = "create": commands::create::Args,
    Destroy = "destroy": commands::destroy::Args,
    Dmesg = "dmesg": commands::dmesg::Args,
    Domid = "domid": commands::domid::Args,
    Domname = "domname": commands::domname::Args,
    DumpCore = "dump-core": commands::dump_core::Args,
    Explain = "explain": commands::explain::Args,
    Fsck = "fsck": commands::fsck::Args,
    Info = "info": commands::info::Args,
    List = "list": commands::list::Args,
    #[command(hide = true)]
    Man = "man": commands::man::Args,
    MemMax = "mem-max": commands::mem::MaxArgs,
    MemSet = "mem-set": commands::mem::SetArgs,
    #[command(hide = true)]
    Monitor = "monitor": commands::monitor::Args,
    Ops = "ops": commands::ops::Args,
    Pause = "pause": commands::pause::PauseArgs,
    Reboot = "reboot": commands::shutdown::RebootArgs,
    Recover = "recover": commands::recover::Args,
    Rename = "rename": commands::rename::Args,
    SchedCredit = "sched-credit": commands::sched::CreditArgs,
    SchedCredit2 = "sched-credit2": commands::sched::Credit2Args,
    #[command(hide = true)]
    SimulatedHost = "simulated-host": commands::simulated_host::Args,
    Shutdown = "shutdown": commands::shutdown::ShutdownArgs,
    Sysrq = "sysrq": commands::sysrq::Args,
    Top = "top": commands::top::Args,
    Trigger = "trigger": commands::trigger::Args,
    Unpause = "unpause": commands::pause::UnpauseArgs,
    UpgradeMonitors = "upgrade-monitors": commands::upgrade_monitors::Args,
    Uptime = "uptime": commands::uptime::Args,
    VcpuList = "vcpu-list": commands::vcpu_list::Args,
    VcpuPin = "vcpu-pin": commands::vcpu_pin::Args,
    VcpuSet = "vcpu-set": commands::vcpu_set::Args,
    VmList = "vm-list": commands::vm_list::Args,
}

/// The parser for a command line that runs the command `name`, or the whole one where no command, or
/// help on them all, is asked for. Describing all commands takes longer than most of them run.
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

/// Options as xl's getopt takes them: an option that is repeated counts once, and a long one may be cut short to what is
/// unique.
fn as_getopt(command: clap::Command) -> clap::Command {
    command
        .infer_long_args(true)
        .args_override_self(true)
        .mut_subcommands(as_getopt)
}

/// A `COLUMNS` that is too small for words says nothing: the help is laid out for 80 columns then.
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

    /// The texts after the help of all commands.
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
                // A line that ends within a paragraph would end there on a narrow terminal too.
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
