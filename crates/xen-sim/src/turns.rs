//! Runs several processes in one world, one call at a time, in an order that a seed decides.
//!
//! Each process is a thread with a [`Seat`]. One process runs at a time; at each call that crosses a port, the
//! scheduler picks the next one at random. A process that waits for a lock, for xenstored or for the clock is not
//! picked until its wait is over. When all processes wait, the clock moves. So the same seed gives the same order of
//! calls, and a test finds a wait that never ends instead of hanging.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use os_port::Clock;
use os_port::mem::VirtualClock;

/// Duration of a call on the virtual clock.
const CALL_TIME: Duration = Duration::from_micros(100);
/// Maximum number of turns of a short run.
const TURNS_MAX: u64 = 200_000;
/// Maximum number of turns of a long run.
const LONG_TURNS_MAX: u64 = 5_000_000;
/// Time that servants get after the last other process has ended, to finish their work.
const AFTERWARDS: Duration = Duration::from_secs(300);
/// Probability in percent that a process keeps its turn. Each run uses one of these values.
const STAYS_PERCENT: [u64; 6] = [0, 30, 60, 85, 95, 99];
/// In one of so many runs, one process stops at one of its calls until the others have ended or wait.
const STALLED_RUNS: u64 = 2;
/// That process stops within this number of calls.
const STALLED_WITHIN: u64 = 60;
/// In one of so many runs, some waits end early although other processes could run.
const HASTY_RUNS: u64 = 4;
/// Probability in permille, for each turn of such a run, that a wait ends early.
const HASTE_PERMILLE: u64 = 5;

/// A function that returns true once the wait of a process is over.
pub(crate) type Wake = Box<dyn Fn() -> bool + Send>;

/// The order of several processes.
#[derive(Clone)]
pub struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// One condition variable per seat.
    changed: Vec<Condvar>,
    clock: VirtualClock,
}

struct State {
    dice: u64,
    stays_percent: u64,
    is_hasty: bool,
    /// The process that stops, and after how many of its calls.
    stalled: Option<(usize, u64)>,
    seats: Vec<Standing>,
    /// Per process, whether it is a servant. The run ends when only servants are left.
    servants: Vec<bool>,
    now: usize,
    count: u64,
    turns_max: u64,
    /// Time at which the last process that is no servant ended.
    last_end: Instant,
    /// Hash of the order of turns.
    order: u64,
    /// The reason why the run had to stop.
    stuck: Option<String>,
    is_over: bool,
}

enum Standing {
    Ready,
    Waiting {
        what: String,
        deadline: Instant,
        wake: Wake,
    },
    Gone,
}

/// The result of a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The condition became true.
    Woken,
    /// The deadline has passed.
    TimeIsUp,
    /// The run ends here.
    Over,
}

impl Turns {
    /// An order for `processes` processes in a world with this clock.
    pub fn new(seed: u64, clock: &VirtualClock, processes: usize) -> Turns {
        let mut state = State {
            dice: seed,
            stays_percent: 0,
            is_hasty: false,
            stalled: None,
            seats: (0..processes).map(|_| Standing::Ready).collect(),
            servants: vec![false; processes],
            now: 0,
            count: 0,
            turns_max: TURNS_MAX,
            last_end: clock.now(),
            order: 0,
            stuck: None,
            is_over: false,
        };
        let choice = state.below(STAYS_PERCENT.len() as u64) as usize;
        state.stays_percent = STAYS_PERCENT.get(choice).copied().unwrap_or_default();
        state.is_hasty = state.below(HASTY_RUNS) == 0;
        if state.below(STALLED_RUNS) == 0 {
            let who = state.below(processes.max(1) as u64) as usize;
            state.stalled = Some((who, state.below(STALLED_WITHIN)));
        }
        state.now = state.below(processes.max(1) as u64) as usize;
        Turns {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: (0..processes).map(|_| Condvar::new()).collect(),
                clock: clock.clone(),
            }),
        }
    }

    /// An order for a long run without stalled processes: only the seed decides about each turn.
    pub fn fair(seed: u64, clock: &VirtualClock, processes: usize) -> Turns {
        let turns = Turns::new(seed, clock, processes);
        let mut state = turns.state();
        (state.stalled, state.is_hasty, state.stays_percent) = (None, false, 0);
        state.turns_max = LONG_TURNS_MAX;
        drop(state);
        turns
    }

    /// The seat of a process, by its number from 0.
    pub fn seat(&self, number: usize) -> Seat {
        Seat {
            turns: self.clone(),
            number,
        }
    }

    /// The seat of a process that serves for ever, such as a monitor. It ends when all others have ended and it has
    /// no work left.
    pub fn servant(&self, number: usize) -> Seat {
        if let Some(servant) = self.state().servants.get_mut(number) {
            *servant = true;
        }
        self.seat(number)
    }

    /// The reason why the run could not finish; `None` if it did.
    pub fn stuck(&self) -> Option<String> {
        self.state().stuck.clone()
    }

    /// Number of turns, and a hash of their order.
    pub fn order(&self) -> (u64, u64) {
        let state = self.state();
        (state.count, state.order)
    }

    /// Ignores a poisoned lock, so that a test shows its first panic.
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one process in the order.
#[derive(Clone)]
pub struct Seat {
    turns: Turns,
    number: usize,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({})", self.number)
    }
}

impl Seat {
    /// Waits for the first turn.
    pub(crate) fn enter(&self) {
        drop(self.until_mine(self.turns.state()));
    }

