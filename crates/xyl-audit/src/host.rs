//! The audit of the host that this runs on.

use std::path::Path;

use os_port::Files;
use xen_port::Hypervisor;

use crate::advisories::{self, Advisory, AdvisoryError};
use crate::audit::Audit;
use crate::facts::Facts;
use crate::verdicts;

/// For an admission: from the facts kept since the host was started, or from new ones. `run` is `/run/xyl`. With
/// `with_advisories` those of Xyl and of `/etc/xyl/advisories.d` are judged, too.
pub fn audit(
    hv: &dyn Hypervisor,
    files: &dyn Files,
    run: &Path,
    with_advisories: bool,
) -> Result<Audit, AdvisoryError> {
    let advisories = if with_advisories {
        advisories::load(files, Path::new(advisories::FOLDER))?
    } else {
        Vec::new()
    };
    let facts = Facts::of_this_boot(hv, files, run);
    Ok(audit_of(&facts, &advisories))
}

/// The audit of a host with these facts.
#[must_use]
pub fn audit_of(facts: &Facts, advisories: &[Advisory]) -> Audit {
    let mut audit = verdicts::audit(facts);
    audit.advisories = advisories::judge(advisories, facts, &audit);
    audit
}
