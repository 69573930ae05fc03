//! Two or three processes beside each other, call by call, in an order that a seed decides; in half of the runs one of
//! them is killed in the middle. Then somebody recovers, and independent looks compare the world.
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
#[allow(dead_code, reason = "each test uses a part of it")]
mod checks;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bench::seeds::{Dice, number_of, run_seeds};
use bench::{Bench, create_planned};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Hypervisor, ShutdownReason};
use xen_sim::{Ended, Moment, Sabotage, Snapshot, Turns, World};
use xenstore::{Path as Node, Tree};
use xyl_engine::config::plan::Planned;
use xyl_engine::control::power::{self, PowerRequest};
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::supervise::monitor::{self};
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::Vm;
use xyl_engine::vm::domains;
use xyl_engine::vm::domains::DomainRef;
use xyl_engine::vm::monitor_lock;
use xyl_engine::{Cancel, EngineError, ErrorCode, Host};

const ASH: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER: &str = "6a1d0c4e-0000-4000-8000-000000000002";
const BYSTANDER: &str = "6a1d0c4e-0000-4000-8000-0000000000ff";
/// Names of the VMs of a run.
const NAMES: [&str; 3] = ["ash", "beech", "alder"];

/// Runs in plain `cargo test`; `cargo xtask test` asks for many more.
const SEEDS: u64 = 600;
/// Calls within which a process is killed.
const CALLS: u64 = 200;
/// How long a guest may take to take a request.
const TAKEN_LIMIT: Duration = Duration::from_secs(60);
/// How often a guest looks whether it is asked for something.
const OBEYS_EVERY: Duration = Duration::from_millis(50);

// ---- what is done beside what -----------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Creates ash.
    Create,
    /// Creates another VM that is called ash, too.
    CreateNamesake,
    /// Destroys ash, by its name.
    Destroy,
    /// Pauses ash.
    Pause,
    /// Calls ash alder.
    Rename,
    /// Calls beech ash.
    RenameOther,
    /// Goes on with what the dead have left.
    Recover,
    /// Watches over ash.
    Monitor,
    /// Ash itself ends, for this reason.
    End(ShutdownReason),
    /// Asks ash's guest to shut down or reboot, and waits until it has.
    Power(PowerRequest),
    /// Ash's guest does what it is asked.
    Obey,
}

use Act::*;

const REBOOT: Act = End(ShutdownReason::Reboot);
const POWEROFF: Act = End(ShutdownReason::Poweroff);
const SOFT_RESET: Act = End(ShutdownReason::SoftReset);

const ASK_POWEROFF: Act = Power(PowerRequest::Poweroff);
const ASK_REBOOT: Act = Power(PowerRequest::Reboot);

/// What runs beside each other.
#[derive(Clone, Copy, Debug)]
struct Meeting {
    acts: &'static [Act],
    /// The VMs that there are before: ash, and one called beech.
    has_ash: bool,
    has_beech: bool,
    /// What has been begun before, and was killed.
    left: Option<Act>,
}

const fn meeting(acts: &'static [Act], has_ash: bool) -> Meeting {
    Meeting {
        acts,
        has_ash,
        has_beech: false,
        left: None,
    }
}

const fn after_a_death(acts: &'static [Act], has_ash: bool, left: Act) -> Meeting {
    Meeting {
        left: Some(left),
        ..meeting(acts, has_ash)
    }
}

