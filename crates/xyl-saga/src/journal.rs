//! Owns the file of a journal: reads it, appends records, rewrites it when it grows.
//!
//! A VM has one journal. Only the process that holds the VM's lock writes to it; any process may [`load`] it.
//! A journal is usable, or has a torn end after a failed write. The next [`Journal::flush`] cuts a torn end off
//! first. A synced journal waits for the disk at each write.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use os_port::{Append, Clock, Files};

use crate::codec::{self, Contents, Foreign, LINE_MAX_BYTES};
use crate::past::{self, Past};
use crate::record::{Entry, Record};

/// Size in bytes above which [`Journal::open`] rewrites the file with its latest operations only.
const COMPACT_FROM_BYTES: usize = 32 << 10;
/// Number of operations that such a rewrite keeps.
const OPERATIONS_KEPT: usize = 4;

/// The reasons why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system refused a call.
    #[error("{op} the journal {path}: {source}", path = path.display())]
    Io {
        /// The action that failed, such as `open`, for the error text.
        op: &'static str,
        /// Path of the journal.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A record whose line is longer than readers accept.
    #[error("a record of {size_bytes} bytes is longer than a line of the journal {path} may be, which is {LINE_MAX_BYTES} bytes: use a shorter name or path", path = path.display())]
    RecordTooLong {
        /// Path of the journal.
        path: PathBuf,
        /// The length of its line, in bytes.
        size_bytes: usize,
    },
    /// A step whose arguments JSON cannot express.
    #[error("the journal {path} cannot list the steps: {source}", path = path.display())]
    Steps {
        /// Path of the journal.
        path: PathBuf,
        /// The error of the JSON writer.
        source: serde_json::Error,
    },
    /// A file that this build must not change, such as a journal of a newer version.
    #[error("the journal {path} is {what}: use the xyl that wrote it, or move the file away if nothing is under way", path = path.display())]
    Foreign {
        /// Path of the file.
        path: PathBuf,
        /// Format or version of the file, for the error text.
        what: String,
    },
}

impl JournalError {
    fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        let path = path.to_owned();
        move |source| JournalError::Io { op, path, source }
    }
}

/// Reads a journal. Without a file the contents are empty.
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

/// A journal that is open for writing. Only the holder of the VM's lock may open one.
pub struct Journal {
    path: PathBuf,
    file: Box<dyn Append>,
    next_sequence: u64,
    /// Lines that the next flush writes.
    pending: String,
    /// Length in bytes of the first pending line that is too long.
    too_long_bytes: Option<usize>,
    /// Size of the file in bytes, up to the end of its last complete line.
    size_bytes: u64,
    /// Whether a write failed: then a part of it may follow the last complete line.
    has_torn_end: bool,
    /// Whether each write waits for the disk.
    is_synced: bool,
    /// Whether something was written that the disk may not have yet.
    needs_sync: bool,
    writes: u64,
}

impl Journal {
    /// Opens the journal with these contents, or creates it and its folder. Removes torn and damaged lines, and old
    /// operations of a large file; rewrites a file of format 1. It is synced if the operation under way is.
    ///
    /// # Errors
    /// The system's. [`JournalError::Foreign`] if an operation is under way in a file of format 1 and has no list of steps
    /// ([`Contents::with_steps`]): the file stays as it is.
    pub fn open(
        files: &dyn Files,
        path: &Path,
        contents: &Contents,
    ) -> Result<Journal, JournalError> {
        let past = Past::of(contents);
        refuse_unlisted(path, contents, &past)?;
        let is_synced = past.under_way().is_some_and(|open| open.begin.sync);
        Journal::open_with(files, path, contents, is_synced)
    }

    /// The same for an operation that has [`crate::Begin::sync`]: the file and its folders are on the disk.
    pub fn open_synced(
        files: &dyn Files,
        path: &Path,
        contents: &Contents,
    ) -> Result<Journal, JournalError> {
        Journal::open_with(files, path, contents, true)
    }

