//! Finds objects that any toolstack has left on the host, explains them, and removes them on request.
//!
//! An object that a process may be using is no finding. The objects are listed before the domains: a toolstack makes
//! the domain before its nodes, files and processes, and removes them in the opposite order. So an object without a
//! domain belongs to no domain that is being made. A second look follows after a while, and only objects that have not
//! changed count. Each object is checked once more just before it is removed.

mod domains;
mod finding;
mod look;
mod repair;

use std::time::Duration;

pub use finding::{Finding, Leak, Verdict};

use crate::host::dom0::Kernel;
use crate::{EngineError, Host};

/// Pause between the two looks. A create or a destroy makes progress in less time, and a QEMU ends in less time after
/// its domain.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(2);

/// Returns all objects that are left on the host. If the first look finds none, there is no second one.
pub fn look(host: &mut Host, kernel: &Kernel) -> Result<Vec<Finding>, EngineError> {
    let first = look::once(host, kernel)?;
    if first.is_empty() {
        return Ok(first);
    }
    let again_at = host.clock.now() + SECOND_LOOK_AFTER;
    host.clock.wait_until(again_at);
    let mut found = look::once(host, kernel)?;
    found.retain(|finding| first.iter().any(|other| other.leak == finding.leak));
    Ok(found)
}

/// Removes the objects, and returns the findings with the result for each.
pub fn repair(
    host: &mut Host,
    kernel: &Kernel,
    findings: Vec<Finding>,
) -> Result<Vec<Finding>, EngineError> {
    repair::all(host, kernel, findings)
}

#[cfg(test)]
mod tests;
