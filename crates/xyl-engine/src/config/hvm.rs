//! The machine of an HVM guest from its configuration: what Xyl can do of it, and the reason for each setting that it refuses.
//! `config::plan` asks it.
//!
//! Facts: xl.cfg(5), `libxl_create.c` and `libxl_dm.c` (defaults), Xen's public header `hvm/params.h` (`HVMPV_*`).

use xl_cfg::DomainConfig;
use xl_cfg::types::{self, Bios, DiskController, GraphicsPassthrough, VendorDevice, Vga, VifType};

use crate::vm::disk::Disk;
use crate::vm::framebuffer::Framebuffer;
use crate::vm::hvm::{Hvm, UsbDevice, emulated, why_no_disk, why_not_together};
use crate::vm::nic::is_without_card;
use crate::vm::paths::whole_path;

/// The order of boot devices without `boot`, as with xl: disk, CD, floppy.
const BOOT_ORDER: &str = "cda";
/// Video memory of a card in MiB, where the configuration has none.
const VIDEO_STD_MIB: u64 = 16;
const VIDEO_CIRRUS_MIB: u64 = 8;
/// KiB of a MiB.
const KIB_PER_MIB: u64 = 1024;
/// Number of serial ports of a PC.
const SERIAL_MAX: usize = 4;
/// Settings of HVM guests that Xyl obeys, beside those of all guests.
const OBEYED: &[&str] = &[
    "bios",
    "bios_path_override",
    "firmware_override",
    "boot",
    "acpi",
    "acpi_s3",
    "acpi_s4",
    "apic",
    "hpet",
    "vpt_align",
    "hvm_pirq",
    "xen_platform_pci",
    "viridian",
    "mmio_hole",
    "vga",
    "stdvga",
    "videoram",
    "vnc",
    "vnclisten",
    "vncpasswd",
    "vncdisplay",
    "vncunused",
    "keymap",
    "serial",
    "usb",
    "usbdevice",
    "device_model_version",
    "dm_restrict",
];

/// Whether Xyl obeys a setting of HVM guests.
pub(super) fn is_obeyed(name: &str) -> bool {
    OBEYED.contains(&name)
}

/// The machine of a configuration whose settings [`why_not`] has accepted; `None` for a guest of another type.
pub(super) fn machine(domain: &DomainConfig) -> Option<Hvm> {
    let hvm = domain.hvm.as_ref()?;
    let switches = &hvm.switches;
    let is_on = |switch: Option<bool>| switch.unwrap_or(true);
    let usb_devices = hvm.usb_devices.iter();
    let usb_devices = usb_devices.filter_map(|word| UsbDevice::find(word));
    Some(Hvm {
        bios: hvm.bios.unwrap_or(Bios::Seabios),
        bios_path: hvm.bios_path.as_deref().map(whole_path),
        loader_path: hvm.firmware_path.as_deref().map(whole_path),
        boot_order: hvm.boot_order.as_deref().unwrap_or(BOOT_ORDER).to_owned(),
        has_acpi: is_on(domain.platform.acpi),
        has_acpi_s3: is_on(switches.acpi_s3),
        has_acpi_s4: is_on(switches.acpi_s4),
        has_apic: is_on(switches.apic),
        has_hpet: is_on(switches.hpet),
        aligns_timers: is_on(switches.vpt_align),
        has_platform_pci: is_on(switches.platform_pci),
        has_pirq: switches.pirq == Some(true),
        // `why_not` has refused any other.
        viridian: hvm.viridian.mask().unwrap_or_default(),
        mmio_hole_mib: hvm.mmio_hole_mib,
        vga: hvm.vga.unwrap_or(Vga::Cirrus),
        video_kib: video_mib(hvm) * KIB_PER_MIB,
        screen: Framebuffer::of_config(&domain.display).unwrap_or(Framebuffer {
            vnc: None,
            keymap: None,
        }),
        nr_serial: hvm.serial.iter().filter(|line| is_terminal(line)).count(),
        usb_devices: usb_devices.collect(),
        has_usb: switches.usb == Some(true),
    })
}

