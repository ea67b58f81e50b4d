//! Seeds and policies over threads.
//!
//! Every (policy, seed) is a run of its own and alone decides its numbers;
//! threads only share the work list, so their number changes nothing but the
//! time it takes.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use isobar_controller::planner::flow::FlowError;

use crate::field::Field;
use crate::load::trace::Recording;
use crate::load::{Load, Spike, TraceError};
use crate::measure::Counted;
use crate::options::{Options, OptionsError, PolicyName, Source, Synthetic};
use crate::policy::{
    Policy, envoy::Envoy, hazl::Hazl, l3::L3, ll::Ll, optimum::Optimum, production::Production,
    simple::Home, simple::Uniform,
};
use crate::report::{Report, Run};
use crate::simulator::Simulator;

/// Why a replay did not run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Options out of their range.
    #[error("replaying")]
    Options(#[from] OptionsError),
    /// A trace that cannot be read.
    #[error("replaying a trace")]
    Trace(#[from] TraceError),
    /// A field that the exact planner does not take.
    #[error("planning the optimum")]
    Optimum(#[from] FlowError),
}

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The policy whose run has just ended.
    pub policy: PolicyName,
    /// Its seed.
    pub seed: u64,
    /// Runs that have ended.
    pub done: usize,
    /// Runs in all.
    pub total: usize,
}

/// Replays every policy with every seed. `progress` is called after each run, from any thread.
///
/// # Errors
/// Options out of range, a trace that cannot be read. Nothing has run then.
pub fn run(options: &Options, progress: &(dyn Fn(Progress) + Sync)) -> Result<Report, ReplayError> {
    options.check()?;
    let recording = Recording::read(options)?;
    let mut jobs = Vec::new();
    for &policy in &options.policies {
        for n in 0..options.seeds {
            jobs.push((policy, options.seed.wrapping_add(u64::from(n))));
        }
    }
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ended: Mutex<Vec<(usize, Result<Counted, ReplayError>)>> = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = if options.threads == 0 {
        cores
    } else {
        options.threads
    };
    thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(policy, seed)) = jobs.get(job) else {
                        return;
                    };
                    let counted = run_one(options, recording.as_ref(), policy, seed);
                    let mut all = ended.lock().unwrap_or_else(|poison| poison.into_inner());
                    all.push((job, counted));
                    drop(all);
                    progress(Progress {
                        policy,
                        seed,
                        done: done.fetch_add(1, Ordering::Relaxed) + 1,
                        total: jobs.len(),
                    });
                }
            });
        }
    });
    let mut ended = ended
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    ended.sort_by_key(|(job, _)| *job);
    let mut runs = Vec::with_capacity(ended.len());
    for (job, counted) in ended {
        let (policy, seed) = jobs[job];
        runs.push(Run {
            policy,
            seed,
            counted: counted?,
        });
    }
    let (field, _) = scenery(options, recording.as_ref(), options.seed);
    Ok(Report::new(options, &field, runs))
}

/// One policy, one seed.
pub(crate) fn run_one(
    options: &Options,
    recording: Option<&Recording>,
    policy: PolicyName,
    seed: u64,
) -> Result<Counted, ReplayError> {
    let (field, load) = scenery(options, recording, seed);
    let scene = Scene {
        options,
        field: &field,
        load: &load,
        seed,
    };
    let period_ns = options.period_ms * 1_000_000;
    Ok(match policy {
        PolicyName::Home => scene.play(Home),
        PolicyName::Uniform => scene.play(Uniform::default()),
        PolicyName::Envoy => scene.play(Envoy::default()),
        PolicyName::L3 => scene.play(L3::default()),
        PolicyName::Hazl => scene.play(Hazl::default()),
        PolicyName::Ll => scene.play(Ll),
        PolicyName::Optimum => scene.play(Optimum::new(&field, period_ns)?),
        PolicyName::Convex | PolicyName::Waterfall | PolicyName::Threshold | PolicyName::Static => {
            scene.play(Production::new(options, &field, policy, seed))
        }
    })
}

/// Nodes and their demand.
pub(crate) fn scenery(
    options: &Options,
    recording: Option<&Recording>,
    seed: u64,
) -> (Field, Load) {
    match (recording, &options.source) {
        (Some(recording), _) => (
            recording.field(options, seed),
            Load::Trace(recording.load()),
        ),
        (None, Source::Synthetic(shape)) => (
            Field::grid(options, seed),
            Load::Spike(Spike::new(*shape, options)),
        ),
        // A trace always comes with its recording; without one there is nothing to replay but calm.
        (None, _) => {
            let calm = Spike::new(Synthetic::Calm, options);
            (Field::grid(options, seed), Load::Spike(calm))
        }
    }
}

struct Scene<'a> {
    options: &'a Options,
    field: &'a Field,
    load: &'a Load,
    seed: u64,
}

impl Scene<'_> {
    fn play<P: Policy>(&self, policy: P) -> Counted {
        Simulator::new(self.options, self.field, self.load, self.seed, policy).run()
    }
}

#[cfg(test)]
mod tests;
