//! A xenstore client over the shared ring: one request at a time, watch events noted as they come.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};

use testguest_logic::ring;
use testguest_logic::text::Text;
use testguest_logic::wire::{self, HEADER_SIZE, Header, Kind, PAYLOAD_MAX};

use crate::{events, hypercall};

/// `xenstore_domain_interface` (public/io/xs_wire.h), as far as it is used.
#[repr(C)]
pub struct StoreRing {
    requests: [AtomicU8; 1024],
    replies: [AtomicU8; 1024],
    request_consumer: AtomicU32,
    request_producer: AtomicU32,
    reply_consumer: AtomicU32,
    reply_producer: AtomicU32,
}

const RING_SIZE: u32 = 1024;
/// Time limit for an answer of xenstored.
const ANSWER_NS: u64 = 10_000_000_000;
const POLL_NS: u64 = 1_000_000_000;

static RING: AtomicPtr<StoreRing> = AtomicPtr::new(ptr::null_mut());
static PORT: AtomicU32 = AtomicU32::new(0);

/// Uses `ring` and event channel `port` from now on.
///
/// # Safety
/// The ring stays mapped there, until the next call of this function.
pub unsafe fn attach(ring: *mut StoreRing, port: u32) {
    RING.store(ring, Ordering::Relaxed);
    PORT.store(port, Ordering::Relaxed);
}

/// Drops what an earlier connection left unread.
pub fn discard_replies() {
    if let Some(ring) = attached() {
        ring.reply_consumer.store(
            ring.reply_producer.load(Ordering::Acquire),
            Ordering::Release,
        );
    }
}

fn attached() -> Option<&'static StoreRing> {
    // SAFETY: `attach` was promised that the ring is mapped; all of it are atomics.
    unsafe { RING.load(Ordering::Relaxed).as_ref() }
}

/// xenstore's event channel.
pub fn port() -> u32 {
    PORT.load(Ordering::Relaxed)
}

/// The reasons why a request has no answer.
#[derive(Debug, Clone)]
pub enum Error {
    /// xenstored refused; the error's name, such as EACCES.
    Refused(Text<16>),
    /// No answer in time, or no ring.
    NoAnswer,
    /// An answer that breaks the protocol.
    BadAnswer,
    /// The request is longer than the protocol allows.
    TooLong,
}

impl Error {
    /// Whether xenstored refused with this error name.
    pub fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused(found) if found.as_str() == name)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(name) => f.write_str(name.as_str()),
            Self::NoAnswer => f.write_str("no answer from xenstored"),
            Self::BadAnswer => f.write_str("malformed answer from xenstored"),
            Self::TooLong => f.write_str("request too long"),
        }
    }
}

/// A xenstore client on the shared ring.
pub struct Store {
    last_request: u32,
    fired: u32,
    reply: [u8; PAYLOAD_MAX],
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A client; the ring is attached separately.
    pub const fn new() -> Self {
        Self {
            last_request: 0,
            fired: 0,
            reply: [0; PAYLOAD_MAX],
        }
    }

    /// Reads a node.
    pub fn read(&mut self, path: &str) -> Result<&[u8], Error> {
        self.read_in(0, path)
    }

    /// Reads a node inside a transaction (0: none).
    pub fn read_in(&mut self, transaction: u32, path: &str) -> Result<&[u8], Error> {
        self.request(Kind::Read, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Writes a node.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.write_in(0, path, value)
    }

    /// Writes a node inside a transaction (0: none).
    pub fn write_in(&mut self, transaction: u32, path: &str, value: &[u8]) -> Result<(), Error> {
        self.request(Kind::Write, transaction, &[path.as_bytes(), b"\0", value])
            .map(drop)
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        self.request(Kind::Rm, 0, &[path.as_bytes(), b"\0"])
            .map(drop)
    }

    /// The children of a node: names, each with a zero after it.
    pub fn directory(&mut self, path: &str) -> Result<&[u8], Error> {
        self.request(Kind::Directory, 0, &[path.as_bytes(), b"\0"])
    }

    /// Sets a node's permissions, such as `n0` and `r1`.
    pub fn set_permissions(&mut self, path: &str, permissions: &[&str]) -> Result<(), Error> {
        let mut text = Text::<256>::new();
        for permission in permissions {
            text.push_str(permission);
            text.push_str("\0");
        }
        self.request(
            Kind::SetPerms,
            0,
            &[path.as_bytes(), b"\0", text.as_str().as_bytes()],
        )
        .map(drop)
    }

    /// Watches `path`. The watch is number `index` in what [`Store::take_fired`] gives. One that
    /// exists already is kept.
    pub fn watch(&mut self, path: &str, index: u8) -> Result<(), Error> {
        let token = [b'a' + index];
        match self.request(Kind::Watch, 0, &[path.as_bytes(), b"\0", &token, b"\0"]) {
            Err(error) if !error.is("EEXIST") => Err(error),
            _ => Ok(()),
        }
    }

    /// Begins a transaction and gives its number.
    pub fn begin(&mut self) -> Result<u32, Error> {
        let reply = self.request(Kind::TransactionStart, 0, &[b"\0"])?;
        let text = core::str::from_utf8(wire::without_end(reply)).map_err(|_| Error::BadAnswer)?;
        text.parse().map_err(|_| Error::BadAnswer)
    }

    /// Commits a transaction. `EAGAIN` asks to try all of it again.
    pub fn commit(&mut self, transaction: u32) -> Result<(), Error> {
        self.request(Kind::TransactionEnd, transaction, &[b"T\0"])
            .map(drop)
    }

    /// Abandons a transaction.
    pub fn abort(&mut self, transaction: u32) {
        let _ = self.request(Kind::TransactionEnd, transaction, &[b"F\0"]);
    }

    /// The watches that fired since the last call, as a bit set.
    pub fn take_fired(&mut self) -> u32 {
        while self.has_message() {
            if self.receive(events::now_ns() + ANSWER_NS).is_err() {
                break;
            }
        }
        core::mem::take(&mut self.fired)
    }

    /// Whether no watch has fired that [`Store::take_fired`] has not given yet.
    pub fn is_quiet(&self) -> bool {
        self.fired == 0 && !self.has_message()
    }

    fn request(&mut self, kind: Kind, transaction: u32, parts: &[&[u8]]) -> Result<&[u8], Error> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > PAYLOAD_MAX {
            return Err(Error::TooLong);
        }
        self.last_request = self.last_request.wrapping_add(1);
        let request_id = self.last_request;
        let deadline_ns = events::now_ns() + ANSWER_NS;
        let header = Header {
            kind: kind as u32,
            request_id,
            transaction,
            len: len as u32,
        };
        send(&header.encode(), deadline_ns)?;
        for part in parts {
            send(part, deadline_ns)?;
        }
        hypercall::notify(port());
        loop {
            let reply = self.receive(deadline_ns)?;
            if reply.kind == Kind::WatchEvent as u32 || reply.request_id != request_id {
                continue;
            }
            let payload = self
                .reply
                .get(..reply.len as usize)
                .ok_or(Error::BadAnswer)?;
            return match reply.kind {
                found if found == kind as u32 => Ok(payload),
                found if found == Kind::Error as u32 => {
                    Err(Error::Refused(Text::from_bytes(wire::without_end(payload))))
                }
                _ => Err(Error::BadAnswer),
            };
        }
    }

