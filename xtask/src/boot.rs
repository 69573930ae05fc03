//! One boot of real Xen under QEMU: the host's files in, a script run in dom0, its output and results out.

use crate::error::{Error, Result, at};
use crate::monitor::Monitor;
use crate::payload::Payload;
use crate::process::{check_interrupt, interrupted, run_quietly, tied_to_us};
use crate::root::{Root, Xen};
use crate::{places, setup};
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Properties of the boot's machine.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The Xen release to boot
    #[arg(long, value_enum, default_value = "4.17")]
    pub xen: Xen,
    /// Use the machine's hardware virtualisation instead of software emulation
    #[arg(long)]
    pub kvm: bool,
    /// Memory of the emulated machine in MiB; dom0 gets 1024 of it
    #[arg(long, default_value_t = DEFAULT_MEMORY_MIB)]
    pub memory_mib: u32,
    /// More options for Xen's command line
    #[arg(long, default_value = "")]
    pub xen_options: String,
    /// More words for QEMU's `-cpu`, after those of the lab, such as `vendor=GenuineIntel,family=6` (not with --kvm)
    #[arg(long, default_value = "")]
    pub cpu: String,
    /// QEMU's `-smp`, such as `2,cores=1,threads=2`
    #[arg(long, default_value = "1")]
    pub smp: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            xen: Xen::V4_17,
            kvm: false,
            memory_mib: DEFAULT_MEMORY_MIB,
            xen_options: String::new(),
            cpu: String::new(),
            smp: "1".to_owned(),
        }
    }
}

/// The default machine.
pub const DEFAULT_MEMORY_MIB: u32 = 6144;
/// From QEMU's start until dom0 says "ready". It takes 10 s alone, and more than 180 s beside other boots and compilers on two cores.
const BOOT_LIMIT: Duration = Duration::from_secs(420);
/// From one sign of life of dom0 (it gives one every ten seconds) to the next; generous for the same reason.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);
/// From the script's time limit (which dom0 itself enforces) until the results are out.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Interval at which dom0's output besides the script's is read.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// The disk that takes the results. It is sparse.
const RESULTS_SIZE_BYTES: u64 = 256 << 20;
/// Lines shown of each log after a failure.
const LOG_TAIL_LINES: usize = 50;

/// The receiver of the boot's output.
pub enum Talk<'a> {
    /// Bytes of the script's output, as they come.
    Script(&'a mut dyn FnMut(&[u8])),
    /// The same, with answers that the script reads.
    Answers(&'a mut dyn Answers),
    /// A person at a shell in dom0.
    Terminal,
}

/// The part that answers a script's requests.
pub trait Answers {
    /// Takes what the script has printed, and how often the machine's logs say by now that the machine stood still. Returns
    /// what the script is to read.
    fn take(&mut self, said: &[u8], standstills: usize) -> Option<String>;
}

/// A boot that came to its end by itself.
pub struct Outcome {
    /// The script's exit code; 124 if its time limit ended it.
    pub exit_code: i32,
    /// From QEMU's start until the toolstacks could work.
    pub ready_after: Duration,
    /// out/ and logs/, in the boot's temporary folder.
    pub results: Results,
}

/// The files of a boot. Dropping this removes them.
pub struct Results {
    xen: Xen,
    dir: TemporaryDir,
}

impl Results {
    /// Files that the script left in /xyl-lab/out.
    pub fn out(&self) -> PathBuf {
        self.dir.path.join("out")
    }

    /// Prints Xen's log, dom0's log and the guests' consoles on stderr, each under a heading that names the Xen.
    pub fn show_logs(&self) {
        let dir = &self.dir.path;
        let logs = dir.join("logs");
        if !logs.exists() {
            self.show_log(
                "serial line: Xen's log and dom0's log",
                &dir.join("serial.log"),
            );
            return;
        }
        self.show_log("Xen's log", &logs.join("xen.log"));
        self.show_log("dom0's log", &logs.join("dom0.log"));
        let consoles = logs.join("xen/console");
        let mut guests: Vec<PathBuf> = fs::read_dir(&consoles)
            .map(|entries| {
                entries
                    .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                    .collect()
            })
            .unwrap_or_default();
        guests.sort();
        for console in guests {
            let name = console.file_name().unwrap_or_default().to_string_lossy();
            self.show_log(&format!("guest's console {name}"), &console);
        }
    }

    fn show_log(&self, title: &str, path: &Path) {
        let content = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.trim_end_matches('\r'))
            .collect();
        let (skipped, shown) = lines.split_at(lines.len().saturating_sub(LOG_TAIL_LINES));
        let note = match skipped.len() {
            0 => String::new(),
            count => format!(" (without the first {count} lines)"),
        };
        // At once: another boot may be failing beside this one.
        eprintln!(
            "===== {}: {title}{note} =====\n{}",
            self.xen.name(),
            shown.join("\n")
        );
    }
}

