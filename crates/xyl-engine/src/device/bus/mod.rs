//! The handshake between the toolstack and a backend (xenbus).
//!
//! A device has three folders in xenstore: the frontend's, which the guest owns; the backend's; and the toolstack's own copy
//! below `/libxl/D/device`, which alone decides which devices there are. One transaction writes all three. Then the backend's
//! driver takes the device: state 1 (initialising) becomes 2 (waits for the guest). A driver that fails writes a text below
//! `/local/domain/0/error`, and state 5. Detaching asks for state 6 (closed), with a deadline, and removes the three folders.
//!
//! The backend is in domain 0, or in a driver domain, which is not trusted ([`elsewhere`]).
//!
//! The kinds of devices call it. Facts: `xenbus_probe.c`, `xenbus_client.c` of Linux, `libxl_device.c`.

pub mod elsewhere;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use os_port::list_if_there;
use uuid::Uuid;
use xen_port::DomId;
use xenstore::{Batch, Perms, Tree};

use crate::device::Patience;
use crate::device::nodes::{Access, Change, NodeRule};
use crate::error::DeviceError;
use crate::vm::paths::node;
use crate::{EngineError, Host};
pub use elsewhere::BackendDomain;

/// The kind of disks.
const DISKS: &str = "vbd";
/// The kind of network interfaces.
const INTERFACES: &str = "vif";
/// The kind of the backends in QEMU that serve disks.
pub const QEMU_DISKS: &str = "qdisk";
/// The kind of keyboards.
const KEYBOARDS: &str = "vkbd";
/// The kind of the backends of keyboards in a program that the administrator runs.
pub const LINUX_KEYBOARDS: &str = "vinput";
/// Token of the watches of this module.
const TOKEN: &str = "xyl-device";
/// Wait for a backend after which the wait is reported.
const NOTICE_AFTER: Duration = Duration::from_secs(1);
/// The first pause between two looks where no event comes. Each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Longest time in which a driver has to let go of an earlier device of the same number.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Longest text of a backend's error that is shown, in bytes.
const CAUSE_MAX_BYTES: usize = 256;
/// Longest wait between two looks whether the operation is cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// State of a device's backend (`XenbusState` in Xen's public header io/xenbus.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No node, or a value that is no state.
    Unknown,
    /// The toolstack has written the nodes.
    Initialising,
    /// The backend has taken the device.
    InitWait,
    /// Ring and event channel are known.
    Initialised,
    /// Both ends exchange requests.
    Connected,
    /// One end goes.
    Closing,
    /// Both ends have gone.
    Closed,
}

impl State {
    fn parse(value: Option<&[u8]>) -> State {
        match value {
            Some(b"1") => State::Initialising,
            Some(b"2") => State::InitWait,
            Some(b"3") => State::Initialised,
            Some(b"4") => State::Connected,
            Some(b"5") => State::Closing,
            Some(b"6") => State::Closed,
            _ => State::Unknown,
        }
    }

    /// The state in words, with its number.
    pub fn words(self) -> &'static str {
        match self {
            State::Unknown => "in no state",
            State::Initialising => "still initialising (state 1)",
            State::InitWait => "waiting for the guest (state 2)",
            State::Initialised => "initialised (state 3)",
            State::Connected => "connected (state 4)",
            State::Closing => "closing (state 5)",
            State::Closed => "closed (state 6)",
        }
    }
}

/// A device of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The domain whose guest uses it.
    pub domid: DomId,
    /// libxl's name of the kind: its folder on the frontend's side.
    pub kind: &'static str,
    /// The kind of its backend: its folder on the backend's side. For most kinds the name is the same.
    pub served_by: &'static str,
    /// Its number among the devices of this kind.
    pub number: u32,
    /// The domain with its backend.
    pub backend_domain: BackendDomain,
}

impl Device {
    /// The device in words, for messages.
    pub fn words(&self) -> String {
        format!("{} {} of domain {}", self.kind, self.number, self.domid)
    }

    /// The frontend's folder.
    pub fn frontend(&self) -> String {
        format!(
            "/local/domain/{}/device/{}/{}",
            self.domid, self.kind, self.number
        )
    }

    /// The backend's folder.
    pub fn backend(&self) -> String {
        format!(
            "/local/domain/{}/backend/{}/{}/{}",
            self.backend_domain.domid, self.served_by, self.domid, self.number
        )
    }

