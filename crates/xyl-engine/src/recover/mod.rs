//! Finishing what a dead process left under way.
//!
//! A process that dies leaves its lock's file behind, free to be taken. Whoever takes it reads the VM's
//! journal: an operation that has not ended is finished or taken back, as its steps want it. Domains
//! are found by the number in the journal and by the VM's UUID; nothing that is not the VM's is
//! touched. A journal that cannot be read, or that a domain contradicts, is set aside, and what Xen and xenstore say
//! decides. No domain that has run is destroyed by an undo (`domains::has_run`).

mod evidence;
pub mod fsck;

use std::path::{Path as FilePath, PathBuf};

use std::time::Duration;

use os_port::{Files, Lock, Process, list_if_there};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::{Path, Tree};
use xyl_saga::state::State;
use xyl_saga::{Contents, Operation, Outcome, Past, Resumed};

use crate::host::dirs::NAME_LOCK;
use crate::operation::last_of_domain;
use crate::operation::run::{resume, settle};
use crate::operation::{Aside, Draft, KEEPS_RECORD, Kind};
use crate::operation::{destroy, dump_core, xenstore_nodes};
use crate::supervise::requests;
use crate::vm::journal;
pub use crate::vm::lock::Recovered;
use crate::vm::lock::{Left, VmGuard};
use crate::vm::{domains, lock, store};
use crate::{Dirs, EngineError, Host};

/// How long the lock of a process that has died may be held by one that it was about to start.
const ORPHAN_LIMIT: Duration = Duration::from_secs(2);

impl VmGuard {
    /// Takes a VM's lock, waits for the process that holds it, and finishes the operation that a dead process left.
    pub fn take(host: &mut Host, uuid: Uuid) -> Result<VmGuard, EngineError> {
        VmGuard::take_and_finish(host, uuid, finish)
    }
}

/// Finishes all that dead processes have left under way. What lives is left alone. With `stuck`, also
/// what had ended with something left behind; and answers that nobody will read go.
pub fn all(host: &mut Host, stuck: bool) -> Result<Vec<Recovered>, EngineError> {
    let busy = host.dirs.busy();
    let mut recovered = Vec::new();
    for name in names_in(host, &busy)? {
        match Uuid::try_parse(&name) {
            Ok(uuid) => recovered.extend(one(host, uuid)),
            // The file of a name that was being given; the lock itself died with its holder.
            Err(_) if name.starts_with(NAME_LOCK) => drop(try_lock(host, &busy.join(name))?),
            Err(_) => {}
        }
    }
    if !stuck {
        return Ok(recovered);
    }
    for uuid in vms_kept(host)? {
        // What has failed already has been told.
        if !recovered
            .iter()
            .any(|failed| failed.has_failed && failed.uuid == uuid)
        {
            recovered.extend(again(host, uuid));
        }
    }
    let aside = set_aside_before(host, &recovered)?;
    recovered.extend(aside);
    requests::remove_unread(host)?;
    Ok(recovered)
}

/// The journals that were set aside before, by whoever changed their VMs, and that nobody has removed.
fn set_aside_before(host: &Host, told: &[Recovered]) -> Result<Vec<Recovered>, EngineError> {
    let mut found = Vec::new();
    for name in names_in(host, &host.dirs.run.join("damaged"))? {
        let Ok(uuid) = Uuid::try_parse(&name) else {
            continue;
        };
        if told.iter().any(|one| one.uuid == uuid) {
            continue;
        }
        let path = damaged(&host.dirs, uuid);
        found.push(Recovered {
            uuid,
            name: journal::name(&*host.files, &host.dirs, uuid).unwrap_or_default(),
            domid: domains::living(&*host.hv, uuid.into_bytes())?,
            what: format!(
                "its journal was damaged, and what was under way may have been lost: see {}, then remove that file (`xyl fsck --repair` does)",
                path.display()
            ),
            has_failed: true,
        });
    }
    Ok(found)
}