/// Boots, runs the payload's script, and waits for its end. A failure shows the logs itself.
pub fn boot(options: &Options, root: &Root, payload: &Payload, talk: Talk<'_>) -> Result<Outcome> {
    let dir = TemporaryDir::new()?;
    let results = Results {
        xen: options.xen,
        dir,
    };
    let machine = Machine::start(options, root, payload, &results.dir.path, &talk)?;
    let started = machine.started;
    match machine.run(payload, talk) {
        Ok(end) => {
            if end.with_results {
                unpack_results(&results.dir.path)?;
            }
            Ok(Outcome {
                exit_code: end.exit_code,
                ready_after: end.ready_after,
                results,
            })
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            results.show_logs();
            eprintln!(
                "===== {}: boot given up after {} s =====",
                options.xen.name(),
                started.elapsed().as_secs()
            );
            Err(error)
        }
    }
}

fn unpack_results(dir: &Path) -> Result<()> {
    run_quietly(
        Command::new("tar")
            .args(["-x", "--no-same-owner", "--no-same-permissions", "-f"])
            .arg(dir.join("results.disk"))
            .arg("-C")
            .arg(dir),
    )
    .map(drop)
}

/// The reason for the end of a machine's run.
struct End {
    exit_code: i32,
    ready_after: Duration,
    /// False if the user left the shell by Ctrl-] and dom0 had no time to hand them out.
    with_results: bool,
}

