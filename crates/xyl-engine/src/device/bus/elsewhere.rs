//! Devices whose backend is in a driver domain. Xyl does not trust such a domain.
//!
//! Of what such a domain writes, two nodes are read: `state` and `hotplug-status`. All paths are computed. No wait is for events
//! of its nodes, since it could cause any number of them: each wait looks again after a pause, and has a deadline. No transaction
//! that must succeed reads nodes that the domain can write, since it could make each one fail. Its toolstack (`xyl devd`, `xl devd`) does there what
//! Xyl does in domain 0: it runs the script, and removes the backend's nodes once the device is closed.
//!
//! A device is bound to the life of its driver domain: the toolstack's copy has that domain's UUID. A domain that has ended, or whose
//! number is another domain's by now, serves nothing more, and nothing waits for it.
//!
//! Facts: `libxl_device.c`, `libxl_linux.c`.

use std::time::{Duration, Instant};

use uuid::Uuid;
use xen_port::DomId;
use xenstore::{Batch, Tree};

use super::{
    ASKED, BACKEND_DOMAIN, Device, FIRST_PAUSE, LONGEST_PAUSE, State, is_asked, remove_upwards,
};
use crate::device::{Owner, Patience};
use crate::error::DeviceError;
use crate::vm::domains::{self, DomainRef};
use crate::vm::names;
use crate::vm::paths::{home, node};
use crate::vm::words::backend_of;
use crate::{EngineError, Host};

/// Longest time in which a driver domain has to take a device, as in libxl (`LIBXL_INIT_TIMEOUT`).
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// Shortest time in which a driver domain has to take a device down.
const FINISH_MIN: Duration = Duration::from_secs(2);
/// The driver domain's node about its script.
const STATUS: &str = "hotplug-status";

/// The domain with a device's backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendDomain {
    /// Number of that domain.
    pub domid: DomId,
    /// Its UUID. `None` for domain 0, and for a device that another toolstack has attached.
    pub uuid: Option<Uuid>,
}

impl BackendDomain {
    /// Domain 0 as the backend.
    pub const DOM0: BackendDomain = BackendDomain {
        domid: DomId::ZERO,
        uuid: None,
    };

    /// Whether it is domain 0.
    pub fn is_dom0(self) -> bool {
        self.domid == DomId::ZERO
    }
}

/// State of a driver domain, for a device that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It runs, and can answer.
    Runs,
    /// It has ended, or is about to.
    Ended,
    /// Its number is another domain's by now.
    Another,
}

fn life(host: &Host, backend: BackendDomain) -> Result<Life, EngineError> {
    let Some(info) = host.hv.domain_info(backend.domid)? else {
        return Ok(Life::Ended);
    };
    let is_another = backend
        .uuid
        .is_some_and(|uuid| &info.handle != uuid.as_bytes());
    Ok(
        match (is_another, info.flags.dying || info.flags.shutdown) {
            (true, _) => Life::Another,
            (false, true) => Life::Ended,
            (false, false) => Life::Runs,
        },
    )
}

/// The domain that a configuration names as the backend of a device: its number, its UUID and its name.
///
/// # Errors
/// [`DeviceError::NoBackendDomain`], [`DeviceError::BackendDomainGone`]; those of Xen and xenstore.
pub fn find(
    host: &mut Host,
    device: &str,
    asked: &str,
) -> Result<(BackendDomain, String), EngineError> {
    let (hv, store, index) = host.directory();
    let info = match domains::find(hv, store, &index, &DomainRef::parse(asked)) {
        Ok(domain) => domain.info,
        Err(EngineError::NoSuchDomain(_)) => {
            return Err(DeviceError::NoBackendDomain {
                device: device.to_owned(),
                backend: asked.to_owned(),
            }
            .into());
        }
        Err(error) => return Err(error),
    };
    let backend = match info.domid {
        DomId::ZERO => BackendDomain::DOM0,
        domid => BackendDomain {
            domid,
            uuid: Some(Uuid::from_bytes(info.handle)),
        },
    };
    refuse_ended(host, device, backend)?;
    let mut names = names::read(&mut host.store, std::slice::from_ref(&info))?;
    let name = names.pop().flatten().unwrap_or_else(|| asked.to_owned());
    Ok((backend, name))
}

/// The domain that is to serve a device of another one.
///
/// # Errors
/// Those of [`find`]; [`DeviceError::Unsupported`] for a domain that would serve itself, and for domain 0, which has another way.
pub fn find_for(
    host: &mut Host,
    owner: Owner,
    device: &str,
    asked: &str,
) -> Result<(BackendDomain, String), EngineError> {
    let found = find(host, device, asked)?;
    let why = match found.0.domid {
        DomId::ZERO => "is domain 0: take it out",
        domid if domid == owner.domid => "is the domain itself, which cannot serve itself",
        _ => return Ok(found),
    };
    let what = format!("{device}: backend={asked} {why}");
    Err(DeviceError::Unsupported { what }.into())
}

