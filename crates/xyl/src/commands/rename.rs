//! `xyl rename`: gives a domain another name.

use xyl_engine::supervise::requests::Request;

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
    let request = Request::Rename {
        name: args.new_name.clone(),
    };
    context.change(&args.domain, &request, |domid| {
        format!("rename domain {domid} to `{}`", args.new_name)
    })
}
