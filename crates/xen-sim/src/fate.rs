//! The fate of a simulated process: at which call it dies, or which call fails.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use os_port::mem::Life;

use crate::lasting::{Lasting, LastingFault};
use crate::turns::{Seat, Waited, Wake};

/// The moment within a call at which a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the call has any effect.
    Before,
    /// After a part of its effect, if the call has parts; otherwise as [`Moment::Before`].
    Midway,
    /// After the whole effect, before the process sees the answer.
    After,
}

impl Moment {
    /// All moments, in order.
    pub const ALL: [Moment; 3] = [Moment::Before, Moment::Midway, Moment::After];
}

/// The end of a process.
#[derive(Debug)]
pub enum Ended<T> {
    /// The process returned a value.
    Well(T),
    /// The process was killed.
    Killed,
}

/// The payload of the unwinding that ends a process.
struct Kill;

/// A fault of the toolstack that a test inserts. The checkers must find its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Calls of this name do nothing and report success: a forgotten undo.
    Forget(&'static str),
    /// Hypercalls of this name fail, and the toolstack ignores the error.
    IgnoreErrors(&'static str),
    /// The toolstack reads its facts about devices from nodes that the guest can write to.
    TrustGuest,
    /// An append is written only with the next append. So a record is written after its effect instead of before.
    WriteLate,
    /// Locks whose paths contain this text are taken although another process holds them: a forgotten lock.
    NoLock(&'static str),
}

/// The fate of a process. Clones share the same fate.
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
    /// Number of the call in the process, from 1.
    pub call: u64,
    /// Index of the error among those that the call can return, from 0.
    pub choice: usize,
}

thread_local! {
    /// A change of the world in the middle of a process. A world belongs to one thread, and so does this.
    static INTERRUPTION: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

impl Fate {
    /// The fate of a process that no test kills.
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

    /// Makes the process wait for its turn at each call.
    #[must_use]
    pub fn seated(self, seat: Seat) -> Fate {
        Fate {
            seat: Some(seat),
            ..self
        }
    }

    /// Gives other processes their turns. A process alone continues at once.
    pub(crate) fn turn(&self) {
        let seat = self.seat.as_ref().filter(|_| self.life.lives());
        if seat.is_some_and(|seat| !seat.pass()) {
            self.die();
        }
    }

    /// Waits until `wake` returns true or the deadline has passed, while other processes run. Returns whether `wake`
    /// came first. A process alone does not wait.
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

    /// Adds a fault of the toolstack.
    #[must_use]
    pub fn with(self, sabotage: Option<Sabotage>) -> Fate {
        Fate { sabotage, ..self }
    }

    /// Lets one call of the process fail.
    #[must_use]
    pub fn with_fault(self, fault: Option<Fault>) -> Fate {
        Fate { fault, ..self }
    }

    /// Lets all calls that the fault names fail, until [`Fate::lift_faults`].
    #[must_use]
    pub fn failing_always(self, fault: LastingFault) -> Fate {
        self.failing_from(1, fault)
    }

    /// As [`Fate::failing_always`], from call number `call` on, counted from 1.
    #[must_use]
    pub fn failing_from(self, call: u64, fault: LastingFault) -> Fate {
        self.lasting.add(fault, Some((self.id(), call)));
        self
    }

    /// Ends all lasting faults, in this process and in its world.
    pub fn lift_faults(&self) {
        self.lasting.lift();
    }

    /// Adds the lasting faults of its world.
    #[must_use]
    pub(crate) fn in_world(self, lasting: &Lasting) -> Fate {
        Fate {
            lasting: lasting.clone(),
            ..self
        }
    }

    /// The lasting faults of its world.
    pub(crate) fn lasting(&self) -> &Lasting {
        &self.lasting
    }

    /// Runs `what` just before the process's call number `call`.
    #[must_use]
    pub fn interrupted(self, call: u64, what: Box<dyn FnOnce()>) -> Fate {
        INTERRUPTION.set(Some(what));
        Fate {
            interrupted_at: Some(call),
            ..self
        }
    }

    /// The error that [`Fault`] caused, as text. `None` if the process made no such call, or the call has no such
    /// error.
    pub fn given_fault(&self) -> Option<String> {
        let given = self.given.lock();
        given.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The error that the next call must return, if any. `errors` are its possible errors.
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

    /// Number of calls that the process has made.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// PID of the process.
    pub fn id(&self) -> u32 {
        self.life.id()
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// Runs the process. It is dead when this returns.
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

    /// Whether the call at which the process died has parts. Without parts, a death midway equals a death before the
    /// call.
    pub fn died_at_parts(&self) -> bool {
        self.has_parts.load(Ordering::Relaxed)
    }

    /// Makes a call that crosses a port and happens as a whole or not at all. A dead process that drops its handles
    /// gets the answer `dead`.
    pub(crate) fn call<T>(&self, effect: impl FnOnce() -> T, dead: impl FnOnce() -> T) -> T {
        self.call_in_parts(None::<fn()>, effect, dead)
    }

    /// Makes a call to the operating system that is neither about files nor about the hypervisor. `errors` are its
    /// possible errors.
    pub(crate) fn os_call<T>(
        &self,
        op: &str,
        errors: &[ErrorKind],
        effect: impl FnOnce() -> io::Result<T>,
        dead: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(errno) = self.lasting.os(self, op) {
            return self.call(|| Err(io::Error::from_raw_os_error(errno.0)), dead);
        }
        match self.fault(op, errors) {
            Some(error) => self.call(|| Err(error.into()), dead),
            None => self.call(effect, dead),
        }
    }

    /// Makes a call that can happen in part. `midway` is the partial effect when the process dies in it.
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
                // A result of the call, such as a lock, belongs to the dead process.
                self.life.end();
                drop(answer);
                self.die()
            }
            _ => effect(),
        }
    }
}
