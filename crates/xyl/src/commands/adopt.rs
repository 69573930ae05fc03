//! `xyl adopt`: takes over a domain that xl has created.

use xyl_engine::Notice;
use xyl_engine::supervise::adopt::{self, Adopted};

use crate::commands::monitor::start_in_background;
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Take over a domain that xl has created
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Xyl starts a monitor for the domain, which restarts or destroys it as its configuration says. The configuration comes from libxl's \
record. xl's process that waits for the domain's end is ended, because two such processes would conflict. The guest does not \
notice. xl's commands still work on the domain. Xyl refuses a domain with features that it does not have (disks that QEMU serves, \
network interfaces with a script of their own, HVM), and one that the host's policy (/etc/xyl/policy.toml) does not allow as it runs. It always refuses a bare 32-bit PV guest. \
A domain that is Xyl's already gets a new monitor if it has none.

Examples:
  xyl adopt web"
)]
pub struct Args {
    /// Adopt the domain even if some processes may wait for its end
    #[arg(long)]
    force: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl adopt`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let info = context.find(&args.domain)?.info;
    let mut host = context.open_host()?;
    if context.dry_run() {
        adopt::check(&mut host, &context.kernel(), &info, args.force)?;
    }
    if context.would(format!("adopt domain {}", info.domid))? {
        return Ok(());
    }
    let mut start = |name: &str, vm| start_in_background(context, name, vm).map(drop);
    let mut notice = |notice: Notice<'_>| {
        if let Notice::Warning(text) = notice {
            context.warning(text);
        }
    };
    let adopted = adopt::adopt(
        &mut host,
        &context.kernel(),
        &info,
        args.force,
        &mut start,
        &mut notice,
    );
    context.count(&host);
    let domid = info.domid;
    context.say(match adopted? {
        Adopted::AlreadyOurs => format!("domain {domid} is Xyl's already, and has a monitor"),
        Adopted::WatchedAgain => format!("domain {domid} is Xyl's already, and has a new monitor"),
        Adopted::TakenOver(ended) if ended.is_empty() => {
            format!("domain {domid} is Xyl's now; no process of xl waited for its end")
        }
        Adopted::TakenOver(ended) => {
            let ended: Vec<String> = ended.iter().map(u32::to_string).collect();
            format!(
                "domain {domid} is Xyl's now; the process of xl that waited for its end ({}) was ended",
                ended.join(", ")
            )
        }
    });
    Ok(())
}
