//! When requests come: a seeded Poisson process with a rate that changes over time.
//!
//! The process is drawn by its integrated intensity: the next arrival is where
//! the integral of the rate has grown by an exponential variate of mean 1. The
//! integral is taken in steps of [`STEP_S`], with the rate at their middle.
//!
//! Pure: the same seed and rates give the same arrivals, whatever the machine does meanwhile.

/// Step of the integration, in seconds: short against any rate that a replay changes.
pub const STEP_S: f64 = 0.01;

/// Requests/s that enter at a node at a time in seconds.
pub type RateFn = dyn Fn(usize, f64) -> f64 + Send + Sync;

/// The arrivals at one node, in order.
#[derive(Debug)]
pub struct Arrivals {
    rng: fastrand::Rng,
    until_s: f64,
    step: u64,
    /// What of the current step's integral is used up.
    used: f64,
}

impl Arrivals {
    /// The arrivals at `node` from 0 to `until_s`. Nodes of one seed are independent of each other.
    pub fn new(seed: u64, node: usize, until_s: f64) -> Arrivals {
        let mixed = seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(node as u64);
        Arrivals {
            rng: fastrand::Rng::with_seed(mixed),
            until_s,
            step: 0,
            used: 0.0,
        }
    }

    /// The next arrival under `rate_rps` (requests/s by time), in seconds; `None` after the end.
    pub fn next(&mut self, rate_rps: impl Fn(f64) -> f64) -> Option<f64> {
        let mut wanted = exponential(&mut self.rng);
        loop {
            let from_s = self.step as f64 * STEP_S;
            if from_s >= self.until_s {
                return None;
            }
            let rate = rate_rps(from_s + STEP_S / 2.0);
            let whole = if rate.is_finite() {
                rate.max(0.0) * STEP_S
            } else {
                0.0
            };
            let left = whole - self.used;
            if wanted < left {
                self.used += wanted;
                let at_s = from_s + STEP_S * self.used / whole;
                return (at_s < self.until_s).then_some(at_s);
            }
            wanted -= left.max(0.0);
            self.step += 1;
            self.used = 0.0;
        }
    }
}

/// An exponential variate of mean 1.
pub fn exponential(rng: &mut fastrand::Rng) -> f64 {
    // 1 - f64() is never 0.
    -(1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64, node: usize, rate: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut arrivals = Arrivals::new(seed, node, 100.0);
        std::iter::from_fn(|| arrivals.next(&rate)).collect()
    }

    #[test]
    fn counts_follow_the_rate_and_gaps_are_exponential() {
        let step = |at_s: f64| if at_s < 50.0 { 20.0 } else { 200.0 };
        let times = all(7, 3, step);
        assert!(times.is_sorted() && times.iter().all(|t| (0.0..100.0).contains(t)));
        let before = times.iter().filter(|t| **t < 50.0).count() as f64;
        let after = times.len() as f64 - before;
        // Five standard deviations of a Poisson count.
        assert!(
            (before - 1_000.0).abs() < 5.0 * 1_000_f64.sqrt(),
            "{before}"
        );
        assert!(
            (after - 10_000.0).abs() < 5.0 * 10_000_f64.sqrt(),
            "{after}"
        );
        let late: Vec<f64> = times.iter().copied().filter(|t| *t >= 50.0).collect();
        let gaps: Vec<f64> = late.windows(2).map(|w| (w[1] - w[0]) * 200.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|g| g * g).sum::<f64>() / gaps.len() as f64;
        // An exponential variate's variance is the square of its mean.
        assert!((square - mean * mean - 1.0).abs() < 0.15, "{square}");
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_and_no_rate_gives_none() {
        assert_eq!(all(1, 0, |_| 50.0), all(1, 0, |_| 50.0));
        assert_ne!(all(1, 0, |_| 50.0), all(1, 1, |_| 50.0));
        assert_ne!(all(1, 0, |_| 50.0), all(2, 0, |_| 50.0));
        for nothing in [0.0, -5.0, f64::NAN, f64::INFINITY] {
            assert!(all(1, 0, |_| nothing).is_empty(), "{nothing}");
        }
    }
}
