//! `xyl destroy`: the end of a domain, at once.

use xyl_engine::destroy;
use xyl_engine::domains::{self, DomainRef};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// End a domain at once, as if its power failed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl destroy web
  xyl destroy 3")]
pub struct Args {
    /// Destroy it even if it has devices that Xyl cannot take down: their backends are left behind
    #[arg(short, long)]
    force: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl destroy`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let asked = DomainRef::parse(&args.domain);
    let (hv, store, index) = host.directory();
    let domid = domains::find(hv, store, &index, &asked)?.info.domid;
    if context.would(format!("destroy domain {domid}"))? {
        return Ok(());
    }
    let outcome = destroy::destroy(&mut host, domid, args.force);
    context.count(&host);
    Ok(outcome?)
}
