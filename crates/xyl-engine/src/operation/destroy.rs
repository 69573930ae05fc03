//! Destroying a domain, ours or xl's.

use std::time::{Duration, Instant};

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Errno, GuestKind};
use xenstore::{Batch, Path, Tree};
use xyl_saga::{Facts, OnDeath, Step};

use crate::device::{self, KINDS};
use crate::operation::xenstore_nodes;
use crate::operation::{Draft, Kind, step};
use crate::vm::domid_history::DomidHistory;
use crate::vm::{domains, names, store, userdata};
use crate::{Cancel, EngineError, Host, VmGuard};

/// How long Xen may take to give all of a domain's memory back, in seconds.
const END_LIMIT_S: u64 = 120;
/// [`END_LIMIT_S`] as a duration.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(END_LIMIT_S);

/// Token of the watch that tells of a domain's end.
const GONE_TOKEN: &str = "xyl-gone";
/// How often a domain is looked for that is about to go, where no event tells of it.
const GONE_RECHECK: Duration = Duration::from_millis(50);

/// Destroys a domain and all that the toolstack made for it.
///
/// A domain with devices that Xyl cannot take down is refused, unless `force` says to leave their
/// backends to themselves. Whose VM has got its next domain by the time that it is this process's turn
/// (its guest has rebooted) loses that one: it is the VM that was to go.
pub fn destroy(host: &mut Host, domid: DomId, force: bool) -> Result<(), EngineError> {
    let info = find(host, domid)?;
    destroy_found(host, &info, force)
}

/// The same for a domain that was found a while ago; one that is gone by now is fine.
pub(crate) fn destroy_found(
    host: &mut Host,
    info: &DomainInfo,
    force: bool,
) -> Result<(), EngineError> {
    destroy_with(host, info, force, true)
}

/// The same for this one domain, which has ended: a next one of its VM stays.
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
    let domid = info.domid;
    refuse_control_domain(domid)?;
    let uuid = Uuid::from_bytes(info.handle);
    let mut owner = VmGuard::take(host, uuid)?;
    owner.tell(host);
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
        drop(owner);
        let next = find(host, next)?;
        return destroy_with(host, &next, force, follows);
    }
    let info = match now {
        Some(now) if now.handle != info.handle => return Ok(()),
        Some(now) if !now.flags.dying => now,
        Some(_) if domains::living(&*host.hv, info.handle)?.is_some() => {
            return end_leftover(host, domid, uuid);
        }
        Some(now) if !had_its_turn => now,
        _ => return Ok(()),
    };
    if !force {
        refuse_foreign_devices(host, &info)?;
    }
    let mut args = Facts::new();
    args.insert("old".to_owned(), domid.0.into());
    let name = names::on_disk(host, &info);
    let mut draft = Draft::new(host, uuid);
    draft.old = Some(domid);
    let cancel = Cancel::new();
    owner.carry_out(Kind::Destroy, &name, args, &mut draft, &cancel, &mut |_| ())
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

/// The steps that end a VM's domain, in order.
pub(crate) fn steps<'a>() -> Vec<Step<Draft<'a>>> {
    use OnDeath::RollForward;
    vec![
        step("stop it", RollForward, 10, stop, None),
        step(
            "remove its xenstore nodes",
            RollForward,
            30,
            remove_old_nodes,
            None,
        ),
        step(
            "remove its records",
            RollForward,
            10,
            remove_old_records,
            None,
        ),
        step("keep its number aside", RollForward, 20, keep_number, None),
        step("end it", RollForward, END_LIMIT_S, end, None),
    ]
}

/// From here on the guest does not run, so it cannot write to what is being removed.
fn stop(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let domid = draft.old()?;
    if !draft.is_still_ours(domid)? {
        return Ok(());
    }
    let paused = draft.host.hv.pause_domain(domid);
    ignore_absence(paused.map_err(EngineError::from))
}

fn remove_old_nodes(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, uuid) = (draft.old()?, draft.uuid_text());
    if draft.is_taken_over {
        remove_nodes_if_ours(draft.host, domid, &uuid)
    } else {
        remove_nodes(draft.host, domid, &uuid)
    }
}

fn remove_old_records(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, uuid, host) = (draft.old()?, draft.uuid_text(), &*draft.host);
    if draft.keeps_record {
        return userdata::remove_all(host, domid, &uuid);
    }
    remove_records(host, domid, &uuid)
}

fn keep_number(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    DomidHistory::of(draft.host).mark(draft.old()?)
}

fn end(draft: &mut Draft<'_>, deadline: Instant) -> Result<(), EngineError> {
    let domid = draft.old()?;
    match draft.is_still_ours(domid)? {
        true => end_domain(draft.host, domid, deadline),
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
        host.wait_for_event_of(&[GONE_TOKEN], pause)?;
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

/// Disks, network interfaces and device models need a teardown that Xyl does not have yet.
pub(crate) fn refuse_foreign_devices(
    host: &mut Host,
    info: &DomainInfo,
) -> Result<(), EngineError> {
    let domid = info.domid;
    let mut devices = device::foreign(host, domid)?;
    if info.kind() == GuestKind::Hvm {
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
        monitor_lock::want(&*host.files, &host.dirs, uuid).unwrap();
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
