//! Measured load, replayed.
//!
//! A trace says how load changed, in units of its own. Here every node is as
//! large as its place needs: the lower quartile of a site's own bins becomes
//! the base utilisation, and what was measured above it stays above it in the
//! same proportion. (Not the median: a match that lasts three of five hours
//! would be its own base.) Time is compressed so that the whole trace takes
//! the time the options give it; between bins the rate is interpolated.

use isobar_geo_data::distance::distance_m;
use isobar_geo_data::position::Position;
use isobar_geo_data::read::{
    Input, ReadError, read_join, read_joined_trace, read_sites, read_trace,
};
use isobar_geo_data::site::Site;
use isobar_geo_data::trace::LoadTrace;
use isobar_mesh_api::names::NodeId;

use crate::field::Field;
use crate::options::{
    NODES_MAX, Near, Options, Sizing, Source, TraceFiles, WARM_UP_S, WORKERS_MAX,
};

/// The part of New Year's Eve that [`Source::Auckland`] replays unless the options say otherwise.
const AUCKLAND_SPAN: (&str, &str) = ("2024-12-31T18:00", "2025-01-01T06:00");

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file that cannot be read.
    #[error("reading the trace")]
    Read(#[from] ReadError),
    /// A part of the trace that does not exist.
    #[error("choosing a part of the trace")]
    Part(#[from] isobar_geo_data::trace::TraceError),
    /// More sites than a replay takes.
    #[error("{0} sites; a replay takes at most {NODES_MAX}")]
    TooManySites(usize),
    /// No site in the part of the map that was chosen.
    #[error("no site lies in the part of the map that --near names")]
    NoSite,
    /// A site that would work on more at once than a replay's nodes do.
    #[error(
        "the largest site would need {0:.0} workers; a node has at most {WORKERS_MAX}, so choose a smaller --service-ms"
    )]
    TooManyWorkers(f64),
}

/// Sites and their load, as read; independent of the seed.
#[derive(Debug, Clone)]
pub struct Recording {
    whole: Whole,
    capacities: Option<Vec<f64>>,
    workers: Vec<u32>,
    load: TraceLoad,
}

/// Sites and what was measured there.
#[derive(Debug, Clone)]
struct Whole {
    sites: Vec<Site>,
    trace: LoadTrace,
    /// The trace's column of each site.
    columns: Vec<usize>,
}

impl Whole {
    fn new(sites: Vec<Site>, trace: LoadTrace, near: Option<Near>) -> Result<Whole, TraceError> {
        let inside = |site: &Site| {
            near.is_none_or(|near| {
                distance_m(near.position, site.position) <= near.radius_km * 1000.0
            })
        };
        let (columns, sites): (Vec<usize>, Vec<Site>) =
            (0..).zip(sites).filter(|(_, site)| inside(site)).unzip();
        match sites.len() {
            0 => Err(TraceError::NoSite),
            many if many > NODES_MAX => Err(TraceError::TooManySites(many)),
            _ => Ok(Whole {
                sites,
                trace,
                columns,
            }),
        }
    }

    fn value(&self, node: usize, bin: usize) -> Option<f64> {
        self.trace.value(self.columns[node], bin)
    }

    /// By bin, then by site; what is not known is 0.
    fn loads(&self) -> Vec<Vec<f64>> {
        let bins = 0..self.trace.bins();
        let of = |bin| {
            let nodes = 0..self.sites.len();
            nodes
                .map(|node| self.value(node, bin).unwrap_or(0.0))
                .collect()
        };
        bins.map(of).collect()
    }
}

/// How many requests each site works on at once: as many as its capacity takes at the options' service time.
fn workers(
    whole: &Whole,
    capacities: Option<&[f64]>,
    options: &Options,
) -> Result<Vec<u32>, TraceError> {
    let Some(capacities) = capacities else {
        return Ok(vec![options.workers; whole.sites.len()]);
    };
    let busy = |rps: &f64| rps * options.service_ms / 1000.0;
    let most = capacities.iter().map(busy).fold(0.0, f64::max);
    if most > f64::from(WORKERS_MAX) {
        return Err(TraceError::TooManyWorkers(most));
    }
    let whole_workers = |rps: &f64| (busy(rps).round() as u32).max(1);
    Ok(capacities.iter().map(whole_workers).collect())
}

