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

impl Pciback {
    /// Whether it has all devices of a bus. `None`: their number is missing.
    fn can_export(&self, nodes: &mut Nodes<'_>) -> Option<bool> {
        let count: u32 = nodes.text("num_devs")?.parse().ok()?;
        let mut all = (0..count).map(|index| {
            let address = nodes.text(&format!("dev-{index}"));
            let path = address.map(|address| format!("/sys/bus/pci/drivers/pciback/{address}"));
            path.is_some_and(|path| self.files.has(&path))
        });
        Some(all.all(|is_there| is_there))
    }
}

impl Driver for Pciback {
    fn kind(&self) -> &'static str {
        "pci"
    }

    /// State 3 says that all devices are exported.
    fn make(&mut self, _: &Id, nodes: &mut Nodes<'_>) -> Option<Result<(), &'static str>> {
        if !self.can_export(nodes)? {
            return Some(Err("22 Error exporting device"));
        }
        nodes.set_state("3");
        Some(Ok(()))
    }

    fn waits_in(&self) -> &'static str {
        "3"
    }

    fn reconfigure(&mut self, nodes: &mut Nodes<'_>) -> bool {
        self.can_export(nodes) == Some(true) && nodes.set_state("4")
    }

    fn unmake(&mut self, _: &Id) {}
}
