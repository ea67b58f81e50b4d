//! Who is near: an index of many positions that answers "the k nearest" and "all within r metres".
//!
//! ```text
//! positions ──unit vectors──▶ distinct spots ──bulk load──▶ R-tree in three dimensions
//!   query ──unit vector──▶ spots by straight line ──▶ members by (great-circle distance, index)
//! ```
//!
//! The straight line through the sphere grows with the great circle over it, so the nearest by one are the nearest by
//! the other, and an R-tree over unit vectors needs no special case at poles or the date line. (An R-tree over degrees
//! with haversine as its distance picks wrong neighbours: its boxes bound degrees, not metres.)
//!
//! **Invariant**: an answer equals that of a linear scan with [`distance_m`](crate::distance::distance_m) sorted by
//! (distance, index), to the bit. Positions of one spot are kept as one element of the tree, so that thousands of nodes
//! of one site do not make each query among them a scan of all.

use rstar::primitives::GeomWithData;
use rstar::{RStarInsertionStrategy, RTree, RTreeParams};

use crate::distance::{arc_m, chord_squared};
use crate::position::Position;

/// How much farther, as a share of the squared chord, the tree is read beyond the k-th hit. Chord and arc are rounded
/// differently (by about 1e-15), so equals by one may be in another order by the other.
const CHORD_SLACK: f64 = 1e-12;

/// One hit of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Where it stood in the slice the index was built from.
    pub index: usize,
    /// Great-circle distance from the place asked about, metres.
    pub distance_m: f64,
}

/// Tree nodes of up to 12: fewer levels, and a quicker walk than with the default of 6 (the bench `nearest` compares).
#[derive(Clone)]
struct WideNodes;

impl RTreeParams for WideNodes {
    const MIN_SIZE: usize = 4;
    const MAX_SIZE: usize = 12;
    const REINSERTION_COUNT: usize = 2;
    type DefaultInsertionStrategy = RStarInsertionStrategy;
}

/// A distinct place and its number in `member_start`.
type Spot = GeomWithData<[f64; 3], usize>;

/// An immutable index of positions; built once, asked often, from any thread.
pub struct NearestIndex {
    tree: RTree<Spot, WideNodes>,
    /// Unit vector of each position, by index.
    vectors: Vec<[f64; 3]>,
    /// Indices of positions grouped by spot, ascending within each.
    members: Vec<usize>,
    /// Spot s has `members[member_start[s]..member_start[s + 1]]`.
    member_start: Vec<usize>,
}

impl NearestIndex {
    /// Indexes `positions` in bulk; hits name them by their place in this slice. O(n log n).
    #[must_use]
    pub fn new(positions: &[Position]) -> Self {
        let vectors: Vec<[f64; 3]> = positions.iter().map(|p| p.unit_vector()).collect();
        let mut members: Vec<usize> = (0..vectors.len()).collect();
        members.sort_unstable_by(|&a, &b| by_vector(&vectors[a], &vectors[b]).then(a.cmp(&b)));

        let mut spots = Vec::new();
        let mut member_start = Vec::new();
        for (at, &index) in members.iter().enumerate() {
            if at == 0 || vectors[members[at - 1]] != vectors[index] {
                spots.push(Spot::new(vectors[index], spots.len()));
                member_start.push(at);
            }
        }
        member_start.push(members.len());
        Self {
            tree: RTree::bulk_load_with_params(spots),
            vectors,
            members,
            member_start,
        }
    }

    /// How many positions are indexed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Whether nothing is indexed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// The `k` positions nearest to `from`, by (distance, index); fewer if there are fewer. A position equal to `from`
    /// is a hit at 0 m like any other; see [`nearest_of`](Self::nearest_of) to leave oneself out.
    #[must_use]
    pub fn nearest(&self, from: Position, k: usize) -> Vec<Neighbour> {
        self.search(&from.unit_vector(), k, f64::INFINITY, &|_| true)
    }

    /// The `k` positions nearest to the indexed position `index`, that one itself left out (others at the same spot
    /// are not). Empty when there is no such index.
    #[must_use]
    pub fn nearest_of(&self, index: usize, k: usize) -> Vec<Neighbour> {
        self.vectors.get(index).map_or_else(Vec::new, |from| {
            self.search(from, k, f64::INFINITY, &|other| other != index)
        })
    }

    /// The `k` nearest to `from` among those that `accept` lets pass, no farther than `reach_m` metres (inclusive;
    /// infinity for no limit). The tree is read outward until k are found, so an `accept` that refuses nearly all costs
    /// a scan of what lies within reach.
    #[must_use]
    pub fn nearest_where(
        &self,
        from: Position,
        k: usize,
        reach_m: f64,
        accept: &dyn Fn(usize) -> bool,
    ) -> Vec<Neighbour> {
        self.search(&from.unit_vector(), k, reach_m, accept)
    }

    /// All positions within `radius_m` metres (inclusive) of `from`, by (distance, index). A negative radius or NaN
    /// finds none.
    #[must_use]
    pub fn within(&self, from: Position, radius_m: f64) -> Vec<Neighbour> {
        self.search(&from.unit_vector(), usize::MAX, radius_m, &|_| true)
    }

