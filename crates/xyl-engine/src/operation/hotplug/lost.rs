//! Devices that lose their backend while their guest uses them: a driver domain ends, or the backend's driver drops the device. The guest
//! waits for its requests for ever then.
//!
//! The VM's monitor watches the state of each backend ([`watch_all`]), and calls [`report`] after events, which logs each lost device once.
//! Nothing is changed: a device that is lost is still the guest's until it is detached.

use std::collections::BTreeSet;

use xen_port::DomId;

use crate::device::bus::{self, Device, State};
use crate::device::hotplug;
use crate::vm::Vm;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Token of the watches on the states of backends.
pub(crate) const TOKEN: &str = "xyl-backend";

/// Watches the backends of a domain's devices. The first events come at once.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn watch_all(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    for device in hotplug::devices(host, domid)? {
        watch(host, &device)?;
    }
    Ok(())
}

/// Watches the backend of one device.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn watch(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    bus::watch_state(host, device, TOKEN)
}

/// Logs the devices with these watched nodes whose backends are gone, and watches them no longer. A node without a device is watched
/// no longer either.
///
/// # Errors
/// Those of xenstore and Xen.
pub(crate) fn report(
    host: &mut Host,
    vm: Vm,
    paths: &BTreeSet<String>,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let devices = hotplug::devices(host, vm.domid)?;
    for path in paths {
        let device = devices.iter().find(|device| device.state_node() == *path);
        if let Some(device) = device
            && !is_lost(host, device)?
        {
            continue;
        }
        // It may have been removed by an earlier event.
        let _ = host.store.unwatch(&node(path)?, TOKEN);
        if let Some(device) = device {
            log(&words(host, device)?);
        }
    }
    Ok(())
}

/// Whether a device has no backend any more, though nothing has asked for it. A guest that closes a device itself closes its own end first.
fn is_lost(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let is_lost = match bus::state(host, device)? {
        State::Unknown => true,
        State::Closing | State::Closed => bus::has_frontend(host, device)?,
        _ => false,
    };
    Ok(is_lost && bus::is_there(host, device)? && !bus::is_going(host, device)?)
}

fn words(host: &mut Host, device: &Device) -> Result<String, EngineError> {
    let (_, hotplug) = hotplug::kind(device.kind)?;
    let server = device.backend_domain.domid;
    let cause = match device.is_here() || host.hv.domain_info(server)?.is_some() {
        true => format!("its backend in domain {server} is gone"),
        false => format!("domain {server}, which served it, is gone"),
    };
    Ok(format!(
        "{} is lost: {cause}. The guest waits for it for ever. `xyl {} {} {} --force` takes it away, and the guest can get it anew",
        device.words(),
        hotplug.detach_command(),
        device.domid,
        device.number,
    ))
}
