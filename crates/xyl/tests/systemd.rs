//! The units for systemd are in order, where systemd is there to say so.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;
use std::process::Command;

const UNITS: [&str; 7] = [
    "xyl-devd.service",
    "xyl-guests.service",
    "xyl-metrics.service",
    "xyl-metrics.timer",
    "xyl-recover.service",
    "xyl-recover.path",
    "xyl-recover.timer",
];

/// Where README installs the program.
const PROGRAM: &str = "/usr/local/sbin/xyl";

#[test]
fn the_units_run_the_program_that_readme_installs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let service = root.join("dist/systemd/xyl-recover.service");
    let service = std::fs::read_to_string(service).unwrap();
    let starts = format!("ExecStart={PROGRAM} recover");
    assert!(service.lines().any(|line| line == starts), "{service}");
    let guests = root.join("dist/systemd/xyl-guests.service");
    let guests = std::fs::read_to_string(guests).unwrap();
    for line in [
        format!("ExecStart=-{PROGRAM} start --all"),
        format!("ExecStopPost={PROGRAM} stop --all --timeout 300 --destroy"),
        "OOMPolicy=continue".to_owned(),
    ] {
        assert!(guests.lines().any(|other| other == line), "{guests}");
    }
    let devd = root.join("dist/systemd/xyl-devd.service");
    let devd = std::fs::read_to_string(devd).unwrap();
    let starts = format!("ExecStart={PROGRAM} devd -F");
    assert!(devd.lines().any(|line| line == starts), "{devd}");
    let metrics = root.join("dist/systemd/xyl-metrics.service");
    let metrics = std::fs::read_to_string(metrics).unwrap();
    let starts = format!("ExecStart={PROGRAM} metrics --output ");
    assert!(
        metrics.lines().any(|line| line.starts_with(&starts)),
        "{metrics}"
    );
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let (folder, _) = PROGRAM.rsplit_once('/').unwrap();
    let installs =
        |line: &str| line.contains("install -m755") && line.ends_with(&format!("/xyl {folder}/"));
    assert!(readme.lines().any(installs));
    assert!(readme.contains("install -m644 dist/systemd/xyl-recover.*"));
    assert!(readme.contains("install -m644 dist/systemd/xyl-guests.service"));
    assert!(readme.contains("install -m644 dist/systemd/xyl-devd.service"));
    assert!(readme.contains("install -m644 dist/systemd/xyl-metrics.*"));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd");
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = std::fs::read_to_string(shipped.join(unit)).unwrap();
        // Where the program will be installed there may be none yet.
        let text = text.replace(PROGRAM, env!("CARGO_BIN_EXE_xyl"));
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
