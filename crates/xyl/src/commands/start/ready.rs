//! Signs that a VM is ready, and the looks for them.
//!
//! A guest can write its folder in xenstore and its console. It can seem ready when it is not, and no more.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use xen_port::DomId;
use xenstore::{Path, Tree};
use xyl_engine::config::autostart::{Entry, Ready};

use crate::context::Context;

/// Maximum number of bytes of a console that are read in one look.
const CONSOLE_MAX_BYTES: u64 = 256 << 10;
/// Time limit of one try to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two tries.
const CONNECT_EVERY: Duration = Duration::from_millis(500);

/// The looks for one VM's sign.
pub enum Watch {
    /// No sign is wanted.
    None,
    /// A node of the guest's folder in xenstore.
    Xenstore {
        /// Path below the folder.
        path: String,
        /// Its value. `None` takes any.
        value: Option<Vec<u8>>,
    },
    /// The guest's console.
    Console(ConsoleWatch),
    /// A port, which a thread tries.
    Tcp(TcpWatch),
}

/// The log of a guest's console, from the start of its domain on.
pub struct ConsoleWatch {
    path: PathBuf,
    wanted: Vec<u8>,
    /// Bytes of the log that were read.
    read_bytes: u64,
    /// The last bytes, in which the text may have begun.
    end: Vec<u8>,
}

/// A thread that tries a port. It ends with the watch, after the try that is under way.
pub struct TcpWatch {
    is_open: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// Begins the looks. The domain does not exist yet.
    pub fn begin(context: &Context, entry: &Entry) -> Watch {
        match &entry.ready {
            Ready::None => Watch::None,
            Ready::Xenstore { path, value } => Watch::Xenstore {
                path: path.clone(),
                value: value.as_ref().map(|value| value.clone().into_bytes()),
            },
            Ready::Console(text) => {
                let folder = context.console_folders().logs;
                let path = folder.join(format!("guest-{}.log", entry.name));
                Watch::Console(ConsoleWatch::begin(path, text))
            }
            Ready::Tcp { host, port } => {
                let limit = Duration::from_secs(entry.ready_timeout_s.into());
                Watch::Tcp(TcpWatch::begin(host.clone(), *port, limit))
            }
        }
    }

    /// Whether the sign is there now.
    pub fn is_ready(&mut self, context: &Context, domid: DomId) -> bool {
        match self {
            Watch::None => true,
            Watch::Xenstore { path, value } => {
                let found = read_node(context, domid, path);
                match (found, value) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(found), Some(value)) => found == *value,
                }
            }
            Watch::Console(console) => console.is_ready(),
            Watch::Tcp(tcp) => tcp.is_open.load(Ordering::Relaxed),
        }
    }
}

/// The value of a node in the guest's folder. Errors of xenstored are no sign.
fn read_node(context: &Context, domid: DomId, path: &str) -> Option<Vec<u8>> {
    let path = Path::domain(domid.0).join(path).ok()?;
    let mut store = context.store().ok()?;
    store.read_opt(&path).ok()?
}

impl ConsoleWatch {
    fn begin(path: PathBuf, text: &str) -> ConsoleWatch {
        let read_bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        ConsoleWatch {
            path,
            wanted: text.as_bytes().to_vec(),
            read_bytes,
            end: Vec::new(),
        }
    }

    fn is_ready(&mut self) -> bool {
        let Some(bytes) = self.read_on() else {
            return false;
        };
        self.end.extend(bytes);
        let is_there = self
            .end
            .windows(self.wanted.len())
            .any(|part| part == self.wanted);
        let surplus = self.end.len().saturating_sub(self.wanted.len());
        self.end.drain(..surplus);
        is_there
    }

    /// The next bytes of the log. It begins anew if it has become shorter, since it was rotated then.
    fn read_on(&mut self) -> Option<Vec<u8>> {
        let mut file = File::open(&self.path).ok()?;
        let length = file.metadata().ok()?.len();
        if length < self.read_bytes {
            self.read_bytes = 0;
        }
        file.seek(SeekFrom::Start(self.read_bytes)).ok()?;
        let mut bytes = Vec::new();
        file.take(CONSOLE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
        self.read_bytes += bytes.len() as u64;
        Some(bytes)
    }
}

impl TcpWatch {
    fn begin(host: String, port: u16, limit: Duration) -> TcpWatch {
        let watch = TcpWatch {
            is_open: Arc::default(),
            is_over: Arc::default(),
        };
        let (is_open, is_over) = (Arc::clone(&watch.is_open), Arc::clone(&watch.is_over));
        // If no thread can be made, the sign does not come, and the time limit ends the wait.
        let _ = std::thread::Builder::new().spawn(move || {
            // The time for the create comes on top. The watch's end ends the thread before.
            let deadline = Instant::now() + limit * 2;
            while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
                if accepts(&host, port) {
                    is_open.store(true, Ordering::Relaxed);
                    return;
                }
                std::thread::sleep(CONNECT_EVERY);
            }
        });
        watch
    }
}

impl Drop for TcpWatch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Whether the port accepts a connection, at any of the host's addresses.
fn accepts(host: &str, port: u16) -> bool {
    let addresses = (host, port).to_socket_addrs();
    let mut addresses = addresses.into_iter().flatten();
    addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_text_is_found_across_two_looks_but_not_from_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest-web.log");
        std::fs::write(&path, "login: ").unwrap();
        let mut watch = ConsoleWatch::begin(path.clone(), "login:");
        assert!(!watch.is_ready());
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(b"Debian\nlog").unwrap();
        assert!(!watch.is_ready());
        file.write_all(b"in: ").unwrap();
        assert!(watch.is_ready());
        // Rotated.
        let mut watch = ConsoleWatch::begin(path.clone(), "login:");
        std::fs::write(&path, "login:").unwrap();
        assert!(watch.is_ready());
        let mut watch = ConsoleWatch::begin(folder.path().join("none"), "login:");
        assert!(!watch.is_ready());
    }

    #[test]
    fn a_port_is_tried_until_it_is_open() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let watch = TcpWatch::begin("127.0.0.1".to_owned(), port, Duration::from_secs(60));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !watch.is_open.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
