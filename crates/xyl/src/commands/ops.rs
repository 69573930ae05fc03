//! `xyl ops`: shows operations from the VMs' journals, and cancels them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use os_port::{SystemClock, SystemFiles, SystemProcess};
use serde_json::{Value, json};
use uuid::Uuid;
use xyl_engine::operation::run;
use xyl_engine::supervise::restart_backoff::RestartDelay;
use xyl_engine::supervise::states;
use xyl_engine::supervise::status::{self, QueuedRequest, Status, VmOps};
use xyl_engine::vm::given_up::GivenUp;
use xyl_engine::vm::state::VmState;
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
    let mut rows = Vec::new();
    for vm in vms {
        match &vm.contents {
            Ok(_) => {
                let last = vm.past().operations.pop();
                if last.is_some() || vm.given_up.is_some() {
                    rows.push((vm, last));
                }
            }
            Err(error) => context.warn(&Failure::refused(error.to_string())),
        }
    }
    if context.json() {
        let uuids: Vec<Uuid> = rows.iter().map(|(vm, _)| vm.uuid).collect();
        let states = states_of(context, &uuids);
        let rows = rows.iter().zip(states);
        let rows = rows.map(|((vm, last), state)| as_json(context, vm, last.as_ref(), state));
        let of_vm = |vm: &VmOps| -> Vec<Value> {
            let requests = vm.requests.iter();
            requests.map(|one| request_json(vm, one)).collect()
        };
        let rows = rows.chain(vms.iter().flat_map(of_vm)).collect();
        return Ok(context.out.json(&Value::Array(rows))?);
    }
    context.out.line(format!(
        "{:<14} {:<20} {:<14} {:<12} {:>8} STEP",
        "ID", "VM", "OPERATION", "STATE", "AGE"
    ))?;
    for (vm, last) in rows {
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
        state_of(request),
        Shown::line(&step),
    ))?)
}

fn state_of(request: &QueuedRequest) -> &'static str {
    match request.is_started {
        true => "begun",
        false => "requested",
    }
}

fn name_of_vm(vm: &VmOps) -> String {
    let mut operations = vm.past().operations;
    let named = operations.pop().filter(|last| !last.begin.name.is_empty());
    match named {
        Some(last) => name_of(&last),
        None => vm.uuid.to_string().chars().take(20).collect(),
    }
}

fn request_json(vm: &VmOps, request: &QueuedRequest) -> Value {
    let envelope = request.envelope.as_ref().ok();
    let last = vm.past().operations.pop();
    json!({
        "id": request.id.to_string(),
        "vm": last.map(|last| last.begin.name),
        "uuid": vm.uuid.hyphenated().to_string(),
        "operation": envelope.map(|envelope| envelope.request.word()),
        "state": state_of(request),
        "step": null,
        "pid": null,
        "begun_ms": envelope.map(|envelope| envelope.time_ms),
        "last_ms": envelope.map(|envelope| envelope.time_ms),
        "failure": request.envelope.as_ref().err().map(|error| json!({"cause": error.to_string()})),
        "restart_waits_s": null,
        "restart_waits_why": null,
        "vm_state": null,
        "given_up": null,
        "request": envelope.map(|envelope| &envelope.request),
        "asker": envelope.map(|envelope| &envelope.asker),
    })
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
    if let Some((delay, left_s)) = waiting(vm) {
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

/// The states of VMs; none where Xen cannot be asked.
fn states_of(context: &Context, uuids: &[Uuid]) -> Vec<Option<VmState>> {
    let infos = context.hv().and_then(|hv| Ok(domains::list(hv)?));
    match infos {
        Ok(infos) => {
            let states = states::of_vms(&context.records(), &SystemClock, &infos, uuids);
            states.into_iter().map(Some).collect()
        }
        Err(_) => vec![None; uuids.len()],
    }
}

/// The reason why a VM's next restart waits, and the remaining seconds.
fn waiting(vm: &VmOps) -> Option<(RestartDelay, u64)> {
    let delay = vm.restart_delay.filter(|_| vm.given_up.is_none())?;
    let left_s = delay.left(&SystemClock).as_secs();
    (left_s > 0).then_some((delay, left_s))
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

fn as_json(
    context: &Context,
    vm: &VmOps,
    operation: Option<&Operation>,
    state: Option<VmState>,
) -> Value {
    let failure = operation
        .and_then(|operation| operation.failure.as_ref())
        .map(|(step, cause)| json!({"step": step, "cause": cause}));
    let name = operation.map(|operation| operation.begin.name.clone());
    let name = name.or_else(|| vm.given_up.as_ref().map(|given_up| given_up.name.clone()));
    let kept = store::kept_path(&context.dirs, &vm.uuid.hyphenated().to_string());
    json!({
        "id": operation.map(|operation| &operation.begin.id),
        "vm": name,
        "uuid": vm.uuid.hyphenated().to_string(),
        "operation": operation.map(|operation| &operation.begin.kind),
        "state": operation.map(|operation| vm.standing(operation, &SystemProcess).word()),
        "step": operation.map(|operation| &operation.step),
        "pid": operation.map(|operation| operation.pid),
        "begun_ms": operation.map(|operation| operation.begun_ms),
        "last_ms": operation.map(|operation| operation.last_ms),
        "failure": failure,
        "vm_state": state.map(VmState::word),
        "given_up": vm.given_up.as_ref().map(|given_up| json!({
            "why": given_up.why,
            "since_ms": given_up.since_ms,
            "configuration": kept,
        })),
        "restart_waits_s": waiting(vm).map(|(_, left_s)| left_s),
        "restart_waits_why": waiting(vm).map(|(delay, _)| delay.why()),
        "request": null,
        "asker": null,
    })
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
                part_of(&contents.entries, &past.operations, index)
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
