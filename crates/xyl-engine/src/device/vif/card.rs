//! The host's ends of the network cards that a device model emulates, beside the interfaces of the guest's PV drivers.
//!
//! A card's end is a tap: a port of the interface's bridge, whose other end is a file. Xyl makes it and hands the file to the device model, which
//! could not make it itself. The kernel removes the tap when no process has the file any more: the guest's PV drivers have unplugged the card, the device
//! model has ended, or the process that makes the domain has. So nothing removes taps, and none is left. [`machine`](crate::device::machine) calls this.
//!
//! Facts: `tools/hotplug/Linux/vif-bridge` (what is set), `libxl_nic.c` (the name).

use os_port::{LinkName, OpenFile};
use xen_port::DomId;
use xl_cfg::types::Mac;

use super::{OwnLink, bridge_of, find, join_bridge, refusal};
use crate::vm::nic::{CardModel, Nic, SetUp};
use crate::{EngineError, Host};

/// The driver of taps, by the kernel's name.
const DRIVER: &str = "tun";

/// A card whose end on the host is set up.
#[derive(Debug)]
pub(in crate::device) struct Card {
    /// The number of its interface.
    pub devid: u32,
    /// Model of the card.
    pub model: CardModel,
    /// Address of the card.
    pub mac: Mac,
    /// The other end of the tap.
    pub file: OpenFile,
}

/// Makes the host's ends of all emulated cards of a domain.
///
/// # Errors
/// [`DeviceError::Bridge`](crate::error::DeviceError::Bridge), [`DeviceError::Link`](crate::error::DeviceError::Link).
pub(in crate::device) fn open_all(
    host: &Host,
    domid: DomId,
    nics: &[Nic],
) -> Result<Vec<Card>, EngineError> {
    let mut cards = Vec::new();
    for nic in nics {
        if let (Some(model), SetUp::Bridge(bridge)) = (nic.card.model(), &nic.set_up) {
            cards.push(Card {
                devid: nic.devid,
                model,
                mac: nic.mac,
                file: open(host, domid, nic, bridge)?,
            });
        }
    }
    Ok(cards)
}

fn open(host: &Host, domid: DomId, nic: &Nic, bridge: &LinkName) -> Result<OpenFile, EngineError> {
    let name = nic.tap_name(domid);
    let name = name.map_err(|source| refusal(nic, "of its emulated card", "name", source))?;
    let bridge = bridge_of(host, nic, bridge)?;
    let file = host.devices.taps.open(&name);
    let file = file.map_err(|source| refusal(nic, name.as_str(), "make", with_remedy(source)))?;
    let gone = || {
        refusal(
            nic,
            name.as_str(),
            "find",
            std::io::ErrorKind::NotFound.into(),
        )
    };
    let found = find(host, nic, &name)?;
    let link = found.filter(|link| link.kind.as_deref() == Some(DRIVER));
    let link = link.ok_or_else(gone)?;
    let link = OwnLink {
        index: link.index,
        name: link.name,
    };
    let mtu_bytes = nic.mtu_bytes.unwrap_or(bridge.mtu_bytes);
    join_bridge(host, nic, &link, (&bridge, mtu_bytes))?;
    Ok(file)
}

/// The error of a tap that cannot be made, with the remedy where the driver is not there.
fn with_remedy(source: std::io::Error) -> std::io::Error {
    match source.kind() {
        std::io::ErrorKind::NotFound => {
            let text = format!("{source}; `modprobe tun` loads its driver");
            std::io::Error::new(source.kind(), text)
        }
        _ => source,
    }
}