/// Tries once more what had ended with something left behind, and forgets a VM that is no more.
fn again(host: &mut Host, uuid: Uuid) -> Option<Recovered> {
    let recovered = one(host, uuid);
    if recovered.as_ref().is_some_and(|one| one.has_failed) {
        return recovered;
    }
    let forgotten = forget_if_gone(host, uuid);
    let failure = forgotten.err().map(|error| Recovered::failed(uuid, &error));
    failure.or(recovered)
}

/// Removes what is kept of a VM that has no domain: xl has destroyed it while nobody watched, or the
/// host went down. One whose journal is damaged, or tells of a failure, is kept.
fn forget_if_gone(host: &mut Host, uuid: Uuid) -> Result<(), EngineError> {
    // Whoever makes or restarts the VM has its lock.
    let Some(_lock) = try_lock(host, &host.dirs.vm_lock(uuid))? else {
        return Ok(());
    };
    let infos = host.hv.domain_list()?;
    let has_domain = infos.iter().any(|info| &info.handle == uuid.as_bytes());
    if !has_domain && last_end(host, uuid)? == End::Well {
        lock::forget(host, uuid)?;
    }
    Ok(())
}

/// The VMs that have a record, or something of this run of the host.
pub(crate) fn vms_kept(host: &Host) -> Result<Vec<Uuid>, EngineError> {
    let mut kept = Vec::new();
    for folder in [host.dirs.lib.join("vm"), host.dirs.vms_run()] {
        for name in names_in(host, &folder)? {
            kept.extend(Uuid::try_parse(&name));
        }
    }
    kept.sort_unstable();
    kept.dedup();
    Ok(kept)
}

/// How the last that was done with a VM's domain has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In full, or its journal went with the host's run.
    Well,
    /// It failed or was taken back, or its journal was set aside.
    Badly,
    /// It has not.
    NotYet,
}

/// How the last that was done with a VM has ended, by its journal.
pub(crate) fn last_end(host: &Host, uuid: Uuid) -> Result<End, EngineError> {
    let was_damaged = host
        .files
        .read(&damaged(&host.dirs, uuid), u64::from(u32::MAX))
        .is_ok();
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid))?;
    let past = Past::of(&contents);
    let last = last_of_domain(&past).map(|last| last.outcome);
    Ok(match last {
        _ if contents.damage.is_some() => End::NotYet,
        Some(None) => End::NotYet,
        _ if was_damaged => End::Badly,
        None | Some(Some(Outcome::Done)) => End::Well,
        Some(Some(Outcome::Undone | Outcome::Failed)) => End::Badly,
    })
}

/// Where a journal goes that cannot be read.
pub(crate) fn damaged(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    dirs.run.join("damaged").join(uuid.hyphenated().to_string())
}

/// Whether a dead process has left a lock, at the cost of looking into one folder that is most often
/// empty.
pub fn is_needed(files: &dyn Files, dirs: &Dirs, process: &dyn Process) -> bool {
    let is_free = |name: &String| match files.is_locked(&dirs.busy().join(name)) {
        Ok(false) => true,
        Ok(true) => {
            Uuid::try_parse(name).is_ok_and(|uuid| journal::is_orphaned(files, dirs, process, uuid))
        }
        // Its holder has removed it meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        // Whatever is wrong is told when it is looked at.
        Err(_) => true,
    };
    list_if_there(files, &dirs.busy()).map_or(true, |names| names.iter().any(is_free))
}

