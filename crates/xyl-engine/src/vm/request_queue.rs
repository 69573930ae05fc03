//! The queue of a VM: its requests and the replies to them, in files.
//!
//! - `/run/xyl/vm/UUID/requests/ID.json`: a request that waits.
//! - `/run/xyl/vm/UUID/requests/ID.started.json`: a request that was begun.
//! - `/run/xyl/vm/UUID/requests/ID.ended.json`: a request that the end of the VM replies to. It was not begun.
//! - `/run/xyl/replies/UUID.ID.json`: a reply that was not fetched yet.
//! - `/run/xyl/replies/UUID.ID.fetched.json`: one that was fetched. A request with its id is not carried out again.
//!
//! Each file is written whole: under another name first, then renamed. Any process of root adds requests and fetches
//! replies; the VM's monitor alone carries requests out and replies. A request's file is removed after its reply is
//! written. The queue is the VM's and not its domain's: a restart keeps it. The end of the VM replies to what waits.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use os_port::{Files, Process, ProcessId, list_if_there};
use uuid::Uuid;
use xen_port::DomId;
use xyl_api::{
    Asker, Done, Envelope, Header, ParseError, PowerDelivery, PowerRequest, Reply, Request,
    RequestId, Saved, limits,
};
use xyl_saga::{Outcome, Past};

use crate::vm::kind::{self, Kind, SAVED_BYTES};
use crate::vm::store;
use crate::{Dirs, EngineError, Host};

/// End of the name of a request or reply.
const JSON: &str = ".json";
/// End of the name of a request that was begun.
const STARTED: &str = ".started.json";
/// End of the name of a request that the end of the VM replies to.
const ENDED: &str = ".ended.json";
/// End of the name of a reply that was fetched.
const FETCHED: &str = ".fetched.json";
/// End of the name of a file that is being written.
const UNFINISHED: &str = ".new";

/// The queue of one VM.
#[derive(Clone, Copy)]
pub struct RequestQueue<'h> {
    files: &'h dyn Files,
    dirs: &'h Dirs,
    vm: Uuid,
}

/// Progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for the monitor.
    Waiting,
    /// It was begun.
    Started,
    /// Its file is gone: it was carried out, taken back, or went with its VM.
    Absent,
}

/// The name of a request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Id of the request.
    pub id: RequestId,
    /// Whether it was begun.
    pub is_started: bool,
    /// Whether the end of the VM was about to reply to it. It was not begun.
    has_ended: bool,
    time_ms: u64,
}

/// The contents of a request's file; an error for what is no request of this version.
pub type Read = Result<Envelope, ParseError>;

