//! How much a node can serve of a service.
//!
//! In this order: what the policy declares, what the endpoints report (ORCA), what is learned. Learning watches the
//! endpoints work: `c` workers that each take `W` for a request serve `c / W` (Little's law). Queueing happens before
//! the endpoints, so `W` is the time of service; when it grows well above its own minimum, or more requests are with
//! the endpoints than they work on, they queue inside and what completes is all they can do.
//!
//! ```text
//! window ──▶ mean latency W, completions X, in flight L
//!            ├─ saturated or W ≫ minimum: evidence X
//!            └─ busier than a half:       evidence c / W
//!                  └─▶ learned += gain × (evidence − learned), at most ±10 %, never below what was just served well
//! ```
//!
//! This is the only feedback in the control law, so it is slow and clipped, and below half utilisation there is none.
//!
//! **Invariant**: a figure is finite and ≥ 0, and it rests until it is off by more than [`HOLD_SHARE`].

use std::time::Duration;

use isobar_mesh_api::report::ServiceReport;
use isobar_mesh_api::resource::CapacitySource;
use serde::{Deserialize, Serialize};

pub mod cpu;

/// Utilisation below which nothing is learned about the limit: an idle node shows only that it is idle.
pub const LEARN_UTILISATION_MIN: f64 = 0.5;
/// Most that one window changes the learned capacity, as a share of it.
pub const STEP_SHARE_MAX: f64 = 0.1;
/// Part of the difference to the evidence that one window takes up.
pub const LEARN_GAIN: f64 = 0.3;
/// Gain of the averages of latency and completions: a window of 200 exponential times has a deviation of 7 %.
pub const MEAN_GAIN: f64 = 0.2;
/// Mean latency over its minimum above which endpoints queue inside.
pub const CONGESTED_RATIO: f64 = 1.7;
/// Part of the way back to the present latency that the minimum rises in a window, so that an endpoint that became
/// slower for good is not held congested for ever.
pub const MINIMUM_RISE: f64 = 0.01;
/// Requests at a node per request that its endpoints work on at once, from where no worker idles.
pub const SATURATED_RATIO: f64 = 1.5;
/// Fewest completions in a window to learn from.
pub const COMPLETED_MIN: u64 = 10;
/// Requests/s taken for one worker of which nothing is known yet.
pub const WORKER_RPS_ASSUMED: f64 = 10.0;
/// How far the figure may be off, as a share, before it is replaced: the planner sees steps, not noise.
pub const HOLD_SHARE: f64 = 0.04;
/// Share by which the service time may be off before it is replaced; it only ranks, so it may be coarse.
pub const SERVICE_HOLD_SHARE: f64 = 0.25;
/// Time of one request taken until one was seen.
pub const SERVICE_ASSUMED: Duration = Duration::from_millis(10);

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obtained {
    /// Nothing is known yet: [`WORKER_RPS_ASSUMED`] for each worker.
    Assumed,
    /// The policy or the node's configuration says so.
    Declared,
    /// The endpoints say so, in ORCA response headers.
    Reported,
    /// Learned from what the endpoints do.
    Learned,
}

/// What is configured about the endpoints of one service on one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Configured {
    /// Requests they work on at once, summed; 0 when there are none.
    pub workers: u32,
    /// Part of them whose endpoints get requests, 0 to 1. While it is below 1 nothing is learned, and every figure is so
    /// much smaller.
    pub up_share: f64,
    /// What they serve, requests/s, if someone says.
    pub declared_rps: Option<f64>,
    /// What the policy wants.
    pub source: CapacitySource,
}

/// The capacity of one service on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// 0 until something is known.
    learned_rps: f64,
    served_rps: f64,
    latency_us: f64,
    latency_low_us: f64,
    orca_rps: Option<f64>,
    held_rps: f64,
    held_service_us: f64,
}

impl Capacity {
    /// Takes up one window.
    pub fn observe(&mut self, seen: &ServiceReport, window: Duration, configured: Configured) {
        if let Some(rps) = seen.orca_capacity_rps.filter(|rps| *rps > 0.0) {
            self.orca_rps = Some(rps);
        }
        let window_s = window.as_secs_f64().max(1e-3);
        let served_rps = seen.completed as f64 / window_s;
        self.served_rps += MEAN_GAIN * (served_rps - self.served_rps);
        let mostly_failed = seen.failed.saturating_mul(10) > seen.completed;
        let partly_up = configured.up_share < 1.0;
        if seen.completed < COMPLETED_MIN || configured.workers == 0 || partly_up || mostly_failed {
            return;
        }
        let latency_us = (seen.latency_sum_us as f64 / seen.completed as f64).max(1.0);
        self.observe_latency(latency_us);
        self.learn(seen, served_rps, configured);
    }

