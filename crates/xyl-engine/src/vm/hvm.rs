//! The machine of an HVM guest, decided: what the device model emulates, and nothing that Xyl cannot do. `config::hvm` builds it.

use std::path::PathBuf;

use xl_cfg::types::{Bios, Vga};

use crate::vm::disk::{Disk, ImageFormat, Server};
use crate::vm::framebuffer::Framebuffer;

/// Number of disks on the emulated IDE controller.
const IDE_DISKS: u32 = 4;
/// Number of disks on the emulated SCSI controller.
const SCSI_DISKS: u32 = 7;

/// The machine of an HVM guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hvm {
    /// The kind of firmware.
    pub bios: Bios,
    /// Path of the firmware; `None` for the host's usual one.
    pub bios_path: Option<PathBuf>,
    /// Path of hvmloader; `None` for the host's usual one.
    pub loader_path: Option<PathBuf>,
    /// The order of boot devices, as `-boot order=` of QEMU takes it.
    pub boot_order: String,
    /// ACPI tables are there.
    pub has_acpi: bool,
    /// ACPI state S3.
    pub has_acpi_s3: bool,
    /// ACPI state S4.
    pub has_acpi_s4: bool,
    /// APIC tables are there.
    pub has_apic: bool,
    /// The high-precision timer (HPET).
    pub has_hpet: bool,
    /// Timers are aligned.
    pub aligns_timers: bool,
    /// The Xen platform device, by which PV drivers unplug the emulated disks.
    pub has_platform_pci: bool,
    /// Interrupts over event channels.
    pub has_pirq: bool,
    /// Hyper-V enlightenments, as the bits of `HVM_PARAM_VIRIDIAN`.
    pub viridian: u64,
    /// Size of the hole below 4 GiB, in MiB; `None` for the usual one.
    pub mmio_hole_mib: Option<u64>,
    /// The graphics card.
    pub vga: Vga,
    /// Video memory in KiB. It is a part of the guest's memory.
    pub video_kib: u64,
    /// The screen of the graphics card.
    pub screen: Framebuffer,
    /// Number of serial lines. Each is a terminal of domain 0.
    pub nr_serial: usize,
    /// Devices on the emulated USB bus; no bus without one.
    pub usb_devices: Vec<UsbDevice>,
    /// An emulated USB bus, even without devices.
    pub has_usb: bool,
}

/// A device on the emulated USB bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsbDevice {
    /// A pointer with absolute coordinates.
    Tablet,
    /// A relative mouse.
    Mouse,
    /// A USB keyboard.
    Keyboard,
}

impl UsbDevice {
    /// All of them.
    const ALL: [UsbDevice; 3] = [UsbDevice::Tablet, UsbDevice::Mouse, UsbDevice::Keyboard];

    /// The word of `usbdevice=` in xl.cfg.
    pub fn word(self) -> &'static str {
        match self {
            UsbDevice::Tablet => "tablet",
            UsbDevice::Mouse => "mouse",
            UsbDevice::Keyboard => "keyboard",
        }
    }

    /// The device with this word.
    pub fn find(word: &str) -> Option<UsbDevice> {
        UsbDevice::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// The place of a disk in the emulated machine. Beside it the guest has the same disk from its PV backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A disk on the IDE controller, by its number.
    Ide(u32),
    /// A CD drive on the IDE controller, by its number.
    Cd(u32),
    /// A disk on the SCSI controller, by its number.
    Scsi(u32),
}

/// The family of a disk's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Xvd,
    Hd,
    Sd,
}

/// The place of a disk in the emulated machine; `None` for a disk that PV drivers alone see. libxl emulates the first four disks as IDE,
/// whether they are called `hd` or `xvd`.
pub fn slot(disk: &Disk) -> Option<Slot> {
    let (family, number) = whole_disk(&disk.vdev.name)?;
    let is_emulated = disk.backend.is_none() && is_raw_of_kernel(disk);
    match family {
        _ if !is_emulated => None,
        _ if disk.is_cdrom => (number < IDE_DISKS).then_some(Slot::Cd(number)),
        // QEMU has no read-only disk on IDE.
        Family::Xvd | Family::Hd => {
            (number < IDE_DISKS && disk.is_writable()).then_some(Slot::Ide(number))
        }
        Family::Sd => (number < SCSI_DISKS).then_some(Slot::Scsi(number)),
    }
}

fn is_raw_of_kernel(disk: &Disk) -> bool {
    disk.format == ImageFormat::Raw && disk.server == Server::Kernel
}