    /// The node with the backend's state.
    pub fn state_node(&self) -> String {
        format!("{}/state", self.backend())
    }

    /// Whether domain 0 serves it.
    pub fn is_here(&self) -> bool {
        self.backend_domain.is_dom0()
    }

    /// The folder of the toolstack's own copy.
    pub fn copy(&self) -> String {
        format!("/libxl/{}/device/{}/{}", self.domid, self.kind, self.number)
    }

    /// The folder with the backend's error.
    fn error(&self) -> String {
        format!(
            "{}/{}",
            error_folder(self.served_by, self.domid),
            self.number
        )
    }

    /// The folder of the driver in domain 0's sysfs, which is there while the driver has the device.
    pub fn driver_folder(&self, host: &Host) -> PathBuf {
        let name = format!("{}-{}-{}", self.kind, self.domid, self.number);
        host.dirs.backend_drivers().join(name)
    }
}

/// The folder in domain 0 with all backends of a kind for a domain.
fn backend_folder(kind: &str, domid: DomId) -> String {
    format!("/local/domain/0/backend/{kind}/{domid}")
}

/// The folder with the errors of these backends.
fn error_folder(kind: &str, domid: DomId) -> String {
    format!("/local/domain/0/error/backend/{kind}/{domid}")
}

/// All folders of domain 0 for devices of a kind of a domain.
pub fn folders(kind: &str, domid: DomId) -> Vec<String> {
    vec![backend_folder(kind, domid), error_folder(kind, domid)]
}

/// The tables of a kind's nodes, one for each folder. `I` is what the values are made from.
pub struct Tables<I: 'static> {
    /// Nodes of the frontend's folder.
    pub frontend: &'static [NodeRule<I>],
    /// Nodes of the backend's folder.
    pub backend: &'static [NodeRule<I>],
    /// Nodes of the toolstack's own copy.
    pub copy: &'static [NodeRule<I>],
}

impl<I> Tables<I> {
    /// The nodes of a device of a kind, for the documentation.
    pub(crate) fn rows(&self, kind: &str) -> Vec<(String, Access, &'static str)> {
        let folders = [
            (format!("~/device/{kind}/N"), self.frontend),
            (format!("/local/domain/0/backend/{kind}/D/N"), self.backend),
            (format!("/libxl/D/device/{kind}/N"), self.copy),
        ];
        let mut rows = Vec::new();
        for (folder, rules) in folders {
            let row =
                |rule: &NodeRule<I>| (format!("{folder}/{}", rule.path), rule.access, rule.reader);
            rows.extend(rules.iter().map(row));
        }
        rows
    }
}

/// The changes that make a device, in order.
fn changes<I>(device: &Device, tables: &Tables<I>, input: &I) -> Vec<Change> {
    let mut changes = Vec::new();
    let perms = |access: Access| access.perms(device.domid, device.backend_domain.domid);
    let folders = [
        (device.frontend(), Access::GuestOwns, tables.frontend),
        (device.backend(), Access::GuestReads, tables.backend),
        (device.copy(), Access::Dom0, tables.copy),
    ];
    for (folder, access, rules) in folders {
        changes.push(Change::Write(folder.clone(), String::new()));
        // The folder that the copy is in has these permissions already.
        if access != Access::Dom0 {
            changes.push(Change::Perms(folder.clone(), perms(access)));
        }
        for rule in rules {
            let Some(value) = (rule.value)(input) else {
                continue;
            };
            let path = format!("{folder}/{}", rule.path);
            changes.push(Change::Write(path.clone(), value));
            if rule.access != access {
                changes.push(Change::Perms(path, perms(rule.access)));
            }
        }
    }
    changes
}

/// Writes a device's nodes in one transaction. What an earlier device of this number left goes first. A driver that has that
/// device still would not look at the new one, so it has to let go of it before.
///
/// # Errors
/// [`DeviceError::Exists`], [`DeviceError::Held`], [`DeviceError::BackendDomainGone`], a domain that was removed, and those of xenstore.
pub fn write<I>(
    host: &mut Host,
    device: &Device,
    what: &str,
    tables: &Tables<I>,
    input: &I,
) -> Result<(), EngineError> {
    write_with(host, device, what, (tables, input), &[])
}

