//! Changes of a VM, as requests in its queue: the VM's own process carries them out, whatever happens to the daemon.
//!
//! The asker of a request is the API, so the queue keeps its reply for 15 minutes. A call waits for the reply as long as `Prefer: wait=N`
//! says. After that the answer is 202, and the request stands.

use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::{StatusCode, header};
use os_port::{Process, SystemProcess};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use xyl_api::{Asker, Envelope, Outcome, PowerRequest, Reply, Request, RequestId};
use xyl_engine::Host;
use xyl_engine::supervise::requests;
use xyl_engine::vm::request_queue::{self, RequestQueue};

use crate::calls::{operations, vms};
use crate::http::{Answer, Call};
use crate::problem::Problem;
use crate::world::World;

/// Time to wait for a result if the request does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// First and longest pause between two looks for a reply.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// A power state that a VM is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    state: Level,
    #[serde(default)]
    how: How,
}

/// A power state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Running,
    Paused,
    Stopped,
}

/// The way to stop a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    /// The guest is asked to shut down.
    #[default]
    Clean,
    /// Its domain is destroyed.
    Force,
}

/// Brings a VM to a power state.
pub fn set(world: &World, call: &Call) -> Result<Answer, Problem> {
    let wanted: Wanted = serde_json::from_value(call.json()?)
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    let id = match &call.key {
        Some(_) => key_of(call)?,
        None => new_id(),
    };
    if let Some(answer) = answered(world, id)? {
        return answer;
    }
    let row = row_of(world, call)?;
    match request_for(wanted, &row) {
        Some(request) => ask(world, call, &row, request, id),
        None => Ok(Answer::ok(&unchanged(&row))),
    }
}

/// The request that brings a VM to a state; `None` if it has that state.
fn request_for(wanted: Wanted, row: &Value) -> Option<Request> {
    let is = |flag: &str| row.pointer(flag) == Some(&Value::Bool(true));
    let is_paused = is("/state/paused");
    match wanted.state {
        Level::Running if is_paused => Some(Request::Unpause),
        Level::Running => None,
        Level::Paused if is_paused => None,
        Level::Paused => Some(Request::Pause),
        Level::Stopped if is("/state/dying") => None,
        Level::Stopped => Some(match wanted.how {
            How::Clean => power(PowerRequest::Poweroff),
            How::Force => Request::Destroy { force: false },
        }),
    }
}

fn power(request: PowerRequest) -> Request {
    Request::Power {
        request,
        fallback: true,
    }
}

/// The answer for a VM that has the state already.
fn unchanged(row: &Value) -> Value {
    json!({
        "id": null,
        "uuid": row.get("uuid"),
        "state": "done",
        "result": {"type": "unchanged"},
        "problem": null,
    })
}

/// An action on a VM. The last part of the path names it, and the body has its members.
pub fn act(world: &World, call: &Call) -> Result<Answer, Problem> {
    let request = request_of(call)?;
    let id = key_of(call)?;
    if let Some(answer) = answered(world, id)? {
        return answer;
    }
    let row = row_of(world, call)?;
    ask(world, call, &row, request, id)
}

/// The request that an action is.
fn request_of(call: &Call) -> Result<Request, Problem> {
    let mut body = call.json()?;
    let Some(members) = body.as_object_mut() else {
        return Err(Problem::bad_request("the body must be an object"));
    };
    let name = call.action;
    let short = match name {
        "reboot" => Some(PowerRequest::Reboot),
        "shutdown" => Some(PowerRequest::Poweroff),
        _ => None,
    };
    match short {
        Some(request) if members.is_empty() => Ok(power(request)),
        Some(_) => Err(Problem::bad_request(format!("`{name}` has no members"))),
        None if members.contains_key("type") => {
            Err(Problem::bad_request("`type` is given by the path"))
        }
        None => {
            members.insert("type".to_owned(), Value::from(name.replace('-', "_")));
            Request::from_json(body).map_err(|error| Problem::bad_request(error.to_string()))
        }
    }
}

