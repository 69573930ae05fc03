//! `cargo xtask soak`: what is too long for each run, until it is interrupted or something is found.

use crate::artifacts::{self, Profile};
use crate::boot::Options;
use crate::error::{Error, Result};
use crate::lab_test::Queue;
use crate::process::{self, check_interrupt};
use crate::root::{self, Xen};
use crate::{audit_hosts, lanes, setup, sim};
use std::time::{SystemTime, UNIX_EPOCH};

/// Round by round: all the lab's tests on each release with the long times of a soak, and as many new runs in the simulated world
/// as a whole test makes. Each round has another seed. Our exit code is 1 as soon as a round has found something.
pub fn run(kvm: bool) -> Result<u8> {
    artifacts::build(Profile::Lab)?;
    setup::ensure()?;
    for xen in [Xen::V4_17, Xen::V4_20] {
        root::ensure(xen)?;
    }
    for round in 1u64.. {
        let seed = first_seed();
        println!("soak: round {round}, seed {seed}");
        let from = u64::from(seed) * sim::SEEDS_OF_A_TEST;
        process::run(&mut sim::seeds(from, sim::SEEDS_OF_A_TEST))?;
        process::run(&mut sim::interleavings(from, sim::SEEDS_OF_A_TEST))?;
        let code = lab_round(seed, kvm)?;
        if code != 0 {
            return Ok(code);
        }
        // These hosts' CPUs are emulated ones.
        if !kvm {
            let code = audit_hosts::run(&Options::default(), None)?.close();
            if code != 0 {
                return Ok(code);
            }
        }
    }
    Ok(0)
}

fn lab_round(seed: u32, kvm: bool) -> Result<u8> {
    let queue = Queue::of_soak(seed)?;
    lanes::run(|| {
        check_interrupt()?;
        let Some(xen) = queue.begin() else {
            return Ok(false);
        };
        let options = Options {
            xen,
            kvm,
            ..Options::default()
        };
        match queue.serve(&options) {
            Err(error @ Error::Boot { .. }) => println!("{}: {error}", xen.name()),
            served => served?,
        }
        Ok(true)
    })?;
    let (tally, failed) = queue.close();
    print!("{}", queue.times.table("Lab tests"));
    for failure in failed {
        println!("failed: {}", failure.name);
    }
    Ok(tally.close())
}

/// Another one each second.
fn first_seed() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| (now.as_secs() % u64::from(u32::MAX)) as u32)
}
