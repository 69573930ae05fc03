//! The asker's side: a request goes into the queue, and its reply is waited for.
//!
//! The wait ends with a reply, with the monitor's death, or when the monitor does nothing though the VM's lock is free. In the
//! last two cases the request is taken back and carried out by this process. A request that must not be done twice, and
//! that the monitor has begun, is an error then.

use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{Call, Heard, ProcessId};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_api::{AfterSave, Asker, Done, Envelope, Error, Outcome, Reply, Request, RequestId};
use xyl_saga::Past;

use super::{Asking, FIRST_LOOK, UNFINISHED_LIMIT, execute, progress};
use crate::operation::{Kind, run};
use crate::vm::request_queue::{RequestQueue, Standing, now_ms, without_domain};
use crate::vm::{Vm, domains, journal, monitor_lock};
use crate::{Cancel, EngineError, ErrorCode, Host};

/// Token of the connection to the monitor's doorbell.
const CALL_TOKEN: &str = "xyl-call";
/// Longest pause between two looks for the reply.
const TICK: Duration = Duration::from_millis(200);
/// Length of a wait after which a notice names the holder of the VM's lock.
const QUIET_FOR: Duration = Duration::from_millis(500);
/// Time for which a monitor may leave a request where it is while the VM's lock is free.
const PATIENCE: Duration = Duration::from_secs(5);

/// The error for a monitor that was lost with a request.
pub(super) fn monitor_lost(message: String) -> Error {
    Error::new(ErrorCode::MonitorLost, message)
}

/// Has a change made of the VM whose domain this is: by its monitor, or by this process where it has none.
///
/// # Errors
/// Those of what is asked for; [`EngineError::ByMonitor`] where the monitor has met them. [`EngineError::Deadline`] where
/// the request is not carried out in time.
pub fn ask(
    host: &mut Host,
    info: &DomainInfo,
    request: &Request,
    asking: &mut Asking<'_>,
) -> Result<Done, EngineError> {
    let vm = Vm {
        domid: info.domid,
        uuid: Uuid::from_bytes(info.handle),
    };
    // Requests of other processes wait for the VM's next monitor.
    if !is_watched(host, vm) {
        return execute::carry_out(host, info, request, asking);
    }
    let Some(pending) = PendingRequest::send(host, vm, request)? else {
        return execute::carry_out(host, info, request, asking);
    };
    match pending.finish(host, asking)? {
        RequestEnd::Replied(reply) => into_result(reply),
        RequestEnd::Unknown if !request.is_repeatable() => Err(may_be_done(vm, request)),
        RequestEnd::Unknown | RequestEnd::Withdrawn => {
            let outcome = execute::carry_out(host, info, request, asking);
            after_silence(host, vm, request, outcome)
        }
    }
}

