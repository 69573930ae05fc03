//! Writing a domain's core to a file: its memory and the registers of its vCPUs, for crash(8) and similar programs.
//!
//! A dump is an operation. The guest is paused while its memory is copied, unless the request says that it runs on.
//! The file has a temporary name until it is complete and on the disk, so no process reads half a core.

mod format;
mod limits;

use std::path::{Path as FilePath, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Errno, Gfn, GuestKind, PAGE_SIZE, VcpuId, VersionInfo};
use xyl_saga::{At, Facts, OnDeath, Operation, Outcome, Past, Plan, Progress};

pub use crate::error::DumpError;
use crate::operation::new_file::{self, BadPath, NewFile, Output};
use crate::operation::{Begun, Kind, OfVm, Steps, step};
use crate::vm::Vm;
use crate::vm::names;
use crate::{Cancel, EngineError, Host, VmGuard};
use format::{Core, NO_PAGE, Page};
pub use xyl_api::Dumped;

/// Time limit for writing the memory, in seconds. A guest of 1 TiB takes three hours at 100 MiB per second.
const WRITE_LIMIT_S: u64 = 12 * 3600;
/// Time limit for the disk to write the rest, in seconds.
const SYNC_LIMIT_S: u64 = 3600;
/// Pages that are mapped, copied and written at a time.
const BATCH_PAGES: usize = 256;
/// Number of frames that a dump examines between two looks at the clock.
const FRAMES_AT_A_TIME: u32 = 64 << 10;
/// Frames below 4 GiB, where the pages of a guest that does not have as many end up too: its console, its tables.
const FRAMES_BELOW_4G: u64 = 1 << 20;
/// More vCPUs than any domain has.
const VCPUS_MAX: u32 = 8192;

/// The argument of a core that is dumped because its domain has ended.
const AT_END: &str = "at_end";

/// A request for a dump.
pub struct DumpRequest<'r> {
    /// Number of the domain.
    pub domid: DomId,
    /// The file, as an absolute path. An existing file is replaced.
    pub file: &'r FilePath,
    /// Whether the guest runs on during the dump. Then the core's contents are not of one moment.
    pub is_live: bool,
    /// Called now and then with the number of bytes written, and the core's size.
    pub progress: &'r mut dyn FnMut(u64, u64),
}

/// The context of a dump: the domain, the file and the progress.
pub(crate) struct Dump<'a> {
    vm: OfVm,
    domid: DomId,
    file: NewFile,
    /// Whether the dump pauses the domain, and unpauses it at the end.
    holds: bool,
    progress: Option<&'a mut dyn FnMut(u64, u64)>,
    dumped: Dumped,
}

/// Dumps a domain's core; returns when it is on the disk.
pub fn dump_core(
    host: &mut Host,
    request: DumpRequest<'_>,
    cancel: &Cancel,
) -> Result<Dumped, EngineError> {
    let domid = request.domid;
    let info = named(host, domid)?;
    let owner = VmGuard::take(host, Uuid::from_bytes(info.handle))?;
    owner.report_recovered(host);
    dump_locked(host, Some(owner), request, cancel)
}

/// The same under the lock of the domain's VM. Domain 0 is no VM, and is refused.
pub(crate) fn dump_locked(
    host: &mut Host,
    owner: Option<VmGuard>,
    request: DumpRequest<'_>,
    cancel: &Cancel,
) -> Result<Dumped, EngineError> {
    let domid = request.domid;
    // Another process may have had its turn, and the number may be another domain's by now.
    let now = named(host, domid)?;
    match owner.filter(|owner| owner.uuid.as_bytes() == &now.handle) {
        Some(owner) => carry_out(host, owner, &now, request, false, cancel),
        None => Err(EngineError::NoSuchDomain(domid.to_string())),
    }
}

/// Refuses what [`dump_core`] refuses before it begins.
pub(crate) fn check(host: &Host, domid: DomId) -> Result<(), EngineError> {
    let info = named(host, domid)?;
    refuse_on_demand(host, &info)
}

/// The domain whose core is to be dumped.
fn named(host: &Host, domid: DomId) -> Result<DomainInfo, EngineError> {
    match domid {
        DomId::ZERO => Err(EngineError::ControlDomain("pausing it to dump its core")),
        _ => living(host, domid),
    }
}

/// Path of the file with the progress of a dump by the VM's monitor.
pub(crate) fn progress_file(host: &Host, uuid: Uuid) -> PathBuf {
    host.dirs.vm_run(uuid).join("progress")
}

/// The domain, if it is there and is not about to go.
fn living(host: &Host, domid: DomId) -> Result<DomainInfo, EngineError> {
    let info = host.hv.domain_info(domid)?;
    info.filter(|info| !info.flags.dying)
        .ok_or_else(|| EngineError::NoSuchDomain(domid.to_string()))
}

