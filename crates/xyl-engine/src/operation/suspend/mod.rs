//! Suspending a guest, and resuming it.
//!
//! The guest suspends itself: it is asked by the node `control/shutdown`, takes the request by emptying the node, and shuts down
//! with the reason `suspend`. Its memory and devices stay. `Suspension` is this protocol, which a save uses too. `late` is about
//! guests that suspend themselves after Xyl has given up.
//!
//! States of a suspension: asked, taken, suspended. Before it is suspended, a failure withdraws the request. If the guest has taken
//! the request by then, it may suspend itself at any time, and its monitor resumes it. The requests `suspend` and `resume` begin these
//! operations.

pub(crate) mod late;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, GuestKind, HvmParam, ShutdownReason, VcpuId};
use xenstore::{Path, Tree};
use xyl_saga::{At, Facts, OnDeath, Operation, Plan, Progress};

use crate::control::power::shutdown_path;
use crate::error::RequestError;
pub use crate::error::SuspendError;
use crate::operation::{Begun, Kind, OfVm, STEP_TOKEN, Steps, step};
use crate::vm::names;
use crate::{Cancel, EngineError, Host, VmGuard};

/// Time for the guest to take the request, in seconds, as in libxl.
pub(crate) const ASK_LIMIT_S: u64 = 60;
/// Time for the guest to suspend itself after that, in seconds, as in libxl.
pub(crate) const AWAIT_LIMIT_S: u64 = 60;
/// Time to resume a domain, in seconds.
const RESUME_LIMIT_S: u64 = 10;
/// The request to suspend, in `control/shutdown`.
const WORD: &[u8] = b"suspend";
/// Argument of a guest that was suspended before the operation.
const WAS_SUSPENDED: &str = "was_suspended";
/// Place of `rax` in the registers of a vCPU (`vcpu_guest_context`), and of `eax` in those of a 32-bit PV guest: after 512 bytes of the FPU,
/// the flags, and ten or six other registers.
const RAX: usize = 512 + 8 + 10 * 8;
const EAX_OF_32_BITS: usize = 512 + 4 + 6 * 4;
/// The value that the suspend hypercall returns to a guest that goes on in the same domain.
const CANCELLED: u8 = 1;

/// Whether a guest is suspended.
pub fn is_suspended(info: &DomainInfo) -> bool {
    info.flags.shutdown && info.shutdown_reason == Some(ShutdownReason::Suspend)
}

/// Suspends a guest, under the lock of its VM. One that is suspended stays so.
pub(crate) fn suspend_locked(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    cancel: &Cancel,
) -> Result<(), EngineError> {
    let suspension = Suspension::of(info)?;
    if suspension.was_suspended {
        return Ok(());
    }
    let begun = Begun {
        kind: Kind::Suspend,
        name: &names::on_disk(host, info),
        args: suspension.args(),
        plan: plan(),
    };
    let mut context = Suspend(suspension);
    owner.carry_out(host, begun, &mut context, cancel, &mut |_| ())
}

/// Resumes a guest, under the lock of its VM. One that runs, runs on.
pub(crate) fn resume_locked(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
) -> Result<(), EngineError> {
    refuse_hvm(info, "resume")?;
    let mut args = Facts::new();
    args.insert("old".to_owned(), info.domid.0.into());
    let begun = Begun {
        kind: Kind::Resume,
        name: &names::on_disk(host, info),
        args,
        plan: plan_of_resume(),
    };
    let mut context = Resume {
        vm: OfVm::begun(Uuid::from_bytes(info.handle)),
        domid: info.domid,
    };
    owner.carry_out(host, begun, &mut context, &Cancel::new(), &mut |_| ())
}

/// Refuses what a suspend refuses before it begins.
pub(crate) fn check(info: &DomainInfo) -> Result<(), EngineError> {
    Suspension::of(info).map(drop)
}

/// Refuses to resume a domain that is not suspended.
pub(crate) fn check_resume(info: &DomainInfo) -> Result<(), EngineError> {
    refuse_hvm(info, "resume")?;
    match is_suspended(info) {
        true => Ok(()),
        false => Err(SuspendError::NotSuspended { domid: info.domid }.into()),
    }
}

/// A device model would have to be stopped and saved too.
pub(crate) fn refuse_hvm(info: &DomainInfo, what: &'static str) -> Result<(), EngineError> {
    let domid = info.domid;
    match info.kind() {
        GuestKind::Hvm => Err(RequestError::HvmNotYet { domid, what }.into()),
        _ => Ok(()),
    }
}

