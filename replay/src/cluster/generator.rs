//! The clients: an open loop that sends when it said it would, not when it is convenient.
//!
//! ```text
//! arrivals (seeded) ──▶ due ──▶ idle connection, or a new one ──▶ answer ──▶ record
//!                        └───────────────── latency ──────────────┘
//! ```
//!
//! Every node has its own stream of arrivals at its proxy's ingress. A request
//! that finds the mesh slow waits in the mesh, not here; the next one is sent
//! at its own time all the same. All clients share one thread, apart from the
//! thread that watches.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::{Arrivals, RateFn};
use super::endpoint::SERVED_BY;
use super::error::ClusterError;
use super::record::{Ended, Outcome, Record};

/// A client waits this long, from when it meant to send; then the request has failed.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Most requests under way per node; one that comes then has failed, as if no port were left.
pub const OUTSTANDING_MAX: usize = 2_000;
/// The host that clients ask for.
const HOST: &str = "city.example";

/// Whether a node is hot at a time in seconds.
pub type HotFn = dyn Fn(usize, f64) -> bool + Send + Sync;

/// What is sent where.
#[derive(Clone)]
pub struct Traffic {
    /// Names of the nodes, as endpoints answer them.
    pub names: Vec<String>,
    /// Each node's ingress.
    pub ingress: Vec<SocketAddr>,
    /// Requests/s by node and time.
    pub rate: Arc<RateFn>,
    /// Which requests count as sent to a hot node.
    pub hot: Arc<HotFn>,
    /// How long is sent, in seconds.
    pub duration_s: f64,
    /// Seed of the arrivals.
    pub seed: u64,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traffic")
            .field("names", &self.names)
            .field("duration_s", &self.duration_s)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// Sends until the traffic's end or `stop`, on a thread of its own, and waits for the answers.
/// Time 0 is `start`.
///
/// # Errors
/// No thread or runtime can be made.
pub fn spawn(
    traffic: Traffic,
    start: Instant,
    record: Arc<Mutex<Record>>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, ClusterError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClusterError::System)?;
    let work = move || runtime.block_on(send_all(traffic, start, record, stop));
    std::thread::Builder::new()
        .name("generator".to_owned())
        .spawn(work)
        .map_err(ClusterError::System)
}

async fn send_all(
    traffic: Traffic,
    start: Instant,
    record: Arc<Mutex<Record>>,
    stop: CancellationToken,
) {
    let under_way = TaskTracker::new();
    for home in 0..traffic.ingress.len() {
        let lane = Arc::new(Lane {
            home,
            ingress: traffic.ingress[home],
            names: traffic.names.clone(),
            start,
            record: record.clone(),
            idle: Mutex::new(Vec::new()),
            outstanding: AtomicUsize::new(0),
        });
        let (traffic, requests, stop) = (traffic.clone(), under_way.clone(), stop.clone());
        under_way.spawn(async move {
            let mut arrivals = Arrivals::new(traffic.seed, home, traffic.duration_s);
            while let Some(due_s) = arrivals.next(|at_s| (traffic.rate)(home, at_s)) {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = sleep_until(start + Duration::from_secs_f64(due_s)) => {}
                }
                let hot = (traffic.hot)(home, due_s);
                requests.spawn(lane.clone().request(due_s, hot));
            }
        });
    }
    under_way.close();
    under_way.wait().await;
}

type Sender = SendRequest<Empty<Bytes>>;

/// All clients of one node.
struct Lane {
    home: usize,
    ingress: SocketAddr,
    names: Vec<String>,
    start: Instant,
    record: Arc<Mutex<Record>>,
    /// Connections without a request, the last used on top.
    idle: Mutex<Vec<Sender>>,
    outstanding: AtomicUsize,
}

impl Lane {
    async fn request(self: Arc<Lane>, due_s: f64, hot: bool) {
        let due = self.start + Duration::from_secs_f64(due_s);
        self.record().offer(self.home, due_s);
        let outcome = match self.outstanding.fetch_add(1, Relaxed) {
            before if before >= OUTSTANDING_MAX => Outcome::Failed,
            _ => timeout_at(due + PATIENCE, self.exchange())
                .await
                .unwrap_or(Outcome::Failed),
        };
        self.outstanding.fetch_sub(1, Relaxed);
        let latency_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.record().end(Ended {
            home: self.home,
            due_s,
            hot,
            outcome,
            latency_us,
        });
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(&self) -> Outcome {
        let Some((sender, response)) = self.send().await else {
            return Outcome::Failed;
        };
        let status = response.status();
        let by = response.headers().get(SERVED_BY).cloned();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return Outcome::Failed;
            }
        }
        self.idle().push(sender);
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Outcome::Shed,
            status if status.is_success() => Outcome::Served {
                by: by.and_then(|by| {
                    self.names
                        .iter()
                        .position(|n| n.as_bytes() == by.as_bytes())
                }),
            },
            _ => Outcome::Failed,
        }
    }

    /// Sends over an idle connection or, when there is none that still works, a new one. A request
    /// that a closing connection did not take is sent again: no server has seen it.
    async fn send(&self) -> Option<(Sender, Response<Incoming>)> {
        loop {
            let idle = self.idle().pop();
            let (mut sender, fresh) = match idle {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            if sender.ready().await.is_err() && !fresh {
                continue;
            }
            let request = Request::get("/")
                .header("host", HOST)
                .body(Empty::new())
                .ok()?;
            match sender.try_send_request(request).await {
                Ok(response) => return Some((sender, response)),
                Err(error) if error.message().is_some() && !fresh => {}
                Err(_) => return None,
            }
        }
    }

    async fn connect(&self) -> Option<Sender> {
        let socket = TcpStream::connect(self.ingress).await.ok()?;
        socket.set_nodelay(true).ok()?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await.ok()?;
        // Ends when its sender is dropped or the server closes.
        tokio::spawn(connection);
        Some(sender)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
