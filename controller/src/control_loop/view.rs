//! What the controller knows, for people: the status page, the live view and the replay's report.

use isobar_geo_data::position::Position;
use isobar_mesh_api::names::{NodeId, RegionName, ServiceName, SiteName};
use isobar_mesh_api::resource::Algorithm;
use isobar_mesh_api::snapshot::{PlanId, Row};
use serde::Serialize;

use super::ControlLoop;
use super::mesh::{Node, Nodes};
use super::push::row;
use super::service::{Seat, Service};
use crate::capacity::Obtained;
use crate::load_book::ReportCounts;

/// Everything, as of the last tick. Lists are sorted by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeshView {
    /// The plan in force.
    pub plan: PlanId,
    /// Time between two plans, milliseconds.
    pub period_ms: u64,
    /// All nodes.
    pub nodes: Vec<NodeView>,
    /// All services.
    pub services: Vec<ServiceView>,
}

/// Whether a node is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Never.
    Absent,
    /// It reports.
    Live,
    /// It missed reports or has sent none yet.
    Stale,
    /// It missed so many that nobody moves load to it.
    Silent,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub node: NodeId,
    /// Where it is.
    pub position: Option<Position>,
    /// Its site.
    pub site: Option<SiteName>,
    /// Its region.
    pub region: Option<RegionName>,
    /// Its mesh port; empty when unknown.
    pub mesh_address: String,
    /// Whether it takes no load from others.
    pub cordoned: bool,
    /// Whether its endpoints get no load at all.
    pub drained: bool,
    /// Whether its stream is open.
    pub connected: bool,
    /// Whether it is heard of.
    pub presence: Presence,
    /// Age of its last word, milliseconds, as of the last tick.
    pub age_ms: Option<u64>,
    /// Busy share of its processors, 0 to 1.
    pub cpu_ratio: Option<f64>,
    /// What its reports came to.
    pub reports: ReportCounts,
    /// The plan it was last sent.
    pub sent: PlanId,
    /// The plan it last acknowledged.
    pub acked: Option<PlanId>,
    /// Plans it refused.
    pub nacks: u64,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub service: ServiceName,
    /// The policy that decides for it; `default` when none selects it.
    pub policy: String,
    /// How its plan is computed.
    pub algorithm: Algorithm,
    /// Where it is.
    pub nodes: Vec<SeatView>,
}

/// One service on one node. Rates in requests/s.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeatView {
    /// The node.
    pub node: NodeId,
    /// Demand as the planner sees it.
    pub demand_rps: f64,
    /// Capacity as the planner sees it.
    pub capacity_rps: f64,
    /// Where the capacity comes from.
    pub capacity_obtained: Obtained,
    /// Load by the rows in force.
    pub planned_rps: f64,
    /// `planned_rps / capacity_rps`; 0 without capacity.
    pub planned_utilisation: f64,
    /// Of the planned load, what comes from others.
    pub planned_moved_in_rps: f64,
    /// First attempts that entered, in the last report.
    pub entered_rps: f64,
    /// Completed by the endpoints.
    pub completed_rps: f64,
    /// Moved to others by weight.
    pub moved_out_plan_rps: f64,
    /// Moved to others because home was full at that instant.
    pub moved_out_spill_rps: f64,
    /// Taken for others.
    pub moved_in_rps: f64,
    /// Refused to others.
    pub refused_in_rps: f64,
    /// Refused altogether.
    pub shed_rps: f64,
    /// Failed.
    pub failed_rps: f64,
    /// Where the demand goes.
    pub row: Row,
}

/// What became of a node, as it is shown beside what was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Whether an operator wrote it; else it is shown as it describes itself.
    pub declared: bool,
    /// Whether it is heard of.
    pub presence: Presence,
    /// Whether its stream is open.
    pub connected: bool,
    /// Whom its certificate names, its own or its workload's; not known to the loop, and filled in where it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its program's version.
    pub version: Option<String>,
    /// Age of its last word, milliseconds, as of the last tick.
    pub age_ms: Option<u64>,
    /// Where it is, by the operator's word or its own.
    pub position: Option<Position>,
    /// Its site.
    pub site: Option<SiteName>,
    /// Its region.
    pub region: Option<RegionName>,
    /// Its mesh port; empty when unknown.
    pub mesh_address: String,
    /// Busy share of its processors, 0 to 1.
    pub cpu_ratio: Option<f64>,
    /// What its reports came to.
    pub reports: ReportCounts,
    /// The plan it was last sent.
    pub sent: PlanId,
    /// The plan it last acknowledged.
    pub acked: Option<PlanId>,
    /// Plans it refused.
    pub nacks: u64,
}

