//! What a replay found: a table, JSON, and a page.

use serde::Serialize;

use crate::field::Field;
use crate::measure::{Counted, Figures};
use crate::options::{Capacity, Options, PolicyName, Source};

pub mod html;
pub mod statistics;
pub mod svg;
pub mod table;

use statistics::Estimate;

/// One policy and seed.
#[derive(Debug, Clone)]
pub struct Run {
    /// Who decided.
    pub policy: PolicyName,
    /// Which arrivals.
    pub seed: u64,
    /// What was counted.
    pub counted: Counted,
}

/// A whole replay.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was replayed, as (what, value).
    pub setup: Vec<(&'static str, String)>,
    /// By policy in the order of the options, then by seed.
    pub runs: Vec<Run>,
    /// Where nodes are, as (east, north) in degrees.
    pub places: Vec<(f64, f64)>,
}

/// One run in the JSON.
#[derive(Debug, Serialize)]
struct RunJson<'a> {
    policy: &'static str,
    seed: u64,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// A policy's figures over all its seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Who decided.
    pub policy: PolicyName,
    /// The part of requests that failed.
    pub failed: Estimate,
    /// The part of requests of hot homes that failed.
    pub hot_failed: Estimate,
    /// Median latency, in milliseconds.
    pub p50_ms: Estimate,
    /// 99th percentile, in milliseconds.
    pub p99_ms: Estimate,
    /// 99th percentile of hot homes' requests, in milliseconds.
    pub hot_p99_ms: Estimate,
    /// The part served by other nodes.
    pub moved_share: Estimate,
    /// Reversals, all seeds together.
    pub reversals: u32,
    /// The longest time to settle of any seed, in seconds.
    pub settle_s: Option<f64>,
    /// The highest planned utilisation of any seed.
    pub max_planned_utilisation: Option<f64>,
}

impl Report {
    /// Puts runs and their setting together.
    pub fn new(options: &Options, field: &Field, runs: Vec<Run>) -> Report {
        let place = |p: &isobar_geo_data::position::Position| (p.lon_deg(), p.lat_deg());
        Report {
            setup: setup(options, field),
            runs,
            places: field.positions.iter().map(place).collect(),
        }
    }

    /// An array of one object per policy and seed.
    pub fn json(&self) -> String {
        let run = |run: &Run| {
            serde_json::to_string(&RunJson {
                policy: run.policy.name(),
                seed: run.seed,
                figures: &run.counted.figures,
            })
        };
        let lines: Vec<String> = self.runs.iter().filter_map(|r| run(r).ok()).collect();
        format!("[\n{}\n]\n", lines.join(",\n"))
    }

    /// A table for a terminal.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// A page that needs nothing but itself.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// One entry per policy, in the order of the runs.
    pub fn summaries(&self) -> Vec<Summary> {
        let mut summaries: Vec<Summary> = Vec::new();
        for run in &self.runs {
            if summaries.iter().all(|s| s.policy != run.policy) {
                summaries.push(self.summary(run.policy));
            }
        }
        summaries
    }

    fn summary(&self, policy: PolicyName) -> Summary {
        let figures: Vec<&Figures> = self
            .runs
            .iter()
            .filter(|run| run.policy == policy)
            .map(|run| &run.counted.figures)
            .collect();
        let over = |value: &dyn Fn(&Figures) -> f64| {
            let values: Vec<f64> = figures.iter().map(|f| value(f)).collect();
            Estimate::of(&values)
        };
        let most = |value: &dyn Fn(&Figures) -> Option<f64>| {
            figures.iter().filter_map(|f| value(f)).reduce(f64::max)
        };
        let part = |count: u64, of: u64| count as f64 / of.max(1) as f64;
        Summary {
            policy,
            failed: over(&|f| part(f.failures, f.requests)),
            hot_failed: over(&|f| part(f.hot_failures, f.hot_requests)),
            p50_ms: over(&|f| f.p50_ms),
            p99_ms: over(&|f| f.p99_ms),
            hot_p99_ms: over(&|f| f.hot_p99_ms),
            moved_share: over(&|f| f.moved_share),
            reversals: figures.iter().map(|f| f.reversals).sum(),
            settle_s: most(&|f| f.settle_s),
            max_planned_utilisation: most(&|f| f.max_planned_utilisation),
        }
    }
}

fn setup(options: &Options, field: &Field) -> Vec<(&'static str, String)> {
    let load = match &options.source {
        Source::Synthetic(shape) => format!("{} ×{}", shape.name(), options.times),
        Source::Trace(files) => files.load.display().to_string(),
        Source::Auckland => "pedestrians of Auckland, New Year's Eve 2024".to_owned(),
    };
    let rtt = match &options.rtt_ms {
        Some(rtt) => format!("{} to {} ms", rtt.start, rtt.end),
        None => "by distance".to_owned(),
    };
    let capacity = match options.capacity {
        Capacity::Declared => "declared".to_owned(),
        Capacity::Learned(factor) => format!("learned, from {factor} × the true one"),
    };
    let mut setup = vec![
        ("load", load),
        ("nodes", field.len().to_string()),
        ("neighbours", options.neighbours.to_string()),
        ("base utilisation", format!("{}", options.base)),
        ("workers per node", options.workers.to_string()),
        (
            "mean service time",
            format!("{} ms, exponential", options.service_ms),
        ),
        ("round trips", rtt),
        (
            "control",
            format!("every {} ms, {} ms late", options.period_ms, options.lag_ms),
        ),
        ("capacity", capacity),
        ("seeds", format!("{} from {}", options.seeds, options.seed)),
    ];
    if options.report_loss > 0.0 {
        setup.push(("reports lost", format!("{} %", options.report_loss * 100.0)));
    }
    if let Some(down) = &options.controller_down {
        setup.push((
            "controller away",
            format!("{} to {} s", down.start, down.end),
        ));
    }
    if !options.displacement {
        setup.push(("displacement", "off".to_owned()));
    }
    setup
}
