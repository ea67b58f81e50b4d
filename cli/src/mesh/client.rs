//! Asks the controller's REST API.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::arguments::To;
use super::context::{Chosen, choose};
use super::tls::Tls;
use crate::Failure;

/// Longest that a connection may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest that an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: usize = 256 << 20;
/// Most pages of one list.
const PAGES_MAX: usize = 10_000;

/// Exit status when the controller cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 3;
/// Exit status when the controller refuses who asks.
pub const EXIT_FORBIDDEN: u8 = 4;
/// Exit status when there is no such thing.
pub const EXIT_MISSING: u8 = 5;
/// Exit status when it was changed meanwhile.
pub const EXIT_CHANGED: u8 = 6;

/// A controller to ask.
pub struct Client {
    url: String,
    host: String,
    token: Option<String>,
    /// `None` for `http://`.
    tls: Option<Tls>,
}

/// An answer.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its `ETag`.
    pub etag: Option<String>,
    /// Its body; `null` when it has none.
    pub value: Value,
}

/// The `host:port` of a URL, and whether it is one of TLS.
///
/// # Errors
/// Not `https://host:port` or `http://host:port`.
pub fn parse_url(url: &str) -> anyhow::Result<(String, bool)> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    let has_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => bail!(
            "{url:?} must be https://host:port, or http://host:port where the controller speaks plain HTTP"
        ),
    };
    if !matches!(uri.path(), "" | "/") {
        bail!("{url:?} must be https://host:port, without a path");
    }
    let host = uri.host().context("a URL needs a host")?;
    Ok((
        format!("{host}:{}", uri.port_u16().unwrap_or(7400)),
        has_tls,
    ))
}

impl Client {
    /// The controller that arguments, environment and contexts choose.
    ///
    /// # Errors
    /// None can be chosen.
    pub fn new(to: &To) -> Result<Client, Failure> {
        Client::of(choose(to).map_err(Failure::Input)?)
    }

    /// A controller that was chosen.
    ///
    /// # Errors
    /// Its URL is none, or what it is to be believed by cannot be used.
    pub fn of(chosen: Chosen) -> Result<Client, Failure> {
        let (host, has_tls) = parse_url(&chosen.url).map_err(Failure::Input)?;
        let tls = has_tls.then(|| Tls::new(&chosen)).transpose();
        let tls = tls.map_err(Failure::Input)?;
        let Chosen { url, token, .. } = chosen;
        Ok(Client {
            url,
            host,
            token,
            tls,
        })
    }

