//! What is said about wrong configurations, word by word: `tests/diagnostics/*.txt`. `UPDATE_EXPECT=1 cargo test`
//! writes those texts anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod corpus;

use corpus::{THEMES, completed};
use expect_test::{expect, expect_file};
use xl_cfg::{Source, parse};

fn report(text: &[u8], overrides: &[&str]) -> String {
    let source = Source::from_bytes("guest.cfg", text).unwrap();
    match parse(source, overrides) {
        Ok(config) => config.report().render(false),
        Err(error) => error.report().unwrap().render(false),
    }
}

/// Compares the findings about each of the texts with the file of the theme.
fn check(theme: &str, texts: &[&str]) {
    let mut all = String::new();
    for text in texts {
        let found = report(completed(text).as_bytes(), &[]);
        let found = if found.is_empty() {
            "nothing to say\n"
        } else {
            &found
        };
        all.push_str(&format!("----- {}\n{found}", text.escape_debug()));
    }
    expect_file![format!(
        "{}/tests/diagnostics/{theme}.txt",
        env!("CARGO_MANIFEST_DIR")
    )]
    .assert_eq(&all);
}

#[test]
fn each_theme() {
    for (theme, texts) in THEMES {
        check(theme, texts);
    }
}

/// The same for whole files, byte by byte.
fn check_bytes(theme: &str, files: &[&[u8]]) {
    let all: String = files
        .iter()
        .map(|file| format!("----- {}\n{}", file.escape_ascii(), report(file, &[])))
        .collect();
    expect_file![format!(
        "{}/tests/diagnostics/{theme}.txt",
        env!("CARGO_MANIFEST_DIR")
    )]
    .assert_eq(&all);
}

#[test]
fn whole_files() {
    check_bytes(
        "whole_files",
        &[
            b"",
            b"# only a comment, and no line end",
            b"name = 'web/1'\nkernel = '/k'\nmemory = 64\n",
            b"name = '17'\nkernel = '/k'\nmemory = 64\n",
            b"name = 'g'\nkernel = '/k'\n",
            b"name = 'g'\ntype = 'pvh'\nmemory = 64\n",
            b"name = 'g'\ntype = 'hvm'\nmemory = 64\ncmdline = 'x'\n",
            b"import os\narch = os.uname()[4]\nname = 'a' + 'b'\ndef f(x):\n    return x\n",
        ],
    );
}

#[test]
fn encodings() {
    check_bytes(
        "encodings",
        &[
            b"name = 'g'\r\nkernel = '/k'\r\nmemory = 64\r\n",
            b"\xef\xbb\xbfname = 'g'\nkernel = '/k'\nmemory = 64\n",
            b"name = 'g\xe4'\nkernel = '/k'\nmemory = 64 # \xe4 does no harm here\n",
            b"name = 'g'\0\nkernel = '/\0k'\nmemory = 64\n",
            b"n\0a\0m\0e\0 \0=\0",
            b"\xff\xfen\0a\0m\0e\0",
            b"\x1f\x8b\x08\0\0\0\0\0\n\0\0",
            b"  {\n  \"name\": \"g\"\n}\n",
            b"<domain type='xen'>\n  <name>g</name>\n</domain>\n",
            b"name = 'g'\rkernel = '/k'\n",
            "name = '\u{7f}g'; kernel = '\u{9b}2J\u{202e}x'; x = y\n".as_bytes(),
            "name = '日本語'; memory = 'ミ'; kernel = '/k'\n".as_bytes(),
        ],
    );
}

