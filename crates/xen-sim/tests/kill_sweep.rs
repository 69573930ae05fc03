//! Kills a create, a destroy, a restart and a soft reset at every call that crosses a port, recovers, and looks
//! whether anything is left or lost; kills recoveries too; and shows that the looks find planted faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::{Bench, common};
use uuid::Uuid;
use xen_port::{DomId, GuestKind, Hypervisor, ShutdownReason};
use xen_sim::{Ended, Moment, Sabotage, Snapshot, World};
use xenstore::Tree;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::run;
use xyl_engine::operation::{destroy, restart, soft_reset};
use xyl_engine::recover::{self, Recovered};
use xyl_engine::supervise::status;
use xyl_engine::vm::Vm;
use xyl_engine::{Cancel, EngineError, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";

/// A world with a guest that runs, and that no operation may touch.
fn world_of(bench: &Bench) -> World {
    let world = World::new(256);
    bench.must(&world, |host| bench.create(host, "bystander", OTHER_UUID));
    world
}

/// Files that may stay when a VM is gone: the folders, and libxl's record of recent domids.
fn may_stay(path: &Path) -> bool {
    let folders = [
        "/",
        "/run",
        "/run/xyl",
        "/run/xyl/busy",
        "/run/xyl/doorbell",
        "/run/xyl/vm",
        "/run/xen",
        "/var",
        "/sys",
        "/sys/bus",
        "/sys/bus/xen-backend",
        "/sys/bus/xen-backend/devices",
    ];
    let text = path.to_str().unwrap();
    folders.contains(&text) || text == "/run/xen/domid-history" || {
        let kept = [
            "/var/lib",
            "/var/lib/xyl",
            "/var/lib/xyl/vm",
            "/var/lib/xen",
        ];
        kept.contains(&text)
    }
}

/// No trace of anything beside what was there.
fn left_nothing(now: &Snapshot, then: &Snapshot) -> Result<(), String> {
    let mut faults = now.leaks(then, &may_stay);
    faults.extend(
        now.losses(then)
            .into_iter()
            .filter(|loss| !is_history(loss)),
    );
    // A domid that was used is one that is not given again: its pages are back all the same.
    if now.free_pages != then.free_pages {
        faults.push(format!(
            "{} free pages, not {}",
            now.free_pages, then.free_pages
        ));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("; ")),
    }
}

fn is_history(loss: &str) -> bool {
    loss.contains("/run/xen/domid-history")
}