    /// Gives the turn to a process chosen at random, and waits for the next turn. Returns false when the run ends
    /// here.
    #[must_use]
    pub(crate) fn pass(&self) -> bool {
        let mut state = self.turns.state();
        self.turns.shared.clock.advance(CALL_TIME);
        state.count += 1;
        if state.count > state.turns_max {
            let what = format!("no end after {} turns", state.count);
            state.stuck.get_or_insert(what);
        }
        self.hand_over(&mut state);
        !self.until_mine(state).is_ended()
    }

    /// Waits until `wake` or the deadline, while others have their turns.
    pub(crate) fn wait(&self, what: &str, deadline: Instant, wake: Wake) -> Waited {
        let mut state = self.turns.state();
        if let Some(standing) = state.seats.get_mut(self.number) {
            *standing = Standing::Waiting {
                what: what.to_owned(),
                deadline,
                wake,
            };
        }
        self.hand_over(&mut state);
        let mut state = self.until_mine(state);
        if state.is_ended() {
            return Waited::Over;
        }
        let standing = state.seats.get_mut(self.number);
        let before = standing.map(|standing| std::mem::replace(standing, Standing::Ready));
        match before {
            Some(Standing::Waiting { wake, .. }) if !wake() => Waited::TimeIsUp,
            _ => Waited::Woken,
        }
    }

    /// Records the end of the process.
    pub(crate) fn leave(&self) {
        let mut state = self.turns.state();
        if let Some(standing) = state.seats.get_mut(self.number) {
            *standing = Standing::Gone;
        }
        if state.servants.get(self.number) == Some(&false) {
            state.last_end = self.turns.shared.clock.now();
        }
        self.hand_over(&mut state);
    }

    fn hand_over(&self, state: &mut State) {
        if !state.is_ended() {
            state.choose(&self.turns.shared.clock);
        }
        let changed = &self.turns.shared.changed;
        match state.is_ended() {
            true => changed.iter().for_each(Condvar::notify_all),
            false if state.now == self.number => {}
            false => changed
                .get(state.now)
                .into_iter()
                .for_each(Condvar::notify_all),
        }
    }

    fn until_mine<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let changed = self.turns.shared.changed.get(self.number);
        while let Some(changed) = changed.filter(|_| state.now != self.number && !state.is_ended())
        {
            let woken = changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

impl State {
    fn is_ended(&self) -> bool {
        self.is_over || self.stuck.is_some()
    }

    /// The next pseudo-random number below `limit` (splitmix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }

    /// Chooses the process with the next turn.
    fn choose(&mut self, clock: &VirtualClock) {
        let stalled = self.count_down();
        let keeps = self.below(100) < self.stays_percent && stalled != Some(self.now);
        let now = clock.now();
        if keeps && matches!(self.seats.get(self.now), Some(Standing::Ready)) {
            return;
        }
        let mut able: Vec<usize> = self
            .seats
            .iter()
            .enumerate()
            .filter(|(_, standing)| standing.is_able(now))
            .map(|(number, _)| number)
            .collect();
        if able.len() > 1 {
            able.retain(|number| Some(*number) != stalled);
        }
        let is_hasty = self.is_hasty && self.below(1000) < HASTE_PERMILLE;
        let choice = self.below(able.len() as u64) as usize;
        match able.get(choice) {
            Some(number) if !is_hasty => self.give(*number),
            other => {
                let number = other.copied();
                if !self.let_time_pass(clock)
                    && let Some(number) = number
                {
                    self.give(number);
                }
            }
        }
    }

    /// Counts a call of the process that shall stop. Returns that process once it has made enough calls.
    fn count_down(&mut self) -> Option<usize> {
        let (who, left) = self.stalled.as_mut()?;
        if *who == self.now {
            *left = left.saturating_sub(1);
        }
        (*left == 0).then_some(*who)
    }

    fn give(&mut self, number: usize) {
        self.now = number;
        self.order = (self.order ^ (number as u64 + 1)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Gives the turn to the process with the earliest wake-up time. Returns false if no process waits.
    fn let_time_pass(&mut self, clock: &VirtualClock) -> bool {
        let waiting = self.seats.iter().enumerate();
        let first = waiting
            .filter_map(|(number, standing)| Some((standing.deadline()?, number)))
            .min();
        let Some((deadline, number)) = first else {
            return false;
        };
        let is_served = self.seats.iter().zip(&self.servants);
        let mut others = is_served.filter(|(standing, servant)| standing.is_there() && !**servant);
        if others.next().is_none() && deadline > self.last_end + AFTERWARDS {
            self.is_over = true;
            return true;
        }
        self.count += 1;
        if self.count > self.turns_max {
            let told: Vec<String> = self.seats.iter().filter_map(Standing::told).collect();
            self.stuck = Some(format!("waiting without an end: {}", told.join(", ")));
            return true;
        }
        clock.advance(deadline.saturating_duration_since(clock.now()));
        self.give(number);
        true
    }
}

impl Standing {
    fn is_there(&self) -> bool {
        !matches!(self, Standing::Gone)
    }

    fn is_able(&self, now: Instant) -> bool {
        match self {
            Standing::Ready => true,
            Standing::Waiting { deadline, wake, .. } => *deadline <= now || wake(),
            Standing::Gone => false,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Standing::Waiting { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }

    fn told(&self) -> Option<String> {
        match self {
            Standing::Waiting { what, .. } => Some(what.clone()),
            _ => None,
        }
    }
}
