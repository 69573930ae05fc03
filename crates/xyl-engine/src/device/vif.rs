//! Network interfaces, served by domain 0's kernel (netback), as ports of a bridge or as a script sets them up.
//!
//! netback makes the interface `vifD.N` once it has taken the device (state 2). Then this module does the work of Xen's script
//! vif-bridge by netlink, without a program: name, address, largest packet, bridge, up. The index of the interface is read from the
//! device's folder in sysfs, since another interface may have the name. Last comes `hotplug-status`: before it netback does not connect the guest.
//! The script is named in the backend's nodes for xl's sake, which runs it when it removes a device. netback takes the interface
//! away when the device goes, whatever its name is by then.
//!
//! An HVM guest has an emulated card beside the interface, whose end is one more port of the bridge ([`card`]).
//!
//! An interface of a driver domain has its other end there: that domain's toolstack does all of this, and domain 0 changes no link.
//!
//! An interface with another script is set up and taken down by that script ([`script`]), whichever toolstack has made it. A script
//! that fails at the removal is reported, and the removal goes on, as with xl.
//!
//! Facts: `xen-netback/xenbus.c` of Linux, `libxl_nic.c`, `tools/hotplug/Linux/vif-bridge`.

pub(super) mod card;
mod driver;

use std::io;
use std::time::{Duration, Instant};

use os_port::{Link, LinkChange, LinkIndex, LinkName, list_if_there};
use serde_json::{Value as Json, json};
use xen_port::DomId;
use xenstore::Tree;
use xl_cfg::types::{self, Mac, Rate};

use crate::device::bus::{self, AttachLimits, Attaching, BackendDomain, Device, Tables, elsewhere};
use crate::device::disk_users::is_gone;
use crate::device::driver_side::DriverSide;
use crate::device::hotplug::{self, Hotplug, Single, Sought, backend_of_json, says_nothing};
use crate::device::nodes::{Access as NodeAccess, NodeRule, back, copy_of, own};
use crate::device::qemu::Wanted;
use crate::device::script::{self, Action, Script};
use crate::device::{Kind, Owner, Patience, Recorded};
use crate::error::DeviceError;
use crate::vm::nic::{self, Card, Nic, SetUp, Taken, VifDefaults, is_bridge_script};
use crate::vm::paths::node;
use crate::vm::spec::VmSpec;
use crate::vm::words::backend_of;
use crate::{EngineError, Host};

/// libxl's name of the kind.
const KIND: &str = "vif";
/// The setting of xl.cfg.
const SETTING: &str = "vif";
/// Longest time in which netback has to take an interface and make its end.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks for an interface that goes, for whose end no event comes.
const GONE_PAUSE: Duration = Duration::from_millis(10);
/// Largest file of sysfs that is read, in bytes.
const ATTRIBUTE_MAX_BYTES: u64 = 256;
/// The remedy where netback does nothing.
const REMEDY: &str = "`modprobe xen-netback` loads its driver";
/// Address of the host's end: a bridge takes the lowest one of its ports, which this is not.
const BACKEND_ADDRESS: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
/// The backend's node about the host's end, and its value once that is set up.
const STATUS: &str = "hotplug-status";
const CONNECTED: &str = "connected";
/// libxl's default of the largest packet, in bytes. It stands for the bridge's.
const LIBXL_MTU_BYTES: u32 = 1500;
/// The type of an interface without a card that QEMU emulates (`libxl_nic_type`).
const PARAVIRTUAL: &str = "vif";

/// The kind of network interfaces.
pub struct Vif;

