//! A replay's options on real processes, reported like the simulator's.
//!
//! Only what runs in production can run here: home-only, the planners, and the
//! whole of Isobar. Baselines that exist in the simulator alone are refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::message::Location;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::resource::{Algorithm, CapacitySource, WeightPolicySpec};
use isobar_mesh_api::weight::WHOLE_PPM;
use tokio_util::sync::CancellationToken;

use super::record::Record;
use super::run::{Experiment, Fault, FaultKind, Moment, Sample, Seen};
use super::spec::NODES_MAX;
use super::{ClusterError, ClusterSpec, Place, Say};
use crate::field::Field;
use crate::load::trace::Recording;
use crate::load::{HotSpan, Load};
use crate::measure::rows::Rows;
use crate::measure::{Bin, Counted, Course, Figures};
use crate::options::{Capacity, Options, PolicyName, WARM_UP_S};
use crate::report::{Report, Run};
use crate::run::{ReplayError, scenery};

/// Policies that real processes can follow.
pub const POLICIES: [PolicyName; 5] = [
    PolicyName::Home,
    PolicyName::Static,
    PolicyName::Threshold,
    PolicyName::Waterfall,
    PolicyName::Convex,
];

/// Why a replay on real processes did not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterReplayError {
    /// The options or their files are wrong.
    #[error("replaying on real processes")]
    Replay(#[from] ReplayError),
    /// The cluster did not run.
    #[error("running a real cluster")]
    Cluster(#[from] ClusterError),
    /// A policy that exists in the simulator alone.
    #[error(
        "policy {0} exists in the simulator alone; on real processes run home, static, threshold, waterfall or convex"
    )]
    Policy(&'static str),
    /// An option that the simulator alone knows.
    #[error("{option} is for the simulator; leave it out on real processes")]
    Option {
        /// Its name.
        option: &'static str,
    },
    /// A proxy to kill that does not exist.
    #[error("proxy-down names node {node:?}; there are {known}")]
    NoSuchNode {
        /// What was named.
        node: String,
        /// Some of the names there are.
        known: String,
    },
}

/// What options cannot say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterOptions {
    /// The name of a node whose proxy is killed, and when, in seconds after the warm-up.
    pub proxy_down: Option<(String, f64)>,
}

/// How far a replay on real processes is.
#[derive(Debug)]
pub struct ClusterMoment<'a> {
    /// Which policy runs.
    pub policy: PolicyName,
    /// Which seed.
    pub seed: u64,
    /// Runs that have ended.
    pub done: usize,
    /// Runs in all.
    pub total: usize,
    /// The run that goes on.
    pub moment: &'a Moment<'a>,
}

