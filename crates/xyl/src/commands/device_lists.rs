//! Lists of channels, of keyboards, and of the kinds of devices that Xyl does not make: those that xl has made are listed.

use serde_json::{Value, json};
use xyl_engine::device::hotplug::Listed;

use super::device_list::{self, Columns, cell};
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;
use crate::shown::Shown;

/// libxl's name of the kind of keyboards.
pub const KEYBOARD: &str = "vkbd";
/// The kind of backend of keyboards of the type `linux`. Others are QEMU's.
const LINUX_KEYBOARD: &str = "/vinput/";

macro_rules! list_arguments {
    ($($(#[$attribute:meta])* $name:ident;)*) => {
        $(#[derive(Debug, clap::Args)]
        $(#[$attribute])*
        pub struct $name {
            /// The domains: numbers, names, or uuid=...
            #[arg(value_name = "DOMAIN", required = true, add = domain_names())]
            domains: Vec<String>,
        })*
    };
}

list_arguments! {
    /// List the channels of domains
    #[command(after_help = "Examples:
  xyl channel-list web

JSON: an array of {domid, devid, name, connection, tty, backend_domid, state, event_channel, ring_ref, backend}")]
    ChannelArgs;
    /// List the virtual keyboards of domains
    #[command(after_help = "Examples:
  xyl vkb-list web

JSON: an array of {domid, devid, id, backend_type, backend_domid, state, event_channel, ring_ref, backend}")]
    VkbArgs;
    /// List the virtual TPMs of domains
    #[command(after_help = "Examples:
  xyl vtpm-list web

JSON: an array of {domid, devid, uuid, backend_domid, state, event_channel, ring_ref, backend}")]
    VtpmArgs;
    /// List the virtual displays of domains
    #[command(after_help = "Connectors are not listed yet.

Examples:
  xyl vdispl-list web

JSON: an array of {domid, devid, backend_domid, state, event_channel, ring_ref, backend}")]
    VdisplArgs;
    /// List the virtual sound devices of domains
    #[command(after_help = "Streams are not listed yet.

Examples:
  xyl vsnd-list web

JSON: an array of {domid, devid, backend_domid, state, event_channel, ring_ref, backend}")]
    VsndArgs;
}

/// Runs `xyl channel-list`. As with xl, an unknown domain ends it.
pub fn run_channel(args: &ChannelArgs, context: &Context) -> Outcome {
    let columns = Columns {
        kind: "console",
        header: Some(format!(
            "{:<3} {:<2} {:<5} {:<6} {:>8} {:<10} {:<30}",
            "Idx", "BE", "state", "evt-ch", "ring-ref", "connection", ""
        )),
        // A channel is a console with a name.
        is_shown: |device| device.copy("name").is_some(),
        row: channel_row,
        as_json: |domid, device| {
            let mut value = base_json(domid, device);
            crate::json::set(&mut value, "name", device.copy("name"));
            crate::json::set(&mut value, "connection", device.copy("connection"));
            crate::json::set(&mut value, "tty", device.tty.as_deref());
            value
        },
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        Ok(Some(context.find(asked)?.info.domid))
    })
}

fn channel_row(device: &Listed) -> String {
    let connection = device.copy("connection").unwrap_or("unknown");
    let tty = match (connection, device.tty.as_deref()) {
        ("pty", tty) => format!("{:<30} ", Shown::line(tty.unwrap_or_default()).to_string()),
        _ => String::new(),
    };
    format!(
        "{:<3} {:<2} {:<5} {:<6} {:<8} {:<10} {tty}",
        // Console 0 is no channel, so xl counts the others from 0 on.
        device.number.saturating_sub(1),
        device.backend_domid,
        cell(device.state),
        cell(device.event_channel),
        cell(device.ring_ref),
        Shown::line(connection).to_string(),
    )
}

/// Runs `xyl vkb-list`. As with xl, an unknown domain ends it.
pub fn run_vkb(args: &VkbArgs, context: &Context) -> Outcome {
    let columns = Columns {
        kind: KEYBOARD,
        header: Some(format!(
            "{:<3} {:<2} {:<6} {:<5} {:<6} {:>6} {:<10} {:<10} {:<30}",
            "Idx", "BE", "handle", "state", "evt-ch", "ref", "ID", "BE-type", "BE-path"
        )),
        is_shown: |_| true,
        row: vkb_row,
        as_json: |domid, device| {
            let mut value = base_json(domid, device);
            crate::json::set(&mut value, "id", device.copy("unique-id"));
            crate::json::set(&mut value, "backend_type", Some(backend_type(device)));
            value
        },
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        Ok(Some(context.find(asked)?.info.domid))
    })
}

fn vkb_row(device: &Listed) -> String {
    format!(
        "{:<3} {:<2} {:>6} {:>5} {:>6} {:>6} {:<10} {:<10} {:<30}",
        device.number,
        device.backend_domid,
        device.number,
        cell(device.state),
        cell(device.event_channel),
        cell(device.ring_ref),
        Shown::line(device.copy("unique-id").unwrap_or("(null)")).to_string(),
        backend_type(device),
        Shown::line(&device.backend).to_string(),
    )
}

/// The type of a keyboard's backend, in the word of xl.cfg. Its path alone says it.
fn backend_type(device: &Listed) -> &'static str {
    match device.backend.contains(LINUX_KEYBOARD) {
        true => "linux",
        false => "qemu",
    }
}

