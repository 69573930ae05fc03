//! The sources that a process waits for, and the one wait for all of them ([`Host::wait_for`]).
//!
//! Each source has a token: the watches of xenstore ([`xenstore::Client::watch`]), the VM's doorbell ([`DOORBELL`]),
//! timers, and any other [`EventSource`] such as a child or a socket. A wait names the tokens that it takes. Events
//! of other tokens stay in their mailbox: xenstore's in the client's queue, all others in their source. So a wait
//! within another wait takes none of the outer one's events.
//!
//! The order within one wait: watches, timers, other sources, the doorbell. So the end of a guest comes before
//! requests.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{Call, Doorbell, EventSource, Readiness};
use uuid::Uuid;
use xenstore::WatchEvent;

use crate::{EngineError, Host};

/// Token of the VM's doorbell in its own process.
pub const DOORBELL: &str = "xyl-doorbell";

/// Something that has come to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An event of a watch.
    Watch(WatchEvent),
    /// The timer with this token is due. It is gone.
    Due(&'static str),
    /// The source with this token has something. It stays so until the source's owner has taken it.
    Ready(&'static str),
    /// Another process has rung at the VM's doorbell.
    Rung,
}

impl Event {
    /// The token of its source.
    pub fn token(&self) -> &str {
        match self {
            Event::Watch(event) => &event.token,
            Event::Due(token) | Event::Ready(token) => token,
            Event::Rung => DOORBELL,
        }
    }
}

/// The sources of a process besides xenstore.
#[derive(Default)]
pub struct Sources {
    doorbell: Option<Box<dyn Doorbell>>,
    timers: BTreeMap<&'static str, Instant>,
    others: BTreeMap<&'static str, Rc<dyn EventSource>>,
}

impl Sources {
    /// Adds a source under a token, and replaces an earlier one. Its owner keeps a second handle to take its events.
    pub fn add(&mut self, token: &'static str, source: Rc<dyn EventSource>) {
        self.others.insert(token, source);
    }

    /// Removes the source with this token.
    pub fn remove(&mut self, token: &'static str) {
        self.others.remove(token);
    }

    /// Sets a timer, in place of an earlier one with this token.
    pub fn set_timer(&mut self, token: &'static str, at: Instant) {
        self.timers.insert(token, at);
    }

    /// Removes the timer with this token.
    pub fn remove_timer(&mut self, token: &'static str) {
        self.timers.remove(token);
    }

    /// Whether this process has the doorbell of its VM.
    pub fn has_doorbell(&self) -> bool {
        self.doorbell.is_some()
    }

    /// Takes an event of these tokens that is there now.
    fn take(&mut self, tokens: &[&str], now: Instant) -> std::io::Result<Option<Event>> {
        let mut timers = self.timers.iter();
        let due = timers.find(|(token, at)| tokens.contains(*token) && **at <= now);
        if let Some(token) = due.map(|(token, _)| *token) {
            self.timers.remove(token);
            return Ok(Some(Event::Due(token)));
        }
        for (token, source) in wanted(&self.others, tokens) {
            if source.is_ready()? {
                return Ok(Some(Event::Ready(token)));
            }
        }
        if let Some(doorbell) = self
            .doorbell
            .as_mut()
            .filter(|_| tokens.contains(&DOORBELL))
            && doorbell.is_ready()?
            && doorbell.take()?
        {
            return Ok(Some(Event::Rung));
        }
        Ok(None)
    }

    /// The time at which the first timer of these tokens is due, if that is before `deadline`.
    fn wake_up(&self, tokens: &[&str], deadline: Instant) -> Instant {
        let timers = wanted(&self.timers, tokens).map(|(_, at)| *at);
        timers.chain([deadline]).min().unwrap_or(deadline)
    }

    /// All ways to learn that an event of these tokens has come.
    fn readiness(&self, tokens: &[&str]) -> Vec<Readiness<'_>> {
        let others = wanted(&self.others, tokens).flat_map(|(_, source)| source.readiness());
        let doorbell = self.doorbell.iter().filter(|_| tokens.contains(&DOORBELL));
        others
            .chain(doorbell.flat_map(|doorbell| doorbell.readiness()))
            .collect()
    }
}