/// The present time in milliseconds since 1970.
pub fn now_ms(host: &Host) -> u64 {
    let since_1970 = host
        .clock
        .calendar()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

impl<'h> RequestQueue<'h> {
    /// The queue of a VM on this host.
    pub fn of(host: &'h Host, vm: Uuid) -> RequestQueue<'h> {
        RequestQueue::new(&*host.files, &host.dirs, vm)
    }

    /// The queue of a VM in these folders.
    pub fn new(files: &'h dyn Files, dirs: &'h Dirs, vm: Uuid) -> RequestQueue<'h> {
        RequestQueue { files, dirs, vm }
    }

    fn path(&self, id: RequestId) -> PathBuf {
        self.dirs.requests(self.vm).join(format!("{id}{JSON}"))
    }

    fn started_path(&self, id: RequestId) -> PathBuf {
        self.dirs.requests(self.vm).join(format!("{id}{STARTED}"))
    }

    fn ended_path(&self, id: RequestId) -> PathBuf {
        self.dirs.requests(self.vm).join(format!("{id}{ENDED}"))
    }

    fn reply_path(&self, id: RequestId) -> PathBuf {
        let vm = self.vm.hyphenated();
        self.dirs.replies().join(format!("{vm}.{id}{JSON}"))
    }

    fn fetched_path(&self, id: RequestId) -> PathBuf {
        let vm = self.vm.hyphenated();
        self.dirs.replies().join(format!("{vm}.{id}{FETCHED}"))
    }

    /// Whether the queue has as many requests as it may.
    pub(crate) fn is_full(&self) -> Result<bool, EngineError> {
        let names = self.names()?;
        let queued = names.iter().filter_map(|name| parse_name(name));
        Ok(queued.count() >= limits::QUEUED_MAX)
    }

    /// Whether a request with this id is in the queue, or was replied to.
    pub(crate) fn is_known(&self, id: RequestId) -> Result<bool, EngineError> {
        let is_there = |path: PathBuf| {
            let bytes = read_if_there(self.files, &path, limits::REPLY_MAX_BYTES)?;
            Ok::<bool, EngineError>(bytes.is_some())
        };
        // The request is removed after its reply is written.
        Ok(self.find(id)?.is_some()
            || is_there(self.reply_path(id))?
            || is_there(self.fetched_path(id))?)
    }

    /// Writes a request that is to be added by [`Unfinished::finish`]. `writer` is the process that does so.
    ///
    /// # Errors
    /// [`EngineError::Request`] for one that is too long; those of the disk.
    pub fn prepare(
        &self,
        envelope: &Envelope,
        writer: ProcessId,
    ) -> Result<Unfinished, EngineError> {
        let folder = self.dirs.requests(self.vm);
        create_folder(self.files, &folder)?;
        let prepared = Unfinished {
            new: folder.join(unfinished_name(envelope.id, writer)),
            path: self.path(envelope.id),
        };
        let written = self.files.write(&prepared.new, &envelope.to_json()?);
        match written {
            Ok(()) => Ok(prepared),
            Err(source) => {
                let error = EngineError::io("write", &prepared.new, source);
                prepared.remove(self.files);
                Err(error)
            }
        }
    }

    /// Whether a process that lives is about to add a request.
    pub(crate) fn is_being_added_to(&self, process: &dyn Process) -> Result<bool, EngineError> {
        let names = self.names()?;
        let mut writers = names.iter().filter_map(|name| writer_of(name));
        Ok(writers.any(|writer| is_running(writer, process)))
    }

    /// The requests of the queue, the oldest first.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn list(&self) -> Result<Vec<Queued>, EngineError> {
        let names = self.names()?;
        let mut queued: Vec<Queued> = names.iter().filter_map(|name| parse_name(name)).collect();
        if queued.len() > 1 {
            for one in &mut queued {
                one.time_ms = self.time_of(*one);
            }
        }
        queued.sort_unstable_by_key(|one| (one.time_ms, one.id));
        Ok(queued)
    }

    fn path_of(&self, queued: Queued) -> PathBuf {
        match (queued.is_started, queued.has_ended) {
            (true, _) => self.started_path(queued.id),
            (false, true) => self.ended_path(queued.id),
            (false, false) => self.path(queued.id),
        }
    }

    fn names(&self) -> Result<Vec<String>, EngineError> {
        let folder = self.dirs.requests(self.vm);
        list_if_there(self.files, &folder)
            .map_err(|source| EngineError::io("list", &folder, source))
    }

    /// Time of a request. One that cannot be understood comes first, and so does not stay.
    fn time_of(&self, queued: Queued) -> u64 {
        let path = self.path_of(queued);
        // One that is too long cannot be read.
        let bytes = read_if_there(self.files, &path, limits::REQUEST_MAX_BYTES);
        let header = bytes
            .ok()
            .flatten()
            .and_then(|bytes| Header::parse(&bytes).ok());
        header.map_or(0, |header| header.time_ms)
    }

    /// Reads a request; `None` where it was taken back.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read(&self, queued: Queued) -> Result<Option<Read>, EngineError> {
        let path = self.path_of(queued);
        let bytes = read_if_there(self.files, &path, limits::REQUEST_MAX_BYTES)?;
        Ok(bytes.map(|bytes| Header::parse(&bytes)?.into_typed()))
    }

    /// The request with an id, if it is in the queue.
    pub(crate) fn find(&self, id: RequestId) -> Result<Option<Queued>, EngineError> {
        let names = self.names()?;
        let mut queued = names.iter().filter_map(|name| parse_name(name));
        Ok(queued.find(|one| one.id == id))
    }

    /// Progress of a request.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn standing(&self, id: RequestId) -> Result<Standing, EngineError> {
        Ok(match self.find(id)? {
            Some(one) if one.is_started => Standing::Started,
            Some(_) => Standing::Waiting,
            None => Standing::Absent,
        })
    }

    /// Removes a request that waits. Whether it was there: one that was begun is not taken back.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn take_back(&self, id: RequestId) -> Result<bool, EngineError> {
        remove(self.files, &self.path(id))
    }

    /// Marks a request as begun. Whether it was there: one that was taken back is not begun.
    pub(crate) fn start(&self, queued: Queued) -> Result<bool, EngineError> {
        self.rename(&self.path_of(queued), &self.started_path(queued.id))
    }

    /// Marks a request as one that the end of the VM replies to. Whether it was there.
    fn claim(&self, id: RequestId) -> Result<bool, EngineError> {
        self.rename(&self.path(id), &self.ended_path(id))
    }

    /// Renames a file; whether it was there.
    fn rename(&self, from: &Path, to: &Path) -> Result<bool, EngineError> {
        match self.files.rename(from, to) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other
                .map(|()| true)
                .map_err(|source| EngineError::io("rename", from, source)),
        }
    }

    /// Removes a request that a process was about to reply to at the end of the VM. Whether it was there.
    pub(crate) fn take_back_ended(&self, id: RequestId) -> Result<bool, EngineError> {
        remove(self.files, &self.ended_path(id))
    }

    /// Removes a request that a monitor began, if it is there.
    pub(crate) fn forget_started(&self, id: RequestId) -> Result<(), EngineError> {
        remove(self.files, &self.started_path(id)).map(drop)
    }

    /// Removes a request that was carried out.
    pub(crate) fn remove(&self, queued: Queued) -> Result<(), EngineError> {
        let path = self.path_of(queued);
        remove(self.files, &path).map(drop)
    }

    /// Removes the unfinished files of dead processes.
    pub(crate) fn remove_unfinished(&self, process: &dyn Process) -> Result<(), EngineError> {
        let folder = self.dirs.requests(self.vm);
        let is_left_over =
            |name: &&String| writer_of(name).is_some_and(|writer| !is_running(writer, process));
        for name in self.names()?.iter().filter(is_left_over) {
            remove(self.files, &folder.join(name))?;
        }
        Ok(())
    }

    /// Writes a reply down.
    pub(crate) fn reply(&self, reply: &Reply) -> Result<(), EngineError> {
        create_folder(self.files, &self.dirs.replies())?;
        let path = self.reply_path(reply.id);
        let new = path.with_extension("new");
        store::write_whole(self.files, &new, &path, &reply.to_json()?)
    }

    /// Writes a reply down for an asker that still waits. An asker that takes its request back meanwhile looks for no reply.
    pub(crate) fn reply_if_asked(&self, reply: &Reply) -> Result<(), EngineError> {
        self.reply(reply)?;
        if self.find(reply.id)?.is_none() {
            remove(self.files, &self.reply_path(reply.id))?;
        }
        Ok(())
    }

    /// The reply to a request; `None` where there is none. It stays.
    ///
    /// # Errors
    /// [`EngineError::Request`] for one that this version cannot read; those of the disk.
    pub fn look_for_reply(&self, id: RequestId) -> Result<Option<Reply>, EngineError> {
        read_reply(self.files, &self.reply_path(id))
    }

    /// The reply to a request, also one that was fetched and is kept; `None` where there is none. It stays.
    ///
    /// # Errors
    /// As [`RequestQueue::look_for_reply`].
    pub fn look_for_kept_reply(&self, id: RequestId) -> Result<Option<Reply>, EngineError> {
        match self.look_for_reply(id)? {
            Some(reply) => Ok(Some(reply)),
            None => read_reply(self.files, &self.fetched_path(id)),
        }
    }

    /// Takes a reply. A reply to a process is removed; one to a remote asker is kept for a time, so that the same request is not
    /// carried out again. A damaged reply is moved to `/run/xyl/damaged`. A reply of a later version stays.
    ///
    /// # Errors
    /// As [`RequestQueue::look_for_reply`].
    pub fn fetch(&self, id: RequestId) -> Result<Option<Reply>, EngineError> {
        let (reply, path) = (self.look_for_reply(id), self.reply_path(id));
        match &reply {
            Err(error) if is_damage(error) => set_aside(self.files, self.dirs, &path)?,
            Ok(None) | Err(_) => {}
            Ok(Some(reply)) if !matches!(reply.asker, Some(Asker::Process { .. })) => {
                let renamed = self.files.rename(&path, &self.fetched_path(id));
                renamed.map_err(|source| EngineError::io("rename", &path, source))?;
            }
            Ok(Some(_)) => _ = remove(self.files, &path)?,
        }
        // A monitor removes the request after it has written the reply, unless it died in between. It takes a reply back whose request
        // is gone, so the reply is taken first.
        if matches!(reply, Ok(Some(_))) {
            self.forget_started(id)?;
        }
        reply
    }
}

