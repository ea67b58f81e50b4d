//! One service's plan, from what is known of its seats to rows and credits.
//!
//! ```text
//! seats ──renew──▶ arcs          (only when someone came, went or moved)
//!       ──refresh▶ field ──planner──▶ flows ──settle──▶ weights ──grant──▶ credits
//! ```
//!
//! **Invariant**: what a silent or late node was last told stays as it is: its row is not planned but counted as load
//! that cannot move. Only when a neighbour that it moves load to leaves, it is planned once more for the demand last
//! known: nobody else can take over what the leaver took.

use std::collections::BTreeMap;

use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::resource::{Algorithm, WeightPolicySpec};
use isobar_mesh_api::weight::WHOLE_PPM;

use super::mesh::{Node, Nodes};
use super::reach::{Pin, kept_mrps};
use super::service::{Seat, Service};
use crate::load_book::{RTT_US_MAX, Standing};
use crate::neighbourhood::{self, Limits, Near, neighbourhoods};
use crate::planner::credit::{self, credit_rps};
use crate::planner::damp::Weights;
use crate::planner::flow::RATE_MRPS_MAX;
use crate::planner::{self, Arc, Effort, Field, Flows, Planner, Spot};

/// Demand that a home without endpoints is planned for before it has any, so that its first request finds a way.
const FIRST_REQUEST_MRPS: i64 = 1_000;

/// The machinery of one service's plan. Lists run by seat unless they say otherwise.
pub(super) struct Planning {
    /// Neighbourhoods, policy or limits changed: the field must be renewed.
    pub arcs_stale: bool,
    /// The field was renewed in the last plan.
    pub renewed: bool,
    /// The policy is new: its first plan is followed at once.
    pub obey: bool,
    pub field: Field,
    pub flows: Flows,
    pub effort: Effort,
    planner: Box<dyn Planner>,
    /// Demand, whether it is planned or frozen, milli-requests/s.
    pub demand_mrps: Vec<i64>,
    /// Load by the weights in force, milli-requests/s.
    pub load_mrps: Vec<i64>,
    /// Of this, what comes from others.
    pub moved_in_mrps: Vec<i64>,
    /// Homes that list a seat as neighbour, nearest first.
    inbound: Vec<Vec<u32>>,
    /// What always moves.
    pub pins: Vec<Vec<Pin>>,
    /// What the policy adds to the cost of each arc, nanoseconds; by arc.
    pub extra_ns: Vec<i64>,
}

impl Planning {
    pub fn new(algorithm: Algorithm) -> Planning {
        Planning {
            arcs_stale: true,
            renewed: false,
            obey: true,
            field: Field::default(),
            flows: Flows::default(),
            effort: Effort::default(),
            planner: planner::planner(algorithm),
            demand_mrps: Vec::new(),
            load_mrps: Vec::new(),
            moved_in_mrps: Vec::new(),
            inbound: Vec::new(),
            pins: Vec::new(),
            extra_ns: Vec::new(),
        }
    }
}

impl Service {
    /// One tick: brings rows and credits up to date with everything that is known.
    /// The planner may spend about `scans_max` on it.
    pub fn plan(&mut self, nodes: &Nodes, scans_max: u64) {
        self.take_stock(nodes);
        if self.planning.arcs_stale {
            self.renew(nodes);
        }
        self.refresh(nodes);
        let planning = &mut self.planning;
        planning.effort = planning
            .planner
            .plan(&planning.field, &mut planning.flows, scans_max);
        planning.renewed = std::mem::take(&mut planning.field.renewed);
        self.settle(nodes);
        self.grant(nodes);
    }

    /// Brings demand and capacity of every seat up to date.
    fn take_stock(&mut self, nodes: &Nodes) {
        self.planning.demand_mrps.resize(self.seats.len(), 0);
        let priority = self.priority();
        for (seat, demand_mrps) in self.seats.iter_mut().zip(&mut self.planning.demand_mrps) {
            let node = nodes.get(seat.node);
            let factor = node.map_or(1.0, |n| n.page.cpu.factor_of(priority));
            seat.capacity.hold(seat.configured(), factor);
            *demand_mrps = demand_of_mrps(seat, node);
        }
    }

