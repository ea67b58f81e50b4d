//! Exact min-cost flow of one service's load over the nodes of the mesh.
//!
//! Every node is a *supply* (demand that enters there) and a *facility* (endpoints that serve). Load crosses one arc,
//! home or to a neighbour, or leaves by the exit: the cloud, or shedding. Facilities cost convex piecewise linear
//! amounts, so the plan of least total delay is a min-cost flow and has an exact optimum in integers:
//!
//! ```text
//!   demand ─► supply i ──home arc, 0────────► facility i ──segments of its curve──► sink
//!                    ├───neighbour, cost_ns──► facility j ──segments of its curve──► sink
//!                    └───exit: cloud or shed, cost_ns─────────────────────────────► sink
//! ```
//!
//! Each node also has a *price*: what one more request per second there costs the whole. Flow and prices are kept
//! from one solve to the next, and a solve restores the two together:
//!
//! - `repair` makes flow and prices fit each other again at the nodes that changed; what then does not balance is left
//!   as excess or deficit of single nodes. When most nodes changed it starts over from "all at home".
//! - `forest` sends excess to where there is room and draws deficits from where there is load, along paths whose
//!   reduced cost is zero, moving prices only where those paths reach.
//!
//! **Invariant** between solves (complementary slackness, see [`Flow::check_optimal`]): no arc is cheaper than the prices
//! at its ends say, and those that carry flow cost exactly that. It proves the flow optimal. A solve that was told to stop
//! early keeps all that but for some nodes with excess or deficit, which the next solve goes on with.
//!
//! Everything is an integer: flow in milli-requests/s, cost in nanoseconds of delay per request. Results depend only
//! on the sequence of calls. Nothing here reads a clock, draws a random number, or iterates over a hash.

mod agenda;
mod arcs;
mod carried;
mod check;
mod curve;
mod forest;
mod repair;
#[cfg(test)]
mod tests;

use std::ops::Range;

use thiserror::Error;

pub use arcs::{ARC_COST_NS_MAX, ARCS_MAX, Arcs, NODES_MAX};
use carried::Carried;
pub use check::Violation;
pub use curve::{
    Curve, Facility, RATE_MRPS_MAX, SEGMENTS_MAX, SERVICE_NS_MAX, UTILISATION_PPM_MAX,
};
use forest::Forest;

/// Largest cost of an exit, in nanoseconds (10⁶ s). Larger and negative inputs are clamped to the range.
pub const EXIT_NS_MAX: i64 = 1_000_000_000_000_000;

/// Where load goes that no facility takes, in ns of delay that one request there is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exits {
    /// Cost of the upstream of last resort, if the policy names one. It is taken to have room for everything.
    pub cloud_ns: Option<i64>,
    /// Cost of refusing a request.
    pub shed_ns: i64,
}

/// A problem together with its retained solution.
///
/// A change of arcs or of the curve is a new `Flow`. Node and arc numbers beyond the problem's panic like an index. Any
/// numbering of nodes will do; a large problem is solved two to three times faster if neighbours have near numbers.
#[derive(Clone, Debug)]
pub struct Flow {
    arcs: Arcs,
    curve: Curve,
    /// Cost of the cheaper exit. Both are unlimited, so the other is never used.
    exit_ns: i64,
    exit_is_cloud: bool,

    demand_mrps: Vec<i64>,
    facility: Vec<Facility>,

    /// Flow of each arc.
    carried: Carried,
    /// Flow of each supply's exit.
    exit_mrps: Vec<i64>,
    /// Movable load that each facility passes on to the sink; between solves, what enters it.
    served_mrps: Vec<i64>,
    /// Of supplies 0..n, then of facilities n..2n: what one more unit there costs.
    price_ns: Vec<i64>,
    /// Like `price_ns`: what enters and does not leave; below 0 a deficit. 0 between solves but at the nodes of `left`.
    excess_mrps: Vec<i64>,
    /// Nodes, numbered like prices, that the last solve had no effort left for.
    left: Vec<u32>,

    dirty: Dirty,
    forest: Forest,
    touched: Rows,
}

/// What a solve did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Supplies whose row was worked on, ascending: no other row changed.
    pub rows: Vec<u32>,
    /// Paths along which flow was sent.
    pub augmentations: u64,
    /// Times a node was looked at with all its arcs.
    pub scans: u64,
}

