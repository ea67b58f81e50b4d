//! A report's whole life, from the stream to the weights that answer it, on one screen: [`ControlLoop::on_report`] and
//! [`ControlLoop::tick`].
//!
//! ```text
//! on_report ──▶ load book (heard, round trips, processor) ──▶ per service: demand filter, capacity estimate
//! tick ───────▶ age ──▶ per service: renew? refresh ▶ planner ▶ settle ▶ hold limits ▶ grant ──▶ due ──▶ push
//! ```
//!
//! The loop is a plain value: time comes as an argument, since an arbitrary start and never backwards; there is no
//! clock, entropy, socket or hash order in it. Production and simulation drive this same code.
//!
//! - [`mesh`](self): nodes under dense numbers; names exist at the edges only;
//! - service: who has or wants a service, and what is known of it there;
//! - planning and rows: one service's tick;
//! - push: snapshots and deltas;
//! - stored and view: what outlives the loop, and what people see of it.
//!
//! **Invariant**: calls that say what is known already change nothing and push nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use isobar_mesh_api::message::{Down, Hello};
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::Report;
use isobar_mesh_api::resource::{ServiceSpec, WeightPolicySpec};
use isobar_mesh_api::snapshot::{PlanId, SNAPSHOT_SERVICES_MAX, Snapshot};
use serde::Serialize;

mod mesh;
mod planning;
mod push;
mod rows;
mod service;
mod stored;
mod view;

use mesh::Nodes;
use push::Due;
use service::Service;
use stored::Waiting;

use crate::load_book::{SILENT_PERIODS, Standing};

pub use crate::load_book::ReportError;
pub use mesh::NodeSeat;
pub use stored::{StoredNode, StoredPlan, StoredSeat, StoredService};
pub use view::{MeshView, NodeView, Presence, SeatView, ServiceView};

/// Most nodes; what further ones say is not taken up.
pub const NODES_MAX: usize = 200_000;
/// Most services; further ones are not taken up. As many as one snapshot may name.
pub const SERVICES_MAX: usize = SNAPSHOT_SERVICES_MAX;
/// Up to this many pairs of node and service, every connected node has a place in every service's plan even before its
/// first request for it. Beyond, nodes without endpoints get theirs with their first report of traffic.
pub const SEATS_EAGER_MAX: usize = 1 << 18;
/// Name of the policy where none selects a service.
pub const POLICY_DEFAULT: &str = "default";

/// What a tick came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// The plan in force after it.
    pub plan: PlanId,
    /// What to send, in order; several messages may be for one node.
    pub pushes: Vec<(NodeId, Down)>,
    /// Figures for metrics.
    pub stats: TickStats,
}

/// Figures of one tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TickStats {
    /// Nodes that report.
    pub nodes_live: usize,
    /// Nodes that missed reports or have sent none yet.
    pub nodes_stale: usize,
    /// Nodes that are silent.
    pub nodes_silent: usize,
    /// Services whose neighbourhoods were found anew.
    pub services_renewed: usize,
    /// Spots of all fields that changed.
    pub spots_changed: usize,
    /// Paths that planners sent flow along.
    pub augmentations: u64,
    /// Times that planners looked at a node with all its arcs.
    pub scans: u64,
    /// Pairs of node and service whose part of the plan was due to be told.
    pub due: usize,
    /// Whole snapshots among the pushes.
    pub snapshots: usize,
    /// Deltas among the pushes.
    pub deltas: usize,
}

/// The control plane's whole state and law.
pub struct ControlLoop {
    plan: PlanId,
    period: Duration,
    ticked_at: Duration,
    nodes: Nodes,
    services: Vec<Service>,
    places: BTreeMap<ServiceName, usize>,
    policies: Vec<(String, WeightPolicySpec)>,
    /// Positions, sites, addresses or cordons changed.
    geography_stale: bool,
    waiting: Waiting,
    /// When what still waits is given up; set by the first tick.
    waiting_until: Option<Duration>,
    /// Restored nodes whose silence counts from the next tick.
    expected: Vec<NodeId>,
    due: Due,
}

