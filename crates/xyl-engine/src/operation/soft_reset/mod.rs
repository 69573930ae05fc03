//! Soft reset: a guest that starts a new kernel in its own memory (Linux: `kexec -e`) asks for
//! interfaces as new, and goes on in the same domain.
//!
//! It asks by shutting down with reason 5. Then the domain's number, memory, registers and console
//! stay, while its event channels, watches and xenstore nodes are made anew. The way is a state
//! machine ([`State`], [`next`]) over named steps, each idempotent: whoever takes over looks at Xen,
//! xenstore and one note of ours below `/libxl/D`, and goes on from there. Nothing is undone, for a
//! guest that has asked cannot go back: what cannot be finished ends as a crash does, by `on_crash`.
//!
//! Facts: `domain_soft_reset` in Xen, `XEN_DOMCTL_soft_reset` in `domctl.h`, and
//! `docs/soft-reset.md`, which holds the table of states printed from here.

mod state;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Errno, EvtchnPort, Gfn, GuestKind, HvmParam, ShutdownReason};
use xenstore::{Batch, Path, Tree};

use crate::control::power::{self, PowerRequest};
use crate::device::console::Ring;
use crate::device::{self, KINDS};
pub use crate::error::SoftResetError;
use crate::operation::create::{self, Daemons};
use crate::operation::xenstore_nodes::{self, DomainTree};
use crate::vm::Vm;
use crate::{EngineError, Host};

pub use state::{Event, ImpossibleEvent, State, next};

/// How often a soft reset is tried before it is given up.
const TRIES: u32 = 3;
/// How long Xen may answer that it is busy.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// The first pause while Xen is busy; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// The longest pause while Xen is busy.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How often the log is told of a guest that resets itself all the time.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How many times as long as its last reset took a domain waits at least for the next one: resets of one guest take a
/// quarter of the time at most, whatever it asks for.
const REST_TIMES: u32 = 3;
/// The longest such wait, so that one slow reset holds up no other for long. It is what xl waits before each.
const REST_MAX: Duration = Duration::from_secs(2);

/// How a soft reset ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs on, in the same domain.
    Running,
    /// It could not be done; why. The domain is shut down, as after a crash.
    GivenUp(String),
    /// The domain was destroyed meanwhile.
    Gone,
}

/// Whether a soft reset of the domain was begun and not finished: its process died.
pub fn is_under_way(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    Ok(host.store.exists(&note_path(domid)?)?)
}

/// Resets a domain that has shut down, or finishes a reset that somebody began. `log` is told of
/// failures. An error means that xenstored is lost; whoever comes next goes on.
pub fn run(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<Outcome, EngineError> {
    let mut draft = Draft::new(host, vm);
    let (mut state, mut failures, mut why) = (State::Unknown, 0, String::new());
    while !state.is_end() {
        let event = match draft.advance(state) {
            Ok(event) => event,
            Err(StepFailure {
                cause: EngineError::Store(error),
                ..
            }) if error.is_connection_lost() => return Err(error.into()),
            Err(failure) => {
                failures += 1;
                why = failure.to_string();
                let event = judge(&failure.cause, failures);
                if event == Event::Failed {
                    log(&format!(
                        "soft reset of domain {}: {why}; trying again",
                        vm.domid
                    ));
                }
                event
            }
        };
        state = next(state, event).map_err(|error| SoftResetError::Table(error.to_string()))?;
    }
    Ok(match state {
        State::Running => Outcome::Running,
        State::Gone => Outcome::Gone,
        _ => {
            draft.give_up(log)?;
            Outcome::GivenUp(if why.is_empty() {
                "it was given up before".to_owned()
            } else {
                why
            })
        }
    })
}

/// A step that failed.
struct StepFailure {
    step: &'static str,
    cause: EngineError,
}

impl std::fmt::Display for StepFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

/// What the reset's n-th failure means for it.
fn judge(cause: &EngineError, failures: u32) -> Event {
    match cause {
        EngineError::NoSuchDomain(_) => Event::Gone,
        EngineError::Hypervisor(error) if error.is(Errno::ESRCH) => Event::Gone,
        EngineError::Hypervisor(error) if is_final(error.errno()) => Event::Refused,
        EngineError::SoftReset(_) => Event::Refused,
        _ if failures >= TRIES => Event::Refused,
        _ => Event::Failed,
    }
}

/// Answers of Xen that will not change.
fn is_final(errno: Option<Errno>) -> bool {
    errno.is_some_and(|errno| {
        [
            Errno::EOPNOTSUPP,
            Errno::ENOSYS,
            Errno::EPERM,
            Errno::EACCES,
        ]
        .contains(&errno)
    })
}

// ---- the note -----------------------------------------------------------------------------------

/// What only we know of a reset under way; all else is looked up. It is below `/libxl/D`, where no
/// guest can write, and goes with the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    phase: Phase,
    /// The domain was paused by somebody else before, and stays so.
    stays_paused: bool,
    /// What the guest was asked for and had not taken yet: the node is the guest's, and goes with the release.
    asked_for: Option<PowerRequest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The soft reset has begun.
    Asked,
    /// The xenstore nodes are new.
    Described,
    /// The soft reset has failed for good.
    GivenUp,
}

