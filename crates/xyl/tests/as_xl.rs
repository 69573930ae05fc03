//! The program called as `xl`: what Ganeti, Pacemaker, xendomains, EVE and shell scripts call, and what they look at.
//!
//! Facts: Ganeti `lib/hypervisor/hv_xen.py` and `tools/xen-console-wrapper`, Pacemaker `heartbeat/Xen`, Xen
//! `tools/hotplug/Linux/xendomains.in`, EVE `pkg/pillar/hypervisor/xen.go`. Lab test `75-as-xl` compares the calls with xl.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A simulated host, and the program by the name `xl`.
struct AsXl {
    folder: tempfile::TempDir,
}

impl AsXl {
    fn new() -> AsXl {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_xyl"), folder.path().join("xl")).unwrap();
        AsXl { folder }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.folder.path().join("xl"));
        command.args(arguments).stdin(Stdio::null());
        for variable in ["XYL_JSON", "XYL_VERBOSE", "XYL_DRY_RUN", "XYL_TIMESTAMPS"] {
            command.env_remove(variable);
        }
        let host = format!("sim:{}", self.folder.path().join("host").display());
        let command = command.env("XYL_HOST", host);
        command.env("XYL_XL_CONF", "/dev/null").output().unwrap()
    }

    fn code(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn cfg(&self) -> String {
        self.must(&["info"]);
        let path: PathBuf = self.folder.path().join("host/guest.cfg");
        path.to_str().unwrap().to_owned()
    }

    fn within_limit(&self, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline);
        }
    }

    /// Rows of `list` as Ganeti takes them: no heading, six fields, three whole numbers and the seconds.
    fn as_ganeti_lists(&self) -> Vec<(String, u32)> {
        let text = self.must(&["list"]);
        let rows = text.lines().skip(1).map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(fields.len(), 6, "{line}");
            let numbers: Vec<u32> = fields[1..4]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
            assert_eq!(fields[4].len(), 6);
            let _: f64 = fields[5].parse().unwrap();
            (fields[0].to_owned(), numbers[0])
        });
        rows.collect()
    }

    fn domid(&self, name: &str) -> Option<u32> {
        let rows = self.as_ganeti_lists();
        let row = rows.into_iter().find(|(other, _)| other == name);
        row.map(|(_, domid)| domid)
    }
}

#[test]
fn what_ganeti_calls_works() {
    let host = AsXl::new();
    let cfg = host.cfg();
    assert_eq!(host.code(&["help"]), 0);
    let info = host.must(&["info"]);
    for key in [
        "total_memory",
        "free_memory",
        "nr_cpus",
        "nr_nodes",
        "cores_per_socket",
        "threads_per_core",
    ] {
        let of_key = |line: &&str| {
            line.split(':')
                .next()
                .is_some_and(|word| word.trim() == key)
        };
        let line = info.lines().find(of_key).unwrap();
        let _: u64 = line.split_once(':').unwrap().1.trim().parse().unwrap();
    }
    host.must(&["create", "-p", &cfg]);
    assert_eq!(host.as_ganeti_lists()[0].0, "Domain-0");
    // Its console begins with `list NAME` and `unpause NAME`.
    assert!(host.must(&["list", "guest"]).contains("--p---"));
    host.must(&["unpause", "guest"]);
    host.must(&["mem-set", "guest", "40"]);
    let before = host.domid("guest").unwrap();
    host.must(&["reboot", "guest"]);
    host.within_limit(|| host.domid("guest").is_some_and(|domid| domid != before));
    host.must(&["shutdown", "guest"]);
    host.within_limit(|| host.domid("guest").is_none());
    host.must(&["create", &cfg]);
    host.must(&["destroy", "guest"]);
    assert_eq!(host.code(&["destroy", "guest"]), 1);
    // Its migration fails as xl's would: the instance stays here.
    assert_eq!(
        host.code(&["migrate", "-s", "ssh", "-C", &cfg, "guest", "other"]),
        1
    );
}

