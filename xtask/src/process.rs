//! Runs programs as this user or as root, ends them with this process, and shows their duration.

use crate::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT, SIGTERM and SIGHUP only set a flag, so that every step can clean up after itself.
pub fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Default::default);
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(flag)).map_err(|source| Error::Start {
            program: "the signal handler".into(),
            source,
        })?;
    }
    Ok(())
}

/// Asks every step to end, as a signal would.
pub fn interrupt() {
    INTERRUPTED
        .get_or_init(Default::default)
        .store(true, Ordering::Relaxed);
}

/// The process groups of the programs that run now.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Kills every program that this process has started and waits for, with all that it has started.
pub fn kill_groups() {
    for group in groups().iter() {
        // An error means that it has just ended.
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process group that is killed by [`kill_groups`] while this value lives.
struct Group(Option<Pid>);

impl Group {
    /// The group that this child leads.
    fn of(child: &Child) -> Group {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        groups().extend(pid);
        Group(pid)
    }

    /// Asks its processes to end.
    fn ask_to_end(&self) {
        if let Some(pid) = self.0 {
            // An error means that it has just ended.
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        groups().retain(|group| Some(*group) != self.0);
    }
}

/// Whether a signal has asked us to end.
pub fn interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// `Err(Interrupted)` once a signal has asked us to end.
pub fn check_interrupt() -> Result<()> {
    if interrupted() {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// A command that the kernel kills when this process dies, however it dies.
///
/// `setpriv` (util-linux) sets the parent-death signal, which needs no unsafe code here. The signal follows the
/// *thread* that started the program: start it from one that waits for the program's end.
pub fn tied_to_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A command that runs as root: itself if we are root, else through sudo.
pub fn as_root(program: &str) -> Result<Command> {
    if rustix::process::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    if !is_installed("sudo") {
        return Err(Error::Missing {
            what: format!("{program} must run as root, and this machine has no sudo"),
            remedy: "run as root, or install sudo".into(),
        });
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// Whether `program` is found in PATH (or in the sbin folders, which a user's PATH may lack).
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Runs to the end with our stdout and stderr; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let output = run_to_end(command)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(command_error(command, &output))
    }
}

/// Runs to the end in silence; the output is shown only if it fails. Returns what it printed on stdout.
pub fn run_quietly(command: &mut Command) -> Result<String> {
    let output = run_to_end(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Err(command_error(command, &output))
}

/// Waits for the program's end. If we are asked to end, it and all it has started are asked too, and waited for: they
/// may have to tidy up.
fn run_to_end(command: &mut Command) -> Result<Output> {
    // sudo may ask for a password, which only the terminal's own process group can do.
    let grouped = command.get_program() != "sudo";
    if grouped {
        command.process_group(0);
    }
    let child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(start_error(command))?;
    let group = grouped.then(|| Group::of(&child));
    let (send, ended) = mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let mut asked = false;
    loop {
        match ended.recv_timeout(Duration::from_millis(100)) {
            Ok(output) => {
                check_interrupt()?;
                return output.map_err(start_error(command));
            }
            Err(_) if interrupted() && !asked => {
                asked = true;
                group.iter().for_each(Group::ask_to_end);
            }
            Err(_) => {}
        }
    }
}

/// Runs to the end, and gives each line of its stdout to `take`. Returns whether it succeeded. Once we are asked to end, so are it and
/// all that it has started.
pub fn run_by_line(command: &mut Command, mut take: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(start_error(command))?;
    let group = Group::of(&child);
    let (send, lines) = mpsc::channel();
    let stdout = child.stdout.take();
    std::thread::spawn(move || {
        let lines = stdout
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines());
        lines
            .map_while(std::io::Result::ok)
            .try_for_each(|line| send.send(line))
    });
    let mut asked = false;
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => take(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if interrupted() && !std::mem::replace(&mut asked, true) {
            group.ask_to_end();
        }
    }
    let status = child.wait().map_err(start_error(command))?;
    check_interrupt()?;
    Ok(status.success())
}

/// Removes a folder that root may own, also after we were asked to end.
pub fn remove_tree(dir: &Path) -> Result<()> {
    let mut command = as_root("rm")?;
    command.args(["-rf", "--one-file-system", "--"]).arg(dir);
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(start_error(&command))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("rm -rf {}", dir.display()),
        status: status.to_string(),
    })
}

fn command_error(command: &Command, output: &Output) -> Error {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    Error::Command {
        command: words.join(" "),
        status: output.status.to_string(),
    }
}

fn start_error(command: &Command) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let program = command.get_program().to_string_lossy().into_owned();
    move |source| Error::Start { program, source }
}

/// Does a long step with a line before and, when it is done, its time. A step that takes long says so every 30 s.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    eprintln!("[{name}]");
    let done = Arc::new(AtomicBool::new(false));
    let ticker = {
        let done = Arc::clone(&done);
        let name = name.to_owned();
        std::thread::spawn(move || tick(&name, started, &done))
    };
    let result = work();
    done.store(true, Ordering::Relaxed);
    ticker.thread().unpark();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!(
        "[{name}] {verdict} in {:.1} s",
        started.elapsed().as_secs_f32()
    );
    result
}

fn tick(name: &str, started: Instant, done: &AtomicBool) {
    let period = Duration::from_secs(30);
    let mut next = started + period;
    while !done.load(Ordering::Relaxed) {
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        if Instant::now() >= next && !done.load(Ordering::Relaxed) {
            eprintln!("[{name}] {} s ...", started.elapsed().as_secs());
            next += period;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_has_started_is_killed_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let mut pid = String::new();
        let succeeded = run_by_line(&mut command, |line| {
            pid = line.to_owned();
            kill_groups();
        });
        assert!(!succeeded.unwrap());
        assert!(groups().is_empty());
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = std::path::PathBuf::from(format!("/proc/{pid}/status"));
        // Its parent has to collect it.
        let lives = || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            text.contains("State:") && !text.contains("State:\tZ")
        };
        while lives() {
            assert!(Instant::now() < deadline, "process {pid} lives");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
