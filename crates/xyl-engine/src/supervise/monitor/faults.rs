//! Errors that decide nothing about the VM, and the pauses after them.

use std::time::{Duration, Instant};

use crate::supervise::restart_backoff;
use crate::{EngineError, Host};

/// Beginning of the log line for an error in finding out the VM's state.
pub(super) const NOT_LOOKED_AFTER: &str = "cannot look after it";

/// Errors in a row that decide nothing about the VM. The count is in memory, because the disk may be what fails.
#[derive(Default)]
pub(super) struct Faults {
    count: u32,
    last: Option<Instant>,
}

impl Faults {
    /// Counts an error, and returns the pause after it.
    fn pause(&mut self, now: Instant) -> Duration {
        let longest = Duration::from_secs(restart_backoff::PAUSE_MAX_S);
        let is_in_a_row = |last: Instant| now.saturating_duration_since(last) < longest * 2;
        self.count = match self.last {
            Some(last) if is_in_a_row(last) => self.count.saturating_add(1),
            _ => 1,
        };
        self.last = Some(now);
        Duration::from_secs(restart_backoff::pause_s(self.count.saturating_add(1)))
    }

    /// Logs an error, and returns the pause after it.
    pub fn report(&mut self, host: &Host, fault: &Fault, log: &mut dyn FnMut(&str)) -> Duration {
        let pause = self.pause(host.clock.now());
        log(&format!(
            "{}: {}. The next try follows in {} s",
            fault.what,
            fault.cause,
            pause.as_secs()
        ));
        pause
    }
}

/// An error that decides nothing about the VM.
pub(super) struct Fault {
    /// Beginning of the log line: the work that has failed.
    pub what: &'static str,
    /// The error of that work.
    pub cause: EngineError,
}

impl<E: Into<EngineError>> From<E> for Fault {
    fn from(cause: E) -> Fault {
        Fault {
            what: NOT_LOOKED_AFTER,
            cause: cause.into(),
        }
    }
}
