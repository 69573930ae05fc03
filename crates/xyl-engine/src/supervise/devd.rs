//! The toolstack's part in a driver domain (`xyl devd`): it serves the devices that domain 0's toolstack has written for other guests.
//!
//! It owns the devices below `/local/domain/SELF/backend` of the kinds in [`KINDS`] with a [`DriverSide`], and keeps no state. A device is looked at
//! when its node `state` or `online` changes, and each once at the start. Its nodes say what is to be done:
//!
//! - The kernel has taken it (state 2 to 4), and nothing is in `hotplug-status`: it is set up. The result is `connected`, or `error` with the
//!   reason in `hotplug-error`.
//! - The kernel has closed it (state 6), and domain 0 does not want it any more (`online` is 0): it is taken down, and its nodes are removed.
//!   Domain 0's toolstack waits for that.
//!
//! So a process that was killed is followed by one that goes on. The command `devd` calls [`serve`]. It works for the toolstacks xl and xyl in domain 0.
//!
//! Facts: `libxl_device.c` (`libxl_device_events_handler`).

use std::collections::BTreeSet;
use std::time::Duration;

use xen_port::DomId;
use xenstore::{Path, Tree};

use crate::device::KINDS;
use crate::device::bus::{BackendDomain, Device};
use crate::device::driver_side::{DriverSide, backend_nodes, write};
use crate::host::events::Event;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Token of the watch on all backends.
const TOKEN: &str = "xyl-devd";
/// Longest sleep without an event.
const REST: Duration = Duration::from_secs(3600);
/// Longest reason that is written to xenstore, in characters.
const REASON_MAX_CHARS: usize = 512;

/// Number of the domain in which this process runs.
///
/// # Errors
/// [`EngineError::NoSuchDomain`] if xenstore does not say it; those of xenstore.
pub fn own_domid(host: &mut Host) -> Result<DomId, EngineError> {
    let path = Path::new("domid").map_err(xenstore::Error::from)?;
    let text = host.store.read_text_opt(&path)?.unwrap_or_default();
    let domid = text.trim().parse().map(DomId);
    domid.map_err(|_| EngineError::NoSuchDomain("of this process".to_owned()))
}

/// Serves devices until an error ends it. Each message is about one device.
///
/// # Errors
/// A lost connection to xenstored, and what keeps it from watching.
pub fn serve(host: &mut Host, own: DomId, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    let folder = backend_folder(own);
    host.store.watch(&node(&folder)?, TOKEN)?;
    loop {
        let changed = changed(host, REST)?;
        serve_once(host, own, &changed, log)?;
    }
}

fn backend_folder(own: DomId) -> String {
    format!("/local/domain/{own}/backend")
}

/// The paths that have changed, once at least one has, or none in the time.
fn changed(host: &mut Host, limit: Duration) -> Result<BTreeSet<String>, EngineError> {
    let mut paths = BTreeSet::new();
    let mut next = host.wait_for(&[TOKEN], limit)?;
    while let Some(event) = next {
        if let Event::Watch(event) = event {
            paths.insert(event.path.to_string());
        }
        next = host.wait_for(&[TOKEN], Duration::ZERO)?;
    }
    Ok(paths)
}

/// Does what there is to do for the devices that these paths name; for all, if one is the folder of all.
///
/// # Errors
/// A lost connection to xenstored.
pub fn serve_once(
    host: &mut Host,
    own: DomId,
    changed: &BTreeSet<String>,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let folder = backend_folder(own);
    let devices = match changed.contains(&folder) {
        true => all(host, own)?,
        false => {
            let named = changed.iter().filter_map(|path| named(own, path));
            named.collect::<BTreeSet<_>>().into_iter().collect()
        }
    };
    for (kind, domid, number) in devices {
        look_at(host, own, (&kind, domid, number), log)?;
    }
    Ok(())
}

/// A device by kind, domid of its guest, and number.
type Name = (String, u16, u32);

