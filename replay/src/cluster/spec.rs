//! What a real cluster consists of, and the files that tell its programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use isobar_mesh_api::message::Location;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::{
    EndpointSpec, Metadata, NodeSpec, Resource, ServiceSpec, WeightPolicySpec,
};
use serde_json::json;

use super::error::ClusterError;

/// Most nodes of a real cluster: each is a process, each pair a relay.
pub const NODES_MAX: usize = 64;
/// The one service of a cluster, as `namespace/name`.
pub const SERVICE: (&str, &str) = ("default", "city");
/// The one policy of a cluster.
pub const POLICY: &str = "replay";

/// One node: an edge proxy with an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Its name in the mesh.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// Requests its endpoint works on at once.
    pub workers: u32,
    /// Mean service time; times are exponential.
    pub service: Duration,
    /// What the controller is told of its capacity, requests/s; learned when absent.
    pub capacity_rps: Option<f64>,
}

/// A whole cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSpec {
    /// The nodes, 1 to [`NODES_MAX`].
    pub places: Vec<Place>,
    /// Round trips between their proxies, row by row, `places × places`; the diagonal is not used.
    pub rtt: Vec<Duration>,
    /// What may move.
    pub policy: WeightPolicySpec,
    /// The control period, in milliseconds.
    pub period_ms: u64,
    /// Seed of the service times.
    pub seed: u64,
}

impl ClusterSpec {
    /// The name of the service.
    pub fn service() -> String {
        format!("{}/{}", SERVICE.0, SERVICE.1)
    }

    /// Checks the number of nodes, their names and the table of round trips.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self) -> Result<(), ClusterError> {
        let nodes = self.places.len();
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(ClusterError::Nodes(nodes));
        }
        if self.rtt.len() != nodes * nodes {
            return Err(ClusterError::Range {
                what: "round trips",
                problem: format!(
                    "are {}; {nodes} nodes have {}",
                    self.rtt.len(),
                    nodes * nodes
                ),
            });
        }
        let mut seen = BTreeSet::new();
        for place in &self.places {
            let name = place.name.as_str();
            let wrong = |problem: String| {
                let name = name.to_owned();
                Err(ClusterError::Node { name, problem })
            };
            if let Err(error) = NodeId::new(name) {
                return wrong(error.to_string());
            }
            if !seen.insert(name) {
                return wrong("there are two of this name".to_owned());
            }
            if place.workers == 0 || place.service.is_zero() {
                return wrong("needs workers and a service time".to_owned());
            }
        }
        Ok(())
    }

    /// The round trip from one node to another, by index.
    pub fn rtt(&self, from: usize, to: usize) -> Duration {
        self.rtt[from * self.places.len() + to]
    }

    /// The list of resources that the controller reads at its start. `endpoints` by node index.
    pub(super) fn resources(&self, endpoints: &[SocketAddr]) -> serde_json::Value {
        let named = |name: &str, namespace: &str| Metadata {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..Metadata::default()
        };
        let node = |place: &Place| Resource::Node {
            metadata: named(&place.name, ""),
            spec: NodeSpec {
                location: Some(place.location),
                ..NodeSpec::default()
            },
        };
        let endpoint = |(place, address): (&Place, &SocketAddr)| {
            // The names were checked; one that is not a name is left out rather than trusted.
            Some(EndpointSpec {
                node: NodeId::new(&place.name).ok()?,
                address: address.to_string(),
                workers: place.workers,
                capacity_rps: place.capacity_rps,
            })
        };
        let service = Resource::Service {
            metadata: named(SERVICE.1, SERVICE.0),
            spec: ServiceSpec {
                protocol: None,
                hosts: vec!["*".to_owned()],
                endpoints: self
                    .places
                    .iter()
                    .zip(endpoints)
                    .filter_map(endpoint)
                    .collect(),
            },
        };
        let mut resources: Vec<Resource> = self.places.iter().map(node).collect();
        resources.push(service);
        resources.push(policy_resource(&self.policy));
        json!(resources)
    }

    /// The controller's configuration file. `listen` is known after its first start alone.
    pub(super) fn controller_toml(&self, files: &ControllerFiles<'_>) -> String {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (rest, stream) = files.listen.unwrap_or((any, any));
        format!(
            "data_dir = {}\nrest_listen = \"{rest}\"\nstream_listen = \"{stream}\"\nrest_open = true\nenrol_open = true\nperiod_ms = {}\n\
             drain_ms = 2000\nresources = [{}]\n",
            quoted_path(files.data_dir),
            self.period_ms,
            quoted_path(files.resources),
        )
    }

    /// A proxy's configuration file. All nodes share this machine's processors, so none of them reports
    /// how busy they are.
    pub(super) fn proxy_toml(&self, node: usize, files: &ProxyFiles<'_>) -> String {
        let place = &self.places[node];
        let mut text = format!(
            "node = {}\ndata_dir = {}\ncontroller = \"{}\"\nca_file = {}\ntoken_file = {}\n\
             listen = \"{}\"\nmesh_listen = \"{}\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 1\nreport_cpu = false\n",
            quoted(&place.name),
            quoted_path(files.data_dir),
            files.controller,
            quoted_path(files.ca),
            quoted_path(files.token),
            files.listen,
            files.mesh_listen,
        );
        text.push_str("\n[peer_address]\n");
        for (peer, relay) in self.places.iter().zip(files.relays) {
            if let Some(relay) = relay {
                let _ = writeln!(text, "{} = \"{relay}\"", quoted(&peer.name));
            }
        }
        text
    }
}

