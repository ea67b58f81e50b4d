//! What outlives the controller: enough that its successor goes on from the last plan without a jump.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isobar_mesh_api::message::Hello;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::snapshot::{PlanId, Row};
use isobar_mesh_api::weight::WHOLE_PPM;
use serde::{Deserialize, Serialize};

use super::ControlLoop;
use super::mesh::{Node, Nodes};
use super::push::row;
use super::service::{Seat, Service};
use crate::capacity::Capacity;
use crate::demand::Demand;
use crate::planner::damp::Weights;

/// The last plan with what it was made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredPlan {
    /// Which plan it is.
    pub plan: PlanId,
    /// Nodes that were there.
    pub nodes: Vec<StoredNode>,
    /// Every service on every node.
    pub services: Vec<StoredService>,
}

/// A node that was there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredNode {
    /// What it said of itself.
    pub hello: Hello,
    /// Round trips it measured, in microseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rtts_us: Vec<(NodeId, u64)>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredService {
    /// Its name.
    pub service: ServiceName,
    /// It on each node.
    pub seats: Vec<StoredSeat>,
}

/// One service on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSeat {
    /// The node.
    pub node: NodeId,
    /// What entered there.
    pub demand: Demand,
    /// What it could serve.
    pub capacity: Capacity,
    /// The row in force.
    pub row: Row,
}

/// Seats that wait for their node and service to be registered.
pub(super) type Waiting = BTreeMap<(ServiceName, NodeId), StoredSeat>;

/// Periods after a restart within which nodes that are still away are excused while others come back.
const RETURN_PERIODS: u32 = 30;

/// Restored nodes that are still away.
///
/// Ten thousand proxies take longer to come back to one core than any one of them may be silent. So nobody's silence counts
/// while they are coming: what the last plan put on a node stays there, and nothing more is.
#[derive(Debug, Default)]
pub(super) struct Expected {
    nodes: BTreeSet<NodeId>,
    /// Whether one of them has come back since the last tick.
    returning: bool,
    /// When nobody is excused any more; set by the first tick.
    until: Option<Duration>,
}

impl Expected {
    fn add(&mut self, node: NodeId) {
        self.nodes.insert(node);
    }

    /// A node is here.
    pub fn on_back(&mut self, node: &NodeId) {
        self.returning |= self.nodes.remove(node);
    }

    /// Nodes whose silence counts from now on: all at the first tick, later those still away as long as others come.
    pub fn excused(&mut self, now: Duration, period: Duration) -> Vec<NodeId> {
        let first = self.until.is_none();
        let until = *self.until.get_or_insert(now + period * RETURN_PERIODS);
        if now > until {
            self.nodes.clear();
        }
        match first || std::mem::take(&mut self.returning) {
            true => self.nodes.iter().cloned().collect(),
            false => Vec::new(),
        }
    }
}

impl ControlLoop {
    /// The last plan with what it was made from.
    pub fn export_plan(&self) -> StoredPlan {
        self.export(|_| true)
    }

    /// The same without seats that nothing would be lost with: where a service has never had an endpoint or a request, a
    /// successor plans the same again. With many services these are nearly all.
    pub fn plan_to_keep(&self) -> StoredPlan {
        self.export(has_past)
    }

    fn export(&self, is_wanted: impl Fn(&Seat) -> bool) -> StoredPlan {
        let nodes = self.nodes.by_name().filter_map(|(number, _)| {
            let node = self.nodes.get(number)?;
            node.standing()
                .is_present()
                .then(|| stored_node(node, &self.nodes))?
        });
        let services = self.services.iter().map(|service| {
            let seats = service
                .seats
                .iter()
                .filter(|seat| is_wanted(seat))
                .filter_map(|seat| stored_seat(seat, &self.nodes));
            let mut seats: Vec<StoredSeat> = seats.collect();
            seats.sort_by(|a, b| a.node.cmp(&b.node));
            StoredService {
                service: service.name.clone(),
                seats,
            }
        });
        StoredPlan {
            plan: self.plan,
            nodes: nodes.collect(),
            services: services.collect(),
        }
    }