/// The same, with more nodes: paths and values.
///
/// # Errors
/// Those of [`write()`].
pub fn write_with<I>(
    host: &mut Host,
    device: &Device,
    what: &str,
    (tables, input): (&Tables<I>, &I),
    more: &[(String, String)],
) -> Result<(), EngineError> {
    if device.is_here() {
        await_released(host, device, what)?;
    }
    let (copy, domid) = (node(&device.copy())?, device.domid);
    let record = node(&format!("/libxl/{domid}"))?;
    let mut batch = Batch::new();
    let error = device.is_here().then(|| device.error());
    for folder in [device.frontend(), device.backend()]
        .into_iter()
        .chain(error)
    {
        batch.rm(&node(&folder)?);
    }
    for change in changes(device, tables, input) {
        change.add_to(&mut batch)?;
    }
    for (path, value) in more {
        batch.write(&node(path)?, value.as_bytes());
    }
    if let Some((path, uuid)) = elsewhere::note(device) {
        batch.write(&node(&path)?, uuid.as_bytes());
    }
    let backend = device.backend_domain;
    host.store.try_transaction(|transaction| {
        // Another toolstack may have destroyed the domain meanwhile. What is written afterwards would stay for ever.
        if !transaction.exists(&record)? {
            return Err(EngineError::NoSuchDomain(domid.to_string()));
        }
        if transaction.exists(&copy)? {
            let device = what.to_owned();
            return Err(DeviceError::Exists { domid, device }.into());
        }
        if !device.is_here() && !elsewhere::is_in_store(transaction, backend)? {
            return Err(elsewhere::ended(what, backend));
        }
        transaction.run(&batch)?;
        Ok(())
    })
}

/// Writes one more node of a backend.
///
/// # Errors
/// A domain whose device another toolstack has removed meanwhile, and those of xenstore.
pub fn write_more(
    host: &mut Host,
    device: &Device,
    name: &str,
    value: &str,
) -> Result<(), EngineError> {
    let copy = node(&device.copy())?;
    let path = node(&format!("{}/{name}", device.backend()))?;
    host.store.try_transaction(|transaction| {
        if !transaction.exists(&copy)? {
            return Err(EngineError::NoSuchDomain(device.domid.to_string()));
        }
        transaction.write(&path, value.as_bytes())?;
        Ok(())
    })
}

/// Waits until the driver has let go of an earlier device of this number. Xenstore has no event for that.
fn await_released(host: &mut Host, device: &Device, what: &str) -> Result<(), EngineError> {
    let folder = device.driver_folder(host);
    let deadline = host.clock.now() + RELEASE_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        let files = list_if_there(&*host.files, &folder)
            .map_err(|source| EngineError::io("list", &folder, source))?;
        if files.is_empty() {
            return Ok(());
        }
        if host.clock.now() >= deadline {
            return Err(DeviceError::Held {
                device: what.to_owned(),
                path: folder,
                limit_s: RELEASE_LIMIT.as_secs(),
            }
            .into());
        }
        host.wait_for(&[], pause)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A device whose nodes are written, for the wait for its backend.
pub struct Attaching<'a> {
    /// The device itself.
    pub device: Device,
    /// The device, in words.
    pub what: &'a str,
    /// Whether the driver has all that it needs, once it is in state 2.
    pub is_ready: &'a dyn Fn(&Host) -> Result<bool, EngineError>,
}

/// Limits of a wait for backends.
#[derive(Clone, Copy)]
pub struct AttachLimits<'a> {
    /// Longest time for all devices together.
    pub limit: Duration,
    /// The remedy where nothing happens.
    pub remedy: &'static str,
    /// Deadline and cancel of the operation.
    pub patience: &'a Patience<'a>,
}