    /// Finds neighbourhoods anew and makes an empty field of them.
    fn renew(&mut self, nodes: &Nodes) {
        let serves = |seat: &Seat| {
            let node = nodes.get(seat.node);
            !seat.endpoints.is_empty() && node.is_some_and(Node::takes_load)
        };
        let spot = |seat: &Seat| neighbourhood::Spot {
            position: nodes.position(seat.node),
            serves: serves(seat),
        };
        let spots: Vec<neighbourhood::Spot> = self.seats.iter().map(spot).collect();
        let measured = |home: u32, to: u32| {
            let node = nodes.get(self.seats[home as usize].node)?;
            node.page.rtt_us(self.seats[to as usize].node)
        };
        let reaches = self.reaches(nodes);
        let may_move = |home: u32, to: u32| self.may_move(nodes, &reaches, home, to);
        let near = neighbourhoods(&spots, limits(&self.policy), &measured, &may_move);
        let named = match self.policy.algorithm {
            Algorithm::Static => &self.policy.static_weights,
            _ => &self.policy.pinned_weights,
        };
        let mut rows = self.rows_with(nodes, &near, &spots, named);
        let mut extra_ns = Vec::new();
        for (home, row) in (0..).zip(&mut rows) {
            for arc in row {
                let extra = self.extra_ns(nodes, home, arc.to);
                arc.cost_ns += extra;
                extra_ns.push(extra);
            }
        }
        let pins = match self.policy.algorithm {
            Algorithm::Static | Algorithm::Off => vec![Vec::new(); self.seats.len()],
            _ => self.pins(nodes, &|at| spots[at].serves),
        };
        let target_ppm = to_ppm(self.policy.target_utilisation);
        let ceiling_ppm = to_ppm(self.policy.ceiling_utilisation).max(target_ppm);
        let cloud = self.policy.cloud_address.as_ref();
        let cloud_ns = cloud.map(|_| cost_ns(self.policy.cloud_rtt_us, &self.policy));
        let planning = &mut self.planning;
        planning.field = Field::new(&rows, target_ppm, ceiling_ppm, cloud_ns);
        planning.field.own_stays = !self.policy.displacement;
        planning.flows = Flows::none(&planning.field);
        planning.arcs_stale = false;
        planning.pins = pins;
        planning.extra_ns = extra_ns;
        planning.inbound = inbound(&planning.field);
        self.list_ways();
        self.release_frozen(nodes);
        let (load_mrps, moved_in_mrps) = self.loads_mrps(|seat| &seat.weights);
        self.planning.load_mrps = load_mrps;
        self.planning.moved_in_mrps = moved_in_mrps;
    }

    /// Notes whose neighbours are others than before: their proxies must be told.
    fn list_ways(&mut self) {
        for home in 0..self.seats.len() {
            let row = &self.planning.field.arcs()[self.planning.field.row(home as u32)];
            let mut ways: Vec<u32> = row.iter().map(|a| self.seats[a.to as usize].node).collect();
            ways.sort_unstable();
            let seat = &mut self.seats[home];
            seat.changed |= seat.ways != ways;
            seat.ways = ways;
        }
    }

    /// Rows that are frozen keep only neighbours and a cloud that are still there; what went to others comes home.
    fn release_frozen(&mut self, nodes: &Nodes) {
        for home in 0..self.seats.len() {
            let seat = &mut self.seats[home];
            if self.policy.cloud_address.is_none() {
                seat.weights.home_ppm += std::mem::take(&mut seat.weights.cloud_ppm);
            }
            let seat = &self.seats[home];
            if seat.weights.moves.is_empty() || !is_frozen(nodes, seat) {
                continue;
            }
            let row = &self.planning.field.arcs()[self.planning.field.row(home as u32)];
            let listed = |node: u32| row.iter().any(|a| self.seats[a.to as usize].node == node);
            let gone: Vec<u32> = seat
                .weights
                .moves
                .iter()
                .map(|m| m.0)
                .filter(|&n| !listed(n))
                .collect();
            self.seats[home].broken = !gone.is_empty();
            gone.iter()
                .for_each(|&node| self.seats[home].weights.forget(node));
        }
    }

    fn arc(&self, near: Near) -> Arc {
        Arc {
            to: near.spot,
            cost_ns: cost_ns(near.rtt_us, &self.policy),
            static_ppm: 0,
        }
    }

