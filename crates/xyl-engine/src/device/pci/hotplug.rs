//! PCI devices that come to a running PV guest, and go.
//!
//! A device is a part of the domain's bus. The toolstack writes the device's nodes and state 7 (reconfiguring) of the bus. The guest and
//! pciback answer (7, 8), and the bus is in state 4 (connected) again. So a guest has to run its driver, pcifront. The first device of
//! a domain makes the bus, and the last one takes it away.
//!
//! An attach writes the node `domid` of the device before all else, and a detach removes it last. So a later process knows of each
//! device of a dead one.
//!
//! Facts: `libxl_pci.c`, `drivers/xen/xen-pciback/xenbus.c`, `drivers/pci/xen-pcifront.c` of Linux.

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use xen_port::{DomId, GuestKind, HostResource, PciSbdf};
use xenstore::{Batch, Tree};

use super::{
    Found, KIND, Pci, SETTING, begin, bus_of, check_one, give, nodes_of, take_back, to_json,
    write_bus,
};
use crate::device::bus::{self, Device, State};
use crate::device::hotplug::{self, Hotplug, Single, Sought};
use crate::device::{Owner, Patience, assignable};
use crate::error::{DeviceError, PciError};
use crate::vm::nic::VifDefaults;
use crate::vm::paths::node;
use crate::vm::pci::{PassedPci, Which};
use crate::{EngineError, Host};

/// Time for a guest to take a device or to let it go.
const GUEST_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at the state of the bus.
const RECHECK: Duration = Duration::from_millis(20);
/// The parts of the names of a device's nodes, before its place.
const PARTS: [&str; 7] = ["key", "dev", "vdev", "vdevfn", "name", "opts", "state"];
/// Most devices of a bus.
const DEVICES_MAX: usize = 256;

impl Hotplug for Pci {
    fn detach_command(&self) -> &'static str {
        "pci-detach"
    }

    fn words(&self, number: u32) -> String {
        format!("PCI device {}", PciSbdf(number))
    }

    /// A name stays, until the VM's lock is held.
    fn with_defaults(&self, text: &str, _: &VifDefaults) -> Result<String, EngineError> {
        described(text)?;
        Ok(text.to_owned())
    }

    /// The address takes the place of a name.
    fn complete(&self, host: &mut Host, _: Owner, text: &str) -> Result<String, EngineError> {
        let mut passed = described(text)?;
        if let Which::Name(name) = &passed.which {
            let named = assignable::named(host, name)?;
            passed.which = Which::Address(named.ok_or_else(|| PciError::NoSuchName(name.clone()))?);
        }
        Ok(passed.cfg_text())
    }

    fn read(&self, text: &str) -> Result<Box<dyn Single>, EngineError> {
        let passed = described(text)?;
        match passed.which {
            Which::Address(device) => Ok(Box::new(One { passed, device })),
            Which::Name(name) => Err(PciError::NoSuchName(name).into()),
        }
    }

    fn find(&self, host: &mut Host, domid: DomId, asked: &str) -> Result<Device, EngineError> {
        let address = || match described(asked).ok()?.which {
            Which::Address(device) => Some(device),
            Which::Name(_) => None,
        };
        let device = assignable::named(host, asked)?.or_else(address);
        let devices = assignable::devices_of(host, domid)?;
        match device.filter(|device| devices.contains(device)) {
            Some(device) => Ok(part_of_bus(domid, device)),
            None => Err(Sought {
                kind: KIND,
                word: "PCI device",
                list_command: "pci-list",
                detach_command: self.detach_command(),
                domid,
                asked,
            }
            .absent()),
        }
    }

    fn is_served(&self, _: &mut Host, _: &Device) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Asks for one device of the bus. A guest without a driver has nothing to let go.
    fn ask(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<State, EngineError> {
        let (domid, address) = (device.domid, PciSbdf(device.number));
        let Some(place) = place_of(host, domid, address)? else {
            return Ok(State::Closed);
        };
        let backend = bus_of(domid).backend();
        if bus_state(host, domid)?.as_deref() == Some("3") {
            return Ok(State::Closed);
        }
        let closing = node(&format!("{backend}/state-{place}"))?;
        // A detach before may have asked already.
        if host.store.read_opt(&closing)?.as_deref() != Some(b"5") {
            await_connected(host, domid, address, deadline)?;
            let mut batch = Batch::new();
            batch.write(&closing, b"5");
            batch.write(&node(&format!("{backend}/state"))?, b"7");
            host.store
                .transaction(|transaction| transaction.run(&batch).map(drop))?;
        }
        await_connected(host, domid, address, deadline)?;
        Ok(State::Closed)
    }

    fn take_away(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<(), EngineError> {
        let (domid, address) = (device.domid, PciSbdf(device.number));
        let lock = assignable::lock(host)?;
        remove_nodes(host, domid, address, deadline)?;
        if assignable::owner(host, address)? == Some(domid) {
            forbid(host, domid, address)?;
        }
        take_back(host, domid, address)?;
        drop(lock);
        Ok(())
    }
}

/// Takes a domain's right to the resources of a device.
fn forbid(host: &Host, domid: DomId, device: PciSbdf) -> Result<(), EngineError> {
    let resources = host.kernel.pci_resources(device);
    for resource in resources.map_err(assignable::failed(device, "list its memory"))? {
        let forbidden = host.hv.set_permission(domid, resource, false);
        match resource {
            // The guest may have given it back itself, which Xen answers with an error.
            HostResource::Interrupt(_) => {}
            HostResource::Memory { .. } | HostResource::Ports { .. } => forbidden?,
        }
    }
    Ok(())
}

/// A device that is attached to a running domain.
struct One {
    passed: PassedPci,
    device: PciSbdf,
}

impl One {
    fn found(&self) -> Found<'_> {
        Found {
            passed: &self.passed,
            device: self.device,
        }
    }
}