impl Kind for Vif {
    fn name(&self) -> &'static str {
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        Some("nics")
    }

    fn setting(&self) -> Option<&'static str> {
        Some(SETTING)
    }

    fn recorded(&self, spec: &VmSpec) -> Vec<Recorded> {
        let recorded = |nic: &Nic| Recorded {
            number: nic.devid,
            text: nic.cfg_text(),
            json: to_json(nic),
        };
        spec.nics.iter().map(recorded).collect()
    }

    /// libxl leaves a number out that is 0.
    fn number_of_json(&self, entry: &Json) -> Option<u32> {
        let number = entry.get("devid").map_or(Some(0), Json::as_u64)?;
        u32::try_from(number).ok()
    }

    fn cfg_of_json(&self, entry: &Json) -> Option<String> {
        cfg_of_json(entry)
    }

    /// libxl's record can name an interface that was taken out.
    fn is_attached(
        &self,
        host: &mut Host,
        domid: DomId,
        entry: &Json,
    ) -> Result<bool, EngineError> {
        let number = self.number_of_json(entry).map(|number| number.to_string());
        let numbers = bus::numbers(host, domid, KIND)?;
        Ok(number.is_some_and(|number| numbers.contains(&number)))
    }

    /// Compares the address, by the toolstack's own copy.
    fn is_as_recorded(
        &self,
        host: &mut Host,
        (domid, number): (DomId, u32),
        spec: &VmSpec,
    ) -> Result<bool, EngineError> {
        let mac = mac_of(host, domid, &number.to_string())?;
        let mut nics = spec.nics.iter();
        Ok(nics.any(|nic| nic.devid == number && mac == Some(nic.mac)))
    }

    fn keep_only(&self, spec: &mut VmSpec, numbers: &[u32]) {
        spec.nics.retain(|nic| numbers.contains(&nic.devid));
    }

    fn folders(&self, domid: DomId) -> Vec<String> {
        bus::folders(KIND, domid)
    }

    fn table(&self) -> Vec<(String, NodeAccess, &'static str)> {
        TABLES.rows(KIND)
    }

    fn check_rights(&self, host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
        let mut nics = spec.nics.iter();
        nics.try_for_each(|nic| check_right(host, nic))
    }

    fn name_backends(&self, host: &mut Host, spec: &mut VmSpec) -> Result<(), EngineError> {
        let mut nics = spec.nics.iter_mut();
        nics.try_for_each(|nic| name_backend(host, nic))
    }

    /// Looks for each bridge and script, and for interfaces with the same names, before anything of the domain is made.
    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        let mut nics = spec.nics.iter();
        nics.try_for_each(|nic| check(host, nic))
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        _: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        attach(host, owner, &spec.nics, patience)
    }

    fn hotplug(&self) -> Option<&'static dyn Hotplug> {
        Some(&Vif)
    }

    fn driver_side(&self) -> Option<&'static dyn DriverSide> {
        Some(&Vif)
    }

    fn detach(&self, host: &mut Host, domid: DomId, deadline: Instant) -> Result<(), EngineError> {
        let devices = bus::devices(host, domid, KIND)?;
        let (devices, there): (Vec<Device>, Vec<Device>) =
            devices.into_iter().partition(Device::is_here);
        let scripts = scripts_of(host, &devices)?;
        elsewhere::ask_all(host, &there)?;
        bus::close_all(host, &devices, deadline)?;
        let after_scripts = deadline + take_down(host, &scripts)?;
        bus::remove(host, &devices)?;
        await_gone(host, &devices, after_scripts)?;
        elsewhere::finish(host, &there, after_scripts)
    }

    fn foreign(&self, host: &mut Host, domid: DomId, number: &str) -> Result<bool, EngineError> {
        match bus::device_of(host, domid, KIND, number)? {
            Some(device) => is_not_ours(host, &device),
            None => Ok(true),
        }
    }

    fn runs_scripts(&self, host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
        for device in bus::devices(host, domid, KIND)? {
            if script_of(host, &device)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Hotplug for Vif {
    fn detach_command(&self) -> &'static str {
        "network-detach"
    }

    fn words(&self, number: u32) -> String {
        nic::what(number)
    }

    fn changes_links(&self, text: &str) -> bool {
        described(text).is_ok_and(|vif| is_served_here(&vif))
    }

    fn runs_script(&self, text: &str) -> bool {
        let vif = described(text).ok().filter(is_served_here);
        let script = vif.and_then(|vif| vif.script);
        script.is_some_and(|script| !is_bridge_script(&script))
    }

    fn is_forced_in_time(&self) -> bool {
        true
    }

    fn with_defaults(&self, text: &str, defaults: &VifDefaults) -> Result<String, EngineError> {
        nic::with_defaults(&described(text)?, defaults)
    }

    /// Number and address are those that a create would give the VM's next interface.
    fn complete(&self, host: &mut Host, owner: Owner, text: &str) -> Result<String, EngineError> {
        let vif = described(text)?;
        let others = taken(host, owner.domid, vif.devid)?;
        let mut nic = others
            .clone()
            .decide(&vif, owner.uuid, &VifDefaults::default())?;
        name_backend(host, &mut nic)?;
        others.refuse_same(&nic)?;
        Ok(nic.cfg_text())
    }

    fn with_named_backend(&self, host: &mut Host, text: &str) -> Result<String, EngineError> {
        let mut nic = nic::of_text(&described(text)?)?;
        name_backend(host, &mut nic)?;
        Ok(nic.cfg_text())
    }

    fn read(&self, text: &str) -> Result<Box<dyn Single>, EngineError> {
        Ok(Box::new(OneNic(nic::of_text(&described(text)?)?)))
    }

    /// Takes the number of an interface or its address, as xl does.
    fn find(&self, host: &mut Host, domid: DomId, asked: &str) -> Result<Device, EngineError> {
        let mac = Mac::parse(asked);
        let is_it = |host: &mut Host, number: &str| {
            Ok(match mac {
                Some(_) => mac_of(host, domid, number)? == mac,
                None => asked
                    .parse::<u32>()
                    .is_ok_and(|asked| number.parse() == Ok(asked)),
            })
        };
        let sought = Sought {
            kind: KIND,
            word: "network interface",
            list_command: "network-list",
            detach_command: self.detach_command(),
            domid,
            asked,
        };
        sought.find(host, is_it, is_not_ours)
    }

    /// Whether its end on the host is set up.
    fn is_served(&self, host: &mut Host, device: &Device) -> Result<bool, EngineError> {
        if !device.is_here() {
            return Ok(!elsewhere::has_failed(host, device)?);
        }
        Ok(is_connected(host, device)? && own_link(host, device)?.is_some())
    }

    fn check_right_to_take_away(
        &self,
        host: &mut Host,
        device: &Device,
    ) -> Result<(), EngineError> {
        scripts_of(host, std::slice::from_ref(device)).map(drop)
    }

    fn take_away(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<(), EngineError> {
        if !device.is_here() {
            return elsewhere::take_away(host, device, deadline);
        }
        let scripts = scripts_of(host, std::slice::from_ref(device))?;
        bus::await_one_closed(host, device, deadline)?;
        let mut deadline = deadline;
        // Another toolstack may have attached one of its number meanwhile, which keeps what the script has set up for it.
        if !bus::is_to_stay(&mut host.store, device)? {
            deadline += take_down(host, &scripts)?;
        }
        bus::remove_one(host, device)?;
        await_gone(host, std::slice::from_ref(device), deadline)
    }
}

/// The interface of a description as in xl.cfg, if Xyl can serve it.
fn described(text: &str) -> Result<types::Vif, EngineError> {
    let vifs = hotplug::parse(SETTING, text)?.vifs;
    match nic::why_not(&vifs, false) {
        Some(what) => Err(DeviceError::Unsupported { what }.into()),
        None => Ok(vifs.into_iter().next().unwrap_or_default()),
    }
}

/// Whether domain 0 serves an interface.
fn is_served_here(vif: &types::Vif) -> bool {
    backend_of(vif.backend.as_deref()).is_ok_and(|backend| backend.is_none())
}

/// Finds the driver domain of an interface, and keeps its name: the VM's next domain looks for that.
fn name_backend(host: &mut Host, nic: &mut Nic) -> Result<(), EngineError> {
    let what = nic.what();
    elsewhere::name(host, &what, &mut nic.backend)
}

/// Numbers, addresses and names of a domain's interfaces but the one of this number. An interface that is in the VM's record alone
/// has been detached by xl, and does not come back.
fn taken(host: &mut Host, domid: DomId, but: Option<u32>) -> Result<Taken, EngineError> {
    let mut taken = Taken::default();
    for number in bus::numbers(host, domid, KIND)? {
        let devid = number.parse().ok();
        if devid.is_some() && devid == but {
            continue;
        }
        taken.devids.extend(devid);
        taken.macs.extend(mac_of(host, domid, &number)?);
        taken.names.extend(copied(host, domid, &number, "vifname")?);
    }
    Ok(taken)
}

/// The address of an interface, by the toolstack's own copy.
fn mac_of(host: &mut Host, domid: DomId, number: &str) -> Result<Option<Mac>, EngineError> {
    let mac = copied(host, domid, number, "mac")?;
    Ok(mac.and_then(|mac| Mac::parse(&mac)))
}

/// A node of the toolstack's own copy.
fn copied(
    host: &mut Host,
    domid: DomId,
    number: &str,
    name: &str,
) -> Result<Option<String>, EngineError> {
    let path = node(&format!("/libxl/{domid}/device/{KIND}/{number}/{name}"))?;
    Ok(host.store.read_text_opt(&path)?)
}

/// An interface that is attached to a running domain.
struct OneNic(Nic);

impl Single for OneNic {
    fn number(&self) -> u32 {
        self.0.devid
    }

    fn served_by(&self) -> &'static str {
        KIND
    }

    fn what(&self) -> String {
        self.0.what()
    }

    fn text(&self) -> String {
        self.0.cfg_text()
    }

    fn to_json(&self) -> Json {
        to_json(&self.0)
    }

    fn check(&self, host: &mut Host, owner: Owner) -> Result<(), EngineError> {
        match &self.0.backend {
            Some(backend) => elsewhere::find_for(host, owner, &self.0.what(), backend).map(drop),
            None => check(host, &self.0),
        }
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        attach(host, owner, std::slice::from_ref(&self.0), patience)
    }
}

// ---- nodes --------------------------------------------------------------------------------------

/// The source of an interface's nodes.
struct Nodes {
    device: Device,
    nic: Nic,
    /// Largest packet in bytes.
    mtu_bytes: u32,
}

type Rule = NodeRule<Nodes>;

const TABLES: Tables<Nodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |n| {
        Some(n.device.backend_domain.domid.to_string())
    }),
    own("state", "guest and netback", |_| Some("1".to_owned())),
    own("handle", "guest: number of the interface", handle),
    own("mac", "guest", mac),
    own("trusted", "guest: whether it trusts its backend", |n| {
        Some(u8::from(n.nic.is_trusted()).to_string())
    }),
    NodeRule::new(
        "mtu",
        NodeAccess::GuestReads,
        "guest: its largest packet",
        |n| Some(n.mtu_bytes.to_string()),
    ),
];

