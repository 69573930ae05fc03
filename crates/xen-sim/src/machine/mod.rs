//! A simulated host in a folder, to try the command without Xen.
//!
//! [`Host::power_on`] starts the host's process. It has the hypervisor ([`crate::model`]) and xenstored
//! ([`xenstore::mem`]) in memory, keeps a pty and a log for each console, and runs small simulated guests. Commands
//! reach it over two sockets in the folder. [`Host::hypervisor`] sends hypercalls over the first. The second has
//! xenstored's protocol. Files below the folder, the clock, locks and monitors are real. So killing a process here is
//! the same as on a real host. Killing the host's process is a power failure, and `run` is empty after it, as after a
//! boot.
//!
//! The folder belongs to its user alone ([`MachineError::NotPrivate`]). Both ends of a socket check the user of the
//! other.
//!
//! The host ends after a minute without guests and commands, or when its folder is removed.

mod console;
mod devices;
mod folder;
mod guest;
mod kernel;
mod remote;
mod server;
mod wire;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use os_port::{HostDevices, Launch};
use rustix::fs::FlockOperation;
use xen_port::Hypervisor;
use xen_sys::{Standby, Streams};
use xenstore::transport::SocketTransport;
use xenstore::{Client, Settings};

use devices::RemoteDevices;
use remote::{Connection, RemoteXen};

pub use server::serve;

/// The line that the host's process prints once it accepts commands.
pub(crate) const READY: &[u8] = b"ready\n";

/// The reasons why a simulated host cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A call of the system failed.
    #[error("simulated host: {op} {path}: {source}", path = path.display())]
    System {
        /// The action that failed.
        op: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Another user owns the folder, or other users can write to it.
    #[error(
        "simulated host: will not use {path}: it belongs to user {uid} with mode {mode:04o}, and others could choose what \
         is written where; name a new folder, or one of user {wanted_uid} that no other can write to",
        path = path.display()
    )]
    NotPrivate {
        /// Path of the folder.
        path: PathBuf,
        /// User id of its owner.
        uid: u32,
        /// Permission bits of the folder.
        mode: u32,
        /// User ID that must own the folder.
        wanted_uid: u32,
    },
    /// The folder is none of a simulated host: it holds something else.
    #[error(
        "simulated host: will not use {path}: it holds `{}` and is no simulated host's; name a new folder, or an empty one",
        found.escape_debug(),
        path = path.display()
    )]
    NotAHost {
        /// Path of the folder.
        path: PathBuf,
        /// The name of something in it.
        found: String,
    },
    /// The process at a socket's other end is another user's.
    #[error("simulated host: the process at {path} belongs to user {uid}; name another folder", path = path.display())]
    ForeignPeer {
        /// Path of the socket.
        path: PathBuf,
        /// User id of the process.
        uid: u32,
    },
}

impl MachineError {
    pub(crate) fn new(op: &'static str, path: &Path) -> impl Fn(io::Error) -> MachineError {
        let path = path.to_owned();
        move |source| MachineError::System {
            op,
            path: path.clone(),
            source,
        }
    }
}

/// A simulated host, by its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    folder: PathBuf,
}

impl Host {
    /// The host in this folder, whether it is there or not.
    ///
    /// # Errors
    /// When the folder is relative and the current one cannot be found.
    pub fn in_folder(folder: &Path) -> Result<Host, MachineError> {
        let folder = std::path::absolute(folder).map_err(MachineError::new("find", folder))?;
        Ok(Host { folder })
    }

    /// Absolute path of the host's folder. It replaces `/` of a real host.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration of a guest to try, written when the host was first switched on.
    pub fn example(&self) -> PathBuf {
        self.folder.join("guest.cfg")
    }

    fn xen_socket(&self) -> PathBuf {
        self.folder.join("run/xen.socket")
    }

    fn store_socket(&self) -> PathBuf {
        self.folder.join("run/xenstored.socket")
    }

    /// Takes the lock that start and stop of the host need.
    fn lock(&self) -> Result<File, MachineError> {
        folder::prepare(&self.folder)
    }

    /// Starts the host's process if it does not run. Returns whether it was started. `program`, with the folder as
    /// its last argument, must call [`serve`].
    ///
    /// # Errors
    /// The folder belongs to another user, has other contents or is not writable, or the process does not start.
    pub fn power_on(&self, program: &Path, arguments: &[&str]) -> Result<bool, MachineError> {
        let lock = self.lock()?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| MachineError::new("lock", &self.folder)(errno.into()))?;
        if UnixStream::connect(self.xen_socket()).is_ok() {
            return Ok(false);
        }
        let log = self.folder.join("host.log");
        let failed = MachineError::new("start it in", &self.folder);
        match self.start(program, arguments, &log)? {
            true => Ok(true),
            false => {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let why = text.lines().next_back().unwrap_or("it said nothing");
                Err(failed(io::Error::other(why.to_owned())))
            }
        }
    }

    /// Starts the host's process. Returns whether it accepts commands.
    fn start(&self, program: &Path, arguments: &[&str], log: &Path) -> Result<bool, MachineError> {
        let errors = folder::open_log(log).map_err(MachineError::new("open", log))?;
        let failed = MachineError::new("start", program);
        let launch = Launch::new(program).map_err(&failed)?;
        let launch = launch.args(arguments).args([&self.folder]);
        let input = File::open("/dev/null").map_err(&failed)?;
        let (mut output, end) = io::pipe().map_err(&failed)?;
        let streams = Streams {
            input: input.as_fd(),
            output: end.as_fd(),
            errors: errors.as_fd(),
        };
        // The process continues after this one has ended.
        drop(Standby::start(&launch, streams).map_err(&failed)?);
        drop(end);
        let mut said = vec![0; READY.len()];
        Ok(output.read_exact(&mut said).is_ok() && said == READY)
    }

    /// A handle of its hypervisor.
    ///
    /// # Errors
    /// No process answers, or the folder or the answering process belongs to another user.
    pub fn hypervisor(&self) -> Result<Box<dyn Hypervisor>, MachineError> {
        Ok(Box::new(RemoteXen::new(self.connection()?)))
    }

    /// Handles of its loop devices, block devices and network interfaces. The real host's are not touched.
    ///
    /// # Errors
    /// As for [`Host::hypervisor`].
    pub fn devices(&self) -> Result<HostDevices, MachineError> {
        Ok(RemoteDevices::new(self.connection()?).ports())
    }

    fn connection(&self) -> Result<Connection, MachineError> {
        let path = self.xen_socket();
        folder::check(&self.folder)?;
        let stream = UnixStream::connect(&path).map_err(MachineError::new("connect to", &path))?;
        folder::check_peer(&stream, &path)?;
        Ok(Connection::new(stream))
    }

    /// A connection to its xenstored.
    ///
    /// # Errors
    /// No process answers, or the folder or the answering process belongs to another user.
    pub fn store(&self, settings: Settings) -> Result<Client, MachineError> {
        let path = self.store_socket();
        folder::check(&self.folder)?;
        let deadline = Instant::now() + settings.request_timeout.min(Duration::from_secs(30));
        let transport = SocketTransport::connect(&path, deadline)
            .map_err(MachineError::new("connect to", &path))?;
        folder::check_peer(&transport, &path)?;
        Ok(Client::new(Box::new(transport), settings))
    }
}
