//! Destroying a domain, ours or xl's.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Errno, GuestKind};
use xenstore::{Batch, Path, Tree};
use xyl_saga::{At, Facts, OnDeath, Plan, Progress};

use crate::device::{self, KINDS};
use crate::device_model;
use crate::operation::xenstore_nodes;
use crate::operation::{Begun, Kind, OfVm, Steps, step};
use crate::vm::domid_history::DomidHistory;
use crate::vm::{domains, names, store, userdata, without_domain};
use crate::{Cancel, EngineError, Host, VmGuard};

/// Time limit in seconds for Xen to free all of a domain's memory.
const END_LIMIT_S: u64 = 120;
/// [`END_LIMIT_S`] as a duration.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(END_LIMIT_S);

/// The step that takes a domain's devices away.
pub(crate) const DETACH: &str = "detach its devices";
/// Time limit in seconds for the backends to close all devices.
pub(crate) const DETACH_LIMIT_S: u64 = 10;

/// Token of the watch whose events mean that some domain has ended.
const GONE_TOKEN: &str = "xyl-gone";
/// Time between two looks at a domain that is about to go, if no event comes.
const GONE_RECHECK: Duration = Duration::from_millis(50);

/// Destroys a domain and all that the toolstack made for it.
///
/// A domain with devices that Xyl cannot remove is refused. With `force` it is destroyed, and its backends keep what
/// they have. `force` also moves away a journal that another version of this program wrote.
///
/// The wait for the VM's lock may be long. If the VM has its next domain by then, because its guest has rebooted, the
/// next domain is destroyed: the caller wants the VM to end.
pub fn destroy(host: &mut Host, domid: DomId, force: bool) -> Result<(), EngineError> {
    let info = find(host, domid)?;
    destroy_found(host, &info, force)
}

/// As [`destroy`], for a domain that was found earlier. A domain that is gone by now is no error.
fn destroy_found(host: &mut Host, info: &DomainInfo, force: bool) -> Result<(), EngineError> {
    destroy_with(host, info, force, true)
}

/// As [`destroy`], under the lock of the domain's VM. Domain 0 is no VM, and is refused.
pub(crate) fn destroy_locked(
    host: &mut Host,
    owner: Option<VmGuard>,
    info: &DomainInfo,
    force: bool,
) -> Result<(), EngineError> {
    match owner {
        Some(owner) => end_domain_of(host, owner, info, force, true),
        None => destroy_found(host, info, force),
    }
}

/// Ends a VM, with its domain if it has one. A restart that waits is cancelled.
pub(crate) fn destroy_vm(host: &mut Host, owner: VmGuard, force: bool) -> Result<(), EngineError> {
    let uuid = owner.uuid;
    if let Some(domid) = domains::living(&*host.hv, uuid.into_bytes())? {
        let info = find(host, domid)?;
        return end_domain_of(host, owner, &info, force, true);
    }
    owner.refuse_unfinished()?;
    without_domain::call_off(host, uuid).map(drop)
}

/// As [`destroy`], for this one domain, which has ended. A next domain of its VM stays.
pub(crate) fn destroy_ended(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let info = find(host, domid)?;
    destroy_with(host, &info, false, false)
}

fn destroy_with(
    host: &mut Host,
    info: &DomainInfo,
    force: bool,
    follows: bool,
) -> Result<(), EngineError> {
    refuse_control_domain(info.domid)?;
    let uuid = Uuid::from_bytes(info.handle);
    let owner = match force {
        true => VmGuard::take_by_force(host, uuid)?,
        false => VmGuard::take(host, uuid)?,
    };
    owner.report_recovered(host);
    end_domain_of(host, owner, info, force, follows)
}

