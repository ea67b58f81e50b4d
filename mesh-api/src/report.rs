//! What a proxy tells the controller once a window.
//!
//! Everything is a count over the window or a level at its end; the
//! controller computes rates with the window's own length, so late or long
//! windows stay true. A report is checked once, by [`Report::check`]; what
//! passes is finite, bounded and names each service and node once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, ServiceName};
use crate::resource::traffic_policy::RATE_LIMITS_MAX;

/// Most services one report may name; a report with more is refused.
pub const REPORT_SERVICES_MAX: usize = 1024;
/// Most neighbours or homes a report may name per list; more is refused.
pub const REPORT_NODES_MAX: usize = 256;
/// Longest and shortest window a report may cover, in microseconds.
pub const REPORT_WINDOW_US: std::ops::RangeInclusive<u64> = 10_000..=60_000_000;
/// Most callers whose plain-text calls of one service a report may name; more is refused.
pub const REPORT_PLAIN_MAX: usize = 64;
/// Longest name of such a caller, in bytes.
pub const REPORT_CALLER_LEN_MAX: usize = 64;
/// Highest count a window may hold; above it the report is nonsense.
pub const REPORT_COUNT_MAX: u64 = 100_000_000;
/// Longest time a latency field may state, in microseconds: one hour.
pub const REPORT_LATENCY_US_MAX: u64 = 3_600_000_000;

/// One proxy's counters over one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Counts up by one per report of this proxy process.
    pub seq: u64,
    /// Length of the window, in microseconds.
    pub window_us: u64,
    /// The proxy's clock at the end of the window, milliseconds since 1970. Only compared with
    /// the controller's to name a wrong clock; never used for rates.
    pub clock_ms: u64,
    /// Busy share of the node's processors over the window, 0 to 1; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ratio: Option<f64>,
    /// One entry per service the node has traffic or endpoints for.
    pub services: Vec<ServiceReport>,
    /// Measured round trips to neighbours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<NeighbourReport>,
}

/// Counters of one service at one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Whose counters.
    pub service: ServiceName,
    /// First attempts that entered the mesh here (served, moved, shed or failed); retries and
    /// moved-in requests do not count.
    pub entered: u64,
    /// Of these, how many were given to an endpoint of this node.
    #[serde(default)]
    pub served_home: u64,
    /// Of these, how many were refused at once because nobody had room.
    #[serde(default)]
    pub shed: u64,
    /// Requests that ended in an error of the mesh or of an endpoint (5xx, broken connection, timeout).
    #[serde(default)]
    pub failed: u64,
    /// Requests sent to other nodes, by node and cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved_out: Vec<MovedOut>,
    /// Requests that came from other nodes, by home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved_in: Vec<MovedIn>,
    /// Requests completed by this node's endpoints, whoever's home they had.
    #[serde(default)]
    pub completed: u64,
    /// Time from sending a request to an endpoint until its response ended, summed over `completed`, in
    /// microseconds.
    #[serde(default)]
    pub latency_sum_us: u64,
    /// The shortest such time in the window, in microseconds; 0 when nothing completed.
    #[serde(default)]
    pub latency_min_us: u64,
    /// Requests at this node's endpoints, averaged over the window, in thousandths.
    #[serde(default)]
    pub in_flight_mean_milli: u64,
    /// Requests at this node's endpoints or waiting for them at the end of the window.
    #[serde(default)]
    pub in_flight: u64,
    /// Of these, how many wait: entered here, not yet sent to an endpoint or a neighbour.
    #[serde(default)]
    pub backlog: u64,
    /// Requests that those endpoints work on at once which get requests: neither unhealthy nor with an open circuit;
    /// absent when all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers_up: Option<u32>,
    /// Requests that all of them together are given at once, where that is learned; absent: as many as their workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// What was asked of rate limits that hold for the whole mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<RateDemand>,
    /// Calls that entered here by who did not show who they are, where a policy has them counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain: Vec<PlainCalls>,
    /// Requests/s that the endpoints say they can serve (ORCA), summed; absent when none says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orca_capacity_rps: Option<f64>,
}

