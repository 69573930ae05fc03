//! Domains that should not be there: half made, or destroyed and not gone.

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};

use super::finding::{Finding, Leak, Verdict};
use super::look;
use crate::host::dom0::{Kernel, Program};
use crate::host::holders::{self, qemus};
use crate::host::xl_process;
use crate::recover;
use crate::vm::userdata;
use crate::{EngineError, Host};

/// Daemons that talk to the hypervisor and make no domains.
const NO_MAKERS: [&str; 4] = ["xenstored", "oxenstored", "xenconsoled", "xenwatchdogd"];

/// Domains that have never run, lack something that every domain needs, and are in no journal. If a process may be
/// making the domain, the finding names that process, and the domain stays.
pub(super) fn half_made(
    host: &mut Host,
    kernel: &Kernel,
    infos: &[DomainInfo],
) -> Result<Vec<Finding>, EngineError> {
    let mut found = Vec::new();
    for info in infos {
        let uuid = Uuid::from_bytes(info.handle);
        if !recover::has_never_run(info) || is_whole(host, info)? || is_worked_on(host, uuid)? {
            continue;
        }
        let suspects = suspects(host, kernel, infos);
        let who: Vec<u32> = suspects.iter().map(|program| program.pid).collect();
        let finding = Finding::removable(
            Leak::HalfMade {
                domid: info.domid,
                uuid,
                tot_pages: info.tot_pages,
                suspects: who,
            },
            format!("half-made domain: {} ({uuid})", info.domid),
            "it has never run and is not complete; the process that made it is gone".to_owned(),
        );
        found.push(match suspects.is_empty() {
            true => finding,
            false => Finding {
                cause: suspects.iter().map(suspicion).collect(),
                remedy: format!("when none of these makes it: `xl destroy {}`", info.domid),
                ..finding
            },
        });
    }
    Ok(found)
}

fn suspicion(program: &Program) -> String {
    format!(
        "it has never run and is not complete; process {} (`{}`) may be making it",
        program.pid,
        program.line()
    )
}

/// Whether a domain has what both toolstacks write last: then it was created paused.
fn is_whole(host: &mut Host, info: &DomainInfo) -> Result<bool, EngineError> {
    let uuid = Uuid::from_bytes(info.handle).hyphenated().to_string();
    let userdata = userdata::json_path(&host.dirs.xen_lib, info.domid, &uuid);
    let has_userdata = host.files.read(&userdata, u64::from(u32::MAX)).is_ok();
    Ok(has_userdata && host.store.is_introduced(info.domid.0)?)
}

/// Whether a process of ours is making it, or a journal knows of it: then `xyl recover` sees to it, and says
/// what is wrong with a journal that cannot be read.
fn is_worked_on(host: &Host, uuid: Uuid) -> Result<bool, EngineError> {
    let journal = xyl_saga::load(&*host.files, &host.dirs.journal(uuid));
    let is_known = journal.map_or(true, |journal| {
        journal.damage.is_some() || !journal.entries.is_empty()
    });
    Ok(is_known || look::is_held(host, &host.dirs.vm_lock(uuid))?)
}

/// Processes that can make domains and may be at it: all that have the hypervisor open, except those of
/// which is known that they wait for another domain.
pub(super) fn suspects(host: &Host, kernel: &Kernel, infos: &[DomainInfo]) -> Vec<Program> {
    let programs = kernel.programs();
    let runs = |domid: DomId| {
        let is_it = |info: &&DomainInfo| info.domid == domid;
        let info = infos.iter().find(is_it);
        info.is_some_and(|info| !info.flags.dying && !info.flags.shutdown)
    };
    let mut waiting: Vec<u32> = xl_process::all(kernel)
        .into_iter()
        .filter(|xl| xl.domid.is_some_and(runs))
        .map(|xl| xl.program.pid)
        .collect();
    let of_living = qemus(&programs).filter(|(_, domid)| runs(*domid));
    waiting.extend(of_living.map(|(program, _)| program.pid));
    waiting.push(host.process.id());
    // What xyl makes, its journals know.
    let is_xyl = |program: &Program| program.name().starts_with("xyl");
    programs
        .iter()
        .filter(|program| !waiting.contains(&program.pid) && !is_xyl(program))
        .filter(|program| !NO_MAKERS.contains(&program.name()))
        .filter(|program| kernel.can_make_domains(program.pid))
        .cloned()
        .collect()
}

/// Domains that were destroyed and are still there.
pub(super) fn dying(
    host: &mut Host,
    kernel: &Kernel,
    infos: &[DomainInfo],
) -> Result<Vec<Finding>, EngineError> {
    let mut found = Vec::new();
    for info in infos.iter().filter(|info| info.flags.dying) {
        found.push(Finding {
            leak: Leak::Dying {
                domid: info.domid,
                uuid: Uuid::from_bytes(info.handle),
                tot_pages: info.tot_pages,
            },
            object: format!(
                "domain that was destroyed and is still there: {}",
                info.domid
            ),
            cause: holders::explain(host, kernel, info)?,
            remedy:
                "it ends by itself when these let go; end the process that holds it, or restart it"
                    .to_owned(),
            verdict: Verdict::Found,
        });
    }
    Ok(found)
}
