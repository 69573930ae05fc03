//! Waiting for a VM's end, and doing then what its configuration says.
//!
//! One process per VM runs [`watch`]. It holds nothing that is not in Xen, xenstore or the VM's
//! record on disk, and it sleeps until xenstored says that some domain has ended.

use std::time::{Duration, Instant};

use os_port::Lock;
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, ShutdownReason};
use xenstore::{Path, Tree, WatchEvent};

use crate::config::plan;
use crate::config::plan::Planned;
use crate::operation::soft_reset::{self, Outcome, Tally};
use crate::operation::{destroy, dump_core, restart};
use crate::supervise::requests::Served;
use crate::supervise::restart_backoff::Backoff;
use crate::supervise::{requests, restart_backoff};
use crate::vm::Vm;
use crate::vm::domains::{self, home};
use crate::vm::journal;
use crate::vm::monitor_lock::MonitorLock;
use crate::vm::spec::Action;
use crate::vm::{lock, store};
use crate::{EngineError, Host, VmGuard};

/// How often the domain is looked at when xenstored stays silent: a lost event delays, and no more.
const RECHECK_EVERY: Duration = Duration::from_secs(3600);

/// A domain at whose beginning nothing has happened for so long will run for long.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long a domain that something is missing of is left alone.
const PAUSE: Duration = Duration::from_secs(2);
/// What is said when the VM's state could not be found out.
const NOT_LOOKED_AFTER: &str = "cannot look after it";
/// What is said of a restart that has failed.
const NOT_RESTARTED: &str = "not restarted";

/// Token of the watch that tells of domains' ends.
const END_TOKEN: &str = "xyl-end";
/// Token of the watch on the domain's name.
const NAME_TOKEN: &str = "xyl-name";

