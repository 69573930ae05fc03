//! One look at a host.

use std::collections::{HashMap, HashSet};
use std::path::Path as FilePath;

use os_port::list_if_there;
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::{Batch, Path, Tree};

use super::domains;
use super::finding::{Finding, Leak, NodeOwner};
use crate::device;
use crate::host::dom0::{Kernel, Program};
use crate::host::holders::{backend_folders, qemus};
use crate::recover::{self, End};
use crate::supervise::status;
use crate::vm::{monitor_lock, names, request_queue, store};
use crate::{EngineError, Host};

/// Objects that toolstacks keep for domains, read before the list of domains.
struct Traces {
    /// Topmost nodes, and their owners.
    nodes: Vec<(String, NodeOwner)>,
    /// Folders of backends that belong to a domain.
    backends: Vec<(Path, DomId)>,
    userdata: Vec<(String, DomId, Uuid)>,
    /// VMs with a record or a run folder.
    vms: Vec<Uuid>,
    damaged: Vec<String>,
    /// VMs with a doorbell.
    doorbells: Vec<Uuid>,
    interfaces: Vec<(String, DomId)>,
    programs: Vec<Program>,
    /// The processes of the users of Xyl's QEMUs, each with its domain.
    qemus_by_user: Vec<(Program, DomId)>,
}

/// The domains of the host.
struct Domains {
    infos: Vec<DomainInfo>,
    /// Paths of VM nodes, as the domains' own `vm` nodes have them.
    vm_paths: HashSet<String>,
}

/// Examines the host once. A finding that must be removed before another one comes first: a loop device is known only
/// by its backend's nodes.
pub(super) fn once(host: &mut Host, kernel: &Kernel) -> Result<Vec<Finding>, EngineError> {
    let traces = Traces::read(host, kernel)?;
    let domains = Domains::read(host)?;
    let mut found = under_way(host)?;
    found.extend(stuck(host)?);
    found.extend(loop_devices(host, kernel, &traces, &domains)?);
    found.extend(open_loops(host, &traces, &domains)?);
    found.extend(nodes(&traces, &domains));
    found.extend(interfaces(host, &traces, &domains)?);
    found.extend(orphaned_qemus(&traces, &domains));
    found.extend(userdata(&traces, &domains));
    found.extend(records(host, &traces, &domains)?);
    found.extend(damaged(&traces));
    found.extend(lost_doorbells(host, &traces));
    found.extend(domains::half_made(host, kernel, &domains.infos)?);
    found.extend(domains::dying(host, kernel, &domains.infos)?);
    Ok(found)
}

impl Traces {
    fn read(host: &mut Host, kernel: &Kernel) -> Result<Traces, EngineError> {
        let mut nodes = Vec::new();
        for folder in ["/local/domain", "/libxl"] {
            for domid in numbers_in(host, folder)? {
                nodes.push((format!("{folder}/{domid}"), NodeOwner::Domain(domid)));
            }
        }
        let vms = host.children(&path("/vm")?)?;
        nodes.extend(vms.iter().filter_map(|name| {
            let uuid = Uuid::try_parse(name).ok()?;
            Some((format!("/vm/{name}"), NodeOwner::Vm(uuid)))
        }));
        let mut backends = Vec::new();
        for folder in backend_folders(host)? {
            for domid in numbers_in(host, folder.as_str())? {
                let path = folder
                    .join(&domid.to_string())
                    .map_err(xenstore::Error::from)?;
                backends.push((path, domid));
            }
        }
        let files = |host: &Host, folder: &FilePath| {
            list_if_there(&*host.files, folder)
                .map_err(|source| EngineError::io("list", folder, source))
        };
        let mut userdata: Vec<_> = files(host, &host.dirs.xen_lib)?
            .into_iter()
            .filter_map(parse_userdata)
            .collect();
        userdata.sort_unstable();
        Ok(Traces {
            nodes,
            backends,
            userdata,
            vms: recover::vms_kept(host)?,
            damaged: recover::names_in(host, &host.dirs.damaged())?,
            doorbells: doorbells(host)?,
            interfaces: kernel
                .guest_interfaces()
                .into_iter()
                .filter_map(|name| {
                    let domid = kernel
                        .netback_domain(&name)
                        .or_else(|| interface_of(&name))?;
                    Some((name, domid))
                })
                .collect(),
            programs: kernel.programs(),
            qemus_by_user: kernel.processes_of_qemus(),
        })
    }
}