impl ControlLoop {
    /// An empty mesh. `epoch` must be higher than that of every planner before; `period` is the time between two ticks.
    pub fn new(epoch: u64, period: Duration) -> ControlLoop {
        ControlLoop {
            plan: PlanId { epoch, generation: 0 },
            period: period.max(Duration::from_millis(1)),
            ticked_at: Duration::ZERO,
            nodes: Nodes::default(),
            services: Vec::new(),
            places: BTreeMap::new(),
            policies: Vec::new(),
            geography_stale: false,
            waiting: Waiting::new(),
            waiting_until: None,
            expected: Vec::new(),
            due: Due::default(),
        }
    }

    /// Takes up a report: its round trips, then per service its demand and capacity. Planning is left to the next tick.
    ///
    /// # Errors
    /// An unknown node, or nonsense; it is counted and nothing else changes.
    pub fn on_report(&mut self, id: &NodeId, report: &Report, now: Duration) -> Result<(), ReportError> {
        let number = self.nodes.find(id);
        let Some((number, node)) = number.and_then(|n| Some((n, self.nodes.get_mut(n)?))) else {
            return Err(ReportError::UnknownNode(id.clone()));
        };
        if let Err(error) = report.check() {
            node.page.counts.refused += 1;
            return Err(error.into());
        }
        node.page.on_report(report.clock_ms, now);
        let window = Duration::from_micros(report.window_us);
        let (mut busiest, mut unknown) = (0.0_f64, 0);
        for seen in &report.services {
            let place = self.places.get(&seen.service);
            match place.and_then(|&place| self.services.get_mut(place)) {
                Some(service) if service.seat(number).is_some() || seen.entered > 0 => {
                    busiest = busiest.max(service.observe(number, seen, window));
                }
                Some(_) => {}
                None => unknown += 1,
            }
        }
        let to: Vec<Option<u32>> = report.neighbours.iter().map(|n| self.nodes.find(&n.node)).collect();
        if let Some(node) = self.nodes.get_mut(number) {
            node.page.counts.unknown_services += unknown;
            node.page.cpu_ratio = report.cpu_ratio;
            node.page.cpu.observe(report.cpu_ratio, busiest);
            let known = to.into_iter().zip(&report.neighbours);
            node.rtt_changed |= node.page.on_rtts(known.filter_map(|(to, n)| Some((to?, n))));
        }
        Ok(())
    }

    /// Computes the next plan, and says what must be told to whom. `now` is the time since an arbitrary start.
    pub fn tick(&mut self, now: Duration) -> Tick {
        self.ticked_at = now;
        self.age(now);
        let mut stats = self.presence();
        for (place, service) in self.services.iter_mut().enumerate() {
            service.plan(&self.nodes);
            stats.services_renewed += usize::from(service.planning.renewed);
            stats.spots_changed += service.planning.field.changed.len();
            stats.augmentations += service.planning.effort.augmentations;
            stats.scans += service.planning.effort.scans;
            for at in service.due() {
                stats.due += 1;
                let node = service.seats[at].node;
                self.due.services.entry(node).or_default().push(place);
            }
        }
        self.nodes.iter_mut().for_each(|(_, node)| node.rtt_changed = false);
        let due = std::mem::take(&mut self.due);
        let pushes = self.push(&due, stats.services_renewed > 0);
        stats.snapshots = pushes.iter().filter(|p| matches!(p.1, Down::Snapshot(_))).count();
        stats.deltas = pushes.len() - stats.snapshots;
        Tick {
            plan: self.plan,
            pushes,
            stats,
        }
    }

