//! Connections to xenstored: its Unix socket, or the xenbus device of the kernel.

use crate::error::{Attempt, Error};
use crate::wire::{self, ErrorName, HEADER_SIZE, MessageKind, PAYLOAD_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Number of bytes that are read at once: a few packets of the largest size.
const RECEIVE_SIZE: usize = 16 * 1024;

/// A connection that carries packets to xenstored and back.
///
/// The descriptor ([`AsFd`]) is for polling only: it is readable when bytes have arrived.
pub trait Transport: AsFd + Send {
    /// Sends one or more whole packets, never more than [`Limits`] allows.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if they are not sent by the deadline; errors of the system.
    fn send(&mut self, packets: &[u8], deadline: Instant) -> io::Result<()>;

    /// Appends received bytes to `into`. Waits for the first byte until the deadline. Returns the number of bytes; 0
    /// means that xenstored has closed the connection.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if nothing arrives by the deadline; errors of the system.
    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize>;

    /// A function that returns true once something has arrived, for a transport whose descriptor is not to be polled: that
    /// of a simulated world. `None` for any other.
    fn arrival(&self) -> Option<Box<dyn Fn() -> bool + Send>> {
        None
    }

    /// Limits on what may be sent at once.
    fn limits(&self) -> Limits;

    /// Name of the connection in messages, such as `socket /run/xenstored/socket`.
    fn describe(&self) -> String;

    /// Waits before a transaction is tried again. A simulated world lets its own clock pass instead.
    fn pause(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The size limits of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of requests that may be sent before their replies are read.
    pub requests_in_flight_max: usize,
    /// Longest payload of a request, in bytes.
    pub payload_max_bytes: usize,
}

/// Connects to xenstored as libxenstore does: the socket first, then the device.
///
/// `XENSTORED_PATH` names another socket or device, `XENSTORED_RUNDIR` another folder for the socket
/// (`tools/include/xen-tools/xenstore-common.h`, `tools/libs/store/xs.c`).
///
/// # Errors
/// [`Error::NotPermittedToConnect`], else [`Error::NoDaemon`], with the attempts.
pub fn open(deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    open_first(
        &candidates(|name| std::env::var_os(name).map(PathBuf::from)),
        deadline,
    )
}

/// Opens the first of these sockets or devices that works.
///
/// # Errors
/// [`Error::NotPermittedToConnect`], else [`Error::NoDaemon`], with the attempts.
pub fn open_first(candidates: &[PathBuf], deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    let mut tried = Vec::new();
    for path in candidates {
        match open_path(path, deadline) {
            Ok(transport) => return Ok(transport),
            Err(source) => tried.push(Attempt {
                path: path.clone(),
                source,
            }),
        }
    }
    Err(no_way(tried))
}

/// The error after all attempts have failed. A daemon that refuses permission is more important than a missing one.
fn no_way(tried: Vec<Attempt>) -> Error {
    let is_refused = |attempt: &Attempt| attempt.source.kind() == ErrorKind::PermissionDenied;
    if tried.iter().any(is_refused) {
        return Error::NotPermittedToConnect { tried };
    }
    Error::NoDaemon { tried }
}

/// Sockets and devices in the order in which they are tried; `environment` looks a variable up.
fn candidates(environment: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(path) = environment("XENSTORED_PATH") {
        return vec![path];
    }
    let sockets = match environment("XENSTORED_RUNDIR") {
        Some(folder) => vec![folder.join("socket")],
        None => vec![
            "/run/xenstored/socket".into(),
            "/var/run/xenstored/socket".into(),
        ],
    };
    let devices = ["/dev/xen/xenbus".into(), "/proc/xen/xenbus".into()];
    sockets.into_iter().chain(devices).collect()
}

/// Opens a socket as a socket and anything else as the device.
fn open_path(path: &Path, deadline: Instant) -> io::Result<Box<dyn Transport>> {
    if std::fs::metadata(path)?.file_type().is_socket() {
        Ok(Box::new(SocketTransport::connect(path, deadline)?))
    } else {
        Ok(Box::new(DeviceTransport::open(path)?))
    }
}

/// Connection over xenstored's Unix socket.
///
/// Several requests may be under way at once. Both daemons read one request, act on it, queue the reply and only then read
/// the next (`handle_input` and `write_messages` in `tools/xenstored/core.c`; `do_input` and `do_output` in
/// `tools/ocaml/xenstored/process.ml`), so they are carried out and answered in the order sent. Neither can get
/// stuck on a client that has not read its replies yet: replies wait in the daemon's memory until poll says that the socket takes
/// more. The OCaml daemon stops reading at 1024 unread replies; [`Limits`] stays far below.
///
/// The C daemon reads a payload with a blocking read as soon as it has the header, so a packet must never be sent in pieces with
/// pauses between.
#[derive(Debug)]
pub struct SocketTransport {
    socket: OwnedFd,
    name: String,
    /// Bytes that arrived while a send waited for room.
    arrived: Vec<u8>,
}

impl SocketTransport {
    /// Connects to a socket.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::TimedOut`] when xenstored does not take the connection by the deadline.
    pub fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // xenstored listens with a backlog of one, so connecting waits if it is busy. For Unix sockets the send
        // time-out limits that wait, with EAGAIN at its end. Zero would mean no limit.
        let patience = remaining(deadline).max(Duration::from_millis(1));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
        match retry_interrupted(|| rustix::net::connect(&socket, &address)) {
            Ok(()) => Ok(Self::new(socket, format!("socket {}", path.display()))),
            Err(Errno::AGAIN) => Err(timed_out()),
            Err(error) => Err(error.into()),
        }
    }

    /// Uses a connected stream, for instance one half of a pair in a test.
    pub fn from_stream(stream: UnixStream, name: &str) -> Self {
        Self::new(stream.into(), name.to_owned())
    }

    fn new(socket: OwnedFd, name: String) -> Self {
        Self {
            socket,
            name,
            arrived: Vec::new(),
        }
    }

    /// Reads the available bytes without waiting.
    fn receive_now(&self, into: &mut Vec<u8>) -> rustix::io::Result<usize> {
        let mut bytes = [0; RECEIVE_SIZE];
        let (received, _) = retry_interrupted(|| {
            rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT)
        })?;
        into.extend_from_slice(bytes.get(..received).unwrap_or_default());
        Ok(received)
    }

    /// Waits for room to send, and keeps bytes that arrive meanwhile. So both sides cannot wait for each other.
    fn wait_for_room(&mut self, deadline: Instant) -> io::Result<()> {
        let ready = wait(
            self.socket.as_fd(),
            PollFlags::IN | PollFlags::OUT,
            deadline,
        )?;
        if ready.contains(PollFlags::IN) {
            let mut arrived = std::mem::take(&mut self.arrived);
            let received = self.receive_now(&mut arrived);
            self.arrived = arrived;
            if received? == 0 {
                return Err(ErrorKind::ConnectionReset.into());
            }
        }
        Ok(())
    }
}