// ---- the protocol ---------------------------------------------------------------------------------

/// A suspension of a guest, as two steps of an operation: it is asked, and it is waited for.
pub(crate) struct Suspension {
    vm: OfVm,
    domid: DomId,
    /// Whether the guest was suspended before. Then it stays so, whatever becomes of the operation.
    pub was_suspended: bool,
    /// Whether this process has asked the guest.
    is_asked: bool,
    /// Whether this process has seen it suspended.
    has_suspended: bool,
    /// Whether this process has withdrawn the request in time.
    is_withdrawn: bool,
}

impl Suspension {
    /// A suspension of this domain's guest, unless it cannot be suspended.
    pub fn of(info: &DomainInfo) -> Result<Suspension, EngineError> {
        let domid = info.domid;
        if domid == DomId::ZERO {
            return Err(EngineError::ControlDomain("suspending it"));
        }
        refuse_hvm(info, "suspend")?;
        let was_suspended = is_suspended(info);
        if !was_suspended {
            refuse_ended(info)?;
            if info.flags.paused {
                return Err(SuspendError::Paused { domid }.into());
            }
        }
        Ok(Suspension {
            vm: OfVm::begun(Uuid::from_bytes(info.handle)),
            domid,
            was_suspended,
            is_asked: false,
            has_suspended: false,
            is_withdrawn: false,
        })
    }

    /// The suspension of an operation that another process began.
    pub fn taken_over(uuid: Uuid, domid: DomId, operation: &Operation) -> Suspension {
        Suspension {
            vm: OfVm::taken_over(uuid),
            domid,
            was_suspended: operation.is_set(WAS_SUSPENDED),
            is_asked: false,
            has_suspended: false,
            is_withdrawn: false,
        }
    }

    /// The arguments for the journal.
    pub fn args(&self) -> Facts {
        let mut args = Facts::new();
        args.insert("old".to_owned(), self.domid.0.into());
        args.insert(WAS_SUSPENDED.to_owned(), self.was_suspended.into());
        args
    }

    /// Asks the guest, and waits until it takes the request.
    pub fn ask(&mut self, host: &mut Host, at: &At<'_>) -> Result<Progress, EngineError> {
        if self.was_suspended {
            return Ok(Progress::Done);
        }
        if !self.is_asked {
            late::forget(host, self.vm.uuid)?;
            self.is_asked = true;
            self.watch(host)?;
            host.store.write(&shutdown_path(self.domid)?, WORD)?;
        }
        if self.is_taken(host)? {
            return Ok(Progress::Done);
        }
        if host.clock.now() < at.deadline() {
            return Ok(Progress::Waiting);
        }
        // The guest may take it at this very moment.
        match withdraw(host, self.domid)? {
            Withdrawal::TooLate => Ok(Progress::Done),
            Withdrawal::Done => {
                self.is_withdrawn = true;
                Err(SuspendError::NotTaken {
                    domid: self.domid,
                    limit_s: ASK_LIMIT_S,
                }
                .into())
            }
        }
    }

    /// Waits until the guest has suspended itself.
    pub fn wait(&mut self, host: &mut Host, at: &At<'_>) -> Result<Progress, EngineError> {
        if self.was_suspended {
            return Ok(Progress::Done);
        }
        let domid = self.domid;
        let info = self.domain(host)?;
        let info = info.ok_or_else(|| EngineError::NoSuchDomain(domid.to_string()))?;
        if is_suspended(&info) {
            self.has_suspended = true;
            self.unwatch(host)?;
            // A guest that has followed an earlier request has not taken this one, and would follow it when it goes on.
            withdraw(host, domid)?;
            return Ok(Progress::Done);
        }
        refuse_ended(&info)?;
        if host.clock.now() < at.deadline() {
            return Ok(Progress::Waiting);
        }
        Err(SuspendError::NotDone {
            domid,
            limit_s: AWAIT_LIMIT_S,
        }
        .into())
    }

