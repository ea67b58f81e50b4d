//! What the operator declared and what nodes said of themselves: the control loop's registry,
//! as it is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_geo_data::position::Position;
use isobar_mesh_api::message::Hello;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::resource::{
    Metadata, NodeSpec, Resource, TrafficPolicySpec, WeightPolicySpec,
};

use super::change::{Asked, CHANGES_MAX, Etag, unexpected};
use super::handle::ControlError;
use crate::control_loop::{ControlLoop, NodeSeat};
use crate::resource_text::{Declared, Key, Kind, Meaning, declare};

/// Most nodes, declared or by their own word; the hello of one more is refused.
pub const NODES_MAX: usize = 100_000;
/// Most declared services.
pub const SERVICES_MAX: usize = 1024;
/// Most weight policies, and most traffic policies.
pub const POLICIES_MAX: usize = 1024;
/// Most HTTP routes, and most gRPC routes.
pub const ROUTES_MAX: usize = 1024;
/// Most that all routes together take, in bytes as proxies get them: a proxy keeps them in the file of its snapshot.
pub const ROUTES_LEN_MAX: usize = 8 << 20;

/// There are as many of a kind as the controller keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {max} {what} already, the most this controller keeps")]
pub struct MemoryLimit {
    what: &'static str,
    max: usize,
}

/// All resources and hellos.
#[derive(Clone, Default)]
pub(super) struct Desired {
    /// By kind, then by name.
    declared: BTreeMap<Kind, BTreeMap<String, Declared>>,
    /// By node; they are stored with the plan.
    hellos: BTreeMap<NodeId, Hello>,
}

impl Desired {
    /// Creates or replaces a resource. Returns whether it is new.
    pub fn put(
        &mut self,
        declared: Declared,
        control_loop: &mut ControlLoop,
    ) -> Result<bool, MemoryLimit> {
        let key = declared.key.clone();
        let is_new = self.declared(&key).is_none();
        let known = |node: &NodeId| self.hellos.contains_key(node);
        if is_new && !matches!(&declared.meaning, Meaning::Node(node) if known(node)) {
            self.check_room(key.kind)?;
        }
        if let Meaning::Route(route) = &declared.meaning
            && control_loop.routes_len_with(route) > ROUTES_LEN_MAX
        {
            let (what, max) = ("bytes of routes", ROUTES_LEN_MAX);
            return Err(MemoryLimit { what, max });
        }
        let siblings = self.declared.entry(key.kind).or_default();
        siblings.insert(key.name, declared.clone());
        match (&declared.meaning, &*declared.resource) {
            (Meaning::Node(node), Resource::Node { spec, .. }) => {
                control_loop.set_node(node.clone(), seat(spec));
            }
            (Meaning::Service(service), Resource::Service { spec, metadata }) => {
                control_loop.set_service(service.clone(), spec.clone());
                control_loop.set_labels(service, metadata.labels.clone());
            }
            (Meaning::TrafficPolicy, _) => {
                control_loop.set_traffic_policies(self.traffic_policies());
            }
            (Meaning::Route(route), _) => control_loop.set_route(Arc::clone(route)),
            _ => control_loop.set_policies(self.policies()),
        }
        Ok(is_new)
    }

    /// The same resource with the instant at which a route of its key was first written: `now` when there is none.
    pub fn dated(&self, declared: Declared, now: &str) -> Declared {
        let before = self.declared(&declared.key).map(|d| d.resource.metadata());
        let since = before.and_then(|m| m.creation_timestamp.clone());
        let since = Some(since.unwrap_or_else(|| now.to_owned()));
        let mut resource = (*declared.resource).clone();
        match &mut resource {
            Resource::HttpRoute { metadata, .. } | Resource::GrpcRoute { metadata, .. } => {
                metadata.creation_timestamp = since;
            }
            _ => return declared,
        }
        // It was fine without a date. With one it is still.
        declare(resource).unwrap_or(declared)
    }

    /// Removes a resource. A node without an open stream is forgotten altogether; one that is
    /// connected goes on by its own word. Returns whether there was anything to remove.
    pub fn delete(
        &mut self,
        key: &Key,
        is_open: impl Fn(&NodeId) -> bool,
        control_loop: &mut ControlLoop,
    ) -> bool {
        let siblings = self.declared.entry(key.kind).or_default();
        let declared = siblings.remove(&key.name);
        let mut existed = declared.is_some();
        match (key.kind, NodeId::new(&key.name)) {
            (Kind::Node, Ok(node)) if is_open(&node) => {
                control_loop.set_node(node, NodeSeat::default());
            }
            (Kind::Node, Ok(node)) => {
                control_loop.remove_node(&node);
                existed |= self.hellos.remove(&node).is_some();
            }
            (Kind::Node, Err(_)) => {}
            (Kind::Service, _) => {
                if let Some(Meaning::Service(service)) = declared.map(|d| d.meaning) {
                    control_loop.remove_service(&service);
                }
            }
            (Kind::WeightPolicy, _) => control_loop.set_policies(self.policies()),
            (Kind::TrafficPolicy, _) => {
                control_loop.set_traffic_policies(self.traffic_policies());
            }
            (Kind::HttpRoute | Kind::GrpcRoute, _) => {
                if let Some(Meaning::Route(route)) = declared.map(|d| d.meaning) {
                    control_loop.remove_route(route.key());
                }
            }
        }
        existed
    }

