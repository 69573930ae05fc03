//! Attaches one device to a running domain.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::{At, Facts, Happened, OnDeath, Operation, Plan, Progress};

use super::{Target, living, lost, records, uuid_of};
use crate::device::bus;
use crate::device::hotplug::Single;
use crate::error::DeviceError;
use crate::operation::{Begun, Kind, OfVm, Steps, patience, step};
use crate::vm::names;
use crate::{Cancel, EngineError, Host, VmGuard};

/// Time limit of the change of both records, in seconds: another process may hold libxl's lock.
const RECORD_LIMIT_S: u64 = 20;
/// Time limit of the attach itself, in seconds. The waits for QEMU and for the backend have their own ones.
const ATTACH_LIMIT_S: u64 = 60;

/// Time limit of the last step, in seconds.
const KEEP_LIMIT_S: u64 = 10;
/// Time for the backend to close a device whose attach has failed.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// The work of a step of an attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Adds the device to both records.
    Record,
    /// Attaches the device, and waits for its backend.
    Attach,
    /// Does nothing. Once the journal has this step, the device stays, whether or not it has the operation's end.
    Keep,
}

/// The steps of an attach, in order.
pub(crate) fn plan() -> Plan<Action> {
    let record = step(
        "record it",
        Action::Record,
        OnDeath::RollBack,
        RECORD_LIMIT_S,
    );
    let attach = step("attach it", Action::Attach, OnDeath::Look, ATTACH_LIMIT_S);
    let keep = step(
        "keep it",
        Action::Keep,
        OnDeath::RollForwardOnceStarted,
        KEEP_LIMIT_S,
    );
    Plan::new()
        .step(record.with_undo())
        .step(attach.with_undo())
        .step(keep)
}

/// The context of an attach: the domain and its device.
pub(crate) struct Context {
    target: Target,
    device: Box<dyn Single>,
    /// Whether the domain has got a device of this number from another toolstack meanwhile.
    is_anothers: bool,
}

/// Refuses what an attach refuses, and changes nothing.
pub(crate) fn check(
    host: &mut Host,
    info: &DomainInfo,
    kind: &str,
    text: &str,
) -> Result<(), EngineError> {
    let vm = OfVm::begun(uuid_of(info));
    let text = complete(host, vm, info.domid, (kind, text))?;
    Context::new(vm, info.domid, kind, &text)?.check(host, info)
}

/// The description of a device with what the VM decides about it.
fn complete(
    host: &mut Host,
    vm: OfVm,
    domid: DomId,
    (kind, text): (&str, &str),
) -> Result<String, EngineError> {
    let target = Target::new(vm, domid, kind)?;
    target.hotplug.complete(host, target.owner(), text)
}

/// Attaches a device to the domain of the lock's VM.
pub(crate) fn attach_locked(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    (kind, asked): (&str, &str),
    cancel: &Cancel,
) -> Result<(), EngineError> {
    owner.refuse_unfinished()?;
    let vm = OfVm::begun(owner.uuid);
    let text = complete(host, vm, info.domid, (kind, asked))?;
    let mut context = Context::new(vm, info.domid, kind, &text)?;
    context.check(host, info)?;
    let mut args = Facts::new();
    args.insert("old".to_owned(), info.domid.0.into());
    args.insert("kind".to_owned(), kind.into());
    args.insert("device".to_owned(), text.into());
    args.insert("asked".to_owned(), asked.into());
    let name = names::on_disk(host, info);
    let begun = Begun {
        kind: Kind::Attach,
        name: &name,
        args,
        plan: plan(),
    };
    owner.carry_out(host, begun, &mut context, cancel, &mut |_| ())?;
    // The device is attached, with or without this: the VM's next monitor watches it.
    let _ = watch_backend(host, &context);
    Ok(())
}

fn watch_backend(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    let (target, wanted) = (&context.target, &context.device);
    let device = target.device_there(host, wanted.number(), wanted.served_by())?;
    lost::watch(host, &device)
}

/// The context of an attach that another process has begun.
pub(crate) fn from_journal(uuid: Uuid, domid: DomId, operation: &Operation) -> Option<Context> {
    let (kind, text) = (operation.text("kind")?, operation.text("device")?);
    Context::new(OfVm::taken_over(uuid), domid, kind, text).ok()
}

impl Context {
    fn new(vm: OfVm, domid: DomId, kind: &str, text: &str) -> Result<Context, EngineError> {
        let target = Target::new(vm, domid, kind)?;
        let device = target.hotplug.read(text)?;
        Ok(Context {
            target,
            device,
            is_anothers: false,
        })
    }

    fn check(&self, host: &mut Host, info: &DomainInfo) -> Result<(), EngineError> {
        living(host, info)?;
        if self.target.has(host, self.device.number())? {
            return Err(DeviceError::Exists {
                domid: info.domid,
                device: self.device.what(),
            }
            .into());
        }
        self.device.check(host, self.target.owner())
    }
}

impl Steps for Context {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        match action {
            Action::Record => records::add(host, &self.target, &*self.device),
            Action::Attach => attach(host, self, at),
            Action::Keep => Ok(()),
        }?;
        Ok(Progress::Done)
    }

    fn undo(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<(), EngineError> {
        match action {
            Action::Record => records::take_back(host, &self.target, &*self.device),
            Action::Attach => {
                detach(host, self, at)?;
                // An earlier try of this undo may have failed. Then that of the record has left the entry of a device that was there.
                records::take_back(host, &self.target, &*self.device)
            }
            Action::Keep => Ok(()),
        }
    }

    /// A device that its backend has taken may be in use by the guest: it stays.
    fn look(
        &mut self,
        host: &mut Host,
        _: &Action,
        _: &mut At<'_>,
    ) -> Result<Happened, EngineError> {
        let (target, wanted) = (&self.target, &self.device);
        let device = target.device_there(host, wanted.number(), wanted.served_by())?;
        let is_attached = is_ours(host, self)?
            && bus::is_in_use(host, &device)?
            && target.hotplug.is_served(host, &device)?;
        Ok(match is_attached {
            true => Happened::Yes,
            false => Happened::No,
        })
    }
}

fn attach(host: &mut Host, context: &mut Context, at: &At<'_>) -> Result<(), EngineError> {
    let owner = context.target.owner();
    let attached = context.device.attach(host, owner, &patience(at));
    context.is_anothers = matches!(
        &attached,
        Err(EngineError::Device(DeviceError::Exists { .. }))
    );
    attached
}

/// Whether the domain has the device, and from this operation.
fn is_ours(host: &mut Host, context: &Context) -> Result<bool, EngineError> {
    let target = &context.target;
    Ok(!context.is_anothers
        && target.vm.still_has(host, target.domid)?
        && target.has(host, context.device.number())?
        && !records::is_anothers(host, target, &*context.device)?)
}

/// Takes the device away, if this operation has attached it.
fn detach(host: &mut Host, context: &Context, at: &At<'_>) -> Result<(), EngineError> {
    if !is_ours(host, context)? {
        return Ok(());
    }
    let (target, wanted) = (&context.target, &context.device);
    let device = target.device_there(host, wanted.number(), wanted.served_by())?;
    bus::force_to_close(host, &device)?;
    let deadline = at.deadline().min(host.clock.now() + CLOSE_LIMIT);
    target.hotplug.take_away(host, &device, deadline)
}
