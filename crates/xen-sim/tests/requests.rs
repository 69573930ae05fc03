//! What is asked of a VM's monitor: carried out by it, whoever dies on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use bench::{Bench, create_planned};
use os_port::{Clock, ProcessId};
use uuid::Uuid;
use xen_port::{CpuMap, DomId, DomainInfo, Hypervisor, VcpuId};
use xen_sim::{Ended, Fate, LastingFault, Moment, Turns, World};
use xenstore::{Path as Node, Tree};
use xyl_api::{Asker, Envelope, Outcome, Reply, RequestId, limits};
use xyl_engine::control::power::PowerRequest;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::destroy;
use xyl_engine::recover;
use xyl_engine::supervise::monitor::{self};
use xyl_engine::supervise::requests::{self, Asking, Done, Request};
use xyl_engine::vm::Vm;
use xyl_engine::vm::domains::{self, DomainRef};
use xyl_engine::vm::monitor_lock;
use xyl_engine::vm::request_queue::{RequestQueue, Standing};
use xyl_engine::vm::store;
use xyl_engine::{Cancel, EngineError, ErrorCode, Host, RequestError};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

fn uuid() -> Uuid {
    Uuid::parse_str(UUID).unwrap()
}

/// A host with a guest that is to be watched over.
fn guest(bench: &Bench) -> (World, DomId) {
    let world = World::new(256);
    world.xen.set_version(xen_sim::version());
    let plan = bench.plan(&bench.config("guest", UUID)).unwrap();
    let domid = bench.must(&world, |host| {
        let mut request = CreateRequest {
            spec: &plan.spec,
            config_text: &plan.config_text(),
            paused: false,
            process_ends: false,
            watch: &mut |host, _| monitor_lock::create_file(&*host.files, &host.dirs, uuid()),
            before_start: &mut |_, _| Ok(()),
            notice: &mut |_| (),
        };
        create(host, &mut request, &Cancel::new())
    });
    let tty = Node::new(&format!("/local/domain/{domid}/console/tty")).unwrap();
    let mut store = world.store.client(0).unwrap();
    store.write(&tty, b"/dev/pts/0").unwrap();
    (world, domid)
}

fn info(world: &World, domid: DomId) -> Option<DomainInfo> {
    world.xen.domain_info(domid).unwrap()
}

/// What is said, and what the log of the monitor holds.
struct Heard {
    said: Option<Result<Done, String>>,
    /// The word of what went wrong.
    code: Option<ErrorCode>,
    log: Vec<String>,
    calls: (u64, u64),
}

type Doom = Option<(u64, Moment)>;

/// A monitor, and beside it a process that asks. Either may be killed.
fn ask_beside(
    bench: &Bench,
    (world, domid): (&World, DomId),
    seed: u64,
    (of_monitor, of_asker): (Doom, Doom),
    request: &Request,
    cancel: &Cancel,
) -> Heard {
    let turns = Turns::fair(seed, &world.clock, 2);
    let watching: Fate = world.fate(of_monitor).seated(turns.servant(0));
    let asking: Fate = world.fate(of_asker).seated(turns.seat(1));
    let log = Mutex::new(Vec::new());
    let (said, calls) = std::thread::scope(|scope| {
        let monitor = scope.spawn(|| {
            let vm = Vm {
                domid,
                uuid: uuid(),
            };
            let watch = |host: &mut Host| {
                monitor::watch(host, vm, &mut |line| {
                    log.lock().unwrap().push(line.to_owned())
                })
            };
            bench.run(world, watching, watch).1
        });
        let asker = scope.spawn(|| {
            let (ended, calls) = bench.run(world, asking, |host| {
                // By then the monitor has its lock, or is dead.
                while !has_monitor(host) && turns_are_left(host) {}
                let Some(info) = host.hv.domain_info(domid)? else {
                    return Err(EngineError::NoSuchDomain(domid.to_string()));
                };
                let mut asking = Asking {
                    cancel,
                    progress: &mut |_, _| (),
                };
                requests::ask(host, &info, request, &mut asking)
            });
            let said = match ended {
                Ended::Well(outcome) => Some(outcome),
                Ended::Killed => None,
            };
            (said, calls)
        });
        let (said, of_asker) = asker.join().unwrap();
        (said, (monitor.join().unwrap(), of_asker))
    });
    let failed = said.as_ref().and_then(|said| said.as_ref().err());
    let code = failed.map(EngineError::code);
    let said = said.map(|said| said.map_err(|error| error.to_string()));
    assert_eq!(turns.stuck(), None);
    let log = log.into_inner().unwrap();
    Heard {
        said,
        code,
        log,
        calls,
    }
}

fn has_monitor(host: &Host) -> bool {
    let watch = host.dirs.watch(uuid());
    host.files.is_locked(&watch).unwrap_or(false)
}

/// A moment for the others; not for ever.
fn turns_are_left(host: &mut Host) -> bool {
    let pause = std::time::Duration::from_millis(10);
    host.wait_for(&[], pause).unwrap();
    host.clock.since_boot_s() < 2
}

/// The next monitor, until it has nothing to do any more.
fn heir(bench: &Bench, world: &World, domid: DomId) {
    let turns = Turns::fair(1, &world.clock, 2);
    let watching = world.fate(None).seated(turns.servant(0));
    let other = world.fate(None).seated(turns.seat(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let vm = Vm {
                domid,
                uuid: uuid(),
            };
            bench.run(world, watching, |host| {
                monitor::watch(host, vm, &mut |_| ())
            })
        });
        scope.spawn(|| {
            bench.run(world, other, |host| {
                host.wait_for(&[], std::time::Duration::from_secs(10))
            })
        });
    });
}

/// The files below a folder, whichever VM they are of.
fn files_in(world: &World, folder: &str) -> Vec<String> {
    let files = world.snapshot().files;
    let names = files.keys().map(|path| path.to_string_lossy().into_owned());
    names.filter(|name| name.contains(folder)).collect()
}

/// The requests that wait.
fn asked(world: &World) -> Vec<String> {
    let mut files = files_in(world, "/requests/");
    files.retain(|name| !name.ends_with(".new"));
    files
}

