//! The arguments of QEMU as the device model of an HVM guest.
//!
//! QEMU makes its hypercalls and opens its terminals and sockets while it reads these, as root. Then it restricts its files of privcmd and
//! event channels to its domain and closes xenstore (`-xen-domid-restrict`), and confines itself. So it can serve no PV backends.
//!
//! Facts: `libxl_dm.c`; `hw/i386/pc_piix.c` (`xenfv`), `accel/xen/xen-all.c`, `block/file-posix.c` and `softmmu/vl.c` of QEMU.

use std::path::Path;

use xl_cfg::types::{Mac, Vga};

use super::Request;
use super::arguments::{Confinement, confining, descriptor, of_display, of_files};
use super::commands::path_of_file;
use crate::vm::hvm::{Hvm, Slot, UsbDevice};
use crate::vm::nic::CardModel;

/// KiB of a MiB.
const KIB_PER_MIB: u64 = 1024;
/// End of the addresses below 4 GiB, in MiB.
const FOUR_GIB_MIB: u64 = 4096;

/// The machine that a device model emulates.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The configured machine.
    pub hvm: &'a Hvm,
    /// Maximum memory of the guest in KiB, with the video memory.
    pub max_kib: u64,
    /// Number of vCPUs that are online at the start.
    pub vcpus: u32,
    /// Maximum number of vCPUs.
    pub max_vcpus: u32,
    /// The emulated disks, whose images are the first of the files that QEMU gets.
    pub disks: &'a [MachineDisk],
    /// Whether the next file is a kernel that QEMU loads.
    pub has_kernel: bool,
    /// Whether the file after the kernel is its ramdisk.
    pub has_ramdisk: bool,
    /// Command line of that kernel.
    pub cmdline: &'a str,
    /// The emulated network cards, whose taps are the next files.
    pub cards: &'a [MachineCard],
}

/// An emulated network card.
#[derive(Clone, Copy, Debug)]
pub struct MachineCard {
    /// Number of its interface.
    pub devid: u32,
    /// Model of the card.
    pub model: CardModel,
    /// Address of the card.
    pub mac: Mac,
}

/// An emulated disk.
#[derive(Clone, Copy, Debug)]
pub struct MachineDisk {
    /// Its place in the machine.
    pub slot: Slot,
    /// Whether the image is a block device.
    pub is_block: bool,
    /// Whether the guest may write to it.
    pub is_writable: bool,
}

