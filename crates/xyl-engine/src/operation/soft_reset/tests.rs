//! Soft resets of domains in memory: every call failing, every process killed at every call.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::mem::VirtualClock;
use xen_port::{CreateDomain, Gfn, HvmParam, Hypervisor};
use xen_sim::model::Model;
use xenstore::mem::{Fault, MemStore};
use xenstore::{Batch, ErrorName, MessageKind, Path, Perms, Tree};

use super::interfaces::BUSY_LIMIT;
use super::tally::Tally;
use super::*;
use crate::Dirs;
use crate::device::console::Ring;
use crate::operation::destroy;
use crate::operation::xenstore_nodes::{self, DomainTree};
use crate::supervise::monitor;
use crate::testing::pv_request;
use crate::vm::spec::Action as AtEnd;
use crate::vm::store;

const UUID: Uuid = Uuid::from_u128(0x6a1d_0c4e);
const TTY: &[u8] = b"/dev/pts/7";

/// A host with one domain that asks for a soft reset.
struct World {
    hv: Model,
    store: MemStore,
    clock: VirtualClock,
    vm: Vm,
    /// Its nodes at the start, but for those that it made itself.
    nodes: BTreeMap<String, (Vec<u8>, Perms)>,
    folder: tempfile::TempDir,
}

impl World {
    fn new(kind: GuestKind) -> World {
        let (hv, store) = (Model::new(64), MemStore::new());
        store.set_keeps_time(false);
        let domid = hv.create_domain(&request(kind)).unwrap();
        hv.set_max_vcpus(domid, 2).unwrap();
        hv.set_max_mem(domid, 65536).unwrap();
        let vm = Vm { domid, uuid: UUID };
        let folder = tempfile::tempdir().unwrap();
        let mut world = World {
            hv,
            store,
            clock: VirtualClock::new(),
            vm,
            nodes: BTreeMap::new(),
            folder,
        };
        world.connect();
        world.hv.unpause_domain(domid).unwrap();
        world.nodes = world.toolstack_nodes();
        world.use_as_a_guest();
        world.hv.shut_down(domid, ShutdownReason::SoftReset);
        world
    }

    /// Does as a create after the build.
    fn connect(&self) {
        let (hv, domid) = (&self.hv, self.vm.domid);
        let store_port = hv.alloc_unbound(domid, DomId::ZERO).unwrap();
        let console_port = hv.alloc_unbound(domid, DomId::ZERO).unwrap();
        if !self.is_pv() {
            hv.set_hvm_params(
                domid,
                &[
                    (HvmParam::StorePfn, 0xfeffc),
                    (HvmParam::StoreEvtchn, store_port.0.into()),
                    (HvmParam::ConsolePfn, 0xfeffd),
                    (HvmParam::ConsoleEvtchn, console_port.0.into()),
                ],
            )
            .unwrap();
        }
        let mut batch = Batch::new();
        for change in xenstore_nodes::changes(&DomainTree {
            domid,
            uuid: UUID.hyphenated().to_string(),
            name: "guest".to_owned(),
            kind: GuestKind::Pvh,
            target_kib: 32768,
            max_kib: 65536,
            vcpus_online: vec![true, false],
            console: Ring {
                gfn: Gfn(0xfeffd),
                port: console_port,
            },
            start_time: "1700000000.42".to_owned(),
            hvm: None,
        }) {
            change.add_to(&mut batch).unwrap();
        }
        let mut client = self.store.client(0).unwrap();
        client.run(&batch).unwrap();
        client.introduce(domid.0, 0xfeffc, store_port.0).unwrap();
        client.write(&home(domid, "console/tty"), TTY).unwrap();
    }

    /// A guest that has used what it was given, and spoilt what it could.
    fn use_as_a_guest(&self) {
        let domid = self.vm.domid;
        let mut guest = self.store.client(domid.0).unwrap();
        for node in ["data/own", "control/shutdown", "attr/x/y/z"] {
            guest.write(&home(domid, node), b"mine").unwrap();
        }
        self.hv.open_port(domid, domid);
        let params = [
            HvmParam::CallbackIrq,
            HvmParam::StoreEvtchn,
            HvmParam::ConsoleEvtchn,
        ];
        for param in params.into_iter().filter(|_| !self.is_pv()) {
            self.hv.set_hvm_param(domid, param, 0x1_0000_0001).unwrap();
        }
    }