/// A running QEMU. Dropping it kills QEMU; so does our own death.
struct Machine {
    qemu: Child,
    to_dom0: Option<ChildStdin>,
    from_dom0: Receiver<Vec<u8>>,
    monitor: Monitor,
    control: PathBuf,
    serial: SerialLog,
    started: Instant,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Machine {
    fn start(
        options: &Options,
        root: &Root,
        payload: &Payload,
        dir: &Path,
        talk: &Talk<'_>,
    ) -> Result<Self> {
        let input = dir.join("input.tar");
        payload.pack(options.xen, dir, &input)?;
        let results = dir.join("results.disk");
        File::create(&results)
            .and_then(|file| file.set_len(RESULTS_SIZE_BYTES))
            .map_err(at("make", &results))?;
        let control = dir.join("control");
        File::create(&control).map_err(at("make", &control))?;
        let monitor = Monitor::new(dir)?;

        let mut command = tied_to_us(setup::qemu());
        hardware(&mut command, options);
        software(&mut command, options, root);
        if options.xen.has_iommu() {
            assignable_devices(&mut command);
        }
        // Disk by disk: the order gives dom0 its vda to vdd.
        drive(&mut command, &root.disk(), "snapshot=on");
        drive(&mut command, &input, "readonly=on");
        drive(&mut command, &results, "cache=unsafe");
        drive(&mut command, &root.guest_disk(), "readonly=on");
        ports(&mut command, &control, dir, talk);
        monitor.attach(&mut command);
        command
            .env("TMPDIR", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut qemu = command.spawn().map_err(|source| Error::Start {
            program: setup::qemu().to_string_lossy().into_owned(),
            source,
        })?;
        let to_dom0 = qemu.stdin.take();
        let from_dom0 = read_in_background(qemu.stdout.take());
        Ok(Self {
            qemu,
            to_dom0,
            from_dom0,
            monitor,
            control,
            serial: SerialLog::new(dir.join("serial.log")),
            started: Instant::now(),
        })
    }

    /// Passes output on until dom0 says "exit" or the user leaves.
    fn run(mut self, payload: &Payload, mut talk: Talk<'_>) -> Result<End> {
        if matches!(talk, Talk::Terminal) {
            crate::terminal::send_keys(self.to_dom0.take());
        }
        let mut signs = Signs::new();
        let mut looked = Instant::now();
        loop {
            match self.from_dom0.recv_timeout(LOOK_PERIOD) {
                Ok(bytes) => self.pass(&bytes, &mut talk),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_PERIOD),
            }
            if looked.elapsed() < LOOK_PERIOD {
                continue;
            }
            looked = Instant::now();
            check_interrupt()?;
            let said = fs::read_to_string(&self.control).unwrap_or_default();
            signs.take(&said);
            let exit_code = said_code(&said, "exit ");
            if exit_code.is_some() || crate::terminal::left() {
                self.drain(&mut talk);
                return Ok(End {
                    exit_code: exit_code.or(said_code(&said, "script ")).unwrap_or(0),
                    ready_after: signs.ready.unwrap_or_else(Instant::now) - self.started,
                    with_results: exit_code.is_some(),
                });
            }
            // A shell after the script may last as long as its user likes.
            let limit = payload.script_limit.filter(|_| !payload.shell);
            self.check_alive()?;
            if let Some(cause) = signs.missing(self.started, limit) {
                self.monitor.show_cpu();
                return self.give_up(cause);
            }
        }
    }

    /// Passes dom0's output to the receiver, and its answer to dom0.
    fn pass(&mut self, bytes: &[u8], talk: &mut Talk<'_>) {
        let answer = match talk {
            Talk::Script(show) => {
                show(bytes);
                None
            }
            Talk::Answers(listener) => {
                self.serial.look();
                listener.take(bytes, self.serial.standstills)
            }
            Talk::Terminal => {
                pass_on(bytes);
                None
            }
        };
        if let (Some(answer), Some(to_dom0)) = (answer, &mut self.to_dom0) {
            // An error means that QEMU has ended, which the next look finds.
            let _ = to_dom0.write_all(answer.as_bytes());
            let _ = to_dom0.flush();
        }
    }

    /// Output that was not yet read when dom0 wrote "exit". That comes last, so QEMU has the rest.
    fn drain(&mut self, talk: &mut Talk<'_>) {
        while let Ok(bytes) = self.from_dom0.recv_timeout(Duration::from_millis(100)) {
            self.pass(&bytes, talk);
        }
    }

    fn check_alive(&mut self) -> Result<()> {
        if let Ok(Some(status)) = self.qemu.try_wait() {
            return self.give_up(format!("QEMU ended early ({status})"));
        }
        self.serial.look();
        match self.serial.fatal.take() {
            Some(line) => self.give_up(line),
            None => Ok(()),
        }
    }

    fn give_up<T>(&self, cause: String) -> Result<T> {
        Err(Error::Boot {
            cause,
            elapsed_s: self.started.elapsed().as_secs(),
        })
    }
}

/// dom0's signs of life.
struct Signs {
    ready: Option<Instant>,
    /// Length of the output at the last look, and the time of that.
    heard_bytes: usize,
    heard: Instant,
}

impl Signs {
    fn new() -> Self {
        Self {
            ready: None,
            heard_bytes: 0,
            heard: Instant::now(),
        }
    }

    /// Takes all that was said on the control port so far.
    fn take(&mut self, said: &str) {
        if said.len() > self.heard_bytes {
            self.heard_bytes = said.len();
            self.heard = Instant::now();
        }
        if said.contains("ready ") {
            self.ready.get_or_insert(self.heard);
        }
    }

