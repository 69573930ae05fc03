//! A domain's console: finding its tty, and a session on it.
//!
//! xenconsoled keeps a pty for each domain and names it in xenstore. [`Console::open`] waits for
//! the name and opens the pty, [`Console::run`] carries bytes between it and this process's
//! standard input and output until the domain ends or the user leaves. Opened before a domain is
//! unpaused, a console misses nothing.

mod input;
mod lock;
mod log;
mod session;
mod terminal;

use std::os::fd::OwnedFd;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::termios::{self, OptionalActions};
use xen_port::{DomId, DomainInfo, GuestKind, Hypervisor, ShutdownReason};
use xenstore::{Client, Path, Tree};

use crate::shown::Shown;

pub use input::Escape;
use lock::Lock;
use log::Log;

/// How long xenconsoled may take to make the tty of a domain that is there, as xl waits.
const TTY_LIMIT: Duration = Duration::from_secs(5);

/// Longest name of a tty that is believed.
const TTY_NAME_MAX: usize = 256;

/// The token of this module's watches.
const TOKEN: &str = "xyl-console";

/// Which console of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The PV console.
    Pv,
    /// An emulated serial line.
    Serial,
    /// The virtual UART of Arm guests.
    Vuart,
}

/// Where other programs keep what belongs to consoles.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Locks of sessions, of Xyl alone.
    pub own_locks: PathBuf,
    /// Locks of sessions, of xl's too. Every user may write there.
    pub locks: PathBuf,
    /// xenconsoled's logs, unless its administrator chose another.
    pub logs: PathBuf,
}

impl Folders {
    /// Those of Debian's Xen.
    pub fn system() -> Folders {
        Folders {
            own_locks: PathBuf::from("/run/xyl"),
            locks: PathBuf::from("/var/lock"),
            logs: PathBuf::from("/var/log/xen/console"),
        }
    }

    /// Those of a host that has all it has below a folder.
    pub fn below(root: &FilePath) -> Folders {
        Folders {
            own_locks: root.join("run/xyl"),
            locks: root.join("run/lock"),
            logs: root.join("var/log/xen/console"),
        }
    }
}

/// What a user may choose about a console.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Which; `None` takes an HVM guest's serial line if it has one, else the PV console.
    pub kind: Option<Kind>,
    /// Number of the console, from 0.
    pub number: u32,
    /// What ends the session.
    pub escape: Escape,
}

