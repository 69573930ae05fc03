//! The real [`Spawn`](os_port::Spawn): runs programs to their end.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{
    Child, ChildEnd, ERRORS_MAX_BYTES, Ended, EventSource, Extracted, Extraction, Given,
    HeldProcess, Launch, OpenFile, ProcessSignal, Readiness, SAID_MAX_BYTES, Spawn,
};

use crate::extract::extract;
use crate::process::{Process, wait_for};
use crate::standby::{Extras, NO_PROGRAM, Standby, Streams};

/// Longest time between two looks whether a program is cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most bytes of output that are read at once.
const PIECE_BYTES: usize = 4096;
/// The number of these that a pipe has room for (pipe(7)).
const PIPE_PIECES: usize = 16;
/// The largest value of `oom_score_adj` (proc(5)).
const ENDED_FIRST: &str = "1000";

/// Starts programs on this system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSpawn;

impl Spawn for SystemSpawn {
    fn run(&self, launch: &Launch, limit: Duration) -> io::Result<Ended> {
        let deadline = Instant::now() + limit;
        // A child has no way to report why it could not become the program, so the check is here.
        File::open(launch.program())?;
        let null = open_null()?;
        let (errors, end) = io::pipe()?;
        let streams = Streams {
            input: null.as_fd(),
            output: match launch.is_script() {
                true => end.as_fd(),
                false => null.as_fd(),
            },
            errors: end.as_fd(),
        };
        let extras = Extras {
            is_script: launch.is_script(),
            ..Extras::default()
        };
        let standby = Standby::start_with(launch, streams, &extras)?;
        drop(end);
        let ended = run_until((deadline, None), launch, errors, &standby.let_go())?;
        if ended.code == Some(NO_PROGRAM) && ended.errors.is_empty() {
            let what = format!("`{}` could not be started", launch.line());
            return Err(io::Error::other(what));
        }
        Ok(ended)
    }

    fn start(&self, launch: &Launch, given: &Given<'_>) -> io::Result<Rc<dyn Child>> {
        File::open(launch.program())?;
        let null = open_null()?;
        let (errors, end) = io::pipe()?;
        let commands = given.takes_commands.then(Commands::new).transpose()?;
        let output = match &commands {
            Some(_) => Some(end.as_fd()),
            None => given.output.and_then(OpenFile::descriptor),
        };
        let output = output.unwrap_or(null.as_fd());
        let input = commands.as_ref().map(|commands| commands.end.as_fd());
        let streams = Streams {
            input: input.unwrap_or(null.as_fd()),
            output,
            errors: match given.keeps_errors {
                true => end.as_fd(),
                false => output,
            },
        };
        let files: Option<Vec<_>> = given.files.iter().map(|file| file.descriptor()).collect();
        let extras = Extras {
            files: &files.ok_or(io::ErrorKind::InvalidInput)?,
            bounds: given.bounds,
            is_script: false,
        };
        let process = Standby::start_with(launch, streams, &extras)?.let_go();
        drop(end);
        Ok(Rc::new(Started {
            process,
            errors: RefCell::new(errors),
            said: RefCell::default(),
            commands: commands.map(|commands| commands.writer),
        }))
    }

    fn extract(&self, extraction: &Extraction<'_>) -> io::Result<Extracted> {
        extract(extraction)
    }
}

/// A program that runs beside this process.
#[derive(Debug)]
struct Started {
    process: Process,
    /// Its standard error, if that is kept.
    errors: RefCell<PipeReader>,
    /// The part of it that was read so far.
    said: RefCell<Vec<u8>>,
    /// Its standard input, if it takes commands.
    commands: Option<PipeWriter>,
}

/// The standard input of a program that takes commands.
struct Commands {
    writer: PipeWriter,
    /// The program's end.
    end: PipeReader,
}

impl Commands {
    /// A program that reads nothing does not block the writer.
    fn new() -> io::Result<Commands> {
        let (end, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        Ok(Commands { writer, end })
    }
}

impl EventSource for Started {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        self.process.readiness()
    }
}

impl HeldProcess for Started {
    fn send(&self, signal: ProcessSignal) -> io::Result<()> {
        self.process.send(signal)
    }
}

impl Child for Started {
    fn id(&self) -> u32 {
        self.process.id()
    }

    fn end(&self) -> io::Result<Option<ChildEnd>> {
        self.process.end()
    }

