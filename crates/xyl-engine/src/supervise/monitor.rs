//! Waiting for a VM's end, and doing then what its configuration says.
//!
//! One process per VM runs [`watch`]. It holds nothing that is not in Xen, xenstore or the VM's
//! record on disk, and it sleeps until xenstored says that some domain has ended.

use std::time::{Duration, Instant};

use os_port::Lock;
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, ShutdownReason};
use xenstore::{Path, Tree};

use crate::config::plan::Planned;
use crate::operation::soft_reset::{self, Outcome, Tally};
use crate::operation::{destroy, dump_core, restart, status};
use crate::supervise::monitor_lock::MonitorLock;
use crate::supervise::{requests, restart_backoff};
use crate::vm::domains::{self, home};
use crate::vm::spec::Action;
use crate::vm::{lock, store};
use crate::{EngineError, Host, VmGuard};

/// How often the domain is looked at when xenstored stays silent: a lost event delays, and no more.
const RECHECK_EVERY: Duration = Duration::from_secs(3600);

/// A domain at whose beginning nothing has happened for so long will run for long.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long a domain that something is missing of is left alone.
const PAUSE: Duration = Duration::from_secs(2);
/// What is said of a restart that has failed.
const NOT_RESTARTED: &str = "not restarted";

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
/// what happens, a line each. A process that dies meanwhile, or loses xenstored, leaves its post to the
/// next one ([`crate::supervise::monitor_lock`]), which starts with what has happened since.
pub fn watch(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    match MonitorLock::take(host, vm.uuid, None)? {
        Some(post) => keep(host, vm, post, log),
        None => {
            tell_of_other(vm, log);
            Ok(())
        }
    }
}

/// The same, by a process that may have been given its post's lock, and that says when it has its post.
pub fn watch_with(
    host: &mut Host,
    vm: Vm,
    lock: Option<Box<dyn Lock>>,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let Some(post) = MonitorLock::take(host, vm.uuid, lock)? else {
        tell_of_other(vm, log);
        return Ok(());
    };
    log(&format!("watching over domain {} ({})", vm.domid, vm.uuid));
    keep(host, vm, post, log)
}

fn tell_of_other(vm: Vm, log: &mut dyn FnMut(&str)) {
    log(&format!("another process watches over {}", vm.uuid));
}

/// Keeps the post until there is nothing to watch over any more.
fn keep(
    host: &mut Host,
    vm: Vm,
    post: MonitorLock,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let outcome = watch_at(host, vm, &post, log);
    match &outcome {
        Err(error) if error.is_connection_lost() => {}
        // Somebody has had the VM in hand for too long: whoever looks next starts another monitor.
        Err(error) if matches!(error.cause(), EngineError::Deadline { .. }) => {}
        _ => post.abolish(host),
    }
    outcome
}

fn watch_at(
    host: &mut Host,
    mut vm: Vm,
    post: &MonitorLock,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    host.store.watch(&Path::release_domain(), END_TOKEN)?;
    let mut resets = Tally::default();
    loop {
        let begun = finish_what_was_begun(host, &mut vm, log);
        let listened_to = vm.domid;
        requests::listen(host, listened_to)?;
        watch_name(host, vm)?;
        let next = begun.and_then(|()| next_action(host, vm, &mut resets, log));
        forget_name(host, vm)?;
        let next = match next {
            Ok(Some((action, planned))) => act(host, vm, action, &planned, log)?,
            Ok(None) => After::Gone,
            Err(cause) => After::Failed("cannot look after it", cause),
        };
        vm.domid = match next {
            After::Next(domid) => {
                // Another domain has asked for none yet.
                if domid != vm.domid {
                    resets = Tally::default();
                }
                domid
            }
            After::End => return Ok(()),
            After::Failed(what, cause) => match try_again(host, vm, (what, &cause), log)? {
                true => {
                    wait_out(host, vm, log)?;
                    vm.domid
                }
                false => return Err(cause),
            },
            After::Gone => match after_the_domain(host, vm, post, log)? {
                Some(domid) => domid,
                None => return Ok(()),
            },
        };
        requests::stop_listening(host, listened_to)?;
    }
}