    /// Whether the domain has no HVM parameters.
    fn is_pv(&self) -> bool {
        let info = self.hv.domain_info(self.vm.domid).unwrap();
        info.is_some_and(|info| info.kind() == GuestKind::Pv)
    }

    /// A process of its own on this host.
    fn host(&self) -> Host {
        let store = self.store.client(0).unwrap();
        let dirs = Dirs::below(self.folder.path());
        Host {
            clock: std::rc::Rc::new(self.clock.clone()),
            ..Host::new(Box::new(self.hv.clone()), store, dirs)
        }
    }

    fn run(&self) -> Result<Outcome, EngineError> {
        run(&mut self.host(), self.vm)
    }

    /// The same, with the lines of the log.
    fn run_told(&self) -> (Result<Outcome, EngineError>, Vec<String>) {
        let log = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::clone(&log);
        let mut host = Host {
            notice: Rc::new(move |line| told.borrow_mut().push(line.to_owned())),
            ..self.host()
        };
        let outcome = run(&mut host, self.vm);
        (outcome, log.take())
    }

    /// Does as a new monitor.
    fn take_over(&self) -> Result<Outcome, EngineError> {
        let mut host = self.host();
        drop(VmGuard::take(&mut host, UUID)?);
        finish_old(&mut host, self.vm)?;
        run(&mut host, self.vm)
    }

    /// Applies some of the steps as an operation of its own.
    fn run_steps(&self, plan: Plan<Action>) -> Result<Outcome, EngineError> {
        let mut host = self.host();
        let owner = VmGuard::take(&mut host, UUID)?;
        let info = host.hv.domain_info(self.vm.domid)?.unwrap();
        let context = Context::new(OfVm::begun(UUID), self.vm.domid);
        carry_out(&mut host, owner, &info, context, plan)
    }

    fn contents(&self) -> Contents {
        let host = self.host();
        xyl_saga::load(&*host.files, &host.dirs.journal(UUID)).unwrap()
    }

    fn is_introduced(&self) -> bool {
        let mut client = self.store.client(0).unwrap();
        client.is_introduced(self.vm.domid.0).unwrap()
    }

    fn toolstack_nodes(&self) -> BTreeMap<String, (Vec<u8>, Perms)> {
        let nodes = self.store.nodes();
        nodes
            .into_iter()
            .map(|(path, node)| (path.as_str().to_owned(), node))
            .collect()
    }

    /// The guest runs in a domain that looks as it did after its create.
    fn assert_is_reset(&self, times: u32) {
        let domid = self.vm.domid;
        let nodes = self.toolstack_nodes();
        for path in nodes.keys().chain(self.nodes.keys()) {
            assert_eq!(nodes.get(path), self.nodes.get(path), "{path}");
        }
        assert!(
            self.store
                .client(0)
                .unwrap()
                .is_introduced(domid.0)
                .unwrap()
        );
        let domain = self.hv.domain(domid).unwrap();
        assert_eq!((domain.pauses, domain.shutdown), (0, None));
        assert_eq!(domain.soft_resets, times);
        assert_eq!(
            domain.ports,
            BTreeMap::from([(1, DomId::ZERO), (2, DomId::ZERO)])
        );
        let param = |param: HvmParam| domain.params.get(&(param as u32)).copied();
        assert_eq!(param(HvmParam::CallbackIrq), Some(0));
        assert_eq!(param(HvmParam::StoreEvtchn), Some(1));
        assert_eq!(param(HvmParam::ConsoleEvtchn), Some(2));
    }

    /// The domain is kept, as one that has crashed, and no process holds it.
    fn assert_is_given_up(&self) {
        let domain = self.hv.domain(self.vm.domid).unwrap();
        assert!(domain.shutdown.is_some());
        assert_eq!(domain.pauses, 0);
        assert!(was_given_up(&self.contents(), self.vm.domid).is_some());
    }
}

fn request(kind: GuestKind) -> CreateDomain {
    CreateDomain {
        kind,
        hap: true,
        max_vcpus: 2,
        ..pv_request(*UUID.as_bytes())
    }
}

fn path(text: &str) -> Result<Path, EngineError> {
    crate::vm::paths::node(text)
}

fn home(domid: DomId, relative: &str) -> Path {
    Path::domain(domid.0).join(relative).unwrap()
}

/// Runs `act` as a process that may be killed; `None` when it was.
fn as_process<T>(act: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(act)).ok()
}

