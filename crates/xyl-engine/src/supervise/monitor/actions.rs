//! The actions of a monitor after its domain's end: the action of the configuration, the next try, and giving up.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};

use super::waits::{PAUSE, domain_of, wait_for_turn, wait_out_of_domain};
use crate::config::plan::{self, Planned};
use crate::device_model;
use crate::operation::{destroy, dump_core, restart};
use crate::supervise::restart_backoff::{self, Backoff};
use crate::vm::Vm;
use crate::vm::monitor_lock::MonitorLock;
use crate::vm::spec::Action;
use crate::vm::{given_up, journal, lock, store, without_domain};
use crate::{EngineError, Host, VmGuard};

/// Beginning of the log line for a restart that has failed.
const NOT_RESTARTED: &str = "not restarted";

/// State of the VM after the action that its configuration asks for.
pub(super) enum After {
    /// The VM's next domain; or the same one, which the monitor has to examine again.
    Next(DomId),
    /// The VM has ended.
    End,
    /// The domain is gone.
    Gone,
    /// An action has failed: the beginning of its log line, and the error.
    Failed(&'static str, EngineError),
    /// The action is impossible; the error. The log has the remedy.
    GivenUp(EngineError),
}

/// Decision after a failure.
pub(super) enum Verdict {
    /// Another try follows after a pause.
    Again,
    /// No further try follows.
    GivenUp,
    /// The failure is one of the host, and decides nothing about the VM.
    Undecided,
}

/// Does the action that the configuration asks for.
pub(super) fn act(
    host: &mut Host,
    vm: Vm,
    action: Action,
    planned: &Planned,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    let keeps_old = match action {
        // A soft reset is no end: `next_action` does it.
        Action::Preserve | Action::SoftReset => return Ok(After::End),
        Action::Destroy => {
            return Ok(match destroy::destroy_ended(host, vm.domid) {
                Ok(()) => After::End,
                // Another process has destroyed it meanwhile.
                Err(EngineError::NoSuchDomain(_)) => After::Gone,
                Err(cause) => After::Failed("not destroyed", cause),
            });
        }
        Action::Restart => false,
        Action::RenameRestart => true,
        Action::CoredumpDestroy => {
            return dump_and(Action::Destroy, host, vm, planned, backoff, log);
        }
        Action::CoredumpRestart => {
            return dump_and(Action::Restart, host, vm, planned, backoff, log);
        }
    };
    if !wait_for_turn(host, vm, backoff, log)? {
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
            let kept = give_up(host, vm.uuid, &cause)?;
            log(&format!(
                "not restarted, since xl has given it devices: {kept}"
            ));
            Ok(After::GivenUp(cause))
        }
        Err(cause) => Ok(After::Failed(NOT_RESTARTED, cause)),
    }
}

/// Dumps the domain's core, and then does an action, also if the dump failed.
fn dump_and(
    then: Action,
    host: &mut Host,
    vm: Vm,
    planned: &Planned,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    dump_core::at_end(host, vm, &planned.spec.name, log)?;
    act(host, vm, then, planned, backoff, log)
}

