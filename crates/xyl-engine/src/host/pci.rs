//! PCI devices of the host as sysfs shows them, their drivers, and the driver pciback, which keeps devices for guests.
//!
//! A device has no driver or one. pciback takes devices alone that are among its slots. `device::assignable` and `device::pci` call
//! this module.
//!
//! Facts: `Documentation/ABI/testing/sysfs-bus-pci` and `drivers/xen/xen-pciback/pci_stub.c` of Linux.

use std::io;
use std::path::{Path, PathBuf};

use xen_port::{HostResource, Mfn, PAGE_SHIFT, PAGE_SIZE, PciSbdf};

use crate::host::dom0::Kernel;

/// The driver that keeps devices for guests. Its module is `xen-pciback`.
pub const PCIBACK: &str = "pciback";
/// Folder of all PCI devices.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Folder of all drivers of PCI devices.
const DRIVERS: &str = "/sys/bus/pci/drivers";
/// Folder of all network interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Folder of all block devices and their partitions.
const BLOCKS: &str = "/sys/class/block";
/// Number of lines of the file `resource` that are a device's own: six BARs and the ROM.
const RESOURCES: usize = 7;
/// The flag of a resource that is I/O ports (`IORESOURCE_IO`).
const FLAG_PORTS: u64 = 0x100;
/// The flag of a network interface that is up (`IFF_UP`).
const FLAG_UP: u32 = 1;
/// The class of storage controllers, in the upper eight bits of 24.
const CLASS_STORAGE: u64 = 1;
/// The class of bridges, in the same bits.
const CLASS_BRIDGE: u64 = 6;

/// A network interface of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether it is a port of a bridge or of a bond.
    pub is_port: bool,
}

/// A block device of a device, or a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name, such as `sda1`.
    pub name: String,
    /// Whether the kernel hides it: it is one of several ways to a disk that has another name (multipath of NVMe).
    pub is_hidden: bool,
}

impl Block {
    /// The path of its node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }
}

impl Kernel {
    /// The PCI devices that pciback has, in the order of their addresses.
    pub fn pci_devices_of_pciback(&self) -> Vec<PciSbdf> {
        let names = self.names(&driver_folder(PCIBACK)).into_iter();
        let mut devices: Vec<PciSbdf> = names.filter_map(|name| PciSbdf::parse(&name)).collect();
        devices.sort_unstable();
        devices
    }

    /// All PCI devices of the host, in the order of their addresses.
    pub fn pci_devices(&self) -> Vec<PciSbdf> {
        let names = self.names(Path::new(DEVICES)).into_iter();
        let mut devices: Vec<PciSbdf> = names.filter_map(|name| PciSbdf::parse(&name)).collect();
        devices.sort_unstable();
        devices
    }

    /// Whether pciback is loaded.
    pub fn has_pciback(&self) -> bool {
        self.files()
            .exists(&driver_folder(PCIBACK).join("new_slot"))
    }

    /// Whether the host has a PCI device at this address.
    pub fn has_pci(&self, device: PciSbdf) -> bool {
        self.files().exists(&folder(device))
    }

    /// Whether a PCI device is a bridge.
    pub fn is_pci_bridge(&self, device: PciSbdf) -> bool {
        self.pci_class(device) == Some(CLASS_BRIDGE)
    }

    /// Whether a PCI device is a storage controller.
    pub fn is_pci_storage(&self, device: PciSbdf) -> bool {
        self.pci_class(device) == Some(CLASS_STORAGE)
    }

    /// The class of a PCI device without its parts.
    fn pci_class(&self, device: PciSbdf) -> Option<u64> {
        let class = number(self.text(&folder(device).join("class")).trim());
        class.map(|class| class >> 16)
    }

    /// The name of the driver that has a PCI device.
    ///
    /// # Errors
    /// The system's error.
    pub fn pci_driver(&self, device: PciSbdf) -> io::Result<Option<String>> {
        match self.files().link(&folder(device).join("driver")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(target) => {
                let name = target.file_name().and_then(|name| name.to_str());
                Ok(name.map(str::to_owned))
            }
        }
    }

    /// The memory, ports and interrupt line of a PCI device, by the host's kernel.
    ///
    /// # Errors
    /// The system's error.
    pub fn pci_resources(&self, device: PciSbdf) -> io::Result<Vec<HostResource>> {
        let bytes = self.files().read(&folder(device).join("resource"))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut found: Vec<HostResource> =
            text.lines().take(RESOURCES).filter_map(resource).collect();
        let line = self.text(&folder(device).join("irq"));
        let line = line.trim().parse().ok().filter(|line| *line != 0);
        found.extend(line.map(HostResource::Interrupt));
        Ok(found)
    }

    /// The network interfaces whose hardware is this PCI device.
    pub fn interfaces_of_pci(&self, device: PciSbdf) -> Vec<Interface> {
        let names = self.names_below(INTERFACES, device).into_iter();
        let interface = |name: String| {
            let folder = Path::new(INTERFACES).join(&name);
            let flags = number(self.text(&folder.join("flags")).trim()).unwrap_or(0);
            Interface {
                is_up: flags & u64::from(FLAG_UP) != 0,
                is_port: self.files().exists(&folder.join("master")),
                name,
            }
        };
        names.map(interface).collect()
    }

    /// The block devices and partitions whose hardware is this PCI device.
    pub fn blocks_of_pci(&self, device: PciSbdf) -> Vec<Block> {
        let names = self.names_below(BLOCKS, device).into_iter();
        // A hidden one has no number.
        let block = |name: String| Block {
            is_hidden: !self
                .files()
                .exists(&Path::new(BLOCKS).join(&name).join("dev")),
            name,
        };
        names.map(block).collect()
    }

