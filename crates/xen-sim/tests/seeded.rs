//! Runs that a seed decides: operations on several VMs, with processes killed, calls that fail, guests that misbehave and
//! numbers used again in the middle; and every error of every call, one after the other.
//!
//! `XYL_SIM_SEEDS=N` runs so many seeds from `XYL_SIM_FROM` on; `XYL_SIM_SEED=S` runs one and tells what happens in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;
#[path = "bench/checks.rs"]
mod checks;

use std::cell::Cell;
use std::time::Duration;

use bench::seeds::{Dice, number_of, run_seeds};
use bench::{Bench, create_planned};
use uuid::Uuid;
use xen_port::{DomId, ShutdownReason};
use xen_sim::{Ended, Fault, Moment, Sabotage, Snapshot, World};
use xenstore::{Path as Node, Tree};
use xyl_engine::config::plan::Planned;
use xyl_engine::operation::soft_reset::{self, Outcome};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::Vm;
use xyl_engine::{EngineError, Host};

const BYSTANDER: &str = "6a1d0c4e-0000-4000-8000-0000000000ff";
const UUIDS: [&str; 3] = [
    "6a1d0c4e-0000-4000-8000-000000000001",
    "6a1d0c4e-0000-4000-8000-000000000002",
    "6a1d0c4e-0000-4000-8000-000000000003",
];
const NAMES: [&str; 3] = ["ash", "beech", "cedar"];
const OTHER_NAMES: [&str; 3] = ["alder", "birch", "cherry"];

/// Runs in plain `cargo test`; `cargo xtask test` asks for many more.
const SEEDS: u64 = 200;
/// Operations of a run.
const OPERATIONS: u64 = 4;

// ---- what is done, and what goes wrong ------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Create,
    Destroy,
    Pause,
    Unpause,
    Rename,
    Restart,
    RenameRestart,
    SoftReset,
}

const OPERATIONS_ALL: [Operation; 8] = [
    Operation::Create,
    Operation::Destroy,
    Operation::Pause,
    Operation::Unpause,
    Operation::Rename,
    Operation::Restart,
    Operation::RenameRestart,
    Operation::SoftReset,
];

impl Operation {
    /// Number of calls that it makes when all goes well, or a few more. The seeds kill and fail any of them.
    fn usual_calls(self) -> u64 {
        match self {
            Operation::Create => 360,
            Operation::Destroy => 128,
            Operation::Pause | Operation::Unpause => 12,
            Operation::Rename => 26,
            Operation::Restart | Operation::RenameRestart => 510,
            Operation::SoftReset => 410,
        }
    }
}

/// What a guest does in the middle of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hostility {
    Garbage,
    Bloat,
    Remove,
    Devices,
    OpenPorts,
    ShutDown(ShutdownReason),
}

const HOSTILITIES: [Hostility; 9] = [
    Hostility::Garbage,
    Hostility::Bloat,
    Hostility::Remove,
    Hostility::Devices,
    Hostility::OpenPorts,
    Hostility::ShutDown(ShutdownReason::Poweroff),
    Hostility::ShutDown(ShutdownReason::Reboot),
    Hostility::ShutDown(ShutdownReason::Crash),
    Hostility::ShutDown(ShutdownReason::SoftReset),
];

/// What goes wrong with one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Trouble {
    doom: Option<(u64, Moment)>,
    fault: Option<Fault>,
    hostility: Option<(u64, Hostility)>,
    /// Another VM gets the number of the target's domain, where that is free, before anybody recovers.
    reuse: bool,
    /// Kills of the recoveries that follow.
    recoveries: Vec<(u64, Moment)>,
}

impl Trouble {
    fn by_chance(dice: &mut Dice, operation: Operation) -> Trouble {
        let limit = operation.usual_calls();
        let doom = |dice: &mut Dice| (1 + dice.below(limit), dice.of(&Moment::ALL));
        let mut trouble = Trouble::default();
        match dice.below(4) {
            0 => {}
            1 | 2 => trouble.doom = Some(doom(dice)),
            _ => {
                let call = doom(dice).0;
                let choice = dice.below(4) as usize;
                trouble.fault = Some(Fault { call, choice });
            }
        }
        if dice.percent(25) {
            // Half of them while the guest still runs that a restart or destroy ends.
            let call = match dice.percent(50) {
                true => 1 + dice.below(limit.min(30)),
                false => doom(dice).0,
            };
            trouble.hostility = Some((call, dice.of(&HOSTILITIES)));
        }
        trouble.reuse = dice.percent(10);
        while trouble.doom.is_some() && trouble.recoveries.len() < 3 && dice.percent(40) {
            trouble.recoveries.push(doom(dice));
        }
        trouble
    }
}

