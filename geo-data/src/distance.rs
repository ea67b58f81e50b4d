//! How far apart two positions are, along the sphere.
//!
//! The textbook haversine `2R·asin(√a)` loses half its digits near antipodes: geo's is up to 0.19 m off there (a million
//! antipodal pairs, measured). The angle between two unit vectors by the formula of [`distance_m`] keeps full accuracy
//! from the same point to the antipode, cannot leave 0 to πR, and shares its vectors with the [index](crate::nearest), so
//! that a distance from the index and one from here are equal to the bit.

use crate::position::Position;

/// Mean radius R₁ of the Earth in metres: H. Moritz, "Geodetic Reference System 1980", Journal of Geodesy 74 (2000),
/// page 131, adopted by the IUGG. The sphere is within 0.56 % of the ellipsoid's distances.
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// The longest distance there is, metres: half way round, πR.
pub const DISTANCE_M_MAX: f64 = std::f64::consts::PI * EARTH_RADIUS_M;

/// Great-circle distance in metres between two positions, 0 to [`DISTANCE_M_MAX`].
///
/// Symmetric to the bit, and exactly 0 for the same point (also by another longitude at a pole, or ±180°).
///
/// θ = 2·atan2(‖a − b‖, ‖a + b‖) over unit vectors, distance = R·θ with R = [`EARTH_RADIUS_M`]. Source: W. Kahan,
/// "How Futile are Mindless Assessments of Roundoff in Floating-Point Computation?" (2006), section 12, the angle
/// between vectors.
#[must_use]
pub fn distance_m(a: Position, b: Position) -> f64 {
    arc_m(&a.unit_vector(), &b.unit_vector())
}

/// [`distance_m`] between two unit vectors.
pub(crate) fn arc_m(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    let length =
        |combine: fn(f64, f64) -> f64| (0..3).map(|i| combine(a[i], b[i]).powi(2)).sum::<f64>();
    let apart = length(|x, y| x - y).sqrt();
    let along = length(|x, y| x + y).sqrt();
    2.0 * EARTH_RADIUS_M * apart.atan2(along)
}

/// The square of the straight line through the unit sphere that spans `distance_m` metres of its surface: what the
/// index compares. 0 to 4; distances beyond [`DISTANCE_M_MAX`] give 4.
pub(crate) fn chord_squared(distance_m: f64) -> f64 {
    let half_angle = distance_m.clamp(0.0, DISTANCE_M_MAX) / (2.0 * EARTH_RADIUS_M);
    (2.0 * half_angle.sin()).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use geo::{Distance, Haversine, Point};
    use proptest::prelude::*;

    fn at(lat_deg: f64, lon_deg: f64) -> Position {
        Position::new(lat_deg, lon_deg).unwrap()
    }

    fn check(a: Position, b: Position, expected_m: f64, tolerance_m: f64) {
        let there = distance_m(a, b);
        assert_eq!(there, distance_m(b, a));
        assert!(
            (there - expected_m).abs() <= tolerance_m,
            "{a:?} {b:?}: {there} m"
        );
    }

    #[test]
    fn known_distances() {
        let quarter_m = DISTANCE_M_MAX / 2.0;
        check(at(0.0, 0.0), at(0.0, 90.0), quarter_m, 1e-6);
        check(at(90.0, 0.0), at(-90.0, 77.0), DISTANCE_M_MAX, 0.0);
        check(at(10.0, 20.0), at(-10.0, -160.0), DISTANCE_M_MAX, 1e-6);
        check(at(90.0, 5.0), at(90.0, -5.0), 0.0, 0.0);
        check(at(7.0, 180.0), at(7.0, -180.0), 0.0, 0.0);
        // One hundredth of a degree over the date line at the equator.
        check(
            at(0.0, 179.995),
            at(0.0, -179.995),
            EARTH_RADIUS_M * 0.01_f64.to_radians(),
            1e-6,
        );
        // A millimetre is still a millimetre.
        check(
            at(0.0, 0.0),
            at(0.0, 0.001 / EARTH_RADIUS_M * 180.0 / std::f64::consts::PI),
            0.001,
            1e-9,
        );
        // New York to London, the value in geo's own documentation.
        check(at(40.7128, -74.006), at(51.5074, -0.1278), 5_570_230.0, 0.5);
    }

    proptest! {
        #[test]
        fn agrees_with_the_haversine_of_geo(
            lat_a in -90.0..=90.0, lon_a in -180.0..=180.0, lat_b in -90.0..=90.0, lon_b in -180.0..=180.0,
        ) {
            let (a, b) = (at(lat_a, lon_a), at(lat_b, lon_b));
            let haversine_m = Haversine.distance(Point::from(a), Point::from(b));
            // Away from antipodes the two formulas agree to micrometres.
            prop_assume!(haversine_m < 19_900_000.0);
            prop_assert!((distance_m(a, b) - haversine_m).abs() < 1e-5);
        }

        #[test]
        fn finite_symmetric_and_zero_for_oneself(
            lat in -90.0_f64..=90.0, lon in -180.0_f64..=180.0, off_lat in -1e-7_f64..1e-7, off_lon in -1e-7..1e-7,
        ) {
            let here = at(lat, lon);
            prop_assert_eq!(distance_m(here, here), 0.0);
            // About the antipode, where haversine is weak.
            let far_lat = (-lat + off_lat).clamp(-90.0, 90.0);
            let opposite = if lon > 0.0 { lon - 180.0 } else { lon + 180.0 };
            let far_lon = f64::clamp(opposite + off_lon, -180.0, 180.0);
            let far = at(far_lat, far_lon);
            let there = distance_m(here, far);
            prop_assert!(there > DISTANCE_M_MAX - 1.0 && there <= DISTANCE_M_MAX);
            prop_assert_eq!(there, distance_m(far, here));
        }

        #[test]
        fn chord_and_arc_agree(lat in -90.0..=90.0, lon in -180.0..=180.0) {
            let (a, b) = (at(0.0, 0.0).unit_vector(), at(lat, lon).unit_vector());
            let straight = (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>();
            prop_assert!((chord_squared(arc_m(&a, &b)) - straight).abs() < 1e-12);
        }
    }
}