/// The VMs that have replied to a request with this id. Ids are unique, so there is one at most unless an asker has used one twice.
///
/// # Errors
/// Those of the disk.
pub fn vms_with_reply(
    files: &dyn Files,
    dirs: &Dirs,
    id: RequestId,
) -> Result<Vec<Uuid>, EngineError> {
    let folder = dirs.replies();
    let names =
        list_if_there(files, &folder).map_err(|source| EngineError::io("list", &folder, source))?;
    let wanted = id.to_string();
    let vm_of = |name: &String| {
        let (vm, rest) = name.split_once('.')?;
        let is_reply = rest.split_once('.')?.0 == wanted;
        is_reply.then(|| Uuid::try_parse(vm).ok())?
    };
    Ok(names.iter().filter_map(vm_of).collect())
}

/// Replies to each request of a VM that ends, and removes it. An asker that gets no reply sees that its request is gone.
pub(crate) fn answer_all(host: &Host, vm: Uuid) {
    answer(host, vm, |envelope| {
        let meant = envelope.domain.map(DomId);
        match saved(host, vm, &envelope.request) {
            Some(saved) => Some(Ok(Done::Saved(saved))),
            None => Some(without_domain(&envelope.request, vm, meant, None)),
        }
    });
}

/// The result of a request for a save that has ended the VM, by the VM's journal.
fn saved(host: &Host, vm: Uuid, request: &Request) -> Option<Saved> {
    let Request::Save { file, .. } = request else {
        return None;
    };
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(vm)).ok()?;
    let past = Past::of(&contents);
    let last = kind::last_of_domain(&past)?;
    let is_its = last.text("file").map(Path::new) == Some(file.as_path());
    let is_done = last.begin.kind == Kind::Save.word() && last.outcome == Some(Outcome::Done);
    (is_its && is_done).then(|| Saved {
        size_bytes: last.number(SAVED_BYTES).unwrap_or(0),
    })
}