/// Finds the driver domain of a configuration, if it names one, and puts its name in place of its number. A number is another domain's one day.
///
/// # Errors
/// Those of [`find`].
pub fn name(
    host: &mut Host,
    device: &str,
    backend: &mut Option<String>,
) -> Result<(), EngineError> {
    if let Some(asked) = backend.as_deref() {
        let (found, name) = find(host, device, asked)?;
        if !found.is_dom0() && !is_name(&name) {
            let what = format!(
                "{device}: its backend domain {} has the name {name:?}, which no configuration can have as `backend`: rename it",
                found.domid
            );
            return Err(DeviceError::Unsupported { what }.into());
        }
        *backend = (!found.is_dom0()).then_some(name);
    }
    Ok(())
}

/// Whether a configuration that has this text as `backend` means the domain of this name. Other toolstacks give any names.
pub fn is_name(text: &str) -> bool {
    matches!(DomainRef::parse(text), DomainRef::Name(_))
        && backend_of(Some(text)).is_ok_and(|backend| backend.as_deref() == Some(text))
}

fn refuse_ended(host: &Host, device: &str, backend: BackendDomain) -> Result<(), EngineError> {
    match backend.is_dom0() || life(host, backend)? == Life::Runs {
        true => Ok(()),
        false => Err(ended(device, backend)),
    }
}

/// The error of a driver domain that has ended.
pub(super) fn ended(device: &str, backend: BackendDomain) -> EngineError {
    DeviceError::BackendDomainGone {
        device: device.to_owned(),
        backend: backend.domid,
    }
    .into()
}

/// The node in the toolstack's copy of a device that says which domain serves it, and its value.
pub(super) fn note(device: &Device) -> Option<(String, String)> {
    let uuid = device.backend_domain.uuid?;
    let path = format!("{}/{BACKEND_DOMAIN}", device.copy());
    Some((path, uuid.hyphenated().to_string()))
}

/// Whether a driver domain has nodes as the domain with this UUID has them. Its toolstack in domain 0 writes them, and no guest can.
pub(super) fn is_in_store(
    store: &mut impl Tree,
    backend: BackendDomain,
) -> Result<bool, EngineError> {
    let vm = store.read_opt(&home(backend.domid, "vm")?)?;
    let Some(vm) = vm else {
        return Ok(store.exists(&home(backend.domid, "name")?)?);
    };
    let is_same = |uuid: Uuid| vm == format!("/vm/{}", uuid.hyphenated()).as_bytes();
    Ok(backend.uuid.is_none_or(is_same))
}

/// State of a device's backend in a driver domain. One that has ended has none.
pub(super) fn state(host: &mut Host, device: &Device) -> Result<State, EngineError> {
    match life(host, device.backend_domain)? {
        Life::Runs => Ok(look(host, device)?.state),
        Life::Ended | Life::Another => Ok(State::Unknown),
    }
}

/// All that is read of the nodes of a driver domain.
struct Seen {
    state: State,
    status: Status,
}

/// The result of the script of a driver domain, by its node `hotplug-status`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    /// It says nothing yet, or nothing that is known.
    None,
    /// It has done its work.
    Connected,
    /// It has failed.
    Failed,
}

fn look(host: &mut Host, device: &Device) -> Result<Seen, EngineError> {
    let mut batch = Batch::new();
    let state = batch.read_opt(&node(&device.state_node())?);
    let status = batch.read_opt(&node(&format!("{}/{STATUS}", device.backend()))?);
    let replies = host.store.run(&batch)?;
    Ok(Seen {
        state: State::parse(replies.value(state)),
        status: match replies.value(status) {
            Some(b"connected") => Status::Connected,
            Some(b"error" | b"busy") => Status::Failed,
            _ => Status::None,
        },
    })
}

// ---- attach -------------------------------------------------------------------------------------

/// The progress of a driver domain with a device.
enum Progress {
    /// It has all of the device.
    Served,
    /// Its kernel has the device, and its script has said nothing.
    Taken,
    /// It has done nothing.
    Nothing,
}