impl Domains {
    fn read(host: &mut Host) -> Result<Domains, EngineError> {
        let infos = host.hv.domain_list()?;
        let vm_paths = names::read_each(&mut host.store, &infos, "vm")?;
        Ok(Domains {
            vm_paths: vm_paths.into_iter().flatten().collect(),
            infos,
        })
    }

    /// Whether the domain exists. Domain 0, which runs this process, always does.
    fn has(&self, domid: DomId) -> bool {
        domid == DomId::ZERO || self.infos.iter().any(|info| info.domid == domid)
    }

    fn has_vm(&self, uuid: Uuid) -> bool {
        self.infos
            .iter()
            .any(|info| &info.handle == uuid.as_bytes())
    }

    fn has_both(&self, domid: DomId, uuid: Uuid) -> bool {
        let is_it = |info: &DomainInfo| info.domid == domid && &info.handle == uuid.as_bytes();
        self.infos.iter().any(is_it)
    }

    fn has_owner(&self, path: &str, owner: NodeOwner) -> bool {
        match owner {
            NodeOwner::Domain(domid) => self.has(domid),
            NodeOwner::Vm(uuid) => self.has_vm(uuid) || self.vm_paths.contains(path),
        }
    }
}

fn path(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}

/// The domids among a folder's children.
fn numbers_in(host: &mut Host, folder: &str) -> Result<Vec<DomId>, EngineError> {
    let names = host.children(&path(folder)?)?;
    Ok(names.iter().filter_map(|name| domid_of(name)).collect())
}

/// A domid as the toolstacks write it.
fn domid_of(text: &str) -> Option<DomId> {
    let domid: u16 = text.parse().ok()?;
    let is_one = domid < DomId::FIRST_RESERVED && domid.to_string() == text;
    is_one.then_some(DomId(domid))
}

/// `userdata-d.DOMID.UUID.USER`, and the same with `n` and `l` for files that are being written, and locks.
fn parse_userdata(file: String) -> Option<(String, DomId, Uuid)> {
    let mut parts = file.strip_prefix("userdata-")?.splitn(4, '.').skip(1);
    let domid = domid_of(parts.next()?)?;
    let uuid = Uuid::try_parse(parts.next()?).ok()?;
    parts.next()?;
    Some((file, domid, uuid))
}

/// The domain of an interface that is named as netback, Xen's scripts and libxl name them: `vif5.0`,
/// `vif5.0-emu`, `tap5.0`.
fn interface_of(name: &str) -> Option<DomId> {
    let numbers = name
        .strip_prefix("vif")
        .or_else(|| name.strip_prefix("tap"))?;
    let (domid, devid) = numbers.split_once('.')?;
    let devid = devid.strip_suffix("-emu").unwrap_or(devid);
    devid.parse::<u32>().ok()?;
    domid_of(domid)
}

/// Whether a process holds a lock. The file that a dead holder left stays, because it stands for an unfinished
/// operation.
pub(super) fn is_held(host: &Host, path: &FilePath) -> Result<bool, EngineError> {
    if host.files.read(path, u64::from(u32::MAX)).is_err() {
        return Ok(false);
    }
    let lock = recover::try_lock(host, path)?;
    Ok(lock.map(|lock| lock.leave()).is_none())
}

fn under_way(host: &Host) -> Result<Vec<Finding>, EngineError> {
    let busy = host.dirs.busy();
    let mut found = Vec::new();
    for name in recover::names_in(host, &busy)? {
        if is_held(host, &busy.join(&name))? {
            continue;
        }
        found.push(Finding {
            remedy: "`xyl recover` finishes it or takes it back, as does every command that changes a VM".to_owned(),
            ..Finding::removable(
                Leak::UnderWay(name.clone()),
                format!("operation left under way: {}", busy.join(name).display()),
                "the process that held this lock has died".to_owned(),
            )
        });
    }
    Ok(found)
}

/// Operations that have failed where they cannot be taken back: their process has freed the VM's lock.
fn stuck(host: &Host) -> Result<Vec<Finding>, EngineError> {
    let mut found = Vec::new();
    for vm in status::all(&*host.files, &host.dirs)? {
        let past = vm.past();
        let Some(open) = past.under_way().filter(|_| !vm.is_busy) else {
            continue;
        };
        let begin = &open.begin;
        let failure = open.failure.as_ref();
        let cause = failure.map(|(step, cause)| format!("`{step}` has failed: {cause}"));
        found.push(Finding {
            remedy: "put right what the cause names, then `xyl recover`".to_owned(),
            ..Finding::removable(
                Leak::UnderWay(vm.uuid.hyphenated().to_string()),
                format!(
                    "operation that is not finished: {} of {} ({})",
                    begin.kind, begin.name, begin.id
                ),
                cause.unwrap_or_else(|| "something that it made could not be removed".to_owned()),
            )
        });
    }
    Ok(found)
}