/// The arguments of a device model.
pub(super) fn arguments(
    request: &Request<'_>,
    machine: &Machine<'_>,
    cage: &Path,
    confinement: Confinement,
) -> Vec<String> {
    let domid = request.qemu.domid;
    let mut all = words([
        "-xen-domid",
        &domid.to_string(),
        "-no-shutdown",
        "-name",
        &format!("domain-{domid}-machine"),
    ]);
    all.extend(words(["-nodefaults", "-no-user-config"]));
    all.extend(words(["-display", "none", "-monitor", "none"]));
    all.extend(words(["-parallel", "none"]));
    all.extend(confining(request.qemu, cage, confinement));
    all.push("-xen-domid-restrict".to_owned());
    all.extend(of_board(machine));
    all.extend(of_kernel(machine));
    all.extend(of_devices(machine.hvm));
    all.extend(of_files(0..machine.disks.len()));
    all.extend(of_disks(machine.disks));
    all.extend(of_cards(machine));
    let display = request.display.into_iter();
    let nr_files = request.files.len();
    all.extend(display.flat_map(|display| of_display(display, nr_files)));
    all
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// The board: its chipset, memory, CPUs, and the order of boot devices.
fn of_board(machine: &Machine<'_>) -> Vec<String> {
    let hvm = machine.hvm;
    let mut board = match hvm.has_platform_pci {
        true => "xenfv".to_owned(),
        false => "pc,accel=xen".to_owned(),
    };
    board.push_str(",suppress-vmdesc=on");
    if !hvm.has_acpi {
        board.push_str(",acpi=off");
    }
    if let Some(hole_mib) = hvm.mmio_hole_mib {
        let below_mib = FOUR_GIB_MIB.saturating_sub(hole_mib);
        board.push_str(&format!(",max-ram-below-4g={}", below_mib << 20));
    }
    let memory_mib = machine.max_kib.saturating_sub(hvm.video_kib) / KIB_PER_MIB;
    let mut all = words(["-machine", &board, "-m", &memory_mib.to_string()]);
    if machine.max_vcpus > 1 {
        let cpus = format!("{},maxcpus={}", machine.vcpus, machine.max_vcpus);
        all.extend(words(["-smp", &cpus]));
    }
    let order = format!("order={}", hvm.boot_order);
    all.extend(words(["-boot", &order]));
    all
}

/// The kernel that QEMU loads. It opens its files once more by these paths, as root.
fn of_kernel(machine: &Machine<'_>) -> Vec<String> {
    if !machine.has_kernel {
        return Vec::new();
    }
    let path = |index: usize| format!("/proc/self/fd/{}", descriptor(index));
    let first = machine.disks.len();
    let mut all = words(["-kernel", &path(first)]);
    if machine.has_ramdisk {
        all.extend(words(["-initrd", &path(first + 1)]));
    }
    if !machine.cmdline.is_empty() {
        all.extend(words(["-append", machine.cmdline]));
    }
    all
}

/// The graphics card, the serial lines and the USB bus.
fn of_devices(hvm: &Hvm) -> Vec<String> {
    let mut all = Vec::new();
    let video_mib = hvm.video_kib / KIB_PER_MIB;
    let card = match hvm.vga {
        Vga::None => None,
        Vga::Cirrus => Some(format!("cirrus-vga,vgamem_mb={video_mib}")),
        Vga::Std | Vga::Qxl => Some(format!("VGA,vgamem_mb={video_mib}")),
    };
    if let Some(card) = card {
        all.extend(words(["-device", &card]));
    }
    if hvm.nr_serial == 0 {
        all.extend(words(["-serial", "none"]));
    }
    for _ in 0..hvm.nr_serial {
        all.extend(words(["-serial", "pty"]));
    }
    if hvm.has_usb || !hvm.usb_devices.is_empty() {
        all.push("-usb".to_owned());
    }
    for device in &hvm.usb_devices {
        let device = match device {
            UsbDevice::Tablet => "usb-tablet",
            UsbDevice::Mouse => "usb-mouse",
            UsbDevice::Keyboard => "usb-kbd",
        };
        all.extend(words(["-device", device]));
    }
    all
}

/// The emulated disks. Each format is raw: QEMU does not look into an image, where a guest could have written another one. Without
/// `auto-read-only=off` QEMU would open each for reading first, and it has one file, which is open for writing.
fn of_disks(disks: &[MachineDisk]) -> Vec<String> {
    let mut all = Vec::new();
    if disks.iter().any(|disk| matches!(disk.slot, Slot::Scsi(_))) {
        all.extend(words(["-device", "lsi53c895a"]));
    }
    for (index, disk) in disks.iter().enumerate() {
        let driver = match disk.is_block {
            true => "host_device",
            false => "file",
        };
        let path = path_of_file(index);
        let access = match disk.is_writable {
            true => "",
            false => "readonly=on,",
        };
        let source = format!(
            "{access}auto-read-only=off,format=raw,cache=writeback,file.driver={driver},file.filename={path}"
        );
        all.extend(of_disk(disk.slot, &source));
    }
    all
}

fn of_disk(slot: Slot, source: &str) -> Vec<String> {
    match slot {
        Slot::Ide(number) => {
            let drive = format!("if=ide,index={number},media=disk,{source}");
            words(["-drive", &drive])
        }
        Slot::Cd(number) => {
            let id = format!("cd-{number}");
            let (bus, unit) = (number / 2, number % 2);
            let device = format!("ide-cd,id={id},drive={id}-disc,bus=ide.{bus},unit={unit}");
            let drive = format!("if=none,id={id}-disc,{source}");
            words(["-drive", &drive, "-device", &device])
        }
        Slot::Scsi(number) => {
            let drive = format!("if=none,id=scsi-{number},{source}");
            let device = format!("scsi-hd,drive=scsi-{number},scsi-id={number}");
            words(["-drive", &drive, "-device", &device])
        }
    }
}

/// The emulated network cards. QEMU asks what a tap can before it confines itself.
fn of_cards(machine: &Machine<'_>) -> Vec<String> {
    let nr_boot_files = usize::from(machine.has_kernel) + usize::from(machine.has_ramdisk);
    let files = machine.disks.len() + nr_boot_files..;
    let one = |(card, file): (&MachineCard, usize)| {
        let MachineCard { devid, model, mac } = card;
        let file = descriptor(file);
        let tap = format!("tap,id=net{devid},fd={file}");
        let device = format!("{},id=nic{devid},netdev=net{devid},mac={mac}", model.word());
        words(["-netdev", &tap, "-device", &device])
    };
    machine.cards.iter().zip(files).flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use xen_port::DomId;
    use xl_cfg::types::Bios;

    use super::super::{Display, QemuId};
    use super::*;
    use crate::vm::framebuffer::Framebuffer;

    fn hvm() -> Hvm {
        Hvm {
            bios: Bios::Seabios,
            bios_path: None,
            loader_path: Some(PathBuf::from("/l")),
            boot_order: "cda".to_owned(),
            has_acpi: true,
            has_acpi_s3: true,
            has_acpi_s4: true,
            has_apic: true,
            has_hpet: true,
            aligns_timers: true,
            has_platform_pci: true,
            has_pirq: false,
            viridian: 0,
            mmio_hole_mib: None,
            vga: Vga::Cirrus,
            video_kib: 8192,
            screen: Framebuffer {
                vnc: None,
                keymap: None,
            },
            nr_serial: 1,
            usb_devices: Vec::new(),
            has_usb: false,
        }
    }

    fn line(hvm: &Hvm, disks: &[MachineDisk], confinement: Confinement) -> String {
        let display = Display {
            listening: None,
            keymap: Some("de".to_owned()),
        };
        let machine = Machine {
            hvm,
            max_kib: 262_144,
            vcpus: 1,
            max_vcpus: 2,
            disks,
            has_kernel: true,
            has_ramdisk: true,
            cmdline: "a b",
            cards: &[MachineCard {
                devid: 2,
                model: CardModel::E1000,
                mac: Mac([0, 0x16, 0x3e, 1, 2, 3]),
            }],
        };
        let request = Request {
            qemu: QemuId::device_model(DomId(7)),
            device: "the device model",
            drives: &[],
            files: &[],
            terminals: &[],
            sockets: &[],
            display: Some(&display),
            machine: Some(&machine),
        };
        arguments(
            &request,
            &machine,
            Path::new("/dev/xyl/machine"),
            confinement,
        )
        .join(" ")
    }

    #[test]
    fn qemu_gets_these_arguments() {
        let disk = |slot, is_block, is_writable| MachineDisk {
            slot,
            is_block,
            is_writable,
        };
        let disks = [
            disk(Slot::Ide(0), false, true),
            disk(Slot::Cd(2), true, false),
            disk(Slot::Scsi(1), true, true),
        ];
        let first = "-xen-domid 7 -no-shutdown -name domain-7-machine -nodefaults -no-user-config \
            -display none -monitor none -parallel none";
        let last = "-xen-domid-restrict -machine xenfv,suppress-vmdesc=on -m 248 -smp 1,maxcpus=2 -boot order=cda \
            -kernel /proc/self/fd/7 -initrd /proc/self/fd/8 -append a b -device cirrus-vga,vgamem_mb=8 -serial pty \
            -add-fd fd=4,set=1 -add-fd fd=5,set=2 -add-fd fd=6,set=3 -device lsi53c895a \
            -drive if=ide,index=0,media=disk,auto-read-only=off,format=raw,cache=writeback,file.driver=file,file.filename=/dev/fdset/1 \
            -drive if=none,id=cd-2-disc,readonly=on,auto-read-only=off,format=raw,cache=writeback,file.driver=host_device,file.filename=/dev/fdset/2 \
            -device ide-cd,id=cd-2,drive=cd-2-disc,bus=ide.1,unit=0 \
            -drive if=none,id=scsi-1,auto-read-only=off,format=raw,cache=writeback,file.driver=host_device,file.filename=/dev/fdset/3 \
            -device scsi-hd,drive=scsi-1,scsi-id=1 \
            -netdev tap,id=net2,fd=9 -device e1000,id=nic2,netdev=net2,mac=00:16:3e:01:02:03 -k de";
        let of_7_2 = "-chroot /dev/xyl/machine -runas 1901114119:1901114119";
        let of_10_0 = "-run-with chroot=/dev/xyl/machine,user=1901114119:1901114119";
        let wanted = |confined: &str| format!("{first} {confined} {last}");
        let line = |confinement| line(&hvm(), &disks, confinement);
        assert_eq!(line(Confinement::Options), wanted(of_7_2));
        assert_eq!(line(Confinement::RunWith), wanted(of_10_0));
    }

    #[test]
    fn the_machine_is_as_configured() {
        let hvm = Hvm {
            has_acpi: false,
            has_platform_pci: false,
            mmio_hole_mib: Some(1024),
            vga: Vga::Std,
            video_kib: 16384,
            nr_serial: 0,
            usb_devices: vec![UsbDevice::Tablet],
            boot_order: "dc".to_owned(),
            ..hvm()
        };
        let line = line(&hvm, &[], Confinement::Options);
        for part in [
            "-machine pc,accel=xen,suppress-vmdesc=on,acpi=off,max-ram-below-4g=3221225472 -m 240 ",
            "-boot order=dc ",
            "-device VGA,vgamem_mb=16 -serial none -usb -device usb-tablet",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
