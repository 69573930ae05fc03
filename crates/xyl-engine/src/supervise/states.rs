//! The state of each VM on a host, for lists and look-ups.
//!
//! `xyl list` and the look-up of a VM by its name use this module. It joins Xen's domains with the VMs that have none now. Reading takes
//! no lock.

use std::path::PathBuf;

use os_port::{Clock, list_if_there};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, GuestKind, Hypervisor};
use xyl_saga::Past;

use crate::config::plan;
use crate::supervise::restart_backoff;
use crate::vm::domains::{self, DomainRef};
use crate::vm::given_up::{self, GivenUp};
use crate::vm::state::{Observed, VmState};
use crate::vm::store;
use crate::vm::without_domain::{self, Records, VmWithoutDomain};
use crate::{Dirs, EngineError};

/// Maximum number of lists of domains. They are listed again if a restart has ended between two lists.
const LOOKS: u32 = 5;

/// A VM that has no domain now, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Name of the VM.
    pub name: String,
    /// Number of its last domain, where that is known.
    pub last_domid: Option<DomId>,
    /// State of the VM.
    pub state: VmState,
    /// Type of the guest, where its record can be read.
    pub kind: Option<GuestKind>,
    /// Memory that its next domain gets, in KiB.
    pub memory_kib: u64,
    /// Number of vCPUs that its next domain starts with.
    pub nr_vcpus: u32,
}

/// All domains, and the VMs that have none now and get their next one. A VM that is being restarted is in one of the two, at
/// every moment.
pub fn list(
    hv: &dyn Hypervisor,
    records: &Records<'_>,
    clock: &dyn Clock,
) -> Result<(Vec<DomainInfo>, Vec<Listed>), EngineError> {
    let mut left = LOOKS;
    loop {
        // First: a VM that is restarted meanwhile is in the one list or in the other.
        let candidates = without_domain::candidates(records);
        let infos = hv.domain_list()?;
        left -= 1;
        let mut listed = Vec::new();
        let mut has_changed = false;
        for uuid in candidates {
            if infos.iter().any(|info| &info.handle == uuid.as_bytes()) {
                continue;
            }
            match without_domain::of(records, uuid) {
                Some(vm) => listed.push(describe(records, clock, vm)),
                None => {
                    has_changed |=
                        has_next_domain(hv, uuid)? || without_domain::of(records, uuid).is_some();
                }
            }
        }
        if !has_changed || left == 0 {
            return Ok((infos, listed));
        }
    }
}

/// Whether the VM has got its next domain since the domains were listed.
fn has_next_domain(hv: &dyn Hypervisor, uuid: Uuid) -> Result<bool, EngineError> {
    let infos = hv.domain_list()?;
    Ok(infos.iter().any(|info| &info.handle == uuid.as_bytes()))
}

fn describe(records: &Records<'_>, clock: &dyn Clock, vm: VmWithoutDomain) -> Listed {
    let delay = restart_backoff::read(records.files, records.dirs, vm.uuid);
    let now_s = clock.since_boot_s();
    let state = match vm.is_under_way {
        true => VmState::Restarting,
        false => VmState::WaitingForRestart {
            due_s: delay.map_or(now_s, |delay| delay.due_s),
        },
    };
    let text = vm.uuid.hyphenated().to_string();
    let record = store::read(records.files, records.dirs, &text).ok();
    // The CPUs that it may use are of no interest here.
    let spec = record.and_then(|text| {
        let planned = plan::plan_record("record", &text, &mut || Ok(vec![(0, 0)]));
        planned.ok().map(|planned| planned.spec)
    });
    Listed {
        last_domid: vm.last_domid.or(delay.map(|delay| delay.domid)),
        uuid: vm.uuid,
        name: vm.name,
        state,
        kind: spec.as_ref().map(|spec| spec.kind),
        memory_kib: spec.as_ref().map_or(0, |spec| spec.target_kib),
        nr_vcpus: spec.as_ref().map_or(0, |spec| spec.vcpus),
    }
}

/// The VM without a domain that was asked for by its name, its UUID or the number of its last domain.
pub fn find_without_domain(
    hv: &dyn Hypervisor,
    records: &Records<'_>,
    clock: &dyn Clock,
    asked: &DomainRef,
) -> Result<Option<Listed>, EngineError> {
    let infos = hv.domain_list()?;
    let all = without_domain::all(records, &infos).into_iter();
    let mut all = all.map(|vm| describe(records, clock, vm));
    Ok(all.find(|vm| match asked {
        DomainRef::Name(name) => &vm.name == name,
        DomainRef::Uuid(handle) => vm.uuid.as_bytes() == handle,
        DomainRef::Number(number) => vm
            .last_domid
            .is_some_and(|domid| u64::from(domid.0) == *number),
    }))
}

