//! Soft resets of domains in memory: every call failing, every process killed at every call.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use os_port::mem::VirtualClock;
use xen_port::{CreateDomain, Hypervisor};
use xen_sim::model::Model;
use xenstore::mem::{Fault, MemStore};
use xenstore::{ErrorName, MessageKind, Perms};

use super::*;
use crate::Dirs;
use crate::device::console::Ring;
use crate::operation::destroy;
use crate::supervise::monitor;
use crate::testing::pv_request;
use crate::vm::spec::Action;
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

    /// What a create does after the build.
    fn connect(&self) {
        let (hv, domid) = (&self.hv, self.vm.domid);
        let store_port = hv.alloc_unbound(domid, DomId::ZERO).unwrap();
        let console_port = hv.alloc_unbound(domid, DomId::ZERO).unwrap();
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
        }) {
            create::add(&mut batch, &change).unwrap();
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
        for param in [
            HvmParam::CallbackIrq,
            HvmParam::StoreEvtchn,
            HvmParam::ConsoleEvtchn,
        ] {
            self.hv.set_hvm_param(domid, param, 0x1_0000_0001).unwrap();
        }
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
        run(&mut self.host(), self.vm, &mut |_| ())
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

    /// The domain is kept, as one that has crashed, and nothing holds it.
    fn assert_is_given_up(&self) {
        let domain = self.hv.domain(self.vm.domid).unwrap();
        assert!(domain.shutdown.is_some());
        assert_eq!(domain.pauses, 0);
        let note = self.store.nodes()[&note_path(self.vm.domid).unwrap()]
            .0
            .clone();
        assert_eq!(note, b"given-up");
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
        let mut log = Vec::new();
        let outcome = run(&mut world.host(), world.vm, &mut |line| {
            log.push(line.to_owned())
        });
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
        let mut log = Vec::new();
        let outcome = run(&mut world.host(), world.vm, &mut |line| {
            log.push(line.to_owned())
        });
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
        assert!(is_under_way(&mut world.host(), world.vm.domid).unwrap());
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
        assert_eq!(world.run().unwrap(), Outcome::Running, "request {number}");
        world.assert_is_reset(1);
    }
}

#[test]
fn whoever_takes_over_finishes_after_each_step() {
    for count in 0..State::ALL.len() {
        let world = World::new(GuestKind::Pvh);
        let mut host = world.host();
        let mut draft = Draft::new(&mut host, world.vm);
        let steps = State::ALL.into_iter().filter_map(step);
        for step in steps.take(count) {
            (step.apply)(&mut draft).unwrap();
        }
        drop(host);
        assert_eq!(world.run().unwrap(), Outcome::Running, "{count} steps");
        world.assert_is_reset(1);
    }
}

