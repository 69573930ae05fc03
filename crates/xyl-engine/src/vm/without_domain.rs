//! VMs that have no domain now and get their next one: a restart is under way, or waits for its next try.
//!
//! Such a VM keeps its name. No domain has it, so xenstore does not know the name: the VM's journal does. Only few journals
//! are read: those of the VMs that are supervised or locked, and that have no domain.
//!
//! Facts: [`crate::vm::monitor_lock`] (which VMs are supervised), [`crate::vm::lock`] (which VMs are locked).

use std::path::PathBuf;

use os_port::{Files, Process, list_if_there};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_saga::{Operation, Outcome, Past};

use crate::vm::kind::{self, Kind};
use crate::vm::{lock, store};
use crate::{Dirs, EngineError, Host};

/// The parts that are needed to read Xyl's records of the VMs on a host. Reading takes no lock.
#[derive(Clone, Copy)]
pub struct Records<'h> {
    /// The host's files.
    pub files: &'h dyn Files,
    /// The folders of Xyl.
    pub dirs: &'h Dirs,
    /// Port that shows which processes run.
    pub process: &'h dyn Process,
}

impl Host {
    /// Xyl's records of this host's VMs.
    pub fn records(&self) -> Records<'_> {
        Records {
            files: &*self.files,
            dirs: &self.dirs,
            process: &*self.process,
        }
    }
}

/// A VM that has no domain now and gets its next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmWithoutDomain {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Name of the VM.
    pub name: String,
    /// Number of its last domain, where the journal still has it.
    pub last_domid: Option<DomId>,
    /// Whether a process that runs makes the next domain now. Else the VM waits for its next try.
    pub is_under_way: bool,
}

/// The VMs that have none of these domains, and get their next one. A domain that is dying does not count.
pub fn all(records: &Records<'_>, infos: &[DomainInfo]) -> Vec<VmWithoutDomain> {
    let has_domain = |uuid: &Uuid| {
        infos
            .iter()
            .any(|info| &info.handle == uuid.as_bytes() && !info.flags.dying)
    };
    let candidates = candidates(records).into_iter();
    candidates
        .filter(|uuid| !has_domain(uuid))
        .filter_map(|uuid| of(records, uuid))
        .collect()
}

/// The VM of this name that has none of these domains, and gets its next one.
pub fn named(records: &Records<'_>, infos: &[DomainInfo], name: &str) -> Option<VmWithoutDomain> {
    all(records, infos).into_iter().find(|vm| vm.name == name)
}

/// Refuses a name that such a VM has. `own` is the UUID of the VM that may have it.
pub(crate) fn refuse_its_name(
    records: &Records<'_>,
    infos: &[DomainInfo],
    name: &str,
    own: &[u8; 16],
) -> Result<(), EngineError> {
    match named(records, infos, name) {
        Some(vm) if vm.uuid.as_bytes() != own => Err(EngineError::NameOfVm {
            name: name.to_owned(),
            uuid: vm.uuid.hyphenated().to_string(),
        }),
        _ => Ok(()),
    }
}

/// The VMs that are supervised or locked: no other VM gets its next domain.
pub(crate) fn candidates(records: &Records<'_>) -> Vec<Uuid> {
    let folders = [records.dirs.watched(), records.dirs.busy()];
    let names = folders
        .iter()
        .flat_map(|folder| list_if_there(records.files, folder).unwrap_or_default());
    let mut uuids: Vec<Uuid> = names
        .filter_map(|name| Uuid::try_parse(&name).ok())
        .collect();
    uuids.sort_unstable();
    uuids.dedup();
    uuids
}

/// The VM, if it gets its next domain. The caller knows that it has none.
pub(crate) fn of(records: &Records<'_>, uuid: Uuid) -> Option<VmWithoutDomain> {
    let contents = xyl_saga::load(records.files, &records.dirs.journal(uuid)).ok()?;
    let past = Past::of(&contents);
    let last = kind::last_of_domain(&past)?;
    if !kind::is_owed_by(last) || !has_record(records, uuid) {
        return None;
    }
    let is_under_way = last.outcome.is_none() && last.process().is_running(records.process);
    Some(VmWithoutDomain {
        uuid,
        name: last.begin.name.clone(),
        last_domid: last_domid(&past),
        is_under_way,
    })
}

/// Whether a VM that has no domain is to get one: its last operation was to give it one, and has not.
pub(crate) fn is_owed(host: &Host, uuid: Uuid) -> Result<bool, EngineError> {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid))?;
    let past = Past::of(&contents);
    let is_owed = kind::last_of_domain(&past).is_some_and(kind::is_owed_by);
    Ok(is_owed && has_record(&host.records(), uuid))
}

/// Ends a VM that has no domain: no restart follows, its monitor ends, and its configuration is kept. The path; `None` for a VM
/// that is to get no domain. The caller holds the VM's lock.
pub(crate) fn call_off(host: &Host, uuid: Uuid) -> Result<Option<PathBuf>, EngineError> {
    if !is_owed(host, uuid)? {
        return Ok(None);
    }
    let kept = store::keep(host, uuid)?;
    lock::forget(host, uuid)?;
    Ok(Some(kept))
}

fn has_record(records: &Records<'_>, uuid: Uuid) -> bool {
    let text = uuid.hyphenated().to_string();
    store::read(records.files, records.dirs, &text).is_ok()
}

/// The number of the VM's last domain that ran.
fn last_domid(past: &Past) -> Option<DomId> {
    let number = |operation: &Operation| {
        let key = match Kind::parse(&operation.begin.kind) {
            Some(Kind::Create | Kind::Restore) if operation.outcome == Some(Outcome::Done) => {
                "domid"
            }
            Some(Kind::Create | Kind::Restore) => return None,
            _ => "old",
        };
        u16::try_from(operation.number(key)?).ok().map(DomId)
    };
    past.operations.iter().rev().find_map(number)
}

/// The name of a VM that is supervised or locked, by its journal. For a domain that has no name in xenstore for a moment,
/// since an operation on the VM is under way.
pub fn name_of(records: &Records<'_>, uuid: Uuid) -> Option<String> {
    let is_candidate = |folder: std::path::PathBuf| {
        let names = list_if_there(records.files, &folder).unwrap_or_default();
        names.contains(&uuid.hyphenated().to_string())
    };
    if !is_candidate(records.dirs.watched()) && !is_candidate(records.dirs.busy()) {
        return None;
    }
    crate::vm::journal::name(records.files, records.dirs, uuid)
}
