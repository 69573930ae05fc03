//! `xyl getenforce`, `xyl setenforce`, `xyl loadpolicy`: Flask, Xen's security module.

use std::path::PathBuf;

use clap::ValueHint;
use os_port::{Files, SystemFiles};
use serde_json::json;
use xen_port::Errno;
use xyl_engine::control::parameters::flask_error;

use crate::context::Context;
use crate::error::{Exit, Failure, Outcome};

/// Show whether Flask enforces its policy
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints Enforcing, Permissive, or `Flask XSM Disabled`, with exit code 1 for the last one. xl ends with 255 then, and with 1 \
for Enforcing.

Examples:
  xyl getenforce

JSON: {flask}: \"enforcing\", \"permissive\" or \"disabled\""
)]
pub struct GetArgs {}

/// Runs `xyl getenforce`.
pub fn run_get(_args: &GetArgs, context: &Context) -> Outcome {
    let (word, line) = match context.hv()?.flask_is_enforcing() {
        Ok(true) => ("enforcing", "Enforcing"),
        Ok(false) => ("permissive", "Permissive"),
        Err(error) if error.is(Errno::ENOSYS) => ("disabled", "Flask XSM Disabled"),
        Err(error) => return Err(error.into()),
    };
    match context.json() {
        true => context.out.json(&json!({ "flask": word }))?,
        false => context.out.line(line)?,
    }
    match word {
        "disabled" => {
            context.finish()?;
            Err(Failure::Said(Exit::Failed))
        }
        _ => Ok(()),
    }
}

/// Have Flask enforce its policy, or only log what it would refuse
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl setenforce enforcing
  xyl setenforce 0             the same as permissive")]
pub struct SetArgs {
    /// The mode
    #[arg(action = clap::ArgAction::Set, value_parser = mode, value_name = "1|0|enforcing|permissive")]
    mode: bool,
}

fn mode(word: &str) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "enforcing" => Ok(true),
        "0" | "permissive" => Ok(false),
        _ => Err("a mode is 1, 0, enforcing or permissive".to_owned()),
    }
}

/// Runs `xyl setenforce`.
pub fn run_set(args: &SetArgs, context: &Context) -> Outcome {
    let hv = context.hv()?;
    hv.flask_is_enforcing().map_err(flask_error)?;
    let word = if args.mode { "enforcing" } else { "permissive" };
    if context.would(format!("make Flask {word}"))? {
        return Ok(());
    }
    Ok(hv.set_flask_enforcing(args.mode).map_err(flask_error)?)
}

/// Load a policy into Flask
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl loadpolicy /boot/xenpolicy")]
pub struct LoadArgs {
    /// The file with the policy
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Largest policy that is read. Xen's own is some 20 KiB.
const POLICY_MAX_BYTES: u64 = 16 << 20;

/// Runs `xyl loadpolicy`.
pub fn run_load(args: &LoadArgs, context: &Context) -> Outcome {
    let policy = read(args)?;
    let hv = context.hv()?;
    hv.flask_is_enforcing().map_err(flask_error)?;
    if context.would(format!("load the policy {}", args.file.display()))? {
        return Ok(());
    }
    hv.load_flask_policy(&policy).map_err(flask_error)?;
    Ok(context.out.line("Successfully loaded policy.")?)
}

fn read(args: &LoadArgs) -> Result<Vec<u8>, Failure> {
    let what = || format!("read the policy {}", args.file.display());
    SystemFiles
        .read(&args.file, POLICY_MAX_BYTES)
        .map_err(|source| Failure::refused(format!("cannot {}: {source}", what())))
}
