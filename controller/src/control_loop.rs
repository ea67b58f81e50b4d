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
//! - mesh and registry: nodes under dense numbers, names at the edges only; what is registered;
//! - service: who has or wants a service, and what is known of it there;
//! - planning and rows: one service's tick;
//! - processors: which services make room when a node's processors are scarce;
//! - push: snapshots and deltas;
//! - traffic: which traffic policy a service has;
//! - stored and view: what outlives the loop, and what people see of it;
//! - explain: why a row is as it is;
//! - fork and difference: what would be if something were different.
//!
//! **Invariant**: calls that say what is known already change nothing and push nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use isobar_mesh_api::message::Down;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::Report;
use isobar_mesh_api::resource::AccessPolicy;
use isobar_mesh_api::resource::WeightPolicySpec;
use isobar_mesh_api::snapshot::{PlanId, SNAPSHOT_SERVICES_MAX, Snapshot};
use serde::Serialize;
use std::sync::Arc;

mod access;
mod difference;
mod explain;
mod fork;
mod mesh;
mod planning;
mod processors;
mod push;
mod rates;
mod reach;
mod registry;
mod routes;
mod rows;
mod service;
mod stored;
mod traffic;
mod view;

use mesh::Nodes;
use push::Due;
use service::Service;
use stored::{Expected, Waiting};

use crate::load_book::{SILENT_PERIODS, Standing};

pub use crate::load_book::ReportError;
pub use difference::{
    Load, PlanDifference, SeatDifference, ServiceDifference, Totals, difference, totals,
};
pub use explain::{
    Binding, CapacityWhy, DemandWhy, Explanation, NeighbourWhy, OtherWhy, PolicyWhy,
};
pub use mesh::NodeSeat;
pub use registry::{Overruled, PolicyStatus};
pub use stored::{StoredNode, StoredPlan, StoredSeat, StoredService};
pub use view::{MeshView, NodeStatus, NodeView, Presence, SeatView, ServiceView};

/// Most nodes; what further ones say is not taken up.
pub const NODES_MAX: usize = 200_000;
/// Most services; further ones are not taken up. As many as one snapshot may name.
pub const SERVICES_MAX: usize = SNAPSHOT_SERVICES_MAX;
/// Up to this many pairs of node and service, every connected node has a place in every service's plan even before its
/// first request for it. Beyond, nodes without endpoints get theirs with their first report of traffic.
pub const SEATS_EAGER_MAX: usize = 1 << 18;
/// Effort of all planners in one tick, in [scans](TickStats::scans): about a quarter of a second. What is not placed by
/// then is placed by the next tick.
const SCANS_MAX: u64 = 1_500_000;
/// Name of the policy where none selects a service.
pub const POLICY_DEFAULT: &str = "default";

/// What a tick came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// The plan in force after it.
    pub plan: PlanId,
    /// What to send, in order; several messages may be for one node.
    pub pushes: Vec<(NodeId, Down)>,
    /// Nodes that came, `true`, or went.
    pub presence: Vec<(NodeId, bool)>,
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
    /// Demand that planners ran out of effort for; it stays at home until the next plan, milli-requests/s.
    pub unplaced_mrps: i64,
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
    traffic_policies: Vec<traffic::Policy>,
    access_policies: Vec<Arc<AccessPolicy>>,
    routes: routes::Routes,
    /// Positions, sites, addresses or cordons changed.
    geography_stale: bool,
    /// Not all services are of one priority, as of the last plan.
    ranked: bool,
    waiting: Waiting,
    /// When what still waits is given up; set by the first tick.
    waiting_until: Option<Duration>,
    /// Restored nodes that are still away.
    expected: Expected,
    due: Due,
}

impl ControlLoop {
    /// An empty mesh. `epoch` must be higher than that of every planner before; `period` is the time between two ticks.
    pub fn new(epoch: u64, period: Duration) -> ControlLoop {
        ControlLoop {
            plan: PlanId {
                epoch,
                generation: 0,
            },
            period: period.max(Duration::from_millis(1)),
            ticked_at: Duration::ZERO,
            nodes: Nodes::default(),
            services: Vec::new(),
            places: BTreeMap::new(),
            policies: Vec::new(),
            traffic_policies: Vec::new(),
            access_policies: Vec::new(),
            routes: routes::Routes::default(),
            geography_stale: false,
            ranked: false,
            waiting: Waiting::new(),
            waiting_until: None,
            expected: Expected::default(),
            due: Due::default(),
        }
    }

