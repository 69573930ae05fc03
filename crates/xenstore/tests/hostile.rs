//! The client over real sockets, against peers that are absent, silent, slow or lying.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use proptest::prelude::*;
use rustix::net::sockopt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use xenstore::mem::MemStore;
use xenstore::transport::{SocketTransport, Transport, open_first};
use xenstore::wire::{Decoder, encode};
use xenstore::{
    Batch, Client, Error, ErrorName, MessageKind, Packet, Path, Settings, Tree, WireError,
};

fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

fn settings(timeout_ms: u64) -> Settings {
    Settings {
        request_timeout: Duration::from_millis(timeout_ms),
        ..Settings::default()
    }
}

/// A folder for sockets that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("xenstore-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A client whose other end is served by `serve` in a thread of its own.
fn served_by(serve: impl FnOnce(UnixStream) + Send + 'static) -> (Client, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = Client::new(
        Box::new(SocketTransport::from_stream(ours, "test")),
        settings(10_000),
    );
    (client, std::thread::spawn(move || serve(theirs)))
}

/// Reads this many requests.
fn read_requests(stream: &mut UnixStream, count: usize) -> Vec<Packet> {
    let mut decoder = Decoder::of_requests();
    let mut packets = Vec::new();
    let mut bytes = [0; 4096];
    while packets.len() < count {
        match decoder.next_packet().unwrap() {
            Some(packet) => packets.push(packet),
            None => {
                let received = stream.read(&mut bytes).unwrap();
                assert_ne!(received, 0);
                decoder.push(&bytes[..received]);
            }
        }
    }
    packets
}

fn packet(kind: MessageKind, request_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(kind, request_id, 0, payload, &mut bytes).unwrap();
    bytes
}

/// What a read of `/a` gives when these bytes answer it.
fn answered_with(make: impl FnOnce(&Packet) -> Vec<u8> + Send + 'static) -> Result<Vec<u8>, Error> {
    let (mut client, server) = served_by(move |mut stream| {
        let request = read_requests(&mut stream, 1).remove(0);
        stream.write_all(&make(&request)).unwrap();
    });
    let result = client.read(&path("/a"));
    server.join().unwrap();
    result
}

fn violation(result: Result<Vec<u8>, Error>) -> WireError {
    match result {
        Err(Error::Protocol {
            operation: MessageKind::Read,
            object,
            violation,
            ..
        }) if object == "/a" => violation,
        other => panic!("{other:?}"),
    }
}

/// The kind of the first attempt's error, if no daemon was found.
fn kind_of_first(error: &Error) -> Option<ErrorKind> {
    match error {
        Error::NoDaemon { tried } => tried.first().map(|one| one.source.kind()),
        _ => None,
    }
}

#[test]
fn absent_daemon_names_what_was_tried() {
    let folder = Folder::new("absent");
    let candidates = [folder.0.join("socket"), folder.0.join("device")];
    let error = open_first(&candidates, Instant::now() + Duration::from_secs(5))
        .err()
        .unwrap();
    assert!(
        matches!(&error, Error::NoDaemon { tried } if tried.iter().map(|one| &one.path).eq(&candidates)),
        "{error}"
    );
}