const MEETINGS: &[Meeting] = &[
    meeting(&[Create, Create], false),
    meeting(&[Create, CreateNamesake], false),
    meeting(&[Create, Destroy], true),
    meeting(&[Create, Destroy], false),
    meeting(&[Destroy, Destroy], true),
    meeting(&[Monitor, Destroy], true),
    meeting(&[Monitor, Pause], true),
    meeting(&[Monitor, Pause, Rename], true),
    meeting(&[Monitor, Destroy, Rename], true),
    meeting(&[Monitor, Destroy, Pause], true),
    meeting(&[Monitor, Destroy, Create], true),
    meeting(&[Monitor, Rename, Recover], true),
    meeting(&[Monitor, REBOOT, Destroy], true),
    meeting(&[Monitor, REBOOT, Pause], true),
    meeting(&[Monitor, REBOOT, Rename], true),
    meeting(&[Monitor, REBOOT, Create], true),
    meeting(&[Monitor, REBOOT, Recover], true),
    meeting(&[Monitor, POWEROFF, Destroy], true),
    meeting(&[Monitor, POWEROFF, Create], true),
    meeting(&[Monitor, SOFT_RESET, Destroy], true),
    meeting(&[Monitor, SOFT_RESET, Pause], true),
    meeting(&[Monitor, SOFT_RESET, Recover], true),
    meeting(&[Monitor, Obey, ASK_POWEROFF], true),
    meeting(&[Monitor, Obey, ASK_REBOOT], true),
    meeting(&[Monitor, Obey, ASK_REBOOT, ASK_POWEROFF], true),
    meeting(&[Monitor, Obey, ASK_REBOOT, Destroy], true),
    meeting(&[Recover, Create], false),
    meeting(&[Recover, Destroy], true),
    meeting(&[Rename, Destroy], true),
    meeting(&[Rename, Rename], true),
    Meeting {
        has_beech: true,
        ..meeting(&[RenameOther, Create], false)
    },
    after_a_death(&[Recover, Recover], false, Create),
    after_a_death(&[Recover, Recover], true, Destroy),
    after_a_death(&[Recover, Create], false, Create),
    after_a_death(&[Recover, Destroy], true, Destroy),
    after_a_death(&[Create, Destroy], false, Create),
];

/// What became of one of the processes.
#[derive(Clone, Debug)]
enum Fared {
    Well,
    Failed(Failure),
    /// It served to the end.
    Served,
    Killed,
}

/// The failure of an act.
#[derive(Clone, Debug)]
struct Failure {
    code: Option<ErrorCode>,
    /// Whether no other act of the run explains it.
    is_unclear: bool,
    text: String,
}

impl Failure {
    fn of(act: Act, error: &EngineError) -> Failure {
        Failure {
            code: Some(error.code()),
            is_unclear: !is_clear(act, error),
            text: error.to_string(),
        }
    }

    fn of_panic() -> Failure {
        Failure {
            code: None,
            is_unclear: true,
            text: "it panicked".to_owned(),
        }
    }
}

/// How it all ended.
#[derive(Clone, Debug)]
struct Told {
    fared: Vec<(Act, Fared)>,
    lines: Vec<String>,
    /// Who had the turn, as one number, and how often.
    order: (u64, u64),
    now: Snapshot,
}

impl Told {
    fn was_killed(&self) -> bool {
        let mut fared = self.fared.iter();
        fared.any(|(_, fared)| matches!(fared, Fared::Killed))
    }

    /// Whether a destroy was begun by the monitor, and not done by the time that whoever had asked gave up.
    fn is_destroyed_late(&self) -> bool {
        let mut fared = self.fared.iter();
        let gave_up = |(act, fared): &(Act, Fared)| match fared {
            Fared::Failed(why) => *act == Destroy && why.code == Some(ErrorCode::Deadline),
            _ => false,
        };
        fared.any(gave_up) && self.lines.iter().any(|line| line.contains("destroy, for"))
    }

    /// How many of these came to a good end.
    fn well(&self, act: Act) -> usize {
        let of = self.fared.iter().filter(|(one, _)| *one == act);
        of.filter(|(_, fared)| matches!(fared, Fared::Well)).count()
    }
}

// ---- a run ------------------------------------------------------------------------------------------------

struct Plans {
    ash: Planned,
    namesake: Planned,
    beech: Planned,
    bystander: Planned,
}

impl Plans {
    fn new(bench: &Bench) -> Plans {
        let plan = |name, uuid| bench.plan(&bench.config(name, uuid)).unwrap();
        Plans {
            ash: plan("ash", ASH),
            namesake: plan("ash", OTHER),
            beech: plan("beech", OTHER),
            bystander: plan("bystander", BYSTANDER),
        }
    }
}

/// What the processes of a run share.
struct Scene<'a> {
    bench: &'a Bench,
    plans: &'a Plans,
    world: &'a World,
    /// Ash's domain before.
    domid: Option<DomId>,
    lines: Mutex<Vec<String>>,
}