#[test]
fn every_step_may_be_taken_twice() {
    let world = World::new(GuestKind::Pvh);
    let mut host = world.host();
    let mut draft = Draft::new(&mut host, world.vm);
    for state in State::ALL {
        // A second soft reset is refused by Xen, and never asked for: `look` sees that it is done.
        let times = if state == State::Released { 1 } else { 2 };
        let Some(step) = step(state) else { continue };
        (0..times).for_each(|_| (step.apply)(&mut draft).unwrap());
    }
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
            let is_recovered = as_process(|| world.run()).is_some();
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

/// Somebody asks the guest to shut down while it waits for its reset, as `xyl shutdown` does.
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

/// What a new monitor does.
fn finish(world: &World) {
    let is_shut_down = world.hv.domain(world.vm.domid).unwrap().shutdown.is_some();
    if is_shut_down || is_under_way(&mut world.host(), world.vm.domid).unwrap() {
        assert_eq!(world.run().unwrap(), Outcome::Running);
    }
}

#[test]
fn a_domain_that_is_destroyed_meanwhile_leaves_nothing() {
    for count in 0..State::ALL.len() {
        let world = World::new(GuestKind::Pvh);
        let mut host = world.host();
        let mut draft = Draft::new(&mut host, world.vm);
        let steps: Vec<_> = State::ALL.into_iter().filter_map(step).collect();
        for step in steps.iter().take(count) {
            (step.apply)(&mut draft).unwrap();
        }
        // As xl does it, from a process of its own.
        let domid = world.vm.domid;
        destroy::remove_nodes(&mut world.host(), domid, &UUID.hyphenated().to_string()).unwrap();
        let without = world.toolstack_nodes();
        for step in steps.iter().skip(count) {
            let _ = (step.apply)(&mut draft);
        }
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
    let outcome = run(&mut world.host(), other, &mut |_| ());
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
    let mut host = world.host();
    let mut draft = Draft::new(&mut host, world.vm);
    for state in [State::Asked, State::Noted] {
        (step(state).unwrap().apply)(&mut draft).unwrap();
    }
    world.hv.unpause_domain(world.vm.domid).unwrap();
    assert_eq!(world.run().unwrap(), Outcome::Running);
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
        (GuestKind::Hvm, "save its state is not supported"),
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

#[test]
fn a_note_of_somebody_else_is_not_guessed_at() {
    let world = World::new(GuestKind::Pvh);
    let note = note_path(world.vm.domid).unwrap();
    world
        .store
        .client(0)
        .unwrap()
        .write(&note, b"perhaps")
        .unwrap();
    let outcome = world.run().unwrap();
    assert!(
        matches!(&outcome, Outcome::GivenUp(text) if text.contains("`perhaps`")),
        "{outcome:?}"
    );
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
        poweroff: Action::Destroy,
        reboot: Action::Restart,
        watchdog: Action::Destroy,
        crash: Action::SoftReset,
        soft_reset: Action::SoftReset,
    };
    assert_eq!(on.action_without_soft_reset(), Action::Preserve);
}

// ---- the table ----------------------------------------------------------------------------------

fn all_events() -> impl Iterator<Item = Event> {
    let others = [Event::Done, Event::Failed, Event::Refused, Event::Gone];
    State::ALL.into_iter().map(Event::Found).chain(others)
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    for state in State::ALL {
        for event in all_events() {
            let is_possible = match (state, event) {
                (_, _) if state.is_end() => false,
                (State::Unknown, Event::Found(found)) => found != State::Unknown,
                (_, Event::Found(_)) => false,
                (State::Unknown, Event::Done) => false,
                _ => true,
            };
            match next(state, event) {
                Ok(_) => assert!(is_possible, "{state:?} {event:?}"),
                Err(error) => {
                    assert!(!is_possible, "{state:?} {event:?}");
                    assert_eq!(error, ImpossibleEvent { state, event });
                }
            }
        }
    }
}

#[test]
fn every_way_ends() {
    for start in State::ALL
        .into_iter()
        .filter(|state| *state != State::Unknown)
    {
        let mut state = start;
        let mut steps = 0;
        while !state.is_end() {
            assert!(step(state).is_some(), "{state:?} has no step");
            state = next(state, Event::Done).unwrap();
            steps += 1;
            assert!(steps < State::ALL.len());
        }
        if !start.is_end() {
            assert_eq!(state, State::Running);
            assert_eq!(next(start, Event::Failed), Ok(State::Unknown));
            assert_eq!(next(start, Event::Refused), Ok(State::GivenUp));
            assert_eq!(next(start, Event::Gone), Ok(State::Gone));
        }
    }
}

#[test]
fn the_documentation_holds_this_table() {
    let docs = include_str!("../../../../../docs/soft-reset.md");
    assert!(
        docs.contains(&table()),
        "docs/soft-reset.md lacks this table:\n{}",
        table()
    );
}

#[test]
fn notes_are_read_back_and_nothing_else_is() {
    for phase in [Phase::Asked, Phase::Described, Phase::GivenUp] {
        for stays_paused in [false, true] {
            for asked_for in [
                None,
                Some(PowerRequest::Poweroff),
                Some(PowerRequest::Reboot),
            ] {
                let note = Note {
                    phase,
                    stays_paused,
                    asked_for,
                };
                assert_eq!(Note::parse(&note.text()), Some(note));
            }
        }
    }
    for text in [
        "",
        "paused",
        " paused",
        "asked ",
        "asked paused paused",
        "asked soft-reset",
        "asked poweroff reboot",
        "ASKED",
    ] {
        assert_eq!(Note::parse(text), None, "{text}");
    }
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
fn a_guest_that_resets_itself_all_the_time_gets_a_quarter_of_it() {
    let mut tally = Tally::default();
    assert_eq!(tally.rests_until(), None);
    let took = Duration::from_millis(4);
    let (start, mut now) = (Instant::now(), Instant::now());
    for _ in 0..100 {
        now = tally.rests_until().map_or(now, |turn| turn.max(now)) + took;
        tally.count(DomId(3), now, took);
    }
    assert!(now - start >= (took * 4) * 99);
    // A slow one holds up the next no longer than xl would.
    tally.count(DomId(3), now, Duration::from_secs(150));
    assert_eq!(tally.rests_until(), Some(now + Duration::from_secs(2)));
}
