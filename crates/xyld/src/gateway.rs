//! `xyld web`: a port on loopback with the page, in front of the daemon's socket.
//!
//! The address has a token, which works once and becomes a cookie. Each request needs the cookie, and the `Host` of this port; a request that changes
//! something needs this page's `Origin`, too. So no other user of the machine and no other page in the browser gets through. What passes has the
//! rights of the user that has started this program.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use os_port::{Process, SystemProcess};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use uuid::Uuid;

use crate::http::{Answer, set, whole};
use crate::page;
use crate::problem::{Problem, code};
use crate::server::{BODY_MAX_BYTES, HEAD_MAX_BYTES, is_of_api};

/// Time in which a request's head must come.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Time in which a request's body must come.
const BODY_LIMIT: Duration = Duration::from_secs(15);
/// Headers that go to the daemon.
const PASSED: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("prefer"),
];
/// The header with a client's last event.
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Body of an answer, which may be one of the daemon's.
type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The gateway of one user.
struct Gateway {
    /// The daemon's socket.
    socket: PathBuf,
    port: u16,
    /// The word in the address, which works once.
    token: String,
    is_token_used: AtomicBool,
    /// Value of the cookie.
    secret: String,
}

/// Serves the page on loopback, without an end. `ready` gets the address with the token.
///
/// # Errors
/// The port is taken; the system's errors.
pub fn serve(socket: PathBuf, port: u16, ready: impl FnOnce(&str)) -> io::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await?;
        let gateway = Arc::new(Gateway {
            socket,
            port: listener.local_addr()?.port(),
            token: random(),
            is_token_used: AtomicBool::new(false),
            secret: random(),
        });
        ready(&format!(
            "http://127.0.0.1:{}/?token={}",
            gateway.port, gateway.token
        ));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => welcome(&gateway, stream),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

fn random() -> String {
    let words = [SystemProcess.new_uuid(), SystemProcess.new_uuid()];
    words
        .map(|word| Uuid::from_bytes(word).simple().to_string())
        .concat()
}

fn welcome(gateway: &Arc<Gateway>, stream: TcpStream) {
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        let service = service_fn(|request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.respond(request).await) }
        });
        // A connection that breaks is its client's affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_MAX_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
}

fn own(answer: impl Into<Answer>) -> Response<Body> {
    let response = answer.into().into_response();
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code::FORBIDDEN, detail)
}

impl Gateway {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        match self.answer(request).await {
            Ok(response) => response,
            Err(problem) => own(problem),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        self.check_place(request.method(), request.headers())?;
        let uri = request.uri().clone();
        if let Some(token) = uri.query().and_then(|query| query.strip_prefix("token="))
            && uri.path() == "/"
        {
            return self.admit(token);
        }
        if !self.has_cookie(request.headers()) {
            let problem = forbidden("this browser has no key for this page");
            return Err(problem.with_remedy("open the address that `xyld web` has printed; it works once, so start it again for another browser"));
        }
        match is_of_api(uri.path()) {
            true => self.pass(request).await,
            false if request.method() == Method::GET => page::file(uri.path()).map(own),
            false => Err(Problem::new(
                StatusCode::NOT_FOUND,
                code::NOT_FOUND,
                "there is no such path",
            )),
        }
    }

    /// Refuses requests that other pages have made the browser send.
    fn check_place(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let hosts = [
            format!("127.0.0.1:{}", self.port),
            format!("localhost:{}", self.port),
        ];
        let host = text(header::HOST).unwrap_or_default();
        if !hosts.iter().any(|known| known == host) {
            return Err(forbidden("the request is for another host"));
        }
        let origin = text(header::ORIGIN);
        let is_own = |origin: &str| origin == format!("http://{host}");
        match origin {
            Some(origin) if !is_own(origin) => Err(forbidden("another page has sent the request")),
            None if method != Method::GET => Err(forbidden("a change needs the header `Origin`")),
            _ => Ok(()),
        }
    }

    /// Turns the token into the cookie.
    fn admit(&self, token: &str) -> Result<Response<Body>, Problem> {
        let is_right = is_same(token, &self.token);
        if !is_right || self.is_token_used.swap(true, Ordering::SeqCst) {
            let problem = forbidden("the token in the address is wrong, or was used");
            return Err(problem.with_remedy("start `xyld web` again"));
        }
        let cookie = format!(
            "{}={}; HttpOnly; SameSite=Strict; Path=/",
            self.cookie_name(),
            self.secret
        );
        let answer = Answer {
            status: StatusCode::SEE_OTHER,
            ..Answer::text("text/plain; charset=utf-8", "")
        };
        let answer = answer.with_header(header::SET_COOKIE, cookie);
        Ok(own(answer.with_header(header::LOCATION, "/")))
    }

