//! What proxies are told: whole snapshots and deltas, cut to lines that the stream carries.
//!
//! A delta starts from what the node was last sent; the stream keeps order, so that is what the node has unless it says
//! otherwise, and then the next push is a whole snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isobar_mesh_api::message::{Down, LINE_LEN_MAX};
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::route::{Route, RouteKey};
use isobar_mesh_api::snapshot::{
    Credit, Delta, Move, Neighbour, PlanId, QueueLimits, Row, SNAPSHOT_NEIGHBOURS_MAX, ServicePlan,
    Snapshot,
};

use super::ControlLoop;
use super::mesh::Nodes;
use super::routes::Measured;
use super::service::Service;
use crate::planner::damp::Weights;

/// What the services of one message may take of a line, in bytes; the neighbours take the rest.
const SERVICES_LEN_MAX: usize = LINE_LEN_MAX / 2;
/// Bytes of a service's or list entry's keys, quotes and numbers, at most.
const ENTRY_LEN: usize = 96;

/// What is to be told to whom, collected over a tick.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Node → places of services that changed.
    pub services: BTreeMap<u32, Vec<usize>>,
    /// Node → services that are gone.
    pub removed: BTreeMap<u32, Vec<ServiceName>>,
}

impl ControlLoop {
    /// Messages for every connected node that something is due to, under a new generation.
    pub(super) fn push(&mut self, due: &Due, relist: bool) -> Vec<(NodeId, Down)> {
        let numbers: Vec<u32> = self.nodes.iter().map(|(number, _, _)| number).collect();
        let from = self.plan;
        let mut last = from;
        let mut pushes = Vec::new();
        for number in numbers {
            let Some(node) = self.nodes.get(number).filter(|n| n.stream.connected) else {
                continue;
            };
            let whole = node.stream.whole;
            let services = due.services.get(&number);
            let removed = due.removed.get(&number);
            let neighbours = (whole || relist).then(|| self.neighbours(number));
            let moved =
                neighbours.filter(|list| whole || !same_ways(list, &node.stream.neighbours));
            let quiet = moved.is_none() && services.is_none() && removed.is_none();
            if !whole && quiet && !self.routes.has_changes() {
                continue;
            }
            let all: Vec<usize> = (0..self.services.len()).collect();
            // With other neighbours every service is told anew: none may name a node that the list no longer has.
            let told = match services {
                _ if whole || moved.is_some() => &all,
                Some(services) => services.as_slice(),
                None => &[],
            };
            let reachable = moved.as_ref().unwrap_or(&node.stream.neighbours);
            let plans = self.service_plans(number, told, reachable);
            let mut message = Message {
                plan: PlanId {
                    generation: from.generation + 1,
                    ..from
                },
                sent: (!whole).then_some(node.stream.sent),
                neighbours: moved.clone(),
                removed: removed.cloned().unwrap_or_default(),
                routes_removed: Vec::new(),
            };
            self.mark_pushed(number, told, moved);
            let Some(id) = self.nodes.id(number).cloned() else {
                continue;
            };
            let parts = cut(plans);
            if parts.len() > 1 && message.neighbours.is_some() {
                // Between two deltas old services would name nodes that the new list no longer has.
                message.sent = None;
            }
            let routes = match message.sent {
                None => self.routes.whole(),
                Some(_) => self.routes.changes(),
            };
            message.routes_removed = routes.removed;
            for part in with_routes(parts, routes.routes) {
                last = last.max(message.plan);
                pushes.push((id.clone(), message.next(&id, self.period_ms(), part)));
            }
            if let Some(node) = self.nodes.get_mut(number) {
                node.stream.whole = false;
                node.stream.sent = message.sent.unwrap_or(last);
            }
        }
        self.plan = last;
        self.routes.told();
        pushes
    }

    /// The whole of what a node is to know now, as of the last tick. What exceeds one line is left to the next ticks.
    pub(super) fn whole(&self, number: u32) -> Option<Snapshot> {
        let node = self.nodes.id(number)?.clone();
        let neighbours = self.neighbours(number);
        let all: Vec<usize> = (0..self.services.len()).collect();
        let plans = self.service_plans(number, &all, &neighbours);
        let parts = with_routes(cut(plans), self.routes.whole().routes);
        let first = parts.into_iter().next().unwrap_or_default();
        Some(Snapshot {
            plan: self.plan,
            node,
            period_ms: self.period_ms(),
            neighbours,
            services: first.services,
            routes: first.routes,
        })
    }

    fn period_ms(&self) -> u64 {
        self.period.as_millis() as u64
    }

