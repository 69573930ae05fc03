//! Real monitors, killed and replaced, on a simulated host.
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

const XYL: &str = env!("CARGO_BIN_EXE_xyl");

/// A host of its own with a guest, which has a kernel of its own. It ends when its folder goes.
struct Simulated {
    folder: tempfile::TempDir,
}

impl Simulated {
    fn new(create: &[&str]) -> Simulated {
        let host = Simulated {
            folder: tempfile::tempdir().unwrap(),
        };
        host.must(&["info"]);
        std::fs::copy(host.path("host/test-guest"), host.path("kernel")).unwrap();
        let text = std::fs::read_to_string(host.path("host/guest.cfg")).unwrap();
        let kernel = host.path("host/test-guest").display().to_string();
        let text = text.replace(&kernel, &host.path("kernel").display().to_string());
        std::fs::write(host.path("guest.cfg"), text).unwrap();
        let config = host.path("guest.cfg").display().to_string();
        host.must(&[&["create", "-q"], create, &[&config]].concat());
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn xyl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(XYL);
        command.args(arguments).stdin(Stdio::null());
        for variable in ["XYL_JSON", "XYL_VERBOSE", "XYL_DRY_RUN", "XYL_TIMESTAMPS"] {
            command.env_remove(variable);
        }
        command.env("XYL_XL_CONF", "/dev/null");
        let host = format!("sim:{}", self.path("host").display());
        command.env("XYL_HOST", host).output().unwrap()
    }

