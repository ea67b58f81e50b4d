//! Where something stands: a checked pair of degrees.
//!
//! Degrees enter a program as text, and the usual mistakes are an empty field turned into NaN and the two numbers
//! swapped. [`Position`] is the one door: whoever holds one holds finite degrees within range, so that nothing behind
//! the door checks again. Deserialisation goes through the same door.
//!
//! **Invariant**: positions that mean the same point of the sphere (any longitude at a pole, ±180°) have the very same
//! [unit vector](Position::unit_vector), hence distance 0 and, for the index, one place.

use geo::{Destination, Haversine, Point};
use serde::{Deserialize, Serialize};

/// A place on Earth in WGS 84 degrees, checked: both finite, latitude within ±90, longitude within ±180.
///
/// In JSON it is `{"lat_deg": 45.46, "lon_deg": 9.19}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Degrees")]
pub struct Position {
    lat_deg: f64,
    lon_deg: f64,
}

/// What is wrong with a pair of degrees.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PositionError {
    /// NaN or an infinity.
    #[error("{field} is {value}, not a finite number of degrees")]
    NotFinite {
        /// `lat_deg` or `lon_deg`.
        field: &'static str,
        /// What was given.
        value: f64,
    },
    /// Beyond ±90 (latitude) or ±180 (longitude).
    #[error("{field} is {value}, outside -{limit_deg} to {limit_deg} degrees{}", swap_hint(*.looks_swapped))]
    OutOfRange {
        /// `lat_deg` or `lon_deg`.
        field: &'static str,
        /// What was given, degrees.
        value: f64,
        /// 90 or 180, degrees.
        limit_deg: f64,
        /// Whether the two numbers would be a position the other way round.
        looks_swapped: bool,
    },
}

fn swap_hint(looks_swapped: bool) -> &'static str {
    if looks_swapped {
        "; latitude and longitude look swapped"
    } else {
        ""
    }
}

/// The unchecked shape of a position in JSON.
#[derive(Deserialize)]
struct Degrees {
    lat_deg: f64,
    lon_deg: f64,
}

impl TryFrom<Degrees> for Position {
    type Error = PositionError;

    fn try_from(degrees: Degrees) -> Result<Self, PositionError> {
        Self::new(degrees.lat_deg, degrees.lon_deg)
    }
}

impl Position {
    /// Checks two numbers of degrees (WGS 84), latitude first.
    ///
    /// # Errors
    /// [`PositionError::NotFinite`] for NaN and infinities, [`PositionError::OutOfRange`] beyond ±90 or ±180; the
    /// latter says so when the two look swapped.
    pub fn new(lat_deg: f64, lon_deg: f64) -> Result<Self, PositionError> {
        let out_of_range = |field, value, limit_deg| PositionError::OutOfRange {
            field,
            value,
            limit_deg,
            looks_swapped: lat_deg.abs() > 90.0 && lat_deg.abs() <= 180.0 && lon_deg.abs() <= 90.0,
        };
        for (field, value) in [("lat_deg", lat_deg), ("lon_deg", lon_deg)] {
            if !value.is_finite() {
                return Err(PositionError::NotFinite { field, value });
            }
        }
        if lat_deg.abs() > 90.0 {
            return Err(out_of_range("lat_deg", lat_deg, 90.0));
        }
        if lon_deg.abs() > 180.0 {
            return Err(out_of_range("lon_deg", lon_deg, 180.0));
        }
        Ok(Self { lat_deg, lon_deg })
    }

    /// Latitude in degrees, -90 to 90, north positive.
    #[must_use]
    pub fn lat_deg(self) -> f64 {
        self.lat_deg
    }

    /// Longitude in degrees, -180 to 180, east positive.
    #[must_use]
    pub fn lon_deg(self) -> f64 {
        self.lon_deg
    }

    /// The point of the unit sphere `[x, y, z]`: x towards 0°N 0°E, y towards 0°N 90°E, z towards the north pole.
    #[must_use]
    pub fn unit_vector(self) -> [f64; 3] {
        // The cosine of 90° and the sine of 180° come out as 1e-16 rather than 0; here they are 0, see the invariant.
        // Adding 0.0 turns -0.0 into 0.0.
        if self.lat_deg.abs() == 90.0 {
            return [0.0, 0.0, self.lat_deg.signum()];
        }
        let (sin_lat, cos_lat) = self.lat_deg.to_radians().sin_cos();
        if self.lon_deg.abs() == 180.0 {
            return [-cos_lat, 0.0, sin_lat + 0.0];
        }
        let (sin_lon, cos_lon) = self.lon_deg.to_radians().sin_cos();
        [
            cos_lat * cos_lon + 0.0,
            cos_lat * sin_lon + 0.0,
            sin_lat + 0.0,
        ]
    }