const BACKEND: &[Rule] = &[
    back("frontend", "netback; scripts of xl", |n| {
        Some(n.device.frontend())
    }),
    back("frontend-id", "netback; scripts of xl", |n| {
        Some(n.device.domid.to_string())
    }),
    back("online", "netback: whether the interface stays", |_| {
        Some("1".to_owned())
    }),
    back("state", "netback, guest", |_| Some("1".to_owned())),
    back(
        "script",
        "netback; xl, when it removes the interface",
        script_path,
    ),
    back("handle", "netback: number of the interface", handle),
    back("mac", "netback; scripts of xl", mac),
    back("rate", "netback: limit on what the guest sends", rate),
    back("bridge", "scripts", bridge),
    back("vifname", "scripts; `xyl fsck`", vifname),
    back("ip", "scripts", |n| n.nic.ip.clone()),
    back("gatewaydev", "scripts", gateway_dev),
    back("mtu", "scripts", mtu),
    back("vlan", "scripts", vlan),
    back("type", "scripts", nic_type),
    back(
        STATUS,
        "netback: `connected` once the interface is set up",
        |_| Some(String::new()),
    ),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
    copy_of("script", script_path),
    copy_of("handle", handle),
    copy_of("mac", mac),
    copy_of("bridge", bridge),
    copy_of("vifname", vifname),
    copy_of("ip", |n| n.nic.ip.clone()),
    copy_of("gatewaydev", gateway_dev),
    copy_of("rate", rate),
    copy_of("mtu", mtu),
    copy_of("vlan", vlan),
    copy_of("type", nic_type),
];

