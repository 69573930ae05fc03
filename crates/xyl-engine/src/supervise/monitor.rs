//! The monitor of a VM: it waits for the end of the domain, and then acts as the VM's configuration says.
//!
//! One process per VM runs [`watch`]. All its state is in Xen, xenstore or the VM's files, so another process can
//! continue at any time. It sleeps until xenstored reports that some domain has ended, or until a process rings its
//! doorbell.

mod actions;
mod faults;
mod qemu;
mod waits;

use os_port::Lock;
use xenstore::Path;

use crate::config::plan::{self, Planned};
use crate::operation::hotplug::{detach, lost};
use crate::operation::soft_reset::tally::Tally;
use crate::operation::soft_reset::{self, Outcome};
use crate::supervise::requests;
use crate::supervise::restart_backoff::Backoff;
use crate::vm::monitor_lock::{self, MonitorLock};
use crate::vm::spec::Action;
use crate::vm::{Vm, journal, request_queue};
use crate::{EngineError, Host, VmGuard};
use actions::{After, Verdict, act, after_the_domain, try_again};
use faults::{Fault, Faults, NOT_LOOKED_AFTER};
use waits::{
    END_TOKEN, domain_of, is_supervised, put_name, wait_after_fault, wait_for_end, wait_out,
    wait_until, watch_name,
};

/// Runs the monitor of a VM until the VM has ended and is not restarted. `log` receives a line for each event.
///
/// If the process dies, loses xenstored or lacks a right that it gave up, the file of the monitor lock stays ([`crate::vm::monitor_lock`]), and the
/// next monitor continues. No other error ends the monitor: the host may lack space, memory or a quota for a while.
pub fn watch(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    match take_lock(host, vm, None, log)? {
        Some(lock) => keep(host, vm, lock, log),
        None => {
            tell_of_other(vm, log);
            Ok(())
        }
    }
}

/// As [`watch`], with the monitor lock that this process may have inherited. Logs when the monitor has its lock.
pub fn watch_with(
    host: &mut Host,
    vm: Vm,
    lock: Option<Box<dyn Lock>>,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let Some(lock) = take_lock(host, vm, lock, log)? else {
        tell_of_other(vm, log);
        return Ok(());
    };
    log(&format!("watching over domain {} ({})", vm.domid, vm.uuid));
    keep(host, vm, lock, log)
}

/// Takes the monitor lock of the VM; `None` if another process has it.
fn take_lock(
    host: &mut Host,
    vm: Vm,
    mut inherited: Option<Box<dyn Lock>>,
    log: &mut dyn FnMut(&str),
) -> Result<Option<MonitorLock>, EngineError> {
    let mut faults = Faults::default();
    loop {
        match MonitorLock::take(host, vm.uuid, inherited.take()) {
            Err(cause) => {
                let pause = faults.report(host, &cause.into(), log);
                wait_after_fault(host, vm, pause, log)?;
            }
            taken => return taken,
        }
    }
}

fn tell_of_other(vm: Vm, log: &mut dyn FnMut(&str)) {
    log(&format!("another process watches over {}", vm.uuid));
}

/// The end of a monitor. Only these ends remove the file of the monitor lock: an error decides nothing about the VM.
enum End {
    /// The VM has ended.
    Over,
    /// The action on the domain's end has failed for good; the error. The log has the remedy.
    GivenUp(EngineError),
}

/// Runs the monitor under its lock until the VM has ended. After an error it continues, with growing pauses. Without
/// xenstored or a right that it gave up it ends, and the file of the monitor lock stays for the next monitor.
fn keep(
    host: &mut Host,
    mut vm: Vm,
    lock: MonitorLock,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let (mut faults, mut backoff) = (Faults::default(), Backoff::default());
    loop {
        let fault = match watch_at(host, &mut vm, &lock, &mut backoff, log) {
            Ok(End::Over) => {
                end_watch(host, lock);
                return Ok(());
            }
            Ok(End::GivenUp(cause)) => {
                end_watch(host, lock);
                return Err(cause);
            }
            Err(fault) if fault.cause.needs_next_monitor() => return Err(fault.cause),
            Err(fault) => fault,
        };
        let pause = faults.report(host, &fault, log);
        wait_after_fault(host, vm, pause, log)?;
    }
}

/// Ends the supervision, and replies to the requests that wait. If the VM belongs to another monitor by now, nothing
/// of it is removed.
fn end_watch(host: &mut Host, lock: MonitorLock) {
    let uuid = lock.uuid();
    if !is_supervised(host, uuid) {
        host.remove_doorbell();
    } else if !lock.is_revoked(host) {
        host.remove_doorbell();
        let next = domain_of(host, uuid).ok().flatten();
        // As at the end of a VM (`lock::forget`), so that each request gets one answer.
        request_queue::answer_unserved(host, uuid, next);
        let _ = monitor_lock::remove_file(&*host.files, &host.dirs, uuid);
        request_queue::answer_unserved(host, uuid, next);
    }
    lock.end_supervision(host);
}

