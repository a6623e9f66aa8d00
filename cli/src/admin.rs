//! A client of the admin port: one request over HTTP, one answer in JSON, each bounded in time and
//! size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::args::{ServerAddress, Target};
use crate::failure::Failure;
use crate::output;

/// An answer larger than this is refused: the records of an export are the largest there is.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Of an answer that is no JSON, so much is shown.
const SHOWN_BYTES_MAX: usize = 200;
/// A promotion, a switchover or a reapplication is waited for at least so long: it may take a lease
/// and the way of what is missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The admin port of one node.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    address: ServerAddress,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

/// What a node answered, whether it did as asked or not.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    /// The answer; `null` where it has none.
    pub(crate) body: Json,
}

impl Admin {
    /// The node that `--admin` names.
    ///
    /// # Errors
    /// The password cannot be sent over HTTP.
    pub(crate) fn of(target: &Target) -> Result<Self, Failure> {
        let authorization = target.password().map(bearer).transpose()?;
        Ok(Self { address: target.admin.clone(), authorization, timeout: target.timeout() })
    }

    /// A node that needs no password.
    pub(crate) fn at(address: ServerAddress, timeout: Duration) -> Self {
        Self { address, authorization: None, timeout }
    }

    /// The same node, for what takes its time.
    pub(crate) fn patient(mut self) -> Self {
        self.timeout = self.timeout.max(PATIENCE);
        self
    }

    /// Asks for something.
    ///
    /// # Errors
    /// What [`Self::send`] lists, and a refusal.
    pub(crate) async fn get(&self, path: &str) -> Result<Json, Failure> {
        self.send(Method::GET, path, None).await?.accepted()
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// What [`Self::send`] lists, and a refusal.
    pub(crate) async fn post(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.send(Method::POST, path, Some(body)).await?.accepted()
    }

    /// Sets something.
    ///
    /// # Errors
    /// What [`Self::send`] lists, and a refusal.
    pub(crate) async fn put(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.send(Method::PUT, path, Some(body)).await?.accepted()
    }

    /// Removes something.
    ///
    /// # Errors
    /// What [`Self::send`] lists, and a refusal.
    pub(crate) async fn delete(&self, path: &str) -> Result<Json, Failure> {
        self.send(Method::DELETE, path, None).await?.accepted()
    }

    /// Sends one request on a connection of its own and waits for the answer, a refusal included.
    ///
    /// # Errors
    /// No connection, a lost one, an answer that is no HTTP or too large, wrong credentials, or the
    /// time allowed is over.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Answer, Failure> {
        let server = self.address.to_string();
        let late = || format!("no answer within {} ms", self.timeout.as_millis());
        let connecting = TcpStream::connect((self.address.host.as_str(), self.address.port));
        let stream = timeout(self.timeout, connecting)
            .await
            .map_err(|_| late())
            .and_then(|connected| connected.map_err(|error| error.to_string()))
            .map_err(|reason| Failure::Connect { server: server.clone(), reason })?;
        let request = self.request(method, path, body)?;
        let (status, bytes) = timeout(self.timeout, exchange(stream, request))
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(|reason| Failure::Lost { server: server.clone(), reason })?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Failure::Denied(reason(status, &json_of(&bytes).unwrap_or_default())));
        }
        let body = json_of(&bytes).ok_or_else(|| {
            let shown = output::for_line(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
            Failure::Refused(format!(
                "{server} answered {path} with {status} and no JSON ('{shown}'): is that the admin \
                 port of kvd, and of this version?"
            ))
        })?;
        Ok(Answer { status, body })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        request.body(Full::new(body)).map_err(|error| Failure::Usage(format!("{path}: {error}")))
    }
}

impl Answer {
    /// Whether the node did as asked.
    pub(crate) fn is_accepted(&self) -> bool {
        self.status.is_success()
    }

    /// The answer of a node that did as asked.
    ///
    /// # Errors
    /// The node refused; the failure says why.
    pub(crate) fn accepted(self) -> Result<Json, Failure> {
        if self.is_accepted() {
            return Ok(self.body);
        }
        Err(Failure::Refused(self.refusal()))
    }

    /// Why the node refused.
    pub(crate) fn refusal(&self) -> String {
        reason(self.status, &self.body)
    }
}

/// What stands in the path of a request for a name that a person gave.
pub(crate) fn segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                segment.push(char::from(byte));
            }
            // A segment of dots alone would name another place.
            b'.' if name.bytes().any(|byte| byte != b'.') => segment.push('.'),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

fn bearer(password: &[u8]) -> Result<HeaderValue, Failure> {
    let wrong = || Failure::Usage("the password has bytes that HTTP cannot carry".to_owned());
    let mut value =
        HeaderValue::from_bytes(&[b"Bearer ", password].concat()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

/// One request and its whole answer.
async fn exchange(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let answer = async {
        let response: Response<Incoming> = sender.send_request(request).await.map_err(told)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    // The connection moves the bytes, and may end before the answer has been taken out of it.
    tokio::select! {
        answer = &mut answer => answer,
        _ended = connection => answer.await,
    }
}

/// An error of the connection with its cause.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn told(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The JSON of a body; nothing counts as `null`.
fn json_of(body: &[u8]) -> Option<Json> {
    if body.is_empty() { Some(Json::Null) } else { serde_json::from_slice(body).ok() }
}

/// Why a node refused, in its own words where it has any.
fn reason(status: StatusCode, body: &Json) -> String {
    match body.get("error").and_then(Json::as_str) {
        Some(error) => output::for_line(error.as_bytes()),
        None => format!("{status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_segment_of_the_path() {
        assert_eq!(segment("2026-11-28.parted_1"), "2026-11-28.parted_1");
        assert_eq!(segment("../a b?c#d/é"), "..%2Fa%20b%3Fc%23d%2F%C3%A9");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment(""), "");
    }

    #[test]
    fn a_password_that_would_break_the_header_is_refused_and_not_shown() {
        assert_eq!(bearer(b"s3cret").unwrap(), "Bearer s3cret");
        assert!(!format!("{:?}", bearer(b"s3cret").unwrap()).contains("s3cret"));
        assert_eq!(bearer(b"a\r\nX: y").unwrap_err().exit_code(), 2);
    }
}
