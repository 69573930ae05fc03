//! The main loop of the guest: it reports its start, counts beats, reads commands and executes them.

use core::fmt::{self, Write as _};

use testguest_logic::command::{Command, Reason};
use testguest_logic::escape::Escaped;
use testguest_logic::options::Options;
use testguest_logic::text::{LineReader, Text};
use testguest_logic::wire;

use crate::checks::Checks;
use crate::platform::{self, Platform};
use crate::store::{Error, Store};
use crate::{console, events, hostile, hypercall, say, store};

/// Watched paths. The index is the token of the watch.
const WATCHES: [&str; 5] = [
    "data/command",
    "control/shutdown",
    "control/sysrq",
    "memory/target",
    "cpu",
];
const COMMAND: u32 = 1 << 0;
const SHUTDOWN: u32 = 1 << 1;
const SYSRQ: u32 = 1 << 2;
const TARGET: u32 = 1 << 3;
const CPU: u32 = 1 << 4;

/// vCPUs whose availability is followed.
const VCPUS_MAX: usize = 128;

/// Longest command in bytes.
type Line = Text<2048>;

/// A vCPU's `availability` node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Availability {
    Absent,
    Online,
    Offline,
    Other,
}

struct Guest {
    platform: Platform,
    store: Store,
    options: Options,
    input: LineReader,
    heartbeat: u64,
    next_beat_ns: u64,
    ignore_shutdown: bool,
    target: Text<32>,
    vcpus: [Availability; VCPUS_MAX],
    resumes: u32,
    soft_resets: u32,
}

/// Runs the guest. Never returns: the domain ends by hypercall.
pub fn run(platform: Platform) -> ! {
    let mut guest = Guest {
        platform,
        store: Store::new(),
        options: Options::default(),
        input: LineReader::new(),
        heartbeat: 0,
        next_beat_ns: 0,
        ignore_shutdown: false,
        target: Text::new(),
        vcpus: [Availability::Absent; VCPUS_MAX],
        resumes: 0,
        soft_resets: 0,
    };
    guest.start();
    loop {
        guest.turn();
    }
}

impl Guest {
    fn start(&mut self) {
        if let Err(error) = self.platform.attach() {
            say!("cannot attach to Xen's interfaces: {error}");
            hypercall::end(Reason::Crash);
        }
        let cmdline = self.platform.cmdline();
        self.options = Options::parse(cmdline.as_str());
        self.ignore_shutdown = self.options.ignore_shutdown;
        say!(
            "up, TYPE {}, domid {}, {} MiB, {} vcpus, cmdline \"{}\"",
            self.platform.name(),
            self.domid().as_str(),
            self.platform.memory_kib() / 1024,
            platform::count_vcpus(),
            Escaped(cmdline.as_str())
        );
        let (major, minor) = hypercall::xen_version();
        say!("xen {major}.{minor}");
        self.check();
        self.announce();
        say!("ready");
        self.next_beat_ns = events::now_ns();
    }

    fn check(&mut self) {
        let mut checks = Checks::default();
        checks.common();
        self.platform.check(&mut checks);
        if self.options.memtest {
            let outcome = self.platform.test_memory();
            checks.report(
                "memtest",
                outcome.bad == 0,
                format_args!(
                    "{} pages, {} bad, first bad pfn {:#x}",
                    outcome.pages, outcome.bad, outcome.first_bad
                ),
            );
        }
        say!("checks {} ok, {} failed", checks.passed, checks.failed);
        self.publish(
            "data/checks",
            format_args!("{} ok, {} failed", checks.passed, checks.failed),
        );
    }

    /// Makes the guest known in xenstore: at the start, and again in a new or a reset domain.
    fn announce(&mut self) {
        for feature in ["poweroff", "reboot", "suspend"] {
            let mut path = Text::<64>::new();
            let _ = write!(path, "control/feature-{feature}");
            self.publish(path.as_str(), format_args!("1"));
        }
        self.target = self.read_target();
        self.vcpus = self.read_vcpus();
        for (path, index) in WATCHES.iter().zip(0..) {
            if let Err(error) = self.store.watch(path, index) {
                say!("cannot watch {path}: {error}");
            }
        }
        self.publish("data/state", format_args!("up"));
    }

    fn domid(&mut self) -> Text<16> {
        match self.store.read("domid") {
            Ok(domid) => Text::from_bytes(domid),
            Err(_) => Text::from_bytes(b"unknown"),
        }
    }

    /// Writes a node and says so when that fails.
    fn publish(&mut self, path: &str, value: fmt::Arguments<'_>) {
        let mut text = Line::new();
        let _ = text.write_fmt(value);
        if let Err(error) = self.store.write(path, text.as_str().as_bytes()) {
            say!("cannot write {path}: {error}");
        }
    }

