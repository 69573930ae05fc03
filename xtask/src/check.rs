//! `cargo xtask test`: everything that CI checks, the cheap things first.

use crate::artifacts::{self, cargo, guest_manifest};
use crate::audit_hosts;
use crate::boot::Options;
use crate::error::{Error, Result};
use crate::lab_test::{self, Tally};
use crate::lanes::side_by_side;
use crate::process::{self, check_interrupt, step};
use crate::root::Xen;
use crate::setup;
use crate::sim;
use crate::times::Times;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Compares the structures with the C headers of every libxen-dev that Debian's suites offer.
const HEADER_CHECK: &str = "run --quiet --package xen-abi --example header_check -- \
     --suite bookworm --suite trixie --suite sid";

/// Runs all checks, also after one has failed, and ends with the counts. Our exit code is 0 if all passed.
pub fn run(no_lab: bool, kvm: bool) -> Result<u8> {
    require_components()?;
    let mut checks = Checks::default();
    for workspace in [
        Workspace {
            name: "workspace",
            manifest: None,
        },
        Workspace {
            name: "guest",
            manifest: Some(guest_manifest()),
        },
    ] {
        checks.source(&workspace)?;
    }
    checks.counted("runs in the simulated world", || {
        cargo_test(&mut sim::seeds(1, sim::SEEDS_OF_A_TEST))
    })?;
    checks.counted("processes beside each other in the simulated world", || {
        cargo_test(&mut sim::interleavings(1, sim::SEEDS_OF_A_TEST))
    })?;
    checks.one("layouts as in the headers of Debian's Xen packages", || {
        process::run(cargo().args(HEADER_CHECK.split(' ')))
    })?;
    checks.one("build for the lab", || {
        artifacts::build(artifacts::Profile::Lab)
    })?;
    if !no_lab {
        checks.one("what the lab needs", setup::ensure)?;
        let tests = Times::default();
        checks.lab(&[Xen::V4_17, Xen::V4_20], kvm, &tests)?;
        checks.counted("lab tests of bare 32-bit PV guests", || {
            bare_pv32(kvm, &tests)
        })?;
        if !kvm {
            // These hosts' CPUs are emulated ones.
            checks.counted("xyl audit on other hosts", || {
                audit_hosts::run(&Options::default(), None)
            })?;
        }
        print!("{}", tests.table("Lab tests"));
        println!(
            "{} processes of xyl were killed at random moments in the lab",
            checks.tally.kills
        );
    }
    print!("{}", checks.times.table("Parts of this run"));
    for name in &checks.failed {
        println!("failed: {name}");
    }
    Ok(checks.tally.close())
}

/// A Cargo workspace of this repository.
struct Workspace {
    name: &'static str,
    manifest: Option<PathBuf>,
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

#[derive(Default)]
struct Checks {
    tally: Tally,
    failed: Vec<String>,
    times: Times,
}

impl Checks {
    /// What needs no boot: format, lints, tests, documentation.
    fn source(&mut self, workspace: &Workspace) -> Result<()> {
        let name = workspace.name;
        self.one(&format!("{name}: format"), || {
            process::run(&mut workspace.cargo("fmt --all -- --check"))
        })?;
        self.one(&format!("{name}: lints"), || {
            process::run(
                &mut workspace.cargo("clippy --quiet --workspace --all-targets -- -D warnings"),
            )
        })?;
        self.one(&format!("{name}: documentation"), || {
            process::run(
                workspace
                    .cargo("doc --quiet --workspace --no-deps")
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )
        })?;
        self.tests(&format!("{name}: tests"), workspace)
    }

    /// One check: passes or fails as a whole.
    fn one(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.counted(name, || {
            work().map(|()| Tally {
                passed: 1,
                ..Tally::default()
            })
        })
    }

    fn tests(&mut self, name: &str, workspace: &Workspace) -> Result<()> {
        self.counted(name, || {
            cargo_test(&mut workspace.cargo("test --workspace --no-fail-fast"))
        })
    }

    /// All the lab's tests on each of these, side by side: a boot takes one core.
    fn lab(&mut self, releases: &[Xen], kvm: bool, times: &Times) -> Result<()> {
        let tests = |&xen: &Xen| {
            let options = Options {
                xen,
                kvm,
                ..Options::default()
            };
            tally_of(&lab_name(xen), &self.times, || {
                lab_test::run(&options, None, times)
            })
        };
        for (&xen, tally) in releases.iter().zip(side_by_side(releases, tests)) {
            self.add(&lab_name(xen), tally?);
        }
        Ok(())
    }

    /// Does the work as a step, and adds what it counts.
    fn counted(&mut self, name: &str, work: impl FnOnce() -> Result<Tally>) -> Result<()> {
        check_interrupt()?;
        let tally = tally_of(name, &self.times, work)?;
        self.add(name, tally);
        Ok(())
    }

    fn add(&mut self, name: &str, tally: Tally) {
        if tally.failed > 0 {
            self.failed.push(name.to_owned());
        }
        self.tally += tally;
    }
}

/// Does the work as a step. An error counts as one failure, so that the other checks still run; only an interrupt is one.
fn tally_of(name: &str, times: &Times, work: impl FnOnce() -> Result<Tally>) -> Result<Tally> {
    let started = Instant::now();
    let done = step(name, work);
    times.note(name, started.elapsed());
    match done {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            eprintln!("{name}: {error}");
            Ok(Tally {
                failed: 1,
                ..Tally::default()
            })
        }
        tally => tally,
    }
}

/// Debian's Xens run none, so one is built that does. Where Debian's source of it cannot be had, that is a skipped test; one that
/// does not build is a failed one.
fn bare_pv32(kvm: bool, times: &Times) -> Result<Tally> {
    let options = Options {
        xen: Xen::V4_17Pv32,
        kvm,
        ..Options::default()
    };
    match lab_test::run(&options, Some("pv32"), times) {
        Err(Error::Unreachable { what, source }) => {
            println!("skip {what}: {source}");
            Ok(Tally {
                skipped: 1,
                ..Tally::default()
            })
        }
        tally => tally,
    }
}

fn lab_name(xen: Xen) -> String {
    format!("lab tests on Xen {}", xen.name())
}

/// Runs `cargo test`, passes its words on, and adds up what its harnesses report.
fn cargo_test(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start {
            program: "cargo".into(),
            source,
        })?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout)
            .lines()
            .map_while(std::io::Result::ok)
        {
            println!("{line}");
            if let Some(counts) = harness_counts(&line) {
                tally += counts;
            }
        }
    }
    let status = child.wait().map_err(|source| Error::Start {
        program: "cargo".into(),
        source,
    })?;
    check_interrupt()?;
    // No test failed and yet cargo did: something did not compile, or a harness died.
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
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
