//! Walking over the ELF notes in a region of bytes.
//!
//! A note is a header of three 32-bit numbers (length of the name, length of the content, type), then the name, then the
//! content, each padded to four bytes.

use super::types;
use crate::bytes::u32_at;
use crate::error::Malformed;

const HEADER_BYTES: usize = 12;

pub(super) struct Note<'a> {
    pub(super) kind: u32,
    /// Up to its first zero byte.
    pub(super) name: &'a [u8],
    pub(super) content: &'a [u8],
}

pub(super) struct Notes<'a> {
    region: &'a [u8],
    offset: usize,
}

impl<'a> Notes<'a> {
    pub(super) fn new(region: &'a [u8]) -> Self {
        Self { region, offset: 0 }
    }

    /// The note at the current position, which is then the next note's.
    fn note(&mut self) -> Result<Note<'a>, Malformed> {
        let start = self.offset;
        let field = |index: usize| u32_at(self.region, start + index * 4);
        let header = field(0).zip(field(1)).zip(field(2));
        let ((name_len, content_len), kind) = header.ok_or(Malformed::NoteOverrun {
            part: "header",
            offset: start,
        })?;
        let name_at = start + HEADER_BYTES;
        let name = self.part("name", name_at, name_len)?;
        let content_at = padded_end(name_at, name);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let content = match self.part("content", content_at, content_len) {
            Err(overrun) if name == types::NAME && types::is_text(kind) => {
                self.last_text(content_at).ok_or(overrun)?
            }
            content => content?,
        };
        self.offset = padded_end(content_at, content);
        Ok(Note {
            kind,
            name,
            content,
        })
    }

    /// The string of a note that claims to be longer than its region, if the string ends within the region. GRUB's PV
    /// images for 32 bits have such a note as their last one, and Xen reads it up to its zero byte.
    fn last_text(&self, offset: usize) -> Option<&'a [u8]> {
        let rest = self.region.get(offset..)?;
        rest.contains(&0).then_some(rest)
    }

    fn part(&self, part: &'static str, offset: usize, len: u32) -> Result<&'a [u8], Malformed> {
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| offset.checked_add(len));
        let found = end.and_then(|end| self.region.get(offset..end));
        // The last note of a region may omit its padding. An empty part may be after it.
        let nothing = (len == 0).then_some(&[][..]);
        found
            .or(nothing)
            .ok_or(Malformed::NoteOverrun { part, offset })
    }
}

impl<'a> Iterator for Notes<'a> {
    type Item = Result<Note<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.region.get(self.offset..).unwrap_or_default();
        // Zeros that fill up the region, too few for another header, are no note.
        if rest.len() < HEADER_BYTES && rest.iter().all(|byte| *byte == 0) {
            return None;
        }
        let note = self.note();
        if note.is_err() {
            self.offset = self.region.len();
        }
        Some(note)
    }
}

/// Offset after `part` and its padding. `part` is inside the region and starts at `offset`.
fn padded_end(offset: usize, part: &[u8]) -> usize {
    offset + part.len().next_multiple_of(4)
}
