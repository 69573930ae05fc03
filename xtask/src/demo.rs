//! `cargo xtask demo`: xyl and xl do the same things with the same guests in one boot of real Xen.

use crate::artifacts::{self, Profile};
use crate::boot::{self, Options, Talk};
use crate::error::Result;
use crate::payload::Payload;
use crate::{places, root, setup, terminal};
use std::time::Duration;

const DEMO_LIMIT: Duration = Duration::from_secs(2700);

/// Runs the demo; with `shell`, leaves the user in dom0 afterwards. Our exit code is 0 if every step worked.
pub fn run(options: &Options, shell: bool) -> Result<u8> {
    setup::ensure()?;
    artifacts::build(Profile::Release)?;
    let root = root::ensure(options.xen)?;
    let mut payload = Payload::script(places::lab().join("demo.sh"), DEMO_LIMIT);
    payload.shell = shell;
    payload.profile = Profile::Release;
    eprintln!("[boot Xen {} under QEMU]", options.xen.name());
    let outcome = if shell {
        eprintln!("the demo comes first, then a shell in dom0; Ctrl-] ends it");
        let _raw = terminal::RawMode::enter()?;
        boot::boot(options, &root, &payload, Talk::Terminal)?
    } else {
        boot::boot(options, &root, &payload, Talk::Script(&mut boot::pass_on))?
    };
    if outcome.exit_code != 0 && !shell {
        outcome.results.show_logs();
    }
    Ok(u8::try_from(outcome.exit_code).unwrap_or(1))
}
