//! A network interface of a VM, decided: what Xyl can serve and nothing else.

use std::collections::BTreeSet;

use os_port::LinkName;
use uuid::Uuid;
use xen_port::DomId;
use xl_cfg::types::{self, Mac, Rate, VifType};

use crate::EngineError;
use crate::error::DeviceError;
use crate::vm::words::{backend_of, refuse_word, script_path};

/// The bridge of interfaces that name none, where xl.conf names none either.
const DEFAULT_BRIDGE: &str = "xenbr0";
/// The name of Xen's script for bridges, whose work Xyl does itself.
const BRIDGE_SCRIPT: &str = "vif-bridge";
/// End of that script's path, wherever Xen is installed.
const BRIDGE_SCRIPT_END: &str = "/xen/scripts/vif-bridge";
/// That script's path, as libxl writes it.
const BRIDGE_SCRIPT_PATH: &str = "/etc/xen/scripts/vif-bridge";
/// Highest number of an interface: the name `vifD.N` and netback's device in sysfs have a maximum length.
const DEVID_MAX: u32 = 9999;
/// Highest number of an interface with an emulated card: the name `vifD.N-emu` has a maximum length.
const DEVID_OF_CARD_MAX: u32 = 99;
/// Highest number of a domain (`DOMID_FIRST_RESERVED` of Xen's public header, minus 1).
const DOMID_MAX: DomId = DomId(0x7fef);
/// The first bytes of the addresses of Xen's guests.
const XEN_PREFIX: [u8; 3] = [0x00, 0x16, 0x3e];

/// The way in which the host's end of an interface is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetUp {
    /// Xyl makes it a port of this bridge, as Xen's script vif-bridge does.
    Bridge(LinkName),
    /// A script sets it up.
    Script(Script),
}

/// A hot-plug script, and what it alone reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its absolute path.
    pub path: String,
    /// The bridge. For vif-openvswitch it may have VLANs, as in `br0.100:200:300`.
    pub bridge: String,
    /// The VLANs, in the script's format.
    pub vlan: Option<String>,
}

/// A network interface that a kernel (netback) serves: domain 0's or that of a driver domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Number of the interface.
    pub devid: u32,
    /// Ethernet address of the guest's end.
    pub mac: Mac,
    /// The way in which the host's end is set up.
    pub set_up: SetUp,
    /// Name of the host's end; `None` for `vifD.N`.
    pub name: Option<LinkName>,
    /// The guest's addresses, for scripts.
    pub ip: Option<String>,
    /// The device through which scripts send.
    pub gateway_dev: Option<LinkName>,
    /// Limit on the guest's transmit rate.
    pub rate: Option<Rate>,
    /// Largest packet in bytes; `None` for the bridge's.
    pub mtu_bytes: Option<u32>,
    /// Whether the guest is to trust its backend; `None` for yes if that is in domain 0.
    pub trusted: Option<bool>,
    /// The domain that serves it, by its name; `None` for domain 0.
    pub backend: Option<String>,
    /// The card of the guest's machine that has the same address.
    pub card: Card,
}

/// The network card of the emulated machine beside an interface, which the guest's PV drivers unplug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Card {
    /// The guest has no emulated machine: it is a PV or PVH guest.
    #[default]
    NoMachine,
    /// The machine has no card: PV drivers alone have the interface.
    Paravirtual,
    /// The machine has a card of this model.
    Emulated(CardModel),
}

/// A model of network cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardModel {
    /// Realtek's 8139, libxl's default.
    Rtl8139,
    /// The 82540EM of Intel.
    E1000,
    /// The 82574L of Intel.
    E1000e,
    /// AMD's PCnet-PCI II.
    Pcnet,
    /// Card with the interface of an NE2000.
    Ne2kPci,
    /// Virtio's network card.
    Virtio,
}

