//! Starts the proxy, keeps its tasks, ends it.
//!
//! Requests run on worker threads of their own ([`crate::worker`]); what is not
//! a request (control stream, prober, admin) runs on the caller's runtime.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use isobar_mesh_api::names::NodeId;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audience::AudienceCell;
use crate::authorise::AccessCounts;
use crate::bench::Bench;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::control::ControlLive;
use crate::drain::Drain;
use crate::golden::Cells;
use crate::handover::{self, Inherited, Kept};
use crate::http1::fault::FaultCounts;
use crate::identity::{IdentityCell, files};
use crate::jwks::{self, Jwks};
use crate::listen::{self, Addresses, Front, ListenError};
use crate::listener::{self, Listeners};
use crate::memory::{self, Tide};
use crate::mirror::Mirrors;
use crate::proxy::{Press, Proxy};
use crate::reload::{self, FRONTS_WAITING_MAX, Reload};
use crate::routes::{Local, Table};
use crate::routing::RoutingCounts;
use crate::skew::Skew;
use crate::tap::Taps;
use crate::{admin, concurrency, control, health_check, prober, snapshot_file, watch, worker};

/// How often it is looked whether a burst is over.
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
    let mut inherited = inherit(&data_dir).await;
    let Started {
        proxy,
        threads,
        fronts,
        admin,
        addresses,
    } = start(config, inherited.as_mut())?;
    proxy.set_addresses(addresses.clone()).map_err(unusable)?;
    tracing::info!(
        node = %proxy.config.node, ingress = %addresses.ingress, mesh = %addresses.mesh,
        admin = %addresses.admin, workers = threads.len(), "listening"
    );
    if let Some(inherited) = inherited {
        relieve(inherited).await;
    }
    listening(&addresses);

    let mut tasks = JoinSet::new();
    let admin = tasks.spawn(admin::run(Arc::clone(&proxy), admin));
    tasks.spawn(prober::run(Arc::clone(&proxy)));
    tasks.spawn(watch::run(Arc::clone(&proxy)));
    tasks.spawn(upkeep(Arc::clone(&proxy)));
    tasks.spawn(concurrency::run(Arc::clone(&proxy)));
    tasks.spawn(health_check::run(Arc::clone(&proxy)));
    tasks.spawn(jwks::run(Arc::clone(&proxy)));
    tasks.spawn(certificates(Arc::clone(&proxy)));
    tasks.spawn(reload::run(Arc::clone(&proxy), fronts));
    tasks.spawn(hangups(Arc::clone(&proxy)));
    let control_end = CancellationToken::new();
    let mut control = spawn_control(&proxy, &addresses, &control_end);

    tokio::select! {
        () = shutdown.cancelled() => {}
        () = proxy.drain.begun() => {}
        new = succeeded(&proxy) => {
            // The new process is to be alone with the controller and the operator.
            admin.abort();
            control_end.cancel();
            if let Some(control) = control.take() {
                let _ = control.await;
            }
            handover::over(new);
        }
    }
    end(&proxy, threads).await;
    proxy.audience.end().await;
    control_end.cancel();
    if let Some(control) = control {
        // It writes the last snapshot and closes its stream.
        let _ = control.await;
    }
    tasks.shutdown().await;
    Ok(())
}

/// A proxy that accepts connections.
struct Started {
    proxy: Arc<Proxy>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Where each worker gets more listeners.
    fronts: Vec<mpsc::Sender<Front>>,
    admin: TcpListener,
    addresses: Addresses,
}

fn start(config: Config, inherited: Option<&mut Inherited>) -> Result<Started, ProgramError> {
    let workers = config.worker_count();
    let own = listener::resolve(&config)?;
    let proxy = Arc::new(assemble(config, workers)?);
    proxy.audience.start(&proxy.config, workers);
    let (sockets, admin, addresses) = listen::open(&proxy, own, workers, inherited)?;
    let admin = TcpListener::from_std(admin).map_err(ProgramError::Thread)?;
    let (mut threads, mut fronts) = (Vec::with_capacity(workers), Vec::with_capacity(workers));
    for (index, sockets) in sockets.into_iter().enumerate() {
        let (front, more) = mpsc::channel(FRONTS_WAITING_MAX);
        let thread = worker::start(Arc::clone(&proxy), index, sockets, more);
        threads.push(thread.map_err(ProgramError::Thread)?);
        fronts.push(front);
    }
    Ok(Started {
        proxy,
        threads,
        fronts,
        admin,
        addresses,
    })
}