    /// What a command says on both outputs; it has to succeed.
    fn must(&self, arguments: &[&str]) -> String {
        let output = self.xyl(arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    fn watch_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.path("host/run/xyl/watch")) else {
            return vec![];
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The monitor's process, once it has the monitor lock.
    fn monitor(&self) -> String {
        let files = self.watch_files();
        assert_eq!(files.len(), 1);
        let pid = || {
            std::fs::read_to_string(&files[0])
                .unwrap()
                .trim()
                .to_owned()
        };
        self.until("a monitor", || {
            let pid = pid();
            let words = std::fs::read(format!("/proc/{pid}/cmdline"));
            // Before it has written its number, the file is empty.
            !pid.is_empty() && words.is_ok_and(|words| !words.is_empty())
        });
        pid()
    }

    /// Ends the monitor as nothing can be caught.
    fn kill_monitor(&self) {
        let pid = self.monitor();
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.unwrap().success());
        self.until("its end", || {
            // A zombie, which nobody here waits for, has no command line any more.
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.is_empty())
                || !PathBuf::from(format!("/proc/{pid}")).exists()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("host/var/log/xen/xyl-guest.log")).unwrap_or_default()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {}", self.log());
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_dead_monitor_is_replaced_once_and_its_heir_restarts_the_guest() {
    let host = Simulated::new(&[]);
    host.kill_monitor();
    let told = host.must(&["list"]);
    assert!(told.contains("guest: its monitor had died"), "{told}");
    assert!(!host.must(&["list"]).contains("had died"));
    let first = host.monitor();
    let told = host.must(&["upgrade-monitors"]);
    assert!(
        told.contains(&format!("in the place of process {first}")),
        "{told}"
    );
    host.until("another process", || host.monitor() != first);
    host.must(&["reboot", "guest"]);
    host.until("a restart", || host.log().contains("restarted as domain 2"));
    host.kill_monitor();
    host.must(&["destroy", "guest"]);
    assert_eq!(host.watch_files(), Vec::<PathBuf>::new());
}

#[test]
fn a_second_monitor_does_not_say_that_it_watches() {
    let host = Simulated::new(&[]);
    host.monitor();
    let uuid = host.watch_files()[0].file_name().unwrap().to_owned();
    let uuid = uuid.to_str().unwrap();
    host.until("the first one's word", || {
        host.log().contains("watching over domain 1")
    });
    let told = host.must(&["monitor", "1", uuid]);
    assert!(
        told.contains("another process watches over") && !told.contains("watching"),
        "{told}"
    );
    host.must(&["destroy", "guest"]);
}

#[test]
fn a_monitor_without_rights_restarts_a_guest_with_a_packed_kernel() {
    let host = Simulated::new(&[]);
    host.must(&["destroy", "guest"]);
    let packed = Command::new("gzip").arg(host.path("kernel")).status();
    assert!(packed.unwrap().success());
    let config = host.path("guest.cfg");
    let text = std::fs::read_to_string(&config).unwrap();
    let kernel = host.path("kernel").display().to_string();
    std::fs::write(&config, text.replace(&kernel, &format!("{kernel}.gz"))).unwrap();
    host.must(&["create", "-q", config.to_str().unwrap()]);
    host.until("an unpacked kernel", || {
        host.path("host/var/cache/xyl/kernels").exists()
    });
    // It has to be unpacked again, by the monitor's own child.
    std::fs::remove_dir_all(host.path("host/var/cache/xyl/kernels")).unwrap();
    host.must(&["reboot", "guest"]);
    host.until("a restart", || host.log().contains("restarted as domain"));
    let core = host.path("core");
    host.must(&["dump-core", "guest", core.to_str().unwrap()]);
    assert!(core.exists());
    host.must(&["destroy", "guest"]);
}

#[test]
fn a_monitor_has_surroundings_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let host = Simulated::new(&["vif=[]"]);
    host.kill_monitor();
    // Whatever the one who types the command has.
    let ignoring = "env --ignore-signal=CHLD,TERM,HUP";
    let xyl = format!("umask 000; ulimit -t 1000; exec {ignoring} {XYL} list");
    let mut command = Command::new("sh");
    command.args(["-c", &xyl]).current_dir(host.folder.path());
    for (name, value) in [
        ("SECRET", "x"),
        ("XENSTORED_PATH", "/no/such"),
        ("XYL_XL_CONF", "/dev/null"),
    ] {
        command.env(name, value);
    }
    std::fs::remove_file(host.path("host/var/log/xen/xyl-guest.log")).unwrap();
    command.env("XYL_HOST", format!("sim:{}", host.path("host").display()));
    assert!(command.output().unwrap().status.success());
    let pid = host.monitor();
    let of = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let environment = of("environ");
    let names = environment
        .split_terminator('\0')
        .filter_map(|line| line.split('=').next());
    let mut names: Vec<&str> = names
        .filter(|name| *name != "TZ" && *name != "LANG")
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["PATH", "XYL_HOST"]);
    let session = of("stat")
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(session, pid);
    let status = of("status");
    // Rust's own start ignores SIGPIPE.
    for wanted in [
        "Umask:\t0077",
        "SigIgn:\t0000000000001000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.lines().any(|line| line == wanted), "{status}");
    }
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = u64::from_str_radix(effective.unwrap(), 16).unwrap();
    // Files of other users, locked memory, and no more (none where the monitor is no root's).
    assert_eq!(effective & !(1 << 1 | 1 << 2 | 1 << 14), 0);
    let limits = of("limits");
    let is_set = |what: &str, value: &str| {
        let line = limits.lines().find(|line| line.starts_with(what));
        line.is_some_and(|line| line.split_whitespace().any(|word| word == value))
    };
    assert!(is_set("Max core file size", "0"), "{limits}");
    let log = std::fs::metadata(host.path("host/var/log/xen/xyl-guest.log")).unwrap();
    assert_eq!(log.permissions().mode() & 0o7777, 0o640);
    host.must(&["destroy", "guest"]);
}

#[test]
fn a_monitor_switches_no_host_on() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    let mut command = Command::new(XYL);
    command.args(["monitor", "1", "00000000-0000-4000-8000-000000000001"]);
    command.env("XYL_HOST", format!("sim:{}", gone.display()));
    assert!(!command.output().unwrap().status.success());
    assert!(!gone.exists());
}

