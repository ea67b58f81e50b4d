//! One control stream: lines from a proxy to the control task, messages from there to the proxy.
//!
//! ```text
//! lines up   ─▶ LineReader ─▶ control task's inbox (bounded: a flood waits at its own socket)
//! lines down ◀─ LineBody  ◀── the stream's queue   (bounded: who does not read is disconnected)
//! ```
//!
//! The answer goes out after the first line, `hello`, was read and found to fit the certificate, so that a wrong one is
//! told why; a proxy therefore sends `hello` with its request. Over HTTP/1.1 it is the request's whole body and the
//! answer upgrades the connection ([`super::upgrade`]); over HTTP/2 the bodies are the two directions.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Either, Limited};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use isobar_mesh_api::message::{
    Down, Hello, LINE_LEN_MAX, LineBuffer, LineError, LocalService, PROTOCOL_VERSION, Trust,
    UPGRADE, Up, decode_up, encode_line,
};
use isobar_mesh_api::names::NodeId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use super::upgrade::{self, Way};
use super::{Body, Peer, StreamPort, Streamed};
use crate::authority::{Authority, seconds};
use crate::control_task::{ControlHandle, StreamEnd, StreamId};
use crate::metrics::Metrics;
use crate::plain_calls::PlainCalls;
use crate::problem::Problem;
use crate::resource_text::check_hello;

/// How long a proxy may take to send `hello`.
const HELLO_TIME_MAX: Duration = Duration::from_secs(10);

/// Most messages waiting for a proxy that does not read; one more ends its stream.
pub(crate) const QUEUE_LEN_MAX: usize = 32;

/// Reads `hello` and opens the stream.
///
/// # Errors
/// No or a wrong certificate (403), a second stream on one connection (409), HTTP/1.1 without the upgrade (426), no sound
/// `hello` (400, 408, 422), a protocol this controller does not speak (400), too many at once (503), or the control task refuses.
pub(super) async fn open(
    port: &StreamPort,
    request: Request<Incoming>,
    peer: &Arc<Peer>,
) -> Result<Response<Body>, Problem> {
    let First {
        hello,
        lines,
        claim,
        way,
    } = first(port, request, peer).await?;
    let node = hello.node.clone();
    check_site(port, &hello)?;
    if port.authority.is_revoked(&node, peer.begins_s) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "this node's certificate was revoked; enrol with a token",
        ));
    }
    let Some(_place) = port.admission.place() else {
        port.metrics.deferred.hellos.increment(1);
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many proxies come at once; come again later",
        ));
    };
    let (queue, messages) = mpsc::channel(QUEUE_LEN_MAX);
    let end = StreamEnd {
        queue,
        kill: peer.kill.clone(),
    };
    let trust = port.authority.trust();
    let known = Known {
        serial: port.authority.on_stream(&node),
        node: node.clone(),
        authority: port.authority.clone(),
    };
    let stream = port.control.hello(hello, end).await?;
    let reader = Reader {
        node,
        known,
        trust: trust.clone(),
        stream,
        lines,
        control: port.control.clone(),
        plain: port.plain.clone(),
        claim,
    };
    let signal = port.drain.signal().clone();
    port.drain.spawn(reader.run(signal));
    let body = LineBody {
        messages,
        trust: WatchStream::new(trust),
        metrics: port.metrics.clone(),
    };
    Ok(answer(way, peer, Streamed::Lines(body)))
}

/// The answer that begins a stream whose lines down are `body`.
pub(super) fn answer(way: Option<Way>, peer: &Peer, body: Streamed) -> Response<Body> {
    if let Some(way) = way {
        peer.carry(way, body);
        return upgrade::switching();
    }
    let mut response = Response::new(Either::Right(body));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn read_hello(lines: &mut LineReader) -> Result<Hello, Problem> {
    match lines.next().await.ok().flatten().map(|up| *up) {
        Some(Up::Hello(hello)) => Ok(hello),
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the first line must be a hello",
        )),
    }
}

/// What a stream begins with.
pub(super) struct First {
    pub hello: Hello,
    pub lines: LineReader,
    pub claim: Claim,
    /// Over an upgraded connection; `None` in the bodies of an HTTP/2 request.
    pub way: Option<Way>,
}