impl Single for One {
    fn number(&self) -> u32 {
        self.device.0
    }

    fn served_by(&self) -> &'static str {
        KIND
    }

    fn what(&self) -> String {
        self.passed.what()
    }

    fn text(&self) -> String {
        self.passed.cfg_text()
    }

    fn to_json(&self) -> Json {
        to_json(&self.passed)
    }

    fn check(&self, host: &mut Host, owner: Owner) -> Result<(), EngineError> {
        let info = host.hv.domain_info(owner.domid)?;
        let info = info.ok_or_else(|| EngineError::NoSuchDomain(owner.domid.to_string()))?;
        if info.kind() != GuestKind::Pv {
            let what = format!(
                "{}: Xyl gives PCI devices to PV guests alone, and Xen none to PVH guests: use `xl` for an HVM guest of xl",
                self.what()
            );
            return Err(DeviceError::Unsupported { what }.into());
        }
        assignable::check_host(host)?;
        check_one(host, &self.found(), info.max_pages.saturating_mul(4))
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        let domid = owner.domid;
        begin(host, domid)?;
        let lock = assignable::lock(host)?;
        give(host, domid, &self.found())?;
        drop(lock);
        let deadline = patience.within(host, GUEST_LIMIT);
        match places(host, domid)?.len() {
            0 => write_bus(host, domid, &[self.found()], patience),
            _ => add_to_bus(host, domid, &self.found(), deadline),
        }
    }
}

/// Adds a device to a bus that pciback and the guest have connected.
fn add_to_bus(
    host: &mut Host,
    domid: DomId,
    found: &Found<'_>,
    deadline: Instant,
) -> Result<(), EngineError> {
    await_connected(host, domid, found.device, deadline)?;
    let backend = bus_of(domid).backend();
    let place = places(host, domid)?.len();
    let mut batch = Batch::new();
    for (name, value) in nodes_of(place, found) {
        batch.write(&node(&format!("{backend}/{name}"))?, value.as_bytes());
    }
    let count = (place + 1).to_string();
    batch.write(&node(&format!("{backend}/num_devs"))?, count.as_bytes());
    batch.write(&node(&format!("{backend}/state"))?, b"7");
    host.store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    await_connected(host, domid, found.device, deadline)
}

