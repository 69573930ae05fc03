//! `cargo xtask lab test`: the scripts of lab/tests, all in one boot.

use crate::boot::{self, Options, Talk};
use crate::error::{Error, Result, at};
use crate::payload::Payload;
use crate::times::Times;
use crate::{places, root, setup};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write;
use std::ops::AddAssign;
use std::time::Duration;

/// All tests of one boot together; each has a limit of its own, which dom0 enforces.
const ALL_TESTS_LIMIT: Duration = Duration::from_secs(3600);

/// How many tests went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended well.
    pub passed: usize,
    /// Failed, or never came to run.
    pub failed: usize,
    /// Said why they cannot run here.
    pub skipped: usize,
    /// Processes of xyl that they have killed at random moments.
    pub kills: usize,
}

impl Tally {
    /// Prints it, and gives our exit code: 0 if nothing failed.
    pub fn close(self) -> u8 {
        println!("{self}");
        u8::from(self.failed > 0)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.kills += other.kills;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs the tests whose names contain `filter` on one Xen, with the programs and guests as they are built. Tests that a broken boot kept from running count as failed.
/// Each test's time goes to `times`.
pub fn run(options: &Options, filter: Option<&str>, times: &Times) -> Result<Tally> {
    let names = select(filter)?;
    setup::ensure()?;
    let root = root::ensure(options.xen)?;
    let mut payload = Payload::script(places::lab().join("run-tests"), ALL_TESTS_LIMIT);
    payload.arguments = names.iter().cloned().collect();

    println!("lab tests on Xen {}: {}", options.xen.name(), names.len());
    let mut report = Report {
        xen: options.xen.name(),
        waiting: names,
        ..Report::default()
    };
    let outcome = boot::boot(
        options,
        &root,
        &payload,
        Talk::Script(&mut |bytes| report.take(bytes)),
    );
    match outcome {
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => println!("{}: FAIL boot ({error})", options.xen.name()),
        Ok(outcome) if outcome.exit_code != 0 => outcome.results.show_logs(),
        Ok(_) => {}
    }
    for (name, took) in &report.took {
        times.note(&format!("{name} on Xen {}", options.xen.name()), *took);
    }
    Ok(report.close())
}

/// The names (without .sh) of the tests that contain `filter`, sorted.
fn select(filter: Option<&str>) -> Result<BTreeSet<String>> {
    let folder = places::lab().join("tests");
    let entries = fs::read_dir(&folder).map_err(at("read", &folder))?;
    let names: BTreeSet<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sh")?.to_owned()))
        .filter(|name| name.contains(filter.unwrap_or_default()))
        .collect();
    if names.is_empty() {
        let filter = filter.unwrap_or_default();
        return Err(Error::Usage(format!(
            "no test in {} has '{filter}' in its name",
            folder.display()
        )));
    }
    Ok(names)
}

/// Passes the runner's lines on and counts its verdicts.
#[derive(Default)]
struct Report {
    /// In front of each line: two releases may be at it side by side.
    xen: &'static str,
    line: Vec<u8>,
    waiting: BTreeSet<String>,
    tally: Tally,
    took: Vec<(String, Duration)>,
}

impl Report {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(byte);
            }
        }
        let _ = std::io::stdout().flush();
    }

    fn take_line(&mut self, line: &str) {
        println!("{}: {line}", self.xen);
        let mut words = line.split(' ');
        let (verdict, name) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let count = match verdict {
            "pass" => &mut self.tally.passed,
            "FAIL" => &mut self.tally.failed,
            "skip" => &mut self.tally.skipped,
            _ => return,
        };
        if self.waiting.remove(name) {
            *count += 1;
            self.tally.kills += kills(line).unwrap_or(0);
            if let Some(took) = took(line) {
                self.took.push((name.to_owned(), took));
            }
        }
    }

    fn close(mut self) -> Tally {
        for name in &self.waiting {
            println!("{}: FAIL {name} (did not come to its end)", self.xen);
        }
        self.tally.failed += self.waiting.len();
        self.tally
    }
}

/// Reads "... (12.0 s, 5 kills)".
fn kills(line: &str) -> Option<usize> {
    line.strip_suffix(" kills)")?
        .rsplit_once(", ")?
        .1
        .parse()
        .ok()
}

/// Reads "pass NAME (12.0 s" with whatever follows.
fn took(line: &str) -> Option<Duration> {
    let seconds = line.split_once(" (")?.1.split_once(" s")?.0;
    Duration::try_from_secs_f32(seconds.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(names: &[&str]) -> Report {
        Report {
            waiting: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn verdicts_are_counted_once_and_only_for_known_tests() {
        let mut report = report(&["a", "b", "c"]);
        report.take(b"pass a (1.0 s)\nFAIL b (2.0 s)\n    pass c (a test's own words)\npass a (again)\npass z (1 s)\nskip c (no)\n");
        assert_eq!(
            report.close(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 1,
                kills: 0,
            }
        );
    }

    #[test]
    fn what_a_test_has_killed_is_counted_once() {
        let mut report = report(&["a", "b"]);
        report.take(
            b"pass a (1.0 s, 30 kills)\npass a (1.0 s, 30 kills)\nFAIL b (2.0 s, 12 kills)\n",
        );
        assert_eq!(report.close().kills, 42);
    }

    #[test]
    fn the_time_of_a_test_is_read() {
        let seconds = |line| took(line).map(|took| took.as_secs_f32());
        assert_eq!(seconds("pass a (12.5 s)"), Some(12.5));
        assert_eq!(seconds("FAIL a (1.0 s, 30 kills)"), Some(1.0));
        assert_eq!(seconds("skip a (no systemd here)"), None);
    }

    #[test]
    fn a_test_without_a_verdict_has_failed() {
        let mut report = report(&["a", "b"]);
        report.take(b"pass a (1.0 s)\npass b (cut o");
        assert_eq!(
            report.close(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 0,
                kills: 0,
            }
        );
    }
}