impl Recording {
    /// Reads what the options name; `None` when they name a made-up spike.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn read(options: &Options) -> Result<Option<Recording>, TraceError> {
        let (sites, trace) = match &options.source {
            Source::Synthetic(_) => return Ok(None),
            Source::Auckland => isobar_geo_data::datasets::auckland(),
            Source::Trace(files) => read_files(files)?,
        };
        let whole = Whole::new(sites, trace, options.near)?;
        let capacities = match options.sizing {
            Sizing::Alike => None,
            Sizing::History(history) => Some(history.capacities(&whole.loads())),
        };
        let span = options
            .trace_span
            .as_ref()
            .map(|(from, to)| (from.as_str(), to.as_str()));
        let span = match options.source {
            Source::Auckland => Some(span.unwrap_or(AUCKLAND_SPAN)),
            _ => span,
        };
        let whole = match span {
            Some((from, to)) => Whole {
                trace: whole.trace.slice(from, to)?,
                ..whole
            },
            None => whole,
        };
        let workers = workers(&whole, capacities.as_deref(), options)?;
        let load = TraceLoad::new(&whole, &workers, options);
        Ok(Some(Recording {
            whole,
            capacities,
            workers,
            load,
        }))
    }

    /// The nodes, one per site.
    pub fn field(&self, options: &Options, seed: u64) -> Field {
        let names = (0..)
            .zip(&self.whole.sites)
            .map(|(i, site)| node_name(i, &site.id));
        let names = names.collect();
        Field::new(names, self.positions(), self.workers.clone(), options, seed)
    }

    /// Where the sites are.
    pub fn positions(&self) -> Vec<Position> {
        self.whole.sites.iter().map(|site| site.position).collect()
    }

    /// When each bin begins, and its loads by site in the trace's unit; what is not known is 0.
    pub fn bins(&self) -> Vec<(String, Vec<f64>)> {
        let trace = &self.whole.trace;
        let start = |bin| trace.bin_start(bin).to_string();
        (0..).map(start).zip(self.whole.loads()).collect()
    }

    /// Capacities by site in the trace's unit, when it says so itself ([`Sizing::History`]).
    pub fn capacities(&self) -> Option<&[f64]> {
        self.capacities.as_deref()
    }

    /// Their load.
    pub fn load(&self) -> TraceLoad {
        self.load.clone()
    }
}

fn read_files(files: &TraceFiles) -> Result<(Vec<Site>, LoadTrace), ReadError> {
    let sites = read_sites(Input::open(&files.sites)?)?;
    let load = Input::open(&files.load)?;
    let trace = match &files.join {
        Some(join) => {
            let join = read_join(Input::open(join)?, &sites)?;
            read_joined_trace(load, &sites, &join)?
        }
        None => read_trace(load, &sites)?,
    };
    Ok((sites, trace))
}

/// The site's own id where it is a name, else its number.
fn node_name(index: usize, id: &str) -> NodeId {
    let by_number = || NodeId::new(&format!("site-{index}"));
    NodeId::new(&format!("s-{id}"))
        .or_else(|_| by_number())
        .expect("letters, a hyphen and digits are a name")
}

/// Demand by node over compressed time.
#[derive(Debug, Clone)]
pub struct TraceLoad {
    nodes: usize,
    /// Requests/s, row-major `[bin][node]`.
    rates_rps: std::sync::Arc<[f32]>,
    /// Length of a bin in simulated time.
    bin_s: f64,
    capacities_rps: std::sync::Arc<[f64]>,
}

impl TraceLoad {
    /// Scales and compresses a trace as the options say.
    fn new(whole: &Whole, workers: &[u32], options: &Options) -> TraceLoad {
        let (nodes, bins) = (whole.sites.len(), whole.trace.bins());
        let capacity = |&workers: &u32| f64::from(workers) * 1000.0 / options.service_ms;
        let capacities_rps: Vec<f64> = workers.iter().map(capacity).collect();
        let mut rates_rps = vec![0.0_f32; nodes * bins];
        for node in 0..nodes {
            let known = || (0..bins).filter_map(|bin| whole.value(node, bin));
            let scale = match options.sizing {
                Sizing::History(_) => 1.0,
                Sizing::Alike => {
                    let base = base_value(&mut known().collect::<Vec<f64>>());
                    match base > 0.0 {
                        true => options.base * capacities_rps[node] / base,
                        false => continue,
                    }
                }
            };
            let mut last = known().next().unwrap_or(0.0);
            for bin in 0..bins {
                // What was not measured is as it was before.
                last = whole.value(node, bin).unwrap_or(last);
                rates_rps[bin * nodes + node] = (last * scale) as f32;
            }
        }
        TraceLoad {
            nodes,
            rates_rps: rates_rps.into(),
            bin_s: options.trace_s / bins as f64,
            capacities_rps: capacities_rps.into(),
        }
    }

