//! Guests that are asked to suspend themselves.
//!
//! They act while a simulated process waits, as guests do beside domain 0. [`SuspendManner`] makes one a bad guest. Facts: Linux'
//! `drivers/xen/manage.c`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use os_port::Clock;
use os_port::mem::VirtualClock;
use xen_port::{DomId, ShutdownReason};
use xenstore::mem::MemStore;
use xenstore::{Client, Path, Tree};

use crate::model::Model;

/// Behaviour of a guest that is asked to suspend itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendManner {
    /// It takes the request, and suspends itself.
    Good,
    /// It takes no request.
    Ignores,
    /// It takes the request, and suspends itself so much later.
    Late(Duration),
    /// It takes the request, and runs on.
    Refuses,
    /// It takes the request by removing the node, as some drivers of Windows do.
    RemovesNode,
    /// It takes the request, and crashes.
    Crashes,
}

impl SuspendManner {
    /// Time from the request to the end.
    fn delay(self) -> Duration {
        match self {
            SuspendManner::Late(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// The guests of a world that have drivers for being suspended. Clones share the same ones.
#[derive(Clone)]
pub struct Guests {
    inner: Arc<Mutex<BTreeMap<u16, Guest>>>,
    xen: Model,
    store: MemStore,
    clock: VirtualClock,
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Guest {
    manner: SuspendManner,
    /// Time at which it suspends itself.
    due: Option<Instant>,
}

impl Guests {
    pub(crate) fn new(xen: &Model, store: &MemStore, clock: &VirtualClock) -> Guests {
        Guests {
            inner: Arc::default(),
            xen: xen.clone(),
            store: store.clone(),
            clock: clock.clone(),
        }
    }

    /// A domain's guest behaves like this from now on.
    pub fn set_manner(&self, domid: DomId, manner: SuspendManner) {
        let guest = Guest { manner, due: None };
        self.lock().insert(domid.0, guest);
    }

    /// Whether there are any.
    pub(crate) fn is_used(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Lets each of them do what it has to do. Whether there was anything.
    pub(crate) fn act(&self, store: &mut Client) -> bool {
        let all: Vec<(u16, Guest)> = {
            let guests = self.lock();
            guests
                .iter()
                .map(|(domid, guest)| (*domid, *guest))
                .collect()
        };
        let acts = all
            .into_iter()
            .map(|(domid, guest)| self.act_as(domid, guest, store));
        acts.fold(false, |one, other| one | other)
    }

    fn act_as(&self, domid: u16, guest: Guest, store: &mut Client) -> bool {
        let runs = self
            .xen
            .domain(DomId(domid))
            .is_some_and(|domain| domain.is_running());
        if !runs || guest.manner == SuspendManner::Ignores {
            return false;
        }
        match guest.due {
            Some(due) if due <= self.clock.now() => {
                self.set_due(domid, None);
                self.end(DomId(domid), guest.manner);
                true
            }
            Some(_) => false,
            None => self.take_request(domid, guest.manner, store),
        }
    }

    fn take_request(&self, domid: u16, manner: SuspendManner, store: &mut Client) -> bool {
        let Ok(path) = Path::new(&format!("/local/domain/{domid}/control/shutdown")) else {
            return false;
        };
        if store.read_opt(&path).ok().flatten().as_deref() != Some(b"suspend") {
            return false;
        }
        // xenstored refuses a guest nothing here.
        let _ = match manner {
            SuspendManner::RemovesNode => store.rm(&path),
            _ => store.write(&path, b""),
        };
        self.set_due(domid, Some(self.clock.now() + manner.delay()));
        true
    }

    fn end(&self, domid: DomId, manner: SuspendManner) {
        let reason = match manner {
            SuspendManner::Refuses | SuspendManner::Ignores => return,
            SuspendManner::Crashes => ShutdownReason::Crash,
            _ => ShutdownReason::Suspend,
        };
        self.xen.shut_down(domid, reason);
        self.store.domain_shut_down(domid.0);
    }

    fn set_due(&self, domid: u16, due: Option<Instant>) {
        if let Some(guest) = self.lock().get_mut(&domid) {
            guest.due = due;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, Guest>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
