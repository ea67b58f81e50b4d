//! What the operator declared and what nodes said of themselves: the control loop's registry,
//! as it is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isobar_geo_data::position::Position;
use isobar_mesh_api::message::Hello;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::{
    AccessPolicy, EndpointSpec, Metadata, NodeSpec, Resource, TrafficPolicySpec, WeightPolicySpec,
};

use super::change::{Asked, CHANGES_MAX, Change, Etag, Outcome, Place, Target};
use super::handle::ControlError;
use super::leases::{Leased, Leases, Registered, Word};
use crate::control_loop::{ControlLoop, NodeSeat};
use crate::resource_text::{Declared, Key, Kind, Meaning, declare, is_of_cluster};

/// Most nodes, declared or by their own word; the hello of one more is refused.
pub const NODES_MAX: usize = 100_000;
/// Most declared services.
pub const SERVICES_MAX: usize = 1024;
/// Most weight policies, and most traffic policies.
pub const POLICIES_MAX: usize = 1024;
/// Most access policies.
pub const ACCESS_POLICIES_MAX: usize = 256;
/// Most that all access policies together take, in bytes: each may be told with each service.
pub const ACCESS_LEN_MAX: usize = 128 << 10;
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

impl MemoryLimit {
    pub(super) fn new(what: &'static str, max: usize) -> MemoryLimit {
        MemoryLimit { what, max }
    }
}

