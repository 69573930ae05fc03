//! The command on a simulated host, and README's ten seconds.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const XYL: &str = env!("CARGO_BIN_EXE_xyl");

/// A host of its own, which ends when its folder goes.
struct Simulated {
    folder: tempfile::TempDir,
}

impl Simulated {
    fn new() -> Simulated {
        Simulated {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        for variable in ["XYL_JSON", "XYL_VERBOSE", "XYL_DRY_RUN", "XYL_TIMESTAMPS"] {
            command.env_remove(variable);
        }
        // What an administrator of the machine that tests has set is none of this host's.
        command.env("XYL_XL_CONF", "/dev/null");
        command
    }

    fn xyl(&self, arguments: &[&str]) -> Output {
        let host = format!("sim:{}", self.path().display());
        let mut command = self.command(XYL, arguments);
        command.env("XYL_HOST", host).output().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.xyl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What bash offers for the last of the words.
    fn offered(&self, words: &[&str]) -> Vec<String> {
        let mut command = self.command(XYL, &["--", "xyl"]);
        command
            .args(words)
            .env("XYL_HOST", format!("sim:{}", self.path().display()))
            .env("XYL_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
            .env("_CLAP_IFS", "\n");
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        let text = String::from_utf8(output.stdout).unwrap();
        let words = text.lines().filter(|word| !word.starts_with('-'));
        words.map(str::to_owned).collect()
    }

    /// Gives the domain a name that only other toolstacks would give.
    fn rename_behind(&self, domid: u16, name: &str) {
        let host = xen_sim::machine::Host::in_folder(&self.path()).unwrap();
        let mut store = host.store(xenstore::Settings::default()).unwrap();
        let node = xenstore::Path::domain(domid).join("name").unwrap();
        xenstore::Tree::write(&mut store, &node, name.as_bytes()).unwrap();
    }

    /// Creates the guest to try.
    fn create(&self) {
        self.must(&["info"]);
        self.must(&["create", self.path().join("guest.cfg").to_str().unwrap()]);
    }

    /// Waits until a command that asks only says what is wanted.
    fn wait_for(&self, arguments: &[&str], is_wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.xyl(arguments);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && is_wanted(text.trim()) {
                return;
            }
            assert!(Instant::now() < deadline, "{arguments:?}: {text}");
        }
    }
}

/// The lines to type below a heading of README.
fn readme_lines(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split(&format!("## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(str::to_owned).collect()
}

#[test]
fn ten_seconds_are_as_readme_says() {
    let host = Simulated::new();
    let programs = Path::new(XYL).parent().unwrap().to_str().unwrap();
    let lines = readme_lines("Try it in ten seconds");
    assert_eq!(lines[0], "cargo build --package xyl");
    // Only what has been built, and where the host lives, are others here.
    let script = lines[1..]
        .join("\n")
        .replace("$PWD/target/debug", programs)
        .replace(
            "${XDG_RUNTIME_DIR:-$HOME}/xyl-host",
            host.path().to_str().unwrap(),
        );
    assert!(script.contains(programs) && !script.contains("HOME"));
    let mut command = host.command("bash", &["-exc", &script]);
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    assert!(err.contains("this is a simulated host"), "{err}");
    for wanted in [
        "4.20.0-simulated",
        "Domain-0",
        "guest",
        "heartbeat 1",
        "down (Poweroff)",
    ] {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
    host.wait_for(&["list", "--json"], |text| !text.contains("web"));
}

#[test]
fn monitors_restart_and_reset_guests() {
    let host = Simulated::new();
    host.create();
    assert_eq!(host.must(&["domid", "guest"]).trim(), "1");
    host.must(&["reboot", "-w", "guest"]);
    host.wait_for(&["domid", "guest"], |text| text == "2");
    // A soft reset keeps the domain.
    host.wait_for(&["list", "guest"], |text| text.contains("-b----"));
    let mut command = host.command(
        "bash",
        &[
            "-c",
            "echo softreset | $XYL console guest | grep -m1 'started anew'",
        ],
    );
    let place = format!("sim:{}", host.path().display());
    let output = command
        .env("XYL", XYL)
        .env("XYL_HOST", place)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("started anew"), "{text}");
    assert_eq!(host.must(&["domid", "guest"]).trim(), "2");
    host.must(&["shutdown", "-w", "guest"]);
    host.wait_for(&["list", "--json"], |text| !text.contains("\"guest\""));
    host.wait_for(&["ops", "--json"], |text| text == "[]");
}

#[test]
fn the_usual_commands_work() {
    let host = Simulated::new();
    host.create();
    host.must(&["pause", "guest"]);
    assert!(host.must(&["list", "guest"]).contains("--p---"));
    host.must(&["unpause", "guest"]);
    host.must(&["mem-set", "guest", "32"]);
    host.wait_for(&["list", "guest"], |text| text.contains("   32 "));
    host.must(&["vcpu-set", "guest", "2"]);
    host.wait_for(&["vcpu-list", "guest"], |text| {
        text.matches("-b-").count() == 2
    });
    host.must(&["vcpu-pin", "guest", "0", "1-2"]);
    assert!(host.must(&["vcpu-list", "guest"]).contains("1-2 / all"));
    host.must(&["sched-credit2", "-d", "guest", "-w", "512"]);
    assert!(host.must(&["sched-credit2", "-d", "guest"]).contains("512"));
    // `-s` is about the pool, as in xl; and the pool is under credit2.
    let pool = host.must(&["sched-credit2", "-s"]);
    assert_eq!(host.must(&["sched-credit2", "-s", "-d", "guest"]), pool);
    assert_eq!(host.xyl(&["sched-credit", "-s"]).status.code(), Some(1));
    let core = host.folder.path().join("core");
    host.must(&["dump-core", "guest", core.to_str().unwrap()]);
    let ops: serde_json::Value = serde_json::from_str(&host.must(&["ops", "--json"])).unwrap();
    assert_eq!(
        (&ops[0]["operation"], &ops[0]["vm"]),
        (&"dump-core".into(), &"guest".into()),
        "{ops}"
    );
    host.must(&["rename", "guest", "web"]);
    assert!(host.must(&["dmesg"]).contains("d1: made"));
    for asks in ["uptime", "vm-list", "claims", "ops"] {
        host.must(&[asks]);
    }
    let refused = host.xyl(&["--json", "trigger", "web", "nmi"]);
    assert!(!refused.status.success());
    let error = error_of(&refused);
    assert_eq!(error["code"], "hypervisor", "{error}");
    host.must(&["destroy", "web"]);
    assert!(!host.must(&["list"]).contains("web"));
    let free = |text: String| text.trim().to_owned();
    assert_eq!(free(host.must(&["info", "free_memory"])), "8192");
}

#[test]
fn a_guest_is_suspended_saved_and_restored() {
    let host = Simulated::new();
    host.create();
    host.must(&["suspend", "guest"]);
    assert!(host.must(&["list", "guest"]).contains("---ss-"));
    host.must(&["resume", "guest"]);
    let (copy, saved) = (
        host.folder.path().join("copy"),
        host.folder.path().join("saved"),
    );
    let (copy, saved) = (copy.to_str().unwrap(), saved.to_str().unwrap());
    host.must(&["save", "-c", "guest", copy]);
    host.must(&["check-image", copy]);
    assert!(host.must(&["list", "guest"]).contains("-b----"));
    let uuid = host.must(&["vm-list"]);
    let json = host.must(&["--json", "save", "guest", saved]);
    assert!(json.contains("size_bytes"), "{json}");
    assert_eq!(host.xyl(&["list", "guest"]).status.code(), Some(1));
    // With another configuration in its place, the guest is another VM.
    let cfg = host.path().join("guest.cfg");
    let said = host.must(&["-N", "restore", cfg.to_str().unwrap(), saved]);
    assert!(said.starts_with("would restore guest"), "{said}");
    host.must(&["restore", "-p", saved]);
    assert!(host.must(&["list", "guest"]).contains("--p---"));
    assert_eq!(
        host.must(&["vm-list"]).lines().count(),
        uuid.lines().count()
    );
    let again = host.xyl(&["--json", "restore", saved]);
    assert_eq!(error_of(&again)["code"], "uuid-taken");
    host.must(&["destroy", "guest"]);
    let nothing = host.xyl(&["--json", "save", "guest", "/nowhere/file"]);
    assert_eq!(error_of(&nothing)["code"], "no-such-domain");
}

/// The log says `xyl create /var/lib/xyl/kept/UUID.cfg` where a restart was given up, also for a VM of an old name.
#[test]
fn a_configuration_that_was_kept_may_have_an_old_name() {
    let host = Simulated::new();
    host.must(&["info"]);
    let text = std::fs::read_to_string(host.path().join("guest.cfg")).unwrap();
    let kept = host.path().join("var/lib/xyl/kept");
    std::fs::create_dir_all(&kept).unwrap();
    for (number, name) in ["win 10", "1234"].into_iter().enumerate() {
        let uuid = format!("6a1d0c4e-0000-4000-8000-00000000000{number}");
        let text = format!("{text}\nname = \"{name}\"\nuuid = \"{uuid}\"\n");
        let elsewhere = host.path().join("old.cfg");
        std::fs::write(&elsewhere, &text).unwrap();
        let refused = host.xyl(&["create", elsewhere.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        // Not what only seems to be in that folder.
        let seems = kept.join("../../../../old.cfg");
        let refused = host.xyl(&["create", seems.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        let file = kept.join(format!("{uuid}.cfg"));
        std::fs::write(&file, &text).unwrap();
        host.must(&["create", file.to_str().unwrap()]);
        assert!(host.must(&["list", &format!("uuid:{uuid}")]).contains(name));
        assert!(!file.exists(), "{name}");
        host.must(&["destroy", &format!("uuid:{uuid}")]);
    }
}

#[test]
fn a_dry_run_writes_nothing_but_json_where_that_is_asked_for() {
    let host = Simulated::new();
    host.must(&["info"]);
    let folder = host.path().join("run/xyl/damaged");
    std::fs::create_dir_all(&folder).unwrap();
    let journal = folder.join("00000000-0000-4000-8000-000000000001");
    std::fs::write(&journal, "?").unwrap();
    let output = host.xyl(&["-N", "--json", "fsck", "--repair"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows[0]["kind"], "damaged-journal");
    assert!(String::from_utf8_lossy(&output.stderr).contains("would remove"));
    assert!(journal.exists());
}

#[test]
fn a_host_that_is_none_is_refused() {
    let host = Simulated::new();
    for value in ["sim:", "ssh://x", "/tmp"] {
        let mut command = host.command(XYL, &["list"]);
        let output = command.env("XYL_HOST", value).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{why}");
        assert!(why.contains("sim:FOLDER"), "{why}");
    }
    // A folder that cannot be made.
    let mut command = host.command(XYL, &["list"]);
    let output = command.env("XYL_HOST", "sim:/proc/none").output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && why.contains("/proc/none"),
        "{why}"
    );
}

#[test]
fn what_somebody_else_has_put_into_the_folder_is_not_touched() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let host = Simulated::new();
    let target = host.folder.path().join("target");
    let log = host.path().join("var/log/xen");
    std::fs::create_dir_all(&log).unwrap();
    symlink(&target, log.join("xyl-guest.log")).unwrap();
    for mode in [0o777, 0o700] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(host.path(), permissions).unwrap();
        assert_eq!(host.xyl(&["info"]).status.code(), Some(1));
        let names = std::fs::read_dir(host.path()).unwrap();
        let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names, ["var"]);
    }
    assert!(!target.exists());
}

/// The number and name of each domain as Xen's script `xendomains` takes them from `list -l`: it keeps the lines that are
/// `    {`, that have `"name":`, and that begin with `        "domid":`, and reads these without their margin.
fn as_xendomains_reads(list: &str) -> Vec<(String, String)> {
    let (mut domid, mut name) = (None, None);
    let mut found = Vec::new();
    for line in list.lines() {
        let value = |key: &str| {
            let value = line.trim_start().strip_prefix(key)?;
            Some(value.strip_suffix(',')?.trim_matches('"').to_owned())
        };
        if line == "    {" {
            (domid, name) = (None, None);
        } else if line.contains("\"name\":") {
            name = value("\"name\": ");
        } else if line.starts_with("        \"domid\":") {
            domid = value("\"domid\": ");
        }
        if let (Some(domid), Some(name)) = (&domid, &name) {
            found.push((domid.clone(), name.clone()));
        }
    }
    found.dedup();
    found
}

#[test]
fn xendomains_finds_the_guests() {
    let host = Simulated::new();
    host.create();
    let cfg = host.path().join("guest.cfg");
    let cfg = cfg.to_str().unwrap();
    host.must(&["create", cfg, "name='other'"]);
    let found = as_xendomains_reads(&host.must(&["list", "-l"]));
    let pair = |domid: &str, name: &str| (domid.to_owned(), name.to_owned());
    assert!(found.contains(&pair("1", "guest")), "{found:?}");
    assert!(found.contains(&pair("2", "other")), "{found:?}");
    // So it asks for the name in a configuration.
    let dry = host.must(&["create", "--quiet", "--dryrun", "--defconfig", cfg]);
    assert!(
        dry.lines()
            .any(|line| line == "        \"name\": \"guest\","),
        "{dry}"
    );
}

#[test]
fn a_domain_without_a_record_is_listed_with_what_is_known() {
    let host = Simulated::new();
    host.create();
    let userdata = host.path().join("var/lib/xen");
    for entry in std::fs::read_dir(&userdata).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "libxl-json") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let output = host.xyl(&["list", "-l", "guest"]);
    assert!(output.status.success());
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let all: serde_json::Value = serde_json::from_str(&host.must(&["list", "--json"])).unwrap();
    let guest = &all.as_array().unwrap()[1];
    assert_eq!(
        list,
        serde_json::json!([{"domid": 1, "config": {"c_info": {
            "type": "pvh", "name": "guest", "uuid": guest["uuid"]
        }}}])
    );
    let found = as_xendomains_reads(&host.must(&["list", "-l"]));
    assert!(found.contains(&("1".to_owned(), "guest".to_owned())));
}

#[test]
fn listing_configurations_asks_xenstore_and_xen_once_for_all() {
    let host = Simulated::new();
    host.create();
    let cfg = host.path().join("guest.cfg");
    let cost = |what: &str| {
        let output = host.xyl(&["-v", "list", "-l"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let cost = text.lines().find(|line| line.contains("cost:")).unwrap();
        let number = cost.split(what).nth(1).unwrap().trim_start();
        let number = number.split(',').next().unwrap();
        number.parse::<u64>().unwrap()
    };
    let before = (cost("simulated hypercalls"), cost("round trips"));
    for name in ["b", "c", "d", "e"] {
        host.must(&["create", cfg.to_str().unwrap(), &format!("name='{name}'")]);
    }
    // One hypercall for the share of each domain, and no other.
    assert_eq!(cost("simulated hypercalls"), before.0 + 4);
    assert_eq!(cost("round trips"), before.1);
}

#[test]
fn a_foreign_name_drives_no_terminal_and_no_shell() {
    let host = Simulated::new();
    host.must(&["info"]);
    let cfg = host.path().join("guest.cfg");
    host.must(&["create", "-e", cfg.to_str().unwrap()]);
    let name = "a\x1b[31m;touch x\u{202e}\u{9b}";
    host.rename_behind(1, name);
    for words in [
        &["list"][..],
        &["list", "-v", "-c"],
        &["list", "--json"],
        &["list", "-l"],
        &["vcpu-list"],
        &["uptime"],
        &["uptime", "-s"],
        &["vm-list"],
        &["claims"],
        &["sched-credit2"],
        &["top", "-b", "-i", "1"],
        &["domname", "1"],
        &["audit"],
        &["explain"],
        &["fsck"],
        &["ops"],
        &["-N", "destroy", name],
        &["rename", "1", "Domain-0"],
    ] {
        let output = host.xyl(words);
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let drives = |c: char| c.is_control() && !"\n\t".contains(c) || c == '\u{202e}';
            assert!(!text.contains(drives), "{words:?}: {text:?}");
        }
    }
    let list: serde_json::Value = serde_json::from_str(&host.must(&["list", "--json"])).unwrap();
    assert_eq!(list[1]["name"], name);
    assert_eq!(host.offered(&["destroy", ""]), ["Domain-0"]);
    host.rename_behind(1, "(null)");
    assert!(host.must(&["list"]).contains("\"(null)\" "));
    host.rename_behind(1, "two words");
    assert!(host.must(&["list"]).contains("two words  "));
}

#[test]
fn completion_offers_what_there_is_on_the_simulated_host() {
    let host = Simulated::new();
    host.create();
    let ops: serde_json::Value = serde_json::from_str(&host.must(&["ops", "--json"])).unwrap();
    let id = ops[0]["id"].as_str().unwrap();
    assert_eq!(host.offered(&["destroy", "gu"]), ["guest"]);
    assert_eq!(host.offered(&["list", ""]), ["Domain-0", "guest"]);
    assert_eq!(host.offered(&["vcpu-pin", "guest", ""]), ["all", "0", "1"]);
    assert_eq!(
        host.offered(&["vcpu-pin", "-f", "guest", "0", "al"]),
        ["all"]
    );
    let cpus = host.offered(&["vcpu-pin", "guest", "0", ""]);
    assert!(
        cpus.starts_with(&["all".into(), "node:0".into(), "0".into()]),
        "{cpus:?}"
    );
    let after_comma = host.offered(&["vcpu-pin", "guest", "0", "1,"]);
    let with_begin: Vec<String> = cpus.iter().map(|cpu| format!("1,{cpu}")).collect();
    assert_eq!(after_comma, with_begin);
    assert_eq!(host.offered(&["vcpu-set", "guest", ""]), ["1", "2"]);
    assert_eq!(host.offered(&["trigger", "guest", "nmi", ""]), ["0", "1"]);
    assert_eq!(
        host.offered(&["vcpu-pin", "no-such", ""]),
        [] as [String; 0]
    );
    assert_eq!(host.offered(&["sched-credit2", "-p", "P"]), ["Pool-0"]);
    assert_eq!(host.offered(&["ops", "show", ""]), [id, "guest"]);
    // Nothing is under way.
    assert_eq!(host.offered(&["ops", "cancel", ""]), [] as [String; 0]);
    // Every key of `info`, and no other.
    let info: serde_json::Value = serde_json::from_str(&host.must(&["info", "--json"])).unwrap();
    let mut keys: Vec<&String> = info.as_object().unwrap().keys().collect();
    let mut offered = host.offered(&["info", ""]);
    keys.sort();
    offered.sort();
    assert_eq!(offered.iter().collect::<Vec<_>>(), keys);
}

#[test]
fn a_dry_run_refuses_what_the_command_refuses() {
    let host = Simulated::new();
    host.create();
    let folder = host.folder.path().to_str().unwrap();
    for words in [
        &["destroy", "0"][..],
        &["pause", "0"],
        &["shutdown", "0"],
        &["reboot", "0"],
        &["adopt", "0"],
        &["dump-core", "0"],
        &["mem-set", "guest", "1t"],
        &["mem-set", "guest", "0"],
        &["mem-max", "guest", "1"],
        &["rename", "guest", "a/b"],
        &["rename", "guest", "Domain-0"],
        &["trigger", "guest", "nmi", "9"],
        &["vcpu-set", "guest", "3"],
        &["vcpu-pin", "guest", "9", "0"],
        &["sched-credit2", "-d", "guest", "-c", "30000"],
        &["sched-credit2", "-s", "-r", "7"],
        &["cpupool-destroy", "Pool-0"],
        &["cpupool-destroy", "nosuch"],
        &["cpupool-rename", "Pool-0", "17"],
        &["cpupool-migrate", "0", "Pool-0"],
        &["cpupool-cpu-add", "Pool-0", "99"],
        &["man", "/nowhere"],
        &["pause", "nosuch"],
        &["create", "/nosuch.cfg"],
    ] {
        let real = host.xyl(words);
        let dry = host.xyl(&[&["-N"], words].concat());
        assert_eq!(real.status.code(), Some(1), "{words:?}: {real:?}");
        assert_eq!(dry.status, real.status, "{words:?}: {dry:?}");
        assert_eq!(dry.stderr, real.stderr, "{words:?}");
        assert!(dry.stdout.is_empty(), "{words:?}");
    }
    // What would be done is said, and not done.
    let before = host.must(&["list", "-v", "guest"]);
    for words in [
        &["destroy", "guest"][..],
        &["pause", "guest"],
        &["mem-set", "guest", "32"],
        &["rename", "guest", "web"],
        &["trigger", "guest", "nmi", "1"],
        &["vcpu-set", "guest", "2"],
        &["sched-credit2", "-d", "guest", "-w", "512"],
        &["shutdown", "-a", "-w"],
        &["man", folder],
        &["dump-core", "guest"],
        &["suspend", "guest"],
        &["save", "guest", "/tmp/guest.saved"],
        &["cpupool-rename", "Pool-0", "first"],
        &["cpupool-cpu-remove", "Pool-0", "1"],
        &["cpupool-migrate", "guest", "Pool-0"],
        &["cpupool-numa-split"],
    ] {
        let said = host.must(&[&["-N"], words].concat());
        assert!(said.starts_with("would "), "{words:?}: {said}");
    }
    assert_eq!(host.must(&["list", "-v", "guest"]), before);
    assert!(!host.path().join("var/lib/xen/dump").exists());
    let pages = std::fs::read_dir(folder).unwrap();
    assert_eq!(pages.count(), 1, "the host's folder alone");
    host.must(&["-N", "vcpu-pin", "guest", "0", "1"]);
}

/// The lines of standard error as JSON: each is an object with one member, which is the kind.
fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

#[test]
fn each_line_on_stderr_is_json_where_that_is_asked_for() {
    let host = Simulated::new();
    host.create();
    let cfg = host.path().join("guest.cfg");
    let cfg = cfg.to_str().unwrap();
    for words in [
        &["--json", "shutdown", "-w", "guest"][..],
        &["--json", "-v", "list"],
        &["--json", "-T", "create", cfg, "memroy=5"],
        &["--json", "destroy", "nosuch"],
        &["--json", "-N", "pause", "guest"],
    ] {
        let lines = json_lines(&host.xyl(words));
        assert!(lines[0]["notice"]["message"].is_string(), "{words:?}");
        for line in lines {
            let (kind, message) = line.as_object().unwrap().iter().next().unwrap();
            assert!(["notice", "warning", "error"].contains(&kind.as_str()));
            assert!(message["message"].is_string(), "{line}");
            assert_eq!(message["pid"].is_number(), words.contains(&"-T"), "{line}");
        }
    }
}

/// The error that a command ends with.
fn error_of(output: &Output) -> serde_json::Value {
    json_lines(output).pop().unwrap()["error"].take()
}

#[test]
fn errors_have_stable_codes() {
    let host = Simulated::new();
    host.create();
    for (words, code, exit_code) in [
        (&["destroy", "nosuch"][..], "no-such-domain", 1),
        (&["pause", "0"], "control-domain", 1),
        (&["mem-set", "guest", "1t"], "above-maximum", 1),
        (&["rename", "guest", "Domain-0"], "name-taken", 1),
        (&["rename", "guest", "a/b"], "bad-name", 1),
        (&["vcpu-set", "guest", "3"], "vcpus-out-of-range", 1),
        (&["resume", "guest"], "suspend", 1),
        (&["migrate", "guest"], "not-there-yet", 4),
        (&["lits"], "unknown-command", 2),
        (&["vcpu"], "ambiguous-command", 2),
        (&["list", "--no-such"], "usage", 2),
        (&["create", "/nosuch.cfg"], "configuration", 1),
        (&["create", "/dev/null", "kernel=1"], "configuration", 1),
    ] {
        let error = error_of(&host.xyl(&[&["--json"], words].concat()));
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(error["exit_code"], exit_code, "{error}");
    }
    let words = ["--json", "create", "/dev/null", "name='x'; memory='lots'"];
    let error = error_of(&host.xyl(&words));
    let findings = error["findings"].as_array().unwrap();
    let finding = findings.iter().find(|one| one["line"].is_number());
    let finding = finding.unwrap();
    assert!(finding["column"].is_number());
    assert!(
        finding["file"].is_string() && finding["code"].is_string(),
        "{error}"
    );
}

#[test]
fn a_refused_step_is_named_to_programs() {
    let host = Simulated::new();
    host.must(&["info"]);
    let cfg = host.path().join("guest.cfg");
    let cfg = cfg.to_str().unwrap();
    // The record of the configuration cannot be written: its folder is a file.
    let vm = host.path().join("var/lib/xyl");
    std::fs::create_dir_all(vm.parent().unwrap()).unwrap();
    std::fs::remove_dir_all(&vm).ok();
    std::fs::write(&vm, "").unwrap();
    let error = error_of(&host.xyl(&["--json", "create", cfg]));
    assert_eq!(error["code"], "file", "{error}");
    assert!(error["step"].is_string(), "{error}");
    assert!(error["causes"][0].is_string(), "{error}");
}

#[test]
fn every_command_says_that_its_host_is_simulated() {
    let host = Simulated::new();
    host.create();
    for words in [
        &["list"][..],
        &["pause", "guest"],
        &["destroy", "guest"],
        &["fsck"],
        &["ops"],
    ] {
        let output = host.xyl(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            text.matches("this is a simulated host").count(),
            1,
            "{text}"
        );
    }
    // These need no host.
    let output = host.xyl(&["completion", "bash"]);
    assert!(output.stderr.is_empty());
}

#[test]
fn a_create_in_the_foreground_shows_the_console_too() {
    let host = Simulated::new();
    host.must(&["info"]);
    let cfg = host.path().join("guest.cfg");
    let output = host.command(
        "bash",
        &["-c", "(sleep 1; echo poweroff) | $XYL create -F -c $CFG"],
    );
    let mut output = output;
    output
        .env("XYL", XYL)
        .env("CFG", &cfg)
        .env("XYL_HOST", format!("sim:{}", host.path().display()));
    let output = output.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("heartbeat"), "{text}");
    assert!(!host.must(&["list"]).contains("guest"));
    // With -e there is nothing to stay for.
    host.must(&["create", "-e", "-F", cfg.to_str().unwrap()]);
    assert!(host.must(&["list"]).contains("guest"));
}

#[test]
fn a_console_that_no_such_guest_has_is_refused_at_once() {
    let host = Simulated::new();
    host.create();
    for words in [
        &["console", "-t", "serial", "guest"][..],
        &["console", "-t", "vuart", "guest"],
        &["console", "-n", "1", "guest"],
        &["-N", "console", "-n", "1", "guest"],
    ] {
        let error = error_of(&host.xyl(&[&["--json"], words].concat()));
        assert_eq!(error["code"], "no-such-console", "{words:?}: {error}");
    }
    let error = error_of(&host.xyl(&["--json", "-N", "console", "0"]));
    assert_eq!(error["code"], "control-domain", "{error}");
}

#[test]
fn the_console_of_a_domain_that_reboots_shows_nothing_of_the_next() {
    let host = Simulated::new();
    host.create();
    let mut command = host.command(
        "bash",
        &["-c", "(sleep 1; echo reboot) | $XYL console guest"],
    );
    let place = format!("sim:{}", host.path().display());
    command.env("XYL", XYL).env("XYL_HOST", place);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = text
        .split("down (Reboot)")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    assert!(!after.contains("heartbeat"), "{text}");
}

fn json_of(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn json_has_what_the_table_shows() {
    let host = Simulated::new();
    host.create();
    let plain = json_of(&host.must(&["list", "--json", "guest"]));
    assert!(plain[0].get("cpupool").is_none());
    let all = json_of(&host.must(&["list", "--json", "-c", "-n", "-Z", "guest"]));
    assert_eq!(all[0]["cpupool"], "Pool-0");
    assert!(all[0]["node_affinity"].is_array());
    assert_eq!(all[0].get("security_label"), Some(&serde_json::Value::Null));
    let top = json_of(&host.must(&["top", "-b", "-i", "1", "--json"]));
    assert!(top["domains"][0]["cpu_time_ns"].is_u64());
    let info = json_of(&host.must(&["info", "--json"]));
    assert!(info["cpu_mhz"].is_f64(), "{info}");
    assert!(host.must(&["info", "cpu_mhz"]).trim().ends_with(".000"));
    let one = json_of(&host.must(&["info", "--json", "free_"]));
    let keys: Vec<&String> = one.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["free_memory", "free_cpus"]);
    assert_eq!(host.xyl(&["info", "-x"]).status.code(), Some(4));
}

#[test]
fn shares_have_one_shape_and_the_words_of_xl() {
    let host = Simulated::new();
    host.create();
    for words in [
        &["sched-credit2", "--json"][..],
        &["sched-credit2", "--json", "-d", "guest"],
        &["sched-credit2", "--json", "-s"],
        &["sched-credit2", "--json", "-p", "Pool-0"],
    ] {
        let pools = json_of(&host.must(words));
        assert_eq!(pools[0]["pool"], "Pool-0", "{words:?}");
        assert!(pools[0]["ratelimit_us"].is_number(), "{words:?}");
        let domains = pools[0]["domains"].as_array().unwrap();
        assert!(
            domains.iter().any(|one| one["name"] == "guest"),
            "{words:?}"
        );
    }
    assert!(
        host.must(&["sched-credit2", "-s", "-d", "guest"])
            .starts_with("Cpupool Pool-0: ratelimit=")
    );
}

#[test]
fn a_domain_is_named_as_it_was_typed() {
    let host = Simulated::new();
    for typed in ["99999999999999999999", "007", "nosuch"] {
        for command in ["destroy", "list", "pause", "console"] {
            let error = error_of(&host.xyl(&["--json", command, typed]));
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains(&format!("`{typed}`")),
                "{command}: {message}"
            );
        }
    }
    let output = host.xyl(&["domname", "a"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("xyl domid"));
}

#[test]
fn a_dry_run_names_the_line_for_which_the_policy_refuses_a_guest() {
    let host = Simulated::new();
    host.must(&["info"]);
    let cfg = host.path().join("guest.cfg");
    let mut text = std::fs::read_to_string(&cfg).unwrap();
    let line = text.lines().count() + 1;
    text.push_str("msr_relaxed = 1\n");
    std::fs::write(&cfg, text).unwrap();
    let cfg = cfg.to_str().unwrap();
    for arguments in [
        &["--json", "create", "-n", cfg][..],
        &["--json", "-N", "create", cfg],
        &["--json", "create", cfg],
    ] {
        let output = host.xyl(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        let error = errors
            .lines()
            .map(json_of)
            .find(|line| line["error"].is_object());
        let error = &error.unwrap()["error"];
        assert_eq!(error["code"], "not-admitted", "{arguments:?}: {errors}");
        let finding = &error["findings"][0];
        assert_eq!(finding["key"], "msr_relaxed", "{arguments:?}");
        assert_eq!(finding["file"], cfg, "{arguments:?}");
        assert_eq!(finding["line"], line, "{arguments:?}");
    }
}

#[test]
fn a_journal_that_was_set_aside_fails_recover_once() {
    let host = Simulated::new();
    host.must(&["info"]);
    let folder = host.path().join("run/xyl/damaged");
    std::fs::create_dir_all(&folder).unwrap();
    let uuid = "00000000-0000-4000-8000-000000000001";
    let journal = folder.join(uuid);
    for _ in 0..2 {
        std::fs::write(&journal, "?").unwrap();
        let first = host.xyl(&["recover", "--json"]);
        assert_eq!(first.status.code(), Some(1));
        let rows = json_of(std::str::from_utf8(&first.stdout).unwrap());
        assert_eq!(rows[0]["uuid"], uuid);
        assert_eq!(rows[0]["reported_before"], false);
        // The finding stays, and each later `xyl recover --json` lists it.
        let rows = json_of(&host.must(&["recover", "--json"]));
        assert_eq!(rows[0]["reported_before"], true);
        let silent = host.xyl(&["recover"]);
        assert_eq!(silent.status.code(), Some(0));
        let errors = String::from_utf8(silent.stderr).unwrap();
        assert!(!errors.contains(uuid), "{errors}");
        assert_eq!(host.xyl(&["fsck"]).status.code(), Some(5));
        std::fs::remove_file(&journal).unwrap();
        assert_eq!(
            json_of(&host.must(&["recover", "--json"])),
            serde_json::json!([])
        );
    }
}

/// A request that nobody carries out yet is shown with its type and who has asked.
#[test]
fn a_request_that_waits_is_listed() {
    let host = Simulated::new();
    host.must(&["info"]);
    let cfg = host.path().join("guest.cfg");
    host.must(&["create", "-e", cfg.to_str().unwrap()]);
    let list: serde_json::Value =
        serde_json::from_str(&host.must(&["list", "--json", "guest"])).unwrap();
    let uuid = list[0]["uuid"].as_str().unwrap();
    let folder = host.path().join("run/xyl/vm").join(uuid).join("requests");
    std::fs::create_dir_all(&folder).unwrap();
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    let request = serde_json::json!({
        "version": 1, "id": id, "vm": uuid, "time_ms": 5, "asker": {"type": "remote", "name": "alice"},
        "request": {"type": "rename", "name": "web"},
    });
    std::fs::write(folder.join(format!("{id}.json")), request.to_string()).unwrap();
    let ops: serde_json::Value = serde_json::from_str(&host.must(&["ops", "--json"])).unwrap();
    let row = ops.as_array().unwrap().iter().find(|row| row["id"] == id);
    let row = row.unwrap_or_else(|| panic!("{ops}"));
    assert_eq!(row["operation"], "rename");
    assert_eq!(row["state"], "requested");
    assert_eq!(row["request"], request["request"]);
    assert_eq!(row["asker"], request["asker"]);
    let text = host.must(&["ops"]);
    let line = text
        .lines()
        .find(|line| line.contains("requested"))
        .unwrap();
    assert!(line.contains("guest") && line.contains("alice"), "{line}");
}

/// A user who gives a name means the VM, not the domain that it has just lost.
#[test]
fn a_vm_that_is_restarting_is_renamed_by_its_name() {
    let host = Simulated::new();
    host.create();
    host.must(&["reboot", "-w", "guest"]);
    host.must(&["rename", "guest", "other"]);
    host.wait_for(&["domname", "2"], |name| name == "other");
}

#[test]
fn guests_have_disks_and_networks_that_come_and_go() {
    let host = Simulated::new();
    let state_of = |command: &str, guest: &str| {
        let list: serde_json::Value =
            serde_json::from_str(&host.must(&["--json", command, guest])).unwrap();
        let states = list.as_array().unwrap().iter();
        let states = states.map(|device| device["state"].as_u64().unwrap_or(0));
        states.collect::<Vec<_>>()
    };
    host.create();
    let config = host.path().join("guest.cfg");
    let config = config.to_str().unwrap();
    let disk = format!("{},raw,xvda,rw", host.path().join("disk.img").display());
    let disk_setting = format!("disk=['{disk}']");
    let connected = |command: &str, guest: &str, wanted: &[u64]| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while state_of(command, guest) != wanted {
            assert!(Instant::now() < deadline, "{command} {guest}");
        }
    };
    connected("network-list", "guest", &[4]);
    host.must(&["block-attach", "guest", &disk]);
    connected("block-list", "guest", &[4]);
    // Another VM does not get the disk.
    let second = host.xyl(&["create", "-q", config, "name='b'", &disk_setting]);
    assert_eq!(second.status.code(), Some(1));
    host.must(&["reboot", "-w", "guest"]);
    // The first domain may be there for a moment.
    let deadline = Instant::now() + Duration::from_secs(30);
    while host.xyl(&["domid", "guest"]).stdout.trim_ascii() != b"2" {
        assert!(Instant::now() < deadline, "no second domain");
    }
    connected("block-list", "guest", &[4]);
    connected("network-list", "guest", &[4]);
    host.must(&["network-attach", "guest", "bridge=xenbr0"]);
    connected("network-list", "guest", &[4, 4]);
    // Another process of the VM, and a dump, change nothing of them.
    host.must(&["upgrade-monitors"]);
    let core = host.path().join("core");
    host.must(&["dump-core", "guest", core.to_str().unwrap()]);
    connected("network-list", "guest", &[4, 4]);
    connected("block-list", "guest", &[4]);
    host.must(&["network-detach", "guest", "1"]);
    connected("network-list", "guest", &[4]);
    host.must(&["block-detach", "guest", "xvda"]);
    assert!(state_of("block-list", "guest").is_empty());
    host.must(&["create", "-q", config, "name='b'", &disk_setting]);
    connected("block-list", "b", &[4]);
    for guest in ["guest", "b"] {
        host.must(&["destroy", guest]);
    }
    // The loop device and the interfaces go with their guests.
    let real = xen_sim::machine::Host::in_folder(&host.path()).unwrap();
    let devices = real.devices().unwrap();
    assert!(devices.loops.list().unwrap().is_empty());
    let bridge = os_port::LinkName::parse("xenbr0").unwrap();
    let bridge = devices.links.find(&bridge).unwrap().unwrap();
    assert!(devices.links.ports_of(bridge.index).unwrap().is_empty());
    let drivers = host.path().join("sys/bus/xen-backend/devices");
    assert_eq!(std::fs::read_dir(drivers).unwrap().count(), 0);
}

#[test]
fn a_wait_that_ends_too_early_names_the_domains_that_are_left() {
    let host = Simulated::new();
    host.create();
    let config = host.path().join("guest.cfg");
    host.must(&["create", "-p", config.to_str().unwrap(), "name='paused'"]);
    let arguments = ["--json", "shutdown", "-a", "-w", "--timeout", "2"];
    let output = host.xyl(&arguments);
    assert_eq!(error_of(&output)["code"], "deadline");
    let text = error_of(&output)["message"].to_string();
    assert!(text.contains("domain 2 ") && !text.contains('1'), "{text}");
}

#[test]
fn a_cpu_pool_has_a_life_of_its_own() {
    let host = Simulated::new();
    host.create();
    let refused = |words: &[&str]| {
        let output = host.xyl(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        json_lines(&host.xyl(&[&["--json"], words].concat()))
    };
    assert_eq!(
        host.must(&["cpupool-list"]),
        "Name               CPUs   Sched     Active   Domain count\n\
         Pool-0               4   credit2       y          2\n"
    );
    let file = host.folder.path().join("fast.cfg");
    std::fs::write(&file, "sched = \"null\"\ncpus = [2]\n").unwrap();
    let file = file.to_str().unwrap();
    refused(&["cpupool-create", file]);
    host.must(&["cpupool-cpu-remove", "Pool-0", "2-3"]);
    assert!(host.must(&["info", "free_cpus"]).contains('2'));
    let said = host.must(&["cpupool-create", file, "name=\"fast\""]);
    assert_eq!(
        said,
        format!(
            "Using config file \"{file}\"\ncpupool name:   fast\nscheduler:      null\nnumber of cpus: 1\n"
        )
    );
    refused(&["cpupool-create", file, "name=\"fast\"", "cpus=[3]"]);
    host.must(&["cpupool-cpu-add", "fast", "3"]);
    assert_eq!(
        host.must(&["cpupool-list", "-c", "fast"]),
        "Name               CPU list\nfast               2,3\n"
    );
    host.must(&["cpupool-migrate", "guest", "fast"]);
    assert!(host.must(&["list", "-c", "guest"]).contains("fast"));
    refused(&["cpupool-destroy", "fast"]);
    refused(&["cpupool-migrate", "0", "fast"]);
    refused(&["cpupool-migrate", "guest", "nosuch"]);
    refused(&["cpupool-rename", "fast", "Pool-0"]);
    host.must(&["cpupool-rename", "fast", "faster"]);
    assert_eq!(host.offered(&["cpupool-destroy", "f"]), ["faster"]);
    host.must(&["cpupool-migrate", "guest", "Pool-0"]);
    // What cannot be done for one CPU is named, and the exit code is that of xl.
    let partly = host.xyl(&["cpupool-cpu-remove", "Pool-0", "0-1"]);
    assert_eq!(partly.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&partly.stderr).contains("CPU 0 could not be taken out"));
    let partly = host.xyl(&["cpupool-cpu-add", "Pool-0", "1-2"]);
    assert_eq!(partly.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&partly.stderr).contains("CPU 2 could not be added"));
    refused(&["cpupool-numa-split"]);
    host.must(&["cpupool-destroy", "faster"]);
    let pools = json_of(&host.must(&["cpupool-list", "--json"]));
    assert_eq!(
        pools,
        serde_json::json!([{"id": 0, "name": "Pool-0", "scheduler": "credit2", "cpus": [0, 1], "nr_domains": 2}])
    );
    assert!(
        host.must(&["-N", "cpupool-numa-split"])
            .starts_with("would rename Pool-0 to Pool-node0")
    );
    host.must(&["cpupool-numa-split"]);
    assert_eq!(
        host.must(&["cpupool-list", "-c"]),
        "Name               CPU list\nPool-node0         0,1,2,3\n"
    );
}

#[test]
fn lists_of_what_no_domain_has_are_those_of_xl() {
    let host = Simulated::new();
    host.create();
    for (command, header) in [
        ("channel-list", "Idx BE state evt-ch ring-ref connection"),
        ("vkb-list", "Idx BE handle state evt-ch"),
        ("vtpm-list", "Idx BE Uuid "),
        ("vdispl-list", ""),
        ("vsnd-list", ""),
        ("pci-list", ""),
        ("usb-list", ""),
    ] {
        let printed = host.must(&[command, "guest"]);
        let lines = usize::from(!header.is_empty());
        assert!(printed.starts_with(header), "{command}: {printed}");
        assert_eq!(printed.lines().count(), lines, "{command}: {printed}");
        assert_eq!(
            json_of(&host.must(&[command, "--json", "guest"])),
            serde_json::json!([]),
            "{command}"
        );
        let goes_on = matches!(command, "vtpm-list" | "vdispl-list" | "vsnd-list");
        let unknown = host.xyl(&[command, "nosuch"]);
        assert_eq!(
            unknown.status.code(),
            Some(i32::from(!goes_on)),
            "{command}"
        );
    }
    assert_eq!(host.must(&["pci-assignable-list"]), "");
    let shared = host.must(&["sharing", "guest"]);
    assert!(
        shared.starts_with("Name                                        ID   Mem Shared\nguest ")
    );
    let pressed = host.xyl(&["-N", "button-press", "guest", "power"]);
    assert_eq!(pressed.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&pressed.stderr).contains("deprecated"));
}

#[test]
fn a_running_xen_takes_keys_and_parameters() {
    let host = Simulated::new();
    host.must(&["debug-keys", "hq"]);
    let log = host.must(&["dmesg"]);
    assert!(
        log.contains("'h' pressed") && log.contains("'q' pressed"),
        "{log}"
    );
    assert_eq!(host.xyl(&["debug-keys", ""]).status.code(), Some(2));
    host.must(&["set-parameters", "ratelimit=7 nowatchdog_on"]);
    for wrong in ["nosuch=1", "ler=1", "ratelimit=x", "ratelimit"] {
        let output = host.xyl(&["--json", "set-parameters", wrong]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert_eq!(error_of(&output)["code"], "xen-parameter", "{wrong}");
    }
    assert!(
        host.must(&["-N", "set-parameters", "ratelimit=7"])
            .starts_with("would set")
    );
}

#[test]
fn flask_is_absent() {
    let host = Simulated::new();
    let mode = host.xyl(&["getenforce"]);
    assert_eq!(mode.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&mode.stdout),
        "Flask XSM Disabled\n"
    );
    let file = host.folder.path().join("policy");
    std::fs::write(&file, "no policy").unwrap();
    for words in [
        &["setenforce", "1"][..],
        &["loadpolicy", file.to_str().unwrap()],
    ] {
        let output = host.xyl(&[&["--json"], words].concat());
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert_eq!(error_of(&output)["code"], "xen-parameter", "{words:?}");
    }
    assert_eq!(host.xyl(&["setenforce", "perhaps"]).status.code(), Some(2));
    assert_eq!(
        host.xyl(&["loadpolicy", "/no/such/file"]).status.code(),
        Some(1)
    );
}

#[test]
fn what_the_cpus_cannot_do_is_said() {
    let host = Simulated::new();
    host.create();
    for words in [
        &["psr-hwinfo"][..],
        &["psr-hwinfo", "-a"],
        &["psr-cmt-attach", "guest"],
        &["psr-cmt-detach", "guest"],
        &["psr-cmt-show", "cache-occupancy"],
        &["psr-cat-show"],
        &["psr-cat-set", "guest", "0xff"],
        &["psr-mba-show", "guest"],
        &["psr-mba-set", "guest", "50"],
        &["sched-rtds", "-d", "guest"],
        &["sched-rtds", "-d", "guest", "-p", "10000", "-b", "4000"],
    ] {
        let output = host.xyl(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    }
    let monitoring = host.must(&["psr-hwinfo", "-m"]);
    assert_eq!(
        monitoring,
        "Cache Monitoring Technology (CMT):\nEnabled         : 0\n"
    );
    assert_eq!(host.must(&["sched-rtds"]), "");
    assert_eq!(host.xyl(&["sched-rtds", "-b", "1"]).status.code(), Some(2));
}

/// The value of a series in Prometheus's text format.
fn series<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit_once(' '))
        .map(|(_, value)| value)
}

#[test]
fn metrics_are_those_of_the_domains_and_a_file_is_replaced() {
    let host = Simulated::new();
    host.create();
    // A name that only other toolstacks would give forges no series.
    let hostile = "a\"} 7\nxyl_given_up_vms 9";
    let list = json_of(&host.must(&["list", "--json"]));
    let guest = list
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["domid"] != 0)
        .unwrap()
        .clone();
    let uuid = guest["uuid"].as_str().unwrap();
    host.rename_behind(
        guest["domid"].as_u64().unwrap().try_into().unwrap(),
        hostile,
    );