fn handle(nodes: &Nodes) -> Option<String> {
    Some(nodes.nic.devid.to_string())
}

fn mac(nodes: &Nodes) -> Option<String> {
    Some(nodes.nic.mac.to_string())
}

fn bridge(nodes: &Nodes) -> Option<String> {
    Some(nodes.nic.bridge().to_owned())
}

fn script_path(nodes: &Nodes) -> Option<String> {
    Some(nodes.nic.script_path().to_owned())
}

fn vlan(nodes: &Nodes) -> Option<String> {
    nodes.nic.vlan().map(str::to_owned)
}

fn nic_type(nodes: &Nodes) -> Option<String> {
    Some(nodes.nic.card.nic_type().to_owned())
}

fn vifname(nodes: &Nodes) -> Option<String> {
    nodes.nic.name.as_ref().map(LinkName::to_string)
}

fn gateway_dev(nodes: &Nodes) -> Option<String> {
    nodes.nic.gateway_dev.as_ref().map(LinkName::to_string)
}

fn mtu(nodes: &Nodes) -> Option<String> {
    nodes.nic.mtu_bytes.map(|bytes| bytes.to_string())
}

/// Bytes in an interval, and the interval in microseconds.
fn rate(nodes: &Nodes) -> Option<String> {
    let rate = nodes.nic.rate?;
    Some(format!("{},{}", rate.bytes_per_interval, rate.interval_us))
}

// ---- attach -------------------------------------------------------------------------------------

