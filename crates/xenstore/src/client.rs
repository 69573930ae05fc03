//! The connection to xenstored: sends requests, receives replies and watch events.
//!
//! A [`Client`] is open or closed. An I/O or protocol error closes it for good; then all requests fail with
//! [`Error::Closed`].

use crate::batch::{Batch, Replies, Request, nul_ended};
use crate::error::Error;
use crate::events::{EventQueue, WatchEvent};
use crate::path::Path;
use crate::retry::RetryPolicy;
use crate::transport::{self, Transport};
use crate::tree::Tree;
use crate::wire::{self, Decoder, ErrorName, HEADER_SIZE, MessageKind, Packet, WireError};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Maximum number of request bytes that are sent before their replies are read. It is well below the size of a Unix
/// socket's buffer (208 KiB by default), so that a send seldom waits.
const BYTES_IN_FLIGHT_MAX: usize = 32 * 1024;

/// The transaction id of requests outside any transaction.
const NO_TRANSACTION: u32 = 0;

/// Name of the events in error texts.
const EVENTS: &str = "watch events";

/// Time limits of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time limit of one round trip: a request, or the requests of a batch that are sent together.
    pub request_timeout: Duration,
    /// The policy for repeating transactions.
    pub retry: RetryPolicy,
}

impl Default for Settings {
    /// 20 s for each round trip, and the default retries.
    ///
    /// A working xenstored answers within milliseconds. But it handles one request at a time, and removing a large
    /// tree takes long, because each removal of a child rewrites the list of children. The host can also be very
    /// busy. A wrong error does more harm than a late one.
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(20),
            retry: RetryPolicy::default(),
        }
    }
}

/// Counters of a client since its creation. Tests use them for budgets, because they do not depend on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of requests sent.
    pub requests: u64,
    /// Number of waits for replies; requests of a batch share one wait.
    pub round_trips: u64,
    /// Bytes sent, headers included.
    pub bytes_out: u64,
    /// Bytes received, headers and watch events included.
    pub bytes_in: u64,
    /// Watch events received, repeated ones included.
    pub watch_events: u64,
    /// Transactions begun, repeated tries included.
    pub transactions: u64,
    /// Commits that failed because of a conflict.
    pub conflicts: u64,
}

/// A connection to xenstored. Reading and changing nodes is in [`Tree`].
///
/// It is readable ([`AsFd`]) when something has arrived, but events may also wait inside: before polling, call
/// [`Client::try_next_event`] until it gives none. After an error for which [`Error::is_connection_lost`] holds, all further
/// requests fail with [`Error::Closed`]; watches are gone with the connection.
pub struct Client {
    transport: Box<dyn Transport>,
    settings: Settings,
    decoder: Decoder,
    events: EventQueue,
    next_request_id: u32,
    is_open: bool,
    stats: Stats,
}

/// xenstored's answer to a request: a payload, or the name of an error.
type Answer = Result<Vec<u8>, ErrorName>;

