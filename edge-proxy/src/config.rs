//! What the operator writes, in TOML.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isobar_mesh_api::identity::TRUST_DOMAIN_DEFAULT;
use isobar_mesh_api::message::{LocalService, Location};
use isobar_mesh_api::names::{NodeId, RegionName, SiteName};
use isobar_mesh_api::resource::TrafficPolicySpec;
use serde::{Deserialize, Serialize};

use crate::local_route::LocalRoute;

/// Most worker threads.
pub const WORKERS_MAX: usize = 256;

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
    /// It is not TOML of the expected shape.
    #[error("{path} is not a proxy's configuration")]
    Toml {
        /// The file.
        path: String,
        /// Where and why.
        source: toml::de::Error,
    },
    /// A field is out of its range.
    #[error("{field} {problem}")]
    Range {
        /// The field, as written.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// The configuration of one proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name.
    pub node: NodeId,
    /// Key, certificate, last snapshot and `addresses.json` are kept here.
    pub data_dir: PathBuf,
    /// The mesh's trust domain.
    #[serde(default = "trust_domain_default")]
    pub trust_domain: String,
    /// The controller's stream port, `host:port`; absent: the proxy stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Roots to believe the controller by before the first certificate, PEM.
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
    /// Where peers reach `mesh_listen`, `host:port`; by default its address, or the one that this
    /// node has towards the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_advertise: Option<String>,
    /// For applications on this node; absent: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_listen: Option<SocketAddr>,
    /// For the operator.
    #[serde(default = "admin_listen_default")]
    pub admin_listen: SocketAddr,
    /// Allows an `admin_listen` that others than this node can reach. It asks for no password.
    #[serde(default)]
    pub admin_insecure: bool,
    /// Worker threads, 1 to [`WORKERS_MAX`]; by default one per processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    pub routes: Vec<LocalRoute>,
    /// Where to reach nodes that are not where they say they are, behind NAT or a tunnel.
    #[serde(default)]
    pub peer_address: BTreeMap<NodeId, String>,
    /// Whether reports tell how busy this machine's processors are. Switch it off where several nodes
    /// stand on one machine: each would take the load of all for its own.
    #[serde(default = "report_cpu_default")]
    pub report_cpu: bool,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
}

/// Limits that an operator may need to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at once, per worker and listener; more wait in the kernel.
    pub connections_max: usize,
    /// Longest wait for a request's head, and longest life of an idle connection, in milliseconds.
    pub head_wait_ms_max: u64,
    /// When the proxy ends, requests under way have this long, in milliseconds.
    pub drain_wait_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 16_384,
            head_wait_ms_max: 60_000,
            drain_wait_ms_max: 10_000,
        }
    }
}

impl Limits {
    /// Longest wait for a request's head.
    pub fn head_wait_max(&self) -> Duration {
        Duration::from_millis(self.head_wait_ms_max)
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

impl Config {
    /// A proxy of this name with its state in `data_dir`, everything else by default.
    pub fn new(node: NodeId, data_dir: PathBuf) -> Config {
        Config {
            node,
            data_dir,
            trust_domain: trust_domain_default(),
            controller: None,
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
            limits: Limits::default(),
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
        let config: Config = toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.display().to_string(),
            source,
        })?;
        config.check()?;
        Ok(config)
    }

    /// Worker threads to start.
    pub fn worker_count(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers
            .unwrap_or_else(processors)
            .clamp(1, WORKERS_MAX)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, problem: &str| {
            Err(ConfigError::Range {
                field,
                problem: problem.to_owned(),
            })
        };
        if self.workers.is_some_and(|n| n == 0 || n > WORKERS_MAX) {
            return wrong("workers", "must be from 1 to 256");
        }
        if !self.admin_listen.ip().is_loopback() && !self.admin_insecure {
            return wrong(
                "admin_listen",
                "must be a loopback address: it asks for no password; admin_insecure = true allows others",
            );
        }
        if self.limits.connections_max == 0 || self.limits.head_wait_ms_max == 0 {
            return wrong(
                "limits",
                "connections_max and head_wait_ms_max must not be 0",
            );
        }
        let mut named = std::collections::BTreeSet::new();
        for service in &self.services {
            if !named.insert(&service.service) {
                return wrong("services", "must name each service once");
            }
            let idle = |e: &isobar_mesh_api::snapshot::Endpoint| {
                e.workers == 0 || !is_host_and_port(&e.address)
            };
            if service.endpoints.iter().any(idle) {
                return wrong(
                    "services.endpoints",
                    "need an address host:port and at least one worker",
                );
            }
        }
        for policy in &self.traffic_policies {
            if !policy.labels.is_empty() {
                return wrong(
                    "traffic_policies.labels",
                    "need a controller: services here have none",
                );
            }
            if let Err(error) = policy.check() {
                return wrong("traffic_policies", &error.to_string());
            }
        }
        let mut named = std::collections::BTreeSet::new();
        if !self.routes.iter().all(|r| named.insert(r.route().key())) {
            return wrong("routes", "must name each route once");
        }
        let told = self.controller.iter().chain(&self.mesh_advertise);
        if told
            .chain(self.peer_address.values())
            .any(|a| !is_host_and_port(a))
        {
            return wrong(
                "controller, mesh_advertise and peer_address",
                "must be written host:port",
            );
        }
        Ok(())
    }
}

fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
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

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("workers = 0", "workers"),
            ("admin_listen = \"0.0.0.0:1\"", "admin_listen"),
            ("controller = \"nowhere\"", "controller"),
            ("limits = { connections_max = 0 }", "limits"),
            ("lisen = \"0.0.0.0:1\"", "lisen"),
        ];
        for (line, field) in cases {
            let text = format!("node = \"a\"\ndata_dir = \"/tmp\"\n{line}\n");
            let error = toml::from_str::<Config>(&text)
                .map_err(|e| e.to_string())
                .and_then(|config| config.check().map_err(|e| e.to_string()));
            assert!(
                error.clone().unwrap_err().contains(field),
                "{line}: {error:?}"
            );
        }
        let idle = WHOLE.replace("workers = 4", "workers = 0");
        let config: Config = toml::from_str(&idle).unwrap();
        assert!(config.check().is_err());
    }
}