/// Reads `hello`, whoever answers it.
///
/// # Errors
/// As of [`open`].
pub(super) async fn first(
    port: &StreamPort,
    request: Request<Incoming>,
    peer: &Arc<Peer>,
) -> Result<First, Problem> {
    let Some(node) = peer.node.clone() else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a control stream needs a node's client certificate; POST /v1/enrol gives one",
        ));
    };
    let Some(claim) = Claim::new(peer.clone()) else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "this connection has a control stream already",
        ));
    };
    let begun = tokio::time::timeout(HELLO_TIME_MAX, begin(port, request)).await;
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "no hello came");
    let (hello, lines, way) = begun.map_err(late)??;
    check(&hello, &node)?;
    check_services(&hello, peer)?;
    Ok(First {
        hello,
        lines,
        claim,
        way,
    })
}

/// Reads `hello` off a request of either version of HTTP.
async fn begin(
    port: &StreamPort,
    mut request: Request<Incoming>,
) -> Result<(Hello, LineReader, Option<Way>), Problem> {
    let metrics = port.metrics.clone();
    if request.version() == Version::HTTP_2 {
        let mut lines = LineReader::new(Source::Body(request.into_body()), metrics);
        let hello = read_hello(&mut lines).await?;
        return Ok((hello, lines, None));
    }
    if !upgrade::is_asked(request.headers()) {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            format!(
                "over HTTP/1.1 a control stream needs `Connection: upgrade` and `Upgrade: {UPGRADE}`"
            ),
        ));
    }
    let (way, incoming) = Way::new(hyper::upgrade::on(&mut request));
    let body = Limited::new(request.into_body(), LINE_LEN_MAX).collect();
    let unread = |error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the hello broke off or is too long: {error}"),
        )
    };
    let body = body.await.map_err(unread)?;
    // Until hello was read nothing but the body counts.
    let mut lines = LineReader::new(Source::Soon(oneshot::channel().1), metrics);
    let too_long = |error: LineError| Problem::new(StatusCode::BAD_REQUEST, error.to_string());
    lines.buffer.push(&body.to_bytes()).map_err(too_long)?;
    let hello = read_hello(&mut lines).await?;
    lines.source = Source::Soon(incoming);
    Ok((hello, lines, Some(way)))
}

fn check(hello: &Hello, node: &NodeId) -> Result<(), Problem> {
    if hello.node != *node {
        tracing::warn!(certificate = %node, hello = %hello.node, "a proxy says to be another node");
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!("the certificate is {node}'s, the hello says {}", hello.node),
        ));
    }
    if hello.protocol != PROTOCOL_VERSION {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!(
                "protocol {}; this controller speaks {PROTOCOL_VERSION}",
                hello.protocol
            ),
        ));
    }
    check_hello(hello)?;
    Ok(())
}

/// A workload's proxy draws load to no service but those of the workload's own namespace.
fn check_services(hello: &Hello, peer: &Peer) -> Result<(), Problem> {
    let Some(account) = &peer.account else {
        return Ok(());
    };
    let is_foreign = |local: &&LocalService| local.service.namespace() != account.namespace();
    match hello.services.iter().find(is_foreign) {
        None => Ok(()),
        Some(local) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "the proxy of the workload {account} has endpoints of services of {} alone, not of {}",
                account.namespace(),
                local.service
            ),
        )),
    }
}

/// A node whose token bound it to a site is of no other.
fn check_site(port: &StreamPort, hello: &Hello) -> Result<(), Problem> {
    match port.enrolled.site(&hello.node) {
        Some(site) if hello.site.as_ref() != Some(&site) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!("this node has enrolled for site {site}; say so in its configuration"),
        )),
        _ => Ok(()),
    }
}

/// A node with an open stream, as the authority knows it until this is dropped.
struct Known {
    node: NodeId,
    serial: u64,
    authority: Arc<Authority>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.authority.on_stream_end(&self.node, self.serial);
    }
}

/// The one stream a connection may have; given back when dropped.
pub(super) struct Claim(pub Arc<Peer>);

