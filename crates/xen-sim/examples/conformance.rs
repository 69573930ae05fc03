//! The checks that the simulated host is held to, on real Xen: `conformance KERNEL FOLDER`, in dom0 as root. KERNEL is one
//! of a PVH guest, FOLDER takes a core for a moment. Exit code 0 only if all of them held.

#[path = "../tests/bench/conformance.rs"]
mod conformance;

use std::path::Path;
use std::process::ExitCode;

use conformance::Subject;
use xyl_engine::Host;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let [_, kernel, folder] = words.as_slice() else {
        eprintln!("usage: conformance KERNEL FOLDER");
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
    println!("{} checks, {failures} failed", conformance::CHECKS.len());
    match failures {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
