//! Counters become a report.
//!
//! Counters only rise; the book remembers what the controller was told last
//! and drafts the difference. A draft counts as told only when it was sent
//! ([`ReportBook::sent`]); until then the next draft covers its window too, so
//! nothing is lost while the controller is away for a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::{
    MovedIn, MovedOut, NeighbourReport, PlainCalls, REPORT_PLAIN_MAX, REPORT_SERVICES_MAX,
    REPORT_WINDOW_US, RateDemand, Report, ServiceReport,
};

use crate::live::{ServiceLive, Totals};
use crate::routes::Routes;

/// What the controller was told.
#[derive(Debug, Default)]
pub struct ReportBook {
    seq: u64,
    since_us: u64,
    told: Told,
    /// Shortest times of windows that were not told yet, in microseconds.
    latency_min_us: BTreeMap<ServiceName, u64>,
}

type Told = BTreeMap<ServiceName, ToldService>;

#[derive(Debug, Clone, Default)]
struct ToldService {
    totals: Totals,
    /// Plan, spill, refused.
    moved_out: BTreeMap<NodeId, [u64; 3]>,
    /// Accepted, refused.
    moved_in: BTreeMap<NodeId, [u64; 2]>,
    /// Asked, by limit.
    rates: BTreeMap<String, u64>,
    /// Calls in plain text, by caller.
    plain: BTreeMap<String, u64>,
}

/// A report that was not sent yet.
#[derive(Debug)]
pub struct Draft {
    /// What to send.
    pub report: Report,
    until_us: u64,
    told: Told,
}

impl ReportBook {
    /// The report of all that happened since the last one that was sent, as of `now_us`.
    ///
    /// `None` while the window is shorter than a report may cover. When it is longer than one may
    /// cover, that time is left out: demand of a minute ago plans nothing.
    pub fn draft(
        &mut self,
        services: &[Arc<ServiceLive>],
        routes: &Routes,
        now_us: u64,
        clock_ms: u64,
        cpu_ratio: Option<f64>,
    ) -> Option<Draft> {
        let window_us = now_us.saturating_sub(self.since_us);
        if window_us < *REPORT_WINDOW_US.start() {
            return None;
        }
        let mut draft = Draft {
            report: Report {
                seq: self.seq,
                window_us,
                clock_ms,
                cpu_ratio,
                services: Vec::new(),
                neighbours: neighbours(routes),
            },
            until_us: now_us,
            told: BTreeMap::new(),
        };
        for live in services {
            let (mut entry, told) = self.service(live, window_us, now_us);
            draft.told.insert(live.service.clone(), told);
            let route = routes.by_name(&live.service);
            entry.workers_up = route.and_then(|route| route.workers_up());
            let learns = route.filter(|route| route.traffic.spec.concurrency.adaptive);
            entry.concurrency = learns.map(|route| route.places());
            let routed = route.is_some();
            let busy = entry != ServiceReport::idle(live.service.clone());
            if (routed || busy) && draft.report.services.len() < REPORT_SERVICES_MAX {
                draft.report.services.push(entry);
            }
        }
        if window_us > *REPORT_WINDOW_US.end() {
            self.sent(draft);
            return None;
        }
        Some(draft)
    }

    /// Time since the last report's end, as of `now_us`.
    pub fn window(&self, now_us: u64) -> Duration {
        Duration::from_micros(now_us.saturating_sub(self.since_us))
    }

    /// The draft was sent: the next report begins where it ends.
    pub fn sent(&mut self, draft: Draft) {
        self.seq += 1;
        self.since_us = draft.until_us;
        self.told = draft.told;
        self.latency_min_us.clear();
    }

