//! `xyl rename`: another name for a domain.

use xyl_engine::domains;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Give a domain another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl rename web web-old")]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// Its new name
    new_name: String,
}

/// Runs `xyl rename`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domain = context.find(&args.domain)?;
    if context.would(format!(
        "rename domain {} to `{}`",
        domain.info.domid, args.new_name
    ))? {
        return Ok(());
    }
    let mut host = context.open_host()?;
    let outcome = domains::rename(&mut host, &domain.info, &args.new_name);
    context.count(&host);
    Ok(outcome?)
}