    /// Time passes: who is still there, and who stands where.
    fn age(&mut self, now: Duration) {
        for id in std::mem::take(&mut self.expected) {
            let node = self.nodes.find(&id).and_then(|number| self.nodes.get_mut(number));
            if let Some(node) = node {
                node.page.on_hello(now, self.period);
            }
        }
        self.reseat_all();
        let until = *self.waiting_until.get_or_insert(now + self.period * SILENT_PERIODS);
        if now > until {
            self.waiting.clear();
        }
        let services = &mut self.services;
        self.nodes.age(now, self.period, |number| {
            for service in services.iter_mut().filter(|s| s.seat(number).is_some()) {
                service.planning.arcs_stale = true;
            }
        });
        if std::mem::take(&mut self.geography_stale) {
            self.nodes.place();
            self.services.iter_mut().for_each(|s| s.planning.arcs_stale = true);
        }
    }

    fn presence(&self) -> TickStats {
        let mut stats = TickStats::default();
        for (_, _, node) in self.nodes.iter() {
            match node.standing() {
                Standing::Live => stats.nodes_live += 1,
                Standing::Stale { .. } => stats.nodes_stale += 1,
                Standing::Silent => stats.nodes_silent += 1,
                Standing::Absent => {}
            }
        }
        stats
    }

    /// The plan in force.
    pub fn plan_id(&self) -> PlanId {
        self.plan
    }

    /// The whole of what a node is to know, as of the last tick; `None` for a node nobody knows. A new stream or a
    /// refused plan makes the next tick push a whole snapshot of itself; this is for whoever wants one at once.
    pub fn snapshot(&self, id: &NodeId) -> Option<Snapshot> {
        self.whole(self.nodes.find(id)?)
    }

    /// A proxy applied a plan.
    pub fn on_ack(&mut self, id: &NodeId, plan: PlanId) {
        let node = self.nodes.find(id).and_then(|number| self.nodes.get_mut(number));
        if let Some(node) = node {
            node.stream.acked = node.stream.acked.max(Some(plan));
        }
    }

    /// A proxy refused a plan; the next tick pushes a whole snapshot to it.
    pub fn on_nack(&mut self, id: &NodeId, _plan: PlanId) {
        let node = self.nodes.find(id).and_then(|number| self.nodes.get_mut(number));
        if let Some(node) = node {
            node.stream.nacks += 1;
            node.stream.whole = true;
        }
    }
}

/// The registry: who is there, what they serve, what may move. Every call says a whole thing again.
impl ControlLoop {
    /// What the operator says of a node. Nodes beyond [`NODES_MAX`] are not taken up.
    pub fn set_node(&mut self, id: NodeId, seat: NodeSeat) {
        let Some(number) = self.register(&id) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(number).filter(|n| n.seat != seat) {
            node.seat = seat;
            self.geography_stale = true;
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
            self.compose(place);
            self.drop_undeclared();
        }
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
    pub fn on_hello(&mut self, hello: &Hello, now: Duration) {
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
        let node = self.nodes.find(id).and_then(|number| self.nodes.get_mut(number));
        if let Some(node) = node {
            node.stream.connected = false;
        }
    }

    /// Registers what a hello says of the node and its services. Returns the node's number.
    fn take_hello(&mut self, hello: Hello) -> Option<u32> {
        let number = self.register(&hello.node)?;
        let local = hello.services.clone();
        let node = self.nodes.get_mut(number)?;
        let said = |h: &Hello| (h.location, h.site.clone(), h.region.clone(), h.mesh_address.clone());
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
        if self.nodes.len().saturating_mul(self.services.len() + 1) <= SEATS_EAGER_MAX {
            let connected = self.nodes.iter().filter(|(_, _, node)| node.stream.connected);
            for (number, _, _) in connected {
                service.sit(number);
            }
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
        for number in named.iter().filter_map(|id| self.nodes.find(id)).chain(seated) {
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
        let sound = || self.policies.iter().filter(|p| p.1.check().is_ok());
        let named = sound().find(|p| p.1.services.contains(service));
        let chosen = named.or_else(|| sound().find(|p| p.1.services.is_empty()));
        let default = || (POLICY_DEFAULT.to_owned(), WeightPolicySpec::default());
        chosen.cloned().unwrap_or_else(default)
    }
}

#[cfg(test)]
mod tests;