/// The entries of these tokens.
fn wanted<'m, T>(
    all: &'m BTreeMap<&'static str, T>,
    tokens: &[&str],
) -> impl Iterator<Item = (&'static str, &'m T)> {
    let all = all.iter().map(|(token, entry)| (*token, entry));
    all.filter(|(token, _)| tokens.contains(token))
}

impl Host {
    /// Waits for an event of these tokens, but not longer than `limit`. Events of other tokens stay in their mailbox.
    ///
    /// # Errors
    /// Those of a lost connection to xenstored, whatever the tokens; those of a source.
    pub fn wait_for(
        &mut self,
        tokens: &[&str],
        limit: Duration,
    ) -> Result<Option<Event>, EngineError> {
        let deadline = self.clock.now() + limit;
        loop {
            let now = self.clock.now();
            if let Some(event) = self.store.next_event_of(tokens, now)? {
                return Ok(Some(Event::Watch(event)));
            }
            let taken = self.sources.take(tokens, now);
            if let Some(event) = taken.map_err(cannot_wait)? {
                return Ok(Some(event));
            }
            if now >= deadline {
                return Ok(None);
            }
            self.sleep(tokens, deadline)?;
        }
    }

    /// Sleeps until something has come, or a time at which to look again.
    fn sleep(&self, tokens: &[&str], deadline: Instant) -> Result<(), EngineError> {
        let mut awaited = self.sources.readiness(tokens);
        awaited.push(match self.store.arrival() {
            Some(arrival) => Readiness::Simulated(arrival),
            None => Readiness::Descriptor(self.store.as_fd()),
        });
        let wake_up = self.sources.wake_up(tokens, deadline);
        self.clock.wait_for(awaited, wake_up).map_err(cannot_wait)
    }

    /// Installs the doorbell of a VM for this process, which is the VM's monitor. Callers ring from then on.
    ///
    /// # Errors
    /// The system's: a doorbell needs room in `/run`.
    pub fn install_doorbell(&mut self, uuid: Uuid) -> Result<(), EngineError> {
        let path = self.dirs.doorbell(uuid);
        let failed = |source| EngineError::io("install the doorbell", &path, source);
        let folder = path.parent().unwrap_or(Path::new("/"));
        self.files.create_folder(folder).map_err(failed)?;
        self.sources.doorbell = Some(self.doorbells.install(&path).map_err(failed)?);
        Ok(())
    }

    /// Removes the doorbell that this process has. Connected callers learn that it has ended.
    pub fn remove_doorbell(&mut self) {
        if let Some(doorbell) = self.sources.doorbell.take() {
            // One that stays answers nobody, and the VM's next monitor replaces it.
            let _ = doorbell.uninstall();
        }
    }

    /// Rings back all who have rung at this process's doorbell and still wait.
    ///
    /// # Errors
    /// The system's.
    pub fn ring_back(&mut self) -> Result<(), EngineError> {
        match &mut self.sources.doorbell {
            Some(doorbell) => doorbell.ring_back().map_err(cannot_wait),
            None => Ok(()),
        }
    }

    /// Rings at the doorbell of a VM. `None` if no process answers there.
    ///
    /// # Errors
    /// The system's.
    pub fn ring(&self, uuid: Uuid) -> Result<Option<Rc<dyn Call>>, EngineError> {
        let path = self.dirs.doorbell(uuid);
        match self.doorbells.call(&path) {
            Ok(call) => Ok(Some(call)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::WouldBlock => {
                    Ok(None)
                }
                _ => Err(EngineError::io("ring at", &path, error)),
            },
        }
    }
}

fn cannot_wait(source: std::io::Error) -> EngineError {
    EngineError::io("wait for events of", Path::new("this process"), source)
}