/// A guest does it, with no more rights than it has.
fn be_hostile(world: &World, domid: DomId, how: Hostility) {
    if let Hostility::ShutDown(reason) = how {
        return world.shut_down(domid, reason);
    }
    if how == Hostility::OpenPorts {
        return (0..3).for_each(|_| world.xen.open_port(domid, DomId::ZERO));
    }
    let Ok(mut client) = world.store.client(domid.0) else {
        return;
    };
    let home = format!("/local/domain/{domid}");
    let mut write = |below: &str, value: &[u8]| {
        let path = Node::new(&format!("{home}/{below}")).unwrap();
        // What it may not do is refused.
        let _ = client.write(&path, value);
    };
    match how {
        Hostility::Garbage => {
            for node in [
                "data/x",
                "control/shutdown",
                "name",
                "vm",
                "console/tty",
                "memory/target",
            ] {
                write(node, b"\xff/../%s");
            }
        }
        Hostility::Bloat => (0..60).for_each(|n| write(&format!("data/{n}"), &[b'x'; 1500])),
        Hostility::Devices => {
            for node in [
                "data/vif/0",
                "device/vif/0/backend",
                "data/vbd/51712",
                "device/vbd/51728/backend",
                "device/vbd/51728/frontend",
            ] {
                write(node, b"/local/domain/0/backend/vif/0/0");
            }
            let path = Node::new(&format!("{home}/device/vbd/51712")).unwrap();
            let _ = client.rm(&path);
        }
        _ => {
            for below in [
                "",
                "/control",
                "/data",
                "/device",
                "/console",
                "/control/shutdown",
            ] {
                let path = Node::new(&format!("{home}{below}")).unwrap();
                let _ = client.rm(&path);
            }
        }
    }
}

// ---- a run ------------------------------------------------------------------------------------------------

/// How an operation went.
#[derive(Clone, Copy, Debug)]
struct Failure {
    is_there: bool,
    /// One of its calls failed; else it was killed, if anything.
    is_of_a_call: bool,
    /// The guest shut itself down meanwhile.
    stopped: bool,
}

/// What is known of a VM between two operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    domid: Option<DomId>,
    paused: bool,
    has_ended: bool,
}

struct Run<'a> {
    bench: &'a Bench,
    /// The same without a fault in the engine: for what is no subject of the run.
    sound: &'a Bench,
    plans: &'a [Planned],
    world: std::rc::Rc<World>,
    start: Snapshot,
    bystander: DomId,
    seen: [Seen; 3],
    tells: bool,
    /// Calls of the last operation.
    last_calls: u64,
    given: Option<String>,
}

impl<'a> Run<'a> {
    fn new(bench: &'a Bench, sound: &'a Bench, plans: &'a [Planned]) -> Run<'a> {
        let world = World::new(256);
        let bystander = sound.must(&world, |host| create_planned(host, &plans[3]));
        Run {
            bench,
            sound,
            plans,
            start: world.snapshot(),
            world: std::rc::Rc::new(world),
            bystander,
            seen: [Seen::default(); 3],
            tells: false,
            last_calls: 0,
            given: None,
        }
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if self.tells {
            println!("  {}", text());
        }
    }

    /// What can be done with a VM as it is.
    fn possible(&self, vm: usize) -> &'static [Operation] {
        use Operation::*;
        match self.seen[vm] {
            Seen { domid: None, .. } => &[Create],
            Seen {
                has_ended: true, ..
            } => &[Destroy, Restart, RenameRestart],
            Seen { paused: true, .. } => &[Destroy, Unpause, Rename],
            _ if vm == PV => &[Destroy, Pause, Rename, Restart, RenameRestart],
            _ => &[Destroy, Pause, Rename, Restart, RenameRestart, SoftReset],
        }
    }

    /// Brings a VM into a state from which an operation starts.
    fn prepare(&mut self, vm: usize, operation: Operation) -> Result<(), String> {
        use Operation::*;
        let quiet = Trouble::default();
        if operation != Create && self.seen[vm].domid.is_none() {
            self.step(vm, Create, &quiet)?;
        }
        if operation == Unpause {
            self.step(vm, Pause, &quiet)?;
        }
        Ok(())
    }

