//! The registry: who is there, what they serve, what may move. Every call says a whole thing again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::message::Hello;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::weight_policy::Selection;
use isobar_mesh_api::resource::{ServiceSpec, WeightPolicySpec};
use isobar_mesh_api::route::{Route, RouteKey};
use isobar_mesh_api::snapshot::PlanId;
use serde::Serialize;

use super::access::access_for;
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

    /// All policies that are in force. Of those that select a service, those that name it come before those that select
    /// it by its labels, and these before those for all; of several alike the highest precedence decides, then the
    /// first by name. Without any it is the default.
    pub fn set_policies(&mut self, mut policies: Vec<(String, WeightPolicySpec)>) {
        policies.sort_by(|a, b| a.0.cmp(&b.0));
        self.policies = policies;
        (0..self.services.len()).for_each(|at| self.choose_policy(at));
    }

    /// Finds the policy of a service anew.
    pub(super) fn choose_policy(&mut self, place: usize) {
        let Some(service) = self.services.get(place) else {
            return;
        };
        let (name, policy) = self.policy_for(&service.name, &service.labels);
        self.services[place].set_policy(name, policy);
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
        self.expected.on_back(&hello.node);
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
        let (policy_name, policy) = self.policy_for(name, &BTreeMap::new());
        let mut service = Service::new(name.clone(), policy_name, policy);
        service.traffic = traffic_for(&self.traffic_policies, name, &service.labels);
        service.access = access_for(&self.access_policies, name);
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

    fn policy_for(
        &self,
        service: &ServiceName,
        labels: &BTreeMap<String, String>,
    ) -> (String, WeightPolicySpec) {
        let chosen = self.ranked(service, labels).into_iter().next();
        let chosen = chosen.map(|(_, policy)| policy.clone());
        chosen.unwrap_or_else(|| (POLICY_DEFAULT.to_owned(), WeightPolicySpec::default()))
    }

    /// Policies that select a service, the one that decides first.
    fn ranked(
        &self,
        service: &ServiceName,
        labels: &BTreeMap<String, String>,
    ) -> Vec<(Selection, &(String, WeightPolicySpec))> {
        let sound = self.policies.iter().filter(|p| p.1.check().is_ok());
        let mut ranked: Vec<_> = sound
            .filter_map(|policy| Some((policy.1.selects(service, labels)?, policy)))
            .collect();
        // Policies are sorted by name, and this keeps their order.
        ranked.sort_by_key(|(how, policy)| Reverse((*how, policy.1.precedence)));
        ranked
    }

    /// Which policy decides for a service, and why.
    pub(super) fn choice_for(&self, service: &Service) -> Choice {
        let ranked = self.ranked(&service.name, &service.labels);
        let because = match ranked.as_slice() {
            [] => "no policy selects the service",
            [(first, a), (second, b), ..]
                if first == second && a.1.precedence == b.1.precedence =>
            {
                "of several that select the service alike it is the first by name; give one a higher precedence"
            }
            [(first, a), (second, _), ..] if first == second && a.1.precedence != 0 => {
                "of those that select the service alike it has the highest precedence"
            }
            [(Selection::ByName, _), ..] => "it names the service",
            [(Selection::ByLabels, _), ..] => "it selects the service by its labels",
            [(Selection::ForAll, _), ..] => "it is for all services",
        };
        let others = ranked.iter().skip(1);
        Choice {
            because,
            overruled: others.map(|(_, policy)| policy.0.clone()).collect(),
        }
    }

    /// What became of a policy: `in_force` says whether it is enabled and its time.
    pub fn policy_status(
        &self,
        name: &str,
        spec: &WeightPolicySpec,
        in_force: bool,
    ) -> PolicyStatus {
        let mut status = PolicyStatus {
            in_force,
            ..PolicyStatus::default()
        };
        for service in self.services.iter().filter(|_| in_force) {
            if service.policy_name == name {
                status.decides_for_count += 1;
                if status.decides_for.len() < STATUS_LEN_MAX {
                    status.decides_for.push(service.name.clone());
                }
            } else if spec.selects(&service.name, &service.labels).is_some() {
                status.overruled_count += 1;
                if status.overruled.len() < STATUS_LEN_MAX {
                    status.overruled.push(Overruled {
                        service: service.name.clone(),
                        by: service.policy_name.clone(),
                    });
                }
            }
        }
        status
    }
}

/// Most services that a policy's status names, each way; the rest are counted.
pub const STATUS_LEN_MAX: usize = 100;

/// What became of a `WeightPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyStatus {
    /// Whether it is enabled and its time.
    pub in_force: bool,
    /// Services that it decides for.
    pub decides_for: Vec<ServiceName>,
    /// How many.
    pub decides_for_count: usize,
    /// Services that it selects and another policy decides for.
    pub overruled: Vec<Overruled>,
    /// How many.
    pub overruled_count: usize,
}

/// A service that another policy decides for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overruled {
    /// Which service.
    pub service: ServiceName,
    /// Which policy.
    pub by: String,
}

/// Why a service has its policy.
pub(super) struct Choice {
    pub because: &'static str,
    /// Others that would select it, by rank.
    pub overruled: Vec<String>,
}
