//! Weights that follow the plan without swinging.
//!
//! Outward at once, for a home that is over its limit cannot wait; homeward by [`HOMEWARD_GAIN`], for demand that falls
//! for one window may be back in the next. What has almost arrived goes the whole way.
//!
//! **Invariant**: home, cloud and moves of a row sum to exactly one million, at every step.

use isobar_mesh_api::weight::{WHOLE_PPM, apportion_ppm};

/// Part of the way home that one period goes.
pub const HOMEWARD_GAIN: f64 = 0.35;
/// Distance from the plan below which a row goes all the way: two points, for less is not pushed either.
pub const FINISH_PPM: u32 = PUSH_PPM;
/// Smallest change that is pushed, unless a limit would break: two points.
pub const PUSH_PPM: u32 = 20_000;

/// One home's row, by node numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Served at home.
    pub home_ppm: u32,
    /// Sent to the upstream of last resort.
    pub cloud_ppm: u32,
    /// Refused, of the whole demand; the rest follows the weights.
    pub shed_ppm: u32,
    /// Sent to others: (node, weight above 0), by node.
    pub moves: Vec<(u32, u32)>,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights {
            home_ppm: WHOLE_PPM,
            cloud_ppm: 0,
            shed_ppm: 0,
            moves: Vec::new(),
        }
    }
}

impl Weights {
    /// The row that carries these flows, all in the same unit: at home, to the cloud, refused, and moved by node.
    /// Everything at home when there is no flow.
    pub fn from_flows(home: f64, cloud: f64, shed: f64, moved: &[(u32, f64)]) -> Weights {
        let shares: Vec<f64> = [home, cloud]
            .into_iter()
            .chain(moved.iter().map(|m| m.1))
            .collect();
        let row = apportion_ppm(&shares);
        let placed: f64 = shares.iter().sum();
        let refused = shed / (placed + shed);
        let mut moves: Vec<(u32, u32)> = moved
            .iter()
            .zip(&row[2..])
            .map(|(m, &w)| (m.0, w))
            .collect();
        moves.retain(|m| m.1 > 0);
        moves.sort_unstable();
        Weights {
            home_ppm: row[0],
            cloud_ppm: row[1],
            shed_ppm: if refused.is_finite() {
                (refused * f64::from(WHOLE_PPM)) as u32
            } else {
                0
            },
            moves,
        }
    }

    /// Whether everything is served at home.
    pub fn is_home(&self) -> bool {
        self.home_ppm == WHOLE_PPM && self.shed_ppm == 0
    }

    /// The weight of one node, 0 when the row does not name it.
    pub fn to_ppm(&self, node: u32) -> u32 {
        let found = self.moves.binary_search_by_key(&node, |m| m.0);
        found.map_or(0, |at| self.moves[at].1)
    }

    /// The largest change of any weight between two rows.
    pub fn distance_ppm(&self, other: &Weights) -> u32 {
        let of_moves = merged(&self.moves, &other.moves)
            .map(|(_, a, b)| a.abs_diff(b))
            .max();
        let rest = [
            self.home_ppm.abs_diff(other.home_ppm),
            self.cloud_ppm.abs_diff(other.cloud_ppm),
            self.shed_ppm.abs_diff(other.shed_ppm),
        ];
        rest.into_iter().chain(of_moves).max().unwrap_or(0)
    }

    /// One period's step towards the planned row.
    pub fn step_towards(&mut self, planned: &Weights) {
        let homeward = planned.home_ppm > self.home_ppm;
        if !homeward || self.distance_ppm(planned) < FINISH_PPM {
            self.clone_from(planned);
            return;
        }
        let part = |from: u32, to: u32| {
            let step = HOMEWARD_GAIN * (f64::from(to) - f64::from(from));
            (f64::from(from) + step) as u32
        };
        let mut moves: Vec<(u32, u32)> = merged(&self.moves, &planned.moves)
            .map(|(node, from, to)| (node, part(from, to)))
            .collect();
        moves.retain(|m| m.1 > 0);
        let cloud_ppm = part(self.cloud_ppm, planned.cloud_ppm);
        // Each part is rounded down, so home gets what is left, and that is no less than its own part.
        let away_ppm: u32 = cloud_ppm + moves.iter().map(|m| m.1).sum::<u32>();
        *self = Weights {
            home_ppm: WHOLE_PPM - away_ppm,
            cloud_ppm,
            shed_ppm: planned.shed_ppm,
            moves,
        };
    }