/// Replies to the requests that no monitor will carry out, and removes them. A process that waits takes its own back. `next` is
/// the VM's domain now.
pub(crate) fn answer_unserved(host: &Host, vm: Uuid, next: Option<DomId>) {
    answer(host, vm, |envelope| {
        let meant = envelope.domain.map(DomId);
        match (&envelope.asker, next) {
            (Asker::Process { .. }, _) => None,
            (_, Some(_)) => Some(Err(EngineError::NoMonitor(vm))),
            (_, None) => Some(without_domain(&envelope.request, vm, meant, None)),
        }
    });
}

/// Replies with the result that `outcome_of` has for a request, and removes the request. A request without a result stays.
fn answer(
    host: &Host,
    vm: Uuid,
    outcome_of: impl Fn(&Envelope) -> Option<Result<Done, EngineError>>,
) {
    let queue = RequestQueue::of(host, vm);
    for queued in queue.list().unwrap_or_default() {
        let Ok(Some(Ok(envelope))) = queue.read(queued) else {
            continue;
        };
        let Some(outcome) = outcome_of(&envelope) else {
            continue;
        };
        let Some(queued) = claim(&queue, queued) else {
            continue;
        };
        if is_wanted(host, &envelope.asker) {
            let outcome = outcome.map_err(|error| error.to_api());
            let reply = Reply::new(queued.id, vm, now_ms(host), outcome).to(envelope.asker);
            let _ = queue.reply_if_asked(&reply);
        }
        let _ = queue.remove(queued);
    }
}

/// Marks a request that waits, so that its asker cannot take it back any more. `None` for one that was taken back.
fn claim(queue: &RequestQueue<'_>, queued: Queued) -> Option<Queued> {
    if queued.is_started || queued.has_ended {
        return Some(queued);
    }
    queue.claim(queued.id).ok()?.then_some(Queued {
        has_ended: true,
        ..queued
    })
}

/// Whether the asker waits for the reply, or may fetch it later.
pub(crate) fn is_wanted(host: &Host, asker: &Asker) -> bool {
    match asker {
        Asker::Process { pid, started_ticks } => {
            let (pid, started_ticks) = (*pid, *started_ticks);
            ProcessId { pid, started_ticks }.is_running(&*host.process)
        }
        Asker::Remote { .. } => true,
    }
}

