//! What one proxy gets of the plan.
//!
//! A [`Snapshot`] is whole: its own rows, who its neighbours are, what it may
//! take for whom. A [`Delta`] replaces whole services of the snapshot before
//! it. Both carry the [`PlanId`]; a proxy refuses an older one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, ServiceName};
use crate::resource::traffic_policy::RATE_LIMITS_MAX;
use crate::resource::{AccessPolicy, EndpointProtocol, TrafficPolicySpec};
use crate::route::{Route, RouteKey};
use crate::weight::WHOLE_PPM;

/// Most services a snapshot may name.
pub const SNAPSHOT_SERVICES_MAX: usize = 1024;
/// Most neighbours a snapshot may name.
pub const SNAPSHOT_NEIGHBOURS_MAX: usize = 256;
/// Most endpoints of one service on one node.
pub const SNAPSHOT_ENDPOINTS_MAX: usize = 256;
/// Most access policies of one service.
pub const SNAPSHOT_ACCESS_MAX: usize = 256;
/// Most routes a snapshot may have.
pub const SNAPSHOT_ROUTES_MAX: usize = 4096;

/// Which computation of a plan: first who computed (the epoch rises with every planner that
/// takes over), then which of its computations.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PlanId {
    /// Who computed.
    pub epoch: u64,
    /// Which computation of theirs.
    pub generation: u64,
}

impl std::fmt::Display for PlanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.generation)
    }
}

/// The whole of what a proxy must know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which plan this is of.
    pub plan: PlanId,
    /// For whom.
    pub node: NodeId,
    /// Time between two plans, and the length of a report's window, in milliseconds.
    pub period_ms: u64,
    /// Nodes that rows, credits or spill may name, and how to reach them.
    pub neighbours: Vec<Neighbour>,
    /// One entry per service.
    pub services: Vec<ServicePlan>,
    /// Where requests go; what no route is for goes to the service that its host names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Arc<Route>>,
}

/// What changed since the snapshot or delta before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Which plan this leads to.
    pub plan: PlanId,
    /// Which plan it starts from; a proxy that has another answers `nack` and gets a snapshot.
    pub base: PlanId,
    /// All neighbours anew, when any of them changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<Vec<Neighbour>>,
    /// Services that replace the entry of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServicePlan>,
    /// Services that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<ServiceName>,
    /// Routes that replace those of the same key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Arc<Route>>,
    /// Routes that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_removed: Vec<RouteKey>,
}

/// A node that requests may be moved to or come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its name; its certificate must carry it.
    pub node: NodeId,
    /// Its mesh port, `host:port`.
    pub mesh_address: String,
    /// Round trip between the two proxies, measured or estimated, in microseconds.
    pub rtt_us: u64,
}

/// One service, as one proxy sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServicePlan {
    /// Which service.
    pub service: ServiceName,
    /// Host names that mean this service (`*` for any); empty when only the mesh uses it.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Instances on this node.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Where this node's demand goes.
    pub row: Row,
    /// What this node takes for others.
    #[serde(default)]
    pub credits: Vec<Credit>,
    /// Where a full home may spill, best first.
    #[serde(default)]
    pub spill: Vec<NodeId>,
    /// Upstream of last resort, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_address: Option<String>,
    /// Limits of the queue before the endpoints, where `traffic` is absent.
    #[serde(default)]
    pub queue: QueueLimits,
    /// How its requests are treated; absent: by the defaults, or as the node's own configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Arc<TrafficPolicySpec>>,
    /// What its endpoints speak; absent: as `traffic` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<EndpointProtocol>,
    /// This node's part of rate limits that hold for the whole mesh; one that is not here is this node's alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_shares: Vec<RateShare>,
    /// Who may call it: all policies that select it, at most [`SNAPSHOT_ACCESS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<Arc<AccessPolicy>>,
}

/// A node's part of a rate limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateShare {
    /// Name of the limit in the service's traffic policy.
    pub limit: String,
    /// The part.
    pub share_ppm: u32,
}