    fn open_with(
        files: &dyn Files,
        path: &Path,
        contents: &Contents,
        is_synced: bool,
    ) -> Result<Journal, JournalError> {
        let is_new = contents.size_bytes == 0;
        let mut size_bytes = contents.size_bytes as u64;
        if is_new {
            let folder = path.parent().unwrap_or(Path::new("/"));
            files
                .create_folder(folder)
                .map_err(JournalError::io("make the folder of", path))?;
        } else if needs_rewrite(contents) {
            size_bytes = rewrite(files, path, contents, is_synced)?;
        }
        let file = files
            .append_to(path)
            .map_err(JournalError::io("open", path))?;
        if is_synced {
            // Each folder may be new, and a new name is in the folder above.
            let mut all = path.ancestors();
            let synced = all.try_for_each(|one| files.sync(one));
            synced.map_err(JournalError::io("sync", path))?;
        }
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
            is_synced,
            needs_sync: false,
            writes: 0,
        })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the next record.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Number of `write` calls so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Adds a record. The next [`Journal::flush`] writes it.
    pub fn note(&mut self, clock: &dyn Clock, record: Record) {
        let since_1970 = clock.calendar().duration_since(SystemTime::UNIX_EPOCH);
        let time_ms = u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(0);
        if let Record::Begin(begin) = &record {
            self.is_synced |= begin.sync;
        }
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

    /// Writes all added records in one call. After a failure the next flush writes them again.
    ///
    /// # Errors
    /// An error of the operating system, or a record that is too long. After a too long record this journal writes
    /// nothing more.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        if let Some(size_bytes) = self.too_long_bytes {
            let path = self.path.clone();
            return Err(JournalError::RecordTooLong { path, size_bytes });
        }
        if self.pending.is_empty() {
            return self.sync();
        }
        self.cut_torn_end()?;
        self.writes += 1;
        if let Err(source) = self.file.append(self.pending.as_bytes()) {
            self.has_torn_end = true;
            // If the cut fails too, the next flush tries it again, and a reader stops at the torn line.
            let _ = self.cut_torn_end();
            return Err(JournalError::io("write", &self.path)(source));
        }
        self.size_bytes = self.size_bytes.saturating_add(self.pending.len() as u64);
        self.pending.clear();
        self.needs_sync = self.is_synced;
        self.sync()
    }

    /// Waits for the disk where something was written that must be on it.
    fn sync(&mut self) -> Result<(), JournalError> {
        if !self.needs_sync {
            return Ok(());
        }
        self.file
            .sync()
            .map_err(JournalError::io("sync", &self.path))?;
        self.needs_sync = false;
        Ok(())
    }

    /// Removes the rest of a failed write, so that the next line starts after a newline.
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

/// An operation without a list of steps could not be finished by any build once its file is one of format 2.
fn refuse_unlisted(path: &Path, contents: &Contents, past: &Past) -> Result<(), JournalError> {
    let is_unlisted = |open: &past::Operation| open.begin.steps.is_empty();
    if !contents.is_format_1 || !past.under_way().is_some_and(is_unlisted) {
        return Ok(());
    }
    Err(JournalError::Foreign {
        path: path.to_owned(),
        what: "of format 1, with an operation under way whose steps are not known".to_owned(),
    })
}

fn needs_rewrite(contents: &Contents) -> bool {
    contents.is_torn
        || contents.is_format_1
        || contents.damage.is_some()
        || contents.size_bytes > COMPACT_FROM_BYTES
}

/// Writes the useful records to a second file and renames it to the journal. Returns its size in bytes.
fn rewrite(
    files: &dyn Files,
    path: &Path,
    contents: &Contents,
    is_synced: bool,
) -> Result<u64, JournalError> {
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
        .and_then(|()| if is_synced { files.sync(&new) } else { Ok(()) })
        .and_then(|()| files.rename(&new, path))
        .map_err(JournalError::io("rewrite", path))?;
    Ok(text.len() as u64)
}
