//! The server: the socket, the connections with their limits, and the way of a request to its endpoint.
//!
//! One thread serves all connections. A call runs in a thread of its own, of which there are few: a call that waits delays no other,
//! until all are taken. Then the answer is 503.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{FlockOperation, Gid, Mode};
use tokio::sync::Semaphore;

use crate::access::{Access, Role};
use crate::endpoints::{self, Endpoint, Params, Run};
use crate::http::{Answer, Body, Call, Parts, query_of, set, wait_of};
use crate::peer::{self, Peer};
use crate::problem::{Problem, code};
use crate::world::World;
use crate::{events, page};

/// Largest body of a request, in bytes. A configuration may have as many.
pub const BODY_MAX_BYTES: usize = 1 << 20;
/// Largest head of a request, in bytes.
pub const HEAD_MAX_BYTES: usize = 16 << 10;
/// Maximum number of headers of a request.
const HEADERS_MAX: usize = 64;
/// Time in which a request's head must come, also the next one of an open connection.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Time in which a request's body must come.
const BODY_LIMIT: Duration = Duration::from_secs(15);
/// Maximum number of connections.
const CONNECTIONS_MAX: usize = 1200;
/// Maximum number of connections of one user other than root.
const CONNECTIONS_OF_USER_MAX: usize = 200;
/// Maximum number of calls at a time that read, and of those that change something.
const CALLS_MAX: usize = 16;
/// Time for which a call may wait for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for which a thread that has answered waits for the next call.
const THREAD_KEPT: Duration = Duration::from_secs(5);

/// The socket of a daemon. The lock keeps a second daemon away, and ends with the process.
pub struct Socket {
    listener: UnixListener,
    _lock: File,
}

/// Opens the socket, for root and the group's members. A group that is not there leaves it to root.
///
/// # Errors
/// Another daemon has the socket; something else has its path; the system's errors.
pub fn open(path: &Path, group: &str) -> io::Result<Socket> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let lock = File::create(lock_path(path))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::new(io::ErrorKind::AddrInUse, "another xyld has this socket"))?;
    remove_old(path)?;
    // The socket is made with the permissions that it keeps.
    let before = rustix::process::umask(Mode::from_raw_mode(0o117));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound?;
    if let Some(gid) = peer::gid_of(group)
        && rustix::process::geteuid().is_root()
    {
        rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
    }
    Ok(Socket {
        listener,
        _lock: lock,
    })
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Removes the socket of a daemon that has died.
fn remove_old(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is something that is no socket",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Serves the socket, without an end.
///
/// # Errors
/// The system's errors before the first connection.
pub fn serve(world: Arc<World>, socket: Socket) -> io::Result<Infallible> {
    let Socket { listener, _lock } = socket;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(2 * CALLS_MAX + 2)
        .thread_keep_alive(THREAD_KEPT)
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let server = Arc::new(Server {
            world,
            gate: Gate::default(),
            reads: Semaphore::new(CALLS_MAX),
            changes: Semaphore::new(CALLS_MAX),
        });
        notify_systemd();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => Server::welcome(&server, stream),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    })
}

/// Reports to systemd that the socket is open (sd_notify(3)). Without systemd nothing listens.
fn notify_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1\n", Path::new(&path)));
    if let Err(error) = sent {
        log(&format!(
            "systemd does not hear that this is ready: {error}"
        ));
    }
}

/// Writes a line to the journal.
pub fn log(line: &str) {
    let _ = writeln!(io::stderr(), "xyld: {line}");
}

/// Numbers of connections, of all users and of each.
#[derive(Default)]
struct Gate {
    open: Mutex<HashMap<u32, usize>>,
}

impl Gate {
    fn enter(&self, uid: u32) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let of_user = open.entry(uid).or_default();
        let has_room = all < CONNECTIONS_MAX && (uid == 0 || *of_user < CONNECTIONS_OF_USER_MAX);
        if has_room {
            *of_user += 1;
        }
        has_room
    }

    fn leave(&self, uid: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_user) = open.get_mut(&uid) {
            *of_user = of_user.saturating_sub(1);
            if *of_user == 0 {
                open.remove(&uid);
            }
        }
    }
}

struct Server {
    world: Arc<World>,
    gate: Gate,
    reads: Semaphore,
    changes: Semaphore,
}

