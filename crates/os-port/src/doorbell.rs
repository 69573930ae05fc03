//! Doorbells: one process rings at another one's, and notices whether it rings back or ends.
//!
//! A ring has no contents. Requests are in files; a ring only means "read them". So a lost or repeated ring does no
//! harm, and there is nothing to parse.
//!
//! The real doorbell is a Unix socket (`SOCK_SEQPACKET`) that only its owner's user can connect to. A FIFO would not
//! show the end of the other side. An inotify watch per VM would use up the 128 instances that Linux allows a user by
//! default.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::wait::{EventSource, Readiness};

/// Maximum number of callers that are connected at a time. Rings of further callers are read, and get no ring back.
pub const CALLERS_MAX: usize = 64;
/// Connections that wait until the owner comes to accept them.
const BACKLOG: i32 = 128;
/// Mode of a doorbell's file.
const MODE: Mode = Mode::from_raw_mode(0o600);
/// A ring on the wire.
const RING: &[u8] = &[1];
/// Ending of the name under which a doorbell is made.
const NEW: &str = ".new";

/// The port to doorbells.
pub trait Doorbells: fmt::Debug {
    /// Installs a doorbell at a path, in place of one that a dead process has left there. The folder must exist. The
    /// caller makes sure that no living process has the same one.
    ///
    /// # Errors
    /// The system's error.
    fn install(&self, path: &Path) -> io::Result<Box<dyn Doorbell>>;

    /// Removes the file of a doorbell that a dead process has left.
    ///
    /// # Errors
    /// The system's error. A missing file is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Connects to a doorbell and rings.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] or [`io::ErrorKind::ConnectionRefused`] if no process has it;
    /// [`io::ErrorKind::WouldBlock`] if its owner leaves too many callers unanswered; otherwise the system's error.
    fn call(&self, path: &Path) -> io::Result<Rc<dyn Call>>;
}

/// An installed doorbell, for its owner. The callers learn when it is dropped.
pub trait Doorbell: EventSource + fmt::Debug {
    /// Takes all rings that have come. Returns whether there was one.
    ///
    /// # Errors
    /// The system's error.
    fn take(&mut self) -> io::Result<bool>;

    /// Rings back all callers that are connected.
    ///
    /// # Errors
    /// The system's error.
    fn ring_back(&mut self) -> io::Result<()>;

    /// Removes the doorbell's file, unless another process has a doorbell there by now. Callers that are connected stay
    /// so.
    ///
    /// # Errors
    /// The system's error. A missing file is no error.
    fn uninstall(&self) -> io::Result<()>;
}

/// A connection to the doorbell of another process.
pub trait Call: EventSource + fmt::Debug {
    /// Rings again.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] if the owner has ended; otherwise the system's error.
    fn ring(&self) -> io::Result<()>;

    /// Takes what has come from the owner.
    ///
    /// # Errors
    /// The system's error.
    fn take(&self) -> io::Result<Heard>;
}

/// The reply to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing has come.
    Nothing,
    /// The owner has rung back.
    Ring,
    /// The owner has ended, or has removed this caller.
    End,
}

/// The doorbells of the real system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDoorbells;