    fn act(
        host: &mut Host,
        operation: Operation,
        uuid: Uuid,
        domid: Option<DomId>,
        plan: &Planned,
        new_name: &str,
    ) -> Result<(), EngineError> {
        let old = || domid.ok_or_else(|| EngineError::NoSuchDomain("none".to_owned()));
        match operation {
            Operation::Create => create_planned(host, plan).map(drop),
            Operation::Destroy => destroy::destroy(host, old()?, false),
            Operation::Pause => ask(host, old()?, &Request::Pause),
            Operation::Unpause => ask(host, old()?, &Request::Unpause),
            Operation::Rename => {
                let name = new_name.to_owned();
                ask(host, old()?, &Request::Rename { name })
            }
            Operation::Restart => restart::restart(host, uuid, old()?, false).map(drop),
            Operation::RenameRestart => restart::restart(host, uuid, old()?, true).map(drop),
            Operation::SoftReset => reset(host, uuid, old()?),
        }
    }

    /// One operation with what goes wrong, the recoveries, and the look at what has become of it.
    fn step(&mut self, vm: usize, operation: Operation, trouble: &Trouble) -> Result<(), String> {
        let uuid = Uuid::parse_str(UUIDS[vm]).unwrap();
        let before = self.seen[vm];
        self.tell(|| format!("{operation:?} of {}: {trouble:?}", NAMES[vm]));
        let world = std::rc::Rc::clone(&self.world);
        match (operation, before.domid, before.has_ended) {
            (Operation::Restart | Operation::RenameRestart, Some(domid), false) => {
                world.shut_down(domid, ShutdownReason::Reboot);
            }
            (Operation::SoftReset, Some(domid), false) => {
                world.shut_down(domid, ShutdownReason::SoftReset);
            }
            _ => {}
        }
        let mut fate = world.fate(trouble.doom).with_fault(trouble.fault);
        let was_hostile = std::rc::Rc::new(Cell::new(None));
        if let (Some((call, how)), Some(domid)) = (trouble.hostility, before.domid) {
            let (world, was_hostile) =
                (std::rc::Rc::clone(&world), std::rc::Rc::clone(&was_hostile));
            let act = move || {
                if world.xen.domain(domid).is_some() {
                    was_hostile.set(Some(how));
                    be_hostile(&world, domid, how);
                }
            };
            fate = fate.interrupted(call, Box::new(act));
        }
        let plan = &self.plans[vm];
        let clone = fate.clone();
        let (ended, calls) = self.bench.run(&world, fate, |host| {
            Run::act(host, operation, uuid, before.domid, plan, OTHER_NAMES[vm])
        });
        self.last_calls = calls;
        self.given = clone.given_fault();
        let failure = match &ended {
            Ended::Well(Ok(())) => None,
            Ended::Well(Err(error)) => Some(error.to_string()),
            Ended::Killed => Some("killed".to_owned()),
        };
        let hostility = was_hostile.get();
        self.tell(|| {
            format!(
                "  {calls} calls, {failure:?}, given {:?}, {hostility:?}",
                self.given
            )
        });
        let is_alone = trouble.doom.is_none() && self.given.is_none();
        let stopped = matches!(hostility, Some(Hostility::ShutDown(_)));
        if let (Some(why), true, false) = (&failure, is_alone, stopped) {
            return Err(format!(
                "{operation:?} failed with nothing wrong but {hostility:?}: {why}"
            ));
        }
        if trouble.reuse {
            self.reuse_number(vm, before.domid);
        }
        for doom in &trouble.recoveries {
            let again = |host: &mut Host| recover::all(host, true);
            let (ended, _) = self.bench.process(&world, Some(*doom), again);
            self.tell(|| format!("  recovery with {doom:?}: {ended:?}"));
        }
        self.recover()?;
        let failure = Failure {
            is_there: failure.is_some(),
            is_of_a_call: self.given.is_some(),
            stopped,
        };
        self.look(vm, operation, before, failure)?;
        // A guest may take its disks away itself.
        let has_devices = vm != WITHOUT_DEVICES && hostility.is_none();
        match self.seen[vm] {
            Seen {
                domid: Some(domid),
                has_ended: false,
                ..
            } if has_devices && operation == Operation::SoftReset => {
                checks::served(&self.world.snapshot(), domid)
            }
            _ => Ok(()),
        }
    }