/// From now on the request number `number` to the store, from 1, kills who asks.
fn die_at_request(store: &MemStore, number: u64) {
    store.set_fault_hook(move |request| {
        if request.number == number {
            resume_unwind(Box::new("killed"));
        }
        None
    });
}

#[test]
fn the_guest_runs_on_in_the_same_domain() {
    let world = World::new(GuestKind::Pvh);
    for times in 1..=3 {
        assert_eq!(world.run().unwrap(), Outcome::Running);
        world.assert_is_reset(times);
        world.hv.open_port(world.vm.domid, DomId::ZERO);
        world
            .hv
            .shut_down(world.vm.domid, ShutdownReason::SoftReset);
    }
}

/// The calls of a reset without devices, of which each guest can ask for one a second.
#[test]
fn a_reset_costs_few_calls() {
    let world = World::new(GuestKind::Pvh);
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    world.store.set_fault_hook(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        None
    });
    world.hv.forget_calls();
    assert_eq!(world.run().unwrap(), Outcome::Running);
    let (hypercalls, requests) = (world.hv.calls().len(), requests.load(Ordering::Relaxed));
    println!("{hypercalls} hypercalls, {requests} requests");
    assert!(hypercalls <= 20, "{hypercalls} hypercalls");
    assert!(requests <= 56, "{requests} requests");
    // Two records for each step, the begin and the end.
    let journal = world.contents();
    assert!(journal.entries.len() <= 2 + 2 * STEPS.len());
}

#[test]
fn what_changed_since_the_create_stays() {
    let mut world = World::new(GuestKind::Pvh);
    let mut client = world.store.client(0).unwrap();
    let home = xenstore_nodes::domain_path(world.vm.domid);
    for (node, value) in [
        (format!("{home}/name"), "renamed"),
        (format!("/vm/{UUID}/name"), "renamed"),
        (format!("{home}/memory/target"), "16384"),
        (format!("{home}/cpu/1/availability"), "online"),
    ] {
        client
            .write(&path(&node).unwrap(), value.as_bytes())
            .unwrap();
        world.nodes.get_mut(&node).unwrap().0 = value.as_bytes().to_vec();
    }
    assert_eq!(world.run().unwrap(), Outcome::Running);
    world.assert_is_reset(1);
}

#[test]
fn a_busy_xen_is_asked_again() {
    for errno in [Errno::EBUSY, Errno::EAGAIN] {
        let world = World::new(GuestKind::Pvh);
        world.hv.refuse_resets(5, errno);
        let (outcome, log) = world.run_told();
        assert_eq!(outcome.unwrap(), Outcome::Running);
        assert!(log.is_empty(), "{log:?}");
        world.assert_is_reset(1);
    }
}

#[test]
fn a_xen_that_stays_busy_is_given_up() {
    let world = World::new(GuestKind::Pvh);
    world.hv.refuse_resets(usize::MAX, Errno::EBUSY);
    let outcome = world.run().unwrap();
    assert!(
        matches!(&outcome, Outcome::GivenUp(why) if why.contains("EBUSY")),
        "{outcome:?}"
    );
    world.assert_is_given_up();
    let limit = BUSY_LIMIT * TRIES;
    assert!((limit..limit + Duration::from_secs(1)).contains(&world.clock.passed()));
}

#[test]
fn a_call_that_fails_once_is_tried_again() {
    for number in 0.. {
        let world = World::new(GuestKind::Pvh);
        world.hv.fail_at(number, Errno::EIO);
        let (outcome, log) = world.run_told();
        assert_eq!(outcome.unwrap(), Outcome::Running, "call {number}");
        world.assert_is_reset(1);
        if log.is_empty() {
            assert!(number > 10, "only {number} calls");
            return;
        }
        assert!(
            log[0].ends_with("trying again") && log[0].contains(": "),
            "{log:?}"
        );
    }
}

#[test]
fn a_call_that_always_fails_ends_in_a_crash() {
    // One more than there are tries, so that giving up itself may fail too.
    for op in [
        "pause_domain",
        "soft_reset",
        "close_event_channels",
        "alloc_unbound",
        "set_hvm_params",
    ] {
        let world = World::new(GuestKind::Pvh);
        world.hv.fail_always(op, Errno::EIO);
        let outcome = world.run().unwrap();
        assert!(
            matches!(&outcome, Outcome::GivenUp(why) if why.contains(op)),
            "{outcome:?}"
        );
        world.assert_is_given_up();
        // Who takes over comes to the same end, and does not try again.
        world.hv.forget_calls();
        assert!(matches!(world.run().unwrap(), Outcome::GivenUp(_)));
        assert!(world.hv.calls().iter().all(|call| call.op != op));
    }
}

