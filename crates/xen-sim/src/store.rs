//! The xenstored connection of a process that a test can kill.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use os_port::Clock;
use os_port::mem::VirtualClock;
use xenstore::mem::{Fault, MemStore, MemTransport};
use xenstore::transport::{Limits, Transport};
use xenstore::{Client, ErrorName};

use crate::backends::Backends;
use crate::fate::Fate;
use crate::guests::Guests;

/// Size of a message's header: type, request, transaction and length, 32 bits each.
const HEADER_BYTES: usize = 16;

/// The connection behind a fate.
pub(crate) struct MortalTransport {
    pub inner: MemTransport,
    pub store: MemStore,
    pub clock: VirtualClock,
    pub fate: Fate,
    pub backends: Backends,
    pub guests: Guests,
    /// Connection of domain 0's kernel, once it has something to do.
    pub kernel: Option<Client>,
}

impl AsFd for MortalTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Transport for MortalTransport {
    /// Each message is a call: xenstored may have got any number of them.
    fn send(&mut self, packets: &[u8], deadline: Instant) -> io::Result<()> {
        let mut rest = packets;
        while !rest.is_empty() {
            if self.backends.is_awake() {
                self.let_kernel_act();
            }
            let (message, later) = rest.split_at(length_of_first(rest));
            self.backends.see(message);
            let kind = message.get(..4).and_then(|kind| kind.try_into().ok());
            let kind = kind.map_or(0, u32::from_le_bytes);
            let fault = self.fault(kind);
            if let Some(fault) = fault.clone() {
                let mut fault = Some(fault);
                self.store.set_fault_hook(move |_| fault.take());
            }
            let misled = self.fate.trusts_guests().then(|| misled(message)).flatten();
            let message = misled.as_deref().unwrap_or(message);
            let inner = &mut self.inner;
            let sent = self.fate.call(
                || inner.send(message, deadline),
                || Err(ErrorKind::BrokenPipe.into()),
            );
            if fault.is_some() {
                self.store.clear_fault_hook();
            }
            sent?;
            rest = later;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        loop {
            match self.inner.receive(into, deadline) {
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    if self.let_kernel_act() {
                        continue;
                    }
                    if deadline <= self.clock.now() {
                        return Err(error);
                    }
                    let arrival = Box::new(self.inner.arrival());
                    if !self.fate.wait("xenstored", deadline, arrival) {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    fn arrival(&self) -> Option<Box<dyn Fn() -> bool + Send>> {
        Some(Box::new(self.inner.arrival()))
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn pause(&mut self, duration: Duration) {
        match self.fate.is_seated() {
            true => {
                let deadline = self.clock.now() + duration;
                self.fate.wait("a pause", deadline, Box::new(|| false));
            }
            false => self.inner.pause(duration),
        }
    }
}

impl MortalTransport {
    /// Domain 0's kernel acts beside the processes. Whether it had something to do.
    fn let_kernel_act(&mut self) -> bool {
        if !self.backends.is_used() && !self.guests.is_used() {
            return false;
        }
        if self.kernel.is_none() {
            self.kernel = self.store.client(0).ok();
        }
        let Some(kernel) = self.kernel.as_mut() else {
            return false;
        };
        let has_acted = self.backends.is_used() && self.backends.act(kernel);
        self.guests.is_used() && self.guests.act(kernel) || has_acted
    }

    /// The fault of the next request, which has this type.
    fn fault(&self, kind: u32) -> Option<Fault> {
        let lasting = self.fate.lasting().store(&self.fate, kind);
        let refused = lasting.map(Fault::Refuse);
        refused.or_else(|| {
            let op = format!("xenstore request {kind}");
            self.fate.fault(&op, faults(kind)).map(Fault::from)
        })
    }
}

/// A fault of a request.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    NoMemory,
    Again,
    Disconnect,
    LoseReply,
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Fault {
        match trouble {
            Trouble::NoMemory => Fault::Refuse(ErrorName::Enomem),
            Trouble::Again => Fault::Refuse(ErrorName::Eagain),
            Trouble::Disconnect => Fault::Disconnect,
            Trouble::LoseReply => Fault::LoseReply,
        }
    }
}

/// The possible faults of a request of this kind. Only the end of a transaction can be asked to try again.
fn faults(kind: u32) -> &'static [Trouble] {
    const TRANSACTION_END: u32 = 7;
    use Trouble::{Again, Disconnect, LoseReply, NoMemory};
    match kind {
        TRANSACTION_END => &[NoMemory, Disconnect, LoseReply, Again],
        _ => &[NoMemory, Disconnect, LoseReply],
    }
}

/// The same request about the guest's own nodes, instead of the toolstack's record of devices.
fn misled(message: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = message.split_at_checked(HEADER_BYTES)?;
    let text = std::str::from_utf8(payload).ok()?;
    let rest = text.strip_prefix("/libxl/")?;
    let (domid, below) = rest.split_once("/device")?;
    let payload = format!("/local/domain/{domid}/data{below}");
    let mut misled = header.get(..12)?.to_vec();
    misled.extend(u32::try_from(payload.len()).ok()?.to_le_bytes());
    misled.extend(payload.bytes());
    Some(misled)
}

fn length_of_first(packets: &[u8]) -> usize {
    let payload = packets
        .get(12..HEADER_BYTES)
        .and_then(|length| length.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    (HEADER_BYTES + payload as usize).min(packets.len())
}
