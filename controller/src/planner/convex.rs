//! The exact optimum: a min-cost flow, retained from plan to plan, so that only what changed is solved again.

use super::curve::curve;
use super::flow::{Arcs, Exits, Facility, Flow};
use super::{Effort, Field, Flows, Planner, SHED_NS};

/// Least total of round trips, waiting and refusals. Home arcs take part: a full neighbour may move its own load one
/// step outward to make room.
#[derive(Debug, Default)]
pub struct Convex {
    flow: Option<Flow>,
}

impl Planner for Convex {
    fn plan(&mut self, field: &Field, flows: &mut Flows, scans_max: u64) -> Effort {
        if field.renewed || self.flow.is_none() {
            self.flow = problem(field);
        }
        let Some(flow) = &mut self.flow else {
            // The field is one that the solver does not number, or its limits make no curve.
            flows.all_home(field);
            return Effort::default();
        };
        if field.renewed {
            (0..field.spots.len() as u32).for_each(|node| set(flow, field, node));
        } else {
            field
                .changed
                .iter()
                .for_each(|&node| set(flow, field, node));
        }
        let touched = flow.solve_within(scans_max);
        if field.renewed {
            (0..field.spots.len() as u32).for_each(|home| get(flow, field, flows, home));
        } else {
            touched
                .rows
                .iter()
                .for_each(|&home| get(flow, field, flows, home));
        }
        Effort {
            augmentations: touched.augmentations,
            scans: touched.scans,
            unplaced_mrps: flow.unplaced_mrps(),
        }
    }
}

fn problem(field: &Field) -> Option<Flow> {
    let row = |home| {
        field
            .row(home)
            .map(|a| (field.arcs()[a].to, field.arcs()[a].cost_ns))
    };
    let rows: Vec<Vec<(u32, i64)>> = (0..field.spots.len() as u32)
        .map(|home| row(home).collect())
        .collect();
    let arcs = Arcs::new(&rows).ok()?;
    let curve = curve(field.target_ppm, field.ceiling_ppm).ok()?;
    let exits = Exits {
        cloud_ns: field.cloud_ns,
        shed_ns: SHED_NS,
    };
    Some(Flow::new(arcs, curve, exits))
}

fn set(flow: &mut Flow, field: &Field, node: u32) {
    let spot = field.spots[node as usize];
    let staying_mrps = staying_mrps(field, node);
    flow.set_demand(node, spot.demand_mrps - staying_mrps);
    let facility = Facility {
        capacity_mrps: spot.capacity_mrps,
        service_ns: spot.service_ns,
        fixed_mrps: spot.fixed_mrps + staying_mrps,
    };
    flow.set_facility(node, facility);
    let neighbours = flow.row(node).skip(1);
    for (arc, ours) in neighbours.zip(field.row(node)) {
        flow.set_arc_cost(arc, field.arcs()[ours].cost_ns);
    }
}

/// Demand that the solver does not see: what stays home without displacement.
fn staying_mrps(field: &Field, node: u32) -> i64 {
    if !field.own_stays {
        return 0;
    }
    let spot = field.spots[node as usize];
    let room_mrps = (field.target_mrps(node) - spot.fixed_mrps).max(0);
    spot.demand_mrps.min(room_mrps)
}

fn get(flow: &Flow, field: &Field, flows: &mut Flows, home: u32) {
    let neighbours = flow.row(home).skip(1);
    for (arc, ours) in neighbours.zip(field.row(home)) {
        flows.arc_mrps[ours] = flow.arc_mrps(arc);
    }
    flows.home_mrps[home as usize] = flow.home_mrps(home) + staying_mrps(field, home);
    flows.cloud_mrps[home as usize] = flow.cloud_mrps(home);
    flows.shed_mrps[home as usize] = flow.shed_mrps(home);
}