/// Result of a request whose domain has gone before it was carried out. `meant` is that domain, `next` the VM's domain now.
pub(crate) fn without_domain(
    request: &Request,
    vm: Uuid,
    meant: Option<DomId>,
    next: Option<DomId>,
) -> Result<Done, EngineError> {
    let by_xenstore = Done::Delivered {
        how: PowerDelivery::ByXenstore,
    };
    match (request, next) {
        (Request::Destroy { .. }, None) => Ok(Done::Plain),
        // The guest has ended, as it was to: a monitor may have asked it, and died before it could reply.
        (Request::Power { .. }, None) => Ok(by_xenstore),
        (
            Request::Power {
                request: PowerRequest::Reboot,
                ..
            },
            Some(_),
        ) => Ok(by_xenstore),
        (_, Some(next)) => Err(EngineError::Restarted {
            domid: meant.unwrap_or(next),
            next,
        }),
        (_, None) => Err(EngineError::NoSuchDomain(match meant {
            Some(domid) => domid.to_string(),
            None => format!("uuid={}", vm.hyphenated()),
        })),
    }
}

/// Reads a reply; `None` for a missing file.
fn read_reply(files: &dyn Files, path: &Path) -> Result<Option<Reply>, EngineError> {
    let bytes = read_if_there(files, path, limits::REPLY_MAX_BYTES)?;
    Ok(bytes.map(|bytes| Reply::parse(&bytes)).transpose()?)
}

/// Whether a reply cannot be read by any version.
fn is_damage(error: &EngineError) -> bool {
    match error {
        EngineError::Request(error) => !matches!(error, ParseError::Version(_)),
        EngineError::Io { source, .. } => source.kind() == ErrorKind::FileTooLarge,
        _ => false,
    }
}

/// Moves a damaged reply to `/run/xyl/damaged`, where `xyl recover` and `xyl fsck` report it.
fn set_aside(files: &dyn Files, dirs: &Dirs, path: &Path) -> Result<(), EngineError> {
    let Some(name) = path.file_name() else {
        return Ok(());
    };
    create_folder(files, &dirs.damaged())?;
    match files.rename(path, &dirs.damaged().join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| EngineError::io("set aside", path, source)),
    }
}

/// Removes replies of one VM, or of all: those to processes that have died, those that are too old, and the oldest ones of a
/// VM that has too many.
pub(crate) fn remove_old_replies(host: &Host, vm: Option<Uuid>) -> Result<(), EngineError> {
    let folder = host.dirs.replies();
    let names = list_if_there(&*host.files, &folder)
        .map_err(|source| EngineError::io("list", &folder, source))?;
    let vm_of = |name: &str| Uuid::try_parse(name.split('.').next()?).ok();
    let (names, unfinished): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name.ends_with(JSON));
    for name in unfinished {
        let of = vm_of(&name);
        if (vm.is_none() || of == vm) && !is_being_written(host, of, vm) {
            remove(&*host.files, &folder.join(&name))?;
        }
    }
    let vms: BTreeSet<Option<Uuid>> = names
        .iter()
        .map(|name| vm_of(name))
        .filter(|of| vm.is_none() || *of == vm)
        .collect();
    for one in vms {
        let of_vm = names.iter().filter(|name| vm_of(name) == one);
        remove_old_of(host, of_vm.map(|name| folder.join(name)).collect())?;
    }
    Ok(())
}

/// Whether a process may be writing a reply. The writer holds the VM's lock, which the caller has for the VM `own`.
fn is_being_written(host: &Host, of: Option<Uuid>, own: Option<Uuid>) -> bool {
    match of {
        Some(uuid) if own.is_none() => match host.files.is_locked(&host.dirs.vm_lock(uuid)) {
            Err(error) => error.kind() != ErrorKind::NotFound,
            Ok(is_locked) => is_locked,
        },
        _ => false,
    }
}

