//! The loop of a console session: one poll on the tty, standard input, xenstore and signals. [`super::Console::run`]
//! calls it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use xen_port::{DomainInfo, HvError, Hypervisor, ShutdownReason};
use xenstore::{Client, Path};

use super::input::Pending;
use super::terminal::RawTerminal;
use super::{Console, ConsoleError, Ending, TOKEN, open_tty, tty_path};
use crate::stderr;

/// Time without output after which the console of a domain that was shut down and kept counts as finished.
/// xenconsoled may still have bytes to write.
const QUIET: Duration = Duration::from_millis(500);
/// Time limit for the last bytes of a domain that has ended.
const LAST_BYTES: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Signals that end a session.
const SIGNALS: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Maximum number of bytes for one read.
const CHUNK: usize = 4096;

/// Runs a session on standard input and output. Then prints the bytes that only the log has.
pub fn run(
    console: Console,
    hv: &dyn Hypervisor,
    store: &mut Client,
) -> Result<Ending, ConsoleError> {
    let signals = Signals::catch()?;
    let terminal = RawTerminal::enter();
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let streams = Streams {
        // As in xl, keys from a terminal go to the guest only if standard output is a terminal too.
        input: (terminal.is_some() || !termios::isatty(&stdin)).then(|| stdin.as_fd()),
        output: stdout.as_fd(),
        interactive: terminal.is_some(),
    };
    let domain = console.domain.clone();
    let domid = console.domid;
    let handle = console.handle;
    let look = || hv.domain_info(domid);
    let has_next = || {
        let all = hv.domain_list().unwrap_or_default();
        all.iter()
            .any(|info| info.handle == handle && info.domid != domid)
    };
    let mut session = Session::new(console, streams, &look);
    session.has_next = Some(&has_next);
    let outcome = session.run(store, &signals);
    drop(terminal);
    if let (true, Ok(ending)) = (streams.interactive, &outcome) {
        part(&domain, *ending);
    }
    outcome
}

/// Prints why the session has ended, if a user is at the terminal.
fn part(domain: &str, ending: Ending) {
    match ending {
        Ending::Left => stderr::line(format_args!("\nxyl: left the console of {domain}")),
        Ending::ShutDown(_) => stderr::line(format_args!("\nxyl: {domain} has shut down")),
        Ending::Gone => stderr::line(format_args!("\nxyl: {domain} has ended")),
        Ending::OutputClosed | Ending::Signal(_) => {}
    }
}

/// A descriptor that becomes readable when a signal ends the session. Dropping it removes the signal handlers.
struct Signals {
    socket: UnixStream,
    received: Arc<AtomicUsize>,
    handlers: Vec<signal_hook::SigId>,
}

impl Signals {
    fn catch() -> Result<Signals, ConsoleError> {
        Signals::try_catch().map_err(|source| ConsoleError::Io {
            op: "catch signals",
            source,
        })
    }

    fn try_catch() -> io::Result<Signals> {
        let (socket, write) = UnixStream::pair()?;
        let mut signals = Signals {
            socket,
            received: Arc::default(),
            handlers: Vec::new(),
        };
        for signal in SIGNALS {
            let number = usize::try_from(signal).unwrap_or_default();
            let flag = Arc::clone(&signals.received);
            signals
                .handlers
                .push(signal_hook::flag::register_usize(signal, flag, number)?);
            let write = write.try_clone()?;
            signals
                .handlers
                .push(signal_hook::low_level::pipe::register(signal, write)?);
        }
        Ok(signals)
    }

