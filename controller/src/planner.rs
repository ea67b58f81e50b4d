//! The planner: from demand and capacity to flows, and from flows to weights.
//!
//! One [`Field`] per service says what is known; a [`Planner`] says where load should go. The algorithms stand side by
//! side behind one interface, so that they are compared on the same input:
//!
//! - [`convex`]: the exact optimum of delay, with displacement, over [`flow`] and the [`curve`] of queueing;
//! - [`waterfall`]: nearest first;
//! - [`threshold`]: what is above the limit, split by spare;
//! - [`fixed`]: weights from the policy; also nothing at all.
//!
//! What a plan becomes is common to all: [`damp`] turns flows into weights that do not swing, [`credit`] says what
//! receivers grant.
//!
//! **Invariant**: a planner reads its field and its own memory, nothing else, and for every home
//! `home + Σ moves + cloud + shed = demand`, exactly, in milli-requests/s.

use isobar_mesh_api::resource::Algorithm;

pub mod convex;
pub mod credit;
pub mod curve;
pub mod damp;
pub mod fixed;
pub mod flow;
pub mod threshold;
pub mod waterfall;

/// Cost of refusing a request, in nanoseconds: 1000 s, more than any chain of moves costs.
pub const SHED_NS: i64 = 1_000_000_000_000;

/// A way from a home to one neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arc {
    /// The neighbour, by its place in the field.
    pub to: u32,
    /// Round trip plus what a move costs, nanoseconds.
    pub cost_ns: i64,
    /// The policy's own weight of this arc, parts per million; only [`fixed`] uses it.
    pub static_ppm: u32,
}

/// What is known of one node for one service. Rates in milli-requests/s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spot {
    /// Demand that the plan may place.
    pub demand_mrps: i64,
    /// What the node can serve.
    pub capacity_mrps: i64,
    /// Time of service of one request, nanoseconds.
    pub service_ns: i64,
    /// Load on the node that the plan cannot move; it may exceed the ceiling.
    pub fixed_mrps: i64,
}

/// Everything a planner sees of one service. Nodes are dense numbers from 0.
#[derive(Debug, Clone, Default)]
pub struct Field {
    /// By node.
    pub spots: Vec<Spot>,
    arc_start: Vec<u32>,
    arcs: Vec<Arc>,
    /// Utilisation up to which load is free, parts per million.
    pub target_ppm: u32,
    /// Utilisation that nothing is planned above, parts per million.
    pub ceiling_ppm: u32,
    /// Cost of the upstream of last resort, nanoseconds; `None` when there is none.
    pub cloud_ns: Option<i64>,
    /// Whether demand that fits below its own node's target stays there, whoever would need the room: no displacement.
    pub own_stays: bool,
    /// Nodes whose spot or arc costs changed since the last plan, ascending.
    pub changed: Vec<u32>,
    /// Whether arcs, limits or exits are new since the last plan: everything must be planned anew.
    pub renewed: bool,
}

impl Field {
    /// A field of `rows.len()` nodes with the given arcs, all spots empty, and everything to be planned.
    pub fn new(
        rows: &[Vec<Arc>],
        target_ppm: u32,
        ceiling_ppm: u32,
        cloud_ns: Option<i64>,
    ) -> Field {
        let mut arc_start = vec![0];
        let mut arcs = Vec::new();
        for row in rows {
            arcs.extend_from_slice(row);
            arc_start.push(arcs.len() as u32);
        }
        Field {
            spots: vec![Spot::default(); rows.len()],
            arc_start,
            arcs,
            target_ppm,
            ceiling_ppm,
            cloud_ns,
            own_stays: false,
            changed: Vec::new(),
            renewed: true,
        }
    }

    /// Places of the arcs of one home.
    pub fn row(&self, home: u32) -> std::ops::Range<usize> {
        self.arc_start[home as usize] as usize..self.arc_start[home as usize + 1] as usize
    }

    /// All arcs, row by row.
    pub fn arcs(&self) -> &[Arc] {
        &self.arcs
    }

    /// Replaces the cost of an arc.
    pub fn set_cost_ns(&mut self, arc: usize, cost_ns: i64) {
        self.arcs[arc].cost_ns = cost_ns;
    }

    /// Load at which a node reaches its ceiling, milli-requests/s.
    pub fn ceiling_mrps(&self, node: u32) -> i64 {
        share_mrps(self.spots[node as usize].capacity_mrps, self.ceiling_ppm)
    }

    /// Load up to which a node's capacity is free, milli-requests/s.
    pub fn target_mrps(&self, node: u32) -> i64 {
        share_mrps(self.spots[node as usize].capacity_mrps, self.target_ppm)
    }
}

/// A part in parts per million of a rate; rates up to 10¹² do not overflow.
fn share_mrps(rate_mrps: i64, share_ppm: u32) -> i64 {
    rate_mrps * i64::from(share_ppm) / 1_000_000
}

/// Where load goes, in milli-requests/s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flows {
    /// By home: served at home.
    pub home_mrps: Vec<i64>,
    /// By arc: moved over it.
    pub arc_mrps: Vec<i64>,
    /// By home: sent to the upstream of last resort.
    pub cloud_mrps: Vec<i64>,
    /// By home: refused, because nobody has room.
    pub shed_mrps: Vec<i64>,
}

impl Flows {
    /// No load, for a field's shape.
    pub fn none(field: &Field) -> Flows {
        let nodes = field.spots.len();
        Flows {
            home_mrps: vec![0; nodes],
            arc_mrps: vec![0; field.arcs.len()],
            cloud_mrps: vec![0; nodes],
            shed_mrps: vec![0; nodes],
        }
    }

    /// All demand at home, whatever fits.
    fn all_home(&mut self, field: &Field) {
        *self = Flows::none(field);
        for (home_mrps, spot) in self.home_mrps.iter_mut().zip(&field.spots) {
            *home_mrps = spot.demand_mrps;
        }
    }

    /// Sends what home cannot keep to the cloud if there is one, else sheds it.
    fn exit(&mut self, field: &Field, home: u32, mrps: i64) {
        let exits = match field.cloud_ns {
            Some(_) => &mut self.cloud_mrps,
            None => &mut self.shed_mrps,
        };
        exits[home as usize] += mrps;
        self.home_mrps[home as usize] -= mrps;
    }
}

/// What planning cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Effort {
    /// Paths along which flow was sent.
    pub augmentations: u64,
    /// Times a node was looked at with all its arcs.
    pub scans: u64,
    /// Demand that the planner ran out of effort for and that stays at home for now, milli-requests/s.
    pub unplaced_mrps: i64,
}

/// One way to plan. Implementations may keep memory between plans of one service.
pub trait Planner: Send {
    /// Brings `flows`, which are the last plan's and of the field's shape, up to date with the field, in about
    /// `scans_max` [scans](Effort::scans) at most. What is not done by then is sound, and goes on with the next plan.
    fn plan(&mut self, field: &Field, flows: &mut Flows, scans_max: u64) -> Effort;
}

/// The planner that a policy names.
pub fn planner(algorithm: Algorithm) -> Box<dyn Planner> {
    match algorithm {
        Algorithm::Convex => Box::new(convex::Convex::default()),
        Algorithm::Waterfall => Box::new(waterfall::Waterfall),
        Algorithm::Threshold => Box::new(threshold::Threshold),
        Algorithm::Static => Box::new(fixed::Fixed),
        Algorithm::Off => Box::new(fixed::Off),
    }
}

#[cfg(test)]
mod tests;
