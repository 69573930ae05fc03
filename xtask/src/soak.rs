//! `cargo xtask lab soak`: boots the lab many times, to find tests that sometimes fail.

use crate::boot::{self, Options, Talk};
use crate::error::{Error, Result};
use crate::payload::Payload;
use crate::{places, root, setup};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SCRIPT_LIMIT: Duration = Duration::from_secs(300);

/// Boots `boots` times, shows each boot's times, then the spread. Our exit code is 1 if any boot failed.
pub fn run(boots: u32, options: &Options, script: Option<PathBuf>) -> Result<u8> {
    setup::ensure()?;
    let root = root::ensure(options.xen)?;
    let payload = Payload::script(
        script.unwrap_or_else(|| places::lab().join("soak.sh")),
        SCRIPT_LIMIT,
    );
    let mut ready_s = Vec::new();
    let mut failed = 0;
    for number in 1..=boots {
        let started = Instant::now();
        let mut said = Vec::new();
        let mut keep = |bytes: &[u8]| said.extend_from_slice(bytes);
        match boot::boot(options, &root, &payload, Talk::Script(&mut keep)) {
            Ok(outcome) => {
                let ready = outcome.ready_after.as_secs_f32();
                ready_s.push(ready);
                let verdict = if outcome.exit_code == 0 {
                    "pass"
                } else {
                    "FAIL"
                };
                let all = started.elapsed().as_secs_f32();
                println!(
                    "{verdict} boot {number}: ready after {ready:.1} s, ended after {all:.1} s"
                );
                if outcome.exit_code != 0 {
                    failed += 1;
                    println!("{}", String::from_utf8_lossy(&said));
                    outcome.results.show_logs();
                }
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                failed += 1;
                println!(
                    "FAIL boot {number}: {error}\n{}",
                    String::from_utf8_lossy(&said)
                );
            }
        }
    }
    println!("{}", spread(ready_s));
    println!(
        "{} passed, {failed} failed, 0 skipped",
        boots.saturating_sub(failed)
    );
    Ok(u8::from(failed > 0))
}

fn spread(mut ready_s: Vec<f32>) -> String {
    ready_s.sort_by(f32::total_cmp);
    let middle = ready_s.get(ready_s.len() / 2);
    match (ready_s.first(), middle, ready_s.last()) {
        (Some(min), Some(median), Some(max)) => {
            format!("ready after: min {min:.1} s, median {median:.1} s, max {max:.1} s")
        }
        _ => "no boot was ready".to_owned(),
    }
}
