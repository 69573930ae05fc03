//! Compares this crate's structures and constants with the C headers of any release.
//!
//! ```text
//! header_check [--suite NAME]... [--mirror URL] [INCLUDE_DIR]...
//! ```
//!
//! `INCLUDE_DIR` holds `xen/domctl.h` (as `/usr/include` does once `libxen-dev` is installed) or `domctl.h` itself. `--suite` fetches the
//! `libxen-dev` of a Debian suite with apt-get into a temporary folder; nothing is installed, and no root is needed.
//! Exit code: 0 all the same, 1 something differs, 2 something could not be checked.

#![allow(clippy::disallowed_methods)]

#[path = "../tests/header_check/mod.rs"]
mod header_check;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => run(&arguments),
        Err(problem) => {
            eprintln!(
                "header_check: {problem}\nusage: header_check [--suite NAME]... [--mirror URL] [INCLUDE_DIR]..."
            );
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    include_dirs: Vec<PathBuf>,
    suites: Vec<String>,
    mirror: String,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            include_dirs: Vec::new(),
            suites: Vec::new(),
            mirror: "http://deb.debian.org/debian".to_owned(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--suite" => arguments.suites.push(value()?),
                "--mirror" => arguments.mirror = value()?,
                _ if word.starts_with('-') => return Err(format!("{word}: no such option")),
                _ => arguments.include_dirs.push(word.into()),
            }
        }
        if arguments.include_dirs.is_empty() && arguments.suites.is_empty() {
            return Err("nothing to check".to_owned());
        }
        Ok(arguments)
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    let mut worst = 0;
    for dir in &arguments.include_dirs {
        worst = worst.max(report(&dir.display().to_string(), header_check::check(dir)));
    }
    for suite in &arguments.suites {
        worst = worst.max(report(suite, check_suite(suite, &arguments.mirror)));
    }
    ExitCode::from(worst)
}

fn report(name: &str, result: Result<header_check::Report, String>) -> u8 {
    match result {
        Ok(report) if report.differences.is_empty() => {
            println!(
                "{name}: Xen {}: {} facts, all the same",
                report.release, report.compared
            );
            0
        }
        Ok(report) => {
            println!(
                "{name}: Xen {}: {} facts, {} differ:",
                report.release,
                report.compared,
                report.differences.len()
            );
            report
                .differences
                .iter()
                .for_each(|difference| println!("  {difference}"));
            1
        }
        Err(problem) => {
            println!("{name}: not checked: {problem}");
            2
        }
    }
}

fn check_suite(suite: &str, mirror: &str) -> Result<header_check::Report, String> {
    let work = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
    fetch_headers(work.path(), suite, mirror)?;
    header_check::check(&work.path().join("root/usr/include"))
}

/// Unpacks the suite's libxen-dev into `work/root`, with an apt of its own that shares nothing with the system's but the keys.
fn fetch_headers(work: &Path, suite: &str, mirror: &str) -> Result<(), String> {
    let make = |dir: &str| {
        std::fs::create_dir_all(work.join(dir)).map_err(|error| format!("{dir}: {error}"))
    };
    [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "state/lists/partial",
        "cache/archives/partial",
        "download",
        "root",
    ]
    .into_iter()
    .try_for_each(make)?;
    let write = |file: &str, text: String| {
        std::fs::write(work.join(file), text).map_err(|error| format!("{file}: {error}"))
    };
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    write(
        "etc/sources.list",
        format!("deb [arch=amd64 signed-by={keys}] {mirror} {suite} main\n"),
    )?;
    write("state/status", String::new())?;
    let here = work.display();
    // A frozen mirror's Release files run out of date; what is fetched is only read.
    let config = format!(
        "Dir::Etc \"{here}/etc\";\nDir::State \"{here}/state\";\nDir::State::status \"{here}/state/status\";\n\
         Dir::Cache \"{here}/cache\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
         Acquire::Languages \"none\";\nAcquire::Check-Valid-Until \"false\";\nAPT::Sandbox::User \"root\";\n"
    );
    write("apt.conf", config)?;
    let apt_config = work.join("apt.conf");
    let download = work.join("download");
    let apt = |arguments: &[&str]| {
        succeed(
            Command::new("apt-get")
                .env("APT_CONFIG", &apt_config)
                .current_dir(&download)
                .arg("-qq")
                .args(arguments),
        )
    };
    apt(&["update"])?;
    apt(&["download", "libxen-dev"])?;
    let package = std::fs::read_dir(&download)
        .map_err(|error| format!("download: {error}"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get downloaded no package")?;
    succeed(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(package)
            .arg(work.join("root")),
    )
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
