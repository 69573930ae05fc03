//! The emulated machine of an HVM guest.

use serde::{Deserialize, Serialize};

use super::display::Spice;
use super::hvm_words::{
    Bios, DiskController, GraphicsPassthrough, SmbiosField, VendorDevice, Vga, Viridian,
};
use super::memory::read_mib;
use super::pci::Rdm;
use crate::diag::Code;
use crate::keyword::Keyword;
use crate::reader::Reader;
use crate::syntax::{NodeKind, Value};

/// Hyper-V enlightenments (`viridian`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViridianSet {
    /// Whether Xen's default groups are enabled.
    pub defaults: bool,
    /// Groups enabled besides.
    pub enabled: Vec<Viridian>,
    /// Groups taken out again.
    pub disabled: Vec<Viridian>,
}

/// The emulated machine of an HVM guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hvm {
    /// The order of boot devices: `c` disk, `d` CD, `n` network, `a` floppy (`boot`).
    pub boot_order: Option<String>,
    /// The firmware (`bios`, or `firmware` if it is a name).
    pub bios: Option<Bios>,
    /// Path of the firmware, if not the usual one (`bios_path_override`).
    pub bios_path: Option<String>,
    /// Path of hvmloader; `None` for the default (`firmware_override`, or `firmware` if it is a path).
    pub firmware_path: Option<String>,
    /// The disk controller (`hdtype`).
    pub disk_controller: Option<DiskController>,
    /// Switches of the machine.
    pub switches: HvmSwitches,
    /// Hyper-V enlightenments for Windows guests (`viridian`).
    pub viridian: ViridianSet,
    /// Size of the hole below 4 GiB, in MiB (`mmio_hole`).
    pub mmio_hole_mib: Option<u64>,
    /// Strings for the SMBIOS tables (`smbios`).
    pub smbios: Vec<(SmbiosField, String)>,
    /// File of further SMBIOS structures (`smbios_firmware`).
    pub smbios_path: Option<String>,
    /// File of further ACPI tables (`acpi_firmware`).
    pub acpi_path: Option<String>,
    /// Whether the guest gets a generation ID, new on each start (`ms_vm_genid`).
    pub generation_id: bool,
    /// Whether the guest gets local machine checks (`mca_caps = ["lmce"]`).
    pub local_mce: bool,
    /// The graphics card (`vga`, `stdvga`).
    pub vga: Option<Vga>,
    /// Video memory in MiB (`videoram`).
    pub video_ram_mib: Option<u64>,
    /// Graphics passthrough (`gfx_passthru`).
    pub graphics_passthrough: Option<GraphicsPassthrough>,
    /// Settings of its SPICE server.
    pub spice: Spice,
    /// Targets of the serial ports (`serial`).
    pub serial: Vec<String>,
    /// Emulated USB: version of the controller (`usbversion`).
    pub usb_version: Option<u32>,
    /// Devices on the emulated USB bus (`usbdevice`).
    pub usb_devices: Vec<String>,
    /// The sound card (`soundhw`).
    pub sound: Option<String>,
    /// The variant of QEMU's xen-pvdevice (`vendor_device`).
    pub vendor_device: Option<VendorDevice>,
    /// Treatment of memory that devices reserve.
    pub rdm: Rdm,
}

/// Switches of the machine; `None`: the default of Xen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HvmSwitches {
    /// Physical address extension (`pae`), default on.
    pub pae: Option<bool>,
    /// ACPI S3 (`acpi_s3`), default on.
    pub acpi_s3: Option<bool>,
    /// ACPI S4 (`acpi_s4`), default on.
    pub acpi_s4: Option<bool>,
    /// ACPI laptop and slate switch (`acpi_laptop_slate`), default off.
    pub acpi_laptop_slate: Option<bool>,
    /// APIC tables (`apic`), default on.
    pub apic: Option<bool>,
    /// No-execute (`nx`), default on.
    pub nx: Option<bool>,
    /// High-precision timer (`hpet`), default on.
    pub hpet: Option<bool>,
    /// Interrupts over event channels (`hvm_pirq`), default off.
    pub pirq: Option<bool>,
    /// Aligned timers (`vpt_align`), default on.
    pub vpt_align: Option<bool>,
    /// No graphics card at all (`nographic`), default off.
    pub no_graphic: Option<bool>,
    /// The emulated USB bus (`usb`), default off.
    pub usb: Option<bool>,
    /// A paravirtual keyboard (`vkb_device`), default on.
    pub keyboard: Option<bool>,
    /// The Xen platform device (`xen_platform_pci`), default on.
    pub platform_pci: Option<bool>,
    /// Whether its memory is uncacheable (`xen_platform_pci_bar_uc`), default on.
    pub platform_pci_uncacheable: Option<bool>,
}