    /// Takes up a report: its round trips, then per service its demand and capacity. Planning is left to the next tick.
    ///
    /// # Errors
    /// An unknown node, or nonsense; it is counted and nothing else changes.
    pub fn on_report(
        &mut self,
        id: &NodeId,
        report: &Report,
        now: Duration,
    ) -> Result<(), ReportError> {
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
        let cpu_ratio = report.cpu_ratio;
        let used = processors::used(&self.services, number, self.ranked, cpu_ratio, busiest);
        let to: Vec<Option<u32>> = report
            .neighbours
            .iter()
            .map(|n| self.nodes.find(&n.node))
            .collect();
        if let Some(node) = self.nodes.get_mut(number) {
            node.page.counts.unknown_services += unknown;
            node.page.cpu_ratio = cpu_ratio;
            node.page.cpu.observe(cpu_ratio, used);
            let known = to.into_iter().zip(&report.neighbours);
            node.rtt_changed |= node
                .page
                .on_rtts(known.filter_map(|(to, n)| Some((to?, n))));
        }
        Ok(())
    }

    /// Plans every service, all together within one tick's effort: what one does not need, those after it may spend.
    fn plan_services(&mut self) {
        self.divide_processors();
        let (services, mut scans_left) = (self.services.len(), SCANS_MAX);
        for (place, service) in self.services.iter_mut().enumerate() {
            service.plan(&self.nodes, scans_left / (services - place) as u64);
            scans_left = scans_left.saturating_sub(service.planning.effort.scans);
        }
    }

    /// Computes the next plan, and says what must be told to whom. `now` is the time since an arbitrary start.
    pub fn tick(&mut self, now: Duration) -> Tick {
        self.ticked_at = now;
        let presence = self.age(now);
        let mut stats = self.presence();
        self.plan_services();
        for (place, service) in self.services.iter_mut().enumerate() {
            service.divide_rates(&self.nodes);
            stats.services_renewed += usize::from(service.planning.renewed);
            stats.spots_changed += service.planning.field.changed.len();
            stats.augmentations += service.planning.effort.augmentations;
            stats.scans += service.planning.effort.scans;
            stats.unplaced_mrps += service.planning.effort.unplaced_mrps;
            for at in service.due() {
                stats.due += 1;
                let node = service.seats[at].node;
                self.due.services.entry(node).or_default().push(place);
            }
        }
        self.nodes
            .iter_mut()
            .for_each(|(_, node)| node.rtt_changed = false);
        let due = std::mem::take(&mut self.due);
        let pushes = self.push(&due, stats.services_renewed > 0);
        stats.snapshots = pushes
            .iter()
            .filter(|p| matches!(p.1, Down::Snapshot(_)))
            .count();
        stats.deltas = pushes.len() - stats.snapshots;
        Tick {
            plan: self.plan,
            pushes,
            presence,
            stats,
        }
    }

    /// Time passes: who is still there, and who stands where. Returns who came and who went.
    fn age(&mut self, now: Duration) -> Vec<(NodeId, bool)> {
        for id in self.expected.excused(now, self.period) {
            let node = self
                .nodes
                .find(&id)
                .and_then(|number| self.nodes.get_mut(number));
            if let Some(node) = node {
                node.page.on_hello(now, self.period);
            }
        }
        self.reseat_all();
        let until = *self
            .waiting_until
            .get_or_insert(now + self.period * SILENT_PERIODS);
        if now > until {
            self.waiting.clear();
        }
        let services = &mut self.services;
        let mut moved = Vec::new();
        self.nodes.age(now, self.period, |number| {
            moved.push(number);
            for service in services.iter_mut().filter(|s| s.seat(number).is_some()) {
                service.planning.arcs_stale = true;
            }
        });
        if std::mem::take(&mut self.geography_stale) {
            self.nodes.place();
            self.services
                .iter_mut()
                .for_each(|s| s.planning.arcs_stale = true);
        }
        let presence = moved.into_iter().filter_map(|number| {
            let is_present = self.nodes.get(number)?.standing().is_present();
            Some((self.nodes.id(number)?.clone(), is_present))
        });
        presence.collect()
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
        let node = self
            .nodes
            .find(id)
            .and_then(|number| self.nodes.get_mut(number));
        if let Some(node) = node {
            node.stream.acked = node.stream.acked.max(Some(plan));
        }
    }

    /// A proxy refused a plan; the next tick pushes a whole snapshot to it.
    pub fn on_nack(&mut self, id: &NodeId, _plan: PlanId) {
        let node = self
            .nodes
            .find(id)
            .and_then(|number| self.nodes.get_mut(number));
        if let Some(node) = node {
            node.stream.nacks += 1;
            node.stream.whole = true;
        }
    }
}

#[cfg(test)]
mod tests;