    /// Everybody a node may move load to, over all services, by name. At most [`SNAPSHOT_NEIGHBOURS_MAX`]: services
    /// that come first are served first.
    fn neighbours(&self, number: u32) -> Vec<Neighbour> {
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        for service in &self.services {
            for (to, rtt_us) in service.ways(number) {
                if found.len() < SNAPSHOT_NEIGHBOURS_MAX {
                    found.entry(to).or_insert(rtt_us);
                }
            }
        }
        let mut list: Vec<Neighbour> = found
            .into_iter()
            .filter_map(|(to, rtt_us)| {
                Some(Neighbour {
                    node: self.nodes.id(to)?.clone(),
                    mesh_address: self.nodes.get(to)?.mesh_address().to_owned(),
                    rtt_us,
                })
            })
            .collect();
        list.sort_by(|a, b| a.node.cmp(&b.node));
        list
    }

    fn service_plans(
        &self,
        number: u32,
        places: &[usize],
        reachable: &[Neighbour],
    ) -> Vec<ServicePlan> {
        let known: BTreeSet<&NodeId> = reachable.iter().map(|n| &n.node).collect();
        let plan = |&place: &usize| {
            self.services
                .get(place)?
                .plan_for(number, &self.nodes, &known)
        };
        places.iter().filter_map(plan).collect()
    }

    fn mark_pushed(&mut self, number: u32, places: &[usize], neighbours: Option<Vec<Neighbour>>) {
        for &place in places {
            let seat = self
                .services
                .get_mut(place)
                .and_then(|s| s.seat_mut(number));
            if let Some(seat) = seat {
                seat.pushed.clone_from(&seat.weights);
                seat.pushed_credits.clone_from(&seat.credits);
                seat.told_rates();
                seat.changed = false;
            }
        }
        if let (Some(node), Some(neighbours)) = (self.nodes.get_mut(number), neighbours) {
            node.stream.neighbours = neighbours;
        }
    }
}

impl Service {
    /// Where a node may send this service's load, and the round trips in microseconds, nearest first.
    pub(super) fn ways(&self, number: u32) -> Vec<(u32, u64)> {
        let Some(at) = self
            .seat_at(number)
            .filter(|&at| at < self.planning.field.spots.len())
        else {
            return Vec::new();
        };
        let cost_of_move_ns = self.policy.move_cost_us as i64 * 1000;
        let field = &self.planning.field;
        let extra_ns = |arc: usize| self.planning.extra_ns.get(arc).copied().unwrap_or(0);
        let mut ways: Vec<(u32, u64)> = field
            .row(at as u32)
            .map(|place| {
                let arc = field.arcs()[place];
                let rtt_us = (arc.cost_ns - cost_of_move_ns - extra_ns(place)).max(0) / 1000;
                (self.seats[arc.to as usize].node, rtt_us as u64)
            })
            .collect();
        ways.sort_by_key(|&(_, rtt_us)| rtt_us);
        ways
    }

    /// What one node is told of this service; `None` when it has nothing to do with it.
    fn plan_for(
        &self,
        number: u32,
        nodes: &Nodes,
        known: &BTreeSet<&NodeId>,
    ) -> Option<ServicePlan> {
        let seat = self.seat(number)?;
        let name = |node: u32| nodes.id(node).filter(|id| known.contains(id)).cloned();
        let credit = |&(home, credit_rps): &(u32, f64)| {
            Some(Credit {
                home: nodes.id(home)?.clone(),
                credit_rps: (credit_rps * 10.0).ceil() / 10.0,
            })
        };
        let ways = if self.policy.spill && !self.policy.observe_only {
            self.ways(number)
        } else {
            Vec::new()
        };
        Some(ServicePlan {
            service: self.name.clone(),
            hosts: self.hosts.clone(),
            endpoints: seat.endpoints.clone(),
            row: row(&seat.weights, &name),
            credits: seat.credits.iter().filter_map(credit).collect(),
            spill: ways.iter().filter_map(|&(to, _)| name(to)).collect(),
            cloud_address: self.policy.cloud_address.clone(),
            queue: QueueLimits::default(),
            traffic: self.traffic.clone(),
            protocol: self.protocol,
            rate_shares: seat.rate_shares(),
            access: self.access.clone(),
        })
    }
}

/// A row by names; the weight of a node without a name here stays home.
pub(super) fn row(weights: &Weights, name: &dyn Fn(u32) -> Option<NodeId>) -> Row {
    let mut row = Row {
        home_ppm: weights.home_ppm,
        cloud_ppm: weights.cloud_ppm,
        moves: Vec::with_capacity(weights.moves.len()),
        shed_ppm: weights.shed_ppm,
    };
    for &(node, weight_ppm) in &weights.moves {
        match name(node) {
            Some(to) => row.moves.push(Move { to, weight_ppm }),
            None => row.home_ppm += weight_ppm,
        }
    }
    row
}

