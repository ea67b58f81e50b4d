//! The registry: who is there, what they serve, what may move. Every call says a whole thing again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::message::Hello;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::{ServiceSpec, WeightPolicySpec};
use isobar_mesh_api::route::{Route, RouteKey};
use isobar_mesh_api::snapshot::PlanId;

use super::service::Service;
use super::traffic::traffic_for;
use super::{
    ControlLoop, NODES_MAX, NodeSeat, POLICY_DEFAULT, SEATS_EAGER_MAX, SERVICES_MAX, stored,
};

impl ControlLoop {
    /// What the operator says of a node. Nodes beyond [`NODES_MAX`] are not taken up.
    pub fn set_node(&mut self, id: NodeId, seat: NodeSeat) {
        let Some(number) = self.register(&id) else {
            return;
        };
        let Some(node) = self.nodes.get_mut(number).filter(|n| n.seat != seat) else {
            return;
        };
        let (drained, before) = (seat.drained, node.seat.drained);
        node.seat = seat;
        self.geography_stale = true;
        if drained != before {
            for service in &mut self.services {
                service.set_drained(number, drained);
                service.compose(number, &id);
            }
        }
    }

    /// Takes a node out of the mesh, with all that is known of it. If its stream is still open, its next hello brings
    /// it back.
    pub fn remove_node(&mut self, id: &NodeId) {
        let Some(number) = self.nodes.remove(id) else {
            return;
        };
        self.services.iter_mut().for_each(|s| s.drop_node(number));
        self.waiting.retain(|(_, node), _| node != id);
        self.geography_stale = true;
        self.drop_undeclared();
    }

    /// What the operator says of a service. Services beyond [`SERVICES_MAX`] are not taken up.
    pub fn set_service(&mut self, name: ServiceName, spec: ServiceSpec) {
        for endpoint in &spec.endpoints {
            self.nodes.intern(&endpoint.node, NODES_MAX);
        }
        if let Some(place) = self.service_place(&name) {
            self.services[place].set_spec(Some(spec));
            self.compose(place);
        }
    }

    /// The operator no longer declares a service. It stays as long as a node's own configuration has it.
    pub fn remove_service(&mut self, name: &ServiceName) {
        if let Some(&place) = self.places.get(name) {
            self.services[place].set_spec(None);
            self.set_labels(name, BTreeMap::new());
            self.compose(place);
            self.drop_undeclared();
        }
    }

    /// Whether there is such a service, declared or by a node's own word.
    pub fn has_service(&self, name: &ServiceName) -> bool {
        self.places.contains_key(name)
    }

    /// A route, new or instead of the one with its key. The next tick sends it to every node.
    pub fn set_route(&mut self, route: Arc<Route>) {
        self.routes.set(route);
    }

    /// A route is gone.
    pub fn remove_route(&mut self, key: &RouteKey) {
        self.routes.remove(key);
    }

    /// What all routes take with this one, in bytes as proxies get them.
    pub fn routes_len_with(&self, route: &Route) -> usize {
        self.routes.len_with(route)
    }

    /// All policies. Of those that select a service, the first by name that names it wins, else the first that is for
    /// all services, else the default.
    pub fn set_policies(&mut self, mut policies: Vec<(String, WeightPolicySpec)>) {
        policies.sort_by(|a, b| a.0.cmp(&b.0));
        self.policies = policies;
        for at in 0..self.services.len() {
            let (name, policy) = self.policy_for(&self.services[at].name);
            self.services[at].set_policy(name, policy);
        }
    }

    /// A node's stream opened. The next tick pushes a whole snapshot to it.
    ///
    /// A node that had a later plan than this one got it from a controller whose store is lost: planning goes on under
    /// an epoch beyond it, or the node would refuse every plan for ever.
    pub fn on_hello(&mut self, hello: &Hello, now: Duration) {
        if let Some(had) = hello.plan.filter(|had| *had > self.plan) {
            self.plan = PlanId {
                epoch: had.epoch.saturating_add(1),
                generation: 0,
            };
        }
        let Some(number) = self.take_hello(hello.clone()) else {
            return;
        };
        let period = self.period;
        if let Some(node) = self.nodes.get_mut(number) {
            node.page.on_hello(now, period);
            node.stream.connected = true;
            node.stream.whole = true;
        }
        let eager = self.nodes.len().saturating_mul(self.services.len()) <= SEATS_EAGER_MAX;
        if eager {
            self.services.iter_mut().for_each(|s| {
                s.sit(number);
            });
        }
    }

    /// A node's stream closed. It counts as there until it has been silent for too long.
    pub fn on_gone(&mut self, id: &NodeId, _now: Duration) {
        let node = self
            .nodes
            .find(id)
            .and_then(|number| self.nodes.get_mut(number));
        if let Some(node) = node {
            node.stream.connected = false;
        }
    }

