//! `xyl dump-core`: writes a domain's memory and registers to a file.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;
use xyl_engine::operation::dump_core::Dumped;
use xyl_engine::supervise::requests::{self, Asking, Done, Request};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::interrupts::Interrupts;
use crate::new_file::{Progress, whole_path};
use crate::shown::Shown;

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
        Done::Plain | Done::Delivered { .. } | Done::Saved(_) => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_folder() {
        assert_eq!(plain_name("web", 3), "web");
        for name in ["", "..", "a/b"] {
            assert_eq!(plain_name(name, 3), "domain-3");
        }
    }
}