/// The replies that nobody has fetched.
fn told(world: &World) -> usize {
    let mut files = files_in(world, "/run/xyl/replies/");
    files.retain(|name| !name.ends_with(".fetched.json"));
    files.len()
}

fn node(world: &World, path: &str) -> Option<String> {
    let value = world.snapshot().nodes.get(path).cloned();
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

fn core() -> PathBuf {
    PathBuf::from("/var/lib/xen/guest.core")
}

fn all() -> Vec<Request> {
    vec![
        Request::Pause,
        Request::Unpause,
        Request::Power {
            request: PowerRequest::Poweroff,
            fallback: false,
        },
        Request::Sysrq { key: 'h' },
        Request::Rename {
            name: "other".to_owned(),
        },
        Request::MemoryTarget { target_kib: 4096 },
        Request::MemoryMaximum { max_kib: 16384 },
        Request::Vcpus { nr_vcpus: 1 },
        Request::Pin {
            vcpus: vec![VcpuId(0)],
            hard: Some(CpuMap::all(1)),
            soft: None,
            force: false,
        },
        Request::DumpCore {
            file: core(),
            is_live: false,
        },
        Request::Destroy { force: false },
    ]
}

/// Whether a request has had its effect.
fn is_done(world: &World, domid: DomId, request: &Request) -> bool {
    let Some(now) = info(world, domid) else {
        return matches!(request, Request::Destroy { .. });
    };
    let snapshot = world.snapshot();
    let node = |name: &str| {
        let value = snapshot.nodes.get(&format!("/local/domain/{domid}/{name}"));
        value.map(|value| String::from_utf8_lossy(value).into_owned())
    };
    match request {
        Request::Pause => now.flags.paused,
        Request::Unpause => !now.flags.paused,
        Request::Power { .. } => node("control/shutdown").as_deref() == Some("poweroff"),
        Request::Sysrq { .. } => node("control/sysrq").as_deref() == Some("h"),
        Request::Rename { .. } => node("name").as_deref() == Some("other"),
        Request::MemoryTarget { .. } => node("memory/target").as_deref() == Some("4096"),
        Request::MemoryMaximum { .. } => node("memory/static-max").as_deref() == Some("16384"),
        Request::Vcpus { .. } => node("cpu/0/availability").as_deref() == Some("online"),
        Request::DumpCore { .. } => world.disk.contents(&core()).is_some(),
        Request::Destroy { .. } => false,
        _ => true,
    }
}

#[test]
fn a_monitor_carries_out_what_is_asked() {
    let bench = Bench::new();
    for request in all() {
        let (world, domid) = guest(&bench);
        let heard = ask_beside(
            &bench,
            (&world, domid),
            1,
            (None, None),
            &request,
            &Cancel::new(),
        );
        let word = request.word();
        assert!(
            matches!(heard.said, Some(Ok(_))),
            "{word}: {:?}",
            heard.said
        );
        assert!(
            heard.log[0].starts_with(&format!("{word}, for process")),
            "{:?}",
            heard.log
        );
        assert!(is_done(&world, domid, &request), "{word}");
        assert_eq!((asked(&world), told(&world)), (vec![], 0), "{word}");
    }
}

#[test]
fn what_the_monitor_meets_is_what_the_asker_hears() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let request = Request::Vcpus { nr_vcpus: 99 };
    let heard = ask_beside(
        &bench,
        (&world, domid),
        1,
        (None, None),
        &request,
        &Cancel::new(),
    );
    assert_eq!(heard.code, Some(ErrorCode::VcpusOutOfRange));
    let why = heard.said.unwrap().unwrap_err();
    assert!(heard.log[1].contains(&why), "{why}: {:?}", heard.log);
}

/// Whoever asks is killed at each of its calls: what it had asked is done, or was never asked.
#[test]
fn a_request_outlives_whoever_has_asked() {
    let bench = Bench::new();
    for request in all() {
        let mut done = (0, 0);
        for call in 1.. {
            let (world, domid) = guest(&bench);
            let doom = Some((call, Moment::ALL[call as usize % 3]));
            let heard = ask_beside(
                &bench,
                (&world, domid),
                call,
                (None, doom),
                &request,
                &Cancel::new(),
            );
            let word = request.word();
            assert_eq!(asked(&world), Vec::<String>::new(), "{word}, call {call}");
            if heard.said.is_some() {
                assert!(heard.calls.1 < call || is_done(&world, domid, &request));
                break;
            }
            match is_done(&world, domid, &request) {
                true => done.1 += 1,
                false => done.0 += 1,
            }
        }
        assert!(done.1 > 0, "{}: {done:?}", request.word());
    }
}

/// The monitor is killed at each of its calls: whoever asks gets what it wants all the same, and soon.
#[test]
fn a_request_outlives_the_monitor() {
    let bench = Bench::new();
    for request in all() {
        for call in 1.. {
            let (world, domid) = guest(&bench);
            let doom = Some((call, Moment::ALL[call as usize % 3]));
            let before = world.clock.passed();
            let heard = ask_beside(
                &bench,
                (&world, domid),
                call,
                (doom, None),
                &request,
                &Cancel::new(),
            );
            let word = request.word();
            // A key that may have been sent is not sent again.
            let is_unsure = heard.code == Some(ErrorCode::MonitorLost)
                && matches!(request, Request::Sysrq { .. });
            assert!(
                is_unsure || matches!(heard.said, Some(Ok(_))) && is_done(&world, domid, &request),
                "{word}, call {call}: {:?}",
                heard.said
            );
            if info(&world, domid).is_none() {
                // The folder of the VM is gone in part.
                bench.must(&world, |host| recover::all(host, true).map(drop));
            }
            assert_eq!(asked(&world), Vec::<String>::new(), "{word}, call {call}");
            let passed = world.clock.passed() - before;
            assert!(passed.as_secs() < 5, "{word}, call {call}: {passed:?}");
            if heard.calls.0 < call {
                break;
            }
        }
    }
}