    /// Has the guest run as before. If it has taken the request and has not suspended itself, its monitor resumes it when it does.
    pub fn take_back(&self, host: &mut Host) -> Result<(), EngineError> {
        if self.was_suspended {
            return Ok(());
        }
        if self.is_asked && !self.has_suspended {
            self.unwatch(host)?;
        }
        let Some(_) = self.domain(host)? else {
            return Ok(());
        };
        let withdrawal = match self.is_withdrawn {
            true => Withdrawal::Done,
            false => withdraw(host, self.domid)?,
        };
        // After the withdrawal: until then the guest may have suspended itself.
        match self.domain(host)? {
            Some(info) if is_suspended(&info) => let_run(host, &info),
            Some(info) if info.flags.shutdown => Ok(()),
            Some(_) if withdrawal == Withdrawal::TooLate && !self.has_suspended => {
                late::expect(host, self.vm.uuid, self.domid);
                report_to_xenstored(host, self.domid)
            }
            Some(_) => report_to_xenstored(host, self.domid),
            None => Ok(()),
        }
    }

    /// Has the suspended guest go on. One that was suspended before stays so.
    pub fn end(&self, host: &mut Host) -> Result<(), EngineError> {
        if self.was_suspended {
            return Ok(());
        }
        go_on(host, &self.vm, self.domid)
    }

    /// The same, but its vCPUs are paused.
    pub fn end_paused(&self, host: &mut Host) -> Result<(), EngineError> {
        let info = self.domain(host)?;
        // A process may have died after the pause.
        if info.is_some_and(|info| is_suspended(&info) && !info.flags.paused) && !self.was_suspended
        {
            host.hv.pause_domain(self.domid)?;
        }
        self.end(host)
    }

    /// The domain, if it is still the VM's and not about to go.
    fn domain(&self, host: &Host) -> Result<Option<DomainInfo>, EngineError> {
        domain_of(host, self.vm.uuid, self.domid)
    }

    /// Whether the guest has taken the request, or cannot take it any more.
    fn is_taken(&self, host: &mut Host) -> Result<bool, EngineError> {
        let node = host.store.read_opt(&shutdown_path(self.domid)?)?;
        if node.as_deref() != Some(WORD) {
            return Ok(true);
        }
        let info = self.domain(host)?;
        Ok(info.is_none_or(|info| info.flags.shutdown))
    }

    fn watch(&self, host: &mut Host) -> Result<(), EngineError> {
        host.store.watch(&shutdown_path(self.domid)?, STEP_TOKEN)?;
        Ok(host.store.watch(&Path::release_domain(), STEP_TOKEN)?)
    }

