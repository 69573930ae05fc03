//! `xyl domid`: prints the domid of a name.

use serde_json::json;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Print the number of the domain with a name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl domid web

JSON: {domid, name}")]
pub struct Args {
    /// The domain's name, or `uuid=...`
    #[arg(add = domain_names())]
    name: String,
}

/// Runs `xyl domid`. Digits are a name here, as for xl. Other commands take digits as a domid.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domain = context.find_by_name(&args.name)?;
    if context.json() {
        return Ok(context
            .out
            .json(&json!({"domid": domain.info.domid.0, "name": domain.name}))?);
    }
    Ok(context.out.line(domain.info.domid)?)
}
