//! The waits of a monitor. In each of them it serves requests, and keeps the index of names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, ShutdownReason};
use xenstore::Tree;

use super::qemu;
use crate::operation::hotplug::detach::{self, GOING_TOKEN};
use crate::operation::hotplug::lost;
use crate::operation::suspend;
use crate::supervise::requests::{self, Served};
use crate::supervise::restart_backoff::{self, Backoff};
use crate::vm::Vm;
use crate::vm::domains::{self, home};
use crate::vm::monitor_lock::{self, MonitorLock};
use crate::{DOORBELL, EngineError, Event, Host};

/// Maximum time between two looks at the domain. If an event is lost, the monitor acts this much later.
const RECHECK_EVERY: Duration = Duration::from_secs(3600);

/// Minimum time between two looks at the domain while other domains end all the time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Minimum time between two looks at devices that a guest is to let go. The guest can cause an event at any time.
const LOOK_AT_DEVICES_EVERY: Duration = Duration::from_secs(1);

/// Maximum number of events that are handled before the next look at the domain.
const EVENTS_MAX: usize = 1000;

/// Time without events after which the monitor gives memory back to the host: the domain will probably run for long.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Time between two looks of a monitor whose VM has no domain: the VM may have been destroyed.
const LOOK_WITHOUT_DOMAIN_EVERY: Duration = Duration::from_secs(1);

/// Pause after an error, and before the next look at a domain that the monitor cannot examine fully.
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// Token of the watch on the ends of domains.
pub(super) const END_TOKEN: &str = "xyl-end";

/// Token of the watch on the domain's name.
const NAME_TOKEN: &str = "xyl-name";

/// Tokens of all events that wake a monitor. A wait within an operation takes none of these events.
const WAKES: [&str; 7] = [
    END_TOKEN,
    NAME_TOKEN,
    GOING_TOKEN,
    lost::TOKEN,
    qemu::TOKEN,
    requests::legacy::TOKEN,
    DOORBELL,
];

/// Waits after an error of the host, and meanwhile serves requests as far as the host allows it.
pub(super) fn wait_after_fault(
    host: &mut Host,
    vm: Vm,
    pause: Duration,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let deadline = host.clock.now() + pause;
    while host.clock.now() < deadline {
        match wait_if_it_is_there(host, vm, deadline, log) {
            Ok(Waited::Enough) => return Ok(()),
            Ok(Waited::GoOn) => {}
            Err(error) if error.needs_next_monitor() => return Err(error),
            Err(_) => {
                let next = host.clock.now() + PAUSE;
                host.clock.wait_until(next.min(deadline));
            }
        }
    }
    Ok(())
}

/// Whether a pause after an error of the host is over.
enum Waited {
    Enough,
    GoOn,
}