impl Claim {
    fn new(peer: Arc<Peer>) -> Option<Claim> {
        match peer.has_stream.swap(true, Ordering::AcqRel) {
            true => None,
            false => Some(Claim(peer)),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.has_stream.store(false, Ordering::Release);
    }
}

/// The task that reads one stream.
struct Reader {
    node: NodeId,
    known: Known,
    trust: watch::Receiver<Arc<Trust>>,
    stream: StreamId,
    lines: LineReader,
    control: ControlHandle,
    plain: Arc<PlainCalls>,
    claim: Claim,
}

impl Reader {
    async fn run(mut self, signal: tokio_util::sync::CancellationToken) {
        loop {
            let read = tokio::select! {
                () = signal.cancelled() => break,
                () = self.claim.0.kill.cancelled() => break,
                Ok(()) = self.trust.changed() => {
                    if self.is_revoked() {
                        tracing::warn!(node = %self.node, "a revoked node's stream ends");
                        self.claim.0.kill.cancel();
                        break;
                    }
                    continue;
                }
                read = self.lines.next() => read,
            };
            match read {
                Ok(Some(up)) => match &*up {
                    Up::Trusted { version } => {
                        self.known.authority.on_trusted(&self.node, *version);
                    }
                    other => {
                        if let Up::Report(report) = other {
                            tracing::trace!(node = %self.node, "a report came");
                            let now_s = seconds(SystemTime::now());
                            self.plain.add(&self.node, report, now_s);
                        }
                        self.control.up(&self.node, self.stream, up).await;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(node = %self.node, %error, "a control stream ends");
                    self.lines.metrics.streams_ended.too_long.increment(1);
                    break;
                }
            }
        }
        self.control.gone(&self.node, self.stream).await;
    }

    fn is_revoked(&self) -> bool {
        let begins_s = self.claim.0.begins_s;
        self.known.authority.is_revoked(&self.node, begins_s)
    }
}

/// Where a proxy's lines come from.
enum Source {
    /// The body of an HTTP/2 request.
    Body(Incoming),
    /// A connection that has not changed hands yet.
    Soon(oneshot::Receiver<upgrade::Incoming>),
    /// One that has.
    Connection(upgrade::Incoming),
}

impl Source {
    /// Adds what comes next. `false` at the end, which a broken connection has as well.
    ///
    /// # Errors
    /// The unfinished line is too long.
    async fn read(&mut self, buffer: &mut LineBuffer) -> Result<bool, LineError> {
        match self {
            Source::Body(body) => match body.frame().await {
                None | Some(Err(_)) => Ok(false),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        buffer.push(&bytes)?;
                    }
                    Ok(true)
                }
            },
            Source::Soon(soon) => match soon.await {
                Ok(incoming) => {
                    *self = Source::Connection(incoming);
                    Ok(true)
                }
                Err(_) => Ok(false),
            },
            Source::Connection(incoming) => {
                let read = std::future::poll_fn(|context| {
                    incoming.poll_read(context, |bytes| match bytes {
                        [] => Ok(false),
                        bytes => buffer.push(bytes).map(|()| true),
                    })
                });
                read.await.unwrap_or(Ok(false))
            }
        }
    }
}

/// Cuts what a proxy sends into messages.
pub(super) struct LineReader {
    source: Source,
    buffer: LineBuffer,
    metrics: Arc<Metrics>,
}

impl LineReader {
    fn new(source: Source, metrics: Arc<Metrics>) -> LineReader {
        LineReader {
            source,
            buffer: LineBuffer::new(),
            metrics,
        }
    }

    /// The next message; `None` at the stream's end. Lines that are no messages are counted and
    /// skipped. Cancelling loses nothing. Boxed, for the task of a stream has a place for it at every step of its way.
    ///
    /// # Errors
    /// A line longer than the protocol allows: the stream must end.
    pub async fn next(&mut self) -> Result<Option<Box<Up>>, LineError> {
        loop {
            while let Some(line) = self.buffer.next_line() {
                match decode_up(line) {
                    Ok(Up::Unknown) => self.metrics.lines_unknown.increment(1),
                    Ok(up) => return Ok(Some(Box::new(up))),
                    Err(error @ LineError::TooLong(_)) => return Err(error),
                    Err(LineError::Json(_)) => self.metrics.lines_nonsense.increment(1),
                }
            }
            if !self.source.read(&mut self.buffer).await? {
                return Ok(None);
            }
        }
    }
}

/// The response's body: what the control task queued, a message a line.
pub(super) struct LineBody {
    messages: mpsc::Receiver<Box<Down>>,
    trust: WatchStream<Arc<Trust>>,
    metrics: Arc<Metrics>,
}

impl HttpBody for LineBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            let message = match self.messages.poll_recv(context) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(message)) => message,
                // Whom to believe is told between two messages, the first time at once.
                Poll::Pending => match ready!(Pin::new(&mut self.trust).poll_next(context)) {
                    Some(trust) => Box::new(Down::Trust(Trust::clone(&trust))),
                    None => return Poll::Pending,
                },
            };
            match encode_line(&*message) {
                Ok(line) => return Poll::Ready(Some(Ok(Frame::data(line.into())))),
                Err(error) => {
                    self.metrics.pushes.too_long.increment(1);
                    tracing::error!(%error, "a message to a proxy was left out");
                }
            }
        }
    }
}
