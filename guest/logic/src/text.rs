//! Text in fixed buffers: the kernel has no heap.

use core::fmt;

/// A string of at most `N` bytes. What does not fit is cut off, and [`Text::is_cut`] says so.
#[derive(Debug, Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Text<N> {
    /// An empty text.
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
            cut: false,
        }
    }

    /// A text made of `bytes`, with everything that is not UTF-8 replaced by `?`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut text = Self::new();
        text.push_bytes(bytes);
        text
    }

    /// Appends `bytes`, with everything that is not UTF-8 replaced by `?`.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            self.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                self.push_str("?");
            }
        }
    }

    /// Appends as much of `text` as fits, whole characters only.
    pub fn push_str(&mut self, text: &str) {
        let mut take = text.len().min(N - self.len);
        while !text.is_char_boundary(take) {
            take -= 1;
        }
        let (Some(from), Some(to)) = (
            text.as_bytes().get(..take),
            self.bytes.get_mut(self.len..self.len + take),
        ) else {
            return;
        };
        to.copy_from_slice(from);
        self.len += take;
        self.cut |= take < text.len();
    }

    /// The text. It is UTF-8 by construction.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whether something did not fit.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Empties the text.
    pub fn clear(&mut self) {
        self.len = 0;
        self.cut = false;
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text);
        Ok(())
    }
}

/// Collects console input into lines. CR, LF and CR LF all end a line; empty lines are dropped; what
/// is longer than the buffer is cut.
#[derive(Debug)]
pub struct LineReader {
    bytes: [u8; 512],
    len: usize,
    cut: bool,
}

impl Default for LineReader {
    fn default() -> Self {
        Self::new()
    }
}

impl LineReader {
    /// A reader with no input yet.
    pub const fn new() -> Self {
        Self {
            bytes: [0; 512],
            len: 0,
            cut: false,
        }
    }

    /// Takes one input byte; gives the line that it completes.
    pub fn push(&mut self, byte: u8) -> Option<Text<512>> {
        if !matches!(byte, b'\r' | b'\n') {
            match self.bytes.get_mut(self.len) {
                Some(slot) => {
                    *slot = byte;
                    self.len += 1;
                }
                None => self.cut = true,
            }
            return None;
        }
        if self.len == 0 {
            return None;
        }
        let mut line = Text::from_bytes(self.bytes.get(..self.len).unwrap_or_default());
        line.cut |= self.cut;
        *self = Self::new();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write as _;

    #[test]
    fn text_is_cut_at_a_character() {
        let mut text = Text::<4>::new();
        write!(text, "abcé").unwrap();
        assert_eq!(text.as_str(), "abc");
        assert!(text.is_cut());
        text.clear();
        assert_eq!((text.as_str(), text.is_cut()), ("", false));
    }

    #[test]
    fn bytes_that_are_no_utf8_become_question_marks() {
        assert_eq!(Text::<16>::from_bytes(b"a\xff\xfeb").as_str(), "a??b");
    }

    #[test]
    fn lines_end_with_cr_or_lf() {
        let mut reader = LineReader::new();
        let lines: Vec<String> = b"one\r\ntw\xc3\xb6\n\n\rthree"
            .iter()
            .filter_map(|&byte| reader.push(byte))
            .map(|line| line.as_str().to_owned())
            .collect();
        assert_eq!(lines, ["one", "twö"]);
        assert_eq!(reader.push(b'\r').unwrap().as_str(), "three");
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut reader = LineReader::new();
        for _ in 0..1000 {
            assert!(reader.push(b'x').is_none());
        }
        let line = reader.push(b'\n').unwrap();
        assert_eq!((line.as_str().len(), line.is_cut()), (512, true));
    }
}
