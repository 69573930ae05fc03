//! Single devices of a running domain: the part of a kind for attach and detach ([`crate::operation::hotplug`]).
//!
//! A device is described as in xl.cfg. A kind reads the description ([`Hotplug::read`]) and attaches the device
//! ([`Single::attach`]). A detach needs the device's number alone. [`list`] reads the devices of a domain for lists.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value as Json;
use xen_port::DomId;
use xenstore::{Batch, Client};
use xl_cfg::{DomainConfig, Source, Value};

use crate::device::bus::{Device, State};
use crate::device::{KINDS, Kind, Owner, Patience, bus, qemu, script};
use crate::error::DeviceError;
use crate::vm::nic::VifDefaults;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// A kind whose devices can be attached to a running domain one by one, and detached from it.
pub trait Hotplug {
    /// The command that detaches devices.
    fn detach_command(&self) -> &'static str;

    /// A device in words by its number, such as "disk 51728".
    fn words(&self, number: u32) -> String;

    /// Whether an attach of this device changes the host's network interfaces. Not every process has the right to that.
    fn changes_links(&self, _text: &str) -> bool {
        false
    }

    /// Whether an attach of this device runs a script. Not every process has the right to that.
    fn runs_script(&self, _text: &str) -> bool {
        false
    }

    /// Whether an attach of this device starts a QEMU. Not every process has the right to that.
    fn starts_qemu(&self, _text: &str) -> bool {
        false
    }

    /// Whether a guest that does not let a device go loses it after a time, as xl has it with interfaces.
    fn is_forced_in_time(&self) -> bool {
        false
    }

    /// Reads a user's description of a device, and fills in the host's defaults. What the VM has to decide may be open.
    ///
    /// # Errors
    /// Those of [`Hotplug::read`].
    fn with_defaults(&self, text: &str, _defaults: &VifDefaults) -> Result<String, EngineError> {
        Ok(self.read(text)?.text())
    }

    /// The description with what the VM decides about a new device, such as its number.
    ///
    /// # Errors
    /// Those of [`Hotplug::read`] and xenstore.
    fn complete(&self, _host: &mut Host, _owner: Owner, text: &str) -> Result<String, EngineError> {
        Ok(text.to_owned())
    }

    /// The description with the name of a driver domain in place of its number, which is another domain's one day.
    ///
    /// # Errors
    /// [`DeviceError::NoBackendDomain`], [`DeviceError::BackendDomainGone`]; those of [`Hotplug::read`] and xenstore.
    fn with_named_backend(&self, _host: &mut Host, text: &str) -> Result<String, EngineError> {
        Ok(text.to_owned())
    }

    /// Reads the complete description of a device, and fills in all defaults that must not change later.
    ///
    /// # Errors
    /// [`EngineError::Config`] for a wrong description, [`DeviceError::Unsupported`] for one that Xyl cannot serve.
    fn read(&self, text: &str) -> Result<Box<dyn Single>, EngineError>;

    /// The number of a device by the text that a user has for it, such as `xvdb`.
    ///
    /// # Errors
    /// [`DeviceError::Absent`], and those of xenstore.
    fn find(&self, host: &mut Host, domid: DomId, asked: &str) -> Result<Device, EngineError>;