/// The VM has one domain that runs, with all that belongs to it, and no more.
fn runs(now: &Snapshot, then: &Snapshot) -> Result<(), String> {
    let uuid = Uuid::parse_str(UUID).unwrap();
    let ours: Vec<_> = now
        .domains
        .values()
        .filter(|domain| &domain.handle == uuid.as_bytes())
        .collect();
    let [domain] = ours.as_slice() else {
        return Err(format!("{} domains of the VM", ours.len()));
    };
    let id = domain.domid;
    let mut faults: Vec<String> = Vec::new();
    if domain.flags.paused || domain.cpu_time_ns == 0 || domain.shutdown_reason.is_some() {
        faults.push("it does not run".to_owned());
    }
    let wanted_nodes = [
        (format!("/local/domain/{id}/name"), "guest".to_owned()),
        (format!("/local/domain/{id}/vm"), format!("/vm/{UUID}")),
        (format!("/vm/{UUID}/name"), "guest".to_owned()),
        (format!("/libxl/{id}/type"), "pvh".to_owned()),
    ];
    for (node, value) in wanted_nodes {
        if now.nodes.get(&node).map(Vec::as_slice) != Some(value.as_bytes()) {
            faults.push(format!("{node} is missing"));
        }
    }
    let wanted_files = [
        format!("/var/lib/xyl/vm/{UUID}/config.cfg"),
        format!("/var/lib/xen/userdata-d.{id}.{UUID}.libxl-json"),
        format!("/run/xyl/vm/{UUID}/journal"),
    ];
    for file in &wanted_files {
        if !now.files.contains_key(Path::new(file)) {
            faults.push(format!("{file} is missing"));
        }
    }
    let own = format!("/local/domain/{id}");
    let belongs = |leak: &String| {
        let roots = [
            format!("domain {id}"),
            format!("node {own}"),
            format!("node /vm/{UUID}"),
            format!("node /libxl/{id}"),
            format!("node /local/domain/0/backend/console/{id}"),
            format!("node /local/domain/0/backend/vbd/{id}"),
            format!("node /local/domain/0/backend/vif/{id}"),
            format!("file /sys/bus/xen-backend/devices/vif-{id}-0"),
            format!("file /sys/bus/xen-backend/devices/vbd-{id}-51712"),
            format!("file /sys/bus/xen-backend/devices/vbd-{id}-51728"),
            format!("file /var/lib/xyl/vm/{UUID}"),
            format!("file /run/xyl/vm/{UUID}"),
        ];
        let is_file = wanted_files
            .iter()
            .any(|file| *leak == format!("file {file}"));
        let is_node = roots
            .iter()
            .any(|root| leak == root || leak.starts_with(&format!("{root}/")));
        // Those are counted below.
        let is_counted = ["loop device ", "network interface "]
            .iter()
            .any(|what| leak.starts_with(what));
        is_file || is_counted || (is_node && !leak.ends_with(".new")) || is_shared(leak)
    };
    faults.extend(
        now.leaks(then, &may_stay)
            .into_iter()
            .filter(|leak| !belongs(leak)),
    );
    faults.extend(lacks_disks(now, then, id));
    if !bench::is_bridged(now, id) || now.links.len() != then.links.len() + 1 {
        faults.push(format!("network interfaces: {:?}", now.links));
    }
    faults.extend(
        now.losses(then)
            .into_iter()
            .filter(|loss| !is_history(loss)),
    );
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("; ")),
    }
}

/// What the VM's domain lacks of its disks: each is open in the backend, and one has a loop device.
fn lacks_disks(now: &Snapshot, then: &Snapshot, id: DomId) -> Vec<String> {
    let mut faults = Vec::new();
    for number in [51712, 51728] {
        let state = now
            .nodes
            .get(&format!("/local/domain/0/backend/vbd/{id}/{number}/state"));
        let open = format!("/sys/bus/xen-backend/devices/vbd-{id}-{number}/physical_device");
        if state.map(Vec::as_slice) != Some(b"2") || !now.files.contains_key(Path::new(&open)) {
            faults.push(format!("disk {number} has no backend"));
        }
    }
    let loops = now.loops.iter().filter(|one| one.label.starts_with(UUID));
    if loops.count() != 1 || now.loops.len() != then.loops.len() + 1 {
        faults.push(format!("loop devices: {:?}", now.loops));
    }
    faults
}

/// Folders of xenstore that come with the first domain.
fn is_shared(leak: &str) -> bool {
    [
        "node /vm",
        "node /libxl",
        "node /local/domain/0/backend/console",
    ]
    .contains(&leak)
}

/// What a scenario starts from, does, and may end in.
struct Scenario {
    name: &'static str,
    /// Makes the world as it is before; the domain it is about.
    before: fn(&Bench) -> (World, Option<DomId>),
    act: fn(&Bench, &mut Host, Option<DomId>) -> Result<(), EngineError>,
    /// Whether the VM may be gone, or run, once all is recovered.
    may_be_gone: bool,
    may_run: bool,
}

static SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "create",
        before: |bench| (world_of(bench), None),
        act: |bench, host, _| bench.create(host, "guest", UUID).map(drop),
        may_be_gone: true,
        may_run: true,
    },
    Scenario {
        name: "destroy",
        before: |bench| {
            let world = world_of(bench);
            let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
            (world, Some(domid))
        },
        act: |_, host, domid| destroy::destroy(host, domid.unwrap(), false),
        may_be_gone: true,
        may_run: true,
    },
    Scenario {
        name: "restart",
        before: |bench| ended_guest(bench, ShutdownReason::Reboot),
        act: |_, host, domid| {
            let uuid = Uuid::parse_str(UUID).unwrap();
            restart::restart(host, uuid, domid.unwrap(), false).map(drop)
        },
        may_be_gone: false,
        may_run: true,
    },
    Scenario {
        name: "rename-restart",
        before: |bench| ended_guest(bench, ShutdownReason::Reboot),
        act: |_, host, domid| {
            let uuid = Uuid::parse_str(UUID).unwrap();
            restart::restart(host, uuid, domid.unwrap(), true).map(drop)
        },
        may_be_gone: false,
        may_run: true,
    },
    Scenario {
        name: "soft-reset",
        before: |bench| ended_guest(bench, ShutdownReason::SoftReset),
        act: |_, host, domid| {
            let (domid, uuid) = (domid.unwrap(), Uuid::parse_str(UUID).unwrap());
            let outcome = soft_reset::run(host, Vm { domid, uuid })?;
            assert_eq!(outcome, soft_reset::Outcome::Running);
            Ok(())
        },
        may_be_gone: false,
        may_run: true,
    },
];

fn ended_guest(bench: &Bench, reason: ShutdownReason) -> (World, Option<DomId>) {
    let world = world_of(bench);
    let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
    world.shut_down(domid, reason);
    (world, Some(domid))
}

fn recover(bench: &Bench, world: &World) -> Vec<Recovered> {
    bench.must(world, |host| recover::all(host, false))
}

/// Looks at the world after a death and a recovery. The empty world is the one with the bystander alone.
fn check(
    scenario: &Scenario,
    world: &World,
    empty: &Snapshot,
    before: &Snapshot,
) -> Result<(), String> {
    let mut now = world.snapshot();
    if scenario.name == "rename-restart" {
        // The domain that was set aside is left out of what is compared; it must be the only one.
        forget_aside(&mut now)?;
    }
    if scenario.name == "soft-reset" && !now.domains.keys().eq(before.domains.keys()) {
        return Err("it is another domain".to_owned());
    }
    let gone = left_nothing(&now, empty);
    let running = runs(&now, empty);
    match (gone, running) {
        (Ok(()), _) if scenario.may_be_gone => Ok(()),
        (_, Ok(())) if scenario.may_run => Ok(()),
        // Killed before anything had happened: all is as before.
        _ if now.domains == before.domains
            && now.nodes == before.nodes
            && has_same_files(&now, before) =>
        {
            Ok(())
        }
        (Err(gone), Err(running)) => Err(format!("not gone: {gone}\nnot running: {running}")),
        (gone, running) => Err(format!("{gone:?} {running:?}")),
    }
}

/// Whether there are the same files. The file of libxl's lock stays when its holder is killed, as with libxl; the destroy of the
/// domain removes it.
fn has_same_files(now: &Snapshot, before: &Snapshot) -> bool {
    let history = Path::new("/run/xen/domid-history");
    let is_libxls_lock = |path: &Path| path.to_string_lossy().ends_with(".domain-userdata-lock");
    let keys = |snapshot: &Snapshot| {
        let mut keys: Vec<_> = snapshot.files.keys().cloned().collect();
        keys.retain(|key| key != history && !is_libxls_lock(key));
        keys
    };
    keys(now) == keys(before)
}

fn forget_aside(now: &mut Snapshot) -> Result<(), String> {
    let known = [UUID, OTHER_UUID].map(|uuid| Uuid::parse_str(uuid).unwrap().into_bytes());
    let aside: Vec<_> = now
        .domains
        .values()
        .filter(|domain| !known.contains(&domain.handle))
        .map(|domain| (domain.domid, Uuid::from_bytes(domain.handle)))
        .collect();
    for (id, uuid) in &aside {
        let name = now.nodes.get(&format!("/local/domain/{id}/name")).cloned();
        let name = String::from_utf8(name.unwrap_or_default()).unwrap();
        if !name.starts_with("guest-2026") {
            return Err(format!("the domain that was set aside is called `{name}`"));
        }
        let vm = format!("/vm/{}", uuid.hyphenated());
        now.nodes.retain(|node, _| {
            let of_domain = node.starts_with(&format!("/local/domain/{id}/"))
                || *node == format!("/local/domain/{id}");
            let of_libxl = node.starts_with(&format!("/libxl/{id}"))
                || node.starts_with(&format!("/local/domain/0/backend/console/{id}"));
            !(of_domain || of_libxl || node.starts_with(&vm))
        });
        now.domains.remove(id);
    }
    match aside.len() {
        0 | 1 => Ok(()),
        more => Err(format!("{more} domains were set aside")),
    }
}