    /// Neighbourhoods with the policy's own weights: nodes it names are neighbours however far they are.
    fn rows_with(
        &self,
        nodes: &Nodes,
        near: &[Vec<Near>],
        spots: &[neighbourhood::Spot],
        named: &BTreeMap<NodeId, BTreeMap<NodeId, u32>>,
    ) -> Vec<Vec<Arc>> {
        let mut rows: Vec<Vec<Arc>> = near
            .iter()
            .map(|row| row.iter().map(|n| self.arc(*n)).collect())
            .collect();
        for (home, weights) in named {
            let Some(from) = nodes.find(home).and_then(|node| self.seat_at(node)) else {
                continue;
            };
            for (target, &static_ppm) in weights {
                let to = nodes.find(target).and_then(|node| self.seat_at(node));
                let Some(to) = to.filter(|&to| to != from && spots[to].serves) else {
                    continue;
                };
                let measured_us = nodes
                    .get(self.seats[from].node)
                    .and_then(|n| n.page.rtt_us(self.seats[to].node));
                let spot = to as u32;
                match rows[from].iter_mut().find(|arc| arc.to == spot) {
                    Some(arc) => arc.static_ppm = static_ppm,
                    None => {
                        let rtt_us = measured_us.unwrap_or(RTT_US_MAX);
                        let arc = self.arc(Near { spot, rtt_us });
                        rows[from].push(Arc { static_ppm, ..arc });
                    }
                }
            }
        }
        rows
    }

    /// Brings the field's numbers up to date, and notes which changed.
    fn refresh(&mut self, nodes: &Nodes) {
        let mut changed = std::mem::take(&mut self.planning.field.changed);
        changed.clear();
        let frozen_in_mrps = self.frozen_in_mrps(nodes);
        let pinned_in_mrps = self.pinned_in_mrps(nodes);
        let fixed_in_mrps = frozen_in_mrps.into_iter().zip(pinned_in_mrps);
        for (at, (frozen_in_mrps, pinned_in_mrps)) in fixed_in_mrps.enumerate() {
            let spot = self.spot(nodes, at, frozen_in_mrps + pinned_in_mrps);
            let costs_changed = self.measure(nodes, at);
            if costs_changed || self.planning.field.spots[at] != spot {
                self.planning.field.spots[at] = spot;
                changed.push(at as u32);
            }
        }
        self.planning.field.changed = changed;
    }

    /// Load that frozen rows put on others.
    fn frozen_in_mrps(&self, nodes: &Nodes) -> Vec<i64> {
        let mut frozen_in_mrps = vec![0; self.seats.len()];
        for (seat, &demand_mrps) in self.seats.iter().zip(&self.planning.demand_mrps) {
            if seat.weights.moves.is_empty() || !is_frozen(nodes, seat) {
                continue;
            }
            for &(node, weight_ppm) in &seat.weights.moves {
                if let Some(to) = self.seat_at(node) {
                    frozen_in_mrps[to] += part_mrps(demand_mrps, &seat.weights, weight_ppm);
                }
            }
        }
        frozen_in_mrps
    }

    /// What the planner sees of one seat.
    fn spot(&self, nodes: &Nodes, at: usize, frozen_in_mrps: i64) -> Spot {
        let seat = &self.seats[at];
        let demand_mrps = self.planning.demand_mrps[at];
        let capacity_mrps = to_mrps(seat.capacity.held_rps());
        match seat.planned_as(nodes) {
            Standing::Live => {
                let pinned_mrps = self.pinned_out_mrps(at).min(demand_mrps);
                let kept_mrps = match seat.endpoints.is_empty() {
                    true => 0,
                    false => kept_mrps(&self.policy, demand_mrps).min(demand_mrps - pinned_mrps),
                };
                Spot {
                    demand_mrps: demand_mrps - pinned_mrps - kept_mrps,
                    capacity_mrps,
                    service_ns: seat.capacity.service().as_nanos() as i64,
                    fixed_mrps: kept_mrps + frozen_in_mrps,
                }
            }
            // What it serves stays; what it may take besides is free of charge, for it ends below the target.
            Standing::Stale { headroom } => {
                let own_mrps = part_mrps(demand_mrps, &seat.weights, seat.weights.home_ppm);
                let load_mrps = self.planning.load_mrps.get(at).copied().unwrap_or(0);
                let moved_in_mrps = self.planning.moved_in_mrps.get(at).copied().unwrap_or(0);
                let target_mrps = capacity_mrps as f64 * self.policy.target_utilisation;
                let left_mrps = (target_mrps - load_mrps as f64).max(0.0) * headroom;
                let allowed_mrps = (moved_in_mrps - frozen_in_mrps).max(0) + left_mrps as i64;
                let ceiling_mrps = (capacity_mrps as f64 * self.policy.ceiling_utilisation) as i64;
                Spot {
                    demand_mrps: 0,
                    capacity_mrps,
                    service_ns: 0,
                    fixed_mrps: (own_mrps + frozen_in_mrps).max(ceiling_mrps - allowed_mrps),
                }
            }
            Standing::Absent | Standing::Silent => Spot::default(),
        }
    }

