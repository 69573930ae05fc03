//! `xyl domname`: the name of a number.

use serde_json::json;

use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Print the name of the domain with a number
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl domname 3

JSON: {domid, name}")]
pub struct Args {
    /// The domain's number
    domid: u16,
}

/// Runs `xyl domname`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domain = context.find(&args.domid.to_string())?;
    let name = context.name_of(&domain)?.ok_or_else(|| {
        Failure::refused(format!("domain {} has no name in xenstore", args.domid))
    })?;
    if context.json() {
        return Ok(context
            .out
            .json(&json!({"domid": args.domid, "name": name}))?);
    }
    Ok(context.out.line(Shown::line(&name))?)
}
