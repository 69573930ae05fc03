//! The protection of the host and its running guests, as `xyl audit --json` and `/v1/posture` show it.

use serde_json::{Value, json};
use xen_port::{DomId, DomainInfo};
use xyl_audit::advisories;
use xyl_audit::{Audit, Facts, GuestType, Row};

use super::{Reader, explained};
use crate::EngineError;
use crate::config::admission::{self, Decision, Outcome};
use crate::config::shim::KnownShims;
use crate::vm::domains;

/// The warning about a bare 32-bit PV guest.
pub const BARE_PV32: &str = "is a bare 32-bit PV guest: its kernel runs in ring 1, where IBRS and its kin do not protect the \
     hypervisor; shut it down, and create it anew for the PV shim";

/// A running guest, as the audit reports it.
pub struct Running {
    /// Number of its domain.
    pub domid: DomId,
    /// Name of the guest.
    pub name: String,
    /// Type of the guest.
    pub guest: GuestType,
    /// The policy's decision today, if it differs from the decision at the start.
    pub otherwise: Option<Decision>,
}

impl Running {
    /// Whether its kernel runs in ring 1, without a shim between it and the hypervisor.
    pub fn is_bare_pv32(&self) -> bool {
        self.guest == GuestType::Pv32
    }

    /// Whether the policy would decide otherwise today.
    pub fn is_otherwise(&self) -> bool {
        self.otherwise.is_some()
    }
}

/// The guests among all domains: all but domain 0 and those that are dying.
///
/// # Errors
/// Those of Xen.
pub fn guests(reader: &Reader<'_>) -> Result<Vec<DomainInfo>, EngineError> {
    let mut infos = domains::list(reader.hv)?;
    infos.retain(|info| info.domid != DomId::ZERO && !info.flags.dying);
    Ok(infos)
}

/// The audit's report of guests. `warn` gets the name of a guest whose record or decision cannot be read, and why; it is reported all the same.
///
/// # Errors
/// Those of Xen, and of the shims' records.
pub fn of_guests(
    reader: &Reader<'_>,
    infos: Vec<DomainInfo>,
    names: Vec<Option<String>>,
    warn: &mut dyn FnMut(&str, EngineError),
) -> Result<Vec<Running>, EngineError> {
    if infos.is_empty() {
        return Ok(Vec::new());
    }
    let (files, dirs) = (reader.records.files, reader.records.dirs);
    let bare_pv32 = admission::bare_pv32(reader.hv, &infos)?;
    let shims = KnownShims::of_host(files, dirs)?;
    let guests = infos.into_iter().zip(names).map(|(info, name)| {
        let name = name.unwrap_or_else(|| domains::NO_NAME.to_owned());
        let config = domains::libxl_record((files, &dirs.xen_lib), &info).ok();
        let is_bare_pv32 = bare_pv32.contains(&info.domid);
        let guest = admission::running_type(&info, is_bare_pv32, config.as_ref(), &shims);
        one(reader, info, name, guest, warn)
    });
    Ok(guests.collect())
}

fn one(
    reader: &Reader<'_>,
    info: DomainInfo,
    name: String,
    guest: GuestType,
    warn: &mut dyn FnMut(&str, EngineError),
) -> Running {
    let domid = info.domid;
    // A damaged admission record gives a warning. The guest is still listed.
    let explained = explained::of(reader, info, name.clone());
    let explained = explained.unwrap_or_else(|error| {
        warn(&name, error);
        None
    });
    let otherwise = match explained {
        Some(explained) => explained.is_changed().then_some(explained.now),
        None => refused_now(reader, guest).unwrap_or_else(|error| {
            warn(&name, error);
            None
        }),
    };
    Running {
        domid,
        name,
        guest,
        otherwise,
    }
}

/// Asks the policy about a guest without a recorded decision, because xl has started it.
fn refused_now(reader: &Reader<'_>, guest: GuestType) -> Result<Option<Decision>, EngineError> {
    let (files, dirs) = (reader.records.files, reader.records.dirs);
    let now = admission::decide_running(reader.hv, files, dirs, guest)?;
    Ok((now.outcome != Outcome::Allow).then_some(now))
}

/// The types of guests that can run on the host.
pub fn types_here(facts: &Facts) -> Vec<GuestType> {
    GuestType::ALL
        .iter()
        .copied()
        .filter(|guest| advisories::can_run(facts, *guest))
        .collect()
}

/// The whole report. `guests` are the types of guests to report; `running` is `None` where Xen has not listed them.
pub fn to_json(
    facts: &Facts,
    audit: &Audit,
    guests: &[GuestType],
    running: Option<&[Running]>,
) -> Value {
    let rows: Vec<&Row> = audit
        .rows
        .iter()
        .filter(|row| guests.contains(&row.guest))
        .collect();
    json!({
        "facts": facts,
        "runs_here": types_here(facts),
        "core_sharing": audit.core_sharing,
        "rows": rows,
        "advisories": audit.advisories,
        "running": running.map(running_json),
    })
}

/// The running guests as JSON.
pub fn running_json(running: &[Running]) -> Value {
    let rows = running.iter().map(|one| {
        json!({
            "domid": one.domid.0,
            "name": one.name,
            "guest": one.guest,
            "bare_pv32": one.is_bare_pv32(),
            "changed": one.is_otherwise(),
            "now": one.otherwise,
        })
    });
    Value::Array(rows.collect())
}
