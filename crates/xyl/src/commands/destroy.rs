//! `xyl destroy`: ends a domain at once, without asking the guest.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_engine::host::holders;
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::domains::DomainRef;
use xyl_engine::{EngineError, ErrorCode, Host};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Time limit for Xen to free a destroyed domain's last pages. xenstored and xenconsoled unmap their pages when they
/// hear of its end.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// End a domain at once, as if its power failed
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Xen keeps a destroyed domain while a process or another domain maps one of its pages. If it still exists after 10 seconds, \
the command fails and lists the processes that may map pages. `xyl fsck` lists them later. \
A VM that has no domain, since it waits for the next try to restart it, is not restarted any more; its configuration is kept \
in /var/lib/xyl/kept.

Examples:
  xyl destroy web
  xyl destroy 3
  xyl destroy --force uuid=6a1d0c4e-0000-4000-8000-000000000001"
)]
pub struct Args {
    /// Destroy the domain even if it has devices that Xyl cannot remove (their backends stay), or a journal of another
    /// version of xyl (it is moved to /run/xyl/damaged)
    #[arg(short, long)]
    force: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl destroy`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let info = loop {
        match context.find_now(&mut host, &args.domain) {
            Ok(domain) => break domain.info,
            Err(failure) => {
                let Some(uuid) = without_domain(&failure) else {
                    return match args.force {
                        true => forget(context, &mut host, &args.domain, failure),
                        false => Err(failure),
                    };
                };
                // The number may be of long ago, and mean another domain.
                if is_number(&args.domain) && !args.force {
                    return Err(failure);
                }
                if call_off(args, context, &mut host, uuid)? {
                    return Ok(());
                }
            }
        }
    };
    let request = Request::Destroy { force: args.force };
    if context.would_change(&mut host, &info, &request, || {
        format!("destroy domain {}", info.domid)
    })? {
        return Ok(());
    }
    let outcome = requests::ask_for(&mut host, &info, &request);
    let outcome = outcome
        .map_err(Failure::from)
        .and_then(|_| see_it_gone(context, &mut host, &info));
    context.count(&host);
    outcome
}

fn is_number(asked: &str) -> bool {
    matches!(DomainRef::parse(asked), DomainRef::Number(_))
}

/// The VM that was meant, where it has no domain.
fn without_domain(failure: &Failure) -> Option<Uuid> {
    match failure {
        Failure::Engine(
            EngineError::Restarting { uuid, .. }
            | EngineError::WaitsForRestart { uuid, .. }
            | EngineError::GivenUp { uuid, .. },
        ) => Some(*uuid),
        _ => None,
    }
}

/// Ends a VM that has no domain. Whether that was done: a restart that is under way may have given it one.
fn call_off(args: &Args, context: &Context, host: &mut Host, uuid: Uuid) -> Result<bool, Failure> {
    let name = Shown::name(&args.domain);
    if context.would(format!("end the VM {name}, which has no domain now"))? {
        return Ok(true);
    }
    let kept = restart::call_off(host, uuid)?;
    if let Some(kept) = &kept {
        context.say(format!(
            "the VM {name} had no domain, and is not restarted any more; its configuration is kept: xyl create {}",
            kept.display()
        ));
    }
    Ok(kept.is_some())
}

/// Removes the journal of a VM without a domain, if another version of xyl wrote it. It would keep the UUID in use.
fn forget(context: &Context, host: &mut Host, asked: &str, not_found: Failure) -> Outcome {
    let is_absent =
        matches!(&not_found, Failure::Engine(error) if error.code() == ErrorCode::NoSuchDomain);
    if !is_absent || context.dry_run() {
        return Err(not_found);
    }
    let forgotten = recover::forget_by_force(host, &DomainRef::parse(asked))?;
    if forgotten.is_empty() {
        return Err(not_found);
    }
    for one in forgotten {
        context.say(one.line());
    }
    Ok(())
}

/// Waits until the domain has gone. If it stays, the error lists the processes that may hold its memory.
fn see_it_gone(context: &Context, host: &mut Host, info: &DomainInfo) -> Outcome {
    let (domid, uuid): (DomId, Uuid) = (info.domid, Uuid::from_bytes(info.handle));
    let Some(left) = destroy::await_gone(host, domid, uuid, GONE_LIMIT)? else {
        return Ok(());
    };
    let lines = holders::explain(host, &context.kernel(), &left)?;
    Err(Failure::refused(format!(
        "domain {domid} is destroyed, but still exists after {} s, because its memory is in use\n{}\nXen removes it when its memory is released; `xyl fsck` shows whether it is",
        GONE_LIMIT.as_secs(),
        lines.join("\n")
    )))
}
