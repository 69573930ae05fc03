//! The queue of received watch events that the caller has not yet taken.
//!
//! Guests can cause any number of events. So the queue has a bound; above it, one event per watch replaces all.

use crate::path::Path;
use crate::wire::{WireError, nul_terminated};
use std::collections::{HashSet, VecDeque};

/// Most events that wait. Guests can cause events without end, so the queue must have a bound.
const WAITING_MAX: usize = 4096;

/// Something at or below a watched path has changed, or may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchEvent {
    /// The path that changed. The watched path itself when a watch is new, when something above it was removed, and when events
    /// came so fast that some were folded together: then look at everything below it.
    pub path: Path,
    /// The token given with the watch.
    pub token: String,
}

impl WatchEvent {
    /// Reads the payload of a watch event.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, WireError> {
        const BAD: WireError = WireError::BadPayload {
            expected: "a path and a token",
        };
        let strings = nul_terminated(payload)?;
        let [path, token, ..] = strings.as_slice() else {
            return Err(BAD);
        };
        let path = std::str::from_utf8(path)
            .ok()
            .and_then(|path| Path::new(path).ok())
            .ok_or(BAD)?;
        let token = std::str::from_utf8(token).map_err(|_| BAD)?.to_owned();
        Ok(Self { path, token })
    }
}

/// The queue, and the watches that feed it.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    waiting: VecDeque<WatchEvent>,
    /// The queued events, to find repeated ones. An event means "read again", so one of each is enough.
    known: HashSet<WatchEvent>,
    watches: Vec<WatchEvent>,
}

impl EventQueue {
    /// Adds an event unless the same one waits already.
    ///
    /// When the queue is full, all that waits is replaced by one event for each watch, as if all watches were new: nothing is
    /// lost, and memory stays bounded.
    pub fn push(&mut self, event: WatchEvent) {
        if self.known.contains(&event) {
            return;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting = self.watches.iter().cloned().collect();
            self.known = self.watches.iter().cloned().collect();
            return;
        }
        self.known.insert(event.clone());
        self.waiting.push_back(event);
    }

    /// Takes out the oldest event.
    pub fn pop(&mut self) -> Option<WatchEvent> {
        let event = self.waiting.pop_front()?;
        self.known.remove(&event);
        Some(event)
    }

    /// Takes out the oldest event of a watch with one of these tokens; those of other watches keep their places.
    pub fn pop_of(&mut self, tokens: &[&str]) -> Option<WatchEvent> {
        let is_of = |event: &WatchEvent| tokens.contains(&event.token.as_str());
        let event = self.waiting.remove(self.waiting.iter().position(is_of)?)?;
        self.known.remove(&event);
        Some(event)
    }

    /// Notes that a watch is set.
    pub fn add_watch(&mut self, path: &Path, token: &str) {
        self.watches.push(WatchEvent {
            path: path.clone(),
            token: token.to_owned(),
        });
    }

    /// Records that a watch was removed, and drops its queued events.
    pub fn remove_watch(&mut self, path: &Path, token: &str) {
        self.watches
            .retain(|watch| !(watch.path == *path && watch.token == token));
        self.waiting
            .retain(|event| !(event.token == token && event.path.is_at_or_below(path)));
        self.known = self.waiting.iter().cloned().collect();
    }

    /// The watches that are set.
    pub fn watches(&self) -> &[WatchEvent] {
        &self.watches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, token: &str) -> WatchEvent {
        WatchEvent {
            path: Path::new(path).unwrap(),
            token: token.to_owned(),
        }
    }

    #[test]
    fn repeated_events_wait_once() {
        let mut queue = EventQueue::default();
        for _ in 0..3 {
            queue.push(event("/a", "t"));
        }
        queue.push(event("/b", "t"));
        assert_eq!(queue.pop(), Some(event("/a", "t")));
        queue.push(event("/a", "t"));
        assert_eq!(queue.pop(), Some(event("/b", "t")));
        assert_eq!(queue.pop(), Some(event("/a", "t")));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn events_of_other_watches_keep_their_places() {
        let mut queue = EventQueue::default();
        for (path, token) in [("/a", "one"), ("/b", "two"), ("/c", "one")] {
            queue.push(event(path, token));
        }
        assert_eq!(queue.pop_of(&["two"]), Some(event("/b", "two")));
        assert_eq!(queue.pop_of(&["two", "three"]), None);
        // After it was taken, the same event may be queued again.
        queue.push(event("/b", "two"));
        assert_eq!(queue.pop(), Some(event("/a", "one")));
        assert_eq!(queue.pop_of(&["two", "one"]), Some(event("/c", "one")));
        assert_eq!(queue.pop(), Some(event("/b", "two")));
    }

    #[test]
    fn a_flood_is_folded_into_one_event_per_watch() {
        let mut queue = EventQueue::default();
        queue.add_watch(&Path::new("/a").unwrap(), "one");
        queue.add_watch(&Path::new("/b").unwrap(), "two");
        for number in 0..=WAITING_MAX {
            queue.push(event(&format!("/a/{number}"), "one"));
        }
        assert_eq!(queue.pop(), Some(event("/a", "one")));
        assert_eq!(queue.pop(), Some(event("/b", "two")));
        assert_eq!(queue.pop(), None);
        queue.push(event("/a", "one"));
        assert_eq!(queue.pop(), Some(event("/a", "one")));
    }

    #[test]
    fn unwatching_drops_what_waits() {
        let mut queue = EventQueue::default();
        let path = Path::new("/a").unwrap();
        queue.add_watch(&path, "one");
        for (path, token) in [("/a/b", "one"), ("/a", "two"), ("/ab", "one")] {
            queue.push(event(path, token));
        }
        queue.remove_watch(&path, "one");
        assert_eq!(queue.pop(), Some(event("/a", "two")));
        assert_eq!(queue.pop(), Some(event("/ab", "one")));
        assert!(queue.watches().is_empty());
    }

    #[test]
    fn hostile_payloads_are_refused() {
        assert_eq!(
            WatchEvent::from_payload(b"/a\0t\0").unwrap(),
            event("/a", "t")
        );
        assert_eq!(
            WatchEvent::from_payload(b"/a\0t\0more\0").unwrap(),
            event("/a", "t")
        );
        for payload in [
            b"".as_slice(),
            b"/a\0",
            b"/a\0t",
            b"/a b\0t\0",
            b"\xff\0t\0",
            b"/a\0\xff\0",
            b"\0t\0",
        ] {
            assert!(WatchEvent::from_payload(payload).is_err(), "{payload:?}");
        }
    }
}
