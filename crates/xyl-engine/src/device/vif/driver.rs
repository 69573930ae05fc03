//! Network interfaces in a driver domain.

use os_port::LinkName;
use xenstore::Tree;
use xl_cfg::types::{self, Mac};

use super::{CONNECTED, Nodes, OwnLink, STATUS, Vif, bridge_of, nic, own_link, set_up};
use crate::device::bus::{self, Device, State};
use crate::device::driver_side::{DriverSide, KERNEL_LIMIT, KERNEL_PAUSE, backend_nodes, write};
use crate::device::script::{self, Action, Script};
use crate::error::DeviceError;
use crate::vm::nic::{SetUp, is_bridge_script};
use crate::vm::paths::node;
use crate::{EngineError, Host};

impl DriverSide for Vif {
    fn set_up(&self, host: &mut Host, device: &Device) -> Result<(), EngineError> {
        let link = await_link(host, device)?;
        match own_script(host, device)? {
            Some(path) => run(host, device, &path, Action::Online),
            None => join_to_bridge(host, device, &link),
        }
    }

    fn take_down(&self, host: &mut Host, device: &Device) -> Result<(), EngineError> {
        match own_script(host, device)? {
            Some(path) => run(host, device, &path, Action::Offline),
            None => Ok(()),
        }
    }
}

/// The script of an interface, but for Xen's script for bridges, whose work Xyl does itself.
fn own_script(host: &mut Host, device: &Device) -> Result<Option<String>, EngineError> {
    let [script] = backend_nodes(host, device, ["script"])?;
    Ok(script.filter(|script| !is_bridge_script(script)))
}

fn run(host: &mut Host, device: &Device, path: &str, action: Action) -> Result<(), EngineError> {
    let what = nic::what(device.number);
    let script = Script {
        device,
        what: &what,
        path,
    };
    script::run(host, script, action)
}

/// Waits until netback has made its end of the interface, which comes after state 2.
fn await_link(host: &mut Host, device: &Device) -> Result<OwnLink, EngineError> {
    let deadline = host.clock.now() + KERNEL_LIMIT;
    loop {
        if let Some(link) = own_link(host, device)? {
            return Ok(link);
        }
        let state = bus::state_here(host, device)?;
        let is_over = host.clock.now() >= deadline;
        if is_over || matches!(state, State::Closing | State::Closed | State::Unknown) {
            return Err(DeviceError::Backend {
                device: nic::what(device.number),
                cause: format!(
                    "it is {}, and the kernel has made no network interface",
                    state.words()
                ),
            }
            .into());
        }
        host.wait_for(&[], KERNEL_PAUSE)?;
    }
}

fn join_to_bridge(host: &mut Host, device: &Device, link: &OwnLink) -> Result<(), EngineError> {
    let names = ["bridge", "mac", "vifname", "mtu"];
    let [bridge, mac, name, mtu] = backend_nodes(host, device, names)?;
    let text = |why: String| DeviceError::Unsupported {
        what: format!("{}: {why}", nic::what(device.number)),
    };
    let named = |name: String| LinkName::parse(&name).map_err(|error| text(error.to_string()));
    let bridge = bridge.ok_or_else(|| text("its nodes name no bridge".to_owned()))?;
    let mut nic = nic::of_text(&types::Vif {
        devid: Some(device.number),
        mac: mac.and_then(|mac| Mac::parse(&mac)),
        bridge: Some(bridge),
        ..types::Vif::default()
    })?;
    nic.name = name.map(named).transpose()?;
    // Done already by a process that has died.
    nic.name = nic.name.filter(|name| name.as_str() != link.name);
    let bridge = match &nic.set_up {
        SetUp::Bridge(name) => bridge_of(host, &nic, name)?,
        // It was described without a script.
        SetUp::Script(_) => return Ok(()),
    };
    let mtu_bytes = mtu
        .and_then(|mtu| mtu.parse().ok())
        .unwrap_or(bridge.mtu_bytes);
    tell_guest(host, device, mtu_bytes)?;
    let nodes = Nodes {
        device: *device,
        nic,
        mtu_bytes,
    };
    set_up(host, &nodes, link, &bridge)?;
    write(host, device, STATUS, CONNECTED)
}

/// Writes the largest packet for the guest. Domain 0 does not know the bridge's, and lets the driver domain write this one node.
fn tell_guest(host: &mut Host, device: &Device, mtu_bytes: u32) -> Result<(), EngineError> {
    let path = node(&format!("{}/mtu", device.frontend()))?;
    match host.store.write(&path, mtu_bytes.to_string().as_bytes()) {
        Err(error) if error.is_connection_lost() => Err(error.into()),
        // Another toolstack may not let it.
        _ => Ok(()),
    }
}
