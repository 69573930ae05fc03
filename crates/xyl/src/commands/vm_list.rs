//! `xyl vm-list`: prints UUID, domid and name of each domain.

use serde_json::{Value, json};
use xen_port::DomainInfo;
use xyl_engine::vm::domains;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::{left, uuid};
use crate::shown;

/// List UUIDs, numbers and names of domains, leaving out stub domains
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl vm-list

JSON: an array of {uuid, domid, name}")]
pub struct Args {}

/// Runs `xyl vm-list`.
pub fn run(_args: &Args, context: &Context) -> Outcome {
    let all = domains::list(context.hv()?)?;
    let stub = domains::stub_domains(&mut *context.store()?, &all)?;
    let infos: Vec<DomainInfo> = all
        .into_iter()
        .filter(|info| !stub.contains(&info.domid))
        .collect();
    let names = context.names_or_warning(&infos);
    let rows = infos.iter().zip(&names);
    if context.json() {
        let rows = rows.map(
            |(info, name)| json!({"uuid": uuid(&info.handle), "domid": info.domid.0, "name": name}),
        );
        return Ok(context.out.json(&Value::Array(rows.collect()))?);
    }
    context
        .out
        .line("UUID                                  ID    name")?;
    for (info, name) in rows {
        let name = shown::cell(name.as_deref());
        context.out.line(format!(
            "{}  {}    {}",
            uuid(&info.handle),
            info.domid,
            left(&name, 30)
        ))?;
    }
    Ok(())
}
