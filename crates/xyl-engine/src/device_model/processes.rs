//! The processes that are QEMUs of a domain: they are found, watched and ended.

use std::path::PathBuf;
use std::rc::Rc;

use os_port::{EventSource, HeldProcess, ProcessSignal, Readiness};
use xen_port::DomId;

use super::arguments::becomes;
use crate::host::dom0::{Program, QemuId};
use crate::host::holders::qemus;
use crate::{EngineError, Host};

/// Token of the end of a QEMU.
pub const END_TOKEN: &str = "xyl-qemu-end";
/// Signals that end QEMU, one after the other, until no process of its user is left.
const ENDING: [ProcessSignal; 4] = [
    ProcessSignal::Terminate,
    ProcessSignal::Kill,
    ProcessSignal::Kill,
    ProcessSignal::Kill,
];

/// The processes that are QEMUs of a domain: those that say it and are root's or of a user for QEMU, and all of its users. Usually one or none.
pub fn find(host: &Host, domid: DomId) -> Vec<Program> {
    let mut found = of_domain(host, domid);
    for qemu in QemuId::all(domid) {
        add_new(&mut found, host.kernel.processes_of(qemu.user()));
    }
    found
}

/// The processes that are one QEMU of a domain: all of its user, and those that are about to become it.
pub fn find_one(host: &Host, qemu: QemuId) -> Vec<Program> {
    let mut found = of_domain(host, qemu.domid);
    // Later the arguments are its own word.
    found.retain(|program| host.kernel.is_roots(program.pid) && becomes(program, qemu));
    add_new(&mut found, host.kernel.processes_of(qemu.user()));
    found
}

/// Whether a QEMU of a domain is none of Xyl's: another toolstack has started it.
pub fn has_others(host: &Host, domid: DomId) -> bool {
    let is_ours = |program: &Program| {
        QemuId::all(domid).any(|qemu| {
            becomes(program, qemu)
                || host
                    .kernel
                    .processes_of(qemu.user())
                    .iter()
                    .any(|own| own.pid == program.pid)
        })
    };
    of_domain(host, domid)
        .iter()
        .any(|program| !is_ours(program))
}

/// The processes that say that they are QEMU of a domain, of those users who can be it.
fn of_domain(host: &Host, domid: DomId) -> Vec<Program> {
    let programs = host.kernel.programs();
    let its = qemus(&programs).filter(|(program, served)| {
        *served == domid && host.kernel.is_of_qemus_user(program, domid)
    });
    its.map(|(program, _)| program.clone()).collect()
}

fn add_new(found: &mut Vec<Program>, others: Vec<Program>) {
    for program in others {
        if found.iter().all(|other| other.pid != program.pid) {
            found.push(program);
        }
    }
}

/// Ends all QEMUs of a domain, by force if they do not end by themselves.
///
/// # Errors
/// The system's.
pub fn end(host: &Host, domid: DomId) -> Result<(), EngineError> {
    end_found(host, || find(host, domid))
}

/// Ends one QEMU of a domain, by force if it does not end by itself.
///
/// # Errors
/// The system's.
pub fn end_one(host: &Host, qemu: QemuId) -> Result<(), EngineError> {
    end_found(host, || find_one(host, qemu))
}

fn end_found(host: &Host, find: impl Fn() -> Vec<Program>) -> Result<(), EngineError> {
    for signal in ENDING {
        let found = find();
        let Some(first) = found.first() else {
            return Ok(());
        };
        let sent = host.kernel.send_to_all(&found, signal);
        sent.map_err(|source| not_ended(first, source))?;
    }
    match find().first() {
        Some(first) => Err(not_ended(first, std::io::ErrorKind::TimedOut.into())),
        None => Ok(()),
    }
}

fn not_ended(program: &Program, source: std::io::Error) -> EngineError {
    let path = PathBuf::from(format!("process {}", program.pid));
    EngineError::io("end QEMU,", &path, source)
}

/// Whether a process may run as the user of a QEMU of a domain.
pub(super) fn may_be_there(host: &Host, domid: DomId) -> bool {
    let mut all = QemuId::all(domid);
    all.any(|qemu| host.kernel.may_have_process_of(qemu.user()))
}

/// The QEMUs of a domain. It is ready once one has ended.
struct Watched(Vec<Box<dyn HeldProcess>>);

impl EventSource for Watched {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        let all = self.0.iter();
        all.flat_map(|process| process.readiness()).collect()
    }
}

/// Watches over the QEMUs of a domain, in place of those that this process has watched before.
pub fn watch_ends(host: &mut Host, domid: DomId) {
    host.sources.remove(END_TOKEN);
    if !may_be_there(host, domid) {
        return;
    }
    // One that cannot be held ends unseen.
    let held = find(host, domid).into_iter();
    let held: Vec<_> = held
        .filter_map(|program| host.kernel.hold(&program).ok().flatten())
        .collect();
    if !held.is_empty() {
        let watched = Rc::new(Watched(held));
        host.sources.add(END_TOKEN, watched as Rc<dyn EventSource>);
    }
}
