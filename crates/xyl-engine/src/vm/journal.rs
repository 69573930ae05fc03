//! What a VM's journal says of the VM: its name, and which process is at work on it.
//!
//! Reading takes no lock.

use std::time::SystemTime;

use os_port::{Files, Process};
use uuid::Uuid;
use xyl_saga::Past;

use crate::{Dirs, Host};

/// A VM's name, by the last of its operations that knew it.
pub fn name(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<String> {
    let contents = xyl_saga::load(files, &dirs.journal(uuid)).ok()?;
    let operations = Past::of(&contents).operations.into_iter().rev();
    let mut names = operations.map(|operation| operation.begin.name);
    names.find(|name| !name.is_empty())
}

/// Who has a VM's lock, and what for, in words, by the VM's journal.
pub(crate) fn holder(host: &Host, uuid: Uuid, now: SystemTime) -> String {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid)).unwrap_or_default();
    let past = Past::of(&contents);
    let Some(operation) = past.under_way() else {
        return format!("another process that works on the VM {uuid}");
    };
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(0);
    let begin = &operation.begin;
    let name = match begin.name.as_str() {
        "" => begin.uuid.as_str(),
        name => name,
    };
    format!(
        "process {}, which has been at `{}` of {name} for {} s: {} ({})",
        operation.pid,
        begin.kind,
        now_ms.saturating_sub(operation.begun_ms) / 1000,
        operation.step.as_deref().unwrap_or("about to begin"),
        begin.id,
    )
}

/// Whether a VM's journal says that somebody is at work on it who is not: a process that has died, or this one.
pub(crate) fn is_orphaned(
    files: &dyn Files,
    dirs: &Dirs,
    process: &dyn Process,
    uuid: Uuid,
) -> bool {
    let contents = xyl_saga::load(files, &dirs.journal(uuid)).unwrap_or_default();
    let past = Past::of(&contents);
    past.under_way().is_some_and(|operation| {
        operation.pid == process.id() || !process.is_running(operation.pid)
    })
}
