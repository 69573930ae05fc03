//! Finishes the operations of dead processes.
//!
//! When a process dies, the file of its VM lock stays, and the lock is free. The next process that takes the lock
//! reads the VM's journal, and finishes or undoes the operation that has not ended, as its steps require. It finds
//! domains by the number in the journal and by the VM's UUID, and changes nothing of another VM. A journal that cannot
//! be read, or that a domain contradicts, is moved away; then Xen and xenstore decide. No undo destroys a domain that
//! has run (`domains::has_run`).

mod evidence;
pub mod fsck;

use std::path::{Path as FilePath, PathBuf};

use std::time::Duration;

use os_port::{Files, Lock, Process, list_if_there};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::{Path, Tree};
use xyl_saga::state::Status;
use xyl_saga::{Contents, JournalError, Operation, Outcome, Past, Resumed};

use crate::host::dirs::{DISK_LOCK, DISPLAYS_LOCK, NAME_LOCK, PCI_LOCK, POOLS_LOCK};
use crate::operation::last_of_domain;
use crate::operation::release_1;
use crate::operation::rename_aside::Aside;
use crate::operation::run::{resume, settle};
use crate::operation::{KEEPS_RECORD, Kind, OfVm};
use crate::operation::{
    create, destroy, dump_core, hotplug, restart, save, soft_reset, suspend, xenstore_nodes,
};
use crate::supervise::requests;
use crate::vm::domains::DomainRef;
use crate::vm::journal;
pub use crate::vm::lock::Recovered;
use crate::vm::lock::{Left, VmGuard};
use crate::vm::{domains, given_up, lock, request_queue, store};
use crate::{Dirs, EngineError, Host};

/// Maximum number of bytes that are read of the list of reported journals.
const REPORTED_MAX_BYTES: u64 = 1 << 20;
/// Time limit for a child of a dead process to release the VM lock. It inherits the lock until its program starts.
const ORPHAN_LIMIT: Duration = Duration::from_secs(2);

impl VmGuard {
    /// Takes a VM's lock, waits for the process that holds it, and finishes the operation that a dead process left.
    pub fn take(host: &mut Host, uuid: Uuid) -> Result<VmGuard, EngineError> {
        VmGuard::take_and_finish(host, uuid, finish)
    }

    /// As [`VmGuard::take`], for a destroy by force: a journal that another version of this program wrote is set aside.
    pub(crate) fn take_by_force(host: &mut Host, uuid: Uuid) -> Result<VmGuard, EngineError> {
        VmGuard::take_and_finish(host, uuid, |host, uuid| match finish(host, uuid) {
            Err(error) if error.is_of_another_version() => give_up(host, uuid),
            finished => finished,
        })
    }
}

/// Forgets the VMs with this UUID or name that have no domain, and whose journal another version of this program
/// wrote. The journals are moved away. This is the destroy by force of a VM without a domain.
pub fn forget_by_force(host: &mut Host, asked: &DomainRef) -> Result<Vec<Recovered>, EngineError> {
    let mut forgotten = Vec::new();
    for uuid in vms_kept(host)? {
        let is_it = match asked {
            DomainRef::Uuid(handle) => uuid.as_bytes() == handle,
            DomainRef::Name(wanted) => {
                journal::name(&*host.files, &host.dirs, uuid).as_ref() == Some(wanted)
            }
            DomainRef::Number(_) => false,
        };
        if !is_it || domains::living(&*host.hv, uuid.into_bytes())?.is_some() {
            continue;
        }
        match VmGuard::take(host, uuid) {
            Err(error) if error.is_of_another_version() => {
                let owner = VmGuard::take_by_force(host, uuid)?;
                lock::forget(host, uuid)?;
                forgotten.extend(owner.recovered);
            }
            finished => drop(finished?),
        }
    }
    Ok(forgotten)
}