    /// Another VM that has no domain gets the number of one that is gone.
    fn reuse_number(&mut self, vm: usize, domid: Option<DomId>) {
        let free = domid.filter(|domid| self.world.xen.domain(*domid).is_none());
        let other = (0..3).find(|other| *other != vm && self.seen[*other].domid.is_none());
        let (Some(domid), Some(other)) = (free, other) else {
            return;
        };
        self.world.clock.advance(Duration::from_secs(120));
        self.world.xen.set_next_domid(domid);
        let plan = &self.plans[other];
        let got = self
            .sound
            .must(&self.world, |host| create_planned(host, plan));
        self.tell(|| format!("  {} is domain {got} now", NAMES[other]));
        self.seen[other].domid = Some(got);
    }

    /// What the next process does, and the monitors.
    fn recover(&mut self) -> Result<(), String> {
        let (bench, world) = (self.bench, &self.world);
        for _ in 0..2 {
            match bench
                .process(world, None, |host| recover::all(host, true))
                .0
            {
                Ended::Well(Ok(told)) => {
                    self.tell(|| format!("  recovered: {told:?}"));
                    if told.is_empty() {
                        break;
                    }
                }
                other => return Err(format!("recovery: {other:?}")),
            }
        }
        Ok(())
    }

    /// Looks whether what was done was done or not, and all else is as it was.
    fn look(
        &mut self,
        target: usize,
        operation: Operation,
        before: Seen,
        failure: Failure,
    ) -> Result<(), String> {
        self.remove_aside(target, operation)?;
        let now = self.world.snapshot();
        checks::whole(&self.world, &now, &self.start, self.bystander)?;
        let mut seen = [Seen::default(); 3];
        for (vm, uuid) in UUIDS.iter().enumerate() {
            let names = [NAMES[vm], OTHER_NAMES[vm]];
            let info = checks::vm(&now, uuid, &names)?;
            info.iter()
                .try_for_each(|info| checks::fitted(&self.world, info.domid))?;
            seen[vm] = info.map_or_else(Seen::default, |info| Seen {
                domid: Some(info.domid),
                paused: info.flags.paused,
                has_ended: info.flags.shutdown,
            });
            if vm != target && seen[vm] != self.seen[vm] {
                return Err(format!(
                    "{}: {:?}, was {:?}",
                    NAMES[vm], seen[vm], self.seen[vm]
                ));
            }
        }
        let after = seen[target];
        self.tell(|| format!("  {after:?}"));
        self.seen = seen;
        judge(operation, before, after, failure)
    }

    /// A domain that was set aside is destroyed; it is called after its VM.
    fn remove_aside(&mut self, target: usize, operation: Operation) -> Result<(), String> {
        let known = [UUIDS[0], UUIDS[1], UUIDS[2], BYSTANDER];
        let Some((domid, name)) = checks::aside(&self.world.snapshot(), &known) else {
            return Ok(());
        };
        let is_named = [NAMES[target], OTHER_NAMES[target]]
            .iter()
            .any(|own| name.starts_with(&format!("{own}-20")));
        if operation != Operation::RenameRestart || !is_named {
            return Err(format!("domain {domid} (`{name}`) is nobody's"));
        }
        let (ended, _) = self.sound.process(&self.world, None, |host| {
            destroy::destroy(host, domid, false)
        });
        match ended {
            Ended::Well(Ok(())) => Ok(()),
            other => Err(format!("what was set aside cannot be destroyed: {other:?}")),
        }
    }
}

/// Has a change made of a domain, if it is still there.
fn ask(host: &mut Host, domid: DomId, request: &Request) -> Result<(), EngineError> {
    match host.hv.domain_info(domid)? {
        Some(info) => requests::ask_for(host, &info, request).map(drop),
        None => Ok(()),
    }
}

/// A soft reset, as the monitor does it.
fn reset(host: &mut Host, uuid: Uuid, domid: DomId) -> Result<(), EngineError> {
    match soft_reset::run(host, Vm { domid, uuid })? {
        Outcome::Running => Ok(()),
        Outcome::Gone => Err(EngineError::NoSuchDomain(domid.to_string())),
        Outcome::GivenUp(why) => Err(EngineError::NoSuchDomain(why)),
    }
}

