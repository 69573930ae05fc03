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
        return exit_of(links(), LINK_CHECKS.len());
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
    let failures = conformance::run(subject, &mut |line| println!("{line}"));
    exit_of(failures, conformance::count())
}

/// Looks at network interfaces; how many checks failed.
fn links() -> usize {
    let devices = real_devices();
    let ports = Ports::real(&devices, "/".into());
    run_all(&ports, LINK_CHECKS, &mut |line| println!("{line}"))
}

fn exit_of(failures: usize, checks: usize) -> ExitCode {
    println!("{checks} checks, {failures} failed");
    match failures {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
