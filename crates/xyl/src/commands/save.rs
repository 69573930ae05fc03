//! `xyl save`: saves a guest to a file.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;
use xyl_engine::supervise::requests::{self, AfterSave, Asking, Done, Request, Saved};

use crate::commands::create;
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;
use crate::interrupts::Interrupts;
use crate::new_file::{Progress, whole_path};

/// Save a guest to a file, from which `restore` starts it again
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest suspends itself, its memory and CPU state are written, and its domain is destroyed once the file is complete and \
synced. The file has the format of `xl save`, and only root may read it: `xyl restore` and `xl restore` take it. If the VM has a monitor, \
the monitor writes the file. A save that fails, or that Ctrl-C cancels, leaves no file, and the guest runs on. After a kill, the next command \
that changes a VM, or `xyl recover`, finishes it or takes it back. The state of disks is not in the file: a guest that runs on with its disks \
must not be restored from it.

Examples:
  xyl save web /srv/web.saved
  xyl save -c web /srv/web.saved              and let it run on
  xyl save web /srv/web.saved web.cfg         with this configuration in place of the domain's own"
)]
pub struct Args {
    /// Let the guest run on
    #[arg(short = 'c', conflicts_with = "pause")]
    checkpoint: bool,
    /// Leave the guest paused
    #[arg(short = 'p')]
    pause: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The file; an old one is replaced once the new one is complete
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// A configuration file for the saved guest [default: the domain's own configuration]
    #[arg(value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

impl Args {
    fn then(&self) -> AfterSave {
        match (self.pause, self.checkpoint) {
            (true, _) => AfterSave::Pause,
            (false, true) => AfterSave::Run,
            (false, false) => AfterSave::Destroy,
        }
    }
}

/// Runs `xyl save`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let domain = context.find_on(&mut host, &args.domain)?;
    let domid = domain.info.domid;
    let file = whole_path(&args.file)?;
    let config = args.config.as_deref();
    let config = config.map(|path| create::record_of_file(context, path));
    let request = Request::Save {
        file: file.clone(),
        config: config.transpose()?.map(|json| json.to_string()),
        then: args.then(),
    };
    if context.would_change(&mut host, &domain.info, &request, || {
        format!("save domain {domid} to {}", file.display())
    })? {
        return Ok(());
    }
    requests::check(&mut host, &domain.info, &request)?;
    let interrupts = Interrupts::catch()?;
    let mut progress = Progress::new(context, domid.0);
    let mut asking = Asking {
        cancel: &interrupts.cancel,
        progress: &mut |written, size| progress.tell(written, size),
    };
    let outcome = requests::ask(&mut host, &domain.info, &request, &mut asking);
    context.count(&host);
    match outcome? {
        Done::Saved(saved) => told(context, &file, saved),
        Done::Plain | Done::Delivered { .. } | Done::Dumped(_) => Ok(()),
    }
}

fn told(context: &Context, file: &Path, saved: Saved) -> Outcome {
    if context.json() {
        return Ok(context.out.json(&json!({
            "file": file.display().to_string(),
            "size_bytes": saved.size_bytes,
        }))?);
    }
    context.note(1, || format!("{} bytes", saved.size_bytes));
    Ok(())
}