impl CardModel {
    /// All of them, with the words of xl.cfg and QEMU.
    const ALL: [(CardModel, &'static str); 6] = [
        (CardModel::Rtl8139, "rtl8139"),
        (CardModel::E1000, "e1000"),
        (CardModel::E1000e, "e1000e"),
        (CardModel::Pcnet, "pcnet"),
        (CardModel::Ne2kPci, "ne2k_pci"),
        (CardModel::Virtio, "virtio-net-pci"),
    ];

    /// The word of xl.cfg, which is the name of QEMU's device.
    pub fn word(self) -> &'static str {
        let mut all = CardModel::ALL.iter();
        let found = all.find(|(model, _)| *model == self);
        found.map_or("", |(_, word)| word)
    }

    fn find(word: &str) -> Option<CardModel> {
        // QEMU's other name for it.
        let word = match word {
            "virtio-net" => "virtio-net-pci",
            other => other,
        };
        let mut all = CardModel::ALL.iter();
        let found = all.find(|(_, known)| *known == word);
        found.map(|(model, _)| *model)
    }
}

impl Card {
    /// The model of the card; `None` without one.
    pub fn model(self) -> Option<CardModel> {
        match self {
            Card::Emulated(model) => Some(model),
            Card::NoMachine | Card::Paravirtual => None,
        }
    }

    /// libxl's word of an interface with this card (`libxl_nic_type`).
    pub fn nic_type(self) -> &'static str {
        match self {
            Card::NoMachine | Card::Paravirtual => "vif",
            Card::Emulated(_) => "vif_ioemu",
        }
    }

    /// The parts of the description in xl.cfg.
    fn parts(self) -> Vec<String> {
        match self {
            Card::NoMachine => Vec::new(),
            Card::Paravirtual => vec!["type=vif".to_owned()],
            Card::Emulated(model) => {
                vec!["type=ioemu".to_owned(), format!("model={}", model.word())]
            }
        }
    }
}

/// The host's defaults of network interfaces from `/etc/xen/xl.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VifDefaults {
    /// The default bridge.
    pub bridge: Option<String>,
    /// The default script.
    pub script: Option<String>,
    /// The gateway device.
    pub gateway_dev: Option<String>,
    /// The domain with the backends.
    pub backend: Option<String>,
}

/// Reason why Xyl cannot serve these interfaces; `None` where it can. `has_machine`: the guest is an HVM guest.
pub fn why_not(vifs: &[types::Vif], has_machine: bool) -> Option<String> {
    let mut each = vifs.iter().enumerate();
    let refused = each.find_map(|(place, vif)| {
        let why = why_not_one(vif, has_machine)?;
        Some(format!("vif {}: {why}", vif.devid.unwrap_or(place as u32)))
    });
    refused.or_else(|| why_not_together(vifs))
}

/// The interfaces of a configuration. An interface without a number gets the first free one, and one without an address gets
/// the same one each time that a VM of this UUID is made.
///
/// # Errors
/// [`DeviceError::Unsupported`] if xl.conf asks for what Xyl does not do. [`why_not`] is about the configuration.
pub(crate) fn all_of_config(
    vifs: &[types::Vif],
    uuid: Uuid,
    defaults: &VifDefaults,
    has_machine: bool,
) -> Result<Vec<Nic>, EngineError> {
    let mut taken = Taken {
        devids: vifs.iter().filter_map(|vif| vif.devid).collect(),
        macs: vifs.iter().filter_map(|vif| vif.mac).collect(),
        names: Vec::new(),
    };
    let decide = |vif: &types::Vif| {
        let mut nic = taken.decide(vif, uuid, defaults)?;
        if has_machine {
            let card = card_of(vif, &nic);
            let what = |why: String| of(nic.devid, &why);
            nic.card = card.map_err(|why| DeviceError::Unsupported { what: what(why) })?;
        }
        Ok(nic)
    };
    vifs.iter().map(decide).collect()
}

/// The card of an HVM guest's interface. libxl emulates one unless the type says that it does not.
fn card_of(vif: &types::Vif, nic: &Nic) -> Result<Card, String> {
    if vif.vif_type == Some(VifType::Vif) {
        return Ok(Card::Paravirtual);
    }
    let is_asked_for = vif.vif_type == Some(VifType::Ioemu) || vif.model.is_some();
    let why = match (&nic.backend, nic.script()) {
        (Some(_), _) => "of a driver domain",
        (None, Some(_)) => "with a script",
        (None, None) => return emulated(vif, nic),
    };
    match is_asked_for {
        true => Err(format!(
            "the device model cannot emulate a card for an interface {why}: write `type=vif`, and the guest's PV drivers have it"
        )),
        false => Ok(Card::Paravirtual),
    }
}

