//! A listener as connections need it: its configuration with names resolved and certificates read.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use isobar_mesh_api::config_file::Problem;
use isobar_mesh_api::names::ServiceName;
use tokio_util::sync::CancellationToken;

use crate::config::listener::{Intercept, ListenerConfig, ListenerProtocol, ProxyProtocol};
use crate::config::sources::Sources;
use crate::config::{Config, ConfigError, Forwarded};
use crate::connection::counts::ListenerCounts;
use crate::tls::Termination;

/// The listener of a name, replaced as a whole when its configuration changes. Connections look at it when they begin.
#[derive(Debug)]
pub struct ListenerCell {
    now: ArcSwap<Listener>,
    /// Cancelled when the configuration no longer has it.
    pub removed: CancellationToken,
    /// Its sockets for HTTP/3.
    #[cfg(feature = "http3")]
    pub datagrams: crate::http3::sockets::Datagrams,
}

impl ListenerCell {
    /// The listener of now.
    pub fn get(&self) -> Arc<Listener> {
        self.now.load_full()
    }
}

/// All listeners of a proxy, in order of name.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<BTreeMap<String, Arc<ListenerCell>>>);

impl Listeners {
    /// Adds one, or replaces the one of its name.
    pub fn add(&self, listener: Listener) -> Arc<ListenerCell> {
        let name = listener.name.clone();
        let cell = Arc::new(ListenerCell {
            now: ArcSwap::from_pointee(listener),
            removed: CancellationToken::new(),
            #[cfg(feature = "http3")]
            datagrams: crate::http3::sockets::Datagrams::default(),
        });
        self.lock().insert(name, Arc::clone(&cell));
        cell
    }

    /// Replaces the one of its name, which goes on counting; adds it when there is none.
    pub fn replace(&self, mut listener: Listener) {
        let cell = self.lock().get(&listener.name).cloned();
        match cell {
            Some(cell) => {
                let before = cell.get();
                listener.counts = Arc::clone(&before.counts);
                #[cfg(feature = "http3")]
                if listener.quic.is_some() {
                    listener.alt_svc = Arc::clone(&before.alt_svc);
                }
                cell.now.store(Arc::new(listener));
            }
            None => drop(self.add(listener)),
        }
    }

    /// Ends the one of this name; its connections go on.
    pub fn remove(&self, name: &str) {
        if let Some(cell) = self.lock().remove(name) {
            cell.removed.cancel();
        }
    }

    /// Reads certificates again whose files have changed. Those that cannot be used are counted and logged, and what
    /// was read before stays in force.
    pub fn reload_certificates(&self) {
        for listener in self.all() {
            let reloaded = listener.termination.as_ref().and_then(Termination::reload);
            match reloaded {
                None => {}
                Some(Ok(())) => {
                    listener.counts.reloaded.fetch_add(1, Relaxed);
                    tracing::info!(listener = listener.name, "new certificates are in force");
                }
                Some(Err(error)) => {
                    listener.counts.reload_failed.fetch_add(1, Relaxed);
                    let error = crate::chain(&error);
                    tracing::warn!(listener = listener.name, %error, "new certificates are not used");
                }
            }
        }
    }