/// Runs `xyl vtpm-list`. As with xl, an unknown domain is named, and is no failure.
pub fn run_vtpm(args: &VtpmArgs, context: &Context) -> Outcome {
    let columns = Columns {
        kind: "vtpm",
        header: Some(format!(
            "{:<3} {:<2} {:<36} {:<6} {:<5} {:<6} {:<5} {:<10}",
            "Idx", "BE", "Uuid", "handle", "state", "evt-ch", "ring-ref", "BE-path"
        )),
        is_shown: |_| true,
        row: vtpm_row,
        as_json: |domid, device| {
            let mut value = base_json(domid, device);
            crate::json::set(&mut value, "uuid", device.copy("uuid"));
            value
        },
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        device_list::find_or_skip(context, asked)
    })
}

fn vtpm_row(device: &Listed) -> String {
    format!(
        "{:<3} {:<2} {} {:>6} {:>5} {:>6} {:>8} {:<30}",
        device.number,
        device.backend_domid,
        Shown::line(
            device
                .copy("uuid")
                .unwrap_or("00000000-0000-0000-0000-000000000000")
        ),
        device.number,
        cell(device.state),
        cell(device.event_channel),
        cell(device.ring_ref),
        Shown::line(&device.backend).to_string(),
    )
}

/// Runs `xyl vdispl-list`. As with xl, an unknown domain is named, and is no failure.
pub fn run_vdispl(args: &VdisplArgs, context: &Context) -> Outcome {
    let columns = Columns {
        kind: "vdispl",
        header: None,
        is_shown: |_| true,
        row: |device| {
            format!(
                "DevId: {}, BE: {}, handle: {}, state: {}, be-alloc: {}, BE-path: {}, FE-path: {}",
                device.number,
                device.backend_domid,
                device.frontend_domid.unwrap_or_default(),
                cell(device.state),
                Shown::line(device.copy("be-alloc").unwrap_or("0")),
                Shown::line(&device.backend),
                Shown::line(&device.frontend),
            )
        },
        as_json: base_json,
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        device_list::find_or_skip(context, asked)
    })
}

/// Runs `xyl vsnd-list`. As with xl, an unknown domain is named, and is no failure.
pub fn run_vsnd(args: &VsndArgs, context: &Context) -> Outcome {
    let columns = Columns {
        kind: "vsnd",
        header: None,
        is_shown: |_| true,
        row: |device| {
            format!(
                "\ndevid: {}, be-domid: {}, handle: {}, state: {}, be-path: {}, fe-path: {}",
                device.number,
                device.backend_domid,
                device.frontend_domid.unwrap_or_default(),
                cell(device.state),
                Shown::line(&device.backend),
                Shown::line(&device.frontend),
            )
        },
        as_json: base_json,
    };
    device_list::print(context, &columns, &args.domains, |asked| {
        device_list::find_or_skip(context, asked)
    })
}

/// The members that each kind has.
fn base_json(domid: u16, device: &Listed) -> Value {
    json!({
        "domid": domid,
        "devid": device.number,
        "backend_domid": device.backend_domid,
        "state": device.state,
        "event_channel": device.event_channel,
        "ring_ref": device.ring_ref,
        "backend": device.backend,
    })
}
