//! HTTP/2 to an endpoint: one connection per worker, which its requests share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{EndpointError, EndpointLive, IDLE_US_MAX};
use crate::body::RequestBody;
use crate::clock::Clock;
use crate::neighbour::{CONNECTION_WINDOW, PING_EVERY, PING_WAIT_MAX, STREAM_WINDOW};

/// Largest head of an answer, in bytes; a larger one is a 502.
const HEAD_LEN_MAX: u32 = 64 * 1024;

/// Sends requests to one endpoint.
pub type Sender = http2::SendRequest<RequestBody>;

/// One worker's connection.
#[derive(Debug, Default)]
pub(super) struct Shared {
    open: Mutex<Option<Sender>>,
    /// Held while connecting, so that one request connects and the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    used_us: AtomicU64,
}

impl EndpointLive {
    /// A sender on the worker's HTTP/2 connection; connects when there is none.
    ///
    /// # Errors
    /// As [`EndpointLive::connect`]; also when the endpoint does not speak HTTP/2.
    pub async fn shared(
        &self,
        worker: usize,
        clock: Clock,
        wait_max: Duration,
    ) -> Result<Sender, EndpointError> {
        let shared = &self.shared[worker];
        shared.used_us.store(clock.now_us(), Relaxed);
        if let Some(sender) = shared.ready() {
            return Ok(sender);
        }
        let _connecting = shared.connecting.lock().await;
        if let Some(sender) = shared.ready() {
            return Ok(sender);
        }
        let stream = self.open_tcp(clock, wait_max, &[]).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_LEN_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| EndpointError::Connect {
                address: self.address.clone(),
                source: std::io::Error::other(error),
            })?;
        let address = self.address.clone();
        // Ends when its last sender is dropped, or the connection with it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "connection to an endpoint ended");
            }
        });
        *shared.lock() = Some(sender.clone());
        Ok(sender)
    }
}

impl Shared {
    fn ready(&self) -> Option<Sender> {
        let mut open = self.lock();
        if open.as_ref().is_some_and(Sender::is_closed) {
            *open = None;
        }
        open.clone()
    }

    /// Lets go of a connection that was not used for long; requests under way on it end first.
    pub(super) fn sweep(&self, now_us: u64) {
        if now_us.saturating_sub(self.used_us.load(Relaxed)) > IDLE_US_MAX {
            *self.lock() = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sender>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
