//! Resolves the command word: completes unique prefixes, and explains words that are not commands.
//!
//! [`crate::run`] calls [`complete_command`] before clap. Prefixes are compared with all commands of xl, also those
//! that Xyl does not have yet. So a prefix that is unique here is unique for xl, and stays unique in later versions
//! of Xyl.

use std::ffi::OsString;

use crate::commands::{HERE, HIDDEN, later};
use crate::stderr::Style;

/// The reasons why the command word could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// More than one command starts with the word.
    #[error("`{word}` is ambiguous: {}", .candidates.join(", "))]
    Ambiguous {
        /// The word that the user typed.
        word: String,
        /// The commands that start with it.
        candidates: Vec<&'static str>,
    },
    /// No command starts with the word.
    #[error("unknown command `{word}`{hint}; `xyl help` lists them", hint = hint(.similar))]
    Unknown {
        /// The word that the user typed.
        word: String,
        /// Commands with a similar name.
        similar: Vec<&'static str>,
    },
    /// A command of xl that Xyl refuses: the host or Xyl lacks what it needs.
    #[error("`{name}` has changed nothing: {missing}")]
    Refused {
        /// Name of the command.
        name: &'static str,
        /// The missing part, and a remedy.
        missing: &'static str,
    },
    /// A command of xl that Xyl does not have yet.
    #[error("`{name}` is not there yet in this version of Xyl; {instead}")]
    NotThereYet {
        /// Name of the command.
        name: &'static str,
        /// Advice: another way to do it.
        instead: &'static str,
    },
}

impl WordError {
    /// The error for a refused command with fewer arguments than it needs. As with xl, that is a wrong use.
    pub fn of_usage(&self, args: &[OsString]) -> Option<String> {
        let WordError::Refused { name, .. } = self else {
            return None;
        };
        let at = command_word(args, 1)?;
        let wanted = later::arguments(name);
        let given = args.iter().skip(at + 1);
        let given = given.filter(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
        (given.count() < wanted).then(|| format!("`{name}` needs at least {wanted} arguments"))
    }

    /// Whether the arguments ask for help on a command of xl that Xyl does not have. Then this error's text is
    /// the help.
    pub fn is_help_on_later(&self, args: &[OsString]) -> bool {
        let asks = |arg: &OsString| matches!(arg.to_str(), Some("-h" | "--help" | "help"));
        let mut before_end = args.iter().skip(1).take_while(|arg| *arg != "--");
        let is_later = matches!(
            self,
            WordError::NotThereYet { .. } | WordError::Refused { .. }
        );
        is_later && before_end.any(asks)
    }
}

fn hint(similar: &[&str]) -> String {
    if similar.is_empty() {
        String::new()
    } else {
        format!(" (did you mean {}?)", similar.join(" or "))
    }
}

/// Format of error messages about the arguments, from the options and the environment.
pub fn style(args: &[OsString]) -> Style {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| is_on(&value.to_string_lossy()));
    let mut options = args.iter().skip(1).take_while(|arg| *arg != "--");
    // An option may be shortened.
    let is_json = |arg: &OsString| {
        arg.to_str()
            .is_some_and(|arg| arg.len() > 2 && "--json".starts_with(arg))
    };
    let before = args.iter().skip(1);
    let mut before = before.take_while(|arg| arg.as_encoded_bytes().starts_with(b"-"));
    let is_timestamps = |arg: &OsString| {
        let bytes = arg.as_encoded_bytes();
        !bytes.starts_with(b"--") && bytes.contains(&b'T')
    };
    Style {
        json: is_set("XYL_JSON") || options.any(is_json),
        timestamps: is_set("XYL_TIMESTAMPS") || before.any(is_timestamps),
    }
}

/// Whether the value of an environment variable means "on".
pub fn is_on(value: &str) -> bool {
    !matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "0" | "n" | "no" | "f" | "false" | "off"
    )
}

/// Replaces the command word with its full name, also the word after `help`.
pub fn complete_command(args: &[OsString]) -> Result<Vec<OsString>, WordError> {
    let mut completed = args.to_vec();
    let Some(at) = command_word(args, 1) else {
        return Ok(completed);
    };
    let word = resolve(&text(args, at))?;
    if word == "help" {
        // `help --help` is the same as `help`. So is xl's `help --long`, because the list is always complete.
        let mut index = 0..;
        completed.retain(|arg| {
            index.next() <= Some(at) || !matches!(arg.to_str(), Some("-h" | "--help" | "--long"))
        });
    }
    if word == "help"
        && let Some(topic_at) = command_word(args, at + 1)
    {
        replace(&mut completed, topic_at, resolve(&text(args, topic_at))?);
    }
    replace(&mut completed, at, word);
    Ok(completed)
}

