//! One service: which nodes have or want it, what is known of it on each, and what was planned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::ServiceReport;
use isobar_mesh_api::resource::{
    AccessPolicy, CapacitySource, EndpointProtocol, EndpointSpec, ServiceSpec, TrafficPolicySpec,
    WeightPolicySpec,
};
use isobar_mesh_api::snapshot::{Endpoint, SNAPSHOT_ENDPOINTS_MAX};

use super::mesh::{Node, Nodes};
use super::planning::Planning;
use super::rates::Parts;
use crate::capacity::{Capacity, Configured};
use crate::demand::Demand;
use crate::load_book::Standing;
use crate::planner::damp::Weights;

/// Most requests that one endpoint may work on at once; more are cut to it.
const WORKERS_MAX: u32 = 100_000;
/// Highest capacity that is taken from a configuration, requests/s; more is cut to it.
const CAPACITY_RPS_MAX: f64 = 1e9;
const NO_SEAT: u32 = u32::MAX;

/// One service on one node.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat {
    /// The node's number.
    pub node: u32,
    pub endpoints: Vec<Endpoint>,
    pub configured: Option<Configured>,
    /// Requests that those of them work on at once which get requests, if the proxy says that some do not.
    pub workers_up: Option<u32>,
    /// Requests that they are given at once, if the proxy learned that.
    pub concurrency: Option<u32>,
    /// Its parts of rate limits that hold for the whole mesh.
    pub rates: Parts,
    pub demand: Demand,
    pub capacity: Capacity,
    pub seen: Seen,
    /// The row in force, on its way to `planned`.
    pub weights: Weights,
    pub planned: Weights,
    /// Whether `weights` is being brought to `planned`.
    pub following: bool,
    /// Ticks for which the two have differed.
    pub apart: u32,
    /// What the proxy was last sent.
    pub pushed: Weights,
    pub credits: Vec<(u32, f64)>,
    pub pushed_credits: Vec<(u32, f64)>,
    /// Its neighbours' numbers, ascending.
    pub ways: Vec<u32>,
    /// Endpoints, neighbours, hosts or the policy changed since the last push.
    pub changed: bool,
    /// Its row is frozen but has just lost a neighbour it moved load to: this tick it is planned all the same.
    pub broken: bool,
}

impl Seat {
    /// What the planner takes its node for.
    pub fn planned_as(&self, nodes: &Nodes) -> Standing {
        let standing = nodes
            .get(self.node)
            .map_or(Standing::Absent, Node::standing);
        match standing {
            Standing::Stale { .. } if self.broken => Standing::Live,
            standing => standing,
        }
    }

    /// What is configured for its endpoints, and how much of it is up.
    pub fn configured(&self) -> Configured {
        let all = self.configured.unwrap_or(Configured {
            workers: 0,
            up_share: 1.0,
            declared_rps: None,
            source: CapacitySource::Auto,
        });
        let share = |up: u32| (f64::from(up) / f64::from(all.workers.max(1))).min(1.0);
        Configured {
            up_share: self.workers_up.map_or(1.0, share),
            workers: self
                .concurrency
                .map_or(all.workers, |learned| learned.min(WORKERS_MAX)),
            ..all
        }
    }
}

/// What the last report said, as rates in requests/s: for the view alone.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub entered_rps: f64,
    pub completed_rps: f64,
    pub moved_out_plan_rps: f64,
    pub moved_out_spill_rps: f64,
    pub moved_in_rps: f64,
    pub refused_in_rps: f64,
    pub shed_rps: f64,
    pub failed_rps: f64,
}

impl Seen {
    fn of(report: &ServiceReport, window: Duration) -> Seen {
        let rate = |count: u64| count as f64 / window.as_secs_f64().max(1e-3);
        Seen {
            entered_rps: rate(report.entered),
            completed_rps: rate(report.completed),
            moved_out_plan_rps: rate(report.moved_out.iter().map(|m| m.plan).sum()),
            moved_out_spill_rps: rate(report.moved_out.iter().map(|m| m.spill).sum()),
            moved_in_rps: rate(report.moved_in.iter().map(|m| m.accepted).sum()),
            refused_in_rps: rate(report.moved_in.iter().map(|m| m.refused).sum()),
            shed_rps: rate(report.shed),
            failed_rps: rate(report.failed),
        }
    }
}

/// One service.
pub(super) struct Service {
    pub name: ServiceName,
    pub hosts: Vec<String>,
    spec_hosts: Vec<String>,
    /// Whether the operator declared it; else it lives as long as a node declares it.
    pub declared: bool,
    spec: BTreeMap<NodeId, Vec<EndpointSpec>>,
    local: BTreeMap<u32, LocalService>,
    /// Nodes whose endpoints get no load.
    drained: BTreeSet<u32>,
    pub policy_name: String,
    pub policy: WeightPolicySpec,
    pub labels: BTreeMap<String, String>,
    /// How its requests are treated; absent: by the proxies' defaults.
    pub traffic: Option<Arc<TrafficPolicySpec>>,
    /// What its endpoints speak, if the operator says it of the service itself.
    pub protocol: Option<EndpointProtocol>,
    /// Who may call it.
    pub access: Vec<Arc<AccessPolicy>>,
    pub seats: Vec<Seat>,
    seat_of: Vec<u32>,
    pub planning: Planning,
}

