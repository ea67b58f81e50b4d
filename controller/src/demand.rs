//! What enters at one node for one service, told apart from noise.
//!
//! Requests arrive at random: a window of `T` seconds at `d` requests/s counts `d·T ± √(d·T)` of them. A planner that
//! followed every count would move load about for nothing; one that only averaged would be late for a spike. So there
//! are three figures, each with its own idea of noise:
//!
//! ```text
//!               ┌─▶ filtered   jump up at once, down by 0.35, in noise by 0.2 ─┐ far off, or off twice
//! count / window┤                                                             ├────────▶ held ──▶ solver
//!               └─▶ mean       of the time since the last jump, at most 10 s ─┘ off by about a deviation
//! ```
//!
//! One window in 700 is a jump by chance; in a mesh of a hundred nodes that is one every few seconds. The filtered
//! demand takes it up and forgets it; the held one waits for a second window, unless the jump is one that chance does
//! not make.
//!
//! **Invariant**: at a steady rate the held demand rests, and with it everything that is computed from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many standard deviations of a Poisson count a rate must be off before it is a jump rather than noise.
pub const JUMP_DEVIATIONS: f64 = 3.0;
/// Part of a jump down that one window takes up.
pub const DOWN_GAIN: f64 = 0.35;
/// Part of a deviation within the noise that one window takes up. The filtered rate then has a third of the
/// deviation of a single window: √(g / (2 − g)) = 0.33.
pub const NOISE_GAIN: f64 = 0.2;
/// How many deviations the filtered demand may be off the held one for the held to follow at once; between
/// [`JUMP_DEVIATIONS`] and this it must be so in two windows running.
pub const CERTAIN_DEVIATIONS: f64 = 5.0;
/// How many of its own deviations the mean of few windows must be off the held demand to replace it.
pub const MEAN_DEVIATIONS: f64 = 3.0;
/// Seconds after a jump in which half of that is enough: what is held is one noisy sample, and weights settle still.
pub const SETTLE_S: f64 = 3.0;
/// Seconds that the mean reaches back; its deviation is then 0.23 of a window's of one second.
pub const MEAN_SPAN_S: f64 = 10.0;
/// How many deviations of one window the mean may be off the held demand where nothing is moved. Replacing it there
/// changes no weight.
pub const CALM_DEVIATIONS: f64 = 0.8;
/// The same where the plan moves load: there a replacement shifts weights, in this row and in others.
pub const MOVING_DEVIATIONS: f64 = 1.8;
/// What the mean may be off the held demand there in any case, as a share of it: less changes no weight that is pushed.
pub const MOVING_SHARE: f64 = 0.05;
/// How many deviations below its rate the first window of all is held: nothing is moved for what chance may have made.
/// It is often a short one, and the second corrects it.
pub const SURE_DEVIATIONS: f64 = 2.0;
/// Requests in a window below which a demand has ended.
const ENDED_REQUESTS: f64 = 0.1;
/// Over which time waiting requests are to be served beside what enters.
pub const BACKLOG_SPREAD: Duration = Duration::from_secs(2);

/// The demand of one service at one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    filtered_rps: f64,
    mean_rps: f64,
    /// Time that the mean covers, in seconds, counted to [`MEAN_SPAN_S`].
    span_s: f64,
    /// Whether the filtered demand was off by a jump in the last window.
    off: bool,
    held_rps: f64,
    /// Of this, what is for the backlog.
    held_waiting_rps: f64,
}

