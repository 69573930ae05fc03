//! Detaches one device from a running domain.
//!
//! The guest is asked to let the device go: the backend's node `online` is 0 then, and its state 5. Without an answer within the
//! limit the request stays there, as libxl leaves it, and the detach is undone as far as the records go: the VM keeps the
//! device until the guest lets it go. The VM's monitor watches the backend and finishes the detach then.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::{At, Facts, Happened, OnDeath, Operation, Plan, Progress};

use super::{Target, living, records, uuid_of};
use crate::device::bus::{self, BackendDomain, Device, State};
use crate::device::hotplug::{self, Hotplug};
use crate::error::DeviceError;
use crate::operation::{Begun, Kind, OfVm, Steps, step};
use crate::vm::Vm;
use crate::vm::names;
use crate::vm::paths::node;
use crate::{Cancel, EngineError, Host, VmGuard};

/// Time for the guest to let a device go, in seconds, as in libxl (`LIBXL_DESTROY_TIMEOUT`).
const ASK_LIMIT_S: u64 = 10;
/// Time for a guest to connect a device that was attached a moment ago, in seconds. It is asked for the device after that.
const HANDSHAKE_LIMIT_S: u64 = 5;
/// Time limit of the removal, in seconds. A backend that is slow to close is no error.
const REMOVE_LIMIT_S: u64 = 10;
/// Time limit of the change of both records, in seconds: another process may hold libxl's lock.
const RECORD_LIMIT_S: u64 = 20;
/// Token of the watches on backends of devices that guests are to let go.
pub(crate) const GOING_TOKEN: &str = "xyl-going";

/// The work of a step of a detach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Asks the guest to let the device go, and waits.
    AskGuest,
    /// The same, but the device goes after the time in any case.
    AskGuestInTime,
    /// Looks whether the domain has the device. The next step can fail and have its effect, so it must not be the first one.
    Find,
    /// Takes the frontend away, so that the backend closes without the guest.
    CutOff,
    /// Removes the device with all that the host has of it.
    Remove,
    /// Removes the device from both records.
    Forget,
}

/// Way of taking a device from its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The guest has to let it go.
    Asked,
    /// The guest is asked first. After the time it loses the device.
    AskedFirst,
    /// The guest is not asked.
    Forced,
}

impl Manner {
    fn of(hotplug: &dyn Hotplug, is_forced: bool) -> Manner {
        match (is_forced, hotplug.is_forced_in_time()) {
            (true, _) => Manner::Forced,
            (false, true) => Manner::AskedFirst,
            (false, false) => Manner::Asked,
        }
    }
}

/// The steps of a detach, in order.
pub(crate) fn plan(manner: Manner) -> Plan<Action> {
    use OnDeath::{Look, RollForward};
    let removal = |name, action| step(name, action, RollForward, REMOVE_LIMIT_S);
    let find = removal("find it", Action::Find);
    let cut_off = removal("cut it off", Action::CutOff);
    let ask = |action, on_death, limit_s| step("ask its guest for it", action, on_death, limit_s);
    let first = match manner {
        Manner::Asked => {
            Plan::new().step(ask(Action::AskGuest, Look, HANDSHAKE_LIMIT_S + ASK_LIMIT_S))
        }
        Manner::AskedFirst => Plan::new()
            .step(find)
            .step(ask(
                Action::AskGuestInTime,
                RollForward,
                HANDSHAKE_LIMIT_S + ASK_LIMIT_S + REMOVE_LIMIT_S,
            ))
            .step(cut_off),
        Manner::Forced => Plan::new().step(find).step(cut_off),
    };
    first.step(removal("remove it", Action::Remove)).step(step(
        "forget it",
        Action::Forget,
        RollForward,
        RECORD_LIMIT_S,
    ))
}

/// The context of a detach: the domain and its device.
pub(crate) struct Context {
    target: Target,
    device: Device,
    /// The identity of the device, by [`bus::identity`].
    identity: String,
}

/// Refuses what a detach refuses, and changes nothing.
pub(crate) fn check(
    host: &mut Host,
    info: &DomainInfo,
    kind: &str,
    asked: &str,
) -> Result<(), EngineError> {
    living(host, info)?;
    let target = Target::new(OfVm::begun(uuid_of(info)), info.domid, kind)?;
    target.hotplug.find(host, info.domid, asked).map(drop)
}

/// Refuses a detach for which this process has given up a right. What the detach itself refuses is left to it.
///
/// # Errors
/// [`DeviceError::NoRightToQemu`], [`DeviceError::NoRightToScript`]; those of xenstore.
pub(crate) fn check_rights(
    host: &mut Host,
    domid: DomId,
    kind: &str,
    asked: &str,
) -> Result<(), EngineError> {
    let Ok((_, hotplug)) = hotplug::kind(kind) else {
        return Ok(());
    };
    match hotplug.find(host, domid, asked) {
        Ok(device) => hotplug.check_right_to_take_away(host, &device),
        Err(error) if error.is_connection_lost() => Err(error),
        Err(_) => Ok(()),
    }
}

