//! The night: New Year's Eve 2024 in the centre of Auckland, by its pedestrian counters.
//!
//! Every counter is a site with an edge server; people who pass it are its
//! load. Three rules turn counts into a cluster, from the data alone:
//!
//! - **load**: requests/s ∝ people per hour, scaled so that the busiest moment
//!   of the city is [`PEAK_RPS`];
//! - **capacity**: a site is built for what it knew before: in the busiest hour
//!   between 18:00 and 03:00 of the year until then its server ran at
//!   [`BUILT_FOR`]; rounded up to whole workers;
//! - **distance**: round trips are the median estimate for the distance
//!   between the counters.
//!
//! On that night the city as a whole stays below three quarters of what its
//! servers can do, and some of them get a third more than they can.

use std::time::Duration;

use isobar_geo_data::datasets;
use isobar_geo_data::distance::distance_m;
use isobar_geo_data::rtt::estimate_rtt;
use isobar_geo_data::site::Site;
use isobar_geo_data::trace::{LoadTrace, TraceError};
use isobar_mesh_api::message::Location;
use isobar_mesh_api::resource::{Algorithm, WeightPolicySpec};
use isobar_replay::cluster::{ClusterSpec, Place};

/// The night's first hour.
pub const FROM: &str = "2024-12-31T18:00";
/// The end of the night.
pub const TO: &str = "2025-01-01T03:00";
/// The last ordinary hour ends here.
const ORDINARY_TO: &str = "2024-12-31T12:00";
/// Hours of the day that the night has.
const HOURS: [u8; 9] = [18, 19, 20, 21, 22, 23, 0, 1, 2];
/// Requests/s of the whole city at its busiest moment.
pub const PEAK_RPS: f64 = 1_700.0;
/// Utilisation of a site in its busiest ordinary hour.
pub const BUILT_FOR: f64 = 0.75;
/// Mean service time of an endpoint.
pub const SERVICE: Duration = Duration::from_millis(25);
/// Seconds of load before the night begins: as in its first moment, not counted.
pub const WARM_UP_S: f64 = 3.0;

/// The night, scaled.
#[derive(Debug, Clone)]
pub struct Night {
    sites: Vec<Site>,
    trace: LoadTrace,
    rps_per_count: f64,
    workers: Vec<u32>,
    /// How long it is replayed, in seconds.
    pub replayed_s: f64,
}

impl Night {
    /// The night, replayed in `replayed_s` seconds.
    ///
    /// # Errors
    /// Never for the data that are part of the program.
    pub fn new(replayed_s: f64) -> Result<Night, TraceError> {
        let (sites, year) = datasets::auckland();
        let trace = year.slice(FROM, TO)?;
        let city = |bin| {
            (0..sites.len())
                .filter_map(|site| trace.value(site, bin))
                .sum::<f64>()
        };
        let peak = (0..trace.bins()).map(city).fold(1.0, f64::max);
        let rps_per_count = PEAK_RPS / peak;
        let before = year.slice(&year.bin_start(0).to_string(), ORDINARY_TO)?;
        let worker_rps = 1.0 / SERVICE.as_secs_f64();
        let workers = (0..sites.len())
            .map(|site| busiest(&before, site) * rps_per_count / BUILT_FOR / worker_rps)
            .map(|workers| workers.ceil().max(1.0) as u32)
            .collect();
        Ok(Night {
            sites,
            trace,
            rps_per_count,
            workers,
            replayed_s,
        })
    }

    /// Number of sites.
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// What people call a site.
    pub fn name(&self, site: usize) -> &str {
        let site = &self.sites[site];
        site.name.as_deref().unwrap_or(&site.id)
    }

    /// Where a site is, as (east, north) in degrees.
    pub fn place(&self, site: usize) -> (f64, f64) {
        let position = self.sites[site].position;
        (position.lon_deg(), position.lat_deg())
    }

    /// What a site's server can do, requests/s.
    pub fn capacity_rps(&self, site: usize) -> f64 {
        f64::from(self.workers[site]) / SERVICE.as_secs_f64()
    }

    /// Requests/s that enter at a site, `at_s` seconds after the load began, warm-up included.
    pub fn rate_rps(&self, site: usize, at_s: f64) -> f64 {
        let count = self.trace.rate(site, self.time(at_s));
        count.unwrap_or(0.0) * self.rps_per_count
    }

    /// Whether more enters at a site than its server can do.
    pub fn is_hot(&self, site: usize, at_s: f64) -> bool {
        self.rate_rps(site, at_s) > self.capacity_rps(site)
    }

