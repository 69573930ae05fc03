//! The operations on a VM and its domain, as sagas: the registry of their kinds, and `Steps`, which the context
//! of each of them implements in its own file.

pub mod create;
pub mod destroy;
pub mod dump_core;
pub mod hotplug;
pub(crate) mod new_file;
pub mod preview;
pub(crate) mod release_1;
pub mod rename_aside;
pub mod restart;
pub mod run;
pub mod save;
pub mod soft_reset;
pub mod suspend;
pub mod xenstore_nodes;

use std::time::Instant;

use uuid::Uuid;
use xen_port::DomId;
use xyl_saga::{
    At, Facts, Happened, OnDeath, Operation, Plan, Planned, Progress, Subject, UnknownStep,
};

use crate::device::Patience;
pub use crate::vm::kind::Kind;
pub(crate) use crate::vm::kind::{KEEPS_RECORD, last_of_domain};
use crate::{EngineError, Host};

impl Kind {
    /// Checks that this build has all steps of an operation of this kind.
    ///
    /// # Errors
    /// The first step that it does not have.
    pub(crate) fn check_steps(self, operation: &Operation) -> Result<(), UnknownStep> {
        match self {
            Kind::Create | Kind::Restore => operation.plan::<create::Action>().map(drop),
            Kind::Destroy => operation.plan::<destroy::Action>().map(drop),
            Kind::Restart | Kind::RenameRestart => operation.plan::<restart::Action>().map(drop),
            Kind::DumpCore => operation.plan::<dump_core::Action>().map(drop),
            Kind::SoftReset => operation.plan::<soft_reset::Action>().map(drop),
            Kind::Attach => operation.plan::<hotplug::attach::Action>().map(drop),
            Kind::Detach => operation.plan::<hotplug::detach::Action>().map(drop),
            Kind::Suspend => operation.plan::<suspend::Action>().map(drop),
            Kind::Resume => operation.plan::<suspend::ResumeAction>().map(drop),
            Kind::Save | Kind::Checkpoint => operation.plan::<save::Action>().map(drop),
        }
    }

    /// Whether the process that resumes the operation applies its steps again after their undo.
    pub(crate) fn is_done_again(self) -> bool {
        matches!(self, Kind::Restart | Kind::RenameRestart)
    }
}

/// The steps of an operation, in Markdown, as the documentation shows them.
pub fn steps_table(kind: Kind) -> String {
    match kind {
        Kind::Create => table_of(kind, &create::plan()),
        Kind::Destroy => table_of(kind, &destroy::plan()),
        Kind::Restart => table_of(kind, &restart::plan()),
        Kind::RenameRestart => table_of(kind, &restart::plan_with_aside()),
        Kind::DumpCore => table_of(kind, &dump_core::plan()),
        Kind::SoftReset => table_of(kind, &soft_reset::plan()),
        Kind::Attach => table_of(kind, &hotplug::attach::plan()),
        Kind::Detach => table_of(kind, &hotplug::detach::plan(hotplug::detach::Manner::Asked)),
        Kind::Suspend => table_of(kind, &suspend::plan()),
        Kind::Resume => table_of(kind, &suspend::plan_of_resume()),
        Kind::Save => table_of(kind, &save::plan()),
        Kind::Checkpoint => table_of(kind, &save::plan_of_checkpoint()),
        Kind::Restore => table_of(kind, &create::plan_of_restore()),
    }
}

fn table_of<A>(kind: Kind, plan: &Plan<A>) -> String {
    let mut text = String::from(
        "| step | limit | when it fails | when its process dies |\n|---|---|---|---|\n",
    );
    for (index, step) in plan.steps().iter().enumerate() {
        let failure = match step.on_death {
            OnDeath::RollForward if kind == Kind::SoftReset => "tried again, then as after a crash",
            OnDeath::RollForward if index == 0 => "the operation fails; nothing was done",
            OnDeath::RollForward => "the operation stays open; the next process applies it again",
            OnDeath::Look => "looked at",
            OnDeath::RollBack | OnDeath::RollForwardOnceStarted if step.has_undo => {
                "undone, with those before it"
            }
            OnDeath::RollBack | OnDeath::RollForwardOnceStarted => "those before it are undone",
        };
        let death = match step.on_death {
            OnDeath::RollBack if kind.is_done_again() => "undone, then done again",
            OnDeath::RollBack => "undone",
            OnDeath::RollForwardOnceStarted | OnDeath::RollForward => "applied again",
            OnDeath::Look => "looked at",
        };
        let limit_s = step.deadline_ms / 1000;
        text.push_str(&format!(
            "| {} | {limit_s} s | {failure} | {death} |\n",
            step.name
        ));
    }
    text
}

/// A step of a VM's operation.
pub(crate) fn step<A>(name: &str, action: A, on_death: OnDeath, limit_s: u64) -> Planned<A> {
    Planned::new(name, action, on_death, limit_s * 1000)
}

