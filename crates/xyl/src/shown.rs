//! Escapes text from outside Xyl for a terminal: names of domains, and strings from guests, xl, files and users.
//!
//! All such text is printed through [`Shown`]. It escapes each character that could move the cursor, change colours,
//! change the direction of text, or that has no width.

use std::fmt::{self, Display, Write};

use xyl_engine::vm::domains::NO_NAME;

/// Text from outside, ready for a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    text: &'a str,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Name,
    Cell,
    Line,
    Lines,
}

impl<'a> Shown<'a> {
    /// A name inside a message. Names that are not plain ([`is_plain_name`]) are quoted.
    pub fn name(name: &'a str) -> Shown<'a> {
        Shown {
            text: name,
            form: Form::Name,
        }
    }

    /// A name in a table. It keeps xl's bytes where possible.
    ///
    /// It is quoted only if it could be mistaken: with escaped characters, with leading, trailing or double blanks,
    /// or if it looks like a quoted name or [`NO_NAME`].
    pub fn cell(name: &'a str) -> Shown<'a> {
        Shown {
            text: name,
            form: Form::Cell,
        }
    }

    /// Text inside a line.
    pub fn line(text: &'a str) -> Shown<'a> {
        Shown {
            text,
            form: Form::Line,
        }
    }

    /// Text of several lines. Newlines and tabs stay.
    pub fn lines(text: &'a str) -> Shown<'a> {
        Shown {
            text,
            form: Form::Lines,
        }
    }

    fn is_quoted(&self) -> bool {
        match self.form {
            Form::Name => !is_plain_name(self.text),
            Form::Cell => passes_for_another(self.text),
            Form::Line | Form::Lines => false,
        }
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_quoted = self.is_quoted();
        if is_quoted {
            f.write_char('"')?;
        }
        for c in self.text.chars() {
            let keeps = is_harmless(c) || self.form == Form::Lines && "\n\t".contains(c);
            match c {
                '"' | '\\' if is_quoted => write!(f, "\\{c}")?,
                c if keeps => f.write_char(c)?,
                c => write!(f, "{}", c.escape_unicode())?,
            }
        }
        if is_quoted {
            f.write_char('"')?;
        }
        Ok(())
    }
}

/// Name of a domain in a table. [`NO_NAME`] for a domain without a name.
pub fn cell(name: Option<&str>) -> String {
    name.map_or_else(|| NO_NAME.to_owned(), |name| Shown::cell(name).to_string())
}

/// Whether a name needs no quotes in a message or a shell: it starts with a letter, digit or `_`, and continues with
/// these or `.+:@-`.
pub fn is_plain_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(is_word) && name.chars().all(|c| is_word(c) || ".+:@-".contains(c))
}

fn passes_for_another(name: &str) -> bool {
    name == NO_NAME
        || name.starts_with('"')
        || name.is_empty()
        || name.trim() != name
        || name.contains("  ")
        || !name.chars().all(is_harmless)
}

/// Whether a character is visible and does not affect the characters around it.
pub fn is_harmless(c: char) -> bool {
    // Letters and symbols that look like blanks.
    const BLANK: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];
    match c {
        ' '..='~' => true,
        c if BLANK.contains(&c) => false,
        // `escape_debug` escapes controls (Cc), formats (Cf), separators, private, unassigned and combining
        // characters.
        c => c.escape_debug().len() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_as_they_are() {
        for name in ["web", "Domain-0", "7seas", "_x", "a.b+c:d@e-f"] {
            assert_eq!(Shown::name(name).to_string(), name);
            assert_eq!(Shown::cell(name).to_string(), name);
        }
    }

    #[test]
    fn other_names_are_quoted_in_messages() {
        for (name, shown) in [
            ("", "\"\""),
            ("a;reboot", "\"a;reboot\""),
            ("-x", "\"-x\""),
            ("two words", "\"two words\""),
            ("uuid=1", "\"uuid=1\""),
            ("größe", "\"größe\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("\u{1b}[31m", "\"\\u{1b}[31m\""),
            ("a\u{202e}b\u{200b}", "\"a\\u{202e}b\\u{200b}\""),
        ] {
            assert_eq!(Shown::name(name).to_string(), shown);
        }
    }

    #[test]
    fn a_table_keeps_the_bytes_of_xl_where_nothing_is_forged() {
        for name in ["two words", "größe", "a;b", "-x", "日本", "it's"] {
            assert_eq!(Shown::cell(name).to_string(), name);
        }
        for name in [
            "",
            " a",
            "a ",
            "a  0  1024",
            "(null)",
            "\"a\"",
            "a\n",
            "a\u{301}",
            "a\u{3164}",
        ] {
            let shown = Shown::cell(name).to_string();
            assert!(shown.starts_with('"') && shown != name, "{shown}");
        }
        assert_eq!(cell(None), "(null)");
    }

    #[test]
    fn nothing_drives_the_terminal() {
        let all = (0..=0x10_ffff).filter_map(char::from_u32);
        let text: String = all.collect();
        let shown = Shown::line(&text).to_string();
        let drives =
            |c: char| c.is_control() || "\u{202e}\u{200b}\u{2066}\u{feff}\u{ad}".contains(c);
        assert!(!shown.contains(drives));
        assert_eq!(Shown::line("a\tb\n").to_string(), "a\\u{9}b\\u{a}");
        assert_eq!(Shown::lines("a\tb\n\r").to_string(), "a\tb\n\\u{d}");
        // Text that is not a name is not quoted.
        assert_eq!(Shown::line("say \"x\\y\"").to_string(), "say \"x\\y\"");
    }
}
