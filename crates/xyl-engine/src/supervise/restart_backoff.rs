//! Delays the restarts of a VM whose domain ends soon after each start, or whose restart fails, so that it does not
//! use up the host's CPU time.
//!
//! Each further restart waits longer, up to a limit. xl waits two seconds before each restart, without end.
//!
//! The file `/run/xyl/vm/UUID/restart-delay` has one line, which outlives a monitor; the VM's journal has the time at
//! which the domain was made. So a new monitor waits only for the rest of the delay. An earlier
//! release of Xyl wrote this line to another file, named `brake`. A monitor reads that file if there is no `restart-delay`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use os_port::{Clock, Files, remove_if_there};
use uuid::Uuid;
use xen_port::DomId;
use xyl_saga::{Outcome, Past};

use crate::operation::last_of_domain;
use crate::vm::Vm;
use crate::vm::store;
use crate::{Dirs, EngineError, Host};

/// Limit of a short run, in seconds: the time from a domain's start to its end.
pub const SHORT_LIFE_S: u64 = 10;
/// Maximum delay before a restart, in seconds.
pub const PAUSE_MAX_S: u64 = 120;
/// Number of tries before a restart is given up.
pub const TRIES: u32 = 5;
/// Maximum number of bytes that are read of the file.
const NOTE_MAX_BYTES: u64 = 256;

/// The delay of a VM's next restart, and the reasons for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartDelay {
    /// Number of the domain that has ended.
    pub domid: DomId,
    /// Number of short runs in a row, with that of this domain.
    pub short_lives: u32,
    /// Number of failed restarts since this domain has ended.
    pub failures: u32,
    /// Time of the next restart, in seconds since the host was started.
    pub due_s: u64,
}

impl RestartDelay {
    /// Time that is left until the restart.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        Duration::from_secs(self.due_s.saturating_sub(clock.since_boot_s()))
    }

    /// Time of the restart, on the monotonic clock.
    pub(crate) fn deadline(&self, clock: &dyn Clock) -> Instant {
        clock.now() + self.left(clock)
    }

    /// The reason for the delay, as text.
    pub fn why(&self) -> String {
        let lives = format!(
            "the guest has ended within {SHORT_LIFE_S} s of its start, {} times in a row",
            self.short_lives
        );
        match (self.failures, self.short_lives) {
            (0, _) => lives,
            (failures, 0 | 1) => format!("{failures} of {TRIES} tries to restart it have failed"),
            (failures, _) => {
                format!("{failures} of {TRIES} tries to restart it have failed, and {lives}")
            }
        }
    }

    fn text(&self) -> String {
        format!(
            "{} {} {} {}\n",
            self.domid, self.short_lives, self.failures, self.due_s
        )
    }

    fn parse(text: &str) -> Option<RestartDelay> {
        let mut words = text.split_ascii_whitespace();
        let delay = RestartDelay {
            domid: DomId(words.next()?.parse().ok()?),
            short_lives: words.next()?.parse().ok()?,
            failures: words.next()?.parse().ok()?,
            due_s: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(delay)
    }
}

/// Delay before a restart after this number of short runs and failures, in seconds. The first restart has none,
/// because many guests reboot once when they are new. Then it is 2, 4, 8 seconds and so on.
pub fn pause_s(count: u32) -> u64 {
    match count {
        0 | 1 => 0,
        _ => 1_u64
            .checked_shl(count - 1)
            .map_or(PAUSE_MAX_S, |pause_s| pause_s.min(PAUSE_MAX_S)),
    }
}

fn path(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    dirs.vm_run(uuid).join("restart-delay")
}

/// Path of the same file in the release before.
fn earlier_path(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    dirs.vm_run(uuid).join("brake")
}

/// The delay of a VM's next restart, from its file. A file that cannot be parsed counts as none.
pub fn read(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<RestartDelay> {
    let bytes = match files.read(&path(dirs, uuid), NOTE_MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            files.read(&earlier_path(dirs, uuid), NOTE_MAX_BYTES)
        }
        other => other,
    };
    RestartDelay::parse(std::str::from_utf8(&bytes.ok()?).ok()?)
}

/// The delay that a monitor knows: from the file, or from its memory if the file could not be written.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    unwritten: Option<RestartDelay>,
}

impl Backoff {
    /// The delay of the VM's next restart, if there is one.
    pub fn read(&self, host: &Host, uuid: Uuid) -> Option<RestartDelay> {
        self.unwritten
            .or_else(|| read(&*host.files, &host.dirs, uuid))
    }

    /// Writes the delay to the file. If the disk is full, this process alone knows it.
    fn note(&mut self, host: &Host, uuid: Uuid, delay: RestartDelay) {
        self.unwritten = note(host, uuid, &delay).err().map(|_| delay);
    }
}

/// The delay after the end of a VM's domain that is to be restarted. A second call for the same domain returns the
/// same delay.
pub(crate) fn of_end(
    host: &Host,
    vm: Vm,
    backoff: &mut Backoff,
) -> Result<RestartDelay, EngineError> {
    let before = backoff.read(host, vm.uuid);
    if let Some(known) = before.filter(|delay| delay.domid == vm.domid) {
        return Ok(known);
    }
    let short_lives = match life(host, vm.uuid)? {
        Some(life) if life >= Duration::from_secs(SHORT_LIFE_S) => 0,
        _ => before
            .map_or(0, |delay| delay.short_lives)
            .saturating_add(1),
    };
    let delay = RestartDelay {
        domid: vm.domid,
        short_lives,
        failures: 0,
        due_s: host.clock.since_boot_s() + pause_s(short_lives),
    };
    backoff.note(host, vm.uuid, delay);
    Ok(delay)
}

