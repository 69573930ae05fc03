//! The monitor's side: carries out what lies in the queue, one request at a time, the oldest first.
//!
//! 1. A request that is too old, or that cannot be read, gets an error as its reply.
//! 2. A request for which the monitor has given up a right ends the monitor. It stays in the queue for the next monitor.
//! 3. The VM's lock is taken, so that an operation under way ends first. It is held until the request is carried out.
//! 4. The request is marked as begun: the asker cannot take it back any more. One that is gone by now is dropped.
//! 5. The request is carried out.
//! 6. Its reply is written, unless the asker is a process that has died.
//! 7. Its file is removed.
//!
//! A monitor that dies leaves the request, and the next one carries it out. If the request was begun and must not be done twice,
//! the next one replies that it may have been done. A request stays in the queue while another process has the VM's lock.

use xen_port::{DomId, DomainInfo};
use xyl_api::{Asker, Done, Envelope, Error, Event, EventKind, ParseError, Reply, Request};

use super::ask::monitor_lost;
use super::{FIRST_LOOK, UNFINISHED_LIMIT, execute};
use crate::operation::destroy;
use crate::vm::request_queue::{
    Queued, RequestQueue, is_wanted, now_ms, remove_old_replies, without_domain,
};
use crate::vm::{Vm, domains};
use crate::{EngineError, ErrorCode, Host, VmGuard};

/// Result of a look into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// No request was waiting.
    Nothing,
    /// One request, which was the last.
    Last,
    /// One request, and there are more.
    OneOfMany,
}