    /// One resource. A node that nobody declared is shown as it describes itself.
    pub fn get(&self, key: &Key) -> Option<Declared> {
        let by_own_word = || {
            let node = NodeId::new(&key.name).ok()?;
            self.hellos.get(&node).map(as_declared)
        };
        match self.declared(key) {
            Some(declared) => Some(declared.clone()),
            None if key.kind == Kind::Node => by_own_word(),
            None => None,
        }
    }

    /// Checks that everything is as a request expects, before any of it is changed.
    pub fn check(&self, asked: &Asked) -> Result<(), ControlError> {
        if asked.changes.len() > CHANGES_MAX {
            let (what, max) = ("changes in one request", CHANGES_MAX);
            return Err(MemoryLimit { what, max }.into());
        }
        for change in &asked.changes {
            let found = self.tag(change.key());
            if !asked.expect.holds(found) {
                return Err(unexpected(change.key(), found));
            }
        }
        Ok(())
    }

    /// What a resource says now, as it is shown.
    pub fn tag(&self, key: &Key) -> Option<Etag> {
        self.get(key).map(|declared| Etag::of(&declared.resource))
    }

    /// What the operator declared, without what a node says of itself.
    pub fn declared_as(&self, key: &Key) -> Option<Declared> {
        self.declared(key).cloned()
    }

    /// All resources of a kind, by name.
    pub fn list(&self, kind: Kind) -> Vec<Declared> {
        let mut list: Vec<Declared> = self.all(kind).cloned().collect();
        if kind == Kind::Node {
            let own = self.hellos.values().map(as_declared);
            list.extend(own.filter(|d| self.declared(&d.key).is_none()));
            list.sort_by(|a, b| a.key.cmp(&b.key));
        }
        list
    }

    /// Whether a node may connect.
    pub fn check_room_for(&self, node: &NodeId) -> Result<(), MemoryLimit> {
        let key = Key {
            kind: Kind::Node,
            name: node.to_string(),
        };
        match self.hellos.contains_key(node) || self.declared(&key).is_some() {
            true => Ok(()),
            false => self.check_room(Kind::Node),
        }
    }

    /// Keeps what a node said of itself.
    pub fn remember(&mut self, hello: Hello) {
        self.hellos.insert(hello.node.clone(), hello);
    }

    fn check_room(&self, kind: Kind) -> Result<(), MemoryLimit> {
        let declared = self.declared.get(&kind).map_or(0, BTreeMap::len);
        let (what, have, max) = match kind {
            // Nodes that are both count twice: the limit is against floods, not exact.
            Kind::Node => ("nodes", declared + self.hellos.len(), NODES_MAX),
            Kind::Service => ("services", declared, SERVICES_MAX),
            Kind::WeightPolicy => ("weight policies", declared, POLICIES_MAX),
            Kind::TrafficPolicy => ("traffic policies", declared, POLICIES_MAX),
            Kind::HttpRoute => ("HTTP routes", declared, ROUTES_MAX),
            Kind::GrpcRoute => ("gRPC routes", declared, ROUTES_MAX),
        };
        match have >= max {
            true => Err(MemoryLimit { what, max }),
            false => Ok(()),
        }
    }

    fn policies(&self) -> Vec<(String, WeightPolicySpec)> {
        let policy = |declared: &Declared| match &*declared.resource {
            Resource::WeightPolicy { spec, .. } => Some((declared.key.name.clone(), spec.clone())),
            _ => None,
        };
        self.all(Kind::WeightPolicy).filter_map(policy).collect()
    }

    fn traffic_policies(&self) -> Vec<(String, TrafficPolicySpec)> {
        let policy = |declared: &Declared| match &*declared.resource {
            Resource::TrafficPolicy { spec, .. } => {
                Some((declared.key.name.clone(), (**spec).clone()))
            }
            _ => None,
        };
        self.all(Kind::TrafficPolicy).filter_map(policy).collect()
    }

    fn declared(&self, key: &Key) -> Option<&Declared> {
        self.declared.get(&key.kind)?.get(&key.name)
    }

    fn all(&self, kind: Kind) -> impl Iterator<Item = &Declared> {
        self.declared
            .get(&kind)
            .into_iter()
            .flat_map(BTreeMap::values)
    }
}

fn seat(spec: &NodeSpec) -> NodeSeat {
    NodeSeat {
        // Checked when it was read.
        position: spec
            .location
            .and_then(|l| Position::new(l.lat_deg, l.lon_deg).ok()),
        site: spec.site.clone(),
        region: spec.region.clone(),
        mesh_address: spec.mesh_address.clone().unwrap_or_default(),
        ..NodeSeat::default()
    }
}

fn as_declared(hello: &Hello) -> Declared {
    let resource = Resource::Node {
        metadata: Metadata {
            name: hello.node.to_string(),
            ..Metadata::default()
        },
        spec: NodeSpec {
            location: hello.location,
            site: hello.site.clone(),
            region: hello.region.clone(),
            mesh_address: Some(hello.mesh_address.clone()),
        },
    };
    Declared {
        key: Key {
            kind: Kind::Node,
            name: hello.node.to_string(),
        },
        resource: Arc::new(resource),
        meaning: Meaning::Node(hello.node.clone()),
    }
}