/// Waits until the backend's driver has taken each of these devices of one kind and domain, or says why it does not.
///
/// # Errors
/// [`DeviceError::Backend`], [`DeviceError::Silent`], those of [`Patience::check`] and xenstore.
pub fn await_attached(
    host: &mut Host,
    all: &[Attaching<'_>],
    limits: AttachLimits<'_>,
) -> Result<(), EngineError> {
    let Some(first) = all.first() else {
        return Ok(());
    };
    let watched = folders(first.device.served_by, first.device.domid);
    while_watched(host, &watched, |host| await_drivers(host, all, limits))
}

fn await_drivers(
    host: &mut Host,
    all: &[Attaching<'_>],
    limits: AttachLimits<'_>,
) -> Result<(), EngineError> {
    let deadline = host.clock.now() + limits.limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let Some((slow, state)) = first_unready(host, all)? else {
            return Ok(());
        };
        limits.patience.check(host)?;
        let left = deadline.saturating_duration_since(host.clock.now());
        if left.is_zero() {
            return Err(DeviceError::Silent {
                device: slow.what.to_owned(),
                state: state.words(),
                limit_s: limits.limit.as_secs(),
                remedy: limits.remedy,
            }
            .into());
        }
        // Xenstore tells of the state. No event tells that the driver has the rest.
        let is_taken = state != State::Initialising;
        let next = if is_taken { pause } else { LOOK_EVERY };
        pause = (pause * 2).min(LONGEST_PAUSE);
        await_events(host, next.min(left))?;
    }
}

/// The first device that its backend has not taken whole, and the backend's state. A backend that has failed is an error.
fn first_unready<'a, 'b>(
    host: &mut Host,
    all: &'a [Attaching<'b>],
) -> Result<Option<(&'a Attaching<'b>, State)>, EngineError> {
    for (one, (state, cause)) in all.iter().zip(look(host, all)?) {
        refuse_failed(one.what, state, cause)?;
        if state == State::Initialising || !(one.is_ready)(host)? {
            return Ok(Some((one, state)));
        }
    }
    Ok(None)
}

/// Waits for an event, and takes all that have come: one look follows.
fn await_events(host: &mut Host, limit: Duration) -> Result<(), EngineError> {
    let mut next = host.wait_for(&[TOKEN], limit)?;
    while next.is_some() {
        next = host.wait_for(&[TOKEN], Duration::ZERO)?;
    }
    Ok(())
}

/// State of each backend, and its error.
fn look(
    host: &mut Host,
    all: &[Attaching<'_>],
) -> Result<Vec<(State, Option<String>)>, EngineError> {
    let mut batch = Batch::new();
    let mut reads = Vec::new();
    for one in all {
        let state = batch.read_opt(&node(&one.device.state_node())?);
        let error = batch.read_opt(&node(&format!("{}/error", one.device.error()))?);
        reads.push((state, error));
    }
    let replies = host.store.run(&batch)?;
    let seen = |(state, error)| {
        let cause = replies.value(error).filter(|text| !text.is_empty());
        (State::parse(replies.value(state)), cause.map(printable))
    };
    Ok(reads.into_iter().map(seen).collect())
}

/// The start of a text that is not the toolstack's, as one line.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..CAUSE_MAX_BYTES).unwrap_or(text)).into_owned();
    text.chars().filter(|c| !c.is_control()).collect()
}

fn refuse_failed(what: &str, state: State, cause: Option<String>) -> Result<(), EngineError> {
    let has_gone = matches!(state, State::Closing | State::Closed | State::Unknown);
    let cause = match cause {
        Some(cause) => cause,
        None if has_gone => format!("it is {}", state.words()),
        None => return Ok(()),
    };
    let device = what.to_owned();
    Err(DeviceError::Backend { device, cause }.into())
}

/// Does something while these paths are watched. A watch that an earlier try could not end serves this one.
fn while_watched<T>(
    host: &mut Host,
    paths: &[String],
    act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let watched = paths.iter().try_for_each(|path| watch(host, path));
    let outcome = watched.and_then(|()| act(host));
    let mut unwatched = Ok(());
    for path in paths {
        let ended = host.store.unwatch(&node(path)?, TOKEN);
        unwatched = unwatched.and(ended);
    }
    // An error of the act says more.
    let done = outcome?;
    unwatched?;
    Ok(done)
}

fn watch(host: &mut Host, path: &str) -> Result<(), EngineError> {
    match host.store.watch(&node(path)?, TOKEN) {
        Err(error) if error.is_there_already() => Ok(()),
        other => Ok(other?),
    }
}

/// The numbers of a domain's devices of a kind, by the toolstack's own copy.
///
/// # Errors
/// Those of xenstore.
pub fn numbers(host: &mut Host, domid: DomId, kind: &str) -> Result<Vec<String>, EngineError> {
    host.children(&node(&format!("/libxl/{domid}/device/{kind}"))?)
}

/// The hot-plug script of a device, by the toolstack's own copy.
///
/// # Errors
/// Those of xenstore.
pub fn script(host: &mut Host, device: &Device) -> Result<Option<String>, EngineError> {
    let path = node(&format!("{}/script", device.copy()))?;
    Ok(host.store.read_text_opt(&path)?)
}