    /// Requests/s that enter at `node` at `at_s`; during the warm-up, as in the first bin.
    pub fn rate_rps(&self, node: u32, at_s: f64) -> f64 {
        let bins = self.rates_rps.len() / self.nodes;
        let value = |bin: usize| f64::from(self.rates_rps[bin * self.nodes + node as usize]);
        // A bin's value stands for its middle.
        let at = ((at_s - WARM_UP_S) / self.bin_s - 0.5).clamp(0.0, (bins - 1) as f64);
        let bin = at as usize;
        let next = (bin + 1).min(bins - 1);
        value(bin) + (value(next) - value(bin)) * (at - bin as f64)
    }

    /// Whether more enters at `node` at `at_s` than it can serve alone.
    pub fn is_hot(&self, node: u32, at_s: f64) -> bool {
        self.rate_rps(node, at_s) > self.capacities_rps[node as usize]
    }
}

/// The lower quartile; when that is 0 the mean, so that a place that wakes up once has a base too.
fn base_value(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_unstable_by(f64::total_cmp);
    match values[values.len() / 4] {
        quartile if quartile > 0.0 => quartile,
        _ => values.iter().sum::<f64>() / values.len() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn load(values: &[Option<f64>]) -> TraceLoad {
        let hour = Duration::from_secs(3600);
        let trace = LoadTrace::new("2024-12-31T18:00", hour, vec!["a".into()], values).unwrap();
        let options = Options {
            trace_s: 100.0,
            base: 0.5,
            ..Options::default()
        };
        let position = Position::new(-36.8, 174.8).unwrap();
        let sites = vec![Site {
            id: "a".into(),
            position,
            name: None,
            region: None,
            capacity_rps: None,
        }];
        let whole = Whole::new(sites, trace, None).unwrap();
        TraceLoad::new(&whole, &[options.workers], &options)
    }

    #[test]
    fn the_lower_quartile_is_the_base_and_gaps_hold() {
        // Capacity 200/s, so the base is 100/s; ten bins of 10 s after the warm-up.
        let values = [4.0, 4.0, 4.0, 4.0, 4.0, 40.0, 40.0, 40.0, 40.0, 40.0].map(Some);
        let got = load(&values);
        let cases = [
            (0.0, 100.0),
            (WARM_UP_S + 5.0, 100.0),
            (WARM_UP_S + 50.0, 550.0),
            (1e6, 1000.0),
        ];
        for (at_s, rps) in cases {
            assert!(
                (got.rate_rps(0, at_s) - rps).abs() < 1e-3,
                "{at_s}: {}",
                got.rate_rps(0, at_s)
            );
        }
        assert!(!got.is_hot(0, WARM_UP_S) && got.is_hot(0, WARM_UP_S + 60.0));

        let gap = load(&[Some(2.0), None, Some(2.0), None]);
        assert!((gap.rate_rps(0, WARM_UP_S + 99.0) - 100.0).abs() < 1e-3);
        let silent = load(&[None, None]);
        assert_eq!(silent.rate_rps(0, WARM_UP_S + 1.0), 0.0);
        let wakes = load(&[Some(0.0), Some(0.0), Some(0.0), Some(4.0)]);
        assert!((wakes.rate_rps(0, WARM_UP_S + 99.0) - 400.0).abs() < 1e-3);
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let sites = write("sites.csv", "site,lat,lon\na,1,2\n");
        let cases = [
            (
                "unknown.csv",
                "site,2024-01-01T00:00,2024-01-01T01:00\nb,1,2\n",
                "unknown.csv",
            ),
            (
                "negative.csv",
                "site,2024-01-01T00:00,2024-01-01T01:00\na,1,-2\n",
                "negative.csv",
            ),
            ("empty.csv", "", "empty.csv"),
        ];
        for (name, text, expected) in cases {
            let files = TraceFiles {
                sites: sites.clone(),
                load: write(name, text),
                join: None,
            };
            let options = Options {
                source: Source::Trace(files),
                ..Options::default()
            };
            let error = Recording::read(&options).unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert!(
                cause.clone().unwrap_or_default().contains(expected),
                "{cause:?}"
            );
        }
    }

    #[test]
    fn auckland_is_there() {
        let options = Options {
            source: Source::Auckland,
            ..Options::default()
        };
        let recording = Recording::read(&options).unwrap().unwrap();
        let field = recording.field(&options, 1);
        assert_eq!(field.len(), 21);
        let load = recording.load();
        assert!((0..21).any(|node| load.is_hot(node, WARM_UP_S + options.trace_s / 2.0)));
    }
}
