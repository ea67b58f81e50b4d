//! What to replay: the command line's words as one checked value.

use std::ops::Range;

mod trace;

pub use trace::{History, Near, Sizing, TraceFiles};

/// Most nodes a replay takes.
pub const NODES_MAX: usize = 100_000;
/// Most requests that a node works on at once.
pub const WORKERS_MAX: u32 = 10_000;
/// Most seeds of one replay.
pub const SEEDS_MAX: u32 = 1_000;
/// Longest simulated time, in seconds.
pub const DURATION_S_MAX: f64 = 24.0 * 3600.0;
/// Simulated time before the spike, in seconds; nothing of it is counted.
pub const WARM_UP_S: f64 = 5.0;
/// Length of a synthetic spike, in seconds.
pub const SPIKE_S: f64 = 30.0;
/// Simulated time after a synthetic spike, in seconds.
pub const AFTER_S: f64 = 10.0;

/// The shape of a made-up spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Synthetic {
    /// Nothing happens.
    Calm,
    /// One node's demand jumps and jumps back.
    Step,
    /// One node's demand grows all through the spike, then ends.
    Ramp,
    /// One node's demand grows, stays, shrinks, a third of the spike each.
    Trapezoid,
    /// A hot spot crosses the field on a straight line.
    Platoon,
    /// Two hot spots two nodes apart, their neighbourhoods overlapping.
    Overlap,
    /// One node's demand is up for one control period and down for the next: the worst for a
    /// controller that follows.
    Square,
    /// Every node's demand grows at once, so nobody has an idle neighbour.
    Surge,
}

impl Synthetic {
    /// All shapes, as the command line writes them.
    pub const NAMES: [(&'static str, Synthetic); 8] = [
        ("calm", Synthetic::Calm),
        ("step", Synthetic::Step),
        ("ramp", Synthetic::Ramp),
        ("trapezoid", Synthetic::Trapezoid),
        ("platoon", Synthetic::Platoon),
        ("overlap", Synthetic::Overlap),
        ("square", Synthetic::Square),
        ("surge", Synthetic::Surge),
    ];

    /// How the command line writes it.
    pub fn name(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }
}

/// Who decides where a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyName {
    /// Isobar: the exact plan and the proxies' spill.
    Convex,
    /// Isobar's proxies with the nearest-first planner, without spill.
    Waterfall,
    /// Isobar's proxies with the reconstruction of Furusawa et al. 2022, without spill.
    Threshold,
    /// Isobar's proxies with fixed weights, without spill.
    Static,
    /// Everything is served where it enters.
    Home,
    /// Round robin over home and neighbourhood.
    Uniform,
    /// Envoy's load-aware locality rule.
    Envoy,
    /// Weights by inverse latency.
    L3,
    /// More of the neighbourhood while the load per endpoint leaves a band.
    Hazl,
    /// One random probe when home is above a threshold.
    Ll,
    /// The exact plan for the true demand, without any lag.
    Optimum,
}

impl PolicyName {
    /// All policies, as the command line writes them.
    pub const NAMES: [(&'static str, PolicyName); 11] = [
        ("convex", PolicyName::Convex),
        ("waterfall", PolicyName::Waterfall),
        ("threshold", PolicyName::Threshold),
        ("static", PolicyName::Static),
        ("home", PolicyName::Home),
        ("uniform", PolicyName::Uniform),
        ("envoy", PolicyName::Envoy),
        ("l3", PolicyName::L3),
        ("hazl", PolicyName::Hazl),
        ("ll", PolicyName::Ll),
        ("optimum", PolicyName::Optimum),
    ];

    /// How the command line writes it.
    pub fn name(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }

    /// How a report writes it, with its origin.
    pub fn title(self) -> &'static str {
        match self {
            PolicyName::Convex => "convex (Isobar)",
            PolicyName::Threshold => "threshold (Furusawa et al. 2022, reconstruction)",
            PolicyName::Envoy => "envoy (load-aware locality)",
            PolicyName::L3 => "l3 (inverse latency, reconstruction)",
            PolicyName::Hazl => "hazl (load band, reconstruction)",
            PolicyName::Ll => "ll (LL(1,6))",
            PolicyName::Optimum => "optimum (full knowledge, no lag)",
            other => other.name(),
        }
    }
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    let found = names.iter().find(|(_, named)| *named == value);
    found.map_or("?", |(name, _)| name)
}