fn carry_out(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    request: DumpRequest<'_>,
    is_at_end: bool,
    cancel: &Cancel,
) -> Result<Dumped, EngineError> {
    let uuid = Uuid::from_bytes(info.handle);
    let is_at_rest = info.flags.paused || info.flags.shutdown;
    let mut dump = Dump {
        vm: OfVm::begun(uuid),
        domid: info.domid,
        file: new_file(host, request.file)?,
        holds: !request.is_live && !is_at_rest,
        progress: Some(request.progress),
        dumped: Dumped::default(),
    };
    let mut args = Facts::new();
    args.insert("old".to_owned(), info.domid.0.into());
    dump.file.add_to(&mut args);
    args.insert("holds".to_owned(), dump.holds.into());
    args.insert(AT_END.to_owned(), is_at_end.into());
    let name = names::on_disk(host, info);
    let begun = Begun {
        kind: Kind::DumpCore,
        name: &name,
        args,
        plan: plan(),
    };
    owner.carry_out(host, begun, &mut dump, cancel, &mut |_| ())?;
    Ok(dump.dumped)
}

fn new_file(host: &Host, path: &FilePath) -> Result<NewFile, DumpError> {
    let path_of = || path.to_owned();
    NewFile::at(host, path).map_err(|why| match why {
        BadPath::NoFile => DumpError::NoFile { path: path_of() },
        BadPath::NoText => DumpError::NoText { path: path_of() },
    })
}

/// The context of a dump that another process began, from the journal.
pub(crate) fn from_journal<'a>(
    uuid: Uuid,
    domid: DomId,
    operation: &Operation,
) -> Option<Dump<'a>> {
    Some(Dump {
        vm: OfVm::taken_over(uuid),
        domid,
        file: NewFile::of_journal(operation)?,
        holds: operation.is_set("holds"),
        progress: None,
        dumped: Dumped::default(),
    })
}

// ---- a domain that has ended ----------------------------------------------------------------------

/// Dumps the core of a VM's domain that has ended, as `on_...="coredump-..."` asks, to the file that xl writes it to.
/// If that fails, the log has a line with the error, and the monitor goes on. If a monitor dumped the core and died
/// afterwards, the core is not dumped again.
pub(crate) fn at_end(
    host: &mut Host,
    vm: Vm,
    name: &str,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let folder = host.dirs.dump();
    let file = folder.join(name);
    let outcome = dump_ended(host, vm, &folder, &file);
    let file = file.display();
    match outcome {
        Ok(Some(dumped)) => log(&format!(
            "the core of domain {} is in {file}: {}",
            vm.domid,
            dumped.line()
        )),
        Ok(None) => log(&format!("the core of domain {} is in {file}", vm.domid)),
        Err(EngineError::Store(error)) if error.is_connection_lost() => return Err(error.into()),
        Err(error) => log(&format!(
            "the core of domain {} was not dumped to {file}: {error}",
            vm.domid
        )),
    }
    Ok(())
}

fn dump_ended(
    host: &mut Host,
    vm: Vm,
    folder: &FilePath,
    file: &FilePath,
) -> Result<Option<Dumped>, EngineError> {
    let owner = VmGuard::take(host, vm.uuid)?;
    let info = living(host, vm.domid)?;
    if &info.handle != vm.uuid.as_bytes() {
        return Err(EngineError::NoSuchDomain(vm.domid.to_string()));
    }
    if has_dumped(host, vm)? {
        return Ok(None);
    }
    host.files
        .create_folder(folder)
        .map_err(|source| EngineError::io("create folder", folder, source))?;
    limits::take(host, vm, &info, file)?;
    let request = DumpRequest {
        domid: vm.domid,
        file,
        is_live: false,
        progress: &mut |_, _| (),
    };
    carry_out(host, owner, &info, request, true, &Cancel::new()).map(Some)
}

/// Whether the core of this domain was dumped after its end, by its VM's journal.
fn has_dumped(host: &Host, vm: Vm) -> Result<bool, EngineError> {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(vm.uuid))?;
    let past = Past::of(&contents);
    Ok(past.operations.iter().any(|operation| {
        Kind::parse(&operation.begin.kind) == Some(Kind::DumpCore)
            && operation.is_set(AT_END)
            && operation.number("old") == Some(vm.domid.0.into())
            && operation.outcome == Some(Outcome::Done)
    }))
}

// ---- the steps ------------------------------------------------------------------------------------

/// The work of a step of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Pauses the domain, unless it is to run on.
    Hold,
    /// Writes the core under a name of its own.
    Write,
    /// Lets the domain run on.
    LetGo,
    /// Waits until the core is on the disk.
    Sync,
    /// Gives the core its name.
    GiveName,
}

