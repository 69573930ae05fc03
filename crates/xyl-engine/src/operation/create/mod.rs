//! Creating a domain.
//!
//! What can be found wrong without a domain is found first: names, kernel, memory. Then the steps of
//! [`Kind::Create`] make it, and the failure of any leaves nothing behind: no domain, no claim, no xenstore
//! node, no file.
//!
//! A restore ([`Kind::Restore`]) is a create whose memory comes from a saved guest ([`SavedGuest`]).

mod prepared;
pub(crate) mod restore;
mod steps;

use std::rc::Rc;

use os_port::Lock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, EvtchnPort, Gfn, GuestMemory};
use xenstore::Path;
use xyl_audit::Operation;
use xyl_saga::{At, Facts, OnDeath, Plan, Planned as Step, Progress};

use crate::Notice;
use crate::config::plan::Planned;
use crate::operation::{Begun, Callback, KEEPS_RECORD, Kind, OfVm, Steps, step};
use crate::vm::spec::VmSpec;
use crate::vm::{domains, given_up};
use crate::{Cancel, EngineError, Host, VmGuard};

pub use restore::SavedGuest;

pub(crate) use prepared::{
    Daemons, OpenedKernel, check_admission, check_image, find_pool, warn_of_shim,
};
use prepared::{Order, Prepared, check_identity};

/// Time limit for the attachment of all devices, in seconds.
const ATTACH_LIMIT_S: u64 = 60;
/// Time limit for reading the memory of a saved guest, in seconds, as for writing it.
const RESTORE_LIMIT_S: u64 = 12 * 3600;

/// A request to create a domain.
pub struct CreateRequest<'a> {
    /// The domain's configuration.
    pub spec: &'a VmSpec,
    /// The configuration as text, which the VM's record keeps for restarts.
    pub config_text: &'a str,
    /// Whether the domain stays paused.
    pub paused: bool,
    /// Whether the process ends after the create. Then it does not unmap the domain's memory, because the end of the
    /// process costs Xen less.
    pub process_ends: bool,
    /// Starts the VM's monitor, once the VM's record is written. A later step may still fail, so the monitor must end
    /// by itself when the domain goes.
    pub watch: &'a mut dyn FnMut(&mut Host, DomId) -> Result<(), EngineError>,
    /// Called before the domain starts, when the domain has all else. It attaches a console, for example.
    pub before_start: &'a mut dyn FnMut(&mut Host, DomId) -> Result<(), EngineError>,
    /// Receives each step and each warning.
    pub notice: &'a mut dyn FnMut(Notice<'_>),
}

/// Creates a domain, or leaves no trace of it.
pub fn create(
    host: &mut Host,
    request: &mut CreateRequest<'_>,
    cancel: &Cancel,
) -> Result<DomId, EngineError> {
    create_with(host, request, cancel, Source::New)
}

/// Creates a domain with the memory and the CPU state of a saved guest, or leaves no trace of it. The request has the guest's
/// configuration.
pub fn restore(
    host: &mut Host,
    request: &mut CreateRequest<'_>,
    guest: &SavedGuest,
    cancel: &Cancel,
) -> Result<DomId, EngineError> {
    create_with(host, request, cancel, Source::Saved(guest))
}

/// Creates a VM's next domain from its record, which stays even if that fails.
pub(crate) fn again(host: &mut Host, planned: &Planned) -> Result<DomId, EngineError> {
    let mut notice = restart_notice(host);
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: false,
        process_ends: false,
        watch: &mut |_, _| Ok(()),
        before_start: &mut |_, _| Ok(()),
        notice: &mut notice,
    };
    create_with(host, &mut request, &Cancel::new(), Source::Again)
}

/// The origin of a domain's memory.
#[derive(Clone, Copy)]
enum Source<'s> {
    /// The configuration of a new VM.
    New,
    /// The record of a VM that has lost its domain.
    Again,
    /// A saved guest.
    Saved(&'s SavedGuest),
}

