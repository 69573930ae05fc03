//! The daemon's own health, and the document of the API.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::http::{Answer, Call};
use crate::openapi;
use crate::problem::Problem;
use crate::world::World;

/// Time in which xenstored must answer a host that is ready.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// Whether the daemon answers: it does, if this is called.
pub fn live(_: &World, _: &Call) -> Result<Answer, Problem> {
    Ok(Answer::ok(&json!({"ready": true, "parts": []})))
}

/// Whether Xen and xenstored answer.
pub fn ready(world: &World, _: &Call) -> Result<Answer, Problem> {
    let xen = world.hypervisor().and_then(|hv| {
        let version = hv.version().map_err(xyl_engine::EngineError::from)?;
        Ok(format!("{}.{}", version.major, version.minor))
    });
    let parts = [("xen", xen), ("xenstored", store_answers(world))];
    let is_ready = parts.iter().all(|(_, answer)| answer.is_ok());
    let rows = parts.iter().map(|(name, answer)| {
        let why = answer.as_ref().err().map(|problem| &problem.detail);
        json!({"name": name, "ready": answer.is_ok(), "why": why})
    });
    let status = match is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let rows: Value = rows.collect();
    Ok(Answer::json(
        status,
        &json!({"ready": is_ready, "parts": rows}),
    ))
}

fn store_answers(world: &World) -> Result<String, Problem> {
    let mut store = world.store_within(READY_LIMIT)?;
    let name = xenstore::Path::domain(0);
    match xenstore::Tree::directory(&mut store, &name) {
        Ok(_) | Err(xenstore::Error::NotFound { .. }) => Ok(String::new()),
        Err(error) => Err(xyl_engine::EngineError::from(error).into()),
    }
}

/// The OpenAPI document.
pub fn document(_: &World, _: &Call) -> Result<Answer, Problem> {
    Ok(Answer::ok(&openapi::document()))
}
