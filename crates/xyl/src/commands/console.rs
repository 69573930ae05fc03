//! `xyl console`: attaches this terminal to a domain's console. The session itself is in [`crate::console`].

use crate::complete::domain_names;
use crate::console::{Console, Ending, Escape, Kind, Options};
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Attach to a domain's console
#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a terminal, keys go to the guest; Ctrl-] leaves. On a pipe, standard input goes to the guest, \
and its end does not end the session. The session ends with the domain.

Examples:
  xyl console web
  echo 'poweroff' | xyl console web
  xyl console web </dev/null | grep -m1 'login:'"
)]
pub struct Args {
    /// Console type; an HVM guest's serial line if it has one, else pv
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<KindName>,
    /// Console number
    #[arg(short = 'n', value_name = "NUMBER", default_value_t = 0)]
    number: u32,
    /// Leave with this character, ^X for Ctrl-X
    #[arg(short = 'e', value_name = "ESCAPE", default_value = "^]")]
    escape: Escape,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KindName {
    Pv,
    Serial,
    Vuart,
}

/// Runs `xyl console`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domain = context.find(&args.domain)?;
    let kind = args.kind.map(|kind| match kind {
        KindName::Pv => Kind::Pv,
        KindName::Serial => Kind::Serial,
        KindName::Vuart => Kind::Vuart,
    });
    let options = Options {
        kind,
        number: args.number,
        escape: args.escape,
    };
    let mut store = context.store()?;
    Console::check(&mut store, &domain.info, &options)?;
    if context.would(format!(
        "attach to the console of domain {}",
        domain.info.domid
    ))? {
        return Ok(());
    }
    let folders = context.console_folders();
    let console = Console::open(&mut store, &domain.info, &options, &folders)?;
    if let Some(warning) = console.warning() {
        context.warning(warning);
    }
    outcome(console.run(context.hv()?, &mut store)?)
}

/// Maps the end of a session to the command's outcome. Only a signal is a failure.
pub fn outcome(ending: Ending) -> Outcome {
    match ending {
        Ending::Signal(signal) => Err(Failure::Signal(signal)),
        Ending::Left | Ending::ShutDown(_) | Ending::Gone | Ending::OutputClosed => Ok(()),
    }
}
