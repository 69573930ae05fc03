//! Soft reset: a guest that starts a new kernel in its own memory (Linux: `kexec -e`) asks for
//! interfaces as new, and goes on in the same domain.
//!
//! It asks by shutting down with reason 5. Then the domain's number, memory, registers and console stay, while its event
//! channels, watches, xenstore nodes and the backends of its devices are made anew.
//!
//! It is an operation like the others, with one difference: a guest that has asked cannot go back, so no step has an undo. A
//! process that dies leaves the current step to the next one, which applies it again. A step that cannot be done is tried
//! `TRIES` times. Then the operation ends as failed, the domain is left as one that has crashed, and `on_crash` follows.
//!
//! Facts: `domain_soft_reset` in Xen, `XEN_DOMCTL_soft_reset` in `domctl.h`, `blkback` and `xenbus` of Linux, and
//! `docs/soft-reset.md`.

mod interfaces;
mod nodes;
mod old_note;
pub mod tally;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Errno, GuestKind, ShutdownReason};
use xyl_saga::{At, Contents, Facts, OnDeath, Operation, Past, Plan, Progress};

use crate::config::plan;
use crate::control::power::{self, PowerRequest};
use crate::device::{self, DeviceName, Owner};
use crate::error::DeviceError;
pub use crate::error::SoftResetError;
use crate::operation::destroy::DETACH_LIMIT_S;
use crate::operation::hotplug::records;
use crate::operation::{Begun, Kind, OfVm, Steps, patience, step};
use crate::vm::{Vm, names};
use crate::{Cancel, EngineError, Host, VmGuard};

use old_note::{OldNote, Reached};

/// Number of failures of steps after which a reset is given up.
const TRIES: u32 = 3;
/// Time limit to attach all devices, in seconds.
const ATTACH_LIMIT_S: u64 = 60;

/// The fact in a journal with the reason for which a reset was given up.
const GIVEN_UP: &str = "given_up";
/// The fact that the domain was paused before the reset, and stays so.
const STAYS_PAUSED: &str = "stays_paused";
/// The fact with the request to the guest that it had not taken yet.
const ASKED_FOR: &str = "asked_for";
/// The fact with the devices that are attached again.
const DEVICES: &str = "devices";
/// The argument with the reason for which a reset of an earlier version cannot be finished.
const REFUSED: &str = "refused";

/// The end of a soft reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs on, in the same domain.
    Running,
    /// It could not be done, with the reason. The domain is shut down, as after a crash.
    GivenUp(String),
    /// The domain was destroyed meanwhile.
    Gone,
}

/// Resets a domain that has shut down, or finishes a reset that another process began. An error decides nothing: the next
/// process goes on.
pub fn run(host: &mut Host, vm: Vm) -> Result<Outcome, EngineError> {
    let owner = VmGuard::take(host, vm.uuid)?;
    owner.report_recovered(host);
    let info = match look_at(host, vm) {
        Err(EngineError::NoSuchDomain(_)) => return Ok(Outcome::Gone),
        other => other?,
    };
    if let Some(why) = was_given_up(&owner.contents, vm.domid) {
        return Ok(Outcome::GivenUp(why));
    }
    // Taking the lock has finished a reset that was under way.
    if !info.flags.shutdown {
        return Ok(Outcome::Running);
    }
    let context = Context {
        stays_paused: info.flags.paused,
        ..Context::new(OfVm::begun(vm.uuid), vm.domid)
    };
    carry_out(host, owner, &info, context, plan())
}

/// Finishes the reset that an earlier version of this program began and noted in xenstore.
pub(crate) fn finish_old(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    if !old_note::is_there(host, vm.domid)? {
        return Ok(());
    }
    let owner = VmGuard::take(host, vm.uuid)?;
    owner.report_recovered(host);
    let info = match look_at(host, vm) {
        // The process that has destroyed it removes the note too.
        Err(EngineError::NoSuchDomain(_)) => return Ok(()),
        other => other?,
    };
    // The lock may have been waited for.
    let Some(note) = old_note::read(host, vm.domid)? else {
        return Ok(());
    };
    let context = Context::of_old(vm, &note);
    let next = match &note {
        OldNote::UnderWay(under_way) => match under_way.reached(host, &info)? {
            Reached::Begun => Action::Hold,
            Reached::Reset => Action::OpenChannels,
            Reached::Described => Action::Introduce,
            Reached::Introduced => Action::LetRun,
        },
        OldNote::Refused(_) => Action::Hold,
    };
    carry_out(host, owner, &info, context, old_plan(next))?;
    old_note::remove(host, vm.domid)
}

