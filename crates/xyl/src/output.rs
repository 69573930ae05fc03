//! Standard output of the command: one buffered writer, and the column widths of xl's tables.

use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde_json::Value;

use crate::json::{self, Layout};

/// Buffered standard output. If its reader has gone, the command ends without a message:
/// [`crate::error::Failure::BrokenPipe`].
pub struct Out(RefCell<BufWriter<Stdout>>);

impl Out {
    /// Creates the buffer on standard output.
    pub fn stdout() -> Out {
        Out(RefCell::new(BufWriter::with_capacity(
            64 * 1024,
            io::stdout(),
        )))
    }

    /// Writes text and a newline.
    pub fn line(&self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.0.borrow_mut(), "{text}")
    }

    /// Writes text as it is.
    pub fn part(&self, text: impl std::fmt::Display) -> io::Result<()> {
        write!(self.0.borrow_mut(), "{text}")
    }

    /// Writes bytes as they are.
    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().write_all(bytes)
    }

    /// Writes a JSON value in Xyl's layout.
    pub fn json(&self, value: &Value) -> io::Result<()> {
        self.line(json::text(value, Layout::Own)?)
    }

    /// Writes a JSON value in xl's layout.
    pub fn xl_json(&self, value: &Value) -> io::Result<()> {
        self.line(json::text(value, Layout::Xl)?)
    }

    /// Writes the buffered bytes to the system.
    pub fn flush(&self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether standard error is a terminal that may show colours.
pub fn stderr_has_colours() -> bool {
    stderr_is_terminal() && are_colours_wanted()
}

/// Whether standard output is a terminal that may show colours.
pub fn stdout_has_colours() -> bool {
    io::stdout().is_terminal() && are_colours_wanted()
}

/// Whether the environment allows colours (<https://no-color.org>).
fn are_colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb_terminal()
}

/// Whether the terminal understands no escape sequences.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Pads text with spaces on the right to `width` bytes, as C's `%-*s`.
pub fn left(text: &str, width: usize) -> String {
    format!("{text}{}", spaces(text, width))
}

/// Pads text with spaces on the left to `width` bytes, as C's `%*s`.
pub fn right(text: &str, width: usize) -> String {
    format!("{}{text}", spaces(text, width))
}

fn spaces(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.len()))
}

/// Formats nanoseconds as seconds with one decimal.
pub fn seconds(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e9)
}

/// Formats a UUID's 16 bytes with hyphens.
pub fn uuid(handle: &[u8; 16]) -> String {
    handle
        .iter()
        .enumerate()
        .map(|(i, byte)| {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            format!("{dash}{byte:02x}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_by_bytes_as_c_does() {
        assert_eq!(left("ab", 4), "ab  ");
        assert_eq!(right("ab", 4), "  ab");
        assert_eq!(left("é", 3), "é ");
        assert_eq!(left("abcdef", 3), "abcdef");
    }

    #[test]
    fn uuids_have_four_dashes() {
        let handle: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(uuid(&handle), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