pub(crate) fn names_in(host: &Host, folder: &FilePath) -> Result<Vec<String>, EngineError> {
    let mut names = list_if_there(&*host.files, folder)
        .map_err(|source| EngineError::io("list", folder, source))?;
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn try_lock(host: &Host, path: &FilePath) -> Result<Option<Box<dyn Lock>>, EngineError> {
    host.files
        .lock(path, None)
        .map_err(|source| EngineError::io("lock", path, source))
}

/// A VM's lock, if nobody who lives has it. A process that dies while it starts another one leaves its
/// lock with that until the other program runs: a moment.
fn lock_of_vm(host: &Host, uuid: Uuid) -> Result<Option<Box<dyn Lock>>, EngineError> {
    let path = host.dirs.vm_lock(uuid);
    let lock = try_lock(host, &path)?;
    if lock.is_some() || !journal::is_orphaned(&*host.files, &host.dirs, &*host.process, uuid) {
        return Ok(lock);
    }
    let deadline = host.clock.now() + ORPHAN_LIMIT;
    host.files
        .lock(&path, Some(deadline))
        .map_err(|source| EngineError::io("lock", &path, source))
}

/// Finishes what was under way with one VM, unless a process that lives has it. What fails with this
/// VM is told, and does not keep the others from being looked at.
fn one(host: &mut Host, uuid: Uuid) -> Option<Recovered> {
    let recovered = lock_of_vm(host, uuid).and_then(|lock| match lock {
        Some(lock) => finish_locked(host, uuid, lock),
        None => Ok(None),
    });
    recovered.unwrap_or_else(|error| Some(Recovered::failed(uuid, &error)))
}

fn finish_locked(
    host: &mut Host,
    uuid: Uuid,
    lock: Box<dyn Lock>,
) -> Result<Option<Recovered>, EngineError> {
    let finished = store::remove_unfinished(host, uuid).and_then(|()| finish(host, uuid));
    match finished {
        Ok(left) => Ok(left.recovered),
        Err(error) => {
            lock.leave();
            Err(error)
        }
    }
}

/// Finishes what the VM's journal says is under way. The caller holds the lock.
pub(crate) fn finish(host: &mut Host, uuid: Uuid) -> Result<Left, EngineError> {
    let path = host.dirs.journal(uuid);
    let contents = xyl_saga::load(&*host.files, &path)?;
    if let Some(damage) = &contents.damage {
        let what = damage.to_string();
        return repair(host, uuid, &what);
    }
    let past = Past::of(&contents);
    let recovered = match past.operations.last() {
        Some(last) if last.outcome.is_some() => {
            // It has ended, but perhaps its process died before all was put away.
            let keeps_record = last.is_set(KEEPS_RECORD);
            if settle(host, uuid, kind_of(uuid, last)?, keeps_record, last.outcome)? {
                return Ok(Left {
                    contents: Contents::default(),
                    recovered: None,
                });
            }
            None
        }
        Some(last) => finish_last(host, uuid, last, &contents, &past)?,
        None => {
            forget_empty(host, uuid)?;
            None
        }
    };
    let contents = match recovered {
        Some(_) => xyl_saga::load(&*host.files, &path)?,
        None if past.operations.is_empty() => Contents::default(),
        None => contents,
    };
    Ok(Left {
        contents,
        recovered,
    })
}

/// A process may have died between making the VM's folder and its first record.
fn forget_empty(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let folder = host.dirs.vm_run(uuid);
    os_port::remove_folder_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("remove", &folder, source))
}

fn kind_of(uuid: Uuid, operation: &Operation) -> Result<Kind, EngineError> {
    Kind::parse(&operation.begin.kind).ok_or_else(|| EngineError::UnknownOperation {
        uuid: uuid.hyphenated().to_string(),
        kind: operation.begin.kind.clone(),
    })
}

