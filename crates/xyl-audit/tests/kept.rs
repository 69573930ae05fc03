//! Facts are gathered once for each boot of the host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;

use os_port::Files;
use os_port::mem::{Life, MemFiles};
use xen_port::{Errno, Hypervisor, VersionInfo};
use xen_sim::model::Model;
use xyl_audit::Facts;
use xyl_audit::audit::CoreSharing;
use xyl_audit::facts::{BOOT_LOG, Known, StoreDaemon};
use xyl_audit::{Family, GuestType, Standing};

const RUN: &str = "/run/xyl";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOG: &str = include_str!("samples/4.21.1-amd-zen3.txt");

fn of_this_boot(model: &Model, files: &dyn Files) -> Facts {
    let physical = model.phys_info().unwrap();
    Facts::of_this_boot(model, files, Path::new(RUN), &physical)
}

fn host(command_line: &str) -> Model {
    let model = Model::new(64);
    set_command_line(&model, command_line);
    LOG.lines().for_each(|line| model.log(line));
    model
}

fn set_command_line(model: &Model, command_line: &str) {
    model.set_version(VersionInfo {
        major: 4,
        minor: 21,
        extra: ".1".to_owned(),
        compiler: String::new(),
        compile_by: String::new(),
        compile_domain: String::new(),
        compile_date: String::new(),
        capabilities: "xen-3.0-x86_64 hvm-3.0-x86_64".to_owned(),
        changeset: String::new(),
        command_line: command_line.to_owned(),
        build_id: String::new(),
        page_size_bytes: 4096,
        virt_start: 0,
    });
}

#[test]
fn facts_are_gathered_once_for_each_boot() {
    let files = MemFiles::new();
    let (run, process) = (Path::new(RUN), files.of(&Life::new(1)));
    files.put(Path::new(BOOT_ID), b"first\n");
    let model = host("smt=0");
    let line = |facts: Facts| facts.xen.command_line;

    assert_eq!(line(of_this_boot(&model, &process)), "smt=0");
    set_command_line(&model, "smt=1");
    assert_eq!(line(of_this_boot(&model, &process)), "smt=0");
    assert_eq!(line(Facts::renew(&model, &process, run)), "smt=1");
    assert_eq!(line(of_this_boot(&model, &process)), "smt=1");

    files.put(Path::new(BOOT_ID), b"second\n");
    set_command_line(&model, "smt=2");
    assert_eq!(line(of_this_boot(&model, &process)), "smt=2");

    // What somebody has damaged, or another version of Xyl has written, is not believed.
    for rubbish in ["", "{", "{\"format\": 0, \"boot_id\": \"second\"}"] {
        files.put(&run.join("host-facts.json"), rubbish.as_bytes());
        assert_eq!(line(of_this_boot(&model, &process)), "smt=2", "{rubbish}");
    }
}

#[test]
fn a_host_without_a_boot_id_keeps_nothing() {
    let files = MemFiles::new();
    let process = files.of(&Life::new(1));
    let model = host("a");
    assert_eq!(of_this_boot(&model, &process).xen.command_line, "a");
    set_command_line(&model, "b");
    assert_eq!(of_this_boot(&model, &process).xen.command_line, "b");
}

