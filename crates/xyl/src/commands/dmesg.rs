//! `xyl dmesg`: prints Xen's log.

use std::io::IsTerminal;

use serde_json::json;

use crate::context::Context;
use crate::error::Outcome;
use crate::shown::Shown;

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
    // Domain 0 can write any bytes to this log. With a debug build of Xen, guests can too.
    if std::io::stdout().is_terminal() {
        let log = String::from_utf8_lossy(&log);
        return Ok(context.out.part(Shown::lines(&log))?);
    }
    Ok(context.out.bytes(&log)?)
}