    /// Asks the guest of a device to let it go, and waits until it has, but not longer than the deadline. The last state of the backend.
    ///
    /// # Errors
    /// Those of xenstore; a guest that does not answer, where the request cannot stay open.
    fn ask(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<State, EngineError> {
        bus::ask_to_close(host, device)?;
        bus::await_one_closed(host, device, deadline)
    }

    /// Whether the driver has all of a device that its backend has taken.
    ///
    /// # Errors
    /// Those of xenstore and the host.
    fn is_served(&self, host: &mut Host, device: &Device) -> Result<bool, EngineError>;

    /// Refuses a device that this process cannot take away, because it has given up a right.
    ///
    /// # Errors
    /// [`DeviceError::NoRightToScript`]; those of xenstore.
    fn check_right_to_take_away(
        &self,
        _host: &mut Host,
        _device: &Device,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Takes a device away with all that the host has of it. Its backend was asked to close. Waits until the backend has
    /// closed and given up what it has open, but not longer than the deadline; a slow backend is no error.
    ///
    /// # Errors
    /// Those of xenstore and the host.
    fn take_away(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<(), EngineError>;
}

/// One device that is to be attached.
pub trait Single {
    /// Its number among the devices of the kind.
    fn number(&self) -> u32;

    /// The kind of its backend ([`Device::served_by`]).
    fn served_by(&self) -> &'static str;

    /// The device in words, such as "disk `xvdb`".
    fn what(&self) -> String;

    /// The complete description. [`Hotplug::read`] makes the same device of it.
    fn text(&self) -> String;

    /// Its entry in libxl's record.
    fn to_json(&self) -> Json;

    /// Refuses what the host cannot give the domain now, and changes nothing.
    ///
    /// # Errors
    /// The reason for which it cannot be attached.
    fn check(&self, host: &mut Host, owner: Owner) -> Result<(), EngineError>;

    /// Attaches the device, and waits for its backend. A failure may leave it half attached.
    ///
    /// # Errors
    /// The reason for which it cannot be attached. [`DeviceError::Exists`] if the domain has it: nothing was written then.
    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError>;
}

/// The kind with this name, whose devices can be attached one by one.
///
/// # Errors
/// [`DeviceError::NoHotplug`].
pub fn kind(name: &str) -> Result<(&'static dyn Kind, &'static dyn Hotplug), EngineError> {
    let mut kinds = KINDS.iter().filter(|kind| kind.name() == name);
    let found = kinds.find_map(|kind| Some((*kind, kind.hotplug()?)));
    found.ok_or_else(|| {
        let kind = name.chars().filter(|c| !c.is_control()).collect();
        DeviceError::NoHotplug { kind }.into()
    })
}

/// The description of a device of a kind for a request, with the host's defaults.
///
/// # Errors
/// Those of [`Hotplug::with_defaults`].
pub fn for_request(name: &str, text: &str, defaults: &VifDefaults) -> Result<String, EngineError> {
    let (_, hotplug) = kind(name)?;
    hotplug.with_defaults(text, defaults)
}

/// Refuses an attach for which this process has given up a right.
///
/// # Errors
/// [`DeviceError::NoRight`], [`DeviceError::NoRightToQemu`], [`DeviceError::NoRightToScript`].
pub(crate) fn check_rights(host: &Host, name: &str, text: &str) -> Result<(), EngineError> {
    let device = format!("a new {name}");
    qemu::check_right(host, starts_qemu(name, text).then(|| device.clone()))?;
    if changes_links(name, text) && !host.process.may_change_links() {
        return Err(DeviceError::NoRight { device }.into());
    }
    match runs_script(name, text) {
        true => script::check_right(host, &device),
        false => Ok(()),
    }
}

/// Whether an attach of this device runs a script.
pub(crate) fn runs_script(name: &str, text: &str) -> bool {
    kind(name).is_ok_and(|(_, hotplug)| hotplug.runs_script(text))
}

/// Whether an attach of this device starts a QEMU.
pub(crate) fn starts_qemu(name: &str, text: &str) -> bool {
    kind(name).is_ok_and(|(_, hotplug)| hotplug.starts_qemu(text))
}

/// Whether an attach of this device changes the host's network interfaces.
pub(crate) fn changes_links(name: &str, text: &str) -> bool {
    kind(name).is_ok_and(|(_, hotplug)| hotplug.changes_links(text))
}

/// A look-up of a device by a user's text, with the words of its errors.
pub(super) struct Sought<'a> {
    /// libxl's name of the kind.
    pub kind: &'static str,
    /// A device of the kind, such as "disk".
    pub word: &'static str,
    /// The command that lists such devices.
    pub list_command: &'static str,
    /// The command that detaches one.
    pub detach_command: &'static str,
    /// Number of the domain.
    pub domid: DomId,
    /// The user's text.
    pub asked: &'a str,
}

impl Sought<'_> {
    /// The first device of the domain that `is_it` takes, by its number.
    ///
    /// # Errors
    /// [`DeviceError::Absent`]; [`DeviceError::Unsupported`] if its backend is another one than domain 0's, or if
    /// `has_own_script`; those of xenstore.
    pub fn find(
        &self,
        host: &mut Host,
        is_it: impl Fn(&mut Host, &str) -> Result<bool, EngineError>,
        has_own_script: impl Fn(&mut Host, &Device) -> Result<bool, EngineError>,
    ) -> Result<Device, EngineError> {
        for number in bus::numbers(host, self.domid, self.kind)? {
            if !is_it(host, &number)? {
                continue;
            }
            let device = bus::device_of(host, self.domid, self.kind, &number)?;
            let why = "has a backend that Xyl cannot take down yet";
            let device = device.ok_or_else(|| self.not_ours(&number, why))?;
            return match has_own_script(host, &device)? {
                true => Err(self.not_ours(&number, "was set up by a script of its own")),
                false => Ok(device),
            };
        }
        Err(self.absent())
    }

    /// The error for a device that the domain does not have.
    pub fn absent(&self) -> EngineError {
        let asked = self.asked.chars().filter(|c| !c.is_control());
        DeviceError::Absent {
            domid: self.domid,
            device: format!("{} `{}`", self.word, asked.collect::<String>()),
            command: self.list_command,
        }
        .into()
    }

    fn not_ours(&self, number: &str, why: &str) -> EngineError {
        let (word, domid, command) = (self.word, self.domid, self.detach_command);
        let what = format!("{word} {number} of domain {domid} {why}: use `xl {command}`");
        DeviceError::Unsupported { what }.into()
    }
}

/// Reads the description of a device as a setting of xl.cfg. Its errors show the description.
pub(super) fn parse(setting: &str, text: &str) -> Result<DomainConfig, EngineError> {
    let list = Value::List(vec![Value::Atom(text.to_owned())]);
    // The other settings are there because a configuration needs them.
    let text = format!("{setting} = {list}\nname = \"x\"\ntype = \"pvh\"\nkernel = \"/x\"\n");
    let source = Source::from_bytes("<device>", text.as_bytes()).map_err(xl_cfg::Error::from)?;
    Ok(xl_cfg::parse::<&str>(source, &[])?.domain)
}

/// Whether two entries of libxl's record say the same. libxl leaves members out that have their default.
pub fn is_same_entry(one: &Json, other: &Json) -> bool {
    let said = |entry: &Json| {
        let members = entry.as_object().cloned().unwrap_or_default().into_iter();
        // Sorted: libxl writes the members in another order than Xyl.
        let said: BTreeMap<_, _> = members.filter(|(_, value)| !says_nothing(value)).collect();
        said
    };
    said(one) == said(other)
}

/// The driver domain of an entry of libxl's record, by its name, or else by its number; `Some(None)` for domain 0. `None` where the entry says
/// neither: taken for domain 0, the device would get another backend.
pub(super) fn backend_of_json(entry: &Json) -> Option<Option<String>> {
    let name = entry
        .get("backend_domname")
        .filter(|name| !says_nothing(name));
    let domid = entry
        .get("backend_domid")
        .filter(|domid| !says_nothing(domid));
    let backend = match (name, domid) {
        (Some(name), _) => name.as_str()?.to_owned(),
        (None, Some(domid)) => domid.as_u64()?.to_string(),
        (None, None) => return Some(None),
    };
    let is_here = matches!(backend.as_str(), "0" | "Domain-0");
    Some((!is_here).then_some(backend))
}

/// Whether a member of libxl's record is at its default.
pub(super) fn says_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(value) => !value,
        Json::Number(number) => number.as_i64() == Some(0),
        Json::String(text) => {
            text.is_empty() || matches!(text.as_str(), "<default>" | "False" | "unknown")
        }
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
    }
}

