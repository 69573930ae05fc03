//! `xyl debug-keys` and `xyl set-parameters`: what an administrator types to a running Xen.

use xyl_engine::control::parameters;

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Send debug keys to Xen
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Xen prints into its log: `xyl dmesg` shows it. The key h lists the keys. Some change the host: R reboots it.

Examples:
  xyl debug-keys h             which keys there are
  xyl debug-keys qr            domains, and the queues of the schedulers"
)]
pub struct KeysArgs {
    /// The keys, a letter each
    keys: String,
}

/// Most keys in one request.
const KEYS_MAX: usize = 1024;

/// Runs `xyl debug-keys`.
pub fn run_keys(args: &KeysArgs, context: &Context) -> Outcome {
    let is_plain = |c: char| c.is_ascii_graphic();
    if args.keys.is_empty() || args.keys.len() > KEYS_MAX || !args.keys.chars().all(is_plain) {
        return Err(Failure::usage(
            "debug keys are letters, digits and signs of ASCII, one or more",
        ));
    }
    if context.would(format!("send the debug keys `{}` to Xen", args.keys))? {
        return Ok(());
    }
    Ok(context.hv()?.send_debug_keys(&args.keys)?)
}

/// Set parameters of the running Xen
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The parameters are those of Xen's command line that can change while it runs. They are set one after the other: what \
precedes an error stays set. All names and values are checked first.

Examples:
  xyl set-parameters 'guest_loglvl=all'
  xyl set-parameters 'loglvl=warning/all guest_loglvl=none'"
)]
pub struct ParametersArgs {
    /// The parameters, with blanks between: NAME=VALUE, or noNAME
    parameters: String,
}

/// Runs `xyl set-parameters`.
pub fn run_parameters(args: &ParametersArgs, context: &Context) -> Outcome {
    let settings = parameters::parse(&args.parameters)?;
    for setting in &settings {
        parameters::check(context.hv()?, setting)?;
    }
    for setting in &settings {
        let would = format!(
            "set Xen's parameter {} to `{}`",
            setting.name, setting.value
        );
        if !context.would(would)? {
            parameters::set(context.hv()?, setting)?;
        }
    }
    Ok(())
}
