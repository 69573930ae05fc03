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

use bench::{Bench, create_planned};
use uuid::Uuid;
use xen_port::{CpuMap, DomId, DomainInfo, Hypervisor, VcpuId};
use xen_sim::{Ended, Fate, Moment, Turns, World};
use xenstore::{Path as Node, Tree};
use xyl_engine::control::power::PowerRequest;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::supervise::monitor::{self};
use xyl_engine::supervise::requests::{self, Asking, Done, Request};
use xyl_engine::vm::Vm;
use xyl_engine::vm::monitor_lock;
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
            watch: &mut |host, _| monitor_lock::want(&*host.files, &host.dirs, uuid()),
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
                // By then the monitor is at its post, or dead.
                while !is_at_its_post(host) && turns_are_left(host) {}
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

fn is_at_its_post(host: &Host) -> bool {
    let watch = host.dirs.watch(uuid());
    host.files.is_locked(&watch).unwrap_or(false)
}

/// A moment for the others; not for ever.
fn turns_are_left(host: &mut Host) -> bool {
    let pause = std::time::Duration::from_millis(10);
    host.wait_for_event(pause).unwrap();
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
                host.wait_for_event(std::time::Duration::from_secs(10))
            })
        });
    });
}

fn asked(world: &World) -> Vec<String> {
    let nodes = world.snapshot().nodes;
    let asked = nodes.keys().filter(|node| node.contains("/xyl/asked/"));
    asked.cloned().collect()
}

fn told(world: &World) -> usize {
    let nodes = world.snapshot().nodes;
    nodes
        .keys()
        .filter(|node| node.starts_with("/tool/xyl/told/"))
        .count()
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
    assert!(why.contains("cannot use 99 vCPUs"), "{why}");
    assert!(
        heard.log[1].contains("cannot use 99 vCPUs"),
        "{:?}",
        heard.log
    );
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
            let is_unsure = matches!(&heard.said, Some(Err(why)) if why.contains("may have been done"))
                && matches!(request, Request::Sysrq { .. });
            assert!(
                is_unsure || matches!(heard.said, Some(Ok(_))) && is_done(&world, domid, &request),
                "{word}, call {call}: {:?}",
                heard.said
            );
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

/// Somebody holds the post and does nothing: a stopped process.
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

/// A node that no xyl has written, or a later one, is no reason to stop.
#[test]
fn what_cannot_be_read_is_answered_and_forgotten() {
    let bench = Bench::new();
    let (world, domid) = guest(&bench);
    let mut store = world.store.client(0).unwrap();
    for (id, text) in [
        ("x", "{}"),
        ("00-99-2", "\"levitate\""),
        ("1-99-3", "\"pause\""),
    ] {
        let node = Node::new(&format!("/libxl/{domid}/xyl/asked/{id}")).unwrap();
        store.write(&node, text.as_bytes()).unwrap();
    }
    let request = Request::Rename {
        name: "other".to_owned(),
    };
    let heard = ask_beside(
        &bench,
        (&world, domid),
        1,
        (None, None),
        &request,
        &Cancel::new(),
    );
    assert!(matches!(heard.said, Some(Ok(_))), "{:?}", heard.said);
    assert_eq!((asked(&world), told(&world)), (vec![], 0));
    assert!(!info(&world, domid).unwrap().flags.paused);
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
    assert!(
        !world
            .snapshot()
            .nodes
            .keys()
            .any(|node| node.contains("/xyl/"))
    );
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
        assert_eq!((asked(&world), told(&world)), (vec![], 0));
        let files = world.disk.paths();
        let left = files
            .iter()
            .find(|path| path.to_string_lossy().contains("/requests/"));
        assert_eq!(left, None);
    }
}

/// Writes a request down as a process that has died since.
fn leave_request(world: &World, domid: DomId, id: &str, request: &Request) {
    let id = format!("{id}-99999-{}", uuid().simple());
    let node = Node::new(&format!("/libxl/{domid}/xyl/asked/{id}")).unwrap();
    let text = serde_json::to_vec(request).unwrap();
    world.store.client(0).unwrap().write(&node, &text).unwrap();
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
    leave_request(&world, domid, "00000000000000", &dump);
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
    let now_ms = 99_999_999_999_999_u64;
    for (place, name) in [(0, "first"), (1, "second")] {
        let name = name.to_owned();
        leave_request(
            &world,
            domid,
            &format!("{:014}", now_ms - 9 + place),
            &Request::Rename { name },
        );
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
    assert!(matches!(done, Ok(Done::Delivered(HasShutDown))), "{done:?}");
    let done = ask(Reboot, PowerRequest::Reboot);
    assert!(matches!(done, Ok(Done::Delivered(HasShutDown))), "{done:?}");
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