fn snapshot_of_empty(bench: &Bench) -> Snapshot {
    world_of(bench).snapshot()
}

/// Every call, each moment of it; how many deaths that were, or what was found.
fn sweep(bench: &Bench, sound: &Bench, scenario: &Scenario) -> Result<u64, String> {
    let empty = snapshot_of_empty(sound);
    let mut deaths = 0;
    for call in 1.. {
        let (mut killed, mut has_parts) = (false, true);
        for moment in Moment::ALL {
            if moment == Moment::Midway && !has_parts {
                continue;
            }
            let (world, domid) = (scenario.before)(sound);
            let before = world.snapshot();
            let doom = Some((call, moment));
            let fate = world.fate(doom).with(bench.sabotage);
            let act = || (scenario.act)(bench, &mut bench.host(&world, &fate), domid);
            match fate.run(act) {
                Ended::Killed => {
                    has_parts = fate.died_at_parts();
                    killed = true;
                    deaths += 1;
                    let told = recover(bench, &world);
                    check(scenario, &world, &empty, &before).map_err(|fault| {
                        let name = scenario.name;
                        format!("{name} killed {moment:?} call {call}, then {told:?}:\n{fault}")
                    })?;
                    // What was recovered stays recovered.
                    let again = recover(bench, &world);
                    if !again.is_empty() || told.iter().any(|one| one.has_failed) {
                        return Err(format!("{told:?}, then {again:?}"));
                    }
                }
                Ended::Well(outcome) => {
                    outcome.map_err(|error| error.to_string())?;
                    check(scenario, &world, &empty, &before)?;
                }
            }
        }
        if !killed {
            break;
        }
    }
    Ok(deaths)
}

/// The scenarios but for the soft reset, or that one alone.
fn scenarios(is_soft_reset: bool) -> impl Iterator<Item = &'static Scenario> {
    let wanted = move |one: &&Scenario| (one.name == "soft-reset") == is_soft_reset;
    SCENARIOS.iter().filter(wanted)
}

#[test]
fn an_operation_can_be_killed_at_any_call() {
    kill_at_any_call(scenarios(false));
}

#[test]
fn a_soft_reset_can_be_killed_at_any_call() {
    kill_at_any_call(scenarios(true));
}

fn kill_at_any_call(scenarios: impl Iterator<Item = &'static Scenario>) {
    let bench = Bench::with_devices();
    for scenario in scenarios {
        let begun = std::time::Instant::now();
        let deaths = sweep(&bench, &bench, scenario).unwrap();
        println!("{}: {deaths} deaths, {:?}", scenario.name, begun.elapsed());
        assert!(deaths > 50, "{}: {deaths}", scenario.name);
    }
}

#[test]
fn a_recovery_can_be_killed_at_any_call() {
    kill_any_recovery(scenarios(false));
}

#[test]
fn the_recovery_of_a_soft_reset_can_be_killed_at_any_call() {
    kill_any_recovery(scenarios(true));
}

fn kill_any_recovery(scenarios: impl Iterator<Item = &'static Scenario>) {
    let bench = Bench::with_devices();
    let empty = snapshot_of_empty(&bench);
    for scenario in scenarios {
        let mut deaths = 0;
        for call in (1..).step_by(stride(7)) {
            let is_over = kill_recoveries(&bench, scenario, call, &empty, &mut deaths);
            if is_over {
                break;
            }
        }
        println!("{}: {deaths} deaths in recoveries", scenario.name);
        assert!(deaths > 10, "{}: {deaths}", scenario.name);
    }
}

/// Every call with `XYL_SIM_FULL`, which takes minutes; else one of so many, which shifts from one
/// recovery to the next.
fn stride(calls: usize) -> usize {
    match std::env::var_os("XYL_SIM_FULL") {
        Some(_) => 1,
        None => calls,
    }
}

