//! Devices of the host that domains get: assignment through the IOMMU, and the right to their memory, ports and interrupts.

use xen_abi::xen::HYPERVISOR_PHYSDEV_OP;
use xen_abi::{domctl, physdev};
use xen_port::{DomId, HostResource, Mfn, PciSbdf, Result};

use crate::Xen;
use crate::privcmd::Site;

impl Xen {
    pub(crate) fn give_pci(&self, domid: DomId, device: PciSbdf, is_relaxed: bool) -> Result<()> {
        let flags = if is_relaxed {
            domctl::DEVICE_RDM_RELAXED
        } else {
            0
        };
        let request = pci(device, flags);
        let op = "XEN_DOMCTL_assign_device";
        self.domctl(op, domctl::ASSIGN_DEVICE, domid, &request)
            .map(drop)
    }

    pub(crate) fn take_pci(&self, domid: DomId, device: PciSbdf) -> Result<()> {
        let op = "XEN_DOMCTL_deassign_device";
        self.domctl(op, domctl::DEASSIGN_DEVICE, domid, &pci(device, 0))
            .map(drop)
    }

    pub(crate) fn permit(&self, domid: DomId, resource: HostResource, allow: bool) -> Result<()> {
        match resource {
            HostResource::Ports { first, count } => self.permit_ports(domid, first, count, allow),
            HostResource::Memory { first, nr_pages } => {
                self.permit_memory(domid, first, nr_pages, allow)
            }
            HostResource::Interrupt(irq) if allow => {
                self.map_interrupt(domid, irq)?;
                self.permit_interrupt(domid, irq, true)
            }
            HostResource::Interrupt(irq) => {
                // Both are tried: the right must not stay because the number has gone already.
                let unmapped = self.unmap_interrupt(domid, irq);
                self.permit_interrupt(domid, irq, false)?;
                unmapped
            }
        }
    }

    fn permit_ports(&self, domid: DomId, first: u16, count: u32, allow: bool) -> Result<()> {
        let request = domctl::IoportPermission {
            first_port: first.into(),
            nr_ports: count,
            allow_access: allow.into(),
            pad: [0; 3],
        };
        let op = "XEN_DOMCTL_ioport_permission";
        self.domctl(op, domctl::IOPORT_PERMISSION, domid, &request)
            .map(drop)
    }

    fn permit_memory(&self, domid: DomId, first: Mfn, nr_pages: u64, allow: bool) -> Result<()> {
        let request = domctl::IomemPermission {
            first_mfn: first.0,
            nr_mfns: nr_pages,
            allow_access: allow.into(),
            pad: [0; 7],
        };
        let op = "XEN_DOMCTL_iomem_permission";
        self.domctl(op, domctl::IOMEM_PERMISSION, domid, &request)
            .map(drop)
    }

    fn permit_interrupt(&self, domid: DomId, irq: u32, allow: bool) -> Result<()> {
        let request = domctl::IrqPermission {
            pirq: irq,
            allow_access: allow.into(),
            pad: [0; 3],
        };
        let op = "XEN_DOMCTL_irq_permission";
        self.domctl(op, domctl::IRQ_PERMISSION, domid, &request)
            .map(drop)
    }

    /// Gives the domain the interrupt line under the host's number.
    fn map_interrupt(&self, domid: DomId, irq: u32) -> Result<()> {
        let site = Site::domain("PHYSDEVOP_map_pirq", domid);
        let number = line_number(site, irq)?;
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&physdev::MapPirq {
            domid: domid.0,
            pad: 0,
            kind: physdev::MAP_PIRQ_TYPE_GSI,
            index: number,
            pirq: number,
            bus: 0,
            devfn: 0,
            entry_nr: 0,
            pad2: 0,
            table_base: 0,
        })?;
        // SAFETY: `argument` is the one structure that this sub-operation reads and writes.
        unsafe {
            call.run(
                HYPERVISOR_PHYSDEV_OP,
                &[physdev::MAP_PIRQ.into(), argument.address()],
            )
        }
        .map_err(|errno| site.error(errno))?;
        Ok(())
    }

    fn unmap_interrupt(&self, domid: DomId, irq: u32) -> Result<()> {
        let site = Site::domain("PHYSDEVOP_unmap_pirq", domid);
        let number = line_number(site, irq)?;
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&physdev::UnmapPirq {
            domid: domid.0,
            pad: 0,
            pirq: number,
        })?;
        // SAFETY: `argument` is the one structure that this sub-operation reads.
        unsafe {
            call.run(
                HYPERVISOR_PHYSDEV_OP,
                &[physdev::UNMAP_PIRQ.into(), argument.address()],
            )
        }
        .map_err(|errno| site.error(errno))?;
        Ok(())
    }
}

fn pci(device: PciSbdf, flags: u32) -> domctl::AssignDevice {
    domctl::AssignDevice {
        dev: domctl::DEVICE_PCI,
        flags,
        machine_sbdf: device.0,
        rest: [0; 12],
    }
}

fn line_number(site: Site, irq: u32) -> Result<i32> {
    i32::try_from(irq)
        .map_err(|_| site.nonsense(format!("{irq} is no number of an interrupt line")))
}