#[test]
fn a_vm_that_gets_no_monitor_keeps_no_other_from_its_own() {
    let host = Simulated::new(&[]);
    host.kill_monitor();
    // Two VMs that are to be watched over, of which the first cannot be; and one with a journal of another version.
    let first = host.path("host/run/xyl/watch/00000000-0000-4000-8000-000000000001");
    std::fs::write(&first, "").unwrap();
    let name = first.file_name().unwrap().to_str().unwrap();
    let log = host.path(&format!("host/var/log/xen/xyl-{name}.log"));
    std::fs::create_dir_all(&log).unwrap();
    let other = host.path("host/run/xyl/vm/00000000-0000-4000-8000-000000000002");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("journal"), "xyl-journal 99\n").unwrap();
    let output = host.xyl(&["recover"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("could not be started"), "{told}");
    assert!(told.contains("version 99"), "{told}");
    assert!(told.contains("is its monitor now"), "{told}");
    // The same for a command that only looks.
    std::fs::remove_file(&first).unwrap();
    host.kill_monitor();
    std::fs::write(&first, "").unwrap();
    let told = host.must(&["list"]);
    assert!(told.contains("guest: its monitor had died"), "{told}");
    std::fs::remove_file(&first).unwrap();
    std::fs::remove_dir_all(&other).unwrap();
    host.must(&["destroy", "guest"]);
}

#[test]
fn nobody_watches_over_a_guest_for_which_nobody_was_asked() {
    let host = Simulated::new(&["-e"]);
    assert!(!host.must(&["list"]).contains("had died"));
    host.must(&["recover"]);
    assert_eq!(host.watch_files(), Vec::<PathBuf>::new());
    host.must(&["destroy", "guest"]);
}

#[test]
fn a_restart_that_fails_is_tried_again_by_the_heir_of_a_dead_monitor_too() {
    let host = Simulated::new(&[]);
    host.monitor();
    std::fs::rename(host.path("kernel"), host.path("aside")).unwrap();
    host.must(&["reboot", "guest"]);
    host.until("a failure", || host.log().contains("The next try follows"));
    host.kill_monitor();
    std::fs::rename(host.path("aside"), host.path("kernel")).unwrap();
    host.must(&["recover"]);
    host.until("a restart", || host.log().contains("restarted as domain"));
    host.must(&["destroy", "guest"]);
}

/// Makes a device like `/dev/full` at a path, which needs root; whether it did. A link to it would not do: no log is opened
/// through a link.
fn make_full_device(path: &std::path::Path) -> bool {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 7)).is_ok()
}

/// Each write to its log fails, as on a full disk.
#[test]
fn a_monitor_whose_log_cannot_be_written_restarts_the_guest() {
    let host = Simulated::new(&[]);
    host.kill_monitor();
    let log = host.path("host/var/log/xen/xyl-guest.log");
    std::fs::remove_file(&log).unwrap();
    if !make_full_device(&log) {
        eprintln!("skipped: only root can make a device that is always full");
        return;
    }
    host.must(&["recover"]);
    host.monitor();
    host.must(&["reboot", "guest"]);
    let is_restarted = || host.must(&["list", "--json"]).contains("\"domid\": 2");
    host.until("a restart", is_restarted);
    std::fs::remove_file(&log).unwrap();
    host.must(&["destroy", "guest"]);
}

/// A script that looks all the time finds the VM all the time, in its old domain or its next one.
#[test]
fn a_vm_is_found_by_its_name_while_it_restarts() {
    let host = Simulated::new(&[]);
    for next in ["2", "3"] {
        host.must(&["reboot", "guest"]);
        host.until("a restart", || {
            let found = host.xyl(&["domid", "guest"]);
            assert!(found.status.success(), "{found:?}");
            String::from_utf8_lossy(&found.stdout).trim() == next
        });
    }
    host.must(&["reboot", "guest"]);
    host.must(&["destroy", "guest"]);
    assert_eq!(host.watch_files(), Vec::<PathBuf>::new());
    assert!(!host.xyl(&["domid", "guest"]).status.success());
}

