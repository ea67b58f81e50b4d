//! Turns weights into a sequence of single choices.
//!
//! Smooth weighted round robin: every choice adds each weight to its credit,
//! takes the largest and subtracts the whole. Over any run of choices each
//! target is within one of its exact share, so the stream that a neighbour
//! receives is evenly spaced: a random draw with the same weights would send
//! it bursts, and bursts are queues.

use isobar_mesh_api::weight::WHOLE_PPM;

/// Credits of one row's targets. One per worker thread; never shared.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    credits: Vec<i64>,
}

impl Spread {
    /// Chooses an index of `weights_ppm`, which sum to [`WHOLE_PPM`]. Ties go to the lower
    /// index. After a change of row the credits carry over where the index stays.
    ///
    /// An empty row gives 0.
    pub fn next(&mut self, weights_ppm: &[u32]) -> usize {
        if self.credits.len() != weights_ppm.len() {
            self.credits.resize(weights_ppm.len(), 0);
        }
        let mut best = 0;
        let mut best_credit = i64::MIN;
        for (i, (credit, &weight)) in self.credits.iter_mut().zip(weights_ppm).enumerate() {
            if weight == 0 {
                // A target that lost its weight keeps no debt and no claim.
                *credit = 0;
                continue;
            }
            *credit += i64::from(weight);
            if *credit > best_credit {
                (best, best_credit) = (i, *credit);
            }
        }
        if let Some(credit) = self.credits.get_mut(best) {
            // Bounded, so that credits left from another row cannot pile up a burst.
            *credit = (*credit - i64::from(WHOLE_PPM)).max(-i64::from(WHOLE_PPM));
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_target_gets_its_share(shares in prop::collection::vec(0.0_f64..1.0, 1..12)) {
            let row = isobar_mesh_api::weight::apportion_ppm(&shares);
            let mut spread = Spread::default();
            let mut got = vec![0_u32; row.len()];
            for n in 1..=500_u32 {
                got[spread.next(&row)] += 1;
                for (count, weight) in got.iter().zip(&row) {
                    let exact = f64::from(n) * f64::from(*weight) / f64::from(WHOLE_PPM);
                    prop_assert!((f64::from(*count) - exact).abs() <= row.len() as f64);
                }
            }
            for (count, weight) in got.iter().zip(&row) {
                prop_assert!(*weight > 0 || *count == 0);
            }
        }
    }

    #[test]
    fn a_row_that_changes_leaves_no_burst() {
        let mut spread = Spread::default();
        for _ in 0..100 {
            spread.next(&[WHOLE_PPM, 0]);
        }
        let after: Vec<usize> = (0..6)
            .map(|_| spread.next(&[WHOLE_PPM / 2, WHOLE_PPM / 2]))
            .collect();
        assert_eq!(after.iter().filter(|&&i| i == 0).count(), 3);
        assert_eq!(spread.next(&[]), 0);
    }
}