    /// Takes over round trips that a home measured anew. Returns whether any cost changed.
    fn measure(&mut self, nodes: &Nodes, home: usize) -> bool {
        let Some(node) = nodes.get(self.seats[home].node).filter(|n| n.rtt_changed) else {
            return false;
        };
        let mut changed = false;
        for arc in self.planning.field.row(home as u32) {
            let extra_ns = self.planning.extra_ns.get(arc).copied().unwrap_or(0);
            let to = self.planning.field.arcs()[arc].to;
            let Some(rtt_us) = node.page.rtt_us(self.seats[to as usize].node) else {
                continue;
            };
            let cost_ns = cost_ns(rtt_us, &self.policy) + extra_ns;
            changed |= self.planning.field.arcs()[arc].cost_ns != cost_ns;
            self.planning.field.set_cost_ns(arc, cost_ns);
            // A limit may have been crossed either way; neighbourhoods are found anew in the next tick.
            self.planning.arcs_stale |=
                self.policy.rtt_max_us.is_some_and(|max_us| rtt_us > max_us);
        }
        changed
    }

    /// Credits for every home that lists a seat as neighbour.
    fn grant(&mut self, nodes: &Nodes) {
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            let node = nodes.get(seat.node);
            let offered = node.map_or(0.0, |n| n.standing().headroom());
            let target_rps = seat.capacity.held_rps() * self.policy.target_utilisation;
            let load_rps = self.planning.load_mrps[at] as f64 / 1e3;
            let headroom_rps = (target_rps - load_rps).max(0.0) * offered;
            let mut credits = std::mem::take(&mut self.seats[at].credits);
            credits.clear();
            let me = self.seats[at].node;
            for &home in &self.planning.inbound[at] {
                let flow_rps = self.flow_rps(home as usize, me);
                credits.push((
                    self.seats[home as usize].node,
                    credit_rps(flow_rps, headroom_rps),
                ));
            }
            self.seats[at].credits = credits;
        }
    }

    /// What a home sends to a node, by the row in force or the one before it, whichever is more: the two change hands
    /// at different times at the two ends.
    fn flow_rps(&self, home: usize, node: u32) -> f64 {
        let seat = &self.seats[home];
        if seat.weights.moves.is_empty() && seat.pushed.moves.is_empty() {
            return 0.0;
        }
        let demand_mrps = self.planning.demand_mrps[home];
        let by = |row: &Weights| part_mrps(demand_mrps, row, row.to_ppm(node));
        by(&seat.weights).max(by(&seat.pushed)) as f64 / 1e3
    }

    /// Seats whose proxy must be told something new.
    pub fn due(&self) -> Vec<usize> {
        let (pushed_mrps, _) = self.loads_mrps(|seat| &seat.pushed);
        let over = self.above_ceiling(&pushed_mrps);
        let is_due = |at: usize| {
            let seat = &self.seats[at];
            seat.changed || self.row_is_due(at, &over) || self.credits_are_due(at)
        };
        (0..self.seats.len()).filter(|&at| is_due(at)).collect()
    }

    fn row_is_due(&self, at: usize, over: &[bool]) -> bool {
        let seat = &self.seats[at];
        if seat.weights == seat.pushed {
            return false;
        }
        let relieves = |&(node, pushed_ppm): &(u32, u32)| {
            let there = self.seat_at(node).is_some_and(|to| over[to]);
            there && pushed_ppm > seat.weights.to_ppm(node)
        };
        let home_relieves = over[at] && seat.pushed.home_ppm > seat.weights.home_ppm;
        seat.weights.is_due(&seat.pushed) || home_relieves || seat.pushed.moves.iter().any(relieves)
    }

    fn credits_are_due(&self, at: usize) -> bool {
        let seat = &self.seats[at];
        if seat.credits.len() != seat.pushed_credits.len() {
            return true;
        }
        let capacity_rps = seat.capacity.held_rps();
        let pairs = seat.credits.iter().zip(&seat.pushed_credits);
        let differs = |(now, pushed): (&(u32, f64), &(u32, f64))| {
            let flow_rps = |home: u32| {
                let home = self.seat_at(home);
                home.map_or(0.0, |home| self.flow_rps(home, seat.node))
            };
            now.0 != pushed.0 || credit::is_due(flow_rps(now.0), now.1, pushed.1, capacity_rps)
        };
        pairs.into_iter().any(differs)
    }
}

