//! Giving a VM its next domain when the one it has has ended.

use std::time::Duration;

use os_port::{Files, Lock, Process, list_if_there};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::{Facts, Operation, Outcome, Past};

use crate::config::plan;
use crate::config::runtime_changes;
use crate::operation::last_of_domain;
use crate::operation::{Draft, KEEPS_RECORD, Kind};
use crate::operation::{create, destroy, rename_aside};
use crate::vm::domains::DomainRef;
use crate::vm::{domains, store};
use crate::{Cancel, Dirs, EngineError, Host, VmGuard};

/// How long another process may hold the VM's name.
const NAME_LIMIT: Duration = Duration::from_secs(10);

/// Replaces an ended domain of a VM by a new one, made from the VM's record and what was changed while
/// the old one ran. The new one's number; `None` where another process has ended or replaced that domain
/// meanwhile. What can be found wrong with the old one in place is found first, and leaves it there.
pub fn restart(
    host: &mut Host,
    uuid: Uuid,
    old: DomId,
    keeps_old: bool,
) -> Result<Option<DomId>, EngineError> {
    let mut owner = VmGuard::take(host, uuid)?;
    owner.tell(host);
    // A core whose unfinished file cannot be removed is no reason to leave the guest down.
    owner.close_unfinished(host, |kind| kind == Kind::DumpCore.word())?;
    owner.refuse_unfinished()?;
    let info = host.hv.domain_info(old)?;
    let Some(info) = info.filter(|info| &info.handle == uuid.as_bytes() && !info.flags.dying)
    else {
        return Ok(None);
    };
    if !keeps_old {
        destroy::refuse_foreign_devices(host, &info)?;
    }
    let name = keep_changes(host, uuid, &info)?;
    let name_lock = take_name(host, &name, old)?;
    let mut args = Facts::new();
    args.insert("old".to_owned(), old.0.into());
    let aside = match keeps_old {
        true => Some(rename_aside::aside(host, &name)?),
        false => None,
    };
    let mut aside_lock = None;
    if let Some(aside) = &aside {
        aside_lock = Some(take_name(host, &aside.name, old)?);
        let uuid = aside.uuid.hyphenated().to_string();
        args.insert("aside_uuid".to_owned(), uuid.into());
        args.insert("aside_name".to_owned(), aside.name.clone().into());
    }
    let mut draft = Draft::new(host, uuid);
    draft.old = Some(old);
    draft.aside = aside;
    draft.name_lock = Some(name_lock);
    draft.keeps_record = true;
    let kind = match keeps_old {
        true => Kind::RenameRestart,
        false => Kind::Restart,
    };
    owner.carry_out(kind, &name, args, &mut draft, &Cancel::new(), &mut |_| ())?;
    drop(aside_lock);
    draft.domid().map(Some)
}

/// Gives a VM that has lost its domain to a restart that failed its next one, made from its record. What
/// fails is undone, and leaves the record where it is.
pub fn again(host: &mut Host, uuid: Uuid) -> Result<DomId, EngineError> {
    let planned = plan::of_record(host, uuid)?;
    create::again(host, &planned)
}

/// Whether a process that lives gives a VM of this name or UUID its next domain. For a moment the VM has no domain then, and no
/// domain has the VM's name; the journal has it. Reading takes no lock.
pub fn is_under_way(
    files: &dyn Files,
    dirs: &Dirs,
    process: &dyn Process,
    asked: &DomainRef,
) -> bool {
    let names = list_if_there(files, &dirs.vms_run()).unwrap_or_default();
    let uuids = names.iter().filter_map(|name| Uuid::try_parse(name).ok());
    let mut asked_for = uuids.filter(|uuid| match asked {
        DomainRef::Uuid(handle) => uuid.as_bytes() == handle,
        DomainRef::Name(_) => true,
        DomainRef::Number(_) => false,
    });
    asked_for.any(|uuid| {
        let contents = xyl_saga::load(files, &dirs.journal(uuid)).unwrap_or_default();
        let past = Past::of(&contents);
        let is_named = |name: &str| match asked {
            DomainRef::Name(wanted) => wanted == name,
            _ => true,
        };
        past.under_way().is_some_and(|last| {
            keeps_record(last) && is_named(&last.begin.name) && process.is_running(last.pid)
        })
    })
}

fn keeps_record(operation: &Operation) -> bool {
    match Kind::parse(&operation.begin.kind) {
        Some(Kind::Restart | Kind::RenameRestart) => true,
        _ => operation.is_set(KEEPS_RECORD),
    }
}

/// Whether a VM without a domain is to get one: its last operation was to give it one, and failed.
pub(crate) fn is_owed(host: &Host, uuid: Uuid) -> Result<bool, EngineError> {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid))?;
    let past = Past::of(&contents);
    let is_owed = last_of_domain(&past).is_some_and(|last| {
        let has_failed = last.outcome != Some(Outcome::Done);
        has_failed && keeps_record(last)
    });
    let text = uuid.hyphenated().to_string();
    Ok(is_owed && store::read(&*host.files, &host.dirs, &text).is_ok())
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
fn take_name(host: &mut Host, name: &str, own: DomId) -> Result<Box<dyn Lock>, EngineError> {
    let lock = domains::reserve_name_within(host, name, NAME_LIMIT)?;
    domains::refuse_taken_name(host, name, own)?;
    Ok(lock)
}