    /// Which sign should have come by now and has not.
    fn missing(&self, started: Instant, script_limit: Option<Duration>) -> Option<String> {
        let Some(ready) = self.ready else {
            return (started.elapsed() > BOOT_LIMIT)
                .then(|| format!("not ready within {} s", BOOT_LIMIT.as_secs()));
        };
        let limit = script_limit?;
        if ready.elapsed() > limit + END_LIMIT {
            return Some(format!(
                "not at its end {} s after the script's limit of {} s",
                END_LIMIT.as_secs(),
                limit.as_secs()
            ));
        }
        (self.heard.elapsed() > SILENCE_LIMIT).then(|| {
            format!(
                "dom0 has given no sign of life for {} s",
                SILENCE_LIMIT.as_secs()
            )
        })
    }
}

fn said_code(said: &str, word: &str) -> Option<i32> {
    // Only whole lines: dom0 may be in the middle of one.
    let whole = said.rsplit_once('\n')?.0;
    whole
        .lines()
        .find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

/// Output of Xen and dom0 on the serial line so far.
struct SerialLog {
    path: PathBuf,
    /// Number of bytes of it that were examined: whole lines.
    looked_bytes: u64,
    /// Xen's or dom0's last words.
    fatal: Option<String>,
    /// Number of lines about a machine that stood still: its clock wrapped, or its CPU was away.
    standstills: usize,
}

/// The last words.
const FATAL: [&str; 4] = [
    "Panic on CPU",
    "Kernel panic - not syncing",
    "Hardware Dom0",
    "Domain 0 crashed",
];
/// Messages of Xen and Linux about an emulated machine that stood still for seconds.
const STANDSTILL: [&str; 2] = ["unexpectedly wrapped", "soft lockup"];

impl SerialLog {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            looked_bytes: 0,
            fatal: None,
            standstills: 0,
        }
    }

    /// Looks at the lines that have come since the last look.
    fn look(&mut self) {
        let mut more = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.looked_bytes))?;
            file.read_to_end(&mut more)
        });
        let Some(end) = more.iter().rposition(|&byte| byte == b'\n') else {
            return;
        };
        if read.is_err() {
            return;
        }
        more.truncate(end + 1);
        self.looked_bytes += more.len() as u64;
        self.take(&String::from_utf8_lossy(&more));
    }

    fn take(&mut self, lines: &str) {
        let says = |line: &str, words: &[&str]| words.iter().any(|words| line.contains(words));
        for line in lines.lines() {
            // Guests' words come with a "(dN)" mark and do not count.
            if !line.starts_with("(d") && says(line, &FATAL) {
                self.fatal.get_or_insert_with(|| line.trim().to_owned());
            }
            if says(line, &STANDSTILL) {
                self.standstills += 1;
            }
        }
    }
}

fn hardware(command: &mut Command, options: &Options) {
    command.args([
        "-M",
        "q35",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-net",
        "none",
    ]);
    command.args(["-smp", &options.smp, "-m", &options.memory_mib.to_string()]);
    if options.kvm {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        // Each of these answers a failure that was seen: nested SVM on several CPUs, SMAP and RDTSCP that the
        // emulation gets wrong, and CPU models on which Xen's shim or its mwait driver die. Without ERMS, Linux copies
        // and clears memory eight bytes at a time, where the emulation takes each byte of `rep movsb` on its own.
        command.args(["-accel", "tcg,thread=multi", "-cpu"]);
        let mut cpu =
            "max,+svm,+npt,-smap,-rdtscp,family=23,model=1,stepping=2,-monitor,-erms".to_owned();
        if !options.cpu.is_empty() {
            cpu.push(',');
            cpu.push_str(&options.cpu);
        }
        command.arg(cpu);
    }
}

/// An IOMMU, and devices whose memory accesses it translates: 00:10.0, which cannot be reset, and one behind the root port 00:11.0,
/// which can. QEMU's other virtio devices pass the IOMMU by.
fn assignable_devices(command: &mut Command) {
    const RANDOM: &str = "virtio-rng-pci,disable-legacy=on,iommu_platform=on";
    command.args(["-device", "amd-iommu"]);
    command.arg("-device").arg(format!("{RANDOM},addr=10.0"));
    command.args(["-device", "pcie-root-port,id=slot1,chassis=1,addr=11.0"]);
    command.arg("-device").arg(format!("{RANDOM},bus=slot1"));
}

