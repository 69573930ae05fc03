//! `xyl simulated-host`: the process of a simulated host. `XYL_HOST=sim:FOLDER` starts it.

use std::path::PathBuf;

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Be a simulated host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`XYL_HOST=sim:FOLDER xyl COMMAND` starts this in the background if it does not run yet. It ends after a minute without \
guests and commands, or when FOLDER is removed.

Examples:
  XYL_HOST=sim:$HOME/xyl-host xyl info"
)]
pub struct Args {
    /// Folder with the files of the simulated host
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
