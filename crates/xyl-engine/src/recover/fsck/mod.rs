//! What is left over on a host, by whichever toolstack: found, explained, and removed if asked to.
//!
//! Nothing is called left over that somebody may be at work on. What there is is read before the list of
//! domains: a toolstack makes the domain first and its nodes, files and processes after, and removes them in the
//! other order, so what is found without a domain has none. Then all of it is looked at again after a
//! while, and only what has not changed counts. Each thing is looked at once more just before it is removed.

mod domains;
mod finding;
mod look;
mod repair;

use std::time::Duration;

pub use finding::{Finding, Leak, Verdict};

use crate::host::dom0::Kernel;
use crate::{EngineError, Host};

/// After which time what was found is looked at again. A create or a destroy shows progress in less; QEMU
/// has ended by then after its domain's end.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(2);

/// What is left over on the host. One that has nothing is looked at once.
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

/// Removes what was found. Each finding tells afterwards what was made of it.
pub fn repair(
    host: &mut Host,
    kernel: &Kernel,
    findings: Vec<Finding>,
) -> Result<Vec<Finding>, EngineError> {
    repair::all(host, kernel, findings)
}

#[cfg(test)]
mod tests;
