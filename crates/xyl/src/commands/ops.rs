//! `xyl ops`: shows operations from the VMs' journals, and cancels them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use os_port::{SystemClock, SystemFiles, SystemProcess};
use serde_json::Value;
use uuid::Uuid;
use xyl_engine::operation::run;
use xyl_engine::report::operations;
use xyl_engine::supervise::status::{self, QueuedRequest, Status, VmOps};
use xyl_engine::vm::given_up::GivenUp;
use xyl_engine::vm::{domains, store};
use xyl_saga::{Entry, Operation, Record};

use crate::complete::{operations_under_way, vms_and_operations};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Show the operations that are under way, how each VM's last one ended, and the requests that wait
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "The states come from the VMs' journals (/run/xyl/vm/UUID/journal). An `interrupted` operation is one whose process has \
died: the next command that changes a VM, or `xyl recover`, finishes or undoes it. A `stuck` operation has failed and could not be \
undone completely: `xyl recover` tries again. A restart that `waits` is delayed because the guest ends again and again: AGE is then the \
remaining time, and STEP the reason. `xyl destroy` ends the wait with the VM. A request that waits for the VM's monitor is \
`requested`, and one that the monitor carries out is `begun`: STEP then says who has asked. \
A restart that is `given up` has failed for the last time: STEP says why, and where the configuration is kept. Its line goes \
when that file is removed or the VM is created again.

Examples:
  xyl ops
  xyl ops show web                             step by step, with times
  xyl ops cancel 6a1d0c4e.12                   undo it, if that is still possible

JSON: an array of {id, vm, uuid, operation, state, step, pid, begun_ms, last_ms, failure, \
restart_waits_s, restart_waits_why, request, asker, vm_state, given_up}; vm_state is as in `xyl list --json`, or null where Xen cannot be \
asked; given_up is null or {why, since_ms, configuration}; a VM of which nothing but that is known has null in the place of id, \
operation, state, step, pid, begun_ms and last_ms; request and asker are those of a request, as in docs/requests.md, and null \
otherwise; with show an array of {sequence, time_ms, record}, where record is as in the journal: \
{TYPE: {...}}; TYPE is begin (id, kind, uuid, name, pid, started_ticks, args, steps), step, noted (facts), done (made), failed \
(cause), undo, undone, undo_failed (cause), cancel, taken_over (pid, started_ticks) or ended (outcome); those of a step have its name"
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
    /// Ask to cancel an operation; it stops before its next step that can be undone
    Cancel {
        /// ID of the operation
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

/// Prints the last operation of each VM.
fn list(context: &Context, vms: &[VmOps]) -> Outcome {
    for error in vms.iter().filter_map(|vm| vm.contents.as_ref().err()) {
        context.warn(&Failure::refused(error.to_string()));
    }
    if context.json() {
        let infos = context.hv().and_then(|hv| Ok(domains::list(hv)?)).ok();
        let records = context.records();
        let rows = operations::rows(&records, &SystemClock, vms, infos.as_deref());
        return Ok(context.out.json(&Value::Array(rows))?);
    }
    context.out.line(format!(
        "{:<14} {:<20} {:<14} {:<12} {:>8} STEP",
        "ID", "VM", "OPERATION", "STATE", "AGE"
    ))?;
    for (vm, last) in operations::last_of_each(vms) {
        if let Some(last) = last {
            print_last(context, vm, &last)?;
        }
        if let Some(given_up) = &vm.given_up {
            print_given_up(context, vm.uuid, given_up)?;
        }
    }
    for vm in vms {
        for request in &vm.requests {
            print_request(context, vm, request)?;
        }
    }
    Ok(())
}

/// A line about a request that waits or is carried out.
fn print_request(context: &Context, vm: &VmOps, request: &QueuedRequest) -> Outcome {
    let (word, age_s, step) = match &request.envelope {
        Ok(envelope) => (
            envelope.request.word(),
            now_ms().saturating_sub(envelope.time_ms) / 1000,
            format!("asked for by {}", envelope.asker),
        ),
        Err(error) => ("-", 0, error.to_string()),
    };
    // The start of an id is its time, which tells requests apart.
    let id: String = request.id.to_string().chars().take(13).collect();
    Ok(context.out.line(format!(
        "{id:<14} {:<20} {word:<14} {:<12} {age_s:>6} s {}",
        name_of_vm(vm),
        operations::state_of(request),
        Shown::line(&step),
    ))?)
}

fn name_of_vm(vm: &VmOps) -> String {
    let mut operations = vm.past().operations;
    let named = operations.pop().filter(|last| !last.begin.name.is_empty());
    match named {
        Some(last) => name_of(&last),
        None => vm.uuid.to_string().chars().take(20).collect(),
    }
}

/// The line of a VM's last operation, and one of the restart that waits.
fn print_last(context: &Context, vm: &VmOps, last: &Operation) -> Outcome {
    let age_s = now_ms().saturating_sub(last.last_ms) / 1000;
    context.out.line(format!(
        "{:<14} {:<20} {:<14} {:<12} {:>6} s {}",
        Shown::line(&last.begin.id).to_string(),
        name_of(last),
        Shown::line(&last.begin.kind).to_string(),
        vm.standing(last, &SystemProcess).word(),
        age_s,
        step_of(last),
    ))?;
    if let Some((delay, left_s)) = operations::waiting(&SystemClock, vm) {
        context.out.line(format!(
            "{:<14} {:<20} {:<14} {:<12} {:>6} s {}",
            "-",
            name_of(last),
            "restart",
            "waits",
            left_s,
            delay.why()
        ))?;
    }
    Ok(())
}

fn print_given_up(context: &Context, uuid: Uuid, given_up: &GivenUp) -> Outcome {
    let kept = store::kept_path(&context.dirs, &uuid.hyphenated().to_string());
    Ok(context.out.line(format!(
        "{:<14} {:<20} {:<14} {:<12} {:>6} s {}; xyl create {}",
        "-",
        Shown::cell(&given_up.name).to_string(),
        "restart",
        "given up",
        now_ms().saturating_sub(given_up.since_ms) / 1000,
        Shown::line(&given_up.why),
        kept.display()
    ))?)
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

/// Prints the journal records of a VM, or of one operation.
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
                operations::entries_of(&contents.entries, &past.operations, index)
            }
            _ => continue,
        };
        print_entries(context, entries)?;
        return tell_damage(context, vm);
    }
    Err(Failure::refused(format!(
        "there is no VM or operation `{which}`: `xyl ops` lists them"
    )))
}