impl Hvm {
    pub(crate) fn read(reader: &mut Reader<'_>, firmware: Option<&str>) -> Self {
        let (named, path) = split_firmware(firmware);
        let hvm = Self {
            boot_order: read_boot_order(reader),
            bios: named.or(reader.keyword_any_case("bios")),
            bios_path: reader.path("bios_path_override"),
            firmware_path: path.or(reader.path("firmware_override")),
            disk_controller: reader.keyword_any_case("hdtype"),
            switches: HvmSwitches::read(reader),
            viridian: read_viridian(reader),
            mmio_hole_mib: reader
                .u32("mmio_hole", "a number of MiB", 256..=3840)
                .map(u64::from),
            smbios: read_smbios(reader),
            smbios_path: reader.path("smbios_firmware"),
            acpi_path: reader.path("acpi_firmware"),
            generation_id: read_generation_id(reader),
            local_mce: read_mca_caps(reader),
            vga: read_vga(reader),
            video_ram_mib: read_mib(reader, "videoram"),
            graphics_passthrough: read_graphics_passthrough(reader),
            spice: Spice::read(reader),
            serial: read_one_or_many(reader, "serial"),
            usb_version: reader
                .u32("usbversion", "a USB version", 0..=3)
                .filter(|&version| version != 0),
            usb_devices: read_one_or_many(reader, "usbdevice"),
            sound: reader.string("soundhw"),
            vendor_device: reader.keyword_any_case("vendor_device"),
            rdm: Rdm::read(reader),
        };
        hvm.check_usb(reader);
        hvm.check_video_ram(reader);
        hvm
    }

    fn check_usb(&self, reader: &mut Reader<'_>) {
        if self.switches.usb != Some(true) && self.usb_devices.is_empty() {
            return;
        }
        let redirects =
            self.spice.enabled == Some(true) && self.spice.usb_redirection.is_some_and(|nr| nr > 0);
        for (key, is_on) in [
            ("usbversion", self.usb_version.is_some()),
            ("spiceusbredirection", redirects),
        ] {
            if let (true, Some(span)) = (is_on, reader.span(key)) {
                let help = format!("take `{key}` out, or `usb` and `usbdevice`");
                let message = format!("`{key}` does not go with `usb` and `usbdevice`");
                reader.error(Code::Conflict, span, message, help);
            }
        }
    }

    fn check_video_ram(&self, reader: &mut Reader<'_>) {
        let least = match self.vga {
            Some(Vga::Qxl) => 128,
            Some(Vga::Std) => 16,
            Some(Vga::None) => 0,
            Some(Vga::Cirrus) | None => 8,
        };
        if let (Some(size), Some(span)) = (
            self.video_ram_mib.filter(|&size| size < least),
            reader.span("videoram"),
        ) {
            let message =
                format!("the graphics card needs {least} MiB at least; `videoram` gives {size}");
            let remedy = reader.take_out("videoram", " for the usual size");
            reader.error(Code::OutOfRange, span, message, remedy);
        }
    }
}

impl HvmSwitches {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            pae: reader.flag("pae"),
            acpi_s3: reader.flag("acpi_s3"),
            acpi_s4: reader.flag("acpi_s4"),
            acpi_laptop_slate: reader.flag("acpi_laptop_slate"),
            apic: reader.flag("apic"),
            nx: reader.flag("nx"),
            hpet: reader.flag("hpet"),
            pirq: reader.flag("hvm_pirq"),
            vpt_align: reader.flag("vpt_align"),
            no_graphic: reader.flag("nographic"),
            usb: reader.flag("usb"),
            keyboard: reader.flag("vkb_device"),
            platform_pci: reader.flag("xen_platform_pci"),
            platform_pci_uncacheable: reader.flag("xen_platform_pci_bar_uc"),
        }
    }
}

/// Splits `firmware` of an HVM guest: a firmware's name, or a path. `bios` is the default.
fn split_firmware(firmware: Option<&str>) -> (Option<Bios>, Option<String>) {
    match firmware {
        None | Some("bios") => (None, None),
        Some("uefi") => (Some(Bios::Ovmf), None),
        Some(other) => match Bios::find_any_case(other) {
            Some(bios) => (Some(bios), None),
            None => (None, Some(other.to_owned())),
        },
    }
}

fn read_boot_order(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("boot")?;
    if text.text.is_empty()
        || !text
            .text
            .chars()
            .all(|c| matches!(c, 'a' | 'c' | 'd' | 'n'))
    {
        let help = "write letters in the order to try: `c` disk, `d` CD, `n` network";
        reader.error(
            Code::BadValue,
            text.whole_if_all(),
            format!("`boot` cannot be `{}`", text.text),
            help,
        );
        return None;
    }
    Some(text.text.to_owned())
}