/// Waits until the driver domains have taken these devices, or have failed. A driver domain whose script says nothing is reported, and no error:
/// as with xl, its state counts.
///
/// # Errors
/// [`DeviceError::Elsewhere`], [`DeviceError::BackendDomainGone`], those of [`Patience::check`] and xenstore.
pub fn await_taken(
    host: &mut Host,
    all: &[(Device, String)],
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let deadline = host.clock.now() + ATTACH_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        let waits = unserved(host, all)?;
        if waits.is_empty() {
            return Ok(());
        }
        patience.check(host)?;
        if host.clock.now() >= deadline {
            return at_deadline(host, &waits);
        }
        host.wait_for(&[], pause)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The devices that their driver domains do not serve yet, and whether those have taken them.
fn unserved<'a>(
    host: &mut Host,
    all: &'a [(Device, String)],
) -> Result<Vec<(&'a Device, &'a str, bool)>, EngineError> {
    let mut waits = Vec::new();
    for (device, what) in all {
        match progress(host, device, what)? {
            Progress::Served => {}
            Progress::Taken => waits.push((device, what.as_str(), true)),
            Progress::Nothing => waits.push((device, what.as_str(), false)),
        }
    }
    Ok(waits)
}

fn progress(host: &mut Host, device: &Device, what: &str) -> Result<Progress, EngineError> {
    refuse_ended(host, what, device.backend_domain)?;
    let seen = look(host, device)?;
    if seen.status == Status::Failed {
        let why = format!("has failed: its node {STATUS} says so");
        return Err(failure(device, what, why));
    }
    match (seen.state, seen.status) {
        (State::Unknown | State::Closing | State::Closed, _) => {
            Err(failure(device, what, format!("is {}", seen.state.words())))
        }
        (State::Initialising, _) => Ok(Progress::Nothing),
        (State::Connected, _) | (_, Status::Connected) => Ok(Progress::Served),
        _ => Ok(Progress::Taken),
    }
}

fn failure(device: &Device, what: &str, why: String) -> EngineError {
    DeviceError::Elsewhere {
        device: what.to_owned(),
        domid: device.domid,
        backend: device.backend_domain.domid,
        why,
    }
    .into()
}

fn at_deadline(host: &Host, waits: &[(&Device, &str, bool)]) -> Result<(), EngineError> {
    let limit_s = ATTACH_LIMIT.as_secs();
    for (device, what, is_taken) in waits {
        if !is_taken {
            let why = format!("has not taken it within {limit_s} s");
            return Err(failure(device, what, why));
        }
        (host.notice)(&format!(
            "warning: {what}: its backend domain {} has not written its node {STATUS} within {limit_s} s; its script may have failed",
            device.backend_domain.domid
        ));
    }
    Ok(())
}

/// Whether the driver domain says that its script has failed.
///
/// # Errors
/// Those of xenstore.
pub fn has_failed(host: &mut Host, device: &Device) -> Result<bool, EngineError> {
    Ok(look(host, device)?.status == Status::Failed)
}

// ---- detach -------------------------------------------------------------------------------------

/// Notes that Xyl wants the device back, and asks the driver domain to close it. Its state before that.
pub(super) fn ask_to_close(host: &mut Host, device: &Device) -> Result<State, EngineError> {
    note_asked(host, device)?;
    let state = state(host, device)?;
    request_close(host, device)?;
    Ok(state)
}

fn note_asked(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    let copy = node(&device.copy())?;
    let note = node(&format!("{}/{ASKED}", device.copy()))?;
    host.store.try_transaction(|transaction| {
        if transaction.exists(&copy)? {
            transaction.write(&note, b"1")?;
        }
        Ok::<(), EngineError>(())
    })
}

/// Writes the request to close, if the driver domain runs. That domain owns these nodes, so it can let each write fail: then
/// the request is reported as not made, and the deadline decides. The folder of the backend is not made anew.
fn request_close(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    if life(host, device.backend_domain)? != Life::Runs {
        return Ok(());
    }
    let folder = node(&device.backend())?;
    let written = host.store.try_transaction(|transaction| {
        if !transaction.exists(&folder)? {
            return Ok(());
        }
        let mut batch = Batch::new();
        let state = super::state_of(transaction, device)?;
        super::add_close(transaction, &mut batch, device, state)?;
        transaction.run(&batch)?;
        Ok::<(), EngineError>(())
    });
    match written {
        Err(error) if !error.is_connection_lost() => {
            (host.notice)(&format!(
                "warning: {}: its backend domain {} cannot be asked to close it: {error}",
                device.words(),
                device.backend_domain.domid
            ));
            Ok(())
        }
        written => written,
    }
}

/// Asks for the device, and takes the frontend away: the guest is not asked.
pub(super) fn force_to_close(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    ask_to_close(host, device)?;
    Ok(host.store.rm(&node(&device.frontend())?)?)
}

/// Waits until the state of a device is another one than those that `is_between` names, but not longer than the deadline.
pub(super) fn await_handshake(
    host: &mut Host,
    device: &Device,
    deadline: Instant,
    is_between: impl Fn(State) -> bool,
) -> Result<(), EngineError> {
    let one = std::slice::from_ref(device);
    let left = await_none(host, one, deadline, |host, device| {
        Ok(is_between(state(host, device)?))
    });
    left.map(drop)
}

