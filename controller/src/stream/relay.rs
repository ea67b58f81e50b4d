//! What a controller that does not lead does with streams and enrolments: it passes them on to the one that does.
//!
//! ```text
//! proxy ══ its stream, which stays ══▶ Relay ── a request on the link ──▶ the leader's session
//!                                        └─ the leader is gone: hello again, with the last plan, to the next one
//! ```
//!
//! **Invariant**: only whole lines are passed on, so that another leader's first line begins where a line begins.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Limited};
use hyper::body::Incoming;
use isobar_mesh_api::enrol::{ENROL_LEN_MAX, ENROL_PATH};
use isobar_mesh_api::message::{Hello, LineBuffer, STREAM_PATH, Up, encode_line};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::session::{Claim, First, LineReader, QUEUE_LEN_MAX, answer, first};
use super::{Body, Peer, StreamPort, Streamed};
use crate::link::{Behalf, LinkBody, LinkError, Place, whole};
use crate::problem::Problem;

/// How long a new stream waits for a leader: less than proxies wait for an answer.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(4);
/// How long a stream that is open is kept without a leader: as long as proxies hold out without a word.
const KEPT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause before the leader is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// Lines on their way to the leader; a proxy that sends more waits at its own socket.
const LINES_MAX: usize = 16;
/// Longest refusal of the leader that is passed on, in bytes.
const REFUSAL_LEN_MAX: usize = 64 << 10;

