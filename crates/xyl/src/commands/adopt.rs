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
    after_help = "From then on Xyl watches over the domain, and restarts it or ends it as its configuration says; that is taken from libxl's \
record of it. xl's own process that waits for its end is ended, since two would both act on it. The guest sees \
none of this. xl's commands still work on the domain. A domain that has what Xyl cannot do (disks, network interfaces, HVM) is \
refused by name, and stays xl's; so is one that the host's policy (/etc/xyl/policy.toml) does not allow as it runs, and a bare \
32-bit PV guest always is. A domain that is Xyl's already gets its monitor back if it has lost it.

Examples:
  xyl adopt web"
)]
pub struct Args {
    /// Do it even if there are processes of which is not known whether they watch over this domain
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
        Adopted::AlreadyOurs => format!("domain {domid} is Xyl's already, and watched over"),
        Adopted::WatchedAgain => format!("domain {domid} is Xyl's already, and has its monitor again"),
        Adopted::TakenOver(ended) if ended.is_empty() => {
            format!("domain {domid} is Xyl's now; no process of xl watched over it")
        }
        Adopted::TakenOver(ended) => {
            let ended: Vec<String> = ended.iter().map(u32::to_string).collect();
            format!(
                "domain {domid} is Xyl's now; the process of xl that watched over it ({}) was ended",
                ended.join(", ")
            )
        }
    });
    Ok(())
}
