//! The budgets of operations: maximum counts that do not depend on the machine.

use std::path::Path;

use crate::measure::timed;
use crate::scenarios::{Bench, Tool};
use crate::{Outcome, devices};

/// Upper limits of one operation: what it takes now. Each domid that was in use a moment ago costs a create
/// two more hypercalls, so there is room for a few of those.
struct Budget {
    /// Name in the report.
    what: &'static str,
    /// Maximum number of hypercalls.
    hypercalls: u64,
    /// Maximum number of mapping requests.
    mappings: u64,
    /// Maximum number of xenstore requests.
    requests: u64,
    /// Maximum number of bytes to and from xenstored.
    bytes: u64,
    /// Maximum number of started processes.
    forks: u64,
}

const CREATE_PV: Budget = Budget {
    what: "create -e, PV 64 MiB",
    hypercalls: 20,
    mappings: 2,
    requests: 37,
    bytes: 2700,
    forks: 0,
};
/// The first create of a boot for which the policy has a question about the host: with the boot log, in as many parts as
/// it has.
const FIRST_CREATE_PV: Budget = Budget {
    what: "create -e, PV 64 MiB, facts of the host not gathered yet",
    hypercalls: 60,
    ..CREATE_PV
};
const CREATE_PVH: Budget = Budget {
    what: "create -e, PVH 64 MiB",
    hypercalls: 22,
    mappings: 2,
    requests: 38,
    bytes: 2700,
    forks: 0,
};
/// With a PV guest one more than without: whether this host can run 32-bit ones, which are marked. One that can, as the
/// lab's cannot, has one more for each PV guest.
const LIST: Budget = Budget {
    what: "list",
    hypercalls: 3,
    mappings: 0,
    requests: 2,
    bytes: 150,
    forks: 0,
};
/// With those of the wait for the domain to be gone: a look at it after each event that may tell of that. One request looks for devices,
/// and two for each of five kinds of backends remove their folders.
const DESTROY: Budget = Budget {
    what: "destroy",
    hypercalls: 12,
    mappings: 0,
    requests: 24,
    bytes: 1600,
    forks: 0,
};

/// With a disk and an interface: the requests are their nodes, and looks at their backends (docs/performance.md).
const CREATE_WITH_DEVICES: Budget = Budget {
    what: "create -e, PVH 64 MiB with a raw file and an interface",
    hypercalls: 22,
    mappings: 2,
    requests: 165,
    bytes: 14000,
    forks: 0,
};
const DESTROY_WITH_DEVICES: Budget = Budget {
    what: "destroy of a guest with a raw file and an interface",
    hypercalls: 20,
    mappings: 0,
    requests: 85,
    bytes: 6500,
    forks: 0,
};

/// Asked of the VM's monitor: the name is read. A command that waits longer looks whether the domain is
/// there, five times a second.
const PAUSE: Budget = Budget {
    what: "pause, by the monitor",
    hypercalls: 6,
    mappings: 0,
    requests: 2,
    bytes: 200,
    forks: 0,
};
/// The command's own part, as for a pause: the monitor makes the requests of the change.
const RENAME: Budget = Budget {
    what: "rename, by the monitor",
    ..PAUSE
};
/// As for a rename.
const MEM_SET: Budget = Budget {
    what: "mem-set, by the monitor",
    ..PAUSE
};

/// So many rounds are counted. A command that waits long, and a domid that was in use, cost a few calls more: a slow machine can exceed a
/// budget in one round. What a change has made dearer exceeds it in each.
const ROUNDS: u32 = 3;

/// Counts each operation and compares; fails where any is over its budget in each round.
/// Guests with devices get an interface on the bridge.
pub fn check(guests: &Path, bridge: &str) -> Outcome<()> {
    let bench = Bench::new(guests)?;
    let mut over = 0;
    for number in 1..=ROUNDS {
        println!("round {number} of at most {ROUNDS}");
        over = round(&bench, bridge)?;
        if over == 0 {
            return Ok(());
        }
    }
    Err(format!("{over} counts are over their budget").into())
}

/// Number of counts that are over their budget.
fn round(bench: &Bench, bridge: &str) -> Outcome<u64> {
    let mut over = first_create(bench)?;
    for (kind, create) in [("pv", &CREATE_PV), ("pvh", &CREATE_PVH)] {
        let config = bench.config("budget", kind, 64, &bench.test_guest(kind)?)?;
        over += compare(bench, create, &["create", "-q", "-e", &config])?;
        over += compare(bench, &LIST, &["list"])?;
        over += compare(bench, &DESTROY, &["destroy", "budget"])?;
    }
    over += with_devices(bench, bridge)?;
    let config = bench.config("budget", "pvh", 64, &bench.test_guest("pvh")?)?;
    timed(&Tool::Xyl.command(&["create", "-q", &config]))?;
    over += compare(bench, &PAUSE, &["pause", "budget"])?;
    over += compare(bench, &MEM_SET, &["mem-set", "budget", "63"])?;
    over += compare(bench, &RENAME, &["rename", "budget", "budget-2"])?;
    timed(&Tool::Xyl.command(&["destroy", "budget-2"]))?;
    Ok(over)
}

fn with_devices(bench: &Bench, bridge: &str) -> Outcome<u64> {
    let guest = bench.test_guest("pvh")?;
    let image = devices::image(bench, "budget.img")?;
    let image = image.to_str().ok_or("the image's path is no text")?;
    let devices = devices::devices(image, bridge);
    let config = bench.config("budget", "pvh", 64, &format!("{guest}\n{devices}"))?;
    let create = ["create", "-q", "-e", &config];
    Ok(compare(bench, &CREATE_WITH_DEVICES, &create)?
        + compare(bench, &DESTROY_WITH_DEVICES, &["destroy", "budget"])?)
}

fn first_create(bench: &Bench) -> Outcome<u64> {
    let _ = std::fs::remove_file("/run/xyl/host-facts.json");
    let config = bench.config("first", "pv", 64, &bench.test_guest("pv")?)?;
    let over = compare(bench, &FIRST_CREATE_PV, &["create", "-q", "-e", &config])?;
    bench.count(&Tool::Xyl.command(&["destroy", "first"]))?;
    Ok(over)
}

fn compare(bench: &Bench, budget: &Budget, words: &[&str]) -> Outcome<u64> {
    let (counts, requests, bytes) = bench.count(&Tool::Xyl.command(words))?;
    let rows = [
        ("hypercalls", counts.hypercalls, budget.hypercalls),
        ("mappings", counts.mappings, budget.mappings),
        ("xenstore requests", requests, budget.requests),
        ("xenstore bytes", bytes, budget.bytes),
        ("forks", counts.forks, budget.forks),
    ];
    let mut over = 0;
    for (name, found, limit) in rows {
        let verdict = if found > limit { "OVER" } else { "ok" };
        over += u64::from(found > limit);
        println!(
            "{}: {name}: {found} of at most {limit}: {verdict}",
            budget.what
        );
    }
    Ok(over)
}
