//! `xyl ops`: the operations under way, and those that have ended.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use os_port::{SystemClock, SystemFiles, SystemProcess};
use serde_json::{Value, json};
use xyl_engine::operation::run;
use xyl_engine::supervise::restart_backoff::Brake;
use xyl_engine::supervise::status::{self, Status, VmOps};
use xyl_saga::{Entry, Operation, Record};

use crate::complete::{operations_under_way, vms_and_operations};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Show the operations that are under way, and how each VM's last one ended
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "What is shown comes from the VMs' journals (/run/xyl/vm/UUID/journal). An operation whose process has \
died is `interrupted`: the next command that changes a VM finishes it or takes it back, and so does `xyl recover`. \
`stuck` is what could not be taken back whole, or was left open by a failure: `xyl recover` goes on with it. A restart \
that `waits` is one of a guest that ends again and again: AGE is then how long it waits still, and STEP says why; `xyl \
destroy` ends the wait with the VM.

Examples:
  xyl ops
  xyl ops show web                             step by step, with times
  xyl ops cancel 6a1d0c4e.12                   take it back, if it can still be

JSON: an array of {id, vm, uuid, operation, state, step, pid, begun_ms, last_ms, failure, \
restart_waits_s, restart_waits_why}; with show an array of {sequence, time_ms, record}, where record is as in the journal: \
{type, ...}; type is begin (id, kind, uuid, name, pid, args), step, done, failed, undo, undone, undo-failed (name, made or \
cause), cancel, taken-over (pid) or ended (outcome)"
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print a VM's journal, or one operation's part of it
    Show {
        /// The VM's name or UUID, or an operation's ID
        #[arg(value_name = "VM|ID", add = vms_and_operations())]
        which: String,
    },
    /// Ask for an operation to be taken back; it is heeded before the next step that can be undone
    Cancel {
        /// The operation
        #[arg(add = operations_under_way())]
        id: String,
    },
}

/// Runs `xyl ops`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let vms = status::all(&SystemFiles, &context.dirs)?;
    match &args.action {
        None => list(context, &vms),
        Some(Action::Show { which }) => show(context, &vms, which),
        Some(Action::Cancel { id }) => cancel(context, &vms, id),
    }
}

/// The last operation of each VM.
fn list(context: &Context, vms: &[VmOps]) -> Outcome {
    let mut rows = Vec::new();
    for vm in vms {
        match &vm.contents {
            Ok(_) => rows.extend(vm.past().operations.pop().map(|last| (vm, last))),
            Err(error) => context.warn(&Failure::refused(error.to_string())),
        }
    }
    if context.json() {
        let rows = rows.iter().map(|(vm, last)| as_json(vm, last)).collect();
        return Ok(context.out.json(&Value::Array(rows))?);
    }
    context.out.line(format!(
        "{:<14} {:<20} {:<14} {:<12} {:>8} STEP",
        "ID", "VM", "OPERATION", "STATE", "AGE"
    ))?;
    for (vm, last) in rows {
        let waits = waiting(vm);
        let age_s = now_ms().saturating_sub(last.last_ms) / 1000;
        context.out.line(format!(
            "{:<14} {:<20} {:<14} {:<12} {:>6} s {}",
            Shown::line(&last.begin.id).to_string(),
            name_of(&last),
            Shown::line(&last.begin.kind).to_string(),
            vm.standing(&last, &SystemProcess).word(),
            age_s,
            step_of(&last),
        ))?;
        if let Some((brake, left_s)) = waits {
            context.out.line(format!(
                "{:<14} {:<20} {:<14} {:<12} {:>6} s {}",
                "-",
                name_of(&last),
                "restart",
                "waits",
                left_s,
                brake.why()
            ))?;
        }
    }
    Ok(())
}

/// What holds a VM's next restart up, and for how many seconds still.
fn waiting(vm: &VmOps) -> Option<(Brake, u64)> {
    let brake = vm.brake?;
    let left_s = brake.left(&SystemClock).as_secs();
    (left_s > 0).then_some((brake, left_s))
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(0)
}

fn name_of(operation: &Operation) -> String {
    match operation.begin.name.as_str() {
        "" => operation.begin.uuid.chars().take(20).collect(),
        name => Shown::cell(name).to_string(),
    }
}

fn step_of(operation: &Operation) -> String {
    let failed = operation.failure.as_ref();
    let step = failed.map(|(step, _)| step).or(operation.step.as_ref());
    Shown::line(step.map_or("", String::as_str)).to_string()
}

