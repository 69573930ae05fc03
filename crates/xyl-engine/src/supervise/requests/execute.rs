//! Carries a request out, under the VM's lock.
//!
//! The VM's monitor does this, and a command for a domain without a monitor. The lock's holder comes first; then the domain is
//! looked at again, since it may have gone.

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, ShutdownReason};
use xyl_api::{Done, PowerDelivery, PowerRequest, Request};

use super::Asking;
use super::progress;
use crate::config::plan;
use crate::control::{cpu_pools, memory, power, sched, vcpus};
use crate::device::hotplug as device;
use crate::operation::destroy;
use crate::operation::dump_core::{self, DumpRequest};
use crate::operation::hotplug;
use crate::operation::save::{self, SaveRequest};
use crate::operation::suspend;
use crate::vm::domains;
use crate::{Cancel, EngineError, Host, RequestError, VmGuard};

/// Takes the VM's lock for a request. A destroy by force takes it whatever the journal has.
pub(super) fn take_lock(
    host: &mut Host,
    vm: Uuid,
    request: &Request,
) -> Result<VmGuard, EngineError> {
    match request {
        Request::Destroy { force: true } => VmGuard::take_by_force(host, vm),
        _ => VmGuard::take(host, vm),
    }
}

/// Refuses a request for which this process has given up a right.
pub(super) fn check_rights(
    host: &mut Host,
    domid: DomId,
    request: &Request,
) -> Result<(), EngineError> {
    match request {
        Request::AttachDevice { kind, device } => device::check_rights(host, kind, device),
        Request::DetachDevice { kind, device, .. } => {
            hotplug::detach::check_rights(host, domid, kind, device)
        }
        _ => Ok(()),
    }
}

/// Whether a request is carried out by a process that may change the host's network interfaces.
pub(super) fn changes_links(request: &Request) -> bool {
    matches!(request, Request::AttachDevice { kind, device } if device::changes_links(kind, device))
}

/// Whether a request is carried out by a process that may start QEMU.
pub(super) fn starts_qemu(request: &Request) -> bool {
    matches!(request, Request::AttachDevice { kind, device } if device::starts_qemu(kind, device))
}

/// Whether a request is carried out by a process that runs hot-plug scripts.
pub(super) fn runs_script(request: &Request) -> bool {
    matches!(request, Request::AttachDevice { kind, device } if device::runs_script(kind, device))
}

/// Carries out a request of another process under its VM's lock, and writes the progress of a dump.
pub(super) fn carry_out_for_another(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    request: &Request,
) -> Result<Done, EngineError> {
    let mut report = progress::writer(host, Uuid::from_bytes(info.handle));
    let mut asking = Asking {
        cancel: &Cancel::new(),
        progress: &mut report,
    };
    carry_out_locked(host, Some(owner), info, request, &mut asking)
}

/// Makes the change, under the VM's lock, if this is still its domain.
pub(super) fn carry_out(
    host: &mut Host,
    info: &DomainInfo,
    request: &Request,
    asking: &mut Asking<'_>,
) -> Result<Done, EngineError> {
    // Domain 0 is no VM.
    let owner = match info.domid {
        DomId::ZERO => None,
        _ => Some(take_lock(host, Uuid::from_bytes(info.handle), request)?),
    };
    if let Some(owner) = &owner {
        owner.report_recovered(host);
    }
    carry_out_locked(host, owner, info, request, asking)
}

