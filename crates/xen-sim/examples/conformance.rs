//! The checks that the simulated host is held to, on real Xen: `conformance KERNEL FOLDER`, in dom0 as root. KERNEL is one
//! of a PVH guest, FOLDER takes a core for a moment.
//! `conformance links`, in a network namespace of its own, looks at network interfaces. Exit code 0 only if all of them held.

#[path = "../tests/bench/conformance.rs"]
mod conformance;

use std::path::Path;
use std::process::ExitCode;

use conformance::Subject;
use conformance::os_conformance::{LINK_CHECKS, Ports, real_devices, run_all};
use xyl_engine::Host;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.iter().skip(1).eq(["links"]) {
        let devices = real_devices();
        let ports = Ports::real(&devices, "/".into());
        return exit_of(LINK_CHECKS.len(), |tell| run_all(&ports, LINK_CHECKS, tell));
    }
    let [_, kernel, folder] = words.as_slice() else {
        eprintln!("usage: conformance KERNEL FOLDER | conformance links");
        return ExitCode::FAILURE;
    };
    let mut host = match Host::open() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("conformance: {error}");
            return ExitCode::FAILURE;
        }
    };
    let subject = Subject {
        host: &mut host,
        kernel: Path::new(kernel),
        folder: Path::new(folder),
    };
    exit_of(conformance::count(), |tell| conformance::run(subject, tell))
}

/// Runs the checks and prints a line for each, and those that failed once more at the end.
fn exit_of(nr_checks: usize, checks: impl FnOnce(&mut dyn FnMut(&str)) -> usize) -> ExitCode {
    let mut failed = Vec::new();
    let nr_failed = checks(&mut |line| {
        println!("{line}");
        failed.extend(line.starts_with("FAIL").then(|| line.to_owned()));
    });
    println!("{nr_checks} checks, {nr_failed} failed");
    for line in failed {
        println!("{line}");
    }
    match nr_failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