    fn unwatch(&self, host: &mut Host) -> Result<(), EngineError> {
        for path in [shutdown_path(self.domid)?, Path::release_domain()] {
            match host.store.unwatch(&path, STEP_TOKEN) {
                // A failure before it was set.
                Err(xenstore::Error::NotFound { .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn domain_of(host: &Host, uuid: Uuid, domid: DomId) -> Result<Option<DomainInfo>, EngineError> {
    let info = host.hv.domain_info(domid)?;
    Ok(info.filter(|info| &info.handle == uuid.as_bytes() && !info.flags.dying))
}

/// Refuses a domain that has shut down for another reason than `suspend`.
fn refuse_ended(info: &DomainInfo) -> Result<(), EngineError> {
    match info.shutdown_reason.filter(|_| info.flags.shutdown) {
        Some(reason) if reason != ShutdownReason::Suspend => Err(SuspendError::Ended {
            domid: info.domid,
            reason,
        }
        .into()),
        _ => Ok(()),
    }
}

/// Result of a withdrawal of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withdrawal {
    /// The guest had not taken it, and will not see it.
    Done,
    /// It is not there: the guest has taken it.
    TooLate,
}

/// Withdraws the request if the guest has not taken it. A transaction decides which of both comes first.
fn withdraw(host: &mut Host, domid: DomId) -> Result<Withdrawal, EngineError> {
    let path = shutdown_path(domid)?;
    host.store.try_transaction(|transaction| {
        if transaction.read_opt(&path)?.as_deref() != Some(WORD) {
            return Ok(Withdrawal::TooLate);
        }
        transaction.write(&path, b"")?;
        Ok(Withdrawal::Done)
    })
}

// ---- resuming -------------------------------------------------------------------------------------

/// Has a suspended guest go on in its domain. It finds its devices as they were, and needs not connect them anew.
pub(crate) fn let_run(host: &mut Host, info: &DomainInfo) -> Result<(), EngineError> {
    let_vcpus_run(host, info)?;
    report_to_xenstored(host, info.domid)
}

fn let_vcpus_run(host: &Host, info: &DomainInfo) -> Result<(), EngineError> {
    return_from_suspend(host, info)?;
    Ok(host.hv.resume_domain(info.domid)?)
}

/// Has a suspended guest go on; one that runs, runs on.
fn go_on(host: &mut Host, vm: &OfVm, domid: DomId) -> Result<(), EngineError> {
    match domain_of(host, vm.uuid, domid)? {
        Some(info) if is_suspended(&info) => let_run(host, &info),
        Some(info) if !info.flags.shutdown => report_to_xenstored(host, domid),
        _ => Ok(()),
    }
}

/// Reports to xenstored that the domain goes on. xenstored takes a domain that it saw shut down for one that still is, and would not report its
/// next end. An earlier try may have ended between Xen's part of a resume and this one.
fn report_to_xenstored(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    Ok(host.store.resume(domid.0)?)
}

/// Makes the suspend hypercall return the word for the same domain. A PVH guest without an interrupt for event channels (HVM
/// parameter 0) has no drivers that would read it.
fn return_from_suspend(host: &Host, info: &DomainInfo) -> Result<(), EngineError> {
    let (hv, domid, boot) = (&*host.hv, info.domid, VcpuId(0));
    let place = match info.kind() {
        GuestKind::Pv if hv.address_size_bits(domid)? == 32 => EAX_OF_32_BITS..EAX_OF_32_BITS + 4,
        GuestKind::Pv => RAX..RAX + 8,
        _ if hv.hvm_param(domid, HvmParam::CallbackIrq)? == 0 => return Ok(()),
        _ => RAX..RAX + 8,
    };
    let Some(mut registers) = hv.vcpu_context(domid, boot)? else {
        return Ok(());
    };
    if let Some([low, rest @ ..]) = registers.get_mut(place) {
        *low = CANCELLED;
        rest.fill(0);
    }
    Ok(hv.set_vcpu_context(domid, boot, &registers)?)
}

// ---- the steps ------------------------------------------------------------------------------------

/// The work of a step of a suspend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Asks the guest to suspend itself.
    Ask,
    /// Waits until it has done so.
    Await,
}

/// The steps of a suspend, in order.
pub(crate) fn plan() -> Plan<Action> {
    use OnDeath::RollBack;
    Plan::new()
        .step(step("ask it to suspend", Action::Ask, RollBack, ASK_LIMIT_S).with_undo())
        .step(step(
            "wait until it has suspended",
            Action::Await,
            RollBack,
            AWAIT_LIMIT_S,
        ))
}

/// The context of a suspend.
pub(crate) struct Suspend(Suspension);

impl Suspend {
    /// The context of a suspend that another process began.
    pub fn taken_over(uuid: Uuid, domid: DomId, operation: &Operation) -> Suspend {
        Suspend(Suspension::taken_over(uuid, domid, operation))
    }
}

impl Steps for Suspend {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        match action {
            Action::Ask => self.0.ask(host, at),
            Action::Await => self.0.wait(host, at),
        }
    }

    fn undo(
        &mut self,
        host: &mut Host,
        action: &Action,
        _: &mut At<'_>,
    ) -> Result<(), EngineError> {
        match action {
            Action::Ask => self.0.take_back(host),
            Action::Await => Ok(()),
        }
    }
}

/// The work of a step of a resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResumeAction {
    /// Has the guest go on, in Xen.
    LetRun,
    /// Reports to xenstored that it does.
    ReportToXenstored,
}

/// The steps of a resume. Once the guest goes on, none is undone.
pub(crate) fn plan_of_resume() -> Plan<ResumeAction> {
    use OnDeath::RollForward;
    let of = |name, action| step(name, action, RollForward, RESUME_LIMIT_S);
    Plan::new()
        .step(of("let it go on", ResumeAction::LetRun))
        .step(of(
            "report it to xenstored",
            ResumeAction::ReportToXenstored,
        ))
}

/// The context of a resume.
pub(crate) struct Resume {
    vm: OfVm,
    domid: DomId,
}

impl Resume {
    /// The context of a resume that another process began.
    pub fn taken_over(uuid: Uuid, domid: DomId) -> Resume {
        Resume {
            vm: OfVm::taken_over(uuid),
            domid,
        }
    }
}

impl Steps for Resume {
    type Action = ResumeAction;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &ResumeAction,
        _: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        let info = domain_of(host, self.vm.uuid, self.domid)?;
        match (action, info) {
            (ResumeAction::LetRun, Some(info)) if is_suspended(&info) => let_vcpus_run(host, &info),
            (ResumeAction::ReportToXenstored, Some(info)) if !info.flags.shutdown => {
                report_to_xenstored(host, self.domid)
            }
            _ => Ok(()),
        }?;
        Ok(Progress::Done)
    }
}
