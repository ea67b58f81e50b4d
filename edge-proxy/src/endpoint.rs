//! One endpoint of this node and the connections to it.
//!
//! Live state: it is keyed by address and outlives snapshots. Every worker
//! has its own connections, used last in, first out, so that those which a
//! burst needed fall idle and are closed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::balance::Peak;
use crate::circuit::Admit;
use crate::clock::Clock;
use crate::http1::client::Connection;

mod live_circuit;
mod shared;

pub use live_circuit::{CircuitView, LiveCircuit, Siblings, Through, Verdict};

/// Idle connections one worker keeps to one endpoint; more are closed.
pub const IDLE_MAX: usize = 1024;
/// A connection idle for longer is closed, in microseconds.
pub const IDLE_US_MAX: u64 = 30_000_000;
/// After it could not be reached, an endpoint is passed over that long if there is another.
pub const DOWN_US: u64 = 1_000_000;

/// Why an endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No connection.
    #[error("connecting to {address}")]
    Connect {
        /// The endpoint.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A slot of an endpoint.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) endpoint: &'a Arc<EndpointLive>,
    /// Whether its circuit waits for what comes of it.
    pub(crate) is_probe: bool,
}

/// Answers to health questions, since the start.
#[derive(Debug, Default)]
pub struct Checks {
    /// Good ones.
    pub good: AtomicU64,
    /// Bad ones, and none at all.
    pub bad: AtomicU64,
}

/// An endpoint's load and connections.
#[derive(Debug)]
pub struct EndpointLive {
    address: String,
    /// The address, when no name has to be looked up.
    numeric: Option<SocketAddr>,
    workers: AtomicU32,
    /// Requests that it is given at once, when that is learned; 0 = as many as its workers.
    learned: AtomicU32,
    active: AtomicU32,
    /// When it may be chosen freely again, in microseconds; 0 = now.
    down_until_us: AtomicU64,
    down: AtomicU32,
    /// Whether it gets requests.
    pub circuit: LiveCircuit,
    /// What its health checks came to.
    pub checks: Checks,
    /// A [`Peak`].
    peak: AtomicU64,
    since_us: u64,
    pools: Box<[Mutex<Vec<Idle>>]>,
    shared: Box<[shared::Shared]>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since_us: u64,
}

impl EndpointLive {
    /// An endpoint at `host:port` that works on `workers` requests at once, for that many worker
    /// threads; one of `siblings`.
    pub fn new(
        address: &str,
        workers: u32,
        threads: usize,
        clock: Clock,
        siblings: Arc<Siblings>,
    ) -> EndpointLive {
        EndpointLive {
            address: address.to_owned(),
            numeric: address.parse().ok(),
            workers: AtomicU32::new(workers),
            learned: AtomicU32::new(0),
            active: AtomicU32::new(0),
            down_until_us: AtomicU64::new(0),
            down: AtomicU32::new(0),
            circuit: LiveCircuit::new(threads, siblings),
            checks: Checks::default(),
            peak: AtomicU64::new(0),
            since_us: clock.now_us(),
            pools: (0..threads).map(|_| Mutex::default()).collect(),
            shared: (0..threads).map(|_| shared::Shared::default()).collect(),
        }
    }

    /// Its address, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Requests it works on at once.
    pub fn workers(&self) -> u32 {
        self.workers.load(Relaxed)
    }

    /// Sets how many requests it works on at once.
    pub fn set_workers(&self, workers: u32) {
        self.workers.store(workers, Relaxed);
    }

    /// Requests that it is given at once: its workers, unless that is learned.
    pub fn places(&self) -> u32 {
        match self.learned.load(Relaxed) {
            0 => self.workers(),
            learned => learned,
        }
    }

    /// Sets how many requests it is given at once; 0 = as many as its workers.
    pub fn set_learned(&self, learned: u32) {
        self.learned.store(learned, Relaxed);
    }

    /// Requests at it now.
    pub fn active(&self) -> u32 {
        self.active.load(SeqCst)
    }

    /// Its recent peak latency, in microseconds; 0 when unknown.
    pub fn peak_us(&self, now_us: u64) -> f64 {
        Peak(self.peak.load(Relaxed)).at(now_us)
    }

    /// Takes up how long one request took. A failure tells nothing when it was fast. Two workers at once may lose one of
    /// their figures, no more.
    pub fn note_latency(&self, latency_us: u64, completed: bool, now_us: u64) {
        let peak = Peak(self.peak.load(Relaxed));
        if completed || latency_us as f64 > peak.at(now_us) {
            self.peak.store(peak.with(latency_us, now_us).0, Relaxed);
        }
    }