fn parse<T: Copy>(
    what: &'static str,
    names: &[(&'static str, T)],
    text: &str,
) -> Result<T, OptionsError> {
    let found = names.iter().find(|(name, _)| *name == text);
    found
        .map(|&(_, value)| value)
        .ok_or_else(|| OptionsError::UnknownName {
            what,
            text: text.chars().take(40).collect(),
            known: names
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

impl std::str::FromStr for Synthetic {
    type Err = OptionsError;
    fn from_str(text: &str) -> Result<Self, OptionsError> {
        parse("synthetic load", &Self::NAMES, text)
    }
}

impl std::str::FromStr for PolicyName {
    type Err = OptionsError;
    fn from_str(text: &str) -> Result<Self, OptionsError> {
        parse("policy", &Self::NAMES, text)
    }
}

/// Where demand and positions come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A made-up spike on a grid.
    Synthetic(Synthetic),
    /// Measured load at real places.
    Trace(TraceFiles),
    /// The pedestrian counts of Auckland that are part of the program, New Year's Eve 2024.
    Auckland,
}

/// What the controller knows of capacities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Capacity {
    /// The true one, declared.
    Declared,
    /// Learned, beginning at the true one times this factor.
    Learned(f64),
}

impl std::str::FromStr for Capacity {
    type Err = OptionsError;
    /// `declared`, `learned` or `learned:FACTOR`.
    fn from_str(text: &str) -> Result<Self, OptionsError> {
        let factor = match text {
            "declared" => return Ok(Capacity::Declared),
            "learned" => Ok(1.0),
            _ => text.strip_prefix("learned:").unwrap_or("").parse::<f64>(),
        };
        match factor {
            Ok(factor) if (0.1..=10.0).contains(&factor) => Ok(Capacity::Learned(factor)),
            _ => Err(OptionsError::Range {
                option: "capacity",
                problem: format!(
                    "is {text:?}; write declared, learned or learned:FACTOR with a factor from 0.1 to 10"
                ),
            }),
        }
    }
}

/// A node that falls silent: it serves on, but neither reports nor hears.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// The node's index.
    pub node: u32,
    /// From and until, in seconds after the warm-up.
    pub span_s: Range<f64>,
}

/// One replay. [`Options::default`] is the reference spike.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where demand and positions come from.
    pub source: Source,
    /// Who decides; each is replayed against the same arrivals.
    pub policies: Vec<PolicyName>,
    /// Utilisation of every node before the spike, 0.01 to 2.
    pub base: f64,
    /// The spike's height over the base, 1 to 1000.
    pub times: f64,
    /// Columns and rows of the grid.
    pub grid: (u32, u32),
    /// Neighbours a home may use.
    pub neighbours: u32,
    /// Farthest neighbour, in kilometres.
    pub radius_km: Option<f64>,
    /// Requests that a node's endpoint works on at once.
    pub workers: u32,
    /// Mean service time, in milliseconds; times are exponential.
    pub service_ms: f64,
    /// Round trips between nodes, in milliseconds, uniform per pair; by distance when absent.
    pub rtt_ms: Option<Range<f64>>,
    /// Time from a report to the plan it changes at the proxy, apart from waiting for the tick, in milliseconds.
    pub lag_ms: f64,
    /// Control period, in milliseconds.
    pub period_ms: u64,
    /// How long a trace is replayed, in seconds; its time is compressed to that.
    pub trace_s: f64,
    /// First and last time label of a trace that is replayed; all of it when absent.
    pub trace_span: Option<(String, String)>,
    /// How large a trace's sites are.
    pub sizing: Sizing,
    /// The part of the map that a trace is replayed on; all of it when absent.
    pub near: Option<Near>,
    /// The first seed.
    pub seed: u64,
    /// How many seeds, counted up from the first.
    pub seeds: u32,
    /// The part of reports that get lost, 0 to 1.
    pub report_loss: f64,
    /// When the controller is away, in seconds after the warm-up; an infinite end is for ever.
    pub controller_down: Option<Range<f64>>,
    /// Nodes that fall silent.
    pub silences: Vec<Silence>,
    /// What the controller knows of capacities.
    pub capacity: Capacity,
    /// Whether a full neighbour may move its own load on to make room.
    pub displacement: bool,
    /// Round trip to an upstream of last resort, in milliseconds; absent for none.
    pub cloud_rtt_ms: Option<f64>,
    /// Threads; 0 for one per core.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            source: Source::Synthetic(Synthetic::Step),
            policies: PolicyName::NAMES
                .iter()
                .map(|&(_, policy)| policy)
                .collect(),
            base: 0.6,
            times: 10.0,
            grid: (20, 20),
            neighbours: 8,
            radius_km: None,
            workers: 4,
            service_ms: 20.0,
            rtt_ms: Some(1.0..4.0),
            lag_ms: 400.0,
            period_ms: 1000,
            trace_s: 120.0,
            trace_span: None,
            sizing: Sizing::Alike,
            near: None,
            seed: 1,
            seeds: 1,
            report_loss: 0.0,
            controller_down: None,
            silences: Vec::new(),
            capacity: Capacity::Declared,
            displacement: true,
            cloud_rtt_ms: None,
            threads: 0,
        }
    }
}