fn as_json(vm: &VmOps, operation: &Operation) -> Value {
    let failure = operation
        .failure
        .as_ref()
        .map(|(step, cause)| json!({"step": step, "cause": cause}));
    json!({
        "id": operation.begin.id,
        "vm": operation.begin.name,
        "uuid": operation.begin.uuid,
        "operation": operation.begin.kind,
        "state": vm.standing(operation, &SystemProcess).word(),
        "step": operation.step,
        "pid": operation.pid,
        "begun_ms": operation.begun_ms,
        "last_ms": operation.last_ms,
        "failure": failure,
        "restart_waits_s": waiting(vm).map(|(_, left_s)| left_s),
        "restart_waits_why": waiting(vm).map(|(brake, _)| brake.why()),
    })
}

/// The records of a VM, or of one operation.
fn show(context: &Context, vms: &[VmOps], which: &str) -> Outcome {
    for vm in vms {
        let past = vm.past();
        let is_vm = vm.uuid.hyphenated().to_string() == which
            || past.operations.iter().any(|one| one.begin.name == which);
        let one = past.operations.iter().position(|one| one.begin.id == which);
        let entries = match (&vm.contents, is_vm, one) {
            (Err(error), true, _) => return Err(Failure::refused(error.to_string())),
            (Ok(contents), true, _) => contents.entries.as_slice(),
            (Ok(contents), false, Some(index)) => {
                part_of(&contents.entries, &past.operations, index)
            }
            _ => continue,
        };
        print_entries(context, entries)?;
        return tell_damage(context, vm);
    }
    Err(Failure::refused(format!(
        "nothing is known of `{which}`: `xyl ops` shows what there is"
    )))
}

fn part_of<'e>(entries: &'e [Entry], operations: &[Operation], index: usize) -> &'e [Entry] {
    let start = operations.get(index).map_or(0, |one| one.first_entry);
    let end = operations
        .get(index + 1)
        .map_or(entries.len(), |next| next.first_entry);
    entries.get(start..end).unwrap_or_default()
}

fn print_entries(context: &Context, entries: &[Entry]) -> Outcome {
    if context.json() {
        let rows = entries.iter().map(|entry| {
            json!({"sequence": entry.sequence, "time_ms": entry.time_ms, "record": entry.record})
        });
        return Ok(context.out.json(&Value::Array(rows.collect()))?);
    }
    for entry in entries {
        let time = i64::try_from(entry.time_ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .map_or_else(|| entry.time_ms.to_string(), |time| format!("{time:.3}"));
        context.out.line(format!(
            "{time}  {}",
            Shown::line(&described(&entry.record))
        ))?;
    }
    Ok(())
}

fn described(record: &Record) -> String {
    match record {
        Record::Begin(begin) => {
            let args = Value::Object(begin.args.clone());
            format!(
                "{} {} of {} ({}) by process {}, {args}",
                begin.id, begin.kind, begin.name, begin.uuid, begin.pid
            )
        }
        Record::Step { name } => format!("  {name} ..."),
        Record::Done { name, made } if made.is_empty() => format!("  {name}: done"),
        Record::Done { name, made } => format!("  {name}: done, {}", Value::Object(made.clone())),
        Record::Failed { name, cause } => format!("  {name}: FAILED: {cause}"),
        Record::Undo { name } => format!("  undoing {name} ..."),
        Record::Undone { name } => format!("  undoing {name}: done"),
        Record::UndoFailed { name, cause } => format!("  undoing {name}: FAILED: {cause}"),
        Record::Cancel {} => "  it is to be cancelled".to_owned(),
        Record::TakenOver { pid } => format!("  its process has died; process {pid} goes on"),
        Record::Ended { outcome } => format!("  {}", outcome.word()),
    }
}

fn tell_damage(context: &Context, vm: &VmOps) -> Outcome {
    let Ok(contents) = &vm.contents else {
        return Ok(());
    };
    if let Some(damage) = &contents.damage {
        context.say(format!(
            "the journal is damaged from here on ({damage}); the next command sets it aside, and goes by what Xen says"
        ));
    }
    if contents.is_torn {
        context.say("the last record is incomplete: its process died while it wrote");
    }
    Ok(())
}

fn cancel(context: &Context, vms: &[VmOps], id: &str) -> Outcome {
    for vm in vms {
        let past = vm.past();
        let Some(operation) = past.under_way().filter(|one| one.begin.id == id) else {
            continue;
        };
        if context.would(format!("cancel {id} ({})", operation.begin.kind))? {
            return Ok(());
        }
        run::ask_to_cancel(&SystemFiles, &context.dirs, vm.uuid, id)?;
        if vm.standing(operation, &SystemProcess) != Status::UnderWay {
            context.say(format!("{id} has no process: `xyl recover` sees to it"));
        }
        return Ok(());
    }
    Err(Failure::refused(format!(
        "no operation {id} is under way: `xyl ops` shows those there are"
    )))
}