/// The steps, in order.
pub(crate) fn plan() -> Plan<Action> {
    use OnDeath::{RollBack, RollForwardOnceStarted};
    Plan::new()
        .step(step("stop it", Action::Hold, RollBack, 10).with_undo())
        .step(step("write its memory", Action::Write, RollBack, WRITE_LIMIT_S).with_undo())
        .step(step("let it run on", Action::LetGo, RollBack, 10))
        .step(step(
            "wait for the disk",
            Action::Sync,
            RollBack,
            SYNC_LIMIT_S,
        ))
        .step(step(
            "give the file its name",
            Action::GiveName,
            RollForwardOnceStarted,
            60,
        ))
}

impl Steps for Dump<'_> {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        match action {
            Action::Hold => hold(host, self),
            Action::Write => write(host, self, at),
            Action::LetGo => let_go(host, self),
            Action::Sync => sync(host, self),
            Action::GiveName => self.file.give_name(host, &self.vm, None),
        }?;
        Ok(Progress::Done)
    }

    fn undo(
        &mut self,
        host: &mut Host,
        action: &Action,
        _: &mut At<'_>,
    ) -> Result<(), EngineError> {
        match action {
            Action::Hold => let_go(host, self),
            Action::Write => self.file.remove_unfinished(host),
            Action::LetGo | Action::Sync | Action::GiveName => Ok(()),
        }
    }
}

fn hold(host: &Host, dump: &Dump<'_>) -> Result<(), EngineError> {
    if dump.holds {
        host.hv.pause_domain(dump.domid)?;
    }
    Ok(())
}

/// Lets the domain run on if it is the dump that holds it. A domain that does not stand still is not let go a second
/// time, which matters where this is repeated.
fn let_go(host: &Host, dump: &Dump<'_>) -> Result<(), EngineError> {
    if !dump.holds {
        return Ok(());
    }
    let info = host.hv.domain_info(dump.domid)?;
    let is_held = info.is_some_and(|info| {
        &info.handle == dump.vm.uuid.as_bytes() && info.flags.paused && !info.flags.dying
    });
    if !is_held {
        return Ok(());
    }
    match host.hv.unpause_domain(dump.domid) {
        // It has gone meanwhile.
        Err(error) if error.is(Errno::ESRCH) => Ok(()),
        other => Ok(other?),
    }
}

fn sync(host: &Host, dump: &Dump<'_>) -> Result<(), EngineError> {
    let synced = dump.file.sync(host);
    synced.map_err(|source| failed(dump, dump.dumped.size_bytes, source))
}

/// The error of a core that could not be written.
fn failed(dump: &Dump<'_>, written: u64, source: std::io::Error) -> EngineError {
    DumpError::Write {
        domid: dump.domid,
        path: dump.file.path.clone(),
        written,
        size: dump.dumped.size_bytes,
        remedy: new_file::remedy(&source),
        source,
    }
    .into()
}

// ---- the file -------------------------------------------------------------------------------------

fn write(host: &Host, dump: &mut Dump<'_>, at: &At<'_>) -> Result<(), EngineError> {
    let info = living(host, dump.domid)?;
    let subject = Subject::of(host, &info)?;
    let mut pages = pages_of(host, &info, at)?;
    let core = subject.core(pages.len() as u64);
    dump.dumped = Dumped {
        size_bytes: core.size_bytes(),
        nr_pages: core.nr_pages,
        nr_missing: info.tot_pages.saturating_sub(core.nr_pages),
    };
    let opened = dump.file.open(host);
    let mut file = opened.map_err(|source| failed(dump, 0, source))?;
    add(dump, &mut file, &core.head())?;
    write_pages(host, dump, &mut file, &mut pages, at)?;
    for pages in pages.chunks(BATCH_PAGES * 16) {
        add(dump, &mut file, &core.entries(pages))?;
    }
    add(dump, &mut file, &core.end())
}

/// A domain's data for the core, without its memory.
struct Subject {
    version: VersionInfo,
    is_translated: bool,
    is_pv32: bool,
    vcpus: Vec<Vec<u8>>,
    shared_info: Option<Vec<u8>>,
}