/// Both are killed: the next monitor does what was asked.
#[test]
fn a_request_outlives_both() {
    let bench = Bench::new();
    let request = Request::Rename {
        name: "other".to_owned(),
    };
    let mut late = 0;
    for call in 1..60 {
        for of_asker in [12, 14, 16, 20] {
            let (world, domid) = guest(&bench);
            let dooms = (Some((call, Moment::After)), Some((of_asker, Moment::After)));
            ask_beside(
                &bench,
                (&world, domid),
                call,
                dooms,
                &request,
                &Cancel::new(),
            );
            late += asked(&world).len();
            let was_asked = !asked(&world).is_empty();
            heir(&bench, &world, domid);
            assert_eq!(asked(&world), Vec::<String>::new(), "{call}, {of_asker}");
            assert!(
                !was_asked || is_done(&world, domid, &request),
                "{call}, {of_asker}"
            );
        }
    }
    assert!(late > 0);
}

/// A process holds the monitor lock and does nothing: it is stopped.
#[test]
fn a_monitor_that_stands_still_holds_nobody_up_for_long() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let fate = world.fate(None);
    let stopped = bench.host(&world, &fate);
    let lock = stopped
        .files
        .lock(&stopped.dirs.watch(uuid()), None)
        .unwrap();
    let info = info(&world, domid).unwrap();
    let before = world.clock.passed();
    bench.must(&world, |host| {
        requests::ask_for(host, &info, &Request::Pause)
    });
    assert!(is_done(&world, domid, &Request::Pause));
    assert_eq!(asked(&world), Vec::<String>::new());
    let passed = world.clock.passed() - before;
    assert!(passed.as_secs() < 7, "{passed:?}");
    drop(lock);
}

/// A dump that is not wanted any more leaves no file, whoever dumps.
#[test]
fn a_dump_is_taken_back() {
    let bench = Bench::new();
    let (cancel, request) = (
        Cancel::new(),
        Request::DumpCore {
            file: core(),
            is_live: false,
        },
    );
    cancel.request();
    for seed in 1..40 {
        let (world, domid) = guest(&bench);
        let heard = ask_beside(
            &bench,
            (&world, domid),
            seed,
            (None, None),
            &request,
            &cancel,
        );
        // It may have been done by the time that anybody looked.
        let is_there = world.disk.contents(&core()).is_some();
        assert_eq!(is_there, heard.said.unwrap().is_ok(), "{seed}");
        assert!(!info(&world, domid).unwrap().flags.paused);
        let parts = world.snapshot().files;
        assert!(
            !parts
                .keys()
                .any(|path| path.to_string_lossy().contains("guest.core")
                    && path != Path::new("/var/lib/xen/guest.core"))
        );
    }
}

/// What no xyl has written, or a later one, is no reason to stop.
#[test]
fn what_cannot_be_read_is_answered_and_forgotten() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let id = |nr| RequestId::new(nr, [0; 16]);
    let unknown = serde_json::json!({
        "version": 1, "id": id(2), "vm": UUID, "time_ms": 2,
        "asker": {"type": "remote", "name": "later"}, "request": {"type": "levitate"},
    });
    let unknown = unknown.to_string();
    bench.must(&world, |host| {
        let folder = host.dirs.requests(uuid());
        host.files.create_folder(&folder).unwrap();
        for (name, text) in [
            (format!("{}.json", id(1)), "{}"),
            (format!("{}.json", id(2)), unknown.as_str()),
            (format!("{}.json", id(3)), "\"pause"),
            ("no-id.json".to_owned(), "{}"),
            (format!("{}.99999.new", id(4)), "{"),
        ] {
            host.files
                .write(&folder.join(name), text.as_bytes())
                .unwrap();
        }
        Ok(())
    });
    let request = Request::Rename {
        name: "other".to_owned(),
    };
    let nobody = (None, None);
    let place = (&world, domid);
    let heard = ask_beside(&bench, place, 1, nobody, &request, &Cancel::new());
    assert!(matches!(heard.said, Some(Ok(_))), "{:?}", heard.said);
    assert_eq!(files_in(&world, "/requests/").len(), 1);
    assert!(!info(&world, domid).unwrap().flags.paused);
    for nr in [1, 2, 3] {
        let reply = fetch(&bench, &world, id(nr)).unwrap();
        assert_eq!(code_of(&reply), Some(ErrorCode::UnknownRequest));
    }
    assert_eq!(told(&world), 0);
}

fn fetch(bench: &Bench, world: &World, id: RequestId) -> Option<Reply> {
    bench.must(world, |host| requests::fetch_reply(host, uuid(), id))
}

fn code_of(reply: &Reply) -> Option<ErrorCode> {
    match &reply.outcome {
        Outcome::Failed(error) => Some(error.code),
        Outcome::Done(_) => None,
    }
}

/// Where nobody watches, whoever asks does it himself.
#[test]
fn without_a_monitor_the_asker_does_it() {
    let bench = Bench::new();
    let world = World::new(256);
    let plan = bench.plan(&bench.config("guest", UUID)).unwrap();
    let domid = bench.must(&world, |host| create_planned(host, &plan));
    let info = info(&world, domid).unwrap();
    bench.must(&world, |host| {
        requests::ask_for(host, &info, &Request::Pause)
    });
    assert!(is_done(&world, domid, &Request::Pause));
    assert_eq!(asked(&world), Vec::<String>::new());
}

/// A request that is too long for a node, and one whose path is no text, are the monitor's too.
#[test]
fn each_request_reaches_the_monitor() {
    use std::os::unix::ffi::OsStringExt;
    let bench = Bench::new();
    let long = format!("/var/lib/xen/{}.core", "x".repeat(2500));
    let bytes = std::ffi::OsString::from_vec(b"/var/lib/xen/\xff\xfe.core".to_vec());
    for (file, is_text) in [(PathBuf::from(long), true), (PathBuf::from(bytes), false)] {
        let (world, domid) = guest(&bench);
        let request = Request::DumpCore {
            file: file.clone(),
            is_live: false,
        };
        let nobody = (None, None);
        let place = (&world, domid);
        let heard = ask_beside(&bench, place, 1, nobody, &request, &Cancel::new());
        assert!(
            heard.log[0].starts_with("dump-core, for process"),
            "{:?}",
            heard.log
        );
        // The dump itself refuses a name that is no text.
        assert_eq!(heard.said.unwrap().is_ok(), is_text);
        assert_eq!(world.disk.contents(&file).is_some(), is_text);
        assert_eq!(told(&world), 0);
        assert_eq!(files_in(&world, "/requests/"), Vec::<String>::new());
    }
}

