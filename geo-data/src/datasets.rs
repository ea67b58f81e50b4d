//! Recorded places and loads that are part of the program, so that a demo needs no download.
//!
//! They are real, small and free to pass on; where they come from and under which licences is in `data/README.md`, and
//! [`NOTICES`] is the text to show beside them. Each is one function: a program that does not call it does not carry its
//! bytes (the linker drops them), which is why there is no feature to switch them off.

use crate::read::{Input, ReadError, read_cities, read_sites, read_trace};
use crate::site::{City, Site};
use crate::trace::LoadTrace;

/// Attribution and licences of the data, to be shown where they are used.
pub const NOTICES: &str = include_str!("../data/README.md");

/// 21 pedestrian counters in the centre of Auckland, and how many people passed each in every hour from
/// 2024-01-01T06:00 to 2025-01-01T05:00 local time: a stand-in for load. Hours nobody counted are missing values.
///
/// New Year is the spike: `trace.slice("2024-12-31T18:00", "2025-01-01T06:00")`.
#[must_use]
pub fn auckland() -> (Vec<Site>, LoadTrace) {
    let sensors = include_bytes!("../data/auckland_sensors.csv");
    let counts = include_bytes!("../data/auckland_counts.csv.gz");
    let sites = embedded(read_sites(Input::new("auckland_sensors.csv", &sensors[..])));
    let trace = embedded(read_trace(
        Input::new("auckland_counts.csv.gz", &counts[..]),
        &sites,
    ));
    (sites, trace)
}

/// The 24,323 cities of the world with 15,000 people or more, largest first.
#[must_use]
pub fn cities() -> Vec<City> {
    let cities = include_bytes!("../data/cities.csv.gz");
    embedded(read_cities(Input::new("cities.csv.gz", &cities[..])))
}

/// Outlines of the continents, scale 1:110 million, as TopoJSON with the one object `land`.
#[must_use]
pub fn land_topojson() -> &'static str {
    include_str!("../data/land-110m.json")
}

/// What is compiled in is read by the tests of this module, so it reads everywhere.
fn embedded<T>(read: Result<T, ReadError>) -> T {
    read.expect("embedded data are well-formed")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn auckland_is_whole() {
        let (sites, trace) = auckland();
        assert_eq!((sites.len(), trace.sites().len()), (21, 21));
        assert_eq!(trace.bin(), Duration::from_secs(3600));
        // 366 days of hours, both ends included; two of them have no row.
        assert_eq!(trace.bins(), 366 * 24);
        assert_eq!(trace.bin_start(0).to_string(), "2024-01-01T06:00");
        assert_eq!(
            trace.bin_start(366 * 24 - 1).to_string(),
            "2025-01-01T05:00"
        );
        assert_eq!(trace.value(0, 0), Some(78.0));
        let gap = trace.slice("2024-09-29T01:00", "2024-09-29T04:00").unwrap();
        let counted = [0, 1, 2].map(|bin| gap.value(0, bin).is_some());
        assert_eq!(counted, [true, false, true]);
    }

    #[test]
    fn new_year_is_the_spike() {
        let (_, trace) = auckland();
        let night = trace.slice("2024-12-31T18:00", "2025-01-01T06:00").unwrap();
        assert_eq!((night.sites().len(), night.bins()), (21, 12));
        // Sensor 7, 45 Queen Street: most people at midnight.
        let loads: Vec<_> = (0..12).map(|bin| night.value(6, bin).unwrap()).collect();
        assert!(loads.iter().all(|load| *load <= loads[6]));
        assert_eq!(loads[6], 2358.0);
    }

    #[test]
    fn cities_are_whole() {
        let cities = cities();
        assert_eq!(cities.len(), 24_323);
        assert_eq!(
            (cities[0].site.id.as_str(), cities[0].country.as_str()),
            ("1796236", "CN")
        );
        assert!(cities.is_sorted_by(|a, b| a.population >= b.population));
        assert!(cities.iter().all(|city| city.site.name.is_some()));
    }

    #[test]
    fn land_is_topojson() {
        let land: serde_json::Value = serde_json::from_str(land_topojson()).unwrap();
        assert_eq!(land["type"], "Topology");
        assert!(land["objects"]["land"].is_object());
    }

    #[test]
    fn notices_name_every_source() {
        for name in [
            "Heart of the City Auckland",
            "GeoNames",
            "Natural Earth",
            "Michael Bostock",
        ] {
            assert!(NOTICES.contains(name), "{name}");
        }
    }
}