#[test]
fn an_answer_that_will_not_change_is_not_asked_for_again() {
    let world = World::new(GuestKind::Pvh);
    world.hv.refuse_resets(usize::MAX, Errno::EOPNOTSUPP);
    let outcome = world.run().unwrap();
    assert!(
        matches!(&outcome, Outcome::GivenUp(why) if why.contains("reset it in Xen")),
        "{outcome:?}"
    );
    let resets = world
        .hv
        .calls()
        .iter()
        .filter(|call| call.op == "soft_reset")
        .count();
    assert_eq!(resets, 1);
    world.assert_is_given_up();
}

#[test]
fn a_request_that_fails_once_is_tried_again() {
    for number in 1.. {
        let world = World::new(GuestKind::Pvh);
        let failed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&failed);
        world.store.set_fault_hook(move |request| {
            (request.number == number).then(|| {
                seen.store(true, Ordering::Relaxed);
                Fault::Refuse(ErrorName::Eio)
            })
        });
        let outcome = world.run().unwrap();
        world.store.clear_fault_hook();
        assert_eq!(outcome, Outcome::Running, "request {number}");
        world.assert_is_reset(1);
        if !failed.load(Ordering::Relaxed) {
            assert!(number > 20, "only {number} requests");
            return;
        }
    }
}

#[test]
fn whoever_takes_over_finishes_after_a_lost_connection() {
    for number in 1.. {
        let world = World::new(GuestKind::Pvh);
        world
            .store
            .set_fault_hook(move |request| (request.number == number).then_some(Fault::Disconnect));
        let outcome = world.run();
        world.store.clear_fault_hook();
        if outcome.is_ok() {
            return;
        }
        finish(&world);
        world.assert_is_reset(1);
    }
}

#[test]
fn every_step_may_be_taken_twice() {
    let world = World::new(GuestKind::Pvh);
    let twice = STEPS.into_iter().flat_map(|step| [step, step]);
    let outcome = world.run_steps(twice.fold(Plan::new(), with_step));
    assert_eq!(outcome.unwrap(), Outcome::Running);
    world.assert_is_reset(1);
}

/// Kills the first process before its n-th call, the second before its m-th, for all n and m; the third
/// finishes.
#[test]
fn processes_may_be_killed_at_any_call() {
    let mut kills = 0;
    for first in 0.. {
        let mut second = 0;
        loop {
            let world = World::new(GuestKind::Pvh);
            world.hv.die_at(Some(first));
            let is_done = as_process(|| world.run()).is_some();
            if is_done {
                assert!(kills > 100, "only {kills}");
                return;
            }
            world.hv.die_at(Some(second));
            let is_recovered = as_process(|| world.take_over()).is_some();
            world.hv.die_at(None);
            finish(&world);
            world.assert_is_reset(1);
            kills += 1;
            if is_recovered {
                break;
            }
            second += 1;
        }
    }
}

#[test]
fn processes_may_be_killed_at_any_request() {
    for number in 1.. {
        let world = World::new(GuestKind::Pvh);
        die_at_request(&world.store, number);
        let is_done = as_process(|| world.run()).is_some();
        world.store.clear_fault_hook();
        if is_done {
            assert!(number > 20, "only {number} requests");
            return;
        }
        finish(&world);
        world.assert_is_reset(1);
    }
}

/// A command asks the guest to shut down while it waits for its reset, as `xyl shutdown` does.
fn ask_to_shut_down(world: &mut World) {
    let (mut client, domid) = (world.store.client(0).unwrap(), world.vm.domid);
    let info = world.hv.domain_info(domid).unwrap().unwrap();
    power::ask(&world.hv, &mut client, &info, PowerRequest::Poweroff, false).unwrap();
    let node = power::shutdown_path(domid).unwrap().as_str().to_owned();
    world.nodes.get_mut(&node).unwrap().0 = b"poweroff".to_vec();
}

