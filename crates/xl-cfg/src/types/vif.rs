//! Virtual network interfaces (xl-network-configuration(5)).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::params::{Param, split};
use super::rate::Rate;
use crate::diag::{Code, Diagnostic, Remedy};
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::source::Span;
use crate::syntax::Text;

const KEY: &str = "vif";

keywords! {
    /// The kind of interface that an HVM guest sees.
    VifType {
        /// An emulated card besides the paravirtual one.
        Ioemu = "ioemu",
        /// The paravirtual one alone.
        Vif = "vif",
    }
}

/// A hardware address. Serialises as `00:16:3e:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Parses six groups of one or two hexadecimal digits with `:` or `-` between them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let separator = if text.contains(':') { ':' } else { '-' };
        let mut bytes = [0; 6];
        let mut groups = text.split(separator);
        for byte in &mut bytes {
            let group = groups.next()?;
            let is_hex =
                (1..=2).contains(&group.len()) && group.chars().all(|c| c.is_ascii_hexdigit());
            *byte = is_hex
                .then(|| u8::from_str_radix(group, 16).ok())
                .flatten()?;
        }
        groups.next().is_none().then_some(Self(bytes))
    }

    /// Whether it addresses a group, so that no interface can have it.
    #[must_use]
    pub fn is_multicast(&self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no hardware address")))
    }
}

/// One virtual network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vif {
    /// Its hardware address; `None`: a new one of Xen's range.
    pub mac: Option<Mac>,
    /// The bridge that it joins; `None`: the host's default.
    pub bridge: Option<String>,
    /// The device through which the routing script sends.
    pub gateway_dev: Option<String>,
    /// The kind of interface that an HVM guest sees.
    pub vif_type: Option<VifType>,
    /// The emulated card.
    pub model: Option<String>,
    /// Name of the backend's device.
    pub name: Option<String>,
    /// The hotplug script; `None`: the host's default.
    pub script: Option<String>,
    /// The guest's address, for the script.
    pub ip: Option<String>,
    /// The domain that serves it; `None`: domain 0.
    pub backend: Option<String>,
    /// Limit on the guest's transmit rate.
    pub rate: Option<Rate>,
    /// Number of the device; `None`: its position in the list.
    pub devid: Option<u32>,
    /// Largest packet, in bytes.
    pub mtu_bytes: Option<u32>,
    /// The VLANs, in the script's format.
    pub vlan: Option<String>,
    /// Whether the guest should trust the backend; default yes.
    pub trusted: Option<bool>,
    /// COLO settings by name (unstable, as in xl).
    pub colo: BTreeMap<String, String>,
}

impl Vif {
    /// Reads the setting `vif`.
    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Vec<Self> {
        let mut places: BTreeMap<[u8; 6], Span> = BTreeMap::new();
        let mut vifs = Vec::new();
        for text in reader.texts(KEY) {
            let vif = parse(reader, text);
            let other = vif
                .mac
                .and_then(|mac| Some((mac, places.insert(mac.0, text.whole())?)));
            if let Some((mac, span)) = other {
                let message = format!("two interfaces have the address {mac}");
                reader.diags.push(
                    Diagnostic::warning(Code::Conflict, text.whole_if_all(), message)
                        .note_at(span, "the other one is here")
                        .help("give each interface an address of its own"),
                );
            }
            vifs.push(vif);
        }
        vifs
    }
}

const NAMES: [&str; 16] = [
    "mac",
    "bridge",
    "gatewaydev",
    "type",
    "model",
    "vifname",
    "script",
    "ip",
    "backend",
    "rate",
    "devid",
    "mtu",
    "vlan",
    "trusted",
    "untrusted",
    "forwarddev",
];

fn parse(reader: &mut Reader<'_>, text: Text<'_>) -> Vif {
    let mut vif = Vif::default();
    for param in split(text) {
        apply(&mut vif, reader, &param.trimmed());
    }
    vif
}