/// Carries out the oldest request that waits. One at a time: the guest's end comes before the next.
pub(crate) fn serve(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<Served, EngineError> {
    await_unfinished(host, vm)?;
    let queued = RequestQueue::of(host, vm.uuid).list()?;
    let Some(first) = queued.first() else {
        return Ok(Served::Nothing);
    };
    let is_left = match serve_one(host, vm, *first, log) {
        Err(error) if error.needs_next_monitor() => return Err(error),
        Err(error) => {
            fail(host, vm, *first, &error, log)?;
            false
        }
        Ok(End::Left) => true,
        Ok(End::Over) => false,
    };
    if is_left || queued.len() > 1 {
        return Ok(Served::OneOfMany);
    }
    RequestQueue::of(host, vm.uuid).remove_unfinished(&*host.process)?;
    Ok(Served::Last)
}

/// Replies with the error for a request that could not be examined. If there is no room for the reply, the request is
/// removed nevertheless, so that no monitor carries it out a second time.
fn fail(
    host: &mut Host,
    vm: Vm,
    queued: Queued,
    error: &EngineError,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let error = error.to_api();
    log_failure(host, vm, queued, None, &error, log);
    let queue = RequestQueue::of(host, vm.uuid);
    let read = queue.read(queued).unwrap_or_default();
    let asker = read.and_then(Result::ok).map(|envelope| envelope.asker);
    if let Err(error) = end(host, vm, queued, asker, Err(error)) {
        log_failure(host, vm, queued, None, &error.to_api(), log);
    }
    match queue.find(queued.id)? {
        Some(queued) => queue.remove(queued),
        None => Ok(()),
    }
}

/// Waits for a request that is being written. Its asker has rung before it is in the queue.
fn await_unfinished(host: &Host, vm: Vm) -> Result<(), EngineError> {
    let deadline = host.clock.now() + UNFINISHED_LIMIT;
    let mut pause = FIRST_LOOK;
    while RequestQueue::of(host, vm.uuid).is_being_added_to(&*host.process)? {
        let now = host.clock.now();
        if now >= deadline {
            break;
        }
        host.clock.wait_until(deadline.min(now + pause));
        pause *= 2;
    }
    Ok(())
}

/// Whether a request that was looked at is out of the queue.
enum End {
    Over,
    /// It stays: another process has the VM's lock.
    Left,
}

fn serve_one(
    host: &mut Host,
    vm: Vm,
    queued: Queued,
    log: &mut dyn FnMut(&str),
) -> Result<End, EngineError> {
    let Some(envelope) = look_at(host, vm, queued, log)? else {
        return Ok(End::Over);
    };
    execute::check_rights(host, vm.domid, &envelope.request)?;
    let owner = match execute::take_lock(host, vm.uuid, &envelope.request) {
        Err(EngineError::Deadline { .. }) => return Ok(End::Left),
        Err(error) if error.needs_next_monitor() => return Err(error),
        Err(error) => {
            return conclude(host, vm, queued, envelope, Err(error), log).map(|()| End::Over);
        }
        Ok(owner) => owner,
    };
    if let Some(recovered) = &owner.recovered {
        log(&recovered.line());
    }
    // The wait for the lock may have been long: the request may be too old, or taken back.
    let is_later = owner.has_waited || owner.recovered.is_some();
    if is_later && look_at(host, vm, queued, log)?.is_none() {
        return Ok(End::Over);
    }
    if !queued.is_started && !RequestQueue::of(host, vm.uuid).start(queued)? {
        return Ok(End::Over);
    }
    let started = EventKind::Started {
        request: envelope.request.word().to_owned(),
        asker: envelope.asker.clone(),
    };
    log_event(host, vm, queued, started, log);
    let outcome = match carry_out(host, vm, owner, &envelope) {
        Err(error) if error.is_connection_lost() || error.needs_scripts() => return Err(error),
        outcome => outcome,
    };
    conclude(host, vm, queued, envelope, outcome, log).map(|()| End::Over)
}

/// The request, if it is to be carried out. One that is not is out of the queue then.
fn look_at(
    host: &Host,
    vm: Vm,
    queued: Queued,
    log: &mut dyn FnMut(&str),
) -> Result<Option<Envelope>, EngineError> {
    let queue = RequestQueue::of(host, vm.uuid);
    // Taken back meanwhile, or replied to by a monitor that died before it could remove the request.
    let Some(read) = queue.read(queued)? else {
        return Ok(None);
    };
    let reply = queue.look_for_reply(queued.id);
    if reply.is_ok_and(|reply| reply.is_some()) {
        return queue.remove(queued).map(|()| None);
    }
    let envelope = match read {
        Ok(envelope) => envelope,
        Err(error) => {
            let error = not_known(&error);
            log_failure(host, vm, queued, None, &error, log);
            return end(host, vm, queued, None, Err(error)).map(|()| None);
        }
    };
    match refusal(host, queued, &envelope) {
        None => Ok(Some(envelope)),
        Some(Refusal::Dropped) => {
            log_event(host, vm, queued, EventKind::Dropped, log);
            queue.remove(queued).map(|()| None)
        }
        Some(Refusal::Failed(error)) => {
            let word = envelope.request.word();
            log_failure(host, vm, queued, Some(word), &error, log);
            end(host, vm, queued, Some(envelope.asker), Err(error)).map(|()| None)
        }
    }
}

/// Replies with the result of a request, and logs a failure.
fn conclude(
    host: &Host,
    vm: Vm,
    queued: Queued,
    envelope: Envelope,
    outcome: Result<Done, EngineError>,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let outcome = outcome.map_err(|error| error.to_api());
    if let Err(error) = &outcome {
        let word = envelope.request.word();
        log_failure(host, vm, queued, Some(word), error, log);
    }
    end(host, vm, queued, Some(envelope.asker), outcome)
}

/// Reason for which a request is not carried out.
enum Refusal {
    /// The asker has died.
    Dropped,
    /// The error that is its reply.
    Failed(Error),
}

/// Whether a request is too old, or may have been done by a monitor that has died.
fn refusal(host: &Host, queued: Queued, envelope: &Envelope) -> Option<Refusal> {
    let word = envelope.request.word();
    if queued.is_started && !envelope.request.is_repeatable() {
        return Some(Refusal::Failed(monitor_lost(format!(
            "a monitor died at the {word}: it may have been done; look, and repeat it if not"
        ))));
    }
    // One that was begun is carried out again, however long ago that was.
    if queued.is_started {
        return None;
    }
    let age_ms = u128::from(now_ms(host).saturating_sub(envelope.time_ms));
    let limit = envelope.request.limit();
    match &envelope.asker {
        _ if age_ms <= limit.as_millis() => None,
        // It has a limit of its own.
        Asker::Process { .. } if is_wanted(host, &envelope.asker) => None,
        Asker::Process { .. } => Some(Refusal::Dropped),
        Asker::Remote { .. } => Some(Refusal::Failed(Error::new(
            ErrorCode::Deadline,
            format!(
                "the {word}: it was not begun within {} s, and was not done",
                limit.as_secs()
            ),
        ))),
    }
}

fn not_known(error: &ParseError) -> Error {
    let remedy = "`xyl upgrade-monitors` replaces the monitor by one of this version";
    let message = format!("the VM's monitor does not know this request ({error}): {remedy}");
    Error::new(ErrorCode::UnknownRequest, message).with_remedy(remedy)
}

/// Carries a request out, under the VM's lock, if the VM has the domain that is meant.
fn carry_out(
    host: &mut Host,
    vm: Vm,
    owner: VmGuard,
    envelope: &Envelope,
) -> Result<Done, EngineError> {
    let now = domains::living(&*host.hv, vm.uuid.into_bytes())?;
    let meant = envelope.domain.map(DomId);
    // A destroy is for the VM, whichever domain it has.
    let is_for_any = meant.is_none() || matches!(envelope.request, Request::Destroy { .. });
    let is_meant = |domid: &DomId| is_for_any || meant == Some(*domid);
    let info = match now.filter(is_meant) {
        Some(domid) => host.hv.domain_info(domid)?,
        None => None,
    };
    let is_same = |info: &DomainInfo| &info.handle == vm.uuid.as_bytes();
    match info.filter(is_same) {
        Some(info) if envelope.vm == vm.uuid => {
            execute::carry_out_for_another(host, owner, &info, &envelope.request)
        }
        _ if let Request::Destroy { force } = envelope.request => {
            destroy::destroy_vm(host, owner, force).map(|()| Done::Plain)
        }
        _ => without_domain(&envelope.request, vm.uuid, meant, now),
    }
}

/// Writes the reply, if it is wanted, and removes the request. A request that is gone was taken back, or was replied to when its
/// VM ended.
fn end(
    host: &Host,
    vm: Vm,
    queued: Queued,
    asker: Option<Asker>,
    outcome: Result<Done, Error>,
) -> Result<(), EngineError> {
    let queue = RequestQueue::of(host, vm.uuid);
    let Some(queued) = queue.find(queued.id)? else {
        return Ok(());
    };
    if asker.as_ref().is_some_and(|asker| !is_wanted(host, asker)) {
        return queue.remove(queued);
    }
    // Old replies that stay are no reason to be without a new one.
    let _ = remove_old_replies(host, Some(vm.uuid));
    let reply = Reply::new(queued.id, vm.uuid, now_ms(host), outcome);
    let reply = Reply { asker, ..reply };
    match queue.reply_if_asked(&reply) {
        Ok(()) => queue.remove(queued),
        Err(_) => {
            // The room of the request may suffice for the reply.
            queue.remove(queued)?;
            queue.reply(&reply)
        }
    }
}

fn log_failure(
    host: &Host,
    vm: Vm,
    queued: Queued,
    word: Option<&str>,
    error: &Error,
    log: &mut dyn FnMut(&str),
) {
    let failed = EventKind::Failed {
        request: word.map(str::to_owned),
        error: error.clone(),
    };
    log_event(host, vm, queued, failed, log);
}

fn log_event(host: &Host, vm: Vm, queued: Queued, kind: EventKind, log: &mut dyn FnMut(&str)) {
    let event = Event::new(queued.id, vm.uuid, now_ms(host), kind);
    log(&event.to_string());
}
