//! Looks after endpoints, once a second, and when one gives many errors in a row.
//!
//! What requests cannot do by themselves: remember what went through until
//! now, so that a circuit and a budget have a window to look back over; let
//! waiting requests in when a circuit's time is over; and compare endpoints
//! with their siblings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use isobar_mesh_api::names::ServiceName;
use tokio::time::MissedTickBehavior;

use crate::circuit::State;
use crate::endpoint::Through;
use crate::outlier::{self, Found, Seen};
use crate::proxy::Proxy;
use crate::routes::ServiceRoute;

/// How often. A circuit's window is at least as long, and so is the time between two comparisons.
const EVERY: Duration = Duration::from_secs(1);
/// A comparison that is due this soon is made now, in microseconds: rounds are not exactly [`EVERY`] apart.
const SOON_US: u64 = 500_000;

/// Runs until it is dropped.
pub async fn run(proxy: Arc<Proxy>) {
    let mut rounds = tokio::time::interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut judge = Judge::default();
    loop {
        let suspected = tokio::select! {
            _ = rounds.tick() => false,
            () = proxy.table.suspected() => true,
        };
        let now_us = proxy.clock.now_us();
        let routes = Arc::clone(&proxy.table.load());
        if suspected {
            routes.services.iter().for_each(|r| suspect(r, now_us));
            continue;
        }
        for endpoint in proxy.table.endpoints() {
            endpoint.circuit.mark(now_us);
        }
        judge.round(&routes.services, now_us);
        for live in proxy.table.services() {
            live.mark_retries(now_us);
            if live.gate.waiting() > 0 {
                live.gate.let_in();
            }
        }
    }
}

/// Leaves endpoints alone that gave too many errors in a row.
fn suspect(route: &ServiceRoute, now_us: u64) {
    let seen: Vec<Seen> = see(route, now_us, |_| Through::default());
    if seen.iter().any(|s| s.is_suspect && !s.is_out) {
        leave_alone(
            route,
            &outlier::suspects(&seen, &route.traffic.outlier),
            now_us,
        );
    }
}

/// What went through each endpoint since it was `before`.
fn see(route: &ServiceRoute, now_us: u64, before: impl Fn(&str) -> Through) -> Vec<Seen> {
    let endpoints = route.endpoints.iter();
    let seen = endpoints.map(|endpoint| {
        let (now, before) = (endpoint.circuit.through(), before(endpoint.address()));
        let view = endpoint.circuit.view(now_us);
        Seen {
            ended: now.tally.ended - before.tally.ended,
            errors: now.errors - before.errors,
            completed: now.completed - before.completed,
            latency_sum_us: now.latency_sum_us - before.latency_sum_us,
            is_suspect: view.is_suspect,
            is_out: view.state != State::Closed,
        }
    });
    seen.collect()
}

fn leave_alone(route: &ServiceRoute, found: &Found, now_us: u64) {
    let spared = &route.live.outliers_spared;
    spared.fetch_add(found.spared as u64, Relaxed);
    for &place in &found.out {
        let endpoint = &route.endpoints[place];
        endpoint.circuit.eject(&route.traffic.outlier, now_us);
        tracing::info!(
            service = %route.live.service, endpoint = endpoint.address(),
            "an endpoint is much worse than its siblings and is left alone"
        );
    }
}

/// Compares endpoints with their siblings, each service at its own interval.
#[derive(Debug, Default)]
struct Judge {
    rounds: BTreeMap<ServiceName, Round>,
}

/// Where a service's interval began.
#[derive(Debug)]
struct Round {
    since_us: u64,
    through: BTreeMap<String, Through>,
}

impl Round {
    fn new(route: &ServiceRoute, now_us: u64) -> Round {
        let endpoints = route.endpoints.iter();
        let through = endpoints.map(|e| (e.address().to_owned(), e.circuit.through()));
        Round {
            since_us: now_us,
            through: through.collect(),
        }
    }
}

impl Judge {
    fn round(&mut self, services: &[Arc<ServiceRoute>], now_us: u64) {
        let judged = |route: &&Arc<ServiceRoute>| {
            route.endpoints.len() > 1 && route.traffic.outlier.interval_us < u64::MAX
        };
        let mut rounds = std::mem::take(&mut self.rounds);
        for route in services.iter().filter(judged) {
            let name = &route.live.service;
            let round = match rounds.remove(name) {
                Some(round) if !is_over(&round, route, now_us) => round,
                Some(round) => {
                    // An endpoint that is new since then began at nothing.
                    let before = |address: &str| round.through.get(address).copied();
                    let seen = see(route, now_us, |a| before(a).unwrap_or_default());
                    let found = outlier::outliers(&seen, &route.traffic.outlier);
                    leave_alone(route, &found, now_us);
                    Round::new(route, now_us)
                }
                None => Round::new(route, now_us),
            };
            self.rounds.insert(name.clone(), round);
        }
    }
}

fn is_over(round: &Round, route: &ServiceRoute, now_us: u64) -> bool {
    let since_us = now_us.saturating_sub(round.since_us);
    since_us.saturating_add(SOON_US) >= route.traffic.outlier.interval_us
}