/// A request of somebody who is no process of this host, at this time.
fn of_remote(nr: u64, time_ms: u64, request: Request) -> Envelope {
    let asker = Asker::Remote {
        name: "remote".to_owned(),
    };
    Envelope::new(RequestId::new(nr, [0; 16]), uuid(), time_ms, asker, request)
}

/// Adds a request to the queue, without a ring.
fn add_request(host: &Host, envelope: &Envelope) -> Result<(), EngineError> {
    let writer = ProcessId {
        pid: 99_999,
        started_ticks: None,
    };
    let queue = RequestQueue::of(host, envelope.vm);
    queue.prepare(envelope, writer)?.finish(&*host.files)
}

/// The same, by a process of its own.
fn leave_request(bench: &Bench, world: &World, envelope: &Envelope) {
    bench.must(world, |host| add_request(host, envelope));
}

fn now_ms(world: &World) -> u64 {
    let since_1970 = world.clock.calendar().duration_since(UNIX_EPOCH);
    u64::try_from(since_1970.unwrap().as_millis()).unwrap()
}

/// The monitor has died, and somebody has asked for a dump before: who pauses the VM does not dump.
#[test]
fn without_a_monitor_the_requests_of_others_wait_for_the_next_one() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let dump = Request::DumpCore {
        file: core(),
        is_live: true,
    };
    let envelope = of_remote(1, now_ms(&world), dump.clone());
    leave_request(&bench, &world, &envelope);
    let info = info(&world, domid).unwrap();
    bench.must(&world, |host| {
        requests::ask_for(host, &info, &Request::Pause)
    });
    assert!(is_done(&world, domid, &Request::Pause));
    assert_eq!(asked(&world).len(), 1);
    assert!(!is_done(&world, domid, &dump));
}

/// Two requests wait, and the guest ends while the first one is carried out: its end comes before the second.
#[test]
fn the_end_of_a_guest_comes_before_the_next_request() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let now_ms = now_ms(&world);
    // The order is that of their times, whatever their ids.
    for (nr, name) in [(2, "first"), (1, "second")] {
        let name = name.to_owned();
        let envelope = of_remote(nr, now_ms - nr, Request::Rename { name });
        leave_request(&bench, &world, &envelope);
    }
    let fate = world.fate(None);
    let mut lines: Vec<String> = Vec::new();
    let vm = Vm {
        domid,
        uuid: uuid(),
    };
    let ended = bench.run(&world, fate, |host| {
        monitor::watch(host, vm, &mut |line| {
            if line.starts_with("rename") {
                world.shut_down(domid, xen_port::ShutdownReason::Poweroff);
            }
            lines.push(line.to_owned());
        })
    });
    assert!(matches!(ended.0, Ended::Well(Ok(()))), "{lines:?}");
    assert!(lines[0].starts_with("rename"), "{lines:?}");
    assert!(
        lines[1].starts_with(&format!("domain {domid} has ended")),
        "{lines:?}"
    );
}

/// What `shutdown` and `reboot` say of a domain that has shut down already.
#[test]
fn a_domain_that_has_shut_down_is_told_of_at_once() {
    use xen_port::ShutdownReason::{Poweroff, Reboot};
    use xyl_engine::control::power::PowerDelivery::HasShutDown;
    let bench = Bench::new();
    let ask = |reason, request| {
        let (world, domid) = guest(&bench);
        world.shut_down(domid, reason);
        let info = info(&world, domid).unwrap();
        let request = Request::Power {
            request,
            fallback: false,
        };
        let outcome = bench.process(&world, None, |host| {
            requests::ask_for(host, &info, &request)
        });
        match outcome.0 {
            Ended::Well(outcome) => outcome,
            Ended::Killed => panic!("killed"),
        }
    };
    let done = ask(Poweroff, PowerRequest::Poweroff);
    assert!(
        matches!(done, Ok(Done::Delivered { how: HasShutDown })),
        "{done:?}"
    );
    let done = ask(Reboot, PowerRequest::Reboot);
    assert!(
        matches!(done, Ok(Done::Delivered { how: HasShutDown })),
        "{done:?}"
    );
    let restarting = ask(Reboot, PowerRequest::Poweroff);
    let is_so = matches!(
        &restarting,
        Err(EngineError::Control(RequestError::Restarting { .. }))
    );
    assert!(is_so, "{restarting:?}");
    let down = ask(Poweroff, PowerRequest::Reboot);
    let is_so = matches!(
        &down,
        Err(EngineError::Control(RequestError::HasShutDown { .. }))
    );
    assert!(is_so, "{down:?}");
}

// ---- replies that are fetched later ---------------------------------------------------------------

/// Submits a request, and runs a monitor until it has nothing to do any more.
fn served(bench: &Bench, world: &World, domid: DomId, envelope: &Envelope) {
    bench.must(world, |host| requests::submit(host, envelope));
    heir(bench, world, domid);
}

#[test]
fn a_reply_waits_for_somebody_who_is_no_process() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    served(&bench, &world, domid, &pause);
    assert!(is_done(&world, domid, &Request::Pause));
    assert_eq!((asked(&world).len(), told(&world)), (0, 1));
    // The same request once more is the same request.
    bench.must(&world, |host| requests::submit(host, &pause));
    assert_eq!((asked(&world).len(), told(&world)), (0, 1));
    let reply = fetch(&bench, &world, pause.id).unwrap();
    assert_eq!(reply.outcome, Outcome::Done(Done::Plain));
    assert_eq!(reply.asker, Some(pause.asker.clone()));
    assert_eq!(fetch(&bench, &world, pause.id), None);
    // Nor is it another request once its reply was fetched.
    bench.must(&world, |host| requests::submit(host, &pause));
    assert_eq!(asked(&world), Vec::<String>::new());
    world.clock.advance(limits::REPLY_KEPT);
    bench.must(&world, |host| recover::all(host, true).map(drop));
    let left = files_in(&world, "/run/xyl/replies/");
    assert_eq!(left, Vec::<String>::new());
}

/// A request with the id of one that waits, or that was begun, is that one.
#[test]
fn a_request_is_added_once() {
    let bench = Bench::new();
    let (world, _) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    for _ in 0..2 {
        bench.must(&world, |host| requests::submit(host, &pause));
        assert_eq!(asked(&world).len(), 1);
    }
    mark_started(&bench, &world, pause.id);
    bench.must(&world, |host| requests::submit(host, &pause));
    assert_eq!(asked(&world).len(), 1);
}