    /// One turn of the main loop: everything that is due, then sleep until something happens.
    fn turn(&mut self) {
        let ports = [console::port(), store::port()];
        ports.iter().for_each(|&port| events::clear_pending(port));
        self.read_console();
        self.obey_watches();
        self.beat();
        // Requests to xenstore wait on its channel and take events off the ring; look again.
        if !self.store.is_quiet() {
            return;
        }
        let deadline_ns = if self.options.heartbeat_ms == 0 {
            0
        } else {
            self.next_beat_ns
        };
        events::wait(&ports, deadline_ns);
    }

    fn beat(&mut self) {
        let pause_ns = u64::from(self.options.heartbeat_ms) * 1_000_000;
        let now_ns = events::now_ns();
        if pause_ns == 0 || now_ns < self.next_beat_ns {
            return;
        }
        self.heartbeat += 1;
        self.next_beat_ns = now_ns + pause_ns;
        say!("heartbeat {}", self.heartbeat);
        let beat = self.heartbeat;
        self.publish("data/heartbeat", format_args!("{beat}"));
    }

    fn read_console(&mut self) {
        while let Some(byte) = console::read() {
            let Some(line) = self.input.push(byte) else {
                continue;
            };
            say!("got \"{}\"", Escaped(line.as_str()));
            if let Some(command) = line.as_str().strip_prefix('!') {
                self.obey(command);
            }
        }
    }

    fn obey_watches(&mut self) {
        let fired = self.store.take_fired();
        if fired & TARGET != 0 {
            self.show_target();
        }
        if fired & CPU != 0 {
            self.show_vcpus();
        }
        if fired & SYSRQ != 0 {
            self.take_sysrq();
        }
        if fired & SHUTDOWN != 0 && !self.ignore_shutdown {
            self.take_shutdown();
        }
        if fired & COMMAND != 0 {
            self.take_command();
        }
    }

    // ---- what the toolstack asks through xenstore ----

    fn read_target(&mut self) -> Text<32> {
        self.store
            .read("memory/target")
            .map(Text::from_bytes)
            .unwrap_or_default()
    }

    fn show_target(&mut self) {
        let target = self.read_target();
        if target.as_str() != self.target.as_str() {
            say!("memory target {} KiB", Escaped(target.as_str()));
            self.target = target;
        }
    }

    fn read_vcpus(&mut self) -> [Availability; VCPUS_MAX] {
        let mut vcpus = [Availability::Absent; VCPUS_MAX];
        let mut listed = [false; VCPUS_MAX];
        if let Ok(names) = self.store.directory("cpu") {
            for vcpu in wire::numbered_children(names) {
                if let Some(slot) = listed.get_mut(vcpu as usize) {
                    *slot = true;
                }
            }
        }
        for (number, (slot, _)) in vcpus
            .iter_mut()
            .zip(listed)
            .enumerate()
            .filter(|(_, (_, listed))| *listed)
        {
            let mut path = Text::<64>::new();
            let _ = write!(path, "cpu/{number}/availability");
            *slot = match self.store.read(path.as_str()) {
                Ok(b"online") => Availability::Online,
                Ok(b"offline") => Availability::Offline,
                Ok(_) => Availability::Other,
                Err(_) => Availability::Absent,
            };
        }
        vcpus
    }

    fn show_vcpus(&mut self) {
        let vcpus = self.read_vcpus();
        for (number, (old, new)) in self.vcpus.iter().zip(vcpus).enumerate() {
            if *old != new {
                say!(
                    "vcpu {number} availability {}",
                    match new {
                        Availability::Absent => "absent",
                        Availability::Online => "online",
                        Availability::Offline => "offline",
                        Availability::Other => "other",
                    }
                );
            }
        }
        self.vcpus = vcpus;
    }

    fn take_sysrq(&mut self) {
        let key = self.take("control/sysrq");
        if !key.as_str().is_empty() {
            say!("sysrq {}", Escaped(key.as_str()));
        }
    }

    fn take_shutdown(&mut self) {
        let request = self.take("control/shutdown");
        if request.as_str().is_empty() {
            return;
        }
        say!("shutdown request \"{}\"", Escaped(request.as_str()));
        match Reason::parse(request.as_str()) {
            Some(reason) => self.shut_down(reason),
            None => say!("no such shutdown request"),
        }
    }

    fn take_command(&mut self) {
        let command = self.take("data/command");
        if !command.as_str().is_empty() {
            self.obey(command.as_str());
        }
    }

    /// Reads a node and empties it, in one transaction, so that no request is lost or taken twice.
    /// A node that is absent or empty gives an empty text and is left alone.
    fn take(&mut self, path: &str) -> Line {
        loop {
            match self.try_take(path) {
                Err(error) if error.is("EAGAIN") => {}
                Err(error) if error.is("ENOENT") => return Line::new(),
                Err(error) => {
                    say!("cannot take {path}: {error}");
                    return Line::new();
                }
                Ok(value) => return value,
            }
        }
    }