/// Whether a VM may be so after an operation: it has happened, or, where it failed, it has not.
fn judge(operation: Operation, before: Seen, after: Seen, failure: Failure) -> Result<(), String> {
    let Failure { stopped, .. } = failure;
    let runs = |seen: Seen| seen.domid.is_some() && !seen.paused && (!seen.has_ended || stopped);
    let is_same = after.domid == before.domid && after.paused == before.paused;
    let is_new = runs(after) && after.domid != before.domid;
    // The old domain in place, which has ended.
    let is_old = is_same && after.has_ended;
    let (done, not_done) = match operation {
        Operation::Create => (runs(after), after.domid.is_none()),
        Operation::Destroy => (after.domid.is_none(), is_same),
        Operation::Pause => (after.paused && after.domid == before.domid, is_same),
        Operation::Unpause => (runs(after) && after.domid == before.domid, is_same),
        Operation::Rename => (is_same, is_same),
        // A restart whose create failed is taken back: the VM has no domain then, and leaves nothing.
        Operation::Restart | Operation::RenameRestart => {
            let is_gone = after.domid.is_none() && failure.is_of_a_call;
            (is_new, is_old || is_gone)
        }
        Operation::SoftReset => {
            let stays = after.domid == before.domid;
            (runs(after) && stays, stays && after.has_ended)
        }
    };
    // Paused with its end still to be seen is paused all the same.
    match done || (failure.is_there && not_done) || (stopped && is_same) {
        true => Ok(()),
        false => Err(format!(
            "{operation:?} ({failure:?}): {before:?} became {after:?}"
        )),
    }
}

/// The VM without devices.
const WITHOUT_DEVICES: usize = 2;

/// The PV guest among the VMs.
const PV: usize = 1;

fn without_devices(config: &str) -> String {
    let lines = config.split_inclusive('\n');
    lines
        .filter(|line| !line.starts_with("disk") && !line.starts_with("vif"))
        .collect()
}

fn plans(bench: &Bench) -> Vec<Planned> {
    let vms = UUIDS.iter().zip(NAMES).chain([(&BYSTANDER, "bystander")]);
    let config = |uuid: &str, name: &str| {
        let config = bench.config(name, uuid);
        match UUIDS.iter().position(|own| *own == uuid) {
            Some(PV) => config.replace("type = \"pvh\"", "type = \"pv\""),
            Some(WITHOUT_DEVICES) => without_devices(&config),
            _ => config,
        }
    };
    vms.map(|(uuid, name)| bench.plan(&config(uuid, name)).unwrap())
        .collect()
}

/// One run; what was found.
fn run(
    bench: &Bench,
    sound: &Bench,
    plans: &[Planned],
    seed: u64,
    tells: bool,
) -> Result<(), String> {
    let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut run = Run::new(bench, sound, plans);
    run.tells = tells;
    for _ in 0..OPERATIONS {
        let vm = dice.below(3) as usize;
        let operation = dice.of(run.possible(vm));
        let trouble = Trouble::by_chance(&mut dice, operation);
        run.step(vm, operation, &trouble)?;
    }
    Ok(())
}

fn replay_line(seed: u64) -> String {
    format!(
        "XYL_SIM_SEED={seed} cargo test --profile sim -p xen-sim --test seeded a_seed -- --nocapture"
    )
}