    /// The place reached by travelling `distance_m` metres along the great circle that leaves at `bearing_deg` (0 is
    /// north, 90 is east): how synthetic fields of nodes are laid out. Numbers that are not finite lead nowhere: the
    /// position itself is returned.
    #[must_use]
    pub fn destination(self, bearing_deg: f64, distance_m: f64) -> Self {
        let point = Haversine.destination(Point::from(self), bearing_deg, distance_m);
        Self::new(point.y(), point.x()).unwrap_or(self)
    }
}

/// `x` is the longitude, `y` the latitude, both degrees, as everywhere in `geo`.
impl From<Position> for Point<f64> {
    fn from(position: Position) -> Self {
        Self::new(position.lon_deg, position.lat_deg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::distance_m;
    use proptest::prelude::*;

    fn check(lat_deg: f64, lon_deg: f64, error: Option<&str>) {
        let said = Position::new(lat_deg, lon_deg).err().map(|e| e.to_string());
        assert_eq!(said.as_deref(), error, "{lat_deg}, {lon_deg}");
    }

    #[test]
    fn degrees_are_checked() {
        check(45.46, 9.19, None);
        check(-90.0, 180.0, None);
        check(90.0, -180.0, None);
        check(
            91.0,
            100.0,
            Some("lat_deg is 91, outside -90 to 90 degrees"),
        );
        check(
            174.76,
            -36.84,
            Some(
                "lat_deg is 174.76, outside -90 to 90 degrees; latitude and longitude look swapped",
            ),
        );
        check(
            1.0,
            -180.1,
            Some("lon_deg is -180.1, outside -180 to 180 degrees"),
        );
        check(
            f64::NAN,
            9.0,
            Some("lat_deg is NaN, not a finite number of degrees"),
        );
        check(
            9.0,
            f64::NEG_INFINITY,
            Some("lon_deg is -inf, not a finite number of degrees"),
        );
    }

    #[test]
    fn json_goes_through_the_check() {
        let milan = Position::new(45.46, 9.19).unwrap();
        let json = serde_json::to_string(&milan).unwrap();
        assert_eq!(json, r#"{"lat_deg":45.46,"lon_deg":9.19}"#);
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), milan);
        let error =
            serde_json::from_str::<Position>(r#"{"lat_deg":103.8,"lon_deg":1.3}"#).unwrap_err();
        assert!(error.to_string().contains("look swapped"), "{error}");
    }

    #[test]
    fn one_point_has_one_vector() {
        let vector = |lat, lon| Position::new(lat, lon).unwrap().unit_vector();
        assert_eq!(vector(90.0, 0.0), vector(90.0, -123.0));
        assert_eq!(vector(-90.0, 7.0), [0.0, 0.0, -1.0]);
        assert_eq!(vector(12.0, 180.0), vector(12.0, -180.0));
        for zero in [vector(-0.0, -0.0), vector(0.0, 0.0)] {
            assert_eq!(
                zero.map(f64::to_bits),
                [1.0_f64, 0.0, 0.0].map(f64::to_bits)
            );
        }
    }

    #[test]
    fn destination_of_no_number_is_where_one_stands() {
        let milan = Position::new(45.46, 9.19).unwrap();
        assert_eq!(milan.destination(f64::NAN, 10.0), milan);
        assert_eq!(milan.destination(0.0, f64::INFINITY), milan);
    }

    proptest! {
        #[test]
        fn destination_lies_at_the_asked_distance(
            lat in -89.0..=89.0, lon in -180.0..=180.0, bearing in 0.0..360.0, away_m in 0.0..19_000_000.0,
        ) {
            let start = Position::new(lat, lon).unwrap();
            let there = start.destination(bearing, away_m);
            prop_assert!((distance_m(start, there) - away_m).abs() < 1.0, "{there:?}");
        }

        #[test]
        fn vectors_have_length_one(lat in -90.0..=90.0, lon in -180.0..=180.0) {
            let [x, y, z] = Position::new(lat, lon).unwrap().unit_vector();
            prop_assert!((x * x + y * y + z * z - 1.0).abs() < 1e-15 * 4.0);
        }
    }
}
