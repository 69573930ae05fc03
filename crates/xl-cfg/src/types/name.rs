//! Valid names of VMs.
//!
//! A command names a domain by its number, its `uuid=...` or its name. Names also become parts of file names, tables
//! and shell commands. So the strict rule refuses a new name that could mean something else. It does not apply to
//! names of existing VMs.

use std::fmt;

use thiserror::Error;

/// Longest name, in bytes. Names become parts of file names: `guest-NAME.log` has to fit into 255 bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// Allowed characters in addition to ASCII letters and digits. Only `_` may be the first one.
const SIGNS: &str = "_.+:@-";
/// Prefixes that commands read as the start of a UUID.
const UUID_PREFIXES: [&str; 2] = ["uuid=", "uuid:"];

/// Which names are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NameRule {
    /// ASCII letters, digits and `_.+:@-`. The first character is a letter, a digit or `_`. At least one is a letter.
    /// `uuid:` is not the start.
    #[default]
    Strict,
    /// The rule for existing names: any text that fits into a file name and a line.
    Any,
}

/// A name that a VM may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmName(String);

/// The reasons why a VM cannot have a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadName {
    /// There is nothing.
    #[error("a domain's name cannot be empty")]
    Empty,
    /// It is longer than [`MAX_NAME_BYTES`].
    #[error("a domain's name cannot be longer than {MAX_NAME_BYTES} bytes; this one has {bytes}")]
    TooLong {
        /// Length in bytes.
        bytes: usize,
    },
    /// It is a folder's name, `.` or `..`.
    #[error("a domain's name cannot be `{0}`: it becomes part of file names")]
    Folder(String),
    /// It has a character that no name may have.
    #[error("a domain's name cannot have the character {0:?}")]
    Character(char),
    /// The character may not be the first one.
    #[error("a domain's name cannot begin with {0:?}")]
    First(char),
    /// The name starts like a UUID on a command line.
    #[error("a domain's name cannot begin with `{0}`: commands would take it for a UUID")]
    Uuid(&'static str),
    /// It has no letter.
    #[error(
        "a domain's name has at least one letter: commands would take digits for a domain's number"
    )]
    NoLetter,
}

impl BadName {
    /// The remedy as text.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Empty => "give it a name, as in `guest`",
            Self::TooLong { .. } => "shorten it",
            Self::NoLetter => "put a letter into it, as in `vm17`",
            Self::Folder(_) | Self::Uuid(_) => "choose another name",
            Self::Character(_) | Self::First(_) => {
                "names have letters, digits and `_.+:@-`, and begin with a letter, a digit or `_`; `[names]` of the host's policy can allow others"
            }
        }
    }
}

impl VmName {
    /// Takes a name by a rule.
    ///
    /// # Errors
    /// [`BadName`], the first thing that is wrong with it.
    pub fn parse(name: &str, rule: NameRule) -> Result<Self, BadName> {
        check_any(name)?;
        if rule == NameRule::Strict {
            check_strict(name)?;
        }
        Ok(Self(name.to_owned()))
    }

    /// The most similar name that the strict rule allows, with `-` for other characters. `None` if no character
    /// remains.
    #[must_use]
    pub fn like(name: &str) -> Option<Self> {
        let replaced: String = name
            .chars()
            .map(|c| if is_name_char(c) { c } else { '-' })
            .collect();
        let trimmed = replaced.trim_matches(|c| !is_first_char(c));
        let cut: String = trimmed.chars().take(MAX_NAME_BYTES).collect();
        Self::parse(&cut, NameRule::Strict).ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> String {
        name.0
    }
}

fn check_any(name: &str) -> Result<(), BadName> {
    if name.is_empty() {
        return Err(BadName::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(BadName::TooLong { bytes: name.len() });
    }
    if matches!(name, "." | "..") {
        return Err(BadName::Folder(name.to_owned()));
    }
    match name.chars().find(|c| *c == '/' || c.is_control()) {
        Some(bad) => Err(BadName::Character(bad)),
        None => Ok(()),
    }
}

fn check_strict(name: &str) -> Result<(), BadName> {
    if let Some(prefix) = UUID_PREFIXES.into_iter().find(|one| name.starts_with(one)) {
        return Err(BadName::Uuid(prefix));
    }
    if let Some(bad) = name.chars().find(|c| !is_name_char(*c)) {
        return Err(BadName::Character(bad));
    }
    if let Some(first) = name.chars().next().filter(|first| !is_first_char(*first)) {
        return Err(BadName::First(first));
    }
    if !name.chars().any(|c| c.is_ascii_alphabetic()) {
        return Err(BadName::NoLetter);
    }
    Ok(())
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || SIGNS.contains(c)
}

fn is_first_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_use_are_taken() {
        for good in [
            "a",
            "web-1",
            "instance1.example.com",
            "sys-net-dm",
            "disp1234",
            "Domain-0",
            "win10_x64",
            "vm+test",
            "user@host",
            "a:b",
            "guest-20260101T0000Z",
            "web--incoming",
            "_x",
            "7even",
            "3f6f3ea2-8f1f-4a6c-9d8e-5b1f0c2d7e11",
            &"x".repeat(MAX_NAME_BYTES),
        ] {
            assert_eq!(
                VmName::parse(good, NameRule::Strict).unwrap().as_str(),
                good
            );
        }
    }

    #[test]
    fn names_that_may_be_something_else_are_refused() {
        for (name, why) in [
            ("", BadName::Empty),
            (".", BadName::Folder(".".to_owned())),
            ("a/b", BadName::Character('/')),
            ("a\nb", BadName::Character('\n')),
            ("17", BadName::NoLetter),
            ("1.2", BadName::NoLetter),
            ("uuid=1", BadName::Uuid("uuid=")),
            ("uuid:a", BadName::Uuid("uuid:")),
            ("-x", BadName::First('-')),
            (".x", BadName::First('.')),
            (" a", BadName::Character(' ')),
            ("a ", BadName::Character(' ')),
            ("my guest", BadName::Character(' ')),
            ("(null)", BadName::Character('(')),
            ("a;cmd", BadName::Character(';')),
            ("a\u{202e}b", BadName::Character('\u{202e}')),
            ("guest\u{200b}", BadName::Character('\u{200b}')),
            ("ünïcode", BadName::Character('ü')),
        ] {
            assert_eq!(VmName::parse(name, NameRule::Strict), Err(why), "{name:?}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for rule in [NameRule::Strict, NameRule::Any] {
            let bytes = long.len();
            assert_eq!(VmName::parse(&long, rule), Err(BadName::TooLong { bytes }));
        }
    }

    #[test]
    fn names_that_exist_may_be_wider() {
        for good in ["17", "my guest", "(null)", "uuid=1", "ünïcode", "-x", "..."] {
            assert!(VmName::parse(good, NameRule::Any).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "\u{1b}[2J"] {
            assert!(VmName::parse(bad, NameRule::Any).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_like_name_is_a_name() {
        for (name, like) in [
            ("web/1", Some("web-1")),
            (" a ", Some("a")),
            ("my guest", Some("my-guest")),
            ("(null)", Some("null")),
            ("uuid=1", Some("uuid-1")),
            ("17", None),
            ("///", None),
        ] {
            assert_eq!(
                VmName::like(name).as_ref().map(VmName::as_str),
                like,
                "{name}"
            );
        }
    }
}