/// Ends a VM's domain, under the VM's lock; with `follows` whichever one the VM has now.
fn end_domain_of(
    host: &mut Host,
    mut owner: VmGuard,
    info: &DomainInfo,
    force: bool,
    follows: bool,
) -> Result<(), EngineError> {
    let (domid, uuid) = (info.domid, owner.uuid);
    // A create, a restart or a core that cannot be finished must not keep the VM from its end.
    owner.close_unfinished(host, |kind| kind != Kind::Destroy.word())?;
    owner.refuse_unfinished()?;
    // Another process may have had its turn: the domain may be gone, and its number another's.
    let had_its_turn = owner.has_waited || owner.recovered.is_some();
    let now = host.hv.domain_info(domid)?;
    let is_gone = |now: &DomainInfo| now.handle != info.handle || now.flags.dying;
    if follows
        && !info.flags.dying
        && now.as_ref().is_none_or(is_gone)
        && let Some(next) = domains::living(&*host.hv, info.handle)?
    {
        let next = find(host, next)?;
        return end_domain_of(host, owner, &next, force, follows);
    }
    let info = match now.filter(|now| now.handle == info.handle) {
        Some(now) if !now.flags.dying => now,
        Some(_) if domains::living(&*host.hv, info.handle)?.is_some() => {
            return end_leftover(host, domid, uuid);
        }
        Some(now) if !had_its_turn => now,
        // It has gone, and no restart that is owed may follow.
        _ if follows => return without_domain::call_off(host, uuid).map(drop),
        _ => return Ok(()),
    };
    if !force {
        refuse_foreign_devices(host, &info)?;
    }
    let mut args = Facts::new();
    args.insert("old".to_owned(), domid.0.into());
    let name = names::on_disk(host, &info);
    let mut context = Context::new(OfVm::begun(uuid), domid, false);
    let begun = Begun {
        kind: Kind::Destroy,
        name: &name,
        args,
        plan: plan(),
    };
    owner.carry_out(host, begun, &mut context, &Cancel::new(), &mut |_| ())
}

fn refuse_control_domain(domid: DomId) -> Result<(), EngineError> {
    match domid {
        DomId::ZERO => Err(EngineError::ControlDomain("destroying it")),
        _ => Ok(()),
    }
}

/// Refuses what [`destroy`] refuses.
pub(crate) fn check(host: &mut Host, info: &DomainInfo, force: bool) -> Result<(), EngineError> {
    refuse_control_domain(info.domid)?;
    match force {
        true => Ok(()),
        false => refuse_foreign_devices(host, info),
    }
}

/// Ends what is left of an earlier domain of a VM that lives on in another: what the VM has stays.
fn end_leftover(host: &mut Host, domid: DomId, uuid: Uuid) -> Result<(), EngineError> {
    let limit = Duration::from_secs(DETACH_LIMIT_S);
    let detached_by = host.clock.now() + limit;
    device::detach(host, domid, detached_by)?;
    let uuid = uuid.hyphenated().to_string();
    let vm = xenstore_nodes::vm_path(&uuid);
    let roots = xenstore_nodes::roots(domid, &uuid).into_iter();
    let batch = removal_of(roots.filter(|root| *root != vm))?;
    host.store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    userdata::remove_all(host, domid, &uuid)?;
    let deadline = host.clock.now() + END_LIMIT;
    end_domain(host, domid, deadline)
}

fn find(host: &Host, domid: DomId) -> Result<DomainInfo, EngineError> {
    host.hv
        .domain_info(domid)?
        .ok_or_else(|| EngineError::NoSuchDomain(domid.to_string()))
}

/// The work of a step of a destroy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Pauses the domain.
    Stop,
    /// Detaches all devices.
    DetachDevices,
    /// Removes its xenstore nodes.
    RemoveNodes,
    /// Removes its files.
    RemoveRecords,
    /// Keeps its number from being given out again at once.
    KeepNumber,
    /// Destroys it in Xen.
    End,
}

/// The steps that end a VM's domain, in order.
pub(crate) fn plan() -> Plan<Action> {
    let step = |name, action, limit_s| step(name, action, OnDeath::RollForward, limit_s);
    Plan::new()
        .step(step("stop it", Action::Stop, 10))
        .step(step(DETACH, Action::DetachDevices, DETACH_LIMIT_S))
        .step(step("remove its xenstore nodes", Action::RemoveNodes, 30))
        .step(step("remove its records", Action::RemoveRecords, 10))
        .step(step("keep its number aside", Action::KeepNumber, 20))
        .step(step("end it", Action::End, END_LIMIT_S))
}

/// The context of a destroy: the domain that ends.
pub(crate) struct Context {
    vm: OfVm,
    old: DomId,
    /// Whether the VM gets another domain, so that its record stays.
    keeps_record: bool,
}

impl Context {
    /// A domain that ends, and whether its VM keeps its record.
    pub fn new(vm: OfVm, old: DomId, keeps_record: bool) -> Context {
        Context {
            vm,
            old,
            keeps_record,
        }
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
            Action::Stop => stop(host, self),
            Action::DetachDevices => detach_devices(host, self, at.deadline()),
            Action::RemoveNodes => remove_old_nodes(host, self),
            Action::RemoveRecords => remove_old_records(host, self),
            Action::KeepNumber => keep_number(host, self),
            Action::End => end(host, self, at.deadline()),
        }?;
        Ok(Progress::Done)
    }
}

