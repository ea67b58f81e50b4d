//! Where the nodes are, what each can do, and how far they are apart.
//!
//! Nodes are dense indices here; names exist only at the border to the
//! production code, which knows nothing of indices.

use std::collections::BTreeMap;
use std::ops::Range;

use isobar_geo_data::distance::distance_m;
use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::position::Position;
use isobar_geo_data::rtt::estimate_rtt;
use isobar_mesh_api::names::NodeId;

use crate::options::Options;

/// Distance between two nodes of a row or column of the grid, in metres.
pub const GRID_SPACING_M: f64 = 500.0;
/// Where the grid's first node stands, in degrees north and east.
const GRID_ORIGIN_DEG: (f64, f64) = (45.0, 9.0);

/// How long a request is under way between two nodes.
#[derive(Debug, Clone, PartialEq)]
enum Rtt {
    /// Drawn once per pair, in nanoseconds.
    Uniform(Range<u64>, u64),
    /// The median estimate for the distance.
    ByDistance,
}

/// All nodes of one replay.
#[derive(Debug, Clone)]
pub struct Field {
    /// Names, by index.
    pub names: Vec<NodeId>,
    /// Positions, by index.
    pub positions: Vec<Position>,
    /// Neighbourhoods: indices by distance, nearest first.
    pub neighbours: Vec<Vec<u32>>,
    /// Requests each node works on at once, by index.
    pub workers: Vec<u32>,
    /// Mean service time, in nanoseconds.
    pub service_ns: f64,
    rtt: Rtt,
    by_name: BTreeMap<NodeId, u32>,
}

impl Field {
    /// A field of nodes at these positions with these workers, as the options say. `seed` decides the round trips.
    pub fn new(
        names: Vec<NodeId>,
        positions: Vec<Position>,
        workers: Vec<u32>,
        options: &Options,
        seed: u64,
    ) -> Field {
        let index = NearestIndex::new(&positions);
        let reach_m = options.radius_km.map_or(f64::INFINITY, |km| km * 1000.0);
        let neighbourhood = |node: usize| {
            let nearest = index.nearest_of(node, options.neighbours as usize);
            let near = nearest.iter().filter(|n| n.distance_m <= reach_m);
            near.map(|n| n.index as u32).collect()
        };
        let to_ns = |ms: f64| (ms * 1e6) as u64;
        let rtt = match &options.rtt_ms {
            Some(ms) => Rtt::Uniform(to_ns(ms.start)..to_ns(ms.end), seed),
            None => Rtt::ByDistance,
        };
        Field {
            neighbours: (0..positions.len()).map(neighbourhood).collect(),
            by_name: names.iter().cloned().zip(0..).collect(),
            names,
            positions,
            workers,
            service_ns: options.service_ms * 1e6,
            rtt,
        }
    }

    /// A grid of [`GRID_SPACING_M`], row by row.
    pub fn grid(options: &Options, seed: u64) -> Field {
        let (columns, rows) = options.grid;
        // Even the largest grid ends far from pole and date line: 100,000 nodes in a row are 50,000 km,
        // so longer sides wrap around; they then only cost the grid its shape, not its soundness.
        let degrees_m = isobar_geo_data::distance::EARTH_RADIUS_M.to_radians();
        let step_lat_deg = GRID_SPACING_M / degrees_m;
        let step_lon_deg = step_lat_deg / GRID_ORIGIN_DEG.0.to_radians().cos();
        let mut names = Vec::new();
        let mut positions = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                let lat_deg = GRID_ORIGIN_DEG.0 + f64::from(row) * step_lat_deg;
                let lon_deg = GRID_ORIGIN_DEG.1 + f64::from(column) * step_lon_deg;
                let position = Position::new(lat_deg.rem_euclid(90.0), lon_deg.rem_euclid(180.0));
                let name = NodeId::new(&format!("r{row}c{column}"));
                if let (Ok(name), Ok(position)) = (name, position) {
                    names.push(name);
                    positions.push(position);
                }
            }
        }
        let workers = vec![options.workers; names.len()];
        Field::new(names, positions, workers, options, seed)
    }

    /// The index of a name.
    pub fn index_of(&self, name: &NodeId) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Requests/s that `node` can serve.
    pub fn capacity_rps(&self, node: u32) -> f64 {
        f64::from(self.workers[node as usize]) * 1e9 / self.service_ns
    }

    /// Requests/s that all nodes together can serve.
    pub fn total_rps(&self) -> f64 {
        let workers: u64 = self.workers.iter().map(|&w| u64::from(w)).sum();
        workers as f64 * 1e9 / self.service_ns
    }

    /// Round trip between two nodes, in nanoseconds; the same both ways.
    pub fn rtt_ns(&self, a: u32, b: u32) -> u64 {
        match &self.rtt {
            Rtt::Uniform(range, seed) => {
                let width = range.end - range.start;
                let drawn = mix(seed ^ mix(u64::from(a.min(b)) << 32 | u64::from(a.max(b))));
                range.start + ((u128::from(width) * u128::from(drawn)) >> 64) as u64
            }
            Rtt::ByDistance => {
                let apart_m = distance_m(self.positions[a as usize], self.positions[b as usize]);
                estimate_rtt(apart_m).median.as_nanos() as u64
            }
        }
    }
}

/// Spreads a number over all 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_eight_near_neighbours_and_symmetric_round_trips() {
        let options = Options {
            grid: (7, 7),
            ..Options::default()
        };
        let field = Field::grid(&options, 3);
        assert_eq!(field.len(), 49);
        let centre = 3 * 7 + 3;
        let mut around: Vec<u32> = field.neighbours[centre].clone();
        around.sort_unstable();
        assert_eq!(around, [16, 17, 18, 23, 25, 30, 31, 32]);
        for (a, list) in field.neighbours.iter().enumerate() {
            for &b in list {
                let rtt_ns = field.rtt_ns(a as u32, b);
                assert_eq!(rtt_ns, field.rtt_ns(b, a as u32));
                assert!((1_000_000..4_000_000).contains(&rtt_ns));
            }
        }
        let other = Field::grid(&options, 4);
        assert_ne!(field.rtt_ns(0, 1), other.rtt_ns(0, 1));
    }

    #[test]
    fn a_radius_cuts_the_neighbourhood() {
        let options = Options {
            grid: (5, 5),
            radius_km: Some(0.6),
            ..Options::default()
        };
        let field = Field::grid(&options, 1);
        assert_eq!(field.neighbours[12].len(), 4);
        assert_eq!(field.neighbours[0].len(), 2);
    }
}
