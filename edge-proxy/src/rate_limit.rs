//! How many requests are let in: a token bucket, kept as one instant.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A; the virtual
//! scheduling form): a request may come when the bucket would have a token, and
//! what is remembered is only the time at which the bucket will be full again.
//! One word per key, so a limit by source stays small.
//!
//! Pure: takes the clock as an argument.

use std::collections::BTreeMap;

/// Keys of one limit that are remembered at once. When there are more, those whose buckets are full are
/// forgotten, which changes nothing for them; if that is not enough, a newcomer shares one bucket with all
/// other newcomers.
pub const KEYS_MAX: usize = 10_000;

/// How many, in how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time from one token to the next, in nanoseconds.
    step_ns: u64,
    /// Time that a full bucket stands for, in nanoseconds.
    burst_ns: u64,
}

impl Rate {
    /// `requests` in `per_us`, at most `burst` at once. Zero requests let nothing in.
    pub fn new(requests: f64, per_us: u64, burst: u32) -> Rate {
        let step_ns = match requests > 0.0 {
            true => (per_us as f64 * 1000.0 / requests).clamp(1.0, 1e18) as u64,
            false => u64::MAX,
        };
        Rate {
            step_ns,
            burst_ns: step_ns.saturating_mul(u64::from(burst.max(1))),
        }
    }
}

/// One bucket. One word, so that it can be kept in an atomic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it is full again, in nanoseconds.
    pub full_ns: u64,
}

impl Bucket {
    /// Takes a token.
    ///
    /// # Errors
    /// There is none; the time until there is, in microseconds.
    pub fn take(&mut self, rate: &Rate, now_us: u64) -> Result<(), u64> {
        if rate.step_ns == u64::MAX {
            return Err(u64::MAX);
        }
        let now_ns = now_us.saturating_mul(1000);
        let full_ns = self.full_ns.max(now_ns).saturating_add(rate.step_ns);
        let latest_ns = now_ns.saturating_add(rate.burst_ns);
        if full_ns > latest_ns {
            return Err((full_ns - latest_ns).div_ceil(1000));
        }
        self.full_ns = full_ns;
        Ok(())
    }

    /// Whether it is full, so that forgetting it changes nothing.
    pub fn is_full(&self, now_us: u64) -> bool {
        self.full_ns <= now_us.saturating_mul(1000)
    }
}

/// Buckets by key.
#[derive(Debug, Default)]
pub struct Buckets {
    by_key: BTreeMap<u64, Bucket>,
    /// For those that there is no room for.
    others: Bucket,
    /// The last time full ones were forgotten, in microseconds.
    swept_us: u64,
}

/// Forgetting is not tried more often than this, in microseconds: it looks at every key.
const SWEEP_US_MIN: u64 = 100_000;

impl Buckets {
    /// Takes a token of a key.
    ///
    /// # Errors
    /// As [`Bucket::take`].
    pub fn take(&mut self, key: u64, rate: &Rate, now_us: u64) -> Result<(), u64> {
        if let Some(bucket) = self.by_key.get_mut(&key) {
            return bucket.take(rate, now_us);
        }
        if self.by_key.len() >= KEYS_MAX && now_us >= self.swept_us + SWEEP_US_MIN {
            self.swept_us = now_us;
            self.by_key.retain(|_, bucket| !bucket.is_full(now_us));
        }
        match self.by_key.len() >= KEYS_MAX {
            true => self.others.take(rate, now_us),
            false => self.by_key.entry(key).or_default().take(rate, now_us),
        }
    }

    /// Keys that are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10.0, S, 5);
        let mut bucket = Bucket::default();
        let burst = (0..20)
            .filter(|_| bucket.take(&rate, 7 * S).is_ok())
            .count();
        assert_eq!(burst, 5);
        // A tenth of a second until the next, and told so.
        assert_eq!(bucket.take(&rate, 7 * S), Err(100_000));
        assert_eq!(bucket.take(&rate, 7 * S + 99_999), Err(1));
        assert_eq!(bucket.take(&rate, 7 * S + 100_000), Ok(()));
        assert!(!bucket.is_full(7 * S + 200_000));
        assert!(bucket.is_full(8 * S));
        assert_eq!(bucket.take(&Rate::new(0.0, S, 5), 9 * S), Err(u64::MAX));
    }

    #[test]
    fn keys_are_apart_and_bounded() {
        let rate = Rate::new(1.0, 60 * S, 1);
        let mut buckets = Buckets::default();
        assert_eq!(buckets.take(1, &rate, S), Ok(()));
        assert!(buckets.take(1, &rate, S).is_err());
        assert_eq!(buckets.take(2, &rate, S), Ok(()));
        for key in 0..3 * KEYS_MAX as u64 {
            let _ = buckets.take(key, &rate, S);
        }
        assert_eq!(buckets.len(), KEYS_MAX);
        // Strangers share one bucket now, and it is empty.
        assert!(buckets.take(u64::MAX, &rate, S).is_err());
        // A minute later the old ones are full: they are forgotten, and there is room.
        assert_eq!(buckets.take(u64::MAX, &rate, 61 * S), Ok(()));
        assert_eq!(buckets.len(), 1);
    }

    proptest! {
        /// Over any span of time no more come through than rate × span + burst, and someone who never asks
        /// for more than the rate is never refused.
        #[test]
        fn it_holds_the_rate(
            requests in 1u32..1000, burst in 1u32..100,
            pauses_us in proptest::collection::vec(0u64..50_000, 1..300),
        ) {
            let rate = Rate::new(f64::from(requests), S, burst);
            let (mut bucket, mut now_us) = (Bucket::default(), 5 * S);
            let mut taken = 0u64;
            for pause_us in &pauses_us {
                now_us += pause_us;
                taken += u64::from(bucket.take(&rate, now_us).is_ok());
                let span_s = (now_us - 5 * S) as f64 / S as f64;
                let most = span_s * f64::from(requests) + f64::from(burst);
                prop_assert!(taken as f64 <= most + 1e-3, "{taken} {most}");
            }
            let mut bucket = Bucket::default();
            for i in 0..200u64 {
                let at_us = 5 * S + i * S.div_ceil(u64::from(requests));
                prop_assert_eq!(bucket.take(&rate, at_us), Ok(()));
            }
        }
    }
}
