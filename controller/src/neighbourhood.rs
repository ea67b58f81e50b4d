//! Who may serve for whom: each home's few nearest nodes that have endpoints and pass policy.
//!
//! Distance shortlists, for it is known of every pair; measured round trips rank, for below 500 km distance says almost
//! nothing of them. A pair nobody has measured yet is ranked by what its distance lets expect.
//!
//! **Invariant**: no neighbourhood names its own home, a node twice, or a node beyond a limit; each is sorted by
//! (round trip, number). Nodes without a position have none and are in none.

use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::position::Position;
use isobar_geo_data::rtt::estimate_rtt;

use crate::load_book::RTT_US_MAX;

/// One node, by its place in the slice, as neighbourhoods see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    /// Where it is; nodes of one site share one position.
    pub position: Option<Position>,
    /// Whether it may serve for others: it has endpoints, is present and not cordoned.
    pub serves: bool,
}

/// Limits from policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Most neighbours of one home.
    pub count: usize,
    /// Farthest neighbour, metres; infinity for no limit.
    pub distance_max_m: f64,
    /// Longest round trip, microseconds.
    pub rtt_us_max: u64,
}

/// One neighbour of a home.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// Its place in the slice of spots.
    pub spot: u32,
    /// Round trip, measured or estimated, microseconds.
    pub rtt_us: u64,
}

/// The neighbourhood of every spot. `measured_us` gives the measured round trip from one spot to another, if any;
/// `may_move` says whether load may move from one to another at all.
pub fn neighbourhoods(
    spots: &[Spot],
    limits: Limits,
    measured_us: &dyn Fn(u32, u32) -> Option<u64>,
    may_move: &dyn Fn(u32, u32) -> bool,
) -> Vec<Vec<Near>> {
    let serving: Vec<u32> = (0..spots.len() as u32)
        .filter(|&s| spots[s as usize].serves && spots[s as usize].position.is_some())
        .collect();
    let positions: Vec<Position> = serving
        .iter()
        .filter_map(|&s| spots[s as usize].position)
        .collect();
    let index = NearestIndex::new(&positions);
    let around = |home: u32| {
        let Some(from) = spots[home as usize].position else {
            return Vec::new();
        };
        let rtt_us = |to: u32, distance_m: f64| {
            let estimate_us = || estimate_rtt(distance_m).median.as_micros() as u64;
            measured_us(home, to)
                .unwrap_or_else(estimate_us)
                .min(RTT_US_MAX)
        };
        let hits = if limits.rtt_us_max == u64::MAX {
            let other = |at: usize| serving[at] != home && may_move(home, serving[at]);
            index.nearest_where(from, limits.count, limits.distance_max_m, &other)
        } else {
            let passes = |at: usize| {
                let (to, there) = (serving[at], positions[at]);
                let distance_m = isobar_geo_data::distance::distance_m(from, there);
                to != home && rtt_us(to, distance_m) <= limits.rtt_us_max && may_move(home, to)
            };
            index.nearest_where(from, limits.count, limits.distance_max_m, &passes)
        };
        let mut near: Vec<Near> = hits
            .iter()
            .map(|hit| Near {
                spot: serving[hit.index],
                rtt_us: rtt_us(serving[hit.index], hit.distance_m),
            })
            .collect();
        near.sort_by_key(|n| (n.rtt_us, n.spot));
        near
    };
    (0..spots.len() as u32).map(around).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Limits = Limits {
        count: 2,
        distance_max_m: f64::INFINITY,
        rtt_us_max: u64::MAX,
    };

    /// Spots on the equator, one per hundredth of a degree (1.1 km).
    fn line(count: u32) -> Vec<Spot> {
        (0..count)
            .map(|i| Spot {
                position: Some(Position::new(0.0, f64::from(i) / 100.0).unwrap()),
                serves: true,
            })
            .collect()
    }

    fn check(
        spots: &[Spot],
        limits: Limits,
        measured: &[(u32, u32, u64)],
        home: usize,
        expected: &[u32],
    ) {
        let look_up = |from, to| {
            let found = measured.iter().find(|m| (m.0, m.1) == (from, to));
            found.map(|m| m.2)
        };
        let all = neighbourhoods(spots, limits, &look_up, &|_, _| true);
        let names: Vec<u32> = all[home].iter().map(|n| n.spot).collect();
        assert_eq!(names, expected, "{limits:?} {measured:?}");
    }

    #[test]
    fn distance_shortlists_and_measurements_rank() {
        let spots = line(6);
        check(&spots, FREE, &[], 0, &[1, 2]);
        check(&spots, FREE, &[], 3, &[2, 4]);
        check(&spots, FREE, &[(0, 1, 9_000)], 0, &[2, 1]);
        // Distance alone shortlists: a fast but far node is not asked.
        check(&spots, FREE, &[(0, 5, 10)], 0, &[1, 2]);
        let near = neighbourhoods(&spots, FREE, &|_, _| None, &|_, _| true);
        let kept = neighbourhoods(&spots, FREE, &|_, _| None, &|_, to| to != 1);
        assert_eq!(kept[0][0].spot, 2);
        assert_eq!(near[0][0].rtt_us, 4_458);
    }

    #[test]
    fn limits_hold() {
        let mut spots = line(6);
        let few = Limits { count: 1, ..FREE };
        check(&spots, few, &[], 3, &[2]);
        let close = Limits {
            distance_max_m: 1_200.0,
            ..FREE
        };
        check(&spots, close, &[], 0, &[1]);
        let fast = Limits {
            rtt_us_max: 4_480,
            ..FREE
        };
        check(&spots, fast, &[], 0, &[1]);
        check(&spots, fast, &[(0, 1, 9_000), (0, 3, 1_000)], 0, &[3]);
        let none = Limits { count: 0, ..FREE };
        check(&spots, none, &[], 0, &[]);
        spots[1].serves = false;
        check(&spots, FREE, &[], 0, &[2, 3]);
        check(&spots, FREE, &[], 1, &[0, 2]);
        spots[2].position = None;
        check(&spots, FREE, &[], 0, &[3, 4]);
        check(&spots, FREE, &[], 2, &[]);
    }
}
