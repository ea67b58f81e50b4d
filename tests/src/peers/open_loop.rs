//! Requests that leave when they are meant to, whatever became of those before them.
//!
//! One task walks through the arrivals and hands each to an idle connection, or to a queue when none
//! is idle. It spins: the load core belongs to it, the client connections and the backend alone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};

use super::closed_loop::{Client, Exchange};

/// Most arrivals of one measurement.
const ARRIVALS_MAX: usize = 1_000_000;
/// Requests that wait for a connection; more end the measurement: the proxy does not keep up.
const WAITING_MAX: usize = 10_000;
/// Longest wait for the last answers.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(5);

/// The latencies of one measurement, and how many there were.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Half of the requests were at most as long.
    pub p50_us: f64,
    /// 99 % of them were.
    pub p99_us: f64,
    /// Requests that these are of.
    pub counted: u64,
    /// Requests answered, those of the warm-up included.
    pub answered: u64,
}

/// What to send, how often and for how long.
#[derive(Debug, Clone)]
pub struct Load {
    /// The request.
    pub exchange: Exchange,
    /// Mean arrivals, requests/s.
    pub rate_rps: f64,
    /// Open connections.
    pub connections: usize,
    /// Arrivals before this are sent and not counted.
    pub warm_up: Duration,
    /// Arrivals are counted for this long.
    pub window: Duration,
    /// Of the arrival times: one seed, one schedule.
    pub seed: u64,
}

/// Arrival times of a Poisson process since the start, at most [`ARRIVALS_MAX`].
fn arrivals(rate_rps: f64, length: Duration, seed: u64) -> Vec<Duration> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut at_seconds = 0.0;
    let mut arrivals = Vec::new();
    while arrivals.len() < ARRIVALS_MAX {
        at_seconds -= (1.0 - rng.f64()).ln() / rate_rps;
        if at_seconds >= length.as_secs_f64() {
            break;
        }
        arrivals.push(Duration::from_secs_f64(at_seconds));
    }
    arrivals
}

struct Shared {
    queue: Mutex<Queue>,
    latencies_ns: Mutex<Histogram<u64>>,
    counted_from: Instant,
}

#[derive(Default)]
struct Queue {
    idle: VecDeque<mpsc::Sender<Instant>>,
    waiting: VecDeque<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one measurement.
///
/// # Errors
/// A connection failed, or more than 10,000 requests waited for one.
pub async fn run(address: SocketAddr, load: &Load) -> Result<Latency> {
    ensure!(load.rate_rps > 0.0, "no rate");
    let mut clients = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        clients.push(Client::connect(address, &load.exchange).await?);
    }
    let arrivals = arrivals(load.rate_rps, load.warm_up + load.window, load.seed);
    let start = Instant::now();
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        latencies_ns: Mutex::new(Histogram::new(3)?),
        counted_from: start + load.warm_up,
    });
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(connection(client, load.exchange.clone(), shared.clone()));
    }
    send(&arrivals, start, &shared, &mut tasks).await?;
    let drained =
        tokio::time::timeout(DRAIN_WAIT_MAX, drain(&shared, &mut tasks, load.connections)).await;
    drained.map_err(|_| anyhow!("no answer within {DRAIN_WAIT_MAX:?}"))??;
    let latencies_ns = lock(&shared.latencies_ns);
    ensure!(!latencies_ns.is_empty(), "no request was counted");
    let quantile_us = |q| latencies_ns.value_at_quantile(q) as f64 / 1e3;
    Ok(Latency {
        p50_us: quantile_us(0.5),
        p99_us: quantile_us(0.99),
        counted: latencies_ns.len(),
        answered: arrivals.len() as u64,
    })
}

/// Hands out the arrivals when their time has come.
async fn send(
    arrivals: &[Duration],
    start: Instant,
    shared: &Shared,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    for arrival in arrivals {
        let intended = start + *arrival;
        // Other tasks and the sockets have their turn at least once for each arrival.
        yield_now().await;
        while Instant::now() < intended {
            yield_now().await;
        }
        let mut queue = lock(&shared.queue);
        match queue.idle.pop_front() {
            // An idle connection has room for one: this fails only if its task failed.
            Some(idle) if idle.try_send(intended).is_ok() => {}
            Some(_) => {}
            None => queue.waiting.push_back(intended),
        }
        ensure!(
            queue.waiting.len() <= WAITING_MAX,
            "does not keep up: {WAITING_MAX} requests wait"
        );
        drop(queue);
        if let Some(ended) = tasks.try_join_next() {
            ended.context("a connection's task")??;
        }
    }
    Ok(())
}

/// Waits until every connection is idle again.
async fn drain(shared: &Shared, tasks: &mut JoinSet<Result<()>>, connections: usize) -> Result<()> {
    loop {
        if let Some(ended) = tasks.try_join_next() {
            ended.context("a connection's task")??;
        }
        let idle = {
            let queue = lock(&shared.queue);
            queue.waiting.is_empty() && queue.idle.len() == connections
        };
        if idle {
            return Ok(());
        }
        yield_now().await;
    }
}

/// One connection: idle, or on its way with one request.
async fn connection(mut client: Client, exchange: Exchange, shared: Arc<Shared>) -> Result<()> {
    let (sender, mut orders) = mpsc::channel(1);
    loop {
        let waiting = {
            let mut queue = lock(&shared.queue);
            let waiting = queue.waiting.pop_front();
            if waiting.is_none() {
                queue.idle.push_back(sender.clone());
            }
            waiting
        };
        let intended = match waiting {
            Some(intended) => intended,
            // This task holds a sender itself: the channel does not end, the task is dropped.
            None => orders.recv().await.context("no more orders")?,
        };
        client.exchange(&exchange).await?;
        if intended >= shared.counted_from {
            let latency_ns = u64::try_from(intended.elapsed().as_nanos())?;
            lock(&shared.latencies_ns).record(latency_ns)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend;
    use super::*;

    #[test]
    fn arrivals_are_a_schedule_of_the_seed() {
        let length = Duration::from_secs(10);
        let first = arrivals(1_000.0, length, 7);
        assert_eq!(first, arrivals(1_000.0, length, 7));
        assert_ne!(first, arrivals(1_000.0, length, 8));
        // Ten standard deviations of a Poisson count of 10,000.
        assert!((9_000..=11_000).contains(&first.len()), "{}", first.len());
        assert!(first.is_sorted());
    }

    #[tokio::test]
    async fn every_arrival_is_counted_once() {
        let backend = backend::start().await.unwrap();
        let load = Load {
            exchange: Exchange::new(0, 128),
            rate_rps: 5_000.0,
            connections: 2,
            warm_up: Duration::ZERO,
            window: Duration::from_millis(100),
            seed: 1,
        };
        let latency = run(backend, &load).await.unwrap();
        let arrivals = arrivals(load.rate_rps, load.window, load.seed).len();
        assert_eq!(
            (latency.counted, latency.answered),
            (arrivals as u64, arrivals as u64)
        );
        assert!(latency.p50_us <= latency.p99_us);
    }
}
