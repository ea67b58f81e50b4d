//! What the way between two mesh ports is like: one proxy measures, the other answers.
//!
//! ```text
//! measures: GET /.isobar/bench/echo, one after another     ─► round trips
//!           POST /.isobar/bench/sink, some at once, 1 MiB each ─► bytes/s
//! ```
//!
//! Only authenticated nodes reach the mesh port. A node measures one way at a time, and answers one other at a time; both
//! have limits of bytes and time, so that a measurement cannot take a node's network for long.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use isobar_mesh_api::errand::{BenchLink, LinkFigures};
use isobar_mesh_api::names::NodeId;
use tokio::task::JoinSet;

use crate::body::{RequestBody, ResponseBody};
use crate::connection::Peer;
use crate::headers;
use crate::neighbour::{NeighbourError, NeighbourLive, Sender};
use crate::proxy::{Proxy, Worker};

/// Answers at once, with nothing.
const ECHO_PATH: &str = "/.isobar/bench/echo";
/// Takes a body and throws it away.
const SINK_PATH: &str = "/.isobar/bench/sink";

/// Most small requests of one measurement.
pub const ROUNDS_MAX: u32 = 200;
/// Longest that small requests are sent.
pub const ROUNDS_TIME_MAX: Duration = Duration::from_secs(3);
/// Longest that bytes are sent.
pub const SENDING_TIME_MAX: Duration = Duration::from_secs(2);
/// Most bytes of one measurement.
pub const BYTES_MAX: u64 = 256 << 20;
/// Bytes of one request to the sink; more is not taken.
pub const PIECE_LEN: usize = 1 << 20;
/// Requests to the sink at once.
const PIECES_AT_ONCE: usize = 4;
/// All of a measurement takes no longer.
pub const TIME_MAX: Duration = Duration::from_secs(10);
/// A measurement that is answered ends for others when nothing came of it for so long, in microseconds.
const QUIET_US_MAX: u64 = 2_000_000;
/// The sink waits no longer for a body.
const SINK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Who measures and who is measured.
#[derive(Debug, Default)]
pub struct Bench {
    measuring: AtomicBool,
    answering: Mutex<Option<Answering>>,
}

#[derive(Debug)]
struct Answering {
    home: NodeId,
    begun_us: u64,
    last_us: u64,
    bytes: u64,
}

