//! Saving a guest to a file of xl's format, from which xl and Xyl restore it.
//!
//! The guest is suspended, and its memory and CPU state are written. The file gets its name when it is complete and on the disk. Only
//! then the guest is destroyed ([`Kind::Save`]), or goes on ([`Kind::Checkpoint`]). Until then each failure removes the file, and the
//! guest runs as before. The request `save` begins this operation.
//!
//! `output` is the file as the writer of the stream sees it.

mod output;

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path as FilePath;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use xen_build::{SaveFailure, SaveProgress, SaveRequest as StateRequest};
use xen_port::{DomId, DomainInfo, GuestKind, PAGE_SIZE};
use xen_stream::{FileHeader, LibxlHeader, Limits, StreamError, StreamKind, Writer};
use xyl_api::{AfterSave, Saved};
use xyl_saga::{At, Facts, OnDeath, Operation, Plan, Progress};

use crate::device::{self, passed_through};
pub use crate::error::SaveError;
use crate::operation::destroy;
use crate::operation::new_file::{self, BadPath, NewFile, Output};
use crate::operation::suspend::{self, Suspension};
use crate::operation::{Begun, Kind, OfVm, Steps, step};
use crate::vm::kind::SAVED_BYTES;
use crate::vm::{domains, names};
use crate::{Cancel, EngineError, Host, VmGuard};
use output::ImageFile;

/// Name of the journal's fact with the identity of the complete file.
const IDENTITY: &str = "file_identity";
/// Time limit for writing the memory, in seconds. A guest of 1 TiB takes three hours at 100 MiB per second.
const WRITE_LIMIT_S: u64 = 12 * 3600;
/// Time limit for the disk to write the rest, in seconds.
const SYNC_LIMIT_S: u64 = 3600;

/// A request for a save.
pub(crate) struct SaveRequest<'r> {
    /// The file, as an absolute path. An existing file is replaced.
    pub file: &'r FilePath,
    /// The configuration for the file, as JSON of libxl; `None` for the domain's own.
    pub config: Option<&'r str>,
    /// The fate of the guest.
    pub then: AfterSave,
    /// Called now and then with the number of bytes written, and how many they will be about.
    pub progress: &'r mut dyn FnMut(u64, u64),
}

/// Saves a guest, under the lock of its VM.
pub(crate) fn save_locked(
    host: &mut Host,
    owner: VmGuard,
    info: &DomainInfo,
    request: SaveRequest<'_>,
    cancel: &Cancel,
) -> Result<Saved, EngineError> {
    check(host, info, request.then)?;
    let suspension = Suspension::of(info)?;
    let file = new_file(host, request.file)?;
    let config = config(host, info, &request)?;
    let mut args = suspension.args();
    file.add_to(&mut args);
    let (kind, plan) = match request.then {
        AfterSave::Destroy => (Kind::Save, plan()),
        AfterSave::Run => (Kind::Checkpoint, plan_of_checkpoint()),
        AfterSave::Pause => (Kind::Checkpoint, plan_of_paused()),
    };
    let begun = Begun {
        kind,
        name: &names::on_disk(host, info),
        args,
        plan,
    };
    let vm = OfVm::begun(Uuid::from_bytes(info.handle));
    let mut save = Save {
        vm,
        domid: info.domid,
        kind: info.kind(),
        tot_pages: info.tot_pages,
        suspension,
        file,
        config,
        progress: Some(request.progress),
        size_bytes: 0,
        output: None,
        identity: None,
        destroy: destroy::Context::new(vm, info.domid, false),
    };
    owner.carry_out(host, begun, &mut save, cancel, &mut |_| ())?;
    Ok(Saved {
        size_bytes: save.size_bytes,
    })
}

/// Refuses what a save refuses before it begins.
pub(crate) fn check(
    host: &mut Host,
    info: &DomainInfo,
    then: AfterSave,
) -> Result<(), EngineError> {
    suspend::refuse_hvm(info, "save")?;
    Suspension::of(info)?;
    let domid = info.domid;
    if info.kind() == GuestKind::Pv && host.hv.address_size_bits(domid)? == 32 {
        return Err(SaveError::Pv32 { domid }.into());
    }
    if !passed_through::pci_devices(&mut host.store, domid)?.is_empty() {
        return Err(SaveError::PassedThrough { domid }.into());
    }
    match then {
        AfterSave::Destroy => destroy::check(host, info, false),
        AfterSave::Run | AfterSave::Pause => Ok(()),
    }
}

fn new_file(host: &Host, path: &FilePath) -> Result<NewFile, SaveError> {
    let path_of = || path.to_owned();
    NewFile::at(host, path).map_err(|why| match why {
        BadPath::NoFile => SaveError::NoFile { path: path_of() },
        BadPath::NoText => SaveError::NoText { path: path_of() },
    })
}

