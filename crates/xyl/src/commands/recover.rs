//! `xyl recover`: finishes or undoes the operations of dead processes, and replaces dead monitors.

use os_port::{SystemFiles, SystemProcess};
use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::DomId;
use xyl_engine::Host;
use xyl_engine::config::policy_recheck::recheck;
use xyl_engine::recover::{self, Recovered};
use xyl_engine::report::explained::otherwise;

use crate::commands::monitor::{
    MonitorNotReplaced, ReplacementMonitor, replace_if_lost, replace_lost_monitors,
};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Finish or undo the operations of dead processes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every command that changes a VM first finishes or undoes the operations whose process has died. `recover` does only that. It also tries \
again the operations that could not be undone (`stuck` in `xyl ops`), and removes the configurations of VMs whose domain ended \
while they had no monitor. It starts a monitor for each VM whose monitor has died, as `xyl list` and the commands that change a VM \
do too. A journal that is damaged or was given up lies in /run/xyl/damaged. It is reported once, with exit code 1. After that `xyl fsck` \
and -v show it, until its file is removed (`xyl fsck --repair` does that). At most every four minutes, `recover` gathers the host's facts again and asks the policy about each \
running guest. It warns once about each guest that the policy would not start now as it runs (`xyl explain` gives the reasons). It \
changes no running guest.

Examples:
  xyl recover

JSON: an array of {uuid, vm, domid, what, failed, reported_before}"
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
    // The monitors are replaced even if an operation could not be finished.
    let replaced = replace_lost_monitors(context);
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
    let is_news = |one: &&Recovered| one.has_failed && !one.was_reported;
    match rows.iter().filter(is_news).count() {
        0 => Ok(()),
        failed => Err(Failure::refused(format!(
            "{failed} of {} could not be finished, or their journals are damaged: the lines above give the reasons, and `xyl ops` shows the operations",
            rows.len()
        ))),
    }
}

/// Prints a warning for each running guest about which the policy would decide otherwise today.
fn warn_of_changed_verdicts(context: &Context, host: &Host) -> Outcome {
    let (infos, verdicts): (Vec<_>, Vec<_>) = recheck(host)?.into_iter().unzip();
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

/// The line of the report about a monitor that was started or could not be.
fn of_monitor(started: Result<ReplacementMonitor, MonitorNotReplaced>) -> Recovered {
    match started {
        Ok(monitor) => Recovered {
            what: monitor.line(),
            uuid: monitor.vm.uuid,
            domid: (monitor.vm.domid != DomId::ZERO).then_some(monitor.vm.domid),
            name: monitor.name,
            has_failed: false,
            was_reported: false,
        },
        Err(none) => Recovered {
            what: none.line(),
            uuid: none.uuid,
            domid: None,
            name: none.name,
            has_failed: true,
            was_reported: false,
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
        "reported_before": one.was_reported,
    })
}

fn tell(context: &Context, recovered: &[Recovered]) {
    for one in recovered {
        let name = match one.name.as_str() {
            "" => format!("the VM {}", one.uuid),
            name => format!("{} ({})", Shown::name(name), one.uuid),
        };
        match one.was_reported {
            false => context.say(format!("{name}: {}", one.what)),
            true => context.note(1, || format!("{name}: {}", one.what)),
        }
    }
}

/// Finishes unfinished operations and replaces dead monitors. Every command that changes a VM calls this first.
///
/// A failure is printed as a warning. The command then continues.
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

/// Replaces the monitor of a VM, if a command has let it end. A line is printed with `-v`.
pub fn replace_ended_monitor(context: &Context, uuid: Uuid) {
    match replace_if_lost(context, uuid) {
        Ok(Some(monitor)) => tell_of(context, 1, &monitor),
        Ok(None) => {}
        Err(failure) => context.warn(&failure),
    }
}

/// Prints a line about a new monitor if `-v` was given at least `level` times.
fn tell_of(context: &Context, level: u8, monitor: &ReplacementMonitor) {
    context.note(level, || {
        format!("{}: {}", Shown::name(&monitor.name), monitor.line())
    });
}

/// Replaces dead monitors, and prints a line for each.
pub fn replace_dead_monitors(context: &Context) {
    match replace_lost_monitors(context) {
        Ok(started) => {
            for one in started {
                match one {
                    Ok(monitor) => tell_of(context, 0, &monitor),
                    Err(none) => {
                        context.warning(format!("{}: {}", Shown::name(&none.name), none.line()));
                    }
                }
            }
        }
        Err(failure) => context.warn(&failure),
    }
}
