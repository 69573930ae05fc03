//! The server process of a simulated host.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::model::Model;
use os_port::AttachedLoop;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use xen_port::{CpuMap, DomId, Errno, Gfn, GuestMemory, Hypervisor, VcpuId, hypervisor_methods};
use xenstore::mem::{MemStore, MemTransport};
use xenstore::transport::Transport;
use xenstore::{Client, Path as Node, Tree};

use super::console::Console;
use super::devices::Devices;
use super::guest::Guest;
use super::wire::{self, Answer, Call, Frame, Refusal};
use super::{Host, MachineError, READY, folder, kernel};

/// Free memory of the host, and memory of domain 0.
const FREE_MIB: u64 = 8192;
const CONTROL_MIB: u64 = 1024;
const CPUS: u32 = 4;
/// Size of the example's disk.
const DISK_BYTES: usize = 1 << 20;

/// Time after which a host without guests and commands ends.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Interval at which the host checks that its folder exists.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Minimum time that the console of an ended domain stays open, so that its last output can be read.
const LAST_WORDS_LEAST: Duration = Duration::from_millis(50);
/// Maximum time that it stays open for a reader.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// Runs the simulated host until it ends. Prints a line on standard output when it accepts commands.
///
/// # Errors
/// The folder cannot be used.
pub fn serve(folder: &Path) -> Result<(), MachineError> {
    let host = Host::in_folder(folder)?;
    let mut machine = Machine::boot(&host)?;
    let mut output = io::stdout();
    // The process that started the host may have ended.
    let _ = output.write_all(READY).and_then(|()| output.flush());
    machine.run()
}

struct Machine {
    host: Host,
    xen: Model,
    store: MemStore,
    /// xenconsoled's and the CPU's way into xenstore.
    own: Client,
    devices: Devices,
    guests: BTreeMap<u16, Guest>,
    /// Consoles of ended domains, with the time of the end, so that a reader gets the last output.
    last_words: Vec<(Console, Instant)>,
    xen_socket: UnixListener,
    store_socket: UnixListener,
    xen_links: Vec<XenLink>,
    store_links: Vec<StoreLink>,
    last_use: Instant,
    start: Instant,
}

/// A process that has the hypervisor open.
struct XenLink {
    stream: UnixStream,
    arrived: Vec<u8>,
    to_send: Vec<u8>,
    mappings: BTreeMap<u64, Box<dyn GuestMemory>>,
    last_mapping: u64,
    /// The loop devices that the process holds open.
    loops: Vec<AttachedLoop>,
    is_over: bool,
}

/// A process that talks to xenstored.
struct StoreLink {
    stream: UnixStream,
    inner: MemTransport,
    to_send: Vec<u8>,
    is_over: bool,
}

