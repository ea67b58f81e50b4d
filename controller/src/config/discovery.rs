//! Where endpoints and resources come from besides what proxies and operators say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use isobar_mesh_api::config_file::Problem;
use isobar_mesh_api::names::{NodeId, ServiceName};
use schemars::JsonSchema;
use serde::Deserialize;

/// Most DNS names, most Consul agents, and most ranges of addresses.
const SOURCES_MAX: usize = 1024;
/// Longest that endpoints of a source outlive its silence, in seconds: 30 days.
const KEEP_S_MAX: u64 = 30 * 86_400;

/// Sources besides Kubernetes. By default there is none.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoveryConfig {
    /// A directory whose `.yaml`, `.yml` and `.json` files list resources: they are followed as the files change.
    pub files: Option<PathBuf>,
    /// How long endpoints stay when their source does not answer, in seconds, at most 30 days.
    #[schemars(range(max = KEEP_S_MAX))]
    pub keep_s: u64,
    /// On which node endpoints of a range of addresses stand: `{ "10.1.0.0/16" = "edge-1" }`. The longest range counts. An endpoint
    /// in none stands on the node whose mesh address has its address, or whose name its source gives.
    #[schemars(with = "BTreeMap<String, NodeId>")]
    pub nodes: BTreeMap<IpNet, NodeId>,
    /// Names whose answers are endpoints, at most 1024.
    pub dns: Vec<DnsConfig>,
    /// Consul agents, or what speaks like them, at most 1024.
    pub consul: Vec<ConsulConfig>,
}

/// A DNS name.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// The service whose endpoints are there.
    pub service: ServiceName,
    /// One that begins with `_`, such as `_http._tcp.cart.internal`, is asked for SRV records, every other for addresses;
    /// again when the answer's lifetime is over (1 s to 5 min).
    pub name: String,
    /// The endpoints' port; needed where there are no SRV records.
    pub port: Option<u16>,
    /// The service's host names, where no operator declares the service.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Requests that an endpoint works on at once; by default 16.
    pub workers: Option<u32>,
    /// The server that is asked; by default those of the system.
    pub server: Option<SocketAddr>,
}

/// A Consul agent.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsulConfig {
    /// `http://127.0.0.1:8500`, or https.
    pub address: String,
    /// Roots to believe an https agent by, PEM; needed for https.
    pub ca_file: Option<PathBuf>,
    /// The file with the token for its API.
    pub token_file: Option<PathBuf>,
    /// The data centre; by default the agent's own.
    pub datacenter: Option<String>,
    /// Services of the catalogue that are in the mesh; by default all with `tag`.
    #[serde(default)]
    pub services: Vec<String>,
    /// The tag of those that are in the mesh.
    #[serde(default = "tag_default")]
    pub tag: String,
    /// Their namespace in the mesh.
    #[serde(default = "namespace_default")]
    pub namespace: String,
}

impl Default for DiscoveryConfig {
    fn default() -> DiscoveryConfig {
        DiscoveryConfig {
            files: None,
            keep_s: 3600,
            nodes: BTreeMap::new(),
            dns: Vec::new(),
            consul: Vec::new(),
        }
    }
}

impl DiscoveryConfig {
    /// Adds what is wrong.
    pub(super) fn check(&self, found: &mut Vec<Problem>) {
        let mut wrong = |key: String, problem: &str| {
            found.push(Problem::new(format!("discovery.{key}"), problem));
        };
        if self.keep_s > KEEP_S_MAX {
            wrong("keep_s".to_owned(), "must be at most 2 592 000 (30 days)");
        }
        for (key, len) in [
            ("nodes", self.nodes.len()),
            ("dns", self.dns.len()),
            ("consul", self.consul.len()),
        ] {
            if len > SOURCES_MAX {
                wrong(key.to_owned(), "has more than 1024 entries");
            }
        }
        for (index, dns) in self.dns.iter().enumerate() {
            if !dns.is_srv() && dns.port.unwrap_or(0) == 0 {
                let problem = "is needed: only names such as _http._tcp.cart.internal say a port";
                wrong(format!("dns[{index}].port"), problem);
            }
            if dns.is_srv() && dns.port.is_some() {
                let problem = "is not used: SRV records say the port; leave it away";
                wrong(format!("dns[{index}].port"), problem);
            }
            if dns.name.is_empty() || dns.name.len() > 253 {
                wrong(
                    format!("dns[{index}].name"),
                    "must have 1 to 253 characters",
                );
            }
        }
        for (index, consul) in self.consul.iter().enumerate() {
            let is_http = ["http://", "https://"]
                .iter()
                .any(|scheme| consul.address.starts_with(scheme));
            if !is_http || reqwest::Url::parse(&consul.address).is_err() {
                let problem = "must be a URL such as http://127.0.0.1:8500";
                wrong(format!("consul[{index}].address"), problem);
            }
            if ServiceName::new(&format!("{}/a", consul.namespace)).is_err() {
                let problem = "must be a name: lower-case letters, digits and hyphens";
                wrong(format!("consul[{index}].namespace"), problem);
            }
            if consul.ca_file.is_some() && consul.address.starts_with("http://") {
                let problem = "is not used with http; leave it away, or write https";
                wrong(format!("consul[{index}].ca_file"), problem);
            }
        }
    }
}

impl DnsConfig {
    /// Whether SRV records are asked for.
    pub fn is_srv(&self) -> bool {
        self.name.starts_with('_')
    }
}

fn tag_default() -> String {
    "isobar".to_owned()
}

fn namespace_default() -> String {
    "default".to_owned()
}