#[test]
fn what_pacemaker_calls_works() {
    let host = AsXl::new();
    let cfg = host.cfg();
    assert_eq!(host.code(&["list", "cluster"]), 1);
    host.must(&["create", &cfg, "name=\"cluster\""]);
    assert!(host.must(&["list", "cluster"]).contains("cluster"));
    let info = host.must(&["info"]);
    let line = info
        .lines()
        .find(|line| line.starts_with("total_memory"))
        .unwrap();
    let _: u64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
    // A simulated host has no triggers. The lab has the call.
    assert_eq!(host.code(&["trigger", "cluster", "power"]), 1);
    host.must(&["shutdown", "-w", "cluster"]);
    host.within_limit(|| host.code(&["list", "cluster"]) == 1);
    assert_eq!(host.code(&["migrate", "--live", "cluster", "other"]), 1);
}

#[test]
fn what_xendomains_calls_works() {
    let host = AsXl::new();
    let cfg = host.cfg();
    let plan = host.must(&["create", "--quiet", "--dryrun", "--defconfig", &cfg]);
    assert!(
        plan.lines()
            .any(|line| line.ends_with("\"name\": \"guest\","))
    );
    host.must(&["create", "--quiet", "--defconfig", &cfg]);
    assert_eq!(host.code(&["create", "--quiet", "--defconfig", &cfg]), 1);
    let list = host.must(&["list", "-l"]);
    for wanted in ["    {", "                \"name\": \"guest\","] {
        assert!(list.lines().any(|line| line == wanted), "{list}");
    }
    let mut domid = list
        .lines()
        .filter_map(|line| line.strip_prefix("        \"domid\": "));
    let domid = domid.next_back().unwrap().trim_end_matches(',').to_owned();
    host.must(&["sysrq", &domid, "s"]);
    // These fail, and the script goes on with the next of its ways to end a guest.
    assert_eq!(host.code(&["migrate", &domid, "other"]), 1);
    assert_eq!(host.code(&["save", &domid, "/nowhere/guest"]), 1);
    host.must(&["shutdown", "--wait", &domid]);
    host.must(&["shutdown", "--all", "--wait"]);
    host.within_limit(|| host.domid("guest").is_none());
}

#[test]
fn what_eve_calls_works() {
    let host = AsXl::new();
    let cfg = host.cfg();
    host.must(&["create", &cfg]);
    host.must(&["dmesg"]);
    let domid = host.must(&["domid", "guest"]);
    assert_eq!(domid.trim().parse().ok(), host.domid("guest"));
    assert_eq!(host.code(&["pci-assignable-add", "00:02.0"]), 1);
    assert_eq!(host.code(&["pci-assignable-rem", "-r", "00:02.0"]), 1);
    host.must(&["shutdown", "-F", "guest"]);
    host.within_limit(|| host.code(&["domid", "guest"]) == 1);
}

#[test]
fn exit_codes_are_those_of_xl() {
    let host = AsXl::new();
    host.cfg();
    let cases: [(&[&str], i32); 12] = [
        (&[], 1),
        (&["no-such-command"], 1),
        (&["vcpu"], 1),
        (&["-x", "list"], 1),
        (&["save", "guest", "/nowhere"], 1),
        (&["trigger", "0", "dance"], 1),
        (&["mem-set", "0", "12parsecs"], 1),
        (&["list", "--no-such-option"], 2),
        (&["destroy"], 2),
        (&["shutdown"], 1),
        (&["list", "nobody"], 1),
        (&["help"], 0),
    ];
    for (arguments, wanted) in cases {
        assert_eq!(host.code(arguments), wanted, "{arguments:?}");
    }
    // `--json` is Xyl's own, and so are the codes with it.
    assert_eq!(host.code(&["--json", "no-such-command"]), 2);
    assert_eq!(host.code(&["--json", "migrate", "guest", "other"]), 4);
}

#[test]
fn the_list_of_commands_is_for_completion() {
    let host = AsXl::new();
    for arguments in [&["help"][..], &["help", "--long"], &[]] {
        let text = String::from_utf8(host.run(arguments).stdout).unwrap();
        let lines = text.lines().skip(4);
        let names: Vec<&str> = lines
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(
            names.contains(&"create") && names.contains(&"vcpu-set"),
            "{text}"
        );
        assert!(!names.contains(&"monitor"), "{text}");
    }
}
