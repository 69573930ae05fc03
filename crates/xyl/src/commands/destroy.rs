//! `xyl destroy`: the end of a domain, at once.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_engine::Host;
use xyl_engine::host::holders;
use xyl_engine::operation::destroy;
use xyl_engine::supervise::requests::{self, Request};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// How long a domain's last pages may take to be free: xenstored and xenconsoled let go when they are told of
/// its end.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// End a domain at once, as if its power failed
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Xen keeps a domain as long as a process or another domain holds a page of it. If it is still there after 10 seconds, \
the command fails and says what holds it; `xyl fsck` says the same later.

Examples:
  xyl destroy web
  xyl destroy 3"
)]
pub struct Args {
    /// Destroy it even if it has devices that Xyl cannot take down: their backends are left behind
    #[arg(short, long)]
    force: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl destroy`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let info = context.find_on(&mut host, &args.domain)?.info;
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

/// A domain that stays is explained.
fn see_it_gone(context: &Context, host: &mut Host, info: &DomainInfo) -> Outcome {
    let (domid, uuid): (DomId, Uuid) = (info.domid, Uuid::from_bytes(info.handle));
    let Some(left) = destroy::await_gone(host, domid, uuid, GONE_LIMIT)? else {
        return Ok(());
    };
    let lines = holders::explain(host, &context.kernel(), &left)?;
    Err(Failure::refused(format!(
        "domain {domid} is destroyed, but still there after {} s: somebody holds it\n{}\nit is gone when they let go; `xyl fsck` shows whether it is",
        GONE_LIMIT.as_secs(),
        lines.join("\n")
    )))
}
