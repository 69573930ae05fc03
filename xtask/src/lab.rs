//! The commands `cargo xtask lab ...`.

use crate::artifacts::Profile;
use crate::boot::{self, Options, Talk};
use crate::error::{Result, at};
use crate::lab_test::Tally;
use crate::payload::Payload;
use crate::process::run_quietly;
use crate::{artifacts, audit_hosts, bench, lab_test, root, setup, soak, terminal};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Action in the lab
#[derive(clap::Subcommand)]
pub enum Task {
    /// A shell in dom0, on this terminal. Ctrl-] or `poweroff` ends it
    Up {
        #[command(flatten)]
        options: Options,
        /// Host files that dom0 finds in /xyl-lab/in
        #[arg(long = "in", value_name = "FILE", num_args = 1..)]
        files: Vec<PathBuf>,
        /// Take the programs and guests as they were built last
        #[arg(long)]
        no_build: bool,
    },
    /// Run a script in dom0, as root; its output and its exit code become ours
    Run {
        /// The script, on this machine
        script: PathBuf,
        #[command(flatten)]
        options: Options,
        /// Host files that dom0 finds in /xyl-lab/in, where the script starts
        #[arg(long = "in", value_name = "FILE", num_args = 1..)]
        files: Vec<PathBuf>,
        /// Copy what the script leaves in /xyl-lab/out to this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// End the script after this time
        #[arg(long, default_value_t = 600)]
        timeout_s: u64,
        /// Show no logs when the script fails
        #[arg(long)]
        no_logs: bool,
        /// Take the programs and guests as they were built last
        #[arg(long)]
        no_build: bool,
        /// Words for the script
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run lab/tests in one boot
    Test {
        /// Only tests with one of these words in their names
        words: Vec<String>,
        #[command(flatten)]
        options: Options,
        /// Seed of the tests' random numbers (default: the commit's)
        #[arg(long)]
        seed: Option<u32>,
        /// Take the programs and guests as they were built last
        #[arg(long)]
        no_build: bool,
    },
    /// Boot hosts with several CPUs and Xen command lines, and compare `xyl audit` with what is known of each
    Audit {
        /// Only hosts with these words in their names
        filter: Option<String>,
        #[command(flatten)]
        options: Options,
        /// Take the programs as they were built last
        #[arg(long)]
        no_build: bool,
    },
    /// Run lab/bench.sh in one boot and copy its results to docs
    Bench {
        #[command(flatten)]
        options: Options,
    },
    /// Boot many times in a row and say how long each took and which failed
    Soak {
        /// Number of boots
        #[arg(default_value_t = 30)]
        boots: u32,
        #[command(flatten)]
        options: Options,
        /// The script of each boot (default: lab/soak.sh, which starts guests of each type)
        #[arg(long)]
        script: Option<PathBuf>,
        /// Take the programs and guests as they were built last
        #[arg(long)]
        no_build: bool,
    },
    /// Remove all that the lab keeps: roots and what killed runs have left
    Clean,
}

/// Does it. Returns our exit code.
pub fn run(task: Task) -> Result<u8> {
    match task {
        Task::Up {
            options,
            files,
            no_build,
        } => {
            build_unless(no_build)?;
            up(&options, files)
        }
        Task::Run {
            script,
            options,
            files,
            out,
            timeout_s,
            no_logs,
            no_build,
            arguments,
        } => {
            build_unless(no_build)?;
            let mut payload = Payload::script(script, Duration::from_secs(timeout_s));
            payload.files = files;
            payload.arguments = arguments;
            run_script(&options, &payload, out.as_deref(), !no_logs)
        }
        Task::Test {
            words,
            options,
            seed,
            no_build,
        } => {
            build_unless(no_build)?;
            let seed = seed.unwrap_or_else(lab_test::seed_of_commit);
            lab_test::run(&options, &words, seed)
        }
        Task::Audit {
            filter,
            options,
            no_build,
        } => {
            build_unless(no_build)?;
            audit_hosts::run(&options, filter.as_deref()).map(Tally::close)
        }
        Task::Bench { options } => bench::run(&options),
        Task::Soak {
            boots,
            options,
            script,
            no_build,
        } => {
            build_unless(no_build)?;
            soak::run(boots, &options, script)
        }
        Task::Clean => root::clean().map(|()| 0),
    }
}

/// A fresh clone has nothing that dom0 could run; where all is built this takes a moment.
fn build_unless(no_build: bool) -> Result<()> {
    if no_build {
        Ok(())
    } else {
        artifacts::build(Profile::Lab)
    }
}

fn up(options: &Options, files: Vec<PathBuf>) -> Result<u8> {
    setup::ensure()?;
    let root = root::ensure(options.xen)?;
    let payload = Payload {
        script: None,
        arguments: Vec::new(),
        files,
        script_limit: None,
        shell: true,
        answers: false,
        profile: Profile::Lab,
        seed: 0,
        soak: false,
    };
    eprintln!("booting {}; Ctrl-] ends it", options.xen.name());
    let _raw = terminal::RawMode::enter()?;
    boot::boot(options, &root, &payload, Talk::Terminal).map(|_| 0)
}

fn run_script(options: &Options, payload: &Payload, out: Option<&Path>, logs: bool) -> Result<u8> {
    setup::ensure()?;
    let root = root::ensure(options.xen)?;
    let outcome = boot::boot(options, &root, payload, Talk::Script(&mut boot::pass_on))?;
    if let Some(out) = out {
        copy_folder(&outcome.results.out(), out)?;
    }
    if outcome.exit_code != 0 && logs {
        outcome.results.show_logs();
    }
    Ok(u8::try_from(outcome.exit_code).unwrap_or(1))
}

/// Copies the files in `from` to the folder `to`.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(at("make", to))?;
    run_quietly(Command::new("cp").arg("-r").arg(from.join(".")).arg(to)).map(drop)
}
