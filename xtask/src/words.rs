//! Tests that find doc comments which a reader does not understand at once.
//!
//! They read the `.rs` files of `crates/`, `xtask/` and `guest/` without their `tests` and `target` folders.
//!
//! A doc comment needs three words. Two kinds of shorter comments are allowed:
//!
//! - fields and variants in `crates/xen-abi`, because there the names of Xen's C headers speak for themselves;
//! - fields with `#[arg(...)]` in `crates/xyl/src`, because clap prints the comment as a help text.
//!
//! A doc comment starts with a noun phrase or a verb, so not with a word of [`BEGINNINGS`]. It has no word of
//! [`FORBIDDEN`], except as code in backticks. [`NOT_YET_DONE`] lists the folders and files with old comments. An entry
//! must be removed when its comments are rewritten.

use crate::places;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the project whose files the test reads.
const FOLDERS: [&str; 3] = ["crates", "xtask", "guest"];
/// Names of folders that the test skips.
const SKIPPED: [&str; 2] = ["tests", "target"];
/// Number of words that a doc comment needs.
const WORDS_MIN: usize = 3;
/// Words that start a clause, at the start of a comment. `Whether` is allowed: it starts the comments of truth values.
const BEGINNINGS: [&str; 8] = [
    "What", "Where", "How", "Who", "Whom", "Whose", "Why", "When",
];
/// Words that name no process, file or type, so that a reader has to guess which one is meant.
const FORBIDDEN: [&str; 10] = [
    "brake", "heir", "heirs", "nobody", "somebody", "tells", "told", "utter", "uttered", "whoever",
];
/// Folders and files with comments that are still to be rewritten. This list only gets shorter.
const NOT_YET_DONE: [&str; 1] = ["crates/xyl-engine/src/device/mod.rs"];
/// First words of a line that declares an item, after `pub` and its like.
const ITEMS: [&str; 12] = [
    "fn",
    "struct",
    "enum",
    "union",
    "trait",
    "type",
    "const",
    "static",
    "mod",
    "impl",
    "macro_rules!",
    "unsafe",
];

/// A doc comment with the attributes and the code line that follow it.
#[derive(Debug, PartialEq, Eq)]
struct Comment {
    /// Line number of its first line, from 1.
    line: usize,
    /// Text of all its lines, without the markers.
    text: String,
    /// The attributes behind it.
    attributes: Vec<String>,
    /// The first line behind it that is no attribute.
    code: String,
}

#[test]
fn each_doc_comment_has_three_words() {
    let found =
        find_comments(|path, comment| is_too_short(path, comment).then(|| comment.text.clone()));
    assert!(
        found.is_empty(),
        "these doc comments have fewer than {WORDS_MIN} words:\n{}",
        lines(&found)
    );
}

#[test]
fn doc_comments_have_plain_words() {
    let found = find_comments(|_, comment| unclear_word(&comment.text));
    let is_listed = |path: &Path| NOT_YET_DONE.iter().any(|entry| path.starts_with(entry));
    let (old, new): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| is_listed(&one.path));
    assert!(
        new.is_empty(),
        "these doc comments start with a clause or have a forbidden word (see xtask/src/words.rs):\n{}",
        lines(&new)
    );
    for entry in NOT_YET_DONE {
        assert!(
            old.iter().any(|one| one.path.starts_with(entry)),
            "{entry} has no old comment any more: remove it from NOT_YET_DONE"
        );
    }
}

#[test]
fn unclear_words_are_found() {
    assert_eq!(unclear_word("What was found."), Some("What".to_owned()));
    assert_eq!(
        unclear_word("The lock of whoever works."),
        Some("whoever".to_owned())
    );
    assert_eq!(
        unclear_word("Told of it: an heir."),
        Some("Told".to_owned())
    );
    assert_eq!(unclear_word("Whether it is what `told` was."), None);
    assert_eq!(unclear_word("Whatever it holds is their own."), None);
}

#[test]
fn short_comments_are_found() {
    let source = "//! One two.\n\n/// The\n/// same.\n#[arg(\n    long\n)]\n#[x]\npub a: u32,\n//// no doc\n/// One two three.\nb";
    let found = comments(source);
    let lines: Vec<usize> = found.iter().map(|comment| comment.line).collect();
    assert_eq!(lines, [1, 3, 11]);
    assert_eq!(found[1].text, "The same.");
    assert_eq!(found[1].attributes, ["#[arg(", "#[x]"]);
    assert_eq!(found[1].code, "pub a: u32,");
    let is_short = |path: &str| {
        let path = Path::new(path);
        found
            .iter()
            .map(|comment| is_too_short(path, comment))
            .collect::<Vec<_>>()
    };
    assert_eq!(is_short("crates/xl-cfg/src/a.rs"), [true, true, false]);
    assert_eq!(is_short("crates/xyl/src/cli.rs"), [true, false, false]);
    assert_eq!(is_short("crates/xen-abi/src/a.rs"), [true, false, false]);
}