/// Why a problem was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FlowError {
    /// The two lists of a curve do not make segments.
    #[error(
        "a curve of {ends} ends and {slopes} slopes: both must be the same, from 1 to {SEGMENTS_MAX}"
    )]
    CurveShape {
        /// Length of the list of ends.
        ends: usize,
        /// Length of the list of slopes.
        slopes: usize,
    },
    /// Ends of segments must increase, within limits.
    #[error(
        "segment {segment} of the curve ends at or below its start, or above {UTILISATION_PPM_MAX} ppm"
    )]
    CurveEnd {
        /// Number of the segment, from 0.
        segment: usize,
    },
    /// Slopes must not decrease.
    #[error("segment {segment} of the curve is cheaper than the one before it")]
    CurveConcave {
        /// Number of the segment, from 0.
        segment: usize,
    },
    /// More nodes or arcs than the solver numbers.
    #[error("{nodes} nodes and {arcs} arcs: at most {NODES_MAX} and {ARCS_MAX}")]
    TooLarge {
        /// Nodes asked for.
        nodes: usize,
        /// Arcs asked for, home arcs included.
        arcs: usize,
    },
    /// An arc leads to no node.
    #[error("arc from node {from} to node {to}, which does not exist")]
    ArcRange {
        /// The home.
        from: u32,
        /// The neighbour.
        to: u32,
    },
    /// An arc leads to its own node; the home arc is always there.
    #[error("arc from node {node} to itself")]
    ArcSelf {
        /// The home.
        node: u32,
    },
    /// An arc is listed twice.
    #[error("arc from node {from} to node {to} listed twice")]
    ArcTwice {
        /// The home.
        from: u32,
        /// The neighbour.
        to: u32,
    },
}

impl Flow {
    /// A problem without demand and capacity. Exit costs are clamped to 0..=[`EXIT_NS_MAX`]; at equal cost the cloud is
    /// taken rather than shedding.
    pub fn new(arcs: Arcs, curve: Curve, exits: Exits) -> Self {
        let nodes = arcs.nodes();
        let cloud_ns = exits.cloud_ns.filter(|&cloud_ns| cloud_ns <= exits.shed_ns);
        Self {
            exit_ns: cloud_ns.unwrap_or(exits.shed_ns).clamp(0, EXIT_NS_MAX),
            exit_is_cloud: cloud_ns.is_some(),
            demand_mrps: vec![0; nodes],
            facility: vec![Facility::default(); nodes],
            carried: Carried::new(&arcs),
            exit_mrps: vec![0; nodes],
            served_mrps: vec![0; nodes],
            price_ns: vec![0; 2 * nodes],
            excess_mrps: vec![0; 2 * nodes],
            left: Vec::new(),
            dirty: Dirty {
                all: true,
                supplies: Rows::new(nodes),
                facilities: Rows::new(nodes),
            },
            forest: Forest::new(nodes),
            touched: Rows::new(nodes),
            arcs,
            curve,
        }
    }

    /// Sets what enters at a node, clamped to 0..=[`RATE_MRPS_MAX`].
    pub fn set_demand(&mut self, node: u32, mrps: i64) {
        let mrps = mrps.clamp(0, RATE_MRPS_MAX);
        let demand_mrps = &mut self.demand_mrps[node as usize];
        if *demand_mrps != mrps {
            self.excess_mrps[node as usize] += mrps - *demand_mrps;
            *demand_mrps = mrps;
            self.dirty.supplies.mark(node);
        }
    }

    /// Sets what a node can serve. Rates are clamped to 0..=[`RATE_MRPS_MAX`], the service time to 0..=[`SERVICE_NS_MAX`].
    pub fn set_facility(&mut self, node: u32, facility: Facility) {
        let facility = facility.clamped();
        if self.facility[node as usize] != facility {
            self.facility[node as usize] = facility;
            self.dirty.facilities.mark(node);
        }
    }

    /// Sets the cost of an arc, clamped to 0..=[`ARC_COST_NS_MAX`]. A home arc keeps its cost of 0.
    pub fn set_arc_cost(&mut self, arc: u32, cost_ns: i64) {
        let before_ns = self.arcs.cost_ns(arc);
        if self.arcs.head(arc) != self.arcs.tail(arc) {
            self.arcs.set_cost(arc, cost_ns);
        }
        if self.arcs.cost_ns(arc) != before_ns {
            self.dirty.supplies.mark(self.arcs.tail[arc as usize]);
        }
    }

    /// Finds the optimum again. Only nodes that changed are looked at, and those that paths from them reach; when more
    /// than a quarter of all nodes changed, the solve starts over.
    pub fn solve(&mut self) -> Touched {
        self.solve_within(u64::MAX)
    }

