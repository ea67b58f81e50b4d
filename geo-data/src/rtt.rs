//! What round trip to expect over a distance, before anybody has measured it.
//!
//! Distance is a poor judge of latency: packets follow cables and contracts, not great circles. Below 500 km it explains
//! almost nothing. So an estimate has a spread, it ranks only what has not been measured, and a measured round trip
//! always wins.
//!
//! Two straight lines per quantile, fitted to minimum round trips between cities, one below and one beyond 500 km, do
//! not meet at 500 km. They are blended linearly from [`SEAM_KM_FROM`] to [`SEAM_KM_TO`]. There the far line lies above
//! the near one for every quantile, so that the blend rises like its parts: estimates are continuous beyond 0 m and
//! never fall with distance, and the quantiles never cross.

use std::time::Duration;

use crate::distance::DISTANCE_M_MAX;

/// Round trip between nodes of one site: a switch or two and two network stacks. It stands for all three quantiles at
/// distance 0, well below every estimate for a distance greater than 0 (0.6 ms at least).
pub const ON_SITE_RTT: Duration = Duration::from_micros(200);

/// Where the line for near places starts to give way, kilometres.
pub const SEAM_KM_FROM: f64 = 400.0;

/// Where the line for far places has taken over, kilometres.
pub const SEAM_KM_TO: f64 = 600.0;

/// A round trip as a straight line over distance.
struct Line {
    base_ms: f64,
    ms_per_km: f64,
}

impl Line {
    const fn new(base_ms: f64, ms_per_km: f64) -> Self {
        Self { base_ms, ms_per_km }
    }

    fn at_ms(&self, km: f64) -> f64 {
        self.base_ms + self.ms_per_km * km
    }
}

/// One quantile: its line below 500 km, its line beyond.
struct Quantile {
    near: Line,
    far: Line,
}

const P10: Quantile = Quantile {
    near: Line::new(0.60, 0.0198),
    far: Line::new(4.87, 0.0143),
};
const MEDIAN: Quantile = Quantile {
    near: Line::new(4.43, 0.0258),
    far: Line::new(13.7, 0.0168),
};
const P90: Quantile = Quantile {
    near: Line::new(14.7, 0.0387),
    far: Line::new(47.9, 0.0221),
};

impl Quantile {
    fn at(&self, km: f64) -> Duration {
        let far_share = ((km - SEAM_KM_FROM) / (SEAM_KM_TO - SEAM_KM_FROM)).clamp(0.0, 1.0);
        let ms = (1.0 - far_share) * self.near.at_ms(km) + far_share * self.far.at_ms(km);
        Duration::from_secs_f64(ms / 1e3)
    }
}

/// The minimum round trip to expect, with its spread over pairs of places that far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttEstimate {
    /// One pair in ten is faster than this.
    pub p10: Duration,
    /// Half of the pairs are.
    pub median: Duration,
    /// Nine pairs in ten are.
    pub p90: Duration,
}

/// The minimum round trip to expect over `distance_m` metres of great circle.
///
/// 0 m is one site: [`ON_SITE_RTT`] for all quantiles. Above 0 m the estimate starts at 0.6 / 4.43 / 14.7 ms.
/// Negative distances count as 0, those beyond [`DISTANCE_M_MAX`] and NaN as [`DISTANCE_M_MAX`]: what is not known is
/// far.
#[must_use]
pub fn estimate_rtt(distance_m: f64) -> RttEstimate {
    if distance_m <= 0.0 {
        return RttEstimate {
            p10: ON_SITE_RTT,
            median: ON_SITE_RTT,
            p90: ON_SITE_RTT,
        };
    }
    // `min` returns the other number when one is NaN.
    let km = distance_m.min(DISTANCE_M_MAX) / 1e3;
    RttEstimate {
        p10: P10.at(km),
        median: MEDIAN.at(km),
        p90: P90.at(km),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(distance_m: f64, expected_us: [u128; 3]) {
        let rtt = estimate_rtt(distance_m);
        assert_eq!(
            [rtt.p10, rtt.median, rtt.p90].map(|d| d.as_micros()),
            expected_us,
            "{distance_m} m"
        );
    }

    #[test]
    fn known_estimates() {
        check(0.0, [200; 3]);
        check(-5.0, [200; 3]);
        check(100_000.0, [2_580, 7_010, 18_570]);
        check(500_000.0, [11_260, 19_715, 46_500]);
        check(1_000_000.0, [19_170, 30_500, 70_000]);
        let farthest = estimate_rtt(DISTANCE_M_MAX);
        assert_eq!(estimate_rtt(f64::NAN), farthest);
        assert_eq!(estimate_rtt(f64::INFINITY), farthest);
    }

    proptest! {
        #[test]
        fn rises_with_distance_and_quantiles_are_ordered(from_m in 0.0..20_100_000.0, step_m in 0.0..1_000_000.0) {
            let (near, far) = (estimate_rtt(from_m), estimate_rtt(from_m + step_m));
            prop_assert!(near.p10 <= near.median && near.median <= near.p90);
            prop_assert!(near.p10 <= far.p10 && near.median <= far.median && near.p90 <= far.p90);
        }

        #[test]
        fn rises_around_the_seam_without_a_jump(from_m in 350_000.0..650_000.0) {
            let (near, far) = (estimate_rtt(from_m), estimate_rtt(from_m + 1.0));
            for (near, far) in [(near.p10, far.p10), (near.median, far.median), (near.p90, far.p90)] {
                prop_assert!(near <= far && far - near < Duration::from_micros(1));
            }
        }

        #[test]
        fn nothing_outruns_light_in_fibre(distance_m in 1.0..20_000_000.0) {
            // 204 000 km/s, there and back.
            prop_assert!(estimate_rtt(distance_m).p10.as_secs_f64() > 2.0 * distance_m / 2.04e8);
        }
    }
}
