//! A proxy between a tool and xenstored that counts requests and bytes.
//!
//! Tools find xenstored's socket through `XENSTORED_PATH`; pointed at the proxy, each of their
//! connections is passed on, and every request's header is read on the way (`io/xs_wire.h`: four
//! 32-bit numbers, the last being the payload's length).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Size of a message's header in bytes.
const HEADER_BYTES: usize = 16;

/// Counts of the requests and bytes that the proxy has passed on.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A proxy that runs until the program ends.
#[derive(Debug)]
pub struct Proxy {
    path: PathBuf,
    counts: Arc<Counts>,
}

impl Proxy {
    /// Listens at `path` and passes connections on to `xenstored`.
    pub fn start(path: &Path, xenstored: &Path) -> io::Result<Proxy> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        let counts = Arc::new(Counts::default());
        let (shared, target) = (Arc::clone(&counts), xenstored.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(daemon) = UnixStream::connect(&target) {
                    serve(client, daemon, &shared);
                }
            }
        });
        Ok(Proxy {
            path: path.to_owned(),
            counts,
        })
    }

    /// The socket for tools to use.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Requests and bytes (both ways) since the last call.
    pub fn take(&self) -> (u64, u64) {
        (
            self.counts.requests.swap(0, Ordering::SeqCst),
            self.counts.bytes.swap(0, Ordering::SeqCst),
        )
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(client: UnixStream, daemon: UnixStream, counts: &Arc<Counts>) {
    let (Ok(client_out), Ok(daemon_in)) = (client.try_clone(), daemon.try_clone()) else {
        return;
    };
    let requests = Arc::clone(counts);
    thread::spawn(move || {
        let _ = pass_requests(client, &daemon, &requests);
        let _ = daemon.shutdown(Shutdown::Write);
    });
    let replies = Arc::clone(counts);
    thread::spawn(move || {
        let _ = pass_replies(daemon_in, &client_out, &replies);
        let _ = client_out.shutdown(Shutdown::Both);
    });
}

fn pass_requests(mut from: UnixStream, mut to: &UnixStream, counts: &Counts) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        let mut message = header.to_vec();
        message.resize(
            HEADER_BYTES + u32::from_le_bytes([a, b, c, d]).min(4096) as usize,
            0,
        );
        if let Some(payload) = message.get_mut(HEADER_BYTES..) {
            from.read_exact(payload)?;
        }
        counts.requests.fetch_add(1, Ordering::SeqCst);
        counts
            .bytes
            .fetch_add(message.len() as u64, Ordering::SeqCst);
        to.write_all(&message)?;
    }
}

fn pass_replies(mut from: UnixStream, mut to: &UnixStream, counts: &Counts) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        let length = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        counts.bytes.fetch_add(length as u64, Ordering::SeqCst);
        to.write_all(bytes)?;
    }
}