impl Demand {
    /// Takes up one window: `entered` first attempts in `window` (more than zero), and `backlog` requests that wait at
    /// its end. `moving` says whether the plan moves load from or to the node. Returns whether the held demand changed.
    pub fn observe(&mut self, entered: u64, window: Duration, backlog: u64, moving: bool) -> bool {
        let window_s = window.as_secs_f64().max(1e-3);
        let rate_rps = entered as f64 / window_s;
        // Jumps are measured from the best estimate, not from the held demand, which may be off by its slack already.
        let known_rps = self.mean_rps + self.held_waiting_rps;
        let first = self.span_s == 0.0;
        self.filter(rate_rps, window_s);
        let waiting_rps = backlog as f64 / BACKLOG_SPREAD.as_secs_f64();
        let now_rps = self.filtered_rps + waiting_rps;
        let deviation_rps = deviation_rps(known_rps.max(now_rps), window_s);
        if first {
            let sure_rps = (self.filtered_rps - SURE_DEVIATIONS * deviation_rps).max(0.0);
            return self.hold(sure_rps + waiting_rps, waiting_rps, window_s);
        }
        let off = (now_rps - known_rps) / deviation_rps;
        let seen_off = (rate_rps + waiting_rps - known_rps) / deviation_rps;
        let confirmed = self.off && seen_off * off.signum() > JUMP_DEVIATIONS;
        let jumped = off.abs() > JUMP_DEVIATIONS;
        if off.abs() > CERTAIN_DEVIATIONS || (jumped && confirmed) {
            self.off = true;
            self.span_s = window_s;
            self.mean_rps = self.filtered_rps;
            return self.hold(now_rps, waiting_rps, window_s);
        }
        self.off = jumped;
        let (slack, share) = match moving {
            true => (MOVING_DEVIATIONS, MOVING_SHARE),
            false => (CALM_DEVIATIONS, 0.0),
        };
        let few = MEAN_DEVIATIONS * (window_s / self.span_s).sqrt();
        let slack = if self.span_s <= SETTLE_S {
            few / 2.0
        } else {
            slack.max(few)
        };
        let slack_rps = (slack * deviation_rps).max(share * self.held_rps);
        let mean_rps = self.mean_rps + waiting_rps;
        let ended = mean_rps * window_s < ENDED_REQUESTS && self.held_rps > 0.0;
        let settled = (mean_rps - self.held_rps).abs() <= slack_rps;
        (ended || !settled) && self.hold(mean_rps, waiting_rps, window_s)
    }

    fn filter(&mut self, rate_rps: f64, window_s: f64) {
        let off_rps = rate_rps - self.filtered_rps;
        let noise_rps = JUMP_DEVIATIONS * deviation_rps(self.filtered_rps, window_s);
        let gain = if off_rps > noise_rps {
            1.0
        } else if off_rps < -noise_rps {
            DOWN_GAIN
        } else {
            NOISE_GAIN
        };
        self.filtered_rps += gain * off_rps;
        self.span_s = (self.span_s + window_s).min(MEAN_SPAN_S.max(window_s));
        self.mean_rps += (rate_rps - self.mean_rps) * window_s / self.span_s;
    }

    fn hold(&mut self, rps: f64, waiting_rps: f64, window_s: f64) -> bool {
        self.held_waiting_rps = waiting_rps;
        let before_rps = self.held_rps;
        self.held_rps = if rps * window_s < ENDED_REQUESTS {
            0.0
        } else {
            rps
        };
        self.held_rps != before_rps
    }

    /// Supposes a steady demand of so much, requests/s.
    pub fn suppose(&mut self, rps: f64) {
        *self = Demand {
            filtered_rps: rps,
            mean_rps: rps,
            span_s: MEAN_SPAN_S,
            held_rps: rps,
            ..Demand::default()
        };
    }

    /// What the planner sees, requests/s.
    pub fn held_rps(&self) -> f64 {
        self.held_rps
    }

    /// The filtered rate of entering, without the backlog, requests/s.
    pub fn filtered_rps(&self) -> f64 {
        self.filtered_rps
    }

    /// Whether both figures could have come from observations; what is restored from a store is asked.
    pub fn is_sound(&self) -> bool {
        [self.filtered_rps, self.held_rps]
            .iter()
            .all(|d| d.is_finite() && *d >= 0.0)
    }
}

