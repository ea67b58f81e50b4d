//! What is above the limit is split over the neighbours in proportion to their spare.
//!
//! A reconstruction of the load-balancing rule of Furusawa et al. (2022) from its description: the limit is the target
//! utilisation; each home gives what exceeds it to neighbours below theirs, weighted by how far below they are. Where
//! homes compete, the one with the lower number is served first, so that no neighbour is planned above its limit.
//! What finds no spare stays home up to the ceiling.

use super::waterfall::spare_mrps;
use super::{Effort, Field, Flows, Planner};

/// Overflow by spare.
#[derive(Debug, Clone, Copy)]
pub struct Threshold;

impl Planner for Threshold {
    fn plan(&mut self, field: &Field, flows: &mut Flows, _: u64) -> Effort {
        if field.changed.is_empty() && !field.renewed {
            return Effort::default();
        }
        flows.all_home(field);
        let mut spare_mrps = spare_mrps(field, Field::target_mrps);
        for home in 0..field.spots.len() as u32 {
            let spot = field.spots[home as usize];
            let keep_mrps = (field.target_mrps(home) - spot.fixed_mrps).max(0);
            let over_mrps = (spot.demand_mrps - keep_mrps).max(0);
            if over_mrps == 0 {
                continue;
            }
            split(field, flows, home, over_mrps, &mut spare_mrps);
            let room_mrps = (field.ceiling_mrps(home) - spot.fixed_mrps).max(0);
            let left_mrps = (flows.home_mrps[home as usize] - room_mrps).max(0);
            flows.exit(field, home, left_mrps);
        }
        Effort::default()
    }
}

/// Splits one home's overflow in proportion to its neighbours' spare, and takes it off their spare.
fn split(field: &Field, flows: &mut Flows, home: u32, over_mrps: i64, spare_mrps: &mut [i64]) {
    let spare_of = |arc: usize, spare_mrps: &[i64]| spare_mrps[field.arcs()[arc].to as usize];
    let total_mrps: i64 = field.row(home).map(|arc| spare_of(arc, spare_mrps)).sum();
    let give_mrps = over_mrps.min(total_mrps);
    let (mut passed_mrps, mut given_mrps) = (0, 0);
    for arc in field.row(home) {
        // Cumulative shares round so that they sum to the whole.
        passed_mrps += spare_of(arc, spare_mrps);
        let upto_mrps =
            i128::from(give_mrps) * i128::from(passed_mrps) / i128::from(total_mrps.max(1));
        let moved_mrps = upto_mrps as i64 - given_mrps;
        given_mrps = upto_mrps as i64;
        spare_mrps[field.arcs()[arc].to as usize] -= moved_mrps;
        flows.arc_mrps[arc] = moved_mrps;
        flows.home_mrps[home as usize] -= moved_mrps;
    }
}
