//! A PCI device of the host that a VM has, decided.

use std::collections::BTreeSet;

use xen_port::{GuestKind, PciSbdf};
use xl_cfg::types::{self, PciWhich, RdmPolicy};

/// Longest name of a device in bytes, as in libxl.
const NAME_MAX_BYTES: usize = 64;

/// A PCI device of the host that a VM is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedPci {
    /// The device itself.
    pub which: Which,
    /// Its place on the guest's bus, if the configuration says one: device and function in five and three bits.
    pub virtual_devfn: Option<u8>,
    /// Whether the guest may write to all of its configuration space.
    pub is_permissive: bool,
    /// Whether message-signalled interrupts are translated. libxl writes it down; nothing reads it for a PV guest.
    pub msi_translate: bool,
    /// Whether the guest may change its power state. libxl writes it down; nothing reads it for a PV guest.
    pub power_management: bool,
    /// Whether it is made assignable if it is not.
    pub is_seized: bool,
    /// Whether memory that the firmware reserves for it is no obstacle.
    pub is_relaxed: bool,
}

/// The way in which a configuration names a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// By its address.
    Address(PciSbdf),
    /// By the name that it got when it was made assignable.
    Name(String),
}

impl PassedPci {
    /// All devices of a configuration, or why Xyl cannot give one to the guest.
    ///
    /// # Errors
    /// A text that names the device and what to do instead.
    pub fn all_of_config(
        devices: &[types::PciDevice],
        kind: GuestKind,
    ) -> Result<Vec<PassedPci>, String> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        if kind != GuestKind::Pv {
            return Err("Xen gives no PCI devices to PVH guests: use type=\"pv\"".to_owned());
        }
        let all: Result<Vec<PassedPci>, String> =
            devices.iter().map(PassedPci::of_config).collect();
        let all = all?;
        let mut seen = BTreeSet::new();
        match all.iter().find(|device| !seen.insert(device.which.clone())) {
            Some(twice) => Err(format!("{} is there twice", twice.what())),
            None => Ok(all),
        }
    }

    fn of_config(device: &types::PciDevice) -> Result<PassedPci, String> {
        Ok(PassedPci {
            which: match &device.which {
                PciWhich::Address(address) => Which::Address(function_of(*address)?),
                PciWhich::Name(name) => Which::Name(checked_name(name)?),
            },
            virtual_devfn: device.virtual_slot.map(|slot| slot << 3),
            is_permissive: device.permissive,
            msi_translate: device.msi_translate,
            power_management: device.power_management,
            is_seized: device.seize,
            is_relaxed: device.rdm_policy == Some(RdmPolicy::Relaxed),
        })
    }

    /// The device in words, beginning with its setting in xl.cfg.
    pub fn what(&self) -> String {
        match &self.which {
            Which::Address(address) => format!("pci `{address}`"),
            Which::Name(name) => format!("pci `name={name}`"),
        }
    }

    /// The device as xl.cfg says it. It repeats the defaults, since those of `pci_permissive` and others may stand beside it.
    pub fn cfg_text(&self) -> String {
        let mut text = match &self.which {
            Which::Address(address) => address.to_string(),
            Which::Name(name) => format!("name={name}"),
        };
        if let Some(devfn) = self.virtual_devfn {
            text += &format!(",vslot={:x}", devfn >> 3);
        }
        for (name, value) in [
            ("permissive", self.is_permissive),
            ("msitranslate", self.msi_translate),
            ("power_mgmt", self.power_management),
            ("seize", self.is_seized),
        ] {
            text += &format!(",{name}={}", u8::from(value));
        }
        text + ",rdm_policy=" + self.rdm_policy()
    }

    /// The word of `rdm_policy`. `strict` is libxl's default.
    pub fn rdm_policy(&self) -> &'static str {
        match self.is_relaxed {
            true => "relaxed",
            false => "strict",
        }
    }
}

fn function_of(address: types::PciAddress) -> Result<PciSbdf, String> {
    let function = address.function.ok_or_else(|| {
        format!("pci `{address}`: Xyl gives single functions to a guest: write a line for each")
    })?;
    Ok(PciSbdf::new(
        address.segment,
        address.bus,
        address.device,
        function,
    ))
}

fn checked_name(name: &str) -> Result<String, String> {
    let is_printable = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b',');
    match !name.is_empty() && name.len() <= NAME_MAX_BYTES && is_printable {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "pci `name={name}`: a name has up to {NAME_MAX_BYTES} printable ASCII characters, without spaces and commas"
        )),
    }
}
