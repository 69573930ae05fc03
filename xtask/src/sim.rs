//! `cargo xtask sim`: runs in the simulated world, as many as one likes.

use crate::artifacts::cargo;
use crate::error::Result;
use crate::process::{self, check_interrupt};
use std::process::Command;

/// Runs that `cargo xtask test` makes.
pub const SEEDS_OF_A_TEST: u64 = 12_000;
/// For so many of these runs one in which processes run beside each other.
const SEEDS_FOR_AN_INTERLEAVING: u64 = 8;
/// Number of runs between two checks for an interrupt.
const SEEDS_AT_ONCE: u64 = 100_000;

/// Options of `cargo xtask sim`.
#[derive(clap::Args)]
pub struct Options {
    /// Number of seeds to run
    #[arg(long, default_value_t = SEEDS_OF_A_TEST, conflicts_with = "forever")]
    seeds: u64,
    /// Until it is interrupted, or something is found
    #[arg(long)]
    forever: bool,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// Runs them. What is found ends it with an error, after the line that replays the run.
pub fn run(options: &Options) -> Result<u8> {
    if !options.forever {
        process::run(&mut seeds(options.from, options.seeds))?;
        process::run(&mut interleavings(options.from, options.seeds))?;
        return Ok(0);
    }
    for from in (options.from..).step_by(SEEDS_AT_ONCE as usize) {
        check_interrupt()?;
        process::run(&mut seeds(from, SEEDS_AT_ONCE))?;
        process::run(&mut interleavings(from, SEEDS_AT_ONCE))?;
    }
    Ok(0)
}

/// The command that makes so many runs; they share all processors.
pub fn seeds(from: u64, count: u64) -> Command {
    runs_of("seeded", "a_seed_decides", from, count)
}

/// The command for the runs of several processes that go with so many of one.
pub fn interleavings(from: u64, count: u64) -> Command {
    let part = |number: u64| number / SEEDS_FOR_AN_INTERLEAVING;
    runs_of(
        "interleaved",
        "an_order",
        part(from) + 1,
        part(count).max(1),
    )
}

fn runs_of(test: &str, name: &str, from: u64, count: u64) -> Command {
    let words = "test --quiet --profile sim --workspace --test";
    let mut command = cargo();
    command
        .args(words.split(' '))
        .args([test, name, "--", "--nocapture"])
        .env("XYL_SIM_FROM", from.to_string())
        .env("XYL_SIM_SEEDS", count.to_string())
        .env_remove("XYL_SIM_SEED");
    command
}
