//! An endpoint that works on a few requests at once and waits instead of burning the processor.
//!
//! First in, first out over `workers`: an arriving request is given to the
//! worker that is free first, so its finish is known on arrival and one timer
//! is all it costs. Service times are exponential. What the timer and the wire
//! cost must not eat the emulated capacity: a request that comes within
//! [`SLACK`] of its worker's being free counts as having waited for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};

use super::arrivals::exponential;

/// The response header in which an endpoint names its node.
pub const SERVED_BY: &str = "x-served-by";
/// A request that comes this soon after its worker was free counts as having waited.
pub const SLACK: Duration = Duration::from_millis(2);

/// What an endpoint is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its node, answered in [`SERVED_BY`].
    pub node: HeaderValue,
    /// Requests it works on at once.
    pub workers: usize,
    /// Mean service time.
    pub service: Duration,
    /// Seed of its service times.
    pub seed: u64,
}

/// When each worker is free.
#[derive(Debug)]
pub struct Workers {
    free_at: Vec<Instant>,
    service: Duration,
    rng: fastrand::Rng,
}

impl Workers {
    /// Idle workers.
    pub fn new(endpoint: &Endpoint, now: Instant) -> Workers {
        Workers {
            free_at: vec![now; endpoint.workers.max(1)],
            service: endpoint.service,
            rng: fastrand::Rng::with_seed(endpoint.seed),
        }
    }

    /// Takes one request at `now`; when it will be done.
    pub fn take(&mut self, now: Instant) -> Instant {
        let service = self.service.mul_f64(exponential(&mut self.rng));
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let first = self.free_at.iter_mut().min();
        first.map_or(now, |free_at| {
            *free_at = (*free_at).max(earliest) + service;
            *free_at
        })
    }
}

impl Endpoint {
    /// Accepts and serves until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let workers = Arc::new(Mutex::new(Workers::new(&self, Instant::now())));
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let _ = socket.set_nodelay(true);
            let workers = workers.clone();
            let node = self.node.clone();
            let service = service_fn(move |request| answer(request, workers.clone(), node.clone()));
            // Ends with its connection; the process ends with all of them.
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(socket), service),
            );
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    workers: Arc<Mutex<Workers>>,
    node: HeaderValue,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let done_at = {
        let mut workers = workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.take(Instant::now())
    };
    sleep_until(done_at).await;
    let mut response = Response::new(Full::new(Bytes::from_static(b"served\n")));
    response.headers_mut().insert(SERVED_BY, node);
    Ok(response)
}

/// Binds a loopback port.
///
/// # Errors
/// None is free.
pub async fn listen() -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(workers: usize) -> Endpoint {
        Endpoint {
            node: HeaderValue::from_static("a"),
            workers,
            service: Duration::from_millis(20),
            seed: 5,
        }
    }

    #[tokio::test]
    async fn a_busy_endpoint_serves_its_capacity_and_an_idle_one_does_not_queue() {
        let now = Instant::now();
        let mut busy = Workers::new(&endpoint(4), now);
        let last = (0..40_000).map(|_| busy.take(now)).max().unwrap();
        let rate_rps = 40_000.0 / (last - now).as_secs_f64();
        assert!((rate_rps - 200.0).abs() < 6.0, "{rate_rps}");

        let mut idle = Workers::new(&endpoint(1), now);
        let mean_s: f64 = (1..=10_000_u32)
            .map(|i| now + Duration::from_secs(60) * i)
            .map(|at| (idle.take(at) + SLACK - at).as_secs_f64())
            .sum::<f64>()
            / 10_000.0;
        assert!((mean_s - 0.020).abs() < 0.001, "{mean_s}");
    }
}