/// The disks that the machine emulates, each with its place.
pub fn emulated(disks: &[Disk]) -> Vec<(Slot, &Disk)> {
    let found = disks.iter().map(|disk| Some((slot(disk)?, disk)));
    found.flatten().collect()
}

/// Two disks that have one place in the machine, in words; `None` where each has its own.
pub fn why_not_together(disks: &[Disk]) -> Option<String> {
    let mut taken: Vec<(Slot, &Disk)> = Vec::new();
    for disk in disks {
        let Some(slot) = slot(disk) else {
            continue;
        };
        if let Some((_, other)) = taken.iter().find(|(one, _)| is_same_place(*one, slot)) {
            return Some(format!(
                "disks `{}` and `{}` have the same place in the emulated machine: give one another letter",
                other.vdev, disk.vdev
            ));
        }
        taken.push((slot, disk));
    }
    None
}

fn is_same_place(one: Slot, other: Slot) -> bool {
    match (one, other) {
        (Slot::Ide(a) | Slot::Cd(a), Slot::Ide(b) | Slot::Cd(b)) => a == b,
        (Slot::Scsi(a), Slot::Scsi(b)) => a == b,
        _ => false,
    }
}

/// The reason why an HVM guest cannot have a disk; `None` where it can. A disk that is called `hd` or `sd` has to be emulated.
pub fn why_no_disk(disk: &Disk) -> Option<String> {
    let family = whole_disk(&disk.vdev.name).map(|(family, _)| family);
    let is_named_so = matches!(family, Some(Family::Hd | Family::Sd));
    if !is_named_so || slot(disk).is_some() {
        return None;
    }
    let why = if disk.backend.is_some() {
        "the device model cannot emulate a disk of a driver domain"
    } else if !is_raw_of_kernel(disk) {
        "the device model emulates raw disks that domain 0's kernel serves, and no others"
    } else if !disk.is_writable() {
        "an emulated IDE disk cannot be read-only"
    } else {
        "the emulated machine has no place for it: 4 disks on IDE, 7 on SCSI"
    };
    Some(format!(
        "{why}: call it `xvdX`, with X from `e` on, and the guest's PV drivers have it"
    ))
}

/// Family and number of a whole disk's name; `None` for a partition, and for a name of another form.
fn whole_disk(name: &str) -> Option<(Family, u32)> {
    let families = [("xvd", Family::Xvd), ("hd", Family::Hd), ("sd", Family::Sd)];
    let found = families.iter().find_map(|(start, family)| {
        let letter = name.strip_prefix(start)?;
        Some((*family, letter))
    });
    let (family, letter) = found?;
    match letter.as_bytes() {
        [letter @ b'a'..=b'z'] => Some((family, u32::from(letter - b'a'))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(spec: &str) -> Disk {
        let text = format!("name = 'g'\nkernel = '/k'\ntype = 'pvh'\ndisk = [ '{spec}' ]\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        Disk::of_config(&config.domain.disks[0]).unwrap()
    }

    #[test]
    fn the_first_raw_disks_are_emulated() {
        for (spec, wanted) in [
            ("/x,raw,hda,rw", Some(Slot::Ide(0))),
            ("/x,raw,xvdb,rw", Some(Slot::Ide(1))),
            ("/x,raw,hdc,cdrom", Some(Slot::Cd(2))),
            ("/x,raw,sdb,rw", Some(Slot::Scsi(1))),
            ("/x,raw,xvde,rw", None),
            ("/x,raw,xvda1,rw", None),
            ("/x,raw,xvda,ro", None),
            ("/x,qcow2,xvda,rw", None),
            ("/x,raw,xvda,rw,backend=d", None),
        ] {
            let disk = disk(spec);
            assert_eq!(slot(&disk), wanted, "{spec}");
            assert_eq!(why_no_disk(&disk), None, "{spec}");
        }
    }

    #[test]
    fn one_that_has_to_be_emulated_and_cannot_is_refused() {
        for spec in [
            "/x,raw,hda,ro",
            "/x,qcow2,hda,rw",
            "/x,raw,sdh,rw",
            "/x,raw,hda,rw,backend=d",
        ] {
            assert!(why_no_disk(&disk(spec)).is_some(), "{spec}");
        }
    }

    #[test]
    fn one_place_has_one_disk() {
        let others = [
            "/y,raw,xvda,rw",
            "/y,raw,hda,cdrom",
            "/y,qcow2,xvda,rw",
            "/y,raw,sda,rw",
        ];
        let is_refused = |other: &str| {
            let disks = [disk("/x,raw,hda,rw"), disk(other)];
            why_not_together(&disks).is_some()
        };
        assert_eq!(others.map(is_refused), [true, true, false, false]);
    }
}
