//! An in-memory xenstored, for tests and for simulated worlds.
//!
//! It speaks the real wire protocol and follows the C daemon (`tools/xenstored`) in what clients can notice: permissions and
//! which error hides what, order of children, transactions with the same conflict rule (each touched node must be unchanged
//! at the commit), watches and who may see them, quotas for unprivileged domains, nodes of a released domain going
//! away. Faults can be put in at each request.
//!
//! ```
//! use xenstore::mem::{Fault, MemStore};
//! use xenstore::{ErrorName, Path, Tree};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemStore::new();
//! let mut client = store.client(0)?;
//! client.write(&Path::new("/tool/x")?, b"1")?;
//! store.set_fault_hook(|request| (request.number == 1).then_some(Fault::Refuse(ErrorName::Enospc)));
//! assert!(client.write(&Path::new("/tool/x")?, b"2").is_err());
//! assert_eq!(client.read(&Path::new("/tool/x")?)?, b"1");
//! # Ok(())
//! # }
//! ```

mod daemon;
mod tree;

use crate::client::{Client, Settings};
use crate::path::Path;
use crate::perms::Perms;
use crate::transport::{Limits, Transport, wait_readable};
use crate::wire::{ErrorName, PAYLOAD_MAX, Packet};
use daemon::{ConnectionId, Daemon};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The facts about a request that [`MemStore::set_fault_hook`] gets.
#[derive(Debug)]
pub struct SeenRequest<'a> {
    /// Number of the request, from 1, over all connections. It counts from the store's creation, or from
    /// [`MemStore::set_fault_hook`].
    pub number: u64,
    /// Domain that asks.
    pub domid: u16,
    /// The request itself.
    pub packet: &'a Packet,
}

/// A fault of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request has no effect, and is refused with this error.
    Refuse(ErrorName),
    /// The request has no effect and no reply.
    Ignore,
    /// The request has its effect, but no reply.
    LoseReply,
    /// The request has no effect, and the connection is closed.
    Disconnect,
    /// The request has its effect, but the reply has these bytes.
    Garble(Vec<u8>),
}

/// Limits that xenstored sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Most nodes that a domain may own.
    pub nodes_max: usize,
    /// Largest size of a node: value, names of children, 8 bytes for each permission.
    pub node_size_max_bytes: usize,
    /// Most watches of a connection.
    pub watches_max: usize,
    /// Most open transactions of a connection.
    pub transactions_max: usize,
    /// Most permission entries of a node.
    pub perms_max: usize,
    /// Whether the quotas apply to domain 0, which xenstored exempts.
    pub apply_to_domain_0: bool,
}

impl Default for Quotas {
    /// The quotas of the C daemon.
    fn default() -> Self {
        Self {
            nodes_max: 1000,
            node_size_max_bytes: 2048,
            watches_max: 128,
            transactions_max: 10,
            perms_max: 5,
            apply_to_domain_0: false,
        }
    }
}

/// The in-memory xenstored; clones are the same one.
#[derive(Clone)]
pub struct MemStore {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    daemon: Daemon,
    keeps_time: bool,
}

impl Default for MemStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemStore {
    /// A store with the nodes that a fresh xenstored has.
    pub fn new() -> Self {
        let shared = Shared {
            daemon: Daemon::new(),
            keeps_time: true,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// A connection for a domain.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub fn connect(&self, domid: u16) -> io::Result<MemTransport> {
        let arrived = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let id = self.lock().daemon.connect(domid, Arc::clone(&arrived));
        let limits = Limits {
            requests_in_flight_max: 64,
            payload_max_bytes: PAYLOAD_MAX,
        };
        Ok(MemTransport {
            store: self.clone(),
            id,
            arrived,
            limits,
        })
    }

    /// A client for a domain, with default settings.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub fn client(&self, domid: u16) -> io::Result<Client> {
        Ok(Client::new(
            Box::new(self.connect(domid)?),
            Settings::default(),
        ))
    }

    /// Whether waits take real time. If not, a wait for missing bytes fails at once, and pauses take no time. The
    /// default is true.
    pub fn set_keeps_time(&self, keeps_time: bool) {
        self.lock().keeps_time = keeps_time;
    }

    /// Sets the limits.
    pub fn set_quotas(&self, quotas: Quotas) {
        self.lock().daemon.quotas = quotas;
    }

    /// Calls `hook` before each request to select a fault. Restarts the count of requests.
    pub fn set_fault_hook(
        &self,
        hook: impl FnMut(&SeenRequest<'_>) -> Option<Fault> + Send + 'static,
    ) {
        self.lock().daemon.set_fault_hook(Some(Box::new(hook)));
    }

    /// Removes the hook. Restarts the count of requests.
    pub fn clear_fault_hook(&self) {
        self.lock().daemon.set_fault_hook(None);
    }

    /// A domain has shut down, crashed or suspended itself: `@releaseDomain` fires.
    pub fn domain_shut_down(&self, domid: u16) {
        self.lock().daemon.domain_shut_down(domid);
    }

    /// A domain is gone: its connections and the nodes that it owns go too, `@releaseDomain` fires.
    pub fn domain_destroyed(&self, domid: u16) {
        self.lock().daemon.domain_destroyed(domid);
    }

    /// All nodes with values and permissions, special paths included.
    pub fn nodes(&self) -> BTreeMap<Path, (Vec<u8>, Perms)> {
        self.lock().daemon.nodes()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A test that panics while it holds the lock shall not hide its own message behind another panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to a [`MemStore`].
pub struct MemTransport {
    store: MemStore,
    id: ConnectionId,
    /// Readable as long as something is there to be received.
    arrived: Arc<OwnedFd>,
    limits: Limits,
}

impl MemTransport {
    /// Sets other limits, for instance those of the device.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Returns a function that checks whether bytes have arrived or the connection is closed.
    pub fn arrival(&self) -> impl Fn() -> bool + Send + use<> {
        let (store, id) = (self.store.clone(), self.id);
        move || store.lock().daemon.has_output(id)
    }

    /// Takes the bytes that have arrived. `None` while the connection is open and there are none.
    fn take_arrived(&self, into: &mut Vec<u8>) -> Option<usize> {
        self.store.lock().daemon.take_output(self.id, into)
    }
}

impl Transport for MemTransport {
    fn send(&mut self, packets: &[u8], _deadline: Instant) -> io::Result<()> {
        if self.store.lock().daemon.input(self.id, packets) {
            Ok(())
        } else {
            Err(ErrorKind::BrokenPipe.into())
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        loop {
            if let Some(received) = self.take_arrived(into) {
                return Ok(received);
            }
            if !self.store.lock().keeps_time {
                return Err(ErrorKind::TimedOut.into());
            }
            wait_readable(self.arrived.as_fd(), deadline)?;
        }
    }

    fn arrival(&self) -> Option<Box<dyn Fn() -> bool + Send>> {
        let keeps_time = self.store.lock().keeps_time;
        (!keeps_time).then(|| Box::new(MemTransport::arrival(self)) as Box<dyn Fn() -> bool + Send>)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn pause(&mut self, duration: Duration) {
        if self.store.lock().keeps_time {
            std::thread::sleep(duration);
        }
    }
}

impl AsFd for MemTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        self.store.lock().daemon.disconnect(self.id);
    }
}