fn kill_recoveries(
    bench: &Bench,
    scenario: &Scenario,
    call: u64,
    empty: &Snapshot,
    deaths: &mut u64,
) -> bool {
    for second in (1 + call % 3..).step_by(stride(5)) {
        let (world, domid) = (scenario.before)(bench);
        let before = world.snapshot();
        let moment = Moment::ALL[(call % 3) as usize];
        let act = |host: &mut Host| (scenario.act)(bench, host, domid);
        if let Ended::Well(_) = bench.process(&world, Some((call, moment)), act).0 {
            return true;
        }
        let moment = Moment::ALL[(second % 3) as usize];
        let again = |host: &mut Host| recover::all(host, false);
        let ended = bench.process(&world, Some((second, moment)), again).0;
        let was_killed = matches!(ended, Ended::Killed);
        *deaths += u64::from(was_killed);
        let told = recover(bench, &world);
        if let Err(fault) = check(scenario, &world, empty, &before) {
            panic!(
                "{} killed at call {call}, its recovery at {second}, then {told:?}:\n{fault}",
                scenario.name
            );
        }
        if !was_killed {
            return false;
        }
    }
    false
}

#[test]
fn the_next_operation_on_the_vm_recovers_it_too() {
    let bench = Bench::with_devices();
    for call in (1..).step_by(5) {
        let world = world_of(&bench);
        let act = |host: &mut Host| bench.create(host, "guest", UUID);
        if let Ended::Well(_) = bench.process(&world, Some((call, Moment::After)), act).0 {
            break;
        }
        // The same create once more: either it gets through, or the first one had been finished.
        let again = bench.process(&world, None, act).0;
        match again {
            Ended::Well(Ok(_) | Err(EngineError::UuidTaken { .. })) => {}
            other => panic!("call {call}: {other:?}"),
        }
        runs(&world.snapshot(), &snapshot_of_empty(&bench)).unwrap();
    }
}

#[test]
fn a_number_that_is_anothers_by_now_is_left_alone() {
    let bench = Bench::with_devices();
    for call in 1.. {
        let (world, domid) = (SCENARIOS[1].before)(&bench);
        let act = |host: &mut Host| destroy::destroy(host, domid.unwrap(), false);
        if let Ended::Well(_) = bench.process(&world, Some((call, Moment::After)), act).0 {
            break;
        }
        if world.xen.domain(domid.unwrap()).is_some() {
            continue;
        }
        // The domain has ended, and another VM gets its number before anybody recovers.
        world.clock.advance(Duration::from_secs(120));
        world.xen.set_next_domid(domid.unwrap());
        let third = "6a1d0c4e-0000-4000-8000-000000000003";
        let number = bench.must(&world, |host| bench.create(host, "third", third));
        assert_eq!(Some(number), domid);
        let before = world.snapshot();
        recover(&bench, &world);
        let losses = world.snapshot().losses(&before);
        assert!(
            losses
                .iter()
                .all(|loss| loss.contains(UUID) || is_history(loss)),
            "{losses:?}"
        );
    }
}

// ---- cancels, and journals that cannot be trusted -----------------------------------------------------

#[test]
fn another_process_can_cancel_a_create() {
    let bench = Bench::with_devices();
    let world = world_of(&bench);
    let text = bench.config("guest", UUID);
    let planned = bench.plan(&text).unwrap();
    let ask = |host: &mut Host| {
        let vms = status::all(&*host.files, &host.dirs)?;
        let under_way = vms.iter().find_map(|vm| vm.past().under_way().cloned());
        let id = under_way.unwrap().begin.id;
        run::ask_to_cancel(
            &*host.files,
            &host.dirs,
            Uuid::parse_str(UUID).unwrap(),
            &id,
        )
    };
    let (ended, _) = bench.process(&world, None, |host| {
        let mut request = CreateRequest {
            spec: &planned.spec,
            config_text: &planned.config_text(),
            paused: false,
            process_ends: false,
            watch: &mut |_, _| Ok(()),
            // All is there but the start.
            before_start: &mut |_, _| {
                bench.must(&world, ask);
                Ok(())
            },
            notice: &mut |_| (),
        };
        create(host, &mut request, &Cancel::new())
    });
    let Ended::Well(Err(error)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.to_string(), "start it: cancelled");
    left_nothing(&world.snapshot(), &snapshot_of_empty(&bench)).unwrap();
}

