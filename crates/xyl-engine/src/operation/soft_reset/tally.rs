//! The resets of one domain, counted. A guest may reset itself as often as it likes; that must fill no log, and leave
//! xenstored and the host's CPUs to the others.

use std::time::{Duration, Instant};

use xen_port::DomId;

/// Shortest time between two lines in the log about a guest that resets itself all the time.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Factor from the time that a domain's last reset took to the wait before the next one. Resets of one guest take a quarter of
/// the time at most, unless one takes more than a third of [`REST_MAX`].
const REST_TIMES: u32 = 3;
/// The shortest such wait. Each reset wakes every process that waits for a domain's end, so a guest gets one a second.
const REST_MIN: Duration = Duration::from_secs(1);
/// The longest such wait, so that a guest whose reset was slow once is not held up for ever.
const REST_MAX: Duration = Duration::from_secs(60);

/// The resets of one domain that went well.
#[derive(Debug, Default)]
pub struct Tally {
    rests_until: Option<Instant>,
    told_at: Option<Instant>,
    untold: u64,
    is_explained: bool,
}

impl Tally {
    /// From when on the next reset may begin; `None` for the first.
    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// A domain has to wait for its next reset: the line that says why, the first time.
    pub fn explain(&mut self, domid: DomId) -> Option<String> {
        let is_new = !std::mem::replace(&mut self.is_explained, true);
        is_new.then(|| {
            format!(
                "domain {domid} asks for one soft reset after the other: from now on each waits for {REST_TIMES} times as long as the last one took, {} s at least and {} s at most",
                REST_MIN.as_secs(),
                REST_MAX.as_secs()
            )
        })
    }

    /// Counts a reset of the domain that took so long; the line to write, if it is time for one: with the first, then
    /// every minute at most.
    pub fn count(&mut self, domid: DomId, now: Instant, took: Duration) -> Option<String> {
        let rest = took.saturating_mul(REST_TIMES).clamp(REST_MIN, REST_MAX);
        self.rests_until = now.checked_add(rest);
        self.untold += 1;
        if self.told_at.is_some_and(|at| now < at + TELL_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        let count = std::mem::take(&mut self.untold);
        let took_ms = took.as_millis();
        Some(format!(
            "domain {domid} asked for a soft reset, and runs again: {count} times since this was last said, {took_ms} ms the last time"
        ))
    }
}