/// What a note says where the domain stays paused.
const STAYS_PAUSED: &str = " paused";

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Phase::Asked => "asked",
            Phase::Described => "described",
            Phase::GivenUp => "given-up",
        }
    }
}

impl Note {
    fn text(self) -> String {
        let asked_for = self
            .asked_for
            .map_or_else(String::new, |request| format!(" {}", request.word()));
        let paused = if self.stays_paused { STAYS_PAUSED } else { "" };
        format!("{}{asked_for}{paused}", self.phase.word())
    }

    fn parse(text: &str) -> Option<Note> {
        let (text, stays_paused) = match text.strip_suffix(STAYS_PAUSED) {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (word, asked_for) = match text.split_once(' ') {
            Some((word, asked)) => (word, Some(PowerRequest::of_word(asked.as_bytes())?)),
            None => (text, None),
        };
        let phase = [Phase::Asked, Phase::Described, Phase::GivenUp]
            .into_iter()
            .find(|phase| phase.word() == word)?;
        Some(Note {
            phase,
            stays_paused,
            asked_for,
        })
    }
}

fn note_path(domid: DomId) -> Result<Path, EngineError> {
    path(&format!("{}/soft-reset", xenstore_nodes::libxl_path(domid)))
}

/// Somebody else may destroy the domain at any time; what is written afterwards would stay for ever.
fn refuse_removed(store: &mut impl Tree, domid: DomId) -> Result<(), EngineError> {
    if store.exists(&path(&xenstore_nodes::libxl_path(domid))?)? {
        Ok(())
    } else {
        Err(EngineError::NoSuchDomain(domid.to_string()))
    }
}

fn path(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}

// ---- the steps ----------------------------------------------------------------------------------

/// A soft reset under way. It holds nothing but which domain it is about.
pub struct Draft<'a> {
    host: &'a mut Host,
    vm: Vm,
}

/// What a step does.
pub type Apply<'a> = fn(&mut Draft<'a>) -> Result<(), EngineError>;

/// One step of a soft reset. None has an undo: a guest that has asked cannot go back.
pub struct Step<'a> {
    /// What it is called in errors and in the documentation.
    pub name: &'static str,
    /// Does it; idempotent.
    pub apply: Apply<'a>,
}

/// The table of states and what leads from one to the next, as Markdown.
pub fn table() -> String {
    state::table(|state| Some(step(state)?.name))
}

/// The step that leads on from a state.
pub fn step<'a>(state: State) -> Option<Step<'a>> {
    let (name, apply): (_, Apply<'a>) = match state {
        State::Asked => ("note that it has begun", note),
        State::Noted => ("hold the domain", hold),
        State::Held => ("save the device model's state", save_device_model),
        State::ModelSaved => ("release it from xenstored", release),
        State::Released => ("reset it in Xen", reset),
        State::Reset => ("open its channels", open_channels),
        State::Wired => ("write its xenstore nodes", write_nodes),
        State::Described => ("introduce it to xenstored", introduce),
        State::Introduced => ("start the device model again", restore_device_model),
        State::ModelBack => ("let it run", let_run),
        State::Unknown | State::Running | State::GivenUp | State::Gone => return None,
    };
    Some(Step { name, apply })
}

