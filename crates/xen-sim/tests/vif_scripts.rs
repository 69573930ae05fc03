//! Network interfaces with a hot-plug script: what the script gets, when it runs, what follows when it fails, and processes that are
//! killed at any call.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bench::Bench;
use os_port::mem::MemLinks;
use os_port::{Launch, LinkName};
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Moment, Snapshot, World};
use xenstore::Tree;
use xenstore::mem::MemStore;
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::monitor;
use xyl_engine::supervise::requests::{self, Done, Needs, Request};
use xyl_engine::vm::{Vm, monitor_lock};
use xyl_engine::{EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const SCRIPT: &str = "/etc/xen/scripts/vif-own";
/// Beginning of the names of what the script leaves on the host.
const RULE: &str = "rule-";

/// How the script behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    /// Its `online` fails, after it has left something on the host.
    Fails,
    /// It ends well and tells of an error.
    Tells,
    /// Its `offline` fails.
    FailsAtEnd,
    /// It does not let netback connect the guest.
    ForgetsStatus,
}

/// A run of the script: its word, and its variables.
type Run = (String, BTreeMap<String, String>);

/// A world with a script.
struct Scripted {
    world: World,
    runs: Arc<Mutex<Vec<Run>>>,
}

fn scripted(bench: &Bench, manner: Manner) -> Scripted {
    let world = World::new(256);
    bench.must(&world, |_| Ok(()));
    world.disk.put(Path::new(SCRIPT), b"#!/bin/sh\n");
    world.disk.sync_all();
    let runs = Arc::new(Mutex::new(Vec::new()));
    let (store, links, seen) = (world.store.clone(), world.links.clone(), runs.clone());
    world.programs.add(Path::new(SCRIPT), move |launch| {
        play(launch, manner, &store, &links, &seen)
    });
    Scripted { world, runs }
}

/// The script: a rule of the host for each interface that it has set up.
fn play(
    launch: &Launch,
    manner: Manner,
    store: &MemStore,
    links: &MemLinks,
    runs: &Mutex<Vec<Run>>,
) -> os_port::Ended {
    let text = |word: &std::ffi::OsString| word.to_str().unwrap().to_owned();
    let variables = launch.script_variables().unwrap().iter();
    let variables: BTreeMap<String, String> = variables
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let words: Vec<String> = launch.arguments().iter().map(text).collect();
    assert_eq!(words[1..], ["type_if=vif"]);
    let backend = format!("/local/domain/0/{}", variables["XENBUS_PATH"]);
    let mut store = store.client(0).unwrap();
    let path = |name: &str| xenstore::Path::new(&format!("{backend}/{name}")).unwrap();
    // As Xen's scripts do: the node is there as long as the backend has the device.
    assert_eq!(store.read(&path("type")).unwrap(), b"vif");
    let name = format!("{RULE}{}", variables["vif"].trim_start_matches("vif"));
    runs.lock().unwrap().push((words[0].clone(), variables));
    let rule = links.all().into_iter().find(|link| link.name == name);
    let is_online = words[0] == "online";
    match (is_online, rule) {
        (true, None) => _ = links.add(&LinkName::parse(&name).unwrap(), Some("dummy")),
        (false, Some(rule)) => _ = links.remove(rule.index),
        _ => {}
    }
    let fails = matches!(
        (manner, is_online),
        (Manner::Fails, true) | (Manner::FailsAtEnd, false)
    );
    if is_online && matches!(manner, Manner::Fails | Manner::Tells) {
        store
            .write(&path("hotplug-error"), b"no such gateway")
            .unwrap();
    } else if is_online && manner != Manner::ForgetsStatus {
        store.write(&path("hotplug-status"), b"connected").unwrap();
    }
    os_port::Ended {
        code: Some(i32::from(fails)),
        errors: b"ip: what it says\n".to_vec(),
    }
}

fn config(bench: &Bench) -> String {
    bench.config("guest", UUID)
        + "vif = [ 'script=vif-own,ip=10.0.0.5,gatewaydev=eth1,bridge=ovsbr0.7:8,vlan=10p', '' ]\n"
}

fn create(bench: &Bench, world: &World) -> Result<DomId, EngineError> {
    let text = config(bench);
    match bench
        .process(world, None, |host| bench.create_from(host, &text))
        .0
    {
        Ended::Well(outcome) => outcome,
        Ended::Killed => panic!("killed"),
    }
}