    let text = host.must(&["metrics"]);
    let of = |name: &str| series(&text, &format!("{name}{{uuid=\"{uuid}\"}}")).map(str::to_owned);
    let memory_bytes = guest["memory_kib"].as_u64().unwrap() * 1024;
    assert_eq!(
        of("xen_domain_memory_bytes"),
        Some(memory_bytes.to_string())
    );
    assert_eq!(of("xen_domain_vcpus").as_deref(), Some("1"));
    assert_eq!(of("xyl_monitor_up").as_deref(), Some("1"));
    assert_eq!(series(&text, "xyl_given_up_vms"), Some("0"));
    for source in ["xenstore", "records", "audit"] {
        let name = format!("xyl_source_up{{source=\"{source}\"}}");
        assert_eq!(series(&text, &name), Some("1"), "{source}");
    }
    let infos = text
        .lines()
        .filter(|line| line.starts_with("xen_domain_info{"));
    assert_eq!(infos.count(), 2);
    assert!(
        text.lines()
            .any(|line| line.starts_with("xyl_posture{guest_type=\"pvh\""))
    );

    // Every line is a comment or a series with a number, and every series is there once.
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .collect();
    let mut names: Vec<&str> = lines
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    assert!(
        lines
            .iter()
            .all(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok())
    );
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), lines.len());

    let folder = host.folder.path().join("collector");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("xyl.prom");
    std::fs::write(&file, "old").unwrap();
    host.must(&["metrics", "--leftovers", "-o", file.to_str().unwrap()]);
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(series(&written, "xyl_leftovers{kind=\"all\"}"), Some("0"));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    // A folder that is not there: nothing is left, and the command fails.
    let failed = host.xyl(&[
        "metrics",
        "-o",
        folder.join("no/xyl.prom").to_str().unwrap(),
    ]);
    assert_eq!(failed.status.code(), Some(1));

    let json = json_of(&host.must(&["metrics", "--json"]));
    let names: Vec<&str> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"xen_domain_info"), "{names:?}");
    host.must(&["destroy", &guest["domid"].to_string()]);
}