/// Decides after a failure whether another try follows. If none does, the VM's configuration is kept for the
/// administrator.
pub(super) fn try_again(
    host: &mut Host,
    vm: Vm,
    (what, cause): (&str, &EngineError),
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<Verdict, EngineError> {
    if cause.is_of_the_host() {
        return Ok(Verdict::Undecided);
    }
    let is_cancelled = matches!(cause.cause(), EngineError::Cancelled);
    if !is_cancelled && let Some(delay) = restart_backoff::of_failure(host, vm, backoff) {
        log(&format!(
            "{what}: {cause}. The next try follows in {} s, for {}",
            delay.left(&*host.clock).as_secs(),
            delay.why()
        ));
        return Ok(Verdict::Again);
    }
    let kept = give_up(host, vm.uuid, cause)?;
    let tries = match is_cancelled {
        true => String::new(),
        false => format!(", after {} tries", restart_backoff::TRIES),
    };
    log(&format!("{what}{tries}: {cause}. {kept}"));
    Ok(Verdict::GivenUp)
}

/// Gives a VM's restart up: keeps its configuration, and records the reason. Returns the remedy for the log.
fn give_up(host: &mut Host, uuid: Uuid, cause: &EngineError) -> Result<String, EngineError> {
    let _owner = VmGuard::take(host, uuid)?;
    let kept = match store::keep_copy(host, uuid) {
        Ok(path) => Some(path),
        // A disk that is full now has space later.
        Err(error) if error.is_of_the_host() => return Err(error),
        Err(_) => None,
    };
    if kept.is_some() {
        given_up::note(host, uuid, &name_of(host, uuid), &cause.to_string())?;
    }
    let domid = domain_of(host, uuid)?;
    if domid.is_none() {
        let text = uuid.hyphenated().to_string();
        store::remove(&*host.files, &host.dirs, &text)?;
    }
    let left = domid.map_or(String::new(), |domid| {
        format!("domain {domid} is left as it ended; ")
    });
    let Some(kept) = kept else {
        return Ok(format!("{left}its configuration cannot be read"));
    };
    // xl takes down what Xyl cannot.
    let toolstack = match cause {
        EngineError::ForeignDevices { .. } => "xl",
        _ => "xyl",
    };
    let destroy = domid.map_or(String::new(), |domid| {
        format!("{toolstack} destroy {domid}; ")
    });
    Ok(format!(
        "{left}to start it again: {destroy}xyl create {}",
        kept.display()
    ))
}

/// The VM's name, from its record or else from its journal.
fn name_of(host: &Host, uuid: Uuid) -> String {
    let recorded = plan::of_record(host, uuid).map(|planned| planned.spec.name);
    let noted = || journal::name(&*host.files, &host.dirs, uuid);
    recorded.ok().or_else(noted).unwrap_or_default()
}

/// Ends the QEMUs of a domain that is gone: xl ends the first one alone.
fn end_qemus(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    // Another domain may have the number by now. Where it is the VM's own that is dying, its QEMU may be what keeps it.
    let info = host.hv.domain_info(vm.domid)?;
    let is_own = |info: &DomainInfo| info.flags.dying && &info.handle == vm.uuid.as_bytes();
    let is_anothers = info.is_some_and(|info| !is_own(&info));
    // A monitor without a QEMU has given this right up.
    if !host.process.may_start_qemu() || is_anothers {
        return Ok(());
    }
    device_model::end_left(host, vm.domid)
}

/// After the domain is gone: makes the VM's next domain if a restart is due, and returns it. If the VM has ended,
/// removes its record and returns [`After::Gone`]. The record may exist still, because xl may have destroyed the
/// domain.
pub(super) fn after_the_domain(
    host: &mut Host,
    vm: Vm,
    lock: &MonitorLock,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    loop {
        if lock.is_revoked(host) {
            return Ok(After::Gone);
        }
        let owner = VmGuard::take(host, vm.uuid)?;
        if let Some(domid) = domain_of(host, vm.uuid)? {
            log(&format!("the VM is domain {domid} now"));
            if domid == vm.domid {
                // Something of it is missing, and would be missed again at once.
                drop(owner);
                wait_out_of_domain(host, vm, lock, host.clock.now() + PAUSE, log)?;
            }
            return Ok(After::Next(domid));
        }
        if !without_domain::is_owed(host, vm.uuid)? {
            // Its destroy may be open: what it could not remove is found by its journal alone.
            owner.refuse_unfinished()?;
            log(&format!("domain {} is gone", vm.domid));
            end_qemus(host, vm)?;
            lock::forget(host, vm.uuid)?;
            return Ok(After::Gone);
        }
        drop(owner);
        let due = backoff.read(host, vm.uuid);
        if let Some(due) = due.filter(|due| due.left(&*host.clock) > Duration::ZERO) {
            let deadline = due.deadline(&*host.clock);
            wait_out_of_domain(host, vm, lock, deadline, log)?;
            continue;
        }
        return Ok(match restart::again(host, vm.uuid) {
            Ok(domid) => {
                log(&format!("restarted as domain {domid}"));
                After::Next(domid)
            }
            Err(EngineError::UuidTaken { domid, .. }) => After::Next(domid),
            Err(cause) => After::Failed(NOT_RESTARTED, cause),
        });
    }
}