    /// Each as it is now.
    pub fn all(&self) -> Vec<Arc<Listener>> {
        self.lock().values().map(|cell| cell.get()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<ListenerCell>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listeners of a configuration, in its order, with their certificates read.
///
/// # Errors
/// The first certificate that cannot be used.
pub fn resolve(config: &Config) -> Result<Vec<Listener>, ConfigError> {
    let each = config
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| {
            Listener::new(listener, config).map_err(|Problem { key, problem }| ConfigError::Range {
                key: format!("listeners[{index}].{key}"),
                problem,
            })
        });
    each.collect()
}

/// One listener.
#[derive(Debug)]
pub struct Listener {
    /// What it is called.
    pub name: String,
    /// Where it listens, as configured.
    pub address: SocketAddr,
    /// What its clients speak.
    pub protocol: ListenerProtocol,
    /// TLS, where it ends here.
    pub termination: Option<Termination>,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// Whose word counts.
    pub trusted_sources: Sources,
    /// Who gets a TCP connection that nothing else decides about.
    pub service: Option<ServiceName>,
    /// Whether HTTP clients may ask for a service's bytes by `CONNECT`.
    pub connect: bool,
    /// How connections that were going elsewhere come here.
    pub intercept: Intercept,
    /// What endpoints are told of clients.
    pub forwarded: Forwarded,
    /// How long first bytes are waited for, where they decide.
    pub detect_wait_max: Duration,
    /// The port at which clients find HTTP/3, where it is not this listener's own.
    pub http3_port: Option<u16>,
    /// What tells clients of it, once there is HTTP/3.
    pub alt_svc: Arc<OnceLock<HeaderValue>>,
    /// What HTTP/3 needs, where the listener has it.
    #[cfg(feature = "http3")]
    pub quic: Option<Arc<quinn::ServerConfig>>,
    /// What happened on it.
    pub counts: Arc<ListenerCounts>,
    by_server_name: HashMap<String, ServiceName>,
    by_destination: BTreeMap<SocketAddr, ServiceName>,
}

impl Listener {
    /// One of the proxy's own, for HTTP.
    pub fn http(name: &str, address: SocketAddr, config: &Config) -> Listener {
        let listener = ListenerConfig::new(name, address, ListenerProtocol::Http);
        Listener::resolve(&listener, None, config)
    }

    /// One of the configuration's list.
    ///
    /// # Errors
    /// A certificate that cannot be read; the key is the listener's: `certificates[0].chain_file`.
    pub fn new(listener: &ListenerConfig, config: &Config) -> Result<Listener, Problem> {
        let is_http = listener.protocol != ListenerProtocol::Tcp;
        let termination = match listener.certificates.is_empty() {
            true => None,
            false => {
                let handshakes_max = config.limits.handshakes_max;
                let asks_callers = listener.mesh_callers;
                let files = &listener.certificates;
                let read = Termination::new(files, is_http, asks_callers, handshakes_max);
                Some(read.map_err(|(index, error)| {
                    Problem::new(format!("certificates[{index}]"), crate::chain(&error))
                })?)
            }
        };
        #[cfg(feature = "http3")]
        let quic = match &termination {
            Some(termination) if listener.http3 => {
                let quic = crate::http3::server_config(termination, &config.limits);
                Some(quic.map_err(|error| Problem::new("http3", error.to_string()))?)
            }
            _ => None,
        };
        #[cfg_attr(
            not(feature = "http3"),
            expect(unused_mut, reason = "set by a feature")
        )]
        let mut resolved = Listener::resolve(listener, termination, config);
        #[cfg(feature = "http3")]
        {
            resolved.quic = quic;
        }
        Ok(resolved)
    }

    fn resolve(
        listener: &ListenerConfig,
        termination: Option<Termination>,
        config: &Config,
    ) -> Listener {
        let trusted_sources = listener
            .trusted_sources
            .as_ref()
            .unwrap_or(&config.trusted_sources);
        Listener {
            name: listener.name.clone(),
            address: listener.address,
            protocol: listener.protocol,
            termination,
            proxy_protocol: listener.proxy_protocol,
            trusted_sources: trusted_sources.clone(),
            service: listener.service.clone(),
            connect: listener.connect,
            intercept: listener.intercept,
            forwarded: config.forwarded,
            detect_wait_max: Duration::from_millis(listener.detect_wait_ms_max),
            http3_port: listener.http3_port,
            alt_svc: Arc::default(),
            #[cfg(feature = "http3")]
            quic: None,
            counts: Arc::default(),
            by_server_name: listener.by_server_name.clone().into_iter().collect(),
            by_destination: listener.by_destination.clone(),
        }
    }

    /// Who gets a TLS connection for this name: its own service, else its wildcard's (one label), else any name's,
    /// else the listener's.
    pub fn by_server_name(&self, name: Option<&str>) -> Option<&ServiceName> {
        let named = name.and_then(|name| {
            let wildcard = || {
                self.by_server_name
                    .get(&format!("*.{}", name.split_once('.')?.1))
            };
            self.by_server_name.get(name).or_else(wildcard)
        });
        let any = || self.by_server_name.get("*");
        named.or_else(any).or(self.service.as_ref())
    }

    /// Who gets an intercepted connection that was going there, else the listener's service.
    pub fn by_destination(&self, destination: SocketAddr) -> Option<&ServiceName> {
        let named = self.by_destination.get(&destination);
        named.or(self.service.as_ref())
    }

    /// Whether a connection that was going there was intercepted: one to the listener itself was not.
    pub fn intercepts(&self, destination: SocketAddr) -> bool {
        self.intercept != Intercept::Off && destination.port() != self.address.port()
    }

    /// Whether its sockets take connections to any address.
    pub fn is_transparent(&self) -> bool {
        self.intercept == Intercept::Tproxy
    }
}
