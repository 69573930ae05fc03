//! Domids that were in use a moment ago.
//!
//! Backends and other tools may still act on the number of a domain that has just ended, so no new
//! domain gets it for a while. The record is libxl's own (`/var/run/xen/domid-history`: lines of
//! `SECONDS DOMID`, the seconds being those of the monotonic clock), so that both toolstacks heed it.

use std::fs;
use std::path::{Path, PathBuf};

use xen_port::DomId;

use crate::EngineError;
use crate::filelock::FileLock;

/// How long a domid counts as recently used, as in libxl.
const REUSE_AFTER_S: u64 = 60;

/// The record in one folder, `/var/run/xen` on a real host.
#[derive(Clone, Debug)]
pub struct DomidHistory {
    path: PathBuf,
}

impl DomidHistory {
    /// The record in `folder`.
    pub fn new(folder: &Path) -> DomidHistory {
        DomidHistory {
            path: folder.join("domid-history"),
        }
    }

    /// Whether a domain with this number ended less than a minute ago.
    pub fn is_recent(&self, domid: DomId) -> bool {
        self.entries(now_s()).iter().any(|(_, used)| *used == domid)
    }

    /// Notes that this domid was in use until now.
    pub fn mark(&self, domid: DomId) -> Result<(), EngineError> {
        let _lock = FileLock::acquire(&self.path.with_extension("lock"))?;
        let now = now_s();
        let mut entries = self.entries(now);
        entries.push((now, domid));
        let text: String = entries
            .iter()
            .map(|(seconds, domid)| format!("{seconds} {domid}\n"))
            .collect();
        let new = self.path.with_extension("new");
        fs::write(&new, text).map_err(|source| EngineError::io("write", &new, source))?;
        fs::rename(&new, &self.path).map_err(|source| EngineError::io("rename", &self.path, source))
    }

    /// What still counts; lines that make no sense do not.
    fn entries(&self, now: u64) -> Vec<(u64, DomId)> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines()
            .filter_map(parse_line)
            .filter(|(seconds, _)| now.saturating_sub(*seconds) <= REUSE_AFTER_S)
            .collect()
    }
}

fn parse_line(line: &str) -> Option<(u64, DomId)> {
    let (seconds, domid) = line.trim().split_once(' ')?;
    Some((seconds.parse().ok()?, DomId(domid.parse().ok()?)))
}

fn now_s() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_for_a_minute_and_ignores_rubbish() {
        let folder = tempfile::tempdir().unwrap();
        let history = DomidHistory::new(folder.path());
        assert!(!history.is_recent(DomId(5)));
        fs::write(folder.path().join("domid-history"), "rubbish\n1 x\n").unwrap();
        history.mark(DomId(5)).unwrap();
        history.mark(DomId(6)).unwrap();
        assert!(history.is_recent(DomId(5)) && history.is_recent(DomId(6)));
        assert!(!history.is_recent(DomId(7)));
        let stale = now_s() + 3 * REUSE_AFTER_S;
        assert!(history.entries(stale).is_empty());
    }
}
