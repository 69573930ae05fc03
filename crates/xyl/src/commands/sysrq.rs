//! `xyl sysrq`: a magic SysRq key for a Linux guest.

use xyl_engine::power;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Send a SysRq key to a Linux guest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest takes the key from xenstore when it likes; Linux prints its answer on its console.

Examples:
  xyl sysrq web h              help on the keys
  xyl sysrq web t              tasks and their stacks"
)]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// One letter or digit
    #[arg(value_name = "LETTER")]
    key: char,
}

/// Runs `xyl sysrq`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domain = context.find(&args.domain)?;
    if context.would(format!(
        "send SysRq `{}` to domain {}",
        args.key, domain.info.domid
    ))? {
        return Ok(());
    }
    Ok(power::send_sysrq(
        &mut *context.store()?,
        domain.info.domid,
        args.key,
    )?)
}
