//! Audits the host on which this process runs.

use std::path::Path;

use os_port::Files;
use xen_port::{Hypervisor, PhysInfo};

use crate::advisories::{self, Advisory, AdvisoryError};
use crate::audit::Audit;
use crate::facts::Facts;
use crate::verdicts;

/// Audits the host for an admission, from the facts of this boot. `run` is `/run/xyl`, `physical` is Xen's present
/// information. With `with_advisories`, also judges the advisories of Xyl and of `/etc/xyl/advisories.d`.
pub fn audit(
    hv: &dyn Hypervisor,
    files: &dyn Files,
    run: &Path,
    physical: &PhysInfo,
    with_advisories: bool,
) -> Result<Audit, AdvisoryError> {
    let advisories = wanted(files, with_advisories)?;
    let facts = Facts::of_this_boot(hv, files, run, physical);
    Ok(audit_of(&facts, &advisories))
}

/// The audit from kept facts alone, without a hypercall; `None` if no facts are kept.
pub fn kept_audit(
    files: &dyn Files,
    run: &Path,
    with_advisories: bool,
) -> Result<Option<Audit>, AdvisoryError> {
    let advisories = wanted(files, with_advisories)?;
    Ok(Facts::kept(files, run).map(|facts| audit_of(&facts, &advisories)))
}

fn wanted(files: &dyn Files, with_advisories: bool) -> Result<Vec<Advisory>, AdvisoryError> {
    if !with_advisories {
        return Ok(Vec::new());
    }
    advisories::load(files, Path::new(advisories::FOLDER))
}

/// The audit of a host with these facts.
#[must_use]
pub fn audit_of(facts: &Facts, advisories: &[Advisory]) -> Audit {
    let mut audit = verdicts::audit(facts);
    audit.advisories = advisories::judge(advisories, facts, &audit);
    audit
}
