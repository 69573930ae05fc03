//! `xyl sysrq`: sends a magic SysRq key to a Linux guest.

use xyl_engine::supervise::requests::Request;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Send a SysRq key to a Linux guest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest reads the key from xenstore at a time of its choice. Linux prints the result on its console.

Examples:
  xyl sysrq web h              help on the keys
  xyl sysrq web t              tasks and their stacks"
)]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// One letter or digit
    #[arg(value_name = "LETTER", value_parser = one_key)]
    key: char,
}

fn one_key(word: &str) -> Result<char, String> {
    let mut chars = word.chars();
    match (chars.next(), chars.next()) {
        (Some(key), None) if key.is_ascii_alphanumeric() => Ok(key),
        _ => Err("a key is one letter or digit".to_owned()),
    }
}

/// Runs `xyl sysrq`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    context.change(&args.domain, &Request::Sysrq { key: args.key }, |domid| {
        format!("send SysRq `{}` to domain {domid}", args.key)
    })
}
