//! Checked xenstore paths.
//!
//! The C and the OCaml daemon both take exactly the characters `A-Z a-z 0-9 - _ @` and `/` as the separator
//! (`valid_chars` in `tools/xenstored/core.c`, `char_is_valid` in `tools/ocaml/xenstored/store.ml`); doubled and trailing
//! slashes are refused. Length limits are those of `xs_wire.h`.

use std::fmt;
use std::str::FromStr;

/// Longest absolute path, in bytes (`XENSTORE_ABS_PATH_MAX`).
pub const ABSOLUTE_PATH_MAX: usize = 3072;

/// Longest relative path, in bytes (`XENSTORE_REL_PATH_MAX`).
pub const RELATIVE_PATH_MAX: usize = 2048;

/// Longest part of a path that is repeated in an error text, in bytes.
const SHOWN_MAX: usize = 80;

/// A path that xenstored will take.
///
/// Absolute (`/local/domain/5/name`), relative to the home of the domain that asks (`device/vbd`), or special
/// (`@releaseDomain`, only for watches and permissions).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Box<str>);

/// The reasons why a text is not a valid xenstore path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The empty text.
    #[error("an empty xenstore path; give at least \"/\"")]
    Empty,
    /// A character that xenstored refuses.
    #[error("{character:?} in the xenstore path {path:?}; letters, digits and - _ @ / are allowed")]
    Character {
        /// The path, shortened if it is long.
        path: String,
        /// The character at fault.
        character: char,
    },
    /// A slash with nothing before or after it.
    #[error("a doubled or trailing slash in the xenstore path {path:?}; leave it out")]
    Slash {
        /// The path, shortened if it is long.
        path: String,
    },
    /// Longer than xenstored allows.
    #[error(
        "a xenstore path of {size_bytes} bytes ({path:?}), {limit_bytes} are allowed; shorten it"
    )]
    TooLong {
        /// The path, shortened.
        path: String,
        /// Length of the path, in bytes.
        size_bytes: usize,
        /// Maximum length of this kind of path, in bytes.
        limit_bytes: usize,
    },
    /// A relative path is required, and this one is absolute.
    #[error("{path:?} cannot be appended to a xenstore path; give a relative one")]
    NotRelative {
        /// The path, shortened if it is long.
        path: String,
    },
}

impl Path {
    /// Checks a path.
    ///
    /// # Errors
    /// A [`PathError`] with the rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, PathError> {
        check_characters(text)?;
        check_slashes(text)?;
        check_length(text)?;
        Ok(Self(text.into()))
    }

    /// The root of the tree, `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// The home of a domain, `/local/domain/DOMID`.
    pub fn domain(domid: u16) -> Self {
        Self(format!("/local/domain/{domid}").into())
    }

    /// `@introduceDomain`: a watch on it fires when a domain is connected to xenstored.
    pub fn introduce_domain() -> Self {
        Self("@introduceDomain".into())
    }

    /// `@releaseDomain`: a watch on it fires when a domain shuts down, crashes or disappears.
    pub fn release_domain() -> Self {
        Self("@releaseDomain".into())
    }

    /// The path of a node below this one; `relative` may have several parts (`device/vbd/768`).
    ///
    /// # Errors
    /// [`PathError`] when `relative` is not a valid relative path or the whole is too long.
    pub fn join(&self, relative: &str) -> Result<Self, PathError> {
        if relative.starts_with('/') {
            return Err(PathError::NotRelative {
                path: shown(relative),
            });
        }
        if relative.is_empty() {
            return Err(PathError::Empty);
        }
        let separator = if self.is_root() { "" } else { "/" };
        Self::new(&format!("{}{separator}{relative}", self.0))
    }

    /// The parent path; `None` for the root, special paths and relative paths of one part.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() || self.is_special() {
            return None;
        }
        match self.0.rsplit_once('/') {
            Some(("", _)) => Some(Self::root()),
            Some((parent, _)) => Some(Self(parent.into())),
            None => None,
        }
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// The parts between the slashes.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// Whether the path is `ancestor` or below it.
    pub fn is_at_or_below(&self, ancestor: &Path) -> bool {
        if ancestor.is_root() {
            return self.is_absolute();
        }
        match self.0.strip_prefix(&*ancestor.0) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// Whether the path starts at the root.
    pub fn is_absolute(&self) -> bool {
        self.0.starts_with('/')
    }

    /// Whether the path is one of the `@` names, which are not nodes.
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// Whether the path is the root.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Path {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::new(text)
    }
}

/// Whether the text is one part of a path, such as a child's name.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/') && check_characters(text).is_ok()
}

fn check_characters(text: &str) -> Result<(), PathError> {
    match text.chars().find(|&character| !is_allowed(character)) {
        Some(character) => Err(PathError::Character {
            path: shown(text),
            character,
        }),
        None => Ok(()),
    }
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '@' | '/')
}