#[test]
fn a_socket_nobody_listens_on_is_no_daemon() {
    let folder = Folder::new("stale");
    let socket = folder.0.join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    let error = open_first(&[socket], Instant::now() + Duration::from_secs(5))
        .err()
        .unwrap();
    assert!(matches!(&error, Error::NoDaemon { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_device_is_no_daemon() {
    let folder = Folder::new("file");
    let file = folder.0.join("file");
    std::fs::write(&file, b"").unwrap();
    let error = open_first(&[file], Instant::now() + Duration::from_secs(5))
        .err()
        .unwrap();
    assert_eq!(kind_of_first(&error), Some(ErrorKind::InvalidInput));
}

#[test]
fn a_daemon_that_accepts_nothing_does_not_hang_the_connecting() {
    let folder = Folder::new("full");
    let socket = folder.0.join("socket");
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(
        &listener,
        &rustix::net::SocketAddrUnix::new(&socket).unwrap(),
    )
    .unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(&socket).unwrap();
    let error = open_first(&[socket], Instant::now() + Duration::from_millis(20))
        .err()
        .unwrap();
    assert_eq!(kind_of_first(&error), Some(ErrorKind::TimedOut));
}

#[test]
fn a_daemon_that_does_not_answer_is_told_by_step_and_path() {
    let folder = Folder::new("silent");
    let socket = folder.0.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let transport = open_first(
        std::slice::from_ref(&socket),
        Instant::now() + Duration::from_secs(5),
    )
    .unwrap();
    let _accepted = listener.accept().unwrap();
    let mut client = Client::new(transport, settings(20));
    let error = client.write(&path("/a/b"), b"x").unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            Error::NotAnswering {
                operation: MessageKind::Write,
                waited_ms: 20,
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.contains("/a/b") && text.contains(socket.to_str().unwrap()),
        "{text}"
    );
    assert!(matches!(
        client.read(&path("/a")),
        Err(Error::Closed { .. })
    ));
}

#[test]
fn a_daemon_that_reads_nothing_does_not_hang_the_sending() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
    let mut client = Client::new(
        Box::new(SocketTransport::from_stream(ours, "test")),
        settings(20),
    );
    let mut batch = Batch::new();
    for number in 0..30 {
        batch.write(&path(&format!("/n/{number}")), &[b'x'; 1000]);
    }
    assert!(matches!(
        client.run(&batch),
        Err(Error::NotAnswering { .. })
    ));
}

#[test]
fn both_sides_sending_at_once_do_not_wait_for_each_other() {
    const EVENTS: usize = 2000;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
    sockopt::set_socket_send_buffer_size(&theirs, 4096).unwrap();
    let mut client = Client::new(
        Box::new(SocketTransport::from_stream(ours, "test")),
        settings(60_000),
    );
    let server = std::thread::spawn(move || {
        // Far more than the buffers hold, before the first request is read.
        for number in 0..EVENTS {
            let payload = format!("/w/{number}\0{}\0", "t".repeat(200));
            theirs
                .write_all(&packet(MessageKind::WatchEvent, 0, payload.as_bytes()))
                .unwrap();
        }
        for request in read_requests(&mut theirs, 30) {
            theirs
                .write_all(&packet(request.kind, request.request_id, b"OK\0"))
                .unwrap();
        }
    });
    let mut batch = Batch::new();
    for number in 0..30 {
        batch.write(&path(&format!("/n/{number}")), &[b'x'; 1000]);
    }
    client.run(&batch).unwrap();
    server.join().unwrap();
    let events = std::iter::from_fn(|| client.try_next_event().unwrap_or(None)).count();
    assert_eq!(events, EVENTS);
}

#[test]
fn a_flood_of_events_does_not_hide_that_there_is_no_reply() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut client = Client::new(
        Box::new(SocketTransport::from_stream(ours, "test")),
        settings(50),
    );
    let server = std::thread::spawn(move || {
        let flood = packet(MessageKind::WatchEvent, 0, b"/w\0token\0").repeat(100);
        while theirs.write_all(&flood).is_ok() {}
    });
    assert!(matches!(
        client.read(&path("/a")),
        Err(Error::NotAnswering { .. })
    ));
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_daemon_that_goes_away_is_told() {
    let (mut client, server) = served_by(|mut stream| drop(read_requests(&mut stream, 1)));
    assert!(matches!(
        client.read(&path("/a")),
        Err(Error::Disconnected { .. })
    ));
    server.join().unwrap();
    let (mut client, server) = served_by(drop);
    server.join().unwrap();
    assert!(matches!(
        client.read(&path("/a")),
        Err(Error::Disconnected { .. })
    ));
}

#[test]
fn truncated_packets_are_told() {
    let result = answered_with(|request| {
        packet(MessageKind::Read, request.request_id, b"value")[..18].to_vec()
    });
    assert_eq!(violation(result), WireError::Truncated { size_bytes: 18 });
    let result = answered_with(|_| vec![2, 0]);
    assert_eq!(violation(result), WireError::Truncated { size_bytes: 2 });
}

#[test]
fn an_oversized_length_is_refused_before_it_is_read() {
    let result = answered_with(|request| {
        let mut bytes = packet(MessageKind::Read, request.request_id, b"");
        bytes[12..].copy_from_slice(&u32::MAX.to_ne_bytes());
        bytes
    });
    assert_eq!(
        violation(result),
        WireError::PayloadTooLong {
            size_bytes: u32::MAX as usize,
            limit_bytes: 256 * 1024
        }
    );
}

#[test]
fn a_reply_to_something_else_is_refused() {
    let result = answered_with(|request| packet(MessageKind::Read, request.request_id + 1, b"x"));
    assert!(matches!(
        violation(result),
        WireError::UnexpectedReply { .. }
    ));
    let result = answered_with(|request| packet(MessageKind::Write, request.request_id, b"OK\0"));
    assert_eq!(
        violation(result),
        WireError::WrongKind {
            asked: MessageKind::Read,
            got: MessageKind::Write
        }
    );
}

#[test]
fn a_second_reply_to_one_request_is_refused() {
    let (mut client, server) = served_by(|mut stream| {
        let request = read_requests(&mut stream, 2).remove(0);
        for _ in 0..2 {
            stream
                .write_all(&packet(request.kind, request.request_id, b"OK\0"))
                .unwrap();
        }
    });
    let mut batch = Batch::new();
    batch.mkdir(&path("/a"));
    batch.mkdir(&path("/b"));
    let error = client.run(&batch).unwrap_err();
    assert!(
        matches!(&error, Error::Protocol { object, .. } if object == "/b"),
        "{error}"
    );
    server.join().unwrap();
}

#[test]
fn a_reply_nobody_asked_for_is_refused() {
    let (mut client, server) = served_by(|mut stream| {
        stream
            .write_all(&packet(MessageKind::Read, 1, b"x"))
            .unwrap()
    });
    let error = client
        .next_event(Instant::now() + Duration::from_secs(10))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Protocol {
                violation: WireError::UnexpectedReply { request_id: 1 },
                ..
            }
        ),
        "{error}"
    );
    server.join().unwrap();
}

#[test]
fn replies_in_another_order_are_matched() {
    let (mut client, server) = served_by(|mut stream| {
        for request in read_requests(&mut stream, 3).iter().rev() {
            stream
                .write_all(&packet(request.kind, request.request_id, &request.payload))
                .unwrap();
        }
    });
    let mut batch = Batch::new();
    for name in ["/a", "/b", "/c"] {
        batch.read(&path(name));
    }
    let replies = client.run(&batch).unwrap();
    let values: Vec<_> = (0..3).map(|index| replies.value(index).unwrap()).collect();
    assert_eq!(values, [b"/a\0", b"/b\0", b"/c\0"]);
    server.join().unwrap();
}

#[test]
fn a_reply_longer_than_a_request_may_be_is_taken() {
    let names: Vec<String> = (0..3000).map(|number| format!("name-{number}")).collect();
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| [name.as_bytes(), b"\0"].concat())
        .collect();
    let (mut client, server) = served_by(move |mut stream| {
        let request = read_requests(&mut stream, 1).remove(0);
        let mut reply = packet(request.kind, request.request_id, b"");
        reply[12..].copy_from_slice(&u32::try_from(list.len()).unwrap().to_ne_bytes());
        stream.write_all(&[reply, list].concat()).unwrap();
    });
    assert_eq!(client.directory(&path("/a")).unwrap(), names);
    server.join().unwrap();
}

