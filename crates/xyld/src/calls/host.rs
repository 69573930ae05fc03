//! The host: facts, posture, leftovers, metrics.

use os_port::SystemFiles;
use serde_json::{Value, json};
use xyl_audit::{Facts, advisories};
use xyl_engine::EngineError;
use xyl_engine::host::info;
use xyl_engine::recover::fsck;
use xyl_engine::report::metrics::{self, Asked, Sample};
use xyl_engine::report::{host as report, leftovers as left, posture as audit, set};

use crate::calls::{METRICS, missing_json};
use crate::http::{Answer, Call};
use crate::problem::Problem;
use crate::world::{Missing, World};

/// Facts about Xen and the host, with the topology of its CPUs.
pub fn host(world: &World, _: &Call) -> Result<Answer, Problem> {
    let hv = world.hypervisor()?;
    let facts = info::info(&*hv)?;
    let cpus = hv.cpu_topology().map_err(EngineError::from)?;
    let nodes = hv.numa_nodes().map_err(EngineError::from)?;
    let uname = rustix::system::uname();
    let names = [
        uname.nodename().to_string_lossy(),
        uname.release().to_string_lossy(),
        uname.version().to_string_lossy(),
        uname.machine().to_string_lossy(),
    ];
    let entries = report::entries(&facts, &names);
    let mut host = report::to_json(&entries, Some(&(cpus, nodes)));
    set(
        &mut host,
        "is_simulated",
        world.site.as_simulated().is_some(),
    );
    set(&mut host, "xyl_version", env!("CARGO_PKG_VERSION"));
    Ok(Answer::ok(&host))
}

/// The protection against speculative execution, by the facts that are kept since the start of the host.
pub fn posture(world: &World, _: &Call) -> Result<Answer, Problem> {
    let hv = world.hypervisor()?;
    let reader = world.reader(&*hv);
    let known =
        advisories::load(&SystemFiles, advisories::FOLDER.as_ref()).map_err(EngineError::from)?;
    let phys = hv.phys_info().map_err(EngineError::from)?;
    let facts = Facts::of_this_boot(&*hv, &SystemFiles, &world.site.dirs.run, &phys);
    let report = xyl_audit::host::audit_of(&facts, &known);
    let guests = audit::guests(&reader)?;
    let named = world.named(&reader, guests);
    let mut missing: Vec<Missing> = named.missing.into_iter().collect();
    let mut warn = |name: &str, error: EngineError| {
        missing.push(("decision", format!("{name}: {error}")));
    };
    let running = audit::of_guests(&reader, named.infos, named.names, &mut warn)?;
    let types = audit::types_here(&facts);
    let mut answer = audit::to_json(&facts, &report, &types, Some(&running));
    set(&mut answer, "missing", missing_json(&missing));
    Ok(Answer::ok(&answer))
}

/// Leftovers of dead domains.
pub fn leftovers(world: &World, _: &Call) -> Result<Answer, Problem> {
    let mut host = world.host()?;
    let found = fsck::look(&mut host, &world.site.kernel())?;
    let rows: Value = found.iter().map(left::to_json).collect();
    Ok(Answer::ok(&json!({"leftovers": rows})))
}

/// Metrics in Prometheus's text format.
pub fn metrics(world: &World, _: &Call) -> Result<Answer, Problem> {
    let hv = world.hypervisor()?;
    let mut store = world.store();
    let mut asked = Asked {
        reader: world.reader(&*hv),
        kernel: &world.site.kernel(),
        store: match &mut store {
            Ok(store) => Ok(store),
            Err(problem) => Err(problem.detail.clone()),
        },
    };
    let sample = Sample::take(&mut asked)?;
    Ok(Answer::text(METRICS, metrics::text(&metrics::all(&sample))))
}
