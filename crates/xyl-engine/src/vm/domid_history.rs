//! Domids that were in use within the last minute. A create skips them.
//!
//! Backends and other tools may still act on a domid after its domain has ended. The record is libxl's own file, so
//! that both toolstacks obey it: `/var/run/xen/domid-history`, with lines `SECONDS DOMID` in seconds of the monotonic
//! clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use os_port::{Clock, Files};
use xen_port::DomId;

use crate::vm::store::write_whole;
use crate::{EngineError, Host};

/// Time in seconds during which a domid counts as recent, as in libxl.
const REUSE_AFTER_S: u64 = 60;
/// Time limit for another process to release the record's lock.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of bytes that are read: more than one line for each possible domid.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// The record in a folder; `/var/run/xen` on a real host.
pub struct DomidHistory<'h> {
    path: PathBuf,
    files: &'h dyn Files,
    clock: &'h dyn Clock,
}

impl<'h> DomidHistory<'h> {
    /// The record of this host.
    pub fn of(host: &'h Host) -> DomidHistory<'h> {
        DomidHistory::new(&host.dirs.xen_run, &*host.files, &*host.clock)
    }

    /// The record in `folder`.
    pub fn new(folder: &Path, files: &'h dyn Files, clock: &'h dyn Clock) -> DomidHistory<'h> {
        DomidHistory {
            path: folder.join("domid-history"),
            files,
            clock,
        }
    }

    /// Whether a domain with this domid ended within the last minute.
    pub fn is_recent(&self, domid: DomId) -> bool {
        let now = self.clock.since_boot_s();
        self.entries(now).iter().any(|(_, used)| *used == domid)
    }

    /// Records that this domid was in use until now.
    pub fn mark(&self, domid: DomId) -> Result<(), EngineError> {
        let lock = self.path.with_extension("lock");
        let deadline = self.clock.now() + LOCK_LIMIT;
        let _held = self
            .files
            .lock(&lock, Some(deadline))
            .map_err(|source| EngineError::io("lock", &lock, source))?
            .ok_or_else(|| EngineError::Deadline {
                what: format!("{}: another process has not let go of it", lock.display()),
                limit_s: LOCK_LIMIT.as_secs(),
            })?;
        let now = self.clock.since_boot_s();
        let mut entries = self.entries(now);
        entries.push((now, domid));
        let text: String = entries
            .iter()
            .map(|(seconds, domid)| format!("{seconds} {domid}\n"))
            .collect();
        let new = self.path.with_extension("new");
        write_whole(self.files, &new, &self.path, text.as_bytes())
    }

    /// The recent entries. Invalid lines are ignored.
    fn entries(&self, now: u64) -> Vec<(u64, DomId)> {
        let bytes = self.files.read(&self.path, RECORD_MAX_BYTES);
        String::from_utf8_lossy(&bytes.unwrap_or_default())
            .lines()
            .filter_map(parse_line)
            .filter(|(seconds, _)| now.saturating_sub(*seconds) <= REUSE_AFTER_S)
            .collect()
    }
}

fn parse_line(line: &str) -> Option<(u64, DomId)> {
    let (seconds, domid) = line.trim().split_once(' ')?;
    Some((seconds.parse().ok()?, DomId(domid.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use os_port::mem::{Life, MemFiles, VirtualClock};

    use super::*;

    #[test]
    fn remembers_for_a_minute_and_ignores_rubbish() {
        let (disk, clock) = (MemFiles::new(), VirtualClock::new());
        let files = disk.of(&Life::new(1));
        let history = DomidHistory::new(Path::new("/run"), &files, &clock);
        assert!(!history.is_recent(DomId(5)));
        disk.put(Path::new("/run/domid-history"), b"rubbish\n1 x\n");
        history.mark(DomId(5)).unwrap();
        history.mark(DomId(6)).unwrap();
        assert!(history.is_recent(DomId(5)) && history.is_recent(DomId(6)));
        assert!(!history.is_recent(DomId(7)));
        clock.advance(Duration::from_secs(2 * REUSE_AFTER_S));
        assert!(!history.is_recent(DomId(5)));
        assert_eq!(disk.paths(), [Path::new("/run/domid-history")]);
    }
}
