//! A child of this process: its PID, its kill and its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use os_port::{Child, ChildEnd, EventSource, HeldProcess, ProcessSignal, Readiness, send_by_pidfd};

/// The device by which a process maps the memory of guests.
const PRIVCMD: &str = "/dev/xen/privcmd";
/// The request that leaves an open file of privcmd one domain (`IOCTL_PRIVCMD_RESTRICT` of xen/privcmd.h).
const RESTRICT: libc::Ioctl = 0x0002_5006;

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

    /// The work of [`Child::is_of_user`].
    pub(crate) fn is_of_user(&self, uid: u32) -> io::Result<bool> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let mut users = users.unwrap_or_default().split_whitespace().peekable();
        Ok(users.peek().is_some() && users.all(|user| user.parse() == Ok(uid)))
    }

    /// See [`Child::keep_to_domain`]. A file of privcmd that the child opens later would not be restricted.
    pub(crate) fn keep_to_domain(&self, domid: u16) -> io::Result<()> {
        let privcmd = fs::metadata(PRIVCMD)?.rdev();
        let folder = PathBuf::from(format!("/proc/{}/fd", self.pid));
        let mut is_found = false;
        for number in self.files_of_device(&folder, privcmd)? {
            restrict(&self.file(number)?, domid)?;
            is_found = true;
        }
        match is_found {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The numbers of its open files of a device, by procfs.
    fn files_of_device(&self, folder: &Path, device: u64) -> io::Result<Vec<RawFd>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let number = number.ok_or(io::ErrorKind::InvalidData)?;
            match fs::metadata(folder.join(&name)) {
                Ok(facts) if facts.rdev() == device => found.push(number),
                Ok(_) => {}
                // The child has closed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// An open file of the child: the same one, so that a change of it is a change of the child's.
    fn file(&self, number: RawFd) -> io::Result<OwnedFd> {
        let pidfd = self.pidfd.as_raw_fd();
        // SAFETY: the call takes numbers.
        let file = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) };
        let file = RawFd::try_from(file).unwrap_or(-1);
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(file) })
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

/// Leaves an open file of privcmd one domain.
fn restrict(file: &OwnedFd, domid: u16) -> io::Result<()> {
    // SAFETY: the request reads a `domid_t`, a number of 16 bits, which outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), RESTRICT, &raw const domid) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