#[test]
fn unknown_error_names_are_kept() {
    let error =
        answered_with(|request| packet(MessageKind::Error, request.request_id, b"ENEWERRNO\0"))
            .unwrap_err();
    assert!(
        matches!(&error, Error::Refused { reason: ErrorName::Other(name), .. } if &**name == "ENEWERRNO"),
        "{error}"
    );
    let error =
        answered_with(|request| packet(MessageKind::Error, request.request_id, b"")).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }));
}

#[test]
fn malformed_answers_are_told_and_the_connection_stays() {
    let (mut client, server) = served_by(|mut stream| {
        let answers: [&[u8]; 6] = [
            b"a/b\0",
            b"z9\0",
            b"maybe\0",
            b"not a path\0",
            b"many\0",
            b"fine",
        ];
        for answer in answers {
            let request = read_requests(&mut stream, 1).remove(0);
            stream
                .write_all(&packet(request.kind, request.request_id, answer))
                .unwrap();
        }
    });
    let is_malformed = |error: Error| matches!(error, Error::Malformed { .. });
    assert!(is_malformed(client.directory(&path("/a")).unwrap_err()));
    assert!(is_malformed(client.get_perms(&path("/a")).unwrap_err()));
    assert!(is_malformed(client.is_introduced(1).unwrap_err()));
    assert!(is_malformed(client.get_domain_path(1).unwrap_err()));
    assert!(is_malformed(client.transaction(|_| Ok(())).unwrap_err()));
    assert_eq!(client.read(&path("/a")).unwrap(), b"fine");
    server.join().unwrap();
}