/// Waits until the driver domains have closed the devices. Those that they had not closed at the deadline.
pub(super) fn await_closed(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    await_none(host, devices, deadline, |host, device| {
        let state = state(host, device)?;
        Ok(!matches!(state, State::Closed | State::Unknown))
    })
}

/// Waits until the driver domains have removed the nodes of the devices, the last part of their work. Their scripts may run until then.
fn await_removed(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
) -> Result<Vec<Device>, EngineError> {
    await_none(host, devices, deadline, |host, device| {
        let runs = life(host, device.backend_domain)? == Life::Runs;
        Ok(runs && host.store.exists(&node(&device.backend())?)?)
    })
}

/// Waits until no device is like that any more. Those that were so at the deadline.
fn await_none(
    host: &mut Host,
    devices: &[Device],
    deadline: Instant,
    is_so: impl Fn(&mut Host, &Device) -> Result<bool, EngineError>,
) -> Result<Vec<Device>, EngineError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut left = Vec::new();
        for device in devices {
            if is_so(host, device)? {
                left.push(*device);
            }
        }
        let time = deadline.saturating_duration_since(host.clock.now());
        if left.is_empty() || time.is_zero() {
            return Ok(left);
        }
        host.wait_for(&[], pause.min(time))?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks for devices of one kind and domain by force: their guest does not run, or is not asked. [`finish`] follows.
///
/// # Errors
/// Those of Xen and xenstore.
pub fn ask_all(host: &mut Host, devices: &[Device]) -> Result<(), EngineError> {
    let mut devices = devices.iter();
    devices.try_for_each(|device| force_to_close(host, device))
}

/// Waits for the driver domains that were asked by [`ask_all`], and removes the nodes of the devices in any case. A driver domain that is too
/// slow, or has ended, is reported. Each has some time, also where domain 0's own devices have used up all of it.
///
/// # Errors
/// Those of Xen and xenstore.
pub fn finish(host: &mut Host, devices: &[Device], deadline: Instant) -> Result<(), EngineError> {
    let deadline = deadline.max(host.clock.now() + FINISH_MIN);
    take_down(host, devices, deadline)?;
    devices.iter().try_for_each(|device| remove(host, device))
}

/// Takes one device away that was asked for. One that another toolstack has attached under its number meanwhile stays.
///
/// # Errors
/// Those of Xen and xenstore.
pub fn take_away(host: &mut Host, device: &Device, deadline: Instant) -> Result<(), EngineError> {
    take_down(host, std::slice::from_ref(device), deadline)?;
    match is_asked(host, device)? {
        true => remove(host, device),
        false => Ok(()),
    }
}

/// Waits for the driver domains' part, and reports those that have not done it.
fn take_down(host: &mut Host, devices: &[Device], deadline: Instant) -> Result<(), EngineError> {
    for device in devices {
        if life(host, device.backend_domain)? != Life::Runs {
            tell(host, device, "does not run any more");
        }
    }
    let open = await_closed(host, devices, deadline)?;
    let left = await_removed(host, devices, deadline)?;
    for device in &left {
        match open.contains(device) {
            true => tell(host, device, "has not closed it in time"),
            false => tell(host, device, "has not removed its nodes in time"),
        }
    }
    Ok(())
}

fn tell(host: &Host, device: &Device, what: &str) {
    (host.notice)(&format!(
        "warning: {}: its backend domain {} {what}; the device is taken away all the same",
        device.words(),
        device.backend_domain.domid
    ));
}

/// Removes the nodes of a device. The toolstack's copy is the last: until then the next process finds the device.
fn remove(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    let backend = device.backend_domain;
    host.store.rm(&node(&device.frontend())?)?;
    let mut folders = Vec::new();
    // The nodes of another domain are not this device's.
    if life(host, backend)? != Life::Another {
        host.store.rm(&node(&device.backend())?)?;
        let is_there = host.hv.domain_info(backend.domid)?.is_some();
        // A write that has crossed the domain's end may have made its home anew.
        let last = match is_there {
            true => format!("/local/domain/{}", backend.domid),
            false => "/local/domain".to_owned(),
        };
        folders.push((device.backend(), last));
    }
    let domid = device.domid;
    folders.push((device.frontend(), format!("/local/domain/{domid}")));
    folders.push((device.copy(), format!("/libxl/{domid}")));
    host.store.try_transaction(|transaction| {
        for (folder, last) in &folders {
            remove_upwards(transaction, folder, last)?;
        }
        Ok::<(), EngineError>(())
    })
}
