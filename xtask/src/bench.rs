//! `cargo xtask bench`: lab/bench.sh in one boot.

use crate::artifacts::{self, Profile};
use crate::boot::{self, Options, Talk};
use crate::error::Result;
use crate::lab::copy_folder;
use crate::payload::Payload;
use crate::{places, root, setup};
use std::time::Duration;

const BENCH_LIMIT: Duration = Duration::from_secs(3600);
/// Memory of the machine, for 300 guests of 16 MiB.
const MEMORY_MIB: u32 = 8192;

/// Runs the benchmark; what it leaves in /xyl-lab/out (performance.md) goes to docs/.
pub fn run(options: &Options) -> Result<u8> {
    setup::ensure()?;
    artifacts::build(Profile::Release)?;
    let root = root::ensure(options.xen)?;
    let mut payload = Payload::script(places::lab().join("bench.sh"), BENCH_LIMIT);
    payload.profile = Profile::Release;
    let options = Options {
        memory_mib: options.memory_mib.max(MEMORY_MIB),
        ..options.clone()
    };
    let outcome = boot::boot(&options, &root, &payload, Talk::Script(&mut boot::pass_on))?;
    if outcome.exit_code == 0 {
        copy_folder(&outcome.results.out(), &places::workspace().join("docs"))?;
    } else {
        outcome.results.show_logs();
    }
    Ok(u8::try_from(outcome.exit_code).unwrap_or(1))
}