    fn observe_latency(&mut self, latency_us: f64) {
        if self.latency_us == 0.0 {
            self.latency_us = latency_us;
            self.latency_low_us = latency_us;
        }
        self.latency_us += MEAN_GAIN * (latency_us - self.latency_us);
        let rise = if self.latency_us < self.latency_low_us {
            1.0
        } else {
            MINIMUM_RISE
        };
        self.latency_low_us += rise * (self.latency_us - self.latency_low_us);
    }

    fn learn(&mut self, seen: &ServiceReport, served_rps: f64, configured: Configured) {
        let workers = f64::from(configured.workers);
        let little_rps = workers * 1e6 / self.latency_us;
        if self.learned_rps == 0.0 {
            self.learned_rps = configured.declared_rps.unwrap_or(little_rps);
        }
        let in_flight_mean = seen.in_flight_mean_milli as f64 / 1e3;
        let all_busy = in_flight_mean >= 0.97 * workers;
        let saturated = in_flight_mean >= SATURATED_RATIO * workers
            || (all_busy && seen.in_flight as f64 >= SATURATED_RATIO * workers);
        let congested = self.latency_us > CONGESTED_RATIO * self.latency_low_us;
        let busy = (served_rps / self.learned_rps).max(in_flight_mean / workers);
        let evidence_rps = if saturated || congested {
            served_rps
        } else if busy > LEARN_UTILISATION_MIN {
            little_rps
        } else {
            return;
        };
        let most_rps = STEP_SHARE_MAX * self.learned_rps;
        let step_rps = LEARN_GAIN * (evidence_rps - self.learned_rps);
        self.learned_rps += step_rps.clamp(-most_rps, most_rps);
        let served_well = !congested && seen.failed == 0;
        if served_well {
            self.learned_rps = self.learned_rps.max(self.served_rps);
        }
    }

    /// The present figure, requests/s, and where it comes from; 0 without workers.
    pub fn figure(&self, configured: Configured) -> (f64, Obtained) {
        if configured.workers == 0 {
            return (0.0, Obtained::Assumed);
        }
        let learned = (self.learned_rps > 0.0).then_some(self.learned_rps);
        let declared = configured.declared_rps;
        let known = match configured.source {
            CapacitySource::Auto => declared
                .map(|rps| (rps, Obtained::Declared))
                .or(self.orca_rps.map(|rps| (rps, Obtained::Reported)))
                .or(learned.map(|rps| (rps, Obtained::Learned))),
            CapacitySource::Declared => declared.map(|rps| (rps, Obtained::Declared)),
            CapacitySource::Reported => self
                .orca_rps
                .map(|rps| (rps, Obtained::Reported))
                .or(learned.map(|rps| (rps, Obtained::Learned))),
            CapacitySource::Learned => learned
                .map(|rps| (rps, Obtained::Learned))
                .or(declared.map(|rps| (rps, Obtained::Declared))),
        };
        let assumed_rps = WORKER_RPS_ASSUMED * f64::from(configured.workers);
        let (rps, obtained) = known.unwrap_or((assumed_rps, Obtained::Assumed));
        (rps * configured.up_share, obtained)
    }

    /// Brings the held figure, shrunk by what the node's processors leave of it, `cpu_factor`, up to date. Returns whether it or the service time changed.
    pub fn hold(&mut self, configured: Configured, cpu_factor: f64) -> bool {
        let (figure_rps, obtained) = self.figure(configured);
        let next_rps = figure_rps * cpu_factor;
        let slack = if obtained == Obtained::Declared && cpu_factor == 1.0 {
            0.0
        } else {
            HOLD_SHARE
        };
        let capacity_moved = (next_rps - self.held_rps).abs() > slack * self.held_rps;
        if capacity_moved {
            self.held_rps = next_rps;
        }
        let service_moved = self.latency_us > 0.0
            && (self.latency_us - self.held_service_us).abs()
                > SERVICE_HOLD_SHARE * self.held_service_us;
        if service_moved {
            self.held_service_us = self.latency_us;
        }
        capacity_moved || service_moved
    }

    /// What the planner sees, requests/s.
    pub fn held_rps(&self) -> f64 {
        self.held_rps
    }

    /// Time of service of one request, as the planner sees it.
    pub fn service(&self) -> Duration {
        if self.held_service_us > 0.0 {
            Duration::from_nanos((self.held_service_us * 1e3) as u64)
        } else {
            SERVICE_ASSUMED
        }
    }

    /// Smoothed completions, requests/s.
    pub fn served_rps(&self) -> f64 {
        self.served_rps
    }

    /// Whether every figure could have come from observations; what is restored from a store is asked.
    pub fn is_sound(&self) -> bool {
        let figures = [
            self.learned_rps,
            self.served_rps,
            self.latency_us,
            self.latency_low_us,
            self.orca_rps.unwrap_or(0.0),
            self.held_rps,
            self.held_service_us,
        ];
        figures.iter().all(|f| f.is_finite() && *f >= 0.0)
    }
}

#[cfg(test)]
mod tests;
