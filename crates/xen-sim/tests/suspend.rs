//! A guest is suspended and resumed: guests that do not obey, or too late; and the process that asks dies, or is refused something, at
//! every call.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::sync::Mutex;
use std::time::Duration;

use bench::Bench;
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Fault, Moment, SuspendManner, Turns, World};
use xenstore::Tree;
use xyl_engine::supervise::monitor;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::{Vm, monitor_lock};
use xyl_engine::{EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
/// Place of `rax` in the registers of a vCPU.
const RAX: usize = 600;

/// A guest that runs and behaves like this.
fn world_of(bench: &Bench, manner: SuspendManner) -> (World, DomId) {
    let world = World::new(256);
    let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
    world.guests.set_manner(domid, manner);
    // Its drivers have an interrupt for event channels.
    let callback = xen_port::HvmParam::CallbackIrq;
    xen_port::Hypervisor::set_hvm_param(&world.xen, domid, callback, 1).unwrap();
    (world, domid)
}

fn ask(host: &mut Host, domid: DomId, request: &Request) -> Result<(), EngineError> {
    let info = host.hv.domain_info(domid)?.unwrap();
    requests::ask_for(host, &info, request).map(drop)
}

fn reason(world: &World, domid: DomId) -> Option<ShutdownReason> {
    world.xen.domain(domid).unwrap().shutdown
}

fn node(world: &World, domid: DomId) -> Option<Vec<u8>> {
    let mut store = world.store.client(0).unwrap();
    let path = format!("/local/domain/{domid}/control/shutdown");
    store
        .read_opt(&xenstore::Path::new(&path).unwrap())
        .unwrap()
}

/// Whether xenstored reports the domain's next end: it does not for a domain that it takes for ended.
fn next_end_is_reported(world: &World, domid: DomId) -> bool {
    let mut store = world.store.client(0).unwrap();
    store
        .watch(&xenstore::Path::release_domain(), "test")
        .unwrap();
    let now = std::time::Instant::now();
    while store.next_event_of(&["test"], now).unwrap().is_some() {}
    world.shut_down(domid, ShutdownReason::Crash);
    store.next_event_of(&["test"], now).unwrap().is_some()
}

#[test]
fn a_guest_is_suspended_and_goes_on() {
    let bench = Bench::with_devices();
    for manner in [SuspendManner::Good, SuspendManner::RemovesNode] {
        let (world, domid) = world_of(&bench, manner);
        let before = world.snapshot();
        bench.must(&world, |host| ask(host, domid, &Request::Suspend));
        assert_eq!(reason(&world, domid), Some(ShutdownReason::Suspend));
        // A second one has nothing to do.
        bench.must(&world, |host| ask(host, domid, &Request::Suspend));
        bench.must(&world, |host| ask(host, domid, &Request::Resume));
        let domain = world.xen.domain(domid).unwrap();
        assert!(domain.is_running());
        let registers = &domain.registers[&0];
        assert_eq!(registers[RAX..RAX + 8], [1, 0, 0, 0, 0, 0, 0, 0]);
        let lost = world.snapshot().losses(&before);
        let lost: Vec<_> = lost
            .iter()
            .filter(|what| !what.contains("control/shutdown") && !what.ends_with("/journal"))
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
        assert!(next_end_is_reported(&world, domid));
    }
}

/// The error of a suspend by a process, and the seconds that it took.
fn refused(bench: &Bench, world: &World, domid: DomId) -> (EngineError, u64) {
    let begun_s = since_boot_s(world);
    let outcome = bench.process(world, None, |host| ask(host, domid, &Request::Suspend));
    match outcome.0 {
        Ended::Well(Err(error)) => (error, since_boot_s(world) - begun_s),
        other => panic!("{other:?}"),
    }
}

fn since_boot_s(world: &World) -> u64 {
    os_port::Clock::since_boot_s(&world.clock)
}

#[test]
fn a_guest_that_takes_no_request_runs_on_and_finds_none() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench, SuspendManner::Ignores);
    let (error, spent_s) = refused(&bench, &world, domid);
    assert_eq!((error.code(), spent_s), (ErrorCode::Suspend, 60));
    assert_eq!(node(&world, domid), Some(Vec::new()));
    assert!(world.xen.domain(domid).unwrap().is_running());
    // It is not expected to suspend itself.
    let late = format!("/run/xyl/vm/{UUID}/late-suspend");
    assert_eq!(world.disk.contents(late.as_ref()), None);
}

#[test]
fn what_cannot_be_suspended_is_refused_at_once() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench, SuspendManner::Good);
    xen_port::Hypervisor::pause_domain(&world.xen, domid).unwrap();
    let (error, spent_s) = refused(&bench, &world, domid);
    assert_eq!((error.code(), spent_s), (ErrorCode::Suspend, 0));
    xen_port::Hypervisor::unpause_domain(&world.xen, domid).unwrap();
    world.shut_down(domid, ShutdownReason::Crash);
    assert_eq!(refused(&bench, &world, domid).0.code(), ErrorCode::Suspend);
}