/// All resources and hellos.
#[derive(Clone, Default)]
pub(super) struct Desired {
    /// By kind, then by name.
    declared: BTreeMap<Kind, BTreeMap<String, Declared>>,
    /// By node; they are stored with the plan.
    hellos: BTreeMap<NodeId, Hello>,
    /// Endpoints that registered themselves.
    leases: Leases,
    /// The clock, in seconds since 1970, as of the last look.
    clock_s: i64,
    /// Weight policies that were in force then.
    in_force: Vec<String>,
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
        if matches!(declared.meaning, Meaning::AccessPolicy)
            && self.access_len_with(&declared) > ACCESS_LEN_MAX
        {
            let (what, max) = ("bytes of access policies", ACCESS_LEN_MAX);
            return Err(MemoryLimit { what, max });
        }
        let siblings = self.declared.entry(key.kind).or_default();
        siblings.insert(key.name, declared.clone());
        match (&declared.meaning, &*declared.resource) {
            (Meaning::Node(node), Resource::Node { spec, metadata }) => {
                let labels = metadata.labels.clone();
                let seat = NodeSeat {
                    labels,
                    ..seat(spec)
                };
                control_loop.set_node(node.clone(), seat);
            }
            (Meaning::Service(service), _) => self.tell_service(service, control_loop),
            (Meaning::TrafficPolicy, _) => {
                control_loop.set_traffic_policies(self.traffic_policies());
            }
            (Meaning::AccessPolicy, _) => {
                control_loop.set_access_policies(self.access_policies());
            }
            (Meaning::Route(route), _) => control_loop.set_route(Arc::clone(route)),
            _ => control_loop.set_policies(self.policies()),
        }
        Ok(is_new)
    }

    /// The same resource with the instant at which a route of its key was first written: `now` when there is none.
    pub fn dated(&self, declared: Declared, now: &str) -> Declared {
        let before = self.declared(&declared.key).map(|d| d.resource.metadata());
        // A cluster knows since when it has a route.
        if is_of_cluster(&declared.resource) {
            return declared;
        }
        let since = before.and_then(|m| m.creation_timestamp.clone());
        let since = Some(since.unwrap_or_else(|| now.to_owned()));
        let mut resource = (*declared.resource).clone();
        match &mut resource {
            Resource::HttpRoute { metadata, .. }
            | Resource::GrpcRoute { metadata, .. }
            | Resource::TcpRoute { metadata, .. } => {
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
                    self.tell_service(&service, control_loop);
                }
            }
            (Kind::WeightPolicy, _) => control_loop.set_policies(self.policies()),
            (Kind::TrafficPolicy, _) => {
                control_loop.set_traffic_policies(self.traffic_policies());
            }
            (Kind::AccessPolicy, _) => control_loop.set_access_policies(self.access_policies()),
            (Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute, _) => {
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
            return Err(MemoryLimit::new("changes in one request", CHANGES_MAX).into());
        }
        for change in &asked.changes {
            let found = self.tag(change);
            if !asked.expect.holds(found) {
                let target = change.target();
                return Err(ControlError::Unexpected { target, found });
            }
        }
        Ok(())
    }

    /// What a change is about says now, as it is shown.
    pub fn tag(&self, change: &Change) -> Option<Etag> {
        match change {
            Change::Put(Declared { key, .. }) | Change::Delete(key) => {
                self.get(key).map(|found| Etag::of(&*found.resource))
            }
            Change::Register(registered) => self.leases.get(&registered.place()).map(Etag::of),
            Change::Deregister(place) => self.leases.get(place).map(Etag::of),
        }
    }

    /// The change that would put back what a change is about.
    pub fn back(&self, change: &Change) -> Change {
        match change {
            Change::Put(Declared { key, .. }) | Change::Delete(key) => match self.declared(key) {
                Some(declared) => Change::Put(declared.clone()),
                None => Change::Delete(key.clone()),
            },
            Change::Register(registered) => self.lease_back(registered.place()),
            Change::Deregister(place) => self.lease_back(place.clone()),
        }
    }

    fn lease_back(&self, place: Place) -> Change {
        match self.leases.get(&place) {
            Some(registered) => Change::Register(registered.clone()),
            None => Change::Deregister(place),
        }
    }

    /// Removals of everything that a request does not name.
    pub fn others(&self, asked: &Asked) -> Vec<Change> {
        let named: BTreeSet<Target> = asked.changes.iter().map(Change::target).collect();
        let resources = self.declared.values().flat_map(BTreeMap::values);
        let resources = resources.map(|declared| Change::Delete(declared.key.clone()));
        let endpoints = self.leases.list(None, Duration::ZERO).into_iter();
        let endpoints = endpoints.map(|leased| Change::Deregister(leased.registered.place()));
        let all = resources.chain(endpoints);
        all.filter(|change| !named.contains(&change.target()))
            .collect()
    }

    /// Makes one change. `now` is the time since the program's start.
    pub fn make(
        &mut self,
        change: Change,
        now: Duration,
        is_open: impl Fn(&NodeId) -> bool,
        control_loop: &mut ControlLoop,
    ) -> Result<Outcome, MemoryLimit> {
        let outcome = |done, yes, no| if done { yes } else { no };
        let made = match change {
            Change::Put(declared) => {
                let is_new = self.put(declared, control_loop)?;
                outcome(is_new, Outcome::Created, Outcome::Replaced)
            }
            Change::Delete(key) => {
                let existed = self.delete(&key, is_open, control_loop);
                outcome(existed, Outcome::Deleted, Outcome::Missing)
            }
            Change::Register(registered) => match self.leases.register(registered, now)? {
                Word::New => Outcome::Created,
                Word::Changed => Outcome::Replaced,
                Word::Renewed => Outcome::Renewed,
            },
            Change::Deregister(place) => {
                let existed = self.leases.deregister(&place).is_some();
                outcome(existed, Outcome::Deleted, Outcome::Missing)
            }
        };
        Ok(made)
    }

    /// Tells the control loop which endpoints there are, where that changed.
    pub fn settle_endpoints(&mut self, control_loop: &mut ControlLoop) {
        for service in self.leases.take_changed() {
            self.tell_service(&service, control_loop);
        }
    }

    /// Removes endpoints whose lease has ended.
    pub fn expire(&mut self, now: Duration) -> Vec<Registered> {
        self.leases.expire(now)
    }

    /// Registered endpoints, of one service or all, by name.
    pub fn endpoints(&self, service: Option<&ServiceName>, now: Duration) -> Vec<Leased> {
        self.leases.list(service, now)
    }

    /// A service as declared and registered.
    fn tell_service(&self, service: &ServiceName, control_loop: &mut ControlLoop) {
        let key = Key {
            kind: Kind::Service,
            name: service.to_string(),
        };
        let declared = self.declared(&key).map(|declared| &*declared.resource);
        let (mut spec, labels) = match declared {
            Some(Resource::Service { spec, metadata }) => (spec.clone(), metadata.labels.clone()),
            _ if self.leases.has(service) => Default::default(),
            _ => return control_loop.remove_service(service),
        };
        let from_spec = spec.endpoints.len();
        for endpoint in self.leases.endpoints(service) {
            let same = |e: &EndpointSpec| e.node == endpoint.node && e.address == endpoint.address;
            if !spec.endpoints[..from_spec].iter().any(same) {
                spec.endpoints.push(endpoint.clone());
            }
        }
        control_loop.set_service(service.clone(), spec);
        control_loop.set_labels(service, labels);
    }

    /// Whether an operator wrote it; else it is shown as it describes itself.
    pub fn is_declared(&self, key: &Key) -> bool {
        self.declared(key).is_some()
    }

    /// Everything that operators wrote, by kind and name.
    pub fn export(&self) -> Vec<Declared> {
        let resources = self.declared.values().flat_map(BTreeMap::values);
        resources.cloned().collect()
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
            Kind::AccessPolicy => ("access policies", declared, ACCESS_POLICIES_MAX),
            Kind::HttpRoute => ("HTTP routes", declared, ROUTES_MAX),
            Kind::GrpcRoute => ("gRPC routes", declared, ROUTES_MAX),
            Kind::TcpRoute => ("TCP routes", declared, ROUTES_MAX),
        };
        match have >= max {
            true => Err(MemoryLimit { what, max }),
            false => Ok(()),
        }
    }

    /// Weight policies that are in force.
    fn policies(&self) -> Vec<(String, WeightPolicySpec)> {
        let in_force = self
            .weight_policies()
            .filter(|(_, spec)| spec.is_in_force(self.clock_s));
        in_force
            .map(|(name, spec)| (name.to_owned(), spec.clone()))
            .collect()
    }

    fn weight_policies(&self) -> impl Iterator<Item = (&str, &WeightPolicySpec)> {
        let all = self.all(Kind::WeightPolicy);
        all.filter_map(|declared| match &*declared.resource {
            Resource::WeightPolicy { spec, .. } => Some((&*declared.key.name, spec)),
            _ => None,
        })
    }

    /// Tells the control loop which policies are in force where the clock changed that.
    pub fn settle_schedules(&mut self, clock_s: i64, control_loop: &mut ControlLoop) {
        self.clock_s = clock_s;
        let in_force = self
            .weight_policies()
            .filter(|(_, spec)| spec.is_in_force(clock_s));
        let in_force: Vec<String> = in_force.map(|(name, _)| name.to_owned()).collect();
        if in_force != self.in_force {
            self.in_force = in_force;
            control_loop.set_policies(self.policies());
        }
    }

    /// Whether a weight policy is in force as of the last look at the clock.
    pub fn is_in_force(&self, spec: &WeightPolicySpec) -> bool {
        spec.is_in_force(self.clock_s)
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

    fn access_policies(&self) -> Vec<Arc<AccessPolicy>> {
        let policy = |declared: &Declared| match &*declared.resource {
            Resource::AccessPolicy { spec, .. } => Some(Arc::new(AccessPolicy {
                name: declared.key.name.clone(),
                spec: (**spec).clone(),
            })),
            _ => None,
        };
        self.all(Kind::AccessPolicy).filter_map(policy).collect()
    }

    /// What all access policies take with this one, in bytes as proxies get them.
    fn access_len_with(&self, declared: &Declared) -> usize {
        let len = |d: &Declared| serde_json::to_vec(&*d.resource).map_or(0, |json| json.len());
        let others = self.all(Kind::AccessPolicy);
        let others = others.filter(|d| d.key != declared.key).map(len);
        others.sum::<usize>() + len(declared)
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
        cordoned: spec.cordoned || spec.drained,
        drained: spec.drained,
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
            ..NodeSpec::default()
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
