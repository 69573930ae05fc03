//! Measures `xyl` against `xl`, in one dom0, in turn.
//!
//! `xyl-bench all` runs every comparison and prints the table of `docs/performance.md`;
//! `xyl-bench budgets` counts what the common operations cost and fails where a budget is exceeded.
//! Hypercalls and forks are counted with strace, xenstore requests and bytes by a proxy that sits
//! between the tool and xenstored, in the same way for both tools.

// No part of the product: it starts what it measures.
#![allow(clippy::disallowed_methods)]

mod budgets;
mod devices;
mod floor;
mod lives;
mod measure;
mod proxy;
mod report;
mod scenarios;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use devices::Site;

/// Measures xyl against xl, in a dom0.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every comparison; prints a Markdown table
    All {
        /// Folder with the guests' kernels
        #[arg(long, default_value = "/xyl-lab/guests")]
        guests: PathBuf,
        /// Runs of each operation and tool
        #[arg(long, default_value_t = 9)]
        runs: usize,
        /// Domains for the scaling test; 0 leaves it out
        #[arg(long, default_value_t = 300)]
        crowd: usize,
        /// Bridge for the guests' interfaces; without it and a ramdisk nothing with devices is measured
        #[arg(long, requires = "ramdisk")]
        bridge: Option<String>,
        /// Ramdisk of a Linux guest, with the drivers of disks and interfaces
        #[arg(long, requires = "bridge")]
        ramdisk: Option<PathBuf>,
    },
    /// Counts of the common operations, checked against their budgets
    Budgets {
        /// Folder with the guests' kernels
        #[arg(long, default_value = "/xyl-lab/guests")]
        guests: PathBuf,
        /// Bridge for the guests' interfaces
        #[arg(long)]
        bridge: String,
    },
}

/// The word that makes this program end at once: what a process takes by itself.
const NOTHING: &str = "nothing";

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == NOTHING)
    {
        return ExitCode::SUCCESS;
    }
    let outcome = match Args::parse().command {
        Command::All {
            guests,
            runs,
            crowd,
            bridge,
            ramdisk,
        } => {
            let site = bridge.as_deref().zip(ramdisk.as_deref());
            let site = site.map(|(bridge, ramdisk)| Site { bridge, ramdisk });
            scenarios::all(&guests, runs, crowd, site.as_ref())
        }
        Command::Budgets { guests, bridge } => budgets::check(&guests, &bridge),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xyl-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The error of a measurement, as text.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