/// Whether a reset of the VM's domain stands still, because its last process could not go on with it.
pub(crate) fn is_open(host: &Host, uuid: Uuid) -> Result<bool, EngineError> {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid))?;
    let past = Past::of(&contents);
    let open = past.under_way();
    Ok(open.is_some_and(is_soft_reset))
}

fn is_soft_reset(operation: &Operation) -> bool {
    Kind::parse(&operation.begin.kind) == Some(Kind::SoftReset)
}

/// The last reset of this domain.
fn last_of(past: &Past, domid: DomId) -> Option<&Operation> {
    // A later domain of the VM can have the same number.
    let is_of_domain = |operation: &&Operation| {
        let kind = Kind::parse(&operation.begin.kind);
        let is_done = operation.outcome == Some(xyl_saga::Outcome::Done);
        kind.is_some_and(Kind::keeps_domain) || !is_done
    };
    let mut latest = past.operations.iter().rev().take_while(is_of_domain);
    let last = latest.find(|operation| is_soft_reset(operation));
    last.filter(|last| last.number("old") == Some(domid.0.into()))
}

/// The reason for which the reset of this domain was given up, if it was. Such a domain never runs again.
fn was_given_up(contents: &Contents, domid: DomId) -> Option<String> {
    let past = Past::of(contents);
    let why = last_of(&past, domid)?.fact(GIVEN_UP)?.as_str();
    why.map(str::to_owned)
}

/// The devices that a reset of this domain which was given up may have detached. The VM's next domain is to have them.
pub(crate) fn left_detached(contents: &Contents, domid: DomId) -> Vec<DeviceName> {
    let past = Past::of(contents);
    let last = last_of(&past, domid).filter(|last| last.fact(GIVEN_UP).is_some());
    last.map(devices_of).unwrap_or_default()
}

/// The devices that a reset attaches again.
fn devices_of(operation: &Operation) -> Vec<DeviceName> {
    let devices = operation.fact(DEVICES).cloned();
    devices
        .and_then(|devices| serde_json::from_value(devices).ok())
        .unwrap_or_default()
}

fn carry_out(
    host: &mut Host,
    mut owner: VmGuard,
    info: &DomainInfo,
    mut context: Context,
    plan: Plan<Action>,
) -> Result<Outcome, EngineError> {
    owner.close_unfinished(host, |kind| {
        Kind::parse(kind).is_some_and(Kind::holds_up_nothing)
    })?;
    let name = names::on_disk(host, info);
    let begun = Begun {
        kind: Kind::SoftReset,
        name: &name,
        args: context.args(),
        plan,
    };
    let ended = owner.carry_out(host, begun, &mut context, &Cancel::new(), &mut |_| ());
    match (context.end, ended) {
        (Some(end), _) => Ok(end),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Ok(Outcome::Running),
    }
}

/// The domain before the first step. A look that fails is taken again, as a step is.
fn look_at(host: &Host, vm: Vm) -> Result<DomainInfo, EngineError> {
    let mut failures = 0;
    loop {
        let cause = match info_of(host, vm) {
            Ok(info) => return Ok(info),
            Err(cause) => cause,
        };
        failures += 1;
        if judge(&cause, failures) != Verdict::Again {
            return Err(cause);
        }
        tell_of_retry(host, vm, "look at it", &cause);
    }
}

fn tell_of_retry(host: &Host, vm: Vm, step: &str, cause: &EngineError) {
    let domid = vm.domid;
    (host.notice)(&format!(
        "soft reset of domain {domid}: {step}: {cause}; trying again"
    ));
}