impl<'a> Draft<'a> {
    /// A reset of a domain, begun or not.
    pub fn new(host: &'a mut Host, vm: Vm) -> Draft<'a> {
        Draft { host, vm }
    }

    /// Takes the step of a state.
    fn advance(&mut self, state: State) -> Result<Event, StepFailure> {
        match step::<'a>(state) {
            Some(step) => (step.apply)(self)
                .map(|()| Event::Done)
                .map_err(|cause| StepFailure {
                    step: step.name,
                    cause,
                }),
            None => self.look().map(Event::Found).map_err(|cause| StepFailure {
                step: "look how far it is",
                cause,
            }),
        }
    }

    /// How far the reset is, by Xen, xenstore and the note.
    fn look(&mut self) -> Result<State, EngineError> {
        let (info, note) = (self.info()?, self.read_note()?);
        let Some(note) = note else {
            return Ok(match info.shutdown_reason {
                Some(_) => State::Asked,
                None => State::Running,
            });
        };
        let is_known = self.host.store.is_introduced(self.vm.domid.0)?;
        Ok(match (note.phase, info.flags.shutdown) {
            (Phase::GivenUp, _) => State::GivenUp,
            (Phase::Asked, false) => State::Reset,
            (Phase::Asked, true) if !info.flags.paused => State::Noted,
            (Phase::Asked, true) if is_known => State::Held,
            (Phase::Asked, true) => State::Released,
            (Phase::Described, _) if is_known => State::Introduced,
            (Phase::Described, _) => State::Described,
        })
    }

    /// The domain, as long as it is this one.
    fn info(&self) -> Result<DomainInfo, EngineError> {
        let info = self.host.hv.domain_info(self.vm.domid)?;
        info.filter(|info| !info.flags.dying && &info.handle == self.vm.uuid.as_bytes())
            .ok_or_else(|| EngineError::NoSuchDomain(self.vm.domid.to_string()))
    }

    fn read_note(&mut self) -> Result<Option<Note>, EngineError> {
        let path = note_path(self.vm.domid)?;
        let Some(text) = self.host.store.read_text_opt(&path)? else {
            return Ok(None);
        };
        let bad = || SoftResetError::Note {
            path: path.to_string(),
            text: text.chars().take(40).collect(),
        };
        Ok(Some(Note::parse(&text).ok_or_else(bad)?))
    }

    fn write_note(&mut self, note: Note) -> Result<(), EngineError> {
        let domid = self.vm.domid;
        self.host.store.try_transaction(|transaction| {
            refuse_removed(transaction, domid)?;
            Ok(transaction.write(&note_path(domid)?, note.text().as_bytes())?)
        })
    }

    fn stays_paused(&mut self) -> Result<bool, EngineError> {
        Ok(self.read_note()?.is_some_and(|note| note.stays_paused))
    }

    fn param(&self, param: HvmParam) -> Result<u64, EngineError> {
        Ok(self.host.hv.hvm_param(self.vm.domid, param)?)
    }

    fn port(&self, param: HvmParam) -> Result<EvtchnPort, EngineError> {
        let port = u32::try_from(self.param(param)?).unwrap_or_default();
        Ok(EvtchnPort(port))
    }

    /// Leaves the domain as a crashed one is, so that nobody takes it for one that runs. The note stays,
    /// for whoever takes over before the action that follows is done; it goes with the domain.
    fn give_up(&mut self, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
        let stays_paused = self.stays_paused().unwrap_or(false);
        let note = Note {
            phase: Phase::GivenUp,
            stays_paused,
            asked_for: None,
        };
        let info = match self.write_note(note).and_then(|()| self.info()) {
            Err(EngineError::NoSuchDomain(_)) => return Ok(()),
            other => other?,
        };
        let (hv, domid) = (&self.host.hv, self.vm.domid);
        if !info.flags.shutdown
            && let Err(error) = hv.remote_shutdown(domid, ShutdownReason::Crash)
        {
            // It stays paused then, which is as good an end, if not as plain to see.
            log(&format!("domain {domid} stays paused: {error}"));
            return Ok(());
        }
        if info.flags.paused
            && !stays_paused
            && let Err(error) = hv.unpause_domain(domid)
        {
            log(&format!("domain {domid} stays paused: {error}"));
        }
        Ok(())
    }
}

