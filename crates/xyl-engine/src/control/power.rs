//! Asking a domain to stop, start or listen: shutdown, reboot, pause, keys and buttons.

use std::time::{Duration, Instant};

use xen_port::{
    DomId, DomainInfo, Errno, GuestKind, HvmParam, Hypervisor, ShutdownReason, Trigger, VcpuId,
};
use xenstore::{Client, Path, Tree};

use crate::EngineError;
use crate::control::vcpus;
use crate::error::RequestError;
use crate::vm::domains::home;

/// How often a wait tells that it is still waiting.
const TICK: Duration = Duration::from_secs(1);

/// Stops a domain's vCPUs, unless they are stopped: Xen counts (`controller_pause_count`), so that a second pause would
/// take a second unpause to undo.
pub fn pause(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<(), EngineError> {
    check_pause(info)?;
    if info.flags.paused {
        return Ok(());
    }
    hv.pause_domain(info.domid)
        .map_err(|error| gone_or(error, info.domid))
}

/// Refuses what [`pause`] refuses.
pub(crate) fn check_pause(info: &DomainInfo) -> Result<(), EngineError> {
    refuse_control_domain(info.domid, "pausing it")
}

/// Lets a paused domain run on; one that runs is fine, which Xen refuses.
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

/// Refuses what [`send_trigger`] refuses before Xen is asked.
pub(crate) fn check_trigger(info: &DomainInfo, vcpu: VcpuId) -> Result<(), EngineError> {
    vcpus::chosen(info, Some(vcpu)).map(drop)
}

/// Refuses what [`send_sysrq`] refuses.
pub(crate) fn check_sysrq(key: char) -> Result<(), EngineError> {
    match key.is_ascii_graphic() {
        true => Ok(()),
        false => Err(RequestError::BadSysrq(key).into()),
    }
}

/// Leaves a SysRq key in xenstore for the guest to take.
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

/// What a guest is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PowerRequest {
    /// To shut down.
    Poweroff,
    /// To reboot.
    Reboot,
}

impl PowerRequest {
    /// The word in `control/shutdown`.
    pub fn word(self) -> &'static str {
        match self {
            PowerRequest::Poweroff => "poweroff",
            PowerRequest::Reboot => "reboot",
        }
    }

    /// The request that a word in `control/shutdown` is, whoever wrote it there.
    pub(crate) fn of_word(word: &[u8]) -> Option<PowerRequest> {
        [PowerRequest::Poweroff, PowerRequest::Reboot]
            .into_iter()
            .find(|request| request.word().as_bytes() == word)
    }

    fn button(self) -> Trigger {
        match self {
            PowerRequest::Poweroff => Trigger::Power,
            PowerRequest::Reboot => Trigger::Reset,
        }
    }
}

/// How a request went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PowerDelivery {
    /// Through xenstore: the guest acknowledges it by emptying the node.
    ByXenstore,
    /// By an ACPI button: nothing tells whether the guest has seen it.
    ByButton,
}

/// Asks a domain to shut down or reboot. An HVM guest without PV drivers cannot be asked through
/// xenstore: with `fallback` its button is pressed, without it is an error.
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
        PowerDelivery::ByButton => send_trigger(hv, info, VcpuId(0), request.button())?,
    }
    Ok(delivery)
}

/// How [`ask`] would ask a domain.
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

/// PV and PVH guests listen to xenstore; an HVM guest does once its drivers have set the callback.
fn has_pv_control(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<bool, EngineError> {
    Ok(info.kind() != GuestKind::Hvm || hv.hvm_param(info.domid, HvmParam::CallbackIrq)? != 0)
}

pub(crate) fn shutdown_path(domid: DomId) -> Result<Path, EngineError> {
    home(domid, "control/shutdown")
}

/// Waits until the guest has taken the request: it empties the node, or the domain goes away.
/// `tick` is called once a second with the time spent.
pub fn wait_for_acknowledgement(
    store: &mut Client,
    domid: DomId,
    limit: Duration,
    tick: &mut dyn FnMut(Duration),
) -> Result<(), EngineError> {
    let path = shutdown_path(domid)?;
    let what =
        || format!("domain {domid} has not taken the request (a paused or hung guest cannot)");
    wait_on_watch(store, &path, Some(limit), what, tick, |store| {
        Ok(store
            .read_opt(&path)?
            .is_none_or(|value| value.is_empty())
            .then_some(()))
    })
}

/// How far a domain must be for a wait to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Shut down or gone.
    ShutDown,
    /// Gone.
    Gone,
}