/// The policy as a resource.
pub fn policy_resource(spec: &WeightPolicySpec) -> Resource {
    Resource::WeightPolicy {
        metadata: Metadata {
            name: POLICY.to_owned(),
            ..Metadata::default()
        },
        spec: spec.clone(),
    }
}

/// The service's name as a type.
///
/// # Errors
/// Never for the constant it reads.
pub fn service_name() -> Result<ServiceName, isobar_mesh_api::names::NameError> {
    ServiceName::new(&ClusterSpec::service())
}

/// Where the controller finds things.
#[derive(Debug)]
pub(super) struct ControllerFiles<'a> {
    pub data_dir: &'a Path,
    pub resources: &'a Path,
    /// REST and stream address; any port when absent.
    pub listen: Option<(SocketAddr, SocketAddr)>,
}

/// Where a proxy finds things.
#[derive(Debug)]
pub(super) struct ProxyFiles<'a> {
    pub data_dir: &'a Path,
    pub controller: SocketAddr,
    pub ca: &'a Path,
    pub token: &'a Path,
    pub listen: SocketAddr,
    pub mesh_listen: SocketAddr,
    /// By node index; none for the node itself.
    pub relays: &'a [Option<SocketAddr>],
}

/// A TOML basic string: JSON's escapes are a part of TOML's.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ClusterSpec {
        let place = |name: &str| Place {
            name: name.to_owned(),
            location: Location {
                lat_deg: -36.8,
                lon_deg: 174.7,
            },
            workers: 2,
            service: Duration::from_millis(20),
            capacity_rps: Some(100.0),
        };
        ClusterSpec {
            places: vec![place("a"), place("b")],
            rtt: vec![Duration::ZERO; 4],
            policy: WeightPolicySpec::default(),
            period_ms: 1000,
            seed: 1,
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(spec().check().is_ok());
        type Spoil = fn(&mut ClusterSpec);
        let cases: [(&str, Spoil); 5] = [
            ("65 nodes", |s| s.places = vec![s.places[0].clone(); 65]),
            ("two of this name", |s| s.places[1].name = "a".into()),
            ("'B'", |s| s.places[1].name = "B".into()),
            ("round trips", |s| s.rtt.clear()),
            ("workers", |s| s.places[0].workers = 0),
        ];
        for (part, spoil) in cases {
            let mut spec = spec();
            spoil(&mut spec);
            let error = spec.check().unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn resources_read_back() {
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        let json = spec().resources(&[address, address]);
        let read: Vec<Resource> = serde_json::from_value(json).unwrap();
        let kinds: Vec<&str> = read.iter().map(Resource::kind).collect();
        assert_eq!(kinds, ["Node", "Node", "Service", "WeightPolicy"]);
        let Resource::Service { spec, .. } = &read[2] else {
            panic!("{:?}", read[2]);
        };
        assert_eq!(spec.endpoints.len(), 2);
    }

    #[test]
    fn the_programs_read_what_is_written() {
        let path = Path::new("/tmp/a \"quoted\" place");
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        let files = ControllerFiles {
            data_dir: path,
            resources: path,
            listen: None,
        };
        let text = spec().controller_toml(&files);
        let config: isobar_controller::config::Config = toml::from_str(&text).unwrap();
        config.check().unwrap();
        assert_eq!(config.data_dir, path);
        let files = ProxyFiles {
            data_dir: path,
            controller: any,
            ca: path,
            token: path,
            listen: any,
            mesh_listen: any,
            relays: &[None, Some(any)],
        };
        let text = spec().proxy_toml(0, &files);
        let config: isobar_edge_proxy::config::Config = toml::from_str(&text).unwrap();
        assert_eq!(config.peer_address.len(), 1);
        assert!(!config.report_cpu);
    }
}