    fn received(&self) -> i32 {
        i32::try_from(self.received.load(Ordering::Relaxed)).unwrap_or(SIGTERM)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

/// Input and output of a session.
#[derive(Clone, Copy)]
struct Streams<'a> {
    /// Standard input, or `None` if no input goes to the guest.
    input: Option<BorrowedFd<'a>>,
    output: BorrowedFd<'a>,
    /// Whether both sides are a terminal. Then the session has an escape character and prints how to leave.
    interactive: bool,
}

/// A function that asks Xen about the domain.
type Look<'a> = &'a dyn Fn() -> Result<Option<DomainInfo>, HvError>;

struct Session<'a> {
    console: Console,
    look: Look<'a>,
    /// A function that asks Xen whether the VM has another domain.
    has_next: Option<&'a dyn Fn() -> bool>,
    /// The streams. The input becomes `None` at its end.
    streams: Streams<'a>,
    pending: Pending,
    /// Set when the domain has shut down and is kept.
    shut_down: Option<ShutdownReason>,
    last_output: Instant,
}

/// Result of a poll: the streams that are ready.
#[derive(Default)]
struct Ready {
    input: bool,
    output_closed: bool,
    tty_readable: bool,
    tty_writable: bool,
    signal: bool,
}

impl<'a> Session<'a> {
    fn new(console: Console, streams: Streams<'a>, look: Look<'a>) -> Session<'a> {
        Session {
            console,
            look,
            has_next: None,
            streams,
            pending: Pending::default(),
            shut_down: None,
            last_output: Instant::now(),
        }
    }

    fn run(mut self, store: &mut Client, signals: &Signals) -> Result<Ending, ConsoleError> {
        store.watch(&Path::release_domain(), TOKEN)?;
        self.greet();
        let ending = self.serve(store, signals)?;
        if matches!(ending, Ending::Gone | Ending::ShutDown(_)) {
            let has_next = self.has_next.is_some_and(|has_next| has_next());
            let unseen = self.console.log.unseen(has_next);
            self.show(&unseen)?;
        }
        Ok(ending)
    }

    /// Prints how to leave the session.
    fn greet(&self) {
        if self.streams.interactive {
            let Console { domain, escape, .. } = &self.console;
            stderr::part(format_args!(
                "xyl: on the console of {domain}; {escape} leaves it\r\n"
            ));
        }
    }

    fn serve(&mut self, store: &mut Client, signals: &Signals) -> Result<Ending, ConsoleError> {
        loop {
            if let Some(ending) = self.handle_events(store)? {
                return Ok(ending);
            }
            let ready = self.wait(store.as_fd(), signals.socket.as_fd())?;
            if ready.signal {
                return Ok(Ending::Signal(signals.received()));
            }
            if ready.output_closed {
                return Ok(Ending::OutputClosed);
            }
            if ready.tty_readable
                && let Some(ending) = self.carry_output()?
            {
                return Ok(ending);
            }
            if ready.input && self.read_input()? {
                self.write_input();
                return Ok(Ending::Left);
            }
            if ready.tty_writable {
                self.write_input();
            }
            if let Some(reason) = self
                .shut_down
                .filter(|_| self.last_output.elapsed() >= QUIET)
            {
                return Ok(Ending::ShutDown(reason));
            }
        }
    }

    /// Polls until one of the descriptors is ready.
    fn wait(&self, store: BorrowedFd, signals: BorrowedFd) -> Result<Ready, ConsoleError> {
        let input = self.streams.input.filter(|_| self.pending.has_room());
        let output = if self.pending.bytes().is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::OUT
        };
        let mut fds = vec![
            PollFd::from_borrowed_fd(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(store, PollFlags::IN),
            PollFd::from_borrowed_fd(self.streams.output, PollFlags::empty()),
        ];
        let input_at =
            input.map(|input| push(&mut fds, PollFd::from_borrowed_fd(input, PollFlags::IN)));
        let tty = self.console.tty.as_ref();
        let tty_at = tty.map(|tty| push(&mut fds, PollFd::new(tty, PollFlags::IN | output)));
        let patience = self
            .shut_down
            .map(|_| QUIET.saturating_sub(self.last_output.elapsed()));
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for the console", errno)),
        }
        let found = |at: usize| fds.get(at).map_or(PollFlags::empty(), PollFd::revents);
        let broken = PollFlags::HUP | PollFlags::ERR;
        let tty_found = tty_at.map_or(PollFlags::empty(), found);
        Ok(Ready {
            signal: !found(0).is_empty(),
            output_closed: found(2).intersects(PollFlags::ERR | PollFlags::NVAL),
            input: input_at.is_some_and(|at| !found(at).is_empty()),
            tty_readable: tty_found.intersects(PollFlags::IN | broken),
            tty_writable: tty_found.contains(PollFlags::OUT),
        })
    }

    /// Handles the events of xenstore's watches. Returns the end of the session if the tty's node or the domain is
    /// gone.
    fn handle_events(&mut self, store: &mut Client) -> Result<Option<Ending>, ConsoleError> {
        while let Some(event) = store.try_next_event()? {
            let ending = if event.path.is_special() {
                self.look_at_domain()?
            } else {
                self.look_at_node(store)?
            };
            if ending.is_some() {
                self.console.log.note_end();
                self.drain()?;
                return Ok(ending);
            }
        }
        Ok(None)
    }

    /// Reads the tty's node again. A new xenconsoled names another tty. The node goes with the domain.
    fn look_at_node(&mut self, store: &mut Client) -> Result<Option<Ending>, ConsoleError> {
        let Some(path) = tty_path(store, &self.console.node)? else {
            return Ok(Some(self.look_at_domain()?.unwrap_or(Ending::Gone)));
        };
        if self.console.tty.is_none() {
            self.console.tty = open_tty(&path).ok();
        }
        Ok(None)
    }

    /// Checks whether the domain has ended. A domain that was shut down and is kept gets time for its last bytes.
    fn look_at_domain(&mut self) -> Result<Option<Ending>, ConsoleError> {
        let info = (self.look)()?;
        let Some(info) =
            info.filter(|info| info.handle == self.console.handle && !info.flags.dying)
        else {
            return Ok(Some(Ending::Gone));
        };
        let reason = info.shutdown_reason.filter(|_| info.flags.shutdown);
        let goes_on = matches!(
            reason,
            Some(ShutdownReason::Suspend | ShutdownReason::SoftReset)
        );
        if self.shut_down.is_none() && !goes_on && reason.is_some() {
            self.last_output = Instant::now();
        }
        self.shut_down = reason.filter(|_| !goes_on);
        Ok(None)
    }

    /// Copies output from the tty. If the tty was closed, checks the domain: it has ended, or xenconsoled is
    /// restarting.
    fn carry_output(&mut self) -> Result<Option<Ending>, ConsoleError> {
        match self.read_tty()? {
            Some(bytes) => {
                self.last_output = Instant::now();
                if !self.show(&bytes)? {
                    return Ok(Some(Ending::OutputClosed));
                }
                Ok(None)
            }
            None => {
                self.console.tty = None;
                self.look_at_domain()
            }
        }
    }

    /// Reads the bytes that the tty has now, possibly none. `None` if it was closed.
    fn read_tty(&mut self) -> Result<Option<Vec<u8>>, ConsoleError> {
        let Some(tty) = &self.console.tty else {
            return Ok(None);
        };
        let mut bytes = vec![0; CHUNK];
        match rustix::io::read(tty, &mut bytes) {
            Ok(0) | Err(Errno::IO) => Ok(None),
            Ok(nr_bytes) => {
                bytes.truncate(nr_bytes);
                Ok(Some(bytes))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Some(Vec::new())),
            Err(errno) => Err(failed("read the console", errno)),
        }
    }

    /// Copies the rest of the output. It is complete when xenconsoled has closed the tty, or when no byte has come
    /// for [`LAST_BYTES`].
    fn drain(&mut self) -> Result<(), ConsoleError> {
        while let Some(bytes) = self.read_tty()? {
            if bytes.is_empty() && !self.has_more()? {
                return Ok(());
            }
            self.show(&bytes)?;
        }
        Ok(())
    }

    /// Waits up to [`LAST_BYTES`] until the tty has bytes or is closed.
    fn has_more(&self) -> Result<bool, ConsoleError> {
        let Some(tty) = &self.console.tty else {
            return Ok(false);
        };
        let mut fds = [PollFd::new(tty, PollFlags::IN)];
        match poll(&mut fds, Some(&LAST_BYTES)) {
            Ok(nr_ready) => Ok(nr_ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(failed("wait for the console", errno)),
        }
    }

    /// Writes to standard output. Returns false if its reader has closed it.
    fn show(&mut self, bytes: &[u8]) -> Result<bool, ConsoleError> {
        self.console.log.note_shown(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(self.streams.output, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_writable(self.streams.output),
                Err(Errno::PIPE) => return Ok(false),
                Err(errno) => return Err(failed("write to standard output", errno)),
            }
        }
        Ok(true)
    }

    /// Reads standard input. Returns true if it contains the escape character.
    fn read_input(&mut self) -> Result<bool, ConsoleError> {
        let Some(input) = self.streams.input else {
            return Ok(false);
        };
        let mut bytes = [0; CHUNK];
        match rustix::io::read(input, &mut bytes) {
            // The end of a pipe does not end the session. The guest's answer may still come.
            Ok(0) => {
                self.streams.input = None;
                Ok(self.streams.interactive)
            }
            Ok(nr_bytes) => {
                let escape = self.streams.interactive.then_some(self.console.escape);
                Ok(self
                    .pending
                    .push(bytes.get(..nr_bytes).unwrap_or_default(), escape))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(failed("read standard input", errno)),
        }
    }

    /// Writes as many bytes to the tty as it takes now. Without a tty, the bytes stay until there is one.
    fn write_input(&mut self) {
        let Some(tty) = &self.console.tty else { return };
        // An error is reported by the next read of the tty.
        if let Ok(written) = rustix::io::write(tty, self.pending.bytes()) {
            self.pending.taken(written);
        }
    }
}

fn push<'a>(fds: &mut Vec<PollFd<'a>>, fd: PollFd<'a>) -> usize {
    fds.push(fd);
    fds.len() - 1
}