/// How many requests may wait at a node for a service's endpoints, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QueueLimits {
    /// Longest wait, in milliseconds; a request that would wait longer is shed at once.
    pub wait_ms_max: u64,
    /// Most requests waiting per request that the endpoints work on at once.
    pub per_worker_max: u32,
}

impl Default for QueueLimits {
    /// At most 1 s, at most 50 waiting per worker.
    fn default() -> QueueLimits {
        QueueLimits {
            wait_ms_max: 1000,
            per_worker_max: 50,
        }
    }
}

/// One instance of a service on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// Requests it works on at once; more of them wait inside it.
    pub workers: u32,
}

/// Where a home's demand for a service goes. `home_ppm + cloud_ppm + moves` sum to exactly
/// [`WHOLE_PPM`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Row {
    /// Served at home.
    pub home_ppm: u32,
    /// Sent to the upstream of last resort.
    #[serde(default)]
    pub cloud_ppm: u32,
    /// Sent to other nodes.
    #[serde(default)]
    pub moves: Vec<Move>,
    /// Of the whole demand, the part that nobody has room for; the rest follows the weights.
    #[serde(default)]
    pub shed_ppm: u32,
}

/// One weight of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Move {
    /// The node that serves.
    pub to: NodeId,
    /// Its part of the home's demand.
    pub weight_ppm: u32,
}

/// Moved-in load that a node has agreed to take from one home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Credit {
    /// Whose.
    pub home: NodeId,
    /// How much, in requests/s: the plan's flow plus a share of the headroom.
    pub credit_rps: f64,
}

/// Why a snapshot or delta is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A row does not sum to one million.
    #[error("the row of {service} sums to {sum} ppm, not {WHOLE_PPM}")]
    Sum {
        /// Whose row.
        service: ServiceName,
        /// Its sum.
        sum: u64,
    },
    /// A row or spill list names a node that is not among the neighbours.
    #[error("{service} names {node}, which is not a neighbour")]
    UnknownNode {
        /// Whose row.
        service: ServiceName,
        /// The node.
        node: NodeId,
    },
    /// A list beyond its limit.
    #[error("{what}: {len} entries, at most {max} are allowed")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A number outside its range.
    #[error("{what} of {service} is out of range")]
    Range {
        /// Which field.
        what: &'static str,
        /// Whose.
        service: ServiceName,
    },
    /// A service, neighbour, home or target named twice in one list.
    #[error("{0} is named twice")]
    Twice(String),
    /// A delta for another snapshot than the proxy has.
    #[error("delta starts from plan {base}, this proxy has {have}")]
    Base {
        /// What the delta starts from.
        base: PlanId,
        /// What the proxy has.
        have: PlanId,
    },
    /// An older plan than the proxy has.
    #[error("plan {offered} is not newer than {have}")]
    Old {
        /// What came.
        offered: PlanId,
        /// What the proxy has.
        have: PlanId,
    },
    /// A snapshot for another node.
    #[error("the snapshot is for {0}")]
    WrongNode(NodeId),
}

impl Row {
    /// Everything at home: what a proxy without a plan does.
    pub fn home() -> Row {
        Row {
            home_ppm: WHOLE_PPM,
            cloud_ppm: 0,
            moves: Vec::new(),
            shed_ppm: 0,
        }
    }

    /// The sum of all weights, in parts per million.
    pub fn sum_ppm(&self) -> u64 {
        let moves: u64 = self.moves.iter().map(|m| u64::from(m.weight_ppm)).sum();
        u64::from(self.home_ppm) + u64::from(self.cloud_ppm) + moves
    }

    /// The weight of one node, 0 when the row does not name it.
    pub fn weight_ppm(&self, node: &NodeId) -> u32 {
        let found = self.moves.iter().find(|m| m.to == *node);
        found.map_or(0, |m| m.weight_ppm)
    }
}

