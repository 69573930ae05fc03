//! What a VM's domains say of its journal. A journal can lose its last lines, and reads then as if an operation that
//! has long ended were under way: to take that back would destroy a guest that runs.

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::Operation;
use xyl_saga::state::State;

use crate::operation::Kind;
use crate::operation::create::{self, INTRODUCE, START};
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
        Kind::DumpCore => Ok(true),
        // Nobody gives the VM another domain before its destroy has ended.
        Kind::Destroy => Ok(is_old),
        // The domain that is replaced has ended, or was paused to be ended.
        Kind::Restart | Kind::RenameRestart if is_old && !is_remade(last) => {
            Ok(info.flags.shutdown || info.flags.paused)
        }
        Kind::Create | Kind::Restart | Kind::RenameRestart if domains::has_run(info) => {
            Ok(may_have_started(last) && is_number("domid"))
        }
        Kind::Create | Kind::Restart | Kind::RenameRestart => {
            Ok(has_come_to(kind, last, INTRODUCE) || !is_whole(host, info)?)
        }
    }
}

/// Whether the domain that is being made may run: its start was begun, and is not taken back.
fn may_have_started(last: &Operation) -> bool {
    let is_begun = match last.state {
        State::Applying | State::InDoubt => true,
        State::Ready => last.step_is_done,
        State::Idle | State::Reverting | State::Undoing => false,
    };
    is_begun && last.step.as_deref() == Some(START)
}

/// Whether an operation has come to this step, or to one behind it.
fn has_come_to(kind: Kind, last: &Operation, step: &str) -> bool {
    let index_of = |name: &str| kind.steps().iter().position(|one| one.name == name);
    let now = last.step.as_deref().and_then(index_of);
    now >= index_of(step) && now.is_some()
}

/// Whether the VM's next domain is being made: then the old one is gone, and its number may have come to the next.
pub(super) fn is_remade(last: &Operation) -> bool {
    let step = last.step.as_deref();
    let mut steps = create::steps().into_iter();
    steps.any(|of_create| Some(of_create.name) == step)
}

/// Whether a domain that has never run has all that it needs: it was created paused, then.
pub(super) fn is_whole(host: &mut Host, info: &DomainInfo) -> Result<bool, EngineError> {
    let uuid = domains::uuid_text(&info.handle);
    let record = store::read(&*host.files, &host.dirs, &uuid);
    let userdata = userdata::json_path(&host.dirs.xen_lib, info.domid, &uuid);
    let has_userdata = host.files.read(&userdata, u64::from(u32::MAX)).is_ok();
    Ok(record.is_ok() && has_userdata && host.store.is_introduced(info.domid.0)?)
}
