//! `xyl sharing`: prints how many pages of memory domains share.

use serde_json::{Value, json};
use xen_port::DomainInfo;
use xyl_engine::vm::domains;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;
use crate::output::left;
use crate::shown;

/// Show how much memory domains share
#[derive(Debug, clap::Args)]
#[command(after_help = "Memory is in MiB.

Examples:
  xyl sharing
  xyl sharing web

JSON: an array of {domid, name, memory_kib, shared_kib}")]
pub struct Args {
    /// Only this domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: Option<String>,
}

/// KiB of a page.
const PAGE_KIB: u64 = 4;

/// Runs `xyl sharing`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let infos = match &args.domain {
        Some(asked) => vec![context.find(asked)?.info],
        None => domains::list(context.hv()?)?,
    };
    let names = context.names_or_warning(&infos);
    let rows = infos.iter().zip(&names);
    if context.json() {
        let array = rows.map(|(info, name)| {
            json!({
                "domid": info.domid.0,
                "name": name,
                "memory_kib": memory_kib(info),
                "shared_kib": info.shr_pages * PAGE_KIB,
            })
        });
        return Ok(context.out.json(&Value::Array(array.collect()))?);
    }
    context
        .out
        .line("Name                                        ID   Mem Shared")?;
    for (info, name) in rows {
        context.out.line(row(info, name.as_deref()))?;
    }
    Ok(())
}

fn row(info: &DomainInfo, name: Option<&str>) -> String {
    format!(
        "{} {:5} {:5}  {:5}",
        left(&shown::cell(name), 40),
        info.domid.0,
        memory_kib(info) / 1024,
        info.shr_pages * PAGE_KIB / 1024
    )
}

/// Memory that the domain has, or has claimed.
fn memory_kib(info: &DomainInfo) -> u64 {
    (info.tot_pages + info.outstanding_pages) * PAGE_KIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_that_of_xl() {
        let info = DomainInfo {
            tot_pages: 131_072,
            ..DomainInfo::default()
        };
        assert_eq!(
            row(&info, Some("Domain-0")),
            format!("{:<40} {:5} {:5}  {:5}", "Domain-0", 0, 512, 0)
        );
    }
}