/// Devices of a domain whose guest was asked by Xyl to let them go, and that were not removed yet. Another toolstack removes
/// those that it has asked for.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn asked_for(host: &mut Host, domid: DomId) -> Result<Vec<Device>, EngineError> {
    let mut found = Vec::new();
    for device in devices(host, domid)? {
        if bus::is_asked(host, &device)? && bus::is_going(host, &device)? {
            found.push(device);
        }
    }
    Ok(found)
}

/// The devices of a domain that can be attached and detached one by one.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn devices(host: &mut Host, domid: DomId) -> Result<Vec<Device>, EngineError> {
    let mut found = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.hotplug().is_some()) {
        found.extend(bus::devices(host, domid, kind.name())?);
    }
    Ok(found)
}

/// A device as a list shows it. Values that a guest writes are numbers or absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number among the devices of the kind.
    pub number: u32,
    /// The domain of its backend.
    pub backend_domid: u16,
    /// The domain of its frontend, by the backend.
    pub frontend_domid: Option<u16>,
    /// State of its frontend (`XenbusState`).
    pub state: Option<u32>,
    /// The frontend's event channel.
    pub event_channel: Option<u32>,
    /// Grant reference of the frontend's ring.
    pub ring_ref: Option<u32>,
    /// Grant reference of a network interface's ring for what the guest sends.
    pub tx_ring_ref: Option<u32>,
    /// Grant reference of a network interface's ring for what the guest receives.
    pub rx_ring_ref: Option<u32>,
    /// Folder of the backend in xenstore.
    pub backend: String,
    /// Folder of the frontend in xenstore.
    pub frontend: String,
    /// The terminal of a console, as xenconsoled has written it.
    pub tty: Option<String>,
    /// Nodes of the toolstack's own copy.
    copy: Vec<(&'static str, Option<String>)>,
}

