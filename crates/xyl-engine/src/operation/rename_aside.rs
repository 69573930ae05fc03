//! Keeping an ended domain aside, so that its VM can be created anew under the same name and UUID.

use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::DomId;
use xenstore::{Access, Path, Perms, Tree};
use xyl_saga::{At, OnDeath, Plan, Progress};

use crate::device;
use crate::operation::destroy;
use crate::operation::xenstore_nodes;
use crate::operation::{OfVm, Steps, step};
use crate::vm::{domains, userdata};
use crate::{EngineError, Host};

/// Another identity for a domain.
pub(crate) struct Aside {
    /// UUID that the domain gets.
    pub uuid: Uuid,
    /// Name that the domain gets.
    pub name: String,
}

/// The identity that a domain gets when it is set aside, as `on_...="rename-restart"` asks: a name
/// with a date, and a new UUID. A second domain of the VM within a minute has the second in its name too.
pub(crate) fn aside(host: &mut Host, name: &str) -> Result<Aside, EngineError> {
    let uuid = Uuid::from_bytes(host.process.new_uuid());
    let now = host.clock.calendar();
    let name_with = |form| format!("{name}-{}", timestamp(now, form));
    let as_xl = name_with("%Y%m%dT%H%MZ");
    let name = match domains::refuse_taken_name(host, &as_xl, DomId::ZERO, &[0; 16]) {
        Ok(()) => as_xl,
        Err(EngineError::NameTaken { .. }) => name_with("%Y%m%dT%H%M%SZ"),
        Err(error) => return Err(error),
    };
    Ok(Aside { uuid, name })
}

/// The work of a step that sets a domain aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Gives the domain another handle.
    ChangeHandle,
    /// Detaches all devices.
    DetachDevices,
    /// Moves its xenstore nodes to its new name and UUID.
    RenameNodes,
    /// Removes libxl's files about it.
    RemoveUserdata,
}

/// The steps that set a VM's domain aside, in order.
pub(crate) fn plan() -> Plan<Action> {
    let step = |name, action, limit_s| step(name, action, OnDeath::RollForward, limit_s);
    Plan::new()
        .step(step("give it another UUID", Action::ChangeHandle, 10))
        // The next domain needs what they stand for, such as the disks.
        .step(step(
            destroy::DETACH,
            Action::DetachDevices,
            destroy::DETACH_LIMIT_S,
        ))
        .step(step("rename its xenstore nodes", Action::RenameNodes, 30))
        .step(step("remove its old userdata", Action::RemoveUserdata, 10))
}

/// The context of a rename: the domain that is set aside.
pub(crate) struct Context {
    vm: OfVm,
    old: DomId,
    aside: Aside,
}

impl Context {
    /// A domain that is set aside, and the identity that it gets.
    pub fn new(vm: OfVm, old: DomId, aside: Aside) -> Context {
        Context { vm, old, aside }
    }

    /// Whether the domain is still there, under the one identity or the other.
    fn is_there(&self, host: &Host) -> Result<bool, EngineError> {
        if !self.vm.is_taken_over {
            return Ok(true);
        }
        let info = host.hv.domain_info(self.old)?;
        let ours = [self.vm.uuid.as_bytes(), self.aside.uuid.as_bytes()];
        Ok(info.is_some_and(|info| ours.contains(&&info.handle)))
    }
}

impl Steps for Context {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        match action {
            Action::ChangeHandle => change_handle(host, self),
            Action::DetachDevices => detach_devices(host, self, at.deadline()),
            Action::RenameNodes => rename_nodes(host, self),
            Action::RemoveUserdata => remove_userdata(host, self),
        }?;
        Ok(Progress::Done)
    }
}

fn change_handle(host: &Host, context: &Context) -> Result<(), EngineError> {
    if !context.is_there(host)? {
        return Ok(());
    }
    let handle = *context.aside.uuid.as_bytes();
    Ok(host.hv.set_domain_handle(context.old, handle)?)
}

fn detach_devices(
    host: &mut Host,
    context: &Context,
    deadline: Instant,
) -> Result<(), EngineError> {
    match context.is_there(host)? {
        true => device::detach(host, context.old, deadline),
        false => Ok(()),
    }
}

fn rename_nodes(host: &mut Host, context: &Context) -> Result<(), EngineError> {
    if !context.is_there(host)? {
        return Ok(());
    }
    let (old, aside) = (context.vm.text(), &context.aside);
    let new = aside.uuid.hyphenated().to_string();
    move_nodes(host, context.old, &old, &new, &aside.name)
}

/// libxl's record names the old UUID in its path; xl manages without it, and so do we.
fn remove_userdata(host: &Host, context: &Context) -> Result<(), EngineError> {
    userdata::remove_all(host, context.old, &context.vm.text())
}

fn move_nodes(
    host: &mut Host,
    domid: DomId,
    old: &str,
    new: &str,
    name: &str,
) -> Result<(), EngineError> {
    let path = |text: String| Path::new(&text).map_err(xenstore::Error::from);
    let domain = xenstore_nodes::domain_path(domid);
    let (old_vm, new_vm) = (
        path(xenstore_nodes::vm_path(old))?,
        path(xenstore_nodes::vm_path(new))?,
    );
    let (vm, own_name) = (
        path(format!("{domain}/vm"))?,
        path(format!("{domain}/name"))?,
    );
    let (vm_uuid, vm_name) = (new_vm.join("uuid"), new_vm.join("name"));
    let (vm_uuid, vm_name) = (
        vm_uuid.map_err(xenstore::Error::from)?,
        vm_name.map_err(xenstore::Error::from)?,
    );
    host.store.transaction(|transaction| {
        transaction.rm(&old_vm)?;
        transaction.mkdir(&new_vm)?;
        transaction.set_perms(&new_vm, &Perms::owned_by(0).with(domid.0, Access::Read))?;
        transaction.write(&vm_uuid, new.as_bytes())?;
        transaction.write(&vm_name, name.as_bytes())?;
        transaction.write(&vm, new_vm.as_str().as_bytes())?;
        transaction.write(&own_name, name.as_bytes())
    })?;
    Ok(())
}

/// UTC in a form: xl names preserved domains with `YYYYMMDDTHHMMZ`.
fn timestamp(now: SystemTime, form: &str) -> String {
    match Timestamp::try_from(now) {
        Ok(now) => now.strftime(form).to_string(),
        // A clock beyond the calendar still gives each domain a name of its own.
        Err(_) => Uuid::new_v4().simple().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn stamps_are_calendar_dates() {
        let at = |seconds| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            timestamp(time, "%Y%m%dT%H%MZ")
        };
        assert_eq!(at(0), "19700101T0000Z");
        assert_eq!(at(951_782_400), "20000229T0000Z");
        assert_eq!(at(1_795_369_500), "20261122T1745Z");
    }
}