/// The delay after a failed restart; `None` after the last try.
pub(crate) fn of_failure(host: &Host, vm: Vm, backoff: &mut Backoff) -> Option<RestartDelay> {
    let before = backoff
        .read(host, vm.uuid)
        .filter(|delay| delay.domid == vm.domid);
    let failures = before.map_or(0, |delay| delay.failures) + 1;
    let short_lives = before.map_or(0, |delay| delay.short_lives);
    // The first short run adds no delay.
    let count = failures.saturating_add(short_lives.max(1));
    let delay = RestartDelay {
        domid: vm.domid,
        short_lives,
        failures,
        due_s: host.clock.since_boot_s() + pause_s(count),
    };
    backoff.note(host, vm.uuid, delay);
    (failures < TRIES).then_some(delay)
}

fn note(host: &Host, uuid: Uuid, delay: &RestartDelay) -> Result<(), EngineError> {
    let path = path(&host.dirs, uuid);
    let remove = |path: &Path| {
        remove_if_there(&*host.files, path)
            .map_err(|source| EngineError::io("remove", path, source))
    };
    let earlier = earlier_path(&host.dirs, uuid);
    if delay.short_lives == 0 && delay.failures == 0 {
        // A process may have died while it wrote the file.
        let new = path.with_extension("new");
        return [new, path, earlier]
            .iter()
            .try_for_each(|path| remove(path));
    }
    let folder = host.dirs.vm_run(uuid);
    host.files
        .create_folder(&folder)
        .map_err(|source| EngineError::io("create folder", &folder, source))?;
    let written = store::write_whole(
        &*host.files,
        &path.with_extension("new"),
        &path,
        delay.text().as_bytes(),
    );
    match written {
        // The VM was destroyed meanwhile, and its run folder with it: no restart follows.
        Err(EngineError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => remove(&earlier),
    }
}

/// Time since the VM's domain was made, by the journal; `None` if the journal does not have it.
fn life(host: &Host, uuid: Uuid) -> Result<Option<Duration>, EngineError> {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid))?;
    let past = Past::of(&contents);
    let made = last_of_domain(&past).filter(|last| last.outcome == Some(Outcome::Done));
    let Some(made) = made else {
        return Ok(None);
    };
    let since_1970 = host.clock.calendar().duration_since(SystemTime::UNIX_EPOCH);
    let made = Duration::from_millis(made.last_ms);
    Ok(Some(since_1970.unwrap_or_default().saturating_sub(made)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<u64> = (0..10).map(pause_s).collect();
        assert_eq!(pauses, [0, 0, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(pause_s(u32::MAX), PAUSE_MAX_S);
    }

    /// A host of tests, and its run folder of a VM.
    fn host(folder: &Path) -> (Host, Vm, PathBuf) {
        let (hv, store) = (Model::new(64), MemStore::new().client(0).unwrap());
        let host = Host::new(Box::new(hv), store, Dirs::below(folder));
        let (domid, uuid) = (DomId(7), Uuid::from_bytes([7; 16]));
        let run = host.dirs.vm_run(uuid);
        std::fs::create_dir_all(&run).unwrap();
        (host, Vm { domid, uuid }, run)
    }

    #[test]
    fn the_file_of_the_release_before_is_read_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (host, vm, run) = host(folder.path());
        std::fs::write(run.join("brake"), "7 3 2 4711\n").unwrap();
        let read = || super::read(&*host.files, &host.dirs, vm.uuid);
        assert_eq!(read().map(|delay| delay.failures), Some(2));
        of_failure(&host, vm, &mut Backoff::default()).unwrap();
        assert_eq!(read().map(|delay| delay.failures), Some(3));
        assert!(!run.join("brake").exists() && run.join("restart-delay").exists());
    }

    #[test]
    fn a_delay_that_is_over_leaves_neither_file() {
        let folder = tempfile::tempdir().unwrap();
        let (host, vm, run) = host(folder.path());
        for name in ["brake", "restart-delay"] {
            std::fs::write(run.join(name), "6 3 2 4711\n").unwrap();
        }
        let none = RestartDelay {
            domid: vm.domid,
            short_lives: 0,
            failures: 0,
            due_s: 0,
        };
        note(&host, vm.uuid, &none).unwrap();
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
        assert_eq!(super::read(&*host.files, &host.dirs, vm.uuid), None);
    }

    #[test]
    fn notes_are_read_back_and_nonsense_is_not() {
        let delay = RestartDelay {
            domid: DomId(7),
            short_lives: 3,
            failures: 2,
            due_s: 4711,
        };
        assert_eq!(RestartDelay::parse(&delay.text()), Some(delay));
        for text in ["", "7 3 2", "7 3 2 4711 1", "7 3 2 x", "70000 3 2 1"] {
            assert_eq!(RestartDelay::parse(text), None, "{text}");
        }
        assert!(delay.why().contains("2 of 5 tries") && delay.why().contains("3 times"));
    }
}