impl Snapshot {
    /// Checks list limits, sums and references.
    ///
    /// # Errors
    /// The first thing found wrong; the proxy answers `nack` and keeps what it has.
    pub fn check(&self) -> Result<(), SnapshotError> {
        limit("services", self.services.len(), SNAPSHOT_SERVICES_MAX)?;
        limit("neighbours", self.neighbours.len(), SNAPSHOT_NEIGHBOURS_MAX)?;
        once(self.neighbours.iter().map(|n| n.node.as_str()))?;
        once(self.services.iter().map(|s| s.service.as_str()))?;
        limit("routes", self.routes.len(), SNAPSHOT_ROUTES_MAX)?;
        once(self.routes.iter().map(|r| r.key()))?;
        self.services
            .iter()
            .try_for_each(|service| service.check(&self.neighbours))
    }

    /// The snapshot that a delta leads to.
    ///
    /// # Errors
    /// Another base, an older plan, or a result that does not pass [`Snapshot::check`].
    pub fn apply(&self, delta: Delta) -> Result<Snapshot, SnapshotError> {
        if delta.base != self.plan {
            return Err(SnapshotError::Base {
                base: delta.base,
                have: self.plan,
            });
        }
        if delta.plan <= self.plan {
            return Err(SnapshotError::Old {
                offered: delta.plan,
                have: self.plan,
            });
        }
        let mut next = self.clone();
        next.plan = delta.plan;
        if let Some(neighbours) = delta.neighbours {
            next.neighbours = neighbours;
        }
        next.services
            .retain(|s| !delta.removed.contains(&s.service));
        for service in delta.services {
            match next
                .services
                .iter_mut()
                .find(|s| s.service == service.service)
            {
                Some(place) => *place = service,
                None => next.services.push(service),
            }
        }
        next.replace_routes(delta.routes, &delta.routes_removed);
        next.check()?;
        Ok(next)
    }

    fn replace_routes(&mut self, routes: Vec<Arc<Route>>, removed: &[RouteKey]) {
        self.routes.retain(|r| !removed.contains(r.key()));
        for route in routes {
            match self.routes.iter_mut().find(|r| r.key() == route.key()) {
                Some(place) => *place = route,
                None => self.routes.push(route),
            }
        }
    }
}

impl ServicePlan {
    fn check(&self, neighbours: &[Neighbour]) -> Result<(), SnapshotError> {
        let sum = self.row.sum_ppm();
        if sum != u64::from(WHOLE_PPM) {
            return Err(SnapshotError::Sum {
                service: self.service.clone(),
                sum,
            });
        }
        limit("endpoints", self.endpoints.len(), SNAPSHOT_ENDPOINTS_MAX)?;
        limit("hosts", self.hosts.len(), SNAPSHOT_ENDPOINTS_MAX)?;
        limit("moves", self.row.moves.len(), SNAPSHOT_NEIGHBOURS_MAX)?;
        limit("credits", self.credits.len(), SNAPSHOT_NEIGHBOURS_MAX)?;
        limit("spill", self.spill.len(), SNAPSHOT_NEIGHBOURS_MAX)?;
        once(self.row.moves.iter().map(|m| m.to.as_str()))?;
        once(self.credits.iter().map(|c| c.home.as_str()))?;
        once(self.spill.iter().map(NodeId::as_str))?;
        let range = |what| SnapshotError::Range {
            what,
            service: self.service.clone(),
        };
        limit("rate_shares", self.rate_shares.len(), RATE_LIMITS_MAX)?;
        if self.rate_shares.iter().any(|r| r.share_ppm > WHOLE_PPM) {
            return Err(range("share_ppm"));
        }
        if self.row.shed_ppm > WHOLE_PPM {
            return Err(range("shed_ppm"));
        }
        if let Some(Err(error)) = self.traffic.as_ref().map(|traffic| traffic.check()) {
            return Err(range(error.field));
        }
        limit("access", self.access.len(), SNAPSHOT_ACCESS_MAX)?;
        if self
            .access
            .iter()
            .any(|policy| policy.spec.check().is_err())
        {
            return Err(range("access"));
        }
        let credit_wrong = |c: &Credit| !(c.credit_rps.is_finite() && c.credit_rps >= 0.0);
        if self.credits.iter().any(credit_wrong) {
            return Err(range("credit_rps"));
        }
        let named = self.row.moves.iter().map(|m| &m.to).chain(&self.spill);
        for node in named {
            if !neighbours.iter().any(|n| n.node == *node) {
                return Err(SnapshotError::UnknownNode {
                    service: self.service.clone(),
                    node: node.clone(),
                });
            }
        }
        Ok(())
    }
}

