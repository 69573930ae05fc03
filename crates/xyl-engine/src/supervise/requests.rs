//! What is asked of a VM, and who carries it out: the process that watches over it.
//!
//! A command that wants a VM changed writes that down below `/libxl/D/xyl/asked`, which no guest can write to. The VM's
//! monitor is woken by it, carries it out under the VM's lock, and takes the node away in the transaction that writes
//! what came of it below `/tool/xyl/told`, where it outlives the domain. So it is done whatever becomes of the command, and by the monitor's heir
//! where the monitor dies. A monitor that dies between the deed and the transaction leaves it to be done again; what must not
//! be done twice (a key, a trigger) is taken away before the deed.
//!
//! Where nobody watches (`create -e`, a domain of xl's, a monitor that has died), or a monitor does not get to it though
//! nobody has the VM in hand, the command takes its request back and carries it out itself, under the same lock.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use os_port::{list_if_there, remove_if_there};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{CpuMap, DomId, DomainInfo, SchedulerId, ShutdownReason, Trigger, VcpuId};
use xenstore::{Batch, Path, Tree};
use xyl_saga::Past;

use crate::config::plan;
use crate::control::power::{self, PowerDelivery, PowerRequest};
use crate::control::sched::{self, ShareChange};
use crate::control::{memory, vcpus};
use crate::operation::Kind;
use crate::operation::dump_core::{self, DumpRequest, Dumped, dump_core, progress_file};
use crate::operation::run;
use crate::operation::{destroy, xenstore_nodes};
use crate::vm::{Vm, domains, journal, monitor_lock, store};
use crate::{Cancel, EngineError, ErrorCode, Host, RequestError, VmGuard};

/// How often whoever waits for an answer looks around, where no event tells of one.
const TICK: Duration = Duration::from_millis(200);
/// How long nobody is told of that wait.
const QUIET_FOR: Duration = Duration::from_millis(500);
/// How long a monitor may leave a request where it is while nobody has the VM in hand.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request may wait for its turn and be carried out.
const LIMIT: Duration = Duration::from_secs(300);
/// The same for a core, which may be that of a large guest.
const DUMP_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// The longest request that is written to its node, in bytes: dom0's limit for a node is 2048 by default. A longer one stands
/// in a file.
const REQUEST_MAX_BYTES: usize = 1800;
/// Token of the monitor's watch.
pub(crate) const TOKEN: &str = "xyl-asked";
/// Token of the watch of whoever has asked.
const ANSWER_TOKEN: &str = "xyl-told";

/// A change of a VM that has a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Stops its vCPUs.
    Pause,
    /// Lets it run on.
    Unpause,
    /// Asks its guest to shut down or reboot.
    Power {
        /// Which of them.
        request: PowerRequest,
        /// Whether to press a button where the guest cannot be asked.
        fallback: bool,
    },
    /// Leaves a SysRq key for its guest.
    Sysrq {
        /// The SysRq key, such as `s`.
        key: char,
    },
    /// Sends a trigger to a vCPU.
    Trigger {
        /// Number of the vCPU.
        vcpu: VcpuId,
        /// What is sent.
        trigger: Trigger,
    },
    /// Gives it another name.
    Rename {
        /// The new name.
        name: String,
    },
    /// Sets the memory that it is to have.
    MemoryTarget {
        /// In KiB, video memory included.
        target_kib: u64,
    },
    /// Sets the memory that it may have.
    MemoryMaximum {
        /// New maximum, in KiB.
        max_kib: u64,
    },
    /// Sets how many vCPUs it is to use.
    Vcpus {
        /// Number of vCPUs to use.
        nr_vcpus: u32,
    },
    /// Sets the CPUs that vCPUs may use, and prefer.
    Pin {
        /// Numbers of the vCPUs.
        vcpus: Vec<VcpuId>,
        /// CPUs that they may use; `None` leaves them as they are.
        hard: Option<CpuMap>,
        /// CPUs that they prefer; `None` leaves them as they are.
        soft: Option<CpuMap>,
        /// Whether a temporary pinning is overridden.
        force: bool,
    },
    /// Changes its share of the CPUs.
    Share {
        /// The scheduler that it must be under.
        scheduler: SchedulerId,
        /// The parameters to change.
        change: ShareChange,
    },
    /// Writes its core to a file.
    DumpCore {
        /// The file, by its whole path.
        #[serde(with = "path_bytes")]
        file: PathBuf,
        /// Whether the guest runs on meanwhile.
        is_live: bool,
    },
    /// Destroys the domain.
    Destroy {
        /// Whether backends that Xyl cannot take down are left to themselves.
        force: bool,
    },
}

