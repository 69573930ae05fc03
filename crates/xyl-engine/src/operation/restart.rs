//! Giving a VM its next domain when the one it has has ended.

use std::path::PathBuf;
use std::time::Duration;

use os_port::Lock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::{At, Facts, Plan, Progress};

use crate::config::plan;
use crate::config::runtime_changes;
use crate::device;
use crate::operation::hotplug::records;
use crate::operation::rename_aside::Aside;
use crate::operation::{Begun, Kind, OfVm, Steps};
use crate::operation::{create, destroy, rename_aside, soft_reset};
use crate::vm::{domains, given_up, lock, store, without_domain};
use crate::{Cancel, EngineError, Host, VmGuard};

/// Time limit for another process to release the VM's name.
const NAME_LIMIT: Duration = Duration::from_secs(10);

/// Replaces an ended domain of a VM by a new one, from the VM's record and the changes that were made while the old
/// one ran. Returns the number of the new domain, or `None` if another process has ended or replaced the old domain
/// meanwhile. All checks that can be made while the old domain exists come first; if one fails, the old domain stays.
pub fn restart(
    host: &mut Host,
    uuid: Uuid,
    old: DomId,
    keeps_old: bool,
) -> Result<Option<DomId>, EngineError> {
    let mut owner = VmGuard::take(host, uuid)?;
    owner.report_recovered(host);
    owner.close_unfinished(host, |kind| {
        Kind::parse(kind).is_some_and(Kind::holds_up_nothing)
    })?;
    owner.refuse_unfinished()?;
    let info = host.hv.domain_info(old)?;
    let Some(info) = info.filter(|info| &info.handle == uuid.as_bytes() && !info.flags.dying)
    else {
        return Ok(None);
    };
    if !keeps_old {
        destroy::refuse_foreign_devices(host, &info)?;
    }
    let kernel = create::check_admission(host, uuid)?;
    // A soft reset that was given up may have detached devices that the next domain is to have.
    let detached = soft_reset::left_detached(&owner.contents, old);
    records::follow_xl(host, OfVm::begun(uuid), old, &detached)?;
    device::check_rights(host, &plan::of_record(host, uuid)?.spec)?;
    let name = keep_changes(host, uuid, &info)?;
    let name_lock = take_name(host, &name, uuid, old)?;
    let mut args = Facts::new();
    args.insert("old".to_owned(), old.0.into());
    let aside = match keeps_old {
        true => Some(rename_aside::aside(host, &name)?),
        false => None,
    };
    let mut aside_lock = None;
    if let Some(aside) = &aside {
        aside_lock = Some(take_name(host, &aside.name, uuid, old)?);
        let uuid = aside.uuid.hyphenated().to_string();
        args.insert("aside_uuid".to_owned(), uuid.into());
        args.insert("aside_name".to_owned(), aside.name.clone().into());
    }
    let (kind, plan) = match keeps_old {
        true => (Kind::RenameRestart, plan_with_aside()),
        false => (Kind::Restart, plan()),
    };
    let create = create::Context::of_next_domain(uuid, name_lock, kernel);
    let mut context = Context::new(OfVm::begun(uuid), old, aside, create);
    let begun = Begun {
        kind,
        name: &name,
        args,
        plan,
    };
    owner.carry_out(host, begun, &mut context, &Cancel::new(), &mut |_| ())?;
    drop(aside_lock);
    context.create.domid().map(Some)
}

/// The work of a step of a restart: one of a destroy or a rename, then one of a create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// A step that ends the old domain.
    Destroy(destroy::Action),
    /// A step that sets the old domain aside.
    Aside(rename_aside::Action),
    /// A step that makes the next domain.
    Create(create::Action),
}

/// The steps that end a VM's domain and make its next one.
pub(crate) fn plan() -> Plan<Action> {
    destroy::plan().map(Action::Destroy).then(plan_of_create())
}

/// The steps that set a VM's domain aside and make its next one.
pub(crate) fn plan_with_aside() -> Plan<Action> {
    let aside = rename_aside::plan().map(Action::Aside);
    aside.then(plan_of_create())
}

fn plan_of_create() -> Plan<Action> {
    create::plan_of_restart().map(Action::Create)
}

/// The context of a restart: the old domain, and the create of the next one.
pub(crate) struct Context<'a> {
    old: Old,
    /// The create of the next domain.
    pub create: create::Context<'a>,
}

