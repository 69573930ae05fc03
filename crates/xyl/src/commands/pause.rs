//! `xyl pause` and `xyl unpause`.

use xyl_engine::supervise::requests::Request;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Stop a domain's vCPUs; its memory and devices stay
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl pause web
  xyl unpause web")]
pub struct PauseArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Let a paused domain run on
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl create -p web.cfg
  xyl unpause web")]
pub struct UnpauseArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl pause`.
pub fn run_pause(args: &PauseArgs, context: &Context) -> Outcome {
    context.change(&args.domain, &Request::Pause, |domid| {
        format!("pause domain {domid}")
    })
}

/// Runs `xyl unpause`.
pub fn run_unpause(args: &UnpauseArgs, context: &Context) -> Outcome {
    context.change(&args.domain, &Request::Unpause, |domid| {
        format!("unpause domain {domid}")
    })
}
