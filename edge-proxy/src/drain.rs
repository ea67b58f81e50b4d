//! How the proxy ends: no new connections, no new requests on old ones, the
//! requests under way get their time, then it is over.
//!
//! One for all listeners. Every connection is a tracked task that looks at
//! [`Drain`]; nothing that serves a request is spawned outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Says that the proxy is ending, and knows who still works.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Set before the token is cancelled: whoever the token wakes sees it.
    flag: Arc<AtomicBool>,
    begun: CancellationToken,
    /// Cancelled when idle connections have had their time.
    idle_over: CancellationToken,
    connections: TaskTracker,
    /// Most that were open at once since somebody asked.
    most_open: Arc<AtomicUsize>,
}

impl Drain {
    /// Begins to end.
    pub fn begin(&self) {
        self.flag.store(true, SeqCst);
        self.begun.cancel();
    }

    /// Whether it began. Takes no lock.
    pub fn is_begun(&self) -> bool {
        self.flag.load(SeqCst)
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// From here on idle connections are closed.
    pub fn end_idle(&self) {
        self.idle_over.cancel();
    }

    /// Waits until idle connections are to be closed. Between this and the beginning a client may still send one
    /// request, which it could have sent before it knew; it is told with the answer that no other will follow.
    pub async fn idle_over(&self) {
        self.idle_over.cancelled().await;
    }

    /// Whether idle connections are to be closed.
    pub fn is_idle_over(&self) -> bool {
        self.idle_over.is_cancelled()
    }

    /// Spawns the task of one connection on the calling thread's runtime.
    pub fn spawn<F>(&self, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.connections.spawn(connection);
        self.most_open.fetch_max(self.open(), Relaxed);
    }

    /// Most connections that were open at once since this was last asked.
    pub fn take_most_open(&self) -> usize {
        self.most_open.swap(self.open(), Relaxed)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.connections.len()
    }

    /// Waits until the last connection has ended, at most `wait_max`; whether it has. Idle ones end after `idle_max`.
    pub async fn wait(&self, idle_max: Duration, wait_max: Duration) -> bool {
        self.connections.close();
        let idle = async {
            tokio::time::sleep(idle_max).await;
            self.end_idle();
            self.connections.wait().await;
        };
        let ended = async {
            tokio::select! {
                () = self.connections.wait() => {}
                () = idle => {}
            }
        };
        tokio::time::timeout(wait_max, ended).await.is_ok()
    }
}
