//! Power requests to a domain: pause, shutdown, reboot, SysRq keys and triggers, and waits for their effect.

use std::cell::RefCell;
use std::time::Duration;

use uuid::Uuid;
use xen_port::{
    DomId, DomainInfo, Errno, GuestKind, HvmParam, Hypervisor, ShutdownReason, Trigger, VcpuId,
};
use xenstore::{Path, Tree};
pub use xyl_api::{PowerDelivery, PowerRequest};

use crate::control::vcpus;
use crate::error::RequestError;
use crate::vm::domains::home;
use crate::{EngineError, Host};

/// Interval of a wait's messages.
const TICK: Duration = Duration::from_secs(1);
/// Token of the watch of a wait.
const WAIT_TOKEN: &str = "xyl-wait";

/// Pauses a domain that is not paused. Xen counts pauses (`controller_pause_count`), so a second pause would need a
/// second unpause.
pub fn pause(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<(), EngineError> {
    check_pause(info)?;
    if info.flags.paused {
        return Ok(());
    }
    hv.pause_domain(info.domid)
        .map_err(|error| gone_or(error, info.domid))
}

/// Fails if [`pause`] would fail.
pub(crate) fn check_pause(info: &DomainInfo) -> Result<(), EngineError> {
    refuse_control_domain(info.domid, "pausing it")
}

/// Unpauses a domain. A domain that is not paused is no error here, although Xen returns one.
pub fn unpause(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<(), EngineError> {
    if !info.flags.paused {
        return Ok(());
    }
    hv.unpause_domain(info.domid)
        .map_err(|error| gone_or(error, info.domid))
}

/// Sends a trigger to a vCPU.
pub fn send_trigger(
    hv: &dyn Hypervisor,
    info: &DomainInfo,
    vcpu: VcpuId,
    trigger: Trigger,
) -> Result<(), EngineError> {
    check_trigger(info, vcpu)?;
    let domid = info.domid;
    hv.send_trigger(domid, vcpu, trigger)
        .map_err(|error| gone_or(error, domid))
}

/// Fails if [`send_trigger`] would fail before the hypercall.
pub(crate) fn check_trigger(info: &DomainInfo, vcpu: VcpuId) -> Result<(), EngineError> {
    vcpus::chosen(info, Some(vcpu)).map(drop)
}

/// Fails if [`send_sysrq`] would fail.
pub(crate) fn check_sysrq(key: char) -> Result<(), EngineError> {
    match key.is_ascii_graphic() {
        true => Ok(()),
        false => Err(RequestError::BadSysrq(key).into()),
    }
}

/// Writes a SysRq key to xenstore for the guest.
pub fn send_sysrq(store: &mut impl Tree, domid: DomId, key: char) -> Result<(), EngineError> {
    check_sysrq(key)?;
    Ok(store.write(&home(domid, "control/sysrq")?, key.to_string().as_bytes())?)
}

fn gone_or(error: xen_port::HvError, domid: DomId) -> EngineError {
    if error.is(Errno::ESRCH) {
        EngineError::NoSuchDomain(domid.to_string())
    } else {
        EngineError::Hypervisor(error)
    }
}

fn refuse_control_domain(domid: DomId, what: &'static str) -> Result<(), EngineError> {
    if domid == DomId::ZERO {
        Err(EngineError::ControlDomain(what))
    } else {
        Ok(())
    }
}

/// Parses a word from `control/shutdown`, which any program may have written.
pub(crate) fn request_of_word(word: &[u8]) -> Option<PowerRequest> {
    [PowerRequest::Poweroff, PowerRequest::Reboot]
        .into_iter()
        .find(|request| request.word().as_bytes() == word)
}

fn button(request: PowerRequest) -> Trigger {
    match request {
        PowerRequest::Poweroff => Trigger::Power,
        PowerRequest::Reboot => Trigger::Reset,
    }
}

/// Sends a power request to a domain. For an HVM guest without PV drivers, presses its ACPI button if `fallback` is
/// set, and fails otherwise.
pub fn ask(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    info: &DomainInfo,
    request: PowerRequest,
    fallback: bool,
) -> Result<PowerDelivery, EngineError> {
    let delivery = delivery(hv, info, request, fallback)?;
    match delivery {
        PowerDelivery::ByXenstore => {
            store.write(&shutdown_path(info.domid)?, request.word().as_bytes())?;
        }
        PowerDelivery::ByButton => send_trigger(hv, info, VcpuId(0), button(request))?,
        PowerDelivery::HasShutDown => {}
    }
    Ok(delivery)
}

/// The way in which [`ask`] would deliver the request.
pub(crate) fn delivery(
    hv: &dyn Hypervisor,
    info: &DomainInfo,
    request: PowerRequest,
    fallback: bool,
) -> Result<PowerDelivery, EngineError> {
    refuse_control_domain(info.domid, "shutting it down like a guest")?;
    if has_pv_control(hv, info)? {
        return Ok(PowerDelivery::ByXenstore);
    }
    if !fallback {
        return Err(RequestError::NoPvDrivers {
            domid: info.domid,
            request: request.word(),
        }
        .into());
    }
    Ok(PowerDelivery::ByButton)
}

/// Whether the guest reads xenstore. PV and PVH guests do; HVM guests do if their drivers have set the callback.
fn has_pv_control(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<bool, EngineError> {
    Ok(info.kind() != GuestKind::Hvm || hv.hvm_param(info.domid, HvmParam::CallbackIrq)? != 0)
}

pub(crate) fn shutdown_path(domid: DomId) -> Result<Path, EngineError> {
    home(domid, "control/shutdown")
}

/// Waits until the guest takes the request: it empties the node, or the domain shuts down, ends or is replaced.
/// `tick` is called once a second with the time spent.
///
/// # Errors
/// [`RequestError::Paused`] at once for a paused domain: the request stays, and the guest takes it when it runs.
/// [`EngineError::Deadline`] after `limit`.
pub fn wait_for_acknowledgement(
    host: &mut Host,
    domain: &DomainInfo,
    limit: Duration,
    tick: &mut dyn FnMut(Duration),
) -> Result<(), EngineError> {
    let domid = domain.domid;
    let path = shutdown_path(domid)?;
    let what = || format!("domain {domid} has not taken the request (a hung guest cannot)");
    wait_on_watch(host, &path, Some(limit), what, tick, |host| {
        let now = host.hv.domain_info(domid)?;
        let now = now.filter(|now| now.handle == domain.handle && !now.flags.dying);
        let Some(now) = now.filter(|now| !has_ended(now)) else {
            return Ok(Some(()));
        };
        if host
            .store
            .read_opt(&path)?
            .is_none_or(|value| value.is_empty())
        {
            return Ok(Some(()));
        }
        match now.flags.paused && !is_in_hand(host, domain) {
            true => Err(RequestError::Paused { domid }.into()),
            false => Ok(None),
        }
    })
}

/// Whether a domain has shut down for good. After a suspend it may be resumed.
pub(crate) fn has_ended(info: &DomainInfo) -> bool {
    info.flags.shutdown && info.shutdown_reason != Some(ShutdownReason::Suspend)
}

/// Whether a process holds the VM lock. Its operation may have paused the domain briefly, as a core dump does.
fn is_in_hand(host: &Host, domain: &DomainInfo) -> bool {
    let lock = host.dirs.vm_lock(Uuid::from_bytes(domain.handle));
    host.files.is_locked(&lock).unwrap_or(false)
}

/// The state of a domain that ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The domain has shut down or no longer exists.
    ShutDown,
    /// The domain no longer exists.
    Gone,
}

/// The end of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The domain has shut down, and still exists.
    ShutDown(ShutdownReason),
    /// The domain no longer exists, or is dying.
    Gone,
}

/// Waits until all domains have ended, and calls `ended` for each. Without `limit`, waits without end. `tick` is
/// called once a second with the time spent.
pub fn wait_for_end(
    host: &mut Host,
    domains: &[DomainInfo],
    until: Until,
    limit: Option<Duration>,
    tick: &mut dyn FnMut(Duration),
    ended: &mut dyn FnMut(DomId, End),
) -> Result<(), EngineError> {
    let left: RefCell<Vec<&DomainInfo>> = RefCell::new(domains.iter().collect());
    let what = || not_ended(&left.borrow());
    wait_on_watch(host, &Path::release_domain(), limit, what, tick, |host| {
        let now = host.hv.domain_list()?;
        let mut left = left.borrow_mut();
        left.retain(|domain| match end_of(&now, domain, until) {
            Some(end) => {
                ended(domain.domid, end);
                false
            }
            None => true,
        });
        Ok(left.is_empty().then_some(()))
    })
}

fn not_ended(domains: &[&DomainInfo]) -> String {
    let ids: Vec<String> = domains.iter().map(|info| info.domid.to_string()).collect();
    match ids.as_slice() {
        [one] => format!("domain {one} has not ended"),
        many => format!("domains {} have not ended", many.join(", ")),
    }
}

/// The end of a domain. If another domain has its domid now, the handle differs.
fn end_of(now: &[DomainInfo], domain: &DomainInfo, until: Until) -> Option<End> {
    let same = |info: &&DomainInfo| info.domid == domain.domid && info.handle == domain.handle;
    match now.iter().find(same) {
        None => Some(End::Gone),
        Some(info) if info.flags.dying => (until == Until::ShutDown).then_some(End::Gone),
        Some(info) if info.flags.shutdown && until == Until::ShutDown => Some(End::ShutDown(
            info.shutdown_reason.unwrap_or(ShutdownReason::Poweroff),
        )),
        Some(_) => None,
    }
}

/// Calls `look` once, then again after each event of a watch, until it returns a value.
fn wait_on_watch<T>(
    host: &mut Host,
    path: &Path,
    limit: Option<Duration>,
    what: impl Fn() -> String,
    tick: &mut dyn FnMut(Duration),
    look: impl FnMut(&mut Host) -> Result<Option<T>, EngineError>,
) -> Result<T, EngineError> {
    host.store.watch(path, WAIT_TOKEN)?;
    let answer = look_until(host, limit, what, tick, look);
    let ended = host.store.unwatch(path, WAIT_TOKEN);
    let answer = answer?;
    ended?;
    Ok(answer)
}

fn look_until<T>(
    host: &mut Host,
    limit: Option<Duration>,
    what: impl Fn() -> String,
    tick: &mut dyn FnMut(Duration),
    mut look: impl FnMut(&mut Host) -> Result<Option<T>, EngineError>,
) -> Result<T, EngineError> {
    let begun = host.clock.now();
    let mut next_tick = TICK;
    loop {
        if let Some(answer) = look(host)? {
            return Ok(answer);
        }
        let spent = host.clock.now().saturating_duration_since(begun);
        if let Some(limit) = limit.filter(|limit| spent >= *limit) {
            return Err(EngineError::Deadline {
                what: what(),
                limit_s: limit.as_secs(),
            });
        }
        if spent >= next_tick {
            next_tick = spent + TICK;
            tick(spent);
        }
        let until_limit = limit.map_or(TICK, |limit| limit.saturating_sub(spent));
        host.wait_for(&[WAIT_TOKEN], until_limit.min(TICK))?;
    }
}

#[cfg(test)]
mod tests {

    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;

    fn info(domid: u16) -> DomainInfo {
        DomainInfo {
            domid: DomId(domid),
            nr_online_vcpus: 1,
            max_vcpu_id: Some(0),
            handle: [domid as u8; 16],
            ..DomainInfo::default()
        }
    }

    /// A host with one domain that has a poweroff request.
    fn asked(folder: &std::path::Path) -> (Model, Host, DomainInfo) {
        let (hv, store) = (Model::new(64), MemStore::new());
        store.set_keeps_time(false);
        let domid = hv.create_domain(&pv_request([7; 16])).unwrap();
        hv.unpause_domain(domid).unwrap();
        let client = store.client(0).unwrap();
        let mut host = Host::new(Box::new(hv.clone()), client, Dirs::below(folder));
        host.clock = std::rc::Rc::new(os_port::mem::VirtualClock::new());
        let path = shutdown_path(domid).unwrap();
        host.store.write(&path, b"poweroff").unwrap();
        let info = hv.domain_info(domid).unwrap().unwrap();
        (hv, host, info)
    }

    const LIMIT: Duration = Duration::from_secs(60);

    /// Result of a wait for a guest that does nothing, after this change, and its length in seconds.
    fn waited(change: impl FnOnce(&Model, &mut Host, DomId)) -> (Result<(), EngineError>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let (hv, mut host, info) = asked(folder.path());
        change(&hv, &mut host, info.domid);
        let begun = host.clock.now();
        let outcome = wait_for_acknowledgement(&mut host, &info, LIMIT, &mut |_| ());
        (outcome, (host.clock.now() - begun).as_secs())
    }

    #[test]
    fn a_request_is_taken_by_a_guest_and_by_each_end_of_its_domain() {
        let ends: [fn(&Model, &mut Host, DomId); 5] = [
            |_, host, domid| {
                host.store
                    .write(&shutdown_path(domid).unwrap(), b"")
                    .unwrap()
            },
            |_, host, domid| host.store.rm(&shutdown_path(domid).unwrap()).unwrap(),
            |hv, _, domid| hv.shut_down(domid, ShutdownReason::Reboot),
            |hv, _, domid| hv.destroy_domain(domid, std::time::Instant::now()).unwrap(),
            |hv, _, domid| {
                hv.destroy_domain(domid, std::time::Instant::now()).unwrap();
                hv.set_next_domid(domid);
                assert_eq!(hv.create_domain(&pv_request([8; 16])).unwrap(), domid);
            },
        ];
        for end in ends {
            let (outcome, spent_s) = waited(end);
            outcome.unwrap();
            assert_eq!(spent_s, 0);
        }
    }

    #[test]
    fn a_paused_domain_is_told_of_at_once() {
        let (outcome, spent_s) = waited(|hv, _, domid| hv.pause_domain(domid).unwrap());
        let error = outcome.unwrap_err();
        assert!(
            matches!(&error, EngineError::Control(RequestError::Paused { .. })),
            "{error}"
        );
        assert_eq!(spent_s, 0);
    }

    #[test]
    fn a_request_that_nobody_takes_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let (_, mut host, info) = asked(folder.path());
        let mut ticks = 0;
        // The watch was removed, so the same wait can set it again.
        for _ in 0..2 {
            let outcome = wait_for_acknowledgement(&mut host, &info, LIMIT, &mut |_| ticks += 1);
            assert!(matches!(
                outcome,
                Err(EngineError::Deadline { limit_s: 60, .. })
            ));
        }
        assert!((100..=120).contains(&ticks), "{ticks}");
    }

    #[test]
    fn the_end_of_a_domain_is_seen_in_each_of_its_forms() {
        let domain = info(5);
        assert_eq!(end_of(&[], &domain, Until::Gone), Some(End::Gone));
        assert_eq!(
            end_of(std::slice::from_ref(&domain), &domain, Until::ShutDown),
            None
        );
        let mut dead = domain.clone();
        dead.flags.shutdown = true;
        dead.shutdown_reason = Some(ShutdownReason::Crash);
        let crashed = End::ShutDown(ShutdownReason::Crash);
        assert_eq!(
            end_of(&[dead.clone()], &domain, Until::ShutDown),
            Some(crashed)
        );
        assert_eq!(end_of(&[dead.clone()], &domain, Until::Gone), None);
        dead.flags.dying = true;
        assert_eq!(
            end_of(&[dead.clone()], &domain, Until::ShutDown),
            Some(End::Gone)
        );
        assert_eq!(end_of(&[dead], &domain, Until::Gone), None);
        let mut reused = info(5);
        reused.handle = [9; 16];
        assert_eq!(end_of(&[reused], &domain, Until::Gone), Some(End::Gone));
    }

    #[test]
    fn odd_sysrq_keys_are_refused() {
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        assert!(send_sysrq(&mut client, DomId(5), '\n').is_err());
        assert!(send_sysrq(&mut client, DomId(5), 'é').is_err());
        send_sysrq(&mut client, DomId(5), 'h').unwrap();
        assert_eq!(
            client
                .read(&home(DomId(5), "control/sysrq").unwrap())
                .unwrap(),
            b"h"
        );
    }
}
