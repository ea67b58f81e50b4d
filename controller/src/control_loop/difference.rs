//! What differs between two plans, for people: the answer to a dry run and to "what if".

use std::collections::BTreeMap;

use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::snapshot::Row;
use isobar_mesh_api::weight::WHOLE_PPM;
use serde::Serialize;

use super::view::{MeshView, SeatView, ServiceView};

/// Most seats that one difference lists; further ones are counted.
pub const SEATS_MAX: usize = 1_000;
/// Rates that differ by less are the same, requests/s.
const SAME_RPS: f64 = 0.001;

/// How a plan differs from another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct PlanDifference {
    /// Services whose plan differs, by name.
    pub services: Vec<ServiceDifference>,
    /// Seats that differ, by service and node, at most `SEATS_MAX`.
    pub seats: Vec<SeatDifference>,
    /// Seats that differ beyond those.
    pub seats_left_out: usize,
}

/// One service before and after. What is not there on one side is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct ServiceDifference {
    /// Which.
    pub service: ServiceName,
    /// Before.
    pub before: Option<Totals>,
    /// After.
    pub after: Option<Totals>,
}

/// A service over all its nodes. Rates in requests/s.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Totals {
    /// The policy that decides for it.
    pub policy: String,
    /// What enters.
    pub demand_rps: f64,
    /// What its endpoints can serve.
    pub capacity_rps: f64,
    /// What is moved to other nodes.
    pub moved_rps: f64,
    /// What goes to the upstream of last resort.
    pub cloud_rps: f64,
    /// What is refused.
    pub shed_rps: f64,
    /// The highest planned utilisation of a node.
    pub utilisation_max: f64,
}

/// One service on one node before and after. What is not there on one side is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct SeatDifference {
    /// Which service.
    pub service: ServiceName,
    /// Which node.
    pub node: NodeId,
    /// Before.
    pub before: Option<Load>,
    /// After.
    pub after: Option<Load>,
}

/// What is planned for one service on one node. Rates in requests/s.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Load {
    /// What enters.
    pub demand_rps: f64,
    /// What its endpoints can serve.
    pub capacity_rps: f64,
    /// Load by the rows.
    pub planned_rps: f64,
    /// `planned_rps / capacity_rps`; 0 without capacity.
    pub planned_utilisation: f64,
    /// Where the demand goes.
    pub row: Row,
}

/// How `after` differs from `before`.
pub fn difference(before: &MeshView, after: &MeshView) -> PlanDifference {
    let mut pairs: BTreeMap<&ServiceName, [Option<&ServiceView>; 2]> = BTreeMap::new();
    for (side, view) in [before, after].into_iter().enumerate() {
        for service in &view.services {
            pairs.entry(&service.service).or_default()[side] = Some(service);
        }
    }
    let mut found = PlanDifference::default();
    for (name, [before, after]) in pairs {
        let seats = seats_of(name, before, after);
        let (before, after) = (before.map(totals), after.map(totals));
        if before == after && seats.is_empty() {
            continue;
        }
        let room = SEATS_MAX.saturating_sub(found.seats.len());
        found.seats_left_out += seats.len().saturating_sub(room);
        found.seats.extend(seats.into_iter().take(room));
        found.services.push(ServiceDifference {
            service: name.clone(),
            before,
            after,
        });
    }
    found
}

fn seats_of(
    name: &ServiceName,
    before: Option<&ServiceView>,
    after: Option<&ServiceView>,
) -> Vec<SeatDifference> {
    let mut pairs: BTreeMap<&NodeId, [Option<Load>; 2]> = BTreeMap::new();
    for (side, service) in [before, after].into_iter().enumerate() {
        for seat in service.into_iter().flat_map(|s| &s.nodes) {
            pairs.entry(&seat.node).or_default()[side] = Some(load(seat));
        }
    }
    let differs = |[before, after]: &[Option<Load>; 2]| match (before, after) {
        (Some(before), Some(after)) => !same(before, after),
        _ => true,
    };
    let pairs = pairs.into_iter().filter(|(_, pair)| differs(pair));
    pairs
        .map(|(node, [before, after])| SeatDifference {
            service: name.clone(),
            node: node.clone(),
            before,
            after,
        })
        .collect()
}

fn same(a: &Load, b: &Load) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() < SAME_RPS;
    a.row == b.row
        && near(a.demand_rps, b.demand_rps)
        && near(a.capacity_rps, b.capacity_rps)
        && near(a.planned_rps, b.planned_rps)
}

fn load(seat: &SeatView) -> Load {
    Load {
        demand_rps: seat.demand_rps,
        capacity_rps: seat.capacity_rps,
        planned_rps: seat.planned_rps,
        planned_utilisation: seat.planned_utilisation,
        row: seat.row.clone(),
    }
}

/// Sums and the highest utilisation.
pub fn totals(service: &ServiceView) -> Totals {
    let whole = f64::from(WHOLE_PPM);
    let sum = |part: &dyn Fn(&SeatView) -> f64| service.nodes.iter().map(part).sum();
    let placed = |seat: &SeatView| seat.demand_rps * (1.0 - f64::from(seat.row.shed_ppm) / whole);
    let moved_ppm = |seat: &SeatView| seat.row.moves.iter().map(|m| m.weight_ppm).sum::<u32>();
    let utilisations = service.nodes.iter().map(|seat| seat.planned_utilisation);
    Totals {
        policy: service.policy.clone(),
        demand_rps: sum(&|seat| seat.demand_rps),
        capacity_rps: sum(&|seat| seat.capacity_rps),
        moved_rps: sum(&|seat| placed(seat) * f64::from(moved_ppm(seat)) / whole),
        cloud_rps: sum(&|seat| placed(seat) * f64::from(seat.row.cloud_ppm) / whole),
        shed_rps: sum(&|seat| seat.demand_rps * f64::from(seat.row.shed_ppm) / whole),
        utilisation_max: utilisations.fold(0.0, f64::max),
    }
}
