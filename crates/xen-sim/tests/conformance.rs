//! The checks that real Xen is held to in the lab, on the simulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;
#[path = "bench/conformance.rs"]
mod conformance;

use std::path::Path;

use bench::Bench;
use conformance::Subject;
use xen_sim::World;

#[test]
fn the_simulated_host_is_as_the_real_one() {
    let bench = Bench::new();
    let world = World::new(256);
    world.xen.set_version(xen_sim::version());
    world.xen.set_cpus(2);
    let mut host = bench.host(&world, &world.fate(None));
    let kernel = bench.kernel().to_owned();
    let subject = Subject {
        host: &mut host,
        kernel: &kernel,
        folder: Path::new("/var/lib/xen"),
    };
    let mut lines = Vec::new();
    let failures = conformance::run(subject, &mut |line| lines.push(line.to_owned()));
    assert_eq!(failures, 0, "{lines:#?}");
    assert_eq!(lines.len(), conformance::count());
}