/// What a process that runs in this data directory hands over.
async fn inherit(data_dir: &Path) -> Option<Inherited> {
    let data_dir = data_dir.to_owned();
    let taken = tokio::task::spawn_blocking(move || handover::take(&data_dir)).await;
    match taken {
        Ok(Ok(inherited)) => inherited,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the process before does not hand over its sockets");
            None
        }
        Err(_) => None,
    }
}

/// Lets the process before end.
async fn relieve(inherited: Inherited) {
    let relieved = tokio::task::spawn_blocking(|| inherited.ready()).await;
    match relieved {
        Ok(Err(error)) => tracing::warn!(%error, "the process before does not say that it ends"),
        _ => tracing::info!("the sockets of the process before are in use"),
    }
}

/// Waits until a new process has started in this one's place.
async fn succeeded(proxy: &Proxy) -> UnixStream {
    match handover::listen(&proxy.config.data_dir) {
        Ok(listener) => handover::serve(listener, &proxy.kept).await,
        Err(error) => {
            tracing::warn!(%error, "this process will not hand over its sockets");
            std::future::pending().await
        }
    }
}

/// Reads the configuration again at each SIGHUP.
async fn hangups(proxy: Arc<Proxy>) {
    use tokio::signal::unix::{SignalKind, signal};
    if proxy.config.file.is_none() {
        return;
    }
    match signal(SignalKind::hangup()) {
        Ok(mut hangups) => {
            while hangups.recv().await.is_some() {
                proxy.reload.want();
            }
        }
        Err(error) => tracing::warn!(%error, "SIGHUP is not heard"),
    }
}

fn assemble(config: Config, workers: usize) -> Result<Proxy, ProgramError> {
    let clock = Clock::start();
    let (node, dir) = (config.node.clone(), config.data_dir.clone());
    let table = Table::new(node.clone(), workers, clock, Local::new(&config));
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
        in_force: ArcSwap::from_pointee(config.clone()),
        skew: Skew::default(),
        reload: Reload::default(),
        local_changed: Notify::new(),
        kept: Kept::default(),
        addresses: Mutex::default(),
        config,
        clock,
        table,
        listeners: Listeners::default(),
        identity,
        drain: Drain::default(),
        press: Press::default(),
        access: AccessCounts::default(),
        jwks: Jwks::default(),
        routing: RoutingCounts::default(),
        mirrors: Mirrors::default(),
        spike: Notify::new(),
        control: ControlLive::default(),
        audience: AudienceCell::default(),
        unrouted: (0..workers).map(|_| Cells::default()).collect(),
        faults: FaultCounts::default(),
        taps: Arc::new(Taps::default()),
        bench: Bench::default(),
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
    let controllers = proxy.config.all_controllers();
    if controllers.is_empty() {
        return None;
    }
    let control = control::run(Arc::clone(proxy), controllers, addresses.mesh, end.clone());
    Some(tokio::spawn(control))
}

/// Waits for the requests under way, then for the threads.
async fn end(proxy: &Arc<Proxy>, threads: Vec<std::thread::JoinHandle<()>>) {
    proxy.kept.clear();
    proxy.drain.begin();
    tracing::info!(connections = proxy.drain.open(), "draining");
    let limits = &proxy.config.limits;
    let (idle_max, wait_max) = (limits.drain_idle_max(), limits.drain_wait_max());
    if !proxy.drain.wait(idle_max, wait_max).await {
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

async fn upkeep(proxy: Arc<Proxy>) {
    let mut tide = Tide::default();
    let mut is_first = true;
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        let drain = &proxy.drain;
        if tide.has_ebbed(drain.take_most_open(), drain.open()) {
            memory::give_back();
        }
        if std::mem::take(&mut is_first) {
            memory::forget_start();
        }
    }
}
