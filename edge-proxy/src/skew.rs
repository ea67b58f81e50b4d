//! How far this machine's clock is from the controller's.
//!
//! Certificates begin [`TOLERATED`] before they are made, so clocks may differ by that much. Beyond a fifth of it operators
//! are warned, long before a handshake fails over it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// How late a clock may be.
pub const TOLERATED: Duration = Duration::from_secs(300);
/// A difference that is worth a warning.
pub const WARN: Duration = Duration::from_secs(60);
/// Time between two warnings.
const WARN_EVERY_S: u64 = 600;

/// What the controller last said of the time.
#[derive(Debug, Default)]
pub struct Skew {
    /// The controller's clock less this one, in milliseconds.
    ahead_ms: AtomicI64,
    warned_s: AtomicU64,
}

impl Skew {
    /// The controller's clock, in milliseconds since 1970, when this one says `now`.
    pub fn told(&self, clock_ms: u64, now: SystemTime) {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let own_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let ahead_ms = i64::try_from(clock_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(own_ms);
        self.ahead_ms.store(ahead_ms, Relaxed);
        let now_s = since.as_secs();
        if ahead_ms.unsigned_abs() < WARN.as_millis() as u64 {
            self.warned_s.store(0, Relaxed);
        } else if now_s.abs_diff(self.warned_s.load(Relaxed)) >= WARN_EVERY_S {
            self.warned_s.store(now_s, Relaxed);
            tracing::warn!(
                controller_ahead_s = ahead_ms / 1000,
                tolerated_s = TOLERATED.as_secs(),
                "this machine's clock differs from the controller's; set it, or keep it right by NTP: beyond the \
                 tolerated difference certificates are refused"
            );
        }
    }

    /// How far the controller's clock is ahead, in seconds; negative when it is behind.
    pub fn ahead_s(&self) -> f64 {
        self.ahead_ms.load(Relaxed) as f64 / 1e3
    }
}

/// Seconds since 1970; 0 before.
pub fn seconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_has_its_sign() {
        let skew = Skew::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        skew.told(1_000_090_500, now);
        assert_eq!(skew.ahead_s(), 90.5);
        assert_eq!(skew.warned_s.load(Relaxed), 1_000_000);
        skew.told(999_990_000, now);
        assert_eq!(skew.ahead_s(), -10.0);
        assert_eq!(skew.warned_s.load(Relaxed), 0);
        skew.told(u64::MAX, now);
        assert!(skew.ahead_s() > 1e15);
    }
}