#[test]
fn the_command_line() {
    let text = b"name = 'g'\nkernel = '/k'\nmemory = 64\nvif = [ '' ]\n";
    expect![[""]].assert_eq(&report(text, &["memory=128", "vcpus=2; maxvcpus=2"]));
    expect![[r#"
        <command line>:2:8: error: `memory` wants a number of MiB, not `lots`
          2 | memory='lots'; vif+=['mac=x']
            |        ^^^^^^
            = help: 512 means 512 MiB
        <command line>:2:27: error: `x` is no hardware address
          2 | memory='lots'; vif+=['mac=x']
            |                           ^
            = help: write six bytes, as in `mac=00:16:3e:00:00:01`
    "#]]
    .assert_eq(&report(text, &["vcpus=2", "memory='lots'; vif+=['mac=x']"]));
    expect![[r#"
        <command line>:2:1: warning: `memory` is set again; this one counts
          2 | memory=256
            | ^^^^^^
            = note: <command line>:1:1: set here first, without effect
            = help: take one of them out
    "#]]
    .assert_eq(&report(text, &["memory=128", "memory=256"]));
    expect![[r#"
        <command line>:1:5: error: this `[` is never closed
          1 | vif=['a'
            |     ^
            = note: <command line>:2:1: the list would have to end before `vcpus`
            = help: put a `]` behind the last item
    "#]]
    .assert_eq(&report(text, &["vif=['a'", "vcpus=1"]));
    expect![[r#"
        guest.cfg:1:8: error: this `[` is never closed
          1 | name = [ 'g'
            |        ^
            = note: guest.cfg:2:1: the list would have to end before the end of the file
            = help: put a `]` behind the last item
        <command line>:1:9: error: unexpected `]` after the value of `vcpus`
          1 | vcpus=1 ]
            |         ^
            = help: one setting a line, or a `;` between settings
    "#]]
    .assert_eq(&report(b"name = [ 'g'\n", &["vcpus=1 ]"]));
    expect![[r#"
        <command line>:1:6: error: expected a value, found the name `zz`
          1 | name=zz
            |      ^^
            = help: write 'name="zz"' with both kinds of quotes: the shell takes the outer ones away
    "#]]
    .assert_eq(&report(text, &["name=zz"]));
    expect![[r#"
        <command line>:1:8: error: `/boot/k` has to be quoted
          1 | kernel=/boot/k
            |        ^^^^^^^
            = help: write 'kernel="/boot/k"' with both kinds of quotes: the shell takes the outer ones away
    "#]].assert_eq(&report(text, &["kernel=/boot/k"]));
    expect![[r#"
        <command line>:1:15: error: expected a value, found the name `zz`
          1 | vcpus=2; name=zz
            |               ^^
            = help: write `"zz"`, and single quotes around it all: the shell takes those away
    "#]]
    .assert_eq(&report(text, &["vcpus=2; name=zz"]));
}

#[test]
fn long_lines_are_cut() {
    let long = format!("extra = '{}' x", "a".repeat(300));
    let longer = format!(
        "extra = 'a'; disk = [ '{}' ]; vif = [ '' ]",
        "b".repeat(300)
    );
    check("long_lines", &[&long, &longer]);
}

#[test]
fn colours() {
    let source = Source::from_bytes("guest.cfg", b"memory = 'lots'").unwrap();
    let error = parse::<&str>(source, &[]).unwrap_err();
    let colored = error.report().unwrap().render(true).replace('\x1b', "^");
    expect![[r#"
        ^[1mguest.cfg:^[0m ^[1;31merror:^[0m the domain has no name
          ^[1;34m=^[0m ^[1mhelp:^[0m give it one, as in `name = "guest"`
        ^[1mguest.cfg:^[0m ^[1;31merror:^[0m there is no `kernel`: the guest has nothing to boot
          ^[1;34m=^[0m ^[1mhelp:^[0m name one, as in `kernel = "/boot/vmlinuz"`; a PV guest with a kernel on its own disk has `firmware = "pvgrub64"` instead
        ^[1mguest.cfg:1:10:^[0m ^[1;31merror:^[0m `memory` wants a number of MiB, not `lots`
          ^[1;34m1^[0m ^[1;34m|^[0m memory = 'lots'
            ^[1;34m|^[0m          ^[1;31m^^^^^^^[0m
            ^[1;34m=^[0m ^[1mhelp:^[0m 512 means 512 MiB
    "#]].assert_eq(&colored);
}

#[test]
fn json() {
    let text = b"name = 'g'\nkernel = '/k'\nmemory = 64\nmemory = 'lots'\n";
    let error = parse::<&str>(Source::from_bytes("guest.cfg", text).unwrap(), &[]).unwrap_err();
    let json = serde_json::to_string_pretty(error.report().unwrap()).unwrap();
    expect![[r#"
        [
          {
            "severity": "warning",
            "code": "duplicate",
            "file": "guest.cfg",
            "line": 4,
            "column": 1,
            "length": 6,
            "key": "memory",
            "message": "`memory` is set again; this one counts",
            "notes": [
              {
                "at": "guest.cfg:3:1",
                "text": "set here first, without effect"
              }
            ],
            "help": "take one of them out",
            "suggestion": {
              "file": "guest.cfg",
              "line": 3,
              "column": 1,
              "length": 11,
              "replacement": ""
            }
          },
          {
            "severity": "error",
            "code": "bad-value",
            "file": "guest.cfg",
            "line": 4,
            "column": 10,
            "length": 6,
            "key": "memory",
            "message": "`memory` wants a number of MiB, not `lots`",
            "help": "512 means 512 MiB"
          }
        ]"#]]
    .assert_eq(&json);
}

#[test]
fn too_many_findings_are_counted() {
    let text = "x = y\n".repeat(1000);
    let rendered = report(text.as_bytes(), &[]);
    assert!(
        rendered.ends_with("guest.cfg: and 900 more like these\n"),
        "{rendered}"
    );
}
