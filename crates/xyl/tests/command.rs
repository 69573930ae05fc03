//! The command as a user meets it, on a machine without Xen.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The commands that `xyl help` names, `help` itself left out.
const COMMANDS: [&str; 72] = [
    "autostart",
    "button-press",
    "channel-list",
    "claims",
    "console",
    "cpupool-cpu-add",
    "cpupool-cpu-remove",
    "cpupool-create",
    "cpupool-destroy",
    "cpupool-list",
    "cpupool-migrate",
    "cpupool-numa-split",
    "cpupool-rename",
    "create",
    "debug-keys",
    "destroy",
    "devd",
    "dmesg",
    "domid",
    "domname",
    "explain",
    "getenforce",
    "info",
    "list",
    "loadpolicy",
    "mem-max",
    "mem-set",
    "network-attach",
    "network-detach",
    "network-list",
    "pause",
    "pci-assignable-add",
    "pci-assignable-list",
    "pci-assignable-remove",
    "pci-attach",
    "pci-detach",
    "pci-list",
    "psr-cat-set",
    "psr-cat-show",
    "psr-cmt-attach",
    "psr-cmt-detach",
    "psr-cmt-show",
    "psr-hwinfo",
    "psr-mba-set",
    "psr-mba-show",
    "reboot",
    "rename",
    "sched-credit",
    "sched-credit2",
    "sched-rtds",
    "set-parameters",
    "setenforce",
    "sharing",
    "shutdown",
    "start",
    "stop",
    "sysrq",
    "top",
    "trigger",
    "unpause",
    "uptime",
    "usb-list",
    "vcpu-list",
    "vcpu-pin",
    "vcpu-set",
    "vdispl-list",
    "vkb-attach",
    "vkb-detach",
    "vkb-list",
    "vm-list",
    "vsnd-list",
    "vtpm-list",
];

