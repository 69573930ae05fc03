//! Host PCI devices passed through (xl-pci-configuration(5)), and reserved memory of devices.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::params::split;
use crate::diag::{Code, Remedy};
use crate::keyword::keywords;
use crate::number::parse_digits;
use crate::reader::Reader;
use crate::syntax::Text;

const KEY: &str = "pci";

keywords! {
    /// The reaction when a device's reserved memory collides with the guest's.
    RdmPolicy {
        /// The guest is refused.
        Strict = "strict",
        /// The guest is taken, with a warning.
        Relaxed = "relaxed",
    }
}

/// The place of a PCI device: `0000:03:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// Segment ("domain"), 16 bits.
    pub segment: u16,
    /// PCI bus number.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7; `None`: all of them (`*`).
    pub function: Option<u8>,
}

impl PciAddress {
    /// Parses `[SSSS:]BB:DD.F` or `[SSSS:]BB:DD.*`, all hexadecimal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (place, function) = text.split_once('.')?;
        let mut parts = place.rsplit(':');
        let (device, bus, segment) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
        let hex = |text: &str, most: u64| parse_digits(text, 16).filter(|&number| number <= most);
        let function = if function == "*" {
            None
        } else {
            Some(u8::try_from(hex(function, 7)?).ok()?)
        };
        let address = Self {
            segment: u16::try_from(hex(segment, 0xffff)?).ok()?,
            bus: u8::try_from(hex(bus, 0xff)?).ok()?,
            device: u8::try_from(hex(device, 0x1f)?).ok()?,
            function,
        };
        parts.next().is_none().then_some(address)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.",
            self.segment, self.bus, self.device
        )?;
        match self.function {
            Some(function) => write!(f, "{function:x}"),
            None => f.write_str("*"),
        }
    }
}

/// Which host device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PciWhich {
    /// The one at this address.
    Address(PciAddress),
    /// The one that was made assignable under this name.
    Name(String),
}

/// One host PCI device for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// Which host device.
    pub which: PciWhich,
    /// The slot at which the guest sees it, 0 to 31.
    pub virtual_slot: Option<u8>,
    /// Whether the guest may write to all of its configuration space.
    pub permissive: bool,
    /// Whether MSIs are translated.
    pub msi_translate: bool,
    /// Whether it is taken from its host driver by force.
    pub seize: bool,
    /// Whether the guest may put it to sleep.
    pub power_management: bool,
    /// The reaction when its reserved memory collides with the guest's.
    pub rdm_policy: Option<RdmPolicy>,
}

/// Reads `pci` and its defaults.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<PciDevice> {
    let defaults = PciDevice {
        which: PciWhich::Name(String::new()),
        virtual_slot: None,
        permissive: reader.flag("pci_permissive").unwrap_or(false),
        msi_translate: reader.flag("pci_msitranslate").unwrap_or(false),
        seize: reader.flag("pci_seize").unwrap_or(false),
        power_management: reader.flag("pci_power_mgmt").unwrap_or(false),
        rdm_policy: None,
    };
    let texts = reader.texts(KEY);
    texts
        .into_iter()
        .filter_map(|text| parse(reader, text, defaults.clone()))
        .collect()
}

const NAMES: [&str; 8] = [
    "bdf",
    "vslot",
    "permissive",
    "msitranslate",
    "seize",
    "power_mgmt",
    "rdm_policy",
    "name",
];