/// Why there is no console, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Domain 0's console is the host's.
    #[error(
        "domain 0 has no console of its own: it is the one that you are on, or the host's serial line"
    )]
    ControlDomain,
    /// xenconsoled has made no tty.
    #[error(
        "no tty for the console of {domain} within {limit_s} s: xenconsoled makes it; see whether that runs (`systemctl status xenconsoled`){log}"
    )]
    NoTty {
        /// Name or number of the domain.
        domain: String,
        /// How long was waited.
        limit_s: u64,
        /// Where its output may be read.
        log: String,
    },
    /// A guest of this type has no such console.
    #[error("{domain} has no {console}: {remedy}")]
    NoSuchConsole {
        /// Name or number of the domain.
        domain: String,
        /// The console that was asked for.
        console: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The lock of a session cannot be made.
    #[error("the lock of the console of {domain} cannot be made at {path}: {source}", path = path.display())]
    Lock {
        /// Name or number of the domain.
        domain: String,
        /// Path of the file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What xenstore names is no tty.
    #[error("{path}, which xenstore names as the console of {domain}, is {what}{log}")]
    BadTty {
        /// What xenstore says.
        path: String,
        /// Name or number of the domain.
        domain: String,
        /// What is wrong.
        what: String,
        /// Where its output may be read.
        log: String,
    },
    /// Another session has it.
    #[error(
        "another session is on the console of {domain} ({path} is locked): two would take bytes from each other"
    )]
    Locked {
        /// Name or number of the domain.
        domain: String,
        /// The lock file.
        path: PathBuf,
    },
    /// A xenstore request failed.
    #[error(transparent)]
    Store(#[from] xenstore::Error),
    /// A hypercall failed.
    #[error(transparent)]
    Hypervisor(#[from] xen_port::HvError),
    /// The system failed.
    #[error("{op}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The user left.
    Left,
    /// The domain has shut down and is still there.
    ShutDown(ShutdownReason),
    /// The domain is gone.
    Gone,
    /// Nobody reads the output any more.
    OutputClosed,
    /// A signal asked for the end.
    Signal(i32),
}

/// A console that is open.
pub struct Console {
    domid: DomId,
    handle: [u8; 16],
    domain: String,
    node: Path,
    tty: Option<OwnedFd>,
    log: Log,
    escape: Escape,
    /// Why xl's sessions are not kept off, where they are not.
    warning: Option<String>,
    /// Held as long as the session lasts.
    locks: Vec<Lock>,
}

impl Console {
    /// Opens a domain's console, waiting for xenconsoled to make its tty.
    pub fn open(
        store: &mut Client,
        info: &DomainInfo,
        options: &Options,
        folders: &Folders,
    ) -> Result<Console, ConsoleError> {
        let name = store.read_opt(&home(info.domid, "name")?)?;
        let name = name.map(|name| String::from_utf8_lossy(&name).into_owned());
        let domain = title(info.domid, name.as_deref());
        refuse_impossible(store, info, options, &domain)?;
        let own = Lock::take_own(&folders.own_locks, info.domid, &domain)?;
        let (shared, warning) = lock::take_shared(&folders.locks, info.domid, &domain)?;
        let log = Log::of_guest(&folders.logs, name.as_deref());
        let mut console = Console::attach(store, info, options, domain, log)?;
        console.warning = warning;
        console.locks = shared.into_iter().chain([own]).collect();
        Ok(console)
    }

    fn attach(
        store: &mut Client,
        info: &DomainInfo,
        options: &Options,
        domain: String,
        log: Log,
    ) -> Result<Console, ConsoleError> {
        let node = node(store, info, options)?;
        store.watch(&node, TOKEN)?;
        let tty = wait_for_tty(store, &node, &domain, &log)?;
        Ok(Console {
            domid: info.domid,
            handle: info.handle,
            domain,
            node,
            tty: Some(tty),
            log,
            escape: options.escape,
            warning: None,
            locks: Vec::new(),
        })
    }

    /// Refuses a console that [`Console::open`] would refuse at once.
    ///
    /// # Errors
    /// [`ConsoleError::ControlDomain`], [`ConsoleError::NoSuchConsole`], and those of xenstore.
    pub fn check(
        store: &mut Client,
        info: &DomainInfo,
        options: &Options,
    ) -> Result<(), ConsoleError> {
        refuse_impossible(store, info, options, &title(info.domid, None))
    }

    /// What is to be said before the session, if anything.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Carries bytes until the session ends.
    pub fn run(self, hv: &dyn Hypervisor, store: &mut Client) -> Result<Ending, ConsoleError> {
        session::run(self, hv, store)
    }
}

/// Nobody waits for a console that no guest of this type has.
fn refuse_impossible(
    store: &mut Client,
    info: &DomainInfo,
    options: &Options,
    domain: &str,
) -> Result<(), ConsoleError> {
    if info.domid == DomId::ZERO {
        return Err(ConsoleError::ControlDomain);
    }
    let none = |console: String, remedy| {
        Err(ConsoleError::NoSuchConsole {
            domain: domain.to_owned(),
            console,
            remedy,
        })
    };
    let number = options.number;
    match options.kind {
        Some(Kind::Vuart) => none("vuart".to_owned(), "guests on Arm have one; leave -t out"),
        _ if info.kind() == GuestKind::Hvm => Ok(()),
        Some(Kind::Serial) => none(
            "serial line".to_owned(),
            "only HVM guests have one; leave -t out",
        ),
        Some(Kind::Pv) | None if number == 0 => Ok(()),
        Some(Kind::Pv) | None => {
            match store.exists(&home(info.domid, &format!("device/console/{number}"))?)? {
                true => Ok(()),
                false => none(
                    format!("console {number}"),
                    "leave -n out for its first one",
                ),
            }
        }
    }
}

/// What a domain is called on a terminal. Its name is whatever xenstore says.
fn title(domid: DomId, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("domain {domid} ({})", Shown::name(name)),
        None => format!("domain {domid}"),
    }
}

fn home(domid: DomId, relative: &str) -> Result<Path, ConsoleError> {
    Ok(Path::domain(domid.0)
        .join(relative)
        .map_err(xenstore::Error::from)?)
}