/// Removes the nodes of a device from the backend of its bus, and the bus with its last device. The devices behind it move up.
fn remove_nodes(
    host: &mut Host,
    domid: DomId,
    device: PciSbdf,
    deadline: Instant,
) -> Result<(), EngineError> {
    let all = places(host, domid)?;
    let Some(place) = all.iter().position(|one| *one == Some(device)) else {
        return Ok(());
    };
    let bus = bus_of(domid);
    if all.len() == 1 {
        bus::close_all(host, &[bus], deadline)?;
        return bus::remove(host, &[bus]);
    }
    let backend = bus.backend();
    host.store.try_transaction(|transaction| {
        let mut batch = Batch::new();
        for part in PARTS {
            for moved in place..all.len() {
                let next = node(&format!("{backend}/{part}-{}", moved + 1))?;
                let here = node(&format!("{backend}/{part}-{moved}"))?;
                match transaction.read_opt(&next)? {
                    Some(value) if moved + 1 < all.len() => batch.write(&here, &value),
                    _ => batch.rm(&here),
                };
            }
        }
        let count = (all.len() - 1).to_string();
        batch.write(&node(&format!("{backend}/num_devs"))?, count.as_bytes());
        transaction.run(&batch)?;
        Ok::<(), EngineError>(())
    })
}

/// The devices of a domain's bus, by their places.
fn places(host: &mut Host, domid: DomId) -> Result<Vec<Option<PciSbdf>>, EngineError> {
    let backend = bus_of(domid).backend();
    let count = host
        .store
        .read_text_opt(&node(&format!("{backend}/num_devs"))?)?;
    let count: usize = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    let mut found = Vec::new();
    for place in 0..count.min(DEVICES_MAX) {
        let address = host
            .store
            .read_text_opt(&node(&format!("{backend}/dev-{place}"))?)?;
        found.push(address.and_then(|address| PciSbdf::parse(&address)));
    }
    Ok(found)
}

fn place_of(host: &mut Host, domid: DomId, device: PciSbdf) -> Result<Option<usize>, EngineError> {
    let all = places(host, domid)?;
    Ok(all.iter().position(|one| *one == Some(device)))
}

/// The state of a bus as its node says it. States 7 and 8 are those of buses alone.
fn bus_state(host: &mut Host, domid: DomId) -> Result<Option<String>, EngineError> {
    let path = node(&format!("{}/state", bus_of(domid).backend()))?;
    Ok(host.store.read_text_opt(&path)?)
}

/// Waits until pciback and the guest are connected, and have taken what was written before.
fn await_connected(
    host: &mut Host,
    domid: DomId,
    device: PciSbdf,
    deadline: Instant,
) -> Result<(), EngineError> {
    loop {
        let state = bus_state(host, domid)?;
        if state.as_deref() == Some("4") {
            return Ok(());
        }
        if host.clock.now() >= deadline {
            return Err(PciError::GuestSilent {
                device,
                domid,
                state: state.unwrap_or_default(),
                limit_s: GUEST_LIMIT.as_secs(),
            }
            .into());
        }
        host.wait_for(&[], RECHECK)?;
    }
}

/// A device of a domain's bus, as the operations name it. It has no nodes of its own under this number.
fn part_of_bus(domid: DomId, device: PciSbdf) -> Device {
    Device {
        number: device.0,
        ..bus_of(domid)
    }
}

/// The device of a description as in xl.cfg.
fn described(text: &str) -> Result<PassedPci, EngineError> {
    let devices = hotplug::parse(SETTING, text)?.pci;
    let decided = PassedPci::all_of_config(&devices, GuestKind::Pv);
    let decided = decided.map_err(|what| DeviceError::Unsupported { what })?;
    let what = || DeviceError::Unsupported {
        what: "no PCI device is described".to_owned(),
    };
    Ok(decided.into_iter().next().ok_or_else(what)?)
}