/// From here on the guest does not run, so it cannot write to what is being removed.
fn stop(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    let domid = context.old;
    if !context.vm.still_has(host, domid)? {
        return Ok(());
    }
    let paused = host.hv.pause_domain(domid);
    ignore_absence(paused.map_err(EngineError::from))
}

fn detach_devices(
    host: &mut Host,
    context: &Context,
    deadline: Instant,
) -> Result<(), EngineError> {
    detach_devices_if_ours(host, context.old, &context.vm, deadline)
}

/// Takes a domain's devices away, unless its number is another VM's by now.
pub(crate) fn detach_devices_if_ours(
    host: &mut Host,
    domid: DomId,
    vm: &OfVm,
    deadline: Instant,
) -> Result<(), EngineError> {
    // The process that began the operation knows that it is the VM's.
    if vm.is_taken_over {
        let owner = host.store.read_opt(&domains::home(domid, "vm")?)?;
        let ours = xenstore_nodes::vm_path(&vm.text());
        if owner.is_some_and(|owner| owner != ours.as_bytes()) {
            return Ok(());
        }
    }
    device::detach(host, domid, deadline)
}

fn remove_old_nodes(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    let (domid, uuid) = (context.old, context.vm.text());
    if context.vm.is_taken_over {
        remove_nodes_if_ours(host, domid, &uuid)
    } else {
        remove_nodes(host, domid, &uuid)
    }
}

/// Removes the VM's records. If the disk fails, the domain still ends, because its memory must not wait for a disk.
/// Then this step alone stays open.
fn remove_old_records(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    let (domid, uuid) = (context.old, context.vm.text());
    let removed = match context.keeps_record {
        true => userdata::remove_all(host, domid, &uuid),
        false => remove_records(host, domid, &uuid),
    };
    let Err(cause) = removed else {
        return Ok(());
    };
    // A number that is not kept aside is no reason to keep the domain.
    let _ = keep_number(host, context);
    let deadline = host.clock.now() + END_LIMIT;
    end(host, context, deadline)?;
    Err(EngineError::RecordsLeft {
        domid,
        cause: Box::new(cause),
    })
}

fn keep_number(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    DomidHistory::of(host).mark(context.old)
}

fn end(host: &mut Host, context: &Context, deadline: Instant) -> Result<(), EngineError> {
    let domid = context.old;
    match context.vm.still_has(host, domid)? {
        true => end_domain(host, domid, deadline),
        false => Ok(()),
    }
}

/// Ends the domain in the hypervisor; one that is gone already is fine.
pub fn end_domain(host: &mut Host, domid: DomId, deadline: Instant) -> Result<(), EngineError> {
    ignore_absence(
        host.hv
            .destroy_domain(domid, deadline)
            .map_err(EngineError::from),
    )
}

/// Waits until a domain that was destroyed is gone: its state, if it is there still after `limit`.
pub fn await_gone(
    host: &mut Host,
    domid: DomId,
    uuid: Uuid,
    limit: Duration,
) -> Result<Option<DomainInfo>, EngineError> {
    let there = |host: &Host| -> Result<_, EngineError> {
        let info = host.hv.domain_info(domid)?;
        Ok(info.filter(|info| &info.handle == uuid.as_bytes()))
    };
    if there(host)?.is_none() {
        return Ok(None);
    }
    host.store.watch(&Path::release_domain(), GONE_TOKEN)?;
    let deadline = host.clock.now() + limit;
    let left = loop {
        let left = there(host)?;
        let now = host.clock.now();
        if left.is_none() || now >= deadline {
            break left;
        }
        // Xen tells of a domain's end before its last page is free: an event is a reason to look, no more.
        let pause = deadline.saturating_duration_since(now).min(GONE_RECHECK);
        host.wait_for(&[GONE_TOKEN], pause)?;
    };
    host.store.unwatch(&Path::release_domain(), GONE_TOKEN)?;
    Ok(left)
}

fn removal_of(roots: impl Iterator<Item = String>) -> Result<Batch, xenstore::Error> {
    let mut batch = Batch::new();
    for root in roots {
        batch.rm(&Path::new(&root)?);
    }
    Ok(batch)
}

