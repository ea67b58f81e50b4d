//! Proof of optimality: complementary slackness of flow and prices.

use thiserror::Error;

use super::Flow;

/// A place where the retained flow and prices do not prove each other.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// A flow below 0.
    #[error("negative flow in the row or load of node {node}")]
    Negative {
        /// The home or facility.
        node: u32,
    },
    /// Demand is not the sum of its row.
    #[error("demand of node {node} differs from the sum of its row by {excess_mrps} mrps")]
    Demand {
        /// The home.
        node: u32,
        /// Demand − sum.
        excess_mrps: i64,
    },
    /// A facility's load is not the sum of its column.
    #[error("load of node {node} differs from the sum of its column by {excess_mrps} mrps")]
    Load {
        /// The facility.
        node: u32,
        /// Sum − load.
        excess_mrps: i64,
    },
    /// An arc, or the exit, is cheaper than the prices say, or carries flow although it is dearer.
    #[error(
        "arc {arc:?} of node {node} (none: its exit) has reduced cost {reduced_ns} ns and flow {flow_mrps} mrps"
    )]
    Arc {
        /// The home.
        node: u32,
        /// The arc, or none for the exit.
        arc: Option<u32>,
        /// Cost + price at the head − price at the home.
        reduced_ns: i64,
        /// Its flow.
        flow_mrps: i64,
    },
    /// The price of a facility is not that of its load.
    #[error("price {price_ns} ns of facility {node} does not fit its load of {load_mrps} mrps")]
    Price {
        /// The facility.
        node: u32,
        /// Its price.
        price_ns: i64,
        /// Its load, with what is fixed.
        load_mrps: i64,
    },
}

impl Flow {
    /// Proves that the flow is feasible and optimal, given the problem as of the last [`Flow::solve`]. Looks at everything.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn check_optimal(&self) -> Result<(), Violation> {
        let nodes = self.nodes();
        let mut inflow_mrps = vec![0; nodes];
        for node in 0..nodes {
            self.check_row(node as u32, &mut inflow_mrps)?;
        }
        for (node, inflow_mrps) in inflow_mrps.into_iter().enumerate() {
            let excess_mrps = inflow_mrps - self.served_mrps[node];
            let node = node as u32;
            if excess_mrps != 0 {
                return Err(Violation::Load { node, excess_mrps });
            }
            self.check_facility(node)?;
        }
        Ok(())
    }

    fn check_row(&self, node: u32, inflow_mrps: &mut [i64]) -> Result<(), Violation> {
        let price_ns = self.price_ns[node as usize];
        let exit_mrps = self.exit_mrps[node as usize];
        check_arc(node, None, self.exit_ns - price_ns, exit_mrps)?;
        let mut sum_mrps = exit_mrps;
        for arc in self.row(node) {
            let (head, flow_mrps) = (self.arcs.head(arc), self.arc_mrps(arc));
            let head_ns = self.price_ns[self.nodes() + head];
            check_arc(
                node,
                Some(arc),
                self.arcs.cost_ns(arc) + head_ns - price_ns,
                flow_mrps,
            )?;
            sum_mrps += flow_mrps;
            inflow_mrps[head] += flow_mrps;
        }
        let excess_mrps = self.demand_mrps[node as usize] - sum_mrps;
        if excess_mrps != 0 {
            return Err(Violation::Demand { node, excess_mrps });
        }
        Ok(())
    }

    fn check_facility(&self, node: u32) -> Result<(), Violation> {
        let (facility, load_mrps) = (self.facility[node as usize], self.load_mrps(node));
        if load_mrps < facility.fixed_mrps {
            return Err(Violation::Negative { node });
        }
        let price_ns = self.price_ns[self.nodes() + node as usize];
        let is_above_ceiling =
            load_mrps > facility.fixed_mrps && self.curve.held(facility, load_mrps).is_none();
        let is_too_cheap = self
            .curve
            .held(facility, load_mrps)
            .is_some_and(|last| last.slope_ns > price_ns);
        let is_too_dear = self
            .curve
            .room(facility, load_mrps)
            .is_some_and(|next| next.slope_ns < price_ns);
        if is_above_ceiling || is_too_cheap || is_too_dear {
            return Err(Violation::Price {
                node,
                price_ns,
                load_mrps,
            });
        }
        Ok(())
    }
}

fn check_arc(
    node: u32,
    arc: Option<u32>,
    reduced_ns: i64,
    flow_mrps: i64,
) -> Result<(), Violation> {
    if flow_mrps < 0 {
        return Err(Violation::Negative { node });
    }
    if reduced_ns < 0 || (reduced_ns > 0 && flow_mrps > 0) {
        return Err(Violation::Arc {
            node,
            arc,
            reduced_ns,
            flow_mrps,
        });
    }
    Ok(())
}