/// Goes on with an operation that stands still: whoever began it has died, or could not go on. Then finds the VM's
/// domain: the number that is known may be that of one of long ago.
fn finish_what_was_begun(
    host: &mut Host,
    vm: &mut Vm,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    if status::is_orphaned(&*host.files, &host.dirs, &*host.process, vm.uuid) {
        let owner = VmGuard::take(host, vm.uuid)?;
        if let Some(recovered) = &owner.recovered {
            log(&recovered.line());
        }
    }
    vm.domid = domain_of(host, vm.uuid)?.unwrap_or(vm.domid);
    Ok(())
}

/// What there is once the configuration's action was taken.
enum After {
    /// The VM's next domain, or the same one, which has to be looked at again.
    Next(DomId),
    /// Nothing more to do.
    End,
    /// The domain is not there any more.
    Gone,
    /// What was to be done has failed: the words for that, and why.
    Failed(&'static str, EngineError),
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
            match wait_for_end(host, vm, log)?.and_then(|info| info.shutdown_reason) {
                None => return Ok(None),
                reason => reason,
            }
        };
        let planned = store::planned(host, vm.uuid)?;
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
        if let Some(turn) = resets.rests_until()
            && turn > host.clock.now()
        {
            resets.explain(vm.domid).iter().for_each(|line| log(line));
            if !wait_until(host, vm, turn, log)? {
                return Ok(None);
            }
        }
        // Nobody else changes the VM meanwhile; whoever had it before may have ended it.
        let _owner = VmGuard::take(host, vm.uuid)?;
        let start = host.clock.now();
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

/// The VM's domain now.
fn domain_of(host: &Host, uuid: Uuid) -> Result<Option<DomId>, EngineError> {
    domains::living(&*host.hv, *uuid.as_bytes())
}

/// The domain is gone. The VM's next one, if it has one or is to get one. Whoever destroyed it, xl
/// perhaps, does not know of our record: else that goes.
fn after_the_domain(
    host: &mut Host,
    vm: Vm,
    post: &MonitorLock,
    log: &mut dyn FnMut(&str),
) -> Result<Option<DomId>, EngineError> {
    loop {
        if post.is_abolished(host) {
            return Ok(None);
        }
        let owner = VmGuard::take(host, vm.uuid)?;
        if let Some(domid) = domain_of(host, vm.uuid)? {
            log(&format!("the VM is domain {domid} now"));
            if domid == vm.domid {
                // Something of it is missing, and would be missed again at once.
                drop(owner);
                host.wait_for_event(PAUSE)?;
            }
            return Ok(Some(domid));
        }
        if !restart::is_owed(host, vm.uuid)? {
            log(&format!("domain {} is gone", vm.domid));
            lock::forget(host, vm.uuid)?;
            return Ok(None);
        }
        drop(owner);
        let due = restart_backoff::read(&*host.files, &host.dirs, vm.uuid);
        if let Some(due) = due.filter(|due| due.left(&*host.clock) > Duration::ZERO) {
            host.wait_for_event(due.left(&*host.clock))?;
            continue;
        }
        match restart::again(host, vm.uuid) {
            Ok(domid) => {
                log(&format!("restarted as domain {domid}"));
                return Ok(Some(domid));
            }
            Err(EngineError::UuidTaken { domid, .. }) => return Ok(Some(domid)),
            Err(cause) => {
                if !try_again(host, vm, (NOT_RESTARTED, &cause), log)? {
                    return Err(cause);
                }
            }
        }
    }
}

/// Something has failed: whether it is to be tried again, after a pause. If not, the record is put aside
/// for whoever repairs what is wrong.
fn try_again(
    host: &mut Host,
    vm: Vm,
    (what, cause): (&str, &EngineError),
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    if cause.is_connection_lost() {
        return Ok(false);
    }
    let is_cancelled = matches!(cause.cause(), EngineError::Cancelled);
    if !is_cancelled && let Some(brake) = restart_backoff::of_failure(host, vm)? {
        log(&format!(
            "{what}: {cause}. The next try follows in {} s, for {}",
            brake.left(&*host.clock).as_secs(),
            brake.why()
        ));
        return Ok(true);
    }
    let _owner = VmGuard::take(host, vm.uuid)?;
    let kept = match domain_of(host, vm.uuid)? {
        Some(domid) => format!(
            "domain {domid} is left as it ended; to start it again: {}",
            by_hand(host, vm.uuid, Some(domid))
        ),
        None => {
            let path = store::keep(host, vm.uuid)?;
            format!("to start it again: xyl create {}", path.display())
        }
    };
    let tries = match is_cancelled {
        true => String::new(),
        false => format!(", after {} tries", restart_backoff::TRIES),
    };
    log(&format!("{what}{tries}: {cause}. {kept}"));
    Ok(false)
}

/// Waits until the next try is due, or the domain is gone.
fn wait_out(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    if let Some(due) = restart_backoff::read(&*host.files, &host.dirs, vm.uuid) {
        let deadline = due.deadline(&*host.clock);
        wait_until(host, vm, deadline, log)?;
    }
    Ok(())
}

/// Waits, unless the domain goes meanwhile, and does what is asked of it. Whether it is still there.
fn wait_until(
    host: &mut Host,
    vm: Vm,
    deadline: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    while host.clock.now() < deadline {
        let event = host.wait_for_event(deadline.saturating_duration_since(host.clock.now()))?;
        if event.is_some_and(|event| event.token == requests::TOKEN) {
            requests::serve(host, vm, log)?;
        }
        if domain_of(host, vm.uuid)? != Some(vm.domid) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What to type for a VM whose ended domain is in the way.
fn by_hand(host: &Host, uuid: Uuid, domid: Option<DomId>) -> String {
    let path = store::path(&host.dirs, &uuid.hyphenated().to_string());
    let destroy = domid.map_or(String::new(), |domid| format!("xl destroy {domid}; "));
    format!("cp {} vm.cfg; {destroy}xyl create vm.cfg", path.display())
}

/// Lets a domain that has ended wait for its turn. Whether it is still there then.
fn wait_for_turn(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<bool, EngineError> {
    let due = restart_backoff::of_end(host, vm)?;
    let deadline = due.deadline(&*host.clock);
    let pause = due.left(&*host.clock);
    if pause > Duration::ZERO {
        log(&format!(
            "the restart waits {} s: {}",
            pause.as_secs(),
            due.why()
        ));
    }
    wait_until(host, vm, deadline, log)
}

/// Waits until the VM's domain has shut down (its state then), or does not exist any more (`None`), and does what is
/// asked of it meanwhile.
fn wait_for_end(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<Option<DomainInfo>, EngineError> {
    let mut is_rested = false;
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
        let mut event = None;
        if !is_rested {
            event = host.wait_for_event(REST_AFTER)?;
        }
        if event.is_none() {
            // Once: other domains' ends wake it up for a moment each.
            if !std::mem::replace(&mut is_rested, true) {
                host.process.rest();
            }
            event = host.wait_for_event(RECHECK_EVERY)?;
        }
        match event.as_ref().map(|event| event.token.as_str()) {
            Some(NAME_TOKEN) => index_name(host, vm)?,
            // What was done may have taken memory.
            Some(requests::TOKEN) => is_rested &= !requests::serve(host, vm, log)?,
            _ => {}
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

/// Does what the configuration says.
fn act(
    host: &mut Host,
    vm: Vm,
    action: Action,
    planned: &Planned,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    let keeps_old = match action {
        // A soft reset is no end: `next_action` does it.
        Action::Preserve | Action::SoftReset => return Ok(After::End),
        Action::Destroy => {
            return Ok(match destroy::destroy_ended(host, vm.domid) {
                Ok(()) => After::End,
                // Somebody was faster.
                Err(EngineError::NoSuchDomain(_)) => After::Gone,
                Err(cause) => After::Failed("not destroyed", cause),
            });
        }
        Action::Restart => false,
        Action::RenameRestart => true,
        Action::CoredumpDestroy => return dump_and(Action::Destroy, host, vm, planned, log),
        Action::CoredumpRestart => return dump_and(Action::Restart, host, vm, planned, log),
    };
    if !wait_for_turn(host, vm, log)? {
        return Ok(After::Gone);
    }
    match restart::restart(host, vm.uuid, vm.domid, keeps_old) {
        Ok(Some(domid)) => {
            log(&format!("restarted as domain {domid}"));
            Ok(After::Next(domid))
        }
        Ok(None) => {
            log("another process has ended or restarted it meanwhile");
            Ok(After::Gone)
        }
        Err(cause @ EngineError::ForeignDevices { .. }) => {
            let name = &planned.spec.name;
            let path = store::path(&host.dirs, &vm.uuid.hyphenated().to_string());
            log(&format!(
                "not restarted, since xl has given it devices; to start it again: cp {} {name}.cfg; xl destroy {}; xyl create {name}.cfg",
                path.display(),
                vm.domid
            ));
            Err(cause)
        }
        Err(cause) => Ok(After::Failed(NOT_RESTARTED, cause)),
    }
}

/// Dumps the domain's core, and goes on, whether there is one or not.
fn dump_and(
    then: Action,
    host: &mut Host,
    vm: Vm,
    planned: &Planned,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    dump_core::at_end(host, vm, &planned.spec.name, log)?;
    act(host, vm, then, planned, log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;
    use std::rc::Rc;
    use xen_build::model::Model;
    use xen_port::Hypervisor;
    use xenstore::mem::MemStore;

    fn make_domain(hv: &Model, uuid: Uuid) -> DomId {
        hv.create_domain(&pv_request(*uuid.as_bytes())).unwrap()
    }

    const RECORD: &str = "name = \"g\"\nkernel = \"/k\"\nmemory = 8\non_poweroff = \"preserve\"\n";

    fn host(hv: &Model, folder: &std::path::Path) -> Host {
        let store = MemStore::new().client(0).unwrap();
        Host::new(Box::new(hv.clone()), store, Dirs::below(folder))
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
        let mut host = host(&hv, folder.path());
        let text = uuid.hyphenated().to_string();
        store::write(&*host.files, &host.dirs, &text, RECORD).unwrap();
        watch(&mut host, Vm { domid, uuid }, &mut |_| ()).unwrap();
        assert!(!host.dirs.watch(uuid).exists());
        store::read(&*host.files, &host.dirs, &text).is_ok()
    }

    #[test]
    fn ends_with_a_domain_that_was_taken_back() {
        assert!(!record_outlives(|_, _| ()));
        assert!(!record_outlives(|hv, _| {
            make_domain(hv, Uuid::from_bytes([8; 16]));
        }));
    }

    #[test]
    fn catches_up_with_the_next_domain_and_leaves_its_record() {
        assert!(record_outlives(|hv, uuid| {
            let next = make_domain(hv, uuid);
            hv.shut_down(next, ShutdownReason::Poweroff);
        }));
    }

    /// Watches over a VM that powers itself off, with one call to Xen failing; what the log says, and the number of
    /// the call that destroys.
    fn power_off(failing: Option<usize>) -> (Vec<String>, Option<usize>) {
        let folder = tempfile::tempdir().unwrap();
        let (hv, uuid) = (Model::new(64), Uuid::from_bytes([7; 16]));
        let domid = make_domain(&hv, uuid);
        hv.shut_down(domid, ShutdownReason::Poweroff);
        let mut host = host(&hv, folder.path());
        let text = uuid.hyphenated().to_string();
        let record = RECORD.replace("preserve", "destroy");
        store::write(&*host.files, &host.dirs, &text, &record).unwrap();
        hv.forget_calls();
        if let Some(number) = failing {
            hv.fail_at(number, xen_port::Errno::EIO);
        }
        let mut lines = Vec::new();
        watch(&mut host, Vm { domid, uuid }, &mut |line| {
            lines.push(line.to_owned());
        })
        .unwrap();
        assert!(hv.domain(domid).is_none() && !host.dirs.watch(uuid).exists());
        let calls = hv.calls();
        let number = calls.iter().position(|call| call.op == "destroy_domain");
        (lines, number)
    }

    #[test]
    fn a_destroy_that_fails_is_tried_again() {
        let (lines, number) = power_off(None);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (lines, _) = power_off(number);
        assert!(
            lines.iter().any(|line| line.starts_with("not destroyed")),
            "{lines:?}"
        );
    }

    #[test]
    fn one_process_watches_over_a_vm() {
        let folder = tempfile::tempdir().unwrap();
        let (hv, uuid) = (Model::new(64), Uuid::from_bytes([7; 16]));
        let domid = make_domain(&hv, uuid);
        let mut host = host(&hv, folder.path());
        let lock = host.files.lock(&host.dirs.watch(uuid), None).unwrap();
        let mut lines = Vec::new();
        host.clock = Rc::new(os_port::mem::VirtualClock::new());
        watch(&mut host, Vm { domid, uuid }, &mut |line| {
            lines.push(line.to_owned());
        })
        .unwrap();
        assert_eq!(lines, [format!("another process watches over {uuid}")]);
        drop(lock);
    }
}