    /// Brings the weight of a node home: it is gone.
    pub fn forget(&mut self, node: u32) {
        if let Ok(at) = self.moves.binary_search_by_key(&node, |m| m.0) {
            self.home_ppm += self.moves.remove(at).1;
        }
    }

    /// Whether a change from `pushed` to this row must be pushed even though no limit would break.
    pub fn is_due(&self, pushed: &Weights) -> bool {
        self.distance_ppm(pushed) > PUSH_PPM || (self.is_home() && !pushed.is_home())
    }
}

/// Both rows' weights side by side, by node; 0 where a row does not name it.
fn merged<'a>(
    a: &'a [(u32, u32)],
    b: &'a [(u32, u32)],
) -> impl Iterator<Item = (u32, u32, u32)> + 'a {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) if x.0 == y.0 => (x.0, x.1, y.1),
            (Some(x), Some(y)) if x.0 > y.0 => (y.0, 0, y.1),
            (None, Some(y)) => (y.0, 0, y.1),
            (Some(x), _) => (x.0, x.1, 0),
            (None, None) => return None,
        };
        i += usize::from(a.get(i).is_some_and(|x| x.0 == next.0));
        j += usize::from(b.get(j).is_some_and(|y| y.0 == next.0));
        Some(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(home: f64, moved: &[(u32, f64)]) -> Weights {
        Weights::from_flows(home, 0.0, 0.0, moved)
    }

    #[test]
    fn outward_at_once_homeward_by_steps_and_then_all_the_way() {
        let hot = row(0.2, &[(3, 0.5), (1, 0.3)]);
        assert_eq!(hot.moves, [(1, 300_000), (3, 500_000)]);
        let mut now = Weights::default();
        now.step_towards(&hot);
        assert_eq!(now, hot);
        let mut homes = Vec::new();
        while !now.is_home() {
            now.step_towards(&Weights::default());
            homes.push(now.home_ppm);
        }
        assert_eq!(homes[0], 480_000);
        assert!(homes.is_sorted() && homes.len() <= 13, "{homes:?}");
        // From one neighbour to another is not homeward.
        let mut now = row(0.2, &[(3, 0.8)]);
        now.step_towards(&row(0.2, &[(1, 0.8)]));
        assert_eq!(now.moves, [(1, 800_000)]);
    }

    #[test]
    fn pushes_are_for_changes_that_matter() {
        let pushed = row(0.500, &[(1, 0.500)]);
        assert!(!row(0.519, &[(1, 0.481)]).is_due(&pushed));
        assert!(row(0.521, &[(1, 0.479)]).is_due(&pushed));
        assert!(row(0.500, &[(1, 0.470), (2, 0.030)]).is_due(&pushed));
        let nearly = row(0.99, &[(1, 0.01)]);
        assert!(Weights::default().is_due(&nearly));
        assert!(!nearly.is_due(&Weights::default()));
        let mut lost = pushed.clone();
        lost.forget(1);
        assert!(lost.is_home());
    }

    #[test]
    fn refusals_are_a_part_of_the_whole() {
        let row = Weights::from_flows(150.0, 0.0, 50.0, &[]);
        assert_eq!((row.home_ppm, row.shed_ppm), (WHOLE_PPM, 250_000));
        let nothing = Weights::from_flows(0.0, 0.0, 0.0, &[(1, 0.0)]);
        assert!(nothing.is_home());
    }

    proptest! {
        #[test]
        fn every_step_sums_to_a_million(
            rows in prop::collection::vec(
                (0.0_f64..1e6, 0.0_f64..1e6, prop::collection::btree_map(0_u32..12, 0.0_f64..1e6, 0..9)),
                2..12,
            ),
        ) {
            let mut now = Weights::default();
            for (home, cloud, moved) in rows {
                let moved: Vec<(u32, f64)> = moved.into_iter().collect();
                let planned = Weights::from_flows(home, cloud, 0.0, &moved);
                let before = now.clone();
                now.step_towards(&planned);
                let sum = now.home_ppm + now.cloud_ppm + now.moves.iter().map(|m| m.1).sum::<u32>();
                prop_assert_eq!(sum, WHOLE_PPM);
                prop_assert!(now.distance_ppm(&planned) <= before.distance_ppm(&planned));
                prop_assert!(now.moves.is_sorted_by_key(|m| m.0) && now.moves.iter().all(|m| m.1 > 0));
            }
        }
    }
}
