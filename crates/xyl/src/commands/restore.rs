//! `xyl restore`: starts a guest again from a file of `save`.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use xyl_engine::config::plan::Planned;
use xyl_engine::operation::create::SavedGuest;

use crate::commands::{check_image, create};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Start a guest again from a file of `save`
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Takes files of `xyl save` and `xl save`. A process without rights reads the file. Its configuration, or the one that is given, \
passes the checks of a create: the policy is asked, and a name or UUID that another domain has is refused. A restore that fails leaves \
nothing. The file stays: after the guest has run, its disks have changed, so it must not be restored from the same file again.

Examples:
  xyl restore /srv/web.saved
  xyl restore -p /srv/web.saved              and leave it paused
  xyl restore web.cfg /srv/web.saved         with this configuration in place of the file's own"
)]
pub struct Args {
    /// Leave the domain paused
    #[arg(short = 'p')]
    paused: bool,
    /// Start no monitor: nothing handles a reboot or crash of the guest
    #[arg(short = 'e')]
    no_monitor: bool,
    /// Print the configuration as JSON on standard error first
    #[arg(short = 'd')]
    debug: bool,
    /// A configuration file to use instead of the file's own
    #[arg(value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Runs `xyl restore`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let file = &args.file;
    let saved = read(file)?;
    let host = context.open_host()?;
    let planned = match &args.config {
        Some(config) => create::plan_of_file(context, config)?,
        None => saved.plan(&host)?,
    };
    if context.would(would(&planned, file))? {
        return Ok(());
    }
    if args.debug {
        create::show_record(&planned.spec)?;
    }
    let create = create::Args::of_restore(saved, args.paused, args.no_monitor);
    create::create_and_follow(&create, context, &planned, host)
}

fn read(file: &Path) -> Result<SavedGuest, Failure> {
    let opened = check_image::open(file).map_err(|source| {
        let path = Shown::line(&file.to_string_lossy()).to_string();
        Failure::io(format!("read {path}"), source)
    })?;
    Ok(SavedGuest::read(file, opened)?)
}

fn would(planned: &Planned, file: &Path) -> String {
    let name = &planned.spec.name;
    format!("restore {} from {}", Shown::name(name), file.display())
}