impl Listed {
    /// A node of the toolstack's own copy, of those that lists show.
    pub fn copy(&self, name: &str) -> Option<&str> {
        let mut nodes = self.copy.iter();
        let (_, value) = nodes.find(|(known, _)| *known == name)?;
        value.as_deref()
    }
}

/// The nodes of the copy that a list shows: of disks, of network interfaces, and of kinds that Xyl only lists.
const SHOWN: [&str; 15] = [
    "dev",
    "params",
    "mode",
    "type",
    "device-type",
    "mac",
    "bridge",
    "ip",
    "name",
    "connection",
    "uuid",
    "unique-id",
    "be-alloc",
    "usb-ver",
    "num-ports",
];

/// The devices of a kind of a domain, by the toolstack's own copy.
///
/// # Errors
/// Those of xenstore.
pub fn list(store: &mut Client, domid: DomId, kind: &str) -> Result<Vec<Listed>, EngineError> {
    use xenstore::Tree;
    let folder = node(&format!("/libxl/{domid}/device/{kind}"))?;
    let numbers = match store.directory(&folder) {
        Err(xenstore::Error::NotFound { .. }) => Vec::new(),
        other => other?,
    };
    let mut found = Vec::new();
    for number in numbers {
        if let Ok(number) = number.parse() {
            found.extend(listed(store, domid, kind, number)?);
        }
    }
    Ok(found)
}

