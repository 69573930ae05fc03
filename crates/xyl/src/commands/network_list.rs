//! `xyl network-list`: lists the network interfaces of domains.

use serde_json::{Value, json};
use xyl_engine::device::hotplug::Listed;

use super::device_list::{self, Columns, cell};
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;
use crate::shown::Shown;

/// libxl's name of the kind.
pub const NIC: &str = "vif";

/// List the network interfaces of domains
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The columns are those of xl: Idx and handle are the interface's number, BE the domain that serves it, state the guest's \
end (4: connected), evt-ch and the rings those of the guest's driver, or -1 for a guest that has several queues or is not connected.

Examples:
  xyl network-list web
  xyl network-list web db

JSON: an array of {domid, devid, mac, bridge, backend_domid, state, event_channel, tx_ring_ref, rx_ring_ref, backend}"
)]
pub struct Args {
    /// The domains: numbers, names, or uuid=...
    #[arg(value_name = "DOMAIN", required = true, add = domain_names())]
    domains: Vec<String>,
}

/// Runs `xyl network-list`. As with xl, an unknown domain ends it.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let columns = Columns {
        kind: NIC,
        header: Some(header()),
        is_shown: |_| true,
        row,
        as_json,
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        Ok(Some(context.find(asked)?.info.domid))
    })
}

fn header() -> String {
    format!(
        "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}",
        "Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"
    )
}

fn row(nic: &Listed) -> String {
    format!(
        "{:<3} {:<2} {:<17}{:>6} {:>5} {:>6} {:>5}/{:<11} {:<30}",
        nic.number,
        nic.backend_domid,
        Shown::line(nic.copy("mac").unwrap_or_default()).to_string(),
        nic.number,
        cell(nic.state),
        cell(nic.event_channel),
        cell(nic.tx_ring_ref),
        cell(nic.rx_ring_ref),
        Shown::line(&nic.backend).to_string()
    )
}

fn as_json(domid: u16, nic: &Listed) -> Value {
    json!({
        "domid": domid,
        "devid": nic.number,
        "mac": nic.copy("mac"),
        "bridge": nic.copy("bridge"),
        "backend_domid": nic.backend_domid,
        "state": nic.state,
        "event_channel": nic.event_channel,
        "tx_ring_ref": nic.tx_ring_ref,
        "rx_ring_ref": nic.rx_ring_ref,
        "backend": nic.backend,
    })
}