impl Machine {
    fn boot(host: &Host) -> Result<Machine, MachineError> {
        // Before anything in it is touched.
        drop(host.lock()?);
        let run = host.folder.join("run");
        // `run` is empty after a boot, as on a real host.
        match fs::remove_dir_all(&run) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(MachineError::new("empty", &run)(error));
            }
            _ => {}
        }
        for folder in ["run/lock", "var/log/xen/console"] {
            let path = host.folder.join(folder);
            fs::create_dir_all(&path).map_err(MachineError::new("make", &path))?;
        }
        write_example(host)?;
        let listen = |path: &Path| {
            let listener =
                UnixListener::bind(path).map_err(MachineError::new("listen on", path))?;
            let ready = listener.set_nonblocking(true).map(|()| listener);
            ready.map_err(MachineError::new("listen on", path))
        };
        let xen = Model::new(FREE_MIB);
        xen.set_cpus(CPUS);
        xen.set_version(crate::version());
        xen.add_control_domain(CONTROL_MIB * 256);
        xen.log("(XEN) This is a simulated host: no Xen runs here.");
        let store = MemStore::new();
        store.set_keeps_time(false);
        let mut own = store.client(0).map_err(MachineError::new("start", &run))?;
        for (path, value) in [
            ("/local/domain/0/name", "Domain-0"),
            ("/local/domain/0/domid", "0"),
            ("/local/pool/0/name", "Pool-0"),
        ] {
            let written = Node::new(path).map_err(xenstore::Error::from);
            written
                .and_then(|path| own.write(&path, value.as_bytes()))
                .map_err(|error| MachineError::new("start", &run)(io::Error::other(error)))?;
        }
        Ok(Machine {
            host: host.clone(),
            xen,
            store,
            own,
            devices: Devices::new(&host.folder)
                .map_err(MachineError::new("start", &host.folder))?,
            guests: BTreeMap::new(),
            last_words: Vec::new(),
            store_socket: listen(&host.store_socket())?,
            // The last: who can connect to it finds the rest.
            xen_socket: listen(&host.xen_socket())?,
            xen_links: Vec::new(),
            store_links: Vec::new(),
            last_use: Instant::now(),
            start: Instant::now(),
        })
    }

    fn run(&mut self) -> Result<(), MachineError> {
        loop {
            let mut wake = Instant::now() + LOOK_EVERY;
            self.bring_up_to_date();
            for guest in self.guests.values_mut() {
                if let Some(next) = guest.live(&self.xen, &self.store) {
                    wake = wake.min(next);
                }
            }
            if self.devices.act(&mut self.own) {
                // The guests' drivers have to see it.
                wake = Instant::now();
            }
            self.deliver();
            self.close_consoles();
            if !self.last_words.is_empty() {
                wake = wake.min(Instant::now() + LAST_WORDS_LEAST);
            }
            if !self.host.xen_socket().exists() || (self.is_idle() && self.switches_off()?) {
                return Ok(());
            }
            self.wait(wake);
            self.accept();
            self.xen_links
                .iter_mut()
                .for_each(|link| link.serve(&self.xen, &self.devices));
            self.store_links.iter_mut().for_each(StoreLink::take_in);
            self.xen_links.retain(|link| !link.is_over);
            self.store_links.retain(|link| !link.is_over);
            self.xen.forget_calls();
        }
    }

    /// Waits for input on a socket or console, or until `wake`.
    fn wait(&self, wake: Instant) {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        fds.push(watched(self.xen_socket.as_fd(), false));
        fds.push(watched(self.store_socket.as_fd(), false));
        let xen_links = self.xen_links.iter();
        fds.extend(xen_links.map(|link| watched(link.stream.as_fd(), !link.to_send.is_empty())));
        let store_links = self.store_links.iter();
        fds.extend(store_links.map(|link| watched(link.stream.as_fd(), !link.to_send.is_empty())));
        let consoles = self
            .guests
            .values()
            .filter_map(|guest| guest.console.as_ref());
        fds.extend(consoles.map(|console| watched(console.fd(), console.is_full())));
        let patience = wake.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(patience).ok();
        // An interrupted wait is one that ended early.
        let _ = rustix::event::poll(&mut fds, limit.as_ref());
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.xen_socket.accept() {
            if self.is_own(&stream) && stream.set_nonblocking(true).is_ok() {
                self.xen_links.push(XenLink::new(stream));
            }
        }
        while let Ok((stream, _)) = self.store_socket.accept() {
            if !self.is_own(&stream) {
                continue;
            }
            if let (Ok(()), Ok(inner)) = (stream.set_nonblocking(true), self.store.connect(0)) {
                self.store_links.push(StoreLink {
                    stream,
                    inner,
                    to_send: Vec::new(),
                    is_over: false,
                });
            }
        }
    }

    /// Whether the connecting process belongs to the host's user. The connections of others are closed.
    fn is_own(&self, stream: &UnixStream) -> bool {
        folder::check_peer(stream, &self.host.folder).is_ok()
    }

    /// Sends xenstored's replies and events to the connections, and console output to its readers.
    fn deliver(&mut self) {
        for link in &mut self.store_links {
            link.take_out();
        }
        for link in &mut self.xen_links {
            link.is_over |= send(&mut link.stream, &mut link.to_send).is_err();
        }
        for guest in self.guests.values_mut() {
            if let Some(console) = &mut guest.console {
                console.flush();
            }
        }
    }

    /// Closes the consoles of ended domains after their output was read, or when no reader is there.
    fn close_consoles(&mut self) {
        self.last_words.retain_mut(|(console, since)| {
            console.flush();
            let gone_for = since.elapsed();
            gone_for < LAST_WORDS_LEAST || (console.is_unread() && gone_for < LAST_WORDS_LIMIT)
        });
    }

    /// Reports changes of the hypervisor to xenstored, to the guests and to the log.
    fn bring_up_to_date(&mut self) {
        // The model reuses a number only after all others. So an equal number means the same domain.
        let domains: BTreeSet<u16> = self
            .xen
            .domain_list()
            .unwrap_or_default()
            .into_iter()
            .filter(|info| info.domid != DomId::ZERO)
            .map(|info| info.domid.0)
            .collect();
        let gone: Vec<u16> = self
            .guests
            .keys()
            .filter(|domid| !domains.contains(domid))
            .copied()
            .collect();
        for domid in gone {
            let console = self.guests.remove(&domid).and_then(|guest| guest.console);
            self.last_words
                .extend(console.map(|console| (console, Instant::now())));
            self.store.domain_destroyed(domid);
            self.log(&format!("d{domid}: gone"));
        }
        for domid in domains {
            if let Entry::Vacant(place) = self.guests.entry(domid) {
                place.insert(Guest::new(DomId(domid)));
                self.log(&format!("d{domid}: made"));
            }
            self.give_console(domid);
        }
    }

    fn log(&self, what: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        self.xen.log(&format!("(XEN) [{seconds:12.6}] {what}"));
    }

    /// A domain whose console is described in xenstore gets a pty, as from xenconsoled.
    fn give_console(&mut self, domid: u16) {
        let has_console = |guest: &Guest| guest.console.is_some();
        if self.guests.get(&domid).is_none_or(has_console) {
            return;
        }
        let Some((name, tty_node)) = self.console_of(domid) else {
            return;
        };
        let log = format!("guest-{}.log", name.replace('/', "_"));
        let log = self.host.folder.join("var/log/xen/console").join(log);
        let Ok(console) = Console::open(&log) else {
            return;
        };
        // Without the node, a command reports that there is no console.
        let _ = self.own.write(&tty_node, console.tty().as_bytes());
        if let Some(guest) = self.guests.get_mut(&domid) {
            guest.console = Some(console);
        }
    }

    /// A domain's name and the node of its tty, once its console is described.
    fn console_of(&mut self, domid: u16) -> Option<(String, Node)> {
        let home = Node::domain(domid);
        self.own.read_opt(&home.join("console/port").ok()?).ok()??;
        let name = self.own.read_opt(&home.join("name").ok()?).ok()??;
        let name = String::from_utf8_lossy(&name).into_owned();
        Some((name, home.join("console/tty").ok()?))
    }

    fn is_idle(&mut self) -> bool {
        if !(self.guests.is_empty() && self.xen_links.is_empty() && self.store_links.is_empty()) {
            self.last_use = Instant::now();
        }
        self.last_use.elapsed() >= IDLE_LIMIT
    }

    /// Stops the host, unless a process is about to use it.
    fn switches_off(&mut self) -> Result<bool, MachineError> {
        let lock = self.host.lock()?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        self.accept();
        if !(self.xen_links.is_empty() && self.store_links.is_empty()) {
            return Ok(false);
        }
        let socket = self.host.xen_socket();
        fs::remove_file(&socket).map_err(MachineError::new("remove", &socket))?;
        Ok(true)
    }
}

