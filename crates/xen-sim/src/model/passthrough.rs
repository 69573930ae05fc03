//! PCI devices of the model: which domain each is with.

use xen_port::{DomId, Errno, PciSbdf};

use super::{State, USUAL_CAPS};

type Outcome = std::result::Result<(), Errno>;

impl State {
    fn has_iommu(&self) -> bool {
        self.caps.unwrap_or(USUAL_CAPS).pv_directio
    }

    fn pci_owner_of(&self, device: PciSbdf) -> DomId {
        let owner = self.pci_owners.get(&device);
        owner.copied().unwrap_or(DomId::ZERO)
    }

    /// A guest gets a device from domain 0 or out of quarantine alone.
    pub(super) fn assign_pci(&mut self, domid: DomId, device: PciSbdf) -> Outcome {
        if !self.has_iommu() {
            return Err(Errno::EOPNOTSUPP);
        }
        if domid != DomId::IO && !self.domains.contains_key(&domid.0) {
            return Err(Errno::ESRCH);
        }
        match self.pci_owner_of(device) {
            DomId::ZERO | DomId::IO => {
                self.pci_owners.insert(device, domid);
                Ok(())
            }
            _ => Err(Errno::EBUSY),
        }
    }

    /// A guest's device goes to quarantine, one in quarantine to domain 0.
    pub(super) fn deassign_pci(&mut self, domid: DomId, device: PciSbdf) -> Outcome {
        if !self.has_iommu() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.pci_owner_of(device) != domid || domid == DomId::ZERO {
            return Err(Errno::ENODEV);
        }
        match domid {
            DomId::IO => self.pci_owners.remove(&device),
            _ => self.pci_owners.insert(device, DomId::IO),
        };
        Ok(())
    }

    /// The end of a domain: Xen takes its devices and rights.
    pub(super) fn release_devices(&mut self, domid: DomId) {
        self.permissions.retain(|(owner, _)| *owner != domid);
        for owner in self.pci_owners.values_mut() {
            if *owner == domid {
                *owner = DomId::IO;
            }
        }
    }
}