/// Requests that a rate limit let in or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateDemand {
    /// Name of the limit in the service's traffic policy.
    pub limit: String,
    /// How many.
    pub asked: u64,
}

/// Calls by somebody who did not show who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainCalls {
    /// Their address; `others` for those that are not counted by themselves.
    pub caller: String,
    /// How many.
    pub calls: u64,
}

/// Requests a home sent to one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedOut {
    /// Who served them.
    pub to: NodeId,
    /// Sent because the plan's weights said so.
    pub plan: u64,
    /// Sent because home was full at that instant.
    pub spill: u64,
    /// Refused there (beyond credit or full) and brought back.
    #[serde(default)]
    pub refused: u64,
}

/// Requests a node took for one home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedIn {
    /// Where they entered the mesh.
    pub home: NodeId,
    /// Taken.
    pub accepted: u64,
    /// Refused at once.
    #[serde(default)]
    pub refused: u64,
}

/// A measured round trip between two proxies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeighbourReport {
    /// The other end.
    pub node: NodeId,
    /// Round-trip time, in microseconds, smoothed over recent probes.
    pub rtt_us: u64,
}

/// Why a report is not believed. The report is counted and ignored; the stream stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The window's length is outside [`REPORT_WINDOW_US`].
    #[error("window of {0} µs is outside 10 ms to 60 s")]
    Window(u64),
    /// More entries than the named limit.
    #[error("{what}: {len} entries, at most {max} are read")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A number outside its range.
    #[error("{what} of {subject} is out of range")]
    Range {
        /// Which field.
        what: &'static str,
        /// Of which service or node.
        subject: String,
    },
    /// The same name twice in one list.
    #[error("{what} names {subject} twice")]
    Twice {
        /// Which list.
        what: &'static str,
        /// The name.
        subject: String,
    },
}

impl Report {
    /// Checks ranges, list lengths and that every name appears once per list.
    ///
    /// # Errors
    /// The first field found wrong.
    pub fn check(&self) -> Result<(), ReportError> {
        if !REPORT_WINDOW_US.contains(&self.window_us) {
            return Err(ReportError::Window(self.window_us));
        }
        if self.cpu_ratio.is_some_and(|r| !(0.0..=1.0).contains(&r)) {
            return Err(range("cpu_ratio", "the node"));
        }
        limit("services", self.services.len(), REPORT_SERVICES_MAX)?;
        limit("neighbours", self.neighbours.len(), REPORT_NODES_MAX)?;
        once("services", self.services.iter().map(|s| &s.service))?;
        once("neighbours", self.neighbours.iter().map(|n| &n.node))?;
        for neighbour in &self.neighbours {
            if neighbour.rtt_us > REPORT_LATENCY_US_MAX {
                return Err(range("rtt_us", neighbour.node.as_str()));
            }
        }
        self.services.iter().try_for_each(ServiceReport::check)
    }
}

impl ServiceReport {
    /// An entry of zeros.
    pub fn idle(service: ServiceName) -> ServiceReport {
        ServiceReport {
            service,
            entered: 0,
            served_home: 0,
            shed: 0,
            failed: 0,
            moved_out: Vec::new(),
            moved_in: Vec::new(),
            completed: 0,
            latency_sum_us: 0,
            latency_min_us: 0,
            in_flight_mean_milli: 0,
            in_flight: 0,
            backlog: 0,
            workers_up: None,
            concurrency: None,
            rates: Vec::new(),
            plain: Vec::new(),
            orca_capacity_rps: None,
        }
    }