    fn service(
        &mut self,
        live: &ServiceLive,
        window_us: u64,
        now_us: u64,
    ) -> (ServiceReport, ToldService) {
        let unknown = ToldService::default();
        let before = self.told.get(&live.service).unwrap_or(&unknown);
        let totals = live.totals(now_us);
        let mut told = ToldService {
            totals,
            ..ToldService::default()
        };
        let base = &before.totals;
        let mut entry = ServiceReport::idle(live.service.clone());
        entry.entered = totals.entered - base.entered;
        entry.served_home = totals.served_home - base.served_home;
        entry.shed = totals.shed - base.shed;
        entry.failed = totals.failed - base.failed;
        entry.completed = totals.completed - base.completed;
        entry.latency_sum_us = totals.latency_sum_us - base.latency_sum_us;
        // Workers are read one after another, so a nearly idle window may come out below zero.
        let busy_us = (totals.busy_us.wrapping_sub(base.busy_us) as i64).max(0) as u64;
        entry.in_flight_mean_milli = busy_us.saturating_mul(1000) / window_us;
        let (active, waiting) = (live.gate.active(), live.gate.waiting());
        entry.in_flight = u64::from(active) + u64::from(waiting);
        entry.backlog = u64::from(waiting);
        for (to, counts) in live.moved_out_all() {
            let now = [&counts.plan, &counts.spill, &counts.refused].map(read);
            let was = before.moved_out.get(&to).copied().unwrap_or_default();
            if now != was {
                entry.moved_out.push(MovedOut {
                    to: to.clone(),
                    plan: now[0] - was[0],
                    spill: now[1] - was[1],
                    refused: now[2] - was[2],
                });
            }
            told.moved_out.insert(to, now);
        }
        for (home, counts) in live.moved_in_all() {
            let now = [&counts.accepted, &counts.refused].map(read);
            let was = before.moved_in.get(&home).copied().unwrap_or_default();
            if now != was {
                entry.moved_in.push(MovedIn {
                    home: home.clone(),
                    accepted: now[0] - was[0],
                    refused: now[1] - was[1],
                });
            }
            told.moved_in.insert(home, now);
        }
        for (limit, rate) in live.rates() {
            let asked = read(&rate.passed) + read(&rate.refused);
            let was = before.rates.get(&limit).copied().unwrap_or_default();
            if read(&rate.share_ppm) > 0 {
                entry.rates.push(RateDemand {
                    limit: limit.clone(),
                    asked: asked.saturating_sub(was),
                });
            }
            told.rates.insert(limit, asked);
        }
        let totals = live.plain.all();
        entry.plain = plain_since(&totals, &before.plain);
        let totals = totals.into_iter();
        told.plain = totals.map(|all| (all.caller, all.calls)).collect();
        entry.latency_min_us = self.latency_min_us(live);
        (entry, told)
    }

    /// The shortest time since the last report that was sent; 0 when nothing completed.
    fn latency_min_us(&mut self, live: &ServiceLive) -> u64 {
        let taken = live.take_latency_min_us();
        let kept = self.latency_min_us.get(&live.service).copied();
        let Some(min_us) = taken.into_iter().chain(kept).min() else {
            return 0;
        };
        self.latency_min_us.insert(live.service.clone(), min_us);
        min_us
    }
}

/// Who called in plain text since.
fn plain_since(totals: &[PlainCalls], before: &BTreeMap<String, u64>) -> Vec<PlainCalls> {
    let since = totals
        .iter()
        .map(|PlainCalls { caller, calls }| PlainCalls {
            caller: caller.clone(),
            calls: calls.saturating_sub(before.get(caller).copied().unwrap_or_default()),
        });
    let since = since.filter(|since| since.calls > 0);
    since.take(REPORT_PLAIN_MAX).collect()
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

fn neighbours(routes: &Routes) -> Vec<NeighbourReport> {
    let measured = routes.neighbours.iter().filter(|n| n.rtt_us() > 0);
    measured
        .map(|n| NeighbourReport {
            node: n.node.clone(),
            rtt_us: u64::from(n.rtt_us()),
        })
        .collect()
}

/// The busy share of the node's processors, from the kernel's own counters.
#[derive(Debug, Default)]
pub struct CpuMeter {
    busy: u64,
    all: u64,
}

impl CpuMeter {
    /// The share since the last call, 0 to 1; `None` at the first and where it is not known.
    pub fn ratio(&mut self) -> Option<f64> {
        self.ratio_of(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// From the content of `/proc/stat` (proc(5)): its first line is
    /// `cpu user nice system idle iowait irq softirq steal …`.
    fn ratio_of(&mut self, stat: &str) -> Option<f64> {
        let ticks: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .filter_map(|n| n.parse().ok())
            .collect();
        if ticks.len() < 5 {
            return None;
        }
        let all: u64 = ticks.iter().sum();
        let busy = all - ticks[3] - ticks[4];
        let first = self.all == 0;
        let all_new = all.saturating_sub(self.all);
        let busy_new = busy.saturating_sub(self.busy);
        (self.all, self.busy) = (all, busy);
        if first || all_new == 0 {
            return None;
        }
        Some((busy_new as f64 / all_new as f64).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests;