    /// The controller's REST API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads something.
    ///
    /// # Errors
    /// Unreachable, or refused.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.send(Method::GET, path, None).await?;
        Ok(answer.value)
    }

    /// Reads a list with all its pages.
    ///
    /// # Errors
    /// Unreachable, or refused.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut next = path.to_owned();
        for _ in 0..PAGES_MAX {
            let page = self.get(&next).await?;
            all.extend(page["items"].as_array().into_iter().flatten().cloned());
            let Some(after) = page["after"].as_str() else {
                return Ok(all);
            };
            let joint = if path.contains('?') { '&' } else { '?' };
            next = format!("{path}{joint}after={after}");
        }
        Err(Failure::Run(anyhow!("the list {path} does not end")))
    }

    /// Sends a request; what is not a success is an error.
    ///
    /// # Errors
    /// Unreachable, or refused.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, body).map_err(Failure::Run)?;
        self.answered(request).await
    }

    /// Writes a resource in the place of what had this tag when it was read; without one, where there was none.
    ///
    /// # Errors
    /// Unreachable, or refused: also with [`EXIT_CHANGED`] when it is not as it was any more.
    pub async fn replace(
        &self,
        path: &str,
        body: &Value,
        tag: Option<&str>,
    ) -> Result<Answer, Failure> {
        let request = self.request(Method::PUT, path, Some(body));
        let mut request = request.map_err(Failure::Run)?;
        let (name, value) = match tag {
            Some(tag) => (IF_MATCH, HeaderValue::from_str(tag)),
            None => (IF_NONE_MATCH, Ok(HeaderValue::from_static("*"))),
        };
        let value = value.map_err(|error| Failure::Run(error.into()))?;
        request.headers_mut().insert(name, value);
        self.answered(request).await
    }

    async fn answered(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, self.exchange(request));
        let answer = match answer.await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.unreachable(anyhow!("no answer in time"))),
        };
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(self.refused(&answer)),
        }
    }

    /// Opens a stream of an answer that does not end by itself.
    ///
    /// # Errors
    /// Unreachable, or refused.
    pub async fn stream(&self, path: &str, last: Option<u64>) -> Result<Incoming, Failure> {
        let mut request = self
            .request(Method::GET, path, None)
            .map_err(Failure::Run)?;
        if let Some(last) = last {
            request.headers_mut().insert("last-event-id", last.into());
        }
        let response = self.open(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(self.refused(&self.collect(response).await?))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = body.map(serde_json::to_vec).transpose()?;
        let body = Full::new(Bytes::from(bytes.unwrap_or_default()));
        // The value of a token must not be in the message.
        request
            .body(body)
            .map_err(|_| anyhow!("the path or the token has characters that a request cannot have"))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let response = self.open(request).await?;
        self.collect(response).await
    }

    async fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, Failure> {
        let connect = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(&self.host));
        let socket = match connect.await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(self.unreachable(error.into())),
            Err(_) => return Err(self.unreachable(anyhow!("no connection in time"))),
        };
        let response = match &self.tls {
            None => exchange_on(socket, request).await,
            Some(tls) => {
                let shaken =
                    tokio::time::timeout(CONNECT_TIME_MAX, tls.connect(&self.host, socket));
                match shaken.await {
                    Ok(Ok(stream)) => exchange_on(stream, request).await,
                    Ok(Err(error)) => return Err(self.unbelieved(error)),
                    Err(_) => return Err(self.unreachable(anyhow!("no TLS handshake in time"))),
                }
            }
        };
        response.map_err(|error| self.unreachable(error.into()))
    }

    async fn collect(&self, response: http::Response<Incoming>) -> Result<Answer, Failure> {
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, ANSWER_LEN_MAX).collect().await;
        let bytes = bytes.map_err(|error| self.unreachable(anyhow!(error)))?;
        let bytes = bytes.to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let value = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        };
        let etag = head.headers.get("etag").and_then(|tag| tag.to_str().ok());
        Ok(Answer {
            status: head.status,
            etag: etag.map(str::to_owned),
            value,
        })
    }

    /// It answers, and is not believed: nothing was sent to it.
    fn unbelieved(&self, error: anyhow::Error) -> Failure {
        let asked = format!("no TLS with the controller at {}", self.url);
        Failure::Exit(EXIT_UNREACHABLE, error.context(asked))
    }

    fn unreachable(&self, error: anyhow::Error) -> Failure {
        let asked = format!(
            "cannot reach the controller at {}; is it running, and is the context right (isobar context list)?",
            self.url
        );
        Failure::Exit(EXIT_UNREACHABLE, error.context(asked))
    }

    fn refused(&self, answer: &Answer) -> Failure {
        let detail = answer.value["detail"].as_str();
        let detail = detail.map_or_else(|| answer.status.to_string(), str::to_owned);
        let mut text = format!("the controller at {} refused: {detail}", self.url);
        for error in answer.value["errors"].as_array().into_iter().flatten() {
            let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            let line = format!("{}: {}", part("pointer"), part("detail"));
            if line != detail {
                text.push_str(&format!("\n  {line}"));
            }
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            text.push_str("; isobar login gives the context a token");
        }
        let error = anyhow!(text);
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Exit(EXIT_FORBIDDEN, error)
            }
            StatusCode::NOT_FOUND => Failure::Exit(EXIT_MISSING, error),
            StatusCode::PRECONDITION_FAILED => {
                let again = "it was changed meanwhile, and nothing was written; look at it (isobar policy diff), then repeat this";
                Failure::Exit(EXIT_CHANGED, error.context(again))
            }
            // The request is right; it cannot be done as things are.
            StatusCode::CONFLICT => Failure::Run(error),
            status if status.is_client_error() => Failure::Input(error),
            _ => Failure::Run(error),
        }
    }
}

/// One request on a connection of its own, which ends with the answer or with this program.
async fn exchange_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> hyper::Result<http::Response<Incoming>> {
    let hands = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = hands?;
    tokio::spawn(connection);
    sender.send_request(request).await
}
