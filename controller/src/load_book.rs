//! What the controller last heard of a node, and what that is still worth.
//!
//! ```text
//! missed periods   0        1      2      3, 4     5 and more
//!                  live     ½      ¼      0        silent
//!                           └ headroom offered ┘   no neighbour of anybody
//! ```
//!
//! A node of which nothing new is heard is never taken for idle: its demand is frozen, what it may take on beyond what
//! it already has shrinks, and in the end it leaves all neighbourhoods.
//!
//! **Invariant**: a report that is refused changes a counter and nothing else.

use std::time::Duration;

use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::report::{NeighbourReport, REPORT_NODES_MAX};

use crate::capacity::cpu::CpuShare;

/// Missed periods from which a node offers no headroom.
pub const HEADROOM_PERIODS: u32 = 3;
/// Missed periods from which a node is silent.
pub const SILENT_PERIODS: u32 = 5;
/// A proxy's clock before this is not set: 2020-01-01, milliseconds since 1970. Such reports count, for their rates
/// come from the window's own length.
pub const CLOCK_MS_MIN: u64 = 1_577_836_800_000;
/// Gain of the average over reported round trips.
const RTT_GAIN: f64 = 0.3;
/// Share and absolute amount by which a round trip must be off to be replaced: the planner sees steps, not noise.
const RTT_HOLD_SHARE: f64 = 0.25;
const RTT_HOLD_US: f64 = 400.0;
/// Longest round trip that is taken for true; longer ones are cut to it.
pub const RTT_US_MAX: u64 = 4_000_000;

/// Why a report is ignored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Nobody of this name has said hello or was configured.
    #[error("node {0} is not known")]
    UnknownNode(NodeId),
    /// It says something impossible.
    #[error("the report is not believed")]
    Nonsense(#[from] isobar_mesh_api::report::ReportError),
}

/// What a node's last word is worth now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// It never said anything.
    Absent,
    /// It reports.
    Live,
    /// It missed reports, or has not sent its first: demand and row are frozen, and it may take this share, 0 to ½, of
    /// its headroom in addition to what it takes already.
    Stale {
        /// The share.
        headroom: f64,
    },
    /// It missed [`SILENT_PERIODS`].
    Silent,
}

impl Standing {
    /// Whether load may be planned onto the node.
    pub fn is_present(self) -> bool {
        matches!(self, Standing::Live | Standing::Stale { .. })
    }

    /// Share of its headroom that the node offers, 0 to 1.
    pub fn headroom(self) -> f64 {
        match self {
            Standing::Live => 1.0,
            Standing::Stale { headroom } => headroom,
            Standing::Absent | Standing::Silent => 0.0,
        }
    }
}

/// Counters of one node's reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReportCounts {
    /// Taken up.
    pub accepted: u64,
    /// Refused as nonsense.
    pub refused: u64,
    /// Entries for services that nobody has.
    pub unknown_services: u64,
    /// Accepted ones whose clock was not set.
    pub clock_unset: u64,
}

/// One node's page of the book. Holds at most [`REPORT_NODES_MAX`] round trips; further ones are dropped.
#[derive(Debug, Clone, Default)]
pub struct Page {
    heard_at: Option<Duration>,
    reported: bool,
    /// What its reports came to.
    pub counts: ReportCounts,
    /// Its processors.
    pub cpu: CpuShare,
    /// Busy share of its processors in the last report.
    pub cpu_ratio: Option<f64>,
    rtts: Vec<Rtt>,
}

/// A measured round trip to another node.
#[derive(Debug, Clone, Copy)]
struct Rtt {
    to: u32,
    mean_us: f64,
    held_us: f64,
}

impl Page {
    /// The node is there, but has not reported yet.
    pub fn on_hello(&mut self, now: Duration, period: Duration) {
        if !self.standing(now, period).is_present() {
            self.reported = false;
        }
        self.heard_at = Some(now);
    }

    /// A report was taken up.
    pub fn on_report(&mut self, clock_ms: u64, now: Duration) {
        self.heard_at = Some(now);
        self.reported = true;
        self.counts.accepted += 1;
        self.counts.clock_unset += u64::from(clock_ms < CLOCK_MS_MIN);
    }