fn watch_at(
    host: &mut Host,
    vm: &mut Vm,
    lock: &MonitorLock,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<End, Fault> {
    let mut resets = Tally::default();
    loop {
        install_doorbell(host, *vm, log);
        // What has failed may have left watches.
        host.store.reset_watches()?;
        host.store.watch(&Path::release_domain(), END_TOKEN)?;
        let begun = finish_what_was_begun(host, vm, log);
        refuse_open_reset(host, *vm)?;
        requests::legacy::listen(host, vm.domid)?;
        watch_name(host, *vm)?;
        detach::watch_going(host, vm.domid)?;
        lost::watch_all(host, vm.domid)?;
        qemu::watch(host, *vm);
        qemu::heed_earlier_end(host, *vm, log)?;
        let next = begun.and_then(|()| next_action(host, *vm, &mut resets, log));
        // From here on the end of QEMU is no news, and each wait would find it.
        host.sources.remove(qemu::TOKEN);
        let next = match next {
            Ok(Some((action, planned))) => act(host, *vm, action, &planned, backoff, log),
            Ok(None) => Ok(After::Gone),
            Err(cause) => Ok(After::Failed(NOT_LOOKED_AFTER, cause)),
        };
        put_name(host, *vm, "");
        let next = next?;
        let next = match next {
            After::Gone => after_the_domain(host, *vm, lock, backoff, log)?,
            other => other,
        };
        match next {
            After::Next(domid) => {
                // Another domain has asked for none yet.
                if domid != vm.domid {
                    resets = Tally::default();
                }
                vm.domid = domid;
            }
            After::Failed(what, cause) => match try_again(host, *vm, (what, &cause), backoff, log)?
            {
                Verdict::Again => wait_out(host, *vm, backoff, log)?,
                Verdict::GivenUp => return Ok(End::GivenUp(cause)),
                Verdict::Undecided => return Err(Fault { what, cause }),
            },
            After::GivenUp(cause) => return Ok(End::GivenUp(cause)),
            After::Gone | After::End => return Ok(End::Over),
        }
    }
}

/// Finishes an operation whose process has died or could not continue. Then finds the VM's domain, because the known
/// number may be that of an earlier domain.
fn finish_what_was_begun(
    host: &mut Host,
    vm: &mut Vm,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    if journal::is_orphaned(&*host.files, &host.dirs, &*host.process, vm.uuid) {
        let owner = VmGuard::take(host, vm.uuid)?;
        if let Some(recovered) = &owner.recovered {
            log(&recovered.line());
        }
    }
    vm.domid = domain_of(host, vm.uuid)?.unwrap_or(vm.domid);
    soft_reset::finish_old(host, *vm)
}

/// A domain in the middle of a soft reset has no end to wait for: the reset is tried again, after a pause.
fn refuse_open_reset(host: &Host, vm: Vm) -> Result<(), EngineError> {
    match soft_reset::is_open(host, vm.uuid)? {
        true => Err(EngineError::Unfinished {
            uuid: vm.uuid.hyphenated().to_string(),
            what: "its soft reset is under way".to_owned(),
        }),
        false => Ok(()),
    }
}

/// Waits until the VM's domain has ended, and returns the action that follows; `None` if the domain is gone. Each soft
/// reset that the domain asks for is done here.
fn next_action(
    host: &mut Host,
    vm: Vm,
    resets: &mut Tally,
    log: &mut dyn FnMut(&str),
) -> Result<Option<(Action, Planned)>, EngineError> {
    loop {
        let end = wait_for_end(host, vm, log)?;
        let Some(reason) = end.and_then(|info| info.shutdown_reason) else {
            return Ok(None);
        };
        let planned = plan::of_record(host, vm.uuid)?;
        let on = &planned.spec.on;
        // `wait_for_end` does not return for a suspended domain, so there is an action.
        let action = on.action(reason).unwrap_or(Action::Preserve);
        if action != Action::SoftReset {
            log(&format!(
                "domain {} has ended ({reason:?}): {}",
                vm.domid,
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
        let start = host.clock.now();
        match soft_reset::run(host, vm)? {
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

/// Installs the VM's doorbell. Without one the monitor still serves requests, but commands see their replies later.
fn install_doorbell(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) {
    if host.sources.has_doorbell() {
        return;
    }
    if let Err(error) = host.install_doorbell(vm.uuid) {
        log(&format!("the VM has no doorbell: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;
    use crate::vm::store;
    use std::rc::Rc;
    use uuid::Uuid;
    use xen_port::{DomId, Hypervisor, ShutdownReason};
    use xen_sim::model::Model;
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