fn parse(reader: &mut Reader<'_>, text: Text<'_>, defaults: PciDevice) -> Option<PciDevice> {
    let mut device = defaults;
    let mut which = None;
    for (index, param) in split(text).enumerate() {
        match param.name.text {
            _ if param.value.is_none() && index == 0 => {
                let (address, slot) = param
                    .name
                    .split_once('@')
                    .map_or((param.name, None), |(a, b)| (a, Some(b)));
                which = Some(PciWhich::Address(read_address(reader, address)?));
                device.virtual_slot = match slot {
                    Some(slot) => Some(read_slot(reader, slot)?),
                    None => None,
                };
            }
            "bdf" => {
                let value = param.wanted_value(reader)?;
                which = Some(PciWhich::Address(read_address(reader, value)?));
            }
            "name" => {
                let name = param.string(reader)?;
                if which.is_some() {
                    let help = "write one of them";
                    reader.error(
                        Code::Conflict,
                        param.name.span(),
                        "a device has an address or a name, not both",
                        help,
                    );
                    return None;
                }
                which = Some(PciWhich::Name(name));
            }
            "vslot" => {
                let value = param.wanted_value(reader)?;
                device.virtual_slot = Some(read_slot(reader, value)?);
            }
            "permissive" => device.permissive = param.flag(reader)?,
            "msitranslate" => device.msi_translate = param.flag(reader)?,
            "seize" => device.seize = param.flag(reader)?,
            "power_mgmt" => device.power_management = param.flag(reader)?,
            "rdm_policy" => device.rdm_policy = Some(param.keyword_any_case(reader)?),
            _ => {
                param.unknown(reader, KEY, NAMES.into_iter());
                return None;
            }
        }
    }
    let Some(which) = which else {
        let help = "write the host's address, as in `03:00.0`";
        reader.error(
            Code::Missing,
            text.whole_if_all(),
            "this names no PCI device",
            help,
        );
        return None;
    };
    Some(PciDevice { which, ..device })
}

fn read_address(reader: &mut Reader<'_>, text: Text<'_>) -> Option<PciAddress> {
    let address = PciAddress::parse(text.text);
    if address.is_none() {
        let message = format!("`{}` is no address of a PCI device", text.text);
        reader.error(
            Code::BadValue,
            text.span(),
            message,
            "write it as lspci does: `03:00.0` or `0000:03:00.0`",
        );
    }
    address
}

fn read_slot(reader: &mut Reader<'_>, text: Text<'_>) -> Option<u8> {
    let digits = text.text.strip_prefix("0x").unwrap_or(text.text);
    let slot = parse_digits(digits, 16)
        .filter(|&slot| slot <= 0x1f)
        .and_then(|slot| u8::try_from(slot).ok());
    if slot.is_none() {
        let message = format!("`{}` is no PCI slot", text.text);
        reader.error(
            Code::BadValue,
            text.span(),
            message,
            "write a hexadecimal number from 0 to 1f",
        );
    }
    slot
}

/// Treatment of memory that devices reserve (`rdm`, HVM).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdm {
    /// Whether all of the host's reserved regions are kept free (`strategy=host`).
    pub all_of_host: bool,
    /// The reaction to a collision.
    pub policy: Option<RdmPolicy>,
    /// The boundary in MiB above which low memory is moved out of the way (`rdm_mem_boundary`).
    pub boundary_mib: Option<u64>,
}

impl Rdm {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut rdm = Self {
            boundary_mib: super::memory::read_mib(reader, "rdm_mem_boundary"),
            ..Self::default()
        };
        let Some(text) = reader.text("rdm") else {
            return rdm;
        };
        for param in split(text) {
            match (param.name.text, param.value.map(|value| value.text)) {
                ("strategy", Some("host")) => rdm.all_of_host = true,
                ("strategy", Some(_)) => {
                    let help = "write `strategy=host`";
                    reader.error(
                        Code::BadValue,
                        param.name.span(),
                        "`strategy` can only be `host`",
                        Remedy::new(help, param.replaced("strategy=host")),
                    );
                }
                ("policy", Some(_)) => rdm.policy = param.keyword_any_case(reader),
                _ => param.unknown(reader, "rdm", ["strategy", "policy"].into_iter()),
            }
        }
        rdm
    }
}

#[cfg(test)]
mod tests {
    use super::PciAddress;

    #[test]
    fn addresses() {
        for (text, printed) in [
            ("03:00.0", "0000:03:00.0"),
            ("1:2.3", "0000:01:02.3"),
            ("abcd:ff:1f.7", "abcd:ff:1f.7"),
            ("0:0.*", "0000:00:00.*"),
        ] {
            assert_eq!(
                PciAddress::parse(text).unwrap().to_string(),
                printed,
                "{text}"
            );
        }
        for text in [
            "",
            "03:00",
            "03:00.8",
            "03:20.0",
            "100:00.0",
            "1:2:3:4.5",
            "10000:03:00.0",
            ".0",
            ":.",
            "03:00.0 ",
        ] {
            assert_eq!(PciAddress::parse(text), None, "{text}");
        }
    }
}