fn emulated(vif: &types::Vif, nic: &Nic) -> Result<Card, String> {
    let model = match &vif.model {
        None => CardModel::Rtl8139,
        Some(word) => CardModel::find(word).ok_or_else(|| no_model(word))?,
    };
    if nic.name.is_none() && nic.devid > DEVID_OF_CARD_MAX {
        return Err(format!(
            "devid={} is more than {DEVID_OF_CARD_MAX}, the most for an emulated card: write `type=vif`, or another number",
            nic.devid
        ));
    }
    // The name without `vifname` has room then.
    nic.tap_name(DOMID_MAX).map_err(|_| {
        "the tap of the emulated card has the name of the interface with `-emu` behind it, of 15 bytes at most: write a `vifname` of 11 bytes at most".to_owned()
    })?;
    Ok(Card::Emulated(model))
}

fn no_model(word: &str) -> String {
    let words: Vec<&str> = CardModel::ALL.iter().map(|(_, word)| *word).collect();
    format!(
        "model={word} is not supported by Xyl: there are {}",
        words.join(", ")
    )
}

/// Whether an interface of an HVM guest has no card although its description does not say so.
pub fn is_without_card(vif: &types::Vif) -> bool {
    let nic = of_config(vif, 0, Mac([0; 6]), &VifDefaults::default());
    let card = nic.and_then(|nic| card_of(vif, &nic));
    vif.vif_type.is_none() && card == Ok(Card::Paravirtual)
}

/// An interface that a description says whole, with number and address. [`why_not`] is about the description.
///
/// # Errors
/// [`DeviceError::Unsupported`].
pub(crate) fn of_text(vif: &types::Vif) -> Result<Nic, EngineError> {
    let unsupported = |what| EngineError::from(DeviceError::Unsupported { what });
    let (Some(devid), Some(mac)) = (vif.devid, vif.mac) else {
        let what = "the interface has no number or no address: write `devid=` and `mac=`";
        return Err(unsupported(what.to_owned()));
    };
    let defaults = VifDefaults::default();
    of_config(vif, devid, mac, &defaults).map_err(|why| unsupported(of(devid, &why)))
}

/// The description of an interface with the host's defaults, for a VM that is to decide number and address. [`why_not`] is about the
/// description.
///
/// # Errors
/// [`DeviceError::Unsupported`].
pub(crate) fn with_defaults(
    vif: &types::Vif,
    defaults: &VifDefaults,
) -> Result<String, EngineError> {
    let unsupported = |what| EngineError::from(DeviceError::Unsupported { what });
    let (devid, mac) = (vif.devid.unwrap_or(0), vif.mac.unwrap_or(Mac([0; 6])));
    let nic = of_config(vif, devid, mac, defaults);
    let nic = nic.map_err(|why| unsupported(of(devid, &why)))?;
    let mut parts: Vec<String> = Vec::new();
    parts.extend(vif.devid.map(|devid| format!("devid={devid}")));
    parts.extend(vif.mac.map(|mac| format!("mac={mac}")));
    parts.extend(nic.parts(Some(nic.bridge())));
    Ok(parts.join(","))
}

/// Numbers, addresses and names of a VM's interfaces, which no other one of it may have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    /// Numbers of the interfaces.
    pub devids: BTreeSet<u32>,
    /// Addresses of the guest's ends.
    pub macs: Vec<Mac>,
    /// The names of their ends on the host that a configuration gives.
    pub names: Vec<String>,
}

impl Taken {
    /// Refuses an interface whose address or name another one of the VM has: the VM's next domain could not have both.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`].
    pub fn refuse_same(&self, nic: &Nic) -> Result<(), EngineError> {
        let name = nic.name.as_ref().map(LinkName::as_str);
        let has_name = self.names.iter().any(|one| name == Some(one.as_str()));
        let why = match (self.macs.contains(&nic.mac), has_name) {
            (true, _) => format!(
                "the VM has an interface with the address {}: write another `mac=`",
                nic.mac
            ),
            (false, true) => {
                "the VM has an interface with this name: write another `vifname=`".to_owned()
            }
            (false, false) => return Ok(()),
        };
        let what = of(nic.devid, &why);
        Err(DeviceError::Unsupported { what }.into())
    }