/// A restart has no caller to warn: its warnings go where the host's notices go.
fn restart_notice(host: &Host) -> impl FnMut(Notice<'_>) + use<> {
    let tell = Rc::clone(&host.notice);
    move |notice| match notice {
        Notice::Warning(text) => tell(&format!("warning: {text}")),
        Notice::Step(_) => {}
    }
}

fn create_with(
    host: &mut Host,
    request: &mut CreateRequest<'_>,
    cancel: &Cancel,
    source: Source<'_>,
) -> Result<DomId, EngineError> {
    let spec = request.spec;
    let keeps_record = matches!(source, Source::Again);
    let physical = host.hv.phys_info()?;
    let owner = VmGuard::take(host, spec.uuid)?;
    owner.report_recovered(host);
    let name_lock = domains::reserve_name(host, &spec.name)?;
    check_identity(host, spec)?;
    let operation = match source {
        Source::New => Operation::Create,
        Source::Again => Operation::Restart,
        Source::Saved(_) => Operation::Restore,
    };
    let order = Order {
        operation,
        physical,
        spec: spec.clone(),
        config_text: request.config_text.to_owned(),
        opened: None,
        cancel,
    };
    let prepared = match source {
        Source::Saved(guest) => Prepared::of_saved(host, order, guest, request.notice)?,
        Source::New | Source::Again => Prepared::new(host, order, request.notice)?,
    };
    let (kind, plan, image) = match source {
        Source::Saved(guest) => (Kind::Restore, plan_of_restore(), Some(guest.image()?)),
        Source::New | Source::Again => (Kind::Create, plan(), None),
    };
    let mut args = Facts::new();
    args.insert("paused".to_owned(), request.paused.into());
    if keeps_record {
        args.insert(KEEPS_RECORD.to_owned(), true.into());
    }
    let mut context = Context {
        prepared: Some(prepared),
        paused: request.paused,
        keeps_mapping: request.process_ends,
        watch: Some(&mut *request.watch),
        before_start: Some(&mut *request.before_start),
        name_lock: Some(name_lock),
        image,
        ..Context::new(OfVm::begun(spec.uuid), keeps_record)
    };
    let notice = &mut *request.notice;
    let begun = Begun {
        kind,
        name: &spec.name,
        args,
        plan,
    };
    owner.carry_out(host, begun, &mut context, cancel, &mut |step| {
        notice(Notice::Step(step));
    })?;
    std::mem::forget(context.mapping.take());
    let domid = context.domid()?;
    drop(context);
    if let Err(error) = given_up::forget_named(host, &spec.name) {
        (host.notice)(&format!("warning: after a create: {error}"));
    }
    Ok(domid)
}

/// The step that makes the domain.
pub(crate) const MAKE: &str = "make the domain";
/// The step of a restart that reads the VM's record, and finds its kernel.
const READ: &str = "read its configuration";
/// Its time limit, in seconds. A boot loader has 120 of them.
const READ_LIMIT_S: u64 = 180;
/// The step after which a domain has all that it needs.
pub(crate) const INTRODUCE: &str = "introduce it to xenstored";
/// The step in which a domain may begin to run.
pub(crate) const START: &str = "start it";

/// The work of a step of a create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Plans the VM's next domain from its record.
    ReadConfiguration,
    /// Makes an empty domain.
    MakeDomain,
    /// Sets vCPUs, memory and timers.
    SetLimits,
    /// Opens the event channels to xenstore and the console.
    OpenChannels,
    /// Sets the CPU policy.
    DescribeCpu,
    /// Populates memory, and puts kernel and ramdisk into it.
    BuildMemory,
    /// Populates memory, and fills it from a saved guest, with the state of the vCPUs.
    RestoreMemory,
    /// Sets weight and cap.
    ShareCpu,
    /// Writes the xenstore nodes.
    WriteNodes,
    /// Attaches all devices of the configuration.
    AttachDevices,
    /// Writes the files about the VM and its domain.
    WriteRecords,
    /// Has the VM process started.
    HaveWatched,
    /// Introduces the domain to xenstored.
    Introduce,
    /// Lets the domain run.
    Start,
}

