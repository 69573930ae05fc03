//! VMs that start with a simulated host and stop with it.
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
use std::time::Duration;

use serde_json::Value;

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let host = Host {
            folder: tempfile::tempdir().unwrap(),
        };
        host.must(&["info"]);
        host
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    fn xyl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xyl"));
        command.args(arguments).stdin(Stdio::null());
        for variable in ["XYL_JSON", "XYL_VERBOSE", "XYL_DRY_RUN", "XYL_TIMESTAMPS"] {
            command.env_remove(variable);
        }
        let host = format!("sim:{}", self.path().display());
        command.env("XYL_HOST", host);
        command.env("XYL_XL_CONF", "/dev/null");
        command
    }

    /// Runs a command and kills it after `delay_ms`. Whether it was still running then.
    fn killed_after(&self, arguments: &[&str], delay_ms: u64) -> bool {
        let mut command = self.command(arguments);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let was_running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        was_running
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.xyl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The code of the error of a command that fails with exit code 1.
    fn error_of(&self, arguments: &[&str]) -> String {
        let output = self.xyl(&[&["--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let mut lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let error = lines.rfind(|value| !value["error"].is_null()).unwrap();
        error["error"]["code"].as_str().unwrap().to_owned()
    }

    /// Adds a VM with the example's configuration.
    fn add(&self, name: &str, options: &[&str]) {
        let file = self.cfg(name);
        self.must(&[&["autostart", "add", &file], options].concat());
    }

    fn cfg(&self, name: &str) -> String {
        let example = std::fs::read_to_string(self.path().join("guest.cfg")).unwrap();
        let file = self.folder.path().join(format!("{name}.cfg"));
        std::fs::write(&file, format!("{example}\nname = \"{name}\"\n")).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// The exit code and the rows of a command with `--json`.
    fn rows(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let output = self.xyl(&[&["--json"], arguments].concat());
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        (
            output.status.code().unwrap(),
            rows.as_array().unwrap().clone(),
        )
    }

    fn names(&self) -> Vec<String> {
        let (_, rows) = self.rows(&["list"]);
        let names = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned());
        let mut names: Vec<String> = names.filter(|name| name != "Domain-0").collect();
        names.sort_unstable();
        names
    }
}

fn field(rows: &[Value], key: &str) -> Vec<String> {
    let text = |row: &Value| row[key].as_str().unwrap_or_default().to_owned();
    rows.iter().map(text).collect()
}

#[test]
fn vms_start_in_order_and_none_holds_up_another() {
    let host = Host::new();
    host.add("web", &["--after", "nas", "--order=-5"]);
    host.add("nas", &["--ready", "xenstore:control/feature-poweroff=1"]);
    host.add(
        "slow",
        &[
            "--ready",
            "xenstore:data/never",
            "--ready-timeout",
            "1",
            "--order",
            "9",
        ],
    );
    host.add("late", &["--after", "slow", "--after", "broken"]);
    host.add("broken", &["--order", "8"]);
    std::fs::write(
        host.folder.path().join("broken.cfg"),
        "name = \"broken\"\nkernel = \"/no\"\n",
    )
    .unwrap();

    let plan = host.must(&["start", "--all", "--dry-run"]);
    let begins: Vec<&str> = plan
        .lines()
        .map(|line| line.split(' ').nth(2).unwrap())
        .collect();
    assert_eq!(begins, ["nas", "web", "broken", "slow", "late"]);
    assert!(
        plan.lines()
            .next_back()
            .unwrap()
            .contains("after slow and broken")
    );
    assert!(host.names().is_empty());

    let (code, rows) = host.rows(&["start", "--all"]);
    assert_eq!(code, 1);
    assert_eq!(
        field(&rows, "name"),
        ["nas", "web", "broken", "slow", "late"]
    );
    assert_eq!(
        field(&rows, "outcome"),
        ["ready", "ready", "failed", "not-ready", "ready"]
    );
    assert_eq!(rows[2]["error"]["code"], "boot-file");
    let domids: Vec<u64> = rows
        .iter()
        .filter_map(|row| row["domid"].as_u64())
        .collect();
    assert!(domids[0] < domids[1] && domids[2] < domids[3]);
    assert_eq!(host.names(), ["late", "nas", "slow", "web"]);

    // Each has a monitor, and a second start changes nothing.
    host.must(&["autostart", "remove", "broken"]);
    let (code, rows) = host.rows(&["start", "--all"]);
    assert_eq!(
        (code, field(&rows, "outcome")),
        (0, vec!["runs-already".to_owned(); 4])
    );
    let (_, rows) = host.rows(&["recover"]);
    assert!(rows.is_empty(), "{rows:?}");

    // One of them alone.
    host.must(&["destroy", "web"]);
    let (code, rows) = host.rows(&["start", "web"]);
    assert_eq!((code, field(&rows, "name")), (0, vec!["web".to_owned()]));
    assert_eq!(host.error_of(&["start", "nobody"]), "autostart");
    host.must(&["stop", "--all"]);
}

#[test]
fn vms_stop_in_reverse_order_within_one_time_limit() {
    let host = Host::new();
    host.add("nas", &[]);
    host.add("db", &["--after", "nas"]);
    host.add("web", &["--after", "db"]);
    host.must(&["start", "--all"]);
    host.must(&["create", "-q", &host.cfg("extra")]);

    let plan = host.must(&["-N", "stop", "--all"]);
    let names: Vec<&str> = plan
        .lines()
        .map(|line| line.split(' ').nth(2).unwrap())
        .collect();
    assert_eq!(names, ["extra", "web", "db", "nas"]);
    assert!(plan.lines().next_back().unwrap().ends_with("after 200 s"));

    // A paused guest takes no request, and holds up those before it for its part of the time.
    host.must(&["pause", "web"]);
    assert_eq!(
        host.error_of(&["stop", "--all", "--timeout", "24"]),
        "deadline"
    );
    assert_eq!(host.names(), ["web"]);
    let (code, rows) = host.rows(&["stop", "--all", "--timeout", "1", "--destroy"]);
    assert_eq!(
        (code, field(&rows, "outcome")),
        (0, vec!["destroyed".to_owned()])
    );
    assert!(host.names().is_empty());
    assert_eq!(host.rows(&["stop", "--all"]), (0, Vec::new()));

    // In order, each after the one that waits for it.
    host.must(&["start", "--all"]);
    let (code, rows) = host.rows(&["stop", "--all"]);
    assert_eq!(
        (code, field(&rows, "name")),
        (0, vec!["web".to_owned(), "db".to_owned(), "nas".to_owned()])
    );
    let took: Vec<f64> = rows
        .iter()
        .map(|row| row["seconds"].as_f64().unwrap())
        .collect();
    assert!(took[0] < took[1] && took[1] < took[2], "{took:?}");
}

#[test]
fn a_vm_whose_lock_is_held_holds_up_no_other() {
    let host = Host::new();
    for name in ["a", "b"] {
        host.must(&["create", "-q", &host.cfg(name)]);
    }
    let uuid = host.must(&["--json", "vm-list"]);
    let uuid: serde_json::Value = serde_json::from_str(&uuid).unwrap();
    let uuid = uuid.as_array().unwrap().iter().find(|vm| vm["name"] == "a");
    let uuid = uuid.unwrap()["uuid"].as_str().unwrap().to_owned();
    let lock = host.path().join("run/xyl/busy").join(uuid);
    // As another process of Xyl that changes the VM.
    let lock = std::fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    let error = host.error_of(&["stop", "--all", "--timeout", "10"]);
    assert_eq!(error, "deadline");
    assert_eq!(host.names(), ["a"]);
    drop(lock);
    host.must(&["stop", "--all"]);
    assert!(host.names().is_empty());
}

#[test]
fn a_configuration_that_another_user_can_change_does_not_start_with_the_host() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::new();
    let config = host.cfg("a");
    let set_mode = |mode| {
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o666);
    assert_eq!(host.error_of(&["autostart", "add", &config]), "io");
    set_mode(0o644);
    host.must(&["autostart", "add", &config]);
    set_mode(0o622);
    let (code, rows) = host.rows(&["start", "--all"]);
    assert_eq!(
        (code, field(&rows, "outcome")),
        (1, vec!["failed".to_owned()])
    );
    assert!(host.names().is_empty());
}

#[test]
fn a_circle_is_refused_and_the_others_start() {
    let host = Host::new();
    host.add("a", &["--after", "b"]);
    host.add("c", &[]);
    let b = host.cfg("b");
    assert_eq!(
        host.error_of(&["autostart", "add", &b, "--after", "a"]),
        "autostart"
    );
    let folder = host.path().join("etc/xyl/autostart.d");
    let text = format!("config = \"{b}\"\nafter = [\"a\"]\n");
    std::fs::write(folder.join("b.toml"), text).unwrap();
    std::fs::write(folder.join("d.toml"), "config = \"d.cfg\"\n").unwrap();
    assert_eq!(host.error_of(&["autostart"]), "autostart");
    let output = host.xyl(&["start", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("a.toml:4:") && errors.contains("d.toml:1:"),
        "{errors}"
    );
    assert_eq!(host.names(), ["c"]);
    assert_eq!(
        host.error_of(&["autostart", "remove", "nobody"]),
        "autostart"
    );
    host.must(&["stop", "--all"]);
}

/// `start --all` and `stop --all` are killed (SIGKILL) at later and later moments. The same command finishes what the killed one has begun, and
/// each VM is there once.
#[test]
fn a_start_or_stop_that_is_killed_is_finished_by_the_next_one() {
    const STEP_MS: u64 = 50;
    let host = Host::new();
    host.add("nas", &["--ready", "xenstore:control/feature-poweroff=1"]);
    host.add("db", &["--after", "nas"]);
    host.add("web", &["--after", "db"]);
    host.add("free", &[]);
    let all = ["db", "free", "nas", "web"];
    let (mut start_ms, mut stop_ms) = (0, 0);
    let (mut start_goes_on, mut stop_goes_on) = (true, true);
    while start_goes_on || stop_goes_on {
        start_goes_on = host.killed_after(&["start", "--all"], start_ms);
        start_ms += STEP_MS;
        host.must(&["start", "--all"]);
        assert_eq!(host.names(), all, "killed before {start_ms} ms");
        assert_eq!(host.rows(&["recover"]), (0, Vec::new()));

        stop_goes_on = host.killed_after(&["stop", "--all"], stop_ms);
        stop_ms += STEP_MS;
        host.must(&["stop", "--all", "--destroy"]);
        assert_eq!(
            host.names(),
            Vec::<String>::new(),
            "killed before {stop_ms} ms"
        );
        assert_eq!(host.rows(&["recover"]), (0, Vec::new()));
        assert_eq!(host.rows(&["ops"]), (0, Vec::new()));
    }
}
