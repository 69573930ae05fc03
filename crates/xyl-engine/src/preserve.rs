//! Keeping an ended domain aside, so that its VM can be created anew under the same name and UUID.

use std::time::SystemTime;

use jiff::Timestamp;
use uuid::Uuid;
use xen_port::DomId;
use xenstore::{Access, Path, Perms, Tree};

use crate::{EngineError, Host, tree, userdata};

/// Gives an ended domain a name with a date and a new UUID, as `on_...="rename-restart"` asks.
pub fn preserve(host: &mut Host, domid: DomId, name: &str) -> Result<(), EngineError> {
    let info = host
        .hv
        .domain_info(domid)?
        .ok_or_else(|| EngineError::NoSuchDomain(domid.to_string()))?;
    let old = Uuid::from_bytes(info.handle).hyphenated().to_string();
    let new = Uuid::from_bytes(host.process.new_uuid());
    let new_name = format!("{name}-{}", timestamp(host.clock.calendar()));
    host.hv.set_domain_handle(domid, *new.as_bytes())?;
    move_nodes(host, domid, &old, &new.hyphenated().to_string(), &new_name)?;
    // libxl's record names the old UUID in its path; xl manages without it, and so do we.
    userdata::remove_all(&*host.files, &host.dirs.xen_lib, domid, &old)
}

fn move_nodes(
    host: &mut Host,
    domid: DomId,
    old: &str,
    new: &str,
    name: &str,
) -> Result<(), EngineError> {
    let path = |text: String| Path::new(&text).map_err(xenstore::Error::from);
    let domain = tree::domain_path(domid);
    let (old_vm, new_vm) = (path(tree::vm_path(old))?, path(tree::vm_path(new))?);
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

/// UTC as `YYYYMMDDTHHMMZ`, as xl names preserved domains.
fn timestamp(now: SystemTime) -> String {
    match Timestamp::try_from(now) {
        Ok(now) => now.strftime("%Y%m%dT%H%MZ").to_string(),
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
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T0000Z");
        assert_eq!(at(951_782_400), "20000229T0000Z");
        assert_eq!(at(1_795_369_500), "20261122T1745Z");
    }
}