    /// Goes on from a predecessor's plan: its nodes are expected back within the periods that any node may be silent, or
    /// as long as others are coming back, and until they report their rows stay as they were. Nodes, services and policies may be registered before or
    /// after. Figures that no observation could have given are dropped.
    pub fn restore_plan(&mut self, stored: StoredPlan) {
        if self.plan.epoch <= stored.plan.epoch {
            self.plan.epoch = stored.plan.epoch + 1;
        }
        for service in stored.services {
            for seat in service.seats {
                let key = (service.service.clone(), seat.node.clone());
                self.waiting.insert(key, seat);
            }
        }
        let measured: Vec<(NodeId, Vec<(NodeId, u64)>)> = stored
            .nodes
            .into_iter()
            .map(|node| {
                let id = node.hello.node.clone();
                self.take_hello(node.hello);
                self.expected.add(id.clone());
                (id, node.rtts_us)
            })
            .collect();
        for (id, rtts_us) in measured {
            let numbers: Vec<(u32, u64)> = rtts_us
                .into_iter()
                .filter_map(|(to, rtt_us)| Some((self.nodes.find(&to)?, rtt_us)))
                .collect();
            let node = self
                .nodes
                .find(&id)
                .and_then(|number| self.nodes.get_mut(number));
            if let Some(node) = node {
                for (to, rtt_us) in numbers {
                    node.rtt_changed |= node.page.on_rtt(to, rtt_us);
                }
            }
        }
        self.waiting_until = None;
        self.expected.until = None;
        self.reseat_all();
    }

    /// Gives waiting figures to every seat that is there.
    pub(super) fn reseat_all(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        for service in &mut self.services {
            let (name, nodes) = (service.name.clone(), &self.nodes);
            for seat in &mut service.seats {
                let id = nodes.id(seat.node);
                let stored = id.and_then(|id| self.waiting.remove(&(name.clone(), id.clone())));
                if let Some(stored) = stored {
                    reseat(seat, stored, nodes);
                }
            }
        }
    }
}

fn reseat(seat: &mut Seat, stored: StoredSeat, nodes: &Nodes) {
    if stored.demand.is_sound() {
        seat.demand = stored.demand;
    }
    if stored.capacity.is_sound() {
        seat.capacity = stored.capacity;
    }
    let mut weights = Weights {
        home_ppm: stored.row.home_ppm,
        cloud_ppm: stored.row.cloud_ppm,
        shed_ppm: stored.row.shed_ppm.min(WHOLE_PPM),
        moves: Vec::new(),
    };
    if stored.row.sum_ppm() != u64::from(WHOLE_PPM) {
        return;
    }
    for step in &stored.row.moves {
        match nodes.find(&step.to) {
            Some(to) if to != seat.node && step.weight_ppm > 0 => {
                weights.moves.push((to, step.weight_ppm))
            }
            _ => weights.home_ppm += step.weight_ppm,
        }
    }
    weights.moves.sort_unstable();
    if weights.moves.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        seat.weights = weights;
    }
}

fn stored_node(node: &Node, nodes: &Nodes) -> Option<StoredNode> {
    let rtts_us = node.page.rtts_us();
    Some(StoredNode {
        hello: node.hello.clone()?,
        rtts_us: rtts_us
            .filter_map(|(to, rtt_us)| Some((nodes.id(to)?.clone(), rtt_us)))
            .collect(),
    })
}

fn has_past(seat: &Seat) -> bool {
    let served = seat.capacity.served_rps() > 0.0;
    !seat.endpoints.is_empty() || served || seat.demand != Demand::default()
}

fn stored_seat(seat: &Seat, nodes: &Nodes) -> Option<StoredSeat> {
    let name = |node: u32| nodes.id(node).cloned();
    Some(StoredSeat {
        node: name(seat.node)?,
        demand: seat.demand,
        capacity: seat.capacity,
        row: row(&seat.weights, &name),
    })
}

/// Unused figures of a service that is gone.
pub(super) fn forget(waiting: &mut Waiting, service: &Service) {
    waiting.retain(|(name, _), _| *name != service.name);
}