impl Service {
    pub fn new(name: ServiceName, policy_name: String, policy: WeightPolicySpec) -> Service {
        Service {
            name,
            hosts: Vec::new(),
            spec_hosts: Vec::new(),
            declared: false,
            spec: BTreeMap::new(),
            local: BTreeMap::new(),
            drained: BTreeSet::new(),
            planning: Planning::new(policy.algorithm),
            policy_name,
            policy,
            labels: BTreeMap::new(),
            traffic: None,
            protocol: None,
            access: Vec::new(),
            seats: Vec::new(),
            seat_of: Vec::new(),
        }
    }

    /// A copy that is planned anew.
    pub fn fork(&self) -> Service {
        Service {
            name: self.name.clone(),
            hosts: self.hosts.clone(),
            spec_hosts: self.spec_hosts.clone(),
            declared: self.declared,
            spec: self.spec.clone(),
            local: self.local.clone(),
            drained: self.drained.clone(),
            policy_name: self.policy_name.clone(),
            policy: self.policy.clone(),
            labels: self.labels.clone(),
            traffic: self.traffic.clone(),
            protocol: self.protocol,
            access: self.access.clone(),
            seats: self.seats.clone(),
            seat_of: self.seat_of.clone(),
            planning: Planning::new(self.policy.algorithm),
        }
    }

    /// What the operator says of it; `None` when they no longer do. Call [`Service::compose`] for all nodes after.
    pub fn set_spec(&mut self, spec: Option<ServiceSpec>) {
        self.declared = spec.is_some();
        let spec = spec.unwrap_or_default();
        self.spec_hosts = spec.hosts;
        if self.protocol != spec.protocol {
            self.protocol = spec.protocol;
            self.seats.iter_mut().for_each(|seat| seat.changed = true);
        }
        self.spec.clear();
        for endpoint in spec.endpoints {
            self.spec
                .entry(endpoint.node.clone())
                .or_default()
                .push(endpoint);
        }
        self.list_hosts();
    }

    /// What a node's own configuration says of it; `None` when it no longer does.
    pub fn set_local(&mut self, node: u32, local: Option<LocalService>) {
        let known = |l: &LocalService| l.hosts.iter().all(|host| self.hosts.contains(host));
        let nothing_new = local.as_ref().is_none_or(known);
        let before = match local {
            Some(local) => self.local.insert(node, local),
            None => self.local.remove(&node),
        };
        // Ten thousand nodes that declare the same hosts must not list them ten thousand times.
        if !(nothing_new && before.is_none_or(|l| l.hosts.is_empty())) {
            self.list_hosts();
        }
    }

    /// Whether a node's endpoints get no load. Call [`Service::compose`] for it after.
    pub fn set_drained(&mut self, node: u32, drained: bool) {
        match drained {
            true => self.drained.insert(node),
            false => self.drained.remove(&node),
        };
    }

    /// Whether a node's configuration declares it.
    pub fn is_local_to(&self, node: u32) -> bool {
        self.local.contains_key(&node)
    }

    /// Whether anybody declares it.
    pub fn is_declared(&self) -> bool {
        self.declared || !self.local.is_empty()
    }

