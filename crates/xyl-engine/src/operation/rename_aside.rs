//! Keeping an ended domain aside, so that its VM can be created anew under the same name and UUID.

use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use uuid::Uuid;
use xen_port::DomId;
use xenstore::{Access, Path, Perms, Tree};
use xyl_saga::{OnDeath, Step};

use crate::operation::xenstore_nodes;
use crate::operation::{Aside, Draft, step};
use crate::vm::{domains, userdata};
use crate::{EngineError, Host};

/// The identity that a domain gets when it is set aside, as `on_...="rename-restart"` asks: a name
/// with a date, and a new UUID. A second domain of the VM within a minute has the second in its name too.
pub(crate) fn aside(host: &mut Host, name: &str) -> Result<Aside, EngineError> {
    let uuid = Uuid::from_bytes(host.process.new_uuid());
    let now = host.clock.calendar();
    let name_with = |form| format!("{name}-{}", timestamp(now, form));
    let as_xl = name_with("%Y%m%dT%H%MZ");
    let name = match domains::refuse_taken_name(host, &as_xl, DomId::ZERO) {
        Ok(()) => as_xl,
        Err(EngineError::NameTaken { .. }) => name_with("%Y%m%dT%H%M%SZ"),
        Err(error) => return Err(error),
    };
    Ok(Aside { uuid, name })
}

/// The steps that set a VM's domain aside, in order.
pub(crate) fn steps<'a>() -> Vec<Step<Draft<'a>>> {
    use OnDeath::RollForward;
    vec![
        step("give it another UUID", RollForward, 10, change_handle, None),
        step(
            "rename its xenstore nodes",
            RollForward,
            30,
            rename_nodes,
            None,
        ),
        step(
            "remove its old userdata",
            RollForward,
            10,
            remove_userdata,
            None,
        ),
    ]
}

fn aside_of<'d>(draft: &'d Draft<'_>) -> Result<(DomId, &'d Aside), EngineError> {
    let domid = draft.old()?;
    let aside = draft.aside.as_ref();
    aside
        .map(|aside| (domid, aside))
        .ok_or_else(|| EngineError::NoSuchDomain(domid.to_string()))
}

/// Whether the domain is still there, under the one identity or the other.
fn is_there(draft: &Draft<'_>) -> Result<bool, EngineError> {
    let (domid, aside) = aside_of(draft)?;
    let info = draft.host.hv.domain_info(domid)?;
    let ours = [draft.uuid.as_bytes(), aside.uuid.as_bytes()];
    Ok(info.is_some_and(|info| ours.contains(&&info.handle)))
}

fn change_handle(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, aside) = aside_of(draft)?;
    if draft.is_taken_over && !is_there(draft)? {
        return Ok(());
    }
    Ok(draft
        .host
        .hv
        .set_domain_handle(domid, *aside.uuid.as_bytes())?)
}

fn rename_nodes(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    if draft.is_taken_over && !is_there(draft)? {
        return Ok(());
    }
    let (domid, aside) = aside_of(draft)?;
    let (new, name) = (aside.uuid.hyphenated().to_string(), aside.name.clone());
    let old = draft.uuid_text();
    move_nodes(draft.host, domid, &old, &new, &name)
}

/// libxl's record names the old UUID in its path; xl manages without it, and so do we.
fn remove_userdata(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, host) = (draft.old()?, &*draft.host);
    userdata::remove_all(host, domid, &draft.uuid_text())
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