fn note(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let (info, domid) = (draft.info()?, draft.vm.domid);
    if info.kind() == GuestKind::Pv {
        return Err(SoftResetError::Pv.into());
    }
    let devices = device::foreign(draft.host, domid)?;
    if !devices.is_empty() {
        let devices = devices.join(", ");
        return Err(SoftResetError::Devices { domid, devices }.into());
    }
    if has_faulty_xenstored(draft)? {
        return Err(SoftResetError::FaultyXenstored.into());
    }
    draft.write_note(Note {
        phase: Phase::Asked,
        stays_paused: info.flags.paused,
        asked_for: None,
    })
}

/// Whether xenstored is the one in C of Xen 4.17.0. It may use a connection after it has freed it when a domain is released
/// (XSA-425; xen.git 2f8851c37f mends it in 4.17.1). The one in OCaml writes its program's path to `/tool/xenstored`, and the one in C
/// nothing (`tools/ocaml/xenstored/xenstored.ml`, `tools/xenstore/xenstored_core.c`).
fn has_faulty_xenstored(draft: &mut Draft<'_>) -> Result<bool, EngineError> {
    let version = match draft.host.hv.version() {
        Err(error) if error.is(Errno::ENOSYS) => return Ok(false),
        other => other?,
    };
    let is_first = version.extra == ".0" || version.extra.starts_with(".0-");
    if (version.major, version.minor) != (4, 17) || !is_first {
        return Ok(false);
    }
    let path = Path::new("/tool/xenstored").map_err(xenstore::Error::from)?;
    let program = draft.host.store.read_opt(&path)?;
    Ok(program.unwrap_or_default().is_empty())
}

/// Xen resets only domains that tools hold.
fn hold(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    if draft.info()?.flags.paused {
        return Ok(());
    }
    // Whoever had paused it has let it go meanwhile.
    if draft.stays_paused()? {
        draft.write_note(Note {
            phase: Phase::Asked,
            stays_paused: false,
            asked_for: None,
        })?;
    }
    Ok(draft.host.hv.pause_domain(draft.vm.domid)?)
}

fn save_device_model(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    no_device_model(draft, "stop the device model and save its state")
}

fn restore_device_model(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    no_device_model(draft, "start the device model from its saved state")
}

/// PVH domains have none.
fn no_device_model(draft: &Draft<'_>, step: &'static str) -> Result<(), EngineError> {
    let info = draft.info()?;
    match info.kind() {
        GuestKind::Hvm => Err(SoftResetError::DeviceModel {
            domid: info.domid,
            step,
        }
        .into()),
        GuestKind::Pv | GuestKind::Pvh => Ok(()),
    }
}

/// xenstored drops the domain's watches and transactions, removes the nodes that it owns, and takes
/// its rights to all others away.
fn release(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let domid = draft.vm.domid.0;
    if draft.host.store.is_introduced(domid)? {
        keep_request(draft)?;
        draft.host.store.release(domid)?;
    }
    Ok(())
}

/// Who has asked the guest to shut down or reboot asked the VM, whichever kernel it runs: the next one gets to know.
fn keep_request(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let asked_for = waiting_request(&mut draft.host.store, draft.vm.domid)?;
    match (asked_for, draft.read_note()?) {
        (Some(_), Some(note)) => draft.write_note(Note { asked_for, ..note }),
        _ => Ok(()),
    }
}

fn waiting_request(
    store: &mut impl Tree,
    domid: DomId,
) -> Result<Option<PowerRequest>, EngineError> {
    let word = store.read_opt(&power::shutdown_path(domid)?)?;
    Ok(word.and_then(|word| PowerRequest::of_word(&word)))
}