/// Finishes the operations of all dead processes. Those of living processes are not touched. With `stuck`, also tries
/// again the operations that could not be finished before, and removes replies that no process will read.
pub fn all(host: &mut Host, stuck: bool) -> Result<Vec<Recovered>, EngineError> {
    let busy = host.dirs.busy();
    let mut recovered = Vec::new();
    for name in names_in(host, &busy)? {
        match Uuid::try_parse(&name) {
            Ok(uuid) => recovered.extend(one(host, uuid)),
            // The file of a name that was being given, of a disk that was being attached, or of the CPU pools; the lock itself died with its holder.
            Err(_)
                if [NAME_LOCK, DISK_LOCK, POOLS_LOCK, DISPLAYS_LOCK, PCI_LOCK]
                    .iter()
                    .any(|kind| name.starts_with(kind)) =>
            {
                drop(try_lock(host, &busy.join(name))?);
            }
            Err(_) => {}
        }
    }
    if !stuck {
        return Ok(recovered);
    }
    for uuid in vms_kept(host)? {
        // `recovered` has this failure already.
        if !recovered
            .iter()
            .any(|failed| failed.has_failed && failed.uuid == uuid)
        {
            recovered.extend(again(host, uuid));
        }
    }
    requests::remove_old_replies(host)?;
    let aside = set_aside_before(host, &recovered)?;
    recovered.extend(aside);
    recovered.extend(given_up_before(host)?);
    for uuid in vms_kept(host)? {
        requests::wake_if_asked(host, uuid)?;
    }
    Ok(recovered)
}

/// The journals and replies that were moved away and whose files still exist, except the journals of the VMs in
/// `recovered`.
fn set_aside_before(host: &Host, recovered: &[Recovered]) -> Result<Vec<Recovered>, EngineError> {
    let there = names_in(host, &host.dirs.damaged())?;
    let reported = reported(host);
    let mut found = Vec::new();
    for name in &there {
        let (uuid, text) = match (Uuid::try_parse(name), request_queue::vm_of_reply(name)) {
            (Ok(uuid), _) if recovered.iter().any(|one| one.uuid == uuid) => continue,
            (Ok(uuid), _) => (
                uuid,
                "its journal was set aside, and what was under way may have been lost",
            ),
            (_, Some(uuid)) => (uuid, "a reply to a request could not be read"),
            _ => continue,
        };
        let path = host.dirs.damaged().join(name);
        found.push(Recovered {
            uuid,
            name: journal::name(&*host.files, &host.dirs, uuid).unwrap_or_default(),
            domid: domains::living(&*host.hv, uuid.into_bytes())?,
            what: format!(
                "{text}: see {}, then remove that file (`xyl fsck --repair` does)",
                path.display()
            ),
            has_failed: true,
            was_reported: reported.contains(name),
        });
    }
    // What cannot be written down is reported once more.
    let _ = write_reported(host, &there);
    Ok(found)
}

/// The files in `/run/xyl/damaged` that a recovery has reported, by name.
fn reported(host: &Host) -> Vec<String> {
    let bytes = host.files.read(&reported_path(host), REPORTED_MAX_BYTES);
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    text.lines().map(str::to_owned).collect()
}

fn write_reported(host: &Host, names: &[String]) -> Result<(), EngineError> {
    let (files, path) = (&*host.files, reported_path(host));
    if names.is_empty() {
        return os_port::remove_if_there(files, &path)
            .map_err(|source| EngineError::io("remove", &path, source));
    }
    if reported(host) == names {
        return Ok(());
    }
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    store::write_whole(files, &path.with_extension("new"), &path, text.as_bytes())
}

fn reported_path(host: &Host) -> PathBuf {
    host.dirs.run.join("damaged-reported")
}

/// The VMs whose restart was given up. Nothing is done about them; their configurations are kept.
fn given_up_before(host: &Host) -> Result<Vec<Recovered>, EngineError> {
    let all = given_up::all(&*host.files, &host.dirs).into_iter();
    all.map(|(uuid, given_up)| {
        let kept = store::kept_path(&host.dirs, &uuid.hyphenated().to_string());
        Ok(Recovered {
            uuid,
            name: given_up.name,
            domid: domains::living(&*host.hv, uuid.into_bytes())?,
            what: format!(
                "its restart was given up: {}; its configuration is kept in {}",
                given_up.why,
                kept.display()
            ),
            has_failed: false,
            was_reported: false,
        })
    })
    .collect()
}

/// Tries again an operation that could not be finished before, and forgets a VM that has ended.
fn again(host: &mut Host, uuid: Uuid) -> Option<Recovered> {
    let recovered = one(host, uuid);
    if recovered.as_ref().is_some_and(|one| one.has_failed) {
        return recovered;
    }
    let forgotten = forget_if_gone(host, uuid);
    let failure = forgotten.err().map(|error| Recovered::failed(uuid, &error));
    failure.or(recovered)
}