/// What a submit is refused for.
fn refused(bench: &Bench, world: &World, envelope: &Envelope) -> ErrorCode {
    let submit = |host: &mut Host| requests::submit(host, envelope);
    match bench.process(world, None, submit).0 {
        Ended::Well(Err(error)) => error.code(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_that_no_monitor_will_see_is_refused() {
    let bench = Bench::new();
    let world = World::new(256);
    let plan = bench.plan(&bench.config("guest", UUID)).unwrap();
    bench.must(&world, |host| create_planned(host, &plan));
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    assert_eq!(refused(&bench, &world, &pause), ErrorCode::NoMonitor);
    assert_eq!(asked(&world), Vec::<String>::new());
}

#[test]
fn a_full_queue_takes_no_further_request() {
    let bench = Bench::new();
    let (world, _) = guest(&bench);
    for nr in 0..limits::QUEUED_MAX as u64 {
        let envelope = of_remote(nr, now_ms(&world), Request::Pause);
        bench.must(&world, |host| requests::submit(host, &envelope));
    }
    let one_more = of_remote(9999, now_ms(&world), Request::Pause);
    assert_eq!(refused(&bench, &world, &one_more), ErrorCode::QueueFull);
    assert_eq!(asked(&world).len(), limits::QUEUED_MAX);
}

/// A process whose number another process has by now does not wait for its reply.
#[test]
fn a_number_of_a_process_is_not_the_process() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let alive = world.fate(None);
    let pid = bench.host(&world, &alive).process.id();
    let asker = Asker::Process {
        pid,
        started_ticks: Some(u64::MAX),
    };
    let remote = of_remote(1, now_ms(&world), Request::Pause);
    let pause = Envelope { asker, ..remote };
    leave_request(&bench, &world, &pause);
    heir(&bench, &world, domid);
    assert_eq!(told(&world), 0);
}

/// The supervision ends and the domain stays: what waits gets a reply.
#[test]
fn the_end_of_a_monitor_answers_what_waits_for_it() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    bench.must(&world, |host| {
        let text = bench.config("guest", UUID) + "on_poweroff = \"preserve\"\n";
        store::write(&*host.files, &host.dirs, UUID, &text)
    });
    world.shut_down(domid, xen_port::ShutdownReason::Poweroff);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    leave_request(&bench, &world, &pause);
    heir(&bench, &world, domid);
    assert!(info(&world, domid).is_some());
    let reply = fetch(&bench, &world, pause.id).unwrap();
    assert_eq!(code_of(&reply), Some(ErrorCode::NoMonitor));
    assert_eq!(asked(&world), Vec::<String>::new());
}

#[test]
fn a_reply_keeps_the_kind_of_its_error() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let many = of_remote(1, now_ms(&world), Request::Vcpus { nr_vcpus: 99 });
    served(&bench, &world, domid, &many);
    let reply = fetch(&bench, &world, many.id).unwrap();
    let Outcome::Failed(error) = reply.outcome else {
        panic!("{reply:?}")
    };
    assert_eq!(error.code, ErrorCode::VcpusOutOfRange);
    assert_eq!(error.domain, Some(domid.0));
    assert!(error.remedy.is_some());
}

#[test]
fn replies_are_kept_for_a_time_and_only_so_many() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let nr_asked = limits::REPLIES_MAX as u64 + 3;
    for nr in 1..=nr_asked {
        let request = match nr % 2 {
            0 => Request::Pause,
            _ => Request::Unpause,
        };
        let envelope = of_remote(nr, now_ms(&world), request);
        leave_request(&bench, &world, &envelope);
        world.clock.advance(std::time::Duration::from_millis(2));
    }
    heir(&bench, &world, domid);
    assert_eq!(
        (asked(&world).len(), told(&world)),
        (0, limits::REPLIES_MAX)
    );
    let id = |nr| RequestId::new(nr, [0; 16]);
    assert_eq!(fetch(&bench, &world, id(3)), None);
    assert!(fetch(&bench, &world, id(4)).is_some());
    world.clock.advance(limits::REPLY_KEPT);
    bench.must(&world, |host| recover::all(host, true).map(drop));
    assert_eq!(told(&world), 0);
}

#[test]
fn a_request_that_nobody_began_in_time_is_not_done() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    leave_request(&bench, &world, &pause);
    let asker = Asker::Process {
        pid: 99_999,
        started_ticks: None,
    };
    let other = Envelope::new(
        RequestId::new(2, [0; 16]),
        uuid(),
        pause.time_ms,
        asker,
        Request::Pause,
    );
    leave_request(&bench, &world, &other);
    world.clock.advance(limits::REQUEST_LIMIT * 2);
    heir(&bench, &world, domid);
    assert!(!is_done(&world, domid, &Request::Pause));
    let reply = fetch(&bench, &world, pause.id).unwrap();
    assert_eq!(code_of(&reply), Some(ErrorCode::Deadline));
    // Nobody waits for the other one.
    assert_eq!((asked(&world).len(), told(&world)), (0, 0));
}

/// A request that a monitor began and that can be repeated is carried out again, however long ago that was.
#[test]
fn a_request_that_was_begun_long_ago_is_carried_out() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    leave_request(&bench, &world, &pause);
    mark_started(&bench, &world, pause.id);
    world.clock.advance(limits::REQUEST_LIMIT * 2);
    heir(&bench, &world, domid);
    assert!(is_done(&world, domid, &Request::Pause));
    let reply = fetch(&bench, &world, pause.id).unwrap();
    assert_eq!(code_of(&reply), None);
    assert_eq!(asked(&world), Vec::<String>::new());
}

/// A process that ended the VM was about to reply, and died: the request was not begun, so a monitor decides about it as about one
/// that waits.
#[test]
fn a_request_that_a_dead_process_was_about_to_reply_to_was_not_begun() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let sysrq = Request::Sysrq { key: 'h' };
    let request = of_remote(1, now_ms(&world), sysrq.clone());
    leave_request(&bench, &world, &request);
    mark(&bench, &world, request.id, "ended");
    heir(&bench, &world, domid);
    let reply = fetch(&bench, &world, request.id).unwrap();
    assert_eq!(code_of(&reply), None);
    assert!(is_done(&world, domid, &sysrq));
    assert_eq!(asked(&world), Vec::<String>::new());
}