/// Watches a VM until it has ended for good, restarting it as its configuration says. `log` is told
/// what happens, a line each. A process that dies meanwhile, or loses xenstored, leaves the lock's file to the
/// next monitor ([`crate::vm::monitor_lock`]), which starts with what has happened since. No other error ends the
/// watch: the host may lack space, memory or a quota for a while.
pub fn watch(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    match take_lock(host, vm, None, log)? {
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
    let Some(post) = take_lock(host, vm, lock, log)? else {
        tell_of_other(vm, log);
        return Ok(());
    };
    log(&format!("watching over domain {} ({})", vm.domid, vm.uuid));
    keep(host, vm, post, log)
}

/// Takes the lock of the VM's monitor; `None` where another process has it.
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

/// How the watch over a VM ends. Only these ends remove the lock's file: an error decides nothing about the VM.
enum End {
    /// There is nothing to watch over any more.
    Over,
    /// What was to be done has failed for good: why. The log says what is left.
    GivenUp(EngineError),
}

/// Errors in a row that decide nothing about the VM. They are counted in memory: the disk may be what fails.
#[derive(Default)]
struct Faults {
    count: u32,
    last: Option<Instant>,
}

impl Faults {
    /// How long to wait after one more.
    fn pause(&mut self, now: Instant) -> Duration {
        let longest = Duration::from_secs(restart_backoff::PAUSE_MAX_S);
        let is_in_a_row = |last: Instant| now.saturating_duration_since(last) < longest * 2;
        self.count = match self.last {
            Some(last) if is_in_a_row(last) => self.count.saturating_add(1),
            _ => 1,
        };
        self.last = Some(now);
        Duration::from_secs(restart_backoff::pause_s(self.count.saturating_add(1)))
    }

    /// Tells the log of one more, and how long to wait after it.
    fn report(&mut self, host: &Host, fault: &Fault, log: &mut dyn FnMut(&str)) -> Duration {
        let pause = self.pause(host.clock.now());
        log(&format!(
            "{}: {}. The next try follows in {} s",
            fault.what,
            fault.cause,
            pause.as_secs()
        ));
        pause
    }
}

/// An error that decides nothing about the VM.
struct Fault {
    /// What it says of what was to be done.
    what: &'static str,
    cause: EngineError,
}

impl<E: Into<EngineError>> From<E> for Fault {
    fn from(cause: E) -> Fault {
        Fault {
            what: NOT_LOOKED_AFTER,
            cause: cause.into(),
        }
    }
}

/// Keeps the lock until there is nothing to watch over any more. After an error it looks again, after growing pauses.
/// Without xenstored it ends, and leaves the lock's file to the next monitor.
fn keep(
    host: &mut Host,
    mut vm: Vm,
    post: MonitorLock,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let (mut faults, mut backoff) = (Faults::default(), Backoff::default());
    loop {
        let fault = match watch_at(host, &mut vm, &post, &mut backoff, log) {
            Ok(End::Over) => {
                post.abolish(host);
                return Ok(());
            }
            Ok(End::GivenUp(cause)) => {
                post.abolish(host);
                return Err(cause);
            }
            Err(fault) if fault.cause.is_connection_lost() => return Err(fault.cause),
            Err(fault) => fault,
        };
        let pause = faults.report(host, &fault, log);
        wait_after_fault(host, vm, pause, log)?;
    }
}

/// Waits, and meanwhile does what is asked of the VM, as far as the host lets it.
fn wait_after_fault(
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
            Err(error) if error.is_connection_lost() => return Err(error),
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

/// Waits once. The pause is over where the VM has another domain: the monitor looks at that at once. A VM that has none, since
/// its restart failed, waits for the whole pause.
fn wait_if_it_is_there(
    host: &mut Host,
    vm: Vm,
    deadline: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<Waited, EngineError> {
    if wait_until(host, vm, deadline, log)? || domain_of(host, vm.uuid)?.is_some() {
        return Ok(Waited::Enough);
    }
    let left = deadline.saturating_duration_since(host.clock.now());
    host.wait_for_event(left)?;
    Ok(Waited::GoOn)
}

fn watch_at(
    host: &mut Host,
    vm: &mut Vm,
    post: &MonitorLock,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<End, Fault> {
    let mut resets = Tally::default();
    loop {
        // What has failed may have left watches.
        host.store.reset_watches()?;
        host.store.watch(&Path::release_domain(), END_TOKEN)?;
        let begun = finish_what_was_begun(host, vm, log);
        requests::listen(host, vm.domid)?;
        watch_name(host, *vm)?;
        let next = begun.and_then(|()| next_action(host, *vm, &mut resets, log));
        let next = match next {
            Ok(Some((action, planned))) => act(host, *vm, action, &planned, backoff, log),
            Ok(None) => Ok(After::Gone),
            Err(cause) => Ok(After::Failed(NOT_LOOKED_AFTER, cause)),
        };
        put_name(host, *vm, "");
        let next = next?;
        let next = match next {
            After::Gone => after_the_domain(host, *vm, post, backoff, log)?,
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

/// Goes on with an operation that stands still: whoever began it has died, or could not go on. Then finds the VM's
/// domain: the number that is known may be that of one of long ago.
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
    /// It cannot be done; why. The log says what is left.
    GivenUp(EngineError),
}

/// What follows from a failure.
enum Verdict {
    /// Another try, when its time has come.
    Again,
    /// No further try.
    GivenUp,
    /// The failure is the host's and tells nothing about the VM.
    Undecided,
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
        let planned = plan::of_record(host, vm.uuid)?;
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

/// The domain is gone. The VM's next one, if it has one or is to get one; else [`After::Gone`]. Whoever destroyed it, xl
/// perhaps, does not know of our record: then that goes too.
fn after_the_domain(
    host: &mut Host,
    vm: Vm,
    post: &MonitorLock,
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    loop {
        if post.is_abolished(host) {
            return Ok(After::Gone);
        }
        let owner = VmGuard::take(host, vm.uuid)?;
        if let Some(domid) = domain_of(host, vm.uuid)? {
            log(&format!("the VM is domain {domid} now"));
            if domid == vm.domid {
                // Something of it is missing, and would be missed again at once.
                drop(owner);
                host.wait_for_event(PAUSE)?;
            }
            return Ok(After::Next(domid));
        }
        if !restart::is_owed(host, vm.uuid)? {
            log(&format!("domain {} is gone", vm.domid));
            lock::forget(host, vm.uuid)?;
            return Ok(After::Gone);
        }
        drop(owner);
        let due = backoff.read(host, vm.uuid);
        if let Some(due) = due.filter(|due| due.left(&*host.clock) > Duration::ZERO) {
            host.wait_for_event(due.left(&*host.clock))?;
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

/// Something has failed: whether it is to be tried again, after a pause. If it is given up, the record is put aside
/// for whoever repairs what is wrong.
fn try_again(
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
    if !is_cancelled && let Some(brake) = restart_backoff::of_failure(host, vm, backoff) {
        log(&format!(
            "{what}: {cause}. The next try follows in {} s, for {}",
            brake.left(&*host.clock).as_secs(),
            brake.why()
        ));
        return Ok(Verdict::Again);
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
    Ok(Verdict::GivenUp)
}

/// Waits until the next try is due, or the domain is gone.
fn wait_out(
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

/// Waits, unless the domain goes meanwhile, and does what is asked of it. Whether it is still there.
fn wait_until(
    host: &mut Host,
    vm: Vm,
    deadline: Instant,
    log: &mut dyn FnMut(&str),
) -> Result<bool, EngineError> {
    // A request may wait from before.
    let mut has_requests = true;
    while host.clock.now() < deadline {
        if has_requests {
            has_requests = requests::serve(host, vm, log)? == Served::OneOfMany;
        } else {
            let left = deadline.saturating_duration_since(host.clock.now());
            has_requests = heed(host, vm, left)?;
        }
        if domain_of(host, vm.uuid)? != Some(vm.domid) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for an event; whether it tells of a request. A change of the domain's name goes into the index.
fn heed(host: &mut Host, vm: Vm, limit: Duration) -> Result<bool, EngineError> {
    let event = host.wait_for_event(limit)?;
    heed_event(host, vm, event)
}

fn heed_event(host: &mut Host, vm: Vm, event: Option<WatchEvent>) -> Result<bool, EngineError> {
    match event.as_ref().map(|event| event.token.as_str()) {
        Some(NAME_TOKEN) => index_name(host, vm).map(|()| false),
        Some(requests::TOKEN) => Ok(true),
        _ => Ok(false),
    }
}

/// What to type for a VM whose ended domain is in the way.
fn by_hand(host: &Host, uuid: Uuid, domid: Option<DomId>) -> String {
    let path = store::path(&host.dirs, &uuid.hyphenated().to_string());
    let destroy = domid.map_or(String::new(), |domid| format!("xl destroy {domid}; "));
    format!("cp {} vm.cfg; {destroy}xyl create vm.cfg", path.display())
}

/// Lets a domain that has ended wait for its turn. Whether it is still there then.
fn wait_for_turn(
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

/// Waits until the VM's domain has shut down (its state then), or does not exist any more (`None`), and does what is
/// asked of it meanwhile.
fn wait_for_end(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<Option<DomainInfo>, EngineError> {
    let (mut is_rested, mut has_requests) = (false, false);
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
        if has_requests {
            let served = requests::serve(host, vm, log)?;
            // What was done may have taken memory.
            is_rested &= served == Served::Nothing;
            has_requests = served == Served::OneOfMany;
            continue;
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
        has_requests = heed_event(host, vm, event)?;
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
    backoff: &mut Backoff,
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
            let name = &planned.spec.name;
            let path = store::path(&host.dirs, &vm.uuid.hyphenated().to_string());
            log(&format!(
                "not restarted, since xl has given it devices; to start it again: cp {} {name}.cfg; xl destroy {}; xyl create {name}.cfg",
                path.display(),
                vm.domid
            ));
            Ok(After::GivenUp(cause))
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
    backoff: &mut Backoff,
    log: &mut dyn FnMut(&str),
) -> Result<After, EngineError> {
    dump_core::at_end(host, vm, &planned.spec.name, log)?;
    act(host, vm, then, planned, backoff, log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;
    use std::rc::Rc;
    use xen_port::Hypervisor;
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
