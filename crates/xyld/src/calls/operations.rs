//! Operations from the VMs' journals, and requests in their queues: the list, one of them, and its end.

use std::str::FromStr;

use hyper::StatusCode;
use os_port::{SystemClock, SystemFiles, SystemProcess};
use serde_json::{Value, json};
use uuid::Uuid;
use xyl_api::{Outcome, Reply, RequestId};
use xyl_engine::operation::run;
use xyl_engine::report::{operations as report, set};
use xyl_engine::supervise::status::{self, Status, VmOps};
use xyl_engine::vm::domains;
use xyl_engine::vm::request_queue::{self, RequestQueue};

use crate::calls::vms;
use crate::http::{Answer, Call};
use crate::problem::{Problem, code};
use crate::world::World;

/// The last operation of each VM and all requests, or all operations of one VM.
pub fn list(world: &World, call: &Call) -> Result<Answer, Problem> {
    let ops = read(world)?;
    let rows = match call.query("vm") {
        Some(asked) => of_vm(world, &ops, asked)?,
        None => last(world, &ops),
    };
    Ok(Answer::ok(&json!({"operations": rows})))
}

/// The journals and queues of all VMs.
fn read(world: &World) -> Result<Vec<VmOps>, Problem> {
    Ok(status::all(&SystemFiles, &world.site.dirs)?)
}

/// Rows for the last operation of each VM, and for all requests.
fn last(world: &World, ops: &[VmOps]) -> Vec<Value> {
    let infos = world
        .hypervisor()
        .ok()
        .and_then(|hv| domains::list(&*hv).ok());
    report::rows(&world.records(), &SystemClock, ops, infos.as_deref())
}

/// Rows for all operations of a VM, the last one first, then for its requests.
fn of_vm(world: &World, ops: &[VmOps], asked: &str) -> Result<Vec<Value>, Problem> {
    let uuid = uuid_of(world, ops, asked)?;
    let Some(vm) = ops.iter().find(|vm| vm.uuid == uuid) else {
        return Ok(Vec::new());
    };
    let records = world.records();
    let operations = vm.past().operations;
    let rows = operations.iter().rev();
    let rows = rows.map(|one| report::of_operation(&records, &SystemClock, vm, Some(one), None));
    let requests = vm.requests.iter().map(|one| report::of_request(vm, one));
    Ok(rows.chain(requests).collect())
}

/// The UUID of a VM that was asked for. A VM that is no more has a journal under its name for a time.
fn uuid_of(world: &World, ops: &[VmOps], asked: &str) -> Result<Uuid, Problem> {
    if let Ok(uuid) = Uuid::try_parse(asked) {
        return Ok(uuid);
    }
    let has_name = |vm: &&VmOps| {
        let last = vm.past().operations.pop();
        last.is_some_and(|last| last.begin.name == asked)
    };
    match ops.iter().find(has_name) {
        Some(vm) => Ok(vm.uuid),
        None => {
            let hv = world.hypervisor()?;
            vms::uuid_of(&vms::find(world, &world.reader(&*hv), asked)?)
        }
    }
}

/// One operation with its steps, or one request with its result.
pub fn one(world: &World, call: &Call) -> Result<Answer, Problem> {
    let asked = call.param("operation");
    let ops = read(world)?;
    Ok(Answer::ok(&find(world, &ops, asked)?))
}

/// An operation or a request by its ID.
fn find(world: &World, ops: &[VmOps], asked: &str) -> Result<Value, Problem> {
    if let Ok(id) = RequestId::from_str(asked) {
        return request(world, ops, id);
    }
    let records = world.records();
    for vm in ops {
        let operations = vm.past().operations;
        let Some(index) = operations.iter().position(|one| one.begin.id == asked) else {
            continue;
        };
        let operation = operations.get(index);
        let mut row = report::of_operation(&records, &SystemClock, vm, operation, None);
        let entries = vm.contents.as_ref().map_or(&[][..], |contents| {
            report::entries_of(&contents.entries, &operations, index)
        });
        let entries: Value = entries.iter().map(report::of_entry).collect();
        set(&mut row, "entries", entries);
        return Ok(row);
    }
    Err(no_such(asked))
}