/// The configuration for the file: JSON of libxl.
fn config(
    host: &mut Host,
    info: &DomainInfo,
    request: &SaveRequest<'_>,
) -> Result<Vec<u8>, EngineError> {
    let json: Value = match request.config {
        Some(text) => serde_json::from_str(text).map_err(|error| SaveError::BadConfig {
            path: request.file.to_owned(),
            why: error.to_string(),
        })?,
        None => {
            let records = (&*host.files, &*host.dirs.xen_lib);
            let mut json = domains::configuration(&*host.hv, &mut host.store, records, info)?;
            device::drop_detached(host, info.domid, &mut json)?;
            json
        }
    };
    Ok(json.to_string().into_bytes())
}

// ---- the steps ------------------------------------------------------------------------------------

/// The work of a step of a save.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Makes the file, with the configuration.
    Open,
    /// A step that suspends the guest.
    Suspend(suspend::Action),
    /// Writes its memory and CPU state.
    Write,
    /// Has the guest go on.
    LetRun,
    /// Waits until the file is on the disk.
    Sync,
    /// Gives the file its name.
    GiveName,
    /// Waits until the disk has the name.
    SyncName,
    /// Has the guest go on, but paused.
    Pause,
    /// A step that destroys the domain.
    Destroy(destroy::Action),
}

/// The steps of a save, in order. The guest is saved once the file has its name; the rest ends the domain.
pub(crate) fn plan() -> Plan<Action> {
    let ended = destroy::plan().map(Action::Destroy);
    named(synced(written())).then(ended)
}

/// The steps of a save whose guest runs on. It goes on before the disk has the file.
pub(crate) fn plan_of_checkpoint() -> Plan<Action> {
    let let_run = step("let it go on", Action::LetRun, OnDeath::RollBack, 10);
    named(synced(written().step(let_run)))
}

/// The steps of a save whose guest is paused then.
pub(crate) fn plan_of_paused() -> Plan<Action> {
    named(synced(written())).step(step(
        "leave it paused",
        Action::Pause,
        OnDeath::RollForward,
        10,
    ))
}

fn written() -> Plan<Action> {
    use OnDeath::RollBack;
    Plan::new()
        .step(step("make the file", Action::Open, RollBack, 60).with_undo())
        .then(suspend::plan().map(Action::Suspend))
        .step(step(
            "write its state",
            Action::Write,
            RollBack,
            WRITE_LIMIT_S,
        ))
}

fn synced(plan: Plan<Action>) -> Plan<Action> {
    plan.step(step(
        "wait for the disk",
        Action::Sync,
        OnDeath::RollBack,
        SYNC_LIMIT_S,
    ))
}

fn named(plan: Plan<Action>) -> Plan<Action> {
    plan.step(step(
        "give the file its name",
        Action::GiveName,
        OnDeath::RollForwardOnceStarted,
        60,
    ))
    .step(step(
        "wait for its name on the disk",
        Action::SyncName,
        OnDeath::RollForward,
        600,
    ))
}

/// The context of a save: the domain, the file and the progress.
pub(crate) struct Save<'a> {
    vm: OfVm,
    domid: DomId,
    kind: GuestKind,
    /// Pages of the domain, by which the progress is counted.
    tot_pages: u64,
    suspension: Suspension,
    file: NewFile,
    config: Vec<u8>,
    progress: Option<&'a mut dyn FnMut(u64, u64)>,
    size_bytes: u64,
    /// The open file, until the disk has it.
    output: Option<Output>,
    /// Identity of the complete file.
    identity: Option<String>,
    destroy: destroy::Context,
}

/// The context of a save that another process began, from the journal.
pub(crate) fn from_journal<'a>(
    uuid: Uuid,
    domid: DomId,
    operation: &Operation,
) -> Option<Save<'a>> {
    let vm = OfVm::taken_over(uuid);
    Some(Save {
        vm,
        domid,
        // A state that another process has begun to write is never written on.
        kind: GuestKind::Pvh,
        tot_pages: 0,
        suspension: Suspension::taken_over(uuid, domid, operation),
        file: NewFile::of_journal(operation)?,
        config: Vec::new(),
        progress: None,
        size_bytes: operation.number(SAVED_BYTES).unwrap_or(0),
        output: None,
        // Without one no file counts as this one.
        identity: Some(operation.made_text(IDENTITY).unwrap_or_default().to_owned()),
        destroy: destroy::Context::new(vm, domid, false),
    })
}