    /// How long the load lasts, warm-up included, in seconds.
    pub fn duration_s(&self) -> f64 {
        WARM_UP_S + self.replayed_s
    }

    /// The clock of that night, `HH:MM`.
    pub fn clock(&self, at_s: f64) -> String {
        let minutes = self.time(at_s).as_secs() / 60 + u64::from(HOURS[0]) * 60;
        format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
    }

    /// Time since the beginning of the night.
    fn time(&self, at_s: f64) -> Duration {
        let night_s = self.trace.duration().as_secs_f64();
        let part = ((at_s - WARM_UP_S) / self.replayed_s).clamp(0.0, 1.0);
        // The end itself is in no bin.
        Duration::from_secs_f64((part * night_s).min(night_s - 1.0))
    }

    /// The cluster that stands for the city.
    pub fn cluster(&self, algorithm: Algorithm, seed: u64) -> ClusterSpec {
        let place = |site: usize| Place {
            name: format!("s{}", self.sites[site].id),
            location: Location {
                lat_deg: self.sites[site].position.lat_deg(),
                lon_deg: self.sites[site].position.lon_deg(),
            },
            workers: self.workers[site],
            service: SERVICE,
            capacity_rps: Some(self.capacity_rps(site)),
        };
        let all = 0..self.sites();
        let rtt = |a: usize, b: usize| {
            let apart_m = distance_m(self.sites[a].position, self.sites[b].position);
            estimate_rtt(apart_m).median
        };
        ClusterSpec {
            places: all.clone().map(place).collect(),
            rtt: all
                .clone()
                .flat_map(|a| all.clone().map(move |b| rtt(a, b)))
                .collect(),
            policy: WeightPolicySpec {
                algorithm,
                spill: algorithm != Algorithm::Off,
                ..WeightPolicySpec::default()
            },
            period_ms: 1_000,
            seed,
        }
    }
}

/// The busiest hour of a site within the hours of the night.
fn busiest(year: &LoadTrace, site: usize) -> f64 {
    let first_hour = hour(&year.bin_start(0).to_string());
    (0..year.bins())
        .filter(|bin| HOURS.contains(&(((first_hour as usize + bin) % 24) as u8)))
        .filter_map(|bin| year.value(site, bin))
        .fold(0.0, f64::max)
}

/// The hour of `2024-01-01T06:00`; 0 for another text.
fn hour(label: &str) -> u8 {
    label
        .get(11..13)
        .and_then(|hour| hour.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_city_has_room_where_some_sites_have_not() {
        let night = Night::new(60.0).unwrap();
        assert_eq!(night.sites(), 21);
        let capacity_rps: f64 = (0..21).map(|site| night.capacity_rps(site)).sum();
        let seconds = || (0..=630).map(|tenth| f64::from(tenth) / 10.0);
        let city = |at_s: f64| (0..21).map(|site| night.rate_rps(site, at_s)).sum::<f64>();
        let peak_rps = seconds().map(city).fold(0.0, f64::max);
        assert!(
            (0.98..=1.001).contains(&(peak_rps / PEAK_RPS)),
            "{peak_rps}"
        );
        assert!(
            peak_rps < 0.75 * capacity_rps,
            "{peak_rps} of {capacity_rps}"
        );
        let hot = |site: &usize| seconds().any(|at_s| night.is_hot(*site, at_s));
        let hot: Vec<usize> = (0..21).filter(hot).collect();
        assert!((2..=6).contains(&hot.len()), "{hot:?}");
        assert!(!(0..21).any(|site| night.is_hot(site, 0.0)));
    }

    #[test]
    fn the_clock_runs_through_midnight() {
        let night = Night::new(54.0).unwrap();
        let clock = |at_s: f64| night.clock(WARM_UP_S + at_s);
        assert_eq!(
            [
                night.clock(0.0),
                clock(0.0),
                clock(33.0),
                clock(36.0),
                clock(99.0)
            ],
            ["18:00", "18:00", "23:30", "00:00", "02:59"]
        );
    }

    #[test]
    fn the_cluster_is_sound() {
        let spec = Night::new(60.0).unwrap().cluster(Algorithm::Convex, 1);
        spec.check().unwrap();
        assert_eq!(spec.rtt(0, 5), spec.rtt(5, 0));
        // Sensors 2 and 3 stand at one place.
        assert_eq!(spec.rtt(1, 2), isobar_geo_data::rtt::ON_SITE_RTT);
    }
}
