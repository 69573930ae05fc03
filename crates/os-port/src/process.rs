//! Other processes of this host, held by their pidfd: children, and processes that procfs shows.
//!
//! A PID alone may belong to a later process. A held process keeps its PID, so a signal reaches it or no process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Clock;
use crate::wait::{EventSource, Readiness};

/// A signal to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSignal {
    /// Asks the process to end: SIGTERM.
    Terminate,
    /// Ends the process: SIGKILL.
    Kill,
    /// Stops the process: SIGSTOP.
    Stop,
    /// Lets a stopped process run on: SIGCONT.
    Continue,
}

/// A held process. As an [`EventSource`] it has something once the process has ended.
pub trait HeldProcess: EventSource + fmt::Debug {
    /// Sends a signal. A process that has ended is no error.
    ///
    /// # Errors
    /// The system's error.
    fn send(&self, signal: ProcessSignal) -> io::Result<()>;
}

impl<T: HeldProcess + ?Sized> HeldProcess for Box<T> {
    fn send(&self, signal: ProcessSignal) -> io::Result<()> {
        (**self).send(signal)
    }
}

/// A program that this process has started, and that runs beside it. The drop leaves it running.
pub trait Child: HeldProcess {
    /// PID of the child.
    fn id(&self) -> u32;

    /// The end of the child; `None` while it runs.
    ///
    /// # Errors
    /// The system's error.
    fn end(&self) -> io::Result<Option<ChildEnd>>;

    /// Has the kernel end this process before others when memory is short (`oom_score_adj`, proc(5)).
    ///
    /// # Errors
    /// The system's error.
    fn be_ended_first(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the child is of this user for good: its real, effective, saved and file system user.
    ///
    /// # Errors
    /// The system's error.
    fn is_of_user(&self, uid: u32) -> io::Result<bool> {
        let _ = uid;
        Ok(true)
    }

    /// Leaves the child the memory of this domain alone, of all guests whose memory it can map: each of its open files of
    /// `/dev/xen/privcmd` is restricted for ever (`IOCTL_PRIVCMD_RESTRICT`).
    ///
    /// # Errors
    /// The system's error. [`io::ErrorKind::NotFound`] if the child has no such file.
    fn keep_to_domain(&self, domid: u16) -> io::Result<()> {
        let _ = domid;
        Ok(())
    }

    /// The start of the text that the child has written to its standard error so far, at most [`SAID_MAX_BYTES`](crate::SAID_MAX_BYTES)
    /// bytes. Empty unless [`Given::keeps_errors`](crate::Given::keeps_errors) was set.
    fn said(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Writes to the child's standard input, which ends with this value.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::WouldBlock`] if the child reads too little; [`io::ErrorKind::Unsupported`] unless
    /// [`Given::takes_commands`](crate::Given::takes_commands) was set.
    fn tell(&self, text: &[u8]) -> io::Result<()> {
        let _ = text;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The end of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEnd {
    /// The program returned this exit code.
    Exit(i32),
    /// A signal ended the program.
    Signal,
}

/// Waits for the end of a process. Returns whether it ended within `limit`.
///
/// # Errors
/// The system's error.
pub fn ends_within(
    process: &dyn HeldProcess,
    clock: &dyn Clock,
    limit: Duration,
) -> io::Result<bool> {
    let deadline = clock.now() + limit;
    loop {
        if process.is_ready()? {
            return Ok(true);
        }
        if clock.now() >= deadline {
            return Ok(false);
        }
        clock.wait_for(process.readiness(), deadline)?;
    }
}

/// A process of the real system.
#[derive(Debug)]
pub(crate) struct SystemHeld(OwnedFd);

impl SystemHeld {
    /// Holds the process that has this PID now.
    pub(crate) fn of(pid: u32) -> io::Result<Option<SystemHeld>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => Ok(None),
            other => Ok(Some(SystemHeld(other?))),
        }
    }
}

impl EventSource for SystemHeld {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        vec![Readiness::Descriptor(self.0.as_fd())]
    }
}

impl HeldProcess for SystemHeld {
    fn send(&self, signal: ProcessSignal) -> io::Result<()> {
        send_by_pidfd(&self.0, signal)
    }
}

/// Sends a signal by a pidfd. A process that has ended is no error.
///
/// # Errors
/// The system's error.
pub fn send_by_pidfd(pidfd: impl AsFd, signal: ProcessSignal) -> io::Result<()> {
    let signal = match signal {
        ProcessSignal::Terminate => Signal::TERM,
        ProcessSignal::Kill => Signal::KILL,
        ProcessSignal::Stop => Signal::STOP,
        ProcessSignal::Continue => Signal::CONT,
    };
    match pidfd_send_signal(pidfd, signal) {
        Err(Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}
