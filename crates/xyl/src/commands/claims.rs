//! `xyl claims`: lists memory that domains have claimed and Xen has not yet allocated.

use serde_json::{Value, json};
use xyl_engine::vm::domains;

use crate::commands::list::{Columns, print_table};
use crate::context::Context;
use crate::error::Outcome;

/// List the memory that domains have claimed and not yet got
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl claims

JSON: an array of {domid, name, claimed_kib}")]
pub struct Args {}

/// Runs `xyl claims`.
pub fn run(_args: &Args, context: &Context) -> Outcome {
    let infos = domains::list(context.hv()?)?;
    let names = context.names_or_warning(&infos);
    if context.json() {
        let rows = infos.iter().zip(&names).map(|(info, name)| {
            json!({"domid": info.domid.0, "name": name, "claimed_kib": info.outstanding_pages * 4})
        });
        return Ok(context.out.json(&Value::Array(rows.collect()))?);
    }
    print_table(
        context,
        &infos,
        &names,
        Columns {
            claim: true,
            ..Columns::default()
        },
    )
}