fn software(command: &mut Command, options: &Options, root: &Root) {
    // eager-fpu: emulated XSAVE ignores CR0.TS, so Xen's lazy switch would mix up FPU registers.
    // bootscrub=0: memory of a new QEMU is zero already.
    // conring_size=1m: the tests of many guests fill 128 KiB, and the audit's tests read the boot's lines.
    // hpet=legacy-replacement: the HPET interrupts all the time, 100 times a second. With nested SVM, QEMU changes the
    // flags of pending interrupts without its lock (helper_vmrun, do_vmexit), so now and then it forgets one of the
    // local APIC's until the next interrupt of any kind. Xen asks that timer for one interrupt at a time: without a
    // next one it slept for ever, its timer's interrupt pending.
    command.arg("-kernel").arg(root.xen()).arg("-append").arg(format!(
        "dom0_mem=1G,max:1G com1=115200,8n1 console=com1 noreboot spec-ctrl=eager-fpu bootscrub=0 \
         conring_size=1m hpet=legacy-replacement loglvl=all guest_loglvl=warning {}",
        options.xen_options
    ));
    let mut modules = root.vmlinux().into_os_string();
    modules.push(" console=hvc0 rdinit=/init,");
    modules.push(root.initrd());
    command.arg("-initrd").arg(modules);
}

fn drive(command: &mut Command, path: &Path, more: &str) {
    let mut value = std::ffi::OsString::from("if=virtio,format=raw,");
    value.push(more);
    value.push(",file=");
    value.push(path);
    command.arg("-drive").arg(value);
}

/// The serial line carries Xen's and dom0's logs; the script and the control words have channels of their own.
fn ports(command: &mut Command, control: &Path, dir: &Path, talk: &Talk<'_>) {
    let to_file = |id: &str, path: &Path| {
        let mut value = std::ffi::OsString::from(format!("file,id={id},path="));
        value.push(path);
        value
    };
    command
        .arg("-chardev")
        .arg(to_file("serial", &dir.join("serial.log")));
    command.args(["-serial", "chardev:serial", "-device", "virtio-serial-pci"]);
    command.arg("-chardev").arg(to_file("control", control));
    command.args(["-device", "virtserialport,chardev=control,name=xyl.control"]);
    command.args(["-chardev", "stdio,id=io,signal=off", "-device"]);
    command.arg(match talk {
        Talk::Script(_) | Talk::Answers(_) => "virtserialport,chardev=io,name=xyl.io",
        Talk::Terminal => "virtconsole,chardev=io,name=xyl.io",
    });
}

fn read_in_background(output: Option<ChildStdout>) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let Some(mut output) = output else { return };
        let mut buffer = [0; 16384];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if send.send(bytes).is_err() || interrupted() {
                return;
            }
        }
    });
    receive
}

/// Passes dom0's words on to our stdout, at once.
pub fn pass_on(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(bytes);
    let _ = stdout.flush();
}

/// A folder that goes away with its owner. While the owner lives, it holds a lock on it.
struct TemporaryDir {
    path: PathBuf,
    _lock: File,
}

impl TemporaryDir {
    /// Makes it in the cache, not in /tmp, which may be small. Clears away what killed runs have left.
    fn new() -> Result<Self> {
        let runs = places::runs()?;
        fs::create_dir_all(&runs).map_err(at("make", &runs))?;
        remove_dead_runs(&runs);
        let pid = std::process::id();
        for number in 0u32.. {
            let path = runs.join(format!("{pid}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(at("make", path)(error)),
            }
            // Another run may have taken the new folder for a dead one: then the next number it is.
            if let Some(lock) = lock_run(&path)
                && path.exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(Error::Usage(format!("{} is full of runs", runs.display())))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The lock on a run's folder, if no living run holds it.
fn lock_run(path: &Path) -> Option<File> {
    let folder = File::open(path).ok()?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(folder)
}

/// Removes the folders of runs that were killed before they could tidy up.
pub fn remove_dead_runs(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        if let Some(_lock) = lock_run(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_and_standstills_are_found_in_the_serial_log() {
        let mut log = SerialLog::new(PathBuf::new());
        log.take("(XEN) Platform timer appears to have unexpectedly wrapped 1 times.\n(d3) Panic on CPU 0:\n");
        log.take("watchdog: BUG: soft lockup - CPU#0 stuck for 558s!\n");
        assert_eq!((log.standstills, &log.fatal), (2, &None));
        log.take("(XEN) Panic on CPU 0:\r\n(XEN) Kernel panic - not syncing\n");
        assert_eq!(log.fatal.as_deref(), Some("(XEN) Panic on CPU 0:"));
    }
}