/// Removes the files of a VM that has no domain: xl has destroyed it while it had no monitor, or the host was
/// restarted. A VM whose journal is damaged or has a failure is kept.
fn forget_if_gone(host: &mut Host, uuid: Uuid) -> Result<(), EngineError> {
    // A process that makes or restarts the VM has its lock.
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

/// The VMs that have a record or a run folder.
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

/// Result of the last operation that made or ended a domain of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It succeeded, or its journal is gone since the host was restarted.
    Well,
    /// It failed or was undone, or its journal was moved away.
    Badly,
    /// It has not ended.
    NotYet,
}

/// Result of the last operation that made or ended a domain of a VM, from its journal.
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

/// Path for a damaged journal.
pub(crate) fn damaged(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    dirs.damaged().join(uuid.hyphenated().to_string())
}

/// Whether a dead process has left a lock. This reads one folder, which is usually empty.
pub fn is_needed(files: &dyn Files, dirs: &Dirs, process: &dyn Process) -> bool {
    let is_free = |name: &String| match files.is_locked(&dirs.busy().join(name)) {
        Ok(false) => true,
        Ok(true) => {
            Uuid::try_parse(name).is_ok_and(|uuid| journal::is_orphaned(files, dirs, process, uuid))
        }
        // Its holder has removed it meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        // The look at the lock reports the error.
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

/// Takes a VM's lock if no living process has it. A process that dies while it starts a child leaves the lock to the
/// child until the child's program runs, so this waits for a short time.
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

/// Finishes the open operation of one VM, unless a living process has its lock. An error is part of the result, so
/// that the other VMs are examined too.
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

/// Finishes the open operation of the VM's journal. The caller holds the lock.
pub(crate) fn finish(host: &mut Host, uuid: Uuid) -> Result<Left, EngineError> {
    let path = host.dirs.journal(uuid);
    let contents = load(host, uuid, &path)?.with_steps(release_1::steps);
    if let Some(damage) = &contents.damage {
        let what = damage.to_string();
        return repair(host, uuid, &what);
    }
    let past = Past::of(&contents);
    let recovered = match past.operations.last() {
        // The restart was given up after that: the note and the configuration that is kept are the VM's present state.
        Some(last) if last.outcome.is_some() && is_given_up_since(host, uuid, last) => None,
        Some(last) if last.outcome.is_some() => {
            // It has ended, but perhaps its process died before all was put away.
            let keeps_record = last.is_set(KEEPS_RECORD);
            let kind = kind_of(&path, last)?;
            if settle(host, uuid, kind, keeps_record, last.outcome)? {
                return Ok(Left {
                    contents: Contents::default(),
                    recovered: None,
                });
            }
            None
        }
        Some(last) => finish_last(host, uuid, last, &contents)?,
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

/// Reads the journal of a VM that the caller is about to change.
fn load(host: &Host, uuid: Uuid, path: &FilePath) -> Result<Contents, EngineError> {
    xyl_saga::load(&*host.files, path).map_err(|error| match error {
        JournalError::Foreign { path, what } => EngineError::UnknownFormat {
            uuid: uuid.hyphenated().to_string(),
            path,
            what,
        },
        other => other.into(),
    })
}

/// Whether the VM's restart was given up after an operation had ended.
fn is_given_up_since(host: &Host, uuid: Uuid, last: &Operation) -> bool {
    let note = given_up::read(&*host.files, &host.dirs, uuid);
    note.is_some_and(|note| note.since_ms >= last.last_ms)
}

/// Removes the run folder of a VM whose process died before its first record. Requests that wait are kept: a VM that
/// was adopted from xl has no journal.
fn forget_empty(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let folder = host.dirs.vm_run(uuid);
    if !names_in(host, &host.dirs.requests(uuid))?.is_empty() {
        return Ok(());
    }
    os_port::remove_folder_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("remove", &folder, source))
}

fn kind_of(path: &FilePath, operation: &Operation) -> Result<Kind, EngineError> {
    Kind::parse(&operation.begin.kind).ok_or_else(|| EngineError::UnknownOperation {
        uuid: operation.begin.uuid.clone(),
        path: path.to_owned(),
        kind: operation.begin.kind.clone(),
    })
}

fn finish_last(
    host: &mut Host,
    uuid: Uuid,
    last: &Operation,
    contents: &Contents,
) -> Result<Option<Recovered>, EngineError> {
    let path = host.dirs.journal(uuid);
    let kind = kind_of(&path, last)?;
    kind.check_steps(last)
        .map_err(|unknown| EngineError::unknown_step(&path, kind.word(), last, unknown))?;
    if let Some(domid) = evidence::contradiction(host, uuid, kind, last)? {
        let what = format!(
            "it ends in a {}, which domain {domid} contradicts: its end is lost",
            kind.word()
        );
        return Ok(repair(host, uuid, &what)?.recovered);
    }
    let (resumed, domid) = resume_kind(host, uuid, kind, contents, last)?;
    let ended = match &resumed {
        Resumed::Done => Some(Outcome::Done),
        Resumed::Undone => Some(Outcome::Undone),
        Resumed::Failed(failure) => failure.outcome,
    };
    settle(host, uuid, kind, last.is_set(KEEPS_RECORD), ended)?;
    if let (Some(Outcome::Done), Some(domid)) = (ended, domid) {
        forget_without_domain(host, uuid, domid)?;
    }
    let (what, has_failed) = line_about(kind, last, &resumed);
    Ok(Some(Recovered {
        uuid,
        name: last.begin.name.clone(),
        domid: domid.filter(|_| kind != Kind::Destroy && ended == Some(Outcome::Done)),
        what,
        has_failed,
        was_reported: false,
    }))
}

/// Forgets a VM whose domain was destroyed by another process, such as xl, before its create was finished.
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

/// The line of a report about a resumed operation, and whether it has failed.
fn line_about(kind: Kind, last: &Operation, resumed: &Resumed<EngineError>) -> (String, bool) {
    let (kind, why) = (kind.word(), why_it_stood(last));
    match resumed {
        Resumed::Done => (format!("finished a {kind}: {why}"), false),
        Resumed::Undone => (format!("took a {kind} back: {why}"), false),
        Resumed::Failed(failure) => (
            format!("a {kind} could not be finished ({why}): {failure}"),
            true,
        ),
    }
}

/// The reason why an operation stood still.
fn why_it_stood(last: &Operation) -> String {
    let (pid, step) = (last.pid, last.step.as_deref());
    match &last.failure {
        Some((failed, cause)) if last.standing.status_of(failed) == Some(Status::Failed) => {
            format!("its process {pid} failed at `{failed}`: {cause}")
        }
        _ => format!(
            "its process {pid} died at `{}`",
            step.unwrap_or("its first step")
        ),
    }
}

/// Resumes an operation with a context from its journal and from the host. Returns the VM's new domain with the result.
fn resume_kind(
    host: &mut Host,
    uuid: Uuid,
    kind: Kind,
    contents: &Contents,
    last: &Operation,
) -> Result<(Resumed<EngineError>, Option<DomId>), EngineError> {
    let vm = OfVm::taken_over(uuid);
    let old = domid_of(last, "old");
    let has_old = old.ok_or_else(|| vm.has_no_domain());
    Ok(match kind {
        Kind::Create | Kind::Restore => {
            let mut context = remade(host, uuid, last, last.is_set(KEEPS_RECORD))?;
            let resumed = resume(host, uuid, kind, contents, last, &mut context)?;
            (resumed, context.new_domain())
        }
        Kind::Restart | Kind::RenameRestart => {
            let create = remade(host, uuid, last, true)?;
            let mut context = restart::Context::new(vm, has_old?, aside_of(last), create);
            let resumed = resume(host, uuid, kind, contents, last, &mut context)?;
            (resumed, context.create.new_domain())
        }
        Kind::Destroy => {
            let keeps_record = last.is_set(KEEPS_RECORD);
            let mut context = destroy::Context::new(vm, has_old?, keeps_record);
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::Attach => {
            let context = hotplug::attach::from_journal(uuid, has_old?, last);
            let mut context = context.ok_or_else(|| unreadable(host, uuid, last))?;
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::Detach => {
            let context = hotplug::detach::from_journal(uuid, has_old?, last);
            let mut context = context.ok_or_else(|| unreadable(host, uuid, last))?;
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::DumpCore => {
            let context = dump_core::from_journal(uuid, has_old?, last);
            let mut context = context.ok_or_else(|| vm.has_no_domain())?;
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::Suspend => {
            let mut context = suspend::Suspend::taken_over(uuid, has_old?, last);
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::Resume => {
            let mut context = suspend::Resume::taken_over(uuid, has_old?);
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::Save | Kind::Checkpoint => {
            let context = save::from_journal(uuid, has_old?, last);
            let mut context = context.ok_or_else(|| unreadable(host, uuid, last))?;
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
        Kind::SoftReset => {
            let mut context = soft_reset::Context::taken_over(uuid, has_old?, last);
            (
                resume(host, uuid, kind, contents, last, &mut context)?,
                None,
            )
        }
    })
}

/// The error of an operation whose arguments this build cannot read: another version of Xyl has written them.
fn unreadable(host: &Host, uuid: Uuid, last: &Operation) -> EngineError {
    EngineError::UnknownOperation {
        uuid: last.begin.uuid.clone(),
        path: host.dirs.journal(uuid),
        kind: last.begin.kind.clone(),
    }
}

fn domid_of(operation: &Operation, key: &str) -> Option<DomId> {
    u16::try_from(operation.number(key)?).ok().map(DomId)
}

/// The identity that the journal has for a domain that is renamed aside.
fn aside_of(operation: &Operation) -> Option<Aside> {
    let uuid = Uuid::try_parse(operation.text("aside_uuid")?).ok()?;
    let name = operation.text("aside_name")?.to_owned();
    Some(Aside { uuid, name })
}

/// The context of a create, with the domain that it has made.
fn remade(
    host: &mut Host,
    uuid: Uuid,
    last: &Operation,
    keeps_record: bool,
) -> Result<create::Context<'static>, EngineError> {
    let noted = domid_of(last, "domid");
    let old = domid_of(last, "old");
    let domid = match is_there(host, uuid, noted)? {
        true => noted,
        // The number may be that of an earlier try, whose domain was removed.
        false => half_made(host, uuid, old.filter(|_| !evidence::is_remade(last)))?.or(noted),
    };
    let paused = last.is_set("paused");
    Ok(create::Context::taken_over(
        uuid,
        domid,
        paused,
        keeps_record,
    ))
}

/// Whether the VM has a domain of that number.
fn is_there(host: &Host, uuid: Uuid, domid: Option<DomId>) -> Result<bool, EngineError> {
    let Some(domid) = domid else {
        return Ok(false);
    };
    let info = host.hv.domain_info(domid)?;
    Ok(info.is_some_and(|info| &info.handle == uuid.as_bytes()))
}

/// A domain of this VM that is in no journal: the process that made it died before it could record the number. It has
/// never run, and has no nodes.
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

/// Moves a damaged journal away, and removes a domain that is not complete. A domain that has run or is complete stays
/// as it is.
fn repair(host: &mut Host, uuid: Uuid, damage: &str) -> Result<Left, EngineError> {
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
    let aside = set_aside(host, uuid)?;
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
            was_reported: false,
        }),
    })
}

/// Moves a VM's journal to the folder of damaged journals, for the administrator. Returns its new path.
fn set_aside(host: &Host, uuid: Uuid) -> Result<PathBuf, EngineError> {
    let (from, to) = (host.dirs.journal(uuid), damaged(&host.dirs, uuid));
    let files = &*host.files;
    // The next recovery reports this one, also where it takes the place of an older one.
    let _ = os_port::remove_if_there(files, &reported_path(host));
    files
        .create_folder(&host.dirs.damaged())
        .and_then(|()| files.rename(&from, &to))
        .map_err(|source| EngineError::io("set aside", &from, source))?;
    Ok(to)
}

/// Moves a journal of another version away, for a destroy that ends the VM. The operation may have made other things
/// besides the VM's domain; those may stay.
fn give_up(host: &mut Host, uuid: Uuid) -> Result<Left, EngineError> {
    let name = journal::name(&*host.files, &host.dirs, uuid).unwrap_or_default();
    let domid = domains::living(&*host.hv, uuid.into_bytes())?;
    let aside = set_aside(host, uuid)?;
    Ok(Left {
        contents: Contents::default(),
        recovered: Some(Recovered {
            uuid,
            name,
            domid,
            what: format!(
                "the journal was of another version of xyl and is kept as {}; `xyl fsck` shows whether something of what was under way is left",
                aside.display()
            ),
            has_failed: true,
            was_reported: false,
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
