//! One set of endpoints out of what all sources say. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::{EndpointSpec, Metadata, Resource, ServiceSpec};

use super::key;
use crate::control_task::{Change, Leased, Registered};
use crate::resource_text::{
    Declared, Key, Kind, SOURCE_DISCOVERY, SOURCE_LABEL, check_endpoint, declare,
};

/// How long a discovered endpoint stays without a word of the controller that discovered it, in seconds.
pub const LEASE_S: u64 = 120;

/// What a source says of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Which.
    pub service: ServiceName,
    /// Its host names, where nobody else declares it.
    pub hosts: Vec<String>,
    /// Its endpoints.
    pub spots: Vec<Spot>,
}

/// An endpoint as a source names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spot {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// What the source calls the machine it is on.
    pub machine: String,
    /// Requests that it works on at once.
    pub workers: Option<u32>,
    /// What it serves within its latency target, requests/s.
    pub capacity_rps: Option<f64>,
}

/// Which node an endpoint is on.
pub struct Nodes<'a> {
    /// By range of addresses.
    pub ranges: &'a BTreeMap<IpNet, NodeId>,
    /// The mesh's nodes and their mesh addresses, `host:port`.
    pub known: &'a BTreeMap<NodeId, String>,
}

impl Nodes<'_> {
    /// By the longest range, else by a node's own address, else by the name that the source has for the machine.
    fn of(&self, spot: &Spot) -> Option<NodeId> {
        let ranges = self
            .ranges
            .iter()
            .filter(|(range, _)| range.contains(&spot.ip));
        if let Some((_, node)) = ranges.max_by_key(|(range, _)| range.prefix_len()) {
            return Some(node.clone());
        }
        let at = |address: &str| {
            let (host, _) = address.rsplit_once(':')?;
            host.trim_matches(['[', ']']).parse::<IpAddr>().ok()
        };
        let is_there = |(_, address): &(&NodeId, &String)| at(address) == Some(spot.ip);
        // An address that several nodes have, such as that of a test machine, says nothing.
        let mut there = self.known.iter().filter(is_there);
        if let (Some((node, _)), None) = (there.next(), there.next()) {
            return Some(node.clone());
        }
        let node = NodeId::new(&spot.machine).ok()?;
        self.known.contains_key(&node).then_some(node)
    }
}

/// What all sources say together.
#[derive(Debug, Default, PartialEq)]
pub struct Merged {
    /// Endpoints by `namespace/name/node/address`.
    pub endpoints: BTreeMap<String, Registered>,
    /// Endpoints that are on no node, or cannot be.
    pub homeless: usize,
    hosts: BTreeMap<ServiceName, Vec<String>>,
}

/// Merges what sources say, in the order of their precedence; of two that name one endpoint the first decides.
pub fn merge<'a>(said: impl Iterator<Item = (&'a str, &'a Said)>, nodes: &Nodes<'_>) -> Merged {
    let mut merged = Merged::default();
    for (source, said) in said {
        let hosts = merged.hosts.entry(said.service.clone()).or_default();
        for host in &said.hosts {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        for spot in &said.spots {
            let endpoint = nodes.of(spot).map(|node| as_endpoint(spot, node));
            let Some(endpoint) = endpoint.filter(|e| check_endpoint("#", e).is_ok()) else {
                merged.homeless += 1;
                continue;
            };
            let registered = Registered {
                service: said.service.clone(),
                endpoint,
                lease_s: LEASE_S,
                source: Some(source.to_owned()),
            };
            let name = registered.name();
            merged.endpoints.entry(name).or_insert(registered);
        }
    }
    merged
}

fn as_endpoint(spot: &Spot, node: NodeId) -> EndpointSpec {
    EndpointSpec {
        node,
        address: std::net::SocketAddr::new(spot.ip, spot.port).to_string(),
        workers: spot.workers.unwrap_or_else(EndpointSpec::workers_default),
        capacity_rps: spot.capacity_rps,
    }
}

impl Merged {
    /// The services that have host names, as resources. One that cannot be is left out.
    pub fn services(&self) -> BTreeMap<Key, Declared> {
        let with_hosts = self.hosts.iter().filter(|(_, hosts)| !hosts.is_empty());
        let services = with_hosts.filter_map(|(service, hosts)| {
            let (namespace, name) = service.as_str().split_once('/')?;
            let resource = Resource::Service {
                metadata: Metadata {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    labels: BTreeMap::from([(
                        SOURCE_LABEL.to_owned(),
                        SOURCE_DISCOVERY.to_owned(),
                    )]),
                    ..Metadata::default()
                },
                spec: ServiceSpec {
                    hosts: hosts.clone(),
                    endpoints: Vec::new(),
                    protocol: None,
                },
            };
            let declared = declare(resource).ok()?;
            Some((key(Kind::Service, service.as_str()), declared))
        });
        services.collect()
    }
}

/// The changes that make the registered endpoints those that are wanted. Endpoints that registered themselves are left as they
/// are; those in `adopted` stay: their source has not spoken yet.
pub fn wanted(
    endpoints: &BTreeMap<String, Registered>,
    adopted: &BTreeMap<String, Registered>,
    registered: &[Leased],
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut there = BTreeSet::new();
    for leased in registered {
        let name = leased.registered.name();
        let wanted = endpoints.get(&name).or_else(|| adopted.get(&name));
        match (&leased.registered.source, wanted) {
            (None, _) => {}
            (Some(_), Some(wanted)) => {
                let is_short = leased.left_ms < LEASE_S * 1_000 / 2;
                if leased.registered != *wanted || is_short {
                    changes.push(Change::Register(wanted.clone()));
                }
            }
            (Some(_), None) => changes.push(Change::Deregister(leased.registered.place())),
        }
        there.insert(name);
    }
    let missing = endpoints.iter().filter(|(name, _)| !there.contains(*name));
    changes.extend(missing.map(|(_, new)| Change::Register(new.clone())));
    changes
}

#[cfg(test)]
mod tests;
