//! Whatever answers in xenstored's place: each request ends with a value or an error, at once.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use xenstore::transport::SocketTransport;
use xenstore::{Client, Path, Settings, Tree};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // More would not fit in the socket before it is read.
    if data.len() > 32 * 1024 {
        return;
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(data).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let settings = Settings { request_timeout: Duration::from_secs(60), ..Settings::default() };
    let mut client = Client::new(Box::new(SocketTransport::from_stream(ours, "fuzz")), settings);
    let path = Path::new("/a").unwrap();
    // The ids of the requests are 1, 2, 3...
    let _ = client.read(&path);
    let _ = client.directory(&path);
    let _ = client.get_perms(&path);
    let _ = client.is_introduced(1);
    let _ = client.get_domain_path(1);
    let _ = client.transaction(|transaction| transaction.write(&path, b"x"));
    while let Ok(Some(_)) = client.next_event(Instant::now() + settings.request_timeout) {}
    assert!(client.read(&path).is_err_and(|error| error.is_connection_lost()));
});
