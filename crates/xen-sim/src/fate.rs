//! The fate of a simulated process: at which call it dies, or which call fails.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use os_port::mem::Life;

use crate::lasting::{Lasting, LastingFault};
use crate::turns::{Seat, Waited, Wake};

/// Where in a call a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before it has had any effect.
    Before,
    /// When a part of it has happened, where it has parts; else like [`Moment::Before`].
    Midway,
    /// When all of it has happened, before its answer is seen.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 3] = [Moment::Before, Moment::Midway, Moment::After];
}

/// What became of a process.
#[derive(Debug)]
pub enum Ended<T> {
    /// It came to its end.
    Well(T),
    /// It was killed.
    Killed,
}

/// The payload of the unwinding that ends a process.
struct Kill;

/// A fault in the toolstack, put in from outside: the looks at the world must find what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Calls of this name do nothing, and say that they did: a forgotten undo.
    Forget(&'static str),
    /// Hypercalls of this name fail, and the toolstack takes them for done: an error that is not looked at.
    IgnoreErrors(&'static str),
    /// What the toolstack keeps of a domain's devices is read where the guest can write.
    TrustGuest,
    /// What is added to a file is written only when more is added: a record that comes after what it
    /// is about, where it should come before.
    WriteLate,
    /// Locks whose paths contain this text are taken although another process holds them: a forgotten lock.
    NoLock(&'static str),
}

/// The fate of a process; clones are the same one.
#[derive(Clone, Debug)]
pub struct Fate {
    sabotage: Option<Sabotage>,
    life: Life,
    calls: Arc<AtomicU64>,
    has_parts: Arc<AtomicBool>,
    doom: Option<(u64, Moment)>,
    fault: Option<Fault>,
    lasting: Lasting,
    given: Arc<Mutex<Option<String>>>,
    interrupted_at: Option<u64>,
    seat: Option<Seat>,
}

/// A call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which of the process's calls, from 1.
    pub call: u64,
    /// Which of the errors that it can return, from 0.
    pub choice: usize,
}

thread_local! {
    /// What happens in the world in the middle of a process. A world is for one thread, and so is this.
    static INTERRUPTION: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

impl Fate {
    /// A process that lives as long as it likes.
    pub fn free(id: u32) -> Fate {
        Fate {
            sabotage: None,
            life: Life::new(id),
            calls: Arc::default(),
            has_parts: Arc::default(),
            doom: None,
            fault: None,
            lasting: Lasting::default(),
            given: Arc::default(),
            interrupted_at: None,
            seat: None,
        }
    }

    /// The same process, beside others in the world: at each call it waits for its turn.
    #[must_use]
    pub fn seated(self, seat: Seat) -> Fate {
        Fate {
            seat: Some(seat),
            ..self
        }
    }

    /// Lets others have their turns. A process alone goes on at once.
    pub(crate) fn turn(&self) {
        let seat = self.seat.as_ref().filter(|_| self.life.lives());
        if seat.is_some_and(|seat| !seat.pass()) {
            self.die();
        }
    }

    /// Waits, while others have their turns, until `wake` says that it is over: whether it was before the
    /// deadline. A process alone has nothing to wait for.
    pub(crate) fn wait(&self, what: &str, deadline: Instant, wake: Wake) -> bool {
        let Some(seat) = self.seat.as_ref().filter(|_| self.life.lives()) else {
            return false;
        };
        match seat.wait(
            &format!("process {} for {what}", self.life.id()),
            deadline,
            wake,
        ) {
            Waited::Woken => true,
            Waited::TimeIsUp => false,
            Waited::Over => self.die(),
        }
    }

    pub(crate) fn is_seated(&self) -> bool {
        self.seat.is_some()
    }

    fn die(&self) -> ! {
        self.life.end();
        panic::resume_unwind(Box::new(Kill))
    }

    /// A process that dies at its call number `call`, counted from 1.
    pub fn doomed(id: u32, call: u64, moment: Moment) -> Fate {
        Fate {
            doom: Some((call, moment)),
            ..Fate::free(id)
        }
    }

    /// The same process with a fault in it.
    #[must_use]
    pub fn with(self, sabotage: Option<Sabotage>) -> Fate {
        Fate { sabotage, ..self }
    }

    /// The same process, of which one call fails.
    #[must_use]
    pub fn with_fault(self, fault: Option<Fault>) -> Fate {
        Fate { fault, ..self }
    }

    /// The same process, of which all calls that the fault names fail, until [`Fate::lift_faults`].
    #[must_use]
    pub fn failing_always(self, fault: LastingFault) -> Fate {
        self.failing_from(1, fault)
    }

    /// The same, from its call number `call` on, counted from 1.
    #[must_use]
    pub fn failing_from(self, call: u64, fault: LastingFault) -> Fate {
        self.lasting.add(fault, Some((self.id(), call)));
        self
    }

    /// No call fails any more for a fault that stays, neither in this process nor elsewhere in its world.
    pub fn lift_faults(&self) {
        self.lasting.lift();
    }

    /// The same process, whose world has these faults.
    #[must_use]
    pub(crate) fn in_world(self, lasting: &Lasting) -> Fate {
        Fate {
            lasting: lasting.clone(),
            ..self
        }
    }

    /// The faults that stay.
    pub(crate) fn lasting(&self) -> &Lasting {
        &self.lasting
    }

    /// The same process, in whose world something happens just before its call number `call`.
    #[must_use]
    pub fn interrupted(self, call: u64, what: Box<dyn FnOnce()>) -> Fate {
        INTERRUPTION.set(Some(what));
        Fate {
            interrupted_at: Some(call),
            ..self
        }
    }

    /// The error that a call was given, in words: none if the process made no such call, or the call has no such error.
    pub fn given_fault(&self) -> Option<String> {
        let given = self.given.lock();
        given.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the next call, which can fail in as many ways as there are in `errors`, is to fail; how.
    pub(crate) fn fault<E: Copy + std::fmt::Debug>(&self, op: &str, errors: &[E]) -> Option<E> {
        let fault = self.fault.filter(|fault| fault.call == self.calls() + 1)?;
        let error = *errors.get(fault.choice)?;
        if !self.life.lives() {
            return None;
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        *given = Some(format!("{op}: {error:?}"));
        Some(error)
    }

    pub(crate) fn trusts_guests(&self) -> bool {
        self.sabotage == Some(Sabotage::TrustGuest)
    }

    pub(crate) fn ignores_errors(&self, op: &str) -> bool {
        matches!(self.sabotage, Some(Sabotage::IgnoreErrors(ignored)) if ignored == op)
    }

    pub(crate) fn forgets(&self, op: &str) -> bool {
        matches!(self.sabotage, Some(Sabotage::Forget(forgotten)) if forgotten == op)
    }

    pub(crate) fn takes_no_lock(&self, path: &Path) -> bool {
        matches!(self.sabotage, Some(Sabotage::NoLock(part)) if path.to_string_lossy().contains(part))
    }

    pub(crate) fn writes_late(&self) -> bool {
        self.sabotage == Some(Sabotage::WriteLate)
    }

    /// The calls that it has made.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.life.id()
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// Runs the process. When it returns, it is dead.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> Ended<T> {
        self.seat.iter().for_each(Seat::enter);
        let outcome = panic::catch_unwind(AssertUnwindSafe(body));
        self.life.end();
        self.seat.iter().for_each(Seat::leave);
        match outcome {
            Ok(value) => Ended::Well(value),
            Err(payload) if payload.is::<Kill>() => Ended::Killed,
            Err(payload) => panic::resume_unwind(payload),
        }
    }

    /// Whether the call that the process died at has parts: if not, dying midway is dying before it.
    pub fn died_at_parts(&self) -> bool {
        self.has_parts.load(Ordering::Relaxed)
    }

    /// One call that crosses a port, and happens whole or not at all. To the dead, who still let go of
    /// what they hold, the answer is `dead`.
    pub(crate) fn call<T>(&self, effect: impl FnOnce() -> T, dead: impl FnOnce() -> T) -> T {
        self.call_in_parts(None::<fn()>, effect, dead)
    }

    /// One call that can happen in part: `midway` is what has happened when the process dies in it.
    pub(crate) fn call_in_parts<T>(
        &self,
        midway: Option<impl FnOnce()>,
        effect: impl FnOnce() -> T,
        dead: impl FnOnce() -> T,
    ) -> T {
        if !self.life.lives() {
            return dead();
        }
        self.turn();
        let now = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.interrupted_at == Some(now) {
            let what = INTERRUPTION.take();
            what.into_iter().for_each(|what| what());
        }
        match self.doom {
            Some((call, moment)) if call == now => {
                self.has_parts.store(midway.is_some(), Ordering::Relaxed);
                let answer = match (moment, midway) {
                    (Moment::Midway, Some(midway)) => {
                        midway();
                        None
                    }
                    (Moment::Before | Moment::Midway, _) => None,
                    (Moment::After, _) => Some(effect()),
                };
                // What the answer holds, such as a lock, is the dead's.
                self.life.end();
                drop(answer);
                self.die()
            }
            _ => effect(),
        }
    }
}