/// Marks a request as begun, by a monitor that has died.
fn mark_started(bench: &Bench, world: &World, id: RequestId) {
    mark(bench, world, id, "started");
}

fn mark(bench: &Bench, world: &World, id: RequestId, word: &str) {
    bench.must(world, |host| {
        let folder = host.dirs.requests(uuid());
        let from = folder.join(format!("{id}.json"));
        let to = folder.join(format!("{id}.{word}.json"));
        host.files.rename(&from, &to).unwrap();
        Ok(())
    });
}

/// A full disk keeps the reply from being written: the request is carried out once, and is gone.
#[test]
fn a_request_whose_reply_has_no_room_is_not_carried_out_twice() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    leave_request(&bench, &world, &pause);
    world.fail_always(LastingFault::full_disk("/run/xyl/replies"));
    heir(&bench, &world, domid);
    assert!(is_done(&world, domid, &Request::Pause));
    assert_eq!(asked(&world), Vec::<String>::new());
    world.lift_faults();
    world.xen.unpause_domain(domid).unwrap();
    heir(&bench, &world, domid);
    assert!(is_done(&world, domid, &Request::Unpause));
}

/// A monitor, and beside it what another process does once the monitor has its lock.
fn beside_a_monitor<T: Send>(
    bench: &Bench,
    (world, domid): (&World, DomId),
    act: impl FnOnce(&mut Host) -> Result<T, EngineError> + Send,
) -> T {
    let turns = Turns::fair(1, &world.clock, 2);
    let watching = world.fate(None).seated(turns.servant(0));
    let acting = world.fate(None).seated(turns.seat(1));
    let vm = Vm {
        domid,
        uuid: uuid(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bench.run(world, watching, |host| {
                monitor::watch(host, vm, &mut |_| ())
            })
        });
        let actor = scope.spawn(|| {
            bench.run(world, acting, |host| {
                while !has_monitor(host) && turns_are_left(host) {}
                act(host)
            })
        });
        match actor.join().unwrap().0 {
            Ended::Well(outcome) => outcome.unwrap(),
            Ended::Killed => panic!("killed"),
        }
    })
}

/// Submits a request while this process has the VM's lock, waits, and calls `then` before it releases the lock.
fn submit_under_lock(
    host: &mut Host,
    envelope: &Envelope,
    wait_s: u64,
    then: impl FnOnce(&RequestQueue<'_>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let path = host.dirs.vm_lock(uuid());
    let lock = host.files.lock(&path, None).unwrap().unwrap();
    requests::submit(host, envelope)?;
    host.wait_for(&[], std::time::Duration::from_secs(wait_s))?;
    then(&RequestQueue::of(host, uuid()))?;
    lock.leave();
    host.wait_for(&[], std::time::Duration::from_secs(10))
        .map(drop)
}

/// Another process has the VM's lock for longer than the monitor waits: the request stays, and is carried out afterwards.
#[test]
fn a_request_waits_while_another_process_has_the_lock() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    beside_a_monitor(&bench, (&world, domid), |host| {
        submit_under_lock(host, &pause, 200, |queue| {
            assert_eq!(queue.standing(pause.id)?, Standing::Waiting);
            Ok(())
        })
    });
    assert!(is_done(&world, domid, &Request::Pause));
    let reply = fetch(&bench, &world, pause.id).unwrap();
    assert_eq!(code_of(&reply), None);
}

/// The monitor waits for the VM's lock, and the request is taken back meanwhile.
#[test]
fn a_request_that_was_taken_back_is_not_carried_out() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    beside_a_monitor(&bench, (&world, domid), |host| {
        submit_under_lock(host, &pause, 10, |queue| {
            assert!(queue.take_back(pause.id)?);
            Ok(())
        })
    });
    assert!(!is_done(&world, domid, &Request::Pause));
    assert_eq!(fetch(&bench, &world, pause.id), None);
}

/// A VM without a domain whose restart is owed: a destroy in its queue ends the VM, and keeps its configuration.
#[test]
fn a_destroy_while_a_restart_is_owed_ends_the_vm() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    world.shut_down(domid, xen_port::ShutdownReason::Reboot);
    world.fail_always(LastingFault::Xen {
        op: "populate_physmap",
        errno: xen_port::Errno::ENOMEM,
    });
    let destroy = of_remote(1, now_ms(&world), Request::Destroy { force: false });
    beside_a_monitor(&bench, (&world, domid), |host| {
        host.wait_for(&[], std::time::Duration::from_secs(10))?;
        assert!(host.hv.domain_info(domid)?.is_none());
        requests::submit(host, &destroy)?;
        host.wait_for(&[], std::time::Duration::from_secs(5))
    });
    let reply = fetch(&bench, &world, destroy.id).unwrap();
    assert_eq!(code_of(&reply), None);
    world.lift_faults();
    heir(&bench, &world, domid);
    let left = world.xen.domain_list().unwrap();
    assert!(left.iter().all(|info| info.handle != uuid().into_bytes()));
    assert_eq!(files_in(&world, "/kept/").len(), 1);
    assert_eq!(files_in(&world, "/watch/"), Vec::<String>::new());
}

/// The monitor dies at each of its calls while it sends a key: the next one says that it may have been sent, or sends it
/// once.
#[test]
fn what_may_have_been_sent_is_not_sent_again() {
    let bench = Bench::new();
    let mut unsure = 0;
    for call in 1.. {
        let (world, domid) = guest(&bench);
        let sysrq = of_remote(1, now_ms(&world), Request::Sysrq { key: 'h' });
        leave_request(&bench, &world, &sysrq);
        let doom = Some((call, Moment::ALL[call as usize % 3]));
        let vm = Vm {
            domid,
            uuid: uuid(),
        };
        let turns = Turns::fair(call, &world.clock, 1);
        let fate = world.fate(doom).seated(turns.servant(0));
        let (_, calls) = bench.run(&world, fate, |host| monitor::watch(host, vm, &mut |_| ()));
        let path = format!("/local/domain/{domid}/control/sysrq");
        let mut store = world.store.client(0).unwrap();
        let was_sent = node(&world, &path).is_some_and(|key| key == "h");
        store.write(&Node::new(&path).unwrap(), b"").unwrap();
        heir(&bench, &world, domid);
        let is_sent_again = node(&world, &path).is_some_and(|key| key == "h");
        assert!(!(was_sent && is_sent_again), "call {call}");
        let reply = fetch(&bench, &world, sysrq.id).unwrap();
        match code_of(&reply) {
            None => assert!(was_sent || is_sent_again, "call {call}"),
            Some(code) => {
                assert_eq!(code, ErrorCode::MonitorLost, "call {call}");
                unsure += 1;
            }
        }
        assert_eq!(asked(&world), Vec::<String>::new(), "call {call}");
        if calls < call {
            break;
        }
    }
    assert!(unsure > 0);
}

