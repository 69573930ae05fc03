//! Operations and requests of VMs, as `xyl ops --json` and `/v1/operations` show them.

use os_port::Clock;
use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::DomainInfo;
use xyl_saga::{Entry, Operation};

use crate::supervise::restart_backoff::RestartDelay;
use crate::supervise::states;
use crate::supervise::status::{QueuedRequest, VmOps};
use crate::vm::state::VmState;
use crate::vm::store;
use crate::vm::without_domain::Records;

/// The last operation of a VM; `None` for a VM whose restart was given up, and of which nothing else is known.
pub type Last<'v> = (&'v VmOps, Option<Operation>);

/// The last operation of each VM that has one or whose restart was given up. A journal that cannot be read is left out.
pub fn last_of_each(vms: &[VmOps]) -> Vec<Last<'_>> {
    let readable = vms.iter().filter(|vm| vm.contents.is_ok());
    readable
        .map(|vm| (vm, vm.past().operations.pop()))
        .filter(|(vm, last)| last.is_some() || vm.given_up.is_some())
        .collect()
}

/// A row for the last operation of each VM, then one for each request. `infos` are all domains; `None` where Xen cannot be asked.
pub fn rows(
    records: &Records<'_>,
    clock: &dyn Clock,
    vms: &[VmOps],
    infos: Option<&[DomainInfo]>,
) -> Vec<Value> {
    let last = last_of_each(vms);
    let uuids: Vec<Uuid> = last.iter().map(|(vm, _)| vm.uuid).collect();
    let states: Vec<Option<VmState>> = match infos {
        Some(infos) => {
            let states = states::of_vms(records, clock, infos, &uuids);
            states.into_iter().map(Some).collect()
        }
        None => vec![None; uuids.len()],
    };
    let rows = last.iter().zip(states);
    let rows =
        rows.map(|((vm, last), state)| of_operation(records, clock, vm, last.as_ref(), state));
    let requests = vms.iter().flat_map(|vm| {
        let requests = vm.requests.iter();
        requests.map(|one| of_request(vm, one))
    });
    rows.chain(requests).collect()
}

/// The row of an operation.
pub fn of_operation(
    records: &Records<'_>,
    clock: &dyn Clock,
    vm: &VmOps,
    operation: Option<&Operation>,
    state: Option<VmState>,
) -> Value {
    let failure = operation
        .and_then(|operation| operation.failure.as_ref())
        .map(|(step, cause)| json!({"step": step, "cause": cause}));
    let name = operation.map(|operation| operation.begin.name.clone());
    let name = name.or_else(|| vm.given_up.as_ref().map(|given_up| given_up.name.clone()));
    let kept = store::kept_path(records.dirs, &vm.uuid.hyphenated().to_string());
    json!({
        "id": operation.map(|operation| &operation.begin.id),
        "vm": name,
        "uuid": vm.uuid.hyphenated().to_string(),
        "operation": operation.map(|operation| &operation.begin.kind),
        "state": operation.map(|operation| vm.standing(operation, records.process).word()),
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
        "restart_waits_s": waiting(clock, vm).map(|(_, left_s)| left_s),
        "restart_waits_why": waiting(clock, vm).map(|(delay, _)| delay.why()),
        "request": null,
        "asker": null,
    })
}

/// The row of a request that waits or was begun.
pub fn of_request(vm: &VmOps, request: &QueuedRequest) -> Value {
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

/// The word for the state of a request.
pub fn state_of(request: &QueuedRequest) -> &'static str {
    match request.is_started {
        true => "begun",
        false => "requested",
    }
}

/// The reason why a VM's next restart waits, and the remaining seconds.
pub fn waiting(clock: &dyn Clock, vm: &VmOps) -> Option<(RestartDelay, u64)> {
    let delay = vm.restart_delay.filter(|_| vm.given_up.is_none())?;
    let left_s = delay.left(clock).as_secs();
    (left_s > 0).then_some((delay, left_s))
}

/// The part of a journal that is about one of its operations.
pub fn entries_of<'e>(entries: &'e [Entry], operations: &[Operation], index: usize) -> &'e [Entry] {
    let start = operations.get(index).map_or(0, |one| one.first_entry);
    let end = operations
        .get(index + 1)
        .map_or(entries.len(), |next| next.first_entry);
    entries.get(start..end).unwrap_or_default()
}

/// One entry of a journal.
pub fn of_entry(entry: &Entry) -> Value {
    json!({"sequence": entry.sequence, "time_ms": entry.time_ms, "record": entry.record})
}
