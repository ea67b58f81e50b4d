//! What the operator writes, in TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::config_file::{Faults, Problem, environment};
use isobar_mesh_api::identity::{SpiffeId, TRUST_DOMAIN_DEFAULT};
use isobar_mesh_api::message::{LocalService, Location};
use isobar_mesh_api::names::{NodeId, RegionName, SiteName};
use isobar_mesh_api::resource::TrafficPolicySpec;
use serde::{Deserialize, Serialize};

use crate::local_route::LocalRoute;
pub mod check;
pub mod listener;
pub mod sources;
pub mod telemetry;

use listener::ListenerConfig;
use sources::Sources;
use telemetry::{AccessLogConfig, TracesConfig};

/// Most worker threads.
pub const WORKERS_MAX: usize = 256;
/// Most controllers that a proxy knows.
pub const CONTROLLERS_MAX: usize = 16;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML of the expected shape, or a value is out of its range.
    #[error("{0}")]
    Faults(Faults),
    /// A field is out of its range.
    #[error("{key}: {problem}")]
    Range {
        /// The key, from the root.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl ConfigError {
    /// The same with the place in the file, where it is about a key.
    #[must_use]
    pub fn in_file(self, path: &Path) -> ConfigError {
        match (self, std::fs::read_to_string(path)) {
            (ConfigError::Range { key, problem }, Ok(text)) => {
                let file = path.display().to_string();
                let problems = vec![Problem { key, problem }];
                ConfigError::Faults(Faults::of_problems(&file, &text, problems))
            }
            (error, _) => error,
        }
    }
}

/// The configuration of one proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name.
    pub node: NodeId,
    /// Key, certificate, last snapshot and `addresses.json` are kept here.
    pub data_dir: PathBuf,
    /// The mesh's trust domain.
    #[serde(default = "trust_domain_default")]
    pub trust_domain: String,
    /// The controller's stream port, `host:port`. By default the proxy stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Stream ports of several controllers, `host:port`, at most 16: the proxy talks to one of them, chosen by chance, and
    /// goes on to the next when that one is gone or ends its streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// Roots to believe the controller by before the first certificate, PEM; not needed when the token ends with the root's
    /// fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The token for the first certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// For clients.
    #[serde(default = "listen_default")]
    pub listen: SocketAddr,
    /// For peers.
    #[serde(default = "mesh_listen_default")]
    pub mesh_listen: SocketAddr,
    /// Where peers reach `mesh_listen`, `host:port`; by default its address, or the one that this node has towards the
    /// controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_advertise: Option<String>,
    /// For applications on this node; off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_listen: Option<SocketAddr>,
    /// For the operator. It asks for no password, so it must be a loopback address, unless `admin_insecure`.
    #[serde(default = "admin_listen_default")]
    pub admin_listen: SocketAddr,
    /// Allows an `admin_listen` that others than this node can reach.
    #[serde(default)]
    pub admin_insecure: bool,
    /// Worker threads; by default one per processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = WORKERS_MAX)))]
    pub workers: Option<usize>,
    /// Where the node is. The proxy passes it on and does not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The node's site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Services with endpoints on this node.
    #[serde(default)]
    pub services: Vec<LocalService>,
    /// How requests are treated where the controller says nothing. A policy that names a service comes
    /// before one for all.
    #[serde(default)]
    pub traffic_policies: Vec<TrafficPolicySpec>,
    /// Where requests go, as in the Gateway API. A route of the controller with the same kind and name replaces one.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<serde_json::Value>"))]
    pub routes: Vec<LocalRoute>,
    /// Where to reach nodes that are not where they say they are, behind NAT or a tunnel: `host:port` by node.
    #[serde(default)]
    pub peer_address: BTreeMap<NodeId, String>,
    /// Whether reports tell how busy this machine's processors are. Switch it off where several nodes
    /// stand on one machine: each would take the load of all for its own.
    #[serde(default = "report_cpu_default")]
    pub report_cpu: bool,
    /// More listeners.
    #[serde(default)]
    pub listeners: Vec<ListenerConfig>,
    /// Proxies before this one, as addresses or ranges, at most 1024: their word counts about whom a request comes from.
    #[serde(default)]
    pub trusted_sources: Sources,
    /// Workloads of this node that access policies know by their addresses, at most 1024.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// What endpoints are told about whom a request comes from.
    #[serde(default)]
    pub forwarded: Forwarded,
    /// A line for each request that is told of. By default there is none; an empty table suits a small board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogConfig>,
    /// Spans for a collector. By default there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesConfig>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// The file that all this was read from; read again when the proxy is told to.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// Which headers tell an endpoint whom a request comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Forwarded {
    /// None is touched: what a client sends passes, whoever it is.
    Off,
    /// `X-Forwarded-For`, `-Proto` and `-Host`; `Forwarded` of an untrusted client is removed.
    #[default]
    XForwarded,
    /// These and `Forwarded` (RFC 7239).
    Both,
}

