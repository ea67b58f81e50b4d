//! A new or returned endpoint gets its full share only after a while: caches are cold, code is not compiled yet.
//!
//! Pure.

/// The least share: without requests it would never get warm.
pub const SHARE_MIN: f64 = 0.1;

/// The part of its full share that an endpoint may get which is there since `since_us`, when the start takes
/// `window_us`; [`SHARE_MIN`] to 1.
pub fn share(since_us: u64, now_us: u64, window_us: u64) -> f64 {
    if window_us == 0 {
        return 1.0;
    }
    let age_us = now_us.saturating_sub(since_us);
    (age_us as f64 / window_us as f64).clamp(SHARE_MIN, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_to_the_whole() {
        let cases = [(0, 0.1), (50, 0.1), (500, 0.5), (1000, 1.0), (9000, 1.0)];
        for (age_us, expected) in cases {
            assert_eq!(share(77, 77 + age_us, 1000), expected);
        }
        assert_eq!(share(77, 77, 0), 1.0);
    }
}
