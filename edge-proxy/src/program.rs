//! Starts the proxy, keeps its tasks, ends it.
//!
//! Requests run on worker threads of their own ([`crate::worker`]); what is not
//! a request (control stream, prober, admin) runs on the caller's runtime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use isobar_mesh_api::names::NodeId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::drain::Drain;
use crate::identity::{IdentityCell, files};
use crate::listen::{self, Addresses, ListenError};
use crate::listener::{self, Listeners};
use crate::metrics::Metrics;
use crate::proxy::{Press, Proxy};
use crate::routes::{Local, Table};
use crate::routing::RoutingCounts;
use crate::{admin, control, prober, snapshot_file, watch, worker};

/// How often recorded durations are sorted into buckets.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// How often certificates' files are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(2);

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The configuration is wrong.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("using the data directory {path}")]
    DataDir {
        /// The directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// An address cannot be listened on.
    #[error("the sockets cannot be opened")]
    Listen(#[from] ListenError),
    /// The system gives no thread or no task.
    #[error("starting threads")]
    Thread(#[source] std::io::Error),
    /// The metrics cannot be set up.
    #[error("setting up metrics")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Runs a proxy until `shutdown` is cancelled or an operator drains it, and its requests have
/// ended or had their time.
///
/// Once it listens, `addresses.json` in the data directory says where.
///
/// # Errors
/// It could not start. What goes wrong later is logged and retried.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ProgramError> {
    run_telling(config, shutdown, |_| {}).await
}

/// The same; `listening` is called once, when the proxy listens.
///
/// # Errors
/// As [`run`].
pub async fn run_telling(
    config: Config,
    shutdown: CancellationToken,
    listening: impl FnOnce(&Addresses),
) -> Result<(), ProgramError> {
    config.check()?;
    let data_dir = config.data_dir.clone();
    let unusable = |source| ProgramError::DataDir {
        path: data_dir.display().to_string(),
        source,
    };
    std::fs::create_dir_all(&data_dir).map_err(unusable)?;
    let workers = config.worker_count();
    let own = listener::resolve(&config)?;
    let proxy = Arc::new(assemble(config, workers)?);
    let (sockets, admin, addresses) = listen::open(&proxy.config, own, &proxy.listeners, workers)?;
    let admin = TcpListener::from_std(admin).map_err(ProgramError::Thread)?;

    let mut threads = Vec::with_capacity(workers);
    for (index, sockets) in sockets.into_iter().enumerate() {
        let thread = worker::start(Arc::clone(&proxy), index, sockets);
        threads.push(thread.map_err(ProgramError::Thread)?);
    }
    listen::publish(&data_dir, &addresses).map_err(unusable)?;
    tracing::info!(
        node = %proxy.config.node, ingress = %addresses.ingress, mesh = %addresses.mesh,
        admin = %addresses.admin, workers, "listening"
    );
    listening(&addresses);

    let mut tasks = JoinSet::new();
    tasks.spawn(admin::run(Arc::clone(&proxy), admin));
    tasks.spawn(prober::run(Arc::clone(&proxy)));
    tasks.spawn(watch::run(Arc::clone(&proxy)));
    tasks.spawn(upkeep(proxy.metrics.clone()));
    tasks.spawn(certificates(Arc::clone(&proxy)));
    let control_end = CancellationToken::new();
    let control = spawn_control(&proxy, &addresses, &control_end);

    tokio::select! {
        () = shutdown.cancelled() => {}
        () = proxy.drain.begun() => {}
    }
    end(&proxy, threads).await;
    control_end.cancel();
    if let Some(control) = control {
        // It writes the last snapshot and closes its stream.
        let _ = control.await;
    }
    tasks.shutdown().await;
    Ok(())
}

fn assemble(config: Config, workers: usize) -> Result<Proxy, ProgramError> {
    let (clock, metrics) = (Clock::start(), Metrics::new()?);
    let (node, dir) = (config.node.clone(), config.data_dir.clone());
    let table = Table::new(
        node.clone(),
        workers,
        clock,
        metrics.clone(),
        Local::new(&config),
    );
    restore(&table, &dir, &node);
    let identity = IdentityCell::default();
    match files::load(&dir, &config.trust_domain, &node) {
        Ok(Some(known)) => identity.set(known),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(error = %crate::chain(&error), "the kept certificate is not used");
        }
    }
    Ok(Proxy {
        home: HeaderValue::from_str(node.as_str()).expect("a node's name is a header value"),
        config,
        clock,
        table,
        listeners: Listeners::default(),
        identity,
        drain: Drain::default(),
        press: Press::default(),
        routing: RoutingCounts::default(),
        spike: tokio::sync::Notify::new(),
        metrics,
    })
}

/// Serves by the last plan before the controller is met.
fn restore(table: &Table, dir: &Path, node: &NodeId) {
    match snapshot_file::load(dir, node) {
        Ok(None) => {}
        Ok(Some(snapshot)) => {
            let plan = snapshot.plan;
            match table.apply(Arc::new(snapshot)) {
                Ok(()) => tracing::info!(%plan, "the last snapshot is in force"),
                Err(error) => tracing::warn!(%error, "the last snapshot is not used"),
            }
        }
        Err(error) => {
            tracing::warn!(error = %crate::chain(&error), "the last snapshot is not used");
        }
    }
}

fn spawn_control(
    proxy: &Arc<Proxy>,
    addresses: &Addresses,
    end: &CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    let controller = proxy.config.controller.clone()?;
    let control = control::run(Arc::clone(proxy), controller, addresses.mesh, end.clone());
    Some(tokio::spawn(control))
}

/// Waits for the requests under way, then for the threads.
async fn end(proxy: &Arc<Proxy>, threads: Vec<std::thread::JoinHandle<()>>) {
    proxy.drain.begin();
    tracing::info!(connections = proxy.drain.open(), "draining");
    if !proxy.drain.wait(proxy.config.limits.drain_wait_max()).await {
        let left = proxy.drain.open();
        tracing::warn!(connections = left, "the drain's time is over");
    }
    let joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    });
    let _ = joined.await;
}

/// Looks now and then whether certificates' files have changed.
async fn certificates(proxy: Arc<Proxy>) {
    loop {
        tokio::time::sleep(CERTIFICATES_EVERY).await;
        proxy.listeners.reload_certificates();
    }
}

async fn upkeep(metrics: Metrics) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        metrics.upkeep();
    }
}
