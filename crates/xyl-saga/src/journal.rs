//! The journal's file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use os_port::{Append, Clock, Files};

use crate::codec::{self, Contents, Foreign, LINE_MAX_BYTES};
use crate::past;
use crate::record::{Entry, Record};

/// From this size on a journal is rewritten with what is worth keeping of its latest operations, in bytes.
const COMPACT_FROM_BYTES: usize = 16 << 10;
/// Operations that such a journal keeps.
const OPERATIONS_KEPT: usize = 4;

/// Why a journal could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system's refusal.
    #[error("{op} the journal {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record that no reader would accept.
    #[error("a record of {size_bytes} bytes is longer than a line of the journal {path} may be, which is {LINE_MAX_BYTES} bytes: use a shorter name or path", path = path.display())]
    RecordTooLong {
        /// The journal.
        path: PathBuf,
        /// The length of its line, in bytes.
        size_bytes: usize,
    },
    /// A file that this build must not touch, such as one of a newer version.
    #[error("the journal {path} is {what}: use the xyl that wrote it, or move the file away if nothing is under way", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
}

impl JournalError {
    fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        let path = path.to_owned();
        move |source| JournalError::Io { op, path, source }
    }
}

/// Reads a journal; an empty one where there is no file.
pub fn load(files: &dyn Files, path: &Path) -> Result<Contents, JournalError> {
    let bytes = match files.read(path, codec::FILE_MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Ok(codec::too_large()),
        other => other.map_err(JournalError::io("read", path))?,
    };
    codec::parse_known(&bytes).map_err(|foreign: Foreign| JournalError::Foreign {
        path: path.to_owned(),
        what: foreign.to_string(),
    })
}

/// A journal that is written to. Only whoever holds the VM's lock may have one.
pub struct Journal {
    path: PathBuf,
    file: Box<dyn Append>,
    next_sequence: u64,
    /// Lines that are still to be written.
    pending: String,
    /// The length of a line that is pending and too long, in bytes.
    too_long_bytes: Option<usize>,
    /// Size of the file up to the end of the last line that is whole, in bytes.
    size_bytes: u64,
    /// Whether a part of some lines may stand behind that: a write has failed.
    has_torn_end: bool,
    writes: u64,
}

impl Journal {
    /// Goes on with a journal of these contents, or starts one, folder and all. What was torn,
    /// damaged or is of long ago goes away.
    pub fn open(
        files: &dyn Files,
        path: &Path,
        contents: &Contents,
    ) -> Result<Journal, JournalError> {
        let is_new = contents.size_bytes == 0;
        let mut size_bytes = contents.size_bytes as u64;
        if is_new {
            let folder = path.parent().unwrap_or(Path::new("/"));
            files
                .create_folder(folder)
                .map_err(JournalError::io("make the folder of", path))?;
        } else if needs_rewrite(contents) {
            size_bytes = rewrite(files, path, contents)?;
        }
        let file = files
            .append_to(path)
            .map_err(JournalError::io("open", path))?;
        let last = contents.entries.last();
        Ok(Journal {
            path: path.to_owned(),
            file,
            next_sequence: last.map_or(1, |entry| entry.sequence.saturating_add(1)),
            pending: if is_new {
                codec::first_line()
            } else {
                String::new()
            },
            too_long_bytes: None,
            size_bytes,
            has_torn_end: false,
            writes: 0,
        })
    }

    /// The number of the next record.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// How many `write` calls it has taken so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Adds a record, to be written with the next [`Journal::flush`].
    pub fn note(&mut self, clock: &dyn Clock, record: Record) {
        let since_1970 = clock.calendar().duration_since(SystemTime::UNIX_EPOCH);
        let time_ms = u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(0);
        let line = codec::line(&Entry {
            sequence: self.next_sequence,
            time_ms,
            record,
        });
        if line.len() > LINE_MAX_BYTES {
            self.too_long_bytes.get_or_insert(line.len());
        }
        self.pending.push_str(&line);
        self.next_sequence = self.next_sequence.saturating_add(1);
    }

    /// Writes what was added, in one call. What fails is written by the next flush.
    ///
    /// # Errors
    /// The system's, and a record that is too long: then nothing is written, now or later.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        if let Some(size_bytes) = self.too_long_bytes {
            let path = self.path.clone();
            return Err(JournalError::RecordTooLong { path, size_bytes });
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.cut_torn_end()?;
        self.writes += 1;
        if let Err(source) = self.file.append(self.pending.as_bytes()) {
            self.has_torn_end = true;
            // Most often this process writes no more. If not even this can be done, a reader stops at the torn line.
            let _ = self.cut_torn_end();
            return Err(JournalError::io("write", &self.path)(source));
        }
        self.size_bytes = self.size_bytes.saturating_add(self.pending.len() as u64);
        self.pending.clear();
        Ok(())
    }

    /// Removes what a failed write has left, so that no line follows half of another.
    fn cut_torn_end(&mut self) -> Result<(), JournalError> {
        if !self.has_torn_end {
            return Ok(());
        }
        self.file
            .cut_to(self.size_bytes)
            .map_err(JournalError::io("shorten", &self.path))?;
        self.has_torn_end = false;
        Ok(())
    }
}

fn needs_rewrite(contents: &Contents) -> bool {
    contents.is_torn || contents.damage.is_some() || contents.size_bytes > COMPACT_FROM_BYTES
}

/// Writes what is worth keeping to another file, and puts that in the journal's place. Its size in bytes.
fn rewrite(files: &dyn Files, path: &Path, contents: &Contents) -> Result<u64, JournalError> {
    let mut text = codec::first_line();
    if contents.size_bytes > COMPACT_FROM_BYTES {
        let kept = past::worth_keeping(contents, OPERATIONS_KEPT);
        text.extend(kept.iter().map(codec::line));
    } else {
        text.extend(contents.entries.iter().map(codec::line));
    }
    let new = path.with_extension("new");
    files
        .write(&new, text.as_bytes())
        .and_then(|()| files.rename(&new, path))
        .map_err(JournalError::io("rewrite", path))?;
    Ok(text.len() as u64)
}