/// The same for the replies of one VM.
fn remove_old_of(host: &Host, paths: Vec<PathBuf>) -> Result<(), EngineError> {
    let now_ms = now_ms(host);
    let mut kept = Vec::new();
    for path in paths {
        let is_kept = |reply: &Reply| {
            let age_ms = u128::from(now_ms.saturating_sub(reply.time_ms));
            let asker = reply.asker.as_ref();
            age_ms < limits::REPLY_KEPT.as_millis()
                && asker.is_none_or(|asker| is_wanted(host, asker))
        };
        match read_reply(&*host.files, &path) {
            Ok(None) => {}
            Ok(Some(reply)) if is_kept(&reply) => kept.push((reply.time_ms, path)),
            Ok(Some(_)) => _ = remove(&*host.files, &path)?,
            Err(error) if is_damage(&error) => set_aside(&*host.files, &host.dirs, &path)?,
            // The version that has written it can read it. It is the first to go where there are too many.
            Err(EngineError::Request(_)) => kept.push((0, path)),
            Err(error) => return Err(error),
        }
    }
    kept.sort_unstable();
    let is_fetched = |path: &Path| path.to_string_lossy().ends_with(FETCHED);
    let (fetched, waiting): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|(_, path)| is_fetched(path));
    for of_kind in [fetched, waiting] {
        // One more is about to come.
        let nr_too_many = (of_kind.len() + 1).saturating_sub(limits::REPLIES_MAX);
        for (_, path) in of_kind.iter().take(nr_too_many) {
            remove(&*host.files, path)?;
        }
    }
    Ok(())
}

/// A request that is written, and not in the queue yet.
pub struct Unfinished {
    new: PathBuf,
    path: PathBuf,
}

impl Unfinished {
    /// Adds it to the queue.
    ///
    /// # Errors
    /// Those of the disk; the request is gone then.
    pub fn finish(self, files: &dyn Files) -> Result<(), EngineError> {
        let renamed = files.rename(&self.new, &self.path);
        renamed.map_err(|source| {
            let error = EngineError::io("rename", &self.path, source);
            self.remove(files);
            error
        })
    }

    /// Removes it. What stays goes with the monitor's next look.
    pub fn remove(&self, files: &dyn Files) {
        let _ = remove(files, &self.new);
    }
}

/// Name of a request's file while it is being written: `ID.STARTED.PID.new`. The start time distinguishes the writer from a later
/// process with the same PID. It comes before the PID, because a monitor of the release before takes the last number as the PID.
fn unfinished_name(id: RequestId, writer: ProcessId) -> String {
    match writer.started_ticks {
        Some(ticks) => format!("{id}.{ticks}.{}{UNFINISHED}", writer.pid),
        None => format!("{id}.{}{UNFINISHED}", writer.pid),
    }
}

/// The process that writes a file of the queue, if the name has it; `None` for a file that is complete.
fn writer_of(name: &str) -> Option<Option<ProcessId>> {
    let mut words = name.strip_suffix(UNFINISHED)?.rsplit('.');
    let pid = words.next().and_then(|pid| pid.parse().ok());
    let started_ticks = words.next().and_then(|ticks| ticks.parse().ok());
    Some(pid.map(|pid| ProcessId { pid, started_ticks }))
}

fn is_running(writer: Option<ProcessId>, process: &dyn Process) -> bool {
    writer.is_some_and(|writer| writer.is_running(process))
}

/// The VM of a reply's file, by its name.
pub(crate) fn vm_of_reply(name: &str) -> Option<Uuid> {
    let (vm, rest) = name.strip_suffix(JSON)?.split_once('.')?;
    rest.strip_suffix(FETCHED.trim_end_matches(JSON))
        .unwrap_or(rest)
        .parse::<RequestId>()
        .ok()?;
    Uuid::try_parse(vm).ok()
}

fn parse_name(name: &str) -> Option<Queued> {
    let (started, ended) = (name.strip_suffix(STARTED), name.strip_suffix(ENDED));
    let marked = started.or(ended);
    let id = marked.or_else(|| name.strip_suffix(JSON))?.parse().ok()?;
    Some(Queued {
        id,
        is_started: started.is_some(),
        has_ended: ended.is_some(),
        time_ms: 0,
    })
}

fn create_folder(files: &dyn Files, folder: &Path) -> Result<(), EngineError> {
    files
        .create_folder(folder)
        .map_err(|source| EngineError::io("create folder", folder, source))
}

fn read_if_there(
    files: &dyn Files,
    path: &Path,
    max_bytes: u64,
) -> Result<Option<Vec<u8>>, EngineError> {
    match files.read(path, max_bytes) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EngineError::io("read", path, source)),
    }
}

/// Removes a file; whether it was there.
fn remove(files: &dyn Files, path: &Path) -> Result<bool, EngineError> {
    match files.remove(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other
            .map(|()| true)
            .map_err(|source| EngineError::io("remove", path, source)),
    }
}

#[cfg(test)]
mod tests;