/// Refuses an interface for which this process has given up a right.
fn check_right(host: &Host, nic: &Nic) -> Result<(), EngineError> {
    if nic.backend.is_some() {
        return Ok(());
    }
    if !host.process.may_change_links() {
        let device = nic.what();
        return Err(DeviceError::NoRight { device }.into());
    }
    if nic.card.model().is_some() && !host.process.may_make_taps() {
        let device = nic.what();
        return Err(DeviceError::NoRight { device }.into());
    }
    match nic.set_up {
        SetUp::Bridge(_) => Ok(()),
        SetUp::Script(_) => script::check_right(host, &nic.what()),
    }
}

/// Refuses what the host cannot give an interface, and changes nothing.
fn check(host: &Host, nic: &Nic) -> Result<(), EngineError> {
    if nic.backend.is_some() {
        return Ok(());
    }
    match &nic.set_up {
        SetUp::Bridge(bridge) => bridge_of(host, nic, bridge).map(drop)?,
        SetUp::Script(script) => script::check(host, &nic.what(), &script.path)?,
    }
    refuse_taken_name(host, nic)
}

/// The bridge of an interface.
fn bridge_of(host: &Host, nic: &Nic, bridge: &LinkName) -> Result<Link, EngineError> {
    let refused = |why| DeviceError::Bridge {
        device: nic.what(),
        bridge: bridge.to_string(),
        why,
    };
    match find(host, nic, bridge)? {
        Some(link) if link.is_bridge() => Ok(link),
        Some(_) => Err(refused("is no bridge of Linux").into()),
        None => Err(refused("is not there").into()),
    }
}

fn refuse_taken_name(host: &Host, nic: &Nic) -> Result<(), EngineError> {
    let Some(name) = &nic.name else {
        return Ok(());
    };
    // With a name of its own the tap has the same one for each domain of the VM.
    let tap = nic
        .card
        .model()
        .and_then(|_| nic.tap_name(DomId::ZERO).ok());
    for name in std::iter::once(name).chain(&tap) {
        if find(host, nic, name)?.is_some() {
            return Err(DeviceError::LinkTaken {
                device: nic.what(),
                name: name.to_string(),
            }
            .into());
        }
    }
    Ok(())
}

fn find(host: &Host, nic: &Nic, name: &LinkName) -> Result<Option<Link>, EngineError> {
    let found = host.devices.links.find(name);
    found.map_err(|source| refusal(nic, name.as_str(), "look at", source))
}

fn refusal(nic: &Nic, link: &str, action: &'static str, source: io::Error) -> EngineError {
    DeviceError::Link {
        device: nic.what(),
        link: link.to_owned(),
        action,
        source,
    }
    .into()
}

/// An interface whose nodes are written.
struct Written {
    nodes: Nodes,
    /// Its bridge; `None` for an interface with a script.
    bridge: Option<Link>,
    what: String,
}

/// Attaches interfaces of one domain together: their nodes are written one after the other, then netback is waited for. A guest is
/// connected once its end on the host is set up.
fn attach(
    host: &mut Host,
    owner: Owner,
    nics: &[Nic],
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let (mut written, mut there) = (Vec::new(), Vec::new());
    for nic in nics {
        patience.check(host)?;
        match &nic.backend {
            Some(backend) => there.push(write_elsewhere(host, owner, (nic, backend))?),
            None => written.push(write(host, owner, nic)?),
        }
    }
    await_links(host, &written, patience)?;
    for one in &written {
        patience.check(host)?;
        connect(host, one)?;
    }
    elsewhere::await_taken(host, &there, patience)
}

/// Writes the nodes of an interface of a driver domain. Its bridge and its script are there.
fn write_elsewhere(
    host: &mut Host,
    owner: Owner,
    (nic, backend): (&Nic, &str),
) -> Result<(Device, String), EngineError> {
    let what = nic.what();
    let (backend_domain, _) = elsewhere::find_for(host, owner, &what, backend)?;
    let device = device_of(owner, nic, backend_domain);
    let nodes = Nodes {
        device,
        nic: nic.clone(),
        mtu_bytes: nic.mtu_bytes.unwrap_or(LIBXL_MTU_BYTES),
    };
    bus::write(host, &device, &what, &TABLES, &nodes)?;
    Ok((device, what))
}

fn device_of(owner: Owner, nic: &Nic, backend_domain: BackendDomain) -> Device {
    Device {
        domid: owner.domid,
        kind: KIND,
        served_by: KIND,
        number: nic.devid,
        backend_domain,
    }
}