fn nodes(traces: &Traces, domains: &Domains) -> Vec<Finding> {
    let backends = traces.backends.iter();
    let backends = backends.map(|(path, domid)| (path.as_str(), NodeOwner::Domain(*domid)));
    let tops = traces
        .nodes
        .iter()
        .map(|(path, owner)| (path.as_str(), *owner));
    let all: Vec<_> = tops.chain(backends).collect();
    let lost = all
        .iter()
        .filter(|(path, owner)| !domains.has_owner(path, *owner));
    let homes: Vec<String> = lost.clone().map(|(path, _)| format!("{path}/")).collect();
    lost.filter(|(path, _)| !homes.iter().any(|home| path.starts_with(home.as_str())))
        .map(|(path, owner)| {
            let whose = match owner {
                NodeOwner::Domain(domid) => format!("no domain has the number {domid}"),
                NodeOwner::Vm(uuid) => format!("no domain has the UUID {uuid}"),
            };
            let leak = Leak::Nodes {
                path: (*path).to_owned(),
                owner: *owner,
            };
            Finding::removable(
                leak,
                format!("xenstore nodes without a domain: {path}"),
                format!("{whose}: the toolstack that ended it has not removed them"),
            )
        })
        .collect()
}

/// Devices in `/local/domain/0/backend/vbd/D/ID` of domains that are no more, which say which loop device they
/// have (`node`) and for which file (`params`).
fn loop_devices(
    host: &mut Host,
    kernel: &Kernel,
    traces: &Traces,
    domains: &Domains,
) -> Result<Vec<Finding>, EngineError> {
    let mut used = HashMap::new();
    let mut lost = Vec::new();
    for (folder, domid) in &traces.backends {
        let is_disk = folder.as_str().starts_with("/local/domain/0/backend/vbd/");
        if !is_disk {
            continue;
        }
        for number in host.children(folder)? {
            let device = folder.join(&number).map_err(xenstore::Error::from)?;
            let (node, file) = disk(host, &device)?;
            let Some(device) = node.strip_prefix("/dev/").filter(|name| is_loop(name)) else {
                continue;
            };
            *used.entry(device.to_owned()).or_insert(0) += 1;
            if !domains.has(*domid) {
                lost.push((device.to_owned(), file, *domid));
            }
        }
    }
    lost.retain(|(device, file, _)| {
        used.get(device) == Some(&1)
            && kernel.backing_file(device).as_deref() == Some(FilePath::new(file))
            && !kernel.is_in_use(device)
    });
    Ok(lost
        .into_iter()
        .map(|(device, file, domid)| {
            Finding::removable(
                Leak::LoopDevice {
                    device: device.clone(),
                    file: file.clone().into(),
                    domid,
                },
                format!("loop device without a domain: /dev/{device} ({file})"),
                format!("it was a disk of domain {domid}, which is no more"),
            )
        })
        .collect())
}

/// Loop devices of Xyl's that no backend of a living domain has. The kernel detaches each when its last user closes it.
fn open_loops(
    host: &mut Host,
    traces: &Traces,
    domains: &Domains,
) -> Result<Vec<Finding>, EngineError> {
    let mut lost = device::labelled_loops(host)?;
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let served = served_loops(host, traces, domains)?;
    lost.retain(|(one, _)| !served.contains(&format!("7:{:x}", one.number)));
    let found = lost.into_iter().map(|(one, uuid)| Finding {
        remedy: "the kernel detaches it when its last user closes it: look for storage that does not answer, and with `fuser -v` for a program".to_owned(),
        ..Finding::removable(
            Leak::OpenLoop {
                number: one.number,
                uuid,
            },
            format!(
                "loop device without a disk: /dev/loop{} ({})",
                one.number,
                one.backing_path.display()
            ),
            format!("it was a disk of VM {uuid}, which has requests under way or another user"),
        )
    });
    Ok(found.collect())
}

/// The block devices that backends of living domains serve, as their nodes name them.
fn served_loops(
    host: &mut Host,
    traces: &Traces,
    domains: &Domains,
) -> Result<HashSet<String>, EngineError> {
    let mut served = HashSet::new();
    for (folder, domid) in &traces.backends {
        if !folder.as_str().contains("/backend/vbd/") || !domains.has(*domid) {
            continue;
        }
        for number in host.children(folder)? {
            let device = folder
                .join(&number)
                .and_then(|path| path.join("physical-device"));
            let device = host
                .store
                .read_text_opt(&device.map_err(xenstore::Error::from)?)?;
            served.extend(device);
        }
    }
    Ok(served)
}