impl Server {
    /// Serves a connection in a task of its own. One too many is closed.
    fn welcome(server: &Arc<Server>, stream: tokio::net::UnixStream) {
        let Ok(credentials) = stream.peer_cred() else {
            return;
        };
        let uid = credentials.uid();
        if !server.gate.enter(uid) {
            return;
        }
        let peer = Peer::of(uid, credentials.gid());
        let server = Arc::clone(server);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let (server, peer) = (Arc::clone(&server), peer.clone());
                async move { Ok::<_, Infallible>(server.respond(peer, request).await) }
            });
            // A connection that breaks is its client's affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(HEAD_MAX_BYTES)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            server.gate.leave(uid);
        });
    }

    async fn respond(&self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let changes = request.method() != Method::GET;
        let what = format!("{peer}: {} {}", request.method(), request.uri().path());
        let answer = self.answer(peer, request).await;
        let response = answer.unwrap_or_else(|problem| Answer::from(problem).into_response());
        if changes {
            log(&format!("{what}: {}", response.status().as_u16()));
        }
        response
    }

    async fn answer(
        &self,
        peer: Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let found = endpoints::find(head.method.as_str(), &path);
        let (endpoint, params) = match found {
            Ok(found) => found,
            Err(problem) if head.method == Method::GET && problem.code == code::NOT_FOUND => {
                return match is_of_api(&path) {
                    true => Err(problem),
                    false => page::file(&path).map(Answer::into_response),
                };
            }
            Err(problem) => return Err(problem),
        };
        let body = read_body(&head.headers, body).await?;
        let call = call_of(peer, endpoint, params, &head, body)?;
        match endpoint.run {
            Run::Call(run) => self.run(endpoint, call, run).await,
            Run::Events => self.listen(endpoint, call, &head.headers).await,
        }
    }

    /// Runs a call in a thread of its own.
    async fn run(
        &self,
        endpoint: &'static Endpoint,
        call: Call,
        run: fn(&World, &Call) -> Result<Answer, Problem>,
    ) -> Result<Response<Body>, Problem> {
        let turns = match endpoint.role {
            Role::Viewer => &self.reads,
            Role::Operator | Role::Admin => &self.changes,
        };
        let turn = tokio::time::timeout(TURN_LIMIT, turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(busy());
        };
        let world = Arc::clone(&self.world);
        in_thread(move || {
            check_role(&world, endpoint, &call.peer)?;
            run(&world, &call).map(Answer::into_response)
        })
        .await
    }

    /// Adds a client to the stream of events.
    async fn listen(
        &self,
        endpoint: &'static Endpoint,
        call: Call,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Problem> {
        let last = text_of(headers, &HeaderName::from_static("last-event-id"));
        let world = Arc::clone(&self.world);
        let parts = in_thread(move || {
            check_role(&world, endpoint, &call.peer)?;
            events::listen(&world, last.as_deref())
        })
        .await?;
        let mut response = Response::new(Parts(parts).boxed_unsync());
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, "text/event-stream");
        set(headers, header::CACHE_CONTROL, "no-store");
        Ok(response)
    }
}

fn busy() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        code::BUSY,
        format!(
            "{CALLS_MAX} calls are under way, and none has ended in {} s",
            TURN_LIMIT.as_secs()
        ),
    )
    .with_remedy("repeat the request; a change with the same Idempotency-Key")
}

/// Runs blocking work beside the connections. A fault in it is an answer, and ends nothing.
async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            log(&format!("a call has failed: {error}"));
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                code::INTERNAL,
                "xyld has a fault; its journal shows where",
            ))
        }
    }
}

/// Refuses a call that the peer's role does not allow.
fn check_role(world: &World, endpoint: &Endpoint, peer: &Peer) -> Result<(), Problem> {
    // root needs no file, so an error in it does not lock the administrator out.
    if peer.uid == 0 {
        return Ok(());
    }
    let access = Access::read(&world.access).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::FORBIDDEN,
            format!("the roles are not known: {error}"),
        )
    })?;
    let role = access.role_of(peer);
    if role >= endpoint.role {
        return Ok(());
    }
    let (needed, path) = (endpoint.role, world.access.display());
    let problem = Problem::new(
        StatusCode::FORBIDDEN,
        code::FORBIDDEN,
        format!("{peer} has the role {role}, and this call needs {needed}"),
    );
    Err(problem.with_remedy(format!(
        "have an entry with `role = \"{needed}\"` added to {path}"
    )))
}

/// Whether a path belongs to the API, so that the page has no file of this name.
pub fn is_of_api(path: &str) -> bool {
    path.starts_with("/v1/")
        || matches!(
            path,
            "/v1" | "/metrics" | "/livez" | "/readyz" | "/openapi.json"
        )
}

async fn read_body(headers: &HeaderMap, body: Incoming) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            code::TOO_LARGE,
            format!("the body has more than {BODY_MAX_BYTES} bytes"),
        )
    };
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > BODY_MAX_BYTES) {
        return Err(too_large());
    }
    let whole = Limited::new(body, BODY_MAX_BYTES).collect();
    match tokio::time::timeout(BODY_LIMIT, whole).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::bad_request(
            "the body has ended early, or is malformed",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            code::TOO_SLOW,
            format!("the body has not come within {} s", BODY_LIMIT.as_secs()),
        )),
    }
}

fn call_of(
    peer: Peer,
    endpoint: &Endpoint,
    params: Params,
    head: &hyper::http::request::Parts,
    body: Vec<u8>,
) -> Result<Call, Problem> {
    let query = query_of(head.uri.query().unwrap_or_default())
        .ok_or_else(|| Problem::bad_request("the part behind `?` is malformed"))?;
    let headers = &head.headers;
    let content_type = text_of(headers, &header::CONTENT_TYPE).map(|value| {
        let kind = value.split(';').next().unwrap_or_default();
        kind.trim().to_ascii_lowercase()
    });
    Ok(Call {
        peer,
        action: endpoint.path.rsplit('/').next().unwrap_or_default(),
        params,
        query,
        key: text_of(headers, &HeaderName::from_static("idempotency-key")),
        wait: text_of(headers, &HeaderName::from_static("prefer"))
            .and_then(|value| wait_of(&value)),
        content_type,
        body,
    })
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all_connections() {
        let gate = Gate::default();
        assert!((0..CONNECTIONS_OF_USER_MAX).all(|_| gate.enter(1000)));
        assert!(!gate.enter(1000));
        assert!(gate.enter(0) && gate.enter(1001));
        gate.leave(1000);
        assert!(gate.enter(1000));
    }

    #[test]
    fn a_second_daemon_does_not_get_the_socket_and_a_file_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/api.sock");
        let first = open(&path, "no-such-group").unwrap();
        let second = open(&path, "no-such-group").err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(
            open(&path, "no-such-group").is_ok(),
            "a dead daemon's socket"
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "x").unwrap();
        assert!(open(&path, "no-such-group").is_err());
    }
}