fn reset(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let (hv, clock) = (&draft.host.hv, &draft.host.clock);
    let deadline = clock.now() + BUSY_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match hv.soft_reset(draft.vm.domid) {
            Err(error) if error.is(Errno::EBUSY) || error.is(Errno::EAGAIN) => {
                if clock.now() >= deadline {
                    return Err(error.into());
                }
            }
            other => return Ok(other?),
        }
        clock.wait_until(clock.now() + pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The guest reads the ports from its parameters, which it can also write: so they are set, even
/// where the numbers are those of before. Its interrupt for event channels belonged to the old kernel,
/// and must not hit the new one before that asks for its own.
fn open_channels(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let daemons = Daemons::find(draft.host)?;
    let (hv, domid) = (&draft.host.hv, draft.vm.domid);
    // Somebody may have opened one of them, and died.
    hv.close_event_channels(domid)?;
    let store = hv.alloc_unbound(domid, daemons.store)?;
    let console = hv.alloc_unbound(domid, daemons.console)?;
    Ok(hv.set_hvm_params(
        domid,
        &[
            (HvmParam::CallbackIrq, 0),
            (HvmParam::StoreEvtchn, store.0.into()),
            (HvmParam::ConsoleEvtchn, console.0.into()),
        ],
    )?)
}

/// All in one transaction, the note included: nobody sees the domain without its name, and xenconsoled,
/// which watches the console's nodes, finds the new port and the old tty.
fn write_nodes(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let info = draft.info()?;
    let before = draft.read_note()?;
    let note = Note {
        phase: Phase::Described,
        stays_paused: before.is_some_and(|note| note.stays_paused),
        asked_for: None,
    };
    let kept = before.and_then(|note| note.asked_for);
    let console = Ring {
        gfn: Gfn(draft.param(HvmParam::ConsolePfn)?),
        port: draft.port(HvmParam::ConsoleEvtchn)?,
    };
    draft.host.store.try_transaction(|transaction| {
        refuse_removed(transaction, info.domid)?;
        let live = Live::read(transaction, &info)?;
        // One that came since the release counts more than the one before.
        let asked_for = waiting_request(transaction, info.domid)?.or(kept);
        let mut batch = live.nodes(&info, console, note)?;
        if let Some(request) = asked_for {
            let node = power::shutdown_path(info.domid)?;
            batch.write(&node, request.word().as_bytes());
        }
        transaction.run(&batch)?;
        Ok::<(), EngineError>(())
    })
}

/// What xenstore says of the domain and a soft reset does not change. All of it is the toolstack's.
struct Live {
    name: Option<String>,
    target_kib: Option<u64>,
    max_kib: Option<u64>,
    /// For each vCPU: whether it is online.
    vcpus_online: Vec<bool>,
    start_time: Option<String>,
    /// Nodes of devices, below the domain's home, with their values.
    kept: Vec<(&'static str, String)>,
}

impl Live {
    fn read(store: &mut impl Tree, info: &DomainInfo) -> Result<Live, EngineError> {
        let home = xenstore_nodes::domain_path(info.domid);
        let vm = xenstore_nodes::vm_path(&uuid_text(info));
        let mut batch = Batch::new();
        let mut read = |text: String| Ok::<_, EngineError>(batch.read_opt(&path(&text)?));
        let name = read(format!("{home}/name"))?;
        let target = read(format!("{home}/memory/target"))?;
        let max = read(format!("{home}/memory/static-max"))?;
        let start_time = read(format!("{vm}/start_time"))?;
        let kept: Vec<(&str, usize)> = KINDS
            .iter()
            .flat_map(|kind| kind.kept_by_soft_reset())
            .map(|node| Ok((*node, read(format!("{home}/{node}"))?)))
            .collect::<Result<_, EngineError>>()?;
        let vcpus: Vec<usize> = (0..=info.max_vcpu_id.unwrap_or(0))
            .map(|vcpu| read(format!("{home}/cpu/{vcpu}/availability")))
            .collect::<Result<_, _>>()?;
        let replies = store.run(&batch)?;
        let text = |index| {
            replies
                .value(index)
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let number = |index| text(index)?.parse().ok();
        Ok(Live {
            name: text(name),
            target_kib: number(target),
            max_kib: number(max),
            vcpus_online: vcpus
                .into_iter()
                .map(|vcpu| text(vcpu).as_deref() == Some("online"))
                .collect(),
            start_time: text(start_time),
            kept: kept
                .into_iter()
                .filter_map(|(node, index)| Some((node, text(index)?)))
                .collect(),
        })
    }

    /// Removes the domain's nodes, and writes those that a create would have written.
    fn nodes(&self, info: &DomainInfo, console: Ring, note: Note) -> Result<Batch, EngineError> {
        const KIB_PER_PAGE: u64 = 4;
        let (home, uuid) = (xenstore_nodes::domain_path(info.domid), uuid_text(info));
        let mut batch = Batch::new();
        // The release took the guest's rights from what it could read, so all of it is made anew.
        batch.rm(&path(&home)?);
        batch.rm(&path(&xenstore_nodes::vm_path(&uuid))?);
        for change in xenstore_nodes::changes(&DomainTree {
            domid: info.domid,
            name: self.name.clone().unwrap_or_else(|| uuid.clone()),
            uuid,
            kind: info.kind(),
            target_kib: self.target_kib.unwrap_or(info.tot_pages * KIB_PER_PAGE),
            max_kib: self.max_kib.unwrap_or(info.max_pages * KIB_PER_PAGE),
            vcpus_online: self.vcpus_online.clone(),
            console,
            start_time: self.start_time.clone().unwrap_or_default(),
        }) {
            create::add(&mut batch, &change)?;
        }
        for (node, value) in &self.kept {
            batch.write(&path(&format!("{home}/{node}"))?, value.as_bytes());
        }
        batch.write(&note_path(info.domid)?, note.text().as_bytes());
        Ok(batch)
    }
}

fn uuid_text(info: &DomainInfo) -> String {
    Uuid::from_bytes(info.handle).hyphenated().to_string()
}

fn introduce(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    let domid = draft.vm.domid;
    if draft.host.store.is_introduced(domid.0)? {
        return Ok(());
    }
    let gfn = draft.param(HvmParam::StorePfn)?;
    let port = draft.port(HvmParam::StoreEvtchn)?;
    match draft.host.store.introduce(domid.0, gfn, port.0) {
        Err(error) if !error.is_connection_lost() => {
            // xenstored maps the ring by the grant that the build made; the old kernel may have spoilt it.
            grant_rings(draft, Gfn(gfn))?;
            Ok(draft.host.store.introduce(domid.0, gfn, port.0)?)
        }
        other => Ok(other?),
    }
}

fn grant_rings(draft: &mut Draft<'_>, store: Gfn) -> Result<(), EngineError> {
    let daemons = Daemons::find(draft.host)?;
    let console = Gfn(draft.param(HvmParam::ConsolePfn)?);
    xen_build::seed_grants(
        &*draft.host.hv,
        draft.vm.domid,
        (daemons.console, console),
        (daemons.store, store),
    )?;
    Ok(())
}

/// The note goes last: as long as it is there, somebody will let the domain run.
fn let_run(draft: &mut Draft<'_>) -> Result<(), EngineError> {
    if draft.info()?.flags.paused && !draft.stays_paused()? {
        draft.host.hv.unpause_domain(draft.vm.domid)?;
    }
    Ok(draft.host.store.rm(&note_path(draft.vm.domid)?)?)
}

// ---- again and again ------------------------------------------------------------------------------

/// The resets of one domain that went well. A guest may reset itself as often as it likes; that must fill no log, and
/// leave xenstored and the host's CPUs to the others.
#[derive(Debug, Default)]
pub struct Tally {
    rests_until: Option<Instant>,
    told_at: Option<Instant>,
    untold: u64,
    is_explained: bool,
}

impl Tally {
    /// From when on the next reset may begin; `None` for the first.
    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// A domain has to wait for its next reset: the line that says why, the first time.
    pub fn explain(&mut self, domid: DomId) -> Option<String> {
        let is_new = !std::mem::replace(&mut self.is_explained, true);
        is_new.then(|| {
            format!(
                "domain {domid} asks for one soft reset after the other: from now on each waits for {REST_TIMES} times as long as the last one took, {} s at most",
                REST_MAX.as_secs()
            )
        })
    }

    /// Counts a reset of the domain that took so long; the line to write, if it is time for one: with the first, then
    /// every minute at most.
    pub fn count(&mut self, domid: DomId, now: Instant, took: Duration) -> Option<String> {
        self.rests_until = now.checked_add(took.saturating_mul(REST_TIMES).min(REST_MAX));
        self.untold += 1;
        if self.told_at.is_some_and(|at| now < at + TELL_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        let count = std::mem::take(&mut self.untold);
        let took_ms = took.as_millis();
        Some(format!(
            "domain {domid} asked for a soft reset, and runs again: {count} times since this was last said, {took_ms} ms the last time"
        ))
    }
}