fn carry_out_locked(
    host: &mut Host,
    owner: Option<VmGuard>,
    info: &DomainInfo,
    request: &Request,
    asking: &mut Asking<'_>,
) -> Result<Done, EngineError> {
    match request {
        // These look again themselves.
        Request::Destroy { force } => {
            destroy::destroy_locked(host, owner, info, *force)?;
            Ok(Done::Plain)
        }
        Request::AttachDevice { kind, device } => {
            let owner = owner_or_refusal(owner)?;
            hotplug::attach::attach_locked(host, owner, info, (kind, device), asking.cancel)?;
            Ok(Done::Plain)
        }
        Request::DetachDevice {
            kind,
            device,
            force,
        } => {
            let owner = owner_or_refusal(owner)?;
            hotplug::detach::detach_locked(host, owner, info, (kind, device), *force)?;
            Ok(Done::Plain)
        }
        Request::Suspend => {
            let info = same(host, info)?;
            let owner = owner.ok_or(EngineError::ControlDomain("suspending it"))?;
            suspend::suspend_locked(host, owner, &info, asking.cancel)?;
            Ok(Done::Plain)
        }
        Request::Resume => {
            let info = same(host, info)?;
            let owner = owner.ok_or(EngineError::ControlDomain("resuming it"))?;
            suspend::resume_locked(host, owner, &info)?;
            Ok(Done::Plain)
        }
        Request::Save { file, config, then } => {
            let info = same(host, info)?;
            let owner = owner.ok_or(EngineError::ControlDomain("saving it"))?;
            let request = SaveRequest {
                file,
                config: config.as_deref(),
                then: *then,
                progress: asking.progress,
            };
            let saved = save::save_locked(host, owner, &info, request, asking.cancel)?;
            Ok(Done::Saved(saved))
        }
        Request::DumpCore { file, is_live } => {
            same(host, info)?;
            let request = DumpRequest {
                domid: info.domid,
                file,
                is_live: *is_live,
                progress: asking.progress,
            };
            let dumped = dump_core::dump_locked(host, owner, request, asking.cancel)?;
            Ok(Done::Dumped(dumped))
        }
        _ => {
            let info = same(host, info)?;
            change(host, &info, request)
        }
    }
}

/// The lock of the domain's VM. Domain 0 has none, and is refused.
fn owner_or_refusal(owner: Option<VmGuard>) -> Result<VmGuard, EngineError> {
    owner.ok_or(EngineError::ControlDomain("changing its devices"))
}