/// Writes the nodes of an interface of domain 0.
fn write(host: &mut Host, owner: Owner, nic: &Nic) -> Result<Written, EngineError> {
    let bridge = match &nic.set_up {
        SetUp::Bridge(bridge) => Some(bridge_of(host, nic, bridge)?),
        SetUp::Script(script) => {
            script::check(host, &nic.what(), &script.path)?;
            None
        }
    };
    let default_bytes = bridge
        .as_ref()
        .map_or(LIBXL_MTU_BYTES, |bridge| bridge.mtu_bytes);
    let device = device_of(owner, nic, BackendDomain::DOM0);
    let nodes = Nodes {
        device,
        nic: nic.clone(),
        mtu_bytes: nic.mtu_bytes.unwrap_or(default_bytes),
    };
    let what = nic.what();
    bus::write(host, &device, &what, &TABLES, &nodes)?;
    Ok(Written {
        nodes,
        bridge,
        what,
    })
}

/// Waits until netback has made the host's ends.
fn await_links(
    host: &mut Host,
    written: &[Written],
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let is_ready: Vec<_> = written.iter().map(|one| ready(one.nodes.device)).collect();
    let all = written.iter().zip(&is_ready);
    let all = all.map(|(one, is_ready)| Attaching {
        device: one.nodes.device,
        what: &one.what,
        is_ready,
    });
    let limits = AttachLimits {
        limit: ATTACH_LIMIT,
        remedy: REMEDY,
        patience,
    };
    bus::await_attached(host, &all.collect::<Vec<_>>(), limits)
}

fn ready(device: Device) -> impl Fn(&Host) -> Result<bool, EngineError> {
    move |host| Ok(own_link(host, &device)?.is_some())
}

/// Sets the host's end up, and lets netback connect the guest.
fn connect(host: &mut Host, written: &Written) -> Result<(), EngineError> {
    let device = written.nodes.device;
    let Some(bridge) = &written.bridge else {
        return bring_up(host, written);
    };
    let link = own_link(host, &device)?.ok_or_else(|| DeviceError::Backend {
        device: written.what.clone(),
        cause: "its network interface has gone".to_owned(),
    })?;
    set_up(host, &written.nodes, &link, bridge)?;
    bus::write_more(host, &device, STATUS, CONNECTED)
}

/// Has the script set the host's end up. A script that does not let netback connect the guest is reported: it may do so later.
fn bring_up(host: &mut Host, written: &Written) -> Result<(), EngineError> {
    let device = &written.nodes.device;
    let (what, path) = (written.what.as_str(), written.nodes.nic.script_path());
    let script = Script { device, what, path };
    script::run(host, script, Action::Online)?;
    if !is_connected(host, device)? {
        (host.notice)(&format!(
            "warning: {what}: its script {path} has not written `{CONNECTED}` to the backend's node {STATUS}; until then the guest gets no network"
        ));
    }
    Ok(())
}

/// Whether the host's end is set up, by the backend's node.
fn is_connected(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let status = node(&format!("{}/{STATUS}", device.backend()))?;
    let status = host.store.read_opt(&status)?;
    Ok(status.as_deref() == Some(CONNECTED.as_bytes()))
}

/// The host's end of an interface.
struct OwnLink {
    index: LinkIndex,
    name: String,
}

/// The interface that netback has made for a device, by sysfs.
fn own_link(host: &Host, device: &Device) -> Result<Option<OwnLink>, EngineError> {
    let folder = device.driver_folder(host).join("net");
    let names = list_if_there(&*host.files, &folder);
    let names = names.map_err(|source| EngineError::io("list", &folder, source))?;
    let Some(name) = names.into_iter().next() else {
        return Ok(None);
    };
    let path = folder.join(&name).join("ifindex");
    let index = match host.files.read(&path, ATTRIBUTE_MAX_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().parse().ok(),
        Err(error) if is_gone(&error) => None,
        Err(source) => return Err(EngineError::io("read", &path, source)),
    };
    Ok(index.map(|index| OwnLink {
        index: LinkIndex(index),
        name,
    }))
}

/// Makes the host's end of an interface a port of its bridge.
fn set_up(host: &Host, nodes: &Nodes, link: &OwnLink, bridge: &Link) -> Result<(), EngineError> {
    if let Some(name) = &nodes.nic.name {
        let name = LinkChange::Name(name.clone());
        change_link(host, &nodes.nic, link, ("give its name to", &name))?;
    }
    join_bridge(host, &nodes.nic, link, (bridge, nodes.mtu_bytes))
}

