//! The commands about PCI devices of the host that domains have or can get, and `xyl usb-list`.

use serde_json::{Value, json};
use xen_port::PciSbdf;
use xl_cfg::types::PciAddress;
use xyl_engine::Host;
use xyl_engine::device::assignable::{self, NewAssignable};
use xyl_engine::device::{hotplug, passed_through};
use xyl_engine::supervise::requests::Request;
use xyl_engine::vm::nic::VifDefaults;

use super::device_attach::Attach;
use crate::complete::{assignable_devices, domain_names, pci_devices};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// libxl's name of the kind of PCI devices.
const KIND: &str = "pci";

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

/// List the PCI devices that domains can get
#[derive(Debug, clap::Args)]
#[command(
    after_help = "These are the devices that domain 0's driver pciback has, and no domain.

Examples:
  xyl pci-assignable-list
  xyl pci-assignable-list -n   with the names that they were given

JSON: an array of {address, name}"
)]
pub struct AssignableArgs {
    /// Show their names
    #[arg(short = 'n', long)]
    show_names: bool,
}

/// Runs `xyl pci-assignable-list`.
pub fn run_assignable(args: &AssignableArgs, context: &Context) -> Outcome {
    let devices = assignable::list(&mut host_of(context)?)?;
    if context.json() {
        let array = devices
            .iter()
            .map(|one| json!({"address": one.device.to_string(), "name": one.name}));
        return Ok(context.out.json(&Value::Array(array.collect()))?);
    }
    for one in devices {
        let name = one.name.filter(|_| args.show_names).unwrap_or_default();
        let line = format!("{} {}", one.device, Shown::line(&name));
        context.out.line(line)?;
    }
    Ok(())
}

/// Make a PCI device of the host available to domains
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Domain 0's driver of the device loses it, and pciback gets it (`modprobe xen-pciback`). Xen keeps it from all memory until a domain has \
it, which needs an IOMMU. A device that Xen cannot keep from memory goes back to its driver. A device that is available already gets the name, or loses \
it without one, as with xl.

Bridges are refused, and devices that domain 0 uses: a network interface that is up or a port of a bridge, a disk with any user (a mount, \
swap, a guest, a volume), a storage controller whose disks the kernel does not show.

Examples:
  xyl pci-assignable-add 03:00.0
  xyl pci-assignable-add -n nic 0000:03:00.0
  xyl -N pci-assignable-add 03:00.0   only check it"
)]
pub struct AddArgs {
    /// A name for the device, for `pci = [ \"name=...\" ]`
    #[arg(short = 'n', long)]
    name: Option<String>,
    /// Take the device although domain 0 uses it
    #[arg(long)]
    force: bool,
    /// Address of the device, as lspci shows it
    #[arg(value_name = "BDF", add = pci_devices())]
    device: String,
}

/// Runs `xyl pci-assignable-add`.
pub fn run_add(args: &AddArgs, context: &Context) -> Outcome {
    let new = NewAssignable {
        device: address(&args.device)?,
        name: args.name.clone(),
        is_forced: args.force,
    };
    let mut host = host_of(context)?;
    if context.dry_run() {
        assignable::check_add(&mut host, &new)?;
    }
    if context.would(format!("make PCI device {} assignable", new.device))? {
        return Ok(());
    }
    Ok(assignable::add(&mut host, &new)?)
}

/// Take a PCI device out of those that domains can get
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without `-r` the device has no driver afterwards. A device that a domain has is refused.

Examples:
  xyl pci-assignable-remove -r 03:00.0   its own driver gets it again
  xyl pci-assignable-remove nic"
)]
pub struct RemoveArgs {
    /// Give the device to the driver that it had
    #[arg(short = 'r', long)]
    rebind: bool,
    /// Address of the device, or the name that it was given
    #[arg(value_name = "BDF|NAME", add = assignable_devices())]
    device: String,
}

/// Runs `xyl pci-assignable-remove`. As with xl, a name goes before an address.
pub fn run_remove(args: &RemoveArgs, context: &Context) -> Outcome {
    let mut host = host_of(context)?;
    let device = match assignable::named(&mut host, &args.device)? {
        Some(device) => device,
        None => address(&args.device)?,
    };
    if context.dry_run() {
        assignable::check_remove(&mut host, device, args.rebind)?;
    }
    if context.would(format!(
        "take PCI device {device} out of the assignable ones"
    ))? {
        return Ok(());
    }
    Ok(assignable::remove(&mut host, device, args.rebind)?)
}

/// Attach a PCI device to a running PV guest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The device is described as in the setting `pci` of xl.cfg. It must be assignable, or have `seize=1`. The guest must run its driver for PCI \
devices (xen-pcifront) if it has one already, and must have been made with `pci` or `passthrough=\"enabled\"`. The domain keeps the device over a reboot.

Examples:
  xyl pci-attach web 03:00.0
  xyl pci-attach web 03:00.0,permissive=1
  xyl -N pci-attach web 03:00.0   only check it"
)]
pub struct AttachArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The device, as in xl.cfg
    #[arg(value_name = "BDF", add = assignable_devices())]
    device: String,
    /// Place on the guest's bus, hexadecimal
    #[arg(value_name = "VSLOT")]
    slot: Option<String>,
}

/// Runs `xyl pci-attach`.
pub fn run_attach(args: &AttachArgs, context: &Context) -> Outcome {
    let slot = args.slot.iter().map(|slot| format!(",vslot={slot}"));
    let text = args.device.clone() + &slot.collect::<String>();
    let attach = Attach {
        kind: KIND,
        device: hotplug::for_request(KIND, &text, &VifDefaults::default())?,
        is_dry_run: false,
    };
    attach.run(context, &args.domain)
}

/// Detach a PCI device from a running PV guest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest has 10 s to let the device go, and keeps it otherwise. With `--force` it is not asked. The device is assignable afterwards.

Examples:
  xyl pci-detach web 03:00.0"
)]
pub struct DetachArgs {
    /// Take the device without asking the guest
    #[arg(short = 'f', long)]
    force: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// Address of the device, or the name that it was given
    #[arg(value_name = "BDF|NAME", add = assignable_devices())]
    device: String,
}

/// Runs `xyl pci-detach`.
pub fn run_detach(args: &DetachArgs, context: &Context) -> Outcome {
    let request = Request::DetachDevice {
        kind: KIND.to_owned(),
        device: args.device.clone(),
        force: args.force,
    };
    let would = |domid| format!("detach PCI device `{}` from domain {domid}", args.device);
    context.change_and(&args.domain, &request, would, |_| ())
}

/// The host with the PCI devices of the command's machine: a simulated host has its own sysfs.
fn host_of(context: &Context) -> Result<Host, Failure> {
    let mut host = context.open_host()?;
    host.kernel = context.kernel();
    Ok(host)
}

/// The address of one PCI device.
fn address(text: &str) -> Result<PciSbdf, Failure> {
    let parsed = PciAddress::parse(text);
    let one = parsed.and_then(|address| {
        let function = address.function?;
        Some(PciSbdf::new(
            address.segment,
            address.bus,
            address.device,
            function,
        ))
    });
    one.ok_or_else(|| {
        let text = Shown::line(text);
        Failure::usage(format!("`{text}` is no address of a PCI device: write it as lspci does, `03:00.0` or `0000:03:00.0`"))
    })
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