fn check_slashes(text: &str) -> Result<(), PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    let trailing = text.ends_with('/') && text != "/";
    if trailing || text.contains("//") {
        return Err(PathError::Slash { path: shown(text) });
    }
    Ok(())
}

fn check_length(text: &str) -> Result<(), PathError> {
    let limit_bytes = if text.starts_with(['/', '@']) {
        ABSOLUTE_PATH_MAX
    } else {
        RELATIVE_PATH_MAX
    };
    if text.len() > limit_bytes {
        return Err(PathError::TooLong {
            path: shown(text),
            size_bytes: text.len(),
            limit_bytes,
        });
    }
    Ok(())
}

/// The text, or its beginning if it is long.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN_MAX {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(SHOWN_MAX).collect();
    format!("{beginning}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_xenstored_takes() {
        for text in [
            "/",
            "/a",
            "/local/domain/0/backend/vbd",
            "device/vbd",
            "@releaseDomain",
            "/A-z_0@9",
        ] {
            assert_eq!(Path::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_what_xenstored_refuses() {
        assert_eq!(Path::new(""), Err(PathError::Empty));
        for text in ["//", "/a/", "/a//b", "a/", "@a/"] {
            assert!(
                matches!(Path::new(text), Err(PathError::Slash { .. })),
                "{text}"
            );
        }
        for text in ["/a b", "/a+b", "/a:b", "/a.b", "/ä", "/a\0b", "/a\n"] {
            assert!(
                matches!(Path::new(text), Err(PathError::Character { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn length_limits_differ_for_absolute_and_relative() {
        let absolute = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert!(Path::new(&absolute(3072)).is_ok());
        assert!(matches!(
            Path::new(&absolute(3073)),
            Err(PathError::TooLong {
                limit_bytes: 3072,
                ..
            })
        ));
        assert!(Path::new(&"a".repeat(2048)).is_ok());
        assert!(matches!(
            Path::new(&"a".repeat(2049)),
            Err(PathError::TooLong {
                limit_bytes: 2048,
                ..
            })
        ));
        assert!(Path::new(&absolute(3072)).unwrap().join("b").is_err());
    }

    #[test]
    fn joins_and_takes_apart() {
        let home = Path::domain(5);
        let state = home.join("device/vbd/768").unwrap().join("state").unwrap();
        assert_eq!(state.as_str(), "/local/domain/5/device/vbd/768/state");
        assert_eq!(state.name(), "state");
        assert_eq!(
            state.parent().unwrap().as_str(),
            "/local/domain/5/device/vbd/768"
        );
        assert_eq!(Path::root().join("vm").unwrap().as_str(), "/vm");
        assert_eq!(Path::new("/vm").unwrap().parent(), Some(Path::root()));
        // `@` has no special meaning here: xenstored accepts it anywhere.
        assert_eq!(home.join("@a").unwrap().as_str(), "/local/domain/5/@a");
        assert_eq!(Path::root().parent(), None);
        assert_eq!(Path::release_domain().parent(), None);
        assert_eq!(Path::new("a").unwrap().parent(), None);
        assert_eq!(home.parts().collect::<Vec<_>>(), ["local", "domain", "5"]);
        for bad in ["", "/a", "a/", "a//b", "a b"] {
            assert!(home.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn below_means_whole_parts() {
        let home = Path::domain(5);
        assert!(home.is_at_or_below(&home));
        assert!(home.join("a").unwrap().is_at_or_below(&home));
        assert!(!Path::domain(50).is_at_or_below(&home));
        assert!(home.is_at_or_below(&Path::root()));
        assert!(!Path::release_domain().is_at_or_below(&Path::root()));
    }

    #[test]
    fn error_texts_do_not_repeat_a_whole_long_path() {
        let error = Path::new(&"ä".repeat(100_000)).unwrap_err();
        assert!(error.to_string().len() < 400);
    }

    proptest! {
        #[test]
        fn every_accepted_path_keeps_the_rules(text in ".{0,40}|[a-z/@_-]{0,40}") {
            if let Ok(path) = Path::new(&text) {
                prop_assert_eq!(path.as_str(), &text);
                prop_assert!(text == "/" || !text.ends_with('/'));
                prop_assert!(!text.contains("//"));
                prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_@/".contains(&b)));
            }
        }

        #[test]
        fn joining_a_name_and_going_up_again_ends_where_it_began(base in "(/[a-z0-9]{1,5}){1,4}", name in "[a-zA-Z0-9_@-]{1,9}") {
            let base = Path::new(&base).unwrap();
            let child = base.join(&name).unwrap();
            prop_assert_eq!(child.name(), name);
            prop_assert!(child.is_at_or_below(&base));
            prop_assert_eq!(child.parent(), Some(base));
        }
    }
}
