//! Shows text that others wrote on one console line.

use core::fmt::{self, Write as _};

/// Displays text with quotes, backslashes and control characters escaped, so that it stays on its
/// line and between its quotes.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' | '\\' => {
                    f.write_char('\\')?;
                    f.write_char(c)?;
                }
                c if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(
            Escaped("a\"b\\c\n\x1b[2J é").to_string(),
            "a\\\"b\\\\c\\x0a\\x1b[2J é"
        );
    }
}