fn watched(fd: BorrowedFd<'_>, has_output: bool) -> PollFd<'_> {
    let output = match has_output {
        true => PollFlags::OUT,
        false => PollFlags::empty(),
    };
    PollFd::from_borrowed_fd(fd, PollFlags::IN | output)
}

/// Writes to the socket as much as it takes.
fn send(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(sent) => drop(bytes.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the available bytes. Returns false at the end of the stream.
fn receive(stream: &mut UnixStream, into: &mut Vec<u8>) -> bool {
    let mut piece = [0; 64 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(count) => into.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

impl StoreLink {
    fn take_in(&mut self) {
        let mut arrived = Vec::new();
        self.is_over |= !receive(&mut self.stream, &mut arrived);
        if !arrived.is_empty() {
            self.is_over |= self.inner.send(&arrived, Instant::now()).is_err();
        }
    }

    fn take_out(&mut self) {
        // No bytes mean a time-out, because the store of a simulated host does not wait.
        let received = self.inner.receive(&mut self.to_send, Instant::now());
        self.is_over |= matches!(received, Ok(0));
        self.is_over |= send(&mut self.stream, &mut self.to_send).is_err();
    }
}

impl XenLink {
    fn new(stream: UnixStream) -> XenLink {
        XenLink {
            stream,
            arrived: Vec::new(),
            to_send: Vec::new(),
            mappings: BTreeMap::new(),
            last_mapping: 0,
            loops: Vec::new(),
            is_over: false,
        }
    }

    fn serve(&mut self, xen: &Model, devices: &Devices) {
        self.is_over |= !receive(&mut self.stream, &mut self.arrived);
        while let Some(frame) = wire::take(&mut self.arrived).unwrap_or_else(|_| {
            self.is_over = true;
            None
        }) {
            let (answer, bytes) = match self.carry_out(xen, devices, frame) {
                Ok((value, bytes)) => (Ok(value), bytes),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
            let answer: Answer = answer;
            match wire::encode(&answer, &bytes) {
                Ok(frame) => self.to_send.extend(frame),
                Err(_) => self.is_over = true,
            }
        }
        self.is_over |= send(&mut self.stream, &mut self.to_send).is_err();
    }

    fn carry_out(
        &mut self,
        xen: &Model,
        devices: &Devices,
        frame: Frame,
    ) -> Result<(Value, Vec<u8>), Refusal> {
        let call: Call<Value> = serde_json::from_slice(&frame.head).map_err(nonsense)?;
        let args = call.args;
        if let Some(answer) = devices.carry_out(&call.call, &args, &mut self.loops) {
            return Ok((answer?, Vec::new()));
        }
        let nothing = |()| (Value::Null, Vec::new());
        match call.call.as_str() {
            "map_foreign" => {
                let (domid, frames): (DomId, Vec<Gfn>) = parse(args)?;
                self.keep(xen.map_foreign(domid, &frames)?)
            }
            "map_grant_frames" => {
                let (domid, nr_frames) = parse(args)?;
                self.keep(xen.map_grant_frames(domid, nr_frames)?)
            }
            "unmap" => {
                let (id,): (u64,) = parse(args)?;
                self.mappings.remove(&id);
                Ok(nothing(()))
            }
            "write_memory" => {
                let (id, offset) = parse(args)?;
                Ok(self.mapping(id)?.write(offset, &frame.bytes).map(nothing)?)
            }
            "zero_memory" => {
                let (id, offset, len) = parse(args)?;
                Ok(self.mapping(id)?.zero(offset, len).map(nothing)?)
            }
            "read_memory" => {
                let (id, offset, len): (u64, usize, usize) = parse(args)?;
                let mapping = self.mapping(id)?;
                let mut bytes = vec![0; len.min(mapping.size_bytes())];
                mapping.read(offset, &mut bytes)?;
                Ok((Value::Null, bytes))
            }
            other => Ok((plain(xen, other, args)?, Vec::new())),
        }
    }

    fn keep(&mut self, mapping: Box<dyn GuestMemory>) -> Result<(Value, Vec<u8>), Refusal> {
        self.last_mapping += 1;
        let answer = to_value((self.last_mapping, mapping.size_bytes()))?;
        self.mappings.insert(self.last_mapping, mapping);
        Ok((answer, Vec::new()))
    }

    fn mapping(&mut self, id: u64) -> Result<&mut Box<dyn GuestMemory>, Refusal> {
        let found = self.mappings.get_mut(&id);
        found.ok_or_else(|| Refusal::Other(format!("no mapping {id}")))
    }
}

macro_rules! dispatch {
    ($($name:ident($($arg:ident: $ty:ty),*) ($($by_ref:ident: $of:ty),*) -> $ret:ty;)*) => {
        /// A call that carries plain data.
        fn plain(xen: &Model, call: &str, args: Value) -> Result<Value, Refusal> {
            $(if call == stringify!($name) {
                #[allow(clippy::unused_unit)]
                let ($($arg,)* $($by_ref,)*): ($($ty,)* $(<$of as ToOwned>::Owned,)*) = parse(args)?;
                return to_value(xen.$name($($arg,)* $(&$by_ref,)*)?);
            })*
            rest(xen, call, args)
        }
    };
}
hypervisor_methods!(dispatch);

/// The calls that the list leaves out.
fn rest(xen: &Model, call: &str, args: Value) -> Result<Value, Refusal> {
    type Affinity = (DomId, VcpuId, Option<CpuMap>, Option<CpuMap>, bool);
    match call {
        "destroy_domain" => {
            let (domid,): (DomId,) = parse(args)?;
            if domid == DomId::ZERO {
                return Err(Refusal::Call {
                    domid: Some(domid),
                    errno: Errno::EINVAL,
                    detail: String::new(),
                });
            }
            to_value(xen.destroy_domain(domid, Instant::now())?)
        }
        "set_vcpu_affinity" => {
            let (domid, vcpu, hard, soft, force): Affinity = parse(args)?;
            let (hard, soft) = (hard.as_ref(), soft.as_ref());
            to_value(xen.set_vcpu_affinity(domid, vcpu, hard, soft, force)?)
        }
        other => Err(Refusal::Other(format!(
            "a simulated host has no call `{other}`"
        ))),
    }
}

fn parse<T: DeserializeOwned>(args: Value) -> Result<T, Refusal> {
    serde_json::from_value(args).map_err(nonsense)
}

fn to_value(answer: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(nonsense)
}

fn nonsense(error: serde_json::Error) -> Refusal {
    Refusal::Other(error.to_string())
}

/// Writes an example configuration and kernel. Existing files belong to the user and stay.
fn write_example(host: &Host) -> Result<(), MachineError> {
    let (config, kernel_path) = (host.example(), host.folder.join("test-guest"));
    let disk_path = host.folder.join("disk.img");
    let text = format!(
        "# A guest for this simulated host.\nname = \"guest\"\ntype = \"pvh\"\nkernel = \"{}\"\nmemory = 64\n\
         vcpus = 1\nmaxvcpus = 2\nvif = [ \"bridge=xenbr0\" ]\n# disk = [ \"{},raw,xvda,rw\" ]\non_poweroff = \"destroy\"\non_reboot = \"restart\"\n",
        kernel_path.display(),
        disk_path.display()
    );
    for (path, bytes) in [
        (&kernel_path, kernel::image()),
        (&disk_path, vec![0; DISK_BYTES]),
        (&config, text.into_bytes()),
    ] {
        folder::write_once(path, &bytes).map_err(MachineError::new("write", path))?;
    }
    Ok(())
}