fn apply(vif: &mut Vif, reader: &mut Reader<'_>, param: &Param<'_>) {
    match param.name.text {
        "mac" => vif.mac = read_mac(reader, param),
        "bridge" => vif.bridge = param.string(reader),
        "gatewaydev" => vif.gateway_dev = param.string(reader),
        "netdev" => {
            let edit = param.name.replaced("gatewaydev");
            reader.warn(
                Code::Deprecated,
                param.name.span(),
                "`netdev` is deprecated",
                Remedy::new("write `gatewaydev`", edit),
            );
            vif.gateway_dev = param.string(reader);
        }
        "type" => vif.vif_type = read_type(reader, param),
        "model" => vif.model = param.string(reader),
        "vifname" => vif.name = read_name(reader, param),
        "script" => vif.script = param.string(reader),
        "ip" => vif.ip = param.string(reader),
        "backend" => vif.backend = param.string(reader),
        "rate" => vif.rate = read_rate(reader, param),
        "devid" => vif.devid = param.u32(reader, "a device's number", 0..=i32::MAX.unsigned_abs()),
        "mtu" => vif.mtu_bytes = param.u32(reader, "a number of bytes", 68..=65535),
        "vlan" => vif.vlan = param.string(reader),
        "trusted" if param.value.is_none() => vif.trusted = Some(true),
        "untrusted" if param.value.is_none() => vif.trusted = Some(false),
        "accel" => {
            let edit = param.replaced("");
            reader.warn(
                Code::NoEffect,
                param.name.span(),
                "`accel` has no effect",
                Remedy::new("take it out", edit),
            );
        }
        name if name == "forwarddev" || name.starts_with("colo_") => {
            if let Some(value) = param.string(reader) {
                vif.colo.insert(name.to_owned(), value);
            }
        }
        // An interface without this parameter may join another network than intended.
        _ => param.unknown(reader, KEY, NAMES.into_iter()),
    }
}

/// libvirt calls `vif` by the name of Linux' driver.
fn read_type(reader: &mut Reader<'_>, param: &Param<'_>) -> Option<VifType> {
    match param.value.filter(|value| value.text == "netfront") {
        Some(value) => {
            let message = "there is no type `netfront`; taken for `vif`";
            let remedy = Remedy::new("write `type=vif`", value.replaced("vif"));
            reader.warn(Code::Deprecated, value.span(), message, remedy);
            Some(VifType::Vif)
        }
        None => param.keyword(reader),
    }
}

fn read_mac(reader: &mut Reader<'_>, param: &Param<'_>) -> Option<Mac> {
    let value = param.wanted_value(reader)?;
    let Some(mac) = Mac::parse(value.text) else {
        let message = format!("`{}` is no hardware address", value.text);
        reader.error(
            Code::BadValue,
            value.span(),
            message,
            "write six bytes, as in `mac=00:16:3e:00:00:01`",
        );
        return None;
    };
    if mac.is_multicast() || mac.0 == [0; 6] {
        let message = format!("no interface can have the address {mac}");
        let help = "the first byte has to be even and not all can be 0; Xen's own range is 00:16:3e:xx:xx:xx";
        reader.error(Code::BadValue, value.span(), message, help);
        return None;
    }
    Some(mac)
}

/// Linux device names have 15 bytes at most, and no blanks or slashes.
fn read_name(reader: &mut Reader<'_>, param: &Param<'_>) -> Option<String> {
    let value = param.wanted_value(reader)?;
    let fits = (1..=15).contains(&value.text.len())
        && !value.text.contains(['/', ' ', '\t', ':'])
        && !matches!(value.text, "." | "..");
    if !fits {
        let message = format!("`{}` is no name for a network device", value.text);
        reader.error(
            Code::BadValue,
            value.span(),
            message,
            "it has 15 bytes at most, and no blanks, slashes or colons",
        );
        return None;
    }
    Some(value.text.to_owned())
}

fn read_rate(reader: &mut Reader<'_>, param: &Param<'_>) -> Option<Rate> {
    let value = param.wanted_value(reader)?;
    match Rate::parse(value.text) {
        Ok(rate) => Some(rate),
        Err(why) => {
            let help = "write a number and its unit, as in `rate=10Mb/s` (bits), `rate=1MB/s` (bytes) or `rate=1MB/s@20ms`";
            reader.error(
                Code::BadValue,
                value.span(),
                format!("`{}` is no rate: {why}", value.text),
                help,
            );
            None
        }
    }
}
