//! `xyl check-image` as a user meets it. The file is a small image, built byte by byte.
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

const JSON: &str =
    r#"{"c_info": {"type": "pvh", "name": "web"}, "b_info": {"max_vcpus": 2, "max_memkb": 32768}}"#;

fn record(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [words(&[code, body.len() as u32]), body.to_vec()].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// An image of a PVH guest with two pages and one vCPU.
fn image() -> Vec<u8> {
    let config = [JSON.as_bytes(), b"\0"].concat();
    let length = config.len() as u32;
    let context = [
        &words(&[1, 24, 0x5438_1286, 1, 0, 0, 0, 0])[..],
        &words(&[2, 8, 7, 7]),
        &words(&[0, 0]),
    ];
    let pages = [
        &words(&[3, 0])[..],
        &longs(&[0, 1, 0xf << 60 | 2]),
        &[1; 8192],
    ];
    [
        b"Xen saved domain, xl format\n \0 \r".to_vec(),
        words(&[0x0102_0304, 3, 0, 4 + length, length]),
        config,
        b"LibxlFmt\0\0\0\x02\0\0\0\0".to_vec(),
        record(1, &[]),
        b"\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\x03\0\0\0\0\0\0\0\0".to_vec(),
        words(&[2, 12, 4, 17]),
        record(0x10, &[]),
        record(1, &pages.concat()),
        record(9, &context.concat()),
        record(10, &[words(&[1, 0]), longs(&[1, 2])].concat()),
        record(0, &[]),
        record(0, &[]),
    ]
    .concat()
}

fn check(file: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xyl"));
    command.arg("check-image").arg(file).args(more);
    command.stdin(Stdio::null()).env_remove("XYL_JSON");
    command.output().unwrap()
}

fn check_bytes(bytes: &[u8], more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.save");
    std::fs::write(&file, bytes).unwrap();
    check(&file, more)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_whole_image_is_described() {
    let bytes = image();
    let output = check_bytes(&bytes, &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = json!({
        "whole": true, "damage": null, "bytes": bytes.len(), "bytes_after_end": 0,
        "name": "web", "type": "pvh", "config": "json", "xen": "4.17", "version": 3,
        "memory_max_kib": 32768, "memory_kib": 8, "vcpus_max": 2, "vcpus": 1,
        "pages": {"data": 2, "tables": 0, "allocate": 0, "absent": 1, "broken": 0, "verified": 0},
        "qemu_bytes": null, "skipped_records": 0,
    });
    assert_eq!(json_of(&output), expected);
    let text = String::from_utf8(check_bytes(&bytes, &[]).stdout).unwrap();
    for line in [
        "name            : web",
        "type            : pvh",
        "saved by        : Xen 4.17",
        "vCPUs           : 1, at most 2",
        "data pages      : 2",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let bytes = image();
    let cut = check_bytes(&bytes[..bytes.len() - 20], &["--json"]);
    assert_eq!(cut.status.code(), Some(3));
    let value = json_of(&cut);
    assert_eq!(value["whole"], false);
    assert_eq!(value["bytes"], bytes.len() - 20);
    assert!(value["damage"]["offset"].as_u64().unwrap() > 8192);
    // What was read before the damage is there.
    assert_eq!(
        (&value["name"], &value["pages"]["data"]),
        (&json!("web"), &json!(2))
    );
    let other = check_bytes(b"#!/bin/sh\n", &["--json"]);
    assert_eq!(other.status.code(), Some(3));
    assert_eq!(json_of(&other)["damage"]["offset"], 0);
}

#[test]
fn bytes_behind_the_end_are_counted() {
    let output = check_bytes(&[image(), vec![0; 100]].concat(), &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(json_of(&output)["bytes_after_end"], 100);
}

#[test]
fn what_is_no_file_is_refused() {
    for path in ["/no/such.save", "/", "/dev/null"] {
        let output = check(Path::new(path), &["--json"]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["code"], "io", "{path}");
    }
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert_eq!(check(&pipe, &[]).status.code(), Some(1));
}

#[test]
fn its_name_leaves_prefixes_of_xl_alone() {
    let run = |word: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xyl"));
        String::from_utf8(command.args([word, "--help"]).output().unwrap().stdout).unwrap()
    };
    assert!(run("ch").contains("Usage: xyl channel-list"));
    let help = run("check");
    assert!(help.contains("Usage: xyl check-image"), "{help}");
    assert!(help.contains("Examples:"), "{help}");
}