/// The domain, as long as it is this one.
fn info_of(host: &Host, vm: Vm) -> Result<DomainInfo, EngineError> {
    let info = host.hv.domain_info(vm.domid)?;
    info.filter(|info| !info.flags.dying && &info.handle == vm.uuid.as_bytes())
        .ok_or_else(|| EngineError::NoSuchDomain(vm.domid.to_string()))
}

// ---- the steps ----------------------------------------------------------------------------------

/// The work of a step of a soft reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Refuses a guest that cannot be reset, and finds its devices.
    Check,
    /// Removes the note of a reset that an earlier version of this program began.
    RemoveOldNote,
    /// Pauses the domain.
    Hold,
    /// Detaches the devices from the old kernel.
    DetachDevices,
    /// Releases the domain from xenstored.
    Release,
    /// Resets the domain in Xen.
    Reset,
    /// Opens the event channels to xenstore and the console.
    OpenChannels,
    /// Writes the xenstore nodes.
    WriteNodes,
    /// Introduces the domain to xenstored.
    Introduce,
    /// Attaches the devices again.
    AttachDevices,
    /// Lets the domain run.
    LetRun,
}

/// All steps of a soft reset that begins, with their limits in seconds, in order.
const STEPS: [(&str, Action, u64); 10] = [
    ("see whether it can be reset", Action::Check, 10),
    ("hold it", Action::Hold, 10),
    ("detach its devices", Action::DetachDevices, DETACH_LIMIT_S),
    ("release it from xenstored", Action::Release, 10),
    ("reset it in Xen", Action::Reset, 30),
    ("open its channels", Action::OpenChannels, 10),
    ("write its xenstore nodes", Action::WriteNodes, 30),
    ("introduce it to xenstored", Action::Introduce, 10),
    (
        "attach its devices again",
        Action::AttachDevices,
        ATTACH_LIMIT_S,
    ),
    ("let it run", Action::LetRun, 10),
];

/// The steps of a soft reset, in order.
pub(crate) fn plan() -> Plan<Action> {
    STEPS.into_iter().fold(Plan::new(), with_step)
}

/// The steps that finish a reset of an earlier version, from its next step on. The first step does nothing that matters: an
/// operation whose first step fails counts as one that has not begun, and the note must be there still then.
fn old_plan(next: Action) -> Plan<Action> {
    let check = STEPS.into_iter().take(1);
    let note = ("remove its old note", Action::RemoveOldNote, 10);
    let rest = STEPS
        .into_iter()
        .skip_while(|(_, action, _)| *action != next);
    check.chain([note]).chain(rest).fold(Plan::new(), with_step)
}

fn with_step(plan: Plan<Action>, (name, action, limit_s): (&str, Action, u64)) -> Plan<Action> {
    plan.step(step(name, action, OnDeath::RollForward, limit_s))
}

/// The context of a soft reset: the domain, and what must be known of it from before.
pub(crate) struct Context {
    vm: Vm,
    /// The domain was paused before the reset, and stays so.
    stays_paused: bool,
    /// The request to the guest that it had not taken yet. Its node is the guest's, and goes with the release.
    asked_for: Option<PowerRequest>,
    /// The devices that are attached again.
    devices: Vec<DeviceName>,
    /// The reason for which the reset of an earlier version cannot be finished.
    refused: Option<String>,
    /// The reason for which a process that has died had given the reset up.
    given_up: Option<String>,
    /// Number of failures of steps in this process.
    failures: u32,
    /// The end of the reset, unless the guest runs on.
    end: Option<Outcome>,
}

/// The consequence of a step's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The step is tried again.
    Again,
    /// The reset is given up.
    GivenUp,
    /// The domain does not exist any more.
    Gone,
    /// This process cannot go on. The next one can.
    Open,
}