/// The node that names the tty (`tools/console/client/main.c`).
fn node(store: &mut Client, info: &DomainInfo, options: &Options) -> Result<Path, ConsoleError> {
    let number = options.number;
    let serial = home(info.domid, &format!("serial/{number}/tty"))?;
    let kind = match options.kind {
        Some(kind) => kind,
        None if info.flags.hvm && store.exists(&serial)? => Kind::Serial,
        None => Kind::Pv,
    };
    match (kind, number) {
        (Kind::Serial, _) => Ok(serial),
        (Kind::Vuart, _) => home(info.domid, "vuart/0/tty"),
        (Kind::Pv, 0) => home(info.domid, "console/tty"),
        (Kind::Pv, _) => home(info.domid, &format!("device/console/{number}/tty")),
    }
}

fn wait_for_tty(
    store: &mut Client,
    node: &Path,
    domain: &str,
    log: &Log,
) -> Result<OwnedFd, ConsoleError> {
    let deadline = Instant::now() + TTY_LIMIT;
    loop {
        if let Some(path) = tty_path(store, node)? {
            return open_tty(&path).map_err(|what| ConsoleError::BadTty {
                path: Shown::line(&path).to_string(),
                domain: domain.to_owned(),
                what,
                log: log.hint(),
            });
        }
        if Instant::now() >= deadline {
            return Err(ConsoleError::NoTty {
                domain: domain.to_owned(),
                limit_s: TTY_LIMIT.as_secs(),
                log: log.hint(),
            });
        }
        store.next_event(deadline)?;
    }
}

/// What the node says, if it says something.
fn tty_path(store: &mut Client, node: &Path) -> Result<Option<String>, ConsoleError> {
    let value = store.read_opt(node)?.unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(&value).into_owned()).filter(|path| !path.is_empty()))
}

/// Opens the tty and makes it raw; the error says what is wrong with it.
fn open_tty(path: &str) -> Result<OwnedFd, String> {
    if path.len() > TTY_NAME_MAX || !path.starts_with("/dev/") || path.contains("/../") {
        return Err("not the name of a tty".to_owned());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tty = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| format!("gone or cannot be opened ({errno})"))?;
    let mut modes = termios::tcgetattr(&tty).map_err(|_| "no tty".to_owned())?;
    modes.make_raw();
    // As in xenconsole a tty that keeps its modes is used as it is.
    let _ = termios::tcsetattr(&tty, OptionalActions::Now, &modes);
    Ok(tty)
}

#[cfg(test)]
mod tests {
    use xenstore::mem::MemStore;

    use super::*;

    fn write(store: &MemStore, path: &str, value: &str) {
        let mut client = store.client(0).unwrap();
        client
            .write(&Path::new(path).unwrap(), value.as_bytes())
            .unwrap();
    }

    #[test]
    fn only_ttys_are_opened() {
        for path in [
            "/etc/passwd",
            "/dev/null",
            "/dev/../etc/passwd",
            "pts/3",
            "/dev/no-such-tty",
        ] {
            assert!(open_tty(path).is_err(), "{path}");
        }
        assert!(open_tty(&format!("/dev/{}", "x".repeat(300))).is_err());
    }

    #[test]
    fn a_title_drives_no_terminal() {
        assert_eq!(title(DomId(3), Some("web")), "domain 3 (web)");
        assert_eq!(title(DomId(3), None), "domain 3");
        let forged = title(DomId(3), Some("\x1b]0;x\x07\u{202e}\n"));
        assert_eq!(forged, "domain 3 (\"\\u{1b}]0;x\\u{7}\\u{202e}\\u{a}\")");
    }

    #[test]
    fn an_empty_node_is_no_tty_yet() {
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        let node = Path::new("/local/domain/3/console/tty").unwrap();
        assert_eq!(tty_path(&mut client, &node).unwrap(), None);
        write(&store, node.as_str(), "");
        assert_eq!(tty_path(&mut client, &node).unwrap(), None);
        write(&store, node.as_str(), "/dev/pts/3");
        assert_eq!(
            tty_path(&mut client, &node).unwrap(),
            Some("/dev/pts/3".to_owned())
        );
    }
}
