//! The answers of the API, one module for each subject. `endpoints` lists the functions.

pub mod health;
pub mod host;
pub mod operations;
pub mod power;
pub mod vms;

use serde_json::{Value, json};

use crate::world::Missing;

/// The type of Prometheus's text format.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The parts of an answer that could not be read, as JSON.
fn missing_json(missing: &[Missing]) -> Value {
    let rows = missing
        .iter()
        .map(|(what, why)| json!({"what": what, "why": why}));
    rows.collect()
}