    /// Takes one message off the ring; a watch event is noted.
    fn receive(&mut self, deadline_ns: u64) -> Result<Header, Error> {
        let mut bytes = [0; HEADER_SIZE];
        receive_bytes(&mut bytes, deadline_ns)?;
        let header = Header::decode(&bytes).ok_or(Error::BadAnswer)?;
        let payload = self
            .reply
            .get_mut(..header.len as usize)
            .ok_or(Error::BadAnswer)?;
        receive_bytes(payload, deadline_ns)?;
        if header.kind == Kind::WatchEvent as u32
            && let Some((_, &[token])) = wire::watch_event(payload)
        {
            self.fired |= 1u32
                .checked_shl(u32::from(token.wrapping_sub(b'a')))
                .unwrap_or(0);
        }
        Ok(header)
    }

    fn has_message(&self) -> bool {
        attached().is_some_and(|ring| {
            let producer = ring.reply_producer.load(Ordering::Acquire);
            let consumer = ring.reply_consumer.load(Ordering::Relaxed);
            ring::used(producer, consumer, RING_SIZE).unwrap_or(0) >= HEADER_SIZE as u32
        })
    }
}

fn send(mut bytes: &[u8], deadline_ns: u64) -> Result<(), Error> {
    let ring = attached().ok_or(Error::NoAnswer)?;
    while !bytes.is_empty() {
        let producer = ring.request_producer.load(Ordering::Relaxed);
        let free = || {
            let consumer = ring.request_consumer.load(Ordering::Acquire);
            RING_SIZE - ring::used(producer, consumer, RING_SIZE).unwrap_or(RING_SIZE)
        };
        if free() == 0 {
            hypercall::notify(port());
            sleep_until(|| free() > 0, deadline_ns)?;
        }
        let (offset, len) = ring::piece(producer, free().min(bytes.len() as u32), RING_SIZE);
        let (now, rest) = bytes.split_at(len as usize);
        for (slot, &byte) in ring.requests.iter().skip(offset as usize).zip(now) {
            slot.store(byte, Ordering::Relaxed);
        }
        ring.request_producer
            .store(producer.wrapping_add(len), Ordering::Release);
        bytes = rest;
    }
    Ok(())
}

fn receive_bytes(mut to: &mut [u8], deadline_ns: u64) -> Result<(), Error> {
    let ring = attached().ok_or(Error::NoAnswer)?;
    while !to.is_empty() {
        let consumer = ring.reply_consumer.load(Ordering::Relaxed);
        let waiting = || {
            let producer = ring.reply_producer.load(Ordering::Acquire);
            ring::used(producer, consumer, RING_SIZE).unwrap_or(0)
        };
        sleep_until(|| waiting() > 0, deadline_ns)?;
        let full = waiting() == RING_SIZE;
        let (offset, len) = ring::piece(consumer, waiting().min(to.len() as u32), RING_SIZE);
        let (now, rest) = to.split_at_mut(len as usize);
        for (slot, byte) in ring.replies.iter().skip(offset as usize).zip(now) {
            *byte = slot.load(Ordering::Relaxed);
        }
        ring.reply_consumer
            .store(consumer.wrapping_add(len), Ordering::Release);
        if full {
            // xenstored waits for room.
            hypercall::notify(port());
        }
        to = rest;
    }
    Ok(())
}

fn sleep_until(ready: impl Fn() -> bool, deadline_ns: u64) -> Result<(), Error> {
    loop {
        events::clear_pending(port());
        if ready() {
            return Ok(());
        }
        let now_ns = events::now_ns();
        if now_ns >= deadline_ns {
            return Err(Error::NoAnswer);
        }
        events::wait(&[port()], deadline_ns.min(now_ns + POLL_NS));
    }
}