    fn search(
        &self,
        from: &[f64; 3],
        k: usize,
        reach_m: f64,
        accept: &dyn Fn(usize) -> bool,
    ) -> Vec<Neighbour> {
        let mut found = Vec::new();
        if k == 0 || reach_m.is_nan() || reach_m < 0.0 {
            return found;
        }
        let mut chord_squared_max = chord_squared(reach_m) * (1.0 + CHORD_SLACK);
        for (spot, chord_squared) in self.tree.nearest_neighbor_iter_with_distance_2(from) {
            if chord_squared > chord_squared_max {
                break;
            }
            let distance_m = arc_m(from, spot.geom());
            if distance_m > reach_m {
                continue;
            }
            let hits = self.members_of(spot.data).iter().filter(|i| accept(**i));
            found.extend(hits.take(k).map(|&index| Neighbour { index, distance_m }));
            if found.len() >= k {
                chord_squared_max = chord_squared_max.min(chord_squared * (1.0 + CHORD_SLACK));
            }
        }
        found.sort_unstable_by(|a, b| {
            let by_distance = a.distance_m.total_cmp(&b.distance_m);
            by_distance.then(a.index.cmp(&b.index))
        });
        found.truncate(k);
        found
    }

    fn members_of(&self, spot: usize) -> &[usize] {
        &self.members[self.member_start[spot]..self.member_start[spot + 1]]
    }
}

fn by_vector(a: &[f64; 3], b: &[f64; 3]) -> std::cmp::Ordering {
    let by_axis = |axis: usize| a[axis].total_cmp(&b[axis]);
    by_axis(0).then(by_axis(1)).then(by_axis(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::{DISTANCE_M_MAX, distance_m};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn at(lat_deg: f64, lon_deg: f64) -> Position {
        Position::new(lat_deg, lon_deg).unwrap()
    }

    /// The plain truth the index is held to.
    fn scan(positions: &[Position], from: Position) -> Vec<Neighbour> {
        let measured = positions.iter().enumerate().map(|(index, &p)| Neighbour {
            index,
            distance_m: distance_m(from, p),
        });
        let mut all: Vec<_> = measured.collect();
        all.sort_by(|a, b| {
            let by_distance = a.distance_m.total_cmp(&b.distance_m);
            by_distance.then(a.index.cmp(&b.index))
        });
        all
    }

    /// Anywhere, at the poles and the date line, on a coarse lattice (exact ties and duplicates), and in one town.
    fn place() -> impl Strategy<Value = Position> {
        let anywhere = (-90.0..=90.0, -180.0..=180.0).boxed();
        let polar = (89.999..=90.0, -180.0..=180.0)
            .prop_flat_map(|(lat, lon): (f64, f64)| {
                prop_oneof![Just((lat, lon)), Just((-lat, lon))]
            })
            .boxed();
        let date_line = (-1.0..=1.0, 179.99..=180.0)
            .prop_flat_map(|(lat, lon): (f64, f64)| {
                prop_oneof![Just((lat, lon)), Just((lat, -lon))]
            })
            .boxed();
        let lattice = (-2..=2, -4..=4)
            .prop_map(|(lat, lon)| (f64::from(lat) * 45.0, f64::from(lon) * 45.0))
            .boxed();
        let town = (45.40..45.50, 9.10..9.30).boxed();
        prop_oneof![anywhere, polar, date_line, lattice, town].prop_map(|(lat, lon)| at(lat, lon))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn equals_the_linear_scan(
            positions in vec(place(), 0..120), from in place(), k in 0_usize..20, radius_m in 0.0..DISTANCE_M_MAX * 1.1,
        ) {
            let index = NearestIndex::new(&positions);
            let all = scan(&positions, from);
            prop_assert_eq!(&index.nearest(from, k)[..], &all[..k.min(all.len())]);

            let mut near = all.clone();
            near.retain(|n| n.distance_m <= radius_m);
            prop_assert_eq!(index.within(from, radius_m), near);

            // Exactly at a hit: inclusive.
            if let Some(edge) = all.get(k) {
                let mut near = all.clone();
                near.retain(|n| n.distance_m <= edge.distance_m);
                prop_assert_eq!(index.within(from, edge.distance_m), near);
            }

            let mut even = all.clone();
            even.retain(|n| n.index % 2 == 0 && n.distance_m <= radius_m);
            even.truncate(k);
            prop_assert_eq!(index.nearest_where(from, k, radius_m, &|i| i % 2 == 0), even);
        }

        #[test]
        fn oneself_is_left_out(positions in vec(place(), 1..60), k in 0_usize..12) {
            let index = NearestIndex::new(&positions);
            for (own, &from) in positions.iter().enumerate() {
                let mut others = scan(&positions, from);
                others.retain(|n| n.index != own);
                others.truncate(k);
                prop_assert_eq!(index.nearest_of(own, k), others);
            }
        }
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        let index = NearestIndex::new(&[]);
        assert!(index.is_empty());
        assert!(index.nearest(at(0.0, 0.0), 8).is_empty());
        assert!(index.nearest_of(0, 8).is_empty());
        assert!(index.within(at(0.0, 0.0), f64::INFINITY).is_empty());
    }

    #[test]
    fn radius_without_meaning_finds_none() {
        let index = NearestIndex::new(&[at(0.0, 0.0)]);
        assert_eq!(index.len(), 1);
        for radius_m in [-1.0, f64::NAN] {
            assert!(index.within(at(0.0, 0.0), radius_m).is_empty());
        }
        assert_eq!(index.within(at(0.0, 0.0), 0.0).len(), 1);
    }

    #[test]
    fn one_crowded_site_answers_by_index() {
        let index = NearestIndex::new(&vec![at(-36.85, 174.76); 5_000]);
        let hits = index.nearest_of(1, 3);
        let indices: Vec<usize> = hits.iter().map(|n| n.index).collect();
        assert_eq!(indices, [0, 2, 3]);
        assert!(hits.iter().all(|n| n.distance_m == 0.0));
    }
}