#[test]
fn a_request_that_the_guest_had_not_taken_reaches_its_next_kernel_whoever_is_killed() {
    for number in 1.. {
        let mut world = World::new(GuestKind::Pvh);
        ask_to_shut_down(&mut world);
        die_at_request(&world.store, number);
        let is_done = as_process(|| world.run()).is_some();
        world.store.clear_fault_hook();
        finish(&world);
        world.assert_is_reset(1);
        if is_done {
            assert!(number > 20, "only {number} requests");
            return;
        }
    }
}

fn finish(world: &World) {
    assert_eq!(world.take_over().unwrap(), Outcome::Running);
}

#[test]
fn a_domain_that_is_destroyed_meanwhile_leaves_nothing() {
    for count in 0..STEPS.len() {
        let world = World::new(GuestKind::Pvh);
        let steps = |steps: &[_]| steps.iter().copied().fold(Plan::new(), with_step);
        let outcome = world.run_steps(steps(&STEPS[..count]));
        assert_eq!(outcome.unwrap(), Outcome::Running);
        // As xl does it, from a process of its own.
        let domid = world.vm.domid;
        destroy::remove_nodes(&mut world.host(), domid, &UUID.hyphenated().to_string()).unwrap();
        let without = world.toolstack_nodes();
        let outcome = world.run_steps(steps(&STEPS[count..]));
        let has_written = STEPS[..count]
            .iter()
            .any(|step| step.1 == Action::WriteNodes);
        let end = if has_written {
            Outcome::Running
        } else {
            Outcome::Gone
        };
        assert_eq!(outcome.unwrap(), end, "after {count} steps");
        world.hv.destroy_domain(domid, Instant::now()).unwrap();
        assert_eq!(world.run().unwrap(), Outcome::Gone, "after {count} steps");
        let left: Vec<String> = world.toolstack_nodes().into_keys().collect();
        assert_eq!(
            left,
            without.into_keys().collect::<Vec<_>>(),
            "after {count} steps"
        );
    }
}

#[test]
fn another_domain_of_the_same_number_is_left_alone() {
    let world = World::new(GuestKind::Pvh);
    let other = Vm {
        uuid: Uuid::from_u128(7),
        ..world.vm
    };
    world.hv.forget_calls();
    let outcome = run(&mut world.host(), other);
    assert_eq!(outcome.unwrap(), Outcome::Gone);
    assert_eq!(world.hv.calls().len(), 1);
}

#[test]
fn a_domain_that_somebody_paused_stays_paused() {
    let world = World::new(GuestKind::Pvh);
    world.hv.pause_domain(world.vm.domid).unwrap();
    assert_eq!(world.run().unwrap(), Outcome::Running);
    assert_eq!(world.hv.domain(world.vm.domid).unwrap().pauses, 1);
    world.hv.unpause_domain(world.vm.domid).unwrap();
    world.assert_is_reset(1);
}

#[test]
fn one_that_is_let_go_meanwhile_runs_in_the_end() {
    let world = World::new(GuestKind::Pvh);
    world.hv.pause_domain(world.vm.domid).unwrap();
    let (hv, domid) = (world.hv.clone(), world.vm.domid);
    let is_let_go = AtomicBool::new(false);
    // The first request comes after the begin, and before the domain is held.
    world.store.set_fault_hook(move |_| {
        if !is_let_go.swap(true, Ordering::Relaxed) {
            hv.unpause_domain(domid).unwrap();
        }
        None
    });
    assert_eq!(world.run().unwrap(), Outcome::Running);
    world.store.clear_fault_hook();
    world.assert_is_reset(1);
}

#[test]
fn a_spoilt_grant_is_made_again() {
    let world = World::new(GuestKind::Pvh);
    let refused = AtomicBool::new(false);
    world.store.set_fault_hook(move |request| {
        let is_first =
            request.packet.kind == MessageKind::Introduce && !refused.swap(true, Ordering::Relaxed);
        is_first.then_some(Fault::Refuse(ErrorName::Einval))
    });
    assert_eq!(world.run().unwrap(), Outcome::Running);
    world.assert_is_reset(1);
    let table = world
        .hv
        .frame(world.hv.domain(world.vm.domid).unwrap().grant_table);
    let entry = |gfn: u8| [1, 0, 0, 0, gfn, 0xef, 0x0f, 0];
    assert_eq!(table[..16], [entry(0xfd), entry(0xfc)].concat());
}

