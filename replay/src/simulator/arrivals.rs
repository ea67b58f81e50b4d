//! Poisson arrivals whose rate changes with time.
//!
//! The rate is held for [`PIECE_NS`]. An arrival is due when the rate,
//! summed over time, has used up an exponential draw (time rescaling), which
//! is exact for a rate that is constant piece by piece. Every node has its
//! own stream of random numbers for gaps and service times, so all policies
//! of one seed see the same requests.

use crate::field::mix;
use crate::load::Load;

/// How long a rate is held, in nanoseconds: 100 ms.
pub(crate) const PIECE_NS: u64 = 100_000_000;

/// One node's clients.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    node: u32,
    rng: fastrand::Rng,
    /// The piece that `rate_per_ns` is of.
    piece: u64,
    rate_per_ns: f64,
    hot: bool,
}

impl Arrivals {
    /// The clients of `node` in the run with this seed.
    pub(crate) fn new(node: u32, seed: u64) -> Arrivals {
        Arrivals {
            node,
            rng: fastrand::Rng::with_seed(mix(seed.wrapping_mul(0x1_0001) ^ mix(u64::from(node)))),
            piece: u64::MAX,
            rate_per_ns: 0.0,
            hot: false,
        }
    }

    /// When the next request comes after `now_ns`; `None` when none comes before `end_ns`.
    pub(crate) fn next_ns(&mut self, load: &Load, now_ns: u64, end_ns: u64) -> Option<u64> {
        let mut left = exponential(&mut self.rng);
        let mut at_ns = now_ns;
        while at_ns < end_ns {
            let piece = at_ns / PIECE_NS;
            if piece != self.piece {
                self.enter_piece(load, piece);
            }
            let piece_end_ns = (piece + 1) * PIECE_NS;
            let in_piece = self.rate_per_ns * (piece_end_ns - at_ns) as f64;
            if in_piece > left {
                let due_ns = at_ns + (left / self.rate_per_ns) as u64;
                return (due_ns < end_ns).then_some(due_ns);
            }
            left -= in_piece;
            at_ns = piece_end_ns;
        }
        None
    }

    fn enter_piece(&mut self, load: &Load, piece: u64) {
        let middle_s = (piece as f64 + 0.5) * PIECE_NS as f64 / 1e9;
        self.piece = piece;
        self.rate_per_ns = load.rate_rps(self.node, middle_s).max(0.0) / 1e9;
        self.hot = load.is_hot(self.node, middle_s);
    }

    /// Whether the node is hot in the piece of the arrival returned last.
    pub(crate) fn is_hot(&self) -> bool {
        self.hot
    }

    /// How long the request that comes now will keep an endpoint busy, in nanoseconds; at most 4.29 s.
    pub(crate) fn service_ns(&mut self, mean_ns: f64) -> u32 {
        (exponential(&mut self.rng) * mean_ns) as u32
    }
}

/// An exponential draw with mean 1.
pub(crate) fn exponential(rng: &mut fastrand::Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Spike;
    use crate::options::{Options, SPIKE_S, Synthetic, WARM_UP_S};

    #[test]
    fn counts_follow_the_rate() {
        let options = Options {
            grid: (1, 1),
            ..Options::default()
        };
        let load = Load::Spike(Spike::new(Synthetic::Step, &options));
        let end_ns = (options.duration_s() * 1e9) as u64;
        let (mut before, mut during) = (0_u32, 0_u32);
        for seed in 0..20 {
            let mut arrivals = Arrivals::new(0, seed);
            let mut now_ns = 0;
            while let Some(at_ns) = arrivals.next_ns(&load, now_ns, end_ns) {
                assert!(at_ns >= now_ns && at_ns < end_ns);
                now_ns = at_ns;
                let at_s = at_ns as f64 / 1e9;
                before += u32::from(at_s < WARM_UP_S);
                during += u32::from((WARM_UP_S..WARM_UP_S + SPIKE_S).contains(&at_s));
                assert_eq!(arrivals.is_hot(), load.is_hot(0, at_s));
            }
        }
        // Means of 20 × 5 s × 120/s and 20 × 30 s × 1200/s; five standard deviations.
        let close = |count: u32, mean: f64| (f64::from(count) - mean).abs() < 5.0 * mean.sqrt();
        assert!(close(before, 12_000.0), "{before}");
        assert!(close(during, 720_000.0), "{during}");
    }
}