/// One device; `None` without a backend.
fn listed(
    store: &mut Client,
    domid: DomId,
    kind: &str,
    number: u32,
) -> Result<Option<Listed>, EngineError> {
    use xenstore::Tree;
    let copy = format!("/libxl/{domid}/device/{kind}/{number}");
    let Some(backend) = store.read_text_opt(&node(&format!("{copy}/backend"))?)? else {
        return Ok(None);
    };
    let Some(backend_domid) = bus::domain_of_backend(&backend) else {
        return Ok(None);
    };
    let frontend = format!("/local/domain/{domid}/device/{kind}/{number}");
    let mut batch = Batch::new();
    let handle = batch.read_opt(&node(&format!("{backend}/frontend-id"))?);
    let state = batch.read_opt(&node(&format!("{frontend}/state"))?);
    let channel = batch.read_opt(&node(&format!("{frontend}/{}", port_node(kind)))?);
    let ring = batch.read_opt(&node(&format!("{frontend}/ring-ref"))?);
    let tx_ring = batch.read_opt(&node(&format!("{frontend}/tx-ring-ref"))?);
    let tty = batch.read_opt(&node(&format!("{frontend}/tty"))?);
    let rx_ring = batch.read_opt(&node(&format!("{frontend}/rx-ring-ref"))?);
    let mut reads = Vec::new();
    for name in SHOWN {
        reads.push((name, batch.read_opt(&node(&format!("{copy}/{name}"))?)));
    }
    let replies = store.run(&batch)?;
    let text = |index| std::str::from_utf8(replies.value(index)?).ok();
    let number_at = |index| text(index)?.trim().parse::<u32>().ok();
    Ok(Some(Listed {
        number,
        backend_domid,
        frontend_domid: number_at(handle).and_then(|domid| u16::try_from(domid).ok()),
        state: number_at(state),
        event_channel: number_at(channel),
        ring_ref: number_at(ring),
        tx_ring_ref: number_at(tx_ring),
        rx_ring_ref: number_at(rx_ring),
        copy: reads
            .into_iter()
            .map(|(name, index)| (name, text(index).map(str::to_owned)))
            .collect(),
        tty: text(tty).map(str::to_owned),
        frontend,
        backend,
    }))
}

/// The node of a frontend of this kind with its event channel.
fn port_node(kind: &str) -> &'static str {
    match kind {
        "console" => "port",
        _ => "event-channel",
    }
}

#[cfg(test)]
mod tests {
    use xenstore::Tree;
    use xenstore::mem::MemStore;

    use super::*;

    /// The program `xyl` keeps the order of members, as a feature of serde_json; this crate alone does not.
    #[test]
    fn entries_are_the_same_in_any_order_of_their_members() {
        let parse = |text| serde_json::from_str::<Json>(text).unwrap();
        let one = parse(r#"{"vdev": "xvdc", "pdev_path": "/a", "readwrite": 1}"#);
        let other = parse(r#"{"readwrite": 1, "script": "", "pdev_path": "/a", "vdev": "xvdc"}"#);
        assert!(is_same_entry(&one, &other));
        let other = parse(r#"{"readwrite": 1, "pdev_path": "/b", "vdev": "xvdc"}"#);
        assert!(!is_same_entry(&one, &other));
    }

    #[test]
    fn devices_are_those_of_the_copy_and_the_guests_values_are_numbers() {
        let mut store = MemStore::new().client(0).unwrap();
        for (path, value) in [
            (
                "/libxl/7/device/vif/10/backend",
                "/local/domain/3/backend/vif/7/10",
            ),
            (
                "/libxl/7/device/vif/2/backend",
                "/local/domain/0/backend/vif/7/2",
            ),
            ("/libxl/7/device/vif/2/mac", "00:16:3e:00:00:01"),
            ("/libxl/7/device/vif/4/backend", "elsewhere"),
            ("/libxl/7/device/vif/5/mac", "x"),
            ("/local/domain/7/device/vif/2/state", "4"),
            ("/local/domain/7/device/vif/2/tx-ring-ref", "768"),
            ("/local/domain/7/device/vif/2/event-channel", "1\u{1b}[2J"),
            (
                "/local/domain/7/device/vif/9/backend",
                "/local/domain/0/backend/vif/7/9",
            ),
        ] {
            let path = node(path).unwrap();
            store.write(&path, value.as_bytes()).unwrap();
        }
        let mut nics = list(&mut store, DomId(7), "vif").unwrap();
        nics.sort_by_key(|nic| nic.number);
        let [first, second] = &nics[..] else {
            panic!("{nics:?}");
        };
        assert_eq!((first.number, first.backend_domid), (2, 0));
        assert_eq!((second.number, second.backend_domid), (10, 3));
        assert_eq!(first.copy("mac"), Some("00:16:3e:00:00:01"));
        assert_eq!((first.state, first.tx_ring_ref), (Some(4), Some(768)));
        assert_eq!((first.event_channel, first.rx_ring_ref), (None, None));
        assert!(list(&mut store, DomId(8), "vif").unwrap().is_empty());
    }
}