    fn try_take(&mut self, path: &str) -> Result<Line, Error> {
        let transaction = self.store.begin()?;
        let value = match self.store.read_in(transaction, path) {
            Ok(value) => Line::from_bytes(value),
            Err(error) => {
                self.store.abort(transaction);
                return Err(error);
            }
        };
        if value.as_str().is_empty() {
            self.store.abort(transaction);
            return Ok(value);
        }
        if let Err(error) = self.store.write_in(transaction, path, b"") {
            self.store.abort(transaction);
            return Err(error);
        }
        self.store.commit(transaction)?;
        Ok(value)
    }

    // ---- commands ----

    fn obey(&mut self, line: &str) {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(bad) => {
                self.answer(format_args!("error {}: {bad}", line.trim_ascii()));
                return;
            }
        };
        let line = line.trim_ascii();
        // What does not come back answers first.
        if matches!(
            command,
            Command::Shutdown(_) | Command::Spin | Command::Panic
        ) {
            self.answer(format_args!("ok {line}"));
        }
        match command {
            Command::Shutdown(reason) => self.shut_down(reason),
            Command::Spin => loop {
                core::hint::spin_loop();
            },
            Command::Panic => crash_by_panic(),
            Command::IgnoreShutdown(ignore) => {
                self.ignore_shutdown = ignore;
                self.answer(format_args!("ok {line}"));
                if !ignore {
                    self.take_shutdown();
                }
            }
            Command::Hostile(offset) => {
                let result = hostile::write_values(&mut self.store, offset);
                self.answer_tally(line, result);
            }
            Command::Flood(nodes) => {
                let result = hostile::flood(&mut self.store, nodes);
                self.answer_tally(line, result);
            }
            Command::FillConsole(kib) => {
                fill_console(kib);
                self.answer(format_args!("ok {line}"));
            }
            Command::Echo(text) => {
                console::line(format_args!("{text}"));
                self.answer(format_args!("ok {line}"));
            }
            Command::Write(path, value) => match self.store.write(path, value.as_bytes()) {
                Ok(()) => self.answer(format_args!("ok {line}")),
                Err(error) => self.answer(format_args!("error {line}: {error}")),
            },
            Command::Cpuid(leaf, subleaf) => {
                let [eax, ebx, ecx, edx] = self.platform.cpuid(leaf, subleaf);
                self.answer(format_args!(
                    "ok {line}: {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}"
                ));
            }
            Command::Memtest => {
                let outcome = self.platform.test_memory();
                let word = if outcome.bad == 0 { "ok" } else { "error" };
                self.answer(format_args!(
                    "{word} {line}: {} pages, {} bad",
                    outcome.pages, outcome.bad
                ));
            }
        }
    }

    fn answer(&mut self, text: fmt::Arguments<'_>) {
        let mut line = Line::new();
        let _ = line.write_fmt(text);
        say!("{}", Escaped(line.as_str()));
        self.publish("data/result", format_args!("{}", line.as_str()));
    }

    fn answer_tally(&mut self, line: &str, result: Result<hostile::Tally, Error>) {
        match result {
            Ok(tally) => {
                self.answer(format_args!(
                    "ok {line}: {} done, {} refused",
                    tally.done, tally.refused
                ));
            }
            Err(error) => self.answer(format_args!("error {line}: {error}")),
        }
    }

    fn shut_down(&mut self, reason: Reason) {
        match reason {
            Reason::Suspend => self.suspend(),
            Reason::SoftReset => self.soft_reset(),
            other => hypercall::end(other),
        }
    }

    fn suspend(&mut self) {
        say!("suspending");
        let result = self.platform.suspend();
        if let Err(error) = self.platform.attach() {
            say!("cannot attach again: {error}");
        }
        match result {
            Err(error) => say!("suspend failed: {error}"),
            Ok(cancelled) => {
                self.resumes += 1;
                if !cancelled {
                    store::discard_replies();
                }
                self.announce();
                let domid = self.domid();
                say!(
                    "resumed {}, {}, domid {}",
                    self.resumes,
                    if cancelled { "cancelled" } else { "new domain" },
                    domid.as_str()
                );
            }
        }
        self.next_beat_ns = events::now_ns();
    }

    fn soft_reset(&mut self) {
        say!("soft reset");
        if let Err(error) = self.platform.soft_reset() {
            say!("soft reset failed: {error}");
            return;
        }
        if let Err(error) = self.platform.attach() {
            say!("cannot attach again: {error}");
        }
        store::discard_replies();
        self.soft_resets += 1;
        self.announce();
        say!("soft-reset done {}", self.soft_resets);
        self.next_beat_ns = events::now_ns();
    }
}

/// Writes exactly `kib` KiB: lines of 64 bytes, each with its number.
fn fill_console(kib: u32) {
    for number in 0..u64::from(kib) * 16 {
        let mut line = Text::<64>::new();
        let _ = writeln!(
            line,
            "{number:08} abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ "
        );
        console::write(line.as_str().as_bytes());
    }
    console::flush();
}

#[allow(clippy::panic, reason = "that is what the command asks for")]
fn crash_by_panic() -> ! {
    panic!("as commanded")
}
