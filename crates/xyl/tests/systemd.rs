//! The units for systemd are in order, where systemd is there to say so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;
use std::process::Command;

const UNITS: [&str; 3] = [
    "xyl-recover.service",
    "xyl-recover.path",
    "xyl-recover.timer",
];

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd");
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = std::fs::read_to_string(shipped.join(unit)).unwrap();
        // Where the program will be installed there may be none yet.
        let text = text.replace("/usr/bin/xyl", env!("CARGO_BIN_EXE_xyl"));
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=one"])
        .args(UNITS.map(|unit| folder.path().join(unit)))
        .output();
    let Ok(output) = verified else {
        eprintln!("no systemd-analyze here: not verified");
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    // What is said of other units of the machine does not concern these.
    let ours: Vec<&str> = errors
        .lines()
        .filter(|line| line.contains("xyl-"))
        .collect();
    assert!(ours.is_empty(), "{errors}");
}
