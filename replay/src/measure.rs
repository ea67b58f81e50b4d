//! What is counted while a replay runs.
//!
//! Figures are of requests that entered after the warm-up. Latencies are what
//! a client sees, of requests that were answered; a refused request has none
//! and counts as a failure instead, and so does an answer later than
//! [`LATE`].

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::field::Field;
use crate::load::Load;
use crate::policy::Policy;
use crate::simulator::request::{Moved, Request};
use crate::simulator::{Mesh, SAMPLE_NS};

pub mod rows;

use rows::Rows;

/// An answer that takes longer is a failure.
pub const LATE: Duration = Duration::from_secs(2);
/// Length of a bin of the course over time, in samples: 1 s.
const BIN_SAMPLES: u32 = 10;
/// Most nodes whose loads are kept over time for a page; a larger field keeps none.
pub const LOAD_NODES_MAX: usize = 2_500;
/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its answer reached the client.
    Served,
    /// It was refused.
    Shed,
}

/// The figures of one policy and seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that entered.
    pub requests: u64,
    /// Requests refused, and answers that came late.
    pub failures: u64,
    /// Requests refused.
    pub shed: u64,
    /// Median latency, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency, in milliseconds.
    pub p99_ms: f64,
    /// Median latency of requests whose home was hot when they entered, in milliseconds; 0 without any.
    pub hot_p50_ms: f64,
    /// 99th percentile of theirs, in milliseconds; 0 without any.
    pub hot_p99_ms: f64,
    /// The part of requests that another node served, 0 to 1.
    pub moved_share: f64,
    /// Requests that went to the upstream of last resort.
    pub cloud_requests: u64,
    /// Times that a weight of a hot home turned around by more than 4 points while its demand was steady.
    pub reversals: u32,
    /// Time until all weights of hot homes were, and stayed, within 5 points of their last value; the longest of
    /// any hot home. `None` without weights or steady overload.
    pub settle_s: Option<f64>,
    /// The highest utilisation that was ever planned for a node; `None` without plans.
    pub max_planned_utilisation: Option<f64>,
    /// The part moved because weights said so.
    pub moved_by_plan_share: f64,
    /// The part moved by a proxy's own correction.
    pub moved_by_spill_share: f64,
    /// The part moved though a worker at home was idle.
    pub needless_share: f64,
    /// Requests that entered at hot homes.
    pub hot_requests: u64,
    /// Failures among them.
    pub hot_failures: u64,
    /// Requests that some node refused and another served.
    pub brought_home: u64,
}

/// One second of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Bin {
    /// Requests that ended.
    pub ended: u64,
    /// Failures among them.
    pub failures: u64,
    /// Moved among them.
    pub moved: u64,
    /// Median latency, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// 99th percentile of hot homes' requests, in milliseconds.
    pub hot_p99_ms: f64,
}

/// Counts of one run.
#[derive(Debug)]
pub struct Measure {
    warm_up_ns: u64,
    end_ns: u64,
    /// All requests that entered, warm-up included.
    pub(crate) entered: u64,
    /// All requests that ended, warm-up included.
    pub(crate) ended: u64,
    figures: Figures,
    moved_plan: u64,
    moved_spill: u64,
    needless: u64,
    late: u64,
    latency_us: Histogram<u32>,
    hot_latency_us: Histogram<u32>,
    rows: Rows,
    bin: Bin,
    bin_latency_us: Histogram<u32>,
    bin_hot_latency_us: Histogram<u32>,
    samples: u32,
    bins: Vec<Bin>,
    /// Utilisation by node, one row per bin; empty for large fields.
    loads: Vec<Vec<f32>>,
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that fit")
}

fn quantile_ms(latency_us: &Histogram<u32>, quantile: f64) -> f64 {
    if latency_us.is_empty() {
        return 0.0;
    }
    latency_us.value_at_quantile(quantile) as f64 / 1000.0
}

impl Measure {
    /// Nothing counted yet.
    pub(crate) fn new(field: &Field, load: &Load, warm_up_s: f64, end_ns: u64) -> Measure {
        Measure {
            warm_up_ns: (warm_up_s * 1e9) as u64,
            end_ns,
            entered: 0,
            ended: 0,
            figures: Figures::default(),
            moved_plan: 0,
            moved_spill: 0,
            needless: 0,
            late: 0,
            latency_us: histogram(),
            hot_latency_us: histogram(),
            rows: Rows::new(load.hot_spans(field.len() as u32, end_ns as f64 / 1e9)),
            bin: Bin::default(),
            bin_latency_us: histogram(),
            bin_hot_latency_us: histogram(),
            samples: 0,
            bins: Vec::new(),
            loads: Vec::new(),
        }
    }

    pub(crate) fn entered(&mut self) {
        self.entered += 1;
    }