/// The next messages to one node: first a snapshot or delta, then deltas upon it.
struct Message {
    plan: PlanId,
    /// What the node has; `None` when it needs everything.
    sent: Option<PlanId>,
    neighbours: Option<Vec<Neighbour>>,
    removed: Vec<ServiceName>,
    routes_removed: Vec<RouteKey>,
}

/// What one message has room for.
#[derive(Debug, Default)]
struct Part {
    services: Vec<ServicePlan>,
    routes: Vec<Arc<Route>>,
}

impl Message {
    fn next(&mut self, node: &NodeId, period_ms: u64, part: Part) -> Down {
        let Part { services, routes } = part;
        let plan = self.plan;
        let base = self.sent.replace(plan);
        self.plan.generation += 1;
        match base {
            None => Down::Snapshot(Snapshot {
                plan,
                node: node.clone(),
                period_ms,
                neighbours: self.neighbours.take().unwrap_or_default(),
                services,
                routes,
            }),
            Some(base) => Down::Delta(Delta {
                plan,
                base,
                neighbours: self.neighbours.take(),
                services,
                removed: std::mem::take(&mut self.removed),
                routes,
                routes_removed: std::mem::take(&mut self.routes_removed),
            }),
        }
    }
}

/// Whether two lists name the same nodes at the same addresses; round trips may differ, proxies measure them.
fn same_ways(a: &[Neighbour], b: &[Neighbour]) -> bool {
    let same =
        |(a, b): (&Neighbour, &Neighbour)| a.node == b.node && a.mesh_address == b.mesh_address;
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// Cuts services into messages that fit a line; one that fits no line at all is left out. There is always one message.
fn cut(plans: Vec<ServicePlan>) -> Vec<Vec<ServicePlan>> {
    let mut parts = vec![Vec::new()];
    let mut room = SERVICES_LEN_MAX;
    for plan in plans {
        let len = line_len(&plan);
        if len > SERVICES_LEN_MAX {
            continue;
        }
        if len > room {
            parts.push(Vec::new());
            room = SERVICES_LEN_MAX;
        }
        room -= len;
        if let Some(part) = parts.last_mut() {
            part.push(plan);
        }
    }
    parts
}

/// Adds routes to messages of services: to the last while it has room, then in messages of their own.
fn with_routes(services: Vec<Vec<ServicePlan>>, routes: Vec<Measured>) -> Vec<Part> {
    let mut parts: Vec<Part> = services
        .into_iter()
        .map(|services| Part {
            services,
            routes: Vec::new(),
        })
        .collect();
    let last = parts.last().map_or(&[][..], |part| &part.services);
    let used: usize = last.iter().map(line_len).sum();
    let mut room = SERVICES_LEN_MAX.saturating_sub(used);
    for Measured { route, len } in routes {
        if len > room {
            parts.push(Part::default());
            room = SERVICES_LEN_MAX;
        }
        room = room.saturating_sub(len);
        if let Some(part) = parts.last_mut() {
            part.routes.push(route);
        }
    }
    parts
}

/// Bytes that a service takes of a line, at most. Addresses and hosts are counted as if every byte were escaped.
fn line_len(plan: &ServicePlan) -> usize {
    let free = |text: &str| 6 * text.len() + ENTRY_LEN;
    let named = |id: &NodeId| id.as_str().len() + ENTRY_LEN;
    let hosts: usize = plan.hosts.iter().map(|h| free(h)).sum();
    let endpoints: usize = plan.endpoints.iter().map(|e| free(&e.address)).sum();
    let moves: usize = plan.row.moves.iter().map(|m| named(&m.to)).sum();
    let credits: usize = plan.credits.iter().map(|c| named(&c.home)).sum();
    let spill: usize = plan.spill.iter().map(named).sum();
    let rates: usize = plan.rate_shares.iter().map(|r| free(&r.limit)).sum();
    let cloud = plan.cloud_address.as_deref().map_or(0, free);
    // Names and texts of a policy are escaped already.
    let traffic = plan.traffic.as_ref().map(serde_json::to_vec);
    let traffic = traffic.map_or(0, |json| json.map_or(SERVICES_LEN_MAX, |json| json.len()));
    let access = plan.access.iter().map(|p| serde_json::to_vec(&**p));
    let access: usize = access
        .map(|json| json.map_or(SERVICES_LEN_MAX, |json| json.len() + 1))
        .sum();
    4 * ENTRY_LEN
        + traffic
        + access
        + plan.service.as_str().len()
        + hosts
        + endpoints
        + moves
        + credits
        + spill
        + rates
        + cloud
}