impl ControlLoop {
    /// What became of a node; `declared` says whether an operator wrote it.
    pub fn node_status(&self, id: &NodeId, declared: bool) -> Option<NodeStatus> {
        let node = self.nodes.get(self.nodes.find(id)?)?;
        let age = node.page.age(self.ticked_at);
        Some(NodeStatus {
            declared,
            presence: node.presence(),
            connected: node.stream.connected,
            identity: None,
            version: node.hello.as_ref().map(|hello| hello.version.clone()),
            age_ms: age.map(|age| age.as_millis() as u64),
            position: node.own_position(),
            site: node.site().cloned(),
            region: node.region().cloned(),
            mesh_address: node.mesh_address().to_owned(),
            cpu_ratio: node.page.cpu_ratio,
            reports: node.page.counts,
            sent: node.stream.sent,
            acked: node.stream.acked,
            nacks: node.stream.nacks,
        })
    }

    /// What is known and planned, as of the last tick.
    pub fn view(&self) -> MeshView {
        let nodes = self.nodes.by_name();
        let mut services: Vec<&Service> = self.services.iter().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        MeshView {
            plan: self.plan,
            period_ms: self.period.as_millis() as u64,
            nodes: nodes
                .filter_map(|(number, _)| self.node_view(number))
                .collect(),
            services: services
                .into_iter()
                .map(|s| service_view(s, &self.nodes))
                .collect(),
        }
    }

    fn node_view(&self, number: u32) -> Option<NodeView> {
        let node: &Node = self.nodes.get(number)?;
        Some(NodeView {
            node: self.nodes.id(number)?.clone(),
            position: self.nodes.position(number),
            site: node.site().cloned(),
            region: node.region().cloned(),
            mesh_address: node.mesh_address().to_owned(),
            cordoned: node.seat.cordoned,
            drained: node.seat.drained,
            connected: node.stream.connected,
            presence: node.presence(),
            age_ms: node
                .page
                .age(self.ticked_at)
                .map(|age| age.as_millis() as u64),
            cpu_ratio: node.page.cpu_ratio,
            reports: node.page.counts,
            sent: node.stream.sent,
            acked: node.stream.acked,
            nacks: node.stream.nacks,
        })
    }
}

fn service_view(service: &Service, nodes: &Nodes) -> ServiceView {
    let seats = service.seats.iter().enumerate();
    let views = seats.filter_map(|(at, seat)| seat_view(service, at, seat, nodes));
    let mut views: Vec<SeatView> = views.collect();
    views.sort_by(|a, b| a.node.cmp(&b.node));
    ServiceView {
        service: service.name.clone(),
        policy: service.policy_name.clone(),
        algorithm: service.policy.algorithm,
        nodes: views,
    }
}

fn seat_view(service: &Service, at: usize, seat: &Seat, nodes: &Nodes) -> Option<SeatView> {
    let name = |node: u32| nodes.id(node).cloned();
    let rps = |list: &[i64]| list.get(at).map_or(0.0, |&mrps| mrps as f64 / 1e3);
    let capacity_rps = seat.capacity.held_rps();
    let planned_rps = rps(&service.planning.load_mrps);
    let seen = seat.seen;
    Some(SeatView {
        node: name(seat.node)?,
        demand_rps: seat.demand.held_rps(),
        capacity_rps,
        capacity_obtained: seat.capacity.figure(seat.configured()).1,
        planned_rps,
        planned_utilisation: if capacity_rps > 0.0 {
            planned_rps / capacity_rps
        } else {
            0.0
        },
        planned_moved_in_rps: rps(&service.planning.moved_in_mrps),
        entered_rps: seen.entered_rps,
        completed_rps: seen.completed_rps,
        moved_out_plan_rps: seen.moved_out_plan_rps,
        moved_out_spill_rps: seen.moved_out_spill_rps,
        moved_in_rps: seen.moved_in_rps,
        refused_in_rps: seen.refused_in_rps,
        shed_rps: seen.shed_rps,
        failed_rps: seen.failed_rps,
        row: row(&seat.weights, &name),
    })
}