#[test]
fn a_seed_decides_everything_and_nothing_is_lost() {
    if let Some(seed) = number_of("XYL_SIM_SEED") {
        let bench = Bench::with_devices();
        println!("seed {seed}");
        run(&bench, &bench, &plans(&bench), seed, true).unwrap();
        return;
    }
    let count = number_of("XYL_SIM_SEEDS").unwrap_or(SEEDS);
    let from = number_of("XYL_SIM_FROM").unwrap_or(1);
    let begun = std::time::Instant::now();
    let bench = Bench::with_devices();
    let plans = plans(&bench);
    let faults = run_seeds(from, count, replay_line, |seed| {
        run(&bench, &bench, &plans, seed, false)
    });
    println!("{count} seeds from {from}, {:?}", begun.elapsed());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Seeds that have found something once.
#[test]
fn what_was_found_stays_mended() {
    // A record that was being written when its process died, of a VM that was renamed and then restarted; a restart that was
    // killed just as Xen had given the old domain's number to the new one.
    let found = [22_585, 57_953, 231_272];
    let bench = Bench::with_devices();
    let plans = plans(&bench);
    for seed in found {
        run(&bench, &bench, &plans, seed, false)
            .unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
}

#[test]
fn a_seed_runs_the_same_each_time() {
    let bench = Bench::with_devices();
    let plans = plans(&bench);
    for seed in 1..6 {
        let ends: Vec<Snapshot> = (0..2)
            .map(|_| {
                let mut dice = Dice(seed);
                let mut run = Run::new(&bench, &bench, &plans);
                for _ in 0..OPERATIONS {
                    let vm = dice.below(3) as usize;
                    let operation = dice.of(run.possible(vm));
                    // What is found is the other test's matter.
                    let _ = run.step(vm, operation, &Trouble::by_chance(&mut dice, operation));
                }
                run.world.snapshot()
            })
            .collect();
        assert!(ends[0] == ends[1], "seed {seed}");
    }
}

/// The seeds reach the last call of each operation.
#[test]
fn usual_calls_are_as_many_as_an_operation_makes() {
    let bench = Bench::with_devices();
    let plans = plans(&bench);
    for operation in OPERATIONS_ALL {
        let mut run = Run::new(&bench, &bench, &plans);
        run.prepare(0, operation).unwrap();
        run.step(0, operation, &Trouble::default()).unwrap();
        let (usual, calls) = (operation.usual_calls(), run.last_calls);
        assert!(
            usual >= calls && usual <= calls + calls / 2 + 8,
            "{operation:?}: {calls} calls, not {usual}"
        );
    }
}

/// Each call of each operation fails with each error that it can return, once.
#[test]
fn every_error_of_every_call() {
    let others = OPERATIONS_ALL.into_iter();
    give_every_error(others.filter(|operation| *operation != Operation::SoftReset));
}

#[test]
fn every_error_of_every_call_of_a_soft_reset() {
    give_every_error([Operation::SoftReset].into_iter());
}

fn give_every_error(operations: impl Iterator<Item = Operation>) {
    let bench = Bench::with_devices();
    let plans = plans(&bench);
    let mut faults = Vec::new();
    for operation in operations {
        let mut given = 0;
        'calls: for call in 1.. {
            for choice in 0.. {
                let mut run = Run::new(&bench, &bench, &plans);
                run.prepare(0, operation).unwrap();
                let trouble = Trouble {
                    fault: Some(Fault { call, choice }),
                    ..Trouble::default()
                };
                let outcome = run.step(0, operation, &trouble);
                let Some(fault) = run.given.clone() else {
                    if choice == 0 && run.last_calls < call {
                        break 'calls;
                    }
                    break;
                };
                given += 1;
                if let Err(found) = outcome {
                    faults.push(format!("{operation:?}, call {call} ({fault}): {found}"));
                }
            }
        }
        println!("{operation:?}: {given} errors");
        assert!(given > 1, "{operation:?}");
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// Faults planted in the engine, one for each kind of look: the seeds must find them.
#[test]
fn planted_faults_are_found() {
    const LIMIT: u64 = 20_000;
    let mutants = [
        ("a missing undo", Sabotage::Forget("destroy_domain")),
        ("a missing undo of files", Sabotage::Forget("remove_folder")),
        (
            "a start that does not happen",
            Sabotage::Forget("unpause_domain"),
        ),
        ("wrong order", Sabotage::WriteLate),
        ("no journal", Sabotage::Forget("append")),
        (
            "an error that is not looked at",
            Sabotage::IgnoreErrors("set_hvm_boot_cpu"),
        ),
        (
            "a failed destroy taken for done",
            Sabotage::IgnoreErrors("destroy_domain"),
        ),
        ("a guest's node trusted", Sabotage::TrustGuest),
    ];
    let sound = Bench::new();
    let plans = plans(&sound);
    let mut missed = Vec::new();
    for (what, sabotage) in mutants {
        let mut mutant = Bench::new();
        mutant.sabotage = Some(sabotage);
        let found = (1..=LIMIT).find_map(|seed| {
            let fault = run(&mutant, &sound, &plans, seed, false).err()?;
            Some((seed, fault))
        });
        match found {
            Some((seed, fault)) => {
                println!("{what}: seed {seed}: {}", fault.lines().next().unwrap());
            }
            None => missed.push(what),
        }
    }
    assert!(
        missed.is_empty(),
        "{missed:?} not found within {LIMIT} seeds"
    );
}
