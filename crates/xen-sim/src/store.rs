//! A connection to xenstored of a process that can be killed.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use xenstore::mem::MemTransport;
use xenstore::transport::{Limits, Transport};

use crate::fate::Fate;

/// Size of a message's header: type, request, transaction and length, 32 bits each.
const HEADER_BYTES: usize = 16;

/// The connection behind a fate.
pub(crate) struct MortalTransport {
    pub inner: MemTransport,
    pub fate: Fate,
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
            let (message, later) = rest.split_at(length_of_first(rest));
            let inner = &mut self.inner;
            self.fate.call(
                || inner.send(message, deadline),
                || Err(ErrorKind::BrokenPipe.into()),
            )?;
            rest = later;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        self.inner.receive(into, deadline)
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn pause(&mut self, duration: Duration) {
        self.inner.pause(duration);
    }
}

fn length_of_first(packets: &[u8]) -> usize {
    let payload = packets
        .get(12..HEADER_BYTES)
        .and_then(|length| length.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    (HEADER_BYTES + payload as usize).min(packets.len())
}
