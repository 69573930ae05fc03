//! Facts are gathered once for each boot of the host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;

use os_port::mem::{Life, MemFiles};
use xen_build::model::Model;
use xen_port::VersionInfo;
use xyl_audit::Facts;
use xyl_audit::facts::{BOOT_LOG, Known};
use xyl_audit::{Family, GuestType, Standing};

const RUN: &str = "/run/xyl";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOG: &str = include_str!("samples/4.21.1-amd-zen3.txt");

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

    assert_eq!(line(Facts::of_this_boot(&model, &process, run)), "smt=0");
    set_command_line(&model, "smt=1");
    assert_eq!(line(Facts::of_this_boot(&model, &process, run)), "smt=0");
    assert_eq!(line(Facts::renew(&model, &process, run)), "smt=1");
    assert_eq!(line(Facts::of_this_boot(&model, &process, run)), "smt=1");

    files.put(Path::new(BOOT_ID), b"second\n");
    set_command_line(&model, "smt=2");
    assert_eq!(line(Facts::of_this_boot(&model, &process, run)), "smt=2");

    // What somebody has damaged, or another version of Xyl has written, is not believed.
    for rubbish in ["", "{", "{\"format\": 0, \"boot_id\": \"second\"}"] {
        files.put(&run.join("host-facts.json"), rubbish.as_bytes());
        assert_eq!(
            line(Facts::of_this_boot(&model, &process, run)),
            "smt=2",
            "{rubbish}"
        );
    }
}

#[test]
fn a_host_without_a_boot_id_keeps_nothing() {
    let files = MemFiles::new();
    let (run, process) = (Path::new(RUN), files.of(&Life::new(1)));
    let model = host("a");
    assert_eq!(
        Facts::of_this_boot(&model, &process, run).xen.command_line,
        "a"
    );
    set_command_line(&model, "b");
    assert_eq!(
        Facts::of_this_boot(&model, &process, run).xen.command_line,
        "b"
    );
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