/// The id of the request that a key stands for.
fn key_of(call: &Call) -> Result<RequestId, Problem> {
    let remedy = "make a UUID for each new request, of version 7 if possible, and repeat a request with the same one";
    let Some(key) = &call.key else {
        let problem = Problem::bad_request("an action needs the header `Idempotency-Key`");
        return Err(problem.with_remedy(remedy));
    };
    RequestId::from_str(key)
        .map_err(|_| Problem::bad_request("`Idempotency-Key` is no UUID").with_remedy(remedy))
}

fn row_of(world: &World, call: &Call) -> Result<Value, Problem> {
    let hv = world.hypervisor()?;
    vms::find(world, &world.reader(&*hv), call.param("vm"))
}

/// The answer of a request with this id that has ended: a repeated key gets the first answer, also where the VM is no more.
fn answered(world: &World, id: RequestId) -> Result<Option<Result<Answer, Problem>>, Problem> {
    Ok(operations::reply(world, id)?.map(answer_of))
}

fn answer_of(reply: Reply) -> Result<Answer, Problem> {
    match &reply.outcome {
        Outcome::Done(_) => Ok(Answer::ok(&operations::of_reply(&reply))),
        Outcome::Failed(error) => Err(Problem::from(error.clone())),
    }
}

/// An id for a request whose asker has none. It begins with the time.
fn new_id() -> RequestId {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    RequestId::new(time_ms, SystemProcess.new_uuid())
}

/// Adds a request to the VM's queue, and waits for its reply.
fn ask(
    world: &World,
    call: &Call,
    row: &Value,
    request: Request,
    id: RequestId,
) -> Result<Answer, Problem> {
    let uuid = vms::uuid_of(row)?;
    if row.get("domid") == Some(&Value::from(0)) {
        return Err(xyl_engine::EngineError::ControlDomain(request.word()).into());
    }
    let mut host = world.host()?;
    let time_ms = request_queue::now_ms(&host);
    let asker = Asker::Remote {
        name: format!("API: {}", call.peer),
    };
    let word = request.word();
    requests::submit(&mut host, &Envelope::new(id, uuid, time_ms, asker, request))?;
    let limit = call.wait.unwrap_or(WAIT_DEFAULT);
    match wait(&host, uuid, id, limit)? {
        Some(answer) => answer,
        None => {
            let waiting = json!({
                "id": id.to_string(),
                "uuid": uuid.hyphenated().to_string(),
                "operation": word,
                "state": "requested",
            });
            let answer = Answer::json(StatusCode::ACCEPTED, &waiting);
            Ok(answer.with_header(header::LOCATION, format!("/v1/operations/{id}")))
        }
    }
}

/// Waits for a reply; `None` at the time limit.
fn wait(
    host: &Host,
    uuid: Uuid,
    id: RequestId,
    limit: Duration,
) -> Result<Option<Result<Answer, Problem>>, Problem> {
    let deadline = Instant::now() + limit;
    let [mut pause, longest] = LOOK_EVERY;
    let queue = RequestQueue::of(host, uuid);
    loop {
        if let Some(reply) = queue.look_for_kept_reply(id)? {
            return Ok(Some(answer_of(reply)));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(paused: bool) -> Value {
        json!({"state": {"paused": paused, "dying": false}})
    }

    #[test]
    fn a_state_is_a_level() {
        let wanted = |text: &str| serde_json::from_str::<Wanted>(text).unwrap();
        let running = wanted(r#"{"state": "running"}"#);
        assert_eq!(request_for(running, &row(false)), None);
        assert_eq!(request_for(running, &row(true)), Some(Request::Unpause));
        let paused = wanted(r#"{"state": "paused"}"#);
        assert_eq!(request_for(paused, &row(true)), None);
        let force = wanted(r#"{"state": "stopped", "how": "force"}"#);
        assert_eq!(
            request_for(force, &row(false)),
            Some(Request::Destroy { force: false })
        );
        assert!(serde_json::from_str::<Wanted>(r#"{"state": "off"}"#).is_err());
        assert!(serde_json::from_str::<Wanted>(r#"{"state": "paused", "x": 1}"#).is_err());
    }
}