    /// Decides number and address of an interface, if its description does not, and adds them.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if xl.conf asks for what Xyl does not do.
    pub fn decide(
        &mut self,
        vif: &types::Vif,
        uuid: Uuid,
        defaults: &VifDefaults,
    ) -> Result<Nic, EngineError> {
        let devid = vif.devid.unwrap_or_else(|| first_free(&self.devids));
        self.devids.insert(devid);
        let mac = vif.mac.unwrap_or_else(|| derived(uuid, devid, &self.macs));
        self.macs.push(mac);
        let nic = of_config(vif, devid, mac, defaults);
        let what = |why: String| of(devid, &why);
        nic.map_err(|why| DeviceError::Unsupported { what: what(why) }.into())
    }
}

/// A reason with the interface that it is about.
fn of(devid: u32, why: &str) -> String {
    format!("{}: {why}", what(devid))
}

fn of_config(
    vif: &types::Vif,
    devid: u32,
    mac: Mac,
    defaults: &VifDefaults,
) -> Result<Nic, String> {
    let backend = vif.backend.as_ref().or(defaults.backend.as_ref());
    Ok(Nic {
        devid,
        mac,
        set_up: set_up(vif, defaults)?,
        name: vif.name.as_deref().map(link_name).transpose()?,
        ip: vif.ip.clone(),
        gateway_dev: gateway_dev(vif, defaults).map(link_name).transpose()?,
        rate: vif.rate,
        mtu_bytes: vif.mtu_bytes,
        trusted: vif.trusted,
        backend: backend_of(backend.map(String::as_str))?,
        card: Card::NoMachine,
    })
}

fn gateway_dev<'a>(vif: &'a types::Vif, defaults: &'a VifDefaults) -> Option<&'a str> {
    let chosen = vif.gateway_dev.as_deref();
    chosen.or(defaults.gateway_dev.as_deref())
}

fn set_up(vif: &types::Vif, defaults: &VifDefaults) -> Result<SetUp, String> {
    let bridge = vif.bridge.as_ref().or(defaults.bridge.as_ref());
    let bridge = bridge.map_or(DEFAULT_BRIDGE, String::as_str);
    let script = vif.script.as_ref().or(defaults.script.as_ref());
    let script = script.filter(|script| !is_bridge_script(script));
    let Some(script) = script else {
        return match &vif.vlan {
            Some(vlan) => Err(no_vlan(vlan)),
            None => Ok(SetUp::Bridge(link_name(bridge)?)),
        };
    };
    let words = [
        ("script", Some(script.as_str())),
        ("vlan", vif.vlan.as_deref()),
        ("vifname", vif.name.as_deref()),
        ("gatewaydev", gateway_dev(vif, defaults)),
    ];
    words.into_iter().try_for_each(refuse_word)?;
    refuse_bridge(Some(bridge))?;
    Ok(SetUp::Script(Script {
        path: script_path(script)?,
        bridge: bridge.to_owned(),
        vlan: vif.vlan.clone(),
    }))
}

/// Refuses a text that is no bridge, for whatever script.
fn refuse_bridge(bridge: Option<&str>) -> Result<(), String> {
    refuse_word(("bridge", bridge))?;
    match bridge.filter(|bridge| bridge.contains('/')) {
        Some(bridge) => Err(format!("bridge={bridge}: no bridge has a `/` in its name")),
        None => Ok(()),
    }
}

fn no_vlan(vlan: &str) -> String {
    format!(
        "vlan={vlan} is for a script that knows it, and the interface has none (`script=`): Xyl makes it a port of its bridge, \
         and sets no VLAN there. Make a bridge for each VLAN, and name it with `bridge=`"
    )
}

fn link_name(text: &str) -> Result<LinkName, String> {
    LinkName::parse(text).map_err(|error| error.to_string())
}

