//! What is known of a service over all nodes.

use std::ops::AddAssign;

use crate::control_loop::ServiceView;

/// Sums over all nodes, in requests/s.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServiceSums {
    /// Demand, as the planner sees it.
    pub demand_rps: f64,
    /// Capacity, as the planner sees it.
    pub capacity_rps: f64,
    /// Capacity beyond what the rows in force give to endpoints, node by node.
    pub headroom_rps: f64,
    /// Load that the rows in force move.
    pub moved_planned_rps: f64,
    /// Moved by weight, in the last reports.
    pub moved_plan_rps: f64,
    /// Moved because home was full at that instant, in the last reports.
    pub moved_spill_rps: f64,
    /// Refused altogether, in the last reports.
    pub shed_rps: f64,
    /// Failed, in the last reports.
    pub failed_rps: f64,
}

impl ServiceSums {
    /// A service's sums.
    pub fn of(service: &ServiceView) -> ServiceSums {
        let mut sums = ServiceSums::default();
        for seat in &service.nodes {
            sums += ServiceSums {
                demand_rps: seat.demand_rps,
                capacity_rps: seat.capacity_rps,
                headroom_rps: (seat.capacity_rps - seat.planned_rps).max(0.0),
                moved_planned_rps: seat.planned_moved_in_rps,
                moved_plan_rps: seat.moved_out_plan_rps,
                moved_spill_rps: seat.moved_out_spill_rps,
                shed_rps: seat.shed_rps,
                failed_rps: seat.failed_rps,
            };
        }
        sums
    }

    /// Load by capacity; 0 without capacity.
    pub fn utilisation_ratio(&self) -> f64 {
        match self.capacity_rps > 0.0 {
            true => (self.capacity_rps - self.headroom_rps) / self.capacity_rps,
            false => 0.0,
        }
    }
}

impl AddAssign for ServiceSums {
    fn add_assign(&mut self, other: ServiceSums) {
        self.demand_rps += other.demand_rps;
        self.capacity_rps += other.capacity_rps;
        self.headroom_rps += other.headroom_rps;
        self.moved_planned_rps += other.moved_planned_rps;
        self.moved_plan_rps += other.moved_plan_rps;
        self.moved_spill_rps += other.moved_spill_rps;
        self.shed_rps += other.shed_rps;
        self.failed_rps += other.failed_rps;
    }
}