fn print_entries(context: &Context, entries: &[Entry]) -> Outcome {
    if context.json() {
        let rows = entries.iter().map(operations::of_entry);
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
        Record::Noted { name, facts } => {
            format!("  {name}: {}", Value::Object(facts.clone()))
        }
        Record::Done { name, made } if made.is_empty() => format!("  {name}: done"),
        Record::Done { name, made } => format!("  {name}: done, {}", Value::Object(made.clone())),
        Record::Failed { name, cause } => format!("  {name}: FAILED: {cause}"),
        Record::Undo { name } => format!("  undoing {name} ..."),
        Record::Undone { name } => format!("  undoing {name}: done"),
        Record::UndoFailed { name, cause } => format!("  undoing {name}: FAILED: {cause}"),
        Record::Cancel {} => "  it is to be cancelled".to_owned(),
        Record::TakenOver { pid, .. } => format!("  its process has died; process {pid} goes on"),
        Record::Ended { outcome } => format!("  {}", outcome.word()),
    }
}

fn tell_damage(context: &Context, vm: &VmOps) -> Outcome {
    let Ok(contents) = &vm.contents else {
        return Ok(());
    };
    if let Some(damage) = &contents.damage {
        context.say(format!(
            "the journal is damaged from here on ({damage}); the next command moves it to /run/xyl/damaged and reads the VM's state from Xen"
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
            context.say(format!(
                "{id} has no process: `xyl recover` finishes or undoes it"
            ));
        }
        return Ok(());
    }
    Err(Failure::refused(format!(
        "no operation {id} is under way: `xyl ops` lists those that are"
    )))
}
