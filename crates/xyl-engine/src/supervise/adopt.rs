//! Taking over a domain that xl has created.
//!
//! libxl's record of the domain becomes a record of Xyl. Then Xyl ends xl's process that waits for the domain's end,
//! and starts a monitor. The guest does not notice this. Each step may be done twice: if the process is killed, the
//! domain can be adopted again.
//!
//! The order matters. Two processes that wait for the domain would both act on its end, so xl's process ends before
//! Xyl's monitor starts. The monitor acts on an end of the guest in between. Xyl stops xl's process first, and kills
//! it only if the domain still runs then. A process of xl that may be acting on an end of the domain is continued.

use std::time::Duration;

use os_port::{ProcessSignal, ends_within};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};

use crate::Notice;
use crate::config::admission::{self, Outcome, Record};
use crate::config::libxl_json;
use crate::config::libxl_json::read::Unsupported;
use crate::config::plan::{self, Planned};
use crate::device;
pub use crate::error::AdoptError;
use crate::host::dom0::{Kernel, Program};
use crate::host::{topology, xl_process};
use crate::vm::Vm;
use crate::vm::monitor_lock;
use crate::vm::{domains, store};
use crate::{EngineError, Host, VmGuard};

/// Time limit for a process of xl to stop, and for it to end.
const XL_LIMIT: Duration = Duration::from_secs(10);
/// Time between two looks at that process.
const XL_RECHECK: Duration = Duration::from_millis(10);
/// Daemons of other toolstacks, which wait for the ends of their domains.
const OTHER_TOOLSTACKS: [&str; 6] = [
    "libvirtd",
    "virtxend",
    "xenopsd",
    "xenopsd-xc",
    "xapi",
    "qubesd",
];

/// Result of an adoption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The domain was Xyl's already, and has a monitor.
    AlreadyOurs,
    /// The domain was Xyl's, but had no monitor. It has one now.
    WatchedAgain,
    /// The domain was xl's. The processes of xl that waited for its end were ended.
    TakenOver(Vec<u32>),
}

/// Starts the monitor of a VM with this name.
pub type StartMonitor<'a> = &'a mut dyn FnMut(&str, Vm) -> Result<(), EngineError>;

/// Makes a domain of xl a VM of Xyl. Without `force` this fails if another process may be waiting for the domain's
/// end.
pub fn adopt(
    host: &mut Host,
    kernel: &Kernel,
    info: &DomainInfo,
    force: bool,
    start: StartMonitor<'_>,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<Adopted, EngineError> {
    let vm = adoptable(info)?;
    let uuid = vm.uuid;
    let _owner = VmGuard::take(host, uuid)?;
    let Some(candidate) = examine(host, kernel, vm, force)? else {
        return Ok(Adopted::AlreadyOurs);
    };
    let Candidate { planned, admitted } = candidate;
    let is_ours = admitted.is_none();
    if let Some(admitted) = &admitted {
        keep(host, vm, &planned, admitted)?;
        admission::report(&admitted.decision, notice);
    }
    // If this process dies from here on, the next command starts a monitor.
    monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
    let ended = end_xls(host, kernel, vm);
    if ended.is_err() && !is_ours {
        // It stays xl's, then.
        monitor_lock::remove_file(&*host.files, &host.dirs, uuid)?;
        store::remove(&*host.files, &host.dirs, &vm_text(vm))?;
    }
    let ended = ended?;
    start(&planned.spec.name, vm)?;
    Ok(match is_ours && ended.is_empty() {
        true => Adopted::WatchedAgain,
        false => Adopted::TakenOver(ended),
    })
}

/// Refuses what [`adopt`] refuses before it changes something.
///
/// # Errors
/// Those of [`adopt`].
pub fn check(
    host: &mut Host,
    kernel: &Kernel,
    info: &DomainInfo,
    force: bool,
) -> Result<(), EngineError> {
    let vm = adoptable(info)?;
    examine(host, kernel, vm, force).map(drop)
}

/// The domain as a VM. Domain 0 is none.
fn adoptable(info: &DomainInfo) -> Result<Vm, EngineError> {
    match info.domid {
        DomId::ZERO => Err(EngineError::ControlDomain("adopting it")),
        domid => Ok(Vm {
            domid,
            uuid: Uuid::from_bytes(info.handle),
        }),
    }
}

