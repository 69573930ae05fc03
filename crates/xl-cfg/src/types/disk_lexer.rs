//! The grammar of disk descriptions, `[key=value|flag|positional,]*`: returns one piece after the other.

use crate::syntax::Text;

/// The next piece of a disk description.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece<'a> {
    /// A parameter of the form `name=value`.
    Named { name: Text<'a>, value: Text<'a> },
    /// A word that is a flag.
    Flag(Text<'a>),
    /// `name:` at the start: the notation of xend.
    Prefix(Text<'a>),
    /// A value that counts by its position.
    Positional(Text<'a>),
    /// None of these, to the end of the description.
    Bad(Text<'a>),
}

const FLAGS: [&str; 8] = [
    "cdrom",
    "direct-io-safe",
    "discard",
    "no-discard",
    "colo",
    "no-colo",
    "trusted",
    "untrusted",
];
const PREFIXES: [&str; 15] = [
    "raw", "qcow", "qcow2", "vhd", "iscsi", "nbd", "enbd", "drbd", "tapdisk", "tap", "tap2", "aio",
    "ioemu", "file", "phy",
];

/// Takes the next piece off the front of `rest`; `None` at the end.
pub(super) fn next<'a>(rest: &mut Text<'a>) -> Option<Piece<'a>> {
    let blanks = rest.text.len() - rest.text.trim_start_matches([' ', '\t', '\n']).len();
    let text = rest.slice(blanks..rest.text.len());
    if text.text.is_empty() {
        *rest = text;
        return None;
    }
    let (piece, length) = if let Some(prefix) = prefix_length(text.text) {
        (Piece::Prefix(text.slice(0..prefix)), prefix + 1)
    } else if let Some(value) = text.strip_prefix("target=") {
        // The target takes all of the rest, commas too; but one comma at the very end is taken off.
        let length = value.text.strip_suffix(',').unwrap_or(value.text).len();
        (
            Piece::Named {
                name: text.slice(0..6),
                value: value.slice(0..length),
            },
            text.text.len(),
        )
    } else {
        parameter(text)
    };
    *rest = text.slice(length..text.text.len());
    Some(piece)
}

/// Whether a target needs the form `target=`, because by position it would be read as something else, or cut.
pub(super) fn needs_name(target: &str) -> bool {
    target.contains(',')
        || target.contains('=')
        || target.starts_with([' ', '\t', '\n'])
        || FLAGS.contains(&target)
        || prefix_length(target).is_some()
}

fn parameter<'a>(text: Text<'a>) -> (Piece<'a>, usize) {
    let comma = text.text.find(',');
    let parameter = text.slice(0..comma.unwrap_or(text.text.len()));
    let length = comma.map_or(text.text.len(), |at| at + 1);
    let piece = match parameter.split_once('=') {
        Some((name, value)) if is_name(name.text) => Piece::Named { name, value },
        Some(_) => return (Piece::Bad(text), text.text.len()),
        None if FLAGS.contains(&parameter.text) => Piece::Flag(parameter),
        None => Piece::Positional(parameter),
    };
    (piece, length)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// The length of a prefix before its colon. `vdev:type`, as in `hdc:cdrom`, is none: a letter or digit follows.
fn prefix_length(text: &str) -> Option<usize> {
    let (word, rest) = text.split_once(':')?;
    let is_word = word.starts_with(|c: char| c.is_ascii_lowercase())
        && word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_prefix = PREFIXES.contains(&word)
        || !rest.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    (is_word && is_prefix).then_some(word.len())
}
