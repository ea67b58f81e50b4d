//! One neighbour and the connections to its mesh port.
//!
//! Live state: keyed by node, outlives snapshots. Each worker, and the prober,
//! has one HTTP/2 connection over mutual TLS per neighbour, opened at the
//! first request and shared by all its requests: batching is what makes two
//! hops cheap.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isobar_mesh_api::names::NodeId;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::RequestBody;
use crate::clock::Clock;
use crate::identity::{Identity, IdentityCell};

/// Longest wait for a connection, its handshakes included. The request waits that long at most
/// before it is brought home.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// After a failed connection nobody tries again for this long; doubles up to [`BACKOFF_US_MAX`].
pub const BACKOFF_US_MIN: u64 = 100_000;
/// Longest pause between two attempts, in microseconds.
pub const BACKOFF_US_MAX: u64 = 5_000_000;
/// Flow-control window of one request, in bytes.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window of all requests of a connection together, in bytes.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A connection on which nothing came for this long is asked whether it lives …
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// … and closed when it does not answer in this time.
pub const PING_WAIT_MAX: Duration = Duration::from_secs(2);
/// A new round trip counts one part in this many.
const RTT_SMOOTHING: u32 = 8;

/// Sends requests to one neighbour.
pub type Sender = http2::SendRequest<RequestBody>;

/// Why a neighbour cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    /// This proxy has no certificate yet.
    #[error("this proxy has no certificate yet")]
    NoIdentity,
    /// It could not be reached a moment ago.
    #[error("{0} could not be reached a moment ago")]
    Pausing(NodeId),
    /// Not in time.
    #[error("connecting to {0} took too long")]
    TooSlow(NodeId),
    /// The connection or TLS failed; also when the other end is not who it should be.
    #[error("connecting to {node}")]
    Connect {
        /// The neighbour.
        node: NodeId,
        /// What went wrong.
        source: std::io::Error,
    },
    /// HTTP/2 could not begin.
    #[error("beginning HTTP/2 with {node}")]
    Http2 {
        /// The neighbour.
        node: NodeId,
        /// What went wrong.
        source: hyper::Error,
    },
}

/// A neighbour's address, round trip and connections.
#[derive(Debug)]
pub struct NeighbourLive {
    /// Its name; its certificate must carry it.
    pub node: NodeId,
    address: Mutex<Arc<str>>,
    rtt_us: AtomicU32,
    links: Box<[Link]>,
}

#[derive(Debug, Default)]
struct Link {
    open: Mutex<Option<Open>>,
    /// Held while connecting, so that one request connects and the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    pause_until_us: AtomicU64,
    failures: AtomicU32,
}

#[derive(Debug)]
struct Open {
    sender: Sender,
    identity: Arc<Identity>,
}

impl NeighbourLive {
    /// A neighbour with its mesh port at `host:port`; `links` = worker threads + 1 for the prober.
    pub fn new(node: NodeId, address: &str, links: usize) -> NeighbourLive {
        NeighbourLive {
            node,
            address: Mutex::new(address.into()),
            rtt_us: AtomicU32::new(0),
            links: (0..links).map(|_| Link::default()).collect(),
        }
    }

    /// Sets where it is from the next connection on.
    pub fn set_address(&self, address: &str) {
        let mut current = self.lock_address();
        if **current != *address {
            *current = address.into();
        }
    }

    /// Smoothed round trip in microseconds; 0 = not measured.
    pub fn rtt_us(&self) -> u32 {
        self.rtt_us.load(Relaxed)
    }

    /// Takes in one more round trip. Only the prober writes.
    pub fn note_rtt(&self, rtt_us: u64) {
        let new = u32::try_from(rtt_us).unwrap_or(u32::MAX).max(1);
        let old = self.rtt_us();
        let smoothed = match old {
            0 => new,
            _ => old - old / RTT_SMOOTHING + new / RTT_SMOOTHING,
        };
        self.rtt_us.store(smoothed.max(1), Relaxed);
    }

    /// A sender on the open connection of one link; connects when there is none.
    ///
    /// # Errors
    /// The neighbour cannot be reached, or is somebody else.
    pub async fn sender(
        &self,
        link: usize,
        identity: &IdentityCell,
        clock: Clock,
    ) -> Result<Sender, NeighbourError> {
        let identity = identity.get().ok_or(NeighbourError::NoIdentity)?;
        let link = &self.links[link];
        if let Some(sender) = link.ready(&identity) {
            return Ok(sender);
        }
        link.check_pause(&self.node, clock)?;
        let _connecting = link.connecting.lock().await;
        // Whoever was first has connected, or failed, for all.
        if let Some(sender) = link.ready(&identity) {
            return Ok(sender);
        }
        link.check_pause(&self.node, clock)?;
        let connected = tokio::time::timeout(CONNECT_WAIT_MAX, self.connect(&identity)).await;
        match connected.unwrap_or_else(|_| Err(NeighbourError::TooSlow(self.node.clone()))) {
            Ok(sender) => {
                link.failures.store(0, Relaxed);
                *link.lock() = Some(Open {
                    sender: sender.clone(),
                    identity,
                });
                Ok(sender)
            }
            Err(error) => {
                link.pause(clock);
                Err(error)
            }
        }
    }

    async fn connect(&self, identity: &Identity) -> Result<Sender, NeighbourError> {
        let connect = |source| NeighbourError::Connect {
            node: self.node.clone(),
            source,
        };
        let address = Arc::clone(&self.lock_address());
        let stream = TcpStream::connect(&*address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let config = identity
            .client_to_node(&self.node)
            .map_err(|error| connect(std::io::Error::other(error)))?;
        // The name plays no part: the certificate must say who it is.
        let anyone = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let tls = TlsConnector::from(config)
            .connect(anyone, stream)
            .await
            .map_err(connect)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT_MAX)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| NeighbourError::Http2 {
                node: self.node.clone(),
                source,
            })?;
        let node = self.node.clone();
        // Ends when its last sender is dropped, or the connection with it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%node, %error, "connection to a neighbour ended");
            }
        });
        Ok(sender)
    }

    fn lock_address(&self) -> MutexGuard<'_, Arc<str>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// The open connection, if it lives and was made with the identity of now.
    fn ready(&self, identity: &Arc<Identity>) -> Option<Sender> {
        let mut open = self.lock();
        let usable = open
            .as_ref()
            .is_some_and(|open| !open.sender.is_closed() && Arc::ptr_eq(&open.identity, identity));
        if !usable {
            *open = None;
        }
        open.as_ref().map(|open| open.sender.clone())
    }

    fn check_pause(&self, node: &NodeId, clock: Clock) -> Result<(), NeighbourError> {
        match clock.now_us() < self.pause_until_us.load(Relaxed) {
            true => Err(NeighbourError::Pausing(node.clone())),
            false => Ok(()),
        }
    }

    fn pause(&self, clock: Clock) {
        let failures = self.failures.fetch_add(1, Relaxed).min(16);
        let pause_us = (BACKOFF_US_MIN << failures).min(BACKOFF_US_MAX);
        // A part of it by chance, so that many homes do not come back together.
        let pause_us = pause_us / 2 + fastrand::u64(0..=pause_us / 2);
        let until_us = clock.now_us() + pause_us;
        self.pause_until_us.store(until_us, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
