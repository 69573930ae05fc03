//! Keeps a VM that ends again and again from taking all of the host's time.
//!
//! A guest that ends soon after its start is started again, but each time after a longer pause; so is a
//! VM whose restart fails. xl pauses for two seconds before each restart, and goes on for ever.
//!
//! What outlives a process is a line in `/run/xyl/vm/UUID/brake`; how long a domain has lived is in the
//! VM's journal. So whoever takes a monitor's place waits for the rest of the pause, and no longer.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use os_port::{Clock, Files, remove_if_there};
use uuid::Uuid;
use xen_port::DomId;
use xyl_saga::{Outcome, Past};

use crate::operation::last_of_domain;
use crate::vm::Vm;
use crate::vm::store;
use crate::{Dirs, EngineError, Host};

/// A domain that has ended within this time of its start has had a short life, in seconds.
pub const SHORT_LIFE_S: u64 = 10;
/// The longest pause before a restart, in seconds.
pub const PAUSE_MAX_S: u64 = 120;
/// How often a restart is tried until it is given up.
pub const TRIES: u32 = 5;
/// Largest note that is read, in bytes.
const NOTE_MAX_BYTES: u64 = 256;

/// What holds a VM's next restart up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brake {
    /// The domain that has ended.
    pub domid: DomId,
    /// Short lives of the VM's domains in a row, up to and with this one.
    pub short_lives: u32,
    /// Restarts that have failed since it has ended.
    pub failures: u32,
    /// When the next one is due, in seconds since the host was started.
    pub due_s: u64,
}

impl Brake {
    /// How long the restart is to wait still.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        Duration::from_secs(self.due_s.saturating_sub(clock.since_boot_s()))
    }

    /// When that is over.
    pub(crate) fn deadline(&self, clock: &dyn Clock) -> Instant {
        clock.now() + self.left(clock)
    }

    /// Why it waits, in words.
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

    fn parse(text: &str) -> Option<Brake> {
        let mut words = text.split_ascii_whitespace();
        let brake = Brake {
            domid: DomId(words.next()?.parse().ok()?),
            short_lives: words.next()?.parse().ok()?,
            failures: words.next()?.parse().ok()?,
            due_s: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(brake)
    }
}

/// The pause before a restart after so many short lives and failures, in seconds: none after the first,
/// for many a guest reboots once when it is new, then 2, 4, 8 and so on.
pub fn pause_s(count: u32) -> u64 {
    match count {
        0 | 1 => 0,
        _ => 1_u64
            .checked_shl(count - 1)
            .map_or(PAUSE_MAX_S, |pause_s| pause_s.min(PAUSE_MAX_S)),
    }
}

fn path(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    dirs.vm_run(uuid).join("brake")
}

/// What holds a VM's next restart up, if anything does. A note that makes no sense counts as none.
pub fn read(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<Brake> {
    let bytes = files.read(&path(dirs, uuid), NOTE_MAX_BYTES).ok()?;
    Brake::parse(std::str::from_utf8(&bytes).ok()?)
}

/// What a monitor knows of its VM's pauses: the note on disk, or what it could not write there.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    unwritten: Option<Brake>,
}

impl Backoff {
    /// What holds the VM's next restart up, if anything does.
    pub fn read(&self, host: &Host, uuid: Uuid) -> Option<Brake> {
        self.unwritten
            .or_else(|| read(&*host.files, &host.dirs, uuid))
    }

    /// A disk that is full takes no note: then this process alone counts.
    fn note(&mut self, host: &Host, uuid: Uuid, brake: Brake) {
        self.unwritten = note(host, uuid, &brake).err().map(|_| brake);
    }
}

/// A VM's domain has ended and is to be restarted: what holds that up. Asked again about the same
/// domain, the answer is the same.
pub(crate) fn of_end(host: &Host, vm: Vm, backoff: &mut Backoff) -> Result<Brake, EngineError> {
    let before = backoff.read(host, vm.uuid);
    if let Some(known) = before.filter(|brake| brake.domid == vm.domid) {
        return Ok(known);
    }
    let short_lives = match life(host, vm.uuid)? {
        Some(life) if life >= Duration::from_secs(SHORT_LIFE_S) => 0,
        _ => before
            .map_or(0, |brake| brake.short_lives)
            .saturating_add(1),
    };
    let brake = Brake {
        domid: vm.domid,
        short_lives,
        failures: 0,
        due_s: host.clock.since_boot_s() + pause_s(short_lives),
    };
    backoff.note(host, vm.uuid, brake);
    Ok(brake)
}

/// A restart after that end has failed: what holds the next try up; `None` after the last one.
pub(crate) fn of_failure(host: &Host, vm: Vm, backoff: &mut Backoff) -> Option<Brake> {
    let before = backoff
        .read(host, vm.uuid)
        .filter(|brake| brake.domid == vm.domid);
    let failures = before.map_or(0, |brake| brake.failures) + 1;
    let short_lives = before.map_or(0, |brake| brake.short_lives);
    // Of the lives only those count that were too many.
    let count = failures.saturating_add(short_lives.max(1));
    let brake = Brake {
        domid: vm.domid,
        short_lives,
        failures,
        due_s: host.clock.since_boot_s() + pause_s(count),
    };
    backoff.note(host, vm.uuid, brake);
    (failures < TRIES).then_some(brake)
}

fn note(host: &Host, uuid: Uuid, brake: &Brake) -> Result<(), EngineError> {
    let path = path(&host.dirs, uuid);
    if brake.short_lives == 0 && brake.failures == 0 {
        // A process may have died while it wrote one.
        for path in [&path.with_extension("new"), &path] {
            remove_if_there(&*host.files, path)
                .map_err(|source| EngineError::io("remove", path, source))?;
        }
        return Ok(());
    }
    let folder = host.dirs.vm_run(uuid);
    host.files
        .create_folder(&folder)
        .map_err(|source| EngineError::io("create folder", &folder, source))?;
    let written = store::write_whole(
        &*host.files,
        &path.with_extension("new"),
        &path,
        brake.text().as_bytes(),
    );
    match written {
        // The VM was destroyed and forgotten between the two: nothing is left to be held up.
        Err(EngineError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How long the VM's domain has lived, by the operation that made it; `None` where the journal does not
/// tell.
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

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<u64> = (0..10).map(pause_s).collect();
        assert_eq!(pauses, [0, 0, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(pause_s(u32::MAX), PAUSE_MAX_S);
    }

    #[test]
    fn notes_are_read_back_and_nonsense_is_not() {
        let brake = Brake {
            domid: DomId(7),
            short_lives: 3,
            failures: 2,
            due_s: 4711,
        };
        assert_eq!(Brake::parse(&brake.text()), Some(brake));
        for text in ["", "7 3 2", "7 3 2 4711 1", "7 3 2 x", "70000 3 2 1"] {
            assert_eq!(Brake::parse(text), None, "{text}");
        }
        assert!(brake.why().contains("2 of 5 tries") && brake.why().contains("3 times"));
    }
}