fn finish_last(
    host: &mut Host,
    uuid: Uuid,
    last: &Operation,
    contents: &Contents,
    past: &Past,
) -> Result<Option<Recovered>, EngineError> {
    let kind = kind_of(uuid, last)?;
    xyl_saga::check_known(&kind.steps(), last)
        .map_err(|unknown| EngineError::unknown_step(kind.word(), last, unknown))?;
    if let Some(domid) = evidence::contradiction(host, uuid, kind, last)? {
        let what = format!(
            "it ends in a {}, which domain {domid} contradicts: its end is lost",
            kind.word()
        );
        return Ok(repair(host, uuid, &what)?.recovered);
    }
    let mut draft = redraft(host, uuid, kind, last)?;
    let resumed = resume(&mut draft, kind, contents, past)?;
    let (domid, keeps_record) = (draft.domid, draft.keeps_record);
    drop(draft);
    let Some(resumed) = resumed else {
        return Ok(None);
    };
    let ended = match &resumed {
        Resumed::Done => Some(Outcome::Done),
        Resumed::Undone { .. } => Some(Outcome::Undone),
        Resumed::Failed(failure) => failure.outcome,
    };
    settle(host, uuid, kind, keeps_record, ended)?;
    if let (Some(Outcome::Done), Some(domid)) = (ended, domid) {
        forget_without_domain(host, uuid, domid)?;
    }
    let (what, has_failed) = told(kind, last, &resumed);
    Ok(Some(Recovered {
        uuid,
        name: last.begin.name.clone(),
        domid: domid.filter(|_| kind != Kind::Destroy && ended == Some(Outcome::Done)),
        what,
        has_failed,
    }))
}

/// Somebody, xl perhaps, may have destroyed the domain before its create was finished.
fn forget_without_domain(host: &mut Host, uuid: Uuid, domid: DomId) -> Result<(), EngineError> {
    if is_there(host, uuid, Some(domid))?
        || domains::living(&*host.hv, uuid.into_bytes())?.is_some()
    {
        return Ok(());
    }
    let text = uuid.hyphenated().to_string();
    destroy::remove_nodes_if_ours(host, domid, &text)?;
    destroy::remove_records(host, domid, &text)?;
    lock::forget(host, uuid)
}

fn told(kind: Kind, last: &Operation, resumed: &Resumed<EngineError>) -> (String, bool) {
    let (kind, why) = (kind.word(), why_it_stood(last));
    match resumed {
        Resumed::Done => (format!("finished a {kind}: {why}"), false),
        Resumed::Undone { .. } => (format!("took a {kind} back: {why}"), false),
        Resumed::Failed(failure) => (
            format!("a {kind} could not be finished ({why}): {failure}"),
            true,
        ),
    }
}

/// Why an operation was under way, and nobody at it.
fn why_it_stood(last: &Operation) -> String {
    let (pid, step) = (last.pid, last.step.as_deref());
    match &last.failure {
        Some((failed, cause))
            if Some(failed.as_str()) == step && last.state == State::Reverting =>
        {
            format!("its process {pid} failed at `{failed}`: {cause}")
        }
        _ => format!(
            "its process {pid} died at `{}`",
            step.unwrap_or("its first step")
        ),
    }
}

/// The draft of an operation, as far as its journal and the world tell.
fn redraft<'h>(
    host: &'h mut Host,
    uuid: Uuid,
    kind: Kind,
    last: &Operation,
) -> Result<Draft<'h>, EngineError> {
    let domid_of = |key: &str| {
        let number = last.number(key)?;
        u16::try_from(number).ok().map(DomId)
    };
    let old = domid_of("old");
    let noted = domid_of("domid");
    let domid = match kind {
        Kind::Destroy | Kind::DumpCore => None,
        // The number may be that of an earlier try, whose domain was removed.
        _ if is_there(host, uuid, noted)? => noted,
        _ => half_made(host, uuid, old.filter(|_| !evidence::is_remade(last)))?.or(noted),
    };
    let aside = match (last.text("aside_uuid"), last.text("aside_name")) {
        (Some(uuid), Some(name)) => Uuid::try_parse(uuid).ok().map(|uuid| Aside {
            uuid,
            name: name.to_owned(),
        }),
        _ => None,
    };
    let mut draft = Draft::new(host, uuid);
    draft.is_taken_over = true;
    draft.old = old;
    draft.aside = aside;
    draft.domid = domid;
    draft.paused = last.is_set("paused");
    draft.dump = dump_core::from_journal(last);
    draft.keeps_record =
        matches!(kind, Kind::Restart | Kind::RenameRestart) || last.is_set(KEEPS_RECORD);
    Ok(draft)
}