    pub(crate) fn ended(&mut self, request: &Request, outcome: Outcome, now_ns: u64) {
        self.ended += 1;
        let latency_ns = now_ns - request.entered_ns;
        let late = u128::from(latency_ns) > LATE.as_nanos();
        let failed = outcome == Outcome::Shed || late;
        let moved = matches!(request.moved, Moved::Plan | Moved::Spill);
        self.bin.ended += 1;
        self.bin.failures += u64::from(failed);
        self.bin.moved += u64::from(moved);
        let latency_us = latency_ns / 1000;
        if outcome == Outcome::Served {
            self.bin_latency_us.saturating_record(latency_us);
            if request.hot {
                self.bin_hot_latency_us.saturating_record(latency_us);
            }
        }
        if request.entered_ns < self.warm_up_ns {
            return;
        }
        let figures = &mut self.figures;
        figures.requests += 1;
        figures.failures += u64::from(failed);
        figures.hot_requests += u64::from(request.hot);
        figures.hot_failures += u64::from(request.hot && failed);
        match outcome {
            Outcome::Shed => {
                figures.shed += 1;
                return;
            }
            Outcome::Served => self.late += u64::from(late),
        }
        figures.brought_home += u64::from(request.refusals > 0);
        match request.moved {
            Moved::No => {}
            Moved::Plan => {
                eprintln!(
                    "PM {} {}->{}",
                    now_ns as f64 / 1e9,
                    request.home,
                    request.at
                );
                self.moved_plan += 1
            }
            Moved::Spill => self.moved_spill += 1,
            Moved::Cloud => figures.cloud_requests += 1,
        }
        self.needless += u64::from(moved && request.needless);
        self.latency_us.saturating_record(latency_us);
        if request.hot {
            self.hot_latency_us.saturating_record(latency_us);
        }
    }

    /// Looks at weights, and once a second at loads.
    pub(crate) fn sample<P: Policy>(&mut self, mesh: &mut Mesh<'_>, policy: &P) {
        if mesh.now_ns > self.end_ns {
            return;
        }
        self.rows.sample(mesh, policy);
        self.samples += 1;
        if !self.samples.is_multiple_of(BIN_SAMPLES) {
            return;
        }
        let mut bin = std::mem::take(&mut self.bin);
        bin.p50_ms = quantile_ms(&self.bin_latency_us, 0.5);
        bin.p99_ms = quantile_ms(&self.bin_latency_us, 0.99);
        bin.hot_p99_ms = quantile_ms(&self.bin_hot_latency_us, 0.99);
        self.bin_latency_us.reset();
        self.bin_hot_latency_us.reset();
        self.bins.push(bin);
        let bin_s = f64::from(BIN_SAMPLES) * SAMPLE_NS as f64 / 1e9;
        if mesh.stations.len() <= LOAD_NODES_MAX {
            let field = mesh.field;
            let loads = (0..).zip(&mut mesh.stations).map(|(node, station)| {
                let most = field.capacity_rps(node) * bin_s;
                let completed = std::mem::take(&mut station.completed_sample);
                (f64::from(completed) / most) as f32
            });
            self.loads.push(loads.collect());
        }
    }

    /// Ends the counting.
    pub(crate) fn finish(mut self, planned_utilisation_max: Option<f64>) -> Counted {
        let requests = self.figures.requests.max(1) as f64;
        let share = |count: u64| count as f64 / requests;
        let (reversals, settle_s) = self.rows.judge();
        self.figures = Figures {
            p50_ms: quantile_ms(&self.latency_us, 0.5),
            p99_ms: quantile_ms(&self.latency_us, 0.99),
            hot_p50_ms: quantile_ms(&self.hot_latency_us, 0.5),
            hot_p99_ms: quantile_ms(&self.hot_latency_us, 0.99),
            moved_share: share(self.moved_plan + self.moved_spill),
            reversals,
            settle_s,
            max_planned_utilisation: planned_utilisation_max,
            moved_by_plan_share: share(self.moved_plan),
            moved_by_spill_share: share(self.moved_spill),
            needless_share: share(self.needless),
            ..self.figures
        };
        Counted {
            entered: self.entered,
            ended: self.ended,
            figures: self.figures,
            course: Course {
                bins: self.bins,
                loads: self.loads,
                hot_row: self.rows.into_first_history(),
            },
        }
    }
}

/// All that is known after a run.
#[derive(Debug, Clone)]
pub struct Counted {
    /// All requests that entered, warm-up included.
    pub entered: u64,
    /// All requests that ended, warm-up included.
    pub ended: u64,
    /// The figures.
    pub figures: Figures,
    /// The course over time.
    pub course: Course,
}

/// A run over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Course {
    /// One entry a second since the run's start, warm-up included.
    pub bins: Vec<Bin>,
    /// Utilisation by bin and node; empty for fields above [`LOAD_NODES_MAX`].
    pub loads: Vec<Vec<f32>>,
    /// Weights of the first hot home over time.
    pub hot_row: rows::History,
}