fn ask(host: &mut Host, domid: DomId, request: &Request) -> Result<Done, EngineError> {
    let info = host.hv.domain_info(domid)?.unwrap();
    requests::ask_for(host, &info, request)
}

fn attach(words: &str) -> Request {
    Request::AttachDevice {
        kind: "vif".to_owned(),
        device: words.to_owned(),
    }
}

fn detach(number: &str) -> Request {
    Request::DetachDevice {
        kind: "vif".to_owned(),
        device: number.to_owned(),
        force: true,
    }
}

fn value(now: &Snapshot, path: &str) -> Option<String> {
    let value = now.nodes.get(path).cloned();
    value.map(|value| String::from_utf8(value).unwrap())
}

/// The words of all runs, with their interfaces.
fn words(scripted: &Scripted) -> Vec<String> {
    let runs = scripted.runs.lock().unwrap();
    let word = |(word, variables): &Run| format!("{word} {}", variables["vif"]);
    runs.iter().map(word).collect()
}

/// The interfaces with rules of the script, and those of the toolstack's own copy that have the script.
fn rules_and_devices(now: &Snapshot) -> [BTreeSet<String>; 2] {
    let rules = now
        .links
        .iter()
        .filter_map(|link| link.name.strip_prefix(RULE));
    let with_script = now.nodes.iter().filter(|(path, value)| {
        path.starts_with("/libxl/") && path.ends_with("/script") && *value == SCRIPT.as_bytes()
    });
    let devices = with_script.map(|(path, _)| {
        let parts: Vec<&str> = path.split('/').collect();
        format!("{}.{}", parts[2], parts[5])
    });
    [rules.map(str::to_owned).collect(), devices.collect()]
}

#[test]
fn a_script_gets_what_xl_gives_it_and_its_interface_the_nodes_of_xl() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Good);
    let world = &scripted.world;
    let domid = create(&bench, world).unwrap();
    let runs = scripted.runs.lock().unwrap().clone();
    assert_eq!(runs.len(), 1);
    let wanted = [
        ("script", SCRIPT.to_owned()),
        ("XENBUS_TYPE", "vif".to_owned()),
        ("XENBUS_PATH", format!("backend/vif/{domid}/0")),
        ("XENBUS_BASE_PATH", "backend".to_owned()),
        ("netdev", "eth1".to_owned()),
        ("vif", format!("vif{domid}.0")),
    ];
    let wanted = wanted.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(runs[0], ("online".to_owned(), BTreeMap::from(wanted)));
    let now = world.snapshot();
    for folder in [
        format!("/local/domain/0/backend/vif/{domid}/0"),
        format!("/libxl/{domid}/device/vif/0"),
    ] {
        for (name, wanted) in [
            ("script", SCRIPT),
            ("ip", "10.0.0.5"),
            ("gatewaydev", "eth1"),
            ("bridge", "ovsbr0.7:8"),
            ("vlan", "10p"),
            ("type", "vif"),
        ] {
            let found = value(&now, &format!("{folder}/{name}"));
            assert_eq!(found.as_deref(), Some(wanted), "{folder}/{name}");
        }
    }
    let mtu = value(&now, &format!("/local/domain/{domid}/device/vif/0/mtu"));
    assert_eq!(mtu.as_deref(), Some("1500"));
    // The script alone changes the host's end. The other interface is a port of the bridge.
    let named = |name: &str| now.links.iter().find(|link| link.name == name).unwrap();
    let own = named(&format!("vif{domid}.0"));
    assert!(!own.is_up && own.master.is_none());
    assert!(named(&format!("vif{domid}.1")).is_up);
}

#[test]
fn a_script_takes_its_interface_down_once_at_each_end() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Good);
    let world = &scripted.world;
    let first = create(&bench, world).unwrap();
    bench.must(world, |host| ask(host, first, &attach("script=vif-own")));
    bench.must(world, |host| ask(host, first, &detach("2")));
    world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let next = bench.must(world, |host| {
        restart::restart(host, uuid, first, false).map(Option::unwrap)
    });
    bench.must(world, |host| destroy::destroy(host, next, false));
    let (first, next) = (format!("vif{first}"), format!("vif{next}"));
    assert_eq!(
        words(&scripted),
        [
            format!("online {first}.0"),
            format!("online {first}.2"),
            format!("offline {first}.2"),
            format!("offline {first}.0"),
            format!("online {next}.0"),
            format!("offline {next}.0"),
        ]
    );
    let [rules, devices] = rules_and_devices(&world.snapshot());
    assert!(rules.is_empty() && devices.is_empty());
}

