//! Counting a command's hypercalls, forks and the bytes it reads, with strace.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

/// System calls of a command and its children, counted by strace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of hypercalls (`IOCTL_PRIVCMD_HYPERCALL`).
    pub hypercalls: u64,
    /// Number of other ioctls on privcmd, which are mappings.
    pub mappings: u64,
    /// Processes and threads started.
    pub forks: u64,
    /// Bytes read from files, pipes and sockets.
    pub bytes_read: u64,
}

/// Time limit for a traced command.
const TRACED_MAX: Duration = Duration::from_secs(180);
/// Runs the command and says in a file when it has ended, while its daemons go on.
const WRAPPER: &str = r#""$@"; echo $? > "$0""#;

/// Runs a command under strace and counts until it ends. A daemon that it leaves behind is let go.
pub fn count(arguments: &[String], xenstored_path: &Path, folder: &Path) -> Outcome<Counts> {
    let (log, flag) = (folder.join("strace.log"), folder.join("strace.done"));
    let _ = std::fs::remove_file(&flag);
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-q",
            // With this option strace reacts to signals while it runs a program.
            "-I1",
            "-e",
            "trace=ioctl,clone,clone3,fork,vfork,read,pread64,readv",
            "-o",
        ])
        .arg(&log)
        .args(["--", "sh", "-c", WRAPPER])
        .arg(&flag)
        .args(arguments)
        .env("XENSTORED_PATH", xenstored_path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let status = wait_for(&flag);
    let pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    strace.wait()?;
    match status?.as_str() {
        "0" => Ok(parse(&String::from_utf8_lossy(&std::fs::read(log)?))),
        other => Err(format!("{}: exit code {other} under strace", arguments.join(" ")).into()),
    }
}

/// Runs a command under strace: how often it writes to a VM's journal, and how many bytes.
pub fn journal(arguments: &[String], folder: &Path) -> Outcome<(u64, u64)> {
    let log = folder.join("journal.log");
    let status = Command::new("strace")
        .args(["-q", "-y", "-e", "trace=write,pwrite64,writev", "-o"])
        .arg(&log)
        .arg("--")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("{}: {status} under strace", arguments.join(" ")).into());
    }
    Ok(parse_journal(&String::from_utf8_lossy(&std::fs::read(
        log,
    )?)))
}

/// Adds up lines as `write(10</run/xyl/vm/UUID/journal>, "..."..., 110) = 110`.
fn parse_journal(text: &str) -> (u64, u64) {
    let is_journal = |line: &&str| {
        let file = line
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'));
        file.is_some_and(|(path, _)| path.ends_with("/journal"))
    };
    let sizes: Vec<u64> = text.lines().filter(is_journal).map(result).collect();
    (sizes.len() as u64, sizes.iter().sum())
}

fn wait_for(flag: &Path) -> Outcome<String> {
    let deadline = Instant::now() + TRACED_MAX;
    while Instant::now() < deadline {
        match std::fs::read_to_string(flag) {
            Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
    Err("the command under strace did not end".into())
}

/// Adds up strace's lines, `PID call(arguments) = result`, but for the first process, the wrapper.
pub fn parse(text: &str) -> Counts {
    let mut counts = Counts::default();
    let mut calls = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .peekable();
    let wrapper = calls.peek().map(|(pid, _)| *pid);
    for (pid, call) in calls {
        if Some(pid) != wrapper {
            add(&mut counts, call.trim_start());
        }
    }
    counts
}

/// A call that was interrupted by another thread's line resumes as `<... call resumed>...) = result`.
fn add(counts: &mut Counts, call: &str) {
    let name = call.split(['(', ' ']).next().unwrap_or("");
    match name {
        "ioctl" if call.contains("_IOC(_IOC_NONE, 0x50, 0, ") => counts.hypercalls += 1,
        "ioctl" if call.contains(", 0x50, ") => counts.mappings += 1,
        "clone" | "clone3" | "fork" | "vfork" => counts.forks += 1,
        "read" | "pread64" | "readv" => counts.bytes_read += result(call),
        "<..." if call.contains("read") => counts.bytes_read += result(call),
        _ => {}
    }
}

/// The number after the last `=`, if it is a count.
fn result(call: &str) -> u64 {
    let value = call.rsplit_once("= ").map(|(_, value)| value).unwrap_or("");
    value
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_what_goes_to_the_journal() {
        let text = "\
write(10</run/xyl/vm/1-2/journal>, \"a\"..., 110) = 110
write(1</run/log>, \"journal>\", 8) = 8
write(10</run/xyl/vm/1-2/journal>, \"b\"..., 40) = 40
+++ exited with 0 +++
";
        assert_eq!(parse_journal(text), (2, 150));
    }

    #[test]
    fn counts_what_strace_prints() {
        let text = "\
11  read(3, \"xyz\", 100) = 3
11  clone( <unfinished ...>
12  ioctl(4, _IOC(_IOC_NONE, 0x50, 0, 0x10), 0x7ffc) = 0
12  ioctl(4, _IOC(_IOC_NONE, 0x50, 0x4, 0x20), 0x7ffc) = 0
12  ioctl(1, TCGETS, 0x7ffc) = -1 ENOTTY (Inappropriate ioctl for device)
12  vfork( <unfinished ...>
12  <... vfork resumed>) = 13
13  read(3, \"abc\", 100) = 3
13  read(3, <unfinished ...>
13  <... read resumed>\"x\", 5) = 1
13  pread64(3, \"= 9\"..., 5, 0) = 5
13  read(3, 0x1, 5) = -1 EAGAIN (Resource temporarily unavailable)
";
        let counts = parse(text);
        assert_eq!(
            counts,
            Counts {
                hypercalls: 1,
                mappings: 1,
                forks: 1,
                bytes_read: 9
            }
        );
    }
}