impl Doorbells for SystemDoorbells {
    fn install(&self, path: &Path) -> io::Result<Box<dyn Doorbell>> {
        let (folder, name) = place_of(path)?;
        let new = format!("{name}{NEW}");
        remove(&folder, &new)?;
        let listener = socket()?;
        // Before the bind: the file has this mode from its first moment.
        rustix::fs::fchmod(&listener, MODE)?;
        rustix::net::bind(&listener, &address(&folder, &new)?)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let identity = identity_of(&folder, &new)?;
        rustix::fs::renameat(&folder, new.as_str(), &folder, name)?;
        Ok(Box::new(SystemDoorbell {
            path: path.to_owned(),
            identity,
            listener,
            callers: Vec::new(),
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match place_of(path) {
            Ok((folder, name)) => remove(&folder, name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn call(&self, path: &Path) -> io::Result<Rc<dyn Call>> {
        let (folder, name) = place_of(path)?;
        let socket = socket()?;
        rustix::net::connect(&socket, &address(&folder, name)?)?;
        Ok(Rc::new(SystemCall { socket }))
    }
}

fn socket() -> io::Result<OwnedFd> {
    // The monitor's seccomp filter allows exactly these flags.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// The folder of a doorbell, open, and the doorbell's name in it.
fn place_of(path: &Path) -> io::Result<(OwnedFd, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(folder), Some(name)) = (path.parent(), name) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    Ok((folder, name))
}

/// The address by way of the open folder: a socket's path has at most 107 bytes, and a folder's may have more.
fn address(folder: &OwnedFd, name: &str) -> io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    Ok(SocketAddrUnix::new(path)?)
}

/// Device and inode of a file: no other file has both while this one is open.
type Identity = (rustix::fs::Dev, u64);

/// Identity of a file; `None` if it is missing.
fn identity_of(folder: &OwnedFd, name: &str) -> io::Result<Option<Identity>> {
    match rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        other => Ok(other.map(|stat| Some((stat.st_dev, stat.st_ino)))?),
    }
}

fn remove(folder: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[derive(Debug)]
struct SystemDoorbell {
    path: PathBuf,
    /// Identity of the file: another doorbell at this path has another one.
    identity: Option<Identity>,
    listener: OwnedFd,
    callers: Vec<OwnedFd>,
}

impl SystemDoorbell {
    /// Accepts all waiting callers. Returns whether there was one.
    fn accept_all(&mut self) -> io::Result<bool> {
        let mut has_rung = false;
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(caller) if self.callers.len() < CALLERS_MAX => {
                    has_rung = true;
                    self.callers.push(caller);
                }
                Ok(_) => has_rung = true,
                Err(Errno::AGAIN) => return Ok(has_rung),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads from all callers, and drops those that have ended. Returns whether one has rung.
    fn hear_all(&mut self) -> bool {
        let mut has_rung = false;
        self.callers.retain(|caller| {
            loop {
                match receive(caller) {
                    Ok(Received::Ring) => has_rung = true,
                    Ok(Received::Nothing) => return true,
                    // A broken connection ends like one that was closed.
                    Ok(Received::End) | Err(_) => return false,
                }
            }
        });
        has_rung
    }
}

impl EventSource for SystemDoorbell {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        let all = [&self.listener].into_iter().chain(&self.callers);
        all.map(|fd| Readiness::Descriptor(fd.as_fd())).collect()
    }
}

impl Doorbell for SystemDoorbell {
    fn take(&mut self) -> io::Result<bool> {
        let has_rung = self.hear_all();
        Ok(self.accept_all()? || has_rung)
    }

    fn ring_back(&mut self) -> io::Result<()> {
        // A caller that has not read its earlier rings needs no further one.
        self.callers.retain(|caller| {
            let sent = send_ring(caller);
            matches!(sent, Ok(()) | Err(Errno::AGAIN))
        });
        Ok(())
    }

    fn uninstall(&self) -> io::Result<()> {
        match place_of(&self.path) {
            Ok((folder, name)) if identity_of(&folder, name)? == self.identity => {
                remove(&folder, name)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
struct SystemCall {
    socket: OwnedFd,
}

impl EventSource for SystemCall {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        vec![Readiness::Descriptor(self.socket.as_fd())]
    }
}

impl Call for SystemCall {
    fn ring(&self) -> io::Result<()> {
        match send_ring(&self.socket) {
            // The owner has rings enough to read.
            Err(Errno::AGAIN) => Ok(()),
            other => Ok(other?),
        }
    }

    fn take(&self) -> io::Result<Heard> {
        let mut heard = Heard::Nothing;
        loop {
            match receive(&self.socket)? {
                Received::Ring => heard = Heard::Ring,
                Received::Nothing => return Ok(heard),
                // The ring first: the next call finds the end again.
                Received::End if heard == Heard::Ring => return Ok(heard),
                Received::End => return Ok(Heard::End),
            }
        }
    }
}

fn send_ring(socket: &OwnedFd) -> rustix::io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match rustix::net::send(socket, RING, flags) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// The bytes read from a connection.
enum Received {
    Nothing,
    Ring,
    End,
}

fn receive(socket: &OwnedFd) -> io::Result<Received> {
    let mut bytes = [0; 16];
    loop {
        match rustix::net::recv(socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(Received::End),
            Ok(_) => return Ok(Received::Ring),
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    #[test]
    fn a_doorbell_is_its_users_alone_and_replaces_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the path of a socket may be.
        let folder = folder.path().join("x".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("bell");
        let none = SystemDoorbells.call(&path).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        drop(SystemDoorbells.install(&path).unwrap());
        let dead = SystemDoorbells.call(&path).unwrap_err();
        assert_eq!(dead.kind(), io::ErrorKind::ConnectionRefused);
        let bell = SystemDoorbells.install(&path).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        SystemDoorbells.call(&path).unwrap();
        bell.uninstall().unwrap();
        bell.uninstall().unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn another_doorbell_at_the_same_path_is_not_uninstalled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bell");
        let before = SystemDoorbells.install(&path).unwrap();
        let now = SystemDoorbells.install(&path).unwrap();
        before.uninstall().unwrap();
        SystemDoorbells.call(&path).unwrap();
        now.uninstall().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn many_callers_are_heard_and_those_who_go_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bell");
        let mut bell = SystemDoorbells.install(&path).unwrap();
        let calls: Vec<_> = (0..CALLERS_MAX + 3)
            .map(|_| SystemDoorbells.call(&path).unwrap())
            .collect();
        assert!(bell.take().unwrap() && !bell.take().unwrap());
        assert_eq!(bell.readiness().len(), 1 + CALLERS_MAX);
        let ended = |call: &Rc<dyn Call>| call.take().unwrap() == Heard::End;
        assert_eq!(calls.iter().filter(|call| ended(call)).count(), 3);
        drop(calls);
        assert!(bell.is_ready().unwrap());
        assert!(!bell.take().unwrap());
        assert!(!bell.is_ready().unwrap());
        assert_eq!(bell.readiness().len(), 1);
    }
}