    /// Name of the cookie. All ports of a host share their cookies, so it has the port.
    fn cookie_name(&self) -> String {
        format!("xyl-{}", self.port)
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let all = headers.get_all(header::COOKIE).iter();
        let mut cookies = all
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(';'));
        cookies.any(|cookie| {
            let (key, value) = cookie.trim().split_once('=').unwrap_or_default();
            key == name && is_same(value, &self.secret)
        })
    }

    /// Passes a request on to the daemon, and its answer back.
    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, BODY_MAX_BYTES).collect();
        let body = match tokio::time::timeout(BODY_LIMIT, body).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            _ => {
                return Err(Problem::bad_request(
                    "the body is too large, or has not come in time",
                ));
            }
        };
        let mut passed = Request::new(whole(body));
        *passed.method_mut() = head.method;
        *passed.uri_mut() = head.uri;
        set(passed.headers_mut(), header::HOST, "xyld");
        for name in PASSED.into_iter().chain([LAST_EVENT]) {
            if let Some(value) = head.headers.get(&name) {
                passed.headers_mut().insert(name, value.clone());
            }
        }
        let response = self.send(passed).await.map_err(|error| {
            Problem::new(
                StatusCode::BAD_GATEWAY,
                code::INTERNAL,
                format!("xyld does not answer at {}: {error}", self.socket.display()),
            )
            .with_remedy("start it: systemctl start xyld")
        })?;
        let mut response = response.map(BodyExt::boxed_unsync);
        response.headers_mut().remove(header::CONNECTION);
        Ok(response)
    }

    async fn send(
        &self,
        request: Request<crate::http::Body>,
    ) -> Result<Response<Incoming>, io::Error> {
        let stream = UnixStream::connect(&self.socket).await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(io::Error::other)
    }
}

/// Compares a secret in a time that does not depend on where it differs.
fn is_same(given: &str, secret: &str) -> bool {
    let pairs = given.bytes().zip(secret.bytes());
    let difference = pairs.fold(0, |difference, (one, other)| difference | (one ^ other));
    given.len() == secret.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn gateway() -> Gateway {
        Gateway {
            socket: "/nowhere".into(),
            port: 7000,
            token: "t".to_owned(),
            is_token_used: AtomicBool::new(false),
            secret: "s".to_owned(),
        }
    }

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = all
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        pairs.collect()
    }

    #[test]
    fn other_hosts_and_other_pages_are_refused() {
        let gateway = gateway();
        let host = (header::HOST, "127.0.0.1:7000");
        let check = |method: &Method, all: &[(HeaderName, &str)]| {
            gateway.check_place(method, &headers(all)).is_ok()
        };
        assert!(check(&Method::GET, std::slice::from_ref(&host)));
        assert!(!check(&Method::GET, &[(header::HOST, "evil.example:7000")]));
        assert!(!check(&Method::GET, &[(header::HOST, "127.0.0.1:7001")]));
        assert!(!check(&Method::GET, &[]));
        assert!(
            !check(&Method::POST, std::slice::from_ref(&host)),
            "no origin"
        );
        assert!(check(
            &Method::POST,
            &[host.clone(), (header::ORIGIN, "http://127.0.0.1:7000")]
        ));
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:7000",
            "http://127.0.0.1:7001",
        ] {
            assert!(
                !check(&Method::POST, &[host.clone(), (header::ORIGIN, origin)]),
                "{origin}"
            );
        }
    }

    #[test]
    fn the_token_works_once_and_the_cookie_after_that() {
        let gateway = gateway();
        assert!(gateway.admit("wrong").is_err());
        let response = gateway.admit("t").unwrap();
        let cookie = response
            .headers()
            .get(header::SET_COOKIE)
            .unwrap()
            .to_str()
            .unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
        assert!(gateway.admit("t").is_err(), "a second use");
        assert!(gateway.has_cookie(&headers(&[(header::COOKIE, "a=b; xyl-7000=s")])));
        for cookie in ["xyl-7000=", "xyl-7000=x", "xyl-7001=s", "s", ""] {
            assert!(
                !gateway.has_cookie(&headers(&[(header::COOKIE, cookie)])),
                "{cookie}"
            );
        }
    }
}
