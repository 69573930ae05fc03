//! Checks a VM's journal against the VM's domains. A journal can lose its last lines. Then an operation that has ended
//! looks unfinished, and its undo would destroy a running guest.

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::Operation;
use xyl_saga::state::Status;

use crate::operation::Kind;
use crate::operation::create::{INTRODUCE, MAKE, START};
use crate::vm::{domains, store, userdata};
use crate::{EngineError, Host};

/// A domain of the VM that there cannot be if the last operation of the VM's journal is as far as the journal says.
pub(super) fn contradiction(
    host: &mut Host,
    uuid: Uuid,
    kind: Kind,
    last: &Operation,
) -> Result<Option<DomId>, EngineError> {
    let infos = host.hv.domain_list()?.into_iter();
    let ours = infos.filter(|info| &info.handle == uuid.as_bytes() && !info.flags.dying);
    for info in ours {
        if !is_explained(host, kind, last, &info)? {
            return Ok(Some(info.domid));
        }
    }
    Ok(None)
}

/// Whether the operation, as far as the journal says, can have met or made this domain.
fn is_explained(
    host: &mut Host,
    kind: Kind,
    last: &Operation,
    info: &DomainInfo,
) -> Result<bool, EngineError> {
    let is_number = |key: &str| last.number(key) == Some(info.domid.0.into());
    let is_old = is_number("old");
    match kind {
        Kind::DumpCore
        | Kind::SoftReset
        | Kind::Attach
        | Kind::Detach
        | Kind::Suspend
        | Kind::Resume
        | Kind::Checkpoint => Ok(true),
        // No process gives the VM another domain before its destroy has ended.
        Kind::Destroy | Kind::Save => Ok(is_old),
        // The domain that is replaced has ended, or was paused to be ended.
        Kind::Restart | Kind::RenameRestart if is_old && !is_remade(last) => {
            Ok(info.flags.shutdown || info.flags.paused)
        }
        Kind::Create | Kind::Restore | Kind::Restart | Kind::RenameRestart
            if domains::has_run(info) =>
        {
            Ok(may_have_started(last) && is_number("domid"))
        }
        Kind::Create | Kind::Restore | Kind::Restart | Kind::RenameRestart => {
            Ok(last.has_come_to(INTRODUCE) || !is_whole(host, info)?)
        }
    }
}

/// Whether the domain that is being made may run: its start was begun, and is not taken back.
fn may_have_started(last: &Operation) -> bool {
    let status = last.standing.status_of(START);
    status.is_some_and(|status| matches!(status, Status::Started | Status::InDoubt | Status::Done))
}

/// Whether the VM's next domain is being made: then the old one is gone, and its number may have come to the next.
pub(super) fn is_remade(last: &Operation) -> bool {
    last.has_come_to(MAKE)
}

/// Whether a domain that has never run has all that it needs: it was created paused, then.
pub(super) fn is_whole(host: &mut Host, info: &DomainInfo) -> Result<bool, EngineError> {
    let uuid = domains::uuid_text(&info.handle);
    let record = store::read(&*host.files, &host.dirs, &uuid);
    let userdata = userdata::json_path(&host.dirs.xen_lib, info.domid, &uuid);
    let has_userdata = host.files.read(&userdata, u64::from(u32::MAX)).is_ok();
    Ok(record.is_ok() && has_userdata && host.store.is_introduced(info.domid.0)?)
}