fn is_loop(name: &str) -> bool {
    let number = name.strip_prefix("loop");
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn disk(host: &mut Host, device: &Path) -> Result<(String, String), EngineError> {
    let mut batch = Batch::new();
    let node = batch.read_opt(&device.join("node").map_err(xenstore::Error::from)?);
    let params = batch.read_opt(&device.join("params").map_err(xenstore::Error::from)?);
    let replies = host.store.run(&batch)?;
    let text = |index| {
        let value = replies.value(index).unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    };
    Ok((text(node), text(params)))
}

/// A name that a living domain's backend claims is no leak, whatever number is in it.
fn interfaces(
    host: &mut Host,
    traces: &Traces,
    domains: &Domains,
) -> Result<Vec<Finding>, EngineError> {
    let mut lost: Vec<_> = traces
        .interfaces
        .iter()
        .filter(|(_, domid)| !domains.has(*domid))
        .collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let claimed = claimed_interfaces(host, traces, domains)?;
    lost.retain(|(name, _)| !claimed.contains(name.strip_suffix("-emu").unwrap_or(name)));
    Ok(lost
        .into_iter()
        .map(|(name, domid)| {
            Finding::removable(
                Leak::Interface {
                    name: name.clone(),
                    domid: *domid,
                },
                format!("network interface without a domain: {name}"),
                format!("no domain has the number {domid}"),
            )
        })
        .collect())
}

fn claimed_interfaces(
    host: &mut Host,
    traces: &Traces,
    domains: &Domains,
) -> Result<HashSet<String>, EngineError> {
    let mut claimed = HashSet::new();
    for (folder, domid) in &traces.backends {
        if !folder.as_str().contains("/backend/vif/") || !domains.has(*domid) {
            continue;
        }
        for number in host.children(folder)? {
            let name = folder.join(&number).and_then(|path| path.join("vifname"));
            let name = host.store.read_opt(&name.map_err(xenstore::Error::from)?)?;
            claimed.extend(name.and_then(|name| String::from_utf8(name).ok()));
        }
    }
    Ok(claimed)
}

/// QEMUs without a domain: by their users, which are the kernel's word, and those of other toolstacks by their arguments.
fn orphaned_qemus(traces: &Traces, domains: &Domains) -> Vec<Finding> {
    let by_user = &traces.qemus_by_user;
    let is_found = |program: &Program| by_user.iter().any(|(found, _)| found.pid == program.pid);
    let by_arguments = qemus(&traces.programs).filter(|(program, _)| !is_found(program));
    let by_user = by_user.iter().map(|(program, domid)| (program, *domid));
    by_user
        .chain(by_arguments)
        .filter(|(_, domid)| !domains.has(*domid))
        .map(|(program, domid)| Finding {
            remedy: "`xyl fsck --repair` ends it, if it is of a user of Xyl for QEMU, or of root or another one for QEMU and executes QEMU".to_owned(),
            ..Finding::removable(
                Leak::Qemu {
                    program: program.clone(),
                    domid,
                },
                format!(
                    "QEMU without a domain: process {} ({})",
                    program.pid,
                    program.name()
                ),
                format!("it serves domain {domid}, which is no more"),
            )
        })
        .collect()
}

fn userdata(traces: &Traces, domains: &Domains) -> Vec<Finding> {
    let lost = traces
        .userdata
        .iter()
        .filter(|(_, domid, uuid)| !domains.has_both(*domid, *uuid));
    lost.map(|(file, domid, uuid)| {
        Finding::removable(
            Leak::Userdata {
                file: file.clone(),
                domid: *domid,
                uuid: *uuid,
            },
            format!("file of libxl without a domain: {file}"),
            format!("there is no domain {domid} with the UUID {uuid}"),
        )
    })
    .collect()
}

/// VMs with a record and without a domain. A process that makes or restarts the VM holds its lock, so such a VM is
/// skipped.
fn records(host: &Host, traces: &Traces, domains: &Domains) -> Result<Vec<Finding>, EngineError> {
    let mut found = Vec::new();
    for uuid in traces.vms.iter().filter(|uuid| !domains.has_vm(**uuid)) {
        let has_monitor = monitor_lock::has_monitor(&*host.files, &host.dirs, *uuid)?;
        if has_monitor || is_held(host, &host.dirs.vm_lock(*uuid))? {
            continue;
        }
        found.extend(record_of(host, *uuid));
    }
    Ok(found)
}

/// The record of a VM without a domain; `None` if it is kept on purpose.
fn record_of(host: &Host, uuid: Uuid) -> Option<Finding> {
    let has_record = !store::is_absent(host, uuid);
    let folder = match has_record {
        true => host.dirs.vm(&uuid.hyphenated().to_string()),
        false => host.dirs.vm_run(uuid),
    };
    let end = recover::last_end(host, uuid);
    let finding = Finding::removable(
        Leak::Record(uuid, matches!(end, Ok(End::Well))),
        format!("record of a VM without a domain: {}", folder.display()),
        "its domain was destroyed while it had no monitor, or the host went down".to_owned(),
    );
    match end {
        Ok(End::Well) => Some(finding),
        // A restart was given up. The configuration was put aside, and `xyl ops` tells why.
        Ok(End::Badly) if !has_record && store::is_kept(host, uuid) => None,
        Ok(End::Badly | End::NotYet) => Some(Finding {
            cause: vec![format!(
                "the last operation on it did not end well: `xyl ops show {uuid}`"
            )],
            remedy: match has_record {
                true => "`xyl recover` tries again; its configuration is kept, for `xyl create`",
                false => "`xyl recover` tries again",
            }
            .to_owned(),
            ..finding
        }),
        Err(error) => Some(Finding {
            cause: vec![error.to_string()],
            remedy: "put right what the cause names, then `xyl recover`".to_owned(),
            ..finding
        }),
    }
}

fn damaged(traces: &Traces) -> Vec<Finding> {
    let names = traces.damaged.iter();
    names
        .map(|name| {
            let (leak, what) = match request_queue::vm_of_reply(name) {
                Some(_) => (Leak::DamagedReply(name.clone()), "damaged reply"),
                None => (Leak::DamagedJournal(name.clone()), "damaged journal"),
            };
            Finding::removable(
                leak,
                format!("{what}, set aside: /run/xyl/damaged/{name}"),
                "it was kept so that you can see what had happened".to_owned(),
            )
        })
        .collect()
}

/// The VMs that have a doorbell, or whose monitor died while it installed one.
fn doorbells(host: &Host) -> Result<Vec<Uuid>, EngineError> {
    let names = recover::names_in(host, &host.dirs.doorbells())?;
    let vm_of = |name: &String| Uuid::try_parse(name.strip_suffix(".new").unwrap_or(name)).ok();
    let mut uuids: Vec<Uuid> = names.iter().filter_map(vm_of).collect();
    uuids.dedup();
    Ok(uuids)
}

/// The doorbells of VMs without supervision. A monitor removes its doorbell before it ends the supervision. A dead monitor
/// of a supervised VM leaves its doorbell, and the next monitor replaces it.
fn lost_doorbells(host: &Host, traces: &Traces) -> Vec<Finding> {
    let is_supervised = |uuid: &Uuid| monitor_lock::is_supervised(&*host.files, &host.dirs, *uuid);
    let lost = traces.doorbells.iter().filter(|uuid| !is_supervised(uuid));
    lost.map(|uuid| {
        let path = host.dirs.doorbell(*uuid);
        Finding::removable(
            Leak::Doorbell(*uuid),
            format!("doorbell without a monitor: {}", path.display()),
            "its monitor has died, and the VM is not supervised any more".to_owned(),
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_and_files_are_distinguished() {
        let domid = |name| interface_of(name).map(|domid| domid.0);
        assert_eq!(domid("vif12.0"), Some(12));
        assert_eq!(domid("vif12.1-emu"), Some(12));
        assert_eq!(domid("tap3.0"), Some(3));
        for other in [
            "vif12",
            "vif.0",
            "vif1.x",
            "vif99999.0",
            "eth0",
            "tap0",
            "vif01.0",
            "vif-1.0",
        ] {
            assert_eq!(domid(other), None, "{other}");
        }
        let uuid = Uuid::from_bytes([7; 16]);
        let file = format!("userdata-l.4.{uuid}.domain-userdata-lock");
        let parsed = parse_userdata(file.clone());
        assert_eq!(parsed, Some((file, DomId(4), uuid)));
        for other in [
            "userdata-d.4.x.xl",
            "userdata-d.4",
            "dump",
            "userdata-d.4.nil",
        ] {
            assert_eq!(parse_userdata(other.to_owned()), None, "{other}");
        }
    }
}