    /// The same with about so many [scans](Touched::scans) at most. What finds no place in time is reported as served
    /// at home, and the next solve goes on with it; see [`Flow::unplaced_mrps`].
    pub fn solve_within(&mut self, scans_max: u64) -> Touched {
        self.forest.begin(scans_max);
        let left = std::mem::take(&mut self.left);
        for &node in &left {
            self.touched.mark((node as usize % self.nodes()) as u32);
        }
        let starts_over = left.is_empty() && self.dirty.len() > self.nodes() / 4;
        if self.dirty.all || starts_over {
            self.start_over();
        } else {
            self.mend(left);
        }
        let (augmentations, scans) = self.forest.counts();
        Touched {
            rows: self.touched.take_sorted(),
            augmentations,
            scans,
        }
    }

    /// Demand that has no place in the plan yet, because the last solve was told to stop early.
    pub fn unplaced_mrps(&self) -> i64 {
        let supplies = self
            .left
            .iter()
            .filter(|&&node| self.is_supply(node as usize));
        supplies
            .map(|&node| self.excess_mrps[node as usize].max(0))
            .sum()
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.demand_mrps.len()
    }

    /// The arcs of a home: first the home arc, then its neighbours in the order they were given.
    pub fn row(&self, node: u32) -> Range<u32> {
        let group = self.arcs.rows.group(node as usize);
        group.start as u32..group.end as u32
    }

    /// The node that serves the flow of an arc.
    pub fn arc_head(&self, arc: u32) -> u32 {
        self.arcs.rows.link[arc as usize].node
    }

    /// Flow of an arc.
    pub fn arc_mrps(&self, arc: u32) -> i64 {
        self.carried.get(arc)
    }

    /// What a node serves of its own demand, and what has no place yet.
    pub fn home_mrps(&self, node: u32) -> i64 {
        self.arc_mrps(self.row(node).start) + self.excess_mrps[node as usize].max(0)
    }

    /// What a node must refuse.
    pub fn shed_mrps(&self, node: u32) -> i64 {
        if self.exit_is_cloud {
            0
        } else {
            self.exit_mrps[node as usize]
        }
    }

    /// What a node sends to the upstream of last resort.
    pub fn cloud_mrps(&self, node: u32) -> i64 {
        if self.exit_is_cloud {
            self.exit_mrps[node as usize]
        } else {
            0
        }
    }

    /// What a node serves altogether, with the load that is fixed there.
    pub fn load_mrps(&self, node: u32) -> i64 {
        self.facility[node as usize].fixed_mrps + self.served_mrps[node as usize]
    }

    /// What one more request entering at a node would cost the whole, in ns of delay; at most the cost of the exit.
    pub fn price_ns(&self, node: u32) -> i64 {
        self.price_ns[node as usize]
    }

    /// Total cost, in ns of delay × milli-requests/s, without that of the load that is fixed.
    pub fn objective(&self) -> i128 {
        let mut total = 0;
        for (arc, link) in (0..).zip(&self.arcs.rows.link) {
            total += i128::from(self.arc_mrps(arc)) * i128::from(link.cost_ns);
        }
        for &exit_mrps in &self.exit_mrps {
            total += i128::from(exit_mrps) * i128::from(self.exit_ns);
        }
        for (&facility, &served_mrps) in self.facility.iter().zip(&self.served_mrps) {
            let top_mrps = facility.fixed_mrps + served_mrps;
            let mut from_mrps = facility.fixed_mrps;
            for segment in self.curve.segments(facility) {
                let upto_mrps = segment.end_mrps.min(top_mrps);
                if upto_mrps > from_mrps {
                    total += i128::from(upto_mrps - from_mrps) * i128::from(segment.slope_ns);
                    from_mrps = upto_mrps;
                }
            }
        }
        total
    }
}

/// Which nodes changed since the last solve.
#[derive(Clone, Debug)]
struct Dirty {
    /// Nothing was solved yet.
    all: bool,
    supplies: Rows,
    facilities: Rows,
}

impl Dirty {
    fn len(&self) -> usize {
        self.supplies.listed.len().max(self.facilities.listed.len())
    }
}

/// A set of nodes that is cheap to add to and to empty.
#[derive(Clone, Debug)]
struct Rows {
    is_listed: Vec<bool>,
    listed: Vec<u32>,
}

impl Rows {
    fn new(nodes: usize) -> Self {
        Self {
            is_listed: vec![false; nodes],
            listed: Vec::new(),
        }
    }

    fn mark(&mut self, node: u32) {
        if !std::mem::replace(&mut self.is_listed[node as usize], true) {
            self.listed.push(node);
        }
    }

    fn take_sorted(&mut self) -> Vec<u32> {
        let mut listed = std::mem::take(&mut self.listed);
        for &node in &listed {
            self.is_listed[node as usize] = false;
        }
        listed.sort_unstable();
        listed
    }
}