/// Waits once. The pause ends early if the VM has another domain, because the monitor must look at that one at once.
/// If the VM has no domain, since its restart failed, the pause is not shortened.
fn wait_if_it_is_there(
    host: &mut Host,
    vm: Vm,
    deadline: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<Waited, EngineError> {
    if wait_until(host, vm, deadline, log)? || domain_of(host, vm.uuid)?.is_some() {
        return Ok(Waited::Enough);
    }
    wait_without_domain(host, deadline)?;
    // A destroy has ended the VM.
    match is_supervised(host, vm.uuid) {
        true => Ok(Waited::GoOn),
        false => Ok(Waited::Enough),
    }
}

/// Waits for a VM that has no domain, and meanwhile serves requests. A destroy of the VM ends the wait.
pub(super) fn wait_out_of_domain(
    host: &mut Host,
    vm: Vm,
    lock: &MonitorLock,
    deadline: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    while host.clock.now() < deadline && !lock.is_revoked(host) {
        if serve(host, vm, log)? == Served::Nothing {
            wait_without_domain(host, deadline)?;
        }
    }
    Ok(())
}

/// Waits for a VM that has no domain. A destroy rings, but the VM may have no doorbell, so the wait is short.
fn wait_without_domain(host: &mut Host, deadline: Instant) -> Result<(), EngineError> {
    let left = deadline.saturating_duration_since(host.clock.now());
    host.wait_for(&WAKES, left.min(LOOK_WITHOUT_DOMAIN_EVERY))?;
    Ok(())
}

/// Waits until the next try is due, or the domain is gone.
pub(super) fn wait_out(
    host: &mut Host,
    vm: Vm,
    backoff: &Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    if let Some(due) = backoff.read(host, vm.uuid) {
        let deadline = due.deadline(&*host.clock);
        wait_until(host, vm, deadline, log)?;
    }
    Ok(())
}

/// Waits until a time, or until the domain is gone, and meanwhile serves requests. Returns whether the domain still
/// exists.
pub(super) fn wait_until(
    host: &mut Host,
    vm: Vm,
    deadline: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    // A request may wait from before.
    let mut has_requests = true;
    while host.clock.now() < deadline {
        if has_requests {
            has_requests = serve(host, vm, log)? == Served::OneOfMany;
        } else {
            let left = deadline.saturating_duration_since(host.clock.now());
            has_requests = heed(host, vm, left, log)?;
        }
        if domain_of(host, vm.uuid)? != Some(vm.domid) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for an event and handles it. Returns whether it was a request.
fn heed(
    host: &mut Host,
    vm: Vm,
    limit: Duration,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    let event = host.wait_for(&WAKES, limit)?;
    Ok(heed_all(host, vm, event, log)?.has_requests)
}

fn heed_event(
    host: &mut Host,
    vm: Vm,
    event: Option<Event>,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    match event.as_ref().map(Event::token) {
        Some(NAME_TOKEN) => index_name(host, vm).map(|()| false),
        Some(requests::legacy::TOKEN) => requests::legacy::serve(host, vm, log).map(|()| false),
        Some(qemu::TOKEN) => qemu::heed_end(host, vm, log).map(|()| false),
        Some(DOORBELL) => Ok(true),
        _ => Ok(false),
    }
}

/// Carries out one request, and rings back the processes that wait for a reply.
fn serve(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<Served, EngineError> {
    let served = requests::serve(host, vm, log)?;
    if served != Served::Nothing {
        // An asker that hears no ring looks for its reply by itself.
        let _ = host.ring_back();
    }
    Ok(served)
}

/// Waits until the restart backoff lets the domain be restarted. Returns whether the domain still exists.
pub(super) fn wait_for_turn(
    host: &mut Host,
    vm: Vm,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    let due = restart_backoff::of_end(host, vm, backoff)?;
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

/// Waits until the VM's domain has shut down, and returns its state, or `None` if the domain is gone. Meanwhile serves
/// requests.
pub(super) fn wait_for_end(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<Option<DomainInfo>, EngineError> {
    // A request may wait from before.
    let (mut is_rested, mut has_requests) = (false, true);
    loop {
        // The guest's end comes before what is asked.
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
        if info.flags.shutdown && resume_late(host, vm, log)? {
            continue;
        }
        if has_requests {
            let served = serve(host, vm, log)?;
            // What was done may have taken memory.
            is_rested &= served == Served::Nothing;
            has_requests = served == Served::OneOfMany;
            continue;
        }
        let looked_at = host.clock.now();
        let mut event = None;
        if !is_rested {
            event = host.wait_for(&WAKES, REST_AFTER)?;
        }
        if event.is_none() {
            // Once: other domains' ends wake it up for a moment each.
            if !std::mem::replace(&mut is_rested, true) {
                host.process.rest();
            }
            event = host.wait_for(&WAKES, RECHECK_EVERY)?;
        }
        let heeded = heed_all(host, vm, event, log)?;
        let pause = match heeded.going.is_empty() && heeded.backends.is_empty() {
            true => LOOK_EVERY,
            false => LOOK_AT_DEVICES_EVERY,
        };
        has_requests = heeded.has_requests || wait_for_look(host, vm, looked_at + pause, log)?;
    }
}

/// Resumes a guest that has suspended itself after Xyl has given up. Whether one was expected to.
fn resume_late(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<bool, EngineError> {
    let was_late = suspend::late::resume(host, vm)?;
    if was_late {
        log(&format!(
            "domain {} has suspended itself when nobody waited for it any more: it goes on",
            vm.domid
        ));
    }
    Ok(was_late)
}

/// The contents of events that were handled together.
#[derive(Default)]
struct Heeded {
    /// Whether one was a request.
    has_requests: bool,
    /// Paths of the devices whose detach is to be finished.
    going: BTreeSet<String>,
    /// Nodes of backends that have changed their states.
    backends: BTreeSet<String>,
}

/// Handles an event, and others that have come, so that one look at the domain and at its devices follows. A guest can cause
/// events as long as it wants, so their number is limited.
fn heed_all(
    host: &mut Host,
    vm: Vm,
    first: Option<Event>,
    log: &mut dyn FnMut(&str),
) -> Result<Heeded, EngineError> {
    let (mut heeded, mut next) = (Heeded::default(), first);
    let mut nr_left = EVENTS_MAX;
    while let Some(event) = next {
        match event {
            Event::Watch(event) if event.token == GOING_TOKEN => {
                heeded.going.insert(event.path.to_string());
            }
            Event::Watch(event) if event.token == lost::TOKEN => {
                heeded.backends.insert(event.path.to_string());
            }
            other => heeded.has_requests |= heed_event(host, vm, Some(other), log)?,
        }
        nr_left -= 1;
        next = match nr_left {
            0 => None,
            _ => host.wait_for(&WAKES, Duration::ZERO)?,
        };
    }
    if !heeded.going.is_empty() {
        detach::finish_going(host, vm, &heeded.going, log)?;
    }
    if !heeded.backends.is_empty() {
        lost::report(host, vm, &heeded.backends, log)?;
    }
    Ok(heeded)
}

/// Waits until the next look at the domain is allowed, so that many ends of other domains cost few looks. A request
/// ends the wait. Returns whether one has come.
fn wait_for_look(
    host: &mut Host,
    vm: Vm,
    time: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    let tokens = [requests::legacy::TOKEN, NAME_TOKEN, DOORBELL];
    while host.clock.now() < time {
        let left = time.saturating_duration_since(host.clock.now());
        let event = host.wait_for(&tokens, left)?;
        if heed_event(host, vm, event, log)? {
            return Ok(true);
        }
    }
    let event = host.wait_for(&WAKES, Duration::ZERO)?;
    Ok(heed_all(host, vm, event, log)?.has_requests)
}

/// Sets the watch on the domain's name, for the index of names. Its first event comes at once.
pub(super) fn watch_name(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    Ok(host.store.watch(&home(vm.domid, "name")?, NAME_TOKEN)?)
}

fn index_name(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    let name = host.store.read_opt(&home(vm.domid, "name")?)?;
    let name = name.map(|name| String::from_utf8_lossy(&name).into_owned());
    put_name(host, vm, &name.unwrap_or_default());
    Ok(())
}

/// Writes a name into the index of names. If that fails, names are read from xenstore, which takes longer.
pub(super) fn put_name(host: &mut Host, vm: Vm, name: &str) {
    let (_, _, index) = host.directory();
    let _ = index.put(vm.domid, vm.uuid, name);
}

/// The VM's domain now.
pub(super) fn domain_of(host: &Host, uuid: Uuid) -> Result<Option<DomId>, EngineError> {
    domains::living(&*host.hv, *uuid.as_bytes())
}

pub(super) fn is_supervised(host: &Host, uuid: Uuid) -> bool {
    monitor_lock::is_supervised(&*host.files, &host.dirs, uuid)
}