/// Why a way is not measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// One at a time.
    #[error("this node measures another way; ask again in some seconds")]
    Busy,
    /// The other node cannot be reached.
    #[error("the way to the other node cannot be measured")]
    Unreachable(#[from] NeighbourError),
    /// It broke off.
    #[error("the way broke while it was measured")]
    Broken(#[from] hyper::Error),
    /// The other node does not take part.
    #[error("{0} answered {1}: it is being measured by another node, or is of an earlier version")]
    Refused(NodeId, StatusCode),
    /// It took too long.
    #[error("nothing came of it within {} s", TIME_MAX.as_secs())]
    TooSlow,
}

/// Whether a request to the mesh port is for this module.
pub fn is_for(path: &str) -> bool {
    path == ECHO_PATH || path == SINK_PATH
}

/// Answers a node that measures the way here.
pub async fn answer(
    worker: &Worker,
    peer: &Peer,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let (bench, clock) = (&worker.proxy.bench, worker.proxy.clock);
    let (head, mut body) = request.into_parts();
    let status = match (head.method, head.uri.path()) {
        _ if !bench.admit(&peer.home, 0, clock.now_us()) => StatusCode::SERVICE_UNAVAILABLE,
        (Method::GET, ECHO_PATH) => StatusCode::NO_CONTENT,
        (Method::POST, SINK_PATH) => {
            let swallow = async {
                let mut left = PIECE_LEN;
                while let Some(frame) = body.frame().await {
                    let len = frame.ok()?.data_ref().map_or(0, Bytes::len);
                    left = left.checked_sub(len)?;
                    let now_us = clock.now_us();
                    bench.admit(&peer.home, len as u64, now_us).then_some(())?;
                }
                Some(())
            };
            match tokio::time::timeout(SINK_WAIT_MAX, swallow).await {
                Ok(Some(())) => StatusCode::NO_CONTENT,
                Ok(None) => StatusCode::PAYLOAD_TOO_LARGE,
                Err(_) => StatusCode::REQUEST_TIMEOUT,
            }
        }
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Measures the way to another node.
///
/// # Errors
/// See [`BenchError`].
pub async fn measure(proxy: &Proxy, link: &BenchLink) -> Result<LinkFigures, BenchError> {
    if proxy.bench.measuring.swap(true, SeqCst) {
        return Err(BenchError::Busy);
    }
    let _turn = Turn(&proxy.bench.measuring);
    match tokio::time::timeout(TIME_MAX, figures(proxy, link)).await {
        Ok(figures) => figures,
        Err(_) => Err(BenchError::TooSlow),
    }
}

/// This node's one measurement, given back however it ends.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

async fn figures(proxy: &Proxy, link: &BenchLink) -> Result<LinkFigures, BenchError> {
    // A connection of its own: requests between the two neither wait for this nor disturb it.
    let other = NeighbourLive::new(link.to.clone(), &link.mesh_address, 1);
    let sender = other.sender(0, &proxy.identity, proxy.clock).await?;
    let home = &proxy.home;
    let began = Instant::now();
    let mut rtts_us = Vec::with_capacity(ROUNDS_MAX as usize);
    // The first one opens the connection's windows and caches; it does not count.
    ask(&sender, &link.to, home, Method::GET, Bytes::new()).await?;
    while rtts_us.len() < ROUNDS_MAX as usize && began.elapsed() < ROUNDS_TIME_MAX {
        let sent = Instant::now();
        ask(&sender, &link.to, home, Method::GET, Bytes::new()).await?;
        rtts_us.push(micros(sent.elapsed()));
    }
    rtts_us.sort_unstable();
    let (bytes, took) = fill(&sender, &link.to, home).await?;
    let at = |part: f64| {
        let index = ((rtts_us.len() as f64 * part).ceil() as usize).saturating_sub(1);
        rtts_us.get(index).copied().unwrap_or(0)
    };
    Ok(LinkFigures {
        rounds: rtts_us.len() as u32,
        rtt_min_us: at(0.0),
        rtt_p50_us: at(0.5),
        rtt_p99_us: at(0.99),
        bytes,
        took_us: micros(took),
    })
}

/// Sends as much as goes; how many bytes, in what time.
async fn fill(
    sender: &Sender,
    to: &NodeId,
    home: &HeaderValue,
) -> Result<(u64, Duration), BenchError> {
    let piece = Bytes::from(vec![0; PIECE_LEN]);
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..PIECES_AT_ONCE {
        let (sender, to, home) = (sender.clone(), to.clone(), home.clone());
        let piece = piece.clone();
        tasks.spawn(async move {
            let mut bytes = 0;
            let share = BYTES_MAX / PIECES_AT_ONCE as u64;
            while began.elapsed() < SENDING_TIME_MAX && bytes + PIECE_LEN as u64 <= share {
                ask(&sender, &to, &home, Method::POST, piece.clone()).await?;
                bytes += PIECE_LEN as u64;
            }
            Ok::<u64, BenchError>(bytes)
        });
    }
    let mut bytes = 0;
    while let Some(Ok(sent)) = tasks.join_next().await {
        bytes += sent?;
    }
    Ok((bytes, began.elapsed()))
}

async fn ask(
    sender: &Sender,
    to: &NodeId,
    home: &HeaderValue,
    method: Method,
    body: Bytes,
) -> Result<(), BenchError> {
    let path = match method {
        Method::GET => ECHO_PATH,
        _ => SINK_PATH,
    };
    let mut request = Request::new(RequestBody::of(body));
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static(path);
    request.headers_mut().insert(headers::HOME, home.clone());
    let response = sender.clone().send_request(request).await?;
    match response.status() {
        StatusCode::NO_CONTENT => Ok(()),
        other => Err(BenchError::Refused(to.clone(), other)),
    }
}

impl Bench {
    /// Whether a node may go on measuring the way here, and has so many bytes left.
    fn admit(&self, home: &NodeId, bytes: u64, now_us: u64) -> bool {
        let answering = self.answering.lock();
        let mut answering = answering.unwrap_or_else(PoisonError::into_inner);
        let is_over = answering.as_ref().is_none_or(|a| {
            now_us.saturating_sub(a.last_us) > QUIET_US_MAX
                || (a.home != *home && now_us.saturating_sub(a.begun_us) > micros(TIME_MAX))
        });
        if is_over {
            *answering = Some(Answering {
                home: home.clone(),
                begun_us: now_us,
                last_us: now_us,
                bytes: 0,
            });
        }
        let Some(own) = answering.as_mut().filter(|a| a.home == *home) else {
            return false;
        };
        own.last_us = now_us;
        own.bytes += bytes;
        // One that begins right after another is a new one.
        if now_us.saturating_sub(own.begun_us) > micros(TIME_MAX) {
            (own.begun_us, own.bytes) = (now_us, bytes);
        }
        own.bytes <= BYTES_MAX
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Measures and says how it went, as an errand's answer.
pub async fn run(proxy: Arc<Proxy>, link: BenchLink) -> Result<LinkFigures, String> {
    let measured = measure(&proxy, &link).await;
    measured.map_err(|error| crate::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_at_a_time_and_so_many_bytes() {
        let bench = Bench::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        assert!(bench.admit(&a, 0, 0));
        assert!(!bench.admit(&b, 0, 1_000_000), "a measures");
        assert!(bench.admit(&a, BYTES_MAX, 1_500_000));
        assert!(!bench.admit(&a, 1, 1_600_000), "a has sent enough");
        assert!(!bench.admit(&b, 0, 3_000_000), "a was heard of");
        assert!(bench.admit(&b, 0, 3_700_000), "a is quiet");
        assert!(!bench.admit(&a, 0, 3_800_000));
        // Who never stops is stopped for others.
        let mut now_us = 3_800_000;
        while now_us < 3_700_000 + micros(TIME_MAX) {
            assert!(bench.admit(&b, 0, now_us));
            now_us += 1_000_000;
        }
        assert!(bench.admit(&a, 0, 13_800_001));
    }
}