impl Transport for SocketTransport {
    fn send(&mut self, packets: &[u8], deadline: Instant) -> io::Result<()> {
        let mut rest = packets;
        while !rest.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match retry_interrupted(|| rustix::net::send(&self.socket, rest, flags)) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait_for_room(deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        if !self.arrived.is_empty() {
            let received = self.arrived.len();
            into.append(&mut self.arrived);
            return Ok(received);
        }
        // A reply is seldom there already, so waiting comes first: a try before it would be one more system call.
        loop {
            wait(self.socket.as_fd(), PollFlags::IN, deadline)?;
            match self.receive_now(into) {
                Err(Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            requests_in_flight_max: 64,
            payload_max_bytes: PAYLOAD_MAX,
        }
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

impl AsFd for SocketTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connection through the kernel's xenbus device, as a domain without a xenstored of its own has it.
///
/// Facts from Linux' `drivers/xen/xenbus/xenbus_dev_frontend.c` (4.11 and later):
/// - one write is one message, and the whole message with its header must fit in 4096 bytes;
/// - the message stays in the buffer of the open file until the kernel has passed it on, and the next write overwrites it:
///   so one request at a time;
/// - a write does not wait for the reply, so that the deadline holds;
/// - watches are registered by the kernel; xenstored's refusal of one comes back as the error of the write.
#[derive(Debug)]
pub struct DeviceTransport {
    device: File,
    name: String,
    /// Replies made up here, for refusals that came as the error of a write.
    arrived: Vec<u8>,
}

impl DeviceTransport {
    /// Opens the device, usually `/dev/xen/xenbus`.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(path)?;
        if !device.metadata()?.file_type().is_char_device() && !path.starts_with("/proc") {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "neither a socket nor a device",
            ));
        }
        rustix::io::ioctl_fionbio(&device, true)?;
        Ok(Self {
            device,
            name: format!("device {}", path.display()),
            arrived: Vec::new(),
        })
    }

    /// Takes the error of a write for xenstored's refusal of the packet, if it is one of those that xenstored can give.
    fn refuse(&mut self, packet: &[u8], error: io::Error) -> io::Result<()> {
        let reason = error
            .raw_os_error()
            .and_then(|errno| refusal(Errno::from_raw_os_error(errno)));
        let (Some(reason), Some(request_id)) = (reason, request_id(packet)) else {
            return Err(error);
        };
        let payload = [reason.name().as_bytes(), b"\0"].concat();
        wire::encode(
            MessageKind::Error,
            request_id,
            0,
            &payload,
            &mut self.arrived,
        )
        .map_err(io::Error::other)
    }
}

impl Transport for DeviceTransport {
    fn send(&mut self, packets: &[u8], _deadline: Instant) -> io::Result<()> {
        loop {
            match self.device.write(packets) {
                Ok(written) if written == packets.len() => return Ok(()),
                Ok(_) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.refuse(packets, error),
            }
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        if !self.arrived.is_empty() {
            let received = self.arrived.len();
            into.append(&mut self.arrived);
            return Ok(received);
        }
        let mut bytes = [0; RECEIVE_SIZE];
        loop {
            match self.device.read(&mut bytes) {
                Ok(received) => {
                    into.extend_from_slice(bytes.get(..received).unwrap_or_default());
                    return Ok(received);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.device.as_fd(), PollFlags::IN, deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            requests_in_flight_max: 1,
            payload_max_bytes: PAYLOAD_MAX - HEADER_SIZE,
        }
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

impl AsFd for DeviceTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// The refusal of xenstored that the kernel passes on as this error number.
fn refusal(errno: Errno) -> Option<ErrorName> {
    match errno {
        Errno::INVAL => Some(ErrorName::Einval),
        Errno::ACCESS => Some(ErrorName::Eacces),
        Errno::PERM => Some(ErrorName::Eperm),
        Errno::EXIST => Some(ErrorName::Eexist),
        Errno::NOENT => Some(ErrorName::Enoent),
        Errno::NOMEM => Some(ErrorName::Enomem),
        Errno::NOSPC => Some(ErrorName::Enospc),
        Errno::TOOBIG => Some(ErrorName::E2big),
        _ => None,
    }
}

/// Request id of an encoded packet.
fn request_id(packet: &[u8]) -> Option<u32> {
    packet
        .get(4..8)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Waits until there is something to read, or the descriptor is broken.
#[cfg(any(test, feature = "mem"))]
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    wait(fd, PollFlags::IN, deadline).map(drop)
}

/// Waits until the descriptor is ready for one of `events`. A broken one is ready too; the next call on it returns
/// the error.
fn wait(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> io::Result<PollFlags> {
    loop {
        let time = Timespec::try_from(remaining(deadline)).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(fd, events)];
        match poll(&mut fds, Some(&time)) {
            Ok(0) => return Err(timed_out()),
            Ok(_) => return Ok(fds.iter().map(PollFd::revents).collect()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn timed_out() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "xenstored did not take it in time")
}

fn retry_interrupted<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(
        variables: &'a [(&'a str, &'a str)],
    ) -> impl Fn(&str) -> Option<PathBuf> + 'a {
        move |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| PathBuf::from(value))
        }
    }

    #[test]
    fn socket_comes_before_the_device() {
        let paths = candidates(environment(&[]));
        assert_eq!(paths.first(), Some(&PathBuf::from("/run/xenstored/socket")));
        assert_eq!(paths.last(), Some(&PathBuf::from("/proc/xen/xenbus")));
    }

    #[test]
    fn environment_is_obeyed_as_libxenstore_does() {
        let paths = candidates(environment(&[("XENSTORED_RUNDIR", "/elsewhere")]));
        assert_eq!(paths.first(), Some(&PathBuf::from("/elsewhere/socket")));
        let both = [
            ("XENSTORED_RUNDIR", "/elsewhere"),
            ("XENSTORED_PATH", "/some/socket"),
        ];
        assert_eq!(
            candidates(environment(&both)),
            [PathBuf::from("/some/socket")]
        );
    }

    #[test]
    fn a_socket_without_permission_is_told_apart_from_no_daemon() {
        let attempt = |errno: Errno| Attempt {
            path: "/run/xenstored/socket".into(),
            source: errno.into(),
        };
        let absent = || attempt(Errno::NOENT);
        assert!(matches!(
            no_way(vec![absent(), absent()]),
            Error::NoDaemon { .. }
        ));
        let error = no_way(vec![attempt(Errno::ACCESS), absent()]);
        assert!(matches!(error, Error::NotPermittedToConnect { .. }));
        let text = error.to_string();
        assert!(
            text.contains("/run/xenstored/socket") && text.contains("as root"),
            "{text}"
        );
    }

    #[test]
    fn request_id_is_the_second_word() {
        let mut packet = Vec::new();
        wire::encode(MessageKind::Watch, 77, 3, b"", &mut packet).unwrap();
        assert_eq!(request_id(&packet), Some(77));
        assert_eq!(request_id(b"short"), None);
    }

    #[test]
    fn a_kernel_refusal_becomes_an_error_reply() {
        let mut transport = DeviceTransport {
            device: File::open("/dev/null").unwrap(),
            name: String::new(),
            arrived: Vec::new(),
        };
        let mut packet = Vec::new();
        wire::encode(MessageKind::Watch, 77, 0, b"/a\0t\0", &mut packet).unwrap();
        transport.refuse(&packet, Errno::NOSPC.into()).unwrap();
        let mut decoder = wire::Decoder::of_replies();
        transport.receive(decoder.buffer(), Instant::now()).unwrap();
        let reply = decoder.next_packet().unwrap().unwrap();
        assert_eq!((reply.kind, reply.request_id), (MessageKind::Error, 77));
        assert_eq!(ErrorName::from_payload(&reply.payload), ErrorName::Enospc);
        assert!(transport.refuse(&packet, Errno::IO.into()).is_err());
    }
}