/// The devices of a kind of a domain that Xyl knows how to take down: their backends are in domain 0, or in a driver domain.
///
/// # Errors
/// Those of xenstore.
pub fn devices(
    host: &mut Host,
    domid: DomId,
    kind: &'static str,
) -> Result<Vec<Device>, EngineError> {
    let mut found = Vec::new();
    for number in numbers(host, domid, kind)? {
        found.extend(device_of(host, domid, kind, &number)?);
    }
    Ok(found)
}

/// The device of a number; `None` where its backend is another one.
///
/// # Errors
/// Those of xenstore.
pub fn device_of(
    host: &mut Host,
    domid: DomId,
    kind: &'static str,
    number: &str,
) -> Result<Option<Device>, EngineError> {
    let Ok(number) = number.parse() else {
        return Ok(None);
    };
    let device = |served_by, backend_domain| Device {
        domid,
        kind,
        served_by,
        number,
        backend_domain,
    };
    let copy = device(kind, BackendDomain::DOM0).copy();
    let backend = node(&format!("{copy}/backend"))?;
    let backend = host.store.read_text_opt(&backend)?.unwrap_or_default();
    let Some(backend_domid) = domain_of_backend(&backend) else {
        return Ok(None);
    };
    let mut backend_domain = BackendDomain {
        domid: DomId(backend_domid),
        uuid: None,
    };
    if !backend_domain.is_dom0() {
        if !matches!(kind, DISKS | INTERFACES) {
            return Ok(None);
        }
        let note = node(&format!("{copy}/{BACKEND_DOMAIN}"))?;
        let uuid = host.store.read_text_opt(&note)?;
        backend_domain.uuid = uuid.and_then(|uuid| Uuid::try_parse(&uuid).ok());
    }
    let mut known = backends_of(kind).map(|served_by| device(served_by, backend_domain));
    Ok(known.find(|device| backend == device.backend()))
}

/// The domain of a backend's folder, `/local/domain/B/backend/...`.
pub(super) fn domain_of_backend(folder: &str) -> Option<u16> {
    let rest = folder.strip_prefix("/local/domain/")?;
    let (domid, rest) = rest.split_once('/')?;
    rest.starts_with("backend/").then_some(())?;
    domid.parse().ok()
}

