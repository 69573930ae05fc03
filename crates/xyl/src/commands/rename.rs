//! `xyl rename`: another name for a domain.

use xyl_engine::domains;

use crate::context::Context;
use crate::error::Outcome;

/// Give a domain another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl rename web web-old")]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
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
    domains::rename(
        context.hv()?,
        &mut *context.store()?,
        &domain.info,
        &args.new_name,
    )?;
    Ok(())
}