fn text(args: &[OsString], at: usize) -> String {
    args.get(at)
        .map(|arg| arg.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn replace(args: &mut [OsString], at: usize, word: &str) {
    if let Some(arg) = args.get_mut(at) {
        *arg = word.into();
    }
}

/// Index of the first argument from `start` on that is not an option. Options before the command take no values.
fn command_word(args: &[OsString], start: usize) -> Option<usize> {
    let index = args
        .iter()
        .skip(start)
        .position(|arg| !arg.as_encoded_bytes().starts_with(b"-"))?;
    Some(start + index)
}

/// Whether the options before the command are options of xl or of Xyl. An option that takes none of their letters is not.
pub fn has_known_global_options(args: &[OsString]) -> bool {
    let at = command_word(args, 1).unwrap_or(args.len());
    let is_known = |arg: &OsString| {
        let text = arg.to_string_lossy();
        match text.strip_prefix("--") {
            Some(long) => {
                let all = ["json", "simulated", "help", "version"];
                all.iter().any(|name| name.starts_with(long))
            }
            None => text
                .chars()
                .skip(1)
                .all(|letter| "vNftThV".contains(letter)),
        }
    };
    args.iter().take(at).skip(1).all(is_known)
}

/// The command word. `None` if an option before it asks for help or the version.
pub fn plain_command(args: &[OsString]) -> Option<&str> {
    let at = command_word(args, 1)?;
    let asks_for_all = |arg: &OsString| {
        matches!(arg.to_str(), Some("--help" | "--version"))
            || !arg.as_encoded_bytes().starts_with(b"--")
                && arg
                    .as_encoded_bytes()
                    .iter()
                    .any(|byte| b"hV".contains(byte))
    };
    let mut before = args.iter().take(at).skip(1);
    if before.any(asks_for_all) {
        None
    } else {
        args.get(at)?.to_str()
    }
}

/// Whether the arguments ask for the list of commands and nothing else: there is none, or the one command is `help`.
pub fn asks_for_list(args: &[OsString]) -> bool {
    match args {
        [_] => true,
        [_, command] => command == "help",
        _ => false,
    }
}

fn resolve(word: &str) -> Result<&'static str, WordError> {
    let exact = all_names().find(|name| *name == word);
    let hidden = HIDDEN.iter().copied().find(|name| *name == word);
    let name = match exact.or(hidden) {
        Some(name) => name,
        None => complete(word)?,
    };
    match (later::instead(name), later::refusal(name)) {
        (Some(instead), _) => Err(WordError::NotThereYet { name, instead }),
        (None, Some(missing)) => Err(WordError::Refused { name, missing }),
        (None, None) => Ok(name),
    }
}

fn complete(word: &str) -> Result<&'static str, WordError> {
    let candidates: Vec<&'static str> = all_names().filter(|name| name.starts_with(word)).collect();
    // Prefixes that are unique among xl's commands have priority.
    let hidden: Vec<&'static str> = match candidates.is_empty() {
        true => hidden_names()
            .filter(|name| name.starts_with(word))
            .collect(),
        false => Vec::new(),
    };
    match candidates.as_slice() {
        [name] => Ok(name),
        [] if hidden.len() == 1 => Ok(hidden.first().copied().unwrap_or_default()),
        [] => Err(WordError::Unknown {
            word: word.to_owned(),
            similar: similar(word),
        }),
        _ => Err(WordError::Ambiguous {
            word: word.to_owned(),
            candidates,
        }),
    }
}

fn all_names() -> impl Iterator<Item = &'static str> {
    let later = later::COMMANDS.iter().chain(later::REFUSED);
    HERE.iter().copied().chain(later.map(|(name, _)| *name))
}

/// Unlisted commands for users. Their prefixes are completed if no listed command starts with them.
fn hidden_names() -> impl Iterator<Item = &'static str> {
    let is_internal = |name: &&str| matches!(*name, "monitor" | "simulated-host");
    HIDDEN
        .iter()
        .copied()
        .filter(move |name| !is_internal(name))
}

/// Up to three commands with a small edit distance to the word, nearest first.
fn similar(word: &str) -> Vec<&'static str> {
    let mut near: Vec<(usize, &'static str)> = all_names()
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len().min(word.len()) / 4)
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Levenshtein distance. A transposition counts as two edits.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(row.first_mut().unwrap_or(&mut 0), i + 1);
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let substituted = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = substituted.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn unique_prefixes_are_written_out() {
        assert_eq!(
            complete_command(&args(&["xyl", "-v", "cr", "x.cfg"])),
            Ok(args(&["xyl", "-v", "create", "x.cfg"]))
        );
        assert_eq!(
            complete_command(&args(&["xyl", "help", "unp"])),
            Ok(args(&["xyl", "help", "unpause"]))
        );
        assert_eq!(complete_command(&args(&["xyl"])), Ok(args(&["xyl"])));
        assert_eq!(
            complete_command(&args(&["xyl", "help", "--help"])),
            Ok(args(&["xyl", "help"]))
        );
    }

    #[test]
    fn an_exact_name_wins_over_longer_ones() {
        assert_eq!(resolve("sched-credit"), Ok("sched-credit"));
    }

    #[test]
    fn ambiguous_prefixes_are_listed() {
        let Err(WordError::Ambiguous { candidates, .. }) = resolve("vcpu") else {
            panic!("expected an ambiguity")
        };
        assert_eq!(candidates, ["vcpu-list", "vcpu-pin", "vcpu-set"]);
        assert!(
            matches!(resolve("con"), Err(WordError::Ambiguous { .. })),
            "console, config-update"
        );
    }

    #[test]
    fn unknown_words_get_suggestions() {
        let Err(WordError::Unknown { similar, .. }) = resolve("lits") else {
            panic!("expected an unknown command")
        };
        assert_eq!(similar, ["list"]);
    }

    #[test]
    fn commands_of_xl_to_come_are_known_by_name() {
        assert!(matches!(
            resolve("remus"),
            Err(WordError::NotThereYet { name: "remus", .. })
        ));
        assert!(matches!(
            resolve("migrate-r"),
            Err(WordError::NotThereYet { .. })
        ));
    }

    #[test]
    fn distances() {
        assert_eq!(distance("list", "list"), 0);
        assert_eq!(distance("lst", "list"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