/// The steps of a create, in order.
pub(crate) fn plan() -> Plan<Action> {
    let build = Action::BuildMemory;
    plan_with(step("build its memory", build, OnDeath::RollBack, 600))
}

/// The steps of a restore: those of a create, but for the memory.
pub(crate) fn plan_of_restore() -> Plan<Action> {
    plan_with(step(
        "restore its memory",
        Action::RestoreMemory,
        OnDeath::RollBack,
        RESTORE_LIMIT_S,
    ))
}

/// The steps of a create with this one for the memory.
fn plan_with(memory: Step<Action>) -> Plan<Action> {
    use OnDeath::{RollBack, RollForwardOnceStarted};
    Plan::new()
        .step(step(MAKE, Action::MakeDomain, RollBack, 60).with_undo())
        .step(step("set its limits", Action::SetLimits, RollBack, 10))
        .step(step(
            "open its channels",
            Action::OpenChannels,
            RollBack,
            10,
        ))
        .step(step("describe its CPU", Action::DescribeCpu, RollBack, 10))
        .step(memory)
        .step(step("share out the CPU", Action::ShareCpu, RollBack, 10))
        .step(step("write its xenstore nodes", Action::WriteNodes, RollBack, 30).with_undo())
        .step(
            step(
                "attach its devices",
                Action::AttachDevices,
                RollBack,
                ATTACH_LIMIT_S,
            )
            .with_undo(),
        )
        .step(
            step(
                "record its configuration",
                Action::WriteRecords,
                RollBack,
                10,
            )
            .with_undo(),
        )
        .step(step("have it watched", Action::HaveWatched, RollBack, 30))
        // Late: from here on xenconsoled is at work, and this process competes with it for the CPU.
        .step(step(INTRODUCE, Action::Introduce, RollBack, 10))
        .step(step(START, Action::Start, RollForwardOnceStarted, 10))
}

/// The steps that give a VM its next domain.
pub(crate) fn plan_of_restart() -> Plan<Action> {
    let read = Action::ReadConfiguration;
    Plan::new()
        .step(step(READ, read, OnDeath::RollBack, READ_LIMIT_S))
        .then(plan())
}

/// The frames of a new domain's rings: machine frames for PV, guest frames for PVH and HVM.
#[derive(Clone, Copy)]
struct Rings {
    store: Gfn,
    console: Gfn,
}

/// The context of a create: what the VM's next domain is made from, and what has been made of it.
pub(crate) struct Context<'a> {
    vm: OfVm,
    /// The domain that is being made.
    domid: Option<DomId>,
    /// Whether it stays paused.
    paused: bool,
    /// Whether the VM keeps its record if the create fails.
    keeps_record: bool,
    /// The configuration, images and admission of the new domain. The first step of a restart reads them.
    prepared: Option<Prepared>,
    /// The kernel that a restart has opened already.
    kernel: Option<OpenedKernel>,
    /// Keeps other domains from the VM's name.
    name_lock: Option<Box<dyn Lock>>,
    watch: Option<Callback<'a>>,
    before_start: Option<Callback<'a>>,
    store_port: EvtchnPort,
    console_port: EvtchnPort,
    /// The saved guest, where the memory comes from one.
    image: Option<restore::Image>,
    rings: Option<Rings>,
    /// Whether the mapping of the new domain's memory is kept until the process ends.
    keeps_mapping: bool,
    mapping: Option<Box<dyn GuestMemory>>,
}

