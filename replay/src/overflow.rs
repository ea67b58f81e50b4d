//! What a plan could place at best, bin by bin, with nothing simulated.
//!
//! For each time bin of a trace: how much load is beyond the capacity of the
//! site where it enters (*overflow*), and how much of that finds no place when
//! it may move within a radius, first without displacement (a site serves its
//! own load first, and neighbours take what still fits), then with it (a full
//! neighbour may move its own load on). Both are exact optima: minimum-cost flows
//! of the production solver in which shedding costs more than any move.

use isobar_controller::planner::flow::{Arcs, Curve, Exits, Facility, Flow, FlowError};
use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::position::Position;
use serde::Serialize;

use crate::load::trace::{Recording, TraceError};
use crate::options::Options;

/// Milli-units per unit of load.
const MILLI: f64 = 1000.0;
/// Longest distance that is told apart from a longer one, in metres; a metre costs 1 µs.
const NS_PER_M: f64 = 1000.0;
/// Shedding costs more than any chain of moves.
const SHED_NS: i64 = 1_000_000_000_000;
/// Smallest load that counts as overflow, in units.
const LEAST: f64 = 1e-6;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum OverflowError {
    /// The trace cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A made-up spike, or sites whose capacity nobody knows.
    #[error(
        "only a trace whose sites are sized by their history overflows: name --sites, --load and --sized"
    )]
    NotSized,
    /// More sites or pairs than the solver numbers.
    #[error("placing what overflows")]
    Flow(#[from] FlowError),
}

/// The figures of one bin and radius.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// When the bin begins.
    pub start: String,
    /// How far load may move, in kilometres.
    pub radius_km: f64,
    /// What overflows and where it goes.
    #[serde(flatten)]
    pub overflow: Overflow,
}

/// The figures of every bin of the trace that `options` name, for each radius in kilometres; `progress` hears how
/// many of how many lines there are.
///
/// # Errors
/// No trace, a trace that cannot be read, or one that is too large.
pub fn lines(
    options: &Options,
    radii_km: &[f64],
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Line>, OverflowError> {
    let recording = Recording::read(options)?.ok_or(OverflowError::NotSized)?;
    let capacities = recording.capacities().ok_or(OverflowError::NotSized)?;
    let bins = recording.bins();
    let mut lines = Vec::with_capacity(bins.len() * radii_km.len());
    for &radius_km in radii_km {
        let reach = Reach::within(&recording.positions(), radius_km * 1000.0);
        for (start, loads) in &bins {
            progress(lines.len(), bins.len() * radii_km.len());
            lines.push(Line {
                start: start.clone(),
                radius_km,
                overflow: reach.overflow(loads, capacities)?,
            });
        }
    }
    Ok(lines)
}

/// One bin's figures, in the trace's unit of load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Overflow {
    /// Sites with more load than capacity.
    pub full_sites: usize,
    /// Load beyond the capacity of its own site, summed.
    pub overflow: f64,
    /// Of that, what no neighbour within the radius has room for.
    pub unplaced: f64,
    /// The same when neighbours may move their own load on.
    pub unplaced_displacing: f64,
    /// Load that moves in the plan with displacement.
    pub moved_displacing: f64,
}

/// Sites within reach of one another, ready to be asked about many bins.
#[derive(Debug)]
pub struct Reach {
    neighbours: Vec<Vec<(u32, i64)>>,
}

impl Reach {
    /// Every pair of `positions` at most `radius_m` metres apart.
    pub fn within(positions: &[Position], radius_m: f64) -> Reach {
        let index = NearestIndex::new(positions);
        let others = |(site, position): (usize, &Position)| {
            let near = index.within(*position, radius_m).into_iter();
            near.filter(|n| n.index != site)
                .map(|n| (n.index as u32, (n.distance_m * NS_PER_M) as i64))
                .collect()
        };
        Reach {
            neighbours: positions.iter().enumerate().map(others).collect(),
        }
    }

    /// The figures of one bin. `loads` and `capacities` are by site, in the same unit, not
    /// negative.
    ///
    /// # Errors
    /// More sites or pairs than the solver numbers.
    pub fn overflow(&self, loads: &[f64], capacities: &[f64]) -> Result<Overflow, FlowError> {
        let pairs = || loads.iter().zip(capacities);
        let beyond = |(load, capacity): (&f64, &f64)| (load - capacity).max(0.0);
        let own_first =
            pairs().map(|(load, capacity)| (beyond((load, capacity)), load.min(*capacity)));
        let moved = self.solve(own_first, capacities)?;
        let free = self.solve(loads.iter().map(|load| (*load, 0.0)), capacities)?;
        Ok(Overflow {
            full_sites: pairs().filter(|pair| beyond(*pair) > LEAST).count(),
            overflow: pairs().map(beyond).sum(),
            unplaced: shed(&moved),
            unplaced_displacing: shed(&free),
            moved_displacing: away(&free),
        })
    }

    /// Solves with (movable, fixed) load by site.
    fn solve(
        &self,
        loads: impl Iterator<Item = (f64, f64)>,
        capacities: &[f64],
    ) -> Result<Flow, FlowError> {
        let curve = Curve::new(vec![1_000_000], vec![0])?;
        let exits = Exits {
            cloud_ns: None,
            shed_ns: SHED_NS,
        };
        let mut flow = Flow::new(Arcs::new(&self.neighbours)?, curve, exits);
        for (site, ((movable, fixed), capacity)) in loads.zip(capacities).enumerate() {
            let milli = |units: f64| (units * MILLI).round() as i64;
            flow.set_demand(site as u32, milli(movable));
            flow.set_facility(
                site as u32,
                Facility {
                    capacity_mrps: milli(*capacity),
                    service_ns: 0,
                    fixed_mrps: milli(fixed),
                },
            );
        }
        flow.solve();
        Ok(flow)
    }
}

fn shed(flow: &Flow) -> f64 {
    let nodes = 0..flow.nodes() as u32;
    nodes.map(|node| flow.shed_mrps(node)).sum::<i64>() as f64 / MILLI
}

fn away(flow: &Flow) -> f64 {
    let nodes = 0..flow.nodes() as u32;
    let moved = |node| {
        let arcs = flow
            .row(node)
            .filter(move |&arc| flow.arc_head(arc) != node);
        arcs.map(|arc| flow.arc_mrps(arc)).sum::<i64>()
    };
    nodes.map(moved).sum::<i64>() as f64 / MILLI
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four places on a meridian, about 0.5 km apart: full, full, full, idle.
    #[test]
    fn displacement_reaches_a_step_farther() {
        let position = |i: i32| Position::new(45.0 + f64::from(i) * 0.0045, 9.0).unwrap();
        let positions: Vec<Position> = (0..4).map(position).collect();
        let reach = Reach::within(&positions, 600.0);
        let capacities = [100.0; 4];
        let got = reach
            .overflow(&[130.0, 100.0, 90.0, 20.0], &capacities)
            .unwrap();
        assert_eq!(got.full_sites, 1);
        assert!((got.overflow - 30.0).abs() < 1e-9);
        assert!((got.unplaced - 30.0).abs() < 1e-9, "its neighbour is full");
        assert!(got.unplaced_displacing.abs() < 1e-9, "{got:?}");
        // 30 to the second, 30 of its own on to the third, 20 of its own on to the fourth.
        assert!((got.moved_displacing - 80.0).abs() < 1e-9, "{got:?}");
    }
}