/// Replays every policy with every seed, one after the other, each on a new cluster.
///
/// # Errors
/// Options that cannot run on processes, or a cluster that does not run.
pub async fn run(
    program: &Path,
    options: &Options,
    cluster: &ClusterOptions,
    stop: &CancellationToken,
    say: Say<'_>,
    watch: &mut (dyn FnMut(&ClusterMoment<'_>) + Send),
) -> Result<Report, ClusterReplayError> {
    options.check().map_err(ReplayError::from)?;
    check(options)?;
    let recording = Recording::read(options).map_err(ReplayError::from)?;
    let seeds = (0..options.seeds).map(|n| options.seed.wrapping_add(u64::from(n)));
    let jobs: Vec<(PolicyName, u64)> = options
        .policies
        .iter()
        .flat_map(|&policy| seeds.clone().map(move |seed| (policy, seed)))
        .collect();
    let (mut runs, mut first_moves) = (Vec::new(), Vec::new());
    for (done, &(policy, seed)) in jobs.iter().enumerate() {
        let (field, load) = scenery(options, recording.as_ref(), seed);
        if field.len() > NODES_MAX {
            return Err(ClusterError::Nodes(field.len()).into());
        }
        let load = Arc::new(load);
        let experiment = experiment(options, cluster, policy, seed, &field, &load)?;
        let mut watch = |moment: &Moment<'_>| {
            let total = jobs.len();
            watch(&ClusterMoment {
                policy,
                seed,
                done,
                total,
                moment,
            });
        };
        say(&format!("{}, seed {seed}", policy.title()));
        let seen = super::run::run(program, &experiment, stop, say, &mut watch).await?;
        let counted = counted(&seen, &field, &load, experiment.duration_s);
        let spans = load.hot_spans(field.len() as u32, experiment.duration_s);
        first_moves.extend(first_move(policy, seed, &seen, spans.first().copied()));
        runs.push(Run {
            policy,
            seed,
            counted,
        });
    }
    let (field, _) = scenery(options, recording.as_ref(), options.seed);
    let mut report = Report::new(options, &field, runs);
    report.setup.push(("ran on", "real processes".to_owned()));
    report.setup.extend(first_moves);
    Ok(report)
}

/// How soon the first hot home's first request was moved, for the report.
fn first_move(
    policy: PolicyName,
    seed: u64,
    seen: &Seen,
    hot: Option<HotSpan>,
) -> Option<(&'static str, String)> {
    let hot = hot?;
    let after_s = seen.record.first_move_s(hot.node as usize, hot.from_s)?;
    let name = policy.name();
    let text = format!(
        "{name}, seed {seed}: {:.0} ms after the spike began",
        after_s * 1000.0
    );
    Some(("first move", text))
}

fn check(options: &Options) -> Result<(), ClusterReplayError> {
    let simulated = options
        .policies
        .iter()
        .find(|policy| !POLICIES.contains(policy));
    if let Some(policy) = simulated {
        return Err(ClusterReplayError::Policy(policy.name()));
    }
    let only = [
        ("--report-loss", options.report_loss > 0.0),
        ("--displacement off", !options.displacement),
    ];
    match only.into_iter().find(|(_, used)| *used) {
        Some((option, _)) => Err(ClusterReplayError::Option { option }),
        None => Ok(()),
    }
}

/// What the controller is told to do for a policy. Home-only is production's own "off".
pub fn weight_policy(policy: PolicyName, options: &Options, field: &Field) -> WeightPolicySpec {
    let algorithm = match policy {
        PolicyName::Home => Algorithm::Off,
        PolicyName::Waterfall => Algorithm::Waterfall,
        PolicyName::Threshold => Algorithm::Threshold,
        PolicyName::Static => Algorithm::Static,
        _ => Algorithm::Convex,
    };
    let mut spec = WeightPolicySpec {
        algorithm,
        neighbours: options.neighbours,
        distance_max_m: options.radius_km.map(|km| km * 1000.0),
        spill: policy == PolicyName::Convex,
        capacity: match options.capacity {
            Capacity::Declared => CapacitySource::Auto,
            Capacity::Learned(_) => CapacitySource::Learned,
        },
        ..WeightPolicySpec::default()
    };
    if policy == PolicyName::Static {
        // Half stays, half is spread evenly.
        for (home, neighbours) in field.names.iter().zip(&field.neighbours) {
            let each = WHOLE_PPM / 2 / u32::try_from(neighbours.len().max(1)).unwrap_or(1);
            let to = |&node: &u32| (field.names[node as usize].clone(), each);
            spec.static_weights
                .insert(home.clone(), neighbours.iter().map(to).collect());
        }
    }
    spec
}

fn experiment(
    options: &Options,
    cluster: &ClusterOptions,
    policy: PolicyName,
    seed: u64,
    field: &Field,
    load: &Arc<Load>,
) -> Result<Experiment, ClusterReplayError> {
    let factor = match options.capacity {
        Capacity::Declared => 1.0,
        Capacity::Learned(factor) => factor,
    };
    let place = |node: u32| {
        let position = field.positions[node as usize];
        Place {
            name: field.names[node as usize].to_string(),
            location: Location {
                lat_deg: position.lat_deg(),
                lon_deg: position.lon_deg(),
            },
            workers: field.workers[node as usize],
            service: Duration::from_secs_f64(options.service_ms / 1000.0),
            capacity_rps: Some(field.capacity_rps(node) * factor),
        }
    };
    let nodes = 0..field.len() as u32;
    let rtt = |a: u32| {
        nodes
            .clone()
            .map(move |b| Duration::from_nanos(field.rtt_ns(a, b)))
    };
    let spec = ClusterSpec {
        places: nodes.clone().map(place).collect(),
        rtt: nodes.clone().flat_map(rtt).collect(),
        policy: weight_policy(policy, options, field),
        period_ms: options.period_ms,
        seed,
    };
    let (rate, hot) = (load.clone(), load.clone());
    Ok(Experiment {
        spec,
        rate: Arc::new(move |node, at_s| rate.rate_rps(node as u32, at_s)),
        hot: Arc::new(move |node, at_s| hot.is_hot(node as u32, at_s)),
        duration_s: options.duration_s(),
        measure_from_s: WARM_UP_S,
        seed,
        faults: faults(options, cluster, field)?,
    })
}

fn faults(
    options: &Options,
    cluster: &ClusterOptions,
    field: &Field,
) -> Result<Vec<Fault>, ClusterReplayError> {
    let mut faults = Vec::new();
    let mut add = |after_s: f64, kind| {
        faults.push(Fault {
            at_s: WARM_UP_S + after_s,
            kind,
        })
    };
    if let Some(down) = &options.controller_down {
        add(down.start, FaultKind::KillController);
        if down.end.is_finite() {
            add(down.end, FaultKind::RestartController);
        }
    }
    if let Some((name, after_s)) = &cluster.proxy_down {
        let found = field.names.iter().position(|known| known.as_str() == name);
        let node = found.ok_or_else(|| ClusterReplayError::NoSuchNode {
            node: name.chars().take(40).collect(),
            known: known_names(field),
        })?;
        add(*after_s, FaultKind::KillProxy(node));
    }
    faults.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    Ok(faults)
}

fn known_names(field: &Field) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = field.names.iter().take(SHOWN).map(NodeId::as_str).collect();
    let more = if field.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// What was seen, in the simulator's words.
fn counted(seen: &Seen, field: &Field, load: &Load, duration_s: f64) -> Counted {
    let mut rows = Rows::new(load.hot_spans(field.len() as u32, duration_s));
    for sample in &seen.samples {
        rows.note(load, sample.at_s, |home, row| weights(sample, home, row));
    }
    let (reversals, settle_s) = rows.judge();
    let record = &seen.record;
    let all: u64 = (0..record.seconds())
        .map(|second| bin(record, second).ended)
        .sum();
    Counted {
        entered: all,
        ended: all,
        figures: Figures {
            reversals,
            settle_s,
            ..figures(seen)
        },
        course: Course {
            bins: (0..record.seconds())
                .map(|second| bin(record, second))
                .collect(),
            loads: (0..record.seconds())
                .map(|second| loads(record, second, field))
                .collect(),
            hot_row: rows.into_first_history(),
        },
    }
}

/// The figures of a run, but for those about its weights over time. How moves divide into planned and
/// spilled is what the proxies reported.
pub fn figures(seen: &Seen) -> Figures {
    let (record, sums) = (&seen.record, seen.record.counted());
    let nodes = || {
        let samples = seen.samples.iter();
        samples.flat_map(|sample| &sample.status.nodes)
    };
    let by_plan: f64 = nodes().map(|node| node.moved_plan_rps).sum();
    let by_spill: f64 = nodes().map(|node| node.moved_spill_rps).sum();
    let planned_part = by_plan / (by_plan + by_spill).max(f64::MIN_POSITIVE);
    let moved_share = sums.moved as f64 / sums.requests.max(1) as f64;
    Figures {
        requests: sums.requests,
        failures: sums.failures,
        shed: sums.shed,
        p50_ms: record.total_ms(0.5),
        p99_ms: record.total_ms(0.99),
        hot_p50_ms: record.hot_ms(0.5),
        hot_p99_ms: record.hot_ms(0.99),
        moved_share,
        moved_by_plan_share: moved_share * planned_part,
        moved_by_spill_share: moved_share * (1.0 - planned_part),
        max_planned_utilisation: nodes()
            .map(|node| node.planned_utilisation)
            .reduce(f64::max),
        hot_requests: sums.hot_requests,
        hot_failures: sums.hot_failures,
        ..Figures::default()
    }
}

fn weights(sample: &Sample, home: u32, row: &mut Vec<(u32, u32)>) -> bool {
    let Some(node) = sample.status.nodes.get(home as usize) else {
        return false;
    };
    row.push((home, node.home_ppm));
    row.extend(node.moves.iter().map(|&(to, ppm)| (to as u32, ppm)));
    node.heard
}

fn bin(record: &Record, second: usize) -> Bin {
    let mut bin = Bin {
        p50_ms: record.second_ms(second, 0.5),
        p99_ms: record.second_ms(second, 0.99),
        hot_p99_ms: record.second_hot_ms(second, 0.99),
        ..Bin::default()
    };
    for node in record.bins(second).unwrap_or_default() {
        bin.ended += u64::from(node.served + node.failed);
        bin.failures += u64::from(node.failed);
        bin.moved += u64::from(node.moved);
    }
    bin
}

fn loads(record: &Record, second: usize, field: &Field) -> Vec<f32> {
    let nodes = record.bins(second).unwrap_or_default().iter();
    (0..)
        .zip(nodes)
        .map(|(at, node)| (f64::from(node.worked()) / field.capacity_rps(at)) as f32)
        .collect()
}
