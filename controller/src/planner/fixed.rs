//! Weights that nobody computes: those of the policy, or none.

use super::{Effort, Field, Flows, Planner, share_mrps};

/// The policy's own weights, whatever the load: no ceiling is kept.
#[derive(Debug, Clone, Copy)]
pub struct Fixed;

impl Planner for Fixed {
    fn plan(&mut self, field: &Field, flows: &mut Flows, _: u64) -> Effort {
        flows.all_home(field);
        for home in 0..field.spots.len() as u32 {
            let demand_mrps = field.spots[home as usize].demand_mrps;
            for arc in field.row(home) {
                let moved_mrps = share_mrps(demand_mrps, field.arcs()[arc].static_ppm);
                flows.arc_mrps[arc] = moved_mrps;
                flows.home_mrps[home as usize] -= moved_mrps;
            }
        }
        Effort::default()
    }
}

/// Nothing moves by plan.
#[derive(Debug, Clone, Copy)]
pub struct Off;

impl Planner for Off {
    fn plan(&mut self, field: &Field, flows: &mut Flows, _: u64) -> Effort {
        flows.all_home(field);
        Effort::default()
    }
}
