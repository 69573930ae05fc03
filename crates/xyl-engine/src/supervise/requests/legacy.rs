//! Requests of an earlier release, which lie in xenstore.
//!
//! A command of that release writes its request below `/libxl/D/xyl/asked` and waits for the reply below `/tool/xyl/told`. One
//! that is under way while the monitor is replaced by this release is carried out and replied to here, in its own format.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::{CpuMap, DomId, SchedulerId, Trigger, VcpuId};
use xenstore::{Batch, Path, Tree};
use xyl_api::{Done, Dumped, PowerDelivery, PowerRequest, Request, ShareChange, limits};

use super::execute;
use crate::operation::xenstore_nodes;
use crate::vm::Vm;
use crate::vm::request_queue::now_ms;
use crate::{EngineError, ErrorCode, Host, VmGuard};

/// Token of the monitor's watch.
pub(crate) const TOKEN: &str = "xyl-asked";
/// Value of the node of a request whose text is in a file.
const IN_FILE: &[u8] = b"\"in_file\"";
/// The longest text that is read from a file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A request in the format of that release.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OldRequest {
    Pause,
    Unpause,
    Power {
        request: OldPower,
        fallback: bool,
    },
    Sysrq {
        key: char,
    },
    Trigger {
        vcpu: VcpuId,
        trigger: Trigger,
    },
    Rename {
        name: String,
    },
    MemoryTarget {
        target_kib: u64,
    },
    MemoryMaximum {
        max_kib: u64,
    },
    Vcpus {
        nr_vcpus: u32,
    },
    Pin {
        vcpus: Vec<VcpuId>,
        hard: Option<CpuMap>,
        soft: Option<CpuMap>,
        force: bool,
    },
    Share {
        scheduler: SchedulerId,
        change: ShareChange,
    },
    DumpCore {
        file: OldPath,
        is_live: bool,
    },
    Destroy {
        force: bool,
    },
}