/// Passes an enrolment on.
///
/// # Errors
/// Nobody leads, or the leader cannot be reached (503); the body is too long (413).
pub(super) async fn enrol(
    port: &StreamPort,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>, Problem> {
    let body = Limited::new(request.into_body(), ENROL_LEN_MAX)
        .collect()
        .await;
    let body = body.map_err(|_| {
        let detail = format!("an enrolment has at most {ENROL_LEN_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let mut place = leader(port, LEADER_WAIT_MAX).await?;
    let request = post(ENROL_PATH, whole(body.to_bytes()), peer);
    let response = place
        .send(request)
        .await
        .map_err(|error| no_leader(&error))?;
    port.metrics.relayed.enrolments.increment(1);
    passed(response).await
}

/// Reads `hello`, and opens the stream at the leader.
///
/// # Errors
/// As for a stream that ends here, or nobody leads (503).
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
    let upstream = match Upstream::open(port, peer, &hello, LEADER_WAIT_MAX).await? {
        Ok(upstream) => upstream,
        Err(refusal) => return passed(refusal).await,
    };
    let (queue, messages) = mpsc::channel(QUEUE_LEN_MAX);
    let relay = Relay {
        port: port.clone(),
        peer: peer.clone(),
        hello,
        lines,
        queue,
        claim,
    };
    port.drain.spawn(relay.run(upstream));
    Ok(answer(way, peer, Streamed::Relayed(messages)))
}

/// A stream's request at the leader.
struct Upstream {
    lines: mpsc::Sender<Bytes>,
    answer: Incoming,
    buffer: LineBuffer,
    place: Place,
}

impl Upstream {
    /// Says hello to who leads, waiting for one so long. `Ok(Err(…))`: the leader refuses.
    async fn open(
        port: &StreamPort,
        peer: &Peer,
        hello: &Hello,
        wait: Duration,
    ) -> Result<Result<Upstream, Response<Incoming>>, Problem> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut place = leader(port, left).await?;
            let hello = encode_line(&Up::Hello(hello.clone()));
            let hello =
                hello.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
            let (lines, receiver) = mpsc::channel(LINES_MAX);
            // The channel is new and has room.
            let _ = lines.try_send(Bytes::from(hello));
            let request = post(STREAM_PATH, LinkBody::Lines(receiver), peer);
            let answered = tokio::time::timeout_at(until, place.send(request)).await;
            let error = match answered {
                Ok(Ok(response)) if response.status() == StatusCode::OK => {
                    return Ok(Ok(Upstream {
                        lines,
                        answer: response.into_body(),
                        buffer: LineBuffer::new(),
                        place,
                    }));
                }
                Ok(Ok(response)) if is_final(&response) => return Ok(Err(response)),
                // It does not lead, or not yet.
                Ok(Ok(_)) => LinkError::NoLeader,
                Ok(Err(error)) => error,
                Err(_) => LinkError::TooSlow(place.leader.address.clone()),
            };
            if Instant::now() + RETRY >= until {
                return Err(no_leader(&error));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whole lines of the leader; `None` when the stream has ended there.
    async fn next(&mut self) -> Option<Bytes> {
        let mut lines = BytesMut::new();
        loop {
            let frame = self.answer.frame().await?.ok()?;
            if let Ok(bytes) = frame.into_data() {
                self.buffer.push(&bytes).ok()?;
            }
            while let Some(line) = self.buffer.next_line() {
                lines.extend_from_slice(line);
                lines.extend_from_slice(b"\n");
            }
            if !lines.is_empty() {
                return Some(lines.freeze());
            }
        }
    }
}

/// One proxy's stream, for as long as the proxy holds it.
struct Relay {
    port: StreamPort,
    peer: Arc<Peer>,
    /// What the proxy said, with the last plan that it acknowledged.
    hello: Hello,
    lines: LineReader,
    queue: mpsc::Sender<Bytes>,
    claim: Claim,
}

/// Why a stream goes on no more with this leader.
enum Ended {
    /// The proxy, or this program: for good.
    Here,
    /// The leader.
    There,
}

impl Relay {
    async fn run(mut self, mut upstream: Upstream) {
        let metrics = self.port.metrics.clone();
        metrics.relayed.streams.increment(1.0);
        let signal = self.port.drain.signal().clone();
        loop {
            match self.pass(&mut upstream).await {
                Ended::Here => break,
                Ended::There => {}
            }
            let again = Upstream::open(&self.port, &self.peer, &self.hello, KEPT_WAIT_MAX);
            let again = tokio::select! {
                () = signal.cancelled() => break,
                () = self.claim.0.kill.cancelled() => break,
                again = again => again,
            };
            match again {
                Ok(Ok(next)) => upstream = next,
                // The proxy asks another controller, or this one again, which may lead itself.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        metrics.relayed.streams.decrement(1.0);
    }

    /// Passes lines both ways.
    async fn pass(&mut self, upstream: &mut Upstream) -> Ended {
        let signal = self.port.drain.signal().clone();
        let kill = self.claim.0.kill.clone();
        let mut role = self.port.links.role();
        loop {
            tokio::select! {
                () = signal.cancelled() => return Ended::Here,
                () = kill.cancelled() => return Ended::Here,
                changed = role.changed() => {
                    let leader = self.port.links.leader();
                    if changed.is_err() || leader.is_some_and(|leader| leader != upstream.place.leader) {
                        return Ended::There;
                    }
                }
                read = self.lines.next() => match read {
                    Ok(Some(up)) => {
                        if let Ended::There = self.up(up, upstream).await {
                            return Ended::There;
                        }
                    }
                    Ok(None) => return Ended::Here,
                    Err(error) => {
                        tracing::warn!(node = %self.hello.node, %error, "a control stream ends");
                        self.port.metrics.streams_ended.too_long.increment(1);
                        return Ended::Here;
                    }
                },
                lines = upstream.next() => match lines {
                    Some(lines) => {
                        self.count(&lines);
                        if self.queue.try_send(lines).is_err() {
                            tracing::warn!(node = %self.hello.node, "a proxy does not read its stream");
                            self.port.metrics.streams_ended.slow.increment(1);
                            kill.cancel();
                            return Ended::Here;
                        }
                    }
                    None => return Ended::There,
                },
            }
        }
    }

    async fn up(&mut self, up: Box<Up>, upstream: &Upstream) -> Ended {
        match &*up {
            Up::Ack(plan) => self.hello.plan = Some(*plan),
            Up::Report(_) => self.port.metrics.relayed.reports.increment(1),
            _ => {}
        }
        let Ok(line) = encode_line(&*up) else {
            return Ended::Here;
        };
        match upstream.lines.send(Bytes::from(line)).await {
            Ok(()) => Ended::Here,
            Err(_) => Ended::There,
        }
    }

    fn count(&self, lines: &[u8]) {
        let is_push = |line: &&[u8]| {
            line.starts_with(b"{\"type\":\"snapshot\"") || line.starts_with(b"{\"type\":\"delta\"")
        };
        let pushes = lines.split(|&byte| byte == b'\n').filter(is_push).count();
        self.port.metrics.relayed.pushes.increment(pushes as u64);
    }
}

/// Whether a refusal is the leader's word, which its caller gets: it refuses the proxy, or has too many and says when to come again.
fn is_final(refusal: &Response<Incoming>) -> bool {
    let is_away = refusal.status() == StatusCode::SERVICE_UNAVAILABLE;
    !is_away || refusal.headers().contains_key(RETRY_AFTER)
}

/// A place on a link to who leads, waiting for one so long.
async fn leader(port: &StreamPort, wait: Duration) -> Result<Place, Problem> {
    let until = Instant::now() + wait;
    loop {
        let error = match port.links.place().await {
            Ok(place) => return Ok(place),
            Err(error) => error,
        };
        // Whoever waits is told to come to this controller itself.
        if port.links.answers_here() || Instant::now() + RETRY >= until {
            return Err(no_leader(&error));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What a caller is told when the leader is not there.
pub(crate) fn no_leader(error: &LinkError) -> Problem {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(error, "nothing can be passed on to the leader");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no controller leads now, or it cannot be reached; ask again in a moment, or another controller",
    )
}

fn post(path: &'static str, body: LinkBody, peer: &Peer) -> Request<LinkBody> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    let behalf = Behalf {
        node: peer.node.clone(),
        account: peer.account.clone(),
        begins_s: peer.begins_s,
        address: peer.address,
    };
    behalf.write(request.headers_mut());
    request
}

/// What the leader answered, whole.
async fn passed(response: Response<Incoming>) -> Result<Response<Body>, Problem> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, REFUSAL_LEN_MAX.max(ENROL_LEN_MAX))
        .collect()
        .await;
    let body = body.map_err(|error| {
        tracing::warn!(%error, "the leader's answer broke off");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the leader's answer broke off; ask again",
        )
    })?;
    let mut response = Response::new(Either::Left(body.to_bytes().into()));
    *response.status_mut() = head.status;
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}