impl Nic {
    /// The interface as xl.cfg says it.
    pub fn cfg_text(&self) -> String {
        self.cfg_text_at(Some(self.bridge()))
    }

    /// The bridge, as the configuration names it.
    pub fn bridge(&self) -> &str {
        match &self.set_up {
            SetUp::Bridge(bridge) => bridge.as_str(),
            SetUp::Script(script) => &script.bridge,
        }
    }

    /// The script that sets the host's end up; `None` where Xyl does.
    pub fn script(&self) -> Option<&Script> {
        match &self.set_up {
            SetUp::Bridge(_) => None,
            SetUp::Script(script) => Some(script),
        }
    }

    /// Path of the script that another toolstack runs when it removes the interface.
    pub fn script_path(&self) -> &str {
        self.script()
            .map_or(BRIDGE_SCRIPT_PATH, |script| &script.path)
    }

    /// The VLANs, for the script.
    pub fn vlan(&self) -> Option<&str> {
        self.script()?.vlan.as_deref()
    }

    /// The same for another bridge. `None`: the host's default.
    pub fn cfg_text_at(&self, bridge: Option<&str>) -> String {
        let first = [format!("devid={}", self.devid), format!("mac={}", self.mac)];
        let parts: Vec<String> = first.into_iter().chain(self.parts(bridge)).collect();
        parts.join(",")
    }

    /// The parts of the description but number and address.
    fn parts(&self, bridge: Option<&str>) -> Vec<String> {
        let name = |name: &Option<LinkName>| name.as_ref().map(LinkName::to_string);
        let trust = self.trusted.map(|trusted| match trusted {
            true => "trusted".to_owned(),
            false => "untrusted".to_owned(),
        });
        let with_value = [
            ("backend", self.backend.clone()),
            ("bridge", bridge.map(str::to_owned)),
            ("script", self.script().map(|script| script.path.clone())),
            ("vlan", self.vlan().map(str::to_owned)),
            ("vifname", name(&self.name)),
            ("ip", self.ip.clone()),
            ("gatewaydev", name(&self.gateway_dev)),
            ("rate", self.rate.map(|rate| rate.to_string())),
            ("mtu", self.mtu_bytes.map(|bytes| bytes.to_string())),
        ];
        let with_value = with_value.into_iter();
        let parts = with_value.filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        parts.chain(trust).chain(self.card.parts()).collect()
    }

    /// Name of the tap that is the host's end of its emulated card, as libxl names it.
    ///
    /// # Errors
    /// That of a name which is too long. An interface of a plan has none.
    pub fn tap_name(&self, domid: DomId) -> std::io::Result<LinkName> {
        let of_vif = match &self.name {
            Some(name) => name.to_string(),
            None => format!("vif{domid}.{}", self.devid),
        };
        LinkName::parse(&format!("{of_vif}-emu"))
    }

    /// Whether the guest is to trust its backend. A driver domain's is not trusted unless the configuration says so.
    pub fn is_trusted(&self) -> bool {
        self.trusted.unwrap_or(self.backend.is_none())
    }

    /// The interface in words.
    pub fn what(&self) -> String {
        what(self.devid)
    }
}

/// The interface of this number, in words.
pub(crate) fn what(devid: u32) -> String {
    format!("vif {devid}")
}

/// The description of an interface of libxl's record, whose bridge or script may not be there: libxl writes none where the
/// configuration names none.
pub(crate) fn set_up_of_record(
    bridge: Option<&str>,
    script: Option<&str>,
    vlan: Option<&str>,
) -> Option<SetUp> {
    let vif = types::Vif {
        bridge: bridge.map(str::to_owned),
        script: script.map(str::to_owned),
        vlan: vlan.map(str::to_owned),
        ..types::Vif::default()
    };
    set_up(&vif, &VifDefaults::default()).ok()
}

fn first_free(taken: &BTreeSet<u32>) -> u32 {
    (0..).find(|devid| !taken.contains(devid)).unwrap_or(0)
}