/// Removes a domain's xenstore nodes; those that are not there are fine.
pub fn remove_nodes(host: &mut Host, domid: DomId, uuid: &str) -> Result<(), EngineError> {
    settle_devices(host, domid)?;
    let batch = removal_of(xenstore_nodes::roots(domid, uuid).into_iter())?;
    host.store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    Ok(())
}

/// Removes a domain's xenstore nodes unless its number is another VM's by now.
pub(crate) fn remove_nodes_if_ours(
    host: &mut Host,
    domid: DomId,
    uuid: &str,
) -> Result<(), EngineError> {
    let vm = domains::home(domid, "vm")?;
    let ours = xenstore_nodes::vm_path(uuid);
    let is_ours = |value: Option<Vec<u8>>| value.is_none_or(|value| value == ours.as_bytes());
    if is_ours(host.store.read_opt(&vm)?) {
        settle_devices(host, domid)?;
    }
    host.store.try_transaction(|transaction| {
        // Within the transaction, so that it cannot become another's between the look and the removal.
        let all = is_ours(transaction.read_opt(&vm)?);
        let roots = xenstore_nodes::roots(domid, uuid).into_iter();
        let batch = removal_of(roots.filter(|root| all || *root == ours))?;
        transaction.run(&batch)?;
        Ok(())
    })
}

/// Waits until no backend writes to the domain's nodes any more on its own account.
fn settle_devices(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    KINDS.iter().try_for_each(|kind| kind.settle(host, domid))
}

/// Removes a domain's files.
pub fn remove_records(host: &Host, domid: DomId, uuid: &str) -> Result<(), EngineError> {
    userdata::remove_all(host, domid, uuid)?;
    store::remove(&*host.files, &host.dirs, uuid)
}

fn ignore_absence(outcome: Result<(), EngineError>) -> Result<(), EngineError> {
    match outcome {
        Err(EngineError::Hypervisor(error)) if error.is(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// Refuses a domain with devices that Xyl cannot take down: of other kinds, scripts or backends, or of another toolstack's device model.
pub(crate) fn refuse_foreign_devices(
    host: &mut Host,
    info: &DomainInfo,
) -> Result<(), EngineError> {
    let domid = info.domid;
    let mut devices = device::foreign(host, domid)?;
    if info.kind() == GuestKind::Hvm
        && (device_model::has_others(host, domid) || device::machine::is_of_others(host, domid)?)
    {
        devices.push("a device model".to_owned());
    }
    if devices.is_empty() {
        return Ok(());
    }
    Err(EngineError::ForeignDevices {
        domid,
        devices: devices.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;
    use crate::vm::monitor_lock;
    use xen_port::Hypervisor;
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    #[test]
    fn what_is_left_of_an_earlier_domain_takes_nothing_of_the_vm_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (hv, uuid) = (Model::new(64), Uuid::from_bytes([7; 16]));
        let earlier = hv.create_domain(&pv_request(*uuid.as_bytes())).unwrap();
        hv.linger(earlier);
        let now = hv.create_domain(&pv_request(*uuid.as_bytes())).unwrap();
        let store = MemStore::new().client(0).unwrap();
        let mut host = Host::new(Box::new(hv.clone()), store, Dirs::below(folder.path()));
        let text = uuid.hyphenated().to_string();
        store::write(&*host.files, &host.dirs, &text, "name = \"g\"\n").unwrap();
        monitor_lock::create_file(&*host.files, &host.dirs, uuid).unwrap();
        let vm = Path::new(&xenstore_nodes::vm_path(&text)).unwrap();
        let old = Path::domain(earlier.0).join("name").unwrap();
        for node in [&vm, &old] {
            host.store.write(node, b"g").unwrap();
        }
        destroy(&mut host, earlier, false).unwrap();
        assert!(store::read(&*host.files, &host.dirs, &text).is_ok());
        assert!(host.dirs.watch(uuid).exists());
        assert!(host.store.read_opt(&vm).unwrap().is_some());
        assert_eq!(host.store.read_opt(&old).unwrap(), None);
        let found = domains::find_uuid(&hv, *uuid.as_bytes()).unwrap();
        assert_eq!(found.info.domid, now);
        // The last one takes all.
        destroy(&mut host, now, false).unwrap();
        assert!(store::read(&*host.files, &host.dirs, &text).is_err());
        assert!(!host.dirs.watch(uuid).exists());
    }
}