/// Deadline and cancel of a step that attaches devices.
pub(crate) fn patience<'a>(at: &'a At<'_>) -> Patience<'a> {
    Patience {
        deadline: at.deadline(),
        is_cancelled: Box::new(|| at.is_cancelled()),
        step: at.step(),
    }
}

/// Token of the watches that a step sets before it answers that it waits.
pub(crate) const STEP_TOKEN: &str = "xyl-step";

/// Called when all is there but the start.
pub(crate) type Callback<'a> = &'a mut dyn FnMut(&mut Host, DomId) -> Result<(), EngineError>;

/// The context of an operation: it applies and undoes its steps, and keeps their results in memory.
pub(crate) trait Steps {
    /// The work of a step, as the journal holds it. A word that is written there keeps its meaning.
    type Action: xyl_saga::Action;

    /// Applies a step.
    fn apply(
        &mut self,
        host: &mut Host,
        action: &Self::Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError>;

    /// Undoes a step. It is called for steps that have an undo, so an operation without any does not implement it.
    fn undo(
        &mut self,
        _host: &mut Host,
        _action: &Self::Action,
        _at: &mut At<'_>,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Ends an operation that cannot be finished because a step that is never undone has failed. Whether it has ended it: an
    /// operation without an answer of its own stays open.
    fn give_up(
        &mut self,
        _host: &mut Host,
        _cause: &EngineError,
        _at: &mut At<'_>,
    ) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Looks whether a step has happened. It is called for steps that are [`OnDeath::Look`], so an operation without any
    /// does not implement it.
    fn look(
        &mut self,
        _host: &mut Host,
        _action: &Self::Action,
        _at: &mut At<'_>,
    ) -> Result<Happened, EngineError> {
        Ok(Happened::Unknown)
    }

    /// The facts that the next process needs.
    fn made(&self) -> Facts {
        Facts::new()
    }
}

/// An operation that begins.
pub(crate) struct Begun<'b, A> {
    /// Its kind, for the journal.
    pub kind: Kind,
    /// Name of the VM.
    pub name: &'b str,
    /// Its arguments, for the next process.
    pub args: Facts,
    /// The list of its steps.
    pub plan: Plan<A>,
}

/// An operation under way on a host.
pub(crate) struct Running<'r, C> {
    /// The host that the steps change.
    pub host: &'r mut Host,
    /// The context of the operation.
    pub context: &'r mut C,
}

impl<C: Steps> Subject for Running<'_, C> {
    type Action = C::Action;
    type Error = EngineError;

    fn apply(&mut self, action: &C::Action, at: &mut At<'_>) -> Result<Progress, EngineError> {
        self.context.apply(self.host, action, at)
    }

    fn undo(&mut self, action: &C::Action, at: &mut At<'_>) -> Result<(), EngineError> {
        self.context.undo(self.host, action, at)
    }

    fn give_up(
        &mut self,
        _action: &C::Action,
        cause: &EngineError,
        at: &mut At<'_>,
    ) -> Result<bool, EngineError> {
        self.context.give_up(self.host, cause, at)
    }

    fn look(&mut self, action: &C::Action, at: &mut At<'_>) -> Result<Happened, EngineError> {
        self.context.look(self.host, action, at)
    }

    fn wait(&mut self, deadline: Instant) -> Result<(), EngineError> {
        let limit = deadline.saturating_duration_since(self.host.clock.now());
        self.host.wait_for(&[STEP_TOKEN], limit).map(drop)
    }

    fn made(&self) -> Facts {
        self.context.made()
    }
}

/// The VM of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfVm {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Whether another process began the operation. Then a domain's number may be another VM's by now.
    pub is_taken_over: bool,
}

impl OfVm {
    /// A VM on which this process begins an operation.
    pub fn begun(uuid: Uuid) -> OfVm {
        OfVm {
            uuid,
            is_taken_over: false,
        }
    }

    /// A VM on which another process began the operation.
    pub fn taken_over(uuid: Uuid) -> OfVm {
        OfVm {
            uuid,
            is_taken_over: true,
        }
    }

    /// The UUID as text.
    pub fn text(self) -> String {
        self.uuid.hyphenated().to_string()
    }

    /// The error of a VM without a domain.
    pub fn has_no_domain(self) -> EngineError {
        EngineError::NoSuchDomain(format!("uuid={}", self.text()))
    }

    /// Whether this number is still the VM's.
    pub fn still_has(self, host: &Host, domid: DomId) -> Result<bool, EngineError> {
        if !self.is_taken_over {
            return Ok(true);
        }
        let info = host.hv.domain_info(domid)?;
        Ok(info.is_some_and(|info| &info.handle == self.uuid.as_bytes()))
    }
}
