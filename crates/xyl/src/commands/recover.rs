//! `xyl recover`: finishes what dead processes have left under way.

use os_port::{SystemFiles, SystemProcess};
use serde_json::{Value, json};
use xen_port::DomId;
use xyl_engine::Host;
use xyl_engine::config::policy_recheck::reexamine;
use xyl_engine::recover::{self, Recovered};

use crate::commands::explain::otherwise;
use crate::commands::monitor::{Heir, NoHeir, replace_the_lost};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Finish, or take back, what dead processes have left under way
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every command that changes a VM does this first, for operations whose process has died. This one does it for \
all VMs, tries again what could not be taken back (`stuck` in `xyl ops`), and drops the configurations of VMs \
whose domain has gone while nobody watched. It starts a monitor for each VM whose monitor has ended, as `xyl list` and \
the commands that change a VM do too. A journal that was damaged, and so set aside, is named each time, with exit code 1, until \
its file is removed (`xyl fsck --repair` does that). At most every four minutes it gathers the host's facts anew and asks the \
policy about each guest that runs. It warns once of each guest that the policy would not let start now as it runs (`xyl explain` \
says why), and changes none.

Examples:
  xyl recover

JSON: an array of {uuid, vm, domid, what, failed}"
)]
pub struct Args {}

/// Runs `xyl recover`.
pub fn run(_args: &Args, context: &Context) -> Outcome {
    if context.would("finish what dead processes have left under way".to_owned())? {
        return Ok(());
    }
    let mut host = context.open_host()?;
    let recovered = recover::all(&mut host, true);
    context.count(&host);
    // Whatever became of the operations, each VM is to have its monitor.
    let replaced = replace_the_lost(context);
    if let Err(failure) = warn_of_changed_verdicts(context, &host) {
        context.warn(&failure);
    }
    let mut rows = Vec::new();
    let recovered = recovered.map(|all| rows.extend(all));
    let replaced = replaced.map(|all| rows.extend(all.into_iter().map(of_monitor)));
    if context.json() {
        let rows = rows.iter().map(as_json).collect();
        context.out.json(&Value::Array(rows))?;
    } else {
        tell(context, &rows);
    }
    recovered?;
    replaced?;
    match rows.iter().filter(|one| one.has_failed).count() {
        0 => Ok(()),
        failed => Err(Failure::refused(format!(
            "{failed} of {} could not be finished, or their journals are damaged: what is said of each tells why, and `xyl ops` what was under way",
            rows.len()
        ))),
    }
}

/// Tells of the guests that the policy would have otherwise now.
fn warn_of_changed_verdicts(context: &Context, host: &Host) -> Outcome {
    let (infos, verdicts): (Vec<_>, Vec<_>) = reexamine(host)?.into_iter().unzip();
    let names = context.names_or_warning(&infos);
    for ((info, name), now) in infos.iter().zip(names).zip(verdicts) {
        let name = name.unwrap_or_default();
        context.warning(format!(
            "{} ({}): {}",
            Shown::name(&name),
            info.domid,
            otherwise(&now)
        ));
    }
    Ok(())
}

/// A monitor that was started, or could not be, as a line of the report.
fn of_monitor(started: Result<Heir, NoHeir>) -> Recovered {
    match started {
        Ok(heir) => Recovered {
            what: heir.line(),
            uuid: heir.vm.uuid,
            domid: (heir.vm.domid != DomId::ZERO).then_some(heir.vm.domid),
            name: heir.name,
            has_failed: false,
        },
        Err(none) => Recovered {
            what: none.line(),
            uuid: none.uuid,
            domid: None,
            name: none.name,
            has_failed: true,
        },
    }
}

fn as_json(one: &Recovered) -> Value {
    json!({
        "uuid": one.uuid.hyphenated().to_string(),
        "vm": one.name,
        "domid": one.domid.map(|domid| domid.0),
        "what": one.what,
        "failed": one.has_failed,
    })
}

fn tell(context: &Context, recovered: &[Recovered]) {
    for one in recovered {
        let name = match one.name.as_str() {
            "" => format!("the VM {}", one.uuid),
            name => format!("{} ({})", Shown::name(name), one.uuid),
        };
        context.say(format!("{name}: {}", one.what));
    }
}

/// What every command that changes a VM does first. A failure here is told, and keeps nobody from what
/// was asked for.
pub fn before_a_change(context: &Context) {
    if !recover::is_needed(&SystemFiles, &context.dirs, &SystemProcess) {
        return;
    }
    let recovered = context
        .open_host()
        .and_then(|mut host| Ok(recover::all(&mut host, false)?));
    match recovered {
        Ok(recovered) => tell(context, &recovered),
        Err(failure) => context.warn(&failure),
    }
}

/// Starts monitors in the place of those that have died, and says so.
pub fn replace_dead_monitors(context: &Context) {
    match replace_the_lost(context) {
        Ok(started) => {
            for one in started {
                match one {
                    Ok(heir) => {
                        context.say(format!("{}: {}", Shown::name(&heir.name), heir.line()))
                    }
                    Err(none) => {
                        context.warning(format!("{}: {}", Shown::name(&none.name), none.line()));
                    }
                }
            }
        }
        Err(failure) => context.warn(&failure),
    }
}