/// The old domain of a restart.
enum Old {
    Destroyed(destroy::Context),
    Aside(rename_aside::Context),
}

impl<'a> Context<'a> {
    /// A restart of a VM. With another identity the old domain is set aside.
    pub fn new(
        vm: OfVm,
        old: DomId,
        aside: Option<Aside>,
        create: create::Context<'a>,
    ) -> Context<'a> {
        let old = match aside {
            Some(aside) => Old::Aside(rename_aside::Context::new(vm, old, aside)),
            None => Old::Destroyed(destroy::Context::new(vm, old, true)),
        };
        Context { old, create }
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
        match (action, &mut self.old) {
            (Action::Destroy(action), Old::Destroyed(old)) => old.apply(host, action, at),
            (Action::Aside(action), Old::Aside(old)) => old.apply(host, action, at),
            (Action::Create(action), _) => self.create.apply(host, action, at),
            // The journal has the other identity if and only if it lists these steps.
            (Action::Destroy(_) | Action::Aside(_), _) => Err(self.create.has_no_domain()),
        }
    }

    fn undo(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<(), EngineError> {
        match action {
            Action::Create(action) => self.create.undo(host, action, at),
            Action::Destroy(_) | Action::Aside(_) => Ok(()),
        }
    }

    fn made(&self) -> Facts {
        self.create.made()
    }
}

/// Gives a VM that has lost its domain to a restart that failed its next one, made from its record. What
/// fails is undone, and leaves the record where it is.
pub fn again(host: &mut Host, uuid: Uuid) -> Result<DomId, EngineError> {
    let planned = plan::of_record(host, uuid)?;
    create::again(host, &planned)
}

/// The end of a VM that has no domain: no further try follows, and its monitor ends. Its configuration is kept; the path.
/// `None` where the VM has a domain by now, which stays. A VM whose restart was given up is forgotten, too.
///
/// # Errors
/// [`EngineError::NoSuchDomain`] where the VM is to get no domain; [`EngineError::Unfinished`] where something that an
/// operation has made could not be removed.
pub fn call_off(host: &mut Host, uuid: Uuid) -> Result<Option<PathBuf>, EngineError> {
    let owner = VmGuard::take(host, uuid)?;
    owner.report_recovered(host);
    if domains::living(&*host.hv, uuid.into_bytes())?.is_some() {
        return Ok(None);
    }
    owner.refuse_unfinished()?;
    // The end of the VM removes the name of its monitor's doorbell.
    let call = host.ring(uuid).ok().flatten();
    let kept = match without_domain::call_off(host, uuid)? {
        Some(kept) => kept,
        None => forget_given_up(host, uuid)?,
    };
    // Its monitor looks by itself a little later.
    let _ = call.map(|call| call.ring());
    Ok(Some(kept))
}

/// Forgets a VM whose restart was given up; the path of its configuration.
fn forget_given_up(host: &Host, uuid: Uuid) -> Result<PathBuf, EngineError> {
    let text = uuid.hyphenated().to_string();
    if given_up::read(&*host.files, &host.dirs, uuid).is_none() {
        return Err(EngineError::NoSuchDomain(format!("uuid={text}")));
    }
    lock::forget(host, uuid)?;
    Ok(store::kept_path(&host.dirs, &text))
}

/// Writes what was changed while the domain ran into the VM's record; the VM's name.
fn keep_changes(host: &mut Host, uuid: Uuid, info: &DomainInfo) -> Result<String, EngineError> {
    let mut planned = plan::of_record(host, uuid)?;
    let before = planned.spec.clone();
    runtime_changes::lay_over(host, info, &mut planned.spec)?;
    if planned.spec != before {
        let uuid = uuid.hyphenated().to_string();
        store::write(&*host.files, &host.dirs, &uuid, &planned.config_text())?;
    }
    Ok(planned.spec.name)
}

/// Keeps others off a name that no other domain has.
fn take_name(
    host: &mut Host,
    name: &str,
    uuid: Uuid,
    own: DomId,
) -> Result<Box<dyn Lock>, EngineError> {
    let lock = domains::reserve_name_within(host, name, NAME_LIMIT)?;
    domains::refuse_taken_name(host, name, own, uuid.as_bytes())?;
    Ok(lock)
}
