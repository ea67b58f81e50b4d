//! A site: a place with a name. A city: a site where people live.

use serde::{Deserialize, Serialize};

use crate::position::Position;

/// A place where nodes stand. Its `id` is unique among the sites of a file; `name` is for people and need not be.
///
/// In JSON the position's two fields stand beside the others: `{"id": "7", "lat_deg": -36.8, "lon_deg": 174.8}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// What loads and joins call it.
    pub id: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    #[serde(flatten)]
    pub position: Position,
    /// The region it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Declared capacity of what stands there, requests per second, not negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_rps: Option<f64>,
}

/// A city, as GeoNames lists them; the site's id is its number there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct City {
    /// Where it is and what it is called.
    #[serde(flatten)]
    pub site: Site,
    /// ISO 3166-1 alpha-2 code of its country.
    pub country: String,
    /// People living there.
    pub population: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_flat_and_checked() {
        let site = Site {
            id: "7".into(),
            name: Some("45 Queen Street".into()),
            position: Position::new(-36.845001, 174.766266).unwrap(),
            region: None,
            capacity_rps: Some(120.0),
        };
        let json = serde_json::to_string(&site).unwrap();
        assert_eq!(
            json,
            r#"{"id":"7","name":"45 Queen Street","lat_deg":-36.845001,"lon_deg":174.766266,"capacity_rps":120.0}"#
        );
        assert_eq!(serde_json::from_str::<Site>(&json).unwrap(), site);
        let far = r#"{"id":"7","lat_deg":-36.8,"lon_deg":190.0}"#;
        assert!(serde_json::from_str::<Site>(far).is_err());
    }
}
