//! Removing the findings.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::{Batch, Path, Tree};

use super::finding::{Finding, Leak, NodeOwner, Verdict};
use super::{domains, look};
use crate::device;
use crate::host::dom0::Kernel;
use crate::operation::destroy::{self, END_LIMIT};
use crate::recover;
use crate::vm::{monitor_lock, names, userdata};
use crate::{EngineError, Host};

/// Time limit for a dying domain to free its last pages.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Removes all findings, and then checks that they are gone. Unfinished operations are finished first, because that
/// may remove most findings.
pub(super) fn all(
    host: &mut Host,
    kernel: &Kernel,
    mut findings: Vec<Finding>,
) -> Result<Vec<Finding>, EngineError> {
    let is_ours = |finding: &Finding| matches!(finding.leak, Leak::UnderWay(_) | Leak::Record(..));
    let recovered = match findings.iter().any(is_ours) {
        true => recover::all(host, true)?,
        false => Vec::new(),
    };
    let failed = |uuid: &str| {
        let one = recovered
            .iter()
            .find(|one| one.has_failed && one.uuid.to_string() == uuid);
        one.map(|one| one.what.clone())
    };
    for finding in &mut findings {
        let outcome = match &finding.leak {
            Leak::UnderWay(name) => Ok(failed(name)),
            Leak::Record(uuid, _) => record(host, *uuid, failed(&uuid.to_string())),
            leak => one(host, kernel, leak),
        };
        finding.verdict = match outcome {
            Ok(None) => Verdict::Removed,
            Ok(Some(why)) => Verdict::Left(why),
            Err(error) => Verdict::Left(error.to_string()),
        };
    }
    Ok(findings)
}

/// `recover` has removed it, unless the VM's last operation did not end well.
fn record(host: &Host, uuid: Uuid, failed: Option<String>) -> Result<Option<String>, EngineError> {
    let is_there = recover::vms_kept(host)?.contains(&uuid);
    let kept = || "kept, since the last operation on the VM did not end well".to_owned();
    Ok(failed.or_else(|| is_there.then(kept)))
}

/// Removes one thing; why it is left, if it is.
fn one(host: &mut Host, kernel: &Kernel, leak: &Leak) -> Result<Option<String>, EngineError> {
    match leak {
        Leak::LoopDevice {
            device,
            file,
            domid,
        } => {
            let is_same = kernel.backing_file(device).as_ref() == Some(file);
            if !is_same || kernel.is_in_use(device) || has_domain(host, *domid)? {
                return Ok(Some(CHANGED.to_owned()));
            }
            run(kernel, "losetup", &["-d", &format!("/dev/{device}")])
        }
        Leak::OpenLoop { number, uuid } => {
            let mut left = device::labelled_loops(host)?.into_iter();
            let is_there = left.any(|(one, vm)| one.number == *number && vm == *uuid);
            Ok(is_there.then(|| "its last user has not closed it".to_owned()))
        }
        Leak::Nodes { path, owner } => nodes(host, path, *owner),
        Leak::Interface { name, domid } => {
            if has_domain(host, *domid)? {
                return Ok(Some(CHANGED.to_owned()));
            }
            // It may have gone with its backend's nodes.
            match kernel.guest_interfaces().contains(name) {
                true => run(kernel, "ip", &["link", "delete", name]),
                false => Ok(None),
            }
        }
        Leak::Qemu { program, domid } => {
            if has_domain(host, *domid)? {
                return Ok(Some(CHANGED.to_owned()));
            }
            if let Some(doubt) = kernel.doubts_about_qemu(program, *domid) {
                return Ok(Some(doubt));
            }
            Ok(kernel.end(program).err().map(|error| error.to_string()))
        }
        Leak::Userdata { file, domid, uuid } => libxl_file(host, file, *domid, *uuid),
        Leak::DamagedJournal(name) | Leak::DamagedReply(name) => {
            let path = host.dirs.damaged().join(name);
            os_port::remove_if_there(&*host.files, &path)
                .map_err(|source| EngineError::io("remove", &path, source))?;
            Ok(None)
        }
        Leak::Doorbell(uuid) => doorbell(host, *uuid),
        Leak::HalfMade {
            domid,
            uuid,
            suspects,
            ..
        } => half_made(host, kernel, *domid, *uuid, suspects.is_empty()),
        Leak::Dying { domid, uuid, .. } => dying(host, *domid, *uuid),
        Leak::UnderWay(_) | Leak::Record(..) => Ok(None),
    }
}

/// Reason for a finding that has changed, and so stays.
const CHANGED: &str = "it has changed meanwhile: another process uses it";

fn run(kernel: &Kernel, program: &str, args: &[&str]) -> Result<Option<String>, EngineError> {
    let failed = kernel.run(program, args).err();
    Ok(failed.map(|error| error.to_string()))
}