/// The reasons why a connection is lost.
enum Loss {
    Io(io::Error),
    Wire(WireError),
    End,
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<WireError> for Loss {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// A lost connection, and the first request without an answer.
struct LostAt {
    index: usize,
    loss: Loss,
}

impl Client {
    /// Connects to this host's xenstored: see [`transport::open`].
    ///
    /// # Errors
    /// [`Error::NotPermittedToConnect`], [`Error::NoDaemon`].
    pub fn connect() -> Result<Self, Error> {
        Self::connect_with(Settings::default())
    }

    /// Connects to this host's xenstored with these time limits; connecting is under the request's limit.
    ///
    /// # Errors
    /// [`Error::NotPermittedToConnect`], [`Error::NoDaemon`].
    pub fn connect_with(settings: Settings) -> Result<Self, Error> {
        let transport = transport::open(deadline_in(settings.request_timeout))?;
        Ok(Self::new(transport, settings))
    }

    /// Talks over a transport that is open already.
    pub fn new(transport: Box<dyn Transport>, settings: Settings) -> Self {
        Self {
            transport,
            settings,
            decoder: Decoder::of_replies(),
            events: EventQueue::default(),
            next_request_id: 1,
            is_open: true,
            stats: Stats::default(),
        }
    }

    /// The time limits.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes the time limits of later requests.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The counters of this client.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Asks for events about changes at and below a path. The first event comes at once.
    ///
    /// The token is given back with each event. A second watch with the same path and token is refused.
    ///
    /// # Errors
    /// [`Error::NulByte`]; see [`Tree`].
    pub fn watch(&mut self, path: &Path, token: &str) -> Result<(), Error> {
        self.request(watch_request(MessageKind::Watch, path, token)?)?;
        self.events.add_watch(path, token);
        Ok(())
    }

    /// Ends a watch. Events of it that still wait are dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such watch; see [`Tree`].
    pub fn unwatch(&mut self, path: &Path, token: &str) -> Result<(), Error> {
        self.request(watch_request(MessageKind::Unwatch, path, token)?)?;
        self.events.remove_watch(path, token);
        Ok(())
    }

    /// Ends all watches of this client.
    ///
    /// One unwatch request for each, not the one request that xenstored has for it: over the device that one would end the
    /// kernel's own watches too.
    ///
    /// # Errors
    /// See [`Tree`].
    pub fn reset_watches(&mut self) -> Result<(), Error> {
        let watches = self.events.watches().to_vec();
        let request = |watch: &WatchEvent| {
            watch_request(MessageKind::Unwatch, &watch.path, &watch.token)
                .map(Request::may_be_absent)
        };
        let requests: Vec<Request> = watches.iter().map(request).collect::<Result<_, _>>()?;
        self.run_requests(NO_TRANSACTION, &requests)?;
        for watch in &watches {
            self.events.remove_watch(&watch.path, &watch.token);
        }
        Ok(())
    }

    /// The next event; waits for it until the deadline and gives none when that has passed.
    ///
    /// # Errors
    /// Those of a lost connection.
    pub fn next_event(&mut self, deadline: Instant) -> Result<Option<WatchEvent>, Error> {
        self.next_event_with(deadline, EventQueue::pop)
    }

    /// The next event of a watch with one of these tokens, as [`Client::next_event`]. Events of other watches wait on:
    /// a wait within another wait takes none of the outer one's events.
    ///
    /// # Errors
    /// Those of a lost connection.
    pub fn next_event_of(
        &mut self,
        tokens: &[&str],
        deadline: Instant,
    ) -> Result<Option<WatchEvent>, Error> {
        self.next_event_with(deadline, |events| events.pop_of(tokens))
    }

    fn next_event_with(
        &mut self,
        deadline: Instant,
        mut take: impl FnMut(&mut EventQueue) -> Option<WatchEvent>,
    ) -> Result<Option<WatchEvent>, Error> {
        loop {
            if let Some(event) = take(&mut self.events) {
                return Ok(Some(event));
            }
            if !self.is_open {
                return Err(Error::Closed {
                    operation: MessageKind::WatchEvent,
                    object: EVENTS.to_owned(),
                });
            }
            match self.receive_event(deadline) {
                Ok(()) => {}
                Err(Loss::Io(error)) if error.kind() == ErrorKind::TimedOut => return Ok(None),
                Err(loss) => return Err(self.lost(MessageKind::WatchEvent, EVENTS, loss)),
            }
        }
    }

    /// The next event that has arrived; does not wait.
    ///
    /// # Errors
    /// Those of a lost connection.
    pub fn try_next_event(&mut self) -> Result<Option<WatchEvent>, Error> {
        self.next_event(Instant::now())
    }

    /// A function that returns true once something has arrived, in a simulated world. `None` for a real connection: its
    /// descriptor ([`AsFd`]) is readable then.
    pub fn arrival(&self) -> Option<Box<dyn Fn() -> bool + Send>> {
        self.transport.arrival()
    }

    /// Connects a domain to xenstored: its ring page `gfn` and the event channel `port` that it keeps unbound for that.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`] when there is no such domain or port; see [`Tree`].
    pub fn introduce(&mut self, domid: u16, gfn: u64, port: u32) -> Result<(), Error> {
        self.domain_request(MessageKind::Introduce, domid, &[gfn, u64::from(port)])
            .map(drop)
    }

    /// Disconnects a domain.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`] when it is not connected; see [`Tree`].
    pub fn release(&mut self, domid: u16) -> Result<(), Error> {
        self.domain_request(MessageKind::Release, domid, &[])
            .map(drop)
    }

    /// Reports that a domain which had shut down for a suspend runs again, so that its next shutdown is noticed.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`] if it is not connected; see [`Tree`].
    pub fn resume(&mut self, domid: u16) -> Result<(), Error> {
        self.domain_request(MessageKind::Resume, domid, &[])
            .map(drop)
    }

    /// Gives a device model's domain the rights of the domain that it serves.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`] when one of them is not connected; see [`Tree`].
    pub fn set_target(&mut self, domid: u16, target_domid: u16) -> Result<(), Error> {
        self.domain_request(MessageKind::SetTarget, domid, &[u64::from(target_domid)])
            .map(drop)
    }

    /// Is a domain connected to xenstored?
    ///
    /// # Errors
    /// See [`Tree`].
    pub fn is_introduced(&mut self, domid: u16) -> Result<bool, Error> {
        match self
            .domain_request(MessageKind::IsDomainIntroduced, domid, &[])?
            .as_slice()
        {
            b"T\0" => Ok(true),
            b"F\0" => Ok(false),
            _ => Err(domain_answer_malformed(domid, "T or F")),
        }
    }

    /// The home of a domain, as xenstored has it.
    ///
    /// # Errors
    /// See [`Tree`].
    pub fn get_domain_path(&mut self, domid: u16) -> Result<Path, Error> {
        let reply = self.domain_request(MessageKind::GetDomainPath, domid, &[])?;
        let text = reply
            .strip_suffix(b"\0")
            .and_then(|path| std::str::from_utf8(path).ok());
        text.and_then(|path| Path::new(path).ok())
            .ok_or_else(|| domain_answer_malformed(domid, "a path"))
    }

    /// A command to xenstored itself, such as `["quota"]`; gives its answer as text. Which commands there are differs between
    /// xenstored's versions.
    ///
    /// # Errors
    /// [`Error::NulByte`]; see [`Tree`].
    pub fn control(&mut self, command: &[&str]) -> Result<String, Error> {
        let mut payload = Vec::new();
        for word in command {
            refuse_nul(MessageKind::Control, word)?;
            payload.extend_from_slice(&nul_ended(word));
        }
        let reply = self.request(Request::new(
            MessageKind::Control,
            command.join(" "),
            payload,
        ))?;
        Ok(String::from_utf8_lossy(&reply)
            .trim_end_matches('\0')
            .to_owned())
    }

    /// A request about a domain: its payload is the domain id and further numbers, in decimal.
    fn domain_request(
        &mut self,
        kind: MessageKind,
        domid: u16,
        numbers: &[u64],
    ) -> Result<Vec<u8>, Error> {
        let mut payload = nul_ended(&domid.to_string());
        for number in numbers {
            payload.extend_from_slice(&nul_ended(&number.to_string()));
        }
        self.request(Request::new(kind, format!("domain {domid}"), payload))
    }

    /// Carries out a batch within a transaction.
    pub(crate) fn run_in(&mut self, transaction_id: u32, batch: &Batch) -> Result<Replies, Error> {
        self.run_requests(transaction_id, batch.requests())
    }

    /// Sends one request outside any transaction. Returns the payload of the reply.
    pub(crate) fn request(&mut self, request: Request) -> Result<Vec<u8>, Error> {
        self.request_in(NO_TRANSACTION, request)
    }

    /// Sends one request within a transaction. Returns the payload of the reply.
    pub(crate) fn request_in(
        &mut self,
        transaction_id: u32,
        request: Request,
    ) -> Result<Vec<u8>, Error> {
        self.run_requests(transaction_id, &[request])
            .map(|replies| replies.into_only().unwrap_or_default())
    }

    pub(crate) fn pause(&mut self, duration: Duration) {
        self.transport.pause(duration);
    }

    pub(crate) fn count_transaction(&mut self) {
        self.stats.transactions += 1;
    }

    pub(crate) fn count_conflict(&mut self) {
        self.stats.conflicts += 1;
    }

    /// Sends the requests in as few round trips as the limits allow; gives the replies, or the first refusal. After a round trip
    /// with a refusal nothing more is sent.
    fn run_requests(
        &mut self,
        transaction_id: u32,
        requests: &[Request],
    ) -> Result<Replies, Error> {
        self.refuse_too_large(requests)?;
        let mut values = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let (together, later) = rest.split_at(self.fitting_together(rest));
            let answers = self.round_trip(transaction_id, together)?;
            for (request, answer) in together.iter().zip(answers) {
                values.push(judge(request, answer)?);
            }
            rest = later;
        }
        Ok(Replies { values })
    }

    fn refuse_too_large(&self, requests: &[Request]) -> Result<(), Error> {
        let limit_bytes = self.transport.limits().payload_max_bytes;
        match requests
            .iter()
            .find(|request| request.payload.len() > limit_bytes)
        {
            Some(request) => Err(Error::TooLarge {
                operation: request.kind,
                object: request.object.clone(),
                size_bytes: request.payload.len(),
                limit_bytes,
            }),
            None => Ok(()),
        }
    }

    /// Number of requests, at least one, that may be sent together.
    fn fitting_together(&self, requests: &[Request]) -> usize {
        let mut bytes = 0;
        let fits = |request: &&Request| {
            bytes += HEADER_SIZE + request.payload.len();
            bytes <= BYTES_IN_FLIGHT_MAX
        };
        let most = self.transport.limits().requests_in_flight_max;
        requests.iter().take(most).take_while(fits).count().max(1)
    }

    /// Sends requests together and waits for all their replies. Without all of them the connection is given up.
    fn round_trip(
        &mut self,
        transaction_id: u32,
        requests: &[Request],
    ) -> Result<Vec<Answer>, Error> {
        let (operation, object) = named(requests, 0);
        if !self.is_open {
            return Err(Error::Closed {
                operation,
                object: object.to_owned(),
            });
        }
        match self.exchange(transaction_id, requests) {
            Ok(answers) => Ok(answers),
            Err(LostAt { index, loss }) => {
                let (operation, object) = named(requests, index);
                Err(self.lost(operation, object, loss))
            }
        }
    }

    fn exchange(
        &mut self,
        transaction_id: u32,
        requests: &[Request],
    ) -> Result<Vec<Answer>, LostAt> {
        let deadline = deadline_in(self.settings.request_timeout);
        let first_id = self.next_request_id;
        self.send(transaction_id, requests, deadline)
            .map_err(|loss| LostAt { index: 0, loss })?;
        let mut replies: Vec<Option<Answer>> = vec![None; requests.len()];
        let mut missing = requests.len();
        while missing > 0 {
            match self.receive_reply(first_id, requests, &mut replies, deadline) {
                Ok(count) => missing -= count,
                Err(loss) => {
                    let index = replies.iter().position(Option::is_none).unwrap_or_default();
                    return Err(LostAt { index, loss });
                }
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    fn send(
        &mut self,
        transaction_id: u32,
        requests: &[Request],
        deadline: Instant,
    ) -> Result<(), Loss> {
        let mut packets = Vec::new();
        for request in requests {
            wire::encode(
                request.kind,
                self.next_request_id,
                transaction_id,
                &request.payload,
                &mut packets,
            )?;
            self.next_request_id = self.next_request_id.wrapping_add(1);
            self.stats.requests += 1;
        }
        self.stats.round_trips += 1;
        self.stats.bytes_out += packets.len() as u64;
        Ok(self.transport.send(&packets, deadline)?)
    }

    /// Receives one packet: a reply goes to its request, an event to the queue. Returns the number of replies, 0 or
    /// 1.
    ///
    /// Replies may come in any order (`docs/misc/xenstore.txt`), with events between them.
    fn receive_reply(
        &mut self,
        first_id: u32,
        requests: &[Request],
        replies: &mut [Option<Answer>],
        deadline: Instant,
    ) -> Result<usize, Loss> {
        let packet = self.receive_packet(deadline)?;
        if packet.kind == MessageKind::WatchEvent {
            self.queue_event(&packet)?;
            // A stream of events must not keep a missing reply from being noticed.
            in_time(deadline)?;
            return Ok(0);
        }
        let unexpected = WireError::UnexpectedReply {
            request_id: packet.request_id,
        };
        let index = usize::try_from(packet.request_id.wrapping_sub(first_id)).unwrap_or(usize::MAX);
        let (Some(request), Some(slot @ None)) = (requests.get(index), replies.get_mut(index))
        else {
            return Err(unexpected.into());
        };
        *slot = Some(answer(request, packet)?);
        Ok(1)
    }

    /// Receives a packet that can only be an event, as no request is under way.
    fn receive_event(&mut self, deadline: Instant) -> Result<(), Loss> {
        let packet = self.receive_packet(deadline)?;
        if packet.kind != MessageKind::WatchEvent {
            return Err(WireError::UnexpectedReply {
                request_id: packet.request_id,
            }
            .into());
        }
        Ok(self.queue_event(&packet)?)
    }

    fn queue_event(&mut self, packet: &Packet) -> Result<(), WireError> {
        self.stats.watch_events += 1;
        self.events.push(WatchEvent::from_payload(&packet.payload)?);
        Ok(())
    }

    fn receive_packet(&mut self, deadline: Instant) -> Result<Packet, Loss> {
        loop {
            if let Some(packet) = self.decoder.next_packet()? {
                return Ok(packet);
            }
            let received = self.transport.receive(self.decoder.buffer(), deadline)?;
            self.stats.bytes_in += received as u64;
            if received == 0 {
                return match self.decoder.waiting_bytes() {
                    0 => Err(Loss::End),
                    size_bytes => Err(WireError::Truncated { size_bytes }.into()),
                };
            }
        }
    }

    /// Marks the connection as lost, and returns the error. A connection with an unanswered request cannot be used
    /// again. The answer might still come, and over the device the next request would overwrite the present one.
    fn lost(&mut self, operation: MessageKind, object: &str, loss: Loss) -> Error {
        self.is_open = false;
        let object = object.to_owned();
        let transport = self.transport.describe();
        match loss {
            Loss::Wire(violation) => Error::Protocol {
                operation,
                object,
                transport,
                violation,
            },
            Loss::End => Error::Disconnected {
                operation,
                object,
                transport,
            },
            Loss::Io(source) => match source.kind() {
                ErrorKind::TimedOut => {
                    let waited_ms = u64::try_from(self.settings.request_timeout.as_millis())
                        .unwrap_or(u64::MAX);
                    Error::NotAnswering {
                        operation,
                        object,
                        transport,
                        waited_ms,
                    }
                }
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::Disconnected {
                    operation,
                    object,
                    transport,
                },
                _ => Error::Io {
                    operation,
                    object,
                    transport,
                    source,
                },
            },
        }
    }
}

impl Tree for Client {
    fn run(&mut self, batch: &Batch) -> Result<Replies, Error> {
        self.run_in(NO_TRANSACTION, batch)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("transport", &self.transport.describe())
            .field("is_open", &self.is_open)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// Deadline of a wait that begins now. Longer times than a year, which might overflow, count as a year.
fn deadline_in(duration: Duration) -> Instant {
    Instant::now() + duration.min(Duration::from_secs(365 * 24 * 3600))
}

/// Fails once the deadline has passed.
fn in_time(deadline: Instant) -> Result<(), Loss> {
    if Instant::now() > deadline {
        return Err(io::Error::from(ErrorKind::TimedOut).into());
    }
    Ok(())
}

/// Operation and object of a request, for error texts.
fn named(requests: &[Request], index: usize) -> (MessageKind, &str) {
    match requests.get(index) {
        Some(request) => (request.kind, &request.object),
        None => (MessageKind::Unknown(u32::MAX), ""),
    }
}

/// Takes the answer out of a reply.
fn answer(request: &Request, packet: Packet) -> Result<Answer, WireError> {
    match packet.kind {
        MessageKind::Error => Ok(Err(ErrorName::from_payload(&packet.payload))),
        kind if kind == request.kind => Ok(Ok(packet.payload)),
        got => Err(WireError::WrongKind {
            asked: request.kind,
            got,
        }),
    }
}

/// Success, allowed absence, or failure?
fn judge(request: &Request, answer: Answer) -> Result<Option<Vec<u8>>, Error> {
    match answer {
        Ok(payload) => Ok(Some(payload)),
        Err(ErrorName::Enoent) if request.may_be_absent => Ok(None),
        Err(reason) => Err(Error::refused(request.kind, &request.object, reason)),
    }
}

fn watch_request(kind: MessageKind, path: &Path, token: &str) -> Result<Request, Error> {
    refuse_nul(kind, token)?;
    Ok(Request::on_path(kind, path).with(&nul_ended(token)))
}

fn refuse_nul(operation: MessageKind, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::NulByte {
            operation,
            text: text.to_owned(),
        });
    }
    Ok(())
}

fn domain_answer_malformed(domid: u16, expected: &'static str) -> Error {
    Error::Malformed {
        object: format!("domain {domid}"),
        violation: WireError::BadPayload { expected },
    }
}