fn limit(what: &'static str, len: usize, max: usize) -> Result<(), SnapshotError> {
    if len > max {
        return Err(SnapshotError::TooMany { what, len, max });
    }
    Ok(())
}

fn once<T: Ord + ToString>(names: impl Iterator<Item = T>) -> Result<(), SnapshotError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if seen.contains(&name) {
            return Err(SnapshotError::Twice(name.to_string()));
        }
        seen.insert(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn service(home_ppm: u32, moves: &[(&str, u32)]) -> ServicePlan {
        let to_move = |&(to, weight_ppm): &(&str, u32)| Move {
            to: node(to),
            weight_ppm,
        };
        ServicePlan {
            service: ServiceName::new("shop/cart").unwrap(),
            hosts: Vec::new(),
            endpoints: Vec::new(),
            row: Row {
                home_ppm,
                moves: moves.iter().map(to_move).collect(),
                ..Row::home()
            },
            credits: Vec::new(),
            spill: Vec::new(),
            cloud_address: None,
            queue: QueueLimits::default(),
            traffic: None,
            protocol: None,
            rate_shares: Vec::new(),
            access: Vec::new(),
        }
    }

    fn snapshot(generation: u64, service: ServicePlan) -> Snapshot {
        Snapshot {
            plan: PlanId {
                epoch: 1,
                generation,
            },
            node: node("a"),
            period_ms: 1000,
            neighbours: vec![Neighbour {
                node: node("b"),
                mesh_address: "127.0.0.1:1".into(),
                rtt_us: 900,
            }],
            services: vec![service],
            routes: Vec::new(),
        }
    }

    #[test]
    fn rows_that_do_not_sum_or_name_strangers_are_refused() {
        let check = |home, moves| snapshot(1, service(home, moves)).check();
        assert_eq!(check(WHOLE_PPM, &[]), Ok(()));
        assert_eq!(check(600_000, &[("b", 400_000)]), Ok(()));
        assert!(matches!(
            check(600_000, &[("b", 400_001)]),
            Err(SnapshotError::Sum { sum: 1_000_001, .. })
        ));
        assert!(matches!(
            check(600_000, &[("c", 400_000)]),
            Err(SnapshotError::UnknownNode { .. })
        ));
        assert!(matches!(
            check(0, &[("b", 500_000), ("b", 500_000)]),
            Err(SnapshotError::Twice(_))
        ));
    }

    #[test]
    fn a_delta_applies_to_its_base_alone() {
        let have = snapshot(4, service(WHOLE_PPM, &[]));
        let delta = |base, generation| Delta {
            plan: PlanId {
                epoch: 1,
                generation,
            },
            base: PlanId {
                epoch: 1,
                generation: base,
            },
            neighbours: None,
            services: vec![service(0, &[("b", WHOLE_PPM)])],
            removed: Vec::new(),
            routes: Vec::new(),
            routes_removed: Vec::new(),
        };
        let next = have.apply(delta(4, 5)).unwrap();
        assert_eq!(next.services[0].row.weight_ppm(&node("b")), WHOLE_PPM);
        assert_eq!(next.services.len(), 1);
        assert!(matches!(
            have.apply(delta(3, 5)),
            Err(SnapshotError::Base { .. })
        ));
        assert!(matches!(
            have.apply(delta(4, 4)),
            Err(SnapshotError::Old { .. })
        ));
    }
}
