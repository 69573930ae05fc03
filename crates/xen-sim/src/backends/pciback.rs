//! pciback: it exports the PCI devices of a domain's bus.
//!
//! Facts: `drivers/xen/xen-pciback/xenbus.c` of Linux.

use os_port::mem::MemKernelFiles;

use super::{Driver, Id, Nodes};

/// The driver. It has the devices that sysfs shows below it.
#[derive(Debug)]
pub(super) struct Pciback {
    files: MemKernelFiles,
}

impl Pciback {
    pub(super) fn new(files: &MemKernelFiles) -> Pciback {
        Pciback {
            files: files.clone(),
        }
    }
}

impl Driver for Pciback {
    fn kind(&self) -> &'static str {
        "pci"
    }

    /// State 3 says that all devices are exported.
    fn make(&mut self, _: &Id, nodes: &mut Nodes<'_>) -> Option<Result<(), &'static str>> {
        let count: u32 = nodes.text("num_devs")?.parse().ok()?;
        for index in 0..count {
            let address = nodes.text(&format!("dev-{index}"));
            let path = address.map(|address| format!("/sys/bus/pci/drivers/pciback/{address}"));
            if !path.is_some_and(|path| self.files.has(&path)) {
                return Some(Err("22 Error exporting device"));
            }
        }
        nodes.set_state("3");
        Some(Ok(()))
    }

    fn unmake(&mut self, _: &Id) {}
}
