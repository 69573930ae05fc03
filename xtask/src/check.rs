//! `cargo xtask test`: all checks of the CI, the cheap ones first.

use crate::artifacts::{self, Profile, cargo, guest_manifest};
use crate::audit_hosts::{self, Host};
use crate::boot::Options;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::lab_test::{self, Queue, Tally};
use crate::lanes;
use crate::process::{self, check_interrupt, step};
use crate::root::{self, Xen};
use crate::setup;
use crate::sim;
use crate::times::Times;
use crate::web;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Compares the structures with the C headers of every libxen-dev that Debian's suites offer.
const HEADER_CHECK: &str = "run --quiet --profile sim --package xen-abi --example header_check -- \
     --suite bookworm --suite trixie --suite sid";

/// After this no lab test begins any more; those that wait have failed.
const LAB_LIMIT: Duration = Duration::from_secs(65 * 60);
/// After this the run says what it has found so far, and ends as failed.
const RUN_LIMIT: Duration = Duration::from_secs(80 * 60);

/// Runs all checks, also after one has failed, and ends with the counts. Our exit code is 0 if all passed.
pub fn run(no_lab: bool, kvm: bool) -> Result<u8> {
    require_components()?;
    let started = Instant::now();
    let checks = Arc::new(Checks::default());
    end_after_limit(Arc::clone(&checks));
    if no_lab {
        checks.without_xen()?;
    } else {
        checks.beside_each_other(started + LAB_LIMIT, kvm)?;
    }
    println!("All of it took {} s.", started.elapsed().as_secs());
    Ok(checks.close())
}

/// Time that the programs of a run get, at its limit, to end by themselves.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A run that hangs is worth less than one that ends and says where. Nothing that it has started outlives it.
fn end_after_limit(checks: Arc<Checks>) {
    std::thread::spawn(move || {
        std::thread::sleep(RUN_LIMIT);
        println!(
            "failed: not at its end after {} min",
            RUN_LIMIT.as_secs() / 60
        );
        checks.close();
        process::interrupt();
        std::thread::sleep(END_LIMIT);
        process::kill_groups();
        std::process::exit(1);
    });
}

/// So many of the slowest parts stand at the end of the report.
const SLOWEST: usize = 10;

/// A Cargo workspace of this repository.
struct Workspace {
    name: &'static str,
    manifest: Option<PathBuf>,
    /// Cargo's profile of its lints, tests and documentation. With one profile, macros and build scripts are built once.
    profile: &'static str,
}

impl Workspace {
    /// cargo WORDS, in this workspace.
    fn cargo(&self, words: &str) -> Command {
        let mut command = cargo();
        let mut words = words.split(' ');
        command.args(words.next());
        if let Some(manifest) = &self.manifest {
            command.arg("--manifest-path").arg(manifest);
        }
        command.args(words);
        command
    }
}

fn workspaces() -> [Workspace; 2] {
    [
        Workspace {
            name: "workspace",
            manifest: None,
            // The optimised build of the simulated world: unoptimised, the sweeps alone take a quarter of an hour.
            profile: "sim",
        },
        Workspace {
            name: "guest",
            manifest: Some(guest_manifest()),
            // It has few tests, and no profile of its own.
            profile: "dev",
        },
    ]
}

/// Results so far, shared by the lanes.
#[derive(Default)]
struct Checks {
    found: Mutex<Found>,
    times: Times,
    /// The lab's tests, apart.
    lab_times: Mutex<Option<Times>>,
}

/// Results of one check.
#[derive(Default)]
struct Counted {
    tally: Tally,
    /// Lines that its harnesses print of failed tests.
    failures: Vec<String>,
}

