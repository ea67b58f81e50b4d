//! Which controller is next: each of them once, in an order by chance, then all again in another order.
//!
//! The order is by chance so that proxies spread over the controllers, and those of one that is gone over the others.

use std::time::Duration;

use super::backoff::{Backoff, PAUSE_MAX};

/// The controllers of the configuration, one of them current.
#[derive(Debug)]
pub struct Controllers {
    /// The current one first, then those that are next in this round, then those that were tried.
    order: Vec<String>,
    /// How many of this round are still to come after the current one.
    left: usize,
    /// Of rounds that found nobody.
    backoff: Backoff,
}

impl Controllers {
    /// In an order by chance. There must be one at least.
    pub fn new(mut all: Vec<String>) -> Controllers {
        fastrand::shuffle(&mut all);
        Controllers {
            left: all.len().saturating_sub(1),
            order: all,
            backoff: Backoff::default(),
        }
    }

    /// The one to talk to.
    pub fn current(&self) -> &str {
        self.order.first().map_or("", String::as_str)
    }

    /// Goes on to the next one, after a connection that lasted for `lived`, failed attempts included. Returns how long to wait
    /// before: as after a first failure while the round lasts, longer after each round that found nobody. `hint` is what the
    /// controller asked for; it counts for all of them, for they have one leader.
    pub fn go_on(
        &mut self,
        lived: Duration,
        hint: Option<Duration>,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        if lived > PAUSE_MAX {
            // What follows is a new round, with short pauses.
            self.left = self.order.len().saturating_sub(1);
            self.backoff = Backoff::default();
        }
        if self.left > 0 {
            self.left -= 1;
            self.order.rotate_left(1);
            return Backoff::default().pause(Duration::ZERO, hint, rng);
        }
        rng.shuffle(&mut self.order);
        self.left = self.order.len().saturating_sub(1);
        self.backoff.pause(lived, hint, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::super::backoff::PAUSE_MIN;
    use super::*;
    use std::collections::BTreeSet;

    fn three() -> Controllers {
        Controllers::new(["a", "b", "c"].map(str::to_owned).into())
    }

    #[test]
    fn each_is_tried_once_before_a_longer_pause() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut controllers = three();
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            let mut tried = BTreeSet::from([controllers.current().to_owned()]);
            for _ in 0..2 {
                assert!(controllers.go_on(Duration::ZERO, None, &mut rng) <= PAUSE_MIN);
                tried.insert(controllers.current().to_owned());
            }
            assert_eq!(tried.len(), 3, "{tried:?}");
            longest = longest.max(controllers.go_on(Duration::ZERO, None, &mut rng));
        }
        assert!(
            longest > PAUSE_MAX / 2 && longest <= PAUSE_MAX,
            "{longest:?}"
        );
        let held = PAUSE_MAX * 2;
        for _ in 0..40 {
            assert!(controllers.go_on(held, None, &mut rng) <= PAUSE_MIN);
        }
    }

    #[test]
    fn a_single_one_waits_longer_each_time() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut one = Controllers::new(vec!["a".to_owned()]);
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            let mut same = rng.clone();
            let pause = one.go_on(Duration::ZERO, None, &mut rng);
            // The order of one takes nothing from chance.
            assert_eq!(pause, backoff.pause(Duration::ZERO, None, &mut same));
        }
        assert_eq!(one.current(), "a");
    }

    #[test]
    fn what_one_asks_for_counts_for_all() {
        let mut rng = fastrand::Rng::with_seed(7);
        let hint = Duration::from_secs(2);
        let mut controllers = three();
        for _ in 0..9 {
            assert!(controllers.go_on(Duration::ZERO, Some(hint), &mut rng) >= hint);
        }
    }

    #[test]
    fn all_are_first_for_somebody() {
        let first: BTreeSet<String> = (0..200).map(|_| three().current().to_owned()).collect();
        assert_eq!(first.len(), 3);
    }
}
