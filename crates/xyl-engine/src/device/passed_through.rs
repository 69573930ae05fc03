//! Devices of the host that domains have, by the nodes of their backends.

use xen_port::DomId;
use xenstore::{Path, Tree};

use crate::EngineError;

/// Most devices of a domain: so many functions one virtual PCI bus has.
const PCI_MAX: u32 = 256;

/// A PCI device of the host that a domain has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// Its address on the host, such as `0000:03:00.0`.
    pub address: String,
    /// Device and function on the guest's bus: five bits and three.
    pub virtual_devfn: u8,
}

impl PciDevice {
    /// Its place on the guest's bus, as xl prints it: `05.0`.
    pub fn slot(&self) -> String {
        format!(
            "{:02x}.{:01x}",
            self.virtual_devfn >> 3,
            self.virtual_devfn & 7
        )
    }
}

/// The folder of the backend of all PCI devices of a domain. libxl keeps no copy of it. Domain 0 alone can write to it.
pub(super) fn backend_of_pci(domid: DomId) -> String {
    format!("/local/domain/0/backend/pci/{domid}/0")
}

/// The PCI devices that a domain has, by the nodes of libxl (`dev-N` and `vdevfn-N` of the backend).
///
/// # Errors
/// Those of xenstore.
pub fn pci_devices(store: &mut impl Tree, domid: DomId) -> Result<Vec<PciDevice>, EngineError> {
    let backend = backend_of_pci(domid);
    let count = store.read_text_opt(&path(&format!("{backend}/num_devs"))?)?;
    let count: u32 = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    let mut devices = Vec::new();
    for number in 0..count.min(PCI_MAX) {
        let address = store.read_text_opt(&path(&format!("{backend}/dev-{number}"))?)?;
        let devfn = store.read_text_opt(&path(&format!("{backend}/vdevfn-{number}"))?)?;
        devices.extend(address.map(|address| {
            PciDevice {
                address,
                virtual_devfn: devfn
                    .and_then(|devfn| u8::from_str_radix(&devfn, 16).ok())
                    .unwrap_or(0),
            }
        }));
    }
    Ok(devices)
}

fn path(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}

#[cfg(test)]
mod tests {
    use xenstore::mem::MemStore;

    use super::*;

    #[test]
    fn devices_are_those_of_libxls_nodes() {
        let mut store = MemStore::new().client(0).unwrap();
        assert_eq!(pci_devices(&mut store, DomId(3)).unwrap(), []);
        let backend = "/local/domain/0/backend/pci/3/0";
        for (node, value) in [
            ("num_devs", "2"),
            ("dev-0", "0000:03:00.0"),
            ("vdevfn-0", "29"),
            ("dev-1", "0000:03:00.1"),
        ] {
            let node = path(&format!("{backend}/{node}")).unwrap();
            store.write(&node, value.as_bytes()).unwrap();
        }
        let devices = pci_devices(&mut store, DomId(3)).unwrap();
        let shown: Vec<_> = devices
            .iter()
            .map(|device| (device.slot(), device.address.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("05.1".to_owned(), "0000:03:00.0"),
                ("00.0".to_owned(), "0000:03:00.1")
            ]
        );
    }
}
