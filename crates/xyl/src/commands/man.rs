//! `xyl man`: manual pages from the same source as the help.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Write the manual pages of xyl and of each command into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl man /usr/share/man/man1")]
pub struct Args {
    /// The folder, which must be there
    dir: PathBuf,
}

/// Runs `xyl man`.
pub fn run(args: &Args, _context: &Context) -> Outcome {
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(|source| {
        Failure::io(
            format!("write manual pages to {}", args.dir.display()),
            source,
        )
    })
}