/// Makes a link of an interface a port of a bridge, with this size of the largest packet in bytes.
fn join_bridge(
    host: &Host,
    nic: &Nic,
    link: &OwnLink,
    (bridge, mtu_bytes): (&Link, u32),
) -> Result<(), EngineError> {
    let changes = [
        ("set the address of", LinkChange::Address(BACKEND_ADDRESS)),
        ("switch IPv6 addresses off at", LinkChange::NoIpv6Address),
        ("set the MTU of", LinkChange::Mtu(mtu_bytes)),
        ("join to its bridge", LinkChange::Master(Some(bridge.index))),
        ("set up", LinkChange::Up),
    ];
    for (action, change) in &changes {
        change_link(host, nic, link, (action, change))?;
    }
    Ok(())
}

fn change_link(
    host: &Host,
    nic: &Nic,
    link: &OwnLink,
    (action, change): (&'static str, &LinkChange),
) -> Result<(), EngineError> {
    let changed = host.devices.links.change(link.index, change);
    changed.map_err(|source| refusal(nic, &link.name, action, source))
}

// ---- detach -------------------------------------------------------------------------------------

/// Waits until netback has taken the interfaces away, so that the next domain can have their names. Warns of those that are left
/// at the deadline.
fn await_gone(host: &mut Host, devices: &[Device], deadline: Instant) -> Result<(), EngineError> {
    for device in left_at(host, devices, deadline)? {
        (host.notice)(&format!(
            "warning: domain 0's kernel has not taken network interface {} of domain {} away in time; its nodes were removed",
            device.number, device.domid
        ));
    }
    Ok(())
}

/// The interfaces that netback has at the deadline still.
fn left_at(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    loop {
        let mut left = Vec::new();
        for device in devices {
            if own_link(host, device)?.is_some() {
                left.push(*device);
            }
        }
        if left.is_empty() || host.clock.now() >= deadline {
            return Ok(left);
        }
        host.wait_for(&[], GONE_PAUSE)?;
    }
}

/// Whether Xyl cannot take an interface down: domain 0's netback has none without a script, and QEMU has a part of an emulated one.
fn is_not_ours(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    match bus::script(host, device)? {
        None => Ok(true),
        Some(script) if is_bridge_script(&script) || !device.is_here() => Ok(false),
        Some(_) => Ok(!is_paravirtual(host, device)?),
    }
}

fn is_paravirtual(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let number = device.number.to_string();
    let kind = copied(host, device.domid, &number, "type")?;
    Ok(kind.is_none_or(|kind| kind == PARAVIRTUAL))
}

/// The script that takes the host's end of an interface down, by the toolstack's own copy; `None` where netback does by itself.
fn script_of(host: &mut Host, device: &Device) -> Result<Option<String>, EngineError> {
    if !device.is_here() {
        return Ok(None);
    }
    let script = bus::script(host, device)?;
    let Some(script) = script.filter(|script| !is_bridge_script(script)) else {
        return Ok(None);
    };
    // The script reads the rest from the backend's nodes.
    let is_run = is_paravirtual(host, device)? && host.store.exists(&node(&device.backend())?)?;
    Ok(is_run.then_some(script))
}

/// The scripts that take these interfaces down.
///
/// # Errors
/// [`DeviceError::NoRightToScript`] where this process can have none run: nothing was changed then.
fn scripts_of(host: &mut Host, devices: &[Device]) -> Result<Vec<(Device, String)>, EngineError> {
    let mut scripts = Vec::new();
    for device in devices {
        if let Some(script) = script_of(host, device)? {
            script::check_right(host, &nic::what(device.number))?;
            scripts.push((*device, script));
        }
    }
    Ok(scripts)
}

/// Has the scripts of closed interfaces take the host's ends down. A failure of a script is reported and is no error. Returns the
/// time that it took.
fn take_down(host: &mut Host, scripts: &[(Device, String)]) -> Result<Duration, EngineError> {
    let begun = host.clock.now();
    for (device, path) in scripts {
        let what = nic::what(device.number);
        let (what, path) = (what.as_str(), path.as_str());
        let script = Script { device, what, path };
        match script::run(host, script, Action::Offline) {
            Err(EngineError::Device(
                error @ (DeviceError::Script { .. } | DeviceError::UntrustedScript { .. }),
            )) => (host.notice)(&format!("warning: {error}")),
            other => other?,
        }
    }
    Ok(host.clock.now().saturating_duration_since(begun))
}

// ---- libxl's record -----------------------------------------------------------------------------

/// An interface in libxl's record (`libxl_device_nic`).
fn to_json(nic: &Nic) -> Json {
    let trusted = if nic.is_trusted() { "True" } else { "False" };
    let always = [
        ("devid", json!(nic.devid)),
        ("mac", json!(nic.mac.to_string())),
        ("bridge", json!(nic.bridge())),
        ("script", json!(nic.script_path())),
        ("nictype", json!(nic.card.nic_type())),
        ("trusted", json!(trusted)),
    ];
    let name = |name: &Option<LinkName>| name.as_ref().map(|name| json!(name.as_str()));
    let bytes = nic.rate.map(|rate| json!(rate.bytes_per_interval));
    let interval_us = nic.rate.map(|rate| json!(rate.interval_us));
    let sometimes = [
        ("mtu", nic.mtu_bytes.map(|bytes| json!(bytes))),
        ("model", nic.card.model().map(|model| json!(model.word()))),
        ("ifname", name(&nic.name)),
        ("ip", nic.ip.as_ref().map(|ip| json!(ip))),
        ("gatewaydev", name(&nic.gateway_dev)),
        ("vlan", nic.vlan().map(|vlan| json!(vlan))),
        ("rate_bytes_per_interval", bytes),
        ("rate_interval_usecs", interval_us),
        (
            "backend_domname",
            nic.backend.as_ref().map(|name| json!(name)),
        ),
    ];
    let sometimes = sometimes.into_iter();
    let sometimes = sometimes.filter_map(|(name, value)| Some((name, value?)));
    let members = always.into_iter().chain(sometimes);
    members
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The members of an interface that Xyl knows, and those that say nothing about what it serves. A PV or PVH guest sees no model.
const KNOWN: [&str; 16] = [
    "backend_domid",
    "backend_domname",
    "devid",
    "mac",
    "bridge",
    "script",
    "nictype",
    "trusted",
    "mtu",
    "ifname",
    "ip",
    "gatewaydev",
    "vlan",
    "rate_bytes_per_interval",
    "rate_interval_usecs",
    "model",
];

/// An interface of libxl's record as xl.cfg says it; `None` where Xyl does not serve it, or the record says what Xyl does not know.
fn cfg_of_json(entry: &Json) -> Option<String> {
    let members = entry.as_object()?;
    let says = |name: &str| members.get(name).filter(|value| !says_nothing(value));
    let is_unknown = |name: &String| !KNOWN.contains(&name.as_str()) && says(name).is_some();
    let text = |name: &str| says(name).and_then(Json::as_str);
    let number = |name: &str| says(name).and_then(Json::as_u64);
    let link = |name: &str| text(name).map(LinkName::parse).transpose().ok();
    let is_vif = text("nictype").is_none_or(|word| word == PARAVIRTUAL);
    if members.keys().any(is_unknown) || !is_vif {
        return None;
    }
    let mtu_bytes = number("mtu").filter(|bytes| *bytes != u64::from(LIBXL_MTU_BYTES));
    let rate = number("rate_bytes_per_interval").map(|bytes_per_interval| {
        let interval_us = number("rate_interval_usecs").and_then(|us| u32::try_from(us).ok());
        Some(Rate {
            bytes_per_interval,
            interval_us: interval_us?,
        })
    });
    let trusted = members.get("trusted").and_then(Json::as_str);
    let trusted = trusted.map(|word| word == "True");
    let bridge = text("bridge");
    let backend = backend_of_json(entry)?;
    let nic = Nic {
        devid: u32::try_from(number("devid").unwrap_or(0)).ok()?,
        mac: Mac::parse(text("mac")?)?,
        set_up: nic::set_up_of_record(bridge, text("script"), text("vlan"))?,
        name: link("ifname")?,
        ip: text("ip").map(str::to_owned),
        gateway_dev: link("gatewaydev")?,
        rate: match rate {
            Some(rate) => Some(rate?),
            None => None,
        },
        mtu_bytes: mtu_bytes.map(u32::try_from).transpose().ok()?,
        trusted: trusted.filter(|is_trusted| *is_trusted != backend.is_none()),
        backend,
        // libxl writes a model for guests of each type. Xyl writes one for an emulated card alone.
        card: match says("model") {
            Some(_) => Card::Paravirtual,
            None => Card::NoMachine,
        },
    };
    Some(nic.cfg_text_at(bridge))
}

#[cfg(test)]
#[path = "vif_tests.rs"]
mod tests;
