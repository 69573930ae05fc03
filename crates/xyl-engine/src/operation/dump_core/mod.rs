//! Writing a domain's core to a file: its memory and the registers of its vCPUs, for crash(8) and its like.
//!
//! It is an operation like the others. The guest stands still while its memory is copied, unless it is to run
//! on. What is written has another name until it is whole and on the disk, so nobody ever sees half a core.

mod format;

use std::path::{Path as FilePath, PathBuf};
use std::time::Instant;

use os_port::{Append, remove_if_there};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Errno, Gfn, GuestKind, PAGE_SIZE, VcpuId, VersionInfo};
use xyl_saga::{Facts, OnDeath, Operation, Outcome, Past, Step};

pub use crate::error::DumpError;
use crate::operation::{Draft, Kind, step};
use crate::vm::Vm;
use crate::vm::names;
use crate::{Cancel, EngineError, Host, VmGuard};
use format::{Core, NO_PAGE, Page};

/// How long the memory may take, in seconds: that of a guest of a TiB, at 100 MiB a second, takes three hours.
const WRITE_LIMIT_S: u64 = 12 * 3600;
/// How long the disk may take for what has not reached it by then, in seconds.
const SYNC_LIMIT_S: u64 = 3600;
/// Pages that are mapped, copied and written at a time.
const BATCH_PAGES: usize = 256;
/// Frames that are looked at between two looks at the clock.
const FRAMES_AT_A_TIME: u32 = 64 << 10;
/// Frames below 4 GiB, where the pages of a guest that does not have as many end up too: its console, its tables.
const FRAMES_BELOW_4G: u64 = 1 << 20;
/// More vCPUs than any domain has.
const VCPUS_MAX: u32 = 8192;

/// The argument of a core that is dumped because its domain has ended.
const AT_END: &str = "at_end";

/// What to dump.
pub struct DumpRequest<'r> {
    /// Number of the domain.
    pub domid: DomId,
    /// The file, by its whole path. One that is there is replaced.
    pub file: &'r FilePath,
    /// Whether the guest runs on meanwhile: what is in the file is then not of one moment.
    pub is_live: bool,
    /// Told, now and then, how many bytes have been written, and how many there will be.
    pub progress: &'r mut dyn FnMut(u64, u64),
}

/// Result of a dump: sizes and page counts of the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dumped {
    /// The file's size.
    pub size_bytes: u64,
    /// Pages in it.
    pub nr_pages: u64,
    /// Pages that Xen counts as the domain's, and that could not be found or mapped.
    pub nr_missing: u64,
}

/// What the steps work on.
pub(crate) struct Dump<'a> {
    /// The name that the file gets.
    pub file: PathBuf,
    /// The name that it has until then.
    pub unfinished: PathBuf,
    /// Whether it is the dump that pauses the domain.
    pub holds: bool,
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
    pub dumped: Dumped,
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
    owner.tell(host);
    // Another process may have had its turn, and the number may be another domain's by now.
    let now = living(host, domid)?;
    if now.handle != info.handle {
        return Err(EngineError::NoSuchDomain(domid.to_string()));
    }
    carry_out(host, owner, &now, request, false, cancel)
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

/// Where a monitor writes how far the core is that it dumps.
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
    let dump = Dump {
        file: request.file.to_owned(),
        unfinished: unfinished(host, request.file)?,
        holds: !request.is_live && !is_at_rest,
        progress: Some(request.progress),
        dumped: Dumped::default(),
    };
    let mut args = Facts::new();
    args.insert("old".to_owned(), info.domid.0.into());
    args.insert("file".to_owned(), text(&dump.file)?.into());
    args.insert("unfinished".to_owned(), text(&dump.unfinished)?.into());
    args.insert("holds".to_owned(), dump.holds.into());
    args.insert(AT_END.to_owned(), is_at_end.into());
    let name = names::on_disk(host, info);
    let mut draft = Draft::new(host, uuid);
    draft.old = Some(info.domid);
    draft.dump = Some(dump);
    owner.carry_out(Kind::DumpCore, &name, args, &mut draft, cancel, &mut |_| ())?;
    Ok(draft.dump.map(|dump| dump.dumped).unwrap_or_default())
}

