//! `xyl completion`: prints the script that a shell needs to complete xyl's arguments.

use clap_complete::env::Shells;

use crate::complete::VARIABLE;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Print a script that makes a shell complete xyl's arguments
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The script asks xyl itself, so commands, options and domains are always up to date.

Examples:
  source <(xyl completion bash)
  xyl completion bash > /etc/bash_completion.d/xyl
  xyl completion zsh > /usr/local/share/zsh/site-functions/_xyl
  xyl completion fish > /etc/fish/completions/xyl.fish"
)]
pub struct Args {
    /// bash, zsh or fish
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Runs `xyl completion`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let shells = Shells::builtins();
    let shell = shells
        .completer(&args.shell)
        .ok_or_else(|| Failure::usage(format!("no completion for the shell `{}`", args.shell)))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "xyl", "xyl", "xyl", &mut script)
        .map_err(|source| Failure::io("write the script", source))?;
    Ok(context.out.bytes(&script)?)
}