/// A path: as text, or as bytes where it is not UTF-8.
mod path_bytes {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(to),
            None => path.as_os_str().as_bytes().serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Text(text) => PathBuf::from(text),
            Written::Bytes(bytes) => std::ffi::OsString::from_vec(bytes).into(),
        })
    }
}

impl Request {
    /// What it is called.
    pub fn word(&self) -> &'static str {
        match self {
            Request::Pause => "pause",
            Request::Unpause => "unpause",
            Request::Power { request, .. } => request.word(),
            Request::Sysrq { .. } => "sysrq",
            Request::Trigger { .. } => "trigger",
            Request::Rename { .. } => "rename",
            Request::MemoryTarget { .. } => "mem-set",
            Request::MemoryMaximum { .. } => "mem-max",
            Request::Vcpus { .. } => "vcpu-set",
            Request::Pin { .. } => "vcpu-pin",
            Request::Share { .. } => "sched",
            Request::DumpCore { .. } => "dump-core",
            Request::Destroy { .. } => "destroy",
        }
    }

    /// Whether it can be carried out twice: all that sets something. What a guest is sent it gets once at most.
    fn is_repeatable(&self) -> bool {
        !matches!(self, Request::Sysrq { .. } | Request::Trigger { .. })
    }

    fn limit(&self) -> Duration {
        match self {
            Request::DumpCore { .. } => DUMP_LIMIT,
            _ => LIMIT,
        }
    }
}

/// What a request that was carried out tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Nothing but that.
    Plainly,
    /// How the guest was asked.
    #[serde(rename = "asked")]
    Delivered(PowerDelivery),
    /// What is in the core.
    Dumped(Dumped),
}

/// What came of a request, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Done(Done),
    Failed(Refusal),
}

/// Why a monitor could not carry a request out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Refusal {
    /// With the kind of the error (a word of [`ErrorCode`]).
    Coded {
        code: String,
        step: Option<String>,
        message: String,
    },
    /// The text alone, from a monitor of an earlier version.
    Text(String),
}

impl Refusal {
    fn of(error: &EngineError) -> Refusal {
        Refusal::Coded {
            code: error.code().word().to_owned(),
            step: error.step().map(str::to_owned),
            message: error.to_string(),
        }
    }

    fn into_error(self) -> EngineError {
        let (code, step, message) = match self {
            Refusal::Coded {
                code,
                step,
                message,
            } => (ErrorCode::parse(&code), step, message),
            Refusal::Text(message) => (None, None, message),
        };
        EngineError::ByMonitor {
            code: code.unwrap_or(ErrorCode::Refused),
            step,
            message,
        }
    }
}

/// The error for a monitor that was lost with a request.
fn monitor_lost(message: String) -> EngineError {
    EngineError::ByMonitor {
        code: ErrorCode::MonitorLost,
        step: None,
        message,
    }
}

/// What whoever asks has to say and wants to hear meanwhile.
pub struct Asking<'a> {
    /// His wish to stop. Only a dump is taken back; anything else goes on without him.
    pub cancel: &'a Cancel,
    /// Reply, now and then, how many bytes of a core have been written, and how many there will be.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// Has a change made of the VM whose domain this is, by the process that watches over it or by this one.
///
/// # Errors
/// Those of what is asked for; [`EngineError::ByMonitor`] where the monitor has met them. [`EngineError::Deadline`] where
/// the VM's turn for it does not come.
pub fn ask(
    host: &mut Host,
    info: &DomainInfo,
    request: &Request,
    asking: &mut Asking<'_>,
) -> Result<Done, EngineError> {
    let vm = Vm {
        domid: info.domid,
        uuid: Uuid::from_bytes(info.handle),
    };
    // What others have asked of a VM without a monitor waits for its next one: this process carries out nothing of theirs.
    if !is_watched(host, vm) {
        return carry_out(host, info, request, asking);
    }
    let Some(pending) = PendingRequest::send(host, vm, request)? else {
        return carry_out(host, info, request, asking);
    };
    match pending.answer(host, asking)? {
        RequestEnd::Replied(outcome) => outcome,
        RequestEnd::Unknown if !request.is_repeatable() => Err(monitor_lost(format!(
            "the monitor of domain {} died at the {}: it may have been done; look, and repeat it if not",
            vm.domid,
            request.word()
        ))),
        RequestEnd::Unknown | RequestEnd::Withdrawn => {
            let outcome = carry_out(host, info, request, asking);
            after_silence(host, vm, request, outcome)
        }
    }
}