    /// The process itself could not set it: until it is its program it shares its memory with this process, and so the setting.
    fn be_ended_first(&self) -> io::Result<()> {
        end_first(self.process.id())
    }

    fn is_of_user(&self, uid: u32) -> io::Result<bool> {
        self.process.is_of_user(uid)
    }

    fn keep_to_domain(&self, domid: u16) -> io::Result<()> {
        self.process.keep_to_domain(domid)
    }

    fn said(&self) -> Vec<u8> {
        let mut said = self.said.borrow_mut();
        // What cannot be read is not there.
        let _ = read_there(&mut self.errors.borrow_mut(), &mut said);
        said.clone()
    }

    fn tell(&self, text: &[u8]) -> io::Result<()> {
        let commands = self.commands.as_ref();
        let mut commands = commands.ok_or(io::ErrorKind::Unsupported)?;
        commands.write_all(text)
    }
}

/// Has the kernel end a process and those that it starts before others when memory is short.
pub(crate) fn end_first(pid: u32) -> io::Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), ENDED_FIRST)
}

pub(crate) fn open_null() -> io::Result<File> {
    let null = Path::new("/dev/null");
    OpenOptions::new().read(true).write(true).open(null)
}

/// Waits for the end of a process. Reads its standard error meanwhile, so that it does not block, and keeps the end
/// of it: programs say the cause last. A child of the program that still runs is not waited for, however much it writes. Kills the process at the deadline, and when it
/// is cancelled.
pub(crate) fn run_until(
    (deadline, is_cancelled): (Instant, Option<&dyn Fn() -> bool>),
    launch: &Launch,
    mut errors: PipeReader,
    process: &Process,
) -> io::Result<Ended> {
    let mut said = Vec::new();
    let mut is_open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = match is_cancelled {
            Some(_) => left.min(LOOK_EVERY),
            None => left,
        };
        let [has_ended, has_said] = wait_for([process.as_fd(), errors.as_fd()], is_open, wait)?;
        if has_ended {
            break;
        }
        let is_cancelled = is_cancelled.is_some_and(|is_cancelled| is_cancelled());
        if left.is_zero() || is_cancelled {
            process.kill_group()?;
            process.wait()?;
        }
        if is_cancelled {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if left.is_zero() {
            let what = format!("`{}` ran into its time limit and was killed", launch.line());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        if has_said {
            is_open = read_last(&mut errors, &mut said)?;
        }
    }
    // A child of the program may go on writing for ever.
    let mut pieces = 0..PIPE_PIECES;
    while is_open && pieces.next().is_some() && is_readable(&errors)? {
        is_open = read_last(&mut errors, &mut said)?;
    }
    let code = process.wait()?;
    Ok(Ended { code, errors: said })
}

/// Reads the output that is there, until there is no room for more.
fn read_there(errors: &mut PipeReader, said: &mut Vec<u8>) -> io::Result<()> {
    let mut is_open = true;
    while is_open && said.len() < SAID_MAX_BYTES && is_readable(errors)? {
        is_open = read_some(errors, said)?;
        said.truncate(SAID_MAX_BYTES);
    }
    Ok(())
}

fn is_readable(errors: &PipeReader) -> io::Result<bool> {
    let [is_there, _] = wait_for([errors.as_fd(); 2], false, Duration::ZERO)?;
    Ok(is_there)
}

/// Reads a part of the output, and keeps the last bytes of all. Returns whether there may be more.
fn read_last(errors: &mut PipeReader, said: &mut Vec<u8>) -> io::Result<bool> {
    let is_open = read_some(errors, said)?;
    said.drain(..said.len().saturating_sub(ERRORS_MAX_BYTES));
    Ok(is_open)
}

/// Appends a part of the output. Returns whether there may be more.
fn read_some(errors: &mut PipeReader, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; PIECE_BYTES];
    let count = errors.read(&mut piece)?;
    said.extend_from_slice(piece.get(..count).unwrap_or_default());
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_port::{
        Bounds, ChildEnd, FILES_MAX, Files, Opening, ProcessSignal, SystemClock, SystemFiles,
        ends_within, run_to_success,
    };

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Launch {
        Launch::new(Path::new("/bin/sh"))
            .unwrap()
            .args(["-c", script])
    }

    #[test]
    fn a_program_is_run_to_its_end() {
        let ended = SystemSpawn
            .run(&shell("echo why >&2; exit 3"), LIMIT)
            .unwrap();
        assert_eq!(
            ended,
            Ended {
                code: Some(3),
                errors: b"why\n".to_vec()
            }
        );
        let ended = SystemSpawn.run(&shell("kill -KILL $$"), LIMIT).unwrap();
        assert_eq!(ended.code, None);
        run_to_success(&SystemSpawn, &shell("exit 0"), LIMIT).unwrap();
        let failed = run_to_success(&SystemSpawn, &shell("echo why >&2; exit 3"), LIMIT);
        assert!(failed.unwrap_err().to_string().contains("why"));
    }

    #[test]
    fn one_that_says_much_ends_all_the_same() {
        let script = "head -c 1000000 /dev/zero >&2; echo why >&2";
        let ended = SystemSpawn.run(&shell(script), LIMIT).unwrap();
        assert_eq!(
            (ended.code, ended.errors.len()),
            (Some(0), ERRORS_MAX_BYTES)
        );
        assert!(ended.errors.ends_with(b"why\n"));
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let start = Instant::now();
        let late = SystemSpawn.run(&shell("exec sleep 1000"), Duration::from_millis(20));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn one_that_writes_all_the_time_is_killed_too() {
        let start = Instant::now();
        let script = shell("exec yes >&2");
        let late = SystemSpawn.run(&script, Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < LIMIT);
    }

    /// It writes until its pipe is closed.
    #[test]
    fn one_whose_child_writes_all_the_time_is_not_waited_for() {
        let start = Instant::now();
        let script = shell("yes >&2 & sleep 0.1; exit 0");
        let ended = SystemSpawn.run(&script, LIMIT).unwrap();
        assert_eq!(ended.code, Some(0));
        assert!(start.elapsed() < LIMIT / 2);
    }

    #[test]
    fn what_one_has_started_is_killed_with_it() {
        let file = std::env::temp_dir().join(format!("xen-sys-group-{}", std::process::id()));
        let script = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let late = SystemSpawn.run(&shell(&script), Duration::from_secs(2));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let pid = SystemFiles.read(&file, 99).unwrap();
        SystemFiles.remove(&file).unwrap();
        let pid: i32 = String::from_utf8(pid).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + LIMIT;
        // SAFETY: the call takes numbers, and signal 0 changes nothing. A zombie that nobody waits for is there still.
        while unsafe { libc::kill(pid, 0) } == 0 && !is_zombie(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Instant::now() < deadline);
    }

    fn is_zombie(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z")
    }

    #[test]
    fn a_script_has_its_variables_and_all_that_it_says_is_kept() {
        let variables = vec![("XENBUS_PATH".into(), "backend/vif/1/0".into())];
        let script = shell("echo $XENBUS_PATH; echo wrong >&2; exit 2").as_script(variables);
        let ended = SystemSpawn.run(&script, LIMIT).unwrap();
        assert_eq!(ended.code, Some(2));
        assert_eq!(ended.errors, b"backend/vif/1/0\nwrong\n");
    }

    #[test]
    fn one_whose_child_goes_on_is_not_waited_for() {
        let ended = SystemSpawn
            .run(&shell("sleep 1000 & exit 0"), LIMIT)
            .unwrap();
        assert_eq!(ended.code, Some(0));
    }

    #[test]
    fn one_that_cannot_be_started_is_told() {
        let missing = Launch::new(Path::new("/no/such/program")).unwrap();
        assert_eq!(
            SystemSpawn.run(&missing, LIMIT).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let no_program = Launch::new(Path::new("/etc/passwd")).unwrap();
        assert!(SystemSpawn.run(&no_program, LIMIT).is_err());
    }

    #[test]
    fn a_child_reads_what_it_is_told_and_its_answer_is_kept() {
        let given = Given {
            keeps_errors: true,
            takes_commands: true,
            ..Given::default()
        };
        let script = shell("read -r line; echo got $line; echo why >&2; sleep 1000");
        let child = SystemSpawn.start(&script, &given).unwrap();
        child.tell(b"this line\n").unwrap();
        let deadline = Instant::now() + LIMIT;
        while child.said() != b"got this line\nwhy\n" {
            assert!(Instant::now() < deadline, "{:?}", child.said());
            std::thread::sleep(Duration::from_millis(1));
        }
        // It reads nothing more of this.
        let much = [b'x'; 1 << 17];
        let refused = child.tell(&much).unwrap_err().kind();
        assert_eq!(refused, io::ErrorKind::WouldBlock);
        child.send(ProcessSignal::Kill).unwrap();
        assert!(ends_within(&*child, &SystemClock, LIMIT).unwrap());
        let deaf = SystemSpawn.start(&script, &Given::default()).unwrap();
        let refused = deaf.tell(b"x").unwrap_err().kind();
        assert_eq!(refused, io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_child_that_has_ended_leaves_no_zombie() {
        let child = SystemSpawn
            .start(&shell("exit 0"), &Given::default())
            .unwrap();
        assert!(ends_within(&*child, &SystemClock, LIMIT).unwrap());
        let folder = std::path::PathBuf::from(format!("/proc/{}", child.id()));
        assert!(folder.exists());
        drop(child);
        assert!(!folder.exists());
    }

    fn into(output: &OpenFile) -> Given<'_> {
        Given {
            output: Some(output),
            ..Given::default()
        }
    }

    #[test]
    fn a_child_has_the_files_that_it_is_given_and_keeps_within_its_bounds() {
        let path = std::env::temp_dir().join(format!("xen-sys-given-{}", std::process::id()));
        SystemFiles.write(&path, b"contents").unwrap();
        let file = SystemFiles.open(&path, &Opening::disk(false)).unwrap();
        SystemFiles.remove(&path).unwrap();
        let given = Given {
            keeps_errors: true,
            files: &[&file, &file],
            bounds: Some(Bounds {
                nr_threads: 100,
                memory_bytes: 1 << 30,
                addresses_bytes: 2 << 30,
                file_bytes: Some(1 << 20),
                has_display: false,
                is_device_model: false,
            }),
            ..Given::default()
        };
        // The shell does all but the last word by itself.
        let line = "cd /proc/self/fd; echo * >&2; read -r text <&5; echo $text >&2; ulimit -v >&2; ulimit -d >&2; ulimit -f >&2; ulimit -Sn >&2; ulimit -Hn >&2; while read -r name value; do case $name in NoNewPrivs:|Seccomp:) echo $value >&2;; esac; done </proc/self/status; (exit 0); exit 0";
        let script = shell(line);
        let child = SystemSpawn.start(&script, &given).unwrap();
        assert!(ends_within(&*child, &SystemClock, LIMIT).unwrap());
        let said = String::from_utf8(child.said()).unwrap();
        // The fourth descriptor is that of the list itself.
        let wanted = "0 1 2 3 4 5\ncontents\n2097152\n1048576\n2048\n1024\n1024\n1\n2\n";
        assert!(said.starts_with(wanted), "{said}");
        // A new process for the part in brackets is refused.
        assert_ne!(child.end().unwrap(), Some(ChildEnd::Exit(0)), "{said}");
        let many = [&file; FILES_MAX + 1];
        let given = Given {
            files: &many,
            ..Given::default()
        };
        let refused = SystemSpawn.start(&script, &given).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_child_runs_beside_this_process_until_it_ends() {
        let log = std::env::temp_dir().join(format!("xen-sys-child-{}", std::process::id()));
        SystemFiles.write(&log, b"").unwrap();
        let output = SystemFiles.open(&log, &Opening::disk(true)).unwrap();
        let script = shell("echo said; echo wrong >&2; exec sleep 1000");
        let child = SystemSpawn.start(&script, &into(&output)).unwrap();
        let soon = Duration::from_millis(20);
        assert!(!ends_within(&*child, &SystemClock, soon).unwrap());
        assert_eq!(
            (child.end().unwrap(), child.is_ready().unwrap()),
            (None, false)
        );
        child.send(ProcessSignal::Stop).unwrap();
        child.send(ProcessSignal::Continue).unwrap();
        child.send(ProcessSignal::Terminate).unwrap();
        assert!(ends_within(&*child, &SystemClock, LIMIT).unwrap());
        for _ in 0..2 {
            assert_eq!(child.end().unwrap(), Some(ChildEnd::Signal));
        }
        child.send(ProcessSignal::Kill).unwrap();
        let child = SystemSpawn
            .start(&shell("exit 3"), &Given::default())
            .unwrap();
        assert!(ends_within(&*child, &SystemClock, LIMIT).unwrap());
        assert_eq!(child.end().unwrap(), Some(ChildEnd::Exit(3)));
        let said = SystemFiles.read(&log, 99).unwrap();
        SystemFiles.remove(&log).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), "said\nwrong\n");
    }
}