impl From<Tally> for Counted {
    fn from(tally: Tally) -> Self {
        Self {
            tally,
            failures: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Found {
    tally: Tally,
    failed: Vec<Failure>,
}

impl Checks {
    /// The lab's boots, each in a lane of its own, and beside them what needs none. The programs for the boots come first.
    fn beside_each_other(&self, deadline: Instant, kvm: bool) -> Result<()> {
        self.formats()?;
        std::thread::scope(|scope| {
            let needs = scope.spawn(|| self.one("what the lab needs", lab_needs));
            let built = self.one("build for the lab", || artifacts::build(Profile::Lab))?;
            let others = scope.spawn(|| {
                // The boots have limits in seconds, these have none. An error is no harm: then all are equal.
                let _ = rustix::process::nice(10);
                self.sources()
            });
            let has_needs = joined(needs);
            // Without their programs the lab's tests would only repeat that the build has failed.
            let boots = match (built, has_needs) {
                (true, Ok(true)) => self.lab(deadline, kvm),
                (_, has_needs) => has_needs.map(drop),
            };
            joined(others).and(boots)
        })
    }

    /// All that needs no boot.
    fn without_xen(&self) -> Result<()> {
        self.formats()?;
        self.sources()
    }

    fn formats(&self) -> Result<()> {
        for workspace in workspaces() {
            self.one(&format!("{}: format", workspace.name), || {
                process::run(&mut workspace.cargo("fmt --all -- --check"))
            })?;
        }
        Ok(())
    }

    /// Lints, tests, documentation, simulation.
    fn sources(&self) -> Result<()> {
        for workspace in workspaces() {
            let Workspace { name, profile, .. } = workspace;
            self.one(&format!("{name}: lints"), || {
                let words = format!(
                    "clippy --quiet --profile {profile} --workspace --all-targets -- -D warnings"
                );
                process::run(&mut workspace.cargo(&words))
            })?;
            self.counted(&format!("{name}: tests"), || {
                let words = format!("test --workspace --no-fail-fast --profile {profile}");
                cargo_test(&mut workspace.cargo(&words))
            })?;
            self.one(&format!("{name}: documentation"), || {
                let words = format!("doc --quiet --profile {profile} --workspace --no-deps");
                process::run(workspace.cargo(&words).env("RUSTDOCFLAGS", "-D warnings"))
            })?;
        }
        match web::has_npm() {
            true => _ = self.one("page: tests", web::test)?,
            false => println!("skipped: the tests of the page, which need npm"),
        }
        self.counted("runs in the simulated world", || {
            simulated(&mut sim::seeds(1, sim::SEEDS_OF_A_TEST))
        })?;
        self.counted("processes beside each other in the simulated world", || {
            simulated(&mut sim::interleavings(1, sim::SEEDS_OF_A_TEST))
        })?;
        self.one("layouts as in the headers of Debian's Xen packages", || {
            process::run(cargo().args(HEADER_CHECK.split(' ')))
        })?;
        Ok(())
    }

    /// The lab's tests on each Xen that they want, and hosts of several kinds.
    fn lab(&self, deadline: Instant, kvm: bool) -> Result<()> {
        let seed = lab_test::seed_of_commit();
        println!(
            "the lab's seed is {seed}: `cargo xtask lab test --seed {seed}` repeats its choices"
        );
        let tests = lab_test::select(&[])?
            .into_iter()
            .flat_map(|test| {
                let xens = lab_test::xens_of(&test, seed);
                xens.into_iter().map(move |xen| (xen, test.clone()))
            })
            .collect();
        let queue = Queue::new(tests, seed, Some(deadline)).repeating();
        // These hosts' CPUs are emulated ones.
        let hosts: Mutex<Vec<&Host>> = Mutex::new(if kvm {
            Vec::new()
        } else {
            audit_hosts::HOSTS.iter().collect()
        });
        let next_host = || hosts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let started = Instant::now();
        lanes::run(|| {
            check_interrupt()?;
            if let Some(xen) = queue.begin() {
                self.tests(&queue, xen, kvm)?;
                return Ok(true);
            }
            let Some(host) = next_host() else {
                return Ok(false);
            };
            self.counted(&format!("xyl audit on the host {}", host.name), || {
                audit_hosts::check(&Options::default(), host).map(Counted::from)
            })?;
            Ok(true)
        })?;
        self.times.note("The lab's boots", started.elapsed());
        let (tally, failed) = queue.close();
        println!(
            "{} processes of xyl were killed at random moments in the lab",
            tally.kills
        );
        let mut found = self.found();
        found.tally += tally;
        found.failed.extend(failed);
        *self
            .lab_times
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(queue.times);
        Ok(())
    }

    /// A boot that runs tests. Debian's Xens run no bare 32-bit PV guest, so one is built that does: where Debian's source of it
    /// cannot be had, its tests are skipped.
    fn tests(&self, queue: &Queue, xen: Xen, kvm: bool) -> Result<()> {
        let options = Options {
            xen,
            kvm,
            ..Options::default()
        };
        let name = format!("boot of Xen {}", xen.name());
        let started = Instant::now();
        let served = step(&name, || queue.serve(&options));
        self.times.note(&name, started.elapsed());
        match served {
            Ok(()) => Ok(()),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error @ Error::Unreachable { .. }) => {
                queue.skip(xen, &error);
                Ok(())
            }
            Err(error) => {
                println!("{name}: {error}");
                Ok(())
            }
        }
    }

    /// One check: passes or fails as a whole. Returns whether it passed.
    fn one(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.counted(name, || {
            work().map(|()| {
                Counted::from(Tally {
                    passed: 1,
                    ..Tally::default()
                })
            })
        })
    }

    /// Does the work as a step, and adds what it counts. Returns whether nothing failed.
    fn counted(&self, name: &str, work: impl FnOnce() -> Result<Counted>) -> Result<bool> {
        check_interrupt()?;
        let counted = counted_of(name, &self.times, work)?;
        let passed = counted.tally.failed == 0;
        let mut found = self.found();
        if !passed {
            found.failed.push(Failure {
                output: counted.failures,
                ..Failure::named(name)
            });
        }
        found.tally += counted.tally;
        Ok(passed)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints the times, what has failed and the counts. Returns our exit code.
    fn close(&self) -> u8 {
        let lab_times = self
            .lab_times
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = &*lab_times {
            print!("{}", times.table("Lab tests"));
        }
        print!(
            "{}",
            self.times.table("Parts of this run, beside each other")
        );
        let found = self.found();
        for failure in found
            .failed
            .iter()
            .filter(|failure| !failure.output.is_empty())
        {
            println!("output of {failure}");
        }
        // A log that is cut keeps its end.
        println!("slowest parts: {}", self.times.slowest(SLOWEST));
        if let Some(times) = &*lab_times {
            println!("slowest lab tests: {}", times.slowest(SLOWEST));
        }
        for failure in &found.failed {
            println!("failed: {}", failure.name);
        }
        found.tally.close()
    }
}

/// Result of a lane.
fn joined<T>(lane: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match lane.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The programs that the lab runs, and the roots that it boots.
fn lab_needs() -> Result<()> {
    setup::ensure()?;
    for xen in [Xen::V4_17, Xen::V4_20] {
        root::ensure(xen)?;
    }
    Ok(())
}

/// Does the work as a step. An error counts as one failure, so that the other checks still run; only an interrupt is one.
fn counted_of(
    name: &str,
    times: &Times,
    work: impl FnOnce() -> Result<Counted>,
) -> Result<Counted> {
    let started = Instant::now();
    let done = step(name, work);
    times.note(name, started.elapsed());
    match done {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            eprintln!("{name}: {error}");
            Ok(Counted {
                tally: Tally {
                    failed: 1,
                    ..Tally::default()
                },
                failures: vec![error.to_string()],
            })
        }
        counted => counted,
    }
}

/// Tests of the simulated world, which are chosen by name: a name that no test has is a failure.
fn simulated(command: &mut Command) -> Result<Counted> {
    let mut counted = cargo_test(command)?;
    if counted.tally.passed + counted.tally.failed == 0 {
        println!("no test of the simulated world ran: was it given another name?");
        counted.tally.failed = 1;
    }
    Ok(counted)
}

/// Runs `cargo test`, passes its words on, and adds up what its harnesses report.
fn cargo_test(command: &mut Command) -> Result<Counted> {
    let mut counted = Counted::default();
    let mut reader = FailedTests::default();
    let succeeded = process::run_by_line(command, |line| {
        println!("{line}");
        counted.failures.extend(reader.take(line));
        if let Some(counts) = harness_counts(line) {
            counted.tally += counts;
        }
    })?;
    // No test failed and yet cargo did: something did not compile, or a harness died.
    if !succeeded && counted.tally.failed == 0 {
        counted.tally.failed = 1;
    }
    Ok(counted)
}

/// Finds what a harness prints of its failed tests: all from "failures:" to the line with its result, at most so many lines for
/// each harness.
#[derive(Default)]
struct FailedTests {
    /// Lines that may still be taken. `None`: outside of such a part.
    rest: Option<usize>,
}

const LINES_OF_A_HARNESS: usize = 30;

impl FailedTests {
    fn take(&mut self, line: &str) -> Option<String> {
        if line.starts_with("test result: ") {
            self.rest = None;
        } else if line == "failures:" {
            self.rest.get_or_insert(LINES_OF_A_HARNESS);
        } else if let Some(rest) = &mut self.rest
            && *rest > 0
            && !line.is_empty()
        {
            *rest -= 1;
            return Some(line.to_owned());
        }
        None
    }
}

/// Reads "test result: ok. 5 passed; 0 failed; 1 ignored; ..."; an ignored test counts as skipped.
fn harness_counts(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
        kills: 0,
    })
}

fn require_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let probe = cargo()
            .args([subcommand, "--version"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            return Err(Error::Missing {
                what: format!("`cargo {subcommand}` does not work here"),
                remedy: format!(
                    "get it with `rustup component add {component}`, or your distribution's package"
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_harness_prints_of_failures_is_found() {
        let mut reader = FailedTests::default();
        let said = "test a ... ok\nfailures:\n\n---- b stdout ----\nwrong\n\nfailures:\n    b\ntest result: FAILED. 1\ntest c ... ok";
        let found: Vec<_> = said.lines().filter_map(|line| reader.take(line)).collect();
        assert_eq!(found, ["---- b stdout ----", "wrong", "    b"]);
    }

    #[test]
    fn a_harness_line_is_read() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        assert_eq!(
            harness_counts(line),
            Some(Tally {
                passed: 5,
                failed: 2,
                skipped: 1,
                kills: 0,
            })
        );
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "test result",
            "test result: ok. no numbers",
            "running 5 tests",
            "5 passed; 2 failed; 1 ignored",
        ] {
            assert_eq!(harness_counts(line), None);
        }
    }
}
