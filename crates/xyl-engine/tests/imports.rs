//! The modules of the engine import each other in one direction only: a lower folder never uses a higher one, and no two modules
//! use each other, not even through others.
//!
//! `src/lib.rs` is left out: it names all folders, and defines `Host`, which every module uses.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folders, lowest first. A module may use its own folder and those before it.
const ORDER: [&str; 13] = [
    "error",
    "notice",
    "cancel",
    "host",
    "vm",
    "device_model",
    "device",
    "config",
    "control",
    "operation",
    "supervise",
    "recover",
    "report",
];

/// What `src/lib.rs` exports under a shorter name, and the module that it stands in.
const EXPORTED: [(&str, &str); 6] = [
    ("Cancel", "cancel"),
    ("Dirs", "host::dirs"),
    ("EngineError", "error"),
    ("Notice", "notice"),
    ("RequestError", "error"),
    ("VmGuard", "vm::lock"),
];

type Graph = BTreeMap<String, BTreeSet<String>>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below a folder.
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

/// The module that a file is, `vm::lock` for `vm/lock.rs`.
fn module_of(file: &Path) -> String {
    let path = file.strip_prefix(source()).unwrap().with_extension("");
    let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    let parts = match parts.as_slice() {
        [folder @ .., "mod"] => folder,
        all => all,
    };
    parts.join("::")
}

/// A file's code without comments and without the tests at its end.
fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a text starting behind `crate::` names: one, or those in braces.
fn paths_of(text: &str) -> Vec<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    if !rest.starts_with('{') {
        return vec![head.to_owned()];
    }
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in rest.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match (c, depth) {
            (_, 0) => break,
            ('{', 1) => {}
            (',', 1) => items.push(String::new()),
            _ => items.last_mut().unwrap().push(c),
        }
    }
    let nested = items.iter().flat_map(|item| paths_of(item.trim()));
    nested.map(|path| format!("{head}{path}")).collect()
}

/// The module that a path lies in.
fn target(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| *part != "self").collect();
    let exported = EXPORTED
        .iter()
        .find(|(name, _)| parts.first() == Some(name));
    if let Some((_, module)) = exported {
        return Some((*module).to_owned());
    }
    while !parts.is_empty() {
        let module = parts.join("::");
        if modules.contains(&module) {
            return Some(module);
        }
        parts.pop();
    }
    None
}

/// Which module uses which. What a module uses of its own folder's `mod.rs` is left out: that file lists and joins the folder's modules.
fn imports() -> Graph {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let is_tests =
        |module: &str| module.ends_with("tests") || module == "testing" || module == "lib";
    files.retain(|file| !is_tests(&module_of(file)));
    let modules: BTreeSet<String> = files.iter().map(|file| module_of(file)).collect();
    let mut graph = Graph::new();
    for file in &files {
        let module = module_of(file);
        let code = code_of(file);
        let named = code.split("crate::").skip(1).flat_map(paths_of);
        let used = named.filter_map(|path| target(&path, &modules));
        let parent = module
            .rsplit_once("::")
            .map(|(parent, _)| parent.to_owned());
        let used = used.filter(|used| *used != module && Some(used) != parent.as_ref());
        let used = used.collect();
        graph.insert(module, used);
    }
    graph
}

fn folder(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn rank(module: &str) -> usize {
    let place = ORDER.iter().position(|known| *known == folder(module));
    place.unwrap_or_else(|| panic!("the folder of `{module}` has no place in ORDER"))
}

#[test]
fn no_folder_uses_a_higher_one() {
    let graph = imports();
    let upward: Vec<String> = graph
        .iter()
        .flat_map(|(module, used)| used.iter().map(move |used| (module, used)))
        .filter(|(module, used)| rank(used) > rank(module))
        .map(|(module, used)| format!("{module} uses {used}"))
        .collect();
    assert!(upward.is_empty(), "upward imports: {upward:#?}");
}

#[test]
fn no_modules_use_each_other() {
    let graph = imports();
    let circles: Vec<&String> = graph
        .keys()
        .filter(|module| reaches_itself(&graph, module))
        .collect();
    assert!(circles.is_empty(), "modules in circles: {circles:#?}");
}

/// Whether a chain of imports leads from a module back to it.
fn reaches_itself(graph: &Graph, module: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut left: Vec<&String> = graph.get(module).into_iter().flatten().collect();
    while let Some(next) = left.pop() {
        if next == module {
            return true;
        }
        if seen.insert(next) {
            left.extend(graph.get(next).into_iter().flatten());
        }
    }
    false
}

#[test]
fn braces_are_read() {
    assert_eq!(
        paths_of("vm::{self, lock::{A, B}, names};\nx"),
        ["vm::self", "vm::lock::A", "vm::lock::B", "vm::names"]
    );
    assert_eq!(paths_of("error::EngineError;"), ["error::EngineError"]);
}
