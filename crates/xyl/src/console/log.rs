//! The log that xenconsoled may keep of a guest's console.
//!
//! When a domain ends, xenconsoled closes its pty. Bytes that the session has not yet read are lost. xenconsoled
//! writes them to its log first. So after the end, the session also prints the log's bytes that follow the last bytes
//! printed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::shown::Shown;

/// Number of last printed bytes that a session remembers.
const SHOWN_MAX: usize = 4096;

/// Maximum number of bytes that are read from the end of the log.
const LOG_TAIL_MAX: u64 = 256 * 1024;

/// A guest's log, and the last bytes that the session has printed.
#[derive(Debug, Default)]
pub struct Log {
    path: Option<PathBuf>,
    /// Length in bytes when the session began.
    length_at_start: u64,
    /// Length in bytes when the domain ended.
    length_at_end: Option<u64>,
    shown: Vec<u8>,
}

impl Log {
    /// Returns the log of a guest. It has no path if the name is unknown or unfit for a file.
    pub fn of_guest(folder: &Path, name: Option<&str>) -> Log {
        let path = name
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(|name| folder.join(format!("guest-{name}.log")));
        Log::at(path)
    }

    fn at(path: Option<PathBuf>) -> Log {
        let mut log = Log {
            path,
            ..Log::default()
        };
        log.length_at_start = log.length();
        log
    }

    /// Length of the log now, in bytes.
    fn length(&self) -> u64 {
        let metadata = self.path.as_ref().map(std::fs::metadata);
        metadata
            .and_then(Result::ok)
            .map_or(0, |metadata| metadata.len())
    }

    /// Records the log's length at the domain's end. Later bytes may come from the VM's next domain, which has the
    /// same log.
    pub fn note_end(&mut self) {
        self.length_at_end = Some(self.length_at_end.unwrap_or_else(|| self.length()));
    }

    /// A sentence with the log's path for an error, or an empty text.
    pub fn hint(&self) -> String {
        match self.path.as_ref().filter(|path| path.exists()) {
            Some(path) => {
                let path = path.display().to_string();
                format!("\nthe guest's output is in {}", Shown::line(&path))
            }
            None => String::new(),
        }
    }

    /// Remembers bytes that the session has printed.
    pub fn note_shown(&mut self, bytes: &[u8]) {
        self.shown.extend_from_slice(bytes);
        let surplus = self.shown.len().saturating_sub(SHOWN_MAX);
        self.shown.drain(..surplus);
    }

    /// Returns the log's bytes after the last printed ones. With `has_next`, only those written before the domain's
    /// end.
    ///
    /// Empty if there is no log, or if the log does not contain the printed bytes. That happens with time stamps.
    pub fn unseen(&self, has_next: bool) -> Vec<u8> {
        let end = self.length_at_end.filter(|_| has_next);
        let path = self.path.as_ref();
        let Some(tail) = path.and_then(|path| self.read_tail(path, end)) else {
            return Vec::new();
        };
        if self.shown.is_empty() {
            return tail;
        }
        match last_position(&tail, &self.shown) {
            Some(start) => tail
                .get(start + self.shown.len()..)
                .unwrap_or_default()
                .to_vec(),
            None => Vec::new(),
        }
    }

    /// Reads the end of the log: bytes written since the session began, and those before that the pty may have held.
    fn read_tail(&self, path: &Path, end: Option<u64>) -> Option<Vec<u8>> {
        let mut file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let length = end.map_or(length, |end| end.min(length));
        let back = if self.shown.is_empty() {
            0
        } else {
            SHOWN_MAX as u64
        };
        let start = self.length_at_start.min(length).saturating_sub(back);
        let start = start.max(length.saturating_sub(LOG_TAIL_MAX));
        file.seek(SeekFrom::Start(start)).ok()?;
        let mut tail = Vec::new();
        file.take(length - start).read_to_end(&mut tail).ok()?;
        Some(tail)
    }
}

fn last_position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_with(before: &[u8]) -> (tempfile::TempDir, Log, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest-g.log");
        std::fs::write(&path, before).unwrap();
        let log = Log::at(Some(path.clone()));
        (folder, log, path)
    }

    #[test]
    fn what_the_pty_lost_is_found_in_the_log() {
        let (_folder, mut log, path) = log_with(b"earlier boot\n");
        log.note_shown(b"line 1\n");
        std::fs::write(&path, b"earlier boot\nline 1\nline 2\nbye\n").unwrap();
        assert_eq!(log.unseen(false), b"line 2\nbye\n");
        log.note_shown(b"line 2\nbye\n");
        assert_eq!(log.unseen(false), b"");
    }

    #[test]
    fn a_session_that_saw_nothing_gets_what_came_since_its_start() {
        let (_folder, log, path) = log_with(b"earlier boot\n");
        std::fs::write(&path, b"earlier boot\nonly line\n").unwrap();
        assert_eq!(log.unseen(false), b"only line\n");
    }

    #[test]
    fn bytes_from_before_the_session_are_known_too() {
        let (_folder, mut log, path) = log_with(b"in the pty already\n");
        log.note_shown(b"in the pty already\nmore\n");
        std::fs::write(&path, b"in the pty already\nmore\nlast\n").unwrap();
        assert_eq!(log.unseen(false), b"last\n");
    }

    #[test]
    fn a_log_of_another_form_adds_nothing() {
        let (_folder, mut log, path) = log_with(b"");
        log.note_shown(b"line 1\n");
        std::fs::write(&path, b"[2026-01-01] line 1\r\n[2026-01-01] line 2\n").unwrap();
        assert_eq!(log.unseen(false), b"");
        assert_eq!(
            Log::of_guest(Path::new("/x"), Some("../../etc/x")).unseen(false),
            b""
        );
        assert_eq!(Log::of_guest(Path::new("/x"), None).hint(), "");
    }

    #[test]
    fn the_next_domain_of_the_vm_is_not_shown() {
        let (_folder, mut log, path) = log_with(b"");
        log.note_shown(b"line 1\n");
        std::fs::write(&path, b"line 1\nbye\n").unwrap();
        log.note_end();
        std::fs::write(&path, b"line 1\nbye\nhello again\n").unwrap();
        log.note_end();
        assert_eq!(log.unseen(true), b"bye\n");
        assert_eq!(log.unseen(false), b"bye\nhello again\n");
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = Log::default();
        log.note_shown(&vec![b'x'; 100_000]);
        assert_eq!(log.shown.len(), SHOWN_MAX);
    }
}
