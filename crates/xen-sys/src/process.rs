//! A child of this process: its PID, its kill and its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use os_port::{Child, ChildEnd, EventSource, HeldProcess, ProcessSignal, Readiness, send_by_pidfd};

/// A child of this process with its pidfd. Its PID may already belong to another process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: libc::pid_t,
    pidfd: OwnedFd,
}

impl Process {
    /// A child by its number, and the descriptor that was made with it.
    pub(crate) fn new(pid: libc::pid_t, pidfd: OwnedFd) -> Process {
        Process { pid, pidfd }
    }

    /// A child that has not been waited for.
    pub(crate) fn of_child(pid: libc::pid_t) -> io::Result<Process> {
        // SAFETY: the call takes numbers.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let pidfd = RawFd::try_from(pidfd).unwrap_or(-1);
        if pidfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Process { pid, pidfd })
    }

    /// PID of the child.
    pub(crate) fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Kills the child with SIGKILL.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let pidfd = self.pidfd.as_raw_fd();
        let no_info = ptr::null::<libc::siginfo_t>();
        // SAFETY: the call takes numbers, and a null pointer for what it would say of itself (pidfd_send_signal(2)).
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd,
                libc::SIGKILL,
                no_info,
                0,
            )
        };
        match sent {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Kills the child with SIGKILL, and all processes of its group, which it leads. It has not been waited for, so its PID is no other
    /// group's.
    pub(crate) fn kill_group(&self) -> io::Result<()> {
        // SAFETY: the call takes numbers.
        unsafe { libc::kill(-self.pid, libc::SIGKILL) };
        // A child that has not made its group yet is killed alone.
        self.kill()
    }

    /// Waits for the child's end. Returns its exit code, or `None` if a signal ended it.
    pub(crate) fn wait(&self) -> io::Result<Option<i32>> {
        self.wait_with(libc::WEXITED)
    }

    fn wait_with(&self, options: libc::c_int) -> io::Result<Option<i32>> {
        let pidfd = self.pidfd.as_raw_fd().unsigned_abs();
        // SAFETY: all-zero bytes are a `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: the call fills in the structure, which is ours and outlives the call.
            let waited = unsafe { libc::waitid(libc::P_PIDFD, pidfd, &mut info, options) };
            let error = io::Error::last_os_error();
            match waited {
                0 => break,
                _ if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
        // SAFETY: `waitid` has filled in what it says of a child that has ended.
        let status = unsafe { info.si_status() };
        Ok((info.si_code == libc::CLD_EXITED).then_some(status))
    }
}

impl EventSource for Process {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        vec![Readiness::Descriptor(self.as_fd())]
    }
}

impl HeldProcess for Process {
    fn send(&self, signal: ProcessSignal) -> io::Result<()> {
        send_by_pidfd(self, signal)
    }
}

impl Child for Process {
    fn id(&self) -> u32 {
        Process::id(self)
    }

    /// The child stays one that has not been waited for, so that each look finds its end.
    fn end(&self) -> io::Result<Option<ChildEnd>> {
        if !self.is_ready()? {
            return Ok(None);
        }
        let code = self.wait_with(libc::WEXITED | libc::WNOWAIT)?;
        Ok(Some(code.map_or(ChildEnd::Signal, ChildEnd::Exit)))
    }
}

impl Drop for Process {
    /// Waits for a child that has ended, so that it leaves no zombie. A child that runs is left to run.
    fn drop(&mut self) {
        let _ = self.wait_with(libc::WEXITED | libc::WNOHANG);
    }
}

impl AsFd for Process {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Waits until one of two descriptors is readable. Returns for each whether it is. Ignores the second one if it is
/// closed.
pub(crate) fn wait_for(
    [first, second]: [BorrowedFd<'_>; 2],
    is_second_open: bool,
    limit: Duration,
) -> io::Result<[bool; 2]> {
    let watched = |fd: BorrowedFd<'_>, is_watched: bool| libc::pollfd {
        // A negative descriptor is passed over (poll(2)).
        fd: if is_watched { fd.as_raw_fd() } else { -1 },
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled = [watched(first, true), watched(second, is_second_open)];
    let limit_ms = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the call reads and writes the two structures, which are ours and outlive it.
    let found = unsafe { libc::poll(polled.as_mut_ptr(), 2, limit_ms) };
    match (found, io::Error::last_os_error()) {
        (..0, error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        (..0, _) => Ok([false; 2]),
        _ => Ok(polled.map(|one| one.revents != 0)),
    }
}