/// Removes the record of short runs, so that the next restart does not wait.
fn forget_short_lives(host: &Simulated) {
    let uuid = host.watch_files()[0].file_name().unwrap().to_owned();
    let delay = host
        .path("host/run/xyl/vm")
        .join(uuid)
        .join("restart-delay");
    let _ = std::fs::remove_file(delay);
}

/// A cluster manager that polls `xyl list` takes a VM that is missing for one that is down.
#[test]
fn a_list_has_a_vm_at_every_moment_of_its_restarts() {
    let host = Simulated::new(&[]);
    for next in 2..=8 {
        forget_short_lives(&host);
        host.must(&["reboot", "guest"]);
        host.until("a restart", || {
            let listed = host.must(&["list"]);
            let lines = listed.lines().filter(|line| line.starts_with("guest "));
            let words: Vec<usize> = lines.map(|line| line.split_whitespace().count()).collect();
            assert_eq!(words, [6], "{listed}");
            host.log().contains(&format!("restarted as domain {next}"))
        });
    }
    host.must(&["destroy", "guest"]);
}

/// The code of a command's error.
fn code(host: &Simulated, arguments: &[&str]) -> String {
    let output = host.xyl(&[&["--json"], arguments].concat());
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let error: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    error["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn a_vm_that_waits_for_its_next_try_is_known_by_its_name_and_ends_by_it() {
    let host = Simulated::new(&[]);
    let monitor = host.monitor();
    let uuid = host.watch_files()[0].file_name().unwrap().to_owned();
    let uuid = uuid.to_str().unwrap();
    std::fs::rename(host.path("kernel"), host.path("aside")).unwrap();
    host.must(&["reboot", "guest"]);
    host.until("a failure", || host.log().contains("The next try follows"));
    for command in [
        &["pause", "guest"][..],
        &["shutdown", "guest"],
        &["reboot", "guest"],
        &["domid", "guest"],
        &["uptime", "guest"],
        &["pause", "1"],
    ] {
        // At its second try it is being restarted for a moment.
        let code = code(&host, command);
        assert!(
            ["waits-for-restart", "restarting"].contains(&code.as_str()),
            "{command:?}: {code}"
        );
    }
    assert_eq!(code(&host, &["pause", "nobody"]), "no-such-domain");
    assert!(host.must(&["domname", "1"]).starts_with("guest\n"));
    for list in [&["list"][..], &["list", "guest"], &["list", "1"]] {
        let listed = host.must(list);
        let line = listed.lines().find(|line| line.starts_with("guest "));
        let words: Vec<&str> = line.unwrap_or(&listed).split_whitespace().collect();
        assert_eq!((words[1], words[4]), ("1", "------"), "{listed}");
    }
    let listed: serde_json::Value =
        serde_json::from_slice(&host.xyl(&["list", "--json", "guest"]).stdout).unwrap();
    assert_eq!(listed[0]["domid"], serde_json::Value::Null);
    assert_eq!(listed[0]["last_domid"], 1);
    // The example has the same name, and a UUID of its own.
    let example = host.path("host/guest.cfg").display().to_string();
    assert_eq!(code(&host, &["create", "-q", &example]), "name-taken");
    host.must(&["destroy", "guest"]);
    host.until("the monitor's end", || {
        std::fs::read(format!("/proc/{monitor}/cmdline")).map_or(true, |words| words.is_empty())
    });
    assert_eq!(host.watch_files(), Vec::<PathBuf>::new());
    assert!(!host.path("host/run/xyl/vm").join(uuid).exists());
    assert_eq!(code(&host, &["list", "guest"]), "no-such-domain");
    // Its name is free, and its configuration is kept.
    let kept = host
        .path("host/var/lib/xyl/kept")
        .join(format!("{uuid}.cfg"));
    std::fs::rename(host.path("aside"), host.path("kernel")).unwrap();
    host.must(&["create", "-q", kept.to_str().unwrap()]);
    host.must(&["destroy", "guest"]);
}