/// The reason why a setting of an HVM guest is refused, beside those that hold for all guests; `None` if it is accepted.
pub(super) fn why_not(name: &str, domain: &DomainConfig) -> Option<String> {
    let hvm = domain.hvm.as_ref()?;
    let switches = &hvm.switches;
    let not_yet = |what: &str| Some(format!("{what} is not supported by Xyl yet"));
    match name {
        "bios" | "firmware" if hvm.bios == Some(Bios::Rombios) => {
            not_yet("`rombios`, which Xen's newer releases do not have, ")
        }
        "vga" if hvm.vga == Some(Vga::Qxl) => not_yet("`qxl`"),
        "hdtype" if hvm.disk_controller == Some(DiskController::Ahci) => not_yet("`ahci`"),
        "pae" if switches.pae == Some(false) => not_yet("an HVM guest without PAE"),
        "nx" if switches.nx == Some(false) => not_yet("an HVM guest without NX"),
        "xen_platform_pci_bar_uc" if switches.platform_pci_uncacheable == Some(false) => {
            not_yet("`xen_platform_pci_bar_uc = 0`")
        }
        "dm_restrict" if domain.device_model.restrict == Some(false) => Some(
            "Xyl confines each device model: take `dm_restrict = 0` out".to_owned(),
        ),
        "viridian" => Some(hvm.viridian.mask().err()?.to_string()),
        "serial" => why_no_serial(&hvm.serial),
        "usbdevice" => why_no_usb_device(&hvm.usb_devices),
        "sdl" | "opengl" if domain.display.sdl.enabled == Some(true) => Some(
            "`sdl` is not supported: the device model is a user without rights, and has no window of domain 0's. VNC shows the screen".to_owned(),
        ),
        "vnclisten" | "vncpasswd" | "vncdisplay" | "keymap" => why_no_screen(name, domain),
        "disk" => why_no_disks(domain),
        "channel" if !domain.pv_devices.channels.is_empty() => {
            not_yet("`channel` of an HVM guest")
        }
        "vfb" if !domain.framebuffers.is_empty() => {
            not_yet("`vfb` of an HVM guest, whose screen `vnc` shows,")
        }
        "vkb" if !domain.pv_devices.keyboards.is_empty() => not_yet("`vkb` of an HVM guest"),
        _ => None,
    }
}

/// The reason why an HVM guest cannot have its disks.
fn why_no_disks(domain: &DomainConfig) -> Option<String> {
    let disks: Vec<Disk> = domain.disks.iter().flat_map(Disk::of_config).collect();
    let alone = disks
        .iter()
        .find_map(|disk| why_no_disk(disk).map(|why| format!("disk `{}`: {why}", disk.vdev)));
    alone.or_else(|| why_not_together(&disks))
}

/// Whether the machine of an HVM guest finds something to boot: a kernel, an emulated disk, or a network card that is among its boot devices.
fn has_something_to_boot(domain: &DomainConfig) -> bool {
    let disks: Vec<Disk> = domain.disks.iter().flat_map(Disk::of_config).collect();
    let order = domain
        .hvm
        .as_ref()
        .and_then(|hvm| hvm.boot_order.as_deref());
    let has_card = |vif: &types::Vif| vif.vif_type != Some(VifType::Vif) && !is_without_card(vif);
    let boots_network =
        order.unwrap_or(BOOT_ORDER).contains('n') && domain.vifs.iter().any(has_card);
    domain.boot.kernel.is_some() || !emulated(&disks).is_empty() || boots_network
}

/// Whether a setting of an HVM guest asks for nothing that it does not have anyway.
pub(super) fn is_default(name: &str, domain: &DomainConfig) -> bool {
    let Some(hvm) = &domain.hvm else {
        return false;
    };
    match name {
        "pae" => hvm.switches.pae == Some(true),
        "nx" => hvm.switches.nx == Some(true),
        "xen_platform_pci_bar_uc" => hvm.switches.platform_pci_uncacheable == Some(true),
        "hdtype" => hvm.disk_controller == Some(DiskController::Ide),
        "ms_vm_genid" => !hvm.generation_id,
        "vendor_device" => hvm.vendor_device == Some(VendorDevice::None),
        "gfx_passthru" => hvm.graphics_passthrough == Some(GraphicsPassthrough::Off),
        _ => false,
    }
}

/// The part of an obeyed setting that has no effect for an HVM guest, for a warning.
pub(super) fn why_in_part(name: &str, domain: &DomainConfig) -> Option<String> {
    match name {
        "vif" if domain.vifs.iter().any(is_without_card) => Some(
            "the device model emulates no card for an interface with a script, or of a driver domain: the guest's PV drivers alone have it, as with `type=vif`".to_owned(),
        ),
        "type" | "builder" if !has_something_to_boot(domain) => Some(
            "the guest finds nothing to boot: there is no `kernel`, and no disk that the device model emulates".to_owned(),
        ),
        _ => None,
    }
}

/// Settings of the screen, each with the parts of the display that it is about.
fn why_no_screen(name: &str, domain: &DomainConfig) -> Option<String> {
    let all = &domain.display;
    let mut one = types::Display::default();
    match name {
        "vncpasswd" => one.vnc.password = all.vnc.password.clone(),
        "keymap" => one.keymap = all.keymap.clone(),
        "vnclisten" => one.vnc.listen = all.vnc.listen.clone(),
        _ => one.vnc.display = all.vnc.display,
    }
    Framebuffer::of_config(&one).err()
}

/// Video memory: that of the configuration, or the card's usual one, as with libxl.
fn video_mib(hvm: &types::Hvm) -> u64 {
    let usual = match hvm.vga {
        Some(Vga::None) => 0,
        Some(Vga::Std) => VIDEO_STD_MIB,
        _ => VIDEO_CIRRUS_MIB,
    };
    match hvm.vga {
        Some(Vga::None) => 0,
        _ => hvm.video_ram_mib.unwrap_or(usual),
    }
}