#[test]
fn a_guest_that_crashes_instead_is_left_as_it_is() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench, SuspendManner::Crashes);
    let (error, _) = refused(&bench, &world, domid);
    assert_eq!(error.code(), ErrorCode::Suspend);
    assert_eq!(reason(&world, domid), Some(ShutdownReason::Crash));
}

/// A monitor beside a process that asks for a suspend, and then waits so long.
fn suspend_beside_monitor(
    bench: &Bench,
    world: &World,
    domid: DomId,
    wait: Duration,
) -> Vec<String> {
    let turns = Turns::fair(1, &world.clock, 2);
    let (watching, asking) = (world.fate(None), world.fate(None));
    let (watching, asking) = (
        watching.seated(turns.servant(0)),
        asking.seated(turns.seat(1)),
    );
    let log = Mutex::new(Vec::new());
    let uuid = Uuid::parse_str(UUID).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bench.run(world, watching, |host| {
                let vm = Vm { domid, uuid };
                monitor::watch(host, vm, &mut |line| {
                    log.lock().unwrap().push(line.to_owned())
                })
            })
        });
        scope.spawn(|| {
            bench.run(world, asking, |host| {
                while !host
                    .files
                    .is_locked(&host.dirs.watch(uuid))
                    .unwrap_or(false)
                {
                    host.wait_for(&[], Duration::from_millis(10))?;
                }
                let _ = ask(host, domid, &Request::Suspend);
                let end = host.clock.now() + wait;
                while host.clock.now() < end {
                    host.wait_for(&[], Duration::from_secs(1))?;
                }
                Ok(())
            })
        });
    });
    assert_eq!(turns.stuck(), None);
    log.into_inner().unwrap()
}

#[test]
fn a_guest_that_suspends_itself_too_late_is_resumed_by_its_monitor() {
    let bench = Bench::new();
    let manner = SuspendManner::Late(Duration::from_secs(100));
    let (world, domid) = world_of(&bench, manner);
    bench.must(&world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, Uuid::parse_str(UUID).unwrap())
    });
    let log = suspend_beside_monitor(&bench, &world, domid, Duration::from_secs(200));
    let text = log.join("\n");
    assert!(world.xen.domain(domid).unwrap().is_running(), "{text}");
    let late = format!("/run/xyl/vm/{UUID}/late-suspend");
    assert_eq!(world.disk.contents(late.as_ref()), None);
    assert!(next_end_is_reported(&world, domid));
}

#[test]
fn a_monitor_leaves_a_suspended_guest_alone() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench, SuspendManner::Good);
    bench.must(&world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, Uuid::parse_str(UUID).unwrap())
    });
    suspend_beside_monitor(&bench, &world, domid, Duration::from_secs(1000));
    assert_eq!(reason(&world, domid), Some(ShutdownReason::Suspend));
}

/// Whether a guest is as it should be after a recovery: it runs and xenstored knows, or it is suspended.
fn is_settled(world: &World, domid: DomId) -> Result<(), String> {
    let domain = world.xen.domain(domid).unwrap();
    if node(world, domid).as_deref() == Some(b"suspend") {
        return Err("the request stands".to_owned());
    }
    match domain.shutdown {
        Some(ShutdownReason::Suspend) => Ok(()),
        Some(other) => Err(format!("it has ended: {other:?}")),
        None if next_end_is_reported(world, domid) => Ok(()),
        None => Err("xenstored takes it for ended".to_owned()),
    }
}

/// Kills or refuses a request at every call of its process. Afterwards another process recovers.
fn sweep(request: &Request, before: impl Fn(&Bench, &World, DomId)) {
    let bench = Bench::new();
    let count = {
        let (world, domid) = world_of(&bench, SuspendManner::Good);
        before(&bench, &world, domid);
        bench
            .process(&world, None, |host| ask(host, domid, request))
            .1
    };
    assert!(count > 10, "{count}");
    for call in 1..=count {
        for moment in Moment::ALL {
            let (world, domid) = world_of(&bench, SuspendManner::Good);
            before(&bench, &world, domid);
            bench.process(&world, Some((call, moment)), |host| {
                ask(host, domid, request)
            });
            bench.must(&world, |host| recover::all(host, false));
            is_settled(&world, domid).unwrap_or_else(|error| panic!("{call} {moment:?}: {error}"));
        }
        let (world, domid) = world_of(&bench, SuspendManner::Good);
        before(&bench, &world, domid);
        let fate = world.fate(None).with_fault(Some(Fault { call, choice: 0 }));
        let (ended, _) = bench.run(&world, fate, |host| ask(host, domid, request));
        bench.must(&world, |host| recover::all(host, true));
        is_settled(&world, domid).unwrap_or_else(|error| panic!("{call}: {error}; {ended:?}"));
    }
}

#[test]
fn a_suspend_may_die_at_every_call() {
    sweep(&Request::Suspend, |_, _, _| ());
}

#[test]
fn a_resume_may_die_at_every_call() {
    sweep(&Request::Resume, |bench, world, domid| {
        bench.must(world, |host| ask(host, domid, &Request::Suspend));
    });
}
