//! The input of a console session: bytes for the guest, and the byte that ends the session.

use std::str::FromStr;

/// The byte that ends a session on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape(pub u8);

impl Default for Escape {
    /// Ctrl-], the escape character of xl.
    fn default() -> Escape {
        Escape(0x1d)
    }
}

impl FromStr for Escape {
    type Err = &'static str;

    /// Parses one character, or `^` and a character for a control character.
    fn from_str(text: &str) -> Result<Escape, Self::Err> {
        match text.as_bytes() {
            [b'^', letter] => Ok(Escape(letter & 0x1f)),
            [byte] => Ok(Escape(*byte)),
            _ => Err("give one character, or ^ and a character, such as ^]"),
        }
    }
}

impl std::fmt::Display for Escape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            control if control < 0x20 => write!(f, "Ctrl-{}", char::from(control | 0x40)),
            byte => write!(f, "{}", char::from(byte)),
        }
    }
}

/// Maximum number of bytes that wait for the guest. At this number, standard input is not read.
const PENDING_MAX: usize = 64 * 1024;

/// Bytes from standard input that the tty has not yet taken.
#[derive(Debug, Default)]
pub struct Pending {
    bytes: Vec<u8>,
}

impl Pending {
    /// Adds bytes up to `escape`. Returns whether the escape was among them.
    pub fn push(&mut self, typed: &[u8], escape: Option<Escape>) -> bool {
        let end = escape.and_then(|escape| typed.iter().position(|byte| *byte == escape.0));
        self.bytes
            .extend_from_slice(typed.get(..end.unwrap_or(typed.len())).unwrap_or_default());
        end.is_some()
    }

    /// Whether more bytes may be read from standard input.
    pub fn has_room(&self) -> bool {
        self.bytes.len() < PENDING_MAX
    }

    /// The bytes that wait for the tty.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes the bytes that the tty has taken.
    pub fn taken(&mut self, nr_bytes: usize) {
        self.bytes.drain(..nr_bytes.min(self.bytes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_written_as_xl_takes_them() {
        assert_eq!("^]".parse(), Ok(Escape(0x1d)));
        assert_eq!("^a".parse(), Ok(Escape(1)));
        assert_eq!("q".parse(), Ok(Escape(b'q')));
        assert!(Escape::from_str("").is_err());
        assert!(Escape::from_str("abc").is_err());
        assert_eq!(Escape::default().to_string(), "Ctrl-]");
    }

    #[test]
    fn what_stands_before_the_escape_is_still_sent() {
        let mut pending = Pending::default();
        assert!(pending.push(b"ab\x1dcd", Some(Escape::default())));
        assert_eq!(pending.bytes(), b"ab");
        pending.taken(1);
        assert_eq!(pending.bytes(), b"b");
    }

    #[test]
    fn a_pipe_has_no_escape() {
        let mut pending = Pending::default();
        assert!(!pending.push(b"ab\x1dcd", None));
        assert_eq!(pending.bytes(), b"ab\x1dcd");
    }
}