fn ash() -> Uuid {
    Uuid::parse_str(ASH).unwrap()
}

impl Scene<'_> {
    fn act(&self, host: &mut Host, act: Act) -> Result<(), EngineError> {
        match act {
            Create => create_planned(host, &self.plans.ash).map(drop),
            CreateNamesake => create_planned(host, &self.plans.namesake).map(drop),
            Destroy => {
                let force = false;
                ask(host, "ash", &Request::Destroy { force })
            }
            Pause => ask(host, "ash", &Request::Pause),
            Rename => {
                let name = "alder".to_owned();
                ask(host, "ash", &Request::Rename { name })
            }
            RenameOther => {
                let name = "ash".to_owned();
                ask(host, "beech", &Request::Rename { name })
            }
            Recover => {
                let recovered = recover::all(host, true)?;
                recovered.iter().for_each(|one| self.log(act, &one.line()));
                Ok(())
            }
            Monitor => {
                let domid = self.domid.unwrap();
                let vm = Vm { domid, uuid: ash() };
                monitor::watch(host, vm, &mut |line| self.log(act, line))
            }
            Power(request) => {
                let info = find(host, "ash")?;
                let fallback = false;
                requests::ask_for(host, &info, &Request::Power { request, fallback })?;
                power::wait_for_acknowledgement(host, &info, TAKEN_LIMIT, &mut |_| ())
            }
            Obey => self.obey(host),
            End(reason) => {
                // A guest's end is no call of the toolstack's: it happens after one.
                let _ = host.hv.domain_info(self.domid.unwrap());
                self.world.shut_down(self.domid.unwrap(), reason);
                Ok(())
            }
        }
    }

    /// Ash's guest, in each of its domains.
    fn obey(&self, host: &mut Host) -> Result<(), EngineError> {
        // A guest's own calls are none of the toolstack's.
        let mut guest = self.world.store.client(0).unwrap();
        for _ in 0..3000 {
            let next = host.clock.now() + OBEYS_EVERY;
            host.clock.wait_until(next);
            let infos = host.hv.domain_list()?;
            let runs =
                |info: &&DomainInfo| info.handle == *ash().as_bytes() && !info.flags.shutdown;
            let Some(domid) = infos.iter().find(runs).map(|info| info.domid) else {
                continue;
            };
            let node = Node::new(&format!("/local/domain/{domid}/control/shutdown")).unwrap();
            let reason = match guest.read_opt(&node).unwrap().as_deref() {
                Some(b"poweroff") => ShutdownReason::Poweroff,
                Some(b"reboot") => ShutdownReason::Reboot,
                _ => continue,
            };
            guest.write(&node, b"").unwrap();
            self.world.shut_down(domid, reason);
        }
        Ok(())
    }

    fn log(&self, act: Act, line: &str) {
        self.lines.lock().unwrap().push(format!("{act:?}: {line}"));
    }

    /// Lets them all run, each in a thread of its own; how each fared.
    fn meet(
        &self,
        seed: u64,
        acts: &[Act],
        doom: Option<(usize, u64, Moment)>,
    ) -> (Vec<Fared>, Turns) {
        let turns = Turns::new(seed, &self.world.clock, acts.len());
        let fates: Vec<_> = (0..acts.len())
            .map(|number| {
                let seat = match acts[number] {
                    Monitor | Obey => turns.servant(number),
                    _ => turns.seat(number),
                };
                let doom = doom.filter(|(who, ..)| *who == number);
                let fate = self
                    .world
                    .fate(doom.map(|(_, call, moment)| (call, moment)));
                fate.seated(seat)
            })
            .collect();
        let fared = std::thread::scope(|scope| {
            let threads: Vec<_> = fates
                .into_iter()
                .zip(acts)
                .enumerate()
                .map(|(number, (fate, act))| {
                    let is_doomed = doom.is_some_and(|(who, ..)| who == number);
                    scope.spawn(move || {
                        let (ended, _) = self.bench.run(self.world, fate, |host| {
                            Ok(self
                                .act(host, *act)
                                .map_err(|error| Failure::of(*act, &error)))
                        });
                        match ended {
                            Ended::Killed if is_doomed => Fared::Killed,
                            Ended::Killed => Fared::Served,
                            Ended::Well(Ok(Ok(()))) => Fared::Well,
                            Ended::Well(Ok(Err(why))) => Fared::Failed(why),
                            Ended::Well(Err(error)) => Fared::Failed(Failure::of(*act, &error)),
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    let panicked = |_| Fared::Failed(Failure::of_panic());
                    thread.join().unwrap_or_else(panicked)
                })
                .collect()
        });
        (fared, turns)
    }

    /// One process after all others.
    fn alone(&self, seed: u64, act: Act) -> Result<(), String> {
        let (fared, turns) = self.meet(seed, &[act], None);
        match (&fared[0], turns.stuck()) {
            (_, Some(stuck)) => Err(format!("{act:?} afterwards: {stuck}")),
            (Fared::Failed(why), _) => Err(format!("{act:?} afterwards: {}", why.text)),
            _ => Ok(()),
        }
    }
}

/// Asks whoever watches over the domain of this name, or does it where nobody does.
fn ask(host: &mut Host, name: &str, request: &Request) -> Result<(), EngineError> {
    let info = find(host, name)?;
    requests::ask_for(host, &info, request).map(drop)
}

fn find(host: &mut Host, name: &str) -> Result<DomainInfo, EngineError> {
    let (hv, store, index) = host.directory();
    Ok(domains::find(hv, store, &index, &DomainRef::parse(name))?.info)
}

/// Whether another act of the run can be the reason of this error.
fn is_clear(act: Act, error: &EngineError) -> bool {
    match error.cause() {
        EngineError::NameTaken { .. }
        | EngineError::NameBusy { .. }
        | EngineError::UuidTaken { .. } => act != Destroy,
        error
            if matches!(
                error.code(),
                ErrorCode::NoSuchDomain | ErrorCode::DomainReplaced
            ) =>
        {
            true
        }
        error if matches!(error.code(), ErrorCode::Restarting | ErrorCode::HasShutDown) => {
            matches!(act, Power(_))
        }
        // It was asked in time, and its guest has taken it or ended.
        EngineError::Deadline { what, .. } if what.contains("has not taken") => false,
        EngineError::Deadline { .. } => true,
        _ => false,
    }
}

/// One run; what was found, or what happened.
fn run(bench: &Bench, plans: &Plans, seed: u64, tells: bool) -> Result<Told, String> {
    let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let meeting = MEETINGS[dice.below(MEETINGS.len() as u64) as usize];
    let world = World::new(256);
    let sound = bench.sound();
    let bystander = sound.must(&world, |host| create_planned(host, &plans.bystander));
    let start = world.snapshot();
    let domid = meeting.has_ash.then(|| {
        let is_watched = meeting.acts.contains(&Monitor);
        sound.must(&world, |host| create_watched(host, &plans.ash, is_watched))
    });
    if meeting.has_beech {
        sound.must(&world, |host| create_planned(host, &plans.beech));
    }
    if dice.percent(75) {
        domid
            .into_iter()
            .for_each(|domid| serve_console(&world, domid));
    }
    let scene = Scene {
        bench,
        plans,
        world: &world,
        domid,
        lines: Mutex::default(),
    };
    let was = world.snapshot();
    if let Some(left) = meeting.left {
        let doom = Some((1 + dice.below(CALLS / 2), dice.of(&Moment::ALL)));
        bench.process(&world, doom, |host| scene.act(host, left));
    }
    let can_die: Vec<usize> = (0..meeting.acts.len())
        .filter(|number| !matches!(meeting.acts[*number], End(_) | Obey))
        .collect();
    let doom = dice.percent(50).then(|| {
        let call = 1 + dice.below(CALLS);
        (dice.of(&can_die), call, dice.of(&Moment::ALL))
    });
    let (fared, turns) = scene.meet(dice.number(), meeting.acts, doom);
    if tells {
        println!("{meeting:?}, doom {doom:?}, {:?}", turns.order());
        println!("  {fared:?}");
    }
    if let Some(stuck) = turns.stuck() {
        return Err(format!("{:?}: {stuck}", meeting.acts));
    }
    let met = scene.lines.lock().unwrap().len();
    let afterwards = settle(&scene, &mut dice);
    let told = Told {
        fared: meeting.acts.iter().copied().zip(fared).collect(),
        lines: scene.lines.lock().unwrap()[..met].to_vec(),
        order: turns.order(),
        now: world.snapshot(),
    };
    if tells {
        let lines = scene.lines.lock().unwrap();
        lines.iter().for_each(|line| println!("  {line}"));
    }
    afterwards
        .and_then(|()| checks::whole(&world, &told.now, &start, bystander))
        .and_then(|()| judge(&world, meeting, &was, domid, &told))
        .map_err(|fault| format!("{:?}, {:?}: {fault}", meeting.acts, told.fared))?;
    Ok(told)
}

/// What xenconsoled does soon after a domain's start; a destroy waits for it.
fn serve_console(world: &World, domid: DomId) {
    let tty = Node::new(&format!("/local/domain/{domid}/console/tty")).unwrap();
    let mut store = world.store.client(0).unwrap();
    store.write(&tty, b"/dev/pts/0").unwrap();
}

fn create_watched(host: &mut Host, plan: &Planned, is_watched: bool) -> Result<DomId, EngineError> {
    let mut request = CreateRequest {
        spec: &plan.spec,
        config_text: &plan.config_text(),
        paused: false,
        process_ends: false,
        watch: &mut |host, _| match is_watched {
            true => monitor_lock::create_file(&*host.files, &host.dirs, plan.spec.uuid),
            false => Ok(()),
        },
        before_start: &mut |_, _| Ok(()),
        notice: &mut |_| (),
    };
    create(host, &mut request, &Cancel::new())
}

/// What the next command does, and the next monitor where one is missing.
fn settle(scene: &Scene<'_>, dice: &mut Dice) -> Result<(), String> {
    scene.alone(dice.number(), Recover)?;
    let (ended, _) = scene.bench.process(scene.world, None, |host| {
        monitor_lock::without_monitor(&*host.files, &host.dirs)
    });
    let lost = match ended {
        Ended::Well(Ok(lost)) => lost,
        other => return Err(format!("{other:?}")),
    };
    if lost.contains(&ash()) {
        scene.alone(dice.number(), Monitor)?;
    }
    scene.alone(dice.number(), Recover)
}

// ---- looks ------------------------------------------------------------------------------------------------

/// Whether that may be how it ended.
fn judge(
    world: &World,
    meeting: Meeting,
    was: &Snapshot,
    old: Option<DomId>,
    told: &Told,
) -> Result<(), String> {
    for (act, fared) in &told.fared {
        match fared {
            Fared::Failed(why) if why.is_unclear => {
                return Err(format!("{act:?}: unclear: {}", why.text));
            }
            _ => {}
        }
    }
    let now = &told.now;
    names_are_unique(now)?;
    nothing_is_asked(now)?;
    let mine = checks::vm(now, ASH, &NAMES)?;
    let other = checks::vm(now, OTHER, &NAMES)?;
    for info in mine.iter().chain(&other) {
        checks::fitted(world, info.domid)?;
    }
    runs_still(meeting, mine.as_ref(), told)?;
    runs_still(meeting, other.as_ref(), told)?;
    if meeting.left.is_some() {
        return Ok(());
    }
    let is_whole = !told.was_killed();
    let made = told.well(Create);
    let ended = [POWEROFF, ASK_POWEROFF]
        .iter()
        .any(|act| meeting.acts.contains(act));
    let new = mine.as_ref().is_some_and(|info| Some(info.domid) != old);
    let is_there = mine.is_some();
    let has_old = is_there && !new;
    let fail = |what: &str| {
        Err(format!(
            "{what}: {:?} was {old:?}",
            mine.as_ref().map(|info| info.domid)
        ))
    };
    if told.well(Destroy) > 0 && has_old {
        return fail("destroyed, and still there");
    }
    if told.well(Destroy) > 0 && is_there && !meeting.acts.contains(&Create) {
        return fail("destroyed, and runs in another domain");
    }
    if made > 0 && !is_there && !meeting.acts.contains(&Destroy) {
        return fail("created, and not there");
    }
    if made > 1 {
        return fail("created twice");
    }
    if is_whole && !meeting.has_ash {
        let all = made + told.well(CreateNamesake) + told.well(RenameOther);
        if meeting.acts.contains(&Create) && all != 1 {
            return fail("not one that won");
        }
    }
    let may_be_gone = ended || told.well(Destroy) > 0 || told.is_destroyed_late();
    if is_whole && meeting.has_ash && !may_be_gone && !is_there {
        return fail("lost");
    }
    if is_whole && meeting.acts.contains(&Recover) {
        let lines = told.lines.iter();
        if let Some(line) = lines.clone().find(|line| line.starts_with("Recover")) {
            return Err(format!("something was recovered from the living: {line}"));
        }
    }
    let same = was.domains.keys().filter(|domid| Some(**domid) != old);
    for domid in same {
        if !now.domains.contains_key(domid) {
            return Err(format!("domain {domid} is lost"));
        }
    }
    Ok(())
}

/// A domain that is there runs, unless somebody has paused it.
fn runs_still(meeting: Meeting, info: Option<&DomainInfo>, told: &Told) -> Result<(), String> {
    let Some(info) = info else { return Ok(()) };
    if info.flags.shutdown {
        return Err(format!(
            "domain {} has ended, and nobody saw to it",
            info.domid
        ));
    }
    if info.flags.paused && !meeting.acts.contains(&Pause) {
        return Err(format!("domain {} is paused; {:?}", info.domid, told.lines));
    }
    Ok(())
}

/// What was asked was done, or taken back.
fn nothing_is_asked(now: &Snapshot) -> Result<(), String> {
    let paths = now.files.keys().map(|path| path.to_string_lossy());
    match paths.into_iter().find(|path| path.contains("/requests/")) {
        Some(path) => Err(format!("{path} was never carried out")),
        None => Ok(()),
    }
}

fn names_are_unique(now: &Snapshot) -> Result<(), String> {
    let mut names: BTreeMap<Vec<u8>, DomId> = BTreeMap::new();
    for domid in now.domains.keys() {
        let Some(name) = now.nodes.get(&format!("/local/domain/{domid}/name")) else {
            continue;
        };
        if let Some(other) = names.insert(name.clone(), *domid) {
            let name = String::from_utf8_lossy(name);
            return Err(format!("domains {other} and {domid} are called `{name}`"));
        }
    }
    Ok(())
}

// ---- tests ------------------------------------------------------------------------------------------------

fn replay_line(seed: u64) -> String {
    format!(
        "XYL_SIM_SEED={seed} cargo test --profile sim -p xen-sim --test interleaved an_order -- --nocapture"
    )
}

#[test]
fn an_order_that_a_seed_decides_loses_nothing() {
    if let Some(seed) = number_of("XYL_SIM_SEED") {
        let bench = Bench::new();
        println!("seed {seed}");
        run(&bench, &Plans::new(&bench), seed, true).unwrap();
        return;
    }
    let count = number_of("XYL_SIM_SEEDS").unwrap_or(SEEDS);
    let from = number_of("XYL_SIM_FROM").unwrap_or(1);
    let begun = std::time::Instant::now();
    let bench = Bench::new();
    let plans = Plans::new(&bench);
    let faults = run_seeds(from, count, replay_line, |seed| {
        run(&bench, &plans, seed, false).map(drop)
    });
    println!("{count} interleavings from {from}, {:?}", begun.elapsed());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_seed_gives_the_same_order_each_time() {
    let bench = Bench::new();
    let plans = Plans::new(&bench);
    let mut orders = std::collections::BTreeSet::new();
    for seed in 1..=40 {
        let ends: Vec<_> = (0..2).map(|_| run(&bench, &plans, seed, false)).collect();
        let [first, second] = [&ends[0], &ends[1]].map(|end| {
            let told = end.as_ref().unwrap();
            (told.order, format!("{:?}", told.fared), told.now.clone())
        });
        assert!(first == second, "seed {seed}");
        orders.insert(first.0);
    }
    assert_eq!(orders.len(), 40, "each seed has an order of its own");
}

/// A domain that goes in the middle of a rename, at each of its calls: nothing is written of one that is gone.
#[test]
fn a_rename_writes_nothing_of_a_domain_that_is_gone() {
    let bench = Bench::new();
    let plans = Plans::new(&bench);
    let mut strays = Vec::new();
    for call in 1..30 {
        let world = std::rc::Rc::new(World::new(256));
        let start = world.snapshot();
        let domid = bench.must(&world, |host| create_planned(host, &plans.ash));
        let ends = {
            let (bench, world) = (bench.sound(), std::rc::Rc::clone(&world));
            move || bench.must(&world, |host| destroy::destroy(host, domid, false))
        };
        let fate = world.fate(None).interrupted(call, Box::new(ends));
        let (_, calls) = bench.run(&world, fate, |host| {
            let info = find(host, "ash")?;
            domains::rename(host, &info, "alder")
        });
        if calls < call {
            break;
        }
        let now = world.snapshot();
        strays.extend(checks::whole(&world, &now, &start, DomId(99)).err());
    }
    assert!(strays.is_empty(), "{strays:#?}");
}

/// A guest reboots in the middle of its VM's destroy, at each of its calls: what is destroyed is the VM.
#[test]
fn a_destroy_takes_the_next_domain_of_a_vm_that_reboots_meanwhile() {
    let bench = Bench::new();
    let plans = Plans::new(&bench);
    let mut followed = 0;
    for call in 1..200 {
        let world = std::rc::Rc::new(World::new(256));
        let domid = bench.must(&world, |host| create_planned(host, &plans.ash));
        world.shut_down(domid, ShutdownReason::Reboot);
        let next = std::rc::Rc::new(std::cell::Cell::new(None));
        let reboots = {
            let (bench, world, next) = (bench.sound(), world.clone(), next.clone());
            move || {
                let again = |host: &mut Host| restart::restart(host, ash(), domid, false);
                // Once the destroy has the VM, there is nothing to restart.
                if let Ended::Well(Ok(made)) = bench.process(&world, None, again).0 {
                    next.set(made);
                }
            }
        };
        let fate = world.fate(None).interrupted(call, Box::new(reboots));
        let (ended, calls) = bench.run(&world, fate, |host| destroy::destroy(host, domid, false));
        if calls < call {
            break;
        }
        let is_there = world
            .xen
            .domain_list()
            .unwrap()
            .iter()
            .any(|info| info.handle == *ash().as_bytes());
        match ended {
            Ended::Well(Ok(())) => assert!(!is_there, "call {call}: {:?}", next.get()),
            // Before the first look there was no such domain any more.
            other => assert!(is_there && call == 1, "call {call}: {other:?}"),
        }
        followed += usize::from(next.get().is_some() && !is_there);
    }
    assert!(followed > 0);
}

/// A create is killed, and whoever recovers it is killed, too, at each call: the next create works.
#[test]
fn a_create_works_after_a_recovery_that_was_killed() {
    let bench = Bench::new();
    let plans = Plans::new(&bench);
    for call in 1.. {
        let world = World::new(256);
        let doom = Some((60, Moment::After));
        bench.process(&world, doom, |host| create_planned(host, &plans.ash));
        let doom = Some((call, Moment::After));
        let (ended, _) = bench.process(&world, doom, |host| recover::all(host, true));
        bench.must(&world, |host| create_planned(host, &plans.ash));
        if !matches!(ended, Ended::Killed) {
            break;
        }
    }
}

/// Locks that are not taken: the looks must see what comes of it.
#[test]
fn a_lock_that_is_not_taken_is_found() {
    const LIMIT: u64 = 5000;
    let mutants = [
        ("the lock of a name", Sabotage::NoLock("busy/name-")),
        ("the lock of a VM", Sabotage::NoLock("busy/6a1d0c4e")),
    ];
    for (what, sabotage) in mutants {
        let mut mutant = Bench::new();
        mutant.sabotage = Some(sabotage);
        let plans = Plans::new(&mutant);
        let found = (1..=LIMIT).find_map(|seed| {
            let fault = run(&mutant, &plans, seed, false).err()?;
            Some((seed, fault))
        });
        let (seed, fault) =
            found.unwrap_or_else(|| panic!("{what} not found within {LIMIT} seeds"));
        println!("{what}: seed {seed}: {fault}");
    }
}