/// Why options cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not one of the known words.
    #[error("unknown {what} {text:?}; known are {known}")]
    UnknownName {
        /// What was being read.
        what: &'static str,
        /// What was written, cut to 40 characters.
        text: String,
        /// What may be written.
        known: String,
    },
    /// A number out of its range.
    #[error("{option} {problem}")]
    Range {
        /// The option's name.
        option: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Options {
    /// Requests/s that one node can serve.
    pub fn capacity_rps(&self) -> f64 {
        f64::from(self.workers) * 1000.0 / self.service_ms
    }

    /// Simulated time of a whole run, warm-up included, in seconds.
    pub fn duration_s(&self) -> f64 {
        match self.source {
            Source::Synthetic(_) => WARM_UP_S + SPIKE_S + AFTER_S,
            Source::Trace(_) | Source::Auckland => WARM_UP_S + self.trace_s,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first option out of its range.
    pub fn check(&self) -> Result<(), OptionsError> {
        let mut ranges = self.field_ranges().into_iter().chain(self.run_ranges());
        match ranges.find(|(_, fine, _)| !fine) {
            Some((option, _, problem)) => Err(OptionsError::Range {
                option,
                problem: problem.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Of nodes and their load: option, whether it is in its range, the range.
    fn field_ranges(&self) -> [(&'static str, bool, &'static str); 9] {
        let (columns, rows) = self.grid;
        let nodes = u64::from(columns) * u64::from(rows);
        let rtt_fine = |rtt: &Range<f64>| is_span(rtt) && rtt.end <= 10_000.0;
        [
            (
                "policies",
                !self.policies.is_empty(),
                "must name at least one policy",
            ),
            (
                "base",
                inside(self.base, 0.01, 2.0),
                "must be from 0.01 to 2",
            ),
            (
                "times",
                inside(self.times, 1.0, 1000.0),
                "must be from 1 to 1000",
            ),
            (
                "grid",
                nodes > 0 && nodes <= NODES_MAX as u64,
                "must be COLUMNSxROWS with 1 to 100000 nodes",
            ),
            ("neighbours", self.neighbours <= 64, "must be at most 64"),
            (
                "radius-km",
                self.radius_km.is_none_or(|r| r.is_finite() && r >= 0.0),
                "must be a finite number of kilometres, 0 or more",
            ),
            (
                "workers",
                (1..=WORKERS_MAX).contains(&self.workers),
                "must be from 1 to 10000",
            ),
            (
                "service-ms",
                inside(self.service_ms, 0.01, 60_000.0),
                "must be from 0.01 to 60000",
            ),
            (
                "rtt-ms",
                self.rtt_ms.as_ref().is_none_or(rtt_fine),
                "must be A..B with 0 <= A <= B <= 10000",
            ),
        ]
    }

    /// The same of the run and what goes wrong in it.
    fn run_ranges(&self) -> [(&'static str, bool, &'static str); 8] {
        [
            (
                "lag-ms",
                inside(self.lag_ms, 0.0, 60_000.0),
                "must be from 0 to 60000",
            ),
            (
                "period-ms",
                (50..=60_000).contains(&self.period_ms),
                "must be from 50 to 60000",
            ),
            (
                "trace-s",
                inside(self.trace_s, 1.0, DURATION_S_MAX),
                "must be from 1 to 86400",
            ),
            (
                "seeds",
                (1..=SEEDS_MAX).contains(&self.seeds),
                "must be from 1 to 1000",
            ),
            (
                "report-loss",
                inside(self.report_loss, 0.0, 1.0),
                "must be from 0 to 1",
            ),
            (
                "controller-down",
                self.controller_down.as_ref().is_none_or(is_span),
                "must be A..B with 0 <= A <= B seconds",
            ),
            (
                "silences",
                self.silences.iter().all(|s| is_span(&s.span_s)),
                "must be from A to B with 0 <= A <= B seconds",
            ),
            (
                "cloud-rtt-ms",
                self.cloud_rtt_ms
                    .is_none_or(|rtt| inside(rtt, 0.0, 60_000.0)),
                "must be from 0 to 60000",
            ),
        ]
    }
}

fn inside(value: f64, low: f64, high: f64) -> bool {
    (low..=high).contains(&value)
}

/// Whether both ends are numbers in order, the first not negative.
fn is_span(span: &Range<f64>) -> bool {
    span.start >= 0.0 && span.end >= span.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_by_name() {
        assert_eq!(Options::default().check(), Ok(()));
        type Spoil = fn(&mut Options);
        let cases: [(&str, Spoil); 9] = [
            ("base", |o| o.base = f64::NAN),
            ("times", |o| o.times = 0.5),
            ("grid", |o| o.grid = (0, 20)),
            ("grid", |o| o.grid = (u32::MAX, u32::MAX)),
            ("workers", |o| o.workers = 0),
            ("rtt-ms", |o| o.rtt_ms = Some(4.0..1.0)),
            ("report-loss", |o| o.report_loss = 1.5),
            ("controller-down", |o| o.controller_down = Some(5.0..2.0)),
            ("policies", |o| o.policies.clear()),
        ];
        for (option, spoil) in cases {
            let mut options = Options::default();
            spoil(&mut options);
            let error = options.check().expect_err(option).to_string();
            assert!(error.starts_with(option), "{error}");
        }
    }

    #[test]
    fn words_read_back_and_unknown_ones_name_the_known() {
        for (name, policy) in PolicyName::NAMES {
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.name(), name);
        }
        for (name, shape) in Synthetic::NAMES {
            assert_eq!(name.parse(), Ok(shape));
        }
        let error = "sunny"
            .parse::<PolicyName>()
            .expect_err("unknown")
            .to_string();
        assert!(
            error.contains("convex") && error.contains("sunny"),
            "{error}"
        );
        let cases = [
            ("declared", Some(Capacity::Declared)),
            ("learned", Some(Capacity::Learned(1.0))),
            ("learned:1.3", Some(Capacity::Learned(1.3))),
            ("learned:0", None),
            ("learned:x", None),
            ("guess", None),
        ];
        for (text, capacity) in cases {
            assert_eq!(text.parse().ok(), capacity, "{text}");
        }
    }
}