/// Detaches a device from the domain of the lock's VM.
pub(crate) fn detach_locked(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    (kind, asked): (&str, &str),
    is_forced: bool,
) -> Result<(), EngineError> {
    owner.refuse_unfinished()?;
    let info = living(host, info)?;
    let target = Target::new(OfVm::begun(owner.uuid), info.domid, kind)?;
    let device = target.hotplug.find(host, info.domid, asked)?;
    carry_out(host, owner, &info, (target, device), is_forced)
}

fn carry_out(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    (target, device): (Target, Device),
    is_forced: bool,
) -> Result<(), EngineError> {
    // Before the guest loses it.
    target.hotplug.check_right_to_take_away(host, &device)?;
    let mut args = Facts::new();
    args.insert("old".to_owned(), info.domid.0.into());
    args.insert("kind".to_owned(), device.kind.into());
    args.insert("number".to_owned(), device.number.into());
    args.insert("server".to_owned(), device.served_by.into());
    let identity = bus::identity(host, &device)?;
    args.insert("identity".to_owned(), identity.clone().into());
    if !device.is_here() {
        let (domid, uuid) = (device.backend_domain.domid, device.backend_domain.uuid);
        args.insert("backend".to_owned(), domid.0.into());
        let uuid = uuid.map(|uuid| uuid.hyphenated().to_string());
        args.extend(uuid.map(|uuid| ("backend_uuid".to_owned(), uuid.into())));
    }
    // For those who read the journal: the script that takes it down is that of its nodes.
    if let Some(script) = bus::script(host, &device)? {
        args.insert("script".to_owned(), script.into());
    }
    let name = names::on_disk(host, info);
    let begun = Begun {
        kind: Kind::Detach,
        name: &name,
        args,
        plan: plan(Manner::of(target.hotplug, is_forced)),
    };
    let mut context = Context {
        target,
        device,
        identity,
    };
    owner.carry_out(host, begun, &mut context, &Cancel::new(), &mut |_| ())
}

/// The context of a detach that another process has begun.
pub(crate) fn from_journal(uuid: Uuid, domid: DomId, operation: &Operation) -> Option<Context> {
    let target = Target::new(OfVm::taken_over(uuid), domid, operation.text("kind")?).ok()?;
    let number = u32::try_from(operation.number("number")?).ok()?;
    // A journal of a version that detached no disks of QEMU does not say it.
    let kind = target.kind.name();
    let server = operation.text("server").unwrap_or(kind);
    let served_by = bus::backend_named(kind, server)?;
    let device = target.device(number, served_by, backend_in_journal(operation));
    Some(Context {
        target,
        device,
        identity: operation.text("identity")?.to_owned(),
    })
}

/// The domain with the backend of the device that a detach takes away.
fn backend_in_journal(operation: &Operation) -> BackendDomain {
    let domid = operation.number("backend");
    let uuid = operation.text("backend_uuid");
    BackendDomain {
        domid: DomId(
            domid
                .and_then(|domid| u16::try_from(domid).ok())
                .unwrap_or(0),
        ),
        uuid: uuid.and_then(|uuid| Uuid::try_parse(uuid).ok()),
    }
}

/// Watches the devices of a VM that its guest was asked to let go by Xyl. The first events come at once.
pub(crate) fn watch_going(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    for device in hotplug::asked_for(host, domid)? {
        bus::watch_state(host, &device, GOING_TOKEN)?;
    }
    Ok(())
}

/// Finishes the detaches of Xyl whose guest has let the device go. The VM's monitor calls it after events of [`GOING_TOKEN`],
/// with their paths. The watch of a device that no detach of Xyl waits for any more is removed: the guest could cause events
/// for ever. A detach that fails is logged: it says nothing about the VM, and the next event or monitor tries it again.
///
/// # Errors
/// A lost connection to xenstored, and a right that this process has given up: its next monitor does it.
pub(crate) fn finish_going(
    host: &mut Host,
    vm: Vm,
    paths: &BTreeSet<String>,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let asked_for = hotplug::asked_for(host, vm.domid)?;
    for path in paths {
        if !asked_for.iter().any(|device| device.state_node() == *path) {
            // It may have been removed by an earlier event.
            let _ = host.store.unwatch(&node(path)?, GOING_TOKEN);
        }
    }
    for device in asked_for {
        if !paths.contains(&device.state_node()) {
            continue;
        }
        match finish_one(host, vm, device) {
            Ok(true) => log(&format!(
                "the guest has let {} go: it is detached now",
                device.words()
            )),
            Ok(false) => {}
            Err(error) if error.needs_next_monitor() => return Err(error),
            Err(error) => log(&format!("{} is not detached: {error}", device.words())),
        }
    }
    Ok(())
}