/// A domain that can be adopted.
struct Candidate {
    /// The VM as its record describes it.
    planned: Planned,
    /// The policy's decision; `None` for a VM of ours, for which it was taken at its create.
    admitted: Option<Record>,
}

/// Checks that a domain can be adopted. Returns `None` if it is Xyl's and has its monitor.
fn examine(
    host: &mut Host,
    kernel: &Kernel,
    vm: Vm,
    force: bool,
) -> Result<Option<Candidate>, EngineError> {
    let info = running(host, vm)?;
    let has_monitor = monitor_lock::has_monitor(&*host.files, &host.dirs, vm.uuid)?;
    let is_ours = is_ours(host, kernel, vm, has_monitor);
    if is_ours && has_monitor {
        return Ok(None);
    }
    let planned = match is_ours {
        true => plan::of_record(host, vm.uuid)?,
        false => planned(host, &info)?,
    };
    let admitted = match is_ours {
        true => None,
        false => Some(admitted(host, &info, &planned)?),
    };
    if !force {
        refuse_other_watchers(kernel, vm.domid)?;
    }
    Ok(Some(Candidate { planned, admitted }))
}

/// Whether Xyl's records are about this domain. They may be older: a VM's records outlive a crash of the host, and xl
/// may have created a domain with the same UUID since. Or an adoption may have died between its two records.
fn is_ours(host: &Host, kernel: &Kernel, vm: Vm, has_monitor: bool) -> bool {
    let (files, dirs, text) = (&*host.files, &host.dirs, vm_text(vm));
    let has_xl = || {
        let all = xl_process::all(kernel);
        all.iter().any(|xl| xl.domid == Some(vm.domid))
    };
    let is_decided = || admission::read(files, dirs, &text).is_ok_and(|found| found.is_some());
    store::read(files, dirs, &text).is_ok() && (has_monitor || (is_decided() && !has_xl()))
}

/// Writes both records of the VM, or none.
fn keep(host: &Host, vm: Vm, planned: &Planned, admitted: &Record) -> Result<(), EngineError> {
    let (files, dirs, text) = (&*host.files, &host.dirs, vm_text(vm));
    let kept = store::write(files, dirs, &text, &planned.config_text())
        .and_then(|()| admission::write(files, dirs, &text, admitted));
    if kept.is_err() {
        store::remove(files, dirs, &text)?;
    }
    kept
}

fn vm_text(vm: Vm) -> String {
    vm.uuid.hyphenated().to_string()
}

/// The domain, if it has not ended.
fn running(host: &Host, vm: Vm) -> Result<DomainInfo, EngineError> {
    let info = host.hv.domain_info(vm.domid)?;
    let info = info.filter(|info| &info.handle == vm.uuid.as_bytes());
    let info = info.ok_or_else(|| EngineError::NoSuchDomain(vm.domid.to_string()))?;
    match info.flags.dying || info.flags.shutdown {
        true => Err(AdoptError::Ending(vm.domid).into()),
        false => Ok(info),
    }
}

/// The VM as libxl's record and the devices it has now describe it.
fn planned(host: &mut Host, info: &DomainInfo) -> Result<Planned, EngineError> {
    let mut config = domains::configuration(
        &*host.hv,
        &mut host.store,
        (&*host.files, &host.dirs.xen_lib),
        info,
    )?;
    device::drop_detached(host, info.domid, &mut config)?;
    let (text, unsupported) = libxl_json::read::to_cfg(&config);
    let mut what: Vec<String> = unsupported.iter().map(Unsupported::to_string).collect();
    what.extend(device::not_for_adopt(host, info.domid)?);
    // Xyl gives its next domain none: it would be another one in the eyes of Xen's security modules.
    if info.ssidref != 0 {
        what.push(format!(
            "a label of Xen's security modules (SID {})",
            info.ssidref
        ));
    }
    if !what.is_empty() {
        return Err(AdoptError::Unsupported {
            domid: info.domid,
            what: format!("it has {}", what.join(", ")),
        }
        .into());
    }
    let name = format!("libxl's record of domain {}", info.domid);
    plan::plan_record(&name, &text, &mut || topology::of(&*host.hv))
}