    fn check(&self) -> Result<(), ReportError> {
        let counts = [
            ("entered", self.entered),
            ("served_home", self.served_home),
            ("shed", self.shed),
            ("failed", self.failed),
            ("completed", self.completed),
            ("in_flight", self.in_flight),
            ("backlog", self.backlog),
            ("in_flight_mean_milli", self.in_flight_mean_milli / 1000),
        ];
        if let Some((what, _)) = counts.iter().find(|(_, n)| *n > REPORT_COUNT_MAX) {
            return Err(range(what, self.service.as_str()));
        }
        let orca_wrong = |c: f64| !(c.is_finite() && (0.0..=1e9).contains(&c));
        if self.orca_capacity_rps.is_some_and(orca_wrong) {
            return Err(range("orca_capacity_rps", self.service.as_str()));
        }
        let latency_max = REPORT_LATENCY_US_MAX.saturating_mul(self.completed.max(1));
        if self.latency_min_us > REPORT_LATENCY_US_MAX || self.latency_sum_us > latency_max {
            return Err(range("latency", self.service.as_str()));
        }
        limit("rates", self.rates.len(), RATE_LIMITS_MAX)?;
        if self.rates.iter().any(|r| r.asked > REPORT_COUNT_MAX) {
            return Err(range("rates", self.service.as_str()));
        }
        limit("plain", self.plain.len(), REPORT_PLAIN_MAX)?;
        let plain_wrong =
            |p: &PlainCalls| p.calls > REPORT_COUNT_MAX || p.caller.len() > REPORT_CALLER_LEN_MAX;
        if self.plain.iter().any(plain_wrong) {
            return Err(range("plain", self.service.as_str()));
        }
        limit("moved_out", self.moved_out.len(), REPORT_NODES_MAX)?;
        limit("moved_in", self.moved_in.len(), REPORT_NODES_MAX)?;
        once("moved_out", self.moved_out.iter().map(|m| &m.to))?;
        once("moved_in", self.moved_in.iter().map(|m| &m.home))?;
        let out_wrong = |m: &MovedOut| m.plan.max(m.spill).max(m.refused) > REPORT_COUNT_MAX;
        if let Some(m) = self.moved_out.iter().find(|m| out_wrong(m)) {
            return Err(range("moved_out", m.to.as_str()));
        }
        let in_wrong = |m: &MovedIn| m.accepted.max(m.refused) > REPORT_COUNT_MAX;
        if let Some(m) = self.moved_in.iter().find(|m| in_wrong(m)) {
            return Err(range("moved_in", m.home.as_str()));
        }
        Ok(())
    }
}

fn range(what: &'static str, subject: &str) -> ReportError {
    ReportError::Range {
        what,
        subject: subject.to_owned(),
    }
}

fn limit(what: &'static str, len: usize, max: usize) -> Result<(), ReportError> {
    if len > max {
        return Err(ReportError::TooMany { what, len, max });
    }
    Ok(())
}

fn once<'a, T: Ord + std::fmt::Display + 'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a T>,
) -> Result<(), ReportError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ReportError::Twice {
                what,
                subject: name.to_string(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Report {
        let mut entry = ServiceReport::idle(ServiceName::new("shop/cart").unwrap());
        entry.entered = 120;
        Report {
            seq: 1,
            window_us: 1_000_000,
            clock_ms: 0,
            cpu_ratio: None,
            services: vec![entry],
            neighbours: Vec::new(),
        }
    }

    #[test]
    fn nonsense_is_named() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 8] = [
            ("window", |r| r.window_us = 0),
            ("window", |r| r.window_us = u64::MAX),
            ("cpu_ratio", |r| r.cpu_ratio = Some(f64::NAN)),
            ("entered", |r| r.services[0].entered = u64::MAX),
            ("orca_capacity_rps", |r| {
                r.services[0].orca_capacity_rps = Some(-1.0);
            }),
            ("latency", |r| r.services[0].latency_sum_us = u64::MAX),
            ("twice", |r| {
                let again = r.services[0].clone();
                r.services.push(again);
            }),
            ("at most", |r| {
                r.services = (0..=REPORT_SERVICES_MAX)
                    .map(|i| ServiceReport::idle(ServiceName::new(&format!("n/s{i}")).unwrap()))
                    .collect();
            }),
        ];
        assert_eq!(sound().check(), Ok(()));
        for (what, spoil) in cases {
            let mut report = sound();
            spoil(&mut report);
            let error = report.check().unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn negative_counts_do_not_decode() {
        let line = r#"{"seq":1,"window_us":1000000,"clock_ms":0,"services":[{"service":"a/b","entered":-3}]}"#;
        assert!(serde_json::from_str::<Report>(line).is_err());
    }
}