/// What it means that the domain has gone while its monitor was asked.
fn after_silence(
    host: &Host,
    vm: Vm,
    request: &Request,
    outcome: Result<Done, EngineError>,
) -> Result<Done, EngineError> {
    let Err(EngineError::NoSuchDomain(_)) = outcome else {
        return outcome;
    };
    match (request, domains::living(&*host.hv, *vm.uuid.as_bytes())?) {
        (Request::Destroy { .. }, None) => Ok(Done::Plainly),
        // The guest has ended, as it was to, and may have been asked by a monitor that died before it could say so.
        (Request::Power { .. }, None) => Ok(Done::Delivered(PowerDelivery::ByXenstore)),
        (
            Request::Power {
                request: PowerRequest::Reboot,
                ..
            },
            Some(_),
        ) => Ok(Done::Delivered(PowerDelivery::ByXenstore)),
        (_, Some(next)) => Err(EngineError::Restarted {
            domid: vm.domid,
            next,
        }),
        (_, None) => outcome,
    }
}

/// The same for what takes a moment.
pub fn ask_for(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<Done, EngineError> {
    let mut asking = Asking {
        cancel: &Cancel::new(),
        progress: &mut |_, _| (),
    };
    ask(host, info, request, &mut asking)
}

fn is_watched(host: &Host, vm: Vm) -> bool {
    let watch = host.dirs.watch(vm.uuid);
    vm.domid != DomId::ZERO && host.files.is_locked(&watch).unwrap_or(false)
}

// ---- carrying out ---------------------------------------------------------------------------------

/// Makes the change, under the VM's lock, if this is still its domain.
fn carry_out(
    host: &mut Host,
    info: &DomainInfo,
    request: &Request,
    asking: &mut Asking<'_>,
) -> Result<Done, EngineError> {
    match request {
        // These two take the lock themselves, and look again then.
        Request::Destroy { force } => {
            destroy::destroy_found(host, info, *force)?;
            Ok(Done::Plainly)
        }
        Request::DumpCore { file, is_live } => {
            same(host, info)?;
            let request = DumpRequest {
                domid: info.domid,
                file,
                is_live: *is_live,
                progress: asking.progress,
            };
            Ok(Done::Dumped(dump_core(host, request, asking.cancel)?))
        }
        _ => {
            let _owner = owner_of(host, info)?;
            let info = same(host, info)?;
            change(host, &info, request)
        }
    }
}

/// Looks whether a change can be made: refuses what the change itself would refuse, by the same checks, and changes nothing.
/// What Xen alone knows shows when it is asked for the change.
///
/// # Errors
/// Those of the change.
pub fn check(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<(), EngineError> {
    match request {
        // One that is about to go can be ended still.
        Request::Destroy { force } => destroy::check(host, info, *force),
        Request::DumpCore { .. } => dump_core::check(host, info.domid),
        _ => {
            let info = same(host, info)?;
            check_change(host, &info, request)
        }
    }
}

fn check_change(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<(), EngineError> {
    let (hv, store) = (&*host.hv, &mut host.store);
    match request {
        Request::Pause => power::check_pause(info),
        Request::Power { request, .. } if power::has_ended(info) => {
            after_its_end(host, info, *request).map(drop)
        }
        Request::Power { request, fallback } => {
            power::delivery(hv, info, *request, *fallback).map(drop)
        }
        Request::Sysrq { key } => power::check_sysrq(*key),
        Request::Trigger { vcpu, .. } => power::check_trigger(info, *vcpu),
        Request::Rename { name } => domains::check_rename(host, info, name),
        Request::MemoryTarget { target_kib } => {
            memory::check_target(store, info, *target_kib).map(drop)
        }
        Request::MemoryMaximum { max_kib } => memory::check_maximum(store, info, *max_kib),
        Request::Vcpus { nr_vcpus } => vcpus::check_online(info, *nr_vcpus),
        Request::Share { scheduler, change } => {
            sched::check_share(hv, info, *scheduler, *change).map(drop)
        }
        Request::Pin { vcpus: pinned, .. } => pinned
            .iter()
            .try_for_each(|vcpu| vcpus::chosen(info, Some(*vcpu)).map(drop)),
        Request::Unpause | Request::DumpCore { .. } | Request::Destroy { .. } => Ok(()),
    }
}

/// The VM's lock. Domain 0 is nobody's VM.
fn owner_of(host: &mut Host, info: &DomainInfo) -> Result<Option<VmGuard>, EngineError> {
    if info.domid == DomId::ZERO {
        return Ok(None);
    }
    let owner = VmGuard::take(host, Uuid::from_bytes(info.handle))?;
    if let Some(recovered) = &owner.recovered {
        (host.notice)(&recovered.line());
    }
    Ok(Some(owner))
}

/// The domain as it is now: its number may be another's meanwhile.
fn same(host: &Host, info: &DomainInfo) -> Result<DomainInfo, EngineError> {
    let now = host.hv.domain_info(info.domid)?;
    now.filter(|now| now.handle == info.handle && !now.flags.dying)
        .ok_or_else(|| EngineError::NoSuchDomain(info.domid.to_string()))
}

fn change(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<Done, EngineError> {
    let (hv, store, domid) = (&*host.hv, &mut host.store, info.domid);
    match request {
        Request::Pause => power::pause(hv, info)?,
        Request::Unpause => power::unpause(hv, info)?,
        Request::Power { request, .. } if power::has_ended(info) => {
            return after_its_end(host, info, *request);
        }
        Request::Power { request, fallback } => {
            let asked = power::ask(hv, store, info, *request, *fallback)?;
            return Ok(Done::Delivered(asked));
        }
        Request::Sysrq { key } => power::send_sysrq(store, domid, *key)?,
        Request::Trigger { vcpu, trigger } => power::send_trigger(hv, info, *vcpu, *trigger)?,
        Request::Rename { name } => domains::rename(host, info, name)?,
        Request::MemoryTarget { target_kib } => memory::set_target(host, info, *target_kib)?,
        Request::MemoryMaximum { max_kib } => memory::set_maximum(host, info, *max_kib)?,
        Request::Vcpus { nr_vcpus } => vcpus::set_online(store, info, *nr_vcpus)?,
        Request::Pin {
            vcpus,
            hard,
            soft,
            force,
        } => {
            for vcpu in vcpus {
                vcpus::pin(hv, domid, *vcpu, hard.as_ref(), soft.as_ref(), *force)?;
            }
        }
        Request::Share { scheduler, change } => sched::set_share(hv, info, *scheduler, *change)?,
        // `carry_out` has done these.
        Request::DumpCore { .. } | Request::Destroy { .. } => {}
    }
    Ok(Done::Plainly)
}

/// What a request to shut down or reboot means for a domain that has shut down: nobody in it listens any more.
fn after_its_end(
    host: &Host,
    info: &DomainInfo,
    request: PowerRequest,
) -> Result<Done, EngineError> {
    let domid = info.domid;
    let reason = info.shutdown_reason.unwrap_or(ShutdownReason::Poweroff);
    let planned = plan::of_record(host, Uuid::from_bytes(info.handle));
    let is_restarted = planned.is_ok_and(|planned| planned.spec.on.restarts(reason));
    match (request, is_restarted) {
        (PowerRequest::Poweroff, false) | (PowerRequest::Reboot, true) => {
            Ok(Done::Delivered(PowerDelivery::HasShutDown))
        }
        (PowerRequest::Poweroff, true) => Err(RequestError::Restarting { domid }.into()),
        (PowerRequest::Reboot, false) => Err(RequestError::HasShutDown { domid, reason }.into()),
    }
}

// ---- asking ---------------------------------------------------------------------------------------

/// A request on its way.
struct PendingRequest {
    vm: Vm,
    id: String,
    asked: Path,
    told: Path,
    limit: Duration,
    word: &'static str,
    /// The file of a core.
    file: Option<String>,
}

/// How the wait for a request ended.
enum RequestEnd {
    /// The monitor has replied.
    Replied(Result<Done, EngineError>),
    /// No monitor has begun it, or none will see it again.
    Withdrawn,
    /// The request is gone without a reply: with its domain, or with a monitor that died while it served it.
    Unknown,
}

impl PendingRequest {
    /// Leaves a request for a VM's monitor; `None` for a domain that is gone.
    fn send(
        host: &mut Host,
        vm: Vm,
        request: &Request,
    ) -> Result<Option<PendingRequest>, EngineError> {
        let id = new_id(host, vm.uuid);
        let text = body::write(host, vm.uuid, &id, request)?;
        let letter = PendingRequest {
            vm,
            id: id.clone(),
            asked: below(asked_of(vm.domid)?, &id)?,
            told: below(all_told()?, &id)?,
            limit: request.limit(),
            word: request.word(),
            file: match request {
                Request::DumpCore { file, .. } => file.to_str().map(str::to_owned),
                _ => None,
            },
        };
        let mut is_there = false;
        host.store.try_transaction(|transaction| {
            // Not of a domain that is gone: the node would stay for ever.
            is_there = transaction.exists(&libxl(vm.domid)?)?;
            if is_there {
                transaction.write(&letter.asked, &text)?;
            }
            Ok::<_, EngineError>(())
        })?;
        if !is_there {
            body::remove(host, vm.uuid, &id);
        }
        Ok(is_there.then_some(letter))
    }

    /// What came of it.
    fn answer(&self, host: &mut Host, asking: &mut Asking<'_>) -> Result<RequestEnd, EngineError> {
        host.store.watch(&self.told, ANSWER_TOKEN)?;
        let outcome = self.wait(host, asking);
        // So that nobody does it any more once this process has given up.
        let outcome = match outcome {
            Ok(Some(value)) => self.take(host, &value).map(RequestEnd::Replied),
            Ok(None) => self.withdraw(host),
            Err(error) => match self.withdraw(host)? {
                RequestEnd::Replied(outcome) => Ok(RequestEnd::Replied(outcome)),
                RequestEnd::Withdrawn | RequestEnd::Unknown => Err(error),
            },
        };
        host.store.unwatch(&self.told, ANSWER_TOKEN)?;
        outcome
    }

    /// Waits for the answer; `None` where nobody takes care of it.
    fn wait(
        &self,
        host: &mut Host,
        asking: &mut Asking<'_>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let begun = host.clock.now();
        let mut idle_since = begun;
        let (mut has_told, mut has_cancelled) = (false, false);
        loop {
            let event = host.wait_for_event_of(&[ANSWER_TOKEN], TICK)?;
            if let Some(value) = host.store.read_opt(&self.told)? {
                return Ok(Some(value));
            }
            if event.is_some() {
                continue;
            }
            let now = host.clock.now();
            let waited = now.saturating_duration_since(begun);
            let lock = host.dirs.vm_lock(self.vm.uuid);
            let is_idle = !host.files.is_locked(&lock).unwrap_or(false);
            if !is_idle {
                idle_since = now;
            }
            // A request goes with its domain: when that is destroyed, in answer to it perhaps, or restarted.
            let is_gone = !host.store.exists(&self.asked)?;
            if !is_watched(host, self.vm) || (is_idle && is_gone) {
                return Ok(None);
            }
            if now.saturating_duration_since(idle_since) >= PATIENCE {
                self.tell_of_silence(host);
                return Ok(None);
            }
            if waited >= self.limit {
                return Err(self.too_late(host));
            }
            if asking.cancel.is_requested() && !std::mem::replace(&mut has_cancelled, true) {
                self.cancel(host)?;
            }
            if !has_told && !is_idle && waited >= QUIET_FOR {
                has_told = true;
                self.tell(host);
            }
            if let Some((written, size)) = read_progress(host, self.vm.uuid) {
                (asking.progress)(written, size);
            }
        }
    }

    fn tell(&self, host: &Host) {
        let holder = journal::holder(host, self.vm.uuid, host.clock.calendar());
        let stays = match self.word == Kind::DumpCore.word() {
            true => "",
            false => "; Ctrl-C ends this wait, and not what was asked for",
        };
        (host.notice)(&format!("waiting for {holder}{stays}"));
    }

    fn tell_of_silence(&self, host: &Host) {
        let watcher = monitor_lock::watcher(&*host.files, &host.dirs, self.vm.uuid).unwrap_or(0);
        (host.notice)(&format!(
            "the monitor of domain {} (process {watcher}) does not answer: this process does it; a monitor of an older version, or a stopped one, is replaced by `xyl upgrade-monitors`",
            self.vm.domid
        ));
    }

    fn too_late(&self, host: &Host) -> EngineError {
        let holder = journal::holder(host, self.vm.uuid, host.clock.calendar());
        EngineError::Deadline {
            what: format!(
                "the {} of domain {}: its turn has not come; there is {holder}",
                self.word, self.vm.domid
            ),
            limit_s: self.limit.as_secs(),
        }
    }

    /// A dump that is under way is taken back by whoever carries it out. What has not begun yet is not begun.
    fn cancel(&self, host: &mut Host) -> Result<(), EngineError> {
        let contents = xyl_saga::load(&*host.files, &host.dirs.journal(self.vm.uuid))?;
        let past = Past::of(&contents);
        let dump = past
            .under_way()
            .filter(|operation| Kind::parse(&operation.begin.kind) == Some(Kind::DumpCore));
        match dump {
            // Not somebody else's.
            Some(dump) if self.file.is_some() && dump.text("file") == self.file.as_deref() => {
                run::ask_to_cancel(&*host.files, &host.dirs, self.vm.uuid, &dump.begin.id)
            }
            _ => Err(EngineError::Cancelled),
        }
    }

    /// Takes the request back; the answer where there is one by now.
    fn withdraw(&self, host: &mut Host) -> Result<RequestEnd, EngineError> {
        let (mut answer, mut was_there) = (None, false);
        host.store.try_transaction(|transaction| {
            answer = transaction.read_opt(&self.told)?;
            was_there = transaction.exists(&self.asked)?;
            Ok::<_, EngineError>(transaction.rm(&self.asked)?)
        })?;
        body::remove(host, self.vm.uuid, &self.id);
        match answer {
            Some(value) => self.take(host, &value).map(RequestEnd::Replied),
            None if was_there => Ok(RequestEnd::Withdrawn),
            None => Ok(RequestEnd::Unknown),
        }
    }

    /// Takes the answer.
    fn take(
        &self,
        host: &mut Host,
        value: &[u8],
    ) -> Result<Result<Done, EngineError>, EngineError> {
        host.store.rm(&self.told)?;
        Ok(match serde_json::from_slice(value) {
            Ok(Reply::Done(done)) => Ok(done),
            Ok(Reply::Failed(refusal)) => Err(refusal.into_error()),
            Err(_) => Err(monitor_lost(format!(
                "the answer of the monitor cannot be read: {}",
                String::from_utf8_lossy(value)
            ))),
        })
    }
}

/// A name for a request: when, by which process, a UUID of its own, of which VM. They are carried out in the order of
/// their names.
fn new_id(host: &Host, uuid: Uuid) -> String {
    let since_1970 = host.clock.calendar().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = since_1970.unwrap_or_default().as_millis();
    let own = Uuid::from_bytes(host.process.new_uuid());
    format!(
        "{now_ms:014}-{}-{}-{}",
        host.process.id(),
        own.simple(),
        uuid.simple()
    )
}

/// The process that has asked, by its request's name.
fn asker(id: &str) -> Option<u32> {
    id.split('-').nth(1)?.parse().ok()
}

/// The VM that is meant, by its request's name: a number may have become another's while a request was on its way.
fn is_meant(id: &str, uuid: Uuid) -> bool {
    id.rsplit('-').next() == Some(uuid.simple().to_string().as_str())
}

fn libxl(domid: DomId) -> Result<Path, EngineError> {
    Ok(Path::new(&xenstore_nodes::libxl_path(domid)).map_err(xenstore::Error::from)?)
}

/// Where what is asked of a domain lies: it goes with it.
fn asked_of(domid: DomId) -> Result<Path, EngineError> {
    below(libxl(domid)?, "xyl/asked")
}

/// Where all answers lie. `/tool` is domain 0's alone.
fn all_told() -> Result<Path, EngineError> {
    Ok(Path::new("/tool/xyl/told").map_err(xenstore::Error::from)?)
}

fn below(folder: Path, name: &str) -> Result<Path, EngineError> {
    Ok(folder.join(name).map_err(xenstore::Error::from)?)
}

// ---- the monitor's side ---------------------------------------------------------------------------

/// From now on an event tells of what is asked of this domain; the first one comes at once, for what was asked before.
pub(crate) fn listen(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    Ok(host.store.watch(&asked_of(domid)?, TOKEN)?)
}

/// What there was to do for whoever has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// No request was waiting.
    Nothing,
    /// One request, which was the last.
    Last,
    /// One request, and there are more.
    OneOfMany,
}

/// Carries out the oldest of the requests that were made of a VM. One at a time: the guest's end comes before the next.
pub(crate) fn serve(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<Served, EngineError> {
    let ids = host.children(&asked_of(vm.domid)?)?;
    let Some(id) = ids.iter().min() else {
        return Ok(Served::Nothing);
    };
    match serve_one(host, vm, id, log) {
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => {
            log(&format!("the request {id}: {error}"));
            // Whoever has asked sees that nobody takes care of it, and does it. The others are not to wait for that.
            give_back(host, vm, id)?;
        }
        Ok(()) => {}
    }
    body::remove(host, vm.uuid, id);
    if ids.len() > 1 {
        return Ok(Served::OneOfMany);
    }
    body::remove_unasked(host, vm.uuid);
    remove_unread(host)?;
    Ok(Served::Last)
}

/// Takes a request away that cannot be carried out here, without a reply.
fn give_back(host: &mut Host, vm: Vm, id: &str) -> Result<(), EngineError> {
    Ok(host.store.rm(&below(asked_of(vm.domid)?, id)?)?)
}

fn serve_one(
    host: &mut Host,
    vm: Vm,
    id: &str,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let asked = below(asked_of(vm.domid)?, id)?;
    let told = below(all_told()?, id)?;
    // Whoever has the VM in hand comes first; what is taken back meanwhile is not done any more.
    if let Some(recovered) = &VmGuard::take(host, vm.uuid)?.recovered {
        log(&recovered.line());
    }
    let Some(text) = host.store.read_opt(&asked)? else {
        return Ok(());
    };
    if is_forgotten(host, id) {
        log(&format!(
            "the request {id} is too old, and nobody waits for it: not done"
        ));
        return Ok(host.store.rm(&asked)?);
    }
    let info = host.hv.domain_info(vm.domid)?;
    let info = info.filter(|info| &info.handle == vm.uuid.as_bytes());
    let request = body::read(host, vm.uuid, id, &text);
    // Its own request goes with the domain.
    let is_destroy = matches!(request, Ok(Request::Destroy { .. }));
    let is_once = matches!(&request, Ok(request) if !request.is_repeatable());
    if is_once {
        host.store.rm(&asked)?;
    }
    let outcome = match (request, info) {
        (Ok(_), None) => Err(EngineError::NoSuchDomain(vm.domid.to_string())),
        (Ok(_), _) if !is_meant(id, vm.uuid) => {
            Err(EngineError::NoSuchDomain(vm.domid.to_string()))
        }
        (Ok(request), Some(info)) => {
            log(&format!(
                "{}, for process {}",
                request.word(),
                asker(id).unwrap_or(0)
            ));
            let outcome = carry_out_watched(host, vm, &info, &request);
            if let Err(error) = &outcome {
                log(&format!("{}: {error}", request.word()));
            }
            outcome
        }
        (Err(error), _) => {
            log(&format!(
                "a request that cannot be read ({error}): {}",
                String::from_utf8_lossy(&text)
            ));
            Err(monitor_lost(format!(
                "the monitor of this VM does not know this request: `xyl upgrade-monitors` replaces it by one of this version ({error})"
            )))
        }
    };
    let answer = match outcome {
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => Reply::Failed(Refusal::of(&error)),
        Ok(done) => Reply::Done(done),
    };
    let is_waited_for = asker(id).is_some_and(|pid| host.process.is_running(pid));
    let answer = is_waited_for.then(|| serde_json::to_vec(&answer).unwrap_or_default());
    host.store.try_transaction(|transaction| {
        if !is_destroy && !is_once && !transaction.exists(&asked)? {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.rm(&asked);
        if let Some(answer) = &answer {
            batch.write(&told, answer);
        }
        transaction.run(&batch)?;
        Ok(())
    })
}

/// Whether whoever has asked has died, and so long ago that nobody counts on it any more.
fn is_forgotten(host: &Host, id: &str) -> bool {
    let since_1970 = host.clock.calendar().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = since_1970.unwrap_or_default().as_millis();
    let asked_ms: Option<u128> = id.split('-').next().and_then(|ms| ms.parse().ok());
    let age_ms = asked_ms.map_or(0, |ms| now_ms.saturating_sub(ms));
    age_ms > LIMIT.as_millis() && !asker(id).is_some_and(|pid| host.process.is_running(pid))
}

fn carry_out_watched(
    host: &mut Host,
    vm: Vm,
    info: &DomainInfo,
    request: &Request,
) -> Result<Done, EngineError> {
    let (files, path) = (host.files.clone(), progress_file(host, vm.uuid));
    let clock = host.clock.clone();
    let mut due = clock.now() + PROGRESS_EVERY;
    let mut progress = |written: u64, size: u64| {
        let now = clock.now();
        if now >= due {
            due = now + PROGRESS_EVERY;
            // Where that fails nobody is told, and no more.
            let _ = store::write_whole(
                &*files,
                &path.with_extension("new"),
                &path,
                format!("{written} {size}").as_bytes(),
            );
        }
    };
    let mut asking = Asking {
        cancel: &Cancel::new(),
        progress: &mut progress,
    };
    carry_out(host, info, request, &mut asking)
}

/// Removes the answers that nobody waits for any more: who has asked has died before he could take them.
pub(crate) fn remove_unread(host: &mut Host) -> Result<(), EngineError> {
    for id in host.children(&all_told()?)? {
        if !asker(&id).is_some_and(|pid| host.process.is_running(pid)) {
            host.store.rm(&below(all_told()?, &id)?)?;
        }
    }
    Ok(())
}

/// The text of a request: in its node, or in a file of the VM's run folder where it is too long for a node.
mod body {
    use super::*;

    /// What stands in the node of a request whose text is in a file.
    const IN_FILE: &[u8] = b"\"in_file\"";
    /// The longest text that is read from a file, in bytes.
    const FILE_MAX_BYTES: u64 = 1 << 20;

    fn folder(host: &Host, uuid: Uuid) -> PathBuf {
        host.dirs.vm_run(uuid).join("requests")
    }

    /// Writes a request down; what is to stand in its node.
    pub(super) fn write(
        host: &Host,
        uuid: Uuid,
        id: &str,
        request: &Request,
    ) -> Result<Vec<u8>, EngineError> {
        let text = serde_json::to_vec(request).map_err(|error| {
            monitor_lost(format!("the request cannot be written down: {error}"))
        })?;
        if text.len() <= REQUEST_MAX_BYTES {
            return Ok(text);
        }
        let folder = folder(host, uuid);
        host.files
            .create_folder(&folder)
            .map_err(|source| EngineError::io("create folder", &folder, source))?;
        let path = folder.join(id);
        store::write_whole(&*host.files, &path.with_extension("new"), &path, &text)?;
        Ok(IN_FILE.to_vec())
    }

    /// Reads a request by what stands in its node.
    pub(super) fn read(
        host: &Host,
        uuid: Uuid,
        id: &str,
        node: &[u8],
    ) -> serde_json::Result<Request> {
        if node != IN_FILE {
            return serde_json::from_slice(node);
        }
        let text = host
            .files
            .read(&folder(host, uuid).join(id), FILE_MAX_BYTES);
        serde_json::from_slice(&text.map_err(serde_json::Error::io)?)
    }

    /// Removes the file of a request that was carried out or taken back. One that stays goes with the VM.
    pub(super) fn remove(host: &Host, uuid: Uuid, id: &str) {
        let _ = remove_if_there(&*host.files, &folder(host, uuid).join(id));
    }

    /// Removes the files of those who died before they could ask.
    pub(super) fn remove_unasked(host: &Host, uuid: Uuid) {
        let folder = folder(host, uuid);
        let names = list_if_there(&*host.files, &folder).unwrap_or_default();
        let is_dead =
            |name: &String| !asker(name).is_some_and(|process| host.process.is_running(process));
        for name in names.into_iter().filter(is_dead) {
            let _ = remove_if_there(&*host.files, &folder.join(name));
        }
    }
}

// ---- how far a dump is ----------------------------------------------------------------------------

/// How often a monitor writes that down.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Largest such file that is read, in bytes: two numbers.
const PROGRESS_MAX_BYTES: u64 = 64;

fn read_progress(host: &Host, uuid: Uuid) -> Option<(u64, u64)> {
    let bytes = host
        .files
        .read(&progress_file(host, uuid), PROGRESS_MAX_BYTES)
        .ok()?;
    let (written, size) = std::str::from_utf8(&bytes).ok()?.split_once(' ')?;
    Some((written.parse().ok()?, size.parse().ok()?))
}