/// The same for what takes a moment.
///
/// # Errors
/// As [`ask`].
pub fn ask_for(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<Done, EngineError> {
    let mut asking = Asking {
        cancel: &Cancel::new(),
        progress: &mut |_, _| (),
    };
    ask(host, info, request, &mut asking)
}

/// Adds a request to its VM's queue and wakes the monitor. The reply is fetched later, by [`fetch_reply`]. A request that is
/// in the queue or was replied to is not added again.
///
/// # Errors
/// [`EngineError::NoMonitor`] for a VM without supervision; [`EngineError::QueueFull`]; those of the disk.
pub fn submit(host: &mut Host, envelope: &Envelope) -> Result<(), EngineError> {
    let (vm, id) = (envelope.vm, envelope.id);
    if RequestQueue::of(host, vm).is_known(id)? {
        return Ok(());
    }
    let is_supervised = |host: &Host| monitor_lock::is_supervised(&*host.files, &host.dirs, vm);
    if !is_supervised(host) {
        return Err(EngineError::NoMonitor(vm));
    }
    enqueue(host, envelope)?;
    // The supervision may have ended meanwhile. Then a request that was added before its end has a reply, or gets it at once;
    // no process will see one that was added later (see `lock::forget`).
    let queue = RequestQueue::of(host, vm);
    if !is_supervised(host) && (queue.take_back(id)? || !queue.is_known(id)?) {
        return Err(EngineError::NoMonitor(vm));
    }
    Ok(())
}

/// Adds a request of this process to the queue of the domain's VM, and does not wait for the reply. The reply is removed once
/// this process has ended.
///
/// # Errors
/// As [`submit`].
pub fn post(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<(), EngineError> {
    let vm = Vm {
        domid: info.domid,
        uuid: Uuid::from_bytes(info.handle),
    };
    submit(host, &own_envelope(host, vm, request))
}

/// A request of this process.
fn own_envelope(host: &Host, vm: Vm, request: &Request) -> Envelope {
    let time_ms = now_ms(host);
    let id = RequestId::new(time_ms, host.process.new_uuid());
    let own = ProcessId::own(&*host.process);
    let asker = Asker::Process {
        pid: own.pid,
        started_ticks: own.started_ticks,
    };
    let envelope = Envelope::new(id, vm.uuid, time_ms, asker, request.clone());
    envelope.for_domain(vm.domid.0)
}

/// Adds a request, and rings before that: the monitor then waits for the request. So a process that dies leaves no
/// request in the queue of a monitor that sleeps. Returns the connection to the monitor's doorbell.
fn enqueue(host: &mut Host, envelope: &Envelope) -> Result<Option<Rc<dyn Call>>, EngineError> {
    let own = ProcessId::own(&*host.process);
    let queue = RequestQueue::of(host, envelope.vm);
    if queue.is_full()? {
        return Err(EngineError::QueueFull(xyl_api::limits::QUEUED_MAX));
    }
    let request = queue.prepare(envelope, own)?;
    let begun = host.clock.now();
    let call = match host.ring(envelope.vm) {
        Ok(call) => call,
        Err(error) => {
            request.remove(&*host.files);
            return Err(error);
        }
    };
    request.finish(&*host.files)?;
    let is_slow = host.clock.now().saturating_duration_since(begun) >= UNFINISHED_LIMIT / 2;
    if let Some(call) = call.as_ref().filter(|_| is_slow) {
        // The monitor may have stopped waiting. One that has ended is noticed in the wait.
        let _ = call.ring();
    }
    Ok(call)
}

/// Removes the unfinished requests of dead processes, and wakes the VM's monitor if a request waits.
pub(crate) fn wake_if_asked(host: &mut Host, vm: Uuid) -> Result<(), EngineError> {
    let queue = RequestQueue::of(host, vm);
    queue.remove_unfinished(&*host.process)?;
    match queue.list()?.is_empty() {
        true => Ok(()),
        false => host.ring(vm).map(drop),
    }
}

/// The reply to a request, which is removed; `None` while there is none.
///
/// # Errors
/// Those of the disk; a reply of a later version.
pub fn fetch_reply(host: &Host, vm: Uuid, id: RequestId) -> Result<Option<Reply>, EngineError> {
    RequestQueue::of(host, vm).fetch(id)
}

fn into_result(reply: Reply) -> Result<Done, EngineError> {
    match reply.outcome {
        Outcome::Done(done) => Ok(done),
        Outcome::Failed(error) => Err(EngineError::ByMonitor(Box::new(error))),
    }
}

fn may_be_done(vm: Vm, request: &Request) -> EngineError {
    let error = monitor_lost(format!(
        "the monitor of domain {} died at the {}: it may have been done; look, and repeat it if not",
        vm.domid,
        request.word()
    ));
    EngineError::ByMonitor(Box::new(error.about(vm.domid.0)))
}

/// Result of a request whose domain has gone while its monitor was asked.
fn after_silence(
    host: &Host,
    vm: Vm,
    request: &Request,
    outcome: Result<Done, EngineError>,
) -> Result<Done, EngineError> {
    let Err(EngineError::NoSuchDomain(_)) = outcome else {
        return outcome;
    };
    let next = domains::living(&*host.hv, vm.uuid.into_bytes())?;
    without_domain(request, vm.uuid, Some(vm.domid), next)
}

fn is_watched(host: &Host, vm: Vm) -> bool {
    let watch = host.dirs.watch(vm.uuid);
    vm.domid != DomId::ZERO && host.files.is_locked(&watch).unwrap_or(false)
}

/// A request on its way.
struct PendingRequest {
    vm: Vm,
    id: RequestId,
    /// Connection to the monitor's doorbell, which rings back after a reply.
    call: Option<Rc<dyn Call>>,
    limit: Duration,
    word: &'static str,
    /// The operation that it begins, with the argument by which its journal names it. `None` for what cannot be cancelled.
    operation: Option<(Kind, &'static str, String)>,
}

/// The operation that a request begins and that can be taken back: its kind, and an argument that its journal has.
fn operation_of(request: &Request) -> Option<(Kind, &'static str, String)> {
    match request {
        Request::DumpCore { file, .. } => Some((Kind::DumpCore, "file", file.to_str()?.to_owned())),
        Request::Save { file, then, .. } => {
            let kind = match then {
                AfterSave::Destroy => Kind::Save,
                AfterSave::Run | AfterSave::Pause => Kind::Checkpoint,
            };
            Some((kind, "file", file.to_str()?.to_owned()))
        }
        Request::AttachDevice { device, .. } => Some((Kind::Attach, "asked", device.clone())),
        _ => None,
    }
}

/// End of a wait for a reply.
enum RequestEnd {
    /// The monitor has replied.
    Replied(Reply),
    /// No monitor has begun it, or none will see it again.
    Withdrawn,
    /// The request is gone without a reply: with its VM, or with a monitor that died while it carried it out.
    Unknown,
}

/// State of a wait for a reply.
struct Wait {
    begun: Instant,
    idle_since: Instant,
    pause: Duration,
    has_noticed: bool,
    has_cancelled: bool,
    /// Whether the VM's monitor was gone at the last look.
    is_lost: bool,
}

impl Wait {
    fn begin(host: &Host) -> Wait {
        let begun = host.clock.now();
        Wait {
            begun,
            idle_since: begun,
            pause: FIRST_LOOK,
            has_noticed: false,
            has_cancelled: false,
            is_lost: false,
        }
    }

    /// The time from one look to the next.
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(TICK);
        pause
    }
}

impl PendingRequest {
    /// Adds a request to the queue and wakes the monitor; `None` where the queue cannot be written to.
    fn send(
        host: &mut Host,
        vm: Vm,
        request: &Request,
    ) -> Result<Option<PendingRequest>, EngineError> {
        let envelope = own_envelope(host, vm, request);
        let id = envelope.id;
        let call = match enqueue(host, &envelope) {
            // A full disk or queue keeps no command from its work.
            Err(EngineError::Io { .. } | EngineError::QueueFull(_)) => return Ok(None),
            other => other?,
        };
        Ok(Some(PendingRequest {
            vm,
            id,
            call,
            limit: request.limit(),
            word: request.word(),
            operation: operation_of(request),
        }))
    }

    fn queue<'h>(&self, host: &'h Host) -> RequestQueue<'h> {
        RequestQueue::of(host, self.vm.uuid)
    }

    /// Waits for the reply, or takes the request back.
    fn finish(&self, host: &mut Host, asking: &mut Asking<'_>) -> Result<RequestEnd, EngineError> {
        if let Some(call) = &self.call {
            host.sources.add(CALL_TOKEN, call.clone());
        }
        let ended = self.wait_or_withdraw(host, asking);
        host.sources.remove(CALL_TOKEN);
        ended
    }

    fn wait_or_withdraw(
        &self,
        host: &mut Host,
        asking: &mut Asking<'_>,
    ) -> Result<RequestEnd, EngineError> {
        let mut wait = Wait::begin(host);
        loop {
            let end = match self.wait(host, asking, &mut wait) {
                Ok(Some(reply)) => Some(RequestEnd::Replied(reply)),
                Ok(None) => self.withdraw(host, wait.is_lost)?,
                // After an error too: the monitor must not carry it out once this process has given up.
                Err(error) => match self.withdraw(host, false)? {
                    Some(RequestEnd::Replied(reply)) => Some(RequestEnd::Replied(reply)),
                    _ => return Err(error),
                },
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Waits for the reply; `None` where no monitor takes care of it.
    fn wait(
        &self,
        host: &mut Host,
        asking: &mut Asking<'_>,
        wait: &mut Wait,
    ) -> Result<Option<Reply>, EngineError> {
        loop {
            self.listen(host, wait.next_pause())?;
            if let Some(reply) = self.fetch(host)? {
                return Ok(Some(reply));
            }
            if self.is_over(host, wait)? {
                return Ok(None);
            }
            let waited = host.clock.now().saturating_duration_since(wait.begun);
            if waited >= self.limit {
                return Err(self.too_late(host)?);
            }
            if asking.cancel.is_requested() && !wait.has_cancelled {
                wait.has_cancelled = self.cancel(host)?;
            }
            if let Some((written, size)) = progress::read(host, self.vm.uuid) {
                (asking.progress)(written, size);
            }
        }
    }

    /// Waits for the monitor to ring back, but not longer than a pause.
    fn listen(&self, host: &mut Host, pause: Duration) -> Result<(), EngineError> {
        host.wait_for(&[CALL_TOKEN], pause)?;
        let heard = self.call.as_ref().map(|call| call.take());
        // A monitor that has ended would make each further wait end at once.
        if matches!(heard, Some(Ok(Heard::End) | Err(_))) {
            host.sources.remove(CALL_TOKEN);
        }
        Ok(())
    }

    /// Whether no monitor takes care of the request any more.
    fn is_over(&self, host: &Host, wait: &mut Wait) -> Result<bool, EngineError> {
        wait.is_lost = !is_watched(host, self.vm);
        if wait.is_lost {
            return Ok(true);
        }
        let now = host.clock.now();
        if now.saturating_duration_since(wait.begun) < TICK {
            return Ok(false);
        }
        let lock = host.dirs.vm_lock(self.vm.uuid);
        if host.files.is_locked(&lock).unwrap_or(false) {
            wait.idle_since = now;
            let waited = now.saturating_duration_since(wait.begun);
            if waited >= QUIET_FOR && !std::mem::replace(&mut wait.has_noticed, true) {
                self.tell_of_holder(host);
            }
            return Ok(false);
        }
        if self.queue(host).standing(self.id)? == Standing::Absent || self.is_domain_gone(host)? {
            return Ok(true);
        }
        let is_silent = now.saturating_duration_since(wait.idle_since) >= PATIENCE;
        if is_silent {
            self.tell_of_silence(host);
        }
        Ok(is_silent)
    }

    fn is_domain_gone(&self, host: &Host) -> Result<bool, EngineError> {
        let info = host.hv.domain_info(self.vm.domid)?;
        let is_same = |info: &DomainInfo| &info.handle == self.vm.uuid.as_bytes();
        Ok(!info.is_some_and(|info| is_same(&info) && !info.flags.dying))
    }

    fn tell_of_holder(&self, host: &Host) {
        let holder = journal::holder(host, self.vm.uuid, host.clock.calendar());
        let stays = match self.operation.is_some() {
            true => "",
            false => "; Ctrl-C ends this wait, and not what was asked for",
        };
        (host.notice)(&format!("waiting for {holder}{stays}"));
    }

    fn tell_of_silence(&self, host: &Host) {
        let pid = monitor_lock::monitor_pid(&*host.files, &host.dirs, self.vm.uuid).unwrap_or(0);
        (host.notice)(&format!(
            "the monitor of domain {} (process {pid}) does not answer: this process does it; a monitor of an older version, or a stopped one, is replaced by `xyl upgrade-monitors`",
            self.vm.domid
        ));
    }

    /// The error for a request that took too long. One that was begun may be carried out still.
    fn too_late(&self, host: &Host) -> Result<EngineError, EngineError> {
        let holder = journal::holder(host, self.vm.uuid, host.clock.calendar());
        let why = match self.queue(host).standing(self.id)? {
            Standing::Started => {
                "it was begun, and may be carried out still: look, and repeat it if not"
            }
            Standing::Waiting | Standing::Absent => "it was not carried out",
        };
        Ok(EngineError::Deadline {
            what: format!(
                "the {} of domain {}: {why} (because of {holder})",
                self.word, self.vm.domid
            ),
            limit_s: self.limit.as_secs(),
        })
    }

    /// Asks for a dump or an attach that is under way to be taken back. What has not begun yet is not begun. Whether that was done:
    /// an operation that was just begun is in no journal yet.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] where nothing has begun.
    fn cancel(&self, host: &mut Host) -> Result<bool, EngineError> {
        let contents = xyl_saga::load(&*host.files, &host.dirs.journal(self.vm.uuid))?;
        let past = Past::of(&contents);
        // Not the operation of another process.
        let ours = past.under_way().filter(|open| {
            self.operation.as_ref().is_some_and(|(kind, key, value)| {
                open.begin.kind == kind.word() && open.text(key) == Some(value)
            })
        });
        match ours {
            Some(ours) => {
                run::ask_to_cancel(&*host.files, &host.dirs, self.vm.uuid, &ours.begin.id)?;
                Ok(true)
            }
            _ if self.queue(host).take_back(self.id)? => Err(EngineError::Cancelled),
            _ => Ok(false),
        }
    }

    /// Takes the request back; the reply where there is one by now. `None`: with `may_be_taken` it stays, because the VM's next
    /// monitor has begun it.
    fn withdraw(&self, host: &Host, may_be_taken: bool) -> Result<Option<RequestEnd>, EngineError> {
        let queue = self.queue(host);
        let was_waiting = queue.take_back(self.id)?;
        // The monitor writes the reply before it removes the request.
        if let Some(reply) = self.fetch(host)? {
            return Ok(Some(RequestEnd::Replied(reply)));
        }
        if was_waiting {
            return Ok(Some(RequestEnd::Withdrawn));
        }
        if queue.take_back_ended(self.id)? {
            return self.reply_or(host, RequestEnd::Withdrawn);
        }
        let is_begun = queue.standing(self.id)? == Standing::Started;
        if may_be_taken && is_begun && is_watched(host, self.vm) {
            return Ok(None);
        }
        // No later monitor is to carry it out again, or to reply to it.
        queue.forget_started(self.id)?;
        // One that was written meanwhile: its writer may have seen the request.
        self.reply_or(host, RequestEnd::Unknown)
    }

    /// The reply, or else this end.
    fn reply_or(&self, host: &Host, end: RequestEnd) -> Result<Option<RequestEnd>, EngineError> {
        let reply = self.fetch(host)?;
        Ok(Some(reply.map_or(end, RequestEnd::Replied)))
    }

    /// Fetches the reply, if there is one.
    fn fetch(&self, host: &Host) -> Result<Option<Reply>, EngineError> {
        match self.queue(host).fetch(self.id) {
            Err(EngineError::Request(error)) => {
                let message = format!("the reply of the monitor cannot be read: {error}");
                Err(EngineError::ByMonitor(Box::new(monitor_lost(message))))
            }
            other => other,
        }
    }
}
