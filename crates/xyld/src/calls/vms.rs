//! VMs: the list, one of them, the policy's decision about it, and the check of a configuration.

use hyper::StatusCode;
use os_port::{SystemClock, SystemFiles};
use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::{DomainInfo, Hypervisor};
use xyl_engine::config::admission;
use xyl_engine::config::plan_here::Place;
use xyl_engine::report::{Reader, check as checks, explained, vms as report};
use xyl_engine::supervise::states;
use xyl_engine::{EngineError, ErrorCode};
use xyl_host::xl_conf;

use crate::calls::missing_json;
use crate::http::{Answer, Call};
use crate::problem::{Problem, code};
use crate::world::{Missing, Named, World};

/// The types of a body with a configuration.
const CONFIGURATIONS: [&str; 2] = ["text/x-xl-cfg", "text/plain"];
/// Name that stands for the file of a configuration in findings.
const CONFIGURATION: &str = "configuration";

/// All VMs, with the parts that could not be read.
pub struct All {
    /// Rows as `xyl list --json` prints them.
    pub rows: Vec<Value>,
    /// The parts that could not be read.
    pub missing: Vec<Missing>,
}

/// Reads all VMs.
///
/// # Errors
/// Those of Xen.
pub fn all(world: &World, reader: &Reader<'_>) -> Result<All, Problem> {
    let (infos, absent) = states::list(reader.hv, &reader.records, &SystemClock)?;
    let Named {
        infos,
        names,
        missing,
    } = world.named(reader, infos);
    let mut missing: Vec<Missing> = missing.into_iter().collect();
    let bare_pv32 = admission::bare_pv32(reader.hv, &infos).unwrap_or_else(|error| {
        missing.push(("bare_pv32", error.to_string()));
        Vec::new()
    });
    let mut rows = report::of_domains(reader, &infos, &names, &bare_pv32);
    rows.extend(absent.iter().map(|vm| report::of_absent(reader, vm)));
    rows.extend(report::given_up_without_domain(reader, &infos));
    Ok(All { rows, missing })
}

/// All VMs, and the domains of other toolstacks.
pub fn list(world: &World, _: &Call) -> Result<Answer, Problem> {
    let hv = world.hypervisor()?;
    let All { rows, missing } = all(world, &world.reader(&*hv))?;
    Ok(Answer::ok(
        &json!({"vms": rows, "missing": missing_json(&missing)}),
    ))
}

/// One VM, by its UUID or name.
pub fn one(world: &World, call: &Call) -> Result<Answer, Problem> {
    let hv = world.hypervisor()?;
    let row = find(world, &world.reader(&*hv), call.param("vm"))?;
    Ok(Answer::ok(&row))
}

/// The row of a VM, by its UUID or name. Of two domains the one that is not dying is meant. A number is no name of a VM.
///
/// # Errors
/// There is no such VM; those of Xen.
pub fn find(world: &World, reader: &Reader<'_>, asked: &str) -> Result<Value, Problem> {
    let All { rows, missing } = all(world, reader)?;
    let uuid = Uuid::try_parse(asked)
        .ok()
        .map(|uuid| uuid.hyphenated().to_string());
    let is_meant = |row: &&Value| {
        let has = |key: &str, wanted: &str| row.get(key).and_then(Value::as_str) == Some(wanted);
        match &uuid {
            Some(uuid) => has("uuid", uuid),
            None => has("name", asked),
        }
    };
    let is_dying = |row: &Value| row.pointer("/state/dying") == Some(&Value::Bool(true));
    let found = rows.iter().filter(is_meant).min_by_key(|row| is_dying(row));
    found.cloned().ok_or_else(|| unknown(asked, &missing))
}

/// The problem of a VM that was not found. Without names it may be there.
fn unknown(asked: &str, missing: &[Missing]) -> Problem {
    match missing.iter().find(|(what, _)| *what == "names") {
        Some((_, why)) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Xenstore.word(),
            format!("`{asked}` cannot be looked up by its name: {why}"),
        )
        .with_remedy("use the UUID of the VM"),
        None => Problem::from(EngineError::NoSuchDomain(asked.to_owned())),
    }
}

/// The UUID in a row.
///
/// # Errors
/// The row has none, which is a fault of the daemon.
pub fn uuid_of(row: &Value) -> Result<Uuid, Problem> {
    let text = row.get("uuid").and_then(Value::as_str).unwrap_or_default();
    Uuid::try_parse(text).map_err(|_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::INTERNAL,
            "a VM has no UUID",
        )
    })
}

/// The policy's decision about a VM.
pub fn explain(world: &World, call: &Call) -> Result<Answer, Problem> {
    let hv = world.hypervisor()?;
    let reader = world.reader(&*hv);
    let row = find(world, &reader, call.param("vm"))?;
    let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
    let decided = match domain_of(&*hv, uuid_of(&row)?)? {
        Some(info) => explained::of(&reader, info, name.to_owned())?,
        None => None,
    };
    match decided {
        Some(explained) => Ok(Answer::ok(&explained.to_json())),
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            code::NO_DECISION,
            format!("there is no decision about `{name}`: Xyl has not created its domain, or it has none now"),
        )
        .with_remedy("/v1/posture shows the protection of each type of guest")),
    }
}

/// The domain of a VM; the one that is not dying, if there are two.
fn domain_of(hv: &dyn Hypervisor, uuid: Uuid) -> Result<Option<DomainInfo>, Problem> {
    let infos = xyl_engine::vm::domains::list(hv)?;
    let its = infos
        .into_iter()
        .filter(|info| &info.handle == uuid.as_bytes());
    Ok(its.min_by_key(|info| info.flags.dying))
}

/// The check of a configuration.
pub fn check(world: &World, call: &Call) -> Result<Answer, Problem> {
    let is_configuration = call
        .content_type
        .as_deref()
        .is_some_and(|found| CONFIGURATIONS.contains(&found));
    if !is_configuration {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            code::MEDIA_TYPE,
            format!(
                "the body must have `Content-Type: {}`",
                CONFIGURATIONS.join("` or `")
            ),
        ));
    }
    let conf = xl_conf::read().map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Configuration.word(),
            error.to_string(),
        )
    })?;
    let hv = world.site.hypervisor();
    let open = || match &hv {
        Ok(hv) => Ok(&**hv),
        Err(error) => Err(EngineError::Record {
            path: "xen".into(),
            what: error.to_string(),
        }),
    };
    let place = Place {
        hv: &open,
        files: &SystemFiles,
        dirs: &world.site.dirs,
        is_check: true,
    };
    let checked = checks::check(CONFIGURATION, &call.body, &xl_conf::defaults(&conf), &place);
    Ok(Answer::ok(&checked))
}