#[test]
fn a_script_that_fails_fails_the_create_and_leaves_nothing() {
    let bench = Bench::new();
    for manner in [Manner::Fails, Manner::Tells] {
        let scripted = scripted(&bench, manner);
        let world = &scripted.world;
        let before = world.snapshot();
        let error = create(&bench, world).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Network, "{manner:?}");
        assert_eq!(error.step(), Some("attach its devices"));
        let text = error.to_string();
        for word in [
            "vif 0 of domain",
            "online",
            "no such gateway",
            "what it says",
        ] {
            assert!(text.contains(word), "{text}");
        }
        let now = world.snapshot();
        assert_eq!((&now.domains, &now.links), (&before.domains, &before.links));
        let is_of_vif = |node: &&String| node.contains("vif/");
        assert_eq!(now.nodes.keys().find(is_of_vif), None, "{manner:?}");
    }
}

#[test]
fn a_script_that_fails_fails_the_attach_and_leaves_the_guest() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Fails);
    let world = &scripted.world;
    let domid = bench.must(world, |host| bench.create(host, "guest", UUID));
    let before = world.snapshot();
    let refused = bench.must(world, |host| {
        Ok(ask(host, domid, &attach("script=vif-own")).unwrap_err())
    });
    assert_eq!(refused.code(), ErrorCode::Network);
    let now = world.snapshot();
    assert_eq!((&now.domains, &now.links), (&before.domains, &before.links));
    assert_eq!(rules_and_devices(&now), [BTreeSet::new(), BTreeSet::new()]);
    assert_eq!(words(&scripted).len(), 2);
}

/// As with xl: the interface goes in any case.
#[test]
fn a_script_that_fails_at_the_end_keeps_no_interface() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::FailsAtEnd);
    let world = &scripted.world;
    let domid = create(&bench, world).unwrap();
    bench.must(world, |host| destroy::destroy(host, domid, false));
    let [_, devices] = rules_and_devices(&world.snapshot());
    assert!(devices.is_empty());
    assert!(world.snapshot().domains.is_empty());
}

/// It may do so later.
#[test]
fn a_script_that_does_not_let_netback_connect_is_no_failure() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::ForgetsStatus);
    let domid = create(&bench, &scripted.world).unwrap();
    let status = format!("/local/domain/0/backend/vif/{domid}/0/hotplug-status");
    let status = value(&scripted.world.snapshot(), &status);
    assert_eq!(status.as_deref(), Some(""));
}

#[test]
fn a_script_that_is_not_there_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Good);
    let world = &scripted.world;
    let before = world.snapshot();
    let text = config(&bench).replace("vif-own", "vif-none");
    let ended = bench
        .process(world, None, |host| bench.create_from(host, &text))
        .0;
    let Ended::Well(Err(error)) = ended else {
        panic!("not refused");
    };
    assert_eq!((error.code(), error.step()), (ErrorCode::Network, None));
    let now = world.snapshot();
    assert_eq!((&now.domains, &now.nodes), (&before.domains, &before.nodes));
}

/// An act on a domain, if it has one already.
type Act<'a> = &'a dyn Fn(&mut Host, DomId) -> Result<(), EngineError>;

