//! Nearest first: what a home has above its ceiling flows into the nearest neighbour's spare up to that neighbour's
//! ceiling, then into the next. Homes are served in the order of their numbers; nobody displaces anybody.

use super::{Effort, Field, Flows, Planner};

/// Overflow by distance.
#[derive(Debug, Clone, Copy)]
pub struct Waterfall;

impl Planner for Waterfall {
    fn plan(&mut self, field: &Field, flows: &mut Flows, _: u64) -> Effort {
        if field.changed.is_empty() && !field.renewed {
            return Effort::default();
        }
        flows.all_home(field);
        let mut spare_mrps = spare_mrps(field, Field::ceiling_mrps);
        let mut near: Vec<usize> = Vec::new();
        for home in 0..field.spots.len() as u32 {
            let spot = field.spots[home as usize];
            let room_mrps = (field.ceiling_mrps(home) - spot.fixed_mrps).max(0);
            let mut over_mrps = (spot.demand_mrps - room_mrps).max(0);
            if over_mrps == 0 {
                continue;
            }
            near.clear();
            near.extend(field.row(home));
            near.sort_by_key(|&a| field.arcs()[a].cost_ns);
            for &arc in &near {
                let spare_mrps = &mut spare_mrps[field.arcs()[arc].to as usize];
                let moved_mrps = over_mrps.min(*spare_mrps);
                *spare_mrps -= moved_mrps;
                over_mrps -= moved_mrps;
                flows.arc_mrps[arc] = moved_mrps;
                flows.home_mrps[home as usize] -= moved_mrps;
            }
            flows.exit(field, home, over_mrps);
        }
        Effort::default()
    }
}

/// What each node has left below a limit once it serves its own demand.
pub(super) fn spare_mrps(field: &Field, limit_mrps: fn(&Field, u32) -> i64) -> Vec<i64> {
    let spare_mrps = |node: u32| {
        let spot = field.spots[node as usize];
        (limit_mrps(field, node) - spot.fixed_mrps - spot.demand_mrps).max(0)
    };
    (0..field.spots.len() as u32).map(spare_mrps).collect()
}