#[test]
fn a_list_without_an_end_is_given_up() {
    let (mut client, server) = served_by(|mut stream| {
        let request = read_requests(&mut stream, 1).remove(0);
        stream
            .write_all(&packet(MessageKind::Error, request.request_id, b"E2BIG\0"))
            .unwrap();
        for piece in [b"1\0a\0".as_slice(), b"1\0"] {
            let request = read_requests(&mut stream, 1).remove(0);
            stream
                .write_all(&packet(request.kind, request.request_id, piece))
                .unwrap();
        }
    });
    assert!(matches!(
        client.directory(&path("/a")),
        Err(Error::Malformed { .. })
    ));
    server.join().unwrap();
}

#[test]
fn a_malformed_event_ends_the_connection() {
    let (mut client, server) = served_by(|mut stream| {
        stream
            .write_all(&packet(MessageKind::WatchEvent, 0, b"/a b\0t\0"))
            .unwrap()
    });
    assert!(matches!(
        client.next_event(Instant::now() + Duration::from_secs(10)),
        Err(Error::Protocol { .. })
    ));
    server.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_daemon_sends_gives_an_error_or_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut client = Client::new(Box::new(SocketTransport::from_stream(ours, "test")), settings(10_000));
        prop_assert!(client.read(&path("/a")).is_err());
        prop_assert!(client.transaction(|transaction| transaction.write(&path("/a"), b"x")).is_err());
    }

    #[test]
    fn whatever_a_client_sends_the_memory_store_stands(
        kinds in proptest::collection::vec((0u32..30, 0u32..3, "(/[ab]){0,3}\0?[a-z0-9]{0,4}\0?"), 0..40),
        noise in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let store = MemStore::new();
        store.set_keeps_time(false);
        let mut transport = store.connect(0).unwrap();
        for (number, (kind, transaction, payload)) in kinds.iter().enumerate() {
            let mut bytes = Vec::new();
            let kind = MessageKind::from_number(*kind);
            encode(kind, number as u32, *transaction, payload.as_bytes(), &mut bytes).unwrap();
            transport.send(&bytes, Instant::now()).unwrap();
        }
        let _ = transport.send(&noise, Instant::now());
        let mut client = store.client(0).unwrap();
        client.write(&path("/still"), b"there").unwrap();
    }
}