/// A workload of this node: who connects from one of these addresses is it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its SPIFFE ID, `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
    pub identity: String,
    /// Its addresses.
    pub addresses: Sources,
}

/// Most workloads.
pub const WORKLOADS_MAX: usize = 1024;

/// Limits that an operator may need to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at once, per worker and listener; more wait in the kernel.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub connections_max: usize,
    /// Longest wait for a request's head once it has begun, in milliseconds; then 408, and the connection
    /// is closed.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub head_wait_ms_max: u64,
    /// Longest TLS handshake of a client, in milliseconds; then it is closed.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub handshake_wait_ms_max: u64,
    /// A TCP or upgraded connection on which nothing moves for longer is reset, in milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub tcp_idle_ms_max: u64,
    /// TLS handshakes of clients at once, per listener; more wait, within their time.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub handshakes_max: usize,
    /// When the proxy ends, an idle connection stays that long for one more request, whose answer says
    /// `Connection: close`, in milliseconds.
    pub drain_idle_ms_max: u64,
    /// An idle connection of a client is closed after this time, in milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub idle_wait_ms_max: u64,
    /// Longest time without progress in a request's body, then 408, or in sending an answer to a client
    /// that does not read it, in milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub body_wait_ms_max: u64,
    /// When the proxy ends, what is under way is cut off after this time, in milliseconds.
    pub drain_wait_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 16_384,
            head_wait_ms_max: 30_000,
            handshake_wait_ms_max: 5_000,
            tcp_idle_ms_max: 3_600_000,
            handshakes_max: 256,
            drain_idle_ms_max: 1_000,
            idle_wait_ms_max: 60_000,
            body_wait_ms_max: 60_000,
            drain_wait_ms_max: 10_000,
        }
    }
}

impl Limits {
    /// Longest wait for a request's head.
    pub fn head_wait_max(&self) -> Duration {
        Duration::from_millis(self.head_wait_ms_max)
    }

    /// Longest TLS handshake of a client.
    pub fn handshake_wait_max(&self) -> Duration {
        Duration::from_millis(self.handshake_wait_ms_max)
    }

    /// Longest silence of a TCP connection.
    pub fn tcp_idle_max(&self) -> Duration {
        Duration::from_millis(self.tcp_idle_ms_max)
    }

    /// How long idle connections stay when the proxy ends.
    pub fn drain_idle_max(&self) -> Duration {
        Duration::from_millis(self.drain_idle_ms_max)
    }

    /// Longest life of an idle connection.
    pub fn idle_wait_max(&self) -> Duration {
        Duration::from_millis(self.idle_wait_ms_max)
    }

    /// Longest time without progress of a body.
    pub fn body_wait_max(&self) -> Duration {
        Duration::from_millis(self.body_wait_ms_max)
    }

    /// Longest drain.
    pub fn drain_wait_max(&self) -> Duration {
        Duration::from_millis(self.drain_wait_ms_max)
    }
}

fn trust_domain_default() -> String {
    TRUST_DOMAIN_DEFAULT.to_owned()
}