impl<'a> Context<'a> {
    fn new(vm: OfVm, keeps_record: bool) -> Context<'a> {
        Context {
            vm,
            domid: None,
            paused: false,
            keeps_record,
            prepared: None,
            kernel: None,
            name_lock: None,
            watch: None,
            before_start: None,
            store_port: EvtchnPort(0),
            console_port: EvtchnPort(0),
            image: None,
            rings: None,
            keeps_mapping: false,
            mapping: None,
        }
    }

    /// The context of a VM's next domain, whose configuration the first step reads. `kernel` is its kernel, if that is open.
    pub fn of_next_domain(
        uuid: Uuid,
        name_lock: Box<dyn Lock>,
        kernel: Option<OpenedKernel>,
    ) -> Context<'a> {
        Context {
            name_lock: Some(name_lock),
            kernel,
            ..Context::new(OfVm::begun(uuid), true)
        }
    }

    /// The context of a create that another process began, and the domain that is there of it.
    pub fn taken_over(
        uuid: Uuid,
        domid: Option<DomId>,
        paused: bool,
        keeps_record: bool,
    ) -> Context<'a> {
        Context {
            domid,
            paused,
            ..Context::new(OfVm::taken_over(uuid), keeps_record)
        }
    }

    /// The domain that is being made, if there is one.
    pub fn new_domain(&self) -> Option<DomId> {
        self.domid
    }

    /// The domain that is being made.
    pub fn domid(&self) -> Result<DomId, EngineError> {
        self.domid.ok_or_else(|| self.vm.has_no_domain())
    }

    /// The error of a create without its domain.
    pub fn has_no_domain(&self) -> EngineError {
        self.vm.has_no_domain()
    }

    fn prepared(&self) -> Result<&Prepared, EngineError> {
        let prepared = self.prepared.as_ref();
        prepared.ok_or_else(|| self.vm.has_no_domain())
    }

    fn rings(&self) -> Result<Rings, EngineError> {
        self.rings.ok_or_else(|| self.vm.has_no_domain())
    }
}

impl Steps for Context<'_> {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        match action {
            Action::ReadConfiguration => steps::prepare_again(host, self),
            Action::MakeDomain => steps::make_domain(host, self, at),
            Action::SetLimits => steps::set_limits(host, self),
            Action::OpenChannels => steps::open_channels(host, self),
            Action::DescribeCpu => steps::describe_cpu(host, self),
            Action::BuildMemory => steps::build_memory(host, self),
            Action::RestoreMemory => restore::restore_memory(host, self, at),
            Action::ShareCpu => steps::set_scheduling(host, self),
            Action::WriteNodes => steps::write_nodes(host, self),
            Action::AttachDevices => steps::attach_devices(host, self, at),
            Action::WriteRecords => steps::write_records(host, self),
            Action::HaveWatched => steps::have_it_watched(host, self),
            Action::Introduce => steps::introduce(host, self),
            Action::Start => steps::start(host, self),
        }?;
        Ok(Progress::Done)
    }

    /// The undo of [`Action::MakeDomain`] includes the steps that are not named here.
    fn undo(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<(), EngineError> {
        match action {
            Action::MakeDomain => steps::unmake_domain(host, self, at),
            Action::WriteNodes => steps::remove_nodes(host, self),
            Action::AttachDevices => steps::detach_devices(host, self, at.deadline()),
            Action::WriteRecords => steps::remove_records(host, self),
            _ => Ok(()),
        }
    }

    fn made(&self) -> Facts {
        let mut facts = Facts::new();
        if let Some(domid) = self.domid {
            facts.insert("domid".to_owned(), domid.0.into());
        }
        if self.console_port != EvtchnPort(0) {
            facts.insert("store_port".to_owned(), self.store_port.0.into());
            facts.insert("console_port".to_owned(), self.console_port.0.into());
        }
        let nics = self
            .prepared
            .iter()
            .flat_map(|prepared| &prepared.spec.nics);
        let scripts = nics.filter_map(|nic| Some(nic.script()?.path.as_str()));
        let scripts: Vec<&str> = scripts.collect();
        if !scripts.is_empty() {
            facts.insert("scripts".to_owned(), scripts.join(" ").into());
        }
        facts
    }
}

fn path(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}