/// What a core is called while it is being written: a name beside its own that nobody else gives.
fn unfinished(host: &Host, file: &FilePath) -> Result<PathBuf, EngineError> {
    let name = file.file_name().ok_or_else(|| DumpError::NoFile {
        path: file.to_owned(),
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let unique = Uuid::from_bytes(host.process.new_uuid());
    hidden.push(format!(".{}.part", unique.simple()));
    Ok(file.with_file_name(hidden))
}

fn text(path: &FilePath) -> Result<String, DumpError> {
    let no_text = || DumpError::NoText {
        path: path.to_owned(),
    };
    path.to_str().map(str::to_owned).ok_or_else(no_text)
}

/// What the journal says of a dump, for whoever takes it over.
pub(crate) fn from_journal<'a>(operation: &Operation) -> Option<Dump<'a>> {
    Some(Dump {
        file: PathBuf::from(operation.text("file")?),
        unfinished: PathBuf::from(operation.text("unfinished")?),
        holds: operation.is_set("holds"),
        progress: None,
        dumped: Dumped::default(),
    })
}

// ---- a domain that has ended ----------------------------------------------------------------------

/// Dumps the core of a VM's domain that has ended, as `on_...="coredump-..."` asks, to the file that xl writes it to.
/// A core that cannot be had is told of, and no reason not to go on. One that a monitor dumped that died afterwards is
/// not dumped again.
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

impl Dumped {
    /// The result as one line of English text.
    pub fn line(&self) -> String {
        let missing = match self.nr_missing {
            0 => String::new(),
            nr => format!("; {nr} more could not be read"),
        };
        format!(
            "{} bytes, {} pages{missing}",
            self.size_bytes, self.nr_pages
        )
    }
}

// ---- the steps ------------------------------------------------------------------------------------

/// The steps, in order.
pub(crate) fn steps<'a>() -> Vec<Step<Draft<'a>>> {
    use OnDeath::{RollBack, RollForwardOnceStarted};
    vec![
        step("stop it", RollBack, 10, hold, Some(let_go)),
        step(
            "write its memory",
            RollBack,
            WRITE_LIMIT_S,
            write,
            Some(remove_unfinished),
        ),
        step("let it run on", RollBack, 10, let_go, None),
        step("wait for the disk", RollBack, SYNC_LIMIT_S, sync, None),
        step(
            "give the file its name",
            RollForwardOnceStarted,
            60,
            give_name,
            None,
        ),
    ]
}

fn of<'d, 'a>(draft: &'d Draft<'a>) -> Result<&'d Dump<'a>, EngineError> {
    draft.dump.as_ref().ok_or_else(|| draft.has_no_domain())
}

fn hold(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let domid = draft.old()?;
    if of(draft)?.holds {
        draft.host.hv.pause_domain(domid)?;
    }
    Ok(())
}

/// Lets the domain run on if it is the dump that holds it. A domain that does not stand still is not let go a second
/// time, which matters where this is repeated.
fn let_go(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let domid = draft.old()?;
    if !of(draft)?.holds {
        return Ok(());
    }
    let info = draft.host.hv.domain_info(domid)?;
    let is_held = info.is_some_and(|info| {
        &info.handle == draft.uuid.as_bytes() && info.flags.paused && !info.flags.dying
    });
    if !is_held {
        return Ok(());
    }
    match draft.host.hv.unpause_domain(domid) {
        // It has gone meanwhile.
        Err(error) if error.is(Errno::ESRCH) => Ok(()),
        other => Ok(other?),
    }
}

fn remove_unfinished(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let path = &of(draft)?.unfinished;
    remove_if_there(&*draft.host.files, path)
        .map_err(|source| EngineError::io("remove", path, source))
}

/// Needs no second time: the process that dies before the next step has its file removed.
fn sync(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let dump = of(draft)?;
    let opened = draft.host.files.append_to(&dump.unfinished);
    opened
        .and_then(|mut file| file.sync())
        .map_err(|source| failed(draft, dump.dumped.size_bytes, source))
}

fn give_name(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let dump = of(draft)?;
    match draft.host.files.rename(&dump.unfinished, &dump.file) {
        // Whoever died here had done it.
        Err(error) if draft.is_taken_over && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| EngineError::io("rename to", &dump.file, source)),
    }
}

/// The error of a core that could not be written.
fn failed(draft: &Draft<'_>, written: u64, source: std::io::Error) -> EngineError {
    use std::io::ErrorKind;
    let remedy = match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ": free some space, or name a file elsewhere"
        }
        ErrorKind::NotFound => ": make the folder, or name a file elsewhere",
        _ => "",
    };
    let dump = draft.dump.as_ref();
    DumpError::Write {
        domid: draft.old.unwrap_or_default(),
        path: dump.map(|dump| dump.file.clone()).unwrap_or_default(),
        written,
        size: dump.map_or(0, |dump| dump.dumped.size_bytes),
        source,
        remedy,
    }
    .into()
}

