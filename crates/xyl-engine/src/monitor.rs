//! Waiting for a VM's end, and doing then what its configuration says.
//!
//! One process per VM runs [`watch`]. It holds nothing that is not in Xen, xenstore or the VM's
//! record on disk, and it sleeps until xenstored says that some domain has ended.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, ShutdownReason};
use xenstore::{Path, Tree};

use crate::domains::home;
use crate::plan::Planned;
use crate::soft_reset::{self, Outcome, Tally};
use crate::spec::Action;
use crate::{EngineError, Host, Owner, destroy, owner, record, restart};

/// How often the domain is looked at when xenstored stays silent: a lost event delays, and no more.
const RECHECK_EVERY: Duration = Duration::from_secs(3600);

/// Token of the watch that tells of domains' ends.
const END_TOKEN: &str = "xyl-end";
/// Token of the watch on the domain's name.
const NAME_TOKEN: &str = "xyl-name";

/// The VM that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Vm {
    /// Its domain now.
    pub domid: DomId,
    /// Its identity.
    pub uuid: Uuid,
}

/// Watches a VM until it has ended for good, restarting it as its configuration says. `log` is told
/// what happens, a line each.
pub fn watch(host: &mut Host, mut vm: Vm, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    host.store.watch(&Path::release_domain(), END_TOKEN)?;
    let mut resets = Tally::default();
    loop {
        watch_name(host, vm)?;
        let next = next_action(host, vm, &mut resets, log)?;
        forget_name(host, vm)?;
        let Some((action, planned)) = next else {
            log(&format!("domain {} is gone", vm.domid));
            return forget(host, vm.uuid);
        };
        match act(host, vm, action, &planned, log)? {
            Some(domid) => vm.domid = domid,
            None => return Ok(()),
        }
    }
}

/// Waits until the VM's domain has ended, and says what to do then; `None` when it is gone. A domain
/// that asks for a soft reset is given it here, as often as it asks.
fn next_action(
    host: &mut Host,
    vm: Vm,
    resets: &mut Tally,
    log: &mut dyn FnMut(&str),
) -> Result<Option<(Action, Planned)>, EngineError> {
    loop {
        // One under way was begun by somebody who has died.
        let reason = if soft_reset::is_under_way(host, vm.domid)? {
            None
        } else {
            match wait_for_end(host, vm)?.and_then(|info| info.shutdown_reason) {
                None => return Ok(None),
                reason => reason,
            }
        };
        let planned = record::planned(host, vm.uuid)?;
        let on = &planned.spec.on;
        let action = match reason {
            // `wait_for_end` does not return for a suspended domain, so there is an action.
            Some(reason) => on.action(reason).unwrap_or(Action::Preserve),
            None => Action::SoftReset,
        };
        if action != Action::SoftReset {
            let reason = reason.map(|reason| format!(" ({reason:?})"));
            log(&format!(
                "domain {} has ended{}: {}",
                vm.domid,
                reason.unwrap_or_default(),
                action.word()
            ));
            return Ok(Some((action, planned)));
        }
        let start = host.clock.now();
        // Nobody else changes the VM meanwhile; whoever had it before may have ended it.
        let _owner = Owner::take(host, vm.uuid)?;
        match soft_reset::run(host, vm, log)? {
            Outcome::Running => {
                let now = host.clock.now();
                if let Some(line) = resets.count(vm.domid, now, now - start) {
                    log(&line);
                }
            }
            Outcome::Gone => return Ok(None),
            Outcome::GivenUp(why) => {
                let action = on.action_without_soft_reset();
                log(&format!(
                    "domain {} asked for a soft reset, which cannot be done: {why}. As after a crash: {}",
                    vm.domid,
                    action.word()
                ));
                return Ok(Some((action, planned)));
            }
        }
    }
}

/// Whoever destroyed the domain, xl perhaps, does not know of our record. Unless the VM has another
/// domain by now, it goes.
fn forget(host: &mut Host, uuid: Uuid) -> Result<(), EngineError> {
    let _owner = Owner::take(host, uuid)?;
    let domains = host.hv.domain_list()?;
    let lives = |info: &DomainInfo| &info.handle == uuid.as_bytes() && !info.flags.dying;
    match domains.iter().any(lives) {
        true => Ok(()),
        false => owner::forget(host, uuid),
    }
}