/// Kills an act at every call. After a recovery the host has rules of the script for the interfaces that there are, and for no others.
/// Returns the number of deaths, and of those after the script has run.
fn sweep(bench: &Bench, prepare: &dyn Fn(&World) -> DomId, act: Act<'_>) -> (u64, u64) {
    let (mut deaths, mut after_script) = (0, 0);
    for call in 1.. {
        let mut was_killed = false;
        for moment in Moment::ALL {
            let scripted = scripted(bench, Manner::Good);
            let world = &scripted.world;
            let domid = prepare(world);
            let before = words(&scripted).len();
            let doom = Some((call, moment));
            let ended = bench.process(world, doom, |host| act(host, domid)).0;
            if let Ended::Well(outcome) = ended {
                outcome.unwrap();
                continue;
            }
            (was_killed, deaths) = (true, deaths + 1);
            after_script += u64::from(words(&scripted).len() > before);
            let recovered = bench.must(world, |host| recover::all(host, false));
            let what = format!("killed {moment:?} call {call}: {recovered:?}");
            assert!(recovered.iter().all(|one| !one.has_failed), "{what}");
            let now = world.snapshot();
            let [rules, devices] = rules_and_devices(&now);
            assert_eq!(rules, devices, "{what}");
            for device in &devices {
                let (domid, number) = device.split_once('.').unwrap();
                let status = format!("/local/domain/0/backend/vif/{domid}/{number}/hotplug-status");
                assert_eq!(value(&now, &status).as_deref(), Some("connected"), "{what}");
            }
            for domid in now.domains.keys() {
                bench.must(world, |host| destroy::destroy(host, *domid, false));
            }
            let [rules, devices] = rules_and_devices(&world.snapshot());
            assert!(rules.is_empty() && devices.is_empty(), "{what}");
        }
        if !was_killed {
            break;
        }
    }
    (deaths, after_script)
}

#[test]
fn a_create_can_be_killed_at_any_call() {
    let bench = Bench::new();
    let text = config(&bench);
    let act = |host: &mut Host, _: DomId| bench.create_from(host, &text).map(drop);
    let (deaths, after_script) = sweep(&bench, &|_| DomId::ZERO, &act);
    assert!(deaths > 300 && after_script > 50, "{deaths} {after_script}");
}

#[test]
fn a_destroy_can_be_killed_at_any_call() {
    let bench = Bench::new();
    let prepare = |world: &World| create(&bench, world).unwrap();
    let act = |host: &mut Host, domid: DomId| destroy::destroy(host, domid, false);
    let (deaths, after_script) = sweep(&bench, &prepare, &act);
    assert!(deaths > 50 && after_script > 10, "{deaths} {after_script}");
}

#[test]
fn a_restart_can_be_killed_at_any_call() {
    let bench = Bench::new();
    let uuid = Uuid::parse_str(UUID).unwrap();
    let prepare = |world: &World| {
        let domid = create(&bench, world).unwrap();
        world.shut_down(domid, ShutdownReason::Reboot);
        domid
    };
    let act = |host: &mut Host, domid: DomId| restart::restart(host, uuid, domid, false).map(drop);
    let (deaths, after_script) = sweep(&bench, &prepare, &act);
    assert!(deaths > 300 && after_script > 50, "{deaths} {after_script}");
}

#[test]
fn an_attach_and_a_detach_can_be_killed_at_any_call() {
    let bench = Bench::new();
    let prepare = |world: &World| create(&bench, world).unwrap();
    let add = attach("script=vif-own");
    let act = |host: &mut Host, domid: DomId| ask(host, domid, &add).map(drop);
    let (deaths, after_script) = sweep(&bench, &prepare, &act);
    assert!(deaths > 50 && after_script > 5, "{deaths} {after_script}");
    let act = |host: &mut Host, domid: DomId| ask(host, domid, &detach("0")).map(drop);
    let (deaths, after_script) = sweep(&bench, &prepare, &act);
    assert!(deaths > 30 && after_script > 5, "{deaths} {after_script}");
}

/// A monitor that has given up the right to run scripts.
struct WithoutScripts(Box<dyn os_port::Process>);

impl os_port::Process for WithoutScripts {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn is_running(&self, id: u32) -> bool {
        self.0.is_running(id)
    }

    fn started_ticks(&self, id: u32) -> Option<u64> {
        self.0.started_ticks(id)
    }

    fn new_uuid(&self) -> [u8; 16] {
        self.0.new_uuid()
    }

    fn may_run_scripts(&self) -> bool {
        false
    }
}

fn give_up_scripts(host: &mut Host) {
    let process = std::mem::replace(&mut host.process, Box::new(os_port::SystemProcess));
    host.process = Box::new(WithoutScripts(process));
}