/// The consequence of the reset's n-th failure.
fn judge(cause: &EngineError, failures: u32) -> Verdict {
    match cause {
        EngineError::NoSuchDomain(_) => Verdict::Gone,
        EngineError::Hypervisor(error) if error.is(Errno::ESRCH) => Verdict::Gone,
        EngineError::Hypervisor(error) if is_final(error.errno()) => Verdict::GivenUp,
        EngineError::SoftReset(_) => Verdict::GivenUp,
        EngineError::Device(error) if has_waited(error) => Verdict::GivenUp,
        EngineError::Journal(_) => Verdict::Open,
        cause if cause.needs_next_monitor() => Verdict::Open,
        _ if failures >= TRIES => Verdict::GivenUp,
        _ => Verdict::Again,
    }
}

/// Whether the attach of a device has waited for as long as it may already.
fn has_waited(error: &DeviceError) -> bool {
    matches!(
        error,
        DeviceError::Silent { .. }
            | DeviceError::Held { .. }
            | DeviceError::Busy { .. }
            | DeviceError::TooSlow { .. }
            | DeviceError::Elsewhere { .. }
    )
}

/// Answers of Xen that will not change.
fn is_final(errno: Option<Errno>) -> bool {
    let finals = [
        Errno::EOPNOTSUPP,
        Errno::ENOSYS,
        Errno::EPERM,
        Errno::EACCES,
    ];
    errno.is_some_and(|errno| finals.contains(&errno))
}

impl Steps for Context {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        if let Some(why) = &self.given_up {
            return Err(SoftResetError::GivenUp(why.clone()).into());
        }
        while let Err(cause) = self.attempt(host, *action, at) {
            self.failures += 1;
            if judge(&cause, self.failures) != Verdict::Again {
                return Err(cause);
            }
            tell_of_retry(host, self.vm, at.step(), &cause);
        }
        Ok(Progress::Done)
    }

    /// Leaves the domain as a crashed one is, so that no process takes it for one that runs.
    fn give_up(
        &mut self,
        host: &mut Host,
        cause: &EngineError,
        at: &mut At<'_>,
    ) -> Result<bool, EngineError> {
        let end = match judge(cause, self.failures) {
            Verdict::Open | Verdict::Again => return Ok(false),
            Verdict::Gone => Outcome::Gone,
            Verdict::GivenUp => {
                let why = match &self.given_up {
                    Some(why) => why.clone(),
                    None => format!("{}: {cause}", at.step()),
                };
                at.note(GIVEN_UP, why.clone())?;
                match crash(host, self.vm, self.stays_paused) {
                    Err(EngineError::NoSuchDomain(_)) => Outcome::Gone,
                    other => other.map(|()| Outcome::GivenUp(why))?,
                }
            }
        };
        self.end = Some(end);
        Ok(true)
    }

    fn made(&self) -> Facts {
        let mut facts = Facts::new();
        if !self.devices.is_empty() {
            let devices = serde_json::to_value(&self.devices).unwrap_or_default();
            facts.insert(DEVICES.to_owned(), devices);
        }
        facts
    }
}

impl Context {
    fn new(vm: OfVm, domid: DomId) -> Context {
        Context {
            vm: Vm {
                domid,
                uuid: vm.uuid,
            },
            stays_paused: false,
            asked_for: None,
            devices: Vec::new(),
            refused: None,
            given_up: None,
            failures: 0,
            end: None,
        }
    }

    /// The context of a reset that another process began.
    pub(crate) fn taken_over(uuid: Uuid, domid: DomId, operation: &Operation) -> Context {
        let text = |key: &str| operation.fact(key).and_then(Value::as_str);
        Context {
            stays_paused: operation.fact(STAYS_PAUSED).and_then(Value::as_bool) == Some(true),
            asked_for: text(ASKED_FOR).and_then(|word| power::request_of_word(word.as_bytes())),
            devices: devices_of(operation),
            refused: text(REFUSED).map(str::to_owned),
            given_up: text(GIVEN_UP).map(str::to_owned),
            ..Context::new(OfVm::taken_over(uuid), domid)
        }
    }

    /// The context of a reset that an earlier version of this program began.
    fn of_old(vm: Vm, note: &OldNote) -> Context {
        let context = Context::new(OfVm::begun(vm.uuid), vm.domid);
        match note {
            OldNote::UnderWay(under_way) => Context {
                stays_paused: under_way.stays_paused,
                asked_for: under_way.asked_for,
                ..context
            },
            OldNote::Refused(why) => Context {
                refused: Some(why.clone()),
                ..context
            },
        }
    }