/// The policy's decision about the domain. A refusal is an error.
fn admitted(host: &Host, info: &DomainInfo, planned: &Planned) -> Result<Record, EngineError> {
    let record = admission::ask_of_running(host, info, &planned.spec)?;
    match record.decision.outcome {
        Outcome::Allow => Ok(record),
        Outcome::Refuse | Outcome::ConvertToShim => Err(AdoptError::Refused {
            domid: info.domid,
            line: record.decision.line(),
        }
        .into()),
    }
}

/// Fails if another process may be waiting for this domain's end: a process of xl whose domain is unknown, or a daemon
/// of another toolstack.
fn refuse_other_watchers(kernel: &Kernel, domid: DomId) -> Result<(), EngineError> {
    let xls = xl_process::all(kernel).into_iter();
    let mut unknown = xls.filter(|xl| xl.domid.is_none()).map(|xl| xl.program);
    let programs = kernel.programs().into_iter();
    // Any user's process can have such a name.
    let mut others =
        programs.filter(|program| program.is_roots && OTHER_TOOLSTACKS.contains(&program.name()));
    let watcher = unknown.find(|program| kernel.can_make_domains(program.pid));
    match watcher.or_else(|| others.next()) {
        Some(program) => Err(AdoptError::Watched {
            domid,
            pid: program.pid,
            line: program.line(),
        }
        .into()),
        None => Ok(()),
    }
}

/// Ends the processes of xl that wait for the domain's end, and returns their process IDs.
fn end_xls(host: &Host, kernel: &Kernel, vm: Vm) -> Result<Vec<u32>, EngineError> {
    let mut ended = Vec::new();
    for xl in xl_process::all(kernel) {
        if xl.domid == Some(vm.domid) {
            end_xl(host, kernel, vm, &xl.program)?;
            ended.push(xl.program.pid);
        }
    }
    Ok(ended)
}

fn end_xl(host: &Host, kernel: &Kernel, vm: Vm, program: &Program) -> Result<(), EngineError> {
    let stubborn = |why: std::io::Error| AdoptError::Stubborn {
        domid: vm.domid,
        pid: program.pid,
        why: why.to_string(),
    };
    let Some(held) = kernel.hold(program).map_err(stubborn)? else {
        return Ok(());
    };
    held.send(ProcessSignal::Stop).map_err(stubborn)?;
    let is_stopped = await_stopped(host, kernel, program);
    if let Err(error) = running(host, vm) {
        held.send(ProcessSignal::Continue).map_err(stubborn)?;
        return Err(error);
    }
    if !is_stopped {
        held.send(ProcessSignal::Continue).map_err(stubborn)?;
        return Err(stubborn(std::io::ErrorKind::TimedOut.into()).into());
    }
    // It has no say in this: it would do something about its domain, if anything.
    held.send(ProcessSignal::Kill).map_err(stubborn)?;
    match ends_within(&*held, &*host.clock, XL_LIMIT).map_err(stubborn)? {
        true => Ok(()),
        false => Err(stubborn(std::io::ErrorKind::TimedOut.into()).into()),
    }
}