/// How a domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has shut down and is still there.
    ShutDown(ShutdownReason),
    /// It is gone, or on its way out.
    Gone,
}

/// Waits until all of the domains have ended; tells `ended` of each. Without `limit` it waits for
/// as long as it takes. `tick` is called once a second with the time spent.
pub fn wait_for_end(
    hv: &dyn Hypervisor,
    store: &mut Client,
    domains: &[DomainInfo],
    until: Until,
    limit: Option<Duration>,
    tick: &mut dyn FnMut(Duration),
    ended: &mut dyn FnMut(DomId, End),
) -> Result<(), EngineError> {
    let mut left: Vec<&DomainInfo> = domains.iter().collect();
    let what = || format!("{} have not ended", describe(domains));
    wait_on_watch(store, &Path::release_domain(), limit, what, tick, |_| {
        let now = hv.domain_list()?;
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

fn describe(domains: &[DomainInfo]) -> String {
    let ids: Vec<String> = domains.iter().map(|info| info.domid.to_string()).collect();
    format!("domains {}", ids.join(", "))
}

/// A number may have been given to another domain meanwhile: the handle tells.
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

/// Looks at the world once, then again after each event of a watch, until `look` gives an answer.
fn wait_on_watch<T>(
    store: &mut Client,
    path: &Path,
    limit: Option<Duration>,
    what: impl Fn() -> String,
    tick: &mut dyn FnMut(Duration),
    mut look: impl FnMut(&mut Client) -> Result<Option<T>, EngineError>,
) -> Result<T, EngineError> {
    const TOKEN: &str = "xyl-wait";
    let begun = Instant::now();
    store.watch(path, TOKEN)?;
    let answer = loop {
        if let Some(answer) = look(store)? {
            break answer;
        }
        let spent = begun.elapsed();
        if let Some(limit) = limit.filter(|limit| spent >= *limit) {
            store.unwatch(path, TOKEN)?;
            return Err(EngineError::Deadline {
                what: what(),
                limit_s: limit.as_secs(),
            });
        }
        let until_limit = limit.map_or(TICK, |limit| limit.saturating_sub(spent));
        if store
            .next_event(Instant::now() + until_limit.min(TICK))?
            .is_none()
        {
            tick(begun.elapsed());
        }
    };
    store.unwatch(path, TOKEN)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {

    use xenstore::mem::MemStore;

    use super::*;

    fn info(domid: u16) -> DomainInfo {
        DomainInfo {
            domid: DomId(domid),
            nr_online_vcpus: 1,
            max_vcpu_id: Some(0),
            handle: [domid as u8; 16],
            ..DomainInfo::default()
        }
    }

    #[test]
    fn a_taken_request_ends_the_wait() {
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        let path = shutdown_path(DomId(5)).unwrap();
        client.write(&path, b"").unwrap();
        wait_for_acknowledgement(&mut client, DomId(5), Duration::ZERO, &mut |_| ()).unwrap();
    }

    #[test]
    fn a_request_that_nobody_takes_is_told_of() {
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        client
            .write(&shutdown_path(DomId(5)).unwrap(), b"poweroff")
            .unwrap();
        let outcome = wait_for_acknowledgement(&mut client, DomId(5), Duration::ZERO, &mut |_| ());
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("domain 5 has not taken the request"),
            "{error}"
        );
        // The watch is gone: the same wait can be set up again.
        client.rm(&shutdown_path(DomId(5)).unwrap()).unwrap();
        wait_for_acknowledgement(&mut client, DomId(5), Duration::ZERO, &mut |_| ()).unwrap();
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
