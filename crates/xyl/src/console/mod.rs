//! Consoles of domains: finding the tty, and a session on it. `xyl console` and `xyl create -c` use this module.
//!
//! xenconsoled keeps a pty for each domain and writes its name to xenstore. [`Console::open`] waits for the name and
//! opens the pty. [`Console::run`] copies bytes between the pty and standard input and output, until the domain ends
//! or the user leaves. A console that is opened before the domain is unpaused misses no output.

mod input;
mod lock;
mod log;
mod session;
mod terminal;

use std::os::fd::OwnedFd;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::termios::{self, OptionalActions};
use xen_port::{DomId, DomainInfo, GuestKind, Hypervisor, ShutdownReason};
use xenstore::{Client, Path, Tree};

use crate::shown::Shown;

pub use input::Escape;
use lock::Lock;
use log::Log;

/// Time limit for xenconsoled to create the tty of an existing domain, as in xl.
const TTY_LIMIT: Duration = Duration::from_secs(5);

/// Start of the path of a pseudo-terminal.
const TERMINALS: &str = "/dev/pts/";
/// Maximum number of digits of a pseudo-terminal's number.
const TTY_DIGITS_MAX: usize = 10;

/// Token of this module's xenstore watches.
const TOKEN: &str = "xyl-console";

/// Type of a domain's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The PV console.
    Pv,
    /// An emulated serial line.
    Serial,
    /// The virtual UART of Arm guests.
    Vuart,
}

/// Folders of the host with files of consoles.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Lock files of Xyl's sessions.
    pub own_locks: PathBuf,
    /// Lock files of xl's sessions. Every user may write to this folder.
    pub locks: PathBuf,
    /// Logs of xenconsoled, unless its administrator configured another folder.
    pub logs: PathBuf,
}

impl Folders {
    /// The folders of Debian's Xen packages.
    pub fn system() -> Folders {
        Folders {
            own_locks: PathBuf::from("/run/xyl"),
            locks: PathBuf::from("/var/lock"),
            logs: PathBuf::from("/var/log/xen/console"),
        }
    }

    /// The folders of a simulated host, below `root`.
    pub fn below(root: &FilePath) -> Folders {
        Folders {
            own_locks: root.join("run/xyl"),
            locks: root.join("run/lock"),
            logs: root.join("var/log/xen/console"),
        }
    }
}

/// Options of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Type of the console. `None` selects an HVM guest's serial line if it has one, else the PV console.
    pub kind: Option<Kind>,
    /// Number of the console, from 0.
    pub number: u32,
    /// The byte that ends the session.
    pub escape: Escape,
}

/// Errors of opening a console and of a session.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Domain 0 has no console; its console is that of the host.
    #[error(
        "domain 0 has no console of its own: it is the one that you are on, or the host's serial line"
    )]
    ControlDomain,
    /// xenconsoled has created no tty within the time limit.
    #[error(
        "no tty for the console of {domain} within {limit_s} s: xenconsoled makes it; see whether that runs (`systemctl status xenconsoled`){log}"
    )]
    NoTty {
        /// Name or number of the domain.
        domain: String,
        /// Time limit in seconds.
        limit_s: u64,
        /// Hint about the console's log, or empty.
        log: String,
    },
    /// A guest of this type has no such console.
    #[error("{domain} has no {console}: {remedy}")]
    NoSuchConsole {
        /// Name or number of the domain.
        domain: String,
        /// The console that the user named.
        console: String,
        /// The remedy for the user.
        remedy: &'static str,
    },
    /// The lock file of a session could not be created.
    #[error("the lock of the console of {domain} cannot be made at {path}: {source}", path = path.display())]
    Lock {
        /// Name or number of the domain.
        domain: String,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The path in xenstore is not that of a tty.
    #[error("{path}, which xenstore names as the console of {domain}, is {what}{log}")]
    BadTty {
        /// The path in xenstore.
        path: String,
        /// Name or number of the domain.
        domain: String,
        /// The reason why it is not.
        what: String,
        /// Hint about the console's log, or empty.
        log: String,
    },
    /// Another session uses the console.
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
    /// A system call failed.
    #[error("{op}: {source}")]
    Io {
        /// The operation that failed.
        op: &'static str,
        /// Error of the system.
        source: std::io::Error,
    },
}

/// Reasons for the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The user left.
    Left,
    /// The domain has shut down, and still exists.
    ShutDown(ShutdownReason),
    /// The domain no longer exists.
    Gone,
    /// The reader of standard output has closed it.
    OutputClosed,
    /// A signal ended the session.
    Signal(i32),
}

/// An open console.
pub struct Console {
    domid: DomId,
    handle: [u8; 16],
    domain: String,
    node: Path,
    tty: Option<OwnedFd>,
    log: Log,
    escape: Escape,
    /// A warning, if xl's sessions could not be excluded.
    warning: Option<String>,
    /// Locks, held during the session.
    locks: Vec<Lock>,
}

impl Console {
    /// Opens a domain's console. Waits until xenconsoled has created its tty.
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

    /// Fails as [`Console::open`] would fail at once, without opening the console.
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

    /// A warning to print before the session.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Copies bytes until the session ends.
    pub fn run(self, hv: &dyn Hypervisor, store: &mut Client) -> Result<Ending, ConsoleError> {
        session::run(self, hv, store)
    }
}

/// Refuses a type of console that guests of this type never have, so that no time is lost waiting for it.
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

/// Name of a domain for messages. Its characters are escaped, because they come from xenstore.
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

/// Path of the xenstore node with the tty's name (`tools/console/client/main.c`).
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

/// Reads the tty's path from its node. `None` if the node is missing or empty.
fn tty_path(store: &mut Client, node: &Path) -> Result<Option<String>, ConsoleError> {
    let value = store.read_opt(node)?.unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(&value).into_owned()).filter(|path| !path.is_empty()))
}

/// Opens the tty in raw mode. The error is the reason why the path is refused.
///
/// A process that a guest may have taken over writes the path of a channel, and the number of a terminal that is gone may be that of
/// another user's by now. So only a terminal of root or of this process's user is opened, and its device is looked at first.
fn open_tty(path: &str) -> Result<OwnedFd, String> {
    let number = path.strip_prefix(TERMINALS).unwrap_or_default();
    let is_number = (1..=TTY_DIGITS_MAX).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err("not the name of a terminal".to_owned());
    }
    let gone = |errno| format!("gone or cannot be opened ({errno})");
    let facts = rustix::fs::stat(path).map_err(gone)?;
    let is_device = FileType::from_raw_mode(facts.st_mode) == FileType::CharacterDevice;
    if !is_device || ![0, rustix::process::geteuid().as_raw()].contains(&facts.st_uid) {
        return Err("a terminal of another user".to_owned());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tty = rustix::fs::open(path, flags, Mode::empty()).map_err(gone)?;
    let mut modes = termios::tcgetattr(&tty).map_err(|_| "no tty".to_owned())?;
    modes.make_raw();
    // Like xenconsole, uses a tty even if its modes cannot be set.
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