    /// The nodes that the operator's endpoints name.
    pub fn spec_nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.spec.keys()
    }

    /// Sets the policy; everything is planned anew when it differs.
    pub fn set_policy(&mut self, name: String, policy: WeightPolicySpec) {
        self.policy_name = name;
        if self.policy == policy {
            return;
        }
        if self.policy.algorithm != policy.algorithm {
            self.planning = Planning::new(policy.algorithm);
        }
        self.policy = policy;
        self.planning.arcs_stale = true;
        self.planning.obey = true;
        for seat in &mut self.seats {
            seat.changed = true;
            if let Some(configured) = &mut seat.configured {
                configured.source = self.policy.capacity;
            }
        }
    }

    /// The seat of a node.
    pub fn seat(&self, node: u32) -> Option<&Seat> {
        self.seats.get(self.seat_at(node)?)
    }

    /// The seat of a node, to be changed.
    pub fn seat_mut(&mut self, node: u32) -> Option<&mut Seat> {
        let at = self.seat_at(node)?;
        self.seats.get_mut(at)
    }

    /// The place of a node's seat.
    pub fn seat_at(&self, node: u32) -> Option<usize> {
        let at = self.seat_of.get(node as usize).copied()?;
        (at != NO_SEAT).then_some(at as usize)
    }

    /// The seat of a node, a new one if need be.
    pub fn sit(&mut self, node: u32) -> &mut Seat {
        let at = self.seat_at(node).unwrap_or_else(|| {
            if self.seat_of.len() <= node as usize {
                self.seat_of.resize(node as usize + 1, NO_SEAT);
            }
            self.seat_of[node as usize] = self.seats.len() as u32;
            self.seats.push(Seat {
                node,
                changed: true,
                ..Seat::default()
            });
            self.planning.arcs_stale = true;
            self.seats.len() - 1
        });
        &mut self.seats[at]
    }

    /// Everything known of a node is dropped; its number may mean another node from now on.
    pub fn drop_node(&mut self, node: u32) {
        if self.local.remove(&node).is_some() {
            self.list_hosts();
        }
        self.drained.remove(&node);
        if let Some(at) = self.seat_at(node) {
            self.seats.swap_remove(at);
            self.seat_of[node as usize] = NO_SEAT;
            if let Some(moved) = self.seats.get(at) {
                self.seat_of[moved.node as usize] = at as u32;
            }
            self.planning.arcs_stale = true;
        }
        for seat in &mut self.seats {
            let named = seat.pushed.to_ppm(node) > 0 || seat.weights.to_ppm(node) > 0;
            seat.changed |= named;
            seat.weights.forget(node);
            seat.planned.forget(node);
            seat.pushed.forget(node);
            seat.pushed_credits.retain(|c| c.0 != node);
            seat.credits.retain(|c| c.0 != node);
        }
    }

    /// Puts together what operator and node say of the endpoints on one node. Gives it a seat when it has any.
    pub fn compose(&mut self, node: u32, id: &NodeId) {
        let source = self.policy.capacity;
        let mut endpoints = Vec::new();
        let mut declared = Some(0.0);
        for spec in self.spec.get(id).into_iter().flatten() {
            declared = add_rps(declared, spec.capacity_rps);
            endpoints.push(Endpoint {
                address: spec.address.clone(),
                workers: spec.workers,
            });
        }
        if let Some(local) = self.local.get(&node) {
            let from_spec = endpoints.len();
            let new = |e: &&Endpoint| {
                !endpoints[..from_spec]
                    .iter()
                    .any(|known| known.address == e.address)
            };
            let own: Vec<Endpoint> = local.endpoints.iter().filter(new).cloned().collect();
            if !own.is_empty() {
                declared = add_rps(declared, local.capacity_rps);
                endpoints.extend(own);
            } else if declared.is_none() {
                declared = add_rps(Some(0.0), local.capacity_rps);
            }
        }
        if self.drained.contains(&node) {
            endpoints.clear();
        }
        endpoints.truncate(SNAPSHOT_ENDPOINTS_MAX);
        for endpoint in &mut endpoints {
            endpoint.workers = endpoint.workers.clamp(1, WORKERS_MAX);
        }
        if endpoints.is_empty() && self.seat_at(node).is_none() {
            return;
        }
        let configured = Configured {
            workers: endpoints.iter().map(|e| e.workers).sum(),
            up_share: 1.0,
            declared_rps: declared.filter(|_| !endpoints.is_empty()),
            source,
        };
        let seat = self.sit(node);
        if seat.endpoints != endpoints || seat.configured != Some(configured) {
            let serves = seat.endpoints.is_empty() == endpoints.is_empty();
            seat.endpoints = endpoints;
            seat.configured = Some(configured);
            seat.changed = true;
            self.planning.arcs_stale |= !serves;
        }
    }

    /// Takes up what one node's report says. Returns the utilisation of its endpoints in the window.
    pub fn observe(&mut self, node: u32, report: &ServiceReport, window: Duration) -> f64 {
        let taken_in = self
            .seat_at(node)
            .and_then(|at| self.planning.moved_in_mrps.get(at));
        let takes_in = taken_in.is_some_and(|&mrps| mrps > 0);
        let seat = self.sit(node);
        seat.workers_up = report.workers_up;
        seat.concurrency = report.concurrency;
        seat.observe_rates(&report.rates, window);
        seat.seen = Seen::of(report, window);
        let moving = takes_in || !seat.weights.is_home();
        seat.demand
            .observe(report.entered, window, report.backlog, moving);
        let configured = seat.configured();
        seat.capacity.observe(report, window, configured);
        let capacity_rps = seat.capacity.figure(configured).0;
        if capacity_rps > 0.0 {
            seat.seen.completed_rps / capacity_rps
        } else {
            0.0
        }
    }

    fn list_hosts(&mut self) {
        let mut hosts = self.spec_hosts.clone();
        let mut seen: BTreeSet<String> = hosts.iter().cloned().collect();
        for host in self.local.values().flat_map(|l| &l.hosts) {
            if seen.insert(host.clone()) {
                hosts.push(host.clone());
            }
        }
        hosts.truncate(SNAPSHOT_ENDPOINTS_MAX);
        if hosts != self.hosts {
            self.hosts = hosts;
            self.seats.iter_mut().for_each(|seat| seat.changed = true);
        }
    }
}

/// The sum of declared capacities; nothing when one of them is missing or no number.
fn add_rps(sum: Option<f64>, rps: Option<f64>) -> Option<f64> {
    let rps = rps.filter(|rps| rps.is_finite() && *rps >= 0.0)?;
    Some((sum? + rps).min(CAPACITY_RPS_MAX))
}