/// It ends before it changes anything. The next process does it.
#[test]
fn a_monitor_without_the_right_leaves_the_interface_to_the_next_process() {
    let bench = Bench::new();
    for reason in [ShutdownReason::Reboot, ShutdownReason::Poweroff] {
        let scripted = scripted(&bench, Manner::Good);
        let world = &scripted.world;
        let domid = create(&bench, world).unwrap();
        let uuid = Uuid::parse_str(UUID).unwrap();
        world.shut_down(domid, reason);
        let ended = bench.must(world, |host| {
            monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
            give_up_scripts(host);
            Ok(monitor::watch(host, Vm { domid, uuid }, &mut |_| ()).unwrap_err())
        });
        assert_eq!(ended.code(), ErrorCode::Network, "{reason:?}");
        assert_eq!(words(&scripted).len(), 1, "{reason:?}");
        let file = format!("/run/xyl/watch/{UUID}");
        assert!(world.snapshot().files.contains_key(Path::new(&file)));
        bench.must(world, |host| recover::all(host, false));
        if reason == ShutdownReason::Poweroff {
            bench.must(world, |host| {
                monitor::watch(host, Vm { domid, uuid }, &mut |_| ())
            });
            assert!(world.snapshot().domains.is_empty());
        }
        let [rules, devices] = rules_and_devices(&world.snapshot());
        assert_eq!(rules, devices, "{reason:?}");
    }
}

/// The guest keeps it until then, so the asker can do it.
#[test]
fn a_monitor_without_the_right_begins_no_detach() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Good);
    let world = &scripted.world;
    let domid = create(&bench, world).unwrap();
    let uuid = Uuid::parse_str(UUID).unwrap();
    let ended = bench.must(world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
        let info = host.hv.domain_info(domid)?.unwrap();
        requests::post(host, &info, &detach("0"))?;
        give_up_scripts(host);
        Ok(monitor::watch(host, Vm { domid, uuid }, &mut |_| ()).unwrap_err())
    });
    assert_eq!(ended.code(), ErrorCode::Network);
    assert_eq!(words(&scripted).len(), 1);
    let now = world.snapshot();
    let online = format!("/local/domain/0/backend/vif/{domid}/0/online");
    assert_eq!(value(&now, &online).as_deref(), Some("1"));
    bench.must(world, |host| ask(host, domid, &detach("0")));
    let [rules, devices] = rules_and_devices(&world.snapshot());
    assert!(rules.is_empty() && devices.is_empty());
}

/// It would be asked for it at each change of the backend.
#[test]
fn a_monitor_without_the_right_ends_when_a_guest_has_let_an_interface_go() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Good);
    let world = &scripted.world;
    let domid = create(&bench, world).unwrap();
    let uuid = Uuid::parse_str(UUID).unwrap();
    let ended = bench.must(world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
        let backend = format!("/local/domain/0/backend/vif/{domid}/0");
        for (path, value) in [
            (format!("/libxl/{domid}/device/vif/0/xyl-detach"), "1"),
            (format!("{backend}/online"), "0"),
            (format!("{backend}/state"), "6"),
        ] {
            let path = xenstore::Path::new(&path).unwrap();
            host.store.write(&path, value.as_bytes())?;
        }
        give_up_scripts(host);
        Ok(monitor::watch(host, Vm { domid, uuid }, &mut |_| ()).unwrap_err())
    });
    assert_eq!(ended.code(), ErrorCode::Network);
    assert_eq!(words(&scripted).len(), 1);
}

#[test]
fn a_request_for_an_interface_with_a_script_says_what_it_needs() {
    let bench = Bench::new();
    let scripted = scripted(&bench, Manner::Good);
    let world = &scripted.world;
    let domid = bench.must(world, |host| bench.create(host, "guest", UUID));
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.must(world, |host| {
        monitor_lock::create_file(&*host.files, &host.dirs, uuid)?;
        let info = host.hv.domain_info(domid)?.unwrap();
        let needs = |links, scripts| Needs {
            links,
            scripts,
            ..Needs::default()
        };
        assert_eq!(requests::needs(host, uuid)?, needs(false, false));
        requests::post(host, &info, &attach("bridge=xenbr0"))?;
        assert_eq!(requests::needs(host, uuid)?, needs(true, false));
        requests::post(host, &info, &attach("script=vif-own"))?;
        assert_eq!(requests::needs(host, uuid)?, needs(true, true));
        Ok(())
    });
}
