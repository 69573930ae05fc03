//! Configuration texts, and positions in them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, OFlags, fstatfs};
use thiserror::Error;

use crate::diag::{Code, Diagnostic};

/// The name that diagnostics show for overrides given on the command line.
pub const COMMAND_LINE: &str = "<command line>";

/// A piece of one source text, as byte offsets into that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Index of the text in [`Sources`].
    pub source: u32,
    /// Offset of the first byte.
    pub start: u32,
    /// Offset of the byte after the last one.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(source: u32, range: Range<usize>) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            source,
            start: offset(range.start),
            end: offset(range.end),
        }
    }

    /// The span from the start of `self` to the end of `last`. For spans of different texts, `self`.
    pub(crate) fn to(self, last: Span) -> Self {
        if self.source == last.source {
            Self {
                end: last.end.max(self.end),
                ..self
            }
        } else {
            self
        }
    }

    /// The part of `self` with the bytes of `range`.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        let offset = |at: usize| {
            u32::try_from(at).map_or(self.end, |at| self.start.saturating_add(at).min(self.end))
        };
        Self {
            source: self.source,
            start: offset(range.start),
            end: offset(range.end),
        }
    }

    pub(crate) fn contains(self, other: Span) -> bool {
        self.source == other.source && self.start <= other.start && other.end <= self.end
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The reasons why a source text could not be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The file could not be opened or read.
    #[error("cannot read the configuration file `{path}`: {source}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The path names a directory, a pipe or a device.
    #[error("cannot read the configuration file `{path}`: it is not a regular file")]
    NotAFile {
        /// Path that is not a regular file.
        path: PathBuf,
    },
    /// The text is larger than [`Source::MAX_BYTES`].
    #[error("`{name}` is larger than {} KiB, the most that a configuration may have; is it the right file?", Source::MAX_BYTES / 1024)]
    TooLarge {
        /// The file's or text's name.
        name: String,
    },
}

/// One configuration text and its name in diagnostics.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
    /// Offsets in `text` of replacement characters for bytes that are not UTF-8.
    not_utf8: Vec<usize>,
    line_starts: Vec<usize>,
    starts_with_bom: bool,
}

impl Source {
    /// The largest text that is accepted, in bytes.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Takes a text that is in memory already.
    ///
    /// # Errors
    /// [`SourceError::TooLarge`].
    pub fn from_bytes(name: impl Into<String>, bytes: &[u8]) -> Result<Self, SourceError> {
        let name = name.into();
        if bytes.len() > Self::MAX_BYTES {
            return Err(SourceError::TooLarge { name });
        }
        let (text, not_utf8) = decode(bytes);
        let starts_with_bom = text.starts_with('\u{feff}');
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Ok(Self {
            name,
            text,
            not_utf8,
            line_starts,
            starts_with_bom,
        })
    }

    /// Reads a file. `/dev/null` counts as an empty one, as `xl create /dev/null name=...` has it.
    ///
    /// # Errors
    /// [`SourceError`]: unreadable, no regular file, or too large.
    pub fn read_file(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        if path == Path::new("/dev/null") {
            return Self::from_bytes(name, b"");
        }
        let bytes = read_regular(path).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => SourceError::NotAFile {
                path: path.to_owned(),
            },
            _ => SourceError::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        Self::from_bytes(name, &bytes)
    }

    /// The overrides of a command line as one text, one argument a line.
    pub(crate) fn from_overrides<S: AsRef<str>>(overrides: &[S]) -> Result<Self, SourceError> {
        let mut text = String::new();
        for argument in overrides {
            text.push_str(argument.as_ref());
            text.push('\n');
        }
        Self::from_bytes(COMMAND_LINE, text.as_bytes())
    }