impl Steps for Save<'_> {
    type Action = Action;

    fn apply(
        &mut self,
        host: &mut Host,
        action: &Action,
        at: &mut At<'_>,
    ) -> Result<Progress, EngineError> {
        match action {
            Action::Open => open(host, self),
            Action::Suspend(suspend::Action::Ask) => return self.suspension.ask(host, at),
            Action::Suspend(suspend::Action::Await) => return self.suspension.wait(host, at),
            Action::Write => write(host, self, at),
            Action::LetRun => self.suspension.end(host),
            Action::Sync => sync(host, self),
            // From here on the guest is saved.
            Action::GiveName => self
                .file
                .give_name(host, &self.vm, self.identity.as_deref()),
            Action::SyncName => self.file.sync_name(host),
            Action::Pause => self.suspension.end_paused(host),
            Action::Destroy(action) => return self.destroy.apply(host, action, at),
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
            Action::Open => self.file.remove_unfinished(host),
            Action::Suspend(suspend::Action::Ask) => self.suspension.take_back(host),
            _ => Ok(()),
        }
    }

    fn made(&self) -> Facts {
        let mut facts = Facts::new();
        if self.size_bytes > 0 {
            facts.insert(SAVED_BYTES.to_owned(), self.size_bytes.into());
        }
        if let Some(identity) = &self.identity {
            facts.insert(IDENTITY.to_owned(), identity.as_str().into());
        }
        facts
    }
}

/// The file is made before the guest is suspended: a missing folder is found while it runs.
fn open(host: &Host, save: &mut Save<'_>) -> Result<(), EngineError> {
    let opened = save.file.open(host);
    save.output = Some(opened.map_err(|source| failed(save, 0, source))?);
    Ok(())
}

/// Waits for the disk, by the open file that was written: another one would not get each error. The hidden name must still be that of a
/// file with all the bytes.
fn sync(host: &Host, save: &mut Save<'_>) -> Result<(), EngineError> {
    let fail = |save: &Save<'_>, source| failed(save, save.size_bytes, source);
    let mut output = take_output(save)?;
    output.sync().map_err(|source| fail(save, source))?;
    let found = save.file.identity(host);
    let (identity, size_bytes) = found.map_err(|source| fail(save, source))?;
    if size_bytes != save.size_bytes {
        return Err(fail(save, another_file()));
    }
    save.identity = Some(identity);
    Ok(())
}

/// The open file. The steps that use it are made by the process that has opened it.
fn take_output(save: &mut Save<'_>) -> Result<Output, EngineError> {
    let output = save.output.take();
    output.ok_or_else(|| failed(save, save.size_bytes, another_file()))
}

fn another_file() -> std::io::Error {
    std::io::Error::other("the file has gone, or another one has its hidden name")
}

/// Writes the whole file.
fn write(host: &mut Host, save: &mut Save<'_>, at: &At<'_>) -> Result<(), EngineError> {
    let mut file = ImageFile::new(take_output(save)?);
    let outcome = write_stream(host, save, &mut file, at);
    if let Some(source) = file.error.take() {
        return Err(failed(save, file.written(), source));
    }
    outcome?;
    file.flush()
        .map_err(|source| failed(save, file.written(), source))?;
    save.size_bytes = file.written();
    save.output = Some(file.into_output());
    Ok(())
}

/// Writes the stream: what comes before the state, the state, and what comes after it.
fn write_stream(
    host: &mut Host,
    save: &mut Save<'_>,
    file: &mut ImageFile,
    at: &At<'_>,
) -> Result<(), EngineError> {
    let (domid, path) = (save.domid, save.file.path.clone());
    let of_state = |source: xen_build::SaveError| SaveError::State {
        domid,
        path: path.clone(),
        source: Box::new(source),
    };
    let of_stream = |error: StreamError| of_state(error.into());
    let mut writer = Writer::new(file, StreamKind::XlFile, Limits::default());
    let header = FileHeader::with_json(&save.config);
    writer.file_header(&header).map_err(of_stream)?;
    let libxl = LibxlHeader {
        is_converted: false,
    };
    writer.libxl_header(&libxl).map_err(of_stream)?;
    writer.libxc_context().map_err(of_stream)?;
    let request = StateRequest {
        domid,
        kind: save.kind,
        live: false,
    };
    let size = save.tot_pages.saturating_mul(PAGE_SIZE as u64);
    let mut stopped = None;
    let mut report = |now: SaveProgress| {
        if let Some(progress) = &mut save.progress {
            progress(now.pages_written.saturating_mul(PAGE_SIZE as u64), size);
        }
        match at.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(stop) => {
                stopped = Some(stop);
                ControlFlow::Break(())
            }
        }
    };
    // The guest is suspended already.
    let mut is_suspended = || Ok::<(), EngineError>(());
    let saved = xen_build::save(
        &*host.hv,
        &request,
        &mut writer,
        &mut is_suspended,
        &mut report,
    );
    match (saved, stopped) {
        (Err(_), Some(stop)) => return Err(stop.into()),
        (Err(SaveFailure::Suspend(error)), None) => return Err(error),
        (Err(SaveFailure::Save(source)), None) => return Err(of_state(source).into()),
        (Ok(_), _) => {}
    }
    Ok(writer.end().map_err(of_stream)?)
}

/// The error of a file that could not be written.
fn failed(save: &Save<'_>, written: u64, source: std::io::Error) -> EngineError {
    SaveError::Write {
        domid: save.domid,
        path: save.file.path.clone(),
        written,
        remedy: new_file::remedy(&source),
        source,
    }
    .into()
}