fn wait_writable(fd: BorrowedFd) {
    // An error of poll shows in the next write.
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None);
}

fn failed(op: &'static str, errno: Errno) -> ConsoleError {
    ConsoleError::Io {
        op,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use xen_port::DomId;
    use xenstore::Tree;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::console::{Log, Options};

    /// xenconsoled in the test: a pty with its name in xenstore.
    struct World {
        store: MemStore,
        daemon: OwnedFd,
        info: Rc<RefCell<Option<DomainInfo>>>,
    }

    const NODE: &str = "/local/domain/7/console/tty";

    fn domain() -> DomainInfo {
        DomainInfo {
            domid: DomId(7),
            nr_online_vcpus: 1,
            max_vcpu_id: Some(0),
            handle: [7; 16],
            ..DomainInfo::default()
        }
    }

    /// The console, without locks and log.
    fn attach(client: &mut Client) -> Console {
        let (options, log) = (Options::default(), Log::default());
        Console::attach(client, &domain(), &options, "domain 7".to_owned(), log).unwrap()
    }

    fn new_pty() -> (OwnedFd, String) {
        let daemon = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&daemon).unwrap();
        unlockpt(&daemon).unwrap();
        let name = ptsname(&daemon, Vec::new()).unwrap().into_string().unwrap();
        (daemon, name)
    }

    impl World {
        fn new() -> World {
            let (daemon, name) = new_pty();
            let store = MemStore::new();
            let mut client = store.client(0).unwrap();
            client
                .write(&Path::new(NODE).unwrap(), name.as_bytes())
                .unwrap();
            World {
                store,
                daemon,
                info: Rc::new(RefCell::new(Some(domain()))),
            }
        }

        /// Runs a session with this input. `script` acts as xenconsoled and Xen after the start.
        fn session(
            self,
            input: Option<&[u8]>,
            interactive: bool,
            script: impl FnOnce(&World) + Send,
        ) -> (Ending, Vec<u8>) {
            let mut client = self.store.client(0).unwrap();
            let console = attach(&mut client);
            let (stdin, mut typed) = UnixStream::pair().unwrap();
            let (stdout, mut seen) = UnixStream::pair().unwrap();
            typed.write_all(input.unwrap_or_default()).unwrap();
            script(&self);
            let ending = {
                let look = || Ok(self.info.borrow().clone());
                let streams = Streams {
                    input: input.map(|_| stdin.as_fd()),
                    output: stdout.as_fd(),
                    interactive,
                };
                let signals = Signals::try_catch().unwrap();
                Session::new(console, streams, &look)
                    .run(&mut client, &signals)
                    .unwrap()
            };
            drop(stdout);
            let mut output = Vec::new();
            seen.read_to_end(&mut output).unwrap();
            (ending, output)
        }

        fn print(&self, text: &[u8]) {
            rustix::io::write(&self.daemon, text).unwrap();
        }

        fn remove_node(&self) {
            self.store
                .client(0)
                .unwrap()
                .rm(&Path::new("/local/domain/7").unwrap())
                .unwrap();
        }
    }

    #[test]
    fn what_the_pty_holds_is_shown_before_the_end() {
        let (ending, output) = World::new().session(None, false, |world| {
            world.print(b"booting\r\nbye\r\n");
            world.remove_node();
        });
        assert_eq!(ending, Ending::Gone);
        assert_eq!(output, b"booting\r\nbye\r\n");
    }

    #[test]
    fn a_domain_that_shut_down_and_is_kept_ends_the_session_after_its_last_bytes() {
        let (ending, output) = World::new().session(None, false, |world| {
            world.print(b"powering off\r\n");
            let mut info = domain();
            info.flags.shutdown = true;
            info.shutdown_reason = Some(ShutdownReason::Crash);
            *world.info.borrow_mut() = Some(info);
        });
        assert_eq!(ending, Ending::ShutDown(ShutdownReason::Crash));
        assert_eq!(output, b"powering off\r\n");
    }

    #[test]
    fn another_domain_under_the_same_number_is_not_ours() {
        let (ending, _) = World::new().session(None, false, |world| {
            let mut other = domain();
            other.handle = [8; 16];
            *world.info.borrow_mut() = Some(other);
        });
        assert_eq!(ending, Ending::Gone);
    }

    #[test]
    fn typed_bytes_reach_the_guest_and_the_escape_ends_the_session() {
        let world = World::new();
        let daemon = world.daemon.try_clone().unwrap();
        let (ending, _) = world.session(Some(b"ls\r\x1d"), true, |_| {});
        assert_eq!(ending, Ending::Left);
        let mut bytes = [0; 16];
        let nr_bytes = rustix::io::read(&daemon, &mut bytes).unwrap();
        assert_eq!(&bytes[..nr_bytes], b"ls\r");
    }

    #[test]
    fn a_closed_output_ends_the_session() {
        let world = World::new();
        let mut client = world.store.client(0).unwrap();
        let console = attach(&mut client);
        let (stdout, reader) = UnixStream::pair().unwrap();
        drop(reader);
        world.print(b"nobody listens");
        let look = || Ok(Some(domain()));
        let streams = Streams {
            input: None,
            output: stdout.as_fd(),
            interactive: false,
        };
        let signals = Signals::try_catch().unwrap();
        let ending = Session::new(console, streams, &look)
            .run(&mut client, &signals)
            .unwrap();
        assert_eq!(ending, Ending::OutputClosed);
    }
}