    /// Takes up round trips, each to a node's number. Returns whether one changed enough for the planner.
    pub fn on_rtts<'a>(&mut self, seen: impl Iterator<Item = (u32, &'a NeighbourReport)>) -> bool {
        let mut changed = false;
        for (to, report) in seen {
            changed |= self.on_rtt(to, report.rtt_us);
        }
        changed
    }

    /// Takes up one round trip to node number `to`. Returns whether it changed enough for the planner.
    pub fn on_rtt(&mut self, to: u32, rtt_us: u64) -> bool {
        let rtt_us = rtt_us.min(RTT_US_MAX) as f64;
        match self.rtts.binary_search_by_key(&to, |r| r.to) {
            Ok(at) => {
                let rtt = &mut self.rtts[at];
                rtt.mean_us += RTT_GAIN * (rtt_us - rtt.mean_us);
                let off_us = (rtt.mean_us - rtt.held_us).abs();
                let moved = off_us > (RTT_HOLD_SHARE * rtt.held_us).max(RTT_HOLD_US);
                if moved {
                    rtt.held_us = rtt.mean_us;
                }
                moved
            }
            Err(_) if self.rtts.len() >= REPORT_NODES_MAX => false,
            Err(at) => {
                let (mean_us, held_us) = (rtt_us, rtt_us);
                self.rtts.insert(
                    at,
                    Rtt {
                        to,
                        mean_us,
                        held_us,
                    },
                );
                true
            }
        }
    }

    /// The held round trip to node number `to`, in microseconds, if it was measured.
    pub fn rtt_us(&self, to: u32) -> Option<u64> {
        let at = self.rtts.binary_search_by_key(&to, |r| r.to).ok()?;
        Some(self.rtts[at].held_us as u64)
    }

    /// All held round trips, by node number.
    pub fn rtts_us(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.rtts.iter().map(|r| (r.to, r.held_us as u64))
    }

    /// Forgets the round trip to a node that is gone; its number may be given away again.
    pub fn forget(&mut self, to: u32) {
        self.rtts.retain(|r| r.to != to);
    }

    /// Time since the last word, if there was one.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        self.heard_at.map(|at| now.saturating_sub(at))
    }

    /// What the last word is worth. Half a period of delay is not yet a missed period.
    pub fn standing(&self, now: Duration, period: Duration) -> Standing {
        let Some(age) = self.age(now) else {
            return Standing::Absent;
        };
        let periods = age.as_secs_f64() / period.as_secs_f64().max(1e-3);
        let missed = (periods - 0.5).max(0.0) as u32;
        if missed >= SILENT_PERIODS {
            return Standing::Silent;
        }
        if missed >= HEADROOM_PERIODS || !self.reported {
            return Standing::Stale { headroom: 0.0 };
        }
        if missed == 0 {
            return Standing::Live;
        }
        let headroom = 0.5_f64.powi(missed as i32);
        Standing::Stale { headroom }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    #[test]
    fn silence_costs_headroom_and_then_the_place() {
        let mut page = Page::default();
        assert_eq!(page.standing(PERIOD, PERIOD), Standing::Absent);
        page.on_hello(PERIOD, PERIOD);
        assert_eq!(
            page.standing(PERIOD, PERIOD),
            Standing::Stale { headroom: 0.0 }
        );
        page.on_report(CLOCK_MS_MIN, PERIOD);
        let cases = [
            (0, Standing::Live),
            (1_400, Standing::Live),
            (1_600, Standing::Stale { headroom: 0.5 }),
            (2_600, Standing::Stale { headroom: 0.25 }),
            (3_600, Standing::Stale { headroom: 0.0 }),
            (5_400, Standing::Stale { headroom: 0.0 }),
            (5_600, Standing::Silent),
        ];
        for (age_ms, standing) in cases {
            let now = PERIOD + Duration::from_millis(age_ms);
            assert_eq!(page.standing(now, PERIOD), standing, "{age_ms} ms");
        }
        // Back after a silence, it must report before it offers anything.
        let later = Duration::from_secs(20);
        page.on_hello(later, PERIOD);
        assert_eq!(
            page.standing(later, PERIOD),
            Standing::Stale { headroom: 0.0 }
        );
        // Back at once, it keeps its standing.
        page.on_report(0, later);
        page.on_hello(later + PERIOD, PERIOD);
        assert_eq!(page.standing(later + PERIOD, PERIOD), Standing::Live);
        assert_eq!(page.counts.clock_unset, 1);
    }

    #[test]
    fn round_trips_rest_within_noise_and_are_bounded() {
        let mut page = Page::default();
        assert!(page.on_rtt(7, 3_000));
        for rtt_us in [3_200, 2_800, 3_100, 2_950] {
            assert!(!page.on_rtt(7, rtt_us));
        }
        assert_eq!(page.rtt_us(7), Some(3_000));
        assert!((0..20).any(|_| page.on_rtt(7, u64::MAX)));
        assert!(page.rtt_us(7).unwrap() <= RTT_US_MAX);
        for to in 0..10_000 {
            page.on_rtt(to, 1);
        }
        assert_eq!(page.rtts_us().count(), REPORT_NODES_MAX);
        page.forget(7);
        assert_eq!(page.rtt_us(7), None);
    }
}