fn no_such(asked: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        code::NO_SUCH_OPERATION,
        format!("there is no operation `{asked}`"),
    )
    .with_remedy("/v1/operations lists the last one of each VM; the result of a request is kept for 15 minutes")
}

/// A request in a queue, or its reply.
fn request(world: &World, ops: &[VmOps], id: RequestId) -> Result<Value, Problem> {
    // The reply first: a request is removed after its reply is written.
    if let Some(reply) = reply(world, id)? {
        return Ok(of_reply(&reply));
    }
    for vm in ops {
        if let Some(queued) = vm.requests.iter().find(|one| one.id == id) {
            return Ok(report::of_request(vm, queued));
        }
    }
    // It may have been carried out between the two looks.
    match reply(world, id)? {
        Some(reply) => Ok(of_reply(&reply)),
        None => Err(no_such(&id.to_string())),
    }
}

/// The reply to a request, if there is one and it is kept.
///
/// # Errors
/// Those of the disk.
pub fn reply(world: &World, id: RequestId) -> Result<Option<Reply>, Problem> {
    let dirs = &world.site.dirs;
    for vm in request_queue::vms_with_reply(&SystemFiles, dirs, id)? {
        let queue = RequestQueue::new(&SystemFiles, dirs, vm);
        if let Some(reply) = queue.look_for_kept_reply(id)? {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// The row of a request that has ended.
pub fn of_reply(reply: &Reply) -> Value {
    let (state, result, problem) = match &reply.outcome {
        Outcome::Done(done) => ("done", json!(done), Value::Null),
        Outcome::Failed(error) => (
            "failed",
            Value::Null,
            Problem::from(error.clone()).to_json(),
        ),
    };
    json!({
        "id": reply.id.to_string(),
        "uuid": reply.vm.hyphenated().to_string(),
        "state": state,
        "last_ms": reply.time_ms,
        "asker": reply.asker,
        "result": result,
        "problem": problem,
    })
}

/// Cancels a request that waits, or asks the process of an operation to undo it.
pub fn cancel(world: &World, call: &Call) -> Result<Answer, Problem> {
    let asked = call.param("operation");
    let ops = read(world)?;
    if let Ok(id) = RequestId::from_str(asked) {
        return take_back(world, &ops, id);
    }
    for vm in &ops {
        let past = vm.past();
        if let Some(operation) = past.under_way().filter(|one| one.begin.id == asked) {
            run::ask_to_cancel(&SystemFiles, &world.site.dirs, vm.uuid, asked)?;
            let has_process = vm.standing(operation, &SystemProcess) == Status::UnderWay;
            let mut row = find(world, &ops, asked)?;
            set(&mut row, "has_process", has_process);
            return Ok(Answer::json(StatusCode::ACCEPTED, &row));
        }
    }
    let row = find(world, &ops, asked)?;
    let state = row.get("state").and_then(Value::as_str).unwrap_or_default();
    Err(not_cancellable(&format!(
        "operation `{asked}` has ended ({state})"
    )))
}

fn not_cancellable(detail: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, code::NOT_CANCELLABLE, detail)
}

/// Takes a request back that no monitor has begun.
fn take_back(world: &World, ops: &[VmOps], id: RequestId) -> Result<Answer, Problem> {
    let row = request(world, ops, id)?;
    let uuid = vms::uuid_of(&row)?;
    let queue = RequestQueue::new(&SystemFiles, &world.site.dirs, uuid);
    match queue.take_back(id)? {
        true => {
            let mut row = row;
            set(&mut row, "state", "cancelled");
            Ok(Answer::ok(&row))
        }
        false => Err(not_cancellable(
            "the VM's process has begun or ended the request",
        )),
    }
}
