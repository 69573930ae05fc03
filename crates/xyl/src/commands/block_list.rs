//! `xyl block-list`: lists the disks of domains.

use serde_json::{Value, json};
use xyl_engine::device::hotplug::Listed;

use super::block_attach::DISK;
use super::device_list::{self, Columns, cell};
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;
use crate::shown::Shown;

/// List the disks of domains
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The columns are those of xl: Vdev is the disk's number, BE the domain that serves it, handle the domain that \
uses it, state the guest's end (4: connected), evt-ch and ring-ref those of the guest's driver or -1.

Examples:
  xyl block-list web
  xyl block-list web db

JSON: an array of {domid, vdev, name, backend_domid, state, event_channel, ring_ref, backend, type, target, mode, cdrom}"
)]
pub struct Args {
    /// The domains: numbers, names, or uuid=...
    #[arg(value_name = "DOMAIN", required = true, add = domain_names())]
    domains: Vec<String>,
}

/// Runs `xyl block-list`. As with xl, an unknown domain is named, and is no failure.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let columns = Columns {
        kind: DISK,
        header: Some(format!(
            "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}",
            "Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"
        )),
        is_shown: |_| true,
        row,
        as_json,
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        device_list::find_or_skip(context, asked)
    })
}

fn row(disk: &Listed) -> String {
    format!(
        "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}",
        disk.number,
        disk.backend_domid,
        cell(disk.frontend_domid.map(u32::from)),
        cell(disk.state),
        cell(disk.event_channel),
        cell(disk.ring_ref),
        Shown::line(&disk.backend).to_string()
    )
}

fn as_json(domid: u16, disk: &Listed) -> Value {
    json!({
        "domid": domid,
        "vdev": disk.number,
        "name": disk.copy("dev"),
        "backend_domid": disk.backend_domid,
        "state": disk.state,
        "event_channel": disk.event_channel,
        "ring_ref": disk.ring_ref,
        "backend": disk.backend,
        "type": disk.copy("type"),
        "target": disk.copy("params"),
        "mode": disk.copy("mode"),
        "cdrom": disk.copy("device-type") == Some("cdrom"),
    })
}
