//! What all threads of the proxy share.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::Notify;

use crate::audience::AudienceCell;
use crate::authorise::AccessCounts;
use crate::bench::Bench;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::ControlLive;
use crate::drain::Drain;
use crate::expiry::Expiry;
use crate::golden::Cells;
use crate::handover::Kept;
use crate::http1::fault::FaultCounts;
use crate::identity::IdentityCell;
use crate::jwks::Jwks;
use crate::listen::{self, Addresses};
use crate::listener::Listeners;
use crate::mirror::Mirrors;
use crate::reload::Reload;
use crate::routes::Table;
use crate::routing::RoutingCounts;
use crate::skew::Skew;
use crate::tap::Taps;

/// The shared part of one proxy.
#[derive(Debug)]
pub struct Proxy {
    /// As the operator wrote it before the start.
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
    /// The configuration as it was read last; [`Proxy::config`] is the one of the start.
    pub in_force: ArcSwap<Config>,
    /// How far its clock is from the controller's.
    pub skew: Skew,
    /// Asks for the configuration file to be read again.
    pub reload: Reload,
    /// Told when this node's own services have changed.
    pub local_changed: Notify,
    /// The listening sockets, for the process that comes after this one.
    pub kept: Kept,
    pub(crate) addresses: Mutex<Option<Addresses>>,
    /// Whether it is ending.
    pub drain: Drain,
    /// Wakes the prober.
    pub press: Press,
    /// What access policies refused.
    pub access: AccessCounts,
    /// Keys of those whose tokens are believed.
    pub jwks: Jwks,
    /// What routes did.
    pub routing: RoutingCounts,
    /// Copies of requests.
    pub mirrors: Mirrors,
    /// Tells the control stream that a spike has begun here.
    pub spike: Notify,
    /// How the control stream is.
    pub control: ControlLive,
    /// Who hears of finished requests.
    pub audience: AudienceCell,
    /// Requests that no service was found for, by worker.
    pub unrouted: Box<[Cells]>,
    /// Messages that were refused.
    pub faults: FaultCounts,
    /// Requests that operators look at.
    pub taps: Arc<Taps>,
    /// Measuring of the ways between mesh ports.
    pub bench: Bench,
}

impl Proxy {
    /// Where it listens now; nowhere before the start is over.
    pub fn addresses(&self) -> Option<Addresses> {
        self.lock_addresses().clone()
    }

    /// Notes where it listens now and writes it down for others.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_addresses(&self, addresses: Addresses) -> io::Result<()> {
        let published = listen::publish(&self.config.data_dir, &addresses);
        *self.lock_addresses() = Some(addresses);
        published
    }

    /// Whether it can serve: it is not ending, it knows a service, or needs to be told of none, and of those it knows
    /// one can be served, by an endpoint here that its health check does not call ill or by somebody else.
    pub fn is_ready(&self) -> bool {
        let routes = self.table.load();
        let can_serve = routes.services.is_empty() || routes.services.iter().any(|s| s.can_serve());
        !self.drain.is_begun() && self.knows_services() && can_serve
    }

    /// One worker's cells of requests that no service was found for.
    pub(crate) fn unrouted(&self, worker: usize) -> &Cells {
        &self.unrouted[worker]
    }

    /// Whether it knows a service, or needs to be told of none.
    pub fn knows_services(&self) -> bool {
        self.config.all_controllers().is_empty() || !self.table.load().services.is_empty()
    }

    fn lock_addresses(&self) -> MutexGuard<'_, Option<Addresses>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
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
