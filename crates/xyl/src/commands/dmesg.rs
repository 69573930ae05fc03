//! `xyl dmesg`: Xen's log.

use serde_json::json;

use crate::context::Context;
use crate::error::Outcome;

/// Print Xen's log
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl dmesg | grep -i error
  xyl dmesg -c > boot.log

JSON: {log}")]
pub struct Args {
    /// Empty the log after printing it
    #[arg(short, long)]
    clear: bool,
}

/// Runs `xyl dmesg`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let clear = args.clear && !context.would("empty Xen's log".to_owned())?;
    let log = context.hv()?.console_ring(clear)?;
    if context.json() {
        let log = String::from_utf8_lossy(&log);
        return Ok(context.out.json(&json!({"log": log}))?);
    }
    Ok(context.out.bytes(&log)?)
}
