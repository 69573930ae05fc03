//! Requests and answers in HTTP's terms, for the server, the calls and the gateway.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::mpsc::Receiver;

use crate::peer::Peer;
use crate::problem::{self, Problem};

/// Body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request, as a call sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The user who asks.
    pub peer: Peer,
    /// Last part of the endpoint's path.
    pub action: &'static str,
    /// Values of the parts of the path in braces, by name.
    pub params: Vec<(&'static str, String)>,
    /// Names and values behind the `?`.
    pub query: Vec<(String, String)>,
    /// Value of the header `Idempotency-Key`.
    pub key: Option<String>,
    /// Time to wait for a result, by the header `Prefer`.
    pub wait: Option<Duration>,
    /// Type of the body, without its parameters.
    pub content_type: Option<String>,
    /// The body of the request.
    pub body: Vec<u8>,
}

impl Call {
    /// Value of a part of the path.
    pub fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value)
    }

    /// First value of a name behind the `?`.
    pub fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON. An empty one is an empty object.
    ///
    /// # Errors
    /// It is of another type, or no JSON.
    pub fn json(&self) -> Result<Value, Problem> {
        if self.body.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        if self.content_type.as_deref() != Some("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                problem::code::MEDIA_TYPE,
                "the body must have `Content-Type: application/json`",
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::bad_request(format!("the body is no JSON: {error}")))
    }
}

/// Answer of a call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status of the answer.
    pub status: StatusCode,
    /// Type of the body.
    pub content_type: &'static str,
    /// The whole body.
    pub body: Vec<u8>,
    /// Further headers of the answer.
    pub headers: Vec<(HeaderName, String)>,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: StatusCode, value: &Value) -> Answer {
        let mut body = value.to_string().into_bytes();
        body.push(b'\n');
        Answer {
            status,
            content_type: "application/json",
            body,
            headers: Vec::new(),
        }
    }

    /// A JSON answer with the status 200.
    pub fn ok(value: &Value) -> Answer {
        Answer::json(StatusCode::OK, value)
    }

    /// An answer that is a text.
    pub fn text(content_type: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status: StatusCode::OK,
            content_type,
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// The same with a further header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer as hyper sends it.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(whole(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, self.content_type);
        // What a browser gets is for its user alone, is not guessed at, and is not kept.
        set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(headers, header::CACHE_CONTROL, "no-store");
        for (name, value) in self.headers {
            set(headers, name, &value);
        }
        response
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Answer {
        let answer = Answer::json(problem.status, &problem.to_json());
        Answer {
            content_type: problem::CONTENT_TYPE,
            ..answer
        }
    }
}

/// Sets a header. A value that no header can have is left out.
pub fn set(headers: &mut hyper::HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A body that is there as a whole.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that comes in parts.
pub struct Parts(pub Receiver<Bytes>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.0.poll_recv(context);
        part.map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Decodes the `%XX` of a part of a path or query. `None` for what is no text.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next()?, rest.next()?);
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(high)? * 16 + digit(low)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Names and values behind the `?` of a request. A part without a `=` has an empty value.
pub fn query_of(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// Longest wait that a request may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The time to wait that a header `Prefer` asks for (RFC 7240).
pub fn wait_of(prefer: &str) -> Option<Duration> {
    let mut parts = prefer.split([',', ';']).map(str::trim);
    let seconds = parts.find_map(|part| part.strip_prefix("wait="))?;
    let seconds: u64 = seconds.trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded_or_refused() {
        assert_eq!(decoded("a%20b%2Fc").as_deref(), Some("a b/c"));
        assert_eq!(decoded("%e2%82%ac").as_deref(), Some("€"));
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn queries_and_waits_are_read() {
        let query = query_of("vm=a%26b&x&=").unwrap();
        assert_eq!(query[0], ("vm".to_owned(), "a&b".to_owned()));
        assert_eq!(query[1], ("x".to_owned(), String::new()));
        assert_eq!(
            wait_of("respond-async, wait=10"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(wait_of("wait=100000"), Some(WAIT_MAX));
        assert_eq!(wait_of("wait=-1"), None);
        assert_eq!(wait_of("return=minimal"), None);
    }
}
