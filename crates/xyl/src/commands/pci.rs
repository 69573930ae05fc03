//! `xyl pci-list`, `xyl pci-assignable-list` and `xyl usb-list`: devices of the host that domains have or can get.

use serde_json::{Value, json};
use xen_port::DomId;
use xyl_engine::device::hotplug;
use xyl_engine::device::passed_through::{self, PciDevice};
use xyl_engine::vm::domains;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// List the PCI devices that a domain has of the host
#[derive(Debug, clap::Args)]
#[command(after_help = "Without such devices nothing is printed, as with xl.

Examples:
  xyl pci-list web

JSON: an array of {domid, address, virtual_slot}")]
pub struct ListArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl pci-list`.
pub fn run_list(args: &ListArgs, context: &Context) -> Outcome {
    let domid = context.find(&args.domain)?.info.domid;
    let devices = passed_through::pci_devices(&mut *context.store()?, domid)?;
    if context.json() {
        let array = devices.iter().map(|device| {
            json!({"domid": domid.0, "address": device.address, "virtual_slot": device.slot()})
        });
        return Ok(context.out.json(&Value::Array(array.collect()))?);
    }
    if !devices.is_empty() {
        context.out.line("Vdev Device")?;
    }
    for device in &devices {
        let line = format!("{} {}", device.slot(), Shown::line(&device.address));
        context.out.line(line)?;
    }
    Ok(())
}

/// List the PCI devices that can be given to domains
#[derive(Debug, clap::Args)]
#[command(
    after_help = "These are the devices that domain 0's driver pciback has, and no domain. Xyl does not give devices to domains yet.

Examples:
  xyl pci-assignable-list
  xyl pci-assignable-list -n   with the names that xl has given them

JSON: an array of {address, name}"
)]
pub struct AssignableArgs {
    /// Show their names
    #[arg(short = 'n', long)]
    show_names: bool,
}

/// Runs `xyl pci-assignable-list`.
pub fn run_assignable(args: &AssignableArgs, context: &Context) -> Outcome {
    let given = given_away(context)?;
    let mut array = Vec::new();
    for address in context.kernel().pci_devices_of_pciback() {
        if given.iter().any(|device| device.address == address) {
            continue;
        }
        let name = match args.show_names || context.json() {
            true => passed_through::name_of_pci(&mut *context.store()?, &address)?,
            false => None,
        };
        match context.json() {
            true => array.push(json!({"address": address, "name": name})),
            false => {
                let name = name.unwrap_or_default();
                context
                    .out
                    .line(format!("{address} {}", Shown::line(&name)))?;
            }
        }
    }
    match context.json() {
        true => Ok(context.out.json(&Value::Array(array))?),
        false => Ok(()),
    }
}

/// The devices that domains have.
fn given_away(context: &Context) -> Result<Vec<PciDevice>, Failure> {
    let domids: Vec<DomId> = domains::list(context.hv()?)?
        .iter()
        .map(|info| info.domid)
        .collect();
    let mut given = Vec::new();
    for domid in domids {
        given.extend(passed_through::pci_devices(&mut *context.store()?, domid)?);
    }
    Ok(given)
}

/// List the USB controllers of a domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without controllers nothing is printed, as with xl. Devices on their ports are not listed yet.

Examples:
  xyl usb-list web

JSON: an array of {domid, devid, backend_domid, state}"
)]
pub struct UsbArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl usb-list`.
pub fn run_usb(args: &UsbArgs, context: &Context) -> Outcome {
    let domid = context.find(&args.domain)?.info.domid;
    let controllers = hotplug::list(&mut *context.store()?, domid, "vusb")?;
    if context.json() {
        let array = controllers.iter().map(|one| {
            json!({
                "domid": domid.0,
                "devid": one.number,
                "backend_domid": one.backend_domid,
                "state": one.state,
            })
        });
        return Ok(context.out.json(&Value::Array(array.collect()))?);
    }
    for one in controllers {
        context.out.line(format!(
            "{:<6} {:<12} {:<3} {:<5} {:<7} {:<5}",
            "Devid", "Type", "BE", "state", "usb-ver", "ports"
        ))?;
        context.out.line(format!(
            "{:<6} {:<12} {:<3} {:<5} {:<7} {:<5}",
            one.number,
            Shown::line(one.copy("type").unwrap_or("pv")).to_string(),
            one.backend_domid,
            device_state(one.state),
            Shown::line(one.copy("usb-ver").unwrap_or_default()).to_string(),
            Shown::line(one.copy("num-ports").unwrap_or_default()).to_string(),
        ))?;
    }
    Ok(())
}

fn device_state(state: Option<u32>) -> i64 {
    super::device_list::cell(state)
}
