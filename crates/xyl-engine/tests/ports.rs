//! The engine reaches the operating system by its ports alone, so that a simulated world can stand behind all of it.
//!
//! `src/lib.rs` is left out: it names the real ports. Tests within the sources are left out too.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

/// Ways past the ports.
const PAST_THE_PORTS: [&str; 16] = [
    "std::fs",
    "std::net",
    "std::os::fd",
    "std::os::unix::net",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "rustix",
    "libc",
    "SystemFiles",
    "SystemClock",
    "SystemProcess",
    "SystemSpawn",
    "SystemLinks",
];

/// Modules that may use some of them, and why.
const EXCEPTIONS: [(&str, &[&str], &str); 6] = [
    (
        "host/unpack.rs",
        &["std::fs", "SystemFiles", "Instant::now"],
        "kernels are read by xen-image from the real disk, in a child of the real system",
    ),
    (
        "host/saved_image.rs",
        &["std::fs"],
        "a saved image is an open file, which a child of the real system reads",
    ),
    (
        "operation/create/restore.rs",
        &["std::fs"],
        "a saved guest is an open file, which a child of the real system reads",
    ),
    (
        "host/timezone.rs",
        &["std::fs", "std::env"],
        "the time zone decides nothing about a VM",
    ),
    (
        "host/dom0.rs",
        &["SystemClock", "SystemSpawn"],
        "`Kernel::below` names the real ports",
    ),
    (
        "host/events.rs",
        &["std::os::fd"],
        "the descriptor of xenstore's connection is handed to the clock",
    ),
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The code of a module without comments and without its tests.
fn code_of(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap();
    let lines = before_tests.lines();
    let code: Vec<&str> = lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    code.join("\n")
}

/// Whether `word` stands in the code as a word of its own.
fn uses(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[test]
fn the_engine_uses_the_system_by_its_ports_alone() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(&source).unwrap().to_str().unwrap();
        if name == "lib.rs" || name == "testing.rs" || name.ends_with("tests.rs") {
            continue;
        }
        let code = code_of(&std::fs::read_to_string(&file).unwrap());
        let mut exceptions = EXCEPTIONS.iter().filter(|(module, ..)| *module == name);
        let allowed = exceptions.next().map_or(&[][..], |(_, words, _)| words);
        let words = PAST_THE_PORTS.iter().filter(|word| uses(&code, word));
        let wrong = words.filter(|word| !allowed.contains(word));
        found.extend(wrong.map(|word| format!("{name} uses {word}")));
        // What is no longer needed is no longer allowed.
        let stale = allowed.iter().filter(|word| !uses(&code, word));
        found.extend(stale.map(|word| format!("{name} no longer uses {word}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}