impl Subject {
    fn of(host: &Host, info: &DomainInfo) -> Result<Subject, EngineError> {
        let nr_vcpus = info.max_vcpu_id.map_or(0, |last| last.saturating_add(1));
        let mut vcpus = Vec::new();
        for vcpu in 0..nr_vcpus.min(VCPUS_MAX) {
            vcpus.extend(host.hv.vcpu_context(info.domid, VcpuId(vcpu))?);
        }
        if vcpus.is_empty() {
            return Err(DumpError::NoVcpu { domid: info.domid }.into());
        }
        let mut page = vec![0; PAGE_SIZE];
        let frame = [info.shared_info_frame];
        let is_there = host.hv.copy_pages(info.domid, &frame, &mut page)? == [true];
        Ok(Subject {
            version: host.hv.version()?,
            is_translated: info.kind() != GuestKind::Pv,
            is_pv32: info.kind() == GuestKind::Pv && host.hv.address_size_bits(info.domid)? == 32,
            vcpus,
            shared_info: is_there.then_some(page),
        })
    }

    fn core(&self, nr_pages: u64) -> Core<'_> {
        Core {
            version: &self.version,
            is_translated: self.is_translated,
            is_pv32: self.is_pv32,
            vcpus: &self.vcpus,
            shared_info: self.shared_info.as_deref(),
            nr_pages,
        }
    }
}

/// The pages that the domain has, in the order of its own numbers, and no more than Xen counts. Where they can be is
/// bounded by what the toolstack lets it have, not by what the guest says.
fn pages_of(host: &Host, info: &DomainInfo, at: &At<'_>) -> Result<Vec<Page>, EngineError> {
    let (hv, kind) = (&*host.hv, info.kind());
    let end = match kind {
        GuestKind::Pv => hv.phys_info()?.max_mfn.saturating_add(1),
        _ => {
            refuse_on_demand(host, info)?;
            FRAMES_BELOW_4G.saturating_add(info.max_pages.saturating_mul(2))
        }
    };
    let most = usize::try_from(info.tot_pages).unwrap_or(usize::MAX);
    let (mut pages, mut first) = (Vec::new(), 0);
    while first < end && pages.len() < most {
        at.check()?;
        let count =
            u32::try_from(end - first).map_or(FRAMES_AT_A_TIME, |left| left.min(FRAMES_AT_A_TIME));
        let found = hv.pages_among(info.domid, kind, Gfn(first), count)?;
        pages.extend(found.into_iter().map(|(number, frame)| (number.0, frame.0)));
        first += u64::from(count);
    }
    pages.truncate(most);
    pages.sort_unstable();
    Ok(pages)
}

/// Reading a page that is populated on demand populates it, and a domain for which there is not enough is crashed by
/// Xen. One that has ended cannot be harmed. PV domains have no such pages, and Xen answers `EINVAL` for them.
fn refuse_on_demand(host: &Host, info: &DomainInfo) -> Result<(), EngineError> {
    if info.kind() == GuestKind::Pv {
        return Ok(());
    }
    let (entries, set_aside) = host.hv.on_demand_pages(info.domid)?;
    if entries <= set_aside || info.flags.shutdown {
        return Ok(());
    }
    Err(DumpError::OnDemand {
        domid: info.domid,
        pages: entries - set_aside,
    }
    .into())
}

/// Writes the contents of pages. Those that cannot be mapped are left out; at the end as many are none, and zero.
fn write_pages(
    host: &Host,
    dump: &mut Dump<'_>,
    file: &mut Output,
    pages: &mut Vec<Page>,
    at: &At<'_>,
) -> Result<(), EngineError> {
    let wanted = pages.len();
    let mut buffer = vec![0; BATCH_PAGES * PAGE_SIZE];
    let mut contents = Vec::with_capacity(buffer.len());
    for batch in pages.chunks_mut(BATCH_PAGES) {
        at.check()?;
        let frames: Vec<Gfn> = batch.iter().map(|(_, frame)| Gfn(*frame)).collect();
        let is_there = host.hv.copy_pages(dump.domid, &frames, &mut buffer)?;
        contents.clear();
        let copied = batch.iter_mut().zip(is_there).zip(buffer.chunks(PAGE_SIZE));
        for ((page, is_there), bytes) in copied {
            match is_there {
                true => contents.extend_from_slice(bytes),
                false => *page = NO_PAGE,
            }
        }
        add(dump, file, &contents)?;
    }
    pages.retain(|page| *page != NO_PAGE);
    let missing = wanted - pages.len();
    let zeros = vec![0; PAGE_SIZE];
    for _ in 0..missing {
        add(dump, file, &zeros)?;
    }
    pages.resize(wanted, NO_PAGE);
    dump.dumped.nr_pages -= missing as u64;
    dump.dumped.nr_missing += missing as u64;
    Ok(())
}

fn add(dump: &mut Dump<'_>, file: &mut Output, bytes: &[u8]) -> Result<(), EngineError> {
    let added = file.add(bytes);
    added.map_err(|source| failed(dump, file.written, source))?;
    let size = dump.dumped.size_bytes;
    if let Some(progress) = &mut dump.progress {
        progress(file.written, size);
    }
    Ok(())
}