/// An address of Xen's range that follows from the VM and the number, and that no other interface of the VM has.
fn derived(uuid: Uuid, devid: u32, taken: &[Mac]) -> Mac {
    let mut hash = fnv(uuid.as_bytes().iter().chain(&devid.to_be_bytes()));
    loop {
        let [.., high, middle, low] = hash.to_be_bytes();
        let [a, b, c] = XEN_PREFIX;
        // As in libxl, the highest bit is 0.
        let mac = Mac([a, b, c, high & 0x7f, middle, low]);
        if !taken.contains(&mac) {
            return mac;
        }
        hash = hash.wrapping_add(1);
    }
}

/// The hash FNV-1a of 64 bits, whose upper half is folded into the lower one.
fn fnv<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, step);
    hash ^ hash >> 32
}

/// Reason why Xyl cannot serve an interface.
fn why_not_one(vif: &types::Vif, has_machine: bool) -> Option<String> {
    if let Err(why) = backend_of(vif.backend.as_deref()) {
        return Some(why);
    }
    if vif.vif_type == Some(VifType::Ioemu) && !has_machine {
        return Some("type=ioemu is not for PV and PVH guests: take it out".to_owned());
    }
    if !vif.colo.is_empty() {
        return Some("COLO is not supported by Xyl".to_owned());
    }
    if let Some(devid) = vif.devid.filter(|devid| *devid > DEVID_MAX) {
        return Some(format!("devid={devid} is more than {DEVID_MAX}"));
    }
    if let Some(ip) = vif.ip.as_ref().filter(|ip| !is_plain(ip)) {
        return Some(format!(
            "ip={ip} has characters that are in no address: write addresses with blanks between them"
        ));
    }
    let mut names = [&vif.gateway_dev, &vif.name].into_iter().flatten();
    if let Some(why) = names.find_map(|name| link_name(name).err()) {
        return Some(why);
    }
    // Without `script=` the host's defaults decide what may stand there.
    let set_up = match &vif.script {
        Some(_) => set_up(vif, &VifDefaults::default()).map(drop),
        None => refuse_bridge(vif.bridge.as_deref()),
    };
    match has_machine {
        true => set_up.err().or_else(|| why_no_card(vif)),
        false => set_up.err(),
    }
}

fn why_no_card(vif: &types::Vif) -> Option<String> {
    let devid = vif.devid.unwrap_or(0);
    let nic = of_config(vif, devid, Mac([0; 6]), &VifDefaults::default()).ok()?;
    card_of(vif, &nic).err()
}

/// Reason why Xyl cannot serve interfaces of one VM together.
fn why_not_together(vifs: &[types::Vif]) -> Option<String> {
    let devids = vifs.iter().filter_map(|vif| vif.devid).map(|devid| {
        format!("two interfaces have the number {devid}: give each a `devid` of its own")
    });
    let macs = vifs
        .iter()
        .filter_map(|vif| vif.mac)
        .map(|mac| format!("two interfaces have the address {mac}: give each a `mac` of its own"));
    let names = vifs.iter().filter_map(|vif| vif.name.as_ref()).map(|name| {
        format!("two interfaces have the name {name}: give each a `vifname` of its own")
    });
    let mut seen = BTreeSet::new();
    let mut all = devids.chain(macs).chain(names);
    all.find(|text| !seen.insert(text.clone()))
}

/// Whether a script is the one whose work Xyl does itself.
pub(crate) fn is_bridge_script(script: &str) -> bool {
    script == BRIDGE_SCRIPT || script.ends_with(BRIDGE_SCRIPT_END)
}

