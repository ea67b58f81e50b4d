//! How a rate limit of the whole mesh is divided among the nodes: by what was asked of it at each.
//!
//! While all ask for less than the limit, each gets what it asks for and an equal part of the rest, so that a surge
//! finds room wherever it begins. When they ask for more, each gets in proportion, as one bucket for all would give, but for a
//! small part that is divided equally: who asked for nothing until now may begin.
//!
//! **Invariant**: the parts sum to the whole, exactly. Pure.

use isobar_mesh_api::weight::WHOLE_PPM;

/// Part of the limit that is divided equally however much is asked.
pub const EQUAL_SHARE: f64 = 0.05;
/// Gain of the average over what was asked, on its way down; up it is followed at once.
pub const DEMAND_GAIN: f64 = 0.3;
/// A part is told anew when it is off by this share of itself.
pub const TOLD_SHARE: f64 = 0.1;

/// What one node asks of one limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    /// Requests/s.
    pub rps: f64,
}

impl Demand {
    /// Takes up one window.
    pub fn observe(&mut self, rps: f64) {
        let gain = if rps > self.rps { 1.0 } else { DEMAND_GAIN };
        self.rps += gain * (rps - self.rps);
    }
}

/// Every node's part of a limit of `limit_rps`, in parts per million, given what each asks for, in requests/s. Empty when
/// there are no nodes.
pub fn divide(limit_rps: f64, demand_rps: &[f64]) -> Vec<u32> {
    if demand_rps.is_empty() {
        return Vec::new();
    }
    let nodes = demand_rps.len() as f64;
    let asked_rps: f64 = demand_rps.iter().sum();
    // What nobody asks for, or a small part of the limit, whichever is more.
    let equal = (1.0 - asked_rps / limit_rps.max(f64::MIN_POSITIVE)).max(EQUAL_SHARE);
    let part = |rps: &f64| {
        let asked = if asked_rps > 0.0 {
            rps.max(0.0) / asked_rps
        } else {
            0.0
        };
        (1.0 - equal) * asked + equal / nodes
    };
    let whole = f64::from(WHOLE_PPM);
    let mut parts: Vec<u32> = demand_rps
        .iter()
        .map(|rps| (part(rps) * whole) as u32)
        .collect();
    let mut left = WHOLE_PPM.saturating_sub(parts.iter().sum());
    // What rounding left: one each, from the first on.
    for at in (0..parts.len()).cycle() {
        if left == 0 {
            break;
        }
        parts[at] += 1;
        left -= 1;
    }
    parts
}

/// Whether a part is so far from what was told that it is told anew.
pub fn is_due(share_ppm: u32, told_ppm: u32) -> bool {
    f64::from(share_ppm.abs_diff(told_ppm)) > TOLD_SHARE * f64::from(told_ppm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_demand_and_never_nothing() {
        let cases: [(f64, &[f64], &[u32]); 7] = [
            (100.0, &[], &[]),
            (100.0, &[0.0, 0.0], &[500_000, 500_000]),
            (100.0, &[60.0, 20.0], &[700_000, 300_000]),
            (100.0, &[300.0, 100.0], &[737_500, 262_500]),
            (100.0, &[1000.0, 0.0], &[975_000, 25_000]),
            (1.0, &[0.0, 0.0, 0.0], &[333_334, 333_333, 333_333]),
            (100.0, &[100.0, 0.0, 0.0], &[966_667, 16_667, 16_666]),
        ];
        for (limit_rps, demand_rps, expected) in cases {
            assert_eq!(divide(limit_rps, demand_rps), expected, "{demand_rps:?}");
        }
        assert!(!is_due(105_000, 100_000));
        assert!(is_due(111_000, 100_000) && is_due(1, 0));
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(
            limit_rps in 1.0f64..1e6,
            demand_rps in proptest::collection::vec(0.0f64..1e5, 1..200),
        ) {
            let parts = divide(limit_rps, &demand_rps);
            prop_assert_eq!(parts.iter().sum::<u32>(), WHOLE_PPM);
            prop_assert!(parts.iter().all(|&part| part > 0));
            // Who asks for more has no less.
            for (a, b) in parts.iter().zip(&demand_rps).zip(parts.iter().zip(&demand_rps).skip(1))
                .map(|(x, y)| if x.1 >= y.1 { (x.0, y.0) } else { (y.0, x.0) })
            {
                prop_assert!(a + 1 >= *b);
            }
        }
    }
}
