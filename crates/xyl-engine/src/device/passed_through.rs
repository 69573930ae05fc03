//! Devices of the host that xl has given to domains. Xyl lists them, and gives none away yet.

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

/// The PCI devices that a domain has, by the nodes of libxl (`dev-N` and `vdevfn-N` of the backend).
///
/// # Errors
/// Those of xenstore.
pub fn pci_devices(store: &mut impl Tree, domid: DomId) -> Result<Vec<PciDevice>, EngineError> {
    let backend = format!("/libxl/{domid}/device/pci/0/backend");
    let Some(backend) = store.read_text_opt(&path(&backend)?)? else {
        return Ok(Vec::new());
    };
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

/// The name that xl has given to a device that can be given away (`/libxl/pci/ADDRESS/name`).
///
/// # Errors
/// Those of xenstore.
pub fn name_of_pci(store: &mut impl Tree, address: &str) -> Result<Option<String>, EngineError> {
    let node = address.replace([':', '.'], "-");
    Ok(store.read_text_opt(&path(&format!("/libxl/pci/{node}/name"))?)?)
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
            ("/libxl/3/device/pci/0/backend", backend),
            (&format!("{backend}/num_devs"), "2"),
            (&format!("{backend}/dev-0"), "0000:03:00.0"),
            (&format!("{backend}/vdevfn-0"), "29"),
            (&format!("{backend}/dev-1"), "0000:03:00.1"),
            ("/libxl/pci/0000-03-00-1/name", "nic"),
        ] {
            store.write(&path(node).unwrap(), value.as_bytes()).unwrap();
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
        let name = name_of_pci(&mut store, "0000:03:00.1").unwrap();
        assert_eq!(name.as_deref(), Some("nic"));
    }
}