    /// Since when it gets requests, in microseconds.
    pub fn flows_since_us(&self) -> u64 {
        self.since_us.max(self.circuit.closed_since_us())
    }

    /// Whether it could not be reached just now.
    pub fn is_down(&self) -> bool {
        self.down.load(Relaxed) > 0
    }

    /// Whether it serves, as far as anybody knows.
    pub fn is_up(&self) -> bool {
        !self.is_down() && !self.circuit.is_open()
    }

    /// Takes a slot; `false` when there is none, or somebody was faster.
    pub(crate) fn enter(&self) -> bool {
        let active = self.active.load(SeqCst);
        let taken = || {
            let next = active + 1;
            self.active.compare_exchange(active, next, SeqCst, SeqCst)
        };
        active < self.places() && taken().is_ok()
    }

    /// Takes a slot though the circuit is not Closed, if it lets one through now; says whether as a probe.
    pub(crate) fn probe(&self, now_us: u64) -> Option<bool> {
        let is_probe = match self.circuit.admit(now_us) {
            Admit::No => return None,
            Admit::Flow => false,
            Admit::Probe => true,
        };
        if !self.enter() {
            self.circuit.abandoned(is_probe);
            return None;
        }
        Some(is_probe)
    }

    /// Gives the slot back.
    pub(crate) fn leave(&self) {
        self.active.fetch_sub(1, SeqCst);
    }

    /// A connection that can be used now, if this worker has one.
    pub fn idle_connection(&self, worker: usize) -> Option<Connection> {
        let mut pool = self.pool(worker)?;
        while let Some(idle) = pool.pop() {
            if !idle.connection.is_dead() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection for the worker's next request.
    pub fn keep(&self, worker: usize, connection: Connection, now_us: u64) {
        if let Some(mut pool) = self.pool(worker)
            && pool.len() < IDLE_MAX
        {
            pool.push(Idle {
                connection,
                since_us: now_us,
            });
        }
    }

    /// Connections that are kept for a next request.
    pub fn idle_connections(&self) -> usize {
        let pools = (0..self.pools.len()).filter_map(|worker| self.pool(worker));
        pools.map(|pool| pool.len()).sum()
    }

    /// Closes what was idle for too long. Called now and then by each worker for its own.
    pub fn sweep(&self, worker: usize, now_us: u64) {
        if let Some(mut pool) = self.pool(worker) {
            pool.retain(|idle| {
                !idle.connection.is_dead() && now_us.saturating_sub(idle.since_us) <= IDLE_US_MAX
            });
            pool.shrink_to_fit();
        }
        if let Some(shared) = self.shared.get(worker) {
            shared.sweep(now_us);
        }
        self.recover(now_us);
    }

    /// Opens a connection for HTTP/1.1 on the calling worker's runtime; it begins with `greeting`.
    ///
    /// # Errors
    /// Not reached within `wait_max`; the endpoint is passed over for [`DOWN_US`].
    pub async fn connect(
        &self,
        clock: Clock,
        wait_max: Duration,
        greeting: &[u8],
    ) -> Result<Connection, EndpointError> {
        let stream = self.open_tcp(clock, wait_max, greeting).await?;
        Ok(Connection::new(stream, clock))
    }

    /// Opens a connection for anything else.
    ///
    /// # Errors
    /// As [`EndpointLive::connect`].
    pub async fn open_tcp(
        &self,
        clock: Clock,
        wait_max: Duration,
        greeting: &[u8],
    ) -> Result<TcpStream, EndpointError> {
        let opened = tokio::time::timeout(wait_max, self.open(greeting)).await;
        let opened = opened.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match opened {
            Ok(stream) => {
                self.down.store(0, Relaxed);
                Ok(stream)
            }
            Err(source) => {
                self.down_until_us.store(clock.now_us() + DOWN_US, Relaxed);
                self.down.store(1, Relaxed);
                Err(EndpointError::Connect {
                    address: self.address.clone(),
                    source,
                })
            }
        }
    }

    async fn open(&self, greeting: &[u8]) -> std::io::Result<TcpStream> {
        let mut stream = match self.numeric {
            Some(address) => TcpStream::connect(address).await?,
            None => TcpStream::connect(&self.address).await?,
        };
        stream.set_nodelay(true)?;
        if !greeting.is_empty() {
            stream.write_all(greeting).await?;
        }
        Ok(stream)
    }

    fn recover(&self, now_us: u64) {
        if self.is_down() && now_us >= self.down_until_us.load(Relaxed) {
            self.down.store(0, Relaxed);
        }
    }

    fn pool(&self, worker: usize) -> Option<MutexGuard<'_, Vec<Idle>>> {
        let pool = self.pools.get(worker)?;
        Some(pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
