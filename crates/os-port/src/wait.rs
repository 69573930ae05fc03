//! Waits for several sources at once. [`Clock::wait_for`](crate::Clock::wait_for) waits for [`EventSource`]s.
//!
//! A wait takes nothing from a source. It returns when a source has something, and the caller asks each source. So a
//! wait inside another wait names only its own sources, and the events of the others stay in their sources.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A function that returns true once a simulated source has something.
pub type Arrival = Box<dyn Fn() -> bool + Send>;

/// The way a process learns that a source has something.
pub enum Readiness<'a> {
    /// The descriptor is readable then.
    Descriptor(BorrowedFd<'a>),
    /// The function returns true then.
    Simulated(Arrival),
}

impl fmt::Debug for Readiness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Readiness::Descriptor(fd) => f.debug_tuple("Descriptor").field(fd).finish(),
            Readiness::Simulated(_) => f.write_str("Simulated"),
        }
    }
}

impl Readiness<'_> {
    /// Whether the source has something now.
    ///
    /// # Errors
    /// The system's error.
    pub fn is_now(&self) -> io::Result<bool> {
        match self {
            Readiness::Descriptor(_) => poll_once(std::slice::from_ref(self), Some(&NO_TIME)),
            Readiness::Simulated(has_come) => Ok(has_come()),
        }
    }
}

/// Something that a process waits for: a doorbell, a child, a socket.
pub trait EventSource {
    /// All ways in which the source shows that it has something.
    fn readiness(&self) -> Vec<Readiness<'_>>;

    /// Whether the source has something now. This takes nothing from it.
    ///
    /// # Errors
    /// The system's error.
    fn is_ready(&self) -> io::Result<bool> {
        for readiness in self.readiness() {
            if readiness.is_now()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<T: EventSource + ?Sized> EventSource for Box<T> {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        (**self).readiness()
    }
}

const NO_TIME: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Waits on the real system until one of these has something, a signal comes, or the deadline has passed.
pub(crate) fn wait(awaited: &[Readiness<'_>], deadline: Instant) -> io::Result<()> {
    let is_there = |one: &Readiness<'_>| matches!(one, Readiness::Simulated(come) if come());
    if awaited.iter().any(is_there) {
        return Ok(());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    // A wait of more than a few hundred years has no limit.
    let limit = Timespec::try_from(left).ok();
    poll_once(awaited, limit.as_ref()).map(drop)
}

/// Whether a descriptor is readable or broken.
fn poll_once(awaited: &[Readiness<'_>], limit: Option<&Timespec>) -> io::Result<bool> {
    let descriptors = awaited.iter().filter_map(|one| match one {
        Readiness::Descriptor(fd) => Some(PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        Readiness::Simulated(_) => None,
    });
    let mut polled: Vec<PollFd<'_>> = descriptors.collect();
    match poll(&mut polled, limit) {
        Err(Errno::INTR) => Ok(false),
        other => Ok(other? > 0),
    }
}
