//! What all simulated proxies count together.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Counters, and what happens now.
pub(super) struct Figures {
    pub streams: AtomicU64,
    pub reports: AtomicU64,
    /// Reports that found the ones before them still waiting.
    pub reports_held: AtomicU64,
    pub pings: AtomicU64,
    pub snapshots: AtomicU64,
    pub deltas: AtomicU64,
    pub acks: AtomicU64,
    pub nacks: AtomicU64,
    /// Connections that failed, by cause.
    pub unreached: AtomicU64,
    pub slow: AtomicU64,
    pub refused: AtomicU64,
    /// Streams that ended.
    pub ended: AtomicU64,
    /// Steps whose row did not come before they were over.
    pub unanswered: AtomicU64,
    /// Whether steps begin.
    pub stepping: AtomicBool,
    /// Longest that a report was sent after it should have been, in microseconds: the load core's own lag.
    pub lag_us_max: AtomicU64,
    latency_us: Mutex<Histogram<u64>>,
    comeback: Mutex<Comeback>,
}

/// Who is back after a kill.
#[derive(Debug, Default)]
pub(super) struct Comeback {
    /// Snapshots of this epoch and later count.
    pub epoch_min: u64,
    /// The highest epoch of any snapshot.
    pub epoch_max: u64,
    /// Which nodes have had one, and when.
    pub back: BTreeSet<u32>,
    pub at: Vec<Instant>,
    /// The largest change of a weight from one plan to the next, parts per million.
    pub jump_ppm_max: u32,
    /// Rows of the last plan before that moved load.
    pub rows_moved: u64,
}

impl Figures {
    pub fn new() -> Figures {
        // The bounds are constants that suit each other.
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("sound bounds");
        Figures {
            streams: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            reports_held: AtomicU64::new(0),
            pings: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            deltas: AtomicU64::new(0),
            acks: AtomicU64::new(0),
            nacks: AtomicU64::new(0),
            unreached: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            stepping: AtomicBool::new(false),
            lag_us_max: AtomicU64::new(0),
            latency_us: Mutex::new(latency_us),
            comeback: Mutex::default(),
        }
    }

    /// A step was answered by a row.
    pub fn on_answer(&self, latency: Duration) {
        let latency_us = (latency.as_micros() as u64).clamp(1, LATENCY_US_MAX);
        self.latency_us().saturating_record(latency_us);
    }

    /// A quantile of plan latencies, in milliseconds, and how many there are.
    pub fn latency_ms(&self, quantile: f64) -> (f64, u64) {
        let latency_us = self.latency_us();
        let at = latency_us.value_at_quantile(quantile) as f64 / 1e3;
        (at, latency_us.len())
    }

    /// A node was told rows. `jump_ppm` is the largest change of a weight in them.
    pub fn on_rows(&self, jump_ppm: u32) {
        let mut comeback = self.comeback();
        comeback.jump_ppm_max = comeback.jump_ppm_max.max(jump_ppm);
    }

    /// A node has a whole snapshot, of this epoch. Before it, so many of its rows moved load.
    pub fn on_back(&self, number: u32, epoch: u64, rows_moved: u64) {
        let mut comeback = self.comeback();
        comeback.epoch_max = comeback.epoch_max.max(epoch);
        if epoch >= comeback.epoch_min && comeback.back.insert(number) {
            comeback.at.push(Instant::now());
            comeback.rows_moved += rows_moved;
        }
    }

    /// Begins to measure: what was before does not count.
    pub fn begin(&self) {
        let zeroed = [
            &self.reports,
            &self.reports_held,
            &self.pings,
            &self.snapshots,
            &self.deltas,
            &self.acks,
            &self.nacks,
            &self.unreached,
            &self.slow,
            &self.refused,
            &self.ended,
            &self.unanswered,
            &self.lag_us_max,
        ];
        zeroed.iter().for_each(|n| n.store(0, Ordering::Relaxed));
        self.latency_us().reset();
    }

    pub fn comeback(&self) -> MutexGuard<'_, Comeback> {
        self.comeback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latency_us(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latency_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