// ---- the file -------------------------------------------------------------------------------------

fn write(draft: &mut Draft<'_>, deadline: Instant) -> Result<(), EngineError> {
    let domid = draft.old()?;
    let info = living(draft.host, domid)?;
    let subject = Subject::of(draft.host, &info)?;
    let mut pages = pages_of(draft, &info, deadline)?;
    let core = subject.core(pages.len() as u64);
    let dump = draft.dump.as_mut();
    if let Some(dump) = dump {
        dump.dumped = Dumped {
            size_bytes: core.size_bytes(),
            nr_pages: core.nr_pages,
            nr_missing: info.tot_pages.saturating_sub(core.nr_pages),
        };
    }
    let mut file = Output::open(draft)?;
    file.add(draft, &core.head())?;
    write_pages(draft, &mut file, &mut pages, deadline)?;
    for pages in pages.chunks(BATCH_PAGES * 16) {
        file.add(draft, &core.entries(pages))?;
    }
    file.add(draft, &core.end())
}

/// What is known of a domain beside its memory.
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
fn pages_of(
    draft: &Draft<'_>,
    info: &DomainInfo,
    deadline: Instant,
) -> Result<Vec<Page>, EngineError> {
    let (hv, kind) = (&*draft.host.hv, info.kind());
    let end = match kind {
        GuestKind::Pv => hv.phys_info()?.max_mfn.saturating_add(1),
        _ => {
            refuse_on_demand(draft.host, info)?;
            FRAMES_BELOW_4G.saturating_add(info.max_pages.saturating_mul(2))
        }
    };
    let most = usize::try_from(info.tot_pages).unwrap_or(usize::MAX);
    let (mut pages, mut first) = (Vec::new(), 0);
    while first < end && pages.len() < most {
        draft.must_go_on("finding the domain's pages", deadline, WRITE_LIMIT_S)?;
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
    draft: &mut Draft<'_>,
    file: &mut Output,
    pages: &mut Vec<Page>,
    deadline: Instant,
) -> Result<(), EngineError> {
    let domid = draft.old()?;
    let wanted = pages.len();
    let mut buffer = vec![0; BATCH_PAGES * PAGE_SIZE];
    let mut contents = Vec::with_capacity(buffer.len());
    for batch in pages.chunks_mut(BATCH_PAGES) {
        draft.must_go_on("writing the domain's memory", deadline, WRITE_LIMIT_S)?;
        let frames: Vec<Gfn> = batch.iter().map(|(_, frame)| Gfn(*frame)).collect();
        let is_there = draft.host.hv.copy_pages(domid, &frames, &mut buffer)?;
        contents.clear();
        let copied = batch.iter_mut().zip(is_there).zip(buffer.chunks(PAGE_SIZE));
        for ((page, is_there), bytes) in copied {
            match is_there {
                true => contents.extend_from_slice(bytes),
                false => *page = NO_PAGE,
            }
        }
        file.add(draft, &contents)?;
    }
    pages.retain(|page| *page != NO_PAGE);
    let missing = wanted - pages.len();
    let zeros = vec![0; PAGE_SIZE];
    for _ in 0..missing {
        file.add(draft, &zeros)?;
    }
    pages.resize(wanted, NO_PAGE);
    if let Some(dump) = draft.dump.as_mut() {
        dump.dumped.nr_pages -= missing as u64;
        dump.dumped.nr_missing += missing as u64;
    }
    Ok(())
}

/// The file that is being written.
struct Output {
    file: Box<dyn Append>,
    written: u64,
}

impl Output {
    fn open(draft: &Draft<'_>) -> Result<Output, EngineError> {
        let opened = draft.host.files.append_to(&of(draft)?.unfinished);
        let file = opened.map_err(|source| failed(draft, 0, source))?;
        Ok(Output { file, written: 0 })
    }

    fn add(&mut self, draft: &mut Draft<'_>, bytes: &[u8]) -> Result<(), EngineError> {
        let added = self.file.append(bytes);
        added.map_err(|source| failed(draft, self.written, source))?;
        self.written += bytes.len() as u64;
        if let Some(dump) = draft.dump.as_mut() {
            let size = dump.dumped.size_bytes;
            if let Some(progress) = &mut dump.progress {
                progress(self.written, size);
            }
        }
        Ok(())
    }
}