fn limits(policy: &WeightPolicySpec) -> Limits {
    Limits {
        count: policy.neighbours as usize,
        distance_max_m: policy.distance_max_m.unwrap_or(f64::INFINITY),
        rtt_us_max: policy.rtt_max_us.unwrap_or(u64::MAX),
    }
}

/// Homes that list each node, nearest first.
fn inbound(field: &Field) -> Vec<Vec<u32>> {
    let mut near: Vec<Vec<(i64, u32)>> = vec![Vec::new(); field.spots.len()];
    for home in 0..field.spots.len() as u32 {
        for arc in &field.arcs()[field.row(home)] {
            near[arc.to as usize].push((arc.cost_ns, home));
        }
    }
    let by_cost = |mut homes: Vec<(i64, u32)>| {
        homes.sort_unstable();
        homes.truncate(isobar_mesh_api::snapshot::SNAPSHOT_NEIGHBOURS_MAX);
        homes.into_iter().map(|(_, home)| home).collect()
    };
    near.into_iter().map(by_cost).collect()
}

/// Whether a seat's row stays as it is, because nothing new is heard of its demand.
fn is_frozen(nodes: &Nodes, seat: &Seat) -> bool {
    matches!(seat.planned_as(nodes), Standing::Stale { .. })
}

/// Demand to be placed, milli-requests/s: none of a node that is not there.
fn demand_of_mrps(seat: &Seat, node: Option<&Node>) -> i64 {
    let least_mrps = if seat.endpoints.is_empty() {
        FIRST_REQUEST_MRPS
    } else {
        0
    };
    match node.map_or(Standing::Absent, Node::standing) {
        Standing::Live => to_mrps(seat.demand.held_rps()).max(least_mrps),
        Standing::Stale { .. } => to_mrps(seat.demand.held_rps()),
        Standing::Absent | Standing::Silent => 0,
    }
}

/// The part of a demand that one weight of a row carries.
pub(super) fn part_mrps(demand_mrps: i64, row: &Weights, weight_ppm: u32) -> i64 {
    // Below RATE_MRPS_MAX times a million there is no overflow.
    let placed_mrps =
        demand_mrps * i64::from(WHOLE_PPM - row.shed_ppm.min(WHOLE_PPM)) / i64::from(WHOLE_PPM);
    placed_mrps * i64::from(weight_ppm) / i64::from(WHOLE_PPM)
}

/// The part of a demand that a pinned weight carries.
pub(super) fn part_of_mrps(demand_mrps: i64, weight_ppm: u32) -> i64 {
    demand_mrps * i64::from(weight_ppm) / i64::from(WHOLE_PPM)
}

fn cost_ns(rtt_us: u64, policy: &WeightPolicySpec) -> i64 {
    let cost_us = rtt_us
        .saturating_add(policy.move_cost_us)
        .min(u64::from(u32::MAX));
    cost_us as i64 * 1000
}

/// Milli-requests/s, at most [`RATE_MRPS_MAX`].
fn to_mrps(rps: f64) -> i64 {
    ((rps * 1e3) as i64).min(RATE_MRPS_MAX)
}

fn to_ppm(share: f64) -> u32 {
    (share * f64::from(WHOLE_PPM)).round() as u32
}