/// A request for a VM outlives the VM's domain; one for a domain is answered.
#[test]
fn the_queue_outlives_a_restart() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let rename = |name: &str| Request::Rename {
        name: name.to_owned(),
    };
    let of_vm = of_remote(1, now_ms(&world), rename("other"));
    let of_domain = of_remote(2, now_ms(&world), rename("third")).for_domain(domid.0);
    leave_request(&bench, &world, &of_vm);
    leave_request(&bench, &world, &of_domain);
    world.shut_down(domid, xen_port::ShutdownReason::Reboot);
    heir(&bench, &world, domid);
    let next = world.xen.domain_list().unwrap();
    let next = next.iter().find(|info| info.handle == uuid().into_bytes());
    let next = next.unwrap().domid;
    assert_ne!(next, domid);
    assert!(is_done(&world, next, &rename("other")));
    let reply = fetch(&bench, &world, of_vm.id).unwrap();
    assert_eq!(code_of(&reply), None);
    let reply = fetch(&bench, &world, of_domain.id).unwrap();
    assert_eq!(code_of(&reply), Some(ErrorCode::DomainReplaced));
}

#[test]
fn the_end_of_a_vm_answers_what_waits_for_it() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let pause = of_remote(1, now_ms(&world), Request::Pause);
    let destroy = of_remote(2, now_ms(&world), Request::Destroy { force: false });
    leave_request(&bench, &world, &pause);
    leave_request(&bench, &world, &destroy);
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    assert_eq!(asked(&world), Vec::<String>::new());
    let reply = fetch(&bench, &world, pause.id).unwrap();
    assert_eq!(code_of(&reply), Some(ErrorCode::NoSuchDomain));
    let reply = fetch(&bench, &world, destroy.id).unwrap();
    assert_eq!(code_of(&reply), None);
}

/// The process that ends a VM dies at each of its calls: a VM without supervision has replied to its requests.
#[test]
fn a_vm_that_is_not_supervised_any_more_has_replied() {
    let bench = Bench::new();
    let mut nr_unsupervised = 0;
    for call in 1.. {
        let (world, domid) = guest(&bench);
        let pause = of_remote(1, now_ms(&world), Request::Pause);
        leave_request(&bench, &world, &pause);
        let doom = Some((call, Moment::ALL[call as usize % 3]));
        let (_, calls) = bench.run(&world, world.fate(doom), |host| {
            destroy::destroy(host, domid, false)
        });
        if files_in(&world, "/watch/").is_empty() {
            nr_unsupervised += 1;
            assert!(fetch(&bench, &world, pause.id).is_some(), "call {call}");
        }
        if calls < call {
            break;
        }
    }
    assert!(nr_unsupervised > 1);
}

/// A request comes at each moment of a VM's end: it gets a reply, or its asker gets an error.
#[test]
fn a_request_that_meets_the_end_of_its_vm_gets_one_answer() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let (_, nr_calls) = bench.process(&world, None, |host| destroy::destroy(host, domid, false));
    let (mut nr_replies, mut nr_errors) = (0, 0);
    for seed in 0..600 {
        let (world, domid) = guest(&bench);
        // Most requests come in the last part of the end.
        let delay = (nr_calls + seed % 20).saturating_sub(32);
        let pause = of_remote(1, now_ms(&world), Request::Pause);
        let turns = Turns::fair(seed, &world.clock, 2);
        let ending = world.fate(None).seated(turns.seat(0));
        let asking = world.fate(None).seated(turns.seat(1));
        let submitted = std::thread::scope(|scope| {
            scope.spawn(|| bench.run(&world, ending, |host| destroy::destroy(host, domid, false)));
            let asker = scope.spawn(|| {
                bench.run(&world, asking, |host| {
                    // Each of these is a turn of the other process.
                    for _ in 0..delay {
                        let _ = has_monitor(host);
                    }
                    requests::submit(host, &pause)
                })
            });
            asker.join().unwrap().0
        });
        let reply = fetch(&bench, &world, pause.id);
        match submitted {
            Ended::Well(Ok(())) => {
                nr_replies += 1;
                assert!(reply.is_some(), "seed {seed}");
            }
            Ended::Well(Err(_)) => {
                nr_errors += 1;
                assert_eq!(reply, None, "seed {seed}");
            }
            Ended::Killed => panic!("killed"),
        }
        assert_eq!(asked(&world), Vec::<String>::new(), "seed {seed}");
    }
    assert!(
        nr_replies > 10 && nr_errors > 10,
        "{nr_replies}, {nr_errors}"
    );
}

/// A request whose monitor was not woken: the next recovery wakes it.
#[test]
fn a_recovery_wakes_the_monitor_of_a_request_that_waits() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let turns = Turns::fair(3, &world.clock, 2);
    let watching = world.fate(None).seated(turns.servant(0));
    let other = world.fate(None).seated(turns.seat(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let vm = Vm {
                domid,
                uuid: uuid(),
            };
            bench.run(&world, watching, |host| {
                monitor::watch(host, vm, &mut |_| ())
            })
        });
        scope.spawn(|| {
            bench.run(&world, other, |host| {
                while !has_monitor(host) && turns_are_left(host) {}
                host.wait_for(&[], std::time::Duration::from_secs(10))?;
                let envelope = of_remote(1, now_ms(&world), Request::Pause);
                add_request(host, &envelope)?;
                recover::all(host, true)?;
                host.wait_for(&[], std::time::Duration::from_secs(10))
            })
        });
    });
    assert_eq!(turns.stuck(), None);
    assert!(is_done(&world, domid, &Request::Pause));
}