fn has_domain(host: &Host, domid: DomId) -> Result<bool, EngineError> {
    Ok(host.hv.domain_info(domid)?.is_some())
}

/// The domain is looked for within the transaction. One that is made after that has its nodes written
/// later, and those who write them at the same time make the transaction start again.
fn nodes(host: &mut Host, path: &str, owner: NodeOwner) -> Result<Option<String>, EngineError> {
    let top = Path::new(path).map_err(xenstore::Error::from)?;
    let hv = &*host.hv;
    host.store.try_transaction(|transaction| {
        let infos = hv.domain_list()?;
        let has_owner = match owner {
            NodeOwner::Domain(domid) => infos.iter().any(|info| info.domid == domid),
            NodeOwner::Vm(uuid) => {
                let vms = names::read_each(transaction, &infos, "vm")?;
                let has_handle = infos.iter().any(|info| &info.handle == uuid.as_bytes());
                has_handle || vms.iter().flatten().any(|vm| vm == path)
            }
        };
        if has_owner {
            return Ok(Some(CHANGED.to_owned()));
        }
        let mut batch = Batch::new();
        batch.rm(&top);
        transaction.run(&batch)?;
        Ok(None)
    })
}

/// Removes the doorbell of a VM without supervision, and what a dead process has left of its installation.
fn doorbell(host: &Host, uuid: Uuid) -> Result<Option<String>, EngineError> {
    if monitor_lock::is_supervised(&*host.files, &host.dirs, uuid) {
        return Ok(Some(CHANGED.to_owned()));
    }
    let path = host.dirs.doorbell(uuid);
    for path in [path.with_extension("new"), path] {
        host.doorbells
            .remove(&path)
            .map_err(|source| EngineError::io("remove", &path, source))?;
    }
    Ok(None)
}

/// Removes a file of libxl. A lock file that a process holds stays.
fn libxl_file(
    host: &Host,
    file: &str,
    domid: DomId,
    uuid: Uuid,
) -> Result<Option<String>, EngineError> {
    let path = host.dirs.xen_lib.join(file);
    let info = host.hv.domain_info(domid)?;
    let is_used = info.is_some_and(|info| &info.handle == uuid.as_bytes());
    if is_used || file.starts_with("userdata-l.") && look::is_held(host, &path)? {
        return Ok(Some(CHANGED.to_owned()));
    }
    os_port::remove_if_there(&*host.files, &path)
        .map_err(|source| EngineError::io("remove", &path, source))?;
    Ok(None)
}

fn half_made(
    host: &mut Host,
    kernel: &Kernel,
    domid: DomId,
    uuid: Uuid,
    has_no_suspects: bool,
) -> Result<Option<String>, EngineError> {
    let Some(_lock) = recover::try_lock(host, &host.dirs.vm_lock(uuid))? else {
        return Ok(Some(CHANGED.to_owned()));
    };
    let infos = host.hv.domain_list()?;
    let is_it = |info: &&DomainInfo| info.domid == domid && &info.handle == uuid.as_bytes();
    let Some(info) = infos.iter().find(is_it) else {
        return Ok(None);
    };
    if !has_no_suspects || !domains::suspects(host, kernel, &infos).is_empty() {
        return Ok(Some("another process may be making it".to_owned()));
    }
    if !recover::has_never_run(info) {
        return Ok(Some(CHANGED.to_owned()));
    }
    let uuid = uuid.hyphenated().to_string();
    userdata::remove_all(host, domid, &uuid)?;
    destroy::remove_nodes_if_ours(host, domid, &uuid)?;
    remove_backends(host, domid)?;
    let deadline = host.clock.now() + END_LIMIT;
    destroy::end_domain(host, domid, deadline)?;
    Ok(None)
}

/// The backends' nodes that xl had written for it.
fn remove_backends(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let mut batch = Batch::new();
    for folder in crate::host::holders::backend_folders(host)? {
        let path = folder
            .join(&domid.to_string())
            .map_err(xenstore::Error::from)?;
        if !host.children(&path)?.is_empty() {
            batch.rm(&path);
        }
    }
    if !batch.is_empty() {
        host.store.run(&batch)?;
    }
    Ok(())
}

/// Destroys a dying domain again. The process that began the destroy may have died, and Xen continues only when it is
/// called.
fn dying(host: &mut Host, domid: DomId, uuid: Uuid) -> Result<Option<String>, EngineError> {
    let deadline = host.clock.now() + END_LIMIT;
    destroy::end_domain(host, domid, deadline)?;
    let left = destroy::await_gone(host, domid, uuid, LAST_WAIT)?;
    Ok(left.map(|_| "its last pages are still held".to_owned()))
}