/// `viridian` is a list of groups, or a boolean for the default groups.
fn read_viridian(reader: &mut Reader<'_>) -> ViridianSet {
    let mut set = ViridianSet::default();
    let Some(setting) = reader.setting("viridian") else {
        return set;
    };
    if !matches!(setting.value.kind, NodeKind::List(_)) {
        let on = reader.flag("viridian").unwrap_or(false);
        let groups = on.then(|| Value::Atom("defaults".to_owned()));
        let remedy = setting.write(&Value::List(groups.into_iter().collect()), "");
        reader.warn(
            Code::Deprecated,
            setting.value.span,
            "`viridian` as a number is deprecated",
            remedy,
        );
        return ViridianSet {
            defaults: on,
            ..set
        };
    }
    for text in reader.texts("viridian") {
        match text.text {
            "all" => set.enabled = Viridian::ALL.iter().map(|(_, group)| *group).collect(),
            "defaults" => set.defaults = true,
            _ => {
                let (off, name) = text
                    .strip_prefix("!")
                    .map_or((false, text), |name| (true, name));
                let Some(group) =
                    reader.keyword_in(name, "a group of `viridian`", Viridian::find_any_case)
                else {
                    continue;
                };
                let (to, from) = if off {
                    (&mut set.disabled, &mut set.enabled)
                } else {
                    (&mut set.enabled, &mut set.disabled)
                };
                from.retain(|other| *other != group);
                if !to.contains(&group) {
                    to.push(group);
                }
            }
        }
    }
    set
}

fn read_smbios(reader: &mut Reader<'_>) -> Vec<(SmbiosField, String)> {
    let mut fields = Vec::new();
    for text in reader.texts("smbios") {
        let Some((name, value)) = text
            .split_once('=')
            .filter(|(_, value)| !value.text.is_empty())
        else {
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                "this gives no SMBIOS string",
                "write name and value, as in `bios_vendor=Name`",
            );
            continue;
        };
        match SmbiosField::find_any_case(name.text) {
            Some(field) => fields.push((field, value.text.to_owned())),
            None => {
                let remedy =
                    reader.did_you_mean(name, SmbiosField::ALL.iter().map(|(name, _)| *name));
                reader.error(
                    Code::UnknownName,
                    name.span(),
                    format!("there is no SMBIOS string `{}`", name.text),
                    remedy,
                );
            }
        }
    }
    let nr_oem = fields
        .iter()
        .filter(|(field, _)| *field == SmbiosField::Oem)
        .count();
    if let (100.., Some(span)) = (nr_oem, reader.span("smbios")) {
        reader.error(
            Code::OutOfRange,
            span,
            format!("there are {nr_oem} strings `oem`"),
            "99 are the most",
        );
    }
    fields
}

fn read_generation_id(reader: &mut Reader<'_>) -> bool {
    let Some(text) = reader.text("ms_vm_genid") else {
        return false;
    };
    if !matches!(text.text, "generate" | "none") {
        let help = "write `generate` or `none`";
        reader.error(
            Code::BadValue,
            text.whole_if_all(),
            format!("`ms_vm_genid` cannot be `{}`", text.text),
            help,
        );
    }
    text.text == "generate"
}

fn read_mca_caps(reader: &mut Reader<'_>) -> bool {
    let mut local = false;
    for text in reader.texts("mca_caps") {
        if text.text == "lmce" {
            local = true;
        } else {
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                format!("there is no MCA capability `{}`", text.text),
                "known is `lmce`",
            );
        }
    }
    local
}

fn read_vga(reader: &mut Reader<'_>) -> Option<Vga> {
    if reader.is_set("vga") {
        return reader.keyword("vga");
    }
    reader
        .flag("stdvga")
        .map(|standard| if standard { Vga::Std } else { Vga::Cirrus })
}

/// `gfx_passthru` is a boolean or a kind.
fn read_graphics_passthrough(reader: &mut Reader<'_>) -> Option<GraphicsPassthrough> {
    let text = reader.text("gfx_passthru")?;
    match crate::number::parse(text.text) {
        Ok(0) => Some(GraphicsPassthrough::Off),
        Ok(_) => Some(GraphicsPassthrough::Default),
        Err(_) => reader.keyword_any_case("gfx_passthru"),
    }
}

/// A list of texts, or one text.
fn read_one_or_many(reader: &mut Reader<'_>, key: &str) -> Vec<String> {
    match reader.setting(key).map(|setting| &setting.value.kind) {
        Some(NodeKind::List(_)) => reader.strings(key),
        Some(_) => reader.string(key).into_iter().collect(),
        None => Vec::new(),
    }
}
