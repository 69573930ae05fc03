//! Errors of PCI devices that guests can get.

use std::io;

use xen_port::{DomId, HvError, PciSbdf};

/// The reasons why a PCI device cannot be made assignable, given to a domain, or taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// Xen uses no IOMMU.
    #[error(
        "Xen uses no IOMMU on this host, so a guest with a PCI device could read and write all memory: switch VT-d or AMD-Vi on in the firmware, and boot Xen without `iommu=no`; `xyl dmesg` says \"I/O virtualisation enabled\" then"
    )]
    NoIommu,
    /// The driver pciback is not loaded.
    #[error("domain 0 has no driver pciback: load it with `modprobe xen-pciback`")]
    NoPciback,
    /// The host has no such device.
    #[error("this host has no PCI device {0}: `lspci -D` lists them")]
    Absent(PciSbdf),
    /// The device is a bridge.
    #[error(
        "PCI device {0} is a bridge, whose devices would go with it: name the device behind it"
    )]
    Bridge(PciSbdf),
    /// Domain 0 uses the device.
    #[error(
        "domain 0 uses PCI device {device}: {user}; end that use first, or add `--force`, and domain 0 loses it"
    )]
    InUse {
        /// Address of the device.
        device: PciSbdf,
        /// The use of it.
        user: String,
    },
    /// A domain has the device.
    #[error(
        "domain {domid} has PCI device {device}: destroy the domain, or `xyl pci-detach {domid} {device}`"
    )]
    Assigned {
        /// Address of the device.
        device: PciSbdf,
        /// Number of the domain.
        domid: DomId,
    },
    /// Xen has given the device to a domain, and no node says which.
    #[error(
        "Xen says that another domain has PCI device {0}, or that no domain may have it, and xenstore names none: `xyl debug-keys Q` and `xyl dmesg` show which; destroy that domain"
    )]
    AssignedUnnamed(PciSbdf),
    /// pciback does not have the device.
    #[error("PCI device {0} is not assignable: make it so first with `xyl pci-assignable-add {0}`")]
    NotAssignable(PciSbdf),
    /// No assignable device has the name.
    #[error("no assignable PCI device has the name `{0}`: `xyl pci-assignable-list -n` lists them")]
    NoSuchName(String),
    /// The name is not allowed.
    #[error(
        "`{0}` cannot be the name of a PCI device: choose one of at most 64 printable ASCII characters, without spaces"
    )]
    BadName(String),
    /// Another device has the name.
    #[error("PCI device {device} has the name `{name}` already: choose another")]
    NameTaken {
        /// The unknown name.
        name: String,
        /// The device that has it.
        device: PciSbdf,
    },
    /// Domain 0's kernel has refused a change of the device's driver.
    #[error(
        "PCI device {device}: domain 0's kernel does not {action}: {source}; `dmesg` may tell more"
    )]
    Driver {
        /// Address of the device.
        device: PciSbdf,
        /// The change of it.
        action: String,
        /// Error of the kernel.
        source: io::Error,
    },
    /// Xen does not keep the device from memory.
    #[error(
        "Xen does not quarantine PCI device {device}: {source}; the device is {now}; `xyl dmesg` may tell more"
    )]
    Quarantine {
        /// Address of the device.
        device: PciSbdf,
        /// Error of Xen.
        source: HvError,
        /// The driver that has the device now.
        now: String,
    },
    /// Xen does not give the device to the domain.
    #[error(
        "Xen does not give PCI device {device} to domain {domid}: {source}; `xyl dmesg` may tell more"
    )]
    NotAssigned {
        /// Address of the device.
        device: PciSbdf,
        /// Number of the domain.
        domid: DomId,
        /// Error of Xen.
        source: HvError,
    },
    /// The guest does not answer.
    #[error(
        "PCI device {device}: the guest of domain {domid} does not answer within {limit_s} s (its bus is in state {state}, not 4): load its driver, `modprobe xen-pcifront` in Linux, and repeat the command"
    )]
    GuestSilent {
        /// Address of the device.
        device: PciSbdf,
        /// Number of the domain.
        domid: DomId,
        /// State of the bus.
        state: String,
        /// The time limit in seconds.
        limit_s: u64,
    },
    /// Another process changes the assignable devices.
    #[error(
        "another process changes the assignable PCI devices and did not end within {0} s: try again"
    )]
    Busy(u64),
}

impl PciError {
    /// Longest name of a device in bytes, as in libxl.
    pub const NAME_MAX_BYTES: usize = 64;

    /// Whether its text ends in a remedy, after the last colon.
    pub(crate) fn has_remedy(&self) -> bool {
        !matches!(
            self,
            PciError::InUse { .. }
                | PciError::Driver { .. }
                | PciError::Quarantine { .. }
                | PciError::NotAssigned { .. }
        )
    }
}
