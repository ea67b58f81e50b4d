//! When to connect again.
//!
//! Full jitter: each pause is drawn from zero to a bound that doubles, so that proxies which lost their controller at the
//! same moment come back evenly spread over the bound. A controller that has too many at its door says how long to stay
//! away; then the pause is drawn from that time to twice as much.

use std::time::Duration;

/// Bound of the first pause; doubles with each failure up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Highest bound of a pause, and how long a stream must have lived for the next failure to be the first again.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);
/// No pause is shorter: who is refused at once must not spin.
pub const PAUSE_LEAST: Duration = Duration::from_millis(10);
/// Longest that a controller can keep a proxy away by its word; longer times are cut to it.
pub const HINT_MAX: Duration = Duration::from_secs(60);

/// How often connecting has failed in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after a connection that lasted for `lived`, failed attempts included. `hint` is what the controller
    /// asked for.
    pub fn pause(
        &mut self,
        lived: Duration,
        hint: Option<Duration>,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        if lived > PAUSE_MAX {
            self.failures = 0;
        }
        let bound = PAUSE_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let drawn = match hint {
            Some(hint) => hint.min(HINT_MAX).mul_f64(1.0 + rng.f64()),
            None => bound.min(PAUSE_MAX).mul_f64(rng.f64()),
        };
        drawn.max(PAUSE_LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_spread_over_a_bound_that_doubles_and_begin_anew() {
        let mut rng = fastrand::Rng::with_seed(7);
        for (failures, bound_ms) in [(0, 100), (1, 200), (3, 800), (6, 5_000), (40, 5_000)] {
            let bound = Duration::from_millis(bound_ms);
            let mut draw = || Backoff { failures }.pause(Duration::ZERO, None, &mut rng);
            let drawn: Vec<Duration> = (0..1_000).map(|_| draw()).collect();
            assert!(drawn.iter().all(|p| (PAUSE_LEAST..=bound).contains(p)));
            let quarter = |n: u32| {
                let (from, to) = (bound * n / 4, bound * (n + 1) / 4);
                drawn.iter().filter(|&p| (from..to).contains(p)).count()
            };
            for n in 0..4 {
                assert!((180..=320).contains(&quarter(n)), "{failures}: {n}");
            }
        }
        let mut backoff = Backoff { failures: 9 };
        backoff.pause(PAUSE_MAX + PAUSE_LEAST, None, &mut rng);
        assert_eq!(backoff, Backoff { failures: 1 });
    }

    #[test]
    fn a_controller_is_believed_within_bounds() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (hint, long) = (Duration::from_secs(2), Duration::from_secs(86_400));
        for _ in 0..100 {
            let pause = Backoff::default().pause(Duration::ZERO, Some(hint), &mut rng);
            assert!((hint..=hint * 2).contains(&pause));
            let pause = Backoff::default().pause(Duration::ZERO, Some(long), &mut rng);
            assert!(pause <= HINT_MAX * 2);
        }
    }
}