/// Waits until a process has stopped. Returns false at the time limit.
fn await_stopped(host: &Host, kernel: &Kernel, program: &Program) -> bool {
    let deadline = host.clock.now() + XL_LIMIT;
    while !kernel.is_stopped(program.pid) {
        let now = host.clock.now();
        if now >= deadline {
            return false;
        }
        host.clock.wait_until(now + XL_RECHECK);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use xen_port::{Hypervisor, ShutdownReason};
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;
    use crate::host::dom0::{pretend_process, pretend_uid};
    use crate::testing::pv_request;

    const UUID: Uuid = Uuid::from_bytes([7; 16]);
    const RECORD: &str = r#"{"c_info": {"type": "pv", "name": "web"},
        "b_info": {"max_vcpus": 1, "avail_vcpus": [0], "max_memkb": 65536, "target_memkb": 65536, "kernel": "/k"},
        "on_reboot": "restart"}"#;

    struct World {
        root: tempfile::TempDir,
        hv: Model,
        host: Host,
        info: DomainInfo,
        started: Vec<String>,
    }

    impl World {
        fn new(record: &str) -> World {
            let root = tempfile::tempdir().unwrap();
            let hv = Model::new(4096);
            let domid = hv.create_domain(&pv_request(*UUID.as_bytes())).unwrap();
            let info = hv.domain_info(domid).unwrap().unwrap();
            let store = MemStore::new().client(0).unwrap();
            let host = Host::new(Box::new(hv.clone()), store, Dirs::below(root.path()));
            let folder = root.path().join("var/lib/xen");
            std::fs::create_dir_all(&folder).unwrap();
            let file = format!("userdata-d.{domid}.{UUID}.libxl-json");
            std::fs::write(folder.join(file), record).unwrap();
            World {
                root,
                hv,
                host,
                info,
                started: Vec::new(),
            }
        }

        fn adopt(&mut self, force: bool) -> Result<Adopted, EngineError> {
            let (kernel, started) = (Kernel::below(self.root.path()), &mut self.started);
            let mut start = |name: &str, vm: Vm| {
                started.push(format!("{name} {}", vm.domid));
                Ok(())
            };
            let notice = &mut |_: Notice<'_>| ();
            adopt(
                &mut self.host,
                &kernel,
                &self.info,
                force,
                &mut start,
                notice,
            )
        }

        fn record(&self) -> Option<String> {
            store::read(&*self.host.files, &self.host.dirs, &UUID.to_string()).ok()
        }

        fn process(&self, pid: u32, args: &[&str], descriptors: &[(u32, &Path)]) {
            pretend_process(self.root.path(), pid, args, descriptors, "");
        }
    }

    #[test]
    fn xls_record_becomes_ours_and_twice_is_once() {
        let mut world = World::new(RECORD);
        assert_eq!(world.adopt(false).unwrap(), Adopted::TakenOver(Vec::new()));
        assert_eq!(world.started, ["web 1"]);
        let record = world.record().unwrap();
        assert!(record.contains(&format!("uuid = \"{UUID}\"")), "{record}");
        // Killed before the monitor was there.
        assert_eq!(world.adopt(false).unwrap(), Adopted::WatchedAgain);
        // A process that only calls itself its monitor is none.
        let uuid = UUID.to_string();
        world.process(9, &["/usr/bin/xyl", "-T", "monitor", "1", &uuid], &[]);
        assert_eq!(world.adopt(false).unwrap(), Adopted::WatchedAgain);
        let path = world.host.dirs.watch(UUID);
        let lock = world.host.files.lock(&path, None).unwrap();
        assert_eq!(world.adopt(false).unwrap(), Adopted::AlreadyOurs);
        assert_eq!(world.started.len(), 3);
        drop(lock);
    }

    #[test]
    fn what_xyl_cannot_do_stays_xls() {
        let record = RECORD.replace("\"on_reboot\"", "\"p9s\": [{}], \"on_reboot\"");
        let mut world = World::new(&record);
        let error = world.adopt(true).unwrap_err();
        assert!(
            matches!(&error, EngineError::Adopt(AdoptError::Unsupported { what, .. }) if what.contains("`p9`")),
            "{error}"
        );
        assert_eq!((world.record(), world.started.len()), (None, 0));
    }

    #[test]
    fn a_domain_with_a_disk_of_qemu_stays_xls() {
        let mut world = World::new(RECORD);
        let path = format!("/libxl/{}/device/vbd/51712/backend", world.info.domid);
        let backend = format!("/local/domain/0/backend/qdisk/{}/51712", world.info.domid);
        let path = xenstore::Path::new(&path).unwrap();
        let store = &mut world.host.store;
        xenstore::Tree::write(store, &path, backend.as_bytes()).unwrap();
        let error = world.adopt(true).unwrap_err();
        assert!(
            matches!(&error, EngineError::Adopt(AdoptError::Unsupported { what, .. }) if what.contains("vbd 51712")),
            "{error}"
        );
        assert_eq!((world.record(), world.started.len()), (None, 0));
    }

    #[test]
    fn a_domain_with_a_label_stays_xls() {
        let mut world = World::new(RECORD);
        world.hv.set_label(world.info.domid, 12);
        world.info = world.hv.domain_info(world.info.domid).unwrap().unwrap();
        let error = world.adopt(true).unwrap_err();
        let EngineError::Adopt(AdoptError::Unsupported { .. }) = error else {
            panic!("{error}");
        };
        assert_eq!((world.record(), world.started.len()), (None, 0));
    }

    #[test]
    fn a_setting_outside_xens_security_support_keeps_a_domain_xls() {
        let record = RECORD.replace(
            "\"max_vcpus\"",
            "\"arch_x86\": {\"msr_relaxed\": \"True\"}, \"max_vcpus\"",
        );
        let mut world = World::new(&record);
        let error = world.adopt(true).unwrap_err();
        let EngineError::Adopt(AdoptError::Refused { .. }) = error else {
            panic!("{error}");
        };
    }

    #[test]
    fn a_bare_32_bit_guest_stays_xls_whatever_its_files_say() {
        let mut world = World::new(RECORD);
        world.hv.make_32_bit(world.info.domid);
        let error = world.adopt(true).unwrap_err();
        assert!(
            matches!(error, EngineError::Adopt(AdoptError::Refused { .. })),
            "{error}"
        );
        assert_eq!((world.record(), world.started.len()), (None, 0));
    }

    #[test]
    fn the_policy_is_asked_and_its_word_kept() {
        let mut world = World::new(RECORD);
        world.adopt(false).unwrap();
        let kept = admission::read(&*world.host.files, &world.host.dirs, &UUID.to_string());
        let kept = kept.unwrap().unwrap();
        assert_eq!(kept.decision.outcome, Outcome::Allow);
        assert_eq!(kept.image, admission::ImageKind::Pv64);

        let mut world = World::new(RECORD);
        let policy = &world.host.dirs.policy;
        std::fs::create_dir_all(policy.parent().unwrap()).unwrap();
        std::fs::write(policy, "version = 1\n[guests]\npv64 = \"refuse\"\n").unwrap();
        let error = world.adopt(true).unwrap_err();
        assert!(
            matches!(error, EngineError::Adopt(AdoptError::Refused { .. })),
            "{error}"
        );
        assert_eq!((world.record(), world.started.len()), (None, 0));
    }

    #[test]
    fn a_domain_that_has_ended_is_not_adopted() {
        let mut world = World::new(RECORD);
        let hv = &world.host.hv;
        hv.remote_shutdown(world.info.domid, ShutdownReason::Reboot)
            .unwrap();
        let error = world.adopt(false).unwrap_err();
        assert!(
            matches!(error, EngineError::Adopt(AdoptError::Ending(_))),
            "{error}"
        );
        assert_eq!(world.record(), None);
    }

    #[test]
    fn processes_that_may_watch_it_are_a_reason_not_to() {
        let mut world = World::new(RECORD);
        let privcmd = Path::new("/dev/xen/privcmd");
        world.process(9, &["xl", "create", "-F", "web.cfg"], &[(4, privcmd)]);
        let error = world.adopt(false).unwrap_err();
        assert!(
            matches!(&error, EngineError::Adopt(AdoptError::Watched { pid: 9, line, .. }) if line == "xl create -F web.cfg"),
            "{error}"
        );
        assert_eq!(world.record(), None);
        assert_eq!(world.adopt(true).unwrap(), Adopted::TakenOver(Vec::new()));
    }

    #[test]
    fn a_process_of_another_user_is_no_reason_not_to() {
        let mut world = World::new(RECORD);
        let privcmd = Path::new("/dev/xen/privcmd");
        for (pid, name) in [(9, "xl"), (10, "libvirtd")] {
            world.process(pid, &[name, "create", "a"], &[(4, privcmd)]);
            pretend_uid(world.root.path(), pid, 65534);
        }
        assert_eq!(world.adopt(false).unwrap(), Adopted::TakenOver(Vec::new()));
    }

    #[test]
    fn xls_process_is_ended_before_ours_starts() {
        let mut world = World::new(RECORD);
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let log = world.root.path().join("xl-web.log");
        std::fs::write(
            &log,
            format!("Waiting for domain web (domid 1) to die [pid {pid}]\n"),
        )
        .unwrap();
        world.process(pid, &["xl", "create", "web.cfg"], &[(1, &log)]);
        // It stops at once.
        let stat = world.root.path().join(format!("proc/{pid}/stat"));
        let text = std::fs::read_to_string(&stat)
            .unwrap()
            .replace(") S ", ") T ");
        std::fs::write(&stat, text).unwrap();
        assert_eq!(world.adopt(false).unwrap(), Adopted::TakenOver(vec![pid]));
        assert!(!child.wait().unwrap().success());
        assert_eq!(world.started, ["web 1"]);
    }
}