/// Whether the VM has a domain of that number.
fn is_there(host: &Host, uuid: Uuid, domid: Option<DomId>) -> Result<bool, EngineError> {
    let Some(domid) = domid else {
        return Ok(false);
    };
    let info = host.hv.domain_info(domid)?;
    Ok(info.is_some_and(|info| &info.handle == uuid.as_bytes()))
}

/// A domain of this VM that nobody knows of but Xen: its maker died before it could note the number.
/// It has never run, and has no nodes.
fn half_made(
    host: &mut Host,
    uuid: Uuid,
    old: Option<DomId>,
) -> Result<Option<DomId>, EngineError> {
    for info in host.hv.domain_list()? {
        let is_it = &info.handle == uuid.as_bytes() && Some(info.domid) != old;
        if is_it && has_never_run(&info) && !has_nodes(host, info.domid)? {
            return Ok(Some(info.domid));
        }
    }
    Ok(None)
}

pub(crate) fn has_never_run(info: &DomainInfo) -> bool {
    !domains::has_run(info) && !info.flags.dying
}

fn has_nodes(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    let path = Path::new(&xenstore_nodes::libxl_path(domid)).map_err(xenstore::Error::from)?;
    match host.store.directory(&path) {
        Err(xenstore::Error::NotFound { .. }) => Ok(false),
        other => Ok(other.map(|_| true)?),
    }
}

// ---- a journal that cannot be trusted -------------------------------------------------------------

/// Sets a damaged journal aside, and takes back a domain that is only half there. One that has run, or
/// has all that a domain needs, is left as it is.
fn repair(host: &mut Host, uuid: Uuid, damage: &str) -> Result<Left, EngineError> {
    let path = host.dirs.journal(uuid);
    let folder = host.dirs.run.join("damaged");
    let aside = damaged(&host.dirs, uuid);
    let infos = host.hv.domain_list()?.into_iter();
    let domain = infos
        .filter(|info| &info.handle == uuid.as_bytes() && !info.flags.dying)
        .max_by_key(domains::has_run);
    let what = match &domain {
        Some(info) if !has_never_run(info) || evidence::is_whole(host, info)? => {
            format!("domain {} is left as it is", info.domid)
        }
        Some(info) => {
            remove_half_made(host, uuid, info.domid)?;
            format!("domain {} was half made, and is removed", info.domid)
        }
        None => {
            let folder = store::path(&host.dirs, &uuid.hyphenated().to_string());
            format!(
                "the VM has no domain; if it should have one, its configuration may be in {}",
                folder.display()
            )
        }
    };
    host.files
        .create_folder(&folder)
        .and_then(|()| host.files.rename(&path, &aside))
        .map_err(|source| EngineError::io("set aside", &path, source))?;
    Ok(Left {
        contents: Contents::default(),
        recovered: Some(Recovered {
            uuid,
            name: String::new(),
            domid: domain.map(|info| info.domid),
            what: format!(
                "the journal was damaged ({damage}) and is kept as {}; {what}",
                aside.display()
            ),
            has_failed: true,
        }),
    })
}

pub(crate) fn remove_half_made(
    host: &mut Host,
    uuid: Uuid,
    domid: DomId,
) -> Result<(), EngineError> {
    let uuid = uuid.hyphenated().to_string();
    destroy::remove_records(host, domid, &uuid)?;
    destroy::remove_nodes_if_ours(host, domid, &uuid)?;
    let deadline = host.clock.now() + destroy::END_LIMIT;
    destroy::end_domain(host, domid, deadline)
}