/// Waits until the VM's domain has shut down (its state then), or does not exist any more (`None`).
fn wait_for_end(host: &mut Host, vm: Vm) -> Result<Option<DomainInfo>, EngineError> {
    loop {
        let info = host.hv.domain_info(vm.domid)?;
        let Some(info) = info.filter(|info| &info.handle == vm.uuid.as_bytes()) else {
            return Ok(None);
        };
        if info.flags.dying {
            return Ok(None);
        }
        if info
            .shutdown_reason
            .is_some_and(|reason| reason != ShutdownReason::Suspend)
        {
            return Ok(Some(info));
        }
        let event = host.wait_for_event(RECHECK_EVERY)?;
        if event.is_some_and(|event| event.token == NAME_TOKEN) {
            index_name(host, vm)?;
        }
    }
}

/// Sees to the VM's entry in the index of names: the watch tells of the name as it is, and of each change.
fn watch_name(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    Ok(host.store.watch(&home(vm.domid, "name")?, NAME_TOKEN)?)
}

fn index_name(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    let name = host.store.read_opt(&home(vm.domid, "name")?)?;
    let name = name.map(|name| String::from_utf8_lossy(&name).into_owned());
    put_name(host, vm, &name.unwrap_or_default());
    Ok(())
}

fn forget_name(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    host.store.unwatch(&home(vm.domid, "name")?, NAME_TOKEN)?;
    put_name(host, vm, "");
    Ok(())
}

/// An index that cannot be written to costs time and nothing else: names are read from xenstore then.
fn put_name(host: &mut Host, vm: Vm, name: &str) {
    let (_, _, index) = host.directory();
    let _ = index.put(vm.domid, vm.uuid, name);
}

/// Does what the configuration says; the domid of the VM's next life, if there is one.
fn act(
    host: &mut Host,
    vm: Vm,
    action: Action,
    planned: &Planned,
    log: &mut dyn FnMut(&str),
) -> Result<Option<DomId>, EngineError> {
    let keeps_old = match action {
        // A soft reset is no end: `next_action` does it.
        Action::Preserve | Action::SoftReset => return Ok(None),
        Action::Destroy => {
            destroy::destroy(host, vm.domid, false)?;
            return Ok(None);
        }
        Action::Restart => false,
        Action::RenameRestart => true,
    };
    let restarted = restart::restart(host, vm.uuid, vm.domid, keeps_old);
    if let Err(EngineError::ForeignDevices { .. }) = &restarted {
        let name = &planned.spec.name;
        let path = record::path(&host.dirs, &vm.uuid.hyphenated().to_string());
        log(&format!(
            "not restarted, since xl has given it devices; to start it again: cp {} {name}.cfg; xl destroy {}; xyl create {name}.cfg",
            path.display(),
            vm.domid
        ));
    }
    let restarted = restarted?;
    match restarted {
        Some(domid) => log(&format!("restarted as domain {domid}")),
        None => log("another process has ended or restarted it meanwhile"),
    }
    Ok(restarted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;
    use xen_build::model::Model;
    use xen_port::Hypervisor;
    use xenstore::mem::MemStore;

    fn make_domain(hv: &Model, uuid: Uuid) -> DomId {
        hv.create_domain(&pv_request(*uuid.as_bytes())).unwrap()
    }

    /// Watches over a domain that was taken back before the monitor came to look; whether the VM's record
    /// is there afterwards. `next` makes what else there is.
    fn record_outlives(next: impl FnOnce(&Model, Uuid)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let (hv, uuid) = (Model::new(64), Uuid::from_bytes([7; 16]));
        let domid = make_domain(&hv, uuid);
        hv.destroy_domain(domid, std::time::Instant::now()).unwrap();
        // Xen does not give the number again soon; the model would.
        make_domain(&hv, Uuid::from_bytes([9; 16]));
        next(&hv, uuid);
        let store = MemStore::new().client(0).unwrap();
        let mut host = Host::new(Box::new(hv), store, Dirs::below(folder.path()));
        let text = uuid.hyphenated().to_string();
        record::write(&*host.files, &host.dirs, &text, "name = \"g\"\n").unwrap();
        watch(&mut host, Vm { domid, uuid }, &mut |_| ()).unwrap();
        record::read(&*host.files, &host.dirs, &text).is_ok()
    }

    #[test]
    fn ends_with_a_domain_that_was_taken_back() {
        assert!(!record_outlives(|_, _| ()));
        assert!(!record_outlives(|hv, _| {
            make_domain(hv, Uuid::from_bytes([8; 16]));
        }));
    }

    #[test]
    fn leaves_the_record_of_the_next_domain_alone() {
        assert!(record_outlives(|hv, uuid| {
            make_domain(hv, uuid);
        }));
    }
}