/// Standard deviation of the rate that a window shows of a Poisson process of rate `rate_rps`; at least that of one
/// request in a window.
fn deviation_rps(rate_rps: f64, window_s: f64) -> f64 {
    (rate_rps.max(1.0 / window_s) / window_s).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(1);

    fn poisson(rng: &mut fastrand::Rng, mean: f64) -> u64 {
        // The count of exponential gaps that fit; exact, and quick enough for tests.
        let (mut at, mut count) = (0.0, 0);
        loop {
            at -= (1.0 - rng.f64()).ln();
            if at > mean {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn a_jump_up_is_taken_at_once_and_down_by_steps() {
        let mut demand = Demand::default();
        demand.observe(100, WINDOW, 0, true);
        assert_eq!(demand.held_rps(), 80.0, "of the first window, what is sure");
        demand.observe(1000, WINDOW, 0, true);
        assert_eq!(demand.held_rps(), 1000.0);
        demand.observe(100, WINDOW, 0, true);
        assert!((demand.held_rps() - 685.0).abs() < 1e-9);
        for _ in 0..20 {
            demand.observe(100, WINDOW, 0, true);
        }
        assert!((demand.held_rps() - 100.0).abs() < 19.0, "{demand:?}");
    }

    #[test]
    fn what_chance_can_do_waits_for_a_second_window() {
        let mut demand = Demand::default();
        (0..10).for_each(|_| _ = demand.observe(100, WINDOW, 0, true));
        assert!(!demand.observe(140, WINDOW, 0, true));
        assert_eq!(demand.filtered_rps(), 140.0);
        let mut real = demand;
        assert!(!demand.observe(100, WINDOW, 0, true));
        assert!(real.observe(140, WINDOW, 0, true));
        assert_eq!((demand.held_rps(), real.held_rps()), (100.0, 140.0));
    }

    #[test]
    fn backlog_is_spread_over_two_seconds() {
        let mut demand = Demand::default();
        (0..10).for_each(|_| _ = demand.observe(100, WINDOW, 0, false));
        demand.observe(100, WINDOW, 80, false);
        assert_eq!(demand.held_rps(), 140.0);
        assert_eq!(demand.filtered_rps(), 100.0);
    }

    #[test]
    fn demand_that_ends_is_held_as_nothing() {
        let mut demand = Demand::default();
        demand.observe(50, WINDOW, 0, false);
        for _ in 0..60 {
            demand.observe(0, WINDOW, 0, false);
        }
        assert_eq!(demand.held_rps(), 0.0);
    }

    #[test]
    fn a_steady_rate_rests() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            for (mean, moving, changes_max) in [
                (5.0, false, 30),
                (120.0, false, 15),
                (120.0, true, 5),
                (1200.0, true, 5),
            ] {
                let mut demand = Demand::default();
                let changes = (0..300)
                    .filter(|_| demand.observe(poisson(&mut rng, mean), WINDOW, 0, moving))
                    .count();
                assert!(
                    changes <= changes_max,
                    "seed {seed}, {mean} rps: {changes} changes in 300 windows"
                );
                let off_rps = (demand.held_rps() - mean).abs();
                assert!(
                    off_rps <= 2.0 * mean.sqrt(),
                    "seed {seed}, {mean} rps: {demand:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn stays_finite_and_within_what_was_seen(
            windows in prop::collection::vec((0_u64..100_000_000, 10_u64..60_000, 0_u64..100_000_000), 1..50),
        ) {
            let mut demand = Demand::default();
            let (mut most_rps, mut most_waiting) = (0.0_f64, 0);
            for (entered, window_ms, backlog) in windows {
                demand.observe(entered, Duration::from_millis(window_ms), backlog, entered % 2 == 0);
                most_rps = most_rps.max(entered as f64 * 1e3 / window_ms as f64);
                most_waiting = most_waiting.max(backlog);
                prop_assert!(demand.is_sound());
                prop_assert!(demand.filtered_rps() <= most_rps * (1.0 + 1e-9));
                prop_assert!(demand.held_rps() <= (most_rps + most_waiting as f64 / 2.0) * (1.0 + 1e-9));
            }
        }
    }
}