/// Whether a text has only characters of addresses, and blanks.
fn is_plain(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "./:% -".contains(c);
    text.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Uuid = Uuid::from_u128(1);

    fn vifs(specs: &[&str]) -> Vec<types::Vif> {
        let list: Vec<String> = specs.iter().map(|spec| format!("'{spec}'")).collect();
        let list = list.join(", ");
        let text = format!("name = 'g'\nkernel = '/k'\ntype = 'pvh'\nvif = [ {list} ]\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        xl_cfg::parse::<&str>(source, &[]).unwrap().domain.vifs
    }

    fn nics(uuid: Uuid, specs: &[&str]) -> Vec<Nic> {
        let vifs = vifs(specs);
        assert_eq!(why_not(&vifs, false), None);
        all_of_config(&vifs, uuid, &VifDefaults::default(), false).unwrap()
    }

    #[test]
    fn an_interface_gets_a_number_a_bridge_and_an_address_that_stays() {
        let all = nics(ONE, &["", "devid=0", "bridge=br1", "script=vif-bridge"]);
        let devids: Vec<u32> = all.iter().map(|nic| nic.devid).collect();
        assert_eq!(devids, [1, 0, 2, 3]);
        let bridges: Vec<&str> = all.iter().map(Nic::bridge).collect();
        assert_eq!(bridges, ["xenbr0", "xenbr0", "br1", "xenbr0"]);
        for nic in &all {
            assert_eq!(nic.mac.0[..3], XEN_PREFIX);
            assert!(nic.mac.0[3] < 0x80);
        }
        assert_eq!(nics(ONE, &[""; 4])[3].mac, all[3].mac);
        assert_ne!(nics(Uuid::from_u128(2), &[""; 4])[3].mac, all[3].mac);
        assert_ne!(all[0].mac, all[1].mac);
    }

    #[test]
    fn a_derived_address_is_no_other_interfaces() {
        let first = nics(ONE, &[""])[0].mac;
        let all = nics(ONE, &["", &format!("mac={first}")]);
        assert_eq!(all[1].mac, first);
        assert_ne!(all[0].mac, first);
    }

    #[test]
    fn its_text_makes_the_same_interface_again() {
        let specs = [
            "",
            "mac=00:16:3e:00:00:01,bridge=br1,vifname=web.0,ip=10.0.0.1 10.0.0.2,gatewaydev=eth0,rate=10Mb/s,mtu=9000,untrusted",
            "trusted,model=e1000,type=vif,backend=0",
            "backend=net,script=vif-route,trusted",
        ];
        let first = nics(ONE, &specs);
        let texts: Vec<String> = first.iter().map(Nic::cfg_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(nics(ONE, &texts), first);
    }

    #[test]
    fn a_script_has_an_absolute_path_and_gets_what_it_reads() {
        let specs = [
            "script=vif-openvswitch,bridge=ovsbr0.100:200:300,vlan=10p/20",
            "script=/opt/vif-bridge,ip=10.0.0.1,gatewaydev=eth1",
            "script=/usr/lib/xen/scripts/vif-bridge",
        ];
        let all = nics(ONE, &specs);
        let script = all[0].script().unwrap();
        assert_eq!(script.path, "/etc/xen/scripts/vif-openvswitch");
        assert_eq!(script.bridge, "ovsbr0.100:200:300");
        assert_eq!(all[0].vlan(), Some("10p/20"));
        assert_eq!(all[1].script_path(), "/opt/vif-bridge");
        assert_eq!(all[1].bridge(), DEFAULT_BRIDGE);
        assert_eq!(all[2].script(), None);
        let texts: Vec<String> = all.iter().map(Nic::cfg_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(nics(ONE, &texts), all);
    }

    #[test]
    fn a_backend_in_another_domain_is_not_trusted_unless_it_is_said() {
        let defaults = VifDefaults {
            backend: Some("net".to_owned()),
            ..VifDefaults::default()
        };
        let vifs = vifs(&["", "backend=0", "backend=other,trusted"]);
        let all = all_of_config(&vifs, ONE, &defaults, false).unwrap();
        let backends: Vec<_> = all.iter().map(|nic| nic.backend.as_deref()).collect();
        assert_eq!(backends, [Some("net"), None, Some("other")]);
        let trusted: Vec<bool> = all.iter().map(Nic::is_trusted).collect();
        assert_eq!(trusted, [false, true, true]);
    }

    #[test]
    fn the_hosts_default_script_is_for_interfaces_that_name_none() {
        let defaults = VifDefaults {
            script: Some("vif-route".to_owned()),
            ..VifDefaults::default()
        };
        let vifs = vifs(&["", "script=vif-bridge"]);
        let all = all_of_config(&vifs, ONE, &defaults, false).unwrap();
        assert_eq!(all[0].script_path(), "/etc/xen/scripts/vif-route");
        assert_eq!(all[1].script(), None);
        let text = with_defaults(&vifs[0], &defaults).unwrap();
        assert!(text.contains("script=/etc/xen/scripts/vif-route"), "{text}");
    }

    /// No stock script reads `vlan`, and Xyl does not set any.
    #[test]
    fn vlans_need_a_script() {
        let vifs = vifs(&["vlan=10p"]);
        let refused = all_of_config(&vifs, ONE, &VifDefaults::default(), false).unwrap_err();
        assert_eq!(refused.code(), crate::ErrorCode::DeviceUnsupported);
    }

    #[test]
    fn what_xyl_does_not_do_is_refused_by_its_name() {
        for (spec, word) in [
            ("script=../vif-route", "script=../vif-route"),
            ("script=vif-route;reboot", "script=vif-route;reboot"),
            ("script=vif-route,vlan=$(reboot)", "vlan="),
            ("script=vif-route,vifname=a$b", "vifname="),
            ("script=vif-openvswitch,bridge=a/b", "a/b"),
            ("backend=a/b", "backend=a/b"),
            ("type=ioemu", "ioemu"),
            ("devid=10000", "devid=10000"),
            ("ip=$(reboot)", "ip="),
            ("bridge=a/b", "a/b"),
            ("forwarddev=x", "COLO"),
        ] {
            let why = why_not(&vifs(&[spec]), false).unwrap();
            assert!(why.starts_with("vif 0: ") || why.contains("devid"), "{why}");
            assert!(why.contains(word), "{spec}: {why}");
        }
        for (one, other) in [
            ("devid=1", "devid=1"),
            ("mac=00:16:3e:00:00:01", "mac=00-16-3E-0-0-1"),
            ("vifname=a", "vifname=a"),
        ] {
            assert!(why_not(&vifs(&[one, other]), false).is_some(), "{one}");
        }
    }

    #[test]
    fn an_interface_of_an_hvm_guest_has_a_card_unless_it_cannot() {
        let defaults = VifDefaults::default();
        let card = |spec: &str| {
            let vifs = vifs(&[spec]);
            assert_eq!(why_not(&vifs, true), None, "{spec}");
            let nic = all_of_config(&vifs, ONE, &defaults, true)
                .unwrap()
                .remove(0);
            let text = nic.cfg_text();
            let again = all_of_config(&self::vifs(&[&text]), ONE, &defaults, true).unwrap();
            assert_eq!(again, std::slice::from_ref(&nic), "{text}");
            nic.card
        };
        for (spec, wanted) in [
            ("", Card::Emulated(CardModel::Rtl8139)),
            ("type=ioemu", Card::Emulated(CardModel::Rtl8139)),
            ("model=e1000", Card::Emulated(CardModel::E1000)),
            ("model=virtio-net", Card::Emulated(CardModel::Virtio)),
            ("vifname=elevenbytes", Card::Emulated(CardModel::Rtl8139)),
            ("type=vif,model=e1000", Card::Paravirtual),
            ("script=vif-route", Card::Paravirtual),
            ("backend=net", Card::Paravirtual),
        ] {
            assert_eq!(card(spec), wanted, "{spec}");
        }
        for spec in ["script=vif-route", "backend=net"] {
            assert!(is_without_card(&vifs(&[spec])[0]), "{spec}");
        }
        for spec in ["", "type=vif,script=vif-route"] {
            assert!(!is_without_card(&vifs(&[spec])[0]), "{spec}");
        }
    }

    #[test]
    fn a_card_that_cannot_be_is_refused() {
        for spec in [
            "model=ne2k_isa",
            "model=e1000,script=vif-route",
            "type=ioemu,backend=net",
            "vifname=twelve.bytes",
            "devid=100",
        ] {
            assert!(why_not(&vifs(&[spec]), true).is_some(), "{spec}");
        }
        // The host's default script decides later.
        let defaults = VifDefaults {
            script: Some("vif-route".to_owned()),
            ..VifDefaults::default()
        };
        let vifs = vifs(&["model=e1000"]);
        let refused = all_of_config(&vifs, ONE, &defaults, true).unwrap_err();
        assert_eq!(refused.code(), crate::ErrorCode::DeviceUnsupported);
    }
}