fn journal() -> PathBuf {
    Path::new("/run/xyl/vm").join(UUID).join("journal")
}

/// A byte in the middle of the journal changes.
fn damage(world: &World) {
    let mut bytes = world.disk.contents(&journal()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.disk.put(&journal(), &bytes);
}

#[test]
fn a_damaged_journal_is_set_aside_and_xen_decides() {
    let bench = Bench::with_devices();
    let empty = snapshot_of_empty(&bench);
    let mut deaths = 0;
    for call in (20..).step_by(9) {
        let world = world_of(&bench);
        let act = |host: &mut Host| bench.create(host, "guest", UUID);
        let ended = bench.process(&world, Some((call, Moment::After)), act).0;
        let was_killed = matches!(ended, Ended::Killed);
        if world
            .disk
            .contents(&journal())
            .is_none_or(|bytes| bytes.is_empty())
        {
            continue;
        }
        damage(&world);
        let told = bench.must(&world, |host| recover::all(host, true));
        assert!(told[0].has_failed, "{told:?}");
        let aside = Path::new("/run/xyl/damaged").join(UUID);
        assert!(world.disk.contents(&aside).is_some());
        // The evidence stays; nothing else may.
        let life = os_port::mem::Life::new(0);
        let folder = Path::new("/run/xyl/damaged");
        os_port::Files::remove_folder(&world.disk.of(&life), folder).unwrap();
        bench.must(&world, |host| recover::all(host, true));
        let now = world.snapshot();
        let has_run = now
            .domains
            .values()
            .any(|one| one.handle == *Uuid::parse_str(UUID).unwrap().as_bytes());
        match has_run {
            // Its journal is gone with the damage, its domain is as it was.
            true => assert!(!was_killed || now.nodes.contains_key(&format!("/vm/{UUID}/name"))),
            false => left_nothing(&now, &empty).unwrap(),
        }
        deaths += u64::from(was_killed);
        if !was_killed {
            assert!(has_run);
            break;
        }
    }
    assert!(deaths > 5, "{deaths}");
}

#[test]
fn a_journal_of_a_newer_version_is_left_alone() {
    let bench = Bench::with_devices();
    let (world, domid) = (SCENARIOS[1].before)(&bench);
    let newer = b"xyl-journal 3\nwhatever\n";
    world.disk.put(&journal(), newer);
    let before = world.snapshot();
    let act = |host: &mut Host| destroy::destroy(host, domid.unwrap(), false);
    let Ended::Well(Err(error)) = bench.process(&world, None, act).0 else {
        panic!("destroyed");
    };
    assert!(
        matches!(error, EngineError::UnknownFormat { .. }),
        "{error}"
    );
    let told = recover(&bench, &world);
    assert!(told[0].has_failed, "{told:?}");
    assert_eq!(world.disk.contents(&journal()).unwrap(), newer);
    let now = world.snapshot();
    assert_eq!((now.domains, now.nodes), (before.domains, before.nodes));
}

/// What a create adds to the disk beside the records that it always wrote.
#[test]
fn a_create_costs_one_write_for_each_step() {
    let bench = Bench::with_devices();
    let (world, _) = (SCENARIOS[1].before)(&bench);
    let text = String::from_utf8(world.disk.contents(&journal()).unwrap()).unwrap();
    let steps = text
        .lines()
        .filter(|line| line.contains("{\"step\""))
        .count();
    // The first line, the beginning, two records for each step, the end.
    assert_eq!(text.lines().count(), 3 + 2 * steps);
    assert!(text.len() < 4096, "{} bytes", text.len());
}

// ---- the looks find faults ---------------------------------------------------------------------------

/// The sweep over an engine in which an undo is missing, or the journal comes too late. A late journal does no harm to a soft
/// reset: each of its steps first looks what is done already.
#[test]
fn faults_in_the_engine_are_found() {
    let sound = Bench::with_devices();
    let mutants = [
        ("create", Sabotage::Forget("destroy_domain")),
        ("create", Sabotage::Forget("remove_folder")),
        ("create", Sabotage::Forget("unpause_domain")),
        ("create", Sabotage::Forget("change_link")),
        ("destroy", Sabotage::Forget("remove")),
        ("destroy", Sabotage::Forget("remove_folder")),
        ("destroy", Sabotage::WriteLate),
        ("restart", Sabotage::WriteLate),
        ("soft-reset", Sabotage::Forget("unpause_domain")),
    ];
    for (name, sabotage) in mutants {
        let mut mutant = Bench::with_devices();
        mutant.sabotage = Some(sabotage);
        let scenario = SCENARIOS.iter().find(|one| one.name == name).unwrap();
        let found = sweep(&mutant, &sound, scenario);
        let fault = found.expect_err("unnoticed");
        println!("{name}, {sabotage:?}: {}", fault.lines().next().unwrap());
    }
}

/// Worlds in which something was forgotten, as by a missing undo, or done in the wrong order.
#[test]
fn planted_faults_are_found() {
    let bench = Bench::with_devices();
    let empty = snapshot_of_empty(&bench);
    let made = || {
        let world = world_of(&bench);
        let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
        (world, domid)
    };
    let (world, _) = made();
    runs(&world.snapshot(), &empty).unwrap();
    assert!(left_nothing(&world.snapshot(), &empty).is_err());

    type Plant = fn(&World, DomId);
    let of_running: [(&str, Plant); 6] = [
        ("never unpaused", |world, id| {
            world.xen.pause_domain(id).unwrap()
        }),
        ("no record", |world, _| {
            remove(world, &format!("/var/lib/xyl/vm/{UUID}/config.cfg"))
        }),
        ("a half-written file", |world, _| {
            world
                .disk
                .put(Path::new("/var/lib/xen/userdata-n.9.x"), b"{")
        }),
        ("a lock's file", |world, _| {
            world.disk.put(Path::new("/run/xyl/busy/name-guest"), b"")
        }),
        ("a node", |world, _| write(world, "/local/domain/77/name")),
        ("a second domain", |world, id| {
            let handle = world.xen.domain(id).unwrap().handle;
            let extra = extra_domain(world);
            world.xen.set_domain_handle(extra, handle).unwrap();
        }),
    ];
    for (what, plant) in of_running {
        let (world, domid) = made();
        plant(&world, domid);
        assert!(runs(&world.snapshot(), &empty).is_err(), "{what}");
    }
    let of_gone: [(&str, Plant); 5] = [
        ("a domain", |world, _| {
            extra_domain(world);
        }),
        ("a folder", |world, _| {
            world.disk.put(Path::new("/run/xyl/vm/u/journal"), b"")
        }),
        ("a node", |world, _| write(world, &format!("/vm/{UUID}"))),
        ("the bystander paused", |world, id| {
            world.xen.pause_domain(id).unwrap()
        }),
        ("the bystander destroyed", |world, id| {
            let now = std::time::Instant::now();
            world.xen.destroy_domain(id, now).unwrap();
        }),
    ];
    for (what, plant) in of_gone {
        let world = world_of(&bench);
        let bystander = *world.snapshot().domains.keys().next_back().unwrap();
        left_nothing(&world.snapshot(), &empty).unwrap();
        plant(&world, bystander);
        assert!(left_nothing(&world.snapshot(), &empty).is_err(), "{what}");
    }
}

fn remove(world: &World, path: &str) {
    let life = os_port::mem::Life::new(0);
    os_port::Files::remove(&world.disk.of(&life), Path::new(path)).unwrap();
}

fn write(world: &World, path: &str) {
    let mut client = world.store.client(0).unwrap();
    client
        .write(&xenstore::Path::new(path).unwrap(), b"x")
        .unwrap();
}

fn extra_domain(world: &World) -> DomId {
    common::new_domain(&world.xen, GuestKind::Pvh, 4096)
}
