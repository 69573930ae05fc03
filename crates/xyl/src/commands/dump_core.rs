//! `xyl dump-core`: writes a domain's memory and registers to a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueHint;
use serde_json::json;
use xyl_engine::operation::dump_core::Dumped;
use xyl_engine::supervise::requests::{self, Asking, Done, Request};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::interrupts::Interrupts;
use crate::shown::Shown;

/// Delay before the first line of progress.
const QUIET_FOR: Duration = Duration::from_secs(1);
/// Interval between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Write a domain's memory and registers to a file, for crash(8)
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The domain is paused during the dump, so that the file is consistent; with --live it runs on. A domain that \
was paused before stays paused. If the VM has a monitor, the monitor writes the file. The file has the format of `xl dump-core`. It gets its name when it is complete \
and synced. A dump that fails, or that Ctrl-C cancels, leaves no file, and the domain runs on. After a kill, the next \
command that changes a VM, or `xyl recover`, removes the file and unpauses the domain.

A domain with coredump-destroy or coredump-restart for one of its on_... settings has its core dumped to \
/var/lib/xen/dump/NAME when it ends that way.

Examples:
  xyl dump-core web                    to /var/lib/xen/dump/web
  xyl dump-core web /srv/web.core
  xyl dump-core --live 3 /srv/3.core   while it runs"
)]
pub struct Args {
    /// Let the domain run on meanwhile: its memory changes while the file is written
    #[arg(short, long)]
    live: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The file; an old one is replaced once the new one is complete [default: /var/lib/xen/dump/NAME]
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// Runs `xyl dump-core`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let domain = context.find_on(&mut host, &args.domain)?;
    let domid = domain.info.domid;
    let file = match &args.file {
        Some(file) => whole_path(file)?,
        None => {
            let name = context.name_of(&domain)?.unwrap_or_default();
            context.dirs.dump().join(plain_name(&name, domid.0))
        }
    };
    let request = Request::DumpCore {
        file: file.clone(),
        is_live: args.live,
    };
    if context.would_change(&mut host, &domain.info, &request, || {
        format!("dump the core of domain {domid} to {}", file.display())
    })? {
        return Ok(());
    }
    // The checks come first, so a refused dump creates no folder.
    requests::check(&mut host, &domain.info, &request)?;
    if args.file.is_none() {
        make_folder(&context.dirs.dump())?;
    }
    let interrupts = Interrupts::catch()?;
    let mut progress = Progress::new(context, domid.0);
    let mut asking = Asking {
        cancel: &interrupts.cancel,
        progress: &mut |written, size| progress.tell(written, size),
    };
    let outcome = requests::ask(&mut host, &domain.info, &request, &mut asking);
    context.count(&host);
    match outcome? {
        Done::Dumped(dumped) => told(args, context, &file, dumped),
        Done::Plain | Done::Delivered { .. } => Ok(()),
    }
}

/// Returns a file name for the domain. A name from another toolstack may be unfit for a file.
fn plain_name(name: &str, domid: u16) -> String {
    match name {
        "" | "." | ".." => format!("domain-{domid}"),
        name if name.contains('/') => format!("domain-{domid}"),
        name => name.to_owned(),
    }
}

fn make_folder(folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder)
        .map_err(|source| Failure::io(format!("make the folder {}", folder.display()), source))
}

/// Resolves links to the path of the file. Refuses a path at which something other than a regular file exists.
fn whole_path(file: &Path) -> Result<PathBuf, Failure> {
    let of_file = |source| Failure::io(format!("use {}", file.display()), source);
    match std::fs::canonicalize(file) {
        Ok(path) if path.is_file() => Ok(path),
        Ok(_) => Err(Failure::refused(format!(
            "{} is no file that could be replaced: name another",
            file.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::path::absolute(file).map_err(of_file)
        }
        Err(error) => Err(of_file(error)),
    }
}

fn told(args: &Args, context: &Context, file: &Path, dumped: Dumped) -> Outcome {
    if context.json() {
        return Ok(context.out.json(&json!({
            "file": file.display().to_string(),
            "size_bytes": dumped.size_bytes,
            "pages": dumped.nr_pages,
            "pages_missing": dumped.nr_missing,
        }))?);
    }
    if dumped.nr_missing > 0 {
        context.warning(dumped.line());
    }
    if args.file.is_none() {
        context.out.line(Shown::line(&file.display().to_string()))?;
    }
    context.note(1, || dumped.line());
    Ok(())
}

/// Progress of a long dump, printed on standard error.
struct Progress<'c> {
    context: &'c Context,
    domid: u16,
    next: Instant,
}

impl Progress<'_> {
    fn new(context: &Context, domid: u16) -> Progress<'_> {
        Progress {
            context,
            domid,
            next: Instant::now() + QUIET_FOR,
        }
    }

    fn tell(&mut self, written: u64, size: u64) {
        const MIB: u64 = 1 << 20;
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + TELL_EVERY;
        self.context.say(format!(
            "domain {}: {} of {} MiB",
            self.domid,
            written / MIB,
            size.div_ceil(MIB)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        std::fs::write(&old, "x").unwrap();
        assert_eq!(whole_path(&new).unwrap(), new);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&old, &link).unwrap();
        assert_eq!(whole_path(&link).unwrap(), old.canonicalize().unwrap());
        assert!(whole_path(folder.path()).is_err());
        assert!(whole_path(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_name_stays_in_its_folder() {
        assert_eq!(plain_name("web", 3), "web");
        for name in ["", "..", "a/b"] {
            assert_eq!(plain_name(name, 3), "domain-3");
        }
    }
}