/// Looks whether a change can be made: refuses what the change itself would refuse, by the same checks, and changes nothing.
/// What Xen alone knows shows when it is asked for the change.
///
/// # Errors
/// Those of the change.
pub fn check(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<(), EngineError> {
    match request {
        // A domain that is about to go can be destroyed too.
        Request::Destroy { force } => destroy::check(host, info, *force),
        Request::DumpCore { .. } => dump_core::check(host, info.domid),
        Request::Save { then, .. } => {
            let info = same(host, info)?;
            save::check(host, &info, *then)
        }
        Request::Suspend => suspend::check(&same(host, info)?),
        Request::Resume => suspend::check_resume(&same(host, info)?),
        Request::AttachDevice { kind, device } => hotplug::attach::check(host, info, kind, device),
        Request::DetachDevice { kind, device, .. } => {
            hotplug::detach::check(host, info, kind, device)
        }
        _ => {
            let info = same(host, info)?;
            check_change(host, &info, request)
        }
    }
}

fn check_change(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<(), EngineError> {
    let (hv, store) = (&*host.hv, &mut host.store);
    match request {
        Request::Pause => power::check_pause(info),
        Request::Power { request, .. } if power::has_ended(info) => {
            after_its_end(host, info, *request).map(drop)
        }
        Request::Power { request, fallback } => {
            power::delivery(hv, info, *request, *fallback).map(drop)
        }
        Request::Sysrq { key } => power::check_sysrq(*key),
        Request::Trigger { vcpu, .. } => power::check_trigger(info, *vcpu),
        Request::Rename { name } => domains::check_rename(host, info, name),
        Request::MemoryTarget { target_kib } => {
            memory::check_target(store, info, *target_kib).map(drop)
        }
        Request::MemoryMaximum { max_kib } => memory::check_maximum(store, info, *max_kib),
        Request::Vcpus { nr_vcpus } => vcpus::check_online(info, *nr_vcpus),
        Request::Share { scheduler, change } => {
            sched::check_share(hv, info, *scheduler, *change).map(drop)
        }
        Request::CpuPool { pool } => cpu_pools::check_move(hv, store, info, *pool),
        Request::Pin { vcpus: pinned, .. } => pinned
            .iter()
            .try_for_each(|vcpu| vcpus::chosen(info, Some(*vcpu)).map(drop)),
        Request::Unpause
        | Request::Suspend
        | Request::Resume
        | Request::Save { .. }
        | Request::DumpCore { .. }
        | Request::AttachDevice { .. }
        | Request::DetachDevice { .. }
        | Request::Destroy { .. } => Ok(()),
    }
}

/// The domain as it is now: its number may be another's meanwhile.
fn same(host: &Host, info: &DomainInfo) -> Result<DomainInfo, EngineError> {
    let now = host.hv.domain_info(info.domid)?;
    now.filter(|now| now.handle == info.handle && !now.flags.dying)
        .ok_or_else(|| EngineError::NoSuchDomain(info.domid.to_string()))
}

fn change(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<Done, EngineError> {
    let (hv, store, domid) = (&*host.hv, &mut host.store, info.domid);
    match request {
        Request::Pause => power::pause(hv, info)?,
        Request::Unpause => power::unpause(hv, info)?,
        Request::Power { request, .. } if power::has_ended(info) => {
            return after_its_end(host, info, *request);
        }
        Request::Power { request, fallback } => {
            let how = power::ask(hv, store, info, *request, *fallback)?;
            return Ok(Done::Delivered { how });
        }
        Request::Sysrq { key } => power::send_sysrq(store, domid, *key)?,
        Request::Trigger { vcpu, trigger } => power::send_trigger(hv, info, *vcpu, *trigger)?,
        Request::Rename { name } => domains::rename(host, info, name)?,
        Request::MemoryTarget { target_kib } => memory::set_target(host, info, *target_kib)?,
        Request::MemoryMaximum { max_kib } => memory::set_maximum(host, info, *max_kib)?,
        Request::Vcpus { nr_vcpus } => vcpus::set_online(store, info, *nr_vcpus)?,
        Request::Pin {
            vcpus,
            hard,
            soft,
            force,
        } => {
            for vcpu in vcpus {
                vcpus::pin(hv, domid, *vcpu, hard.as_ref(), soft.as_ref(), *force)?;
            }
        }
        Request::Share { scheduler, change } => sched::set_share(hv, info, *scheduler, *change)?,
        Request::CpuPool { pool } => cpu_pools::move_domain(hv, store, info, *pool)?,
        // `carry_out` has done these.
        Request::Suspend
        | Request::Resume
        | Request::Save { .. }
        | Request::DumpCore { .. }
        | Request::AttachDevice { .. }
        | Request::DetachDevice { .. }
        | Request::Destroy { .. } => {}
    }
    Ok(Done::Plain)
}

/// Result of a request to shut down or reboot for a domain that has shut down. No guest takes it any more.
fn after_its_end(
    host: &Host,
    info: &DomainInfo,
    request: PowerRequest,
) -> Result<Done, EngineError> {
    let domid = info.domid;
    let reason = info.shutdown_reason.unwrap_or(ShutdownReason::Poweroff);
    let planned = plan::of_record(host, Uuid::from_bytes(info.handle));
    let is_restarted = planned.is_ok_and(|planned| planned.spec.on.restarts(reason));
    match (request, is_restarted) {
        (PowerRequest::Poweroff, false) | (PowerRequest::Reboot, true) => Ok(Done::Delivered {
            how: PowerDelivery::HasShutDown,
        }),
        (PowerRequest::Poweroff, true) => Err(RequestError::Restarting { domid }.into()),
        (PowerRequest::Reboot, false) => Err(RequestError::HasShutDown { domid, reason }.into()),
    }
}