fn xyl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xyl"));
    command.args(arguments).stdin(Stdio::null());
    for variable in [
        "XYL_JSON",
        "XYL_VERBOSE",
        "XYL_DRY_RUN",
        "XYL_TIMESTAMPS",
        "XYL_XL_CONF",
    ] {
        command.env_remove(variable);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    xyl(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Whether this machine is a Xen host: then what is said without Xen cannot be tested.
fn is_xen_host() -> bool {
    Path::new("/dev/xen/privcmd").exists() || Path::new("/proc/xen/privcmd").exists()
}

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        for arguments in [
            &[command, "--help"][..],
            &[command, "-h"],
            &["help", command],
        ] {
            let output = run(arguments);
            assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
            let text = stdout(&output);
            assert!(text.contains("Usage: xyl"), "{arguments:?}: {text}");
            assert!(text.contains("Examples:"), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn help_lists_every_command_and_the_exit_codes() {
    let text = stdout(&run(&["--help"]));
    for command in COMMANDS {
        assert!(text.contains(&format!("\n  {command} ")), "{command}");
    }
    for word in ["Exit codes:", "XYL_VERBOSE", "XENSTORED_PATH"] {
        assert!(text.contains(word), "{word}");
    }
    assert!(
        !text.contains("\n  completion"),
        "hidden commands stay hidden"
    );
    assert!(text.contains("xyl completion bash") && text.contains("xyl man DIR"));
    assert_eq!(stdout(&run(&["help", "--help"])), text);
}

#[test]
fn unique_prefixes_are_commands() {
    let text = stdout(&run(&["cr", "--help"]));
    assert!(text.contains("Usage: xyl create"), "{text}");
    let ambiguous = run(&["vcpu"]);
    assert_eq!(code(&ambiguous), 2);
    assert!(stderr(&ambiguous).contains("vcpu-list, vcpu-pin, vcpu-set"));
}

#[test]
fn options_are_taken_as_getopt_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    for arguments in [
        &["create", "-n", "-n", "-q", "-q", &file][..],
        &["create", "--dry", "--def", &file],
        &["create", "-nq", "--quiet", "--defconfig", &file],
        &["-N", "-N", "create", &file],
        &["create", "-F", "-c", "-n", &file],
        &["create", "-e", "-F", "-n", &file],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
    }
    // Too short to be one.
    assert_eq!(code(&run(&["shutdown", "--", "--a"])), 1);
    for arguments in [
        &["top", "--full_"][..],
        &["list", "--c"],
        &["rep"],
        &["mon"],
    ] {
        assert_eq!(code(&run(arguments)), 2, "{arguments:?}");
    }
}

#[test]
fn own_commands_may_be_shortened_where_xl_has_none_of_that_beginning() {
    for (word, command) in [
        ("upg", "upgrade-monitors"),
        ("com", "completion"),
        ("ma", "man"),
    ] {
        let text = stdout(&run(&[word, "--help"]));
        assert!(text.contains(&format!("Usage: xyl {command}")), "{text}");
    }
    let text = stdout(&run(&["up", "--help"]));
    assert!(text.contains("Usage: xyl uptime"), "{text}");
    let output = run(&["rep"]);
    assert!(
        !stderr(&output).contains("did you mean"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_of_xls_form_is_help() {
    let text = stdout(&run(&["--help"]));
    assert_eq!(stdout(&run(&["help", "--long"])), text);
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    for arguments in [&["--help"][..], &["--version"], &["help", "list"]] {
        let full = full.try_clone().unwrap();
        let output = xyl(arguments).stdout(full).output().unwrap();
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(stderr(&output).contains("write the output"));
    }
    // A terminal of no width has the usual one.
    let narrow = xyl(&["help", "list"]).env("COLUMNS", "0").output().unwrap();
    let usual = xyl(&["help", "list"])
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    assert_eq!(stdout(&narrow), stdout(&usual));
}

#[test]
fn errors_have_the_time_where_that_is_asked_for() {
    for arguments in [
        &["-T", "lits"][..],
        &["-vT", "create", "/no.cfg"],
        &["-T", "list", "--no"],
    ] {
        let output = run(arguments);
        let text = stderr(&output);
        let is_stamped = text.starts_with("20") && text.contains("] xyl: error: ");
        assert!(is_stamped, "{arguments:?}: {text}");
    }
    let output = xyl(&["lits"]).env("XYL_TIMESTAMPS", "1").output().unwrap();
    assert!(stderr(&output).starts_with("20"));
}

#[test]
fn a_mistyped_option_gets_no_advice_that_was_never_meant() {
    let output = run(&["list", "-x"]);
    let text = stderr(&output);
    assert!(!text.contains("tip: to pass"), "{text}");
}

#[test]
fn bare_json_lists_no_commands() {
    let output = run(&["--json"]);
    let value: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(value["error"]["code"], "usage");
    assert!(!stderr(&output).contains("simulated-host"));
}

#[test]
fn what_is_no_command_gets_a_suggestion() {
    let output = run(&["destory", "x"]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).starts_with("xyl: error: unknown command `destory` (did you mean destroy")
    );
}

#[test]
fn commands_to_come_say_so() {
    for command in ["migrate", "remus", "vncviewer"] {
        let output = run(&[command, "x"]);
        assert_eq!(code(&output), 4, "{command}");
        assert!(
            stderr(&output).contains("not there yet"),
            "{command}: {}",
            stderr(&output)
        );
    }
    // Help is an answer, also where it is short.
    for arguments in [
        &["migrate", "--help"][..],
        &["help", "migrate"],
        &["rem", "-h"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(
            stdout(&output).contains("is not there yet"),
            "{arguments:?}"
        );
    }
    assert_eq!(code(&run(&["migrate", "--", "--help"])), 4);
    let viewer = run(&["create", "-V", "x.cfg"]);
    assert_eq!(code(&viewer), 4);
    assert!(stderr(&viewer).contains("-V and -A"));
}

#[test]
fn what_the_host_or_xyl_lacks_is_named_and_changes_nothing() {
    for command in [
        "usbctrl-attach",
        "usbdev-detach",
        "vtpm-attach",
        "vdispl-attach",
        "vsnd-detach",
        "config-update",
        "cd-insert",
        "cd-eject",
    ] {
        let output = run(&[command, "x", "y", "z"]);
        assert_eq!(code(&output), 1, "{command}");
        assert_eq!(stdout(&output), "", "{command}");
        assert!(
            stderr(&output).starts_with(&format!("xyl: error: `{command}` has changed nothing: ")),
            "{command}: {}",
            stderr(&output)
        );
        assert_eq!(code(&run(&[command, "--help"])), 0, "{command}");
        let json = run(&["--json", command, "x", "y", "z"]);
        let error: Value = serde_json::from_str(&stderr(&json)).unwrap();
        assert_eq!(error["error"]["code"], "refused", "{command}");
        // Without its arguments it is a wrong use, as with xl.
        let few = code(&run(&[command]));
        assert_eq!(
            few,
            if command == "config-update" { 1 } else { 2 },
            "{command}"
        );
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["list", "--no-such-option"][..],
        &["rename", "only-one"],
        &["mem-set", "d", "12parsecs"],
        &["sched-credit2", "-w", "5"],
        &["sched-credit2", "-d", "1", "-w", "0"],
        &["sched-credit2", "-d", "1", "-w", "65536"],
        &["shutdown"],
        &["vcpu-pin", "d", "x", "0"],
        &["create"],
        &["create", "one.cfg", "two.cfg"],
        &["trigger", "d", "dance"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(
            stderr(&output).starts_with("xyl: error: "),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn errors_are_json_when_asked_for() {
    for arguments in [
        &["--json", "lits"][..],
        &["mem-set", "--json", "d", "x"],
        &["list", "--json", "--no-such-option"],
    ] {
        let output = run(arguments);
        let value: Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!(value["error"]["exit_code"], 2, "{arguments:?}");
        assert!(value["error"]["message"].is_string());
    }
    let by_environment = xyl(&["lits"]).env("XYL_JSON", "1").output().unwrap();
    assert!(serde_json::from_str::<Value>(&stderr(&by_environment)).is_ok());
    let switched_off = xyl(&["lits"]).env("XYL_JSON", "0").output().unwrap();
    assert!(stderr(&switched_off).starts_with("xyl: error:"));
}

#[test]
fn without_xen_every_command_says_what_to_do() {
    if is_xen_host() {
        return;
    }
    for arguments in [
        &["list"][..],
        &["info"],
        &["destroy", "d"],
        &["console", "d"],
        &["shutdown", "-w", "d"],
        &["top", "-b", "-i", "1"],
    ] {
        let output = run(&[&["--json"], arguments].concat());
        assert_eq!(code(&output), 1, "{arguments:?}");
        let value: Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!(value["error"]["code"], "not-a-xen-host", "{arguments:?}");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains("modprobe"), "{arguments:?}: {message}");
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const GOOD: &str = concat!(
    "name = \"web\"\ntype = \"pvh\"\nkernel = \"",
    env!("CARGO_MANIFEST_DIR"),
    "/../xen-image/tests/corpus/elf/linux\"\nmemory = 64\nvcpus = 2\n"
);

#[test]
fn a_dry_run_prints_the_configuration_as_xl_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    for arguments in [
        &["create", "-n", &file][..],
        &["-N", "create", &file],
        &["create", "-n", "-f", &file],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["c_info"]["name"], "web");
        assert_eq!(value["b_info"]["max_memkb"], 65_536);
        assert_eq!(value["b_info"]["max_vcpus"], 2);
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn settings_of_the_command_line_override_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    let output = run(&["create", "-n", &file, "memory=128; vcpus=1", "name='other'"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["b_info"]["max_memkb"], 131_072);
    assert_eq!(value["b_info"]["max_vcpus"], 1);
    assert_eq!(value["c_info"]["name"], "other");
    let from_nothing = run(&["create", "-n", "/dev/null", &GOOD.replace('\n', ";")]);
    assert_eq!(code(&from_nothing), 0, "{}", stderr(&from_nothing));
}

#[test]
fn a_dry_run_looks_at_the_files_and_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good.cfg", GOOD);
    let none = write(folder.path(), "none", "");
    for (setting, wanted) in [
        ("kernel='/no/kernel'", "cannot open /no/kernel: "),
        (
            "kernel='/'",
            "it is a directory, and a regular file is needed",
        ),
        (
            &format!("kernel='{good}'"),
            "neither an ELF image nor a bzImage",
        ),
        ("ramdisk='/no/ramdisk'", "cannot open /no/ramdisk: "),
        (&format!("ramdisk='{none}'"), "the file is empty"),
        ("memory=1", "1 MiB of memory are too little for this kernel"),
        (
            "memory=4000000000",
            "<command line>:1:8: error: a guest has at most 16777216 MiB of memory",
        ),
        ("maxmem=16777217", "this is 16777217"),
        ("pvshim=1; pvshim_path='/no/shim'", "cannot open /no/shim: "),
    ] {
        let output = run(&["create", "-n", &good, setting]);
        let text = stderr(&output);
        assert_eq!(
            (code(&output), stdout(&output).as_str()),
            (1, ""),
            "{setting}: {text}"
        );
        assert!(text.contains(wanted), "{setting}: {text}");
    }
    // A guest for xl is not looked at any further.
    let output = run(&[
        "create",
        "-n",
        &good,
        "kernel='/no/kernel'; disk=['/d,qed,xvda']",
    ]);
    assert_eq!(code(&output), 4);
}

/// The `findings` of a JSON error.
fn findings(output: &Output) -> Vec<Value> {
    let value: Value = serde_json::from_str(&stderr(output)).unwrap();
    value["error"]["findings"].as_array().unwrap().clone()
}

#[test]
fn errors_of_a_configuration_are_json_with_fields() {
    let folder = tempfile::tempdir().unwrap();
    let bad = write(
        folder.path(),
        "bad.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = \"2G\"\nvif = [ \"brige=dmz\" ]\n",
    );
    let output = run(&["--json", "create", "-n", &bad]);
    assert_eq!(code(&output), 1);
    let found = findings(&output);
    let memory = found.iter().find(|one| one["key"] == "memory").unwrap();
    assert_eq!(
        (&memory["line"], &memory["column"], &memory["file"]),
        (&3.into(), &10.into(), &bad.as_str().into())
    );
    assert_eq!(memory["suggestion"]["replacement"], "2048");
    assert!(memory["help"].is_string() && memory["code"] == "bad-value");
    assert!(found.iter().any(|one| one["key"] == "vif"));

    // What is found after the configuration was read has its place, too.
    let good = write(folder.path(), "good.cfg", GOOD);
    for (setting, key) in [
        ("kernel='/no/kernel'", "kernel"),
        ("ramdisk='/no/ramdisk'", "ramdisk"),
        ("memory=1", "memory"),
        ("cpus='99999'", "cpus"),
    ] {
        let output = run(&["--json", "create", "-n", &good, setting]);
        let found = findings(&output);
        assert_eq!(found[0]["key"], key, "{setting}");
        assert_eq!(found[0]["line"], 1, "{setting}");
        assert_eq!(found[0]["file"], "<command line>", "{setting}");
    }
    let output = run(&["create", "-n", &good, "memory=1"]);
    let text = stderr(&output);
    assert!(text.contains("<command line>:1:8: domain `"), "{text}");
}

#[test]
fn warnings_about_a_configuration_are_json_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    let output = run(&["--json", "create", "-n", &file, "localtme=1"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let value: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(value["warning"]["key"], "localtme");
    assert_eq!(value["warning"]["suggestion"]["replacement"], "localtime");
}

#[test]
fn a_configuration_that_the_kernel_makes_up_is_not_waited_for() {
    let output = run(&["create", "-n", "/proc/kmsg"]);
    assert_eq!(code(&output), 1);
}

#[test]
fn a_bad_configuration_is_shown_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "bad.cfg",
        "name = \"web\"\nmemory = \"lots\nkernel = 1\n",
    );
    let output = run(&["create", "-n", &file]);
    assert_eq!(code(&output), 1);
    let text = stderr(&output);
    assert!(text.contains("bad.cfg:2"), "{text}");
    assert!(!text.lines().any(|line| line.ends_with(' ')), "{text:?}");
    assert!(text.contains('^'), "{text}");
}

#[test]
fn what_cannot_be_done_yet_is_refused_by_name_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "pci.cfg",
        &format!("{GOOD}pci = [ \"01:00.0\" ]\n"),
    );
    let output = run(&["create", "-n", &file]);
    assert_eq!(code(&output), 4);
    let text = stderr(&output);
    assert!(
        text.starts_with(&format!("xyl: error: {file} cannot be used: 1 error\n")),
        "{text}"
    );
    assert!(
        text.ends_with(&format!(
            "use `xl create {file}` for this guest, or take these lines out\n"
        )),
        "{text}"
    );
    let wrong_too = run(&["create", "-n", &file, "vcpus=0"]);
    assert_eq!(
        code(&wrong_too),
        1,
        "another error has to be mended in any case"
    );
    assert!(
        !stderr(&wrong_too).contains("xl create"),
        "and xl would find it too"
    );
    let found = findings(&run(&["--json", "create", "-n", &file]));
    let [pci] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (&pci["key"], &pci["code"]),
        (&json!("pci"), &json!("unsupported"))
    );
    assert_eq!((&pci["file"], &pci["line"]), (&json!(file), &json!(6)));
}

#[test]
fn unknown_settings_are_warned_of_and_obey_q() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "typo.cfg", &format!("{GOOD}memroy = 5\n"));
    let output = run(&["create", "-n", &file]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("memroy"), "{}", stderr(&output));
    assert_eq!(stderr(&run(&["create", "-n", "-q", &file])), "");
}

#[test]
fn a_time_limit_that_is_none_is_named() {
    for value in ["20s", "soon", "0"] {
        let output = xyl(&["list"])
            .env("XYL_STORE_TIMEOUT", value)
            .output()
            .unwrap();
        assert_eq!(code(&output), 2, "{value}");
        let text = stderr(&output);
        assert!(
            text.contains(&format!("XYL_STORE_TIMEOUT={value}")),
            "{text}"
        );
    }
}

#[test]
fn a_variable_that_makes_no_sense_is_named() {
    let list = |variable: &str, value: &str| {
        let output = xyl(&["create", "-n", "/dev/null", &GOOD.replace('\n', ";")])
            .env(variable, value)
            .output()
            .unwrap();
        (code(&output), stderr(&output))
    };
    for value in ["abc", "-1", "1000"] {
        let (code, text) = list("XYL_VERBOSE", value);
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains(&format!("XYL_VERBOSE={value} is no number")),
            "{text}"
        );
    }
    for value in ["", "2", "yes", "off"] {
        let (_, text) = list("XYL_VERBOSE", value);
        assert!(!text.contains("XYL_VERBOSE"), "{text}");
    }
    let (code, text) = list("XYL_XL_CONF", "/no/conf");
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("XYL_XL_CONF names a file") && text.contains("/no/conf"),
        "{text}"
    );
    // It moved the policy and the locks.
    let (code, text) = list("XYL_ROOT", "/somewhere");
    assert_eq!(code, 2, "{text}");
    let (code, text) = list("XYL_HOST", "sim:/proc/no/host");
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("/proc/no") && text.contains("XYL_HOST=sim:FOLDER"),
        "{text}"
    );
}

#[test]
fn nothing_that_is_echoed_drives_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    for arguments in [
        &["\x1b[31mlist"][..],
        &["list", "--\x1b[31mx"],
        &["trigger", "d", "\x1b[31m"],
        &["create", "/no/\x1b[31m.cfg"],
        &["create", "-n", &file, "kernel='/no/\x1b[31m'"],
        &["create", "-n", &file, "memory='\x1b[31m'"],
        &["-N", "create", &file, "a", "\x1b[31m"],
    ] {
        // As on a terminal.
        let output = xyl(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
        assert_ne!(code(&output), 0, "{arguments:?}");
        let text = stderr(&output);
        assert!(!text.contains("\x1b[31m"), "{arguments:?}: {text:?}");
    }
}

#[test]
fn a_sysrq_key_is_one_letter_or_digit() {
    let output = run(&["sysrq", "web", "hh"]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("one letter or digit"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_missing_configuration_is_named() {
    let output = run(&["create", "/nowhere/x.cfg"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("/nowhere/x.cfg"));
}

#[test]
fn a_wrong_xl_conf_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    let conf = write(folder.path(), "xl.conf", "\nmax_grant_frames = \"many\"\n");
    let output = xyl(&["create", "-n", &file])
        .env("XYL_XL_CONF", &conf)
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("xl.conf:2"), "{}", stderr(&output));
}

#[test]
fn completion_completes_commands_options_and_nothing_else() {
    let complete = |words: &[&str]| {
        let mut command = xyl(&["--", "xyl"]);
        command
            .args(words)
            .env("XYL_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.env("_CLAP_IFS", "\n");
        let output = command.output().unwrap();
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
        stdout(&output)
    };
    assert_eq!(complete(&["cr"]).trim(), "create");
    if !is_xen_host() {
        // Names of domains cannot be had here: then there are none, and no error.
        let offered = complete(&["domid", ""]);
        assert!(
            offered.lines().all(|word| word.starts_with('-')),
            "{offered}"
        );
    }
    // Completion offers options only after a word that begins with `-`.
    let folder = tempfile::tempdir().unwrap();
    let begun = format!("{}/", folder.path().display());
    let file = write(folder.path(), "good.cfg", GOOD);
    assert_eq!(complete(&["create", &begun]).trim(), file);
    let files = complete(&["create", ""]);
    assert!(!files.lines().any(|word| word.starts_with('-')), "{files}");
    let options = complete(&["create", "-"]);
    assert!(
        options.lines().all(|word| word.starts_with('-')),
        "{options}"
    );
    assert!(options.lines().any(|word| word == "-q"), "{options}");
    assert!(complete(&["info", "--h"]).contains("--help"));
    assert!(complete(&["list", "--cpu"]).contains("--cpupool"));
    assert!(complete(&["trigger", "d", "nm"]).contains("nmi"));
    assert!(complete(&["info", "free_m"]).contains("free_memory"));
    assert!(complete(&["audit", "--fail-on", "unpr"]).contains("unprotected"));
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("XYL_COMPLETE"), "{shell}");
    }
    // A variable of that name that is not for xyl.
    let output = xyl(&["help"]).env("COMPLETE", "1").output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(code(&run(&["completion", "tcsh"])), 2);
}

#[test]
fn manual_pages_are_made_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["man", folder.path().to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(folder.path().join("xyl.1").exists());
    for command in COMMANDS {
        let page = std::fs::read_to_string(folder.path().join(format!("xyl-{command}.1"))).unwrap();
        assert!(
            page.contains(".SH \"SYNOPSIS\"") && page.contains(".SH \"EXAMPLES\"\n.nf\n"),
            "{command}: {page}"
        );
        assert!(
            page.contains(".SH \"SEE ALSO\"\nxyl(1)"),
            "{command}: {page}"
        );
    }
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let page = std::fs::read_to_string(&path).unwrap();
        check_page(&path, &page);
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(
        read("xyl-create.1").contains("xyl create [OPTIONS] [FILE|KEY=VALUE]...\n"),
        "{}",
        read("xyl-create.1")
    );
    assert!(read("xyl.1").contains(".SH \"EXIT STATUS\""));
    assert!(
        !folder.path().join("xyl-man.1").exists(),
        "hidden commands have no page"
    );
}

/// What every page has to be, whatever is in it.
fn check_page(path: &Path, page: &str) {
    let name = path.display();
    let footer = format!("\"xyl {}\"", env!("CARGO_PKG_VERSION"));
    let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
    assert!(title.contains(&footer), "{name}: {title}");
    let mut headings: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with(".SH"))
        .collect();
    let nr_headings = headings.len();
    headings.sort_unstable();
    headings.dedup();
    assert_eq!(
        headings.len(),
        nr_headings,
        "{name}: a section is there twice"
    );
    assert!(!page.contains("\nJSON: "), "{name}: the heading says so");
    let words = page.replace("\\-", "-");
    let words = words.split(|c: char| !c.is_alphanumeric() && !"-()".contains(c));
    for named in words.filter_map(|word| word.strip_suffix("(1)")) {
        let there = path.with_file_name(format!("{named}.1"));
        assert!(named == "xl" || there.exists(), "{name} names {named}(1)");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.cfg", GOOD);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = xyl(&["create", "-n", &file])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0);
    assert_eq!(stderr(&output), "");
}

#[test]
fn an_error_that_nobody_can_read_still_ends_with_its_code() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = xyl(&["create", "-n", "/no/such.cfg"])
        .stderr(full)
        .output()
        .unwrap();
    assert_eq!(code(&output), code(&run(&["create", "-n", "/no/such.cfg"])));
    assert_ne!(code(&output), 101);
}

#[test]
fn the_documents_list_every_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("## Codes").nth(1).unwrap();
    let listed: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let codes: Vec<&str> = xyl_engine::ErrorCode::ALL
        .iter()
        .map(|code| code.word())
        .collect();
    assert_eq!(listed, codes);
}
