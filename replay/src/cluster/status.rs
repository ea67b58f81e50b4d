//! What the controller says of its nodes, by the cluster's own indices.

use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::{PlanId, Row};
use serde::Deserialize;
use serde_json::Value;

use super::error::ClusterError;
use super::spec::ClusterSpec;

/// Where the controller says it.
pub const PATH: &str = "/v1/status";

/// What the controller says.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The plan in force.
    pub plan: PlanId,
    /// By index in the spec.
    pub nodes: Vec<NodeStatus>,
}

/// What the controller says of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeStatus {
    /// It is connected, reports, and has acknowledged a plan.
    pub heard: bool,
    /// Demand as the planner sees it, requests/s.
    pub demand_rps: f64,
    /// Capacity as the planner sees it, requests/s.
    pub capacity_rps: f64,
    /// Load by the rows in force, over capacity.
    pub planned_utilisation: f64,
    /// Load that its endpoints completed, over capacity.
    pub utilisation: f64,
    /// Requests/s that its proxy moved because the weights said so.
    pub moved_plan_rps: f64,
    /// Requests/s that its proxy moved because home was full at that instant.
    pub moved_spill_rps: f64,
    /// The part of its demand that stays, in parts per million.
    pub home_ppm: u32,
    /// What goes to others: index and parts per million.
    pub moves: Vec<(usize, u32)>,
}

#[derive(Deserialize)]
struct View {
    plan: PlanId,
    nodes: Vec<NodeView>,
    services: Vec<ServiceView>,
}

#[derive(Deserialize)]
struct NodeView {
    node: NodeId,
    connected: bool,
    presence: String,
    acked: Option<PlanId>,
}

#[derive(Deserialize)]
struct ServiceView {
    service: String,
    nodes: Vec<SeatView>,
}

#[derive(Deserialize)]
struct SeatView {
    node: NodeId,
    demand_rps: f64,
    capacity_rps: f64,
    planned_utilisation: f64,
    completed_rps: f64,
    moved_out_plan_rps: f64,
    moved_out_spill_rps: f64,
    row: Row,
}

impl Status {
    /// Reads the answer of [`PATH`]. Nodes that it does not name are as if never heard of.
    ///
    /// # Errors
    /// It is not of the expected shape.
    pub fn read(json: &Value, spec: &ClusterSpec) -> Result<Status, ClusterError> {
        let view = View::deserialize(json).map_err(|error| ClusterError::Rest {
            method: "GET".to_owned(),
            path: PATH.to_owned(),
            problem: format!("unexpected answer: {error}"),
        })?;
        let index = |node: &NodeId| spec.places.iter().position(|p| p.name == node.as_str());
        let mut nodes = vec![NodeStatus::default(); spec.places.len()];
        for node in &view.nodes {
            if let Some(index) = index(&node.node) {
                nodes[index].heard =
                    node.connected && node.presence == "live" && node.acked.is_some();
            }
        }
        let ours = ClusterSpec::service();
        let service = view.services.iter().find(|service| service.service == ours);
        for seat in service
            .map(|service| &service.nodes[..])
            .unwrap_or_default()
        {
            let Some(at) = index(&seat.node) else {
                continue;
            };
            let moves = seat.row.moves.iter();
            nodes[at] = NodeStatus {
                heard: nodes[at].heard,
                demand_rps: seat.demand_rps,
                capacity_rps: seat.capacity_rps,
                planned_utilisation: seat.planned_utilisation,
                utilisation: match seat.capacity_rps > 0.0 {
                    true => seat.completed_rps / seat.capacity_rps,
                    false => 0.0,
                },
                moved_plan_rps: seat.moved_out_plan_rps,
                moved_spill_rps: seat.moved_out_spill_rps,
                home_ppm: seat.row.home_ppm,
                moves: moves
                    .filter_map(|to| Some((index(&to.to)?, to.weight_ppm)))
                    .collect(),
            };
        }
        Ok(Status {
            plan: view.plan,
            nodes,
        })
    }

    /// How many nodes are connected, report, and have a plan.
    pub fn heard(&self) -> usize {
        self.nodes.iter().filter(|node| node.heard).count()
    }
}