    /// The arguments of the operation, for the next process.
    fn args(&self) -> Facts {
        let mut args = Facts::new();
        args.insert("old".to_owned(), self.vm.domid.0.into());
        args.insert(STAYS_PAUSED.to_owned(), self.stays_paused.into());
        if let Some(request) = self.asked_for {
            args.insert(ASKED_FOR.to_owned(), request.word().into());
        }
        if let Some(why) = &self.refused {
            args.insert(REFUSED.to_owned(), why.as_str().into());
        }
        args
    }

    /// Applies a step once. Each may have been applied before, in part or in full.
    fn attempt(
        &mut self,
        host: &mut Host,
        action: Action,
        at: &mut At<'_>,
    ) -> Result<(), EngineError> {
        match action {
            Action::Check => self.check(host),
            Action::RemoveOldNote => old_note::remove(host, self.vm.domid),
            Action::Hold => self.hold(host, at),
            Action::DetachDevices => self.detach_devices(host, at),
            Action::Release => self.release(host, at),
            Action::Reset => self.reset(host),
            Action::OpenChannels => interfaces::open_channels(host, self.vm.domid),
            Action::WriteNodes => self.write_nodes(host),
            Action::Introduce => interfaces::introduce(host, self.vm.domid),
            Action::AttachDevices => self.attach_devices(host, at),
            Action::LetRun => self.let_run(host),
        }
    }

    fn check(&mut self, host: &mut Host) -> Result<(), EngineError> {
        if let Some(why) = &self.refused {
            return Err(SoftResetError::GivenUp(why.clone()).into());
        }
        let (info, domid) = (info_of(host, self.vm)?, self.vm.domid);
        match info.kind() {
            GuestKind::Pv => return Err(SoftResetError::Pv.into()),
            GuestKind::Hvm => return Err(SoftResetError::DeviceModel { domid }.into()),
            GuestKind::Pvh => {}
        }
        let vm = OfVm::begun(self.vm.uuid);
        // An earlier version may have detached devices before the reset that is to be finished.
        if !old_note::is_there(host, domid)? {
            follow_xl(host, vm, domid)?;
        }
        let found = device::resettable(host, domid)?;
        let mut lost = found.lost;
        if !found.again.is_empty() {
            let spec = plan::of_record(host, self.vm.uuid)?.spec;
            device::check_rights(host, &spec)?;
            lost.extend(device::not_recorded(host, domid, &spec, &found.again)?);
        }
        if !lost.is_empty() {
            let devices = lost.join(", ");
            return Err(SoftResetError::Devices { domid, devices }.into());
        }
        if interfaces::has_faulty_xenstored(host)? {
            return Err(SoftResetError::FaultyXenstored.into());
        }
        // The guest was asked to let them go. The reset takes them away from it.
        for device in found.going {
            records::forget(host, vm, domid, &device)?;
            (host.notice)(&format!(
                "{} {} of domain {domid} was to be detached: it is detached by the soft reset",
                device.kind, device.number
            ));
        }
        self.devices = found.again;
        Ok(())
    }

    /// Xen resets only domains that tools hold.
    fn hold(&mut self, host: &mut Host, at: &mut At<'_>) -> Result<(), EngineError> {
        if info_of(host, self.vm)?.flags.paused {
            return Ok(());
        }
        // An administrator has let it run meanwhile.
        if self.stays_paused {
            at.note(STAYS_PAUSED, false)?;
            self.stays_paused = false;
        }
        Ok(host.hv.pause_domain(self.vm.domid)?)
    }

    /// The backends let go of the old kernel's memory before the new one has it.
    fn detach_devices(&self, host: &mut Host, at: &At<'_>) -> Result<(), EngineError> {
        device::detach(host, self.vm.domid, at.deadline())
    }