/// The kinds of backends that serve the devices of a kind.
fn backends_of(kind: &'static str) -> impl Iterator<Item = &'static str> {
    let other = match kind {
        DISKS => Some(QEMU_DISKS),
        KEYBOARDS => Some(LINUX_KEYBOARDS),
        _ => None,
    };
    [kind].into_iter().chain(other)
}

/// The kind of backends of this name that serves devices of a kind.
pub fn backend_named(kind: &'static str, name: &str) -> Option<&'static str> {
    backends_of(kind).find(|known| *known == name)
}

/// Detaches all devices of a kind of a domain by force: their guest does not run, or is not asked. Waits until the driver has
/// closed each, but not longer than `deadline`, and removes their nodes in any case. Returns the devices that the driver had
/// not closed by then.
///
/// # Errors
/// Those of xenstore.
pub fn detach(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    let open = close_all(host, devices, deadline)?;
    remove(host, devices)?;
    Ok(open)
}

/// The first part of [`detach`]: the nodes of toolstack and backend stay.
///
/// # Errors
/// Those of xenstore.
pub fn close_all(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    let Some(first) = devices.first() else {
        return Ok(Vec::new());
    };
    close(host, devices)?;
    let folder = backend_folder(first.served_by, first.domid);
    while_watched(host, &[folder], |host| {
        await_closed_with_notice(host, devices, deadline)
    })
}

/// Waits until the backends have closed the devices. Reports a wait that is not short.
fn await_closed_with_notice(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    let first = host.clock.now() + NOTICE_AFTER;
    let open = await_closed(host, devices, first.min(deadline))?;
    let left = deadline.saturating_duration_since(host.clock.now());
    let Some(device) = open.first().filter(|_| !left.is_zero()) else {
        return Ok(open);
    };
    (host.notice)(&format!(
        "waiting for the backend in domain 0 to close {} {} of domain {}, for {} s at most",
        device.kind,
        device.number,
        device.domid,
        left.as_secs() + 1
    ));
    await_closed(host, devices, deadline)
}

/// Asks the backends to close the devices, and takes the frontends away, which ends their part at once.
fn close(host: &mut Host, devices: &[Device]) -> Result<(), EngineError> {
    host.store.try_transaction(|transaction| {
        let states = states(transaction, devices)?;
        let mut batch = Batch::new();
        for (device, state) in devices.iter().zip(states) {
            add_close(transaction, &mut batch, device, state)?;
            batch.rm(&node(&device.frontend())?);
        }
        transaction.run(&batch)?;
        Ok::<(), EngineError>(())
    })
}

/// Adds the request to a backend to close. One without nodes stays so.
fn add_close(
    store: &mut impl Tree,
    batch: &mut Batch,
    device: &Device,
    state: State,
) -> Result<(), EngineError> {
    if state == State::Unknown && !store.exists(&node(&device.backend())?)? {
        return Ok(());
    }
    batch.write(&node(&format!("{}/online", device.backend()))?, b"0");
    if !matches!(state, State::Closed | State::Unknown) {
        batch.write(&node(&device.state_node())?, b"5");
    }
    Ok(())
}

fn states(store: &mut impl Tree, devices: &[Device]) -> Result<Vec<State>, EngineError> {
    let mut batch = Batch::new();
    let mut reads = Vec::new();
    for device in devices {
        reads.push(batch.read_opt(&node(&device.state_node())?));
    }
    let replies = store.run(&batch)?;
    Ok(reads
        .into_iter()
        .map(|read| State::parse(replies.value(read)))
        .collect())
}

fn await_closed(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    loop {
        let states = states(&mut host.store, devices)?;
        let is_open = |state: State| !matches!(state, State::Closed | State::Unknown);
        let open: Vec<Device> = devices
            .iter()
            .zip(states)
            .filter(|(_, state)| is_open(*state))
            .map(|(device, _)| *device)
            .collect();
        let left = deadline.saturating_duration_since(host.clock.now());
        if open.is_empty() || left.is_zero() {
            return Ok(open);
        }
        host.wait_for(&[TOKEN], left)?;
    }
}

/// Removes the nodes of all devices of a kind of a domain that one kind of backends serves.
///
/// # Errors
/// Those of xenstore.
pub fn remove(host: &mut Host, devices: &[Device]) -> Result<(), EngineError> {
    let mut gone = Vec::new();
    for device in devices {
        gone.extend([device.frontend(), device.copy()]);
        gone.extend(folders(device.served_by, device.domid));
    }
    gone.sort_unstable();
    gone.dedup();
    let mut batch = Batch::new();
    for folder in gone {
        batch.rm(&node(&folder)?);
    }
    host.store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    Ok(())
}

/// Asks the guest of a device to let it go, as libxl does: the backend's node `online` is 0, its state 5 (closing). The
/// toolstack's copy gets the note that Xyl has asked. The state
/// before that; [`State::Unknown`] for a backend without nodes, which is left alone.
///
/// # Errors
/// Those of xenstore.
pub fn ask_to_close(host: &mut Host, device: &Device) -> Result<State, EngineError> {
    if !device.is_here() {
        return elsewhere::ask_to_close(host, device);
    }
    let copy = node(&device.copy())?;
    let note = node(&format!("{}/{ASKED}", device.copy()))?;
    host.store.try_transaction(|transaction| {
        let state = state_of(transaction, device)?;
        let mut batch = Batch::new();
        add_close(transaction, &mut batch, device, state)?;
        if transaction.exists(&copy)? {
            batch.write(&note, b"1");
        }
        transaction.run(&batch)?;
        Ok::<State, EngineError>(state)
    })
}

/// Takes the frontend of a device away, and asks the backend to close: the guest is not asked.
///
/// # Errors
/// Those of xenstore.
pub fn force_to_close(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    // A driver domain reads the frontend's state: it must not lose that right before it is asked.
    if !device.is_here() {
        return elsewhere::force_to_close(host, device);
    }
    keep_guest_out(host, device)?;
    host.store.try_transaction(|transaction| {
        let state = state_of(transaction, device)?;
        let mut batch = Batch::new();
        add_close(transaction, &mut batch, device, state)?;
        transaction.run(&batch)?;
        Ok::<(), EngineError>(())
    })?;
    // After the backend's state: the driver looks at that when the frontend goes.
    Ok(host.store.rm(&node(&device.frontend())?)?)
}

/// Takes the guest's right to write the state of its frontend. Each write of the guest, and each of the backend that follows
/// it, would let a transaction fail that reads the same nodes.
fn keep_guest_out(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    let state = node(&format!("{}/state", device.frontend()))?;
    match host.store.set_perms(&state, &Perms::owned_by(0)) {
        Err(xenstore::Error::NotFound { .. }) => Ok(()),
        other => Ok(other?),
    }
}

/// Waits while backend and guest are about to connect a device, but not longer than the deadline.
///
/// Linux's driver for disks stops at a BUG, and with it all later hot-plug of that guest, if the backend closes meanwhile (seen with 6.1).
///
/// # Errors
/// Those of xenstore.
pub fn await_handshake(
    host: &mut Host,
    device: &Device,
    deadline: Instant,
) -> Result<(), EngineError> {
    let is_between = |state: State| matches!(state, State::InitWait | State::Initialised);
    if !is_between(state(host, device)?) {
        return Ok(());
    }
    if !device.is_here() {
        return elsewhere::await_handshake(host, device, deadline, is_between);
    }
    let watched = device.state_node();
    while_watched(host, &[watched], |host| {
        loop {
            let left = deadline.saturating_duration_since(host.clock.now());
            if left.is_zero() || !is_between(state(host, device)?) {
                return Ok(());
            }
            host.wait_for(&[TOKEN], left)?;
        }
    })
}

/// Waits until a device that was asked to close has closed. Its last state.
///
/// # Errors
/// Those of xenstore.
pub fn await_one_closed(
    host: &mut Host,
    device: &Device,
    deadline: Instant,
) -> Result<State, EngineError> {
    let one = std::slice::from_ref(device);
    if device.is_here() {
        let state = device.state_node();
        while_watched(host, &[state], |host| await_closed(host, one, deadline))?;
    } else {
        elsewhere::await_closed(host, one, deadline)?;
    }
    state(host, device)
}

/// Waits until a backend that removes its nodes has removed them, but not longer than the deadline.
///
/// # Errors
/// Those of xenstore.
pub fn await_backend_gone(
    host: &mut Host,
    device: &Device,
    deadline: Instant,
) -> Result<(), EngineError> {
    let folder = device.backend();
    let path = node(&folder)?;
    while_watched(host, &[folder], |host| {
        while host.store.exists(&path)? {
            let left = deadline.saturating_duration_since(host.clock.now());
            if left.is_zero() {
                break;
            }
            host.wait_for(&[TOKEN], left)?;
        }
        Ok(())
    })
}

/// Watches the state of a device's backend, for good. The first event comes at once.
///
/// # Errors
/// Those of xenstore.
pub fn watch_state(host: &mut Host, device: &Device, token: &str) -> Result<(), EngineError> {
    let path = node(&device.state_node())?;
    // An earlier device of this number, or an earlier detach of this one, may have set it.
    let _ = host.store.unwatch(&path, token);
    Ok(host.store.watch(&path, token)?)
}

/// State of a device's backend.
///
/// # Errors
/// Those of xenstore.
pub fn state(host: &mut Host, device: &Device) -> Result<State, EngineError> {
    if !device.is_here() {
        return elsewhere::state(host, device);
    }
    state_of(&mut host.store, device)
}

/// State of a device that the kernel of this very domain serves, whatever domain that is.
///
/// # Errors
/// Those of xenstore.
pub fn state_here(host: &mut Host, device: &Device) -> Result<State, EngineError> {
    state_of(&mut host.store, device)
}

fn state_of(store: &mut impl Tree, device: &Device) -> Result<State, EngineError> {
    let states = states(store, std::slice::from_ref(device))?;
    Ok(states.first().copied().unwrap_or(State::Unknown))
}

/// Node of the toolstack's copy that says that Xyl has asked for the device. It goes with the copy.
const ASKED: &str = "xyl-detach";
/// Node of the toolstack's copy with the UUID of the driver domain that serves the device.
const BACKEND_DOMAIN: &str = "xyl-backend-domain";

/// Identity of a device among those that have had its number, from the nodes that stay while it is there. Empty for no device.
///
/// # Errors
/// Those of xenstore.
pub fn identity(host: &mut Host, device: &Device) -> Result<String, EngineError> {
    let (copy, backend) = (device.copy(), device.backend());
    let mut batch = Batch::new();
    let mut reads = Vec::new();
    for name in ["backend", "params", "mode", "mac", BACKEND_DOMAIN] {
        reads.push((name, batch.read_opt(&node(&format!("{copy}/{name}"))?)));
    }
    if device.is_here() {
        let name = "physical-device";
        reads.push((name, batch.read_opt(&node(&format!("{backend}/{name}"))?)));
    }
    let replies = host.store.run(&batch)?;
    let known = reads.into_iter().filter_map(|(name, index)| {
        let value = String::from_utf8_lossy(replies.value(index)?).into_owned();
        Some(format!("{name}={value}"))
    });
    Ok(known.collect::<Vec<_>>().join("\n"))
}

/// Whether Xyl has asked the guest of a device to let it go.
///
/// # Errors
/// Those of xenstore.
pub fn is_asked(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let note = node(&format!("{}/{ASKED}", device.copy()))?;
    Ok(host.store.read_opt(&note)?.is_some())
}

/// Whether a device is to stay, and its backend has taken it and not closed it.
///
/// # Errors
/// Those of xenstore.
pub fn is_in_use(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    use State::{Connected, InitWait, Initialised};
    let is_taken = matches!(state(host, device)?, InitWait | Initialised | Connected);
    Ok(is_taken && !is_going(host, device)?)
}

/// Whether a device was asked to close and has not been removed: the node `online` of its backend is 0. That of a driver domain says
/// nothing, so the toolstack's own note counts there. QEMU removes that node once it has closed a device; then the note says it too.
///
/// # Errors
/// Those of xenstore.
pub fn is_going(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    if !device.is_here() {
        return is_asked(host, device);
    }
    let online = node(&format!("{}/online", device.backend()))?;
    match host.store.read_opt(&online)? {
        Some(online) => Ok(online == b"0"),
        None => is_asked(host, device),
    }
}

/// Whether the toolstack's own copy has a device.
///
/// # Errors
/// Those of xenstore.
pub fn is_there(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let backend = node(&format!("{}/backend", device.copy()))?;
    let backend = host.store.read_opt(&backend)?;
    Ok(backend.is_some_and(|backend| backend == device.backend().as_bytes()))
}

/// Whether the guest's end of a device is set up, as the guest says.
///
/// # Errors
/// Those of xenstore.
pub fn has_frontend(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    let state = node(&format!("{}/state", device.frontend()))?;
    let state = State::parse(host.store.read_opt(&state)?.as_deref());
    Ok(matches!(state, State::Initialised | State::Connected))
}

/// Whether a device was not asked to close: another toolstack may have attached it after one that was.
///
/// # Errors
/// Those of xenstore.
pub fn is_to_stay(store: &mut impl Tree, device: &Device) -> Result<bool, EngineError> {
    let online = node(&format!("{}/online", device.backend()))?;
    Ok(store.read_opt(&online)?.is_some_and(|value| value != b"0"))
}

/// Removes the nodes of one device, and the folders that are empty then, as libxl does. A device that another toolstack has
/// attached under this number meanwhile stays.
///
/// # Errors
/// Those of xenstore.
pub fn remove_one(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    let (kind, domid) = (device.served_by, device.domid);
    if is_to_stay(&mut host.store, device)? {
        return Ok(());
    }
    // Outside of the transaction: the guest may write its nodes all the time, and cannot make the folder anew.
    host.store.rm(&node(&device.frontend())?)?;
    let folders = [
        (device.frontend(), format!("/local/domain/{domid}")),
        (device.copy(), format!("/libxl/{domid}")),
        (device.backend(), "/local/domain/0/backend".to_owned()),
        (
            device.error(),
            format!("/local/domain/0/error/backend/{kind}"),
        ),
    ];
    host.store.try_transaction(|transaction| {
        if is_to_stay(transaction, device)? {
            return Ok(());
        }
        for (folder, last) in &folders {
            remove_upwards(transaction, folder, last)?;
        }
        Ok::<(), EngineError>(())
    })
}

/// Removes a folder, and those above it that are empty then, up to `last`, which stays.
fn remove_upwards(store: &mut impl Tree, folder: &str, last: &str) -> Result<(), EngineError> {
    store.rm(&node(folder)?)?;
    let mut above = folder;
    while let Some((parent, _)) = above.rsplit_once('/') {
        if parent == last || !parent.starts_with(last) {
            break;
        }
        match store.directory(&node(parent)?) {
            Ok(names) if names.is_empty() => store.rm(&node(parent)?)?,
            Ok(_) => break,
            Err(xenstore::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        above = parent;
    }
    Ok(())
}
