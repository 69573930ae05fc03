//! How long a process lives.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use os_port::mem::Life;

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
    /// What is added to a file is written only when more is added: a record that comes after what it
    /// is about, where it should come before.
    WriteLate,
}

/// The fate of a process; clones are the same one.
#[derive(Clone, Debug)]
pub struct Fate {
    sabotage: Option<Sabotage>,
    life: Life,
    calls: Arc<AtomicU64>,
    has_parts: Arc<AtomicBool>,
    doom: Option<(u64, Moment)>,
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
        }
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

    pub(crate) fn forgets(&self, op: &str) -> bool {
        matches!(self.sabotage, Some(Sabotage::Forget(forgotten)) if forgotten == op)
    }

    pub(crate) fn writes_late(&self) -> bool {
        self.sabotage == Some(Sabotage::WriteLate)
    }

    /// The calls that it has made.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// Runs the process. When it returns, it is dead.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> Ended<T> {
        let outcome = panic::catch_unwind(AssertUnwindSafe(body));
        self.life.end();
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
        let now = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
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
                panic::resume_unwind(Box::new(Kill))
            }
            _ => effect(),
        }
    }
}