/// The VM that was asked for by its name or UUID, if its restart was given up and it has no domain. A VM that was left its
/// domain is found by that one, which may have another name by now.
pub fn find_given_up(
    hv: &dyn Hypervisor,
    records: &Records<'_>,
    asked: &DomainRef,
) -> Result<Option<(Uuid, GivenUp)>, EngineError> {
    let all = given_up::all(records.files, records.dirs);
    let found = all.into_iter().find(|(uuid, given_up)| match asked {
        DomainRef::Name(name) => &given_up.name == name,
        DomainRef::Uuid(handle) => uuid.as_bytes() == handle,
        DomainRef::Number(_) => false,
    });
    let Some((uuid, given_up)) = found else {
        return Ok(None);
    };
    let has_domain = domains::living(hv, uuid.into_bytes())?.is_some();
    Ok((!has_domain).then_some((uuid, given_up)))
}

/// The domains of Xyl's own VMs: those with a record that belongs to this start of the host. A record from before a power cut has
/// no journal and no monitor lock, and the domain of its UUID may be of another toolstack by now.
pub fn own_domains(records: &Records<'_>, infos: &[DomainInfo]) -> Vec<DomainInfo> {
    let names = |folder: PathBuf| list_if_there(records.files, &folder).unwrap_or_default();
    let (watched, with_journal) = (names(records.dirs.watched()), names(records.dirs.vms_run()));
    let is_own = |info: &&DomainInfo| {
        let uuid = Uuid::from_bytes(info.handle).hyphenated().to_string();
        info.domid != DomId::ZERO
            && (watched.contains(&uuid) || with_journal.contains(&uuid))
            && store::read(records.files, records.dirs, &uuid).is_ok()
    };
    infos.iter().filter(is_own).cloned().collect()
}

/// The states of the VMs whose domains these are, in the order given.
pub fn of_domains(records: &Records<'_>, clock: &dyn Clock, infos: &[DomainInfo]) -> Vec<VmState> {
    let look = Look::new(records, clock);
    let states = infos.iter();
    states
        .map(|info| look.at(Uuid::from_bytes(info.handle), Some(info)))
        .collect()
}

/// The states of VMs, in the order given. `infos` are all domains.
pub fn of_vms(
    records: &Records<'_>,
    clock: &dyn Clock,
    infos: &[DomainInfo],
    uuids: &[Uuid],
) -> Vec<VmState> {
    let look = Look::new(records, clock);
    let domain_of = |uuid: &Uuid| {
        let its = infos.iter().filter(|info| &info.handle == uuid.as_bytes());
        its.min_by_key(|info| info.flags.dying)
    };
    let states = uuids.iter();
    states.map(|uuid| look.at(*uuid, domain_of(uuid))).collect()
}

/// One look at the records of several VMs.
struct Look<'l> {
    records: &'l Records<'l>,
    now_s: u64,
    busy: Vec<String>,
    watched: Vec<String>,
}

impl<'l> Look<'l> {
    fn new(records: &'l Records<'l>, clock: &dyn Clock) -> Look<'l> {
        let names = |folder: PathBuf| list_if_there(records.files, &folder).unwrap_or_default();
        Look {
            records,
            now_s: clock.since_boot_s(),
            busy: names(records.dirs.busy()),
            watched: names(records.dirs.watched()),
        }
    }

    fn at(&self, uuid: Uuid, domain: Option<&DomainInfo>) -> VmState {
        let Records {
            files,
            dirs,
            process,
        } = *self.records;
        let text = uuid.hyphenated().to_string();
        let contents = xyl_saga::load(files, &dirs.journal(uuid));
        let past = contents.as_ref().map(Past::of).unwrap_or_default();
        let open = past.under_way();
        VmState::of(&Observed {
            domain,
            is_worked_on: self.busy.contains(&text)
                && open.is_some_and(|open| open.process().is_running(process)),
            past: Some(&past),
            has_record: store::read(files, dirs, &text).is_ok(),
            is_supervised: self.watched.contains(&text),
            due_s: restart_backoff::read(files, dirs, uuid).map(|delay| delay.due_s),
            now_s: self.now_s,
            is_given_up: given_up::read(files, dirs, uuid).is_some(),
        })
    }
}

/// The error for a command on a VM whose restart was given up.
pub fn was_given_up(dirs: &Dirs, uuid: Uuid, given_up: GivenUp) -> EngineError {
    EngineError::GivenUp {
        kept: store::kept_path(dirs, &uuid.hyphenated().to_string()),
        name: given_up.name,
        uuid,
        why: given_up.why,
    }
}

/// The error for a command that needs a domain of the VM, which has none.
pub fn no_domain(vm: &Listed) -> EngineError {
    let (name, uuid) = (vm.name.clone(), vm.uuid);
    match vm.state {
        VmState::Restarting => EngineError::Restarting { name, uuid },
        _ => EngineError::WaitsForRestart { name, uuid },
    }
}
