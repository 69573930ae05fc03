//! `xyl domname`: prints the name of a domid.

use serde_json::json;

use crate::context::{Context, FoundVm};
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Print the name of the domain with a number
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl domname 3

JSON: {domid, name}")]
pub struct Args {
    /// The domain's number
    #[arg(value_parser = number)]
    domid: u16,
}

fn number(word: &str) -> Result<u16, String> {
    let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    match (word.parse(), is_number) {
        (Ok(number), true) => Ok(number),
        (Err(_), true) => Err("no domain has so great a number".to_owned()),
        _ => Err(
            "a domain's number is wanted; `xyl domid NAME` prints the number of a name".to_owned(),
        ),
    }
}

/// Runs `xyl domname`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let name = match context.find_vm(&args.domid.to_string())? {
        FoundVm::WithDomain(domain) => context.name_of(&domain)?.ok_or_else(|| {
            Failure::refused(format!("domain {} has no name in xenstore", args.domid))
        })?,
        // The number was that of its last domain.
        FoundVm::WithoutDomain(vm) => vm.name,
    };
    if context.json() {
        return Ok(context
            .out
            .json(&json!({"domid": args.domid, "name": name}))?);
    }
    Ok(context.out.line(Shown::line(&name))?)
}