    /// xenstored drops the domain's watches and transactions, removes the nodes that it owns, and takes
    /// its rights to all others away.
    fn release(&mut self, host: &mut Host, at: &mut At<'_>) -> Result<(), EngineError> {
        let domid = self.vm.domid;
        if !host.store.is_introduced(domid.0)? {
            return Ok(());
        }
        // A request to shut down or reboot is for the VM, whichever kernel it runs: the next kernel gets it.
        if let Some(request) = nodes::waiting_request(&mut host.store, domid)? {
            at.note(ASKED_FOR, request.word())?;
            self.asked_for = Some(request);
        }
        Ok(host.store.release(domid.0)?)
    }

    /// A domain that is not shut down has been reset already: it is paused, and cannot have shut down and gone on since.
    fn reset(&self, host: &Host) -> Result<(), EngineError> {
        match info_of(host, self.vm)?.flags.shutdown {
            true => interfaces::reset(host, self.vm.domid),
            false => Ok(()),
        }
    }

    fn write_nodes(&self, host: &mut Host) -> Result<(), EngineError> {
        let info = info_of(host, self.vm)?;
        let console = interfaces::console(host, info.domid)?;
        nodes::write(host, &info, console, self.asked_for)
    }

    fn attach_devices(&self, host: &mut Host, at: &At<'_>) -> Result<(), EngineError> {
        if self.devices.is_empty() {
            return Ok(());
        }
        let domid = info_of(host, self.vm)?.domid;
        let owner = Owner {
            domid,
            uuid: self.vm.uuid,
        };
        // Devices that an earlier try has attached go first.
        let limit = host.clock.now() + Duration::from_secs(DETACH_LIMIT_S);
        device::detach(host, domid, at.deadline().min(limit))?;
        let spec = plan::of_record(host, self.vm.uuid)?.spec;
        device::attach_again(host, owner, spec, &self.devices, &patience(at))
    }

    /// A guest that has asked for its next reset since then is not paused.
    fn let_run(&self, host: &Host) -> Result<(), EngineError> {
        match info_of(host, self.vm)?.flags.paused && !self.stays_paused {
            true => Ok(host.hv.unpause_domain(self.vm.domid)?),
            false => Ok(()),
        }
    }
}

/// Brings the VM's record to the devices of its domain.
fn follow_xl(host: &mut Host, vm: OfVm, domid: DomId) -> Result<(), EngineError> {
    match records::follow_xl(host, vm, domid, &[]) {
        Err(EngineError::ForeignDevices { domid, devices }) => {
            Err(SoftResetError::Devices { domid, devices }.into())
        }
        other => other,
    }
}

/// Introduces a domain whose reset has ended between its release and its introduction, as far as that works. xenstored has
/// an event for the ends of those domains alone that it knows. Without that xenconsoled keeps the console's page of a destroyed domain,
/// and Xen the domain.
fn make_known(host: &mut Host, domid: DomId) {
    let is_known = host.store.is_introduced(domid.0);
    if is_known.is_ok_and(|is_known| is_known) {
        return;
    }
    let known =
        interfaces::open_channels(host, domid).and_then(|()| interfaces::introduce(host, domid));
    if let Err(error) = known {
        (host.notice)(&format!(
            "domain {domid} is not introduced to xenstored: {error}"
        ));
    }
}

/// Leaves a domain as a crashed one is. One that was paused before the reset stays paused.
fn crash(host: &mut Host, vm: Vm, stays_paused: bool) -> Result<(), EngineError> {
    let info = info_of(host, vm)?;
    make_known(host, vm.domid);
    let (hv, domid) = (&host.hv, vm.domid);
    let stays = |error: xen_port::HvError| {
        (host.notice)(&format!("domain {domid} stays paused: {error}"));
    };
    if !info.flags.shutdown
        && let Err(error) = hv.remote_shutdown(domid, ShutdownReason::Crash)
    {
        // It stays paused then, which is as good an end, if not as plain to see.
        stays(error);
        return Ok(());
    }
    if info.flags.paused && !stays_paused {
        hv.unpause_domain(domid).unwrap_or_else(stays);
    }
    Ok(())
}
