//! How many requests endpoints work on at once, learned from their latency.
//!
//! Little is gained by giving an endpoint more than it works on: the rest queues inside it. What it works on shows in
//! its latency, which stays near its minimum up to there and grows in proportion beyond. So the limit follows the
//! gradient: minimum over latency, times the limit, plus room for a short queue (the Gradient2 limit of Netflix's
//! concurrency-limits, with a minimum in place of its long average).
//!
//! ```text
//! limit' = limit × clamp(tolerance × minimum / latency, ½, 1) + √limit        smoothed, within [min, max]
//! ```
//!
//! The minimum follows latency down at once. Up it follows while the endpoints are not near their limit, for then
//! latency is their own; near the limit it hardly moves, or a limit that is too high would justify itself.
//!
//! Pure.

use isobar_mesh_api::resource::traffic_policy::Concurrency;

/// Part of the way to the new limit that one window goes.
const SMOOTHING: f64 = 0.2;
/// Smallest gradient: one bad window must not shut the door.
const GRADIENT_MIN: f64 = 0.5;
/// Below this share of the limit in flight it is not the limit that limits, and nothing is learned of it.
const BUSY_SHARE: f64 = 0.5;
/// Part of the way up to the latency that the minimum goes in a window while the endpoints are not busy …
const RISE_CALM: f64 = 0.05;
/// … and while they are.
const RISE_BUSY: f64 = 0.0002;
/// Windows with fewer completions say nothing.
const COMPLETED_MIN: u64 = 4;

/// What went through endpoints in one window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Window {
    /// Requests that they completed.
    pub completed: u64,
    /// Their time at the endpoints, summed, in microseconds.
    pub latency_sum_us: u64,
    /// Requests at them, on average.
    pub in_flight: f64,
}

/// A limit that is being learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gradient {
    limit: f64,
    low_us: f64,
}

impl Gradient {
    /// Starts from a limit.
    pub fn new(limit: u32) -> Gradient {
        Gradient {
            limit: f64::from(limit.max(1)),
            low_us: 0.0,
        }
    }

    /// Takes up one window; returns the limit.
    pub fn observe(&mut self, window: Window, rules: &Concurrency) -> u32 {
        if window.completed >= COMPLETED_MIN {
            let latency_us = window.latency_sum_us as f64 / window.completed as f64;
            let busy = window.in_flight >= BUSY_SHARE * self.limit;
            self.follow(latency_us.max(1.0), busy);
            if busy {
                let gradient = rules.tolerance * self.low_us / latency_us.max(1.0);
                let next = self.limit * gradient.clamp(GRADIENT_MIN, 1.0) + self.limit.sqrt();
                self.limit += SMOOTHING * (next - self.limit);
            }
        }
        self.limit = self.limit.clamp(f64::from(rules.min), f64::from(rules.max));
        self.limit.round() as u32
    }

    fn follow(&mut self, latency_us: f64, busy: bool) {
        let rise = match busy {
            _ if self.low_us == 0.0 || latency_us < self.low_us => 1.0,
            true => RISE_BUSY,
            false => RISE_CALM,
        };
        self.low_us += rise * (latency_us - self.low_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints that work on `cores` requests at once, 10 ms each, and share themselves among more; so many requests want
    /// to be served.
    fn window(cores: f64, wanted: f64, limit: u32, rng: &mut fastrand::Rng) -> Window {
        let in_flight = wanted.min(f64::from(limit));
        let noise = 0.9 + 0.2 * rng.f64();
        let latency_us = 10_000.0 * (in_flight / cores).max(1.0) * noise;
        let completed = (in_flight * 250_000.0 / latency_us).round();
        Window {
            completed: completed as u64,
            latency_sum_us: (completed * latency_us) as u64,
            in_flight,
        }
    }

    #[test]
    fn it_finds_what_endpoints_work_on() {
        let rules = Concurrency::default();
        for seed in 0..20 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            for start in [1, 4, 16, 200] {
                let mut gradient = Gradient::new(start);
                let mut limit = start;
                // A calm beginning, then more than they can do.
                for _ in 0..20 {
                    limit = gradient.observe(window(4.0, 2.0, limit, rng), &rules);
                }
                for _ in 0..200 {
                    limit = gradient.observe(window(4.0, 500.0, limit, rng), &rules);
                }
                assert!(
                    (5..=12).contains(&limit),
                    "seed {seed}, start {start}: {limit}"
                );
                // Half of it is gone.
                for _ in 0..100 {
                    limit = gradient.observe(window(2.0, 500.0, limit, rng), &rules);
                }
                assert!(
                    (2..=8).contains(&limit),
                    "seed {seed}, start {start}: {limit}"
                );
            }
        }
    }

    #[test]
    fn an_idle_node_learns_nothing_and_the_bounds_hold() {
        let rules = Concurrency {
            min: 6,
            max: 50,
            ..Concurrency::default()
        };
        let rng = &mut fastrand::Rng::with_seed(1);
        let mut gradient = Gradient::new(20);
        for _ in 0..100 {
            assert_eq!(gradient.observe(window(4.0, 2.0, 20, rng), &rules), 20);
        }
        let mut limit = 20;
        for _ in 0..500 {
            limit = gradient.observe(window(100.0, 500.0, limit, rng), &rules);
        }
        assert_eq!(limit, 50);
        for _ in 0..500 {
            limit = gradient.observe(window(0.2, 500.0, limit, rng), &rules);
        }
        assert_eq!(limit, 6);
        assert_eq!(gradient.observe(Window::default(), &rules), 6);
    }
}