// ---- what a command costs, and requests of an earlier release -------------------------------------

/// How many requests to xenstored a command makes, from the look-up of the name to its end.
fn cost(host: &mut Host, request: &Request) -> Result<u64, EngineError> {
    let before = host.store.stats().requests;
    let (hv, store, index) = host.directory();
    let found = domains::find(hv, store, &index, &DomainRef::parse("guest"))?;
    requests::ask_for(host, &found.info, request)?;
    Ok(host.store.stats().requests - before)
}

/// The same with a monitor.
fn cost_of_asking(bench: &Bench, request: &Request) -> u64 {
    let (world, domid) = guest(bench);
    let turns = Turns::fair(1, &world.clock, 2);
    let watching = world.fate(None).seated(turns.servant(0));
    let asking = world.fate(None).seated(turns.seat(1));
    let vm = Vm {
        domid,
        uuid: uuid(),
    };
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            bench.run(&world, watching, |host| {
                monitor::watch(host, vm, &mut |_| ())
            })
        });
        let asker = scope.spawn(|| {
            bench.run(&world, asking, |host| {
                while !has_monitor(host) && turns_are_left(host) {}
                host.wait_for(&[], std::time::Duration::from_secs(10))?;
                cost(host, request)
            })
        });
        asker.join().unwrap().0
    });
    assert!(is_done(&world, domid, request));
    match ended {
        Ended::Well(count) => count.unwrap(),
        Ended::Killed => panic!("killed"),
    }
}

#[test]
fn a_request_takes_one_request_to_xenstored_besides_its_change() {
    let bench = Bench::new();
    let rename = Request::Rename {
        name: "other".to_owned(),
    };
    for (request, of_change) in [
        (Request::Pause, 0),
        (Request::Unpause, 0),
        (Request::MemoryTarget { target_kib: 4096 }, 4),
        (Request::MemoryMaximum { max_kib: 16384 }, 4),
        // The transaction, whether the domain is there, its name, and two writes.
        (rename, 6),
    ] {
        let word = request.word();
        assert_eq!(cost_of_asking(&bench, &request), 1, "{word}");
        // Without a monitor the command makes those of the change, and two to find the name, which is in no index.
        let world = World::new(256);
        let plan = bench.plan(&bench.config("guest", UUID)).unwrap();
        bench.must(&world, |host| create_planned(host, &plan));
        let count = bench.must(&world, |host| cost(host, &request));
        assert_eq!(count, 2 + of_change, "{word}");
    }
}

/// The replies in the format of the release before.
fn told_nodes(world: &World) -> Vec<String> {
    let nodes = world.snapshot().nodes;
    let told = nodes
        .keys()
        .filter(|node| node.starts_with("/tool/xyl/told/"));
    told.cloned().collect()
}

/// Requests that a command of the release before has written while its monitor was replaced.
#[test]
fn requests_of_the_release_before_are_carried_out_and_answered() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let alive = world.fate(None);
    let asker = bench.host(&world, &alive).process.id();
    let id = |nr: u64, pid: u32| format!("{:014}-{pid}-{nr:032x}-{}", 1, uuid().simple());
    let write = |id: &str, text: &str| {
        let node = Node::new(&format!("/libxl/{domid}/xyl/asked/{id}")).unwrap();
        let mut store = world.store.client(0).unwrap();
        store.write(&node, text.as_bytes()).unwrap();
    };
    let file = core();
    let dump = format!(
        r#"{{"dump_core":{{"file":"{}","is_live":false}}}}"#,
        file.display()
    );
    let texts = [
        r#""pause""#,
        r#"{"memory_target":{"target_kib":4096}}"#,
        r#"{"rename":{"name":"other"}}"#,
        r#"{"pin":{"vcpus":[0],"hard":{"bytes":[1]},"soft":null,"force":false}}"#,
        r#"{"power":{"request":"Poweroff","fallback":false}}"#,
        r#"{"sysrq":{"key":"h"}}"#,
        &dump,
        r#"{"vcpus":{"nr_vcpus":99}}"#,
        r#""levitate""#,
    ];
    for (nr, text) in (0..).zip(texts) {
        write(&id(nr, asker), text);
    }
    // Of a VM that had this number before, of no VM at all, and of long ago.
    write(&format!("{:014}-{asker}-7-{:032x}", 1, 9), r#""unpause""#);
    write("x", r#""unpause""#);
    write(&id(20, 99_999), r#""unpause""#);
    heir(&bench, &world, domid);
    for request in [
        Request::Pause,
        Request::MemoryTarget { target_kib: 4096 },
        Request::Rename {
            name: "other".to_owned(),
        },
        Request::Sysrq { key: 'h' },
        Request::Power {
            request: PowerRequest::Poweroff,
            fallback: false,
        },
        Request::DumpCore {
            file,
            is_live: false,
        },
    ] {
        assert!(is_done(&world, domid, &request), "{}", request.word());
    }
    let reply = |nr| {
        let text = node(&world, &format!("/tool/xyl/told/{}", id(nr, asker))).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let plainly = serde_json::json!({"done": "plainly"});
    assert_eq!(reply(0), plainly);
    assert_eq!(reply(3), plainly);
    let by_xenstore = serde_json::json!({"done": {"asked": "ByXenstore"}});
    assert_eq!(reply(4), by_xenstore);
    assert!(reply(6)["done"]["dumped"]["nr_pages"].as_u64() > Some(0));
    assert_eq!(reply(7)["failed"]["code"], "vcpus-out-of-range");
    assert_eq!(reply(8)["failed"]["code"], "unknown-request");
    let nodes = world.snapshot().nodes;
    let left = nodes.keys().find(|node| node.contains("/xyl/asked/"));
    assert_eq!(left, None);
    assert_eq!(told_nodes(&world).len(), texts.len());
    // What nobody has taken goes with the next recovery, once its process has died.
    bench.run(&world, alive, |_| Ok(()));
    bench.must(&world, |host| recover::all(host, true).map(drop));
    let left = told_nodes(&world);
    assert_eq!(left, Vec::<String>::new());
}