    /// The names of a class whose links lead through the folder of a PCI device.
    fn names_below(&self, class: &str, device: PciSbdf) -> Vec<String> {
        let address = device.to_string();
        let mut names = self.names(Path::new(class));
        names.retain(|name| {
            let target = self.files().link(&Path::new(class).join(name));
            target.is_ok_and(|target| target.iter().any(|part| part == address.as_str()))
        });
        names.sort_unstable();
        names
    }

    /// Gives a PCI device to a driver.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn bind_pci(&self, device: PciSbdf, driver: &str) -> io::Result<()> {
        self.tell(&driver_folder(driver).join("bind"), device)
    }

    /// Takes a PCI device from its driver.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn unbind_pci(&self, device: PciSbdf, driver: &str) -> io::Result<()> {
        self.tell(&driver_folder(driver).join("unbind"), device)
    }

    /// Adds a PCI device to pciback's slots, unless it is among them: the kernel would list it twice.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn add_slot(&self, device: PciSbdf) -> io::Result<()> {
        match self.pci_slots()?.contains(&device) {
            true => Ok(()),
            false => self.tell(&driver_folder(PCIBACK).join("new_slot"), device),
        }
    }

    /// Takes a PCI device out of pciback's slots, if it is among them.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn remove_slot(&self, device: PciSbdf) -> io::Result<()> {
        match self.pci_slots()?.contains(&device) {
            true => self.tell(&driver_folder(PCIBACK).join("remove_slot"), device),
            false => Ok(()),
        }
    }

    /// The devices that pciback may take.
    ///
    /// # Errors
    /// The system's error.
    pub fn pci_slots(&self) -> io::Result<Vec<PciSbdf>> {
        self.devices_in("slots")
    }

    /// The devices in a file of pciback, which has a line for each.
    fn devices_in(&self, file: &str) -> io::Result<Vec<PciSbdf>> {
        let bytes = self.files().read(&driver_folder(PCIBACK).join(file))?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines();
        Ok(lines
            .filter_map(|line| PciSbdf::parse(line.trim()))
            .collect())
    }

    /// Whether pciback lets a guest write to all of a PCI device's configuration space.
    ///
    /// # Errors
    /// The system's error.
    pub fn is_pci_permissive(&self, device: PciSbdf) -> io::Result<bool> {
        Ok(self.devices_in("permissive")?.contains(&device))
    }

    /// Has pciback let a guest write to all of a PCI device's configuration space, until pciback loses the device.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn make_pci_permissive(&self, device: PciSbdf) -> io::Result<()> {
        self.tell(&driver_folder(PCIBACK).join("permissive"), device)
    }

    /// Resets a PCI device. `false`: the kernel knows no way to reset it.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn reset_pci(&self, device: PciSbdf) -> io::Result<bool> {
        let path = folder(device).join("reset");
        match self.files().exists(&path) {
            true => self.files().write(&path, b"1").map(|()| true),
            false => Ok(false),
        }
    }

    /// Writes the address of a PCI device to a file of a driver.
    fn tell(&self, path: &Path, device: PciSbdf) -> io::Result<()> {
        self.files().write(path, device.to_string().as_bytes())
    }
}

fn folder(device: PciSbdf) -> PathBuf {
    Path::new(DEVICES).join(device.to_string())
}

fn driver_folder(driver: &str) -> PathBuf {
    Path::new(DRIVERS).join(driver)
}

/// A number of sysfs: `0x1f`.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// A line of the file `resource`: first and last address, and flags. A resource that the device does not have is zeros.
fn resource(line: &str) -> Option<HostResource> {
    let mut words = line.split_whitespace();
    let mut next = || number(words.next()?);
    let (first, last, flags) = (next()?, next()?, next()?);
    let size_bytes = last.checked_sub(first)?.checked_add(1)?;
    if first == 0 {
        return None;
    }
    if flags & FLAG_PORTS != 0 {
        return Some(HostResource::Ports {
            first: u16::try_from(first).ok()?,
            count: u32::try_from(size_bytes).ok()?,
        });
    }
    Some(HostResource::Memory {
        first: Mfn(first >> PAGE_SHIFT),
        nr_pages: size_bytes.div_ceil(PAGE_SIZE as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_those_of_the_kernels_lines() {
        let ports = resource("0x000000000000c040 0x000000000000c05f 0x0000000000040101");
        let expected = HostResource::Ports {
            first: 0xc040,
            count: 0x20,
        };
        assert_eq!(ports, Some(expected));
        // A BAR above 4 GiB keeps all bits (XSA-476).
        let memory = resource("0x0000380000000000 0x0000380000003fff 0x000000000014220c");
        let expected = HostResource::Memory {
            first: Mfn(0x3_8000_0000),
            nr_pages: 4,
        };
        assert_eq!(memory, Some(expected));
        let small = resource("0x00000000fea00010 0x00000000fea0001f 0x0000000000040200");
        let expected = HostResource::Memory {
            first: Mfn(0xfea00),
            nr_pages: 1,
        };
        assert_eq!(small, Some(expected));
        for other in [
            "0x0000000000000000 0x0000000000000000 0x0000000000000000",
            "0x10 0x8 0x200",
            "0x10",
            "x y z",
            "0x1 0xffffffffffffffff 0x100",
        ] {
            assert_eq!(resource(other), None, "{other}");
        }
    }
}
