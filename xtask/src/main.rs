//! The project's own tasks: the lab (real Xen under QEMU), the demo, the tests, the benchmark.

// No part of the product: it starts the tools of a developer.
#![allow(clippy::disallowed_methods)]

mod artifacts;
mod audit_hosts;
mod bench;
mod boot;
mod check;
mod demo;
mod error;
mod failure;
mod forever;
mod lab;
mod lab_test;
mod lanes;
mod monitor;
mod payload;
mod places;
mod process;
mod root;
mod setup;
mod sim;
mod soak;
mod terminal;
mod times;
mod web;
#[cfg(test)]
mod words;
mod xen_source;

use clap::{Parser, Subcommand};
use error::{Error, Result};
use std::process::ExitCode;

/// The project's own tasks
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the lab needs, and build its roots
    Setup,
    /// Build the programs as they are installed: static, in target/x86_64-unknown-linux-gnu/release
    Build,
    /// Put the page of xyld together, in web/dist; needs npm. The next build of xyld embeds it
    Web,
    /// Boot real Xen, let xyl and xl run the same guests, show both times
    Demo {
        #[command(flatten)]
        options: boot::Options,
        /// Stay in that dom0 afterwards, in a shell
        #[arg(long)]
        shell: bool,
    },
    /// Everything that CI checks: format, lints, unit tests, documentation, and the lab's tests on each Xen
    Test {
        /// Only what needs no boot
        #[arg(long)]
        no_lab: bool,
        /// Use hardware virtualisation for the boots
        #[arg(long)]
        kvm: bool,
    },
    /// Runs in the simulated world: operations killed, calls failing, guests misbehaving, each as its seed decides
    Sim(sim::Options),
    /// Measure xyl and xl in one boot; the table goes to docs/performance.md
    Bench {
        #[command(flatten)]
        options: boot::Options,
    },
    /// Run long tests again and again, until an interrupt or a failure: the lab's soak tests on each Xen, and the
    /// simulated world
    Soak {
        /// Use hardware virtualisation for the boots
        #[arg(long)]
        kvm: bool,
    },
    /// Real Xen under QEMU
    #[command(subcommand)]
    Lab(lab::Task),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match process::catch_signals().and_then(|()| run(arguments.task)) {
        Ok(code) => ExitCode::from(code),
        Err(Error::Interrupted) => {
            eprintln!("xtask: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(125)
        }
    }
}

fn run(task: Task) -> Result<u8> {
    match task {
        Task::Build => {
            artifacts::build(artifacts::Profile::Release)?;
            Ok(0)
        }
        Task::Web => {
            web::build()?;
            Ok(0)
        }
        Task::Setup => {
            setup::ensure()?;
            for xen in [root::Xen::V4_17, root::Xen::V4_20] {
                root::ensure(xen)?;
            }
            Ok(0)
        }
        Task::Demo { options, shell } => demo::run(&options, shell),
        Task::Test { no_lab, kvm } => check::run(no_lab, kvm),
        Task::Sim(options) => sim::run(&options),
        Task::Bench { options } => bench::run(&options),
        Task::Soak { kvm } => forever::run(kvm),
        Task::Lab(task) => lab::run(task),
    }
}