#[test]
fn threads_that_come_and_go_are_seen_in_kept_facts() {
    let files = MemFiles::new();
    let process = files.of(&Life::new(1));
    files.put(Path::new(BOOT_ID), b"first\n");
    let model = host("a");
    let mut physical = model.phys_info().unwrap();
    let facts = Facts::of_this_boot(&model, &process, Path::new(RUN), &physical);
    assert_eq!(facts.core_sharing(), CoreSharing::No);

    // As kept from a moment when threads of a core were online.
    let path = Path::new(RUN).join("host-facts.json");
    let kept = String::from_utf8(process.read(&path, 1 << 20).unwrap()).unwrap();
    let other = kept.replace("\"has_siblings\":false", "\"has_siblings\":true");
    assert_ne!(kept, other);
    files.put(&path, other.as_bytes());
    let facts = Facts::of_this_boot(&model, &process, Path::new(RUN), &physical);
    assert_eq!(
        facts.core_sharing(),
        CoreSharing::Yes,
        "nothing has changed"
    );

    physical.nr_cpus += 1;
    set_command_line(&model, "b");
    let facts = Facts::of_this_boot(&model, &process, Path::new(RUN), &physical);
    assert_eq!(facts.core_sharing(), CoreSharing::No, "looked at anew");
    assert_eq!(facts.xen.command_line, "a", "the rest is as it was kept");
    let kept = Facts::kept(&process, Path::new(RUN)).unwrap();
    assert_eq!(kept.abilities.unwrap().nr_cpus, physical.nr_cpus);
}

#[test]
fn facts_with_a_hole_that_will_close_are_not_kept() {
    let files = MemFiles::new();
    let process = files.of(&Life::new(1));
    files.put(Path::new(BOOT_ID), b"first\n");
    let model = host("a");
    let physical = model.phys_info().unwrap();
    model.fail_at(0, Errno::ENOMEM);
    let facts = Facts::of_this_boot(&model, &process, Path::new(RUN), &physical);
    assert_eq!(facts.xen.version, None);
    assert!(facts.missing.join("\n").contains("Xen's version"));
    assert_eq!(Facts::kept(&process, Path::new(RUN)), None);
    assert_eq!(of_this_boot(&model, &process).xen.version, Some((4, 21)));
}

#[test]
fn sources_that_do_not_answer_are_named_and_the_others_count() {
    let files = MemFiles::new();
    let process = files.of(&Life::new(1));
    let facts = Facts::gather(&host(""), &process);
    // The model has no CPU policy of the host, and its domain 0 no kernel with an opinion.
    let missing = facts.missing.join("\n");
    assert!(
        missing.contains("CPU policy") && missing.contains("featureset"),
        "{missing}"
    );
    assert_eq!(facts.feature("IBPB"), Known::Yes(BOOT_LOG));
    assert_eq!(facts.cpu.as_ref().unwrap().source, BOOT_LOG);
    let audit = xyl_audit::verdicts::audit(&facts);
    assert_eq!(
        audit.standing(GuestType::Pvh, Family::V3, None),
        Standing::NotAffected
    );
}

#[test]
fn the_program_that_serves_xenstore_is_told_by_roots_processes() {
    const ROOT: &str = "Name:\ta\nUid:\t0\t0\t0\t0\n";
    const USER: &str = "Name:\ta\nUid:\t1000\t0\t0\t0\n";
    /// The name and the status of a process.
    type Process = (&'static str, &'static str);
    let cases: [(&[Process], Option<StoreDaemon>); 6] = [
        (&[("xenstored", ROOT)], Some(StoreDaemon::C)),
        (&[("oxenstored", ROOT)], Some(StoreDaemon::Ocaml)),
        (&[("oxenstored", USER)], None),
        (
            &[("xenstored", ROOT), ("oxenstored", USER)],
            Some(StoreDaemon::C),
        ),
        (&[("xenstored", ROOT), ("oxenstored", ROOT)], None),
        (&[("bash", ROOT)], None),
    ];
    for (processes, expected) in cases {
        let files = MemFiles::new();
        for (pid, (name, status)) in (100..).zip(processes) {
            let folder = Path::new("/proc").join(pid.to_string());
            files.put(&folder.join("comm"), format!("{name}\n").as_bytes());
            files.put(&folder.join("status"), status.as_bytes());
        }
        let facts = Facts::gather(&host(""), &files.of(&Life::new(1)));
        let daemon = facts.xenstored.map(|daemon| daemon.value);
        assert_eq!(daemon, expected, "{processes:?}");
    }
}