#[derive(Deserialize)]
enum OldPower {
    Poweroff,
    Reboot,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OldPath {
    Text(String),
    Bytes(Vec<u8>),
}

/// A reply in the format of that release.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum OldReply {
    Done(OldDone),
    Failed {
        code: ErrorCode,
        step: Option<String>,
        message: String,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum OldDone {
    Plainly,
    Asked(OldDelivery),
    Dumped(Dumped),
}

#[derive(Serialize)]
enum OldDelivery {
    ByXenstore,
    ByButton,
    HasShutDown,
}

impl From<OldRequest> for Request {
    fn from(old: OldRequest) -> Request {
        match old {
            OldRequest::Pause => Request::Pause,
            OldRequest::Unpause => Request::Unpause,
            OldRequest::Power { request, fallback } => Request::Power {
                request: match request {
                    OldPower::Poweroff => PowerRequest::Poweroff,
                    OldPower::Reboot => PowerRequest::Reboot,
                },
                fallback,
            },
            OldRequest::Sysrq { key } => Request::Sysrq { key },
            OldRequest::Trigger { vcpu, trigger } => Request::Trigger { vcpu, trigger },
            OldRequest::Rename { name } => Request::Rename { name },
            OldRequest::MemoryTarget { target_kib } => Request::MemoryTarget { target_kib },
            OldRequest::MemoryMaximum { max_kib } => Request::MemoryMaximum { max_kib },
            OldRequest::Vcpus { nr_vcpus } => Request::Vcpus { nr_vcpus },
            OldRequest::Pin {
                vcpus,
                hard,
                soft,
                force,
            } => Request::Pin {
                vcpus,
                hard,
                soft,
                force,
            },
            OldRequest::Share { scheduler, change } => Request::Share { scheduler, change },
            OldRequest::DumpCore { file, is_live } => Request::DumpCore {
                file: file.into(),
                is_live,
            },
            OldRequest::Destroy { force } => Request::Destroy { force },
        }
    }
}

impl From<OldPath> for std::path::PathBuf {
    fn from(old: OldPath) -> std::path::PathBuf {
        use std::os::unix::ffi::OsStringExt;
        match old {
            OldPath::Text(text) => text.into(),
            OldPath::Bytes(bytes) => std::ffi::OsString::from_vec(bytes).into(),
        }
    }
}

impl From<Result<Done, EngineError>> for OldReply {
    fn from(outcome: Result<Done, EngineError>) -> OldReply {
        match outcome {
            Ok(done) => OldReply::Done(done.into()),
            Err(error) => OldReply::Failed {
                code: error.code(),
                step: error.step().map(str::to_owned),
                message: error.to_string(),
            },
        }
    }
}

impl From<Done> for OldDone {
    fn from(done: Done) -> OldDone {
        match done {
            Done::Plain => OldDone::Plainly,
            Done::Delivered { how } => OldDone::Asked(match how {
                PowerDelivery::ByXenstore => OldDelivery::ByXenstore,
                PowerDelivery::ByButton => OldDelivery::ByButton,
                PowerDelivery::HasShutDown => OldDelivery::HasShutDown,
            }),
            Done::Dumped(dumped) => OldDone::Dumped(dumped),
            // That release has no save.
            Done::Saved(_) => OldDone::Plainly,
        }
    }
}

/// The process that has asked, by its request's name: time, process, a UUID of its own, UUID of the VM.
fn asker(id: &str) -> Option<u32> {
    id.split('-').nth(1)?.parse().ok()
}

fn is_asker_running(host: &Host, id: &str) -> bool {
    asker(id).is_some_and(|pid| host.process.is_running(pid))
}

/// Whether the asker has died, and the request is old.
fn is_forgotten(host: &Host, id: &str) -> bool {
    let asked_ms: Option<u64> = id.split('-').next().and_then(|ms| ms.parse().ok());
    let age_ms = asked_ms.map_or(0, |ms| now_ms(host).saturating_sub(ms));
    u128::from(age_ms) > limits::REQUEST_LIMIT.as_millis() && !is_asker_running(host, id)
}

fn is_for(id: &str, uuid: Uuid) -> bool {
    id.rsplit('-').next() == Some(uuid.simple().to_string().as_str())
}

fn folder_of(domid: DomId) -> Result<Path, EngineError> {
    let path = format!("{}/xyl/asked", xenstore_nodes::libxl_path(domid));
    Ok(Path::new(&path).map_err(xenstore::Error::from)?)
}

/// Folder of the replies. `/tool` is domain 0's alone.
fn replies() -> Result<Path, EngineError> {
    Ok(Path::new("/tool/xyl/told").map_err(xenstore::Error::from)?)
}

fn below(folder: &Path, name: &str) -> Result<Path, EngineError> {
    Ok(folder.join(name).map_err(xenstore::Error::from)?)
}

/// Sets the watch for such requests. Its first event comes at once.
pub(crate) fn listen(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    Ok(host.store.watch(&folder_of(domid)?, TOKEN)?)
}

/// Carries out the requests of an earlier release, the oldest first.
pub(crate) fn serve(host: &mut Host, vm: Vm, log: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    let folder = folder_of(vm.domid)?;
    let mut ids = host.children(&folder)?;
    ids.sort_unstable();
    for id in ids {
        match serve_one(host, vm, &folder, &id, log) {
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => {
                log(&format!("the request {id}: {error}"));
                // The asker sees that it is gone, and carries it out.
                host.store.rm(&below(&folder, &id)?)?;
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn serve_one(
    host: &mut Host,
    vm: Vm,
    folder: &Path,
    id: &str,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let node = below(folder, id)?;
    if let Some(recovered) = &VmGuard::take(host, vm.uuid)?.recovered {
        log(&recovered.line());
    }
    let Some(text) = host.store.read_opt(&node)? else {
        return Ok(());
    };
    if !is_for(id, vm.uuid) || is_forgotten(host, id) {
        log(&format!(
            "the request {id} is for another VM, or too old: not done"
        ));
        return Ok(host.store.rm(&node)?);
    }
    let request = parse(host, vm, id, &text);
    if request
        .as_ref()
        .is_ok_and(|request| !request.is_repeatable())
    {
        host.store.rm(&node)?;
    }
    let outcome = match request {
        Ok(request) => {
            let asker = asker(id).unwrap_or(0);
            log(&format!("{}, for process {asker}", request.word()));
            carry_out(host, vm, &request)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &outcome {
        if error.is_connection_lost() {
            return outcome.map(drop);
        }
        log(&format!("the request {id}: {error}"));
    }
    let reply = serde_json::to_vec(&OldReply::from(outcome)).unwrap_or_default();
    let mut batch = Batch::new();
    batch.rm(&node);
    if is_asker_running(host, id) {
        batch.write(&below(&replies()?, id)?, &reply);
    }
    host.store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    Ok(())
}

fn carry_out(host: &mut Host, vm: Vm, request: &Request) -> Result<Done, EngineError> {
    let owner = execute::take_lock(host, vm.uuid, request)?;
    let info = host.hv.domain_info(vm.domid)?;
    match info.filter(|info| &info.handle == vm.uuid.as_bytes()) {
        Some(info) => execute::carry_out_for_another(host, owner, &info, request),
        None => Err(EngineError::NoSuchDomain(vm.domid.to_string())),
    }
}

/// The request of a node, or of the file that it stands in.
fn parse(host: &Host, vm: Vm, id: &str, node: &[u8]) -> Result<Request, EngineError> {
    let path = host.dirs.requests(vm.uuid).join(id);
    let text = match node == IN_FILE {
        true => host
            .files
            .read(&path, FILE_MAX_BYTES)
            .map_err(|source| EngineError::io("read", &path, source))?,
        false => node.to_vec(),
    };
    // One that stays goes with the VM.
    let _ = os_port::remove_if_there(&*host.files, &path);
    let old: OldRequest = serde_json::from_slice(&text).map_err(xyl_api::ParseError::from)?;
    Ok(old.into())
}

/// Removes the replies to dead processes.
pub(crate) fn remove_unread(host: &mut Host) -> Result<(), EngineError> {
    for id in host.children(&replies()?)? {
        if !is_asker_running(host, &id) {
            host.store.rm(&below(&replies()?, &id)?)?;
        }
    }
    Ok(())
}
