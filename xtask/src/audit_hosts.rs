//! `cargo xtask lab audit`: hosts of several kinds, each booted for as long as `xyl audit` takes, and what is known of them
//! from the words that they were booted with.

use crate::boot::{self, Options, Talk};
use crate::error::{Error, Result};
use crate::lab_test::Tally;
use crate::payload::Payload;
use crate::root::Xen;
use crate::{lanes, places, root, setup};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// A CPU that Xen takes for a Kaby Lake R: with Meltdown and L1TF, without microcode against anything.
const INTEL: &str = "vendor=GenuineIntel,family=6,model=142,stepping=10";
/// Two threads on the one core; emulated AMD CPUs cannot tell of them.
const THREADS: &str = "2,cores=1,threads=2";

/// A host, and what `lab/audit-host.py` is to find: `TYPE:FAMILY=VERDICT`, `cpu=`, `sharing=`, `runs:TYPE=`.
pub struct Host {
    pub name: &'static str,
    xen: Xen,
    cpu: &'static str,
    smp: &'static str,
    xen_options: &'static str,
    finds: &'static [&'static str],
}

/// All of them.
pub const HOSTS: &[Host] = &[
    Host {
        name: "amd-spec-ctrl-no",
        xen: Xen::V4_17,
        cpu: "",
        smp: "1",
        xen_options: "spec-ctrl=no",
        finds: &[
            "cpu=AMD/23/1/2",
            "pv64:v2=unprotected",
            "pv64:v3=not-affected",
            "pvh:v2=unprotected",
            "sharing=no",
        ],
    },
    Host {
        name: "intel",
        xen: Xen::V4_17,
        cpu: INTEL,
        smp: "1",
        // With page-table isolation, domain 0 is many times slower under emulation.
        xen_options: "xpti=no-dom0",
        finds: &[
            "cpu=Intel/6/142/10",
            "pv64:v3=protected",
            "pv64:l1tf=protected",
            "pv64:srso=not-affected",
            "pv64:mds=unprotected",
        ],
    },
    Host {
        name: "intel-xpti-no",
        xen: Xen::V4_17,
        cpu: INTEL,
        smp: "1",
        xen_options: "xpti=no",
        finds: &["pv64:v3=unprotected", "pv64:l1tf=protected"],
    },
    Host {
        name: "intel-pv-l1tf-no",
        xen: Xen::V4_20,
        cpu: INTEL,
        smp: "1",
        xen_options: "xpti=domu,no-dom0 pv-l1tf=no",
        finds: &["pv64:v3=protected", "pv64:l1tf=unprotected"],
    },
    Host {
        name: "intel-pv-no-32",
        xen: Xen::V4_20,
        cpu: INTEL,
        smp: "1",
        xen_options: "spec-ctrl=no pv=no-32",
        finds: &[
            "pv64:v3=unprotected",
            "pv64:l1tf=unprotected",
            "pv64:v2=unprotected",
            "runs:pv32=no",
        ],
    },
    Host {
        name: "threads",
        xen: Xen::V4_17,
        cpu: INTEL,
        smp: THREADS,
        xen_options: "smt=1 xpti=no-dom0",
        finds: &["sharing=yes"],
    },
    Host {
        name: "threads-smt-0",
        xen: Xen::V4_17,
        cpu: INTEL,
        smp: THREADS,
        xen_options: "smt=0 xpti=no-dom0",
        finds: &["sharing=no"],
    },
    Host {
        name: "threads-sched-gran-core",
        xen: Xen::V4_20,
        cpu: INTEL,
        smp: THREADS,
        xen_options: "sched-gran=core xpti=no-dom0",
        finds: &["sharing=no"],
    },
];

/// Boots each host whose name contains `filter`, side by side. One that was found to be something else than it is has failed.
pub fn run(options: &Options, filter: Option<&str>) -> Result<Tally> {
    setup::ensure()?;
    let chosen: Vec<&Host> = HOSTS
        .iter()
        .filter(|host| filter.is_none_or(|words| host.name.contains(words)))
        .collect();
    // One after the other, so that each root is built once.
    for xen in chosen.iter().map(|host| host.xen).collect::<BTreeSet<_>>() {
        root::ensure(xen)?;
    }
    let waiting = Mutex::new(chosen);
    let tally = Mutex::new(Tally::default());
    lanes::run(|| {
        let Some(host) = lock(&waiting).pop() else {
            return Ok(false);
        };
        let verdict = check(options, host)?;
        *lock(&tally) += verdict;
        Ok(true)
    })?;
    Ok(*lock(&tally))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Boots one host: it passes if it was found to be what it is.
pub fn check(options: &Options, host: &Host) -> Result<Tally> {
    let as_known = is_as_known(options, host)?;
    Ok(Tally {
        passed: usize::from(as_known),
        failed: usize::from(!as_known),
        ..Tally::default()
    })
}

fn is_as_known(options: &Options, host: &Host) -> Result<bool> {
    let options = Options {
        xen: host.xen,
        cpu: host.cpu.to_owned(),
        smp: host.smp.to_owned(),
        xen_options: format!("{} {}", host.xen_options, options.xen_options),
        ..options.clone()
    };
    let root = root::ensure(options.xen)?;
    let mut payload = Payload::script(places::lab().join("audit-host.sh"), SCRIPT_LIMIT);
    payload.arguments = host.finds.iter().map(|&word| word.to_owned()).collect();
    let mut said = Vec::new();
    let mut keep = |bytes: &[u8]| said.extend_from_slice(bytes);
    let outcome = boot::boot(&options, &root, &payload, Talk::Script(&mut keep));
    let text = String::from_utf8_lossy(&said);
    match outcome {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Ok(outcome) if outcome.exit_code == 0 => {
            let ready = outcome.ready_after.as_secs_f32();
            println!("pass {} (ready after {ready:.1} s)", host.name);
            Ok(true)
        }
        Ok(outcome) => {
            println!("FAIL {}\n{text}", host.name);
            outcome.results.show_logs();
            Ok(false)
        }
        Err(error) => {
            println!("FAIL {} ({error})\n{text}", host.name);
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_of_their_own_and_something_to_find() {
        for (index, host) in HOSTS.iter().enumerate() {
            assert!(!host.finds.is_empty());
            assert!(
                HOSTS
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.name != host.name)
            );
        }
    }
}
