//! What of a trace is replayed, and how large its sites are.

use std::path::PathBuf;

use isobar_geo_data::position::Position;

/// The files of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFiles {
    /// Sites with positions: CSV, optionally gzip, or GeoJSON.
    pub sites: PathBuf,
    /// Load by site and time bin: CSV, optionally gzip.
    pub load: PathBuf,
    /// Which row of the load belongs to which site, when their names differ.
    pub join: Option<PathBuf>,
}

/// How large the sites of a trace are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sizing {
    /// All alike: the options' workers. Every site's load is scaled so that its lower quartile is the base
    /// utilisation.
    Alike,
    /// As a cautious operator would have built each. A unit of the load is one request/s.
    History(History),
}

/// Capacity out of what was seen before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct History {
    /// Smallest capacity of a site, in units of the load.
    pub least: f64,
    /// Capacity over the highest load seen.
    pub factor: f64,
    /// How many bins, the trace's last, are looked at.
    pub bins: usize,
}

impl History {
    /// Capacities by site, in units of the load: `least`, or `factor` times the highest load in the last `bins` bins,
    /// whichever is more. `loads` are by bin, then by site.
    pub fn capacities(&self, loads: &[Vec<f64>]) -> Vec<f64> {
        let sites = loads.first().map_or(0, Vec::len);
        let last = &loads[loads.len().saturating_sub(self.bins)..];
        let highest = |site: usize| last.iter().map(|bin| bin[site]).fold(0.0, f64::max);
        (0..sites)
            .map(|site| (self.factor * highest(site)).max(self.least))
            .collect()
    }
}

impl std::str::FromStr for Sizing {
    type Err = String;
    /// `alike`, or `LEAST,FACTOR,BINS`.
    fn from_str(text: &str) -> Result<Sizing, String> {
        if text == "alike" {
            return Ok(Sizing::Alike);
        }
        let read = || {
            let mut parts = text.split(',');
            let least = parts.next()?.parse::<f64>().ok()?;
            let factor = parts.next()?.parse::<f64>().ok()?;
            let bins = parts.next()?.parse::<usize>().ok()?;
            let history = History {
                least,
                factor,
                bins,
            };
            let fine = (1e-3..=1e6).contains(&least)
                && (0.0..=1e3).contains(&factor)
                && bins > 0
                && parts.next().is_none();
            fine.then_some(Sizing::History(history))
        };
        read().ok_or_else(|| {
            "write alike, or the least capacity, a factor of at most 1000 and a number of bins, as 40,2,8".to_owned()
        })
    }
}

/// A part of the map: sites at most so far from a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// Its middle.
    pub position: Position,
    /// Its radius, in kilometres.
    pub radius_km: f64,
}

impl std::str::FromStr for Near {
    type Err = String;
    /// `LAT,LON,KM`.
    fn from_str(text: &str) -> Result<Near, String> {
        let numbers: Option<Vec<f64>> = text.split(',').map(|part| part.parse().ok()).collect();
        let [lat_deg, lon_deg, radius_km] = numbers.as_deref().unwrap_or(&[]) else {
            return Err("write latitude, longitude and kilometres, as 45.478,9.124,5".to_owned());
        };
        let position = Position::new(*lat_deg, *lon_deg).map_err(|error| error.to_string())?;
        match radius_km.is_finite() && *radius_km > 0.0 {
            true => Ok(Near {
                position,
                radius_km: *radius_km,
            }),
            false => Err("the radius must be a finite number of kilometres above 0".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_looks_at_the_last_bins_alone() {
        let loads = vec![vec![900.0, 1.0], vec![30.0, 2.0], vec![25.0, 3.0]];
        let history = History {
            least: 40.0,
            factor: 2.0,
            bins: 2,
        };
        assert_eq!(history.capacities(&loads), [60.0, 40.0]);
        assert!(history.capacities(&[]).is_empty());
    }

    #[test]
    fn words_are_read_or_explained() {
        assert_eq!("alike".parse(), Ok(Sizing::Alike));
        let history = History {
            least: 40.0,
            factor: 2.0,
            bins: 8,
        };
        assert_eq!("40,2,8".parse(), Ok(Sizing::History(history)));
        for wrong in [
            "", "40", "40,2", "40,2,0", "0,2,8", "NaN,2,8", "40,2,8,1", "-1,2,8",
        ] {
            assert!(wrong.parse::<Sizing>().is_err(), "{wrong}");
        }
        let near: Near = "45.478,9.124,5".parse().unwrap();
        assert_eq!((near.position.lat_deg(), near.radius_km), (45.478, 5.0));
        for (wrong, part) in [
            ("45,9", "45.478,9.124,5"),
            ("91,9,5", "91"),
            ("45,9,0", "above 0"),
            ("45,9,inf", "finite"),
        ] {
            let error = wrong.parse::<Near>().unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