/// Finishes one detach. Whether the guest has let the device go.
fn finish_one(host: &mut Host, vm: Vm, device: Device) -> Result<bool, EngineError> {
    if !has_let_go(bus::state(host, &device)?) {
        return Ok(false);
    }
    let owner = VmGuard::take(host, vm.uuid)?;
    owner.refuse_unfinished()?;
    let info = host.hv.domain_info(vm.domid)?;
    let is_same = |info: &DomainInfo| &info.handle == vm.uuid.as_bytes() && !info.flags.dying;
    // The process that had the lock may have finished it.
    let is_left = bus::is_going(host, &device)?;
    let Some(info) = info.filter(is_same).filter(|_| is_left) else {
        return Ok(false);
    };
    let target = Target::new(OfVm::begun(vm.uuid), vm.domid, device.kind)?;
    // A driver domain could say again and again that a device is closed. Its word counts once: the device goes then.
    let is_forced = !device.is_here();
    carry_out(host, owner, &info, (target, device), is_forced)?;
    Ok(true)
}

fn has_let_go(state: State) -> bool {
    matches!(state, State::Closed | State::Unknown)
}

impl Steps for Context {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        if *action != Action::Forget && !self.target.vm.still_has(host, self.target.domid)? {
            return Ok(Progress::Done);
        }
        match action {
            Action::AskGuest => ask_guest(host, self, at),
            Action::AskGuestInTime => ask_guest_in_time(host, self, at),
            Action::Find => self.target.has(host, self.device.number).map(drop),
            Action::CutOff => cut_off(host, self),
            Action::Remove => remove(host, self, at),
            Action::Forget => forget(host, self),
        }?;
        Ok(Progress::Done)
    }

    /// A guest that has let the device go has done its part, also if the process died that had asked it.
    fn look(
        &mut self,
        host: &mut Host,
        _: &Action,
        _: &mut At<'_>,
    ) -> Result<Happened, EngineError> {
        if !self.target.vm.still_has(host, self.target.domid)? {
            return Ok(Happened::Yes);
        }
        let has_asked =
            !self.target.has(host, self.device.number)? || bus::is_going(host, &self.device)?;
        match has_asked && has_let_go(bus::state(host, &self.device)?) {
            true => Ok(Happened::Yes),
            false => Ok(Happened::No),
        }
    }
}

fn ask_guest(host: &mut Host, context: &Context, at: &At<'_>) -> Result<(), EngineError> {
    let device = &context.device;
    let state = ask_and_wait(host, context, at)?;
    if has_let_go(state) {
        return Ok(());
    }
    let is_monitor = host.sources.has_doorbell();
    if is_monitor {
        bus::watch_state(host, device, GOING_TOKEN)?;
    }
    Err(DeviceError::NotLetGo {
        device: context.target.hotplug.words(device.number),
        domid: device.domid,
        state: state.words(),
        limit_s: Duration::from_secs(ASK_LIMIT_S).as_secs(),
        by: match is_monitor {
            true => ", by the VM's monitor",
            false => " and this command is repeated",
        },
        command: context.target.hotplug.detach_command(),
        number: device.number,
    }
    .into())
}

/// Asks the guest for the device, and goes on once it has let it go or the time is over.
fn ask_guest_in_time(host: &mut Host, context: &Context, at: &At<'_>) -> Result<(), EngineError> {
    if is_replaced(host, context)? {
        return Ok(());
    }
    ask_and_wait(host, context, at).map(drop)
}

/// Asks the guest for a device, and waits until it has let it go, or its time is over. The last state.
fn ask_and_wait(host: &mut Host, context: &Context, at: &At<'_>) -> Result<State, EngineError> {
    let device = &context.device;
    let until = |host: &Host, limit_s| {
        let limit = host.clock.now() + Duration::from_secs(limit_s);
        limit.min(at.deadline())
    };
    // A guest that is paused connects nothing.
    let info = host.hv.domain_info(device.domid)?;
    if info.is_some_and(|info| !info.flags.paused) {
        let limit = until(host, HANDSHAKE_LIMIT_S);
        bus::await_handshake(host, device, limit)?;
    }
    let limit = until(host, ASK_LIMIT_S);
    context.target.hotplug.ask(host, device, limit)
}

fn cut_off(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    match is_replaced(host, context)? {
        true => Ok(()),
        false => bus::force_to_close(host, &context.device),
    }
}

/// Removes the device, unless another toolstack has attached another one of its number meanwhile.
fn remove(host: &mut Host, context: &Context, at: &At<'_>) -> Result<(), EngineError> {
    let (target, device) = (&context.target, &context.device);
    let is_kept = !has_let_go(bus::state(host, device)?) && !bus::is_going(host, device)?;
    if is_kept || !target.has(host, device.number)? || is_replaced(host, context)? {
        return Ok(());
    }
    target.hotplug.take_away(host, device, at.deadline())
}

/// Removes the device from both records. libxl's entry stays if another toolstack has attached a device of this number
/// meanwhile: it is that one's.
fn forget(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    let (target, device) = (&context.target, &context.device);
    let is_there = target.vm.still_has(host, target.domid)? && target.has(host, device.number)?;
    if is_there && (is_replaced(host, context)? || !bus::is_going(host, device)?) {
        return records::remove_own(host, target, device.number);
    }
    records::remove(host, target, device.number)
}

/// Whether the domain has another device of this number than the one that is to be detached.
fn is_replaced(host: &mut Host, context: &Context) -> Result<bool, EngineError> {
    let now = bus::identity(host, &context.device)?;
    Ok(!now.is_empty() && now != context.identity)
}