/// A comment that a test does not accept.
struct Finding {
    /// Path of the file, from the project's folder.
    path: PathBuf,
    /// Line number of the comment.
    line: usize,
    /// The part that is not accepted.
    part: String,
}

/// Returns the comments of all sources for which `check` returns a part that is not accepted.
fn find_comments(check: impl Fn(&Path, &Comment) -> Option<String>) -> Vec<Finding> {
    let root = places::workspace();
    let mut files = Vec::new();
    for folder in FOLDERS {
        find_sources(&root.join(folder), &mut files);
    }
    files.sort();
    assert!(files.len() > 100, "{} files", files.len());
    let mut found = Vec::new();
    for file in &files {
        let source = fs::read_to_string(file).unwrap();
        let path = file.strip_prefix(&root).unwrap();
        for comment in comments(&source) {
            found.extend(check(path, &comment).map(|part| Finding {
                path: path.to_owned(),
                line: comment.line,
                part,
            }));
        }
    }
    found
}

/// One line for each finding.
fn lines(found: &[Finding]) -> String {
    let line = |one: &Finding| format!("{}:{}: {}", one.path.display(), one.line, one.part);
    found.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The first word of a comment that starts a clause or is forbidden. Code in backticks does not count.
fn unclear_word(text: &str) -> Option<String> {
    let prose: Vec<&str> = text.split('`').step_by(2).collect();
    let prose = prose.join(" code ");
    let mut words = prose
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    let is_beginning = |word: &&str| BEGINNINGS.contains(word);
    let is_forbidden = |word: &&str| FORBIDDEN.contains(&word.to_lowercase().as_str());
    let first = words.next()?;
    let found = is_beginning(&first).then_some(first);
    let found = found.or_else(|| std::iter::once(first).chain(words).find(is_forbidden));
    found.map(str::to_owned)
}

/// Adds all sources below a folder.
fn find_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() {
            if name.is_none_or(|name| !SKIPPED.contains(&name)) {
                find_sources(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The doc comments of a source, in its order.
fn comments(source: &str) -> Vec<Comment> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let Some(marker) = marker(line) else {
            at += 1;
            continue;
        };
        let run = &lines[at..];
        let run = &run[..run
            .iter()
            .take_while(|line| has_marker(line, marker))
            .count()];
        let text: Vec<&str> = run.iter().map(|line| line[marker.len()..].trim()).collect();
        let (attributes, code) = after(&lines[at + run.len()..]);
        found.push(Comment {
            line: at + 1,
            text: text.join(" ").trim().to_owned(),
            attributes,
            code,
        });
        at += run.len();
    }
    found
}

/// The marker of a doc comment, if the line is one.
fn marker(line: &str) -> Option<&'static str> {
    ["///", "//!"]
        .into_iter()
        .find(|marker| has_marker(line, marker))
}

fn has_marker(line: &str, marker: &str) -> bool {
    line.starts_with(marker) && !line.starts_with("////")
}

/// The first lines of the attributes at the start of `lines`, and the line behind them.
fn after(lines: &[&str]) -> (Vec<String>, String) {
    let mut attributes = Vec::new();
    let mut depth = 0;
    for line in lines {
        if depth == 0 && !line.starts_with("#[") {
            return (attributes, (*line).to_owned());
        }
        if depth == 0 {
            attributes.push((*line).to_owned());
        }
        depth += line.matches('[').count();
        depth = depth.saturating_sub(line.matches(']').count());
    }
    (attributes, String::new())
}

/// Whether a comment has too few words and is not of an allowed kind.
fn is_too_short(path: &Path, comment: &Comment) -> bool {
    let is_word = |word: &&str| word.chars().any(char::is_alphanumeric);
    let nr_words = comment.text.split_whitespace().filter(is_word).count();
    let is_allowed = if path.starts_with("crates/xen-abi") {
        is_field_or_variant(&comment.code)
    } else if path.starts_with("crates/xyl/src") {
        let is_argument = |line: &String| line.starts_with("#[arg(");
        comment.attributes.iter().any(is_argument)
    } else {
        false
    };
    nr_words < WORDS_MIN && !is_allowed
}

/// Whether a line of code declares no item of its own: a field or a variant.
fn is_field_or_variant(code: &str) -> bool {
    let visibility = |word: &&str| word.starts_with("pub") || *word == "crate)";
    let mut words = code.split_whitespace().skip_while(visibility);
    words.next().is_some_and(|word| !ITEMS.contains(&word))
}