/// The device whose `state` or `online` is at a path.
fn named(own: DomId, path: &str) -> Option<Name> {
    let rest = path.strip_prefix(&backend_folder(own))?;
    let mut parts = rest.strip_prefix('/')?.split('/');
    let kind = parts.next()?.to_owned();
    let (domid, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let is_about = matches!(parts.next(), None | Some("state" | "online"));
    (is_about && parts.next().is_none()).then_some((kind, domid, number))
}

fn all(host: &mut Host, own: DomId) -> Result<Vec<Name>, EngineError> {
    let folder = backend_folder(own);
    let mut found = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.driver_side().is_some()) {
        let of_kind = format!("{folder}/{}", kind.name());
        for domid in host.children(&node(&of_kind)?)? {
            for number in host.children(&node(&format!("{of_kind}/{domid}"))?)? {
                found.extend(named(own, &format!("{of_kind}/{domid}/{number}")));
            }
        }
    }
    Ok(found)
}

fn look_at(
    host: &mut Host,
    own: DomId,
    (name, domid, number): (&str, u16, u32),
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let kind = KINDS.iter().find(|kind| kind.name() == name);
    let Some((kind, side)) = kind.and_then(|kind| Some((kind, kind.driver_side()?))) else {
        return Ok(());
    };
    let device = Device {
        domid: DomId(domid),
        kind: kind.name(),
        served_by: kind.name(),
        number,
        backend_domain: BackendDomain {
            domid: own,
            uuid: None,
        },
    };
    let names = ["state", "online", "hotplug-status"];
    let [state, online, status] = backend_nodes(host, &device, names)?;
    let outcome = match (state.as_deref(), online.as_deref(), status) {
        (Some("2" | "3" | "4"), Some("1"), None) => set_up(host, side, &device, log),
        (Some("6"), Some("0"), _) => take_down(host, side, &device, log),
        _ => Ok(()),
    };
    match outcome {
        Err(error) if error.is_connection_lost() => Err(error),
        // Domain 0 may have removed its nodes meanwhile.
        Err(error) => {
            log(&format!("{}: {error}", device.words()));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn set_up(
    host: &mut Host,
    side: &dyn DriverSide,
    device: &Device,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    match side.set_up(host, device) {
        Ok(()) => {
            log(&format!("{} is served", device.words()));
            Ok(())
        }
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => {
            log(&format!("{}: {error}", device.words()));
            let reason: String = error.to_string().chars().take(REASON_MAX_CHARS).collect();
            write(host, device, "hotplug-error", &reason)?;
            write(host, device, "hotplug-status", "error")
        }
    }
}

fn take_down(
    host: &mut Host,
    side: &dyn DriverSide,
    device: &Device,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    if let Err(error) = side.take_down(host, device) {
        if error.is_connection_lost() {
            return Err(error);
        }
        log(&format!("{}: {error}", device.words()));
    }
    let folder = device.backend();
    let (state, online) = (
        node(&format!("{folder}/state"))?,
        node(&format!("{folder}/online"))?,
    );
    let folder = node(&folder)?;
    // A script takes time. Meanwhile domain 0 may have removed the device, and attached another one of its number.
    let is_removed = host.store.try_transaction(|transaction| {
        let is_down = transaction.read_opt(&state)?.as_deref() == Some(b"6")
            && transaction.read_opt(&online)?.as_deref() == Some(b"0");
        if is_down {
            transaction.rm(&folder)?;
        }
        Ok::<bool, EngineError>(is_down)
    })?;
    if is_removed {
        log(&format!("{} is taken down", device.words()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_devices_are_known_and_others_are_not() {
        let own = DomId(3);
        let disk = Some(("vbd".to_owned(), 7, 51712));
        let folder = "/local/domain/3/backend";
        for end in ["", "/state", "/online"] {
            assert_eq!(named(own, &format!("{folder}/vbd/7/51712{end}")), disk);
        }
        for other in [
            "/local/domain/3/backend",
            "/local/domain/3/backend/vbd/7",
            "/local/domain/3/backend/vbd/7/51712/params",
            "/local/domain/3/backend/vbd/7/51712/state/x",
            "/local/domain/3/backend/vbd/x/51712/state",
            "/local/domain/4/backend/vbd/7/51712/state",
            "/local/domain/33/backend/vbd/7/51712/state",
        ] {
            assert_eq!(named(own, other), None, "{other}");
        }
    }
}
