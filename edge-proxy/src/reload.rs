//! A changed configuration file comes into force while the proxy runs: on SIGHUP, or `POST /reload`.
//!
//! Services, peers' addresses, listeners with their certificates, whom to trust and what to forward change at once; no
//! connection is closed for it, and a listener that stays keeps its socket. A file with a fault changes nothing. What
//! only a start can change is named in the log; a binary upgrade ([`crate::handover`]) is a start that loses nothing.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::{Notify, mpsc};

use crate::audience;
use crate::config::listener::ListenerConfig;
use crate::config::{Config, ConfigError};
use crate::listen::{self, Front, ListenError};
use crate::listener::{self, Listener};
use crate::proxy::Proxy;
use crate::routes::Local;

/// Changes of one listener that wait for a worker; more hold the reload back.
pub const FRONTS_WAITING_MAX: usize = 16;

/// Wakes the reload, and counts how it went.
#[derive(Debug, Default)]
pub struct Reload {
    wanted: Notify,
    /// Files that came into force.
    pub ok: AtomicU64,
    /// Files that could not.
    pub failed: AtomicU64,
}

impl Reload {
    /// Asks for a reload. Several at once are one.
    pub fn want(&self) {
        self.wanted.notify_one();
    }
}

/// Why a configuration does not come into force.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// The configuration was not read from a file.
    #[error("there is no configuration file")]
    NoFile,
    /// It is wrong.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A new listener's address.
    #[error("the sockets cannot be opened")]
    Listen(#[from] ListenError),
    /// The system has no file or thread left.
    #[error("keeping a socket, or saying where it listens")]
    Socket(#[from] std::io::Error),
}

/// Reloads each time it is asked to. `workers`: where new listeners' sockets go, one per worker.
pub async fn run(proxy: Arc<Proxy>, workers: Vec<mpsc::Sender<Front>>) {
    loop {
        proxy.reload.wanted.notified().await;
        // Also those whose place in the configuration did not change.
        proxy.listeners.reload_certificates();
        match reload(&proxy, &workers).await {
            Ok(()) => {
                proxy.reload.ok.fetch_add(1, Relaxed);
                tracing::info!("the configuration file is in force");
            }
            Err(error) => {
                proxy.reload.failed.fetch_add(1, Relaxed);
                let error = crate::chain(&error);
                tracing::error!(error, "the configuration file is not used");
            }
        }
    }
}

async fn reload(proxy: &Arc<Proxy>, workers: &[mpsc::Sender<Front>]) -> Result<(), ReloadError> {
    let before = proxy.in_force.load_full();
    let file = before.file.clone().ok_or(ReloadError::NoFile)?;
    let read = tokio::task::spawn_blocking(move || read(file));
    let (config, listeners) = read.await.map_err(std::io::Error::other)??;
    // Whatever can fail comes first.
    let mut opened = Vec::new();
    for (listener, configured) in listeners.iter().zip(&config.listeners) {
        if !stays(&before, configured) {
            opened.push((listener.name.clone(), open(listener, workers.len())?));
        }
    }
    name_what_waits(&before, &config);
    proxy.table.set_local(Local::new(&config));
    for name in gone(&before, &config) {
        proxy.listeners.remove(name);
        proxy.kept.forget(name);
    }
    let mut addresses = proxy.addresses().ok_or(ReloadError::NoFile)?;
    addresses
        .listeners
        .retain(|name, _| !gone(&before, &config).any(|gone| gone == name));
    let own = [
        ("ingress", Some(before.listen)),
        ("outbound", before.outbound_listen),
    ];
    for (name, address) in own {
        if let Some(address) = address {
            proxy
                .listeners
                .replace(Listener::http(name, address, &config));
        }
    }
    for listener in listeners {
        match opened.iter().position(|(name, _)| *name == listener.name) {
            None => proxy.listeners.replace(listener),
            Some(at) => {
                let (name, (sockets, at)) = opened.swap_remove(at);
                addresses.listeners.insert(name.clone(), at);
                let cell = proxy.listeners.add(listener);
                for (worker, socket) in workers.iter().zip(sockets) {
                    proxy.kept.keep(&name, &socket)?;
                    let listener = Arc::clone(&cell);
                    // A worker that has ended is ending the proxy.
                    let _ = worker.send(Front { listener, socket }).await;
                }
            }
        }
    }
    audience::change(proxy, &before, &config);
    proxy.in_force.store(Arc::new(config));
    proxy.set_addresses(addresses)?;
    proxy.local_changed.notify_one();
    Ok(())
}

fn read(file: PathBuf) -> Result<(Config, Vec<Listener>), ConfigError> {
    let config = Config::read(&file)?;
    let listeners = listener::resolve(&config).map_err(|error| error.in_file(&file))?;
    Ok((config, listeners))
}

type Opened = (Vec<TcpListener>, std::net::SocketAddr);

fn open(listener: &Listener, workers: usize) -> Result<Opened, ListenError> {
    listen::open_all(listener.address, workers, listener.is_transparent())
}

/// Whether a listener keeps its sockets.
fn stays(before: &Config, listener: &ListenerConfig) -> bool {
    let same = |other: &&ListenerConfig| {
        (&other.name, other.address, other.intercept)
            == (&listener.name, listener.address, listener.intercept)
    };
    before.listeners.iter().any(|other| same(&other))
}

/// Names of listeners whose sockets go.
fn gone<'a>(before: &'a Config, config: &'a Config) -> impl Iterator<Item = &'a str> {
    let going = before
        .listeners
        .iter()
        .filter(|listener| !stays(config, listener));
    going.map(|listener| listener.name.as_str())
}

/// Says which changed keys only a start brings into force.
fn name_what_waits(before: &Config, config: &Config) {
    let changed = [
        ("node", before.node != config.node),
        ("data_dir", before.data_dir != config.data_dir),
        ("trust_domain", before.trust_domain != config.trust_domain),
        ("controller", before.controller != config.controller),
        ("controllers", before.controllers != config.controllers),
        ("listen", before.listen != config.listen),
        ("mesh_listen", before.mesh_listen != config.mesh_listen),
        (
            "mesh_advertise",
            before.mesh_advertise != config.mesh_advertise,
        ),
        (
            "outbound_listen",
            before.outbound_listen != config.outbound_listen,
        ),
        ("admin_listen", before.admin_listen != config.admin_listen),
        ("workers", before.workers != config.workers),
        ("limits", before.limits != config.limits),
    ];
    for listener in config.listeners.iter().filter(|listener| listener.http3) {
        let had_none = |other: &ListenerConfig| other.name == listener.name && !other.http3;
        if stays(before, listener) && before.listeners.iter().any(had_none) {
            let name = &listener.name;
            tracing::warn!(
                key = "listeners.http3",
                listener = name,
                "this change waits for the next start"
            );
        }
    }
    for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!(key, "this change waits for the next start");
    }
}