    /// Registers what a hello says of the node and its services. Returns the node's number.
    pub(super) fn take_hello(&mut self, hello: Hello) -> Option<u32> {
        let number = self.register(&hello.node)?;
        let local = hello.services.clone();
        let node = self.nodes.get_mut(number)?;
        let said = |h: &Hello| {
            (
                h.location,
                h.site.clone(),
                h.region.clone(),
                h.mesh_address.clone(),
            )
        };
        if node.hello.as_ref().map(said) != Some(said(&hello)) {
            self.geography_stale = true;
        }
        let id = hello.node.clone();
        node.hello = Some(hello);
        for service in &mut self.services {
            let kept = local.iter().any(|l| l.service == service.name);
            if !kept && service.is_local_to(number) {
                service.set_local(number, None);
                service.compose(number, &id);
            }
        }
        for declared in local {
            if let Some(place) = self.service_place(&declared.service) {
                self.services[place].set_local(number, Some(declared));
                self.services[place].compose(number, &id);
            }
        }
        self.drop_undeclared();
        Some(number)
    }

    /// The number of a node; a new one gets its seats in the services whose endpoints name it.
    fn register(&mut self, id: &NodeId) -> Option<u32> {
        if let Some(number) = self.nodes.find(id) {
            return Some(number);
        }
        let number = self.nodes.intern(id, NODES_MAX)?;
        self.geography_stale = true;
        self.services.iter_mut().for_each(|s| s.compose(number, id));
        Some(number)
    }

    /// The place of a service, a new one if need be and there is room.
    fn service_place(&mut self, name: &ServiceName) -> Option<usize> {
        if let Some(&place) = self.places.get(name) {
            return Some(place);
        }
        if self.services.len() >= SERVICES_MAX {
            return None;
        }
        let (policy_name, policy) = self.policy_for(name);
        let mut service = Service::new(name.clone(), policy_name, policy);
        service.traffic = traffic_for(&self.traffic_policies, name, &service.labels);
        if self.nodes.len().saturating_mul(self.services.len() + 1) <= SEATS_EAGER_MAX {
            let connected = self
                .nodes
                .iter()
                .filter(|(_, _, node)| node.stream.connected);
            for (number, _, _) in connected {
                service.sit(number);
            }
        }
        for (number, _, _) in self.nodes.iter().filter(|(_, _, n)| n.seat.drained) {
            service.set_drained(number, true);
        }
        let place = self.services.len();
        self.services.push(service);
        self.places.insert(name.clone(), place);
        Some(place)
    }

    /// Puts endpoints together on every node.
    fn compose(&mut self, place: usize) {
        let Some(service) = self.services.get_mut(place) else {
            return;
        };
        let named: Vec<NodeId> = service.spec_nodes().cloned().collect();
        let seated: Vec<u32> = service.seats.iter().map(|s| s.node).collect();
        for number in named
            .iter()
            .filter_map(|id| self.nodes.find(id))
            .chain(seated)
        {
            if let Some(id) = self.nodes.id(number) {
                service.compose(number, id);
            }
        }
    }

    /// Services that nobody declares any more leave the plans of all nodes.
    fn drop_undeclared(&mut self) {
        if self.services.iter().all(Service::is_declared) {
            return;
        }
        let mut place = 0;
        while place < self.services.len() {
            if self.services[place].is_declared() {
                place += 1;
                continue;
            }
            let service = self.services.remove(place);
            stored::forget(&mut self.waiting, &service);
            for seat in &service.seats {
                let names = self.due.removed.entry(seat.node).or_default();
                names.push(service.name.clone());
            }
        }
        let places = self.services.iter().enumerate();
        self.places = places.map(|(place, s)| (s.name.clone(), place)).collect();
    }

    fn policy_for(&self, service: &ServiceName) -> (String, WeightPolicySpec) {
        let name = self.choice_for(service).name;
        let chosen = self.policies.iter().find(|p| p.0 == name);
        let default = || (POLICY_DEFAULT.to_owned(), WeightPolicySpec::default());
        chosen.cloned().unwrap_or_else(default)
    }

    /// Which policy decides for a service, and why.
    pub(super) fn choice_for(&self, service: &ServiceName) -> Choice {
        let sound = || self.policies.iter().filter(|p| p.1.check().is_ok());
        let named = sound().find(|p| p.1.services.contains(service));
        let for_all = || sound().find(|p| p.1.services.is_empty());
        let (chosen, because) = match (named, for_all()) {
            (Some(named), _) => (&*named.0, "it is the first by name that names the service"),
            (None, Some(all)) => (&*all.0, "it is the first by name that is for all services"),
            (None, None) => (POLICY_DEFAULT, "no policy selects the service"),
        };
        let others = sound().filter(|p| p.1.selects(service) && p.0 != chosen);
        Choice {
            name: chosen.to_owned(),
            because,
            overruled: others.map(|p| p.0.clone()).collect(),
        }
    }
}

/// The policy of a service.
pub(super) struct Choice {
    pub name: String,
    pub because: &'static str,
    /// Others that would select it, by name.
    pub overruled: Vec<String>,
}
