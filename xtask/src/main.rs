//! The project's own tasks: the lab (real Xen under QEMU), the demo, the tests, the benchmark.

mod boot;
mod error;
mod lab;
mod payload;
mod places;
mod process;
mod root;
mod setup;
mod terminal;

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
        Task::Setup => {
            setup::ensure()?;
            for xen in [root::Xen::V4_17, root::Xen::V4_20] {
                root::ensure(xen)?;
            }
            Ok(0)
        }
        Task::Lab(task) => lab::run(task),
    }
}