    /// The name that diagnostics show.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text; bytes that were no UTF-8 are U+FFFD.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_command_line(&self) -> bool {
        self.name == COMMAND_LINE
    }

    pub(crate) fn starts_with_bom(&self) -> bool {
        self.starts_with_bom
    }

    /// Place of the first byte in `range` that is not UTF-8.
    pub(crate) fn bad_byte_in(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let first = self.not_utf8.partition_point(|&at| at < range.start);
        let at = *self.not_utf8.get(first).filter(|&&at| at < range.end)?;
        Some(at..at + char::REPLACEMENT_CHARACTER.len_utf8())
    }

    /// The error for a file that is not an xl.cfg at all. Then other errors about it do not help.
    pub(crate) fn complaint_of_form(&self) -> Option<Diagnostic> {
        const FIRST_CHARS: usize = 8;
        let start = Span::new(0, 0..0);
        let first = self.text.trim_start().chars().next();
        let is_foreign = |c| matches!(c, '\0' | char::REPLACEMENT_CHARACTER);
        if self.text.chars().take(FIRST_CHARS).any(is_foreign) {
            let message = "this is no text in UTF-8: is this a text file?";
            let help = "xl.cfg is plain text; a packed file has to be unpacked, one in UTF-16 saved as UTF-8";
            return Some(Diagnostic::error(Code::Encoding, start, message).help(help));
        }
        let form = match first {
            Some('{') => "JSON",
            Some('<') => "XML",
            _ => return None,
        };
        let message = format!("this is {form}, not xl.cfg");
        let help = "xl.cfg has lines such as `name = \"web\"`";
        Some(Diagnostic::error(Code::Syntax, start, message).help(help))
    }

    fn line_index(&self, offset: usize) -> usize {
        self.line_starts
            .partition_point(|&start| start <= offset)
            .saturating_sub(1)
    }

    /// Byte range of a line (counted from 0), without its line end.
    fn line_range(&self, index: usize) -> Range<usize> {
        let start = self
            .line_starts
            .get(index)
            .copied()
            .unwrap_or(self.text.len());
        let end = self
            .line_starts
            .get(index + 1)
            .map_or(self.text.len(), |next| next - 1);
        start..end
    }
}

/// Whether the kernel generates the file when it is read. Reading such a file may wait, or may consume its contents.
fn is_of_the_kernel(file: &File) -> io::Result<bool> {
    /// Numbers of file systems of Linux's linux/magic.h: proc, sysfs, debugfs, tracefs.
    const KERNELS_OWN: [FsWord; 4] = [0x9fa0, 0x6265_6572, 0x6462_6720, 0x7472_6163];
    Ok(KERNELS_OWN.contains(&fstatfs(file)?.f_type))
}

/// Reads a regular file, up to one byte more than the limit. It never waits for a pipe, nor for a file of the kernel
/// such as `/proc/kmsg`. A file of another type is [`io::ErrorKind::InvalidInput`].
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || is_of_the_kernel(&file)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let limit = Source::MAX_BYTES as u64 + 1;
    // Room for the whole file and a byte more: reading it takes two system calls then.
    let mut bytes = Vec::with_capacity(metadata.len().min(limit) as usize + 1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(bytes.len());
    let mut not_utf8 = Vec::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            not_utf8.push(text.len());
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    (text, not_utf8)
}

/// Start of a span for people: line and column from 1, the column in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Name of the file or text.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// All texts that one configuration was made from: the file, then the command line.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        Self(sources)
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// The name of the first text: the file.
    #[must_use]
    pub fn main_name(&self) -> &str {
        self.0.first().map_or("", Source::name)
    }

    pub(crate) fn get(&self, span: Span) -> Option<&Source> {
        self.0.get(span.source as usize)
    }

    /// The text of a span.
    #[must_use]
    pub fn text(&self, span: Span) -> &str {
        self.get(span)
            .and_then(|source| source.text.get(span.range()))
            .unwrap_or("")
    }

    /// File, line and column of a span's start.
    #[must_use]
    pub fn locate(&self, span: Span) -> Location {
        let Some(source) = self.get(span) else {
            return Location {
                file: String::new(),
                line: 1,
                column: 1,
            };
        };
        let start = span.start as usize;
        let line = source.line_index(start);
        let before = source
            .text
            .get(source.line_range(line).start..start)
            .unwrap_or("");
        Location {
            file: source.name.clone(),
            line: line + 1,
            column: before.chars().count() + 1,
        }
    }

    /// The line in which a span starts, split into the parts before, in and after the span.
    pub(crate) fn line_around(&self, span: Span) -> [&str; 3] {
        let Some(source) = self.get(span) else {
            return [""; 3];
        };
        let line = source.line_range(source.line_index(span.start as usize));
        let middle =
            (span.start as usize).min(line.end)..(span.end as usize).clamp(line.start, line.end);
        let piece = |range: Range<usize>| source.text.get(range).unwrap_or("");
        [
            piece(line.start..middle.start),
            piece(middle.clone()),
            piece(middle.end..line.end),
        ]
    }
}