#[test]
fn guests_that_cannot_be_reset_are_told_why() {
    for (kind, why) in [
        (GuestKind::Pv, "PV guest"),
        (GuestKind::Hvm, "device model"),
    ] {
        let world = World::new(kind);
        let outcome = world.run().unwrap();
        assert!(
            matches!(&outcome, Outcome::GivenUp(text) if text.contains(why)),
            "{outcome:?}"
        );
        world.assert_is_given_up();
        assert_eq!(world.hv.domain(world.vm.domid).unwrap().soft_resets, 0);
    }
    let world = World::new(GuestKind::Pvh);
    let device = format!(
        "{}/device/vif/0",
        xenstore_nodes::libxl_path(world.vm.domid)
    );
    world
        .store
        .client(0)
        .unwrap()
        .mkdir(&path(&device).unwrap())
        .unwrap();
    let outcome = world.run().unwrap();
    assert!(
        matches!(&outcome, Outcome::GivenUp(text) if text.contains("vif 0")),
        "{outcome:?}"
    );
}

#[test]
fn a_reset_that_would_end_xenstored_is_given_up() {
    let version = |extra: &str| xen_port::VersionInfo {
        major: 4,
        minor: 17,
        extra: extra.to_owned(),
        ..xen_port::VersionInfo::default()
    };
    let ocaml: &[u8] = b"/usr/sbin/oxenstored";
    for (extra, program, is_safe) in [
        (".0", None, false),
        (".0", Some(&b""[..]), false),
        (".0-rc4", None, false),
        (".0", Some(ocaml), true),
        (".1", None, true),
        (".1-pre", None, true),
    ] {
        let mut world = World::new(GuestKind::Pvh);
        world.hv.set_version(version(extra));
        if let Some(program) = program {
            let mut client = world.store.client(0).unwrap();
            client
                .write(&path("/tool/xenstored").unwrap(), program)
                .unwrap();
            world.nodes = world.toolstack_nodes();
        }
        let outcome = world.run().unwrap();
        assert_eq!(
            outcome == Outcome::Running,
            is_safe,
            "{extra} {program:?} {outcome:?}"
        );
        let resets = world.hv.domain(world.vm.domid).unwrap().soft_resets;
        assert_eq!(resets, u32::from(is_safe));
    }
}

// ---- resets that an earlier version began -------------------------------------------------------------

fn put_old_note(world: &World, text: &str) {
    let note = format!("{}/soft-reset", xenstore_nodes::libxl_path(world.vm.domid));
    let mut client = world.store.client(0).unwrap();
    client
        .write(&path(&note).unwrap(), text.as_bytes())
        .unwrap();
}

/// A reset of which an earlier version had done these steps, with its note.
fn begun_by_an_earlier_version(note: &str, steps: usize) -> World {
    let world = World::new(GuestKind::Pvh);
    let done = STEPS.into_iter().take(steps).fold(Plan::new(), with_step);
    assert_eq!(world.run_steps(done).unwrap(), Outcome::Running);
    // It had no journal of it.
    let host = world.host();
    let journal = host.dirs.journal(UUID);
    os_port::remove_if_there(&*host.files, &journal).unwrap();
    put_old_note(&world, note);
    world
}

#[test]
fn a_reset_of_an_earlier_version_is_finished_whoever_is_killed() {
    for (note, steps) in [
        ("asked", 0),
        ("asked", 2),
        ("asked poweroff", 4),
        ("asked", 5),
        ("asked", 6),
        ("described", 7),
        ("described", 8),
        ("described", 10),
    ] {
        for number in 1.. {
            let mut world = begun_by_an_earlier_version(note, steps);
            if note == "asked poweroff" {
                let node = power::shutdown_path(world.vm.domid).unwrap();
                let value = b"poweroff".to_vec();
                world.nodes.get_mut(node.as_str()).unwrap().0 = value;
            }
            die_at_request(&world.store, number);
            let is_done = as_process(|| world.take_over()).is_some();
            world.store.clear_fault_hook();
            finish(&world);
            world.assert_is_reset(1);
            if is_done {
                assert!(number > 4, "{note}, {steps} steps: only {number} requests");
                break;
            }
        }
    }
}

#[test]
fn a_guest_that_an_earlier_version_has_let_run_is_not_touched() {
    let world = begun_by_an_earlier_version("described", 10);
    world.hv.forget_calls();
    finish(&world);
    let changes = [
        "pause_domain",
        "soft_reset",
        "close_event_channels",
        "alloc_unbound",
    ];
    let calls = world.hv.calls();
    assert!(
        calls.iter().all(|call| !changes.contains(&call.op)),
        "{calls:?}"
    );
}