fn report_cpu_default() -> bool {
    true
}

fn listen_default() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7410))
}

fn mesh_listen_default() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7411))
}

fn admin_listen_default() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7419))
}

/// Every key with its type, default and range, as JSON Schema.
#[cfg(feature = "schema")]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}

impl Config {
    /// A proxy of this name with its state in `data_dir`, everything else by default.
    pub fn new(node: NodeId, data_dir: PathBuf) -> Config {
        Config {
            node,
            data_dir,
            trust_domain: trust_domain_default(),
            controller: None,
            controllers: Vec::new(),
            ca_file: None,
            token_file: None,
            listen: listen_default(),
            mesh_listen: mesh_listen_default(),
            mesh_advertise: None,
            outbound_listen: None,
            admin_listen: admin_listen_default(),
            admin_insecure: false,
            workers: None,
            location: None,
            site: None,
            region: None,
            services: Vec::new(),
            traffic_policies: Vec::new(),
            routes: Vec::new(),
            peer_address: BTreeMap::new(),
            report_cpu: report_cpu_default(),
            listeners: Vec::new(),
            trusted_sources: Sources::default(),
            workloads: Vec::new(),
            forwarded: Forwarded::default(),
            access_log: None,
            traces: None,
            limits: Limits::default(),
            file: None,
        }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Unreadable, an unknown field, or a field out of its range.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.display().to_string(),
            source,
        })?;
        let variable = |name: &str| std::env::var(name).ok();
        let text = environment::put_in(&text, variable).map_err(|problem| ConfigError::Range {
            key: "${…}".to_owned(),
            problem,
        })?;
        let config = Config::parse(&path.display().to_string(), &text);
        let mut config = config.map_err(ConfigError::Faults)?;
        config.file = Some(path.to_owned());
        Ok(config)
    }

    /// Reads and checks a text; `file` is what it is called in what is said of it.
    ///
    /// # Errors
    /// All that is wrong, with its places.
    pub fn parse(file: &str, text: &str) -> Result<Config, Faults> {
        let config: Config =
            toml::from_str(text).map_err(|error| Faults::of_toml(file, text, &error))?;
        match check::problems(&config) {
            none if none.is_empty() => Ok(config),
            problems => Err(Faults::of_problems(file, text, problems)),
        }
    }

    /// The workload at an address; the first that has it.
    pub fn workload(&self, ip: IpAddr) -> Option<Arc<SpiffeId>> {
        let found = self.workloads.iter().find(|w| w.addresses.contain(ip));
        // Checked when the configuration was read.
        found
            .and_then(|w| SpiffeId::parse(&w.identity).ok())
            .map(Arc::new)
    }

    /// Every controller of the configuration once; none: the proxy stands alone.
    pub fn all_controllers(&self) -> Vec<String> {
        let each = self.controller.iter().chain(&self.controllers).cloned();
        each.collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// Worker threads to start.
    pub fn worker_count(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers
            .unwrap_or_else(processors)
            .clamp(1, WORKERS_MAX)
    }

    /// Checks every range. Certificate files are read when the proxy starts.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        match check::problems(self).into_iter().next() {
            None => Ok(()),
            Some(Problem { key, problem }) => Err(ConfigError::Range { key, problem }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        node = "edge-1"
        data_dir = "/var/lib/isobar"
        controller = "control.example:7401"
        location = { lat_deg = 45.46, lon_deg = 9.19 }
        [[services]]
        service = "shop/cart"
        hosts = ["cart.example"]
        endpoints = [{ address = "127.0.0.1:8080", workers = 4 }]
        [peer_address]
        edge-2 = "10.0.0.2:7411"
    "#;

    #[test]
    fn a_file_is_read_with_defaults() {
        let config: Config = toml::from_str(WHOLE).unwrap();
        config.check().unwrap();
        assert_eq!(config.listen.port(), 7410);
        assert_eq!(config.services[0].endpoints[0].workers, 4);
        assert!(config.worker_count() >= 1);
    }
}
