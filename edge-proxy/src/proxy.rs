//! What all threads of the proxy share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use http::HeaderValue;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::Config;
use crate::drain::Drain;
use crate::expiry::Expiry;
use crate::identity::IdentityCell;
use crate::listener::Listeners;
use crate::metrics::Metrics;
use crate::routes::Table;
use crate::routing::RoutingCounts;

/// The shared part of one proxy.
#[derive(Debug)]
pub struct Proxy {
    /// As the operator wrote it.
    pub config: Config,
    /// This node's name, as it stands in a header.
    pub home: HeaderValue,
    /// Time since the start.
    pub clock: Clock,
    /// Where requests go.
    pub table: Table,
    /// Where clients and local applications come in.
    pub listeners: Listeners,
    /// Who this proxy is.
    pub identity: IdentityCell,
    /// Whether it is ending.
    pub drain: Drain,
    /// Wakes the prober.
    pub press: Press,
    /// What routes did.
    pub routing: RoutingCounts,
    /// Tells the control stream that a spike has begun here.
    pub spike: Notify,
    /// What is measured.
    pub metrics: Metrics,
}

/// One worker thread's view of the proxy.
#[derive(Debug)]
pub struct Worker {
    /// Which worker, from 0.
    pub index: usize,
    /// What it shares.
    pub proxy: Arc<Proxy>,
    /// Its waits that may take too long.
    pub expiry: Arc<Expiry>,
}

/// Wakes the prober when a service has more requests than workers. Only the first of many
/// requests wakes it; while it is awake this costs one load.
#[derive(Debug, Default)]
pub struct Press {
    awake: AtomicBool,
    notify: Notify,
}

impl Press {
    /// Makes sure that the prober is awake.
    pub fn wake(&self) {
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            self.notify.notify_one();
        }
    }

    /// From here on the next request wakes. Called by the prober alone, which then looks once more
    /// before it sleeps: a request just before this call was not going to wake it.
    pub fn doze(&self) {
        self.awake.store(false, SeqCst);
    }

    /// Sleeps until [`Press::wake`]. Called by the prober alone, after [`Press::doze`].
    pub async fn sleep(&self) {
        self.notify.notified().await;
    }
}