#[test]
fn a_note_that_cannot_be_followed_ends_in_a_crash() {
    for (note, words) in [
        ("perhaps", "`perhaps`"),
        ("given-up", "given up before"),
        ("given-up paused", "given up before"),
    ] {
        let world = begun_by_an_earlier_version(note, 4);
        let outcome = world.take_over().unwrap();
        assert!(world.is_introduced());
        assert!(
            matches!(&outcome, Outcome::GivenUp(text) if text.contains(words)),
            "{outcome:?}"
        );
        world.assert_is_given_up();
        let left = world.toolstack_nodes();
        assert!(left.keys().all(|node| !node.ends_with("/soft-reset")));
    }
}

/// A monitor's whole life, as far as this domain goes.
fn watched(world: &World, settings: &str) -> String {
    let mut host = world.host();
    let config =
        format!("name = \"guest\"\nkernel = \"/k\"\nuuid = \"{UUID}\"\nmemory = 32\n{settings}\n");
    store::write(
        &*host.files,
        &host.dirs,
        &UUID.hyphenated().to_string(),
        &config,
    )
    .unwrap();
    let mut log = String::new();
    monitor::watch(&mut host, world.vm, &mut |line| log.extend([line, "\n"])).unwrap();
    log
}

#[test]
fn a_pv_guest_that_asks_has_crashed() {
    let world = World::new(GuestKind::Pv);
    let log = watched(&world, "on_crash = \"preserve\"");
    assert!(
        log.contains("Xen cannot soft-reset a PV guest")
            && log.contains("As after a crash: preserve"),
        "{log}"
    );
    world.assert_is_given_up();

    let world = World::new(GuestKind::Pv);
    let log = watched(&world, "on_crash = \"destroy\"");
    assert!(log.contains("As after a crash: destroy"), "{log}");
    assert!(world.hv.domain(world.vm.domid).is_none());
}

#[test]
fn other_actions_are_taken_as_configured() {
    let world = World::new(GuestKind::Pvh);
    let log = watched(&world, "type = \"pvh\"\non_soft_reset = \"destroy\"");
    assert!(log.contains("(SoftReset): destroy"), "{log}");
    assert!(world.hv.domain(world.vm.domid).is_none());
}

#[test]
fn a_crash_is_not_answered_with_resets_for_ever() {
    let on = crate::vm::spec::OnShutdown {
        poweroff: AtEnd::Destroy,
        reboot: AtEnd::Restart,
        watchdog: AtEnd::Destroy,
        crash: AtEnd::SoftReset,
        soft_reset: AtEnd::SoftReset,
    };
    assert_eq!(on.action_without_soft_reset(), AtEnd::Preserve);
}

#[test]
fn a_guest_cannot_fill_the_log() {
    let mut tally = Tally::default();
    let start = Instant::now();
    let lines: Vec<String> = (0..10_000)
        .filter_map(|i| {
            tally.count(
                DomId(3),
                start + Duration::from_millis(i * 10),
                Duration::from_millis(4),
            )
        })
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].contains("domain 3") && lines[1].contains("6000 times"),
        "{lines:?}"
    );
}

#[test]
fn a_guest_that_resets_itself_all_the_time_gets_a_quarter_of_it_and_one_reset_a_second() {
    let mut tally = Tally::default();
    assert_eq!(tally.rests_until(), None);
    let took = Duration::from_millis(4);
    let (start, mut now) = (Instant::now(), Instant::now());
    for _ in 0..100 {
        now = tally.rests_until().map_or(now, |turn| turn.max(now)) + took;
        tally.count(DomId(3), now, took);
    }
    assert!(now - start >= Duration::from_secs(99));
    let took = Duration::from_millis(400);
    tally.count(DomId(3), now, took);
    assert_eq!(tally.rests_until(), Some(now + took * 3));
    // A backend that does not answer makes each reset take 10 s.
    let took = Duration::from_secs(10);
    tally.count(DomId(3), now, took);
    assert_eq!(tally.rests_until(), Some(now + took * 3));
    tally.count(DomId(3), now, Duration::from_secs(150));
    assert_eq!(tally.rests_until(), Some(now + Duration::from_secs(60)));
}