/// Whether a target of a serial line is a terminal of domain 0.
fn is_terminal(line: &str) -> bool {
    line == "pty"
}

fn why_no_serial(lines: &[String]) -> Option<String> {
    let nothing = |line: &&String| line.is_empty() || line.as_str() == "none";
    if let Some(other) = lines
        .iter()
        .find(|line| !is_terminal(line) && !nothing(line))
    {
        return Some(format!(
            "`serial = \"{other}\"` is not supported by Xyl yet: write `serial = \"pty\"`, and `xyl console -t serial` reads it"
        ));
    }
    let after_none = lines
        .iter()
        .skip_while(|line| is_terminal(line))
        .any(|line| is_terminal(line));
    if after_none {
        return Some("a serial line after one without a target is not supported by Xyl yet: write the lines with `pty` first".to_owned());
    }
    (lines.len() > SERIAL_MAX).then(|| format!("a machine has {SERIAL_MAX} serial lines at most"))
}

fn why_no_usb_device(words: &[String]) -> Option<String> {
    let other = words.iter().find(|word| UsbDevice::find(word).is_none())?;
    Some(format!(
        "`usbdevice = \"{other}\"` is not supported by Xyl yet: there are `tablet`, `mouse` and `keyboard`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DomainConfig {
        let text = format!("name = 'g'\ntype = 'hvm'\nmemory = 64\n{text}\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        xl_cfg::parse::<&str>(source, &[]).unwrap().domain
    }

    fn planned(text: &str) -> Hvm {
        machine(&config(text)).unwrap()
    }

    #[test]
    fn the_defaults_are_those_of_xl() {
        let hvm = planned("");
        assert_eq!((hvm.bios, hvm.vga), (Bios::Seabios, Vga::Cirrus));
        assert_eq!((hvm.boot_order.as_str(), hvm.video_kib), ("cda", 8192));
        assert!(hvm.has_acpi && hvm.has_apic && hvm.has_hpet && hvm.has_platform_pci);
        let vnc = hvm.screen.vnc.unwrap();
        assert_eq!(
            (vnc.listen.to_string().as_str(), vnc.find_unused),
            ("127.0.0.1", true)
        );
        assert_eq!((hvm.viridian, hvm.nr_serial, hvm.has_pirq), (0, 0, false));
    }

    #[test]
    fn the_screen_is_as_configured() {
        assert_eq!(planned("vga = 'none'\nvideoram = 8").video_kib, 0);
        assert_eq!(planned("vga = 'stdvga'").video_kib, 16384);
        assert_eq!(planned("stdvga = 1\nvideoram = 32").video_kib, 32768);
        assert_eq!(planned("vnc = 0").screen.vnc, None);
        let screen = planned("vnclisten = '0.0.0.0:3'\nvncpasswd = 'x'\nkeymap = 'de'").screen;
        assert_eq!(screen.vnc.unwrap().display, 3);
        assert_eq!(screen.keymap.as_deref(), Some("de"));
    }

    #[test]
    fn viridian_is_the_mask_of_its_groups() {
        assert_eq!(planned("viridian = 1").viridian, 0b1_1000_0110_0101);
        assert!(why_not("viridian", &config("viridian = ['synic']")).is_some());
        assert_eq!(why_not("viridian", &config("viridian = ['base']")), None);
    }

    #[test]
    fn serial_lines_are_terminals() {
        assert_eq!(planned("serial = 'pty'").nr_serial, 1);
        assert_eq!(planned("serial = ['pty', 'pty', 'none']").nr_serial, 2);
        for text in ["serial = 'file:/x'", "serial = ['none', 'pty']"] {
            assert!(why_not("serial", &config(text)).is_some(), "{text}");
        }
    }

    #[test]
    fn the_usb_bus_has_the_devices_of_qemu() {
        let hvm = planned("usb = 1\nusbdevice = ['tablet', 'keyboard']");
        assert!(hvm.has_usb);
        assert_eq!(hvm.usb_devices, [UsbDevice::Tablet, UsbDevice::Keyboard]);
        assert!(why_not("usbdevice", &config("usbdevice = 'host:1.2'")).is_some());
    }

    #[test]
    fn a_guest_that_finds_nothing_to_boot_is_warned_of() {
        for (text, is_warned_of) in [
            ("", true),
            ("disk = [ '/x,raw,xvde,rw' ]", true),
            ("disk = [ '/x,raw,xvda,rw' ]", false),
            ("kernel = '/k'", false),
            ("vif = [ '' ]", true),
            ("vif = [ '' ]\nboot = 'cn'", false),
        ] {
            let why = why_in_part("type", &config(text));
            assert_eq!(why.is_some(), is_warned_of, "{text}");
        }
        let two = "disk = [ '/x,raw,hda,rw', '/y,raw,xvda,rw' ]";
        assert!(why_not("disk", &config(two)).is_some());
    }
}
