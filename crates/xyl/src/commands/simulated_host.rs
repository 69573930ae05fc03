//! `xyl simulated-host`: the process that is a simulated host. `XYL_HOST=sim:FOLDER` starts it.

use std::path::PathBuf;

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Be a simulated host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`XYL_HOST=sim:FOLDER xyl COMMAND` starts this in the background when it is not there yet. It ends when it has had \
neither guests nor commands for a minute, or when FOLDER is removed.

Examples:
  XYL_HOST=sim:$HOME/xyl-host xyl info"
)]
pub struct Args {
    /// The folder that it lives in
    folder: PathBuf,
}

/// Runs `xyl simulated-host`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if context.would(format!(
        "serve a simulated host in {}",
        args.folder.display()
    ))? {
        return Ok(());
    }
    let served = xen_sim::machine::serve(&args.folder);
    served.map_err(|error| Failure::refused(error.to_string()))
}
