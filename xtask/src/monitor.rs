//! QEMU's monitor socket. After a failure it shows the present instruction of the emulated CPU.

use crate::error::{Result, at};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Commands to a stuck machine. The registers are read several times, to see whether they change.
const QUESTIONS: [&str; 4] = [
    "info registers",
    "info lapic",
    "info registers",
    "info registers",
];
/// QEMU answers at once, unless it is stuck itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// A monitor that speaks QMP over two named pipes (a socket's path in the cache could be too long).
pub struct Monitor {
    base: PathBuf,
}

impl Monitor {
    /// Makes the pipes in the folder of a run.
    pub fn new(dir: &Path) -> Result<Self> {
        let monitor = Self {
            base: dir.join("monitor"),
        };
        for pipe in [monitor.in_pipe(), monitor.out_pipe()] {
            rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .map_err(|error| at("make", &pipe)(error.into()))?;
        }
        Ok(monitor)
    }

    /// Has the QEMU of this command serve it.
    pub fn attach(&self, command: &mut Command) {
        let mut pipe = std::ffi::OsString::from("pipe,id=monitor,path=");
        pipe.push(&self.base);
        command.arg("-chardev").arg(pipe);
        command.args(["-mon", "chardev=monitor,mode=control"]);
    }

    /// Prints where the CPU stands on stderr, or that QEMU itself does not answer.
    pub fn show_cpu(&self) {
        eprintln!(
            "===== the emulated CPU, asked {} times =====",
            QUESTIONS.len()
        );
        let said = self.ask(&QUESTIONS).unwrap_or_default();
        let answers: Vec<String> = said.lines().filter_map(answer).collect();
        for text in &answers {
            eprintln!("{text}");
        }
        if answers.len() < QUESTIONS.len() {
            eprintln!(
                "QEMU itself gave {} answers within {} s",
                answers.len(),
                ANSWER_LIMIT.as_secs()
            );
        }
    }

    /// All that QEMU says until each of the questions has its answer, or the time is over.
    fn ask(&self, questions: &[&str]) -> Result<String> {
        let mut to_qemu = open(&self.in_pipe(), OFlags::WRONLY)?;
        let mut from_qemu = open(&self.out_pipe(), OFlags::RDONLY)?;
        let mut words = r#"{"execute":"qmp_capabilities"}"#.to_owned();
        for question in questions {
            words.push_str(&format!(
                r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"{question}"}}}}"#
            ));
        }
        to_qemu
            .write_all(words.as_bytes())
            .map_err(at("write", self.in_pipe()))?;
        let started = Instant::now();
        let mut said = Vec::new();
        while started.elapsed() < ANSWER_LIMIT {
            // An error is "nothing to read yet": the pipe does not block.
            let _ = from_qemu.read_to_end(&mut said);
            let text = String::from_utf8_lossy(&said);
            if text.lines().filter_map(answer).count() == questions.len() {
                break;
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn in_pipe(&self) -> PathBuf {
        self.base.with_extension("in")
    }

    fn out_pipe(&self) -> PathBuf {
        self.base.with_extension("out")
    }
}

fn open(pipe: &Path, direction: OFlags) -> Result<File> {
    rustix::fs::open(
        pipe,
        direction | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map(File::from)
    .map_err(|error| at("open", pipe)(error.into()))
}

/// The text of a line that answers a question; greetings and events have none.
fn answer(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = value.get("return")?.as_str()?;
    Some(text.replace('\r', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_with_a_text_are_answers() {
        assert_eq!(
            answer(r#"{"QMP": {"version": {}, "capabilities": []}}"#),
            None
        );
        assert_eq!(answer(r#"{"return": {}}"#), None);
        assert_eq!(answer(r#"{"return": "RIP=1\r\nCR0=2"#), None);
        assert_eq!(
            answer(r#"{"return": "RIP=1\r\nCR0=2\r\n"}"#).as_deref(),
            Some("RIP=1\nCR0=2\n")
        );
    }
}