#[test]
fn the_inventory_has_the_guests_that_a_vm_name_can_name() {
    let host = Simulated::new();
    host.create();
    let inventory = json_of(&host.must(&["inventory", "--list"]));
    for group in ["xen_guests", "xen_running", "xen_pvh", "xen_xyl"] {
        assert_eq!(
            inventory[group]["hosts"],
            serde_json::json!(["guest"]),
            "{group}"
        );
    }
    let variables = &inventory["_meta"]["hostvars"]["guest"];
    assert_eq!(variables["xen_type"], "pvh");
    assert_eq!(
        &json_of(&host.must(&["inventory", "--host", "guest"])),
        variables
    );
    assert_eq!(
        json_of(&host.must(&["inventory", "--host", "no"])),
        serde_json::json!({})
    );

    let domid = variables["xen_domid"].as_u64().unwrap().try_into().unwrap();
    for name in [
        "{{ lookup('pipe', 'id') }}",
        "localhost",
        "root@elsewhere",
        "a:22",
    ] {
        host.rename_behind(domid, name);
        // The monitor brings the index of names up to date in a moment.
        let nobody = serde_json::json!({"_meta": {"hostvars": {}}});
        host.wait_for(&["inventory"], |text| {
            serde_json::from_str::<serde_json::Value>(text).is_ok_and(|found| found == nobody)
        });
    }
    host.must(&["destroy", &domid.to_string()]);
}
